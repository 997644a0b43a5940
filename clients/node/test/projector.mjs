// A process that runs a projection until it is ended, for projections.test.mjs.
import pg from 'pg';

import { EventStore, ProjectionEngine } from '../dist/events.mjs';

const pool = new pg.Pool({ connectionString: process.argv[2] });
pool.on('error', () => {});
const engine = new ProjectionEngine(pool, new EventStore(), { batchSize: 5, pollInterval: 0.05, backoff: { min: 0.01, max: 0.1 }, logger: false }).register({
    name: 'shared',
    handle: async (tx, events) => {
        for (const { data } of events) await tx.query('insert into noted (projection, n) values ($1, $2)', ['shared', data.n]);
        await tx.query('select pg_sleep(0.02)');
    },
});
const stop = new AbortController();
process.once('SIGTERM', () => stop.abort());
await engine.run({ signal: stop.signal });
await pool.end();
process.disconnect?.();
