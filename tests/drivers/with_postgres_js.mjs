// postgres.js: prepared by default, pipelining, transactions, multi statements, COPY, cursor, cancel.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { pipeline as flow } from 'node:stream/promises'
import { Readable } from 'node:stream'
import { CA, PORT, SOCKETS, Suite, TENANTS, WHOSE, other, password, refused, require, sleep, user } from './checks.mjs'

const postgres = require('postgres')
const suite = new Suite('postgres.js')

async function using(tenant, more, work) {
  const sql = postgres({
    host: '127.0.0.1', port: PORT, database: 'app', user: user(tenant), password: password(user(tenant)),
    max: 3, connect_timeout: 5, onnotice: () => {}, ...more,
  })
  try {
    return await work(sql)
  } finally {
    await sql.end({ timeout: 2 })
  }
}

const rows = async (query) => Array.from(await query, (row) => ({ ...row }))

async function own(sql, tenant) {
  assert.deepEqual(await rows(sql.unsafe(WHOSE)), [{ tenant_id: tenant, count: TENANTS[tenant] }])
}

suite.check('logs in and sees its own rows only', (tenant) => using(tenant, {}, async (sql) => {
  await own(sql, tenant)
  assert.equal((await sql`SELECT count(*)::int AS n FROM orders WHERE tenant_id = ${other(tenant)}`)[0].n, 0)
}))

suite.check('TLS with the certificate verified', (tenant) =>
  using(tenant, { host: 'localhost', ssl: { ca: CA } }, (sql) => own(sql, tenant)))

suite.check('direct TLS by ALPN', (tenant) =>
  using(tenant, { host: 'localhost', ssl: { ca: CA, ALPNProtocols: ['postgresql'] }, sslnegotiation: 'direct' },
    (sql) => own(sql, tenant)), { proxyOnly: true })

suite.check('unix socket', (tenant) => using(tenant, { path: `${SOCKETS}/.s.PGSQL.${PORT}` }, (sql) => own(sql, tenant)))

suite.check('wrong password', (tenant) =>
  refused(using(tenant, { password: 'not it' }, (sql) => sql`SELECT 1`), '28P01'))

suite.check('connection parameters take effect, a gateway user\'s tenant among them', (tenant) => {
  const connection = { application_name: 'till 4', timezone: 'Asia/Tokyo', statement_timeout: 250, 'app.tenant_id': tenant }
  return using(tenant, { user: 'api', password: password('api'), connection }, async (sql) => {
    for (let n = 0; n < 5; n += 1) {
      await own(sql, tenant)
      assert.equal((await sql`SHOW timezone`)[0].TimeZone, 'Asia/Tokyo')
    }
    await refused(sql`SELECT pg_sleep(5)`, '57014')
    await own(sql, tenant)
  })
})

suite.check('a gateway user without a tenant is refused', (tenant) =>
  using(tenant, { user: 'api', password: password('api'), fetch_types: false }, async (sql) => {
    await refused(sql`SELECT count(*) FROM orders`, '28000')
    await refused(sql.unsafe('SELECT count(*) FROM orders'), '28000')
  }), { proxyOnly: true })

suite.check('the context cannot be changed by SQL (42501)', (tenant) => using(tenant, { max: 1 }, async (sql) => {
  await refused(sql.unsafe(`SET app.tenant_id = '${other(tenant)}'`), '42501')
  await refused(sql`SELECT set_config('app.tenant_id', ${other(tenant)}, false)`, '42501')
  await refused(sql`SELECT set_config(${'app.tenant_id'}, ${other(tenant)}, false)`, '42501')
  await own(sql, tenant)
}), { proxyOnly: true })

