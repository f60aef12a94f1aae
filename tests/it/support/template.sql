-- What every test finds in its cluster: a shared table under forced row-level security, rows of three
-- tenants, and a login role that owns nothing and may bypass nothing.
-- CREATEROLE, so that protect makes the register's role by itself.
CREATE ROLE app_owner LOGIN CREATEROLE PASSWORD 'owner-secret';
CREATE ROLE app LOGIN PASSWORD 'app-secret' NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
CREATE DATABASE app OWNER app_owner;
\connect app
SET ROLE app_owner;
CREATE TABLE notes (
    id bigserial,
    tenant_id text NOT NULL DEFAULT current_setting('app.tenant_id'),
    body text,
    PRIMARY KEY (tenant_id, id)
);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON notes
    USING (tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')));
CREATE POLICY pgtenant_pin ON notes AS RESTRICTIVE
    USING (coalesce(tenant_id = ANY (ARRAY[(SELECT NULLIF(current_setting('app.tenant_id', true), ''))]), false))
    WITH CHECK (coalesce(tenant_id = ANY (ARRAY[(SELECT NULLIF(current_setting('app.tenant_id', true), ''))]), false));
-- COPY FROM is refused by PostgreSQL on a table under row-level security, so it has a table of its own.
CREATE TABLE imports (line text);
CREATE SCHEMA shelf;
CREATE TABLE shelf.notes (body text);
INSERT INTO shelf.notes VALUES ('from the shelf');
-- A function that leaves a temporary table behind, unseen by whoever reads the statement.
CREATE FUNCTION scribble() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
    $$ BEGIN CREATE TEMP TABLE IF NOT EXISTS scribbled (body text); END $$;
GRANT USAGE ON SCHEMA shelf TO app;
GRANT SELECT ON shelf.notes TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON notes, imports TO app;
GRANT USAGE ON SEQUENCE notes_id_seq TO app;
RESET ROLE;
INSERT INTO notes (tenant_id, body)
SELECT tenant, 'note ' || n || ' of ' || tenant
FROM unnest(ARRAY['acme', 'globex', 'initech']) AS tenant, generate_series(1, 10) AS n;
