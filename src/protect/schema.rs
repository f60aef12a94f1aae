//! The schema `pgtenant`: keys, the door `enter`, and `current_tenant`, which policies ask.
//! Functions are only ever replaced, because policies depend on them.

use tokio_postgres::Client;

use super::{Plan, ProtectError, Sql, Step, Wish, literal};
use crate::directory::SealKey;
use crate::seal::key_id;

/// One function: what stands before its body, and the body.
struct Function {
    signature: &'static str,
    head: &'static str,
    /// Volatility, definer, parallel and cost as the catalog has them.
    traits: &'static str,
    body: &'static str,
    /// Whether the login role calls it.
    is_door: bool,
}

const FUNCTIONS: [Function; 4] = [
    Function {
        signature: "pgtenant.hmac_pad(bytea, integer)",
        head: "pgtenant.hmac_pad(k bytea, x integer) RETURNS bytea LANGUAGE plpgsql IMMUTABLE",
        traits: "i|f|u|100",
        body: include_str!("hmac_pad.sql"),
        is_door: false,
    },
    Function {
        signature: "pgtenant.add_key(text)",
        head: "pgtenant.add_key(hex text) RETURNS text LANGUAGE plpgsql VOLATILE",
        traits: "v|f|u|100",
        body: include_str!("add_key.sql"),
        is_door: false,
    },
    Function {
        signature: "pgtenant.enter(text, text)",
        head: "pgtenant.enter(p_tenant text, p_proof text) RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE",
        traits: "v|t|u|100",
        body: include_str!("enter.sql"),
        is_door: true,
    },
    Function {
        signature: "pgtenant.current_tenant()",
        head: "pgtenant.current_tenant() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED COST 1000",
        traits: "s|t|r|1000",
        body: include_str!("current_tenant.sql"),
        is_door: true,
    },
];

const PART: &str = "schema pgtenant";

/// The login role as SQL writes it; refused if no policy would bind it.
pub(super) async fn login_role(client: &Client, wish: &Wish) -> Result<String, ProtectError> {
    let sql =
        "SELECT quote_ident(rolname), rolsuper OR rolbypassrls, pg_has_role(rolname, current_user, 'MEMBER'),
                      current_setting('server_version_num')::int4
               FROM pg_roles WHERE rolname = $1::text::name";
    let rows = client.query(sql, &[&wish.role]).await?;
    let Some(row) = rows.first() else {
        return Err(refused(format!("there is no role {:?}, the upstream's user", wish.role)));
    };
    if row.try_get::<_, i32>(3)? < 140_000 {
        return Err(refused("PostgreSQL 14 is the oldest version that can be protected".to_owned()));
    }
    if row.try_get(1)? {
        let role = &wish.role;
        return Err(refused(format!(
            "the login role {role:?} is superuser or BYPASSRLS: no policy binds it"
        )));
    }
    if row.try_get(2)? {
        return Err(refused(format!(
            "the login role {:?} can become the role that installs: run as a maintenance user that owns the tables",
            wish.role
        )));
    }
    Ok(row.try_get(0)?)
}

fn refused(what: String) -> ProtectError {
    ProtectError::Refused(what)
}

/// What the schema lacks.
pub(super) async fn compare(
    client: &Client,
    wish: &Wish,
    (role, key): (&str, &SealKey),
    plan: &mut Plan,
) -> Result<(), ProtectError> {
    check_owners(client, wish).await?;
    let there = client
        .query_one(
            "SELECT to_regnamespace('pgtenant') IS NOT NULL, to_regclass('pgtenant.key') IS NOT NULL",
            &[],
        )
        .await?;
    let (has_schema, has_table): (bool, bool) = (there.try_get(0)?, there.try_get(1)?);
    if !has_schema {
        plan.add(PART, "CREATE SCHEMA pgtenant");
        plan.add(PART, format!("GRANT USAGE ON SCHEMA pgtenant TO {role}"));
    }
    if !has_table {
        plan.add(PART, include_str!("key.sql").trim_end());
        plan.add(PART, "REVOKE ALL ON pgtenant.key FROM PUBLIC");
    }
    for function in &FUNCTIONS {
        compare_function(client, wish, (function, role), plan).await?;
    }
    compare_privileges(client, role, plan).await?;
    let kids = if has_table { kids(client).await? } else { Vec::new() };
    compare_keys((key, wish.retire_keys), &kids, plan);
    Ok(())
}

/// What somebody else owns in the schema cannot be trusted, nor mended.
async fn check_owners(client: &Client, wish: &Wish) -> Result<(), ProtectError> {
    let sql = "SELECT what, pg_get_userbyid(owner)::text, pg_has_role($1::text::name, owner, 'MEMBER')
               FROM (SELECT 'schema pgtenant', nspowner FROM pg_namespace WHERE nspname = 'pgtenant'
                     UNION ALL SELECT c.oid::regclass::text, relowner FROM pg_class c WHERE relnamespace = to_regnamespace('pgtenant')
                     UNION ALL SELECT p.oid::regprocedure::text, proowner FROM pg_proc p WHERE pronamespace = to_regnamespace('pgtenant')
                    ) AS t (what, owner)
               WHERE NOT pg_has_role(current_user, owner, 'USAGE') OR pg_has_role($1::text::name, owner, 'MEMBER')";
    if let Some(row) = client.query(sql, &[&wish.role]).await?.first() {
        let (what, owner): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        return Err(refused(if row.try_get(2)? {
            format!("{what} belongs to {owner:?}, which the login role is or can become")
        } else {
            format!("{what} belongs to {owner:?}: install as that role")
        }));
    }
    Ok(())
}

