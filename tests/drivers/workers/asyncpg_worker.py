"""Does with asyncpg what with_workers.py asks for; its statements are cached by text."""

import asyncio
import sys

import asyncpg

from worker import FAILS_AT, INSERT, READ, ROWS, STAR, login, serve

clients = {}


async def do(what, name, *words):
    if what == "open":
        clients[name] = await asyncpg.connect(**login(words[0]), ssl=False, timeout=5)
        return {}
    client = clients[name]
    if what == "read":
        return {"a": await client.fetchval(READ.replace("%s", "$1"), 1)}
    if what == "star":
        return dict(await client.fetchrow(STAR.replace("%s", "$1"), 1))
    if what == "write":
        try:
            await client.execute(INSERT.replace("%s", "$1", 1).replace("%s", "$2"), int(words[0]), 42)
        except asyncpg.DataError:
            # asyncpg has prepared it, cannot encode the value and sends no Sync: the pipeline is open until it says more.
            await client.execute("SELECT 1")
            raise
        return {}
    rows = [(FAILS_AT if n == FAILS_AT + 1 else n, n, "x" * 100) for n in range(ROWS)]
    failed = 0
    for _ in range(int(words[0])):
        try:
            await client.copy_records_to_table("items_in", records=rows, columns=["id", "n", "note"])
        except asyncpg.UniqueViolationError:
            failed += 1
    return {"failed": failed, "left": await client.fetchval("SELECT count(*) FROM items")}


loop = asyncio.new_event_loop()
sys.exit(serve(lambda *words: loop.run_until_complete(do(*words)), lambda error: getattr(error, "sqlstate", None)))
