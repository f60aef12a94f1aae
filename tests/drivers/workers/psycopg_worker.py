"""Does with psycopg what with_workers.py asks for; every statement is prepared at its first use."""

import sys

import psycopg
from psycopg.rows import dict_row

from worker import FAILS_AT, INSERT, READ, ROWS, STAR, login, serve

clients = {}


def do(what, name, *words):
    if what == "open":
        own = login(words[0])
        own["dbname"] = own.pop("database")
        clients[name] = psycopg.connect(**own, sslmode="disable", connect_timeout=5, autocommit=True, row_factory=dict_row)
        clients[name].prepare_threshold = 0
        return {}
    client = clients[name]
    if what == "read":
        return client.execute(READ, (1,), binary=True).fetchone()
    if what == "star":
        return client.execute(STAR, (1,)).fetchone()
    if what == "write":
        client.execute(INSERT, (int(words[0]), 42))
        return {}
    failed = 0
    for _ in range(int(words[0])):
        try:
            with client.cursor().copy("COPY items_in (id, n, note) FROM STDIN") as stream:
                for n in range(ROWS):
                    stream.write_row((FAILS_AT if n == FAILS_AT + 1 else n, n, "x" * 100))
        except psycopg.errors.UniqueViolation:
            failed += 1
    return {"failed": failed, "left": client.execute("SELECT count(*) AS n FROM items").fetchone()["n"]}


sys.exit(serve(do, lambda error: getattr(error, "sqlstate", None)))
