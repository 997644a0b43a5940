"""Orders: a FastAPI service that enqueues in its own transactions, and a worker application beside it.

    uvicorn app:api                          # the service
    python -m pg_outbox worker app:worker    # the workers, the projection and the periodic report

DATABASE_URL is the database for both. `python app.py` creates the tables.
"""

import asyncio
import datetime as dt
import os
from collections.abc import AsyncIterator
from typing import Annotated

import pg_outbox
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DSN = os.environ["DATABASE_URL"]
engine = create_async_engine(DSN.replace("postgresql://", "postgresql+asyncpg://", 1))
Session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    amount: Mapped[int]
    billed: Mapped[bool] = mapped_column(default=False)


class Total(Base):
    """A projection: the orders of each customer."""

    __tablename__ = "totals"
    customer: Mapped[str] = mapped_column(primary_key=True)
    orders: Mapped[int]
    amount: Mapped[int]


class NewOrder(BaseModel):
    customer: str
    amount: int = Field(gt=0)


class OrderCreated(BaseModel):
    """The payload of order.created."""

    order_id: int = Field(alias="orderId")
    customer: str
    amount: int


class NotBillable(Exception):
    """The order can never be billed."""


# The service.

api = FastAPI()


async def transaction() -> AsyncIterator[AsyncSession]:
    async with Session.begin() as session:
        yield session


Transaction = Annotated[AsyncSession, Depends(transaction, scope="function")]


@api.post("/orders", status_code=201)
async def create_order(new: NewOrder, session: Transaction) -> dict[str, int]:
    order = Order(customer=new.customer, amount=new.amount)
    session.add(order)
    await session.flush()
    created = OrderCreated(orderId=order.id, customer=order.customer, amount=order.amount)
    await pg_outbox.enqueue(session, "order.created", created, key=f"customer-{order.customer}")
    if new.customer == "blocked":
        raise HTTPException(422, "this customer may not order")  # neither the order nor the message is committed
    return {"id": order.id}


@api.get("/totals/{customer}")
async def totals(customer: str, session: Transaction) -> dict[str, int]:
    total = await session.get(Total, customer)
    return {"orders": total.orders, "amount": total.amount} if total else {"orders": 0, "amount": 0}


@api.post("/hooks", status_code=204)
async def hook(request: Request) -> Response:
    """Receives what pg_outbox pushes, if an endpoint points here."""
    try:
        pg_outbox.verify(os.environ["WEBHOOK_SECRET"], request.headers, await request.body())
    except pg_outbox.InvalidError as error:
        raise HTTPException(401, error.message) from error
    return Response(status_code=204)


# The worker application.

worker = pg_outbox.App(DSN)
billing = worker.subscription("billing", max_attempts=8, ordering="key")


@billing.on("order.created", concurrency=4, dead_on=NotBillable)
async def bill(order: OrderCreated, delivery: pg_outbox.Delivery) -> str:
    if order.amount > 10_000:
        raise NotBillable("the amount is above the limit")
    await asyncio.sleep(0.2)  # the call of a payment service; delivery.webhook_id is its idempotency key
    async with Session.begin() as session:
        await session.execute(update(Order).where(Order.id == order.order_id).values(billed=True))
    return f"invoice-{order.order_id}"


@worker.projection("totals", ["order.created"], begin=Session.begin)
async def project(session: AsyncSession, messages: list[pg_outbox.Message]) -> None:
    for message in messages:
        order = message.json(OrderCreated)
        total = await session.scalar(select(Total).where(Total.customer == order.customer).with_for_update())
        if total is None:
            await session.execute(insert(Total).values(customer=order.customer, orders=1, amount=order.amount))
        else:
            total.orders, total.amount = total.orders + 1, total.amount + order.amount
            await session.flush()


@worker.periodic("0 3 * * *", topic="report.daily")
def report(tick: dt.datetime) -> dict[str, str]:
    return {"day": tick.date().isoformat()}


async def create_tables() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(create_tables())
