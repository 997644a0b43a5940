// enqueue in transactions of nine packages. Committed messages are stored, and others are not.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { drizzle } from 'drizzle-orm/node-postgres';
import { drizzle as drizzleJs } from 'drizzle-orm/postgres-js';
import knexModule from 'knex';
import pg from 'pg';
import postgres from 'postgres';

import { enqueue, enqueueMany, enqueueStatement, InvalidError, message, Outbox, Reader, transaction } from '../dist/index.mjs';
import { ConcurrencyError, EventStore, NO_STREAM } from '../dist/events.mjs';
import { assertEnqueued, assertNotEnqueued, enqueuedMessages, settled } from '../dist/testing.mjs';
import { startServer } from './server.mjs';

let server;
let pool;
let dsn;
before(async () => {
    server = await startServer();
    dsn = await server.database();
    pool = new pg.Pool({ connectionString: dsn });
    await pool.query('create table orders (id int primary key, amount numeric not null)');
});
after(async () => {
    await pool?.end();
    await server?.end();
});

const stored = async (id) => (await pool.query('select topic, key, payload from outbox.message where id = $1', [id])).rows[0];
const orderExists = async (id) => (await pool.query('select 1 from orders where id = $1', [id])).rowCount === 1;

class Undo extends Error {}

const store = new EventStore();
const EVENTS = [{ type: 'a.b', data: { text: 'it\'s ?$1 {"}' } }, { type: 'a.c', data: null }];

/** `begin(body)` runs body in a transaction and rolls back if it throws. `insert(tx, id)` inserts the business row. */
async function joins(name, begin, insert, n) {
    let committed;
    await begin(async (tx) => {
        await insert(tx, n);
        committed = await enqueue(tx, { topic: `order.${name}`, payload: { order: n, note: "it's ?$1" }, key: `order-${n}` });
        await assertEnqueued(tx, { topic: `order.${name}`, key: `order-${n}`, payload: { order: n } });
        await assertNotEnqueued(tx, { topic: 'order.other' });
        await assert.rejects(assertEnqueued(tx, { topic: 'order.other' }), { code: 'ERR_ASSERTION' });
        assert.equal((await pool.query('select 1 from outbox.message where id = $1', [committed])).rowCount, 0, 'nobody else sees it yet');
        await store.append(tx, `${name}-${n}`, EVENTS, NO_STREAM);
        assert.deepEqual((await store.load(tx, `${name}-${n}`)).map(({ data }) => data), EVENTS.map(({ data }) => data));
    });
    assert.equal(typeof committed, 'number');
    assert.deepEqual(await stored(committed), { topic: `order.${name}`, key: `order-${n}`, payload: { order: n, note: "it's ?$1" } });
    assert.ok(await orderExists(n));

    let undone;
    await assert.rejects(
        begin(async (tx) => {
            await insert(tx, n + 1);
            undone = await enqueue(tx, { topic: `order.${name}`, payload: { order: n + 1 } });
            await store.append(tx, `${name}-${n}`, EVENTS, EVENTS.length);
            throw new Undo();
        }),
        (error) => error instanceof Undo || error.cause instanceof Undo,
    );
    assert.equal(await stored(undone), undefined, 'what was rolled back was not enqueued');
    assert.ok(!(await orderExists(n + 1)));

    assert.equal(await new Outbox(pool).streamVersion({ stream: `${name}-${n}` }), EVENTS.length, 'what was rolled back was not appended');

    // Every driver leads to typed errors.
    await assert.rejects(begin((tx) => store.append(tx, `${name}-${n}`, EVENTS, NO_STREAM)), (error) => {
        assert.ok(error instanceof ConcurrencyError, `${name}: ${error?.constructor?.name} ${error?.message}`);
        assert.deepEqual([error.stream, error.expected], [`${name}-${n}`, 0]);
        assert.ok(error.actual === EVENTS.length || (name.startsWith('prisma') && error.actual === undefined), `${name}: ${error.actual}`);
        return true;
    });
    await assert.rejects(
        begin((tx) => enqueue(tx, { topic: 'not a topic', payload: 1 })),
        (error) => {
            assert.ok(error instanceof InvalidError, `${name}: ${error?.constructor?.name} ${error?.message}`);
            assert.equal(error.code, '22023');
            assert.equal(error.kind, 'invalid');
            assert.equal(error.codeName, 'invalid_parameter');
            assert.match(error.message, /malformed topic/);
            return true;
        },
    );
}

