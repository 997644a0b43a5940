// The scenarios of tests/conformance/toolkit, which the toolkits for events of all clients run. The README there describes the shop.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import pg from 'pg';

import {
    Aggregate, CommandBus, correlation, EventStore, FieldEncryption, idempotency, LocalKeys, ProjectionEngine, Repository, retry, Saga, SagaManager, subscribeAll, transaction,
    Upcasters,
} from '../dist/events.mjs';
import { Outbox, OutboxError } from '../dist/index.mjs';
import { settled } from '../dist/testing.mjs';
import { startServer, waitFor } from './server.mjs';

const folder = new URL('../../../tests/conformance/toolkit/scenarios/', import.meta.url);
const camel = (name) => name.replace(/_([a-z0-9])/g, (_, c) => c.toUpperCase());
const QUICK = { pollInterval: 0.05, backoff: { min: 0.01, max: 0.1 }, logger: false };

class Rejected extends Error {}

class Order extends Aggregate {
    static category = 'order';
    status = 'new';
    total = 0;
    handlers = {
        'order.placed': ({ total }) => Object.assign(this, { status: 'placed', total }),
        'order.changed': ({ total }) => Object.assign(this, { total }),
        'order.paid': () => Object.assign(this, { status: 'paid' }),
    };
    place(customer, total, payWithin) {
        if (this.exists) throw new Rejected('the order exists');
        this.raise('order.placed', { customer, total, ...(payWithin === undefined ? {} : { pay_within: payWithin }) });
    }
    #open() {
        if (this.status !== 'placed') throw new Rejected(`the order is ${this.status}`);
    }
    change(total) {
        this.#open();
        this.raise('order.changed', { total });
    }
    pay(by) {
        this.#open();
        this.raise('order.paid', { by });
    }
    snapshot() {
        return { status: this.status, total: this.total };
    }
    restore(state) {
        Object.assign(this, state);
    }
}

class Payment extends Saga {
    name = 'payment';
    startedBy = ['order.placed'];
    steps = [{ name: 'reserve', compensate: (saga) => saga.enqueue({ topic: 'stock.release', payload: { order: saga.id } }) }, { name: 'pay' }];
    handlers = {
        'order.placed': async (event, saga) => {
            saga.completeStep('reserve');
            await saga.timeout('unpaid', event.data.pay_within);
        },
        'order.paid': async (event, saga) => {
            saga.completeStep('pay');
            await saga.enqueue({ topic: 'shipment.request', payload: { order: saga.id } });
            saga.complete();
        },
    };
    timeouts = { unpaid: (saga) => saga.fail('not paid in time') };
    correlation({ stream }) {
        return stream.slice(stream.indexOf('-') + 1);
    }
    initial() {
        return {};
    }
}

const upcastersOf = (list) =>
    list.reduce((all, { type, from, rename, set }) => {
        const [before, now] = rename;
        return all.add(type, from, ({ [before]: value, ...data }) => ({ ...data, [now]: value, ...set }));
    }, new Upcasters());

const REVENUE = 'create table revenue (stream text primary key, total numeric, times int)';

function revenue(negative) {
    return {
        name: 'revenue',
        types: ['order.*'],
        async handle(tx, events) {
            for (const { type, stream, data } of events) {
                if (data === null) continue;
                if (data.total < 0 && !negative) throw new Error('a negative total');
                if (type === 'order.placed') await tx.query('insert into revenue values ($1, $2, 1)', [stream, data.total]);
                if (type === 'order.changed') await tx.query('update revenue set total = $2, times = times + 1 where stream = $1', [stream, data.total]);
            }
        },
        clear: (tx) => tx.query('delete from revenue'),
    };
}

class Shop {
    constructor(pool, { snapshot_every: snapshotEvery, upcasters, encryption }) {
        this.pool = pool;
        this.plain = new EventStore();
        this.store = new EventStore({
            ...(upcasters ? { upcasters: upcastersOf(upcasters) } : {}),
            ...(encryption ? { encryption: new FieldEncryption({ provider: new LocalKeys({ m: Buffer.alloc(32, 7) }), masterKey: 'm', fields: encryption.fields, keyPer: 'subject', subject: ({ data }) => data.customer }) } : {}),
        });
        this.orders = new Repository(this.store, Order, { snapshotEvery, retry: { wait: 0.01 } });
        const decide = (body) => async ({ data }, { tx }) => {
            const order = await this.orders.load(tx, data.id);
            body(order, data);
            return { version: (await this.orders.save(tx, order)).lastVersion };
        };
        this.bus = new CommandBus(pool)
            .use(retry(), correlation(), idempotency())
            .register('order.place', decide((order, { customer, total, pay_within: payWithin }) => order.place(customer, total, payWithin)))
            .register('order.pay', decide((order, { by }) => order.pay(by)));
    }

    async decide({ id, calls }) {
        const order = await transaction(this.pool, async (tx) => {
            const order = await this.orders.load(tx, id);
            for (const [method, ...args] of calls) order[method](...args);
            await this.orders.save(tx, order);
            return order;
        });
        return { version: order.version, state: order.snapshot() };
    }

