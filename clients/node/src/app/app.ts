/**
 * The worker application: handlers by topic, in one process.
 *
 * It creates or alters its subscription when it starts, validates payloads, logs, continues traces, enqueues periodic messages,
 * and ends gracefully on SIGTERM and SIGINT.
 */

import type { Executor } from '../client/driver.js';
import { invalid, InvalidError, isRetryable, OutboxError, said } from '../client/errors.js';
import type { Functions } from '../client/functions.js';
import { Outbox } from '../client/outbox.js';
import { inSpan } from '../client/trace.js';
import { Log, type Logger } from '../work/log.js';
import { Reader, type FeedMessage, type ReaderHealth, type ReaderOptions } from '../work/reader.js';
import { Backoff, onShutdown, sleep } from '../work/time.js';
import { Reject, RetryAfter, Worker, type ClaimedMessage, type HandlerContext, type WorkerHealth, type WorkerOptions, type WorkerSummary } from '../work/worker.js';
import { serveHealth } from './health.js';
import { checkPeriodic, keepTicking, type Periodic } from './periodic.js';
import { checkPattern, topicMatches } from '../receive/topics.js';
import { validated, type Schema } from './schema.js';

type ErrorClass = abstract new (...args: any[]) => Error;

/** Rules for errors of a handler. An error is retried unless these rules say otherwise. */
export interface RetryRules {
    /** Errors that are retried. If it is given, every other error makes the delivery a dead letter at once. */
    on?: readonly ErrorClass[];
    /** Errors that make the delivery a dead letter at once. */
    dead?: readonly ErrorClass[];
    /** Seconds until the next attempt. The default is the schedule of the subscription. */
    after?: number;
}

/** Handles the payload of a message. It is what the schema made of the payload. */
export type Handle<Payload> = (payload: Payload, message: ClaimedMessage, context: HandlerContext) => unknown;

/** A handler, alone or with settings of its own. */
export type AppHandler<Payload> =
    | Handle<Payload>
    | {
          handle: Handle<Payload>;
          /** The largest number of deliveries of this topic that are handled at once, within the concurrency of the worker. */
          concurrency?: number;
          /** Instead of the rules of the application. */
          retry?: RetryRules;
      };

/** Wraps every handler. `next` calls the next middleware or the handler; what it returns or throws can be seen and changed. */
export type Middleware = (message: ClaimedMessage, context: HandlerContext, next: () => Promise<unknown>) => Promise<unknown>;

/** A projection of an application: effects in this database that happen once. See `Reader.apply`. */
export interface Projection<Tx = any> extends Omit<ReaderOptions, 'untilEnd' | 'signal' | 'onError' | 'logger'> {
    /** The name of the cursor. */
    consumer: string;
    /** Where the effects happen. The default is the client of the application. */
    client?: Executor;
    /** Runs in a transaction that also moves the cursor. If it throws, it is tried again; no message is passed over. */
    apply: (tx: Tx, messages: FeedMessage[]) => Promise<void>;
}

/** The state of an application: of its worker, and of its projections and those that run alongside. */
export interface AppHealth extends WorkerHealth {
    projections: ReaderHealth[];
}

type Ensured = Omit<Parameters<Functions['ensureSubscription']>[0], 'name' | 'topics' | 'endpoint'>;

export interface AppOptions extends Omit<WorkerOptions, 'untilEmpty' | 'onError'> {
    /** Where to work: a Pool of pg, `postgres`, ... The default is a Pool of pg on the URL in DATABASE_URL. */
    client?: Executor;
    /**
     * Settings of the subscription, which is created or altered at the start. The start of a new subscription is the first stored
     * message. This needs the capability admin: without it, or with false, the subscription of a migration is used as it is.
     */
    ensure?: Ensured | false;
    retry?: RetryRules;
    middleware?: readonly Middleware[];
    periodic?: readonly Periodic[];
    /** Projections and sagas that run in the same process, from the start of the application to its end. */
    alongside?: readonly Alongside[];
    /** Projections that the application also runs. Any number of processes may run them. */
    projections?: readonly Projection[];
    /** Called before the worker begins. If it throws, the application ends with its error. */
    onStartup?: (client: Executor) => unknown;
    /** Called after the worker and the projections have ended. */
    onShutdown?: (client: Executor) => unknown;
    /** Gets what happens, as lines: pino, winston. The default is the console. False logs nothing. */
    logger?: Logger | false;
    /** Called for each error of a handler, for example to report it, and for errors of the server. */
    onError?: (error: unknown, message?: ClaimedMessage) => void;
}

