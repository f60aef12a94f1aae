"""psycopg 3 (libpq 18): sync and async, prepared, pipeline, COPY, cancel, transactions, TLS, binary."""

import asyncio
import datetime
import decimal
import hashlib
import logging
import sys
import threading
import time
import uuid

import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

from checks import ADDRESS, CA, HOST, PORT, SOCKETS, TENANTS, TMP, WHOSE, Suite, equal, other, password, user

suite = Suite("psycopg")
logging.getLogger("psycopg").setLevel(logging.CRITICAL)


def login(tenant, **more):
    return {"host": HOST, "hostaddr": ADDRESS, "port": PORT, "dbname": "app", "user": user(tenant),
            "password": password(user(tenant)), "sslmode": "disable", "connect_timeout": 5, **more}


def connect(tenant, autocommit=True, **more):
    return psycopg.connect(**login(tenant, **more), autocommit=autocommit)


def own(connection, tenant):
    equal(connection.execute(WHOSE).fetchall(), [(tenant, TENANTS[tenant])], "own rows")


def empty_items(connection):
    connection.execute("DELETE FROM items")


def refused(connection, code, statement, *args):
    try:
        connection.execute(statement, *args)
    except psycopg.Error as error:
        equal(error.sqlstate, code, f"SQLSTATE of {statement} ({error})")
        return error
    raise AssertionError(f"{statement} was not refused")


def login_refused(**parameters):
    """psycopg's connection errors carry no SQLSTATE: the text is what there is."""
    try:
        psycopg.connect(**parameters).close()
    except psycopg.OperationalError as error:
        return str(error)
    raise AssertionError(f"login as {parameters['user']} was not refused")


# === logging in ===


@suite.check("logs in without TLS and sees its own rows only")
def plain(tenant):
    with connect(tenant) as c:
        own(c, tenant)
        assert not c.pgconn.ssl_in_use
        equal(c.execute("SELECT count(*) FROM orders WHERE tenant_id = %s", [other(tenant)]).fetchone(), (0,))


@suite.check("TLS verify-full")
def tls(tenant):
    with connect(tenant, sslmode="verify-full", sslrootcert=CA) as c:
        assert c.pgconn.ssl_in_use
        own(c, tenant)


@suite.check("TLS with channel binding required (SCRAM-SHA-256-PLUS)")
def channel_binding(tenant):
    with connect(tenant, sslmode="verify-full", sslrootcert=CA, channel_binding="require") as c:
        own(c, tenant)


@suite.check("direct TLS by ALPN", proxy_only=True)
def direct_tls(tenant):
    with connect(tenant, sslmode="verify-full", sslrootcert=CA, sslnegotiation="direct") as c:
        assert c.pgconn.ssl_in_use
        own(c, tenant)


@suite.check("protocol 3.2 with its long cancel key", proxy_only=True)
def protocol_3_2(tenant):
    with connect(tenant, min_protocol_version="3.2", max_protocol_version="latest") as c:
        equal(c.pgconn.full_protocol_version, 30002)
        own(c, tenant)
        cancelled_while(c, lambda: c.cancel_safe(timeout=5))


@suite.check("unix socket")
def unix_socket(tenant):
    with connect(tenant, host=SOCKETS, hostaddr="") as c:
        own(c, tenant)


@suite.check("wrong password and unknown user look the same")
def wrong_password(tenant):
    wrong = login_refused(**login(tenant, password="not it"))
    unknown = login_refused(**login(tenant, user=f"{tenant}_who", password="not it"))
    equal(unknown.replace(f"{tenant}_who", "USER"), wrong.replace(user(tenant), "USER"), "the two messages")


def with_certificate(tenant, name, files, **more):
    return login(tenant, user=name, password="", sslmode="verify-full", sslrootcert=CA,
                 **({"sslcert": f"{TMP}/{files}.crt", "sslkey": f"{TMP}/{files}.key"} if files else {}), **more)


