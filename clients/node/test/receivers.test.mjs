// The receivers of docs/receivers.md, unchanged, get real deliveries.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { after, before, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import pg from 'pg';

import { Outbox, sign } from '../dist/index.mjs';
import { startServer, waitFor } from './server.mjs';

const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
const page = readFileSync(new URL('../../../docs/receivers.md', import.meta.url), 'utf8');
const programs = Object.fromEntries([...page.matchAll(/^```js (\S+)\n(.*?)^```$/gms)].map(([, name, text]) => [name, text]));

let server;
let folder;
before(async () => {
    server = await startServer();
    // The folder is inside the package, so that the programs find the package by its name, and the frameworks.
    folder = mkdtempSync(new URL('./receivers-', import.meta.url).pathname);
});
after(async () => {
    rmSync(folder, { recursive: true, force: true });
    await server?.end();
});

const freePort = () =>
    new Promise((resolve) => {
        const probe = createServer().listen(0, '127.0.0.1', () => {
            const { port } = probe.address();
            probe.close(() => resolve(port));
        });
    });

test('there is one for each framework', () => assert.deepEqual(Object.keys(programs), ['express', 'express-raw', 'fastify', 'http']));

for (const [name, text] of Object.entries(programs)) {
    test(`${name}: JSON, text, bytes, compressed or not; what is forged, too large or no gzip is refused`, async (t) => {
        const port = await freePort();
        writeFileSync(`${folder}/${name}.mjs`, text);
        const child = spawn(process.execPath, [`${folder}/${name}.mjs`], {
            env: { ...process.env, SECRET, PORT: String(port) },
            stdio: ['ignore', 'pipe', 'inherit'],
        });
        t.after(() => child.kill());
        let output = '';
        child.stdout.setEncoding('utf8').on('data', (chunk) => (output += chunk));
        const url = `http://localhost:${port}/hooks`;
        const post = (headers, body) =>
            fetch(url, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body }).then((r) => r.status);
        await waitFor(`${name} listens`, () => post({}, '{}').catch(() => undefined));

        const pool = new pg.Pool({ connectionString: await server.database() });
        t.after(() => pool.end());
        const outbox = new Outbox(pool);
        for (const [endpoint, compress] of [['plain', false], ['packed', true]]) {
            await outbox.createEndpoint({ name: endpoint, url: `http://127.0.0.1:${port}/hooks`, secret: SECRET, compress });
            await outbox.subscribe({ name: endpoint, topics: ['order.#'], endpoint, maxAttempts: 1 });
        }
        const bytes = Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * 7) % 256));
        const bodies = [
            { payload: { amount: 1.1, note: 'é' } },
            { payload: { text: 'Zoë '.repeat(1000) } },
            { body: '<a>ü</a>'.repeat(200), contentType: 'application/xml' },
            { body: bytes, contentType: 'application/octet-stream' },
            { body: Buffer.from([0xff, 0xfe, 0x00]), contentType: 'application/octet-stream' },
            // A gzip file is ordinary content.
            { body: gzipSync(bytes), contentType: 'application/gzip' },
        ];
        for (const body of bodies) await new Outbox(pool).enqueue({ topic: 'order.paid', ...body });
        const { rows } = await waitFor('all were tried', async () => {
            const found = await pool.query('select outcome, status, response_body from outbox.attempt');
            return found.rows.length === 2 * bodies.length && found;
        });
        assert.deepEqual(rows.filter((row) => row.outcome !== 'completed'), []);
        await waitFor('all were printed', () => output.trim().split('\n').length >= 2 * bodies.length);
        const lines = output.trim().split('\n').map((line) => line.split(' '));
        // Both endpoints see the same decoded content.
        const sizes = new Map();
        for (const [id, size] of lines) sizes.set(id, [...(sizes.get(id) ?? []), Number(size)]);
        assert.equal(sizes.size, bodies.length);
        for (const both of sizes.values()) assert.ok(both.length === 2 && both[0] === both[1], `${both}`);
        const all = [...sizes.values()].map(([size]) => size);
        for (const [i, size] of [[2, 1800], [3, 5000], [4, 3]]) assert.ok(all.includes(size), `body ${i}: ${all}`);

        // Requests that pg_outbox would not send.
        const now = new Date();
        const headers = (body, extra = {}) => ({
            'webhook-id': 'msg_x',
            'webhook-timestamp': String(Math.floor(now / 1000)),
            'webhook-signature': sign(SECRET, 'msg_x', now, body),
            ...extra,
        });
        const gzip = { 'content-encoding': 'gzip' };
        const content = '{"x":1}'.padEnd(2000);
        assert.equal(await post(headers(content), content), 204);
        assert.equal(await post(headers(content, gzip), gzipSync(content)), 204);
        assert.equal(await post(headers(content), `${content} `), 401);
        assert.equal(await post(headers(content, gzip), gzipSync(`${content} `)), 401);
        assert.equal(await post(headers(content, { 'webhook-signature': `${'v1,AAAA '.repeat(500)}` }), content), 401);
        const refused = async (body, what) => {
            // A receiver that answers before it has read everything closes the connection, and the answer may be lost.
            const status = await waitFor(`${what} is answered`, () => post(headers(content, gzip), body).catch(() => undefined));
            assert.ok(status >= 400 && status < 600, `${what}: ${status}`);
        };
        await refused(gzipSync(content).subarray(0, 20), 'cut');
        await refused(Buffer.concat([gzipSync(content), gzipSync(content)]), 'two members');
        await refused(gzipSync(Buffer.alloc(200 << 20)), 'a bomb');
        // The receiver still works.
        assert.equal(await post(headers(content), content), 204);
    });
}

test('what is too large is answered 413, before and after it is decompressed', async (t) => {
    const port = await freePort();
    writeFileSync(`${folder}/large.mjs`, programs.express);
    const child = spawn(process.execPath, [`${folder}/large.mjs`], { env: { ...process.env, SECRET, PORT: String(port) }, stdio: ['ignore', 'ignore', 'inherit'] });
    t.after(() => child.kill());
    const post = (headers, body) => fetch(`http://localhost:${port}/hooks`, { method: 'POST', headers, body }).then((r) => r.status);
    await waitFor('it listens', () => post({}, '{}').catch(() => undefined));
    const now = new Date();
    const headers = { 'webhook-id': 'm', 'webhook-timestamp': String(Math.floor(now / 1000)), 'webhook-signature': sign(SECRET, 'm', now, 'x') };
    assert.equal(await post(headers, Buffer.alloc(3 << 20)), 413);
    assert.equal(await post({ ...headers, 'content-encoding': 'gzip' }, gzipSync(Buffer.alloc(2 << 20))), 413);
    // An unsigned bomb is refused before it is decoded.
    assert.equal(await post({ 'content-encoding': 'gzip' }, gzipSync(Buffer.alloc(2 << 20))), 401);
});
