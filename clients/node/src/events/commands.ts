/**
 * The command bus: handlers by command type, and middleware around them in the order in which it was added.
 *
 * A command runs in a transaction. The bus begins it just before the first middleware that needs it (`idempotency`), or else before
 * the handler. So middleware that comes earlier, like `retry` and `timeout`, is outside of the transaction, and every try has a
 * transaction of its own. A dispatch that is given a transaction takes part in it.
 */

import { checkSession, transaction, type Executor, type Session } from '../client/driver.js';
import { invalid } from '../client/errors.js';
import { newId, withContext } from './context.js';
import { CommandNotHandledError } from './errors.js';

declare const RESULT: unique symbol;

/** A command. Applications use a union: `Command<'order.place', { total: number }, number> | Command<'order.pay', {}>`. */
export interface Command<Type extends string = string, Data = any, Result = any> {
    type: Type;
    data: Data;
    /** Makes the command idempotent, see `idempotency`. */
    key?: string;
    /** The id that the events of the command have as their cause. The default is a new one. */
    id?: string;
    /** `correlation_id`, `causation_id`, `user_id` and `tenant` go on into the events. */
    metadata?: Record<string, unknown>;
    /** Only for the compiler. */
    readonly [RESULT]?: Result;
}

/** The result of the handler of a command. */
export type ResultOf<C> = C extends Command<any, any, infer Result> ? Result : never;

/** The surroundings of a command that is being handled. */
export interface CommandContext<Tx = any> {
    /** The transaction of the command. */
    readonly tx: Tx;
    /** The id of this command. */
    readonly id: string;
    /** Aborts when the command takes too long, or when the caller gives up. */
    signal: AbortSignal;
    /** Whether the result is that of an earlier time. `idempotency` sets it. */
    repeated: boolean;
    /** Whether the transaction is about to commit. It is too late for a time-out then. */
    committing: boolean;
}

/** Handles a command, and returns its result. */
export type CommandHandler<C extends Command = Command, Tx = any> = (command: C, context: CommandContext<Tx>) => ResultOf<C> | Promise<ResultOf<C>>;

/** Wraps the handlers. `next` calls the next middleware or the handler. */
export interface CommandMiddleware {
    (command: Command, context: CommandContext, next: () => Promise<unknown>): Promise<unknown>;
    /** Whether it runs in the transaction of the command. */
    readonly inTransaction?: boolean;
}

/** Settings of a dispatch. */
export interface DispatchOptions {
    /** A transaction of yours, of which the command is then a part. */
    tx?: Session;
    signal?: AbortSignal;
}

/** Thrown inside of a transaction that is to commit, and whose command has failed all the same. */
export class CommitAndThrow {
    constructor(readonly error: unknown) {}
}

const NEVER = new AbortController().signal;

/** Dispatches commands to their handlers: `new CommandBus<ShopCommand>(pool).register('order.place', async (command, { tx }) => ...)`. */
export class CommandBus<C extends Command = Command, Tx = any> {
    readonly #client: Executor | undefined;
    readonly #handlers = new Map<string, CommandHandler<any, any>>();
    readonly #middleware: CommandMiddleware[] = [];

    /** `client` begins the transactions: a pool of pg, `postgres`, Knex, ... Without it every dispatch needs a transaction. */
    constructor(client?: Executor) {
        this.#client = client;
    }

