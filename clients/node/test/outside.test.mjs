// The environment of a client: TLS, wrong servers, lost connections, malformed content, signals, NOTIFY.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import postgres from 'postgres';

import { enqueue, FatalError, InvalidError, Outbox, Reader, RetryError, Worker } from '../dist/index.mjs';
import { drain } from '../dist/testing.mjs';
import { startServer, waitFor } from './server.mjs';

let server;
before(async () => {
    server = await startServer(['max_worker_processes=60', 'pg_outbox.poll_interval=1s', 'pg_outbox.notify_readers=on']);
});
after(() => server?.end());

async function setUp(t, options = {}) {
    const dsn = await server.database();
    const pool = new pg.Pool({ connectionString: dsn });
    pool.on('error', () => {});
    t.after(() => pool.end());
    const outbox = new Outbox(pool);
    await outbox.subscribe({ name: 'work', topics: ['#'], ...options });
    return { dsn, pool, outbox };
}

test('certificates are verified with verify-full', async (t) => {
    const { dsn, outbox } = await setUp(t);
    const folder = mkdtempSync(join(tmpdir(), 'outbox-tls-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const port = Number(await server.ask(`tls ${folder}`));
    assert.ok(port > 0);
    const secure = (host, root) => {
        const url = new URL(dsn);
        url.hostname = host;
        url.port = String(port);
        url.searchParams.set('sslmode', 'verify-full');
        url.searchParams.set('sslrootcert', join(folder, root));
        return url.href;
    };
    const good = new pg.Pool({ connectionString: secure('localhost', 'ca.pem') });
    t.after(() => good.end());
    const session = await good.connect();
    assert.ok(session.connection.stream.encrypted && session.connection.stream.authorized);
    await enqueue(session, { topic: 'a', payload: 1 });
    session.release();
    await waitFor('it is drained over TLS', async () => (await drain(good, 'work', () => {})).completed === 1);
    for (const [host, root] of [['localhost', 'other.pem'], ['127.0.0.1', 'ca.pem']]) {
        const bad = new pg.Pool({ connectionString: secure(host, root) });
        const refused = (error) => error instanceof FatalError && error.codeName === 'tls_refused' && error.code === '28000';
        await assert.rejects(new Outbox(bad).head(), refused, `${host} ${root}`);
        // A worker ends and does not retry after a certificate error.
        await assert.rejects(new Worker(bad, 'work', () => {}).run(), refused);
        await bad.end();
    }
    const url = new URL(dsn);
    const ca = (name) => readFileSync(join(folder, name), 'utf8');
    const options = { host: 'localhost', port, database: url.pathname.slice(1), username: url.username, password: url.password, max: 1 };
    const sql = postgres({ ...options, ssl: { ca: ca('ca.pem') } });
    await new Outbox(sql).enqueue({ topic: 'b', payload: 2 });
    await sql.end();
    const wrong = postgres({ ...options, ssl: { ca: ca('other.pem') } });
    await assert.rejects(new Outbox(wrong).enqueue({ topic: 'b', payload: 2 }), (error) => error.codeName === 'tls_refused');
    await wrong.end();
    assert.equal((await outbox.stats()).worker, 'running');
});

test('another version, no extension, no privilege: fatal, with what to do', async (t) => {
    const { dsn, pool } = await setUp(t);
    await pool.query('alter extension pg_outbox drop function outbox.claim; drop function outbox.claim');
    await assert.rejects(
        new Worker(pool, 'work', () => {}).run(),
        (error) => error instanceof FatalError && error.codeName === 'version_mismatch' && error.hint !== undefined,
    );
    const bare = new pg.Pool({ connectionString: await server.database({ extension: false }) });
    t.after(() => bare.end());
    await assert.rejects(new Outbox(bare).enqueue({ topic: 'a', payload: 1 }), (error) => error.codeName === 'extension_missing' && /create extension/.test(error.hint));
    await pool.query("create role stranger_node login password 'x'");
    const url = new URL(dsn);
    url.username = 'stranger_node';
    url.password = 'x';
    const stranger = new pg.Pool({ connectionString: url.href });
    t.after(() => stranger.end());
    await assert.rejects(new Outbox(stranger).enqueue({ topic: 'a', payload: 1 }), (error) => error.codeName === 'insufficient_privilege' && /grant_to/.test(error.hint));
    url.password = 'wrong';
    const unknown = new pg.Pool({ connectionString: url.href });
    t.after(() => unknown.end());
    await assert.rejects(new Outbox(unknown).head(), (error) => error instanceof FatalError && error.codeName === 'authentication_failed');
});

test('a setting with which no connection is possible is fatal: a worker and a reader end with it, and the password is not shown', async (t) => {
    const { dsn } = await setUp(t);
    const url = new URL(dsn);
    url.password = '';
    const password = process.env.PGPASSWORD;
    delete process.env.PGPASSWORD;
    const home = process.env.PGPASSFILE;
    process.env.PGPASSFILE = '/nonexistent';
    t.after(() => {
        if (password !== undefined) process.env.PGPASSWORD = password;
        if (home === undefined) delete process.env.PGPASSFILE;
        else process.env.PGPASSFILE = home;
    });
    const none = new pg.Pool({ connectionString: url.href });
    t.after(() => none.end());
    const fatal = (error) => {
        assert.ok(error instanceof FatalError, String(error));
        assert.deepEqual([error.code, error.codeName], ['28P01', 'authentication_failed']);
        assert.match(error.hint, /PGPASSWORD/);
        return true;
    };
    await assert.rejects(new Worker(none, 'work', () => {}, { logger: false }).run(), fatal);
    await assert.rejects(new Reader(none, { consumer: 'c', logger: false }).apply(async () => {}), fatal);
});

test('before 1.0 the minor version has to be the same: workers, readers and check() end with an error that names both', async (t) => {
    const { pool } = await setUp(t);
    await pool.query("update pg_extension set extversion = '0.9.0' where extname = 'pg_outbox'");
    const refused = (error) => {
        assert.ok(error instanceof FatalError, String(error));
        assert.equal(error.codeName, 'version_mismatch');
        assert.match(error.detail, /0\.9\.0.*0\.1\.0/);
        return true;
    };
    await assert.rejects(new Worker(pool, 'work', () => {}, { logger: false }).run(), refused);
    await assert.rejects(new Reader(pool, { consumer: 'c', logger: false, untilEnd: true }).apply(async () => {}), refused);
    await assert.rejects(new Outbox(pool).check(), refused);
    await pool.query("update pg_extension set extversion = '0.1.9' where extname = 'pg_outbox'");
    await new Outbox(pool).check();
});

test('a connection lost in a transaction is a retry, and its messages are not there', async (t) => {
    const { dsn, pool } = await setUp(t);
    const client = new pg.Client(dsn);
    client.on('error', () => {});
    await client.connect();
    await client.query('begin');
    await enqueue(client, { topic: 'lost', payload: 1 });
    const { rows } = await client.query('select pg_backend_pid() as pid');
    await pool.query('select pg_terminate_backend($1)', [rows[0].pid]);
    await assert.rejects(async () => {
        await enqueue(client, { topic: 'lost', payload: 1 });
    }, RetryError);
    assert.equal((await pool.query("select 1 from outbox.message where topic = 'lost'")).rowCount, 0);
});

test('malformed content fails its own delivery only', async (t) => {
    const { pool } = await setUp(t, { maxAttempts: 1 });
    await new Outbox(pool).enqueue({ topic: 'bytes', body: Buffer.from([0, 255, 254]) });
    await new Outbox(pool).enqueue({ topic: 'broken', body: '{"n": ', contentType: 'application/json' });
    await new Outbox(pool).enqueue({ topic: 'wrong', payload: { m: 1 } });
    await new Outbox(pool).enqueue({ topic: 'right', payload: { n: { o: 7 } } });
    const seen = [];
    const total = { failed: 0, completed: 0 };
    await waitFor('all have ended', async () => {
        const summary = await drain(pool, 'work', (message) => void seen.push(message.json().n.o), { swallow: true });
        total.failed += summary.failed;
        total.completed += summary.completed;
        return total.failed + total.completed === 4;
    });
    assert.deepEqual([seen, total], [[7], { failed: 3, completed: 1 }]);
    const { rows } = await pool.query('select last_error from outbox.dead_letter order by message_id');
    assert.match(rows[0].last_error, /InvalidError/);
    assert.match(rows[1].last_error, /InvalidError/);
    assert.match(rows[2].last_error, /TypeError/);
    await assert.rejects(new Outbox(pool).enqueue({ topic: 'a', payload: 1n }), InvalidError);
});

/** Starts a worker in a process of its own, which prints each begin and end of a delivery. */
function child(dsn, body) {
    const program = `
        import pg from 'pg';
        import { Worker } from '${new URL('../dist/index.mjs', import.meta.url).href}';
        const pool = new pg.Pool({ connectionString: process.argv[1] });
        const controller = new AbortController();
        process.once('SIGINT', () => controller.abort());
        ${body}
        await pool.end();`;
    const process = spawn(globalThis.process.execPath, ['--input-type=module', '-e', program, dsn], {
        cwd: fileURLToPath(new URL('..', import.meta.url)),
        stdio: ['ignore', 'pipe', 'inherit'],
    });
    return { process, lines: createInterface({ input: process.stdout })[Symbol.asyncIterator]() };
}

test('SIGINT ends a worker gracefully: what was begun is finished, the rest given back', async (t) => {
    const { dsn, pool } = await setUp(t);
    await new Outbox(pool).enqueueMany(Array.from({ length: 30 }, (_, n) => ({ topic: 'job', payload: n })));
    const { process, lines } = child(dsn, `
        const handler = async (m) => {
            console.log('begun', m.payload);
            await new Promise((resolve) => setTimeout(resolve, 500));
            console.log('done', m.payload);
        };
        const options = { concurrency: 3, batchSize: 20, pollInterval: 0.02, signal: controller.signal };
        console.log('ended', JSON.stringify(await new Worker(pool, 'work', handler, options).run()));`);
    const all = [(await lines.next()).value];
    process.kill('SIGINT');
    for await (const line of lines) all.push(line);
    const of = (what) => all.filter((line) => line.startsWith(`${what} `)).map((line) => Number(line.split(' ')[1]));
    const done = of('done');
    assert.ok(done.length >= 1 && done.length < 30 && all.at(-1).startsWith('ended'), all.join('\n'));
    assert.deepEqual(of('begun').sort(), [...done].sort());
    const { rows } = await pool.query('select m.payload::int as n, d.state, d.attempt from outbox.delivery d join outbox.message m on m.id = d.message_id order by 1');
    assert.deepEqual(rows.map((row) => row.n), Array.from({ length: 30 }, (_, n) => n).filter((n) => !done.includes(n)));
    assert.ok(rows.every((row) => row.state !== 'processing' && row.attempt === 0));
});

test('a worker that is killed acknowledges nothing', async (t) => {
    const { dsn, pool } = await setUp(t);
    await new Outbox(pool).enqueue({ topic: 'job', payload: 1 });
    const { process, lines } = child(dsn, `
        const handler = async () => {
            console.log('begun');
            await new Promise((resolve) => setTimeout(resolve, 600_000));
        };
        await new Worker(pool, 'work', handler, { lease: 1, pollInterval: 0.02 }).run();`);
    assert.equal((await lines.next()).value, 'begun');
    process.kill('SIGKILL');
    await waitFor('its lease has run out, and another one does it', async () => (await drain(pool, 'work', () => {})).completed === 1);
});

for (const [name, open] of [
    ['pg', (dsn) => {
        const pool = new pg.Pool({ connectionString: dsn });
        pool.on('error', () => {});
        return { client: pool, end: () => pool.end() };
    }],
    ['postgres', (dsn) => {
        const sql = postgres(dsn, { onnotice: () => {} });
        return { client: sql, end: () => sql.end() };
    }],
]) {
    test(`with ${name}, workers and readers are woken by NOTIFY, also after the connection was lost`, async (t) => {
        // Without a notification they would not look for ten minutes.
        const dsn = await server.database();
        const { client, end } = open(dsn);
        const controller = new AbortController();
        t.after(() => {
            controller.abort();
            return end();
        });
        const outbox = new Outbox(client);
        await outbox.subscribe({ name: 'work', topics: ['job'], notify: true });
        const admin = new pg.Client(dsn);
        await admin.connect();
        t.after(() => admin.end());
        const handled = [];
        const read = [];
        const options = { pollInterval: 600, listen: true, backoff: { min: 0.02, max: 0.2 }, signal: controller.signal };
        const worker = new Worker(client, 'work', (m) => void handled.push(m.payload), options).run();
        const reading = (async () => {
            for await (const message of new Reader(client, { ...options, topics: ['job'] })) read.push(message.json());
        })();
        for (let n = 0; n < 3; n += 1) {
            await enqueue(admin, { topic: 'job', payload: n });
            await waitFor(`message ${n} is handled and read`, () => handled.length === n + 1 && read.length === n + 1);
        }
        await admin.query("select pg_terminate_backend(pid) from pg_stat_activity where query ~* '^ *listen' and pid <> pg_backend_pid()");
        await enqueue(admin, { topic: 'job', payload: 3 });
        await waitFor('the last one is handled and read', () => handled.length === 4 && read.length === 4);
        controller.abort();
        await worker;
        await reading;
        assert.deepEqual([handled, read], [[0, 1, 2, 3], [0, 1, 2, 3]]);
    });
}

test('listening needs a client that can', async (t) => {
    const { pool } = await setUp(t);
    assert.throws(() => new Worker({ query: (...args) => pool.query(...args) }, 'work', () => {}, { listen: true }), InvalidError);
    assert.throws(() => new Worker(new pg.Pool({ max: 1 }), 'work', () => {}, { listen: true }), InvalidError);
    assert.throws(() => new Reader({ query: () => {} }, { listen: true }), InvalidError);
});
