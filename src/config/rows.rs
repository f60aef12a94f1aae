//! Tenants and users that are rows of tables, read by the same rules as those in the file. A row that breaks one is left
//! out, and so is one that the file has too; the others hold.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use toml::Value;

use super::Config;
use super::directory::{Grants, Known, ambiguous, other_readings, tenant, user};
use super::file::{Page, Section};
use super::keys;
use super::problem::{Problem, Problems, refuse};
use super::verifier::PlainPasswords;
use crate::names::{TenantId, UpstreamName, UserName};
use crate::tenant::{Directory, User};

/// What the tables hold.
#[derive(Default, PartialEq, Eq)]
pub struct Rows {
    text: String,
    count: usize,
}

/// Which table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryTable {
    /// `pgtenant.tenants`
    Tenants,
    /// `pgtenant.users`
    Users,
}

/// One column of a row, where it is not null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// A text.
    Text(String),
    /// An array of texts.
    Texts(Vec<String>),
    /// A whole number.
    Count(i64),
    /// True or false.
    Flag(bool),
    /// A duration, in milliseconds.
    Milliseconds(i64),
}

/// The file and the tables together.
#[derive(Debug)]
pub struct Merged {
    /// Who there is.
    pub directory: Directory,
    /// Rows that are not in it, and why.
    pub left_out: Vec<Problem>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The text holds secrets.
        write!(f, "Rows({})", self.count)
    }
}

impl Rows {
    /// Adds a row; its columns are called as the file's keys are.
    pub fn add(&mut self, table: DirectoryTable, cells: impl IntoIterator<Item = (&'static str, Cell)>) {
        self.text.push_str(match table {
            DirectoryTable::Tenants => "[[tenant]]\n",
            DirectoryTable::Users => "[[user]]\n",
        });
        for (key, cell) in cells {
            let value = match cell {
                Cell::Text(text) => Value::String(text),
                Cell::Texts(texts) => Value::Array(texts.into_iter().map(Value::String).collect()),
                Cell::Count(count) => Value::Integer(count),
                Cell::Flag(flag) => Value::Boolean(flag),
                Cell::Milliseconds(count) => Value::String(format!("{count}ms")),
            };
            writeln!(self.text, "{key} = {value}").expect("writing to a String cannot fail");
        }
        self.count += 1;
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.count
    }
}

impl Config {
    /// The file's directory and the tables' rows. An error says that the rows cannot be read at all.
    pub fn with_rows(&self, rows: &Rows) -> Result<Merged, Problems> {
        let page = Page::new(&rows.text, Path::new(""), &|_| None);
        let table = page.syntax(&rows.text)?;
        let top = page.top(&table);
        let mut directory = self.directory.clone();
        let upstreams = Known::new("upstream", self.upstreams.keys().map(UpstreamName::as_str));
        self.add_tenants(&page, &top.list("tenant", &keys::TENANT, "id"), (&mut directory, &upstreams));
        let names: Vec<_> = directory.tenants.keys().cloned().collect();
        let tenants = Known::new("tenant", names.iter().map(TenantId::as_str));
        let grants = Grants {
            tenants: &tenants,
            upstreams: &upstreams,
            listen: &self.listen,
            tokens: self.token.as_ref(),
            plain: PlainPasswords::Refused,
        };
        self.add_users(&page, &top.list("user", &keys::USER, "name"), (&mut directory, &grants));
        let mut left_out = page.problems();
        for problem in &mut left_out {
            problem.line = None;
        }
        Ok(Merged { directory, left_out })
    }

