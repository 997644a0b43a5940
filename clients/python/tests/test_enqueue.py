"""Enqueue joins the transaction of the connection that the caller has, whatever the driver."""

import dataclasses
import datetime as dt

import asyncpg
import pg_outbox
import psycopg
import psycopg_pool
import pydantic
import pytest
import sqlalchemy as sa
from pg_outbox.testing import assert_enqueued, enqueued
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

OPTIONS = {
    "key": "order-1", "headers": {"x-a": "1"}, "metadata": {"user_id": "u"}, "tenant": "t", "aggregate_type": "order", "aggregate_id": "1",
    "deliver_at": dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc),
}


def topics(dsn):
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute("select topic from outbox.message where topic !~ '^outbox' order by id")]


def check(found, id):
    assert found["id"] == id and found["key"] == "order-1" and found["payload"] == {"a": [1, "ü"], "b": None}


PAYLOAD = {"a": [1, "ü"], "b": None}


@pytest.mark.parametrize("factory", [None, dict_row])
def test_psycopg(dsn, factory):
    with psycopg.connect(dsn, **({"row_factory": factory} if factory else {})) as conn:
        id = pg_outbox.enqueue(conn, "order.created", PAYLOAD, **OPTIONS)
        if factory is None:
            check(assert_enqueued(conn, "order.created", {"a": [1, "ü"]}), id)
            with pytest.raises(AssertionError, match="order.created"):
                assert_enqueued(conn, "order.other", 1)
        with conn.cursor() as cursor:
            pg_outbox.enqueue(cursor, "by.cursor", 1)
        assert len(pg_outbox.enqueue_many(conn, "order.many", [1, 'a"b\\', None], keys=["a", "b,", "c"])) == 3
        pg_outbox.set_context(conn, tenant="context")
    with psycopg.connect(dsn) as conn:
        pg_outbox.enqueue(conn, "rolled.back", 1)
        conn.rollback()
        assert enqueued(conn) == []
    assert topics(dsn) == ["order.created", "by.cursor", "order.many", "order.many", "order.many"]


async def test_psycopg_async(dsn):
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        id = await pg_outbox.enqueue(conn, "order.created", PAYLOAD, **OPTIONS)
        check(await assert_enqueued(conn, "order.created", {}), id)
        await conn.rollback()
        await pg_outbox.enqueue(conn, "kept", 1)
    assert topics(dsn) == ["kept"]


async def test_asyncpg(dsn):
    conn = await asyncpg.connect(dsn)
    try:
        async with conn.transaction():
            id = await pg_outbox.enqueue(conn, "order.created", PAYLOAD, **OPTIONS)
            check(await assert_enqueued(conn, "order.created", {}), id)
            await pg_outbox.enqueue(conn, "bytes", b"\x00\xff", content_type="application/x-test")
            assert len(await pg_outbox.enqueue_many(conn, "many", [1, 2])) == 2
        with pytest.raises(ZeroDivisionError):
            async with conn.transaction():
                await pg_outbox.enqueue(conn, "rolled.back", 1)
                raise ZeroDivisionError
        with pytest.raises(pg_outbox.InvalidError) as caught:
            await pg_outbox.enqueue(conn, "bad topic", 1)
        assert caught.value.name == "invalid_parameter" and caught.value.hint
        async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool, pool.acquire() as pooled:
            await pg_outbox.enqueue(pooled, "pooled", 1)
    finally:
        await conn.close()
    assert topics(dsn) == ["order.created", "bytes", "many", "many", "pooled"]


def test_sqlalchemy(dsn):
    engine = sa.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as conn:
        id = pg_outbox.enqueue(conn, "order.created", PAYLOAD, **OPTIONS)
        check(assert_enqueued(conn, "order.created", {}), id)
        pg_outbox.enqueue(conn, "bytes", b"\x00")
    with Session(engine) as session:
        pg_outbox.enqueue(session, "by.session", 1)
        session.commit()
        pg_outbox.enqueue(session, "rolled.back", 1)
        session.rollback()
        with pytest.raises(pg_outbox.InvalidError):
            pg_outbox.enqueue(session, "bad topic", 1)
    engine.dispose()
    assert topics(dsn) == ["order.created", "bytes", "by.session"]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_sqlalchemy_async(dsn, driver):
    engine = create_async_engine(dsn.replace("postgresql://", f"postgresql+{driver}://"))
    async with engine.begin() as conn:
        id = await pg_outbox.enqueue(conn, "order.created", PAYLOAD, **OPTIONS)
        check(await assert_enqueued(conn, "order.created", {}), id)
    async with AsyncSession(engine) as session:
        await pg_outbox.enqueue(session, "by.session", b"x")
        await session.commit()
        await pg_outbox.enqueue(session, "rolled.back", 1)
        await session.rollback()
        with pytest.raises(pg_outbox.InvalidError):
            await pg_outbox.enqueue(session, "bad topic", 1)
    await engine.dispose()
    assert topics(dsn) == ["order.created", "by.session"]


