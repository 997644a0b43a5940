// The event store, aggregates, upcasters and encryption on a real server.
import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import pg from 'pg';
import { z } from 'zod';

import {
    Aggregate, ANY, ConcurrencyError, defineEvents, EncryptionError, EventRegistry, EventStore, FieldEncryption, isConflict, KeyNotFoundError, KeyRevokedError,
    LocalKeys, NO_STREAM, Repository, saveAll, SchemaError, STREAM_EXISTS, StreamClosedError, transaction, Upcasters, withContext,
} from '../dist/events.mjs';
import { decryptFields, encryptFields, parsePaths, unwrapKey, wrapKey } from '../dist/events/cipher.js';
import { ConflictError, InvalidError, Outbox } from '../dist/index.mjs';
import { startServer } from './server.mjs';

let server;
let pool;
before(async () => {
    server = await startServer();
    pool = new pg.Pool({ connectionString: await server.database() });
});
after(async () => {
    await pool?.end();
    await server?.end();
});

let streams = 0;
const fresh = (category = 'order') => `${category}-${(streams += 1)}`;
const tx = (body) => transaction(pool, body);
const placed = (total) => ({ type: 'order.placed', data: { total } });
const loaded = (store, stream, from) => tx((t) => store.load(t, stream, from));

test('events come back as they were appended', async () => {
    const store = new EventStore({ pageSize: 2 });
    const stream = fresh();
    const id = randomUUID();
    const occurredAt = new Date('2026-01-02T03:04:05.678Z');
    const events = [{ ...placed(1), eventId: id, metadata: { a: 1 } }, { type: 'order.paid', data: null }, { type: 'order.noted', data: [1, 'ä\\"{},NULL', { x: {} }] }];
    const appended = await tx(async (t) => {
        const appended = await store.append(t, stream, events, NO_STREAM, { tenant: 'acme', metadata: { a: 2, b: 2 }, headers: { h: 'v' }, occurredAt });
        assert.deepEqual((await store.load(t, stream)).map((event) => event.version), [1, 2, 3], 'its own transaction sees them');
        return appended;
    });
    assert.deepEqual({ ...appended, messageIds: appended.messageIds.length }, { stream, firstVersion: 1, lastVersion: 3, messageIds: 3, repeated: false });
    const [first, second, third] = await loaded(store, stream);
    assert.deepEqual(
        { ...first, recordedAt: first.recordedAt instanceof Date, webhookId: typeof first.webhookId },
        {
            stream, version: 1, type: 'order.placed', data: { total: 1 }, metadata: { a: 1, b: 2 }, eventId: id, position: null, messageId: appended.messageIds[0],
            webhookId: 'string', tenant: 'acme', occurredAt, recordedAt: true, redacted: false,
        },
    );
    assert.deepEqual([second.data, second.redacted, third.data], [null, false, events[2].data]);
    assert.match(second.eventId, /^[0-9a-f-]{36}$/, 'every event gets an id');
    assert.deepEqual((await loaded(store, stream, 3)).map((event) => event.version), [3]);
    assert.deepEqual(await loaded(store, 'order-none'), []);
    assert.equal((await tx((t) => store.loadRaw(t, stream)))[0].headers.h, 'v');
    assert.equal((await store.streamInfo(pool, stream)).version, 3);
    await new Outbox(pool).tick();
    assert.ok((await store.lastPosition(pool)) > 0);
});

test('expected versions', async () => {
    const store = new EventStore();
    const stream = fresh();
    const append = (expected) => tx((t) => store.append(t, stream, [placed(1)], expected));
    const refused = (expected, actual) => (error) => {
        assert.ok(error instanceof ConcurrencyError && error instanceof ConflictError, String(error));
        assert.deepEqual([error.code, error.codeName, error.stream, error.expected, error.actual], ['OB013', 'version_conflict', stream, expected, actual]);
        return isConflict(error);
    };
    await assert.rejects(append(STREAM_EXISTS), refused(-2, 0));
    await append(NO_STREAM);
    await assert.rejects(append(NO_STREAM), refused(0, 1));
    await append(STREAM_EXISTS);
    await append(ANY);
    await append(3);
    await assert.rejects(append(3), refused(3, 4));
    for (const bad of [undefined, 'x', 1.5, -3]) await assert.rejects(append(bad), InvalidError);
    await new Outbox(pool).closeStream({ stream, reason: 'test' });
    await assert.rejects(append(ANY), (error) => error instanceof StreamClosedError && error.code === 'OB014');
});

test('a repeated append with ids is a success and writes nothing', async () => {
    const store = new EventStore();
    const stream = fresh();
    const events = [{ ...placed(1), eventId: randomUUID() }, { ...placed(2), eventId: randomUUID() }];
    const told = [];
    store.onAppend(async (_, events) => void told.push(events));
    const first = await tx((t) => store.append(t, stream, events, 0));
    const again = await tx((t) => store.append(t, stream, events, 0));
    assert.deepEqual({ ...again, repeated: false }, first);
    assert.equal(again.repeated, true);
    assert.deepEqual(told, [await loaded(store, stream)]);
});

