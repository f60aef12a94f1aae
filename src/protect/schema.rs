//! The schema `pgtenant`: keys, the doors `hand_over` and `enter`, and `current_tenant`, which policies ask.
//! Functions are only ever replaced, because policies depend on them.

use tokio_postgres::Client;

use super::register::{self, Owner, Prerequisite, Work};
use super::{Enter, Plan, ProtectError, ProtectOptions, Sql, Step, literal};
use crate::directory::{ContextMode, SealKey};
use crate::seal::key_id;

/// One function: what stands before its body, and the body.
struct Function {
    signature: &'static str,
    head: &'static str,
    /// Volatility, definer, parallel, cost and settings as the catalog has them.
    traits: &'static str,
    body: &'static str,
    whose: Whose,
}

impl Function {
    /// The clause without which names in the body are the caller's to give a meaning.
    fn search_path(&self) -> &'static str {
        if self.traits.contains("search_path") { "SET search_path = pg_catalog, pg_temp " } else { "" }
    }
}

/// Whose rights a function has, and who calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The installing role's, for itself.
    Installers,
    /// The register's, for the login role.
    Registers,
}

/// Roles, quoted, that may call what has the register's rights.
struct Callers<'a> {
    login: &'a str,
    /// Roles that its sessions may set, in which policies ask for the tenant and a hand-over may happen.
    roles: Vec<String>,
    /// The owner of the schema, and of tables: policies bind it too, and views and functions act as it.
    owner: String,
    /// Whether the register's functions belong to a role of their own.
    has_role: bool,
}

impl Callers<'_> {
    fn of(&self, object: &str) -> impl Iterator<Item = &str> {
        let owner = object.ends_with("pgtenant.current_tenant()").then_some(self.owner.as_str());
        std::iter::once(self.login).chain(self.roles.iter().map(String::as_str)).chain(owner)
    }
}

/// Where the tags of `enter` are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tags {
    /// Everywhere, for instances of earlier versions.
    Everywhere,
    /// Only where no sequence can be set.
    InRecovery,
}

impl Tags {
    const fn condition(self) -> &'static str {
        match self {
            Self::Everywhere => "true",
            Self::InRecovery => "pg_catalog.pg_is_in_recovery()",
        }
    }
}

const FUNCTIONS: [Function; 5] = [
    Function {
        signature: "pgtenant.hmac_pad(bytea, integer)",
        head: "pgtenant.hmac_pad(k bytea, x integer) RETURNS bytea LANGUAGE plpgsql IMMUTABLE",
        traits: "i|f|u|100 search_path=pg_catalog, pg_temp",
        body: include_str!("hmac_pad.sql"),
        whose: Whose::Installers,
    },
    Function {
        signature: "pgtenant.add_key(text)",
        head: "pgtenant.add_key(hex text) RETURNS text LANGUAGE plpgsql VOLATILE",
        traits: "v|f|u|100 search_path=pg_catalog, pg_temp",
        body: include_str!("add_key.sql"),
        whose: Whose::Installers,
    },
    Function {
        signature: "pgtenant.hand_over(text, text)",
        head: "pgtenant.hand_over(p_tenant text, p_proof text) RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE",
        traits: "v|t|u|100 ",
        body: include_str!("hand_over.sql"),
        whose: Whose::Registers,
    },
    Function {
        signature: "pgtenant.enter(text, text)",
        head: "pgtenant.enter(p_tenant text, p_proof text) RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE",
        traits: "v|t|u|100 search_path=pg_catalog, pg_temp",
        body: include_str!("enter.sql"),
        whose: Whose::Registers,
    },
    Function {
        signature: "pgtenant.current_tenant()",
        head: "pgtenant.current_tenant() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED COST 1000",
        traits: "s|t|r|1000 ",
        body: include_str!("current_tenant.sql"),
        whose: Whose::Registers,
    },
];

const PART: &str = "schema pgtenant";

