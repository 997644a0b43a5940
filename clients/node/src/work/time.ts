/** Helpers for waiting and retrying. */

import { invalid } from '../client/errors.js';

/** The longest time of a timer of Node, in milliseconds: 24.8 days. A longer one would end at once. */
const LONGEST = 2 ** 31 - 1;

/** Returns an option that is a positive number, or its default. Zero or NaN seconds would be a wait that never waits. */
export function positive(value: number | undefined, otherwise: number, what: string, whole = false): number {
    const given = value ?? otherwise;
    if (typeof given !== 'number' || !(given > 0) || !Number.isFinite(given) || (whole && !Number.isInteger(given))) {
        throw invalid(`${what} must be a positive ${whole ? 'whole number' : 'number'}`, { detail: `It is ${String(given)}.` });
    }
    return given;
}

/** Waits this many seconds, but at most 24 days, or until the signal aborts. */
export function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
        if (signal?.aborted) return resolve();
        const done = () => {
            clearTimeout(timer);
            signal?.removeEventListener('abort', done);
            resolve();
        };
        const timer = setTimeout(done, Math.min(seconds * 1000, LONGEST));
        signal?.addEventListener('abort', done, { once: true });
    });
}

/** A wait that ring() ends. A ring() while nothing waits ends the next wait at once. */
export class Bell {
    #rung = false;
    #end: () => void = () => {};

    ring(): void {
        this.#rung = true;
        this.#end();
    }

    async wait(seconds: number, signal?: AbortSignal): Promise<void> {
        if (!this.#rung) {
            const controller = new AbortController();
            this.#end = () => controller.abort();
            const stop = () => controller.abort();
            signal?.addEventListener('abort', stop, { once: true });
            if (!signal?.aborted) await sleep(seconds, controller.signal);
            signal?.removeEventListener('abort', stop);
            this.#end = () => {};
        }
        this.#rung = false;
    }
}

/** The waits between attempts. They double from `min` to `max` seconds, with jitter. reset() returns to `min`. */
export class Backoff {
    readonly min: number;
    readonly max: number;
    #wait: number;
    constructor({ min, max }: { min?: number; max?: number } = {}) {
        this.min = positive(min, 0.1, 'backoff.min');
        this.max = positive(max, 30, 'backoff.max');
        this.#wait = this.min;
    }
    /** Returns the next wait, in seconds. */
    next(): number {
        const wait = this.#wait;
        this.#wait = Math.min(wait * 2, this.max);
        return wait * (0.5 + Math.random() / 2);
    }
    reset(): void {
        this.#wait = this.min;
    }
}

/** The workers and readers that end at SIGINT and SIGTERM. The listeners of the process exist as long as there is one. */
const endings = new Set<() => void>();
const listeners = new Map<NodeJS.Signals, () => void>();
let received: NodeJS.Signals | undefined;

/**
 * Calls `stop` at the first SIGINT or SIGTERM. A second one ends the process. Returns a function that undoes this: when nothing
 * is left to be ended and nobody else listens to the signal, the process ends by it, as it would have without us.
 */
export function onShutdown(stop: () => void): () => void {
    endings.add(stop);
    for (const name of ['SIGINT', 'SIGTERM'] as const) {
        if (listeners.has(name)) continue;
        const listener = () => {
            if (received !== undefined) process.exit(name === 'SIGINT' ? 130 : 143);
            received = name;
            for (const end of endings) end();
        };
        listeners.set(name, listener);
        process.on(name, listener);
    }
    return () => {
        endings.delete(stop);
        if (endings.size > 0) return;
        for (const [name, listener] of listeners) process.off(name, listener);
        listeners.clear();
        if (received === undefined) return;
        const name = received;
        received = undefined;
        // Everything that waited for this end goes on first.
        if (process.listenerCount(name) === 0) setImmediate(() => process.kill(process.pid, name));
    };
}

/**
 * Returns a signal that SIGINT or SIGTERM aborts, for a graceful end of all that takes a signal. A second one ends the process.
 * Workers and readers without a signal of their own end gracefully by themselves.
 */
export function shutdownSignal(): AbortSignal {
    const controller = new AbortController();
    for (const name of ['SIGINT', 'SIGTERM'] as const) {
        const stop = () => {
            if (controller.signal.aborted) process.exit(name === 'SIGINT' ? 130 : 143);
            controller.abort(new Error(name));
        };
        process.on(name, stop);
    }
    return controller.signal;
}
