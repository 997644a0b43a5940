"""The context of a command: what its events and commands inherit, and where time and ids come from.

    with event_context(user_id="ann", correlation_id=request_id):
        store.append(conn, "order-1", [OrderPlaced(...)])
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from .._telemetry import inject


@dataclass(frozen=True)
class EventContext:
    """What events are given in their metadata. metadata: further entries. tenant is no metadata: it is the
    tenant of the event, or of the message."""

    correlation_id: str | None = None
    causation_id: str | None = None
    user_id: str | None = None
    tenant: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def entries(self) -> dict[str, Any]:
        """Returns the metadata of an event in this context, with the current span of OpenTelemetry where there is one."""
        named = {"correlation_id": self.correlation_id, "causation_id": self.causation_id, "user_id": self.user_id}
        entries = {**self.metadata, **{name: value for name, value in named.items() if value is not None}}
        traced = inject(entries)
        return entries if traced is None else traced


_NONE = EventContext()
Clock = Callable[[], dt.datetime]
Ids = Callable[[], uuid.UUID]
_context: ContextVar[EventContext] = ContextVar("pg_outbox.events", default=_NONE)
_clock: ContextVar[Clock | None] = ContextVar("pg_outbox.events.clock", default=None)
_ids: ContextVar[Ids | None] = ContextVar("pg_outbox.events.ids", default=None)
# Where no context says them. A fixture of a test is not in the context of the test.
_defaults: tuple[Clock | None, Ids] = (None, uuid.uuid4)


def current() -> EventContext:
    """Returns the context of this thread or task."""
    return _context.get()


@contextmanager
def event_context(
    *, correlation_id: str | None = None, causation_id: str | None = None, user_id: str | None = None, tenant: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[EventContext]:
    """Sets entries of the context while the block runs. None leaves an entry as it is; metadata is added to what there is."""
    given = {"correlation_id": correlation_id, "causation_id": causation_id, "user_id": user_id, "tenant": tenant}
    before = _context.get()
    made = dataclasses.replace(
        before, metadata={**before.metadata, **(metadata or {})}, **{name: value for name, value in given.items() if value is not None}
    )
    token = _context.set(made)
    try:
        yield made
    finally:
        _context.reset(token)


@contextmanager
def exactly(context: EventContext) -> Iterator[None]:
    """Sets the whole context while the block runs: nothing of the one around it is left."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def now() -> dt.datetime:
    """Returns the time, in UTC. Tests fix it with `fixed`."""
    return clock_time() or dt.datetime.now(dt.timezone.utc)


def clock_time() -> dt.datetime | None:
    """Returns the time of a fixed clock, or None where the clock is not fixed."""
    clock = _clock.get() or _defaults[0]
    return None if clock is None else clock()


def new_id() -> uuid.UUID:
    """Returns a new id of an event. Tests fix it with `fixed`."""
    return (_ids.get() or _defaults[1])()


def numbered() -> Ids:
    """Returns a function that makes the ids 00000000-0000-0000-0000-000000000001 and so on."""
    numbers = itertools.count(1)
    return lambda: uuid.UUID(int=next(numbers))


@contextmanager
def everywhere(*, clock: Clock | None = None, ids: Ids | None = None) -> Iterator[None]:
    """Replaces clock and ids in all threads and tasks while the block runs. `fixed` wins. None leaves them as they are."""
    global _defaults
    before = _defaults
    _defaults = (clock or before[0], ids or before[1])
    try:
        yield
    finally:
        _defaults = before


@contextmanager
def fixed(at: dt.datetime | None = None, *, ids: bool = True) -> Iterator[None]:
    """Fixes the clock at a time, and makes ids 00000000-0000-0000-0000-000000000001 and so on, while the block runs."""
    if at is not None and at.tzinfo is None:
        raise ValueError("the time has no time zone")
    clock = _clock.set(None if at is None else lambda: at)
    made = _ids.set(numbered() if ids else None)
    try:
        yield
    finally:
        _clock.reset(clock)
        _ids.reset(made)
