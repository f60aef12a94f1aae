//! The SQL of the context: the reset at a hand-over, the entry into the next tenant's context, and the assertion of a
//! plain context in front of a transaction.
//! Every name is qualified and every text is plain ASCII, because these statements are read under whatever the
//! previous user of the server has set, until the reset has happened.

use std::fmt::Write as _;

use rand::Rng as _;

use crate::guard::ROLE;
use crate::upstream::context::SessionParameters;
use crate::upstream::context::application::APPLICATION_NAME;
use crate::upstream::pool::server::ServerState;
use crate::wire::encode;

/// No parameter types given: PostgreSQL infers them.
const NO_TYPES: &[u8] = &[0, 0];

/// The custom setting that carries the nonce of a hand-over from its reset to its entry.
const NONCE: &str = "\"pgtenant\".\"nonce\"";
/// The portal of statements that run inside a client's segment, whose unnamed portal they must not replace.
const PORTAL: &str = "pgtenant";

/// What one hand-over is told by: 128 random bits that its reset leaves in a setting and its entry returns in a row.
/// An answer of another statement cannot hold it, so a shifted stream of answers is noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// A fresh one.
    pub fn new() -> Self {
        Self(format!("{:032x}", rand::rng().random::<u128>()))
    }

    /// 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Nonce {
    fn default() -> Self {
        Self::new()
    }
}

/// A value for `set_config`: as it stands if it is plain ASCII, else from hexadecimal, so that neither
/// `standard_conforming_strings` nor the client encoding has a say in how it is read.
pub(in crate::upstream) fn value_expression(value: &str) -> String {
    if value.bytes().all(is_plain) {
        return format!("'{value}'");
    }
    let hex = hexadecimal(value);
    format!("pg_catalog.convert_from(pg_catalog.decode('{hex}','hex'),'UTF8')")
}

/// Reads the same between quotes under every setting.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" _,./:+-@".contains(&byte)
}

fn hexadecimal(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len() * 2), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
        hex
    })
}

/// Setting names come from a startup packet that was checked, or from the server itself.
fn set_config(name: &str, value: &str, span: Span) -> String {
    format!("pg_catalog.set_config('{name}',{},{})", value_expression(value), span == Span::Transaction)
}

/// The statements of a Query of the proxy's own.
#[derive(Debug, Default)]
pub(crate) struct OwnText {
    /// The text, without a semicolon at its end.
    pub(crate) sql: String,
    /// How many statements it has.
    pub(crate) count: usize,
}

// === impl OwnText ===

impl OwnText {
    /// One more at the end.
    pub(super) fn push(&mut self, sql: &str) {
        if self.count > 0 {
            self.sql.push(';');
        }
        self.sql.push_str(sql);
        self.count += 1;
    }

    /// One more at the end, if there is one.
    pub(super) fn extend(&mut self, sql: Option<&str>) {
        if let Some(sql) = sql {
            self.push(sql);
        }
    }

    /// The end of the reset's transaction.
    pub(crate) fn commit(mut self) -> Self {
        self.push("COMMIT");
        self
    }
}

/// Which statement of a hand-over releases the advisory locks that were left, and returns the nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered<'n> {
    /// One of the reset.
    InReset(&'n Nonce),
    /// The entry of a sealed context, which is a SELECT in any case. A SELECT costs PostgreSQL as much as ten of the other
    /// statements.
    AtEntry,
}

/// The beginning of a transaction of the proxy's own, with characteristics under which nothing that was left behind
/// (serializable, read only, deferrable defaults) makes it wait or fail.
fn begin_reset(state: &ServerState) -> OwnText {
    // A standby refuses READ WRITE, and every transaction there is read only.
    let access = if state.is_standby() { "READ ONLY" } else { "READ WRITE" };
    let mut all = OwnText::default();
    all.push(&format!("BEGIN ISOLATION LEVEL READ COMMITTED, {access}, NOT DEFERRABLE"));
    all
}