    async race({ id, first, second, retry: again = false }) {
        let met = false;
        const decide = async (order) => {
            if (!met) await this.decide({ id, calls: first });
            met = true;
            for (const [method, ...args] of second) order[method](...args);
        };
        if (again) {
            const { aggregate } = await this.orders.execute(this.pool, id, decide);
            return { version: aggregate.version, state: aggregate.snapshot() };
        }
        return transaction(this.pool, async (tx) => {
            const order = await this.orders.load(tx, id);
            await decide(order);
            await this.orders.save(tx, order);
        });
    }

    async append({ stream, expected_version: expected, events, plain = false }) {
        const made = events.map(({ event_id: eventId, ...event }) => ({ ...event, ...(eventId ? { eventId } : {}) }));
        const done = await transaction(this.pool, (tx) => (plain ? this.plain : this.store).append(tx, stream, made, expected));
        return { first_version: done.firstVersion, last_version: done.lastVersion, repeated: done.repeated };
    }

    load({ stream, from_version: from = 1 }) {
        return transaction(this.pool, (tx) => this.store.load(tx, stream, from));
    }

    async subscribe({ count }) {
        const seen = [];
        for await (const event of subscribeAll(this.pool, this.store, { pollInterval: 0.05 })) if (seen.push(event) === count) break;
        return seen;
    }

    command({ type, data, key, context }) {
        return this.bus.dispatch({ type, data, ...(key ? { key } : {}), ...(context ? { metadata: context } : {}) });
    }

    async call({ function: name, args }) {
        return new Outbox(this.pool)[camel(name)](Object.fromEntries(Object.entries(args).map(([key, value]) => [camel(key), value])));
    }

    async query({ sql }) {
        return (await this.pool.query({ text: sql, rowMode: 'array' })).rows[0]?.[0];
    }

    async #until(runs, sql) {
        await settled(this.pool);
        const stop = new AbortController();
        const running = runs.run({ signal: stop.signal });
        try {
            await Promise.race([waitFor(sql, () => this.query({ sql })), running]);
        } finally {
            stop.abort();
            await running;
        }
    }

    async project({ until, negative = false }) {
        await this.pool.query(REVENUE.replace('table', 'table if not exists'));
        await this.#until(new ProjectionEngine(this.pool, this.store, { ...QUICK, batchSize: 2 }).register(revenue(negative)), until);
    }

    async rebuild({ negative = false }) {
        let last;
        const engine = new ProjectionEngine(this.pool, this.store, QUICK).register(revenue(negative));
        await engine.rebuild('revenue', { onProgress: (progress) => (last = progress) });
        return { reported: last.projection === 'revenue' && last.done === last.total };
    }

    async sagas({ until }) {
        await this.#until(new SagaManager(this.pool, this.store, QUICK).register(new Payment()), until);
    }

    async make({ upcasters }) {
        return new EventStore({ upcasters: upcastersOf(upcasters) });
    }
}

const OPERATIONS = { decide: 'decide', race: 'race', append: 'append', load: 'load', subscribe: 'subscribe', command: 'command', call: 'call', query: 'query', project: 'project', rebuild: 'rebuild', sagas: 'sagas', store: 'make' };

/** The properties of `expected` are in `actual`. */
function check(actual, expected, where) {
    if (Array.isArray(expected)) {
        assert.equal(actual?.length, expected.length, `${where}: ${JSON.stringify(actual)}`);
        expected.forEach((item, i) => check(actual[i], item, `${where}[${i}]`));
    } else if (expected !== null && typeof expected === 'object') {
        for (const [name, item] of Object.entries(expected)) check(actual?.[name], item, `${where}.${name}`);
    } else assert.equal(actual, expected, where);
}

function checkError(error, { rejected, ...wanted }, where) {
    if (rejected !== undefined) return assert.ok(error.message.includes(rejected), `${where}: ${error}`);
    assert.ok(error instanceof OutboxError, `${where}: ${error}`);
    check({ kind: error.kind, code: error.code, name: error.codeName, stream: error.stream, expected: error.expected, actual: error.actual }, wanted, where);
}

let server;
before(async () => {
    server = await startServer();
});
after(() => server?.end());

for (const file of readdirSync(folder).sort()) {
    const { description, steps, ...settings } = JSON.parse(readFileSync(new URL(file, folder), 'utf8'));
    test(`${file}: ${description}`, async (t) => {
        for (const name of Object.keys(settings)) assert.ok(['snapshot_every', 'upcasters', 'encryption'].includes(name), name);
        const pool = new pg.Pool({ connectionString: await server.database() });
        pool.on('error', () => {});
        t.after(() => pool.end());
        const shop = new Shop(pool, settings);
        const saved = new Map();
        for (const [i, step] of steps.entries()) {
            for (const name of Object.keys(step)) assert.ok(['do', 'args', 'expect', 'error', 'save', 'description'].includes(name), name);
            const where = `step ${i + 1} (${step.do} ${JSON.stringify(step.args)})`;
            const args = JSON.parse(JSON.stringify(step.args), (_, value) => (typeof value === 'string' && value.startsWith('$') ? saved.get(value.slice(1)) : value));
            const called = async () => shop[OPERATIONS[step.do]](args);
            if (step.error) {
                await called().then(() => assert.fail(`${where}: no error`), (error) => checkError(error, step.error, where));
                continue;
            }
            const result = await called().catch((error) => {
                throw new Error(`${where}: ${error} ${error.detail ?? ''}`, { cause: error });
            });
            if (step.save) saved.set(step.save, result);
            if ('expect' in step) check(result, step.expect, where);
        }
    });
}
