"""The process of the program: import time, forks, signals of bare workers, and what is logged without being asked."""

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pg_outbox
import psycopg
import pytest
from test_client import send, until


def python(program, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=120, **options
    )


def test_a_program_that_only_enqueues_loads_no_native_module(dsn):
    program = (
        "import sys, pg_outbox, psycopg\n"
        "with psycopg.connect(sys.argv[1]) as conn:\n    pg_outbox.enqueue(conn, 'a', {'n': 1}, key='k')\n"
        "import json; print(json.dumps([n for n in sys.modules if n.startswith('pg_outbox')]))\n"
    )
    done = python(program, dsn)
    loaded = json.loads(done.stdout)
    assert not {"pg_outbox._core", "pg_outbox._client", "pg_outbox._app"} & set(loaded), done


def test_opentelemetry_is_loaded_by_the_program_or_not_at_all(dsn):
    pytest.importorskip("opentelemetry.trace")
    program = (
        "import sys, pg_outbox, psycopg\n"
        "app = pg_outbox.App(sys.argv[1])\n"
        "app.subscription('jobs').on('job')(lambda payload: None)\n"
        "with psycopg.connect(sys.argv[1]) as conn:\n    pg_outbox.enqueue(conn, 'job', 1)\n"
        "print(app.drain('jobs')['completed'], [name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    done = python(program, dsn)
    assert done.stdout == "1 []\n", done


def test_every_public_name_can_be_loaded():
    for name in pg_outbox.__all__:
        assert getattr(pg_outbox, name) is not None
    assert set(pg_outbox.__all__) <= set(dir(pg_outbox))
    with pytest.raises(AttributeError, match="nothing_of_this"):
        pg_outbox.nothing_of_this  # noqa: B018


def _in_child(outbox, reader, worker, queue):
    seen = []
    worker.run(lambda delivery: seen.append(delivery.payload))
    queue.put((os.getpid(), outbox.head(), next(reader).topic, seen))


def test_an_outbox_works_in_a_forked_child_and_in_its_parent(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"])
    send(dsn, "job", [7])
    # Everything is used before the fork, as with gunicorn --preload.
    reader = outbox.reader("c", topics=["job"], poll_interval=0.02)
    assert next(reader).payload == 7
    worker = outbox.worker("w", until_empty=True)
    outbox.drain("w", lambda delivery: None)
    send(dsn, "job", [8])
    outbox._settle()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_in_child, args=(outbox, reader, worker, queue)) for _ in range(2)]
    for child in children:
        child.start()
    found = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert {pid for pid, *_ in found} == {child.pid for child in children}
    assert all(head == outbox.head() and topic == "job" for _, head, topic, _ in found)
    assert sorted(item for *_, seen in found for item in seen) == [8]


def test_a_preloading_server_can_fork_workers_that_answer(dsn):
    """Forks as gunicorn --preload does: the application is imported once, and each child serves from it."""
    program = (
        "import os, sys, pg_outbox\n"
        "outbox = pg_outbox.Outbox(sys.argv[1])\n"
        "outbox.check()\n"
        "children = []\n"
        "for n in range(3):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        outbox.subscribe(f's{n}', ['a'])\n"
        "        print(n, outbox.head() >= 0, flush=True)\n"
        "        sys.exit(0)\n"
        "    children.append(pid)\n"
        "codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]\n"
        "print('parent', codes, len(outbox.subscriptions()))\n"
    )
    done = python(program, dsn)
    lines = sorted(done.stdout.splitlines())
    assert lines == ["0 True", "1 True", "2 True", "parent [0, 0, 0] 3"], done


@pytest.mark.parametrize("is_async", [False, True])
def test_sigterm_ends_a_bare_worker_gracefully(dsn, is_async):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"])
    send(dsn, "job", list(range(10)))
    program = (
        "import asyncio, sys, time, pg_outbox\n"
        # A line is one write, so that the lines of two threads do not mix.
        "def say(word): sys.stdout.write(word + '\\n'); sys.stdout.flush()\n"
        "def handle(d):\n    say('begun'); time.sleep(1); say('done')\n"
        "async def ahandle(d):\n    say('begun'); await asyncio.sleep(1); say('done')\n"
    )
    if is_async:
        program += "asyncio.run(pg_outbox.AsyncOutbox(sys.argv[1]).worker('w', concurrency=2, batch=10).arun(ahandle))\n"
    else:
        program += "pg_outbox.Outbox(sys.argv[1]).worker('w', concurrency=2, batch=10).run(handle)\n"
    process = subprocess.Popen([sys.executable, "-c", program + "print('ended')\n", dsn], stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline()]
    process.send_signal(signal.SIGTERM)
    lines += process.stdout.read().splitlines(keepends=True)
    assert process.wait(60) == 0
    assert lines.count("begun\n") == lines.count("done\n") and lines[-1] == "ended\n"
    with psycopg.connect(dsn) as conn:
        unfinished = "select count(*) from outbox.delivery where state = 'processing' or attempt > 0"
        assert conn.execute(unfinished).fetchone() == (0,), "a deployment costs no attempt and no lease"


def test_a_handler_of_the_program_for_sigterm_stays(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"])
    mine = lambda number, frame: None
    before = signal.signal(signal.SIGTERM, mine)
    try:
        outbox.worker("w", until_empty=True).run(lambda delivery: None)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    outbox.worker("w", until_empty=True).run(lambda delivery: None)
    assert signal.getsignal(signal.SIGTERM) is before, "the handler is removed with the last worker"


def test_without_any_setup_failures_are_on_stderr(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"], max_attempts=1)
    send(dsn, "job", [{"secret": "payload-text"}])
    program = (
        "import sys, pg_outbox\n"
        "def handle(delivery):\n    raise ZeroDivisionError('a bug in the handler')\n"
        "pg_outbox.Outbox(sys.argv[1]).drain('w', handle, swallow=True)\n"
    )
    done = python(program, dsn)
    assert "ZeroDivisionError: a bug in the handler" in done.stderr and "Traceback" in done.stderr, done
    assert 'of "job" to "w", attempt 1 of 1' in done.stderr and "payload-text" not in done.stderr


def test_a_lost_session_is_logged(server, caplog):
    dsn = server.database()
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"])
    worker = outbox.worker("w", poll_interval=0.05)
    thread = threading.Thread(target=lambda: worker.run(lambda delivery: None))
    with caplog.at_level(logging.INFO, "pg_outbox"):
        thread.start()
        said = lambda text: any(text in record.getMessage() for record in caplog.records)
        until("it is connected", lambda: said("has a session"))
        assert server.command("restart fast") == "ok"
        until("the loss is logged", lambda: said("lost its session"))
    worker.stop()
    thread.join(60)


CONFIGURATION = [
    "postgresql://u@127.0.0.1:1/d?sslmode=maybe",
    "postgresql://u@127.0.0.1:1/d?connect_timeout=soon",
    "host=127.0.0.1 port=many",
]


@pytest.mark.parametrize("dsn", CONFIGURATION)
def test_a_wrong_configuration_is_an_error_at_once(dsn):
    with pytest.raises(pg_outbox.InvalidError) as caught:
        pg_outbox.Outbox(dsn)
    assert caught.value.kind == "invalid"


def test_urls_of_sqlalchemy_are_understood(dsn):
    for driver in ("asyncpg", "psycopg", "psycopg2"):
        pg_outbox.Outbox(dsn.replace("postgresql://", f"postgresql+{driver}://")).check()
