/**
 * Typed errors. The SQLSTATE decides on the class. Errors of a connection that have neither a SQLSTATE nor a code are
 * recognised by their text.
 */

import { CLASSES as CLASSES_OF_STATES, HINTS, STATES } from './codes.js';

/** The reaction to an error that makes sense for a caller. */
export type ErrorKind = 'not_found' | 'conflict' | 'invalid' | 'lease_lost' | 'inactive' | 'retry' | 'fatal';

/** The fields of an error beside its message. */
export interface ErrorFields {
    detail?: string;
    hint?: string;
    cause?: unknown;
    /** The symbolic name, if it differs from the name of the code. */
    codeName?: string;
}

/** Returns symbolic name, kind and hint of any SQLSTATE. */
function classify(code: string): { name: string; kind: ErrorKind; hint?: string } {
    const [name, kind] = STATES[code] ?? CLASSES_OF_STATES[code.slice(0, 2)] ?? ['internal', 'fatal'];
    return { name, kind, hint: HINTS[name] };
}

/** The base class of all errors of this package. */
export class OutboxError extends Error {
    override name = 'OutboxError';
    /** The SQLSTATE. An error outside of the server has the SQLSTATE with the same meaning. */
    readonly code: string;
    /** The symbolic name of the code (`lease_lost`, `idempotency_conflict`, ...), which is the same in every client. */
    readonly codeName: string;
    /** The kind, which says what a caller can do. */
    readonly kind: ErrorKind;
    /** Facts that help to find the cause. */
    declare readonly detail?: string;
    /** Advice on what to do, in a sentence. */
    declare readonly hint?: string;

    constructor(message: string, code: string, fields: ErrorFields = {}) {
        super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
        const known = classify(code);
        this.code = code;
        this.codeName = fields.codeName ?? known.name;
        this.kind = known.kind;
        if (fields.detail) this.detail = fields.detail;
        if (fields.hint) this.hint = fields.hint;
    }

    /** Returns name, message, detail and hint. */
    override toString(): string {
        const rest = [this.detail, this.hint && `Hint: ${this.hint}`].filter((part) => part);
        return [`${this.name}: ${this.message}`, ...rest].join('. ').replace(/\.\. /g, '. ');
    }
}

/** The named object does not exist. */
export class NotFoundError extends OutboxError {
    override name = 'NotFoundError';
}
/** The object exists, but its state does not allow this call. */
export class ConflictError extends OutboxError {
    override name = 'ConflictError';
}
/** The arguments are wrong. The same call will never succeed. */
export class InvalidError extends OutboxError {
    override name = 'InvalidError';
}
/**
 * The caller does not hold the lease, or holds it no longer. It should stop the work, because another worker may have it.
 */
export class LeaseLostError extends OutboxError {
    override name = 'LeaseLostError';
}
/** The topic, publisher, endpoint or subscription is switched off. */
export class InactiveError extends OutboxError {
    override name = 'InactiveError';
}
/** The same call may succeed later: the connection was lost, the server restarts, or a lock was busy. */
export class RetryError extends OutboxError {
    override name = 'RetryError';
}
/** The caller can do nothing at run time: the extension or a privilege is missing, or the versions do not match. */
export class FatalError extends OutboxError {
    override name = 'FatalError';
}
/** A request was not signed with one of the secrets, or too long ago. */
export class SignatureError extends InvalidError {
    override name = 'SignatureError';
}

const CLASSES: Record<ErrorKind, new (message: string, code: string, fields?: ErrorFields) => OutboxError> = {
    not_found: NotFoundError,
    conflict: ConflictError,
    invalid: InvalidError,
    lease_lost: LeaseLostError,
    inactive: InactiveError,
    retry: RetryError,
    fatal: FatalError,
};

/** Creates the error of the class that fits a SQLSTATE. */
export function errorOf(message: string, code: string, fields: ErrorFields = {}): OutboxError {
    const known = classify(code);
    return new CLASSES[known.kind](message, code, { ...fields, hint: fields.hint ?? known.hint });
}

/** Creates an error for a malformed argument (22023). */
export function invalid(message: string, fields: ErrorFields = {}): InvalidError {
    return new InvalidError(message, '22023', fields);
}

/** Codes of Node and of the drivers for a missing connection. */
const CONNECTION =
    /^(ECONN\w+|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|EAI_AGAIN|ENOTFOUND|CONNECTION_\w+|CONNECT_TIMEOUT|P1001|P1002|P1008|P1017|P2024)$/;