test('pg', async () => {
    const begin = async (body) => {
        const client = await pool.connect();
        try {
            await client.query('begin');
            const result = await body(client);
            await client.query('commit');
            return result;
        } catch (error) {
            await client.query('rollback');
            throw error;
        } finally {
            client.release();
        }
    };
    await joins('pg', begin, (tx, id) => tx.query('insert into orders values ($1, 1)', [id]), 100);
    await joins('pg_transaction', (body) => transaction(pool, body), (tx, id) => tx.query('insert into orders values ($1, 1)', [id]), 110);
});

test('postgres', async () => {
    const sql = postgres(dsn, { max: 3, onnotice: () => {} });
    await joins('postgres', (body) => sql.begin(body), (tx, id) => tx`insert into orders values (${id}, 1)`, 200);
    await joins('postgres_transaction', (body) => transaction(sql, body), (tx, id) => tx`insert into orders values (${id}, 1)`, 210);
    await sql.end();
});

test('Knex', async () => {
    const knex = knexModule({ client: 'pg', connection: dsn, pool: { min: 0, max: 3 } });
    await joins('knex', (body) => knex.transaction(body), (tx, id) => tx('orders').insert({ id, amount: 1 }), 300);
    await knex.destroy();
});

test('Drizzle on pg', async () => {
    const { sql } = await import('drizzle-orm');
    const db = drizzle(pool);
    await joins('drizzle', (body) => db.transaction(body), (tx, id) => tx.execute(sql`insert into orders values (${id}, 1)`), 400);
});

test('Drizzle on postgres', async () => {
    const { sql } = await import('drizzle-orm');
    const client = postgres(dsn, { max: 3, onnotice: () => {} });
    const db = drizzleJs(client);
    await joins('drizzle_js', (body) => db.transaction(body), (tx, id) => tx.execute(sql`insert into orders values (${id}, 1)`), 450);
    await client.end();
});

test('Prisma', async () => {
    // The generated client uses the driver adapter, so no engine binary is downloaded or needed.
    const folder = mkdtempSync(join(dirname(realpathSync(fileURLToPath(new URL('../node_modules', import.meta.url)))), 'prisma-'));
    try {
        writeFileSync(
            join(folder, 'schema.prisma'),
            `generator client {\n  provider = "prisma-client-js"\n  output = "./client"\n}\n` +
                `datasource db {\n  provider = "postgresql"\n}\n` +
                `model orders {\n  id Int @id\n  amount Decimal\n}\n`,
        );
        const require = createRequire(import.meta.url);
        execFileSync(process.execPath, [require.resolve('prisma/build/index.js'), 'generate', '--schema', join(folder, 'schema.prisma')], {
            cwd: fileURLToPath(new URL('..', import.meta.url)),
            env: { ...process.env, PRISMA_SCHEMA_ENGINE_BINARY: process.execPath, CHECKPOINT_DISABLE: '1', PRISMA_HIDE_UPDATE_MESSAGE: '1' },
            stdio: ['ignore', 'ignore', 'inherit'],
        });
        const { PrismaClient } = require(join(folder, 'client'));
        const { PrismaPg } = await import('@prisma/adapter-pg');
        const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: dsn }) });
        await joins('prisma', (body) => prisma.$transaction(body), (tx, id) => tx.orders.create({ data: { id, amount: 1 } }), 500);
        await refused(prisma);
        await settled(prisma);
        const projection = new Reader(prisma, { consumer: 'prisma', untilEnd: true, logger: false });
        await assert.rejects(projection.apply((tx) => tx.$queryRawUnsafe('select 1 / 0').catch(() => {})), (error) => error.code === '25P02');
        assert.ok((await projection.apply((tx) => tx.$queryRawUnsafe('select 1'))) > 0);
        await prisma.$disconnect();
    } finally {
        rmSync(folder, { recursive: true, force: true });
    }
});

