"""libpq of PostgreSQL 18: SASL OAUTHBEARER, with its own discovery. The application's part, getting the token, is the hook."""

import ctypes
import os
import sys

from checks import ADDRESS, CA, HOST, PORT, TENANTS, TMP, WHOSE, Suite, equal

suite = Suite("libpq 18")
libpq = ctypes.CDLL(os.environ["DRIVERS_LIBPQ18"])
for name in ("PQconnectdb", "PQexec"):
    getattr(libpq, name).restype = ctypes.c_void_p
for name in ("PQerrorMessage", "PQgetvalue"):
    getattr(libpq, name).restype = ctypes.c_char_p

CONNECTION_OK = 0
BEARER_TOKEN = 1  # PQAUTHDATA_OAUTH_BEARER_TOKEN
ISSUER = "https://id.test"


class Request(ctypes.Structure):
    """PGoauthBearerRequest (libpq-fe.h)."""

    _fields_ = [("discovery", ctypes.c_char_p), ("scope", ctypes.c_char_p), ("poll", ctypes.c_void_p),
                ("cleanup", ctypes.c_void_p), ("token", ctypes.c_char_p), ("user", ctypes.c_void_p)]


asked, tokens = [], []


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Request))
def hook(kind, _, request):
    if kind != BEARER_TOKEN:
        return 0
    asked.append((request.contents.discovery, request.contents.scope))
    tokens.append(read(wanted).encode())  # libpq copies it later
    request.contents.token = tokens[-1]
    return 1


libpq.PQsetAuthDataHook(hook)
wanted = ""


def read(name):
    with open(os.path.join(TMP, f"{name}.jwt")) as file:
        return file.read()


def query(token, sql, **more):
    """The first row of the answer, or why there is no connection."""
    global wanted
    wanted = token
    asked.clear()
    words = {"host": HOST, "hostaddr": ADDRESS, "port": PORT, "dbname": "app", "user": "phone", "sslmode": "verify-full",
             "sslrootcert": CA, "connect_timeout": 5, "oauth_issuer": ISSUER, "oauth_client_id": "app",
             "require_auth": "oauth", **more}
    connection = ctypes.c_void_p(libpq.PQconnectdb(" ".join(f"{key}='{value}'" for key, value in words.items()).encode()))
    try:
        if libpq.PQstatus(connection) != CONNECTION_OK:
            return libpq.PQerrorMessage(connection).decode().strip()
        result = ctypes.c_void_p(libpq.PQexec(connection, sql.encode()))
        row = [libpq.PQgetvalue(result, 0, column).decode() for column in range(libpq.PQnfields(result))]
        libpq.PQclear(result)
        return row
    finally:
        libpq.PQfinish(connection)


@suite.check("it is told where to get a token, and the token names the tenant", proxy_only=True)
def right(tenant):
    equal(query(tenant, WHOSE), [tenant, str(TENANTS[tenant])])
    equal(asked, [(f"{ISSUER}/.well-known/openid-configuration".encode(), b"openid")])


@suite.check("a token that has expired or is a stranger's is refused", proxy_only=True)
def wrong(tenant):
    for token in (f"expired-{tenant}", f"stranger-{tenant}"):
        problem = query(token, WHOSE)
        assert "authentication failed" in problem, problem


@suite.check("with another issuer libpq does not show its token", proxy_only=True)
def other_issuer(tenant):
    problem = query(tenant, WHOSE, oauth_issuer="https://elsewhere.test")
    assert "incompatible with oauth_issuer" in problem, problem
    equal(asked, [])


sys.exit(suite.run())
