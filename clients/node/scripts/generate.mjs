// Writes src/functions.ts from the schema of a real server (the one of tools/harness): every public function with its
// arguments, result and comment, every public view and table with its columns. A test runs it with --check.
import { readFileSync, writeFileSync } from 'node:fs';
import pg from 'pg';
import { startServer } from '../test/server.mjs';

const target = new URL('../src/functions.ts', import.meta.url);

// Columns that are never null, although a composite type or a view cannot declare this.
const NOT_NULL = new Set([
    'lease', 'lease_expires_at', 'delivery_id', 'message_id', 'webhook_id', 'position', 'epoch', 'attempt', 'max_attempts', 'topic',
    'priority', 'enqueued_at', 'subscription',
]);
const NOT_NULL_IN = new Set(['claimed', 'feed_message']);

// Functions that return one row although they are declared to return a table. The list is that of the other clients'
// generator.
const single = new Set(
    [.../^SINGLE = \{([^}]*)\}/m.exec(readFileSync(new URL('../../../tools/gen/clients.py', import.meta.url), 'utf8'))[1].matchAll(/"(\w+)"/g)].map(
        (match) => match[1],
    ),
);

// A function with arguments of these types is not for clients.
const INTERNAL = new Set(['trigger', 'event_trigger', 'internal', 'cstring']);
const TABLES = ['endpoint', 'subscription', 'topic', 'publisher', 'audit'];
// Secrets are shown only once, by the functions that create them.
const HIDDEN = new Set(['secret']);

const tsTypes = {
    text: 'string', name: 'string', int2: 'number', int4: 'number', int8: 'number', float8: 'number', numeric: 'number',
    bool: 'boolean', jsonb: 'any', json: 'any', timestamptz: 'Date', bytea: 'Buffer', interval: 'number', uuid: 'string', regprocedure: 'string',
    regclass: 'string', jsonpath: 'string', oid: 'number', xid8: 'string', date: 'string', char: 'string', void: 'void', inet: 'string', cidr: 'string',
};
const sqlNames = { int2: 'smallint', int4: 'int', int8: 'bigint', float8: 'float8', bool: 'boolean' };
const sqlType = (t) => (t.startsWith('_') ? `${sqlNames[t.slice(1)] ?? t.slice(1)}[]` : (sqlNames[t] ?? t));
const tsType = (t) => {
    if (t.startsWith('_')) return `(${tsType(t.slice(1))})[]`.replace(/^\((\w+)\)\[\]$/, '$1[]');
    return tsTypes[t] ?? 'unknown';
};
const argType = (t) => {
    if (t.startsWith('_')) return `readonly ${argType(t.slice(1)).includes('|') ? `(${argType(t.slice(1))})` : argType(t.slice(1))}[]`;
    if (t === 'interval') return 'Interval';
    if (t === 'timestamptz') return 'Date | string';
    if (t === 'int8') return 'number | bigint';
    if (t === 'bytea') return 'Uint8Array';
    return tsType(t);
};
const camel = (s) => s.replace(/_([a-z0-9])/g, (_, c) => c.toUpperCase());
const pascal = (s) => camel(s).replace(/^./, (c) => c.toUpperCase());
const doc = (text, indent = '    ') => (text ? `${indent}/** ${text.replaceAll('*/', '* /').replace(/\s+/g, ' ')} */\n` : '');