test('Kysely', async () => {
    const { Kysely, PostgresDialect, sql } = await import('kysely');
    const db = new Kysely({ dialect: new PostgresDialect({ pool }) });
    const insert = (tx, id) => sql`insert into orders values (${id}, 1)`.execute(tx);
    await joins('kysely', (body) => db.transaction().execute(body), insert, 600);
    await joins('kysely_transaction', (body) => transaction(db, body), insert, 610);
    await refused(db);
});

test('Sequelize', async () => {
    const { Sequelize } = createRequire(import.meta.url)('sequelize');
    const sequelize = new Sequelize(dsn, { dialect: 'postgres', logging: false });
    const insert = (t, id) => sequelize.query('insert into orders values ($1, 1)', { bind: [id], transaction: t });
    await joins('sequelize', (body) => sequelize.transaction(body), insert, 620);
    await joins('sequelize_transaction', (body) => transaction(sequelize, body), insert, 630);
    await refused(sequelize);
    await sequelize.close();
});

test('TypeORM', async () => {
    const { DataSource } = createRequire(import.meta.url)('typeorm');
    const source = new DataSource({ type: 'postgres', url: dsn });
    await source.initialize();
    const insert = (tx, id) => tx.query('insert into orders values ($1, 1)', [id]);
    await joins('typeorm', (body) => source.transaction(body), insert, 640);
    await joins('typeorm_transaction', (body) => transaction(source, body), insert, 650);
    const byRunner = async (body) => {
        const runner = source.createQueryRunner();
        await runner.startTransaction();
        try {
            await body(runner);
            await runner.commitTransaction();
        } catch (error) {
            await runner.rollbackTransaction();
            throw error;
        } finally {
            await runner.release();
        }
    };
    await joins('typeorm_runner', byRunner, insert, 660);
    await refused(source);
    await refused(source.manager);
    await source.destroy();
});

test('MikroORM', async () => {
    const { EntitySchema, MikroORM } = createRequire(import.meta.url)('@mikro-orm/postgresql');
    const entity = new EntitySchema({ name: 'Thing', tableName: 'things', properties: { id: { type: 'number', primary: true } } });
    const orm = await MikroORM.init({ clientUrl: dsn, entities: [entity], debug: false });
    const insert = (em, id) => em.execute('insert into orders values (?, 1)', [id]);
    await joins('mikro', (body) => orm.em.fork().transactional(body), insert, 670);
    await joins('mikro_transaction', (body) => transaction(orm.em, body), insert, 680);
    await refused(orm.em.fork());
    await orm.close();
});

/** A pool, or the root of an ORM, is no transaction: enqueue refuses it, and nothing is enqueued. */
async function refused(root) {
    const before = await new Outbox(root).countMessages();
    const calls = [enqueue(root, { topic: 'a', payload: 1 }), enqueueMany(root, [{ topic: 'a', payload: 1 }]), assertEnqueued(root, {})];
    for (const call of [...calls, store.append(root, 'a-1', EVENTS, NO_STREAM)]) {
        await assert.rejects(call, (error) => {
            assert.ok(error instanceof InvalidError, String(error));
            assert.match(error.message, /needs a transaction/);
            assert.match(error.hint, /Pass the transaction/);
            return true;
        });
    }
    assert.equal(await new Outbox(root).countMessages(), before);
    // A load only reads, so it takes them.
    assert.deepEqual(await store.load(root, 'a-1'), []);
}

