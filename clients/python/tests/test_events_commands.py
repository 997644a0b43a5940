"""The command bus: order of middleware, transactions, retries, and commands that are processed once."""

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time

import asyncpg
import pg_outbox
import psycopg
import pydantic
import pytest
import sqlalchemy as sa
from pg_outbox.events import (
    NO_STREAM,
    Backoff,
    BusClosedError,
    CommandBus,
    CommandFailedError,
    CommandTimeoutError,
    ConcurrencyError,
    EventStore,
    FieldError,
    HandlerNotFoundError,
    NewEvent,
    ReplayedError,
    ValidationError,
    current,
    event_context,
    middleware,
)
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

store = EventStore()


@dataclasses.dataclass
class Place:
    order: str
    amount: int = 1
    idempotency_key: str | None = None
    tenant: str | None = None

    def validate(self):
        if self.amount < 0:
            yield FieldError("amount", "is negative")
        if not self.order:
            yield FieldError("order", "is empty")


class Pay(pydantic.BaseModel):
    order: str
    by: str = "card"


def place(conn, command):
    store.append(conn, f"order-{command.order}", [NewEvent("order.placed", {"amount": command.amount})], NO_STREAM)
    return {"order": command.order}


def bus(dsn, *used):
    made = CommandBus(lambda: psycopg.connect(dsn))
    made.register(Place, place)
    made.use(*used)
    return made


def streams(dsn):
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute("select stream from outbox.streams()")]


def test_a_command_has_a_transaction_of_its_own(dsn):
    made = bus(dsn)

    @made.handler(Pay)
    def pay(conn, command):
        store.append(conn, f"order-{command.order}", [NewEvent("order.paid")])
        raise KeyError("no")

    assert made.dispatch(Place("1")) == {"order": "1"}
    with pytest.raises(KeyError):
        made.dispatch(Pay(order="2"))
    assert streams(dsn) == ["order-1"]
    with psycopg.connect(dsn) as conn:
        made.dispatch(Place("3"), conn)
        conn.rollback()
    assert made.dispatch_all([Place("4"), Place("5")]) == [{"order": "4"}, {"order": "5"}]
    with pytest.raises(ConcurrencyError):
        made.dispatch_all([Place("6"), Place("4"), Place("7")])
    assert streams(dsn) == ["order-1", "order-4", "order-5", "order-6"]
    with pytest.raises(HandlerNotFoundError):
        made.dispatch("unknown")
    with pytest.raises(HandlerNotFoundError):
        made.dispatch(None)
    with pytest.raises(ValueError):
        made.register(Place, place)
    made.close()
    with pytest.raises(BusClosedError):
        made.dispatch(Place("8"))


async def test_async_handlers(dsn):
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    made = CommandBus(async_sessionmaker(engine).begin)
    order = []

    @made.handler(Place)
    async def handle(session, command):
        assert isinstance(session, AsyncSession)
        await store.append(session, f"order-{command.order}", [NewEvent("a")], NO_STREAM)
        return command.order

    async def outer(call, call_next):
        order.append(("outer", call.conn is None))
        result = await call_next(call)
        return result + "!"

    def plain(call, call_next):
        order.append(("plain", call.conn is None))
        return call_next(call)

    made.use(outer, plain, middleware.retry(Backoff(2, 0.01)), middleware.idempotency())
    assert await made.adispatch(Place("1")) == "1!" and await made.adispatch(Place("1")) == "1!"
    assert order[:2] == [("outer", True), ("plain", True)]
    assert await made.adispatch_all([Place("2"), Place("3")]) == ["2!", "3!"]
    assert streams(dsn) == ["order-1", "order-2", "order-3"]
    await engine.dispose()


def test_middleware_runs_in_the_order_of_its_addition(dsn):
    seen = []

    def named(name):
        def around(call, call_next):
            seen.append(name)
            try:
                return call_next(call)
            finally:
                seen.append("/" + name)

        return around

    made = bus(dsn, named("a"), middleware.chain(named("b"), named("c")), middleware.when(lambda c: c.order == "2", named("d")))
    made.use(middleware.for_types([Pay], named("e")), named("f"))
    made.dispatch(Place("1"))
    assert seen == ["a", "b", "c", "f", "/f", "/c", "/b", "/a"]
    seen.clear()
    made.dispatch(Place("2"))
    assert "d" in seen and "e" not in seen


