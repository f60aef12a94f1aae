// The API of the README: node's http, node-postgres with one pool for all tenants, or one for each tenant's own login.
import { createRequire } from 'node:module'
import { createServer } from 'node:http'

const require = createRequire(process.env.APP_NODE)
const pg = require('pg')

const pool = (user, max) => new pg.Pool({
  host: '127.0.0.1', port: Number(process.env.DB_PORT), database: 'app', user, password: `${user}-secret`, max,
})
const isGateway = process.env.APP_USER === 'gateway'
const max = Number(process.env.APP_POOL)
const pools = isGateway ? {} : { acme: pool('acme_app', max / 2), globex: pool('globex_app', max / 2) }
const shared = isGateway ? pool('api', max) : null

async function handle(tenant, id) {
  const client = await (shared ?? pools[tenant]).connect()
  try {
    await client.query('BEGIN')
    if (isGateway) await client.query("SELECT set_config('app.tenant_id', $1, true)", [tenant])
    const rows = (await client.query('SELECT tenant_id, id, note FROM orders WHERE id <= $1 ORDER BY id', [10])).rows
    await client.query('INSERT INTO items (id, n) VALUES ($1, $2)', [id, rows.length])
    await client.query('COMMIT')
    client.release()
    return rows
  } catch (error) {
    client.release(error)
    throw error
  }
}

createServer(async (request, response) => {
  const [, tenant, id] = request.url.split('/')
  try {
    response.end(JSON.stringify({ rows: await handle(tenant, Number(id)) }))
  } catch (error) {
    response.statusCode = 500
    response.end(JSON.stringify({ error: `${error.code}: ${error.message}` }))
  }
}).listen(Number(process.env.APP_PORT), '127.0.0.1')