/// For a database that was never protected.
const FRESH: Tags = Tags::Everywhere;

/// The login role as SQL writes it; refused if no policy would bind it.
pub(super) async fn login_role(client: &Client, options: &ProtectOptions) -> Result<String, ProtectError> {
    let sql =
        "SELECT quote_ident(rolname), rolsuper OR rolbypassrls, pg_has_role(rolname, current_user, 'MEMBER'),
                      current_setting('server_version_num')::int4
               FROM pg_roles WHERE rolname = $1::text::name";
    let rows = client.query(sql, &[&options.role]).await?;
    let Some(row) = rows.first() else {
        return Err(refused(format!("there is no role {:?}, the upstream's user", options.role)));
    };
    let version = row.try_get::<_, i32>(3)?;
    if version < 150_000 && matches!(options.context, ContextMode::Sealed(_)) {
        let why = "the sealed context needs PostgreSQL 15 or later, which has unlogged sequences; upgrade the server, \
                   or use tenancy.context = \"plain\"";
        return Err(refused(why.to_owned()));
    }
    if version < 140_000 {
        return Err(refused("PostgreSQL 14 is the oldest version that can be protected".to_owned()));
    }
    if row.try_get(1)? {
        let role = &options.role;
        return Err(refused(format!(
            "the login role {role:?} is superuser or BYPASSRLS: no policy binds it"
        )));
    }
    if options.role == register::ROLE {
        return Err(refused(format!("the login role {:?} owns the register: use another", options.role)));
    }
    if row.try_get(2)? {
        return Err(refused(format!(
            "the login role {:?} can become the role that installs: run as a maintenance user that owns the tables",
            options.role
        )));
    }
    Ok(row.try_get(0)?)
}

/// The roles of the configuration that are there, as SQL writes them.
async fn existing_roles(
    client: &Client,
    options: &ProtectOptions,
    plan: &mut Plan,
) -> Result<Vec<String>, ProtectError> {
    let sql = "SELECT w.role, (SELECT quote_ident(rolname) FROM pg_roles WHERE rolname = w.role)
               FROM unnest($1::text[]) AS w (role) WHERE w.role <> $2 ORDER BY 1";
    let mut roles = Vec::new();
    for row in client.query(sql, &[&options.roles, &options.role]).await? {
        match row.try_get::<_, Option<String>>(1)? {
            Some(quoted) => roles.push(quoted),
            None => plan.notes.push(format!(
                "there is no role {:?}, which user.roles lists: create it, then run protect again",
                row.try_get::<_, String>(0)?
            )),
        }
    }
    Ok(roles)
}

fn refused(what: String) -> ProtectError {
    ProtectError::Refused(what)
}

/// What the schema lacks, and whether policies can rest on it.
pub(super) async fn compare(
    client: &Client,
    options: &ProtectOptions,
    (role, key): (&str, &SealKey),
    plan: &mut Plan,
) -> Result<Prerequisite, ProtectError> {
    check_owners(client, options).await?;
    let there = client
        .query_one(
            "SELECT to_regnamespace('pgtenant') IS NOT NULL, to_regclass('pgtenant.key') IS NOT NULL,
                    to_regprocedure('pgtenant.current_tenant()') IS NOT NULL,
                    quote_ident(coalesce((SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'pgtenant'), current_user))",
            &[],
        )
        .await?;
    let roles = existing_roles(client, options, plan).await?;
    let (has_schema, has_table): (bool, bool) = (there.try_get(0)?, there.try_get(1)?);
    if !has_schema {
        plan.add(PART, "CREATE SCHEMA pgtenant");
        for caller in std::iter::once(role).chain(roles.iter().map(String::as_str)) {
            plan.add(PART, format!("GRANT USAGE ON SCHEMA pgtenant TO {caller}"));
        }
    }
    if !has_table {
        plan.add(PART, include_str!("key.sql").trim_end());
        plan.add(PART, "REVOKE ALL ON pgtenant.key FROM PUBLIC");
    }
    let owner = Owner::look(client).await?;
    let callers = Callers { login: role, roles, owner: there.try_get(3)?, has_role: owner.has_role() };
    let mut work = Work::default();
    register::compare_sequences(client, &mut work).await?;
    let tags = tags(client, options, plan).await?;
    for function in &FUNCTIONS {
        compare_function(client, (function, &text(function, options, tags)), &callers, (plan, &mut work))
            .await?;
    }
    compare_privileges(client, &callers, (plan, &mut work)).await?;
    let prerequisite = owner.enclose(work, plan);
    if prerequisite == Prerequisite::Blocked && !there.try_get::<_, bool>(2)? {
        plan.steps.clear();
        return Ok(prerequisite);
    }
    register::compare_role(client, &options.role, plan).await?;
    let kids = if has_table { kids(client).await? } else { Vec::new() };
    compare_keys((key, options.retire_keys), &kids, plan);
    Ok(Prerequisite::Usable)
}