def test_validation_names_each_field(dsn):
    made = bus(dsn, middleware.validation({Pay: lambda command: {"by": "is unknown"} if command.by == "x" else None}))
    made.register(Pay, lambda conn, command: "paid")
    with pytest.raises(ValidationError) as caught:
        made.dispatch(Place("", -1))
    assert caught.value.errors == (FieldError("amount", "is negative"), FieldError("order", "is empty"))
    assert caught.value.kind == "invalid" and isinstance(caught.value, pg_outbox.OutboxError) and "amount: is negative" in str(caught.value)
    with pytest.raises(ValidationError, match="by: is unknown"):
        made.dispatch(Pay(order="1", by="x"))
    assert made.dispatch(Pay(order="1")) == "paid" and streams(dsn) == []


def test_recovery_logging_and_metrics(dsn, caplog):
    recorded = []
    made = bus(dsn, middleware.metrics(lambda *one: recorded.append(one)), middleware.logging(), middleware.recovery())

    @made.handler(Pay)
    def pay(conn, command):
        raise KeyError("secret")

    with caplog.at_level(logging.INFO, "pg_outbox.events"):
        made.dispatch(Place("1"))
        with pytest.raises(CommandFailedError) as caught:
            made.dispatch(Pay(order="1"))
    assert isinstance(caught.value.__cause__, KeyError) and "secret" not in caplog.text
    assert 'command "Place" was processed' in caplog.text and 'command "Pay" has failed' in caplog.text
    assert [one[:2] for one in recorded] == [("Place", True), ("Pay", False)] and recorded[0][2] > 0
    with pytest.raises(ConcurrencyError):
        made.dispatch(Place("1"))


def test_retry_begins_a_new_transaction(dsn):
    made, calls = bus(dsn, middleware.retry(Backoff(3, 0.01))), []

    @made.handler(Pay)
    def pay(conn, command):
        calls.append(conn)
        if len(calls) < 3:
            store.append(conn, "order-1", [NewEvent("a")], 7)
        store.append(conn, "order-1", [NewEvent("a")], NO_STREAM)

    made.dispatch(Pay(order="1"))
    assert len(set(map(id, calls))) == 3 and streams(dsn) == ["order-1"]
    calls[:] = []
    with psycopg.connect(dsn) as conn, pytest.raises(ConcurrencyError):
        made.dispatch(Pay(order="1"), conn)
    assert len(calls) == 1, "the transaction of the caller is not begun again"
    attempts = []

    def lost(conn, command):
        attempts.append(1)
        conn.execute("select pg_terminate_backend(pg_backend_pid())")

    made.register("Lost", lost)
    with pytest.raises(psycopg.OperationalError):
        made.dispatch(type("Lost", (), {})())
    assert len(attempts) == 3


def test_an_error_of_the_program_is_not_tried_again(dsn):
    made, calls = bus(dsn, middleware.retry(Backoff(3, 0.01))), []

    @made.handler(Pay)
    def pay(conn, command):
        calls.append(1)
        try:
            with conn.transaction():
                store.append(conn, "order-1", [NewEvent("a")], 7)
        except ConcurrencyError:
            raise KeyError("too late") from None

    with pytest.raises(KeyError):
        made.dispatch(Pay(order="1"))
    assert len(calls) == 1


def test_stored_errors_in_a_transaction_of_the_caller(dsn):
    made = CommandBus()
    made.use(middleware.idempotency(store_errors=True))
    made.register(Place, lambda conn, command: 1 / 0)
    with psycopg.connect(dsn) as conn:
        with pytest.raises(ZeroDivisionError):
            made.dispatch(Place("1"), conn)
        conn.commit()
        with pytest.raises(ReplayedError):
            made.dispatch(Place("1"), conn)
    late = CommandBus()
    late.use(middleware.timeout(0.05))
    late.register(Place, lambda conn, command: time.sleep(0.1))
    with psycopg.connect(dsn) as conn, pytest.raises(CommandTimeoutError):
        late.dispatch(Place("1"), conn)


def test_time_outs(dsn):
    made = bus(dsn, middleware.timeout(0.3))

    @made.handler(Pay)
    def pay(conn, command):
        store.append(conn, "order-9", [NewEvent("a")])
        if command.by == "server":
            conn.execute("select pg_sleep(60)")
        time.sleep(0.4)

    for by in ("server", "client"):
        with pytest.raises(CommandTimeoutError):
            made.dispatch(Pay(order="1", by=by))
    assert streams(dsn) == []
    made.dispatch(Place("1"))


