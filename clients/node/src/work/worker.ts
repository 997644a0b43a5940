/**
 * Pull workers: they claim deliveries, pass them to a handler, and report the outcomes.
 *
 * Invariants:
 *   - Only a handler that returned completes its delivery.
 *   - When the last deliveries of a lease are handled and the worker goes on, one call completes them and claims the next
 *     deliveries. If the server refuses this call, completing and claiming are separate calls.
 *   - A lease is extended as long as the worker has one of its deliveries. When the lease is lost, the signals of its
 *     handlers abort and their outcomes are dropped.
 *   - Every delivery ends, regardless of what its handler returns or throws. An outcome that cannot be recorded becomes a
 *     failure that says so.
 *   - Errors of the connection or the server that may pass never end a worker. Errors that retrying does not solve end it
 *     with a typed error.
 *   - At the end no delivery stays leased. Deliveries that were not handled are given back, and their attempts do not count.
 */

import { hostname } from 'node:os';

import { guard, type Executor } from '../client/driver.js';
import { cannotListen, listen } from '../client/listen.js';
import { checkVersion } from '../client/version.js';
import { invalid, isRetryable, LeaseLostError, NotFoundError, OutboxError, said } from '../client/errors.js';
import type { ClaimedRow } from '../client/functions.js';
import { Outbox, withContent, type WithContent } from '../client/outbox.js';
import { storable, storableText, type Interval } from '../client/sql.js';
import { Log, type Logger } from './log.js';
import { Backoff, Bell, onShutdown, positive, sleep } from './time.js';

/** A claimed delivery with its message. */
export type ClaimedMessage = WithContent<ClaimedRow>;

/** The context of a handler's call. */
export interface HandlerContext {
    /** Aborts when the lease is lost, or when the worker ends and has waited long enough. The handler should stop then. */
    signal: AbortSignal;
    /** Extends the lease. The worker also extends it automatically. */
    extend(duration?: Interval): Promise<Date>;
}

/**
 * Does the work of a delivery. Returning completes the delivery. The return value is its result (the receiver's id as a
 * string, or an object such as `{ total: 3, succeeded: 2 }`). Throwing fails the delivery, and it is retried on the
 * subscription's schedule. Throw RetryAfter to set the time of the next attempt, or Reject if no further attempt will
 * help.
 */
export type Handler = (message: ClaimedMessage, context: HandlerContext) => unknown;

/** Thrown by a handler if no further attempt will help. The delivery is dead-lettered at once. */
export class Reject extends Error {
    override name = 'Reject';
}

/** Thrown by a handler to have the delivery retried after this time. */
export class RetryAfter extends Error {
    override name = 'RetryAfter';
    constructor(
        readonly after: Interval,
        message = 'to be tried again later',
    ) {
        super(message);
    }
}

export interface WorkerOptions {
    /** The largest number of handlers that run at once. The default is 10. */
    concurrency?: number;
    /** The number of deliveries per claim. The default is the number of free handlers. More deliveries are claimed ahead. */
    batchSize?: number;
    /** Ends the worker when no delivery is due. */
    untilEmpty?: boolean;
    /** The duration of a lease in seconds. The default is 60. It is extended when a third of it is over. */
    lease?: number;
    /** Seconds between polls when no delivery is due. The default is 1. */
    pollInterval?: number;
    /**
     * Lets NOTIFY wake the worker. All workers and readers of a client share one connection for this: one of a pg Pool, or
     * one that `postgres` opens. The default is to listen where the client can, and to poll otherwise. Behind a pooler that
     * does not pass notifications on, the worker only polls and says so once. True throws if the client cannot listen.
     */
    listen?: boolean;
    /** The name that is shown with leases. The default is host name, process id and a random part. */
    name?: string;
    /** Seconds that handlers have to finish after the worker was stopped. The default is 30. */
    shutdownTimeout?: number;
    /** Ends the worker gracefully. Without it, SIGINT and SIGTERM end the worker gracefully. */
    signal?: AbortSignal;
    /**
     * The shortest and longest wait in seconds between attempts when server or connection fail. The defaults are 0.1 and
     * 30.
     */
    backoff?: { min?: number; max?: number };
    /** Called for all errors: of handlers, lost leases, and the server. It must not throw. */
    onError?: (error: unknown, message?: ClaimedMessage) => void;
    /**
     * Gets what happens, as lines: the console, pino, winston. The default writes warnings and errors to the console, unless
     * `onError` is given. False logs nothing.
     */
    logger?: Logger | false;
}

