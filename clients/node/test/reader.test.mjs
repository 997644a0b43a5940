// Readers: order, cursors, exactly once in a transaction, two instances.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { drizzle } from 'drizzle-orm/node-postgres';
import knexModule from 'knex';
import pg from 'pg';
import postgres from 'postgres';

import { ConflictError, InvalidError, NotFoundError, Outbox, Reader, transaction } from '../dist/index.mjs';
import { settled } from '../dist/testing.mjs';
import { startServer, waitFor } from './server.mjs';

let server;
before(async () => {
    server = await startServer();
});
after(() => server?.end());

async function setUp(t) {
    const dsn = await server.database();
    const pool = new pg.Pool({ connectionString: dsn });
    pool.on('error', () => {});
    t.after(() => pool.end());
    return { dsn, pool, outbox: new Outbox(pool) };
}
const many = (n, topic = 'a') => Array.from({ length: n }, (_, i) => ({ topic, payload: { i } }));
const END = { untilEnd: true, logger: false };
const enqueueAll = (pool, messages) => new Outbox(pool).enqueueMany(messages);

test('everything, in order, then what the topics and the filter say', async (t) => {
    const { pool } = await setUp(t);
    await new Outbox(pool).enqueueMany([...many(250), { topic: 'b.c', payload: {}, key: 'order-1' }, { topic: 'b.d', payload: {}, key: 'user-1' }]);
    await settled(pool);
    const seen = [];
    for await (const message of new Reader(pool, { ...END, batchSize: 40 })) seen.push(message);
    assert.equal(seen.length, 252);
    assert.ok(seen.every((m, i) => i === 0 || m.position > seen[i - 1].position));
    assert.deepEqual(seen.slice(0, 250).map((m) => m.json().i), many(250).map((m) => m.payload.i));
    assert.match(seen[0].webhookId, /^msg_/);
    const topics = [];
    for await (const message of new Reader(pool, { ...END, topics: ['b.*'] })) topics.push(message.topic);
    assert.deepEqual(topics, ['b.c', 'b.d']);
    const keys = [];
    for await (const message of new Reader(pool, { ...END, filter: { key: 'order-*' } })) keys.push(message.key);
    assert.deepEqual(keys, ['order-1']);
    const rest = [];
    for await (const message of new Reader(pool, { ...END, after: seen[249].position })) rest.push(message.topic);
    assert.deepEqual(rest, ['b.c', 'b.d']);
    await assert.rejects(async () => {
        for await (const _ of new Reader(pool, { ...END, after: 10_000 })) assert.fail();
    }, (error) => error instanceof InvalidError && error.code === 'OB009');
    assert.throws(() => new Reader(pool, { after: -1 }), InvalidError);
});

test('the cursor is where the loop went on, not where it was left', async (t) => {
    const { pool, outbox } = await setUp(t);
    await new Outbox(pool).enqueueMany(many(10));
    await settled(pool);
    await assert.rejects(outbox.cursorGet({ consumer: 'c' }), NotFoundError);
    const first = [];
    for await (const message of new Reader(pool, { consumer: 'c', ...END })) {
        first.push(message);
        if (first.length === 4) break;
    }
    assert.equal((await outbox.cursorGet({ consumer: 'c' })).position, first[2].position, 'the fourth was not confirmed');
    await assert.rejects(async () => {
        for await (const message of new Reader(pool, { consumer: 'c', ...END })) {
            assert.equal(message.position, first[3].position, 'it is read again');
            throw new Error('body');
        }
    }, /body/);
    assert.equal((await outbox.cursorGet({ consumer: 'c' })).position, first[2].position);
    const rest = [];
    for await (const message of new Reader(pool, { consumer: 'c', ...END })) rest.push(message.json().i);
    assert.deepEqual(rest, [3, 4, 5, 6, 7, 8, 9]);
    assert.equal((await outbox.cursorGet({ consumer: 'c' })).lagPositions, 0);
    for await (const message of new Reader(pool, { consumer: 'c', ...END })) assert.fail(`nothing is left, but ${message.position}`);
});

