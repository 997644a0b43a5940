// Everything through PgBouncer, in the two common modes, session and transaction, with more clients than server sessions.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import postgres from 'postgres';

import { defineTopics, enqueue, FatalError, Outbox, Reader, transaction, unchecked, Worker } from '../dist/index.mjs';
import { EventStore } from '../dist/events.mjs';
import { startServer, waitFor } from './server.mjs';

let server;
const through = {};
before(async () => {
    server = await startServer();
    for (const [mode, size] of [['transaction', 3], ['session', 40]]) {
        const port = await server.ask(`pooler ${mode} ${size}`);
        through[mode] = (dsn) => {
            const url = new URL(dsn);
            url.port = port;
            return url.href;
        };
    }
});
after(() => server?.end());

const drivers = {
    pg: (url) => {
        const pool = new pg.Pool({ connectionString: url, max: 4 });
        pool.on('error', () => {});
        return { client: pool, end: () => pool.end() };
    },
    postgres: (url) => {
        // By default postgres.js names even "begin", by a number that its other connections use as well. With transaction
        // pooling another statement would run instead, without an error (docs/clients.md).
        const sql = postgres(url, { max: 4, prepare: false, onnotice: () => {} });
        return { client: sql, end: () => sql.end({ timeout: 5 }) };
    },
};

for (const mode of ['transaction', 'session']) {
    for (const [driver, connect] of Object.entries(drivers)) {
        test(`${driver}, ${mode}: enqueue, admin, workers, readers; each worker that cannot listen says so once`, async (t) => {
            const dsn = await server.database();
            const url = through[mode](dsn);
            const clients = Array.from({ length: 4 }, () => connect(url));
            t.after(() => Promise.all(clients.map(({ end }) => end())));
            const outbox = new Outbox(clients[0].client);
            await outbox.subscribe({ name: 'jobs', topics: ['job.*'], notify: true });
            await Promise.all(
                clients.map(async ({ client }) => {
                    for (let i = 0; i < 25; i += 1) {
                        await transaction(client, (tx) => enqueue(tx, { topic: 'job.run', payload: { i }, key: `k${i}` }));
                    }
                }),
            );
            await new Outbox(clients[1].client).enqueueMany(Array.from({ length: 100 }, (_, i) => ({ topic: 'job.run', payload: i })));
            const handled = new Map();
            const told = clients.map(() => 0);
            const workers = clients.map(
                ({ client }, i) =>
                    new Worker(client, 'jobs', (message) => {
                        handled.set(message.messageId, (handled.get(message.messageId) ?? 0) + 1);
                        return message.messageId % 2 ? { n: 1 } : undefined;
                    }, {
                        listen: true,
                        pollInterval: 0.02,
                        onError: (error) => {
                            assert.match(error.message, /notifications do not come through/);
                            told[i] += 1;
                        },
                    }),
            );
            const running = workers.map((worker) => worker.run());
            await waitFor('all is handled', () => handled.size === 200);
            await waitFor('they have said what they hear', () => mode === 'session' || told.every((n) => n === 1));
            for (const worker of workers) worker.stop();
            const done = await Promise.all(running);
            assert.deepEqual(new Set(handled.values()), new Set([1]));
            assert.equal(done.reduce((sum, { completed }) => sum + completed, 0), 200);
            assert.deepEqual(told, told.map(() => (mode === 'transaction' ? 1 : 0)));
            let read = 0;
            for await (const message of new Reader(clients[2].client, { consumer: 'c', topics: ['job.*'], untilEnd: true })) read += message ? 1 : 0;
            assert.equal(read, 200);
        });
    }

    for (const [driver, connect] of Object.entries(drivers)) {
        test(`${driver}, ${mode}: woken where notifications come through`, { skip: mode === 'transaction' }, async (t) => {
            const dsn = await server.database();
            const { client, end } = connect(through[mode](dsn));
            const direct = new pg.Pool({ connectionString: dsn });
            t.after(() => Promise.all([end(), direct.end()]));
            await new Outbox(direct).subscribe({ name: 'told', topics: ['t.*'], notify: true });
            let handled = 0;
            const worker = new Worker(client, 'told', () => void (handled += 1), { listen: true, pollInterval: 600, onError: (error) => assert.fail(error) });
            const running = worker.run();
            for (let n = 1; n <= 3; n += 1) {
                await new Outbox(direct).enqueue({ topic: 't.x', payload: n });
                await waitFor('it was woken', () => handled === n);
            }
            worker.stop();
            await running;
        });
    }
}

