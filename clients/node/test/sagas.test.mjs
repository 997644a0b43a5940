// Sagas on a real server, and in the test kit.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';

import { ANY, causation, CommandBus, ConcurrencyError, correlation, EventStore, idempotency, retry, Saga, SagaError, SagaManager, transaction } from '../dist/events.mjs';
import { InvalidError, Outbox, OutboxError } from '../dist/index.mjs';
import { any, givenSaga, settled } from '../dist/testing.mjs';
import { startServer, waitFor } from './server.mjs';

let server;
before(async () => {
    server = await startServer();
});
after(() => server?.end());

const QUICK = { pollInterval: 0.05, backoff: { min: 0.01, max: 0.1 }, logger: false };

class Shipping extends Saga {
    name = 'shipping';
    startedBy = ['order.placed'];
    steps = [
        { name: 'reserve', compensate: (saga) => saga.send({ type: 'stock.release', data: { order: saga.id } }) },
        { name: 'pay', compensate: (saga) => saga.send({ type: 'payment.refund', data: { order: saga.id } }) },
        { name: 'ship' },
    ];
    timeouts = { payment: (saga) => saga.fail('not paid in time') };
    handlers = {
        'order.placed': async ({ data }, saga) => {
            await saga.send({ type: 'stock.reserve', data: { order: saga.id } });
            await saga.timeout('payment', data.seconds ?? 3600);
        },
        'stock.reserved': (_, saga) => saga.completeStep('reserve'),
        'order.paid': async ({ data }, saga) => {
            saga.clearTimeout('payment');
            saga.state.by = data.by;
            saga.completeStep('pay');
            await saga.enqueue({ topic: 'shipment.request', payload: { order: saga.id } });
        },
        'order.shipped': (_, saga) => saga.complete(),
        'shipment.failed': (_, saga) => saga.fail('no truck'),
    };
    correlation({ data }) { return data.order; }
    initial({ data }) { return { total: data.total }; }
}

async function setUp(t, saga = new Shipping(), handlers = {}) {
    const pool = new pg.Pool({ connectionString: await server.database() });
    pool.on('error', () => {});
    const stop = new AbortController();
    t.after(() => {
        stop.abort();
        return pool.end();
    });
    const store = new EventStore();
    const commands = [];
    const bus = new CommandBus(pool).use(retry(), correlation(), causation(), idempotency({ skip: ['stock.release'] }));
    for (const type of ['stock.reserve', 'stock.release', 'payment.refund']) {
        bus.register(type, async ({ data }, { tx }) => {
            commands.push(type);
            await handlers[type]?.(tx);
            await store.append(tx, `sent-${data.order}`, [{ type, data }], ANY);
        });
    }
    const manager = new SagaManager(pool, store, { ...QUICK, bus, onError: (error) => process.env.DEBUG_SAGA && console.error(error) }).register(saga);
    const happen = (...types) => transaction(pool, async (tx) => {
        for (const [type, data] of types.map((one) => (Array.isArray(one) ? one : [one, {}]))) {
            await store.append(tx, 'order-7', [{ type, data: { order: 'o7', ...data } }], ANY, { metadata: { correlation_id: 'corr' } });
        }
    });
    const outbox = new Outbox(pool);
    const state = async () => (await outbox.sagaFind({ sagaType: saga.name, correlationId: 'o7' }))[0];
    const sent = async () => (await transaction(pool, (tx) => store.load(tx, 'sent-o7'))).map(({ type }) => type);
    const catchUp = async () => {
        await settled(pool);
        return manager.catchUp(saga.name);
    };
    return { stop, pool, store, manager, happen, outbox, state, sent, catchUp, commands };
}

