"""Outbox and AsyncOutbox: admin methods, workers and readers. A thin layer over the Rust client."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import json
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from . import _core
from ._enqueue import advance_on
from ._generated import AdminMethods, AsyncAdminMethods
from ._message import Delivery, Message
from ._rows import Call, Shape, dumps


class Retry(Exception):
    """Raised by a handler to have the delivery retried, on its schedule or after this many seconds (or a timedelta)."""

    def __init__(self, error: str = "", after: float | dt.timedelta | None = None) -> None:
        super().__init__(error)
        self.after = after


class Dead(Exception):
    """Raised by a handler when no further attempt will help. The delivery is dead-lettered."""


def _start(begin: Callable[[Future[Any]], _core.Task]) -> Future[Any]:
    future: Future[Any] = Future()
    task = begin(future)
    future.add_done_callback(lambda done: task.abort() if done.cancelled() else None)
    return future


def _wait(begin: Callable[[Future[Any]], _core.Task]) -> Any:
    future = _start(begin)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise


async def _await(begin: Callable[[Future[Any]], _core.Task]) -> Any:
    return await asyncio.wrap_future(_start(begin))


def _begin(core: _core.Core, call: Call) -> Callable[[Future[Any]], _core.Task]:
    if call.table:
        return lambda f: core.table(f, call.name, call.args, call.limit, call.shape.intervals)
    if call.shape.kind == "void":
        return lambda f: core.call_void(f, call.name, call.args)
    return lambda f: core.call(f, call.name, call.args, call.shape.intervals)


def _finish(call: Call, answer: str | None) -> Any:
    return call.shape.read(json.loads(answer) if answer is not None else [])


class _Base:
    def __init__(self, dsn: str = "", *, pool_size: int = 8) -> None:
        self._core = _core.Core(dsn, pool_size)

    def worker(
        self,
        subscription: str,
        *,
        name: str | None = None,
        concurrency: int = 8,
        batch: int = 0,
        lease: float = 60.0,
        poll_interval: float = 1.0,
        grace: float = 30.0,
        until_empty: bool = False,
        on_event: Callable[[str, str], None] | None = None,
    ) -> Worker:
        """Creates a worker on a pull subscription. Times are in seconds. With batch 0, a claim takes as many deliveries
        as handlers are free."""
        return Worker(
            _core.Worker(self._core, subscription, name, concurrency, batch, lease, poll_interval, grace, until_empty, on_event),
            concurrency,
        )

    def _reader(
        self, consumer: str | None, subject: str, topics: Sequence[str] | None, filter: Mapping[str, Any] | None, after: int,
        batch: int, poll_interval: float,
    ) -> _core.Reader:
        return _core.Reader(
            self._core, consumer, subject, None if topics is None else list(topics),
            None if filter is None else dumps(filter), after, batch, poll_interval,
        )

    def drain(self, subscription: str, handler: Callable[[Delivery], Any]) -> dict[str, int]:
        """Handles the deliveries that are in a pull subscription now and returns the counts. For tests: no other worker
        has to run."""
        return self.worker(subscription, concurrency=1, until_empty=True).run(handler)


class Outbox(_Base, AdminMethods):
    """The outbox of a database, for blocking code. It is a context manager.

    dsn: a connection string as for libpq. Missing parameters come from PGHOST, PGUSER and so on.
    """

    def _run(self, call: Call) -> Any:
        return _finish(call, _wait(_begin(self._core, call)))

    def call(self, function: str, args: Mapping[str, Any] | None = None) -> list[Any]:
        """Calls any function of the schema by name and returns its rows as plain values."""
        return self._run(Call(function, args or {}, Shape("values", None, {})))  # type: ignore[no-any-return]

    def check(self) -> None:
        """Connects and checks that the extension is installed, in a version that this client supports."""
        _wait(self._core.check)

    def reader(
        self, consumer: str | None = None, *, subject: str = "", topics: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None, after: int = 0, batch: int = 100, poll_interval: float = 0.5,
    ) -> Reader:
        """Creates a reader of the feed that continues from the cursor of a consumer. Without a consumer the position is
        not stored."""
        return Reader(self._reader(consumer, subject, topics, filter, after, batch, poll_interval))

    def close(self) -> None:
        """Closes the pool."""
        self._core.close()

    def __enter__(self) -> Outbox:
        self.check()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncOutbox(_Base, AsyncAdminMethods):
    """The outbox of a database, for asyncio. Every method has to be awaited. It is an async context manager."""

    async def _arun(self, call: Call) -> Any:
        return _finish(call, await _await(_begin(self._core, call)))

    async def call(self, function: str, args: Mapping[str, Any] | None = None) -> list[Any]:
        """Calls any function of the schema by name and returns its rows as plain values."""
        return await self._arun(Call(function, args or {}, Shape("values", None, {})))  # type: ignore[no-any-return]

    async def check(self) -> None:
        """Connects and checks that the extension is installed, in a version that this client supports."""
        await _await(self._core.check)

    def reader(
        self, consumer: str | None = None, *, subject: str = "", topics: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None, after: int = 0, batch: int = 100, poll_interval: float = 0.5,
    ) -> AsyncReader:
        """Creates a reader of the feed that continues from the cursor of a consumer. Without a consumer the position is
        not stored."""
        return AsyncReader(self._reader(consumer, subject, topics, filter, after, batch, poll_interval))

    async def close(self) -> None:
        """Closes the pool."""
        self._core.close()

    async def __aenter__(self) -> AsyncOutbox:
        await self.check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._core.close()


def _storable(text: str) -> str:
    """Replaces lone surrogates, which have no UTF-8 form (names of files can contain them)."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _shown(error: BaseException) -> str:
    try:
        # The server stores no more than this.
        return _storable(str(error)[:8192])
    except Exception:  # noqa: BLE001 - whatever an exception's own __str__ raises
        return "it cannot be shown"


