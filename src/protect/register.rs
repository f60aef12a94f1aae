//! The register: two sequences that remember, in each server process, the digest of the tenant that it was handed
//! over to, and the owner of them and of the functions that use them. That is a role which owns nothing else and has
//! no members, so no other function of the database reaches the register by the rights of its owner. Where the
//! installing role may not make it, the installing role is the owner, and the doctor looks what else runs as it.
//! The sequences are made once and never altered: DDL on them waits for every transaction that used them, and stops
//! all hand-overs meanwhile.

use tokio_postgres::Client;

use super::{Plan, ProtectError};

/// The owner of the register, in every database of a cluster.
pub(super) const ROLE: &str = "pgtenant_register";

/// The two halves of a digest.
pub(super) const SEQUENCES: [&str; 2] = ["pgtenant.register_1", "pgtenant.register_2"];

/// The functions that use them, by the rights of the role.
pub(super) const DOORS: [&str; 3] =
    ["pgtenant.hand_over(text, text)", "pgtenant.enter(text, text)", "pgtenant.current_tenant()"];

const PART: &str = "register";

/// The register's owner as the catalogs have it, and what the installing role may do about it.
#[expect(clippy::struct_excessive_bools, reason = "one row of a catalog's answers")]
pub(super) struct Owner {
    exists: bool,
    /// The server knows the options SET and INHERIT of a membership (PostgreSQL 16 and later).
    has_options: bool,
    /// The installing role may act as the register's, after it has granted itself that if need be.
    may_act: bool,
    needs_grant: bool,
    /// Roles that this one creates are granted to it beyond ADMIN, unless told otherwise.
    grants_itself: bool,
    may_use_schema: bool,
    may_read_keys: bool,
    /// The installing role, quoted.
    installer: String,
    /// There are sequences.
    is_installed: bool,
    /// All that are there belong to the role.
    is_its: bool,
}

/// What has to be done as the register's role, and what goes before that.
#[derive(Default)]
pub(super) struct Work {
    /// As the installing role, once it may act as the register's: what is handed over to that role.
    pub(super) given: Plan,
    /// As the register's role.
    pub(super) own: Plan,
}

/// Whether what other objects depend on exists or will be created by this plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prerequisite {
    Usable,
    Blocked,
}

// === impl Owner ===

impl Owner {
    pub(super) async fn look(client: &Client) -> Result<Self, ProtectError> {
        let sql = "SELECT r.oid IS NOT NULL, v.num >= 160000,
                          CASE WHEN me.rolsuper THEN true
                               WHEN r.oid IS NULL THEN me.rolcreaterole
                               ELSE pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION') OR (v.num < 160000 AND me.rolcreaterole) END,
                          NOT me.rolsuper AND NOT coalesce(pg_has_role(r.oid, CASE WHEN v.num < 160000 THEN 'MEMBER' ELSE 'SET' END), false),
                          coalesce(current_setting('createrole_self_grant', true), '') <> '',
                          coalesce(has_schema_privilege(r.oid, to_regnamespace('pgtenant'), 'USAGE'), false),
                          coalesce(has_table_privilege(r.oid, to_regclass('pgtenant.key'), 'SELECT'), false),
                          quote_ident(me.rolname), s.number > 0, s.number = s.its
                   FROM (SELECT count(*), count(*) FILTER (WHERE pg_get_userbyid(relowner) = $1::text::name)
                         FROM pg_class WHERE oid = ANY (SELECT to_regclass(name) FROM unnest($2::text[]) AS name)) s (number, its)
                   CROSS JOIN (SELECT current_setting('server_version_num')::int4) v (num)
                   JOIN pg_roles me ON me.rolname = current_user
                   LEFT JOIN pg_roles r ON r.rolname = $1::text::name";
        let row = client.query_one(sql, &[&ROLE, &SEQUENCES.as_slice()]).await?;
        Ok(Self {
            exists: row.try_get(0)?,
            has_options: row.try_get(1)?,
            may_act: row.try_get(2)?,
            needs_grant: row.try_get(3)?,
            grants_itself: row.try_get(4)?,
            may_use_schema: row.try_get(5)?,
            may_read_keys: row.try_get(6)?,
            installer: row.try_get(7)?,
            is_installed: row.try_get(8)?,
            is_its: row.try_get(9)?,
        })
    }

    /// Whether the register has, or gets, a role of its own.
    pub(super) const fn has_role(&self) -> bool {
        self.is_its && (self.is_installed || self.may_act)
    }

