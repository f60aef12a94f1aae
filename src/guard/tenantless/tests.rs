//! What needs no tenant, and what does.

use super::*;

#[test]
fn what_drivers_ask_when_they_connect_needs_no_tenant() {
    for text in [
        "",
        "SELECT version()",
        "select pg_catalog.version();",
        "SHOW server_version; SHOW standard_conforming_strings",
        "SELECT 1",
        "SELECT current_schema()",
        "SELECT current_database(), current_user, session_user",
        "SELECT pg_is_in_recovery()",
        "BEGIN; SELECT set_config('TimeZone', 'UTC', false); COMMIT",
        "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET client_encoding TO 'UTF8'; SET TIME ZONE 'UTC'",
        "SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid WHERE typname = 'hstore'",
        "SELECT t.oid, t.typname FROM pg_type as t LEFT JOIN pg_range as r ON oid = rngtypid \
         WHERE t.typname IN ('int2', 'bool') OR t.typtype IN ('r', 'e')",
        "WITH RECURSIVE types (id, depth) AS (SELECT oid, 0 FROM pg_catalog.pg_type WHERE oid = any($1::oid[]) \
         UNION ALL SELECT t.typelem, depth + 1 FROM pg_type t, types WHERE types.id = t.oid) \
         SELECT DISTINCT ON (id) * FROM types ORDER BY id, depth",
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod)::varchar(63), pg_get_expr(d.adbin, d.adrelid) \
         FROM pg_attribute a LEFT JOIN pg_attrdef d ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum) \
         WHERE a.attrelid = '\"orders\"'::regclass AND a.attnum > 0 AND NOT a.attisdropped",
        "SELECT EXISTS (SELECT * FROM information_schema.tables WHERE table_name = 'migrations')",
        "SELECT x.a FROM (SELECT 1 AS a) x, unnest(ARRAY[1, 2]) WITH ORDINALITY AS u(a, n)",
        "(SELECT 1) UNION (SELECT 2)",
        "SELECT * FROM (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)",
        "SELECT CAST(current_setting('server_version_num') AS int)",
        "SET LOCAL SCHEMA ''",
        "SELECT (pg_relation_is_updatable(c.oid::regclass, TRUE) & 8) = 8, information_schema._pg_truetypid(a.*, t.*), \
         (parse_ident(n.oid::regnamespace::text))[1], json_array_elements(c.relname::text::json->0) \
         FROM pg_class c, pg_attribute a, pg_type t, pg_namespace n",
        "SELECT name FROM pg_settings WHERE has_parameter_privilege(quote_ident(current_user)::regrole::oid, name, 'set')",
    ] {
        assert!(is_tenantless(text.as_bytes()), "{text}");
    }
}

#[test]
fn whatever_may_read_or_change_a_tenants_rows_needs_one() {
    for text in [
        "SELECT * FROM orders",
        "SELECT 1; SELECT * FROM orders",
        "SELECT * FROM public.pg_type",
        "SELECT * FROM pg_catalog.orders",
        "SELECT * FROM pg_type, orders",
        "SELECT * FROM pg_type t JOIN orders o ON true",
        "SELECT * FROM (orders)",
        "SELECT * FROM (pg_type CROSS JOIN orders)",
        "SELECT (SELECT count(*) FROM orders)",
        "SELECT * FROM LATERAL (SELECT * FROM ONLY orders) x",
        "SELECT * FROM pg_type WHERE EXISTS (SELECT 1 FROM orders)",
        "SELECT * FROM pg_type UNION SELECT * FROM orders",
        "WITH x AS (SELECT * FROM orders) SELECT * FROM x",
        "WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x",
        "SELECT my_function()",
        "SELECT ('a'::text).my_function",
        "SELECT (ARRAY['a'])[1] . my_function",
        "SELECT * FROM my_function()",
        "SELECT public.version()",
        "SELECT _pg_truetypid(a.*, t.*) FROM pg_attribute a, pg_type t",
        "SELECT information_schema.my_function()",
        "SELECT public._pg_truetypid(1)",
        "SELECT (ARRAY[1, 2])[1:my_function(1)]",
        "SELECT (ARRAY[1, 2])[my_column:public.my_function(1)]",
        "WITH my_function(a) AS (SELECT 1) SELECT my_function(n, v) FROM (SELECT 1 AS n, 2 AS v) x",
        "WITH my_function(a) AS (SELECT 1) SELECT (my_function(n)) FROM (SELECT 1 AS n) x",
        "WITH my_function(a) AS (SELECT 1) SELECT (now()::timestamp with time zone, my_function(n)) FROM (SELECT 1 AS n) x",
        "SELECT * FROM pg_am values, orders",
        "SELECT * FROM pg_am values (a, b), orders",
        "WITH values AS (SELECT 1) SELECT * FROM values, orders",
        "SELECT * FROM (WITH orders AS (SELECT 1 AS a) SELECT 1) x, orders",
        "WITH orders AS (SELECT 1 AS a) SELECT 1; SELECT * FROM orders",
        "SELECT * FROM pg_type t WHERE my_function(t.oid)",
        "SELECT extract(year FROM orders)",
        "SELECT * INTO TEMP x FROM pg_type",
        "SELECT * FROM pg_type FOR UPDATE",
        "SELECT * FROM pg_stats",
        "SELECT * FROM pg_stat_activity",
        "SELECT pg_relation_size('orders')",
        "SELECT nextval('orders_id_seq')",
        "TABLE orders",
        "VALUES ((TABLE orders))",
        "INSERT INTO orders VALUES (1)",
        "COPY orders TO STDOUT",
        "CALL p()",
        "EXECUTE p",
        "CREATE TEMP TABLE x (a int)",
        "DECLARE c CURSOR FOR SELECT 1",
        "EXPLAIN SELECT 1",
        "SELECT * FROM U&\"orders\"",
        "SELECT query_to_xml('SELECT * FROM orders', true, true, '')",
        "SELECT 'no end",
    ] {
        assert!(!is_tenantless(text.as_bytes()), "{text}");
    }
}

