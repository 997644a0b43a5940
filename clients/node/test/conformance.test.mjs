// The scenarios and vectors of tests/conformance, which all clients run. The README there describes the keys.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import pg from 'pg';

import { enqueue, Outbox, OutboxError, Reader, Reject, RetryAfter, transaction, Verifier, Worker } from '../dist/index.mjs';
import { startServer, waitFor } from './server.mjs';

const folder = new URL('../../../tests/conformance/', import.meta.url);
const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.json')).sort() : [];
const snake = (name) => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
const camel = (name) => name.replace(/_([a-z0-9])/g, (_, c) => c.toUpperCase());
const keys = (object, rename) => Object.fromEntries(Object.entries(object).map(([key, value]) => [rename(key), value]));
const only = (object, allowed, what) => {
    for (const key of Object.keys(object)) assert.ok(allowed.includes(key), `${what} has an unknown key "${key}"`);
};

/** Returns a result with names as in SQL. */
function plain(value) {
    if (Array.isArray(value)) return value.map(plain);
    if (value === null || typeof value !== 'object' || value instanceof Date || Buffer.isBuffer(value)) return value;
    return keys(value, snake);
}

const asMessage = (message) => ({
    ...plain({ ...message }),
    text: message.text(),
    base64: message.base64(),
});

function fill(value, saved) {
    if (typeof value === 'string' && value.startsWith('$')) {
        const [name, ...path] = value.slice(1).split('.');
        assert.ok(saved.has(name), `nothing is saved as "${value}"`);
        return path.reduce((found, key) => found[key], saved.get(name));
    }
    if (Array.isArray(value)) return value.map((item) => fill(item, saved));
    if (value !== null && typeof value === 'object') {
        return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, key.startsWith('$') ? item : fill(item, saved)]));
    }
    return value;
}

function check(actual, expected, where) {
    if (Array.isArray(expected)) {
        assert.ok(Array.isArray(actual), `${where} is no list but ${JSON.stringify(actual)}`);
        assert.equal(actual.length, expected.length, `${where}: ${JSON.stringify(actual)}`);
        expected.forEach((item, i) => check(actual[i], item, `${where}[${i}]`));
    } else if (expected !== null && typeof expected === 'object') {
        const [special] = Object.keys(expected).filter((key) => key.startsWith('$'));
        if (special === '$type') {
            const type = Array.isArray(actual) ? 'array' : actual === null ? 'null' : typeof actual;
            assert.equal(type, expected.$type, where);
        } else if (special === '$contains') {
            assert.ok(String(actual).includes(expected.$contains), `${where}: ${JSON.stringify(actual)}`);
        } else if (special === '$length') {
            assert.equal(actual?.length, expected.$length, where);
        } else {
            assert.equal(special, undefined, `unknown matcher ${special}`);
            assert.ok(actual !== null && typeof actual === 'object', `${where} is ${JSON.stringify(actual)}`);
            for (const [key, value] of Object.entries(expected)) check(actual[key], value, `${where}.${key}`);
        }
    } else if (actual instanceof Date) {
        assert.equal(actual.getTime(), new Date(expected).getTime(), where);
    } else {
        assert.deepEqual(actual, expected, where);
    }
}

