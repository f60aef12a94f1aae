//! Tables with a tenant column: whether row-level security is on, and what keys and children give away.

use super::super::FindingSeverity::{Advice, Critical, Warning};
use super::super::check::{Check, Rank};

pub(super) const CHECKS: &[Check] = &[
    Check::new(
        ("D04", Rank::Always(Critical)),
        "a tenant table without row-level security",
        "Every tenant sees and changes every row of it.",
        r"SELECT c.oid::regclass::text AS object, 'has a tenant column, can be reached, and row-level security is off' AS message, m.whole AS fix
FROM tenant_table c JOIN reach ON reach.relid = c.oid JOIN mend m ON m.relid = c.oid
WHERE NOT c.relrowsecurity
  AND NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = c.oid AND p.relrowsecurity)",
    ),
    Check::new(
        ("D05", Rank::Always(Warning)),
        "row-level security is not forced",
        "The table's owner, and views and functions of the owner, see all rows.",
        r"SELECT c.oid::regclass::text AS object, format('row-level security does not hold its owner %s', c.relowner::regrole) AS message,
       format('ALTER TABLE %s FORCE ROW LEVEL SECURITY;', c.oid::regclass) AS fix,
       CASE WHEN c.relowner IN (SELECT roleid FROM hat) THEN 'critical' ELSE 'warning' END AS severity
FROM rel c WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND NOT c.relforcerowsecurity",
    ),
    Check::new(
        ("D15", Rank::Always(Critical)),
        "a partition or child table with weaker protection than its parent",
        "Who names the child itself passes by the parent's policies.",
        r"SELECT c.oid::regclass::text AS object, format('can be reached past the policies of %s', i.inhparent::regclass) AS message,
       format('ALTER TABLE %1$s ENABLE ROW LEVEL SECURITY;'||chr(10)||'ALTER TABLE %1$s FORCE ROW LEVEL SECURITY;'||chr(10)||'REVOKE ALL ON %1$s FROM %2$I;', c.oid::regclass, me.rolname) AS fix
FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN rel c ON c.oid = i.inhrelid JOIN reach ON reach.relid = c.oid CROSS JOIN me
WHERE p.relrowsecurity AND c.relkind IN ('r', 'p', 'f') AND NOT (c.relrowsecurity AND c.relforcerowsecurity)",
    ),
    Check::new(
        ("D16", Rank::Always(Warning)),
        "a table without a tenant column",
        "Every tenant sees the same rows; a table that can be written carries data from one tenant to another.",
        r"SELECT c.oid::regclass::text AS object,
       CASE WHEN reach.writes THEN 'is shared by all tenants and can be written' ELSE 'is shared by all tenants, read only' END AS message,
       format('REVOKE INSERT, UPDATE, DELETE ON %s FROM %I; -- or give it a tenant column', c.oid::regclass, me.rolname) AS fix,
       CASE WHEN reach.writes THEN 'warning' ELSE 'advice' END AS severity
FROM rel c JOIN reach ON reach.relid = c.oid CROSS JOIN me
WHERE c.relkind IN ('r', 'p') AND NOT me.rolsuper AND NOT EXISTS (SELECT FROM tenant_column t WHERE t.relid = c.oid)
  AND NOT (c.relispartition AND EXISTS (SELECT FROM pg_inherits i JOIN reach r ON r.relid = i.inhparent WHERE i.inhrelid = c.oid))",
    ),
    Check::new(
        ("D19", Rank::Always(Warning)),
        "a foreign key between tenant tables without the tenant column",
        "A row can refer to another tenant's row: that tells that it exists, locks it, and cascades reach it.",
        r"SELECT k.conrelid::regclass::text AS object, format('foreign key %I to %s leaves the tenant column out', k.conname, k.confrelid::regclass) AS message,
       format('ALTER TABLE %s ADD FOREIGN KEY (%I, …) REFERENCES %s (%I, …);', k.conrelid::regclass, ca.attname, k.confrelid::regclass, pa.attname) AS fix
FROM pg_constraint k
JOIN tenant_column ca ON ca.relid = k.conrelid JOIN tenant_column pa ON pa.relid = k.confrelid AND pa.attname = ca.attname
WHERE k.contype = 'f' AND k.conparentid = 0
  AND NOT EXISTS (SELECT FROM generate_subscripts(k.conkey, 1) i
      JOIN tenant_column a ON a.relid = k.conrelid AND a.attnum = k.conkey[i] JOIN tenant_column b ON b.relid = k.confrelid AND b.attnum = k.confkey[i])",
    ),
    Check::new(
        ("D20", Rank::Always(Warning)),
        "a unique index without the tenant column",
        "An insert that conflicts tells one tenant what another has stored.",
        r"SELECT i.indrelid::regclass::text AS object, format('unique index %s leaves the tenant column out', i.indexrelid::regclass) AS message,
       format('CREATE UNIQUE INDEX ON %s (%I, …);', i.indrelid::regclass, (SELECT t.attname FROM tenant_column t WHERE t.relid = c.oid ORDER BY t.attnum LIMIT 1)) AS fix,
       -- Values that the database makes up tell nothing that was stored.
       CASE WHEN i.indnatts = 1 AND EXISTS (SELECT FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
               WHERE a.attrelid = c.oid AND a.attnum = i.indkey[0]
                 AND (a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) ~ '^(nextval|gen_random_uuid|uuid_generate|uuidv[47])|\.uuid_generate'))
            THEN 'advice' ELSE 'warning' END AS severity
