// claim + complete per second of pg_outbox, pg-boss and graphile-worker on one server, each through the driver `pg`: the same
// work, a job that does nothing. See ./run.
import pg from "pg";
import { performance } from "node:perf_hooks";

const dsn = process.env.DSN;
const jobs = Number(process.env.JOBS ?? 10000);
const which = process.argv[2];
const batches = (process.env.BATCHES ?? "1,10,100,1000").split(",").map(Number);
const counts = (process.env.WORKERS ?? "1,4,16").split(",").map(Number);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Runs `worker(client)` until `total` jobs are done; jobs per second. */
async function race(workers, total, worker) {
    const clients = [];
    for (let i = 0; i < workers; i++) {
        const client = new pg.Client(dsn);
        await client.connect();
        clients.push(client);
    }
    let done = 0;
    const started = performance.now();
    await Promise.all(clients.map(async (client) => {
        while (done < total) {
            const n = await worker(client);
            done += n;
            if (n === 0 && done < total) await sleep(1);
        }
    }));
    const seconds = (performance.now() - started) / 1000;
    await Promise.all(clients.map((client) => client.end()));
    return done / seconds;
}

function report(system, batch, workers, rate) {
    console.log(`${system.padEnd(16)} batch ${String(batch).padStart(4)}  workers ${String(workers).padStart(2)}  ${rate.toFixed(0).padStart(7)} jobs/s`);
}

async function admin(run) {
    const client = new pg.Client(dsn);
    await client.connect();
    try {
        return await run(client);
    } finally {
        await client.end();
    }
}

async function sizes(system, pattern) {
    const rows = await admin((c) => c.query(
        `select sum(pg_total_relation_size(relid))::bigint as bytes, sum(n_dead_tup)::bigint as dead
        from pg_stat_all_tables where relid::regclass::text ~ $1`, [pattern]));
    console.log(`${system.padEnd(16)} tables ${(rows.rows[0].bytes / 1e6).toFixed(1)} MB, dead rows ${rows.rows[0].dead}`);
}

const systems = {
    async pg_outbox() {
        await admin(async (c) => {
            await c.query("create extension if not exists pg_outbox");
            await c.query("select outbox.subscribe('bench', '{bench.#}') where not exists (select from outbox.subscription where name = 'bench')");
        });
        const fill = (n) => admin(async (c) => {
            await c.query("select outbox.enqueue_many('bench.job', array(select jsonb_build_object('n', n) from generate_series(1, $1::int) n))", [n]);
        });
        for (const batch of batches) {
            for (const workers of counts) {
                const total = batch === 1 ? Math.min(jobs, 4000) : jobs;
                await fill(total);
                await sleep(1000);
                report("pg_outbox", batch, workers, await race(workers, total, async (c) => {
                    const { rows } = await c.query({ name: "claim", text: "select lease, delivery_id, payload from outbox.claim('bench', 'w', $1)", values: [batch] });
                    if (rows.length > 0) await c.query({ name: "complete", text: "select outbox.complete($1)", values: [rows[0].lease] });
                    return rows.length;
                }));
            }
        }
        await sizes("pg_outbox", "outbox.(delivery|lease|dead_letter)$");
    },
    async pgboss() {
        const { PgBoss, default: Old } = await import("pg-boss");
        const boss = new (PgBoss ?? Old)({ connectionString: dsn, max: 40, supervise: false, schedule: false });
        boss.on("error", () => {});
        await boss.start();
        await boss.createQueue("bench");
        for (const batch of batches) {
            for (const workers of counts) {
                const total = batch === 1 ? Math.min(jobs, 4000) : jobs;
                for (let n = 0; n < total; n += 1000) {
                    await boss.insert("bench", Array.from({ length: Math.min(1000, total - n) }, (_, i) => ({ data: { n: n + i } }))).catch(
                        () => boss.insert(Array.from({ length: Math.min(1000, total - n) }, (_, i) => ({ name: "bench", data: { n: n + i } }))));
                }
                report("pg-boss", batch, workers, await race(workers, total, async () => {
                    const found = await boss.fetch("bench", { batchSize: batch });
                    if (found.length > 0) await boss.complete("bench", found.map((job) => job.id));
                    return found.length;
                }));
            }
        }
        await boss.stop({ graceful: false });
        await sizes("pg-boss", "pgboss\\.");
    },
    async graphile() {
        const { run, makeWorkerUtils } = await import("graphile-worker");
        const utils = await makeWorkerUtils({ connectionString: dsn });
        await utils.migrate();
        const quiet = new (await import("graphile-worker")).Logger(() => () => {});
        for (const [batch, local] of [[1, undefined], [500, 500]]) {
            for (const workers of counts) {
                const total = Math.min(jobs, batch === 1 ? 4000 : jobs);
                await admin((c) => c.query("select graphile_worker.add_jobs(array(select row('bench', json_build_object('n', n), null, null, null, null, null, null)::graphile_worker.job_spec from generate_series(1, $1::int) n))", [total]));
                let done = 0;
                let finish;
                const all = new Promise((resolve) => (finish = resolve));
                const started = performance.now();
                const runner = await run({
                    connectionString: dsn, concurrency: workers, maxPoolSize: workers + 4, logger: quiet, noHandleSignals: true, pollInterval: 50,
                    taskList: { bench: () => { if (++done === total) finish(); } },
                    ...(local ? { preset: { worker: { localQueue: { size: local, refetchDelay: { durationMs: 10 } }, completeJobBatchDelay: 5, failJobBatchDelay: 5 } } } : {}),
                });
                await all;
                const seconds = (performance.now() - started) / 1000;
                await runner.stop().catch(() => {});
                report(local ? "graphile (local)" : "graphile-worker", batch, workers, total / seconds);
            }
        }
        await utils.release();
        await sizes("graphile-worker", "graphile_worker\\.");
    },
};

await systems[which]();
