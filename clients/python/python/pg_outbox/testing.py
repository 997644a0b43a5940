"""Helpers for tests of applications: the messages that a transaction enqueued, and a receiver of webhooks.

`Outbox.drain` and `App.drain` handle the deliveries of a subscription inline. `given` and the other names of
`pg_outbox.events.testing` are here too. The fixtures of pytest are in `pg_outbox.pytest_plugin`.
"""

# An async connection has the methods of a blocking one, so its overload comes first, and the two overlap.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, TypedDict, overload

from ._enqueue import scalar
from ._rows import dumps

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._throwaway import TestServer
    from ._typing import AsyncConnection, SyncConnection
    from .events.testing import Clock, any_of, fixed, given, given_saga, recorded_event, recorded_events, with_metadata

__all__ = [
    "Arrival", "Clock", "Enqueued", "Expected", "Receiver", "TestServer", "any_of", "assert_enqueued", "assert_not_enqueued", "contains", "enqueued", "fixed",
    "given", "given_saga", "recorded_event", "recorded_events", "with_metadata",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "TestServer":
        from ._throwaway import TestServer

        return TestServer
    from .events import testing

    return getattr(testing, name)


class Enqueued(TypedDict):
    """A message that the current transaction has enqueued. payload is None for a message of bytes."""

    id: int
    topic: str
    key: str | None
    tenant: str | None
    headers: dict[str, Any]
    metadata: dict[str, Any]
    payload: Any


class Expected(TypedDict, total=False):
    """What a message must have besides its topic and payload: this key, this tenant, headers and metadata that contain
    these."""

    key: str | None
    tenant: str | None
    headers: Mapping[str, Any]
    metadata: Mapping[str, Any]


_ENQUEUED = (
    "select coalesce((select cast(jsonb_agg(jsonb_build_object('id', m.id, 'topic', m.topic, 'key', m.key, 'tenant', m.tenant,"
    " 'headers', coalesce(m.headers, '{}'), 'metadata', coalesce(m.metadata, '{}'), 'payload', m.payload) order by m.id) as text)"
    " from outbox.message m where m.xid = pg_current_xact_id_if_assigned() and m.topic !~ '^outbox[.]'), '[]')"
)


def _then(found: Any, convert: Callable[[Any], Any]) -> Any:
    """Converts what a call on a connection has returned; on an async connection when it is awaited."""
    if not hasattr(found, "__await__"):
        return convert(found)

    async def wait() -> Any:
        return convert(await found)

    return wait()


@overload
def enqueued(conn: AsyncConnection) -> Coroutine[Any, Any, list[Enqueued]]: ...
@overload
def enqueued(conn: SyncConnection) -> list[Enqueued]: ...
def enqueued(conn: Any) -> Any:
    """Returns the messages that the current transaction has enqueued so far, in order. The role needs the right to read
    outbox.message."""
    return _then(scalar(conn, _ENQUEUED), json.loads)


def contains(value: Any, part: Any) -> bool:
    """Returns whether value contains part. A dict contains another one if it contains all of its keys and values. Other
    values must be equal."""
    if isinstance(value, dict) and isinstance(part, dict):
        return all(key in value and contains(value[key], item) for key, item in part.items())
    return bool(value == part)


def _expected(topic: str, payload: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(more) - Expected.__optional_keys__
    if unknown:
        raise TypeError(f"unknown expectation '{min(unknown)}'")
    # In the form that enqueue gives it: a model, a Decimal or a time is compared as the JSON that it becomes.
    wanted = json.loads(dumps(more))
    if payload is not ...:
        wanted["payload"] = json.loads(dumps(payload))
    return {"topic": topic, **wanted}


def _find(found: list[dict[str, Any]], wanted: dict[str, Any], absent: bool) -> Any:
    match = next((message for message in found if contains(message, wanted)), None)
    if (match is None) == absent:
        return match
    shown = json.dumps({name: value for name, value in wanted.items() if name != "topic"})
    if absent:
        raise AssertionError(f"this transaction has enqueued {wanted['topic']} {shown}: {json.dumps(match)}")
    listed = "; ".join(f"{m['topic']} {json.dumps({n: m[n] for n in m if n in wanted and n != 'topic'})}" for m in found) or "nothing"
    raise AssertionError(f"this transaction has not enqueued {wanted['topic']} {shown}; it has enqueued: {listed}")


@overload
def assert_enqueued(
    conn: AsyncConnection, topic: str, payload: Any = ..., **expected: Unpack[Expected]
) -> Coroutine[Any, Any, Enqueued]: ...
@overload
def assert_enqueued(conn: SyncConnection, topic: str, payload: Any = ..., **expected: Unpack[Expected]) -> Enqueued: ...
def assert_enqueued(conn: Any, topic: str, payload: Any = ..., **expected: Any) -> Any:
    """Asserts that the current transaction of conn has enqueued a message to topic whose payload contains payload, and
    returns the message. `key`, `tenant`, `headers` and `metadata` narrow it further. The payload is any value that enqueue
    takes. On an async connection the result has to be awaited."""
    wanted = _expected(topic, payload, expected)
    return _then(enqueued(conn), lambda found: _find(found, wanted, False))


@overload
def assert_not_enqueued(
    conn: AsyncConnection, topic: str, payload: Any = ..., **expected: Unpack[Expected]
) -> Coroutine[Any, Any, None]: ...
@overload
def assert_not_enqueued(conn: SyncConnection, topic: str, payload: Any = ..., **expected: Unpack[Expected]) -> None: ...
def assert_not_enqueued(conn: Any, topic: str, payload: Any = ..., **expected: Any) -> Any:
    """Asserts that the current transaction of conn has enqueued no message that assert_enqueued would find."""
    wanted = _expected(topic, payload, expected)
    return _then(enqueued(conn), lambda found: _find(found, wanted, True))


@dataclass(frozen=True)
class Arrival:
    """A request that arrived. headers have lower-case names. body is decompressed if it was signed and arrived compressed.
    valid says whether the signature is valid; it is None if there is no secret."""

    request: str
    headers: dict[str, str]
    body: bytes
    valid: bool | None

    def json(self) -> Any:
        """Returns the body as JSON."""
        return json.loads(self.body)


Answer = int | Callable[[Arrival], int]


class Receiver:
    """A receiver of webhooks on a port of its own. It answers 200 until answer() sets something else. It is a context
    manager, and close() ends it."""

    def __init__(self, address: str = "127.0.0.1:0", secret: str | None = None) -> None:
        host, _, port = address.rpartition(":")
        self._arrivals: list[Arrival] = []
        self._arrived = threading.Condition()
        self._answer: Answer = 200
        self._secret = secret
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                status = receiver._take(f"{self.command} {self.path}", {k.lower(): v for k, v in self.headers.items()}, body)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_PUT = do_PATCH = do_DELETE = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                """Logs nothing, because arrivals are returned."""

        self._server = ThreadingHTTPServer((host, int(port)), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="outbox-receiver", daemon=True)
        self._thread.start()

    def _take(self, request: str, headers: dict[str, str], body: bytes) -> int:
        valid: bool | None = None
        if self._secret is not None:
            from ._errors import InvalidError
            from .webhooks import verify

            try:
                body, valid = verify(self._secret, headers, body).body, True
            except InvalidError:
                valid = False
        arrival = Arrival(request, headers, body, valid)
        with self._arrived:
            self._arrivals.append(arrival)
            self._arrived.notify_all()
        if valid is False:
            return 401
        return self._answer(arrival) if callable(self._answer) else self._answer

    def url(self, path: str = "/") -> str:
        """Returns the URL of a path on the receiver."""
        host, port = self._server.server_address[:2]
        return f"http://{host if isinstance(host, str) else host.decode()}:{port}{path}"

    def answer(self, status: Answer) -> None:
        """Answers with this status from now on, or with what a function of the arrival returns."""
        self._answer = status

    def verify_with(self, secret: str) -> None:
        """Checks signatures from now on. Requests with an invalid signature are answered with 401."""
        self._secret = secret

    def wait_for(self, count: int, timeout: float = 60.0) -> list[Arrival]:
        """Waits until count requests have arrived in all, and returns them. Raises TimeoutError after timeout seconds."""
        end = time.monotonic() + timeout
        with self._arrived:
            while len(self._arrivals) < count:
                left = end - time.monotonic()
                if left <= 0 or not self._arrived.wait(min(left, threading.TIMEOUT_MAX)):
                    raise TimeoutError(f"{len(self._arrivals)} of {count} requests have arrived in {timeout} s")
            return list(self._arrivals)

    def close(self) -> None:
        """Stops listening. Requests that have begun are answered."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