const OPERATIONS = {
    async enqueue(pool, { rollback = false, text, base64, content_type: contentType, ...rest }) {
        const message = keys(rest, camel);
        if (text !== undefined) message.body = text;
        if (base64 !== undefined) message.body = Buffer.from(base64, 'base64');
        if (contentType !== undefined) message.contentType = contentType;
        const undo = new Error('rollback');
        let id;
        await transaction(pool, async (tx) => {
            id = await enqueue(tx, message);
            if (rollback) throw undo;
        }).catch((error) => {
            if (error !== undo) throw error;
        });
        return id;
    },
    async enqueue_many(pool, args) {
        only(args, ['topic', 'payloads', 'keys'], 'enqueue_many');
        const messages = args.payloads.map((payload, i) => ({ topic: args.topic, payload, ...(args.keys ? { key: args.keys[i] } : {}) }));
        return new Outbox(pool).enqueueMany(messages);
    },
    async call(pool, args) {
        only(args, ['function', 'args', 'wait'], 'call');
        const outbox = new Outbox(pool);
        assert.equal(typeof outbox[camel(args.function)], 'function', `there is no ${args.function}`);
        const call = async () => plain(await outbox[camel(args.function)](keys(args.args, camel)));
        if (!args.wait) return call();
        return waitFor(`${args.function} returns rows`, async () => {
            const rows = await call();
            return rows.length > 0 && rows;
        });
    },
    async read(pool, args) {
        only(args, ['count', 'topics', 'filter', 'consumer', 'advance'], 'read');
        const { count, topics, filter, consumer, advance = false } = args;
        const seen = [];
        const controller = new AbortController();
        const timer = setTimeout(() => controller.abort(), 60_000);
        const reader = new Reader(pool, { topics, filter, consumer: advance ? consumer : undefined, pollInterval: 0.02, signal: controller.signal });
        for await (const message of reader) {
            seen.push(asMessage(message));
            // The reader confirms each message when the loop continues, also the last one.
            if (seen.length === count) controller.abort();
        }
        clearTimeout(timer);
        return seen;
    },
    async apply(pool, args) {
        only(args, ['consumer', 'topics', 'after', 'fail', 'until'], 'apply');
        const { consumer, topics, after, fail = {}, until } = args;
        only(fail, ['key', 'times', 'how'], 'fail');
        let failures = fail.times ?? 0;
        const fails = {
            raise: () => {
                throw new TypeError('an effect that fails');
            },
            catch: (tx) => tx.query('select 1 / 0').catch(() => {}),
            commit: (tx) => tx.query('insert into applied (once) values (1), (1)'),
        }[fail.how ?? 'raise'];
        assert.ok(fails, `unknown failure ${fail.how}`);
        await pool.query('create table if not exists applied (consumer text, n serial, key text, once int unique deferrable initially deferred)');
        const controller = new AbortController();
        const reader = new Reader(pool, { consumer, topics, after, pollInterval: 0.02, backoff: { min: 0.01 }, signal: controller.signal, onError: () => {} });
        const running = reader.apply(async (tx, messages) => {
            for (const { key } of messages) {
                if (key === fail.key && (failures -= 1) >= 0) return fails(tx);
                await tx.query('insert into applied (consumer, key) values ($1, $2)', [consumer, key]);
            }
        });
        const outbox = new Outbox(pool);
        await waitFor(`the cursor shows ${until ?? 'no lag'}`, async () => {
            const { errorPosition, lagPositions } = await outbox.cursorGet({ consumer, ifMissing: 0 });
            return until === 'error' ? errorPosition !== null : lagPositions === 0;
        });
        controller.abort();
        await running;
        return (await pool.query('select key from applied where consumer = $1 order by n', [consumer])).rows.map((row) => row.key);
    },
    async query(pool, args) {
        only(args, ['sql'], 'query');
        const { rows } = await pool.query({ text: args.sql, rowMode: 'array' });
        return rows[0][0];
    },
    async work(pool, args) {
        only(args, ['subscription', 'count', 'concurrency', 'rules'], 'work');
        const seen = [];
        const worker = new Worker(
            pool,
            args.subscription,
            (message) => {
                seen.push({ ...asMessage(message), attempt: message.attempt });
                if (seen.length >= args.count) worker.stop();
                const rule = (args.rules ?? []).find(
                    (one) => (one.key === undefined || one.key === message.key) && (one.attempt === undefined || one.attempt === message.attempt),
                );
                if (rule === undefined) return undefined;
                only(rule, ['key', 'attempt', 'then', 'result', 'error', 'retry_after', 'reason', 'special'], 'rule');
                const special = { lone_surrogate: 'half \ud800 pair', large: 'x'.repeat(3 << 20), not_json: 12345678901234567890n }[rule.special];
                switch (rule.then) {
                    case 'complete':
                        return special ?? rule.result;
                    case 'fail':
                        if (rule.special === 'endless_wait') throw new RetryAfter(Infinity, rule.error);
                        if (rule.retry_after === undefined) throw new Error(special ?? rule.error);
                        throw new RetryAfter(rule.retry_after, rule.error);
                    case 'dead':
                        throw new Reject(special ?? rule.reason);
                    case 'throw':
                        throw new TypeError(special ?? rule.error);
                    default:
                        return assert.fail(`unknown rule ${rule.then}`);
                }
            },
            { concurrency: args.concurrency ?? 1, pollInterval: 0.02, logger: false },
        );
        const timer = setTimeout(() => worker.stop(), 60_000);
        await worker.run();
        clearTimeout(timer);
        return seen.sort((a, b) => (a.key === b.key ? a.attempt - b.attempt : a.key < b.key ? -1 : 1));
    },
};

let server;
before(async () => {
    server = await startServer();
});
after(() => server?.end());

for (const file of files) {
    const content = JSON.parse(readFileSync(new URL(file, folder), 'utf8'));
    if (Array.isArray(content)) {
        test(`${file}: ${content.length} vectors`, () => {
            content.forEach((vector, i) => {
                only(vector, ['secrets', 'tolerance', 'headers', 'body', 'now', 'valid', 'error', 'description'], file);
                const verify = () =>
                    new Verifier(vector.secrets, { tolerance: vector.tolerance }).verify(vector.headers, vector.body, new Date(vector.now * 1000));
                if (vector.valid === true) assert.equal(verify().id, vector.headers['webhook-id'], `vector ${i}`);
                else assert.throws(verify, (error) => error.codeName === (vector.error ?? 'invalid_signature'), `vector ${i}`);
            });
        });
        continue;
    }
    test(`${file}: ${content.description}`, async (t) => {
        only(content, ['description', 'steps'], file);
        const pool = new pg.Pool({ connectionString: await server.database() });
        pool.on('error', () => {});
        t.after(() => pool.end());
        const saved = new Map();
        for (const [i, step] of content.steps.entries()) {
            only(step, ['do', 'args', 'expect', 'error', 'save', 'description'], file);
            const where = `step ${i + 1} (${step.do} ${step.args?.function ?? ''})`;
            const operation = OPERATIONS[step.do];
            assert.ok(operation, `${where}: unknown operation`);
            const args = fill(step.args ?? {}, saved);
            if (step.error) {
                await assert.rejects(operation(pool, args), (error) => {
                    assert.ok(error instanceof OutboxError, `${where}: ${error}`);
                    assert.deepEqual({ kind: error.kind, code: error.code, name: error.codeName }, step.error, where);
                    return true;
                });
                continue;
            }
            let result;
            try {
                result = await operation(pool, args);
            } catch (error) {
                throw new Error(`${where}: ${error.message} ${error.detail ?? ''}`, { cause: error });
            }
            if (step.save) saved.set(step.save, result);
            if (step.expect !== undefined) check(result, fill(step.expect, saved), where);
        }
    });
}

test('there are vectors and scenarios', () => assert.ok(files.length >= 5, `${files.length} files`));
