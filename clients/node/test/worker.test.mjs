// Pull workers against a real server: outcomes, leases, shutdown, restarts.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import postgres from 'postgres';

import {
    deliveries, FatalError, InvalidError, LeaseLostError, NotFoundError, Outbox, Reject, RetryAfter, RetryError, Worker,
} from '../dist/index.mjs';
import { drain, settled } from '../dist/testing.mjs';
import { sleep } from '../dist/work/time.js';
import { startServer, waitFor } from './server.mjs';

let server;
before(async () => {
    server = await startServer();
});
after(() => server?.end());

/** Creates a database with a pull subscription `work` to all topics. */
async function setUp(t, options = {}) {
    const dsn = await server.database();
    const pool = new pg.Pool({ connectionString: dsn });
    pool.on('error', () => {});
    t.after(() => pool.end());
    const outbox = new Outbox(pool);
    await outbox.subscribe({ name: 'work', topics: ['#'], ...options });
    return { dsn, pool, outbox };
}
const FAST = { pollInterval: 0.02, lease: 30 };
const attempts = async (pool) =>
    (await pool.query('select outcome, attempt, error, response_id, results, worker from outbox.attempt order by finished_at, attempt')).rows;

test('a handler that returns completes; its result is kept', async (t) => {
    const { pool } = await setUp(t);
    await new Outbox(pool).enqueue({ topic: 'a.b', payload: { n: 1 }, key: 'k', headers: { h: 'v' }, metadata: { user_id: 'u' }, tenant: 't' });
    await new Outbox(pool).enqueue({ topic: 'a.bytes', body: Buffer.from([1, 2, 255]) });
    const seen = [];
    const worker = new Worker(
        pool,
        'work',
        async (message, context) => {
            seen.push(message);
            assert.ok((await context.extend(60)) instanceof Date);
            if (seen.length === 2) worker.stop();
            return message.topic === 'a.b' ? 'receiver-7' : { total: 2, succeeded: 2 };
        },
        { ...FAST, name: 'w1', concurrency: 1 },
    );
    const summary = await worker.run();
    assert.deepEqual(summary, { claimed: 2, completed: 2, failed: 0, dead: 0, released: 0, lost: 0 });
    const [first, second] = seen;
    assert.equal(first.topic, 'a.b');
    assert.deepEqual(first.json(), { n: 1 });
    assert.equal(first.text(), '{"n":1}');
    assert.equal(first.base64(), Buffer.from('{"n":1}').toString('base64'));
    assert.equal(first.get('user_id'), 'u');
    assert.deepEqual([first.key, first.tenant, first.attempt, first.subscription], ['k', 't', 1, 'work']);
    assert.deepEqual(first.headers, { h: 'v' });
    assert.match(first.webhookId, /^msg_/);
    assert.ok(first.enqueuedAt instanceof Date && Math.abs(first.enqueuedAt - Date.now()) < 3_600_000);
    assert.deepEqual([...second.bytes()], [1, 2, 255]);
    assert.throws(() => second.json(), InvalidError);
    const log = await attempts(pool);
    assert.deepEqual(log.map((a) => a.outcome), ['completed', 'completed']);
    assert.equal(log[0].response_id, 'receiver-7');
    assert.deepEqual(log[1].results, { total: 2, succeeded: 2 });
    assert.equal(log[0].worker, 'w1');
});

