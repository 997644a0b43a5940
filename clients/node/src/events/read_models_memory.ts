/** Read models in memory, for tests: the same methods and the same answers as over a table, without a database. */

import { isDeepStrictEqual } from 'node:util';

import type { Executor, Session } from '../client/driver.js';
import { invalid } from '../client/errors.js';
import { argument, timeOf } from '../client/sql.js';
import { AnyReadModel, comparesNull, isExact, isTime, taken, type Checked, type Columns, type RowOf, type Sorted } from './read_models.js';

/**
 * The same in memory, for tests. The transaction is not used and may be undefined. Columns that are not given when a row is inserted are
 * null. Text is in the order of its bytes, while a database has its collation.
 */
export class InMemoryReadModel<const C extends Columns, M = RowOf<C>> extends AnyReadModel<C, M> {
    readonly #rows = new Map<string, Record<string, unknown>>();

    #place(key: unknown[]): string {
        return JSON.stringify(this.keys.map(({ type, name }, i) => kept(key[i], type, name)));
    }

    #matching(where: Checked[]): [string, Record<string, unknown>][] {
        return [...this.#rows].filter(([, row]) => where.every((condition) => holds(row[condition.column.name] ?? null, condition)));
    }

    #copies(rows: Iterable<Record<string, unknown>>): RowOf<C>[] {
        return [...rows].map((row) => structuredClone(row) as unknown as RowOf<C>);
    }

    protected async rowsOf(_tx: Executor, keys: unknown[][]): Promise<RowOf<C>[]> {
        const found = keys.map((key) => this.#rows.get(this.#place(key)));
        return this.#copies(found.filter((row) => row !== undefined));
    }

    protected async select(_tx: Executor, where: Checked[], order: Sorted[], limit: number, offset: number): Promise<RowOf<C>[]> {
        const sorted = [...order, ...this.keys.map((column) => ({ column, descending: false }))];
        const rows = this.#matching(where).map(([, row]) => row);
        rows.sort((a, b) => {
            for (const { column, descending } of sorted) {
                const compared = placed(a[column.name], b[column.name], column.type);
                if (compared !== 0) return descending ? -compared : compared;
            }
            return 0;
        });
        return this.#copies(rows.slice(offset, offset + limit));
    }

    protected async number(_tx: Executor, where: Checked[]): Promise<number> {
        return this.#matching(where).length;
    }

    protected async put(_tx: Session, row: Map<string, unknown>, replace: boolean): Promise<boolean> {
        const place = this.#place(this.keys.map(({ name }) => row.get(name)));
        const before = this.#rows.get(place);
        if (before !== undefined && !replace) return false;
        const absent = Object.fromEntries([...this.known.keys()].map((name) => [name, null]));
        this.#rows.set(place, { ...absent, ...before, ...this.#kept(row) });
        return true;
    }

    protected async change(_tx: Session, key: unknown[], values: Map<string, unknown>): Promise<boolean> {
        const row = this.#rows.get(this.#place(key));
        if (row !== undefined) Object.assign(row, this.#kept(values));
        return row !== undefined;
    }

    protected async remove(_tx: Session, key: unknown[]): Promise<boolean> {
        return this.#rows.delete(this.#place(key));
    }

    protected async removeAll(_tx: Session, where: Checked[]): Promise<number> {
        const found = this.#matching(where);
        for (const [place] of found) this.#rows.delete(place);
        return found.length;
    }

    #kept(values: Map<string, unknown>): Record<string, unknown> {
        return Object.fromEntries([...values].map(([name, value]) => [name, kept(value, this.column(name).type, name)]));
    }
}

/** Returns a value as a column of this type would give it back. A value that no column takes is refused here as well. */
function kept(value: unknown, type: string, name: string): unknown {
    if (value === null || value === undefined) return null;
    const { value: text } = argument(value, type, name);
    if (type.endsWith('[]')) return (value as unknown[]).map((item) => kept(item, type.slice(0, -2), name));
    if (/^jsonb?$/.test(type)) {
        return JSON.parse(text!, (key, part) => {
            if (type === 'jsonb' && [key, part].some((one) => typeof one === 'string' && one.includes('\0'))) throw invalid(`${name} contains a NUL character`);
            return part;
        });
    }
    if (isTime(type)) {
        const time = timeOf(text!);
        if (Number.isNaN(time.getTime())) throw invalid(`${name} is not a valid time`);
        return time;
    }
    if (/^(int|integer|int[248]|smallint|bigint|float[48]?|double precision|real)$/.test(type)) return taken(Number(text), type, name);
    if (type === 'date') return text!.replace(/T.*?(?= BC$|$)/, '');
    if (type === 'uuid') return text!.toLowerCase();
    if (type.startsWith('bool')) return /^(t|true|1|on|yes|y)$/i.test(text!);
    return text;
}

