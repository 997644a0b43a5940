"""The worker application: handlers by topic, payloads, exceptions, middleware, periodic messages, and its command."""

import asyncio
import dataclasses
import datetime as dt
import inspect
import json
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pg_outbox
import psycopg
import pydantic
import pytest
from pg_outbox import _health, _payload, _periodic
from pg_outbox._routes import Route, Routes
from test_client import send, until


class Order(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")


@dataclasses.dataclass
class Paid:
    order: int
    at: dt.date


def column(dsn, sql):
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute(sql)]


def running(app, **options):
    """Runs an application in a thread. Returns what stops it and gives its counts."""
    reports = []
    thread = threading.Thread(target=lambda: reports.append(app.run(**options)))
    thread.start()

    def stop():
        app.stop()
        thread.join(60)
        assert not thread.is_alive()
        return reports[0]

    return stop


def test_handlers_by_topic_get_typed_payloads(dsn):
    app = pg_outbox.App(dsn)
    orders = app.subscription("orders", max_attempts=3)
    seen = []

    @orders.on("order.created")
    async def created(order: Order, delivery: pg_outbox.Delivery) -> None:
        seen.append((order, delivery.attempt))

    @orders.on("order.paid")
    def paid(event: Paid) -> str:
        seen.append((event, threading.current_thread() is threading.main_thread()))
        return "receipt-1"

    @orders.on("order.#")
    def other(payload, delivery):
        seen.append((payload, delivery.topic))

    @orders.on("file.uploaded")
    def uploaded(content: bytes) -> None:
        seen.append(content)

    with psycopg.connect(dsn) as conn:
        pg_outbox.enqueue(conn, "order.created", Order(orderId=5))
        pg_outbox.enqueue(conn, "order.paid", Paid(6, dt.date(2026, 1, 2)))
        pg_outbox.enqueue(conn, "order.item.added", {"n": 7})
        pg_outbox.enqueue(conn, "file.uploaded", b"\x00\xff")
        pg_outbox.enqueue(conn, "no.topic.of.this", {})
    # The subscription is created here, and begins at the first stored message.
    assert app.drain("orders")["completed"] == 4
    assert (Order(orderId=5), 1) in seen and (Paid(6, dt.date(2026, 1, 2)), False) in seen
    assert ({"n": 7}, "order.item.added") in seen and b"\x00\xff" in seen


def test_drain_raises_what_a_handler_raises_and_swallow_counts_it(dsn):
    app = pg_outbox.App(dsn)
    orders = app.subscription("orders")

    class Broken(Exception):
        pass

    @orders.on("order.created", dead_on=Broken)
    async def created(payload):
        raise Broken("this one")

    send(dsn, "order.created", [1])
    with pytest.raises(Broken, match="this one"):
        app.drain("orders")
    assert column(dsn, "select last_error from outbox.dead_letter") == ["Broken: this one"]
    send(dsn, "order.created", [2])
    assert app.drain("orders", swallow=True)["dead"] == 1


async def test_adrain_runs_in_the_loop_of_the_test(dsn):
    app = pg_outbox.App(dsn)
    seen = []

    @app.subscription("orders").on("order.created")
    async def created(payload):
        seen.append((payload, asyncio.get_running_loop()))

    send(dsn, "order.created", [1])
    assert (await app.adrain("orders"))["completed"] == 1
    assert seen == [(1, asyncio.get_running_loop())]


def test_the_class_of_an_exception_decides(dsn, caplog):
    app = pg_outbox.App(dsn)
    reported = []
    app.on_error(lambda delivery, error: reported.append((delivery.key, type(error))))
    jobs = app.subscription("jobs", max_attempts=5)

    @jobs.on("job.run", retry_on=(TimeoutError, ConnectionError), dead_on=ConnectionRefusedError, retry_after=3600)
    def run(payload, delivery):
        raise {"timeout": TimeoutError, "refused": ConnectionRefusedError, "bug": ZeroDivisionError}[delivery.key](delivery.key)

    @jobs.on("job.typed")
    def typed(order: Order) -> None:
        raise AssertionError("it is not called")

    send(dsn, "job.run", [1, 2, 3], keys=["timeout", "refused", "bug"])
    send(dsn, "job.typed", [{"orderId": "secret-text"}], keys=["typed"])
    assert app.drain("jobs", swallow=True)["dead"] == 3
    errors = {row.key: row.last_error for row in pg_outbox.Outbox(dsn).dead_letter_status()}
    assert errors["refused"] == "ConnectionRefusedError: refused" and errors["bug"] == "ZeroDivisionError: bug"
    assert errors["typed"].startswith("invalid payload: orderId: ") and "secret-text" not in errors["typed"]
    assert "dead: invalid payload" in caplog.text and "secret-text" not in caplog.text
    assert column(dsn, "select last_error from outbox.delivery") == ["TimeoutError: timeout"]
    assert sorted(reported) == [("bug", ZeroDivisionError), ("refused", ConnectionRefusedError), ("timeout", TimeoutError)] or len(reported) == 3


