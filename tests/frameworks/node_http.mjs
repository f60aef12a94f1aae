// The API of the README: node-postgres with one pool for all tenants, or one for each tenant's own login.
import { reply, settings } from './node_common.mjs'

const { require, isGateway, max, connection } = settings
const pg = require('pg')

const open = (user, size) => new pg.Pool({ ...connection(user), max: size })
const shared = isGateway ? open('api', max) : null
const pools = isGateway ? {} : { acme: open('acme_app', max / 2), globex: open('globex_app', max / 2) }

reply(async (tenant, id) => {
  const client = await (shared ?? pools[tenant]).connect()
  try {
    await client.query('BEGIN')
    if (isGateway) await client.query("SELECT set_config('app.tenant_id', $1, true)", [tenant])
    const { rows } = await client.query('SELECT tenant_id, id, note FROM orders WHERE id <= $1 ORDER BY id', [10])
    await client.query('INSERT INTO items (id, n) VALUES ($1, $2)', [id, rows.length])
    await client.query('COMMIT')
    client.release()
    return rows
  } catch (error) {
    client.release(error)
    throw error
  }
})
