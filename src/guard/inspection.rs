//! One pass over a text: each token goes to the survey, to the rules of the level, and on. Nothing is read twice but
//! for what a rule looks at ahead, which is a few tokens, or up to the end of the command where it begins.

use super::argument::{JudgedSetting, binds_values_only, bound_value};
use super::assignment::RemainingValues;
use super::footprint::{Footprint, footprint_until};
use super::rule::refusal;
use super::weight::{MIN_WEIGHED_BYTES, Weight};
use super::{Refusal, Rules, Verdict, names, rule, setting, strict};
use crate::directory::GuardLevel;
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, Token, TokenKind, content};
use crate::sql::statement::{Surveyor, TokenPosition};
use crate::sql::words::folded;
use crate::sql::{Count, SessionEffect, StatementKind, Survey};

/// Texts that are longer take so long to read, from a millisecond on, that a worker of the runtime would keep others
/// waiting: to be read by [`read_until`] where blocking is allowed.
pub const LONG_TEXT_BYTES: usize = 64 * 1024;
/// How many bytes are read between two questions whether to stop.
const POLL_BYTES: usize = 64 * 1024;

/// The reading was told to stop before it had come to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// What reading a text finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// What the guard says.
    pub verdict: Verdict,
    /// What a text that passes may leave in its session.
    pub footprint: Footprint,
}

/// Reads a text once; total on any bytes.
///
/// The code of DO blocks and of functions written as a literal is read as well, one level deep and as far as it
/// looks like SQL or PL/pgSQL: help against accidents, no boundary, since code can compute what it executes.
pub fn inspect(text: &[u8], rules: &Rules) -> Verdict {
    let stopped = |Stopped| Verdict::Refuse(refusal(rule::UNREADABLE, "a text that was not read to its end"));
    Inspection::new(text, rules, &|| false).run().unwrap_or_else(stopped)
}

/// The same, but for the SETs, RESETs and calls of `set_config` that begin at these places, which were read already.
pub(super) fn inspect_but(text: &[u8], rules: &Rules, places: &[usize]) -> Verdict {
    let stopped = |Stopped| Verdict::Refuse(refusal(rule::UNREADABLE, "a text that was not read to its end"));
    let mut inspection = Inspection::new(text, rules, &|| false);
    inspection.places = places;
    inspection.run().unwrap_or_else(stopped)
}

/// Reads a text until it ends or `stop` says so, which is asked every 64 KiB: for texts over [`LONG_TEXT_BYTES`], on a
/// thread that may block, with a `stop` that sees that the client has left.
///
/// Between two questions it reads at most three times the text up to the end of a command, and 64 KiB.
pub fn read_until(text: &[u8], rules: &Rules, stop: &dyn Fn() -> bool) -> Result<Findings, Stopped> {
    let verdict = Inspection::new(text, rules, stop).run()?;
    let footprint = match &verdict {
        Verdict::Pass(survey) if survey.session_effect == SessionEffect::Maybe => {
            footprint_until(text, stop)?
        }
        Verdict::Pass(_) | Verdict::Tenant(..) | Verdict::Refuse(_) => Footprint::default(),
    };
    Ok(Findings { verdict, footprint })
}

/// Asks every so many bytes whether to stop.
pub(super) struct Poll<'a> {
    stop: &'a dyn Fn() -> bool,
    next: usize,
}

// === impl Poll ===

impl<'a> Poll<'a> {
    pub(super) fn new(stop: &'a dyn Fn() -> bool) -> Self {
        Self { stop, next: POLL_BYTES }
    }

    /// So many bytes of the text have been read.
    #[inline]
    pub(super) fn at(&mut self, position: usize) -> Result<(), Stopped> {
        if position < self.next { Ok(()) } else { self.ask(position) }
    }

    #[cold]
    fn ask(&mut self, position: usize) -> Result<(), Stopped> {
        self.next = position.saturating_add(POLL_BYTES);
        if (self.stop)() { Err(Stopped) } else { Ok(()) }
    }
}

/// Why a pass ends before the text does.
enum Halt {
    Refused(Refusal),
    Stopped,
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Stopped> for Halt {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

/// A pass over a text.
struct Inspection<'a> {
    text: &'a [u8],
    rules: &'a Rules,
    weight: Weight,
    is_weighed: bool,
    watch: RemainingValues,
    stop: &'a dyn Fn() -> bool,
    /// Where changes of the tenant begin that are not refused.
    places: &'a [usize],
    /// What the last call of `set_config` sets that takes a value from a parameter which is judged when it is bound.
    bound: Option<JudgedSetting>,
}

/// A token on its way through the guard.
struct Step<'a> {
    token: &'a Token<'a>,
    keyword: Keyword,
    place: TokenPosition,
    /// Where the token before begins, or what stands in front of it.
    previous: usize,
    /// Where the token before ends.
    behind: usize,
    /// Behind the token.
    lexer: &'a Lexer<'a>,
}

