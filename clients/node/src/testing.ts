/**
 * Helpers for tests of applications: the messages that were enqueued, a worker that runs inline, and a receiver of
 * webhooks.
 */

import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { AssertionError } from 'node:assert';
import { isDeepStrictEqual } from 'node:util';

import { checkSession, run, type Executor, type Session } from './client/driver.js';
import { SignatureError } from './client/errors.js';
import { Outbox, withContent, type WithContent } from './client/outbox.js';
import { sleep } from './work/time.js';
import { Verifier, type Webhook } from './receive/webhooks.js';
import { Reject, RetryAfter, Worker, type ClaimedMessage, type Handler, type WorkerOptions, type WorkerSummary } from './work/worker.js';
import type { WorkerApp } from './app/app.js';

/** A message that the current transaction has enqueued. */
export type EnqueuedMessage = WithContent<{
    id: number;
    topic: string;
    key: string | null;
    payload: any;
    body: Buffer | null;
    contentType: string | null;
    headers: Record<string, string> | null;
    metadata: Record<string, unknown> | null;
    tenant: string | null;
    publisher: string | null;
}>;

/** The properties of an expected message. A payload matches if it has at least these properties. */
export interface Expected {
    topic?: string;
    key?: string;
    payload?: unknown;
    tenant?: string;
    headers?: Record<string, string>;
}

/**
 * Returns the messages that the transaction of this client has enqueued so far. The role needs the right to read the table
 * outbox.message.
 */
export async function enqueuedMessages(tx: Session): Promise<EnqueuedMessage[]> {
    checkSession(tx, 'enqueuedMessages', 'It shows what a transaction has enqueued that has not ended yet.');
    const rows = await run(tx, {
        text:
            `select row_to_json(s)::text as r from (select m.id, m.topic, m.key, m.payload, m.body, m.content_type as "contentType",
            m.headers, m.metadata, m.tenant, m.publisher from outbox.message m
            where m.xid = pg_current_xact_id_if_assigned() order by m.id) s`.replace(/\s+/g, ' '),
        values: [],
    });
    return rows.map((row) => {
        const message = JSON.parse(row.r as string);
        if (message.body !== null) message.body = Buffer.from(message.body.slice(2), 'hex');
        return withContent(message) as EnqueuedMessage;
    });
}

function includes(actual: unknown, expected: unknown): boolean {
    if (typeof expected !== 'object' || expected === null || Array.isArray(expected)) return isDeepStrictEqual(actual, expected);
    return (
        typeof actual === 'object' &&
        actual !== null &&
        Object.entries(expected).every(([key, value]) => includes((actual as Record<string, unknown>)[key], value))
    );
}

/** Asserts that the transaction of this client has enqueued a message like this, and returns the first one. */
export async function assertEnqueued(tx: Session, expected: Expected): Promise<EnqueuedMessage> {
    const messages = await enqueuedMessages(tx);
    const found = messages.find((message) => includes(message, expected));
    if (found !== undefined) return found;
    const seen = messages.map(({ topic, key, payload }) => ({ topic, key, payload }));
    throw new AssertionError({
        message: `no message like ${JSON.stringify(expected)} was enqueued in this transaction; there are ${JSON.stringify(seen)}`,
        actual: seen,
        expected,
        operator: 'assertEnqueued',
    });
}

/** Asserts that the transaction of this client has enqueued no message like this. */
export async function assertNotEnqueued(tx: Session, expected: Expected = {}): Promise<void> {
    const found = (await enqueuedMessages(tx)).find((message) => includes(message, expected));
    if (found === undefined) return;
    throw new AssertionError({
        message: `a message like ${JSON.stringify(expected)} was enqueued: ${JSON.stringify({ topic: found.topic, key: found.key, payload: found.payload })}`,
        actual: found,
        expected,
        operator: 'assertNotEnqueued',
    });
}

export interface DrainOptions extends WorkerOptions {
    /** Does not throw failures. The summary counts them. */
    swallow?: boolean;
}

