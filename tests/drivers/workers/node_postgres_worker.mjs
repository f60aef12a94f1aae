// Does with node-postgres what with_workers.py asks for; the statements have names.
import { require, serve } from './worker.mjs'

const pg = require('pg')
const clients = {}

serve(async (what, name, word) => {
  if (what === 'open') {
    clients[name] = new pg.Client({
      host: '127.0.0.1', port: Number(process.env.DRIVERS_PORT), database: 'app', user: `${word}_app`, password: `${word}_app-secret`,
      connectionTimeoutMillis: 5000,
    })
    clients[name].on('error', () => {})
    await clients[name].connect()
    return {}
  }
  const client = clients[name]
  if (what === 'read') return (await client.query({ name: 'read', text: 'SELECT a FROM moving WHERE id = $1', values: [1] })).rows[0]
  if (what === 'star') return (await client.query({ name: 'star', text: 'SELECT * FROM moving WHERE id = $1', values: [1] })).rows[0]
  await client.query({ name: 'write', text: 'INSERT INTO moving (id, a) VALUES ($1, $2)', values: [Number(word), 42] })
  return {}
})
