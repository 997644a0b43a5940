/**
 * Sagas: processes of several steps that events move on. The state of a saga, the list of the events that it has handled, the commands
 * that it sends and the position in the feed change in one transaction. So each event is handled once, across processes and crashes.
 *
 * The states and their order are those of the server: started, running, then completed; or failed; or compensating, then compensated
 * or compensation_failed.
 */

import { checkPattern, checkTopic, topicMatches } from '../receive/topics.js';
import { run, transaction, type Executor } from '../client/driver.js';
import { isRetryable, OutboxError, typed } from '../client/errors.js';
import type { SagaStateRow } from '../client/functions.js';
import type { NewMessage } from '../client/message.js';
import { Outbox } from '../client/outbox.js';
import { Log } from '../work/log.js';
import type { ReaderHealth } from '../work/reader.js';
import { Backoff, onShutdown, sleep } from '../work/time.js';
import { Worker, type ClaimedMessage } from '../work/worker.js';
import type { Command, CommandBus } from './commands.js';
import { causedBy, currentContext, metadataOf, now, withContext, withoutContext } from './context.js';
import { isOwn, SagaError, told } from './errors.js';
import { ProjectionEngine, type ProjectionOptions, type ProjectionStatus } from './projections.js';
import type { AnyEvent } from './registry.js';
import { isConflict, retrying } from './retry.js';
import { isGone, type EventStore, type RecordedEvent } from './store.js';

/** The state of a saga in the database. */
export type SagaStatus = SagaStateRow['status'];

/** The handlers of a saga, by event type or by a pattern of types. The handler of a type comes before one of a pattern. */
export type SagaHandlers<E extends AnyEvent, State> = {
    [Type in E['type']]?: (event: RecordedEvent<Extract<E, { type: Type }>>, saga: SagaContext<State>) => void | Promise<void>;
};

/** A step of a saga. `compensate` undoes a step that is completed: it sends the command that takes it back. */
export interface SagaStep<State> {
    name: string;
    compensate?(saga: SagaContext<State>): void | Promise<void>;
}

/** A saga that is handling an event. */
export interface SagaContext<State = any> {
    readonly id: string;
    /** The state, which handlers change. It is stored as JSON. */
    state: State;
    readonly status: SagaStatus;
    /** The transaction. */
    readonly tx: any;
    /** Dispatches a command in this transaction, and returns its result. */
    send(command: Command): Promise<unknown>;
    /** Enqueues a message in this transaction, for a worker or a webhook. Returns its id. */
    enqueue(message: NewMessage): Promise<number>;
    /** Marks a step as completed; the next one is then running. */
    completeStep(name: string): void;
    /** Ends the saga: all is done. */
    complete(): void;
    /** Gives up: the steps that are completed are compensated, the last one first. */
    fail(reason: string): void;
    /** Calls the handler of this time-out after so many seconds or at a time, unless it is cleared before, or set again. */
    timeout(name: string, at: number | Date): Promise<void>;
    clearTimeout(name: string): void;
}

/**
 * The base class of sagas. `E` is the union of the events that it handles.
 *
 * ```ts
 * class Shipping extends Saga<OrderEvent, { paid: boolean }> {
 *     readonly name = 'shipping';
 *     readonly startedBy = ['order.placed'] as const;
 *     readonly handlers: SagaHandlers<OrderEvent, { paid: boolean }> = { 'order.paid': (event, saga) => saga.complete() };
 *     correlation(event: RecordedEvent<OrderEvent>) { return event.stream; }
 *     initial() { return { paid: false }; }
 * }
 * ```
 */
export abstract class Saga<E extends AnyEvent = AnyEvent, State extends object = Record<string, any>> {
    /** The type of the saga: a word of a topic. */
    abstract readonly name: string;
    /** The events that start a saga, if there is none with their correlation. */
    abstract readonly startedBy: readonly E['type'][];
    abstract readonly handlers: SagaHandlers<E, State>;
    readonly steps: readonly SagaStep<State>[] = [];
    /** The handlers of time-outs, by their names. */
    readonly timeouts: Record<string, (saga: SagaContext<State>) => void | Promise<void>> = {};

    /**
     * Returns the id of the saga that an event belongs to. Undefined: it belongs to none. If the saga has ended, an event that starts one
     * starts another, whose id is this one, `#` and the id of the event's message. An event that was erased belongs to none.
     */
    abstract correlation(event: RecordedEvent<E>): string | undefined;
    /** Returns the state of a saga that begins. */
    abstract initial(event: RecordedEvent<E>): State;
}

