/** Middleware of the command bus. */

import { createHash } from 'node:crypto';

import { run } from '../client/driver.js';
import { invalid, isRetryable, OutboxError, typed } from '../client/errors.js';
import { Outbox } from '../client/outbox.js';
import { json, storable, storableText, type Interval } from '../client/sql.js';
import { issuesOf, type Schema } from '../app/schema.js';
import { Log, type Logger } from '../work/log.js';
import { positive } from '../work/time.js';
import { CommitAndThrow, type Command, type CommandContext, type CommandMiddleware } from './commands.js';
import { currentContext, newId, withContext } from './context.js';
import { CommandError, CommandPanicError, CommandTimeoutError, StoredCommandError, TenantRequiredError, told, ValidationError, type FieldError } from './errors.js';
import { isConflict, retrying, type RetryPolicy } from './retry.js';

/** Checks the data of a command: a Standard Schema (zod, ...), or a function that returns the fields that are wrong. */
export type Validator = Schema<any, any> | ((data: any) => readonly FieldError[] | void | Promise<readonly FieldError[] | void>);

/**
 * Checks commands before they are handled. Commands without a validator pass. `all` (the default) reports all fields that are wrong,
 * otherwise only the first one. A schema only checks: the handler gets the data as it was given.
 */
export function validation(validators: Record<string, Validator>, { all = true }: { all?: boolean } = {}): CommandMiddleware {
    const known = new Map(Object.entries(validators));
    return async (command, _, next) => {
        const validator = known.get(command.type);
        if (validator === undefined) return next();
        const fields = typeof validator === 'function' && !('~standard' in validator) ? ((await validator(command.data)) ?? []) : await bySchema(validator as Schema, command.data);
        if (fields.length > 0) throw new ValidationError(command.type, all ? fields : fields.slice(0, 1));
        return next();
    };
}

async function bySchema(schema: Schema<any, any>, data: unknown): Promise<FieldError[]> {
    return issuesOf(await schema['~standard'].validate(data)).map(({ path, message }) => ({ field: path, message }));
}

const MISTAKES = [TypeError, ReferenceError, RangeError, SyntaxError];

/**
 * Turns mistakes of the program into a CommandPanicError: a TypeError, a ReferenceError, a RangeError, a SyntaxError, or a thrown
 * value that is no error. All other errors stay as they are.
 */
export function recovery(): CommandMiddleware {
    return async (command, _, next) => {
        try {
            return await next();
        } catch (error) {
            if (error instanceof CommitAndThrow) throw error;
            if (error instanceof Error && !MISTAKES.some((one) => error instanceof one)) throw error;
            throw new CommandPanicError(`command "${command.type}" has panicked`, 'XX000', { cause: error, detail: error instanceof Error ? error.name : `a ${typeof error} was thrown` });
        }
    };
}

/** Logs each command with its time, and errors, of those of the server and of drivers only class and code. The default logger writes only errors and warnings, to the console. */
export function logging(logger?: Logger | false): CommandMiddleware {
    const log = new Log(logger);
    return async (command, context, next) => {
        const begun = performance.now();
        const facts = () => ({ type: command.type, id: context.id, ms: Math.round(performance.now() - begun) });
        try {
            const result = await next();
            log.write('info', context.repeated ? 'command was handled before' : 'command handled', facts());
            return result;
        } catch (error) {
            log.write('error', 'command failed', { ...facts(), error: told(error instanceof CommitAndThrow ? error.error : error) });
            throw error;
        }
    };
}

/** The end of a command, as `metrics` tells it. */
export interface CommandMeasure {
    type: string;
    outcome: 'ok' | 'repeated' | 'error';
    seconds: number;
    error?: unknown;
}

/** Calls a function with the outcome and the time of each command: to count it, or to observe it in a histogram. */
export function metrics(record: (measure: CommandMeasure) => void): CommandMiddleware {
    return async (command, context, next) => {
        const begun = performance.now();
        const tell = (outcome: CommandMeasure['outcome'], error?: unknown) => {
            try {
                record({ type: command.type, outcome, seconds: (performance.now() - begun) / 1000, ...(error === undefined ? {} : { error }) });
            } catch {
                // An error of the metrics must not fail a command.
            }
        };
        try {
            const result = await next();
            tell(context.repeated ? 'repeated' : 'ok');
            return result;
        } catch (error) {
            tell('error', error instanceof CommitAndThrow ? error.error : error);
            throw error;
        }
    };
}

/** A context also knows whether its transaction has begun, and whether it is one of the caller. */
type Joined = CommandContext & { begun: boolean; joined: boolean };

