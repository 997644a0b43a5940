// The command bus and its middleware, with transactions on a real server.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { z } from 'zod';

import {
    ANY, causation, chain, CommandBus, CommandError, CommandNotHandledError, CommandPanicError, CommandTimeoutError, ConcurrencyError, correlation, EventStore,
    forTypes, idempotency, logging, metrics, recovery, retry, StoredCommandError, tenant, TenantRequiredError, timeout, transaction, validation, ValidationError, when,
} from '../dist/events.mjs';
import { InvalidError, OutboxError } from '../dist/index.mjs';
import { startServer, waitFor } from './server.mjs';

let server;
let pool;
const store = new EventStore();
before(async () => {
    server = await startServer();
    pool = new pg.Pool({ connectionString: await server.database() });
});
after(async () => {
    await pool?.end();
    await server?.end();
});

let n = 0;
const fresh = () => `order-${(n += 1)}`;
const load = (stream) => transaction(pool, (t) => store.load(t, stream));
/** A bus whose command appends an event and returns its version. `during` runs after the append. */
function shop(middleware = [], during = async () => {}) {
    const seen = { calls: 0 };
    const bus = new CommandBus(pool).use(...middleware).register('order.place', async ({ data }, context) => {
        seen.calls += 1;
        const { lastVersion } = await store.append(context.tx, data.stream, [{ type: 'order.placed', data }], ANY);
        await during(context, data, seen.calls);
        return { version: lastVersion };
    });
    return { bus, seen };
}
const place = (stream, rest = {}) => ({ type: 'order.place', data: { stream }, ...rest });

test('a command runs in a transaction, which commits with its result', async () => {
    const stream = fresh();
    const { bus } = shop();
    assert.deepEqual(await bus.dispatch(place(stream)), { version: 1 });
    assert.equal((await load(stream)).length, 1);
    const failing = shop([], async () => { throw new Error('no'); });
    await assert.rejects(failing.bus.dispatch(place(stream)), /^Error: no$/);
    assert.equal((await load(stream)).length, 1, 'the effect of a command that failed is rolled back');
    await assert.rejects(bus.dispatch({ type: 'order.lose', data: {} }), (error) => error instanceof CommandNotHandledError && error instanceof CommandError && error instanceof OutboxError);
    assert.throws(() => bus.register('order.place', () => {}), InvalidError);
    for (const bad of [null, 1, {}, { type: 1 }]) await assert.rejects(bus.dispatch(bad), InvalidError);
});

test('a command takes part in a transaction of the caller', async () => {
    const stream = fresh();
    const { bus } = shop([idempotency()]);
    await assert.rejects(transaction(pool, async (tx) => {
        assert.deepEqual(await bus.dispatch(place(stream, { key: stream }), { tx }), { version: 1 });
        throw new Error('undo');
    }), /undo/);
    assert.deepEqual(await load(stream), []);
    await transaction(pool, (tx) => bus.dispatch(place(stream, { key: stream }), { tx }));
    assert.equal((await load(stream)).length, 1);
    await assert.rejects(bus.dispatch(place(stream), { tx: pool }), { name: 'InvalidError', message: 'dispatch() needs a transaction' });
    await assert.rejects(new CommandBus().register('a', () => {}).dispatch({ type: 'a', data: 1 }), { name: 'InvalidError', message: 'the command needs a transaction' });
});

test('commands are dispatched in order, up to the first that fails', async () => {
    const stream = fresh();
    const { bus } = shop([], async (_, data) => { if (data.fail) throw new Error('third'); });
    assert.deepEqual(await bus.dispatchAll([place(stream), place(stream)]), [{ version: 1 }, { version: 2 }]);
    await assert.rejects(bus.dispatchAll([place(stream), { type: 'order.place', data: { stream, fail: true } }, place(stream)]), /third/);
    assert.equal((await load(stream)).length, 3);
});

test('middleware runs in the order in which it was added', async () => {
    const order = [];
    const mark = (name) => async (_, context, next) => {
        order.push(`${name}(`);
        const result = await next();
        order.push(`)${name}`);
        return result;
    };
    const stream = fresh();
    const { bus } = shop([mark('a'), chain(mark('b'), mark('c')), when(({ key }) => key === 'x', mark('d')), forTypes(['order.pay'], mark('e'))]);
    await bus.dispatch(place(stream));
    assert.equal(order.splice(0).join(' '), 'a( b( c( )c )b )a');
    await bus.dispatch(place(stream, { key: 'x' }));
    assert.equal(order.join(' '), 'a( b( c( d( )d )c )b )a');
});

