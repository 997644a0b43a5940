/**
 * Following the feed, in order, with a cursor in the database.
 *
 * A cursor is only advanced over what the loop has gone on from: a message in whose body the loop was left, or that threw,
 * is read again. Every advance expects the cursor where this reader left it, so a second instance is noticed (ConflictError).
 */

import { checkListens, guard, listen, transaction, type Executor } from './driver.js';
import { ConflictError, invalid, isRetryable, type OutboxError } from './errors.js';
import type { FeedMessageRow } from './functions.js';
import { Outbox, withContent, type WithContent } from './outbox.js';
import { Backoff, Bell, sleep } from './time.js';

/** A message at its position of the feed. */
export type FeedMessage = WithContent<FeedMessageRow>;

export interface ReaderOptions {
    /** The name of the cursor. Without one, nothing is remembered. */
    consumer?: string;
    /** Of the cursor; empty if not given. */
    subject?: string;
    /** Where to begin if there is no cursor yet, exclusive; 0, the beginning, if not given. */
    after?: number;
    /** Patterns: `*` one word, `#` any number. */
    topics?: string[];
    filter?: Record<string, unknown>;
    /** Messages per read; 100 if not given. */
    batchSize?: number;
    /** Seconds between looks at the end of the feed; 1 if not given. */
    pollInterval?: number;
    /** Is woken by NOTIFY besides, where `pg_outbox.notify_readers` is on. Keeps a connection: of a Pool of pg, or one that `postgres` opens. */
    listen?: boolean;
    /** Ends it where it has read everything, instead of waiting for more. */
    untilEnd?: boolean;
    /** Ends it; what the loop has gone on from is confirmed. */
    signal?: AbortSignal;
    /** Seconds between tries when server or connection fail: from and to; 0.1 and 30 if not given. */
    backoff?: { min?: number; max?: number };
    /** Told about trouble that waiting cures. */
    onError?: (error: unknown) => void;
}

/** A place in the feed. */
interface Place {
    position: number;
    epoch: number | null;
}

/** Reads the feed: `for await (const message of new Reader(pool, { consumer: 'search' })) { ... }`. */
export class Reader implements AsyncIterable<FeedMessage> {
    readonly #client: Executor;
    readonly #outbox: Outbox;
    readonly #options: ReaderOptions;

    constructor(client: Executor, options: ReaderOptions = {}) {
        const after = options.after ?? 0;
        if (!Number.isSafeInteger(after) || after < 0) {
            throw invalid('after is not a position', { detail: `It is ${after}.`, hint: 'Positions are whole numbers; 0 is before the first.' });
        }
        if (options.listen) checkListens(client);
        this.#client = client;
        this.#outbox = new Outbox(client);
        this.#options = options;
    }

