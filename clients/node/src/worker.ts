/**
 * Pull workers: they claim deliveries, hand them to a handler, and say what became of each.
 *
 * What has to hold:
 *   - nothing is completed that was not handled: only a handler that returned completes its delivery;
 *   - when all that is left of a lease has been handled and the worker goes on, one call completes it and claims what comes next;
 *     whatever the server says against that, the two are done one after the other instead;
 *   - a lease is extended as long as one of its deliveries is here; once it is lost, the handlers' signals abort and their
 *     outcomes are dropped;
 *   - whatever a handler returns or throws, its delivery ends: what cannot be recorded is a failure that says so;
 *   - trouble with the connection or the server never ends a worker; what no waiting will cure does, with a typed error;
 *   - at the end nothing is left leased: what was not handled is given back, and its try does not count.
 */

import { hostname } from 'node:os';
import { randomBytes } from 'node:crypto';

import { checkListens, guard, listen, type Executor } from './driver.js';
import { invalid, isRetryable, LeaseLostError, NotFoundError, OutboxError, said } from './errors.js';
import type { ClaimedRow } from './functions.js';
import { Outbox, withContent, type WithContent } from './outbox.js';
import { storable, storableText, type Interval } from './sql.js';
import { Backoff, Bell, sleep } from './time.js';

/** A claimed delivery with its message. */
export type ClaimedMessage = WithContent<ClaimedRow>;

/** What a handler may know and do beside its message. */
export interface HandlerContext {
    /** Aborts when the lease is lost, or when the worker ends and has waited long enough: stop the work. */
    signal: AbortSignal;
    /** Moves the end of the lease by hand; the worker does so by itself. */
    extend(duration?: Interval): Promise<Date>;
}

/**
 * Does the work of a delivery. Returning completes it, with what is returned as its result (the receiver's id as a string,
 * or an object such as `{ total: 3, succeeded: 2 }`). Throwing fails it: it is tried again by the subscription's schedule;
 * throw RetryAfter to say when, and Reject if no try will help.
 */
export type Handler = (message: ClaimedMessage, context: HandlerContext) => unknown;

/** Thrown by a handler: no try will help; the delivery becomes a dead letter at once. */
export class Reject extends Error {
    override name = 'Reject';
}

/** Thrown by a handler: try again after this time. */
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
    /** Handlers at a time; 10 if not given. */
    concurrency?: number;
    /** Deliveries per claim; as many as there are free handlers if not given. More than that are claimed ahead. */
    batchSize?: number;
    /** Ends the worker once nothing is due. */
    untilEmpty?: boolean;
    /** Seconds of a lease, extended when a third of it is over; 60 if not given. */
    lease?: number;
    /** Seconds between looks when nothing is due; 1 if not given. */
    pollInterval?: number;
    /**
     * Is woken by NOTIFY besides, if the subscription was made with `notify: true`. Keeps a connection: of a Pool of pg, or one
     * that `postgres` opens. Behind a pooler that does not pass notifications on it only polls, and tells `onError` so once.
     */
    listen?: boolean;
    /** Shown where the delivery is leased; host, process id and a random part if not given. */
    name?: string;
    /** Seconds that handlers may take after the worker was told to end; 30 if not given. */
    shutdownTimeout?: number;
    /** Ends the worker gracefully. */
    signal?: AbortSignal;
    /** Seconds between tries when server or connection fail: from and to; 0.1 and 30 if not given. */
    backoff?: { min?: number; max?: number };
    /** Told about everything that went wrong: handlers' errors, lost leases, the server. It must not throw. */
    onError?: (error: unknown, message?: ClaimedMessage) => void;
}

/** What a worker did. */
export interface WorkerSummary {
    claimed: number;
    completed: number;
    failed: number;
    dead: number;
    /** Given back unhandled. */
    released: number;
    /** Handled, but the lease was lost before the outcome was recorded: somebody else does it again. */
    lost: number;
}

