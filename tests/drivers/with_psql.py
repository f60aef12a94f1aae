"""psql: backslash commands, \\copy, several statements, Ctrl-C, \\watch, variables, TLS."""

import os
import re
import signal
import subprocess
import sys
import time

from checks import ADDRESS, CA, HOST, PORT, SOCKETS, TENANTS, Suite, equal, other, password, user

suite = Suite("psql")
PSQL = os.path.join(os.environ["DRIVERS_BIN"], "psql")
VERSION = int(re.search(r"\) (\d+)", subprocess.check_output([PSQL, "--version"], text=True)).group(1))


def conninfo(tenant, **more):
    words = {"host": HOST, "hostaddr": ADDRESS, "port": PORT, "dbname": "app", "user": user(tenant),
             "sslmode": "disable", "connect_timeout": 5, **more}
    return " ".join(f"{key}='{value}'" for key, value in words.items() if value != "")


def command(tenant, options, **more):
    return [PSQL, "-Xq", "-v", "ON_ERROR_STOP=1", *options, conninfo(tenant, **more)]


def environment(name):
    return {**os.environ, "PGPASSWORD": password(name)}


def psql(tenant, script, options=("-At",), expect=0, **more):
    """Runs a script from standard input; gives what it printed, or with `expect` what it complained of."""
    done = subprocess.run(command(tenant, options, **more), input=script, text=True, capture_output=True, timeout=15,
                          env=environment(more.get("user", user(tenant))))
    equal(done.returncode, expect, f"exit code of psql ({done.stderr.strip()})")
    return (done.stdout if expect == 0 else done.stderr).strip()


def session(tenant, **more):
    return subprocess.Popen(command(tenant, ("-At",), **more), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=environment(user(tenant)))


def ended(process, limit=8):
    try:
        return process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


@suite.check("its own rows only, by TCP, unix socket and TLS verify-full")
def own_rows(tenant):
    for more in ({}, {"host": SOCKETS, "hostaddr": ""}, {"sslmode": "verify-full", "sslrootcert": CA}):
        equal(psql(tenant, "SELECT tenant_id, count(*) FROM orders GROUP BY 1;", **more), f"{tenant}|{TENANTS[tenant]}")
    assert "TLS" in psql(tenant, "\\conninfo", sslmode="verify-full", sslrootcert=CA)


@suite.check("direct TLS (psql 17 and later)", proxy_only=True)
def direct_tls(tenant):
    if VERSION < 17:
        return  # older libpq does not know the parameter; psycopg's libpq does it
    equal(psql(tenant, "SELECT 1;", sslmode="verify-full", sslrootcert=CA, sslnegotiation="direct"), "1")


@suite.check("a wrong password is refused")
def wrong_password(tenant):
    done = subprocess.run(command(tenant, ("-c", "SELECT 1")), text=True, capture_output=True, timeout=15,
                          env={**os.environ, "PGPASSWORD": "not it"})
    equal(done.returncode, 2)
    assert "password authentication failed" in done.stderr, done.stderr


@suite.check("backslash commands: \\d \\dt \\d+ \\df \\du \\l \\dn \\dp \\sf")
def describe(tenant):
    table = psql(tenant, "\\d orders", options=())
    for word in ("tenant_id", "orders_pkey", 'POLICY "tenant"', "forced row security"):
        assert word in table, f"\\d orders does not say {word}: {table}"
    for text, word in [("\\dt", "items"), ("\\d+ items", "feeling"), ("\\df say", "words text"), ("\\du", "app_owner"),
                       ("\\l", "template1"), ("\\dn", "public"), ("\\dp orders", "arwd"), ("\\sf say", "RAISE NOTICE"),
                       ("\\dT mood", "mood"), ("\\dv", "items_in")]:
        assert word in psql(tenant, text, options=()), f"{text} does not say {word}"


@suite.check("\\copy in and out")
def copy(tenant):
    place = os.path.join(os.environ["DRIVERS_TMP"], f"copy-{tenant}.csv")
    with open(place, "w") as file:
        file.writelines(f"{n},{n * 2},note {n}\n" for n in range(2000))
    out = place + ".out"
    psql(tenant, f"""DELETE FROM items;
        \\copy items_in (id, n, note) FROM '{place}' CSV
        \\copy (SELECT tenant_id, id FROM items ORDER BY id) TO '{out}' CSV
        COPY items_in (id, n, note) FROM STDIN;
5000\t1\tinline
\\.
        """)
    with open(out) as file:
        equal(file.read(), "".join(f"{tenant},{n}\n" for n in range(2000)))
    equal(psql(tenant, "SELECT note FROM items WHERE id = 5000; COPY (SELECT 7) TO STDOUT; DELETE FROM items;"), "inline\n7")


