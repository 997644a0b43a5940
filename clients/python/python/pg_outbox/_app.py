"""The worker application: handlers by topic, in one process.

    app = pg_outbox.App()                                     # DATABASE_URL
    billing = app.subscription("billing", max_attempts=8)

    @billing.on("order.created", retry_on=TimeoutError)
    async def bill(order: OrderCreated) -> None: ...

    $ python -m pg_outbox worker app:app

It creates or alters its subscriptions when it starts, validates payloads, logs, and ends gracefully on SIGTERM and SIGINT.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Literal, Protocol, TypeVar

from ._client import AsyncOutbox
from ._errors import FatalError, RetryError, invalid
from ._health import Health
from ._message import Delivery, Message
from ._periodic import Periodic
from ._reader import AsyncReader
from ._routes import Exceptions, Route, Routes
from ._signals import graceful
from ._telemetry import span
from ._typing import Report, WorkerEvent
from ._worker import Dead, Inline, Retry, Worker, add

logger = logging.getLogger("pg_outbox.app")

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])
Next = Callable[[Delivery], Awaitable[Any]]
Middleware = Callable[[Delivery, Next], Awaitable[Any]]


class _Stoppable(Protocol):
    def stop(self) -> None: ...


class Engine(_Stoppable, Protocol):
    """Work that runs until stop()."""

    def arun(self) -> Coroutine[Any, Any, None]:
        """Runs it."""
        ...


class Subscription:
    """A pull subscription of an application, and its handlers."""

    def __init__(
        self, app: App, name: str, topics: Sequence[str] | None, settings: Mapping[str, Any], worker: Mapping[str, Any],
        concurrency: int | None,
    ) -> None:
        self.name = name
        self._app = app
        self._topics = topics
        self._settings = settings
        self._worker = worker
        self._concurrency = concurrency
        self._routes = Routes()

    def on(
        self, *topics: str, concurrency: int | None = None, retry_on: Exceptions | None = None, dead_on: Exceptions = (),
        retry_after: float | None = None,
    ) -> Callable[[F], F]:
        """Makes a function, blocking or async, the handler of these topics (`*` is one word, `#` any number of words).

        Its parameters say what it gets. One that is annotated as Delivery, or named `delivery` without an annotation, gets
        the delivery. Another one gets the payload as its type: a pydantic model, a dataclass, a TypedDict, bytes; without
        an annotation the JSON. A payload that does not have the type is dead at once.

        concurrency: the most deliveries that it handles at once, within the concurrency of the subscription. retry_on:
        exceptions that are retried; when it is given, any other exception is dead at once. dead_on: exceptions that are
        dead at once. retry_after: seconds until the next attempt; by default the schedule of the subscription decides. An
        exception is retried unless these say otherwise.
        """
        if not topics:
            raise TypeError("on() needs a topic")

        def register(handler: F) -> F:
            self._routes.add(Route(topics, handler, concurrency, retry_on, dead_on, retry_after))
            return handler

        return register

    def _wanted(self) -> dict[str, Any]:
        topics = list(self._topics) if self._topics is not None else self._routes.topics()
        if not topics:
            raise invalid(
                f'subscription "{self.name}" has no handler',
                hint=f'Give it one: @app.subscription("{self.name}").on("order.created").',
            )
        return {"name": self.name, "topics": topics, **self._settings}


class App:
    """A worker application. dsn: a connection string; without it, the environment variable `dsn_env` has it when the
    application starts. ensure: creates or alters the subscriptions at the start (needs the capability admin); without it,
    migrations do so with ensure_subscription()."""

    def __init__(
        self, dsn: str | None = None, *, dsn_env: str = "DATABASE_URL", pool_size: int = 4, ensure: bool = True
    ) -> None:
        self._dsn = dsn
        self._dsn_env = dsn_env
        self._pool_size = pool_size
        self._ensure = ensure
        self._outbox: AsyncOutbox | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._middleware: list[Middleware] = []
        self._periodic: dict[str, Periodic] = {}
        self._projections: dict[str, Callable[[], tuple[_Stoppable, Coroutine[Any, Any, Any]]]] = {}
        self._hooks: dict[str, list[Callable[..., Any]]] = {"startup": [], "shutdown": [], "error": []}
        self._health = Health()
        self._stop: Callable[[], None] | None = None

    @property
    def outbox(self) -> AsyncOutbox:
        """The outbox of the application, for admin methods, readers and hooks."""
        if self._outbox is None:
            dsn = self._dsn if self._dsn is not None else os.environ.get(self._dsn_env)
            if dsn is None:
                raise invalid(
                    f"the environment variable {self._dsn_env} is not set",
                    hint="Set it to a connection string, or pass dsn to App.",
                )
            self._outbox = AsyncOutbox(dsn, pool_size=self._pool_size)
        return self._outbox

    def subscription(
        self,
        name: str,
        topics: Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        max_attempts: int | None = None,
        max_age: dt.timedelta | None = None,
        schedule: Any | None = None,
        ordering: Literal["none", "key", "strict"] | None = None,
        on_exhausted: Literal["skip", "block"] | None = None,
        ttl: dt.timedelta | None = None,
        deadline: dt.timedelta | None = None,
        max_lag: dt.timedelta | None = None,
        external_id: str | None = None,
        labels: Mapping[str, Any] | None = None,
        start: str | None = None,
        source: str | None = None,
        transform: str | None = None,
        notify: bool | None = True,
        concurrency: int | None = None,
        batch: int = 0,
        lease: float = 60.0,
        poll_interval: float = 1.0,
        grace: float = 30.0,
    ) -> Subscription:
        """Describes a pull subscription. topics: by default those of its handlers. The settings up to notify are those of
        ensure_subscription(), but for those of endpoints; a new subscription starts at the first stored message. concurrency: the most handlers at
        once (8, or what the command line says). batch, lease, poll_interval and grace are those of Outbox.worker."""
        if name in self._subscriptions:
            raise ValueError(f'the application has subscription "{name}" already')
        settings = {
            "filter": filter, "max_attempts": max_attempts, "max_age": max_age, "schedule": schedule, "ordering": ordering,
            "on_exhausted": on_exhausted, "ttl": ttl, "deadline": deadline, "max_lag": max_lag, "external_id": external_id,
            "labels": labels, "start": start, "source": source, "transform": transform, "notify": notify,
        }
        worker = {"batch": batch, "lease": lease, "poll_interval": poll_interval, "grace": grace}
        made = Subscription(self, name, topics, settings, worker, concurrency)
        self._subscriptions[name] = made
        return made

    def middleware(self, function: Middleware) -> Middleware:
        """Wraps every handler in an async function of (delivery, call_next). The first one is the outermost. It sees what
        the handler returns and raises."""
        if not inspect.iscoroutinefunction(function):
            raise TypeError("a middleware is a coroutine function of (delivery, call_next)")
        self._middleware.append(function)
        return function

    def on_startup(self, function: F) -> F:
        """Calls a function, blocking or async, before the workers begin."""
        self._hooks["startup"].append(function)
        return function

    def on_shutdown(self, function: F) -> F:
        """Calls a function, blocking or async, after the workers have ended."""
        self._hooks["shutdown"].append(function)
        return function

    def on_error(self, function: F) -> F:
        """Calls a function of (delivery, error), blocking or async, for each exception of a handler, for example to
        report it. Retry and Dead are not reported."""
        self._hooks["error"].append(function)
        return function

    def periodic(
        self, cron: str, *, topic: str, name: str | None = None, time_zone: str | None = None, key: str | None = None,
        tenant: str | None = None, priority: int | None = None,
    ) -> Callable[[F], F]:
        """Enqueues a message at each tick of a cron expression of five fields, in UTC or a time zone such as
        Europe/Berlin. The function, blocking or async, returns the payload (None: {"tick": time}); if it takes an
        argument, that is the time of the tick. However many processes run the application, a tick makes one message. A
        tick that was missed for less than ten minutes is made up for. name: by default the topic."""
        label = topic if name is None else name
        if label in self._periodic:
            raise ValueError(f'the application has periodic message "{label}" already; give this one another name')

        def register(function: F) -> F:
            options = {"key": key, "tenant": tenant, "priority": priority}
            self._periodic[label] = Periodic(cron, topic, function, label, time_zone, options)
            return function

        return register

    def projection(
        self, consumer: str, topics: Sequence[str] | None = None, *, begin: Callable[[], AbstractAsyncContextManager[C]],
        subject: str = "", filter: Mapping[str, Any] | None = None, batch: int = 100,
    ) -> Callable[[Callable[[C, list[Message]], Awaitable[object]]], Callable[[C, list[Message]], Awaitable[object]]]:
        """Applies each batch of messages in a transaction of begin, for example `Session.begin`, that also moves the cursor
        of the consumer: AsyncReader.apply() as a part of the application. Any number of processes may run it."""
        if consumer in self._projections:
            raise ValueError(f'the application has projection "{consumer}" already')

        def register(project: Callable[[C, list[Message]], Awaitable[object]]) -> Callable[[C, list[Message]], Awaitable[object]]:
            def make() -> tuple[AsyncReader, Coroutine[Any, Any, int]]:
                reader = self.outbox.reader(consumer, subject=subject, topics=topics, filter=filter, batch=batch)
                return reader, reader.apply(begin, project)

            self._projections[consumer] = make
            return project

        return register

    def include(self, engine: Engine) -> None:
        """Runs a ProjectionEngine or a SagaManager of pg_outbox.events as a part of the application."""
        name = f"{type(engine).__name__} {sum(1 for one in self._projections if one.startswith(type(engine).__name__)) + 1}"
        self._projections[name] = lambda: (engine, engine.arun())

    def stop(self) -> None:
        """Ends the application gracefully. May be called from any thread, and from a signal handler."""
        if self._stop is not None:
            self._stop()

    def run(
        self, *, subscriptions: Sequence[str] | None = None, concurrency: int | None = None, health: str | None = None
    ) -> dict[str, Report]:
        """Runs the application until SIGTERM, SIGINT or stop(), and returns the counts of each subscription.

        subscriptions: only these. concurrency: for subscriptions that do not say theirs. health: an address such as
        `:8080` that answers /health and /metrics."""
        return asyncio.run(self.arun(subscriptions=subscriptions, concurrency=concurrency, health=health))

    async def arun(
        self, *, subscriptions: Sequence[str] | None = None, concurrency: int | None = None, health: str | None = None
    ) -> dict[str, Report]:
        """Does the same as run() in the event loop that is running. When it is cancelled, it ends gracefully first."""
        chosen = self._chosen(subscriptions)
        if not chosen and not self._projections and not self._periodic:
            raise invalid(
                "the application has neither subscriptions nor projections nor periodic messages",
                hint='For example @app.subscription("billing").on("order.created").',
            )
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        self._health = Health()
        workers: list[tuple[str, Worker, Callable[[Delivery], Any]]] = []

        def stop() -> None:
            self._health.is_stopping = True
            stopping.set()
            for _, worker, _ in workers:
                worker.stop()

        def stop_soon() -> None:
            loop.call_soon_threadsafe(stop)

        self._stop = stop_soon
        try:
            async with AsyncExitStack() as stack:
                stack.enter_context(graceful(stop_soon, loop))
                await stack.enter_async_context(self._health.serving(health))
                for subscription in chosen:
                    self._health.workers[subscription.name] = "starting"
                    for route in subscription._routes.all:
                        route.prepare()
                self._health.projections = dict.fromkeys(self._projections)
                await self._ready(chosen, stopping)
                stack.push_async_callback(self._call_hooks, "shutdown")
                await self._call_hooks("startup")
                for subscription in chosen:
                    most = subscription._concurrency or concurrency or 8
                    threads = stack.enter_context(ThreadPoolExecutor(most, f"outbox-{subscription.name}"))
                    worker = self.outbox.worker(
                        subscription.name, concurrency=most, on_event=self._listener(subscription.name), **subscription._worker
                    )
                    workers.append((subscription.name, worker, self._handler(subscription, threads)))
                return await self._until_stopped(workers, stopping, stop)
        finally:
            self._stop = None

    def drain(self, subscription: str, *, swallow: bool = False) -> Report:
        """Runs the handlers of a subscription inline, for the deliveries that there are now, and returns the counts. For
        tests: the first exception of a handler is raised as it is; with swallow, its delivery only counts as failed."""
        return asyncio.run(self.adrain(subscription, swallow=swallow))

    async def adrain(self, subscription: str, *, swallow: bool = False) -> Report:
        """Does the same as drain() in the event loop that is running."""
        (chosen,) = self._chosen([subscription])
        if self._ensure:
            await self.ensure_subscriptions([subscription])
        total: Report = {}
        with ThreadPoolExecutor(1) as threads:
            while True:
                await self.outbox._settle()
                inline = Inline(self._wrapped(chosen, threads))
                inline.worker = self.outbox.worker(subscription, concurrency=1, until_empty=True)
                handled = add(total, await inline.worker.arun(self._judged(chosen, inline.wait)))
                if inline.failure is not None and not swallow:
                    raise inline.failure
                if handled == 0:
                    return total

    async def ensure_subscriptions(self, subscriptions: Sequence[str] | None = None) -> None:
        """Creates or alters the subscriptions, so that they are as described here."""
        for subscription in self._chosen(subscriptions):
            try:
                done = await self.outbox.ensure_subscription(**subscription._wanted())
            except FatalError as error:
                if error.name != "insufficient_privilege":
                    raise
                # A role that may only consume works on what a migration has made. A subscription that is missing is an
                # error of the claim.
                logger.warning('subscription "%s" is used as it is: %s', subscription.name, error.message)
                continue
            logger.info('subscription "%s": %s', subscription.name, done)

    def _chosen(self, names: Sequence[str] | None) -> list[Subscription]:
        for name in names or ():
            if name not in self._subscriptions:
                raise invalid(
                    f'the application has no subscription "{name}"',
                    hint=f"It has {', '.join(self._subscriptions) or 'none'}.",
                )
        return [s for n, s in self._subscriptions.items() if names is None or n in names]

    async def _ready(self, chosen: list[Subscription], stopping: asyncio.Event) -> None:
        """Waits for the server, checks its version and makes the subscriptions ready."""
        pause = 0.1
        while not stopping.is_set():
            try:
                await self.outbox.check()
                if self._ensure:
                    await self.ensure_subscriptions([s.name for s in chosen])
                return
            except RetryError as error:
                logger.warning("the application cannot start yet, and tries again: %s", error)
                await _sleep_or(stopping, pause)
                pause = min(pause * 2, 5.0)

    async def _call_hooks(self, which: str, *args: Any) -> None:
        for hook in self._hooks[which]:
            result = hook(*args)
            if inspect.isawaitable(result):
                await result

    def _listener(self, name: str) -> Callable[[WorkerEvent, str], None]:
        def listen(event: WorkerEvent, text: str) -> None:
            if event in ("connected", "disconnected"):
                self._health.workers[name] = event

        return listen

    async def _until_stopped(
        self, workers: list[tuple[str, Worker, Callable[[Delivery], Any]]], stopping: asyncio.Event, stop: Callable[[], None]
    ) -> dict[str, Report]:
        """Runs the workers, the projections and the periodic messages. When one of them ends with an error, all end."""
        running = {name: asyncio.ensure_future(worker.arun(handler)) for name, worker, handler in workers}
        projections = []
        for consumer, make in self._projections.items():
            projections.append(make())
            source = getattr(projections[-1][0], "_source", None)
            if source is None:
                # An engine of the program may show nothing.
                self._health.projections.pop(consumer, None)
            else:
                self._health.projections[consumer] = source
        applying = [asyncio.ensure_future(work) for _, work in projections]
        ticks = [asyncio.ensure_future(periodic.run(self.outbox)) for periodic in self._periodic.values()]
        stopped = asyncio.ensure_future(stopping.wait())
        if stopping.is_set():
            stop()
        logger.info("the application runs: %s", ", ".join([*running, *self._projections, *self._periodic]) or "nothing")
        try:
            await asyncio.wait([stopped, *running.values(), *applying, *ticks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Handlers that have begun may finish, also when this call is cancelled.
            stop()
            for reader, _ in projections:
                reader.stop()
            for task in (stopped, *ticks):
                task.cancel()
            ended = await asyncio.gather(*running.values(), *applying, return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error
        for task in ticks:
            if task.done() and not task.cancelled() and (failure := task.exception()) is not None:
                raise failure
        logger.info("the application has ended")
        return {name: task.result() for name, task in running.items()}

    def _wrapped(self, subscription: Subscription, threads: ThreadPoolExecutor) -> Next:
        """Returns the handlers of a subscription with the middleware around them."""

        async def route(delivery: Delivery) -> Any:
            found = subscription._routes.find(delivery.topic)
            if found is None:
                # A newer version of the application may have the handler.
                raise Retry(f'there is no handler for topic "{delivery.topic}"')
            return await found.call(delivery, threads)

        chain: Next = route
        for middleware in reversed(self._middleware):
            chain = _around(middleware, chain)
        return chain

    def _judged(self, subscription: Subscription, chain: Next) -> Next:
        """Returns what decides, by the class of an exception, what happens to the delivery."""

        async def judge(delivery: Delivery) -> Any:
            with span(delivery):
                try:
                    return await chain(delivery)
                except (Retry, Dead):
                    raise
                except Exception as error:
                    await self._report(delivery, error)
                    route = subscription._routes.find(delivery.topic)
                    verdict = error if route is None else route.verdict(error)
                    if verdict is error:
                        raise
                    raise verdict from error

        return judge

    def _handler(self, subscription: Subscription, threads: ThreadPoolExecutor) -> Next:
        """Returns the handler of the worker: it also keeps the counts of the health port."""
        judged, health, name = self._judged(subscription, self._wrapped(subscription, threads)), self._health, subscription.name

        async def handle(delivery: Delivery) -> Any:
            outcome = "failed"
            health.running[name] += 1
            try:
                result = await judged(delivery)
                outcome = "completed"
                return result
            except Dead:
                outcome = "dead"
                raise
            finally:
                health.running[name] -= 1
                health.outcomes[name, outcome] += 1

        return handle

    async def _report(self, delivery: Delivery, error: Exception) -> None:
        try:
            await self._call_hooks("error", delivery, error)
        except Exception:  # a hook that fails does not change the outcome
            logger.exception("an on_error hook failed")


def _around(middleware: Middleware, chain: Next) -> Next:
    async def call(delivery: Delivery) -> Any:
        return await middleware(delivery, chain)

    return call


async def _sleep_or(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        pass


