"""Read models: rows of a table of the program, over SQLAlchemy, and in memory for tests.

    totals = ReadModel(totals_table, Total)

    totals.upsert(session, Total(order="4711", amount=42))
    page = totals.find(session, where=[("amount", ">=", 10)], order=["-amount"], limit=20)

The table is a `sqlalchemy.Table`, or a mapped class. On an async connection or session each call has to be awaited. A query
that needs more than this is a statement of SQLAlchemy.
"""

# An async connection has the methods of a blocking one, so its overload comes first, and the two overlap.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from .._errors import ConflictError, NotFoundError, invalid, suggestion
from ._runs import awaited, drive, run

if TYPE_CHECKING:
    from sqlalchemy import Table

    from .._typing import AsyncConnection, SyncConnection

M = TypeVar("M")
Operator = Literal[
    "=", "!=", ">", ">=", "<", "<=", "in", "not in", "like", "is null", "is not null", "contains", "between",
]
Condition = tuple[Any, ...]
"""(column, operator, value); the value is left out after `is null` and `is not null`, and two values follow `between`."""
_LONGEST = 10_000
_ARGUMENTS = {"is null": 0, "is not null": 0, "between": 2}


@dataclass
class Page(Generic[M]):
    """Rows of a query. has_more: there are further ones behind them. total: how many match in all, where it was asked for."""

    items: list[M]
    has_more: bool
    total: int | None = None


def _values(item: Any) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {one.name: getattr(item, one.name) for one in dataclasses.fields(item)}
    if hasattr(item, "model_dump"):
        return item.model_dump()  # type: ignore[no-any-return]
    raise invalid(f"a {type(item).__qualname__} is no row", hint="A row is a dict, a dataclass or a pydantic model.")


def _read(row: Mapping[str, Any], into: Any) -> Any:
    if into is None:
        return dict(row)
    if hasattr(into, "model_validate"):
        return into.model_validate(dict(row))
    return into(**row)


def _checked(condition: Condition, columns: Iterable[str]) -> tuple[str, str, tuple[Any, ...]]:
    if len(condition) < 2:
        raise invalid("malformed condition", hint='For example ("amount", ">=", 10).')
    name, operator, *values = condition
    _known(name, columns)
    operator = str(operator).lower()
    if operator not in _OPERATORS:
        raise invalid(f'unknown operator "{operator[:50]}"', hint=f"The operators are {', '.join(_OPERATORS)}.")
    if len(values) != _ARGUMENTS.get(operator, 1):
        raise invalid(f'operator "{operator}" has {_ARGUMENTS.get(operator, 1)} values, and not {len(values)}')
    return name, operator, tuple(values)


def _known(name: Any, columns: Iterable[str]) -> None:
    if name not in columns:
        raise invalid(f'there is no column "{str(name)[:100]}"', hint=suggestion(str(name), columns).removeprefix(". ") or None)


