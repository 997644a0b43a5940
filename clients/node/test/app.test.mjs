// The worker application: typed topics, handlers, rules, middleware, periodic messages, health, the command, the test client.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTcpServer, Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import pg from 'pg';
import pino from 'pino';
import * as v from 'valibot';
import { z } from 'zod';

import { defineTopics, InvalidError, Outbox, RetryAfter, transaction, unchecked } from '../dist/index.mjs';
import { drain, perform } from '../dist/testing.mjs';
import { startServer, waitFor } from './server.mjs';

const here = fileURLToPath(new URL('..', import.meta.url));
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

const events = defineTopics({
    'order.created': z.object({ order: z.number(), at: z.coerce.date() }),
    'order.paid': v.object({ order: v.number() }),
    'order.noted': unchecked(),
});
const QUIET = { logger: false, pollInterval: 0.02 };

test('payloads are checked when they are enqueued, by zod and by valibot, and the values are not in the error', async (t) => {
    const { pool } = await setUp(t);
    const put = (topic, payload) => transaction(pool, (tx) => events.enqueue(tx, topic, payload, { key: 'k' }));
    assert.ok((await put('order.created', { order: 1, at: new Date() })) > 0);
    assert.ok((await put('order.noted', { anything: 1 })) > 0);
    for (const [topic, payload] of [['order.created', { order: 'secret', at: 0 }], ['order.paid', { order: 'secret' }], ['order.paid', { secret: 1 }]]) {
        await assert.rejects(put(topic, payload), (error) => {
            assert.ok(error instanceof InvalidError, String(error));
            assert.match(error.message, /invalid payload of "order/);
            assert.doesNotMatch(String(error), /secret/);
            return true;
        });
    }
    await assert.rejects(put('order.lost', {}), /topic "order.lost" is not defined/);
    await assert.rejects(events.enqueue(pool, 'order.paid', { order: 1 }), /needs a transaction/);
    assert.equal((await pool.query('select 1 from outbox.message where key is not null')).rowCount, 2);
    assert.throws(() => defineTopics({ 'not a topic': unchecked() }), /malformed topic/);
});

test('on a connection of pg, a message whose await was forgotten is part of the transaction all the same', async (t) => {
    const { dsn, pool } = await setUp(t);
    const client = new pg.Client(dsn);
    await client.connect();
    t.after(() => client.end());
    for (const end of ['commit', 'rollback']) {
        await client.query('begin');
        void events.enqueue(client, 'order.paid', { order: 1 }, { key: end });
        await client.query(end);
    }
    assert.deepEqual((await pool.query('select key from outbox.message where key is not null')).rows, [{ key: 'commit' }]);
});

test('handlers get what the schema makes; rules say what errors mean; middleware is around them', async (t) => {
    const { pool, outbox } = await setUp(t);
    class NotBillable extends Error {}
    class Busy extends Error {}
    const seen = [];
    const app = events.worker(
        'billing',
        {
            'order.created': (order) => {
                assert.ok(order.at instanceof Date);
                seen.push(`created ${order.order}`);
                if (order.order === 2) throw new NotBillable('of a friend');
                if (order.order === 3) throw new Busy('later');
                if (order.order === 4) throw new TypeError('a bug');
            },
            'order.paid': { handle: (paid) => void seen.push(`paid ${paid.order}`), concurrency: 1, retry: { on: [Busy] } },
        },
        {
            ...QUIET,
            retry: { dead: [NotBillable] },
            middleware: [
                async (message, context, next) => {
                    seen.push('outer');
                    return next();
                },
                async (message, context, next) => (seen.push('inner'), next()),
            ],
            onError: () => {},
        },
    );
    await app.ensure(pool);
    for (const order of [1, 2, 3, 4]) await outbox.enqueue({ topic: 'order.created', payload: { order, at: '2026-01-01' }, key: String(order) });
    await outbox.enqueue({ topic: 'order.created', payload: { order: 'five' }, key: '5' });
    await outbox.enqueue({ topic: 'order.paid', payload: { order: 6 }, key: '6' });
    const controller = new AbortController();
    const running = app.run({ client: pool, signal: controller.signal });
    const letters = () => outbox.list('dead_letter_status', { orderBy: 'key' });
    await waitFor('all are handled', async () => seen.filter((one) => /\d/.test(one)).length >= 5 && (await letters()).length === 2);
    controller.abort();
    const summary = await running;
    assert.deepEqual([summary.completed, summary.dead, summary.failed], [2, 2, 2]);
    assert.deepEqual(seen.slice(0, 2), ['outer', 'inner']);
    const [friend, invalid] = await letters();
    assert.deepEqual([friend.key, friend.lastError], ['2', 'Error: of a friend']);
    assert.equal(invalid.key, '5');
    assert.match(invalid.lastError, /^invalid payload: .*order/);
});

test('the subscription is created from the first message on, altered when the handlers change, and listens', async (t) => {
    const { pool, outbox } = await setUp(t);
    await outbox.enqueue({ topic: 'order.paid', payload: { order: 1 } });
    const one = events.worker('s', { 'order.paid': () => {} }, { ...QUIET, ensure: { maxAttempts: 3 } });
    await one.ensure(pool);
    await one.ensure(pool);
    const two = events.worker('s', { 'order.paid': () => {}, 'order.created': () => {} }, QUIET);
    await two.ensure(pool);
    const [{ maxAttempts, notify }] = await outbox.list('subscription', { where: { name: 's' } });
    assert.deepEqual([maxAttempts, notify], [3, true]);
    const [{ topics }] = await outbox.list('subscription_stats', { where: { name: 's' } });
    assert.deepEqual(topics.sort(), ['order.created', 'order.paid']);
    assert.equal((await drain(pool, two)).completed, 1, 'the message that was enqueued before');
});

test('the test client runs the same handlers, with and without a server, and throws what they throw', async (t) => {
    const { pool, outbox } = await setUp(t);
    class NotBillable extends Error {}
    const app = events.worker(
        'billing',
        {
            'order.paid': (paid, message) => {
                if (paid.order < 0) throw new NotBillable('negative');
                return `${paid.order} ${message.key}`;
            },
        },
        { logger: false, retry: { dead: [NotBillable] } },
    );
    assert.equal(await perform(app, 'order.paid', { order: 1 }, { key: 'k' }), '1 k');
    await assert.rejects(perform(app, 'order.paid', { order: -1 }), NotBillable);
    await assert.rejects(perform(app, 'order.paid', { order: 'x' }), /invalid payload/);
    await assert.rejects(perform(app, 'order.created', {}), /no handler/);
    await outbox.enqueue({ topic: 'order.paid', payload: { order: 1 } });
    assert.equal((await drain(pool, app)).completed, 1);
    await outbox.enqueue({ topic: 'order.paid', payload: { order: -1 } });
    await assert.rejects(drain(pool, app), NotBillable);
});

test('a tick of a periodic message is enqueued once, however many processes run, also one that was just missed', async (t) => {
    const { pool } = await setUp(t);
    let n = 0;
    const app = () =>
        events.worker('jobs', { 'order.noted': () => {} }, {
            ...QUIET,
            // The payload differs from process to process: the first one counts.
            periodic: [{ cron: '* * * * *', topic: 'order.noted', name: 'minute', payload: (tick) => ({ tick, n: (n += 1) }) }],
        });
    const controller = new AbortController();
    const running = [app(), app(), app()].map((one) => one.run({ client: pool, signal: controller.signal }));
    await waitFor('each process has enqueued', () => n >= 3);
    controller.abort();
    await Promise.all(running);
    const { rows } = await pool.query("select idempotency_key as key, payload from outbox.message where topic = 'order.noted' order by id");
    assert.ok(rows.length >= 1 && new Set(rows.map((row) => row.key)).size === rows.length, JSON.stringify(rows));
    for (const { key, payload } of rows) {
        assert.match(key, /^tick minute \d{4}-\d\d-\d\dT\d\d:\d\d:00Z$/);
        assert.equal(`tick minute ${payload.tick.replace('.000Z', 'Z')}`, key);
    }
    for (const cron of ['* * * *', '60 * * * *', '* * * * * *', 'a b c d e', '0 0 30 2 *']) {
        assert.throws(() => events.worker('x', { 'order.noted': () => {} }, { periodic: [{ cron, topic: 'order.noted' }] }), InvalidError, cron);
    }
});

test('a long sleep of the machine misses ticks, but those of the last ten minutes', async (t) => {
    const { pool } = await setUp(t);
    const { now } = Date;
    const ticks = [];
    const lines = [];
    let caughtUp;
    const done = new Promise((resolve) => (caughtUp = resolve));
    const payload = (tick) => {
        ticks.push(tick.getTime());
        // The machine sleeps for a week after the first tick.
        if (ticks.length === 1) Date.now = () => now() + 7 * 86_400_000;
        if (ticks.length === 20 || tick.getTime() > Date.now() - 60_000) caughtUp();
        return { n: ticks.length };
    };
    const logger = { info() {}, warn: (line) => lines.push(line), error: (line) => lines.push(line) };
    const app = events.worker('jobs', { 'order.noted': () => {} }, { ...QUIET, logger, periodic: [{ cron: '* * * * *', topic: 'order.noted', payload }] });
    try {
        const running = app.run({ client: pool });
        await done;
        app.stop();
        await running;
    } finally {
        Date.now = now;
    }
    const week = 7 * 86_400_000;
    assert.ok(ticks.length >= 10 && ticks.length <= 13, `${ticks.length} ticks`);
    assert.ok(ticks[1] - ticks[0] >= week - 600_000, 'the ticks of the week are missed');
    assert.match(lines.join('\n'), /ticks of a periodic message are missed/);
});

test('the default pool does not wait without end for a server that does not answer', async (t) => {
    const alive = [];
    const { setKeepAlive } = Socket.prototype;
    Socket.prototype.setKeepAlive = function (...args) {
        alive.push(args);
        return setKeepAlive.apply(this, args);
    };
    const sockets = [];
    const silent = createTcpServer((socket) => sockets.push(socket));
    await new Promise((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { DATABASE_URL } = process.env;
    process.env.DATABASE_URL = `postgresql://u:p@127.0.0.1:${silent.address().port}/d`;
    t.after(() => {
        Socket.prototype.setKeepAlive = setKeepAlive;
        if (DATABASE_URL === undefined) delete process.env.DATABASE_URL;
        else process.env.DATABASE_URL = DATABASE_URL;
        for (const socket of sockets) socket.destroy();
        silent.close();
    });
    const lines = [];
    const logger = { info() {}, warn: (line) => lines.push(line), error: (line) => lines.push(line) };
    const app = events.worker('jobs', { 'order.noted': () => {} }, { ...QUIET, logger });
    const running = app.run();
    await waitFor('it notices that the server does not answer', () => lines.length > 0);
    app.stop();
    await running;
    assert.match(lines[0], /timeout.*trying again/);
    assert.ok(alive.some(([on, delay]) => on === true && delay > 0), JSON.stringify(alive));
});

test('a trace goes on from the enqueueing span to the span of the handler', async (t) => {
    const { pool } = await setUp(t);
    const otel = await import('@opentelemetry/api');
    const { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } = await import('@opentelemetry/sdk-trace-base');
    const { AsyncLocalStorageContextManager } = await import('@opentelemetry/context-async-hooks');
    const { W3CTraceContextPropagator } = await import('@opentelemetry/core');
    const exporter = new InMemorySpanExporter();
    otel.trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));
    otel.context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
    otel.propagation.setGlobalPropagator(new W3CTraceContextPropagator());
    t.after(() => [otel.trace, otel.context, otel.propagation].forEach((one) => one.disable()));
    let inside;
    const app = events.worker('traced', { 'order.paid': () => void (inside = otel.trace.getActiveSpan()) }, QUIET);
    await app.ensure(pool);
    await otel.trace.getTracer('test').startActiveSpan('request', async (span) => {
        await transaction(pool, (tx) => events.enqueue(tx, 'order.paid', { order: 1 }));
        span.end();
    });
    await drain(pool, app);
    const [request, process] = exporter.getFinishedSpans();
    assert.deepEqual([request.name, process.name], ['request', 'process order.paid']);
    assert.equal(process.spanContext().traceId, request.spanContext().traceId);
    assert.equal(process.parentSpanContext.spanId, request.spanContext().spanId);
    assert.equal(inside.spanContext().spanId, process.spanContext().spanId);
});

test('pino gets facts and error as fields', async () => {
    const lines = [];
    const logger = pino({}, { write: (line) => lines.push(JSON.parse(line)) });
    const { Log } = await import('../dist/work/log.js').then((module) => module.default);
    new Log(logger).write('error', 'delivery failed', { topic: 'a.b' }, new TypeError('boom'));
    assert.deepEqual([lines[0].level, lines[0].topic, lines[0].err.message, lines[0].msg], [50, 'a.b', 'boom', 'pg_outbox: delivery failed']);
});

test('a handler takes the topics of a pattern, after those that have a handler of their own', async (t) => {
    const { pool, outbox } = await setUp(t);
    const seen = [];
    const app = events.worker(
        'patterns',
        {
            'order.*': (payload, message) => void seen.push(['order.*', message.topic]),
            'order.paid': (paid) => void seen.push(['order.paid', paid.order]),
            '#': (payload, message) => void seen.push(['#', message.topic]),
        },
        { ...QUIET, onError: () => {} },
    );
    assert.equal(await perform(app, 'order.noted', {}), undefined);
    await assert.rejects(perform(app, 'order.paid', { order: 'x' }), /invalid payload/);
    await assert.rejects(perform(app, 'order.created', { order: 'x' }), /invalid payload/, 'a pattern does not leave out the schema');
    await assert.rejects(perform(app, 'user.created', {}), /topic "user.created" is not defined/);
    assert.throws(() => events.worker('x', { 'order.a*': () => {} }), /malformed topic pattern/);
    seen.length = 0;
    await app.ensure(pool);
    await outbox.enqueue({ topic: 'order.paid', payload: { order: 1 } });
    await outbox.enqueue({ topic: 'order.noted', payload: {} });
    await drain(pool, app);
    assert.deepEqual(seen.sort(), [['order.*', 'order.noted'], ['order.paid', 1]]);
});

test('an application runs projections and hooks, and is not healthy while an effect fails', async (t) => {
    const { pool, outbox } = await setUp(t);
    await pool.query('create table totals (n int)');
    await pool.query('insert into totals values (0)');
    const seen = [];
    let broken = true;
    const apply = async (tx, messages) => {
        for (const message of messages) {
            if (message.json().order === 2 && broken) throw new RangeError('this effect fails');
            await tx.query('update totals set n = n + $1', [message.json().order]);
        }
    };
    const app = events.worker('jobs', { 'order.noted': () => void seen.push('handled') }, {
        ...QUIET,
        projections: [{ consumer: 'all"of', topics: ['order.paid'], pollInterval: 0.02, backoff: { min: 0.01, max: 0.05 }, apply }],
        onStartup: (client) => void seen.push(client === pool ? 'startup' : 'another client'),
        onShutdown: () => void seen.push('shutdown'),
        onError: (error) => void seen.push(error.message),
    });
    assert.throws(() => events.worker('x', { 'order.paid': () => {} }, { projections: [{ consumer: 'a', apply }, { consumer: 'a', apply }] }), /twice/);
    const port = await freePort();
    const running = app.run({ client: pool, health: `127.0.0.1:${port}` });
    const get = async (path) => {
        const response = await fetch(`http://127.0.0.1:${port}${path}`);
        return { status: response.status, body: await response.text() };
    };
    await waitFor('it is healthy', () => get('/health').then(({ status }) => status === 200, () => false));
    for (const order of [1, 2, 3]) await outbox.enqueue({ topic: 'order.paid', payload: { order } });
    await outbox.enqueue({ topic: 'order.noted', payload: {} });
    await waitFor('the effect fails', async () => (await get('/health')).status === 503);
    const { state, workers } = JSON.parse((await get('/health')).body);
    assert.equal(state, 'failing');
    const errorPosition = await waitFor('the error is recorded', async () => (await outbox.cursorGet({ consumer: 'all"of', ifMissing: 0 })).errorPosition);
    assert.equal(workers[0].projections[0].failingPosition, errorPosition);
    assert.match((await get('/metrics')).body, /outbox_projection_failing\{consumer="all\\"of"\} 1\n/);
    broken = false;
    await waitFor('it is healthy again', async () => (await get('/health')).status === 200);
    await waitFor('all are applied', async () => (await pool.query('select n from totals')).rows[0].n === 6);
    assert.match((await get('/metrics')).body, /outbox_projection_messages_total\{consumer="all\\"of"\} 3\n/);
    await waitFor('the worker works', () => seen.includes('handled'));
    app.stop();
    assert.equal((await running).completed, 1);
    assert.equal(seen[0], 'startup');
    assert.equal(seen.at(-1), 'shutdown');
    assert.ok(seen.includes('this effect fails'));
});

test('a projection that cannot go on, and a hook that throws, end the application with their error', async (t) => {
    const { pool } = await setUp(t);
    const seen = [];
    const projections = [{ consumer: 'c', after: 1000, apply: async () => {} }];
    const one = events.worker('one', { 'order.noted': () => {} }, { ...QUIET, projections });
    await assert.rejects(one.run({ client: pool }), (error) => error.code === 'OB009');
    const onStartup = () => {
        throw new RangeError('no');
    };
    const two = events.worker('two', { 'order.noted': () => {} }, { ...QUIET, onStartup, onShutdown: () => void seen.push('shutdown') });
    await assert.rejects(two.run({ client: pool }), RangeError);
    assert.deepEqual(seen, ['shutdown']);
});

/** Starts `pg-outbox worker` for an application in a folder of its own. */
async function command(t, dsn, source, args = []) {
    const folder = mkdtempSync(join(here, 'test', 'app-'));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    writeFileSync(join(folder, 'app.mjs'), source.replaceAll("'pg-outbox'", `'${pathToFileURL(join(here, 'dist/index.mjs'))}'`));
    const child = spawn(process.execPath, [join(here, 'dist/cli.js'), 'worker', join(folder, 'app.mjs'), ...args], {
        env: { ...process.env, DATABASE_URL: dsn },
        stdio: ['ignore', 'pipe', 'pipe'],
    });
    const run = { child, folder, output: '', ended: new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal }))) };
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (run.output += text));
    t.after(() => child.kill('SIGKILL'));
    return run;
}
const APP = `
import { defineTopics, unchecked } from 'pg-outbox';
const events = defineTopics({ 'job.run': unchecked() });
export default events.worker('jobs', {
    'job.run': async ({ wait, fails }) => {
        if (fails) throw new RangeError('this handler fails');
        console.log('begun');
        await new Promise((resolve) => setTimeout(resolve, wait));
        return 'done';
    },
});
`;
const freePort = () =>
    new Promise((resolve) => {
        const probe = createServer().listen(0, '127.0.0.1', () => {
            const { port } = probe.address();
            probe.close(() => resolve(port));
        });
    });