function holds(value: unknown, condition: Checked): boolean {
    const { column, operator } = condition;
    const test = comparesNull(condition) ?? operator;
    if (test === 'is null') return value === null;
    if (test === 'is not null') return value !== null;
    const [first, second] = condition.values.map(({ value: one, type }) => kept(one, type, column.name));
    if (operator === 'not in' && (first as unknown[]).length === 0) return true;
    // A comparison with null is never true in SQL.
    if (value === null || first === null || second === null) return false;
    const compared = (other: unknown) => ordered(value, other, column.type);
    switch (operator) {
        case '=':
            return compared(first) === 0;
        case '!=':
            return compared(first) !== 0;
        case '>':
            return compared(first) > 0;
        case '>=':
            return compared(first) >= 0;
        case '<':
            return compared(first) < 0;
        case '<=':
            return compared(first) <= 0;
        case 'between':
            return compared(first) >= 0 && compared(second) <= 0;
        case 'in':
            return (first as unknown[]).some((one) => one !== null && compared(one) === 0);
        case 'not in':
            return (first as unknown[]).every((one) => one !== null && compared(one) !== 0);
        case 'like':
            return pattern(String(first)).test(String(value));
        case 'contains':
            return column.type === 'jsonb' ? jsonContains(value, first) : (first as unknown[]).every((one) => (value as unknown[]).some((item) => item !== null && isDeepStrictEqual(item, one)));
        default:
            return false;
    }
}

/** The order of two values that are not null. Only equality counts for JSON. */
function ordered(a: unknown, b: unknown, type: string): number {
    if (type.endsWith('[]')) {
        const [left, right] = [a as unknown[], b as unknown[]];
        for (let i = 0; i < Math.min(left.length, right.length); i += 1) {
            const compared = placed(left[i], right[i], type.slice(0, -2));
            if (compared !== 0) return compared;
        }
        return left.length - right.length;
    }
    if (type.startsWith('json')) return isDeepStrictEqual(a, b) ? 0 : 1;
    if (isExact(type) || typeof a === 'number') {
        const [first, second] = [Number(a), Number(b)];
        // In PostgreSQL, NaN is equal to itself and above all other numbers.
        if (Number.isNaN(first) || Number.isNaN(second)) return Number(Number.isNaN(first)) - Number(Number.isNaN(second));
        return first < second ? -1 : Number(first > second);
    }
    if (typeof a === 'string') return Buffer.compare(Buffer.from(a), Buffer.from(String(b)));
    return a! < b! ? -1 : a! > b! ? 1 : 0;
}

/** The order of two values among nulls, which come last, as in PostgreSQL. */
function placed(a: unknown, b: unknown, type: string): number {
    const [first, second] = [a ?? null, b ?? null];
    if (first === null || second === null) return Number(first === null) - Number(second === null);
    return ordered(first, second, type);
}

/** Returns a pattern of LIKE as a regular expression. */
function pattern(like: string): RegExp {
    const parts = like.match(/\\[^]|[^]/gu) ?? [];
    const one = (part: string) => (part === '%' ? '.*' : part === '_' ? '.' : part.replace(/^\\(?=[^])/, '').replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
    return new RegExp(`^${parts.map(one).join('')}$`, 'su');
}

/** The containment of jsonb: objects and lists have at least these parts, at every depth. */
function jsonContains(value: unknown, part: unknown): boolean {
    if (Array.isArray(part)) return Array.isArray(value) && part.every((one) => value.some((item) => jsonContains(item, one)));
    if (typeof part === 'object' && part !== null) {
        if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
        return Object.entries(part).every(([name, one]) => Object.hasOwn(value, name) && jsonContains((value as Record<string, unknown>)[name], one));
    }
    return value === part;
}
