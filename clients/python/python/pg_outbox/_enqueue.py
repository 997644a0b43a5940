"""Enqueues on the caller's connection, in the caller's transaction.

Works with psycopg 3 (sync and async), asyncpg, SQLAlchemy (connections and sessions, sync and async), Django, and any other
DB-API connection with the `format` style. On an async connection the result has to be awaited.
"""

from __future__ import annotations

import datetime as dt
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ._errors import InvalidError, from_driver
from ._rows import dumps

Arguments = list[tuple[str, str, Any]]

_CASTS = {
    "deliver_at": "timestamptz", "expires_at": "timestamptz", "occurred_at": "timestamptz", "priority": "int", "max_attempts": "int",
    "headers": "jsonb", "metadata": "jsonb",
}


def _options(options: Mapping[str, Any]) -> Arguments:
    found: Arguments = []
    for name, value in options.items():
        if value is None:
            continue
        cast = _CASTS.get(name, "text")
        if cast == "jsonb":
            value = dumps(value)
        elif isinstance(value, dt.datetime):
            if value.tzinfo is None:
                raise InvalidError(f"{name} has no time zone", code="22023", name="invalid_parameter")
            value = value.isoformat()
        found.append((name, cast, str(value)))
    return found


def _sql(function: str, arguments: Arguments, placeholder: Callable[[int], str]) -> str:
    # Every value is sent as text or bytes, and casts in the statement give its type, so no driver has to know a type.
    parts = []
    for i, (name, cast, value) in enumerate(arguments):
        mark = f"cast({placeholder(i)} as {'bytea' if isinstance(value, bytes) else 'text'})"
        # Quoted, because position is a keyword of SQL.
        parts.append(f'"{name}" => ' + (mark if cast in ("text", "bytea") else f"cast({mark} as {cast})"))
    return f"select outbox.{function}({', '.join(parts)})"


def _module(conn: Any) -> set[str]:
    return {cls.__module__.split(".")[0] for cls in type(conn).__mro__}


def _fail(error: BaseException) -> None:
    known = from_driver(error)
    if known is not None:
        raise known from error


def _execute(conn: Any, function: str, arguments: Arguments) -> Any:
    modules = _module(conn)
    values = [value for _, _, value in arguments]
    if "asyncpg" in modules:
        return _asyncpg(conn, _sql(function, arguments, lambda i: f"${i + 1}"), values)
    if "sqlalchemy" in modules or "sqlmodel" in modules:
        return _sqlalchemy(conn, _sql(function, arguments, lambda i: f":p{i}"), {f"p{i}": v for i, v in enumerate(values)})
    sql = _sql(function, arguments, lambda i: "%s")
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
    raise InvalidError(
        f"cannot enqueue on a {type(conn).__module__}.{type(conn).__qualname__}", code="22023", name="invalid_parameter",
        hint="Give it the connection, or the session, in whose transaction the message belongs.",
    )


# Whether a connection goes through a pooler. PgBouncer shares the server's sessions between clients. A statement that the
# driver prepares by name (psycopg does so after five executions) is unknown in the next session, or belongs to another
# client.
_POOLED: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def _psycopg(conn: Any, sql: str, values: Sequence[Any]) -> Any:
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


def enqueue(
    conn: Any,
    topic: str,
    payload: Any = None,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    tenant: str | None = None,
    aggregate_type: str | None = None,
    aggregate_id: str | None = None,
    idempotency_key: str | None = None,
    deliver_at: dt.datetime | None = None,
    expires_at: dt.datetime | None = None,
    priority: int | None = None,
    publisher: str | None = None,
    max_attempts: int | None = None,
    occurred_at: dt.datetime | None = None,
    content_type: str | None = None,
) -> Any:
    """Adds a message to the outbox in the transaction of `conn` and returns its id (on an async connection an awaitable).

    The payload is any value that can be written as JSON, including dataclasses and pydantic models. Bytes, and text with a
    content_type, are stored and sent unchanged. Raises InvalidError, ConflictError, InactiveError and FatalError.
    """
    function, content = _content(payload, content_type)
    options = _options({
        "key": key, "headers": headers, "metadata": metadata, "tenant": tenant, "aggregate_type": aggregate_type,
        "aggregate_id": aggregate_id, "idempotency_key": idempotency_key, "deliver_at": deliver_at, "expires_at": expires_at,
        "priority": priority, "publisher": publisher, "max_attempts": max_attempts, "occurred_at": occurred_at,
    })
    return _execute(conn, function, [("topic", "text", topic), *content, *options])


def enqueue_many(
    conn: Any, topic: str, payloads: Sequence[Any], *, keys: Sequence[str] | None = None, **options: Any
) -> list[int] | Awaitable[list[int]]:
    """Enqueues many payloads at once, as enqueue does, and returns their ids in order."""
    arrays: Arguments = [("topic", "text", topic), ("payloads", "jsonb[]", _array([dumps(p) for p in payloads]))]
    if keys is not None:
        arrays.append(("keys", "text[]", _array(list(keys))))
    return _execute(conn, "enqueue_many", arrays + _options(options))  # type: ignore[no-any-return]


def _array(items: Sequence[str]) -> str:
    return "{" + ",".join('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items) + "}"


def set_context(conn: Any, **context: Any) -> Any:
    """Sets defaults for the messages that this transaction enqueues: correlation_id, causation_id, user_id, traceparent,
    tracestate, tenant, publisher and metadata."""
    return _execute(conn, "set_context", _options(context))


def advance_on(conn: Any, position: int, webhook_id: str, place: tuple[int, str | None, str, int | None]) -> Any:
    """Moves a cursor in the transaction of conn. `place` is the state of its reader: confirmed position, consumer, subject
    and epoch."""
    confirmed, consumer, subject, epoch = place
    if consumer is None:
        raise InvalidError(
            "the reader has no consumer", code="22023", name="invalid_parameter", hint="Give it one: it names the cursor."
        )
    arguments: Arguments = [
        ("consumer", "text", consumer), ("subject", "text", subject), ("position", "bigint", str(position)),
        ("delivery_id", "text", webhook_id), ("expected_position", "bigint", str(confirmed)),
    ]
    if epoch is not None:
        arguments.append(("epoch", "int", str(epoch)))
    return _execute(conn, "cursor_advance", arguments)


def enqueued(conn: Any) -> Any:
    """Returns the messages that the current transaction has enqueued so far, as a list of {id, topic, key, payload}. For
    tests: the role needs the right to read outbox.message."""
    sql = (
        "coalesce((select cast(jsonb_agg(jsonb_build_object('id', m.id, 'topic', m.topic, 'key', m.key, 'payload', m.payload)"
        " order by m.id) as text) from outbox.message m where m.xid = pg_current_xact_id_if_assigned()"
        " and m.topic !~ '^outbox[.]'), '[]')"
    )
    return _scalar(conn, "select " + sql)


def _scalar(conn: Any, sql: str) -> Any:
    import json

    modules = _module(conn)
    if "asyncpg" in modules:

        async def run() -> Any:
            return json.loads(await _asyncpg(conn, sql, []))

        return run()
    found = _sqlalchemy(conn, sql.replace(":", "\\:"), {}) if "sqlalchemy" in modules else None
    if found is None and "psycopg" in modules:
        found = _psycopg(conn, sql, [])
    if found is None:
        with conn.cursor() as cursor:
            cursor.execute(sql)
            found = cursor.fetchone()[0]
    if hasattr(found, "__await__"):

        async def wait() -> Any:
            return json.loads(await found)

        return wait()
    return json.loads(found)