/**
 * Ends a command with a CommandTimeoutError after this many seconds (30), and aborts the signal in its context. The transaction then
 * never commits, however long the handler goes on. In a transaction of the caller, the error is thrown when the handler has ended,
 * because until then the handler uses that transaction. Add it before `idempotency`.
 */
export function timeout(seconds = 30): CommandMiddleware {
    positive(seconds, 30, 'timeout');
    return async (command, context, next) => {
        const controller = new AbortController();
        const around = context.signal;
        const stop = () => controller.abort(around.reason);
        if (around.aborted) stop();
        around.addEventListener('abort', stop, { once: true });
        context.signal = controller.signal;
        let timer: NodeJS.Timeout | undefined;
        let tooLong: CommandTimeoutError | undefined;
        const late = new Promise<never>((_, reject) => {
            timer = setTimeout(() => {
                if (context.committing) return;
                tooLong = new CommandTimeoutError(`command "${command.type}" took longer than ${seconds} s`, '57014');
                controller.abort(tooLong);
                reject(tooLong);
            }, seconds * 1000);
        });
        const result = next();
        const ended = result.then(() => {}, () => {});
        try {
            return await Promise.race([result, late]);
        } catch (error) {
            if (tooLong !== undefined && (context as Joined).joined) await ended;
            throw tooLong ?? error;
        } finally {
            clearTimeout(timer);
            around.removeEventListener('abort', stop);
            context.signal = around;
        }
    };
}

/**
 * Tries a command again after a conflict or a passing error, in a new transaction: 3 tries, waits of 0.1 s and 0.2 s. In a transaction
 * of the caller there is only one try, because the whole transaction would have to be repeated. A command that has timed out is never
 * tried again.
 */
export function retry(policy: RetryPolicy = {}): CommandMiddleware {
    return async (_, context, next) => {
        const { begun, joined } = context as Joined;
        if (joined) return next();
        if (begun) throw invalid('retry() is inside of a transaction', { hint: 'Add it before idempotency().' });
        const worth = policy.on ?? ((error: unknown) => isConflict(error) || isRetryable(error));
        return retrying({ ...policy, on: (error) => !(error instanceof CommandTimeoutError) && worth(error) }, next, context.signal);
    };
}

/** Gives the command, and all that it causes, a correlation id: that of the command, of the context, or a new one. */
export function correlation(make: () => string = newId): CommandMiddleware {
    return (_, __, next) => withContext({ correlationId: currentContext().correlationId ?? make() }, next);
}

/** Makes the command the cause of the events and commands that its handler brings about. */
export function causation(): CommandMiddleware {
    return (_, context, next) => withContext({ causationId: context.id }, next);
}

/** Takes the tenant from the command's metadata or from the context. Without one it throws a TenantRequiredError, unless `required` is false. */
export function tenant(required = true): CommandMiddleware {
    return async (command, _, next) => {
        if (required && !currentContext().tenant) throw new TenantRequiredError(`command "${command.type}" needs a tenant`, '22004');
        return next();
    };
}

/** Settings of {@link idempotency}. */
export interface IdempotencyOptions {
    /**
     * The key of a command: the name of a field of its data, or a function. A command that has a `key` uses that. The default is a
     * hash of its data. The type and the tenant of the command come before it.
     */
    key?: string | ((command: Command) => string | undefined);
    /** How long a key is remembered. The default is 24 hours. Null: for ever. */
    ttl?: Interval | null;
    /**
     * Stores errors as well, so that the same command fails again in the same way. The effects of the handler are rolled back to a
     * savepoint. Type and message are stored, in plain, of errors that the application throws on purpose: those of its own classes,
     * and of class Error. Errors of the server and the driver, and mistakes of the program, are never stored. The default is false.
     */
    storeErrors?: boolean;
    /** Types of commands that are not concerned. */
    skip?: readonly string[];
}

/**
 * Processes each command once. The key and the result are stored in the transaction of the command. The same command again gets the
 * stored result, as JSON; one that arrives meanwhile waits. The same key with other data is refused (OB008).
 */
