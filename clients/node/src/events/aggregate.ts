/**
 * Aggregates: objects that decide, and whose state is what their events say. The methods of an aggregate raise events; handlers
 * apply them, both when they are raised and when they are loaded.
 */

import { invalid } from '../client/errors.js';
import type { AnyEvent } from './registry.js';
import { isGone, type EventExtras, type RecordedEvent } from './store.js';

/** A handler for each event type: it changes the state of the aggregate, and does nothing else. */
export type EventHandlers<E extends AnyEvent> = {
    [Type in E['type']]: (data: Extract<E, { type: Type }>['data'], event?: RecordedEvent<Extract<E, { type: Type }>>) => void;
};

/** Returns a copy of data. An object of a class is kept, because a copy would have lost its class. */
function copied(data: unknown): unknown {
    if (typeof data !== 'object' || data === null) return data;
    if (![Object.prototype, Array.prototype, null].includes(Object.getPrototypeOf(data))) return data;
    try {
        return structuredClone(data);
    } catch (cause) {
        throw invalid('the data of an event cannot be copied', { detail: cause instanceof Error ? cause.name : undefined });
    }
}

/**
 * The base class of aggregates. `E` is the union of its events.
 *
 * ```ts
 * class Order extends Aggregate<OrderEvent> {
 *     static readonly category = 'order';
 *     paid = false;
 *     readonly handlers: EventHandlers<OrderEvent> = { 'order.paid': () => { this.paid = true; } };
 *     pay() { if (!this.paid) this.raise('order.paid', {}); }
 * }
 * ```
 */
export abstract class Aggregate<E extends AnyEvent = AnyEvent> {
    readonly id: string;
    #version = 0;
    #changes: (E & EventExtras)[] = [];

    constructor(id: string) {
        this.id = id;
    }

    abstract readonly handlers: EventHandlers<E>;

    /** The version of the last event that is stored; 0: there is none. */
    get version(): number {
        return this.#version;
    }

    /** Whether the aggregate has an event, stored or raised. */
    get exists(): boolean {
        return this.#version > 0 || this.#changes.length > 0;
    }

    /** The events that were raised and are not stored yet. */
    get changes(): readonly (E & EventExtras)[] {
        return this.#changes;
    }

    /** Applies an event, and keeps it until the aggregate is saved. */
    protected raise<Type extends E['type']>(type: Type, data: Extract<E, { type: Type }>['data'], extras: EventExtras = {}): void {
        // The copy is stored, so the caller and the handler may change the object afterwards.
        const event = { type, data: copied(data), ...extras } as unknown as E & EventExtras;
        this.#apply({ ...event, data });
        this.#changes.push(event);
    }

    #apply(event: AnyEvent): void {
        const handlers = this.handlers as Record<string, (data: unknown, event: unknown) => void>;
        if (!Object.hasOwn(handlers, event.type)) {
            throw invalid(`${this.constructor.name} has no handler for event "${event.type}"`, {
                hint: 'An event that changes nothing has a handler that does nothing.',
            });
        }
        handlers[event.type]!(event.data, event);
    }

    /** Is called in place of the handler of an event that was erased on the server: its data is null. The default does nothing. */
    protected redacted(_event: RecordedEvent<E>): void {}

    /** Applies events that are stored. The repository does this. */
    replay(events: readonly RecordedEvent<any>[]): void {
        for (const event of events) {
            if (event.version !== this.#version + 1) {
                throw invalid(`${this.constructor.name} is at version ${this.#version}, and the next event is ${event.version}`, {
                    hint: 'The first events of the stream were truncated, and there is no snapshot in their place.',
                });
            }
            if (isGone(event)) this.redacted(event as RecordedEvent<E>);
            else this.#apply(event);
            this.#version = event.version;
        }
    }

    /** Sets the version up to which everything is stored, and forgets the events that were raised. The repository does this. */
    committed(version: number): void {
        this.#version = version;
        this.#changes = [];
    }

    /** Returns the state for a snapshot, as JSON. An aggregate with snapshots has this method and `restore`. */
    snapshot?(): unknown;

    /** Takes the state of a snapshot. */
    restore?(state: any): void;
}

/** The class of an aggregate. The stream of an aggregate is its category, `-` and its id. */
export interface AggregateClass<A extends Aggregate<any>> {
    new (id: string): A;
    readonly category: string;
}
