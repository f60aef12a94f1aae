//! What an operator says, read into a command.

use crate::names::TenantId;

/// Everything that the console does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Shows a table.
    Show(Show),
    /// `SET …`: drivers send it; nothing is set.
    Set,
    Reload,
    Pause,
    Resume,
    Reconnect,
    Shutdown,
    Tenant(Deed, TenantId),
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    Help,
    Version,
    Clients,
    Config,
    Databases,
    Lists,
    Pins,
    Pools,
    Refusals,
    Servers,
    Stats,
    Tenants,
    Users,
}

/// What becomes of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Suspend,
    Resume,
    Drain,
    Kill,
}

impl Show {
    /// The tables by name, with what each shows.
    pub(super) const ALL: [(&'static str, Self, &'static str); 13] = [
        ("HELP", Self::Help, "what the console does"),
        ("VERSION", Self::Version, "the version of pgtenant"),
        ("CLIENTS", Self::Clients, "who is connected"),
        ("CONFIG", Self::Config, "settings in force, without secrets"),
        ("DATABASES", Self::Databases, "upstreams"),
        ("LISTS", Self::Lists, "how many there are of what"),
        ("PINS", Self::Pins, "clients that keep a server, and the statement that made them"),
        ("POOLS", Self::Pools, "pools: servers in use, idle, clients in line"),
        ("REFUSALS", Self::Refusals, "statements refused by the guard, by tenant and rule"),
        ("SERVERS", Self::Servers, "connections to PostgreSQL"),
        ("STATS", Self::Stats, "transactions, queries, bytes and times since the start"),
        ("TENANTS", Self::Tenants, "tenants: status, clients, pins, limits"),
        ("USERS", Self::Users, "login names and what they may do"),
    ];
}

impl Command {
    /// The other commands with what each does.
    pub(super) const OTHERS: [(&'static str, &'static str); 9] = [
        ("RELOAD", "read the configuration file again, as SIGHUP does"),
        ("PAUSE", "hold back new transactions; comes back when those under way have ended"),
        ("RESUME", "let them go on"),
        ("RECONNECT", "replace every server connection, those in use when they are given back"),
        ("SHUTDOWN", "drain and end, as SIGTERM does"),
        ("SUSPEND TENANT name", "refuse its statements from their next transaction on, and its logins"),
        ("RESUME TENANT name", "the tenant works again"),
        ("DRAIN TENANT name", "its clients leave when their transaction is over, and nobody is let in"),
        ("KILL TENANT name", "its clients and what they run end at once; they may come again"),
    ];

    /// Reads a text; none: there is nothing in it.
    pub(super) fn read(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim().trim_end_matches(';').trim();
        let words: Vec<&str> = text.split_whitespace().collect();
        let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
        let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
        let command = match upper.as_slice() {
            [] => return Ok(None),
            ["SHOW", what] => Self::Show(table(what)?),
            ["SHOW", ..] => return Err("SHOW takes the name of one table".to_owned()),
            ["SET", ..] => Self::Set,
            ["RELOAD"] => Self::Reload,
            ["PAUSE"] => Self::Pause,
            ["RESUME"] => Self::Resume,
            ["RECONNECT"] => Self::Reconnect,
            ["SHUTDOWN"] => Self::Shutdown,
            [deed, "TENANT", _] => {
                let deed = match *deed {
                    "SUSPEND" => Deed::Suspend,
                    "RESUME" => Deed::Resume,
                    "DRAIN" => Deed::Drain,
                    "KILL" => Deed::Kill,
                    _ => return Err(unknown(text)),
                };
                let name = words.last().unwrap_or(&"").trim_matches(['"', '\'']);
                Self::Tenant(
                    deed,
                    TenantId::parse(name).map_err(|problem| format!("{name:?} is no tenant: {problem}"))?,
                )
            }
            _ => return Err(unknown(text)),
        };
        Ok(Some(command))
    }
}

fn table(name: &str) -> Result<Show, String> {
    let found = Show::ALL.iter().find(|(known, ..)| *known == name);
    found.map(|(_, show, _)| *show).ok_or_else(|| {
        let all: Vec<&str> = Show::ALL.iter().map(|(name, ..)| *name).collect();
        format!("there is no table {name}: SHOW takes {}", all.join(", "))
    })
}

fn unknown(text: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    format!("the console does not know {shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_in_any_spelling_and_others_are_refused_by_name() {
        let tenant = |deed| Some(Command::Tenant(deed, TenantId::parse("acme").unwrap()));
        for (text, expected) in [
            ("", None),
            (" ; ", None),
            ("show pools;", Some(Command::Show(Show::Pools))),
            ("SET application_name = 'x'", Some(Command::Set)),
            ("Reload", Some(Command::Reload)),
            ("suspend tenant acme", tenant(Deed::Suspend)),
            ("RESUME TENANT 'acme';", tenant(Deed::Resume)),
            ("KILL TENANT \"acme\"", tenant(Deed::Kill)),
        ] {
            assert_eq!(Command::read(text).unwrap(), expected, "{text}");
        }
        for text in [
            "SELECT 1",
            "SHOW",
            "SHOW NOTHING",
            "SUSPEND acme",
            "FEED TENANT acme",
            "KILL TENANT",
            "PAUSE now",
        ] {
            assert!(Command::read(text).is_err(), "{text}");
        }
    }
}
