// Drizzle on node-postgres: a transaction for each request, begun by choosing the tenant; the read is a prepared statement.
import { reply, settings } from './node_common.mjs'

const { require, isGateway, max, connection } = settings
const pg = require('pg')
const { asc, lte, sql } = require('drizzle-orm')
const { drizzle } = require('drizzle-orm/node-postgres')
const { integer, pgTable, text } = require('drizzle-orm/pg-core')

const orders = pgTable('orders', { tenant_id: text().notNull(), id: integer().notNull(), note: text() })
const items = pgTable('items', {
  tenant_id: text().notNull().default(sql`NULLIF(current_setting('app.tenant_id', true), '')`),
  id: integer().notNull(),
  n: integer().notNull().default(0),
})

const open = (user, size) => drizzle({ client: new pg.Pool({ ...connection(user), max: size }) })
const shared = isGateway ? open('api', max) : null
const pools = isGateway ? {} : { acme: open('acme_app', max / 2), globex: open('globex_app', max / 2) }

reply((tenant, id) => (shared ?? pools[tenant]).transaction(async (tx) => {
  if (isGateway) await tx.execute(sql`SELECT set_config('app.tenant_id', ${tenant}, true)`)
  const first = tx.select().from(orders).where(lte(orders.id, sql.placeholder('last'))).orderBy(asc(orders.id)).prepare('first_orders')
  const rows = await first.execute({ last: 10 })
  await tx.insert(items).values({ id, n: rows.length })
  return rows
}))