#[test]
fn columns_that_are_known_need_no_tenant() {
    for text in [
        "SELECT c.oid::pg_catalog.regclass, pg_catalog.pg_class.relname COLLATE pg_catalog.\"C\" FROM pg_class c, pg_catalog.pg_class",
        "SELECT CAST(t.oid AS pg_catalog.int4), t.xmin, t.tableoid::regclass FROM pg_type AS t ORDER BY t.typname",
        "SELECT information_schema.tables.table_name, c.column_name FROM information_schema.tables \
         JOIN information_schema.columns c USING (table_schema, table_name) WHERE c.ordinal_position > 0",
        "SELECT u.a, u.n FROM unnest(ARRAY[1]) WITH ORDINALITY AS u(a, n)",
        "SELECT u.u, u.ordinality, generate_series.generate_series FROM unnest(ARRAY[1]) WITH ORDINALITY u, generate_series(1, 2)",
        "SELECT x.a, \"x\".\"b\" FROM (VALUES (1, 2)) AS x (a, b)",
        "SELECT x.column1, x.column2 FROM (VALUES (1, 2)) x",
        "SELECT x.nspname, x.n, x.version, x.oid FROM (SELECT ns.nspname, 1 + 1 AS n, version(), oid FROM pg_namespace ns) AS x",
        "SELECT x.typname FROM (SELECT * FROM pg_type) x LEFT JOIN LATERAL (SELECT x.oid) y ON y.oid = x.oid",
        "WITH q AS (SELECT 1 AS a), r (b) AS MATERIALIZED (SELECT q.a FROM q) SELECT q.a, z.b FROM q, r z",
        "SELECT i.idx, i.n FROM (SELECT generate_subscripts(indkey, 1) idx, (1 + 1) n FROM pg_index) i",
        "SELECT a.attnum FROM pg_type t LEFT JOIN (SELECT a.attnum FROM pg_attribute a JOIN pg_type t ON t.typrelid = a.attrelid) a ON a.attnum = t.typlen",
        "SELECT j.oid, j.nspname FROM (pg_type t CROSS JOIN pg_namespace n) AS j",
        "SELECT pg_class.relname FROM pg_class LEFT JOIN pg_index i ON i.indexrelid = pg_class.oid",
    ] {
        assert!(is_tenantless(text.as_bytes()), "{text}");
    }
}