/// A reset.
#[derive(Debug)]
pub(crate) struct ResetText {
    /// Its statements, without the end of its transaction.
    pub(crate) statements: OwnText,
    /// What is left to be called by the entry of a sealed context.
    pub(crate) at_entry: Vec<String>,
}

/// The reset: it takes away what the last user left, and applies this client's parameters. It is a transaction of its
/// own, which its user ends.
///
/// `DISCARD ALL` would also throw plans away and cannot stand in one Query with others. `DISCARD SEQUENCES` empties the
/// register of a sealed context.
pub(crate) fn reset(
    answered: Answered<'_>,
    parameters: &SessionParameters,
    name: Option<&str>,
    state: &ServerState,
) -> ResetText {
    let seed: f64 = rand::rng().random_range(-1.0..1.0);
    let Settings { sets, mut calls } = settings(parameters, name, Span::Session);
    calls.insert(0, "pg_catalog.pg_advisory_unlock_all()".to_owned());
    let mut all = begin_reset(state);
    for one in ["SET SESSION AUTHORIZATION DEFAULT", "RESET ALL", "CLOSE ALL", "DEALLOCATE ALL", "UNLISTEN *"]
    {
        all.push(one);
    }
    if let Answered::InReset(nonce) = answered {
        all.push(&format!("SELECT '{}',{}", nonce.0, calls.join(",")));
        calls.clear();
    }
    all.push(&format!("SET seed TO {seed:.17}"));
    for set in &sets {
        all.push(set);
    }
    all.push("DISCARD TEMP");
    all.push("DISCARD SEQUENCES");
    ResetText { statements: all, at_entry: calls }
}

/// Whether SET reads this value of the parameter as `set_config` does: for lists of names it does not.
fn is_settable(name: &str, value: &str) -> bool {
    let is_set_alike = [
        "application_name",
        "client_encoding",
        "datestyle",
        "extra_float_digits",
        "intervalstyle",
        "timezone",
    ]
    .contains(&name);
    is_set_alike && value.bytes().all(is_plain)
}

/// Leaves the nonce in the setting in which a sealed entry looks for it.
pub(crate) fn set_nonce(nonce: &Nonce) -> String {
    format!("SET {NONCE} TO '{}'", nonce.0)
}

/// The savepoint that stands at the end of a reset that succeeded.
pub(crate) const SAVE_RESET: &str = "SAVEPOINT \"pgtenant\"";

/// What stands in front of a client's messages where the reset has set the tenant itself: it fails, so that the server skips
/// them, unless the reset has come to its end.
pub(crate) fn release_reset(out: &mut Vec<u8>) {
    run(out, "RELEASE \"pgtenant\"", &[]);
}

/// What sets the role that a client has; none: it has that of the login. It goes behind the entry, which the login role
/// makes. Between quotes an identifier reads the same under every setting.
pub(crate) fn set_role(parameters: &SessionParameters) -> Option<String> {
    parameters.get(ROLE).map(|role| format!("SET ROLE \"{}\"", role.replace('"', "\"\"")))
}

/// A client's parameters but its role, with the name that it has on servers, if that is another.
fn applied<'p>(
    parameters: &'p SessionParameters,
    name: Option<&'p str>,
) -> impl Iterator<Item = (&'p str, &'p str)> {
    let own = parameters.iter().filter(move |(parameter, _)| {
        *parameter != ROLE && (name.is_none() || *parameter != APPLICATION_NAME)
    });
    own.chain(name.map(|name| (APPLICATION_NAME, name)))
}

/// What stands in the place of a reset where the session on the server is the client's and stays, or was reset before: the
/// client's parameters are set, whatever they are.
pub(super) fn begin_again(
    parameters: &SessionParameters,
    name: Option<&str>,
    state: &ServerState,
) -> OwnText {
    let mut statements = begin_reset(state);
    for one in apply(parameters, name, Span::Session) {
        statements.push(&one);
    }
    statements
}

