//! What each tenant table lacks: row-level security that binds its owner too, a policy of the tenant, the pin,
//! and privileges that no policy limits taken away.

use tokio_postgres::{Client, Row};

use super::policy::{Column, SEALED_TENANT};
use super::{Plan, ProtectError, ProtectOptions};
use crate::directory::ContextMode;

/// A tenant table as the catalogs have it.
struct Table {
    oid: u32,
    /// Qualified and quoted.
    name: String,
    column: Column,
    is_enabled: bool,
    flags: Flags,
    /// Who holds TRUNCATE, REFERENCES or TRIGGER: the login role, PUBLIC.
    unlimited: Vec<String>,
}

/// What else is to know about a table.
#[expect(clippy::struct_excessive_bools, reason = "one row of a catalog's answers")]
struct Flags {
    is_forced: bool,
    is_ours: bool,
    is_the_logins: bool,
    is_indexed: bool,
    is_partitioned: bool,
    has_unlimited: bool,
}

/// A policy as the catalogs have it.
#[expect(clippy::struct_excessive_bools, reason = "one row of a catalog's answers")]
struct Policy {
    table: u32,
    name: String,
    permissive: bool,
    /// For every command.
    for_all: bool,
    to_public: bool,
    binds_login: bool,
    using: Option<String>,
    check: Option<String>,
}

/// The tables that were named; each must be there.
pub(super) async fn find(client: &Client, options: &ProtectOptions) -> Result<Vec<u32>, ProtectError> {
    let mut found = Vec::new();
    for table in &options.tables {
        let sql = "SELECT c.oid, EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = $2::text::name AND NOT attisdropped)
                   FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p')";
        let rows = client.query(sql, &[table, &options.column]).await?;
        let Some(row) = rows.first() else {
            return Err(ProtectError::Refused(format!("there is no table {table}")));
        };
        if !row.try_get::<_, bool>(1)? {
            return Err(ProtectError::Refused(format!("table {table} has no column {:?}", options.column)));
        }
        found.push(row.try_get(0)?);
    }
    Ok(found)
}

/// What all of them lack.
pub(super) async fn compare(
    client: &Client,
    options: &ProtectOptions,
    (role, named): (&str, &[u32]),
    plan: &mut Plan,
) -> Result<(), ProtectError> {
    let rows = client
        .query(include_str!("tables.sql"), &[&options.role, &options.column, &named, &options.roles])
        .await?;
    let tables = rows.iter().map(Table::read).collect::<Result<Vec<_>, _>>()?;
    if tables.is_empty() {
        plan.notes.push(format!(
            "no table with a column {:?} is within reach of {role}: grant it privileges, or name tables by --table",
            options.column
        ));
    }
    let policies = policies(client, options, &tables).await?;
    for table in &tables {
        let own: Vec<&Policy> = policies.iter().filter(|policy| policy.table == table.oid).collect();
        let mut part = Plan::default();
        table.compare(options, role, &own, &mut part);
        plan.notes.append(&mut part.notes);
        if table.flags.is_the_logins {
            plan.blocked.push(format!(
                "table {} belongs to the login role {role} or to one that it can become: give it to another",
                table.name
            ));
        } else if table.flags.is_ours {
            plan.steps.append(&mut part.steps);
        } else if !part.steps.is_empty() {
            plan.blocked
                .push(format!("table {} belongs to another role, which has to install its part", table.name));
        }
    }
    Ok(())
}

async fn policies(
    client: &Client,
    options: &ProtectOptions,
    tables: &[Table],
) -> Result<Vec<Policy>, ProtectError> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let sql = "SELECT polrelid, polname::text, polpermissive, polcmd = '*', polroles = '{0}',
                      EXISTS (SELECT FROM unnest(polroles) AS p LEFT JOIN pg_roles r ON r.rolname = ANY ($2::text[]) WHERE p = 0 OR pg_has_role(r.oid, p, 'USAGE')),
                      pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
               FROM pg_policy WHERE polrelid = ANY ($1) ORDER BY polrelid, polname";
    let holders: Vec<&String> = std::iter::once(&options.role).chain(&options.roles).collect();
    let rows = client.query(sql, &[&oids, &holders]).await?;
    Ok(rows.iter().map(Policy::read).collect::<Result<Vec<_>, _>>()?)
}