test('it waits for more, and ends with its signal', async (t) => {
    const { pool, outbox } = await setUp(t);
    const controller = new AbortController();
    const seen = [];
    const reading = (async () => {
        for await (const message of new Reader(pool, { consumer: 'live', subject: 's', pollInterval: 0.02, signal: controller.signal })) {
            seen.push(message.json().i);
            if (seen.length === 5) controller.abort();
        }
    })();
    for (let i = 0; i < 5; i += 1) await new Outbox(pool).enqueue({ topic: 'a', payload: { i } });
    await reading;
    assert.deepEqual(seen, [0, 1, 2, 3, 4]);
    const cursor = await outbox.cursorGet({ consumer: 'live', subject: 's' });
    assert.equal(cursor.position, await outbox.head());
    assert.ok(cursor.updatedAt instanceof Date);
});

test('a second instance on the same cursor is noticed', async (t) => {
    const { pool, outbox } = await setUp(t);
    await new Outbox(pool).enqueueMany(many(3));
    await settled(pool);
    await assert.rejects(
        async () => {
            for await (const message of new Reader(pool, { consumer: 'c', ...END })) {
                if (message.json().i === 0) await outbox.cursorAdvance({ consumer: 'c', position: message.position });
            }
        },
        (error) => error instanceof ConflictError && error.code === 'OB005' && error.codeName === 'non_monotonic_cursor',
    );
});

test('effectively once: two instances apply into one table', async (t) => {
    const { pool, outbox } = await setUp(t);
    await pool.query('create table effect (i int not null)');
    await new Outbox(pool).enqueueMany(many(300));
    await settled(pool);
    const apply = () =>
        new Reader(pool, { consumer: 'projection', batchSize: 7, ...END }).apply(async (tx, messages) => {
            for (const message of messages) await tx.query('insert into effect values ($1)', [message.json().i]);
        });
    const counts = await Promise.all([apply(), apply(), apply()]);
    assert.equal(counts.reduce((a, b) => a + b), 300);
    const { rows } = await pool.query('select i from effect order by ctid');
    assert.deepEqual(rows.map((row) => row.i).sort((a, b) => a - b), many(300).map((m) => m.payload.i));
    // If an effect throws, the advance of the cursor is rolled back with it.
    await new Outbox(pool).enqueueMany(many(2));
    await settled(pool);
    const before = (await outbox.cursorGet({ consumer: 'projection' })).position;
    await assert.rejects(
        new Reader(pool, { consumer: 'projection', ...END }).apply(async (tx) => {
            await tx.query('insert into effect values (-1)');
            throw new Error('effect');
        }),
        /effect/,
    );
    assert.equal((await outbox.cursorGet({ consumer: 'projection' })).position, before);
    assert.equal((await pool.query('select 1 from effect where i = -1')).rowCount, 0);
    await assert.rejects(new Reader(pool).apply(async () => {}), InvalidError);
});

test('an instance that another one overtakes between its look at the cursor and its read applies nothing twice', async (t) => {
    const { pool } = await setUp(t);
    await pool.query('create table effect (i int primary key)');
    await new Outbox(pool).enqueueMany(many(21));
    await settled(pool);
    const effect = async (tx, messages) => {
        for (const message of messages) await tx.query('insert into effect values ($1)', [message.json().i]);
    };
    const signal = (controller) => ({ consumer: 'c', batchSize: 7, ...END, signal: controller.signal });
    let queries = 0;
    const late = new Proxy(pool, {
        get(target, name) {
            if (name !== 'query') return typeof target[name] === 'function' ? target[name].bind(target) : target[name];
            return async (...args) => {
                queries += 1;
                // The version, the cursor, and now the read.
                if (queries === 3) {
                    const other = new AbortController();
                    await new Reader(pool, signal(other)).apply(async (tx, messages) => {
                        await effect(tx, messages);
                        other.abort();
                    });
                }
                return target.query(...args);
            };
        },
    });
    const errors = [];
    const applied = await new Reader(late, { ...signal(new AbortController()), onError: (error) => errors.push(error.code) }).apply(effect);
    assert.equal(applied, 14);
    assert.deepEqual(errors, ['OB005']);
    assert.equal((await pool.query('select 1 from effect')).rowCount, 21);
});