export async function generate(client) {
    const { rows: types } = await client.query(`
        select t.oid::int as oid, t.typname as name, t.typtype as kind, n.nspname as schema, t.typrelid::int as relid
        from pg_type t join pg_namespace n on n.oid = t.typnamespace`);
    const byOid = new Map(types.map((t) => [t.oid, t]));
    const { rows: attributes } = await client.query(`
        select a.attrelid::int as relid, a.attname as name, t.typname as type, a.attnotnull as "notNull"
        from pg_attribute a join pg_type t on t.oid = a.atttypid join pg_class c on c.oid = a.attrelid
        where a.attnum > 0 and not a.attisdropped and c.relnamespace = 'outbox'::regnamespace order by a.attrelid, a.attnum`);
    const columnsOf = (relid) => attributes.filter((a) => a.relid === relid);
    const { rows: functions } = await client.query(`
        select p.proname as name, p.proretset as set, p.prorettype::int as ret, p.proargnames as names,
            p.proallargtypes::int[] as "all", p.proargtypes::int[] as "in", p.proargmodes as modes,
            p.pronargdefaults as defaults, obj_description(p.oid, 'pg_proc') as comment
        from pg_proc p
        where p.pronamespace = 'outbox'::regnamespace and p.proname not like '\\_%' and p.prokind = 'f'
            and obj_description(p.oid, 'pg_proc') is not null
        order by p.proname`);
    const { rows: views } = await client.query(`
        select c.oid::int as oid, c.relname as name, obj_description(c.oid, 'pg_class') as comment
        from pg_class c
        where c.relnamespace = 'outbox'::regnamespace
            and (c.relkind in ('v', 'm') and c.relname not like '\\_%' or c.relkind = 'r' and c.relname = any ($1))
        order by c.relname`, [TABLES]);

    const rowTypes = new Map();
    const rowType = (name, columns, strict) => {
        if (!rowTypes.has(name)) {
            rowTypes.set(name, columns.map((c) => {
                const sure = c.notNull || (strict && NOT_NULL.has(c.name));
                return `    ${camel(c.name)}: ${tsType(c.type)}${sure || tsType(c.type) === 'any' ? '' : ' | null'};`;
            }));
        }
        return name;
    };
    const table = [];
    const methods = [];
    for (const f of functions) {
        const all = f.all ?? f.in;
        const modes = f.modes ? f.modes.replace(/[{}]/g, '').split(',') : all.map(() => 'i');
        const typeName = (oid) => byOid.get(oid)?.name ?? 'unknown';
        const ins = [];
        const outs = [];
        all.forEach((oid, i) => {
            const one = { name: f.names?.[i] ?? `arg${i + 1}`, type: typeName(oid) };
            if (modes[i] === 'i' || modes[i] === 'b') ins.push(one);
            if (modes[i] !== 'i') outs.push(one);
        });
        const ret = byOid.get(f.ret);
        if (INTERNAL.has(ret.name) || ins.some((a) => INTERNAL.has(a.type))) continue;
        f.set &&= !single.has(f.name);
        ins.forEach((a, i) => (a.optional = i >= ins.length - f.defaults));
        let returns;
        let columns;
        let result;
        if (ret.name === 'void') [returns, columns, result] = ['nothing', [], 'void'];
        else if (outs.length > 0 && (ret.name === 'record' || outs.length > 1)) {
            returns = f.set ? 'rows' : 'row';
            columns = outs;
            result = rowType(`${pascal(f.name)}Row`, outs, false);
        } else if (ret.kind === 'c') {
            returns = f.set ? 'rows' : 'row';
            columns = columnsOf(ret.relid);
            result = rowType(`${pascal(ret.name)}Row`, columns, NOT_NULL_IN.has(ret.name));
        } else {
            returns = f.set ? 'values' : 'value';
            columns = [{ name: f.name, type: ret.name }];
            result = tsType(ret.name);
        }
        columns = columns.filter((c) => !HIDDEN.has(c.name));
        table.push(
            `    ${f.name}: {\n        name: '${f.name}',\n        args: [${ins
                .map((a) => `['${a.name}', '${sqlType(a.type)}', ${a.optional}]`)
                .join(', ')}],\n        returns: '${returns}',\n        columns: [${columns
                .map((c) => `['${c.name}', '${sqlType(c.type)}']`)
                .join(', ')}],\n    },`,
        );
        const optional = ins.every((a) => a.optional);
        const args = ins.map((a) => `${camel(a.name)}${a.optional ? '?' : ''}: ${argType(a.type)}${(a.optional || a.name === 'delivery_ids') && argType(a.type) !== 'any' ? ' | null' : ''}`);
        methods.push(
            `${doc(f.comment)}    ${camel(f.name)}(${args.length === 0 ? '' : `args${optional ? '?' : ''}: { ${args.join('; ')} }`}): Promise<${
                f.set ? `${/[|]/.test(result) ? `(${result})` : result}[]` : result
            }>;`,
        );
    }
    const viewTable = [];
    const viewTypes = [];
    for (const v of views) {
        const columns = columnsOf(v.oid).filter((c) => !HIDDEN.has(c.name) && tsTypes[c.type.replace(/^_/, '')]);
        viewTable.push(`    ${v.name}: [${columns.map((c) => `['${c.name}', '${sqlType(c.type)}']`).join(', ')}],`);
        viewTypes.push(`${doc(v.comment)}    ${v.name}: ${rowType(`${pascal(v.name)}View`, columns, false)};`);
    }
    const interfaces = [...rowTypes].map(([name, lines]) => `export interface ${name} {\n${lines.join('\n')}\n}`);
    return `// Generated by scripts/generate.mjs from the schema of the extension; not edited by hand.

import type { Interval, Signature } from './sql.js';

export const FUNCTIONS = {
${table.join('\n')}
} as const satisfies Record<string, Signature>;

export const VIEWS = {
${viewTable.join('\n')}
} as const satisfies Record<string, Signature['columns']>;

export type FunctionName = keyof typeof FUNCTIONS;
export type ViewName = keyof typeof VIEWS;

${interfaces.join('\n\n')}

/** The views and tables, by name. */
export interface Views {
${viewTypes.join('\n')}
}

/** The functions of the schema \`outbox\`, with named arguments. */
export interface Functions {
${methods.join('\n')}
}
`;
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
    const server = await startServer();
    const client = new pg.Client(server.dsn);
    await client.connect();
    await client.query('create extension pg_outbox');
    const text = await generate(client);
    await client.end();
    await server.end();
    const same = (() => {
        try {
            return readFileSync(target, 'utf8') === text;
        } catch {
            return false;
        }
    })();
    if (process.argv.includes('--check')) {
        if (!same) console.error('src/functions.ts is not what the schema says: run "npm run generate"');
        process.exit(same ? 0 : 1);
    }
    if (!same) writeFileSync(target, text);
    console.log(same ? 'src/functions.ts is up to date' : 'src/functions.ts is written');
}
