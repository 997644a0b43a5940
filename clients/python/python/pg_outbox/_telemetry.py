"""The trace of a message, where the program uses OpenTelemetry: enqueue writes `traceparent` and `tracestate` into the
metadata, and the handler's span continues them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from ._message import Delivery


def _is_used() -> bool:
    """Returns whether the program uses OpenTelemetry. To import it takes longer than all of this package."""
    return "opentelemetry.trace" in sys.modules


def inject(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the metadata with the current span, or None if there is no span or the caller has set one."""
    if not _is_used() or (metadata is not None and metadata.get("traceparent") is not None):
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {**(metadata or {}), **carrier} if carrier else None


def context_of(metadata: Mapping[str, Any]) -> Context:
    """Returns the OpenTelemetry context that the metadata of a message name."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name: value for name in ("traceparent", "tracestate") if isinstance(value := metadata.get(name), str)}
    return TraceContextTextMapPropagator().extract(carrier)


def span(delivery: Delivery) -> AbstractContextManager[Any]:
    """Returns the span of a handler, which continues the trace of its message; without OpenTelemetry nothing."""
    if not _is_used():
        return nullcontext()
    from opentelemetry import trace

    attributes: dict[str, str | int] = {
        "messaging.system": "pg_outbox", "messaging.operation.type": "process", "messaging.destination.name": delivery.topic,
        "messaging.message.id": delivery.webhook_id, "messaging.consumer.group.name": delivery.subscription,
        "pg_outbox.attempt": delivery.attempt,
    }
    return trace.get_tracer("pg_outbox").start_as_current_span(
        f"process {delivery.topic}", context=context_of(delivery.metadata), kind=trace.SpanKind.CONSUMER, attributes=attributes
    )
