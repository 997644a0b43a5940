"""The model of the public schema, from which the methods of all clients are written.

The catalogue of a server has names, arguments, defaults, columns and comments. It cannot say which columns of a returned row
are never null, and which texts an argument accepts. `facts.py` says both, for all clients alike.

A function of the model:
    name, doc       as in SQL
    kind            void, value, values, row or rows
    returns         type of a value
    row             name of the row in SQL: that of the composite type or view, else that of the function
    args            each with name, type, required, and values (the texts that are accepted, or None)
    columns         each with name, type, never_null, and values
A table or view of the model: name, doc, columns.
"""

import json
import re
import subprocess
import sys

from facts import NEVER_NULL, SINGLE, TABLES, VALUES, VALUES_OF_COLUMN

QUERY = r"""
with f as (
    select p.oid, p.proname, p.proretset, p.pronargdefaults, p.pronargs, obj_description(p.oid, 'pg_proc') as doc,
        coalesce(p.proargnames, '{}') as names, coalesce(p.proallargtypes, array(select unnest(p.proargtypes))) as types,
        p.proargmodes as modes, p.prorettype, (select y.typrelid from pg_type y where y.oid = p.prorettype) as relid,
        (select y.typname from pg_type y where y.oid = p.prorettype) as retname
    from pg_proc p
    where p.pronamespace = 'outbox'::regnamespace and p.proname !~ '^_' and p.prokind = 'f'
        and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
)
select jsonb_build_object(
    'functions', (select jsonb_agg(jsonb_build_object(
        'name', f.proname, 'doc', f.doc, 'set', f.proretset, 'returns', format_type(f.prorettype, null),
        'composite', case when f.relid <> 0 then f.retname end,
        'args', (select coalesce(jsonb_agg(jsonb_build_object('name', f.names[i], 'type', format_type(f.types[i], null),
                'required', n <= f.pronargs - f.pronargdefaults) order by n), '[]')
            from (select i, row_number() over (order by i) as n from generate_subscripts(f.types, 1) i
                where coalesce(f.modes[i], 'i') in ('i', 'b', 'v')) a),
        'columns', case
            when f.relid <> 0 then (select jsonb_agg(jsonb_build_object('name', a.attname,
                    'type', format_type(a.atttypid, null), 'never_null', a.attnotnull) order by a.attnum)
                from pg_attribute a where a.attrelid = f.relid and a.attnum > 0 and not a.attisdropped)
            else (select jsonb_agg(jsonb_build_object('name', f.names[i], 'type', format_type(f.types[i], null),
                    'never_null', false) order by i)
                from generate_subscripts(f.types, 1) i where f.modes[i] in ('o', 't', 'b'))
        end) order by f.proname) from f),
    'tables', (select jsonb_agg(jsonb_build_object('name', c.relname, 'view', c.relkind = 'v', 'doc', obj_description(c.oid, 'pg_class'),
            'columns', (select jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, null),
                    'never_null', a.attnotnull) order by a.attnum)
                from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)) order by c.relname)
        from pg_class c where c.relnamespace = 'outbox'::regnamespace
            and (c.relkind = 'v' and c.relname !~ '^_' or c.relkind = 'r' and c.relname in (%s))),
    'checks', (select jsonb_agg(jsonb_build_array(c.conrelid::regclass, a.attname, pg_get_constraintdef(c.oid)))
        from pg_constraint c join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
        where c.connamespace = 'outbox'::regnamespace and c.contype = 'c' and cardinality(c.conkey) = 1))
"""


def enumerations(checks):
    """Returns the texts that the check constraint of a column accepts, by `table.column`."""
    found = {}
    for table, column, text in checks:
        items = re.fullmatch(r"CHECK \(\(\(?\w+\)? = ANY \(ARRAY\[(.*)\]\)\)\)", text)
        if items:
            found[f"{table.removeprefix('outbox.')}.{column}"] = tuple(re.findall(r"'([^']*)'::text", items[1]))
    return found


def accepted(owner, name, kind, enums):
    """Returns the texts that an argument or column has, or None if any text is possible."""
    if kind.removesuffix("[]") not in ("text", "name"):
        return None
    if (owner, name) in VALUES:
        return VALUES[owner, name]
    if (None, name) in VALUES:
        return VALUES[None, name]
    column = VALUES_OF_COLUMN.get((owner, name)) or VALUES_OF_COLUMN.get((None, name))
    if column and column not in enums:
        sys.exit(f"tools/gen/facts.py: {column} has no check constraint with a list of texts")
    return enums[column] if column else None


def read(psql, dsn):
    """Reads the model from a server that has the extension."""
    names = ", ".join(f"'{name}'" for name in TABLES)
    found = subprocess.run([psql, "-XAtq", "-d", dsn, "-c", QUERY % names], check=True, capture_output=True, text=True).stdout
    model = json.loads(found)
    enums = enumerations(model.pop("checks"))
    unused = {(row, column) for row, columns in NEVER_NULL.items() for column in columns.split()}

    def describe(row, columns):
        for column in columns or []:
            unused.discard((row, column["name"]))
            column["never_null"] = column["never_null"] or column["name"] in NEVER_NULL.get(row, "").split()
            column["values"] = accepted(row, column["name"], column["type"], enums)

    for f in model["functions"]:
        f["row"] = (f["composite"] or f["name"]) if f["columns"] else None
        many = f.pop("set") and f["name"] not in SINGLE
        if f["returns"] == "void":
            f["kind"] = "void"
        else:
            f["kind"] = ("row" if f["row"] else "value") + ("s" if many else "")
        for argument in f["args"]:
            argument["values"] = accepted(f["name"], argument["name"], argument["type"], enums)
        describe(f["row"], f["columns"])
    for table in model["tables"]:
        describe(table["name"], table["columns"])
    if unused:
        sys.exit(f"tools/gen/facts.py: NEVER_NULL names columns that do not exist: {sorted(unused)}")
    return model
