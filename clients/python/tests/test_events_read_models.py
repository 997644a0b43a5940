"""Read models do the same over SQLAlchemy and in memory: tests/conformance/toolkit/read_models.json, and what Python adds."""

import dataclasses
import datetime as dt
import inspect
import json
import pathlib

import pg_outbox
import psycopg
import pydantic
import pytest
import sqlalchemy as sa
from pg_outbox.events.read_models import InMemoryReadModel, Page, ReadModel
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from test_conformance import match

CASES = json.loads((pathlib.Path(__file__).resolve().parents[3] / "tests/conformance/toolkit/read_models.json").read_text())
TYPES = {
    "int": sa.Integer, "text": sa.Text, "boolean": sa.Boolean, "text[]": pg.ARRAY(sa.Text), "jsonb": pg.JSONB(none_as_null=True),
    "timestamptz": sa.DateTime(timezone=True),
}
METADATA = sa.MetaData()
TABLES = {
    name: sa.Table(name, METADATA, *(sa.Column(column, TYPES[kind], primary_key=column in table["key"]) for column, kind in table["columns"].items()))
    for name, table in CASES["tables"].items()
}


@dataclasses.dataclass
class Pair:
    a: int
    b: str


class Model(pydantic.BaseModel):
    id: int
    name: str | None
    amount: int | None = None
    tags: list[str] | None = None


@pytest.fixture
def table(dsn):
    with psycopg.connect(dsn) as conn:
        for name, one in CASES["tables"].items():
            columns = ", ".join(f"{column} {kind}" for column, kind in one["columns"].items())
            conn.execute(f"create table {name} ({columns}, primary key ({', '.join(one['key'])}))")
    return dsn


async def got(value):
    return await value if inspect.isawaitable(value) else value


def given(name, value):
    """Returns a value of a step as Python has it: times, and keys of several columns."""
    if isinstance(value, dict):
        return {one: time(item) if one == "at" else item for one, item in value.items()}
    if name == "where":
        return [(*one[:2], *(map(time, one[2:]) if one[0] == "at" else one[2:])) for one in value]
    if name == "key":
        return tuple(value) if isinstance(value, list) else value
    return [given("key", key) for key in value] if name == "keys" else value


def time(value):
    return value if value is None else dt.datetime.fromisoformat(value.replace("Z", "+00:00").replace(".5+", ".500000+"))


def plain(value):
    """Returns a result as the steps expect it."""
    if isinstance(value, Page):
        return {"items": [plain(item) for item in value.items], "has_more": value.has_more, "total": value.total}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: item.astimezone(dt.timezone.utc) if isinstance(item, dt.datetime) else item for name, item in value.items()}
    return value


def wanted(value):
    if isinstance(value, list):
        return [wanted(item) for item in value]
    if isinstance(value, dict):
        return {name: time(item) if name == "at" else wanted(item) for name, item in value.items()}
    return value


def call(model, conn, do, args):
    args = {name: given(name, value) for name, value in args.items() if name != "table"}
    if do in ("insert", "upsert"):
        return getattr(model, do)(conn, args["row"])
    if do == "update":
        return model.update(conn, args["key"], **args["values"])
    if do in ("get", "delete", "get_many"):
        return getattr(model, do)(conn, args["keys" if do == "get_many" else "key"])
    assert do in ("find", "find_one", "count", "delete_many", "clear"), do
    return getattr(model, do)(conn, **args)


async def run(conn, models):
    for i, step in enumerate(CASES["steps"]):
        assert set(step) <= {"do", "args", "expect", "error"}
        where = f"step {i + 1} ({step['do']} {step['args']})"
        if "error" in step:
            with pytest.raises(pg_outbox.OutboxError) as caught:
                await got(call(models[step["args"]["table"]], conn, step["do"], step["args"]))
            assert {"kind": caught.value.kind, "code": caught.value.code, "name": caught.value.name} == step["error"], where
            continue
        result = plain(await got(call(models[step["args"]["table"]], conn, step["do"], step["args"])))
        if "expect" in step:
            match(result, wanted(step["expect"]), where)


async def test_blocking(table):
    engine = sa.create_engine(table.replace("postgresql://", "postgresql+psycopg://"))
    with Session(engine) as session:
        await run(session, {name: ReadModel(one) for name, one in TABLES.items()})
    with engine.begin() as conn:
        pairs = ReadModel(TABLES["pairs"], Pair)
        pairs.insert(conn, Pair(1, "x"))
        assert pairs.get(conn, (1, "x")) == Pair(1, "x") and pairs.find(conn) == Page([Pair(1, "x")], False)
        models = ReadModel(TABLES["totals"])
        models.insert(conn, Model(id=1, name="a", amount=1, tags=[]))
        assert models.get(conn, 1)["name"] == "a"
    with pytest.raises(pg_outbox.InvalidError):
        pairs.get(engine, (1, "x"))
    engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_async(table, driver):
    engine = create_async_engine(table.replace("postgresql://", f"postgresql+{driver}://"))
    async with AsyncSession(engine) as session:
        await run(session, {name: ReadModel(one) for name, one in TABLES.items()})
    await engine.dispose()


@pytest.mark.parametrize("is_async", [False, True])
async def test_in_memory(is_async):
    models = {
        name: InMemoryReadModel(key=one["key"], columns=list(one["columns"]), is_async=is_async) for name, one in CASES["tables"].items()
    }
    await run(None, models)
    pending = models["totals"].count(None)
    assert inspect.isawaitable(pending) == is_async
    await got(pending)
    of_a_class = InMemoryReadModel(Model)
    of_a_class.insert(None, {"id": 1, "name": "a"})
    assert of_a_class.get(None, 1) == Model(id=1, name="a")
    with pytest.raises(pg_outbox.InvalidError):
        of_a_class.find(None, where=[("nope", "=", 1)])
