// examples/node-express: compiled strictly, started, driven, ended with SIGTERM in the middle, and checked.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, symlinkSync } from 'node:fs';
import { Agent, createServer, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import pg from 'pg';

import { startServer, waitFor } from './server.mjs';

const here = fileURLToPath(new URL('..', import.meta.url));
const example = fileURLToPath(new URL('../../../examples/node-express/', import.meta.url));
const modules = realpathSync(join(here, 'node_modules'));
let server;
let folder;
before(async () => {
    server = await startServer(['max_worker_processes=60', 'pg_outbox.poll_interval=1s', 'pg_outbox.allow_http=on', 'pg_outbox.egress_allow=127.0.0.0/8']);
    folder = mkdtempSync(join(tmpdir(), 'pg-outbox-example-'));
    cpSync(example, folder, { recursive: true, filter: (file) => !/node_modules|dist/.test(file.slice(example.length)) });
    mkdirSync(join(folder, 'node_modules'));
    for (const name of readdirSync(modules).filter((one) => !one.startsWith('.'))) symlinkSync(join(modules, name), join(folder, 'node_modules', name), 'dir');
    symlinkSync(here, join(folder, 'node_modules/pg-outbox'), 'dir');
});
after(async () => {
    if (folder) rmSync(folder, { recursive: true, force: true });
    await server?.end();
});

test('it has fewer than 150 lines and is right for tsc, strictly and with the declarations of its packages', () => {
    const files = readdirSync(join(folder, 'src'));
    assert.ok(files.reduce((sum, file) => sum + readFileSync(join(folder, 'src', file), 'utf8').split('\n').length, 0) < 150);
    let output = '';
    try {
        output = execFileSync(process.execPath, [join(modules, 'typescript/bin/tsc')], { cwd: folder, encoding: 'utf8' });
    } catch (error) {
        output = error.stdout;
    }
    // The declarations of drizzle-orm name drivers that are not installed. Such lines are not about the example.
    assert.equal(output.split('\n').filter((line) => /^src|pg-outbox|clients\/node/.test(line)).join('\n'), '');
});

test('orders are delivered, billed and counted once each, though the worker is ended with SIGTERM in the middle', async (t) => {
    const port = await new Promise((resolve) => {
        const probe = createServer().listen(0, '127.0.0.1', () => {
            const { port } = probe.address();
            probe.close(() => resolve(port));
        });
    });
    const dsn = await server.database();
    const env = {
        ...process.env, DATABASE_URL: dsn, PORT: String(port), WEBHOOK_URL: `http://127.0.0.1:${port}/hooks`,
        WEBHOOK_SECRET: `whsec_${Buffer.alloc(32, 1).toString('base64')}`, WORK_MS: '50',
    };
    execFileSync(process.execPath, ['dist/migrate.js'], { cwd: folder, env });
    const start = (...args) => {
        const child = spawn(process.execPath, args, { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] });
        const run = { child, output: '', ended: new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal }))) };
        for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (run.output += text));
        t.after(() => child.kill('SIGKILL'));
        return run;
    };
    const web = start('dist/server.js');
    const work = () => start('node_modules/pg-outbox/dist/cli.js', 'worker', 'dist/worker.js');
    let worker = work();
    const url = `http://127.0.0.1:${port}`;
    const totals = () => fetch(`${url}/totals`).then((response) => response.json(), () => undefined);
    await waitFor('the server answers', totals);
    const order = async (amount) => (await fetch(`${url}/orders`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ amount }) })).status;
    const pool = new pg.Pool({ connectionString: dsn });
    t.after(() => pool.end());
    const count = async (table) => (await pool.query(`select 1 from ${table}`)).rowCount;
    for (let n = 1; n <= 60; n += 1) assert.equal(await order(n), 201);
    await waitFor('the worker is in the middle', async () => (await count('invoices')) >= 5);
    worker.child.kill('SIGTERM');
    assert.deepEqual(await worker.ended, { code: 0, signal: null }, worker.output);
    assert.equal(await count('outbox.lease'), 0, 'nothing stays leased');
    worker = work();
    // On a slow machine the first worker may have billed everything, and the second one be told to end before it listens for that.
    await waitFor('the second worker runs', () => worker.output.includes('worker started'));
    assert.deepEqual([await order(1000), await order(0), await order('many')], [422, 422, 422]);
    const sum = (60 * 61) / 2;
    await waitFor('all is billed', async () => (await count('invoices')) === 59);
    await waitFor('all is counted and pushed', async () => {
        const { orders, amount, webhooks } = await totals();
        return orders === 60 && amount === sum && webhooks === 60;
    });
    assert.equal(await count('orders'), 60, 'what was refused left no order');
    const { rows } = await pool.query("select last_error, reason from outbox.dead_letter_status");
    assert.deepEqual(rows, [{ last_error: 'Error: nobody pays this', reason: 'rejected' }]);
    const tries = await pool.query("select max(attempt)::int as most from outbox.attempt_log where outcome = 'completed'");
    assert.equal(tries.rows[0].most, 1, 'the end cost no attempt');
    // The server is told to end while a request is on its way: the request is answered, and then the server ends.
    const late = request(`${url}/orders`, { method: 'POST', agent: new Agent({ keepAlive: false }), headers: { 'content-type': 'application/json', 'content-length': 13 } });
    const answered = new Promise((resolve, reject) => late.once('response', (response) => resolve(response.resume().statusCode)).once('error', reject));
    await new Promise((resolve) => late.write('{"amount"', resolve));
    for (const one of [worker, web]) one.child.kill('SIGTERM');
    await waitFor('the server takes no connection', () => fetch(`${url}/totals`).then(() => false, () => true));
    const listening = "select 1 from pg_stat_activity where datname = current_database() and query ilike 'listen%outbox_feed%'";
    await waitFor('the projection has ended', async () => (await pool.query(listening)).rowCount === 0);
    late.end(': 7}');
    assert.equal(await answered, 201);
    assert.equal((await worker.ended).code, 0, worker.output);
    assert.equal((await web.ended).code, 0, web.output);
});
