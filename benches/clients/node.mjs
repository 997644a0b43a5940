// Measures the Node client for benches/clients/run: node.mjs DSN. Prints a JSON object per line.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';

const require = createRequire(new URL('../../clients/node/package.json', import.meta.url));
const pg = require('pg');
const postgres = require('postgres');
const { defineTopics, enqueue, enqueueMany, enqueueStatement, Outbox, unchecked, Worker } = require('./dist/index.js');
const { settled } = require('./dist/testing.js');

const dsn = process.argv[2];
const calls = Number(process.env.CALLS ?? 3000);
const deliveries = Number(process.env.DELIVERIES ?? 10_000);
const events = Number(process.env.EVENTS ?? 100_000);
const latencies = Number(process.env.LATENCIES ?? 1000);
const say = (row) => console.log(JSON.stringify({ client: 'node', ...row }));
const message = { topic: 'order.created', payload: { order: 42, amount: 129.95 }, key: 'order-42' };
const { text, values } = enqueueStatement(message);
const pool = new pg.Pool({ connectionString: dsn, max: 4 });
pool.on('error', () => {});

async function microseconds(body) {
    const started = process.hrtime.bigint();
    for (let i = 0; i < calls; i += 1) await body();
    return Number(process.hrtime.bigint() - started) / 1000 / calls;
}

const client = await pool.connect();
const sql = postgres(dsn, { max: 1, onnotice: () => {} });
const reserved = await sql.reserve();
for (const [driver, bare, ours] of [
    ['pg', () => client.query(text, values), () => enqueue(client, message)],
    ['postgres', () => reserved.unsafe(text, values), () => enqueue(reserved, message)],
]) {
    const best = { bare: Infinity, ours: Infinity };
    // Both are measured in turn and the best of each counts, because other load on the machine affects both.
    for (let round = 0; round < 4; round += 1) {
        best.bare = Math.min(best.bare, await microseconds(bare));
        best.ours = Math.min(best.ours, await microseconds(ours));
    }
    say({ case: 'enqueue', driver, bare_us: best.bare, ours_us: best.ours });
}
reserved.release();
await sql.end();

const outbox = new Outbox(pool);

async function fill(name, n) {
    await outbox.subscribe({ name, topics: [`bench.${name}`] });
    for (let i = 0; i < n; i += 1000) {
        const some = Array.from({ length: Math.min(1000, n - i) }, (_, j) => ({ topic: `bench.${name}`, payload: { n: i + j } }));
        await enqueueMany(client, some);
    }
    await settled(pool);
}

/** Runs a worker, which is stopped after the last delivery, and returns the deliveries per second. */
async function rate(n, run) {
    const started = process.hrtime.bigint();
    const { completed } = await run();
    if (completed !== n) throw new Error(`${completed} of ${n} were completed`);
    return n / (Number(process.hrtime.bigint() - started) / 1e9);
}

for (const batch of [1, 100]) {
    const n = batch === 1 ? deliveries / 5 : deliveries;
    const name = `node${batch}`;
    await fill(name, n);
    let handled = 0;
    const options = { batchSize: batch, concurrency: batch, pollInterval: 0.02 };
    const worker = new Worker(pool, name, () => void (++handled === n && worker.stop()), options);
    say({ case: 'worker', batch, per_second: await rate(n, () => worker.run()) });
}

// The worker application, with a schema, against the worker of the same concurrency.
{
    await fill('node_application', deliveries);
    let handled = 0;
    const topics = defineTopics({ 'bench.node_application': unchecked() });
    const handle = () => void (++handled === deliveries && app.stop());
    const options = { batchSize: 100, concurrency: 100, pollInterval: 0.02, client: pool, ensure: false, logger: false };
    const app = topics.worker('node_application', { 'bench.node_application': handle }, options);
    say({ case: 'worker', style: 'application', batch: 100, per_second: await rate(deliveries, () => app.run()) });
}

// From before enqueue() to the handler, at 100 messages a second, with the default settings of the application.
{
    const waits = [];
    const topics = defineTopics({ 'latency.node': unchecked() });
    const handle = ({ at }) => {
        waits.push(performance.now() - at);
        if (waits.length === latencies) app.stop();
    };
    const app = topics.worker('node_latency', { 'latency.node': handle }, { client: pool, logger: false });
    const running = app.run();
    // The application begins with the first message that is stored.
    const ready = "select from outbox.subscription_status where name = 'node_latency' and coalesce(lag_positions, 0) = 0";
    while ((await client.query(ready)).rowCount === 0) await sleep(50);
    let next = performance.now() + 500;
    for (let i = 0; i < latencies; i += 1) {
        await sleep(Math.max(0, next - performance.now()));
        next += 10;
        await enqueue(client, { topic: 'latency.node', payload: { at: performance.now() } });
    }
    await running;
    waits.sort((a, b) => a - b);
    say({ case: 'latency', p50_ms: waits[waits.length >> 1], p99_ms: waits[Math.floor(waits.length * 0.99)] });
}