/**
 * Handles the deliveries that are due in a pull subscription and returns when none is left: `drain(pool, 'invoices', handler)`, or
 * `drain(pool, app)` with the handlers of a worker application, whose subscription is created if it does not exist. No other
 * worker is needed. Failures are thrown: of an application, what the handler or the middleware has thrown. It works with and
 * without the library preloaded.
 */
export async function drain(client: Executor, app: WorkerApp, options?: DrainOptions): Promise<WorkerSummary>;
export async function drain(client: Executor, subscription: string, handler: Handler, options?: DrainOptions): Promise<WorkerSummary>;
export async function drain(
    client: Executor,
    target: WorkerApp | string,
    given?: Handler | DrainOptions,
    last?: DrainOptions,
): Promise<WorkerSummary> {
    if (typeof target === 'string') return drained(client, target, given as Handler, last ?? {});
    await target.ensure(client);
    return drained(client, target.subscription, target.deliver, (given as DrainOptions | undefined) ?? {});
}

async function drained(client: Executor, subscription: string, handler: Handler, options: DrainOptions): Promise<WorkerSummary> {
    let first: { error: unknown } | undefined;
    const total: WorkerSummary = { claimed: 0, completed: 0, failed: 0, dead: 0, released: 0, lost: 0 };
    for (;;) {
        // A completed delivery may have unblocked the next delivery of its key.
        await settled(client);
        const worker = new Worker(client, subscription, handler, {
            listen: false,
            ...options,
            untilEmpty: true,
            onError: (error, message) => {
                const cause = error instanceof Reject || error instanceof RetryAfter ? error.cause : undefined;
                first ??= { error: cause ?? error };
                options.onError?.(error, message);
            },
        });
        const summary = await worker.run();
        for (const key of Object.keys(total) as (keyof WorkerSummary)[]) total[key] += summary[key];
        if (first !== undefined && !options.swallow) throw first.error;
        if (summary.claimed === 0) return total;
    }
}

/**
 * Runs the handler of a worker application for a payload, here and now and without a server: schema, middleware and handler.
 * Returns what the handler returns and throws what they throw. `fields` are the columns that the handler reads.
 */
export async function perform(app: WorkerApp, topic: string, payload: unknown, fields: Partial<ClaimedMessage> = {}): Promise<unknown> {
    const now = new Date();
    const message = withContent({
        lease: 0, leaseExpiresAt: now, deliveryId: 0, subscription: app.subscription, messageId: 0, webhookId: 'msg_test', position: 0, attempt: 1,
        maxAttempts: 12, topic, key: null, payload: JSON.parse(JSON.stringify(payload ?? null)), body: null, contentType: null, headers: null,
        metadata: null, tenant: null, publisher: null, aggregateType: null, aggregateId: null, priority: 0, enqueuedAt: now, occurredAt: null,
        deliverAt: null, expiresAt: null, lastAttemptAt: null, lastError: null,
        version: null, eventId: null,
        ...fields,
    });
    return app.handle(message as ClaimedMessage, { signal: new AbortController().signal, extend: async () => now });
}

/** Waits until all committed messages are numbered and routed. Without a dispatcher it calls tick() itself. */
export async function settled(client: Executor, seconds = 30): Promise<void> {
    const outbox = new Outbox(client);
    const deadline = Date.now() + seconds * 1000;
    for (;;) {
        const stats = await outbox.stats();
        if (stats.worker !== 'running' && stats.worker !== 'starting') {
            await outbox.tick();
            return;
        }
        const [{ idle }] = (await run(client, { text: 'select idle::text as idle from outbox_internal.worker_slot()', values: [] })) as [
            { idle: string | null },
        ];
        if (idle === 'true') return;
        if (Date.now() > deadline) throw new Error(`the outbox has not settled within ${seconds} s`);
        await sleep(0.01);
    }
}

