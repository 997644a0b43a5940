// Read models: tests/conformance/toolkit/read_models.json over a table with nine drivers and in memory, and what is of Node.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { drizzle } from 'drizzle-orm/node-postgres';
import knexModule from 'knex';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import postgres from 'postgres';
import { Sequelize } from 'sequelize';
import { DataSource } from 'typeorm';

import { InMemoryReadModel, ReadModel, transaction } from '../dist/events.mjs';
import { InvalidError, NotFoundError, OutboxError } from '../dist/index.mjs';
import { startServer } from './server.mjs';

const CASES = JSON.parse(readFileSync(new URL('../../../tests/conformance/toolkit/read_models.json', import.meta.url), 'utf8'));
let server;
let dsn;
let pool;
before(async () => {
    server = await startServer();
    dsn = await server.database();
    pool = new pg.Pool({ connectionString: dsn });
    for (const [name, { columns, key }] of Object.entries(CASES.tables)) {
        await pool.query(`create table ${name} (${Object.entries(columns).map(([column, type]) => `${column} ${type}`).join(', ')}, primary key (${key.join(', ')}))`);
    }
});
after(async () => {
    await pool?.end();
    await server?.end();
});

const tables = () => Object.fromEntries(Object.entries(CASES.tables).map(([table, shape]) => [table, new ReadModel({ table, ...shape })]));
const memories = () => Object.fromEntries(Object.entries(CASES.tables).map(([name, shape]) => [name, new InMemoryReadModel(shape)]));

/** Calls a method as a step says. */
function call(model, tx, name, { key, keys, row, values, where, order, limit, offset, with_total: withTotal }) {
    switch (name) {
        case 'get':
        case 'delete':
            return model[name](tx, key);
        case 'get_many':
            return model.getMany(tx, keys);
        case 'find':
            return model.find(tx, { where, order, limit, offset, withTotal });
        case 'find_one':
            return model.findOne(tx, { where, order });
        case 'count':
            return model.count(tx, where);
        case 'insert':
        case 'upsert':
            return model[name](tx, row);
        case 'update':
            return model.update(tx, key, values);
        case 'delete_many':
            return model.deleteMany(tx, where);
        case 'clear':
            return model.clear(tx);
        default:
            return assert.fail(`unknown operation ${name}`);
    }
}

/** The properties of `expected` are in `actual`. Pages have other names there. */
function check(actual, expected, where) {
    if (actual instanceof Date) assert.equal(actual.getTime(), new Date(expected).getTime(), where);
    else if (Array.isArray(expected)) {
        assert.equal(actual?.length, expected.length, `${where}: ${JSON.stringify(actual)}`);
        expected.forEach((item, i) => check(actual[i], item, `${where}[${i}]`));
    } else if (expected !== null && typeof expected === 'object') {
        for (const [name, item] of Object.entries(expected)) check(name === 'has_more' ? actual.hasMore : actual?.[name], item, `${where}.${name}`);
    } else assert.equal(actual ?? null, expected, where);
}

async function run(tx, models) {
    for (const [i, step] of CASES.steps.entries()) {
        for (const name of Object.keys(step)) assert.ok(['do', 'args', 'expect', 'error'].includes(name), name);
        const where = `step ${i + 1} (${step.do} ${JSON.stringify(step.args)})`;
        const called = async () => call(models[step.args.table], tx, step.do, step.args);
        if (step.error) {
            await assert.rejects(called, (error) => {
                assert.ok(error instanceof OutboxError, `${where}: ${error}`);
                assert.deepEqual({ kind: error.kind, code: error.code, name: error.codeName }, step.error, where);
                return true;
            });
            continue;
        }
        const result = await called().catch((error) => {
            throw new Error(`${where}: ${error} ${error.detail ?? ''}`, { cause: error });
        });
        if ('expect' in step) check(result, step.expect, where);
    }
}

test('in memory', () => run(undefined, memories()));