async fn compare_function(
    client: &Client,
    wish: &Wish,
    (function, role): (&Function, &str),
    plan: &mut Plan,
) -> Result<(), ProtectError> {
    let body = function.body.replace("{setting}", &literal(&wish.setting));
    let sql = "SELECT prosrc, concat_ws('|', provolatile, prosecdef, proparallel, procost) || ' ' || array_to_string(proconfig, ';')
               FROM pg_proc WHERE oid = to_regprocedure($1)";
    let wanted = format!("{} search_path=pg_catalog, pg_temp", function.traits);
    let rows = client.query(sql, &[&function.signature]).await?;
    let there = rows.first();
    let is_same = match there {
        Some(row) => {
            row.try_get::<_, String>(0)? == body
                && row.try_get::<_, Option<String>>(1)?.as_deref() == Some(&wanted)
        }
        None => false,
    };
    if !is_same {
        plan.add(
            PART,
            format!(
                "CREATE OR REPLACE FUNCTION {}\nSET search_path = pg_catalog, pg_temp AS $pgtenant${body}$pgtenant$",
                function.head
            ),
        );
    }
    if there.is_none() {
        plan.add(PART, format!("REVOKE ALL ON FUNCTION {} FROM PUBLIC", function.signature));
        if function.is_door {
            plan.add(PART, format!("GRANT EXECUTE ON FUNCTION {} TO {role}", function.signature));
        }
    }
    Ok(())
}

/// Grants on what is there: nobody but its owner reads keys, everybody's doors are the login role's only.
async fn compare_privileges(client: &Client, role: &str, plan: &mut Plan) -> Result<(), ProtectError> {
    let sql = "SELECT object, is_door, is_table,
                      coalesce(array_agg(DISTINCT CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
                               FILTER (WHERE grantee <> owner), '{}')
               FROM (SELECT 'FUNCTION ' || s, d, false, proowner, coalesce(proacl, acldefault('f', proowner))
                     FROM unnest($1::text[], $2::bool[]) AS f (s, d) JOIN pg_proc p ON p.oid = to_regprocedure(s)
                     UNION ALL SELECT 'TABLE pgtenant.key', false, true, relowner, coalesce(relacl, acldefault('r', relowner))
                     FROM pg_class WHERE oid = to_regclass('pgtenant.key')
                     UNION ALL SELECT 'TABLE pgtenant.key', false, true, relowner, attacl
                     FROM pg_class c JOIN pg_attribute ON attrelid = c.oid WHERE c.oid = to_regclass('pgtenant.key')
                     UNION ALL SELECT 'SCHEMA pgtenant', true, false, nspowner, coalesce(nspacl, acldefault('n', nspowner))
                     FROM pg_namespace WHERE nspname = 'pgtenant') AS o (object, is_door, is_table, owner, acl)
               CROSS JOIN LATERAL aclexplode(acl)
               WHERE NOT (object = 'SCHEMA pgtenant' AND privilege_type <> 'USAGE')
               GROUP BY object, is_door, is_table";
    let signatures: Vec<&str> = FUNCTIONS.iter().map(|function| function.signature).collect();
    let doors: Vec<bool> = FUNCTIONS.iter().map(|function| function.is_door).collect();
    for row in client.query(sql, &[&signatures, &doors]).await? {
        let (object, is_door): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
        let grantees: Vec<String> = row.try_get(3)?;
        // A door opens to proofs only, so a role that was given it on purpose may keep it.
        for other in grantees.iter().filter(|grantee| !is_door || *grantee == "PUBLIC") {
            plan.add(PART, format!("REVOKE ALL ON {object} FROM {other}"));
        }
        if is_door && !grantees.iter().any(|grantee| grantee == role) {
            let privilege = if object.starts_with("SCHEMA") { "USAGE" } else { "EXECUTE" };
            plan.add(PART, format!("GRANT {privilege} ON {object} TO {role}"));
        }
    }
    let creators =
        "SELECT DISTINCT CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
                    FROM pg_namespace CROSS JOIN LATERAL aclexplode(nspacl)
                    WHERE nspname = 'pgtenant' AND grantee <> nspowner AND privilege_type = 'CREATE'";
    for row in client.query(creators, &[]).await? {
        plan.add(PART, format!("REVOKE CREATE ON SCHEMA pgtenant FROM {}", row.try_get::<_, String>(0)?));
    }
    Ok(())
}

async fn kids(client: &Client) -> Result<Vec<String>, ProtectError> {
    let rows = client.query("SELECT kid FROM pgtenant.key ORDER BY kid", &[]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

fn compare_keys((key, retires): (&SealKey, bool), kids: &[String], plan: &mut Plan) {
    let own = key_id(key);
    if !kids.contains(&own) {
        plan.steps.push(Step { part: format!("key {own}"), sql: Sql::AddKey });
    }
    let others: Vec<&str> = kids.iter().filter(|kid| **kid != own).map(String::as_str).collect();
    if others.is_empty() {
        return;
    }
    if retires {
        plan.add("old keys", format!("DELETE FROM pgtenant.key WHERE kid <> {}", literal(&own)));
    } else {
        plan.notes.push(format!(
            "proofs of other keys are accepted too: {}; --retire-keys takes them away",
            others.join(", ")
        ));
    }
}
