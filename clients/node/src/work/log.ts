/** The lines that workers and readers log, to a logger like the console or like pino. */

import type { OutboxError } from '../client/errors.js';

/** A logger: the console, pino, winston, or anything with these methods. */
export interface Logger {
    error(...args: any[]): void;
    warn(...args: any[]): void;
    info(...args: any[]): void;
}

/** The logger of those that are given none: warnings and errors go to the standard error. */
const QUIET: Logger = {
    error: (...args) => console.error(...args),
    warn: (...args) => console.warn(...args),
    info: () => {},
};
const SILENT: Logger = { error: () => {}, warn: () => {}, info: () => {} };

/** The things that a line is about: subscription, delivery, topic, attempt, ... */
export type Facts = Record<string, unknown>;

type Level = 'error' | 'warn' | 'info';

/** Writes lines. An error of the logger never reaches the caller. */
export class Log {
    readonly #logger: Logger;
    readonly #structured: boolean;

    /** `false` logs nothing. Undefined logs warnings and errors to the console, or nothing if `told` is otherwise. */
    constructor(logger: Logger | false | undefined, told = false) {
        this.#logger = logger === undefined ? (told ? SILENT : QUIET) : logger === false ? SILENT : logger;
        // pino takes the facts first; all others take the text first.
        this.#structured = typeof (this.#logger as { bindings?: unknown }).bindings === 'function';
    }

    write(level: Level, text: string, facts: Facts = {}, error?: unknown): void {
        try {
            const line = `pg_outbox: ${text}`;
            if (this.#structured) {
                this.#logger[level](error === undefined ? facts : { ...facts, err: error }, line);
                return;
            }
            const about = Object.entries(facts).map(([name, value]) => `${name}=${String(value)}`);
            const words = about.length === 0 ? line : `${line} (${about.join(' ')})`;
            if (error === undefined) this.#logger[level](words);
            else this.#logger[level](words, error);
        } catch {
            // An error of the logger must not end a worker.
        }
    }

    /** Logs an error after which the call is repeated. */
    again(error: unknown, facts: Facts): void {
        const { code, hint } = error as OutboxError;
        this.write('warn', `${String((error as Error).message)}: trying again`, { ...facts, code, ...(hint ? { hint } : {}) });
    }
}