for (const [driver, connect] of Object.entries(drivers)) {
    test(`${driver}: a worker application and a projection through a pooler of transactions poll without any setting, and each says so once`, async (t) => {
        const dsn = await server.database();
        const { client, end } = connect(through.transaction(dsn));
        t.after(() => end());
        const lines = [];
        const write = (level) => (text) => lines.push(`${level} ${text}`);
        const logger = { error: write('error'), warn: write('warn'), info: write('info') };
        const events = defineTopics({ 'job.run': unchecked() });
        let handled = 0;
        const controller = new AbortController();
        const options = { logger, pollInterval: 0.02, signal: controller.signal };
        const app = events.worker('jobs', { 'job.run': () => void (handled += 1) }, options);
        const running = app.run({ client });
        await transaction(client, (tx) => tx[driver === 'pg' ? 'query' : 'unsafe']('create table effect (i int primary key)'));
        const projecting = new Reader(client, { consumer: 'p', topics: ['job.#'], ...options }).apply(async (tx, messages) => {
            for (const { payload } of messages) await tx[driver === 'pg' ? 'query' : 'unsafe']('insert into effect values ($1::int)', [payload.i]);
        });
        for (let i = 0; i < 30; i += 1) await transaction(client, (tx) => events.enqueue(tx, 'job.run', { i }));
        const direct = new pg.Pool({ connectionString: dsn });
        t.after(() => direct.end());
        await waitFor('all is handled and applied', async () => handled === 30 && (await direct.query('select 1 from effect')).rowCount === 30);
        await waitFor('both have said what they hear', () => lines.filter((line) => /^warn .*notifications do not come through/.test(line)).length === 2);
        controller.abort();
        assert.equal((await running).completed, 30);
        await projecting;
        assert.deepEqual(lines.filter((line) => !line.startsWith('info ') && !/notifications do not come/.test(line)), []);
    });
}

for (const [driver, connect] of Object.entries(drivers)) {
    test(`${driver}: events through a pooler of transactions, of which no statement is prepared`, async (t) => {
        const url = through.transaction(await server.database());
        const clients = Array.from({ length: 4 }, () => connect(url));
        t.after(() => Promise.all(clients.map(({ end }) => end())));
        const store = new EventStore();
        await Promise.all(clients.map(async ({ client }, n) => {
            for (let i = 1; i <= 20; i += 1) {
                await transaction(client, (tx) => store.append(tx, `n-${n}`, [{ type: 'a', data: i }], i - 1));
                assert.equal((await store.load(client, `n-${n}`)).length, i);
                assert.equal((await transaction(client, (tx) => store.load(tx, `n-${(n + 1) % 4}`, 1000))).length, 0);
            }
        }));
    });
}

test('a statement that a pooler lost says what to set', async () => {
    const url = through.transaction(await server.database());
    const [one, other] = [new pg.Client(url), new pg.Client(url)];
    await Promise.all([one.connect(), other.connect()]);
    let n = 0;
    const named = { query: (text, values) => one.query({ name: `mine${n}`, text, values }) };
    await assert.rejects(
        async () => {
            for (; n < 20; n += 1) {
                await anyCall(named);
                // This client gets the session that was used last.
                await other.query('begin');
                await anyCall(named).finally(() => other.query('rollback'));
            }
        },
        (error) => error instanceof FatalError && error.codeName === 'prepared_statement_lost' && /pg: no "name"/.test(error.hint),
    );
    await Promise.all([one.end(), other.end()]);
});

/** Makes any call of the client. The test is about the way in which its statement is sent. */
const anyCall = (client) => new Outbox(client).stats();
