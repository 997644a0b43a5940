"""Admin, workers, readers, verification, against a real server."""

import asyncio
import collections
import signal
import subprocess
import sys
import threading
import time

import pg_outbox
import psycopg
import pytest
from pg_outbox.testing import Receiver


def send(dsn, topic, payloads, keys=None):
    with psycopg.connect(dsn) as conn:
        return pg_outbox.enqueue_many(conn, topic, payloads, keys=keys)


def until(what, check, timeout=60):
    end = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.02)


def test_admin_is_typed(dsn):
    with pg_outbox.Outbox(dsn) as outbox:
        made = outbox.create_endpoint("shop", "https://shop.example.com/hook", timeout=__import__("datetime").timedelta(seconds=7))
        assert made.signing_secret.startswith("whsec_")
        outbox.subscribe("orders", ["order.#"], endpoint="shop")
        (endpoint,) = outbox.endpoints({"name": "shop"})
        assert endpoint.timeout.total_seconds() == 7 and endpoint.created_at.tzinfo is not None
        assert outbox.stats().messages >= 2
        with pytest.raises(pg_outbox.NotFoundError) as caught:
            outbox.history(424242)
        assert (caught.value.code, caught.value.name, caught.value.kind) == ("OB001", "not_found", "not_found")
        assert isinstance(caught.value, pg_outbox.OutboxError)
        with pytest.raises(pg_outbox.InvalidError) as caught:
            outbox.call("subscrible", {"name": "x"})
        assert "outbox.subscrible()" in caught.value.message and "subscribe" in caught.value.hint
        with pytest.raises(pg_outbox.InvalidError) as caught:
            outbox.call("subscribe", {"name": "x", "topic": ["a"]})
        assert 'no argument "topic"' in caught.value.message and "topics" in caught.value.hint
        with pytest.raises(pg_outbox.InvalidError) as caught:
            outbox.endpoints({"nmae": "shop"})
        assert 'no column "nmae"' in caught.value.message and "name" in caught.value.hint
    with pytest.raises(pg_outbox.RetryError):
        pg_outbox.Outbox("postgresql://u@127.0.0.1:1/d").check()
    with pytest.raises(pg_outbox.InvalidError):
        pg_outbox.Outbox("postgresql://h/d?sslmode=maybe")


