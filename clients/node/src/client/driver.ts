/**
 * Runs statements on the caller's client: a connection, a transaction or a pool of a driver or ORM that is known by name. A
 * client that is not known is refused, because a wrong guess could run a statement outside of the caller's transaction. No
 * function here opens, commits or closes anything unless its comment says so.
 *
 * Every value is sent as text and cast in the statement, so the type conversions of the drivers do not matter.
 */

import { errorOf, invalid, typed } from './errors.js';

/** A value of a statement. */
export type Value = string | null;

/** A statement in which `$1`, `$2`, ... are each used once and in order. */
export interface Statement {
    text: string;
    values: Value[];
    /** The statement comes often. Where the driver and the connection allow it, the server parses and plans it once per session. */
    often?: boolean;
}

/** A row as an object of texts. */
export type TextRow = Record<string, string | null>;

/** `pg` (Client, PoolClient, Pool), TypeORM (EntityManager, QueryRunner, DataSource), or an object of your own. */
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
/** Kysely: a database, or a transaction. */
export interface KyselyLike {
    readonly isTransaction: boolean;
    executeQuery(query: any): PromiseLike<any>;
}
/** A transaction of Sequelize. */
export interface SequelizeTransactionLike {
    commit(): Promise<any>;
    rollback(): Promise<any>;
    afterCommit(hook: (transaction: any) => any): any;
}
/** Sequelize itself, for calls outside of a transaction. */
export interface SequelizeLike {
    getQueryInterface(): any;
    query(text: any, options?: any): Promise<any>;
}
/** An EntityManager of MikroORM. */
export interface MikroOrmLike {
    getTransactionContext(): any;
    getConnection(): any;
}
/** A client on which statements can run. If it is a transaction, the statements are part of that transaction. */
export type Executor =
    | PgLike
    | PostgresJsLike
    | KnexLike
    | DrizzleLike
    | PrismaLike
    | KyselyLike
    | SequelizeTransactionLike
    | SequelizeLike
    | MikroOrmLike;

/** A transaction, or a connection of the caller. Pools are refused where a message belongs to the caller's transaction. */
export type Session = Executor & { totalCount?: never; $connect?: never };

/** The transaction that a client passes to a callback. It is any if the type of the client does not say it. */
export type TransactionOf<C> = C extends { totalCount: number; connect: { (): Promise<infer Client>; (callback: any): void } }
    ? Client
    : C extends { begin: { (body: (tx: infer Tx) => any): any; (options: any, body: any): any } }
      ? Tx
      : C extends { transaction(): { execute(body: (tx: infer Tx) => any): any } }
        ? Tx
        : C extends { transaction(body: (tx: infer Tx) => any, ...rest: any[]): any }
          ? Tx
          : any;

interface Driver {
    name: string;
    knows(c: any): boolean;
    /** Returns the rows, or an object with `rows`. */
    run(c: any, statement: Statement): PromiseLike<unknown>;
    /** Returns whether a statement would commit by itself: this is a pool, and not a transaction. */
    isPool(c: any): boolean;
    /** Runs `body` in a transaction, which commits if `body` returns. Undefined on a transaction. */
    transaction?(c: any, body: (tx: any) => Promise<any>): Promise<any>;
}

const has = (c: any, ...names: string[]) => names.every((name) => typeof c[name] === 'function');
const isPgPool = (c: any) => typeof c.connect === 'function' && typeof c.totalCount === 'number';

/** The transaction of a MikroORM EntityManager, which is one of Knex (6) or Kysely (7). */
const mikroContext = (c: any) => c.getTransactionContext() ?? (has(c, 'getKnex') ? c.getKnex() : c.getKysely());

