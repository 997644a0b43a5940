"""The environment of a client: TLS, wrong servers, lost connections, malformed content, and effects that share a transaction
with the cursor."""

import asyncio
import signal
import subprocess
import sys
import threading

import asyncpg
import pg_outbox
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from test_client import send, until


def secure(dsn, port, host, **parameters):
    parts = sa.make_url(dsn).set(host=host, port=port, query=parameters)
    return parts.render_as_string(hide_password=False)


def test_certificates_are_verified(server, dsn, tmp_path):
    port = int(server.command(f"tls {tmp_path}"))
    mine, foreign = str(tmp_path / "ca.pem"), str(tmp_path / "other.pem")
    full = secure(dsn, port, "localhost", sslmode="verify-full", sslrootcert=mine)
    with pg_outbox.Outbox(full) as outbox, psycopg.connect(full) as conn:
        assert conn.pgconn.ssl_in_use
        outbox.subscribe("w", ["#"])
        pg_outbox.enqueue(conn, "a", 1)
        conn.commit()
        until("it is drained", lambda: outbox.drain("w", lambda delivery: None)["completed"] == 1)
    for host, mode, root in (
        ("localhost", "verify-full", foreign),
        ("127.0.0.1", "verify-full", mine),
        ("127.0.0.1", "verify-ca", foreign),
    ):
        with pytest.raises(pg_outbox.FatalError) as caught:
            pg_outbox.Outbox(secure(dsn, port, host, sslmode=mode, sslrootcert=root)).check()
        assert caught.value.name == "tls_refused"
    pg_outbox.Outbox(secure(dsn, port, "127.0.0.1", sslmode="verify-ca", sslrootcert=mine)).check()


def test_wrong_versions_and_missing_extensions(server, dsn):
    with pytest.raises(pg_outbox.FatalError) as caught:
        pg_outbox.Outbox(server.empty()).check()
    assert caught.value.name == "extension_missing" and "create extension" in caught.value.hint
    with pytest.raises(pg_outbox.FatalError) as caught:
        pg_outbox.Outbox(server.empty()).worker("w").run(lambda delivery: None)
    assert caught.value.name == "extension_missing"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("update pg_catalog.pg_extension set extversion = '1.0.0' where extname = 'pg_outbox'")
    with pytest.raises(pg_outbox.FatalError) as caught, pg_outbox.Outbox(dsn):
        pass
    assert caught.value.name == "version_mismatch" and "1.0.0" in caught.value.message


def test_without_privileges_a_worker_ends(dsn):
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create role worker_py login password 'x'")
    theirs = sa.make_url(dsn).set(username="worker_py", password="x").render_as_string(hide_password=False)
    with pytest.raises(pg_outbox.FatalError) as caught:
        pg_outbox.Outbox(theirs).worker("w").run(lambda delivery: None)
    assert caught.value.name == "insufficient_privilege" and "grant_to" in caught.value.hint
    with pytest.raises(pg_outbox.NotFoundError):
        pg_outbox.Outbox(dsn).worker("none").run(lambda delivery: None)


def test_a_connection_lost_in_a_transaction_loses_its_messages(dsn):
    with psycopg.connect(dsn) as conn:
        pg_outbox.enqueue(conn, "lost", 1)
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s)", [conn.info.backend_pid])
        with pytest.raises(pg_outbox.RetryError) as caught:
            pg_outbox.enqueue(conn, "lost", 2)
        # The server reports 57P01, and the driver may report 08006.
        assert caught.value.code in ("57P01", "08006")
        conn.close()
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select count(*) from outbox.message where topic = 'lost'").fetchone() == (0,)


async def test_a_connection_lost_under_asyncpg_is_a_retry(dsn):
    conn = await asyncpg.connect(dsn)
    await conn.execute("begin")
    await pg_outbox.enqueue(conn, "lost", 1)
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s)", [conn.get_server_pid()])
    with pytest.raises(pg_outbox.RetryError):
        await pg_outbox.enqueue(conn, "lost", 2)
    await conn.close()


def test_malformed_content_fails_its_own_delivery_only(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["#"], max_attempts=1)
    with psycopg.connect(dsn) as conn:
        pg_outbox.enqueue(conn, "bytes", b"\x00\xff\xfe")
        pg_outbox.enqueue(conn, "broken", '{"n": ', content_type="application/json")
        pg_outbox.enqueue(conn, "wrong", {"m": 1})
        pg_outbox.enqueue(conn, "right", {"n": 7})
    seen = []
    worker = outbox.worker("w", poll_interval=0.02)
    reports = []
    thread = threading.Thread(target=lambda: reports.append(worker.run(lambda delivery: seen.append(delivery.json()["n"]))))
    thread.start()
    with psycopg.connect(dsn, autocommit=True) as conn:
        dead = lambda: conn.execute("select count(*) from outbox.dead_letter").fetchone()[0]
        until("three are dead and one is done", lambda: dead() == 3 and len(seen) == 1)
        worker.stop()
        thread.join(60)
        errors = [row[0] for row in conn.execute("select last_error from outbox.dead_letter order by message_id")]
    assert seen == [7] and reports[0]["failed"] == 3 and reports[0]["completed"] == 1
    assert errors[0].startswith("InvalidError") and errors[1].startswith("InvalidError") and errors[2].startswith("KeyError")