impl Table {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            oid: row.try_get(0)?,
            name: row.try_get(1)?,
            column: Column { name: row.try_get(2)?, cast: row.try_get(3)? },
            is_enabled: row.try_get(4)?,
            flags: Flags {
                is_forced: row.try_get(5)?,
                is_ours: row.try_get(6)?,
                is_the_logins: row.try_get(7)?,
                is_indexed: row.try_get(8)?,
                is_partitioned: row.try_get(9)?,
                has_unlimited: row.try_get(11)?,
            },
            unlimited: row.try_get(10)?,
        })
    }

    fn compare(&self, options: &ProtectOptions, role: &str, policies: &[&Policy], plan: &mut Plan) {
        let table = &self.name;
        let part = format!("table {table}");
        if !self.is_enabled {
            plan.add(&part, format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"));
        }
        if !self.flags.is_forced {
            plan.add(&part, format!("ALTER TABLE {table} FORCE ROW LEVEL SECURITY"));
        }
        // A table with rules of its own keeps them: one more permissive policy could only widen them.
        if !policies.iter().any(|policy| policy.permissive && policy.binds_login) {
            let equality = self.column.equality(&options.tenant());
            plan.add(
                &part,
                format!(
                    "CREATE POLICY pgtenant_tenant ON {table} FOR ALL TO PUBLIC\n  USING ({equality})\n  WITH CHECK ({equality})"
                ),
            );
        }
        for policy in policies {
            self.rewrite(options, policy, plan);
        }
        self.compare_pin(options, policies.iter().find(|policy| policy.name == "pgtenant_pin"), plan);
        for holder in &self.unlimited {
            plan.add(&part, format!("REVOKE TRUNCATE, REFERENCES, TRIGGER ON {table} FROM {holder}"));
        }
        if self.unlimited.is_empty() && self.flags.has_unlimited && !self.flags.is_the_logins {
            plan.notes.push(format!(
                "{role} has TRUNCATE, REFERENCES or TRIGGER on {table} through another role: revoke them there"
            ));
        }
        if !self.flags.is_indexed {
            let concurrently = if self.flags.is_partitioned { "" } else { "CONCURRENTLY " };
            plan.notes.push(format!(
                "no index of {table} starts with the tenant: CREATE INDEX {concurrently}ON {table} ({})",
                self.column.name
            ));
        }
    }

    fn compare_pin(&self, options: &ProtectOptions, there: Option<&&Policy>, plan: &mut Plan) {
        let (table, tenant) = (&self.name, options.tenant());
        let part = format!("table {table}");
        if let Some(policy) = there {
            if policy.is_pin(&self.column, &tenant) {
                return;
            }
            if options.context == ContextMode::Plain && policy.asks_for_a_seal() {
                plan.notes.push(format!(
                    "{table} asks for the sealed context, which stays: a proxy with context = \"plain\" is refused there"
                ));
                return;
            }
            plan.add(&part, format!("DROP POLICY pgtenant_pin ON {table}"));
        }
        let pin = self.column.pin(&tenant);
        plan.add(
            &part,
            format!(
                "CREATE POLICY pgtenant_pin ON {table} AS RESTRICTIVE FOR ALL TO PUBLIC\n  USING ({pin})\n  WITH CHECK ({pin})"
            ),
        );
    }

    /// The same policy with the setting read once per statement, or under a seal with the sealed tenant.
    fn rewrite(&self, options: &ProtectOptions, policy: &Policy, plan: &mut Plan) {
        let is_sealed = matches!(options.context, ContextMode::Sealed(_));
        let is_slow = |printed: &Option<String>| {
            printed.as_ref().is_some_and(|text| {
                self.column.is_slow_equality(text, &options.setting)
                    || (is_sealed && self.column.is_equality(text, &options.setting))
            })
        };
        let equality = self.column.equality(&options.tenant());
        let using = is_slow(&policy.using).then(|| format!("\n  USING ({equality})"));
        let check = is_slow(&policy.check).then(|| format!("\n  WITH CHECK ({equality})"));
        if using.is_some() || check.is_some() {
            let changes = [using, check].into_iter().flatten().collect::<String>();
            let name = policy.name.replace('"', "\"\"");
            plan.add(
                &format!("table {}", self.name),
                format!("ALTER POLICY \"{name}\" ON {}{changes}", self.name),
            );
        }
    }
}

impl Policy {
    /// Whether it is the pin to this SQL of the tenant, for every command and every role.
    fn is_pin(&self, column: &Column, tenant: &str) -> bool {
        let is_pin =
            |printed: &Option<String>| printed.as_ref().is_some_and(|printed| column.is_pin(printed, tenant));
        let is_whole = is_pin(&self.using) && (self.check.is_none() || is_pin(&self.check));
        !self.permissive && self.for_all && self.to_public && is_whole
    }

    fn asks_for_a_seal(&self) -> bool {
        self.using.as_ref().is_some_and(|printed| printed.contains(SEALED_TENANT))
    }

    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            table: row.try_get(0)?,
            name: row.try_get(1)?,
            permissive: row.try_get(2)?,
            for_all: row.try_get(3)?,
            to_public: row.try_get(4)?,
            binds_login: row.try_get(5)?,
            using: row.try_get(6)?,
            check: row.try_get(7)?,
        })
    }
}
