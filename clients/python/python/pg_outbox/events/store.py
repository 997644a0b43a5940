"""The event store: appends to streams in the caller's transaction, and loads them.

    store = EventStore(registry)

    with psycopg.connect(dsn) as conn:
        store.append(conn, "order-1", [OrderPlaced(amount=42)], NO_STREAM)
        events = store.load(conn, "order-1")

`conn` is any connection or session that `enqueue` takes; on an async one the result has to be awaited.
"""

# An async connection has the methods of a blocking one, so its overload comes first, and the two overlap.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import base64
import datetime as dt
import functools
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload
from uuid import UUID

from .. import _core
from .._enqueue import Arguments, _array
from .._errors import RetryError, invalid
from .._rows import dumps, time_of
from ._runs import awaited, call, call_json, check_transaction, is_async, run
from .context import clock_time, current
from .encryption import KEY, FieldEncryption, Lookup, as_encryption_error, refuse_entries, without_fields
from .errors import EncryptionError, KeyNotFoundError, KeyRevokedError, schema_error
from .registry import EventRegistry, NewEvent
from .serializers import Json, Serializer, by_content_type
from .upcasters import METADATA, Upcasters

if TYPE_CHECKING:
    from .._client import AsyncOutbox, Outbox
    from .._typing import AsyncConnection, SyncConnection
    from .readers import AsyncEvents, Events

ANY = -1
"""The expected version of an append that succeeds always."""
NO_STREAM = 0
"""The stream does not exist."""
STREAM_EXISTS = -2
"""The stream exists."""

PAGE = 1000
"""The most events that one statement loads."""
PAGE_BYTES = 16_000_000
"""The bytes of data up to which one statement loads more events than one."""

InlineHandler = Callable[[Any, list["RecordedEvent"]], Any]


@dataclass
class Appended:
    """The result of an append. repeated: these events had been appended before, and nothing was written."""

    stream: str
    first_version: int
    last_version: int
    message_ids: list[int]
    repeated: bool


@dataclass
class StreamInfo:
    """A stream. events: how many are stored. closed_at: None while it is open. truncated_before: the version before which its
    events were removed (1: none were)."""

    category: str
    version: int
    events: int
    created_at: dt.datetime | None
    updated_at: dt.datetime | None
    closed_at: dt.datetime | None
    truncated_before: int


@dataclass
class RecordedEvent:
    """An event as it is stored.

    data: an instance of the class of its type, or plain JSON; bytes where it is stored as bytes and has no class; None if it
    was erased. position: the place in the feed; None from load(). redacted: it was erased, or fields could not be decrypted.
    """

    stream: str
    version: int
    type: str
    # Decrypted data is in no log.
    data: Any = field(repr=False)
    metadata: dict[str, Any]
    event_id: UUID | None
    position: int | None
    message_id: int
    tenant: str | None
    occurred_at: dt.datetime
    recorded_at: dt.datetime
    redacted: bool = False
    content_type: str | None = None

    @property
    def category(self) -> str:
        """The text before the first hyphen of the stream."""
        return self.stream.partition("-")[0]

    @property
    def stream_id(self) -> str:
        """The text behind the first hyphen of the stream."""
        return self.stream.partition("-")[2]


# Columns by name, so that a newer server may have more. Data is text, so that the parser of Python does not round its numbers.
COLUMNS = (
    "e.position, e.message_id, e.event_id, e.stream, e.version, e.type, e.metadata, e.tenant, e.occurred_at, e.recorded_at,"
    " e.content_type, cast(e.data as text) as data, encode(e.body, 'base64') as body"
)
# A page has the first event, and further ones up to so many bytes. found: how many events there are up to max_events.
_LOAD = (
    "select cast(json_build_object('found', count(*), 'rows', coalesce(json_agg(p.event order by p.version) filter (where p.n = 1 or"
    f" p.bytes <= {PAGE_BYTES}), '[]')) as text) from (select to_json(r) as event, r.version, row_number() over w as n,"
    " sum(coalesce(octet_length(r.data), 0) + coalesce(octet_length(r.body), 0)) over w as bytes from"
    f" (select {COLUMNS} from {{}} e) r window w as (order by r.version)) p"
)


