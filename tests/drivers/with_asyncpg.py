"""asyncpg: prepared cache, pool with its reset query, COPY, executemany, transactions, cancel by time-out."""

import asyncio
import datetime
import decimal
import hashlib
import io
import json
import ssl
import sys
import time
import uuid
from contextlib import asynccontextmanager

import asyncpg

from checks import ADDRESS, CA, HOST, PORT, SOCKETS, TENANTS, WHOSE, Suite, equal, other, password, user

suite = Suite("asyncpg")


def login(tenant, **more):
    return {"host": ADDRESS, "port": PORT, "database": "app", "user": user(tenant), "timeout": 5,
            "password": password(user(tenant)), "ssl": False, **more}


@asynccontextmanager
async def connect(tenant, **more):
    connection = await asyncpg.connect(**login(tenant, **more))
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def own(connection, tenant):
    equal([tuple(row) for row in await connection.fetch(WHOSE)], [(tenant, TENANTS[tenant])], "own rows")


async def refused(awaitable, code):
    try:
        await awaitable
    except asyncpg.PostgresError as error:
        equal(error.sqlstate, code, f"SQLSTATE ({error})")
        return error
    raise AssertionError(f"{code} expected, nothing refused")


# === logging in ===


@suite.check("logs in and sees its own rows only")
async def plain(tenant):
    async with connect(tenant) as c:
        await own(c, tenant)
        equal(await c.fetchval("SELECT count(*) FROM orders WHERE tenant_id = $1", other(tenant)), 0)
        assert c.get_server_version().major >= 14


@suite.check("TLS with the certificate verified")
async def tls(tenant):
    async with connect(tenant, host=HOST, ssl=ssl.create_default_context(cafile=CA)) as c:
        await own(c, tenant)


@suite.check("direct TLS", proxy_only=True)
async def direct_tls(tenant):
    context = ssl.create_default_context(cafile=CA)
    context.set_alpn_protocols(["postgresql"])
    async with connect(tenant, host=HOST, ssl=context, direct_tls=True) as c:
        await own(c, tenant)


@suite.check("unix socket")
async def unix_socket(tenant):
    async with connect(tenant, host=SOCKETS) as c:
        await own(c, tenant)


@suite.check("wrong password")
async def wrong_password(tenant):
    await refused(asyncpg.connect(**login(tenant, password="not it")), "28P01")
    await refused(asyncpg.connect(**login(tenant, user="nobody", password="not it")), "28P01")


@suite.check("server_settings take effect, a gateway user's tenant among them")
async def server_settings(tenant):
    settings = {"app.tenant_id": tenant, "timezone": "Asia/Tokyo", "application_name": "till 9"}
    async with connect(tenant, user="api", password=password("api"), server_settings=settings) as c, connect(tenant) as d:
        for _ in range(3):
            await own(c, tenant)
            await own(d, tenant)
            equal(await c.fetchval("SHOW timezone"), "Asia/Tokyo")
            assert await d.fetchval("SHOW timezone") != "Asia/Tokyo"
        equal(c.get_settings().application_name, "till 9")


@suite.check("a gateway user without or with an unknown tenant is refused", proxy_only=True)
async def gateway_without(tenant):
    async with connect(tenant, user="api", password=password("api")) as c:
        await refused(c.fetchval("SELECT count(*) FROM orders"), "28000")
        await refused(c.execute("SELECT count(*) FROM orders"), "28000")
    try:
        await asyncpg.connect(**login(tenant, user="api.nobody", password=password("api")))
        raise AssertionError("an unknown tenant logged in")
    except asyncpg.PostgresError as error:
        assert error.sqlstate in ("28000", "28P01"), error.sqlstate


@suite.check("the context cannot be changed by SQL (42501)", proxy_only=True)
async def context_stays(tenant):
    async with connect(tenant) as c:
        foe = other(tenant)
        for text in (f"SET app.tenant_id = '{foe}'", f"SELECT set_config('app.tenant_id', '{foe}', false)"):
            await refused(c.execute(text), "42501")
            await own(c, tenant)
        await refused(c.fetchval("SELECT set_config($1, $2, false)", "app.tenant_id", foe), "42501")
        await own(c, tenant)


