#!/usr/bin/env python3
"""Writes the typed admin methods of the Rust and Python clients from the catalogue of a server that has the extension.

    tools/gen/clients.py PSQL DSN            write the files
    tools/gen/clients.py PSQL DSN --check    fail if a file is out of date, and name it

The SQL is the only source: names, arguments, defaults, columns and comments come from the catalogue.
"""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# These functions belong in the caller's transaction, so each client has hand-written versions of them.
BY_HAND = {"enqueue", "enqueue_bytes", "enqueue_many", "enqueue_notification", "enqueue_event", "set_context"}
# Functions that return one row although they are declared to return a table.
SINGLE = {
    "create_endpoint", "stats", "dead_letter_stats", "claim_delivery", "version", "rotate_secret", "archive_get", "archive_stats",
    "get_message",
}
# Tables and views that get a method which returns their rows: name -> method.
TABLES = {
    "endpoint": "endpoints", "subscription": "subscriptions", "topic": "topics", "publisher": "publishers",
    "delivery_status": "delivery_status", "dead_letter_status": "dead_letter_status", "dead_letter": "dead_letter_rows", "audit": "audit",
}
RESERVED_RUST = {"type", "where", "match", "move", "ref", "self", "loop", "in", "for", "as", "fn", "use", "final", "override"}
RESERVED_PY = {"from", "in", "is", "as", "not", "and", "or", "class", "def", "for", "if", "with", "return", "global", "lambda"}

QUERY = r"""
with t(oid, name) as (select oid, format_type(oid, null) from pg_type),
f as (
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
                    'type', format_type(a.atttypid, null)) order by a.attnum)
                from pg_attribute a where a.attrelid = f.relid and a.attnum > 0 and not a.attisdropped)
            else (select jsonb_agg(jsonb_build_object('name', f.names[i], 'type', format_type(f.types[i], null)) order by i)
                from generate_subscripts(f.types, 1) i where f.modes[i] in ('o', 't', 'b'))
        end) order by f.proname) from f),
    'tables', (select jsonb_agg(jsonb_build_object('name', c.relname, 'doc', obj_description(c.oid, 'pg_class'),
            'columns', (select jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, null),
                    'required', a.attnotnull) order by a.attnum)
                from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)) order by c.relname)
        from pg_class c where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'v') and c.relname = any (%s)))
"""


def camel(name, first=True):
    words = name.split("_")
    text = "".join(w.capitalize() for w in words)
    return text if first else text[:1].lower() + text[1:]


def base(kind):
    return kind.removesuffix("[]")


RUST = {
    "smallint": "i32", "integer": "i32", "bigint": "i64", "boolean": "bool", "jsonb": "Value", "numeric": "f64",
    "double precision": "f64", "real": "f64", "timestamp with time zone": "DateTime<Utc>", "interval": "f64",
}
PY = {
    "smallint": "int", "integer": "int", "bigint": "int", "boolean": "bool", "jsonb": "Any", "numeric": "float",
    "double precision": "float", "real": "float", "timestamp with time zone": "datetime", "interval": "timedelta",
    "bytea": "bytes",
}


def typed(kind, table, default, array):
    inner = table.get(base(kind), default)
    return array % inner if kind.endswith("[]") else inner


def rust_type(kind):
    return typed(kind, RUST, "String", "Vec<%s>")


def py_type(kind):
    return typed(kind, PY, "str", "list[%s]")


def shape(f):
    """Returns the kind of the result (void, row, rows, value or values) and the name of the row's type."""
    if f["returns"] == "void":
        return "void", None
    if f["columns"]:
        one = not f["set"] or f["name"] in SINGLE
        return ("row" if one else "rows"), camel(f["composite"]) if f["composite"] else camel(f["name"]) + "Row"
    return ("values" if f["set"] else "value"), None


def sentence(doc):
    doc = " ".join((doc or "").split())
    return doc if doc.endswith(".") or not doc else doc + "."


def wrapped(text, prefix, width=120):
    lines, line = [], prefix
    for word in text.split():
        if len(line) + len(word) + 1 > width and line.strip() != prefix.strip():
            lines.append(line.rstrip())
            line = prefix
        line += (" " if line != prefix or prefix.rstrip() == prefix and prefix.strip() else "") + word
    return "\n".join([*lines, line.rstrip()])


def intervals(columns):
    return [c["name"] for c in columns or [] if c["type"] == "interval"]


