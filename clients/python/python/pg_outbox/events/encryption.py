"""Encryption of fields of events, with AES-256-GCM in the native core.

    encryption = FieldEncryption(
        LocalKeys.from_env({"master-2026": "OUTBOX_MASTER_KEY"}), {"customer.named": ["name", "address.street"]},
        per="subject", subject=lambda event: event.data.customer, master_key="master-2026",
    )

Each field is encrypted with a data key, and the data key with a master key that the database never sees. With a data key per
subject, `Outbox.revoke_subject_keys` makes all that is about a person unreadable, in every copy of the events.
"""

# An async connection has the methods of a blocking one, so its overload comes first, and the two overlap.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import secrets
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from .. import _core
from .._errors import NotFoundError, OutboxError
from .._rows import dumps
from ._runs import call, call_rows, is_async, run, work
from .errors import EncryptionError, KeyNotFoundError, KeyRevokedError, KeyUnavailableError, as_class
from .providers import KeyProvider

if TYPE_CHECKING:
    from .._typing import AsyncConnection, SyncConnection
    from .registry import NewEvent
    from .store import RecordedEvent

T = TypeVar("T")
Lookup = Callable[[str], Awaitable[Mapping[str, Any] | None]]
_NONCE = 12
_MOST_FIELDS = 1000


def _error(make: type[EncryptionError], message: str, hint: str | None = None) -> EncryptionError:
    return make(message, code="22023", name="invalid_parameter", hint=hint)