test('a pool, and the root of an ORM, are refused where they would commit by themselves', async () => {
    await refused(pool);
    const sql = postgres(dsn, { max: 1, onnotice: () => {} });
    await refused(sql);
    await sql.end();
    const knex = knexModule({ client: 'pg', connection: dsn, pool: { min: 0, max: 1 } });
    await refused(knex);
    await knex.destroy();
    await refused(drizzle(pool));
});

test('a client that is not known is refused, and the hint names enqueueStatement()', async () => {
    class Strange {
        async query() {
            return { rows: [] };
        }
    }
    for (const client of [new Strange(), {}, null, 5, 'postgres://']) {
        await assert.rejects(enqueue(client, { topic: 'a', payload: 1 }), (error) => {
            assert.ok(error instanceof InvalidError);
            assert.match(error.hint, /enqueueStatement\(\)/);
            assert.match(String(error), /Hint: Give a client, transaction or pool/);
            return true;
        });
    }
});

test('savepoints take their messages with them', async () => {
    const ids = await transaction(pool, async (tx) => {
        const first = await enqueue(tx, { topic: 'a', payload: 1 });
        await tx.query('savepoint s');
        const undone = await enqueue(tx, { topic: 'a', payload: 2 });
        await tx.query('rollback to s');
        assert.deepEqual((await enqueuedMessages(tx)).map((m) => m.id), [first]);
        return [first, undone];
    });
    assert.ok(await stored(ids[0]));
    assert.equal(await stored(ids[1]), undefined);
});

test('every field arrives', async () => {
    const at = new Date('2030-01-02T03:04:05.678Z');
    const id = await new Outbox(pool).enqueue({
        topic: 'all.fields',
        payload: { deep: [1, null, { ü: '€ \u0001 "quoted" \\ ?' }] },
        key: 'k',
        headers: { severity: 'high' },
        metadata: { user_id: 'u1' },
        tenant: 'acme',
        aggregateType: 'order',
        aggregateId: '42',
        deliverAt: at,
        expiresAt: '2031-01-01T00:00:00Z',
        priority: 7,
        maxAttempts: 3,
        occurredAt: at,
    });
    const { rows } = await pool.query('select * from outbox.message where id = $1', [id]);
    const [m] = rows;
    assert.deepEqual(m.payload, { deep: [1, null, { ü: '€ \u0001 "quoted" \\ ?' }] });
    assert.equal(m.key, 'k');
    assert.deepEqual(m.headers, { severity: 'high' });
    assert.equal(m.metadata.user_id, 'u1');
    assert.equal(m.tenant, 'acme');
    assert.equal(m.aggregate_type, 'order');
    assert.equal(m.aggregate_id, '42');
    assert.equal(m.deliver_at.getTime(), at.getTime());
    assert.equal(m.expires_at.getTime(), Date.UTC(2031, 0, 1));
    assert.equal(Number(m.priority), 7);
    assert.equal(m.max_attempts, 3);
    assert.equal(m.occurred_at.getTime(), at.getTime());
});

test('the builder, text, bytes, base64 and JSON null', async () => {
    const built = message('built.json').json({ a: 1 }).key('k').header('h', 'v').set('user_id', 'u').with({ tenant: 't' });
    assert.equal(built.get('user_id'), 'u');
    const ids = [
        await new Outbox(pool).enqueue(built),
        await new Outbox(pool).enqueue(message('built.text').text('grüß')),
        await new Outbox(pool).enqueue(message('built.bytes').bytes(Buffer.from([0, 255, 1]), 'application/x-thing')),
        await new Outbox(pool).enqueue(message('built.base64').base64('AP8B')),
        await new Outbox(pool).enqueue({ topic: 'built.null', payload: null }),
    ];
    const { rows } = await pool.query('select payload, body, content_type, tenant from outbox.message where id = any ($1) order by id', [ids]);
    assert.deepEqual(rows[0], { payload: { a: 1 }, body: null, content_type: rows[0].content_type, tenant: 't' });
    assert.equal(rows[1].body.toString(), 'grüß');
    assert.equal(rows[1].content_type, 'text/plain; charset=utf-8');
    assert.deepEqual([...rows[2].body], [0, 255, 1]);
    assert.equal(rows[2].content_type, 'application/x-thing');
    assert.deepEqual([...rows[3].body], [0, 255, 1]);
    assert.equal(rows[4].payload, null);
    assert.equal((await pool.query('select payload::text from outbox.message where id = $1', [ids[4]])).rows[0].payload, 'null');
});