test('an effect that fails stays where it is: stored with its position, tried again, never passed over', async (t) => {
    const { pool, outbox } = await setUp(t);
    await pool.query('create table effect (i int primary key)');
    await enqueueAll(pool, many(20));
    await settled(pool);
    const controller = new AbortController();
    const errors = [];
    const options = {
        consumer: 'c', pollInterval: 0.02, backoff: { min: 0.02, max: 0.05 }, signal: controller.signal,
        // An error of the listener does not end the reader.
        onError: (e) => {
            errors.push(e);
            throw new Error('listener');
        },
    };
    let poisoned = true;
    const running = new Reader(pool, options).apply(async (tx, messages) => {
        for (const message of messages) {
            if (message.json().i === 7 && poisoned) throw new RangeError('the seventh');
            await tx.query('insert into effect values ($1)', [message.json().i]);
        }
    });
    const seventh = (await pool.query("select position from outbox.message m, outbox.read(0, 100) r where r.message_id = m.id and m.payload ->> 'i' = '7'")).rows[0].position;
    const cursor = () => outbox.cursorGet({ consumer: 'c', ifMissing: 0 });
    await waitFor('the position of the failing message is stored', async () => (await cursor()).errorPosition === Number(seventh));
    assert.match((await cursor()).lastError, /RangeError: the seventh/);
    assert.equal((await cursor()).position, Number(seventh) - 1, 'the messages before it are applied');
    assert.equal((await pool.query('select 1 from effect')).rowCount, 7);
    await waitFor('it was tried again', () => errors.length > 3);
    poisoned = false;
    await waitFor('all is applied', async () => (await pool.query('select 1 from effect')).rowCount === 20);
    await waitFor('nothing is recorded any more', async () => (await cursor()).lastError === null);
    controller.abort();
    assert.equal(await running, 20);
});

test('an effect that leaves no transaction to commit has failed, and the cursor stays', async (t) => {
    const { pool, outbox } = await setUp(t);
    await pool.query('create table effect (i int unique deferrable initially deferred)');
    await enqueueAll(pool, many(2));
    await settled(pool);
    const effects = {
        'its transaction is aborted': (tx) => tx.query('select 1 / 0').catch(() => {}),
        'has ended its transaction': (tx) => tx.query('rollback'),
        'duplicate key value': (tx) => tx.query('insert into effect values (1), (1)'),
        'connect ECONNREFUSED': async () => {
            // This error is that of another service. It does not mean that the connection of the effect was lost.
            throw Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:1'), { code: 'ECONNREFUSED' });
        },
        'it throws at once': () => {
            throw new RangeError('it throws at once');
        },
        'a value of type undefined': async () => {
            throw undefined;
        },
    };
    for (const [why, effect] of Object.entries(effects)) {
        const options = { consumer: why, batchSize: 1, ...END };
        const reader = new Reader(pool, options);
        await assert.rejects(async () => assert.fail(`${await reader.apply(effect)} applied`), (error) => !/applied/.test(error?.message), why);
        const { position, lastError, errorPosition } = await outbox.cursorGet({ consumer: why });
        assert.ok(lastError.includes(why), `${why}: ${lastError}`);
        assert.deepEqual({ position, stands: errorPosition !== null }, { position: 0, stands: true }, why);
    }
    assert.equal((await pool.query('select 1 from effect')).rowCount, 0);
    await assert.rejects(
        transaction(pool, async (tx) => void (await tx.query('select 1 / 0').catch(() => {}))),
        (error) => error instanceof InvalidError && error.code === '25P02',
    );
});

