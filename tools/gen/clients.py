#!/usr/bin/env python3
"""Writes what the clients take from the extension: typed methods for the functions of the schema, and the table of errors.

    tools/gen/clients.py PSQL DSN [--check] < ERRORS

DSN is a database of a server that has the extension, and ERRORS the table of errors of the core crate as JSON. With --check
nothing is written; the command fails if a file is out of date, and names it. `cargo test -p pg-outbox --test generated` runs
it with --check, and `UPDATE=1 cargo test -p pg-outbox --test generated` writes the files.

    catalogue.py    reads the model from the catalogue
    facts.py        what the catalogue cannot say
    rust.py, python.py, node.py    write the file of a client from the model
"""

import json
import pathlib
import sys

import catalogue
import node
import python
import rust

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    psql, dsn = sys.argv[1:3]
    model = catalogue.read(psql, dsn)
    files = {
        rust.PATH: rust.write(model),
        python.PATH: python.write(model),
        node.PATH: node.write(model),
        node.ERRORS_PATH: node.write_errors(json.load(sys.stdin)),
    }
    stale = [path for path, text in files.items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text]
    if "--check" in sys.argv and stale:
        sys.exit("out of date: " + ", ".join(stale) + "; UPDATE=1 cargo test -p pg-outbox --test generated writes them")
    for path in stale:
        (ROOT / path).write_text(files[path])
    print(f"{len(model['functions'])} functions, {len(model['tables'])} tables; written: {', '.join(stale) or 'nothing new'}")


main()
