//! What the client says it is. Nothing in it is proven yet, except that it is well-formed.

use crate::fault::Report;
use crate::fault::sqlstate;
use crate::wire::startup::{Startup, options_parameters};

/// Settings that a client asks for at startup, names in lower case, in the order of asking.
pub type StartupParameters = Vec<(String, String)>;

/// A session asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The login name.
    pub user: String,
    /// The database named, or the user's name as PostgreSQL does.
    pub database: String,
    /// Minor protocol version that will be spoken: 0 or 2.
    pub minor: u32,
    /// What the client asks to be set, the tenant setting included if it names one.
    pub parameters: StartupParameters,
    /// What kind of replication connection it asks for, if it does.
    pub replication: Option<Replication>,
    /// The TLS server name that it asked for, in lower case.
    pub server_name: Option<String>,
}

/// A replication connection ("Streaming Replication Protocol").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// Of the whole cluster.
    Physical,
    /// Of one database.
    Logical,
}

/// Most settings that one client may ask for.
const MAX_PARAMETERS: usize = 64;
/// Longest name of a setting, PostgreSQL's NAMEDATALEN - 1.
const MAX_PARAMETER_NAME: usize = 63;

/// Never taken from a client: they would change who the server thinks it is, what our own statements mean, or whether what
/// a client leaves running ends.
const FORBIDDEN: &[&str] = &[
    "role",
    "session_authorization",
    "standard_conforming_strings",
    "row_security",
    "session_replication_role",
    "client_connection_check_interval",
];

/// Encodings in which a byte of a character can be an ASCII character (PostgreSQL, "Supported Character Sets").
const UNSAFE_ENCODINGS: &[&str] = &[
    "SJIS",
    "MSKANJI",
    "SHIFTJIS",
    "WIN932",
    "WINDOWS932",
    "SHIFTJIS2004",
    "BIG5",
    "WIN950",
    "WINDOWS950",
    "GBK",
    "WIN936",
    "WINDOWS936",
    "GB18030",
    "JOHAB",
    "UHC",
    "WIN949",
    "WINDOWS949",
];

impl Claim {
    /// Checks a startup packet.
    pub fn new(startup: Startup) -> Result<Self, Report> {
        let mut claim = Self {
            user: String::new(),
            database: String::new(),
            minor: if startup.minor >= 2 { 2 } else { 0 },
            parameters: Vec::new(),
            replication: None,
            server_name: None,
        };
        let mut options = Vec::new();
        for (name, value) in startup.parameters {
            match name.as_str() {
                "user" => claim.user = value,
                "database" => claim.database = value,
                "options" => {
                    options = options_parameters(&value).map_err(|word| {
                        Report::new(
                            sqlstate::FEATURE_NOT_SUPPORTED,
                            format!("unsupported word in startup options: \"{}\"", shorten(&word)),
                        )
                        .hint("Use -c name=value or --name=value.")
                    })?;
                }
                "replication" => claim.replication = replication(&value)?,
                _ => claim.add(&name, value)?,
            }
        }
        // As PostgreSQL: what is named on its own beats `options`, so `options` goes first.
        let named = std::mem::take(&mut claim.parameters);
        for (name, value) in options {
            claim.add(&name, value)?;
        }
        claim.parameters.extend(named);
        if claim.user.is_empty() {
            return Err(Report::new(
                sqlstate::INVALID_AUTHORIZATION,
                "no PostgreSQL user name specified in startup packet",
            ));
        }
        if claim.database.is_empty() {
            claim.database.clone_from(&claim.user);
        }
        Ok(claim)
    }

