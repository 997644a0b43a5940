"""Enqueues on the caller's connection, in the caller's transaction.

Works with psycopg 3 (sync and async), asyncpg, SQLAlchemy (connections and sessions, sync and async), Django, and any other
DB-API connection with the `format` style. On an async connection the result has to be awaited.

This module is pure Python. The native module is loaded only to name an error of the server.
"""

# An async connection has the methods of a blocking one, so its overload comes first, and the two overlap.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import datetime as dt
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from ._errors import InvalidError, from_driver, invalid, suggestion
from ._rows import dumps
from ._telemetry import inject
from ._typing import Context, EnqueueOptions, Keys, ManyOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._typing import AsyncConnection, SyncConnection

Arguments = list[tuple[str, str, Any]]

_CASTS = {
    "deliver_at": "timestamptz", "expires_at": "timestamptz", "occurred_at": "timestamptz", "priority": "int", "max_attempts": "int",
    "headers": "jsonb", "metadata": "jsonb",
}


def _options(function: str, options: Mapping[str, Any], known: frozenset[str]) -> Arguments:
    found: Arguments = []
    for name, value in options.items():
        if name not in known:
            raise TypeError(f"{function}() got an unexpected keyword argument '{name}'{suggestion(name, known)}")
        if value is None:
            continue
        cast = _CASTS.get(name, "text")
        if cast == "jsonb":
            value = dumps(value)
        elif isinstance(value, dt.datetime):
            if value.tzinfo is None:
                raise invalid(f"{name} has no time zone")
            value = value.isoformat()
        found.append((name, cast, str(value)))
    return found


def _sql(function: str, arguments: Arguments, placeholder: Callable[[int], str], form: str) -> str:
    # Every value is sent as text or bytes, and casts in the statement give its type, so no driver has to know a type.
    parts = []
    for i, (name, cast, value) in enumerate(arguments):
        mark = f"cast({placeholder(i)} as {'bytea' if isinstance(value, bytes) else 'text'})"
        # Quoted, because position is a keyword of SQL.
        parts.append(f'"{name}" => ' + (mark if cast in ("text", "bytea") else f"cast({mark} as {cast})"))
    return form.format(f"outbox.{function}({', '.join(parts)})")


def _module(conn: Any) -> set[str]:
    return {cls.__module__.split(".")[0] for cls in type(conn).__mro__}


def _fail(error: BaseException) -> None:
    known = from_driver(error)
    if known is not None:
        raise known from error


# A message on one of these would commit by itself, or nowhere. The hint says where the caller finds the connection.
_REFUSED = {
    ("asyncpg", "Pool"): "Acquire a connection: async with pool.acquire() as conn, conn.transaction(): ...",
    ("asyncpg", "PoolAcquireContext"): "Enter it: async with pool.acquire() as conn, conn.transaction(): ...",
    ("psycopg_pool", "BasePool"): "Take a connection of the pool: with pool.connection() as conn: ...",
    ("sqlalchemy", "Engine"): "Use the connection or session of your transaction: with engine.begin() as conn: ...",
    ("sqlalchemy", "AsyncEngine"): "Use the connection or session of your transaction: async with engine.begin() as conn: ...",
    ("sqlalchemy", "sessionmaker"): "Use a session: with Session.begin() as session: ...",
    ("sqlalchemy", "async_sessionmaker"): "Use a session: async with Session.begin() as session: ...",
    ("pg_outbox", "_Base"): "An outbox has connections of its own. Use the connection of your transaction.",
}


def _refused(conn: Any) -> str | None:
    """Returns the hint for an object that is not to be used for a message."""
    names = ((cls.__module__.split(".")[0], cls.__name__) for cls in type(conn).__mro__)
    return next((_REFUSED[name] for name in names if name in _REFUSED), None)


def _unfit(conn: Any, hint: str | None = None) -> InvalidError:
    return invalid(
        f"cannot enqueue on a {type(conn).__module__}.{type(conn).__qualname__}",
        hint=hint or "Give it the connection, or the session, in whose transaction the message belongs.",
    )


