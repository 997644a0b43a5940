"""Projections: every effect once, none passed over, and a failure that is seen."""

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
import threading

import asyncpg
import pg_outbox
import psycopg
import psycopg_pool
import pytest
import sqlalchemy as sa
import test_client
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from test_client import until


def send(dsn, topic, payloads):
    """Waits until the messages have positions. A reader with until_end that comes sooner may find none of them."""
    test_client.send(dsn, topic, payloads)
    numbered = "select (select count(*) from outbox.message) = (select count(*) from outbox.feed, unnest(message_ids))"
    with psycopg.connect(dsn, autocommit=True) as conn:
        until("the messages are numbered", lambda: conn.execute(numbered).fetchone()[0])


@pytest.fixture
def table(dsn):
    with psycopg.connect(dsn) as conn:
        conn.execute("create table effect (n serial, i int primary key)")
    return dsn


def rows(dsn):
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute("select i from effect order by n")]


def reader(dsn, **options):
    return pg_outbox.Outbox(dsn).reader("totals", topics=["a"], poll_interval=0.02, **options)


def areader(dsn, **options):
    return pg_outbox.AsyncOutbox(dsn).reader("totals", topics=["a"], poll_interval=0.02, **options)


def insert(conn, messages):
    for message in messages:
        conn.execute("insert into effect (i) values (%s)", [message.payload])


def insert_text(conn, messages):
    for message in messages:
        conn.execute(sa.text("insert into effect (i) values (:i)"), {"i": message.payload})


def django_atomic(dsn):
    from django.conf import settings
    from django.db import connections

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}})
    from django.db import transaction

    parts = sa.make_url(dsn)
    with contextlib.suppress(AttributeError):
        # The connection of another test is that of another database.
        del connections["projection"]
    connections.databases["projection"] = connections.configure_settings({"default": {}, "projection": {
        "ENGINE": "django.db.backends.postgresql", "NAME": parts.database, "USER": parts.username, "PASSWORD": parts.password,
        "HOST": parts.host, "PORT": parts.port,
    }})["projection"]
    return lambda: transaction.atomic(using="projection"), connections["projection"]


def insert_django(conn, messages):
    with conn.cursor() as cursor:
        for message in messages:
            cursor.execute("insert into effect (i) values (%s)", [message.payload])


BLOCKING = ["psycopg", "psycopg autocommit", "psycopg pool", "engine.begin", "engine.connect", "sessionmaker.begin", "session", "django"]


@pytest.mark.parametrize("kind", BLOCKING)
def test_each_kind_of_transaction(table, kind):
    send(table, "a", [1, 2, 3, 4, 5])
    engine = sa.create_engine(table.replace("postgresql://", "postgresql+psycopg://"))
    pool = psycopg_pool.ConnectionPool(table, min_size=1, open=kind == "psycopg pool")
    begin, project, ends = {
        "psycopg": (lambda: psycopg.connect(table), insert, None),
        "psycopg autocommit": (lambda: psycopg.connect(table, autocommit=True), insert, None),
        "psycopg pool": (pool.connection, insert, None),
        "engine.begin": (engine.begin, insert_text, None),
        "engine.connect": (engine.connect, insert_text, None),
        "sessionmaker.begin": (sessionmaker(engine).begin, insert_text, None),
        "session": (lambda: Session(engine), insert_text, None),
        "django": (None, insert_django, None),
    }[kind]
    if kind == "django":
        begin, ends = django_atomic(table)
    assert reader(table, batch=2).apply(begin, project, until_end=True) == 5
    assert reader(table).apply(begin, project, until_end=True) == 0, "the cursor has moved"

    def broken(conn, messages):
        project(conn, messages)
        raise ZeroDivisionError("after the effect")

    send(table, "a", [6])
    with pytest.raises(ZeroDivisionError):
        reader(table).apply(begin, broken, until_end=True)
    assert rows(table) == [1, 2, 3, 4, 5], "the effect is rolled back with the cursor"
    assert reader(table).apply(begin, project, until_end=True) == 1
    assert rows(table) == [1, 2, 3, 4, 5, 6]
    if ends is not None:
        ends.close()
    pool.close()
    engine.dispose()


