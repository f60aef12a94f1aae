"""pgtenant in front of a private PostgreSQL, once for each combination of its lines of defence."""

import json
import os
import secrets
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "tests" / "drivers"))

from private import PostgreSQL, Stage, free_port, scram_verifier, wait_for_port  # noqa: E402
from world import Login, Place, Target, World  # noqa: E402

# guard, context. The first two are the measure of the attacks themselves, they must leak a lot: PostgreSQL alone with
# an application that names its tenant after each login, and pgtenant without its defences. With a place of its own for
# each tenant that is the only line of defence; in the last column it is open.
COLUMNS = {
    "direct": None,
    "off-plain": ("off", "plain"),
    "off-sealed": ("off", "sealed"),
    "strict-plain": ("strict", "plain"),
    "strict-sealed": ("strict", "sealed"),
    "off-schema": ("off", "schema"),
    "off-database": ("off", "database"),
    "strict-schema": ("strict", "schema"),
    "strict-database": ("strict", "database"),
    "open-schema": ("off", "schema"),
    "open-register": ("off", "sealed"),
    "roles-plain": ("strict", "plain"),
    "roles-sealed": ("strict", "sealed"),
    "roles-schema": ("strict", "schema"),
    "roles-database": ("strict", "database"),
    "open-roles": ("off", "plain"),
}
# The only families that say something about a column.
FAMILIES = {"open-register": ("35-register",)} | {name: ("36-application-roles",) for name in COLUMNS if "roles" in name}
# What docs/protect.md forbids, and the doctor calls critical: privileges on the register, and a function with its owner's rights.
OPEN_REGISTER = """
GRANT ALL ON SEQUENCE pgtenant.register_1, pgtenant.register_2 TO app;
GRANT USAGE ON SCHEMA pgtenant TO app;
ALTER FUNCTION public.set_sequence OWNER TO pgtenant_register;
"""
# A proxy for each kind of place. The last bounds what one tenant may take, as a production configuration does.
SIZES = {"narrow": 1, "wide": 4, "fair": 4}
LIMITS = {
    "narrow": ("", "max_servers = 1\nqueue_timeout = \"10s\""),
    "wide": ("", "max_servers = 4\nqueue_timeout = \"10s\""),
    "fair": ("max_clients = 300\nmax_logins = 200\nmax_logins_per_address = 30\nlogin_timeout = \"5s\"\nmax_message_bytes = \"16MiB\"\nmax_client_memory = \"24MiB\"\nmax_tenant_memory = \"32MiB\"",
             "max_servers = 2\nmax_pins = 1\nmax_clients = 60\nqueue_timeout = \"2s\"\nstatement_timeout = \"3s\"\nidle_transaction_timeout = \"5s\""),
}
DEFAULT = ("off-sealed", "strict-plain", "strict-sealed", "off-schema", "strict-schema", "off-database", "roles-plain", "roles-sealed", "roles-schema",
           "roles-database")
