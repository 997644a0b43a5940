/**
 * The event store: appends typed events to streams and loads them, in the transaction of the caller. The server checks versions,
 * orders and stores; this file only converts.
 *
 * Order on append: schema, encryption, serializer. On load: serializer, decryption, upcasters, schema. An event whose fields are gone
 * because its key is revoked passes the upcasters, but not the schema, which would refuse the nulls. An event that was erased passes
 * none of them.
 */

import { checkSession, run, transaction, type Executor, type Session } from '../client/driver.js';
import { invalid } from '../client/errors.js';
import type { EventRow, StreamInfoRow } from '../client/functions.js';
import { Outbox } from '../client/outbox.js';
import { json } from '../client/sql.js';
import { traceEntries } from '../client/trace.js';
import { positive } from '../work/time.js';
import { currentContext, fixedNow, metadataOf, newEventId } from './context.js';
import { isEncrypted, withoutEncryption, type FieldEncryption, type Plain } from './encryption.js';
import { EncryptionError, ofStream, SchemaError } from './errors.js';
import { EventRegistry, type AnyEvent } from './registry.js';
import { JSON_TYPE, type Serializer } from './serializers.js';
import { Upcasters } from './upcasters.js';

/** An expected version: the stream may be at any version. */
export const ANY = -1;
/** An expected version: the stream does not exist yet. */
export const NO_STREAM = 0;
/** An expected version: the stream exists. */
export const STREAM_EXISTS = -2;

/** The optional parts of an event that is appended. */
export interface EventExtras {
    /** A UUID. The default is a new one. The same append again, with the same ids, is a success and writes nothing. */
    eventId?: string;
    /** Entries of the metadata, before those of the append and of the context. */
    metadata?: Record<string, unknown>;
}

/** Settings of an append, which hold for all its events. */
export interface AppendOptions {
    /** Entries of the metadata, before those of the context. */
    metadata?: Record<string, unknown>;
    headers?: Record<string, string>;
    /** The default is the tenant of the context. */
    tenant?: string;
    publisher?: string;
    occurredAt?: Date;
}

/** The outcome of an append. */
export interface Appended {
    stream: string;
    firstVersion: number;
    lastVersion: number;
    messageIds: number[];
    /** The same events, with the same ids, were there already; nothing was written. */
    repeated: boolean;
}

interface Stored {
    stream: string;
    /** The place in the stream: 1, 2, 3, ... */
    version: number;
    metadata: Record<string, unknown>;
    /** Null: another program has appended it, and gave no id. */
    eventId: string | null;
    /** The place in the feed. Null from `load`, because the event may not have its position yet. */
    position: number | null;
    messageId: number;
    webhookId: string;
    tenant: string | null;
    occurredAt: Date | null;
    recordedAt: Date;
    /** The content was erased on the server, so the data is null; or the key of its encrypted fields is revoked, so they are null. */
    redacted: boolean;
}

/** An event that was loaded. Of a union of events it is a union as well: `if (event.type === 'order.placed') event.data.total`. */
export type RecordedEvent<E extends AnyEvent = AnyEvent> = E extends AnyEvent ? Stored & { type: E['type']; data: E['data'] } : never;

/** Whether the data of an event is gone as a whole, because it was erased on the server. */
export const isGone = ({ redacted, data }: RecordedEvent<any>): boolean => redacted && data === null;

/** Is called in the transaction of each append. Inline projections are such functions. */
export type AppendHook = (tx: Session, events: RecordedEvent<any>[]) => Promise<void>;

/** Settings of an event store. */
export interface StoreOptions<In extends AnyEvent, Out extends AnyEvent> {
    /** The types of events. Without it all types are taken, and data is loaded as it is stored. */
    registry?: EventRegistry<In, Out>;
    /** Writes the data of new events. The default is JSON. */
    serializer?: Serializer;
    /** Further serializers that read events. The content type of an event chooses. */
    serializers?: readonly Serializer[];
    upcasters?: Upcasters;
    encryption?: FieldEncryption;
    /** The largest number of events that one statement loads: 1 to 10000. The default is 500. */
    pageSize?: number;
}

