/**
 * Read models: the rows of a table of the application, in its transaction, and the same in memory for tests.
 *
 * The types of the columns are given once. So every value is sent as text with a cast, as all statements of this package, and the
 * rows are the same with every driver. A query that needs more than this is a statement of your query builder on the same table.
 */

import { checkSession, run, type Executor, type Session, type Statement, type TextRow, type Value } from '../client/driver.js';
import { ConflictError, invalid, NotFoundError } from '../client/errors.js';
import { argument, timeOf } from '../client/sql.js';

/** The type of a column: a type of PostgreSQL, `int[]` for a list of them. */
export type ColumnType = ScalarType | `${ScalarType}[]` | (string & {});
type ScalarType = 'int' | 'bigint' | 'float8' | 'numeric' | 'text' | 'uuid' | 'boolean' | 'date' | 'timestamptz' | 'jsonb';

/** A column: its type, or its type and its name, where that is not the name of the property. */
export type Column = ColumnType | { readonly type: ColumnType; readonly name: string };

/** The columns of a table, by the names of the properties. */
export type Columns = Record<string, Column>;

type TypeOf<C> = C extends { readonly type: infer T } ? T : C;
type ValueOf<T> = T extends `${infer Of}[]`
    ? ValueOf<Of>[]
    : T extends 'int' | 'bigint' | 'float8'
      ? number
      : T extends 'text' | 'uuid' | 'numeric' | 'date'
        ? string
        : T extends 'boolean'
          ? boolean
          : T extends 'timestamptz'
            ? Date
            : any;

/** A row of a table with these columns. */
export type RowOf<C extends Columns> = { [Name in keyof C & string]: ValueOf<TypeOf<C[Name]>> | null };

/** The form of the rows. */
export interface Shape<C extends Columns, M = RowOf<C>> {
    columns: C;
    /** The columns of the primary key. */
    key: (keyof C & string) | readonly (keyof C & string)[];
    /** Makes an object of a row. The default is the row itself. */
    into?: (row: RowOf<C>) => M;
}

/** A table, and the form of its rows. */
export interface Table<C extends Columns, M = RowOf<C>> extends Shape<C, M> {
    /** The name of the table, with its schema or without: `public.totals`. */
    table: string;
}

/** The operators of conditions. */
export type Operator = '=' | '!=' | '>' | '>=' | '<' | '<=' | 'in' | 'not in' | 'like' | 'is null' | 'is not null' | 'contains' | 'between';

/** A column, an operator and its values: none behind `is null` and `is not null`, two behind `between`, else one. */
export type Condition<Name extends string = string> = readonly [column: Name, operator: Operator, ...values: unknown[]];

/** The selection of a query, and the order of its rows. */
export interface FindOptions<Name extends string = string> {
    /** Conditions that all hold. */
    where?: readonly Condition<Name>[];
    /** Columns; `-` before the name is descending. The key comes last, so that pages do not overlap. */
    order?: readonly (Name | `-${Name}`)[];
    /** The largest number of rows: 1 to 10000. The default is 100. */
    limit?: number;
    offset?: number;
    /** Also counts all rows for which the conditions hold. */
    withTotal?: boolean;
}

/** Rows of a query. */
export interface Page<M> {
    items: M[];
    /** There are further rows behind them. */
    hasMore: boolean;
    /** The number of rows for which the conditions hold, if it was asked for. */
    total?: number;
}

/** The key of a row: a value, or a list of the values of several columns. */
export type Key = unknown;

const LONGEST = 10_000;
const OPERATORS: Record<Operator, { values: number; sql: (column: string, ...marks: string[]) => string }> = {
    '=': { values: 1, sql: (c, v) => `${c} = ${v}` },
    '!=': { values: 1, sql: (c, v) => `${c} <> ${v}` },
    '>': { values: 1, sql: (c, v) => `${c} > ${v}` },
    '>=': { values: 1, sql: (c, v) => `${c} >= ${v}` },
    '<': { values: 1, sql: (c, v) => `${c} < ${v}` },
    '<=': { values: 1, sql: (c, v) => `${c} <= ${v}` },
    in: { values: 1, sql: (c, v) => `${c} = any (${v})` },
    'not in': { values: 1, sql: (c, v) => `${c} <> all (${v})` },
    like: { values: 1, sql: (c, v) => `${c} like ${v}` },
    'is null': { values: 0, sql: (c) => `${c} is null` },
    'is not null': { values: 0, sql: (c) => `${c} is not null` },
    contains: { values: 1, sql: (c, v) => `${c} @> ${v}` },
    between: { values: 2, sql: (c, a, b) => `${c} between ${a} and ${b}` },
};
const ORDERING: readonly Operator[] = ['>', '>=', '<', '<=', 'between'];
const TEXTS = /^(text|varchar|char|character|citext)\b(?!.*\[\])/;