MAINTENANCE = Login("owner", "owner-secret", "app")
COLLEAGUE = Login("acme_colleague", "colleague-secret", "app")  # of the attacker's tenant
# Tables of the maintenance user's own, named as the tenants': what it attacks with does not change theirs. What another of its
# clients inserts is not kept, so that those that work know their rows.
OF_ITS_OWN = """
\\connect {database}
CREATE SCHEMA maintenance AUTHORIZATION app_owner;
ALTER ROLE app_owner IN DATABASE {database} SET search_path = maintenance, public;
CREATE TABLE maintenance.orders (tenant_id text, id bigint, note text, cents bigint DEFAULT 0);
INSERT INTO maintenance.orders SELECT 'maintenance', g, 'own note ' || g FROM generate_series(1, 7) g;
CREATE FUNCTION maintenance.keeps_none() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keeps_none BEFORE INSERT ON maintenance.orders FOR EACH ROW
    WHEN (NEW.tenant_id IS DISTINCT FROM 'maintenance') EXECUTE FUNCTION maintenance.keeps_none();
CREATE PROCEDURE maintenance.commit_and_count() LANGUAGE plpgsql AS
    'BEGIN COMMIT; UPDATE maintenance.orders SET cents = cents + 1; END';
ALTER TABLE maintenance.orders OWNER TO app_owner;
ALTER FUNCTION maintenance.keeps_none OWNER TO app_owner;
ALTER PROCEDURE maintenance.commit_and_count OWNER TO app_owner;
"""
SECRETS = {"APP_DB_PASSWORD": "app-secret", "OWNER_PASSWORD": "owner-secret", "ROOT_PASSWORD": "root-secret"}
ROLES = """
CREATE ROLE app_owner LOGIN PASSWORD 'owner-secret';
CREATE ROLE app LOGIN PASSWORD 'app-secret' NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
ALTER ROLE postgres PASSWORD 'root-secret';
CREATE DATABASE app OWNER app_owner;
-- What docs/protect.md asks of an administrator.
CREATE ROLE pgtenant_register NOLOGIN;
DO $$ BEGIN
    IF current_setting('server_version_num')::int >= 160000 THEN
        EXECUTE 'GRANT pgtenant_register TO app_owner WITH ADMIN TRUE, INHERIT FALSE, SET FALSE';
    ELSE
        GRANT pgtenant_register TO app_owner WITH ADMIN OPTION;
    END IF;
END $$;
\\connect app
GRANT CREATE, USAGE ON SCHEMA public TO app_owner;
"""
# What docs/placements.md says.
SCHEMA = """
\\connect app
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA tenant_{0} AUTHORIZATION app_owner;
GRANT USAGE ON SCHEMA tenant_{0} TO tenant_{0};
"""
DATABASE = """
CREATE DATABASE {0} OWNER app_owner;
REVOKE ALL ON DATABASE {0} FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE {0} TO tenant_{0};
\\connect {0}
GRANT CREATE, USAGE ON SCHEMA public TO app_owner;
"""
PLACES = {"schema": SCHEMA, "database": DATABASE}
# Roles that the attacker's user may set, one that it may not, and code of the application that sets any of them for the session.
LISTED = ("authenticated", "anon")
APPLICATION_ROLES = """
GRANT authenticated, anon, unlisted TO {role};
GRANT USAGE ON SCHEMA {schema} TO authenticated, anon, unlisted;
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.orders, {schema}.lines, {schema}.papers, {schema}.jobs TO authenticated, unlisted;
GRANT SELECT ON {schema}.orders, {schema}.jobs TO anon;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO authenticated;
CREATE FUNCTION {schema}.becomes(role text) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
    $$ BEGIN RETURN set_config('role', role, false); END $$;
CREATE FUNCTION {schema}.becomes_too() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
    $$ BEGIN PERFORM set_config('role', NEW.value, false); RETURN NEW; END $$;
CREATE TRIGGER becomes AFTER INSERT ON {schema}.jobs FOR EACH ROW WHEN (NEW.done = 'becomes') EXECUTE FUNCTION {schema}.becomes_too();
CREATE VIEW {schema}.becomes_view AS SELECT set_config('role', 'authenticated', false) AS role;
GRANT SELECT ON {schema}.becomes_view TO {role}, authenticated, unlisted;
"""


