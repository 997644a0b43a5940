/** Claimed deliveries as an async iterator, for those who rather write a loop than a handler. */

import type { Executor } from './driver.js';
import { Settled, Worker, type ClaimedMessage, type HandlerContext, type WorkerOptions } from './worker.js';
import { storable, type Interval } from './sql.js';

/** A claimed delivery, and what can become of it. Each resolves to whether it was recorded: false, if the lease was lost. */
export interface Delivery {
    message: ClaimedMessage;
    /** Aborts when the lease is lost. */
    signal: AbortSignal;
    /** Done; `result` as a handler returns it. Rejects, and nothing is said yet, if that is no JSON. */
    complete(result?: unknown): Promise<boolean>;
    /** Failed: tried again by the subscription's schedule, or after this time. */
    fail(error: string, retryAfter?: Interval): Promise<boolean>;
    /** No try will help: a dead letter at once. */
    dead(reason: string): Promise<boolean>;
    /** Given back unharmed: the try does not count. */
    release(): Promise<boolean>;
}

/**
 * `for await (const delivery of deliveries(pool, 'invoices', { signal })) { ...; await delivery.complete(); }`
 *
 * A delivery on which the loop goes on, or which it leaves, without an outcome has failed: nothing is completed that was not
 * said to be. Leaving the loop ends the worker behind it; what was claimed and not yet seen is given back.
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
            // A second outcome changes nothing: `end` gives the first one's answer.
            settle.set(delivery, (reason) => end({ kind: 'fail', error: reason }));
            ready.push(delivery);
            wake();
        });
    // One at a time is what a loop does; more are claimed ahead only if asked for.
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
