//! Reads which setting a command names, and to what it sets it, as `PostgreSQL` would; and knows which values
//! leave the guard able to read. Decides nothing.

use super::rule::echo;
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, Token, TokenKind, content};
use crate::sql::words::folded;

/// `PostgreSQL` cuts identifiers after so many bytes.
const MAX_IDENTIFIER_BYTES: usize = 63;

/// A setting's name, in lower case: settings do not tell capitals apart, not even in quotes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting(Vec<u8>);

/// Settings that are kept from tenants together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// By which `PostgreSQL` prints plans, row estimates or what the executor did.
    Plans,
    /// By which plans come out otherwise. `jit` itself is not among them: drivers switch it off and on again.
    Planner,
    /// All others.
    Other,
}

/// To what a setting is set.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AssignedValue {
    /// DEFAULT, or nothing where that means the default. The proxy pins the defaults at connect.
    Default,
    /// A value in sight.
    Given(Vec<u8>),
    /// A value that cannot be told from the text.
    Opaque,
}

/// The cleaned names of the encodings whose multibyte characters hold no byte below 0x80.
const SAFE_ENCODINGS: &[&str] = &[
    "utf8",
    "unicode",
    "sqlascii",
    "latin1",
    "latin2",
    "latin3",
    "latin4",
    "latin5",
    "latin6",
    "latin7",
    "latin8",
    "latin9",
    "latin10",
    "iso88591",
    "iso88592",
    "iso88593",
    "iso88594",
    "iso88595",
    "iso88596",
    "iso88597",
    "iso88598",
    "iso88599",
    "iso885910",
    "iso885913",
    "iso885914",
    "iso885915",
    "iso885916",
    "win",
    "win866",
    "win874",
    "win1250",
    "win1251",
    "win1252",
    "win1253",
    "win1254",
    "win1255",
    "win1256",
    "win1257",
    "win1258",
    "windows866",
    "windows874",
    "windows1250",
    "windows1251",
    "windows1252",
    "windows1253",
    "windows1254",
    "windows1255",
    "windows1256",
    "windows1257",
    "windows1258",
    "koi8",
    "koi8r",
    "koi8u",
    "euccn",
    "eucjp",
    "eucjis2004",
    "euckr",
    "euctw",
];

const PLAN_PREFIXES: &[&str] = &["auto_explain.", "debug_print_"];

const PLAN_SETTINGS: &[&str] = &[
    "debug_pretty_print",
    "log_executor_stats",
    "log_parser_stats",
    "log_planner_stats",
    "log_statement_stats",
    "trace_notify",
    "trace_sort",
    "trace_syncscan",
];

const PLANNER_PREFIXES: &[&str] = &["enable_", "geqo", "jit_"];

const PLANNER_SETTINGS: &[&str] = &[
    "constraint_exclusion",
    "cursor_tuple_fraction",
    "debug_parallel_query",
    "effective_cache_size",
    "force_parallel_mode",
    "min_parallel_index_scan_size",
    "min_parallel_table_scan_size",
    "parallel_leader_participation",
    "plan_cache_mode",
    "recursive_worktable_factor",
];

// === impl Setting ===

impl Setting {
    /// Takes a name as `set_config` gets it.
    pub(super) fn named(name: &[u8]) -> Self {
        Self(name.to_ascii_lowercase())
    }

    /// Reads the name behind SET or RESET; nothing if no name stands there.
    pub(super) fn read(lexer: &mut Lexer<'_>) -> Option<Self> {
        let mut first = lexer.next()?;
        // SET SESSION SESSION AUTHORIZATION is right; and `session` and `local` may be a name's first part.
        for _ in 0..2 {
            let mut ahead = lexer.clone();
            let Some(second) = ahead.next().filter(is_name) else { break };
            match (keyword(&first), keyword(&second)) {
                (Keyword::Session, Keyword::Authorization) => {
                    *lexer = ahead;
                    return Some(Self::named(b"session_authorization"));
                }
                (Keyword::Session | Keyword::Local, other) if other != Keyword::To => first = second,
                _ => break,
            }
            *lexer = ahead;
        }
        Self::read_parts(&first, lexer)
    }

    /// Reads a name, dots and all.
    pub(super) fn read_name(lexer: &mut Lexer<'_>) -> Option<Self> {
        let first = lexer.next()?;
        Self::read_parts(&first, lexer)
    }

    fn read_parts(first: &Token<'_>, lexer: &mut Lexer<'_>) -> Option<Self> {
        let mut name = part(first)?;
        loop {
            let mut ahead = lexer.clone();
            let dot = ahead.next().filter(|token| token.kind == TokenKind::Dot);
            let Some(next) = dot.and_then(|_| ahead.next()).as_ref().and_then(part) else { break };
            name.push(b'.');
            name.extend(next);
            *lexer = ahead;
        }
        Some(Self::named(&name))
    }

    /// The name, unless it is no text.
    pub(super) fn into_name(self) -> Option<String> {
        String::from_utf8(self.0).ok()
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.0 == name.as_bytes()
    }

    pub(super) fn starts_with(&self, prefix: &str) -> bool {
        self.0.starts_with(prefix.as_bytes())
    }

    /// Whether it says as whom the session runs.
    pub(super) fn is_of_role(&self) -> bool {
        self.is("role") || self.is("session_authorization")
    }

