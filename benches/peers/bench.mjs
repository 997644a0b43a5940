// Measures claim and complete per second of pg_outbox, pg-boss, graphile-worker and PgQ, each through the driver `pg`.
// The work is the same, jobs that do nothing. Every cell ends after LIMIT seconds. See ./run.
import pg from "pg";
import { appendFileSync } from "node:fs";
import { performance } from "node:perf_hooks";

const dsn = process.env.DSN;
const jobs = Number(process.env.JOBS ?? 10000);
const limit = Number(process.env.LIMIT ?? 2) * 1000;
const snapshot = Number(process.env.SNAPSHOT ?? 0);
const out = process.env.OUT;
const which = process.argv[2];
const batches = (process.env.BATCHES ?? "1,10,100,1000").split(",").map(Number);
const counts = (process.env.WORKERS ?? "1,4,16").split(",").map(Number);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const note = (line) => appendFileSync(out, `${JSON.stringify(line)}\n`);

async function admin(run) {
    const client = new pg.Client(dsn);
    await client.connect();
    try {
        return await run(client);
    } finally {
        await client.end();
    }
}

/**
 * Runs `worker(client, index)`, which returns how many jobs it completed, until `total` jobs are done or the time is up,
 * and then `worker.end` if there is one. Returns the jobs per second.
 */
async function race(workers, total, worker, most = limit) {
    const clients = [];
    for (let i = 0; i < workers; i++) {
        const client = new pg.Client(dsn);
        await client.connect();
        clients.push(client);
    }
    let done = 0;
    const started = performance.now();
    let last = started;
    await Promise.all(clients.map(async (client, i) => {
        while (done < total && performance.now() - started < most) {
            const n = await worker(client, i);
            if (n > 0) {
                done += n;
                last = performance.now();
            } else if (done < total) {
                await sleep(1);
            }
        }
        await worker.end?.(client, i);
    }));
    await Promise.all(clients.map((client) => client.end()));
    return done / ((last - started) / 1000 || 1);
}

function report(system, batch, workers, rate, extra = {}) {
    console.log(`${system.padEnd(16)} batch ${String(batch).padStart(4)}  workers ${String(workers).padStart(2)}  ${rate.toFixed(0).padStart(7)} jobs/s`);
    note({ system, batch, workers, rate: Math.round(rate), ...extra });
}

/** Reports the size and the dead rows of a system's tables. */
async function sizes(system, pattern, when) {
    const { rows } = await admin(async (c) => {
        await c.query("select pg_stat_clear_snapshot()");
        return c.query(
            `select coalesce(sum(pg_total_relation_size(relid)), 0)::bigint as bytes, coalesce(sum(n_dead_tup), 0)::bigint as dead
            from pg_stat_all_tables where relid::regclass::text ~ $1`, [pattern]);
    });
    const [bytes, dead] = [Number(rows[0].bytes), Number(rows[0].dead)];
    console.log(`${system.padEnd(16)} ${when.padEnd(22)} tables ${(bytes / 1e6).toFixed(1)} MB, dead rows ${dead}`);
    note({ system, when, bytes, dead });
}

/**
 * Measures a system: `fill(n, batch)` creates jobs, `step(batch)` returns a worker's step, `tables` names the measured
 * tables.
 */
const cells = async (system, { fill, step, tables, after = async () => {} }) => {
    if (snapshot > 0) return held(system, { fill, step, tables });
    for (const batch of batches) {
        for (const workers of counts) {
            const total = batch === 1 ? Math.min(jobs, 4000) : jobs;
            await fill(total, batch, workers);
            report(system, batch, workers, await race(workers, total, step(batch)));
            await after();
        }
    }
    await sizes(system, tables, "after");
};

/** Runs rounds of batch 100 with 4 workers, for SNAPSHOT seconds beside a session that holds a snapshot. */
async function held(system, { fill, step, tables }) {
    const holder = new pg.Client(dsn);
    await holder.connect();
    await sizes(system, tables, "before");
    const started = performance.now();
    const rates = [];
    const round = async (batch, workers) => {
        await fill(2000, batch, workers);
        return race(workers, 2000, step(batch), 20000);
    };
    await round(100, 4);
    await holder.query("begin isolation level repeatable read");
    await holder.query("select count(*) from pg_class");
    while (performance.now() - started < snapshot * 1000) rates.push(await round(100, 4));
    const part = Math.max(1, Math.floor(rates.length / 10));
    const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
    report(`${system}, held`, 100, 4, mean(rates), { rounds: rates.length, first: Math.round(mean(rates.slice(0, part))), last: Math.round(mean(rates.slice(-part))) });
    console.log(`${system.padEnd(16)} first tenth ${mean(rates.slice(0, part)).toFixed(0)}, last tenth ${mean(rates.slice(-part)).toFixed(0)} jobs/s`);
    await sleep(1500);
    await sizes(system, tables, `after ${snapshot} s held`);
    await holder.query("rollback");
    await holder.end();
}