const DRIVERS: Driver[] = [
    {
        name: 'Prisma',
        knows: (c) => has(c, '$queryRawUnsafe'),
        run: (c, { text, values }) => c.$queryRawUnsafe(text, ...values),
        isPool: (c) => has(c, '$connect'),
        transaction: (c, body) => c.$transaction(body),
    },
    {
        name: 'postgres',
        knows: (c) => typeof c === 'function' && has(c, 'unsafe'),
        // With `prepare: false`, which users of poolers set, the driver prepares nothing.
        run: (c, { text, values, often = false }) => c.unsafe(text, values, { prepare: often }),
        isPool: (c) => has(c, 'begin') && !has(c, 'release'),
        transaction: (c, body) => c.begin(body),
    },
    {
        name: 'Knex',
        knows: (c) => has(c, 'raw') && 'client' in c,
        run: (c, { text, values }) => c.raw(text.replace(/\?/g, '\\?').replace(/\$\d+/g, '?'), values),
        isPool: (c) => c.isTransaction !== true,
        transaction: (c, body) => c.transaction(body),
    },
    {
        name: 'Sequelize',
        knows: (c) => has(c, 'getQueryInterface', 'query') || (has(c, 'commit', 'rollback') && has(c.sequelize ?? {}, 'query')),
        run: (c, { text, values }) => {
            const sequelize = c.sequelize ?? c;
            return sequelize.query(text, { bind: values, type: 'SELECT', ...(c === sequelize ? {} : { transaction: c }) });
        },
        isPool: (c) => has(c, 'getQueryInterface'),
        transaction: (c, body) => c.transaction(body),
    },
    {
        name: 'MikroORM',
        knows: (c) => has(c, 'getTransactionContext', 'getConnection'),
        run: (c, statement) => driverOf(mikroContext(c)).run(mikroContext(c), statement),
        isPool: (c) => !c.getTransactionContext(),
        transaction: (c, body) => c.fork().transactional(body),
    },
    {
        name: 'TypeORM',
        knows: (c) =>
            has(c, 'query') &&
            (c['@instanceof'] === Symbol.for('EntityManager') ||
                c['@instanceof'] === Symbol.for('DataSource') ||
                (typeof c.isTransactionActive === 'boolean' && has(c, 'startTransaction'))),
        run: (c, { text, values }) => c.query(text, values),
        isPool: (c) => !(c.isTransactionActive ?? c.queryRunner?.isTransactionActive),
        transaction: (c, body) => c.transaction(body),
    },
    {
        name: 'Kysely',
        knows: (c) => has(c, 'executeQuery') && typeof c.isTransaction === 'boolean',
        run: (c, { text, values }) =>
            c.executeQuery({
                sql: text,
                parameters: values,
                query: { kind: 'RawNode', sqlFragments: [text], parameters: [] },
                queryId: { queryId: '' },
            }),
        isPool: (c) => !c.isTransaction,
        transaction: (c, body) => c.transaction().execute(body),
    },
    {
        name: 'Drizzle',
        knows: (c) => has(c, 'execute') && 'dialect' in c && 'session' in c,
        run: (c, statement) => c.execute(drizzleQuery(statement)),
        isPool: (c) => !has(c, 'rollback'),
        transaction: (c, body) => c.transaction(body),
    },
    {
        name: 'pg',
        // An object that an application has made itself, with a method `query` as that of pg, is taken as well.
        knows: (c) =>
            has(c, 'query') &&
            (isPgPool(c) || 'connectionParameters' in c || [Object.prototype, null].includes(Object.getPrototypeOf(c))),
        run: (c, statement) => (statement.often ? pgOften(c, statement) : c.query(statement.text, statement.values)),
        isPool: isPgPool,
        transaction: pgTransaction,
    },
];

function driverOf(client: unknown): Driver {
    const usable = (typeof client === 'object' && client !== null) || typeof client === 'function';
    const driver = usable ? DRIVERS.find((one) => one.knows(client)) : undefined;
    if (driver !== undefined) return driver;
    const what = usable ? ((client as object).constructor?.name ?? typeof client) : client === null ? 'null' : typeof client;
    throw invalid('not a client that is known', {
        detail: `It is ${what}.`,
        hint:
            `Give a client, transaction or pool of ${DRIVERS.map((one) => one.name).join(', ')}. ` +
            'For another driver, run the statement of enqueueStatement() in your transaction.',
    });
}

/** Returns the name of the driver of a client, for instance `pg`. Throws if it is not known. */
export const driverName = (client: Executor): string => driverOf(client).name;

/** Throws if statements on this client would commit by themselves. `call` and `alone` say which call, and how it is meant. */
export function checkSession(client: Executor, call: string, alone: string): void {
    const driver = driverOf(client);
    if (!driver.isPool(client)) return;
    throw invalid(`${call}() needs a transaction`, {
        detail: `It was given ${driver.name} itself or a pool, where it would not be part of your transaction.`,
        hint: `Pass the transaction or the client in which it was begun. ${alone}`,
    });
}

let drizzle: { sql: (strings: TemplateStringsArray, ...values: unknown[]) => unknown } | undefined;

function drizzleQuery(statement: Statement): unknown {
    try {
        drizzle ??= require('drizzle-orm') as typeof drizzle;
    } catch (cause) {
        throw invalid('drizzle-orm could not be loaded', {
            cause,
            hint: 'Install drizzle-orm beside pg-outbox, or run the statement of enqueueStatement() yourself.',
        });
    }
    const parts = statement.text.split(/\$\d+/);
    return drizzle!.sql(Object.assign([...parts], { raw: parts }) as unknown as TemplateStringsArray, ...statement.values);
}