export function idempotency(options: IdempotencyOptions = {}): CommandMiddleware {
    const skip = new Set(options.skip);
    const run: CommandMiddleware = async (command, context, next) => {
        if (skip.has(command.type)) return next();
        const key = keyOf(command, options.key);
        const outbox = new Outbox(context.tx);
        const { ttl = '24 hours' } = options;
        const before = await outbox.commandBegin({ key, commandType: command.type, ttl, content: command.data ?? NULL });
        if (before !== null) {
            context.repeated = true;
            if (before.success) return before.result ?? undefined;
            throw new StoredCommandError(`command "${command.type}" has failed before: ${before.error?.message ?? ''}`, before.error ?? {});
        }
        const result = options.storeErrors ? await storing(outbox, context, key, next) : await next();
        await outbox.commandEnd({ key, result: storable(result) ?? undefined });
        return result;
    };
    return Object.assign(run, { inTransaction: true });
}

/** The longest key of a command, in bytes. */
const LONGEST_KEY = 255;

/** The null of JSON, which is content; a null would be none. */
const NULL = { toJSON: () => null };

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** Returns `TYPE:VALUE`, or `TYPE:TENANT:VALUE`. All clients make the same key of a command. */
function keyOf(command: Command, key: IdempotencyOptions['key']): string {
    const given = command.key ?? (typeof key === 'function' ? key(command) : key === undefined ? undefined : command.data?.[key]);
    let value = typeof given === 'string' ? given : given === undefined || given === null ? '' : canonical(given);
    if (value === '') value = sha256(canonical(command.data ?? null));
    const { tenant } = currentContext();
    const rest = tenant ? `${tenant}:${value}` : value;
    const whole = `${command.type}:${rest}`;
    return Buffer.byteLength(whole) > LONGEST_KEY ? `${command.type}:${sha256(rest)}` : whole;
}

/** Returns the JSON of a value without spaces, in which the names of all objects are in the order of their bytes. */
function canonical(value: unknown): string {
    const written = (one: unknown): string => {
        if (typeof one !== 'object' || one === null) return JSON.stringify(one);
        if (Array.isArray(one)) return `[${one.map(written).join(',')}]`;
        const named = Object.entries(one).map(([name, of]) => ({ name, bytes: Buffer.from(name), of }));
        named.sort((a, b) => Buffer.compare(a.bytes, b.bytes));
        return `{${named.map(({ name, of }) => `${JSON.stringify(name)}:${written(of)}`).join(',')}}`;
    };
    return written(JSON.parse(json(value, 'the data of a command')));
}

/** Whether the application has thrown an error on purpose, so that the command is rejected for good. */
function isRejection(error: unknown): error is Error {
    if (!(error instanceof Error) || MISTAKES.some((one) => error instanceof one)) return false;
    if (error instanceof CommandError) return !(error instanceof CommandPanicError || error instanceof CommandTimeoutError);
    // Errors of drivers have a SQLSTATE, or a code of a connection.
    return !(typed(error) instanceof OutboxError);
}

/** The most characters of the message of an error that is stored. */
const LONGEST_MESSAGE = 1000;

/** Runs the rest in a savepoint. A rejection is stored, and the transaction then commits without the effects. */
async function storing(outbox: Outbox, context: CommandContext, key: string, next: () => Promise<unknown>): Promise<unknown> {
    const sql = (text: string) => run(context.tx, { text, values: [] });
    await sql('savepoint pg_outbox_command');
    try {
        const result = await next();
        await sql('release savepoint pg_outbox_command');
        return result;
    } catch (error) {
        if (context.signal.aborted || !isRejection(error)) throw error;
        await sql('rollback to savepoint pg_outbox_command');
        const message = [...storableText(error.message)].slice(0, LONGEST_MESSAGE).join('');
        await outbox.commandEnd({ key, error: { type: storableText(error.name), message } });
        throw new CommitAndThrow(error);
    }
}

/** Uses middleware only for the commands for which `condition` is true. */
export function when(condition: (command: Command) => boolean, middleware: CommandMiddleware): CommandMiddleware {
    const run: CommandMiddleware = (command, context, next) => (condition(command) ? middleware(command, context, next) : next());
    return Object.assign(run, { inTransaction: middleware.inTransaction ?? false });
}

/** Uses middleware only for these types of commands. */
export function forTypes(types: readonly string[], middleware: CommandMiddleware): CommandMiddleware {
    const known = new Set(types);
    return when((command) => known.has(command.type), middleware);
}

/** Makes one middleware of several. If one of them needs the transaction, all of them are inside of it. */
export function chain(...all: CommandMiddleware[]): CommandMiddleware {
    const run: CommandMiddleware = (command, context, next) => {
        const from = (i: number): Promise<unknown> => (i === all.length ? next() : all[i]!(command, context, () => from(i + 1)));
        return from(0);
    };
    return Object.assign(run, { inTransaction: all.some((one) => one.inTransaction) });
}
