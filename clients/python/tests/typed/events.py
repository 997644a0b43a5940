"""Checked by mypy --strict and pyright, never run. A line that ends with `# refused` must be an error of both."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

import pg_outbox
import psycopg
from pg_outbox.events import (
    NO_STREAM,
    Aggregate,
    Appended,
    AsyncEvents,
    Call,
    CommandBus,
    EventRegistry,
    Events,
    EventStore,
    FieldEncryption,
    LocalKeys,
    NewEvent,
    ProgressBar,
    ProjectionEngine,
    RecordedEvent,
    Repository,
    Saga,
    SagaManager,
    Upcasters,
    applies,
    event_context,
    middleware,
    on,
)
from pg_outbox.events.read_models import InMemoryReadModel, Page, ReadModel
from pg_outbox.testing import Clock, TestServer, given
from sqlalchemy import Engine, Table
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

registry = EventRegistry(unregistered="error")


@registry.event("order.placed")
@dataclass
class Placed:
    amount: int


class Order(Aggregate):
    category = "order"
    amount: int = 0

    def place(self, amount: int) -> int:
        self.record(Placed(amount))
        return self.amount

    @applies(Placed)
    def _placed(self, event: Placed) -> None:
        self.amount = event.amount


upcasters = Upcasters()


@upcasters.upcaster("order.placed", from_version=1)
def newer(data: dict[str, Any]) -> dict[str, Any]:
    return data


store = EventStore(
    registry, upcasters=upcasters, encryption=FieldEncryption(LocalKeys({"m": bytes(32)}), {"a": ["b"]}, master_key="m"),
)
orders = Repository(store, Order, snapshot_every=10)


def blocking(session: Session, plain: psycopg.Connection, maker: sessionmaker[Session], engine: Engine) -> None:
    assert_type(store.append(session, "order-1", [Placed(1)], NO_STREAM), Appended)
    assert_type(store.load(plain, "order-1"), list[RecordedEvent])
    assert_type(orders.load(session, "1"), Order)
    assert_type(orders.save(session, orders.load(session, "1")), list[Appended])
    assert_type(orders.execute(maker.begin, "1", lambda order: order.place(1)), int)
    store.append(engine, "order-1", [Placed(1)])  # refused
    store.append(session, "order-1", [Placed(1)], "none")  # refused
    orders.save(session, "order")  # refused
    orders.execute(maker.begin, "1", lambda order: order.nothing())  # refused
    with event_context(correlation_id="c"):
        store.append(session, "order-1", [NewEvent("a", {"b": 1})])


async def async_(session: AsyncSession) -> None:
    assert_type(await store.append(session, "order-1", [Placed(1)]), Appended)
    assert_type(await orders.load(session, "1"), Order)
    order = await orders.load(session, "1")
    await orders.save(session, order)
    store.append(session, "order-1", [Placed(1)])  # refused
    orders.save(session, order)  # refused


bus = CommandBus()
bus.use(middleware.retry(), middleware.idempotency("order"), middleware.when(lambda command: True, middleware.tenant()))


async def mine(call: Call, call_next: Any) -> Any:
    return await call_next(call)


bus.use(mine)
EventRegistry(unregistered="maybe")  # refused
FieldEncryption(LocalKeys({}), {}, master_key="m", per="tenant")  # refused


@bus.handler(Placed)
def handle(session: Session, command: Placed) -> None: ...


class Shipping(Saga):
    starts_with = (Placed,)

    @on(Placed)
    def placed(self, event: Placed) -> None:
        self.send("topic", {"amount": event.amount}, key="k")
        self.complete()


def run(outbox: pg_outbox.Outbox, later: pg_outbox.AsyncOutbox, maker: async_sessionmaker[AsyncSession], app: pg_outbox.App) -> None:
    assert_type(store.subscribe_all(outbox, types=["order.*"]), Events)
    assert_type(store.subscribe_all(later), AsyncEvents)
    engine = ProjectionEngine(store, app)

    @engine.projection("totals", begin=maker.begin)
    async def totals(session: AsyncSession, events: list[RecordedEvent]) -> None:
        assert_type(events[0].version, int)

    manager = SagaManager(store, later, maker.begin)
    assert_type(manager.register(Shipping), type[Saga])
    app.include(engine)
    app.include(manager)
    given(Order, Placed(1)).when(lambda order: order.place(2)).then(Placed(2))


def rebuilt(engine: ProjectionEngine) -> None:
    def clear(session: Session) -> None: ...

    assert_type(engine.rebuild("totals", clear=clear, progress=ProgressBar()), int)
    assert_type(engine.rebuild_all({"totals": clear}, progress=ProgressBar()), dict[str, int])
    engine.rebuild_all(["totals"])  # refused


@dataclass
class Total:
    id: int
    amount: int | None = None


async def read_models(session: Session, later: AsyncSession, table: Table) -> None:
    totals = ReadModel(table, Total)
    assert_type(totals.find(session, where=[("amount", ">", 1)], order=["-amount"]), Page[Total])
    assert_type(await totals.get(later, 1), Total)
    assert_type(totals.find_one(session), Total | None)
    totals.insert(session, 5)  # refused
    totals.insert(later, Total(1))  # refused
    InMemoryReadModel(Total, key=["id"]).upsert(None, Total(1))


def test_with_fixtures(outbox_server: TestServer, outbox_dsn: str, outbox: pg_outbox.Outbox, fixed_clock: Clock) -> None:
    assert_type(outbox_server.database(), str)
    fixed_clock.advance(timedelta(days=2))
    fixed_clock.advance(2)  # refused