@suite.check("client certificate (sslcert): the user by its common name", proxy_only=True)
def certificate(tenant):
    robot = f"{tenant}_robot"
    with psycopg.connect(**with_certificate(tenant, robot, f"{tenant}-robot"), autocommit=True) as c:
        own(c, tenant)
    for files in (None, f"{other(tenant)}-robot"):
        told = login_refused(**with_certificate(tenant, robot, files))
        # Asked for what any user may be asked for: a password, or a token by OAUTHBEARER.
        asked = ("password authentication failed", "no password supplied", "server requires OAuth")
        assert any(words in told for words in asked), told
    told = login_refused(**with_certificate(tenant, robot, f"stranger-{tenant}"))
    assert "certificate" in told or "alert" in told or "closed" in told, told


@suite.check("client certificate: the tenant by its URI, and no other", proxy_only=True)
def certificate_of_tenant(tenant):
    with psycopg.connect(**with_certificate(tenant, "fleet", f"{tenant}-robot"), autocommit=True) as c:
        own(c, tenant)
        refused(c, "28000", f"SET app.tenant_id = '{other(tenant)}'")
        own(c, tenant)
    told = login_refused(**with_certificate(tenant, f"fleet.{other(tenant)}", f"{tenant}-robot"))
    assert "may not act for" in told, told


@suite.check("JSON Web Token as the password", proxy_only=True)
def token(tenant):
    def words(name, user="bearer", **more):
        with open(f"{TMP}/{name}.jwt") as file:
            return login(tenant, user=user, password=file.read(), sslmode="verify-full", sslrootcert=CA, **more)

    with psycopg.connect(**words(tenant), autocommit=True) as c:
        own(c, tenant)
        refused(c, "28000", f"SET app.tenant_id = '{other(tenant)}'")
    wrong = login_refused(**login(tenant, user="bearer", password="not it", sslmode="verify-full", sslrootcert=CA))
    assert "password authentication failed" in wrong, wrong
    for name in (f"expired-{tenant}", f"stranger-{tenant}"):
        equal(login_refused(**words(name)), wrong, name)
    assert "may not act for" in login_refused(**words(other(tenant), user=f"bearer.{tenant}"))
    equal(login_refused(**{**words(tenant), "sslmode": "disable"}), wrong, "without TLS")


@suite.check("startup parameters take effect for this client only")
def startup_parameters(tenant):
    with connect(tenant, application_name="till 7", options="-c statement_timeout=250ms -c TimeZone=Asia/Tokyo") as c, \
            connect(tenant) as plain:
        for _ in range(3):
            equal(c.execute("SHOW timezone").fetchone(), ("Asia/Tokyo",))
            equal(c.info.parameter_status("TimeZone"), "Asia/Tokyo")
            assert plain.execute("SHOW timezone").fetchone() != ("Asia/Tokyo",)
        refused(c, "57014", "SELECT pg_sleep(5)")
        plain.execute("SELECT pg_sleep(0.4)")
        own(c, tenant)


# === naming a tenant ===


@suite.check("a gateway user names its tenant in options")
def gateway_options(tenant):
    with connect(tenant, user="api", password=password("api"), options=f"-c app.tenant_id={tenant}") as c:
        own(c, tenant)


@suite.check("a gateway user names its tenant in its user name", proxy_only=True)
def gateway_user_name(tenant):
    with connect(tenant, user=f"api.{tenant}", password=password("api")) as c:
        own(c, tenant)


@suite.check("a gateway user without a tenant is refused with 28000", proxy_only=True)
def gateway_without(tenant):
    with connect(tenant, user="api", password=password("api")) as c:
        error = refused(c, "28000", "SELECT count(*) FROM orders")
        assert error.diag.message_hint, "no hint"
        refused(c, "28000", "SELECT count(*) FROM orders WHERE id = %s", [1])


@suite.check("an unknown tenant is refused at login", proxy_only=True)
def gateway_unknown(tenant):
    login_refused(**login(tenant, user="api.nobody", password=password("api")))
    login_refused(**login(tenant, user="api", password=password("api"), options="-c app.tenant_id=nobody"))