    fn add_tenants(
        &self,
        page: &Page<'_>,
        sections: &[Section<'_>],
        (directory, upstreams): (&mut Directory, &Known<'_>),
    ) {
        let is_gateway = |name: &str| is_gateway(&self.directory.users, name);
        // Tenants that would give the file's user names a second meaning.
        let dotted = self.directory.users.keys().map(UserName::as_str).filter(|name| name.contains('.'));
        let taken: HashSet<&str> = dotted
            .flat_map(|name| other_readings(name, is_gateway, |_| true).map(|(_, rest)| rest))
            .collect();
        for section in sections {
            let read = page.clean(|| {
                let tenant = tenant(section, self.directory.defaults, upstreams)?;
                if self.directory.tenants.contains_key(&tenant.id) {
                    section.report("id", in_file());
                }
                if taken.contains(tenant.id.as_str()) {
                    let what = "would give a user name of the file a second meaning";
                    section.report("id", refuse(what, "rename the tenant, or the user"));
                }
                Some(tenant)
            });
            if let Some(tenant) = read {
                directory.tenants.insert(tenant.id.clone(), Arc::new(tenant));
            }
        }
    }

    fn add_users(
        &self,
        page: &Page<'_>,
        sections: &[Section<'_>],
        (directory, grants): (&mut Directory, &Grants<'_>),
    ) {
        let mut read = Vec::with_capacity(sections.len());
        for section in sections {
            let user = page.clean(|| {
                let user = user(section, grants)?;
                if self.directory.users.contains_key(&user.name) {
                    section.report("name", in_file());
                }
                Some(user)
            });
            read.extend(user.map(|user| (section, Arc::new(user))));
        }
        for (_, user) in &read {
            directory.users.insert(user.name.clone(), Arc::clone(user));
        }
        let all = directory.users.clone();
        let is_gateway = |name: &str| is_gateway(&all, name);
        let rows: HashMap<&str, &Section<'_>> =
            read.iter().map(|(section, user)| (user.name.as_str(), *section)).collect();
        for name in all.keys().map(UserName::as_str).filter(|name| name.contains('.')) {
            for (first, rest) in other_readings(name, is_gateway, |id| grants.tenants.has(id)) {
                // Of two that cannot be there together, the file's stays.
                let Some((wrong, section)) =
                    [name, first].into_iter().find_map(|one| Some((one, rows.get(one)?)))
                else {
                    continue;
                };
                section.report("name", ambiguous(first, rest));
                directory.users.remove(wrong);
            }
        }
    }
}

fn is_gateway(users: &HashMap<UserName, Arc<User>>, name: &str) -> bool {
    users.get(name).is_some_and(|user| user.grant.is_gateway())
}

fn in_file() -> super::problem::InvalidValue {
    refuse("is in the configuration file too, which counts", "remove one of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[upstream.main]\ndatabase = 'app'\nuser = 'app'\n[defaults]\nmax_pins = 7\n[[tenant]]\nid = 'filed'\n";
    const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn text(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }

    fn merged(rows: &Rows) -> Merged {
        let user = |name: &str, grant: &str| {
            format!("[[user]]\nname = '{name}'\npassword = '{VERIFIER}'\n{grant}\n")
        };
        let file = [FILE, &user("api", "tenants = ['*']"), &user("api.old", "tenant = 'filed'")].concat();
        let config = super::super::parse(&file, Path::new("."), &|_| None).unwrap();
        config.with_rows(rows).unwrap()
    }

    #[test]
    fn rows_are_read_as_the_file_is_with_its_defaults() {
        let mut rows = Rows::default();
        let times = [("queue_timeout", Cell::Milliseconds(1500)), ("max_clients", Cell::Count(3))];
        rows.add(DirectoryTable::Tenants, [("id", text("acme"))].into_iter().chain(times));
        let secret = "x\"\n[[user]]\nname = 'evil'\u{7}";
        let schema = [("isolation", text("schema")), ("role_password", text(secret))];
        rows.add(DirectoryTable::Tenants, [("id", text("globex"))].into_iter().chain(schema));
        rows.add(
            DirectoryTable::Users,
            [("name", text("a\"b]")), ("password", text(VERIFIER)), ("tenant", text("acme"))],
        );
        let granted = Cell::Texts(vec!["acme".to_owned(), "filed".to_owned()]);
        let comment = ("tenant_comment", Cell::Flag(true));
        rows.add(
            DirectoryTable::Users,
            [("name", text("gate")), ("password", text(VERIFIER)), ("tenants", granted), comment],
        );
        let Merged { directory, left_out } = merged(&rows);
        assert_eq!(left_out, []);
        let limits = directory.tenants["acme"].limits;
        assert_eq!((limits.queue_timeout.as_millis(), limits.max_clients, limits.max_pins), (1500, 3, 7));
        let place = &directory.tenants["globex"].place;
        assert_eq!(place.schema.as_deref(), Some("tenant_globex"));
        assert_eq!(place.role.as_ref().unwrap().1.as_ref().unwrap().expose(), secret);
        assert!(directory.users["gate"].tenant_comment);
        assert_eq!(
            (directory.tenants.len(), directory.users.len()),
            (3, 4),
            "nothing in a value is read as a row"
        );
    }

    #[test]
    fn a_row_that_breaks_a_rule_is_left_out_and_the_others_hold() {
        let user = |name: &str, grant: (&'static str, Cell)| {
            [("name", text(name)), ("password", text(VERIFIER)), grant]
        };
        let all = || ("tenants", Cell::Texts(vec!["*".to_owned()]));
        let mut rows = Rows::default();
        for (id, more) in [
            ("acme", None),
            ("filed", None),
            ("old", None),
            ("bad", Some(("max_clients", Cell::Count(0)))),
            ("lost", Some(("upstream", text("nowhere")))),
            ("odd", Some(("schema", text("x")))),
            ("", None),
        ] {
            rows.add(DirectoryTable::Tenants, [("id", text(id))].into_iter().chain(more));
        }
        for (name, grant) in [
            ("acme_app", ("tenant", text("acme"))),
            ("api", all()),
            ("stray", ("tenant", text("lost"))),
            ("api.acme", ("tenant", text("acme"))),
            ("gate", all()),
            ("gate.acme", ("tenant", text("acme"))),
        ] {
            rows.add(DirectoryTable::Users, user(name, grant));
        }
        rows.add(
            DirectoryTable::Users,
            [("name", text("open")), ("password", text("hunter2")), ("tenant", text("acme"))],
        );
        rows.add(DirectoryTable::Users, [("name", text("none")), ("tenant", text("acme"))]);
        let Merged { directory, left_out } = merged(&rows);
        let mut tenants: Vec<&str> = directory.tenants.keys().map(TenantId::as_str).collect();
        let mut users: Vec<&str> = directory.users.keys().map(UserName::as_str).collect();
        tenants.sort_unstable();
        users.sort_unstable();
        assert_eq!(tenants, ["acme", "filed"]);
        assert_eq!(users, ["acme_app", "api", "api.old", "gate"]);
        assert_eq!(left_out.len(), 12, "{left_out:#?}");
        assert!(left_out.iter().all(|problem| !problem.to_string().contains("hunter2")), "{left_out:#?}");
    }
}