def recorded(row: Mapping[str, Any]) -> tuple[RecordedEvent, str | bytes | None]:
    """Returns the event of a row without its data, and the content: JSON text, bytes, or None if it was erased."""
    body = row["body"]
    content = row["data"] if body is None else base64.b64decode(body) if isinstance(body, str) else body
    event_id = row["event_id"]
    event = RecordedEvent(
        row["stream"], row["version"], row["type"], None, row["metadata"] or {}, None if event_id is None else UUID(event_id),
        row["position"], row["message_id"], row["tenant"], time_of(row["occurred_at"]), time_of(row["recorded_at"]),
        content is None, row["content_type"],
    )
    return event, content


async def _decided(decide: Callable[[RecordedEvent, EncryptionError], Any], event: RecordedEvent, text: str, error: EncryptionError) -> RecordedEvent:
    """Lets the program decide about an event that cannot be decrypted. Where it raises, the event is as it was."""
    event.data, event.redacted = json.loads(text), True
    try:
        event.data = await awaited(decide(event, as_encryption_error(error)))
    except BaseException:
        event.data, event.redacted = None, False
        raise
    return event


class EventStore:
    """Appends and loads events. An instance is shared by all threads and tasks, and has no connection of its own.

    registry: the classes of types; without it events are plain JSON. serializer: how new events are stored (JSON); loading
    goes by what each event says. upcasters: turn old data into the newest form. encryption: of fields.
    """

    def __init__(
        self, registry: EventRegistry | None = None, *, serializer: Serializer | None = None, upcasters: Upcasters | None = None,
        encryption: FieldEncryption | None = None,
    ) -> None:
        self.registry = EventRegistry() if registry is None else registry
        self._serializer: Serializer = Json() if serializer is None else serializer
        self._serializers = by_content_type(self._serializer)
        self._upcasters = Upcasters() if upcasters is None else upcasters
        self._upcasters.check()
        self._encryption = encryption
        self._inline: dict[str, tuple[InlineHandler, list[_core.Pattern] | None]] = {}

    @property
    def encrypts(self) -> bool:
        """Whether fields of some events are encrypted."""
        return self._encryption is not None

    @overload
    def append(
        self, conn: AsyncConnection, stream: str, events: Sequence[Any], expected_version: int = ANY, *,
        metadata: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None, publisher: str | None = None,
        occurred_at: dt.datetime | None = None,
    ) -> Coroutine[Any, Any, Appended]: ...
    @overload
    def append(
        self, conn: SyncConnection, stream: str, events: Sequence[Any], expected_version: int = ANY, *,
        metadata: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None, publisher: str | None = None,
        occurred_at: dt.datetime | None = None,
    ) -> Appended: ...
    def append(
        self, conn: Any, stream: str, events: Sequence[Any], expected_version: int = ANY, *,
        metadata: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None, publisher: str | None = None,
        occurred_at: dt.datetime | None = None,
    ) -> Any:
        """Appends 1 to 10000 events to a stream in the transaction of `conn`, all or none.

        events: instances of registered classes, or NewEvents. expected_version: ANY, NO_STREAM, STREAM_EXISTS, or the last
        version of the stream. metadata: for all of these events; it wins over the context, and the metadata of a NewEvent
        wins over it. headers, publisher and occurred_at are those of enqueue. With NewEvents and an expected version from 0
        on, the same call again is a success, and `repeated` is true.

        Raises ConcurrencyError, StreamClosedError, SchemaError, EncryptionError, and the errors of enqueue."""
        return run(conn, self.append_async(conn, stream, events, expected_version, metadata, headers, publisher, occurred_at))

    async def append_async(
        self, conn: Any, stream: str, events: Sequence[Any], expected_version: int = ANY, metadata: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None, publisher: str | None = None, occurred_at: dt.datetime | None = None,
    ) -> Appended:
        """Does the same as append(), to be awaited on any connection."""
        if self._inline:
            check_transaction(conn, "an append with inline projections")
        made = [self.registry.new(event) for event in events]
        context = current()
        common = {**context.entries(), **(metadata or {})}
        contents: list[str | bytes] = []
        described: list[str] = []
        for event in made:
            given = {**common, **event.metadata}
            if self._encryption is not None and self._encryption.covers(event.type):
                refuse_entries(given)
            content, entries = await self._written(conn, stream, event, context.tenant)
            contents.append(content)
            latest = self._upcasters.latest(event.type)
            # The data is of the newest form, whatever an event says from which the metadata was copied.
            version = {METADATA: latest} if latest > 1 else {}
            described.append(dumps({**given, **version, **entries}))
        at = occurred_at or clock_time()
        arguments: Arguments = [
            ("stream", "text", stream), ("types", "text[]", _array([event.type for event in made])),
            ("expected_version", "bigint", str(expected_version)),
            ("event_ids", "uuid[]", _array([str(event.event_id) for event in made])), ("metadata", "jsonb[]", _array(described)),
        ]
        if at is not None:
            if at.tzinfo is None:
                raise invalid("occurred_at has no time zone")
            arguments.append(("occurred_at", "timestamptz", at.isoformat()))
        if headers is not None:
            arguments.append(("headers", "jsonb", dumps(headers)))
        arguments += [(name, "text", value) for name, value in (("tenant", context.tenant), ("publisher", publisher)) if value is not None]
        if self._serializer.content_type is None:
            function = "append_many"
            arguments.append(("data", "jsonb[]", _array([str(content) for content in contents])))
        else:
            function = "append_bytes"
            bodies = ["\\x" + content.hex() for content in contents if isinstance(content, bytes)]
            arguments += [("bodies", "bytea[]", _array(bodies)), ("content_type", "text", self._serializer.content_type)]
        appended = Appended(**await call_json(conn, function, arguments))
        if self._inline and not appended.repeated:
            await self._project(conn, appended)
        return appended

    async def _written(self, conn: Any, stream: str, event: NewEvent, tenant: str | None) -> tuple[str | bytes, dict[str, Any]]:
        """Returns the content of an event as it is stored, and the entries of its metadata that say how."""
        encrypted = self._encryption is not None and self._encryption.covers(event.type)
        if not self._serializer.is_text:
            if encrypted:
                raise schema_error(f"fields of event type {event.type} cannot be encrypted", detail="Its serializer has no fields.")
            return self._serializer.dump(event.data), {}
        text = dumps(event.data)
        entries: dict[str, Any] = {}
        if self._encryption is not None and encrypted:
            text, entries = await self._encryption.protect(conn, stream, event, text, tenant)
        return (text if self._serializer.content_type is None else self._serializer.pack(text)), entries

    @overload
    def load(self, conn: AsyncConnection, stream: str, from_version: int = 1) -> Coroutine[Any, Any, list[RecordedEvent]]: ...
    @overload
    def load(self, conn: SyncConnection, stream: str, from_version: int = 1) -> list[RecordedEvent]: ...
    def load(self, conn: Any, stream: str, from_version: int = 1) -> Any:
        """Returns the events of a stream from a version on (inclusive), decrypted, upcast and decoded. A stream that does not
        exist has none. Events of the current transaction are included. It reads pages of 1000 events, or 16 MB."""
        return run(conn, self.load_async(conn, stream, from_version))

    async def load_async(self, conn: Any, stream: str, from_version: int = 1) -> list[RecordedEvent]:
        """Does the same as load(), to be awaited on any connection."""
        decode = functools.partial(self.decoded, is_async(conn), self.lookup(conn))
        return [await decode(*found) for found in await self._pages(conn, stream, from_version)]

    @overload
    def load_raw(self, conn: AsyncConnection, stream: str, from_version: int = 1) -> Coroutine[Any, Any, list[RecordedEvent]]: ...
    @overload
    def load_raw(self, conn: SyncConnection, stream: str, from_version: int = 1) -> list[RecordedEvent]: ...
    def load_raw(self, conn: Any, stream: str, from_version: int = 1) -> Any:
        """Returns the events of a stream as they are stored: data is JSON or bytes, encrypted fields stay encrypted."""
        return run(conn, self._raw(conn, stream, from_version))

    async def _raw(self, conn: Any, stream: str, from_version: int) -> list[RecordedEvent]:
        found = await self._pages(conn, stream, from_version)
        for event, content in found:
            event.data = json.loads(content) if isinstance(content, str) else content
        return [event for event, _ in found]

    async def _pages(
        self, conn: Any, stream: str, from_version: int, last: int | None = None
    ) -> list[tuple[RecordedEvent, str | bytes | None]]:
        found: list[tuple[RecordedEvent, str | bytes | None]] = []
        while True:
            size = PAGE if last is None else min(PAGE, last - from_version + 1)
            page = json.loads(await call(conn, "load", [
                ("stream", "text", stream), ("from_version", "bigint", str(from_version)), ("max_events", "int", str(size)),
            ], _LOAD))
            found += map(recorded, page["rows"])
            if len(page["rows"]) == page["found"] < size or (found and found[-1][0].version == last):
                return found
            from_version = found[-1][0].version + 1

    def lookup(self, conn: Any) -> Lookup:
        """Returns the function that finds data keys on a connection. It asks the server for each of them once, and is for one
        load."""

        asked: dict[str, Mapping[str, Any] | None] = {}

        async def find(key_id: str) -> Mapping[str, Any] | None:
            if key_id not in asked:
                found = await call(conn, "get_subject_key", [("key_id", "text", key_id)], KEY)
                asked[key_id] = None if found is None else json.loads(found)
            return asked[key_id]

        return find

    async def decoded(self, in_asyncio: bool, lookup: Lookup, event: RecordedEvent, content: str | bytes | None) -> RecordedEvent:
        """Decrypts, upcasts and decodes the content into the data of the event, and returns the event."""
        if self.decoded_now(event, content):
            return event
        text = self._text_of(event, content)
        if text is None:
            return event
        assert self._encryption is not None
        redacted = False
        try:
            text = await self._encryption.reveal(in_asyncio, lookup, event, text)
        except (KeyNotFoundError, RetryError):
            # The key may be found, and the provider may answer, when the event is loaded again.
            raise
        except EncryptionError as error:
            if self._encryption.on_undecryptable is not None:
                return await _decided(self._encryption.on_undecryptable, event, text, error)
            if not isinstance(error, KeyRevokedError):
                raise
            text, redacted = without_fields(text, event.metadata), True
        self._decode(event, text, redacted)
        return event

    def decoded_now(self, event: RecordedEvent, content: str | bytes | None) -> bool:
        """Does the same for an event without encrypted fields. Returns False for one that has some."""
        if self._encryption is not None and "encrypted_fields" in event.metadata:
            return False
        text = self._text_of(event, content)
        if text is not None:
            self._decode(event, text, False)
        return True

    def _text_of(self, event: RecordedEvent, content: str | bytes | None) -> str | None:
        """Returns the content as JSON text; None if there is none. Content that has no text becomes the data of the event."""
        if content is None or isinstance(content, str):
            return content
        serializer = self._serializers.get(event.content_type)
        if serializer is not None and serializer.is_text:
            return serializer.unpack(content)
        into = self.registry.class_of(event.type)
        event.data = content if serializer is None else serializer.load(content, into)
        return None

    def _decode(self, event: RecordedEvent, text: str, redacted: bool) -> None:
        text = self._upcasters.apply(event.type, text, event.metadata)
        event.data = self.registry.decode(event.type, text, redacted=redacted)
        event.redacted = redacted

    def inline(self, name: str, handler: InlineHandler, types: Sequence[str] | None = None) -> None:
        """Adds an inline projection: handler(conn, events) runs in the transaction of each append, after it; its errors refuse
        the append. types: only events of types that match these patterns. On a blocking connection the handler is blocking."""
        if name in self._inline:
            raise ValueError(f'the store has inline projection "{name}" already')
        self._inline[name] = handler, None if types is None else [_core.Pattern(pattern) for pattern in types]

    def remove_inline(self, name: str) -> bool:
        """Removes an inline projection. Returns False if there is none with this name."""
        return self._inline.pop(name, None) is not None

    async def _project(self, conn: Any, appended: Appended) -> None:
        found = await self._pages(conn, appended.stream, appended.first_version, appended.last_version)
        in_asyncio, lookup = is_async(conn), self.lookup(conn)
        events = [await self.decoded(in_asyncio, lookup, *one) for one in found]
        for handler, patterns in list(self._inline.values()):
            chosen = [event for event in events if patterns is None or any(one.matches(event.type) for one in patterns)]
            if not chosen:
                continue
            done: Awaitable[Any] | Any = handler(conn, chosen)
            if inspect.isawaitable(done):
                await done

    @overload
    def stream_info(self, conn: AsyncConnection, stream: str) -> Coroutine[Any, Any, StreamInfo]: ...
    @overload
    def stream_info(self, conn: SyncConnection, stream: str) -> StreamInfo: ...
    def stream_info(self, conn: Any, stream: str) -> Any:
        """Returns what is known of a stream. Raises NotFoundError if it does not exist."""
        return run(conn, self._info(conn, stream))

    async def _info(self, conn: Any, stream: str) -> StreamInfo:
        found = await call_json(conn, "stream_info", [("stream", "text", stream)])
        times = {name: None if found[name] is None else time_of(found[name]) for name in ("created_at", "updated_at", "closed_at")}
        return StreamInfo(
            found["category"], found["version"], found["events"], times["created_at"], times["updated_at"], times["closed_at"],
            found["truncated_before"],
        )

    @overload
    def last_position(self, conn: AsyncConnection) -> Coroutine[Any, Any, int]: ...
    @overload
    def last_position(self, conn: SyncConnection) -> int: ...
    def last_position(self, conn: Any) -> Any:
        """Returns the position of the end of the feed; 0: nothing is in it yet."""
        return run(conn, call(conn, "head", []))

    @overload
    def subscribe_all(
        self, outbox: AsyncOutbox, after: int = 0, *, categories: Sequence[str] | None = None, types: Sequence[str] | None = None,
        tenant: str | None = None, filter: Mapping[str, Any] | None = None, buffer: int = 256, poll_interval: float = 0.1,
        retries: int = 5, retry_interval: float = 1.0,
    ) -> AsyncEvents: ...
    @overload
    def subscribe_all(
        self, outbox: Outbox, after: int = 0, *, categories: Sequence[str] | None = None, types: Sequence[str] | None = None,
        tenant: str | None = None, filter: Mapping[str, Any] | None = None, buffer: int = 256, poll_interval: float = 0.1,
        retries: int = 5, retry_interval: float = 1.0,
    ) -> Events: ...
    def subscribe_all(
        self, outbox: Any, after: int = 0, *, categories: Sequence[str] | None = None, types: Sequence[str] | None = None,
        tenant: str | None = None, filter: Mapping[str, Any] | None = None, buffer: int = 256, poll_interval: float = 0.1,
        retries: int = 5, retry_interval: float = 1.0,
    ) -> Any:
        """Iterates over all events behind a position, first those that there are, then new ones as they come, without a gap:
        an async iterator for an AsyncOutbox, else an iterator. `close()` ends it, and `position` is where it stands.

        categories, types (patterns), tenant and filter (as of a subscription) select. buffer: the most events in memory.
        poll_interval: seconds between looks for new events. retries and retry_interval: for errors that may pass, in a row
        (5, 1 s). An event that cannot be decoded is raised, and comes again with the next step."""
        return self._subscribed(outbox, after, (categories, types, tenant, filter), None, buffer, (poll_interval, retries, retry_interval))

    @overload
    def subscribe_category(self, outbox: AsyncOutbox, category: str, after: int = 0, **options: Any) -> AsyncEvents: ...
    @overload
    def subscribe_category(self, outbox: Outbox, category: str, after: int = 0, **options: Any) -> Events: ...
    def subscribe_category(self, outbox: Any, category: str, after: int = 0, **options: Any) -> Any:
        """Does the same as subscribe_all(), for the streams of one category. options: those of subscribe_all()."""
        return self.subscribe_all(outbox, after, categories=[category], **options)

    @overload
    def subscribe_stream(
        self, outbox: AsyncOutbox, stream: str, after: int = 0, *, buffer: int = 256, poll_interval: float = 0.1, retries: int = 5,
        retry_interval: float = 1.0,
    ) -> AsyncEvents: ...
    @overload
    def subscribe_stream(
        self, outbox: Outbox, stream: str, after: int = 0, *, buffer: int = 256, poll_interval: float = 0.1, retries: int = 5,
        retry_interval: float = 1.0,
    ) -> Events: ...
    def subscribe_stream(
        self, outbox: Any, stream: str, after: int = 0, *, buffer: int = 256, poll_interval: float = 0.1, retries: int = 5,
        retry_interval: float = 1.0,
    ) -> Any:
        """Does the same as subscribe_all(), for one stream. `after` and `position` are versions of the stream."""
        return self._subscribed(outbox, after, (None, None, None, None), stream, buffer, (poll_interval, retries, retry_interval))

    def _subscribed(self, outbox: Any, after: int, selected: tuple[Any, ...], stream: str | None, buffer: int, waits: tuple[Any, ...]) -> Any:
        from .._client import AsyncOutbox
        from .readers import AsyncEvents, Events, Feed, Selection

        feed = Feed(outbox._core, Selection(*selected), after, buffer, stream)
        return (AsyncEvents if isinstance(outbox, AsyncOutbox) else Events)(self, feed, *waits)
