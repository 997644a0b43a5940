"""Measures the Python client for benches/clients/run: python.py DSN. Prints a JSON object per line."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time

import asyncpg
import pg_outbox
import psycopg
from pg_outbox import _enqueue
from psycopg_pool import ConnectionPool

DSN = sys.argv[1]
CALLS = int(os.environ.get("CALLS", "3000"))
DELIVERIES = int(os.environ.get("DELIVERIES", "10000"))
EVENTS = int(os.environ.get("EVENTS", "100000"))
LATENCIES = int(os.environ.get("LATENCIES", "1000"))
PAYLOAD = {"order": 42, "amount": 129.95}


def say(**row):
    print(json.dumps({"client": "python", **row}), flush=True)


def statement(placeholder):
    """What enqueue() sends, for the bare driver."""
    arguments = [("topic", "text", "order.created"), ("payload", "jsonb", json.dumps(PAYLOAD)), ("key", "text", "order-42")]
    return _enqueue._sql("enqueue", arguments, placeholder, "select {}"), [value for _, _, value in arguments]


def blocking():
    with psycopg.connect(DSN, autocommit=True) as conn:
        sql, values = statement(lambda i: "%s")
        best = {"bare_us": float("inf"), "ours_us": float("inf")}
        # Both are measured in turn and the best of each counts, because other load on the machine affects both.
        for _ in range(4):
            for name, body in (
                ("bare_us", lambda: conn.execute(sql, values).fetchone()),
                ("ours_us", lambda: pg_outbox.enqueue(conn, "order.created", PAYLOAD, key="order-42")),
            ):
                started = time.perf_counter()
                for _ in range(CALLS):
                    body()
                best[name] = min(best[name], (time.perf_counter() - started) / CALLS * 1e6)
        say(case="enqueue", driver="psycopg", **best)


async def asynchronous():
    conn = await asyncpg.connect(DSN)
    sql, values = statement(lambda i: f"${i + 1}")
    best = {"bare_us": float("inf"), "ours_us": float("inf")}
    for _ in range(4):
        for name, body in (
            ("bare_us", lambda: conn.fetchval(sql, *values)),
            ("ours_us", lambda: pg_outbox.enqueue(conn, "order.created", PAYLOAD, key="order-42")),
        ):
            started = time.perf_counter()
            for _ in range(CALLS):
                await body()
            best[name] = min(best[name], (time.perf_counter() - started) / CALLS * 1e6)
    await conn.close()
    say(case="enqueue", driver="asyncpg", **best)


def fill(outbox, name, count):
    outbox.subscribe(name, [f"bench.{name}"])
    with psycopg.connect(DSN, autocommit=True) as conn:
        for first in range(0, count, 1000):
            some = [{"n": n} for n in range(first, min(first + 1000, count))]
            pg_outbox.enqueue_many(conn, f"bench.{name}", some)
    while (found := outbox.stats()).routed < found.feed_end:
        time.sleep(0.01)


def workers():
    outbox = pg_outbox.Outbox(DSN)
    for batch in (1, 100):
        count = DELIVERIES // 5 if batch == 1 else DELIVERIES
        for style in ("threads", "asyncio"):
            name = f"python_{style}_{batch}"
            fill(outbox, name, count)
            worker = outbox.worker(name, concurrency=batch, batch=batch, poll_interval=0.02)
            handled = 0

            def handle(delivery, count=count, worker=worker):
                nonlocal handled
                handled += 1
                if handled == count:
                    worker.stop()

            started = time.perf_counter()
            report = worker.run(handle) if style == "threads" else asyncio.run(worker.arun(handle))
            seconds = time.perf_counter() - started
            assert report["completed"] == count, report
            say(case="worker", style=style, batch=batch, per_second=count / seconds)


def application():
    """The worker application, with a typed payload, against the worker of the same concurrency."""
    outbox = pg_outbox.Outbox(DSN)
    fill(outbox, "python_application", DELIVERIES)
    app = pg_outbox.App(DSN, ensure=False)
    handled, started = 0, 0.0

    async def handle(payload: dict[str, int]) -> None:
        nonlocal handled
        handled += 1
        if handled == DELIVERIES:
            app.stop()

    @app.on_startup
    def begin() -> None:
        # The start of the application imports pydantic, once per process. As for the bare worker, the session is opened after this.
        nonlocal started
        started = time.perf_counter()

    app.subscription("python_application", batch=100, concurrency=100, poll_interval=0.02).on("bench.python_application")(handle)
    report = app.run()["python_application"]
    seconds = time.perf_counter() - started
    assert report["completed"] == DELIVERIES, report
    say(case="worker", style="application", batch=100, per_second=DELIVERIES / seconds)


def latency():
    """From before enqueue() to the handler, at 100 messages a second, with the default settings of the application."""
    app = pg_outbox.App(DSN)
    waits = []

    async def handle(payload: dict[str, float]) -> None:
        waits.append((time.time() - payload["at"]) * 1000)
        if len(waits) == LATENCIES:
            app.stop()

    app.subscription("python_latency").on("latency.python")(handle)

    def produce():
        with psycopg.connect(DSN, autocommit=True) as conn:
            # The application begins with the first message that is stored.
            while is_behind(conn):
                time.sleep(0.05)
            next_at = time.time() + 0.5
            for _ in range(LATENCIES):
                time.sleep(max(0, next_at - time.time()))
                next_at += 0.01
                pg_outbox.enqueue(conn, "latency.python", {"at": time.time()})

    def is_behind(conn):
        status = "select from outbox.subscription_status where name = 'python_latency' and coalesce(lag_positions, 0) = 0"
        return conn.execute(status).fetchone() is None

    producer = threading.Thread(target=produce)
    producer.start()
    app.run()
    producer.join()
    waits.sort()
    say(case="latency", p50_ms=waits[len(waits) // 2], p99_ms=waits[len(waits) * 99 // 100])


def imports():
    """The time that an import adds to the start of an interpreter."""

    def start(code):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return (time.perf_counter() - started) * 1000

    bare, ours = (min(start(code) for _ in range(7)) for code in ("pass", "from pg_outbox import enqueue"))
    say(case="import", what="enqueue", ms=ours - bare)


def events():
    """An aggregate of ten events that is saved and loaded, beside pyeventsourcing; a projection; encryption of three fields."""
    from dataclasses import dataclass
    from uuid import uuid4

    import pg_outbox._core as core
    from eventsourcing.application import Application
    from eventsourcing.domain import Aggregate as TheirAggregate
    from eventsourcing.domain import event
    from pg_outbox.events import (
        Aggregate,
        EventRegistry,
        EventStore,
        ProjectionEngine,
        Repository,
        applies,
    )

    registry = EventRegistry()

    @registry.event("order.changed")
    @dataclass
    class Changed:
        amount: int

    class Order(Aggregate):
        category = "pyorder"
        amount: int = 0

        @applies(Changed)
        def _changed(self, change: Changed) -> None:
            self.amount = change.amount

    class TheirOrder(TheirAggregate):
        def __init__(self) -> None:
            self.amount = 0

        @event("Changed")
        def change(self, amount: int) -> None:
            self.amount = amount

    store = EventStore(registry)
    orders = Repository(store, Order)
    target = psycopg.conninfo.conninfo_to_dict(DSN)
    theirs = Application(env={
        "PERSISTENCE_MODULE": "eventsourcing.postgres", "POSTGRES_DBNAME": target["dbname"], "POSTGRES_HOST": target["host"],
        "POSTGRES_PORT": str(target["port"]), "POSTGRES_USER": target["user"], "POSTGRES_PASSWORD": target["password"],
    })

    def save_theirs() -> None:
        order = TheirOrder()
        for amount in range(9):
            order.change(amount)
        theirs.save(order)
        theirs.repository.get(order.id)

    # Load and append are one statement each, and the version guards the append, so they need no transaction around them.
    with psycopg.connect(DSN, autocommit=True) as conn:

        def save_ours() -> None:
            number = str(uuid4())
            order = orders.load(conn, number)
            for amount in range(10):
                order.record(Changed(amount))
            orders.save(conn, order)
            orders.load(conn, number)

        best = {"ours": float("inf"), "theirs": float("inf")}
        for _ in range(4):
            for name, body in (("ours", save_ours), ("theirs", save_theirs)):
                started = time.perf_counter()
                for _ in range(CALLS // 10):
                    body()
                best[name] = min(best[name], (time.perf_counter() - started) / (CALLS // 10))
        say(case="aggregate", peer="pyeventsourcing", per_second=1 / best["ours"], theirs=1 / best["theirs"])
        conn.execute(
            "select count(outbox.append_many('stock-' || i, array_fill('stock.counted'::text, '{100}'), array_fill('{\"n\": 1}'::jsonb,"
            " '{100}'))) from generate_series(1, %s) i", [EVENTS // 100],
        )
    outbox = pg_outbox.Outbox(DSN)
    while (found := outbox.stats()).routed < found.feed_end:
        time.sleep(0.01)
    engine = ProjectionEngine(store, outbox)
    seen = 0

    with ConnectionPool(DSN, min_size=1) as pool:

        @engine.projection("counted", begin=pool.connection, categories=["stock"], batch=1000)
        def counted(conn, page):
            nonlocal seen
            seen += len(page)

        started = time.perf_counter()
        engine.drain("counted")
        say(case="projection", per_second=seen / (time.perf_counter() - started))
    assert seen == EVENTS, seen
    data = json.dumps({"name": "Ada Lovelace", "email": "ada@example.com", "address": {"street": "Main 1", "city": "Bern"}, "total": 42})
    key, paths = os.urandom(32), ["name", "email", "address.street"]
    started = time.perf_counter()
    for _ in range(CALLS * 10):
        core.encrypt_fields(key, "customer-7", "customer.named", data, paths, os.urandom(36))
    say(case="encrypt", us=(time.perf_counter() - started) / (CALLS * 10) * 1e6)


blocking()
asyncio.run(asynchronous())
workers()
application()
latency()
events()
imports()