interface Known {
    /** The name of the property. */
    name: string;
    /** The name of the column, quoted. */
    sql: string;
    type: string;
}

/** A condition that is checked, with the types of its values. */
export interface Checked {
    column: Known;
    operator: Operator;
    values: { value: unknown; type: string }[];
}

const quoted = (name: string): string => `"${name.replace(/"/g, '""')}"`;
const missing = (key: Key) => new NotFoundError(`there is no row with the key ${shown(key)}`, 'OB001');
const existing = (key: Key) => new ConflictError(`there is a row with the key ${shown(key)} already`, '23505', { codeName: 'unique_violation' });
const shown = (key: Key): string => JSON.stringify(key, (_, part) => (typeof part === 'bigint' ? String(part) : part)).slice(0, 200);

/** The methods of read models over a table and in memory, and the checks of their arguments. */
export abstract class AnyReadModel<C extends Columns = Columns, M = RowOf<C>> {
    protected readonly known = new Map<string, Known>();
    protected readonly keys: Known[];
    protected readonly into: (row: RowOf<C>) => M;

    constructor({ columns, key, into }: Shape<C, M>) {
        for (const [name, column] of Object.entries(columns as Columns)) {
            const { type, name: sql } = typeof column === 'string' ? { type: column, name } : column;
            // The type becomes a part of the statements.
            if (!/^[a-z][a-z0-9_ ]*(\(\d+(, ?\d+)?\))?(\[\])?$/i.test(type)) throw invalid(`"${type}" is no type of a column`);
            this.known.set(name, { name, sql: quoted(sql), type: type.toLowerCase() });
        }
        this.keys = (typeof key === 'string' ? [key] : [...key]).map((name) => this.column(name));
        if (this.keys.length === 0) throw invalid('a read model needs a key');
        this.into = into ?? ((row) => row as unknown as M);
    }