test('validation reports one or all of the fields, and no value', async () => {
    const schema = z.object({ stream: z.string(), n: z.number(), of: z.object({ x: z.string() }) });
    const data = { stream: 'geheim', n: 'geheim', of: { x: 1 } };
    const { bus, seen } = shop([validation({ 'order.place': schema })]);
    await assert.rejects(bus.dispatch({ type: 'order.place', data }), (error) => {
        assert.ok(error instanceof ValidationError);
        assert.deepEqual(error.fields.map(({ field }) => field), ['n', 'of.x']);
        assert.doesNotMatch(JSON.stringify(error.fields) + error.toString(), /geheim/);
        return error.code === '22023';
    });
    const single = shop([validation({ 'order.place': schema }, { all: false })]);
    await assert.rejects(single.bus.dispatch({ type: 'order.place', data }), (error) => error.fields.length === 1);
    const own = shop([validation({ 'order.place': ({ stream }) => (stream ? [] : [{ field: 'stream', message: 'is missing' }]) })]);
    await assert.rejects(own.bus.dispatch({ type: 'order.place', data: {} }), { detail: 'stream: is missing' });
    await own.bus.dispatch(place(fresh()));
    assert.deepEqual([seen.calls, own.seen.calls], [0, 1]);
});

test('recovery turns mistakes of the program into one error, and leaves others alone', async () => {
    class NotBillable extends Error {}
    const thrown = [[() => null.x, CommandPanicError], [() => { throw 'text'; }, CommandPanicError], [() => { throw new NotBillable('no'); }, NotBillable]];
    for (const [body, expected] of thrown) {
        const { bus } = shop([recovery()], async () => body());
        await assert.rejects(bus.dispatch(place(fresh())), expected);
    }
});

test('logging and metrics tell each command', async () => {
    const lines = [];
    const measures = [];
    const logger = { info: (text) => lines.push(['info', text]), warn: () => {}, error: (text) => lines.push(['error', text]) };
    const { bus } = shop([logging(logger), metrics((measure) => { measures.push(measure); throw new Error('of the metrics'); }), idempotency()], async (_, { fail }) => { if (fail) throw new Error('no'); });
    const stream = fresh();
    await bus.dispatch(place(stream, { id: 'c1' }));
    await bus.dispatch(place(stream, { id: 'c2' }));
    await assert.rejects(bus.dispatch({ type: 'order.place', data: { stream, fail: true } }));
    assert.deepEqual(measures.map(({ type, outcome }) => `${type} ${outcome}`), ['order.place ok', 'order.place repeated', 'order.place error']);
    assert.ok(measures.every(({ seconds }) => seconds >= 0));
    assert.match(lines[0][1], /^pg_outbox: command handled \(type=order\.place id=c1 ms=\d+\)$/);
    assert.match(lines[1][1], /command was handled before/);
    assert.match(lines[2].join(), /^error,pg_outbox: command failed/);
});

test('a command that takes too long never commits', async () => {
    const stream = fresh();
    let finish;
    let ended;
    const { bus } = shop([timeout(0.1)], ({ signal }) => new Promise((resolve) => {
        signal.addEventListener('abort', () => (ended = signal.reason.name));
        finish = resolve;
    }));
    await assert.rejects(bus.dispatch(place(stream)), CommandTimeoutError);
    assert.equal(ended, 'CommandTimeoutError');
    finish();
    await waitFor('the transaction has ended', async () => (await pool.query("select 1 from pg_stat_activity where state like 'idle in%'")).rowCount === 0);
    assert.deepEqual(await load(stream), []);
    const quick = shop([timeout(10)]);
    assert.deepEqual(await quick.bus.dispatch(place(stream)), { version: 1 });
    const given = new AbortController();
    const stopped = shop([], async () => given.abort(new Error('stopped')));
    await assert.rejects(stopped.bus.dispatch(place(stream), { signal: given.signal }), /stopped/);
    assert.equal((await load(stream)).length, 1);
});

test('in a transaction of the caller, a command that takes too long has ended before the error is thrown', async () => {
    const stream = fresh();
    const order = [];
    const { bus } = shop([timeout(0.1)], async ({ signal, tx }) => {
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        await tx.query('select pg_sleep(0.2)');
        order.push('the handler has ended');
    });
    await assert.rejects(transaction(pool, (tx) => bus.dispatch(place(stream), { tx }).finally(() => order.push('dispatch has ended'))), CommandTimeoutError);
    assert.deepEqual(order, ['the handler has ended', 'dispatch has ended']);
    assert.deepEqual(await load(stream), []);
});

