-- The state of everything that tenants share or own, one line a part: (part, digest). Runs as superuser.
-- Parts that begin with "own." are the attacker's to change.
WITH row_of (part, tenant, line) AS (
    SELECT 'orders', tenant_id, t::text FROM public.orders t
    UNION ALL SELECT 'lines', tenant_id, t::text FROM public.lines t
    UNION ALL SELECT 'papers', tenant_id, t::text FROM public.papers t
    UNION ALL SELECT 'events', tenant_id, t::text FROM public.events t
    UNION ALL SELECT 'jobs', tenant_id, t::text FROM public.jobs t
    UNION ALL SELECT 'loose', tenant_id, t::text FROM public.loose t
), own_role AS (
    SELECT oid FROM pg_roles WHERE rolname = '@own_role@'
), mine AS (
    SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), line_of (part, line) AS (
    SELECT CASE WHEN tenant = '@attacker@' THEN 'own.' ELSE '' END || 'rows.' || part, line FROM row_of
    UNION ALL SELECT CASE WHEN setrole IN (SELECT oid FROM own_role) THEN 'own.' ELSE '' END || 'role settings', s::text FROM pg_db_role_setting s
    UNION ALL SELECT CASE WHEN a.oid IN (SELECT oid FROM own_role) THEN 'own.' ELSE '' END || 'roles', a::text FROM pg_authid a
    UNION ALL SELECT 'members', m::text FROM pg_auth_members m
    UNION ALL SELECT CASE WHEN defaclrole IN (SELECT oid FROM own_role) THEN 'own.' ELSE '' END || 'default privileges', d::text FROM pg_default_acl d
    UNION ALL SELECT 'database', datname || coalesce(datacl::text, '') || datallowconn || datconnlimit FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT 'schemas', nspname || nspowner || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
    UNION ALL SELECT 'relations', concat_ws('|', relname, relnamespace, relowner, relkind, relacl, reloptions, relrowsecurity, relforcerowsecurity, relhasrules, relhastriggers)
        FROM pg_class WHERE relnamespace IN (SELECT oid FROM mine)
    UNION ALL SELECT 'system privileges', relname || relacl::text FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relacl IS NOT NULL
    UNION ALL SELECT 'columns', concat_ws('|', attrelid, attname, attacl, attnotnull, attisdropped) FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace IN (SELECT oid FROM mine) AND attnum > 0
    UNION ALL SELECT 'routines', concat_ws('|', oid, proname, proowner, proacl, prosecdef, proconfig, md5(prosrc)) FROM pg_proc WHERE pronamespace IN (SELECT oid FROM mine)
    UNION ALL SELECT 'policies', p::text FROM pg_policy p JOIN pg_class c ON c.oid = polrelid WHERE relpersistence <> 't'
    UNION ALL SELECT 'triggers', concat_ws('|', tgrelid, tgname, tgenabled) FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid WHERE relpersistence <> 't'
    UNION ALL SELECT 'rules', concat_ws('|', r.oid, ev_class, rulename) FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class WHERE relnamespace IN (SELECT oid FROM mine)
    UNION ALL SELECT 'constraints', concat_ws('|', conname, conrelid, contypid, convalidated) FROM pg_constraint WHERE connamespace IN (SELECT oid FROM mine)
    UNION ALL SELECT 'types', typname || typowner FROM pg_type WHERE typnamespace IN (SELECT oid FROM mine)
    UNION ALL SELECT 'operators', oprname || oprowner FROM pg_operator WHERE oprnamespace IN (SELECT oid FROM mine)
    UNION ALL SELECT 'casts', castsource::text || '|' || casttarget FROM pg_cast c JOIN pg_type t ON t.oid = casttarget WHERE c.oid >= 16384 AND typnamespace IN (SELECT oid FROM mine)
    UNION ALL SELECT 'languages', lanname || coalesce(lanacl::text, '') FROM pg_language
    UNION ALL SELECT 'extensions', extname FROM pg_extension
    UNION ALL SELECT 'comments', d::text FROM pg_description d JOIN pg_class c ON c.oid = objoid AND relpersistence <> 't' WHERE classoid = 'pg_class'::regclass AND objoid >= 16384
    UNION ALL SELECT 'labels', l::text FROM pg_seclabel l
    UNION ALL SELECT 'event triggers', evtname FROM pg_event_trigger
    UNION ALL SELECT 'publications', pubname FROM pg_publication
    UNION ALL SELECT 'large object', concat_ws('|', m.oid, lomowner, lomacl, (SELECT md5(string_agg(data, '' ORDER BY pageno)) FROM pg_largeobject WHERE loid = m.oid))
        FROM pg_largeobject_metadata m WHERE m.oid = @large@
    UNION ALL SELECT 'own.large objects', m.oid::text FROM pg_largeobject_metadata m WHERE m.oid <> @large@
    UNION ALL SELECT CASE WHEN owner = '@own_role@' THEN 'own.' ELSE '' END || 'prepared transactions', gid FROM pg_prepared_xacts
    UNION ALL SELECT 'sequences', sequencename || (coalesce(last_value, 1000) NOT BETWEEN 1000 AND 100000) FROM pg_sequences WHERE schemaname = '@victim_schema@'
)
SELECT part, md5(string_agg(line, E'\n' ORDER BY line)) FROM line_of GROUP BY part
