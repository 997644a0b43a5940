/** Claimed deliveries as an async iterator, for a loop instead of a handler. */

import type { Executor } from '../client/driver.js';
import { Settled, Worker, type ClaimedMessage, type HandlerContext, type WorkerOptions } from './worker.js';
import { storable, type Interval } from '../client/sql.js';

/**
 * A claimed delivery with the methods that end it. Each method resolves to whether the outcome was recorded. It is false
 * if the lease was lost.
 */
export interface Delivery {
    message: ClaimedMessage;
    /** Aborts when the lease is lost. */
    signal: AbortSignal;
    /**
     * Completes the delivery; `result` is as for a handler. Rejects without recording an outcome if `result` cannot be
     * JSON.
     */
    complete(result?: unknown): Promise<boolean>;
    /** Fails the delivery. It is retried on the subscription's schedule, or after this time. */
    fail(error: string, retryAfter?: Interval): Promise<boolean>;
    /** Dead-letters the delivery at once, because no further attempt will help. */
    dead(reason: string): Promise<boolean>;
    /** Gives the delivery back. The attempt does not count. */
    release(): Promise<boolean>;
}

/**
 * `for await (const delivery of deliveries(pool, 'invoices', { signal })) { ...; await delivery.complete(); }`
 *
 * A delivery without an outcome fails when the loop continues or ends, so only deliveries that the loop completes are
 * completed. Leaving the loop ends its worker. Deliveries that were claimed and not yet seen are given back.
 */
export async function* deliveries(
    client: Executor,
    subscription: string,
    options: WorkerOptions = {},
): AsyncGenerator<Delivery, void, void> {
    const ready: Delivery[] = [];
    const settle = new WeakMap<Delivery, (reason: string) => Promise<boolean>>();
    let wake: () => void = () => {};
    let ended = false;
    const handler = (message: ClaimedMessage, { signal }: HandlerContext): Promise<Settled> =>
        new Promise((resolve) => {
            let settled: Promise<boolean> | undefined;
            const end = (outcome: Settled['outcome']): Promise<boolean> =>
                (settled ??= new Promise((recorded) => resolve(new Settled(outcome, recorded))));
            const delivery: Delivery = {
                message,
                signal,
                complete: async (result) => end({ kind: 'complete', result: storable(result) }),
                fail: (error, retryAfter) => end({ kind: 'fail', error, ...(retryAfter === undefined ? {} : { retryAfter }) }),
                dead: (reason) => end({ kind: 'dead', reason }),
                release: () => end({ kind: 'release' }),
            };
            // A second outcome changes nothing, because `end` returns the answer of the first.
            settle.set(delivery, (reason) => end({ kind: 'fail', error: reason }));
            ready.push(delivery);
            wake();
        });
    // A loop handles one delivery at a time. More deliveries are claimed ahead only on request.
    const worker = new Worker(client, subscription, handler, { concurrency: 1, ...options });
    const running = worker.run().finally(() => {
        ended = true;
        wake();
    });
    running.catch(() => {});
    let current: Delivery | undefined;
    try {
        for (;;) {
            current = ready.shift();
            if (current !== undefined) {
                if (!current.signal.aborted) yield current;
                await settle.get(current)!('the loop went on without an outcome');
                current = undefined;
            } else if (ended) {
                break;
            } else {
                await new Promise<void>((resolve) => (wake = resolve));
            }
        }
        await running;
    } finally {
        worker.stop();
        if (current !== undefined) await settle.get(current)!('the loop ended without an outcome');
        for (const unseen of ready.splice(0)) void unseen.release();
        await running.catch(() => {});
    }
}