test('a second apply of a reader begins at the cursor, where the first one has ended', async (t) => {
    const { pool } = await setUp(t);
    await pool.query('create table effect (i int primary key)');
    await enqueueAll(pool, many(5));
    await settled(pool);
    let poisoned = true;
    const effect = async (tx, messages) => {
        for (const message of messages) {
            if (poisoned && message.json().i === 2) throw new RangeError('the third');
            await tx.query('insert into effect values ($1)', [message.json().i]);
        }
    };
    const reader = new Reader(pool, { consumer: 'c', ...END, batchSize: 2 });
    await assert.rejects(reader.apply(effect), /the third/);
    poisoned = false;
    assert.equal(await reader.apply(effect), 3);
    assert.equal(await reader.apply(effect), 0);
    assert.equal((await pool.query('select 1 from effect')).rowCount, 5);
});

test('times that never wait are refused', async (t) => {
    const { pool } = await setUp(t);
    for (const wrong of [{ pollInterval: 0 }, { pollInterval: NaN }, { pollInterval: -1 }, { batchSize: 0.5 }, { backoff: { min: 0 } }, { backoff: { max: NaN } }]) {
        assert.throws(() => new Reader(pool, wrong), InvalidError, JSON.stringify(wrong));
    }
});

test('a reader of a rare topic has no lag, and its cursor passes what does not match', async (t) => {
    const { pool, outbox } = await setUp(t);
    await enqueueAll(pool, [...many(30), { topic: 'rare', payload: 1 }, ...many(30)]);
    await settled(pool);
    const seen = [];
    for await (const message of new Reader(pool, { consumer: 'rare', topics: ['rare'], ...END })) seen.push(message.topic);
    for await (const message of new Reader(pool, { consumer: 'never', topics: ['never'], ...END })) seen.push(message.topic);
    assert.deepEqual(seen, ['rare']);
    for (const consumer of ['rare', 'never']) {
        const { lagPositions, lagSeconds, position } = await outbox.cursorGet({ consumer });
        assert.deepEqual({ lagPositions, lagSeconds, position }, { lagPositions: 0, lagSeconds: 0, position: await outbox.head() }, consumer);
    }
});

test('apply works in the transactions of other drivers', async (t) => {
    const { pool, dsn } = await setUp(t);
    const { Kysely, PostgresDialect, sql } = await import('kysely');
    const { DataSource } = createRequire(import.meta.url)('typeorm');
    await pool.query('create table effect (driver text, i int, primary key (driver, i))');
    await enqueueAll(pool, many(10));
    await settled(pool);
    const kysely = new Kysely({ dialect: new PostgresDialect({ pool }) });
    const typeorm = await new DataSource({ type: 'postgres', url: dsn }).initialize();
    t.after(() => typeorm.destroy());
    const knex = knexModule({ client: 'pg', connection: dsn, pool: { min: 0, max: 3 } });
    t.after(() => knex.destroy());
    const js = postgres(dsn, { max: 3, onnotice: () => {} });
    t.after(() => js.end());
    const { sql: drizzleSql } = await import('drizzle-orm');
    const { Sequelize } = createRequire(import.meta.url)('sequelize');
    const sequelize = new Sequelize(dsn, { dialect: 'postgres', logging: false });
    t.after(() => sequelize.close());
    const { EntitySchema, MikroORM } = createRequire(import.meta.url)('@mikro-orm/postgresql');
    const entity = new EntitySchema({ name: 'Effect', tableName: 'effect', properties: { driver: { type: 'string', primary: true } } });
    const orm = await MikroORM.init({ clientUrl: dsn, entities: [entity], debug: false });
    t.after(() => orm.close());
    const insert = {
        postgres: [js, (tx, i) => tx`insert into effect values ('postgres', ${i})`],
        drizzle: [drizzle(pool), (tx, i) => tx.execute(drizzleSql`insert into effect values ('drizzle', ${i})`)],
        sequelize: [sequelize, (transaction, i) => sequelize.query("insert into effect values ('sequelize', $1)", { bind: [i], transaction })],
        mikro: [orm.em, (em, i) => em.execute('insert into effect values (?, ?)', ['mikro', i])],
        kysely: [kysely, (tx, i) => sql`insert into effect values ('kysely', ${i})`.execute(tx)],
        typeorm: [typeorm, (tx, i) => tx.query("insert into effect values ('typeorm', $1)", [i])],
        knex: [knex, (tx, i) => tx('effect').insert({ driver: 'knex', i })],
    };
    for (const [name, [client, put]] of Object.entries(insert)) {
        const applied = await new Reader(client, { consumer: name, batchSize: 4, ...END }).apply(async (tx, messages) => {
            for (const message of messages) await put(tx, message.json().i);
        });
        assert.equal(applied, 10, name);
        const swallowing = new Reader(client, { consumer: `${name} swallows`, ...END }).apply((tx) => put(tx, 'no number').catch(() => {}));
        await assert.rejects(swallowing, /transaction is aborted|invalid input syntax/, name);
        assert.equal((await pool.query('select 1 from effect where driver = $1', [name])).rowCount, 10);
    }
});

