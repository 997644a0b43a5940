"""The helpers of the generated methods."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import enum
import json
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any
from uuid import UUID

from ._errors import invalid, suggestion


class Shape:
    """Describes how the answer of a function is read: its kind, the class of its rows, and the columns whose type JSON
    cannot express."""

    def __init__(self, kind: str, row: type[Any] | None, columns: Mapping[str, str]) -> None:
        self.kind = kind
        self.row = row
        self.columns = columns
        self.intervals = [name for name, kind in columns.items() if kind == "interval" and name]
        self.fields = frozenset(f.name for f in dataclasses.fields(row)) if row is not None else frozenset()

    def read(self, values: list[Any]) -> Any:
        """Converts the answer to its declared type."""
        if self.kind == "void":
            return None
        if self.row is None:
            converted = [_convert(value, self.columns.get("")) for value in values]
            return converted if self.kind == "values" else (converted[0] if converted else None)
        rows = [self._row(value) for value in values]
        return rows if self.kind == "rows" else (rows[0] if rows else None)

    def _row(self, value: dict[str, Any]) -> Any:
        assert self.row is not None
        # A newer server may have more columns, and an older server fewer.
        known = {name: _convert(value.get(name), self.columns.get(name)) for name in self.fields}
        return self.row(**known)


def time_of(text: str) -> dt.datetime:
    """Returns a time of the server's JSON."""
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        # Python 3.10 reads fractions of three and six digits only, and the server leaves out zeros at the end.
        return dt.datetime.fromisoformat(re.sub(r"\.(\d+)", lambda found: "." + found[1].ljust(6, "0"), text))


def _convert(value: Any, kind: str | None) -> Any:
    if value is None or kind is None:
        return value
    if kind == "timestamp with time zone":
        return None if value in ("infinity", "-infinity") else time_of(value)
    if kind == "interval":
        return dt.timedelta(seconds=float(value))
    if kind == "bytea":
        return bytes.fromhex(str(value)[2:])
    return value


class Call:
    """One call of a function, or one read of a table."""

    def __init__(
        self, name: str, args: Mapping[str, Any], shape: Shape, *, table: bool = False, limit: int = 0
    ) -> None:
        self.name = name
        # In a filter None means null. An argument that is None has its default.
        self.args = dumps(_known(name, args, shape.fields) if table else {k: v for k, v in args.items() if v is not None})
        self.shape = shape
        self.table = table
        self.limit = limit


def _known(table: str, filter: Mapping[str, Any], columns: AbstractSet[str]) -> Mapping[str, Any]:
    for name in filter:
        if name not in columns:
            meant = suggestion(name, columns).removeprefix(". ")
            raise invalid(f'outbox.{table} has no column "{name}"', hint=meant or f"Its columns are {', '.join(sorted(columns))}.")
    return filter


def _default(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump: Any = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json", by_alias=True)
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (UUID, Decimal)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        # The order of a set differs between processes, and the JSON of a value must not.
        return sorted(value, key=lambda one: json.dumps(one, default=_default, sort_keys=True))
    raise TypeError(f"{type(value).__name__} cannot be JSON")


def dumps(value: Any) -> str:
    """Returns the JSON text of plain values, dataclasses, pydantic models, times, UUIDs and decimals."""
    try:
        return json.dumps(value, default=_default, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError as error:
        raise invalid("the value cannot be JSON", detail="The value is nested too deeply.") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise invalid("the value cannot be JSON", detail=str(error)) from error
