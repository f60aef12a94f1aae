-- One fault of each kind that the doctor knows, beside good objects that it must not name. Runs as a
-- superuser in the template's database; every object says by its name which check is to find it, those
-- called good_… are to be found by none.
CREATE ROLE boss BYPASSRLS;
CREATE ROLE d02_super BYPASSRLS;
CREATE ROLE helper;
GRANT d02_super TO app;
ALTER ROLE app CREATEDB;
ALTER ROLE app SET search_path = faults, public;
CREATE SCHEMA faults;
GRANT USAGE ON SCHEMA faults TO app;
SET search_path = faults;

-- Row-level security, forced, and the pin as protect makes it under a plain context.
CREATE FUNCTION pin(tab text, col text DEFAULT 'tenant_id', kind text DEFAULT 'text') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', tab);
    EXECUTE format('CREATE POLICY pgtenant_pin ON %I AS RESTRICTIVE USING (coalesce(%I = ANY (ARRAY[(SELECT NULLIF(current_setting(''app.tenant_id'', true), '''')::%s)]), false))', tab, col, kind);
END $$;
CREATE FUNCTION shield(VARIADIC tables text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY tables LOOP
        EXECUTE format('CREATE POLICY tenant ON %I USING (tenant_id = (SELECT NULLIF(current_setting(''app.tenant_id'', true), '''')))', t);
        PERFORM pin(t);
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION pin(text, text, text), shield(text[]) FROM PUBLIC;
-- Each fault has a table of its own, good but for that fault.
CREATE FUNCTION make(VARIADIC tables text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY tables LOOP
        EXECUTE format('CREATE TABLE %I (tenant_id text NOT NULL DEFAULT NULLIF(current_setting(''app.tenant_id'', true), ''''), id int NOT NULL, body text, PRIMARY KEY (tenant_id, id))', t);
        EXECUTE format('ALTER TABLE %I OWNER TO app_owner', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO app', t);
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION make(text[]) FROM PUBLIC;

SELECT make('good_table', 'd04_bare', 'd05_unforced', 'd06_silent', 'd09_open', 'd09_write', 'good_calls', 'd17_truncate',
    'd20_unique', 'd24_setting', 'd41_other', 'd30_trigger', 'd08_role', 'd20_target', 'unreachable');
SELECT shield('good_table', 'd05_unforced', 'd09_open', 'd09_write', 'good_calls', 'd17_truncate', 'd20_unique', 'd30_trigger', 'd20_target', 'unreachable');
REVOKE ALL ON unreachable FROM app;

-- Other shapes of a good table: a uuid, another column's name, the setting on the left, a restrictive policy
-- that makes an open one harmless, and a table of the tenants themselves.
CREATE TABLE good_uuid (org uuid NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), '')::uuid, id int NOT NULL, PRIMARY KEY (org, id));
ALTER TABLE good_uuid ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON good_uuid USING (id > 0 AND (SELECT NULLIF(current_setting('app.tenant_id', true), ''))::uuid = org);
SELECT pin('good_uuid', 'org', 'uuid');
CREATE TABLE good_tenants (id text PRIMARY KEY DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), name text);
ALTER TABLE good_tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON good_tenants USING (id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')));
SELECT pin('good_tenants', 'id');
SELECT make('good_guarded');
ALTER TABLE good_guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY everything ON good_guarded USING (true);
CREATE POLICY tenant ON good_guarded AS RESTRICTIVE USING (tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')));
SELECT pin('good_guarded');
GRANT SELECT, INSERT, UPDATE, DELETE ON good_uuid, good_tenants TO app;
-- Names that nobody should choose.
CREATE TABLE "good_ odd"" (*[na%me" ("te(n*an.t" text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), id int NOT NULL, PRIMARY KEY ("te(n*an.t", id));
ALTER TABLE "good_ odd"" (*[na%me" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY "te""n(%s" ON "good_ odd"" (*[na%me" USING ("te(n*an.t" = (SELECT NULLIF(current_setting('app.tenant_id', true), '')));
SELECT pin('good_ odd" (*[na%me', 'te(n*an.t');
GRANT SELECT, INSERT ON "good_ odd"" (*[na%me" TO app;
-- Known by the name of its column alone, which another table's policy told.
CREATE TABLE d04_by_name (org uuid NOT NULL, note text);
GRANT SELECT ON d04_by_name TO app;

ALTER TABLE d05_unforced NO FORCE ROW LEVEL SECURITY;
ALTER TABLE d06_silent ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DROP POLICY pgtenant_pin ON d09_open;
DROP POLICY pgtenant_pin ON d09_write;
CREATE POLICY everybody ON d09_open FOR SELECT USING (body IS NOT NULL);
CREATE POLICY anything ON d09_write FOR INSERT WITH CHECK (true);
GRANT TRUNCATE, TRIGGER ON d17_truncate TO app;
ALTER TABLE d24_setting ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON d24_setting USING (tenant_id = (SELECT current_setting('app.tenant_id')));
SELECT pin('d24_setting');
ALTER TABLE d41_other ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON d41_other USING (tenant_id = (SELECT current_setting('app.org', true)));
ALTER TABLE d08_role ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON d08_role USING (tenant_id = current_user);
CREATE UNIQUE INDEX d20_email ON d20_unique (body);

CREATE TABLE d03_owned (note text);
ALTER TABLE d03_owned OWNER TO app;

CREATE FUNCTION d11_constant() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT pg_catalog.current_setting('app.tenant_id', true) $$;
CREATE POLICY more ON good_calls USING (tenant_id = d11_constant());

CREATE FUNCTION d12_escapes() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT count(*) FROM faults.good_table $$;
ALTER FUNCTION d12_escapes() OWNER TO boss;
CREATE FUNCTION good_definer() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT 1 $$;
ALTER FUNCTION good_definer() OWNER TO helper;
CREATE FUNCTION d12_pathless() RETURNS int LANGUAGE sql SECURITY DEFINER AS $$ SELECT 1 $$;
ALTER FUNCTION d12_pathless() OWNER TO helper;
CREATE FUNCTION d12_temp_first() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, faults AS $$ SELECT 1 $$;
ALTER FUNCTION d12_temp_first() OWNER TO helper;

CREATE VIEW d13_superuser AS SELECT * FROM good_table;
CREATE VIEW d13_through AS SELECT * FROM d13_superuser;
CREATE VIEW d13_unprotected AS SELECT * FROM unreachable;
ALTER TABLE unreachable DISABLE ROW LEVEL SECURITY;
CREATE VIEW good_invoker WITH (security_invoker = true) AS SELECT * FROM good_table;
CREATE MATERIALIZED VIEW d14_copy AS SELECT * FROM good_table;
GRANT SELECT ON d13_superuser, d13_through, d13_unprotected, good_invoker, d14_copy TO app;

CREATE TABLE good_parent (tenant_id text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), at int NOT NULL, PRIMARY KEY (tenant_id, at)) PARTITION BY RANGE (at);
CREATE TABLE d15_child PARTITION OF good_parent FOR VALUES FROM (0) TO (10);
CREATE TABLE good_child PARTITION OF good_parent FOR VALUES FROM (10) TO (20);
SELECT shield('good_parent');
GRANT SELECT ON good_parent, d15_child TO app;

CREATE TABLE d16_written (note text);
CREATE TABLE d16_read (note text);
GRANT SELECT, INSERT ON d16_written TO app;
GRANT SELECT ON d16_read TO app;
ALTER TABLE d20_target ADD CONSTRAINT target_id UNIQUE (id);
CREATE TABLE d19_reference (tenant_id text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), target int REFERENCES d20_target (id));
CREATE INDEX ON d19_reference (tenant_id);
SELECT shield('d19_reference');
CREATE TABLE good_reference (tenant_id text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), target int, FOREIGN KEY (tenant_id, target) REFERENCES d20_target (tenant_id, id));
CREATE INDEX ON good_reference (tenant_id);
SELECT shield('good_reference');
CREATE TABLE d21_unindexed (tenant_id text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), id int PRIMARY KEY);
SELECT shield('d21_unindexed');
CREATE TABLE d22_null (tenant_id text, id int);
CREATE INDEX ON d22_null (tenant_id);
SELECT shield('d22_null');
GRANT SELECT, INSERT ON d19_reference, good_reference, d21_unindexed, d22_null TO app;

CREATE SCHEMA d18_schema;
GRANT USAGE, CREATE ON SCHEMA d18_schema TO app;
GRANT CREATE ON DATABASE app TO app;
CREATE SEQUENCE d23_sequence;
CREATE SEQUENCE good_sequence;
GRANT UPDATE, SELECT ON SEQUENCE d23_sequence TO app;
GRANT USAGE ON SEQUENCE good_sequence TO app;
CREATE FUNCTION d26_dynamic(name text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN EXECUTE 'SELECT ' || name; END $$;
CREATE FUNCTION d26_obeys(sql text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE sql; END $$;
CREATE FUNCTION d26_obeys_quoted("Any Command" text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE ("Any Command") USING 1; END $$;
CREATE PROCEDURE d26_obeys_number(text) LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; END $$;
CREATE FUNCTION good_static() RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, faults, pg_temp AS $$ BEGIN RETURN 1; END $$;
CREATE FUNCTION d30_stamp() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE INSERT ON d30_trigger FOR EACH ROW EXECUTE FUNCTION d30_stamp();
CREATE FUNCTION d50_pathless() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$;
CREATE PROCEDURE d50_empty(n int) LANGUAGE plpgsql SET search_path = '' AS $$ BEGIN END $$;
CREATE FUNCTION d50_first() RETURNS int LANGUAGE plpgsql SET search_path = pg_temp, pg_catalog AS $$ BEGIN RETURN 1; END $$;
CREATE FUNCTION d50_trigger() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$ BEGIN RETURN NEW; END $$;
REVOKE EXECUTE ON FUNCTION d50_trigger() FROM PUBLIC;
CREATE TRIGGER d50 BEFORE INSERT ON d30_trigger FOR EACH ROW EXECUTE FUNCTION d50_trigger();
CREATE FUNCTION good_unseen() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$;
REVOKE EXECUTE ON FUNCTION good_unseen() FROM PUBLIC;
CREATE RULE nothing AS ON DELETE TO d16_written DO INSTEAD NOTHING;
CREATE FUNCTION d36_leakproof(int) RETURNS int LANGUAGE sql LEAKPROOF AS $$ SELECT $1 $$;
CREATE PUBLICATION d37_publication FOR TABLE good_table;
SELECT lo_create(4711);
ALTER LARGE OBJECT 4711 OWNER TO app;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE d31_foreign (tenant_id text, note text) SERVER nowhere;
GRANT SELECT ON d31_foreign TO app;
CREATE USER MAPPING FOR PUBLIC SERVER nowhere;

-- As the sealed context makes them, in each form of the pin.
CREATE SCHEMA pgtenant AUTHORIZATION app_owner;
GRANT USAGE ON SCHEMA pgtenant TO app;
CREATE FUNCTION pgtenant.current_tenant() RETURNS text LANGUAGE sql STABLE AS $$ SELECT NULLIF(pg_catalog.current_setting('app.tenant_id', true), '') $$;
CREATE FUNCTION pgtenant.hand_over(text, text) RETURNS text LANGUAGE sql AS $$ SELECT $1 $$;
CREATE TABLE pgtenant.key (kid text);
GRANT SELECT ON pgtenant.key TO helper;
SELECT make('good_pinned', 'good_pinned_true', 'd11_per_row');
CREATE TABLE good_pinned_uuid (tenant_id uuid NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), '')::uuid, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE good_pinned_varchar (tenant_id varchar(20) NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), id bigint, PRIMARY KEY (tenant_id, id));
CREATE TABLE good_pinned_int (tenant_id int NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), '')::int, id bigint, PRIMARY KEY (tenant_id, id));
GRANT SELECT, INSERT ON good_pinned_uuid, good_pinned_varchar, good_pinned_int TO app;
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['good_pinned', 'good_pinned_true', 'd11_per_row', 'good_pinned_uuid', 'good_pinned_varchar', 'good_pinned_int'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY everything ON %I USING (true)', t);
    END LOOP;
END $$;
CREATE POLICY pgtenant_pin ON good_pinned AS RESTRICTIVE
    USING (tenant_id = ANY (ARRAY[(SELECT pgtenant.current_tenant())])) WITH CHECK (tenant_id = ANY (ARRAY[(SELECT pgtenant.current_tenant())]));
CREATE POLICY pgtenant_pin ON good_pinned_true AS RESTRICTIVE USING ((tenant_id = (SELECT pgtenant.current_tenant())) IS TRUE);
CREATE POLICY pgtenant_pin ON good_pinned_uuid AS RESTRICTIVE USING (tenant_id = ANY (ARRAY[(SELECT pgtenant.current_tenant()::uuid)]));
CREATE POLICY pgtenant_pin ON good_pinned_varchar AS RESTRICTIVE USING (tenant_id = ANY (ARRAY[(SELECT pgtenant.current_tenant())]));
CREATE POLICY pgtenant_pin ON good_pinned_int AS RESTRICTIVE USING (tenant_id = ANY (ARRAY[(SELECT pgtenant.current_tenant())::int]));
CREATE POLICY pgtenant_pin ON d11_per_row AS RESTRICTIVE USING (tenant_id = pgtenant.current_tenant());
-- What the planner merges, and what it does not; under a plain context each policy believes the setting.
SELECT make('d10_bare', 'd10_restrictive', 'd10_more', 'good_any', 'good_any_more', 'good_true', 'good_equal', 'good_public', 'good_range');
DO $$
DECLARE tenant text := '(SELECT NULLIF(current_setting(''app.tenant_id'', true), ''''))'; t text; qual text;
BEGIN
    FOR t, qual IN VALUES ('d10_bare', 'tenant_id = current_setting(''app.tenant_id'', true)'), ('d10_restrictive', 'true'),
        ('d10_more', 'id > 0 AND tenant_id = ' || tenant), ('good_any', 'tenant_id = ANY (ARRAY[' || tenant || '])'),
        ('good_any_more', 'tenant_id = ANY (ARRAY[' || tenant || ']) AND (body IS NULL OR id > 0)'),
        ('good_true', '(tenant_id = ' || tenant || ') IS TRUE'), ('good_equal', 'coalesce(tenant_id = ' || tenant || ', false)'),
        ('good_public', 'tenant_id = ' || tenant || ' OR body = ''public'''), ('good_range', 'tenant_id >= ' || tenant || ' AND tenant_id <= ' || tenant)
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY own ON %I USING (%s)', t, qual);
    END LOOP;
    EXECUTE 'CREATE POLICY tied ON d10_restrictive AS RESTRICTIVE USING (tenant_id = ' || tenant || ')';
END $$;
-- A cast that is not leakproof cannot be merged.
CREATE TABLE good_uuid_as_text (tenant_id uuid NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), '')::uuid, id int, PRIMARY KEY (tenant_id, id));
ALTER TABLE good_uuid_as_text ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON good_uuid_as_text USING (tenant_id::text = (SELECT NULLIF(current_setting('app.tenant_id', true), '')));
GRANT SELECT ON good_uuid_as_text TO app;