def _complete(reply: _core.Reply, result: Any) -> None:
    reply.complete(None if result is None else _storable(dumps(result)))


def _answer(reply: _core.Reply, run: Callable[[], Any]) -> None:
    try:
        _complete(reply, run())
    except BaseException as error:
        _refuse(reply, error)
        if not isinstance(error, Exception):
            raise


def _refuse(reply: _core.Reply, error: BaseException) -> None:
    if isinstance(error, Dead):
        reply.dead(_shown(error))
    elif isinstance(error, Retry):
        text, after = _shown(error), error.after
        try:
            seconds = after.total_seconds() if isinstance(after, dt.timedelta) else None if after is None else float(after)
            wrong = seconds is not None and not math.isfinite(seconds)
        except (TypeError, ValueError, OverflowError):
            wrong = True
        if wrong:
            reply.fail(f"{text} (to be tried again after something that is no number of seconds: by the schedule instead)")
        else:
            reply.fail(text, seconds)
    elif isinstance(error, asyncio.CancelledError):
        reply.fail("the handler was cancelled")
    else:
        reply.fail(f"{_storable(type(error).__name__)}: {_shown(error)}")


class Worker:
    """Claims, handles and completes deliveries. The return value of a handler (None, text or JSON) is the result, an
    exception is a failure. With Retry(error, after) and Dead(reason) a handler decides what happens next. The worker
    survives restarts of the server."""

    def __init__(self, core: _core.Worker, concurrency: int) -> None:
        self._core = core
        self._concurrency = concurrency

    def stop(self) -> None:
        """Ends the worker gracefully: running handlers are finished, other deliveries are released. May be called from
        any thread."""
        self._core.stop()

    def run(self, handler: Callable[[Delivery], Any]) -> dict[str, int]:
        """Works until it is stopped, with handlers in threads, and returns the counts. Ctrl-C stops the worker
        gracefully and then raises KeyboardInterrupt."""
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="outbox-handler") as pool:

            def dispatch(raw: dict[str, Any], reply: _core.Reply) -> None:
                delivery = Delivery(raw)
                pool.submit(_answer, reply, lambda: handler(delivery))

            future = _start(lambda f: self._core.run(f, dispatch))
            try:
                return future.result()  # type: ignore[no-any-return]
            except KeyboardInterrupt:
                self.stop()
                future.result()
                raise

    async def arun(self, handler: Callable[[Delivery], Awaitable[Any] | Any]) -> dict[str, int]:
        """Works until it is stopped, with handlers as asyncio tasks. A task whose lease is lost is cancelled. When this
        call is cancelled, the worker is first stopped gracefully."""
        loop = asyncio.get_running_loop()
        running: set[asyncio.Task[None]] = set()

        async def handle(delivery: Delivery, reply: _core.Reply) -> None:
            try:
                result = handler(delivery)
                if inspect.isawaitable(result):
                    result = await result
                _complete(reply, result)
            except BaseException as error:
                _refuse(reply, error)
                if not isinstance(error, (Exception, asyncio.CancelledError)):
                    raise

        def dispatch(raw: dict[str, Any], reply: _core.Reply) -> Callable[[], Any]:
            held: list[asyncio.Task[None]] = []

            def begin() -> None:
                task = loop.create_task(handle(Delivery(raw), reply))
                held.append(task)
                running.add(task)
                task.add_done_callback(running.discard)

            def cancel() -> None:
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in held])

            loop.call_soon_threadsafe(begin)
            return cancel

        future = asyncio.wrap_future(_start(lambda f: self._core.run(f, dispatch)))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.stop()
            await future
            raise