/** Texts of pg and its pool for a missing connection. These errors have no code. */
const CONNECTION_TEXT =
    /^(Connection terminated|Client has encountered a connection error|timeout (exceeded|expired) when|timeout expired|Client was closed|Cannot use a pool after|Knex: Timeout acquiring)/;

/** Codes of TLS. Retrying does not help against an invalid certificate. */
const TLS =
    /^(ERR_TLS_CERT_ALTNAME_INVALID|SELF_SIGNED_CERT_IN_CHAIN|DEPTH_ZERO_SELF_SIGNED_CERT|UNABLE_TO_\w+|CERT_\w+|HOSTNAME_MISMATCH)$/;
const TLS_TEXT = /^The server does not support SSL connections/;

/** Texts of pg for a password that is missing. The server would refuse it, however often it is tried. */
const NO_PASSWORD = /^SASL: .*password must be/;

interface DriverError {
    message?: unknown;
    code?: unknown;
    detail?: unknown;
    hint?: unknown;
    severity?: unknown;
    originalCode?: unknown;
    originalMessage?: unknown;
    cause?: unknown;
    original?: unknown;
    driverError?: unknown;
    meta?: { code?: unknown; message?: unknown; driverAdapterError?: unknown };
    errors?: unknown;
}

const text = (value: unknown): string | undefined => (typeof value === 'string' && value !== '' ? value : undefined);
const state = (value: unknown): string | undefined =>
    typeof value === 'string' && /^[0-9A-Z]{5}$/.test(value) && !/^(EPIPE|E[A-Z]{4}|P[12]\d{3})$/.test(value)
        ? value
        : undefined;

/**
 * Converts an error of a driver or an ORM to a typed error. The SQLSTATE is looked for in the error, in its causes, and
 * where Prisma stores it. An error that has none and is not about the connection is returned unchanged.
 */
export function typed(error: unknown): unknown {
    if (error instanceof OutboxError) return error;
    const queue: unknown[] = [error];
    const seen = new Set<unknown>();
    while (queue.length > 0) {
        const one = queue.shift();
        if (typeof one !== 'object' || one === null || seen.has(one)) continue;
        seen.add(one);
        const e = one as DriverError;
        const code = state(e.originalCode) ?? state(e.meta?.code) ?? state(e.code);
        if (code !== undefined) {
            const message = text(e.originalMessage) ?? text(e.meta?.message) ?? text(e.message) ?? 'error';
            return errorOf(message.replace(/^ERROR: /, ''), code, {
                detail: text(e.detail),
                hint: text(e.hint),
                cause: error,
            });
        }
        if (TLS.test(String(e.code)) || TLS_TEXT.test(String(e.message))) {
            return errorOf(text(e.message) ?? String(e.code), '28000', {
                cause: error,
                codeName: 'tls_refused',
                hint: "The authority that the server's certificate is of has to be known, and the host's name in it.",
            });
        }
        if (NO_PASSWORD.test(String(e.message))) {
            return errorOf('the password is missing', '28P01', {
                cause: error,
                detail: text(e.message),
                hint: 'It is taken from the connection string, from PGPASSWORD, and from ~/.pgpass, which only you may be able to read.',
            });
        }
        if (e.code === 'ERR_INVALID_URL') return invalid('malformed connection string', { cause: error });
        if (CONNECTION.test(String(e.code)) || CONNECTION_TEXT.test(String(e.message))) {
            return errorOf(text(e.message) ?? String(e.code), '08006', { cause: error });
        }
        queue.push(e.cause, e.meta?.driverAdapterError, e.original, e.driverError, ...(Array.isArray(e.errors) ? e.errors : []));
    }
    return error;
}

/** Returns whether the same call may succeed later. */
export function isRetryable(error: unknown): boolean {
    return error instanceof OutboxError && error.kind === 'retry';
}

/** Describes any thrown value in one line. */
export function said(error: unknown): string {
    try {
        if (error instanceof OutboxError && error.detail) return `${error.name}: ${error.message}: ${error.detail}`;
        if (error instanceof Error) return `${error.name}: ${error.message}`;
        return typeof error === 'string' ? error : `a value of type ${typeof error} was thrown`;
    } catch {
        return 'an error that cannot be shown';
    }
}