// === impl Inspection ===

#[expect(
    clippy::inline_always,
    reason = "each is called at one place, and measured: a fifth of a short text's time"
)]
impl<'a> Inspection<'a> {
    fn new(text: &'a [u8], rules: &'a Rules, stop: &'a dyn Fn() -> bool) -> Self {
        let weight = Weight::new(text.len());
        let is_weighed = text.len() >= MIN_WEIGHED_BYTES;
        Self {
            text,
            rules,
            weight,
            is_weighed,
            watch: RemainingValues::Nothing,
            stop,
            places: &[],
            bound: None,
        }
    }

    #[inline(always)]
    fn run(mut self) -> Result<Verdict, Stopped> {
        let survey = match self.pass() {
            Ok(survey) => survey,
            Err(Halt::Stopped) => return Err(Stopped),
            Err(Halt::Refused(refused)) => return Ok(self.refuse(refused)),
        };
        // To the guard that is off a change of the tenant is the proxy's own matter as well.
        if self.rules.level == GuardLevel::Off
            && survey.statements == Count::One
            && (survey.session_effect == SessionEffect::Maybe || self.rules.may_call_chooser(self.text))
            && let Some(change) = self.rules.read_change(self.text)
        {
            return Ok(Verdict::Tenant(survey, change));
        }
        Ok(Verdict::Pass(survey))
    }

    #[inline(always)]
    fn pass(&mut self) -> Result<Survey, Halt> {
        let is_guarded = self.rules.level != GuardLevel::Off;
        let (mut surveyor, mut poll) = (Surveyor::default(), Poll::new(self.stop));
        let mut lexer = Lexer::new(self.text);
        let (mut previous, mut behind) = (0, 0);
        loop {
            // Looked at where it lies: to copy each token costs as much as to read it.
            let next = lexer.next();
            let Some(token) = &next else { break };
            let (keyword, place) = surveyor.feed(token);
            if is_guarded {
                self.check(&Step { token, keyword, place, previous, behind, lexer: &lexer }, &surveyor)?;
            }
            (previous, behind) = (behind, lexer.position());
            poll.at(behind)?;
        }
        if is_guarded {
            self.weight.check_rereads(lexer.reread_bytes())?;
        }
        let survey = surveyor.finish();
        // Of any other statement the value comes from elsewhere than from a Bind.
        if let Some(setting) = self.bound
            && ((survey.statements, survey.first) != (Count::One, StatementKind::Select)
                || !binds_values_only(self.text))
        {
            return Err(unbound(setting).into());
        }
        Ok(survey)
    }

    /// Refused, unless the whole of it is a change of the tenant.
    fn refuse(&self, refused: Refusal) -> Verdict {
        let change =
            (refused.rule == rule::CONTEXT_CHANGE).then(|| self.rules.read_change(self.text)).flatten();
        match change {
            Some(change) => Verdict::Tenant(crate::sql::survey(self.text), change),
            None => Verdict::Refuse(refused),
        }
    }

    #[inline(always)]
    fn check(&mut self, step: &Step<'_>, surveyor: &Surveyor) -> Result<(), Halt> {
        if self.rules.is_strict() {
            self.check_strictly(step, surveyor)?;
        }
        if self.is_weighed {
            self.weigh(step)?;
        }
        match step.keyword {
            Keyword::Other => self.check_token(step, surveyor),
            Keyword::Set | Keyword::Reset | Keyword::SetConfig if self.places.contains(&step.token.start) => {
                Ok(())
            }
            Keyword::Set | Keyword::Reset
                if step.place == TokenPosition::Start || surveyor.takes_set_clause() =>
            {
                let read = (step.keyword, step.place);
                self.watch_for(self.rules.check_set(read, step.lexer.clone())?);
                Ok(())
            }
            Keyword::SetConfig => {
                self.watch_for(self.rules.check_set_config(step.lexer.clone())?);
                self.bound = bound_value(step.lexer.clone()).map(|value| value.setting).or(self.bound);
                Ok(())
            }
            // An UPDATE of a view of that view is one of the view itself.
            Keyword::PgSettings if surveyor.creates() => {
                Err(refusal(rule::OPAQUE_NAME, "an object made of pg_settings").into())
            }
            keyword => {
                self.watch_for(self.rules.check_anywhere(keyword, step.lexer)?);
                Ok(())
            }
        }
    }