test('the command works, logs, answers on its health port, and ends gracefully on SIGTERM', async (t) => {
    const { dsn, pool, outbox } = await setUp(t);
    const port = await freePort();
    const run = await command(t, dsn, APP, ['--health', `127.0.0.1:${port}`, '--concurrency', '2']);
    await waitFor('it is healthy', () => fetch(`http://127.0.0.1:${port}/health`).then((r) => r.status === 200, () => false));
    await outbox.enqueue({ topic: 'job.run', payload: { fails: true }, maxAttempts: 1 });
    await waitFor('the failure is logged', () => run.output.includes('RangeError: this handler fails'));
    assert.match(run.output, /pg_outbox: delivery failed \(subscription=jobs topic=job\.run webhookId=msg_\S+ deliveryId=\d+ attempt=1\)/);
    await outbox.enqueue({ topic: 'job.run', payload: { wait: 500 } });
    await waitFor('the handler has begun', () => run.output.includes('begun'));
    const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    assert.match(metrics, /outbox_worker_running\{subscription="jobs"\} [12]\n/);
    run.child.kill('SIGTERM');
    assert.deepEqual(await run.ended, { code: 0, signal: null }, run.output);
    const { rows } = await pool.query("select outcome, attempt from outbox.attempt where outcome <> 'dead'");
    assert.deepEqual(rows, [{ outcome: 'completed', attempt: 1 }], 'what was begun is completed');
    assert.equal((await pool.query('select 1 from outbox.lease')).rowCount, 0);
});