type Outcome =
    | { kind: 'complete'; result: unknown }
    | { kind: 'fail'; error: string; retryAfter?: Interval; refused?: true }
    | { kind: 'dead'; reason: string }
    | { kind: 'release' };

interface Lease {
    id: number;
    /** Its deliveries that have no recorded outcome yet. */
    open: Map<number, Task>;
    lost: boolean;
    /** What the server has in it is what is open here, and it was not refused yet to complete it with a claim. */
    whole: boolean;
}

type Group = { task: Task; outcome: Outcome }[];

interface Task {
    message: ClaimedMessage;
    lease: Lease;
    abort: AbortController;
    /** Told what became of the outcome: whether it was recorded. */
    recorded?: (done: boolean) => void;
}

function positive(value: number | undefined, otherwise: number, what: string, whole = false): number {
    const given = value ?? otherwise;
    if (typeof given !== 'number' || !(given > 0) || !Number.isFinite(given) || (whole && !Number.isInteger(given))) {
        throw invalid(`${what} must be a positive ${whole ? 'whole number' : 'number'}`, { detail: `It is ${given}.` });
    }
    return given;
}

/** Characters of a text about a failure: more than the server keeps. */
const MAX_TEXT = 8192;

const short = (text: unknown): string => storableText(String(text).slice(0, MAX_TEXT));

