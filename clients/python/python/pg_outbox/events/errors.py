"""The exceptions of events. Each is beneath OutboxError, and most are of a kind that says what a caller can do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .._errors import ConflictError, InvalidError, NotFoundError, OutboxError, RetryError
from .._worker import described


class ConcurrencyError(ConflictError):
    """The stream, or the saga, is not at the expected version (OB013). Load it again in a new transaction, and decide again.

    stream: its name, or None for a saga. expected and actual: versions; None if the server did not name them."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        try:
            found = json.loads(self.detail or "{}")
        except ValueError:
            found = {}
        found = found if isinstance(found, dict) else {}
        self.stream: str | None = found.get("stream")
        self.expected: int | None = found.get("expected")
        self.actual: int | None = found.get("actual")


class StreamClosedError(ConflictError):
    """The stream was closed and takes no more events (OB014)."""


class SchemaError(InvalidError):
    """The data of an event does not have the form that its type, its serializer or its upcasters want."""


class EncryptionError(InvalidError):
    """A field could not be encrypted or decrypted."""


class KeyNotFoundError(EncryptionError, NotFoundError):
    """There is no such data key, or no such master key."""

    kind = "not_found"


class KeyRevokedError(EncryptionError):
    """The data key was revoked. Data that was encrypted with it cannot be read any more."""


class KeyUnavailableError(EncryptionError, RetryError):
    """The provider of master keys does not answer. The same call may succeed later."""

    kind = "retry"


class SagaError(OutboxError):
    """A saga could not handle an event, or could not undo a step."""


class ProjectionError(OutboxError):
    """A projection is not known, is registered twice, or cannot do this in its state."""

    kind = "conflict"


class CommandError(OutboxError):
    """A command could not be processed."""


class HandlerNotFoundError(CommandError):
    """No handler is registered for the command."""

    kind = "invalid"


class BusClosedError(CommandError):
    """The bus was closed."""

    kind = "conflict"


class CommandTimeoutError(CommandError):
    """The command took longer than its time-out."""

    kind = "retry"


class CommandFailedError(CommandError):
    """The handler has failed with an exception that is no OutboxError; `__cause__` is that exception."""


class ReplayedError(CommandError):
    """The command was processed before, and ended with an error that was stored. `error` is what was stored."""

    kind = "conflict"

    def __init__(self, message: str, *, error: Any = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.error = error


@dataclass(frozen=True)
class FieldError:
    """What is wrong with a field of a command. An empty field is the command as a whole."""

    field: str
    message: str


class ValidationError(CommandError):
    """The command is not valid. `errors` has one entry or several."""

    kind = "invalid"

    def __init__(self, errors: Sequence[FieldError] | str, *, field: str = "") -> None:
        found = (FieldError(field, errors),) if isinstance(errors, str) else tuple(errors)
        text = "; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in found)
        super().__init__(text or "the command is not valid", code="22023", name="invalid_parameter")
        self.errors = found


_CLASSES: dict[str, type[OutboxError]] = {"OB013": ConcurrencyError, "OB014": StreamClosedError}


def typed(error: OutboxError) -> OutboxError:
    """Returns the error as the class of this module that its SQLSTATE has."""
    made = _CLASSES.get(error.code)
    if made is None or isinstance(error, made):
        return error
    return made(error.message, code=error.code, name=error.name, detail=error.detail, hint=error.hint)


_LIBRARIES = frozenset({"psycopg", "psycopg2", "psycopg_pool", "asyncpg", "sqlalchemy", "django", "pydantic", "pydantic_core", "msgpack", "google"})


def of_library(error: BaseException) -> bool:
    """Returns whether an exception is of a library whose texts quote values."""
    return type(error).__module__.split(".")[0] in _LIBRARIES or isinstance(error, (json.JSONDecodeError, UnicodeError))


def told(error: BaseException) -> str:
    """Returns what of an exception may be stored and logged: class and text, or class, SQLSTATE and place where the text is that
    of a library."""
    return place_of(error) if of_library(error) else described(error)


def quotes(error: BaseException) -> bool:
    """Returns whether the traceback of an exception shows the text of a library."""
    one: BaseException | None = error
    while one is not None:
        if of_library(one):
            return True
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return False


def place_of(error: BaseException) -> str:
    """Returns the class of an exception, its SQLSTATE if it has one, and the line that has raised it or has called a library."""
    state = getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None and "site-packages" not in frame.tb_next.tb_frame.f_code.co_filename:
        frame = frame.tb_next
    place = "" if frame is None else f" ({os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno})"
    return f"{type(error).__name__}{f' {state}' if isinstance(state, str) else ''}{place}"


@contextmanager
def as_class(make: type[OutboxError]) -> Iterator[None]:
    """Raises an InvalidError of the block as another class, with the same text."""
    try:
        yield
    except InvalidError as error:
        if isinstance(error, make):
            raise
        raise make(error.message, code=error.code, name=error.name, detail=error.detail, hint=error.hint) from error


def schema_error(message: str, *, detail: str | None = None, hint: str | None = None) -> SchemaError:
    """Creates the exception for data of the wrong form."""
    return SchemaError(message, code="22023", name="invalid_parameter", detail=detail, hint=hint)
