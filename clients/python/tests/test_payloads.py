"""Payloads go and come as the types of the program, with pydantic and without it."""

import dataclasses
import datetime as dt
import decimal
import enum
import importlib.util
import json
import threading
import typing
import uuid

import pg_outbox
import psycopg
import pydantic
import pytest
from pg_outbox import _payload
from pg_outbox._payload import build
from pg_outbox._rows import dumps
from pg_outbox.testing import Receiver, assert_enqueued, assert_not_enqueued


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Line:
    sku: str
    price: decimal.Decimal
    color: Color | None = None


@dataclasses.dataclass
class Cart:
    id: uuid.UUID
    at: dt.datetime
    day: dt.date
    lines: list[Line]
    by_name: dict[str, Line]
    pair: tuple[int, str]
    wait: dt.timedelta
    note: str | None = None


class Address(pydantic.BaseModel):
    street_name: str = pydantic.Field(alias="streetName")


class Customer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    customer_id: int = pydantic.Field(alias="customerId")
    addresses: list[Address] = []
    since: dt.datetime


class Paid(typing.TypedDict):
    order: int


LINE = Line("a", decimal.Decimal("1.50"), Color.RED)
CART = Cart(
    uuid.UUID(int=5), dt.datetime(2026, 1, 2, 3, tzinfo=dt.timezone.utc), dt.date(2026, 1, 2), [LINE, Line("b", decimal.Decimal(2))],
    {"a": LINE}, (1, "x"), dt.timedelta(seconds=90),
)
CUSTOMER = Customer(customerId=7, addresses=[Address(streetName="Ring")], since=CART.at)


def messages(dsn, *payloads):
    with psycopg.connect(dsn) as conn:
        for payload in payloads:
            pg_outbox.enqueue(conn, "t", payload)
    reader = pg_outbox.Outbox(dsn).reader(topics=["t"], poll_interval=0.02)
    return [next(reader) for _ in payloads]


def test_models_dataclasses_and_generics_come_back(dsn):
    cart, customer, many, paid = messages(dsn, CART, CUSTOMER, [CUSTOMER, CUSTOMER], {"order": 1})
    assert cart.json(Cart) == CART
    assert customer.json(Customer) == CUSTOMER and "customerId" in customer.payload and "streetName" in customer.payload["addresses"][0]
    assert many.json(list[Customer]) == [CUSTOMER, CUSTOMER]
    assert many.json(pydantic.TypeAdapter(list[Customer])) == [CUSTOMER, CUSTOMER]
    assert paid.json(Paid) == {"order": 1}
    with pytest.raises(pg_outbox.InvalidError) as caught:
        paid.json(Customer)
    assert caught.value.detail.startswith("customerId: Field required; since: ")


def test_a_malformed_payload_is_not_repeated_in_the_error(dsn):
    (message,) = messages(dsn, {"order": "a-secret-text"})
    for into in (Paid, pydantic.create_model("Order", order=(int, ...))):
        with pytest.raises(pg_outbox.InvalidError) as caught:
            message.json(into)
        assert caught.value.detail.startswith("order: ") and "a-secret-text" not in str(caught.value)


def test_dataclasses_are_built_without_pydantic():
    assert build(json.loads(dumps(CART)), Cart) == CART
    assert build({"order": 1}, Paid) == {"order": 1}
    assert build([1, None], list[int | None]) == [1, None]
    assert build("x", typing.Literal["x"]) == "x"
    for value, into in (("1", int), (True, int), ("y", typing.Literal["x"]), ({}, Paid), ([1], tuple[int, int]), (1, str), ({"id": 1}, Cart)):
        with pytest.raises((TypeError, ValueError)):
            build(value, into)


def refusing(content):
    raise decimal.InvalidOperation


@pytest.mark.parametrize(
    ("content", "into"),
    [("a-secret", decimal.Decimal), ("a-secret", dt.datetime), ("a-secret", Color), ("a-secret", uuid.UUID), (10**400, float),
     (1e300, dt.timedelta), ("a-secret", dt.timedelta), ("a-secret", decimal.Decimal | uuid.UUID), (True, float)],
)
def test_a_value_that_its_type_cannot_have_is_an_error_of_this_package_without_the_value(content, into, monkeypatch):
    # Without pydantic, which would refuse the value itself.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(_payload, "_known", _payload._made)
    for value, kind in ((content, into), ([content], list[into]), ({"a": content}, dict[str, into])):
        with pytest.raises(pg_outbox.InvalidError) as caught:
            _payload.decode(json.dumps(value), kind)
        assert caught.value.code == "22023" and caught.value.detail and "a-secret" not in str(caught.value)