test('with --watch the command begins again when the application changes', async (t) => {
    const { dsn } = await setUp(t);
    const run = await command(t, dsn, `${APP}\nconsole.log('version one');`, ['--watch']);
    await waitFor('the first version runs', () => run.output.includes('version one') && run.output.includes('worker started'));
    const source = APP.replaceAll("'pg-outbox'", `'${pathToFileURL(join(here, 'dist/index.mjs'))}'`);
    writeFileSync(join(run.folder, 'app.mjs'), `${source}\nconsole.log('version two');`);
    await waitFor('the second version runs', () => run.output.includes('version two'));
    run.child.kill('SIGTERM');
    await run.ended;
});

test('the command says what is wrong, with an exit code', async (t) => {
    const { dsn } = await setUp(t);
    const wrong = async (source, args, code, pattern, url = dsn) => {
        const run = await command(t, url, source, args);
        assert.equal((await run.ended).code, code, run.output);
        assert.match(run.output, pattern);
    };
    await wrong('export const nothing = 1;', [], 2, /exports no worker application/);
    await wrong(APP, ['--concurrency', 'many'], 2, /--concurrency is a number/);
    await wrong(APP, ['--nonsense'], 2, /Usage: pg-outbox worker APP/);
    await wrong(APP, ['--health', 'nowhere'], 1, /invalid address of the health port/);
    await wrong(APP, [], 1, /DATABASE_URL is not set/, '');
    await wrong(APP, [], 1, /pg does not know services/, 'postgresql:///?service=shop');
    await wrong(APP, [], 1, /not a URL of PostgreSQL/, 'host=/run dbname=shop password=geheim');
    await wrong(APP, [], 1, /extension_missing|not installed/, await server.database({ extension: false }));
});

test('a RetryAfter of a handler says when, and an error after which nobody waits is tried again', async (t) => {
    const { pool, outbox } = await setUp(t);
    const app = events.worker('later', {
        'order.paid': (paid, message) => {
            if (message.attempt === 1) throw new RetryAfter(0, 'not yet');
            if (message.attempt === 2) throw new Error('by the rule');
        },
    }, { ...QUIET, retry: { after: 0 }, onError: () => {} });
    await app.ensure(pool);
    await outbox.enqueue({ topic: 'order.paid', payload: { order: 1 } });
    assert.deepEqual((({ completed, failed }) => [completed, failed])(await drain(pool, app, { swallow: true })), [1, 2]);
});

