"""Subscriptions and projections of events: no gap, every effect once, none passed over, whatever fails."""

import asyncio
import io
import itertools
import json
import logging
import pathlib
import signal
import subprocess
import sys
import threading
import time

import asyncpg
import pg_outbox
import psycopg
import pytest
import sqlalchemy as sa
from pg_outbox.events import (
    EventRegistry,
    EventStore,
    FieldEncryption,
    KeyRevokedError,
    LocalKeys,
    MessagePack,
    NewEvent,
    ProgressBar,
    ProjectionEngine,
    ProjectionError,
    RebuildProgress,
    SchemaError,
    progress_line,
)
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from test_client import until

store = EventStore()


@pytest.fixture
def table(dsn):
    with psycopg.connect(dsn) as conn:
        conn.execute("create table effect (n serial, i int)")
    return dsn


def append(dsn, numbers, stream="n-1", type="n.added", store=store):
    with psycopg.connect(dsn) as conn:
        store.append(conn, stream, [NewEvent(type, i) for i in numbers])


def rows(dsn):
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute("select i from effect order by n")]


def insert(conn, events):
    for event in events:
        conn.execute("insert into effect (i) values (%s)", [event.data])


def engine(dsn, **options):
    return ProjectionEngine(store, pg_outbox.Outbox(dsn), poll_interval=0.02, **options)


class Running:
    """An engine in a thread of its own."""

    def __init__(self, made):
        self.engine = made
        self.error = None

    def _run(self):
        try:
            self.engine.run()
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the test
            self.error = error

    def __enter__(self):
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        until("the engine runs", lambda: self.engine._stopping is not None or self.error)
        return self.engine

    def __exit__(self, *error):
        self.engine.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self.error is not None and error[0] is None:
            raise self.error


# Subscriptions


def test_a_subscription_catches_up_and_then_follows(dsn):
    append(dsn, range(600))
    append(dsn, [7], "other-1")
    outbox = pg_outbox.Outbox(dsn)
    events = store.subscribe_all(outbox, categories=["n"], poll_interval=0.01)
    assert [next(events).data for _ in range(600)] == list(range(600))
    writer = threading.Thread(target=lambda: [append(dsn, [i]) for i in range(600, 640)])
    writer.start()
    assert [next(events).data for _ in range(40)] == list(range(600, 640))
    writer.join()
    position = events.position
    append(dsn, [-1])
    assert next(store.subscribe_all(outbox, position, types=["n.*"])).data == -1
    threading.Timer(0.2, events.close).start()
    assert [event.data for event in events] == [-1]


async def test_async_subscriptions(dsn):
    append(dsn, [1, 2, 3])
    append(dsn, [4], "n-2")
    append(dsn, [5], "n-1", "n.other")
    async with pg_outbox.AsyncOutbox(dsn) as outbox:
        async def first(events, count):
            found = []
            async for event in events:
                found.append(event.data)
                if len(found) == count:
                    events.close()
            return found

        assert await first(store.subscribe_all(outbox, buffer=2), 5) == [1, 2, 3, 4, 5]
        assert await first(store.subscribe_stream(outbox, "n-1", buffer=2), 4) == [1, 2, 3, 5]
        assert await first(store.subscribe_stream(outbox, "n-1", 3), 1) == [5]
        assert await first(store.subscribe_category(outbox, "n", types=["n.other"]), 1) == [5]
        last = await store.subscribe_all(outbox, 3).__anext__()
        assert last.data == 4 and last.position == 4 and last.stream == "n-2"
        with pytest.raises(pg_outbox.InvalidError):
            store.subscribe_all(outbox, buffer=0)


def test_an_event_that_cannot_be_decoded_is_not_passed_over(dsn):
    types = EventRegistry()
    types.register("n.added", int)
    strict = EventStore(types)
    append(dsn, [1, "x", 3])
    events = strict.subscribe_all(pg_outbox.Outbox(dsn))
    assert next(events).data == 1
    for _ in range(2):
        with pytest.raises(SchemaError):
            next(events)
    assert events.position == 1