def test_numbers_that_python_or_a_type_refuses_are_errors_of_this_package(dsn):
    with psycopg.connect(dsn) as conn:
        conn.execute("select outbox.enqueue('t', payload => to_jsonb(repeat('9', 5000)::numeric))")
    message = next(pg_outbox.Outbox(dsn).reader(topics=["t"], poll_interval=0.02))
    for read in (lambda: message.payload, message.json, lambda: message.json(list[int])):
        with pytest.raises(pg_outbox.InvalidError):
            read()
    model = pydantic.create_model("Model", n=(typing.Annotated[int, pydantic.AfterValidator(refusing)], ...))
    with pytest.raises(pg_outbox.InvalidError, match="InvalidOperation"):
        _payload.decode('{"n": 1}', model)
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for value in (nested, 10**5000, float("nan")):
        with pytest.raises(pg_outbox.InvalidError, match="cannot be JSON"):
            dumps(value)


def test_assertions_take_what_enqueue_takes(dsn):
    with psycopg.connect(dsn) as conn:
        pg_outbox.enqueue(conn, "t", CART, key="k", tenant="acme", headers={"x-a": "1"}, metadata={"user_id": "u"})
        pg_outbox.enqueue(conn, "decimal", {"y": decimal.Decimal("1.5"), "at": CART.at, "id": CART.id})
        assert_enqueued(conn, "t", CART, key="k", tenant="acme", headers={"x-a": "1"}, metadata={"user_id": "u"})
        assert_enqueued(conn, "t")
        found = assert_enqueued(conn, "decimal", {"y": decimal.Decimal("1.5"), "id": CART.id})
        assert found["payload"]["at"] == CART.at.isoformat()
        assert_not_enqueued(conn, "t", key="other")
        assert_not_enqueued(conn, "other")
        for wrong in ({"key": "other"}, {"tenant": None}, {"headers": {"x-a": "2"}}):
            with pytest.raises(AssertionError, match="has not enqueued t"):
                assert_enqueued(conn, "t", CART, **wrong)
        with pytest.raises(AssertionError, match="has enqueued t"):
            assert_not_enqueued(conn, "t", CART)
        with pytest.raises(TypeError, match="keey"):
            assert_enqueued(conn, "t", keey="k")


def test_a_receiver_answers_by_a_function_and_can_be_closed():
    import urllib.error
    import urllib.request

    def post(receiver, body):
        try:
            with urllib.request.urlopen(urllib.request.Request(receiver.url("/hook"), body), timeout=10) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code

    with Receiver() as receiver:
        receiver.answer(lambda arrival: 503 if arrival.json()["n"] == 1 else 204)
        assert [post(receiver, b'{"n": 1}'), post(receiver, b'{"n": 2}')] == [503, 204]
        first, second = receiver.wait_for(2)
        threading.Timer(0.05, lambda: post(receiver, b'{"n": 3}')).start()
        assert len(receiver.wait_for(3, timeout=float("inf"))) == 3
        assert (first.request, first.body, second.valid) == ("POST /hook", b'{"n": 1}', None)
        with pytest.raises(TimeoutError, match="3 of 4"):
            receiver.wait_for(4, timeout=0.05)
    with pytest.raises(OSError):
        post(receiver, b"{}")


def test_times_of_the_server_are_read_with_any_fraction():
    from pg_outbox._rows import time_of

    for text, micros in (("", 0), (".1", 100_000), (".12451", 124_510), (".124", 124_000), (".000001", 1)):
        assert time_of(f"2026-11-30T09:08:14{text}+00:00").microsecond == micros


def test_the_reason_does_not_repeat_a_tag_that_is_unknown():
    class Cat(pydantic.BaseModel):
        kind: typing.Literal["cat"]

    class Dog(pydantic.BaseModel):
        kind: typing.Literal["dog"]

    either = typing.Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
    with pytest.raises(pg_outbox.InvalidError) as caught:
        _payload.decode('{"kind": "secret"}', either)
    assert caught.value.detail == "union_tag_invalid"
