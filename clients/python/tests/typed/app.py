"""Checked by mypy --strict and pyright, never run. A line that ends with `# refused` must be an error of both."""

import asyncio
import datetime as dt
from collections.abc import Coroutine
from typing import Any, assert_type

import pg_outbox
import psycopg
import psycopg_pool
import pydantic
from pg_outbox.testing import Enqueued, assert_enqueued, enqueued
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session, sessionmaker


class Order(pydantic.BaseModel):
    order: int


def blocking(
    session: Session, connection: Connection, scoped: scoped_session[Session], plain: psycopg.Connection, cursor: psycopg.Cursor
) -> None:
    assert_type(pg_outbox.enqueue(session, "order.created", {"order": 1}, key="order-1"), int)
    assert_type(pg_outbox.enqueue(connection, "order.created"), int)
    assert_type(pg_outbox.enqueue(scoped, "order.created"), int)
    assert_type(pg_outbox.enqueue(plain, "order.created"), int)
    assert_type(pg_outbox.enqueue(cursor, "order.created"), int)
    assert_type(pg_outbox.enqueue_many(session, "order.created", [1, 2], keys=["a", None]), list[int])
    pg_outbox.set_context(session, user_id="u")
    assert_type(assert_enqueued(session, "order.created", {"order": 1}, tenant="t"), Enqueued)
    assert_type(enqueued(session), list[Enqueued])


async def async_(
    session: AsyncSession, connection: AsyncConnection, scoped: async_scoped_session[AsyncSession], plain: psycopg.AsyncConnection,
) -> None:
    assert_type(await pg_outbox.enqueue(session, "order.created", {"order": 1}), int)
    coroutine = pg_outbox.enqueue(connection, "order.created")
    await assert_type(coroutine, Coroutine[Any, Any, int])
    assert_type(await pg_outbox.enqueue(scoped, "order.created"), int)
    assert_type(await pg_outbox.enqueue(plain, "order.created"), int)
    assert_type(await pg_outbox.enqueue_many(plain, "order.created", [1]), list[int])
    await pg_outbox.set_context(session, user_id="u")
    assert_type(await assert_enqueued(session, "order.created"), Enqueued)


async def forgotten(session: AsyncSession, reader: pg_outbox.Reader, message: pg_outbox.Message) -> None:
    pg_outbox.enqueue(session, "order.created", {"order": 1})  # refused
    pg_outbox.enqueue_many(session, "order.created", [1])  # refused
    pg_outbox.set_context(session, user_id="u")  # refused
    assert_enqueued(session, "order.created")  # refused
    reader.advance_in(session, message)  # refused


def wrong(session: Session, engine: Engine, aengine: AsyncEngine, pool: psycopg_pool.ConnectionPool, maker: sessionmaker[Session]) -> None:
    pg_outbox.enqueue("nonsense", "order.created")  # refused
    pg_outbox.enqueue(engine, "order.created")  # refused
    pg_outbox.enqueue(aengine, "order.created")  # refused
    pg_outbox.enqueue(pool, "order.created")  # refused
    pg_outbox.enqueue(maker, "order.created")  # refused
    pg_outbox.enqueue(session, "order.created", keey="a")  # refused
    pg_outbox.enqueue(session, "order.created", priority="high")  # refused
    pg_outbox.enqueue_many(session, "order.created", [1], tennant="t")  # refused
    pg_outbox.set_context(session, user="u")  # refused


def rows(outbox: pg_outbox.Outbox, message: pg_outbox.Message) -> None:
    assert_type(outbox.head(), int)
    assert_type(outbox.create_endpoint("a", "https://a.example").signing_secret, str)
    outbox.subscribe("a", ["#"], ordering="key", on_exhausted="block")
    outbox.subscribe("a", ["#"], ordering="keys")  # refused
    assert_type(outbox.delivery_status()[0].message_id, int)
    assert_type(message.json(Order), Order)
    assert_type(message.json(pydantic.TypeAdapter(list[Order])), list[Order])
    assert_type(message.enqueued_at, dt.datetime)


app = pg_outbox.App()
billing = app.subscription("billing", max_attempts=8, ordering="key")


@billing.on("order.created", concurrency=4, retry_on=(TimeoutError, OSError), dead_on=ValueError)
async def bill(order: Order, delivery: pg_outbox.Delivery) -> None:
    assert_type(delivery.attempt, int)


@app.middleware
async def around(delivery: pg_outbox.Delivery, call_next: Any) -> Any:
    return await call_next(delivery)


@app.periodic("0 3 * * *", topic="report.daily", time_zone="Europe/Berlin")
def daily(tick: dt.datetime) -> dict[str, str]:
    return {"day": tick.date().isoformat()}


async def project(session: AsyncSession, messages: list[pg_outbox.Message]) -> None:
    assert_type(messages[0].position, int)


def project_blocking(session: Session, messages: list[pg_outbox.Message]) -> None: ...


def projections(outbox: pg_outbox.AsyncOutbox, blocking: pg_outbox.Outbox, engine: AsyncEngine, maker: sessionmaker[Session]) -> None:
    async def one(connection: AsyncConnection, messages: list[pg_outbox.Message]) -> None: ...

    asyncio.run(outbox.reader("totals").apply(engine.begin, one))
    assert_type(blocking.reader("totals").apply(maker.begin, project_blocking), int)
    blocking.reader("totals").apply(maker.begin, one)  # refused