    fn add(&mut self, name: &str, value: String) -> Result<(), Report> {
        let name = name.to_ascii_lowercase();
        let well_formed = name.len() <= MAX_PARAMETER_NAME
            && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
        if !well_formed || self.parameters.len() >= MAX_PARAMETERS {
            return Err(Report::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("invalid configuration parameter name \"{}\"", shorten(&name)),
            ));
        }
        if FORBIDDEN.contains(&name.as_str()) || name.starts_with("pgtenant.") {
            return Err(Report::new(
                sqlstate::INSUFFICIENT_PRIVILEGE,
                format!("parameter \"{name}\" cannot be set by a client"),
            )
            .detail("rule \"startup-parameter\": it decides whose rows a server shows."));
        }
        if name == "client_encoding" && is_unsafe_encoding(&value) {
            return Err(Report::new(
                sqlstate::INSUFFICIENT_PRIVILEGE,
                format!("client_encoding \"{}\" cannot be used through the proxy", shorten(&value)),
            )
            .detail("rule \"client-encoding\": a byte of a character can be an ASCII character in it.")
            .hint("Use UTF8."));
        }
        self.parameters.push((name, value));
        Ok(())
    }

    /// Takes the last value asked for out of the parameters.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let found = self.parameters.iter().rposition(|(known, _)| known == name)?;
        let (_, value) = self.parameters.swap_remove(found);
        self.parameters.retain(|(known, _)| known != name);
        Some(value)
    }
}

fn is_unsafe_encoding(value: &str) -> bool {
    // As pg_char_to_encoding: letters and digits count, case does not.
    let canonical: String =
        value.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
    UNSAFE_ENCODINGS.contains(&canonical.as_str())
}

/// As PostgreSQL's `ProcessStartupPacket` reads it.
fn replication(value: &str) -> Result<Option<Replication>, Report> {
    match value.to_ascii_lowercase().as_str() {
        "database" => Ok(Some(Replication::Logical)),
        "true" | "on" | "yes" | "1" | "t" | "y" => Ok(Some(Replication::Physical)),
        "false" | "off" | "no" | "0" | "f" | "n" => Ok(None),
        _ => Err(Report::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"replication\": \"{}\"", shorten(value)),
        )
        .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(parameters: &[(&str, &str)]) -> Result<Claim, Report> {
        let parameters = parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Claim::new(Startup { minor: 0, parameters, unknown_options: Vec::new() })
    }

    #[test]
    fn the_database_is_the_users_name_by_default() {
        assert_eq!(claim(&[("user", "a")]).unwrap().database, "a");
        assert_eq!(claim(&[("user", "a"), ("database", "d")]).unwrap().database, "d");
        assert_eq!(claim(&[("database", "d")]).unwrap_err().sqlstate, sqlstate::INVALID_AUTHORIZATION);
    }

    #[test]
    fn what_is_named_on_its_own_beats_options() {
        let mut claim =
            claim(&[("user", "a"), ("TimeZone", "UTC"), ("options", "-c timezone=CET -c work_mem=1MB")])
                .unwrap();
        assert_eq!(claim.take("timezone").as_deref(), Some("UTC"));
        assert_eq!(claim.take("timezone"), None);
        assert_eq!(claim.parameters, [("work_mem".to_owned(), "1MB".to_owned())]);
    }

    #[test]
    fn what_decides_about_rows_is_never_taken_from_a_client() {
        for (name, value) in [
            ("role", "app_owner"),
            ("ROLE", "app_owner"),
            ("session_authorization", "x"),
            ("row_security", "off"),
            ("standard_conforming_strings", "off"),
            ("client_connection_check_interval", "0"),
            ("pgtenant.reset", "x"),
            ("client_encoding", "SJIS"),
            ("client_encoding", "Shift_JIS_2004"),
            ("client_encoding", "gb-18030"),
            ("options", "-c role=app_owner"),
            ("options", "--session-authorization=x"),
        ] {
            let refused = claim(&[("user", "a"), (name, value)]).unwrap_err();
            assert_eq!(refused.sqlstate, sqlstate::INSUFFICIENT_PRIVILEGE, "{name}={value}");
        }
        assert!(claim(&[("user", "a"), ("client_encoding", "LATIN1")]).is_ok());
    }

    #[test]
    fn malformed_names_and_values_are_refused() {
        for (name, value) in
            [("a b", "1"), ("", "1"), ("x'y", "1"), ("replication", "maybe"), ("options", "-d")]
        {
            assert!(claim(&[("user", "a"), (name, value)]).is_err(), "{name}={value}");
        }
        let asks = |value| claim(&[("user", "a"), ("replication", value)]).unwrap().replication;
        assert_eq!(
            [asks("false"), asks("on"), asks("Database")],
            [None, Some(Replication::Physical), Some(Replication::Logical)]
        );
    }
}