/// What somebody else owns in the schema cannot be trusted, nor mended.
async fn check_owners(client: &Client, options: &ProtectOptions) -> Result<(), ProtectError> {
    let sql = "SELECT what, pg_get_userbyid(owner)::text, pg_has_role($1::text::name, owner, 'MEMBER')
               FROM (SELECT 'schema pgtenant', nspowner FROM pg_namespace WHERE nspname = 'pgtenant'
                     UNION ALL SELECT c.oid::regclass::text, relowner FROM pg_class c WHERE relnamespace = to_regnamespace('pgtenant')
                     UNION ALL SELECT p.oid::regprocedure::text, proowner FROM pg_proc p WHERE pronamespace = to_regnamespace('pgtenant')
                    ) AS t (what, owner)
               WHERE pg_get_userbyid(owner) <> $2::text::name
                 AND (NOT pg_has_role(current_user, owner, 'USAGE') OR pg_has_role($1::text::name, owner, 'MEMBER'))";
    if let Some(row) = client.query(sql, &[&options.role, &register::ROLE]).await?.first() {
        let (what, owner): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        return Err(refused(if row.try_get(2)? {
            format!("{what} belongs to {owner:?}, which the login role is or can become")
        } else {
            format!("{what} belongs to {owner:?}: install as that role")
        }));
    }
    Ok(())
}

/// Retired once means retired for good; a database that was never protected has no earlier instances.
async fn tags(client: &Client, options: &ProtectOptions, plan: &mut Plan) -> Result<Tags, ProtectError> {
    let sql = "SELECT prosrc LIKE '%pg_is_in_recovery()%' FROM pg_proc WHERE oid = to_regprocedure('pgtenant.current_tenant()')";
    let rows = client.query(sql, &[]).await?;
    let is_retired = rows.first().map(|row| row.try_get::<_, bool>(0)).transpose()?;
    if options.enter == Enter::Retired || is_retired.unwrap_or(FRESH == Tags::InRecovery) {
        return Ok(Tags::InRecovery);
    }
    plan.notes.push(
        "instances of earlier versions are served too; when there are none, --retire-enter ends that"
            .to_owned(),
    );
    Ok(Tags::Everywhere)
}

fn text(function: &Function, options: &ProtectOptions, tags: Tags) -> String {
    function.body.replace("{setting}", &literal(&options.setting)).replace("{tags}", tags.condition())
}