def test_middleware_hooks_and_the_order_of_them(dsn):
    app = pg_outbox.App(dsn)
    told = []
    app.on_startup(lambda: told.append("startup"))

    @app.on_shutdown
    async def shutdown():
        told.append("shutdown")

    @app.middleware
    async def outer(delivery, call_next):
        told.append("outer")
        result = await call_next(delivery)
        told.append(result)
        return result

    @app.middleware
    async def inner(delivery, call_next):
        told.append("inner")
        return await call_next(delivery)

    @app.subscription("jobs").on("job.run")
    def run(payload):
        told.append("handler")
        return "done"

    with pytest.raises(TypeError, match="coroutine function"):
        app.middleware(lambda delivery, call_next: None)
    send(dsn, "job.run", [1])
    stop = running(app)
    until("it is handled", lambda: "done" in told)
    report = stop()
    assert report["jobs"]["completed"] == 1
    assert told == ["startup", "outer", "inner", "handler", "done", "shutdown"]


def test_the_types_of_payloads_are_prepared_before_the_first_delivery(dsn):
    """The first type of a process imports pydantic, for which the event loop would stand still."""

    class Unreadable:
        @classmethod
        def __get_pydantic_core_schema__(cls, source, handler):
            raise RuntimeError("this type has no schema")

    app = pg_outbox.App(dsn)
    jobs = app.subscription("jobs", max_attempts=1)

    @jobs.on("job.made")
    def made(job: dict[str, dt.date]) -> None: ...

    @jobs.on("job.odd")
    def odd(job: Unreadable) -> None: ...

    prepared = []
    _payload._known.cache_clear()

    @app.on_startup
    def begin():
        prepared.append(_payload._known.cache_info().currsize)

    stop = running(app)
    until("the application has begun", lambda: prepared == [1])
    send(dsn, "job.odd", [{}])
    send(dsn, "job.made", [{"day": "2026-01-02"}])
    until("both have ended", lambda: sum(app._health.outcomes.values()) == 2)
    report = stop()["jobs"]
    assert (report["completed"], report["failed"]) == (1, 1), "a type that cannot be read is an error of its deliveries"


def test_a_handler_has_a_concurrency_of_its_own(dsn):
    app = pg_outbox.App(dsn)
    jobs = app.subscription("jobs", concurrency=8)
    most, now, done = [0], [0], []

    @jobs.on("job.run", concurrency=2)
    async def run(payload):
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(0.02)
        now[0] -= 1
        done.append(payload)

    send(dsn, "job.run", list(range(20)))
    stop = running(app)
    until("all are handled", lambda: len(done) == 20)
    stop()
    assert most[0] == 2


def test_subscriptions_are_created_and_altered(dsn):
    def make(**settings):
        app = pg_outbox.App(dsn)
        app.subscription("jobs", **settings).on("job.run")(lambda payload: None)
        return app

    asyncio.run(make(max_attempts=3).ensure_subscriptions())
    asyncio.run(make(max_attempts=4, ordering="key").ensure_subscriptions())
    asyncio.run(make(max_attempts=4, ordering="key").ensure_subscriptions())
    (row,) = pg_outbox.Outbox(dsn).subscriptions()
    assert (row.max_attempts, row.ordering, row.notify) == (4, "key", True)
    with pytest.raises(pg_outbox.InvalidError, match="no handler"):
        app = pg_outbox.App(dsn)
        app.subscription("empty")
        app.drain("empty")
    with pytest.raises(pg_outbox.InvalidError, match="no subscription"):
        make().drain("other")


