"""Sagas: every event once, whatever fails; compensation in reverse; time-outs."""

import dataclasses
import datetime as dt
import subprocess
import sys
import threading

import pg_outbox
import psycopg
import pytest
from pg_outbox.events import (
    CommandBus,
    EventRegistry,
    EventStore,
    NewEvent,
    ProjectionEngine,
    Saga,
    SagaError,
    SagaManager,
    compensates,
    current,
    event_context,
    on,
    on_timeout,
)
from pg_outbox.testing import given_saga
from test_client import until

registry = EventRegistry()


@registry.event("order.placed")
@dataclasses.dataclass
class Placed:
    amount: int


@registry.event("order.paid")
@dataclasses.dataclass
class Paid:
    by: str


@dataclasses.dataclass
class Ship:
    order: str


store = EventStore(registry)


class Shipping(Saga):
    name = "shipping"
    starts_with = (Placed,)
    steps = ("reserve", "pay", "ship")
    amount: int = 0
    due: dt.date | None = None

    @on(Placed)
    def placed(self, event):
        self.amount = event.amount
        self.due = dt.date(2026, 1, 2)
        self.start_step("reserve")
        self.complete_step("reserve")
        self.start_step("pay")
        self.send("payment.request", {"order": self.correlation_id, "amount": event.amount})
        self.timeout("payment", after=dt.timedelta(days=2) if event.amount < 1000 else dt.timedelta(seconds=-1))

    @on(Paid)
    def paid(self, event):
        assert self.due == dt.date(2026, 1, 2)
        if event.by == "thief":
            self.complete_step("pay")
            self.fail("stolen card")
            return
        self.complete_step("pay")
        self.cancel_timeout("payment")
        self.start_step("ship")
        self.dispatch(Ship(self.correlation_id))
        self.append(f"shipment-{self.correlation_id}", [NewEvent("shipment.asked", {"amount": self.amount})])

    @on("shipment.done")
    def shipped(self, data):
        self.complete_step("ship")
        self.complete()

    @on_timeout("payment")
    def not_paid(self):
        self.fail("not paid in time")

    @compensates("reserve")
    def unreserve(self):
        self.send("stock.release", {"order": self.correlation_id})

    @compensates("pay")
    def refund(self):
        self.send("payment.refund", {"order": self.correlation_id})


class Broken(Shipping):
    name = "broken"

    @compensates("reserve")
    def unreserve(self):
        self.send("never.sent")
        raise ValueError("cannot")


commands = []
bus = CommandBus()
bus.register(Ship, lambda conn, command: commands.append((command.order, current().correlation_id, conn is not None)))


def manager(dsn, *sagas, **options):
    made = SagaManager(store, pg_outbox.Outbox(dsn), lambda: psycopg.connect(dsn), bus=bus, poll_interval=0.02, **options)
    for saga in sagas or (Shipping,):
        made.register(saga)
    return made


def append(dsn, stream, *events):
    with psycopg.connect(dsn) as conn:
        store.append(conn, stream, list(events))


def state(dsn, saga_id="1", name="shipping"):
    with psycopg.connect(dsn) as conn:
        return conn.execute("select status, steps, state, failure_reason from outbox.saga_load(%s, %s)", [name, saga_id]).fetchone()


def topics(dsn):
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute("select topic from outbox.message where topic !~ '^(outbox|order|shipment)' and version is null order by id")]


