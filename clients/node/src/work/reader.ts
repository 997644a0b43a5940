/**
 * Follows the feed in order, with a cursor in the database.
 *
 * The cursor advances over a message only when the loop continues after it. A message in whose body the loop was left, or
 * whose body threw, is read again. Every advance expects the cursor where this reader left it, so a second instance is
 * detected (ConflictError).
 */

import { guard, run, transaction, type Executor, type TransactionOf } from '../client/driver.js';
import { cannotListen, listen } from '../client/listen.js';
import { checkVersion } from '../client/version.js';
import { ConflictError, errorOf, invalid, isRetryable, OutboxError, said, typed } from '../client/errors.js';
import type { FeedMessageRow } from '../client/functions.js';
import { Outbox, withContent, type WithContent } from '../client/outbox.js';
import { storableText } from '../client/sql.js';
import { Log, type Logger } from './log.js';
import { Backoff, Bell, onShutdown, positive, sleep } from './time.js';

/** Columns of a row that a marker does not have. A marker says only up to which position nothing else matches. */
type OfMessage = 'messageId' | 'webhookId' | 'topic' | 'enqueuedAt';

/** A message at its position of the feed. */
export type FeedMessage = WithContent<Omit<FeedMessageRow, OfMessage> & { [K in OfMessage]: NonNullable<FeedMessageRow[K]> }>;

export interface ReaderOptions {
    /** The name of the cursor. Without it the position is not stored. */
    consumer?: string;
    /** The subject of the cursor. The default is empty. */
    subject?: string;
    /** The position after which to begin if there is no cursor yet. The default is 0, the beginning. */
    after?: number;
    /** Topic patterns: `*` matches one word, `#` any number of words. */
    topics?: string[];
    filter?: Record<string, unknown>;
    /** The number of messages per read. The default is 100. */
    batchSize?: number;
    /** Seconds between polls at the end of the feed. The default is 1. */
    pollInterval?: number;
    /**
     * Lets NOTIFY wake the reader, if `pg_outbox.notify_readers` is on. All workers and readers of a client share one
     * connection for this: one of a pg Pool, or one that `postgres` opens. The default is to listen where the client can, and
     * to poll otherwise. True throws if the client cannot listen.
     */
    listen?: boolean;
    /** Ends the reader at the end of the feed, instead of waiting for more messages. */
    untilEnd?: boolean;
    /**
     * Ends the reader. Messages after which the loop has continued are confirmed. Without it, SIGINT and SIGTERM end the
     * reader in the same way.
     */
    signal?: AbortSignal;
    /**
     * The shortest and longest wait in seconds between attempts when server or connection fail. The defaults are 0.1 and
     * 30.
     */
    backoff?: { min?: number; max?: number };
    /** Called for errors after which the reader tries again. */
    onError?: (error: unknown) => void;
    /**
     * Gets what happens, as lines: the console, pino, winston. The default writes warnings and errors to the console, unless
     * `onError` is given. False logs nothing.
     */
    logger?: Logger | false;
    /** Describes the error of an effect, for the cursor and the log. The default tells its message and detail. */
    describe?: (error: unknown) => string;
}

/** How a reader fares, for health ports. */
export interface ReaderHealth {
    consumer: string | null;
    /** Whether the last call of the server succeeded and no effect fails. */
    ok: boolean;
    /** Whether the last call of the server succeeded. */
    connected: boolean;
    /** The position of the message whose effect fails. Null: there is none. */
    failingPosition: number | null;
    /** The number of messages that `apply` has applied. */
    applied: number;
}

/** A position in the feed, with its epoch. */
export interface Place {
    position: number;
    epoch: number | null;
}

/** A row of the feed. A marker has no message. */
export interface PlacedRow {
    position: number | null;
    epoch: number | null;
    messageId: number | null;
}

/** Returns at most `size` rows after a position, in order. The last row may be a marker, which only says where to continue. */
export type Pages<Row> = (after: Place, size: number) => Promise<Row[]>;

/** The hint for an effect after which its transaction is aborted, or has ended. */
const SAVEPOINT = 'To go on after an SQL error, run the statement that may fail in a savepoint.';

const ENDED = { detail: 'The cursor moves in the transaction of the effect, which the client ends.', hint: SAVEPOINT };

/**
 * Returns the number of a transaction. If the effect before has caught an SQL error, the transaction is aborted and COMMIT would
 * roll it back without an error.
 */
