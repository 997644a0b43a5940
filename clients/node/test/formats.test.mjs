// Serializers of events, and providers of keys that are services.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';

import { create, createFileRegistry } from '@bufbuild/protobuf';
import { FieldDescriptorProto_Label, FieldDescriptorProto_Type, FileDescriptorProtoSchema, FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import pg from 'pg';

import {
    ANY, AwsKms, EncryptionError, EventStore, FieldEncryption, KeyNotFoundError, LocalKeys, MessagePack, Protobuf, SchemaError, transaction, VaultTransit,
} from '../dist/events.mjs';
import { InvalidError, Outbox, RetryError } from '../dist/index.mjs';
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

let n = 0;
const fresh = () => `thing-${(n += 1)}`;
const append = (store, stream, ...events) => transaction(pool, (tx) => store.append(tx, stream, events, ANY));
const load = (store, stream) => transaction(pool, (tx) => store.load(tx, stream));

/** The schema of `message Placed { string customer = 1; int64 total = 2; bytes blob = 3; }`. */
function placedSchema() {
    const { STRING, INT64, BYTES } = FieldDescriptorProto_Type;
    const field = (name, number, type) => ({ name, number, type, label: FieldDescriptorProto_Label.OPTIONAL });
    const file = create(FileDescriptorProtoSchema, {
        name: 'shop.proto', syntax: 'proto3',
        messageType: [{ name: 'Placed', field: [field('customer', 1, STRING), field('total', 2, INT64), field('blob', 3, BYTES)] }],
    });
    return createFileRegistry(create(FileDescriptorSetSchema, { file: [file] })).getMessage('Placed');
}

test('MessagePack keeps bytes and dates, and its content type chooses it on load', async () => {
    const store = new EventStore({ serializer: new MessagePack() });
    const stream = fresh();
    const data = { n: 1, text: 'ä', bytes: new Uint8Array([0, 255]), at: new Date('2026-01-02T03:04:05.006Z'), list: [null, true, { x: 1.5 }] };
    await append(store, stream, { type: 'a', data }, { type: 'b', data: null });
    await append(new EventStore(), stream, { type: 'c', data: { json: true } });
    const raw = await transaction(pool, (tx) => store.loadRaw(tx, stream));
    assert.deepEqual(raw.map(({ contentType, data }) => [contentType, data]), [['application/vnd.msgpack', null], ['application/vnd.msgpack', null], [null, { json: true }]]);
    assert.deepEqual((await load(store, stream)).map((event) => event.data), [data, null, { json: true }]);
    assert.deepEqual((await load(new EventStore({ serializers: [new MessagePack()] }), stream)).length, 3);
    await assert.rejects(load(new EventStore(), stream), (error) => error instanceof SchemaError && /content of type "application\/vnd\.msgpack"/.test(error.message));
    await assert.rejects(append(store, stream, { type: 'a', data: () => {} }), SchemaError);
});

test('a value that JSON would change is not encrypted', async () => {
    const encryption = new FieldEncryption({ provider: new LocalKeys({ m: Buffer.alloc(32, 5) }), fields: { a: ['x'] } });
    const store = new EventStore({ serializer: new MessagePack(), encryption });
    const stream = fresh();
    for (const x of [new Date(0), new Uint8Array([1]), undefined, 1n, { y: undefined }, Number.NaN]) {
        await assert.rejects(append(store, stream, { type: 'a', data: { x } }), { name: 'EncryptionError', message: 'a field cannot be encrypted' });
    }
    await append(store, stream, { type: 'a', data: { x: { y: [1, null, 'z'] }, at: new Date(0) } });
    assert.deepEqual((await load(store, stream)).map(({ data }) => data), [{ x: { y: [1, null, 'z'] }, at: new Date(0) }]);
});

test('a body that is not of its content type is an error that does not show it', async () => {
    const stream = fresh();
    await new Outbox(pool).appendBytes({ stream, types: ['a'], bodies: [Buffer.from([0xc1, 1, 2])], contentType: 'application/vnd.msgpack' });
    await assert.rejects(load(new EventStore({ serializers: [new MessagePack()] }), stream), { name: 'SchemaError', message: 'an event of type "a" is not MessagePack' });
    const other = fresh();
    await new Outbox(pool).appendBytes({ stream: other, types: ['a'], bodies: [Buffer.from([0xff])], contentType: 'application/x-protobuf' });
    await assert.rejects(load(new EventStore({ serializers: [new Protobuf({ a: placedSchema() })] }), other), { name: 'SchemaError', message: 'an event of type "a" is not Protobuf' });
});

test('Protobuf by a schema and by an object with encode and decode', async () => {
    const codec = { encode: ({ n }) => ({ finish: () => Buffer.from(String(n)) }), decode: (body) => ({ n: Number(Buffer.from(body).toString()) }) };
    const store = new EventStore({ serializer: new Protobuf({ placed: placedSchema(), own: codec }) });
    const stream = fresh();
    await append(store, stream, { type: 'placed', data: { customer: 'Ada', total: 12345678901234567n, blob: new Uint8Array([1]) } }, { type: 'own', data: { n: 7 } });
    const [placed, own] = await load(store, stream);
    assert.deepEqual([placed.data.customer, placed.data.total, [...placed.data.blob], own.data], ['Ada', 12345678901234567n, [1], { n: 7 }]);
    await assert.rejects(append(store, stream, { type: 'unknown', data: {} }), { name: 'SchemaError', message: 'event type "unknown" has no message type' });
    await assert.rejects(append(store, stream, { type: 'placed', data: { total: 'no number' } }), SchemaError);
});

test('fields are encrypted before the serializer', async () => {
    for (const serializer of [new MessagePack(), new Protobuf({ a: placedSchema() })]) {
        const encryption = new FieldEncryption({ provider: new LocalKeys({ m: Buffer.alloc(32, 5) }), fields: { a: ['customer'] } });
        const store = new EventStore({ serializer, encryption });
        const stream = fresh();
        await append(store, stream, { type: 'a', data: { customer: 'Ada' } });
        const [raw] = await transaction(pool, (tx) => store.loadRaw(tx, stream));
        assert.doesNotMatch(raw.body.toString('latin1'), /Ada/);
        assert.equal((await load(store, stream))[0].data.customer, 'Ada');
    }
});

/** A server with the two calls of Vault's transit engine that are used. */
async function fakeVault(t) {
    const seen = [];
    const vault = { seen, answer: undefined };
    const http = createServer(async (request, response) => {
        let text = '';
        for await (const chunk of request) text += chunk;
        const body = JSON.parse(text);
        seen.push({ url: request.url, token: request.headers['x-vault-token'], namespace: request.headers['x-vault-namespace'], body });
        const flip = (base64) => Buffer.from(Buffer.from(base64, 'base64').map((byte) => byte ^ 0x5a)).toString('base64');
        const data = request.url.includes('/encrypt/') ? { ciphertext: `vault:v1:${flip(body.plaintext)}` } : { plaintext: flip(body.ciphertext?.slice(9) ?? '') };
        const [status, answer] = vault.answer ?? [200, JSON.stringify({ data })];
        response.writeHead(status, status === 307 ? { location: 'http://127.0.0.1:1/' } : {});
        response.end(answer);
    });
    await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
    t.after(() => http.close());
    return Object.assign(vault, { address: `http://127.0.0.1:${http.address().port}/` });
}

test('Vault wraps the data keys', async (t) => {
    const vault = await fakeVault(t);
    const provider = new VaultTransit({ address: vault.address, token: () => 's.token', masterKey: 'events/1', mount: 'team/transit', namespace: 'ns', timeout: 5 });
    const store = new EventStore({ encryption: new FieldEncryption({ provider, fields: { a: ['x'] }, keyPer: 'subject' }) });
    const stream = fresh();
    await append(store, stream, { type: 'a', data: { x: 1 } });
    assert.deepEqual((await load(store, stream))[0].data, { x: 1 });
    assert.deepEqual(vault.seen.map(({ url, token, namespace }) => [url, token, namespace]), [
        ['/v1/team/transit/encrypt/events%2F1', 's.token', 'ns'],
        ['/v1/team/transit/decrypt/events%2F1', 's.token', 'ns'],
    ]);
    assert.match((await new Outbox(pool).subjectKeys({ subject: stream }))[0].wrappedKey.toString(), /^vault:v1:/);
    for (const name of ['..', '../../sys/seal', 'a?b', '', 7]) await assert.rejects(provider.unwrap(Buffer.from('x'), name), KeyNotFoundError, String(name));
    const answers = [
        [[200, JSON.stringify({ data: { plaintext: 'A'.repeat(100_000) } })], RetryError],
        [[503, ''], RetryError], [[429, ''], RetryError], [[403, '{"errors":["permission denied"]}'], EncryptionError], [[404, '{"errors":[]}'], KeyNotFoundError],
        [[400, '{"errors":["cipher: message authentication failed"]}'], EncryptionError], [[200, 'x'], EncryptionError], [[200, '{}'], EncryptionError], [[307, ''], RetryError],
        [[200, JSON.stringify({ data: { plaintext: 'AAAA' } })], undefined],
    ];
    for (const [answer, expected] of answers) {
        vault.answer = answer;
        const asked = provider.unwrap(Buffer.from('vault:v1:AAAA'), 'events/1');
        if (expected === undefined) assert.equal((await asked).length, 3);
        else await assert.rejects(asked, (error) => error instanceof expected && !String(error).includes('s.token'), JSON.stringify(answer));
    }
    const fresh2 = new EventStore({ encryption: new FieldEncryption({ provider, fields: { a: ['x'] } }) });
    await assert.rejects(load(fresh2, stream), { name: 'EncryptionError', message: 'malformed encryption key' }, 'a key of three bytes');
    assert.throws(() => new VaultTransit({ masterKey: 'x' }), InvalidError);
    await assert.rejects(new VaultTransit({ address: 'http://127.0.0.1:1', token: 't', masterKey: 'x' }).wrap(Buffer.alloc(32), 'x'), RetryError);
});

test('KMS wraps the data keys', async () => {
    const fails = { error: undefined };
    const client = {
        encrypt: async ({ KeyId, Plaintext }) => ({ CiphertextBlob: Buffer.concat([Buffer.from(`${KeyId}:`), Plaintext]) }),
        decrypt: async ({ KeyId, CiphertextBlob }) => {
            if (fails.error) throw fails.error;
            return { Plaintext: Buffer.from(CiphertextBlob).subarray(KeyId.length + 1) };
        },
    };
    const provider = new AwsKms({ masterKey: 'alias/events', client });
    const encryption = () => new FieldEncryption({ provider, fields: { a: ['x'] }, keyPer: 'event' });
    const stream = fresh();
    await append(new EventStore({ encryption: encryption() }), stream, { type: 'a', data: { x: 'y' } });
    assert.deepEqual((await load(new EventStore({ encryption: encryption() }), stream))[0].data, { x: 'y' });
    await assert.rejects(provider.unwrap(Buffer.from('x'), 'no name'), KeyNotFoundError);
    const failures = [['NotFoundException', 400, KeyNotFoundError], ['AccessDeniedException', 400, EncryptionError], ['ThrottlingException', 400, RetryError], ['TimeoutError', undefined, RetryError], ['InvalidCiphertextException', 400, EncryptionError]];
    for (const [name, httpStatusCode, expected] of failures) {
        fails.error = Object.assign(new Error('x'), { name, $metadata: { httpStatusCode } });
        await assert.rejects(load(new EventStore({ encryption: encryption() }), stream), expected, name);
    }
    await assert.rejects(new AwsKms({ masterKey: 'x' }).wrap(Buffer.alloc(32), 'x'), { name: 'InvalidError', message: '@aws-sdk/client-kms could not be loaded' });
});
