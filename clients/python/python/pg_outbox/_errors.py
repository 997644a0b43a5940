"""The exceptions of this package: one base class and seven subclasses that say what a caller can do.

The SQLSTATE decides on the class, never the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class OutboxError(Exception):
    """The base class of all exceptions of this package.

    kind says what a caller can do, code is the SQLSTATE, name is its symbolic name. detail and hint come from the server.
    """

    kind = "fatal"

    def __init__(
        self, message: str, *, code: str = "XX000", name: str = "internal", detail: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.name = name
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        parts = [f"{self.message} ({self.code} {self.name})"]
        parts += [f"{label}: {text}" for label, text in (("detail", self.detail), ("hint", self.hint)) if text]
        return "\n".join(parts)


class NotFoundError(OutboxError):
    """The named object does not exist."""

    kind = "not_found"


class ConflictError(OutboxError):
    """The object exists, but its state does not allow this call."""

    kind = "conflict"


class InvalidError(OutboxError):
    """The arguments are wrong. The same call will never succeed."""

    kind = "invalid"


class LeaseLostError(OutboxError):
    """The caller does not hold the lease, or holds it no longer."""

    kind = "lease_lost"


class InactiveError(OutboxError):
    """The topic, publisher, endpoint or subscription is switched off."""

    kind = "inactive"


class RetryError(OutboxError):
    """The same call may succeed later: the connection was lost, the server restarts, or a lock was busy."""

    kind = "retry"


class FatalError(OutboxError):
    """The caller can do nothing at run time: the extension or a privilege is missing, or the versions do not match."""

    kind = "fatal"


_CLASSES: dict[str, type[OutboxError]] = {
    c.kind: c for c in (NotFoundError, ConflictError, InvalidError, LeaseLostError, InactiveError, RetryError, FatalError)
}


def make(kind: str, code: str, name: str, message: str, detail: str | None = None, hint: str | None = None) -> OutboxError:
    """Creates the exception of a kind."""
    return _CLASSES.get(kind, FatalError)(message, code=code, name=name, detail=detail, hint=hint)


def invalid(message: str, *, detail: str | None = None, hint: str | None = None) -> InvalidError:
    """Creates the exception for an argument or a value that is malformed (22023)."""
    return InvalidError(message, code="22023", name="invalid_parameter", detail=detail, hint=hint)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns the sentence that names the known name which was probably meant, or nothing."""
    import difflib

    close = difflib.get_close_matches(name, list(known), 1)
    return f". Did you mean '{close[0]}'?" if close else ""


def from_driver(error: BaseException) -> OutboxError | None:
    """Converts an exception of a driver (psycopg, asyncpg, SQLAlchemy, Django). Returns None if it has no SQLSTATE."""
    from . import _core

    seen: list[Any] = []
    todo: list[Any] = [error]
    while todo:
        one = todo.pop(0)
        if one is None or any(one is s for s in seen):
            continue
        seen.append(one)
        state = getattr(one, "sqlstate", None) or getattr(one, "pgcode", None)
        if isinstance(state, str) and len(state) == 5:
            name, kind, known = _core.classify(state)
            diag = getattr(one, "diag", None)
            message = getattr(diag, "message_primary", None) or getattr(one, "message", None) or str(one)
            detail = getattr(diag, "message_detail", None) or getattr(one, "detail", None)
            hint = getattr(diag, "message_hint", None) or getattr(one, "hint", None) or known
            if name == "prepared_statement_lost":
                # The hint of a driver, if any, does not mention the pooler.
                hint = known
            return make(kind, state, name, str(message), detail, hint)
        # Not its context: an exception that a program raises after an error of a driver is its own.
        todo += [getattr(one, "orig", None), one.__cause__]
    return None
