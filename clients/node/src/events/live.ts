/**
 * The loop of a live projection: it begins at the end of the feed, and only its signal ends it. An event that cannot be decoded or
 * handled is told and passed over. All other errors are told and tried again after a growing wait.
 */

import { guard, type Executor } from '../client/driver.js';
import { isRetryable, OutboxError } from '../client/errors.js';
import type { EventRow } from '../client/functions.js';
import { cannotListen, listen } from '../client/listen.js';
import { Outbox } from '../client/outbox.js';
import type { Place } from '../work/reader.js';
import { Backoff, Bell, sleep } from '../work/time.js';
import type { EventStore, RecordedEvent } from './store.js';

/** A live projection: its events, and its effects. */
export interface Live {
    types?: readonly string[];
    categories?: readonly string[];
    pollInterval?: number;
    backoff?: { min?: number; max?: number };
    listen?: boolean;
    signal: AbortSignal;
    handle(events: RecordedEvent<any>[]): Promise<void>;
    /** Gets an error. The position is that of the event that is passed over; null: the loop tries again. */
    failed(error: unknown, position: number | null): void;
    /** The last call of the server succeeded. */
    connected(): void;
}

/** Follows new events until the signal aborts. */
export async function followLive(client: Executor, store: EventStore<any, any>, live: Live): Promise<void> {
    const { types, categories, pollInterval = 1, signal } = live;
    const outbox = new Outbox(client);
    const wait = new Backoff(live.backoff);
    const bell = new Bell();
    const unguard = guard(client);
    const deaf = (error: unknown) => live.failed(error, null);
    const silent = live.listen === false || cannotListen(client);
    const unlisten = silent ? () => {} : listen(client, { channel: 'outbox_feed', told: () => bell.ring(), deaf, wait: wait.min });
    const chosen = { ...(types ? { types } : {}), ...(categories ? { categories } : {}) };
    let place: Place | undefined;
    try {
        while (!signal.aborted) {
            try {
                place ??= { position: await outbox.head(), epoch: null };
                const { position, epoch }: Place = place;
                const rows = await outbox.readEvents({ ...chosen, afterPosition: position, ...(epoch === null ? {} : { epoch }) });
                live.connected();
                wait.reset();
                for (const row of rows) {
                    if (signal.aborted) return;
                    await one(client, store, row, live);
                    place = { position: row.position!, epoch: row.epoch };
                }
                if (rows.length === 0) await bell.wait(pollInterval, signal);
            } catch (error) {
                live.failed(error, null);
                // After a restore the feed may have no such position, so the loop goes on at its end.
                if (error instanceof OutboxError && error.code === 'OB009') place = undefined;
                await sleep(wait.next(), signal);
            }
        }
    } finally {
        unlisten();
        unguard();
    }
}

/** Handles one event. Only an error that may pass before the event is decoded is thrown. */
async function one(client: Executor, store: EventStore<any, any>, row: EventRow, live: Live): Promise<void> {
    let decoded = false;
    try {
        const events = await store.decode(client, [row]);
        decoded = true;
        if (events.length > 0) await live.handle(events);
    } catch (error) {
        if (!decoded && isRetryable(error)) throw error;
        live.failed(error, row.position);
    }
}
