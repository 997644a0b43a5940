// Verification of test vectors of the specification, and of real deliveries to Express, Fastify, http and the Headers of
// fetch.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import express from 'express';
import Fastify from 'fastify';
import pg from 'pg';

import { checkPattern, checkTopic, InvalidError, Outbox, run, sign, SignatureError, topicMatches, Verifier } from '../dist/index.mjs';
import { FakeReceiver } from '../dist/testing.mjs';
import { startServer, waitFor } from './server.mjs';

let server;
before(async () => {
    server = await startServer();
});
after(() => server?.end());

const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
const OTHER = 'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD';

test('the published vector', () => {
    const body = '{"test": 2432232314}';
    const headers = {
        'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
        'webhook-timestamp': '1614265330',
        'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    };
    const at = new Date(1_614_265_330_000);
    assert.equal(sign(SECRET, headers['webhook-id'], at, body), headers['webhook-signature']);
    const webhook = new Verifier([OTHER, SECRET]).verify(headers, body, at);
    assert.deepEqual([webhook.id, webhook.signedAt.getTime(), webhook.json()], ['msg_p5jXN8AQM9LWM0D4loKWxJek', at.getTime(), { test: 2432232314 }]);
    // Headers may be those of fetch, and their names may have any case.
    new Verifier(SECRET).verify(new Headers(headers), Buffer.from(body), at);
    new Verifier(SECRET).verify(Object.fromEntries(Object.entries(headers).map(([k, v]) => [k.toUpperCase(), v])), body, at);

    const refusals = [
        [headers, `${body} `, at, /No signature fits/],
        [{ ...headers, 'webhook-id': 'msg_other' }, body, at, /No signature fits/],
        [{ ...headers, 'webhook-signature': undefined }, body, at, /"webhook-signature" is missing/],
        [{ ...headers, 'webhook-signature': 'v1a,xxx v2,yyy nonsense' }, body, at, /No signature fits/],
        [{ ...headers, 'webhook-timestamp': 'soon' }, body, at, /not a number/],
        [headers, body, new Date(at.getTime() + 301_000), /301 seconds/],
        [headers, body, new Date(at.getTime() - 301_000), /301 seconds/],
        [{}, body, at, /missing/],
    ];
    for (const [h, b, now, detail] of refusals) {
        assert.throws(
            () => new Verifier(SECRET).verify(h, b, now),
            (error) => error instanceof SignatureError && error.kind === 'invalid' && error.codeName === 'invalid_signature' && detail.test(error.detail),
            String(detail),
        );
    }
    new Verifier(SECRET, { tolerance: 1000 }).verify(headers, body, new Date(at.getTime() + 999_000));
    assert.throws(() => new Verifier(OTHER).verify(headers, body, at), SignatureError);
});

test('secrets are checked, and not shown', () => {
    for (const bad of ['', 'secret', 'whsec_c2hvcnQ=', [], [SECRET, 'x'], 5]) {
        assert.throws(() => new Verifier(bad), (error) => error instanceof InvalidError && !error.message.includes('c2hvcnQ'));
    }
    assert.ok(!JSON.stringify(new Verifier(SECRET)).includes('MfKQ'));
    assert.throws(() => new Verifier(SECRET, { tolerance: -1 }), InvalidError);
    assert.throws(() => new Verifier(SECRET).verify({}, { parsed: true }), InvalidError);
});

test('topics and patterns, as the extension decides', () => {
    checkTopic('order.payment.completed');
    checkPattern('order.#');
    assert.throws(() => checkTopic('a b'), (error) => error instanceof InvalidError && error.detail === "The character ' ' is not allowed.");
    assert.throws(() => checkPattern('a*'), InvalidError);
    assert.ok(topicMatches('order.#', 'order') && topicMatches('a.*.c', 'a.b.c'));
    assert.ok(!topicMatches('a.*', 'a') && !topicMatches('order', 'orders'));
});

const listen = (server) => new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${server.address().port}/`)));

test('real deliveries to Express, Fastify and http', async (t) => {
    const server = await startServer();
    t.after(() => server.end());
    const pool = new pg.Pool({ connectionString: await server.database() });
    const outbox = new Outbox(pool);
    const got = { express: [], raw: [], fastify: [], http: [] };
    const closers = [];

    const targets = {
        async express(verifier) {
            const app = express();
            app.post('/', verifier.middleware(), (request, response) => {
                got.express.push(request.webhook);
                response.status(204).end();
            });
            const http = createServer(app);
            closers.push(() => http.close());
            return listen(http);
        },
        async raw(verifier) {
            const app = express();
            app.post('/', express.raw({ type: '*/*' }), verifier.middleware(), (request, response) => {
                got.raw.push(request.webhook);
                response.status(204).end();
            });
            const http = createServer(app);
            closers.push(() => http.close());
            return listen(http);
        },
        async fastify(verifier) {
            const app = Fastify();
            await app.register(verifier.fastify());
            app.post('/', async (request, reply) => {
                got.fastify.push(request.webhook);
                return reply.code(204).send();
            });
            closers.push(() => app.close());
            return `${await app.listen({ port: 0, host: '127.0.0.1' })}/`;
        },
        async http(verifier) {
            const http = createServer(async (request, response) => {
                try {
                    got.http.push(await verifier.read(request));
                    response.writeHead(204).end();
                } catch (error) {
                    response.writeHead(error instanceof SignatureError ? 401 : 500).end();
                }
            });
            closers.push(() => http.close());
            return listen(http);
        },
    };
    try {
        for (const [name, start] of Object.entries(targets)) {
            const url = await start(new Verifier([OTHER, SECRET]));
            const endpoint = await outbox.createEndpoint({ name, url, secret: SECRET });
            assert.equal(endpoint.signingSecret, SECRET);
            await outbox.subscribe({ name: `to ${name}`, topics: ['order.#'], endpoint: name });
            // Unsigned requests are refused and do not reach the application.
            const response = await fetch(url, { method: 'POST', body: '{}', headers: { 'content-type': 'application/json', 'webhook-id': 'x' } });
            assert.equal(response.status, 401, name);
        }
        const id = await new Outbox(pool).enqueue({ topic: 'order.paid', payload: { amount: 12.5, note: 'ü€' } });
        await waitFor('all have it', () => Object.values(got).every((webhooks) => webhooks.length === 1));
        const ids = new Set(Object.values(got).map(([webhook]) => webhook.id));
        assert.equal(ids.size, 1, 'the same id everywhere');
        for (const [webhook] of Object.values(got)) assert.deepEqual(webhook.json(), { amount: 12.5, note: 'ü€' });
        const { rows } = await pool.query('select outbox.webhook_id(id, enqueued_at) as id from outbox.message where id = $1', [id]);
        assert.ok(ids.has(rows[0].id));
    } finally {
        for (const close of closers) await close();
        await pool.end();
    }
});

test('the fake receiver verifies, answers what it is told, and is waited for', async (t) => {
    const server = await startServer();
    const pool = new pg.Pool({ connectionString: await server.database() });
    t.after(async () => {
        await pool.end();
        await server.end();
    });
    const outbox = new Outbox(pool);
    const receiver = await FakeReceiver.start();
    t.after(() => receiver.stop());
    const { signingSecret } = await outbox.createEndpoint({ name: 'shop', url: receiver.url });
    receiver.secrets = signingSecret;
    await outbox.subscribe({ name: 'shop', topics: ['order.*'], endpoint: 'shop', schedule: [0.05] });
    receiver.answer(() => (receiver.requests.length === 0 ? { status: 503, headers: { 'retry-after': '0' } } : { status: 200 }));
    await new Outbox(pool).enqueue({ topic: 'order.created', payload: { order: 1 } });
    const [first, second] = await receiver.waitFor(2);
    assert.deepEqual(first.json(), { order: 1 });
    assert.equal(first.webhook.id, second.webhook.id, 'the same id on every attempt');
    assert.equal(second.error, undefined);
    await assert.rejects(receiver.waitFor(3, 0.05), /2 of 3 requests/);
});


test('topics and patterns are judged as the server judges them, with the same words', async () => {
    const pool = new pg.Pool({ connectionString: await server.database() });
    const outbox = new Outbox(pool);
    const topics = ['a', 'a.b', 'A_1.a-b.c:d/e', 'outbox', 'outbox.control', 'outboxes.a', '', '.a', 'a.', 'a..b', 'a b', 'a.*', 'ä', 'x'.repeat(255), 'x'.repeat(256)];
    const refusal = async (what) => what().then(() => null, (error) => [error.code, error.message, error.detail, error.hint]);
    for (const topic of topics) {
        const here = await refusal(async () => checkTopic(topic));
        assert.deepEqual(here, await refusal(() => outbox.enqueue({ topic, payload: 1 })), JSON.stringify(topic));
    }
    const patterns = ['a', '*', '#', 'a.*', 'a.#', '#.z', 'a.#.b', '*.#', '#.*', 'a.*.#.z', 'outbox.#', '*.control', '#.a.#.a.#', 'a.#.#.b', 'a..b', 'a*', '', '.', 'a ', 'x'.repeat(256)];
    const found = ['a', 'b', 'a.b', 'a.b.c', 'z', 'a.z', 'a.b.z', 'a.x.y.b', 'outbox', 'outbox.control', 'a.control', 'x.a.y.a.z', 'a.a'];
    const byServer = async (pattern, topic) =>
        (await run(pool, { text: 'select outbox_internal.matches(array[$1::text], null, $2::text, null, null, null, null, null)::text as m', values: [pattern, topic] }))[0].m === 'true';
    let yes = 0;
    for (const pattern of patterns) {
        const here = await refusal(async () => checkPattern(pattern));
        const there = await refusal(() => byServer(pattern, 'a'));
        assert.deepEqual(here, there, JSON.stringify(pattern));
        if (here !== null) continue;
        for (const topic of found) {
            const fits = topicMatches(pattern, topic);
            assert.equal(fits, await byServer(pattern, topic), `${pattern} ${topic}`);
            yes += fits ? 1 : 0;
        }
    }
    assert.ok(yes > 40, `${yes}`);
    await pool.end();
});

test('ed25519 signatures of an endpoint are verified, and gzip that is not one member is refused', async () => {
    const pool = new pg.Pool({ connectionString: await server.database() });
    const { signingSecret } = await new Outbox(pool).createEndpoint({ name: 'e', url: 'https://example.com', signature: 'v1a' });
    assert.match(signingSecret, /^whsk_/);
    const now = new Date();
    const headers = (signature) => ({ 'webhook-id': 'm', 'webhook-timestamp': String(Math.floor(now / 1000)), 'webhook-signature': signature });
    const signature = sign(signingSecret, 'm', now, '{}');
    assert.match(signature, /^v1a,/);
    const verifier = new Verifier(signingSecret);
    assert.equal(verifier.verify(headers(signature), '{}').id, 'm');
    assert.throws(() => verifier.verify(headers(signature), '{ }'), SignatureError);
    for (const secret of ['whsec_', 'whsec_$', `whsk_${Buffer.alloc(31).toString('base64')}`, `whsk_${Buffer.alloc(64).toString('base64')}`, 'secret']) {
        assert.throws(() => new Verifier(secret), (error) => error instanceof InvalidError && error.message === 'invalid signing secret' && !String(error).includes(secret.slice(6) || 'x!'));
    }
    const content = Buffer.from('{"a": 1}'.repeat(100));
    const packed = gzipSync(content);
    const zipped = { ...headers(sign(signingSecret, 'm', now, content)), 'content-encoding': 'gzip' };
    assert.deepEqual(verifier.verify(zipped, packed).body, content);
    for (const body of [packed.subarray(0, -1), Buffer.concat([packed, packed])]) {
        assert.throws(() => verifier.verify(zipped, body), (error) => error instanceof SignatureError && /one gzip member/.test(error.detail));
    }
    assert.throws(() => new Verifier(signingSecret, { limit: content.length - 1 }).verify(zipped, packed), (error) => error.code === '54000');
    const many = `${'v1a,AAAA '.repeat(16)}${signature}`;
    assert.throws(() => verifier.verify(headers(many), '{}'), (error) => /more than 16 signatures/.test(error.detail));
    await pool.end();
});