test('a rollback leaves nothing, and a broken connection neither', async () => {
    const store = new EventStore();
    const stream = fresh();
    await assert.rejects(tx(async (t) => {
        await store.append(t, stream, [placed(1)], 0);
        throw new Error('undo');
    }), /undo/);
    await assert.rejects(tx(async (t) => {
        await store.append(t, stream, [placed(1)], 0);
        const { rows } = await t.query('select pg_backend_pid() as pid');
        await pool.query('select pg_terminate_backend($1)', [rows[0].pid]);
        await store.load(t, stream);
    }), (error) => error.kind === 'retry');
    assert.deepEqual(await loaded(store, stream), []);
});

test('appends refuse pools and malformed values', async () => {
    const store = new EventStore();
    await assert.rejects(store.append(pool, 'order-1', [placed(1)], 0), { name: 'InvalidError', message: /append\(\) needs a transaction/ });
    assert.deepEqual(await store.load(pool, 'order-none'), [], 'a load takes a pool');
    const circular = {};
    circular.self = circular;
    const bad = [
        [], [{}], [null], [{ type: 'a' }], [{ type: 'not a type', data: 1 }], [{ type: 'a', data: circular }], [{ type: 'a', data: () => {} }], [{ type: 'a', data: 1n }],
        [{ type: 'a', data: '\0' }], [{ ...placed(1), eventId: 'x' }],
    ];
    for (const events of bad) await assert.rejects(tx((t) => store.append(t, 'order-bad', events, ANY)), InvalidError);
    for (const stream of ['', 'a\0', 'x'.repeat(300)]) await assert.rejects(tx((t) => store.append(t, stream, [placed(1)], ANY)), InvalidError);
    for (const from of [0, -1, 1.5, NaN]) await assert.rejects(loaded(store, 'order-1', from), InvalidError);
    assert.throws(() => new EventStore({ pageSize: 10_001 }), InvalidError);
    assert.deepEqual(await loaded(store, 'order-bad'), []);
});

test('schemas are checked on append and applied on load', async () => {
    const events = defineEvents({ 'trip.booked': z.object({ at: z.coerce.date(), name: z.string() }) });
    const store = new EventStore({ registry: events });
    const stream = fresh('trip');
    const at = new Date('2026-05-06T07:08:09Z');
    await tx((t) => store.append(t, stream, [{ type: 'trip.booked', data: { at, name: 'x' } }, { type: 'other', data: { n: 1 } }], 0));
    const [booked, other] = await loaded(store, stream);
    assert.deepEqual([booked.data, other.data], [{ at, name: 'x' }, { n: 1 }]);
    await assert.rejects(tx((t) => store.append(t, stream, [{ type: 'trip.booked', data: { at, name: 'geheim'.length } }], 2)), (error) => {
        assert.ok(error instanceof SchemaError && error instanceof InvalidError);
        assert.match(error.detail, /^name: /);
        assert.doesNotMatch(error.toString(), /6/);
        return true;
    });
    const strict = new EventStore({ registry: new EventRegistry({ unregistered: 'error' }) });
    await assert.rejects(loaded(strict, stream), { name: 'SchemaError', message: 'event type "trip.booked" is not registered' });
    await assert.rejects(tx((t) => strict.append(t, stream, [placed(1)], ANY)), SchemaError);
    assert.throws(() => new EventRegistry().register('a', {}), SchemaError);
    assert.throws(() => new EventRegistry().register('a', Order).register('a', Order), SchemaError);
});

test('a class of events gives its methods to loaded data', async () => {
    class Moved {
        constructor(by) { this.by = by; }
        twice() { return this.by * 2; }
    }
    class Money {
        constructor(cents) { this.cents = cents; }
        static fromData({ cents }) { return new Money(BigInt(cents)); }
    }
    const store = new EventStore({ registry: new EventRegistry().register('moved', Moved).register('paid', Money) });
    const stream = fresh('move');
    await tx((t) => store.append(t, stream, [{ type: 'moved', data: new Moved(4) }, { type: 'paid', data: new Money(5) }], 0));
    const [moved, paid] = await loaded(store, stream);
    assert.deepEqual([moved.data.twice(), moved.data instanceof Moved, paid.data.cents], [8, true, 5n]);
    await assert.rejects(tx((t) => store.append(t, stream, [{ type: 'moved', data: { by: 1 } }], ANY)), SchemaError);
});

test('the metadata is that of the context, the append and the event', async () => {
    const store = new EventStore();
    const stream = fresh();
    await withContext({ correlationId: 'c1', userId: 'u1', tenant: 'acme', metadata: { region: 'eu' } }, () =>
        withContext({ causationId: 'x1', userId: undefined }, () =>
            tx((t) => store.append(t, stream, [{ ...placed(1), metadata: { user_id: 'u2' } }, placed(2)], 0)),
        ),
    );
    const [first, second] = await loaded(store, stream);
    assert.deepEqual(second.metadata, { region: 'eu', correlation_id: 'c1', causation_id: 'x1', user_id: 'u1' });
    assert.deepEqual([first.metadata.user_id, first.tenant], ['u2', 'acme']);
});