/** The state of a worker, for a health check. */
export interface WorkerHealth {
    subscription: string;
    /** Whether the worker runs, has claimed, and its last call of the server succeeded. */
    ok: boolean;
    /** When it last claimed, or found that nothing is due. Null: not yet. */
    lastClaimAt: Date | null;
    /** The error of the server since then. */
    error: string | null;
    /** The number of handlers that run, and of outcomes that are not recorded yet. */
    running: number;
    summary: WorkerSummary;
}

/** The counts of a worker. */
export interface WorkerSummary {
    claimed: number;
    completed: number;
    failed: number;
    dead: number;
    /** Deliveries that were given back unhandled. */
    released: number;
    /**
     * Deliveries that were handled but whose lease was lost before the outcome was recorded. Another worker handles them
     * again.
     */
    lost: number;
}

type Outcome =
    | { kind: 'complete'; result: unknown }
    | { kind: 'fail'; error: string; retryAfter?: Interval; refused?: true }
    | { kind: 'dead'; reason: string }
    | { kind: 'release' };

interface Lease {
    id: number;
    /** The deliveries of the lease that have no recorded outcome yet. */
    open: Map<number, Task>;
    lost: boolean;
    /**
     * Whether the deliveries of the lease on the server are exactly those in `open`, and completing the lease with a
     * claim was not tried yet.
     */
    whole: boolean;
}

type Group = { task: Task; outcome: Outcome }[];

interface Task {
    message: ClaimedMessage;
    lease: Lease;
    abort: AbortController;
    /** Called with whether the outcome was recorded. */
    recorded?: (done: boolean) => void;
}

/** The largest number of characters of a failure's text. The server stores fewer. */
const MAX_TEXT = 8192;

const short = (text: unknown): string => storableText(String(text).slice(0, MAX_TEXT));

/** Returns the outcome of a delivery whose handler threw this value. */
function failure(error: unknown): Outcome {
    try {
        if (error instanceof Reject) return { kind: 'dead', reason: short(error.message) };
        if (error instanceof RetryAfter) return { kind: 'fail', error: short(error.message), retryAfter: error.after };
        return { kind: 'fail', error: short(said(error)) };
    } catch {
        return { kind: 'fail', error: 'the handler threw what cannot be shown' };
    }
}

/** Claims from one subscription and runs a handler; see {@link Handler}. */
export class Worker {
    readonly #outbox: Outbox;
    readonly #subscription: string;
    readonly #handler: Handler;
    readonly #concurrency: number;
    readonly #batchSize?: number;
    readonly #untilEmpty: boolean;
    readonly #lease: number;
    readonly #pollInterval: number;
    readonly #listen: boolean;
    readonly #log: Log;
    #lastClaimAt: Date | null = null;
    #error: string | null = null;
    readonly #bell = new Bell();
    readonly #name: string;
    readonly #shutdownTimeout: number;
    readonly #backoff: { min: number; max: number };
    readonly #onError: (error: unknown, message?: ClaimedMessage) => void;
    readonly #given?: AbortSignal;
    readonly #stopping = new AbortController();

    readonly #leases = new Map<number, Lease>();
    readonly #queue: Task[] = [];
    /** The number of running handlers and of outcomes that are not recorded. */
    #busy = 0;
    #outcomes: { task: Task; outcome: Outcome }[] = [];
    #flushing = false;
    /** Whether the claim loop waits for a free handler. */
    #full = false;
    /** The last deliveries of a lease, which the claim loop completes with the next claim. */
    #done: Group | undefined;
    /** Set when the worker does not wait for handlers any more. */
    #ended = false;
    #wake: () => void = () => {};
    #running = false;
    readonly summary: WorkerSummary = { claimed: 0, completed: 0, failed: 0, dead: 0, released: 0, lost: 0 };

