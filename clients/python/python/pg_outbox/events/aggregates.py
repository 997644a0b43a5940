"""Aggregates: state that is made of the events of one stream, and decides about new ones.

    class Order(Aggregate):
        category = "order"
        paid: bool = False

        def pay(self, by: str) -> None:
            if self.paid:
                raise ValueError("paid already")
            self.record(OrderPaid(by=by))

        @applies(OrderPaid)
        def _paid(self, event: OrderPaid) -> None:
            self.paid = True

    orders = Repository(store, Order)
    orders.execute(Session.begin, "4711", lambda order: order.pay("card"))
"""

# An async connection has the methods of a blocking one, so its overload comes first, and the two overlap.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import datetime as dt
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

from .._enqueue import Arguments
from .._errors import OutboxError
from .._rows import dumps
from ._attributes import attributes_of, blocking, take
from ._runs import AGAIN, Backoff, awaited, call, call_json, drive, is_async, opened, run, savepoint, sleep, sqlstate
from .errors import place_of, schema_error
from .registry import NewEvent
from .store import Appended, EventStore, RecordedEvent

if TYPE_CHECKING:
    from .._typing import AsyncConnection, SyncConnection

logger = logging.getLogger("pg_outbox.events")
F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A", bound="Aggregate")
R = TypeVar("R")

def applies(*events: type[Any] | str) -> Callable[[F], F]:
    """Makes a method the one that applies events of these classes, or of types without a class. A class that is registered is
    named by itself: an event that is recorded has no name yet."""
    if not events:
        raise TypeError("applies() needs a class of events, or the name of a type")

    def mark(method: F) -> F:
        blocking(method)
        method._applies = events  # type: ignore[attr-defined]
        return method

    return mark


