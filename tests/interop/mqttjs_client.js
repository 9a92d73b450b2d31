// mqtt.js plays the scenario of tests/interop (see main.rs).
//
// Arguments: v31, v311 or v5; the ports of three nodes; a prefix for names.
'use strict'

const assert = require('node:assert')
const readline = require('node:readline')
const mqtt = require('mqtt')

const PATIENCE_MS = 30000
const PROTOCOLS = {
  v31: { protocolId: 'MQIsdp', protocolVersion: 3 },
  v311: { protocolId: 'MQTT', protocolVersion: 4 },
  v5: { protocolId: 'MQTT', protocolVersion: 5 }
}
const [version, ...rest] = process.argv.slice(2)
const [first, second, third] = rest.slice(0, 3).map(Number)
const prefix = rest[3]

function inTime (promise, what) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), PATIENCE_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

// One client, connected to one node; its messages wait until they are taken.
class Peer {
  static async connect (role, port, options = {}) {
    const deadline = Date.now() + PATIENCE_MS
    for (;;) {
      try {
        return await Peer.tryToConnect(role, port, options)
      } catch (error) {
        // A node that cannot reach the others for a moment says so.
        if (!/server unavailable/i.test(error.message) || Date.now() > deadline) throw error
        await new Promise(resolve => setTimeout(resolve, 100))
      }
    }
  }

  static async tryToConnect (role, port, { persistent = false, will }) {
    const peer = new Peer()
    peer.arrived = []
    peer.waiting = []
    peer.client = mqtt.connect({
      host: '127.0.0.1',
      port,
      clientId: `${prefix}-${role}`,
      clean: !persistent,
      reconnectPeriod: 0,
      properties: version === 'v5' ? { sessionExpiryInterval: persistent ? 600 : 0 } : undefined,
      will,
      ...PROTOCOLS[version]
    })
    peer.client.on('message', (topic, payload, packet) => {
      const message = { payload: payload.toString(), qos: packet.qos, retain: packet.retain }
      const waiting = peer.waiting.shift()
      waiting ? waiting(message) : peer.arrived.push(message)
    })
    const connected = new Promise((resolve, reject) => {
      peer.client.once('connect', resolve)
      peer.client.on('error', reject)
    })
    peer.sessionPresent = (await inTime(connected, `CONNACK for ${role}`)).sessionPresent
    return peer
  }

  async subscribe (filter, qos) {
    const [granted] = await inTime(this.client.subscribeAsync(filter, { qos }), 'SUBACK')
    assert.strictEqual(granted.qos, qos, filter)
  }

  publish (topic, payload, qos, retain = false) {
    return inTime(this.client.publishAsync(topic, payload, { qos, retain }), `${payload} to be taken`)
  }

  take () {
    const message = this.arrived.length
      ? Promise.resolve(this.arrived.shift())
      : new Promise(resolve => this.waiting.push(resolve))
    return inTime(message, 'a message')
  }

  // The messages that come next, in any order, as payload and QoS.
  async expect (expected) {
    const messages = []
    while (messages.length < expected.length) messages.push(await this.take())
    const found = messages.map(message => `${message.payload} ${message.qos}`)
    assert.deepStrictEqual(found.sort(), expected.sort())
    return messages
  }

  close () {
    return inTime(this.client.endAsync(), 'the end')
  }
}

async function qosMatrix (subscriber, publisher) {
  for (const granted of [0, 1, 2]) {
    const topic = `${prefix}/matrix/${granted}`
    await subscriber.subscribe(topic, granted)
    for (const qos of [0, 1, 2]) await publisher.publish(topic, `${qos}`, qos)
    await subscriber.expect([0, 1, 2].map(qos => `${qos} ${Math.min(qos, granted)}`))
  }
}

async function retained (subscriber, publisher) {
  const topic = `${prefix}/retained`
  await publisher.publish(topic, 'kept', 1, true)
  await subscriber.subscribe(topic, 1)
  const [kept] = await subscriber.expect(['kept 1'])
  assert(kept.retain, 'not marked as retained')
  await publisher.publish(topic, '', 1, true)
  const [live] = await subscriber.expect([' 1'])
  assert(!live.retain, 'a live message is marked as retained')
}

async function shared (publisher) {
  const topic = `${prefix}/shared`
  const members = [await Peer.connect('member-1', first), await Peer.connect('member-2', third)]
  for (const member of members) await member.subscribe(`$share/group/${topic}`, 1)
  const expected = Array.from({ length: 40 }, (_, number) => `${number}`)
  for (const payload of expected) await publisher.publish(topic, payload, 1)
  // What follows comes after all of the above to each of them.
  for (const member of members) await member.subscribe(`${topic}/end`, 1)
  await publisher.publish(`${topic}/end`, 'end', 1)
  const found = []
  for (const member of members) {
    const shares = []
    for (let last; (last = await member.take()).payload !== 'end';) shares.push(last.payload)
    assert(shares.length > 0, 'a member of the group got nothing')
    found.push(...shares)
    await member.close()
  }
  assert.deepStrictEqual(found.sort(), expected.sort())
}

async function will (subscriber) {
  const topic = `${prefix}/will`
  await subscriber.subscribe(topic, 1)
  const last = { topic, payload: Buffer.from('the will'), qos: 1, retain: false }
  const mortal = await Peer.connect('mortal', third, { will: last })
  mortal.client.stream.destroy()
  await subscriber.expect(['the will 1'])
}

async function untilKilled () {
  console.log('ready')
  const lines = readline.createInterface({ input: process.stdin })
  const line = await new Promise(resolve => lines.once('line', resolve))
  lines.close()
  assert.strictEqual(line, 'killed')
}

async function main () {
  let subscriber = await Peer.connect('subscriber', first, { persistent: true })
  assert(!subscriber.sessionPresent)
  const publisher = await Peer.connect('publisher', second)
  await qosMatrix(subscriber, publisher)
  await retained(subscriber, publisher)
  await shared(publisher)
  await will(subscriber)
  const topic = `${prefix}/queued`
  await subscriber.subscribe(topic, 2)
  await untilKilled()
  for (const number of [0, 1, 2]) {
    await publisher.publish(topic, `one-${number}`, 1)
    await publisher.publish(topic, `two-${number}`, 2)
  }
  subscriber = await Peer.connect('subscriber', third, { persistent: true })
  // 3.1 has no such flag.
  assert(subscriber.sessionPresent || version === 'v31', 'the session is lost')
  await subscriber.expect([0, 1, 2].flatMap(number => [`one-${number} 1`, `two-${number} 2`]))
  await publisher.publish(topic, 'live', 2)
  await subscriber.expect(['live 2'])
  await subscriber.close()
  await publisher.close()
  console.log('done')
}

main().then(() => process.exit(0), error => {
  console.error(error)
  process.exit(1)
})