def fetched(version):
    """Where the programs of another major version are, which are fetched if need be."""
    fetch = ROOT / "tests/scripts/fetch-postgres"
    subprocess.run([fetch, version], check=True, stdout=sys.stderr)
    return subprocess.run([fetch, "--bin", version], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def column(name):
    """A world behind pgtenant, set up as the column says; everything ends with the block."""
    with Stage(f"pgtenant-isolation-{name}-") as stage:
        try:
            cluster = PostgreSQL(stage, settings={"max_prepared_transactions": 5, "log_min_error_statement": "panic", "log_min_messages": "fatal", "jit": "off"})
            cluster.sql(ROLES, "postgres")
            # One iteration: a proxy built for debugging would else spend most of its time on logins to PostgreSQL.
            for role, secret in (("app", "app-secret"), ("app_owner", "owner-secret")):
                cluster.sql(f"ALTER ROLE {role} PASSWORD '{scram_verifier(secret, 1)}'", "postgres")
            if COLUMNS[name] and COLUMNS[name][1] in PLACES:
                yield placed(stage, cluster, name)
            else:
                yield through_pgtenant(stage, cluster, name) if COLUMNS[name] else without_proxy(cluster)
        except Exception:
            for log in (*(f"{where}.log" for where in SIZES), "postgres.log"):
                print(f"--- end of {log}\n{stage.tail(log)}", file=sys.stderr, flush=True)
            raise


def without_proxy(cluster):
    place, login = ("127.0.0.1", cluster.port), Login("app", "app-secret", "app")
    world = World(Target(narrow=place, wide=place, direct=(str(cluster.sockets), cluster.port), admin=Login("postgres", "", "app"),
                         attacker=login, victim=login, enter="SET app.tenant_id = '{tenant}'"))
    world.make()
    world.settle()
    return world


def parties(name):
    """Attacker and victim; where there are roles of the application, the attacker's user may set some."""
    attacker = Login("acme_web" if "roles" in name else "acme_app", "acme-secret", "app")
    return attacker, Login("globex_app", "globex-secret", "app")


def grant_roles(world, name):
    """What the attacker's role may become. Where others have places of their own, it is nothing to them."""
    if "roles" in name:
        place = world.target.places[0]
        world.target.roles = (*LISTED, "unlisted")
        world.sql("; ".join(f"CREATE ROLE {role}" for role in world.target.roles))
        world.sql(APPLICATION_ROLES.format(schema=place.schema, role=world.role_of(place)), place.database)
    if name == "open-roles":
        world.sql("ALTER ROLE authenticated BYPASSRLS; ALTER ROLE unlisted BYPASSRLS")


def through_pgtenant(stage, cluster, name):
    guard, context = COLUMNS[name]
    attacker, victim = parties(name)
    ports = {where: free_port() for where in SIZES}
    world = World(Target(
        **{where: ("127.0.0.1", port) for where, port in ports.items()}, direct=(str(cluster.sockets), cluster.port),
        admin=Login("postgres", "", "app"), attacker=attacker, victim=victim, keeps_servers=True, maintenance=MAINTENANCE, colleague=COLLEAGUE))
    world.make()
    grant_roles(world, name)
    key = secrets.token_hex(32)
    configs = {where: stage.write(f"{where}.toml", configuration(cluster, ports[where], where, (guard, context, key), (attacker, victim)))
               for where in SIZES}
    if context == "sealed":
        protect(configs["narrow"])
        if guard == "strict":
            mend(world, configs["narrow"])
    cluster.sql(OF_ITS_OWN.format(database="app"), "postgres")
    if name == "open-register":
        cluster.sql(OPEN_REGISTER)
    world.settle()
    for where, config in configs.items():
        serve(stage, world, where, config)
    return world


def serve(stage, world, where, config):
    proxy = stage.start([binary(), "serve", "--config", config], f"{where}.log", env=SECRETS)
    port = getattr(world.target, where)[1]
    wait_for_port(port, proxy, f"pgtenant ({where}.log)")
    world.target.processes[port] = proxy.pid


def placed(stage, cluster, name):
    """Each tenant with a schema or a database of its own, as a role of its own, and no other line of defence."""
    guard, isolation = COLUMNS[name]
    verifier = scram_verifier("own-secret", 1)
    for tenant in ("acme", "globex"):
        cluster.sql(f"CREATE ROLE tenant_{tenant} LOGIN PASSWORD '{verifier}'", "postgres")
        cluster.sql(PLACES[isolation].format(tenant), "postgres")
    if name == "open-schema":
        cluster.sql("GRANT tenant_globex TO tenant_acme; GRANT USAGE ON SCHEMA tenant_globex TO tenant_acme", "app")
    places = tuple(Place(tenant, tenant if isolation == "database" and tenant == "acme" else "",
                         f"tenant_{tenant}" if isolation == "schema" else "public", f"tenant_{tenant}") for tenant in ("acme", "globex"))
    attacker, victim = parties(name)
    victims = "globex" if isolation == "database" else "app"
    ports = {where: free_port() for where in SIZES}
    world = World(Target(
        **{where: ("127.0.0.1", port) for where, port in ports.items()}, direct=(str(cluster.sockets), cluster.port),
        maintenance=replace(MAINTENANCE, database=victims), colleague=COLLEAGUE, admin=Login("postgres", "", victims), attacker=attacker, victim=victim,
        keeps_servers=True, places=places))
    world.make()
    grant_roles(world, name)
    cluster.sql(OF_ITS_OWN.format(database=victims), "postgres")
    world.settle()
    for where in SIZES:
        text = configuration(cluster, ports[where], where, (guard, "plain", ""), (attacker, victim), isolation)
        serve(stage, world, where, stage.write(f"{where}.toml", text))
    return world


def binary():
    return Path(os.environ.get("PGTENANT", ROOT / "target/debug/pgtenant")).resolve()


def protect(config):
    """As the tables' owner, then as the superuser for what only that one may take away."""
    for user in ("owner", "root"):
        done = subprocess.run([binary(), "protect", "--config", config, "--user", user, "--apply"], capture_output=True,
                              text=True, timeout=60, env={**os.environ, **SECRETS})
        if done.returncode != 0:
            raise RuntimeError(f"pgtenant protect as {user} ended with {done.returncode}: {done.stdout} {done.stderr}")


def mend(world, config):
    """What the doctor calls critical; with all lines of defence pgtenant does not serve before that is done."""
    done = subprocess.run([binary(), "doctor", "--config", config, "--json"], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **SECRETS})
    for finding in json.loads(done.stdout):
        if finding["severity"] == "critical":
            print(f"mended as the doctor says: {finding['id']} {finding['object']}", flush=True)
            world.sql(finding["fix"])


