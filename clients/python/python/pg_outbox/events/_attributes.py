"""The state of aggregates and sagas: the attributes of an instance as JSON, and back."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .._errors import OutboxError
from .._payload import decode
from .._rows import dumps
from .errors import schema_error


def blocking(method: Callable[..., Any]) -> None:
    """Raises TypeError for a method that would have to be awaited: nobody awaits it."""
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        raise TypeError(f"{method.__qualname__} is async; a method that decides is blocking, and has no effects of its own")


def attributes_of(one: Any, own: Collection[str]) -> dict[str, Any]:
    """Returns the attributes that are the state of the program. Raises SchemaError for one that take() would not give back.
    own: names that are not part of the state."""
    hints = typing.get_type_hints(type(one))
    found = {name: value for name, value in vars(one).items() if name not in own}
    for name, value in found.items():
        if name.startswith("_") or not _comes_back(value, hints.get(name, Any)):
            reason = "Its name begins with an underscore." if name.startswith("_") else "Its value would come back as another one."
            raise schema_error(
                f'attribute "{name}" of {type(one).__name__} cannot be stored', detail=reason,
                hint="Annotate it in the class with its type, or give the class snapshot() and restore() of its own.",
            )
    return found


def _comes_back(value: Any, hint: Any) -> bool:
    text = dumps(value)
    try:
        back = decode(text, hint)
    except OutboxError:
        return False
    if type(back) is not type(value):
        return False
    # A class without a comparison of its own has the same JSON.
    compares = "__eq__" in {name for cls in type(value).__mro__[:-1] for name in vars(cls)}
    return bool(back == value) if compares else dumps(back) == text


def take(one: Any, state: Mapping[str, Any]) -> None:
    """Sets attributes from JSON, as the types that the class is annotated with."""
    hints = typing.get_type_hints(type(one))
    for name, value in state.items():
        setattr(one, name, decode(dumps(value), hints[name]) if name in hints else value)