test('exceptions become failures, RetryAfter says when, Reject is a dead letter', async (t) => {
    const { pool, outbox } = await setUp(t);
    await new Outbox(pool).enqueueMany(['throws', 'later', 'rejects', 'strange', 'sync'].map((what) => ({ topic: 'a', payload: { what } })));
    const errors = [];
    const handler = (message) => {
        if (message.attempt > 1) return undefined;
        switch (message.payload.what) {
            case 'throws':
                return Promise.reject(new TypeError('boom'));
            case 'later':
                throw new RetryAfter(0, 'not yet');
            case 'rejects':
                throw new Reject('malformed\0 for good');
            case 'strange':
                throw undefined;
            default:
                throw new Error('synchronous');
        }
    };
    const summary = await drain(pool, 'work', handler, { swallow: true, onError: (error) => errors.push(error) });
    assert.deepEqual({ failed: summary.failed, dead: summary.dead, completed: summary.completed }, { failed: 4, dead: 1, completed: 1 });
    assert.equal(errors.length, 5);
    const failed = (await pool.query('select last_error from outbox.delivery order by position')).rows.map((row) => row.last_error);
    assert.deepEqual(failed, ['TypeError: boom', 'a value of type undefined was thrown', 'Error: synchronous']);
    const [letter, ...more] = await outbox.list('dead_letter_status', { where: { resolution: 'open', subscription: 'work' } });
    assert.equal(more.length, 0);
    assert.equal(letter.lastError, 'malformed\ufffd for good');
    assert.equal(letter.reason, 'rejected');
    // The dead-letter workflow.
    await assert.rejects(outbox.resolveDeadLetter({ deadLetterId: 999_999, actor: 'me', note: 'x' }), NotFoundError);
    await outbox.requeue({ deadLetterId: letter.deadLetterId, actor: 'me', note: 'fixed' });
    const again = await drain(pool, 'work', (message) => assert.equal(message.payload.what, 'rejects'));
    assert.equal(again.completed, 1);
});

