// An upsert as it is usually written in Node: Fastify, JSON schema, pg. Started as: node server.js HOST PORT
'use strict'

const { createHash, randomUUID, timingSafeEqual } = require('node:crypto')
const fastify = require('fastify')
const { Pool, types } = require('pg')

const OBJECT_KEY = 'car'
const [host, port] = process.argv.slice(2)
const digest = (text) => createHash('sha256').update(text).digest()
const expected = digest(`${process.env.PEER_USER}:${process.env.PEER_TOKEN}`)

types.setTypeParser(types.builtins.INT8, Number)
const pool = new Pool({ max: 20, idleTimeoutMillis: 0 }) // the address comes from PGHOST and its kin

const UPSERT = `
insert into fastify_records as r (account_id, object_id, record_id, created_by_user_id, updated_by_user_id,
       definition_version, naming, name, external_id, fields)
values ($1, $2, $3, $4, $4, $5, $6, $7, $8, $9)
    on conflict (account_id, object_id, external_id) where external_id is not null
    do update set name = excluded.name, fields = r.fields || excluded.fields, version = r.version + 1,
                  updated_at = now(), updated_by_user_id = excluded.updated_by_user_id
returning record_id, name, external_id, fields, created_at, updated_at, created_by_user_id, updated_by_user_id,
          xmax = 0 as is_new` // only a row that was inserted just now has no xmax

const text = { type: 'string', nullable: true }
const fields = {
  type: 'object',
  additionalProperties: false,
  properties: {
    maker: text,
    plate: { type: 'string', nullable: true, pattern: '^[A-Z]{1,3}-[A-Z]{1,2} [0-9]{1,4}$' },
    notes: text,
    mileage: { type: 'integer', nullable: true, exclusiveMinimum: -(10 ** 12), exclusiveMaximum: 10 ** 12 },
    price: { type: 'number', nullable: true, exclusiveMinimum: -1e15, exclusiveMaximum: 1e15 },
    electric: { type: 'boolean', nullable: true },
    registered_on: { type: 'string', nullable: true, format: 'date' },
    color: { type: 'string', nullable: true, enum: ['red', 'green', 'blue', 'black', 'white', null] }
  }
}

const schema = {
  querystring: {
    type: 'object',
    required: ['external_id'],
    properties: { external_id: { type: 'string', minLength: 1, maxLength: 255 } }
  },
  body: {
    type: 'object',
    required: ['custom_object_record'],
    properties: {
      custom_object_record: {
        type: 'object',
        required: ['name', 'custom_object_fields'],
        properties: { name: { type: 'string', minLength: 1, maxLength: 255 }, custom_object_fields: fields }
      }
    }
  },
  response: {
    200: {
      type: 'object',
      properties: {
        custom_object_record: {
          type: 'object',
          properties: {
            url: { type: 'string' },
            id: { type: 'string' },
            name: { type: 'string' },
            external_id: text,
            custom_object_key: { type: 'string' },
            custom_object_fields: fields,
            photo: { type: 'null' },
            created_at: { type: 'string' },
            updated_at: { type: 'string' },
            created_by_user_id: { type: 'string' },
            updated_by_user_id: { type: 'string' }
          }
        }
      }
    }
  }
}

const timeText = (moment) => moment.toISOString().slice(0, 19) + 'Z'

const answered = (request, record) => ({
  url: `${request.protocol}://${request.host}/api/v2/custom_objects/${OBJECT_KEY}/records/${record.record_id}.json`,
  id: record.record_id,
  name: record.name,
  external_id: record.external_id,
  custom_object_key: OBJECT_KEY,
  custom_object_fields: record.fields,
  photo: null,
  created_at: timeText(record.created_at),
  updated_at: timeText(record.updated_at),
  created_by_user_id: String(record.created_by_user_id),
  updated_by_user_id: String(record.updated_by_user_id)
})

async function authenticate (request, reply) {
  const [kind, credential = ''] = (request.headers.authorization || '').split(' ')
  const sent = digest(Buffer.from(credential, 'base64').toString())
  if (kind !== 'Basic' || !timingSafeEqual(sent, expected)) {
    return reply.code(401).send({ error: "Couldn't authenticate you" })
  }
}

const app = fastify({ ajv: { customOptions: { coerceTypes: false, removeAdditional: false } } })

app.setErrorHandler((error, request, reply) => {
  if (error.validation) {
    return reply.code(422).send({ error: 'RecordInvalid', description: error.message })
  }
  return reply.send(error)
})

app.get('/readyz', async () => ({ ready: true }))

async function start () {
  const found = await pool.query('select * from objects where key = $1 and deleted_at is null', [OBJECT_KEY])
  const owner = found.rows[0]
  app.patch(`/api/v2/custom_objects/${OBJECT_KEY}/records`, { schema, onRequest: authenticate }, async (request, reply) => {
    const { name, custom_object_fields: sent } = request.body.custom_object_record
    const { rows } = await pool.query({
      name: 'upsert',
      text: UPSERT,
      values: [owner.account_id, owner.object_id, randomUUID(), owner.created_by_user_id, owner.version,
        owner.naming, name, request.query.external_id, sent]
    })
    reply.header('Upsert-Result', rows[0].is_new ? 'created' : 'updated')
    return { custom_object_record: answered(request, rows[0]) }
  })
  await app.listen({ host, port: Number(port) })
}

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.once(signal, async () => {
    await app.close()
    await pool.end()
  })
}

start()
