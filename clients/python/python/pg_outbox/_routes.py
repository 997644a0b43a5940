"""The handlers of an application: which one takes a topic, what it is called with, and what its exceptions mean."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import typing
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from . import _core
from ._errors import InvalidError
from ._message import Delivery, Message
from ._payload import decode, decoder
from ._worker import Dead, Retry, described

Exceptions = type[BaseException] | tuple[type[BaseException], ...]


def _wants_delivery(parameter: inspect.Parameter, kind: Any) -> bool:
    if kind is inspect.Parameter.empty:
        return parameter.name == "delivery"
    return isinstance(kind, type) and issubclass(kind, Message)


class Route:
    """A handler and its topics. retry_on: when it is given, any other exception is dead. concurrency: the most deliveries
    that it handles at once."""

    def __init__(
        self, topics: tuple[str, ...], handler: Callable[..., Any], concurrency: int | None, retry_on: Exceptions | None,
        dead_on: Exceptions, retry_after: float | None,
    ) -> None:
        self.topics = topics
        self.handler = handler
        self.limit = concurrency
        self.retry_on = retry_on
        self.dead_on = dead_on
        self.retry_after = retry_after
        self.arguments = self._arguments()
        self.is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)
        self._free: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    def _arguments(self) -> list[tuple[str, Any]]:
        """Returns what each parameter gets: the delivery, or the payload as a type."""
        name = getattr(self.handler, "__qualname__", repr(self.handler))
        target = self.handler if inspect.isroutine(self.handler) else type(self.handler).__call__
        try:
            hints = typing.get_type_hints(target, include_extras=True)
        except NameError as error:
            raise TypeError(f"the annotations of handler {name} cannot be read: {error}") from error
        found: list[tuple[str, Any]] = []
        for parameter in inspect.signature(self.handler).parameters.values():
            kind = hints.get(parameter.name, inspect.Parameter.empty)
            if _wants_delivery(parameter, kind):
                found.append(("delivery", None))
            elif parameter.default is not inspect.Parameter.empty or parameter.kind in (
                inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
            ):
                continue
            else:
                found.append(("payload", Any if kind is inspect.Parameter.empty else kind))
        kinds = [what for what, _ in found]
        if kinds.count("payload") > 1 or kinds.count("delivery") > 1:
            raise TypeError(f"handler {name} takes a payload and a delivery, each at most once")
        return found

    def prepare(self) -> None:
        """Makes what reads the payload, so that no delivery waits for it. A type that cannot be read is an error of its deliveries."""
        for what, kind in self.arguments:
            if what == "payload" and kind is not bytes:
                with contextlib.suppress(Exception):
                    decoder(kind)

    def _values(self, delivery: Delivery) -> list[Any]:
        return [delivery if what == "delivery" else self._payload(delivery, kind) for what, kind in self.arguments]

    @staticmethod
    def _payload(delivery: Delivery, kind: Any) -> Any:
        if kind is bytes:
            return delivery.bytes()
        try:
            if kind is str and delivery.payload is None:
                return delivery.text()
            return decode(delivery.bytes(), kind)
        except InvalidError as error:
            # Another attempt gets the same payload.
            raise Dead(f"invalid payload: {error.detail or error.message}") from None

    async def call(self, delivery: Delivery, threads: Executor) -> Any:
        """Runs the handler: as part of the event loop, or in a thread if it is blocking."""
        values = self._values(delivery)
        if self.limit is None:
            return await self._run(values, threads)
        loop = asyncio.get_running_loop()
        if self._free is None or self._free[0] is not loop:
            self._free = (loop, asyncio.Semaphore(self.limit))
        async with self._free[1]:
            return await self._run(values, threads)

    async def _run(self, values: list[Any], threads: Executor) -> Any:
        if self.is_async:
            return await self.handler(*values)
        work = functools.partial(contextvars.copy_context().run, self.handler, *values)
        result = await asyncio.get_running_loop().run_in_executor(threads, work)
        return await result if inspect.isawaitable(result) else result

    def verdict(self, error: Exception) -> Exception:
        """Returns what an exception of the handler means for the delivery."""
        if isinstance(error, (Retry, Dead)):
            return error
        if isinstance(error, self.dead_on) or (self.retry_on is not None and not isinstance(error, self.retry_on)):
            return Dead(described(error))
        return error if self.retry_after is None else Retry(described(error), self.retry_after)


class Routes:
    """The handlers of a subscription, by topic. An exact topic comes before a pattern, an earlier pattern before a later
    one."""

    def __init__(self) -> None:
        self.all: list[Route] = []
        self._exact: dict[str, Route] = {}
        self._patterns: list[tuple[_core.Pattern, Route]] = []

    def add(self, route: Route) -> None:
        for topic in route.topics:
            pattern = _core.Pattern(topic)
            if "*" in topic or "#" in topic:
                self._patterns.append((pattern, route))
            elif topic in self._exact:
                raise ValueError(f'topic "{topic}" has a handler already')
            else:
                self._exact[topic] = route
        self.all.append(route)

    def topics(self) -> list[str]:
        return list(dict.fromkeys(topic for route in self.all for topic in route.topics))

    def find(self, topic: str) -> Route | None:
        found = self._exact.get(topic)
        return found or next((route for pattern, route in self._patterns if pattern.matches(topic)), None)