def test_a_handlers_sysexit_and_unusual_results_are_no_success(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"], max_attempts=1)
    send(dsn, "job", ["exit", "strange"])

    def handle(delivery):
        if delivery.payload == "exit":
            raise SystemExit(3)
        return object()

    total = {"failed": 0, "completed": 0}

    def step():
        report = outbox.drain("w", handle, swallow=True)
        for name in total:
            total[name] += report[name]
        return total["failed"] == 2

    until("both have failed", step)
    assert total["completed"] == 0


def test_ctrl_c_acknowledges_only_what_was_handled(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"])
    send(dsn, "job", list(range(30)))
    program = (
        "import asyncio, sys, pg_outbox\n"
        "async def handle(d):\n"
        "    print('begun', d.payload, flush=True)\n"
        "    await asyncio.sleep(0.5)\n"
        "    print('done', d.payload, flush=True)\n"
        "async def main():\n"
        "    await pg_outbox.AsyncOutbox(sys.argv[1]).worker('w', concurrency=3, batch=20, poll_interval=0.02).arun(handle)\n"
        "try:\n    asyncio.run(main())\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, dsn], stdout=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    # communicate() would miss the lines that readline() has buffered.
    lines = (first + process.stdout.read()).splitlines()
    process.wait(timeout=60)
    done = {line.split()[1] for line in lines if line.startswith("done")}
    assert lines[-1] == "interrupted" and 1 <= len(done) < 30
    assert {line.split()[1] for line in lines if line.startswith("begun")} == done, "what was begun was finished"
    with psycopg.connect(dsn) as conn:
        left = {str(row[0]) for row in conn.execute(
            "select m.payload from outbox.delivery d join outbox.message m on m.id = d.message_id")}
        assert left == {str(n) for n in range(30)} - done
        assert conn.execute("select count(*) from outbox.delivery where state = 'processing' or attempt > 0").fetchone() == (0,)


def test_a_killed_worker_acknowledges_nothing(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"])
    send(dsn, "job", [1])
    program = (
        "import sys, time, pg_outbox\n"
        "def handle(d):\n    print('begun', flush=True); time.sleep(600)\n"
        "pg_outbox.Outbox(sys.argv[1]).worker('w', poll_interval=0.02, lease=1.0).run(handle)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, dsn], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.kill()
    process.communicate(timeout=60)
    attempts = []

    def handle(delivery):
        attempts.append(delivery.attempt)

    until("its lease has run out, and another one does it", lambda: outbox.drain("w", handle)["completed"] == 1)
    assert len(attempts) == 1 and attempts[0] >= 1


class Once:
    """Effects of a reader in the transaction of the caller. The test of each driver uses this class."""

    def __init__(self, dsn):
        self.dsn = dsn
        with psycopg.connect(dsn) as conn:
            conn.execute("create table effect (i int primary key)")
        send(dsn, "a", [1, 2, 3])

    def reader(self):
        return pg_outbox.Outbox(self.dsn).reader("c", topics=["a"], poll_interval=0.02)

    def areader(self):
        return pg_outbox.AsyncOutbox(self.dsn).reader("c", topics=["a"], poll_interval=0.02)

    def rows(self):
        with psycopg.connect(self.dsn) as conn:
            return [row[0] for row in conn.execute("select i from effect order by 1")]

    def position(self):
        return pg_outbox.Outbox(self.dsn).cursor_get("c", if_missing=0).position


def steps(once, begin, insert):
    """Runs the steps of each test. begin() returns a context manager of a transaction, and insert(conn, i) is the effect."""
    reader, late = once.reader(), once.reader()
    message, same = next(reader), next(late)
    with pytest.raises(ZeroDivisionError), begin() as conn:
        insert(conn, message.payload)
        reader.advance_in(conn, message)
        raise ZeroDivisionError
    assert once.rows() == [] and once.position() == 0, "both or none"
    with begin() as conn:
        insert(conn, message.payload)
        reader.advance_in(conn, message)
    reader.committed(message)
    # Another instance that has read the same message cannot repeat the effect.
    with pytest.raises(pg_outbox.ConflictError) as caught, begin() as conn:
        late.advance_in(conn, same)
    assert caught.value.code == "OB005"
    message = next(reader)
    with begin() as conn:
        insert(conn, message.payload)
        reader.advance_in(conn, message)
    reader.committed(message)
    assert once.rows() == [1, 2] and once.position() == message.position
    assert next(once.reader()).payload == 3


async def asteps(once, begin, insert):
    reader, late = once.areader(), once.areader()
    message, same = await reader.__anext__(), await late.__anext__()
    with pytest.raises(ZeroDivisionError):
        async with begin() as conn:
            await insert(conn, message.payload)
            await reader.advance_in(conn, message)
            raise ZeroDivisionError
    assert once.rows() == [] and once.position() == 0, "both or none"
    async with begin() as conn:
        await insert(conn, message.payload)
        await reader.advance_in(conn, message)
    await reader.committed(message)
    with pytest.raises(pg_outbox.ConflictError) as caught:
        async with begin() as conn:
            await late.advance_in(conn, same)
    assert caught.value.code == "OB005"
    message = await reader.__anext__()
    async with begin() as conn:
        await insert(conn, message.payload)
        await reader.advance_in(conn, message)
    await reader.committed(message)
    assert once.rows() == [1, 2] and once.position() == message.position


def test_effectively_once_psycopg(dsn):
    steps(Once(dsn), lambda: psycopg.connect(dsn), lambda conn, i: conn.execute("insert into effect values (%s)", [i]))


def test_effectively_once_sqlalchemy(dsn):
    engine = sa.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    statement = sa.text("insert into effect values (:i)")
    once = Once(dsn)
    steps(once, engine.begin, lambda conn, i: conn.execute(statement, {"i": i}))
    with Session(engine) as session, session.begin():
        reader = once.reader()
        session.execute(statement, {"i": 3})
        reader.advance_in(session, next(reader))
    engine.dispose()
    assert once.rows() == [1, 2, 3]


def test_effectively_once_django(dsn):
    from django.conf import settings
    from django.db import connections

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}})
    from django.db import transaction

    parts = sa.make_url(dsn)
    connections.databases["once"] = connections.configure_settings({"default": {}, "once": {
        "ENGINE": "django.db.backends.postgresql", "NAME": parts.database, "USER": parts.username, "PASSWORD": parts.password,
        "HOST": parts.host, "PORT": parts.port,
    }})["once"]

    class Begin:
        def __enter__(self):
            self.atomic = transaction.atomic(using="once")
            self.atomic.__enter__()
            return connections["once"]

        def __exit__(self, *error):
            return self.atomic.__exit__(*error)

    steps(Once(dsn), Begin, lambda conn, i: conn.cursor().execute("insert into effect values (%s)", [i]))
    connections["once"].close()


async def test_effectively_once_asyncpg(dsn):
    class Begin:
        async def __aenter__(self):
            self.conn = await asyncpg.connect(dsn)
            self.transaction = self.conn.transaction()
            await self.transaction.start()
            return self.conn

        async def __aexit__(self, kind, *_):
            await (self.transaction.commit() if kind is None else self.transaction.rollback())
            await self.conn.close()

    await asteps(Once(dsn), Begin, lambda conn, i: conn.execute("insert into effect values ($1)", i))


async def test_effectively_once_psycopg_async(dsn):
    class Begin:
        async def __aenter__(self):
            self.conn = await psycopg.AsyncConnection.connect(dsn)
            return self.conn

        async def __aexit__(self, kind, *_):
            await (self.conn.commit() if kind is None else self.conn.rollback())
            await self.conn.close()

    await asteps(Once(dsn), Begin, lambda conn, i: conn.execute("insert into effect values (%s)", [i]))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_effectively_once_sqlalchemy_async(dsn, driver):
    engine = create_async_engine(dsn.replace("postgresql://", f"postgresql+{driver}://"))
    statement = sa.text("insert into effect values (:i)")
    once = Once(dsn)
    await asteps(once, engine.begin, lambda conn, i: conn.execute(statement, {"i": i}))
    async with AsyncSession(engine) as session, session.begin():
        reader = once.areader()
        await session.execute(statement, {"i": 3})
        await reader.advance_in(session, await reader.__anext__())
    await engine.dispose()
    assert once.rows() == [1, 2, 3]


def test_a_worker_is_woken_where_the_subscription_notifies(dsn):
    outbox = pg_outbox.Outbox(dsn)
    outbox.subscribe("w", ["job"], notify=True)
    seen = []
    connected = threading.Event()
    # Without a notification the worker would not look for ten minutes.
    worker = outbox.worker("w", poll_interval=600.0, on_event=lambda *event: connected.set())
    thread = threading.Thread(target=lambda: worker.run(lambda delivery: seen.append(delivery.payload)))
    thread.start()
    assert connected.wait(60)
    # The look after the connection finds nothing and may overlap with the first message. Each later message has to wake
    # the worker.
    for n in range(3):
        send(dsn, "job", [n])
        until("it was woken", lambda n=n: len(seen) == n + 1)
    worker.stop()
    thread.join(60)


async def test_a_cancelled_handler_is_a_failure(dsn):
    outbox = pg_outbox.AsyncOutbox(dsn)
    await outbox.subscribe("w", ["job"], max_attempts=1)
    send(dsn, "job", [1])

    async def handle(delivery):
        asyncio.current_task().cancel()
        await asyncio.sleep(600)

    worker = outbox.worker("w", poll_interval=0.02)
    running = asyncio.create_task(worker.arun(handle))
    rows = []
    while not rows:
        await asyncio.sleep(0.02)
        with psycopg.connect(dsn) as conn:
            rows = conn.execute("select last_error from outbox.dead_letter").fetchall()
    worker.stop()
    report = await running
    assert rows == [("the handler was cancelled",)] and report["completed"] == 0
