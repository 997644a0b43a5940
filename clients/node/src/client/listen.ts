/**
 * Notifications. All workers and readers of a client share one session that listens, because a pool has few connections.
 *
 * Behind a pooler that gives each transaction another session, notifications do not arrive. This is found out before anyone
 * relies on them, and then everything polls.
 */

import { sleep } from '../work/time.js';
import { driverName, type Executor } from './driver.js';
import { invalid, OutboxError } from './errors.js';

/** Returns why a client cannot listen, or undefined if it can. */
export function cannotListen(client: Executor): OutboxError | undefined {
    const c = client as any;
    const driver = driverName(client);
    const pool = driver === 'pg' && typeof c.connect === 'function' && typeof c.totalCount === 'number';
    if (!pool && !(driver === 'postgres' && typeof c.listen === 'function')) {
        return invalid('this client cannot listen', { hint: 'Give a Pool of pg, or postgres; others only poll.' });
    }
    if (pool && (c.options?.max ?? 10) < 2) {
        return invalid('the pool is too small to listen', { hint: 'Listening keeps one of its connections: two are needed at least.' });
    }
    return undefined;
}

/** Returns the error for a client that does not get notifications. */
function deafness(): OutboxError {
    return new OutboxError('notifications do not come through this connection: it only polls', '0A000', {
        hint: 'A pooler that gives each transaction another session is before the server. Pool whole sessions, or connect directly.',
    });
}

/** Returns the result of `what`, or false if there is none within this many seconds. */
async function within(what: Promise<boolean>, seconds: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<boolean>((resolve) => (timer = setTimeout(resolve, seconds * 1000, false)));
    what.catch(() => {});
    try {
        return await Promise.race([what, late]);
    } finally {
        clearTimeout(timer);
    }
}

/** Returns the process id of the backend that answers. */
type Process = () => Promise<number>;

const WHICH = 'select pg_backend_pid() as pid';

/**
 * Returns whether two sessions each keep their backend. If a pooler shares backends between clients, the next client gets
 * the backend that was used last, or longest ago. No backend is held during the check, because other clients may make the
 * same check at the same time.
 */
async function keepTheirs(one: Process, other: Process): Promise<boolean> {
    for (let i = 0; i < 5; i += 1) {
        const ours = await one();
        if ((await other()) === ours || (await one()) !== ours) return false;
    }
    return true;
}

const probeChannel = () => `outbox_probe_${process.pid}_${Math.random().toString(36).slice(2)}`;

/**
 * Returns whether notifications of another session reach this session of a pg pool. Behind a pooler they may reach
 * nobody.
 */
async function hears(pool: any, session: any): Promise<boolean> {
    const of = (client: any): Process => async () => (await client.query(WHICH)).rows[0].pid;
    // If the backend that answers is the one that the greeting named, there is no pooler.
    if ((await of(session)()) === session.processID) return true;
    const other = await pool.connect();
    const kept = keepTheirs(of(session), of(other)).finally(() => other.release());
    // If the pooler has no free session, the other connection waits.
    if (!(await within(kept, 3))) return false;
    const channel = probeChannel();
    let notified: (message: { channel?: string }) => void = () => {};
    const heard = new Promise<boolean>((resolve) => {
        notified = (message) => {
            if (message.channel === channel) resolve(true);
        };
    });
    session.on('notification', notified);
    try {
        await session.query(`listen ${channel}`);
        // Another session sends the notification, because this session is in use while it listens.
        await pool.query('select pg_notify($1, $2)', [channel, '']);
        return await within(heard, 1);
    } finally {
        session.off('notification', notified);
        await session.query(`unlisten ${channel}`);
    }
}

/** Returns whether notifications reach a client of `postgres`, which uses one connection for all channels. */
async function hearsPostgres(sql: any): Promise<boolean> {
    if (typeof sql.reserve === 'function' && (sql.options?.max ?? 1) > 1) {
        const [one, other] = [await sql.reserve(), await sql.reserve()];
        const of = (reserved: any): Process => async () => (await reserved.unsafe(WHICH))[0].pid;
        const kept = keepTheirs(of(one), of(other)).finally(() => {
            one.release();
            other.release();
        });
        if (!(await within(kept, 3))) return false;
    }
    const channel = probeChannel();
    let probed: (came: boolean) => void = () => {};
    const heard = new Promise<boolean>((resolve) => (probed = resolve));
    const probing = await sql.listen(channel, () => probed(true));
    try {
        await sql.notify(channel, '');
        return await within(heard, 1);
    } finally {
        await probing.unlisten();
    }
}


