// Measures the Node client for benches/clients/run: node.mjs DSN. Prints a JSON object per line.
import { createRequire } from 'node:module';

const require = createRequire(new URL('../../clients/node/package.json', import.meta.url));
const pg = require('pg');
const postgres = require('postgres');
const { enqueue, enqueueMany, enqueueStatement, Outbox, Worker } = require('./dist/index.js');
const { settled } = require('./dist/testing.js');

const dsn = process.argv[2];
const calls = Number(process.env.CALLS ?? 3000);
const deliveries = Number(process.env.DELIVERIES ?? 10_000);
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
for (const batch of [1, 100]) {
    const n = batch === 1 ? deliveries / 5 : deliveries;
    const name = `node${batch}`;
    await outbox.subscribe({ name, topics: [`bench.${name}`] });
    for (let i = 0; i < n; i += 1000) {
        const some = Array.from({ length: Math.min(1000, n - i) }, (_, j) => ({ topic: `bench.${name}`, payload: { n: i + j } }));
        await enqueueMany(pool, some);
    }
    await settled(pool);
    let handled = 0;
    const options = { batchSize: batch, concurrency: batch, pollInterval: 0.02 };
    const worker = new Worker(pool, name, () => void (++handled === n && worker.stop()), options);
    const started = process.hrtime.bigint();
    const { completed } = await worker.run();
    if (completed !== n) throw new Error(`${completed} of ${n} were completed`);
    say({ case: 'worker', batch, per_second: n / (Number(process.hrtime.bigint() - started) / 1e9) });
}
await pool.end();
