/** The errors of the toolkit for event sourcing, beneath those of the client. */

import { ConflictError, InvalidError, OutboxError, typed, type ErrorFields } from '../client/errors.js';

/** The stream is not at the version that was expected (OB013). Load it again, decide again, and append again. */
export class ConcurrencyError extends ConflictError {
    override name = 'ConcurrencyError';
    readonly stream: string;
    /** The version that the call expected; -2: the stream had to exist. */
    readonly expected: number;
    /** The last version of the stream; 0: it does not exist. Undefined: the driver does not tell it. */
    readonly actual: number | undefined;

    constructor(message: string, about: { stream: string; expected: number; actual: number | undefined }, fields: ErrorFields = {}) {
        super(message, 'OB013', fields);
        this.stream = about.stream;
        this.expected = about.expected;
        this.actual = about.actual;
    }
}

/** The stream is closed and takes no more events (OB014). */
export class StreamClosedError extends ConflictError {
    override name = 'StreamClosedError';
}

/** The data of an event does not have the form of its type, or no upcaster leads to that form. */
export class SchemaError extends InvalidError {
    override name = 'SchemaError';
}

/** A field cannot be encrypted or decrypted. No error of this kind contains a key or a value. */
export class EncryptionError extends OutboxError {
    override name = 'EncryptionError';
}
/** There is no key of this name. */
export class KeyNotFoundError extends EncryptionError {
    override name = 'KeyNotFoundError';
}
/** The key was revoked, so that nothing that it encrypted can be read any more. */
export class KeyRevokedError extends EncryptionError {
    override name = 'KeyRevokedError';
}

/** A command was refused or has failed. */
export class CommandError extends OutboxError {
    override name: string = 'CommandError';
}
/** There is no handler for the type of the command. */
export class CommandNotHandledError extends CommandError {
    override name = 'CommandNotHandledError';
}
/** The handler has thrown something that is a mistake in the program: a TypeError, or a value that is no error. */
export class CommandPanicError extends CommandError {
    override name = 'CommandPanicError';
}
/** The command took longer than its time-out. Its transaction is rolled back. */
export class CommandTimeoutError extends CommandError {
    override name = 'CommandTimeoutError';
}
/** The command needs a tenant and has none. */
export class TenantRequiredError extends CommandError {
    override name = 'TenantRequiredError';
}
/** The command was processed before, and its result was an error, which is stored. */
export class StoredCommandError extends CommandError {
    override name = 'StoredCommandError';
    /** The class and the message of the error of that time. */
    readonly stored: { type?: string; message?: string };

    constructor(message: string, stored: { type?: string; message?: string }) {
        super(message, 'OB002');
        this.stored = stored;
    }
}

/** Something that is wrong with a field of a command. The value is not in it. */
export interface FieldError {
    /** The path, with dots. Empty: the command as a whole. */
    field: string;
    message: string;
}
/** A command has fields that are wrong. */
export class ValidationError extends CommandError {
    override name = 'ValidationError';
    readonly fields: readonly FieldError[];

    constructor(type: string, fields: readonly FieldError[]) {
        const detail = fields.map(({ field, message }) => (field ? `${field}: ${message}` : message)).join('; ');
        super(`command "${type}" is not valid`, '22023', { detail });
        this.fields = fields;
    }
}

/** A projection cannot be run as it is registered. */
export class ProjectionError extends OutboxError {
    override name = 'ProjectionError';
}
/** A saga cannot be run as it is defined. */
export class SagaError extends OutboxError {
    override name = 'SagaError';
}

/**
 * Describes an error for cursors, sagas and logs. The texts of the server, of drivers and of libraries may quote data, so only their
 * class and their code are told.
 */
export function told(error: unknown): string {
    const known = typed(error);
    if (known instanceof OutboxError) return isOwn(known) ? `${known.name}: ${known.message}` : `${known.name}: ${known.codeName} (${known.code})`;
    if (!(error instanceof Error)) return `a value of type ${typeof error} was thrown`;
    // Libraries of schemas put what they have received into their messages.
    return 'issues' in error ? error.name : `${error.name}: ${error.message}`;
}

/** Whether the message of an error is of this package. An error of the server or of a driver is the cause of another one. */
export const isOwn = (error: OutboxError): boolean => error.cause === undefined || OWN.some((one) => error instanceof one);

/** The errors whose messages are of this package, and contain no data. */
const OWN = [ConcurrencyError, StreamClosedError, SchemaError, EncryptionError, CommandError, ProjectionError, SagaError];

/** Returns the error of an append as a {@link ConcurrencyError} or a {@link StreamClosedError}, if it is one. */
export function ofStream(error: unknown, call: { stream: string; expected: number }): unknown {
    if (!(error instanceof OutboxError) || error instanceof ConcurrencyError) return error;
    const fields = { cause: error, detail: error.detail, hint: error.hint };
    if (error.code === 'OB014') return new StreamClosedError(error.message, error.code, fields);
    if (error.code !== 'OB013') return error;
    let actual: number | undefined;
    try {
        actual = JSON.parse(error.detail ?? '').actual;
    } catch {
        // Some ORMs do not hand on the detail of an error.
    }
    return new ConcurrencyError(error.message, { ...call, actual }, fields);
}
