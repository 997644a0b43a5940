"""Turns the JSON of a message into the type that the caller asks for.

A pydantic model or TypeAdapter validates by itself. Any other type (list[Model], a TypedDict, a dataclass) is validated by
pydantic where it is installed; without pydantic, dataclasses are built from the types that payloads are written from.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import importlib.util
import json
import types
import typing
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

from ._errors import invalid


def decode(content: bytes | str, into: Any) -> Any:
    """Returns the JSON text `content` as an instance of `into`. Raises InvalidError, whose detail does not repeat the
    content."""
    try:
        return decoder(into)(content)
    except RecursionError:
        raise invalid("malformed payload", detail="it is nested too deeply") from None
    except ArithmeticError as error:
        # A type of the program has refused a number.
        raise invalid("malformed payload", detail=f"a number is refused: {type(error).__name__}") from None
    except (TypeError, ValueError) as error:
        # The error of pydantic repeats the content, and a traceback would show it.
        raise invalid("malformed payload", detail=_reason(error)) from None


_QUOTES = frozenset({"union_tag_invalid", "uuid_parsing", "url_parsing"})
"""Kinds of errors of pydantic whose message repeats a part of the input."""


def _reason(error: Exception) -> str:
    errors: Any = getattr(error, "errors", None)
    if callable(errors):
        # The text of a ValidationError repeats the input.
        found: Any = errors(include_url=False, include_context=False, include_input=False)
        # So does the message of a few kinds.
        said = [(e["loc"], e["type"] if e["type"] in _QUOTES else e["msg"]) for e in found[:10]]
        return "; ".join(": ".join(filter(None, (".".join(map(str, place)), text))) for place, text in said)
    return str(error)


def decoder(into: Any) -> Callable[[bytes | str], Any]:
    """Returns what reads JSON as a type. The first one of a process imports pydantic, which takes about 0.1 s."""
    try:
        return _known(into)
    except TypeError:
        return _made(into)


@functools.lru_cache(maxsize=256)
def _known(into: Any) -> Callable[[bytes | str], Any]:
    return _made(into)


def _made(into: Any) -> Callable[[bytes | str], Any]:
    if into is Any:
        return json.loads
    if hasattr(into, "model_validate_json"):
        return into.model_validate_json  # type: ignore[no-any-return]
    if hasattr(into, "validate_json"):
        return into.validate_json  # type: ignore[no-any-return]
    if importlib.util.find_spec("pydantic") is not None:
        from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

        try:
            return TypeAdapter(into).validate_json
        except (PydanticSchemaGenerationError, PydanticUserError):
            # A class of its own kind, which takes the value or its parts.
            pass
    return lambda content: build(json.loads(content), into)


def build(value: Any, into: Any) -> Any:
    """Returns a JSON value as an instance of a type, without pydantic. Raises TypeError or ValueError."""
    origin, args = typing.get_origin(into), typing.get_args(into)
    if into is Any or isinstance(into, typing.TypeVar):
        return value
    if into is None or into is types.NoneType:
        return _exactly(value, types.NoneType)
    if origin is typing.Annotated:
        return build(value, args[0])
    if origin is typing.Literal:
        if value not in args:
            raise ValueError(f"expected one of {', '.join(map(repr, args))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _first(value, args)
    if origin in (list, set, frozenset, tuple):
        return _items(_exactly(value, list), origin, args)
    if origin is dict:
        return {key: _part(key, item, args[1]) for key, item in _exactly(value, dict).items()}
    if dataclasses.is_dataclass(into):
        hints = typing.get_type_hints(into, include_extras=True)
        given = _exactly(value, dict)
        make: Callable[..., Any] = into if isinstance(into, type) else type(into)
        return make(**{name: _part(name, item, hints.get(name, Any)) for name, item in given.items()})
    if not isinstance(into, type):
        raise TypeError(f"{into!r} needs pydantic")
    return _plain(value, into)


def _part(name: str, value: Any, into: Any) -> Any:
    """Builds a part of a value. Its error begins with the name of the part."""
    try:
        return build(value, into)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{name}: {error}") from error


def _iso(into: Any) -> Callable[[Any], Any]:
    return lambda text: into.fromisoformat(text.replace("Z", "+00:00"))


# For types that JSON does not have, the JSON types that they are written as, and the function that reads them.
_OF_JSON: dict[type[Any], tuple[tuple[type[Any], ...], Callable[[Any], Any]]] = {
    dt.datetime: ((str,), _iso(dt.datetime)), dt.date: ((str,), _iso(dt.date)), dt.time: ((str,), _iso(dt.time)),
    dt.timedelta: ((int, float), lambda seconds: dt.timedelta(seconds=seconds)), UUID: ((str,), UUID),
    Decimal: ((str, int, float), lambda number: Decimal(str(number))), float: ((int, float), float),
}


def _exactly(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _first(value: Any, options: tuple[Any, ...]) -> Any:
    if value is None and types.NoneType in options:
        return None
    failure: Exception = TypeError("no type fits")
    for option in options:
        try:
            return build(value, option)
        except (TypeError, ValueError, ArithmeticError) as error:
            failure = error
    raise failure


def _items(value: list[Any], origin: type[Any], args: tuple[Any, ...]) -> Any:
    if origin is tuple and args and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise ValueError(f"expected {len(args)} items, found {len(value)}")
        return tuple(build(item, arg) for item, arg in zip(value, args, strict=True))
    return origin(build(item, args[0]) for item in value)


def _plain(value: Any, into: type[Any]) -> Any:
    known = ((type(value),), into) if issubclass(into, enum.Enum) else _OF_JSON.get(into)
    if known is not None:
        kinds, read = known
        if type(value) not in kinds:
            raise TypeError(f"expected {into.__name__}, found {type(value).__name__}")
        try:
            return read(value)
        except (ValueError, ArithmeticError):
            # The errors of these types repeat the content.
            raise ValueError(f"the {type(value).__name__} is no {into.__name__}") from None
    if into in (str, int, bool, list, dict):
        if into is int and isinstance(value, bool):
            raise TypeError("expected int, found bool")
        return _exactly(value, into)
    if typing.is_typeddict(into):
        hints = typing.get_type_hints(into)
        if missing := vars(into)["__required_keys__"] - set(_exactly(value, dict)):
            raise ValueError(f"{min(missing)} is missing")
        return {name: _part(name, item, hints.get(name, Any)) for name, item in value.items()}
    return into(**value) if isinstance(value, dict) else into(value)