const systems = {
    async pg_outbox() {
        await admin(async (c) => {
            await c.query("create extension if not exists pg_outbox");
            await c.query("select outbox.subscribe('bench', '{bench.#}') where not exists (select from outbox.subscription where name = 'bench')");
        });
        await cells("pg_outbox", {
            tables: "outbox.(delivery|lease|dead_letter|_freed_key|_attempt_[0-9]+|_counter_[0-9]+|tick|checkpoint|_tick_[0-9]+|_checkpoint_[0-9]+)$",
            fill: (n) => admin(async (c) => {
                await c.query("select outbox.enqueue_many('bench.job', array(select jsonb_build_object('n', n) from generate_series(1, $1::int) n))", [n]);
                // Wait until the router has created the deliveries.
                for (let i = 0; i < 200; i++) {
                    const { rows } = await c.query("select feed_end = messages and routed = feed_end or waiting >= 10000 as ready from outbox.stats()");
                    if (rows[0].ready) break;
                    await sleep(20);
                }
            }),
            // The call that claims the next batch completes the previous one. A batch counts when it is completed.
            step: (batch) => {
                const held = [];
                const worker = async (c, i) => {
                    const done = held[i];
                    const { rows } = await c.query({
                        name: "next", text: "select lease, delivery_id, payload from outbox.complete_and_claim($1, 'bench', 'w', $2)",
                        values: [done?.[0].lease, batch],
                    });
                    held[i] = rows.length > 0 ? rows : undefined;
                    return done?.length ?? 0;
                };
                worker.end = async (c, i) => {
                    if (held[i]) await c.query("select outbox.complete($1)", [held[i][0].lease]);
                };
                return worker;
            },
        });
    },
    async pgboss() {
        const { PgBoss, default: Old } = await import("pg-boss");
        const boss = new (PgBoss ?? Old)({ connectionString: dsn, max: 40, supervise: false, schedule: false });
        boss.on("error", () => {});
        await boss.start();
        await boss.createQueue("bench");
        await cells("pg-boss", {
            tables: "^pgboss\\.",
            fill: async (total) => {
                for (let n = 0; n < total; n += 1000) {
                    const some = Array.from({ length: Math.min(1000, total - n) }, (_, i) => ({ name: "bench", data: { n: n + i } }));
                    await boss.insert(some).catch(() => boss.insert("bench", some));
                }
            },
            step: (batch) => async () => {
                const found = await boss.fetch("bench", { batchSize: batch });
                if (found.length > 0) await boss.complete("bench", found.map((job) => job.id));
                return found.length;
            },
        });
        await boss.stop({ graceful: false });
    },
    async graphile() {
        const { run, makeWorkerUtils, Logger } = await import("graphile-worker");
        const utils = await makeWorkerUtils({ connectionString: dsn });
        await utils.migrate();
        const quiet = new Logger(() => () => {});
        const drain = async (local, workers, total, most) => {
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
            await Promise.race([all, sleep(most)]);
            const rate = done / ((performance.now() - started) / 1000);
            await runner.stop().catch(() => {});
            await admin((c) => c.query("delete from graphile_worker._private_jobs"));
            return rate;
        };
        if (snapshot > 0) {
            const holder = new pg.Client(dsn);
            await holder.connect();
            await sizes("graphile-worker", "^graphile_worker\\.", "before");
            await holder.query("begin isolation level repeatable read");
            await holder.query("select count(*) from pg_class");
            const rates = [];
            for (const started = performance.now(); performance.now() - started < snapshot * 1000;) rates.push(await drain(500, 4, 2000, 20000));
            const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
            const part = Math.max(1, Math.floor(rates.length / 10));
            report("graphile, held", 500, 4, mean(rates), { rounds: rates.length, first: Math.round(mean(rates.slice(0, part))), last: Math.round(mean(rates.slice(-part))) });
            await sleep(1500);
            await sizes("graphile-worker", "^graphile_worker\\.", `after ${snapshot} s held`);
            await holder.query("rollback");
            await holder.end();
        } else {
            for (const [batch, local] of [[1, undefined], [500, 500]]) {
                for (const workers of counts) {
                    report(local ? "graphile (local)" : "graphile-worker", batch, workers, await drain(local, workers, batch === 1 ? Math.min(jobs, 4000) : jobs, limit));
                }
            }
            await sizes("graphile-worker", "^graphile_worker\\.", "after");
        }
        await utils.release();
    },
    // A PgQ batch is the events between two ticks, and a consumer has one batch at a time. So there are `batch` events
    // per tick and one queue for each worker.
    async pgq() {
        await admin((c) => c.query("create extension if not exists pgq"));
        const queue = (i) => `bench_${i}`;
        await admin(async (c) => {
            for (let i = 0; i < Math.max(...counts, 4); i++) {
                await c.query("select pgq.create_queue($1)", [queue(i)]);
                await c.query("select pgq.set_queue_config($1, 'ticker_max_lag', '0'), pgq.set_queue_config($1, 'ticker_max_count', '1')", [queue(i)]);
                await c.query("select pgq.register_consumer($1, 'bench')", [queue(i)]);
            }
        });
        await cells("PgQ", {
            tables: "^pgq\\.",
            fill: async (total, batch, workers) => admin(async (c) => {
                // A tick takes some milliseconds, so there are fewer ticks if batches are small.
                const ticks = Math.min(Math.ceil(total / batch / workers), batch === 1 ? 200 : 100);
                for (let t = 0; t < ticks; t++) {
                    for (let i = 0; i < workers; i++) {
                        await c.query("select pgq.insert_event($1, 'bench', format('{\"n\": %s}', n)) from generate_series(1, $2::int) n", [queue(i), batch]);
                        await c.query("select pgq.ticker($1)", [queue(i)]);
                    }
                }
            }),
            step: (batch) => async (c, i) => {
                const { rows } = await c.query({ name: "next", text: "select pgq.next_batch($1, 'bench') as id", values: [queue(i)] });
                if (rows[0].id === null) return 0;
                const events = await c.query({ name: "events", text: "select * from pgq.get_batch_events($1)", values: [rows[0].id] });
                await c.query({ name: "finish", text: "select pgq.finish_batch($1)", values: [rows[0].id] });
                return events.rows.length;
            },
        });
    },
};

await systems[which]();
process.exit(0);