/// What sets a client's parameters: by SET, which takes no snapshot, where it reads the value as `set_config` does.
struct Settings {
    sets: Vec<String>,
    /// Calls of `set_config`.
    calls: Vec<String>,
}

fn settings(parameters: &SessionParameters, name: Option<&str>, span: Span) -> Settings {
    let local = if span == Span::Transaction { "LOCAL " } else { "" };
    let (mut sets, mut calls) = (Vec::new(), Vec::new());
    for (name, value) in applied(parameters, name) {
        if is_settable(name, value) {
            sets.push(format!("SET {local}{name} TO '{value}'"));
        } else {
            // The value itself may be one that the client's encoding does not have.
            calls.push(format!("{} IS NULL", set_config(name, value, span)));
        }
    }
    Settings { sets, calls }
}

/// The statements that set parameters for the session or the transaction, and the application's name, if that is another on
/// servers.
pub(in crate::upstream) fn apply(
    parameters: &SessionParameters,
    name: Option<&str>,
    span: Span,
) -> Vec<String> {
    let Settings { sets: mut all, calls } = settings(parameters, name, span);
    if !calls.is_empty() {
        all.push(format!("SELECT {}", calls.join(",")));
    }
    all
}

/// A statement of the proxy in the extended protocol, without Sync: Parse, Bind, Execute on the unnamed statement and
/// portal. Its answers are ParseComplete, BindComplete, rows, CommandComplete.
pub(crate) fn run(out: &mut Vec<u8>, sql: &str, values: &[&[u8]]) {
    encode::parse(out, "", sql.as_bytes(), NO_TYPES);
    encode::bind_text(out, values);
    encode::execute_unnamed(out);
}

/// The same inside a client's segment: on a portal of its own, which it closes again.
pub(crate) fn run_beside(out: &mut Vec<u8>, sql: &str, values: &[&[u8]]) {
    encode::parse(out, "", sql.as_bytes(), NO_TYPES);
    encode::bind_portal(out, PORTAL, "", values);
    encode::execute(out, PORTAL);
    encode::close(out, b'P', PORTAL);
}

/// Begins a transaction of the proxy's own in front of a client's messages. Whatever the client's defaults are, it waits
/// for no other's; the access mode stays, because a standby refuses READ WRITE.
pub(crate) fn begin(out: &mut Vec<u8>) {
    run(out, "BEGIN ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE", &[]);
}

/// Ends the transaction of the proxy, so that it lasts whatever becomes of the client's statement.
pub(crate) fn commit(out: &mut Vec<u8>) {
    run(out, "COMMIT", &[]);
}

/// Enters a sealed context for the session. The function checks proof and nonce, and returns the nonce. The proof is
/// only ever sent as a parameter, because texts can be read by others who log in as the same role.
/// These calls of the reset follow in its target list, which PostgreSQL evaluates from left to right.
pub(crate) fn enter_sealed(out: &mut Vec<u8>, (tenant, proof): (&str, &str), calls: &[String]) {
    let (mut sql, parameter) = sealed_entry(tenant);
    for call in calls {
        sql.push(',');
        sql.push_str(call);
    }
    run(out, &sql, &[parameter.as_bytes(), proof.as_bytes()]);
}

/// The same inside a client's transaction.
pub(crate) fn enter_sealed_beside(out: &mut Vec<u8>, nonce: &Nonce, tenant: &str, proof: &str) {
    run_beside(out, &set_nonce(nonce), &[]);
    let (sql, parameter) = sealed_entry(tenant);
    run_beside(out, &sql, &[parameter.as_bytes(), proof.as_bytes()]);
}

fn sealed_entry(tenant: &str) -> (String, String) {
    let (value, parameter) = tenant_value(tenant);
    (format!("SELECT pgtenant.hand_over({value}::pg_catalog.text,$2::pg_catalog.text)"), parameter)
}

/// How long a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Until it is set again; a rollback takes it back.
    Session,
    /// Until the transaction ends.
    Transaction,
}

