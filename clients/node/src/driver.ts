/**
 * Runs statements on the caller's client: a connection, a transaction or a pool of `pg`, `postgres`, Knex, Drizzle,
 * Prisma or any object with `query(text, values)`. No function here opens, commits or closes anything unless its comment
 * says so.
 *
 * Every value is sent as text and cast in the statement, so the type conversions of the drivers do not matter.
 */

import { randomBytes } from 'node:crypto';

import { invalid, OutboxError, typed } from './errors.js';
import { sleep } from './time.js';

/** A value of a statement. */
export type Value = string | null;

/** A statement in which `$1`, `$2`, ... are each used once and in order. */
export interface Statement {
    text: string;
    values: Value[];
}

/** A row as an object of texts. */
export type TextRow = Record<string, string | null>;

/** `pg` (Client, PoolClient, Pool), PGlite, TypeORM and all other clients with this method. */
export interface PgLike {
    query(text: string, values?: any[]): Promise<any>;
}
/** `postgres`: `sql`, or the transaction that `sql.begin` passes. */
export interface PostgresJsLike {
    unsafe(text: string, values?: any[]): PromiseLike<any>;
}
/** Knex, or a Knex transaction. */
export interface KnexLike {
    raw(text: string, values?: any): PromiseLike<any>;
}
/** Drizzle on PostgreSQL: a database, or a transaction. */
export interface DrizzleLike {
    execute(query: any): PromiseLike<any>;
}
/** Prisma: a client, or an interactive transaction. */
export interface PrismaLike {
    $queryRawUnsafe(text: string, ...values: any[]): PromiseLike<any>;
}
/** A client on which statements can run. If it is a transaction, the statements are part of that transaction. */
export type Executor = PgLike | PostgresJsLike | KnexLike | DrizzleLike | PrismaLike;

type Kind = 'prisma' | 'postgres' | 'knex' | 'drizzle' | 'pg';

function kindOf(client: unknown): Kind {
    const has = (name: string) => typeof (client as Record<string, unknown>)[name] === 'function';
    if (client !== null && (typeof client === 'object' || typeof client === 'function')) {
        if (has('$queryRawUnsafe')) return 'prisma';
        if (has('unsafe')) return 'postgres';
        if (has('raw')) return 'knex';
        if (has('query')) return 'pg';
        if (has('execute')) return 'drizzle';
    }
    throw invalid('not a client', {
        detail: `It is ${client === null ? 'null' : typeof client}.`,
        hint: 'Give a client, pool or transaction of pg, postgres, Knex, Drizzle or Prisma.',
    });
}

let drizzle: Promise<{ sql: (strings: TemplateStringsArray, ...values: unknown[]) => unknown }> | undefined;

async function drizzleQuery(statement: Statement): Promise<unknown> {
    drizzle ??= import('drizzle-orm').then(
        (module) => module as never,
        (cause) => {
            drizzle = undefined;
            throw invalid('drizzle-orm could not be loaded', {
                cause,
                hint: 'Install drizzle-orm beside pg-outbox, or run the statement of enqueueStatement() yourself.',
            });
        },
    );
    const { sql } = await drizzle;
    const parts = statement.text.split(/\$\d+/);
    return sql(Object.assign([...parts], { raw: parts }) as unknown as TemplateStringsArray, ...statement.values);
}

/** Runs a statement and returns its rows. Errors are thrown as OutboxError. */
export async function run(client: Executor, statement: Statement): Promise<TextRow[]> {
    const { text, values } = statement;
    const kind = kindOf(client);
    try {
        let result: unknown;
        switch (kind) {
            case 'prisma':
                result = await (client as PrismaLike).$queryRawUnsafe(text, ...values);
                break;
            case 'postgres':
                result = await (client as PostgresJsLike).unsafe(text, values);
                break;
            case 'knex':
                result = await (client as KnexLike).raw(text.replace(/\?/g, '\\?').replace(/\$\d+/g, '?'), values);
                break;
            case 'drizzle':
                result = await (client as DrizzleLike).execute(await drizzleQuery(statement));
                break;
            case 'pg':
                result = await (client as PgLike).query(text, values);
        }
        return (Array.isArray(result) ? result : (result as { rows: TextRow[] }).rows) as TextRow[];
    } catch (error) {
        throw typed(error);
    }
}

/**
 * Begins a transaction on a `pg` Pool, on `postgres`, Knex, Drizzle or Prisma and runs `body` in it. The transaction
 * commits if `body` returns and rolls back if `body` throws.
 */