/** What becomes of a delivery whose handler threw this. */
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
    readonly #bell = new Bell();
    readonly #name: string;
    readonly #shutdownTimeout: number;
    readonly #backoff: { min: number; max: number };
    readonly #onError: (error: unknown, message?: ClaimedMessage) => void;
    readonly #given?: AbortSignal;
    readonly #stopping = new AbortController();

    readonly #leases = new Map<number, Lease>();
    readonly #queue: Task[] = [];
    /** Handlers that run, and outcomes that are not recorded. */
    #busy = 0;
    #outcomes: { task: Task; outcome: Outcome }[] = [];
    #flushing = false;
    /** The claim loop waits for a handler to become free. */
    #full = false;
    /** All that was left of a lease, handed to the claim loop to be completed with the next claim. */
    #done: Group | undefined;
    /** After this the worker no longer waits for anything. */
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
        this.#listen = options.listen ?? false;
        if (this.#listen) checkListens(client);
        this.#shutdownTimeout = options.shutdownTimeout === 0 ? 0 : positive(options.shutdownTimeout, 30, 'shutdownTimeout');
        this.#backoff = {
            min: positive(options.backoff?.min, 0.1, 'backoff.min'),
            max: positive(options.backoff?.max, 30, 'backoff.max'),
        };
        this.#name = options.name ?? `${hostname()}:${process.pid}:${randomBytes(3).toString('hex')}`;
        const report = options.onError ?? (() => {});
        this.#onError = (error, message) => {
            try {
                report(error, message);
            } catch {
                // Whoever listens must not end the worker.
            }
        };
        if (options.signal) this.#given = options.signal;
    }

    /** Ends it gracefully: `run()` returns once what was begun has ended. */
    stop(): void {
        this.#stopping.abort();
        this.#wake();
    }

    /**
     * Works until it is stopped, and says what it did. Rejects with what no waiting will cure: no such subscription, no
     * privilege, no extension.
     */
    async run(): Promise<WorkerSummary> {
        if (this.#running) throw invalid('the worker runs already');
        this.#running = true;
        const stop = () => this.stop();
        if (this.#given?.aborted) stop();
        this.#given?.addEventListener('abort', stop, { once: true });
        const unguard = guard(this.#outbox.client);
        const beat = this.#heartbeat();
        if (this.#listen) {
            const ring = () => this.#bell.ring();
            const waits = () => this.#backoff.min;
            listen(this.#outbox.client, 'outbox_pull', this.#subscription, ring, this.#stopping.signal, waits, this.#onError);
        }
        try {
            await this.#claimLoop();
        } finally {
            this.#stopping.abort();
            await this.#windDown();
            await beat;
            unguard();
            this.#given?.removeEventListener('abort', stop);
        }
        return this.summary;
    }

    async #claimLoop(): Promise<void> {
        const backoff = new Backoff(this.#backoff.min, this.#backoff.max);
        const signal = this.#stopping.signal;
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
                if (done) rows = await this.#outbox.completeAndClaim({ done: done[0]!.task.lease.id, ...next });
                else rows = await this.#outbox.claim(next);
            } catch (error) {
                if (done) {
                    // The lease is lost, or something is wrong with claiming: each call will say so by itself.
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
            for (const { task, outcome } of done ?? []) this.#finish(task, outcome, true);
            this.#take(rows);
            // What was completed may have let others in: ask once more.
            if (rows.length > 0 || done) continue;
            if (!this.#untilEmpty) await this.#bell.wait(this.#pollInterval * (0.9 + Math.random() / 5), signal);
            else if (this.#busy === 0) break;
            else await new Promise<void>((resolve) => (this.#wake = resolve));
        }
        if (this.#done) this.#record(this.#done);
        this.#done = undefined;
    }

    /** Tells of what went wrong, but for what is part of the isolation level `serializable` and is just tried again. */
    #trouble(error: unknown): void {
        if (!(error instanceof OutboxError && error.code === '40001')) this.#onError(error);
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

    /** Starts handlers. */
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
            } else {
                outcome = { kind: 'complete', result: storable(result) };
            }
        } catch (error) {
            this.#onError(error, task.message);
            outcome = failure(error);
        }
        if (this.#ended) {
            task.recorded?.(false);
            return;
        }
        this.#record([{ task, outcome }]);
    }

    /** Has outcomes recorded, if that has not begun already. */
    #record(outcomes: Group): void {
        this.#outcomes.push(...outcomes);
        if (this.#flushing) return;
        this.#flushing = true;
        void this.#flush();
    }

    /** Leaves a group to the claim loop, if that waits, and the group is all that is left of its lease, without results to tell. */
    #handOver(group: Group): boolean {
        const { lease } = group[0]!.task;
        const all = lease.whole && !lease.lost && group.length === lease.open.size;
        const bare = group.every(({ outcome }) => outcome.kind === 'complete' && (outcome.result ?? null) === null);
        if (!all || !bare || !this.#full || this.#done || this.#queue.length > 0 || this.#stopping.signal.aborted) return false;
        // Only once: what does not work is recorded by itself.
        lease.whole = false;
        this.#done = group;
        this.#wake();
        return true;
    }

    /** Records outcomes, those that come up meanwhile together. */
    async #flush(): Promise<void> {
        const backoff = new Backoff(this.#backoff.min, this.#backoff.max);
        // What ends in this turn of the event loop is recorded together.
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
     * The outcome itself was refused (a malformed interval, a result that the server does not take): the try has failed, and says
     * so. Nothing stays leased for it.
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
                // Which of them it was shows one by one.
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
            this.#onError(
                new LeaseLostError(`the outcome of delivery ${task.message.deliveryId} came too late`, 'OB003', {
                    detail: `Lease ${task.lease.id} was lost.`,
                }),
                task.message,
            );
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

    /** Extends what is held, until everything has ended. */
    async #heartbeat(): Promise<void> {
        const signal = this.#stopping.signal;
        while (!this.#ended && !(signal.aborted && this.#leases.size === 0)) {
            // After the stop it still beats, but notices soon when there is nothing left to beat for.
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

    /** Gives back what was not begun, waits for what was, and gives back what does not end in time. */
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
                    // The lease runs out by itself.
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

/** An outcome that was decided outside of the handler; see deliveries.ts. */
export class Settled {
    constructor(
        readonly outcome: Outcome,
        readonly recorded: (done: boolean) => void,
    ) {}
}