class Order extends Aggregate {
    static category = 'order';
    total = 0;
    items = [];
    handlers = {
        'order.placed': ({ total }) => { this.total = total; },
        'order.added': ({ item }) => { this.items.push(item); },
    };
    place(total) {
        if (this.exists) throw new Error('placed already');
        this.raise('order.placed', { total });
    }
    add(item) { this.raise('order.added', { item }); }
    unknown() { this.raise('order.unknown', {}); }
    snapshot() { return { total: this.total, items: this.items }; }
    restore({ total, items }) { Object.assign(this, { total, items }); }
}

test('an aggregate is loaded, changed and saved', async () => {
    const orders = new Repository(new EventStore(), Order);
    const id = `a${(streams += 1)}`;
    await tx(async (t) => {
        const order = await orders.load(t, id);
        assert.deepEqual([order.exists, order.version], [false, 0]);
        assert.equal(await orders.save(t, order), undefined);
        order.place(5);
        order.add('x');
        assert.equal((await orders.save(t, order)).lastVersion, 2);
        order.add('y');
        await orders.save(t, order);
        assert.deepEqual([order.version, order.changes], [3, []]);
        assert.throws(() => order.unknown(), InvalidError);
    });
    const order = await tx((t) => orders.load(t, id));
    assert.deepEqual([order.version, order.total, order.items], [3, 5, ['x', 'y']]);
    const stale = await tx((t) => orders.load(t, id));
    order.add('z');
    await tx((t) => orders.save(t, order));
    stale.add('z');
    await assert.rejects(tx((t) => orders.save(t, stale)), ConcurrencyError);
    assert.deepEqual([stale.version, stale.changes.length], [3, 1]);
    assert.throws(() => new Repository(new EventStore(), class extends Aggregate {}), InvalidError);
    assert.throws(() => orders.stream(''), InvalidError);
});

test('execute decides again after a conflict, with what is there then', async () => {
    const orders = new Repository(new EventStore(), Order, { retry: { attempts: 10, wait: 0.01 } });
    const id = `b${(streams += 1)}`;
    await orders.execute(pool, id, (order) => order.place(1));
    const results = await Promise.all(Array.from({ length: 6 }, (_, i) => orders.execute(pool, id, (order) => { order.add(i); return order.items.length; })));
    assert.deepEqual(results.map(({ result }) => result).sort(), [1, 2, 3, 4, 5, 6]);
    const order = await tx((t) => orders.load(t, id));
    assert.deepEqual([order.version, order.items.toSorted()], [7, [0, 1, 2, 3, 4, 5]]);
    let tries = 0;
    await assert.rejects(orders.execute(pool, id, (order) => { tries += 1; order.place(1); }), /placed already/);
    assert.equal(tries, 1, 'an error of the application is not tried again');
    const unlucky = new Repository(new EventStore(), Order, { retry: { attempts: 2, wait: 0.001 } });
    tries = 0;
    await assert.rejects(unlucky.execute(pool, id, async (order) => {
        tries += 1;
        order.add('late');
        await orders.execute(pool, id, (other) => other.add('early'));
    }), ConcurrencyError);
    assert.equal(tries, 2);
});

test('snapshots are saved every n events and shorten the load', async () => {
    const store = new EventStore();
    const orders = new Repository(store, Order, { snapshotEvery: 3 });
    const id = `c${(streams += 1)}`;
    await orders.execute(pool, id, (order) => order.place(1));
    const snapshot = async (schemaVersion = 1) => (await new Outbox(pool).loadSnapshot({ stream: `order-${id}`, schemaVersion }))[0];
    assert.equal(await snapshot(), undefined);
    for (let i = 0; i < 4; i += 1) await orders.execute(pool, id, (order) => order.add(i));
    assert.equal((await snapshot()).version, 3);
    // The first events are gone, so only the snapshot can tell them.
    await new Outbox(pool).truncateStream({ stream: `order-${id}`, beforeVersion: 4, reason: 'test' });
    const order = await tx((t) => orders.load(t, id));
    assert.deepEqual([order.version, order.items], [5, [0, 1, 2, 3]]);
    await assert.rejects(tx((t) => new Repository(store, Order).load(t, id)), { name: 'InvalidError', message: /at version 0, and the next event is 4/ });
    await assert.rejects(tx((t) => new Repository(store, Order, { snapshotEvery: 3, schemaVersion: 2 }).load(t, id)), InvalidError);
    assert.throws(() => new Repository(store, class Bare extends Aggregate { static category = 'x'; }, { snapshotEvery: 1 }), InvalidError);
});