FROM pg_index i JOIN tenant_table c ON c.oid = i.indrelid JOIN reach ON reach.relid = c.oid
WHERE (i.indisunique OR i.indisexclusion)
  AND NOT EXISTS (SELECT FROM tenant_column t WHERE t.relid = c.oid AND t.attnum = ANY (i.indkey::int2[]))",
    ),
    Check::new(
        ("D49", Rank::Always(Warning)),
        "a sequence through which tenants can stop each other",
        "All tenants draw from one sequence. A short one can be exhausted; where its values alone are a key, an insert of the next ones makes others wait.",
        r"SELECT s.oid::regclass::text AS object, format('makes %I of %s: %s', a.attname, c.oid::regclass, concat_ws('; ', CASE WHEN y.is_short THEN 'can be exhausted' END,
           CASE WHEN y.blocks THEN 'its next values can be taken, since they alone are a key' END)) AS message,
       concat_ws(chr(10), CASE WHEN y.is_short THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint; ALTER SEQUENCE %s AS bigint; -- rewrites the table', c.oid::regclass, a.attname, s.oid::regclass) END,
           CASE WHEN y.blocks THEN format('CREATE UNIQUE INDEX ON %s (%s, %I); -- then drop the key without the tenant', c.oid::regclass, k.name, a.attname) END) AS fix
FROM pg_depend d JOIN rel s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_sequence q ON q.seqrelid = s.oid
JOIN tenant_table c ON c.oid = d.refobjid JOIN pin_column k ON k.relid = c.oid JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
LEFT JOIN reach ON reach.relid = c.oid CROSS JOIN me
CROSS JOIN LATERAL (SELECT has_sequence_privilege(me.oid, s.oid, 'USAGE,UPDATE') AND has_schema_privilege(me.oid, s.relnamespace, 'USAGE') AS draws,
    coalesce(reach.writes, false) AND has_any_column_privilege(me.oid, c.oid, 'INSERT') AS inserts) x