async function numberOf(tx: Executor): Promise<string | null> {
    try {
        const [row] = await run(tx, { text: 'select cast(pg_catalog.pg_current_xact_id_if_assigned() as text) as r', values: [] });
        return row!.r!;
    } catch (error) {
        if (!(error instanceof OutboxError && error.code === '25P02')) throw error;
        throw errorOf('the effect has caught an SQL error, so its transaction is aborted', '25P02', { cause: error, hint: SAVEPOINT });
    }
}

/** Reads the feed: `for await (const message of new Reader(pool, { consumer: 'search' })) { ... }`. */
export class Reader<C extends Executor = Executor, Row extends PlacedRow = FeedMessage> implements AsyncIterable<Row> {
    readonly #client: C;
    readonly #outbox: Outbox;
    readonly #options: ReaderOptions;
    readonly #log: Log;
    readonly #pages: Pages<Row>;
    #connected = false;
    #failing: number | null = null;
    #applied = 0;

    /** `pages` reads something else than the messages of the feed, and is for the modules of this package. */
    constructor(client: C, options: ReaderOptions = {}, pages?: Pages<Row>) {
        const after = options.after ?? 0;
        if (!Number.isSafeInteger(after) || after < 0) {
            throw invalid('after is not a position', { detail: `It is ${after}.`, hint: 'Positions are whole numbers; 0 is before the first.' });
        }
        positive(options.batchSize, 100, 'batchSize', true);
        positive(options.pollInterval, 1, 'pollInterval');
        void new Backoff(options.backoff);
        const deaf = cannotListen(client);
        if (options.listen && deaf) throw deaf;
        this.#client = client;
        this.#outbox = new Outbox(client);
        this.#options = { ...options, listen: options.listen ?? (deaf === undefined && !options.untilEnd) };
        this.#log = new Log(options.logger, options.onError !== undefined);
        this.#pages = pages ?? ((after, size) => this.#messages(after, size) as Promise<any[]>);
    }

