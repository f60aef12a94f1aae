// What the node scripts share: who they are, how a check is told. The twin of checks.py.
import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'
import assert from 'node:assert/strict'

// Packages live under target/drivers/node, not beside these scripts.
export const require = createRequire(process.env.DRIVERS_NODE)
export const TENANTS = { acme: 120, globex: 80 }
export const PORT = Number(process.env.DRIVERS_PORT)
export const DIRECT = process.env.DRIVERS_DIRECT === '1'
export const TMP = process.env.DRIVERS_TMP
export const SOCKETS = process.env.DRIVERS_SOCKETS
export const CA = readFileSync(process.env.DRIVERS_CA, 'utf8')
export const WHOSE = 'SELECT tenant_id, count(*)::int AS count FROM orders GROUP BY tenant_id ORDER BY 1'
const LIMIT = 10_000 // milliseconds for one check

export const user = (tenant) => `${tenant}_app`
export const password = (name) => `${name}-secret`
export const other = (tenant) => (tenant === 'acme' ? 'globex' : 'acme')
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms))

/** Waits for a promise to fail with this SQLSTATE and gives the error. */
export async function refused(promise, code) {
  try {
    await promise
  } catch (error) {
    assert.equal(error.code, code, `SQLSTATE (${error.message})`)
    return error
  }
  throw new assert.AssertionError({ message: `${code} expected, nothing refused` })
}

export class Suite {
  checks = []
  constructor(driver) {
    this.driver = driver
  }

  check(name, run, { proxyOnly = false } = {}) {
    this.checks.push({ name, run, proxyOnly })
  }

  async run() {
    let failed = 0
    process.on('unhandledRejection', (error) => console.log(`unhandled: ${error.message}`))
    for (const { name, run, proxyOnly } of this.checks) {
      for (const tenant of Object.keys(TENANTS)) {
        if (proxyOnly && DIRECT) {
          this.tell('skip', tenant, `${name}: only through the proxy`)
          continue
        }
        const problem = await attempt(run, tenant)
        if (problem) failed += 1
        this.tell(problem ? 'FAIL' : 'ok', tenant, problem ? `${name}: ${problem}` : name)
      }
    }
    process.exit(failed ? 1 : 0)
  }

  tell(verdict, tenant, text) {
    console.log(`${verdict.padEnd(4)} ${this.driver.padEnd(13)} ${tenant.padEnd(7)} ${text.replace(/\s+/g, ' ')}`)
  }
}

async function attempt(run, tenant) {
  let timer
  const tooLong = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error(`not done within ${LIMIT / 1000} s`)), LIMIT)
  })
  try {
    await Promise.race([run(tenant), tooLong])
  } catch (error) {
    const place = /(with_\w+\.mjs:\d+)/.exec(error.stack ?? '')
    return `${error.name} ${error.code ?? ''}: ${error.message}${place ? ` (${place[1]})` : ''}`.slice(0, 600)
  } finally {
    clearTimeout(timer)
  }
  return null
}