test('a snapshot that is too large is left out, and fails no save', async () => {
    const lines = [];
    const logger = { error: () => {}, warn: (text) => lines.push(text), info: () => {} };
    const orders = new Repository(new EventStore(), Order, { snapshotEvery: 1, logger });
    const id = `f${(streams += 1)}`;
    await tx(async (t) => {
        await t.query("set local pg_outbox.max_payload = '2kB'").catch(() => {});
        const order = await orders.load(t, id);
        order.add('x'.repeat(1500));
        await orders.save(t, order);
        order.add('y'.repeat(1500));
        await orders.save(t, order);
    });
    assert.deepEqual([lines.length, lines[0]], [1, `pg_outbox: a snapshot is too large and is not saved (stream=order-${id} version=2)`]);
    assert.equal((await tx((t) => orders.load(t, id))).version, 2);
});

test('aggregates that are saved together are saved in the order of their streams', async () => {
    const orders = new Repository(new EventStore(), Order);
    const ids = [`d${(streams += 1)}`, `d${(streams += 1)}`];
    const both = (order) => tx(async (t) => {
        const aggregates = await Promise.all(order.map(async (id) => orders.load(t, id)));
        for (const one of aggregates) one.add('x');
        await saveAll(t, ...aggregates.map((one) => [orders, one]));
    });
    const results = await Promise.allSettled(Array.from({ length: 10 }, (_, i) => both(i % 2 ? ids : ids.toReversed())));
    for (const { reason } of results) assert.ok(reason === undefined || reason.code === 'OB013', `no deadlock: ${reason}`);
});

test('upcasters run before the schema, and their version is stamped', async () => {
    const upcasters = new Upcasters()
        .add('order.placed', 1, ({ amount }) => ({ total: amount }))
        .add('order.placed', 2, (data) => ({ ...data, currency: 'EUR' }));
    const registry = defineEvents({ 'order.placed': z.object({ total: z.number(), currency: z.string() }) });
    const store = new EventStore({ upcasters, registry });
    const stream = fresh();
    const old = new EventStore();
    await tx((t) => old.append(t, stream, [{ type: 'order.placed', data: { amount: 1 } }], 0));
    await tx((t) => old.append(t, stream, [{ type: 'order.placed', data: { total: 2 }, metadata: { schema_version: 2 } }], 1));
    await tx((t) => store.append(t, stream, [{ type: 'order.placed', data: { total: 3, currency: 'USD' } }], 2));
    const events = await loaded(store, stream);
    assert.deepEqual(events.map(({ data }) => data), [{ total: 1, currency: 'EUR' }, { total: 2, currency: 'EUR' }, { total: 3, currency: 'USD' }]);
    assert.deepEqual(events.map(({ metadata }) => metadata.schema_version), [undefined, 2, 3]);
    for (const bad of ['2', 0, 1.5, null]) {
        const strange = fresh();
        await tx((t) => old.append(t, strange, [{ ...placed(1), metadata: { schema_version: bad } }], 0));
        if (bad === null) continue;
        await assert.rejects(loaded(store, strange), SchemaError);
    }
    await assert.rejects(loaded(new EventStore({ upcasters: new Upcasters().add('order.placed', 1, () => {}) }), stream), /has returned nothing/);
    assert.throws(() => new EventStore({ upcasters: new Upcasters().add('a', 1, (d) => d).add('a', 3, (d) => d) }), SchemaError);
});

const VECTORS = JSON.parse(readFileSync(new URL('../../../tests/conformance/vectors/encryption.json', import.meta.url), 'utf8'));
const hex = (text) => Buffer.from(text, 'hex');

test('the vectors of encryption', () => {
    for (const { note, key, stream, type, paths, nonces, data, encrypted, encrypted_fields: fields } of VECTORS.fields) {
        const next = nonces.map(hex);
        const copy = structuredClone(data);
        assert.deepEqual(encryptFields(hex(key), copy, { stream, type }, parsePaths(paths), () => next.shift()), fields, note);
        assert.deepEqual(copy, encrypted, note);
        decryptFields(hex(key), copy, { stream, type }, parsePaths(fields));
        assert.deepEqual(copy, data, note);
    }
    for (const { note, key, stream, type, paths, encrypted } of VECTORS.undecryptable) {
        assert.throws(() => decryptFields(hex(key), structuredClone(encrypted), { stream, type }, parsePaths(paths)), EncryptionError, note);
    }
    for (const { master, master_key: name, nonce, data_key: key, wrapped } of VECTORS.wrapped_keys) {
        assert.equal(wrapKey(hex(master), name, hex(key), () => hex(nonce)).toString('hex'), wrapped);
        assert.equal(unwrapKey(hex(master), name, hex(wrapped)).toString('hex'), key);
        assert.throws(() => unwrapKey(hex(master), `${name}x`, hex(wrapped)), EncryptionError);
        assert.throws(() => unwrapKey(hex(master), name, hex(wrapped).subarray(0, 20)), EncryptionError);
    }
    for (const paths of VECTORS.malformed_paths) assert.throws(() => parsePaths(paths), EncryptionError, JSON.stringify(paths));
    parsePaths(['a', 'ab', 'b.a', 'b.ab']);
    // A name of the language is a name like any other, and reaches no prototype.
    assert.deepEqual(encryptFields(randomBytes(32), { a: {} }, { stream: 's', type: 't' }, parsePaths(['__proto__.x', 'constructor', 'a.toString'])), []);
    assert.throws(() => wrapKey(randomBytes(16), 'm', randomBytes(32)), EncryptionError);
    assert.throws(() => wrapKey(randomBytes(32), 'm', randomBytes(31)), EncryptionError);
});