const DRIVERS = {
    pg: () => ({ client: pool, end: () => {} }),
    postgres: () => {
        const client = postgres(dsn, { max: 1, onnotice: () => {} });
        return { client, end: () => client.end() };
    },
    Knex: () => {
        const client = knexModule({ client: 'pg', connection: dsn, pool: { min: 0, max: 1 } });
        return { client, end: () => client.destroy() };
    },
    Drizzle: () => ({ client: drizzle(pool), end: () => {} }),
    Kysely: () => ({ client: new Kysely({ dialect: new PostgresDialect({ pool }) }), end: () => {} }),
    Sequelize: () => {
        const client = new Sequelize(dsn, { logging: false, dialectModule: pg });
        return { client, end: () => client.close() };
    },
    TypeORM: async () => {
        const client = await new DataSource({ type: 'postgres', url: dsn }).initialize();
        return { client, end: () => client.destroy() };
    },
};
for (const [name, open] of Object.entries(DRIVERS)) {
    test(`in a transaction of ${name}`, async (t) => {
        const { client, end } = await open();
        t.after(end);
        const undo = new Error('undo');
        await assert.rejects(transaction(client, async (tx) => {
            await run(tx, tables());
            await tables().totals.insert(tx, { id: 1 });
            throw undo;
        }), (error) => error === undo || error.cause === undo);
        assert.equal(await tables().totals.count(pool), 0, 'it was rolled back');
    });
}

test('what writes belongs to a transaction, and what reads takes a pool', async () => {
    const { totals } = tables();
    for (const write of [() => totals.insert(pool, { id: 1 }), () => totals.upsert(pool, { id: 1 }), () => totals.update(pool, 1, { amount: 1 }), () => totals.delete(pool, 1), () => totals.clear(pool)]) {
        await assert.rejects(write, InvalidError);
    }
    await assert.rejects(totals.get(pool, 1), NotFoundError);
});