def rust(model):
    out = ["//! A method for each public function of the schema. Made by `tools/gen/clients.py` from the catalogue: do not edit.",
           "//!", "//! Required arguments are arguments of the method; optional ones are fields of its options. An interval that is returned is in",
           "//! seconds.", "",
           "use std::time::Duration;", "", "use chrono::{DateTime, Utc};", "use serde::{Deserialize, Serialize};",
           "use serde_json::{Value, json};", "",
           "use crate::call;", "use crate::error::Result;", "use crate::outbox::Outbox;", ""]
    rows = {}
    methods = []

    def struct(name, doc, columns):
        if name in rows:
            return
        text = [f"/// {doc}", "#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]", "#[non_exhaustive]",
                f"pub struct {name} {{"]
        for c in columns:
            text.append(f"    /// Column `{c['name']}`.")
            field = "r#" + c["name"] if c["name"] in RESERVED_RUST else c["name"]
            text.append(f"    pub {field}: Option<{rust_type(c['type'])}>,")
        rows[name] = "\n".join([*text, "}", ""])

    options = []
    for f in model["functions"]:
        kind, row = shape(f)
        if row:
            struct(row, f"A row of `outbox.{f['name']}()`." if not f["composite"] else f"A row of type `outbox.{f['composite']}`.", f["columns"])
        name = f["name"]
        args, body = [], []
        rest = [a for a in f["args"] if not a["required"]]
        for a in f["args"]:
            t = a["type"]
            ident = "r#" + a["name"] if a["name"] in RESERVED_RUST else a["name"]
            if a["required"]:
                ty = {"text": "&str", "name": "&str", "interval": "Duration", "text[]": "&[&str]", "bigint[]": "&[i64]",
                      "jsonb": "&Value"}.get(t, rust_type(t))
                args.append(f"{ident}: {ty}")
                body.append(f'"{a["name"]}": ' + (f"{ident}.as_secs_f64()" if t == "interval" else ident))
            else:
                body.append(f'"{a["name"]}": ' + (f"options.{ident}.map(|d| d.as_secs_f64())" if t == "interval" else f"options.{ident}"))
        if rest:
            oname = camel(name)
            if oname in rows or any(oname == (shape(g)[1]) for g in model["functions"]):
                oname += "Options"
            text = [f"/// Optional arguments of `outbox.{name}()`; `None` stands for the default.", "#[derive(Clone, Debug, Default)]",
                    f"pub struct {oname} {{"]
            for a in rest:
                ident = "r#" + a["name"] if a["name"] in RESERVED_RUST else a["name"]
                ty = "Duration" if a["type"] == "interval" else rust_type(a["type"])
                text.append(f"    /// Argument `{a['name']}`.")
                text.append(f"    pub {ident}: Option<{ty}>,")
            options.append("\n".join([*text, "}", ""]))
            args.append(f"options: {oname}")
        if kind == "void":
            ret = "()"
        elif row:
            ret = row if kind == "row" else f"Vec<{row}>"
        else:
            # A single value is an Option, because the function may return null.
            inner = rust_type(f["returns"])
            ret = f"Vec<{inner}>" if kind == "values" else (inner if f["returns"].endswith("[]") else f"Option<{inner}>")
        iv = json.dumps(intervals(f["columns"]))
        payload = "json!({" + ", ".join(body) + "})"
        if kind == "void":
            call = f'self.call_void("{name}", {payload}).await'
        else:
            conv = {"row": "single", "rows": "typed", "value": "single", "values": "typed"}[kind]
            call = f'call::{conv}(self.call("{name}", {payload}, &{iv}).await?)'
        doc = wrapped(sentence(f["doc"]) or f"`outbox.{name}`.", "    /// ", 118).replace("[", "\\[").replace("<", "\\<")
        method = {"move": "move_"}.get(name, name)
        sig = f"    pub async fn {method}(&self{''.join(', ' + a for a in args)}) -> Result<{ret}> {{"
        methods.append("\n".join([doc, "    ///", "    /// # Errors", "    /// Those of the function.", sig, "        " + call, "    }", ""]))
    for t in model["tables"]:
        row = camel(t["name"]) + "Entry"
        struct(row, f"A row of `outbox.{t['name']}`.", t["columns"])
        m = TABLES[t["name"]]
        methods.append("\n".join([
            f"    /// Rows of `outbox.{t['name']}` whose columns equal those of `filter` (an object; null: all), at most `limit`.",
            "    ///", "    /// # Errors", "    /// 22023 for an unknown column.",
            f"    pub async fn {m}(&self, filter: &Value, limit: i64) -> Result<Vec<{row}>> {{",
            f'        call::typed(self.table("{t["name"]}", filter, limit, &{json.dumps(intervals(t["columns"]))}).await?)', "    }", ""]))
    out += list(rows.values()) + options + ["impl Outbox {", "\n".join(methods).rstrip(), "}", ""]
    text = "\n".join(out)
    done = subprocess.run(["rustfmt", "--edition", "2024", "--config-path", str(ROOT / "rustfmt.toml")], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"rustfmt: {done.stderr}")
    return done.stdout


