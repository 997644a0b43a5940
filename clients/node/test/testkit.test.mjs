// The test kit itself, without a server.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Aggregate, currentContext, newId, now } from '../dist/events.mjs';
import { any, anything, assertEvents, fixed, given, like, matches, recorded, satisfying } from '../dist/testing.mjs';

class NotPayable extends Error { name = 'NotPayable'; }
class Order extends Aggregate {
    static category = 'order';
    paid = false;
    handlers = {
        'order.placed': () => {},
        'order.paid': () => { this.paid = true; },
    };
    pay(by) {
        if (!this.exists) throw new NotPayable('there is no order');
        if (!this.paid) this.raise('order.paid', { by }, { metadata: { at: 1 } });
        return this.version;
    }
}
const PLACED = { type: 'order.placed', data: {} };
const fails = (promise) => assert.rejects(promise, { code: 'ERR_ASSERTION' });

test('given events, when a decision is made, these events are expected', async () => {
    const order = await given(Order, [PLACED]).when((order) => order.pay('card')).expect([{ type: 'order.paid', data: { by: 'card' } }]);
    assert.equal(order.paid, true);
    await given(Order, [PLACED, { type: 'order.paid', data: {} }]).when(async (order) => order.pay()).expectNothing();
    await given(Order, [PLACED]).when((order) => order.pay('x')).expect([{ type: 'order.paid', data: anything(), metadata: like({ at: any(Number) }) }]);
    await given(Order, [PLACED]).when((order) => order.pay('x')).expectResult(1);
    for (const error of [NotPayable, /no order/, { message: 'there is no order' }]) await given(Order).when((order) => order.pay()).expectError(error);
});

test('an expectation that does not hold is an error of the assertion', async () => {
    await fails(given(Order, [PLACED]).when((order) => order.pay('card')).expect([{ type: 'order.paid', data: { by: 'cash' } }]));
    await fails(given(Order, [PLACED]).when((order) => order.pay('card')).expectNothing());
    await fails(given(Order, [PLACED]).when((order) => order.pay('card')).expectError(NotPayable));
    await fails(given(Order).when((order) => order.pay()).expectError(TypeError));
    await fails(given(Order, [PLACED]).when((order) => order.pay()).expectResult(2));
    await assert.rejects(given(Order).when((order) => order.pay()).expect([]), NotPayable, 'an error that is not expected is thrown as it is');
});

test('matchers', () => {
    assert.ok(matches({ a: [1, { b: 'x' }], at: new Date(0) }, { a: [any(Number), like({ b: any(String) })], at: new Date(0) }));
    for (const [actual, expected] of [[{ a: 1, b: 2 }, { a: 1 }], [{}, { a: anything() }], [[1], { 0: 1 }], [1, any(String)], [null, like({})], [1, satisfying((n) => n > 1)], [[1, 2], [1]]]) {
        assert.ok(!matches(actual, expected), JSON.stringify([actual, expected]));
    }
    assertEvents([recorded({ type: 'a', data: 1, metadata: { x: 1 } })], [{ type: 'a', data: 1 }]);
    assert.throws(() => assertEvents([recorded({ type: 'a', data: 1 })], [{ type: 'a', data: 1, metadata: { x: 1 } }]), { code: 'ERR_ASSERTION' });
});

test('the clock and the ids are fixed inside, and free outside', async () => {
    await fixed({ now: '2026-02-03T04:05:06Z', ids: 'n' }, async () => {
        assert.deepEqual([newId(), newId(), now().toISOString()], ['n1', 'n2', '2026-02-03T04:05:06.000Z']);
    });
    await fixed({}, async () => assert.equal(newId() && newId(), '00000000-0000-0000-0000-000000000002', 'ids of events are UUIDs'));
    assert.notEqual(newId(), newId());
    assert.deepEqual(currentContext(), {});
});