def configuration(cluster, port, where, tenancy, logins, isolation="row"):
    guard, context, key = tenancy
    (listen, defaults), pool_size = LIMITS[where], SIZES[where]
    attacker, victim = logins
    roles = f"roles = {json.dumps(LISTED)}" if attacker.user == "acme_web" else ""
    databases = ', databases = ["globex"]' if isolation == "database" else ""
    own = "" if isolation == "row" else f'isolation = "{isolation}"\nrole = "tenant_{{tenant}}"\nrole_password = "own-secret"'
    return f"""
[listen]
address = "127.0.0.1:{port}"
tls = "off"
{listen}
[metrics]
address = "127.0.0.1:{free_port()}"
[log]
level = "error"
[upstream.main]
hosts = ["127.0.0.1:{cluster.port}"]
database = "app"
user = "app"
password = {{ env = "APP_DB_PASSWORD" }}
tls = "off"
pool_size = {pool_size}
tenant_pool_size = {pool_size}
[tenancy]
setting = "app.tenant_id"
context = "{context}"
{f'seal_key = "{key}"' if context == "sealed" else ""}
guard = "{guard}"
allow_unsafe = {"false" if tenancy[:2] == ("strict", "sealed") else "true"}
[defaults]
{defaults}
[[tenant]]
id = "acme"
{own}
[[tenant]]
id = "globex"
{own}
[[user]]
name = "{attacker.user}"
password = "{scram_verifier(attacker.password)}"
tenant = "acme"
{roles}
[[user]]
name = "{COLLEAGUE.user}"
password = "{scram_verifier(COLLEAGUE.password)}"
tenant = "acme"
[[user]]
name = "{victim.user}"
password = "{scram_verifier(victim.password)}"
tenant = "globex"
[[user]]
name = "owner"
password = "{scram_verifier("owner-secret")}"
maintenance = {{ server_user = "app_owner", server_password = {{ env = "OWNER_PASSWORD" }}{databases} }}
[[user]]
name = "root"
password = "{scram_verifier("root-secret")}"
maintenance = {{ server_user = "postgres", server_password = {{ env = "ROOT_PASSWORD" }} }}
"""