def test_a_saga_goes_through_its_steps(dsn):
    commands.clear()
    made = manager(dsn)
    with event_context(correlation_id="c-1", tenant="t"):
        append(dsn, "order-1", Placed(5))
    assert made.drain(Shipping) == 1
    status, steps, kept, _ = state(dsn)
    assert status == "started" and [step["status"] for step in steps] == ["completed", "running", "pending"]
    assert kept["state"] == {"amount": 5, "due": "2026-01-02"} and list(kept["timeouts"]) == ["payment"]
    assert topics(dsn) == ["payment.request", "saga.timeout.shipping"]
    append(dsn, "order-1", Paid("card"))
    made.drain(Shipping)
    assert commands == [("1", "1", True)] and state(dsn)[0] == "running" and state(dsn)[2]["timeouts"] == {}
    with psycopg.connect(dsn) as conn:
        (shipment,) = store.load(conn, "shipment-1")
        request = conn.execute("select metadata, tenant from outbox.message where topic = 'payment.request'").fetchone()
    assert shipment.data == {"amount": 5} and shipment.metadata["causation_id"]
    assert request[0]["correlation_id"] == "c-1" and request[1] == "t"
    append(dsn, "order-1", NewEvent("shipment.done"))
    made.drain(Shipping)
    assert state(dsn)[0] == "completed"
    append(dsn, "order-1", Paid("card"))
    assert made.drain(Shipping) == 1 and len(commands) == 1, "a saga that has ended handles nothing"
    append(dsn, "order-1", Placed(6))
    made.drain(Shipping)
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select count(*) from outbox.sagas").fetchone() == (2,), "a new one begins"


def test_failure_compensates_in_reverse(dsn):
    made = manager(dsn, Shipping, Broken)
    append(dsn, "order-1", Placed(5), Paid("thief"))
    made.drain(Shipping)
    made.drain(Broken)
    status, steps, _, reason = state(dsn)
    assert status == "compensated" and [step["status"] for step in steps] == ["compensated", "compensated", "pending"]
    assert reason == "stolen card"
    sent = [topic for topic in topics(dsn) if not topic.startswith(("saga.", "payment.request"))]
    assert sent == ["payment.refund", "stock.release", "payment.refund"]
    status, _, _, reason = state(dsn, name="broken")
    assert status == "compensation_failed" and "ValueError: cannot" in reason and "never.sent" not in topics(dsn)


def test_time_outs(dsn):
    made = manager(dsn)
    append(dsn, "order-1", Placed(1000))
    append(dsn, "order-2", Placed(1000), Paid("card"))
    append(dsn, "order-3", Placed(5))
    made.drain(Shipping)
    status, steps, _, reason = state(dsn)
    assert (status, reason) == ("compensated", "not paid in time") and [step["status"] for step in steps][:2] == ["compensated", "failed"]
    assert state(dsn, "2")[0] == "running", "it was paid before the time-out came"
    assert state(dsn, "3")[0] == "started"


def test_a_handler_that_fails_is_tried_again(dsn):
    fails = threading.Event()

    class Fragile(Saga):
        name = "fragile"
        starts_with = ("order.placed",)

        @on("order.placed")
        def placed(self, event):
            self.send("sent.once")
            if not fails.is_set():
                raise ValueError("not yet")

    made = manager(dsn, Fragile)
    append(dsn, "order-1", Placed(1))
    thread = threading.Thread(target=made.run)
    thread.start()
    until("it stands", lambda: made.engine.status("saga fragile").state == "faulted")
    assert topics(dsn) == []
    fails.set()
    until("it goes on", lambda: topics(dsn) == ["sent.once"])
    made.stop()
    thread.join(60)
    assert not thread.is_alive() and state(dsn, name="fragile")[0] == "started"


async def test_async_connections_in_an_application(dsn):
    import asyncio

    commands.clear()
    app = pg_outbox.App(dsn)
    made = SagaManager(store, app, lambda: psycopg.AsyncConnection.connect(dsn), bus=bus, poll_interval=0.02)
    made.register(Shipping)
    engine, seen = ProjectionEngine(store, app, poll_interval=0.02), []

    @engine.projection("seen", begin=lambda: psycopg.AsyncConnection.connect(dsn))
    async def project(conn, events):
        seen.extend(event.type for event in events)

    app.include(made)
    app.include(engine)
    running = asyncio.create_task(app.arun())
    append(dsn, "order-1", Placed(5), Paid("card"), NewEvent("shipment.done"))
    append(dsn, "order-2", Placed(1000))
    for _ in range(600):
        await asyncio.sleep(0.05)
        with psycopg.connect(dsn) as conn:
            found = dict(conn.execute("select saga_id, status from outbox.sagas").fetchall())
        if found == {"1": "completed", "2": "compensated"} and len(seen) == 5:
            break
    assert found == {"1": "completed", "2": "compensated"} and commands == [("1", "1", True)] and len(seen) == 5
    app.stop()
    await asyncio.wait_for(running, 60)


