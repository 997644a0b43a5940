"""Readers of the feed, and projections: effects that happen once, in the transaction that moves the cursor.

A projection never passes a message whose effect has failed: the effect is tried again, with growing pauses, and the error
is recorded at the cursor until it succeeds.
"""

# An async connection has the methods of a blocking one, so its overload comes first, and the two overlap.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from . import _core
from ._calls import Begin, result, start, wait, wait_async
from ._enqueue import advance_on, scalar
from ._errors import ConflictError, OutboxError, from_driver, invalid, make
from ._message import Message
from ._signals import graceful
from ._worker import described

if TYPE_CHECKING:
    from ._typing import AsyncConnection, SyncConnection

C = TypeVar("C")
logger = logging.getLogger("pg_outbox.reader")


class Source:
    """Makes the native reader, and makes it again in a child process. failing: the position of the first message that the last
    attempt of apply() could not apply. applied: how many messages apply() has applied."""

    def __init__(
        self, make: Callable[[], _core.Reader], consumer: str | None, batch: int
    ) -> None:
        self.consumer = consumer
        self.batch = max(1, batch)
        self._make = make
        self._core: _core.Reader | None = None
        self._process = 0
        self.failing: int | None = None
        self.applied = 0

    @property
    def core(self) -> _core.Reader:
        if self._core is None or self._process != os.getpid():
            self._core, self._process = self._make(), os.getpid()
        return self._core

    @property
    def connected(self) -> bool:
        """Whether the last read found the server."""
        return self._core is not None and self._core.connected()

    def needs_consumer(self) -> str:
        if self.consumer is None:
            raise invalid("the reader has no consumer", hint="Give it one: it names the cursor.")
        return self.consumer

    def failure(self, error: str, message: Message | None) -> Begin:
        """Returns the call that records an error at the cursor."""
        self.needs_consumer()
        return lambda f: self.core.record_error(f, error, None if message is None else message.position)

    def told(self, error: BaseException) -> str:
        """Returns the text of an error that is recorded and logged."""
        return described(error)

    def traced(self, error: BaseException) -> BaseException | None:
        """Returns the error whose traceback is logged."""
        return error

    def passes(self, error: Exception) -> bool:
        """Returns whether the effect may succeed in the next transaction, so that the message is not to blame."""
        return False


def _batch(messages: Message | Sequence[Message]) -> tuple[list[int], Message]:
    """Returns the positions of messages, and the last one."""
    batch = [messages] if isinstance(messages, Message) else list(messages)
    if not batch:
        raise invalid("there is no message to advance to")
    return [message.position for message in batch], max(batch, key=lambda message: message.position)


class _Progress:
    """Decides what a projection does next: how many messages it applies at once, and how long it waits after a failure."""

    def __init__(self, source: Source) -> None:
        source.needs_consumer()
        self.source = source
        self.pending: list[Message] = []
        self.applied = 0
        self.is_stale = False
        self._size = source.batch
        self._failures = 0

    def part(self) -> list[Message]:
        return self.pending[: self._size]

    def succeeded(self, part: list[Message]) -> None:
        self.applied += len(part)
        self.source.applied += len(part)
        self.source.failing = None
        self._failures = 0
        del self.pending[: len(part)]
        if not self.pending:
            self._size = self.source.batch

    def failed(self, part: list[Message], error: Exception, begun: str | None) -> tuple[float, str | None]:
        """Returns the seconds to wait, and the text to record if the message is known whose effect fails. begun: the number
        of the transaction, if the effect has begun."""
        if begun is None and isinstance(error, ConflictError) and error.name == "non_monotonic_cursor":
            # Another instance has applied these messages. This one goes on from the cursor.
            logger.info('projection "%s": another instance was first, so this one continues from the cursor', self.source.consumer)
            self.source.failing = None
            self.pending = []
            self.is_stale = True
            return 0.1, None
        if len(part) > 1:
            # The messages are applied one at a time, so those before the bad one take effect and it is named.
            self._size = 1
            logger.warning(
                'projection "%s": %d messages from position %d on have failed together (%s), so they are applied one at a time',
                self.source.consumer, len(part), part[0].position, self.source.told(error),
            )
            return 0.0, None
        self._failures += 1
        most = min(0.1 * 2 ** min(self._failures, 10), 30.0)
        if self._failures < _PASSING and self.source.passes(error):
            logger.warning('projection "%s": %s; it is tried again', self.source.consumer, self.source.told(error))
            return random.uniform(most / 2, most), None
        self.source.failing = part[0].position
        logger.error(
            'projection "%s" stands before position %d ("%s"), failure %d: it is tried again', self.source.consumer,
            part[0].position, part[0].topic, self._failures, exc_info=self.source.traced(error),
        )
        return random.uniform(most / 2, most), self.source.told(error)