/** Runs a statement and returns its rows. Errors are thrown as OutboxError. */
export async function run(client: Executor, statement: Statement): Promise<TextRow[]> {
    const driver = driverOf(client);
    try {
        const result = await driver.run(client, statement);
        return (Array.isArray(result) ? result : (result as { rows: TextRow[] }).rows) as TextRow[];
    } catch (error) {
        throw typed(error);
    }
}

/**
 * Begins a transaction on a pool of `pg`, or on one of the other drivers, and runs `body` in it. The transaction commits if
 * `body` returns and rolls back if `body` throws.
 */
export async function transaction<T, C extends Executor = Executor>(client: C, body: (tx: TransactionOf<C>) => Promise<T>): Promise<T> {
    try {
        return await driverOf(client).transaction!(client, body);
    } catch (error) {
        throw typed(error);
    }
}

/**
 * Whether the sessions of pg are those of the server. A pooler like PgBouncer shares the sessions of the server between clients, and a
 * statement that was prepared in one of them is unknown in the next one.
 */
const direct = new WeakMap<object, boolean>();
const names = new Map<string, string>();

/** Returns the name of a prepared statement. It follows from the text, because two copies of this package may share a session. */
function nameOf(text: string): string {
    let [a, b] = [0x811c9dc5, 0x9e3779b1];
    for (let i = 0; i < text.length; i += 1) {
        a = Math.imul(a ^ text.charCodeAt(i), 0x01000193);
        b = Math.imul(b ^ text.charCodeAt(i), 0x85ebca6b);
    }
    return `pg_outbox_${(a >>> 0).toString(36)}_${(b >>> 0).toString(36)}`;
}

/** Runs a statement as a prepared one, as soon as it is known that there is no pooler in between. */
async function pgOften(client: any, statement: Statement): Promise<unknown> {
    if (!isPgPool(client)) return 'connectionParameters' in client ? pgPrepared(client, statement) : client.query(statement.text, statement.values);
    const session = await client.connect();
    // A connection that breaks must not end the process. The pool sees it when it is given back.
    const ignore = () => {};
    session.on('error', ignore);
    try {
        return await pgPrepared(session, statement);
    } finally {
        session.off('error', ignore);
        session.release();
    }
}

async function pgPrepared(client: any, { text, values }: Statement): Promise<unknown> {
    if (direct.get(client) === undefined) {
        // The first answer shows it: behind a pooler the process of the session is another one than that of the greeting.
        const first = await client.query(`select s.*, pg_catalog.pg_backend_pid()::text as "#pid" from (${text}) s`, values);
        const pid = first.rows[0]?.['#pid'];
        if (pid !== undefined) direct.set(client, pid === String(client.processID));
        return first;
    }
    if (!direct.get(client)) return client.query(text, values);
    let name = names.get(text);
    if (name === undefined) names.set(text, (name = nameOf(text)));
    try {
        return await client.query({ name, text, values });
    } catch (error) {
        // Somebody has run DISCARD ALL, or a pooler was not seen. Nothing was executed, and this session prepares nothing more.
        if ((typed(error) as { codeName?: unknown }).codeName !== 'prepared_statement_lost') throw error;
        direct.set(client, false);
        return await client.query(text, values).catch((again: { code?: unknown }) => {
            // The error has aborted the transaction of the caller, who has to see the first one.
            throw again.code === '25P02' ? error : again;
        });
    }
}

async function pgTransaction<T>(pool: any, body: (tx: any) => Promise<T>): Promise<T> {
    if (!isPgPool(pool)) {
        throw invalid('not a pool', { hint: 'A transaction is begun on a Pool of pg, not on one of its clients.' });
    }
    const session = await pool.connect();
    // A connection that breaks while the body does other work must not end the process.
    const ignore = () => {};
    session.on('error', ignore);
    let broken: Error | undefined;
    try {
        await session.query('begin');
        const result = await body(session);
        // The server answers COMMIT of a transaction that is aborted with ROLLBACK, and with no error.
        if ((await session.query('commit'))?.command === 'ROLLBACK') {
            throw errorOf('the transaction is rolled back, because an SQL error in it was caught', '25P02', {
                hint: 'To go on after an SQL error, run the statement that may fail in a savepoint.',
            });
        }
        return result;
    } catch (error) {
        await session.query('rollback').catch((e: Error) => (broken = e));
        throw error;
    } finally {
        session.off('error', ignore);
        session.release(broken);
    }
}

/** Keeps the error event of a broken idle connection from ending the process. Returns a function that undoes this. */
export function guard(client: Executor): () => void {
    const c = client as any;
    if (driverName(client) !== 'pg' || typeof c.on !== 'function') return () => {};
    const ignore = () => {};
    c.on('error', ignore);
    return () => c.off('error', ignore);
}
