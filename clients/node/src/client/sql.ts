/** Converts names, arguments and columns between JavaScript and SQL. */

import { run, type Executor, type Statement, type Value } from './driver.js';
import { FUNCTIONS, VIEWS, type FunctionName, type ViewName } from './functions.js';
import { invalid, said } from './errors.js';

/** A duration: a number of seconds, or text in PostgreSQL's form (`'5 min'`). */
export type Interval = number | string;

/** The generated description of a function: its arguments with their types, and its result. */
export interface Signature {
    name: string;
    /** Name, type, and whether the argument is optional. */
    args: readonly (readonly [string, string, boolean])[];
    returns: 'rows' | 'row' | 'value' | 'values' | 'nothing';
    /** The columns and their types, or the type of a single value. */
    columns: readonly (readonly [string, string])[];
}

export const camel = (name: string): string => name.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase());

/** Returns the JSON text of a value. Throws an error for values that JSON cannot express. */
export function json(value: unknown, what: string): string {
    let text: string | undefined;
    try {
        text = JSON.stringify(value);
    } catch (cause) {
        throw invalid(`${what} cannot be JSON`, { cause, detail: said(cause) });
    }
    if (text === undefined) throw invalid(`${what} cannot be JSON`, { detail: `It is ${typeof value}.` });
    return text;
}

/** Replaces NUL and lone surrogates by U+FFFD, so that PostgreSQL can store the text. */
export function storableText(text: string): string {
    return text.replace(/\0|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, '\ufffd');
}

/** The largest size of a handler's result, in bytes of JSON. */
const MAX_RESULT = 1024 * 1024;

/**
 * Converts a handler's result so that PostgreSQL can store it. Characters that PostgreSQL cannot store are replaced. A
 * result that is too large or cannot be JSON throws an error.
 */
export function storable(result: unknown): unknown {
    if (result === undefined || result === null) return null;
    const text = json(result, "the handler's result");
    const size = Buffer.byteLength(text);
    if (size > MAX_RESULT) {
        throw invalid("the handler's result is too large", { detail: `It has ${size} bytes as JSON, and ${MAX_RESULT} are the most.` });
    }
    // JSON.stringify writes these characters as escapes.
    if (!/\\u(0000|d[89a-f])/.test(text)) return JSON.parse(text);
    return JSON.parse(text, (_, value) => {
        if (typeof value === 'string') return storableText(value);
        if (value === null || typeof value !== 'object' || Array.isArray(value)) return value;
        return Object.fromEntries(Object.entries(value).map(([name, of]) => [storableText(name), of]));
    });
}

/** The first and the last time of a Date stand for the infinities of PostgreSQL, in both directions. */
const LAST = 8.64e15;

/** Returns a time as PostgreSQL reads it, also before Christ and after the year 9999. */
function timeText(time: Date): string {
    if (Math.abs(time.getTime()) === LAST) return time.getTime() > 0 ? 'infinity' : '-infinity';
    const [, sign, year, rest] = /^([+-]?)(\d+)(.*)$/.exec(time.toISOString())!;
    // There is no year 0: it is 1 BC.
    const before = sign === '-' || Number(year) === 0;
    return `${String(before ? Number(year) + 1 : Number(year)).padStart(4, '0')}${rest}${before ? ' BC' : ''}`;
}

/** Returns the Date of a time of PostgreSQL. It is invalid if a Date cannot hold it. */
export function timeOf(text: string): Date {
    if (text === 'infinity') return new Date(LAST);
    if (text === '-infinity') return new Date(-LAST);
    const unusual = /^(\d{4,6})(-\d\d-\d\d.*?)( BC)?$/.exec(text);
    if (unusual === null || (unusual[1]!.length === 4 && unusual[3] === undefined)) return new Date(text);
    const year = unusual[3] === undefined ? Number(unusual[1]) : 1 - Number(unusual[1]);
    return new Date(`${year < 0 ? '-' : '+'}${String(Math.abs(year)).padStart(6, '0')}${unusual[2]}`);
}