_PASSING = 10
"""The failures in a row from which on also an error that may pass is recorded."""


def _connection(manager: Any, entered: Any) -> Any:
    """Returns the connection that a context manager stands for. Django's atomic() does not return it."""
    if entered is not None:
        return entered
    if type(manager).__module__ == "django.db.transaction":
        from django.db import transaction  # type: ignore[import-untyped]

        return transaction.get_connection(manager.using)
    raise invalid(
        "begin() has given no connection", hint="It returns a context manager of a connection or session, for example Session.begin."
    )


def _begins(conn: Any) -> bool:
    """Returns whether a connection has no transaction of its own and commits each statement by itself."""
    asks = getattr(conn, "is_in_transaction", None)
    return not asks() if asks is not None else getattr(conn, "autocommit", False) is True and hasattr(conn, "pgconn")


def _commits(manager: Any, conn: Any) -> bool:
    """Returns whether the context manager is a session that closes without a commit, as SQLAlchemy's are."""
    return manager is conn and hasattr(conn, "begin_nested")


_TRANSACTION = "select cast(pg_catalog.pg_current_xact_id_if_assigned() as text)"
"""The number of the transaction. The query fails in a transaction that is aborted."""


_SAVEPOINT = "To go on after an SQL error, run the statement that may fail in a savepoint."


def _same_transaction(before: str | None, after: str | None) -> None:
    if after != before:
        raise invalid(
            "the effect has ended its transaction", detail="The cursor moves in the transaction of the effect, which the client ends.",
            hint=_SAVEPOINT,
        )


@contextmanager
def _of_the_effect() -> Iterator[None]:
    """Names the effect as the cause if the statement after it finds the transaction aborted: COMMIT would roll back without
    an error."""
    try:
        yield
    except Exception as error:
        known = error if isinstance(error, OutboxError) else from_driver(error)
        if known is None or known.code != "25P02":
            raise
        message = "the effect has caught an SQL error, so its transaction is aborted"
        raise make(known.kind, known.code, known.name, message, hint=_SAVEPOINT) from error


async def _awaited(value: Any) -> Any:
    """Returns the value of a call on a connection, which is blocking or async."""
    return await value if inspect.isawaitable(value) else value


