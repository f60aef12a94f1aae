// What the node workers share: a line of words comes in, a line of JSON goes out.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

export const require = createRequire(process.env.DRIVERS_NODE)

export async function serve(act) {
  for await (const line of createInterface({ input: process.stdin })) {
    let told
    try {
      const values = await act(...line.split(' '))
      told = { values: Object.fromEntries(Object.entries(values).map(([key, value]) => [key, String(value)])) }
    } catch (error) {
      told = { error: error.code ?? error.name, text: error.message }
    }
    console.log(JSON.stringify(told))
  }
  process.exit(0)
}
