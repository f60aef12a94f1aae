-- Puts everything back as the seed left it. Runs as superuser; the copies stand in the schema isolation_seed.
DO $$
DECLARE it record;
BEGIN
    FOR it IN SELECT loid FROM (SELECT oid AS loid FROM pg_largeobject_metadata) m LOOP PERFORM lo_unlink(it.loid); END LOOP;
    FOR it IN SELECT c.oid::regclass AS name, relkind FROM pg_class c WHERE relowner = '@role@'::regrole AND relkind IN ('r', 'v', 'm', 'S', 'p')
            AND relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_') LOOP
        EXECUTE format('DROP %s IF EXISTS %s CASCADE', CASE it.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, it.name);
    END LOOP;
    FOR it IN SELECT oid::regprocedure AS name FROM pg_proc WHERE proowner = '@role@'::regrole
            AND pronamespace IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_') LOOP
        EXECUTE format('DROP ROUTINE IF EXISTS %s CASCADE', it.name);
    END LOOP;
    FOR it IN SELECT oid::regtype AS name FROM pg_type WHERE typowner = '@role@'::regrole AND typtype IN ('d', 'e', 'c', 'r')
            AND typrelid = 0 AND typnamespace IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_') LOOP
        EXECUTE format('DROP TYPE IF EXISTS %s CASCADE', it.name);
    END LOOP;
    FOR it IN SELECT defaclobjtype FROM pg_default_acl LOOP
        DELETE FROM pg_shdepend WHERE classid = 'pg_default_acl'::regclass;
        DELETE FROM pg_default_acl;
    END LOOP;
END $$;
TRUNCATE public.orders, public.lines, public.papers, public.events, public.jobs, public.loose RESTART IDENTITY;
INSERT INTO public.orders SELECT * FROM isolation_seed.orders;
INSERT INTO public.lines SELECT * FROM isolation_seed.lines;
INSERT INTO public.papers (tenant_id, id, words, data) SELECT tenant_id, id, words, data FROM isolation_seed.papers;
INSERT INTO public.events SELECT * FROM isolation_seed.events;
INSERT INTO public.loose SELECT * FROM isolation_seed.loose;
-- === once
SELECT lo_from_bytea(@large@, convert_to('@token@-large-object', 'UTF8'));
ALTER LARGE OBJECT @large@ OWNER TO @role@;
