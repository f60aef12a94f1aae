//! The SQL of the context: enter, and the reset between clients and tenants.
//! Every name is qualified and every text is plain ASCII, because these statements are read under
//! whatever the previous user of the server has set, until the reset has happened.

use std::fmt::Write as _;

use rand::Rng as _;

use crate::upstream::context::SessionParameters;
use crate::upstream::context::application::APPLICATION_NAME;
use crate::upstream::pool::server::Server;
use crate::wire::encode;

/// No parameter types given: PostgreSQL infers them.
const NO_TYPES: &[u8] = &[0, 0];
/// Name of the statement that sets the tenant.
const ENTER_PLAIN: &str = "pgtenant_enter_plain";
/// Name of the statement that sets the tenant and shows a proof.
const ENTER_SEALED: &str = "pgtenant_enter";

/// 128 random bits, so that nobody can leave a nonce behind in advance.
pub(crate) fn nonce() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
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
fn set_config(name: &str, value: &str) -> String {
    format!("pg_catalog.set_config('{name}',{},false)", value_expression(value))
}

/// One message that takes away what the last user left and applies this client's parameters.
/// `DISCARD ALL` would also throw the plans away and cannot stand in one message with others.
/// Without a nonce its success is waited for, and needs no proof.
pub(crate) fn reset(nonce: Option<&str>, parameters: &SessionParameters, name: Option<&str>) -> String {
    let seed: f64 = rand::rng().random_range(-1.0..1.0);
    let mut sql = format!(
        "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;DEALLOCATE ALL;UNLISTEN *;\
         SELECT pg_catalog.pg_advisory_unlock_all(),pg_catalog.setseed({seed:.17});\
         DISCARD TEMP;DISCARD SEQUENCES;"
    );
    if !parameters.is_empty() || name.is_some() {
        sql.push_str(&apply(parameters, name));
        sql.push(';');
    }
    if let Some(nonce) = nonce {
        // Last, so that it is there only if all that stands before it succeeded.
        write!(sql, "DECLARE pgtenant_reset_{nonce} CURSOR WITH HOLD FOR VALUES (1)")
            .expect("writing to a String cannot fail");
    }
    sql
}

/// Sets parameters for the session, and the application's name, if that is another here.
pub(in crate::upstream) fn apply(parameters: &SessionParameters, name: Option<&str>) -> String {
    let own = parameters.iter().filter(|(parameter, _)| name.is_none() || *parameter != APPLICATION_NAME);
    let all = own.chain(name.map(|name| (APPLICATION_NAME, name)));
    let calls: Vec<String> = all.map(|(name, value)| set_config(name, value)).collect();
    format!("SELECT {}", calls.join(","))
}

/// The frames of a statement without parameters, none of whose answers the client sees.
fn run(out: &mut Vec<u8>, sql: &str) {
    encode::parse(out, "", sql.as_bytes(), NO_TYPES);
    encode::bind_text(out, &[]);
    encode::execute_unnamed(out);
}

/// The frames that fail unless the reset with this nonce succeeded, and take its marker away.
pub(crate) fn end_reset(out: &mut Vec<u8>, nonce: &str) {
    run(out, &format!("CLOSE pgtenant_reset_{nonce}"));
}

/// The same, but the marker stays. MOVE is one of the few statements that fail on what is missing and take no
/// snapshot, so a BEGIN that follows can still choose its isolation level (`PlannedStmtRequiresSnapshot` in
/// PostgreSQL's `pquery.c`).
pub(crate) fn check_reset(out: &mut Vec<u8>, nonce: &str) {
    run(out, &format!("MOVE 0 IN pgtenant_reset_{nonce}"));
}

/// The frames that put a client's parameters back, after it has reset all of them.
pub(crate) fn restore(out: &mut Vec<u8>, parameters: &SessionParameters, name: Option<&str>) {
    run(out, &apply(parameters, name));
}