@contextmanager
def _transaction(begin: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
    manager = begin()
    with manager as entered:
        conn = _connection(manager, entered)
        if _begins(conn):
            with conn.transaction():
                yield conn
            return
        yield conn
        if _commits(manager, conn):
            conn.commit()


@asynccontextmanager
async def _atransaction(begin: Callable[[], Any]) -> AsyncIterator[Any]:
    manager: Any = begin()
    if not hasattr(manager, "__aenter__"):
        manager = await manager
    async with manager as entered:
        conn = _connection(manager, entered)
        if _begins(conn):
            async with conn.transaction():
                yield conn
            return
        yield conn
        if _commits(manager, conn):
            await conn.commit()


class Reader:
    """Iterates over the feed in order, without end. The cursor moves only when advance is called, and it does not pass a
    message that was not advanced."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._waiting: Future[Any] | None = None

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        with self._lock:
            return Message(wait(self._source.core.next))

    def next_now(self) -> Message | None:
        """Returns the next message if there is one now."""
        raw = wait(self._source.core.next_now)
        return None if raw is None else Message(raw)

    def advance(self, messages: Message | Sequence[Message]) -> None:
        """Moves the cursor to a message that has been handled, or to the last one of several that all have been handled.
        Raises ConflictError if a message before was read and not advanced: rewind() returns it again."""
        positions, last = _batch(messages)
        wait(lambda f: self._source.core.advance(f, positions, last.webhook_id))

    @overload
    def advance_in(self, conn: AsyncConnection, messages: Message | Sequence[Message]) -> Coroutine[Any, Any, None]: ...
    @overload
    def advance_in(self, conn: SyncConnection, messages: Message | Sequence[Message]) -> None: ...
    def advance_in(self, conn: Any, messages: Message | Sequence[Message]) -> Any:
        """Moves the cursor in the transaction of `conn`, as a compare-and-set, so that the effects of that transaction
        happen once. Call committed() after the commit. Raises ConflictError if another instance was first; the caller
        has to roll back then. On an async connection the result has to be awaited. apply() does all of this."""
        positions, last = _batch(messages)
        return advance_on(conn, last.position, last.webhook_id, wait(lambda f: self._source.core.place(f, positions)))

    def committed(self, messages: Message | Sequence[Message]) -> None:
        """Tells the reader that a transaction has committed that moved the cursor to these messages."""
        _, last = _batch(messages)
        wait(lambda f: self._source.core.committed(f, last.position))

    def rewind(self) -> None:
        """Goes back to the stored cursor: what was read and not advanced is returned again."""
        wait(self._source.core.rewind)

    def skip(self, message: Message) -> None:
        """Counts a message as advanced that has had no effect and shall have none. The next advance passes over it."""
        wait(lambda f: self._source.core.skip(f, message.position))

    def record_error(self, error: str, message: Message | None = None) -> None:
        """Records why a message could not be handled, for health() and the command line. The cursor does not move, and its
        next advance clears the error."""
        wait(self._source.failure(error, message))

    def stop(self) -> None:
        """Ends apply() after the batch that it works on. May be called from any thread, and from a signal handler."""
        self._stopped.set()
        if (waiting := self._waiting) is not None:
            waiting.cancel()

    def apply(
        self, begin: Callable[[], AbstractContextManager[C]], project: Callable[[C, list[Message]], object], *,
        until_end: bool = False,
    ) -> int:
        """Runs `project(conn, messages)` for each batch of messages in a transaction that also moves the cursor, so that
        effects in this database happen once. Returns the number of messages.

        begin: returns the context manager of a transaction, such as `Session.begin`, `engine.begin`, `transaction.atomic`
        of Django, or `lambda: psycopg.connect(dsn)`. It works until stop() or SIGTERM; with until_end, until there is no
        further message, for tests, and then it raises what project raises.

        When project raises, the transaction is rolled back, the error is logged and recorded at the cursor, and the
        messages are tried again one at a time, with pauses of up to 30 s. No message is passed over. The same happens when
        project catches an SQL error outside of a savepoint, and when it ends the transaction. Each call begins at the stored
        cursor."""
        progress = _Progress(self._source)
        self._stopped.clear()
        # An earlier call may have read messages that it has not applied.
        self.rewind()
        with graceful(self.stop):
            while not self._stopped.is_set():
                if not progress.pending and not self._fetch(progress, until_end):
                    break
                part = progress.part()
                if not part:
                    continue
                begun: str | None = None
                try:
                    with _transaction(begin) as conn:
                        # This comes first, so that another instance waits here and then sees that it is late.
                        self.advance_in(conn, part)
                        begun = scalar(conn, _TRANSACTION)
                        project(conn, part)
                        with _of_the_effect():
                            _same_transaction(begun, scalar(conn, _TRANSACTION))
                except Exception as error:
                    pause, text = progress.failed(part, error, begun)
                    if text is not None:
                        self._record(text, part[0])
                        if until_end:
                            raise
                    if progress.is_stale:
                        self.rewind()
                        progress.is_stale = False
                    self._stopped.wait(pause)
                else:
                    self.committed(part)
                    progress.succeeded(part)
        return progress.applied

    def _fetch(self, progress: _Progress, until_end: bool) -> bool:
        """Fetches the next messages, and waits for the first one. Returns False at the end."""
        while len(progress.pending) < progress.source.batch and (message := self.next_now()) is not None:
            progress.pending.append(message)
        if progress.pending or until_end:
            return bool(progress.pending)
        # Another instance may have applied the message that has failed here.
        self._source.failing = None
        self._waiting = start(self._source.core.next)
        try:
            if self._stopped.is_set():
                self._waiting.cancel()
            progress.pending.append(Message(result(self._waiting)))
        except CancelledError:
            pass
        except KeyboardInterrupt:
            self._waiting.cancel()
            raise
        finally:
            self._waiting = None
        return True

    def _record(self, text: str, message: Message) -> None:
        try:
            self.record_error(text, message)
        except Exception:  # the effect is tried again whether or not the error can be stored
            logger.warning('projection "%s": its error could not be recorded', self._source.consumer, exc_info=True)


class AsyncReader:
    """Iterates over the feed in order, without end, for `async for`. The cursor moves only when advance is called, and it
    does not pass a message that was not advanced."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stopped = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        return Message(await wait_async(self._source.core.next))

    async def next_now(self) -> Message | None:
        """Returns the next message if there is one now."""
        raw = await wait_async(self._source.core.next_now)
        return None if raw is None else Message(raw)

    async def advance(self, messages: Message | Sequence[Message]) -> None:
        """Moves the cursor to a message that has been handled, or to the last one of several that all have been handled.
        Raises ConflictError if a message before was read and not advanced: rewind() returns it again."""
        positions, last = _batch(messages)
        await wait_async(lambda f: self._source.core.advance(f, positions, last.webhook_id))

    async def advance_in(self, conn: AsyncConnection | SyncConnection, messages: Message | Sequence[Message]) -> None:
        """Moves the cursor in the transaction of `conn`, as a compare-and-set, so that the effects of that transaction
        happen once. Call committed() after the commit. Raises ConflictError if another instance was first; the caller
        has to roll back then. apply() does all of this."""
        positions, last = _batch(messages)
        place = await wait_async(lambda f: self._source.core.place(f, positions))
        await _awaited(advance_on(conn, last.position, last.webhook_id, place))

    async def committed(self, messages: Message | Sequence[Message]) -> None:
        """Tells the reader that a transaction has committed that moved the cursor to these messages."""
        _, last = _batch(messages)
        await wait_async(lambda f: self._source.core.committed(f, last.position))

    async def rewind(self) -> None:
        """Goes back to the stored cursor: what was read and not advanced is returned again."""
        await wait_async(self._source.core.rewind)

    async def skip(self, message: Message) -> None:
        """Counts a message as advanced that has had no effect and shall have none. The next advance passes over it."""
        await wait_async(lambda f: self._source.core.skip(f, message.position))

    async def record_error(self, error: str, message: Message | None = None) -> None:
        """Records why a message could not be handled, for health() and the command line. The cursor does not move, and its
        next advance clears the error."""
        await wait_async(self._source.failure(error, message))

    def stop(self) -> None:
        """Ends apply() after the batch that it works on. To be called in the thread of its event loop."""
        self._stopped.set()

    async def apply(
        self, begin: Callable[[], AbstractAsyncContextManager[C] | Awaitable[AbstractAsyncContextManager[C]]],
        project: Callable[[C, list[Message]], Awaitable[object]], *, until_end: bool = False,
    ) -> int:
        """Runs `project(conn, messages)` for each batch of messages in a transaction that also moves the cursor, so that
        effects in this database happen once. Returns the number of messages.

        begin: returns the async context manager of a transaction, such as `Session.begin`, `engine.begin`,
        `pool.acquire` of asyncpg, or `lambda: psycopg.AsyncConnection.connect(dsn)`. It works until stop() or SIGTERM, or
        until it is cancelled; with until_end, until there is no further message, for tests, and then it raises what
        project raises.

        When project raises, the transaction is rolled back, the error is logged and recorded at the cursor, and the
        messages are tried again one at a time, with pauses of up to 30 s. No message is passed over. The same happens when
        project catches an SQL error outside of a savepoint, and when it ends the transaction. Each call begins at the stored
        cursor."""
        progress = _Progress(self._source)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.call_soon_threadsafe(self.stop)

        self._stopped.clear()
        # An earlier call may have read messages that it has not applied.
        await self.rewind()
        with graceful(stop, loop):
            while not self._stopped.is_set():
                if not progress.pending and not await self._fetch(progress, until_end):
                    break
                part = progress.part()
                if not part:
                    continue
                begun: str | None = None
                try:
                    async with _atransaction(begin) as conn:
                        # This comes first, so that another instance waits here and then sees that it is late.
                        await self.advance_in(conn, part)
                        begun = await _awaited(scalar(conn, _TRANSACTION))
                        await project(conn, part)
                        with _of_the_effect():
                            _same_transaction(begun, await _awaited(scalar(conn, _TRANSACTION)))
                except Exception as error:
                    pause, text = progress.failed(part, error, begun)
                    if text is not None:
                        await self._record(text, part[0])
                        if until_end:
                            raise
                    if progress.is_stale:
                        await self.rewind()
                        progress.is_stale = False
                    await self._until_stopped(asyncio.sleep(pause))
                else:
                    await self.committed(part)
                    progress.succeeded(part)
        return progress.applied

    async def _fetch(self, progress: _Progress, until_end: bool) -> bool:
        """Fetches the next messages, and waits for the first one. Returns False at the end."""
        while len(progress.pending) < progress.source.batch and (message := await self.next_now()) is not None:
            progress.pending.append(message)
        if progress.pending or until_end:
            return bool(progress.pending)
        # Another instance may have applied the message that has failed here.
        self._source.failing = None
        message = await self._until_stopped(self.__anext__())
        if message is not None:
            progress.pending.append(message)
        return True

    async def _until_stopped(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Waits for work, or until stop(). Returns None then."""
        tasks = [asyncio.ensure_future(work), asyncio.ensure_future(self._stopped.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].result() if tasks[0] in done else None
        finally:
            for task in tasks:
                task.cancel()

    async def _record(self, text: str, message: Message) -> None:
        try:
            await self.record_error(text, message)
        except Exception:  # the effect is tried again whether or not the error can be stored
            logger.warning('projection "%s": its error could not be recorded', self._source.consumer, exc_info=True)


