"""Types of events: names and the classes that they are decoded to.

    registry = EventRegistry()

    @registry.event("order.placed")
    @dataclass
    class OrderPlaced:
        amount: Decimal
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, is_typeddict
from uuid import UUID

from .._errors import InvalidError
from .._payload import decode
from .context import new_id
from .errors import schema_error

C = TypeVar("C", bound=type[Any])
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class NewEvent:
    """An event to append: its type, its data (any value that can be JSON; {}), an id, and metadata of its own. It is for types
    without a class, and for events that need an id or metadata; otherwise an instance of a registered class is enough."""

    type: str
    data: Any = field(default_factory=dict)
    event_id: UUID = field(default_factory=new_id)
    metadata: Mapping[str, Any] = field(default_factory=dict)


class EventRegistry:
    """Maps names of types to classes: dataclasses, pydantic models, TypedDicts, or anything that Message.json() takes.

    unregistered: `map` gives the plain JSON of a type that has no class, `error` raises SchemaError."""

    def __init__(self, *, unregistered: Literal["map", "error"] = "map") -> None:
        if unregistered not in ("map", "error"):
            raise ValueError("unregistered is 'map' or 'error'")
        self._classes: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        self._strict = unregistered == "error"

    def register(self, type_name: str, into: Any) -> None:
        """Registers the class of a type. A class has one name, and a name one class. Raises ValueError otherwise."""
        if self._classes.get(type_name, into) is not into:
            raise ValueError(f'event type "{type_name}" has a class already')
        if self._name(into) not in (None, type_name):
            raise ValueError(f'the class is that of event type "{self._name(into)}" already')
        self._classes[type_name] = into
        if isinstance(into, type):
            self._names[into] = type_name

    def event(self, type_name: str) -> Callable[[C], C]:
        """Registers the class below."""

        def register(into: C) -> C:
            self.register(type_name, into)
            return into

        return register

    def _name(self, into: Any) -> str | None:
        return self._names.get(into) if isinstance(into, type) else None

    def name_of(self, event: Any) -> str:
        """Returns the type of an event, or of a class of events. Raises SchemaError for a class that is not registered."""
        made = event if isinstance(event, type) else type(event)
        if made not in self._names:
            raise schema_error(
                f"{made.__qualname__} is no registered class of events",
                hint='Register it: registry.register("order.placed", OrderPlaced). Or append a NewEvent.',
            )
        return self._names[made]

    def new(self, event: Any) -> NewEvent:
        """Returns an event as a NewEvent."""
        return event if isinstance(event, NewEvent) else NewEvent(self.name_of(event), event)

    def has_class(self, type_name: str) -> bool:
        """Returns whether a type has a class."""
        return type_name in self._classes

    def makes_instances(self, type_name: str) -> bool:
        """Returns whether events of a type are instances of its class, which those of a TypedDict are not."""
        into = self._classes.get(type_name)
        return isinstance(into, type) and not is_typeddict(into)

    def class_of(self, type_name: str) -> Any:
        """Returns the class of a type; None: it has none, and its events are plain JSON. Raises SchemaError where types have
        to be registered."""
        if type_name not in self._classes and self._strict:
            raise schema_error(f'event type "{type_name}" is not registered', hint="registry.register() adds it.")
        return self._classes.get(type_name)

    def decode(self, type_name: str, text: str, *, redacted: bool = False) -> Any:
        """Returns the data of an event as the class of its type. Of a redacted event, fields that are gone are None, whatever
        the class says about them. Raises SchemaError."""
        into = self.class_of(type_name)
        if into is None:
            return _plain(text)
        try:
            return decode(text, into)
        except Exception as error:
            # A class may do more with its fields than to check them, and fields that are gone are None.
            if redacted:
                return _unchecked(json.loads(text), into)
            if not isinstance(error, InvalidError):
                raise
            raise schema_error(f"malformed data of event type {type_name}", detail=error.detail, hint=error.hint) from None


def _plain(text: str) -> Any:
    """Does the same as json.loads(), in half the time for the text of the server, which has no white space around it."""
    try:
        value, end = _DECODER.raw_decode(text)
    except ValueError:
        return json.loads(text)
    return value if end == len(text) else json.loads(text)


def _unchecked(value: Any, into: Any) -> Any:
    """Returns an instance whose fields are not checked."""
    if not isinstance(value, dict):
        return value
    if hasattr(into, "model_construct"):
        return into.model_construct(**value)
    if dataclasses.is_dataclass(into) and isinstance(into, type):
        made = object.__new__(into)
        for item in dataclasses.fields(into):
            object.__setattr__(made, item.name, value.get(item.name))
        return made
    return value
