//! The canary's table under the sealed context: one row for each of its two tenants, behind the same pin as every
//! tenant table.

use tokio_postgres::Client;

use super::policy::{Column, SEALED_TENANT};
use super::{Plan, ProtectError, ProtectOptions, literal};
use crate::names::TenantId;

/// Makes the table and fills it with these tenants; may run again. Its owner is bound by the pin too, except
/// while it fills the table.
pub fn canary_sql(role: &str, tenants: &[TenantId]) -> Vec<String> {
    let rows: Vec<String> = tenants.iter().map(|tenant| format!("({})", literal(tenant.as_str()))).collect();
    let pin = column().pin(SEALED_TENANT);
    [
        "CREATE TABLE IF NOT EXISTS pgtenant.canary (tenant_id text PRIMARY KEY)".to_owned(),
        "REVOKE ALL ON pgtenant.canary FROM PUBLIC".to_owned(),
        format!("REVOKE ALL ON pgtenant.canary FROM {role}"),
        "ALTER TABLE pgtenant.canary NO FORCE ROW LEVEL SECURITY".to_owned(),
        "DELETE FROM pgtenant.canary".to_owned(),
        format!("INSERT INTO pgtenant.canary (tenant_id) VALUES {}", rows.join(", ")),
        "ALTER TABLE pgtenant.canary ENABLE ROW LEVEL SECURITY".to_owned(),
        "ALTER TABLE pgtenant.canary FORCE ROW LEVEL SECURITY".to_owned(),
        "DROP POLICY IF EXISTS pgtenant_tenant ON pgtenant.canary".to_owned(),
        "CREATE POLICY pgtenant_tenant ON pgtenant.canary FOR SELECT TO PUBLIC USING (true)".to_owned(),
        "DROP POLICY IF EXISTS pgtenant_pin ON pgtenant.canary".to_owned(),
        format!(
            "CREATE POLICY pgtenant_pin ON pgtenant.canary AS RESTRICTIVE FOR ALL TO PUBLIC\n  USING ({pin})\n  WITH CHECK ({pin})"
        ),
        format!("GRANT SELECT ON pgtenant.canary TO {role}"),
        format!("COMMENT ON TABLE pgtenant.canary IS {}", literal(&contents(tenants))),
    ]
    .into()
}

fn column() -> Column {
    Column { name: "tenant_id".to_owned(), cast: None }
}

/// What the table's comment says, because its owner cannot read the rows.
fn contents(tenants: &[TenantId]) -> String {
    let ids: Vec<String> = tenants.iter().map(|tenant| format!("{:?}", tenant.as_str())).collect();
    format!("pgtenant: {}", ids.join(", "))
}

/// What the canary lacks; nothing if there is none.
pub(super) async fn compare(
    client: &Client,
    options: &ProtectOptions,
    role: &str,
    plan: &mut Plan,
) -> Result<(), ProtectError> {
    let Some(tenants) = &options.canary else { return Ok(()) };
    let sql = "SELECT coalesce(obj_description(c.oid, 'pg_class') = $1 AND relrowsecurity AND relforcerowsecurity
                               AND has_table_privilege($2::text::name, c.oid, 'SELECT')
                               AND NOT has_table_privilege($2::text::name, c.oid, 'INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER')
                               AND NOT has_any_column_privilege($2::text::name, c.oid, 'INSERT,UPDATE,REFERENCES')
                               AND NOT polpermissive AND polcmd = '*' AND polroles = '{0}', false),
                      pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
               FROM pg_class c JOIN pg_policy p ON p.polrelid = c.oid AND p.polname = 'pgtenant_pin'
               WHERE c.oid = to_regclass('pgtenant.canary')
                 AND EXISTS (SELECT FROM pg_policy t WHERE t.polrelid = c.oid AND t.polpermissive AND t.polcmd = 'r'
                                AND t.polroles = '{0}' AND pg_get_expr(t.polqual, t.polrelid) = 'true')";
    let rows = client.query(sql, &[&contents(tenants), &options.role]).await?;
    let mut is_whole = false;
    if let Some(row) = rows.first() {
        let (using, check): (Option<String>, Option<String>) = (row.try_get(1)?, row.try_get(2)?);
        let is_pin =
            |printed: Option<String>| printed.is_some_and(|text| column().is_pin(&text, SEALED_TENANT));
        is_whole = row.try_get(0)? && is_pin(using) && is_pin(check);
    }
    if !is_whole {
        for statement in canary_sql(role, tenants) {
            plan.add("canary", statement);
        }
    }
    Ok(())
}