test('a command that has timed out is not tried again, and its late handler reaches no transaction', async () => {
    const stream = fresh();
    let late;
    const seen = [];
    const bus = new CommandBus(pool).use(retry({ attempts: 2, wait: 0.01 }), timeout(0.3)).register('order.place', async (_, context) => {
        seen.push(context);
        await new Promise((resolve) => (late = resolve));
        return store.append(context.tx, stream, [{ type: 'late', data: {} }], ANY);
    });
    await assert.rejects(bus.dispatch(place(stream)), CommandTimeoutError);
    late();
    await waitFor('the transaction has ended', async () => (await pool.query("select 1 from pg_stat_activity where state like 'idle in%'")).rowCount === 0);
    assert.equal(seen.length, 1);
    assert.deepEqual(await load(stream), []);
    const given = new AbortController();
    const stopped = shop([retry({ wait: 10 })], async () => {
        setTimeout(() => given.abort(new Error('stopped')), 20);
        throw new ConcurrencyError('x', { stream, expected: 1, actual: 2 });
    });
    await assert.rejects(stopped.bus.dispatch(place(stream), { signal: given.signal }), /stopped/);
    assert.equal(stopped.seen.calls, 1, 'no try begins after the caller has given up');
});

test('retry repeats conflicts in new transactions, and nothing else', async () => {
    const stream = fresh();
    const flaky = (error, times) => shop([retry({ wait: 0.01 }), idempotency()], async (_, __, call) => { if (call <= times) throw error; });
    const conflict = new ConcurrencyError('x', { stream, expected: 1, actual: 2 });
    const twice = flaky(conflict, 2);
    assert.deepEqual(await twice.bus.dispatch(place(stream, { key: `${stream}a` })), { version: 1 });
    assert.equal(twice.seen.calls, 3);
    const always = flaky(conflict, 9);
    await assert.rejects(always.bus.dispatch(place(stream, { key: `${stream}b` })), ConcurrencyError);
    assert.equal(always.seen.calls, 3);
    const other = flaky(new Error('other'), 9);
    await assert.rejects(other.bus.dispatch(place(stream, { key: `${stream}c` })), /other/);
    assert.equal(other.seen.calls, 1);
    await transaction(pool, (tx) => shop([retry(), idempotency()]).bus.dispatch(place(stream, { key: `${stream}e` }), { tx }));
    const inside = shop([idempotency(), retry()]);
    await assert.rejects(inside.bus.dispatch(place(stream, { key: `${stream}d` })), { name: 'InvalidError', message: 'retry() is inside of a transaction' });
});

test('a broken connection is tried again', async () => {
    const stream = fresh();
    const { bus } = shop([retry({ wait: 0.01 })], async ({ tx }, _, call) => {
        if (call > 1) return;
        const { rows } = await tx.query('select pg_backend_pid() as pid');
        await pool.query('select pg_terminate_backend($1)', [rows[0].pid]);
        await store.load(tx, stream);
    });
    assert.deepEqual(await bus.dispatch(place(stream)), { version: 1 });
});

test('the events of a command have its correlation, cause, user and tenant', async () => {
    const stream = fresh();
    const { bus } = shop([correlation(() => 'c-new'), causation(), tenant()]);
    await bus.dispatch(place(stream, { id: 'cmd-1', metadata: { tenant: 'acme', user_id: 'u1', other: 'x' } }));
    await bus.dispatch(place(stream, { id: 'cmd-2', metadata: { tenant: 'acme', correlation_id: 'c-given', causation_id: 'before' } }));
    assert.deepEqual((await load(stream)).map(({ metadata, tenant }) => [metadata, tenant]), [
        [{ correlation_id: 'c-new', causation_id: 'cmd-1', user_id: 'u1' }, 'acme'],
        [{ correlation_id: 'c-given', causation_id: 'cmd-2' }, 'acme'],
    ]);
    await assert.rejects(bus.dispatch(place(stream)), TenantRequiredError);
    await shop([tenant(false)]).bus.dispatch(place(stream));
});

test('a command with a key is processed once', async () => {
    const stream = fresh();
    const { bus, seen } = shop([idempotency()]);
    const command = place(stream, { key: `key-${stream}` });
    const results = await Promise.all(Array.from({ length: 5 }, () => bus.dispatch(command)));
    assert.deepEqual(results, Array.from({ length: 5 }, () => ({ version: 1 })));
    assert.deepEqual([seen.calls, (await load(stream)).length], [1, 1]);
    await assert.rejects(bus.dispatch({ ...command, data: { stream, n: 2 } }), { code: 'OB008' });
    await bus.dispatch({ ...command, metadata: { tenant: 'other' } });
    assert.equal(seen.calls, 2, 'another tenant has keys of its own');
});