/** A request that a {@link FakeReceiver} got. */
export interface ReceivedRequest {
    path: string;
    headers: IncomingHttpHeaders;
    /** The signed content if the signature was verified, else the body as it arrived. */
    body: Buffer;
    /** The verified request. Undefined if the signature is not valid, or if there is no secret. */
    webhook?: Webhook;
    /** Why the signature is not valid. */
    error?: SignatureError;
    json<T = any>(): T;
}

/** The answer of a receiver. */
export interface Answer {
    status?: number;
    headers?: Record<string, string>;
    body?: string;
    /** Seconds before the answer. */
    delay?: number;
}

/** A receiver of webhooks: a real HTTP server on loopback that stores the requests and answers as configured. */
export class FakeReceiver {
    readonly requests: ReceivedRequest[] = [];
    #answer: (request: ReceivedRequest) => Answer = () => ({});
    #waiting: (() => void)[] = [];
    #verifier?: Verifier;

    private constructor(readonly server: Server) {}

    /** Starts a receiver. With secrets it verifies the requests. */
    static async start(secrets?: string | string[]): Promise<FakeReceiver> {
        const server = createServer();
        const receiver = new FakeReceiver(server);
        if (secrets !== undefined) receiver.secrets = secrets;
        server.on('request', async (request, response) => {
            const chunks: Buffer[] = [];
            for await (const chunk of request) chunks.push(chunk as Buffer);
            const body = Buffer.concat(chunks);
            const received: ReceivedRequest = {
                path: request.url ?? '/',
                headers: request.headers,
                body,
                json: () => JSON.parse(received.body.toString('utf8')),
            };
            try {
                received.webhook = receiver.#verifier?.verify(request.headers, body);
                if (received.webhook) received.body = received.webhook.body;
            } catch (error) {
                received.error = error as SignatureError;
            }
            const answer = receiver.#answer(received);
            if (answer.delay) await sleep(answer.delay);
            response.writeHead(answer.status ?? 200, answer.headers);
            response.end(answer.body ?? '');
            receiver.requests.push(received);
            for (const wake of receiver.#waiting.splice(0)) wake();
        });
        await new Promise<void>((resolve, reject) => {
            server.once('error', reject);
            server.listen(0, '127.0.0.1', resolve);
        });
        return receiver;
    }

    /** Sets the secrets for the verification. They are known only after the endpoint has been created. */
    set secrets(secrets: string | string[]) {
        this.#verifier = new Verifier(secrets);
    }

    /** The URL of the receiver, for `createEndpoint`. */
    get url(): string {
        return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/`;
    }

    /** Sets the answer from now on: a status, an answer, or a function of the request. */
    answer(answer: number | Answer | ((request: ReceivedRequest) => Answer)): void {
        if (typeof answer === 'number') this.#answer = () => ({ status: answer });
        else this.#answer = typeof answer === 'function' ? answer : () => answer;
    }

    /** Waits until this many requests have arrived, and returns them. */
    async waitFor(count: number, seconds = 30): Promise<ReceivedRequest[]> {
        const deadline = Date.now() + seconds * 1000;
        while (this.requests.length < count) {
            const left = deadline - Date.now();
            if (left <= 0) throw new Error(`${this.requests.length} of ${count} requests arrived within ${seconds} s`);
            const arrived = new Promise<void>((resolve) => this.#waiting.push(resolve));
            await Promise.race([arrived, sleep(Math.min(left / 1000, 1))]);
        }
        return this.requests.slice(0, count);
    }

    /** Stops the receiver. */
    async stop(): Promise<void> {
        this.server.closeAllConnections();
        await new Promise((resolve) => this.server.close(resolve));
    }
}

export { TestServer, useDatabase } from './testing/server.js';
export type { Hooks, TestDatabase, TestServerOptions } from './testing/server.js';
export { any, anything, assertEvents, Decided, fixed, given, givenSaga, like, Matcher, matches, recorded, recordedAll, satisfying, useFixed } from './events/testkit.js';
export type { ExpectedError, ExpectedEvent, ExpectedSaga, Fixed } from './events/testkit.js';