    /// Apart from the rest, so that short texts do not pay for it.
    #[inline(never)]
    fn weigh(&mut self, step: &Step<'_>) -> Result<(), Refusal> {
        self.weight.feed((step.token, step.keyword), step.behind, step.lexer.rest())
    }

    fn watch_for(&mut self, watch: RemainingValues) {
        if watch != RemainingValues::Nothing {
            self.watch = watch;
        }
    }

    #[inline(always)]
    fn check_strictly(&self, step: &Step<'_>, surveyor: &Surveyor) -> Result<(), Refusal> {
        if step.place == TokenPosition::Start
            && let Err(objection) = strict::check_start(step.token, step.keyword, step.lexer)
        {
            self.rules.object(objection)?;
        }
        match (step.token.kind, step.keyword) {
            (TokenKind::Unknown, _) => Err(refusal(rule::UNREADABLE, "a byte that SQL has no use for")),
            (TokenKind::Unterminated, _) => {
                Err(refusal(rule::UNREADABLE, "a quote or comment without an end"))
            }
            (_, Keyword::Into | Keyword::Create | Keyword::Rename) => self.check_new_name(step, surveyor),
            (_, Keyword::Other | Keyword::Lingering) => self.rules.check_denied(step.token),
            _ => Ok(()),
        }
    }

    /// INTO as a clause of SELECT, CREATE, and RENAME as a clause of ALTER: the name of an object is near.
    fn check_new_name(&self, step: &Step<'_>, surveyor: &Surveyor) -> Result<(), Refusal> {
        let checked = match step.keyword {
            Keyword::Into => {
                let previous = Lexer::at(self.text, step.previous).next();
                strict::check_into(previous.as_ref(), step.lexer, self.rules)
            }
            Keyword::Create => strict::check_created_name(step.lexer.clone()),
            _ if surveyor.alters() => strict::check_renamed(step.lexer.clone()),
            _ => Ok(()),
        };
        checked.or_else(|objection| self.rules.object(objection))
    }

    #[inline(always)]
    fn check_token(&mut self, step: &Step<'_>, surveyor: &Surveyor) -> Result<(), Halt> {
        if self.watch == RemainingValues::Schemas {
            self.watch_schemas(step.token)?;
        }
        match step.token.kind {
            TokenKind::Word | TokenKind::QuotedWord => {
                check_own(step.token, step.lexer)?;
                Ok(self.rules.check_chooser(step.token)?)
            }
            TokenKind::UnicodeWord => Err(unicode_escape().into()),
            TokenKind::Text | TokenKind::EscapeText | TokenKind::DollarText if surveyor.holds_code() => {
                self.rules.check_code(&content(step.token), &mut Poll::new(self.stop))
            }
            _ => Ok(()),
        }
    }

    fn watch_schemas(&mut self, token: &Token<'_>) -> Result<(), Refusal> {
        match token.kind {
            TokenKind::Semicolon => {
                self.watch = RemainingValues::Nothing;
                Ok(())
            }
            _ => check_schema(token),
        }
    }
}

// === impl Rules ===

impl Rules {
    /// A name of those by which a statement reaches beyond its tenant.
    #[inline]
    fn check_denied(&self, token: &Token<'_>) -> Result<(), Refusal> {
        match denied(token) {
            Some((rule, name)) => self.object((rule, name.to_owned())),
            None => Ok(()),
        }
    }

    /// The code of a DO block or function. A command starts at its beginning, behind `;` and behind the words
    /// of PL/pgSQL that open a block.
    fn check_code(&self, code: &[u8], poll: &mut Poll<'_>) -> Result<(), Halt> {
        let weight = Weight::new(code.len());
        let mut lexer = Lexer::new(code);
        let (mut place, mut watch) = (TokenPosition::Start, RemainingValues::Nothing);
        while let Some(token) = lexer.next() {
            let keyword = match token.kind {
                TokenKind::Word => Keyword::of(token.bytes),
                TokenKind::QuotedWord => Keyword::of_name(&content(&token)),
                TokenKind::UnicodeWord => return Err(unicode_escape().into()),
                _ => Keyword::Other,
            };
            if self.is_strict() {
                self.check_denied(&token)?;
            }
            if watch == RemainingValues::Schemas {
                check_schema(&token)?;
            }
            let found = match keyword {
                Keyword::Set | Keyword::Reset if place == TokenPosition::Start => {
                    self.check_set((keyword, place), lexer.clone())?
                }
                Keyword::SetConfig => {
                    let found = self.check_set_config(lexer.clone())?;
                    match bound_value(lexer.clone()) {
                        Some(value) => return Err(unbound(value.setting).into()),
                        None => found,
                    }
                }
                Keyword::Other => {
                    check_own(&token, &lexer)?;
                    self.check_chooser(&token).map(|()| RemainingValues::Nothing)?
                }
                _ => self.check_anywhere(keyword, &lexer)?,
            };
            watch = match (token.kind, found) {
                (TokenKind::Semicolon, _) => RemainingValues::Nothing,
                (_, RemainingValues::Nothing) => watch,
                (_, RemainingValues::Schemas) => found,
            };
            place = place_behind(&token, keyword);
            poll.at(lexer.position())?;
        }
        Ok(weight.check_rereads(lexer.reread_bytes())?)
    }

