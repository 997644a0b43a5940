"""Verification of what a receiver gets: Standard Webhooks.

Give `verify` the bytes that arrived, before a framework made anything of them: `await request.body()` of FastAPI and Starlette,
`request.get_data()` of Flask, `request.body` of Django. JSON that was parsed and written again has other bytes, and no signature
fits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import _core
from ._core import sign
from ._errors import InvalidError

__all__ = ["Verified", "sign", "verify"]


@dataclass(frozen=True)
class Verified:
    """id: the same on every attempt, deduplicate by it; timestamp: when it was signed, in seconds since 1970; body: what was
    signed, decompressed if it arrived compressed."""

    id: str
    timestamp: int
    body: bytes

    def text(self) -> str:
        """The body as text."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise InvalidError("the body is not UTF-8", code="22023", name="invalid_parameter") from error

    def json(self) -> Any:
        """The body as JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise InvalidError("the body is not JSON", code="22023", name="invalid_parameter", detail=str(error)) from error


def verify(
    secret: str | list[str] | tuple[str, ...], headers: Mapping[str, str], body: bytes | str, *, tolerance: float = 300.0,
    limit: int = 1024 * 1024, now: int | None = None,
) -> Verified:
    """Checks the headers of a request and its body, byte for byte as it arrived, with one secret or, while it is rotated,
    several. Gzip that is named in `Content-Encoding` (endpoints with `compress => true`) is decompressed: `limit` is how many
    bytes it may have, before and after. Raises InvalidError (name invalid_signature, or too_large)."""
    secrets = [secret] if isinstance(secret, str) else list(secret)
    lower = {str(name).lower(): str(value) for name, value in headers.items()}
    arrived = body.encode() if isinstance(body, str) else bytes(body)
    id, timestamp, content = _core.verify(secrets, tolerance, lower, arrived, limit, now)
    return Verified(id, timestamp, arrived if content is None else content)
