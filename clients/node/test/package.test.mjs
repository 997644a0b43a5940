// The package as users get it: packed, installed into a clean folder, loaded with import and require, and type-checked.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { startServer } from './server.mjs';

const here = fileURLToPath(new URL('..', import.meta.url));
const modules = realpathSync(join(here, 'node_modules'));
let folder;
let server;
let dsn;
const node = (args, options = {}) => execFileSync(process.execPath, args, { cwd: folder, encoding: 'utf8', ...options });

before(async () => {
    server = await startServer();
    dsn = await server.database();
    folder = mkdtempSync(join(tmpdir(), 'pg-outbox-'));
    const npm = (args, cwd) => execFileSync('npm', [...args, '--silent', '--ignore-scripts', '--offline', '--no-audit', '--no-fund'], { cwd, encoding: 'utf8' });
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
    assert.deepEqual(readdirSync(join(folder, 'node_modules')).filter((name) => !name.startsWith('.')), ['pg-outbox']);
    assert.deepEqual(readdirSync(installed).sort(), ['LICENSE', 'README.md', 'dist', 'native', 'package.json']);
    assert.ok(readdirSync(join(installed, 'native')).every((file) => file.endsWith('.node')));
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
        try { esm.checkTopic('a b'); } catch (e) { console.log(e instanceof cjs.InvalidError, e.code, names.length); }`;
    assert.match(node(['--input-type=module', '-e', script]), /^true 22023 \d+\n$/);
    assert.match(node(['-e', "console.log(typeof require('pg-outbox').enqueue)"]), /^function/);
});

test('the declarations are right for both kinds of modules, strictly', () => {
    for (const name of ['@types', 'undici-types', 'pg-types', 'pg-protocol', 'postgres', 'drizzle-orm', 'knex']) {
        if (existsSync(join(modules, name))) symlinkSync(join(modules, name), join(folder, 'node_modules', name), 'dir');
    }
    for (const file of ['usage.mts', 'usage.cts']) cpSync(join(here, 'test/types', file), join(folder, file));
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
    assert.equal(run([...tsc, 'usage.mts', 'usage.cts']).split('\n').filter((line) => /usage|pg-outbox/.test(line)).join('\n'), '');
    // The type check can fail.
    writeFileSync(join(folder, 'wrong.mts'), "import { Outbox } from 'pg-outbox';\nexport const x: Promise<string> = new Outbox({ query: async () => ({}) }).head();\n");
    assert.match(run([...tsc, 'wrong.mts']), /wrong\.mts.*TS2322/);
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

test('the other examples of the README are JavaScript', () => {
    const readme = readFileSync(join(here, 'README.md'), 'utf8');
    const examples = [...readme.matchAll(/```js\n([\s\S]*?)```/g)].map((match) => match[1]);
    assert.ok(examples.length >= 4);
    examples.forEach((example, i) => {
        writeFileSync(join(folder, `check${i}.mjs`), example);
        node(['--check', `check${i}.mjs`]);
    });
});
