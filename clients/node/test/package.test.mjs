// The package as users get it: packed, installed into a clean folder, loaded with import and require, and type-checked.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import pg from 'pg';

import { startServer, waitFor } from './server.mjs';

const here = fileURLToPath(new URL('..', import.meta.url));
const modules = realpathSync(join(here, 'node_modules'));
let folder;
let server;
let dsn;
const node = (args, options = {}) => execFileSync(process.execPath, args, { cwd: folder, encoding: 'utf8', ...options });

before(async () => {
    server = await startServer(['max_worker_processes=60', 'pg_outbox.poll_interval=1s', 'pg_outbox.allow_http=on', 'pg_outbox.egress_allow=127.0.0.0/8']);
    dsn = await server.database();
    folder = mkdtempSync(join(tmpdir(), 'pg-outbox-'));
    const npm = (args, cwd) => execFileSync('npm', [...args, '--silent', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund'], { cwd, encoding: 'utf8' });
    // The package was built before the tests.
    npm(['pack', '--pack-destination', folder], here);
    const tarball = readdirSync(folder).find((file) => file.endsWith('.tgz'));
    console.log(`# ${tarball}: ${statSync(join(folder, tarball)).size} bytes`);
    writeFileSync(join(folder, 'package.json'), '{ "name": "clean", "private": true }');
    npm(['install', '--omit=peer', '--legacy-peer-deps', `./${tarball}`], folder);
});
after(async () => {
    if (folder) rmSync(folder, { recursive: true, force: true });
    await server?.end();
});

test('it brings what it needs and nothing else', () => {
    const installed = join(folder, 'node_modules/pg-outbox');
    assert.deepEqual(readdirSync(join(folder, 'node_modules')).filter((name) => !name.startsWith('.')), ['croner', 'pg-outbox']);
    assert.deepEqual(readdirSync(installed).sort(), ['LICENSE', 'README.md', 'dist', 'package.json']);
    // The same package works on every platform.
    assert.deepEqual(readdirSync(installed, { recursive: true }).filter((file) => file.endsWith('.node')), []);
});

test('ES modules and CommonJS get the same objects', () => {
    const script = `
        import * as esm from 'pg-outbox';
        import * as testing from 'pg-outbox/testing';
        import { createRequire } from 'node:module';
        const require = createRequire(import.meta.url);
        const cjs = require('pg-outbox');
        const names = Object.keys(cjs).sort();
        if (JSON.stringify(names) !== JSON.stringify(Object.keys(esm).filter((n) => !['default', '__esModule', 'module.exports'].includes(n)).sort())) throw new Error('other names');
        for (const name of names) if (esm[name] !== cjs[name]) throw new Error(name + ' differs');
        if (require('pg-outbox/testing').drain !== testing.drain) throw new Error('testing differs');
        if (require('pg-outbox/events').EventStore !== (await import('pg-outbox/events')).EventStore) throw new Error('events differs');
        try { esm.checkTopic('a b'); } catch (e) { console.log(e instanceof cjs.InvalidError, e.code, names.length); }`;
    assert.match(node(['--input-type=module', '-e', script]), /^true 22023 \d+\n$/);
    assert.match(node(['-e', "console.log(typeof require('pg-outbox').enqueue)"]), /^function/);
});

test('the declarations are right for both kinds of modules, strictly', () => {
    for (const name of ['@types', 'undici-types', 'pg-types', 'pg-protocol', 'postgres', 'drizzle-orm', 'knex', 'zod', 'valibot', 'kysely', 'sequelize', 'typeorm', '@mikro-orm']) {
        if (existsSync(join(modules, name))) symlinkSync(join(modules, name), join(folder, 'node_modules', name), 'dir');
    }
    for (const file of ['usage.mts', 'usage.cts', 'events.mts']) cpSync(join(here, 'test/types', file), join(folder, file));
    const tsc = ['--noEmit', '--strict', '--target', 'es2022', '--module', 'node16', '--types', 'node', '--skipLibCheck', 'false', '--lib', 'es2023'];
    // Only errors in the usage files and in this package count. Lines about other packages are dropped from the output
    // below.
    const run = (args) => {
        try {
            return node([join(modules, 'typescript/bin/tsc'), ...args]);
        } catch (error) {
            return error.stdout || error.message;
        }
    };
    assert.equal(run([...tsc, 'usage.mts', 'usage.cts', 'events.mts']).split('\n').filter((line) => /usage|events|pg-outbox/.test(line)).join('\n'), '');
    // The type check can fail.
    writeFileSync(join(folder, 'wrong.mts'), "import { Outbox } from 'pg-outbox';\nexport const x: Promise<string> = new Outbox({ query: async () => ({}) }).head();\n");
    assert.match(run([...tsc, 'wrong.mts']), /wrong\.mts.*TS2322/);
});

test('what only enqueues loads no native module, and nothing of workers, webhooks, HTTP or cryptography', () => {
    const script = `
        const before = new Set(process.moduleLoadList);
        require('pg-outbox/enqueue');
        const files = Object.keys(require.cache).map((file) => require('node:path').relative(process.cwd() + '/node_modules/pg-outbox/dist', file));
        const builtin = process.moduleLoadList.filter((name) => !before.has(name) && /NativeModule (crypto|zlib|http|net|child_process)$/.test(name));
        console.log(JSON.stringify({ files: files.sort(), builtin, node: files.filter((file) => file.endsWith('.node')) }));`;
    const { files, builtin, node: addons } = JSON.parse(node(['-e', script]));
    assert.deepEqual({ builtin, addons }, { builtin: [], addons: [] });
    assert.deepEqual(files.filter((file) => !file.startsWith('client/')), ['enqueue.js']);
});

test('KMS without its package says what is missing', () => {
    const script = "const { AwsKms } = require('pg-outbox/events'); new AwsKms({ masterKey: 'x' }).wrap(Buffer.alloc(32), 'x').catch((error) => console.log(error.name, error.message));";
    assert.equal(node(['-e', script]), 'InvalidError @aws-sdk/client-kms could not be loaded\n');
});

/** Bundles a handler as for AWS Lambda, and returns the folder in which there is nothing but the bundle. */
function bundled(t, source, format) {
    const out = mkdtempSync(join(tmpdir(), 'pg-outbox-lambda-'));
    t.after(() => rmSync(out, { recursive: true, force: true }));
    for (const name of ['pg', 'zod']) {
        if (!existsSync(join(folder, 'node_modules', name))) symlinkSync(join(modules, name), join(folder, 'node_modules', name), 'dir');
    }
    writeFileSync(join(folder, 'lambda.mjs'), source);
    const file = join(out, format === 'esm' ? 'handler.mjs' : 'handler.cjs');
    // pg looks for these two, which are optional.
    const optional = ['--external:pg-native', '--external:cloudflare:sockets'];
    const banner = format === 'esm' ? ["--banner:js=import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);"] : [];
    execFileSync(join(modules, '.bin/esbuild'), ['lambda.mjs', '--bundle', '--platform=node', '--target=node20', `--format=${format}`, `--outfile=${file}`, '--log-level=warning', ...optional, ...banner], {
        cwd: folder,
        encoding: 'utf8',
    });
    return { out, file };
}

for (const format of ['cjs', 'esm']) {
    test(`a bundle (${format}) without node_modules enqueues, verifies webhooks and works off a subscription`, async (t) => {
        const source = `
            import pg from 'pg';
            import { z } from 'zod';
            import { defineTopics, Outbox, sign, transaction, Verifier } from 'pg-outbox';
            import { drain } from 'pg-outbox/testing';
            const events = defineTopics({ 'order.created': z.object({ order: z.number() }) });
            const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
            const secret = 'whsec_' + Buffer.alloc(32, 7).toString('base64');
            async function handler() {
                const id = await transaction(pool, (tx) => events.enqueue(tx, 'order.created', { order: 42 }));
                const app = events.worker('bundled_${format}', { 'order.created': () => {} }, { logger: false, periodic: [{ cron: '@daily', topic: 'order.created' }] });
                const { completed } = await drain(pool, app);
                const now = new Date();
                const headers = { 'webhook-id': 'msg_1', 'webhook-timestamp': String(Math.floor(now / 1000)), 'webhook-signature': sign(secret, 'msg_1', now, '{}') };
                const webhook = new Verifier(secret).verify(headers, '{}');
                await pool.end();
                return { id, completed: completed > 0, webhook: webhook.id };
            }
            handler().then((result) => console.log(JSON.stringify(result)));`;
        const { out, file } = bundled(t, source, format);
        const own = await server.database();
        const result = JSON.parse(node([file], { cwd: out, env: { ...process.env, DATABASE_URL: own }, timeout: 60_000 }));
        assert.deepEqual({ ...result, id: typeof result.id }, { id: 'number', completed: true, webhook: 'msg_1' });
    });
}

test('the version that clients and extension compare is that of the package', () => {
    const { version } = JSON.parse(readFileSync(join(here, 'package.json'), 'utf8'));
    assert.equal(node(['-e', "console.log(require('pg-outbox').VERSION)"]).trim(), version);
    assert.equal(node([join(folder, 'node_modules/.bin/pg-outbox'), '--version']).trim(), version);
});

test('the first example of the README runs', () => {
    const readme = readFileSync(join(here, 'README.md'), 'utf8');
    const example = /```js\n([\s\S]*?)```/.exec(readme)[1];
    for (const name of ['pg']) {
        if (!existsSync(join(folder, 'node_modules', name))) symlinkSync(join(modules, name), join(folder, 'node_modules', name), 'dir');
    }
    writeFileSync(join(folder, 'example.mjs'), example);
    const printed = node(['example.mjs'], { env: { ...process.env, DATABASE_URL: dsn }, timeout: 60_000 });
    const shown = /```console\n\$ node example.mjs\n([\s\S]*?)```/.exec(readme)[1];
    assert.equal(printed, shown);
});

test('the programs of TUTORIAL.md do what it shows', async (t) => {
    const tutorial = readFileSync(join(here, 'TUTORIAL.md'), 'utf8');
    const [app, order] = [...tutorial.matchAll(/```js\n([\s\S]*?)```/g)].map((match) => match[1]);
    for (const name of ['pg', 'zod']) {
        if (!existsSync(join(folder, 'node_modules', name))) symlinkSync(join(modules, name), join(folder, 'node_modules', name), 'dir');
    }
    writeFileSync(join(folder, 'app.mjs'), app);
    writeFileSync(join(folder, 'order.mjs'), order);
    const env = { ...process.env, DATABASE_URL: await server.database() };
    const client = new pg.Client(env.DATABASE_URL);
    await client.connect();
    t.after(() => client.end());
    await client.query('create table orders (id serial primary key, amount int not null)');
    const worker = spawn(process.execPath, [join(folder, 'node_modules/.bin/pg-outbox'), 'worker', './app.mjs'], { cwd: folder, env });
    t.after(() => worker.kill('SIGKILL'));
    let output = '';
    for (const stream of [worker.stdout, worker.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
    const ended = new Promise((resolve) => worker.once('exit', resolve));
    for (const amount of ['42', '-1']) node(['order.mjs', amount], { env });
    assert.throws(() => node(['order.mjs', 'x'], { env, stdio: 'pipe' }));
    await waitFor('both are handled', () => output.includes('a negative amount') && output.includes('bill order'));
    worker.kill('SIGINT');
    assert.equal(await ended, 130, output);
    const shown = [...tutorial.matchAll(/```console\n([\s\S]*?)```/g)].flatMap((match) => match[1].split('\n')).filter((line) => /^(pg_outbox: |bill)/.test(line));
    assert.ok(shown.length >= 4, shown.join());
    const plain = (text) => text.replace(/worker=\S+?(?=[ )])/, 'worker=w').replace(/msg_\w+/, 'msg').replace(/deliveryId=\d+/, 'deliveryId=n');
    for (const line of shown) assert.ok(output.split('\n').some((one) => plain(one) === plain(line)), `${line} is not in ${output}`);
    assert.equal((await client.query('select 1 from orders')).rowCount, 2);
});

test('the programs of EVENTS.md do what it shows, and the shop is short', async () => {
    const page = readFileSync(join(here, 'EVENTS.md'), 'utf8');
    const files = new Map();
    for (const [, name, code] of page.matchAll(/```js\n\/\/ (\S+)\n([\s\S]*?)```/g)) files.set(name, (files.get(name) ?? '') + code);
    assert.deepEqual([...files.keys()], ['order.mjs', 'shop.mjs', 'order.test.mjs', 'database.test.mjs', 'private.mjs']);
    assert.equal([...page.matchAll(/```js/g)].length, [...page.matchAll(/```js\n\/\/ /g)].length, 'each example belongs to a program');
    const lines = ['order.mjs', 'shop.mjs'].flatMap((name) => files.get(name).split('\n')).filter((line) => line.trim() !== '' && !/^\s*[})\];]+\)?;?$/.test(line));
    assert.ok(lines.length < 120, `${lines.length} lines`);
    for (const name of ['pg', 'zod']) {
        if (!existsSync(join(folder, 'node_modules', name))) symlinkSync(join(modules, name), join(folder, 'node_modules', name), 'dir');
    }
    for (const [name, code] of files) writeFileSync(join(folder, name), code);
    for (const name of ['shop', 'private']) {
        const env = { ...process.env, DATABASE_URL: await server.database(), EVENT_KEY: Buffer.alloc(32, 3).toString('base64') };
        const shown = new RegExp(`\`\`\`console\\n\\$ node ${name}\\.mjs\\n([\\s\\S]*?)\`\`\``).exec(page)[1];
        // The webhook comes when it comes.
        const sorted = (text) => text.trim().split('\n').sort();
        assert.deepEqual(sorted(node([`${name}.mjs`], { env, timeout: 60_000 })), sorted(shown));
    }
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    assert.match(node(['--test', 'order.test.mjs'], { env }), /# pass 1\n|pass 1/);
    assert.match(node(['--test', 'database.test.mjs'], { env: { ...env, PG_OUTBOX_TEST_DSN: server.dsn } }), /# pass 1\n|pass 1/);
});

test('the other examples of the README are JavaScript', () => {
    const readme = readFileSync(join(here, 'README.md'), 'utf8');
    const examples = [...readme.matchAll(/```js\n([\s\S]*?)```/g)].map((match) => match[1]);
    assert.ok(examples.length >= 4);
    examples.forEach((example, i) => {
        writeFileSync(join(folder, `check${i}.mjs`), example);
        node(['--check', `check${i}.mjs`]);
    });
});
