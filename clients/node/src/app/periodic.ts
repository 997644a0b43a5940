/**
 * Periodic messages: a message at each tick of a cron expression.
 *
 * Every process of an application computes the same ticks, and enqueues with an idempotency key that names the tick, so a tick
 * makes one message. No process has to be the leader. The clients in other languages name the ticks in the same way.
 */

import type { Executor } from '../client/driver.js';
import { invalid, isRetryable, OutboxError } from '../client/errors.js';
import { Outbox } from '../client/outbox.js';
import { Backoff, sleep } from '../work/time.js';
import type { Log } from '../work/log.js';
import type { EnqueueOptions } from './topics.js';

/** The time for which a tick that was missed is still enqueued, in seconds. It bridges a deployment or a restart. */
const CATCH_UP = 600;
/** A longer sleep would miss a change of the clock. */
const NAP = 30;

/** A message that is enqueued at each tick of a cron expression. */
export interface Periodic {
    /** Five fields (minute, hour, day of the month, month, day of the week) or a nickname such as `@daily`. */
    cron: string;
    /** The topic of the message. */
    topic: string;
    /** Returns the payload for a tick. The default is `{ tick: '2026-11-29T03:00:00Z' }`. */
    payload?: (tick: Date) => unknown;
    /** The time zone of the expression, for example `Europe/Berlin`. The default is UTC. */
    timeZone?: string;
    /** The name of the message in its idempotency keys. The default is the topic. */
    name?: string;
    /** Other fields of the message: key, tenant, priority, ... */
    options?: EnqueueOptions;
}

/** The ticks of a periodic message. */
class Ticks {
    readonly #next: (after: Date) => Date | null;

    constructor({ cron, timeZone = 'UTC' }: Periodic) {
        const { Cron } = require('croner') as typeof import('croner');
        try {
            const job = new Cron(cron, { paused: true, mode: '5-part', timezone: timeZone });
            this.#next = (after) => job.nextRun(after);
            if (this.#next(new Date(0)) === null) throw new Error('No time matches it.');
        } catch (cause) {
            throw invalid(`invalid cron expression "${cron.slice(0, 255)}"`, {
                cause,
                detail: (cause as Error).message,
                hint: 'Five fields: minute, hour, day of the month, month, day of the week. "0 3 * * *" is each day at three.',
            });
        }
    }

    /** Returns the first tick after a time. */
    next(after: Date): Date | null {
        return this.#next(after);
    }

    /** Returns the last tick that is not after a time and at most ten minutes before it. */
    missed(now: Date): Date | null {
        let last: Date | null = null;
        // At most ten, because a tick is at least a minute after the one before it.
        for (let at = this.next(new Date(now.getTime() - CATCH_UP * 1000 - 1)); at !== null && at <= now; at = this.next(at)) last = at;
        return last;
    }
}

/** Throws if the cron expression or the time zone of a periodic message is malformed. */
export function checkPeriodic(one: Periodic): void {
    void new Ticks(one);
}

const text = (tick: Date): string => tick.toISOString().replace('.000Z', 'Z');

/** Returns the idempotency key of a tick. */
export const tickKey = (name: string, tick: Date): string => `tick ${name} ${text(tick)}`;

/** Enqueues a tick. Errors are logged, because the next tick may succeed. */
async function enqueueTick(client: Executor, one: Periodic, tick: Date, log: Log, signal: AbortSignal): Promise<void> {
    const facts = { topic: one.topic, tick: tick.toISOString() };
    const backoff = new Backoff({ min: 0.2, max: 10 });
    while (!signal.aborted) {
        try {
            const payload = (await one.payload?.(tick)) ?? { tick: text(tick) };
            const idempotencyKey = tickKey(one.name ?? one.topic, tick);
            await new Outbox(client).enqueue({ ...one.options, topic: one.topic, payload, idempotencyKey });
            return log.write('info', 'periodic message enqueued', facts);
        } catch (error) {
            if (error instanceof OutboxError && error.codeName === 'idempotency_conflict') {
                return log.write('warn', 'another process has enqueued this tick, with another content', facts);
            }
            const late = Date.now() - tick.getTime() > CATCH_UP * 1000;
            if (!isRetryable(error) || late) return log.write('error', 'periodic message could not be enqueued', facts, error);
            log.again(error, facts);
            await sleep(backoff.next(), signal);
        }
    }
}

/** Enqueues the tick that was just missed, and then each tick, until the signal aborts. */
export async function keepTicking(client: Executor, one: Periodic, log: Log, signal: AbortSignal): Promise<void> {
    const ticks = new Ticks(one);
    let tick = ticks.missed(new Date()) ?? ticks.next(new Date());
    while (tick !== null && !signal.aborted) {
        for (let left = tick.getTime() - Date.now(); left > 0 && !signal.aborted; left = tick.getTime() - Date.now()) {
            await sleep(Math.min(left / 1000, NAP), signal);
        }
        if (signal.aborted) return;
        // After a sleep of the machine, no tick counts that is older than the window, and of which other processes may know.
        const oldest = new Date(Date.now() - CATCH_UP * 1000);
        if (tick < oldest) {
            log.write('warn', 'ticks of a periodic message are missed', { topic: one.topic, from: tick.toISOString() });
            tick = ticks.next(oldest);
            continue;
        }
        await enqueueTick(client, one, tick, log, signal);
        tick = ticks.next(tick);
    }
}
