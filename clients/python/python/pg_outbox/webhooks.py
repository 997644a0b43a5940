"""Verifies the requests that a receiver gets (Standard Webhooks).

Pass to `verify` the bytes that arrived, before a framework parses them: `await request.body()` in FastAPI and Starlette,
`request.get_data()` in Flask, `request.body` in Django. JSON that was parsed and written again has other bytes, so its
signature does not match.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import _core
from ._core import sign
from ._errors import invalid

__all__ = ["Verified", "sign", "verify"]


@dataclass(frozen=True)
class Verified:
    """A verified request. id is the same on every attempt, so receivers deduplicate by it. timestamp is the time of the
    signature, in seconds since 1970. body is the signed content, decompressed if it arrived compressed."""

    id: str
    timestamp: int
    body: bytes

    def text(self) -> str:
        """Returns the body as text."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise invalid("the body is not UTF-8") from error

    def json(self) -> Any:
        """Returns the body as JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise invalid("the body is not JSON", detail=str(error)) from error


def verify(
    secret: str | list[str] | tuple[str, ...], headers: Mapping[str, str], body: bytes | str, *, tolerance: float = 300.0,
    limit: int = 1024 * 1024, now: int | None = None,
) -> Verified:
    """Checks the headers of a request and its body, byte for byte as it arrived, with one secret, or with several while
    a secret is rotated. If `Content-Encoding` names gzip (endpoints with `compress => true`), the body is decompressed.
    `limit` is the largest size of a compressed body in bytes, before and after decompression. Raises InvalidError (name
    invalid_signature or too_large)."""
    secrets = [secret] if isinstance(secret, str) else list(secret)
    lower = {str(name).lower(): str(value) for name, value in headers.items()}
    arrived = body.encode() if isinstance(body, str) else bytes(body)
    id, timestamp, content = _core.verify(secrets, tolerance, lower, arrived, limit, now)
    return Verified(id, timestamp, arrived if content is None else content)
