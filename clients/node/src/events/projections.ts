/**
 * Projections: read models that follow events.
 *
 * `inline` runs in the transaction that appends, and its errors refuse the append. `async` runs behind it: the effect and the cursor
 * move in one transaction, so each event is applied once, however many processes run. `live` has no cursor, sees only new events,
 * goes on after an event that fails, and only `stop` ends it.
 *
 * An event at which an asynchronous projection fails is never passed over. The error is stored with the cursor, where `health()` of
 * the server shows it, and the event is tried again after a growing wait.
 */

import { transaction, type Executor, type TransactionOf } from '../client/driver.js';
import type { EventRow } from '../client/functions.js';
import { Outbox } from '../client/outbox.js';
import { topicMatches } from '../receive/topics.js';
import { Log, type Logger } from '../work/log.js';
import { Reader, type Pages, type ReaderHealth } from '../work/reader.js';
import { onShutdown, positive, sleep } from '../work/time.js';
import { withoutContext } from './context.js';
import { ProjectionError, told } from './errors.js';
import { followLive } from './live.js';
import type { AnyEvent } from './registry.js';
import type { EventStore, RecordedEvent } from './store.js';

/** A read model. `Tx` is the transaction of the driver. */
export interface Projection<E extends AnyEvent = any, Tx = any> {
    name: string;
    /** The default is `async`. */
    kind?: 'async' | 'inline' | 'live';
    /** Patterns of event types. The default is all. */
    types?: readonly string[];
    categories?: readonly string[];
    /** Applies events, in their order. The transaction of a live projection is undefined. */
    handle(tx: Tx, events: RecordedEvent<E>[]): Promise<void>;
    /** Empties the tables of the projection, for `rebuild`. */
    clear?(tx: Tx): Promise<void>;
    /** The name of its cursor. The default is `projection` and the name. */
    consumer?: string;
}

/** Settings of an engine. */
export interface ProjectionOptions {
    /** The largest number of events that one transaction applies. The default is 100. */
    batchSize?: number;
    /** Seconds between polls at the end of the feed. The default is 1. */
    pollInterval?: number;
    /** The shortest and longest wait in seconds between tries after an error. The defaults are 0.1 and 30. */
    backoff?: { min?: number; max?: number };
    listen?: boolean;
    logger?: Logger | false;
    onError?: (error: unknown, projection: string) => void;
}

/** The state of a projection in this process and in the database. */
export interface ProjectionStatus {
    name: string;
    kind: 'async' | 'inline' | 'live';
    state: 'running' | 'paused' | 'stopped' | 'faulted' | 'failed';
    /** The position up to which events are applied. Null: it has no cursor. */
    position: number | null;
    /** The number of positions behind the end of the feed. */
    lag: number | null;
    /** The number of events that this process has applied. */
    processed: number;
    /** The mean time of a call of the handler in this process, in seconds. */
    meanLatency: number;
    /** The last error, and the position of the event that it concerns. */
    error: string | null;
    errorPosition: number | null;
}

/** How far a rebuild is. Numbers are positions of the feed. */
export interface RebuildProgress {
    /** The name of the projection. */
    projection: string;
    done: number;
    total: number;
    /** Positions per second. */
    rate: number;
    /** Null: not known yet. */
    secondsLeft: number | null;
}

/** Settings of a rebuild. */
export interface RebuildOptions {
    /** Called every second, and at the end. {@link progressBar} shows it. */
    onProgress?: (progress: RebuildProgress) => void;
    signal?: AbortSignal;
}

/** Settings of the rebuild of several projections. */
export interface RebuildAllOptions extends RebuildOptions {
    names?: readonly string[];
    concurrency?: number;
}

interface Entry {
    projection: Projection;
    state: ProjectionStatus['state'];
    processed: number;
    calls: number;
    seconds: number;
    error: string | null;
    /** How its loop fares. Undefined: there is none. */
    health: (() => ReaderHealth) | undefined;
    ending: AbortController;
    loop: Promise<void> | undefined;
    undo: () => void;
}

const kindOf = ({ kind = 'async' }: Projection) => kind;
const consumerOf = ({ consumer, name }: Projection) => consumer ?? `projection ${name}`;

/** Whether a projection takes an event. */
function takes({ types, categories }: Projection, { type, stream }: { type: string; stream: string }): boolean {
    const category = stream.split('-', 1)[0]!;
    return (types === undefined || types.some((pattern) => topicMatches(pattern, type))) && (categories === undefined || categories.includes(category));
}

