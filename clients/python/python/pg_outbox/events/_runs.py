"""Runs one implementation in blocking code and in asyncio.

Everything here is written once, as coroutines. On a blocking connection, each statement has its value at once, so that such
a coroutine never waits, and `drive` runs it to its end.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from .._enqueue import Arguments, _execute, _module, _refused, _unfit
from .._errors import OutboxError, invalid
from .._reader import _atransaction, _begins, _transaction
from .errors import typed

T = TypeVar("T")
AGAIN = ("OB013", "40001", "40P01")
"""Conflict, serialization failure, deadlock: the answer is a new transaction."""


def is_async(conn: Any) -> bool:
    """Returns whether a connection has to be awaited."""
    modules = _module(conn)
    if "asyncpg" in modules:
        return True
    return any(cls.__name__ in _ASYNC for cls in type(conn).__mro__ if cls.__module__.split(".")[0] in ("psycopg", "sqlalchemy"))


_ASYNC = {"AsyncConnection", "AsyncCursor", "AsyncSession", "async_scoped_session"}


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that does not wait for anything."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        work.close()
    raise TypeError("an async function was called in blocking code; use the async form of this call")


def run(conn: Any, work: Coroutine[Any, Any, Any]) -> Any:
    """Returns the result of the work on a blocking connection, and a coroutine on an async one. A pool or an engine is refused
    at once."""
    if hint := _refused(conn):
        work.close()
        raise _unfit(conn, hint)
    return work if is_async(conn) else drive(work)


async def awaited(value: Any) -> Any:
    """Returns the value of a call, which is blocking or async."""
    return await value if inspect.isawaitable(value) else value


async def sleep(in_asyncio: bool, seconds: float) -> None:
    """Waits."""
    if in_asyncio:
        await asyncio.sleep(seconds)
    else:
        time.sleep(seconds)  # noqa: ASYNC251 - this is the blocking case


async def work(in_asyncio: bool, blocking: Callable[..., T], *args: Any) -> T:
    """Runs a function that may wait for the network: in a thread in asyncio."""
    return await asyncio.to_thread(blocking, *args) if in_asyncio else blocking(*args)


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Runs a function in a thread of its own: one that runs for long would keep a thread of asyncio's few."""
    threads = ThreadPoolExecutor(1, "outbox-events")
    try:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(threads, lambda: context.run(function, *args))
    finally:
        # A task that is cancelled does not wait for the thread in the event loop.
        threads.shutdown(wait=False)


@asynccontextmanager
async def opened(in_asyncio: bool, begin: Callable[[], Any]) -> AsyncIterator[Any]:
    """A transaction of begin, as Reader.apply begins it."""
    if in_asyncio:
        async with _atransaction(begin) as conn:
            yield conn
    else:
        with _transaction(begin) as conn:
            yield conn


@asynccontextmanager
async def savepoint(conn: Any, in_asyncio: bool) -> AsyncIterator[None]:
    """A savepoint, as the driver makes it."""
    plain = getattr(conn, "connection", conn) if hasattr(conn, "fetchone") else conn
    manager: Any
    if hasattr(plain, "begin_nested"):
        manager = plain.begin_nested()
    elif hasattr(plain, "transaction"):
        manager = plain.transaction()
    elif hasattr(plain, "alias"):
        from django.db import transaction  # type: ignore[import-untyped,unused-ignore]

        manager = transaction.atomic(using=plain.alias)
    else:
        raise invalid(f"a {type(plain).__qualname__} has no savepoints", hint="Use a connection of psycopg, asyncpg, SQLAlchemy or Django.")
    if hasattr(manager, "__aenter__") and in_asyncio:
        async with manager:
            yield
    else:
        with manager:
            yield


def check_transaction(conn: Any, what: str) -> None:
    """Raises InvalidError for a connection that commits each statement by itself, where several belong together."""
    plain = getattr(conn, "connection", conn) if hasattr(conn, "fetchone") else conn
    alone = _begins(plain)
    if hasattr(plain, "in_atomic_block"):
        # Django
        alone = not plain.in_atomic_block and plain.get_autocommit()
    elif alone and hasattr(plain, "pgconn"):
        # In a transaction() block, psycopg keeps autocommit.
        alone = plain.info.transaction_status == 0
    if alone:
        raise invalid(f"{what} needs a transaction", hint="Begin one on the connection: with conn.transaction(): ...")


async def call(conn: Any, function: str, arguments: Arguments, form: str = "select {}") -> Any:
    """Calls a function on the connection and returns its only value."""
    try:
        return await awaited(_execute(conn, function, arguments, form))
    except OutboxError as error:
        made = typed(error)
        if made is error:
            raise
        raise made from error


def sqlstate(error: BaseException | None) -> str | None:
    """Returns the SQLSTATE of an error of this package or of a driver. An error of the program has none, also where it was
    raised because of one."""
    if isinstance(error, OutboxError):
        return error.code
    wrapped = getattr(error, "orig", None)
    if error is not None and type(error).__module__.startswith("django.db"):
        wrapped = error.__cause__
    for one in (error, wrapped, getattr(wrapped, "__cause__", None)):
        found = getattr(one, "sqlstate", None) or getattr(one, "pgcode", None)
        if isinstance(found, str) and len(found) == 5:
            return found
    return None


_JSON = "select cast(to_jsonb({}) as text)"


async def call_json(conn: Any, function: str, arguments: Arguments) -> Any:
    """Calls a function and returns its value as JSON has it: a row is a dict."""
    found = await call(conn, function, arguments, _JSON)
    return None if found is None else json.loads(found)


_ROWS = "select coalesce(cast(json_agg(to_json(r)) as text), '[]') from {} r"


async def call_rows(conn: Any, function: str, arguments: Arguments, form: str = _ROWS) -> list[dict[str, Any]]:
    """Calls a function that returns rows."""
    return json.loads(await call(conn, function, arguments, form))  # type: ignore[no-any-return]


class Backoff:
    """Pauses between attempts: attempts in all (3), the first pause (0.1 s), its factor (2), the longest pause (5 s). A pause
    is drawn from its upper half."""

    def __init__(self, attempts: int = 3, first: float = 0.1, factor: float = 2.0, cap: float = 5.0) -> None:
        if not (1 <= attempts <= 1000 and 0 <= first <= cap <= 3600 and 1 <= factor <= 100):
            raise ValueError("attempts: 1 to 1000; 0 <= first <= cap <= 3600 seconds; factor: 1 to 100")
        self.attempts = attempts
        self._first = first
        self._factor = factor
        self._cap = cap

    def pause(self, attempt: int) -> float:
        """Returns the seconds to wait after this attempt, which is counted from 1."""
        most = min(self._first * self._factor ** min(attempt - 1, 64), self._cap)
        return random.uniform(most / 2, most)
