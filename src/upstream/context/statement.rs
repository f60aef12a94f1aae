//! The SQL of the context: enter, and the reset between clients and tenants.
//! Every name is qualified and every text is plain ASCII, because these statements are read under
//! whatever the previous user of the server has set, until the reset has happened.

use std::fmt::Write as _;

use rand::Rng as _;

use crate::upstream::context::SessionParameters;
use crate::wire::encode;

/// The setting in which a successful reset leaves its nonce.
const NONCE_SETTING: &str = "pgtenant.reset";

/// No parameter types given: PostgreSQL infers them.
const NO_TYPES: &[u8] = &[0, 0];

/// 128 random bits, so that nobody can leave a nonce behind in advance.
pub(crate) fn nonce() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

/// A value for `set_config`: as it stands if it is plain ASCII, else from hexadecimal, so that neither
/// `standard_conforming_strings` nor the client encoding has a say in how it is read.
fn value_expression(value: &str) -> String {
    if value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" _,./:+-".contains(&byte)) {
        return format!("'{value}'");
    }
    let hex = hexadecimal(value);
    format!("pg_catalog.convert_from(pg_catalog.decode('{hex}','hex'),'UTF8')")
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
pub(crate) fn reset(nonce: &str, parameters: &SessionParameters) -> String {
    let seed: f64 = rand::rng().random_range(-1.0..1.0);
    let mut sql = format!(
        "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;DEALLOCATE ALL;UNLISTEN *;\
         SELECT pg_catalog.pg_advisory_unlock_all(),pg_catalog.setseed({seed:.17});\
         DISCARD TEMP;DISCARD SEQUENCES;\
         SELECT pg_catalog.set_config('{NONCE_SETTING}','{nonce}',false)"
    );
    for (name, value) in parameters.iter() {
        sql.push(',');
        sql.push_str(&set_config(name, value));
    }
    sql
}

/// The frames that enter a tenant's context on a server that needs no reset.
pub(crate) fn enter(out: &mut Vec<u8>, setting: &str, tenant: &str) {
    let (value, parameter) = tenant_value(tenant);
    let sql = format!("SELECT pg_catalog.set_config('{setting}',{value},true)");
    encode::parse(out, "", sql.as_bytes(), NO_TYPES);
    encode::bind_text(out, &[parameter.as_bytes()]);
    encode::execute_unnamed(out);
}

/// The frames that enter it behind a reset: they fail unless that reset left its nonce.
pub(crate) fn enter_after_reset(out: &mut Vec<u8>, setting: &str, tenant: &str, nonce: &str) {
    let (value, parameter) = tenant_value(tenant);
    let left = format!("pg_catalog.current_setting('{NONCE_SETTING}',true)");
    let sql = format!(
        "SELECT pg_catalog.set_config('{setting}',{value},\
         CASE WHEN {left} OPERATOR(pg_catalog.=) $2 THEN true \
         ELSE pg_catalog.concat('server was not reset ',{left})::pg_catalog.bool END)"
    );
    encode::parse(out, "", sql.as_bytes(), NO_TYPES);
    encode::bind_text(out, &[parameter.as_bytes(), nonce.as_bytes()]);
    encode::execute_unnamed(out);
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
    fn nonces_differ() {
        assert_ne!(nonce(), nonce());
    }
}
