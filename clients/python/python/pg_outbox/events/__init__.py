"""Events of pg_outbox: aggregates, commands, projections, sagas and encryption over the event store.

    from pg_outbox.events import NO_STREAM, EventRegistry, EventStore

State, order, deduplication and positions are the server's. `clients/python/EVENTS.md` builds a small shop.
"""

from . import middleware
from ._runs import Backoff
from .aggregates import Aggregate, Repository, applies, save_together
from .commands import Call, CommandBus
from .context import EventContext, current, event_context, fixed, new_id, now
from .encryption import FieldEncryption
from .errors import (
    BusClosedError,
    CommandError,
    CommandFailedError,
    CommandTimeoutError,
    ConcurrencyError,
    EncryptionError,
    FieldError,
    HandlerNotFoundError,
    KeyNotFoundError,
    KeyRevokedError,
    KeyUnavailableError,
    ProjectionError,
    ReplayedError,
    SagaError,
    SchemaError,
    StreamClosedError,
    ValidationError,
)
from .progress import ProgressBar, progress_line
from .projections import ProjectionEngine, ProjectionStatus, RebuildProgress
from .providers import KeyProvider, KmsKeys, LocalKeys, VaultKeys
from .readers import AsyncEvents, Events
from .registry import EventRegistry, NewEvent
from .sagas import Saga, SagaManager, compensates, on, on_timeout
from .serializers import Json, MessagePack, Protobuf, Serializer
from .store import ANY, NO_STREAM, STREAM_EXISTS, Appended, EventStore, RecordedEvent, StreamInfo
from .upcasters import Upcasters

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "Aggregate",
    "Appended",
    "AsyncEvents",
    "Backoff",
    "BusClosedError",
    "Call",
    "CommandBus",
    "CommandError",
    "CommandFailedError",
    "CommandTimeoutError",
    "ConcurrencyError",
    "EncryptionError",
    "EventContext",
    "EventRegistry",
    "EventStore",
    "Events",
    "FieldEncryption",
    "FieldError",
    "HandlerNotFoundError",
    "Json",
    "KeyNotFoundError",
    "KeyProvider",
    "KeyRevokedError",
    "KeyUnavailableError",
    "KmsKeys",
    "LocalKeys",
    "MessagePack",
    "NewEvent",
    "ProgressBar",
    "ProjectionEngine",
    "ProjectionError",
    "ProjectionStatus",
    "Protobuf",
    "RebuildProgress",
    "RecordedEvent",
    "ReplayedError",
    "Repository",
    "Saga",
    "SagaError",
    "SagaManager",
    "SchemaError",
    "Serializer",
    "StreamClosedError",
    "StreamInfo",
    "Upcasters",
    "ValidationError",
    "VaultKeys",
    "applies",
    "compensates",
    "current",
    "event_context",
    "fixed",
    "middleware",
    "new_id",
    "now",
    "on",
    "on_timeout",
    "progress_line",
    "save_together",
]