@suite.check("\\copy that fails says why and the session goes on")
def copy_fails(tenant):
    script = "\\set ON_ERROR_STOP 0\n\\copy items_in (id, n) FROM PROGRAM 'yes \"1,x\" | head -50000' CSV\nSELECT count(*) FROM items;"
    done = subprocess.run(command(tenant, ("-At",)), input=script, text=True, capture_output=True, timeout=15,
                          env=environment(user(tenant)))
    assert "invalid input syntax for type integer" in done.stderr, done.stderr
    equal(done.stdout.strip(), "0")


@suite.check("several statements: -c, \\;, --single-transaction")
def several(tenant):
    done = subprocess.run(command(tenant, ("-At", "-c", "DELETE FROM items; INSERT INTO items (id) VALUES (1); SELECT count(*) FROM items")),
                          text=True, capture_output=True, timeout=15, env=environment(user(tenant)))
    equal((done.returncode, done.stdout.strip().splitlines()[-1:]), (0, ["1"]), done.stderr)
    equal(psql(tenant, "SELECT 1\\; SELECT 2\\; SELECT count(*) FROM orders;"), f"1\n2\n{TENANTS[tenant]}")
    psql(tenant, "INSERT INTO items (id) VALUES (2); SELECT 1/0;", options=("-At", "-1"), expect=3)
    equal(psql(tenant, "BEGIN\\; INSERT INTO items (id) VALUES (3)\\; SELECT count(*) FROM items\\; ROLLBACK;\n"
                       "SELECT count(*) FROM items; DELETE FROM items;"), "2\n1")


@suite.check("transactions and savepoints by hand, AUTOCOMMIT off, ON_ERROR_ROLLBACK")
def transactions(tenant):
    equal(psql(tenant, """DELETE FROM items;
        BEGIN; INSERT INTO items (id) VALUES (1); SAVEPOINT s; INSERT INTO items (id) VALUES (2);
        ROLLBACK TO s; SELECT tenant_id, id FROM items; COMMIT;
        \\set AUTOCOMMIT off
        INSERT INTO items (id) VALUES (9); ROLLBACK; SELECT count(*) FROM items; COMMIT;
        \\set AUTOCOMMIT on
        \\set ON_ERROR_STOP 0
        \\set ON_ERROR_ROLLBACK on
        BEGIN; INSERT INTO items (id) VALUES (3); SELECT 1/0; SELECT count(*) FROM items; COMMIT;
        DELETE FROM items; SELECT count(*) FROM items;"""), f"{tenant}|1\n1\n2\n0")


@suite.check("variables: -v, :'v', \\gset, \\gexec, \\if")
def variables(tenant):
    equal(psql(tenant, """SELECT :'word', :number + 1;
        SELECT count(*) AS mine, min(tenant_id) AS who FROM orders \\gset
        \\echo :mine :who
        SELECT format('SELECT %s', n) FROM generate_series(1, 3) n \\gexec
        SELECT :mine > 0 AS some \\gset
        \\if :some
        \\echo yes
        \\endif""", options=("-At", "-v", "word=it's", "-v", "number=41")),
          f"it's|42\n{TENANTS[tenant]} {tenant}\n1\n2\n3\nyes")


@suite.check("FETCH_COUNT reads by a cursor; \\gdesc; \\errverbose; \\x")
def fetching(tenant):
    equal(psql(tenant, "\\set FETCH_COUNT 9\nSELECT tenant_id FROM orders;").splitlines(), [tenant] * TENANTS[tenant])
    equal(psql(tenant, "SELECT id, note FROM orders \\gdesc"), "id|integer\nnote|text")
    out = psql(tenant, "\\set ON_ERROR_STOP 0\nSELECT 1/0;\n\\errverbose\n\\x\nSELECT 1 AS one;")
    equal(out, "one|1")


@suite.check("prepared statements: PREPARE and EXECUTE inside a transaction" + ("" if VERSION < 16 else ", \\bind"))
def prepare(tenant):
    equal(psql(tenant, "BEGIN; PREPARE p AS SELECT tenant_id FROM orders WHERE id = $1; EXECUTE p(1); EXECUTE p(2);"
                       " DEALLOCATE p; COMMIT;"), f"{tenant}\n{tenant}")
    if VERSION >= 16:
        equal(psql(tenant, "SELECT $1::int + $2::int \\bind 40 2 \\g"), "42")


@suite.check("notices and a parameter that changes are shown")
def notices(tenant):
    done = subprocess.run(command(tenant, ("-At",)), input="SELECT say('hello');\n\\encoding\n", text=True,
                          capture_output=True, timeout=15, env=environment(user(tenant)))
    equal(done.stdout.strip(), "hello\nUTF8")
    assert "heard hello" in done.stderr, done.stderr


@suite.check("PGOPTIONS, PGTZ and PGAPPNAME take effect")
def options(tenant):
    done = subprocess.run(command(tenant, ("-At",)), input="SHOW timezone; SHOW statement_timeout; SHOW timezone;", text=True,
                          capture_output=True, timeout=15,
                          env={**environment(user(tenant)), "PGOPTIONS": "-c statement_timeout=4321", "PGTZ": "Asia/Tokyo"})
    equal(done.stdout.strip(), "Asia/Tokyo\n4321ms\nAsia/Tokyo", done.stderr)