-- The empty string as a tenant.
SELECT make('d48_any', 'd48_function', 'd48_pinned', 'good_checked', 'good_not_empty');
CREATE FUNCTION own_tenant() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('app.tenant_id', true) $$;
DO $$
DECLARE bare text := '(SELECT current_setting(''app.tenant_id'', true))'; t text; qual text;
BEGIN
    FOR t, qual IN VALUES ('d48_any', 'tenant_id = ANY (ARRAY[' || bare || '])'), ('d48_function', 'coalesce(tenant_id = own_tenant(), false) AND id IS NULL'),
        ('d48_pinned', 'id > 0 AND tenant_id = ' || bare), ('good_checked', 'tenant_id = ANY (ARRAY[' || bare || '])'),
        ('good_not_empty', 'tenant_id = ANY (ARRAY[' || bare || ']) AND tenant_id <> ''''')
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY own ON %I USING (%s)', t, qual);
    END LOOP;
    EXECUTE 'CREATE POLICY pin ON d48_pinned AS RESTRICTIVE USING (tenant_id = ANY (ARRAY[' || bare || ']))';
END $$;
ALTER TABLE good_checked ADD CHECK (tenant_id <> '');

-- Sequences of all tenants.
CREATE TABLE d49_short (tenant_id text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), id serial, PRIMARY KEY (tenant_id, id));
CREATE TABLE d49_key (tenant_id text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
CREATE INDEX ON d49_key (tenant_id, id);
CREATE TABLE good_identity (tenant_id text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), id bigint GENERATED BY DEFAULT AS IDENTITY, PRIMARY KEY (tenant_id, id));
CREATE TABLE good_unwritten (tenant_id text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), id serial, PRIMARY KEY (tenant_id, id));
SELECT shield('d49_short', 'd49_key', 'good_identity', 'good_unwritten');
GRANT SELECT, INSERT ON d49_short, d49_key, good_identity TO app;
GRANT USAGE ON SEQUENCE good_identity_id_seq TO app;
GRANT SELECT ON good_unwritten TO app;

SELECT make('d10_equality');
ALTER TABLE d10_equality ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON d10_equality USING (tenant_id = (SELECT pgtenant.current_tenant()));
RESET search_path;