test('a reader lives through a restart', async (t) => {
    const own = await startServer(['pg_outbox.poll_interval=1s']);
    const pool = new pg.Pool({ connectionString: await own.database() });
    pool.on('error', () => {});
    t.after(async () => {
        await pool.end();
        await own.end();
    });
    await new Outbox(pool).enqueueMany(many(20));
    await settled(pool);
    const seen = [];
    const controller = new AbortController();
    const reading = (async () => {
        const options = { consumer: 'c', batchSize: 5, pollInterval: 0.02, backoff: { min: 0.02, max: 0.3 }, signal: controller.signal };
        for await (const message of new Reader(pool, options)) {
            seen.push(message.json().i);
            if (seen.length === 8) await own.tell('restart immediate');
        }
    })();
    await waitFor('the first are read', () => seen.length === 20);
    await new Outbox(pool).enqueue({ topic: 'a', payload: { i: 20 } });
    await waitFor('the last is read', () => seen.length === 21);
    controller.abort();
    await reading;
    assert.deepEqual(seen, Array.from({ length: 21 }, (_, i) => i));
});

test('cursors by hand', async (t) => {
    const { outbox } = await setUp(t);
    const cursor = await outbox.cursorAdvance({ consumer: 'c', position: 5, stream: 'mine' });
    assert.deepEqual({ position: cursor.position, advanced: cursor.advanced, lag: cursor.lagPositions }, { position: 5, advanced: true, lag: null });
    assert.equal((await outbox.cursorAdvance({ consumer: 'c', position: 5, stream: 'mine' })).advanced, false);
    await assert.rejects(outbox.cursorAdvance({ consumer: 'c', position: 4, stream: 'mine' }), (e) => e instanceof ConflictError && e.code === 'OB005');
    await assert.rejects(outbox.cursorReset({ consumer: 'c', position: 0, reason: ' ', stream: 'mine' }), (e) => e instanceof InvalidError && e.code === 'OB006');
    assert.equal((await outbox.cursorReset({ consumer: 'c', position: 0, reason: 'again', stream: 'mine' })).position, 0);
    assert.match((await outbox.cursorRecordError({ consumer: 'c', error: 'broken', stream: 'mine' })).lastError, /broken/);
    assert.equal((await outbox.cursorList({ stream: 'mine' })).length, 1);
    await outbox.cursorDelete({ consumer: 'c', reason: 'done', stream: 'mine' });
    assert.deepEqual(await outbox.cursorList(), []);
});