@suite.check("a gateway user names its tenant in PGOPTIONS")
def gateway(tenant):
    done = subprocess.run(command(tenant, ("-At", "-c", "SELECT DISTINCT tenant_id FROM orders"), user="api"), text=True,
                          capture_output=True, timeout=15,
                          env={**environment("api"), "PGOPTIONS": f"-c app.tenant_id={tenant}"})
    equal(done.stdout.strip(), tenant, done.stderr)


@suite.check("the context cannot be changed (42501 with a hint)", proxy_only=True)
def context_stays(tenant):
    foe = other(tenant)
    done = subprocess.run(
        [*command(tenant, ("-At",)), "-v", "VERBOSITY=verbose", "-v", "ON_ERROR_STOP=0"],
        input=f"SET app.tenant_id = '{foe}';\nSELECT tenant_id, count(*) FROM orders GROUP BY 1;\nSELECT 1; SET app.tenant_id = '{foe}';\n"
              f"SELECT 1\\; SET app.tenant_id = '{foe}'\\; SELECT note FROM orders WHERE id = 1;\n"
              f"SELECT tenant_id, count(*) FROM orders GROUP BY 1;",
        text=True, capture_output=True, timeout=15, env=environment(user(tenant)))
    equal(done.stderr.count("42501"), 3, done.stderr)
    assert "HINT" in done.stderr and foe not in done.stdout, (done.stdout, done.stderr)
    equal(done.stdout.count(f"{tenant}|{TENANTS[tenant]}"), 2)


@suite.check("Ctrl-C stops pg_sleep, plain and over TLS")
def control_c(tenant):
    """A psql that reads no terminal ends after Ctrl-C; that the session goes on is psycopg's check."""
    for more in ({}, {"sslmode": "verify-full", "sslrootcert": CA}):
        process = session(tenant, **more)
        began = time.monotonic()
        process.stdin.write("\\set ON_ERROR_STOP 0\nSELECT 'ready';\nSELECT pg_sleep(10);\n")
        process.stdin.flush()
        equal(process.stdout.readline().strip(), "ready")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = ended(process)
        assert "canceling statement due to user request" in err, err
        assert time.monotonic() - began < 5, "cancelled too late"


@suite.check("\\watch shows a round and Ctrl-C ends it")
def watch(tenant):
    process = session(tenant)
    process.stdin.write("\\set ON_ERROR_STOP 0\nSELECT 'row', count(*) FROM orders \\watch 0.3\n")
    process.stdin.flush()
    seen = []
    while sum(line.startswith("row|") for line in seen) < 2:
        seen.append(process.stdout.readline().strip())
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    out, _ = ended(process)
    equal({line for line in [*seen, *out.split()] if line.startswith("row|")}, {f"row|{TENANTS[tenant]}"})


@suite.check("a killed psql leaves nothing behind", proxy_only=True)
def killed(tenant):
    psql(tenant, "DELETE FROM items;")
    for _ in range(3):
        process = session(tenant)
        process.stdin.write("SELECT 'ready';\nBEGIN; INSERT INTO items (id) VALUES (1);\nSELECT pg_sleep(15);\n")
        process.stdin.flush()
        equal(process.stdout.readline().strip(), "ready")
        time.sleep(0.1)
        process.kill()
        ended(process)
    began = time.monotonic()
    equal(psql(tenant, "SELECT count(*) FROM items;"), "0")
    assert time.monotonic() - began < 3, "waited for servers that nobody uses"


@suite.check("pg_isready says that connections are accepted", together=True)
def isready(_):
    for more in ([], ["-U", user("acme"), "-d", "app"]):
        done = subprocess.run([os.path.join(os.environ["DRIVERS_BIN"], "pg_isready"), "-h", HOST, "-p", str(PORT), *more], text=True,
                              capture_output=True, timeout=15)
        equal(done.returncode, 0, done.stdout + done.stderr)
        assert "accepting connections" in done.stdout, done.stdout


@suite.check("pg_dump by a maintenance user is byte for byte what it is directly", together=True)
def dump(_):
    def dumped(*words, **env):
        done = subprocess.run([os.path.join(os.environ["DRIVERS_BIN"], "pg_dump"), *words], capture_output=True, timeout=60,
                              env={**os.environ, **env})
        equal(done.returncode, 0, done.stderr.decode())
        # Newer releases put a word of their own choosing around each dump.
        return re.sub(rb"\\(un)?restrict \w+", b"", done.stdout)

    name = "dumper"
    for more in ([], ["--data-only", "--inserts"]):
        through = dumped("-h", HOST, "-p", str(PORT), "-U", name, *more, "app", PGPASSWORD=password(name))
        assert b"orders" in through, "nothing was dumped"
        equal(through, dumped("-d", os.environ["DRIVERS_SUPERUSER"], *more))


sys.exit(suite.run())
