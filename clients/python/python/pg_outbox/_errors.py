"""One base, seven subclasses that say what to do. The SQLSTATE decides, never the text."""

from __future__ import annotations

from typing import Any


class OutboxError(Exception):
    """Base of everything this package raises.

    kind: what can be done about it; code: the SQLSTATE; name: its symbolic name; detail and hint as the server gave them.
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
    """The named object is not there."""

    kind = "not_found"


class ConflictError(OutboxError):
    """The object is there, but not in a state in which this can be done."""

    kind = "conflict"


class InvalidError(OutboxError):
    """The arguments are wrong; the same call will never work."""

    kind = "invalid"


class LeaseLostError(OutboxError):
    """The lease is not, or no longer, held by the caller."""

    kind = "lease_lost"


class InactiveError(OutboxError):
    """Topic, publisher, endpoint or subscription is switched off."""

    kind = "inactive"


class RetryError(OutboxError):
    """The same call may work later: the connection was lost, the server restarts, a lock was busy."""

    kind = "retry"


class FatalError(OutboxError):
    """Nothing a caller can do at run time: no extension, no privilege, another version."""

    kind = "fatal"


_CLASSES: dict[str, type[OutboxError]] = {
    c.kind: c for c in (NotFoundError, ConflictError, InvalidError, LeaseLostError, InactiveError, RetryError, FatalError)
}

def make(kind: str, code: str, name: str, message: str, detail: str | None = None, hint: str | None = None) -> OutboxError:
    """The exception of a kind."""
    return _CLASSES.get(kind, FatalError)(message, code=code, name=name, detail=detail, hint=hint)


def from_driver(error: BaseException) -> OutboxError | None:
    """What an exception of a driver (psycopg, asyncpg, SQLAlchemy, Django) means; None if it has no SQLSTATE."""
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
                # A driver that has a hint of its own speaks of itself only.
                hint = known
            return make(kind, state, name, str(message), detail, hint)
        todo += [getattr(one, "orig", None), one.__cause__, one.__context__]
    return None
