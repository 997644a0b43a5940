/** The client: enqueue, and every function of the schema by its name. */

import { run, type Executor } from './driver.js';
import { FUNCTIONS, type FunctionName, type Functions, type ViewName, type Views } from './functions.js';
import { Content, enqueueManyStatement, enqueueStatement, MessageBuilder, type NewMessage } from './message.js';
import { call, camel, rowsOf, type ViewOptions } from './sql.js';

/**
 * Enqueues a message and returns its id. Given a transaction (of `pg`, `postgres`, Knex, Drizzle or Prisma) it is part of it:
 * the message is delivered if and only if that transaction commits.
 */
export async function enqueue<T = unknown>(client: Executor, message: NewMessage<T> | MessageBuilder): Promise<number> {
    const rows = await run(client, enqueueStatement(message));
    return Number(rows[0]!.id);
}

/** Enqueues many messages with JSON payloads in one statement and returns their ids in order. */
export async function enqueueMany(client: Executor, messages: readonly (NewMessage | MessageBuilder)[]): Promise<number[]> {
    if (messages.length === 0) return [];
    const rows = await run(client, enqueueManyStatement(messages));
    return rows.map((row) => Number(row.id));
}

/** A message that was claimed or read: its columns, and json(), text(), bytes(), base64() of what it carries. */
export type WithContent<Row> = Row & Content;

/** Gives a row the methods of a message. */
export function withContent<Row extends object>(row: Row): WithContent<Row> {
    return Object.assign(Object.create(Content.prototype) as Content, row);
}

/**
 * Everything the schema `outbox` offers, on a client, pool or transaction: `new Outbox(pool).createEndpoint({ ... })`. Times
 * come as Date, lengths of time as seconds, ids and positions as numbers.
 */
export class Outbox {
    /** What statements run on. */
    readonly client: Executor;

    constructor(client: Executor) {
        this.client = client;
    }

    /** The same on another client: `outbox.with(tx)` takes part in that transaction. */
    with(client: Executor): Outbox {
        return new Outbox(client);
    }

    /** Enqueues a message and returns its id. */
    enqueue<T = unknown>(message: NewMessage<T> | MessageBuilder): Promise<number> {
        return enqueue(this.client, message);
    }

    /** Enqueues many messages with JSON payloads in one statement and returns their ids in order. */
    enqueueMany(messages: readonly (NewMessage | MessageBuilder)[]): Promise<number[]> {
        return enqueueMany(this.client, messages);
    }

    /** Rows of a view or table of the schema: `list('dead_letter_status', { where: { resolution: 'open' }, limit: 20 })`. */
    list<V extends ViewName>(view: V, options?: ViewOptions<Views[V]>): Promise<Views[V][]> {
        return rowsOf(this.client, view, options);
    }
}

/** The functions of the schema as methods; `enqueue` and `enqueueMany` take messages instead. */
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