async def test_time_outs_in_asyncio(dsn):
    made = CommandBus(lambda: psycopg.AsyncConnection.connect(dsn))
    made.use(middleware.timeout(0.2))

    @made.handler(Place)
    async def handle(conn, command):
        await store.append(conn, "order-9", [NewEvent("a")])
        await asyncio.sleep(60)

    with pytest.raises(CommandTimeoutError) as caught:
        await made.adispatch(Place("1"))
    assert caught.value.kind == "retry" and streams(dsn) == []


def test_the_context_of_a_command(dsn):
    made, seen = bus(dsn, middleware.correlation(), middleware.causation(), middleware.tenant()), []

    @made.handler("Look")
    def look(conn, command):
        seen.append(current())

    def command(**fields):
        return type("Look", (), fields)()

    made.dispatch(command(tenant="t", correlation_id="c", command_id="k"))
    with event_context(tenant="u", correlation_id="d"):
        made.dispatch(command())
    assert (seen[0].tenant, seen[0].correlation_id, seen[0].causation_id) == ("t", "c", "k")
    assert (seen[1].tenant, seen[1].correlation_id) == ("u", "d") and len(seen[1].causation_id) == 36
    with pytest.raises(ValidationError) as caught:
        made.dispatch(command())
    assert caught.value.errors[0].field == "tenant" and current().tenant is None
    optional = bus(dsn, middleware.tenant(required=False))
    optional.register("Look", look)
    optional.dispatch(command())
    assert seen[-1].tenant is None


def test_a_command_is_processed_once(dsn):
    made = bus(dsn, middleware.retry(Backoff(3, 0.01)), middleware.idempotency())
    assert made.dispatch(Place("1", idempotency_key="k")) == {"order": "1"}
    assert made.dispatch(Place("1", idempotency_key="k")) == {"order": "1"}
    with pytest.raises(pg_outbox.ConflictError) as caught:
        made.dispatch(Place("2", idempotency_key="k"))
    assert caught.value.code == "OB008"
    assert made.dispatch(Place("3")) == {"order": "3"} and made.dispatch(Place("3")) == {"order": "3"}, "by its content"
    fails = []

    @made.handler(Pay)
    def pay(conn, command):
        fails.append(1)
        raise KeyError("x")

    for _ in range(2):
        with pytest.raises(KeyError):
            made.dispatch(Pay(order="1"))
    assert len(fails) == 2, "a failed command is not remembered"
    field = bus(dsn, middleware.idempotency("order", skip=[Pay], ttl=None))
    count = []
    field.register(Pay, lambda conn, command: count.append(1))
    field.dispatch(Place("5"))
    field.dispatch(Place("5"))
    field.dispatch(Pay(order="5"))
    field.dispatch(Pay(order="5"))
    assert len(count) == 2
    with psycopg.connect(dsn, autocommit=True) as conn:
        with pytest.raises(pg_outbox.InvalidError, match="needs a transaction"):
            made.dispatch(Place("9"), conn)
        with conn.transaction():
            made.dispatch(Place("9"), conn)
    with pytest.raises(pg_outbox.InvalidError, match="transaction"):
        nowhere = CommandBus()
        nowhere.use(middleware.idempotency())
        nowhere.dispatch(Place("1"))


