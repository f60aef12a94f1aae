// Kysely: a transaction for each request, begun by choosing the tenant.
import { reply, settings } from './node_common.mjs'

const { require, isGateway, max, connection } = settings
const pg = require('pg')
const { Kysely, PostgresDialect, sql } = require('kysely')

const open = (user, size) => new Kysely({ dialect: new PostgresDialect({ pool: new pg.Pool({ ...connection(user), max: size }) }) })
const shared = isGateway ? open('api', max) : null
const pools = isGateway ? {} : { acme: open('acme_app', max / 2), globex: open('globex_app', max / 2) }

reply((tenant, id) => (shared ?? pools[tenant]).transaction().execute(async (trx) => {
  if (isGateway) await sql`SELECT set_config('app.tenant_id', ${tenant}, true)`.execute(trx)
  const rows = await trx.selectFrom('orders').select(['tenant_id', 'id', 'note']).where('id', '<=', 10).orderBy('id').execute()
  await trx.insertInto('items').values({ id, n: rows.length }).execute()
  return rows
}))
