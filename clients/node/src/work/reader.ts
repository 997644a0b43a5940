/**
 * Follows the feed in order, with a cursor in the database.
 *
 * The cursor advances over a message only when the loop continues after it. A message in whose body the loop was left, or
 * whose body threw, is read again. Every advance expects the cursor where this reader left it, so a second instance is
 * detected (ConflictError).
 */

import { checkListens, guard, listen, transaction, type Executor } from '../client/driver.js';
import { ConflictError, invalid, isRetryable, type OutboxError } from '../client/errors.js';
import type { FeedMessageRow } from '../client/functions.js';
import { Outbox, withContent, type WithContent } from '../client/outbox.js';
import { Backoff, Bell, sleep } from './time.js';

/** A message at its position of the feed. */
export type FeedMessage = WithContent<FeedMessageRow>;

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
     * Lets NOTIFY wake the reader, if `pg_outbox.notify_readers` is on. This uses a connection all the time: one of a pg
     * Pool, or one that `postgres` opens.
     */
    listen?: boolean;
    /** Ends the reader at the end of the feed, instead of waiting for more messages. */
    untilEnd?: boolean;
    /** Ends the reader. Messages after which the loop has continued are confirmed. */
    signal?: AbortSignal;
    /**
     * The shortest and longest wait in seconds between attempts when server or connection fail. The defaults are 0.1 and
     * 30.
     */
    backoff?: { min?: number; max?: number };
    /** Called for errors after which the reader tries again. */
    onError?: (error: unknown) => void;
}

/** A position in the feed, with its epoch. */
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

    /** Repeats `what` until it succeeds. Returns undefined if the signal aborts first. */
    async #patiently<T>(what: () => Promise<T>): Promise<T | undefined> {
        const backoff = new Backoff(this.#options.backoff?.min ?? 0.1, this.#options.backoff?.max ?? 30);
        for (;;) {
            try {
                return await what();
            } catch (error) {
                if (!isRetryable(error)) throw error;
                // A serialization failure is normal at the isolation level `serializable` and is not reported.
                if ((error as OutboxError).code !== '40001') this.#options.onError?.(error);
                if (this.#options.signal?.aborted) return undefined;
                await sleep(backoff.next(), this.#options.signal);
                if (this.#options.signal?.aborted) return undefined;
            }
        }
    }

    /** Returns a bell that ends a wait at the end of the feed, and a function that ends listening. */
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
     * Returns the position to begin at, and the position of the cursor (0 if it does not exist yet, regardless of
     * `after`). Both come from one call, because another instance may advance the cursor between two calls.
     */
    async #start(): Promise<{ place: Place; known: number } | undefined> {
        const after = this.#options.after ?? 0;
        const cursor = this.#cursor();
        if (cursor === undefined) return { place: { position: after, epoch: null }, known: after };
        const state = await this.#patiently(() => this.#outbox.cursorGet({ ...cursor, ifMissing: 0 }));
        if (state === undefined) return undefined;
        const known = state.position ?? 0;
        // A cursor that does not exist has no time of update.
        return { place: { position: state.updatedAt === null ? after : known, epoch: state.epoch }, known };
    }

    /** Reads the messages after a position, and the position after which to continue. */
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
            // A row without a message only says after which position to continue.
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
     * Runs `effect` with a batch of messages in a transaction that also advances the cursor, so that effects in this
     * database happen effectively once. Two instances cannot both handle a batch: the later one rolls back and continues
     * from the cursor. Works on a pg Pool, on `postgres`, Knex, Drizzle or Prisma. `effect` gets their transaction.
     * Returns the number of messages.
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
                        // This comes first, so that another instance waits here and then sees that it is late.
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