/// The text that sets the tenant setting. It takes no snapshot where the tenant's id is plain ASCII, so it may stand in
/// front of `SET TRANSACTION`.
pub(crate) fn set_tenant(setting: &str, tenant: &str, span: Span) -> String {
    if tenant.bytes().all(is_plain) {
        let setting = setting.replace('.', "\".\"");
        let local = if span == Span::Transaction { "LOCAL " } else { "" };
        return format!("SET {local}\"{setting}\" TO '{tenant}'");
    }
    format!("SELECT {}", set_config(setting, tenant, span))
}

/// The statement that asserts a plain context in front of a transaction: code of the database may have changed the
/// setting for the session. It is prepared once on each server between two resets, which saves PostgreSQL parsing and
/// planning; its text is the same for all tenants, and carries no secret.
#[derive(Debug, Clone)]
pub(crate) struct Assertion {
    parse: Box<[u8]>,
    run: Box<[u8]>,
    /// The same by SET, as a statement of its own.
    pub(crate) sql: Box<str>,
    /// In front of the text of a Query, with the semicolon.
    pub(crate) text: Box<[u8]>,
    /// Whether `sql` takes a snapshot, behind which SET TRANSACTION fails.
    pub(crate) takes_snapshot: bool,
}

/// The guard keeps clients from this name, and a reset takes it away.
const ASSERTION: &str = "pgtenant_tenant";

impl Assertion {
    pub(crate) fn new(setting: &str, tenant: &str) -> Self {
        let (mut parse, mut run) = (Vec::new(), Vec::new());
        // Whatever has the name goes first: this statement, if it is not known whether it came to be.
        encode::close(&mut parse, b'S', ASSERTION);
        let sql = format!(
            "SELECT pg_catalog.set_config('{setting}',pg_catalog.convert_from(pg_catalog.decode($1,'hex'),'UTF8'),false)"
        );
        encode::parse(&mut parse, ASSERTION, sql.as_bytes(), NO_TYPES);
        encode::bind_text_to(&mut run, ASSERTION, &[hexadecimal(tenant).as_bytes()]);
        encode::execute_unnamed(&mut run);
        let sql = set_tenant(setting, tenant, Span::Session);
        let text = format!("{sql};").into_bytes().into();
        let takes_snapshot = !tenant.bytes().all(is_plain);
        Self { parse: parse.into(), run: run.into(), sql: sql.into(), text, takes_snapshot }
    }

    /// Writes what this server needs of it. Whether it is prepared with it, which CloseComplete answers first.
    pub(crate) fn write(&self, state: &mut ServerState, out: &mut Vec<u8>) -> bool {
        let parses = !std::mem::replace(&mut state.has_assertion, true);
        if parses {
            out.extend_from_slice(&self.parse);
        }
        out.extend_from_slice(&self.run);
        parses
    }
}

/// How a tenant's id is bound as the first parameter. Beyond ASCII it goes as hexadecimal, because parameters are read in
/// the client's encoding.
fn tenant_value(tenant: &str) -> (&'static str, String) {
    if tenant.is_ascii() {
        return ("$1", tenant.to_owned());
    }
    ("pg_catalog.convert_from(pg_catalog.decode($1,'hex'),'UTF8')", hexadecimal(tenant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        assert_eq!(
            set_config("timezone", "Europe/Paris", Span::Session),
            "pg_catalog.set_config('timezone','Europe/Paris',false)"
        );
        for hostile in ["a'b", "a\\", "ü", "a\"b", "\u{95}\\", "a;b", "$$"] {
            let expression = value_expression(hostile);
            assert!(!expression.contains(hostile), "{expression}");
            assert!(expression.is_ascii() && !expression.contains('\\'), "{expression}");
        }
    }

    #[test]
    fn nonces_differ() {
        assert_ne!(Nonce::new(), Nonce::new());
        assert_eq!(Nonce::new().as_str().len(), 32);
    }
}