export async function transaction<T>(client: Executor, body: (tx: any) => Promise<T>): Promise<T> {
    const c = client as any;
    try {
        switch (kindOf(client)) {
            case 'prisma':
                return await c.$transaction(body);
            case 'postgres':
                return await c.begin(body);
            case 'knex':
            case 'drizzle':
                return await c.transaction(body);
            case 'pg':
        }
    } catch (error) {
        throw typed(error);
    }
    if (typeof c.connect !== 'function' || typeof c.totalCount !== 'number') {
        throw invalid('not a pool', { hint: 'A transaction is begun on a Pool of pg, not on one of its clients.' });
    }
    let session: any;
    try {
        session = await c.connect();
    } catch (error) {
        throw typed(error);
    }
    // A connection that breaks while the body does other work must not end the process.
    const ignore = () => {};
    session.on('error', ignore);
    let broken: Error | undefined;
    try {
        await session.query('begin');
        const result = await body(session);
        await session.query('commit');
        return result;
    } catch (error) {
        await session.query('rollback').catch((e: Error) => (broken = e));
        throw typed(error);
    } finally {
        session.off('error', ignore);
        session.release(broken);
    }
}

/** Throws an error with a hint if a client cannot listen. */
export function checkListens(client: Executor): void {
    const c = client as any;
    const kind = kindOf(client);
    const pool = kind === 'pg' && typeof c.connect === 'function' && typeof c.totalCount === 'number';
    if (!pool && !(kind === 'postgres' && typeof c.listen === 'function')) {
        throw invalid('this client cannot listen', { hint: 'Give a Pool of pg, or postgres; others only poll.' });
    }
    if (pool && (c.options?.max ?? 10) < 2) {
        throw invalid('the pool is too small to listen', { hint: 'Listening keeps one of its connections: two are needed at least.' });
    }
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

const probeChannel = () => `outbox_probe_${randomBytes(8).toString('hex')}`;

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

/**
 * Listens on a channel until `signal` aborts. `told` is called for every notification with this payload (undefined: any
 * payload), and whenever the connection is opened or lost, because notifications in between are lost. If notifications do
 * not come through, `deaf` is called once and listening ends. Never throws.
 */
export function listen(
    client: Executor,
    channel: string,
    payload: string | undefined,
    told: () => void,
    signal: AbortSignal,
    waits: () => number,
    deaf: (error: OutboxError) => void,
): void {
    const hear = (said: string) => {
        if (payload === undefined || said === payload) told();
    };
    const c = client as any;
    if (kindOf(client) === 'postgres') {
        // `postgres` listens again by itself after a lost connection. Only the first call has to be retried here.
        void (async () => {
            while (!signal.aborted) {
                try {
                    if (!(await hearsPostgres(c))) return deaf(deafness());
                    const subscription = await c.listen(channel, hear, told);
                    const end = () => void Promise.resolve(subscription.unlisten()).catch(() => {});
                    if (signal.aborted) end();
                    else signal.addEventListener('abort', end, { once: true });
                    return;
                } catch {
                    await sleep(waits(), signal);
                }
            }
        })();
        return;
    }
    void (async () => {
        while (!signal.aborted) {
            try {
                const session = await c.connect();
                const ignore = () => {};
                session.on('error', ignore);
                if (!(await hears(c, session).catch((error: unknown) => (session.release(true), Promise.reject(error))))) {
                    session.off('error', ignore);
                    session.release();
                    return deaf(deafness());
                }
                const broken = await new Promise<boolean>((resolve) => {
                    const notified = (message: { channel?: string; payload?: string }) => {
                        if (message.channel === channel) hear(message.payload ?? '');
                    };
                    const lost = () => done(true);
                    const stopped = () => done(false);
                    const done = (bad: boolean) => {
                        session.off('notification', notified);
                        session.off('end', lost);
                        signal.removeEventListener('abort', stopped);
                        resolve(bad);
                    };
                    session.on('notification', notified);
                    session.on('end', lost);
                    signal.addEventListener('abort', stopped, { once: true });
                    if (signal.aborted) stopped();
                    session.query(`listen ${channel}`).then(told, lost);
                });
                // The session is not returned to the pool, because it still listens.
                session.release(true);
                if (!broken) return;
                told();
            } catch {
                // There is no connection for now.
            }
            await sleep(waits(), signal);
        }
    })();
}

/** Keeps the error event of a broken idle connection from ending the process. Returns a function that undoes this. */
export function guard(client: Executor): () => void {
    const c = client as any;
    if (kindOf(client) !== 'pg' || typeof c.on !== 'function') return () => {};
    const ignore = () => {};
    c.on('error', ignore);
    return () => c.off('error', ignore);
}
