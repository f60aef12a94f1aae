"""pgbench: simple, extended and prepared, both tenants at once, every row asserted to be the asking tenant's."""

import os
import re
import subprocess
import sys

from checks import ADDRESS, PORT, TENANTS, Suite, equal, password, user

suite = Suite("pgbench")
PGBENCH = os.path.join(os.environ["DRIVERS_BIN"], "pgbench")
PSQL = os.path.join(os.environ["DRIVERS_BIN"], "psql")
TMP = os.environ["DRIVERS_TMP"]
CLIENTS, TRANSACTIONS = 8, 200

# A wrong row divides by zero, and pgbench gives the client up and exits with 2.
ASSERT = "SELECT 1 / (count(*) = 1 AND min(tenant_id) = '{tenant}' AND min(note) = '{tenant}-' || :id)::int FROM orders WHERE id = :id;\n"
SELECT = "\\set id random(1, {rows})\n" + ASSERT
TRANSACTION = """\\set id random(1, {rows})
BEGIN;
UPDATE items SET n = n + 1 WHERE id = :client_id;
""" + ASSERT + """SELECT 1 / (count(*) = {clients} AND min(tenant_id) = max(tenant_id) AND min(tenant_id) = '{tenant}')::int FROM items;
END;
"""
PIPELINE = "\\set id random(1, {rows})\n\\startpipeline\n" + ASSERT + ASSERT + "\\endpipeline\n"


def superuser(sql):
    return subprocess.run([PSQL, "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql, os.environ["DRIVERS_SUPERUSER"]],
                          text=True, capture_output=True, timeout=15, check=True).stdout.strip()


def start(tenant, kind, script, *options):
    """One tenant's pgbench, with its own script. A thread for every client, because pgbench prepares
    synchronously: a client that waits for a server would stop the one beside it that holds it."""
    path = os.path.join(TMP, f"{kind}-{tenant}.sql")
    with open(path, "w") as file:
        file.write(script.format(tenant=tenant, rows=TENANTS[tenant], clients=CLIENTS))
    return subprocess.Popen(
        [PGBENCH, "-n", "-f", path, "-c", str(CLIENTS), "-j", str(CLIENTS), *options, "-h", ADDRESS, "-p", str(PORT),
         "-U", user(tenant), "app"],
        env={**os.environ, "PGPASSWORD": password(user(tenant)), "PGSSLMODE": "disable"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def both(kind, script, *options, each=TRANSACTIONS):
    """Both tenants at once: each must finish every transaction, with no error."""
    started = [(tenant, start(tenant, kind, script, "-t", str(each), *options)) for tenant in TENANTS]
    try:
        for tenant, process in started:
            out, err = process.communicate(timeout=18)
            done = re.search(r"actually processed: (\d+)/", out)
            equal((process.returncode, done and int(done.group(1))), (0, CLIENTS * each), f"{tenant}: {err.strip()[:300]}")
    finally:
        for _, process in started:
            if process.poll() is None:
                process.kill()
                process.communicate()


for mode in ("simple", "extended", "prepared"):
    @suite.check(f"-M {mode}: single statements, every row the tenant's own", together=True)
    def single(_, mode=mode):
        both("select", SELECT, "-M", mode)

    @suite.check(f"-M {mode}: explicit transactions count exactly", together=True, limit=25)
    def transactions(_, mode=mode):
        superuser("DELETE FROM items")
        for tenant in TENANTS:
            superuser(f"INSERT INTO items (tenant_id, id) SELECT '{tenant}', g FROM generate_series(0, {CLIENTS - 1}) g")
        both("transaction", TRANSACTION, "-M", mode)
        for tenant in TENANTS:
            equal(superuser(f"SELECT sum(n) FROM items WHERE tenant_id = '{tenant}'"), str(CLIENTS * TRANSACTIONS))
        superuser("DELETE FROM items")

for mode in ("extended", "prepared"):
    @suite.check(f"-M {mode}: pipelines", together=True)
    def pipelines(_, mode=mode):
        both("pipeline", PIPELINE, "-M", mode)


@suite.check("-C: a connection for every transaction", together=True)
def connections(_):
    both("select", SELECT, "-C", each=20)


sys.exit(suite.run())
