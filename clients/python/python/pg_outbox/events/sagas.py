"""Sagas: processes that react to events over several transactions, with steps, time-outs and compensation.

    class Shipping(Saga):
        name = "shipping"
        starts_with = (OrderPlaced,)
        steps = ("pay", "ship")

        @on(OrderPlaced)
        def placed(self, event: OrderPlaced) -> None:
            self.start_step("pay")
            self.send("payment.request", {"order": self.correlation_id})
            self.timeout("payment", after=timedelta(days=2))

        @on(OrderPaid)
        def paid(self, event: OrderPaid) -> None:
            self.complete_step("pay")
            self.complete()

        @on_timeout("payment")
        def not_paid(self) -> None:
            self.fail("not paid in time")

        @compensates("pay")
        def refund(self) -> None:
            self.send("payment.refund", {"order": self.correlation_id})

A handler only decides: what it sends is enqueued, appended or dispatched in the transaction that stores the state and moves the
cursor. So an event is handled once, across processes and crashes.
"""

# An async connection has the methods of a blocking one, so its overload comes first, and the two overlap.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from .._client import AsyncOutbox, Outbox
from .._enqueue import enqueue
from .._errors import FatalError, NotFoundError
from .._rows import dumps
from ._attributes import attributes_of, blocking, take
from ._runs import awaited, call, call_json, call_rows, drive, in_thread, opened, sqlstate
from .commands import CommandBus
from .context import EventContext, current, exactly, now
from .errors import SagaError, place_of, quotes, told
from .projections import ProjectionEngine
from .store import ANY, EventStore, RecordedEvent

if TYPE_CHECKING:
    from .._app import App
    from .._message import Delivery
    from .._typing import AsyncConnection, SyncConnection

logger = logging.getLogger("pg_outbox.events")
F = TypeVar("F", bound=Callable[..., Any])
_NAME = re.compile(r"[A-Za-z0-9_]{1,80}")
_ENDED = frozenset({"completed", "failed", "compensated", "compensation_failed"})


def on(*events: type[Any] | str) -> Callable[[F], F]:
    """Makes a method the handler of events of these classes, or of types without a class. It gets the data of the event;
    `self.event` is the event as it is recorded. A name is that of one type, and no pattern."""
    if patterns := [one for one in events if isinstance(one, str) and ("*" in one or "#" in one)]:
        raise TypeError(f'"{patterns[0]}" is a pattern; on() takes the names of types')
    return _marked("_on", events)


def on_timeout(*names: str) -> Callable[[F], F]:
    """Makes a method the handler of these time-outs."""
    return _marked("_on_timeout", names)


def compensates(*steps: str) -> Callable[[F], F]:
    """Makes a method the one that undoes these steps."""
    return _marked("_compensates", steps)


def _marked(kind: str, names: tuple[Any, ...]) -> Callable[[F], F]:
    if not names:
        raise TypeError(f"{kind.lstrip('_')}() needs a name or a class")

    def mark(method: F) -> F:
        blocking(method)
        setattr(method, kind, names)
        return method

    return mark


@dataclass
class Sent:
    """A message, events or a command that a saga sends."""

    kind: str
    target: str
    content: Any
    options: dict[str, Any] = field(default_factory=dict)


