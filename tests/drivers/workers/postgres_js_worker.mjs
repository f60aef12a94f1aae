// Does with postgres.js what with_workers.py asks for; it prepares every statement.
import { require, serve } from './worker.mjs'

const postgres = require('postgres')
const clients = {}

serve(async (what, name, word) => {
  if (what === 'open') {
    clients[name] = postgres({
      host: '127.0.0.1', port: Number(process.env.DRIVERS_PORT), database: 'app', user: `${word}_app`, password: `${word}_app-secret`,
      max: 1, connect_timeout: 5, onnotice: () => {},
    })
    return {}
  }
  const sql = clients[name]
  if (what === 'read') return (await sql`SELECT a FROM moving WHERE id = ${1}`)[0]
  if (what === 'star') return (await sql`SELECT * FROM moving WHERE id = ${1}`)[0]
  await sql`INSERT INTO moving (id, a) VALUES (${Number(word)}, ${42})`
  return {}
})
