"""Licences and sources of the crates that are linked into what is published: `cargo metadata` on standard input."""

import json
import re
import sys

# Permissive licences, and those of data (certificates, Unicode tables).
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CDLA-Permissive-2.0",
    "ISC", "MIT", "MIT-0", "PostgreSQL", "Unicode-3.0", "Unlicense", "Zlib",
}
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met with allowed licences alone. Old crates write "/" for OR."""
    text = expression.replace("/", " OR ")
    parts = re.split(r"\s+(AND|OR)\s+|([()])", text)
    words = [word.strip() for word in parts if word and word.strip()]
    python = " ".join(word.lower() if word in ("AND", "OR") else word if word in "()" else str(word in ALLOWED) for word in words)
    return bool(re.fullmatch(r"(?:True|False|and|or|[\s()])+", python)) and bool(eval(python))


def main() -> int:
    metadata = json.load(sys.stdin)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    # Everything of the workspace but the tools, tests and benchmarks is shipped in some form.
    root = metadata["workspace_root"]
    shipped = [
        id for id in metadata["workspace_members"]
        if not packages[id]["manifest_path"].removeprefix(root).startswith(("/tools/", "/tests/", "/benches/"))
    ]
    linked, todo = set(), shipped
    while todo:
        if (id := todo.pop()) not in linked:
            linked.add(id)
            todo += [dep["pkg"] for dep in nodes[id]["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])]
    wrong = []
    for package in sorted((packages[id] for id in linked), key=lambda package: package["name"]):
        if package["source"] not in (None, CRATES_IO):
            wrong.append(f"{package['name']} comes from {package['source']}")
        if not allowed(package["license"] or ""):
            wrong.append(f"{package['name']} has the licence {package['license']!r}")
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong or len(linked) < 50 else 0


sys.exit(main())