/** The effects of a saga on the world. The test kit collects them. */
export interface SagaEffects {
    readonly tx: any;
    send(command: Command): Promise<unknown>;
    enqueue(message: NewMessage): Promise<number>;
    /** Runs `body` in a savepoint, to which its effects are rolled back if it throws. */
    attempt(body: () => Promise<void>): Promise<void>;
}

interface Step {
    name: string;
    status: 'pending' | 'running' | 'completed' | 'failed' | 'compensated';
}

/** The state of a saga as it is stored. All clients store it like this. */
interface StoredState {
    state: object;
    /** The ids of the messages of time-outs that are pending, by name. */
    timeouts: Record<string, number>;
}

/** Returns the handler of an event type. */
export function handlerOf(saga: Saga<any, any>, type: string): ((event: any, saga: any) => void | Promise<void>) | undefined {
    const handlers = saga.handlers as Record<string, (event: any, saga: any) => void | Promise<void>>;
    const name = Object.hasOwn(handlers, type) ? type : Object.keys(handlers).find((pattern) => topicMatches(pattern, type));
    return name === undefined ? undefined : handlers[name]!.bind(handlers);
}

/** Whether an event type starts a saga. */
export const starts = (saga: Saga<any, any>, type: string): boolean => saga.startedBy.some((pattern) => topicMatches(pattern, type));

const topicOf = (saga: string): string => `saga.timeout.${saga}`;
const ENDED: readonly string[] = ['completed', 'failed', 'compensated', 'compensation_failed'];

/** A saga in memory. It changes as the handlers say, and knows what to store. */
export class SagaRun implements SagaContext {
    readonly id: string;
    readonly #saga: Saga<any, any>;
    readonly #effects: SagaEffects;
    state: any;
    status: SagaStatus;
    failureReason: string | null;
    readonly steps: Step[];
    readonly pending: Record<string, number>;
    #failing = false;

    constructor(saga: Saga<any, any>, row: Pick<SagaStateRow, 'sagaId' | 'state' | 'status' | 'steps' | 'failureReason'>, effects: SagaEffects) {
        const { state, timeouts } = (row.state ?? {}) as Partial<StoredState>;
        this.#saga = saga;
        this.#effects = effects;
        this.id = row.sagaId;
        this.state = state ?? {};
        this.status = row.status;
        this.failureReason = row.failureReason;
        this.steps = row.steps ?? saga.steps.map(({ name }, i) => ({ name, status: i === 0 ? 'running' : 'pending' }));
        this.pending = timeouts ?? {};
    }

    get tx(): any {
        return this.#effects.tx;
    }

    get ended(): boolean {
        return ENDED.includes(this.status);
    }

    /** The state as it is stored. */
    get stored(): StoredState {
        return { state: this.state, timeouts: this.pending };
    }

    /** The number of the first step that is not completed. */
    get step(): number {
        const open = this.steps.findIndex(({ status }) => status !== 'completed');
        return open === -1 ? Math.max(this.steps.length - 1, 0) : open;
    }

    send(command: Command): Promise<unknown> {
        return this.#effects.send(command);
    }

    enqueue(message: NewMessage): Promise<number> {
        return this.#effects.enqueue(message);
    }

    completeStep(name: string): void {
        const step = this.steps.find((one) => one.name === name);
        if (step === undefined) throw new SagaError(`saga "${this.#saga.name}" has no step "${name}"`, '42704');
        step.status = 'completed';
        const next = this.steps[this.step];
        if (next?.status === 'pending') next.status = 'running';
    }

    complete(): void {
        this.status = 'completed';
        for (const step of this.steps) if (step.status === 'running') step.status = 'completed';
    }

    fail(reason: string): void {
        this.failureReason = reason;
        this.#failing = true;
    }

