"""The event store and aggregates: appends join the caller's transaction on every driver, and conflicts are seen."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import subprocess
import sys
import threading
import uuid
from decimal import Decimal

import asyncpg
import pg_outbox
import psycopg
import psycopg_pool
import pydantic
import pytest
import sqlalchemy as sa
from pg_outbox.events import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Aggregate,
    ConcurrencyError,
    EventRegistry,
    EventStore,
    MessagePack,
    NewEvent,
    Protobuf,
    Repository,
    SchemaError,
    StreamClosedError,
    Upcasters,
    applies,
    current,
    event_context,
    fixed,
    save_together,
)
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

registry = EventRegistry()


@registry.event("order.placed")
@dataclasses.dataclass
class Placed:
    amount: Decimal
    at: dt.date | None = None


@registry.event("order.paid")
class Paid(pydantic.BaseModel):
    by: str


store = EventStore(registry)
NEW = [Placed(Decimal("1.10")), Paid(by="cärd\"\\")]


def versions(dsn, stream="order-1"):
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute("select version from outbox.load(%s)", [stream])]


def check(events):
    assert [event.data for event in events] == NEW and [event.version for event in events] == [1, 2]
    first = events[0]
    assert first.type == "order.placed" and first.stream == "order-1" and first.category == "order" and first.stream_id == "1"
    assert first.position is None and isinstance(first.event_id, uuid.UUID) and first.recorded_at.tzinfo is not None and not first.redacted


def both(conn):
    """What every blocking driver does in one transaction."""
    appended = store.append(conn, "order-1", NEW, NO_STREAM)
    assert (appended.first_version, appended.last_version, appended.repeated, len(appended.message_ids)) == (1, 2, False, 2)
    check(store.load(conn, "order-1"))
    assert [event.version for event in store.load(conn, "order-1", 2)] == [2]
    assert store.stream_info(conn, "order-1").version == 2 and store.last_position(conn) >= 0


async def abroad(conn):
    """The same on every async driver."""
    appended = await store.append(conn, "order-1", NEW, NO_STREAM)
    assert (appended.first_version, appended.last_version, appended.repeated, len(appended.message_ids)) == (1, 2, False, 2)
    check(await store.load(conn, "order-1"))
    assert [event.data for event in await store.load_raw(conn, "order-1", 2)] == [{"by": NEW[1].by}]
    assert (await store.stream_info(conn, "order-1")).version == 2 and await store.last_position(conn) >= 0


class Refuse(Exception):
    pass


def test_psycopg(dsn):
    with contextlib.suppress(Refuse), psycopg.connect(dsn) as conn:
        both(conn)
        raise Refuse
    assert versions(dsn) == []
    with psycopg.connect(dsn) as conn:
        both(conn)
        with conn.cursor() as cursor, pytest.raises(ConcurrencyError) as caught, conn.transaction():
            store.append(cursor, "order-1", NEW, 1)
        assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("order-1", 1, 2)
        assert isinstance(caught.value, pg_outbox.ConflictError) and caught.value.code == "OB013" and caught.value.hint
    assert versions(dsn) == [1, 2]


async def test_psycopg_async(dsn):
    with contextlib.suppress(Refuse):
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            await abroad(conn)
            raise Refuse
    assert versions(dsn) == []
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await abroad(conn)
    assert versions(dsn) == [1, 2]


async def test_asyncpg(dsn):
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool, pool.acquire() as conn:
        with contextlib.suppress(Refuse):
            async with conn.transaction():
                await abroad(conn)
                raise Refuse
        assert versions(dsn) == []
        async with conn.transaction():
            await abroad(conn)
        with pytest.raises(ConcurrencyError):
            await store.append(conn, "order-1", NEW, 7)
    assert versions(dsn) == [1, 2]


def test_sqlalchemy(dsn):
    engine = sa.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    with contextlib.suppress(Refuse), engine.begin() as conn:
        both(conn)
        raise Refuse
    assert versions(dsn) == []
    with Session(engine) as session, session.begin():
        both(session)
    assert versions(dsn) == [1, 2]
    engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_sqlalchemy_async(dsn, driver):
    engine = create_async_engine(dsn.replace("postgresql://", f"postgresql+{driver}://"))
    with contextlib.suppress(Refuse):
        async with engine.begin() as conn:
            await abroad(conn)
            raise Refuse
    assert versions(dsn) == []
    async with AsyncSession(engine) as session, session.begin():
        await abroad(session)
    assert versions(dsn) == [1, 2]
    await engine.dispose()


def test_django(dsn):
    from django.conf import settings
    from django.db import connections

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}})
    from django.db import transaction

    parts = sa.make_url(dsn)
    connections.databases["events"] = connections.configure_settings({"default": {}, "events": {
        "ENGINE": "django.db.backends.postgresql", "NAME": parts.database, "USER": parts.username, "PASSWORD": parts.password,
        "HOST": parts.host, "PORT": parts.port,
    }})["events"]
    with contextlib.suppress(Refuse), transaction.atomic(using="events"):
        both(connections["events"])
        raise Refuse
    assert versions(dsn) == []
    with transaction.atomic(using="events"):
        both(connections["events"])
    connections["events"].close()
    assert versions(dsn) == [1, 2]


async def test_what_would_commit_elsewhere_is_refused(dsn):
    engine, aengine = sa.create_engine(dsn), create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        for wrong in (pool, engine, aengine, sessionmaker(engine), async_sessionmaker(aengine), pg_outbox.Outbox(dsn), object(), None):
            for call in (lambda conn: store.append(conn, "a-1", NEW), lambda conn: store.load(conn, "a-1"), lambda conn: orders.load(conn, "1")):
                with pytest.raises(pg_outbox.InvalidError):
                    call(wrong)
    with psycopg_pool.ConnectionPool(dsn, min_size=1) as sync_pool, pytest.raises(pg_outbox.InvalidError, match="ConnectionPool"):
        store.append(sync_pool, "a-1", NEW)
    await aengine.dispose()
    assert versions(dsn, "a-1") == []


def test_expected_versions_and_repeats(dsn):
    with psycopg.connect(dsn, autocommit=True) as conn:
        events = [NewEvent("a.b", {"n": 1}), NewEvent("a.b", {"n": 2})]
        assert not store.append(conn, "x-1", events, NO_STREAM).repeated
        again = store.append(conn, "x-1", events, NO_STREAM)
        assert again.repeated and (again.first_version, again.last_version) == (1, 2)
        store.append(conn, "x-1", [NewEvent("a.b")], STREAM_EXISTS)
        store.append(conn, "x-1", [NewEvent("a.b")], ANY)
        store.append(conn, "x-1", [NewEvent("a.b")], 4)
        for stream, expected in (("x-1", NO_STREAM), ("x-2", STREAM_EXISTS), ("x-1", 3), ("x-2", 1)):
            with pytest.raises(ConcurrencyError):
                store.append(conn, stream, [NewEvent("a.b")], expected)
        for stream, new in (("", [NewEvent("a")]), ("x-1", []), ("x-1", [NewEvent("")]), ("x-1", [NewEvent("bad type")]), ("x" * 256, [NewEvent("a")])):
            with pytest.raises(pg_outbox.InvalidError):
                store.append(conn, stream, new)
        conn.execute("select outbox.close_stream('x-1', 'done')")
        with pytest.raises(StreamClosedError):
            store.append(conn, "x-1", [NewEvent("a.b")])
        with pytest.raises(pg_outbox.NotFoundError):
            store.stream_info(conn, "none-1")
        assert store.load(conn, "none-1") == []


def test_a_long_stream_is_loaded_in_pages(dsn):
    with psycopg.connect(dsn) as conn:
        for start in range(0, 2500, 500):
            store.append(conn, "long-1", [NewEvent("n", i) for i in range(start, start + 500)], start)
        assert [event.data for event in store.load(conn, "long-1")] == list(range(2500))
        assert [event.version for event in store.load(conn, "long-1", 1500)] == list(range(1500, 2501))


def test_an_erased_event_is_redacted(dsn):
    with psycopg.connect(dsn, autocommit=True) as conn:
        appended = store.append(conn, "order-1", NEW)
        conn.execute("select outbox.erase(%s, reason => 'asked for')", [appended.message_ids[0]])
        first, second = store.load(conn, "order-1")
        assert first.redacted and first.data is None and second.data == NEW[1]
        store.append(conn, "order-1", [NewEvent("nothing", None)])
        assert store.load(conn, "order-1", 3)[0].redacted is False


def test_numbers_stay_as_they_were_written(dsn):
    class Exact:
        @staticmethod
        def model_validate_json(text):
            return text

    exact = EventRegistry()
    exact.register("n", Exact)
    with psycopg.connect(dsn) as conn:
        conn.execute("""select outbox.append('n-1', 'n', '{"n": 12345678901234567890.1234567890}')""")
        assert EventStore(exact).load(conn, "n-1")[0].data == '{"n": 12345678901234567890.1234567890}'


def test_metadata_comes_from_the_context(dsn):
    at = dt.datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=dt.timezone.utc)
    with psycopg.connect(dsn) as conn, event_context(correlation_id="c", user_id="u", tenant="t", metadata={"a": 1, "b": 1}):
        with event_context(causation_id="k", metadata={"b": 2}), fixed(at):
            store.append(conn, "x-1", [NewEvent("a", metadata={"d": 4}), NewEvent("a")], metadata={"user_id": "v", "c": 3})
        assert current().causation_id is None
        first, second = store.load(conn, "x-1")
    assert first.metadata == {"correlation_id": "c", "causation_id": "k", "user_id": "v", "a": 1, "b": 2, "c": 3, "d": 4}
    assert "d" not in second.metadata and first.tenant == "t" and first.occurred_at == at and first.event_id == uuid.UUID(int=1)
    assert current().tenant is None


def test_types_and_classes(dsn):
    with psycopg.connect(dsn) as conn:
        store.append(conn, "x-1", [NewEvent("unknown", {"a": 1}), NewEvent("order.paid", {"by": 1, "secret": "s3"})])
        assert store.load_raw(conn, "x-1")[0].data == {"a": 1}
        with pytest.raises(SchemaError, match="order.paid") as caught:
            store.load(conn, "x-1")
        assert "s3" not in str(caught.value)
        with pytest.raises(SchemaError, match="unknown"):
            EventStore(EventRegistry(unregistered="error")).load(conn, "x-1")
        with pytest.raises(SchemaError, match="no registered class"):
            store.append(conn, "x-1", [object()])
        with pytest.raises(pg_outbox.InvalidError):
            store.append(conn, "x-1", [NewEvent("a", object())])
        with pytest.raises(pg_outbox.InvalidError):
            store.append(conn, "x-1", [NewEvent("a", "\x00")])
    for name, into in (("order.paid", Placed), ("order.other", Placed)):
        with pytest.raises(ValueError):
            registry.register(name, into)
    registry.register("order.paid", Paid)


def test_upcasters_run_before_decoding(dsn):
    upcasters = Upcasters()

    @upcasters.upcaster("order.placed", from_version=1)
    def renamed(data):
        return {"amount": data["total"]}

    @upcasters.upcaster("order.placed", from_version=2)
    def dated(data):
        return {**data, "at": "2026-01-01"}

    newer = EventStore(registry, upcasters=upcasters)
    with psycopg.connect(dsn) as conn:
        conn.execute("""select outbox.append('order-1', 'order.placed', '{"total": 1.10}'),
            outbox.append('order-1', 'order.placed', '{"amount": 2}', metadata => '{"schema_version": 2}')""")
        newer.append(conn, "order-1", [Placed(Decimal(3), dt.date(2026, 2, 2)), Paid(by="x")])
        events = newer.load(conn, "order-1")
        assert [event.data for event in events[:3]] == [
            Placed(Decimal("1.1"), dt.date(2026, 1, 1)), Placed(Decimal(2), dt.date(2026, 1, 1)), Placed(Decimal(3), dt.date(2026, 2, 2)),
        ]
        assert events[2].metadata["schema_version"] == 3 and "schema_version" not in events[3].metadata
        for version in ('"1"', "0", "1.5", "true", "-1"):
            conn.execute("select outbox.append('bad-1', 'order.placed', '{}', metadata => %s::jsonb)", [f'{{"schema_version": {version}}}'])
            with pytest.raises(SchemaError):
                newer.load(conn, "bad-1")
            conn.rollback()
        conn.execute("select outbox.append('bad-2', 'order.placed', '{}')")
        with pytest.raises(SchemaError, match="from version 1 has failed"):
            newer.load(conn, "bad-2")
    gap = Upcasters()
    gap.add("a", 1, dict)
    gap.add("a", 3, dict)
    with pytest.raises(SchemaError, match="no upcaster from version 2"):
        EventStore(upcasters=gap)


def test_an_inline_projection_is_in_the_transaction(dsn):
    inline, seen = EventStore(registry), []
    inline.inline("totals", lambda conn, events: seen.append((conn, events)), ["order.placed"])

    def refuse(conn, events):
        raise Refuse

    with psycopg.connect(dsn, autocommit=True) as conn:
        with pytest.raises(pg_outbox.InvalidError, match="needs a transaction"):
            inline.append(conn, "order-1", NEW)
        with conn.transaction(), contextlib.suppress(Refuse):
            assert inline.append(conn, "order-2", NEW).last_version == 2
        seen.clear()
    with psycopg.connect(dsn) as conn:
        inline.append(conn, "order-1", NEW)
        ((where, events),) = seen
        assert where is conn and [event.data for event in events] == NEW[:1] and events[0].version == 1
        inline.inline("refuse", refuse)
        with pytest.raises(Refuse), conn.transaction():
            inline.append(conn, "order-1", NEW)
        assert inline.remove_inline("refuse") and not inline.remove_inline("refuse")
        with pytest.raises(ValueError):
            inline.inline("totals", refuse)
    assert versions(dsn) == [1, 2]


def test_message_pack(dsn):
    pytest.importorskip("msgpack")
    packed = EventStore(registry, serializer=MessagePack())
    with psycopg.connect(dsn) as conn:
        packed.append(conn, "order-1", NEW)
        check(packed.load(conn, "order-1"))
        check(store.load(conn, "order-1"))
        assert conn.execute("select content_type from outbox.load('order-1') limit 1").fetchone() == ("application/vnd.msgpack",)
        store.append(conn, "order-1", NEW)
        assert [event.data for event in packed.load(conn, "order-1")] == NEW * 2
        conn.execute(r"select outbox.append_bytes('bad-1', '{order.placed}', array['\xc1'::bytea], 'application/vnd.msgpack')")
        with pytest.raises(SchemaError, match="MessagePack"):
            store.load(conn, "bad-1")
        conn.execute(r"select outbox.append_bytes('other-1', '{a}', array['\x00ff'::bytea], 'application/x-other')")
        assert store.load(conn, "other-1")[0].data == b"\x00\xff"
        with pytest.raises(SchemaError):
            packed.append(conn, "x-1", [NewEvent("a", 2**70)])


def test_protobuf(dsn):
    wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")
    types = EventRegistry()
    types.register("text", wrappers.StringValue)
    proto = EventStore(types, serializer=Protobuf())
    with psycopg.connect(dsn) as conn:
        proto.append(conn, "p-1", [wrappers.StringValue(value="ä")])
        assert proto.load(conn, "p-1")[0].data.value == "ä" and isinstance(store.load(conn, "p-1")[0].data, bytes)
        conn.execute(r"select outbox.append_bytes('p-2', '{text}', array['\xff'::bytea], 'application/x-protobuf')")
        with pytest.raises(SchemaError, match="Protobuf"):
            proto.load(conn, "p-2")
        with pytest.raises(SchemaError):
            proto.append(conn, "p-1", [NewEvent("text", {"value": 1})])


class Order(Aggregate):
    category = "order"
    amount: Decimal | None = None
    payers: list[str]

    def __init__(self, id):
        super().__init__(id)
        self.payers = []

    def place(self, amount):
        self.record(Placed(amount))

    def pay(self, by):
        if self.amount is None:
            raise ValueError("not placed")
        self.record(Paid(by=by))

    @applies(Placed)
    def _placed(self, event):
        self.amount = event.amount

    @applies(Paid)
    def _paid(self, event):
        self.payers.append(event.by)


class Note(Aggregate):
    def __init__(self, id):
        super().__init__(id)
        self.texts = []

    @applies("note.added")
    def _added(self, data):
        self.texts.append(data["text"])


orders = Repository(store, Order)


def test_aggregates_load_decide_and_save(dsn):
    with psycopg.connect(dsn) as conn:
        order = orders.load(conn, "1")
        assert order.version == 0 and order.stream == "order-1"
        with pytest.raises(ValueError):
            order.pay("x")
        order.place(Decimal("9.99"))
        order.pay("ann")
        assert order.payers == ["ann"] and len(order.pending) == 2
        (appended,) = orders.save(conn, order)
        assert appended.last_version == order.version == 2 and order.pending == [] and orders.save(conn, order) == []
        again = orders.load(conn, "1")
        assert (again.amount, again.payers, again.version) == (Decimal("9.99"), ["ann"], 2)
        stale = orders.load(conn, "1")
        again.pay("bob")
        orders.save(conn, again)
        stale.pay("eve")
        with pytest.raises(ConcurrencyError), conn.transaction():
            orders.save(conn, stale)
        note = Note("9")
        note.record(NewEvent("note.added", {"text": "hi"}))
        note.record(NewEvent("note.ignored", 1))
        order = orders.load(conn, "2")
        order.place(Decimal(1))
        done = save_together(conn, (orders, order), (Repository(store, Note), note))
        assert [one.stream for one in done] == ["Note-9", "order-2"] and note.texts == ["hi"]
    with pytest.raises(TypeError):
        type("Bad", (Aggregate,), {"category": "a-b"})


def test_a_decision_needs_no_transaction_around_it(dsn):
    with psycopg.connect(dsn, autocommit=True) as conn, psycopg.connect(dsn, autocommit=True) as other:
        order = orders.load(conn, "1")
        order.place(Decimal("9.99"))
        orders.save(conn, order)
        stale, first = orders.load(conn, "1"), orders.load(other, "1")
        first.pay("ann")
        orders.save(other, first)
        stale.pay("eve")
        with pytest.raises(ConcurrencyError):
            orders.save(conn, stale)
        assert orders.load(conn, "1").payers == ["ann"]


def test_execute_tries_again_in_a_new_transaction(dsn):
    seen = []

    def decide(order):
        seen.append(order.version)
        if len(seen) == 1:
            with psycopg.connect(dsn) as other:
                store.append(other, "order-1", [Placed(Decimal(5))])
        order.record(Paid(by="x"))
        return "done"

    begin = lambda: psycopg.connect(dsn)
    assert orders.execute(begin, "1", decide) == "done" and seen == [0, 1] and versions(dsn) == [1, 2]
    calls = []

    def late(order):
        calls.append(1)
        with psycopg.connect(dsn) as other:
            store.append(other, "order-1", [Paid(by="other")])
        order.pay("x")

    with pytest.raises(ConcurrencyError):
        orders.execute(begin, "1", late)
    assert len(calls) == 3
    with pytest.raises(Refuse):
        orders.execute(begin, "1", lambda order: (_ for _ in ()).throw(Refuse()))
    assert versions(dsn) == [1, 2, 3, 4, 5]


async def test_aexecute(dsn):
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))

    async def decide(order):
        order.place(Decimal(1))
        await asyncio.sleep(0)

    await orders.aexecute(engine.begin, "1", decide)
    pool = asyncpg.create_pool(dsn, min_size=1, max_size=2)
    async with pool:
        await orders.aexecute(pool.acquire, "1", lambda order: order.pay("y"))
    await engine.dispose()
    assert versions(dsn) == [1, 2]
    with pytest.raises(TypeError, match="async form"):
        orders.execute(lambda: psycopg.connect(dsn), "1", decide)
    assert versions(dsn) == [1, 2]


def test_threads_that_execute_lose_no_decision(dsn):
    from pg_outbox.events import Backoff

    patient = Repository(store, Order, retry=Backoff(100, 0.01))
    patient.execute(lambda: psycopg.connect(dsn), "1", lambda order: order.place(Decimal(1)))

    def pay(n):
        for i in range(10):
            patient.execute(lambda: psycopg.connect(dsn), "1", lambda order: order.pay(f"{n}/{i}"))

    threads = [threading.Thread(target=pay, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with psycopg.connect(dsn) as conn:
        order = patient.load(conn, "1")
    assert sorted(order.payers) == sorted(f"{n}/{i}" for n in range(4) for i in range(10)) and order.version == 41


def test_snapshots(dsn):
    quick = Repository(store, Order, snapshot_every=3)
    with psycopg.connect(dsn, autocommit=True) as conn:
        order = quick.load(conn, "1")
        order.place(Decimal("1.10"))
        quick.save(conn, order)
        assert conn.execute("select count(*) from outbox.load_snapshot('order-1')").fetchone() == (0,)
        for name in "abc":
            order.pay(name)
        quick.save(conn, order)
        assert conn.execute("select version from outbox.load_snapshot('order-1')").fetchone() == (4,)
        order.pay("d")
        quick.save(conn, order)
        found = quick.load(conn, "1")
        assert (found.amount, found.payers, found.version) == (Decimal("1.10"), ["a", "b", "c", "d"], 5)
        conn.execute("select outbox.truncate_stream('order-1', 5, 'the snapshot replaces them')")
        assert quick.load(conn, "1").payers == ["a", "b", "c", "d"]
        assert Repository(store, Order, snapshot_every=3, schema_version=2).load(conn, "1").payers == ["d"]


def test_a_killed_connection_leaves_nothing(dsn):
    with psycopg.connect(dsn) as conn:
        store.append(conn, "order-1", NEW)
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s)", [conn.info.backend_pid])
        with pytest.raises(pg_outbox.OutboxError) as caught:
            store.append(conn, "order-1", NEW)
        assert caught.value.kind == "retry"
        with contextlib.suppress(psycopg.Error):
            conn.rollback()
    assert versions(dsn) == []


def test_a_program_that_enqueues_does_not_load_events():
    code = "import sys, pg_outbox; pg_outbox.enqueue; print([m for m in sys.modules if m.startswith('pg_outbox.events') or m == 'pg_outbox._core'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_append_of_whole_pages_with_an_inline_projection(dsn):
    made, seen = EventStore(), []
    made.inline("seen", lambda conn, events: seen.extend(event.data for event in events))
    with psycopg.connect(dsn) as conn:
        for count in (1000, 2000):
            made.append(conn, "n-1", [NewEvent("n", i) for i in range(count)])
    assert seen == [*range(1000), *range(2000)]


def test_a_snapshot_that_is_too_large_does_not_fail_the_save(dsn, caplog):
    class Long(Aggregate):
        text: str = ""

        @applies("said")
        def _said(self, data):
            self.text = data * 100

    repository = Repository(EventStore(), Long, snapshot_every=1)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"alter database {conn.info.dbname} set pg_outbox.max_payload = '64kB'")
    with psycopg.connect(dsn) as conn:
        one = repository.load(conn, "1")
        one.record(NewEvent("said", "x" * 1000))
        repository.save(conn, one)
    assert "no snapshot" in caplog.text
    with psycopg.connect(dsn) as conn:
        assert repository.load(conn, "1").version == 1


def test_a_method_that_names_the_type_of_a_class_is_refused():
    class Named(Aggregate):
        @applies("order.placed")
        def _placed(self, event):
            pass

    with pytest.raises(SchemaError, match="by its name"):
        Repository(store, Named)


def test_the_tenant_is_no_metadata(dsn):
    with psycopg.connect(dsn) as conn, event_context(tenant="t", user_id="ann"):
        store.append(conn, "order-1", [Paid(by="x")])
        (event,) = store.load(conn, "order-1")
    assert event.tenant == "t" and event.metadata == {"user_id": "ann"}


def test_pages_are_bounded_by_bytes(dsn):
    made = EventStore()
    with psycopg.connect(dsn) as conn:
        made.append(conn, "n-1", [NewEvent("n", "x" * 200_000 + str(i)) for i in range(120)])
        events = made.load(conn, "n-1")
        assert [event.data[200_000:] for event in events] == list(map(str, range(120)))
        assert [event.version for event in made.load(conn, "n-1", 120)] == [120] and made.load(conn, "n-1", 121) == []