CROSS JOIN LATERAL (SELECT (x.draws OR x.inserts) AND (a.atttypid IN ('int2'::regtype, 'int4'::regtype) OR q.seqmax <= 2147483647) AS is_short,
    has_column_privilege(me.oid, c.oid, a.attnum, 'INSERT,UPDATE') AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND a.attnum = ANY (i.indkey::int2[])
        AND NOT EXISTS (SELECT FROM tenant_column t WHERE t.relid = c.oid AND t.attnum = ANY (i.indkey::int2[]))) AS blocks) y
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND NOT me.rolsuper AND (y.is_short OR y.blocks)",
    ),
    Check::new(
        ("D21", Rank::Always(Advice)),
        "no index begins with the tenant column",
        "Every statement of one tenant reads the rows of all.",
        r"SELECT c.oid::regclass::text AS object, 'no index begins with the tenant column' AS message,
       format('CREATE INDEX ON %s (%I);', c.oid::regclass, (SELECT t.attname FROM tenant_column t WHERE t.relid = c.oid ORDER BY t.attnum LIMIT 1)) AS fix
FROM tenant_table c JOIN reach ON reach.relid = c.oid
WHERE NOT EXISTS (SELECT FROM pg_index i JOIN tenant_column t ON t.relid = i.indrelid AND t.attnum = i.indkey[0]
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL)",
    ),
    Check::new(
        ("D22", Rank::Always(Advice)),
        "the tenant column may be null or has no default",
        "A row without a tenant belongs to nobody; a default spares applications from naming the tenant.",
        r"SELECT c.oid::regclass::text AS object, format('%I %s', t.attname, CASE WHEN a.attnotnull THEN 'has no default that reads the tenant' ELSE 'may be null' END) AS message,
       CASE WHEN a.attnotnull THEN format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT NULLIF(current_setting(%L, true), '''')%s;', c.oid::regclass, t.attname, $2,
                CASE WHEN format_type(a.atttypid, NULL) IN ('text', 'character varying') THEN '' ELSE '::' || format_type(a.atttypid, NULL) END)
            ELSE format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', c.oid::regclass, t.attname) END AS fix
FROM tenant_table c JOIN reach ON reach.relid = c.oid AND reach.writes JOIN tenant_column t ON t.relid = c.oid
JOIN pg_attribute a ON a.attrelid = t.relid AND a.attnum = t.attnum LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = t.attnum
CROSS JOIN source s
WHERE NOT a.attnotnull OR coalesce(pg_get_expr(d.adbin, d.adrelid), '') !~* s.pattern",
    ),
    Check::new(
        ("D31", Rank::Always(Warning)),
        "foreign tables and user mappings",
        "Row-level security does not exist for foreign tables; what they show is decided elsewhere.",
        r"SELECT c.oid::regclass::text AS object, 'is a foreign table that the login role can reach' AS message, format('REVOKE ALL ON %s FROM %I;', c.oid::regclass, me.rolname) AS fix,
       CASE WHEN EXISTS (SELECT FROM tenant_column t WHERE t.relid = c.oid) THEN 'critical' ELSE 'warning' END AS severity
FROM rel c JOIN reach ON reach.relid = c.oid CROSS JOIN me WHERE c.relkind = 'f' AND NOT me.rolsuper
UNION ALL
SELECT format('user mapping for %s on %I', u.usename, u.srvname), 'the login role can reach another server through it', format('DROP USER MAPPING FOR %s SERVER %I;', u.usename, u.srvname), 'warning'
FROM pg_user_mappings u CROSS JOIN me WHERE u.umuser = 0 OR u.umuser IN (SELECT roleid FROM hat)",
    ),
    Check::new(
        ("D45", Rank::Always(Warning)),
        "no tenant table was found",
        "The doctor knows a tenant table by a column that a policy compares with the setting, or that is called tenant_id. Without any, it can say nothing about rows.",
        r"SELECT format('database %I', current_database()) AS object,
       CASE WHEN has.tables THEN 'the login role reaches no table with a tenant column'
            ELSE 'the login role has no privilege on any table yet, or none on its schema' END AS message,
       CASE WHEN has.tables THEN 'name the column that holds the tenant tenant_id, or run pgtenant protect --column NAME'
            ELSE format('GRANT USAGE ON SCHEMA … TO %I; GRANT SELECT, INSERT, UPDATE, DELETE ON … TO %1$I; -- as their owner; before it pgtenant protect --table …, or behind it pgtenant protect', me.rolname) END AS fix
FROM me CROSS JOIN (SELECT EXISTS (SELECT FROM reach JOIN rel r ON r.oid = reach.relid WHERE r.nspname <> 'pgtenant') AS tables) has
WHERE NOT EXISTS (SELECT FROM tenant_table c JOIN reach ON reach.relid = c.oid)",
    ),
];