    /** Returns the row with a key. Throws a NotFoundError. */
    async get(tx: Executor, key: Key): Promise<M> {
        const [row] = await this.rowsOf(tx, [this.#parts(key)]);
        if (row === undefined) throw missing(key);
        return this.into(row);
    }

    /** Returns the rows with these keys, in the order of the keys. Keys without a row are left out. */
    async getMany(tx: Executor, keys: readonly Key[]): Promise<M[]> {
        if (keys.length > LONGEST) throw invalid('too many keys', { hint: `At most ${LONGEST}.` });
        if (keys.length === 0) return [];
        return (await this.rowsOf(tx, keys.map((key) => this.#parts(key)))).map(this.into);
    }

    /** Returns the rows for which all conditions hold. */
    async find(tx: Executor, options: FindOptions<keyof C & string> = {}): Promise<Page<M>> {
        const { where = [], order = [], limit = 100, offset = 0, withTotal = false } = options;
        if (!Number.isInteger(limit) || limit < 1 || limit > LONGEST || !Number.isSafeInteger(offset) || offset < 0) {
            throw invalid('invalid limit or offset', { hint: `limit: 1 to ${LONGEST}; offset: from 0 on.` });
        }
        const checked = this.#conditions(where);
        const sorted = order.map((name) => this.#ordered(name));
        const rows = await this.select(tx, checked, sorted, limit + 1, offset);
        const page: Page<M> = { items: rows.slice(0, limit).map(this.into), hasMore: rows.length > limit };
        if (withTotal) page.total = await this.number(tx, checked);
        return page;
    }

    /** Returns the first row for which all conditions hold, or undefined. */
    async findOne(tx: Executor, options: Pick<FindOptions<keyof C & string>, 'where' | 'order'> = {}): Promise<M | undefined> {
        return (await this.find(tx, { ...options, limit: 1 })).items[0];
    }

    /** Returns the number of rows for which all conditions hold. */
    async count(tx: Executor, where: readonly Condition<keyof C & string>[] = []): Promise<number> {
        return this.number(tx, this.#conditions(where));
    }

    /** Inserts a row. Columns that are not given have their default. Throws a ConflictError if there is a row with its key. */
    async insert(tx: Session, item: Partial<RowOf<C>>): Promise<void> {
        const row = this.#values(item, true);
        if (!(await this.put(tx, row, false))) throw existing(this.keys.map(({ name }) => row.get(name)));
    }

    /** Inserts a row, or replaces those of its columns that are given if there is one with its key. */
    async upsert(tx: Session, item: Partial<RowOf<C>>): Promise<void> {
        await this.put(tx, this.#values(item, true), true);
    }

    /** Changes columns of a row. The key is not one of them. Throws a NotFoundError. */
    async update(tx: Session, key: Key, values: Partial<RowOf<C>>): Promise<void> {
        const changed = this.#values(values, false);
        const own = this.keys.find(({ name }) => changed.has(name));
        if (own !== undefined) throw invalid(`column "${own.name}" belongs to the key and cannot be changed`);
        const parts = this.#parts(key);
        const found = changed.size === 0 ? (await this.rowsOf(tx, [parts])).length > 0 : await this.change(tx, parts, changed);
        if (!found) throw missing(key);
    }

    /** Deletes a row. Throws a NotFoundError. */
    async delete(tx: Session, key: Key): Promise<void> {
        if (!(await this.remove(tx, this.#parts(key)))) throw missing(key);
    }

    /** Deletes the rows for which all conditions hold, at least one condition, and returns how many. */
    async deleteMany(tx: Session, where: readonly Condition<keyof C & string>[]): Promise<number> {
        if (where.length === 0) throw invalid('deleteMany() needs a condition', { hint: 'clear() deletes all rows.' });
        return this.removeAll(tx, this.#conditions(where));
    }

    /** Deletes all rows, and returns how many. */
    async clear(tx: Session): Promise<number> {
        return this.removeAll(tx, []);
    }

    protected abstract rowsOf(tx: Executor, keys: unknown[][]): Promise<RowOf<C>[]>;
    protected abstract select(tx: Executor, where: Checked[], order: Sorted[], limit: number, offset: number): Promise<RowOf<C>[]>;
    protected abstract number(tx: Executor, where: Checked[]): Promise<number>;
    /** Inserts a row, or replaces one. Returns false if there was one that is not replaced. */
    protected abstract put(tx: Session, row: Map<string, unknown>, replace: boolean): Promise<boolean>;
    protected abstract change(tx: Session, key: unknown[], values: Map<string, unknown>): Promise<boolean>;
    protected abstract remove(tx: Session, key: unknown[]): Promise<boolean>;
    protected abstract removeAll(tx: Session, where: Checked[]): Promise<number>;

    protected column(name: unknown): Known {
        const known = typeof name === 'string' ? this.known.get(name) : undefined;
        if (known !== undefined) return known;
        throw invalid(`there is no column "${String(name).slice(0, 100)}"`, { hint: `There are ${[...this.known.keys()].join(', ')}.` });
    }

    #ordered(name: string): Sorted {
        const descending = name.startsWith('-');
        const column = this.column(descending ? name.slice(1) : name);
        if (column.type.startsWith('json')) throw invalid(`column "${column.name}" has no order`, { detail: `It is ${column.type}.` });
        return { column, descending };
    }

    #parts(key: Key): unknown[] {
        const parts = Array.isArray(key) ? key : [key];
        if (parts.length === this.keys.length && parts.every((part) => part !== undefined && part !== null)) return parts;
        throw invalid(`the key has ${this.keys.length} columns`, { detail: `Given are ${parts.length}, and none of them may be null.` });
    }

    /** Returns the columns that are given. Properties that are undefined are not. */
    #values(item: unknown, whole: boolean): Map<string, unknown> {
        if (typeof item !== 'object' || item === null || Array.isArray(item)) throw invalid('a row is an object');
        const found = new Map<string, unknown>();
        for (const [name, value] of Object.entries(item)) {
            if (value !== undefined) found.set(this.column(name).name, value);
        }
        const absent = this.keys.find(({ name }) => (found.get(name) ?? null) === null);
        if (whole && absent !== undefined) throw invalid(`the row has no "${absent.name}"`, { detail: 'It belongs to the key.' });
        return found;
    }

    #conditions(where: readonly Condition[]): Checked[] {
        return where.map((condition) => {
            if (!Array.isArray(condition) || condition.length < 2) throw invalid('malformed condition', { hint: "For example ['amount', '>=', 10]." });
            const [name, given, ...values] = condition as [unknown, unknown, ...unknown[]];
            const column = this.column(name);
            const operator = String(given).toLowerCase() as Operator;
            if (!Object.hasOwn(OPERATORS, operator)) {
                throw invalid(`unknown operator "${operator.slice(0, 50)}"`, { hint: `The operators are ${Object.keys(OPERATORS).join(', ')}.` });
            }
            const wanted = OPERATORS[operator].values;
            if (values.length !== wanted) throw invalid(`operator "${operator}" has ${wanted} values, and not ${values.length}`);
            const fits =
                operator === 'like' ? TEXTS.test(column.type) : operator === 'contains' ? /\[\]$|^jsonb$/.test(column.type) : !(ORDERING.includes(operator) && column.type.startsWith('json'));
            if (!fits) throw invalid(`operator "${operator}" does not fit column "${column.name}"`, { detail: `It is ${column.type}.` });
            if (['in', 'not in'].includes(operator)) {
                if (!Array.isArray(values[0])) throw invalid(`operator "${operator}" has a list`);
                return { column, operator, values: [{ value: values[0], type: `${column.type}[]` }] };
            }
            const wrapped = operator === 'contains' && (typeof values[0] !== 'object' || values[0] === null) ? [[values[0]]] : values;
            return { column, operator, values: wrapped.map((value) => ({ value: value === undefined ? null : value, type: column.type })) };
        });
    }
}

export interface Sorted {
    column: Known;
    descending: boolean;
}

/** The null of SQL is no value of a comparison, and `=` looks for it. */
export function comparesNull({ operator, values }: Checked): 'is null' | 'is not null' | undefined {
    if (values[0]?.value !== null) return undefined;
    return operator === '=' ? 'is null' : operator === '!=' ? 'is not null' : undefined;
}

/**
 * The rows of a table, in your transaction, of any driver that `enqueue` takes. Methods that only read take a pool as well.
 *
 * ```ts
 * const totals = new ReadModel({ table: 'totals', columns: { order: 'text', amount: 'int' }, key: 'order' });
 * await totals.upsert(tx, { order: '4711', amount: 42 });
 * const page = await totals.find(pool, { where: [['amount', '>=', 10]], order: ['-amount'], limit: 20 });
 * ```
 *
 * `int`, `bigint` and `float8` are numbers, `numeric` is text, `timestamptz` is a Date, `jsonb` is what it contains.
 */
export class ReadModel<const C extends Columns, M = RowOf<C>> extends AnyReadModel<C, M> {
    readonly #table: string;
    readonly #columns: string;

    constructor(table: Table<C, M>) {
        super(table);
        if (typeof table.table !== 'string' || table.table === '') throw invalid('a read model needs a table');
        this.#table = table.table.split('.').map(quoted).join('.');
        this.#columns = [...this.known.values()].map(({ name, sql, type }) => `${read(`r.${sql}`, type)} as ${quoted(name)}`).join(', ');
    }

    async #run(client: Executor, made: (mark: Mark) => string): Promise<TextRow[]> {
        return run(client, statement(made));
    }

    #row(text: string): RowOf<C> {
        const parsed = JSON.parse(text) as Record<string, unknown>;
        return Object.fromEntries([...this.known.values()].map(({ name, type }) => [name, taken(parsed[name], type, name)])) as unknown as RowOf<C>;
    }

    #where(mark: Mark, where: Checked[]): string {
        const conditions = where.map((one) => {
            const { column, operator, values } = one;
            const test = comparesNull(one);
            if (test !== undefined) return `r.${column.sql} ${test}`;
            return OPERATORS[operator].sql(`r.${column.sql}`, ...values.map(({ value, type }) => mark(value, type, column.name)));
        });
        return conditions.length === 0 ? '' : ` where ${conditions.join(' and ')}`;
    }

    #at(mark: Mark, key: unknown[]): string {
        return this.keys.map(({ name, sql, type }, i) => `r.${sql} = ${mark(key[i], type, name)}`).join(' and ');
    }

    protected async rowsOf(tx: Executor, keys: unknown[][]): Promise<RowOf<C>[]> {
        const rows = await this.#run(tx, (mark) => {
            // The server compares the keys, so that a number and its text are the same key.
            const lists = this.keys.map(({ name, type }, i) => mark(keys.map((key) => key[i]), `${type}[]`, name));
            const names = this.keys.map((_, i) => `k${i}`);
            const on = this.keys.map(({ sql }, i) => `r.${sql} = k.k${i}`).join(' and ');
            return `select (select row_to_json(s)::text from (select ${this.#columns}) s) as r from unnest(${lists.join(', ')}) with ordinality k(${[...names, 'n'].join(', ')}) join ${this.#table} r on ${on} order by k.n`;
        });
        return rows.map(({ r }) => this.#row(r!));
    }

    protected async select(tx: Executor, where: Checked[], order: Sorted[], limit: number, offset: number): Promise<RowOf<C>[]> {
        const sorted = [...order.map(({ column, descending }) => `r.${column.sql}${descending ? ' desc' : ''}`), ...this.keys.map(({ sql }) => `r.${sql}`)];
        const rows = await this.#run(
            tx,
            (mark) => `select row_to_json(s)::text as r from (select ${this.#columns} from ${this.#table} r${this.#where(mark, where)} order by ${sorted.join(', ')} limit ${limit} offset ${offset}) s`,
        );
        return rows.map(({ r }) => this.#row(r!));
    }

    protected async number(tx: Executor, where: Checked[]): Promise<number> {
        return Number((await this.#run(tx, (mark) => `select count(*)::text as r from ${this.#table} r${this.#where(mark, where)}`))[0]!.r);
    }

    protected async put(tx: Session, row: Map<string, unknown>, replace: boolean): Promise<boolean> {
        checkSession(tx, replace ? 'upsert' : 'insert', ALONE);
        const columns = [...row.keys()].map((name) => this.column(name));
        const others = columns.filter((column) => !this.keys.includes(column));
        const effect = replace && others.length > 0 ? `update set ${others.map(({ sql }) => `${sql} = excluded.${sql}`).join(', ')}` : 'nothing';
        const rows = await this.#run(tx, (mark) => {
            const values = columns.map(({ name, type }) => mark(row.get(name), type, name));
            return `insert into ${this.#table} (${columns.map(({ sql }) => sql).join(', ')}) values (${values.join(', ')}) on conflict (${this.keys.map(({ sql }) => sql).join(', ')}) do ${effect} returning '1'::text as r`;
        });
        return rows.length > 0;
    }

    protected async change(tx: Session, key: unknown[], values: Map<string, unknown>): Promise<boolean> {
        checkSession(tx, 'update', ALONE);
        const changed = await this.#changed(tx, (mark) => {
            const set = [...values].map(([name, value]) => `${this.column(name).sql} = ${mark(value, this.column(name).type, name)}`);
            return `update ${this.#table} r set ${set.join(', ')} where ${this.#at(mark, key)}`;
        });
        return changed > 0;
    }

    protected async remove(tx: Session, key: unknown[]): Promise<boolean> {
        checkSession(tx, 'delete', ALONE);
        return (await this.#changed(tx, (mark) => `delete from ${this.#table} r where ${this.#at(mark, key)}`)) > 0;
    }

    protected async removeAll(tx: Session, where: Checked[]): Promise<number> {
        checkSession(tx, 'deleteMany', ALONE);
        return this.#changed(tx, (mark) => `delete from ${this.#table} r${this.#where(mark, where)}`);
    }

    /** Returns the number of rows of an update or a delete. Drivers do not agree on how they tell it, so it is the result of a query. */
    async #changed(tx: Session, made: (mark: Mark) => string): Promise<number> {
        const rows = await this.#run(tx, (mark) => `with changed as (${made(mark)} returning 1) select count(*)::text as r from changed`);
        return Number(rows[0]!.r);
    }
}

const ALONE = 'Begin one with transaction(pool, async (tx) => ...).';

/** Adds a value to a statement, and returns its placeholder with its cast. */
type Mark = (value: unknown, type: string, name: string) => string;

function statement(made: (mark: Mark) => string): Statement {
    const values: Value[] = [];
    const text = made((value, type, name) => {
        const { value: one, cast } = argument(value, type, name);
        values.push(one);
        return cast(`$${values.length}`);
    });
    return { text, values };
}

/** The form in which a column is read as JSON. The parser of JavaScript would round a number of type numeric. */
const read = (column: string, type: string): string => (isExact(type) ? `${column}::text${type.endsWith('[]') ? '[]' : ''}` : column);
export const isExact = (type: string): boolean => /^(numeric|decimal)\b/.test(type);
export const isTime = (type: string): boolean => /^(timestamptz|timestamp with time zone)/.test(type);

/** Returns the value of a column from the JSON of its row. */
export function taken(value: unknown, type: string, name: string): unknown {
    if (value === null || value === undefined) return null;
    if (type.endsWith('[]')) return (value as unknown[]).map((item) => taken(item, type.slice(0, -2), name));
    if (isTime(type)) return timeOf(value as string);
    // JSON has no number for NaN and the infinities.
    if (typeof value === 'string' && /^(float|double|real)/.test(type)) return Number(value);
    if (/^(bigint|int8)$/.test(type) && !Number.isSafeInteger(value)) {
        throw invalid(`the value of column "${name}" is too large for a number`, { hint: 'As numeric it is text.' });
    }
    return value;
}
