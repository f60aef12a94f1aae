// Prisma Client with its adapter for node-postgres: an interactive transaction for each request, begun by choosing the tenant.
import { reply, settings } from './node_common.mjs'

const { require, isGateway, max, connection } = settings
const { PrismaPg } = require('@prisma/adapter-pg')
const { PrismaClient } = require('./prisma/client')

// By default a transaction waits two seconds for a connection of the pool and is rolled back after five.
const transactionOptions = { maxWait: 30_000, timeout: 30_000 }
const open = (user, size) => new PrismaClient({ adapter: new PrismaPg({ ...connection(user), max: size }), transactionOptions })
const shared = isGateway ? open('api', max) : null
const pools = isGateway ? {} : { acme: open('acme_app', max / 2), globex: open('globex_app', max / 2) }

reply((tenant, id) => (shared ?? pools[tenant]).$transaction(async (tx) => {
  if (isGateway) await tx.$queryRaw`SELECT set_config('app.tenant_id', ${tenant}, true)`
  const rows = await tx.order.findMany({ where: { id: { lte: 10 } }, orderBy: { id: 'asc' } })
  await tx.item.create({ data: { id, n: rows.length } })
  return rows
}))
