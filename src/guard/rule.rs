//! The rules by name, what each says to do instead, and which of them an operator may lift for a user. The same
//! names stand in docs/errors.md, in each refusal's DETAIL and in the metric's label.

use super::MAX_ECHO_BYTES;

pub(super) const ADVISORY_LOCK: &str = "advisory-lock";
pub(super) const CLIENT_ENCODING: &str = "client-encoding";
pub(super) const CONNECTION_CHECK: &str = "connection-check";
/// The rule against changes of the tenant.
pub const CONTEXT_CHANGE: &str = "context-change";
pub(super) const COSTLY_TEXT: &str = "costly-text";
pub(super) const EXPLAIN: &str = "explain";
pub(super) const LARGE_OBJECT: &str = "large-object";
pub(super) const LOCK_TABLE: &str = "lock-table";
pub(super) const NOTIFY: &str = "notify";
pub(super) const OPAQUE_CODE: &str = "opaque-code";
/// The rule against settings whose name cannot be read.
pub const OPAQUE_NAME: &str = "opaque-name";
pub(super) const OTHER_SESSION: &str = "other-session";
pub(super) const OWN_OBJECTS: &str = "own-objects";
pub(super) const PLANNER: &str = "planner";
pub(super) const PREPARED_TRANSACTION: &str = "prepared-transaction";
pub(super) const ROLE_CHANGE: &str = "role-change";
pub(super) const ROLE_SETTING: &str = "role-setting";
pub(super) const SEQUENCE: &str = "sequence";
pub(super) const SERVER_CONTROL: &str = "server-control";
pub(super) const SERVER_FILE: &str = "server-file";
pub(super) const SQL_IN_STRING: &str = "sql-in-string";
pub(super) const STATEMENT_KIND: &str = "statement-kind";
pub(super) const STRING_SYNTAX: &str = "string-syntax";
pub(super) const TEMPORARY_TYPE_NAME: &str = "temporary-type-name";
pub(super) const TRUNCATE: &str = "truncate";
pub(super) const UNICODE_ESCAPE: &str = "unicode-escape";
pub(super) const UNKNOWN_STATEMENT: &str = "unknown-statement";
pub(super) const UNREADABLE: &str = "unreadable";

/// Rules that can be granted to a user (`allow`), because what they close does not reach the context itself.
pub const GRANTABLE: &[&str] = &[
    ADVISORY_LOCK,
    EXPLAIN,
    LARGE_OBJECT,
    LOCK_TABLE,
    NOTIFY,
    OPAQUE_CODE,
    OTHER_SESSION,
    PLANNER,
    PREPARED_TRANSACTION,
    ROLE_SETTING,
    SEQUENCE,
    SERVER_CONTROL,
    SERVER_FILE,
    SQL_IN_STRING,
    STATEMENT_KIND,
    TEMPORARY_TYPE_NAME,
    TRUNCATE,
    UNKNOWN_STATEMENT,
];

/// The other rules: they hold for everybody.
pub const FIXED: &[&str] = &[
    CLIENT_ENCODING,
    CONNECTION_CHECK,
    CONTEXT_CHANGE,
    COSTLY_TEXT,
    OPAQUE_NAME,
    OWN_OBJECTS,
    ROLE_CHANGE,
    STRING_SYNTAX,
    UNICODE_ESCAPE,
    UNREADABLE,
];

/// Why a text may not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The rule's short name.
    pub rule: &'static str,
    /// The rule and what broke it, with at most [`MAX_ECHO_BYTES`] of the client's own text.
    pub detail: String,
    /// What to do instead.
    pub hint: &'static str,
}

// === impl Refusal ===

impl Refusal {
    /// Whether the text is no SQL that the guard knows: more likely a slip than an attempt.
    pub fn is_about_syntax(&self) -> bool {
        matches!(self.rule, UNKNOWN_STATEMENT | UNREADABLE)
    }

    /// Whether the text is over a bound of what a text may cost: a limit, not a missing privilege.
    pub fn is_about_cost(&self) -> bool {
        self.rule == COSTLY_TEXT
    }
}

/// The refusal by a rule of what `what` names.
pub(super) fn refusal(rule: &'static str, what: &str) -> Refusal {
    Refusal { rule, detail: format!("rule \"{rule}\": {what} is not allowed"), hint: hint(rule) }
}

/// A client's word for a message: bounded, and free of control characters.
pub(super) fn echo(word: &[u8]) -> String {
    let shown = word.get(..MAX_ECHO_BYTES).unwrap_or(word);
    String::from_utf8_lossy(shown).chars().map(|it| if it.is_control() { '?' } else { it }).collect()
}

fn hint(rule: &'static str) -> &'static str {
    match rule {
        ADVISORY_LOCK => {
            "Advisory locks are shared by all tenants; lock a row of a table of your own instead."
        }
        CLIENT_ENCODING => "Use UTF8, or another encoding whose multibyte characters hold no ASCII byte.",
        CONNECTION_CHECK => "By it statements end with their clients; leave the setting alone.",
        CONTEXT_CHANGE => "The proxy sets the tenant by the login; leave the setting alone.",
        COSTLY_TEXT => "Send a simpler text, or several.",
        EXPLAIN => "Plans show estimates over all tenants' rows; explain as a maintenance user.",
        LARGE_OBJECT => "Large objects are outside row-level security; use a bytea column.",
        LOCK_TABLE => "It would stop all tenants; lock rows with SELECT ... FOR UPDATE.",
        NOTIFY => "Channels are shared by all tenants; keep messages in a table.",
        OPAQUE_CODE => "What code does cannot be read; create it as a maintenance user, then call it.",
        OPAQUE_NAME => "Name the setting as a plain literal: SELECT set_config('work_mem', $1, true).",
        OTHER_SESSION => "Other sessions may be other tenants'; look as a maintenance user.",
        OWN_OBJECTS => "These objects are the proxy's own; pgtenant.current_tenant() may be called.",
        PLANNER => "Plans are kept beyond a tenant's turn on a server; leave the planner's settings alone.",
        PREPARED_TRANSACTION => "A prepared transaction outlives its tenant's session; use COMMIT.",
        ROLE_CHANGE => {
            "The proxy chooses the role. Clients may set those that the configuration lists in user.roles, with the name written out."
        }
        ROLE_SETTING => "All tenants share the role; change roles and privileges as a maintenance user.",
        SEQUENCE => "Sequences are shared by all tenants; take values with nextval.",
        SERVER_CONTROL => "It would reach all tenants; do it as a maintenance user.",
        SERVER_FILE => "Files of the server belong to no tenant; use COPY FROM STDIN or TO STDOUT.",
        SQL_IN_STRING => "SQL in a string cannot be read; send the statement itself.",
        STRING_SYNTAX => "Write E'...' where a literal needs backslash escapes.",
        TEMPORARY_TYPE_NAME => "It would stand before the type of that name; choose another name.",
        TRUNCATE => "It would take all tenants' rows; use DELETE.",
        UNICODE_ESCAPE => "Write the identifier itself.",
        UNKNOWN_STATEMENT => "Look at the statement's first word.",
        UNREADABLE => "Send complete SQL.",
        _ => "Statements that reach beyond a tenant's rows and its own session need a maintenance user.",
    }
}