function scalar(value: unknown, type: string, what: string): Value {
    if (value === undefined || value === null) return null;
    if (type === 'jsonb' || type === 'json') return json(value, what);
    if (value instanceof Date) {
        if (Number.isNaN(value.getTime())) throw invalid(`${what} is not a valid time`);
        return timeText(value);
    }
    if (type === 'interval' && typeof value === 'number') {
        if (!Number.isFinite(value)) throw invalid(`${what} is not a length of time`);
        return `${value} seconds`;
    }
    if (type === 'bytea') {
        if (value instanceof Uint8Array) return `\\x${Buffer.from(value).toString('hex')}`;
        throw invalid(`${what} is not bytes`, { hint: 'Give a Buffer or a Uint8Array.' });
    }
    switch (typeof value) {
        case 'string':
            if (value.includes('\0')) throw invalid(`${what} contains a NUL character`);
            return value;
        case 'number':
            if (!Number.isFinite(value)) throw invalid(`${what} is not a finite number`);
            return String(value);
        case 'bigint':
        case 'boolean':
            return String(value);
        default:
            throw invalid(`${what} cannot be ${typeof value}`, { detail: `A value of type ${type} is expected.` });
    }
}

/** Returns an argument as text, and the cast of its placeholder in the statement. */
export function argument(value: unknown, type: string, what: string): { value: Value; cast: (n: string) => string } {
    if (type.endsWith('[]') && value !== null && value !== undefined) {
        if (!Array.isArray(value)) throw invalid(`${what} is not a list`);
        const element = type.slice(0, -2);
        const items = value.map((item, i) => scalar(item, element, `${what}[${i}]`));
        const quoted = items.map((item) =>
            item === null ? 'NULL' : `"${item.replace(/\\/g, '\\\\').replace(/"/g, '\\"')}"`,
        );
        return { value: `{${quoted.join(',')}}`, cast: (n) => `${n}::text::${type}` };
    }
    return { value: scalar(value, type, what), cast: (n) => (type === 'text' ? `${n}::text` : `${n}::text::${type}`) };
}

/** Converts the value of a column from the JSON of its row. */
function back(value: unknown, type: string): unknown {
    if (value === null || value === undefined) return null;
    if (type === 'timestamptz') return timeOf(value as string);
    if (type === 'bytea') return Buffer.from((value as string).slice(2), 'hex');
    if (type.endsWith('[]')) return (value as unknown[]).map((item) => back(item, type.slice(0, -2)));
    return value;
}

const selected = ([name, type]: readonly [string, string]): string =>
    type === 'interval' ? `extract(epoch from r."${name}")::float8 as "${name}"` : `r."${name}"`;

/** The columns of a function that returns events with their content. */
const isEvent = (columns: Signature['columns']): boolean => ['data', 'body', 'message_id'].every((name) => columns.some((one) => one[0] === name));

/** Tells the null of SQL, which an event has that was erased, from the null of JSON. In the JSON of a row they are the same. */
const ERASED = 'r."message_id" is not null and r."data" is null and r."body" is null as "erased"';

/**
 * Converts a row from its JSON: names become camelCase, times Date, intervals seconds, and bytes Buffer. The data of an event that
 * was erased is undefined.
 */
function row(text: string, columns: Signature['columns']): Record<string, unknown> {
    const parsed = JSON.parse(text) as Record<string, unknown>;
    const result: Record<string, unknown> = {};
    for (const [name, type] of columns) result[camel(name)] = back(parsed[name], type);
    if (parsed.erased === true && isEvent(columns)) result.data = undefined;
    return result;
}

interface Prepared {
    signature: Signature;
    byName: Map<string, readonly [string, string, boolean]>;
}
const prepared = new Map<string, Prepared>();

function prepare(name: FunctionName): Prepared {
    let known = prepared.get(name);
    if (known === undefined) {
        const signature: Signature = FUNCTIONS[name];
        known = { signature, byName: new Map(signature.args.map((arg) => [camel(arg[0]), arg])) };
        prepared.set(name, known);
    }
    return known;
}

/** Functions that programs with events call again and again, in few forms. */
const OFTEN: ReadonlySet<string> = new Set([
    'append_bytes', 'append_many', 'command_begin', 'command_end', 'cursor_advance', 'get_subject_key', 'load', 'load_snapshot', 'saga_find', 'saga_handle', 'saga_load', 'saga_save',
]);

