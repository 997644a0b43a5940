"""The test kit of events says what differs."""

import dataclasses
import subprocess
import sys

import pytest
from pg_outbox.events import Aggregate, EventRegistry, NewEvent, applies, new_id, now
from pg_outbox.testing import any_of, given, recorded_event, recorded_events, with_metadata


@dataclasses.dataclass
class Opened:
    owner: str
    at: str = ""


@dataclasses.dataclass
class Deposited:
    amount: int


class Account(Aggregate):
    balance = 0
    owner = None

    def open(self, owner):
        self.record(Opened(owner, now().isoformat()))

    def deposit(self, amount):
        if self.owner is None:
            raise LookupError("there is no account")
        self.record(Deposited(amount))
        self.record(NewEvent("noted", {"amount": amount}))
        return self.balance

    @applies(Opened)
    def _opened(self, event):
        self.owner = event.owner

    @applies(Deposited)
    def _deposited(self, event):
        self.balance += event.amount


def test_given_when_then():
    done = given(Account, Opened("ann")).when(lambda account: account.deposit(5))
    done.then(Deposited(5), NewEvent("noted", {"amount": 5})).then_state(balance=5, owner="ann")
    assert done.result == 5 and done.aggregate.version == 1
    given(Account).when(lambda account: account.deposit(5)).then_error(LookupError, "no account")
    given(Account).when(lambda account: account.open("ann")).then(any_of(Opened, owner="ann", at="2026-01-01T00:00:00+00:00"))
    given(Account).when(lambda account: None).then_nothing()

    async def decide(account):
        account.open("async")

    given(Account).when(decide).then(any_of(Opened, owner="async"))


def test_it_says_what_differs():
    opened = given(Account).when(lambda account: account.open("ann"))
    for call, text in (
        (lambda: opened.then(any_of(Opened, owner="bob")), "owner is 'ann'"), (lambda: opened.then_nothing(), "0 events were expected"),
        (lambda: opened.then(Deposited(1)), "event 1 is not Deposited"), (lambda: opened.then_error(LookupError), "LookupError was expected"),
        (lambda: opened.then_state(balance=1), "balance is 0, not 1"), (lambda: opened.then(any_of(Deposited)), "it is a Opened"),
        (lambda: opened.then(with_metadata(Opened, {"user_id": "u"})), "user_id of its metadata is None"),
    ):
        with pytest.raises(AssertionError, match=text):
            call()
    failed = given(Account).when(lambda account: account.deposit(1))
    with pytest.raises(LookupError):
        failed.then()
    with pytest.raises(LookupError):
        failed.then_error(KeyError)
    with pytest.raises(AssertionError, match="does not contain"):
        failed.then_error(LookupError, "other")


def test_recorded_events_for_projections():
    registry = EventRegistry()
    registry.register("account.opened", Opened)
    first, second = recorded_events(Opened("ann"), NewEvent("noted", {}), stream="account-1", registry=registry, metadata={"user_id": "u"})
    assert (first.type, first.version, first.position, first.stream, first.metadata) == ("account.opened", 1, 1, "account-1", {"user_id": "u"})
    assert (second.type, second.version, second.position) == ("noted", 2, 2)
    assert recorded_event(Deposited(1)).type == "Deposited" and new_id().int > 2**64


def test_the_assertions_of_enqueue_do_not_load_events():
    code = "import sys, pg_outbox.testing as t; t.assert_enqueued; print([m for m in sys.modules if 'pg_outbox.events' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