test('columns of other names and types, and rows as objects of a class', async (t) => {
    await pool.query('create schema shop');
    await pool.query('create table shop."Totals" (order_id bigint primary key, "the ""sum""" numeric, days date[], ids uuid, rate float8)');
    t.after(() => pool.query('drop schema shop cascade'));
    class Total {
        constructor(row) {
            Object.assign(this, row);
        }
        get double() {
            return Number(this.sum) * 2;
        }
    }
    const shape = {
        columns: { orderId: { type: 'bigint', name: 'order_id' }, sum: { type: 'numeric', name: 'the "sum"' }, days: 'date[]', ids: 'uuid', rate: 'float8' },
        key: 'orderId',
        into: (row) => new Total(row),
    };
    const row = { orderId: 12345678901234, sum: '12345678901234567890.10', days: ['2026-01-02'], ids: 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', rate: 0.1 };
    const check = async (model, tx) => {
        await model.insert(tx, { ...row, ids: row.ids.toUpperCase(), days: [new Date('2026-01-02T00:00:00Z')] });
        const found = await model.get(tx, 12345678901234n);
        assert.deepEqual({ ...found }, row);
        assert.ok(found instanceof Total && found.double > 1e19);
        assert.equal((await model.find(tx, { where: [['sum', '>', '9'], ['orderId', 'in', ['12345678901234']]] })).items.length, 1, 'numbers are compared as numbers');
        await assert.rejects(model.insert(tx, { orderId: 1n, nope: 1 }), InvalidError);
        await assert.rejects(model.insert(tx, { orderId: 2, sum: {} }), InvalidError);
        for (const wrong of [['sum', 'like', '1%'], ['sum', 'contains', 1], ['rate', 'in', 1]]) await assert.rejects(model.count(tx, [wrong]), InvalidError);
    };
    await check(new InMemoryReadModel(shape));
    const model = new ReadModel({ table: 'shop.Totals', ...shape });
    await transaction(pool, (tx) => check(model, tx));
    await pool.query('insert into shop."Totals" (order_id) values (9007199254740993)');
    await assert.rejects(model.find(pool), /too large/, 'no number is rounded');
});

test('extreme values and odd names are the same over a table and in memory', async (t) => {
    await pool.query('create table "we""ird" ("i\'d" int primary key, "#" text, r text, k text, n text, at timestamptz, day date, rate float8, sum numeric, doc jsonb, times timestamptz[])');
    t.after(() => pool.query('drop table "we""ird"'));
    const shape = {
        columns: { id: { type: 'int', name: "i'd" }, '#': 'text', r: 'text', k: 'text', n: 'text', at: 'timestamptz', day: 'date', rate: 'float8', sum: 'numeric', doc: 'jsonb', times: 'timestamptz[]' },
        key: 'id',
    };
    const [last, first] = [new Date(8.64e15), new Date(-8.64e15)];
    const check = async (model, tx) => {
        const kept = async (row) => {
            await model.upsert(tx, { id: 1, ...row });
            const found = await model.get(tx, 1);
            // A number that is not finite is mostly a mistake, and is written as text.
            await model.upsert(tx, { ...found, rate: undefined });
            assert.deepEqual(await model.get(tx, 1), found, 'what is read can be written');
            return Object.fromEntries(Object.keys(row).map((name) => [name, found[name]]));
        };
        for (const row of [
            { '#': 'a', r: 'b', k: 'c', n: 'd' }, { r: 'x'.repeat(10 << 20) }, { doc: { text: '"\\\'' } },
            { at: last }, { at: first }, { times: [last, first, null, new Date(0)] },
            { at: new Date('+010000-01-01T00:00:00Z') }, { at: new Date('-000043-03-15T00:00:00Z') }, { at: new Date('0000-06-01T00:00:00.001Z') }, { at: new Date('0099-06-01T00:00:00Z') },
            { sum: 'NaN' }, { sum: 'Infinity' }, { sum: `1${'0'.repeat(131_071)}` }, { day: 'infinity' },
        ]) assert.deepEqual(await kept(row), row);
        assert.deepEqual(await kept({ at: 'infinity', rate: 'NaN', day: new Date('+010000-01-01T00:00:00Z') }), { at: last, rate: NaN, day: '10000-01-01' });
        assert.deepEqual(await kept({ at: '-infinity', rate: '-Infinity' }), { at: first, rate: -Infinity });
        await model.clear(tx);
        for (const [id, rate, at] of [[1, 1, new Date(0)], [2, 'NaN', 'infinity'], [3, '-Infinity', '-infinity'], [4, 'Infinity', null]]) await model.insert(tx, { id, rate, sum: rate, at });
        for (const [where, expected] of [
            [['rate', '=', 'NaN'], [2]], [['rate', '>', 1], [4, 2]], [['sum', '>', 1], [4, 2]], [['rate', '<', 1], [3]], [['at', '>=', last], [2]], [['at', '<', new Date(0)], [3]], [['rate', 'in', ['NaN', 1]], [1, 2]],
        ]) assert.deepEqual((await model.find(tx, { where: [where], order: ['rate'] })).items.map(({ id }) => id), expected, JSON.stringify(where));
    };
    const model = new ReadModel({ table: 'we"ird', ...shape });
    const memory = new InMemoryReadModel(shape);
    await check(memory);
    await transaction(pool, (tx) => check(model, tx));
    for (const row of [{ r: 'a\0b' }, { doc: { text: '\0' } }, { doc: { '\0': 1 } }, { at: 'nonsense' }, { at: new Date(NaN) }]) {
        await assert.rejects(memory.insert(undefined, { id: 9, ...row }), InvalidError);
        await assert.rejects(transaction(pool, (tx) => model.insert(tx, { id: 9, ...row })), InvalidError);
    }
});

test('patterns are for texts, and not for lists of them', async () => {
    const model = new InMemoryReadModel({ columns: { id: 'int', tags: 'text[]' }, key: 'id' });
    await assert.rejects(model.count(undefined, [['tags', 'like', 'a%']]), InvalidError);
});

test('a table needs a key and types of columns', () => {
    for (const wrong of [{ columns: { a: 'int' }, key: 'b' }, { columns: { a: 'int' }, key: [] }, { columns: { a: "int'; drop table x --" }, key: 'a' }, { columns: { a: 'int' }, key: 'a', table: '' }]) {
        assert.throws(() => new ReadModel({ table: 't', ...wrong }), InvalidError);
    }
});

test('rows in memory are copies', async () => {
    const model = new InMemoryReadModel({ columns: { id: 'int', tags: 'text[]' }, key: 'id' });
    const tags = ['a'];
    await model.insert(undefined, { id: 1, tags });
    tags.push('b');
    (await model.get(undefined, 1)).tags.push('c');
    assert.deepEqual(await model.get(undefined, 1), { id: 1, tags: ['a'] });
});