test('a saga goes from step to step, and its commands are part of its transaction', async (t) => {
    const { pool, store, happen, state, sent, catchUp, outbox } = await setUp(t);
    await happen('order.paid', ['order.placed', { total: 5 }], ['order.placed', { total: 5 }], 'stock.reserved');
    assert.equal(await catchUp(), 4);
    assert.deepEqual(await sent(), ['stock.reserve'], 'an event before the start starts nothing, and the same command is processed once');
    const [event] = await transaction(pool, (tx) => store.load(tx, 'sent-o7'));
    assert.deepEqual([event.metadata.correlation_id, typeof event.metadata.causation_id], ['corr', 'string']);
    let saga = await state();
    assert.deepEqual([saga.status, saga.step, saga.steps.map(({ status }) => status)], ['running', 1, ['completed', 'running', 'pending']]);
    assert.deepEqual([saga.state.state, typeof saga.state.timeouts.payment], [{ total: 5 }, 'number'], 'all clients store the state like this');
    await happen(['order.paid', { by: 'card' }], 'order.shipped', 'shipment.failed');
    await catchUp();
    saga = await state();
    assert.deepEqual([saga.status, saga.steps.map(({ status }) => status), saga.state], ['completed', ['completed', 'completed', 'completed'], { state: { total: 5, by: 'card' }, timeouts: {} }]);
    assert.equal((await pool.query("select 1 from outbox.message where topic = 'shipment.request'")).rowCount, 1);
    // A cursor that is set back changes nothing, because the saga remembers the events.
    await outbox.cursorDelete({ consumer: 'projection saga shipping', reason: 'test' });
    await catchUp();
    assert.deepEqual([(await state()).version, await sent()], [saga.version, ['stock.reserve']]);
});

test('a saga that fails compensates the steps that are done, the last one first', async (t) => {
    const { happen, state, sent, catchUp } = await setUp(t);
    await happen('order.placed', 'stock.reserved', 'order.paid', 'shipment.failed', 'order.shipped');
    await catchUp();
    const saga = await state();
    assert.deepEqual([saga.status, saga.failureReason, saga.steps.map(({ status }) => status)], ['compensated', 'no truck', ['compensated', 'compensated', 'failed']]);
    assert.deepEqual(await sent(), ['stock.reserve', 'payment.refund', 'stock.release']);
});

test('a saga that fails before a step is done has failed, and there is nothing to undo', async (t) => {
    const { happen, state, sent, catchUp } = await setUp(t);
    await happen('order.placed', 'shipment.failed');
    await catchUp();
    assert.deepEqual([(await state()).status, await sent()], ['failed', ['stock.reserve']]);
});

test('a compensation that fails is stored, and an operator repeats it', async (t) => {
    let broken = true;
    const { happen, state, sent, catchUp, manager } = await setUp(t, new Shipping(), { 'stock.release': async (tx) => { if (broken) await tx.query('select 1 / 0'); } });
    await happen('order.placed', 'stock.reserved', 'order.paid', 'shipment.failed');
    await catchUp();
    let saga = await state();
    assert.deepEqual([saga.status, saga.steps.map(({ status }) => status)], ['compensation_failed', ['completed', 'compensated', 'failed']]);
    assert.equal(saga.failureReason, 'no truck; step reserve: InvalidError: invalid_parameter (22012)', 'the text of the server may quote data');
    assert.deepEqual(await sent(), ['stock.reserve', 'payment.refund']);
    broken = false;
    assert.equal(await manager.compensate('shipping', 'o7'), 'compensated');
    saga = await state();
    assert.deepEqual([saga.status, await sent()], ['compensated', ['stock.reserve', 'payment.refund', 'stock.release']]);
    await assert.rejects(manager.compensate('shipping', 'o7'), SagaError);
});

test('a handler that fails is tried again with its event, and leaves nothing half done', async (t) => {
    let broken = true;
    const { happen, state, sent, catchUp, manager } = await setUp(t, new Shipping(), { 'stock.reserve': () => { if (broken) throw new Error('broken'); } });
    await happen('order.placed', 'stock.reserved');
    await assert.rejects(catchUp(), /broken/);
    assert.deepEqual([await state(), await sent(), (await manager.status('shipping')).error], [undefined, [], 'Error: broken']);
    broken = false;
    await catchUp();
    assert.deepEqual([(await state()).status, await sent()], ['running', ['stock.reserve']]);
});