/// The frames that enter a tenant's context in an open transaction block. They need no snapshot either.
pub(crate) fn enter_in_block(out: &mut Vec<u8>, setting: &str, tenant: &str) {
    if !tenant.bytes().all(is_plain) {
        let (value, parameter) = tenant_value(tenant);
        encode::parse(
            out,
            "",
            format!("SELECT pg_catalog.set_config('{setting}',{value},true)").as_bytes(),
            NO_TYPES,
        );
        encode::bind_text(out, &[parameter.as_bytes()]);
        encode::execute_unnamed(out);
        return;
    }
    let setting = setting.replace('.', "\".\"");
    run(out, &format!("SET LOCAL \"{setting}\" TO '{tenant}'"));
}

/// The frames that enter a tenant's context in front of a transaction.
pub(crate) fn enter(setting: &str, tenant: &str) -> Entry {
    let (value, parameter) = tenant_value(tenant);
    let sql = format!("SELECT pg_catalog.set_config('{setting}',{value},true)");
    Entry::new(tenant, ENTER_PLAIN, &sql, &[parameter.as_bytes()])
}

/// The frames that enter a tenant's context with its proof, which is only ever sent as a parameter: texts can be
/// read by others who log in as the same role.
pub(crate) fn enter_sealed(tenant: &str, proof: &str) -> Entry {
    let (value, parameter) = tenant_value(tenant);
    let sql = format!("SELECT pgtenant.enter({value}::pg_catalog.text,$2::pg_catalog.text)");
    Entry::new(tenant, ENTER_SEALED, &sql, &[parameter.as_bytes(), proof.as_bytes()])
}

/// The statement that enters a context, prepared once on each server between two resets: that saves PostgreSQL the
/// parsing and planning. Each text has a name of its own: under a seal, the context of a tenant and the context of
/// nobody run different texts on the same server. The guard keeps clients from these names; and whoever got past that
/// could only put another statement in its place for its own tenant, because a reset takes it away.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    parse: Box<[u8]>,
    run: Box<[u8]>,
    /// Empty: parsed each time.
    name: &'static str,
}

impl Entry {
    fn new(tenant: &str, name: &'static str, sql: &str, parameters: &[&[u8]]) -> Self {
        // The texts differ for ids beyond ASCII, which are rare: those are not kept.
        let name = if tenant.is_ascii() { name } else { "" };
        let (mut parse, mut run) = (Vec::new(), Vec::new());
        // Whatever has the name goes first: ours, if it is not known whether it came to be, or a client's own.
        encode::close(&mut parse, b'S', name);
        encode::parse(&mut parse, name, sql.as_bytes(), NO_TYPES);
        encode::bind_text_to(&mut run, name, parameters);
        encode::execute_unnamed(&mut run);
        Self { parse: parse.into(), run: run.into(), name }
    }

    /// Writes what this server needs of it.
    pub(crate) fn write(&self, server: &mut Server) {
        if self.name.is_empty() {
            server.unnamed = None;
        }
        let parses = self.name.is_empty() || server.entries.insert(self.name);
        let out = server.channel.output.space();
        if parses {
            out.extend_from_slice(&self.parse);
        }
        out.extend_from_slice(&self.run);
    }
}

/// The expression over `$1` and the parameter for it. An id beyond ASCII travels as hexadecimal, because
/// parameters are read in the client's encoding.
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
            set_config("timezone", "Europe/Paris"),
            "pg_catalog.set_config('timezone','Europe/Paris',false)"
        );
        for hostile in ["a'b", "a\\", "ü", "a\"b", "\u{95}\\", "a;b", "$$"] {
            let expression = value_expression(hostile);
            assert!(!expression.contains(hostile), "{expression}");
            assert!(expression.is_ascii() && !expression.contains('\\'), "{expression}");
        }
    }

    #[test]
    fn entry_statements_with_different_texts_have_different_names() {
        let (nobody, tenant) = (enter("app.tenant_id", ""), enter("app.tenant_id", "acme"));
        assert_eq!((nobody.name, tenant.name), (ENTER_PLAIN, ENTER_PLAIN), "one text, other values");
        assert_eq!(enter_sealed("acme", "proof").name, ENTER_SEALED);
        assert_eq!(enter("app.tenant_id", "ümlaut").name, "", "unnamed: the text is another");
        assert_ne!(ENTER_PLAIN, ENTER_SEALED);
    }

    #[test]
    fn nonces_differ() {
        assert_ne!(nonce(), nonce());
    }
}