def test_django(dsn):
    from django.conf import settings
    from django.db import connections, transaction

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}})
    parts = sa.make_url(dsn)
    # Another test may have configured Django already.
    connections.databases["enqueue"] = connections.configure_settings({"default": {}, "enqueue": {
        "ENGINE": "django.db.backends.postgresql", "NAME": parts.database, "USER": parts.username, "PASSWORD": parts.password,
        "HOST": parts.host, "PORT": parts.port,
    }})["enqueue"]
    connection = connections["enqueue"]
    with transaction.atomic(using="enqueue"):
        id = pg_outbox.enqueue(connection, "order.created", PAYLOAD, **OPTIONS)
        check(assert_enqueued(connection, "order.created", {}), id)
    with pytest.raises(ZeroDivisionError), transaction.atomic(using="enqueue"):
        pg_outbox.enqueue(connection, "rolled.back", 1)
        raise ZeroDivisionError
    with pytest.raises(pg_outbox.InvalidError), transaction.atomic(using="enqueue"):
        pg_outbox.enqueue(connection, "bad topic", 1)
    connection.close()
    assert topics(dsn) == ["order.created"]


def test_an_exception_after_an_error_of_a_driver_is_the_programs_own(dsn):
    from pg_outbox._errors import from_driver

    with psycopg.connect(dsn) as conn:
        try:
            try:
                conn.execute("select 1 / 0")
            except psycopg.Error:
                raise KeyError("of the program")
        except KeyError as error:
            own = error
    assert from_driver(own) is None and from_driver(own.__context__).code == "22012"


@dataclasses.dataclass
class Line:
    sku: str
    n: int


class Order(pydantic.BaseModel):
    id: int
    at: dt.datetime
    lines: list[Line]


def test_typed_payloads_go_and_come(dsn):
    order = Order(id=1, at=dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc), lines=[Line("a", 2)])
    with psycopg.connect(dsn) as conn:
        pg_outbox.enqueue(conn, "order", order)
        pg_outbox.enqueue(conn, "line", Line("b", 3))
        with pytest.raises(pg_outbox.InvalidError):
            pg_outbox.enqueue(conn, "object", object())
        with pytest.raises(pg_outbox.InvalidError):
            pg_outbox.enqueue(conn, "nan", float("nan"))
        with pytest.raises(pg_outbox.InvalidError):
            pg_outbox.enqueue(conn, "naive", 1, deliver_at=dt.datetime(2026, 1, 1))
    reader = pg_outbox.Outbox(dsn).reader(topics=["order", "line"], poll_interval=0.02)
    assert next(reader).json(Order) == order
    message = next(reader)
    assert message.json(Line) == Line("b", 3)
    with pytest.raises(pg_outbox.InvalidError):
        message.json(Order)


def test_errors_of_the_environment(server, dsn):
    with psycopg.connect(server.empty()) as conn, pytest.raises(pg_outbox.FatalError) as caught:
        pg_outbox.enqueue(conn, "a", 1)
    assert caught.value.name == "extension_missing" and "create extension" in caught.value.hint
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create role stranger_py login password 'x'")
    with psycopg.connect(dsn, user="stranger_py", password="x") as conn, pytest.raises(pg_outbox.FatalError) as caught:
        pg_outbox.enqueue(conn, "a", 1)
    assert caught.value.name == "insufficient_privilege" and "grant_to" in caught.value.hint
    with pytest.raises(pg_outbox.InvalidError):
        pg_outbox.enqueue(object(), "a", 1)


async def test_what_would_commit_elsewhere_is_refused(dsn):
    engine, aengine = sa.create_engine(dsn), create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        outbox = pg_outbox.Outbox(dsn)
        for wrong in (pool, pool.acquire(), engine, aengine, sessionmaker(engine), async_sessionmaker(aengine), outbox):
            for call in (
                lambda conn: pg_outbox.enqueue(conn, "a", 1), lambda conn: pg_outbox.enqueue_many(conn, "a", [1]), enqueued,
                lambda conn: pg_outbox.set_context(conn, tenant="t"),
            ):
                with pytest.raises(pg_outbox.InvalidError) as caught:
                    call(wrong)
                assert type(wrong).__name__ in caught.value.message and caught.value.hint
    with psycopg_pool.ConnectionPool(dsn, min_size=1) as pool:
        with pytest.raises(pg_outbox.InvalidError, match="ConnectionPool"):
            pg_outbox.enqueue(pool, "a", 1)
        with pool.connection() as conn:
            pg_outbox.enqueue(conn, "a", 1)
    assert topics(dsn) == ["a"]
    await aengine.dispose()
    engine.dispose()


def test_options_are_checked_by_name(dsn):
    with psycopg.connect(dsn) as conn:
        with pytest.raises(TypeError, match="'keey'. Did you mean 'key'"):
            pg_outbox.enqueue(conn, "a", 1, keey="k")
        with pytest.raises(TypeError, match="'tennant'. Did you mean 'tenant'"):
            pg_outbox.enqueue_many(conn, "a", [1], tennant="t")
        with pytest.raises(TypeError, match="unexpected keyword argument 'user'"):
            pg_outbox.set_context(conn, user="u")
        assert len(pg_outbox.enqueue_many(conn, "a", [1, 2], keys=["k", None])) == 2
        assert [message["key"] for message in enqueued(conn)] == ["k", None]
        assert pg_outbox.set_context(conn, user_id="u") is None