    async #messages({ position, epoch }: Place, size: number): Promise<WithContent<FeedMessageRow>[]> {
        const { topics, filter } = this.#options;
        const rows = await this.#outbox.read({
            afterPosition: position,
            maxMessages: size,
            ...(topics === undefined ? {} : { topics }),
            ...(filter === undefined ? {} : { filter }),
            ...(epoch === null ? {} : { epoch }),
        });
        return rows.map(withContent);
    }

    /** How the reader fares. */
    get health(): ReaderHealth {
        const [connected, failingPosition, applied] = [this.#connected, this.#failing, this.#applied];
        return { consumer: this.#options.consumer ?? null, ok: connected && failingPosition === null, connected, failingPosition, applied };
    }

    #facts(): Record<string, unknown> {
        const { consumer, subject } = this.#options;
        return { consumer, ...(subject ? { subject } : {}) };
    }

    /** Calls the listener of the application. An error of the listener must not end the reader. */
    #tell(error: unknown): void {
        try {
            this.#options.onError?.(error);
        } catch (cause) {
            this.#log.write('error', 'onError has thrown', this.#facts(), cause);
        }
    }

    /** Reports an error after which the reader tries again. A serialization failure is normal at the level `serializable`. */
    #again(error: unknown): void {
        if ((error as OutboxError).code === '40001') return;
        this.#log.again(error, this.#facts());
        this.#tell(error);
    }

    /** Repeats `what` until it succeeds. Returns undefined if the signal aborts first. */
    async #patiently<T>(what: () => Promise<T>, signal?: AbortSignal): Promise<T | undefined> {
        const backoff = new Backoff(this.#options.backoff);
        for (;;) {
            try {
                const result = await what();
                this.#connected = true;
                return result;
            } catch (error) {
                this.#connected = false;
                if (!isRetryable(error)) throw error;
                this.#again(error);
                if (signal?.aborted) return undefined;
                await sleep(backoff.next(), signal);
                if (signal?.aborted) return undefined;
            }
        }
    }

    /** Begins: returns the signal that ends the reader, a bell that ends a wait at the end of the feed, and how to undo this. */
    #begin(): { signal: AbortSignal; bell: Bell; end: () => void } {
        const bell = new Bell();
        const ended = new AbortController();
        const given = this.#options.signal;
        const undo = given ? () => {} : onShutdown(() => ended.abort());
        const unguard = guard(this.#client);
        const unlisten = this.#options.listen
            ? listen(this.#client, {
                  channel: 'outbox_feed',
                  told: () => bell.ring(),
                  deaf: (error) => {
                      this.#log.write('warn', error.message, { ...this.#facts(), hint: error.hint });
                      this.#tell(error);
                  },
                  wait: this.#options.backoff?.min ?? 0.1,
              })
            : () => {};
        const end = () => {
            unlisten();
            unguard();
            undo();
        };
        return { signal: given ?? ended.signal, bell, end };
    }

    #cursor(): { consumer: string; subject?: string } | undefined {
        const { consumer, subject } = this.#options;
        return consumer === undefined ? undefined : { consumer, ...(subject === undefined ? {} : { subject }) };
    }

    /**
     * Returns the position to begin at, and the position of the cursor (0 if it does not exist yet, regardless of
     * `after`). Both come from one call, because another instance may advance the cursor between two calls.
     */
    async #start(signal: AbortSignal): Promise<{ place: Place; known: number } | undefined> {
        const after = this.#options.after ?? 0;
        const cursor = this.#cursor();
        if (cursor === undefined) return { place: { position: after, epoch: null }, known: after };
        const state = await this.#patiently(() => this.#outbox.cursorGet({ ...cursor, ifMissing: 0 }), signal);
        if (state === undefined) return undefined;
        const known = state.position;
        // A cursor that does not exist has no time of update.
        return { place: { position: state.updatedAt === null ? after : known, epoch: state.epoch }, known };
    }

    /** Reads the messages after a position, and the position after which to continue. */
    async #next(place: Place, signal: AbortSignal, size = this.#options.batchSize ?? 100): Promise<{ messages: Row[]; end: Place } | undefined> {
        const rows = await this.#patiently(() => this.#pages(place, size), signal);
        if (rows === undefined) return undefined;
        const last = rows.at(-1);
        return {
            messages: rows.filter((row) => row.messageId !== null),
            end: last === undefined ? place : { position: last.position!, epoch: last.epoch },
        };
    }

    async *[Symbol.asyncIterator](): AsyncGenerator<Row, void, void> {
        const { pollInterval = 1, untilEnd = false } = this.#options;
        const cursor = this.#cursor();
        const { signal, bell, end } = this.#begin();
        let saved: Place | undefined;
        let handled: Place | undefined;
        const save = async (): Promise<void> => {
            if (cursor === undefined || saved === undefined || handled === undefined) return;
            if (handled.position <= saved.position) return;
            const { position, epoch } = handled;
            const expectedPosition = saved.position;
            let ambiguous = false;
            await this.#patiently(async () => {
                try {
                    await this.#outbox.cursorAdvance({ ...cursor, position, expectedPosition, ...(epoch === null ? {} : { epoch }) });
                } catch (error) {
                    // An advance whose answer was lost may have happened.
                    if (ambiguous && (await this.#outbox.cursorGet({ ...cursor, ifMissing: 0 })).position === position) return;
                    ambiguous = isRetryable(error);
                    throw error;
                }
            }, signal);
            saved = { position, epoch };
        };
        try {
            await this.#patiently(() => checkVersion(this.#client), signal);
            const start = await this.#start(signal);
            if (start === undefined) return;
            saved = { position: start.known, epoch: start.place.epoch };
            let place = start.place;
            while (!signal.aborted) {
                const batch = await this.#next(place, signal);
                if (batch === undefined) break;
                for (const message of batch.messages) {
                    yield message;
                    handled = { position: message.position!, epoch: message.epoch };
                    if (signal.aborted) break;
                }
                if (signal.aborted) break;
                const moved = batch.end.position > place.position;
                place = batch.end;
                if (moved) handled = place;
                await save();
                if (!moved) {
                    if (untilEnd) break;
                    await bell.wait(pollInterval, signal);
                }
            }
        } finally {
            try {
                await save();
            } finally {
                end();
            }
        }
    }

    /**
     * Runs `effect` with a batch of messages in a transaction that also advances the cursor, so that effects in this
     * database happen effectively once. Two instances cannot both handle a batch: the later one rolls back and continues
     * from the cursor. `effect` gets the transaction of the driver: works on a pg Pool, on `postgres`, Knex, Drizzle, Prisma,
     * Kysely, Sequelize, TypeORM and MikroORM. Returns the number of messages.
     *
     * An effect that throws is never passed over. The error is logged and stored with the cursor, where `health()` shows it, and
     * the effect is tried again after a growing wait. With `untilEnd` the error is thrown instead. The same happens when COMMIT
     * refuses the effect, when the effect catches an SQL error outside of a savepoint, and when it ends the transaction.
     */
    async apply<Tx = TransactionOf<C>>(effect: (tx: Tx, messages: Row[]) => Promise<void>): Promise<number> {
        const { pollInterval = 1, untilEnd = false } = this.#options;
        const cursor = this.#cursor();
        if (cursor === undefined) throw invalid('a reader that applies needs a consumer');
        const { signal, bell, end } = this.#begin();
        const backoff = new Backoff(this.#options.backoff);
        const most = this.#options.batchSize ?? 100;
        // After a failure one message at a time, so that the messages before the one that cannot be handled are applied.
        let size = most;
        let applied = 0;
        try {
            await this.#patiently(() => checkVersion(this.#client), signal);
            while (!signal.aborted) {
                const start = await this.#start(signal);
                if (start === undefined) break;
                const batch = await this.#next(start.place, signal, size);
                if (batch === undefined) break;
                if (batch.end.position === start.place.position) {
                    // Another instance may have applied the message that has failed here.
                    this.#failing = null;
                    if (untilEnd) break;
                    await bell.wait(pollInterval, signal);
                    continue;
                }
                const one: { begun: boolean; error?: unknown } = { begun: false };
                try {
                    await transaction<void>(this.#client, async (tx) => {
                        // This comes first, so that another instance waits here and then sees that it is late.
                        const { position, epoch } = batch.end;
                        const state = await this.#outbox.with(tx).cursorAdvance({
                            ...cursor,
                            position,
                            expectedPosition: start.known,
                            ...(epoch === null ? {} : { epoch }),
                        });
                        if (!state.advanced) throw new ConflictError('another instance was first', 'OB005');
                        if (batch.messages.length === 0) return;
                        const number = await numberOf(tx);
                        one.begun = true;
                        try {
                            await effect(tx as Tx, batch.messages);
                            if ((await numberOf(tx)) !== number) throw invalid('the effect has ended its transaction', ENDED);
                        } catch (error) {
                            one.error = error;
                            throw error;
                        }
                    });
                    applied += batch.messages.length;
                    this.#applied += batch.messages.length;
                    this.#failing = null;
                    backoff.reset();
                    size = Math.min(size * 2, most);
                } catch (thrown) {
                    // A driver may throw another error when it rolls back.
                    const error = typed(one.error ?? thrown);
                    const code = (error as { code?: unknown } | null | undefined)?.code;
                    const late = !one.begun && code === 'OB005';
                    // An effect may also throw what another service has answered, so only what concerns the transaction passes.
                    // A conflict of versions has its cause in what another transaction has stored meanwhile.
                    const conflict = code === 'OB013' || String(code).startsWith('40');
                    const passes = one.error === undefined ? isRetryable(error) : conflict && error instanceof OutboxError;
                    if (late || passes) {
                        if (late) this.#failing = null;
                        else if (!conflict) this.#connected = false;
                        this.#again(error);
                    } else if (one.begun) {
                        const alone = batch.messages.length === 1;
                        if (alone) this.#failing = batch.messages[0]!.position;
                        await this.#poisoned(error, batch.messages[0]!, alone, cursor);
                        if (untilEnd) throw error;
                        size = 1;
                        if (!alone) continue;
                    } else throw error;
                    if (!late) await sleep(backoff.next(), signal);
                }
            }
        } finally {
            end();
        }
        return applied;
    }

    /**
     * Logs and stores that an effect threw, with the position of the message if it was alone. The error of the effect matters
     * more than one of storing it.
     */
    async #poisoned(error: unknown, first: Row, alone: boolean, cursor: { consumer: string; subject?: string }): Promise<void> {
        const { describe } = this.#options;
        const facts = { ...this.#facts(), position: first.position };
        if (describe) this.#log.write('error', 'an effect failed, and the cursor stays', { ...facts, error: describe(error) });
        else this.#log.write('error', 'an effect failed, and the cursor stays', facts, error);
        this.#tell(error);
        const { after: afterPosition = 0 } = this.#options;
        const stored = { ...cursor, error: storableText((describe ?? said)(error)) || 'error', afterPosition, ...(alone ? { errorPosition: first.position! } : {}) };
        await this.#outbox.cursorRecordError(stored).catch((cause: unknown) => this.#again(cause));
    }
}
