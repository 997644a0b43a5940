"""The scenarios of tests/conformance/toolkit, which the toolkits for events of all clients run. The README there describes the shop."""

import dataclasses
import datetime as dt
import json
import pathlib
import threading

import pg_outbox
import psycopg
import pytest
from pg_outbox.events import (
    Aggregate,
    Backoff,
    CommandBus,
    EventStore,
    FieldEncryption,
    LocalKeys,
    NewEvent,
    ProjectionEngine,
    Repository,
    Saga,
    SagaManager,
    Upcasters,
    applies,
    compensates,
    event_context,
    middleware,
    on,
    on_timeout,
)
from test_client import until
from test_conformance import filled, match

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "tests/conformance/toolkit/scenarios"


class Rejected(Exception):
    pass


class Order(Aggregate):
    category = "order"

    def __init__(self, id):
        super().__init__(id)
        self.status = "new"
        self.total = 0

    def place(self, customer, total, pay_within=None):
        if self.version or self.pending:
            raise Rejected("the order exists")
        self.record(NewEvent("order.placed", {"customer": customer, "total": total, **({} if pay_within is None else {"pay_within": pay_within})}))

    def _open(self):
        if self.status != "placed":
            raise Rejected(f"the order is {self.status}")

    def change(self, total):
        self._open()
        self.record(NewEvent("order.changed", {"total": total}))

    def pay(self, by):
        self._open()
        self.record(NewEvent("order.paid", {"by": by}))

    @applies("order.placed")
    def _placed(self, data):
        self.status, self.total = "placed", data["total"]

    @applies("order.changed")
    def _changed(self, data):
        self.total = data["total"]

    @applies("order.paid")
    def _paid(self, data):
        self.status = "paid"


@dataclasses.dataclass
class Place:
    command_type = "order.place"
    id: str
    customer: str
    total: int
    pay_within: float | None = None
    idempotency_key: str | None = None


@dataclasses.dataclass
class Pay:
    command_type = "order.pay"
    id: str
    by: str
    idempotency_key: str | None = None


@dataclasses.dataclass
class Lose:
    command_type = "order.lose"
    idempotency_key: str | None = None


COMMANDS = {one.command_type: one for one in (Place, Pay, Lose)}


class Payment(Saga):
    name = "payment"
    starts_with = ("order.placed",)
    steps = ("reserve", "pay")

    @on("order.placed")
    def placed(self, data):
        self.complete_step("reserve")
        self.start_step("pay")
        self.timeout("unpaid", after=dt.timedelta(seconds=data["pay_within"]))

    @on("order.paid")
    def paid(self, data):
        self.complete_step("pay")
        self.send("shipment.request", {"order": self.saga_id})
        self.complete()

    @on_timeout("unpaid")
    def unpaid(self):
        self.fail("not paid in time")

    @compensates("reserve")
    def release(self):
        self.send("stock.release", {"order": self.saga_id})


def upcasters_of(steps):
    made = Upcasters()
    for step in steps:

        def newer(data, step=step):
            before, now = step["rename"]
            return {**{name: value for name, value in data.items() if name != before}, now: data[before], **step.get("set", {})}

        made.add(step["type"], step["from"], newer)
    return made


def revenue(negative):
    def handle(conn, events):
        for event in events:
            if event.data is None:
                continue
            if event.type in ("order.placed", "order.changed") and event.data["total"] < 0 and not negative:
                raise ArithmeticError("a negative total")
            if event.type == "order.placed":
                conn.execute("insert into revenue values (%s, %s, 1)", [event.stream, event.data["total"]])
            elif event.type == "order.changed":
                conn.execute("update revenue set total = %s, times = times + 1 where stream = %s", [event.data["total"], event.stream])

    return handle


