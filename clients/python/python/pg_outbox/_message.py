"""Messages that were read or claimed."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from opentelemetry.context import Context

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


class Validator(Protocol[T_co]):
    """A TypeAdapter of pydantic, or another object that validates JSON."""

    def validate_json(self, data: bytes, /) -> T_co: ...


class Message:
    """A message from a reader."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.message_id} {self.topic!r} at {self.position}>"

    def _time(self, name: str) -> dt.datetime | None:
        micros = self._raw[name]
        return None if micros is None else _EPOCH + dt.timedelta(microseconds=micros)

    def _object(self, name: str) -> dict[str, Any]:
        text = self._raw[name]
        return json.loads(text) if text else {}

    @property
    def message_id(self) -> int:
        return int(self._raw["message_id"])

    @property
    def webhook_id(self) -> str:
        """The webhook id, by which a receiver deduplicates."""
        return str(self._raw["webhook_id"])

    @property
    def position(self) -> int:
        """The position in the feed."""
        return int(self._raw["position"])

    @property
    def topic(self) -> str:
        return str(self._raw["topic"])

    @property
    def key(self) -> str | None:
        return self._raw["key"]  # type: ignore[no-any-return]

    @property
    def content_type(self) -> str | None:
        return self._raw["content_type"]  # type: ignore[no-any-return]

    @property
    def tenant(self) -> str | None:
        return self._raw["tenant"]  # type: ignore[no-any-return]

    @property
    def aggregate_type(self) -> str | None:
        return self._raw["aggregate_type"]  # type: ignore[no-any-return]

    @property
    def aggregate_id(self) -> str | None:
        return self._raw["aggregate_id"]  # type: ignore[no-any-return]

    @property
    def publisher(self) -> str | None:
        return self._raw["publisher"]  # type: ignore[no-any-return]

    @property
    def headers(self) -> dict[str, Any]:
        return self._object("headers")

    @property
    def metadata(self) -> dict[str, Any]:
        return self._object("metadata")

    @property
    def enqueued_at(self) -> dt.datetime:
        return self._time("enqueued_at") or _EPOCH

    @property
    def occurred_at(self) -> dt.datetime | None:
        return self._time("occurred_at")

    @property
    def version(self) -> int | None:
        """The version of an event in its stream. The topic of an event is its type, and the key its stream."""
        return self._raw["version"]  # type: ignore[no-any-return]

    @property
    def event_id(self) -> str | None:
        """The id that the application gave an event."""
        return self._raw["event_id"]  # type: ignore[no-any-return]

    @property
    def payload(self) -> Any:
        """The JSON payload. None for a message of bytes. Raises InvalidError if Python cannot have the value, such as a number
        of more digits than `sys.get_int_max_str_digits()`."""
        from ._payload import decode

        text = self._raw["payload"]
        return None if text is None else decode(text, Any)

    @overload
    def json(self) -> Any: ...
    @overload
    def json(self, into: type[T]) -> T: ...
    @overload
    def json(self, into: Validator[T]) -> T: ...
    def json(self, into: Any = Any) -> Any:
        """Returns the content as JSON, or with `into` as an instance of that type: a pydantic model or TypeAdapter, a
        dataclass, a TypedDict, or a generic such as list[Model] (which needs pydantic). Raises InvalidError."""
        from ._payload import decode

        return decode(self.bytes(), into)

    def text(self) -> str:
        """Returns the content as text."""
        from ._errors import invalid

        try:
            return self.bytes().decode()
        except UnicodeDecodeError as error:
            raise invalid("the body is not UTF-8") from error

    def bytes(self) -> bytes:
        """Returns the content as bytes."""
        text = self._raw["payload"]
        return text.encode() if text is not None else (self._raw["body"] or b"")

    def base64(self) -> str:
        """Returns the content in base64."""
        return base64.b64encode(self.bytes()).decode()

    def otel_context(self) -> Context:
        """Returns the OpenTelemetry context in which the message was enqueued, by `traceparent` and `tracestate` of its
        metadata. Needs the package opentelemetry-api."""
        from ._telemetry import context_of

        return context_of(self.metadata)

    def get_metadata(self, name: str, default: Any = None) -> Any:
        """Returns an entry of the metadata."""
        return self.metadata.get(name, default)


class Delivery(Message):
    """A message that this worker has leased."""

    __slots__ = ()

    @property
    def lease(self) -> int:
        return int(self._raw["lease"])

    @property
    def delivery_id(self) -> int:
        return int(self._raw["delivery_id"])

    @property
    def subscription(self) -> str:
        return str(self._raw["subscription"])

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return int(self._raw["attempt"])

    @property
    def max_attempts(self) -> int:
        return int(self._raw["max_attempts"])

    @property
    def priority(self) -> int:
        return int(self._raw["priority"])

    @property
    def deliver_at(self) -> dt.datetime | None:
        return self._time("deliver_at")

    @property
    def expires_at(self) -> dt.datetime | None:
        return self._time("expires_at")

    @property
    def last_attempt_at(self) -> dt.datetime | None:
        return self._time("last_attempt_at")

    @property
    def last_error(self) -> str | None:
        """The error of the previous attempt."""
        return self._raw["last_error"]  # type: ignore[no-any-return]