class Reader:
    """Iterates over the feed in order, without end. The cursor moves only when advance is called."""

    def __init__(self, core: _core.Reader) -> None:
        self._core = core
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        with self._lock:
            return Message(_wait(self._core.next))

    def next_now(self) -> Message | None:
        """Returns the next message if there is one now."""
        raw = _wait(self._core.next_now)
        return None if raw is None else Message(raw)

    def advance(self, message: Message) -> None:
        """Moves the cursor to a message that has been handled."""
        _wait(lambda f: self._core.advance(f, message.position, message.webhook_id))

    def advance_in(self, conn: Any, message: Message) -> Any:
        """Moves the cursor in the transaction of `conn`, as a compare-and-set, so that the effects of that transaction
        happen once. Call committed() after the commit. Raises ConflictError if another instance was first; the caller
        has to roll back then. On an async connection the result has to be awaited."""
        return advance_on(conn, message.position, message.webhook_id, _wait(self._core.place))

    def committed(self, message: Message) -> None:
        """Tells the reader that a transaction has committed that moved the cursor to this message."""
        _wait(lambda f: self._core.committed(f, message.position))

    def record_error(self, error: str) -> None:
        """Records why a message could not be handled. The cursor does not move."""
        _wait(lambda f: self._core.record_error(f, error))


class AsyncReader:
    """Iterates over the feed in order, without end, for `async for`. The cursor moves only when advance is called."""

    def __init__(self, core: _core.Reader) -> None:
        self._core = core

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        return Message(await _await(self._core.next))

    async def next_now(self) -> Message | None:
        """Returns the next message if there is one now."""
        raw = await _await(self._core.next_now)
        return None if raw is None else Message(raw)

    async def advance(self, message: Message) -> None:
        """Moves the cursor to a message that has been handled."""
        await _await(lambda f: self._core.advance(f, message.position, message.webhook_id))

    async def advance_in(self, conn: Any, message: Message) -> None:
        """Moves the cursor in the transaction of `conn`, as a compare-and-set, so that the effects of that transaction
        happen once. Call committed() after the commit. Raises ConflictError if another instance was first; the caller
        has to roll back then."""
        done = advance_on(conn, message.position, message.webhook_id, await _await(self._core.place))
        if inspect.isawaitable(done):
            await done

    async def committed(self, message: Message) -> None:
        """Tells the reader that a transaction has committed that moved the cursor to this message."""
        await _await(lambda f: self._core.committed(f, message.position))

    async def record_error(self, error: str) -> None:
        """Records why a message could not be handled. The cursor does not move."""
        await _await(lambda f: self._core.record_error(f, error))
