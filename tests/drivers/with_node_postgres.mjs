// node-postgres (pg): named statements, pool, cursor, COPY, errors, cancel, TLS.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { pipeline as flow } from 'node:stream/promises'
import { Readable } from 'node:stream'
import { readFileSync } from 'node:fs'
import { CA, PORT, SOCKETS, Suite, TENANTS, TMP, WHOSE, other, password, refused, require, sleep, user } from './checks.mjs'

const pg = require('pg')
const Cursor = require('pg-cursor')
const copy = require('pg-copy-streams')
const suite = new Suite('node-postgres')

const login = (tenant, more = {}) => ({
  host: '127.0.0.1', port: PORT, database: 'app', user: user(tenant), password: password(user(tenant)),
  connectionTimeoutMillis: 5000, ...more,
})

async function using(tenant, more, work) {
  const client = new pg.Client(login(tenant, more))
  client.on('error', () => {})
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

async function own(client, tenant) {
  assert.deepEqual((await client.query(WHOSE)).rows, [{ tenant_id: tenant, count: TENANTS[tenant] }])
}

suite.check('logs in and sees its own rows only', (tenant) => using(tenant, {}, async (c) => {
  await own(c, tenant)
  const { rows } = await c.query('SELECT count(*)::int AS n FROM orders WHERE tenant_id = $1', [other(tenant)])
  assert.equal(rows[0].n, 0)
}))

suite.check('TLS with the certificate verified', (tenant) =>
  using(tenant, { host: 'localhost', ssl: { ca: CA } }, async (c) => {
    assert.ok(c.connection.stream.encrypted)
    await own(c, tenant)
  }))

suite.check('TLS with channel binding (SCRAM-SHA-256-PLUS)', (tenant) =>
  using(tenant, { host: 'localhost', ssl: { ca: CA }, enableChannelBinding: true }, (c) => own(c, tenant)))

suite.check('direct TLS by ALPN', (tenant) =>
  using(tenant, { host: 'localhost', ssl: { ca: CA }, sslnegotiation: 'direct' }, (c) => own(c, tenant)),
{ proxyOnly: true })

suite.check('unix socket', (tenant) => using(tenant, { host: SOCKETS }, (c) => own(c, tenant)))

suite.check('wrong password and unknown user', async (tenant) => {
  await refused(using(tenant, { password: 'not it' }, async () => {}), '28P01')
  await refused(using(tenant, { user: 'nobody', password: 'not it' }, async () => {}), '28P01')
})

const read = (name) => readFileSync(`${TMP}/${name}`, 'utf8')
const certified = (user, files) => ({
  host: 'localhost', user, password: 'none', ssl: { ca: CA, ...(files ? { cert: read(`${files}.crt`), key: read(`${files}.key`) } : {}) },
})

suite.check('client certificate: the user by its common name, the tenant by its URI', async (tenant) => {
  await using(tenant, certified(`${tenant}_robot`, `${tenant}-robot`), (c) => own(c, tenant))
  await using(tenant, certified('fleet', `${tenant}-robot`), async (c) => {
    await own(c, tenant)
    await refused(c.query(`SET app.tenant_id = '${other(tenant)}'`), '28000')
  })
  for (const files of [undefined, `${other(tenant)}-robot`]) {
    // Asked for what any user may be asked for: a password, or OAUTHBEARER, which this driver does not know.
    await assert.rejects(using(tenant, certified(`${tenant}_robot`, files), async () => {}),
      (error) => error.code === '28P01' || /SASL: Only mechanism/.test(error.message))
  }
  await refused(using(tenant, certified(`fleet.${other(tenant)}`, `${tenant}-robot`), async () => {}), '28000')
  await assert.rejects(using(tenant, certified(`${tenant}_robot`, `stranger-${tenant}`), async () => {}))
}, { proxyOnly: true })

suite.check('JSON Web Token as the password', async (tenant) => {
  const bearer = (name, user = 'bearer') => ({ host: 'localhost', user, password: read(`${name}.jwt`), ssl: { ca: CA } })
  await using(tenant, bearer(tenant), (c) => own(c, tenant))
  await refused(using(tenant, bearer(`expired-${tenant}`), async () => {}), '28P01')
  await refused(using(tenant, bearer(`stranger-${tenant}`), async () => {}), '28P01')
  await refused(using(tenant, bearer(other(tenant), `bearer.${tenant}`), async () => {}), '28000')
  await refused(using(tenant, { ...bearer(tenant), ssl: false }, async () => {}), '28P01')
}, { proxyOnly: true })

suite.check('startup parameters take effect, a gateway user\'s tenant among them', (tenant) => {
  const gateway = { user: 'api', password: password('api'), options: `-c app.tenant_id=${tenant} -c TimeZone=Asia/Tokyo` }
  return using(tenant, { ...gateway, statement_timeout: 250, application_name: 'till 3' }, async (c) => {
    for (let n = 0; n < 3; n += 1) {
      await own(c, tenant)
      assert.equal((await c.query('SHOW timezone')).rows[0].TimeZone, 'Asia/Tokyo')
    }
    await refused(c.query('SELECT pg_sleep(5)'), '57014')
    await own(c, tenant)
  })
})

suite.check('a gateway user without or with an unknown tenant is refused', async (tenant) => {
  const api = { user: 'api', password: password('api') }
  await using(tenant, api, async (c) => {
    await refused(c.query('SELECT count(*) FROM orders'), '28000')
    await refused(c.query('SELECT note FROM orders WHERE id = $1', [1]), '28000')
  })
  await assert.rejects(using(tenant, { ...api, user: 'api.nobody' }, async () => {}),
    (error) => ['28000', '28P01'].includes(error.code))
}, { proxyOnly: true })

suite.check('the context cannot be changed by SQL (42501)', (tenant) => using(tenant, {}, async (c) => {
  await refused(c.query(`SET app.tenant_id = '${other(tenant)}'`), '42501')
  await refused(c.query(`SELECT set_config('app.tenant_id', '${other(tenant)}', false)`), '42501')
  await refused(c.query('SELECT set_config($1, $2, false)', ['app.tenant_id', other(tenant)]), '42501')
  await own(c, tenant)
}), { proxyOnly: true })

suite.check('named statements: the same name with other SQL in four clients', async (tenant) => {
  const owners = [tenant, other(tenant), tenant, other(tenant)]
  const clients = owners.map((owner) => new pg.Client(login(owner)))
  await Promise.all(clients.map((c) => c.connect()))
  try {
    for (let round = 0; round < 6; round += 1) {
      await Promise.all(clients.map(async (c, at) => {
        const sum = await c.query({ name: 'shared', text: `SELECT $1::int + ${at} AS n`, values: [round] })
        assert.equal(sum.rows[0].n, round + at)
        const row = await c.query({ name: 'row', text: 'SELECT tenant_id, note FROM orders WHERE id = $1', values: [at + 1] })
        assert.deepEqual(row.rows, [{ tenant_id: owners[at], note: `${owners[at]}-${at + 1}` }])
      }))
    }
    await refused(clients[0].query({ name: 'broken', text: 'SELEC 1' }), '42601')
    assert.equal((await clients[0].query({ name: 'broken2', text: 'SELECT 1 AS n' })).rows[0].n, 1)
  } finally {
    await Promise.all(clients.map((c) => c.end()))
  }
})

suite.check('a pool of four serves sixty queries at once', async (tenant) => {
  const pools = [tenant, other(tenant)].map((owner) => new pg.Pool({ ...login(owner), max: 4 }))
  try {
    await Promise.all(Array.from({ length: 60 }, async (_, n) => {
      const owner = n % 2 ? other(tenant) : tenant
      const { rows } = await pools[n % 2].query('SELECT tenant_id, id FROM orders WHERE id = $1', [n + 1])
      assert.deepEqual(rows, [{ tenant_id: owner, id: n + 1 }])
      await own(pools[n % 2], owner)
    }))
  } finally {
    await Promise.all(pools.map((p) => p.end()))
  }
})

suite.check('several statements in one query, and an empty one', (tenant) => using(tenant, {}, async (c) => {
  const results = await c.query('SELECT 1 AS n; SELECT count(*)::int AS n FROM orders; SELECT 3 AS n')
  assert.deepEqual(results.map((r) => r.rows[0].n), [1, TENANTS[tenant], 3])
  await c.query('')
  await c.query({ text: '', values: [] })
  await own(c, tenant)
}))

suite.check('a cursor and a row limit walk a portal in portions', (tenant) => using(tenant, {}, async (c) => {
  const cursor = c.query(new Cursor('SELECT tenant_id, id FROM orders WHERE id > $1 ORDER BY id', [0]))
  const seen = []
  for (let rows = await cursor.read(7); rows.length; rows = await cursor.read(7)) seen.push(...rows)
  assert.equal(seen.length, TENANTS[tenant])
  assert.ok(seen.every((row, at) => row.tenant_id === tenant && row.id === at + 1))
  await cursor.close()
  const half = c.query(new Cursor('SELECT id FROM orders ORDER BY id'))
  assert.equal((await half.read(5)).length, 5)
  await half.close()
  assert.equal((await c.query({ text: 'SELECT id FROM orders', rows: 10 })).rows.length, TENANTS[tenant])
  await own(c, tenant)
}))

suite.check('types: json, arrays, bytea, dates, numbers', (tenant) => using(tenant, {}, async (c) => {
  const when = new Date('2024-02-29T12:00:00Z')
  const { rows } = await c.query(
    'SELECT $1::jsonb AS j, $2::int[] AS a, $3::bytea AS b, $4::timestamptz AS t, $5::numeric AS n, $6::mood AS m',
    [{ a: [1, null] }, [1, 2, 3], Buffer.from([0, 255, 1]), when, '12.50', 'busy'])
  assert.deepEqual(rows[0], { j: { a: [1, null] }, a: [1, 2, 3], b: Buffer.from([0, 255, 1]), t: when, n: '12.50', m: 'busy' })
}))

suite.check('a 6 MB value there and back', (tenant) => using(tenant, {}, async (c) => {
  const text = '0123456789abcdef'.repeat(400_000)
  const { rows } = await c.query('SELECT md5($1::text) AS m, $1::text AS t', [text])
  assert.equal(rows[0].m, createHash('md5').update(text).digest('hex'))
  assert.ok(rows[0].t === text)
}))

suite.check('errors carry SQLSTATE, position and constraint; the client goes on', (tenant) => using(tenant, {}, async (c) => {
  await c.query('DELETE FROM items')
  assert.equal((await refused(c.query('SELECT nothing FROM orders'), '42703')).position, '8')
  assert.equal((await refused(c.query('SELECT nothing FROM orders WHERE id = $1', [1]), '42703')).position, '8')
  await refused(c.query('SELECT 1 / $1::int', [0]), '22012')
  await c.query('INSERT INTO items (id) VALUES (1)')
  assert.equal((await refused(c.query('INSERT INTO items (id) VALUES ($1)', [1]), '23505')).constraint, 'items_pkey')
  await refused(c.query('INSERT INTO items (tenant_id, id) VALUES ($1, 2)', [other(tenant)]), '42501')
  await own(c, tenant)
  await c.query('DELETE FROM items')
}))

suite.check('queued queries: an error spoils only its own', (tenant) => using(tenant, {}, async (c) => {
  const answers = await Promise.allSettled(Array.from({ length: 30 }, (_, n) => c.query('SELECT 12 / $1::int AS n', [n % 4])))
  answers.forEach((answer, n) => assert.equal(answer.status, n % 4 ? 'fulfilled' : 'rejected', `query ${n}`))
  await own(c, tenant)
}))

suite.check('notices reach the client that asked', (tenant) => using(tenant, {}, async (c) => {
  const heard = []
  c.on('notice', (notice) => heard.push(notice.message))
  await c.query('SELECT say($1)', [tenant])
  await c.query("SELECT say('again')")
  await own(c, tenant)
  assert.deepEqual(heard, [`heard ${tenant}`, 'heard again'])
}))

suite.check('transactions: commit, rollback, savepoints', (tenant) => using(tenant, {}, async (c) => {
  await c.query('DELETE FROM items')
  await c.query('BEGIN ISOLATION LEVEL SERIALIZABLE')
  await c.query('INSERT INTO items (id) VALUES (1)')
  await c.query('SAVEPOINT s')
  await refused(c.query('SELECT 1 / 0'), '22012')
  await refused(c.query('SELECT 1'), '25P02')
  await c.query('ROLLBACK TO s')
  await c.query('INSERT INTO items (id) VALUES ($1)', [2])
  await own(c, tenant)
  await c.query('COMMIT')
  await c.query('BEGIN')
  await c.query('INSERT INTO items (id) VALUES (3)')
  await c.query('ROLLBACK')
  assert.deepEqual((await c.query('SELECT tenant_id, id FROM items ORDER BY id')).rows,
    [{ tenant_id: tenant, id: 1 }, { tenant_id: tenant, id: 2 }])
  await c.query('DELETE FROM items')
}))

suite.check('COPY in and out by streams', (tenant) => using(tenant, {}, async (c) => {
  await c.query('DELETE FROM items')
  const lines = Array.from({ length: 5000 }, (_, n) => `${n}\t${n * 2}\tnote ${n}\n`)
  await flow(Readable.from(lines), c.query(copy.from('COPY items_in (id, n, note) FROM STDIN')))
  let text = ''
  for await (const chunk of c.query(copy.to('COPY (SELECT tenant_id, id FROM items ORDER BY id) TO STDOUT'))) text += chunk
  assert.equal(text, Array.from({ length: 5000 }, (_, n) => `${tenant}\t${n}\n`).join(''))
  await refused(flow(Readable.from(['1\tnot a number\n']), c.query(copy.from('COPY items_in (id, n) FROM STDIN'))), '22P02')
  await c.query('DELETE FROM items')
  await own(c, tenant)
}))

suite.check('cancel stops the running query, and only that', (tenant) => using(tenant, {}, async (c) => {
  await using(other(tenant), {}, async (neighbour) => {
    const untouched = neighbour.query('SELECT 5 AS n, pg_sleep(0.8)')
    const began = Date.now()
    // pg's public call takes the Query object, which a promise hides.
    const query = new pg.Query('SELECT pg_sleep(10)')
    const ended = new Promise((done, fail) => {
      query.on('error', fail)
      query.on('end', done)
    })
    c.query(query)
    await sleep(300)
    const messenger = new pg.Client(login(tenant))
    messenger.connection.on('error', () => {})
    messenger.cancel(c, query)
    await refused(ended, '57014')
    assert.ok(Date.now() - began < 4000, 'cancelled too late')
    assert.equal((await untouched).rows[0].n, 5)
    await own(c, tenant)
    await own(neighbour, other(tenant))
  })
}))

suite.check('a destroyed socket leaves nothing and frees its server', (tenant) => using(tenant, {}, async (c) => {
  await c.query('DELETE FROM items')
  for (let n = 0; n < 4; n += 1) {
    const gone = new pg.Client(login(tenant))
    gone.on('error', () => {})
    await gone.connect()
    await gone.query('BEGIN; INSERT INTO items (id) VALUES (1)')
    gone.query('SELECT pg_sleep(15)').catch(() => {})
    await sleep(50)
    gone.connection.stream.destroy()
  }
  const began = Date.now()
  assert.equal((await c.query('SELECT count(*)::int AS n FROM items')).rows[0].n, 0)
  assert.ok(Date.now() - began < 3000, 'waited for servers that nobody uses')
}), { proxyOnly: true })

await suite.run()
