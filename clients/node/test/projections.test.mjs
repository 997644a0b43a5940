// Subscriptions and projections on a real server.
import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import pg from 'pg';

import { ANY, currentContext, EventRegistry, EventStore, FieldEncryption, LocalKeys, progressBar, progressLine, ProjectionEngine, ProjectionError, subscribeAll, subscribeCategory, subscribeStream, transaction, unchecked, Upcasters, withContext } from '../dist/events.mjs';
import { InvalidError, Outbox } from '../dist/index.mjs';
import { settled } from '../dist/testing.mjs';
import { startServer, waitFor } from './server.mjs';

let server;
before(async () => {
    server = await startServer();
});
after(() => server?.end());

const QUICK = { pollInterval: 0.05, backoff: { min: 0.01, max: 0.1 }, logger: false };

async function setUp(t, store = new EventStore()) {
    const dsn = await server.database();
    const pool = new pg.Pool({ connectionString: dsn });
    pool.on('error', () => {});
    t.after(() => pool.end());
    const append = (stream, ...ns) => transaction(pool, (tx) => store.append(tx, stream, ns.map((n) => ({ type: n % 2 ? 'n.odd' : 'n.even', data: { n } })), ANY));
    return { dsn, pool, store, append, outbox: new Outbox(pool) };
}
const take = async (iterator, count) => {
    const events = [];
    for await (const event of iterator) {
        events.push(event);
        if (events.length === count) break;
    }
    return events;
};
const numbers = (events) => events.map(({ data }) => data.n);

test('a subscription catches up and then follows, without a gap', async (t) => {
    const { pool, store, append } = await setUp(t);
    for (let i = 0; i < 10; i += 1) await append(`a-${i % 3}`, i);
    const following = take(subscribeAll(pool, store, { buffer: 4, pollInterval: 0.05 }), 20);
    for (let i = 10; i < 20; i += 1) await append(`b-${i % 3}`, i);
    const events = await following;
    assert.deepEqual(numbers(events), Array.from({ length: 20 }, (_, i) => i));
    assert.ok(events.every(({ position }, i) => i === 0 || position > events[i - 1].position));
    const { position } = events[14];
    assert.deepEqual(numbers(await take(subscribeAll(pool, store, { after: position }), 5)), [15, 16, 17, 18, 19]);
    assert.deepEqual(numbers(await take(subscribeAll(pool, store, { types: ['n.odd'], categories: ['b'] }), 5)), [11, 13, 15, 17, 19]);
    assert.deepEqual(numbers(await take(subscribeCategory(pool, store, 'a', { types: ['n.even'] }), 5)), [0, 2, 4, 6, 8]);
    assert.deepEqual(numbers(await take(subscribeStream(pool, store, 'a-1', { buffer: 1 }), 3)), [1, 4, 7]);
    assert.deepEqual(numbers(await take(subscribeStream(pool, store, 'a-1', { after: 2 }), 1)), [7]);
});

test('a subscription ends with its signal, goes on after a broken connection, and gives up at other errors', async (t) => {
    const { pool, store, append } = await setUp(t);
    await append('a-1', 1);
    const controller = new AbortController();
    const seen = [];
    const errors = [];
    const done = (async () => {
        for await (const event of subscribeAll(pool, store, { signal: controller.signal, pollInterval: 0.02, retry: { wait: 0.05 }, onError: (error) => errors.push(error) })) seen.push(event.data.n);
    })();
    await waitFor('the first event', () => seen.length === 1);
    await pool.query('select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database() and backend_type = $1', ['client backend']);
    await append('a-1', 2).catch(() => append('a-1', 2));
    await waitFor('the next event', () => seen.length >= 2);
    controller.abort();
    await done;
    const flaky = { query: async () => { throw Object.assign(new Error('lost'), { code: '08006' }); } };
    let tries = 0;
    await assert.rejects(take(subscribeAll(flaky, store, { retry: { attempts: 2, wait: 0.01 }, onError: () => (tries += 1) }), 1), { code: '08006' });
    assert.equal(tries, 2);
    await assert.rejects(take(subscribeAll(pool, store, { after: 1e9 }), 1), { code: 'OB009' });
    for (const bad of [{ after: -1 }, { buffer: 20_000 }]) assert.throws(() => subscribeAll(pool, store, bad), InvalidError);
});

