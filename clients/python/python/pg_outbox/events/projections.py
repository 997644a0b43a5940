"""The projection engine: read models that follow events.

    engine = ProjectionEngine(store, outbox)

    @engine.projection("totals", begin=Session.begin, types=["order.*"])
    def totals(session, events):
        ...

    engine.run()

An async projection applies each batch of events in a transaction that also moves its cursor, so that its effects happen once,
however many processes run it. An event whose effect fails is tried again, with growing pauses; the error is recorded at the
cursor, where health() shows it, and no event is passed over.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .. import _core
from .._calls import wait, wait_async
from .._client import AsyncOutbox, Outbox
from .._errors import OutboxError, RetryError
from .._rows import dumps
from .._signals import graceful
from ._runs import Backoff, awaited, call, drive, in_thread, is_async, opened
from .errors import ProjectionError, quotes, told
from .readers import AsyncEventReader, AsyncEvents, EventReader, Feed, Item, Selection
from .store import EventStore, RecordedEvent

if TYPE_CHECKING:
    from .._app import App
    from .._reader import Source

logger = logging.getLogger("pg_outbox.events")
F = TypeVar("F", bound=Callable[..., Any])
State = Literal["stopped", "running", "paused", "faulted", "rebuilding", "catching_up"]
_LONGEST = 1000


@dataclass(frozen=True)
class ProjectionStatus:
    """The state of a projection. position: of its cursor. lag: positions up to the end of the feed. processed: events that
    this process has applied. latency: mean seconds per event. error and error_position: of the event that cannot be applied."""

    name: str
    kind: Literal["async", "inline", "live"]
    state: State
    position: int = 0
    lag: int = 0
    processed: int = 0
    latency: float = 0.0
    error: str | None = None
    error_position: int | None = None


@dataclass(frozen=True)
class RebuildProgress:
    """How far a rebuild is: positions done and in all, positions per second, and seconds that remain (None: not known)."""

    projection: str
    done: int
    total: int
    rate: float
    remaining: float | None


class _Projection:
    def __init__(
        self, name: str, handler: Callable[[Any, list[RecordedEvent]], Any], begin: Callable[[], Any], selection: Selection, batch: int
    ) -> None:
        self.name = name
        self.handler = handler
        self.begin = begin
        self.selection = selection
        self.batch = batch
        self.in_asyncio = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)
        self.paused = False
        # Made by the event loop that runs it.
        self.changed: asyncio.Event | None = None
        self.reader: EventReader | AsyncEventReader | None = None
        self.rebuilding = False
        self.processed = 0
        self.seconds = 0.0

    @property
    def consumer(self) -> str:
        # The server knows this prefix: such a cursor keeps no messages from being reclaimed.
        return f"projection {self.name}"

    def stop(self) -> None:
        if self.reader is not None:
            self.reader.stop()

    def wake(self) -> None:
        if self.changed is not None:
            self.changed.set()


class _Live:
    def __init__(self, name: str, handler: Callable[[RecordedEvent], Any], selection: Selection) -> None:
        self.name = name
        self.handler = handler
        self.selection = selection
        self.in_asyncio = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)
        self.events: AsyncEvents | None = None
        self.processed = 0
        self.seconds = 0.0


class _Shown:
    """What the health port shows of the projections of an engine."""

    def __init__(self, engine: ProjectionEngine) -> None:
        self._engine = engine

    @property
    def _sources(self) -> list[Source]:
        return [one.reader._source for one in self._engine._projections.values() if one.reader is not None]

    @property
    def failing(self) -> int | None:
        return min((source.failing for source in self._sources if source.failing is not None), default=None)

    @property
    def applied(self) -> int:
        return sum(one.processed for one in self._engine._projections.values())

    @property
    def connected(self) -> bool:
        return all(source.connected for source in self._sources)


class ProjectionEngine:
    """Runs projections in one process; others may run the same ones.

    outbox: an Outbox, an AsyncOutbox or an App, whose pool reads the events. poll_interval: seconds between looks for new events.
    The engine is a task of asyncio; handlers that are blocking run in threads, each with its own transaction.
    """

    def __init__(self, store: EventStore, outbox: Outbox | AsyncOutbox | App, *, poll_interval: float = 0.1) -> None:
        if not 0 < poll_interval <= 3600:
            raise ValueError("poll_interval: more than 0, up to 3600 seconds")
        self._store = store
        self._outbox = outbox
        self._poll_interval = poll_interval
        self._projections: dict[str, _Projection] = {}
        self._lives: dict[str, _Live] = {}
        self._inlines: set[str] = set()
        self._running: dict[_Projection | _Live, asyncio.Task[Any]] = {}
        self._stopping: asyncio.Event | None = None
        self._added: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._source = _Shown(self)

    @property
    def _core(self) -> _core.Core:
        # The outbox of an application may not be known before it starts.
        return self._outbox._core if isinstance(self._outbox, (Outbox, AsyncOutbox)) else self._outbox.outbox._core

    # Registration

    def register(
        self, name: str, handler: Callable[[Any, list[RecordedEvent]], Any], begin: Callable[[], Any], *,
        categories: Sequence[str] | None = None, types: Sequence[str] | None = None, tenant: str | None = None, batch: int = 100,
    ) -> None:
        """Registers an async projection: handler(conn, events), blocking or async, runs in a transaction of begin (as for
        Reader.apply, for example Session.begin), which has to fit the handler. types: patterns. batch: the most events at
        once (100; up to 1000)."""
        if not 1 <= batch <= _LONGEST:
            raise ValueError(f"batch: 1 to {_LONGEST}")
        self._check_name(name)
        self._projections[name] = _Projection(name, handler, begin, Selection(categories, types, tenant), batch)
        self._later(self._begin_all)

    def projection(
        self, name: str, *, begin: Callable[[], Any], categories: Sequence[str] | None = None, types: Sequence[str] | None = None,
        tenant: str | None = None, batch: int = 100,
    ) -> Callable[[F], F]:
        """Registers the function below as an async projection; see register()."""

        def add(handler: F) -> F:
            self.register(name, handler, begin, categories=categories, types=types, tenant=tenant, batch=batch)
            return handler

        return add

    def inline(self, name: str, *, types: Sequence[str] | None = None) -> Callable[[F], F]:
        """Registers the function below as an inline projection of the store: handler(conn, events) runs in the transaction of
        each append, and its errors refuse the append."""

        def add(handler: F) -> F:
            self._check_name(name)
            self._store.inline(name, handler, types)
            self._inlines.add(name)
            return handler

        return add

    def live(self, name: str, *, categories: Sequence[str] | None = None, types: Sequence[str] | None = None) -> Callable[[F], F]:
        """Registers the function below as a live projection: handler(event), blocking or async, gets new events while the engine
        runs. It has no cursor. An event that cannot be decoded, or whose handler fails, is logged and passed over, and a lost
        connection is opened again: nothing ends it but stop()."""

        def add(handler: F) -> F:
            self._check_name(name)
            self._lives[name] = _Live(name, handler, Selection(categories, types))
            self._later(self._begin_all)
            return handler

        return add

    def _check_name(self, name: str) -> None:
        if not name or len(name) > 200:
            raise ValueError("a projection has a name of 1 to 200 characters")
        if name in self._projections or name in self._lives or name in self._inlines:
            raise _error(f'there is a projection "{name}" already')

    def unregister(self, name: str) -> None:
        """Ends and removes a projection. Its cursor stays."""
        if name in self._inlines:
            self._inlines.discard(name)
            self._store.remove_inline(name)
        elif name in self._lives:
            live = self._lives.pop(name)
            if live.events is not None:
                self._later(live.events.close)
        else:
            found = self._found(name)
            del self._projections[name]
            self._later(found.stop)
            self._later(found.wake)

    def _found(self, name: str) -> _Projection:
        if name not in self._projections:
            raise _error(f'there is no async projection "{name}"', code="OB001", label="not_found")
        return self._projections[name]

    # Running

    def run(self) -> None:
        """Runs the projections until stop(), SIGTERM or Ctrl-C."""
        asyncio.run(self.arun())

    async def arun(self) -> None:
        """Does the same as run() in the event loop that is running. An error that no retry can heal ends all projections."""
        if self._stopping is not None:
            raise _error("the projection engine runs already")
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._added = asyncio.Event()
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            with graceful(self.stop, self._loop):
                while not self._stopping.is_set():
                    self._begin_all()
                    added = asyncio.ensure_future(self._added.wait())
                    try:
                        await asyncio.wait([stopped, added, *self._running.values()], return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        added.cancel()
                    self._added.clear()
                    self._reap()
        finally:
            self._end()
            ended = await asyncio.gather(*self._running.values(), return_exceptions=True)
            stopped.cancel()
            self._running.clear()
            self._stopping = None
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                raise error

    def _reap(self) -> None:
        for one, task in list(self._running.items()):
            if task.done():
                del self._running[one]
                task.result()

    def _begin_all(self) -> None:
        """Begins the projections that do not run, if the engine runs."""
        if self._stopping is None or self._added is None or self._stopping.is_set():
            return
        every: list[_Projection | _Live] = [*self._projections.values(), *self._lives.values()]
        for one in every:
            if one not in self._running:
                work = self._run_live(one) if isinstance(one, _Live) else self._run_one(one)
                self._running[one] = asyncio.ensure_future(work)
                self._added.set()

    def stop(self) -> None:
        """Ends the engine after the batches that it works on. May be called from any thread."""
        if self._loop is not None and self._stopping is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._stopping is not None:
            self._stopping.set()
        for one in self._projections.values():
            one.stop()
            one.wake()
        for live in self._lives.values():
            if live.events is not None:
                live.events.close()

    def pause(self, name: str) -> None:
        """Pauses a projection in this process, after the batch that it works on."""
        found = self._found(name)
        found.paused = True
        self._later(found.stop)

    def resume(self, name: str) -> None:
        """Resumes a projection that was paused."""
        found = self._found(name)
        found.paused = False
        self._later(found.wake)

    def _later(self, function: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    async def _run_one(self, one: _Projection) -> None:
        assert self._stopping is not None
        one.changed = asyncio.Event()
        while not self._stopping.is_set() and self._projections.get(one.name) is one:
            if one.paused:
                one.changed.clear()
                await one.changed.wait()
                continue
            await self._apply(one, until_end=False)

    def _apply(self, one: _Projection, *, until_end: bool) -> Coroutine[Any, Any, int]:
        settings = (self._core, one.consumer, one.selection, one.batch, self._poll_interval)
        decode, decode_now = self._store.decoded, self._store.decoded_now

        async def project(conn: Any, items: Sequence[Item]) -> None:
            begun = time.monotonic()
            lookup, events = self._store.lookup(conn), [item.event for item in items]
            for item in items:
                # An event without encrypted fields, as nearly all are, needs no coroutine.
                if not decode_now(item.event, item.content):
                    await decode(is_async(conn), lookup, item.event, item.content)
            await awaited(one.handler(conn, events))
            one.processed += len(events)
            one.seconds += time.monotonic() - begun

        if one.in_asyncio:
            reader = AsyncEventReader(*settings)
            one.reader = reader
            return reader.apply(one.begin, project, until_end=until_end)  # type: ignore[arg-type]
        blocking = EventReader(*settings)
        one.reader = blocking

        def project_blocking(conn: Any, items: Any) -> None:
            drive(project(conn, items))

        return in_thread(lambda: blocking.apply(one.begin, project_blocking, until_end=until_end))

    async def _run_live(self, live: _Live) -> None:
        pause = Backoff(1000, 0.1, 2.0, 5.0)
        threads = ThreadPoolExecutor(1, "outbox-live")
        failures = 0
        try:
            while self._runs(live):
                try:
                    if live.events is None:
                        head = json.loads(await wait_async(lambda f: self._core.call(f, "head", "{}", [])))[0]
                        if not self._runs(live):
                            return
                        feed = Feed(self._core, live.selection, head, _LONGEST)
                        live.events = AsyncEvents(self._store, feed, self._poll_interval, 1_000_000, 1.0)
                    async for event in live.events:
                        failures = 0
                        await self._show(live, event, threads)
                    return
                except Exception as error:  # noqa: BLE001 - nothing ends a live projection but stop()
                    logger.warning('live projection "%s" goes on after an error: %s', live.name, told(error))
                    if live.events is not None and not isinstance(error, RetryError) and live.events.skip():
                        continue
                failures += 1
                assert self._stopping is not None
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause.pause(failures))
        finally:
            live.events = None
            threads.shutdown(wait=False)

    def _runs(self, live: _Live) -> bool:
        return self._stopping is not None and not self._stopping.is_set() and self._lives.get(live.name) is live

    async def _show(self, live: _Live, event: RecordedEvent, threads: ThreadPoolExecutor) -> None:
        begun = time.monotonic()
        try:
            if live.in_asyncio:
                await awaited(live.handler(event))
            else:
                context = contextvars.copy_context()
                done = await asyncio.get_running_loop().run_in_executor(threads, lambda: context.run(live.handler, event))
                await awaited(done)
        except Exception as error:
            logger.error(
                'live projection "%s" has failed for event %s of %s: %s', live.name, event.version, event.stream, told(error),
                exc_info=None if quotes(error) else error,
            )
        live.processed += 1
        live.seconds += time.monotonic() - begun

    # Status and rebuild

    def drain(self, name: str) -> int:
        """Applies the events that there are now, in blocking code, and returns their number. For tests: the first error is
        raised. The projection must not run."""
        return asyncio.run(self.adrain(name))

    async def adrain(self, name: str) -> int:
        """Does the same as drain() in the event loop that is running."""
        await wait_async(lambda f: self._core.call(f, "tick", "{}", []))
        return await self._apply(self._found(name), until_end=True)

    def status(self, name: str) -> ProjectionStatus:
        """Returns the state of a projection, in blocking code."""
        if name in self._projections:
            one = self._projections[name]
            return self._stated(one, wait(self._cursor(one)), wait(lambda f: self._core.call(f, "head", "{}", [])))
        return self._other(name)

    async def astatus(self, name: str) -> ProjectionStatus:
        """Returns the state of a projection, in asyncio."""
        if name in self._projections:
            one = self._projections[name]
            return self._stated(one, await wait_async(self._cursor(one)), await wait_async(lambda f: self._core.call(f, "head", "{}", [])))
        return self._other(name)

    def _cursor(self, one: _Projection) -> Callable[[Any], Any]:
        args = dumps({"consumer": one.consumer, "if_missing": 0})
        return lambda f: self._core.call(f, "cursor_get", args, [])

    def _stated(self, one: _Projection, cursor: str, head: str) -> ProjectionStatus:
        at, end = json.loads(cursor)[0], json.loads(head)[0]
        lag = max(0, end - at["position"])
        state: State = "running"
        if one.rebuilding:
            state = "rebuilding"
        elif at["last_error"] is not None:
            state = "faulted"
        elif one.paused:
            state = "paused"
        elif one not in self._running:
            state = "stopped"
        elif lag > one.batch:
            state = "catching_up"
        return ProjectionStatus(
            one.name, "async", state, at["position"], lag, one.processed, one.seconds / max(one.processed, 1), at["last_error"],
            at["error_position"],
        )

    def _other(self, name: str) -> ProjectionStatus:
        if name in self._inlines:
            return ProjectionStatus(name, "inline", "running")
        if name not in self._lives:
            raise _error(f'there is no projection "{name}"', code="OB001", label="not_found")
        live = self._lives[name]
        state: State = "running" if live in self._running else "stopped"
        position = 0 if live.events is None else live.events.position
        return ProjectionStatus(name, "live", state, position, 0, live.processed, live.seconds / max(live.processed, 1))

    def rebuild(
        self, name: str, *, clear: Callable[[Any], Any], progress: Callable[[RebuildProgress], Any] | None = None, from_position: int = 0
    ) -> int:
        """Does the same as arebuild(), in blocking code."""
        return asyncio.run(self.arebuild(name, clear=clear, progress=progress, from_position=from_position))

    async def arebuild(
        self, name: str, *, clear: Callable[[Any], Any], progress: Callable[[RebuildProgress], Any] | None = None, from_position: int = 0
    ) -> int:
        """Applies all events again, and returns the number that this process has applied.

        clear(conn) empties the read model, in the transaction that moves the cursor back to from_position; the role needs
        the right to call cursor_reset(). progress is called every second, and at the end. It ends at the end of the feed; an event
        that cannot be applied, and stop(), end it with an error.
        Other processes that run the projection share the work, and no page is applied twice. In this process the projection
        must not run: pause() it first. Without downtime, register the new form under a new name, and switch when it has
        caught up."""
        one = self._found(name)
        if one in self._running and not one.paused:
            raise _error(f'projection "{name}" runs; pause it before a rebuild')
        one.rebuilding = True
        reporting: asyncio.Task[None] | None = None
        try:
            async with opened(one.in_asyncio, one.begin) as conn:
                # The cursor is first, as it is where events are applied, so that the two are no deadlock.
                await call(conn, "cursor_reset", [
                    ("consumer", "text", one.consumer), ("position", "bigint", str(from_position)), ("reason", "text", "rebuild"),
                ], "select cast({} as text)")
                await awaited(clear(conn))
            await wait_async(lambda f: self._core.call(f, "tick", "{}", []))
            begun, end = time.monotonic(), json.loads(await wait_async(lambda f: self._core.call(f, "head", "{}", [])))[0]

            async def report() -> int:
                at: int = json.loads(await wait_async(self._cursor(one)))[0]["position"]
                total, done = max(0, end - from_position), max(0, min(at, end) - from_position)
                rate = done / max(time.monotonic() - begun, 1e-9)
                if progress is not None:
                    await awaited(progress(RebuildProgress(name, done, total, rate, (total - done) / rate if rate else None)))
                return at

            async def report_often() -> None:
                while True:
                    await asyncio.sleep(1.0)
                    await report()

            reporting = asyncio.ensure_future(report_often())
            applied = await self._apply(one, until_end=True)
            if await report() < end:
                raise _error(f'the rebuild of projection "{name}" was stopped before the end of the feed')
            return applied
        finally:
            one.rebuilding = False
            if reporting is not None:
                reporting.cancel()


    def rebuild_all(
        self, clear: Mapping[str, Callable[[Any], Any]], *, concurrency: int = 4, progress: Callable[[RebuildProgress], Any] | None = None
    ) -> dict[str, int]:
        """Does the same as arebuild_all(), in blocking code."""
        return asyncio.run(self.arebuild_all(clear, concurrency=concurrency, progress=progress))

    async def arebuild_all(
        self, clear: Mapping[str, Callable[[Any], Any]], *, concurrency: int = 4, progress: Callable[[RebuildProgress], Any] | None = None
    ) -> dict[str, int]:
        """Rebuilds several projections at the same time, and returns the number of events of each that this process has applied.

        clear: for each name the function that empties its read model; see arebuild(). concurrency: the most rebuilds at a time. One
        that fails does not end the others; the first error is raised when all have ended, and the others are logged."""
        if concurrency < 1:
            raise ValueError("concurrency is from 1 on")
        for name in clear:
            self._found(name)
        places = asyncio.Semaphore(concurrency)

        async def one(name: str) -> int:
            async with places:
                return await self.arebuild(name, clear=clear[name], progress=progress)

        done = dict(zip(clear, await asyncio.gather(*map(one, clear), return_exceptions=True), strict=True))
        failed = {name: error for name, error in done.items() if isinstance(error, BaseException)}
        for name in list(failed)[1:]:
            logger.error('the rebuild of projection "%s" has failed: %s', name, told(failed[name]))
        for error in failed.values():
            raise error
        return {name: count for name, count in done.items() if isinstance(count, int)}


def _error(message: str, *, code: str = "OB004", label: str = "invalid_transition") -> OutboxError:
    return ProjectionError(message, code=code, name=label)
