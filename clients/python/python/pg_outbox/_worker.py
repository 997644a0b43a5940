"""Workers on pull subscriptions: handlers in threads or as asyncio tasks, over the worker of the Rust client.

Each failure of a handler is logged with its traceback, because the server stores only the text of the error.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import _core
from ._calls import result, start
from ._message import Delivery
from ._rows import dumps
from ._signals import graceful
from ._typing import Listener, Report, WorkerEvent

logger = logging.getLogger("pg_outbox.worker")

_LEVELS: dict[WorkerEvent, tuple[int, str]] = {
    "connected": (logging.INFO, "has a session"),
    "polling": (logging.WARNING, "polls, because a pooler does not pass notifications on"),
    "disconnected": (logging.WARNING, "lost its session, or could not open one, and tries again: %s"),
    "lease_lost": (logging.WARNING, "lost lease %s: another worker may have its deliveries"),
    "refused": (logging.ERROR, "the server refused an outcome: %s"),
}


class Retry(Exception):
    """Raised by a handler to have the delivery retried, on its schedule or after this many seconds (or a timedelta)."""

    def __init__(self, error: str = "", after: float | dt.timedelta | None = None) -> None:
        super().__init__(error)
        self.after = after


class Dead(Exception):
    """Raised by a handler when no further attempt will help. The delivery is dead-lettered."""


def _storable(text: str) -> str:
    """Replaces lone surrogates, which have no UTF-8 form (names of files can contain them)."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def shown(error: BaseException) -> str:
    """Returns the text of an exception as the server can store it."""
    try:
        # The server stores no more than this.
        return _storable(str(error)[:8192])
    except Exception:  # noqa: BLE001 - whatever an exception's own __str__ raises
        return "it cannot be shown"


def described(error: BaseException) -> str:
    """Returns the class and the text of an exception."""
    return f"{_storable(type(error).__name__)}: {shown(error)}"


def _complete(reply: _core.Reply, result: Any) -> None:
    reply.complete(None if result is None else _storable(dumps(result)))


def _refuse(reply: _core.Reply, delivery: Delivery, error: BaseException) -> None:
    _log(delivery, error)
    if isinstance(error, Dead):
        reply.dead(shown(error))
    elif isinstance(error, Retry):
        text, after, seconds = shown(error), error.after, None
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
        reply.fail(described(error))


def _log(delivery: Delivery, error: BaseException) -> None:
    about = (
        delivery.delivery_id, delivery.topic, delivery.subscription, delivery.attempt, delivery.max_attempts,
    )
    where = 'delivery %d of "%s" to "%s", attempt %d of %d: '
    if isinstance(error, Retry):
        logger.warning(where + "to be tried again: %s", *about, shown(error), exc_info=error.__cause__)
    elif isinstance(error, Dead):
        logger.error(where + "dead: %s", *about, shown(error), exc_info=error.__cause__)
    elif isinstance(error, asyncio.CancelledError):
        logger.warning(where + "the handler was cancelled", *about)
    else:
        try:
            logger.error(where + "the handler failed", *about, exc_info=error)
        except Exception:  # noqa: BLE001 - a traceback that cannot be formatted is no reason to lose the outcome
            logger.error(where + "the handler failed: %s", *about, described(error))


def listener(subscription: str, also: Listener | None) -> Listener:
    """Returns what logs the events of a worker and passes them on."""

    def tell(event: WorkerEvent, text: str) -> None:
        level, message = _LEVELS[event]
        logger.log(level, f'worker of "%s" {message}', subscription, *([text] if "%s" in message else []))
        if also is not None:
            also(event, text)

    return tell


class Worker:
    """Claims, handles and completes deliveries. The return value of a handler (None, text or JSON) is the result, an
    exception is a failure. With Retry(error, after) and Dead(reason) a handler decides what happens next. The worker
    survives restarts of the server, and ends gracefully on SIGTERM: handlers that have begun finish, other deliveries are
    released without a counted attempt. A second SIGTERM ends the process."""

    def __init__(self, core: _core.Worker, concurrency: int) -> None:
        self._core = core
        self._concurrency = concurrency

    def stop(self) -> None:
        """Ends the worker gracefully: running handlers are finished, other deliveries are released. May be called from
        any thread."""
        self._core.stop()

    def run(self, handler: Callable[[Delivery], Any]) -> Report:
        """Works until it is stopped, with handlers in threads, and returns the counts. Ctrl-C stops the worker
        gracefully and then raises KeyboardInterrupt."""
        if inspect.iscoroutinefunction(handler):
            raise TypeError("the handler is a coroutine function: await worker.arun(handler)")

        def answer(delivery: Delivery, reply: _core.Reply) -> None:
            try:
                _complete(reply, handler(delivery))
            except BaseException as error:
                _refuse(reply, delivery, error)
                if not isinstance(error, Exception):
                    raise

        with graceful(self.stop), ThreadPoolExecutor(self._concurrency, thread_name_prefix="outbox-handler") as pool:

            def dispatch(raw: dict[str, Any], reply: _core.Reply) -> None:
                pool.submit(answer, Delivery(raw), reply)

            future = start(lambda f: self._core.run(f, dispatch))
            try:
                return result(future)  # type: ignore[no-any-return]
            except KeyboardInterrupt:
                self.stop()
                result(future)
                raise

    async def arun(self, handler: Callable[[Delivery], Awaitable[Any] | Any]) -> Report:
        """Works until it is stopped, with handlers as asyncio tasks. A task whose lease is lost is cancelled. When this
        call is cancelled, the worker is first stopped gracefully."""
        loop = asyncio.get_running_loop()
        running: set[asyncio.Task[None]] = set()

        async def handle(delivery: Delivery, reply: _core.Reply) -> None:
            try:
                found = handler(delivery)
                if inspect.isawaitable(found):
                    found = await found
                _complete(reply, found)
            except BaseException as error:
                _refuse(reply, delivery, error)
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

        with graceful(self.stop, loop):
            future = asyncio.wrap_future(start(lambda f: self._core.run(f, dispatch)))
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                self.stop()
                await future
                raise


class Inline:
    """A handler for tests, which stops its worker at the first exception and keeps it."""

    def __init__(self, handler: Callable[[Delivery], Any]) -> None:
        self.handler = handler
        self.worker: Worker | None = None
        self.failure: BaseException | None = None

    def _keep(self, error: BaseException) -> None:
        self.failure = self.failure or error
        if self.worker is not None:
            self.worker.stop()

    def __call__(self, delivery: Delivery) -> Any:
        try:
            return self.handler(delivery)
        except BaseException as error:
            self._keep(error)
            raise

    async def wait(self, delivery: Delivery) -> Any:
        """Does the same for a handler that may be a coroutine function."""
        try:
            result = self.handler(delivery)
            return await result if inspect.isawaitable(result) else result
        except BaseException as error:
            self._keep(error)
            raise


def add(total: Report, report: Report) -> int:
    """Adds the counts of a worker to those of others, and returns the number of deliveries that it has handled."""
    for name, count in report.items():
        total[name] = total.get(name, 0) + count
    return report["completed"] + report["failed"] + report["dead"]