class Aggregate:
    """The base class of aggregates. A class without parameters of its own: `Order(id)` is an aggregate without events.

    category: the category of its streams, by default the name of the class. version: the last version that is loaded or
    saved. pending: the events that are recorded and not saved.
    """

    category: ClassVar[str] = ""
    _handlers: ClassVar[Mapping[Any, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "category" not in vars(cls) and not cls.category:
            cls.category = cls.__name__
        if not cls.category or "-" in cls.category:
            raise TypeError(f'the category "{cls.category}" of {cls.__name__} is empty, or has a hyphen')
        found = dict(cls._handlers)
        for name, method in vars(cls).items():
            found.update(dict.fromkeys(getattr(method, "_applies", ()), name))
        cls._handlers = found

    def __init__(self, id: str) -> None:
        self.id = id
        self.version = 0
        self.pending: list[NewEvent] = []

    @property
    def stream(self) -> str:
        """The name of its stream: category, hyphen, id."""
        return f"{self.category}-{self.id}"

    def record(self, event: Any) -> None:
        """Applies a new event, and keeps it until the aggregate is saved. An exception of the method that applies it leaves
        it unrecorded."""
        made = event if isinstance(event, NewEvent) else NewEvent("", event)
        self.apply(made.type, made.data)
        self.pending.append(made)

    def apply(self, type_name: str, data: Any) -> None:
        """Applies the data of an event. An event that no method applies changes nothing."""
        name = self._handlers.get(type(data)) or self._handlers.get(type_name)
        if name is not None:
            getattr(self, name)(data)

    def redacted(self, event: RecordedEvent) -> None:
        """Is called instead of apply() for an event whose content was erased, and for one with revoked fields that apply() has
        refused. By default it changes nothing."""

    def snapshot(self) -> Any:
        """Returns the state for a snapshot: by default all attributes but id, version and pending. Raises SchemaError for one
        that restore() would not give back: one without an annotation whose type JSON does not have, or one whose name begins with
        an underscore."""
        return attributes_of(self, _OWN)

    def restore(self, state: Any) -> None:
        """Takes the state of a snapshot: by default each attribute, as the type that the class is annotated with."""
        take(self, state)


_OWN = frozenset({"id", "version", "pending"})


class Repository(Generic[A]):
    """Loads and saves aggregates of a class.

    snapshot_every: stores a snapshot when a save passes a multiple of so many events; None: never. schema_version: the form
    of the snapshots; another form gets another number, and old snapshots are not used any more. retry: pauses and attempts
    of execute() when another transaction was first (3 attempts, 0.1 s, factor 2, at most 5 s, with jitter).
    plain_snapshots: snapshots are not encrypted, so with a store that encrypts fields they have to be asked for.
    """

    def __init__(
        self, store: EventStore, aggregate: type[A], *, snapshot_every: int | None = None, schema_version: int = 1,
        retry: Backoff | None = None, plain_snapshots: bool = False,
    ) -> None:
        if snapshot_every is not None and snapshot_every < 1:
            raise ValueError("snapshot_every is from 1 on")
        if snapshot_every is not None and store.encrypts and not plain_snapshots:
            raise ValueError("snapshots would repeat encrypted fields as they are; if the state has none of them, pass plain_snapshots=True")
        self.store = store
        self._class = aggregate
        self._every = snapshot_every
        self._schema_version = schema_version
        self._retry = retry or Backoff()
        self._check_types()

    def _check_types(self) -> None:
        """Raises SchemaError for a method that names the type of a class: it would apply events that are loaded, and none that is
        recorded."""
        for name in self._class._handlers:
            if isinstance(name, str) and self.store.registry.makes_instances(name):
                raise schema_error(
                    f'{self._class.__name__} applies "{name}" by its name, and the type has a class', hint="Give applies() the class."
                )

    @overload
    def load(self, conn: AsyncConnection, id: str) -> Coroutine[Any, Any, A]: ...
    @overload
    def load(self, conn: SyncConnection, id: str) -> A: ...
    def load(self, conn: Any, id: str) -> Any:
        """Returns the aggregate with this id. Without events it is new, at version 0."""
        return run(conn, self.load_async(conn, id))

    async def load_async(self, conn: Any, id: str) -> A:
        """Does the same as load(), to be awaited on any connection."""
        aggregate = self._class(id)
        if self._every is not None:
            found = await call(conn, "load_snapshot", [
                ("stream", "text", aggregate.stream), ("schema_version", "int", str(self._schema_version)),
            ], _SNAPSHOT)
            if found is not None:
                snapshot = json.loads(found)
                aggregate.restore(snapshot["state"])
                aggregate.version = snapshot["version"]
        self.replay(aggregate, await self.store.load_async(conn, aggregate.stream, aggregate.version + 1))
        return aggregate

    def replay(self, aggregate: A, events: Sequence[RecordedEvent]) -> None:
        """Applies recorded events to an aggregate."""
        for event in events:
            if not event.redacted:
                aggregate.apply(event.type, event.data)
            elif event.data is None:
                aggregate.redacted(event)
            else:
                self._replay_redacted(aggregate, event)
            aggregate.version = event.version

    def _replay_redacted(self, aggregate: A, event: RecordedEvent) -> None:
        try:
            aggregate.apply(event.type, event.data)
        except Exception as error:  # noqa: BLE001 - a method may need a field that is gone
            logger.warning("version %d of %s is redacted and cannot be applied: %s", event.version, event.stream, place_of(error))
            aggregate.redacted(event)

    @overload
    def save(
        self, conn: AsyncConnection, *aggregates: A, metadata: Mapping[str, Any] | None = None, occurred_at: dt.datetime | None = None
    ) -> Coroutine[Any, Any, list[Appended]]: ...
    @overload
    def save(
        self, conn: SyncConnection, *aggregates: A, metadata: Mapping[str, Any] | None = None, occurred_at: dt.datetime | None = None
    ) -> list[Appended]: ...
    def save(
        self, conn: Any, *aggregates: A, metadata: Mapping[str, Any] | None = None, occurred_at: dt.datetime | None = None
    ) -> Any:
        """Appends the pending events of aggregates, in the order of the names of their streams, so that two transactions do not
        wait for each other in a circle. Their versions are set. An aggregate without pending events is left out.

        Raises ConcurrencyError if another transaction has appended meanwhile: roll back, load, and decide again, as execute()
        does. After a rollback the aggregates are not to be used any more."""
        return run(conn, save_all(conn, [(self.store, self, one) for one in aggregates], metadata, occurred_at))

    async def save_one(
        self, conn: Any, aggregate: A, metadata: Mapping[str, Any] | None = None, occurred_at: dt.datetime | None = None
    ) -> Appended | None:
        """Appends the pending events of one aggregate, and stores a snapshot if one is due."""
        if not aggregate.pending:
            return None
        self._check_types()
        before = aggregate.version
        appended = await self.store.append_async(conn, aggregate.stream, [
            event if event.type else NewEvent(self.store.registry.name_of(event.data), event.data, event.event_id)
            for event in aggregate.pending
        ], before, metadata, occurred_at=occurred_at)
        aggregate.pending = []
        aggregate.version = appended.last_version
        if self._every is not None and before // self._every != aggregate.version // self._every:
            await self._keep(conn, aggregate)
        return appended

    async def _keep(self, conn: Any, aggregate: A) -> None:
        """Stores a snapshot. One that is too large is left out: loading takes longer, and nothing is wrong."""
        arguments: Arguments = [
            ("stream", "text", aggregate.stream), ("version", "bigint", str(aggregate.version)),
            ("state", "jsonb", dumps(aggregate.snapshot())), ("schema_version", "int", str(self._schema_version)),
        ]
        try:
            async with savepoint(conn, is_async(conn)):
                await call_json(conn, "save_snapshot", arguments)
        except OutboxError as error:
            if error.code != "54000":
                raise
            logger.warning("no snapshot of %s at version %d: %s", aggregate.stream, aggregate.version, error.message)

    def execute(self, begin: Callable[[], Any], id: str, decide: Callable[[A], R]) -> R:
        """Loads an aggregate, calls decide(aggregate) and saves it, in a transaction of begin (as for Reader.apply, for example
        Session.begin). If another transaction was first (ConcurrencyError, or a serialization failure), all of it is done
        again in a new transaction. Returns what decide returns; its exceptions are raised, and nothing is saved."""
        result: R = drive(self._executed(False, begin, id, decide))
        return result

    @overload
    async def aexecute(self, begin: Callable[[], Any], id: str, decide: Callable[[A], Awaitable[R]]) -> R: ...
    @overload
    async def aexecute(self, begin: Callable[[], Any], id: str, decide: Callable[[A], R]) -> R: ...
    async def aexecute(self, begin: Callable[[], Any], id: str, decide: Callable[[A], Any]) -> Any:
        """Does the same as execute() in asyncio; decide may be blocking or async."""
        return await self._executed(True, begin, id, decide)

    async def _executed(self, in_asyncio: bool, begin: Callable[[], Any], id: str, decide: Callable[[A], Any]) -> Any:
        async def attempt() -> Any:
            async with opened(in_asyncio, begin) as conn:
                aggregate = await self.load_async(conn, id)
                result = decide(aggregate)
                if inspect.isawaitable(result):
                    result = await awaited(result)
                await self.save_one(conn, aggregate)
            return result

        return await again(in_asyncio, self._retry, attempt)


_SNAPSHOT = "select cast((select to_json(r) from (select s.version, s.state from {} s) r) as text)"


async def save_all(
    conn: Any, found: Sequence[tuple[EventStore, Repository[Any], Any]], metadata: Mapping[str, Any] | None = None,
    occurred_at: dt.datetime | None = None,
) -> list[Appended]:
    """Saves aggregates of any classes in the order of the names of their streams."""
    done = []
    for _, repository, aggregate in sorted(found, key=lambda one: one[2].stream.encode()):
        appended = await repository.save_one(conn, aggregate, metadata, occurred_at)
        if appended is not None:
            done.append(appended)
    return done


@overload
def save_together(
    conn: AsyncConnection, *pairs: tuple[Repository[Any], Any], metadata: Mapping[str, Any] | None = None
) -> Coroutine[Any, Any, list[Appended]]: ...
@overload
def save_together(
    conn: SyncConnection, *pairs: tuple[Repository[Any], Any], metadata: Mapping[str, Any] | None = None
) -> list[Appended]: ...
def save_together(conn: Any, *pairs: tuple[Repository[Any], Any], metadata: Mapping[str, Any] | None = None) -> Any:
    """Saves aggregates of several classes in one transaction, in the order of the names of their streams. pairs: each with
    its repository."""
    return run(conn, save_all(conn, [(repository.store, repository, one) for repository, one in pairs], metadata))


async def again(in_asyncio: bool, retry: Backoff, attempt: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Runs an attempt again while another transaction was first."""
    for count in range(1, retry.attempts + 1):
        try:
            return await attempt()
        except Exception as error:
            # A serialization failure may also be that of a statement of the program, or of the commit.
            if count == retry.attempts or sqlstate(error) not in AGAIN:
                raise
        await sleep(in_asyncio, retry.pause(count))
    raise AssertionError("there is at least one attempt")
