"""Checks the form of the SQL in sql/schema, so that reviewers need not."""

import pathlib
import re
import sys

KEYWORDS = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|FROM|WHERE|CREATE|TABLE|FUNCTION|RETURNS|LANGUAGE|BEGIN|END|IF|THEN|ELSE|AND|OR|NOT|"
    r"NULL|DEFAULT|SET|INTO|VALUES|ORDER|GROUP|BY|LIMIT|JOIN|LEFT|ON|AS|RETURN|DECLARE|EXECUTE|GRANT|REVOKE)\b"
)
OBJECT = re.compile(
    r"^create (?:or replace )?(function|procedure|table|view|type)\s+(outbox(?:_internal)?\.[a-z0-9_]+)|^call outbox_internal\.create_ring\('([a-z_]+)'",
    re.MULTILINE,
)


# Settings that pin the plans of a function. A function has one of these sets, or none: each further set would be one more
# thing to compare when a plan changes. All of them forbid scans of whole tables, because the plans of young and of grown
# tables have to be the same.
PLANS = {
    "walk: nested loops over indexes, for pages that name their rows": "seqscan bitmapscan hashjoin mergejoin generic jit",
    "ordered: reads an index in its order until a limit": "seqscan bitmapscan sort generic jit",
    "index: finds rows by index": "seqscan bitmapscan generic jit",
    "claim: a walk in the order of an index": "seqscan bitmapscan hashjoin mergejoin sort generic jit",
    "page: one page is joined at once, read in order": "seqscan bitmapscan hashjoin=on sort generic jit",
    "page, sorted: one page is joined at once": "seqscan bitmapscan hashjoin=on sort=on generic jit",
    "small: a few rows of a small table": "seqscan jit",
    "sql: ordered, for a function in SQL, which has no plan of its own to be generic": "seqscan bitmapscan sort",
}
FUNCTION = re.compile(r"^create (?:or replace )?(?:function|procedure)\s+([\w.]+)\(.*?(?=^create |\Z)", re.MULTILINE | re.DOTALL)
BODY = re.compile(r"^(?:as \$|begin atomic|return )", re.MULTILINE)
PLAN = re.compile(r"^set (?:enable_(\w+) = (on|off)|(jit) = off|plan_cache_mode = force_(generic)_plan)$", re.MULTILINE)


def unknown_plans(text: str) -> list[str]:
    """Returns the functions whose settings for plans are none of PLANS."""
    known = {frozenset(plan.split()) for plan in PLANS.values()}
    unknown = []
    for found in FUNCTION.finditer(text):
        head = BODY.split(found.group(0), maxsplit=1)[0]
        plan = frozenset((name + ("=on" if to == "on" else "")) or jit or generic for name, to, jit, generic in PLAN.findall(head))
        if any(name for name, *_ in PLAN.findall(head)) and plan not in known:
            unknown.append(found.group(1))
    return unknown


def strip(sql: str) -> str:
    """Removes comments, psql commands and string literals. Bodies between $$ stay."""
    sql = re.sub(r"--[^\n]*|^\\[^\n]*", "", sql, flags=re.MULTILINE)
    return re.sub(r"'(?:[^']|'')*'", "''", sql)


# A literal with a backslash must be written as E'...'. Otherwise a session with standard_conforming_strings = off reads
# another text.
LITERAL = re.compile(r"(\w?)'((?:[^']|'')*)'")


def backslashes(text: str) -> list[int]:
    """Returns the lines of literals that have a backslash and are not written as E'...'."""
    plain = re.sub(r"--[^\n]*", "", text)
    return [
        plain[: found.start()].count("\n") + 1
        for found in LITERAL.finditer(plain)
        if "\\" in found.group(2) and found.group(1).lower() != "e"
    ]


def main() -> int:
    wrong = []
    texts = {path: path.read_text() for path in sorted(pathlib.Path("sql/schema").rglob("*.sql"))}
    everything = "\n".join(texts.values())
    for path, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if "\t" in line:
                wrong.append(f"{path}:{number}: a tab")
            if len(line) > 160 or (len(line) > 125 and "comment on" not in line and "'" not in line):
                wrong.append(f"{path}:{number}: longer than 125 characters")
            if line != line.rstrip():
                wrong.append(f"{path}:{number}: space at the end")
        for name in unknown_plans(text):
            wrong.append(f"{path}: {name} has settings for plans that PLANS in scripts/check_sql.py does not list")
        for number in backslashes(text):
            wrong.append(f"{path}:{number}: a backslash in a literal without E")
        for number, line in enumerate(strip(text).splitlines(), 1):
            if found := KEYWORDS.search(line):
                wrong.append(f"{path}:{number}: keyword in upper case: {found.group()}")
        for found in OBJECT.finditer(text):
            kind = found.group(1) or "table"
            name = found.group(2) or f"outbox.{found.group(3)}"
            private = name.startswith(("outbox._", "outbox_internal."))
            if kind in ("function", "procedure") and name.startswith("outbox._"):
                wrong.append(f"{path}: {name} is private and belongs to the schema outbox_internal")
            # The marker is above the object. Comments and other objects with the same marker may be in between.
            before = text[: found.start()]
            marker = before.rfind("-- API: ")
            said = before[marker:].splitlines()[0] if marker >= 0 else ""
            if said != f"-- API: {'private' if private else 'public'}" and kind != "type":
                wrong.append(f"{path}: {name} is not marked -- API: {'private' if private else 'public'}")
            if not private and f"comment on {kind} {name} " not in everything:
                wrong.append(f"{path}: {name} has no `comment on`")
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


sys.exit(main())