def test_a_subscription_takes_what_ensure_subscription_takes(dsn):
    of_endpoints = {"endpoint", "policy", "format", "batch_size", "batch_wait"}
    settings = inspect.signature(pg_outbox.Outbox.ensure_subscription).parameters
    taken = inspect.signature(pg_outbox.App.subscription).parameters
    assert set(settings) - of_endpoints <= set(taken)
    app = pg_outbox.App(dsn)
    audited = app.subscription(
        "audited", ["order.#"], source="all", transform="public.shorter(outbox.feed_message)", labels={"team": "billing"}, external_id="b-1",
        max_lag=dt.timedelta(hours=1),
    )
    audited.on("order.#")(lambda payload: None)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create function shorter(m outbox.feed_message) returns jsonb language sql immutable as $$ select jsonb_build_object('n', 1) $$")
    assert app.drain("audited")["completed"] == 0
    (made,) = column(dsn, "select to_jsonb(s) from outbox.subscription s where name = 'audited'")
    assert (made["labels"], made["external_id"], made["max_lag"]) == ({"team": "billing"}, "b-1", "01:00:00")
    assert made["transform"] == "public.shorter(outbox.feed_message)"
    assert column(dsn, "select v.source from outbox.subscription_version v join outbox.subscription s on s.id = v.subscription_id") == ["all"]


def test_mistakes_are_found_when_the_application_is_written(monkeypatch):
    app = pg_outbox.App()
    orders = app.subscription("orders")
    with pytest.raises(ValueError, match="already"):
        app.subscription("orders")
    orders.on("a")(lambda payload: None)
    with pytest.raises(ValueError, match="has a handler already"):
        orders.on("a")(lambda payload: None)
    with pytest.raises(TypeError, match="at most once"):
        orders.on("b")(lambda one, two: None)
    with pytest.raises(TypeError, match="needs a topic"):
        orders.on()
    with pytest.raises(pg_outbox.InvalidError, match="malformed topic pattern"):
        orders.on("order.creat*")(lambda payload: None)
    with pytest.raises(pg_outbox.InvalidError, match="cron"):
        app.periodic("every day", topic="t")(lambda: {"a": 1})
    with pytest.raises(pg_outbox.InvalidError, match="time zone"):
        app.periodic("@daily", topic="t", time_zone="Mars")(lambda: {"a": 1})
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(pg_outbox.InvalidError, match="DATABASE_URL"):
        app.run()


def test_an_application_with_nothing_to_do_is_refused(dsn):
    with pytest.raises(pg_outbox.InvalidError, match="neither subscriptions nor projections nor periodic messages") as caught:
        pg_outbox.App(dsn).run()
    assert caught.value.code == "22023"


def routed(*patterns):
    routes = Routes()
    for pattern in patterns:
        routes.add(Route((pattern,), lambda payload: None, None, None, (), None))
    return routes


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [("a.b", "a.b", True), ("a.*", "a.b", True), ("a.*", "a.b.c", False), ("a.#", "a", True), ("a.#", "a.b.c", True), ("#.c", "a.b.c", True),
     ("*", "a.b", False), ("#", "a.b", True)],
)
def test_patterns_match_as_those_of_subscriptions(dsn, pattern, topic, expected):
    assert (routed(pattern).find(topic) is not None) is expected
    with psycopg.connect(dsn) as conn:
        pg_outbox.enqueue(conn, topic, 1)
    pg_outbox.Outbox(dsn).call("subscribe", {"name": "s", "topics": [pattern], "start": "earliest"})
    found = pg_outbox.Outbox(dsn).drain("s", lambda delivery: None)["completed"]
    assert found == int(expected)


def test_the_most_exact_handler_takes_a_topic_and_reserved_topics_are_no_part_of_a_wildcard():
    routes = routed("#", "a.*", "a.b")
    assert [routes.find(topic).topics for topic in ("a.b", "a.c", "b")] == [("a.b",), ("#",), ("#",)]
    assert routes.find("outbox.control") is None and routed("outbox.#").find("outbox.control") is not None
    # Each further wildcard doubled the time of a matcher that tries every split.
    assert routed(".".join(["#", "a"] * 20 + ["b"])).find(".".join(["a"] * 100)) is None


