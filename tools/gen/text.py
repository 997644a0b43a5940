"""Helpers of the writers."""

from facts import IN_TRANSACTION, TABLES


def pascal(name):
    return "".join(word.capitalize() for word in name.split("_"))


def camel(name):
    return pascal(name)[:1].lower() + pascal(name)[1:]


def base(kind):
    return kind.removesuffix("[]")


def typed(kind, table, default, array):
    inner = table.get(base(kind), default)
    return array % inner if kind.endswith("[]") else inner


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


def row_name(function):
    """Returns the name of the class of a row: that of the composite type, or that of the function with Row."""
    if function["row"] is None:
        return None
    return pascal(function["composite"]) if function["composite"] else pascal(function["name"]) + "Row"


def functions(model):
    """Returns the functions that get a generated method in Rust and Python."""
    return [f for f in model["functions"] if f["name"] not in IN_TRANSACTION]


def tables(model):
    """Returns the tables and views that get a generated method in Rust and Python."""
    return [t for t in model["tables"] if t["name"] in TABLES]
