/**
 * The test kit of events: given, when, and the expectation for aggregates; events for projections; a fixed clock and fixed ids. It
 * needs no server, and works with node:test, vitest and others. A failed expectation is an AssertionError.
 *
 * The last part is called `expect`, because an object with a method `then` is a promise to JavaScript.
 */

import { AssertionError } from 'node:assert';
import { isDeepStrictEqual } from 'node:util';

import type { Aggregate, AggregateClass } from './aggregate.js';
import { withContext } from './context.js';
import type { AnyEvent } from './registry.js';
import type { RecordedEvent } from './store.js';

/** A part of an expectation that is not compared for equality. */
export class Matcher {
    constructor(
        readonly description: string,
        readonly test: (actual: unknown) => boolean,
    ) {}

    toJSON(): string {
        return `<${this.description}>`;
    }
}

/** Matches everything but undefined. */
export const anything = (): any => new Matcher('anything', (actual) => actual !== undefined);
/** Matches values of a class, or of `String`, `Number`, `Boolean`. */
export const any = (of: new (...args: any[]) => unknown): any =>
    new Matcher(of.name, (actual) => actual instanceof of || (typeof actual !== 'object' && actual !== undefined && actual !== null && Object(actual) instanceof of));
/** Matches an object that has at least these properties. */
export const like = (expected: Record<string, unknown>): any =>
    new Matcher(`like ${JSON.stringify(expected)}`, (actual) =>
        typeof actual === 'object' && actual !== null && Object.entries(expected).every(([name, value]) => matches((actual as Record<string, unknown>)[name], value)),
    );
/** Matches what a function is true for. */
export const satisfying = (test: (actual: any) => boolean): any => new Matcher('satisfying', test);

/** Whether a value is as expected. Matchers may be anywhere in the expectation. */
export function matches(actual: unknown, expected: unknown): boolean {
    if (expected instanceof Matcher) return expected.test(actual);
    const plain = (value: unknown): value is Record<string, unknown> =>
        typeof value === 'object' && value !== null && [Object.prototype, Array.prototype, null].includes(Object.getPrototypeOf(value));
    if (!plain(actual) || !plain(expected)) return isDeepStrictEqual(actual, expected);
    if (Array.isArray(actual) !== Array.isArray(expected)) return false;
    const names = Object.keys(expected);
    return Object.keys(actual).length === names.length && names.every((name) => Object.hasOwn(actual, name) && matches(actual[name], expected[name]));
}

/** Throws an AssertionError unless a value is as expected. */
export function expected(what: string, actual: unknown, wanted: unknown): void {
    if (matches(actual, wanted)) return;
    const shown = (value: unknown) => JSON.stringify(value, (_, one) => (typeof one === 'bigint' ? `${one}n` : one));
    throw new AssertionError({ message: `${what}: expected ${shown(wanted)}, got ${shown(actual)}`, actual, expected: wanted, operator: 'matches' });
}

/** An event that is expected: type and data, and the metadata if it is given. */
export type ExpectedEvent<E extends AnyEvent = AnyEvent> = { type: E['type']; data: any; metadata?: any };

/** Asserts that events, loaded or raised, are these. Metadata is compared only where it is given. */
export function assertEvents(actual: readonly (AnyEvent & { metadata?: unknown })[], wanted: readonly ExpectedEvent[]): void {
    const seen = actual.map(({ type, data, metadata }, i) => (wanted[i]?.metadata === undefined ? { type, data } : { type, data, metadata }));
    expected('the events differ', seen, wanted);
}

/** An error that is expected: a class, an object whose properties it has, or a pattern of its message. */
export type ExpectedError = (abstract new (...args: any[]) => Error) | RegExp | Record<string, unknown>;

function assertError(error: unknown, wanted: ExpectedError): void {
    const told = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    const fits =
        typeof wanted === 'function'
            ? error instanceof wanted
            : wanted instanceof RegExp
              ? wanted.test(told)
              : Object.entries(wanted).every(([name, value]) => matches((error as Record<string, unknown> | undefined)?.[name], value));
    if (fits) return;
    throw new AssertionError({ message: `another error was expected than ${told}`, actual: error, expected: wanted, operator: 'expectError' });
}

