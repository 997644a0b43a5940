"""How the data of events is stored: as JSON (the default), or as bytes in MessagePack or Protobuf."""

from __future__ import annotations

import json
from typing import Any, Protocol

from .._rows import dumps
from .errors import schema_error

JSON = "application/json"
MESSAGE_PACK = "application/vnd.msgpack"
PROTOBUF = "application/x-protobuf"


class Serializer(Protocol):
    """content_type: the media type of the bytes; None: the data is stored as JSON, and SQL can look into it. is_text: the
    data has a form in JSON, so that fields can be encrypted and old versions upcast."""

    @property
    def content_type(self) -> str | None: ...
    @property
    def is_text(self) -> bool: ...
    def pack(self, text: str) -> bytes:
        """Returns JSON text as bytes."""
        ...
    def unpack(self, body: bytes) -> str:
        """Returns bytes as JSON text."""
        ...
    def dump(self, data: Any) -> bytes:
        """Returns data without a form in JSON as bytes."""
        ...
    def load(self, body: bytes, into: Any) -> Any:
        """Returns bytes as data without a form in JSON."""
        ...


class Json:
    """JSON, in the column `data`."""

    content_type: str | None = None
    is_text = True

    def pack(self, text: str) -> bytes:
        """Returns the text in UTF-8."""
        return text.encode()

    def unpack(self, body: bytes) -> str:
        """Returns the text of a body that was appended as bytes."""
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise schema_error("malformed JSON", detail="It is not UTF-8.") from error

    def dump(self, data: Any) -> bytes:
        """Returns the data as JSON in UTF-8."""
        return dumps(data).encode()

    def load(self, body: bytes, into: Any) -> Any:
        """Is not used: JSON has a text."""
        raise NotImplementedError


class MessagePack(Json):
    """MessagePack, as bytes. Needs the package msgpack. Numbers with a fraction become doubles."""

    content_type = MESSAGE_PACK

    def pack(self, text: str) -> bytes:
        """Returns JSON text as MessagePack."""
        import msgpack  # type: ignore[import-untyped,unused-ignore]

        try:
            return msgpack.packb(json.loads(text))  # type: ignore[no-any-return,unused-ignore]
        except (ValueError, OverflowError, TypeError) as error:
            raise schema_error("the data cannot be MessagePack", detail=str(error)) from error

    def unpack(self, body: bytes) -> str:
        """Returns MessagePack as JSON text."""
        import msgpack

        try:
            return dumps(msgpack.unpackb(body, timestamp=3))
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise schema_error("malformed MessagePack", detail=type(error).__name__) from error


class Protobuf:
    """Protobuf, as bytes. Events are messages of the package protobuf, and their classes are registered. Their fields cannot
    be encrypted, and they have no upcasters: Protobuf has rules of its own for new versions."""

    content_type: str | None = PROTOBUF
    is_text = False

    def pack(self, text: str) -> bytes:
        """Is not used: Protobuf has no text."""
        raise NotImplementedError

    def unpack(self, body: bytes) -> str:
        """Is not used: Protobuf has no text."""
        raise NotImplementedError

    def dump(self, data: Any) -> bytes:
        """Returns a message as bytes."""
        if not hasattr(data, "SerializeToString"):
            raise schema_error(f"{type(data).__qualname__} is no Protobuf message")
        return data.SerializeToString()  # type: ignore[no-any-return]

    def load(self, body: bytes, into: Any) -> Any:
        """Returns bytes as a message; without a class as they are."""
        if into is None:
            return body
        try:
            return into.FromString(body)
        except Exception as error:  # the class of the error depends on the implementation of the package
            raise schema_error("malformed Protobuf", detail=type(error).__name__) from error


def by_content_type(used: Serializer) -> dict[str | None, Serializer]:
    """Returns the serializers for loading, by media type. An event says how it was stored."""
    known: list[Serializer] = [MessagePack(), Protobuf(), used]
    return {None: Json(), JSON: Json(), **{one.content_type: one for one in known if one.content_type is not None}}