#[test]
fn a_name_behind_an_alias_that_is_none_of_its_columns_is_a_call() {
    for text in [
        "SELECT x.my_function FROM unnest(ARRAY['a']) x",
        "SELECT x.\"my_function\" FROM unnest(ARRAY['a']) AS x",
        "SELECT x . my_function FROM unnest(ARRAY['a']) AS x(a)",
        "SELECT unnest.my_function FROM unnest(ARRAY['a'])",
        "SELECT x.my_function FROM generate_series(1, 2) WITH ORDINALITY AS x",
        "SELECT 1 AS my_function, x.my_function FROM unnest(ARRAY['a']) x",
        "SELECT x.my_function FROM unnest(ARRAY['a']) x, (SELECT 1 AS my_function) y",
        "SELECT x.my_function FROM unnest(ARRAY['a']) x WHERE EXISTS (SELECT 1 FROM (SELECT 1 AS my_function) x)",
        "SELECT x.my_function FROM (VALUES (1)) x",
        "SELECT x.columnar FROM (VALUES (1)) x",
        "SELECT x.my_function FROM (SELECT 1 AS a) x",
        "SELECT x.my_function FROM (SELECT 1 AS a UNION SELECT 2 AS my_function) x",
        "SELECT x.my_function FROM (SELECT 1 AS a FROM unnest(ARRAY[1]) AS u(my_function)) x",
        "SELECT x.my_function FROM (SELECT (SELECT 1 AS my_function) AS a) x",
        "SELECT x.my_function FROM (SELECT now() AT TIME ZONE my_function FROM unnest(ARRAY['UTC']) AS u(my_function)) x",
        "SELECT x.my_function FROM (SELECT 1 = u.my_function FROM unnest(ARRAY[1]) AS u(my_function)) x",
        "SELECT x.my_function FROM (SELECT 2 * u.my_function FROM unnest(ARRAY[1]) AS u(my_function)) x",
        "SELECT x.isnull FROM (SELECT (1) ISNULL FROM pg_type) x",
        "SELECT x.my_function FROM (SELECT (1) AT TIME ZONE my_function FROM pg_type) x",
        "SELECT x.my_function FROM (SELECT (1) my_function + 1 FROM pg_type) x",
        "SELECT x.my_function FROM (SELECT a.my_function FROM pg_am a) x, (SELECT 1 AS my_function) a",
        "SELECT (SELECT x.my_function) FROM unnest(ARRAY['a']) x",
        "SELECT 1 FROM unnest(ARRAY['a']) x UNION SELECT x.my_function FROM pg_type",
        "SELECT x.typname FROM unnest(ARRAY['a']) x UNION SELECT x.typname FROM pg_type x",
        "SELECT t.my_function FROM pg_type t",
        "SELECT t.relname FROM pg_type t",
        "SELECT pg_type.my_function FROM pg_type",
        "SELECT pg_catalog.pg_type.my_function FROM pg_catalog.pg_type",
        "SELECT a.b.c.my_function FROM pg_type a",
        "SELECT t.typname FROM pg_type t(a)",
        "SELECT * FROM pg_type t ORDER BY t.my_function",
        "SELECT * FROM pg_type t JOIN pg_class c ON c.my_function",
        "SELECT ARRAY[t.my_function] FROM pg_type t",
        "SELECT (ARRAY[1])[t.my_function] FROM pg_type t",
        "SELECT count(t.my_function) FROM pg_type t",
        "SELECT t.my_function::text FROM pg_type t",
        "SELECT t.*, t.my_function FROM pg_type t",
        "SELECT (t.*).my_function FROM pg_type t",
        "SELECT (t).my_function FROM pg_type t",
        "SELECT q.my_function FROM q",
        "WITH q AS (SELECT 1 AS a) SELECT q.my_function FROM q",
        "WITH q (a) AS (SELECT 1 AS my_function) SELECT q.my_function FROM q",
        "WITH q AS (SELECT 1 AS a) SELECT z.my_function FROM q AS z",
        "WITH q AS (SELECT 1 AS a) SELECT * FROM q WHERE (WITH q AS (SELECT 2 AS my_function) SELECT 1 FROM q) = q.my_function",
        "SELECT * FROM LATERAL unnest(ARRAY['a']) x, LATERAL (SELECT x.my_function) y",
    ] {
        assert!(!is_tenantless(text.as_bytes()), "{text}");
    }
}

#[test]
fn a_list_of_relations_goes_on_behind_ordinality_and_joins() {
    for text in [
        "SELECT * FROM unnest(ARRAY[1]) WITH ORDINALITY AS u(a, n), orders",
        "SELECT * FROM pg_type LEFT JOIN orders ON true",
        "SELECT * FROM pg_type natural, orders",
    ] {
        assert!(!is_tenantless(text.as_bytes()), "{text}");
    }
}

#[test]
fn both_sides_of_the_limits_of_a_text() {
    let nested = |depth: usize| format!("SELECT {}1{}", "(".repeat(depth), ")".repeat(depth));
    assert!(is_tenantless(nested(MAX_DEPTH - 1).as_bytes()));
    assert!(!is_tenantless(nested(MAX_DEPTH).as_bytes()));
    let long = |bytes: usize| format!("SELECT 1{}", " ".repeat(bytes - 8));
    assert!(is_tenantless(long(MAX_TEXT_BYTES).as_bytes()));
    assert!(!is_tenantless(long(MAX_TEXT_BYTES + 1).as_bytes()));
}

#[test]
fn a_text_that_takes_too_many_comparisons_needs_a_tenant() {
    let text = |items: usize, uses: usize| {
        let sources: Vec<String> = (0..items).map(|n| format!("information_schema.routines r{n}")).collect();
        let again: Vec<&str> = std::iter::repeat_n("q t", items).collect();
        let columns: Vec<&str> = std::iter::repeat_n("t.unit", uses).collect();
        format!(
            "WITH q AS (SELECT * FROM {}, pg_settings s) SELECT {} FROM {}",
            sources.join(","),
            columns.join(","),
            again.join(",")
        )
    };
    assert!(is_tenantless(text(3, 100).as_bytes()));
    assert!(!is_tenantless(text(30, 1000).as_bytes()));
}
