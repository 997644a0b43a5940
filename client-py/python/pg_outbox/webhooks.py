"""Verification of what a receiver gets: Standard Webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import _core
from ._core import sign

__all__ = ["Verified", "sign", "verify"]


@dataclass(frozen=True)
class Verified:
    """id: the same on every attempt, deduplicate by it; timestamp: when it was signed, in seconds since 1970."""

    id: str
    timestamp: int


def verify(
    secret: str | list[str] | tuple[str, ...], headers: Mapping[str, str], body: bytes | str, *, tolerance: float = 300.0,
    now: int | None = None,
) -> Verified:
    """Checks the headers of a request and its body, byte for byte as it arrived, with one secret or, while it is rotated,
    several. Raises InvalidError (name invalid_signature)."""
    secrets = [secret] if isinstance(secret, str) else list(secret)
    lower = {str(name).lower(): str(value) for name, value in headers.items()}
    found = _core.verify(secrets, tolerance, lower, body.encode() if isinstance(body, str) else bytes(body), now)
    return Verified(*found)