const ALONE = 'Begin one with transaction(pool, async (tx) => ...), or use append() of new Outbox(pool).';

/** A Null in a list of arguments is the null of SQL; this is the null of JSON. */
const JSON_NULL = { toJSON: () => null };

/** Runs `body` in a savepoint, to which its effects are rolled back if it throws. The caller may then go on, and commit. */
export async function undone<T>(tx: Session, body: () => Promise<T>): Promise<T> {
    const sql = (text: string) => run(tx, { text, values: [] });
    await sql('savepoint pg_outbox_append');
    let result: T;
    try {
        result = await body();
    } catch (error) {
        // If the connection is lost, so is the transaction.
        await sql('rollback to savepoint pg_outbox_append').catch(() => {});
        throw error;
    }
    await sql('release savepoint pg_outbox_append');
    return result;
}

/** Whether the content of an event was erased on the server. The null of JSON is a value like any other. */
const isErased = ({ data, body }: EventRow): boolean => data === undefined && body === null;

function cloned({ type, data }: AnyEvent): unknown {
    try {
        return structuredClone(data);
    } catch {
        throw new SchemaError(`the data of an event of type "${type}" cannot be copied`, '22023');
    }
}

/**
 * An event store: `new EventStore({ registry: events })`. `append` and `load` take your transaction, of any driver that `enqueue`
 * takes. `append` refuses a pool, and `load` takes one.
 */
export class EventStore<In extends AnyEvent = AnyEvent, Out extends AnyEvent = In> {
    readonly registry: EventRegistry<In, Out>;
    readonly upcasters: Upcasters;
    readonly encryption: FieldEncryption | undefined;
    readonly pageSize: number;
    readonly #serializer: Serializer | undefined;
    readonly #serializers = new Map<string, Serializer>();
    readonly #hooks = new Set<AppendHook>();

    constructor(options: StoreOptions<In, Out> = {}) {
        this.registry = options.registry ?? new EventRegistry<In, Out>();
        this.upcasters = options.upcasters ?? new Upcasters();
        this.upcasters.check();
        this.encryption = options.encryption;
        this.pageSize = positive(options.pageSize, 500, 'pageSize', true);
        if (this.pageSize > 10_000) throw invalid('pageSize is above 10000');
        this.#serializer = options.serializer?.contentType === JSON_TYPE ? undefined : options.serializer;
        for (const one of [...(options.serializers ?? []), ...(options.serializer ? [options.serializer] : [])]) {
            this.#serializers.set(one.contentType, one);
        }
    }

    /** Calls a function in the transaction of each append. Returns a function that undoes this. */
    onAppend(hook: AppendHook): () => void {
        this.#hooks.add(hook);
        return () => void this.#hooks.delete(hook);
    }

    /**
     * Appends events to a stream in your transaction, all or none, with one statement. They exist if and only if it commits.
     * Throws a ConcurrencyError if the stream is not at `expectedVersion`: {@link ANY}, {@link NO_STREAM}, {@link STREAM_EXISTS},
     * or a version.
     */
    async append(
        tx: Session,
        stream: string,
        events: readonly (In & EventExtras)[],
        expectedVersion: number,
        options: AppendOptions = {},
    ): Promise<Appended> {
        checkSession(tx, 'append', ALONE);
        return this.#append(tx, stream, events, expectedVersion, options);
    }

