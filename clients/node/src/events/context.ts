/**
 * The context of a command or of an event that is being handled: correlation, causation, user, tenant. It follows the calls that
 * are made in it, and every append takes its metadata from it.
 */

import { AsyncLocalStorage } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';

/** The context in which events are appended. */
export interface EventContext {
    /** The id that all events and commands of one process of the business share. Metadata: `correlation_id`. */
    correlationId?: string;
    /** The id of the command or event that is the cause. Metadata: `causation_id`. */
    causationId?: string;
    /** Metadata: `user_id`. */
    userId?: string;
    /** The tenant of the events. It is their column, and is not in the metadata. */
    tenant?: string;
    /** Further entries of the metadata. */
    metadata?: Record<string, unknown>;
    /** The clock. Tests replace it. */
    now?: () => Date;
    /** Makes ids. The default is a random UUID. Tests replace it. */
    newId?: () => string;
}

const storage = new AsyncLocalStorage<EventContext>();

/** Returns the current context, which is empty outside of commands and handlers. */
export function currentContext(): EventContext {
    return storage.getStore() ?? {};
}

/** Runs `body` in a context. Entries that are not given are those of the context around it. */
export function withContext<T>(context: EventContext, body: () => T): T {
    const around = currentContext();
    const given = Object.fromEntries(Object.entries(context).filter(([, value]) => value !== undefined)) as EventContext;
    const metadata = { ...around.metadata, ...given.metadata };
    return storage.run({ ...around, ...given, ...(Object.keys(metadata).length > 0 ? { metadata } : {}) }, body);
}

/** Runs `body` without a context. Loops run so, because they outlive the call that starts them. */
export function withoutContext<T>(body: () => T): T {
    return storage.run({}, body);
}

/** The clock and the ids where no context says them. Tests replace them. */
let defaults: Pick<EventContext, 'now' | 'newId'> = {};

/** Replaces clock and ids where no context says them. Returns a function that undoes this. */
export function withDefaults(given: typeof defaults): () => void {
    const before = defaults;
    defaults = given;
    return () => void (defaults = before);
}

/** Returns the time of the context's clock. */
export const now = (): Date => fixedNow() ?? new Date();

/** Returns the time of a clock that was replaced. Undefined: there is none, and the server's clock counts. */
export const fixedNow = (): Date | undefined => (currentContext().now ?? defaults.now)?.();

/** Returns a new id. */
export const newId = (): string => (currentContext().newId ?? defaults.newId ?? randomUUID)();

/** Returns the context of something that an event causes: the same correlation, user and tenant, with the event as the cause. */
export function causedBy(event: { eventId: string | null; webhookId: string; tenant: string | null; metadata: Record<string, unknown> }): EventContext {
    const id = event.eventId ?? event.webhookId;
    const text = (name: string): string | undefined => (typeof event.metadata[name] === 'string' ? (event.metadata[name] as string) : undefined);
    return {
        correlationId: text('correlation_id') ?? id,
        causationId: id,
        ...(text('user_id') === undefined ? {} : { userId: text('user_id') }),
        ...(event.tenant === null ? {} : { tenant: event.tenant }),
    };
}

/** Returns the metadata that an append takes from the current context. */
export function metadataOf({ correlationId, causationId, userId, metadata }: EventContext): Record<string, unknown> {
    return {
        ...metadata,
        ...(correlationId === undefined ? {} : { correlation_id: correlationId }),
        ...(causationId === undefined ? {} : { causation_id: causationId }),
        ...(userId === undefined ? {} : { user_id: userId }),
    };
}

/** Returns a new id of an event, which is a UUID: that of the context, if it makes UUIDs. */
export function newEventId(): string {
    const id = newId();
    return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(id) ? id : randomUUID();
}
