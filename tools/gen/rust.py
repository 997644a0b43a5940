"""Writes clients/rust/src/admin.rs."""

import json
import pathlib
import subprocess
import sys

from facts import TABLES
from text import (
    functions,
    intervals,
    pascal,
    row_name,
    sentence,
    tables,
    typed,
    wrapped,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH = "clients/rust/src/admin.rs"

RESERVED_RUST = {"type", "where", "match", "move", "ref", "self", "loop", "in", "for", "as", "fn", "use", "final", "override"}
RUST = {
    "smallint": "i32", "integer": "i32", "bigint": "i64", "boolean": "bool", "jsonb": "Value", "numeric": "f64",
    "double precision": "f64", "real": "f64", "timestamp with time zone": "DateTime<Utc>", "interval": "f64",
}


def rust_type(kind):
    return typed(kind, RUST, "String", "Vec<%s>")


def write(model):
    out = ["//! A method for each public function of the schema. Made by `tools/gen/clients.py` from the catalogue: do not edit.",
           "//!", "//! Required arguments are arguments of the method; optional ones are fields of its options. An interval that is returned is in",
           "//! seconds. A column that can be null is an `Option`.", "",
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
            ty = rust_type(c["type"])
            text.append(f"    pub {field}: {ty if c['never_null'] else f'Option<{ty}>'},")
        rows[name] = "\n".join([*text, "}", ""])

    options = []
    for f in functions(model):
        kind, row = f["kind"], row_name(f)
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
            oname = pascal(name)
            if oname in rows or any(oname == row_name(g) for g in functions(model)):
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
        lint = []
        if len(args) >= 7:
            lint = ['    #[expect(clippy::too_many_arguments, reason = "the SQL function has as many arguments without a default")]']
        methods.append("\n".join([doc, "    ///", "    /// # Errors", "    /// Those of the function.", *lint, sig, "        " + call, "    }", ""]))
    for t in tables(model):
        row = pascal(t["name"]) + "Entry"
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
