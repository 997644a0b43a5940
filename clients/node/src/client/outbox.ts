/** The client: `enqueue`, and every function of the schema as a method. */

import { checkSession, run, type Executor, type Session } from './driver.js';
import { FUNCTIONS, type FunctionName, type Functions, type ViewName, type Views } from './functions.js';
import { Content, enqueueManyStatement, enqueueStatement, MessageBuilder, type NewMessage } from './message.js';
import { call, camel, rowsOf, type ViewOptions } from './sql.js';
import { traced } from './trace.js';
import { checkVersion } from './version.js';

const ALONE = 'To commit the message by itself, call enqueue() of new Outbox(pool).';

async function put(client: Executor, message: NewMessage | MessageBuilder): Promise<number> {
    const rows = await run(client, enqueueStatement(traced(message)));
    return Number(rows[0]!.id);
}

async function putMany(client: Executor, messages: readonly (NewMessage | MessageBuilder)[]): Promise<number[]> {
    if (messages.length === 0) return [];
    const rows = await run(client, enqueueManyStatement(messages.map(traced)));
    return rows.map((row) => Number(row.id));
}

/**
 * Enqueues a message and returns its id. `client` is your transaction (of `pg`, `postgres`, Knex, Drizzle, Prisma, Kysely,
 * Sequelize, TypeORM or MikroORM): the message is delivered if and only if that transaction commits. A pool is refused, because
 * there the message would not be part of your transaction.
 */
export async function enqueue<T = unknown>(client: Session, message: NewMessage<T> | MessageBuilder): Promise<number> {
    checkSession(client, 'enqueue', ALONE);
    return put(client, message);
}

/** Enqueues many messages with JSON payloads in one statement of your transaction, and returns their ids in order. */
export async function enqueueMany(client: Session, messages: readonly (NewMessage | MessageBuilder)[]): Promise<number[]> {
    checkSession(client, 'enqueueMany', ALONE.replace('enqueue()', 'enqueueMany()'));
    return putMany(client, messages);
}

/** A message that was claimed or read: its columns, and json(), text(), bytes() and base64() for its content. */
export type WithContent<Row> = Row & Content;

/** Gives a row the methods of a message. */
export function withContent<Row extends object>(row: Row): WithContent<Row> {
    return Object.assign(Object.create(Content.prototype) as Content, row);
}

/**
 * All functions of the schema `outbox`, on a client, pool or transaction: `new Outbox(pool).createEndpoint({ ... })`.
 * Times are returned as Date, durations as seconds, ids and positions as numbers.
 */
export class Outbox {
    /** The client on which statements run. */
    readonly client: Executor;

    constructor(client: Executor) {
        this.client = client;
    }

    /** Returns an Outbox on another client. `outbox.with(tx)` takes part in that transaction. */
    with(client: Executor): Outbox {
        return new Outbox(client);
    }

    /** Enqueues a message and returns its id. On a pool, the message is committed by itself. */
    enqueue<T = unknown>(message: NewMessage<T> | MessageBuilder): Promise<number> {
        return put(this.client, message);
    }

    /** Enqueues many messages with JSON payloads in one statement and returns their ids in order. On a pool, it commits by itself. */
    enqueueMany(messages: readonly (NewMessage | MessageBuilder)[]): Promise<number[]> {
        return putMany(this.client, messages);
    }

    /** Throws a FatalError if the extension is missing, or if its version does not fit this client. Workers and readers do this. */
    check(): Promise<void> {
        return checkVersion(this.client);
    }

    /** Returns rows of a view or table: `list('dead_letter_status', { where: { resolution: 'open' }, limit: 20 })`. */
    list<V extends ViewName>(view: V, options?: ViewOptions<Views[V]>): Promise<Views[V][]> {
        return rowsOf(this.client, view, options);
    }
}

/** The functions of the schema as methods. `enqueue` and `enqueueMany` take messages instead of arguments. */
export interface Outbox extends Omit<Functions, 'enqueue' | 'enqueueMany' | 'enqueueBytes'> {}

for (const name of Object.keys(FUNCTIONS) as FunctionName[]) {
    const method = camel(name);
    if (method in Outbox.prototype || method === 'enqueueBytes') continue;
    Object.defineProperty(Outbox.prototype, method, {
        value(this: Outbox, args?: object): Promise<unknown> {
            return call(this.client, name, args);
        },
        configurable: true,
        writable: true,
    });
}
