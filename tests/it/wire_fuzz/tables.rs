//! The SQL around a sequence: the tables that it works on, and what is looked at when it is over.

/// Tables in which the tenants cannot meet: a key holds the tenant. The policy takes the empty string for a tenant, so
/// that a statement that runs without its context shows. `forge` changes the tenant of the session on the proxied side,
/// as code of the database can under a plain context: the next transaction has to have its own. PostgreSQL has no COPY FROM into a table under row-level security.
pub(super) const TABLES: &str = "
DROP TABLE IF EXISTS orders, lines, typed;
CREATE OR REPLACE FUNCTION tenant() RETURNS text STABLE LANGUAGE sql AS $$ SELECT
    current_setting(CASE current_user WHEN 'app' THEN 'app.tenant_id' ELSE 'fuzz.tenant' END, true) $$;
CREATE TABLE orders (
    tenant_id text NOT NULL DEFAULT tenant(),
    id int, body text, rank int,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, rank) DEFERRABLE INITIALLY DEFERRED
);
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON orders
    USING (tenant_id = ANY (ARRAY[(SELECT tenant())]));
CREATE TABLE lines (
    tenant_id text NOT NULL DEFAULT tenant(),
    k int, body text, PRIMARY KEY (tenant_id, k)
);
CREATE TABLE typed (id int PRIMARY KEY, v int);
INSERT INTO typed VALUES (1, 41), (2, 42);
CREATE SCHEMA IF NOT EXISTS other;
DROP TABLE IF EXISTS other.typed;
CREATE TABLE other.typed (id int PRIMARY KEY, v text);
INSERT INTO other.typed VALUES (1, 'one');
CREATE OR REPLACE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN
    DELETE FROM orders WHERE id = 40; INSERT INTO orders (id, body) VALUES (40, tenant() || ':40'); COMMIT;
    DELETE FROM orders WHERE id = 41; INSERT INTO orders (id, body) VALUES (41, tenant() || ':41'); END $$;
CREATE OR REPLACE PROCEDURE rolls_back() LANGUAGE plpgsql AS $$ BEGIN
    DELETE FROM orders; ROLLBACK;
    DELETE FROM orders WHERE id = 1; END $$;
CREATE OR REPLACE FUNCTION forge() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    IF current_database() = 'app' AND current_user = 'app' THEN
        PERFORM set_config('app.tenant_id', 'forged', false);
    END IF;
    RETURN 1; END $$;
ALTER TABLE orders OWNER TO app_owner;
ALTER TABLE lines OWNER TO app_owner;
ALTER TABLE typed OWNER TO app_owner;
GRANT USAGE ON SCHEMA other TO app;
GRANT SELECT ON other.typed TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON orders, lines, typed TO app;";
/// Under a seal the tenant is the one of the register, and the setting means nothing.
pub(super) const SEALED: &str = "
CREATE OR REPLACE FUNCTION forge() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE OR REPLACE FUNCTION tenant() RETURNS text STABLE LANGUAGE plpgsql AS $$ BEGIN
    RETURN CASE current_user WHEN 'app' THEN pgtenant.current_tenant() ELSE current_setting('fuzz.tenant', true) END; END $$;";
/// The rows that each sequence begins with.
pub(super) const ROWS: &str = "
DELETE FROM orders; DELETE FROM lines; DELETE FROM typed WHERE id > 2;
INSERT INTO orders SELECT tenant, id, tenant || ':0', id
    FROM unnest(ARRAY['acme', 'globex']) AS tenant, generate_series(1, 3) AS id;
INSERT INTO lines SELECT tenant, k, tenant || ':0'
    FROM unnest(ARRAY['acme', 'globex']) AS tenant, generate_series(1, 2) AS k;";
/// All rows, and after them those whose writer is another tenant.
pub(super) const STATE: &str = "
SELECT string_agg(line, E'\\n' ORDER BY line), coalesce(string_agg(line, ', ') FILTER (WHERE foreign_), '') FROM (
    SELECT 'orders ' || o::text AS line, tenant_id <> split_part(body, ':', 1) AS foreign_ FROM orders o
    UNION ALL
    SELECT 'lines ' || l::text, tenant_id <> split_part(body, ':', 1) FROM lines l
    UNION ALL
    SELECT 'typed ' || t::text, false FROM typed t) AS all_";
/// Ends the proxy's servers.
pub(super) const END_SERVERS: &str = "
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE usename IN ('app', 'app_owner') AND datname = current_database()";
/// How many advisory locks are held.
pub(super) const LOCKS: &str = "
SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
