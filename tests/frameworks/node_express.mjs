// An Express API on node-postgres: the tenant is in a JSON Web Token, in the header X-Tenant-ID or in the sub-domain.
import { settings } from './node_common.mjs'

const { require, isGateway, max, connection } = settings
const express = require('express')
const jwt = require('jsonwebtoken')
const pg = require('pg')

const open = (user, size) => new pg.Pool({ ...connection(user), max: size })
const shared = isGateway ? open('api', max) : null
const pools = isGateway ? {} : { acme: open('acme_app', max / 2), globex: open('globex_app', max / 2) }

/** Middleware: the tenant of the request, or 401. */
function identify(request, response, next) {
  const [, token] = request.get('Authorization')?.split('Bearer ') ?? []
  try {
    request.tenant = token
      ? jwt.verify(token, process.env.APP_TOKEN_SECRET, { algorithms: ['HS256'] }).tenant
      : request.get('X-Tenant-ID') ?? request.subdomains[0]
  } catch (error) {
    return response.status(401).json({ error: error.message })
  }
  return request.tenant ? next() : response.status(401).json({ error: 'no tenant' })
}

/** Runs `work` in a transaction of the tenant. */
async function withTenant(tenant, work) {
  const client = await (shared ?? pools[tenant]).connect()
  try {
    await client.query('BEGIN')
    if (isGateway) await client.query("SELECT set_config('app.tenant_id', $1, true)", [tenant])
    const result = await work(client)
    await client.query('COMMIT')
    client.release()
    return result
  } catch (error) {
    client.release(error)
    throw error
  }
}

const app = express()
app.use(identify)
app.get('/orders/:id', async (request, response) => {
  response.json({ rows: await withTenant(request.tenant, async (client) => {
    const { rows } = await client.query('SELECT tenant_id, id, note FROM orders WHERE id <= $1 ORDER BY id', [10])
    await client.query('INSERT INTO items (id, n) VALUES ($1, $2)', [request.params.id, rows.length])
    return rows
  }) })
})
app.use((error, request, response, _next) => response.status(500).json({ error: `${error.code}: ${error.message}` }))
app.listen(Number(process.env.APP_PORT), '127.0.0.1')