ASYNC = ["psycopg", "asyncpg pool", "asyncpg transaction", "engine.begin", "engine.connect", "sessionmaker.begin", "session"]


@pytest.mark.parametrize("kind", ASYNC)
async def test_each_kind_of_async_transaction(table, kind):
    send(table, "a", [1, 2, 3, 4, 5])
    engine = create_async_engine(table.replace("postgresql://", "postgresql+asyncpg://"))
    pool = await asyncpg.create_pool(table, min_size=1, max_size=2)

    async def plain(conn, messages):
        for message in messages:
            await conn.execute("insert into effect (i) values (%s)", [message.payload])

    async def numbered(conn, messages):
        for message in messages:
            await conn.execute("insert into effect (i) values ($1)", message.payload)

    async def text(conn, messages):
        for message in messages:
            await conn.execute(sa.text("insert into effect (i) values (:i)"), {"i": message.payload})

    class Begun:
        async def __aenter__(self):
            self.conn = await pool.acquire()
            self.transaction = self.conn.transaction()
            await self.transaction.start()
            return self.conn

        async def __aexit__(self, kind, *_):
            await (self.transaction.commit() if kind is None else self.transaction.rollback())
            await pool.release(self.conn)

    begin, project = {
        "psycopg": (lambda: psycopg.AsyncConnection.connect(table), plain),
        "asyncpg pool": (pool.acquire, numbered),
        "asyncpg transaction": (Begun, numbered),
        "engine.begin": (engine.begin, text),
        "engine.connect": (engine.connect, text),
        "sessionmaker.begin": (async_sessionmaker(engine).begin, text),
        "session": (lambda: AsyncSession(engine), text),
    }[kind]
    assert await areader(table, batch=2).apply(begin, project, until_end=True) == 5

    async def broken(conn, messages):
        await project(conn, messages)
        raise ZeroDivisionError("after the effect")

    send(table, "a", [6])
    with pytest.raises(ZeroDivisionError):
        await areader(table).apply(begin, broken, until_end=True)
    assert rows(table) == [1, 2, 3, 4, 5], "the effect is rolled back with the cursor"
    assert await areader(table).apply(begin, project, until_end=True) == 1
    assert rows(table) == [1, 2, 3, 4, 5, 6]
    await pool.close()
    await engine.dispose()


def test_a_failing_effect_is_recorded_tried_again_and_never_passed_over(table, caplog):
    send(table, "a", [1, 2, 3, 4, 5])
    failures = []

    def project(conn, messages):
        insert(conn, messages)
        if any(message.payload == 3 for message in messages) and len(failures) < 3:
            failures.append(len(messages))
            raise ZeroDivisionError("a bug in the effect")

    outbox = pg_outbox.Outbox(table)
    source = reader(table)
    counts = []
    with caplog.at_level(logging.INFO, "pg_outbox"):
        thread = threading.Thread(target=lambda: counts.append(source.apply(lambda: psycopg.connect(table), project)))
        thread.start()
        until("the good ones before it are applied", lambda: len(failures) >= 2)
        assert rows(table)[:2] == [1, 2] and 4 not in rows(table)
        until("all are applied", lambda: rows(table) == [1, 2, 3, 4, 5])
        source.stop()
        thread.join(60)
    assert counts == [5] and failures == [5, 1, 1]
    assert "a bug in the effect" in caplog.text and "stands before position" in caplog.text
    assert outbox.cursor_get("totals").last_error is None, "success clears the error"


def test_the_recorded_error_names_the_message(table):
    send(table, "a", [1, 2])

    def project(conn, messages):
        insert(conn, messages)
        if messages[-1].payload == 2:
            raise ZeroDivisionError("a bug in the effect")

    with pytest.raises(ZeroDivisionError):
        reader(table).apply(lambda: psycopg.connect(table), project, until_end=True)
    outbox = pg_outbox.Outbox(table)
    cursor = outbox.cursor_get("totals")
    assert cursor.last_error == "ZeroDivisionError: a bug in the effect" and rows(table) == [1]
    assert cursor.error_position == cursor.position + 1 or cursor.error_position > cursor.position
    (check,) = [row for row in outbox.health() if row.check == "cursors"]
    assert check.state != "ok" and "totals" in check.culprit