def python(model):
    head = ['"""A method for each public function of the schema. Made by tools/gen/clients.py from the catalogue: do not edit."""',
            "", "from __future__ import annotations", "", "from collections.abc import Mapping, Sequence", "from dataclasses import dataclass",
            "from datetime import datetime, timedelta", "from typing import Any", "", "from ._rows import Call, Shape", ""]
    rows, sync, asyn = {}, [], []

    def row_class(name, doc, columns):
        if name not in rows:
            text = ["", "@dataclass(frozen=True)", f"class {name}:", f'    """{doc}"""', ""]
            text += [f"    {c['name']}: {py_type(c['type'])} | None" for c in columns]
            rows[name] = "\n".join(text) + "\n"

    def emit(name, doc, params, args, ret, kind, row, columns, table):
        cols = {c["name"]: c["type"] for c in columns or [] if py_type(c["type"]) in ("datetime", "timedelta", "bytes")}
        spec = f'Shape("{kind}", {row or "None"}, {cols!r})'.replace("'", '"')
        payload = "{" + ", ".join(f'"{k}": {v}' for k, v in args) + "}"
        call = f'Call("{name}", dict(filter or {{}}), {spec}, table=True, limit=limit)' if table else f'Call("{name}", {payload}, {spec})'
        for out, prefix, run in ((sync, "", "self._run"), (asyn, "async ", "await self._arun")):
            out.append(f"    {prefix}def {params[0]}({', '.join(['self', *params[1]])}) -> {ret}:")
            out.append(wrapped(f'"""{doc}"""' if len(doc) < 100 else f'"""{doc}', "        ", 112).replace("\\", "\\\\"))
            if len(doc) >= 100:
                out.append('        """')
            out.append(f"        return {run}({call})  # type: ignore[no-any-return]" if ret != "None" else f"        {run}({call})")
            out.append("")

    for f in model["functions"]:
        kind, row = shape(f)
        if row:
            row_class(row, f"A row of outbox.{f['composite'] or f['name']}.", f["columns"])
        ident = lambda n: n + "_" if n in RESERVED_PY else n
        inp = lambda t: {"list[str]": "Sequence[str]", "list[int]": "Sequence[int]"}.get(py_type(t), py_type(t))
        req = [f"{ident(a['name'])}: {inp(a['type'])}" for a in f["args"] if a["required"]]
        opt = [f"{ident(a['name'])}: {inp(a['type'])} | None = None" for a in f["args"] if not a["required"]]
        params = req + (["*"] + opt if opt else [])
        value = None
        if kind == "void":
            ret = "None"
        elif row:
            ret = row if kind == "row" else f"list[{row}]"
        else:
            value = py_type(f["returns"])
            ret = f"list[{value}]" if kind == "values" else (value if f["returns"].endswith("[]") else f"{value} | None")
        columns = f["columns"] if row else [{"name": "", "type": f["returns"]}]
        emit(f["name"], sentence(f["doc"]) or f"outbox.{f['name']}.", (f["name"], params), [(a["name"], ident(a["name"])) for a in f["args"]],
             ret, kind, row, columns, False)
    for t in model["tables"]:
        row = camel(t["name"]) + "Entry"
        row_class(row, f"A row of outbox.{t['name']}.", t["columns"])
        emit(t["name"], f"Rows of outbox.{t['name']} whose columns equal those of filter.",
             (TABLES[t["name"]], ["filter: Mapping[str, Any] | None = None", "limit: int = 1000"]), [], f"list[{row}]", "rows", row, t["columns"], True)
    both = [
        "", "class AdminMethods:", '    """Blocking calls."""', "", "    def _run(self, call: Call) -> Any:", "        raise NotImplementedError", "",
        *sync, "", "class AsyncAdminMethods:", '    """The same, to be awaited."""', "", "    async def _arun(self, call: Call) -> Any:",
        "        raise NotImplementedError", "", *asyn]
    text = "\n".join(head + list(rows.values()) + both).rstrip() + "\n"
    return text


def main():
    psql, dsn = sys.argv[1:3]
    names = "array[" + ", ".join(f"'{n}'" for n in TABLES) + "]"
    found = subprocess.run([psql, "-XAtq", "-d", dsn, "-c", QUERY % names], check=True, capture_output=True, text=True).stdout
    model = json.loads(found)
    model["functions"] = [f for f in model["functions"] if f["name"] not in BY_HAND]
    files = {
        "clients/rust/src/admin.rs": rust(model),
        "clients/python/python/pg_outbox/_generated.py": python(model),
    }
    stale = []
    for path, text in files.items():
        path = ROOT / path
        if not path.exists() or path.read_text() != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    if "--check" in sys.argv and stale:
        sys.exit("out of date: " + ", ".join(stale) + "; UPDATE=1 cargo test -p pg-outbox --test generated writes them")
    print(f"{len(model['functions'])} functions, {len(model['tables'])} tables; written: {', '.join(stale) or 'nothing new'}")


main()