    /**
     * Appends events in a transaction of their own. Without inline projections, that is one statement. Throws as `append` does.
     */
    async appendAlone(
        pool: Executor,
        stream: string,
        events: readonly (In & EventExtras)[],
        expectedVersion: number,
        options: AppendOptions = {},
    ): Promise<Appended> {
        // Other effects in the same transaction: keys of subjects, and inline projections.
        const together = this.#hooks.size > 0 || this.encryption !== undefined;
        if (!together) return this.#append(pool, stream, events, expectedVersion, options);
        return transaction<Appended>(pool, (tx) => this.#append(tx as Session, stream, events, expectedVersion, options));
    }

    async #append(tx: Executor, stream: string, events: readonly (In & EventExtras)[], expectedVersion: number, options: AppendOptions): Promise<Appended> {
        if (!Number.isSafeInteger(expectedVersion)) throw invalid('expectedVersion is not a version', { detail: `It is ${expectedVersion}.` });
        if (events.length === 0) throw invalid('there are no events to append');
        const context = currentContext();
        const tenant = options.tenant ?? context.tenant ?? null;
        const common = { ...traceEntries(), ...metadataOf(context), ...options.metadata };
        const plain: Plain[] = [];
        for (const event of events) plain.push(await this.#plain(stream, event, common, tenant));
        await this.encryption?.seal(tx, plain);
        const eventIds = events.map((event) => event.eventId ?? newEventId());
        const occurredAt = options.occurredAt ?? fixedNow();
        const args = {
            stream,
            types: plain.map(({ type }) => type),
            expectedVersion,
            metadata: plain.map(({ metadata }) => (Object.keys(metadata).length === 0 ? null : metadata)),
            eventIds,
            ...(options.headers === undefined ? {} : { headers: options.headers }),
            ...(tenant === null ? {} : { tenant }),
            ...(options.publisher === undefined ? {} : { publisher: options.publisher }),
            ...(occurredAt === undefined ? {} : { occurredAt }),
        };
        if (this.#hooks.size === 0) return this.#write(new Outbox(tx), args, plain);
        return undone(tx as Session, async () => {
            const appended = await this.#write(new Outbox(tx), args, plain);
            if (appended.repeated) return appended;
            const stored = await this.load(tx, stream, appended.firstVersion);
            for (const hook of this.#hooks) await hook(tx as Session, stored);
            return appended;
        });
    }

    /** Checks an event, and returns it as it will be stored, but for the encryption. The data is a copy. */
    async #plain(stream: string, event: In & EventExtras, common: Record<string, unknown>, tenant: string | null): Promise<Plain> {
        if (typeof event !== 'object' || event === null || typeof event.type !== 'string') throw invalid('an event is an object with type and data');
        if (event.data === undefined) throw invalid(`an event of type "${event.type}" needs data`);
        await this.registry.check(event.type, event.data);
        const given = { ...common, ...event.metadata };
        this.encryption?.checkMetadata(event.type, given);
        const metadata = withoutEncryption(given);
        // Data of an earlier version would not pass the schema.
        const latest = this.upcasters.latest(event.type);
        if (latest > 1) metadata.schema_version = latest;
        // Serializers that are not JSON take bytes and dates as well.
        const data = this.#serializer === undefined ? JSON.parse(json(event.data, 'the data of an event')) : cloned(event);
        return { stream, type: event.type, data, metadata, tenant };
    }

    async #write(outbox: Outbox, args: Omit<Parameters<Outbox['appendMany']>[0], 'data'>, plain: Plain[]): Promise<Appended> {
        const serializer = this.#serializer;
        try {
            if (serializer === undefined) {
                return (await outbox.appendMany({ ...args, data: plain.map(({ data }) => data ?? JSON_NULL) })) as Appended;
            }
            const bodies = plain.map(({ type, data }) => serializer.encode(data, type));
            return (await outbox.appendBytes({ ...args, bodies, contentType: serializer.contentType })) as Appended;
        } catch (error) {
            throw ofStream(error, { stream: args.stream, expected: Number(args.expectedVersion) });
        }
    }

    /**
     * Loads a whole stream, or its events from a version on, in your transaction, or on a pool, where it sees what is committed. A stream
     * that does not exist has no events.
     */
    async load(tx: Executor, stream: string, fromVersion = 1): Promise<RecordedEvent<Out>[]> {
        const events: RecordedEvent<Out>[] = [];
        for await (const page of this.pages(tx, stream, fromVersion)) events.push(...page);
        return events;
    }

    /** Loads a stream page by page, so that a long one need not fit into memory. */
    async *pages(tx: Executor, stream: string, fromVersion = 1): AsyncGenerator<RecordedEvent<Out>[], void, void> {
        for await (const rows of this.#rows(tx, stream, fromVersion)) yield await this.decode(tx, rows);
    }

    /** Loads a stream as it is stored: not decoded, not decrypted, in the versions of the time. */
    async loadRaw(tx: Executor, stream: string, fromVersion = 1): Promise<EventRow[]> {
        const rows: EventRow[] = [];
        for await (const page of this.#rows(tx, stream, fromVersion)) rows.push(...page);
        return rows;
    }

    async *#rows(tx: Executor, stream: string, fromVersion: number): AsyncGenerator<EventRow[], void, void> {
        const outbox = new Outbox(tx);
        let from = positive(fromVersion, 1, 'fromVersion', true);
        for (;;) {
            const rows = await outbox.load({ stream, fromVersion: from, maxEvents: this.pageSize });
            if (rows.length > 0) yield rows;
            if (rows.length < this.pageSize) return;
            from = rows.at(-1)!.version! + 1;
        }
    }

    /** Returns rows of `outbox.load` and `outbox.readEvents` as events. Markers are left out. */
    async decode(client: Executor, rows: readonly EventRow[]): Promise<RecordedEvent<Out>[]> {
        const read = rows.filter((row) => row.messageId !== null);
        const erased = new Set(read.filter(isErased));
        const plain = new Map<EventRow, Plain>();
        for (const row of read) {
            const data = erased.has(row) ? null : this.#parsed(row);
            plain.set(row, { stream: row.stream!, type: row.type!, data, metadata: row.metadata ?? {}, tenant: row.tenant });
        }
        const redacted = await this.#opened(client, read.filter((row) => !erased.has(row)).map((row) => plain.get(row)!));
        const events: RecordedEvent<any>[] = [];
        for (const [row, one] of plain) {
            events.push({
                stream: one.stream, type: one.type, metadata: one.metadata, tenant: one.tenant,
                version: row.version!,
                data: erased.has(row) ? null : await this.#formed(one, redacted.has(one)),
                eventId: row.eventId,
                position: row.position,
                messageId: row.messageId!,
                webhookId: row.webhookId!,
                occurredAt: row.occurredAt,
                recordedAt: row.recordedAt!,
                redacted: erased.has(row) || redacted.has(one),
            });
        }
        return events as RecordedEvent<Out>[];
    }

    /** Decrypts events in place, and returns those of them whose fields are gone. */
    async #opened(client: Executor, events: Plain[]): Promise<Set<Plain>> {
        if (this.encryption !== undefined) return this.encryption.open(client, events);
        const locked = events.find(({ metadata }) => isEncrypted(metadata));
        if (locked === undefined) return new Set();
        const hint = 'Give the store its encryption, or call loadRaw().';
        throw new EncryptionError(`an event of type "${locked.type}" is encrypted, and the store has no encryption`, '22023', { hint });
    }

    /** Returns the data of an event in the form of its type. */
    async #formed({ type, data, metadata }: Plain, redacted: boolean): Promise<unknown> {
        const latest = this.upcasters.upcast(type, data, metadata);
        return redacted ? latest : this.registry.decode(type, latest);
    }

    #parsed({ body, contentType, data, type }: EventRow): unknown {
        if (body === null) return data;
        const serializer = this.#serializers.get(contentType ?? '');
        if (serializer === undefined) {
            throw new SchemaError(`an event of type "${type}" has content of type "${contentType}"`, '22023', {
                hint: 'Give the store a serializer for it, in "serializers", or call loadRaw().',
            });
        }
        // Serializers would return parts of a Buffer as Buffers.
        return serializer.decode(new Uint8Array(body.buffer, body.byteOffset, body.byteLength), type!);
    }

    /** Returns facts about a stream. Throws a NotFoundError if there is none. */
    streamInfo(client: Executor, stream: string): Promise<StreamInfoRow> {
        return new Outbox(client).streamInfo({ stream });
    }

    /** Returns the position of the newest event or message in the feed; 0: there is none. */
    lastPosition(client: Executor): Promise<number> {
        return new Outbox(client).head();
    }
}