def test_a_second_command_waits_for_the_first(dsn):
    begun, go, results = threading.Event(), threading.Event(), []
    made = bus(dsn, middleware.idempotency())

    @made.handler(Pay)
    def pay(conn, command):
        begun.set()
        assert go.wait(60)
        store.append(conn, "order-1", [NewEvent("paid")])
        return len(results)

    threads = [threading.Thread(target=lambda: results.append(made.dispatch(Pay(order="1")))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    go.set()
    for thread in threads:
        thread.join(60)
    with psycopg.connect(dsn) as conn:
        assert len(store.load(conn, "order-1")) == 1 and len(set(results)) == 1 and len(results) == 3


@pytest.mark.parametrize("driver", ["psycopg", "sqlalchemy", "asyncpg", "async psycopg", "django"])
async def test_errors_can_be_stored(dsn, driver):
    engine = sa.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))

    @contextlib.asynccontextmanager
    async def by_asyncpg():
        conn = await asyncpg.connect(dsn)
        try:
            async with conn.transaction():
                yield conn
        finally:
            await conn.close()

    begin = {
        "psycopg": lambda: psycopg.connect(dsn), "sqlalchemy": lambda: Session(engine), "asyncpg": by_asyncpg,
        "async psycopg": lambda: psycopg.AsyncConnection.connect(dsn), "django": lambda: django(dsn),
    }[driver]
    is_async = "async" in driver
    made, calls = CommandBus(begin), []
    made.use(middleware.retry(Backoff(1)), middleware.idempotency(store_errors=True))

    def fail(conn, command):
        calls.append(1)
        done = store.append(conn, "order-1", [NewEvent("a")])
        if is_async:
            async def wait():
                await done
                raise KeyError("no such order")
            return wait()
        raise KeyError("no such order")

    made.register(Place, fail)
    for expected in (KeyError, ReplayedError):
        with pytest.raises(expected) as caught:
            await made.adispatch(Place("1")) if is_async else made.dispatch(Place("1"))
    assert caught.value.error == {"type": "KeyError", "message": "'no such order'"} and len(calls) == 1 and streams(dsn) == []
    made.register(Pay, lambda conn, command: store.append(conn, "order-1", [NewEvent("a")], 7))
    for _ in range(2):
        with pytest.raises(ConcurrencyError):
            await made.adispatch(Pay(order="1")) if is_async else made.dispatch(Pay(order="1"))
    engine.dispose()


def test_autocommit_of_django_and_asyncpg_is_seen(dsn):
    made = CommandBus()
    made.use(middleware.idempotency())
    made.register(Place, lambda conn, command: None)
    atomic = django(dsn)
    from django.db import connections

    conn = connections["commands"]
    with pytest.raises(pg_outbox.InvalidError, match="needs a transaction"):
        made.dispatch(Place("1"), conn)
    with atomic:
        made.dispatch(Place("1"), conn)
    conn.close()

    async def run():
        conn = await asyncpg.connect(dsn)
        with pytest.raises(pg_outbox.InvalidError, match="needs a transaction"):
            await made.adispatch(Place("2"), conn)
        async with conn.transaction():
            await made.adispatch(Place("2"), conn)
        await conn.close()

    asyncio.run(run())


def django(dsn):
    from django.conf import settings
    from django.db import connections

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}})
    import os

    from django.db import transaction

    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    parts = sa.make_url(dsn)
    connections.databases["commands"] = connections.configure_settings({"default": {}, "commands": {
        "ENGINE": "django.db.backends.postgresql", "NAME": parts.database, "USER": parts.username, "PASSWORD": parts.password,
        "HOST": parts.host, "PORT": parts.port,
    }})["commands"]
    return transaction.atomic(using="commands")


def test_keys_of_idempotency_have_the_form_of_all_clients(dsn):
    import hashlib

    made = bus(dsn, middleware.tenant(required=False), middleware.idempotency())
    assert made.dispatch(Place("1", idempotency_key="k")) == {"order": "1"}
    made.dispatch(Place("2", idempotency_key="k", tenant="a"))
    made.register(Pay, lambda conn, command: None)
    made.dispatch(Pay(order="ä"))
    with event_context(tenant="t" * 200):
        made.dispatch(Place("3", idempotency_key="k" * 200))
    plain = '{"by":"card","order":"ä"}'
    with psycopg.connect(dsn) as conn:
        keys = [row[0] for row in conn.execute("select key from outbox.command order by begun_at")]
        (stored,) = conn.execute("select content_hash from outbox.command where key like 'Pay:%' order by begun_at limit 1").fetchone()
        (server,) = conn.execute("select sha256(convert_to(cast(cast(%s as text)::jsonb as text), 'UTF8'))", [plain]).fetchone()
    assert keys[:3] == ["Place:k", "Place:a:k", "Pay:" + hashlib.sha256(plain.encode()).hexdigest()]
    assert keys[3] == "Place:" + hashlib.sha256(("t" * 200 + ":" + "k" * 200).encode()).hexdigest() and stored == server


def test_a_time_out_behind_idempotency_ends_the_command(dsn):
    made = bus(dsn, middleware.idempotency(), middleware.timeout(0.3))

    @made.handler(Pay)
    def pay(conn, command):
        store.append(conn, "order-9", [NewEvent("a")])
        if command.by == "server":
            conn.execute("select pg_sleep(60)")
        time.sleep(0.4)

    for by in ("server", "client"):
        with pytest.raises(CommandTimeoutError):
            made.dispatch(Pay(order="1", by=by))
    assert streams(dsn) == []
    with psycopg.connect(dsn) as conn:
        conn.execute("set local statement_timeout = '7s'")
        made.dispatch(Place("1"), conn)
        assert conn.execute("show statement_timeout").fetchone() == ("7s",)