def _execute(conn: Any, function: str, arguments: Arguments, form: str = "select {}") -> Any:
    """Calls a function on conn and returns its only value. `form` is the statement around the call; it has no % and no colon,
    which are placeholders for drivers."""
    modules = _module(conn)
    if hint := _refused(conn):
        raise _unfit(conn, hint)
    values = [value for _, _, value in arguments]
    if "asyncpg" in modules:
        return _asyncpg(conn, _sql(function, arguments, lambda i: f"${i + 1}", form), values)
    if "sqlalchemy" in modules or "sqlmodel" in modules:
        return _sqlalchemy(conn, _sql(function, arguments, lambda i: f":p{i}", form), {f"p{i}": v for i, v in enumerate(values)})
    sql = _sql(function, arguments, lambda i: "%s", form)
    if "psycopg" in modules:
        return _psycopg(conn, sql, values)
    if hasattr(conn, "cursor"):
        try:
            with conn.cursor() as cursor:
                cursor.execute(sql, values)
                return cursor.fetchone()[0]
        except Exception as error:
            _fail(error)
            raise
    raise _unfit(conn)


# Whether a connection goes through a pooler. PgBouncer shares the server's sessions between clients. A statement that the
# driver prepares by name (psycopg does so after five executions) is unknown in the next session, or belongs to another
# client.
_POOLED: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def _psycopg(conn: Any, sql: Any, values: Sequence[Any]) -> Any:
    import psycopg
    from psycopg.rows import tuple_row

    if isinstance(conn, (psycopg.Cursor, psycopg.AsyncCursor)):
        conn = conn.connection
    pooled = _POOLED.get(conn)
    if pooled is None:
        # The first answer shows it: behind a pooler the backend's process id differs from the one in the greeting.
        sql = f"select r, pg_catalog.pg_backend_pid() from ({sql}) f(r)"
    prepare = None if pooled is False else False

    def value(row: Any) -> Any:
        if row is None:
            return None
        if pooled is None:
            _POOLED[conn] = row[1] != conn.info.backend_pid
        return row[0]

    if isinstance(conn, psycopg.AsyncConnection):

        async def run() -> Any:
            try:
                async with conn.cursor(row_factory=tuple_row) as cursor:
                    await cursor.execute(sql, values, prepare=prepare)
                    return value(await cursor.fetchone())
            except Exception as error:
                _fail(error)
                raise

        return run()
    try:
        with conn.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(sql, values, prepare=prepare)
            return value(cursor.fetchone())
    except Exception as error:
        _fail(error)
        raise


async def _asyncpg(conn: Any, sql: str, values: Sequence[Any]) -> Any:
    try:
        return await conn.fetchval(sql, *values)
    except Exception as error:
        _fail(error)
        raise


def _sqlalchemy(conn: Any, sql: str, values: Mapping[str, Any]) -> Any:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    statement = text(sql)
    if isinstance(conn, (AsyncConnection, AsyncSession, async_scoped_session)):

        async def run() -> Any:
            try:
                return (await conn.execute(statement, values)).scalar_one()
            except Exception as error:
                _fail(error)
                raise

        return run()
    try:
        return conn.execute(statement, values).scalar_one()
    except Exception as error:
        _fail(error)
        raise


def _content(payload: Any, content_type: str | None) -> tuple[str, Arguments]:
    if isinstance(payload, (bytes, bytearray, memoryview)):
        body: Arguments = [("body", "bytea", bytes(payload))]
        return "enqueue_bytes", body + ([("content_type", "text", content_type)] if content_type else [])
    if content_type is not None and isinstance(payload, str):
        return "enqueue_bytes", [("body", "bytea", payload.encode()), ("content_type", "text", content_type)]
    return "enqueue", [("payload", "jsonb", dumps(payload))]