    /** Tries until it works, or until the signal (then undefined). */
    async #patiently<T>(what: () => Promise<T>): Promise<T | undefined> {
        const backoff = new Backoff(this.#options.backoff?.min ?? 0.1, this.#options.backoff?.max ?? 30);
        for (;;) {
            try {
                return await what();
            } catch (error) {
                if (!isRetryable(error)) throw error;
                // Part of the isolation level `serializable`.
                if ((error as OutboxError).code !== '40001') this.#options.onError?.(error);
                if (this.#options.signal?.aborted) return undefined;
                await sleep(backoff.next(), this.#options.signal);
                if (this.#options.signal?.aborted) return undefined;
            }
        }
    }

    /** What ends a wait at the end of the feed; the function ends the listening. */
    #listening(): { bell: Bell; end: () => void } {
        const bell = new Bell();
        const ended = new AbortController();
        if (this.#options.listen) {
            const waits = () => this.#options.backoff?.min ?? 0.1;
            const deaf = (error: OutboxError) => this.#options.onError?.(error);
            listen(this.#client, 'outbox_feed', undefined, () => bell.ring(), ended.signal, waits, deaf);
        }
        return { bell, end: () => ended.abort() };
    }

    #cursor(): { consumer: string; subject?: string } | undefined {
        const { consumer, subject } = this.#options;
        return consumer === undefined ? undefined : { consumer, ...(subject === undefined ? {} : { subject }) };
    }

    /**
     * Where to begin, and where the cursor stands: 0 if it is not there yet, whatever `after` says. Both from one look: between
     * two, another instance may advance it.
     */
    async #start(): Promise<{ place: Place; known: number } | undefined> {
        const after = this.#options.after ?? 0;
        const cursor = this.#cursor();
        if (cursor === undefined) return { place: { position: after, epoch: null }, known: after };
        const state = await this.#patiently(() => this.#outbox.cursorGet({ ...cursor, ifMissing: 0 }));
        if (state === undefined) return undefined;
        const known = state.position ?? 0;
        // Only a cursor that exists was ever updated.
        return { place: { position: state.updatedAt === null ? after : known, epoch: state.epoch }, known };
    }

    /** What follows a place: messages, and where to go on behind them. */
    async #next(place: Place): Promise<{ messages: FeedMessage[]; end: Place } | undefined> {
        const { topics, filter, batchSize } = this.#options;
        const rows = await this.#patiently(() =>
            this.#outbox.read({
                afterPosition: place.position,
                maxMessages: batchSize ?? 100,
                ...(topics === undefined ? {} : { topics }),
                ...(filter === undefined ? {} : { filter }),
                ...(place.epoch === null ? {} : { epoch: place.epoch }),
            }),
        );
        if (rows === undefined) return undefined;
        const last = rows.at(-1);
        return {
            // A row without a message only says where to go on.
            messages: rows.filter((row) => (row.messageId as number | null) !== null).map(withContent),
            end: last === undefined ? place : { position: last.position, epoch: last.epoch },
        };
    }

    async *[Symbol.asyncIterator](): AsyncGenerator<FeedMessage, void, void> {
        const { signal, pollInterval = 1, untilEnd = false } = this.#options;
        const cursor = this.#cursor();
        const unguard = guard(this.#client);
        const { bell, end } = this.#listening();
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
            });
            saved = { position, epoch };
        };
        try {
            const start = await this.#start();
            if (start === undefined) return;
            saved = { position: start.known, epoch: start.place.epoch };
            let place = start.place;
            while (!signal?.aborted) {
                const batch = await this.#next(place);
                if (batch === undefined) break;
                for (const message of batch.messages) {
                    yield message;
                    handled = { position: message.position, epoch: message.epoch };
                    if (signal?.aborted) break;
                }
                if (signal?.aborted) break;
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
                unguard();
            }
        }
    }

    /**
     * Effectively once, where the effect is in this database: runs `effect` with a batch of messages in a transaction that also
     * advances the cursor. Two instances cannot both do a batch: the one that is late rolls back, and goes on from the cursor.
     * Works on a Pool of pg, on `postgres`, Knex, Drizzle or Prisma; `effect` gets their transaction.
     */
    async apply(effect: (tx: any, messages: FeedMessage[]) => Promise<void>): Promise<number> {
        const { signal, pollInterval = 1, untilEnd = false } = this.#options;
        const cursor = this.#cursor();
        if (cursor === undefined) throw invalid('a reader that applies needs a consumer');
        const unguard = guard(this.#client);
        const { bell, end } = this.#listening();
        let applied = 0;
        try {
            while (!signal?.aborted) {
                const start = await this.#start();
                if (start === undefined) break;
                const batch = await this.#next(start.place);
                if (batch === undefined) break;
                if (batch.end.position === start.place.position) {
                    if (untilEnd) break;
                    await bell.wait(pollInterval, signal);
                    continue;
                }
                try {
                    await transaction(this.#client, async (tx) => {
                        // First: another instance waits here, and then sees that it is late.
                        const { position, epoch } = batch.end;
                        const state = await this.#outbox.with(tx).cursorAdvance({
                            ...cursor,
                            position,
                            expectedPosition: start.known,
                            ...(epoch === null ? {} : { epoch }),
                        });
                        if (!state.advanced) throw new ConflictError('another instance was first', 'OB005');
                        if (batch.messages.length > 0) await effect(tx, batch.messages);
                    });
                    applied += batch.messages.length;
                } catch (error) {
                    const late = (error as { code?: unknown }).code === 'OB005';
                    if (!late && !isRetryable(error)) throw error;
                    if ((error as OutboxError).code !== '40001') this.#options.onError?.(error);
                    if (!late) await sleep(this.#options.backoff?.min ?? 0.1, signal);
                }
            }
        } finally {
            end();
            unguard();
        }
        return applied;
    }
}
