"""The client of pg_outbox, the transactional outbox inside PostgreSQL.

    import psycopg, pg_outbox

    with psycopg.connect(dsn) as conn:                  # your connection, your transaction
        conn.execute("insert into orders ...")
        pg_outbox.enqueue(conn, "order.created", {"order": 42}, key="order-42")

A program that only enqueues loads neither the native module nor asyncio: the other names are loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._enqueue import enqueue, enqueue_many, set_context
from ._errors import (
    ConflictError,
    FatalError,
    InactiveError,
    InvalidError,
    LeaseLostError,
    NotFoundError,
    OutboxError,
    RetryError,
)
from ._typing import Context, EnqueueOptions, ManyOptions, WorkerEvent

if TYPE_CHECKING:
    from . import webhooks
    from ._app import App, Subscription
    from ._client import AsyncOutbox, Outbox
    from ._core import __version__
    from ._message import Delivery, Message
    from ._reader import AsyncReader, Reader
    from ._worker import Dead, Retry, Worker
    from .webhooks import verify

_LATER = {
    "App": "_app", "AsyncOutbox": "_client", "AsyncReader": "_reader", "Dead": "_worker", "Delivery": "_message", "Message": "_message",
    "Outbox": "_client", "Reader": "_reader", "Retry": "_worker", "Subscription": "_app", "Worker": "_worker", "__version__": "_core",
    "verify": "webhooks",
}

__all__ = [
    "App", "AsyncOutbox", "AsyncReader", "ConflictError", "Context", "Dead", "Delivery", "EnqueueOptions", "FatalError",
    "InactiveError", "InvalidError", "LeaseLostError", "ManyOptions", "Message", "NotFoundError", "Outbox", "OutboxError",
    "Reader", "Retry", "RetryError", "Subscription", "Worker", "WorkerEvent", "__version__", "enqueue", "enqueue_many",
    "set_context", "verify", "webhooks",
]


def __getattr__(name: str) -> Any:
    if name == "webhooks":
        return importlib.import_module(".webhooks", __name__)
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("." + _LATER[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