    /// Adds what makes the role and what it does to the plan, or what an administrator has to run first.
    pub(super) fn enclose(&self, work: Work, plan: &mut Plan) -> Prerequisite {
        if !self.has_role() {
            plan.steps.extend(work.own.steps);
            plan.notes.push(self.advice());
            return Prerequisite::Usable;
        }
        if !self.exists {
            if self.grants_itself {
                plan.add(PART, "SET LOCAL createrole_self_grant = ''");
            }
            plan.add(PART, format!("CREATE ROLE {ROLE} NOLOGIN"));
        }
        if !self.may_use_schema {
            plan.add(PART, format!("GRANT USAGE ON SCHEMA pgtenant TO {ROLE}"));
        }
        if !self.may_read_keys {
            plan.add(PART, format!("GRANT SELECT ON pgtenant.key TO {ROLE}"));
        }
        if work.given.steps.is_empty() && work.own.steps.is_empty() {
            return Prerequisite::Usable;
        }
        if !self.may_act {
            plan.blocked.push(self.request());
            return Prerequisite::Blocked;
        }
        self.act(work, plan);
        Prerequisite::Usable
    }

    /// A membership and CREATE that begin and end inside the transaction.
    fn act(&self, work: Work, plan: &mut Plan) {
        let installer = &self.installer;
        plan.add(PART, format!("GRANT CREATE ON SCHEMA pgtenant TO {ROLE}"));
        if self.needs_grant {
            let options = if self.has_options { " WITH INHERIT FALSE, SET TRUE" } else { "" };
            plan.add(PART, format!("GRANT {ROLE} TO {installer}{options}"));
        }
        plan.steps.extend(work.given.steps);
        plan.add(PART, format!("SET LOCAL ROLE {ROLE}"));
        plan.steps.extend(work.own.steps);
        plan.add(PART, "RESET ROLE");
        if self.needs_grant {
            plan.add(PART, format!("REVOKE {ROLE} FROM {installer}"));
        }
        plan.add(PART, format!("REVOKE CREATE ON SCHEMA pgtenant FROM {ROLE}"));
    }

    /// What an administrator has to run before protect is run again.
    fn request(&self) -> String {
        let Self { installer, .. } = self;
        format!("{installer} may not act as {ROLE}, to which the register belongs. {}", self.grant())
    }

    /// The same where the register works without, and belongs to the installing role.
    fn advice(&self) -> String {
        let again = if self.is_installed {
            " In a quiet moment: DROP SEQUENCE pgtenant.register_1, pgtenant.register_2; then protect --apply at once."
        } else {
            ""
        };
        format!(
            "the register belongs to {}, whose other functions can reach it: better to a role of its own. {}{again}",
            self.installer,
            self.grant()
        )
    }

    /// On PostgreSQL 15 every member is the role, so protect takes the grant away again.
    fn grant(&self) -> String {
        let create = if self.exists { String::new() } else { format!("CREATE ROLE {ROLE} NOLOGIN; ") };
        let options = if self.has_options { "ADMIN TRUE, INHERIT FALSE, SET FALSE" } else { "ADMIN OPTION" };
        format!(
            "An administrator runs, before protect is run again: {create}GRANT {ROLE} TO {} WITH {options};",
            self.installer
        )
    }
}

/// The sequences, as they have to be from the first day on.
pub(super) async fn compare_sequences(client: &Client, work: &mut Work) -> Result<(), ProtectError> {
    let sql = "SELECT c.oid IS NOT NULL,
                      coalesce(c.relkind = 'S' AND c.relpersistence = 'u' AND s.seqtypid = 'int8'::regtype AND s.seqincrement = 1
                               AND s.seqmin = -9223372036854775808 AND s.seqmax = 9223372036854775807 AND s.seqcache = 1
                               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                                  AND d.deptype IN ('a', 'i')), false)
               FROM (SELECT to_regclass($1) AS oid) r LEFT JOIN pg_class c ON c.oid = r.oid LEFT JOIN pg_sequence s ON s.seqrelid = c.oid";
    for name in SEQUENCES {
        let row = client.query_one(sql, &[&name]).await?;
        if !row.try_get::<_, bool>(0)? {
            let range = "MINVALUE -9223372036854775808 MAXVALUE 9223372036854775807 START 1";
            work.own.add(PART, format!("CREATE UNLOGGED SEQUENCE {name} AS bigint {range}"));
        } else if !row.try_get::<_, bool>(1)? {
            return Err(ProtectError::Refused(format!(
                "{name} is not as protect makes it: drop it in a quiet moment and run protect again"
            )));
        }
    }
    Ok(())
}