def caught(conn, messages):
    with contextlib.suppress(psycopg.Error):
        conn.execute("select 1 / 0")


def ended(conn, messages):
    conn.rollback()


def refused(conn, messages):
    conn.execute("create table if not exists twice (i int unique deferrable initially deferred)")
    conn.execute("insert into twice values (1), (1)")


def late(conn, messages):
    raise pg_outbox.ConflictError("the cursor of another consumer", code="OB005", name="non_monotonic_cursor")


FAILING = [(caught, "transaction is aborted"), (ended, "has ended its transaction"), (refused, "duplicate key"), (late, "another consumer")]


@pytest.mark.parametrize("project, why", FAILING)
@pytest.mark.parametrize("is_async", [False, True])
def test_an_effect_that_leaves_no_transaction_to_commit_has_failed(table, project, why, is_async):
    send(table, "a", [1])

    async def aproject(conn, messages):
        if project is caught:
            with contextlib.suppress(psycopg.Error):
                await conn.execute("select 1 / 0")
        elif project is ended:
            await conn.rollback()
        elif project is late:
            late(conn, messages)
        else:
            await conn.execute("create table if not exists twice (i int unique deferrable initially deferred)")
            await conn.execute("insert into twice values (1), (1)")

    with pytest.raises((pg_outbox.OutboxError, psycopg.Error), match=why):
        if is_async:
            asyncio.run(areader(table).apply(lambda: psycopg.AsyncConnection.connect(table), aproject, until_end=True))
        else:
            reader(table).apply(lambda: psycopg.connect(table), project, until_end=True)
    cursor = pg_outbox.Outbox(table).cursor_get("totals")
    assert why in cursor.last_error and cursor.position == 0 and cursor.error_position is not None
    assert reader(table).apply(lambda: psycopg.connect(table), insert, until_end=True) == 1


def test_an_sql_error_that_is_caught_with_sqlalchemy_or_django_is_seen_too(table):
    send(table, "a", [1])
    engine = sa.create_engine(table.replace("postgresql://", "postgresql+psycopg://"))

    def caught_text(conn, messages):
        with contextlib.suppress(sa.exc.DBAPIError):
            conn.execute(sa.text("select 1 / 0"))

    def caught_django(conn, messages):
        from django.db import DatabaseError

        with contextlib.suppress(DatabaseError), conn.cursor() as cursor:
            cursor.execute("select 1 / 0")

    for begin in (engine.begin, engine.connect, lambda: Session(engine)):
        with pytest.raises(pg_outbox.InvalidError, match="transaction is aborted"):
            reader(table).apply(begin, caught_text, until_end=True)
    begin, conn = django_atomic(table)
    with pytest.raises(pg_outbox.InvalidError, match="transaction is aborted"):
        reader(table).apply(begin, caught_django, until_end=True)
    conn.close()
    engine.dispose()
    assert pg_outbox.Outbox(table).cursor_get("totals").position == 0


@pytest.mark.parametrize("is_async", [False, True])
def test_a_second_apply_begins_at_the_cursor_where_the_first_one_has_ended(table, is_async):
    send(table, "a", [1, 2, 3, 4, 5])
    poisoned = True

    def check(messages):
        if poisoned and messages[-1].payload >= 3:
            raise ZeroDivisionError("the third")

    def project(conn, messages):
        check(messages)
        insert(conn, messages)

    async def aproject(conn, messages):
        check(messages)
        for message in messages:
            await conn.execute("insert into effect (i) values (%s)", [message.payload])

    source, asource = reader(table), areader(table)

    def apply():
        if is_async:
            return asyncio.run(asource.apply(lambda: psycopg.AsyncConnection.connect(table), aproject, until_end=True))
        return source.apply(lambda: psycopg.connect(table), project, until_end=True)

    with pytest.raises(ZeroDivisionError):
        apply()
    assert rows(table) == [1, 2]
    poisoned = False
    assert apply() == 3 and apply() == 0
    assert rows(table) == [1, 2, 3, 4, 5]


