"""Tests of aggregates, projections and sagas without a database.

    def test_an_order_is_paid_once():
        given(Order, OrderPlaced(amount=42)).when(lambda order: order.pay("card")).then(OrderPaid(by="card"))
        given(Order, OrderPlaced(amount=42), OrderPaid(by="card")).when(lambda order: order.pay("card")).then_error(AlreadyPaid)

These names are those of `pg_outbox.testing` too.
"""

from __future__ import annotations

import datetime as dt
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from .._rows import dumps
from ..testing import contains
from ._runs import drive
from .aggregates import Aggregate
from .context import clock_time, fixed
from .registry import EventRegistry, NewEvent
from .sagas import Saga, Sent
from .store import RecordedEvent

__all__ = ["AT", "Clock", "Matcher", "Outcome", "any_of", "fixed", "given", "given_saga", "recorded_event", "recorded_events", "with_metadata"]

A = TypeVar("A", bound=Aggregate)
AT = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
"""The time of the tests' fixed clock."""


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, at: dt.datetime) -> None:
        self.at = at

    def __call__(self) -> dt.datetime:
        return self.at

    def advance(self, by: dt.timedelta) -> dt.datetime:
        """Moves the clock, and returns its time."""
        self.at += by
        return self.at


class Matcher:
    """Stands for an event in then(): of a class, with these fields."""

    def __init__(self, into: type[Any] | str, fields: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        self._into = into
        self._fields = fields
        self._metadata = metadata

    def problem(self, type_name: str, data: Any, metadata: Mapping[str, Any]) -> str | None:
        """Returns why an event does not match; None: it does."""
        if isinstance(self._into, str) and self._into != type_name:
            return f"its type is {type_name}"
        if isinstance(self._into, type) and not isinstance(data, self._into):
            return f"it is a {type(data).__qualname__}"
        for name, wanted in self._fields.items():
            found = data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
            if found != wanted:
                return f"{name} is {found!r}"
        for name, wanted in (self._metadata or {}).items():
            if metadata.get(name) != wanted:
                return f"{name} of its metadata is {metadata.get(name)!r}"
        return None

    def __repr__(self) -> str:
        named = self._into if isinstance(self._into, str) else self._into.__qualname__
        return f"{named}({', '.join(f'{name}={value!r}' for name, value in self._fields.items())}, ...)"


def any_of(into: type[Any] | str, **fields: Any) -> Matcher:
    """Matches an event of a class, or of a type without a class, that has these fields with these values, whatever its other
    fields are."""
    return Matcher(into, fields)


def with_metadata(into: type[Any] | str, metadata: Mapping[str, Any], **fields: Any) -> Matcher:
    """Matches an event as any_of() does, that also has these entries in its metadata."""
    return Matcher(into, fields, metadata)


def _parts(event: Any) -> tuple[str, Any, Mapping[str, Any]]:
    if isinstance(event, (NewEvent, RecordedEvent)):
        return event.type, event.data, event.metadata
    return "", event, {}


def problem(event: Any, wanted: Any) -> str | None:
    """Returns why an event is not the one that is wanted: an instance, a NewEvent, or a Matcher."""
    type_name, data, metadata = _parts(event)
    if isinstance(wanted, Matcher):
        return wanted.problem(type_name, data, metadata)
    wanted_type, wanted_data, wanted_metadata = _parts(wanted)
    if wanted_type and type_name and wanted_type != type_name:
        return f"its type is {type_name}"
    if data != wanted_data:
        return f"it is {data!r}"
    return next((f"{name} of its metadata is {metadata.get(name)!r}" for name, v in wanted_metadata.items() if metadata.get(name) != v), None)


def compare(found: Sequence[Any], wanted: Sequence[Any], kind: str = "event") -> None:
    """Asserts that events are those that are wanted, in order."""
    shown = ", ".join(repr(_parts(one)[1]) for one in found) or "nothing"
    for place, (one, expected) in enumerate(zip(found, wanted, strict=False), 1):
        if wrong := problem(one, expected):
            raise AssertionError(f"{kind} {place} is not {expected!r}: {wrong}; there are: {shown}")
    if len(found) != len(wanted):
        raise AssertionError(f"{len(wanted)} {kind}s were expected, and there are {len(found)}: {shown}")


class Outcome(Generic[A]):
    """The result of when(). aggregate: after the decision. events: the new events. result: what the decision has returned.
    error: what it has raised."""

    def __init__(self, aggregate: A, result: Any, error: Exception | None) -> None:
        self.aggregate = aggregate
        self.events = [event if event.type else event.data for event in aggregate.pending]
        self.result = result
        self.error = error
        self._pending = list(aggregate.pending)

    def then(self, *events: Any) -> Outcome[A]:
        """Asserts that these are the new events, in order: instances, NewEvents, or matchers. An error is raised as it is."""
        if self.error is not None:
            raise self.error
        compare(self._pending, events)
        return self

    def then_nothing(self) -> Outcome[A]:
        """Asserts that there is no new event."""
        return self.then()

    def then_error(self, error: type[Exception], match: str | None = None) -> Outcome[A]:
        """Asserts that the decision has raised an error of this class, whose text contains a regular expression, and that there
        is no new event."""
        if self.error is None:
            raise AssertionError(f"{error.__qualname__} was expected, and the new events are {self.events!r}")
        if not isinstance(self.error, error):
            raise self.error
        if match is not None and not re.search(match, str(self.error)):
            raise AssertionError(f"the error is {str(self.error)!r}, which does not contain {match!r}")
        compare(self._pending, ())
        return self

    def then_state(self, **fields: Any) -> Outcome[A]:
        """Asserts that the aggregate has these attributes."""
        for name, wanted in fields.items():
            found = getattr(self.aggregate, name)
            if found != wanted:
                raise AssertionError(f"{name} is {found!r}, not {wanted!r}")
        return self


class Given(Generic[A]):
    """An aggregate with a history."""

    def __init__(self, aggregate: A) -> None:
        self._aggregate = aggregate

    def when(self, decide: Callable[[A], Any]) -> Outcome[A]:
        """Lets the aggregate decide, with the clock fixed at AT, unless it is fixed already, and with numbered ids."""
        result, error = None, None
        with fixed(clock_time() or AT):
            try:
                result = decide(self._aggregate)
                if inspect.iscoroutine(result):
                    result = drive(result)
            except Exception as raised:  # noqa: BLE001 - then_error() compares it, and then() raises it
                error = raised
        return Outcome(self._aggregate, result, error)


def given(aggregate: type[A], *events: Any, id: str = "1") -> Given[A]:
    """Returns an aggregate to which these events have happened: instances of classes, or NewEvents."""
    made = aggregate(id)
    for event in events:
        type_name, data, _ = _parts(event)
        made.apply(type_name, data)
        made.version += 1
    return Given(made)


def recorded_event(
    data: Any, *, type: str = "", stream: str = "test-1", version: int = 1, position: int | None = None,
    metadata: Mapping[str, Any] | None = None, registry: EventRegistry | None = None, tenant: str | None = None,
    at: dt.datetime = AT,
) -> RecordedEvent:
    """Returns an event as projections and sagas get it. type: by default that of the registry, or the name of the class."""
    if isinstance(data, NewEvent):
        type, metadata, data = data.type, {**data.metadata, **(metadata or {})}, data.data
    if not type:
        type = registry.name_of(data) if registry is not None else data.__class__.__name__
    number = version if position is None else position
    return RecordedEvent(
        stream, version, type, data, json.loads(dumps(metadata or {})), UUID(int=number), position, number, tenant, at, at
    )


def recorded_events(
    *events: Any, stream: str = "test-1", registry: EventRegistry | None = None, metadata: Mapping[str, Any] | None = None
) -> list[RecordedEvent]:
    """Returns events of one stream, with the versions and positions 1, 2 and so on."""
    return [
        recorded_event(event, stream=stream, version=n, position=n, registry=registry, metadata=metadata) for n, event in enumerate(events, 1)
    ]


class SagaOutcome:
    """The result of when() of a saga. saga: after the event. sent: the messages, events, commands and time-outs that it
    sends. error: what its handler has raised."""

    def __init__(self, saga: Saga, error: Exception | None) -> None:
        self.saga = saga
        self.sent = list(saga.sent)
        self.error = error

    def then_sent(self, *expected: Any) -> SagaOutcome:
        """Asserts that the saga sends these, in order, and nothing else but time-outs: (topic, payload) for a message whose
        payload contains this one, an instance, NewEvent or matcher for an event, and an instance for a command. An error is
        raised as it is."""
        if self.error is not None:
            raise self.error
        found: list[Any] = []
        for one in self.sent:
            if one.kind == "events":
                found += one.content
            elif one.kind != "timeout":
                found.append(one)
        shown = ", ".join(f"({one.target!r}, {one.content!r})" if isinstance(one, Sent) else repr(one) for one in found) or "nothing"
        for place, (one, wanted) in enumerate(zip(found, expected, strict=False), 1):
            if isinstance(one, Sent) and one.kind == "message":
                fits = isinstance(wanted, tuple) and wanted[0] == one.target and contains(_plain(one.content), _plain(wanted[1]))
            else:
                fits = problem(one.content if isinstance(one, Sent) else one, wanted) is None
            if not fits:
                raise AssertionError(f"{place} is not {wanted!r}; the saga sends: {shown}")
        if len(found) != len(expected):
            raise AssertionError(f"{len(expected)} were expected; the saga sends: {shown}")
        return self

    def then_nothing(self) -> SagaOutcome:
        """Asserts that the saga sends nothing but time-outs."""
        return self.then_sent()

    def then_timeout(self, name: str, at: dt.datetime | None = None) -> SagaOutcome:
        """Asserts that the saga sets a time-out, at a time; the clock stands at AT."""
        found = [one.options["deliver_at"] for one in self.sent if one.kind == "timeout" and one.target == name]
        if not found or (at is not None and found[-1] != at):
            raise AssertionError(f"time-out {name} is set for {found[-1] if found else 'no time'}")
        return self

    def then_status(self, status: str, **steps: str) -> SagaOutcome:
        """Asserts that the saga, and these of its steps, have a status."""
        if self.saga.status != status:
            raise AssertionError(f"the saga is {self.saga.status}, not {status}")
        for name, wanted in steps.items():
            if self.saga.progress.get(name) != wanted:
                raise AssertionError(f"step {name} is {self.saga.progress.get(name)}, not {wanted}")
        return self

    def then_error(self, error: type[Exception], match: str | None = None) -> SagaOutcome:
        """Asserts that the handler has raised an error of this class, whose text contains a regular expression."""
        if self.error is None:
            raise AssertionError(f"{error.__qualname__} was expected")
        if not isinstance(self.error, error) or (match is not None and not re.search(match, str(self.error))):
            raise self.error
        return self


class GivenSaga:
    """A saga with a history."""

    def __init__(self, saga: Saga, count: int) -> None:
        self._saga = saga
        self._count = count

    def when(self, event: Any) -> SagaOutcome:
        """Lets the saga handle an event: the data of it, a NewEvent, or a RecordedEvent."""
        return self._decided(lambda: _handle(self._saga, event, self._count + 1))

    def when_timeout(self, name: str) -> SagaOutcome:
        """Lets a time-out pass."""
        return self._decided(getattr(self._saga, self._saga._timeouts[name]))

    def _decided(self, decide: Callable[[], Any]) -> SagaOutcome:
        error = None
        with fixed(clock_time() or AT):
            try:
                decide()
            except Exception as raised:  # noqa: BLE001 - then_error() compares it, and then_sent() raises it
                error = raised
        return SagaOutcome(self._saga, error)


def given_saga(saga: type[Saga], *events: Any, correlation_id: str = "1") -> GivenSaga:
    """Returns a saga that has handled these events: data, NewEvents, or RecordedEvents."""
    made = saga()
    made.saga_id = made.correlation_id = correlation_id
    with fixed(clock_time() or AT):
        for number, event in enumerate(events, 1):
            _handle(made, event, number)
    made.sent = []
    return GivenSaga(made, len(events))


def _handle(saga: Saga, event: Any, number: int) -> None:
    recorded = event if isinstance(event, RecordedEvent) else recorded_event(event, stream=f"test-{saga.correlation_id}", version=number)
    if not saga.handle(recorded):
        raise AssertionError(f"saga {saga.name} has no handler of {event!r}")
    saga.version += 1


def _plain(value: Any) -> Any:
    return json.loads(dumps(value))
