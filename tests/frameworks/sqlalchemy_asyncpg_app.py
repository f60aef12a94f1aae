"""SQLAlchemy with asyncpg: an asynchronous session for each request, its transaction begun by choosing the tenant."""

import asyncio
import json
import os

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from served import DB_PORT, GATEWAY, LOGINS, POOL, login, told

engines = {name: create_async_engine(f"postgresql+asyncpg://{name}:{name}-secret@127.0.0.1:{DB_PORT}/app", pool_size=POOL // len(LOGINS),
                                     max_overflow=0, pool_timeout=30) for name in LOGINS}


async def handle(tenant, number):
    async with AsyncSession(engines[login(tenant)]) as session, session.begin():
        if GATEWAY:
            await session.execute(text("SELECT set_config('app.tenant_id', :tenant, true)"), {"tenant": tenant})
        found = await session.execute(text("SELECT tenant_id, id, note FROM orders WHERE id <= :most ORDER BY id"), {"most": 10})
        rows = [dict(row) for row in found.mappings()]
        await session.execute(text("INSERT INTO items (id, n) VALUES (:id, :n)"), {"id": number, "n": len(rows)})
    return rows


async def talk(reader, writer):
    while line := await reader.readline():
        _, tenant, number = line.split()[1].decode().split("/")
        while (await reader.readline()).strip():
            pass
        try:
            status, answer = "200 OK", {"rows": await handle(tenant, int(number))}
        except Exception as error:  # every one is the answer
            status, answer = "500 Error", {"error": told(error)}
        body = json.dumps(answer).encode()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_server(talk, "127.0.0.1", int(os.environ["APP_PORT"]), backlog=200)
    await server.serve_forever()


asyncio.run(main())