suite.check('prepared statements over several connections and both tenants', (tenant) => using(tenant, {}, (mine) =>
  using(other(tenant), {}, async (theirs) => {
    for (let round = 0; round < 5; round += 1) {
      await Promise.all(Array.from({ length: 12 }, async (_, n) => {
        const [sql, owner] = n % 2 ? [theirs, other(tenant)] : [mine, tenant]
        assert.deepEqual(await rows(sql`SELECT tenant_id, note FROM orders WHERE id = ${n + 1}`),
          [{ tenant_id: owner, note: `${owner}-${n + 1}` }])
        assert.equal((await sql`SELECT ${round}::int + ${n}::int AS n`)[0].n, round + n)
      }))
    }
  })))

suite.check('pipelining: fifty queries on one connection, errors among them', (tenant) => using(tenant, { max: 1 }, async (sql) => {
  const answers = await Promise.allSettled(Array.from({ length: 50 }, (_, n) =>
    sql`SELECT 60 / ${n % 5}::int AS n, (SELECT min(tenant_id) FROM orders) AS t`))
  answers.forEach((answer, n) => {
    assert.equal(answer.status, n % 5 ? 'fulfilled' : 'rejected', `query ${n}`)
    if (n % 5) assert.deepEqual({ ...answer.value[0] }, { n: Math.trunc(60 / (n % 5)), t: tenant })
    else assert.equal(answer.reason.code, '22012')
  })
  await own(sql, tenant)
}))

suite.check('without prepared statements', (tenant) => using(tenant, { prepare: false }, async (sql) => {
  await Promise.all(Array.from({ length: 20 }, async (_, n) => {
    assert.equal((await sql`SELECT note FROM orders WHERE id = ${n + 1}`)[0].note, `${tenant}-${n + 1}`)
  }))
  await own(sql, tenant)
}))

suite.check('several statements by unsafe and simple', (tenant) => using(tenant, {}, async (sql) => {
  const results = await sql.unsafe('SELECT 1 AS n; SELECT count(*)::int AS n FROM orders; SELECT 3 AS n')
  assert.deepEqual(results.map((result) => result[0].n), [1, TENANTS[tenant], 3])
  const simple = await sql`SELECT 4 AS n; SELECT 5 AS n`.simple()
  assert.deepEqual(simple.map((result) => result[0].n), [4, 5])
  await own(sql, tenant)
}))

suite.check('describe, forEach and a cursor', (tenant) => using(tenant, {}, async (sql) => {
  const described = await sql`SELECT id, note FROM orders WHERE id = ${1}::int`.describe()
  assert.deepEqual(described.columns.map((column) => column.name), ['id', 'note'])
  let seen = 0
  await sql`SELECT tenant_id FROM orders`.forEach((row) => {
    seen += 1
    assert.equal(row.tenant_id, tenant)
  })
  assert.equal(seen, TENANTS[tenant])
  seen = 0
  await sql`SELECT tenant_id FROM orders ORDER BY id`.cursor(7, (part) => {
    seen += part.length
    assert.ok(part.every((row) => row.tenant_id === tenant))
  })
  assert.equal(seen, TENANTS[tenant])
  for await (const part of sql`SELECT id FROM orders ORDER BY id`.cursor(5)) {
    assert.equal(part.length, 5)
    break
  }
  await own(sql, tenant)
}))

suite.check('types: json, arrays, bytea, dates', (tenant) => using(tenant, {}, async (sql) => {
  const when = new Date('2024-02-29T12:00:00Z')
  const [row] = await sql`SELECT ${sql.json({ a: [1, null] })}::jsonb AS j, ${[1, 2, 3]}::int[] AS a,
    ${Buffer.from([0, 255])}::bytea AS b, ${when}::timestamptz AS t, ${'busy'}::mood AS m`
  assert.deepEqual({ ...row }, { j: { a: [1, null] }, a: [1, 2, 3], b: Buffer.from([0, 255]), t: when, m: 'busy' })
}))

suite.check('a 6 MB value there and back', (tenant) => using(tenant, {}, async (sql) => {
  const text = '0123456789abcdef'.repeat(400_000)
  const [row] = await sql`SELECT md5(${text}::text) AS m, ${text}::text AS t`
  assert.equal(row.m, createHash('md5').update(text).digest('hex'))
  assert.ok(row.t === text)
}))

