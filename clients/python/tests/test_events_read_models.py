"""Read models do the same over SQLAlchemy and in memory."""

import dataclasses
import inspect

import pg_outbox
import psycopg
import pydantic
import pytest
import sqlalchemy as sa
from pg_outbox.events.read_models import InMemoryReadModel, Page, ReadModel
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

TABLE = sa.Table(
    "totals", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text), sa.Column("amount", sa.Integer),
    sa.Column("tags", pg.ARRAY(sa.Text)),
)
PAIRS = sa.Table("pairs", sa.MetaData(), sa.Column("a", sa.Integer, primary_key=True), sa.Column("b", sa.Text, primary_key=True))


@dataclasses.dataclass
class Total:
    id: int
    name: str | None = None
    amount: int | None = None
    tags: list[str] = dataclasses.field(default_factory=list)


class Model(pydantic.BaseModel):
    id: int
    name: str | None
    amount: int | None
    tags: list[str]


ROWS = [
    Total(1, "ann", 10, ["a"]), Total(2, "bob", 20, ["a", "b"]), Total(3, "cid", None, []), Total(4, None, 40, ["c"]), Total(5, "a%b", 50, ["b"]),
]


@pytest.fixture
def table(dsn):
    with psycopg.connect(dsn) as conn:
        conn.execute("create table totals (id int primary key, name text, amount int, tags text[])")
        conn.execute("create table pairs (a int, b text, primary key (a, b))")
    return dsn


async def got(value):
    return await value if inspect.isawaitable(value) else value


async def scenario(conn, model):
    ids = lambda page: [one.id for one in page.items]
    for row in ROWS:
        await got(model.insert(conn, row))
    assert await got(model.get(conn, 2)) == ROWS[1]
    assert await got(model.get_many(conn, [4, 99, 1])) == [ROWS[3], ROWS[0]] and await got(model.get_many(conn, [])) == []
    for where, expected in (
        ([("amount", "=", 10)], [1]), ([("amount", "!=", 10)], [2, 4, 5]), ([("amount", ">", 20)], [4, 5]), ([("amount", ">=", 20)], [2, 4, 5]),
        ([("amount", "<", 20)], [1]), ([("amount", "<=", 20)], [1, 2]), ([("id", "in", [1, 5])], [1, 5]), ([("id", "not in", [1, 5])], [2, 3, 4]),
        ([("name", "like", "a%")], [1, 5]), ([("amount", "is null")], [3]), ([("amount", "is not null")], [1, 2, 4, 5]),
        ([("tags", "contains", "b")], [2, 5]), ([("amount", "between", 10, 40)], [1, 2, 4]), ([("amount", ">", 10), ("name", "like", "b%")], [2]),
        ([("amount", "not in", [10])], [2, 4, 5]), ([("name", "=", "'; drop table totals --")], []),
    ):
        assert ids(await got(model.find(conn, where=where))) == expected, where
        assert await got(model.count(conn, where=where)) == len(expected)
    assert ids(await got(model.find(conn, order=["-amount"]))) == [3, 5, 4, 2, 1] and ids(await got(model.find(conn, order=["amount"]))) == [1, 2, 4, 5, 3]
    page = await got(model.find(conn, limit=2, offset=2, with_total=True))
    assert (ids(page), page.has_more, page.total) == ([3, 4], True, 5)
    assert (await got(model.find(conn, limit=2, offset=3))) == Page(ROWS[3:], False, None)
    assert (await got(model.find_one(conn, where=[("amount", ">", 10)], order=["-id"]))).id == 5
    assert await got(model.find_one(conn, where=[("amount", ">", 100)])) is None
    with pytest.raises(pg_outbox.ConflictError):
        await got(model.insert(conn, ROWS[0]))
    await got(model.update(conn, 1, amount=11))
    await got(model.upsert(conn, Total(2, "new", 21, [])))
    await got(model.upsert(conn, {"id": 6, "name": "f", "amount": 1, "tags": []}))
    assert (await got(model.get(conn, 1))).amount == 11 and (await got(model.get(conn, 2))).name == "new" and (await got(model.get(conn, 6))).name == "f"
    await got(model.delete(conn, 6))
    for call in (lambda: model.get(conn, 6), lambda: model.update(conn, 6, amount=1), lambda: model.delete(conn, 6)):
        with pytest.raises(pg_outbox.NotFoundError):
            await got(call())
    for call in (
        lambda: model.find(conn, where=[("nope", "=", 1)]), lambda: model.find(conn, where=[("name", "~", 1)]), lambda: model.find(conn, order=["nope"]),
        lambda: model.find(conn, limit=0), lambda: model.find(conn, limit=10**6), lambda: model.find(conn, where=[("amount", "between", 1)]),
        lambda: model.find(conn, where=[("name",)]), lambda: model.delete_many(conn, where=[]), lambda: model.insert(conn, 5), lambda: model.update(conn, 1, nope=1),
    ):
        with pytest.raises(pg_outbox.InvalidError):
            await got(call())
    assert await got(model.delete_many(conn, where=[("amount", ">=", 40)])) == 2
    assert await got(model.clear(conn)) == 3 and await got(model.count(conn)) == 0


async def test_blocking(table):
    engine = sa.create_engine(table.replace("postgresql://", "postgresql+psycopg://"))
    with Session(engine) as session:
        await scenario(session, ReadModel(TABLE, Total))
    with engine.begin() as conn:
        pairs = ReadModel(PAIRS)
        pairs.upsert(conn, {"a": 1, "b": "x"})
        pairs.upsert(conn, {"a": 1, "b": "x"})
        assert pairs.get(conn, (1, "x")) == {"a": 1, "b": "x"} and pairs.count(conn) == 1
        with pytest.raises(pg_outbox.InvalidError):
            pairs.get(conn, 1)
        models = ReadModel(TABLE, Model)
        models.insert(conn, Model(id=1, name="a", amount=1, tags=[]))
        assert isinstance(models.get(conn, 1), Model)
    with pytest.raises(pg_outbox.InvalidError):
        pairs.get(engine, (1, "x"))
    engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_async(table, driver):
    engine = create_async_engine(table.replace("postgresql://", f"postgresql+{driver}://"))
    async with AsyncSession(engine) as session:
        await scenario(session, ReadModel(TABLE, Total))
    await engine.dispose()


@pytest.mark.parametrize("is_async", [False, True])
async def test_in_memory(is_async):
    model = InMemoryReadModel(Total, is_async=is_async)
    await scenario(None, model)
    pending = model.count(None)
    assert inspect.isawaitable(pending) == is_async
    await got(pending)