// An aggregate of ten events that is saved and loaded, beside emmett; a projection; encryption of three fields.
{
    const { Aggregate, EventStore, FieldEncryption, LocalKeys, ProjectionEngine, Repository } = require('./dist/events.js');
    class Order extends Aggregate {
        static category = 'jsorder';
        amount = 0;
        handlers = { 'order.changed': ({ amount }) => { this.amount = amount; } };
        change(amount) {
            this.raise('order.changed', { amount });
        }
    }
    const store = new EventStore();
    const orders = new Repository(store, Order);
    let number = 0;
    const ours = async () => {
        const id = `${(number += 1)}`;
        await orders.decide(pool, id, (order) => {
            for (let amount = 0; amount < 10; amount += 1) order.change(amount);
        });
        await orders.load(pool, id);
    };
    const { getPostgreSQLEventStore } = await import(new URL('../../.cache/stores/node_modules/@event-driven-io/emmett-postgresql/dist/index.js', import.meta.url));
    const emmett = getPostgreSQLEventStore(dsn);
    await emmett.schema.migrate();
    const theirs = async () => {
        const stream = `jsorder-${(number += 1)}`;
        const initial = { initialState: () => ({ amount: 0 }), evolve: (_, { data }) => data };
        await emmett.aggregateStream(stream, initial);
        const changes = Array.from({ length: 10 }, (_, amount) => ({ type: 'order.changed', data: { amount } }));
        await emmett.appendToStream(stream, changes);
        await emmett.aggregateStream(stream, initial);
    };
    const best = { ours: Infinity, theirs: Infinity };
    for (let round = 0; round < 4; round += 1) {
        for (const [name, body] of Object.entries({ ours, theirs })) {
            const started = performance.now();
            for (let i = 0; i < calls / 10; i += 1) await body();
            best[name] = Math.min(best[name], (performance.now() - started) / (calls / 10));
        }
    }
    await emmett.close();
    say({ case: 'aggregate', peer: 'emmett', per_second: 1000 / best.ours, theirs: 1000 / best.theirs });

    const fill = "select count(outbox.append_many('stock-' || i, array_fill('stock.counted'::text, '{100}'), array_fill('{\"n\": 1}'::jsonb, '{100}'))) from generate_series(1, $1::int) i";
    await client.query(fill, [events / 100]);
    client.release();
    await settled(pool);
    const stop = new AbortController();
    let seen = 0;
    const engine = new ProjectionEngine(pool, store, { batchSize: 1000 }).register({
        name: 'counted',
        categories: ['stock'],
        handle: async (_tx, page) => {
            seen += page.length;
            if (seen === events) stop.abort();
        },
    });
    const started = performance.now();
    await engine.run({ signal: stop.signal });
    say({ case: 'projection', per_second: events / ((performance.now() - started) / 1000) });

    const paths = ['name', 'email', 'address.street'];
    const keys = new LocalKeys({ master: Buffer.alloc(32, 7) });
    const encryption = new FieldEncryption({ provider: keys, fields: { 'customer.named': paths }, keyPer: 'event' });
    const sealed = Array.from({ length: calls * 10 }, () => ({
        stream: 'customer-7',
        type: 'customer.named',
        tenant: null,
        metadata: {},
        data: { name: 'Ada Lovelace', email: 'ada@example.com', address: { street: 'Main 1', city: 'Bern' }, total: 42 },
    }));
    const before = performance.now();
    await encryption.seal(pool, sealed);
    say({ case: 'encrypt', us: ((performance.now() - before) / sealed.length) * 1000 });
}
await pool.end();

// The time that loading a module adds to the start of Node.
{
    const start = (code) => {
        const started = performance.now();
        spawnSync(process.execPath, ['-e', code], { stdio: 'inherit' });
        return performance.now() - started;
    };
    const fastest = (code) => Math.min(...Array.from({ length: 7 }, () => start(code)));
    const module = require.resolve('./dist/enqueue.js');
    say({ case: 'import', what: 'enqueue', ms: fastest(`require(${JSON.stringify(module)})`) - fastest('0') });
}