test('the vectors of upcasters', () => {
    for (const { note, upcasters, latest = {}, steps = [], refused = [], error } of VECTORS.upcasters) {
        const chain = new Upcasters();
        const build = () => {
            for (const [type, from] of upcasters) chain.add(type, from, (data) => data);
            chain.check();
        };
        if (error !== undefined) {
            assert.throws(build, { name: 'SchemaError', message: error }, note);
            continue;
        }
        build();
        for (const [type, version] of Object.entries(latest)) assert.equal(chain.latest(type), version, note);
        for (const [type, version, expected] of steps) assert.deepEqual(chain.steps(type, version), expected, note);
        for (const [type, version, message] of refused) assert.throws(() => chain.steps(type, version), { message }, note);
    }
});

const NAMED = { type: 'customer.named', data: { name: 'Ada', since: 2026, address: { street: 'x 1', city: 'y' } } };
const FIELDS = { 'customer.named': ['name', 'address.street', 'absent'] };
const keys = () => new LocalKeys({ m1: randomBytes(32), m2: randomBytes(32) }, 'm1');

test('fields are encrypted with a key of the subject, until it is revoked', async () => {
    const provider = keys();
    const store = new EventStore({ encryption: new FieldEncryption({ provider, fields: FIELDS, keyPer: 'subject' }), registry: defineEvents({ 'customer.named': z.object({ name: z.string() }).loose() }) });
    const stream = fresh('customer');
    const given = structuredClone(NAMED);
    await tx((t) => store.append(t, stream, [given, { type: 'customer.left', data: {} }, given], 0, { metadata: { user_id: 'u' } }));
    assert.deepEqual(given, NAMED, 'the data of the caller stays as it is');
    const raw = await tx((t) => store.loadRaw(t, stream));
    assert.doesNotMatch(JSON.stringify(raw), /Ada|x 1/);
    assert.equal(raw[0].data.address.city, 'y');
    assert.deepEqual(raw[0].metadata.encrypted_fields, ['name', 'address.street']);
    assert.deepEqual(Object.keys(raw[1].metadata), ['user_id']);
    assert.equal(raw[0].metadata.key_id, raw[2].metadata.key_id);
    assert.deepEqual((await loaded(store, stream)).map(({ data }) => data), [NAMED.data, {}, NAMED.data]);
    await assert.rejects(loaded(new EventStore(), stream), { name: 'EncryptionError', message: /is encrypted, and the store has no encryption/ });
    const other = new EventStore({ encryption: new FieldEncryption({ provider: keys(), fields: FIELDS }) });
    await assert.rejects(loaded(other, stream), { name: 'EncryptionError', message: 'the wrapped key cannot be decrypted' });
    // Metadata that is copied from an encrypted event does not make another event look encrypted.
    await tx((t) => store.append(t, stream, [{ type: 'customer.left', data: {}, metadata: raw[0].metadata }], ANY));
    assert.equal((await loaded(store, stream, 4))[0].metadata.encrypted_fields, undefined);

    await new Outbox(pool).revokeSubjectKeys({ subject: stream, reason: 'asked for' });
    const [first, second] = await loaded(store, stream);
    assert.deepEqual([first.redacted, first.data, second.redacted], [true, { ...NAMED.data, name: null, address: { street: null, city: 'y' } }, false]);
    const told = [];
    const onUndecryptable = (event, error) => { told.push(error instanceof KeyRevokedError); return { name: 'gone', type: event.type }; };
    const lenient = new EventStore({ encryption: new FieldEncryption({ provider, fields: FIELDS, onUndecryptable }) });
    assert.deepEqual((await loaded(lenient, stream))[0].data, { name: 'gone', type: 'customer.named' });
    assert.deepEqual(told, [true, true]);
    // The subject gets a new key, which is not concerned.
    await tx((t) => store.append(t, stream, [NAMED], ANY));
    assert.deepEqual((await loaded(store, stream)).at(-1).data, NAMED.data);
    // One statement asks for the keys of a page, and no event without the fields gets a key.
    const statements = [];
    await tx(async (t) => store.load({ query: (text, values) => { statements.push(text); return t.query(text, values); } }, stream));
    assert.equal(statements.filter((text) => text.includes('get_subject_key')).length, 1);
    const bare = fresh('customer');
    const without = new EventStore({ encryption: new FieldEncryption({ provider, fields: FIELDS, keyPer: 'subject' }) });
    await tx((t) => without.append(t, bare, [{ type: 'customer.named', data: { since: 1 } }], 0));
    assert.deepEqual(await new Outbox(pool).subjectKeys({ subject: bare }), []);
    for (const subject of [() => undefined, () => '']) {
        const nobody = new EventStore({ encryption: new FieldEncryption({ provider, fields: FIELDS, keyPer: 'subject', subject }) });
        await assert.rejects(tx((t) => nobody.append(t, stream, [NAMED], ANY)), { name: 'EncryptionError', message: /has no subject/ });
    }
    for (const name of ['encrypted_fields', 'wrapped_key', 'master_key', 'key_id']) {
        await assert.rejects(tx((t) => store.append(t, stream, [{ ...NAMED, metadata: { [name]: 'x' } }], ANY)), { name: 'EncryptionError', code: '22023' });
    }
    assert.throws(() => new Repository(store, Order, { snapshotEvery: 1 }), { name: 'InvalidError', message: /in plain/ });
});