def test_passing_errors_are_tried_again(server, dsn, caplog):
    append(dsn, [1])
    outbox = pg_outbox.Outbox(dsn)
    events = store.subscribe_all(outbox, retries=50, retry_interval=0.05, poll_interval=0.01)
    assert next(events).data == 1
    name = dsn.rsplit("/", 1)[1]
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as conn:
        conn.execute(f"alter database {name} allow_connections false")
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        threading.Timer(1.0, lambda: psycopg.connect(server.dsn("postgres"), autocommit=True).execute(f"alter database {name} allow_connections true")).start()
        threading.Timer(2.0, lambda: append(dsn, [2])).start()
        assert next(events).data == 2


# Projections


def test_a_projection_applies_each_event_once(table):
    append(table, range(250))
    append(table, [999], "n-1", "other")
    made = engine(table)
    made.register("totals", insert, lambda: psycopg.connect(table), types=["n.added"])
    assert made.status("totals").state == "stopped"
    with Running(made):
        append(table, range(250, 300))
        until("all are applied", lambda: len(rows(table)) == 300)
        before = made.status("totals").position
        append(table, [1000], "n-1", "other")
        until("it passes over other types", lambda: made.status("totals").position > before and made.status("totals").lag == 0)
        status = made.status("totals")
        assert (status.state, status.processed, status.error) == ("running", 300, None) and status.latency > 0 and status.position >= 301
    assert rows(table) == list(range(300)) and made.status("totals").state == "stopped"
    again = engine(table)
    again.register("totals", insert, lambda: psycopg.connect(table), types=["n.added"])
    assert again.drain("totals") == 0


@pytest.mark.parametrize("driver", ["psycopg", "sqlalchemy", "asyncpg", "async psycopg", "async sqlalchemy"])
def test_every_driver(table, driver):
    append(table, range(5))
    statement = sa.text("insert into effect (i) values (:i)")
    url = table.replace("postgresql://", "postgresql+psycopg://")
    made = engine(table)

    def plain(session, events):
        for event in events:
            session.execute(statement, {"i": event.data})

    async def by_asyncpg(conn, events):
        for event in events:
            await conn.execute("insert into effect (i) values ($1)", event.data)

    async def by_psycopg(conn, events):
        for event in events:
            await conn.execute("insert into effect (i) values (%s)", [event.data])

    async def by_session(session, events):
        for event in events:
            await session.execute(statement, {"i": event.data})

    async def connect():
        return await asyncpg.connect(table)

    class Begin:
        async def __aenter__(self):
            self.conn = await asyncpg.connect(table)
            return self.conn

        async def __aexit__(self, *error):
            await self.conn.close()

    handler, begin = {
        "psycopg": (insert, lambda: psycopg.connect(table)), "sqlalchemy": (plain, sessionmaker(sa.create_engine(url)).begin),
        "asyncpg": (by_asyncpg, Begin), "async psycopg": (by_psycopg, lambda: psycopg.AsyncConnection.connect(table)),
        "async sqlalchemy": (by_session, lambda: async_sessionmaker(create_async_engine(url)).begin()),
    }[driver]
    made.register("totals", handler, begin)
    assert made.drain("totals") == 5 and rows(table) == list(range(5))


def test_a_poison_event_is_recorded_and_not_passed_over(table, caplog):
    append(table, range(5))
    made, healed = engine(table), threading.Event()

    @made.projection("totals", begin=lambda: psycopg.connect(table))
    def totals(conn, events):
        insert(conn, events)
        if any(event.data == 3 for event in events) and not healed.is_set():
            raise ValueError("cannot apply three")

    with Running(made), caplog.at_level(logging.ERROR):
        until("it stands", lambda: made.status("totals").state == "faulted")
        status = made.status("totals")
        assert rows(table) == [0, 1, 2] and "cannot apply three" in status.error and status.error_position == 4 and status.position == 3
        with psycopg.connect(table) as conn:
            assert conn.execute("select count(*) from outbox.cursor_list('projection totals') where last_error is not null").fetchone() == (1,)
        healed.set()
        until("it goes on", lambda: rows(table) == [0, 1, 2, 3, 4])
        until("the error is gone", lambda: made.status("totals").state == "running")
    failing = engine(table)
    failing.register("bad", lambda conn, events: 1 / 0, lambda: psycopg.connect(table))
    with pytest.raises(ZeroDivisionError):
        failing.drain("bad")


