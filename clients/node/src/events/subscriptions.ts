/**
 * Subscriptions: async iterators over all events, those of categories, or those of a stream. They read from a position on, and then
 * wait for new events, without a gap. Nothing is stored: the caller remembers the position. A projection stores it.
 */

import { guard, type Executor } from '../client/driver.js';
import { invalid, isRetryable } from '../client/errors.js';
import type { EventRow } from '../client/functions.js';
import { cannotListen, listen } from '../client/listen.js';
import { Outbox } from '../client/outbox.js';
import { Bell, positive, sleep } from '../work/time.js';
import type { AnyEvent } from './registry.js';
import type { EventStore, RecordedEvent } from './store.js';

/** Settings of a subscription. */
export interface SubscribeOptions {
    /** The position after which to begin, or the version if it is of a stream. The default is 0, the first event. */
    after?: number;
    /** Patterns of event types: `*` matches one word, `#` any number of words. */
    types?: readonly string[];
    /** Ends the iteration. */
    signal?: AbortSignal;
    /** The largest number of events that one statement reads. The default is 256. */
    buffer?: number;
    /** Seconds between polls at the end. The default is 1. With `pg_outbox.notify_readers`, NOTIFY comes earlier. */
    pollInterval?: number;
    /** How often passing errors are tried again, with this many seconds in between. The defaults are 5 and 1. */
    retry?: { attempts?: number; wait?: number };
    /** Called for errors after which the subscription tries again. */
    onError?: (error: unknown) => void;
}

/** Settings of a subscription to the events of many streams. */
export interface FeedOptions extends SubscribeOptions {
    categories?: readonly string[];
    tenant?: string;
    /** A filter as in subscriptions of the server. */
    filter?: Record<string, unknown>;
}

/** Reads the rows after a place. `end` is where to continue; it is `from` if there is nothing more yet. */
type Next<Place> = (from: Place) => Promise<{ rows: EventRow[]; end: Place; more: boolean }>;

/** Follows all events in the committed order: `for await (const event of subscribeAll(pool, store, { after: 0 })) ...`. */
export function subscribeAll<Out extends AnyEvent>(client: Executor, store: EventStore<any, Out>, options: FeedOptions = {}): AsyncGenerator<RecordedEvent<Out>, void, void> {
    const { categories, types, tenant, filter } = options;
    const chosen = { ...(categories ? { categories } : {}), ...(types ? { types } : {}), ...(tenant === undefined ? {} : { tenant }), ...(filter ? { filter } : {}) };
    const outbox = new Outbox(client);
    const maxEvents = bounded(options.buffer);
    const next: Next<{ position: number; epoch: number | null }> = async ({ position, epoch }) => {
        const rows = await outbox.readEvents({ ...chosen, afterPosition: position, maxEvents, ...(epoch === null ? {} : { epoch }) });
        const last = rows.at(-1);
        // The last row may be a marker, which only says where to continue.
        return { rows, end: last === undefined ? { position, epoch } : { position: last.position!, epoch: last.epoch }, more: last !== undefined };
    };
    return follow(client, store, options, { position: startOf(options.after), epoch: null }, next);
}

/** Follows the events of a category, for instance `order`. */
export function subscribeCategory<Out extends AnyEvent>(
    client: Executor,
    store: EventStore<any, Out>,
    category: string,
    options: Omit<FeedOptions, 'categories'> = {},
): AsyncGenerator<RecordedEvent<Out>, void, void> {
    return subscribeAll(client, store, { ...options, categories: [category] });
}

/** Follows the events of a stream after a version. */
export function subscribeStream<Out extends AnyEvent>(
    client: Executor,
    store: EventStore<any, Out>,
    stream: string,
    options: Omit<SubscribeOptions, 'types'> = {},
): AsyncGenerator<RecordedEvent<Out>, void, void> {
    const outbox = new Outbox(client);
    const maxEvents = bounded(options.buffer);
    const next: Next<number> = async (version) => {
        const rows = await outbox.load({ stream, fromVersion: version + 1, maxEvents });
        return { rows, end: rows.at(-1)?.version ?? version, more: rows.length === maxEvents };
    };
    return follow(client, store, options, startOf(options.after), next);
}

function bounded(buffer: number | undefined): number {
    const size = positive(buffer, 256, 'buffer', true);
    if (size > 10_000) throw invalid('buffer is above 10000');
    return size;
}

function startOf(after = 0): number {
    if (Number.isSafeInteger(after) && after >= 0) return after;
    throw invalid('after is not a position', { detail: `It is ${after}.`, hint: 'Positions are whole numbers; 0 is before the first.' });
}

async function* follow<Out extends AnyEvent, Place>(
    client: Executor,
    store: EventStore<any, Out>,
    options: SubscribeOptions,
    start: Place,
    next: Next<Place>,
): AsyncGenerator<RecordedEvent<Out>, void, void> {
    const { signal, onError } = options;
    const pollInterval = positive(options.pollInterval, 1, 'pollInterval');
    const attempts = positive(options.retry?.attempts, 5, 'attempts', true);
    const wait = positive(options.retry?.wait, 1, 'wait');
    const bell = new Bell();
    const unguard = guard(client);
    const told = () => bell.ring();
    const deaf = (error: unknown) => onError?.(error);
    const unlisten = cannotListen(client) ? () => {} : listen(client, { channel: 'outbox_feed', told, deaf, wait });
    let place = start;
    let failures = 0;
    try {
        while (!signal?.aborted) {
            let page: Awaited<ReturnType<Next<Place>>>;
            let events: RecordedEvent<Out>[];
            try {
                page = await next(place);
                events = await store.decode(client, page.rows);
                failures = 0;
            } catch (error) {
                failures += 1;
                if (!isRetryable(error) || failures > attempts) throw error;
                onError?.(error);
                await sleep(wait, signal);
                continue;
            }
            for (const event of events) {
                if (signal?.aborted) return;
                yield event;
            }
            place = page.end;
            if (!page.more) await bell.wait(pollInterval, signal);
        }
    } finally {
        unlisten();
        unguard();
    }
}