/** A worker or reader that waits for notifications of a channel. */
export interface Listener {
    channel: string;
    /** Only notifications with this payload count. Undefined: any payload. */
    payload?: string | undefined;
    /** Called for every such notification, and when the connection is opened or lost, because then notifications may be lost. */
    told: () => void;
    /** Called once if notifications do not come through. */
    deaf: (error: OutboxError) => void;
    /** Seconds between attempts to connect. */
    wait: number;
}

/** The listening session of a client, and everything that waits for its notifications. */
class Ear {
    readonly #client: any;
    readonly #listeners = new Set<Listener>();
    /** Ends the session when nothing waits any more. */
    #ended: AbortController | undefined;
    /** Listens on another channel. Set while a session is open. */
    #listenOn: ((channel: string) => Promise<void>) | undefined;
    #deafness: OutboxError | undefined;

    constructor(client: Executor) {
        this.#client = client;
    }

    add(listener: Listener): void {
        if (this.#deafness) return listener.deaf(this.#deafness);
        this.#listeners.add(listener);
        if (this.#ended === undefined) {
            this.#ended = new AbortController();
            void this.#keep(this.#ended.signal);
        } else {
            // If this fails, the session is broken, and the next one listens on all channels.
            this.#listenOn?.(listener.channel).then(listener.told, () => {});
        }
    }

    remove(listener: Listener): void {
        this.#listeners.delete(listener);
        if (this.#listeners.size > 0) return;
        this.#ended?.abort();
        this.#ended = undefined;
    }

    #hear(channel: string, payload: string): void {
        for (const one of this.#listeners) {
            if (one.channel === channel && (one.payload === undefined || one.payload === payload)) one.told();
        }
    }

    #tellAll(): void {
        for (const one of this.#listeners) one.told();
    }

    #channels(): Set<string> {
        return new Set([...this.#listeners].map((one) => one.channel));
    }

    /** Keeps a session that listens. Never throws. */
    async #keep(signal: AbortSignal): Promise<void> {
        const postgres = driverName(this.#client) === 'postgres';
        while (!signal.aborted) {
            try {
                if (!(await (postgres ? this.#postgres(signal) : this.#pg(signal)))) {
                    const error = deafness();
                    this.#deafness = error;
                    for (const one of this.#listeners) one.deaf(error);
                    this.#listeners.clear();
                    return;
                }
            } catch {
                // There is no connection for now.
            }
            if (!signal.aborted) await sleep(Math.min(...[...this.#listeners].map((one) => one.wait), 30), signal);
        }
    }

    /** Listens until the signal aborts. `postgres` listens again by itself after a lost connection. */
    async #postgres(signal: AbortSignal): Promise<boolean> {
        if (!(await hearsPostgres(this.#client))) return false;
        const open = new Map<string, { unlisten(): Promise<void> }>();
        const listenOn = async (channel: string) => {
            if (open.has(channel)) return;
            open.set(channel, { unlisten: async () => {} });
            open.set(channel, await this.#client.listen(channel, (said: string) => this.#hear(channel, said), () => this.#tellAll()));
        };
        this.#listenOn = listenOn;
        for (const channel of this.#channels()) await listenOn(channel);
        if (!signal.aborted) await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
        if (this.#listenOn === listenOn) this.#listenOn = undefined;
        for (const subscription of open.values()) await subscription.unlisten().catch(() => {});
        return true;
    }

    /** Listens until the session breaks or the signal aborts. Returns false if notifications do not come through. */
    async #pg(signal: AbortSignal): Promise<boolean> {
        const session = await this.#client.connect();
        const ignore = () => {};
        session.on('error', ignore);
        let heard = false;
        const listenOn = (channel: string): Promise<void> => session.query(`listen ${channel}`);
        try {
            heard = await hears(this.#client, session);
            if (!heard) return false;
            await new Promise<void>((resolve) => {
                const notified = (message: { channel: string; payload?: string }) => this.#hear(message.channel, message.payload ?? '');
                session.on('notification', notified);
                session.on('end', resolve);
                signal.addEventListener('abort', () => resolve(), { once: true });
                if (signal.aborted) resolve();
                this.#listenOn = listenOn;
                Promise.all([...this.#channels()].map(listenOn)).then(() => this.#tellAll(), () => resolve());
            });
            if (!signal.aborted) this.#tellAll();
            return true;
        } finally {
            if (this.#listenOn === listenOn) this.#listenOn = undefined;
            // A session that listens is not returned to the pool. It may still break while it is closed.
            if (!heard) session.off('error', ignore);
            session.release(heard || undefined);
        }
    }
}

const ears = new WeakMap<object, Ear>();

/** Adds a listener to the session of its client. Returns a function that removes it. Never throws. */
export function listen(client: Executor, listener: Listener): () => void {
    let ear = ears.get(client);
    if (ear === undefined) ears.set(client, (ear = new Ear(client)));
    ear.add(listener);
    return () => ear.remove(listener);
}