def test_an_event_that_cannot_be_decoded_stops_a_projection(table):
    types = EventRegistry()
    types.register("n.added", int)
    append(table, [1, "x"])
    made = ProjectionEngine(EventStore(types), pg_outbox.Outbox(table), poll_interval=0.02)
    made.register("totals", insert, lambda: psycopg.connect(table))
    with Running(made):
        until("it stands", lambda: made.status("totals").state == "faulted")
        assert rows(table) == [1] and "malformed data" in made.status("totals").error


def test_pause_resume_and_registration_while_it_runs(table):
    made = engine(table)
    made.register("a", insert, lambda: psycopg.connect(table))
    with pytest.raises(ProjectionError):
        made.register("a", insert, lambda: psycopg.connect(table))
    with Running(made):
        append(table, [1])
        until("it is applied", lambda: rows(table) == [1])
        made.pause("a")
        until("it is paused", lambda: made.status("a").state == "paused")
        time.sleep(0.1)
        append(table, [2])
        time.sleep(0.2)
        assert rows(table) == [1]
        made.resume("a")
        until("it goes on", lambda: rows(table) == [1, 2])
        made.unregister("a")
        with pytest.raises(ProjectionError):
            made.status("a")
        with pytest.raises(ProjectionError, match="runs already"):
            asyncio.run(made.arun())


def test_inline_and_live_projections(table):
    made, seen = ProjectionEngine(EventStore(), pg_outbox.Outbox(table), poll_interval=0.02), []

    @made.inline("inline", types=["n.*"])
    def inline(conn, events):
        insert(conn, events)

    @made.live("live", types=["n.added"])
    def live(event):
        seen.append(event.data)
        if event.data == 11:
            raise ValueError

    append(table, [1])
    # A live projection begins at the end of the feed, which this event is not in before a tick.
    with psycopg.connect(table, autocommit=True) as conn:
        conn.execute("select outbox.tick()")
    with Running(made):
        until("it follows", lambda: made.status("live").state == "running" and made._lives["live"].events is not None)
        append(table, [10, 11, 12], store=made._store)
        assert rows(table) == [10, 11, 12], "in the transaction"
        until("it has seen them", lambda: seen == [10, 11, 12])
    assert made.status("inline").kind == "inline"
    made.unregister("inline")
    append(table, [13], store=made._store)
    assert rows(table) == [10, 11, 12]


def test_content_that_is_erased_while_a_page_waits_is_not_applied(table):
    append(table, range(4))
    made, seen = engine(table), []

    def slow(conn, events):
        seen.extend(event.data for event in events)
        if len(seen) == 1:
            ahead, _ = made._found("slow").reader._cursor._ahead
            until("the next page is read", ahead.done)
            with psycopg.connect(table, autocommit=True) as other:
                other.execute("select outbox.erase(message_id, reason => 'asked for') from outbox.load('n-1', 2, 1)")
            time.sleep(1.0)

    made.register("slow", slow, lambda: psycopg.connect(table), batch=1)
    assert made.drain("slow") == 4 and seen == [0, None, 2, 3]


def test_two_engines_share_a_projection(table):
    append(table, range(200))
    made = [engine(table), engine(table)]
    for one in made:
        one.register("totals", insert, lambda: psycopg.connect(table), batch=7)
    with Running(made[0]), Running(made[1]):
        for start in range(200, 400, 10):
            append(table, range(start, start + 10))
        until("all are applied", lambda: len(rows(table)) >= 400)
    assert rows(table) == list(range(400)) and sum(one.status("totals").processed for one in made) >= 400


