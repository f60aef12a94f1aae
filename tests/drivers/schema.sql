-- A small SaaS: an owner, an application role that is nobody special, and tables that keep tenants apart.
CREATE ROLE app_owner NOLOGIN;
CREATE ROLE app LOGIN PASSWORD 'app-secret' NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
CREATE DATABASE app OWNER app_owner;
\connect app
GRANT CREATE ON SCHEMA public TO app_owner;
SET ROLE app_owner;

CREATE TYPE mood AS ENUM ('calm', 'busy');

CREATE TABLE orders (
    tenant_id text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''),
    id int NOT NULL,
    note text,
    PRIMARY KEY (tenant_id, id)
);
CREATE TABLE items (
    tenant_id text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''),
    id int NOT NULL,
    n int NOT NULL DEFAULT 0,
    note text,
    feeling mood,
    PRIMARY KEY (tenant_id, id)
);

ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE items ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON orders
    USING (tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')));
CREATE POLICY tenant ON items
    USING (tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')));
CREATE POLICY pgtenant_pin ON orders AS RESTRICTIVE
    USING (coalesce(tenant_id = ANY (ARRAY[(SELECT NULLIF(current_setting('app.tenant_id', true), ''))]), false));
CREATE POLICY pgtenant_pin ON items AS RESTRICTIVE
    USING (coalesce(tenant_id = ANY (ARRAY[(SELECT NULLIF(current_setting('app.tenant_id', true), ''))]), false));

-- PostgreSQL has no COPY FROM into a table with row-level security; into a view with a trigger it has.
CREATE VIEW items_in WITH (security_invoker = true) AS SELECT tenant_id, id, n, note FROM items;
CREATE FUNCTION items_in() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO items (tenant_id, id, n, note)
    VALUES (coalesce(NEW.tenant_id, NULLIF(current_setting('app.tenant_id', true), '')), NEW.id, NEW.n, NEW.note);
    RETURN NEW;
END $$;
CREATE TRIGGER items_in INSTEAD OF INSERT ON items_in FOR EACH ROW EXECUTE FUNCTION items_in();

-- Says something while it runs: notices must reach the client that asked and nobody else.
CREATE FUNCTION say(words text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'heard %', words;
    RETURN words;
END $$;

GRANT SELECT, INSERT, UPDATE, DELETE ON orders, items, items_in TO app;
RESET ROLE;

INSERT INTO orders SELECT 'acme', g, 'acme-' || g FROM generate_series(1, 120) g;
INSERT INTO orders SELECT 'globex', g, 'globex-' || g FROM generate_series(1, 80) g;
ANALYZE;
