// Measures the overhead of a call over the bare driver, the throughput of a worker and of a worker application, the latency of
// pull with the default settings, and the time of an import. With --restarts it also restarts the server ten times under a
// worker. Run it with `npm run bench`.
import { execFileSync } from 'node:child_process';
import pg from 'pg';
import postgres from 'postgres';
import { defineTopics, enqueue, enqueueMany, enqueueStatement, Outbox, unchecked, Worker } from '../dist/index.mjs';
import { settled } from '../dist/testing.mjs';
import { startServer, waitFor } from '../test/server.mjs';

const server = await startServer(['max_worker_processes=60', 'synchronous_commit=off']);
const dsn = await server.database();
const pool = new pg.Pool({ connectionString: dsn, max: 12 });
pool.on('error', () => {});
const outbox = new Outbox(pool);
const message = { topic: 'order.created', payload: { order: 42, amount: 129.95 }, key: 'order-42' };

async function perSecond(n, body) {
    for (let i = 0; i < n / 10; i += 1) await body();
    const started = process.hrtime.bigint();
    for (let i = 0; i < n; i += 1) await body();
    return n / (Number(process.hrtime.bigint() - started) / 1e9);
}
const us = (rate) => `${(1e6 / rate).toFixed(0)} us`;

const client = await pool.connect();
const sql = postgres(dsn, { max: 1, onnotice: () => {} });
const { text, values } = enqueueStatement(message);
const N = Number(process.env.N ?? 3000);
// The rounds alternate and the best of each counts, because the machine is shared.
const best = {};
const cases = {
    'pg, bare driver': () => client.query(text, values),
    'pg, enqueue()': () => enqueue(client, message),
    'postgres, bare driver': () => sql.unsafe(text, values),
    'postgres, enqueue()': () => new Outbox(sql).enqueue(message),
};
for (let round = 0; round < 3; round += 1) {
    for (const [name, body] of Object.entries(cases)) best[name] = Math.max(best[name] ?? 0, await perSecond(N, body));
}
for (const [name, rate] of Object.entries(best)) console.log(`${name.padEnd(24)} ${rate.toFixed(0).padStart(7)} /s  ${us(rate)} a call`);
console.log(`overhead: pg ${us(1 / (1 / best['pg, enqueue()'] - 1 / best['pg, bare driver']))}, postgres ${us(1 / (1 / best['postgres, enqueue()'] - 1 / best['postgres, bare driver']))}`);
const batch = Array.from({ length: 1000 }, (_, i) => ({ ...message, payload: { i } }));
console.log(`enqueueMany of 1000      ${((await perSecond(20, () => enqueueMany(client, batch))) * 1000).toFixed(0).padStart(7)} messages/s`);
client.release();
await sql.end();

for (const [batchSize, concurrency, n] of [[1, 1, 2000], [1, 10, 4000], [100, 100, 20000]]) {
    const name = `w${batchSize}_${concurrency}`;
    await outbox.subscribe({ name, topics: [`bench.${name}`] });
    for (let i = 0; i < n; i += 1000) await new Outbox(pool).enqueueMany(Array.from({ length: 1000 }, (_, j) => ({ topic: `bench.${name}`, payload: { n: i + j } })));
    await settled(pool);
    const started = process.hrtime.bigint();
    let handled = 0;
    const worker = new Worker(pool, name, () => void (++handled === n && worker.stop()), { batchSize, concurrency, pollInterval: 0.02 });
    const summary = await worker.run();
    const seconds = Number(process.hrtime.bigint() - started) / 1e9;
    console.log(`worker, batch ${batchSize}, concurrency ${concurrency}: ${(summary.completed / seconds).toFixed(0)} deliveries/s (${summary.completed} of ${n})`);
}