test('the key of a command is a field, a function, or a hash of its type and data', async () => {
    const calls = async (option, ...commands) => {
        const { bus, seen } = shop([idempotency(option)]);
        for (const command of commands) await bus.dispatch(command);
        return seen.calls;
    };
    const stream = fresh();
    const data = (rest) => ({ type: 'order.place', data: { stream, ...rest } });
    assert.equal(await calls({}, data({ a: 1, b: 2 }), { type: 'order.place', data: { b: 2, a: 1, stream } }, data({ a: 1, b: 3 })), 2);
    assert.equal(await calls({}, { ...data({ t: 1 }), metadata: { tenant: 'x' } }, { ...data({ t: 1 }), metadata: { tenant: 'y' } }), 2);
    assert.equal(await calls({ key: 'request' }, data({ request: `r${stream}` }), data({ request: `r${stream}` }), data({})), 2);
    assert.equal(await calls({ key: ({ data }) => `f${data.stream}${data.f}` }, data({ f: 1 }), data({ f: 1 }), data({ f: 2 })), 2);
    assert.equal(await calls({ skip: ['order.place'] }, data({}), data({})), 2);
    assert.equal(await calls({ ttl: 3600 }, data({ ttl: 1 }), data({ ttl: 1 })), 1);
});

test('all clients make the same key of a command', async () => {
    const key = async (command, option = {}) => {
        const before = new Set((await pool.query('select key from outbox.command')).rows.map((row) => row.key));
        await new CommandBus(pool).use(idempotency(option)).register('k', () => {}).dispatch({ type: 'k', ...command });
        return (await pool.query('select key from outbox.command')).rows.map((row) => row.key).find((one) => !before.has(one));
    };
    const sha = (text) => createHash('sha256').update(text).digest('hex');
    assert.equal(await key({ data: {}, key: 'own' }), 'k:own');
    assert.equal(await key({ data: {}, key: 'own', metadata: { tenant: 'acme' } }), 'k:acme:own');
    assert.equal(await key({ data: { id: 7 } }, { key: 'id' }), 'k:7');
    assert.equal(await key({ data: { b: [1, { z: 1, y: null }], 10: 'ä', 9: 1.5 } }), `k:${sha('{"10":"ä","9":1.5,"b":[1,{"y":null,"z":1}]}')}`);
    assert.equal(await key({ data: {}, key: 'x'.repeat(253) }), `k:${'x'.repeat(253)}`);
    assert.equal(await key({ data: {}, key: 'x'.repeat(254) }), `k:${sha('x'.repeat(254))}`);
    assert.equal(await key({ data: {}, key: 'x'.repeat(254), metadata: { tenant: 'acme' } }), `k:${sha(`acme:${'x'.repeat(254)}`)}`);
});

test('a stored message is bounded, and has only characters that can be stored', async () => {
    const { bus } = shop([idempotency({ storeErrors: true })], async () => { throw new Error(`\0\ud800${'é'.repeat(2000)}`); });
    const command = place(fresh(), { key: 'bounded' });
    await assert.rejects(bus.dispatch(command));
    await assert.rejects(bus.dispatch(command), (error) => error instanceof StoredCommandError && error.stored.message === `\ufffd\ufffd${'é'.repeat(998)}`);
    const mistake = shop([idempotency({ storeErrors: true })], async () => null.x);
    for (let i = 0; i < 2; i += 1) await assert.rejects(mistake.bus.dispatch(place(fresh(), { key: 'mistake', data: { stream: 'order-mistake' } })), TypeError);
    assert.equal(mistake.seen.calls, 2);
});

test('an error that is final is stored if that is wished, without the effects', async () => {
    class NotBillable extends Error { name = 'NotBillable'; }
    const stream = fresh();
    const { bus, seen } = shop([idempotency({ storeErrors: true })], async () => { throw new NotBillable('no money'); });
    const command = place(stream, { key: `key-${stream}` });
    await assert.rejects(bus.dispatch(command), NotBillable);
    await assert.rejects(bus.dispatch(command), (error) => {
        assert.ok(error instanceof StoredCommandError);
        assert.deepEqual(error.stored, { type: 'NotBillable', message: 'no money' });
        return true;
    });
    assert.deepEqual([seen.calls, await load(stream)], [1, []]);
    const plain = shop([idempotency()], async () => { throw new NotBillable('no money'); });
    for (let i = 0; i < 2; i += 1) await assert.rejects(plain.bus.dispatch(place(stream, { key: `plain-${stream}` })), NotBillable);
    assert.equal(plain.seen.calls, 2);
    const broken = shop([idempotency({ storeErrors: true })], ({ tx }) => tx.query('select 1 / 0'));
    await assert.rejects(broken.bus.dispatch(place(stream, { key: `sql-${stream}` })), { code: '22012' });
    await assert.rejects(broken.bus.dispatch(place(stream, { key: `sql-${stream}` })), { code: '22012' }, 'the text of the server is not stored');
    const conflict = shop([idempotency({ storeErrors: true })], async () => { throw new ConcurrencyError('x', { stream, expected: 1, actual: 2 }); });
    for (let i = 0; i < 2; i += 1) await assert.rejects(conflict.bus.dispatch(place(stream, { key: `conflict-${stream}` })), ConcurrencyError);
});