/** A projection that notes every event. */
const noting = (name, rest = {}) => ({
    name,
    handle: async (tx, events) => {
        for (const { data } of events) await tx.query('insert into noted (projection, n) values ($1, $2)', [name, data.n]);
    },
    clear: (tx) => tx.query('delete from noted where projection = $1', [name]).then(() => {}),
    ...rest,
});
const noted = async (pool, name) => (await pool.query('select n from noted where projection = $1 order by id', [name])).rows.map(({ n }) => n);
const TABLE = 'create table noted (id serial, projection text, n int not null, unique (projection, n))';

test('an asynchronous projection applies each event once, in order, and says how it is', async (t) => {
    const { pool, store, append } = await setUp(t);
    await pool.query(TABLE);
    const engine = new ProjectionEngine(pool, store, { ...QUICK, batchSize: 7 })
        .register(noting('all'))
        .register(noting('odd in a', { types: ['n.odd'], categories: ['a'] }));
    for (let i = 0; i < 20; i += 1) await append(i < 10 ? 'a-1' : 'b-1', i);
    assert.equal((await engine.status('all')).state, 'stopped');
    engine.start();
    await waitFor('all are applied', async () => (await noted(pool, 'all')).length === 20 && (await noted(pool, 'odd in a')).length === 5);
    for (let i = 20; i < 30; i += 1) await append('a-2', i);
    await waitFor('the new ones, too', async () => (await noted(pool, 'all')).length === 30);
    assert.deepEqual(await noted(pool, 'all'), Array.from({ length: 30 }, (_, i) => i));
    await waitFor('nothing is behind', async () => (await engine.status('odd in a')).lag === 0);
    const status = await engine.status('all');
    assert.deepEqual([status.state, status.kind, status.lag, status.processed, status.error], ['running', 'async', 0, 30, null]);
    assert.ok(status.meanLatency > 0 && status.position > 0);
    await engine.pause('all');
    await append('a-3', 30);
    await waitFor('the other one goes on', async () => (await engine.status('odd in a')).lag === 0);
    assert.deepEqual([(await noted(pool, 'all')).length, (await engine.status('all')).state], [30, 'paused']);
    engine.resume('all');
    await waitFor('it goes on', async () => (await noted(pool, 'all')).length === 31);
    await engine.unregister('odd in a');
    assert.deepEqual(engine.names, ['all']);
    await engine.stop();
    assert.throws(() => engine.register(noting('all')), ProjectionError);
    await assert.rejects(engine.status('none'), ProjectionError);
});

test('an event that fails is tried again, stored with the cursor, and never passed over', async (t) => {
    const { pool, store, append, outbox } = await setUp(t);
    await pool.query(TABLE);
    let broken = true;
    const projection = noting('p');
    const { handle } = projection;
    projection.handle = async (tx, events) => {
        if (broken && numbers(events).includes(5)) throw new Error('five');
        await handle(tx, events);
    };
    const errors = [];
    const engine = new ProjectionEngine(pool, store, { ...QUICK, onError: (error, name) => errors.push(`${name}: ${error.message}`) }).register(projection);
    for (let i = 0; i < 10; i += 1) await append('a-1', i);
    engine.start('p');
    await waitFor('it is faulted', async () => (await engine.status('p')).errorPosition !== null);
    const status = await engine.status('p');
    assert.deepEqual([status.state, status.error], ['faulted', 'Error: five']);
    assert.deepEqual(await noted(pool, 'p'), [0, 1, 2, 3, 4]);
    assert.ok((await outbox.health()).some(({ culprit }) => culprit?.includes('projection p')));
    assert.ok(errors.includes('p: five'));
    await assert.rejects(engine.catchUp('p'), /five/);
    broken = false;
    await waitFor('it goes on', async () => (await noted(pool, 'p')).length === 10);
    await waitFor('the error is gone', async () => (await engine.status('p')).state === 'running');
    await engine.stop();
});