def test_lengths_of_time_may_be_huge_but_not_negative_and_not_nan(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"])
    for huge in (1e9, 1e308, float("inf")):
        send(dsn, "job", [1])
        outbox._settle()
        worker = outbox.worker("w", poll_interval=huge, grace=huge)
        assert worker.run(lambda delivery: worker.stop())["completed"] == 1
        assert next(outbox.reader(topics=["job"], poll_interval=huge)).payload == 1
    with pytest.raises(pg_outbox.InvalidError, match="lease"):
        outbox.worker("w", lease=1e308).run(lambda delivery: None)
    for wrong in (-1.0, -1e308, float("-inf"), float("nan")):
        for name in ("lease", "poll_interval", "grace"):
            with pytest.raises(pg_outbox.InvalidError, match=name):
                outbox.worker("w", **{name: wrong})
        with pytest.raises(pg_outbox.InvalidError, match="poll_interval"):
            outbox.reader(poll_interval=wrong).next_now()
        with pytest.raises(pg_outbox.InvalidError, match="tolerance"):
            pg_outbox.verify("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", {}, b"", tolerance=wrong)


async def test_admin_async(dsn):
    async with pg_outbox.AsyncOutbox(dsn) as outbox:
        await outbox.subscribe("w", ["#"])
        assert [s.name for s in await outbox.subscriptions()] == ["w"]
        with pytest.raises(pg_outbox.ConflictError):
            await outbox.subscribe("w", ["#"])


def test_worker_in_threads(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job.#"], max_attempts=3)
    send(dsn, "job.run", list(range(20)))
    tries = collections.Counter()
    lock = threading.Lock()

    def handle(delivery):
        n = delivery.payload
        with lock:
            tries[n] += 1
        if n == 0 and delivery.attempt == 1:
            raise pg_outbox.Retry("later", after=0)
        if n == 1:
            raise pg_outbox.Dead("never")
        if n == 2:
            raise ValueError("broken")
        return {"id": n}

    events = []
    worker = outbox.worker("w", concurrency=4, poll_interval=0.02, on_event=lambda *event: events.append(event))
    reports = []
    thread = threading.Thread(target=lambda: reports.append(worker.run(handle)))
    thread.start()
    until("21 tries", lambda: sum(tries.values()) == 21)
    worker.stop()
    thread.join(60)
    assert reports[0]["completed"] == 18 and reports[0]["failed"] == 2 and reports[0]["dead"] == 1
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select last_error from outbox.delivery").fetchall() == [("ValueError: broken",)]
        assert conn.execute("select last_error from outbox.dead_letter").fetchall() == [("never",)]
    assert ("connected", "") in events


def test_a_worker_that_goes_on_completes_and_claims_in_one_call(dsn):
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"alter database {conn.info.dbname} set track_functions = 'all'")
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job.#"])
    send(dsn, "job.run", list(range(20)))
    worker = outbox.worker("w", concurrency=1, poll_interval=0.02)
    handled = []

    def handle(delivery):
        handled.append(delivery.payload)
        if len(handled) == 20:
            worker.stop()

    report = worker.run(handle)
    assert report["completed"] == 20 and sorted(handled) == list(range(20))

    def calls(function):
        with psycopg.connect(dsn) as conn:
            sql = "select coalesce(sum(calls), 0) from pg_stat_user_functions where funcname = %s"
            return conn.execute(sql, [function]).fetchone()[0]

    # All leases but the last one, after which the worker stops, are completed with a claim.
    until("they are completed with a claim", lambda: calls("complete_and_claim") >= 19)


async def test_worker_in_tasks_and_cancellation(dsn):
    outbox = pg_outbox.AsyncOutbox(dsn)
    await outbox.subscribe("w", ["job.#"])
    send(dsn, "job.run", list(range(10)))
    done = []

    async def handle(delivery):
        await asyncio.sleep(0.01)
        done.append(delivery.payload)

    worker = outbox.worker("w", concurrency=4, poll_interval=0.02)
    running = asyncio.create_task(worker.arun(handle))
    while len(done) < 10:
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(done) == list(range(10))
    stats = await outbox.stats()
    assert stats.waiting == 0


async def test_lost_lease_cancels_the_task(dsn):
    outbox = pg_outbox.AsyncOutbox(dsn)
    await outbox.subscribe("w", ["job"])
    send(dsn, "job", [1])
    seen = []

    async def handle(delivery):
        seen.append(delivery.attempt)
        if len(seen) == 1:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

    worker = outbox.worker("w", lease=1.0, poll_interval=0.02)
    running = asyncio.create_task(worker.arun(handle))
    while not seen:
        await asyncio.sleep(0.01)
    await outbox.unlock_stale(__import__("datetime").timedelta(0))
    while len(seen) < 3:
        await asyncio.sleep(0.01)
    worker.stop()
    report = await running
    assert "cancelled" in seen and report["completed"] == 1 and report["lost"] == 1


def test_ctrl_c_ends_gracefully(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"])
    send(dsn, "job", [1])
    program = (
        "import sys, time, pg_outbox\n"
        "def handle(d):\n    print('begun', flush=True); time.sleep(1); print('done', flush=True)\n"
        "try:\n    pg_outbox.Outbox(sys.argv[1]).worker('w', poll_interval=0.02).run(handle)\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, dsn], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert out.split() == ["done", "interrupted"]
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select count(*) from outbox.delivery").fetchone() == (0,)


def test_worker_through_restarts(server):
    dsn = server.database()
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"])
    handled = collections.Counter()
    lock = threading.Lock()

    def handle(delivery):
        with lock:
            handled[delivery.webhook_id] += 1
        time.sleep(0.005)

    worker = outbox.worker("w", concurrency=4, poll_interval=0.05, lease=3.0)
    reports = []
    thread = threading.Thread(target=lambda: reports.append(worker.run(handle)))
    thread.start()
    sent = 0
    for round in range(3):
        send(dsn, "job", list(range(100)))
        sent += 100
        until("some are handled", lambda: len(handled) > sent - 60)
        assert server.command("restart immediate" if round % 2 else "restart fast") == "ok"
    until("all are handled", lambda: len(handled) == sent)
    worker.stop()
    thread.join(60)
    assert reports[0]["disconnects"] >= 3
    assert len(handled) == sent


def test_reader_and_cursor(dsn):
    outbox = pg_outbox.Outbox(dsn)
    send(dsn, "a", [1, 2, 3])
    reader = outbox.reader("c", topics=["a"], poll_interval=0.02)
    for expected in (1, 2):
        message = next(reader)
        assert message.payload == expected
        reader.advance(message)
    again = outbox.reader("c", topics=["a"], poll_interval=0.02)
    assert next(again).payload == 3
    assert again.next_now() is None
    again.record_error("broken")
    cursor = outbox.cursor_get("c")
    assert cursor.last_error == "broken" and cursor.position == message.position


async def test_cancelling_a_read_frees_the_reader(dsn):
    reader = pg_outbox.AsyncOutbox(dsn).reader(topics=["a"], poll_interval=0.02)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(reader.__anext__(), 0.3)
    send(dsn, "a", [1])
    assert (await asyncio.wait_for(reader.__anext__(), 60)).payload == 1


def test_pushed_messages_arrive_and_verify(dsn):
    outbox = pg_outbox.Outbox(dsn)
    receiver = Receiver()
    secret = outbox.create_endpoint("here", receiver.url("/hook")).signing_secret
    receiver.verify_with(secret)
    outbox.subscribe("s", ["order.#"], endpoint="here")
    send(dsn, "order.created", [{"a": 1}])
    (arrival,) = receiver.wait_for(1)
    assert arrival.valid and arrival.body in (b'{"a": 1}', b'{"a":1}')
    verified = pg_outbox.verify(secret, arrival.headers, arrival.body)
    assert verified.id == arrival.headers["webhook-id"]
    with pytest.raises(pg_outbox.InvalidError) as caught:
        pg_outbox.verify(secret, arrival.headers, arrival.body + b" ")
    assert caught.value.name == "invalid_signature" and secret not in str(caught.value)


def test_readme_example_runs(dsn, capsys):
    import pathlib
    import re

    text = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    first = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    exec(compile(first, "README.md", "exec"), {"dsn": dsn})
    out = capsys.readouterr().out
    assert "order.paid {'order': 42} try 1" in out and "'completed': 1" in out


def test_the_application_of_the_readme_runs(dsn, capsys):
    import pathlib
    import re

    text = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    (program,) = re.findall(r"```python\n(# app.py\n.*?)```", text, re.DOTALL)
    names: dict = {"__name__": "app"}
    exec(compile(program.replace("App()", f"App({dsn!r})"), "README.md", "exec"), names)
    send(dsn, "order.created", [{"order": 42}])
    assert names["app"].drain("billing")["completed"] == 1
    assert capsys.readouterr().out == "order=42 try 1\n"


def test_none_in_a_filter_means_null(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("s", ["t"], max_attempts=1)
    with psycopg.connect(dsn) as conn:
        pg_outbox.enqueue(conn, "t", 1, tenant="acme")
        pg_outbox.enqueue(conn, "t", 2)
    outbox.drain("s", lambda delivery: 1 / 0, swallow=True)
    assert len(outbox.dead_letter_status()) == 2
    (one,) = outbox.dead_letter_status({"tenant": None})
    (other,) = outbox.dead_letter_status({"tenant": "acme", "resolved_at": None})
    assert one.message_id != other.message_id


async def test_drain_in_asyncio_takes_any_handler_and_raises_what_it_raises(dsn):
    outbox = pg_outbox.AsyncOutbox(dsn)
    await outbox.subscribe("s", ["t"])
    seen = []

    async def handle(delivery):
        seen.append(delivery.payload)
        if delivery.payload == "bad":
            raise ZeroDivisionError("a bug")

    send(dsn, "t", [1])
    assert (await outbox.drain("s", handle))["completed"] == 1
    send(dsn, "t", [2])
    assert (await outbox.drain("s", lambda delivery: seen.append(delivery.payload)))["completed"] == 1
    send(dsn, "t", ["bad"])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        await outbox.drain("s", handle)
    assert seen == [1, 2, "bad"]
    with pytest.raises(TypeError, match="coroutine function"):
        pg_outbox.Outbox(dsn).worker("s").run(handle)
    with pytest.raises(TypeError, match="coroutine function"):
        pg_outbox.Outbox(dsn).drain("s", handle)


class Unshowable(Exception):
    def __str__(self):
        raise RuntimeError("no")


def test_whatever_a_handler_returns_or_raises_its_delivery_ends(dsn):
    circle: list = []
    circle.append(circle)
    deep: list = []
    for _ in range(20_000):
        deep = [deep]

    def raises(error):
        raise error

    outcomes = {
        "ok": lambda: "ok",
        "bytes": lambda: b"\xff\x00",
        "nan": lambda: float("nan"),
        "infinity": lambda: {"a": [float("inf")]},
        "object": object,
        "circle": lambda: circle,
        "deep": lambda: deep,
        "huge": lambda: 10**5000,
        "unshowable": lambda: raises(Unshowable()),
        "after nan": lambda: raises(pg_outbox.Retry("words", float("nan"))),
        "after text": lambda: raises(pg_outbox.Retry("words", "soon")),
        "after much": lambda: raises(pg_outbox.Retry("words", 1e18)),
        "after object": lambda: raises(pg_outbox.Retry("words", object())),
    }
    with pg_outbox.Outbox(dsn) as outbox:
        outbox.subscribe("s", ["t.*"], max_attempts=1)
        with psycopg.connect(dsn, autocommit=True) as conn:
            for key in outcomes:
                pg_outbox.enqueue(conn, "t.x", None, key=key)
            report = outbox.drain("s", lambda delivery: outcomes[delivery.key](), swallow=True)
            assert (report["completed"], report["failed"]) == (2, len(outcomes) - 2)
            sql = (
                "select m.key, a.error from outbox.attempt_log a join outbox.message m on m.id = a.message_id"
                " where a.outcome = 'dead'"
            )
            errors = dict(conn.execute(sql).fetchall())
            assert conn.execute("select count(*) from outbox.lease").fetchone()[0] == 0
        for key in ("nan", "infinity", "object", "circle"):
            assert "cannot be JSON" in errors[key], errors[key]
        assert "cannot be shown" in errors["unshowable"]
        for key in ("after nan", "after text", "after much", "after object"):
            assert errors[key].startswith("words"), errors[key]
