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


def test_methods_that_would_have_to_be_awaited_are_refused():
    async def later(self, event=None):
        pass

    from pg_outbox.events import applies

    for mark in (on(Placed), on_timeout("x"), compensates("x"), applies(Placed)):
        with pytest.raises(TypeError, match="async"):
            mark(later)
    with pytest.raises(TypeError, match="pattern"):
        on("order.*")


def test_a_time_out_has_the_form_and_the_context_of_all_clients(dsn):
    seen = []

    class Waiting(Saga):
        name = "waiting"
        starts_with = ("order.begun",)

        @on("order.begun")
        def placed(self, event):
            self.timeout("never", after=dt.timedelta(days=1))
            self.timeout("now", after=dt.timedelta(days=1))
            self.timeout("now", after=dt.timedelta(seconds=-1))
            with pytest.raises(SagaError, match="too long"):
                self.timeout("never", after=dt.timedelta.max)

        @on_timeout("now", "never")
        def over(self):
            seen.append(current())
            self.send("time.over")

    with event_context(correlation_id="c", tenant="t", user_id="ann"):
        append(dsn, "order-1", NewEvent("order.begun"))
    made = manager(dsn, Waiting)
    with event_context(tenant="of the process"):
        made.drain(Waiting)
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("select id, key, payload, tenant, metadata from outbox.message where topic = 'saga.timeout.waiting' order by id").fetchall()
        sent = conn.execute("select tenant, metadata from outbox.message where topic = 'time.over'").fetchone()
        names = [row[0] for row in conn.execute("select name from outbox.subscription")]
    assert [row[1:4] for row in rows] == [("1", {"saga_type": "waiting", "saga_id": "1", "name": name}, "t") for name in ("never", "now")]
    assert all(row[4]["correlation_id"] == "c" and row[4]["user_id"] == "ann" for row in rows)
    (context,) = seen
    assert (context.tenant, context.correlation_id, context.user_id, context.causation_id) == ("t", "c", "ann", str(rows[1][0]))
    assert sent[0] == "t" and sent[1]["correlation_id"] == "c" and sent[1]["causation_id"] == str(rows[1][0]) and "tenant" not in sent[1]
    assert "saga waiting time-outs" in names


def test_a_saga_that_ends_while_an_event_waits_handles_nothing(dsn):
    made = manager(dsn)
    append(dsn, "order-1", Placed(5))
    made.drain(Shipping)
    append(dsn, "order-1", NewEvent("shipment.done"), Paid("card"))
    commands.clear()
    with psycopg.connect(dsn) as conn:
        done, late = store.load(conn, "order-1", 2)
    waiting, results = threading.Event(), []

    def second():
        with psycopg.connect(dsn) as other:
            waiting.set()
            results.append(made.handle(other, Shipping, late))

    with psycopg.connect(dsn) as conn:
        assert made.handle(conn, Shipping, done)
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)
        with psycopg.connect(dsn) as look:
            until("it waits", lambda: look.execute(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'").fetchone() == (1,))
        conn.commit()
    thread.join(60)
    assert results == [False] and commands == [] and state(dsn)[0] == "completed"


def test_completed_steps_without_a_method_are_compensated_too(dsn):
    class Plain(Saga):
        name = "plain"
        starts_with = ("order.placed",)
        steps = ("a", "b")

        @on("order.placed")
        def placed(self, event):
            if event.amount > 1:
                self.complete_step("a")
            self.fail("no")

    made = manager(dsn, Plain)
    append(dsn, "order-1", Placed(1))
    append(dsn, "order-2", Placed(2))
    made.drain(Plain)
    assert state(dsn, "1", "plain")[0] == "failed" and state(dsn, "2", "plain")[0] == "compensated"


def test_a_malformed_correlation_id_stops_nothing(dsn, caplog):
    class Long(Saga):
        name = "long"
        starts_with = ("order.placed",)

        @classmethod
        def correlate(cls, event):
            return "x" * event.data.amount

        @on("order.placed")
        def placed(self, event):
            pass

    append(dsn, "order-1", Placed(256), Placed(255))
    assert manager(dsn, Long).drain(Long) == 2 and "malformed" in caplog.text
    assert state(dsn, "x" * 255, "long")[0] == "started"


def test_state_that_would_not_come_back_is_refused(dsn):
    from decimal import Decimal

    from pg_outbox.events import SchemaError

    for name, value in (("_secret", 1), ("total", Decimal("1.10")), ("seen", {1}), ("at", dt.date(2026, 1, 1)), ("pair", (1, 2))):
        one = Shipping()
        setattr(one, name, value)
        with pytest.raises(SchemaError, match=name):
            one.snapshot()
    one = Shipping()
    one.due, one.plain = dt.date(2026, 1, 1), {"a": [1, None, 1.5]}
    other = Shipping()
    other.restore(one.snapshot())
    assert (other.due, other.plain) == (one.due, one.plain)


def test_a_blocking_time_out_does_not_hold_the_event_loop(dsn):
    import time

    begun = []

    class Slow(Saga):
        name = "slow"
        starts_with = ("order.placed",)

        @on("order.placed")
        def placed(self, event):
            self.timeout("t", after=dt.timedelta(0))

        @on_timeout("t")
        def over(self):
            begun.append(threading.current_thread())
            time.sleep(0.2)

    append(dsn, "order-1", Placed(1))
    made = manager(dsn, Slow)
    thread = threading.Thread(target=made.run)
    thread.start()
    until("it is handled", lambda: begun)
    made.stop()
    thread.join(60)
    assert begun[0] is not thread and not thread.is_alive()


def test_sagas_and_aggregates_survive_what_is_redacted(dsn):
    from pg_outbox.events import Aggregate, FieldEncryption, LocalKeys, Repository, applies

    types, hooks = EventRegistry(), []

    @types.event("person.named")
    @dataclasses.dataclass
    class Named:
        id: str
        name: str

        def __post_init__(self):
            self.name = self.name.strip()

    secret = EventStore(types, encryption=FieldEncryption(
        LocalKeys({"m": b"1" * 32}), {"person.named": ["name"]}, master_key="m", per="subject", subject=lambda event: event.data.id))

    class Person(Aggregate):
        category = "person"
        name: str = ""

        @applies(Named)
        def _named(self, event):
            self.name = event.name.upper()

        def redacted(self, event):
            hooks.append(event.version)

    class Welcome(Saga):
        name = "welcome"
        starts_with = (Named,)
        names: int = 0

        @on(Named)
        def named(self, event):
            self.names += len(event.name)

        def redacted(self, event):
            hooks.append(f"saga {event.version}")

    with psycopg.connect(dsn) as conn:
        secret.append(conn, "person-1", [Named("b", "Bob"), Named("a", "Ada"), Named("b", "Eve")])
        id = conn.execute("select message_id from outbox.load('person-1') where version = 3").fetchone()[0]
        conn.execute("select outbox.erase(%s, reason => 'x')", [id])
        conn.execute("select outbox.revoke_subject_keys('a', reason => 'x')")
    with psycopg.connect(dsn) as conn:
        one = Repository(secret, Person).load(conn, "1")
        assert (one.name, one.version, hooks) == ("BOB", 3, [2, 3])
    made = SagaManager(secret, pg_outbox.Outbox(dsn), lambda: psycopg.connect(dsn))
    made.register(Welcome)
    assert made.drain(Welcome) == 3 and hooks[2:] == ["saga 2", "saga 3"]
    assert state(dsn, "1", "welcome")[2]["state"] == {"names": 3}
