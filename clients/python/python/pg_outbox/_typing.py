"""The types of arguments: connections, options and enumerations.

Connections are described by their methods, so a type checker tells them apart also where only one of the drivers is
installed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict

WorkerEvent = Literal["connected", "polling", "disconnected", "lease_lost", "refused"]
"""connected: the worker has a session. polling: notifications do not pass a pooler, so the worker only polls.
disconnected: the session was lost, and the worker connects again. lease_lost: another worker may have the delivery.
refused: the server did not accept an outcome, so the delivery fails."""


class _AsyncTransaction(Protocol):
    """asyncpg.Connection and psycopg.AsyncConnection. A pool of asyncpg has no transaction()."""

    def execute(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]: ...
    def transaction(self, *args: Any, **kwargs: Any) -> Any: ...


class _AsyncSession(Protocol):
    """AsyncConnection, AsyncSession and async_scoped_session of SQLAlchemy. An engine has no execute()."""

    def execute(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]: ...
    def begin_nested(self) -> Any: ...


class _AsyncCursor(Protocol):
    """psycopg.AsyncCursor."""

    def execute(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]: ...
    def fetchone(self) -> Coroutine[Any, Any, Any]: ...


class _Pooled(Protocol):
    """The connection that a pool of asyncpg lends. Its methods are made at run time."""

    _con: Any
    _holder: Any


class _Connection(Protocol):
    """A connection of the DB-API or of Django."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any: ...


class _Session(Protocol):
    """Connection, Session and scoped_session of SQLAlchemy."""

    def execute(self, *args: Any, **kwargs: Any) -> Any: ...
    def begin_nested(self) -> Any: ...


class _Cursor(Protocol):
    """psycopg.Cursor."""

    def execute(self, *args: Any, **kwargs: Any) -> Any: ...
    def fetchone(self) -> Any: ...


AsyncConnection = _AsyncTransaction | _AsyncSession | _AsyncCursor | _Pooled
SyncConnection = _Connection | _Session | _Cursor


class ManyOptions(TypedDict, total=False):
    """What holds for a message, or for every message of enqueue_many. An absent option has the default of the server.

    headers: sent with each delivery. metadata: for readers and filters. deliver_at: not delivered before this time.
    expires_at: not delivered after it. Times have a time zone. priority: -100 to 100, and higher goes first.
    idempotency_key: a second call with the same key, tenant, topic and content returns the id of the first.
    """

    headers: Mapping[str, str] | None
    metadata: Mapping[str, Any] | None
    tenant: str | None
    aggregate_type: str | None
    aggregate_id: str | None
    idempotency_key: str | None
    deliver_at: dt.datetime | None
    expires_at: dt.datetime | None
    priority: int | None
    publisher: str | None
    max_attempts: int | None
    occurred_at: dt.datetime | None


class EnqueueOptions(ManyOptions, total=False):
    """The options of enqueue. key: the ordering key. content_type: the media type of bytes or text."""

    key: str | None
    content_type: str | None


class Context(TypedDict, total=False):
    """The defaults of set_context."""

    correlation_id: str | None
    causation_id: str | None
    user_id: str | None
    traceparent: str | None
    tracestate: str | None
    tenant: str | None
    publisher: str | None
    metadata: Mapping[str, Any] | None


Keys = Sequence[str | None]
Report = dict[str, int]
"""The counts of a worker: completed, failed, dead, released, lost, disconnects."""
Listener = Callable[[WorkerEvent, str], None]
