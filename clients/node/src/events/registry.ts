/** The types of events, with the form of their data: a Standard Schema (zod, valibot, arktype), a class, or only a type of TypeScript. */

import { InvalidError } from '../client/errors.js';
import { checkTopic } from '../receive/topics.js';
import { validated, type Input, type Output, type Schema } from '../app/schema.js';
import { SchemaError } from './errors.js';

/** Any event. Applications use a union: `{ type: 'order.placed'; data: { total: number } } | { type: 'order.paid'; data: {} }`. */
export interface AnyEvent {
    type: string;
    data: any;
}

/** The data of one type of a union of events. */
export type DataOf<E extends AnyEvent, Type extends E['type']> = Extract<E, { type: Type }>['data'];

/** A class of events. Loaded data gets its methods. `fromData` makes an object of data, if the class has it. */
export interface EventClass<T = any> {
    new (...args: any[]): T;
    fromData?(data: any): T;
}

type Shape = Schema<any, any> | EventClass;
type Shapes = Record<string, Shape>;

type InputOf<S> = S extends Schema<any, any> ? Input<S> : S extends EventClass<infer T> ? T : never;
type OutputOf<S> = S extends Schema<any, any> ? Output<S> : S extends EventClass<infer T> ? T : never;

/** The events that can be appended, by the schemas of a registry. */
export type EventsIn<S extends Shapes> = { [Type in keyof S & string]: { type: Type; data: InputOf<S[Type]> } }[keyof S & string];
/** The events that are loaded, by the schemas of a registry. */
export type EventsOut<S extends Shapes> = { [Type in keyof S & string]: { type: Type; data: OutputOf<S[Type]> } }[keyof S & string];

/** Settings of a registry. */
export interface RegistryOptions {
    /** Events of types that are not registered: `map` (the default) gives their data as it is, `error` refuses them. */
    unregistered?: 'map' | 'error';
}

/** The event types of an application. {@link defineEvents} makes a typed one. */
export class EventRegistry<In extends AnyEvent = AnyEvent, Out extends AnyEvent = In> {
    /** Only for the compiler. */
    declare readonly in: In;
    /** Only for the compiler. */
    declare readonly out: Out;
    readonly #shapes = new Map<string, Shape>();
    readonly #unregistered: 'map' | 'error';

    constructor({ unregistered = 'map' }: RegistryOptions = {}) {
        this.#unregistered = unregistered;
    }

    /** Registers the schema or the class of an event type. A type can be registered once. */
    register(type: string, shape: Shape): this {
        checkTopic(type);
        if (this.#shapes.has(type)) throw new SchemaError(`event type "${type}" is registered already`, '42710');
        if (typeof shape !== 'function' && typeof (shape as Schema | undefined)?.['~standard']?.validate !== 'function') {
            throw new SchemaError(`event type "${type}" has neither a schema nor a class`, '22023');
        }
        this.#shapes.set(type, shape);
        return this;
    }

    /** The types that are registered. */
    get types(): string[] {
        return [...this.#shapes.keys()];
    }

    #shape(type: string): Shape | undefined {
        const shape = this.#shapes.get(type);
        if (shape === undefined && this.#unregistered === 'error') {
            const hint = `Registered are ${this.types.join(', ') || 'none'}.`;
            throw new SchemaError(`event type "${type}" is not registered`, '22023', { hint });
        }
        return shape;
    }

    /** Throws a SchemaError if data that is about to be appended does not have the form of its type. No value is in the error. */
    async check(type: string, data: unknown): Promise<void> {
        const shape = this.#shape(type);
        if (shape === undefined) return;
        if (isSchema(shape)) await this.#validated(shape, type, data);
        else if (!(data instanceof shape)) {
            throw new SchemaError(`the data of event "${type}" is not of class ${shape.name}`, '22023');
        }
    }

    /** Returns what the schema or the class of a type makes of stored data. */
    async decode(type: string, data: unknown): Promise<unknown> {
        const shape = this.#shape(type);
        if (shape === undefined) return data;
        if (isSchema(shape)) return this.#validated(shape, type, data);
        if (shape.fromData) return shape.fromData(data);
        // An assignment to "__proto__" would change the class of the object.
        return Object.defineProperties(Object.create(shape.prototype as object), Object.getOwnPropertyDescriptors(Object(data ?? {})));
    }

    async #validated(schema: Schema<any, any>, type: string, data: unknown): Promise<unknown> {
        try {
            return await validated(schema, type, data);
        } catch (error) {
            if (!(error instanceof InvalidError)) throw error;
            throw new SchemaError(`invalid data of event "${type}"`, '22023', { detail: error.detail });
        }
    }
}

const isSchema = (shape: Shape): shape is Schema<any, any> => '~standard' in shape;

/** Defines event types: `defineEvents({ 'order.placed': z.object({ total: z.number() }), 'order.paid': unchecked<Paid>() })`. */
export function defineEvents<const S extends Shapes>(shapes: S, options?: RegistryOptions): EventRegistry<EventsIn<S>, EventsOut<S>> {
    const registry = new EventRegistry<EventsIn<S>, EventsOut<S>>(options);
    for (const [type, shape] of Object.entries(shapes)) registry.register(type, shape);
    return registry;
}

/** The events that a registry loads: `type OrderEvent = EventsOf<typeof events>`. */
export type EventsOf<R extends EventRegistry<any, any>> = R['out'];