@suite.check("a bound user cannot name another tenant", proxy_only=True)
def bound_stays_bound(tenant):
    for more in ({"options": f"-c app.tenant_id={other(tenant)}"}, {"user": f"{user(tenant)}.{other(tenant)}"}):
        try:
            c = connect(tenant, **more)
        except psycopg.OperationalError:
            continue
        with c:
            own(c, tenant)


@suite.check("the context cannot be changed by SQL (42501)", proxy_only=True)
def context_stays(tenant):
    with connect(tenant) as c:
        foe = other(tenant)
        for statement in (f"SET app.tenant_id = '{foe}'", f"SET LOCAL app.tenant_id = '{foe}'", "SET SESSION app.tenant_id = 'other'",
                          f"SELECT set_config('app.tenant_id', '{foe}', false)",
                          "SET ROLE app_owner", "SET SESSION AUTHORIZATION app_owner"):
            refused(c, "42501", statement)
            own(c, tenant)
        refused(c, "42501", "SELECT set_config(%s, %s, false)", ["app.tenant_id", foe])
        own(c, tenant)


# === statements ===


@suite.check("server-side prepared statements, same names with other SQL in four clients")
def prepared(tenant):
    clients = [connect(t) for t in (tenant, other(tenant)) * 2]
    try:
        for c in clients:
            c.prepare_threshold = 0
        for round_ in range(6):
            for at, c in enumerate(clients):
                owner = (tenant, other(tenant))[at % 2]
                for text in (f"SELECT %s::int + {at}", f"SELECT %s::int * {at + 2}"):
                    expected = round_ + at if "+" in text else round_ * (at + 2)
                    equal(c.execute(text, [round_]).fetchone(), (expected,), text)
                row = c.execute("SELECT tenant_id, note FROM orders WHERE id = %s", [at + 1]).fetchall()
                equal(row, [(owner, f"{owner}-{at + 1}")])
        assert len(clients[0]._prepared._names) >= 3, "psycopg prepared nothing"
    finally:
        for c in clients:
            c.close()


@suite.check("prepared statements pushed out of the driver's cache are closed and come back")
def prepared_evicted(tenant):
    with connect(tenant) as c:
        c.prepare_threshold, c.prepared_max = 0, 2
        for round_ in range(3):
            for n in range(5):
                equal(c.execute(f"SELECT %s::int + {n}", [round_]).fetchone(), (round_ + n,))


@suite.check("prepared statements live on after a rollback and an error")
def prepared_rollback(tenant):
    with connect(tenant, autocommit=False) as c:
        c.prepare_threshold = 0
        for _ in range(4):
            equal(c.execute("SELECT %s::int", [7]).fetchone(), (7,))
            refused(c, "22012", "SELECT %s::int / 0", [1])
            c.rollback()
            own(c, tenant)
            c.commit()


@suite.check("DEALLOCATE ALL forgets the client's own statements only")
def deallocate_all(tenant):
    with connect(tenant) as c, connect(tenant) as d:
        for x in (c, d):
            x.prepare_threshold = 0
            x.execute("SELECT %s::int + 1", [1])
        c.execute("DEALLOCATE ALL")
        c._prepared.clear()
        equal(c.execute("SELECT %s::int + 1", [2]).fetchone(), (3,))
        equal(d.execute("SELECT %s::int + 1", [3]).fetchone(), (4,))


@suite.check("pipeline mode: results in order, an error spoils its batch only")
def pipeline(tenant):
    with connect(tenant) as c:
        empty_items(c)
        with c.pipeline():
            cursors = [c.execute("SELECT %s::int, (SELECT min(tenant_id) FROM orders)", [n]) for n in range(40)]
            equal([cur.fetchone() for cur in cursors], [(n, tenant) for n in range(40)])
        try:
            with c.pipeline() as p:
                c.execute("INSERT INTO items (id) VALUES (1)")
                p.sync()
                c.execute("INSERT INTO items (id) VALUES (1)")
                c.execute("INSERT INTO items (id) VALUES (2)")
            raise AssertionError("no error")
        except errors.UniqueViolation:
            pass
        equal(c.execute("SELECT id FROM items").fetchall(), [(1,)])
        own(c, tenant)