test('an event that was erased is redacted, and aggregates survive it', async () => {
    const seen = [];
    const upcasters = new Upcasters().add('order.added', 1, (data) => { seen.push(data); return { item: data.item }; });
    const registry = defineEvents({ 'order.added': z.object({ item: z.string() }), 'order.noted': z.null() });
    const store = new EventStore({ registry, upcasters });
    const orders = new Repository(store, Order);
    const id = `e${(streams += 1)}`;
    const added = (item) => ({ type: 'order.added', data: { item } });
    const { messageIds } = await tx((t) => store.append(t, `order-${id}`, [added('a'), added('b'), { type: 'order.noted', data: null }], 0));
    await new Outbox(pool).erase({ messageId: messageIds[0], reason: 'asked for' });
    const events = await loaded(store, `order-${id}`);
    assert.deepEqual(events.map(({ data, redacted, type }) => [data, redacted, type]), [[null, true, 'order.added'], [{ item: 'b' }, false, 'order.added'], [null, false, 'order.noted']]);
    assert.deepEqual(seen, [], 'the newest version needs no upcaster, and an erased event gets none');
    class Noting extends Order {
        gone = [];
        handlers = { ...this.handlers, 'order.noted': () => {} };
        redacted({ version }) { this.gone.push(version); }
    }
    const order = await tx((t) => new Repository(store, Noting).load(t, id));
    assert.deepEqual([order.version, order.items, order.gone], [3, ['b'], [1]]);
    await tx((t) => store.append(t, `order-${id}x`, [added('a')], 0)).then(({ messageIds: [messageId] }) => new Outbox(pool).erase({ messageId, reason: 'asked for' }));
    assert.equal((await tx((t) => orders.load(t, `${id}x`))).version, 1, 'without a method, nothing happens');
});

test('an append whose inline hook throws leaves nothing, even if the caller goes on', async () => {
    const store = new EventStore();
    const stream = fresh();
    const undo = store.onAppend(async (t) => { await t.query('select 1 / 0'); });
    await tx(async (t) => {
        await assert.rejects(store.append(t, stream, [placed(1)], 0));
        undo();
        await store.append(t, stream, [placed(2)], 0);
    });
    assert.deepEqual((await loaded(store, stream)).map(({ data }) => data), [{ total: 2 }]);
});

test('what an aggregate has raised is stored, whatever becomes of the object', async () => {
    const data = { item: { n: 1 } };
    const order = new Order('x');
    order.raise('order.added', data);
    data.item.n = 2;
    order.items[0].n = 3;
    assert.deepEqual(order.changes[0].data, { item: { n: 1 } });
});

test('data with the name __proto__ does not change the class of an event', async () => {
    class Moved { twice() { return this.by * 2; } }
    const registry = new EventRegistry().register('moved', Moved);
    const moved = await registry.decode('moved', JSON.parse('{"by": 2, "__proto__": {"twice": 1}}'));
    assert.deepEqual([moved.twice(), Object.hasOwn(moved, '__proto__')], [4, true]);
});

test('no field is decrypted if one of them cannot be, and a provider that fails is asked again', async () => {
    const provider = keys();
    let failure;
    let told = 0;
    const flaky = { masterKey: 'm1', wrap: (...a) => provider.wrap(...a), unwrap: async (...a) => { if (failure) throw failure; return provider.unwrap(...a); } };
    const settings = { provider: flaky, fields: FIELDS, cacheSize: 1 };
    const seen = [];
    const onUndecryptable = ({ data }) => { told += 1; seen.push(structuredClone(data)); return { gone: true }; };
    const store = new EventStore({ encryption: new FieldEncryption({ ...settings, onUndecryptable }) });
    const stream = fresh('customer');
    await tx((t) => store.append(t, stream, [NAMED], 0));
    const [raw] = await tx((t) => store.loadRaw(t, stream));
    const damaged = { ...raw.data, address: { ...raw.data.address, street: raw.data.name } };
    for (const error of [Object.assign(new Error('x'), { code: 'ECONNREFUSED' }), new EncryptionError('x', '08P01'), new EncryptionError('x', '28000'), new KeyNotFoundError('x', '42704')]) {
        failure = error;
        const expected = error.code === 'ECONNREFUSED' ? { kind: 'retry' } : { message: 'x' };
        await assert.rejects(loaded(new EventStore({ encryption: new FieldEncryption({ ...settings, onUndecryptable }) }), stream), expected);
    }
    assert.equal(told, 0, 'the handler is for events, and not for providers');
    failure = undefined;
    const [one] = await tx((t) => store.decode(t, [{ ...raw, data: damaged }]));
    assert.deepEqual([one.data, one.redacted, told], [{ gone: true }, true, 1]);
    assert.match(seen[0].name, /^v1\./, 'the first field stays as it is');
});