PROGRAM = """
import sys, time, psycopg, pg_outbox
from pg_outbox.events import EventStore, ProjectionEngine
dsn = sys.argv[1]
engine = ProjectionEngine(EventStore(), pg_outbox.Outbox(dsn), poll_interval=0.02)
@engine.projection("totals", begin=lambda: psycopg.connect(dsn), batch=5)
def totals(conn, events):
    for event in events:
        conn.execute("insert into effect (i) values (%s)", [event.data])
        time.sleep(0.002)
print("begun", flush=True)
engine.run()
print("ended", flush=True)
"""


def test_processes_that_are_killed_lose_and_repeat_nothing(table):
    append(table, range(300))
    processes = [subprocess.Popen([sys.executable, "-c", PROGRAM, table], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "begun\n"
    until("it has begun", lambda: len(rows(table)) > 20)
    processes[0].kill()
    until("all are applied", lambda: len(rows(table)) >= 300)
    processes[1].send_signal(signal.SIGTERM)
    assert processes[1].communicate(timeout=60)[0] == "ended\n" and processes[1].returncode == 0
    processes[0].wait(60)
    assert rows(table) == list(range(300))


def test_a_rebuild_applies_all_again(table):
    append(table, range(500))
    made, progress = engine(table), []

    @made.projection("totals", begin=lambda: psycopg.connect(table))
    def totals(conn, events):
        insert(conn, events)
        time.sleep(0.25)

    made.drain("totals")
    with psycopg.connect(table) as conn:
        conn.execute("insert into effect (i) values (-1)")
    applied = made.rebuild("totals", clear=lambda conn: conn.execute("truncate effect"), progress=progress.append)
    assert applied == 500 and rows(table) == list(range(500))
    last = progress[-1]
    assert len(progress) >= 2 and last.done == last.total == 500 and last.remaining == 0 and last.rate > 0
    with psycopg.connect(table) as conn:
        assert conn.execute("select count(*) from outbox.audit where action = 'cursor_reset'").fetchone()[0] == 1
    assert made.rebuild("totals", clear=lambda conn: conn.execute("truncate effect"), from_position=490) == 10


def test_several_are_rebuilt_at_the_same_time(table):
    append(table, range(3))
    made = engine(table)
    with psycopg.connect(table) as conn:
        conn.execute("create table many (name text, i int)")
    # Each of two waits for the other one.
    meeting = threading.Barrier(2, timeout=60)
    inside, most, lock, met = 0, 0, threading.Lock(), set()

    def handler(name):
        def handle(conn, events):
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            # A handler that has failed is called again, alone.
            if name not in met:
                met.add(name)
                meeting.wait()
                # Long enough for a third one, if it did not wait.
                time.sleep(0.5)
            with lock:
                inside -= 1
            if name == "c":
                raise LookupError("c is broken")
            for event in events:
                conn.execute("insert into many values (%s, %s)", [name, event.data])

        return handle

    for name in "abcd":
        made.register(name, handler(name), lambda: psycopg.connect(table))
    clear = {name: lambda conn, name=name: conn.execute("delete from many where name = %s", [name]) for name in "abcd"}
    reported = []
    with pytest.raises(LookupError, match="c is broken"):
        made.rebuild_all(clear, concurrency=2, progress=lambda one: reported.append(one.projection))
    with psycopg.connect(table) as conn:
        assert conn.execute("select name, count(*) from many group by name order by name").fetchall() == [("a", 3), ("b", 3), ("d", 3)]
    assert most == 2 and {"a", "b", "d"} <= set(reported)
    with pytest.raises(ProjectionError):
        made.rebuild_all({"a": clear["a"], "nope": clear["a"]})
    with pytest.raises(ValueError):
        made.rebuild_all({}, concurrency=0)
    assert made.rebuild_all({name: clear[name] for name in "ab"}, concurrency=1) == {"a": 3, "b": 3}


def test_progress_is_bars_on_a_terminal_and_lines_elsewhere(monkeypatch):
    cases = json.loads((pathlib.Path(__file__).resolve().parents[3] / "tests/conformance/toolkit/progress.json").read_text())
    for one in cases:
        progress = RebuildProgress(one["projection"], one["done"], one["total"], one["rate"], one["seconds_left"])
        assert progress_line(progress, width=one["width"]) == one["bar"]
        assert progress_line(progress, bar=False, width=one["width"]) == one["plain"]

    def shown(is_terminal):
        stream = io.StringIO()
        stream.isatty = lambda: is_terminal
        bar = ProgressBar(stream)
        for name, done in (("a", 1), ("bb", 1), ("a", 2)):
            bar(RebuildProgress(name, done, 2, 1.0, 2.0 - done))
        return stream.getvalue()

    assert shown(False).splitlines() == ["a   50 %  1 of 2  1/s  1 s left", "bb   50 %  1 of 2  1/s  1 s left", "a  100 %  2 of 2  1/s  done"]
    monkeypatch.setenv("COLUMNS", "31")

    def line(name, percent, rest, filled):
        return "\r\x1b[2K" + f"{name}  [{'#' * filled}{'.' * (20 - filled)}]  {percent} %  {rest}"[:30] + "\n"

    def half(name):
        return line(name, " 50", "1 of 2", 10)

    assert shown(True) == f"{half('a')}\x1b[1A{half('a ')}{half('bb')}\x1b[2A{line('a ', '100', '2 of 2', 20)}{half('bb')}"


def test_encrypted_events_in_projections(table):
    keys = FieldEncryption(
        LocalKeys({"m": b"1" * 32}), {"p": ["name"]}, master_key="m", per="subject", subject=lambda e: e.data["id"], cache_seconds=0,
    )
    secret, seen = EventStore(encryption=keys), []
    with psycopg.connect(table) as conn:
        secret.append(conn, "p-1", [NewEvent("p", {"id": "a", "name": "Ada"}), NewEvent("p", {"id": "b", "name": "Bob"})])
        conn.execute("select outbox.revoke_subject_keys('b', reason => 'x')")
    made = ProjectionEngine(secret, pg_outbox.Outbox(table))
    made.register("names", lambda conn, events: seen.extend((event.data["name"], event.redacted) for event in events), lambda: psycopg.connect(table))
    made.drain("names")
    assert seen == [("Ada", False), (None, True)]
    events = secret.subscribe_all(pg_outbox.Outbox(table))
    assert [(event.data["name"], event.redacted) for event in itertools.islice(events, 2)] == [("Ada", False), (None, True)]
    assert issubclass(KeyRevokedError, pg_outbox.OutboxError)


def test_bytes_in_subscriptions_and_projections(table):
    pytest.importorskip("msgpack")
    packed, seen = EventStore(serializer=MessagePack()), []
    append(table, [{"a": [1, "ä"]}], store=packed)
    append(table, [None])
    with psycopg.connect(table) as conn:
        conn.execute(r"select outbox.append_bytes('n-2', '{other}', array['\x00ff'::bytea])")
        conn.execute("select outbox.erase(outbox.enqueue('x', '1'), reason => 'x')")
    events = packed.subscribe_all(pg_outbox.Outbox(table))
    assert [next(events).data for _ in range(3)] == [{"a": [1, "ä"]}, None, b"\x00\xff"]
    made = ProjectionEngine(packed, pg_outbox.Outbox(table))
    made.register("all", lambda conn, events: seen.extend(event.data for event in events), lambda: psycopg.connect(table))
    assert made.drain("all") == 3 and seen == [{"a": [1, "ä"]}, None, b"\x00\xff"]


def test_more_blocking_projections_than_asyncio_has_threads(table):
    made = engine(table)
    for i in range(12):
        made.register(f"p{i}", insert, lambda: psycopg.connect(table))
    append(table, [1])
    with Running(made):
        until("all have applied it", lambda: rows(table) == [1] * 12)


def test_an_engine_that_is_stopped_at_once_ends(table):
    for _ in range(5):
        made = engine(table)
        made.register("p", insert, lambda: psycopg.connect(table))
        made.live("live")(lambda event: None)
        with Running(made):
            pass


def test_connections_that_are_killed_lose_and_repeat_nothing(table):
    made, ended = engine(table), threading.Event()
    made.register("totals", insert, lambda: psycopg.connect(table), batch=5)

    def kill():
        while not ended.wait(0.15):
            with psycopg.connect(table, autocommit=True) as conn:
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                    " and pid <> pg_backend_pid() and backend_type = 'client backend' and application_name <> 'writer'"
                )

    killer = threading.Thread(target=kill)
    with Running(made):
        killer.start()
        with psycopg.connect(table, application_name="writer") as conn:
            for start in range(0, 300, 10):
                store.append(conn, "n-1", [NewEvent("n.added", i) for i in range(start, start + 10)])
                conn.commit()
                time.sleep(0.05)
        ended.set()
        killer.join()
        until("all are applied", lambda: len(rows(table)) >= 300)
    assert rows(table) == list(range(300))


def test_nothing_ends_a_live_projection_but_stop(server, table, caplog):
    types = EventRegistry()
    types.register("n.added", int)
    made, seen = ProjectionEngine(EventStore(types), pg_outbox.Outbox(table), poll_interval=0.02), []
    held, go = threading.Event(), threading.Event()

    @made.live("live")
    def live(event):
        seen.append(event.data)
        if event.data == 1:
            held.set()
            assert go.wait(60)
        if event.data == 2:
            raise ValueError("cannot show two")

    made.register("other", lambda conn, events: seen.extend(f"p{event.data}" for event in events), lambda: psycopg.connect(table), types=["m"])
    name = table.rsplit("/", 1)[1]
    with Running(made):
        until("it follows", lambda: made._lives["live"].events is not None)
        append(table, [1, "secret", 2, 3])
        assert held.wait(60)
        append(table, [7], "m-1", "m")
        until("the event loop goes on while a blocking handler waits", lambda: "p7" in seen)
        go.set()
        until("it has seen them", lambda: seen[-1] == 7)
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as conn:
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and backend_type = 'client backend'", [name])
        append(table, [5])
        until("it has connected again", lambda: 5 in seen)
    assert [one for one in seen if one != "p7"] == [1, 2, 3, 7, 5] and "secret" not in caplog.text and "cannot show two" in caplog.text
    with Running(made):
        until("it follows again", lambda: made.status("live").state == "running" and made._lives["live"].events is not None)
        append(table, [6])
        until("it has seen it", lambda: 6 in seen)


def test_a_projection_of_the_same_name_replaces_one_that_runs(table):
    made = engine(table)
    with Running(made):
        made.register("a", insert, lambda: psycopg.connect(table))
        append(table, [1])
        until("it is applied", lambda: rows(table) == [1])
        made.unregister("a")
        made.register("a", lambda conn, events: [conn.execute("insert into effect (i) values (100)") for _ in events], lambda: psycopg.connect(table))
        append(table, [2])
        until("the new one applies it", lambda: 100 in rows(table))
        until("it runs", lambda: made.status("a").state == "running")


def test_an_engine_runs_again_in_another_event_loop(table):
    made = engine(table)
    made.register("a", insert, lambda: psycopg.connect(table))
    for i in range(2):
        with Running(made):
            made.pause("a")
            until("it is paused", lambda: made.status("a").state == "paused")
            append(table, [i])
            time.sleep(0.1)
            made.resume("a")
            until("it goes on", lambda: rows(table) == list(range(i + 1)))


def test_a_conflict_in_a_handler_is_no_poison(table, caplog):
    made, calls, errors = engine(table), [], []

    def totals(conn, events):
        calls.append(1)
        if len(calls) < 4:
            with psycopg.connect(table) as look:
                errors.append(look.execute("select count(*) from outbox.cursor_list('projection totals') where last_error is not null").fetchone()[0])
            store.append(conn, "other-1", [NewEvent("x")], 7)
        insert(conn, events)

    made.register("totals", totals, lambda: psycopg.connect(table), types=["n.added"])
    append(table, [1])
    assert made.drain("totals") == 1 and rows(table) == [1] and errors == [0, 0, 0]


def test_errors_of_drivers_are_recorded_without_values(table, caplog):
    with psycopg.connect(table) as conn:
        conn.execute("create table one (mail text primary key)")
    made = engine(table)
    made.register("totals", lambda conn, events: [conn.execute("insert into one values ('ada@example.org')") for _ in range(2)], lambda: psycopg.connect(table))
    append(table, [1])
    with pytest.raises(psycopg.errors.UniqueViolation):
        made.drain("totals")
    error = made.status("totals").error
    assert "UniqueViolation 23505" in error and "test_events_projections.py" in error and "ada@example.org" not in error + caplog.text


def test_a_rebuild_that_is_stopped_ends_with_an_error(table):
    append(table, range(20))
    made = engine(table)

    def totals(conn, events):
        insert(conn, events)
        made._projections["totals"].stop()

    made.register("totals", totals, lambda: psycopg.connect(table), batch=5)
    with pytest.raises(ProjectionError, match="stopped"):
        made.rebuild("totals", clear=lambda conn: conn.execute("truncate effect"))
    failing = engine(table)
    failing.register("totals", lambda conn, events: 1 / 0, lambda: psycopg.connect(table))
    with pytest.raises(ZeroDivisionError):
        failing.rebuild("totals", clear=lambda conn: conn.execute("truncate effect"))


def test_json_null_is_not_erased(table):
    seen = []
    append(table, [None, 5])
    with psycopg.connect(table) as conn:
        id = conn.execute("select message_id from outbox.load('n-1') where version = 2").fetchone()[0]
        conn.execute("select outbox.erase(%s, reason => 'x')", [id])
        assert [(event.data, event.redacted) for event in store.load(conn, "n-1")] == [(None, False), (None, True)]
    made = engine(table)
    made.register("a", lambda conn, events: seen.extend((event.data, event.redacted) for event in events), lambda: psycopg.connect(table))
    made.drain("a")
    assert seen == [(None, False), (None, True)]
    outbox = pg_outbox.Outbox(table)
    for events in (store.subscribe_all(outbox), store.subscribe_category(outbox, "n", buffer=1), store.subscribe_stream(outbox, "n-1")):
        assert [(event.data, event.redacted) for _, event in zip(range(2), events, strict=False)] == [(None, False), (None, True)]


def test_the_repr_of_an_event_has_no_data(table):
    append(table, ["secret"])
    with psycopg.connect(table) as conn:
        assert "secret" not in repr(store.load(conn, "n-1"))


async def test_an_application_shows_its_engines(table):
    app = pg_outbox.App(table)
    made = ProjectionEngine(store, app, poll_interval=0.02)
    made.register("a", insert_async, lambda: psycopg.AsyncConnection.connect(table))
    app.include(made)
    running = asyncio.create_task(app.arun())
    append(table, [1, 2])
    for _ in range(600):
        await asyncio.sleep(0.05)
        if rows(table) == [1, 2] and app._health.answer("/health")[0] == 200:
            break
    assert 'outbox_projection_messages_total{consumer="ProjectionEngine 1"} 2' in app._health.answer("/metrics")[2]
    app.stop()
    await asyncio.wait_for(running, 60)


async def insert_async(conn, events):
    for event in events:
        await conn.execute("insert into effect (i) values (%s)", [event.data])