// The application does the same as the worker above it, with a schema, a route and a log. The runs alternate.
const events = defineTopics({ 'bench.app': unchecked() });
const best2 = { worker: 0, app: 0 };
for (let round = 0; round < 3; round += 1) {
    for (const kind of ['worker', 'app']) {
        const name = `${kind}${round}`;
        await outbox.subscribe({ name, topics: ['bench.app'] });
        const n = 10_000;
        for (let i = 0; i < n; i += 1000) await outbox.enqueueMany(Array.from({ length: 1000 }, (_, j) => ({ topic: 'bench.app', payload: { n: i + j } })));
        await settled(pool);
        let handled = 0;
        let runs;
        const handler = () => void (++handled === n && runs.stop());
        const options = { batchSize: 100, concurrency: 100, logger: false };
        runs = kind === 'app' ? events.worker(name, { 'bench.app': handler }, { ...options, ensure: false }) : new Worker(pool, name, handler, options);
        const started = process.hrtime.bigint();
        await runs.run(kind === 'app' ? { client: pool } : undefined);
        best2[kind] = Math.max(best2[kind], n / (Number(process.hrtime.bigint() - started) / 1e9));
        await outbox.unsubscribe({ name });
    }
}
console.log(`batch 100: worker ${best2.worker.toFixed(0)}/s, application ${best2.app.toFixed(0)}/s, ${(best2.app / best2.worker).toFixed(2)} of it`);

await outbox.subscribe({ name: 'latency', topics: ['bench.latency'] });
const latencies = [];
const waiting = new Worker(pool, 'latency', (m) => void latencies.push(performance.now() - m.payload.at), { logger: false });
const latency = waiting.run();
await new Promise((resolve) => setTimeout(resolve, 3000));
for (let i = 0; i < 500; i += 1) {
    const at = performance.now();
    await outbox.enqueue({ topic: 'bench.latency', payload: { at } });
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, 10 - (performance.now() - at))));
}
await waitFor('all have arrived', () => latencies.length === 500);
waiting.stop();
await latency;
const sorted = latencies.toSorted((a, b) => a - b);
console.log(`pull latency at 100/s, default settings: p50 ${sorted[250].toFixed(1)} ms, p99 ${sorted[495].toFixed(1)} ms`);

for (const entry of ['enqueue', 'index']) {
    const script = `const t = process.hrtime.bigint(), c = process.cpuUsage(); require('./dist/${entry}.js'); const { user, system } = process.cpuUsage(c); console.log(Number(process.hrtime.bigint() - t) / 1e6, (user + system) / 1e3)`;
    const runs = Array.from({ length: 15 }, () => execFileSync(process.execPath, ['-e', script], { cwd: new URL('..', import.meta.url), encoding: 'utf8' }).split(' ').map(Number));
    const median = (i) => runs.map((run) => run[i]).toSorted((a, b) => a - b)[7].toFixed(1);
    console.log(`import of ${entry}: ${median(0)} ms, ${median(1)} ms of the processor`);
}

await pool.end();
await server.end();

if (process.argv.includes('--restarts')) {
    // Committed messages must survive a crash here, so commits are synchronous.
    const server = await startServer(['max_worker_processes=60']);
    const pool = new pg.Pool({ connectionString: await server.database(), max: 12 });
    pool.on('error', () => {});
    const outbox = new Outbox(pool);
    await outbox.subscribe({ name: 'restarts', topics: ['restart.#'] });
    const handled = new Map();
    const controller = new AbortController();
    const running = new Worker(pool, 'restarts', async (m) => {
        await new Promise((resolve) => setTimeout(resolve, 5));
        handled.set(m.payload.n, (handled.get(m.payload.n) ?? 0) + 1);
    }, { concurrency: 10, batchSize: 20, lease: 5, pollInterval: 0.05, backoff: { min: 0.02, max: 0.5 }, signal: controller.signal }).run();
    const enqueued = new Set();
    let unsure = 0;
    let n = 0;
    let done = false;
    const producing = (async () => {
        while (!done) {
            n += 1;
            try {
                await new Outbox(pool).enqueue({ topic: 'restart.a', payload: { n } });
                enqueued.add(n);
            } catch {
                unsure += 1;
                await new Promise((resolve) => setTimeout(resolve, 10));
            }
        }
    })();
    for (let i = 0; i < 10; i += 1) {
        await new Promise((resolve) => setTimeout(resolve, 1000));
        await server.tell(`restart ${i % 2 ? 'fast' : 'immediate'}`);
    }
    done = true;
    await producing;
    await waitFor('all is handled', () => [...enqueued].every((one) => handled.has(one)));
    controller.abort();
    const summary = await running;
    const twice = [...handled.values()].reduce((sum, times) => sum + times - 1, 0);
    await pool.end();
    await server.end();
    console.log(`ten restarts: enqueued ${enqueued.size} (and ${unsure} whose answer was lost), handled ${handled.size}, again ${twice}`, summary);
}