@suite.check("several statements in one simple query")
def several(tenant):
    with psycopg.ClientCursor(c := connect(tenant)) as cur, c:
        cur.execute("SELECT 1; SELECT count(*) FROM orders; SELECT 'three'")
        answers = [cur.fetchone()]
        while cur.nextset():
            answers.append(cur.fetchone())
        equal(answers, [(1,), (TENANTS[tenant],), ("three",)])
        cur.execute("")
        own(c, tenant)


@suite.check("server-side cursor and row-by-row streaming")
def cursors(tenant):
    with connect(tenant, autocommit=False) as c:
        with c.cursor(name="walk") as cur:
            cur.itersize = 7
            cur.execute("SELECT tenant_id FROM orders ORDER BY id")
            equal([row[0] for row in cur], [tenant] * TENANTS[tenant])
        c.commit()
        with c.cursor() as cur:
            rows = list(cur.stream("SELECT g, (SELECT min(tenant_id) FROM orders) FROM generate_series(1, 3000) g"))
        equal((len(rows), {row[1] for row in rows}), (3000, {tenant}))


@suite.check("binary parameters and results of many types")
def binary(tenant):
    values = [2**40, decimal.Decimal("12345.6789"), uuid.UUID(int=77), b"\x00\xff\x01" * 50, True, 1.5, "žluť",
              datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc), datetime.date(1999, 12, 31),
              [1, 2, None], {"a": [1, {"b": None}]}]
    casts = ["int8", "numeric", "uuid", "bytea", "bool", "float8", "text", "timestamptz", "date", "int4[]", "jsonb"]
    sent = [Jsonb(v) if isinstance(v, dict) else v for v in values]
    text = "SELECT " + ", ".join(f"%b::{cast}" if cast != "jsonb" else "%s::jsonb" for cast in casts)
    with connect(tenant) as c:
        for binary_result in (True, False):
            row = c.cursor(binary=binary_result).execute(text, sent).fetchone()
            equal(list(row), values)
        equal(c.execute("SELECT 'busy'::mood").fetchone(), ("busy",))


@suite.check("a 6 MB value there and back")
def large(tenant):
    text = "0123456789abcdef" * 400_000
    with connect(tenant) as c:
        digest, back = c.execute("SELECT md5(%s), %s::text", [text, text]).fetchone()
        equal(digest, hashlib.md5(text.encode()).hexdigest())
        assert back == text
        own(c, tenant)


@suite.check("errors carry SQLSTATE, position and constraint; the client goes on")
def failures(tenant):
    with connect(tenant) as c:
        empty_items(c)
        # The guard answers a first word that begins no statement; PostgreSQL everything behind it.
        refused(c, "42601", "SELEC 1")
        equal(refused(c, "42601", "SELECT FROM FROM orders").diag.statement_position, "13")
        equal(refused(c, "42703", "SELECT nothing FROM orders").diag.statement_position, "8")
        equal(refused(c, "42703", "SELECT nothing FROM orders WHERE id = %s", [1]).diag.statement_position, "8")
        c.execute("INSERT INTO items (id) VALUES (1)")
        equal(refused(c, "23505", "INSERT INTO items (id) VALUES (1)").diag.constraint_name, "items_pkey")
        refused(c, "42501", "INSERT INTO items (tenant_id, id) VALUES (%s, 2)", [other(tenant)])
        own(c, tenant)


@suite.check("notices reach the client that asked")
def notices(tenant):
    with connect(tenant) as c:
        heard = []
        c.add_notice_handler(lambda diag: heard.append(diag.message_primary))
        equal(c.execute("SELECT say(%s)", [tenant]).fetchone(), (tenant,))
        c.execute("SELECT say('again')")
        own(c, tenant)
        equal(heard, [f"heard {tenant}", "heard again"])


# === COPY ===