class _Cache(Generic[T]):
    """Keeps the values that were used last, for some seconds. Those that are older leave the memory at the next call."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._lock = threading.Lock()
        self._next = math.inf
        self._kept: OrderedDict[Any, tuple[float, T]] = OrderedDict()

    def get(self, key: Any) -> T | None:
        with self._lock:
            self._prune()
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[1]

    def put(self, key: Any, value: T) -> None:
        with self._lock:
            self._prune()
            until = time.monotonic() + self._seconds
            self._next = min(self._next, until)
            self._kept[key] = until, value
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)

    def _prune(self) -> None:
        at = time.monotonic()
        if at < self._next:
            return
        for key in [key for key, (until, _) in self._kept.items() if until <= at]:
            del self._kept[key]
        self._next = min((until for until, _ in self._kept.values()), default=math.inf)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


class FieldEncryption:
    """Encrypts fields when events are appended, and decrypts them when events are loaded.

    provider: wraps data keys. fields: paths by event type; a path is names with dots between them. per: `event` makes a data
    key for each event, `subject` one for each subject. subject: returns the id of the subject of a NewEvent. master_key: the
    name of the master key for new data keys, or a function of the tenant that returns it. on_undecryptable: is called with
    the event and the error when fields cannot be decrypted; it returns the data, or raises. Without it, the fields of an
    event whose key was revoked are None, and any other error is raised.
    It is not called for a key that is not known, nor where the provider does not answer: these are errors.
    cache_size and cache_seconds: how many unwrapped data keys are kept in memory, and for how long (1000, 60 s). The server is
    asked whether the key of a subject was revoked, for each load and each append.
    """

    def __init__(
        self, provider: KeyProvider, fields: Mapping[str, Sequence[str]], *, master_key: str | Callable[[str | None], str],
        per: Literal["event", "subject"] = "event", subject: Callable[[NewEvent], str] | None = None,
        on_undecryptable: Callable[[RecordedEvent, EncryptionError], Any] | None = None, cache_size: int = 1000,
        cache_seconds: float = 60.0,
    ) -> None:
        if per not in ("event", "subject") or (per == "subject") != (subject is not None):
            raise ValueError('per is "event", or "subject" together with a function subject')
        if not 1 <= cache_size <= 1_000_000 or not 0 <= cache_seconds <= 86_400:
            raise ValueError("cache_size: 1 to 1000000; cache_seconds: 0 to 86400")
        self._fields = {name: list(paths) for name, paths in fields.items()}
        for paths in self._fields.values():
            with as_class(EncryptionError):
                _core.check_paths(paths)
        self._provider = provider
        self._master_key = master_key
        self._subject = subject
        self.on_undecryptable = on_undecryptable
        self._keys: _Cache[bytes] = _Cache(cache_size, cache_seconds)

    def forget(self) -> None:
        """Forgets the keys in memory, for example after a revocation."""
        self._keys.clear()

    def covers(self, type_name: str) -> bool:
        """Returns whether fields of a type are encrypted."""
        return bool(self._fields.get(type_name))

    async def protect(self, conn: Any, stream: str, event: NewEvent, text: str, tenant: str | None) -> tuple[str, dict[str, Any]]:
        """Returns the data of an event, as JSON text, with its fields encrypted, and the entries of its metadata."""
        paths = self._fields.get(event.type)
        if not paths:
            return text, {}
        master = self._master_key if isinstance(self._master_key, str) else self._master_key(tenant)
        if self._subject is None:
            key = secrets.token_bytes(32)
            wrapped = await self._wrap(is_async(conn), key, master)
            entries = {"wrapped_key": base64.b64encode(wrapped).decode(), "master_key": master}
        else:
            key, key_id = await self._of_subject(conn, self._subject(event), master)
            entries = {"key_id": key_id}
        with as_class(EncryptionError):
            done, found = _core.encrypt_fields(key, stream, event.type, text, paths, secrets.token_bytes(_NONCE * len(paths)))
        return (done, {"encrypted_fields": found, **entries}) if found else (text, {})

    async def _of_subject(self, conn: Any, subject: str, master: str) -> tuple[bytes, str]:
        """Returns the newest data key of a subject, or a new one, which is stored in the transaction of conn."""
        if not isinstance(subject, str) or not subject:
            raise _error(EncryptionError, "the event has no subject", "The function subject returns the id of the subject.")
        rows = await call_rows(conn, "subject_keys", [("subject", "text", subject)], _KEYS)
        usable = [row for row in rows if row["wrapped_key"] is not None]
        if usable:
            return await self._unwrap(is_async(conn), _bytes(usable[-1]["wrapped_key"]), usable[-1]["master_key"]), usable[-1]["key_id"]
        key, key_id = secrets.token_bytes(32), str(uuid.uuid4())
        wrapped = await self._wrap(is_async(conn), key, master)
        await call(conn, "save_subject_key", [
            ("subject", "text", subject), ("key_id", "text", key_id), ("wrapped_key", "bytea", wrapped), ("master_key", "text", master),
        ], "select cast({} as text)")
        return key, key_id

    async def reveal(self, in_asyncio: bool, lookup: Lookup, event: RecordedEvent, text: str) -> str:
        """Returns the data of an event, as JSON text, with its fields decrypted. Raises EncryptionError."""
        entries = event.metadata
        paths = _paths(entries)
        if not paths:
            return text
        key_id = entries.get("key_id")
        if "wrapped_key" not in entries and isinstance(key_id, str):
            # The server is asked each time, so that a revocation holds at once.
            state = await self._look_up(lookup, key_id)
            if state["wrapped_key"] is None:
                raise _error(KeyRevokedError, f'key "{key_id}" was revoked')
            wrapped, master = _bytes(state["wrapped_key"]), state["master_key"]
        else:
            wrapped, master = _bytes(entries.get("wrapped_key")), entries.get("master_key")
            if not isinstance(master, str):
                raise _error(EncryptionError, "the metadata of the event names no key")
        key = await self._unwrap(in_asyncio, wrapped, master)
        with as_class(EncryptionError):
            return _core.decrypt_fields(key, event.stream, event.type, text, paths)

    async def _look_up(self, lookup: Lookup, key_id: str) -> Mapping[str, Any]:
        try:
            found = await lookup(key_id)
        except NotFoundError as error:
            raise _error(KeyNotFoundError, error.message) from error
        if found is None:
            raise _error(KeyNotFoundError, f'key "{key_id}" does not exist')
        return found

    async def _wrap(self, in_asyncio: bool, key: bytes, master: str) -> bytes:
        with as_class(EncryptionError):
            return await self._call(in_asyncio, self._provider.wrap, key, master)

    async def _unwrap(self, in_asyncio: bool, wrapped: bytes, master: str) -> bytes:
        key = self._keys.get((master, wrapped))
        if key is None:
            with as_class(EncryptionError):
                key = await self._call(in_asyncio, self._provider.unwrap, wrapped, master)
            self._keys.put((master, wrapped), key)
        return key

    async def _call(self, in_asyncio: bool, function: Callable[[bytes, str], bytes], content: bytes, master: str) -> bytes:
        try:
            return await work(in_asyncio and self._provider.waits, function, content, master)
        except (OSError, asyncio.TimeoutError) as error:
            message = f"the provider of master keys does not answer: {type(error).__name__}"
            raise _error(KeyUnavailableError, message) from None

    @overload
    def rewrap(self, conn: AsyncConnection, subject: str, master_key: str) -> Coroutine[Any, Any, int]: ...
    @overload
    def rewrap(self, conn: SyncConnection, subject: str, master_key: str) -> int: ...
    def rewrap(self, conn: Any, subject: str, master_key: str) -> Any:
        """Wraps the data keys of a subject with another master key, in the transaction of conn, and returns how many. The
        role needs the capability admin."""
        return run(conn, self._rewrapped(conn, subject, master_key))

    async def _rewrapped(self, conn: Any, subject: str, master_key: str) -> int:
        rows = await call_rows(conn, "subject_keys", [("subject", "text", subject)], _KEYS)
        count = 0
        for row in rows:
            if row["wrapped_key"] is None or row["master_key"] == master_key:
                continue
            key = await self._unwrap(is_async(conn), _bytes(row["wrapped_key"]), row["master_key"])
            wrapped = await self._wrap(is_async(conn), key, master_key)
            await call(conn, "rewrap_subject_key", [
                ("key_id", "text", row["key_id"]), ("wrapped_key", "bytea", wrapped), ("master_key", "text", master_key),
            ], "select cast({} as text)")
            count += 1
        self.forget()
        return count


_KEYS = (
    "select coalesce(cast(json_agg(to_json(r)) as text), '[]') from (select k.key_id, encode(k.wrapped_key, 'base64') as wrapped_key,"
    " k.master_key from {} k order by k.created_at, k.key_id) r"
)
KEY = "select cast(to_json(r) as text) from (select encode(k.wrapped_key, 'base64') as wrapped_key, k.master_key from {} k) r"


def _bytes(text: Any) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        # encode() of the server breaks lines.
        return base64.b64decode(text.replace("\n", ""), validate=True)
    except (AttributeError, ValueError, binascii.Error) as error:
        raise _error(EncryptionError, "malformed wrapped key") from error


def _paths(metadata: Mapping[str, Any]) -> list[str]:
    paths = metadata.get("encrypted_fields") or []
    if not isinstance(paths, list) or len(paths) > _MOST_FIELDS or not all(isinstance(path, str) for path in paths):
        raise _error(EncryptionError, "malformed encrypted_fields of an event")
    return paths


_ENTRIES = ("encrypted_fields", "wrapped_key", "master_key", "key_id")


def refuse_entries(metadata: Mapping[str, Any]) -> None:
    """Raises EncryptionError for metadata of a new event that says how other data was encrypted."""
    if found := [name for name in _ENTRIES if name in metadata]:
        hint = "Metadata that is copied from another event has them: leave them out."
        raise _error(EncryptionError, f'the metadata of an event has the entry "{found[0]}" of encrypted events', hint)


def without_fields(text: str, metadata: Mapping[str, Any]) -> str:
    """Returns the data of an event, as JSON text, with the encrypted fields null."""
    data = json.loads(text)
    for path in _paths(metadata):
        *parents, last = path.split(".")
        place = data
        for name in parents:
            place = place.get(name) if isinstance(place, dict) else None
        if isinstance(place, dict) and last in place:
            place[last] = None
    return dumps(data)


def as_encryption_error(error: OutboxError) -> EncryptionError:
    """Returns an error as an EncryptionError."""
    if isinstance(error, EncryptionError):
        return error
    return EncryptionError(error.message, code=error.code, name=error.name, detail=error.detail, hint=error.hint)
