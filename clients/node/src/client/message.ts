/** Messages to enqueue, and the content of messages that were read or claimed. */

import { callStatement, json } from './sql.js';
import { invalid } from './errors.js';
import type { Statement } from './driver.js';

/** A message to enqueue. `topic` and either `payload` or `body` are required; all other fields are optional. */
export interface NewMessage<T = unknown> {
    /** The topic, words separated by dots: `order.payment.completed`. */
    topic: string;
    /** A value that can be written as JSON. */
    payload?: T;
    /** Bytes or text that are stored, signed and sent unchanged, instead of a payload. */
    body?: Uint8Array | string;
    /** The type of `body`. The default is `application/octet-stream` for bytes and `text/plain; charset=utf-8` for text. */
    contentType?: string;
    /** The ordering key, which also identifies the subject of the message. */
    key?: string;
    headers?: Record<string, string>;
    metadata?: Record<string, unknown>;
    tenant?: string;
    aggregateType?: string;
    aggregateId?: string;
    /** A repeated key with the same content returns the first message's id. With another content it is a ConflictError. */
    idempotencyKey?: string;
    deliverAt?: Date | string;
    expiresAt?: Date | string;
    /** Workers get messages of higher priority first. The default is 0. */
    priority?: number;
    publisher?: string;
    maxAttempts?: number;
    occurredAt?: Date | string;
}

const OPTIONS = [
    'key',
    'headers',
    'metadata',
    'tenant',
    'aggregateType',
    'aggregateId',
    'idempotencyKey',
    'deliverAt',
    'expiresAt',
    'priority',
    'publisher',
    'maxAttempts',
    'occurredAt',
] as const;
const KNOWN = new Set<string>(['topic', 'payload', 'body', 'contentType', ...OPTIONS]);

/** A message under construction: `message('order.created').json({...}).key('order-1').set('user_id', 'u7')`. */
export class MessageBuilder {
    #fields: NewMessage;

    constructor(topic: string) {
        this.#fields = { topic };
    }

    /** Sets the payload, as JSON. */
    json(payload: unknown): this {
        const { body: _body, contentType: _type, ...rest } = this.#fields;
        this.#fields = { ...rest, payload };
        return this;
    }

    /** Sets a body of text, which is stored, signed and sent unchanged. */
    text(body: string, contentType?: string): this {
        const { payload: _payload, ...rest } = this.#fields;
        this.#fields = { ...rest, body, contentType };
        return this;
    }

    /** Sets a body of bytes, which are stored, signed and sent unchanged. */
    bytes(body: Uint8Array, contentType?: string): this {
        const { payload: _payload, ...rest } = this.#fields;
        this.#fields = { ...rest, body, contentType };
        return this;
    }

    /** Sets a body of bytes, given as base64. */
    base64(body: string, contentType?: string): this {
        return this.bytes(Buffer.from(body, 'base64'), contentType);
    }

    /** Sets the ordering key, which also identifies the subject of the message. */
    key(key: string): this {
        return this.with({ key });
    }