/** Runs projections: `new ProjectionEngine(pool, store).register({ name: 'revenue', handle: async (tx, events) => ... })`. */
export class ProjectionEngine<C extends Executor = Executor, Out extends AnyEvent = AnyEvent> {
    readonly #client: C;
    readonly #store: EventStore<any, Out>;
    readonly #options: ProjectionOptions;
    readonly #outbox: Outbox;
    readonly #log: Log;
    readonly #entries = new Map<string, Entry>();
    #failed: ((error: unknown) => void) | undefined;

    constructor(client: C, store: EventStore<any, Out>, options: ProjectionOptions = {}) {
        positive(options.batchSize, 100, 'batchSize', true);
        this.#client = client;
        this.#store = store;
        this.#options = options;
        this.#outbox = new Outbox(client);
        this.#log = new Log(options.logger, options.onError !== undefined);
    }

    /** The names of the projections. */
    get names(): string[] {
        return [...this.#entries.keys()];
    }

    /** Registers a projection. An inline one works from now on, for appends with the store of this engine. */
    register(projection: Projection<Out, TransactionOf<C>>): this {
        if (!projection.name || this.#entries.has(projection.name)) throw new ProjectionError(`the name of projection "${projection.name}" is empty or taken`, '42710');
        const inline = kindOf(projection) === 'inline';
        const entry: Entry = {
            projection, state: 'stopped', processed: 0, calls: 0, seconds: 0, error: null, health: undefined, ending: new AbortController(), loop: undefined, undo: () => {},
        };
        if (inline) {
            entry.state = 'running';
            entry.undo = this.#store.onAppend(async (tx, events) => {
                const own = events.filter((event) => takes(projection, event));
                if (own.length > 0) await this.#handle(entry, tx, own);
            });
        }
        this.#entries.set(projection.name, entry);
        return this;
    }

    /** Stops a projection and forgets it. Its cursor and its tables stay. */
    async unregister(name: string): Promise<void> {
        const entry = this.#entry(name);
        await this.stop(name);
        entry.undo();
        this.#entries.delete(name);
    }

