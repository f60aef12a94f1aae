//! The canary's table: one row for each of its two tenants, behind the same pin as every tenant table.

use tokio_postgres::Client;

use super::{Plan, ProtectError, Wish, literal};
use crate::names::TenantId;

/// Makes the table and fills it with these tenants; may run again. Its owner is bound by the pin too, except
/// while it fills the table.
pub fn canary_sql(role: &str, tenants: &[TenantId]) -> Vec<String> {
    let rows: Vec<String> = tenants.iter().map(|tenant| format!("({})", literal(tenant.as_str()))).collect();
    let pin = "tenant_id = ANY (ARRAY[(SELECT pgtenant.current_tenant())])";
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

/// What the table's comment says, because its owner cannot read the rows.
fn contents(tenants: &[TenantId]) -> String {
    let ids: Vec<String> = tenants.iter().map(|tenant| format!("{:?}", tenant.as_str())).collect();
    format!("pgtenant: {}", ids.join(", "))
}

/// What the canary lacks; nothing if there is none.
pub(super) async fn compare(
    client: &Client,
    wish: &Wish,
    role: &str,
    plan: &mut Plan,
) -> Result<(), ProtectError> {
    let Some(tenants) = &wish.canary else { return Ok(()) };
    let sql = "SELECT obj_description(c.oid, 'pg_class') = $1 AND relrowsecurity AND relforcerowsecurity
                      AND has_table_privilege($2::text::name, c.oid, 'SELECT')
                      AND EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid AND polname = 'pgtenant_pin' AND NOT polpermissive)
               FROM pg_class c WHERE c.oid = to_regclass('pgtenant.canary')";
    let rows = client.query(sql, &[&contents(tenants), &wish.role]).await?;
    let is_there = match rows.first() {
        Some(row) => row.try_get::<_, Option<bool>>(0)?.unwrap_or(false),
        None => false,
    };
    if !is_there {
        for statement in canary_sql(role, tenants) {
            plan.add("canary", statement);
        }
    }
    Ok(())
}