test('a result that is no JSON, or a throw that cannot be shown, fails the delivery at once: nothing stays leased', async (t) => {
    const { pool } = await setUp(t);
    const circle = {};
    circle.self = circle;
    const outcomes = {
        ok: () => 'ok',
        nan: () => NaN,
        bigint: () => ({ big: 1n }),
        circle: () => circle,
        function: () => () => {},
        toJSON: () => ({ toJSON: () => { throw undefined; } }),
        deep: () => JSON.parse('['.repeat(8000) + ']'.repeat(8000)),
        wait: () => { throw new RetryAfter('5 parsecs', 'the words'); },
        message: () => { throw Object.assign(new Error(), { message: Symbol('x') }); },
        getter: () => { throw Object.defineProperty(new Error(), 'message', { get() { throw new Error('no'); } }); },
        proxy: () => { throw new Proxy({}, { getPrototypeOf() { throw new Error('no'); } }); },
        nothing: () => { throw null; },
    };
    const names = Object.keys(outcomes);
    await new Outbox(pool).enqueueMany(names.map((name) => ({ topic: 'a', payload: { name }, key: name })));
    const summary = await drain(pool, 'work', (message) => outcomes[message.payload.name](), { swallow: true });
    assert.deepEqual([summary.completed, summary.failed, summary.lost], [2, names.length - 2, 0]);
    const { rows } = await pool.query(`select m.key, d.state, d.last_error from outbox.delivery d join outbox.message m on m.id = d.message_id`);
    const errors = Object.fromEntries(rows.map((row) => [row.key, row.last_error]));
    assert.deepEqual(rows.filter((row) => row.state !== 'failed'), []);
    for (const name of ['bigint', 'circle', 'function', 'toJSON']) assert.match(errors[name], /handler's result cannot be JSON/, name);
    assert.match(errors.deep, /outcome was refused|cannot be JSON/);
    assert.match(errors.wait, /^the words \(the outcome was refused: InvalidError/);
    for (const name of ['message', 'getter', 'proxy']) assert.match(errors[name], /cannot be shown/, name);
});

test('the heartbeat keeps a lease that is shorter than the work', async (t) => {
    const { pool } = await setUp(t);
    await new Outbox(pool).enqueue({ topic: 'a', payload: 1 });
    const started = Date.now();
    let runs = 0;
    const worker = new Worker(
        pool,
        'work',
        async () => {
            runs += 1;
            await new Promise((resolve) => setTimeout(resolve, 4000));
            worker.stop();
        },
        { ...FAST, lease: 1 },
    );
    const summary = await worker.run();
    assert.ok(Date.now() - started >= 4000);
    assert.deepEqual({ runs, completed: summary.completed, lost: summary.lost }, { runs: 1, completed: 1, lost: 0 });
});

test('a lost lease aborts the handler, and its outcome does not count', async (t) => {
    const { pool, outbox } = await setUp(t);
    await new Outbox(pool).enqueue({ topic: 'a', payload: 1 });
    const errors = [];
    const worker = new Worker(
        pool,
        'work',
        async (message, { signal }) => {
            if (message.attempt > 1) {
                worker.stop();
                return 'second';
            }
            assert.equal(await outbox.unlockStale({ olderThan: 0 }), 1);
            await new Promise((resolve) => signal.addEventListener('abort', resolve));
            assert.ok(signal.reason instanceof LeaseLostError);
            return 'first';
        },
        { ...FAST, lease: 1, onError: (error) => errors.push(error) },
    );
    const summary = await worker.run();
    assert.deepEqual({ lost: summary.lost, completed: summary.completed }, { lost: 1, completed: 1 });
    const log = await attempts(pool);
    assert.deepEqual(log.map((a) => [a.outcome, a.response_id]), [['failed', null], ['completed', 'second']]);
    assert.ok(errors.some((error) => error instanceof LeaseLostError && error.code === 'OB003' && error.kind === 'lease_lost'));
});

test('the end waits for what was begun and gives the rest back', async (t) => {
    const { pool } = await setUp(t);
    await new Outbox(pool).enqueueMany(Array.from({ length: 10 }, (_, n) => ({ topic: 'a', payload: { n } })));
    const controller = new AbortController();
    let finished = 0;
    const worker = new Worker(
        pool,
        'work',
        async () => {
            controller.abort();
            await new Promise((resolve) => setTimeout(resolve, 200));
            finished += 1;
        },
        { ...FAST, concurrency: 2, batchSize: 10, signal: controller.signal },
    );
    const summary = await worker.run();
    assert.equal(finished, summary.completed);
    assert.ok(finished >= 1 && finished <= 2, `finished ${finished}`);
    assert.equal(summary.claimed, summary.completed + summary.released);
    const { rows } = await pool.query("select count(*)::int as n, max(attempt) as attempt, count(lease)::int as leased from outbox.delivery");
    assert.deepEqual(rows[0], { n: 10 - finished, attempt: 0, leased: 0 });
});

test('a handler that does not end in time is aborted, and its delivery given back', async (t) => {
    const { pool } = await setUp(t);
    await new Outbox(pool).enqueue({ topic: 'a', payload: 1 });
    let aborted = false;
    const worker = new Worker(
        pool,
        'work',
        (_, { signal }) => {
            signal.addEventListener('abort', () => (aborted = true));
            worker.stop();
            return new Promise(() => {});
        },
        { ...FAST, shutdownTimeout: 0.2 },
    );
    const summary = await worker.run();
    assert.ok(aborted);
    assert.deepEqual({ released: summary.released, completed: summary.completed }, { released: 1, completed: 0 });
    const { rows } = await pool.query('select state, attempt from outbox.delivery');
    assert.deepEqual(rows, [{ state: 'pending', attempt: 0 }]);
});

test('as an async iterator: an outcome has to be said', async (t) => {
    const { pool } = await setUp(t);
    await new Outbox(pool).enqueueMany([0, 1, 2, 3, 4, 5].map((n) => ({ topic: 'a', payload: { n } })));
    for await (const delivery of deliveries(pool, 'work', FAST)) {
        const { n } = delivery.message.payload;
        if (n === 0) assert.equal(await delivery.complete('done'), true);
        else if (n === 1) assert.equal(await delivery.fail('no', 3600), true);
        else if (n === 2) assert.equal(await delivery.dead('never'), true);
        else if (n === 3) continue; // without an outcome
        else {
            assert.equal(n, 4);
            break;
        }
    }
    const { rows } = await pool.query('select position, state, attempt, last_error from outbox.delivery order by position');
    assert.deepEqual(rows.map((row) => [row.state, row.attempt, row.last_error]), [
        ['failed', 1, 'no'],
        ['failed', 1, 'the loop went on without an outcome'],
        ['failed', 1, 'the loop ended without an outcome'],
        ['pending', 0, null],
    ]);
    assert.deepEqual((await attempts(pool)).filter((a) => a.outcome === 'completed').map((a) => a.response_id), ['done']);
});

test('an exception in the loop fails what it was about', async (t) => {
    const { pool } = await setUp(t);
    await new Outbox(pool).enqueueMany([0, 1, 2].map((n) => ({ topic: 'a', payload: { n } })));
    await assert.rejects(async () => {
        for await (const delivery of deliveries(pool, 'work', { ...FAST, concurrency: 3 })) {
            if (delivery.message.payload.n === 1) throw new Error('body');
            await delivery.complete();
        }
    }, /body/);
    const { rows } = await pool.query('select attempt, lease from outbox.delivery order by position');
    assert.deepEqual(rows, [{ attempt: 1, lease: null }, { attempt: 0, lease: null }]);
});

test('what no waiting will cure ends a worker with a typed error', async (t) => {
    const { pool, dsn } = await setUp(t);
    await assert.rejects(new Worker(pool, 'nothing', () => {}).run(), (error) => error instanceof NotFoundError && error.code === 'OB001');
    const bare = new pg.Pool({ connectionString: await server.database({ extension: false }) });
    t.after(() => bare.end());
    await assert.rejects(new Worker(bare, 'work', () => {}).run(), (error) => {
        assert.ok(error instanceof FatalError);
        assert.equal(error.codeName, 'extension_missing');
        assert.match(error.hint, /create extension pg_outbox/);
        return true;
    });
    await pool.query("create role node_nobody login password 'x'");
    const url = new URL(dsn);
    url.username = 'node_nobody';
    url.password = 'x';
    const unprivileged = new pg.Pool({ connectionString: url.href });
    t.after(() => unprivileged.end());
    await assert.rejects(new Worker(unprivileged, 'work', () => {}).run(), (error) => {
        assert.ok(error instanceof FatalError);
        assert.equal(error.codeName, 'insufficient_privilege');
        assert.match(error.hint, /grant_to/);
        return true;
    });
    await new Outbox(pool).grantTo({ role: 'node_nobody', capability: 'consume' });
    assert.deepEqual((await drainAs(unprivileged)).claimed, 0);
    for (const options of [{ concurrency: 0 }, { lease: -1 }, { pollInterval: Number.NaN }, { batchSize: 1.5 }]) {
        assert.throws(() => new Worker(pool, 'work', () => {}, options), InvalidError);
    }
    assert.throws(() => new Worker(pool, 'work', 'no function'), InvalidError);
});
const drainAs = (pool) => new Worker(pool, 'work', () => {}, { untilEmpty: true }).run();

test('a worker that goes on completes and claims in one call', async (t) => {
    const { pool, outbox, dsn } = await setUp(t);
    const admin = new pg.Client(dsn);
    await admin.connect();
    t.after(() => admin.end());
    await admin.query(`alter database ${new URL(dsn).pathname.slice(1)} set track_functions = 'all'`);
    const calls = async (name) =>
        Number((await admin.query('select coalesce(sum(calls), 0) as n from pg_stat_user_functions where funcname = $1', [name])).rows[0].n);
    for (const [batchSize, concurrency] of [[1, 1], [5, 5], [undefined, 4]]) {
        await new Outbox(pool).enqueueMany(Array.from({ length: 40 }, (_, n) => ({ topic: 'a', payload: { n } })));
        const before = await calls('complete_and_claim');
        // The worker has its own connections, which report their statistics when they end.
        const own = new pg.Pool({ connectionString: dsn });
        own.on('error', () => {});
        let handled = 0;
        const worker = new Worker(
            own,
            'work',
            () => {
                handled += 1;
                if (handled === 40) worker.stop();
            },
            { ...FAST, concurrency, ...(batchSize ? { batchSize } : {}) },
        );
        const summary = await worker.run();
        await own.end();
        assert.deepEqual(summary, { claimed: 40, completed: 40, failed: 0, dead: 0, released: 0, lost: 0 });
        // All leases but the last one are completed in this way.
        await waitFor('leases are completed with a claim', async () => (await calls('complete_and_claim')) - before >= 40 / concurrency - 1);
    }
    assert.equal((await outbox.stats()).waiting, 0);
});

test('a lease that is lost before the next claim costs its outcome only', async (t) => {
    const { pool, outbox } = await setUp(t);
    await new Outbox(pool).enqueueMany([0, 1, 2].map((n) => ({ topic: 'a', payload: { n } })));
    const errors = [];
    let handled = 0;
    const worker = new Worker(
        pool,
        'work',
        async (message) => {
            handled += 1;
            if (message.attempt === 1 && message.payload.n === 1) assert.equal(await outbox.unlockStale({ olderThan: 0 }), 1);
            if (handled === 4) worker.stop();
        },
        { ...FAST, concurrency: 1, onError: (error) => errors.push(error) },
    );
    const summary = await worker.run();
    assert.deepEqual({ completed: summary.completed, lost: summary.lost }, { completed: 3, lost: 1 });
    assert.deepEqual(errors.map((error) => error.code), ['OB003']);
    assert.deepEqual((await attempts(pool)).map((a) => a.outcome).sort(), ['completed', 'completed', 'completed', 'failed']);
});

test('two workers share, each delivery is handled once', async (t) => {
    const { pool, dsn } = await setUp(t);
    const sql = postgres(dsn, { max: 4, onnotice: () => {} });
    t.after(() => sql.end());
    const n = 400;
    await new Outbox(pool).enqueueMany(Array.from({ length: n }, (_, i) => ({ topic: 'a', payload: { i } })));
    const seen = [];
    const controller = new AbortController();
    const handler = async (message) => {
        seen.push(message.payload.i);
        await new Promise((resolve) => setImmediate(resolve));
    };
    // One worker uses a pool of pg, the other one postgres.js.
    const workers = [pool, sql].map((client) => new Worker(client, 'work', handler, { ...FAST, concurrency: 5, batchSize: 20, signal: controller.signal }).run());
    await waitFor('everything is done', async () => (await pool.query('select 1 from outbox.attempt_log')).rowCount === n);
    controller.abort();
    const summaries = await Promise.all(workers);
    assert.equal(summaries[0].completed + summaries[1].completed, n);
    assert.ok(summaries.every((summary) => summary.completed > 0), 'both had a share');
    assert.deepEqual(seen.sort((a, b) => a - b), Array.from({ length: n }, (_, i) => i));
});

test('failures are logged without any setting, and nothing is when a logger is switched off', async (t) => {
    const { pool } = await setUp(t);
    const lines = [];
    t.mock.method(console, 'error', (...args) => lines.push(args));
    const handler = () => {
        throw new TypeError('a bug in the handler');
    };
    for (const logger of [undefined, false]) {
        await new Outbox(pool).enqueue({ topic: 'a', payload: 1, maxAttempts: 1 });
        await settled(pool);
        await new Worker(pool, 'work', handler, { untilEmpty: true, logger }).run();
    }
    assert.equal(lines.length, 1);
    assert.match(lines[0][0], /^pg_outbox: delivery failed \(subscription=work topic=a webhookId=msg_/);
    assert.match(lines[0][1].stack, /TypeError: a bug in the handler\n.*worker\.test/);
});

test('SIGTERM ends workers and readers gracefully without any setting, and then the process', async (t) => {
    const { dsn, pool } = await setUp(t);
    await new Outbox(pool).enqueue({ topic: 'a', payload: 1 });
    await settled(pool);
    const program = `
        import pg from 'pg';
        import { Reader, Worker } from '${new URL('../dist/index.mjs', import.meta.url)}';
        const pool = new pg.Pool({ connectionString: process.argv[1] });
        const reading = new Reader(pool, { consumer: 'c' }).apply(async () => {});
        const summary = await new Worker(pool, 'work', async () => {
            console.log('begun');
            await new Promise((resolve) => setTimeout(resolve, 300));
        }).run();
        console.log('completed', summary.completed, 'applied', await reading);
        // Something keeps the process alive: it ends by the signal all the same.
        setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', program, dsn], { cwd: fileURLToPath(new URL('.', import.meta.url)), stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(() => child.kill('SIGKILL'));
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text) => (output += text));
    const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })));
    await waitFor('the handler has begun', () => output.includes('begun'));
    child.kill('SIGTERM');
    assert.deepEqual(await ended, { code: null, signal: 'SIGTERM' });
    assert.match(output, /completed 1 applied \d/);
    assert.deepEqual((await attempts(pool)).map((a) => a.outcome), ['completed']);
});

test('many workers and readers of a pool listen on one connection', async (t) => {
    const { pool, dsn } = await setUp(t);
    const outbox = new Outbox(pool);
    const small = new pg.Pool({ connectionString: dsn, max: 3 });
    small.on('error', () => {});
    t.after(() => small.end());
    const controller = new AbortController();
    const handled = [];
    const names = Array.from({ length: 6 }, (_, i) => `many${i}`);
    for (const name of names) await outbox.subscribe({ name, topics: [name] });
    const running = names.map((name) => new Worker(small, name, () => void handled.push(name), { pollInterval: 600, signal: controller.signal }).run());
    const listening = async () =>
        (await pool.query("select 1 from pg_stat_activity where datname = current_database() and query = 'listen outbox_pull'")).rowCount;
    await waitFor('they listen', async () => (await listening()) === 1);
    for (const [n, name] of names.entries()) {
        await outbox.enqueue({ topic: name, payload: 1 });
        await waitFor(`${name} was woken`, () => handled.length === n + 1);
    }
    assert.equal(await listening(), 1);
    controller.abort();
    await Promise.all(running);
    await waitFor('nobody listens any more', async () => (await listening()) === 0);
});

test('a worker lives through restarts of the server: everything enqueued is handled', async (t) => {
    const own = await startServer(['max_worker_processes=60', 'pg_outbox.poll_interval=1s']);
    const dsn = await own.database();
    const pool = new pg.Pool({ connectionString: dsn, max: 5 });
    pool.on('error', () => {});
    t.after(async () => {
        await pool.end();
        await own.end();
    });
    await new Outbox(pool).subscribe({ name: 'work', topics: ['#'] });
    const handled = new Map();
    const errors = [];
    const controller = new AbortController();
    const running = new Worker(
        pool,
        'work',
        async (message) => {
            await new Promise((resolve) => setTimeout(resolve, 2));
            handled.set(message.payload.n, (handled.get(message.payload.n) ?? 0) + 1);
        },
        { concurrency: 8, batchSize: 16, pollInterval: 0.02, lease: 5, backoff: { min: 0.02, max: 0.3 }, signal: controller.signal, onError: (e) => errors.push(e) },
    ).run();
    const enqueued = new Set();
    let n = 0;
    const put = async (count) => {
        for (let i = 0; i < count; i += 1) {
            n += 1;
            try {
                await new Outbox(pool).enqueue({ topic: 'a', payload: { n } });
                enqueued.add(n);
            } catch (error) {
                // The message may be committed although its answer was lost. It does not count as enqueued.
                assert.ok(error instanceof RetryError, `${error?.name} ${error?.code}: ${error?.message}`);
                await new Promise((resolve) => setTimeout(resolve, 20));
            }
        }
    };
    for (const how of ['fast', 'immediate', 'fast']) {
        const [, restart] = await Promise.allSettled([put(60), own.tell(`restart ${how}`)]);
        assert.equal(restart.status, 'fulfilled');
        await put(20);
    }
    await waitFor('everything is handled', () => [...enqueued].every((one) => handled.has(one)));
    controller.abort();
    const summary = await running;
    const twice = [...handled.values()].filter((times) => times > 1).length;
    assert.ok(enqueued.size >= 60, `enqueued ${enqueued.size}`);
    assert.ok(twice <= 3 * 24, `handled twice: ${twice}`);
    assert.ok(errors.length > 0 && errors.every((error) => ['retry', 'lease_lost'].includes(error.kind)), errors.map((e) => `${e}`).join());
    assert.ok(summary.completed > 0);
});

test('a wait that is longer than a timer of Node can be does not end at once', async () => {
    for (const seconds of [1e7, 1e300, Infinity]) {
        const controller = new AbortController();
        let ended = false;
        const waiting = sleep(seconds, controller.signal).then(() => (ended = true));
        // A timer that overflows ends before this one.
        await sleep(0.05);
        assert.equal(ended, false, `${seconds}`);
        controller.abort();
        await waiting;
    }
    for (const wrong of [{ lease: NaN }, { pollInterval: 0 }, { backoff: { max: -1 } }, { concurrency: 1.5 }]) {
        assert.throws(() => new Worker(new pg.Pool(), 'work', () => {}, wrong), InvalidError, JSON.stringify(wrong));
    }
});
