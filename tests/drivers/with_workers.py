"""Migrations under running clients, and COPYs that fail again and again: six drivers, through the proxy and direct.

Each driver is a worker (workers/) that does what it is told, a line of words in, a line of JSON out. Two tenants work in turn, over a
pool of one server. Every value must be right or an error, and each statement must be right or fail exactly where it is or
does directly: the same worker does the same straight to PostgreSQL.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from checks import DIRECT, Suite, equal

suite = Suite("workers")
HERE, TOOLS = Path(__file__).resolve().parent / "workers", Path(os.environ["DRIVERS_NODE"]).parent.parent
WORKERS = {
    "asyncpg": [TOOLS / "venv/bin/python", HERE / "asyncpg_worker.py"],
    "psycopg": [TOOLS / "venv/bin/python", HERE / "psycopg_worker.py"],
    "node-postgres": ["node", HERE / "node_postgres_worker.mjs"],
    "postgres.js": ["node", HERE / "postgres_js_worker.mjs"],
    "JDBC": ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{TOOLS / 'java'}:{os.environ['DRIVERS_JDBC']}", "Worker"],
    "pgx": [TOOLS / "go/pgx_worker"],
}
PORTS = {"direct": os.environ["DRIVERS_POSTGRES_PORT"], "proxy": os.environ["DRIVERS_NARROW_PORT"]}
COPIES = 200
TURNS = 3  # of each statement after each migration
SCHEMA = """
DROP TABLE IF EXISTS moving;
CREATE TABLE moving (tenant_id text NOT NULL DEFAULT NULLIF(current_setting('app.tenant_id', true), ''), id int NOT NULL,
    a bigint, b text, PRIMARY KEY (tenant_id, id));
ALTER TABLE moving OWNER TO app_owner;
ALTER TABLE moving ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON moving USING (tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')));
CREATE POLICY pgtenant_pin ON moving AS RESTRICTIVE
    USING (coalesce(tenant_id = ANY (ARRAY[(SELECT NULLIF(current_setting('app.tenant_id', true), ''))]), false));
GRANT SELECT, INSERT ON moving TO app;
INSERT INTO moving (tenant_id, id, a, b) VALUES ('acme', 1, 42, 'acme'), ('globex', 1, 42, 'globex');
"""
# What is done to the table, and the row with id 1 afterwards; {tenant} is whose it is.
MIGRATIONS = [
    ("", {"a": "42", "b": "{tenant}"}),
    ("ALTER TABLE moving ALTER a TYPE double precision", {"a": "42", "b": "{tenant}"}),
    ("ALTER TABLE moving ADD COLUMN c int; UPDATE moving SET c = 7", {"a": "42", "b": "{tenant}", "c": "7"}),
    ("ALTER TABLE moving ALTER a TYPE numeric", {"a": "42", "b": "{tenant}", "c": "7"}),
    ("ALTER TABLE moving DROP COLUMN b", {"a": "42", "c": "7"}),
    ("ALTER TABLE moving RENAME a TO x; ALTER TABLE moving RENAME c TO a; ALTER TABLE moving RENAME x TO c", {"a": "7", "c": "42"}),
    ("ALTER TABLE moving ALTER a TYPE text", {"a": "7", "c": "42"}),
    ("ALTER TABLE moving DROP COLUMN c, ADD COLUMN b text, ALTER a TYPE bigint USING a::bigint; UPDATE moving SET b = tenant_id",
     {"a": "7", "b": "{tenant}"}),
]


class Worker:
    def __init__(self, driver, way):
        env = {**os.environ, "DRIVERS_PORT": PORTS[way]}
        self.process = subprocess.Popen([str(word) for word in WORKERS[driver]], env=env, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the worker has ended with {self.process.wait(3)}"
        return json.loads(line)

    def must(self, *words):
        told = self.ask(*words)
        assert "values" in told, f"{words}: {told}"
        return told["values"]


def admin(sql):
    """As superuser, straight to PostgreSQL."""
    done = subprocess.run([os.path.join(os.environ["DRIVERS_BIN"], "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql,
                           os.environ["DRIVERS_SUPERUSER"]], text=True, capture_output=True, timeout=15)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def plain(value):
    """A value as all drivers can tell it: numbers without what shows their type."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def migrated(driver, way):
    """Does all migrations under two running clients. Gives for each statement after each migration what became of its turns."""
    admin(SCHEMA)
    outcomes, ids = {}, iter(range(100, 10_000))
    with Worker(driver, way) as worker:
        for tenant in ("acme", "globex"):
            worker.must("open", tenant, tenant)
        for number, (sql, row) in enumerate(MIGRATIONS):
            if sql:
                admin(sql)
            for turn in range(TURNS):
                for tenant in ("acme", "globex"):
                    expected = {"tenant_id": tenant, "id": "1", **{name: value.format(tenant=tenant) for name, value in row.items()}}
                    for what, right in (("read", {"a": expected["a"]}), ("star", expected), ("write", {})):
                        told = worker.ask(what, tenant, *([next(ids)] if what == "write" else []))
                        found = {name: plain(value) for name, value in told.get("values", right).items()}
                        assert found == right, f"after {sql!r}: {what} of {tenant} is {found}, not {right}"
                        outcomes.setdefault((number, what, tenant), []).append(told.get("error", "right"))
            stored = set(admin("SELECT DISTINCT a::text FROM moving WHERE id >= 100"))
            assert {plain(value) for value in stored} <= {"42"}, f"after {sql!r}: stored {stored}"
            admin("DELETE FROM moving WHERE id >= 100")
    return outcomes


def migrations(driver):
    direct = migrated(driver, "direct")
    if DIRECT:
        return
    for (number, what, tenant), turns in migrated(driver, "proxy").items():
        equal(turns, direct[number, what, tenant], f"after {MIGRATIONS[number][0]!r}: {what} of {tenant}")


def copies(driver):
    for way in ("direct", "proxy")[DIRECT - 1 :]:
        admin("DELETE FROM items")
        with Worker(driver, way) as worker:
            worker.must("open", "one", "acme")
            equal(worker.must("copy", "one", COPIES), {"failed": str(COPIES), "left": "0"}, way)


for each in WORKERS:
    suite.check(f"{each}: migrations under running clients, a pool of one", together=True, limit=30)(lambda _, driver=each: migrations(driver))
for each in ("asyncpg", "psycopg", "JDBC", "pgx"):
    suite.check(f"{each}: {COPIES} COPYs that fail in the middle", together=True, limit=30)(lambda _, driver=each: copies(driver))

sys.exit(suite.run())