/** Something that runs in the process of a worker application: a ProjectionEngine, a SagaManager. */
export interface Alongside {
    /** Runs until the signal aborts. Rejects with errors that trying again does not solve, and the application then ends. */
    run(options: { signal: AbortSignal }): Promise<unknown>;
    /** How its parts fare. The health port tells it with the projections of the application. */
    readonly health?: readonly ReaderHealth[];
}

/** Settings of a run, beside those of the application. */
export interface RunOptions {
    client?: Executor;
    /** Ends the application gracefully. Without it, SIGINT and SIGTERM do. */
    signal?: AbortSignal;
    /** The largest number of handlers at once, where the application does not say it. */
    concurrency?: number;
    /** Answers /health and /metrics on this port or address, for example 8080 or `127.0.0.1:8080`. */
    health?: number | string;
}

/** Runs at most `limit` calls at once. The others wait in order. */
function limited(limit: number | undefined): <T>(body: () => Promise<T>) => Promise<T> {
    if (limit === undefined) return (body) => body();
    if (!Number.isInteger(limit) || limit < 1) throw invalid('the concurrency of a handler must be a positive whole number', { detail: `It is ${limit}.` });
    let free = limit;
    const waiting: (() => void)[] = [];
    return async (body) => {
        if (free > 0) free -= 1;
        else await new Promise<void>((resolve) => waiting.push(resolve));
        try {
            return await body();
        } finally {
            const next = waiting.shift();
            if (next) next();
            else free += 1;
        }
    };
}

interface Route {
    handle: Handle<any>;
    retry: RetryRules;
    limit: <T>(body: () => Promise<T>) => Promise<T>;
}

/** A worker application for one pull subscription. `Topics.worker` makes it. */
export class WorkerApp {
    readonly subscription: string;
    readonly #routes = new Map<string, Route>();
    readonly #readers: Reader[] = [];
    readonly #options: AppOptions;
    readonly #schemas: Record<string, Schema<any, any>>;
    readonly #log: Log;
    readonly #stopping = new AbortController();
    #worker: Worker | undefined;
    #ran = false;
    /** A part that runs alongside has ended with an error. */
    #broken = false;