    #entry(name: string): Entry {
        const entry = this.#entries.get(name);
        if (entry !== undefined) return entry;
        throw new ProjectionError(`there is no projection "${name}"`, '42704', { hint: `There are ${this.names.join(', ') || 'none'}.` });
    }

    /** Starts a projection, or all. One that is about to stop begins again when it has stopped. */
    start(name?: string): void {
        for (const one of name === undefined ? this.names : [name]) {
            const entry = this.#entry(one);
            entry.state = 'running';
            if (kindOf(entry.projection) === 'inline' || (entry.loop !== undefined && !entry.ending.signal.aborted)) continue;
            const { signal } = (entry.ending = new AbortController());
            // The loop outlives this call, so it has nothing of the context of the call.
            const work = withoutContext(async () => {
                await entry.loop;
                if (!signal.aborted) entry.state = 'running';
                await (kindOf(entry.projection) === 'live' ? this.#live(entry, signal) : this.#apply(entry, signal));
            });
            const loop: Promise<void> = work
                .catch((error: unknown) => this.#end(entry, error))
                .finally(() => {
                    if (entry.loop === loop) entry.loop = undefined;
                });
            entry.loop = loop;
        }
    }

    #end(entry: Entry, error: unknown): void {
        entry.state = 'failed';
        entry.error = told(error);
        this.#log.write('error', 'a projection has ended', { projection: entry.projection.name, error: told(error) });
        this.#failed?.(error);
    }

    /** How the projections fare that are started here. A worker application tells it on its health port. */
    get health(): ReaderHealth[] {
        const started = [...this.#entries.values()].filter(({ projection, state }) => kindOf(projection) !== 'inline' && (state === 'running' || state === 'failed'));
        return started.map((entry): ReaderHealth => {
            const none = { consumer: consumerOf(entry.projection), ok: false, connected: false, failingPosition: null, applied: 0 };
            const health = entry.health?.() ?? none;
            return entry.state === 'failed' ? { ...health, ok: false } : health;
        });
    }

    /** Stops a projection, or all, after the transaction that it is in. An inline one would miss events, so it works until `unregister`. */
    async stop(name?: string): Promise<void> {
        const entries = (name === undefined ? this.names : [name]).map((one) => this.#entry(one));
        for (const entry of entries) {
            entry.ending.abort();
            if (entry.state !== 'failed' && kindOf(entry.projection) !== 'inline') entry.state = 'stopped';
        }
        await Promise.all(entries.map((entry) => entry.loop));
    }

    /** Pauses a projection in this process. */
    async pause(name: string): Promise<void> {
        const entry = this.#entry(name);
        if (kindOf(entry.projection) === 'inline') {
            throw new ProjectionError(`projection "${name}" is inline and cannot be paused`, '0A000', { hint: 'It would miss events. unregister() ends it.' });
        }
        const stopped = this.stop(name);
        entry.state = 'paused';
        await stopped;
    }

    /** Goes on with a projection that is paused, or has failed. */
    resume(name: string): void {
        this.start(name);
    }

    /** Runs all projections until the signal aborts, or until SIGINT or SIGTERM. Rejects with errors that trying again does not solve. */
    async run({ signal }: { signal?: AbortSignal } = {}): Promise<void> {
        const undo: { (): void }[] = [];
        try {
            await new Promise<void>((resolve, reject) => {
                if (signal?.aborted) return resolve();
                this.#failed = reject;
                const end = () => resolve();
                if (signal === undefined) undo.push(onShutdown(end));
                else {
                    signal.addEventListener('abort', end, { once: true });
                    undo.push(() => signal.removeEventListener('abort', end));
                }
                this.start();
            });
        } finally {
            this.#failed = undefined;
            for (const one of undo) one();
            await this.stop();
        }
    }

    /** Applies everything that there is, and returns the number of events. An error of the handler is thrown. */
    async catchUp(name: string): Promise<number> {
        const entry = this.#entry(name);
        if (kindOf(entry.projection) !== 'async') throw new ProjectionError(`projection "${name}" is not asynchronous`, '0A000');
        return withoutContext(() => this.#apply(entry, new AbortController().signal, true));
    }

    async #apply(entry: Entry, signal: AbortSignal, untilEnd = false): Promise<number> {
        const { projection } = entry;
        const { batchSize = 100, pollInterval, backoff, listen, logger } = this.#options;
        const { types, categories } = projection;
        const pages: Pages<EventRow> = ({ position, epoch }, size) =>
            this.#outbox.readEvents({
                afterPosition: position,
                maxEvents: size,
                ...(types ? { types } : {}),
                ...(categories ? { categories } : {}),
                ...(epoch === null ? {} : { epoch }),
            });
        const onError = (error: unknown) => {
            entry.error = told(error);
            this.#options.onError?.(error, projection.name);
        };
        const cursor = { consumer: consumerOf(projection), batchSize, pollInterval, backoff, listen };
        const settings = { ...cursor, logger: logger ?? (this.#options.onError ? false : undefined), onError, describe: told, signal, untilEnd };
        const reader = new Reader<C, EventRow>(this.#client, settings, pages);
        if (!untilEnd) entry.health = () => reader.health;
        return reader.apply(async (tx, rows) => {
            await this.#handle(entry, tx, await this.#store.decode(tx as Executor, rows));
            entry.error = null;
        });
    }

    async #live(entry: Entry, signal: AbortSignal): Promise<void> {
        const { name, types, categories } = entry.projection;
        const { pollInterval, backoff, listen } = this.#options;
        let connected = false;
        entry.health = () => ({ consumer: consumerOf(entry.projection), ok: connected, connected, failingPosition: null, applied: entry.processed });
        await followLive(this.#client, this.#store, {
            types, categories, pollInterval, backoff, listen, signal,
            handle: (events) => this.#handle(entry, undefined, events),
            connected: () => (connected = true),
            failed: (error, position) => {
                if (position === null) connected = false;
                entry.error = told(error);
                this.#log.write('error', 'a live projection failed', { projection: name, position, error: told(error) });
                try {
                    this.#options.onError?.(error, name);
                } catch {
                    // An error of the listener does not end the projection.
                }
            },
        });
    }

    async #handle(entry: Entry, tx: any, events: RecordedEvent<any>[]): Promise<void> {
        const begun = performance.now();
        await entry.projection.handle(tx, events);
        entry.calls += 1;
        entry.seconds += (performance.now() - begun) / 1000;
        entry.processed += events.length;
    }

    /** Returns the state of a projection. */
    async status(name: string): Promise<ProjectionStatus> {
        const { projection, state, processed, calls, seconds, error } = this.#entry(name);
        const kind = kindOf(projection);
        const cursor = kind === 'async' ? await this.#outbox.cursorGet({ consumer: consumerOf(projection), ifMissing: 0 }) : undefined;
        const stored = cursor?.lastError ?? null;
        return {
            name, kind, processed,
            state: state === 'running' && stored !== null ? 'faulted' : state,
            position: cursor?.position ?? null,
            lag: cursor?.lagPositions ?? null,
            meanLatency: calls === 0 ? 0 : seconds / calls,
            error: stored ?? error,
            errorPosition: cursor?.errorPosition ?? null,
        };
    }

    /**
     * Empties the tables of a projection and applies all events again, and returns how many positions that were. Both begin in one
     * transaction. Other processes that run the projection share the work, and no page is applied twice. `onProgress` is called every
     * second. If the projection is not started here, it is stopped again at the end. Rejects if the rebuild cannot go on: the signal
     * aborts, the projection is stopped, or an event cannot be applied.
     */
    async rebuild(name: string, { onProgress, signal }: RebuildOptions = {}): Promise<number> {
        const entry = this.#entry(name);
        const { projection } = entry;
        const consumer = consumerOf(projection);
        if (kindOf(projection) !== 'async' || !projection.clear) {
            throw new ProjectionError(`projection "${name}" cannot be rebuilt`, '0A000', { hint: 'It has to be asynchronous and to have a method clear(tx).' });
        }
        signal?.throwIfAborted();
        const total = await this.#outbox.head();
        await transaction<void>(this.#client, async (tx) => {
            // The lock of the cursor comes first: an instance that is in a transaction is waited for, and none begins another one.
            await this.#outbox.with(tx as Executor).cursorReset({ consumer, position: 0, reason: `rebuild of projection ${name}` });
            await projection.clear!(tx);
        });
        const own = new AbortController();
        const stop = () => own.abort();
        signal?.addEventListener('abort', stop, { once: true });
        if (signal?.aborted) stop();
        const shared = entry.loop !== undefined && !entry.ending.signal.aborted ? entry.ending.signal : undefined;
        const work = shared === undefined ? withoutContext(() => this.#apply(entry, own.signal, true)) : undefined;
        try {
            await this.#progress(entry, total, { work, shared, signal, onProgress });
        } finally {
            own.abort();
            signal?.removeEventListener('abort', stop);
            await work?.catch(() => {});
        }
        return total;
    }

    /**
     * Rebuilds several projections at the same time, by default all that have a method `clear`, and returns the number of positions of
     * each. One that fails does not end the others; the errors are thrown when all have ended, more than one as an AggregateError.
     * `concurrency` is the largest number of rebuilds at a time (4). Each of them needs two connections of the pool.
     */
    async rebuildAll({ names, concurrency, ...options }: RebuildAllOptions = {}): Promise<Record<string, number>> {
        const rebuilt = (one: Projection) => kindOf(one) === 'async' && one.clear !== undefined;
        const chosen = names ?? [...this.#entries.values()].filter(({ projection }) => rebuilt(projection)).map(({ projection }) => projection.name);
        for (const name of chosen) this.#entry(name);
        const totals: Record<string, number> = {};
        const errors: unknown[] = [];
        const waiting = [...new Set(chosen)];
        const worker = async () => {
            for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
                try {
                    totals[name] = await this.rebuild(name, options);
                } catch (error) {
                    errors.push(error);
                }
            }
        };
        await Promise.all(Array.from({ length: positive(concurrency, 4, 'concurrency', true) }, worker));
        if (errors.length > 1) throw new AggregateError(errors, `${errors.length} projections were not rebuilt`);
        if (errors.length === 1) throw errors[0];
        return totals;
    }

    /** Waits until a rebuild has come to `total`. `work` is the rebuild, or `shared` the signal that ends the loop that does it. */
    async #progress(
        { projection }: Entry,
        total: number,
        { work, shared, signal, onProgress }: RebuildOptions & { work?: Promise<number>; shared?: AbortSignal },
    ): Promise<void> {
        const begun = performance.now();
        let over = false;
        const ended = work?.finally(() => (over = true));
        ended?.catch(() => {});
        for (let told = 0; ; ) {
            const finished = over;
            if (finished) await work;
            const cursor = await this.#outbox.cursorGet({ consumer: consumerOf(projection), ifMissing: 0 });
            const done = Math.min(cursor.position, total);
            const seconds = (performance.now() - begun) / 1000;
            if (done >= total || seconds >= told + 1) {
                told = seconds;
                const rate = done / Math.max(seconds, 0.001);
                onProgress?.({ projection: projection.name, done, total, rate, secondsLeft: done === 0 ? null : (total - done) / rate });
            }
            if (done >= total) return;
            signal?.throwIfAborted();
            const refused = (why: string, detail?: string) => new ProjectionError(`the rebuild of projection "${projection.name}" ${why}`, '55000', { detail });
            if (shared?.aborted || (shared !== undefined && this.#entry(projection.name).state === 'failed')) throw refused('was stopped');
            if (cursor.lastError !== null && work === undefined) throw refused('has met an event that cannot be applied', cursor.lastError);
            if (finished) throw refused('has ended before the last event');
            await Promise.race([sleep(0.1, signal), ended?.catch(() => {}) ?? new Promise<void>(() => {})]);
        }
    }
}