@suite.check("COPY in, text and binary, and COPY out")
def copy(tenant):
    with connect(tenant) as c:
        empty_items(c)
        with c.cursor() as cur:
            with cur.copy("COPY items_in (id, n, note) FROM STDIN") as stream:
                for n in range(4000):
                    stream.write_row((n, n * 2, f"note\t{n}"))
            equal(cur.rowcount, 4000)
            with cur.copy("COPY items_in (id, n, note) FROM STDIN (FORMAT binary)") as stream:
                stream.set_types(["int4", "int4", "text"])
                for n in range(4000, 6000):
                    stream.write_row((n, n * 2, None))
            with cur.copy("COPY (SELECT tenant_id, id, n FROM items ORDER BY id) TO STDOUT") as stream:
                stream.set_types(["text", "int4", "int4"])
                equal(list(stream.rows()), [(tenant, n, n * 2) for n in range(6000)])
            with cur.copy("COPY items (note) TO STDOUT (FORMAT binary)") as stream:
                stream.set_types(["text"])
                equal(sum(1 for _ in stream.rows()), 6000)
        empty_items(c)


@suite.check("COPY that fails or is given up leaves the client usable")
def copy_fails(tenant):
    with connect(tenant) as c:
        empty_items(c)
        for write, expected in [
            (lambda s: s.write("1\tnot a number\n" * 500), errors.InvalidTextRepresentation),
            (lambda s: s.write_row((other(tenant), 1)), errors.InsufficientPrivilege),
            (lambda s: (_ for _ in ()).throw(KeyError("gave up")), KeyError),
        ]:
            columns = "tenant_id, id" if expected is errors.InsufficientPrivilege else "id, n"
            try:
                with c.cursor().copy(f"COPY items_in ({columns}) FROM STDIN") as stream:
                    write(stream)
                raise AssertionError(f"no {expected.__name__}")
            except expected:
                pass
            equal(c.execute("SELECT count(*) FROM items").fetchone(), (0,))
        own(c, tenant)


@suite.check("COPY that fails while rows are on their way, again and again")
def copy_fails_often(tenant):
    with connect(tenant) as c:
        rows = "1\tnot a number\n" * 20_000
        for _ in range(50):
            try:
                with c.cursor().copy("COPY items_in (id, n) FROM STDIN") as stream:
                    for _ in range(4):
                        stream.write(rows)
                raise AssertionError("no error")
            except errors.InvalidTextRepresentation:
                pass
            own(c, tenant)


# === transactions ===


@suite.check("transactions: commit, rollback, savepoints, isolation levels")
def transactions(tenant):
    with connect(tenant, autocommit=False) as c:
        empty_items(c)
        c.commit()
        with c.transaction():
            c.execute("INSERT INTO items (id) VALUES (1)")
            try:
                with c.transaction():
                    c.execute("INSERT INTO items (id) VALUES (2)")
                    c.execute("SELECT 1 / 0")
            except errors.DivisionByZero:
                pass
            c.execute("INSERT INTO items (id) VALUES (3)")
            own(c, tenant)
        c.execute("INSERT INTO items (id) VALUES (4)")
        c.rollback()
        equal(c.execute("SELECT tenant_id, id FROM items ORDER BY id").fetchall(), [(tenant, 1), (tenant, 3)])
        c.rollback()
        c.isolation_level, c.read_only = psycopg.IsolationLevel.SERIALIZABLE, True
        equal(c.execute("SHOW transaction_isolation").fetchone(), ("serializable",))
        refused(c, "25006", "INSERT INTO items (id) VALUES (5)")
        refused(c, "25P02", "SELECT 1")
        c.rollback()


@suite.check("a client that leaves in mid-transaction leaves nothing and frees its server")
def leaves(tenant):
    with connect(tenant) as c:
        empty_items(c)
        for n in range(5):
            gone = connect(tenant, autocommit=False)
            gone.execute("INSERT INTO items (id) VALUES (1)")
            if n % 2:
                gone.close()
            else:
                gone.pgconn.finish()
        equal(c.execute("SELECT count(*) FROM items").fetchone(), (0,))
        c.execute("INSERT INTO items (id) VALUES (1)")
        empty_items(c)


