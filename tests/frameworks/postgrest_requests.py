"""The statements of PostgREST, as its documentation and its logs show them: the catalogs when it starts, then for each request one
transaction that sets role, claims and search path in one SELECT, and one query whose answer is the body.

PostgREST itself is in no package registry. GET /orders/ID with a token: the claims name the role, and the tenant.
"""

import base64
import hashlib
import hmac
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from psycopg_pool import ConnectionPool

from served import DB_PORT, GATEWAY, POOL, told

LOGINS = ["authenticator"] if GATEWAY else ["acme_authenticator", "globex_authenticator"]
# What it learns of the database before it serves, in a transaction without a search path.
CATALOGS = (
    "SELECT current_setting('server_version_num')::integer, current_setting('server_version'), version()",
    "SELECT name FROM pg_timezone_names",
    "SELECT n.nspname, c.relname, d.description, c.relkind IN ('v', 'm'), (pg_relation_is_updatable(c.oid, true) & 8) = 8, a.attname, "
    "format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(e.adbin, e.adrelid), information_schema._pg_truetypid(a.*, t.*) "
    "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
    "JOIN pg_type t ON t.oid = a.atttypid "
    "LEFT JOIN pg_attrdef e ON e.adrelid = c.oid AND e.adnum = a.attnum LEFT JOIN pg_description d ON d.objoid = c.oid AND d.objsubid = 0 "
    "WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'v', 'm', 'f', 'p')",
    "SELECT n.nspname, p.proname, p.proargnames, p.provolatile, p.prosrc, pg_get_function_result(p.oid) "
    "FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = ANY (%s) AND p.prokind = 'f'",
    "SELECT (parse_ident(p.pronamespace::regnamespace::text))[1], p.proname FROM pg_proc p WHERE p.pronargs = 1",
    "SELECT c.oid, json_array_elements('[{\"a\": 1}]'::json -> 0 -> 'b') FROM pg_class c JOIN pg_rewrite r ON r.ev_class = c.oid",
    "SELECT r.rolname, s.name FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid, pg_settings s "
    "WHERE m.member = quote_ident(current_user)::regrole::oid AND has_parameter_privilege(m.member, s.name, 'set')",
    "SELECT conname, conrelid::regclass, confrelid::regclass, conkey, confkey FROM pg_constraint WHERE contype IN ('f', 'p', 'u')",
)
SETTINGS = ("SELECT set_config('search_path', %s, true), set_config('role', %s, true), set_config('request.jwt.claims', %s, true), "
            "set_config('request.method', %s, true), set_config('request.path', %s, true), set_config('request.headers', %s, true), "
            "set_config('request.cookies', %s, true)")
ANSWERED = ("SELECT NULL::bigint AS total, count(answer) AS rows, coalesce(json_agg(answer), '[]')::text AS body, "
            "NULLIF(current_setting('response.headers', true), ''), NULLIF(current_setting('response.status', true), '') "
            "FROM (SELECT * FROM source) answer")
READ = f'WITH source AS (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."id" <= %s ORDER BY "public"."orders"."id") {ANSWERED}'
WRITE = ('WITH source AS (INSERT INTO "public"."items" ("id", "n") SELECT "body"."id", "body"."n" FROM (SELECT %s::json AS data) payload, '
         'LATERAL (SELECT "id", "n" FROM json_to_recordset(payload.data) AS _ ("id" integer, "n" integer)) body '
         f'RETURNING "public"."items"."id") {ANSWERED}')


def configure(connection):
    connection.execute("SET client_encoding = 'UTF8'; SET client_min_messages TO WARNING;", prepare=False)


def open_pool(name):
    kwargs = {"autocommit": True, "prepare_threshold": 0}
    return ConnectionPool(f"postgresql://{name}:{name}-secret@127.0.0.1:{DB_PORT}/app", min_size=POOL // len(LOGINS), kwargs=kwargs,
                          configure=configure, timeout=30, open=True)


def learn(pool):
    with pool.connection() as connection:
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY", prepare=False)
        connection.execute("SET LOCAL SCHEMA ''", prepare=False)
        for sql in CATALOGS:
            connection.execute(sql, [["public"]] if "%s" in sql else None).fetchall()
        connection.execute("COMMIT", prepare=False)


def verified(header):
    """The claims of a token whose signature is right."""
    signed, _, signature = header.removeprefix("Bearer ").rpartition(".")
    expected = hmac.digest(os.environ["APP_TOKEN_SECRET"].encode(), signed.encode(), hashlib.sha256)
    claims = json.loads(decoded(signed.partition(".")[2]))
    if not hmac.compare_digest(expected, decoded(signature)) or claims["exp"] < time.time():
        raise PermissionError("the token is not valid")
    return claims


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def transaction(connection, claims, method, path, sql, value):
    connection.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED READ {'ONLY' if method == 'GET' else 'WRITE'}", prepare=False)
    try:
        connection.execute(SETTINGS, ["public", claims["role"], json.dumps(claims), method, path, '{"accept": "*/*"}', "{}"]).fetchall()
        body = connection.execute(sql, [value]).fetchone()[2]
    except Exception:
        connection.execute("ROLLBACK", prepare=False)
        raise
    connection.execute("COMMIT", prepare=False)
    return json.loads(body)


def handle(claims, number):
    pool = pools["authenticator" if GATEWAY else f"{claims['tenant']}_authenticator"]
    with pool.connection() as connection:
        rows = transaction(connection, claims, "GET", "/orders", READ, 10)
        transaction(connection, claims, "POST", "/items", WRITE, json.dumps([{"id": number, "n": len(rows)}]))
    return rows


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        try:
            status, answer = 200, {"rows": handle(verified(self.headers["Authorization"]), int(self.path.rsplit("/", 1)[1]))}
        except Exception as error:  # every one is the answer
            status, answer = 500, {"error": told(error)}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size, daemon_threads = 200, True


pools = {name: open_pool(name) for name in LOGINS}
for pool in pools.values():
    learn(pool)
Server(("127.0.0.1", int(os.environ["APP_PORT"])), Handler).serve_forever()
