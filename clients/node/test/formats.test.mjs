// Serializers of events, and providers of keys that are services.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { KMS } from '@aws-sdk/client-kms';
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
        [[400, '{"errors":["cipher: message authentication failed"]}'], EncryptionError], [[200, 'x'], EncryptionError], [[200, '{}'], EncryptionError], [[307, ''], EncryptionError],
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

const python = fileURLToPath(new URL('../../../.cache/py/bin/python', import.meta.url));
const skip = existsSync(python) ? false : 'scripts/setup py installs the servers';

/** Starts a program of the Python environment. Returns the first line that it prints, and a function that sends a line and waits for one. */
async function started(t, args) {
    const child = spawn(python, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    const ended = new Promise((resolve) => child.once('exit', resolve));
    t.after(() => child.stdin.end() && ended);
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const { value: first } = await lines.next();
    return { first, tell: async (line) => child.stdin.write(`${line}\n`) && (await lines.next()).value };
}

test('keys of OpenBao, which has the interface of Vault, are rotated and retired, and it refuses', { skip }, async (t) => {
    const { first: address, tell } = await started(t, [fileURLToPath(new URL('../../python/tests/vault.py', import.meta.url))]);
    const ask = async (path, body = {}) => {
        const { ok } = await fetch(`${address}/v1/${path}`, { method: 'POST', headers: { 'x-vault-token': 'root' }, body: JSON.stringify(body) });
        assert.ok(ok, path);
    };
    const vault = (options = {}) => new VaultTransit({ address, token: 'root', masterKey: 'm1', ...options });
    const key = Buffer.alloc(32, 7);
    const text = (bytes) => Buffer.from(bytes).toString();
    const old = await vault().wrap(key, 'm1');
    await ask('transit/keys/m1/rotate');
    const recent = await vault().wrap(key, 'm1');
    assert.match(`${text(old)} ${text(recent)}`, /^vault:v1:\S+ vault:v2:\S+$/);
    for (const one of [old, recent]) assert.deepEqual(await vault().unwrap(one, 'm1'), key);
    const store = new EventStore({ encryption: new FieldEncryption({ provider: vault(), fields: { a: ['x'] }, keyPer: 'event' }) });
    const stream = fresh();
    await append(store, stream, { type: 'a', data: { x: 1 } });
    assert.deepEqual((await load(store, stream))[0].data, { x: 1 });
    await ask('transit/keys/m1/config', { min_decryption_version: 2 });
    assert.deepEqual(await vault().unwrap(recent, 'm1'), key);
    const refused = (promise, expected) => assert.rejects(promise, (error) => error instanceof expected && !(error instanceof KeyNotFoundError && expected !== KeyNotFoundError));
    for (const damaged of [text(old), 'vault:v9:AAAA', 'vault:v1', 'AAAA', `${text(recent).slice(0, -8)}AAAAAAA=`]) await refused(vault().unwrap(Buffer.from(damaged), 'm1'), EncryptionError);
    await refused(vault().unwrap(Buffer.from('vault:v1:AAAA'), 'none'), KeyNotFoundError);
    const user = vault({ token: 'user' });
    assert.deepEqual(await user.unwrap(await user.wrap(key, 'm1'), 'm1'), key);
    await refused(user.wrap(key, 'none'), EncryptionError);
    await refused(vault({ token: 'wrong' }).wrap(key, 'm1'), EncryptionError);
    await refused(vault({ mount: 'elsewhere' }).wrap(key, 'm1'), KeyNotFoundError);
    const team = vault({ namespace: 'team', mount: 'team-transit' });
    assert.deepEqual(await team.unwrap(await team.wrap(key, 'm1'), 'm1'), key);
    await refused(team.unwrap(recent, 'm1'), EncryptionError);
    await ask('sys/seal');
    await refused(user.wrap(key, 'm1'), RetryError);
    assert.equal(await tell('unseal'), 'ok');
    await user.wrap(key, 'm1');
});

test('KMS wraps the data keys, on a server of moto', { skip }, async (t) => {
    const program = 'import sys; from moto.server import ThreadedMotoServer as S; s = S(ip_address="127.0.0.1", port=0, verbose=False); s.start(); print("http://%s:%s" % s.get_host_and_port(), flush=True); sys.stdin.read()';
    const { first: endpoint } = await started(t, ['-c', program]);
    const client = new KMS({ endpoint, region: 'eu-central-1', credentials: { accessKeyId: 'test', secretAccessKey: 'test' }, maxAttempts: 1 });
    const { KeyMetadata } = await client.createKey({});
    const name = KeyMetadata.KeyId;
    await client.createAlias({ AliasName: 'alias/events', TargetKeyId: name });
    const keys = new AwsKms({ masterKey: 'alias/events', client });
    const key = Buffer.alloc(32, 7);
    for (const one of [name, 'alias/events']) assert.deepEqual(Buffer.from(await keys.unwrap(await keys.wrap(key, one), one)), key);
    // Every client binds a data key to this.
    const other = await client.encrypt({ KeyId: name, Plaintext: key, EncryptionContext: { pg_outbox: 'key.v1' } });
    assert.deepEqual(Buffer.from(await keys.unwrap(other.CiphertextBlob, name)), key);
    const unbound = await client.encrypt({ KeyId: name, Plaintext: key });
    await assert.rejects(keys.unwrap(unbound.CiphertextBlob, name), EncryptionError);
    await assert.rejects(keys.wrap(key, 'alias/none'), KeyNotFoundError);
    const store = new EventStore({ encryption: new FieldEncryption({ provider: keys, fields: { a: ['x'] }, keyPer: 'event' }) });
    const stream = fresh();
    await append(store, stream, { type: 'a', data: { x: 'y' } });
    assert.deepEqual((await load(store, stream))[0].data, { x: 'y' });
    const gone = new AwsKms({ masterKey: name, client: new KMS({ endpoint: 'http://127.0.0.1:1', region: 'eu-central-1', credentials: { accessKeyId: 'test', secretAccessKey: 'test' }, maxAttempts: 1 }) });
    await assert.rejects(gone.wrap(key, name), RetryError);
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
});
