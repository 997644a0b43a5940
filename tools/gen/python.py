"""Writes clients/python/python/pg_outbox/_generated.py."""

from facts import TABLES
from text import functions, pascal, row_name, sentence, tables, typed, wrapped

PATH = "clients/python/python/pg_outbox/_generated.py"

RESERVED_PY = {"from", "in", "is", "as", "not", "and", "or", "class", "def", "for", "if", "with", "return", "global", "lambda"}
PY = {
    "smallint": "int", "integer": "int", "bigint": "int", "boolean": "bool", "jsonb": "Any", "numeric": "float",
    "double precision": "float", "real": "float", "timestamp with time zone": "datetime", "interval": "timedelta",
    "bytea": "bytes",
}


def py_type(kind):
    return typed(kind, PY, "str", "list[%s]")


def accepted(item):
    """Returns the type of an argument or column, with the texts that it accepts where they are known."""
    if not item.get("values"):
        return py_type(item["type"])
    literal = "Literal[" + ", ".join(f'"{text}"' for text in item["values"]) + "]"
    return f"list[{literal}]" if item["type"].endswith("[]") else literal


def nullable(column):
    return accepted(column) + ("" if column["never_null"] else " | None")


def given(argument):
    """Returns the type of an argument. Any sequence is accepted as a list."""
    kind = accepted(argument)
    return "Sequence" + kind.removeprefix("list") if kind.startswith("list[") else kind


def write(model):
    head = ['"""A method for each public function of the schema. Made by tools/gen/clients.py from the catalogue: do not edit."""',
            "", "from __future__ import annotations", "", "from collections.abc import Mapping, Sequence", "from dataclasses import dataclass",
            "from datetime import datetime, timedelta", "from typing import Any, Literal", "", "from ._rows import Call, Shape", ""]
    rows, sync, asyn = {}, [], []

    def row_class(name, doc, columns):
        if name not in rows:
            text = ["", "@dataclass(frozen=True)", f"class {name}:", f'    """{doc}"""', ""]
            text += [f"    {c['name']}: {nullable(c)}" for c in columns]
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
            ignore = "" if ret == "Any" else "  # type: ignore[no-any-return]"
            out.append(f"        {run}({call})" if ret == "None" else f"        return {run}({call}){ignore}")
            out.append("")

    for f in functions(model):
        kind, row = f["kind"], row_name(f)
        if row:
            row_class(row, f"A row of outbox.{f['composite'] or f['name']}.", f["columns"])
        ident = lambda n: n + "_" if n in RESERVED_PY else n
        req = [f"{ident(a['name'])}: {given(a)}" for a in f["args"] if a["required"]]
        opt = [f"{ident(a['name'])}: {given(a)} | None = None" for a in f["args"] if not a["required"]]
        params = req + (["*"] + opt if opt else [])
        value = None
        if kind == "void":
            ret = "None"
        elif row:
            ret = row if kind == "row" else f"list[{row}]"
        else:
            value = py_type(f["returns"])
            ret = f"list[{value}]" if kind == "values" else value
        columns = f["columns"] if row else [{"name": "", "type": f["returns"]}]
        emit(f["name"], sentence(f["doc"]) or f"outbox.{f['name']}.", (f["name"], params), [(a["name"], ident(a["name"])) for a in f["args"]],
             ret, kind, row, columns, False)
    for t in tables(model):
        row = pascal(t["name"]) + "Entry"
        row_class(row, f"A row of outbox.{t['name']}.", t["columns"])
        emit(t["name"], f"Rows of outbox.{t['name']} whose columns equal those of filter.",
             (TABLES[t["name"]], ["filter: Mapping[str, Any] | None = None", "limit: int = 1000"]), [], f"list[{row}]", "rows", row, t["columns"], True)
    both = [
        "", "class AdminMethods:", '    """Blocking calls."""', "", "    def _run(self, call: Call) -> Any:", "        raise NotImplementedError", "",
        *sync, "", "class AsyncAdminMethods:", '    """The same, to be awaited."""', "", "    async def _arun(self, call: Call) -> Any:",
        "        raise NotImplementedError", "", *asyn]
    text = "\n".join(head + list(rows.values()) + both).rstrip() + "\n"
    return text
