"""The plugin of pytest, run as an application runs it: a session with a throwaway server, and one with a server that is given."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from urllib.parse import urlsplit

import pytest
from pg_outbox._throwaway import TEST_DSN, TestServer
from test_client import until

ROOT = pathlib.Path(__file__).resolve().parents[3]
TESTS = """
import datetime as dt
import json
import os
import pathlib

import psycopg
import pytest
from pg_outbox.events import Aggregate, EventStore, NewEvent, Saga, on, on_timeout

seen = []


class Order(Aggregate):
    def pay(self):
        self.record(NewEvent("paid", {}))


class Shipping(Saga):
    starts_with = ("placed",)

    @on("placed")
    def placed(self, data):
        self.timeout("late", after=dt.timedelta(days=1))

    @on_timeout("late")
    def late(self):
        self.fail("late")


def test_a_database(outbox_dsn, outbox):
    seen.append(outbox_dsn)
    outbox.subscribe("jobs", ["job.*"])
    with psycopg.connect(outbox_dsn) as conn:
        assert conn.execute("select outbox.version()").fetchone()[0]
    pathlib.Path("dsn").write_text(outbox_dsn)


def test_another_database(outbox_dsn):
    assert outbox_dsn not in seen
    with psycopg.connect(outbox_dsn) as conn, pytest.raises(psycopg.OperationalError):
        psycopg.connect(seen[0])


def test_fixed(outbox_dsn, fixed_clock, fixed_ids):
    store = EventStore()
    with psycopg.connect(outbox_dsn) as conn:
        store.append(conn, "a-1", [NewEvent("a"), NewEvent("a")])
        fixed_clock.advance(dt.timedelta(days=2))
        store.append(conn, "a-1", [NewEvent("a")])
        events = store.load(conn, "a-1")
    assert [event.event_id.int for event in events] == [1, 2, 3]
    assert [event.occurred_at.day for event in events] == [1, 1, 3]


async def test_fixed_in_asyncio(outbox_dsn, fixed_clock, fixed_ids):
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as conn:
        await EventStore().append(conn, "a-1", [NewEvent("a")])
        (event,) = await EventStore().load(conn, "a-1")
    assert event.event_id.int == 1 and event.occurred_at.year == 2026


def test_given(given, given_saga, fixed_clock):
    given(Order).when(lambda order: order.pay()).then(NewEvent("paid", {}))
    fixed_clock.advance(dt.timedelta(days=1))
    given_saga(Shipping).when(NewEvent("placed", {})).then_timeout("late", dt.datetime(2026, 1, 3, tzinfo=dt.timezone.utc))


def test_not_fixed_any_more():
    assert NewEvent("a").event_id.int > 2**64
"""


@pytest.fixture
def environment(monkeypatch):
    # The PostgreSQL that scripts/setup has downloaded.
    monkeypatch.setenv("PG_CONFIG", os.environ.get("PG_CONFIG", str(ROOT / f".cache/pg{os.environ.get('PG', '18')}/bin/pg_config")))
    monkeypatch.delenv(TEST_DSN, raising=False)


def session(folder, *options):
    (folder / "test_inner.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", *options, "test_inner.py"]
    out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert "6 passed" in out.stdout, out.stdout + out.stderr
    return urlsplit((folder / "dsn").read_text()).port


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def folders():
    return set(pathlib.Path(tempfile.gettempdir()).glob("pg-outbox-test-*"))


def test_a_session_with_a_throwaway_server(tmp_path, environment):
    before = folders()
    port = session(tmp_path)
    assert not listens(port)
    until("the folder is gone", lambda: folders() <= before)


def test_a_session_with_a_server_that_is_given(tmp_path, environment, server):
    assert session(tmp_path, f"--outbox-dsn={server.base}") == urlsplit(server.base).port and listens(urlsplit(server.base).port)


def test_a_server_ends_with_the_process_that_has_started_it(environment):
    before = folders()
    code = "from pg_outbox._throwaway import TestServer; import time; print(TestServer.start().dsn, flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    port = urlsplit(process.stdout.readline().strip()).port
    assert listens(port)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    until("the server has ended", lambda: not listens(port))
    until("the folder is gone", lambda: folders() <= before)


def test_a_server_that_cannot_start_says_why(environment, monkeypatch):
    with pytest.raises(RuntimeError, match="nonsense"):
        TestServer.start({"nonsense": "1"})
    monkeypatch.setenv("PG_CONFIG", "/no/pg_config")
    with pytest.raises(RuntimeError, match=TEST_DSN):
        TestServer.start()
    with pytest.raises(ValueError):
        TestServer("postgresql://h/postgres").drop("postgresql://h/postgres")


def test_the_plugin_loads_nothing_until_it_is_asked(tmp_path):
    code = "import sys, json, pg_outbox.pytest_plugin; print(json.dumps([m for m in sys.modules if m.startswith('pg_outbox')]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert not [name for name in loaded if "events" in name or "_throwaway" in name], loaded
