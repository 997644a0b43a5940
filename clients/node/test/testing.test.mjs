// Helpers for the tests of applications: throwaway servers, a database for each file or test, a fixed clock.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, afterEach, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import pg from 'pg';

import { EventStore, NO_STREAM, transaction } from '../dist/events.mjs';
import { OutboxError } from '../dist/index.mjs';
import { TestServer, useDatabase, useFixed } from '../dist/testing.mjs';
import { waitFor } from './server.mjs';

const here = fileURLToPath(new URL('..', import.meta.url));
// The PostgreSQL that scripts/setup has downloaded.
process.env.PG_CONFIG ??= fileURLToPath(new URL(`../../../.cache/pg${process.env.PG ?? 18}/bin/pg_config`, import.meta.url));
const cli = join(here, 'dist/cli.js');
const listens = (dsn) => new Promise((resolve) => {
    const socket = createConnection(Number(new URL(dsn).port), '127.0.0.1');
    socket.once('connect', () => resolve(socket.destroy() && true)).once('error', () => resolve(false));
});
const folders = () => readdirSync(tmpdir()).filter((name) => name.startsWith('pg-outbox-test-'));

describe('a database for a file', () => {
    const db = useDatabase({ before, after });
    useFixed({ beforeEach, afterEach }, { now: '2026-02-03T04:05:06Z' });
    const store = new EventStore();
    let first;

    test('has the extension, and events have the fixed clock and ids', async () => {
        first = db.dsn;
        await transaction(db.pool, (tx) => store.append(tx, 'a-1', [{ type: 'a', data: 1 }, { type: 'a', data: 2 }], NO_STREAM));
        const events = await store.load(db.pool, 'a-1');
        assert.deepEqual(events.map(({ eventId }) => eventId.slice(-2)), ['01', '02']);
        assert.equal(events[0].occurredAt.toISOString(), '2026-02-03T04:05:06.000Z');
    });
    test('is the same in the next test, where the ids begin again', async () => {
        assert.equal(db.dsn, first);
        await transaction(db.pool, (tx) => store.append(tx, 'a-2', [{ type: 'a', data: 1 }], NO_STREAM));
        assert.equal((await store.load(db.pool, 'a-2'))[0].eventId, '00000000-0000-0000-0000-000000000001');
    });
});

describe('a database for each test', () => {
    const db = useDatabase({ before: beforeEach, after: afterEach });
    const seen = new Set();
    for (const n of [1, 2]) test(`is another one (${n})`, () => assert.equal(seen.add(db.dsn).size, n));
    after(async () => {
        const [dsn] = seen;
        await assert.rejects(new pg.Client(dsn).connect(), { code: '3D000' }, 'it was dropped');
    });
});

test('a throwaway server ends with end(), and with the process that has started it, and leaves no folder', async (t) => {
    const before = folders();
    const server = await TestServer.start({ settings: { 'pg_outbox.poll_interval': '7s' } });
    const client = new pg.Client(await server.database());
    await client.connect();
    client.on('error', () => {});
    assert.equal((await client.query('show pg_outbox.poll_interval')).rows[0]['pg_outbox.poll_interval'], '7s');
    await assert.rejects(server.drop(server.dsn), OutboxError, 'a database that is not of a test is not dropped');
    await server.end();
    assert.equal(await listens(server.dsn), false);
    const script = "import { TestServer } from 'pg-outbox/testing'; console.log((await TestServer.start()).dsn); setInterval(() => {}, 1000);";
    const folder = mkdtempSync(join(tmpdir(), 'outbox-inner-'));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    linked(folder);
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] });
    const dsn = await new Promise((resolve) => child.stdout.setEncoding('utf8').once('data', resolve));
    assert.equal(await listens(dsn.trim()), true);
    child.kill('SIGKILL');
    await waitFor('the server has ended', async () => !(await listens(dsn.trim())));
    await waitFor('the folders are gone', () => folders().every((name) => before.includes(name)));
});

test('a server that cannot start says why', async () => {
    await assert.rejects(TestServer.start({ settings: { nonsense: 1 } }), (error) => error instanceof OutboxError && /nonsense/.test(error.detail));
    await assert.rejects(TestServer.start({ pgConfig: '/no/pg_config' }), (error) => error instanceof OutboxError && /PG_OUTBOX_TEST_DSN/.test(error.hint));
});

function linked(folder) {
    mkdirSync(join(folder, 'node_modules'), { recursive: true });
    const modules = realpathSync(join(here, 'node_modules'));
    for (const name of readdirSync(modules).filter((one) => !one.startsWith('.') && !existsSync(join(folder, 'node_modules', one)))) symlinkSync(join(modules, name), join(folder, 'node_modules', name), 'dir');
    symlinkSync(here, join(folder, 'node_modules/pg-outbox'), 'dir');
}

test('with-server runs a command with one server for all of its processes', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'outbox-inner-'));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    linked(folder);
    const source = (body) => `
        import { after, before, test } from 'node:test';
        import assert from 'node:assert/strict';
        import { writeFileSync } from 'node:fs';
        import { useDatabase } from 'pg-outbox/testing';
        const db = useDatabase({ before, after });
        test('x', async () => { ${body} });`;
    for (const n of [1, 2]) writeFileSync(join(folder, `${n}.test.mjs`), source(`writeFileSync('${n}.port', new URL(db.dsn).port); assert.equal((await db.pool.query('select outbox.version() as v')).rowCount, 1);`));
    const { NODE_TEST_CONTEXT: _, PG_OUTBOX_TEST_DSN: __, ...env } = process.env;
    const run = (...args) => execFileSync(process.execPath, [cli, 'with-server', ...args], { cwd: folder, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
    const output = run(process.execPath, '--test', '1.test.mjs', '2.test.mjs');
    assert.match(output, /pass 2\n/);
    const ports = [1, 2].map((n) => execFileSync('cat', [join(folder, `${n}.port`)], { encoding: 'utf8' }));
    assert.equal(ports[0], ports[1]);
    assert.equal(await listens(`postgresql://127.0.0.1:${ports[0]}/x`), false);
    assert.throws(() => run('sh', '-c', 'exit 7'), { status: 7 });
    assert.throws(() => run(), { status: 2 });
});