    constructor(subscription: string, handlers: Record<string, AppHandler<any>>, schemas: Record<string, Schema<any, any>>, options: AppOptions) {
        this.subscription = subscription;
        this.#options = options;
        this.#log = new Log(options.logger ?? console);
        for (const [topic, given] of Object.entries(handlers)) {
            checkPattern(topic);
            const handler = typeof given === 'function' ? { handle: given } : given;
            if (typeof handler?.handle !== 'function') throw invalid(`the handler of "${topic}" is not a function`);
            const retry = handler.retry ?? options.retry ?? {};
            this.#routes.set(topic, { handle: handler.handle, retry, limit: limited(handler.concurrency) });
        }
        this.#schemas = schemas;
        if (this.#routes.size === 0) throw invalid(`subscription "${subscription}" has no handler`);
        // Malformed expressions are found now, and not when the application runs.
        for (const one of options.periodic ?? []) checkPeriodic(one);
        const cursors = new Set<string>();
        for (const { consumer, subject = '' } of options.projections ?? []) {
            const cursor = JSON.stringify([consumer, subject]);
            if (cursors.has(cursor)) throw invalid(`the application has projection "${consumer}" twice`);
            cursors.add(cursor);
        }
    }

    /** The state of the worker and of the projections. */
    get health(): AppHealth {
        const beside = (this.#options.alongside ?? []).flatMap((one) => one.health ?? []);
        const projections = [...this.#readers.map((reader) => reader.health), ...beside];
        if (this.#worker) {
            const worker = this.#worker.health;
            return { ...worker, ok: worker.ok && !this.#broken, projections };
        }
        const summary = { claimed: 0, completed: 0, failed: 0, dead: 0, released: 0, lost: 0 };
        return { subscription: this.subscription, ok: false, lastClaimAt: null, error: null, running: 0, summary, projections };
    }

    /** Whether the application has a client of its own. */
    get hasClient(): boolean {
        return this.#options.client !== undefined;
    }

    /** Stops the application gracefully: `run()` returns when the running handlers have ended. */
    stop(): void {
        this.#stopping.abort();
    }

    /**
     * Handles a delivery: middleware, schema, handler. Throws what they throw; `verdict` says what that means. For tests, and for a
     * Worker of your own.
     */
    async handle(message: ClaimedMessage, context: HandlerContext): Promise<unknown> {
        const route = this.#route(message.topic);
        if (route === undefined) {
            throw invalid(`there is no handler for topic "${message.topic}"`, { detail: `Subscription "${this.subscription}" got it.` });
        }
        // A pattern also takes topics that a newer version of the application may define.
        if (!Object.hasOwn(this.#schemas, message.topic)) throw invalid(`topic "${message.topic}" is not defined`);
        const schema = this.#schemas[message.topic]!;
        const innermost = async () => {
            return route.handle(await this.#payload(schema, message), message, context);
        };
        let call = innermost;
        for (const middleware of (this.#options.middleware ?? []).toReversed()) {
            const next = call;
            call = async () => middleware(message, context, next);
        }
        return route.limit(() => inSpan(message, call));
    }

    /** Returns the handler of a topic. Its own comes before a pattern, and an earlier pattern before a later one. */
    #route(topic: string): Route | undefined {
        const exact = this.#routes.get(topic);
        if (exact !== undefined) return exact;
        for (const [pattern, route] of this.#routes) if (topicMatches(pattern, topic)) return route;
        return undefined;
    }

    /** Returns what the schema makes of the payload. Another attempt gets the same payload, so a payload that does not fit is dead. */
    async #payload(schema: Schema<any, any>, message: ClaimedMessage): Promise<unknown> {
        try {
            return await validated(schema, message.topic, message.json());
        } catch (error) {
            if (!(error instanceof InvalidError)) throw error;
            throw new Reject(`invalid payload: ${error.detail ?? error.message}`, { cause: error });
        }
    }

    /** Returns what an error of the handler of a topic means: Reject, RetryAfter, or the error, which is retried by the schedule. */
    verdict(topic: string, error: unknown): unknown {
        const { on, dead = [], after } = this.#route(topic)?.retry ?? {};
        const is = (classes: readonly ErrorClass[]) => classes.some((one) => error instanceof one);
        if (error instanceof Reject || error instanceof RetryAfter) return error;
        if (is(dead) || (on !== undefined && !is(on))) return new Reject(said(error), { cause: error });
        if (after === undefined) return error;
        return Object.assign(new RetryAfter(after, said(error)), { cause: error });
    }

    /** Handles a delivery, and throws the verdict of an error. This is the handler of the Worker. */
    readonly deliver = async (message: ClaimedMessage, context: HandlerContext): Promise<unknown> => {
        try {
            return await this.handle(message, context);
        } catch (error) {
            throw this.verdict(message.topic, error);
        }
    };

    /**
     * Works until it is stopped, and returns the counts. Rejects with errors that trying again does not solve: a privilege or the
     * extension is missing, its version does not fit, or a setting of the connection is wrong.
     */
    async run(options: RunOptions = {}): Promise<WorkerSummary> {
        if (this.#ran) throw invalid('the application runs already, or has run', { hint: 'Make another one with worker().' });
        this.#ran = true;
        const given = options.signal ?? this.#options.signal;
        const stop = () => this.stop();
        if (given?.aborted) stop();
        given?.addEventListener('abort', stop, { once: true });
        const undo = given ? () => {} : onShutdown(stop);
        const ends: (() => unknown)[] = [];
        let failure: { error: unknown } | undefined;
        const fail = (error: unknown): void => {
            failure ??= { error };
            this.stop();
        };
        let summary: WorkerSummary | undefined;
        try {
            const { client, end } = connected(options.client ?? this.#options.client);
            ends.unshift(end);
            await this.ensure(client);
            const { client: _client, ensure: _ensure, retry: _retry, middleware: _middleware, periodic = [], alongside = [], ...others } = this.#options;
            const { projections = [], onStartup, onShutdown, ...rest } = others;
            if (onShutdown) ends.unshift(() => onShutdown(client));
            await onStartup?.(client);
            const worker = new Worker(client, this.subscription, this.deliver, {
                ...rest,
                concurrency: rest.concurrency ?? options.concurrency,
                logger: this.#options.logger ?? console,
                signal: this.#stopping.signal,
            });
            this.#worker = worker;
            const applying = projections.map(({ client: own = client, apply, ...cursor }) => {
                const { onError } = this.#options;
                const told = onError ? { onError: (error: unknown) => onError(error) } : {};
                const reader = new Reader(own, { ...cursor, ...told, logger: this.#options.logger ?? console, signal: this.#stopping.signal });
                this.#readers.push(reader);
                return reader.apply(apply).catch(fail);
            });
            ends.unshift(() => Promise.all(applying));
            if (options.health !== undefined) {
                const { close } = await serveHealth(options.health, () => [this.health]);
                ends.unshift(close);
            }
            const ticking = periodic.map((one) => keepTicking(client, one, this.#log, this.#stopping.signal));
            ends.unshift(() => Promise.all(ticking));
            const beside = alongside.map((one) => one.run({ signal: this.#stopping.signal }).finally(() => this.stop()));
            // Until the worker has ended, nothing waits for their errors.
            for (const one of beside) one.catch(() => (this.#broken = true));
            ends.unshift(() => Promise.all(beside));
            summary = await worker.run();
        } catch (error) {
            fail(error);
        }
        this.stop();
        for (const end of ends) {
            try {
                await end();
            } catch (error) {
                fail(error);
            }
        }
        given?.removeEventListener('abort', stop);
        undo();
        if (failure !== undefined) throw failure.error;
        return summary!;
    }

    /** Creates or alters the subscription as the application says, as soon as the server answers. `run` does this. */
    async ensure(client: Executor): Promise<void> {
        const { ensure = {}, backoff } = this.#options;
        if (ensure === false) return;
        const wait = new Backoff(backoff);
        const facts = { subscription: this.subscription };
        const outbox = new Outbox(client);
        while (!this.#stopping.signal.aborted) {
            try {
                await outbox.check();
                const what = await outbox.ensureSubscription({ ...ensure, name: this.subscription, topics: [...this.#routes.keys()] });
                if (what !== 'unchanged') this.#log.write('info', `subscription ${what}`, facts);
                return;
            } catch (error) {
                // A role that may only consume works on a subscription that a migration has made. If there is none, claiming says so.
                if (error instanceof OutboxError && error.codeName === 'insufficient_privilege') {
                    const hint = 'ensureSubscription() in a migration, with "ensure: false" here';
                    return this.#log.write('warn', `the subscription is left as it is: ${error.message}`, { ...facts, hint });
                }
                if (!isRetryable(error)) throw error;
                this.#log.again(error, facts);
                await sleep(wait.next(), this.#stopping.signal);
            }
        }
    }
}

/** Returns the client of an application, and what ends it. The default is a Pool of pg, which the application itself ends. */
export function connected(client: Executor | undefined): { client: Executor; end: () => Promise<void> } {
    if (client !== undefined) return { client, end: async () => {} };
    const connectionString = process.env.DATABASE_URL;
    if (!connectionString) {
        throw invalid('the environment variable DATABASE_URL is not set', {
            hint: 'Set it to a connection string, or give the application a client.',
        });
    }
    // The parser of pg takes what it does not know for a host or an option, and connects to the socket or to localhost.
    const hint = 'pg reads URLs: postgresql://user:password@host:5432/database. Or give the application a client.';
    if (!/^(postgres(ql)?|socket):|^\//i.test(connectionString)) throw invalid('DATABASE_URL is not a URL of PostgreSQL', { hint });
    if (/[?&]service=/i.test(connectionString)) throw invalid('DATABASE_URL names a service, and pg does not know services', { hint });
    // Without these, a server that does not answer, or a connection that a firewall has forgotten, would be waited for without end.
    const limits = { connectionTimeoutMillis: 10_000, keepAlive: true, keepAliveInitialDelayMillis: 15_000 };
    const pool = new (pgOf())({ connectionString, ...limits });
    // A connection that breaks while it is idle must not end the process.
    pool.on('error', () => {});
    return { client: pool, end: () => pool.end() };
}

/** Returns the class Pool of pg, as this package or the application has it. */
export function pgOf(): any {
    const { createRequire } = require('node:module') as typeof import('node:module');
    for (const from of [__filename, `${process.cwd()}/package.json`]) {
        try {
            return createRequire(from)('pg').Pool;
        } catch {
            // The next place is tried.
        }
    }
    throw invalid('pg could not be loaded', { hint: 'npm install pg, or give the application a client.' });
}