    /** Sets a header of the message. */
    header(name: string, value: string): this {
        return this.with({ headers: { ...this.#fields.headers, [name]: value } });
    }

    /** Sets an entry of the metadata. */
    set(name: string, value: unknown): this {
        return this.with({ metadata: { ...this.#fields.metadata, [name]: value } });
    }

    /** Returns an entry of the metadata. */
    get(name: string): unknown {
        return this.#fields.metadata?.[name];
    }

    /** Sets all other fields: tenant, deliverAt, idempotencyKey, ... */
    with(options: Omit<NewMessage, 'topic'>): this {
        this.#fields = { ...this.#fields, ...options };
        return this;
    }

    /** Returns the message. */
    build(): NewMessage {
        return { ...this.#fields };
    }
}

/** Creates a message builder. */
export function message(topic: string): MessageBuilder {
    return new MessageBuilder(topic);
}

function checked(given: NewMessage | MessageBuilder): NewMessage {
    if (given instanceof MessageBuilder) return given.build();
    if (typeof given !== 'object' || given === null) throw invalid('a message is an object with a topic');
    for (const key of Object.keys(given)) {
        if (!KNOWN.has(key)) {
            throw invalid(`a message has no "${key}"`, { hint: `It has ${[...KNOWN].join(', ')}.` });
        }
    }
    return given;
}

/**
 * Returns the statement that enqueues a message and returns its `id`, for drivers that this package does not know. Run it in
 * your transaction. Every value is text or null.
 */
export function enqueueStatement(given: NewMessage | MessageBuilder): Statement {
    const m = checked(given);
    if (typeof m.topic !== 'string') throw invalid('a message needs a topic');
    const options: Record<string, unknown> = {};
    for (const key of OPTIONS) if (m[key] !== undefined) options[key] = m[key];
    let statement: Statement;
    if (m.body !== undefined) {
        if (m.payload !== undefined) throw invalid('a message has a payload or a body, not both');
        const text = typeof m.body === 'string';
        const contentType = m.contentType ?? (text ? 'text/plain; charset=utf-8' : 'application/octet-stream');
        const body = typeof m.body === 'string' ? Buffer.from(m.body) : m.body;
        statement = callStatement('enqueue_bytes', { topic: m.topic, body, contentType, ...options });
    } else {
        if (m.payload === undefined) throw invalid('a message needs a payload or a body');
        if (m.contentType !== undefined) throw invalid('contentType is of a body; a payload is JSON');
        // JSON null is a payload, but SQL null is not.
        const payload = m.payload === null ? new Null() : m.payload;
        statement = callStatement('enqueue', { topic: m.topic, payload, ...options });
    }
    return { text: statement.text.replace('to_json(r)::text as r', 'r::text as id'), values: statement.values };
}

class Null {
    toJSON(): null {
        return null;
    }
}

/** Returns the statement that enqueues many messages with payloads and returns their ids in order, one row each. */
export function enqueueManyStatement(given: readonly (NewMessage | MessageBuilder)[]): Statement {
    const list = given.map((one, i) => {
        const m = checked(one);
        if (typeof m.topic !== 'string') throw invalid(`message ${i} needs a topic`);
        if (m.payload === undefined) throw invalid(`message ${i} needs a payload`);
        return m;
    });
    const column = (name: string, type: string, key: string) => `${name} => (m ->> '${key}')::${type}`;
    const args = [
        column('topic', 'text', 'topic'),
        `payload => m -> 'payload'`,
        column('key', 'text', 'key'),
        `headers => nullif(m -> 'headers', 'null')`,
        `metadata => nullif(m -> 'metadata', 'null')`,
        column('tenant', 'text', 'tenant'),
        column('aggregate_type', 'text', 'aggregateType'),
        column('aggregate_id', 'text', 'aggregateId'),
        column('idempotency_key', 'text', 'idempotencyKey'),
        column('deliver_at', 'timestamptz', 'deliverAt'),
        column('expires_at', 'timestamptz', 'expiresAt'),
        `priority => coalesce((m ->> 'priority')::int, 0)`,
        column('publisher', 'text', 'publisher'),
        column('max_attempts', 'int', 'maxAttempts'),
        column('occurred_at', 'timestamptz', 'occurredAt'),
    ];
    return {
        text:
            `select outbox.enqueue(${args.join(', ')})::text as id from (select e.m from ` +
            'jsonb_array_elements($1::text::jsonb) with ordinality e(m, n) order by e.n) s',
        values: [json(list, 'a message')],
    };
}

/** The methods of a message that was claimed or read. */
export class Content {
    declare payload: unknown;
    declare body: Buffer | null;
    declare contentType: string | null;
    declare metadata: Record<string, unknown> | null;

    /** Returns the payload, or the body parsed as JSON. */
    json<T = unknown>(): T {
        if (this.body === null) return this.payload as T;
        try {
            return JSON.parse(this.body.toString('utf8')) as T;
        } catch (cause) {
            throw invalid('the body is not JSON', { cause, detail: `Its content type is ${this.contentType}.` });
        }
    }

    /** Returns the body as text, or the payload as JSON text. */
    text(): string {
        return this.body === null ? JSON.stringify(this.payload) : this.body.toString('utf8');
    }

    /** Returns the body, or the payload as JSON in UTF-8. */
    bytes(): Buffer {
        return this.body ?? Buffer.from(this.text());
    }

    /** Returns the content in base64. */
    base64(): string {
        return this.bytes().toString('base64');
    }

    /** Returns an entry of the metadata. */
    get(name: string): unknown {
        return this.metadata?.[name];
    }
}