    constructor(client: Executor, subscription: string, handler: Handler, options: WorkerOptions = {}) {
        if (typeof handler !== 'function') throw invalid('the handler is not a function');
        this.#outbox = new Outbox(client);
        this.#subscription = subscription;
        this.#handler = handler;
        this.#concurrency = positive(options.concurrency, 10, 'concurrency', true);
        if (options.batchSize !== undefined) this.#batchSize = positive(options.batchSize, 1, 'batchSize', true);
        this.#untilEmpty = options.untilEmpty ?? false;
        this.#lease = positive(options.lease, 60, 'lease');
        this.#pollInterval = positive(options.pollInterval, 1, 'pollInterval');
        const deaf = cannotListen(client);
        if (options.listen && deaf) throw deaf;
        this.#listen = options.listen ?? (deaf === undefined && !this.#untilEmpty);
        this.#log = new Log(options.logger, options.onError !== undefined);
        this.#shutdownTimeout = options.shutdownTimeout === 0 ? 0 : positive(options.shutdownTimeout, 30, 'shutdownTimeout');
        const { min, max } = new Backoff(options.backoff);
        this.#backoff = { min, max };
        this.#name = options.name ?? `${hostname()}:${process.pid}:${Math.random().toString(36).slice(2, 8)}`;
        const report = options.onError ?? (() => {});
        this.#onError = (error, message) => {
            try {
                report(error, message);
            } catch {
                // An error of the listener must not end the worker.
            }
        };
        if (options.signal) this.#given = options.signal;
    }

    /** Stops the worker gracefully. `run()` returns when the running handlers have ended. */
    stop(): void {
        this.#stopping.abort();
        this.#wake();
    }

    /** The state of the worker. */
    get health(): WorkerHealth {
        const ok = this.#running && !this.#stopping.signal.aborted && this.#lastClaimAt !== null && this.#error === null;
        const { summary } = this;
        return { subscription: this.#subscription, ok, lastClaimAt: this.#lastClaimAt, error: this.#error, running: this.#busy, summary: { ...summary } };
    }

    /**
     * Works until it is stopped, and returns the counts. Rejects with errors that retrying does not solve: the
     * subscription, a privilege or the extension is missing, its version does not fit, or a setting of the connection is
     * wrong.
     */
    async run(): Promise<WorkerSummary> {
        if (this.#running) throw invalid('the worker runs already');
        this.#running = true;
        const stop = () => this.stop();
        if (this.#given?.aborted) stop();
        this.#given?.addEventListener('abort', stop, { once: true });
        const undo = this.#given ? () => {} : onShutdown(stop);
        const unguard = guard(this.#outbox.client);
        const beat = this.#heartbeat();
        const unlisten = this.#listen ? this.#listening() : () => {};
        this.#log.write('info', 'worker started', this.#facts());
        try {
            await this.#claimLoop();
        } catch (error) {
            this.#log.write('error', 'worker ends, because trying again does not help', this.#facts(), error);
            throw error;
        } finally {
            this.#stopping.abort();
            unlisten();
            await this.#windDown();
            await beat;
            unguard();
            this.#given?.removeEventListener('abort', stop);
            this.#log.write('info', 'worker ended', { ...this.#facts(), ...this.summary });
            undo();
        }
        return this.summary;
    }

    #listening(): () => void {
        return listen(this.#outbox.client, {
            channel: 'outbox_pull',
            payload: this.#subscription,
            told: () => this.#bell.ring(),
            deaf: (error) => {
                this.#log.write('warn', error.message, { ...this.#facts(), hint: error.hint });
                this.#onError(error);
            },
            wait: this.#backoff.min,
        });
    }

    #facts(message?: ClaimedMessage): Record<string, unknown> {
        const about = { subscription: this.#subscription, worker: this.#name };
        if (message === undefined) return about;
        const { topic, webhookId, deliveryId, attempt } = message;
        return { subscription: this.#subscription, topic, webhookId, deliveryId, attempt };
    }

    async #claimLoop(): Promise<void> {
        const backoff = new Backoff(this.#backoff);
        const signal = this.#stopping.signal;
        let checked = false;
        while (!signal.aborted) {
            const done = this.#done;
            this.#done = undefined;
            if (!done && (this.#queue.length > 0 || this.#busy >= this.#concurrency)) {
                this.#full = true;
                await new Promise<void>((resolve) => (this.#wake = resolve));
                this.#full = false;
                continue;
            }
            const wanted = this.#batchSize ?? this.#concurrency - this.#busy + (done?.length ?? 0);
            const next = {
                subscription: this.#subscription,
                worker: this.#name,
                maxMessages: Math.min(wanted, 10_000),
                lease: this.#lease,
            };
            let rows: ClaimedRow[];
            try {
                if (!checked) await checkVersion(this.#outbox.client);
                checked = true;
                if (done) rows = await this.#outbox.completeAndClaim({ done: done[0]!.task.lease.id, ...next });
                else rows = await this.#outbox.claim(next);
            } catch (error) {
                if (done) {
                    // The lease is lost or claiming fails. The separate calls will show which.
                    if (isRetryable(error)) this.#trouble(error);
                    this.#record(done);
                    continue;
                }
                if (!isRetryable(error)) throw error;
                this.#trouble(error);
                await sleep(backoff.next(), signal);
                continue;
            }
            backoff.reset();
            if (this.#error !== null) this.#log.write('info', 'the server answers again', this.#facts());
            this.#error = null;
            this.#lastClaimAt = new Date();
            for (const { task, outcome } of done ?? []) this.#finish(task, outcome, true);
            this.#take(rows);
            // The completion may have unblocked other deliveries, so claim once more.
            if (rows.length > 0 || done) continue;
            if (!this.#untilEmpty) await this.#bell.wait(this.#pollInterval * (0.9 + Math.random() / 5), signal);
            else if (this.#busy === 0) break;
            else await new Promise<void>((resolve) => (this.#wake = resolve));
        }
        if (this.#done) this.#record(this.#done);
        this.#done = undefined;
    }

    /**
     * Reports an error, unless it is a serialization failure, which is normal at the level `serializable` and is just
     * retried.
     */
    #trouble(error: unknown): void {
        if (error instanceof OutboxError && error.code === '40001') return;
        if (isRetryable(error)) {
            this.#error = said(error);
            this.#log.again(error, this.#facts());
        }
        this.#onError(error);
    }

    #take(rows: ClaimedRow[]): void {
        this.summary.claimed += rows.length;
        for (const row of rows) {
            const message = withContent(row);
            let lease = this.#leases.get(message.lease);
            if (lease === undefined) {
                lease = { id: message.lease, open: new Map(), lost: false, whole: true };
                this.#leases.set(lease.id, lease);
            }
            const task = { message, lease, abort: new AbortController() };
            lease.open.set(message.deliveryId, task);
            this.#queue.push(task);
        }
        this.#pump();
    }

    /** Starts handlers for queued deliveries. */
    #pump(): void {
        while (!this.#stopping.signal.aborted && this.#busy < this.#concurrency) {
            const task = this.#queue.shift();
            if (task === undefined) break;
            if (task.lease.lost) continue;
            this.#busy += 1;
            void this.#handle(task);
        }
        this.#wake();
    }

    async #handle(task: Task): Promise<void> {
        let outcome: Outcome;
        try {
            const result = await this.#handler(task.message, {
                signal: task.abort.signal,
                extend: (duration) => this.#outbox.extend({ lease: task.lease.id, duration: duration ?? this.#lease }),
            });
            if (result instanceof Settled) {
                outcome = result.outcome;
                task.recorded = result.recorded;
                if (outcome.kind === 'fail') this.#log.write('warn', `delivery failed: ${short(outcome.error)}`, this.#facts(task.message));
            } else {
                outcome = { kind: 'complete', result: storable(result) };
            }
        } catch (error) {
            outcome = failure(error);
            const what = outcome.kind === 'dead' ? 'delivery is a dead letter' : 'delivery failed';
            this.#log.write('error', what, this.#facts(task.message), error);
            this.#onError(error, task.message);
        }
        if (this.#ended) {
            task.recorded?.(false);
            return;
        }
        this.#record([{ task, outcome }]);
    }

    /** Adds outcomes to be recorded, and starts recording if it is not running. */
    #record(outcomes: Group): void {
        this.#outcomes.push(...outcomes);
        if (this.#flushing) return;
        this.#flushing = true;
        void this.#flush();
    }

    /**
     * Leaves a group to the claim loop, if the loop waits and the group is all that is open of its lease, without
     * results. Returns whether it did.
     */
    #handOver(group: Group): boolean {
        const { lease } = group[0]!.task;
        const all = lease.whole && !lease.lost && group.length === lease.open.size;
        const bare = group.every(({ outcome }) => outcome.kind === 'complete' && (outcome.result ?? null) === null);
        if (!all || !bare || !this.#full || this.#done || this.#queue.length > 0 || this.#stopping.signal.aborted) return false;
        // Only once. If the call fails, the outcomes are recorded separately.
        lease.whole = false;
        this.#done = group;
        this.#wake();
        return true;
    }

    /** Records outcomes. Outcomes that arrive in the meantime are recorded together. */
    async #flush(): Promise<void> {
        const backoff = new Backoff(this.#backoff);
        // Outcomes of this turn of the event loop are recorded together.
        await new Promise((resolve) => setImmediate(resolve));
        while (this.#outcomes.length > 0 && !this.#ended) {
            const batch = this.#outcomes;
            this.#outcomes = [];
            const groups = new Map<string, Group>();
            for (const one of batch) {
                const { kind, ...rest } = one.outcome;
                const key = `${one.task.lease.id} ${kind} ${kind === 'complete' ? '' : JSON.stringify(rest)}`;
                const group = groups.get(key);
                if (group) group.push(one);
                else groups.set(key, [one]);
            }
            let trouble = false;
            await Promise.all(
                [...groups.values()].map(async (group) => {
                    if (this.#handOver(group)) return;
                    try {
                        const done = new Set(await this.#tell(group));
                        this.#error = null;
                        for (const { task, outcome } of group) this.#finish(task, outcome, done.has(task.message.deliveryId));
                    } catch (error) {
                        this.#trouble(error);
                        if (isRetryable(error)) {
                            this.#outcomes.push(...group);
                            trouble = true;
                        } else {
                            await this.#unrecordable(group, error);
                        }
                    }
                }),
            );
            if (trouble) await sleep(backoff.next());
            else backoff.reset();
        }
        this.#flushing = false;
    }

    #tell(group: Group): Promise<number[]> {
        const { task, outcome } = group[0]!;
        const lease = task.lease.id;
        const deliveryIds = group.map((one) => one.task.message.deliveryId);
        switch (outcome.kind) {
            case 'complete': {
                const results = group.map(({ outcome }) => (outcome as { result: unknown }).result ?? null);
                return this.#outbox.complete({
                    lease,
                    deliveryIds,
                    ...(results.some((result) => result !== null) ? { results } : {}),
                });
            }
            case 'fail':
                return this.#outbox.fail({
                    lease,
                    deliveryIds,
                    error: short(outcome.error),
                    ...(outcome.retryAfter === undefined ? {} : { retryAfter: outcome.retryAfter }),
                });
            case 'release':
                return this.#outbox.release({ lease, deliveryIds });
            case 'dead':
                return this.#outbox.dead({ lease, deliveryIds, reason: short(outcome.reason) });
        }
    }

    /**
     * Handles an outcome that the server refused (a malformed interval, or a result that it does not accept). The attempt
     * fails with an error that says so, and the delivery does not stay leased.
     */
    async #unrecordable(group: Group, error: unknown): Promise<void> {
        const lost = error instanceof LeaseLostError || error instanceof NotFoundError;
        for (const { task, outcome } of group) {
            task.lease.whole = false;
            const why = `the outcome was refused: ${short(said(error))}`;
            const words = outcome.kind === 'fail' ? outcome.error : outcome.kind === 'dead' ? outcome.reason : undefined;
            const refused: Outcome = { kind: 'fail', error: words === undefined ? why : `${words} (${why})`, refused: true };
            const again = !lost && !(outcome.kind === 'fail' && outcome.refused);
            if (again && group.length === 1) this.#outcomes.push({ task, outcome: refused });
            else if (again) {
                // Reporting the outcomes one by one shows which of them is refused.
                try {
                    this.#finish(task, outcome, (await this.#tell([{ task, outcome }])).length > 0);
                } catch (one) {
                    this.#outcomes.push({ task, outcome: isRetryable(one) ? outcome : refused });
                }
            } else this.#finish(task, outcome, false);
        }
    }

    #finish(task: Task, outcome: Outcome, recorded: boolean): void {
        if (!recorded) {
            task.lease.whole = false;
            this.summary.lost += 1;
            const error = new LeaseLostError(`the outcome of delivery ${task.message.deliveryId} came too late`, 'OB003', {
                detail: `Lease ${task.lease.id} was lost.`,
            });
            this.#log.write('warn', error.message, this.#facts(task.message));
            this.#onError(error, task.message);
        } else if (outcome.kind === 'complete') this.summary.completed += 1;
        else if (outcome.kind === 'fail') this.summary.failed += 1;
        else if (outcome.kind === 'release') this.summary.released += 1;
        else this.summary.dead += 1;
        this.#close(task);
        this.#busy -= 1;
        task.recorded?.(recorded);
        this.#pump();
    }

    #close(task: Task): void {
        task.lease.open.delete(task.message.deliveryId);
        if (task.lease.open.size === 0) this.#leases.delete(task.lease.id);
    }

    /** Extends the leases until all deliveries have ended. */
    async #heartbeat(): Promise<void> {
        const signal = this.#stopping.signal;
        while (!this.#ended && !(signal.aborted && this.#leases.size === 0)) {
            // After the stop, leases are still extended, but the loop soon notices when none is left.
            if (signal.aborted) await this.#sleepWhileBusy(this.#lease / 3);
            else await sleep(this.#lease / 3, signal);
            await Promise.all(
                [...this.#leases.values()].map(async (lease) => {
                    try {
                        await this.#outbox.extend({ lease: lease.id, duration: this.#lease });
                    } catch (error) {
                        if (!this.#leases.has(lease.id)) return;
                        this.#trouble(error);
                        if (error instanceof LeaseLostError) this.#lose(lease, error);
                    }
                }),
            );
        }
    }

    async #sleepWhileBusy(seconds: number): Promise<void> {
        const until = Date.now() + seconds * 1000;
        while (!this.#ended && this.#leases.size > 0 && Date.now() < until) await sleep(0.02);
    }

    #lose(lease: Lease, error: OutboxError): void {
        lease.lost = true;
        for (const task of lease.open.values()) task.abort.abort(error);
        for (let i = this.#queue.length - 1; i >= 0; i -= 1) {
            const task = this.#queue[i]!;
            if (task.lease === lease) {
                this.#queue.splice(i, 1);
                this.#close(task);
            }
        }
        this.#wake();
    }

    /**
     * Gives back deliveries that were not begun, waits for running handlers, and gives back deliveries that do not end in
     * time.
     */
    async #windDown(): Promise<void> {
        const waiting = this.#queue.splice(0);
        await this.#giveBack(waiting);
        const deadline = Date.now() + this.#shutdownTimeout * 1000;
        while (this.#busy > 0 && Date.now() < deadline) await sleep(0.01);
        this.#ended = true;
        const late = [...this.#leases.values()].flatMap((lease) => [...lease.open.values()]);
        for (const task of late) task.abort.abort(new Error('the worker ends'));
        await this.#giveBack(late);
    }

    async #giveBack(tasks: Task[]): Promise<void> {
        const byLease = new Map<Lease, Task[]>();
        for (const task of tasks) {
            const group = byLease.get(task.lease);
            if (group) group.push(task);
            else byLease.set(task.lease, [task]);
        }
        await Promise.all(
            [...byLease].map(async ([lease, group]) => {
                try {
                    const deliveryIds = group.map((task) => task.message.deliveryId);
                    this.summary.released += (await this.#outbox.release({ lease: lease.id, deliveryIds })).length;
                } catch (error) {
                    // The lease expires by itself.
                    this.#onError(error);
                }
                for (const task of group) {
                    this.#close(task);
                    task.recorded?.(false);
                }
            }),
        );
    }
}

/** An outcome that was decided outside of the handler (see deliveries.ts). */
export class Settled {
    constructor(
        readonly outcome: Outcome,
        readonly recorded: (done: boolean) => void,
    ) {}
}