async fn compare_function(
    client: &Client,
    (function, body): (&Function, &str),
    callers: &Callers<'_>,
    (plan, work): (&mut Plan, &mut Work),
) -> Result<(), ProtectError> {
    let sql = "SELECT prosrc, concat_ws('|', provolatile, prosecdef, proparallel, procost) || ' ' || coalesce(array_to_string(proconfig, ';'), ''),
                      pg_get_userbyid(proowner) = $2::text::name
               FROM pg_proc WHERE oid = to_regprocedure($1)";
    let rows = client.query(sql, &[&function.signature, &register::ROLE]).await?;
    let (signature, is_registers) = (function.signature, function.whose == Whose::Registers);
    let own = if is_registers { &mut work.own } else { plan };
    let (mut is_same, mut is_given) = (false, is_registers && rows.is_empty());
    if let Some(row) = rows.first() {
        is_same = row.try_get::<_, String>(0)? == body && row.try_get::<_, String>(1)? == function.traits;
        if is_registers && callers.has_role && !row.try_get::<_, bool>(2)? {
            is_given = true;
            work.given.add(PART, format!("ALTER FUNCTION {signature} OWNER TO {}", register::ROLE));
        }
    }
    if !is_same {
        own.add(
            PART,
            format!(
                "CREATE OR REPLACE FUNCTION {}\n{}AS $pgtenant${body}$pgtenant$",
                function.head,
                function.search_path()
            ),
        );
    }
    if rows.is_empty() {
        own.add(PART, format!("REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"));
    }
    if is_given {
        for caller in callers.of(signature) {
            own.add(PART, format!("GRANT EXECUTE ON FUNCTION {signature} TO {caller}"));
        }
    }
    Ok(())
}