    /** Registers the handler of a command type. A type has one handler. */
    register<Type extends C['type']>(type: Type, handler: CommandHandler<Extract<C, { type: Type }>, Tx>): this {
        if (this.#handlers.has(type)) throw invalid(`command "${type}" has a handler already`);
        if (typeof handler !== 'function') throw invalid(`the handler of command "${type}" is not a function`);
        this.#handlers.set(type, handler);
        return this;
    }

    /** Adds middleware. The first one that was added is the outermost. */
    use(...middleware: CommandMiddleware[]): this {
        this.#middleware.push(...middleware);
        return this;
    }

    /** Whether there is a handler for a command type. */
    handles(type: string): boolean {
        return this.#handlers.has(type);
    }

    /** Runs a command in a transaction, and returns the result of its handler after the commit. */
    async dispatch<K extends C>(command: K, options: DispatchOptions = {}): Promise<ResultOf<Extract<C, { type: K['type'] }>>> {
        if (typeof command !== 'object' || command === null || typeof command.type !== 'string') throw invalid('a command is an object with type and data');
        if (options.tx === undefined && this.#client === undefined) {
            throw invalid('the command needs a transaction', { hint: 'Give the bus a client, or give dispatch() a transaction: { tx }.' });
        }
        if (options.tx !== undefined) checkSession(options.tx, 'dispatch', 'Without { tx }, the bus begins a transaction.');
        const id = command.id ?? newId();
        const context = new Context(id, options.signal ?? NEVER, options.tx);
        const text = (name: string) => (typeof command.metadata?.[name] === 'string' ? (command.metadata[name] as string) : undefined);
        const given = { correlationId: text('correlation_id'), causationId: text('causation_id'), userId: text('user_id'), tenant: text('tenant') };
        try {
            return (await withContext(given, () => this.#run(command, context, 0))) as any;
        } catch (error) {
            // In a transaction of the caller, the caller decides whether it commits.
            throw error instanceof CommitAndThrow ? error.error : error;
        }
    }

    /** Runs commands one after the other, each in a transaction of its own, up to the first that fails. Returns their results. */
    async dispatchAll(commands: readonly C[], options: DispatchOptions = {}): Promise<unknown[]> {
        const results: unknown[] = [];
        for (const command of commands) results.push(await this.dispatch(command, options));
        return results;
    }

    async #run(command: Command, context: Context, step: number): Promise<unknown> {
        const middleware = this.#middleware[step];
        if (!context.begun && (middleware === undefined || middleware.inTransaction)) {
            this.#handler(command.type);
            return this.#begin(context, (inner) => this.#run(command, inner, step));
        }
        if (middleware === undefined) return this.#handler(command.type)(command, context);
        return middleware(command, context, () => this.#run(command, context, step + 1));
    }

    #handler(type: string): CommandHandler<any, any> {
        const handler = this.#handlers.get(type);
        if (handler !== undefined) return handler;
        throw new CommandNotHandledError(`there is no handler for command "${type}"`, '42704', { hint: `There are ${[...this.#handlers.keys()].join(', ') || 'none'}.` });
    }

    /** Every try gets a context of its own, so that a handler that has timed out never reaches the transaction of the next try. */
    async #begin(context: Context, body: (inner: Context) => Promise<unknown>): Promise<unknown> {
        let failed: CommitAndThrow | undefined;
        const { signal } = context;
        const commits = () => {
            // After a time-out nothing commits.
            signal.throwIfAborted();
            context.committing = true;
        };
        context.committing = false;
        const result = await transaction(this.#client!, async (tx) => {
            const inner = new Context(context.id, signal, tx as Session, context);
            try {
                const result = await body(inner);
                commits();
                return result;
            } catch (error) {
                if (!(error instanceof CommitAndThrow)) throw error;
                commits();
                failed = error;
                return undefined;
            } finally {
                inner.end();
            }
        });
        if (failed !== undefined) throw failed.error;
        return result;
    }
}

/** The context of one dispatch, or of the transaction in it. */
class Context implements CommandContext {
    #tx: Session | undefined;
    readonly #outer: Context | undefined;
    readonly begun: boolean;
    /** Whether the transaction is one of the caller. */
    readonly joined: boolean;
    committing = false;
    #repeated = false;

    constructor(
        readonly id: string,
        public signal: AbortSignal,
        tx: Session | undefined,
        outer?: Context,
    ) {
        this.#tx = tx;
        this.#outer = outer;
        this.begun = tx !== undefined;
        this.joined = outer?.joined ?? this.begun;
    }

    get tx(): Session {
        if (this.#tx !== undefined) return this.#tx;
        throw invalid(this.begun ? 'the transaction of the command has ended' : 'the transaction of the command has not begun');
    }

    get repeated(): boolean {
        return this.#repeated;
    }

    set repeated(value: boolean) {
        this.#repeated = value;
        if (this.#outer) this.#outer.repeated = value;
    }

    end(): void {
        this.#tx = undefined;
    }
}