/** Returns the statement that calls a function of the schema with named arguments. Undefined arguments are left out. */
export function callStatement(name: FunctionName, args: object = {}): Statement {
    const { signature, byName } = prepare(name);
    const given = args as Record<string, unknown>;
    const parts: string[] = [];
    const values: Value[] = [];
    for (const key of Object.keys(given)) {
        const arg = byName.get(key);
        if (arg === undefined) {
            throw invalid(`${name}() has no argument "${key}"`, {
                hint: `Its arguments are ${[...byName.keys()].join(', ') || 'none'}.`,
            });
        }
        if (given[key] === undefined) continue;
        const { value, cast } = argument(given[key], arg[1], key);
        values.push(value);
        // Quoted, because "position" is a keyword of SQL.
        parts.push(`"${arg[0]}" => ${cast(`$${values.length}`)}`);
    }
    for (const [key, arg] of byName) {
        if (!arg[2] && given[key] === undefined) throw invalid(`${name}() needs the argument "${key}"`);
    }
    const call = `outbox.${signature.name}(${parts.join(', ')})`;
    return { text: formOf(signature, call), values, ...(OFTEN.has(name) ? { often: true } : {}) };
}

/** Returns the query around a call, whose only column is the JSON of a row. */
function formOf({ returns, columns }: Signature, call: string): string {
    switch (returns) {
        case 'nothing':
            return `select ${call}::text as r`;
        case 'value':
        case 'values':
            return columns[0]?.[1] === 'interval' ? `select extract(epoch from ${call})::text as r` : `select to_json(r)::text as r from ${call} r`;
        default: {
            const chosen = [...columns.map(selected), ...(isEvent(columns) ? [ERASED] : [])];
            return `select row_to_json(s)::text as r from (select ${chosen.join(', ')} from ${call} r) s`;
        }
    }
}

/** Calls a function of the schema. */
export async function call(client: Executor, name: FunctionName, args: object = {}): Promise<any> {
    const { signature } = prepare(name);
    const rows = await run(client, callStatement(name, args));
    const first = rows[0]?.r ?? null;
    const type = signature.columns[0]?.[1] ?? 'text';
    switch (signature.returns) {
        case 'nothing':
            return undefined;
        case 'value':
            return first === null ? null : back(JSON.parse(first), type);
        case 'values':
            return rows.map((r) => (r.r == null ? null : back(JSON.parse(r.r), type)));
        case 'row':
            return first === null ? null : row(first, signature.columns);
        case 'rows':
            return rows.map((r) => row(r.r as string, signature.columns));
    }
}

/** The selection and order of the rows of a view. */
export interface ViewOptions<Row> {
    /** The values that columns must have. Null selects rows in which the column is null. */
    where?: { [K in keyof Row]?: Row[K] };
    orderBy?: keyof Row & string;
    descending?: boolean;
    /** The largest number of rows. The default is 100. */
    limit?: number;
    offset?: number;
}

/** Returns rows of a view or table of the schema. */
export async function rowsOf(client: Executor, view: ViewName, options: ViewOptions<any> = {}): Promise<any[]> {
    const columns: Signature['columns'] | undefined = VIEWS[view];
    if (columns === undefined) {
        throw invalid(`there is no view "${view}"`, { hint: `There are ${Object.keys(VIEWS).join(', ')}.` });
    }
    const byName = new Map(columns.map((column) => [camel(column[0]), column]));
    const column = (key: string): readonly [string, string] => {
        const found = byName.get(key);
        if (found === undefined) {
            throw invalid(`"${view}" has no column "${key}"`, { hint: `It has ${[...byName.keys()].join(', ')}.` });
        }
        return found;
    };
    const values: Value[] = [];
    const conditions: string[] = [];
    for (const [key, wanted] of Object.entries(options.where ?? {})) {
        if (wanted === undefined) continue;
        const [name, type] = column(key);
        if (wanted === null) {
            conditions.push(`r."${name}" is null`);
            continue;
        }
        const { value, cast } = argument(wanted, type, key);
        values.push(value);
        conditions.push(`r."${name}" = ${cast(`$${values.length}`)}`);
    }
    const count = (value: number, what: string): number => {
        if (!Number.isInteger(value) || value < 0) throw invalid(`${what} is not a whole number`);
        return value;
    };
    let text = `select ${columns.map(selected).join(', ')} from outbox."${view}" r`;
    if (conditions.length > 0) text += ` where ${conditions.join(' and ')}`;
    if (options.orderBy !== undefined) {
        text += ` order by r."${column(options.orderBy)[0]}"${options.descending ? ' desc' : ''}`;
    }
    text += ` limit ${count(options.limit ?? 100, 'limit')} offset ${count(options.offset ?? 0, 'offset')}`;
    const rows = await run(client, { text: `select row_to_json(s)::text as r from (${text}) s`, values });
    return rows.map((r) => row(r.r as string, columns));
}