def test_two_instances_apply_each_message_once(table):
    send(table, "a", list(range(200)))
    sources = [reader(table, batch=7) for _ in range(3)]
    threads = [threading.Thread(target=source.apply, args=(lambda: psycopg.connect(table), insert)) for source in sources]
    for thread in threads:
        thread.start()
    until("all are applied", lambda: len(rows(table)) == 200)
    for source, thread in zip(sources, threads, strict=True):
        source.stop()
        thread.join(60)
    assert rows(table) == list(range(200))


async def test_cancelling_an_async_projection_leaves_no_half_effect(table):
    send(table, "a", [1])
    begun = asyncio.Event()

    async def project(conn, messages):
        await conn.execute("insert into effect (i) values (%s)", [messages[0].payload])
        begun.set()
        await asyncio.sleep(600)

    running = asyncio.create_task(areader(table).apply(lambda: psycopg.AsyncConnection.connect(table), project))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert rows(table) == [] and reader(table).apply(lambda: psycopg.connect(table), insert, until_end=True) == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_sigterm_ends_a_projection_after_its_batch(table, is_async):
    send(table, "a", [1])
    program = (
        "import asyncio, sys, time, psycopg, pg_outbox\n"
        "dsn = sys.argv[1]\n"
        "def project(conn, messages):\n"
        "    print('begun', flush=True); time.sleep(1)\n"
        "    conn.execute('insert into effect (i) values (1)')\n"
        "async def aproject(conn, messages):\n"
        "    print('begun', flush=True); await asyncio.sleep(1)\n"
        "    await conn.execute('insert into effect (i) values (1)')\n"
        "read = {'consumer': 'totals', 'topics': ['a']}\n"
    )
    if is_async:
        program += "run = pg_outbox.AsyncOutbox(dsn).reader(**read).apply(lambda: psycopg.AsyncConnection.connect(dsn), aproject)\n"
        program += "async def main(): return await run\nprint(asyncio.run(main()))\n"
    else:
        program += "print(pg_outbox.Outbox(dsn).reader(**read).apply(lambda: psycopg.connect(dsn), project))\n"
    process = subprocess.Popen([sys.executable, "-c", program, table], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == "1\n" and process.wait(60) == 0
    assert rows(table) == [1]


def test_an_advance_does_not_pass_what_was_not_handled(table):
    send(table, "a", [1, 2, 3])
    source = reader(table)
    one, two = next(source), next(source)
    with pytest.raises(pg_outbox.ConflictError) as caught:
        source.advance(two)
    assert caught.value.name == "unconfirmed_message"
    with psycopg.connect(table) as conn, pytest.raises(pg_outbox.ConflictError):
        source.advance_in(conn, two)
    source.advance([one, two])
    three = next(source)
    source.rewind()
    assert next(source).position == three.position
    source.skip(three)
    assert pg_outbox.Outbox(table).cursor_get("totals").position == two.position


def test_a_new_cursor_that_begins_after_a_position_can_advance_in_a_transaction(table):
    send(table, "a", [1, 2, 3])
    first = next(pg_outbox.Outbox(table).reader(topics=["a"]))
    source = reader(table, after=first.position)
    message = next(source)
    with psycopg.connect(table) as conn:
        insert(conn, [message])
        source.advance_in(conn, message)
    source.committed(message)
    assert rows(table) == [2] and pg_outbox.Outbox(table).cursor_get("totals").position == message.position
    assert reader(table).apply(lambda: psycopg.connect(table), insert, until_end=True) == 1


def test_a_reader_of_a_rare_topic_moves_over_what_does_not_match(table):
    send(table, "other", list(range(30)))
    source = reader(table)
    assert source.next_now() is None
    outbox = pg_outbox.Outbox(table)
    until("its cursor stands at the end", lambda: source.next_now() is None and outbox.cursor_get("totals", if_missing=0).position >= 30)
    assert outbox.cursor_get("totals").lag_positions == 0


def test_begin_that_gives_no_connection_is_an_error(table):
    send(table, "a", [1])
    with pytest.raises(pg_outbox.InvalidError, match="no connection"):
        reader(table).apply(contextlib.nullcontext, insert, until_end=True)
    with pytest.raises(pg_outbox.InvalidError, match="no consumer"):
        pg_outbox.Outbox(table).reader().apply(lambda: psycopg.connect(table), insert)