test('a time-out calls its handler once, unless it was cleared', async (t) => {
    const { stop, happen, state, manager, sent } = await setUp(t);
    const running = manager.run({ signal: stop.signal });
    await happen(['order.placed', { seconds: 0.2 }], 'stock.reserved');
    await waitFor('the time-out is over', async () => (await state())?.status === 'compensated');
    assert.deepEqual([(await state()).failureReason, await sent()], ['not paid in time', ['stock.reserve', 'stock.release']]);
    stop.abort();
    await running;

    const other = await setUp(t);
    const again = other.manager.run({ signal: other.stop.signal });
    await other.happen(['order.placed', { seconds: 0.2 }], 'stock.reserved', ['order.paid', { by: 'card' }]);
    const done = { subscription: 'saga shipping time-outs', state: 'completed' };
    await waitFor('the time-out is delivered', async () => (await other.outbox.list('delivery_status', { where: done })).length > 0);
    assert.equal((await other.state()).status, 'running');
    other.stop.abort();
    await again;
});

test('the messages, commands and time-outs of a saga carry the context of what it handles', async (t) => {
    const saga = Object.assign(new Shipping(), {
        timeouts: {
            payment: async (one) => {
                await one.enqueue({ topic: 'too.late', payload: {} });
                await one.send({ type: 'stock.release', data: { order: one.id } });
                one.complete();
            },
        },
    });
    const { stop, pool, store, manager, outbox, state } = await setUp(t, saga);
    const running = manager.run({ signal: stop.signal });
    const { messageIds } = await transaction(pool, (tx) => store.append(tx, 'order-7', [{ type: 'order.placed', data: { order: 'o7', seconds: 0.2 } }], ANY, {
        tenant: 'acme', metadata: { correlation_id: 'corr', user_id: 'u1' },
    }));
    await waitFor('the time-out is over', async () => (await state())?.status === 'completed');
    stop.abort();
    await running;
    const message = async (topic) => (await pool.query('select id, key, payload, tenant, metadata, outbox.webhook_id(id, enqueued_at) as webhook from outbox.message where topic = $1', [topic])).rows[0];
    const timeout = await message('saga.timeout.shipping');
    const placed = (await transaction(pool, (tx) => store.load(tx, 'order-7')))[0];
    assert.equal(placed.messageId, messageIds[0]);
    assert.deepEqual([timeout.key, timeout.payload, timeout.tenant], ['o7', { saga_type: 'shipping', saga_id: 'o7', name: 'payment' }, 'acme']);
    assert.deepEqual(timeout.metadata, { correlation_id: 'corr', causation_id: placed.eventId, user_id: 'u1' });
    const late = await message('too.late');
    assert.deepEqual([late.tenant, late.metadata], ['acme', { correlation_id: 'corr', causation_id: timeout.webhook, user_id: 'u1' }]);
    const sent = (await transaction(pool, (tx) => store.load(tx, 'sent-o7'))).map(({ type, tenant, metadata }) => [type, tenant, metadata.correlation_id, metadata.user_id]);
    assert.deepEqual(sent, [['stock.reserve', 'acme', 'corr', 'u1'], ['stock.release', 'acme', 'corr', 'u1']]);
    assert.ok((await outbox.cursorGet({ consumer: 'projection saga shipping' })).position > 0);
});