def _row(item: Any, columns: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """Returns the columns that a row has. columns: those that there are; empty: not known."""
    values = _values(item)
    for name in values if columns else ():
        _known(name, columns)
    for name in keys:
        if values.get(name) is None:
            raise invalid(f'the row has no "{name}"', detail="It belongs to the key.")
    return values


def _changes(values: Mapping[str, Any], columns: Sequence[str], keys: Sequence[str]) -> None:
    for name in values:
        _known(name, columns)
        if name in keys:
            raise invalid(f'column "{name}" belongs to the key and cannot be changed')


def _place(key: Any, columns: int) -> tuple[Any, ...]:
    parts = key if isinstance(key, tuple) else (key,)
    if len(parts) != columns or any(part is None for part in parts):
        raise invalid(f"the key has {columns} columns", detail=f"Given are {len(parts)}, and none of them may be null.")
    return parts


def _bounds(limit: int, offset: int) -> None:
    if not 1 <= limit <= _LONGEST or not 0 <= offset < 2**63:
        raise invalid("invalid limit or offset", hint=f"limit: 1 to {_LONGEST}; offset: from 0 on.")


def _missing(key: Any) -> NotFoundError:
    return NotFoundError(f"there is no row with the key {key!r}", code="OB001", name="not_found")


def _exists(key: Any) -> ConflictError:
    return ConflictError(f"there is a row with the key {key!r} already", code="23505", name="unique_violation")


class ReadModel(Generic[M]):
    """The rows of a table, as instances of a class (a dataclass or a pydantic model), or as dicts. The key of a row is its
    primary key: a value, or a tuple of several columns."""

    def __init__(self, table: Table | type[Any], into: type[M] | None = None) -> None:
        self._table: Any = getattr(table, "__table__", table)
        self._into = into
        self._keys = list(self._table.primary_key.columns)
        self._names = [column.key for column in self._table.columns]
        if not self._keys:
            raise ValueError("a read model has a primary key")

    @overload
    def get(self, conn: AsyncConnection, key: Any) -> Coroutine[Any, Any, M]: ...
    @overload
    def get(self, conn: SyncConnection, key: Any) -> M: ...
    def get(self, conn: Any, key: Any) -> Any:
        """Returns the row with a key. Raises NotFoundError."""
        return run(conn, self._get(conn, key))

    @overload
    def get_many(self, conn: AsyncConnection, keys: Sequence[Any]) -> Coroutine[Any, Any, list[M]]: ...
    @overload
    def get_many(self, conn: SyncConnection, keys: Sequence[Any]) -> list[M]: ...
    def get_many(self, conn: Any, keys: Sequence[Any]) -> Any:
        """Returns the rows with these keys, in the order of the keys. Keys without a row are left out."""
        return run(conn, self._get_many(conn, keys))

    @overload
    def find(
        self, conn: AsyncConnection, *, where: Sequence[Condition] = (), order: Sequence[str] = (),
        limit: int = 100, offset: int = 0, with_total: bool = False,
    ) -> Coroutine[Any, Any, Page[M]]: ...
    @overload
    def find(
        self, conn: SyncConnection, *, where: Sequence[Condition] = (), order: Sequence[str] = (),
        limit: int = 100, offset: int = 0, with_total: bool = False,
    ) -> Page[M]: ...
    def find(
        self, conn: Any, *, where: Sequence[Condition] = (), order: Sequence[str] = (), limit: int = 100, offset: int = 0,
        with_total: bool = False,
    ) -> Any:
        """Returns the Page of the rows for which all conditions hold. order: columns, descending with a hyphen before them; the
        key comes last, so that pages do not overlap. with_total: also counts all of them."""
        return run(conn, self._find(conn, where, order, limit, offset, with_total))

    @overload
    def find_one(
        self, conn: AsyncConnection, *, where: Sequence[Condition] = (), order: Sequence[str] = ()
    ) -> Coroutine[Any, Any, M | None]: ...
    @overload
    def find_one(self, conn: SyncConnection, *, where: Sequence[Condition] = (), order: Sequence[str] = ()) -> M | None: ...
    def find_one(self, conn: Any, *, where: Sequence[Condition] = (), order: Sequence[str] = ()) -> Any:
        """Returns the first row for which all conditions hold, or None."""
        return run(conn, self._find_one(conn, where, order))

    @overload
    def count(self, conn: AsyncConnection, *, where: Sequence[Condition] = ()) -> Coroutine[Any, Any, int]: ...
    @overload
    def count(self, conn: SyncConnection, *, where: Sequence[Condition] = ()) -> int: ...
    def count(self, conn: Any, *, where: Sequence[Condition] = ()) -> Any:
        """Returns the number of rows for which all conditions hold."""
        return run(conn, self._count(conn, where))

    @overload
    def insert(self, conn: AsyncConnection, item: M | Mapping[str, Any]) -> Coroutine[Any, Any, None]: ...
    @overload
    def insert(self, conn: SyncConnection, item: M | Mapping[str, Any]) -> None: ...
    def insert(self, conn: Any, item: M | Mapping[str, Any]) -> Any:
        """Inserts a row. Columns that are not given have their default. Raises ConflictError if there is one with its key."""
        return run(conn, self._insert(conn, item))

    @overload
    def update(self, conn: AsyncConnection, key: Any, **values: Any) -> Coroutine[Any, Any, None]: ...
    @overload
    def update(self, conn: SyncConnection, key: Any, **values: Any) -> None: ...
    def update(self, conn: Any, key: Any, **values: Any) -> Any:
        """Changes columns of a row. The key is not one of them. Raises NotFoundError."""
        return run(conn, self._update(conn, key, values))

    @overload
    def upsert(self, conn: AsyncConnection, item: M | Mapping[str, Any]) -> Coroutine[Any, Any, None]: ...
    @overload
    def upsert(self, conn: SyncConnection, item: M | Mapping[str, Any]) -> None: ...
    def upsert(self, conn: Any, item: M | Mapping[str, Any]) -> Any:
        """Inserts a row, or replaces those of its columns that are given if there is one with its key."""
        return run(conn, self._insert(conn, item, replace=True))

    @overload
    def delete(self, conn: AsyncConnection, key: Any) -> Coroutine[Any, Any, None]: ...
    @overload
    def delete(self, conn: SyncConnection, key: Any) -> None: ...
    def delete(self, conn: Any, key: Any) -> Any:
        """Deletes a row. Raises NotFoundError."""
        return run(conn, self._delete(conn, key))

    @overload
    def delete_many(self, conn: AsyncConnection, *, where: Sequence[Condition]) -> Coroutine[Any, Any, int]: ...
    @overload
    def delete_many(self, conn: SyncConnection, *, where: Sequence[Condition]) -> int: ...
    def delete_many(self, conn: Any, *, where: Sequence[Condition]) -> Any:
        """Deletes the rows for which all conditions hold, at least one condition, and returns how many."""
        if not where:
            raise invalid("delete_many() needs a condition", hint="clear() deletes all rows.")
        return run(conn, self._delete_many(conn, where))

    @overload
    def clear(self, conn: AsyncConnection) -> Coroutine[Any, Any, int]: ...
    @overload
    def clear(self, conn: SyncConnection) -> int: ...
    def clear(self, conn: Any) -> Any:
        """Deletes all rows, and returns how many."""
        return run(conn, self._delete_many(conn, ()))

    def _at(self, key: Any) -> Any:
        from sqlalchemy import and_

        parts = _place(key, len(self._keys))
        return and_(*(column == part for column, part in zip(self._keys, parts, strict=True)))

    def _where(self, conditions: Sequence[Condition]) -> list[Any]:
        found = []
        for condition in conditions:
            name, operator, values = _checked(condition, self._names)
            found.append(_OPERATORS[operator][0](self._table.columns[name], *values))
        return found

    def _order(self, order: Sequence[str]) -> list[Any]:
        found = []
        for name in order:
            _known(name.removeprefix("-"), self._names)
            column = self._table.columns[name.removeprefix("-")]
            found.append(column.desc() if name.startswith("-") else column.asc())
        return found + [column.asc() for column in self._keys]

    async def _rows(self, conn: Any, statement: Any) -> list[Any]:
        return [_read(row, self._into) for row in (await awaited(conn.execute(statement))).mappings().all()]

    async def _get(self, conn: Any, key: Any) -> Any:
        found = await self._rows(conn, self._table.select().where(self._at(key)))
        if not found:
            raise _missing(key)
        return found[0]

    async def _get_many(self, conn: Any, keys: Sequence[Any]) -> list[Any]:
        from sqlalchemy import or_

        if len(keys) > _LONGEST:
            raise invalid("too many keys", hint=f"At most {_LONGEST}.")
        if not keys:
            return []
        rows = (await awaited(conn.execute(self._table.select().where(or_(*map(self._at, keys)))))).mappings().all()
        by_key = {tuple(row[column.key] for column in self._keys): row for row in rows}
        wanted = [key if isinstance(key, tuple) else (key,) for key in keys]
        return [_read(by_key[key], self._into) for key in wanted if key in by_key]

    async def _find(
        self, conn: Any, where: Sequence[Condition], order: Sequence[str], limit: int, offset: int, with_total: bool
    ) -> Page[Any]:
        _bounds(limit, offset)
        statement = self._table.select().where(*self._where(where)).order_by(*self._order(order)).limit(limit + 1).offset(offset)
        found = await self._rows(conn, statement)
        total = await self._count(conn, where) if with_total else None
        return Page(found[:limit], len(found) > limit, total)

    async def _find_one(self, conn: Any, where: Sequence[Condition], order: Sequence[str]) -> Any:
        page = await self._find(conn, where, order, 1, 0, False)
        return page.items[0] if page.items else None

    async def _count(self, conn: Any, where: Sequence[Condition]) -> int:
        from sqlalchemy import func, select

        statement = select(func.count()).select_from(self._table).where(*self._where(where))
        return int((await awaited(conn.execute(statement))).scalar_one())

    async def _insert(self, conn: Any, item: Any, replace: bool = False) -> None:
        from sqlalchemy.dialects.postgresql import insert

        values = _row(item, self._names, [column.key for column in self._keys])
        statement = insert(self._table).values(**values)
        others = {name: statement.excluded[name] for name in values if name not in [column.key for column in self._keys]}
        if replace and others:
            statement = statement.on_conflict_do_update(index_elements=self._keys, set_=others)
        else:
            statement = statement.on_conflict_do_nothing(index_elements=self._keys)
        # Drivers do not agree on the number of rows of an insert.
        done = (await awaited(conn.execute(statement.returning(*self._keys)))).first()
        if done is None and not replace:
            raise _exists(tuple(values.get(column.key) for column in self._keys))

    async def _update(self, conn: Any, key: Any, values: Mapping[str, Any]) -> None:
        _changes(values, self._names, [column.key for column in self._keys])
        if not values:
            await self._get(conn, key)
        elif (await awaited(conn.execute(self._table.update().where(self._at(key)).values(**values)))).rowcount == 0:
            raise _missing(key)

    async def _delete(self, conn: Any, key: Any) -> None:
        if (await awaited(conn.execute(self._table.delete().where(self._at(key))))).rowcount == 0:
            raise _missing(key)

    async def _delete_many(self, conn: Any, where: Sequence[Condition]) -> int:
        return int((await awaited(conn.execute(self._table.delete().where(*self._where(where))))).rowcount)


def _like(text: Any, pattern: Any) -> bool:
    if not isinstance(text, str) or not isinstance(pattern, str):
        return False
    parts = ["." if one == "_" else ".*" if one == "%" else re.escape(one[-1:]) for one in re.findall(r"\\.|.", pattern, re.DOTALL)]
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def _orders(compare: Callable[[Any, Any], bool]) -> tuple[Callable[..., Any], Callable[..., bool]]:
    # A comparison with null is never true in SQL.
    return (
        lambda c, v: _never() if v is None else compare(c, v),
        lambda value, other: value is not None and other is not None and compare(value, other),
    )


def _never() -> Any:
    from sqlalchemy import false

    return false()


# Each operator over a column of SQLAlchemy, and over a value in memory.
_OPERATORS: dict[str, tuple[Callable[..., Any], Callable[..., bool]]] = {
    "=": (lambda c, v: c == v, lambda c, v: c == v),
    "!=": (lambda c, v: c != v, lambda c, v: (c is not None and c != v) if v is not None else c is not None),
    ">": _orders(lambda c, v: c > v),
    ">=": _orders(lambda c, v: c >= v),
    "<": _orders(lambda c, v: c < v),
    "<=": _orders(lambda c, v: c <= v),
    "in": (lambda c, v: c.in_(list(v)), lambda c, v: c is not None and c in v),
    "not in": (lambda c, v: c.not_in(list(v)), lambda c, v: not v or (c is not None and None not in v and c not in v)),
    "like": (lambda c, v: c.like(v), _like),
    "is null": (lambda c: c.is_(None), lambda c: c is None),
    "is not null": (lambda c: c.is_not(None), lambda c: c is not None),
    "contains": (lambda c, v: c.contains(v if isinstance(v, (list, tuple, dict)) else [v]), lambda c, v: _has(c, v)),
    "between": (lambda c, a, b: c.between(a, b), lambda c, a, b: c is not None and a is not None and b is not None and a <= c <= b),
}


def _has(value: Any, part: Any) -> bool:
    return _contains(value, part if isinstance(part, (list, tuple, Mapping)) else [part])


def _contains(value: Any, part: Any) -> bool:
    """Returns whether a list, or an object of JSON, has these parts, at every depth."""
    if isinstance(part, Mapping):
        return isinstance(value, Mapping) and all(name in value and _contains(value[name], one) for name, one in part.items())
    if isinstance(part, (list, tuple)):
        return isinstance(value, (list, tuple)) and all(any(_contains(item, one) for item in value) for one in part)
    return bool(value == part)


class InMemoryReadModel(ReadModel[M]):
    """The same without a database, for tests. key: the columns of the key. columns: all of them, by default the fields of the class
    and those that rows have. is_async: the calls have to be awaited, as on an async connection. The connection is not used, and
    may be None."""

    def __init__(
        self, into: type[M] | None = None, *, key: Sequence[str] = ("id",), columns: Sequence[str] = (), is_async: bool = False
    ) -> None:
        self._into = into
        self._key_names = tuple(key)
        fields = getattr(into, "model_fields", None) or getattr(into, "__dataclass_fields__", {})
        self._declared = list(columns) or list(fields)
        self._kept: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._is_async = is_async

    def _run(self, work: Any) -> Any:
        return work if self._is_async else drive(work)

    def get(self, conn: Any, key: Any) -> Any:
        return self._run(self._get(conn, key))

    def get_many(self, conn: Any, keys: Sequence[Any]) -> Any:
        return self._run(self._get_many(conn, keys))

    def find(
        self, conn: Any, *, where: Sequence[Condition] = (), order: Sequence[str] = (), limit: int = 100, offset: int = 0,
        with_total: bool = False,
    ) -> Any:
        return self._run(self._find(conn, where, order, limit, offset, with_total))

    def find_one(self, conn: Any, *, where: Sequence[Condition] = (), order: Sequence[str] = ()) -> Any:
        return self._run(self._find_one(conn, where, order))

    def count(self, conn: Any, *, where: Sequence[Condition] = ()) -> Any:
        return self._run(self._count(conn, where))

    def insert(self, conn: Any, item: M | Mapping[str, Any]) -> Any:
        return self._run(self._insert(conn, item))

    def update(self, conn: Any, key: Any, **values: Any) -> Any:
        return self._run(self._update(conn, key, values))

    def upsert(self, conn: Any, item: M | Mapping[str, Any]) -> Any:
        return self._run(self._insert(conn, item, replace=True))

    def delete(self, conn: Any, key: Any) -> Any:
        return self._run(self._delete(conn, key))

    def delete_many(self, conn: Any, *, where: Sequence[Condition]) -> Any:
        if not where:
            raise invalid("delete_many() needs a condition", hint="clear() deletes all rows.")
        return self._run(self._delete_many(conn, where))

    def clear(self, conn: Any) -> Any:
        return self._run(self._delete_many(conn, ()))

    def _columns(self) -> list[str]:
        known = dict.fromkeys([*self._key_names, *self._declared])
        for row in self._kept.values() if not self._declared else ():
            known.update(dict.fromkeys(row))
        return list(known)

    def _matching(self, where: Sequence[Condition]) -> list[tuple[Any, ...]]:
        checked = [_checked(condition, self._columns()) for condition in where]
        return [
            place for place, row in self._kept.items()
            if all(_OPERATORS[operator][1](row.get(name), *values) for name, operator, values in checked)
        ]

    async def _get(self, conn: Any, key: Any) -> Any:
        place = _place(key, len(self._key_names))
        if place not in self._kept:
            raise _missing(key)
        return _read(self._kept[place], self._into)

    async def _get_many(self, conn: Any, keys: Sequence[Any]) -> list[Any]:
        places = [_place(key, len(self._key_names)) for key in keys]
        return [_read(self._kept[place], self._into) for place in places if place in self._kept]

    async def _find(
        self, conn: Any, where: Sequence[Condition], order: Sequence[str], limit: int, offset: int, with_total: bool
    ) -> Page[Any]:
        _bounds(limit, offset)
        found = sorted(self._matching(where))
        for name in reversed(order):
            plain = name.removeprefix("-")
            _known(plain, self._columns())
            # Nulls are last, and first in descending order, as in PostgreSQL.
            found.sort(key=lambda place: _Last(self._kept[place].get(plain)), reverse=name.startswith("-"))
        items = [_read(self._kept[place], self._into) for place in found[offset : offset + limit]]
        return Page(items, len(found) > offset + limit, len(found) if with_total else None)

    async def _count(self, conn: Any, where: Sequence[Condition]) -> int:
        return len(self._matching(where))

    async def _insert(self, conn: Any, item: Any, replace: bool = False) -> None:
        values = _row(item, self._declared, self._key_names)
        place = tuple(values[name] for name in self._key_names)
        if place in self._kept and not replace:
            raise _exists(place)
        self._kept[place] = {**dict.fromkeys(self._declared), **self._kept.get(place, {}), **values}

    async def _update(self, conn: Any, key: Any, values: Mapping[str, Any]) -> None:
        _changes(values, self._columns(), self._key_names)
        place = _place(key, len(self._key_names))
        if place not in self._kept:
            raise _missing(key)
        self._kept[place].update(values)

    async def _delete(self, conn: Any, key: Any) -> None:
        if self._kept.pop(_place(key, len(self._key_names)), None) is None:
            raise _missing(key)

    async def _delete_many(self, conn: Any, where: Sequence[Condition]) -> int:
        found = self._matching(where)
        for place in found:
            del self._kept[place]
        return len(found)


class _Last:
    """A value that can be sorted among nulls."""

    def __init__(self, value: Any) -> None:
        self._key = (value is None, value)

    def __lt__(self, other: _Last) -> bool:
        if self._key[0] or other._key[0]:
            return self._key[0] < other._key[0]
        return bool(self._key[1] < other._key[1])