PROGRAM = """
import sys, time, psycopg, pg_outbox
from pg_outbox.events import EventStore, Saga, SagaManager, on
dsn = sys.argv[1]
class Count(Saga):
    name = "count"
    starts_with = ("n",)
    seen: list[int] = []
    @on("n")
    def n(self, data):
        self.seen = [*self.seen, data]
        self.send("counted", data)
        time.sleep(0.003)
manager = SagaManager(EventStore(), pg_outbox.Outbox(dsn), lambda: psycopg.connect(dsn), poll_interval=0.02)
manager.register(Count)
print("begun", flush=True)
manager.run()
"""


def test_processes_that_are_killed_handle_each_event_once(dsn):
    for start in range(0, 200, 50):
        append(dsn, f"n-{start % 3}", *(NewEvent("n", i) for i in range(start, start + 50)))
    processes = [subprocess.Popen([sys.executable, "-c", PROGRAM, dsn], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "begun\n"
    until("it has begun", lambda: topics(dsn))
    processes[0].kill()
    until("all are handled", lambda: len(topics(dsn)) >= 200)
    processes[1].terminate()
    assert processes[1].wait(60) == 0
    processes[0].wait(60)
    with psycopg.connect(dsn) as conn:
        counted = [row[0] for row in conn.execute("select payload from outbox.message where topic = 'counted'")]
        kept = [row[0] for row in conn.execute("select (outbox.saga_load(saga_type, saga_id)).state from outbox.sagas")]
    assert sorted(counted) == list(range(200)) and sorted(i for one in kept for i in one["state"]["seen"]) == list(range(200))


def test_the_test_kit_of_sagas():
    placed = given_saga(Shipping).when(Placed(5))
    placed.then_sent(("payment.request", {"amount": 5})).then_status("started", pay="running")
    placed.then_timeout("payment", dt.datetime(2026, 1, 3, tzinfo=dt.timezone.utc))
    given_saga(Shipping, Placed(5)).when(Paid("card")).then_sent(Ship("1"), NewEvent("shipment.asked", {"amount": 5}))
    given_saga(Shipping, Placed(5)).when_timeout("payment").then_sent(("stock.release", {})).then_status("compensated", reserve="compensated")
    given_saga(Shipping, Placed(5), Paid("card")).when(NewEvent("shipment.done")).then_nothing().then_status("completed")
    given_saga(Shipping, Placed(5), Paid("card"), NewEvent("shipment.done")).when(NewEvent("shipment.done")).then_error(SagaError, "ended")
    for wrong in (
        lambda: placed.then_nothing(), lambda: placed.then_status("running"), lambda: placed.then_sent(("payment.request", {"amount": 6})),
        lambda: placed.then_timeout("other"), lambda: placed.then_status("started", ship="running"), lambda: placed.then_error(SagaError),
    ):
        with pytest.raises(AssertionError):
            wrong()


def test_what_a_saga_refuses():
    for attributes in (
        {"name": "a b"}, {"starts_with": ("never",)}, {"undo": compensates("nope")(lambda self: None)},
    ):
        with pytest.raises(TypeError):
            type("Wrong", (Saga,), attributes)
    with pytest.raises(TypeError):
        on()
    one = Shipping()
    for call in (lambda: one.timeout("other"), lambda: one.timeout("payment"), lambda: one.start_step("other")):
        with pytest.raises(SagaError):
            call()
