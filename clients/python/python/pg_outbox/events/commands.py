"""The command bus: one handler for each class of commands, with middleware around them.

    bus = CommandBus(Session.begin)
    bus.use(retry(), correlation(), idempotency())

    @bus.handler(PlaceOrder)
    def place(session, command):
        ...

    bus.dispatch(PlaceOrder(...))                   # await bus.adispatch(...) in asyncio

A command runs in a transaction of its own, which commits if the handler returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .._enqueue import scalar
from ._runs import awaited, drive, opened
from .errors import BusClosedError, CommandTimeoutError, HandlerNotFoundError

F = TypeVar("F", bound=Callable[..., Any])
Next = Callable[["Call"], Any]
Middleware = Callable[["Call", Next], Any]
"""A function of (call, call_next), blocking or async. call_next(call) returns the result, and in asyncio has to be awaited."""


@dataclass
class Call:
    """A command on its way to its handler.

    type: the name of the command. conn: the transaction that it runs in; None before it begins. replayed: the command was
    processed before, and its stored result is returned. joined: the transaction is the caller's. values: for middleware.
    """

    command: Any
    type: str
    in_asyncio: bool
    conn: Any = None
    replayed: bool = False
    joined: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    deadline: float | None = None
    failure: BaseException | None = None


def type_of(command: Any) -> str:
    """Returns the name of a command: its attribute `command_type`, or the name of its class."""
    made = command if isinstance(command, type) else type(command)
    return str(getattr(made, "command_type", made.__name__))


class CommandBus:
    """Dispatches commands to their handlers.

    begin: begins the transaction of a command, as for Reader.apply, for example Session.begin. Without it, a handler gets the
    connection that dispatch() is given, or None.
    """

    def __init__(self, begin: Callable[[], Any] | None = None) -> None:
        self._begin = begin
        self._handlers: dict[str, Callable[[Any, Any], Any]] = {}
        self._middleware: list[Middleware] = []
        self._closed = False

    def register(self, command: type[Any] | str, handler: Callable[[Any, Any], Any]) -> None:
        """Registers handler(conn, command) for a class of commands, or for a name. Raises ValueError for a second one."""
        name = command if isinstance(command, str) else type_of(command)
        if name in self._handlers:
            raise ValueError(f'command "{name}" has a handler already')
        self._handlers[name] = handler

    def handler(self, *commands: type[Any] | str) -> Callable[[F], F]:
        """Makes a function, blocking or async, the handler of these classes of commands."""

        def add(function: F) -> F:
            for command in commands:
                self.register(command, function)
            return function

        return add

    def use(self, *middleware: Middleware) -> None:
        """Adds middleware. The first one is the outermost. The transaction begins before the first one that works in it
        (idempotency), or else before the handler. Raises ValueError where retry() is behind it: no new transaction could
        begin there."""
        used = [*self._middleware, *_flat(middleware)]
        first = next((n for n, one in enumerate(used) if getattr(one, "in_transaction", False)), len(used))
        if any(getattr(one, "begins", False) for one in used[first:]):
            raise ValueError("retry() is behind idempotency(), whose transaction cannot begin again: add retry() first")
        self._middleware = used

    def close(self) -> None:
        """Refuses commands from now on. Commands that have begun are processed."""
        self._closed = True

    def dispatch(self, command: Any, conn: Any = None) -> Any:
        """Processes a command and returns what its handler returns.

        conn: a transaction of the caller, which the command then joins; otherwise it begins one, and the bus commits it.
        Raises what the handler raises, CommandError and its subclasses, and the errors of middleware."""
        return drive(self._dispatched(command, conn, False))

    async def adispatch(self, command: Any, conn: Any = None) -> Any:
        """Does the same as dispatch() in asyncio, with blocking or async handlers."""
        return await self._dispatched(command, conn, True)

    def dispatch_all(self, commands: Iterable[Any], conn: Any = None) -> list[Any]:
        """Processes commands in order, and returns their results. It ends with the first error; the commands before it keep
        their effects, unless conn is given and rolled back."""
        return [self.dispatch(command, conn) for command in commands]

    async def adispatch_all(self, commands: Iterable[Any], conn: Any = None) -> list[Any]:
        """Does the same as dispatch_all() in asyncio."""
        return [await self.adispatch(command, conn) for command in commands]

    async def _dispatched(self, command: Any, conn: Any, in_asyncio: bool) -> Any:
        if self._closed:
            raise BusClosedError("the command bus is closed", code="OB004", name="invalid_transition")
        if command is None:
            raise HandlerNotFoundError("there is no command", code="22023", name="invalid_parameter")
        return await self._from(0, Call(command, type_of(command), in_asyncio, conn, joined=conn is not None))

    async def _from(self, place: int, call: Call) -> Any:
        """Runs the middleware from a place on, and the handler."""
        outside = place < len(self._middleware) and not getattr(self._middleware[place], "in_transaction", False)
        if outside or call.conn is not None or self._begin is None:
            return await self._one(place, call)
        # A commit that has failed leaves what an attempt has said.
        call.replayed, call.failure = False, None
        try:
            async with opened(call.in_asyncio, self._begin) as conn:
                call.conn = conn
                if call.deadline is not None:
                    await awaited(scalar(conn, statement_timeout(call)))
                result = await self._one(place, call)
                if call.deadline is not None and time.monotonic() > call.deadline:
                    raise late(call)
        finally:
            call.conn = None
        if call.failure is not None:
            failure, call.failure = call.failure, None
            raise failure
        return result

    async def _one(self, place: int, call: Call) -> Any:
        if place == len(self._middleware):
            handler = self._handlers.get(call.type)
            if handler is None:
                raise HandlerNotFoundError(f'command "{call.type}" has no handler', code="22023", name="invalid_parameter")
            return await awaited(handler(call.conn, call.command))

        def call_next(call: Call) -> Any:
            rest: Coroutine[Any, Any, Any] = self._from(place + 1, call)
            return rest if call.in_asyncio else drive(rest)

        return await awaited(self._middleware[place](call, call_next))


def _flat(middleware: Iterable[Middleware]) -> Iterator[Middleware]:
    """Returns the parts of chains, so that the transaction begins behind those that begin it."""
    for one in middleware:
        parts = getattr(one, "parts", None)
        if parts is None:
            yield one
        else:
            yield from _flat(parts)


def statement_timeout(call: Call) -> str:
    """Returns the statement that limits further ones to the time that a command has."""
    left = max(1, int(((call.deadline or 0.0) - time.monotonic()) * 1000))
    return f"select pg_catalog.set_config('statement_timeout', '{left}', true)"


def late(call: Call) -> CommandTimeoutError:
    """Returns the error of a command that has taken too long."""
    return CommandTimeoutError(f'command "{call.type}" has taken longer than its time-out', code="57014", name="query_canceled")