suite.check('errors carry SQLSTATE and constraint; the connection goes on', (tenant) => using(tenant, { max: 1 }, async (sql) => {
  await sql`DELETE FROM items`
  assert.equal((await refused(sql`SELECT nothing FROM orders`, '42703')).position, '8')
  await refused(sql.unsafe('SELEC 1'), '42601')
  await sql`INSERT INTO items (id) VALUES (1)`
  assert.equal((await refused(sql`INSERT INTO items (id) VALUES (${1})`, '23505')).constraint_name, 'items_pkey')
  await refused(sql`INSERT INTO items (tenant_id, id) VALUES (${other(tenant)}, 2)`, '42501')
  await own(sql, tenant)
  await sql`DELETE FROM items`
}))

suite.check('notices reach the connection that asked', async (tenant) => {
  const heard = []
  await using(tenant, { max: 1, onnotice: (notice) => heard.push(notice.message) }, async (sql) => {
    await sql`SELECT say(${tenant})`
    await own(sql, tenant)
  })
  assert.deepEqual(heard, [`heard ${tenant}`])
})

suite.check('transactions: commit, rollback, savepoints, pipelined', (tenant) => using(tenant, {}, async (sql) => {
  await sql`DELETE FROM items`
  await sql.begin('isolation level serializable', async (tx) => {
    await tx`INSERT INTO items (id) VALUES (1)`
    await refused(tx.savepoint(async (sp) => {
      await sp`INSERT INTO items (id) VALUES (2)`
      await sp`SELECT 1 / 0`
    }), '22012')
    await tx`INSERT INTO items (id) VALUES (3)`
    await own(tx, tenant)
  })
  await assert.rejects(sql.begin(async (tx) => {
    await tx`INSERT INTO items (id) VALUES (4)`
    throw new Error('changed my mind')
  }), /changed my mind/)
  await sql.begin((tx) => [tx`INSERT INTO items (id) VALUES (5)`, tx`INSERT INTO items (id) VALUES (6)`])
  assert.deepEqual((await sql`SELECT id FROM items WHERE tenant_id = ${tenant} ORDER BY id`).map((row) => row.id), [1, 3, 5, 6])
  const reserved = await sql.reserve()
  await own(reserved, tenant)
  reserved.release()
  await sql`DELETE FROM items`
}))

suite.check('COPY in and out by streams', (tenant) => using(tenant, {}, async (sql) => {
  await sql`DELETE FROM items`
  const lines = Array.from({ length: 5000 }, (_, n) => `${n}\t${n * 2}\tnote ${n}\n`)
  await flow(Readable.from(lines), await sql`COPY items_in (id, n, note) FROM STDIN`.writable())
  assert.equal((await sql`SELECT count(*)::int AS n FROM items`)[0].n, 5000)
  // More than a stream's 16 KiB at once stalls postgres.js 3.4 (it pauses a socket that nobody resumes), directly too.
  let text = ''
  for await (const chunk of await sql`COPY (SELECT tenant_id, id FROM items WHERE id < 900 ORDER BY id) TO STDOUT`.readable()) text += chunk
  assert.equal(text, Array.from({ length: 900 }, (_, n) => `${tenant}\t${n}\n`).join(''))
  await sql`DELETE FROM items`
  await own(sql, tenant)
}))

suite.check('cancel stops the running query, and only that', (tenant) => using(tenant, {}, (mine) =>
  using(other(tenant), {}, async (theirs) => {
    await Promise.all([own(mine, tenant), own(theirs, other(tenant))])
    const untouched = theirs`SELECT 5 AS n, pg_sleep(0.8)`
    untouched.execute()
    const query = mine`SELECT pg_sleep(10)`
    query.execute()
    const began = Date.now()
    await sleep(300)
    query.cancel()
    await refused(query, '57014')
    assert.ok(Date.now() - began < 4000, 'cancelled too late')
    assert.equal((await untouched)[0].n, 5)
    await own(mine, tenant)
  })))

await suite.run()
