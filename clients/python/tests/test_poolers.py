"""Everything through PgBouncer, in the two common modes, session and transaction, with more clients than server sessions."""

import asyncio
import collections
import threading
import time

import asyncpg
import pg_outbox
import psycopg
import pytest
import sqlalchemy


@pytest.fixture(scope="module")
def pooled(server):
    return {"transaction": server.pooler("transaction", 3), "session": server.pooler("session", 40)}


@pytest.fixture(params=["transaction", "session"])
def mode(request):
    return request.param


def count(dsn):
    with psycopg.connect(dsn) as conn:
        return conn.execute("select count(*) from outbox.message where topic = 'job.run'").fetchone()[0]


def in_turns(connections, rounds, work):
    """Lets the connections work in turn, so that each gets the server sessions of the others."""
    for n in range(rounds):
        for conn in connections:
            work(conn, n)


def test_psycopg_enqueues_with_its_defaults(dsn, pooled, mode):
    through = pooled[mode](dsn)
    connections = [psycopg.connect(through) for _ in range(6)]

    def enqueue(conn, n):
        with conn.transaction():
            pg_outbox.enqueue(conn, "job.run", {"n": n}, key="k")
        with conn.transaction():
            pg_outbox.set_context(conn, tenant="t")
            pg_outbox.enqueue_many(conn, "job.run", [n])

    in_turns(connections, 12, enqueue)
    for conn in connections:
        conn.close()
    assert count(dsn) == 6 * 12 * 2


async def test_async_psycopg_enqueues_with_its_defaults(dsn, pooled, mode):
    connections = [await psycopg.AsyncConnection.connect(pooled[mode](dsn)) for _ in range(6)]

    async def enqueue(conn):
        for n in range(12):
            async with conn.transaction():
                await pg_outbox.enqueue(conn, "job.run", {"n": n})

    await asyncio.gather(*(enqueue(conn) for conn in connections))
    for conn in connections:
        await conn.close()
    assert count(dsn) == 6 * 12


def test_a_direct_connection_of_psycopg_prepares_as_before(dsn):
    with psycopg.connect(dsn, autocommit=True) as conn:
        for n in range(12):
            pg_outbox.enqueue(conn, "job.run", {"n": n})
        prepared = conn.execute("select count(*) from pg_prepared_statements where statement ~ 'outbox.enqueue'", prepare=False)
        assert prepared.fetchone()[0] == 1


async def test_asyncpg_says_what_to_set_and_works_with_that(dsn, pooled):
    through = pooled["transaction"](dsn)
    connections = [await asyncpg.connect(through, statement_cache_size=0) for _ in range(6)]
    for n in range(12):
        for conn in connections:
            await pg_outbox.enqueue(conn, "job.run", {"n": n})
    assert count(dsn) == 6 * 12
    for conn in connections:
        await conn.close()
    # By default asyncpg uses named statements, which another server session does not know.
    one, other = await asyncpg.connect(through), await asyncpg.connect(through)
    with pytest.raises(pg_outbox.FatalError) as caught:
        for n in range(20):
            await pg_outbox.enqueue(one, "job.run", {"n": n})
            transaction = other.transaction()
            await transaction.start()
            try:
                await pg_outbox.enqueue(other, "job.run", {"n": n})
                await pg_outbox.enqueue(one, "job.run", {"n": n})
            finally:
                await transaction.rollback()
    assert caught.value.name == "prepared_statement_lost"
    assert "statement_cache_size=0" in caught.value.hint
    one.terminate()
    other.terminate()


def test_sqlalchemy_says_what_to_set_and_works_with_that(dsn, pooled):
    url = pooled["transaction"](dsn).replace("postgresql://", "postgresql+psycopg://")

    def run(**options):
        engine = sqlalchemy.create_engine(url, pool_size=6, connect_args=options)
        connections = [engine.connect() for _ in range(6)]
        try:
            for n in range(12):
                for conn in connections:
                    with conn.begin():
                        pg_outbox.enqueue(conn, "job.run", {"n": n})
        finally:
            for conn in connections:
                conn.invalidate()
                conn.close()
            engine.dispose()

    run(prepare_threshold=None)
    assert count(dsn) == 6 * 12
    with pytest.raises(pg_outbox.FatalError) as caught:
        run()
    assert caught.value.name == "prepared_statement_lost"
    assert "prepare_threshold=None" in caught.value.hint


