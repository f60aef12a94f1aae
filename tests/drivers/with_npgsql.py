"""What Npgsql sends, as raw frames (no .NET is needed): its pool's reset, alone and in front of the next statement, and a batch.

Through a pool of one server and straight to PostgreSQL: the same answers, and each tenant's own rows.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

from checks import ADDRESS, TENANTS, WHOSE, Suite, equal, other, password, user

sys.path.append(str(Path(__file__).resolve().parent.parent / "isolation"))

from client import Client, bind, message, statement, text  # noqa: E402

suite = Suite("npgsql")
# Npgsql's reset of a connection with prepared statements, which DISCARD ALL would take away, and of one without.
RESETS = {
    "in parts": "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP",
    "DISCARD ALL": "DISCARD ALL",
}
SYNC = message(b"S", b"")
SETTINGS = "SELECT current_setting('work_mem'), current_setting('search_path'), current_setting('TimeZone'), current_setting('role')"


def clients(tenant):
    """A client through the proxy and one straight to PostgreSQL; without a proxy two of these."""
    ports = [os.environ["DRIVERS_NARROW_PORT"], os.environ["DRIVERS_POSTGRES_PORT"]]
    login = SimpleNamespace(user=user(tenant), password=password(user(tenant)), database="app")
    return [Client((ADDRESS, int(port)), login, {"client_encoding": "UTF8", "TimeZone": "Europe/Paris"}, patience=8) for port in ports]


def told(client, frames, ready=1):
    client.tell(frames)
    answer = client.answer(ready)
    return answer.rows, answer.errors, answer.tags, answer.status


def query(sql):
    return message(b"Q", text(sql))


def same(pair, frames, ready=1):
    """Both answer the same; gives the rows."""
    through, direct = (told(client, frames, ready) for client in pair)
    equal(through, direct, "answer through the proxy")
    return through[0]


def left(pair):
    """What a request leaves on a connection: settings, a cursor, a sequence's value, a temporary table."""
    same(pair, query("SET work_mem = '3MB'; SET search_path = pg_catalog, public; SET TimeZone = 'Asia/Tokyo'"))
    same(pair, query("CREATE TEMP TABLE tt (x int)"))
    same(pair, query("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT"))


for name, reset in RESETS.items():
    @suite.check(f"the pool's reset, {name}, takes back what a request left")
    def reset_alone(tenant, reset=reset):
        pair, others = clients(tenant), clients(other(tenant))
        before = same(pair, query(SETTINGS))
        for _ in range(3):
            left(pair)
            same(pair, query(reset))
            equal(same(pair, query(SETTINGS)), before, "settings behind the reset")
            equal(same(pair, query("SELECT to_regclass('pg_temp.tt')")), [[None]])
            for who, owner in ((pair, tenant), (others, other(tenant))):
                equal(same(who, query(WHOSE)), [[owner, str(TENANTS[owner])]], "own rows")
        for client in [*pair, *others]:
            client.leave()

    @suite.check(f"the pool's reset, {name}, in one write with the next request's statement")
    def reset_in_front(tenant, reset=reset):
        pair, others = clients(tenant), clients(other(tenant))
        for _ in range(3):
            for who, owner in ((pair, tenant), (others, other(tenant))):
                rows = same(who, query(reset) + statement(WHOSE) + SYNC, ready=2)
                equal(rows[-1], [owner, str(TENANTS[owner])], "own rows")
        for client in [*pair, *others]:
            client.leave()


@suite.check("prepared statements live through the reset in parts")
def prepared(tenant):
    pair, others = clients(tenant), clients(other(tenant))
    parse = message(b"P", text("_p1") + text("SELECT tenant_id, note FROM orders WHERE id = $1") + b"\0\0")
    for who in (pair, others):
        same(who, parse + message(b"D", b"S_p1\0") + SYNC)
    for turn in range(1, 4):
        for who, owner in ((pair, tenant), (others, other(tenant))):
            rows = same(who, query(RESETS["in parts"]) + bind("", "_p1", [str(turn)]) + message(b"E", bytes(5)) + SYNC, ready=2)
            equal(rows[-1], [owner, f"{owner}-{turn}"])
    for client in [*pair, *others]:
        client.leave()


@suite.check("a batch: several statements, one Sync, an error in the middle")
def batch(tenant):
    pair = clients(tenant)
    for client in pair:
        client.query("DELETE FROM items")
    good, bad = statement("INSERT INTO items (id) VALUES (1)"), statement("INSERT INTO items (id) VALUES (1/0)")
    same(pair, good + bad + statement("SELECT 1") + SYNC)
    equal(same(pair, query("SELECT count(*) FROM items")), [["0"]])
    same(pair, query("BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED") + statement(WHOSE) + SYNC, ready=2)
    same(pair, query("ROLLBACK"))
    for client in pair:
        client.leave()


sys.exit(suite.run())
