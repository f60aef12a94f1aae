// What the node applications share: their settings, and an HTTP server around one function.
import { createRequire } from 'node:module'
import { createServer } from 'node:http'

export const settings = {
  require: createRequire(process.env.APP_NODE),
  isGateway: process.env.APP_USER === 'gateway',
  max: Number(process.env.APP_POOL),
  connection: (user) => ({ host: '127.0.0.1', port: Number(process.env.DB_PORT), database: 'app', user, password: `${user}-secret` }),
}

/** GET /TENANT/ID answers with the rows that `handle` gives, or with its error. */
export function reply(handle) {
  createServer(async (request, response) => {
    const [, tenant, id] = request.url.split('/')
    try {
      response.end(JSON.stringify({ rows: await handle(tenant, Number(id)) }))
    } catch (error) {
      const cause = error.cause ?? error // Drizzle wraps it
      response.statusCode = 500
      response.end(JSON.stringify({ error: `${cause.code}: ${cause.message}` }))
    }
  }).listen(Number(process.env.APP_PORT), '127.0.0.1')
}