def test_admin_workers_and_readers(dsn, pooled, mode):
    through = pooled[mode](dsn)
    with pg_outbox.Outbox(through) as outbox:
        outbox.subscribe("jobs", ["job.*"], notify=True)
        with psycopg.connect(through) as conn:
            pg_outbox.enqueue_many(conn, "job.run", list(range(200)))
        handled, told, lock = collections.Counter(), collections.Counter(), threading.Lock()

        def handle(delivery):
            with lock:
                handled[delivery.message_id] += 1
            return {"n": delivery.json()} if delivery.message_id % 2 else None

        workers = []
        for n in range(4):
            def event(what, text, n=n):
                told[n, what] += 1

            worker = outbox.worker("jobs", name=f"w{n}", batch=10, poll_interval=0.02, on_event=event)
            reports: list = []
            thread = threading.Thread(target=lambda worker=worker, into=reports: into.append(worker.run(handle)))
            thread.start()
            workers.append((worker, thread, reports))
        end = time.monotonic() + 60
        while len(handled) < 200 and time.monotonic() < end:
            time.sleep(0.02)
            outbox.stats()
        for worker, thread, _ in workers:
            worker.stop()
        for _, thread, _ in workers:
            thread.join(60)
        assert set(handled.values()) == {1} and len(handled) == 200
        assert sum(reports[0]["completed"] for *_, reports in workers) == 200
        for n in range(4):
            assert told[n, "polling"] == (1 if mode == "transaction" else 0)
        reader = outbox.reader("c", topics=["job.*"], poll_interval=0.02)
        for n, message in enumerate(reader):
            reader.advance(message)
            if n == 199:
                break
        assert outbox.cursor_get("c").position == message.position


def test_an_application_and_its_projection(dsn, pooled, mode, caplog):
    through = pooled[mode](dsn)
    with psycopg.connect(dsn) as conn:
        conn.execute("create table effect (i int primary key)")
        pg_outbox.enqueue_many(conn, "job.run", list(range(50)))
    app, handled = pg_outbox.App(through), []
    app.subscription("jobs", poll_interval=0.05).on("job.run")(handled.append)

    @app.projection("totals", ["job.*"], begin=lambda: psycopg.AsyncConnection.connect(through, prepare_threshold=None))
    async def project(conn, messages):
        for message in messages:
            await conn.execute("insert into effect values (%s)", [message.payload])

    thread = threading.Thread(target=app.run)
    with caplog.at_level("INFO", "pg_outbox"):
        thread.start()
        end = time.monotonic() + 60
        count = "select count(*) from effect"
        with psycopg.connect(dsn, autocommit=True) as conn:
            while (len(handled) < 50 or conn.execute(count).fetchone() != (50,)) and time.monotonic() < end:
                time.sleep(0.02)
        app.stop()
        thread.join(60)
    assert sorted(handled) == list(range(50))
    said = [record for record in caplog.records if "polls, because a pooler" in record.getMessage()]
    assert len(said) == (1 if mode == "transaction" else 0)


def test_events(dsn, pooled, mode):
    from pg_outbox.events import EventStore, NewEvent, ProjectionEngine

    through, store, seen = pooled[mode](dsn), EventStore(), []
    connections = [psycopg.connect(through) for _ in range(6)]

    def append(conn, n):
        stream = f"n-{connections.index(conn)}"
        with conn.transaction():
            store.append(conn, stream, [NewEvent("n", n)], n)
            assert len(store.load(conn, stream)) == n + 1

    in_turns(connections, 8, append)
    for conn in connections:
        conn.close()
    engine = ProjectionEngine(store, pg_outbox.Outbox(through))
    engine.register("seen", lambda conn, events: seen.extend(event.data for event in events), lambda: psycopg.connect(through))
    assert engine.drain("seen") == 48 and sorted(seen) == sorted(list(range(8)) * 6)