/** Returns an event as it is loaded. */
export function recorded<E extends AnyEvent = AnyEvent>(event: E & { metadata?: Record<string, unknown> }, fields: Partial<RecordedEvent> = {}): RecordedEvent<E> {
    const version = fields.version ?? 1;
    return {
        stream: 'test-1', version, type: event.type, data: event.data, metadata: event.metadata ?? {}, eventId: null, position: version, messageId: version,
        webhookId: `msg_${version}`, tenant: null, occurredAt: null, recordedAt: new Date(0), redacted: false,
        ...fields,
    } as unknown as RecordedEvent<E>;
}

/** Returns events as they are loaded from one stream. */
export function recordedAll<E extends AnyEvent = AnyEvent>(events: readonly E[], fields: Partial<RecordedEvent> = {}): RecordedEvent<E>[] {
    return events.map((event, i) => recorded(event, { version: i + 1, ...fields }));
}

type EventOf<A> = A extends Aggregate<infer E> ? E : never;

/** The outcome of a decision of an aggregate. */
export class Decided<A extends Aggregate<any>> {
    readonly #outcome: Promise<{ aggregate: A; result?: unknown; error?: { thrown: unknown } }>;

    constructor(outcome: Promise<{ aggregate: A; result?: unknown; error?: { thrown: unknown } }>) {
        this.#outcome = outcome;
    }

    /** Expects that these events were raised, and none else. Returns the aggregate. */
    async expect(events: readonly ExpectedEvent<EventOf<A>>[]): Promise<A> {
        const { aggregate, error } = await this.#outcome;
        if (error !== undefined) throw error.thrown;
        assertEvents(aggregate.changes, events);
        return aggregate;
    }

    /** Expects that no event was raised. */
    expectNothing(): Promise<A> {
        return this.expect([]);
    }

    /** Expects an error, and that no event was raised. */
    async expectError(wanted: ExpectedError): Promise<void> {
        const { aggregate, error } = await this.#outcome;
        if (error === undefined) {
            throw new AssertionError({ message: 'an error was expected, and there was none', actual: aggregate.changes, expected: wanted, operator: 'expectError' });
        }
        assertError(error.thrown, wanted);
        assertEvents(aggregate.changes, []);
    }

    /** Expects the result of the decision. */
    async expectResult(wanted: unknown): Promise<void> {
        const { result, error } = await this.#outcome;
        if (error !== undefined) throw error.thrown;
        expected('the result differs', result, wanted);
    }
}

/**
 * Begins a test of an aggregate with the events that it has:
 *
 * ```ts
 * await given(Order, [{ type: 'order.placed', data: { total: 5 } }]).when((order) => order.pay()).expect([{ type: 'order.paid', data: {} }]);
 * ```
 */
export function given<A extends Aggregate<any>>(aggregate: AggregateClass<A>, events: readonly EventOf<A>[] = [], id = '1') {
    return {
        when(decide: (aggregate: A) => unknown): Decided<A> {
            const one = new aggregate(id);
            one.replay(recordedAll(events as readonly AnyEvent[], { stream: `${aggregate.category}-${id}` }));
            const decided = async () => {
                try {
                    return { aggregate: one, result: await decide(one) };
                } catch (thrown) {
                    return { aggregate: one, error: { thrown } };
                }
            };
            return new Decided(decided());
        },
    };
}

/** Runs `body` with a clock that stands still, and with ids that are counted: `id-1`, `id-2`, ... */
export function fixed<T>({ now = '2026-01-01T00:00:00Z', ids = 'id-' }: { now?: string | Date; ids?: string }, body: () => T): T {
    let count = 0;
    const at = new Date(now);
    return withContext({ now: () => new Date(at), newId: () => `${ids}${(count += 1)}` }, body);
}