def _traced(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Adds the current span of OpenTelemetry to the metadata, where the program uses OpenTelemetry."""
    found = inject(options.get("metadata"))
    return options if found is None else {**options, "metadata": found}


# A coroutine that is not awaited is an error of every type checker.
@overload
def enqueue(
    conn: AsyncConnection, topic: str, payload: Any = None, **options: Unpack[EnqueueOptions]
) -> Coroutine[Any, Any, int]: ...
@overload
def enqueue(conn: SyncConnection, topic: str, payload: Any = None, **options: Unpack[EnqueueOptions]) -> int: ...
def enqueue(conn: Any, topic: str, payload: Any = None, **options: Unpack[EnqueueOptions]) -> Any:
    """Adds a message to the outbox in the transaction of `conn` and returns its id (on an async connection a coroutine,
    which has to be awaited).

    The payload is any value that can be written as JSON, including dataclasses and pydantic models. Bytes, and text with a
    content_type, are stored and sent unchanged. The options are those of EnqueueOptions. Where the program uses
    OpenTelemetry, the current span becomes `traceparent` of the metadata. Raises InvalidError, ConflictError,
    InactiveError and FatalError.
    """
    function, content = _content(payload, options.pop("content_type", None))
    found = _options("enqueue", _traced(options), EnqueueOptions.__optional_keys__)
    return _execute(conn, function, [("topic", "text", topic), *content, *found])


@overload
def enqueue_many(
    conn: AsyncConnection, topic: str, payloads: Sequence[Any], *, keys: Keys | None = None, **options: Unpack[ManyOptions]
) -> Coroutine[Any, Any, list[int]]: ...
@overload
def enqueue_many(
    conn: SyncConnection, topic: str, payloads: Sequence[Any], *, keys: Keys | None = None, **options: Unpack[ManyOptions]
) -> list[int]: ...
def enqueue_many(
    conn: Any, topic: str, payloads: Sequence[Any], *, keys: Keys | None = None, **options: Unpack[ManyOptions]
) -> Any:
    """Enqueues many payloads at once, as enqueue does, and returns their ids in order. keys has one entry per payload; None
    is a message without a key."""
    arrays: Arguments = [("topic", "text", topic), ("payloads", "jsonb[]", _array([dumps(p) for p in payloads]))]
    if keys is not None:
        arrays.append(("keys", "text[]", _array(list(keys))))
    return _execute(conn, "enqueue_many", arrays + _options("enqueue_many", _traced(options), ManyOptions.__optional_keys__))


def _array(items: Sequence[str | None]) -> str:
    quoted = ('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' if item is not None else "null" for item in items)
    return "{" + ",".join(quoted) + "}"


@overload
def set_context(conn: AsyncConnection, **context: Unpack[Context]) -> Coroutine[Any, Any, None]: ...
@overload
def set_context(conn: SyncConnection, **context: Unpack[Context]) -> None: ...
def set_context(conn: Any, **context: Unpack[Context]) -> Any:
    """Sets defaults for the messages that this transaction enqueues: correlation_id, causation_id, user_id, traceparent,
    tracestate, tenant, publisher and metadata. On an async connection the result has to be awaited."""
    return _nothing(_execute(conn, "set_context", _options("set_context", context, Context.__optional_keys__)))


def _nothing(found: Any) -> Any:
    """Drops what a statement has returned. Drivers differ in what they return for void."""
    if not hasattr(found, "__await__"):
        return None

    async def wait() -> None:
        await found

    return wait()


def advance_on(conn: Any, position: int, webhook_id: str, place: tuple[int, str | None, str, int | None]) -> Any:
    """Moves a cursor in the transaction of conn. `place` is the state of its reader: confirmed position, consumer, subject
    and epoch."""
    confirmed, consumer, subject, epoch = place
    if consumer is None:
        raise invalid("the reader has no consumer", hint="Give it one: it names the cursor.")
    arguments: Arguments = [
        ("consumer", "text", consumer), ("subject", "text", subject), ("position", "bigint", str(position)),
        ("delivery_id", "text", webhook_id), ("expected_position", "bigint", str(confirmed)),
    ]
    if epoch is not None:
        arguments.append(("epoch", "int", str(epoch)))
    return _nothing(_execute(conn, "cursor_advance", arguments))


def scalar(conn: Any, sql: str) -> Any:
    """Returns the only value of a query without parameters; on an async connection a coroutine."""
    modules = _module(conn)
    if hint := _refused(conn):
        raise _unfit(conn, hint)
    if "asyncpg" in modules:
        return _asyncpg(conn, sql, [])
    if "sqlalchemy" in modules or "sqlmodel" in modules:
        return _sqlalchemy(conn, sql.replace(":", "\\:"), {})
    if "psycopg" in modules:
        return _psycopg(conn, sql, [])
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]