# === statements ===


@suite.check("the prepared cache over many clients")
async def prepared(tenant):
    clients = [await asyncpg.connect(**login(t)) for t in (tenant, other(tenant)) * 2]
    try:
        for round_ in range(6):
            for at, c in enumerate(clients):
                owner = (tenant, other(tenant))[at % 2]
                equal(await c.fetchval(f"SELECT $1::int + {at}", round_), round_ + at)
                equal(tuple(await c.fetchrow("SELECT tenant_id, note FROM orders WHERE id = $1", at + 1)),
                      (owner, f"{owner}-{at + 1}"))
        # asyncpg ends prepare() with a Flush, not a Sync: until the statement runs, a server is its own.
        held = []
        for at, c in enumerate(clients):
            statement = await c.prepare(f"SELECT $1::text || '{at}' || min(tenant_id) FROM orders")
            equal(await statement.fetchval("x"), f"x{at}{(tenant, other(tenant))[at % 2]}")
            held.append((at, statement))
        for _ in range(4):
            for at, statement in held:
                equal(await statement.fetchval("y"), f"y{at}{(tenant, other(tenant))[at % 2]}")
    finally:
        for c in clients:
            await c.close()


@suite.check("a small cache pushes statements out; none at all works too")
async def cache_sizes(tenant):
    for size in (2, 0):
        async with connect(tenant, statement_cache_size=size) as c:
            for round_ in range(3):
                for n in range(5):
                    equal(await c.fetchval(f"SELECT $1::int + {n}", round_), round_ + n)
            await own(c, tenant)


@suite.check("types: enum, arrays, records, ranges, json codec, dates")
async def types(tenant):
    async with connect(tenant) as c:
        await c.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        values = [2**40, decimal.Decimal("12.50"), uuid.UUID(int=5), b"\0\xff", True, "žluť", [1, None, 3], {"a": [1]},
                  datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc), "busy",
                  ["calm", "busy"], asyncpg.Range(1, 5)]
        casts = ["int8", "numeric", "uuid", "bytea", "bool", "text", "int4[]", "jsonb", "date", "timestamptz", "mood",
                 "mood[]", "int4range"]
        row = await c.fetchrow("SELECT " + ", ".join(f"${n}::{cast}" for n, cast in enumerate(casts, 1)), *values)
        equal(list(row), values)
        record = await c.fetchval("SELECT o FROM orders o WHERE id = 1")
        equal(tuple(record), (tenant, 1, f"{tenant}-1"))


@suite.check("executemany")
async def executemany(tenant):
    async with connect(tenant) as c:
        await c.execute("DELETE FROM items")
        await c.executemany("INSERT INTO items (id, n, note) VALUES ($1, $2, $3)", [(n, n * 2, "x" * 500) for n in range(800)])
        equal([tuple(r) for r in await c.fetch("SELECT tenant_id, count(*), sum(n) FROM items GROUP BY 1")],
              [(tenant, 800, 800 * 799)])
        await refused(c.executemany("INSERT INTO items (id) VALUES ($1)", [(900,), (901,), (1,), (902,)]), "23505")
        equal(await c.fetchval("SELECT count(*) FROM items"), 800)
        await c.execute("DELETE FROM items")


@suite.check("several statements at once")
async def several(tenant):
    async with connect(tenant) as c:
        await c.execute("DELETE FROM items")
        equal(await c.execute("INSERT INTO items (id) VALUES (1); INSERT INTO items (id) VALUES (2); SELECT 1; "), "SELECT 1")
        await refused(c.execute("INSERT INTO items (id) VALUES (3); SELECT 1/0"), "22012")
        equal(await c.fetchval("SELECT count(*) FROM items"), 2)
        await c.execute("DELETE FROM items")
        await own(c, tenant)