class Saga:
    """The base class of sagas. The state is the attributes of the instance; it is stored as JSON.

    name: the type of the saga. starts_with: the events that start one. steps: its steps, in order. correlation_id: what its
    events have in common. event: the event that is being handled. status: started, running, completed, failed, compensating,
    compensated or compensation_failed.
    """

    name: ClassVar[str] = ""
    starts_with: ClassVar[tuple[type[Any] | str, ...]] = ()
    steps: ClassVar[tuple[str, ...]] = ()
    _handlers: ClassVar[Mapping[Any, str]] = {}
    _timeouts: ClassVar[Mapping[Any, str]] = {}
    _undo: ClassVar[Mapping[Any, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls) and not cls.name:
            cls.name = cls.__name__
        if not _NAME.fullmatch(cls.name):
            raise TypeError(f'the name "{cls.name}" of a saga has other characters than letters, digits and underscores')
        for kind, attribute in (("_on", "_handlers"), ("_on_timeout", "_timeouts"), ("_compensates", "_undo")):
            found = dict(getattr(cls, attribute))
            for name, method in vars(cls).items():
                found.update(dict.fromkeys(getattr(method, kind, ()), name))
            setattr(cls, attribute, found)
        if missing := [one for one in cls.starts_with if one not in cls._handlers]:
            raise TypeError(f"{cls.__name__} has no handler of {missing[0]!r}, which starts it")
        if unknown := [step for step in cls._undo if step not in cls.steps]:
            raise TypeError(f'{cls.__name__} has no step "{unknown[0]}"')

    def __init__(self) -> None:
        self.saga_id = ""
        self.correlation_id = ""
        self.event: RecordedEvent | None = None
        self.status = "started"
        self.failure_reason: str | None = None
        self.sent: list[Sent] = []
        self.progress: dict[str, str] = dict.fromkeys(self.steps, "pending")
        self.waiting: dict[str, int] = {}
        self.version = 0

    @classmethod
    def correlate(cls, event: RecordedEvent) -> str | None:
        """Returns the correlation id of an event; None: the event does not concern this saga. By default it is the part of the
        stream's name behind the category."""
        return event.stream_id

    # Decisions of handlers

    def send(self, topic: str, payload: Any = None, **options: Any) -> None:
        """Enqueues a message. options: those of enqueue."""
        self.sent.append(Sent("message", topic, payload, options))

    def append(self, stream: str, events: Sequence[Any], expected_version: int = ANY) -> None:
        """Appends events to a stream."""
        self.sent.append(Sent("events", stream, list(events), {"expected_version": expected_version}))

    def dispatch(self, command: Any) -> None:
        """Dispatches a command on the bus of the manager, in the same transaction."""
        self.sent.append(Sent("command", type(command).__name__, command))

    def timeout(self, name: str, *, after: dt.timedelta | None = None, at: dt.datetime | None = None) -> None:
        """Sets a time-out: its handler runs after some time, or at a time, unless the saga has ended or the time-out was set
        again or cancelled. Raises SagaError for a time that the calendar does not have."""
        if name not in self._timeouts:
            raise _error(f'saga "{self.name}" has no handler of time-out "{name}"')
        if (after is None) == (at is None):
            raise _error("a time-out has either `after` or `at`")
        try:
            due = at if at is not None else now() + (after or dt.timedelta())
        except OverflowError:
            raise SagaError(f'time-out "{name}" is too long', code="22008", name="datetime_field_overflow") from None
        self.cancel_timeout(name)
        self.sent.append(Sent("timeout", name, None, {"deliver_at": due}))

    def cancel_timeout(self, name: str) -> None:
        """Cancels a time-out."""
        self.waiting.pop(name, None)
        self.sent = [one for one in self.sent if one.kind != "timeout" or one.target != name]

    def start_step(self, name: str) -> None:
        """Marks a step as running."""
        self._step(name, "running")

    def complete_step(self, name: str) -> None:
        """Marks a step as completed: it is undone if the saga fails later."""
        self._step(name, "completed")

    def _step(self, name: str, status: str) -> None:
        if name not in self.progress:
            raise _error(f'saga "{self.name}" has no step "{name}"')
        self.progress[name] = status

    def complete(self) -> None:
        """Ends the saga."""
        self._end("completed")

    def fail(self, reason: str) -> None:
        """Ends the saga as failed. Where it has completed steps, they are undone, the last one first, by their methods; it
        then is compensated, or compensation_failed if one of these methods raises."""
        self._end("failed")
        self.failure_reason = reason[:10_000]
        for name, status in self.progress.items():
            if status == "running":
                self.progress[name] = "failed"
        undone = [name for name in reversed(self.progress) if self.progress[name] == "completed"]
        if not undone:
            return
        self.status = "compensated"
        for name in undone:
            before = list(self.sent)
            try:
                if name in self._undo:
                    getattr(self, self._undo[name])()
            except Exception as error:  # noqa: BLE001 - methods of the program raise exceptions of any class
                logger.error('saga "%s" %s could not undo step "%s": %s', self.name, self.saga_id, name, told(error))
                self.sent, self.status = before, "compensation_failed"
                self.failure_reason = f"{reason}; step {name}: {told(error)}"[:10_000]
                return
            self.progress[name] = "compensated"

    def _end(self, status: str) -> None:
        if self.status in _ENDED:
            raise _error(f'saga "{self.name}" has ended: it is {self.status}')
        self.status = status

    # State

    def snapshot(self) -> Any:
        """Returns the state to store: by default all attributes of the program, as the types that the class is annotated
        with. Raises SchemaError for one that restore() would not give back: one without an annotation whose type JSON does not
        have, or one whose name begins with an underscore."""
        return attributes_of(self, _OWN)

    def restore(self, state: Any) -> None:
        """Takes the state that was stored: by default each attribute, as the type that the class is annotated with."""
        take(self, state)

    def handle(self, event: RecordedEvent) -> bool:
        """Runs the handler of an event. Returns False if there is none."""
        if event.redacted and event.data is None:
            self.event = event
            self.redacted(event)
            return True
        name = self._handlers.get(type(event.data)) or self._handlers.get(event.type)
        if name is None:
            return False
        self.event = event
        if self.status == "started" and self.version > 0:
            self.status = "running"
        try:
            getattr(self, name)(event.data)
        except Exception as error:
            if not event.redacted or sqlstate(error) is not None:
                raise
            logger.warning('saga "%s" %s cannot handle a redacted event: %s', self.name, self.saga_id, place_of(error))
            self.redacted(event)
        return True

    def redacted(self, event: RecordedEvent) -> None:
        """Is called instead of a handler for an event whose content was erased, and for one with revoked fields that its handler
        has refused. By default it decides nothing."""


_OWN = frozenset({
    "saga_id", "correlation_id", "event", "status", "failure_reason", "sent", "progress", "waiting", "version",
})


def _error(message: str) -> SagaError:
    return SagaError(message, code="OB004", name="invalid_transition")


class SagaManager:
    """Runs sagas in one process; others may run the same ones.

    outbox: its pool reads the events; with an AsyncOutbox or an App, begin is async, with an Outbox blocking. begin: begins
    the transaction in which an event is handled, as for Reader.apply. bus: for the commands that sagas dispatch.
    """

    def __init__(
        self, store: EventStore, outbox: Outbox | AsyncOutbox | App, begin: Callable[[], Any], *, bus: CommandBus | None = None,
        poll_interval: float = 0.1, ensure: bool = True,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._begin = begin
        self._bus = bus
        self._ensure = ensure
        self._poll_interval = poll_interval
        self._in_asyncio = not isinstance(outbox, Outbox)
        self._sagas: dict[str, type[Saga]] = {}
        self._stop: Callable[[], None] | None = None
        self._stopped = False
        self.engine = ProjectionEngine(store, outbox, poll_interval=poll_interval)
        self._source = self.engine._source

    def register(self, saga: type[Saga], *, categories: Sequence[str] | None = None) -> type[Saga]:
        """Registers a class of sagas; to be used as a decorator, too. categories: only events of these. Its position is the
        cursor of consumer `projection saga NAME`."""
        if saga.name in self._sagas:
            raise _error(f'there is a saga "{saga.name}" already')
        self._sagas[saga.name] = saga
        types = [one if isinstance(one, str) else self._store.registry.name_of(one) for one in saga._handlers]

        async def handle(conn: Any, events: list[RecordedEvent]) -> None:
            for event in events:
                await self._handled(conn, saga, event)

        def handle_blocking(conn: Any, events: list[RecordedEvent]) -> None:
            drive(handle(conn, events))

        self.engine.register(
            f"saga {saga.name}", handle if self._in_asyncio else handle_blocking, self._begin, categories=categories, types=types
        )
        return saga

    # Running

    def run(self) -> None:
        """Runs the sagas until stop(), SIGTERM or Ctrl-C."""
        asyncio.run(self.arun())

    async def arun(self) -> None:
        """Does the same as run() in the event loop that is running."""
        self._stopped = False
        workers = []
        if any(saga._timeouts for saga in self._sagas.values()):
            outbox: Any = self._outbox if isinstance(self._outbox, (Outbox, AsyncOutbox)) else self._outbox.outbox
            for saga in self._sagas.values():
                if saga._timeouts:
                    await self._subscribe(outbox, saga)
                    worker = outbox.worker(_subscription(saga), concurrency=4, poll_interval=self._poll_interval)
                    workers.append((worker, self._beside_the_loop(self._timed_out_handler(saga))))

        def stop() -> None:
            self.engine.stop()
            for worker, _ in workers:
                worker.stop()

        if self._stopped:
            return
        self._stop = stop
        tasks = [asyncio.ensure_future(worker.arun(handler)) for worker, handler in workers]
        tasks.append(asyncio.ensure_future(self.engine.arun()))
        try:
            # The tasks begin, so that they can be stopped.
            await asyncio.sleep(0)
            if self._stopped:
                stop()
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            self._stop = None
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    def stop(self) -> None:
        """Ends the manager after the events that it works on. May be called from any thread."""
        self._stopped = True
        if self._stop is not None:
            self._stop()

    async def _subscribe(self, outbox: Any, saga: type[Saga]) -> None:
        if not self._ensure:
            return
        try:
            await awaited(outbox.ensure_subscription(_subscription(saga), [_topic(saga)], notify=True))
        except FatalError as error:
            if error.name != "insufficient_privilege":
                raise
            logger.warning('subscription "%s" is used as it is: %s', _subscription(saga), error.message)

    def _timed_out_handler(self, saga: type[Saga]) -> Callable[[Delivery], Any]:
        async def handle(delivery: Delivery) -> None:
            try:
                async with opened(self._in_asyncio, self._begin) as conn:
                    await self._timed_out(conn, saga, delivery)
            except Gone:
                logger.warning('a time-out of saga "%s" comes late: the saga was deleted (message %d)', saga.name, delivery.message_id)

        return handle if self._in_asyncio else lambda delivery: drive(handle(delivery))

    def _beside_the_loop(self, handler: Callable[[Delivery], Any]) -> Callable[[Delivery], Any]:
        """A blocking handler runs in a thread, so that the event loop goes on."""

        async def handle(delivery: Delivery) -> None:
            try:
                await (handler(delivery) if self._in_asyncio else in_thread(handler, delivery))
            except Exception as error:
                if not quotes(error):
                    raise
                # The worker logs and stores the error of a handler.
                raise SagaError(told(error)) from None

        return handle

    def drain(self, saga: type[Saga]) -> int:
        """Handles the events and the time-outs that are due now, in blocking code, and returns the number of events. For tests:
        the first error is raised. The manager must not run."""
        done = self.engine.drain(f"saga {saga.name}")
        if saga._timeouts:
            outbox = self._outbox
            assert isinstance(outbox, Outbox), "drain() is for blocking code"
            drive(self._subscribe(outbox, saga))
            outbox.drain(_subscription(saga), self._timed_out_handler(saga))
        return done

    # One event, one transaction

    @overload
    def handle(self, conn: AsyncConnection, saga: type[Saga], event: RecordedEvent) -> Coroutine[Any, Any, bool]: ...
    @overload
    def handle(self, conn: SyncConnection, saga: type[Saga], event: RecordedEvent) -> bool: ...
    def handle(self, conn: Any, saga: type[Saga], event: RecordedEvent) -> Any:
        """Handles one event in the transaction of conn, and returns whether it was new to the saga; on an async connection to
        be awaited. The manager calls it by itself."""
        work: Coroutine[Any, Any, bool] = self._handled(conn, saga, event)
        return work if self._in_asyncio else drive(work)

    async def _handled(self, conn: Any, saga: type[Saga], event: RecordedEvent) -> bool:
        correlation = saga.correlate(event)
        if not correlation:
            return False
        found = await call_rows(conn, "saga_find", [("saga_type", "text", saga.name), ("correlation_id", "text", correlation)])
        # A saga that has ended remembers the events that it has handled, so that none of them starts another one.
        if found and not await self._is_new(conn, saga, found[0]["saga_id"], event.message_id):
            return False
        one = saga()
        if found and found[0]["completed_at"] is None:
            # Another process may have ended it while this one has waited for the saga.
            await self._load(conn, one, found[0]["saga_id"])
            one = saga() if one.status in _ENDED else one
        new = one.version == 0
        if new:
            erased = event.redacted and event.data is None
            if erased or not any(wanted in (type(event.data), event.type) for wanted in saga.starts_with):
                return False
            one.correlation_id = correlation
            one.saga_id = f"{correlation}#{event.message_id}" if found else correlation
            if len(one.saga_id) > _LONGEST_ID or not one.saga_id.isprintable():
                logger.error('saga "%s" passes over event %d: its correlation id is malformed', saga.name, event.message_id)
                return False
        metadata = event.metadata
        with exactly(EventContext(
            correlation_id=_text(metadata, "correlation_id") or correlation, causation_id=str(event.event_id or event.message_id),
            user_id=_text(metadata, "user_id"), tenant=event.tenant,
        )):
            one.handle(event)
            await self._save(conn, one)
            if new:
                await self._is_new(conn, saga, one.saga_id, event.message_id)
        return True

    async def _is_new(self, conn: Any, saga: type[Saga], saga_id: str, message_id: int) -> bool:
        found: bool = await call(conn, "saga_handle", [
            ("saga_type", "text", saga.name), ("saga_id", "text", saga_id), ("message_id", "bigint", str(message_id)),
        ])
        return found

    async def _load(self, conn: Any, one: Saga, saga_id: str) -> None:
        row = await call_json(conn, "saga_load", [("saga_type", "text", one.name), ("saga_id", "text", saga_id)])
        one.saga_id = saga_id
        one.correlation_id = row["correlation_id"] or ""
        one.status, one.version, one.failure_reason = row["status"], row["version"], row["failure_reason"]
        for step in row["steps"]:
            if step["name"] in one.progress:
                one.progress[step["name"]] = step["status"]
        one.waiting = row["state"].get("timeouts", {})
        one.restore(row["state"].get("state", {}))

    async def _timed_out(self, conn: Any, saga: type[Saga], delivery: Delivery) -> None:
        payload = delivery.payload if isinstance(delivery.payload, dict) else {}
        saga_id, name = payload.get("saga_id"), payload.get("name")
        if payload.get("saga_type") != saga.name or not isinstance(saga_id, str) or not isinstance(name, str) or name not in saga._timeouts:
            logger.warning('message %d is no time-out of saga "%s"', delivery.message_id, saga.name)
            return
        try:
            if not await self._is_new(conn, saga, saga_id, delivery.message_id):
                return
        except NotFoundError:
            # The transaction is aborted, and nothing was done in it.
            raise Gone from None
        one = saga()
        await self._load(conn, one, saga_id)
        if one.status in _ENDED or one.waiting.get(name) != delivery.message_id:
            return
        del one.waiting[name]
        metadata = delivery.metadata
        with exactly(EventContext(
            correlation_id=_text(metadata, "correlation_id") or one.correlation_id or None, causation_id=str(delivery.message_id),
            user_id=_text(metadata, "user_id"), tenant=delivery.tenant,
        )):
            if one.status == "started":
                one.status = "running"
            getattr(one, saga._timeouts[name])()
            await self._save(conn, one)

    async def _save(self, conn: Any, one: Saga) -> None:
        sent, one.sent = one.sent, []
        if one.version == 0 and one.status in ("compensated", "compensation_failed"):
            # A saga cannot start as one that has ended like this.
            await self._store_state(conn, one, "started")
        for item in sent:
            await self._deliver(conn, one, item)
        if one.status in ("compensated", "compensation_failed"):
            await self._store_state(conn, one, "compensating")
        await self._store_state(conn, one, one.status)

    async def _store_state(self, conn: Any, one: Saga, status: str) -> None:
        state = {"state": one.snapshot(), "timeouts": one.waiting}
        steps = [{"name": name, "status": at} for name, at in one.progress.items()]
        at = next((n for n, step in enumerate(steps) if step["status"] in ("running", "failed")), None)
        if at is None:
            at = sum(1 for step in steps if step["status"] in ("completed", "compensated"))
        one.version = await call(conn, "saga_save", [
            ("saga_type", "text", one.name), ("saga_id", "text", one.saga_id), ("state", "jsonb", dumps(state)),
            ("expected_version", "bigint", str(one.version)), ("status", "text", status), ("step", "int", str(max(0, at))),
            ("steps", "jsonb", dumps(steps)), ("correlation_id", "text", one.correlation_id), ("failure_reason", "text", one.failure_reason),
        ])

    async def _deliver(self, conn: Any, one: Saga, item: Sent) -> None:
        if item.kind == "events":
            await self._store.append_async(conn, item.target, item.content, item.options["expected_version"])
        elif item.kind == "command":
            if self._bus is None:
                raise _error(f'saga "{one.name}" dispatches a command, and its manager has no bus')
            if self._in_asyncio:
                await self._bus.adispatch(item.content, conn)
            else:
                self._bus.dispatch(item.content, conn)
        elif item.kind == "timeout":
            payload = {"saga_type": one.name, "saga_id": one.saga_id, "name": item.target}
            one.waiting[item.target] = await self._enqueue(conn, _topic(type(one)), payload, {"key": one.saga_id, **item.options})
        else:
            await self._enqueue(conn, item.target, item.content, item.options)

    async def _enqueue(self, conn: Any, topic: str, payload: Any, options: Mapping[str, Any]) -> int:
        """Enqueues a message with the context of the event, or of the time-out, that is handled."""
        context = current()
        given = {**options, "metadata": {**context.entries(), **(options.get("metadata") or {})}}
        if context.tenant is not None:
            given.setdefault("tenant", context.tenant)
        sent: int = await awaited(enqueue(conn, topic, payload, **given))
        return sent


_LONGEST_ID = 255


class Gone(Exception):
    """The saga was deleted."""


def _text(metadata: Mapping[str, Any], name: str) -> str | None:
    found = metadata.get(name)
    return found if isinstance(found, str) and found else None


def _topic(saga: type[Saga]) -> str:
    return f"saga.timeout.{saga.name}"


def _subscription(saga: type[Saga]) -> str:
    return f"saga {saga.name} time-outs"
