"""Writes clients/node/src/client/functions.ts and clients/node/src/client/codes.ts."""

from text import base, camel, pascal

PATH = "clients/node/src/client/functions.ts"
ERRORS_PATH = "clients/node/src/client/codes.ts"

HEAD = """\
// Made by tools/gen/clients.py from the schema of the extension: do not edit.

import type { Interval, Signature } from './sql.js';
"""

# Types of TypeScript for the values that are returned. `back` in sql.ts converts to them.
TS = {
    "smallint": "number", "integer": "number", "bigint": "number", "boolean": "boolean", "jsonb": "any", "numeric": "number",
    "double precision": "number", "real": "number", "timestamp with time zone": "Date", "interval": "number", "bytea": "Buffer", "oid": "number",
}
# Types of TypeScript for arguments that are not those of returned values.
TS_ARGUMENT = {"interval": "Interval", "timestamp with time zone": "Date | string", "bigint": "number | bigint", "bytea": "Uint8Array"}
# Types of TypeScript for JSON columns whose form is known.
TS_JSON = {"headers": "Record<string, string>", "metadata": "Record<string, unknown>"}
# Shorter names of types, for the casts in statements.
SQL = {"integer": "int", "double precision": "float8", "timestamp with time zone": "timestamptz"}
# Secrets are shown only once, by the functions that create them.
HIDDEN = {"secret"}


def sql_type(kind):
    return SQL.get(base(kind), base(kind)) + ("[]" if kind.endswith("[]") else "")


def union(values):
    return " | ".join(f"'{value}'" for value in values)


def ts_type(column):
    inner = union(column["values"]) if column.get("values") else TS.get(base(column["type"]), "string")
    if not column["type"].endswith("[]"):
        return inner
    return f"({inner})[]" if "|" in inner else f"{inner}[]"


def ts_argument(argument):
    kind = base(argument["type"])
    inner = union(argument["values"]) if argument["values"] else TS_ARGUMENT.get(kind, TS.get(kind, "string"))
    if not argument["type"].endswith("[]"):
        return inner
    return f"readonly ({inner})[]" if "|" in inner else f"readonly {inner}[]"


def field(column):
    kind = TS_JSON.get(column["name"], "any") if column["type"] == "jsonb" else ts_type(column)
    maybe = "" if column["never_null"] or kind == "any" else " | null"
    return f"    {camel(column['name'])}: {kind}{maybe};"


def interface(name, columns):
    return "\n".join([f"export interface {name} {{", *(field(c) for c in columns), "}"])


def doc(text):
    return "    /** " + " ".join(text.replace("*/", "* /").split()) + " */\n" if text else ""


def shown(columns):
    return [c for c in columns or [] if c["name"] not in HIDDEN]


def pairs(columns):
    return ", ".join(f"['{c['name']}', '{sql_type(c['type'])}']" for c in columns)


def row_interface(function):
    return pascal(function["composite"] or function["name"]) + "Row"


def result(function):
    """Returns the type of what a method resolves to."""
    if function["kind"] == "void":
        return "void"
    if function["row"]:
        return row_interface(function) + ("[]" if function["kind"] == "rows" else "")
    inner = ts_type({"type": function["returns"]})
    return f"{inner}[]" if function["kind"] == "values" else inner


def method(function):
    args = []
    for a in function["args"]:
        kind = ts_argument(a)
        # Null stands for all deliveries of a lease.
        null = " | null" if (not a["required"] or a["name"] == "delivery_ids") and kind != "any" else ""
        args.append(f"{camel(a['name'])}{'' if a['required'] else '?'}: {kind}{null}")
    optional = "?" if all(not a["required"] for a in function["args"]) else ""
    given = f"args{optional}: {{ {'; '.join(args)} }}" if args else ""
    return f"{doc(function['doc'])}    {camel(function['name'])}({given}): Promise<{result(function)}>;"


def entry(function):
    args = ", ".join(f"['{a['name']}', '{sql_type(a['type'])}', {'false' if a['required'] else 'true'}]" for a in function["args"])
    kind = "nothing" if function["kind"] == "void" else function["kind"]
    columns = shown(function["columns"]) if function["row"] else [{"name": function["name"], "type": function["returns"]}]
    return (
        f"    {function['name']}: {{\n        name: '{function['name']}',\n        args: [{args}],\n        returns: '{kind}',\n"
        f"        columns: [{'' if kind == 'nothing' else pairs(columns)}],\n    }},"
    )


def write(model):
    interfaces = {}
    for f in model["functions"]:
        if f["row"]:
            interfaces.setdefault(row_interface(f), shown(f["columns"]))
    # The table of dead letters is that of the view dead_letter_status without the message.
    tables = [t for t in model["tables"] if t["name"] != "dead_letter"]
    for t in tables:
        interfaces[pascal(t["name"]) + "View"] = shown(t["columns"])
    parts = [
        HEAD,
        "export const FUNCTIONS = {",
        *(entry(f) for f in model["functions"]),
        "} as const satisfies Record<string, Signature>;\n",
        "export const VIEWS = {",
        *(f"    {t['name']}: [{pairs(shown(t['columns']))}]," for t in tables),
        "} as const satisfies Record<string, Signature['columns']>;\n",
        "export type FunctionName = keyof typeof FUNCTIONS;",
        "export type ViewName = keyof typeof VIEWS;\n",
        "\n\n".join(interface(name, columns) for name, columns in interfaces.items()) + "\n",
        "/** The views and tables, by name. */",
        "export interface Views {",
        *(f"{doc(t['doc'])}    {t['name']}: {pascal(t['name'])}View;" for t in tables),
        "}\n",
        "/** The functions of the schema `outbox`, with named arguments. */",
        "export interface Functions {",
        *(method(f) for f in model["functions"]),
        "}",
    ]
    return "\n".join(parts) + "\n"


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def write_errors(table):
    lines = ["// Made by tools/gen/clients.py from the table of errors of the core crate: do not edit.", "", "import type { ErrorKind } from './errors.js';", ""]
    for name, about, rows in (
        ("STATES", "Symbolic name and kind of a SQLSTATE.", table["states"]),
        ("CLASSES", "The same for the other SQLSTATEs that begin with these two characters.", table["classes"]),
    ):
        lines += [f"/** {about} */", f"export const {name}: Record<string, readonly [string, ErrorKind]> = {{"]
        lines += [f"    {quoted(state)}: [{quoted(symbol)}, {quoted(kind)}]," for state, symbol, kind in rows]
        lines += ["};", ""]
    lines += ["/** A hint for errors that have none, by symbolic name. */", "export const HINTS: Record<string, string> = {"]
    lines += [f"    {symbol}:\n        {quoted(hint)}," for symbol, hint in table["hints"]]
    return "\n".join([*lines, "};", ""])
