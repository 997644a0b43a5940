/** Loads and saves aggregates. */

import { transaction, type Executor, type Session, type TransactionOf } from '../client/driver.js';
import { invalid, OutboxError } from '../client/errors.js';
import { Outbox } from '../client/outbox.js';
import { Log, type Logger } from '../work/log.js';
import { positive } from '../work/time.js';
import type { Aggregate, AggregateClass } from './aggregate.js';
import { retrying, type RetryPolicy } from './retry.js';
import { undone, type Appended, type AppendOptions, type EventStore } from './store.js';

/** Settings of a repository. */
export interface RepositoryOptions {
    /** Saves a snapshot whenever this many events more are stored. The default is never. */
    snapshotEvery?: number;
    /** The form of the snapshots. Another form gets another number, and old snapshots are then not read. The default is 1. */
    schemaVersion?: number;
    /**
     * Allows snapshots in a store with encryption. They are stored as they are, so the aggregate must not put personal data into
     * them: a snapshot outlives the key of a subject.
     */
    plainSnapshots?: boolean;
    /** Gets a warning when a snapshot is too large. The default is the console. False logs nothing. */
    logger?: Logger | false;
    /** Of `execute`. */
    retry?: RetryPolicy;
}

/** The outcome of `execute`. */
export interface Executed<A, R> {
    aggregate: A;
    /** The result of `decide`. */
    result: R;
    /** Undefined: no event was raised. */
    appended: Appended | undefined;
}

/** Loads and saves the aggregates of a class: `new Repository(store, Order)`. */
export class Repository<A extends Aggregate<any>> {
    readonly #store: EventStore<any, any>;
    readonly #class: AggregateClass<A>;
    readonly #options: RepositoryOptions;
    readonly #schemaVersion: number;
    readonly #log: Log;

    constructor(store: EventStore<any, any>, aggregate: AggregateClass<A>, options: RepositoryOptions = {}) {
        const name = aggregate.name;
        if (typeof aggregate.category !== 'string' || aggregate.category === '' || aggregate.category.includes('-')) {
            throw invalid(`${name} needs a category`, { hint: 'static readonly category = "order"; without a "-".' });
        }
        if (options.snapshotEvery !== undefined) {
            positive(options.snapshotEvery, 1, 'snapshotEvery', true);
            const { snapshot, restore } = aggregate.prototype as Aggregate;
            if (!snapshot || !restore) throw invalid(`${name} has snapshots and needs the methods snapshot() and restore()`);
            if (store.encryption && !options.plainSnapshots) {
                throw invalid('a snapshot would store in plain what events have encrypted', {
                    hint: 'Give plainSnapshots: true if the snapshots of this class have no such fields.',
                });
            }
        }
        this.#store = store;
        this.#class = aggregate;
        this.#options = options;
        this.#log = new Log(options.logger);
        this.#schemaVersion = positive(options.schemaVersion, 1, 'schemaVersion', true);
    }

    /** Returns the name of the stream of an id. */
    stream(id: string): string {
        if (typeof id !== 'string' || id === '') throw invalid('an aggregate needs an id');
        return `${this.#class.category}-${id}`;
    }