test('the key of a transaction that rolls back is not used again', async () => {
    const store = new EventStore({ encryption: new FieldEncryption({ provider: keys(), fields: FIELDS }) });
    const stream = fresh('customer');
    await assert.rejects(tx(async (t) => {
        await store.append(t, stream, [NAMED], 0);
        await store.load(t, stream);
        throw new Error('undo');
    }), /undo/);
    await tx((t) => store.append(t, stream, [NAMED], 0));
    assert.deepEqual((await loaded(store, stream))[0].data, NAMED.data);
});

test('fields are encrypted with a key per event, wrapped by the master key of the tenant', async () => {
    const provider = keys();
    let unwrapped = 0;
    const counted = { masterKey: 'm1', wrap: (...a) => provider.wrap(...a), unwrap: (...a) => { unwrapped += 1; return provider.unwrap(...a); } };
    const masterKey = (tenant) => (tenant === 'two' ? 'm2' : undefined);
    const store = new EventStore({ encryption: new FieldEncryption({ provider: counted, fields: FIELDS, keyPer: 'event', masterKey, cacheSize: 1 }) });
    const stream = fresh('customer');
    await tx((t) => store.append(t, stream, [NAMED, NAMED], 0, { tenant: 'one' }));
    await tx((t) => store.append(t, stream, [NAMED], 2, { tenant: 'two' }));
    const raw = await tx((t) => store.loadRaw(t, stream));
    assert.deepEqual(raw.map(({ metadata }) => metadata.master_key), ['m1', 'm1', 'm2']);
    assert.equal(new Set(raw.map(({ metadata }) => metadata.wrapped_key)).size, 3);
    assert.deepEqual((await loaded(store, stream)).map(({ data }) => data), [NAMED.data, NAMED.data, NAMED.data]);
    assert.equal(unwrapped, 3);
    await loaded(store, stream, 3);
    assert.equal(unwrapped, 3, 'the last key is in the cache');
    // An event that another stream copies is not readable there.
    await tx((t) => new Outbox(t).append({ stream: `${stream}b`, type: raw[0].type, data: raw[0].data, metadata: raw[0].metadata }));
    await assert.rejects(loaded(store, `${stream}b`), { name: 'EncryptionError', message: 'a field cannot be decrypted' });
});

test('metadata from outside that names keys and fields wrongly is an error, and no crash', async () => {
    const store = new EventStore({ encryption: new FieldEncryption({ provider: keys(), fields: FIELDS }) });
    const wrong = [
        { encrypted_fields: 'name' }, { encrypted_fields: [1] }, { encrypted_fields: ['name'] }, { encrypted_fields: ['name'], key_id: 7 },
        { encrypted_fields: ['a..b'], key_id: 'x' }, { encrypted_fields: ['name'], wrapped_key: '', master_key: 'm1' },
    ];
    for (const metadata of wrong) {
        const stream = fresh('wrong');
        await new Outbox(pool).append({ stream, type: 'customer.named', data: { name: 'x' }, metadata });
        await assert.rejects(loaded(store, stream), EncryptionError, JSON.stringify(metadata));
    }
    const missing = [{ key_id: 'none' }, { wrapped_key: 'AAAA', master_key: 'none' }];
    for (const metadata of missing) {
        const stream = fresh('wrong');
        await new Outbox(pool).append({ stream, type: 'customer.named', data: { name: 'x' }, metadata: { encrypted_fields: ['name'], ...metadata } });
        await assert.rejects(loaded(store, stream), KeyNotFoundError, JSON.stringify(metadata));
    }
});

test('local keys come from files and from the environment', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'keys-'));
    const key = randomBytes(32);
    try {
        const files = { raw: key, hex: `${key.toString('hex')}\n`, base64: key.toString('base64') };
        for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
        const provider = LocalKeys.fromFiles(Object.fromEntries(Object.keys(files).map((name) => [name, join(folder, name)])));
        assert.equal(provider.masterKey, 'base64');
        process.env.TEST_EVENT_KEY = key.toString('base64');
        const fromEnvironment = LocalKeys.fromEnvironment({ raw: 'TEST_EVENT_KEY', hex: 'TEST_EVENT_KEY' });
        for (const name of ['raw', 'hex']) {
            assert.deepEqual(await fromEnvironment.unwrap(await provider.wrap(Buffer.alloc(32, 7), name), name), Buffer.alloc(32, 7));
        }
        writeFileSync(join(folder, 'short'), 'abc');
        assert.throws(() => LocalKeys.fromFiles({ short: join(folder, 'short') }), { name: 'EncryptionError', message: 'malformed encryption key' });
        assert.throws(() => LocalKeys.fromEnvironment({ x: 'NO_SUCH_VARIABLE' }), KeyNotFoundError);
        assert.throws(() => new LocalKeys({}), KeyNotFoundError);
        assert.doesNotMatch(JSON.stringify(provider) + (await import('node:util')).inspect(provider), new RegExp(key.toString('hex').slice(0, 8)));
    } finally {
        rmSync(folder, { recursive: true });
    }
});