/// Grants on what is there: nobody but its owner reads keys and uses the register, everybody's doors are the login
/// role's only, and what policies ask may be called by the owner of the tables too.
async fn compare_privileges(
    client: &Client,
    callers: &Callers<'_>,
    (plan, work): (&mut Plan, &mut Work),
) -> Result<(), ProtectError> {
    let signatures: Vec<&str> = FUNCTIONS.iter().map(|function| function.signature).collect();
    let rows = client
        .query(
            PRIVILEGES,
            &[&signatures, &register::DOORS.as_slice(), &register::SEQUENCES.as_slice(), &register::ROLE],
        )
        .await?;
    for row in rows {
        let (object, is_door, is_given): (String, bool, bool) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let own = if is_given { &mut work.own } else { &mut *plan };
        let grantees: Vec<String> = row.try_get(3)?;
        // A door opens to proofs only, so a role that was given it on purpose may keep it.
        for other in grantees.iter().filter(|grantee| !is_door || *grantee == "PUBLIC") {
            own.add(PART, format!("REVOKE ALL ON {object} FROM {other}"));
        }
        let owner: String = row.try_get(4)?;
        for wanted in callers.of(&object).filter(|wanted| is_door && **wanted != owner) {
            if !grantees.iter().any(|grantee| grantee == wanted) {
                let privilege = if object.starts_with("SCHEMA") { "USAGE" } else { "EXECUTE" };
                own.add(PART, format!("GRANT {privilege} ON {object} TO {wanted}"));
            }
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

/// Each object, whether the login role needs it, whether it is or will be the register's, who was given it besides
/// its owner, and that.
const PRIVILEGES: &str = "
SELECT object, is_door, is_given,
       coalesce(array_agg(DISTINCT CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
                FILTER (WHERE grantee <> owner AND NOT (object = 'TABLE pgtenant.key' AND privilege_type = 'SELECT' AND pg_get_userbyid(grantee) = $4::text::name)
                          AND NOT (object = 'SCHEMA pgtenant' AND privilege_type <> 'USAGE')), '{}'),
       quote_ident(pg_get_userbyid(owner))
FROM (SELECT 'SEQUENCE ' || s, false, true, relowner, coalesce(relacl, acldefault('s', relowner))
      FROM unnest($3::text[]) AS f (s) JOIN pg_class c ON c.oid = to_regclass(s)
      UNION ALL SELECT 'SEQUENCE ' || s, false, true, relowner, attacl
      FROM unnest($3::text[]) AS f (s) JOIN pg_class c ON c.oid = to_regclass(s) JOIN pg_attribute ON attrelid = c.oid
      UNION ALL SELECT 'FUNCTION ' || s, s = ANY ($2::text[]), s = ANY ($2::text[]), proowner, coalesce(proacl, acldefault('f', proowner))
      FROM unnest($1::text[]) AS f (s) JOIN pg_proc p ON p.oid = to_regprocedure(s)
      UNION ALL SELECT 'TABLE pgtenant.key', false, false, relowner, coalesce(relacl, acldefault('r', relowner))
      FROM pg_class WHERE oid = to_regclass('pgtenant.key')
      UNION ALL SELECT 'TABLE pgtenant.key', false, false, relowner, attacl
      FROM pg_class c JOIN pg_attribute ON attrelid = c.oid WHERE c.oid = to_regclass('pgtenant.key')
      UNION ALL SELECT 'SCHEMA pgtenant', true, false, nspowner, coalesce(nspacl, acldefault('n', nspowner))
      FROM pg_namespace WHERE nspname = 'pgtenant') AS o (object, is_door, is_given, owner, acl)
CROSS JOIN LATERAL aclexplode(acl)
GROUP BY object, is_door, is_given, owner";

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::{Lexer, TokenKind};

    /// What a body leaves to the caller's `search_path`, by the name it stands for.
    fn unqualified(body: &str) -> Vec<String> {
        let tokens: Vec<_> = Lexer::new(body.as_bytes()).collect();
        let text = |index: usize| {
            tokens.get(index).map_or("", |token| str::from_utf8(token.bytes).unwrap()).to_ascii_lowercase()
        };
        let (mut found, mut index) = (Vec::new(), 0);
        while index < tokens.len() {
            let (word, before, next) = (text(index), text(index.wrapping_sub(1)), text(index + 1));
            let is_free = match tokens[index].kind {
                // An assignment, and an option of RAISE.
                TokenKind::Operator if word == "=" && [":", "errcode"].contains(&&*before) => false,
                TokenKind::Operator => !(before == "." && text(index.wrapping_sub(4)) == "operator"),
                TokenKind::Punctuation if word == ":" && before == ":" => next != "pg_catalog",
                TokenKind::Word if next == "(" => before != "." && !["if", "operator"].contains(&&*word),
                // These stand for operators that are looked up.
                TokenKind::Word => {
                    ["in", "between", "like", "ilike", "similar", "nullif", "distinct", "any", "all"]
                        .contains(&&*word)
                        || (["text", "bytea", "int8", "float8", "regclass"].contains(&&*word)
                            && before != ".")
                        || (word == "case" && next != "when")
                }
                _ => false,
            };
            if is_free {
                found.push(format!("{before} {word} {next}"));
            }
            index += 1;
        }
        found
    }

    #[test]
    fn functions_without_a_search_path_leave_no_name_to_it() {
        let bare: Vec<_> = FUNCTIONS.iter().filter(|function| function.search_path().is_empty()).collect();
        assert_eq!(
            bare.iter().map(|function| function.signature).collect::<Vec<_>>(),
            ["pgtenant.hand_over(text, text)", "pgtenant.current_tenant()"]
        );
        for function in bare {
            for tags in [Tags::Everywhere, Tags::InRecovery] {
                let body =
                    function.body.replace("{setting}", "'app.tenant_id'").replace("{tags}", tags.condition());
                assert_eq!(unqualified(&body), Vec::<String>::new(), "{}", function.signature);
            }
        }
    }

    #[test]
    fn a_name_that_is_left_to_the_search_path_is_found() {
        for (body, name) in [
            ("RETURN now();", "now"),
            ("IF a = b THEN", "="),
            ("RETURN a::text;", ":"),
            ("DECLARE a text;", "text"),
            ("RETURN CASE a WHEN b THEN c END;", "case"),
            ("RETURN NULLIF(a, b);", "nullif"),
            ("RETURN a IN (b);", "in"),
            ("RETURN a OPERATOR(pg_catalog.||) pg_catalog.left(b, 1) || c;", "||"),
        ] {
            assert!(unqualified(body).iter().any(|free| free.split(' ').nth(1) == Some(name)), "{body}");
        }
    }
}
