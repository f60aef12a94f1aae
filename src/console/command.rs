//! What an operator says, read into a command.

use crate::directory::Isolation;
use crate::names::TenantId;
use crate::registry::Destination;

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
    Move(TenantId, Destination),
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
    Pause,
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
    pub(super) const OTHERS: [(&'static str, &'static str); 11] = [
        ("RELOAD", "read the configuration file again, as SIGHUP does"),
        ("PAUSE", "hold back new transactions; comes back when those under way have ended"),
        ("RESUME", "let them go on"),
        ("RECONNECT", "replace every server connection, those in use when they are given back"),
        ("SHUTDOWN", "drain and end, as SIGTERM does"),
        ("SUSPEND TENANT name", "refuse its statements from their next transaction on, and its logins"),
        (
            "PAUSE TENANT name",
            "its transactions wait from the next one on; comes back when those under way have ended",
        ),
        ("RESUME TENANT name", "the tenant works again"),
        ("DRAIN TENANT name", "its clients leave when their transaction is over, and nobody is let in"),
        ("KILL TENANT name", "its clients and what they run end at once; they may come again"),
        (
            "MOVE TENANT name TO ROW | SCHEMA | DATABASE [UPSTREAM u] [DATABASE d] [SCHEMA s] [ROLE r]",
            "its transactions wait until those under way have ended, and go on in its new place",
        ),
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
                    "PAUSE" => Deed::Pause,
                    "RESUME" => Deed::Resume,
                    "DRAIN" => Deed::Drain,
                    "KILL" => Deed::Kill,
                    _ => return Err(unknown(text)),
                };
                Self::Tenant(deed, tenant(words.get(2))?)
            }
            ["MOVE", "TENANT", _, "TO", isolation, details @ ..] => {
                let details = details.iter().copied().zip(words.get(5..).unwrap_or_default().iter().copied());
                Self::Move(tenant(words.get(2))?, destination(isolation, details)?)
            }
            _ => return Err(unknown(text)),
        };
        Ok(Some(command))
    }
}

fn tenant(word: Option<&&str>) -> Result<TenantId, String> {
    let name = unquoted(word.unwrap_or(&""));
    TenantId::parse(name).map_err(|problem| format!("{name:?} is no tenant: {problem}"))
}

fn unquoted(word: &str) -> &str {
    word.trim_matches(['"', '\''])
}

/// Each word comes as it is and in capitals.
fn destination<'w>(
    isolation: &str,
    mut words: impl Iterator<Item = (&'w str, &'w str)>,
) -> Result<Destination, String> {
    let all = [Isolation::Row, Isolation::Schema, Isolation::Database];
    let isolation = all.into_iter().find(|known| known.label().eq_ignore_ascii_case(isolation));
    let isolation = isolation.ok_or("MOVE TENANT name TO takes ROW, SCHEMA or DATABASE")?;
    let mut to = Destination { isolation, upstream: None, database: None, schema: None, role: None };
    while let Some((key, _)) = words.next() {
        let place = match key {
            "UPSTREAM" => &mut to.upstream,
            "DATABASE" => &mut to.database,
            "SCHEMA" => &mut to.schema,
            "ROLE" => &mut to.role,
            _ => {
                return Err(format!(
                    "behind the isolation, MOVE takes UPSTREAM, DATABASE, SCHEMA, ROLE, not {key}"
                ));
            }
        };
        let (_, name) = words.next().ok_or_else(|| format!("{key} needs a name"))?;
        if place.replace(unquoted(name).to_owned()).is_some() {
            return Err(format!("{key} is there twice"));
        }
    }
    Ok(to)
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
        let moved = |isolation, role: Option<&str>| {
            let role = role.map(str::to_owned);
            let to = Destination { isolation, upstream: None, database: None, schema: None, role };
            Some(Command::Move(TenantId::parse("acme").unwrap(), to))
        };
        for (text, expected) in [
            ("", None),
            (" ; ", None),
            ("show pools;", Some(Command::Show(Show::Pools))),
            ("SET application_name = 'x'", Some(Command::Set)),
            ("Reload", Some(Command::Reload)),
            ("suspend tenant acme", tenant(Deed::Suspend)),
            ("RESUME TENANT 'acme';", tenant(Deed::Resume)),
            ("KILL TENANT \"acme\"", tenant(Deed::Kill)),
            ("pause tenant acme", tenant(Deed::Pause)),
            ("move tenant acme to row", moved(Isolation::Row, None)),
            ("MOVE TENANT \"acme\" TO Schema ROLE \"Ed\";", moved(Isolation::Schema, Some("Ed"))),
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
            "MOVE TENANT acme",
            "MOVE TENANT acme TO nowhere",
            "MOVE TENANT acme TO SCHEMA ROLE",
            "MOVE TENANT acme TO SCHEMA ROLE a ROLE b",
            "MOVE TENANT acme TO SCHEMA HOUSE a",
        ] {
            assert!(Command::read(text).is_err(), "{text}");
        }
    }
}
