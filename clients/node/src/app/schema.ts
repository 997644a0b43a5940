/** Schemas of payloads: Standard Schema (https://standardschema.dev), which zod, valibot, arktype and others implement. */

import { invalid } from '../client/errors.js';
import { json } from '../client/sql.js';

interface Issue {
    readonly message: string;
    readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

type Checked<Output> = { readonly value: Output; readonly issues?: undefined } | { readonly issues: readonly Issue[] };

/** The part of Standard Schema that is used here. */
export interface Schema<Input = unknown, Output = Input> {
    readonly '~standard': {
        readonly version: 1;
        readonly vendor: string;
        readonly validate: (value: unknown) => Checked<Output> | Promise<Checked<Output>>;
        readonly types?: { readonly input: Input; readonly output: Output } | undefined;
    };
}

/** The payload that a schema takes: the one that is enqueued. */
export type Input<S extends Schema<any, any>> = NonNullable<S['~standard']['types']>['input'];
/** The payload that a schema returns: the one that a handler gets. */
export type Output<S extends Schema<any, any>> = NonNullable<S['~standard']['types']>['output'];

/** Returns a schema that only says the type of a payload, and checks nothing. */
export function unchecked<T>(): Schema<T> {
    return { '~standard': { version: 1, vendor: 'pg-outbox', validate: (value) => ({ value: value as T }) } };
}

const named = (path: Issue['path']): string =>
    (path ?? []).map((part) => String(typeof part === 'object' ? part.key : part)).join('.');

/** Returns the things that are wrong, each with its path. The values are not in them. */
export function issuesOf(result: Checked<unknown>): { path: string; message: string }[] {
    // Libraries write the value that they have received at the end of their messages. A payload does not belong in an error.
    const plain = (message: string) => message.replace(/[,:]?\s*(but )?received\b.*$/is, '');
    return (result.issues ?? []).map(({ message, path }: Issue) => ({ path: named(path), message: plain(message) }));
}

/** Returns the value of a result. Throws an InvalidError that names what is wrong, but not the values. */
function valueOf<Value>(result: Checked<Value>, topic: string): Value {
    if (result.issues === undefined) return result.value;
    const issues = issuesOf(result)
        .slice(0, 5)
        .map(({ message, path }) => (path ? `${path}: ${message}` : message));
    throw invalid(`invalid payload of "${topic}"`, { detail: issues.join('; ') || 'The schema refuses it.' });
}

/**
 * Returns the value that a schema makes of a payload, or a promise of it if the schema needs to wait. The payload is checked as a
 * worker sees it, which is after it has been JSON.
 */
export function validated<S extends Schema<any, any>>(schema: S, topic: string, payload: unknown): Output<S> | Promise<Output<S>> {
    const result = schema['~standard'].validate(JSON.parse(json(payload ?? null, 'the payload')));
    return result instanceof Promise ? result.then((one) => valueOf(one, topic)) : valueOf(result, topic);
}