@suite.check("a client that leaves in mid-query frees its server at once", proxy_only=True)
def leaves_running(tenant):
    with connect(tenant) as c:
        for _ in range(4):
            gone = connect(tenant)
            gone.pgconn.send_query(b"SELECT pg_sleep(15)")
            gone.pgconn.flush()
            time.sleep(0.05)
            gone.pgconn.finish()
        began = time.monotonic()
        own(c, tenant)
        assert time.monotonic() - began < 3, "waited for servers that nobody uses"


# === cancel ===


def cancelled_while(connection, cancel):
    """Runs a long query, cancels it from another thread, and goes on with the same connection."""
    complaints = []

    def asked():
        try:
            cancel()
        except psycopg.Error as error:
            complaints.append(str(error))
    timer = threading.Timer(0.3, asked)
    timer.start()
    began = time.monotonic()
    try:
        refused(connection, "57014", "SELECT pg_sleep(10)")
    finally:
        timer.join()
    assert time.monotonic() - began < 4, "cancelled too late"
    equal(complaints, [], "what the cancel call said")
    equal(connection.execute("SELECT 1").fetchone(), (1,))


@suite.check("cancel: plain, over TLS, and of nothing")
def cancel(tenant):
    with connect(tenant) as c, connect(tenant, sslmode="verify-full", sslrootcert=CA) as secure:
        cancelled_while(c, c.cancel)
        cancelled_while(secure, lambda: secure.cancel_safe(timeout=5))
        c.cancel()
        time.sleep(0.1)
        own(c, tenant)


@suite.check("cancel reaches the client's own query only")
def cancel_own(tenant):
    with connect(tenant) as mine, connect(other(tenant)) as theirs:
        own(mine, tenant)
        done = []
        runner = threading.Thread(target=lambda: done.append(theirs.execute("SELECT 5, pg_sleep(0.8)").fetchone()[0]))
        runner.start()
        for _ in range(10):
            mine.cancel()
            time.sleep(0.06)
        runner.join()
        equal(done, [5], "the other tenant's query")


# === async ===


@suite.check("async: eight clients of both tenants over two servers")
async def many(tenant):
    async def one(owner, seed):
        async with await psycopg.AsyncConnection.connect(**login(owner), autocommit=True, prepare_threshold=1) as c:
            for n in range(25):
                key = (seed * 31 + n * 7) % TENANTS[owner] + 1
                async with c.transaction():
                    cur = await c.execute("SELECT tenant_id, note FROM orders WHERE id = %s", [key])
                    equal(await cur.fetchall(), [(owner, f"{owner}-{key}")])
                cur = await c.execute(WHOSE)
                equal(await cur.fetchall(), [(owner, TENANTS[owner])])
    await asyncio.gather(*(one((tenant, other(tenant))[seed % 2], seed) for seed in range(8)))


@suite.check("async: pipeline, COPY out, and cancel of a task")
async def async_rest(tenant):
    async with await psycopg.AsyncConnection.connect(**login(tenant), autocommit=True) as c:
        async with c.pipeline():
            cursors = [await c.execute("SELECT %s::int", [n]) for n in range(20)]
            equal([await cur.fetchone() for cur in cursors], [(n,) for n in range(20)])
        async with c.cursor() as cur, cur.copy("COPY (SELECT tenant_id FROM orders) TO STDOUT") as stream:
            equal({row async for row in stream.rows()}, {(tenant,)})
        task = asyncio.create_task(c.execute("SELECT pg_sleep(10)"))
        await asyncio.sleep(0.3)
        task.cancel()
        try:
            await asyncio.wait_for(task, 4)
            raise AssertionError("not cancelled")
        except asyncio.CancelledError:
            pass
        equal(await (await c.execute(WHOSE)).fetchall(), [(tenant, TENANTS[tenant])])


@suite.check("psycopg_pool with its check")
def pool(tenant):
    with ConnectionPool(kwargs=login(tenant), min_size=2, max_size=4, check=ConnectionPool.check_connection) as p:
        def work():
            for n in range(15):
                with p.connection() as c:
                    own(c, tenant)
        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        equal(p.get_stats().get("connections_errors", 0), 0)


sys.exit(suite.run())