@suite.check("a cursor walks in portions of ten")
async def cursor(tenant):
    async with connect(tenant) as c:
        async with c.transaction():
            seen = [row["tenant_id"] async for row in c.cursor("SELECT tenant_id FROM orders ORDER BY id", prefetch=10)]
            equal(seen, [tenant] * TENANTS[tenant])
            walk = await c.cursor("SELECT id FROM orders WHERE id > $1 ORDER BY id", 5)
            equal([row["id"] for row in await walk.fetch(3)], [6, 7, 8])
            await walk.forward(2)
            equal((await walk.fetchrow())["id"], 11)
        await own(c, tenant)


@suite.check("a 6 MB value there and back")
async def large(tenant):
    text = "0123456789abcdef" * 400_000
    async with connect(tenant) as c:
        digest, back = await c.fetchrow("SELECT md5($1::text), $1::text", text)
        equal(digest, hashlib.md5(text.encode()).hexdigest())
        assert back == text


@suite.check("errors carry SQLSTATE and names; the client goes on")
async def failures(tenant):
    async with connect(tenant) as c:
        await c.execute("DELETE FROM items")
        await refused(c.fetch("SELEC 1"), "42601")
        await refused(c.fetchval("SELECT 1 / $1::int", 0), "22012")
        await c.execute("INSERT INTO items (id) VALUES (1)")
        equal((await refused(c.execute("INSERT INTO items (id) VALUES ($1)", 1), "23505")).constraint_name, "items_pkey")
        await refused(c.execute("INSERT INTO items (tenant_id, id) VALUES ($1, 2)", other(tenant)), "42501")
        await own(c, tenant)
        await c.execute("DELETE FROM items")


@suite.check("notices reach the client that asked")
async def notices(tenant):
    async with connect(tenant) as c:
        heard = []
        c.add_log_listener(lambda _, message: heard.append(message.message))
        await c.fetchval("SELECT say($1)", tenant)
        await own(c, tenant)
        await asyncio.sleep(0.05)
        equal(heard, [f"heard {tenant}"])


# === pool ===


@suite.check("a pool with its reset query between users")
async def pool(tenant):
    async with asyncpg.create_pool(**login(tenant), min_size=2, max_size=4) as p:
        async def one(n):
            async with p.acquire() as c:
                key = n % TENANTS[tenant] + 1
                equal(tuple(await c.fetchrow("SELECT tenant_id, id FROM orders WHERE id = $1", key)), (tenant, key))
                await own(c, tenant)
        await asyncio.gather(*(one(n) for n in range(60)))


@suite.check("two tenants' pools interleaved")
async def two_pools(tenant):
    async with asyncpg.create_pool(**login(tenant), min_size=1, max_size=3) as p, \
            asyncpg.create_pool(**login(other(tenant)), min_size=1, max_size=3) as q:
        async def one(n):
            owner, source = ((tenant, p), (other(tenant), q))[n % 2]
            async with source.acquire() as c, c.transaction():
                await own(c, owner)
                equal(await c.fetchval("SELECT min(note) FROM orders WHERE id = $1", n % 50 + 1), f"{owner}-{n % 50 + 1}")
        await asyncio.gather(*(one(n) for n in range(60)))


@suite.check("RESET ALL and the connection's own reset keep the tenant")
async def reset(tenant):
    async with connect(tenant, server_settings={"timezone": "Asia/Tokyo"}) as c:
        await c.reset()
        await own(c, tenant)
        equal(await c.fetchval("SHOW timezone"), "Asia/Tokyo")
        await c.execute("RESET ALL")
        await own(c, tenant)


# === COPY ===


