/**
 * The test kit of events: given, when, and the expectation for aggregates; events for projections; a fixed clock and fixed ids. It
 * needs no server, and works with node:test, vitest and others. A failed expectation is an AssertionError.
 *
 * The last part is called `expect`, because an object with a method `then` is a promise to JavaScript.
 */

import { AssertionError } from 'node:assert';
import { isDeepStrictEqual } from 'node:util';

import type { Aggregate, AggregateClass } from './aggregate.js';
import { withContext, withDefaults } from './context.js';
import type { AnyEvent } from './registry.js';
import type { NewMessage } from '../client/message.js';
import type { Command } from './commands.js';
import { handlerOf, SagaRun, starts, type Saga, type SagaStatus } from './sagas.js';
import { isGone, type RecordedEvent } from './store.js';

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

/** A command or a message that a saga is expected to send: those of its properties that are given. */
type Wanted = Record<string, unknown>;

/** The expectation of a test of a saga. The parts that are not given are not compared, but for commands and messages. */
export interface ExpectedSaga {
    /** The commands that were sent by the last events, each with at least these properties. The default is none. */
    commands?: readonly Wanted[];
    /** The messages that were enqueued, time-outs as well. */
    messages?: readonly Wanted[];
    status?: SagaStatus;
    state?: unknown;
    steps?: readonly { name: string; status: string }[];
    failureReason?: string | null;
}

/** The saga of a test, and what it has done. */
class SagaTest {
    row: ConstructorParameters<typeof SagaRun>[1] | undefined;
    commands: Command[] = [];
    messages: NewMessage[] = [];

    constructor(
        readonly saga: Saga<any, any>,
        readonly replies: (command: Command) => unknown,
    ) {}

    async run(body: (one: SagaRun) => void | Promise<void>): Promise<void> {
        const effects = {
            tx: undefined,
            send: async (command: Command) => {
                this.commands.push(command);
                return this.replies(command);
            },
            enqueue: async (message: NewMessage) => this.messages.push(message),
            attempt: (body: () => Promise<void>) => body(),
        };
        const one = new SagaRun(this.saga, structuredClone(this.row!), effects);
        if (one.ended) return;
        await one.handle(() => body(one));
        if (one.status === 'compensating') await one.compensate();
        this.row = { sagaId: one.id, state: one.stored, status: one.status, steps: one.steps, failureReason: one.failureReason };
    }

    async event(event: RecordedEvent<any>): Promise<void> {
        if (isGone(event)) return;
        const sagaId = this.saga.correlation(event);
        if (sagaId === undefined || sagaId === null || (this.row === undefined && !starts(this.saga, event.type))) return;
        this.row ??= { sagaId, state: { state: this.saga.initial(event) }, status: 'started', steps: null, failureReason: null };
        if (this.row.sagaId === sagaId) await this.run((one) => handlerOf(this.saga, event.type)?.(event, one));
    }

    check(wanted: ExpectedSaga): void {
        const least = (list: readonly Wanted[] = []) => list.map(like);
        expected('the commands differ', this.commands, least(wanted.commands));
        if (wanted.messages !== undefined) expected('the messages differ', this.messages, least(wanted.messages));
        const seen = { status: this.row?.status, state: this.row?.state?.state ?? {}, steps: this.row?.steps, failureReason: this.row?.failureReason };
        for (const name of ['status', 'state', 'steps', 'failureReason'] as const) {
            if (wanted[name] !== undefined) expected(`the ${name} differs`, seen[name], wanted[name]);
        }
    }
}

type EventOfSaga<S> = S extends Saga<infer E, any> ? E : never;

/**
 * Begins a test of a saga with the events that it has handled. The commands and messages of these events are not compared.
 * `replies` gives the results of commands.
 *
 * ```ts
 * await givenSaga(new Shipping(), [placed]).when(paid).expect({ commands: [{ type: 'shipment.request' }], status: 'running' });
 * ```
 */
export function givenSaga<S extends Saga<any, any>>(saga: S, events: readonly EventOfSaga<S>[] = [], replies: (command: Command) => unknown = () => undefined) {
    const test = new SagaTest(saga, replies);
    let version = 0;
    const all = async (list: readonly AnyEvent[]) => {
        for (const event of list) await test.event(recorded(event, { version: (version += 1) }));
        return test;
    };
    const ready = async () => {
        await all(events as readonly AnyEvent[]);
        test.commands = [];
        test.messages = [];
    };
    const after = (done: Promise<unknown>) => ({
        async expect(wanted: ExpectedSaga): Promise<void> {
            await done;
            test.check(wanted);
        },
        async expectError(wanted: ExpectedError): Promise<void> {
            const thrown = await done.then(() => undefined, (error: unknown) => ({ error }));
            if (thrown === undefined) throw new AssertionError({ message: 'an error was expected, and there was none', expected: wanted, operator: 'expectError' });
            assertError(thrown.error, wanted);
        },
    });
    return {
        /** Further events happen. */
        when: (...more: EventOfSaga<S>[]) => after(ready().then(() => all(more as AnyEvent[]))),
        /** A time-out is over, if the saga has set it. */
        whenTimeout: (name: string) =>
            after(
                ready().then(async () => {
                    const pending = (test.row?.state as { timeouts?: object } | undefined)?.timeouts ?? {};
                    if (!Object.hasOwn(pending, name)) return;
                    await test.run(async (one) => {
                        one.clearTimeout(name);
                        await saga.timeouts[name]!(one);
                    });
                }),
            ),
    };
}

/** A clock that stands still, and ids that are counted. */
export interface Fixed {
    /** The default is 2026-01-01T00:00:00Z. */
    now?: string | Date;
    /** The text before the number of an id. The default makes UUIDs: 00000000-0000-0000-0000-000000000001 and so on. Events need UUIDs. */
    ids?: string;
}

function fixedContext({ now = '2026-01-01T00:00:00Z', ids }: Fixed): { now: () => Date; newId: () => string } {
    let count = 0;
    const at = new Date(now);
    const numbered = (n: number) => (ids === undefined ? `00000000-0000-0000-0000-${n.toString(16).padStart(12, '0')}` : `${ids}${n}`);
    return { now: () => new Date(at), newId: () => numbered((count += 1)) };
}

/** Runs `body` with a clock that stands still, and with ids that are counted. Events that are appended have them. */
export function fixed<T>(settings: Fixed, body: () => T): T {
    return withContext(fixedContext(settings), body);
}

/** Fixes clock and ids for each test: `useFixed({ beforeEach, afterEach })`, with the hooks of node:test or vitest. */
export function useFixed(hooks: { beforeEach(body: () => void): unknown; afterEach(body: () => void): unknown }, settings: Fixed = {}): void {
    let undo = () => {};
    hooks.beforeEach(() => {
        undo = withDefaults(fixedContext(settings));
    });
    hooks.afterEach(() => undo());
}
