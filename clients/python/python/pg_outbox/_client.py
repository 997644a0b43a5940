"""Outbox and AsyncOutbox: admin methods, workers and readers. A thin layer over the Rust client."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from . import _core
from ._calls import Begin, wait, wait_async
from ._errors import InvalidError, OutboxError, suggestion
from ._generated import AdminMethods, AsyncAdminMethods
from ._message import Delivery
from ._reader import AsyncReader, Reader, Source
from ._rows import Call, Shape, dumps
from ._typing import Listener, Report
from ._worker import Inline, Worker, add, listener


def _begin(core: _core.Core, call: Call) -> Begin:
    if call.table:
        return lambda f: core.table(f, call.name, call.args, call.limit, call.shape.intervals)
    if call.shape.kind == "void":
        return lambda f: core.call_void(f, call.name, call.args)
    return lambda f: core.call(f, call.name, call.args, call.shape.intervals)


def _finish(call: Call, answer: str | None) -> Any:
    return call.shape.read(json.loads(answer) if answer is not None else [])


def _explained(error: OutboxError, function: str, args: Mapping[str, Any]) -> OutboxError:
    """Returns the error of a call by name. A name that the schema does not have is an error of the caller, and no matter of
    versions."""
    if error.name != "version_mismatch":
        return error
    method = getattr(AdminMethods, function, None)
    known = [name for name in vars(AdminMethods) if not name.startswith("_")]
    if method is None:
        what, hint = f'there is no function outbox.{function[:100]}()', suggestion(function, known)
    else:
        names = [name.rstrip("_") for name in inspect.signature(method).parameters if name != "self"]
        wrong = next((name for name in args if name not in names), None)
        if wrong is None:
            return error
        what = f'outbox.{function}() has no argument "{wrong[:100]}"'
        hint = suggestion(wrong, names) or f"Its arguments are {', '.join(names)}."
    return InvalidError(what, code=error.code, name="invalid_parameter", detail=error.message, hint=hint.removeprefix(". ") or None)


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
        on_event: Listener | None = None,
    ) -> Worker:
        """Creates a worker on a pull subscription. Times are in seconds. With batch 0, a claim takes as many deliveries
        as handlers are free. Events are logged to `pg_outbox.worker`; on_event(event, text) gets them too, with the text
        of an error or the number of a lease."""
        return Worker(
            _core.Worker(
                self._core, subscription, name, concurrency, batch, lease, poll_interval, grace, until_empty,
                listener(subscription, on_event),
            ),
            concurrency,
        )

    def _source(
        self, consumer: str | None, subject: str, topics: Sequence[str] | None, filter: Mapping[str, Any] | None, after: int,
        batch: int, poll_interval: float,
    ) -> Source:
        def make() -> _core.Reader:
            return _core.Reader(
                self._core, consumer, subject, None if topics is None else list(topics),
                None if filter is None else dumps(filter), after, batch, poll_interval,
            )

        return Source(make, consumer, batch)


class Outbox(_Base, AdminMethods):
    """The outbox of a database, for blocking code. It is a context manager.

    dsn: a connection string as for libpq. Missing parameters come from PGHOST, PGUSER and so on. An outbox that was made
    before a fork can be used in the child process.
    """

    def _run(self, call: Call) -> Any:
        return _finish(call, wait(_begin(self._core, call)))

    def call(self, function: str, args: Mapping[str, Any] | None = None) -> list[Any]:
        """Calls any function of the schema by name and returns its rows as plain values."""
        try:
            return self._run(Call(function, args or {}, Shape("values", None, {})))  # type: ignore[no-any-return]
        except OutboxError as error:
            raise _explained(error, function, args or {}) from error

    def check(self) -> None:
        """Connects and checks that the extension is installed, in a version that this client supports."""
        wait(self._core.check)

    def reader(
        self, consumer: str | None = None, *, subject: str = "", topics: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None, after: int = 0, batch: int = 100, poll_interval: float = 0.5,
    ) -> Reader:
        """Creates a reader of the feed that continues from the cursor of a consumer. Without a consumer the position is
        not stored."""
        return Reader(self._source(consumer, subject, topics, filter, after, batch, poll_interval))

    def drain(self, subscription: str, handler: Callable[[Delivery], Any], *, swallow: bool = False) -> Report:
        """Handles the deliveries that are in a pull subscription now and returns the counts. For tests: no other worker
        has to run. The first exception of the handler is raised; with swallow, its delivery only counts as failed."""
        total: Report = {}
        while True:
            self._settle()
            inline = Inline(handler)
            inline.worker = self.worker(subscription, concurrency=1, until_empty=True)
            if inspect.iscoroutinefunction(handler):
                raise TypeError("the handler is a coroutine function: await AsyncOutbox.drain(...)")
            handled = add(total, inline.worker.run(handler if swallow else inline))
            if inline.failure is not None:
                raise inline.failure
            if handled == 0:
                return total

    def _settle(self, seconds: float = 30.0) -> None:
        """Waits until all committed messages are routed."""
        end = time.monotonic() + seconds
        while True:
            (status,) = self.worker_status()
            if status.state not in ("running", "starting"):
                self.tick()
                return
            if status.idle:
                return
            _late(end, seconds)
            time.sleep(0.01)

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
        return _finish(call, await wait_async(_begin(self._core, call)))

    async def call(self, function: str, args: Mapping[str, Any] | None = None) -> list[Any]:
        """Calls any function of the schema by name and returns its rows as plain values."""
        try:
            return await self._arun(Call(function, args or {}, Shape("values", None, {})))  # type: ignore[no-any-return]
        except OutboxError as error:
            raise _explained(error, function, args or {}) from error

    async def check(self) -> None:
        """Connects and checks that the extension is installed, in a version that this client supports."""
        await wait_async(self._core.check)

    def reader(
        self, consumer: str | None = None, *, subject: str = "", topics: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None, after: int = 0, batch: int = 100, poll_interval: float = 0.5,
    ) -> AsyncReader:
        """Creates a reader of the feed that continues from the cursor of a consumer. Without a consumer the position is
        not stored."""
        return AsyncReader(self._source(consumer, subject, topics, filter, after, batch, poll_interval))

    async def drain(self, subscription: str, handler: Callable[[Delivery], Any], *, swallow: bool = False) -> Report:
        """Handles the deliveries that are in a pull subscription now, with a blocking or an async handler, and returns the
        counts. For tests: no other worker has to run. The first exception of the handler is raised; with swallow, its
        delivery only counts as failed."""
        total: Report = {}
        while True:
            await self._settle()
            inline = Inline(handler)
            inline.worker = self.worker(subscription, concurrency=1, until_empty=True)
            handled = add(total, await inline.worker.arun(handler if swallow else inline.wait))
            if inline.failure is not None:
                raise inline.failure
            if handled == 0:
                return total

    async def _settle(self, seconds: float = 30.0) -> None:
        """Waits until all committed messages are routed."""
        end = time.monotonic() + seconds
        while True:
            (status,) = await self.worker_status()
            if status.state not in ("running", "starting"):
                await self.tick()
                return
            if status.idle:
                return
            _late(end, seconds)
            await asyncio.sleep(0.01)

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


def _late(end: float, seconds: float) -> None:
    if time.monotonic() > end:
        raise TimeoutError(f"the outbox has not routed its messages within {seconds} s")