@suite.check("COPY in from records and text, COPY out to a file")
async def copy(tenant):
    async with connect(tenant) as c:
        await c.execute("DELETE FROM items")
        equal(await c.copy_records_to_table("items_in", records=[(n, n * 2, f"n\t{n}") for n in range(3000)],
                                            columns=["id", "n", "note"]), "COPY 3000")
        source = io.BytesIO(b"".join(b"%d,7\n" % n for n in range(3000, 5000)))
        equal(await c.copy_to_table("items_in", source=source, columns=["id", "n"], format="csv"), "COPY 2000")
        target = io.BytesIO()
        equal(await c.copy_from_query("SELECT tenant_id, id FROM items WHERE n > $1 ORDER BY id", -1, output=target), "COPY 5000")
        equal(target.getvalue(), b"".join(b"%s\t%d\n" % (tenant.encode(), n) for n in range(5000)))
        target = io.BytesIO()
        equal(await c.copy_from_table("items", columns=["id"], output=target, format="binary"), "COPY 5000")
        await c.execute("DELETE FROM items")


@suite.check("COPY that fails leaves the client usable")
async def copy_fails(tenant):
    async with connect(tenant) as c:
        await c.execute("DELETE FROM items")
        for _ in range(50):
            bad = io.BytesIO(b"1\tnot a number\n" * 80_000)
            await refused(c.copy_to_table("items_in", source=bad, columns=["id", "n"]), "22P02")
        await refused(c.copy_records_to_table("items_in", records=[(other(tenant), 1)], columns=["tenant_id", "id"]), "42501")

        async def gives_up():
            yield b"1\t1\n"
            raise KeyError("gave up")
        try:
            await c.copy_to_table("items_in", source=gives_up(), columns=["id", "n"])
            raise AssertionError("no KeyError")
        except KeyError:
            pass
        equal(await c.fetchval("SELECT count(*) FROM items"), 0)
        await own(c, tenant)


# === transactions and cancel ===


@suite.check("transactions: commit, rollback, savepoints, isolation levels")
async def transactions(tenant):
    async with connect(tenant) as c:
        await c.execute("DELETE FROM items")
        async with c.transaction(isolation="serializable"):
            await c.execute("INSERT INTO items (id) VALUES (1)")
            try:
                async with c.transaction():
                    await c.execute("INSERT INTO items (id) VALUES (2)")
                    await c.execute("SELECT 1/0")
            except asyncpg.DivisionByZeroError:
                pass
            await c.execute("INSERT INTO items (id) VALUES (3)")
            await own(c, tenant)
        outer = c.transaction()
        await outer.start()
        await c.execute("INSERT INTO items (id) VALUES (4)")
        await outer.rollback()
        equal([tuple(r) for r in await c.fetch("SELECT tenant_id, id FROM items ORDER BY id")], [(tenant, 1), (tenant, 3)])
        async with c.transaction(readonly=True):
            await refused(c.execute("INSERT INTO items (id) VALUES (5)"), "25006")
            await refused(c.execute("SELECT 1"), "25P02")
        await c.execute("DELETE FROM items")


@suite.check("a query that runs into its time-out is cancelled, plain and over TLS")
async def time_out(tenant):
    for more in ({}, {"host": HOST, "ssl": ssl.create_default_context(cafile=CA)}):
        async with connect(tenant, **more) as c:
            for _ in range(2):
                began = time.monotonic()
                try:
                    await c.fetchval("SELECT pg_sleep($1)", 10, timeout=0.3)
                    raise AssertionError("no time-out")
                except asyncio.TimeoutError:
                    pass
                await own(c, tenant)
                assert time.monotonic() - began < 4, "cancelled too late"


@suite.check("a terminated client leaves nothing and frees its server", proxy_only=True)
async def terminated(tenant):
    async with connect(tenant) as c:
        await c.execute("DELETE FROM items")
        for _ in range(4):
            gone = await asyncpg.connect(**login(tenant))
            await gone.execute("BEGIN; INSERT INTO items (id) VALUES (1)")
            sleeping = asyncio.create_task(gone.execute("SELECT pg_sleep(15)"))
            await asyncio.sleep(0.05)
            gone.terminate()
            await asyncio.gather(sleeping, return_exceptions=True)
        began = time.monotonic()
        equal(await c.fetchval("SELECT count(*) FROM items"), 0)
        assert time.monotonic() - began < 3, "waited for servers that nobody uses"


sys.exit(suite.run())