/// What stands between the register's role and being nobody, and which roles reach its sequences without a grant.
pub(super) async fn compare_role(client: &Client, login: &str, plan: &mut Plan) -> Result<(), ProtectError> {
    for row in client.query(FAULTS, &[&ROLE, &login, &SEQUENCES.as_slice(), &DOORS.as_slice()]).await? {
        let (fault, statement, may): (String, String, bool) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if may {
            plan.add(PART, statement);
        } else {
            plan.blocked.push(format!("{fault}: {statement}"));
        }
    }
    Ok(())
}

/// The fault, the statement that mends it, and whether the installing role may run it. Members with ADMIN and nothing
/// else are administrators; before PostgreSQL 16 every member is the role.
const FAULTS: &str = "
WITH register AS (SELECT * FROM pg_roles WHERE rolname = $1::text::name),
     me AS (SELECT rolsuper, rolcreaterole FROM pg_roles WHERE rolname = current_user),
     member AS (
    SELECT u.rolname AS member, g.rolname AS grantor, m.admin_option AS administers, pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION') AS may,
           coalesce(pg_has_role(g.oid, 'USAGE'), false) AS may_for_grantor,
           (to_jsonb(m) ->> 'inherit_option')::bool AS inherits, (to_jsonb(m) ->> 'set_option')::bool AS sets
    FROM register r JOIN pg_auth_members m ON m.roleid = r.oid JOIN pg_roles u ON u.oid = m.member AND NOT u.rolsuper
    LEFT JOIN pg_roles g ON g.oid = m.grantor
)
SELECT format('the role %I can act as %I', member, $1), statement, me.rolsuper OR CASE WHEN sets IS NULL THEN may OR me.rolcreaterole ELSE may AND may_for_grantor END
FROM member CROSS JOIN me CROSS JOIN LATERAL (
    SELECT format('REVOKE %I FROM %I', $1, member) WHERE sets IS NULL
    UNION ALL SELECT format('REVOKE INHERIT OPTION FOR %I FROM %I GRANTED BY %I', $1, member, grantor) WHERE administers AND inherits
    UNION ALL SELECT format('REVOKE SET OPTION FOR %I FROM %I GRANTED BY %I', $1, member, grantor) WHERE administers AND sets
    UNION ALL SELECT format('REVOKE %I FROM %I GRANTED BY %I', $1, member, grantor) WHERE NOT administers AND (inherits OR sets)
) AS s (statement)
UNION ALL
SELECT format('the role %I has %s', r.rolname, attribute), format('ALTER ROLE %I NO%s', r.rolname, attribute), me.rolsuper
FROM register r CROSS JOIN me CROSS JOIN LATERAL (VALUES ('LOGIN', r.rolcanlogin), ('SUPERUSER', r.rolsuper), ('BYPASSRLS', r.rolbypassrls),
    ('CREATEROLE', r.rolcreaterole), ('CREATEDB', r.rolcreatedb), ('REPLICATION', r.rolreplication)) AS a (attribute, has)
WHERE has
UNION ALL
SELECT format('the role %I is a member of %I', r.rolname, o.rolname), format('REVOKE %I FROM %I', o.rolname, r.rolname), false
FROM register r JOIN pg_auth_members m ON m.member = r.oid JOIN pg_roles o ON o.oid = m.roleid
UNION ALL
SELECT format('%s belongs to %I, which owns nothing but the register', pg_describe_object(d.classid, d.objid, d.objsubid), r.rolname),
       'give it to another role', false
FROM register r JOIN pg_shdepend d ON d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'o'
WHERE d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND NOT (d.classid = 'pg_class'::regclass AND d.objid = ANY (SELECT to_regclass(s) FROM unnest($3::text[]) AS s))
  AND NOT (d.classid = 'pg_proc'::regclass AND d.objid = ANY (SELECT to_regprocedure(s) FROM unnest($4::text[]) AS s))
UNION ALL
SELECT format('the login role reaches the register through %I', v.rolname), format('REVOKE %I FROM %I', v.rolname, u.rolname), false
FROM pg_roles u JOIN pg_roles v ON v.oid <> u.oid AND pg_has_role(u.oid, v.oid, 'MEMBER')
WHERE u.rolname = $2::text::name AND (v.rolsuper OR v.rolname IN ('pg_read_all_data', 'pg_write_all_data'))";