test('an inline projection is part of the append, and its error refuses it', async (t) => {
    const { pool, store, append } = await setUp(t, new EventStore({
        encryption: new FieldEncryption({ provider: new LocalKeys({ m: Buffer.alloc(32, 1) }), fields: { 'n.odd': ['n'] } }),
    }));
    await pool.query(TABLE);
    const engine = new ProjectionEngine(pool, store).register(noting('inline', { kind: 'inline', types: ['n.odd'] }));
    await assert.rejects(engine.pause('inline'), ProjectionError);
    await engine.stop();
    await append('a-1', 1, 2, 3);
    assert.deepEqual(await noted(pool, 'inline'), [1, 3]);
    await assert.rejects(append('a-1', 5, 1), { code: '23505' });
    assert.deepEqual([await noted(pool, 'inline'), (await store.streamInfo(pool, 'a-1')).version], [[1, 3], 3]);
    await engine.unregister('inline');
    await append('a-1', 7);
    assert.deepEqual(await noted(pool, 'inline'), [1, 3]);
});

test('a live projection sees only new events', async (t) => {
    const { pool, store, append } = await setUp(t);
    await append('a-1', 1);
    await settled(pool);
    const seen = [];
    const engine = new ProjectionEngine(pool, store, QUICK).register({
        name: 'live', kind: 'live',
        handle: async (_, events) => {
            if (seen.push(...numbers(events)) === 1) throw new Error('the first');
        },
    });
    engine.start();
    for (let n = 2; seen.length < 3; n += 1) {
        await append('a-1', n);
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.ok(!seen.includes(1));
    assert.match((await engine.status('live')).error, /the first/);
    await engine.stop();
});

test('a rebuild empties the tables and applies everything again, with progress', async (t) => {
    const { pool, store, append } = await setUp(t);
    await pool.query(TABLE);
    const engine = new ProjectionEngine(pool, store, { ...QUICK, batchSize: 5 }).register(noting('p')).register({ ...noting('q'), clear: undefined });
    for (let i = 0; i < 30; i += 1) await append('a-1', i);
    await settled(pool);
    assert.equal(await engine.catchUp('p'), 30);
    const before = await noted(pool, 'p');
    const progress = [];
    assert.equal(await engine.rebuild('p', { onProgress: (one) => progress.push(one) }), await store.lastPosition(pool));
    assert.deepEqual(await noted(pool, 'p'), before);
    assert.equal(progress.at(-1).done, progress.at(-1).total);
    engine.start('p');
    await engine.rebuild('p');
    await waitFor('all are applied', async () => (await noted(pool, 'p')).length === 30);
    await engine.stop();
    await assert.rejects(engine.rebuild('q'), ProjectionError);
});

test('a rebuild that cannot go on ends with an error', async (t) => {
    const { pool, store, append } = await setUp(t);
    await pool.query(TABLE);
    let broken = false;
    const projection = noting('p');
    const { handle } = projection;
    projection.handle = async (tx, events) => {
        if (broken && numbers(events).includes(5)) throw new Error('five');
        await handle(tx, events);
    };
    const engine = new ProjectionEngine(pool, store, { ...QUICK, batchSize: 2 }).register(projection);
    for (let i = 0; i < 10; i += 1) await append('a-1', i);
    await settled(pool);
    await engine.catchUp('p');
    broken = true;
    await assert.rejects(engine.rebuild('p'), /five/);
    engine.start('p');
    await assert.rejects(engine.rebuild('p'), { name: 'ProjectionError', message: /cannot be applied/, detail: 'Error: five' });
    broken = false;
    await engine.rebuild('p');
    assert.equal((await noted(pool, 'p')).length, 10);
    let release;
    projection.handle = () => new Promise((resolve) => (release = resolve));
    const stopped = assert.rejects(engine.rebuild('p'), { name: 'ProjectionError', message: /was stopped/ });
    await waitFor('it is applied', () => release);
    const end = engine.stop('p');
    release();
    await Promise.all([stopped, end]);
    release = undefined;
    const given = new AbortController();
    const aborted = assert.rejects(engine.rebuild('p', { signal: given.signal }), /enough/);
    await waitFor('it is applied', () => release);
    given.abort(new Error('enough'));
    release();
    await aborted;
    assert.equal((await pool.query("select from outbox.audit where action = 'cursor_reset'")).rowCount, 5);
});

test('several projections are rebuilt at the same time, and one that fails does not end the others', async (t) => {
    const { pool, store, append } = await setUp(t);
    await pool.query(TABLE);
    const engine = new ProjectionEngine(pool, store, QUICK);
    let meeting;
    let inside = 0;
    let most = 0;
    for (const name of ['a', 'b', 'c', 'd']) {
        const projection = noting(name);
        const { handle } = projection;
        projection.handle = async (tx, events) => {
            inside += 1;
            most = Math.max(most, inside);
            // Each of two waits for the other one.
            if (inside === 2) meeting.resolve();
            await meeting.promise;
            inside -= 1;
            if (name === 'c') throw new Error('c is broken');
            await handle(tx, events);
        };
        engine.register(projection);
    }
    engine.register({ ...noting('no clear'), clear: undefined });
    await append('a-1', 1, 2, 3);
    await settled(pool);
    const barrier = () => {
        let resolve;
        const promise = new Promise((done) => (resolve = done));
        return { promise, resolve };
    };
    meeting = barrier();
    const reported = new Set();
    await assert.rejects(engine.rebuildAll({ concurrency: 2, onProgress: ({ projection }) => reported.add(projection) }), /c is broken/);
    assert.equal(most, 2);
    for (const name of ['a', 'b', 'd']) assert.equal((await noted(pool, name)).length, 3, name);
    assert.deepEqual([...reported].filter((name) => name !== 'c').sort(), ['a', 'b', 'd']);
    meeting = { promise: Promise.resolve(), resolve: () => {} };
    most = 0;
    const head = await store.lastPosition(pool);
    assert.deepEqual(await engine.rebuildAll({ names: ['a', 'b'], concurrency: 1 }), { a: head, b: head });
    assert.equal(most, 1);
    await assert.rejects(engine.rebuildAll({ names: ['a', 'nope'] }), ProjectionError);
    await assert.rejects(engine.rebuildAll({ names: ['c', 'no clear'] }), (error) => error instanceof AggregateError && error.errors.length === 2);
});

test('progress is bars on a terminal, and lines elsewhere', () => {
    const cases = JSON.parse(readFileSync(new URL('../../../tests/conformance/toolkit/progress.json', import.meta.url), 'utf8'));
    for (const { bar, plain, width, seconds_left: secondsLeft, ...progress } of cases) {
        assert.equal(progressLine({ ...progress, secondsLeft }, { width }), bar);
        assert.equal(progressLine({ ...progress, secondsLeft }, { width, bar: false }), plain);
    }
    const shown = (options) => {
        let text = '';
        const show = progressBar({ write: (part) => (text += part), ...options });
        for (const [projection, done] of [['a', 1], ['bb', 1], ['a', 2]]) show({ projection, done, total: 2, rate: 1, secondsLeft: 2 - done });
        return text;
    };
    assert.equal(shown({}), ['a   50 %  1 of 2  1/s  1 s left', 'bb   50 %  1 of 2  1/s  1 s left', 'a  100 %  2 of 2  1/s  done', ''].join('\n'));
    const line = (name, percent, rest, filled) => `\r\x1b[2K${name}  [${'#'.repeat(filled)}${'.'.repeat(20 - filled)}]  ${percent} %  ${rest}`.slice(0, 5 + 30) + '\n';
    const half = (name) => line(name, ' 50', '1 of 2', 10);
    assert.equal(shown({ isTTY: true, columns: 31 }), `${half('a')}\x1b[1A${half('a ')}${half('bb')}\x1b[2A${line('a ', '100', '2 of 2', 20)}${half('bb')}`);
});

test('a projection that is started while it stops begins again', async (t) => {
    const { pool, store, append } = await setUp(t);
    await pool.query(TABLE);
    const engine = new ProjectionEngine(pool, store, QUICK).register(noting('p'));
    engine.start();
    await append('a-1', 1);
    await waitFor('it is applied', async () => (await noted(pool, 'p')).length === 1);
    const stopped = engine.stop();
    engine.start();
    await stopped;
    await append('a-1', 2);
    await waitFor('it goes on', async () => (await noted(pool, 'p')).length === 2);
    const paused = engine.pause('p');
    engine.resume('p');
    await paused;
    await append('a-1', 3);
    await waitFor('it goes on again', async () => (await noted(pool, 'p')).length === 3);
    assert.equal((await engine.status('p')).state, 'running');
    await engine.stop();
    assert.deepEqual(engine.health, []);
});

test('a live projection passes over what cannot be decoded, and goes on after a broken connection', async (t) => {
    const { pool, append, outbox } = await setUp(t);
    const { SchemaError } = await import('../dist/events.mjs');
    const strict = new EventStore({ registry: new EventRegistry().register('n.odd', unchecked()), upcasters: new Upcasters().add('n.even', 1, () => { throw new SchemaError('not even', '22023'); }) });
    await append('a-1', 1);
    await settled(pool);
    const seen = [];
    const errors = [];
    const engine = new ProjectionEngine(pool, strict, { ...QUICK, onError: (error) => { errors.push(error); throw new Error('of the listener'); } })
        .register({ name: 'live', kind: 'live', handle: async (_, events) => void seen.push(...numbers(events)) });
    engine.start();
    await waitFor('it is connected', () => engine.health[0].ok);
    await append('a-1', 2, 3);
    await waitFor('the event after it', () => seen.includes(3));
    assert.deepEqual([seen, errors.map(({ message }) => message)], [[3], ['not even']]);
    for (let i = 0; i < 3; i += 1) {
        await pool.query('select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database() and backend_type = $1', ['client backend']);
    }
    await append('a-1', 5).catch(() => append('a-1', 5));
    await waitFor('it goes on', () => seen.includes(5));
    assert.equal((await engine.status('live')).state, 'running');
    assert.ok(await outbox.head() > 0);
    await engine.stop();
});

test('a projection has nothing of the context in which it was started, and its errors no text of the server', async (t) => {
    const { pool, store, append, outbox } = await setUp(t);
    const contexts = [];
    const lines = [];
    const logger = { error: (...all) => lines.push(...all), warn: (...all) => lines.push(...all), info: () => {} };
    const engine = new ProjectionEngine(pool, store, { ...QUICK, logger }).register({
        name: 'p',
        handle: async (tx) => {
            contexts.push(currentContext());
            await tx.query("select 'geheim'::int");
        },
    });
    await withContext({ tenant: 'acme', userId: 'u1' }, () => engine.start());
    await append('a-1', 1);
    await waitFor('it is faulted', async () => (await engine.status('p')).state === 'faulted');
    assert.deepEqual(contexts[0], {});
    const { lastError } = await outbox.cursorGet({ consumer: 'projection p' });
    assert.equal(lastError, 'InvalidError: invalid_parameter (22P02)');
    assert.doesNotMatch(lines.map(String).join() + JSON.stringify(await outbox.health()), /geheim/);
    await engine.stop();
});

test('two processes share a projection and a rebuild, and one that is killed leaves nothing half done', async (t) => {
    const { dsn, pool, store, append } = await setUp(t);
    await pool.query(TABLE);
    for (let i = 0; i < 20; i += 1) await append('a-1', ...Array.from({ length: 10 }, (_, j) => i * 10 + j));
    await settled(pool);
    const child = () => fork(fileURLToPath(new URL('projector.mjs', import.meta.url)), [dsn], { stdio: 'inherit' });
    const children = [child(), child()];
    t.after(() => children.forEach((one) => one.kill('SIGKILL')));
    await waitFor('some are applied', async () => (await noted(pool, 'shared')).length > 20);
    children[0].kill('SIGKILL');
    await waitFor('all are applied', async () => (await noted(pool, 'shared')).length === 200);
    const engine = new ProjectionEngine(pool, store, { ...QUICK, batchSize: 5 }).register(noting('shared'));
    await engine.rebuild('shared');
    await waitFor('all are applied again', async () => (await noted(pool, 'shared')).length === 200);
    const left = new Promise((resolve) => children[1].once('exit', (code, signal) => resolve(code ?? signal)));
    children[1].kill('SIGTERM');
    assert.equal(await left, 0);
});

/** Asserts that the health port of an application tells what runs alongside, with its own projections and hooks. */
async function shownByHealth(pool, store, append) {
    const { defineTopics, unchecked } = await import('../dist/index.mjs');
    let broken = true;
    const told = [];
    const engine = new ProjectionEngine(pool, store, QUICK).register({ name: 'shown', handle: async () => { if (broken) throw new Error('broken'); } });
    const stop = new AbortController();
    const free = await new Promise((resolve) => { const one = createServer().listen(0, () => { const { port } = one.address(); one.close(() => resolve(port)); }); });
    const app = defineTopics({ 'x.y': unchecked() }).worker('beside', { 'x.y': () => {} }, {
        client: pool, logger: false, alongside: [engine], projections: [{ consumer: 'own', pollInterval: 0.05, apply: async () => {} }],
        onStartup: () => told.push('up'), onShutdown: () => told.push('down'), pollInterval: 0.05,
    });
    const running = app.run({ signal: stop.signal, health: `127.0.0.1:${free}` });
    const health = async () => {
        const answer = await fetch(`http://127.0.0.1:${free}/health`).catch(() => undefined);
        return answer && [answer.status, (await answer.json()).state];
    };
    await append('a-1', 3);
    await waitFor('it is failing', async () => (await health())?.[1] === 'failing');
    assert.equal((await health())[0], 503);
    assert.match(await (await fetch(`http://127.0.0.1:${free}/metrics`)).text(), /outbox_projection_failing\{consumer="projection shown"\} 1/);
    broken = false;
    await waitFor('it is well', async () => (await health())?.[0] === 200);
    assert.deepEqual(app.health.projections.map(({ consumer, ok }) => [consumer, ok]), [['own', true], ['projection shown', true]]);
    stop.abort();
    await running;
    assert.deepEqual(told, ['up', 'down']);
    let fail;
    const part = { run: () => new Promise((_, reject) => (fail = reject)) };
    let release;
    const other = defineTopics({ 'x.y': unchecked() }).worker('beside', { 'x.y': () => {} }, { client: pool, logger: false, alongside: [part], pollInterval: 0.05, onShutdown: () => new Promise((resolve) => (release = resolve)) });
    const ended = assert.rejects(other.run(), /beside/);
    await waitFor('it is well', () => other.health.ok);
    fail(new Error('beside'));
    await waitFor('it ends', () => release);
    assert.equal(other.health.ok, false);
    release();
    await ended;
}

test('an application runs projections alongside its worker', async (t) => {
    const { pool, store, append } = await setUp(t);
    const { defineTopics, unchecked } = await import('../dist/index.mjs');
    await pool.query(TABLE);
    const handled = [];
    const stop = new AbortController();
    const engine = new ProjectionEngine(pool, store, QUICK).register(noting('beside'));
    const app = defineTopics({ 'x.y': unchecked() }).worker('beside', { 'x.y': (payload) => void handled.push(payload) }, { client: pool, logger: false, alongside: [engine] });
    const running = app.run({ signal: stop.signal });
    await append('a-1', 1);
    await waitFor('it is applied', async () => (await noted(pool, 'beside')).length === 1);
    stop.abort();
    await running;
    assert.equal((await engine.status('beside')).state, 'stopped');
    await shownByHealth(pool, store, append);
    const failing = { run: async () => { throw new Error('beside'); } };
    await assert.rejects(defineTopics({ 'x.y': unchecked() }).worker('beside', { 'x.y': () => {} }, { client: pool, logger: false, alongside: [failing] }).run(), /beside/);
});