test('many messages in one statement keep their order', async () => {
    const messages = Array.from({ length: 300 }, (_, i) => ({ topic: `many.${i % 3}`, payload: { i }, key: i % 2 ? `k${i}` : undefined, priority: i % 5 }));
    const ids = await new Outbox(pool).enqueueMany(messages);
    assert.equal(ids.length, 300);
    assert.ok(ids.every((id, i) => i === 0 || id > ids[i - 1]));
    const { rows } = await pool.query('select topic, payload, key, priority from outbox.message where id = any ($1) order by id', [ids]);
    rows.forEach((row, i) => {
        assert.deepEqual({ ...row, priority: Number(row.priority) }, { topic: `many.${i % 3}`, payload: { i }, key: i % 2 ? `k${i}` : null, priority: i % 5 });
    });
    assert.deepEqual(await new Outbox(pool).enqueueMany([]), []);
});

test('a statement for drivers this package does not know', async () => {
    const { text, values } = enqueueStatement({ topic: 'by.hand', payload: { a: 1 }, key: 'k' });
    assert.ok(values.every((value) => value === null || typeof value === 'string'));
    const { rows } = await pool.query(text, values);
    assert.deepEqual(await stored(rows[0].id), { topic: 'by.hand', key: 'k', payload: { a: 1 } });
});

test('bad messages are refused before they are sent, with a typed error', async () => {
    const cyclic = {};
    cyclic.self = cyclic;
    const bad = [
        {},
        null,
        { topic: 'a' },
        { topic: 'a', payload: undefined },
        { topic: 'a', payload: 1, body: 'x' },
        { topic: 'a', payload: 1, contentType: 'x' },
        { topic: 'a', payload: () => 1 },
        { topic: 'a', payload: { n: 1n } },
        { topic: 'a', payload: cyclic },
        { topic: 'a', payload: 1, unknown: 1 },
        { topic: 'a', payload: 1, deliverAt: new Date('never') },
        { topic: 'a', payload: 1, key: 'nul\0' },
        { topic: 'a', payload: 1, key: {} },
        { topic: 'a', payload: 1, priority: Number.NaN },
        { topic: 'a', body: 5 },
    ];
    for (const one of bad) {
        await assert.rejects(new Outbox(pool).enqueue(one), (error) => error instanceof InvalidError && error.code === '22023', JSON.stringify(one?.payload !== cyclic ? Object.keys(one ?? {}) : 'cyclic'));
    }
    for (const one of [{ topic: 'outbox.x', payload: 1 }, { topic: 'a', payload: 'x\0y' }, { topic: 'a', payload: 1, headers: ['x'] }, { topic: 'a', payload: 1, deliverAt: 'someday' }]) {
        await assert.rejects(new Outbox(pool).enqueue(one), (error) => error instanceof InvalidError, JSON.stringify(one));
    }
    await assert.rejects(enqueue({}, { topic: 'a', payload: 1 }), InvalidError);
    await assert.rejects(enqueue(null, { topic: 'a', payload: 1 }), InvalidError);
    await assert.rejects(new Outbox(pool).head({ no: 1 }), InvalidError);
    await assert.rejects(new Outbox(pool).read({}), InvalidError);
    await assert.rejects(new Outbox(pool).list('nothing'), InvalidError);
});
