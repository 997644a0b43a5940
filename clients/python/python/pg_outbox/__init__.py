"""The client of pg_outbox, the transactional outbox inside PostgreSQL.

    import psycopg, pg_outbox

    with psycopg.connect(dsn) as conn:                  # your connection, your transaction
        conn.execute("insert into orders ...")
        pg_outbox.enqueue(conn, "order.created", {"order": 42}, key="order-42")
"""

from . import webhooks
from ._client import AsyncOutbox, AsyncReader, Dead, Outbox, Reader, Retry, Worker
from ._core import __version__
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
from ._message import Delivery, Message
from .webhooks import verify

__all__ = [
    "AsyncOutbox", "AsyncReader", "ConflictError", "Dead", "Delivery", "FatalError", "InactiveError", "InvalidError", "LeaseLostError",
    "Message", "NotFoundError", "Outbox", "OutboxError", "Reader", "Retry", "RetryError", "Worker", "__version__", "enqueue",
    "enqueue_many", "set_context", "verify", "webhooks",
]