test('an event that starts a saga whose last one has ended starts another', async (t) => {
    const { pool, happen, state, catchUp, outbox } = await setUp(t);
    await happen('order.placed', 'order.shipped');
    await catchUp();
    await happen('order.paid');
    await catchUp();
    assert.deepEqual([(await state()).sagaId, (await state()).status], ['o7', 'completed']);
    await happen('order.placed', 'stock.reserved');
    await catchUp();
    const second = await state();
    assert.match(second.sagaId, /^o7#\d+$/);
    assert.deepEqual([second.status, second.step, second.correlationId], ['running', 1, 'o7']);
    await happen('order.shipped');
    await catchUp();
    await outbox.cursorReset({ consumer: 'projection saga shipping', position: 0, reason: 'test' });
    await catchUp();
    assert.equal((await pool.query('select from outbox.sagas')).rowCount, 2, 'events that were handled start nothing');
});

test('a saga survives events that were erased, and handlers take patterns', async (t) => {
    const seen = [];
    const saga = Object.assign(new Shipping(), { startedBy: ['order.*'], handlers: { 'order.paid': ({ type }) => seen.push(type), 'order.*': ({ type }) => seen.push(`* ${type}`) } });
    const { pool, store, catchUp, outbox, happen } = await setUp(t, saga);
    const { messageIds } = await transaction(pool, (tx) => store.append(tx, 'order-7', [{ type: 'order.placed', data: { order: 'o7' } }, { type: 'order.placed', data: { order: null } }], ANY));
    await outbox.erase({ messageId: messageIds[0], reason: 'asked for' });
    await happen('order.shipped', 'order.paid');
    assert.equal(await catchUp(), 4);
    assert.deepEqual(seen, ['* order.shipped', 'order.paid']);
});

test('a conflict in a handler is tried again, and is no poison', async (t) => {
    let tries = 0;
    const { happen, state, manager, catchUp } = await setUp(t, new Shipping(), {
        'stock.reserve': async () => { if ((tries += 1) < 3) throw new ConcurrencyError('x', { stream: 's', expected: 1, actual: 2 }); },
    });
    await happen('order.placed');
    await catchUp();
    assert.deepEqual([tries, (await state()).status, (await manager.status('shipping')).error], [3, 'running', null]);
});

test('a manager without the right to make a subscription goes on, and the end of its workers ends it', async (t) => {
    const { pool, store, happen } = await setUp(t);
    const outbox = new Outbox(pool);
    const role = `r_${Math.random().toString(36).slice(2, 10)}`;
    await pool.query(`create role ${role} login password 'p'`);
    for (const capability of ['consume', 'publish', 'observe']) await outbox.grantTo({ role, capability });
    const url = new URL(pool.options.connectionString);
    Object.assign(url, { username: role, password: 'p' });
    const poor = new pg.Pool({ connectionString: url.href });
    poor.on('error', () => {});
    t.after(() => poor.end());
    const lines = [];
    const logger = { error: () => {}, warn: (text) => lines.push(text), info: () => {} };
    const saga = Object.assign(new Shipping(), { handlers: { 'order.placed': (_, one) => one.timeout('payment', 0) } });
    // Without the subscription, the worker ends with an error, and the engine with it, although there is no signal.
    await assert.rejects(new SagaManager(poor, store, { ...QUICK, logger }).register(saga).run(), OutboxError);
    assert.match(lines.join(), /the subscription is left as it is/);
    await outbox.subscribe({ name: 'saga shipping time-outs', topics: ['saga.timeout.shipping'] });
    const stop = new AbortController();
    const manager = new SagaManager(poor, store, { ...QUICK, logger }).register(saga);
    const running = manager.run({ signal: stop.signal });
    await happen('order.placed');
    await waitFor('the time-out is over', async () => (await outbox.sagaFind({ sagaType: 'shipping', correlationId: 'o7' }))[0]?.status === 'failed');
    assert.deepEqual(manager.health.map(({ consumer, ok }) => [consumer, ok]), [['projection saga shipping', true], ['saga shipping time-outs', true]]);
    stop.abort();
    await running;
});

test('a time-out whose handler meets a conflict is handled again, and its errors show no text of the server', async (t) => {
    let tries = 0;
    const saga = Object.assign(new Shipping(), {
        handlers: { 'order.placed': (_, one) => one.timeout('payment', 0) },
        timeouts: {
            payment: async (one) => {
                tries += 1;
                if (tries === 1) throw new ConcurrencyError('x', { stream: 's', expected: 1, actual: 2 });
                await one.tx.query("select 'geheim'::int");
            },
        },
    });
    const { stop, pool, manager, happen } = await setUp(t, saga);
    const running = manager.run({ signal: stop.signal });
    await happen('order.placed');
    const attempts = async () => (await pool.query('select error from outbox.attempt where error is not null')).rows.map(({ error }) => error);
    await waitFor('the attempt has failed', async () => (await attempts()).length > 0);
    assert.deepEqual([tries, (await attempts())[0]], [2, 'SagaError: InvalidError: invalid_parameter (22P02)']);
    stop.abort();
    await running;
});

test('a time-out that is too far away is refused', async () => {
    for (const at of [1e300, Number.NaN, Infinity, new Date(Number.NaN)]) {
        const saga = Object.assign(new Shipping(), { handlers: { 'order.placed': (_, one) => one.timeout('payment', at) } });
        await givenSaga(saga).when({ type: 'order.placed', data: { order: 'o1' } }).expectError({ code: '22023' });
    }
});

test('two managers handle each event once', async (t) => {
    const { stop, pool, store, happen, state, sent, manager } = await setUp(t);
    const bus = new CommandBus(pool).register('stock.reserve', ({ data }, { tx }) => store.append(tx, `sent-${data.order}`, [{ type: 'stock.reserve', data }], ANY));
    const other = new SagaManager(pool, store, { ...QUICK, bus, batchSize: 1 }).register(new Shipping());
    const running = [manager, other].map((one) => one.run({ signal: stop.signal }));
    await happen('order.placed');
    for (let i = 0; i < 10; i += 1) await happen('stock.reserved');
    await happen('order.paid', 'order.shipped');
    await waitFor('it is completed', async () => (await state())?.status === 'completed');
    assert.deepEqual(await sent(), ['stock.reserve']);
    stop.abort();
    await Promise.all(running);
});

test('sagas that are defined wrongly are refused', async (t) => {
    const { pool, store, manager } = await setUp(t);
    assert.throws(() => manager.register(new Shipping()), SagaError);
    const named = (name) => Object.assign(new Shipping(), { name });
    assert.throws(() => manager.register(named('not a word')), InvalidError);
    assert.throws(() => manager.register(Object.assign(named('twice'), { steps: [{ name: 'a' }, { name: 'a' }] })), SagaError);
    await assert.rejects(manager.compensate('none', 'x'), SagaError);
    const mute = new SagaManager(pool, store, QUICK).register(named('mute'));
    await transaction(pool, (tx) => store.append(tx, 'order-1', [{ type: 'order.placed', data: { order: 'm' } }], ANY));
    await settled(pool);
    await assert.rejects(mute.catchUp('mute'), { name: 'SagaError', message: /has no bus/ });
});

test('the test kit: given events, when something happens, these commands are expected', async () => {
    const at = (type, data = {}) => ({ type, data: { order: 'o1', ...data } });
    const placed = at('order.placed', { total: 5 });
    await givenSaga(new Shipping()).when(placed).expect({
        commands: [{ type: 'stock.reserve', data: { order: 'o1' } }], messages: [{ topic: 'saga.timeout.shipping', deliverAt: any(Date) }], status: 'running', state: { total: 5 },
    });
    await givenSaga(new Shipping(), [placed, at('stock.reserved')]).when(at('order.paid', { by: 'card' })).expect({ messages: [{ topic: 'shipment.request' }], state: { total: 5, by: 'card' } });
    await givenSaga(new Shipping(), [placed, at('stock.reserved'), at('order.paid')]).when(at('shipment.failed')).expect({
        commands: [{ type: 'payment.refund' }, { type: 'stock.release' }], status: 'compensated', failureReason: 'no truck',
    });
    await givenSaga(new Shipping(), [placed]).whenTimeout('payment').expect({ status: 'failed' });
    await givenSaga(new Shipping(), [placed, at('order.paid')]).whenTimeout('payment').expect({ status: 'running' });
    await givenSaga(new Shipping()).when(at('order.paid')).expect({ commands: [] });
    await assert.rejects(givenSaga(new Shipping()).when(placed).expect({ commands: [] }), { code: 'ERR_ASSERTION' });
    await assert.rejects(givenSaga(new Shipping()).when(placed).expect({ commands: [{ type: 'stock.reserve' }], status: 'completed' }), { code: 'ERR_ASSERTION' });
    await givenSaga(new Shipping(), [], () => { throw new TypeError('x'); }).when(placed).expectError(TypeError);
});