def test_the_first_of_several_time_outs_ends_a_command(dsn):
    made = bus(dsn, middleware.timeout(0.2), middleware.timeout(60))
    made.register(Pay, lambda conn, command: time.sleep(0.3))
    with pytest.raises(CommandTimeoutError):
        made.dispatch(Pay(order="1"))


async def test_a_time_out_of_the_handler_is_its_own():
    made = CommandBus()
    made.use(middleware.timeout(60))

    @made.handler(Pay)
    async def pay(conn, command):
        raise TimeoutError("of a socket")

    with pytest.raises(TimeoutError, match="of a socket"):
        await made.adispatch(Pay(order="1"))


def test_a_command_that_has_timed_out_is_not_tried_again(dsn):
    calls = []

    def slow(conn, command):
        calls.append(1)
        conn.execute("select pg_sleep(60)")

    for used in ((middleware.retry(Backoff(3, 0.01), on=lambda error: True), middleware.timeout(0.2)),
                 (middleware.timeout(0.2), middleware.retry(Backoff(3, 0.01), on=lambda error: True))):
        made = bus(dsn, *used)
        made.register(Pay, slow)
        with pytest.raises(CommandTimeoutError):
            made.dispatch(Pay(order="1"))
    assert len(calls) == 2


def test_retry_begins_a_transaction_wherever_it_is_allowed(dsn):
    for wrong in (
        lambda: CommandBus().use(middleware.idempotency(), middleware.retry()),
        lambda: CommandBus().use(middleware.chain(middleware.idempotency(), middleware.retry())),
        lambda: middleware.when(lambda command: True, middleware.chain(middleware.retry(), middleware.idempotency())),
    ):
        with pytest.raises(ValueError, match="retry"):
            wrong()
    made, calls = bus(dsn, middleware.chain(middleware.retry(Backoff(3, 0.01)), middleware.idempotency())), []

    @made.handler(Pay)
    def pay(conn, command):
        calls.append(1)
        store.append(conn, "order-1", [NewEvent("a")], 7 if len(calls) < 3 else NO_STREAM)

    made.dispatch(Pay(order="1"))
    assert len(calls) == 3


def test_an_attempt_whose_commit_has_failed_leaves_nothing(dsn):
    commits = []

    @contextlib.contextmanager
    def begin():
        with psycopg.connect(dsn) as conn:
            yield conn
            commits.append(1)
            if len(commits) == 1:
                raise pg_outbox.RetryError("lost", code="08006", name="connection_failure")

    made, calls = CommandBus(begin), []
    made.use(middleware.retry(Backoff(3, 0.01)), middleware.idempotency(store_errors=True))

    @made.handler(Pay)
    def pay(conn, command):
        calls.append(1)
        if len(calls) == 1:
            raise KeyError("no")
        return "paid"

    assert made.dispatch(Pay(order="1")) == "paid" and len(calls) == 2


def test_only_rejections_are_stored(dsn):
    class Refused(Exception):
        pass

    made, errors = bus(dsn, middleware.idempotency(store_errors=True)), []

    @made.handler(Pay)
    def pay(conn, command):
        errors.append(1)
        if command.by == "driver":
            conn.execute("select 'secret'::int")
        if command.by == "model":
            Pay(order=5)
        raise Refused("a\0b\ud800" + "x" * 2000)

    for by, expected in (("driver", psycopg.Error), ("model", pydantic.ValidationError)):
        for _ in range(2):
            with pytest.raises(expected):
                made.dispatch(Pay(order="1", by=by))
    assert len(errors) == 4
    for expected in (Refused, ReplayedError):
        with pytest.raises(expected) as caught:
            made.dispatch(Pay(order="1", by="shop"))
    assert caught.value.error == {"type": "Refused", "message": "ab" + "x" * 996}
    some = bus(dsn, middleware.idempotency(store_errors=(LookupError,)))
    some.register(Pay, pay)
    for _ in range(2):
        with pytest.raises(Refused):
            some.dispatch(Pay(order="2", by="shop"))