    /// Whether this setting of the role is set to what the login made it: SET SESSION AUTHORIZATION DEFAULT, SET ROLE
    /// NONE. The lexer is behind the name.
    pub(super) fn is_returned_to_login(&self, mut lexer: Lexer<'_>) -> bool {
        let mut value = lexer.next();
        if value.as_ref().is_some_and(|token| token.bytes == b"=" || keyword(token) == Keyword::To) {
            value = lexer.next();
        }
        value.filter(|token| token.kind == TokenKind::Word).is_some_and(|token| {
            keyword(&token) == Keyword::Default
                || (self.is("role") && token.bytes.eq_ignore_ascii_case(b"none"))
        })
    }

    /// Whether its values are schemas; `SET SCHEMA` is another spelling.
    pub(super) fn is_search_path(&self) -> bool {
        self.is("search_path") || self.is("schema")
    }

    /// Whether the guard's own reading of texts depends on it.
    pub(super) fn is_read_by_guard(&self) -> bool {
        self.is("client_encoding") || self.is("names") || self.is("standard_conforming_strings")
    }

    /// To which group it belongs.
    pub(super) fn group(&self) -> Group {
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| self.starts_with(prefix));
        let is = |names: &[&str]| names.iter().any(|name| self.is(name));
        if starts(PLAN_PREFIXES) || is(PLAN_SETTINGS) {
            Group::Plans
        } else if starts(PLANNER_PREFIXES)
            || self.0.ends_with(b"_collapse_limit")
            || (self.0.ends_with(b"_cost") && !self.0.contains(&b'.'))
            || is(PLANNER_SETTINGS)
        {
            Group::Planner
        } else {
            Group::Other
        }
    }

    /// The name for a message.
    pub(super) fn echo(&self) -> String {
        echo(&self.0)
    }
}

// === impl AssignedValue ===

impl AssignedValue {
    /// Reads `= value` or `TO value`.
    pub(super) fn read_assigned(lexer: &mut Lexer<'_>) -> Self {
        match lexer.next() {
            Some(token) if token.bytes == b"=" || keyword(&token) == Keyword::To => Self::read(lexer),
            _ => Self::Opaque,
        }
    }

    /// Reads a value; none at all is the default, as in `SET NAMES`.
    pub(super) fn read(lexer: &mut Lexer<'_>) -> Self {
        let Some(token) = lexer.next() else { return Self::Default };
        match token.kind {
            TokenKind::Semicolon => Self::Default,
            TokenKind::Word if keyword(&token) == Keyword::Default => Self::Default,
            TokenKind::Word | TokenKind::Number => Self::Given(token.bytes.to_vec()),
            TokenKind::QuotedWord => Self::Given(content(&token)),
            _ => plain_literal(&token).map_or(Self::Opaque, Self::Given),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        match self {
            Self::Default => true,
            Self::Given(value) => {
                ["on", "true", "yes", "1"].iter().any(|on| value.eq_ignore_ascii_case(on.as_bytes()))
            }
            Self::Opaque => false,
        }
    }

    /// Names of encodings are compared by their letters and digits only (`clean_encoding_name`).
    pub(super) fn is_safe_encoding(&self) -> bool {
        let Self::Given(value) = self else { return *self == Self::Default };
        let letters = value.iter().filter(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii());
        let cleaned: Vec<u8> = letters.map(u8::to_ascii_lowercase).collect();
        SAFE_ENCODINGS.iter().any(|safe| safe.as_bytes() == cleaned)
    }
}

/// What a literal says, if it is `'...'`, or `E'...'` without escapes.
pub(super) fn plain_literal(token: &Token<'_>) -> Option<Vec<u8>> {
    let plain = match token.kind {
        TokenKind::Text => token.bytes.first() == Some(&b'\''),
        TokenKind::EscapeText => !token.bytes.contains(&b'\\'),
        _ => false,
    };
    plain.then(|| content(token))
}

/// Whether a value names a schema of the proxy's own; unquoted and quoted names are seen wherever they stand, so this is
/// about literals.
pub(super) fn names_own_schema(value: &Token<'_>) -> bool {
    let text = content(value).to_ascii_lowercase();
    text.windows(OWN_SCHEMA.len()).any(|window| window == OWN_SCHEMA)
}

/// The schema that holds the proxy's own objects.
pub(super) const OWN_SCHEMA: &[u8] = b"pgtenant";

/// Whether the view `pg_settings` stands here, as the table of an UPDATE.
pub(super) fn is_settings_view(lexer: &Lexer<'_>) -> bool {
    let is_lead = |token: &Token<'_>| {
        matches!(token.kind, TokenKind::Open | TokenKind::Dot)
            || token.bytes.eq_ignore_ascii_case(b"only")
            || part(token).is_some_and(|name| name.eq_ignore_ascii_case(b"pg_catalog"))
    };
    let target = lexer.clone().find(|token| !is_lead(token));
    target.as_ref().and_then(part).is_some_and(|name| Keyword::of_name(&name) == Keyword::PgSettings)
}

fn is_name(token: &Token<'_>) -> bool {
    matches!(token.kind, TokenKind::Word | TokenKind::QuotedWord)
}

fn keyword(token: &Token<'_>) -> Keyword {
    match token.kind {
        TokenKind::Word => Keyword::of(token.bytes),
        _ => Keyword::Other,
    }
}

/// One part of a dotted name, cut where `PostgreSQL` cuts it.
pub(super) fn part(token: &Token<'_>) -> Option<Vec<u8>> {
    let mut name = match token.kind {
        TokenKind::Word => folded(token.bytes).into_owned(),
        TokenKind::QuotedWord => content(token),
        _ => return None,
    };
    name.truncate(MAX_IDENTIFIER_BYTES);
    Some(name)
}