/** Counts the statements that a body sends. */
async function statements(body) {
    const { query } = pg.Client.prototype;
    const seen = [];
    pg.Client.prototype.query = function (config, ...rest) {
        seen.push(typeof config === 'string' ? config : config.name);
        return query.call(this, config, ...rest);
    };
    try {
        await body();
    } finally {
        pg.Client.prototype.query = query;
    }
    return seen;
}

test('a session that has lost its prepared statements goes on without them', async (t) => {
    const own = new pg.Pool({ connectionString: pool.options.connectionString, max: 1 });
    t.after(() => own.end());
    const store = new EventStore();
    for (let i = 0; i < 2; i += 1) assert.deepEqual(await store.load(own, 'lost-1'), []);
    await own.query('discard all');
    assert.ok((await statements(() => store.load(own, 'lost-1'))).length > 0);
    await own.query('discard all');
    await transaction(own, (tx) => store.append(tx, 'lost-1', [{ type: 'a', data: 1 }], NO_STREAM));
    assert.equal((await store.load(own, 'lost-1')).length, 1);
    // In a transaction the error has aborted what came before.
    const other = new pg.Pool({ connectionString: pool.options.connectionString, max: 1 });
    for (let i = 0; i < 2; i += 1) await store.load(other, 'lost-1');
    const client = await other.connect();
    t.after(() => {
        client.release();
        return other.end();
    });
    await client.query('discard all');
    await client.query('begin');
    await assert.rejects(store.load(client, 'lost-1'), (error) => error.code === '26000');
    await client.query('rollback');
    assert.equal((await store.load(client, 'lost-1')).length, 1);
});

test('the statements of events are prepared, and a decision without a transaction is two of them', async (t) => {
    class Counter extends Aggregate {
        static category = 'counter';
        n = 0;
        handlers = { 'counter.added': ({ n }) => { this.n += n; } };
        add(n) {
            this.raise('counter.added', { n });
        }
        snapshot() {
            return { n: this.n };
        }
        restore({ n }) {
            this.n = n;
        }
    }
    const own = new pg.Pool({ connectionString: pool.options.connectionString, max: 1 });
    t.after(() => own.end());
    const store = new EventStore();
    const counters = new Repository(store, Counter, { retry: { wait: 0.01 } });
    const id = String(streams += 1);
    // The first answers show that there is no pooler.
    for (let i = 0; i < 3; i += 1) await counters.decide(own, id, (counter) => counter.add(1));
    const seen = await statements(() => counters.decide(own, id, (counter) => counter.add(1)));
    assert.equal(seen.length, 2, seen.join('\n'));
    assert.ok(seen.every((name) => /^pg_outbox_\w+$/.test(name)), seen.join('\n'));
    const { rows } = await own.query("select count(*)::int as n from pg_prepared_statements where name like 'pg_outbox_%' and statement ~ 'outbox.(load|append_many)'");
    assert.equal(rows[0].n, 2);
    assert.equal((await statements(() => counters.execute(own, id, (counter) => counter.add(1)))).length, 4);
    assert.equal((await counters.load(own, id)).n, 5);
    const nothing = await counters.decide(own, id, (counter) => counter.n);
    assert.deepEqual([nothing.result, nothing.appended], [5, undefined]);
    await assert.rejects(counters.decide(own, id, () => { throw new Error('no'); }), /no/);
    assert.equal((await counters.load(own, id)).n, 5);
    // Another transaction is first, so that it is decided again.
    let tries = 0;
    const { aggregate } = await counters.decide(own, id, async (counter) => {
        if ((tries += 1) === 1) await counters.execute(pool, id, (other) => other.add(10));
        counter.add(1);
    });
    assert.deepEqual([tries, aggregate.n, aggregate.version], [2, 16, 7]);
    // An inline projection is one with the append.
    const undo = store.onAppend(async () => { throw new Error('refused'); });
    await assert.rejects(counters.decide(own, id, (counter) => counter.add(1)), /refused/);
    undo();
    assert.equal((await counters.load(own, id)).version, 7, 'nothing was appended');
    const kept = new Repository(store, Counter, { snapshotEvery: 2 });
    await kept.decide(own, id, (counter) => counter.add(1));
    assert.equal((await new Outbox(own).loadSnapshot({ stream: `counter-${id}` }))[0].version, 8);
    await kept.decide(own, id, (counter) => counter.add(1));
    assert.equal((await kept.load(own, id)).n, 18);
});
