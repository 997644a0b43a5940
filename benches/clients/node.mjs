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
for (const [driver, bare, ours] of [
    ['pg', () => client.query(text, values), () => enqueue(client, message)],
    ['postgres', () => sql.unsafe(text, values), () => enqueue(sql, message)],
]) {
    const best = { bare: Infinity, ours: Infinity };
    // Both are measured in turn and the best of each counts, because other load on the machine affects both.
    for (let round = 0; round < 4; round += 1) {
        best.bare = Math.min(best.bare, await microseconds(bare));
        best.ours = Math.min(best.ours, await microseconds(ours));
    }
    say({ case: 'enqueue', driver, bare_us: best.bare, ours_us: best.ours });
}
client.release();
await sql.end();

const outbox = new Outbox(pool);

async function fill(name, n) {
    await outbox.subscribe({ name, topics: [`bench.${name}`] });
    for (let i = 0; i < n; i += 1000) {
        const some = Array.from({ length: Math.min(1000, n - i) }, (_, j) => ({ topic: `bench.${name}`, payload: { n: i + j } }));
        await enqueueMany(pool, some);
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
    while (!(await outbox.subscriptions()).some((one) => one.name === 'node_latency')) await sleep(50);
    let next = performance.now() + 500;
    for (let i = 0; i < latencies; i += 1) {
        await sleep(Math.max(0, next - performance.now()));
        next += 10;
        await enqueue(pool, { topic: 'latency.node', payload: { at: performance.now() } });
    }
    await running;
    waits.sort((a, b) => a - b);
    say({ case: 'latency', p50_ms: waits[waits.length >> 1], p99_ms: waits[Math.floor(waits.length * 0.99)] });
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