class Shop:
    def __init__(self, dsn, snapshot_every=None, upcasters=None, encryption=None):
        self.dsn = dsn
        self.outbox = pg_outbox.Outbox(dsn)
        self.plain = EventStore()
        keys = None if encryption is None else FieldEncryption(
            LocalKeys({"m": b"\7" * 32}), encryption["fields"], master_key="m", per="subject", subject=lambda event: event.data["customer"],
        )
        self.events = EventStore(upcasters=upcasters_of(upcasters or []), encryption=keys)
        self.orders = Repository(self.events, Order, snapshot_every=snapshot_every, retry=Backoff(3, 0.01, 2.0, 0.1))
        self.bus = CommandBus(self.begin)
        self.bus.use(middleware.retry(), middleware.correlation(), middleware.idempotency())
        self.bus.register(Place, self.deciding(lambda order, one: order.place(one.customer, one.total, one.pay_within)))
        self.bus.register(Pay, self.deciding(lambda order, one: order.pay(one.by)))

    def begin(self):
        return psycopg.connect(self.dsn)

    def deciding(self, decide):
        def handle(conn, command):
            order = self.orders.load(conn, command.id)
            decide(order, command)
            self.orders.save(conn, order)
            return {"version": order.version}

        return handle

    def decide(self, id, calls):
        with self.begin() as conn:
            order = self.orders.load(conn, id)
            for method, *args in calls:
                getattr(order, method)(*args)
            self.orders.save(conn, order)
        return {"version": order.version, "state": order.snapshot()}

    def race(self, id, first, second, retry=False):
        met = []

        def decide(order):
            if not met:
                met.append(self.decide(id, first))
            for method, *args in second:
                getattr(order, method)(*args)
            return order

        if retry:
            order = self.orders.execute(self.begin, id, decide)
            return {"version": order.version, "state": order.snapshot()}
        with self.begin() as conn:
            order = self.orders.load(conn, id)
            decide(order)
            self.orders.save(conn, order)

    def append(self, stream, expected_version, events, plain=False):
        made = [
            NewEvent(one["type"], one["data"], **({"event_id": one["event_id"]} if "event_id" in one else {}), metadata=one.get("metadata", {}))
            for one in events
        ]
        with self.begin() as conn:
            return vars((self.plain if plain else self.events).append(conn, stream, made, expected_version))

    def load(self, stream, from_version=1):
        with self.begin() as conn:
            return [vars(event) for event in self.events.load(conn, stream, from_version)]

    def subscribe(self, count):
        return [vars(event) for _, event in zip(range(count), self.events.subscribe_all(self.outbox), strict=False)]

    def command(self, type, data, key=None, context=None):
        with event_context(**(context or {})):
            return self.bus.dispatch(COMMANDS[type](**data, idempotency_key=key))

    def call(self, function, args):
        return getattr(self.outbox, function)(**args)

    def query(self, sql):
        with self.begin() as conn:
            row = conn.execute(sql).fetchone()
            return row and row[0]

    def _until(self, runs, sql):
        self.outbox.call("tick", {})
        thread = threading.Thread(target=runs.run)
        thread.start()
        try:
            until(sql, lambda: self.query(sql))
        finally:
            runs.stop()
            thread.join(60)

    def engine(self, negative):
        made = ProjectionEngine(self.events, self.outbox, poll_interval=0.02)
        made.register("revenue", revenue(negative), self.begin, types=["order.*"], batch=2)
        return made

    def project(self, until, negative=False):
        with self.begin() as conn:
            conn.execute("create table if not exists revenue (stream text primary key, total numeric, times int)")
        self._until(self.engine(negative), until)

    def rebuild(self, negative=False):
        progress = []
        self.engine(negative).rebuild("revenue", clear=lambda conn: conn.execute("delete from revenue"), progress=progress.append)
        return {"reported": progress[-1].projection == "revenue" and progress[-1].done == progress[-1].total}

    def sagas(self, until):
        manager = SagaManager(self.events, self.outbox, self.begin, poll_interval=0.02)
        manager.register(Payment)
        self._until(manager, until)

    def store(self, upcasters):
        return EventStore(upcasters=upcasters_of(upcasters))


OPERATIONS = {"decide", "race", "append", "load", "subscribe", "command", "call", "query", "project", "rebuild", "sagas", "store"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_scenario(path, dsn):
    scenario = json.loads(path.read_text())
    assert set(scenario) <= {"description", "steps", "snapshot_every", "upcasters", "encryption"}
    shop, saved = Shop(dsn, **{name: value for name, value in scenario.items() if name not in ("description", "steps")}), {}
    for i, step in enumerate(scenario["steps"]):
        assert set(step) <= {"do", "args", "expect", "error", "save", "description"} and step["do"] in OPERATIONS, step
        where = f"{path.stem} step {i + 1} ({step['do']})"
        args = filled(step["args"], saved)
        if "error" in step:
            with pytest.raises((pg_outbox.OutboxError, Rejected)) as caught:
                getattr(shop, step["do"])(**args)
            wanted = dict(step["error"])
            if "rejected" in wanted:
                assert wanted["rejected"] in str(caught.value), where
            else:
                match({name: getattr(caught.value, name, None) for name in wanted}, wanted, where)
            continue
        result = getattr(shop, step["do"])(**args)
        if "save" in step:
            saved[step["save"]] = result
        if "expect" in step:
            match(result, step["expect"], where)