PERIODIC = """
import sys, pg_outbox
app = pg_outbox.App(sys.argv[1])
@app.periodic("* * * * *", topic="tick.minute")
def tick(at):
    return {"minute": at.minute}
@app.periodic("0 0 1 1 *", topic="tick.yearly")
def never():
    raise AssertionError("it is not the time")
app.on_startup(lambda: print("begun", flush=True))
app.run()
"""


def test_a_tick_makes_one_message_however_many_processes_run(dsn):
    processes = [
        subprocess.Popen([sys.executable, "-c", PERIODIC, dsn], stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE) for _ in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "begun\n"
        query = "select count(*), count(distinct idempotency_key) from outbox.message where topic ~ 'tick'"

        def counts():
            with psycopg.connect(dsn) as conn:
                return conn.execute(query).fetchone()

        # The last full minute was missed, so all processes enqueue it at once.
        until("the tick is enqueued", lambda: counts()[0] >= 1)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        ends = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in ends] == [0, 0, 0], ends
    messages, ticks = counts()
    assert messages == ticks <= 2


async def test_a_long_sleep_of_the_machine_misses_ticks_but_those_of_the_last_ten_minutes(dsn, monkeypatch, caplog):
    stored = "select count(*) from outbox.message where topic = 'tick'"
    clock = [1_800_000_059.0]
    monkeypatch.setattr(_periodic, "_seconds", lambda: clock[0])
    ticks = []

    def make(at):
        ticks.append(at.timestamp())
        if len(ticks) == 1:
            clock[0] += 7 * 86400
        return {"n": len(ticks)}

    async with pg_outbox.AsyncOutbox(dsn) as outbox:
        running = asyncio.ensure_future(_periodic.Periodic("* * * * *", "tick", make, "tick", None, {}).run(outbox))
        while ticks[-1:] != [clock[0] // 60 * 60]:
            await asyncio.sleep(0.01)
            assert len(ticks) < 20 and not running.done()
        # The message of a tick is stored after its payload was made.
        await asyncio.to_thread(until, "the last tick is stored", lambda: column(dsn, stored) == [len(ticks)])
        running.cancel()
    assert ticks[0] == 1_800_000_000 and ticks[1] >= clock[0] - _periodic.CATCH_UP and len(ticks) == 11
    assert "are missed" in caplog.text and column(dsn, stored) == [11]


def write_app(folder, body):
    (folder / "app.py").write_text("import asyncio, os, sys, time, pg_outbox\napp = pg_outbox.App(pool_size=2)\n" + body)


def command(folder, dsn, *more, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "pg_outbox", "worker", "app:app", *more], cwd=folder, env={**os.environ, "DATABASE_URL": dsn, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )


SLOW = """
jobs = app.subscription("jobs")
@jobs.on("job.run")
{kind} run(payload):
    print("begun", payload, flush=True)
    {sleep}(1.5)
    print("done", payload, flush=True)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.parametrize(("kind", "sleep"), [("async def", "await asyncio.sleep"), ("def", "time.sleep")])
def test_a_signal_ends_the_command_gracefully(dsn, tmp_path, kind, sleep, number, code):
    write_app(tmp_path, SLOW.format(kind=kind, sleep=sleep))
    send(dsn, "job.run", list(range(6)))
    process = command(tmp_path, dsn, "--concurrency", "2")
    assert process.stdout.readline().startswith("begun")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out.count("done") in (1, 2) and "Traceback" not in err
    left = column(dsn, "select count(*) from outbox.delivery where state = 'processing' or attempt > 0")
    assert left == [0], "what had begun is completed, and the rest has used no attempt"


def test_the_command_has_a_health_port(dsn, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    write_app(tmp_path, 'app.subscription("jobs").on("job.run")(lambda payload: None)\n')
    process = command(tmp_path, dsn, "--health", f"127.0.0.1:{port}")

    def get(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return None, ""

    try:
        until("it is healthy", lambda: get("/health")[0] == 200)
        assert json.loads(get("/health")[1]) == {"state": "ok", "workers": {"jobs": "connected"}}
        send(dsn, "job.run", [1, 2])
        line = 'outbox_worker_deliveries_total{subscription="jobs",outcome="completed"} 2'
        until("both are counted", lambda: line in get("/metrics")[1])
        assert get("/other")[0] == 404
        with socket.create_connection(("127.0.0.1", port)) as conn:
            conn.sendall(b"x" * 100_000)
        assert get("/health")[0] == 200, "a malformed request does no harm"
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_projection_whose_effect_fails_makes_the_application_unhealthy(dsn):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    app, broken = pg_outbox.App(dsn), [True]

    @app.projection('all"of', ["order.paid"], begin=lambda: psycopg.AsyncConnection.connect(dsn))
    async def project(conn: psycopg.AsyncConnection, messages: list[pg_outbox.Message]) -> None:
        for message in messages:
            if message.json() == 2 and broken:
                raise RuntimeError("this effect fails")

    def get(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return None, ""

    stop = running(app, health=f"127.0.0.1:{port}")
    try:
        until("it is healthy", lambda: get("/health")[0] == 200)
        send(dsn, "order.paid", [1, 2, 3])
        until("the effect fails", lambda: get("/health")[0] == 503)
        outbox = pg_outbox.Outbox(dsn)
        until("the error is recorded", lambda: outbox.cursor_get('all"of').error_position is not None)
        position = outbox.cursor_get('all"of').error_position
        shown = {"state": "failing", "failing_position": position}
        assert json.loads(get("/health")[1]) == {"state": "failing", "workers": {}, "projections": {'all"of': shown}}
        assert 'outbox_projection_failing{consumer="all\\"of"} 1\n' in get("/metrics")[1]
        broken.clear()
        until("it is healthy again", lambda: get("/health")[0] == 200)
        until("all are applied", lambda: outbox.cursor_get('all"of').lag_positions == 0)
        assert 'outbox_projection_failing{consumer="all\\"of"} 0\n' in get("/metrics")[1]
        until("all are counted", lambda: 'outbox_projection_messages_total{consumer="all\\"of"} 3\n' in get("/metrics")[1])
    finally:
        stop()


def test_a_projection_without_a_server_is_not_healthy(server):
    health = _health.Health()
    source = pg_outbox.AsyncOutbox(server.dsn("postgres")).reader("c")._source
    health.projections["c"] = None
    assert json.loads(health.answer("/health")[2])["projections"]["c"]["state"] == "starting"
    health.projections["c"] = source
    assert health.answer("/health")[0] == 503
    assert json.loads(health.answer("/health")[2])["projections"]["c"]["state"] == "disconnected"
    assert 'outbox_projection_connected{consumer="c"} 0\n' in health.answer("/metrics")[2]


def test_the_command_says_what_is_wrong(dsn, tmp_path):
    write_app(tmp_path, 'other = 1\napp.subscription("jobs").on("job.run")(print)\n')

    def failed(*arguments, env=None):
        done = subprocess.run(
            [sys.executable, "-m", "pg_outbox", "worker", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**{k: v for k, v in os.environ.items() if k != "DATABASE_URL"}, **(env or {})}, timeout=120,
        )
        assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert 'there is no module "nothing"' in failed("nothing:app")
    assert '"other" of module "app" is no App' in failed("app:other")
    assert "DATABASE_URL is not set" in failed("app:app")
    assert "no subscription" in failed("app:app", "--subscription", "x", env={"DATABASE_URL": dsn})
    assert "from 1 to 10000" in failed("app:app", "--concurrency", "0")
    assert "malformed address" in failed("app:app", "--health", "here", env={"DATABASE_URL": dsn})


def test_reload_begins_again_when_a_file_changes(dsn, tmp_path):
    pytest.importorskip("watchfiles")
    write_app(tmp_path, 'print("one", flush=True)\napp.subscription("jobs").on("job.run")(lambda payload: None)\n')
    process = command(tmp_path, dsn, "--reload")
    lines = []
    thread = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))
    thread.start()
    try:
        until("it runs", lambda: "one\n" in lines)
        write_app(tmp_path, 'print("two", flush=True)\napp.subscription("jobs").on("job.run")(lambda payload: None)\n')
        until("it runs again", lambda: "two\n" in lines)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        thread.join(60)
        process.stdout.close()
        process.stderr.close()


def test_the_trace_of_the_producer_is_continued(dsn):
    trace = pytest.importorskip("opentelemetry.trace")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    app = pg_outbox.App(dsn)
    seen = []

    @app.subscription("jobs").on("job.run")
    async def run(payload, delivery):
        seen.append((trace.get_current_span().get_span_context().trace_id, delivery.metadata))
        raise ValueError("broken")

    with trace.get_tracer("test").start_as_current_span("request") as request:
        send(dsn, "job.run", [1])
        with psycopg.connect(dsn) as conn:
            pg_outbox.enqueue(conn, "job.other", 1, metadata={"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"})
    app.drain("jobs", swallow=True)
    ((found, metadata),) = seen
    assert found == request.get_span_context().trace_id and metadata["traceparent"].split("-")[1] == f"{found:032x}"
    (span,) = [s for s in exporter.get_finished_spans() if s.name == "process job.run"]
    assert span.parent.span_id == request.get_span_context().span_id and span.status.status_code.name == "ERROR"
    # A trace that the caller names stays.
    assert column(dsn, "select metadata->>'traceparent' from outbox.message where topic = 'job.other'")[0].startswith("00-1111")


def test_the_application_waits_for_a_server_that_is_away(server):
    dsn = server.database()
    app = pg_outbox.App(dsn)
    done = []
    app.subscription("jobs").on("job.run")(done.append)
    send(dsn, "job.run", [1])
    stop = running(app)
    until("it has begun", lambda: done == [1])
    assert server.command("restart fast") == "ok"
    send(dsn, "job.run", [2])
    until("it goes on", lambda: done == [1, 2])
    stop()


def test_failures_are_logged_with_their_traceback(dsn, caplog):
    app = pg_outbox.App(dsn)

    @app.subscription("jobs", max_attempts=1).on("job.run")
    async def run(payload):
        raise ZeroDivisionError("a bug in the handler")

    send(dsn, "job.run", [{"secret": "payload-text"}])
    with caplog.at_level(logging.INFO, "pg_outbox"):
        app.drain("jobs", swallow=True)
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert record.name == "pg_outbox.worker" and "a bug in the handler" in caplog.text and "test_app.py" in caplog.text
    assert "payload-text" not in caplog.text
    assert any('worker of "jobs" has a session' in r.getMessage() for r in caplog.records)


EXAMPLE = pathlib.Path(__file__).resolve().parents[3] / "examples/python-fastapi"


def test_the_example_works_and_ends_gracefully(dsn, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "DATABASE_URL": dsn, "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}

    def begin(*arguments):
        log = (tmp_path / f"{arguments[0].split('.')[0]}.log").open("a")
        return subprocess.Popen([sys.executable, "-m", *arguments], cwd=EXAMPLE, env=environment, stdout=log, stderr=log)

    def request(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=30) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, None
        except OSError:
            return None, None

    subprocess.run([sys.executable, "app.py"], cwd=EXAMPLE, env=environment, check=True)
    service, worker = begin("uvicorn", "app:api", "--port", str(port)), begin("pg_outbox", "worker", "app:worker")
    try:
        until("the service answers", lambda: request("/totals/nobody") == (200, {"orders": 0, "amount": 0}))
        assert request("/orders", {"customer": "ann", "amount": 5}) == (201, {"id": 1})
        assert request("/orders", {"customer": "blocked", "amount": 5})[0] == 422
        assert request("/orders", {"customer": "ann", "amount": 20_000})[0] == 201
        assert request("/hooks", {"forged": True})[0] == 401
        until("the projection has both", lambda: request("/totals/ann") == (200, {"orders": 2, "amount": 20_005}))
        dead = "select last_error from outbox.dead_letter"
        until("the large one is dead", lambda: column(dsn, dead) == ["NotBillable: the amount is above the limit"])
        for n in range(20):
            assert request("/orders", {"customer": f"c{n}", "amount": 1})[0] == 201
        until("the worker is in the middle", lambda: column(dsn, "select count(*) from outbox.delivery where state = 'processing'")[0] > 0)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        unfinished = "select count(*) from outbox.delivery where state = 'processing' or attempt > 0"
        assert column(dsn, unfinished) == [0], "nothing is left leased, and no attempt is lost"
        worker = begin("pg_outbox", "worker", "app:worker")
        until("all are billed", lambda: column(dsn, "select count(*) from orders where billed")[0] == 21)
        assert column(dsn, "select count(*) from orders") == [22]
        until("the projection has all", lambda: column(dsn, "select sum(orders) from totals") == [22])
    finally:
        for process in (service, worker):
            process.terminate()
            process.wait(60)
