"""Reads events in their common order, through the pool of an Outbox: the iterators of subscriptions, and the readers that
projections and sagas are applied with.

A call of read_events() that finds nothing returns a marker, which says how far it has looked. Iterators go on behind it, and
projections move their cursor over it, so that a projection of rare types has no lag.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from .. import _core
from .._calls import Begin, start, wait, wait_async, waited
from .._enqueue import advance_on
from .._errors import ConflictError, RetryError, invalid
from .._reader import AsyncReader, Reader, Source
from .._rows import dumps
from ._runs import AGAIN, drive, sqlstate
from .errors import quotes, told
from .store import PAGE_BYTES, EventStore, RecordedEvent

logger = logging.getLogger("pg_outbox.events")


@dataclass(frozen=True)
class Selection:
    """The events that are read: of these categories, of types that match these patterns, of a tenant, and those that a filter
    (as of a subscription) lets pass. None: all."""

    categories: Sequence[str] | None = None
    types: Sequence[str] | None = None
    tenant: str | None = None
    filter: Mapping[str, Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of read_events()."""
        found = {
            "categories": None if self.categories is None else list(self.categories),
            "types": None if self.types is None else list(self.types), "tenant": self.tenant, "filter": self.filter,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(slots=True)
class Item:
    """An event that is not decoded, with what the loop of a reader wants to know of a message."""

    event: RecordedEvent
    content: str | bytes | None
    position: int
    topic: str


Row = tuple[Any, ...]
"""What call_events() of the native module returns for an event: position, epoch, id of the message, version, and further columns."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_LONGEST_WAIT = 1.0
"""The longest time, in seconds, that a page waits until it is used. Content that is erased meanwhile would still be applied."""


def _items(rows: list[Row]) -> list[Item]:
    items = []
    # Events of one append have the same time.
    last, at = 0, _EPOCH
    for position, _, message_id, version, stream, topic, event_id, metadata, tenant, occurred, stored, content_type, content in rows:
        # A row without a message only says after which position to continue.
        if message_id is None:
            continue
        if stored != last:
            last, at = stored, _EPOCH + dt.timedelta(0, 0, stored)
        event = RecordedEvent(
            stream, version, topic, None, {} if metadata is None else json.loads(metadata), None if event_id is None else UUID(event_id),
            position, message_id, tenant, at if occurred == stored else _EPOCH + dt.timedelta(0, 0, occurred), at, content is None,
            content_type,
        )
        items.append(Item(event, content, position or 0, topic))
    return items


class Feed:
    """Pages of events behind a position."""

    def __init__(self, core: _core.Core, selection: Selection, after: int, size: int, stream: str | None = None) -> None:
        if not 1 <= size <= 10_000:
            raise invalid("invalid buffer", detail=f"It is {size}.", hint="1 to 10000 events.")
        self.core = core
        self.position = after
        self._selection = selection
        self._size = size
        self._stream = stream
        self._epoch: int | None = None
        self.is_full = False

    def call(self) -> Begin:
        """Returns the call of the next page."""
        if self._stream is not None:
            args: dict[str, Any] = {"stream": self._stream, "from_version": self.position + 1, "max_events": self._size}
            return lambda f: self.core.call_events(f, "load", dumps(args))
        more = {"epoch": self._epoch} if self._epoch is not None and self.position > 0 else {}
        args = {"after_position": self.position, "max_events": self._size, **self._selection.arguments(), **more}
        return lambda f: self.core.call_events(f, "read_events", dumps(args))

    def take(self, rows: list[Row]) -> tuple[list[Item], bool]:
        """Takes a page, and returns its events, and whether the position has moved."""
        self.is_full = len(rows) >= self._size
        if not rows:
            return [], False
        position, self._epoch, _, version, *_ = rows[-1]
        self.position = position if self._stream is None else version
        return _items(rows), True

    async def key(self, key_id: str) -> Mapping[str, Any] | None:
        """Finds a data key, in asyncio."""
        return _key(await wait_async(self._key_call(key_id)))

    async def key_now(self, key_id: str) -> Mapping[str, Any] | None:
        """Finds a data key, in blocking code."""
        return _key(wait(self._key_call(key_id)))

    def _key_call(self, key_id: str) -> Begin:
        return lambda f: self.core.call(f, "get_subject_key", dumps({"key_id": key_id}), [])


def _key(answer: str) -> Mapping[str, Any] | None:
    rows = json.loads(answer)
    if not rows:
        return None
    wrapped = rows[0]["wrapped_key"]
    return {**rows[0], "wrapped_key": None if wrapped is None else bytes.fromhex(wrapped[2:])}


class _Iterated:
    def __init__(self, store: EventStore, feed: Feed, poll_interval: float, retries: int, retry_interval: float) -> None:
        if not 0 < poll_interval <= 3600 or not 0 <= retries <= 1_000_000 or not 0 <= retry_interval <= 3600:
            raise invalid("invalid setting of a subscription", hint="poll_interval and retry_interval: up to 3600 seconds.")
        self._store = store
        self._feed = feed
        self._poll_interval = poll_interval
        self._retries = retries
        self._retry_interval = retry_interval
        self._failures = 0
        self._buffer: deque[Item] = deque()

    @property
    def position(self) -> int:
        """The position up to which events were read, for `after`; of one stream its version."""
        if not self._buffer:
            return self._feed.position
        first = self._buffer[0].event
        return (first.version if first.position is None else first.position) - 1

    def skip(self) -> bool:
        """Passes over the event that could not be decoded. Returns False if none is in memory."""
        if not self._buffer:
            return False
        self._buffer.popleft()
        return True

    def _failed(self, error: RetryError) -> None:
        self._failures += 1
        if self._failures > self._retries:
            raise error
        logger.warning("events could not be read, failure %d of %d: %s", self._failures, self._retries, error.message)

    def _taken(self, rows: list[Row]) -> bool:
        self._failures = 0
        items, moved = self._feed.take(rows)
        self._buffer.extend(items)
        return moved


class Events(_Iterated):
    """Iterates over events in order, without end, until close()."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[RecordedEvent]:
        return self

    def __next__(self) -> RecordedEvent:
        while not self._closed.is_set():
            if self._buffer:
                item = self._buffer[0]
                event = drive(self._store.decoded(False, self._feed.key_now, item.event, item.content))
                self._buffer.popleft()
                return event
            try:
                pause = 0.0 if self._taken(wait(self._feed.call())) else self._poll_interval
            except RetryError as error:
                self._failed(error)
                pause = self._retry_interval
            self._closed.wait(pause)
        raise StopIteration

    def close(self) -> None:
        """Ends the iteration. May be called from any thread."""
        self._closed.set()


class AsyncEvents(_Iterated):
    """Iterates over events in order, without end, until close(), for `async for`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._closed = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[RecordedEvent]:
        return self

    async def __anext__(self) -> RecordedEvent:
        while not self._closed.is_set():
            if self._buffer:
                item = self._buffer[0]
                event = await self._store.decoded(True, self._feed.key, item.event, item.content)
                self._buffer.popleft()
                return event
            try:
                pause = 0.0 if self._taken(await wait_async(self._feed.call())) else self._poll_interval
            except RetryError as error:
                self._failed(error)
                pause = self._retry_interval
            if pause:
                await _wait(self._closed, pause)
        raise StopAsyncIteration

    def close(self) -> None:
        """Ends the iteration. To be called in the thread of its event loop."""
        self._closed.set()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        pass


class _Cursor:
    """The place of a reader with a consumer: the cursor, and what is read behind it.

    The server reads the next page while the events of this one are decoded and applied. The page is dropped when the reader goes back
    to its cursor. The cursor itself moves as it does without, by a compare-and-set in the transaction of the effect."""

    def __init__(self, core: _core.Core, consumer: str, selection: Selection, batch: int, poll_interval: float) -> None:
        self.core = core
        self.consumer = consumer
        self.confirmed = 0
        self.poll_interval = poll_interval
        self._selection = selection
        self._batch = batch
        self.feed = Feed(core, selection, 0, batch)
        self.stale = True
        self._ahead: tuple[Future[list[Row]], float] | None = None
        self.connected = False

    def get(self) -> Begin:
        """Returns the call that reads the cursor."""
        args = dumps({"consumer": self.consumer, "if_missing": 0})
        return lambda f: self.core.call(f, "cursor_get", args, [])

    def at(self, answer: str) -> None:
        """Goes on from the cursor that was read."""
        self.confirmed = json.loads(answer)[0]["position"]
        self.feed = Feed(self.core, self._selection, self.confirmed, self._batch)
        self._drop_ahead()
        self.stale = False

    def page(self) -> Future[list[Row]]:
        """Returns the page behind this one, which may have been asked for already."""
        if self._ahead is not None:
            ahead, begun = self._ahead
            # An empty page is old news: an event may have come since.
            if time.monotonic() - begun < _LONGEST_WAIT and not (ahead.done() and not ahead.exception() and not ahead.result()):
                self._ahead = None
                return ahead
        self._drop_ahead()
        return start(self.feed.call())

    def take(self, rows: list[Row]) -> tuple[list[Item], bool]:
        """Takes a page, and asks for the next one, unless there is probably nothing in it."""
        items, moved = self.feed.take(rows)
        # Two pages of large events would take much memory.
        if self.feed.is_full and sum(len(item.content or "") for item in items) < PAGE_BYTES:
            self._ahead = start(self.feed.call()), time.monotonic()
        return items, moved

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead[0].cancel()
            self._ahead = None

    def over(self) -> Begin:
        """Returns the call that moves the cursor over positions without events."""
        args = dumps({"consumer": self.consumer, "position": self.feed.position, "expected_position": self.confirmed})
        return lambda f: self.core.call(f, "cursor_advance", args, [])

    def place(self) -> tuple[int, str | None, str, int | None]:
        return self.confirmed, self.consumer, "", None


class EventSource(Source):
    """The source of a reader of events, which has no native reader."""

    def __init__(self, cursor: _Cursor, batch: int) -> None:
        def make() -> _core.Reader:
            raise AssertionError("events have a reader of their own")

        super().__init__(make, cursor.consumer, batch)
        self._cursor = cursor

    @property
    def connected(self) -> bool:
        return self._cursor.connected

    def failure(self, error: str, message: Any) -> Begin:
        args: dict[str, Any] = {"consumer": self._cursor.consumer, "error": error}
        if message is not None:
            args["error_position"] = message.position
        return lambda f: self._cursor.core.call_void(f, "cursor_record_error", dumps(args))

    def told(self, error: BaseException) -> str:
        return told(error)

    def traced(self, error: BaseException) -> BaseException | None:
        return None if quotes(error) else error

    def passes(self, error: Exception) -> bool:
        return sqlstate(error) in AGAIN


class EventReader(Reader):
    """Applies events in blocking code: Reader.apply, whose messages are Items."""

    def __init__(self, core: _core.Core, consumer: str, selection: Selection, batch: int, poll_interval: float) -> None:
        self._cursor = _Cursor(core, consumer, selection, batch, poll_interval)
        self._ended = False
        super().__init__(EventSource(self._cursor, batch))

    def stop(self) -> None:
        # apply() may begin later, in its thread.
        self._ended = True
        super().stop()

    def rewind(self) -> None:
        self._cursor.stale = True
        if self._ended:
            self._stopped.set()

    def advance_in(self, conn: Any, messages: Any) -> Any:
        return advance_on(conn, messages[-1].position, str(messages[-1].event.message_id), self._cursor.place())

    def committed(self, messages: Any) -> None:
        self._cursor.confirmed = messages[-1].position

    def _fetch(self, progress: Any, until_end: bool) -> bool:
        cursor = self._cursor
        while not self._stopped.is_set():
            try:
                if cursor.stale:
                    cursor.at(wait(cursor.get()))
                items, moved = cursor.take(waited(cursor.page()))
                cursor.connected = True
                # Another instance may have applied the event that has failed here.
                self._source.failing = None
                if items:
                    progress.pending.extend(items)
                    return True
                if moved:
                    wait(cursor.over())
                    cursor.confirmed = cursor.feed.position
                    continue
            except ConflictError:
                cursor.stale = True
                continue
            except RetryError as error:
                if until_end:
                    raise
                cursor.connected = False
                logger.warning('projection "%s" cannot read, and tries again: %s', cursor.consumer, error.message)
                self._stopped.wait(1.0)
                continue
            if until_end:
                return False
            self._stopped.wait(cursor.poll_interval)
        return True


class AsyncEventReader(AsyncReader):
    """Applies events in asyncio: AsyncReader.apply, whose messages are Items."""

    def __init__(self, core: _core.Core, consumer: str, selection: Selection, batch: int, poll_interval: float) -> None:
        self._cursor = _Cursor(core, consumer, selection, batch, poll_interval)
        super().__init__(EventSource(self._cursor, batch))

    async def rewind(self) -> None:
        self._cursor.stale = True

    async def advance_in(self, conn: Any, messages: Any) -> None:
        moved = advance_on(conn, messages[-1].position, str(messages[-1].event.message_id), self._cursor.place())
        if moved is not None:
            await moved

    async def committed(self, messages: Any) -> None:
        self._cursor.confirmed = messages[-1].position

    async def _fetch(self, progress: Any, until_end: bool) -> bool:
        cursor = self._cursor
        while not self._stopped.is_set():
            try:
                if cursor.stale:
                    cursor.at(await wait_async(cursor.get()))
                items, moved = cursor.take(await asyncio.wrap_future(cursor.page()))
                cursor.connected = True
                # Another instance may have applied the event that has failed here.
                self._source.failing = None
                if items:
                    progress.pending.extend(items)
                    return True
                if moved:
                    await wait_async(cursor.over())
                    cursor.confirmed = cursor.feed.position
                    continue
            except ConflictError:
                cursor.stale = True
                continue
            except RetryError as error:
                if until_end:
                    raise
                cursor.connected = False
                logger.warning('projection "%s" cannot read, and tries again: %s', cursor.consumer, error.message)
                await _wait(self._stopped, 1.0)
                continue
            if until_end:
                return False
            await _wait(self._stopped, cursor.poll_interval)
        return True
