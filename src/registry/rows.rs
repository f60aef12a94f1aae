//! The queries: all rows of both tables in the words of the configuration, and the change of one tenant's place.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::{Destination, Fault};
use crate::config::rows::{Cell, DirectoryTable, Rows};
use crate::directory::Isolation;
use crate::names::TenantId;

/// How a column is read.
#[derive(Debug, Clone, Copy)]
enum CellType {
    Text,
    Texts,
    Count,
    Flag,
    Interval,
}

type Columns = &'static [(&'static str, CellType)];

const TENANTS: Columns = &[
    ("id", CellType::Text),
    ("upstream", CellType::Text),
    ("isolation", CellType::Text),
    ("database", CellType::Text),
    ("schema", CellType::Text),
    ("role", CellType::Text),
    ("role_password", CellType::Text),
    ("max_clients", CellType::Count),
    ("max_servers", CellType::Count),
    ("max_pins", CellType::Count),
    ("queue_timeout", CellType::Interval),
    ("statement_timeout", CellType::Interval),
    ("idle_transaction_timeout", CellType::Interval),
];

const USERS: Columns = &[
    ("name", CellType::Text),
    ("password", CellType::Text),
    ("certificate", CellType::Text),
    ("token", CellType::Text),
    ("tenant", CellType::Text),
    ("tenants", CellType::Texts),
    ("tenant_comment", CellType::Flag),
    ("allow", CellType::Texts),
    ("pool_mode", CellType::Text),
    ("pinning", CellType::Text),
];

/// Both tables as the server sent them, in an order that does not change.
pub(super) struct Raw {
    tenants: Vec<Row>,
    users: Vec<Row>,
}

/// Reads all rows.
pub(super) async fn load(client: &Client, max_rows: usize) -> Result<Raw, Fault> {
    let limit = i64::try_from(max_rows).unwrap_or(i64::MAX).saturating_add(1);
    let all = async |table: &'static str, columns| {
        let found = client.query_typed(&query(table, columns), &[(&limit, Type::INT8)]).await?;
        if found.len() > max_rows { Err(Fault::TooMany(table, max_rows)) } else { Ok(found) }
    };
    Ok(Raw { tenants: all("pgtenant.tenants", TENANTS).await?, users: all("pgtenant.users", USERS).await? })
}

impl Raw {
    /// The same in the words of the configuration.
    pub(super) fn read(&self) -> Result<Rows, Fault> {
        let mut rows = Rows::default();
        for (table, raw, columns) in
            [(DirectoryTable::Tenants, &self.tenants, TENANTS), (DirectoryTable::Users, &self.users, USERS)]
        {
            for row in raw {
                rows.add(table, cells(row, columns)?);
            }
        }
        Ok(rows)
    }
}

fn query(table: &str, columns: Columns) -> String {
    let column = |(name, kind): &(&str, CellType)| match kind {
        CellType::Text => format!("{name}::text"),
        CellType::Texts => format!("{name}::text[]"),
        CellType::Count => format!("{name}::int8"),
        CellType::Flag => format!("{name}::bool"),
        // Away from zero: the shortest limit must not become none.
        CellType::Interval => {
            format!("(ceil(abs(extract(epoch FROM {name}) * 1000)) * sign(extract(epoch FROM {name})))::int8")
        }
    };
    let list: Vec<String> = columns.iter().map(column).collect();
    format!("SELECT {} FROM {table} ORDER BY 1 LIMIT $1", list.join(", "))
}

fn cells(row: &Row, columns: Columns) -> Result<Vec<(&'static str, Cell)>, tokio_postgres::Error> {
    let mut cells = Vec::with_capacity(columns.len());
    for (at, (name, kind)) in columns.iter().enumerate() {
        let cell = match kind {
            CellType::Text => row.try_get::<_, Option<String>>(at)?.map(Cell::Text),
            CellType::Texts => row.try_get::<_, Option<Vec<String>>>(at)?.map(Cell::Texts),
            CellType::Count => row.try_get::<_, Option<i64>>(at)?.map(Cell::Count),
            CellType::Flag => row.try_get::<_, Option<bool>>(at)?.map(Cell::Flag),
            CellType::Interval => row.try_get::<_, Option<i64>>(at)?.map(Cell::Milliseconds),
        };
        // What a flag says by being false, the file says by having no such line.
        cells.extend(cell.filter(|cell| *cell != Cell::Flag(false)).map(|cell| (*name, cell)));
    }
    Ok(cells)
}

/// Writes a tenant's new place; false if it has no row.
pub(super) async fn relocate(client: &Client, tenant: &TenantId, to: &Destination) -> Result<bool, Fault> {
    // What means nothing in the new place would be a problem there.
    let sql = match to.isolation {
        Isolation::Row => {
            "UPDATE pgtenant.tenants SET isolation = $2, upstream = coalesce($3, upstream),
                    database = $4, schema = $5, role = $6, role_password = NULL WHERE id = $1"
        }
        Isolation::Schema | Isolation::Database => {
            "UPDATE pgtenant.tenants SET isolation = $2, upstream = coalesce($3, upstream),
                    database = $4, schema = $5, role = coalesce($6, role) WHERE id = $1"
        }
    };
    let (id, isolation) = (tenant.as_str(), to.isolation.label());
    let changed = client
        .execute_typed(
            sql,
            &[
                (&id, Type::TEXT),
                (&isolation, Type::TEXT),
                (&to.upstream, Type::TEXT),
                (&to.database, Type::TEXT),
                (&to.schema, Type::TEXT),
                (&to.role, Type::TEXT),
            ],
        )
        .await?;
    Ok(changed == 1)
}