    /// What is judged wherever it stands. The lexer is behind the keyword.
    fn check_anywhere(&self, keyword: Keyword, lexer: &Lexer<'_>) -> Result<RemainingValues, Refusal> {
        match keyword {
            Keyword::SetConfig => self.check_set_config(lexer.clone()),
            // PostgreSQL has a rule on this view that calls set_config.
            Keyword::Update if setting::is_settings_view(lexer) => {
                Err(refusal(rule::OPAQUE_NAME, "UPDATE pg_settings"))
            }
            _ => Ok(RemainingValues::Nothing),
        }
    }
}

/// Where in PL/pgSQL the token behind this one stands.
fn place_behind(token: &Token<'_>, keyword: Keyword) -> TokenPosition {
    match (token.kind, keyword) {
        (TokenKind::Semicolon, _) | (_, Keyword::Begin | Keyword::Then | Keyword::Else | Keyword::Loop) => {
            TokenPosition::Start
        }
        (TokenKind::Operator, _) if token.bytes == b">>" => TokenPosition::Start,
        _ => TokenPosition::Within,
    }
}

/// Refuses a value of `search_path` that names a schema of the proxy's own.
fn check_schema(token: &Token<'_>) -> Result<(), Refusal> {
    if setting::names_own_schema(token) { Err(own_objects()) } else { Ok(()) }
}

/// Refuses what is in the proxy's own schema or has a name of its own kind, but for the one function that a
/// client may call.
#[inline]
fn check_own(token: &Token<'_>, lexer: &Lexer<'_>) -> Result<(), Refusal> {
    match spelling(token) {
        [b'p' | b'P', b'g' | b'G', b't' | b'T', rest @ ..] if is_own(rest) => {
            check_own_use(rest, lexer.clone())
        }
        _ => Ok(()),
    }
}

fn is_own(rest: &[u8]) -> bool {
    let (name, behind) = rest.split_at_checked(5).unwrap_or((rest, b""));
    name.eq_ignore_ascii_case(b"enant") && matches!(behind, [] | [b'_', ..])
}

fn check_own_use(rest: &[u8], mut lexer: Lexer<'_>) -> Result<(), Refusal> {
    let dot = lexer.next().is_some_and(|token| token.kind == TokenKind::Dot);
    let function = lexer.next();
    let may = rest.len() == 5
        && dot
        && function.is_some_and(|token| spelling(&token).eq_ignore_ascii_case(b"current_tenant"));
    if may { Ok(()) } else { Err(own_objects()) }
}

/// An identifier without its quotes; a doubled quote inside stays, which no name that is looked for has.
#[inline]
fn spelling<'a>(token: &Token<'a>) -> &'a [u8] {
    match token.kind {
        TokenKind::Word => token.bytes,
        TokenKind::QuotedWord => token.bytes.get(1..token.bytes.len().saturating_sub(1)).unwrap_or_default(),
        _ => &[],
    }
}

#[inline]
fn denied(token: &Token<'_>) -> Option<(&'static str, &'static str)> {
    match token.kind {
        TokenKind::Word if !token.bytes.is_ascii() => names::denied(&folded(token.bytes)),
        TokenKind::Word | TokenKind::QuotedWord => names::denied(spelling(token)),
        _ => None,
    }
}

pub(super) fn own_objects() -> Refusal {
    refusal(rule::OWN_OBJECTS, "the use of an object of the proxy's own")
}

/// A parameter whose value comes from elsewhere than from a Bind, or that may have another type than text.
fn unbound(setting: JudgedSetting) -> Refusal {
    let (rule, name) = match setting {
        JudgedSetting::Role => (rule::ROLE_CHANGE, "role"),
        JudgedSetting::SearchPath => (rule::OWN_OBJECTS, "search_path"),
    };
    let what = "to a parameter that has another use, or of another statement than one SELECT";
    refusal(rule, &format!("set_config of {name} {what}"))
}

fn unicode_escape() -> Refusal {
    refusal(rule::UNICODE_ESCAPE, "an identifier written as U&\"...\"")
}