    async timeout(name: string, at: number | Date): Promise<void> {
        if (!Object.hasOwn(this.#saga.timeouts, name)) throw new SagaError(`saga "${this.#saga.name}" has no time-out "${name}"`, '42704');
        const deliverAt = typeof at === 'number' ? new Date(now().getTime() + at * 1000) : at;
        if (Number.isNaN(deliverAt.getTime())) throw new SagaError(`time-out "${name}" of saga "${this.#saga.name}" has no time, or one that is too far away`, '22023');
        const payload = { saga_type: this.#saga.name, saga_id: this.id, name };
        this.pending[name] = await this.enqueue({ topic: topicOf(this.#saga.name), payload, key: this.id, deliverAt });
    }

    clearTimeout(name: string): void {
        delete this.pending[name];
    }

    /** Runs a handler. Afterwards the saga is running, or has ended. */
    async handle(body: () => void | Promise<void>): Promise<void> {
        if (this.status === 'started') this.status = 'running';
        await body();
        if (!this.#failing) return;
        for (const step of this.steps) if (step.status === 'running') step.status = 'failed';
        if (this.steps.some(({ status }) => status === 'completed')) this.status = 'compensating';
        else this.status = 'failed';
    }

    /** Compensates the steps that are completed, the last one first. A step whose compensation fails ends this. */
    async compensate(): Promise<void> {
        for (const step of this.steps.toReversed()) {
            if (step.status !== 'completed') continue;
            const { compensate } = this.#saga.steps.find(({ name }) => name === step.name) ?? {};
            try {
                await this.#effects.attempt(async () => void (await compensate?.(this)));
                step.status = 'compensated';
            } catch (error) {
                if (isConflict(error) || isRetryable(error)) throw error;
                this.status = 'compensation_failed';
                this.failureReason = `${this.failureReason ?? ''}; step ${step.name}: ${told(error)}`.slice(0, 4000);
                return;
            }
        }
        this.status = 'compensated';
    }
}

/** The saga of a time-out was deleted. */
class SagaGoneError extends SagaError {}

/** Returns a message with the tenant and the ids of the context: those of the event or time-out that a saga handles. */
function inContext(message: NewMessage): NewMessage {
    const context = currentContext();
    const tenant = message.tenant ?? context.tenant;
    return { ...message, metadata: { ...metadataOf(context), ...message.metadata }, ...(tenant === undefined ? {} : { tenant }) };
}

/** Settings of a manager. */
export interface SagaOptions extends ProjectionOptions {
    /** Dispatches the commands that sagas send. */
    bus?: CommandBus<any, any>;
    /**
     * Creates the subscription of the time-outs at the start, which needs the capability admin: without it, or with false, the
     * subscription of a migration is used as it is. The default is true.
     */
    ensure?: boolean;
}

/** Runs sagas: `new SagaManager(pool, store, { bus }).register(new Shipping()).run()`. */
export class SagaManager<C extends Executor = Executor> {
    readonly #client: C;
    readonly #options: SagaOptions;
    readonly #engine: ProjectionEngine<C, any>;
    readonly #sagas = new Map<string, Saga<any, any>>();
    readonly #workers: Worker[] = [];
    readonly #log: Log;

    constructor(client: C, store: EventStore<any, any>, options: SagaOptions = {}) {
        this.#client = client;
        this.#options = options;
        this.#engine = new ProjectionEngine<C, any>(client, store, options);
        this.#log = new Log(options.logger, options.onError !== undefined);
    }

    /** Registers a saga. A new one begins with the first event of the feed. */
    register(saga: Saga<any, any>): this {
        checkTopic(topicOf(saga.name));
        for (const type of [...Object.keys(saga.handlers), ...saga.startedBy]) checkPattern(type);
        if (this.#sagas.has(saga.name)) throw new SagaError(`there are two sagas "${saga.name}"`, '42710');
        const names = saga.steps.map(({ name }) => name);
        if (new Set(names).size !== names.length) throw new SagaError(`saga "${saga.name}" has two steps of one name`, '42710');
        const types = [...new Set([...Object.keys(saga.handlers), ...saga.startedBy])];
        const handle = async (tx: any, events: RecordedEvent<any>[]) => {
            for (const event of events) await this.#event(tx, saga, event);
        };
        this.#engine.register({ name: saga.name, consumer: consumerOf(saga.name), types, handle });
        this.#sagas.set(saga.name, saga);
        return this;
    }

    /** Handles all events that there are, and returns their number. Time-outs are not concerned. An error of a handler is thrown. */
    catchUp(name: string): Promise<number> {
        return this.#engine.catchUp(name);
    }

    /** Returns how far a saga type is in the feed, and the error that it has met. */
    status(name: string): Promise<ProjectionStatus> {
        return this.#engine.status(name);
    }

    /** How the sagas of this process fare, and the workers of their time-outs. A worker application tells it on its health port. */
    get health(): ReaderHealth[] {
        const workers = this.#workers.map((worker): ReaderHealth => {
            const { subscription, ok, summary } = worker.health;
            return { consumer: subscription, ok, connected: ok, failingPosition: null, applied: summary.completed };
        });
        return [...this.#engine.health, ...workers];
    }

    /** Runs all sagas until the signal aborts, or until SIGINT or SIGTERM. Rejects with errors that trying again does not solve. */
    async run({ signal }: { signal?: AbortSignal } = {}): Promise<void> {
        const ended = new AbortController();
        const stop = () => ended.abort();
        if (signal?.aborted) return;
        signal?.addEventListener('abort', stop, { once: true });
        const undo = signal === undefined ? onShutdown(stop) : () => {};
        try {
            const timed = [...this.#sagas.values()].filter(({ timeouts }) => Object.keys(timeouts).length > 0);
            // Each of them ends the others.
            const workers = timed.map((saga) => withoutContext(() => this.#timeouts(saga, ended.signal)).finally(stop));
            const engine = this.#engine.run({ signal: ended.signal }).finally(stop);
            const results = await Promise.allSettled([engine, ...workers]);
            const failed = results.find((one) => one.status === 'rejected');
            if (failed) throw failed.reason;
        } finally {
            this.#workers.length = 0;
            undo();
            signal?.removeEventListener('abort', stop);
        }
    }

    /** Creates or alters the subscription of the time-outs, as soon as the server answers. */
    async #ensure(name: string, topic: string, signal: AbortSignal): Promise<void> {
        if (this.#options.ensure === false) return;
        const wait = new Backoff(this.#options.backoff);
        while (!signal.aborted) {
            try {
                return void (await new Outbox(this.#client).ensureSubscription({ name, topics: [topic] }));
            } catch (error) {
                if (error instanceof OutboxError && error.codeName === 'insufficient_privilege') {
                    const hint = 'ensureSubscription() in a migration, with "ensure: false" here';
                    return this.#log.write('warn', `the subscription is left as it is: ${error.message}`, { subscription: name, hint });
                }
                if (!isRetryable(error)) throw error;
                this.#log.again(error, { subscription: name });
                await sleep(wait.next(), signal);
            }
        }
    }

    async #timeouts(saga: Saga<any, any>, signal: AbortSignal): Promise<void> {
        const subscription = `saga ${saga.name} time-outs`;
        await this.#ensure(subscription, topicOf(saga.name), signal);
        const { pollInterval, backoff, listen, logger } = this.#options;
        const settings = { signal, pollInterval, backoff, listen, logger, onError: (error: unknown) => this.#options.onError?.(error, saga.name) };
        const worker = new Worker(this.#client, subscription, (message, context) => this.#timeout(saga, message, context.signal), settings);
        this.#workers.push(worker);
        await worker.run();
    }

    async #timeout(saga: Saga<any, any>, message: ClaimedMessage, signal: AbortSignal): Promise<void> {
        const { saga_type: type, saga_id: id, name } = message.json<Record<string, unknown>>() ?? {};
        if (type !== saga.name || typeof id !== 'string' || typeof name !== 'string' || !Object.hasOwn(saga.timeouts, name)) return;
        const about = { eventId: null, webhookId: message.webhookId, tenant: message.tenant, metadata: message.metadata ?? {} };
        const handle = (tx: Executor) => this.#handle(tx, saga, id, message.messageId, async (one) => {
            // A time-out that was cleared, or set again, is still delivered.
            if (one.pending[name] !== message.messageId) return;
            one.clearTimeout(name);
            await saga.timeouts[name]!(one);
        });
        try {
            // After a conflict it is handled again with the state of then, and no attempt of the delivery is used up.
            await retrying({}, () => transaction<void>(this.#client, (tx) => withContext(causedBy(about), () => handle(tx as Executor))), signal);
        } catch (error) {
            if (error instanceof SagaGoneError) return;
            // The worker stores and logs the text of the error, and that of the server or a driver may quote data.
            const known = typed(error);
            throw known instanceof OutboxError && !isOwn(known) ? new SagaError(told(error), known.code) : error;
        }
    }

    #effects(tx: Executor): SagaEffects {
        const sql = (text: string) => run(tx, { text, values: [] });
        return {
            tx,
            send: async (command) => {
                if (this.#options.bus === undefined) throw new SagaError('a saga sends commands, and its manager has no bus', '55000');
                return this.#options.bus.dispatch(command, { tx: tx as any });
            },
            enqueue: (message) => new Outbox(tx).enqueue(inContext(message)),
            attempt: async (body) => {
                await sql('savepoint pg_outbox_saga');
                try {
                    await body();
                    await sql('release savepoint pg_outbox_saga');
                } catch (error) {
                    await sql('rollback to savepoint pg_outbox_saga');
                    throw error;
                }
            },
        };
    }

    async #event(tx: Executor, saga: Saga<any, any>, event: RecordedEvent<any>): Promise<void> {
        if (isGone(event)) return;
        const correlation = saga.correlation(event);
        // The field that it comes from may be null, because its key is revoked.
        if (correlation === undefined || correlation === null) return;
        await withContext(causedBy(event), async () => {
            const [known] = await new Outbox(tx).sagaFind({ sagaType: saga.name, correlationId: correlation });
            const id = known !== undefined && !ENDED.includes(known.status) ? known.sagaId : await this.#begin(tx, saga, correlation, event, known);
            if (id !== undefined) await this.#handle(tx, saga, id, event.messageId, (one) => handlerOf(saga, event.type)?.(event, one));
        });
    }

    /** Starts a saga and returns its id. Undefined: the event starts none, or did so before. `ended` is the last one of the correlation. */
    async #begin(tx: Executor, saga: Saga<any, any>, correlationId: string, event: RecordedEvent<any>, ended?: SagaStateRow): Promise<string | undefined> {
        if (!starts(saga, event.type)) return undefined;
        const outbox = new Outbox(tx);
        const { messageId } = event;
        if (ended !== undefined && (await this.#knows(tx, saga, [correlationId, ended.sagaId], messageId))) return undefined;
        const sagaId = ended === undefined ? correlationId : `${correlationId}#${messageId}`;
        const row = { sagaId, state: { state: saga.initial(event) }, status: 'started' as const, steps: null, failureReason: null };
        const { stored: state, steps } = new SagaRun(saga, row, this.#effects(tx));
        try {
            const start = { sagaType: saga.name, sagaId, state, expectedVersion: 0, correlationId, steps, status: 'started' as const };
            await this.#effects(tx).attempt(async () => void (await outbox.sagaSave(start)));
        } catch (error) {
            // The cursor was set back, and the event has started this saga before.
            if (ended !== undefined && error instanceof OutboxError && error.code === 'OB013') return undefined;
            throw error;
        }
        return sagaId;
    }

    /** Whether one of these sagas has handled an event. One of them may be deleted. */
    async #knows(tx: Executor, saga: Saga<any, any>, ids: readonly string[], messageId: number): Promise<boolean> {
        let known = false;
        for (const sagaId of new Set(ids)) {
            try {
                await this.#effects(tx).attempt(async () => {
                    known ||= !(await new Outbox(tx).sagaHandle({ sagaType: saga.name, sagaId, messageId }));
                });
            } catch (error) {
                if (!(error instanceof OutboxError && error.code === 'OB001')) throw error;
            }
        }
        return known;
    }

    /** Handles an event once, and stores the saga. */
    async #handle(tx: Executor, saga: Saga<any, any>, sagaId: string, messageId: number, body: (one: SagaRun) => void | Promise<void>): Promise<void> {
        const outbox = new Outbox(tx);
        // This may wait for another process, so the state is loaded afterwards.
        const fresh = await outbox.sagaHandle({ sagaType: saga.name, sagaId, messageId }).catch((error: unknown) => {
            throw error instanceof OutboxError && error.code === 'OB001' ? new SagaGoneError(error.message, error.code) : error;
        });
        if (!fresh) return;
        const row = await outbox.sagaLoad({ sagaType: saga.name, sagaId });
        const one = new SagaRun(saga, row, this.#effects(tx));
        if (one.ended) return;
        await one.handle(() => body(one));
        const version = await this.#save(outbox, saga, one, row.version);
        if (one.status !== 'compensating') return;
        await one.compensate();
        await this.#save(outbox, saga, one, version);
        this.#log.write('warn', `a saga is ${one.status}`, { saga: saga.name, id: sagaId, reason: one.failureReason });
    }

    #save(outbox: Outbox, saga: Saga<any, any>, one: SagaRun, expectedVersion: number): Promise<number> {
        const { id: sagaId, stored: state, status, step, steps, failureReason } = one;
        return outbox.sagaSave({ sagaType: saga.name, sagaId, state, expectedVersion, status, step, steps, ...(failureReason === null ? {} : { failureReason }) });
    }

    /** Compensates a saga whose compensation has failed, or which has failed, again. For operators. Returns its status. */
    async compensate(name: string, id: string): Promise<SagaStatus> {
        const saga = this.#sagas.get(name);
        if (saga === undefined) throw new SagaError(`there is no saga "${name}"`, '42704');
        return transaction(this.#client, async (tx) => {
            const outbox = new Outbox(tx as Executor);
            const row = await outbox.sagaLoad({ sagaType: name, sagaId: id });
            if (!['failed', 'compensation_failed'].includes(row.status)) throw new SagaError(`saga "${name}" ${id} is ${row.status}`, 'OB004');
            const one = new SagaRun(saga, { ...row, status: 'compensating' }, this.#effects(tx as Executor));
            const version = await this.#save(outbox, saga, one, row.version);
            await one.compensate();
            await this.#save(outbox, saga, one, version);
            return one.status;
        });
    }
}

const consumerOf = (name: string): string => `projection saga ${name}`;
