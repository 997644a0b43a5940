"""Helpers for tests of applications: the messages that a transaction enqueued, and a receiver of webhooks.

`Outbox.drain` handles the deliveries of a subscription inline.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from . import _core
from ._client import _start
from ._enqueue import enqueued

__all__ = ["Arrival", "Receiver", "assert_enqueued", "contains", "enqueued"]


def contains(value: Any, part: Any) -> bool:
    """Returns whether value contains part. A dict contains another one if it contains all of its keys and values. Other
    values must be equal."""
    if isinstance(value, dict) and isinstance(part, dict):
        return all(key in value and contains(value[key], item) for key, item in part.items())
    return bool(value == part)


def _find(found: list[dict[str, Any]], topic: str, payload: Any) -> dict[str, Any]:
    for message in found:
        if message["topic"] == topic and contains(message["payload"], payload):
            return message
    listed = "; ".join(f"{m['topic']} {json.dumps(m['payload'])}" for m in found) or "nothing"
    raise AssertionError(f"this transaction has not enqueued {topic} {json.dumps(payload)}; it has enqueued: {listed}")


def assert_enqueued(conn: Any, topic: str, payload: Any) -> Any:
    """Asserts that the current transaction of conn has enqueued a message to topic whose payload contains payload, and
    returns the message. On an async connection the result has to be awaited."""
    found = enqueued(conn)
    if hasattr(found, "__await__"):

        async def wait() -> dict[str, Any]:
            return _find(await found, topic, payload)

        return wait()
    return _find(found, topic, payload)


@dataclass(frozen=True)
class Arrival:
    """A request that arrived. valid says whether the signature is valid; it is None if there is no secret."""

    request: str
    headers: dict[str, str]
    body: bytes
    valid: bool | None


class Receiver:
    """A receiver of webhooks on a port of its own. It answers 200 until answer() sets another status."""

    def __init__(self, address: str = "127.0.0.1:0", secret: str | None = None) -> None:
        self._core = _core.Receiver(address)
        if secret is not None:
            self.verify_with(secret)

    def url(self, path: str = "/") -> str:
        """Returns the URL of a path on the receiver."""
        return self._core.url(path)

    def answer(self, status: int) -> None:
        """Answers with this status from now on."""
        self._core.answer(status)

    def verify_with(self, secret: str) -> None:
        """Checks signatures from now on. Requests with an invalid signature are answered with 401."""
        self._core.verify_with(secret)

    def wait_for(self, count: int, timeout: float = 60.0) -> list[Arrival]:
        """Waits until count requests have arrived in all, and returns them."""
        rows = _start(lambda f: self._core.wait_for(f, count)).result(timeout)
        return [
            Arrival(line, json.loads(headers), body, None if not valid else valid == "valid") for line, headers, body, valid in rows
        ]