    /** Loads an aggregate in your transaction, or on a pool. One that has no events is new: its version is 0. */
    async load(tx: Executor, id: string): Promise<A> {
        const stream = this.stream(id);
        const aggregate = new this.#class(id);
        if (this.#options.snapshotEvery !== undefined) {
            const [row] = await new Outbox(tx).loadSnapshot({ stream, schemaVersion: this.#schemaVersion });
            if (row !== undefined) {
                aggregate.restore!(row.state);
                aggregate.committed(row.version);
            }
        }
        for await (const page of this.#store.pages(tx, stream, aggregate.version + 1)) aggregate.replay(page);
        return aggregate;
    }

    /**
     * Appends the events that an aggregate has raised, if the stream is still at the version that was loaded, and sets its
     * version. Throws a ConcurrencyError otherwise. After a rollback the aggregate has to be loaded again.
     */
    async save(tx: Session, aggregate: A, options: AppendOptions = {}): Promise<Appended | undefined> {
        if (aggregate.changes.length === 0) return undefined;
        const stream = this.stream(aggregate.id);
        const before = aggregate.version;
        const appended = await this.#store.append(tx, stream, aggregate.changes, before, options);
        aggregate.committed(appended.lastVersion);
        if (this.#isDue(before, appended.lastVersion)) await this.#snapshot(tx, stream, aggregate, appended.lastVersion);
        return appended;
    }

    #isDue(before: number, version: number): boolean {
        const every = this.#options.snapshotEvery;
        return every !== undefined && Math.floor(before / every) < Math.floor(version / every);
    }

    /** Saves a snapshot. One that is too large is left out, because the events say the same. */
    async #snapshot(tx: Session, stream: string, aggregate: A, version: number): Promise<void> {
        const state = aggregate.snapshot!();
        try {
            await undone(tx, () => new Outbox(tx).saveSnapshot({ stream, version, state, schemaVersion: this.#schemaVersion }));
        } catch (error) {
            if (!(error instanceof OutboxError && error.code === '54000')) throw error;
            this.#log.write('warn', 'a snapshot is too large and is not saved', { stream, version });
        }
    }

    /**
     * Does what `execute` does for a decision that needs nothing but the aggregate. It begins no transaction where none is needed: the load
     * and the append are one statement each, and the version that was loaded guards the append. A snapshot is saved afterwards.
     */
    async decide<R>(pool: Executor, id: string, decide: (aggregate: A) => R | Promise<R>, options: AppendOptions & { signal?: AbortSignal } = {}): Promise<Executed<A, R>> {
        const { signal, ...append } = options;
        const attempt = async (): Promise<Executed<A, R>> => {
            const aggregate = await this.load(pool, id);
            const before = aggregate.version;
            const result = await decide(aggregate);
            if (aggregate.changes.length === 0) return { aggregate, result, appended: undefined };
            const appended = await this.#store.appendAlone(pool, this.stream(id), aggregate.changes, before, append);
            aggregate.committed(appended.lastVersion);
            return { aggregate, result, appended };
        };
        const done = await retrying(this.#options.retry ?? {}, attempt, signal);
        const { aggregate, appended } = done;
        if (appended !== undefined && this.#isDue(appended.firstVersion - 1, appended.lastVersion)) {
            await transaction<void>(pool, (tx) => this.#snapshot(tx as Session, appended.stream, aggregate, appended.lastVersion));
        }
        return done;
    }

    /**
     * Loads an aggregate, decides, and saves it, in a transaction of its own. If another transaction was first, all of it is done
     * again, with what is there then. `decide` may run several times.
     */
    async execute<R, C extends Executor>(
        pool: C,
        id: string,
        decide: (aggregate: A, tx: TransactionOf<C>) => R | Promise<R>,
        options: AppendOptions & { signal?: AbortSignal } = {},
    ): Promise<Executed<A, R>> {
        const { signal, ...append } = options;
        return retrying(
            this.#options.retry ?? {},
            () =>
                transaction(pool, async (tx) => {
                    const aggregate = await this.load(tx as Session, id);
                    const result = await decide(aggregate, tx);
                    return { aggregate, result, appended: await this.save(tx as Session, aggregate, append) };
                }),
            signal,
        );
    }
}

/** Saves aggregates of several classes in one transaction, in the order of their streams, so that two transactions cannot deadlock. */
export async function saveAll(tx: Session, ...all: readonly (readonly [Repository<any>, Aggregate<any>])[]): Promise<void> {
    const named = all.map(([repository, aggregate]) => ({ repository, aggregate, stream: Buffer.from(repository.stream(aggregate.id)) }));
    named.sort((a, b) => Buffer.compare(a.stream, b.stream));
    for (const { repository, aggregate } of named) await repository.save(tx, aggregate);
}
