"""Upcasters: functions that turn the data of an old version of an event type into the next version, when it is loaded.

    upcasters = Upcasters()

    @upcasters.upcaster("order.placed", from_version=1)
    def with_currency(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "currency": "EUR"}

Stored events do not change. New events are stored with the version that the chain of their type ends with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from .. import _core
from .._rows import dumps
from .errors import SchemaError, as_class, place_of, schema_error

Upcast = Callable[[Any], Any]
METADATA = "schema_version"


class Upcasters:
    """The chains of all types. The versions of a type begin with 1; an upcaster leads from n to n + 1."""

    def __init__(self) -> None:
        self._chains = _core.Chains()
        self._functions: dict[tuple[str, int], Upcast] = {}

    def add(self, type_name: str, from_version: int, function: Upcast) -> None:
        """Adds an upcaster. Raises SchemaError if the type has one from this version already, or the version is below 1."""
        if not 0 <= from_version < 2**31:
            raise schema_error(f"malformed schema version {from_version}", hint="Versions begin with 1.")
        with as_class(SchemaError):
            self._chains.add(type_name, from_version)
        self._functions[type_name, from_version] = function

    def upcaster(self, type_name: str, *, from_version: int) -> Callable[[Upcast], Upcast]:
        """Adds the function below."""

        def register(function: Upcast) -> Upcast:
            self.add(type_name, from_version, function)
            return function

        return register

    def check(self) -> None:
        """Raises SchemaError if a version between the first and the last one of a type has no upcaster."""
        with as_class(SchemaError):
            self._chains.check()

    def latest(self, type_name: str) -> int:
        """Returns the version of new events of a type; 1 where it has no upcasters."""
        return self._chains.latest(type_name)

    def steps(self, type_name: str, version: int) -> range:
        """Returns the versions from which upcasters run. Data of a version that is newer than the latest is left as it is."""
        with as_class(SchemaError):
            return range(*self._chains.steps(type_name, version))

    def apply(self, type_name: str, text: str, metadata: Mapping[str, Any]) -> str:
        """Returns the data of an event, as JSON text, in its latest version."""
        if not self._functions:
            return text
        version = metadata.get(METADATA, 1)
        if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version < 2**31:
            raise schema_error(f"malformed schema version of event type {type_name}")
        steps = self.steps(type_name, version)
        if not steps:
            return text
        value = json.loads(text)
        for step in steps:
            try:
                value = self._functions[type_name, step](value)
            except Exception as error:  # noqa: BLE001 - the function belongs to the program, and its error may quote the data
                raise schema_error(
                    f"the upcaster of event type {type_name} from version {step} has failed", detail=place_of(error)
                ) from None
        return dumps(value)
