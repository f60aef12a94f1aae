// Knex: a transaction for each request, begun by choosing the tenant.
import { reply, settings } from './node_common.mjs'

const { require, isGateway, max, connection } = settings
const knex = require('knex')

const open = (user, size) => knex({ client: 'pg', connection: connection(user), pool: { min: 0, max: size }, acquireConnectionTimeout: 30000 })
const shared = isGateway ? open('api', max) : null
const pools = isGateway ? {} : { acme: open('acme_app', max / 2), globex: open('globex_app', max / 2) }

reply((tenant, id) => (shared ?? pools[tenant]).transaction(async (trx) => {
  if (isGateway) await trx.raw("SELECT set_config('app.tenant_id', ?, true)", [tenant])
  const rows = await trx('orders').where('id', '<=', 10).orderBy('id').select('tenant_id', 'id', 'note')
  await trx('items').insert({ id, n: rows.length })
  return rows
}))
