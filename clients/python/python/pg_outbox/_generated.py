"""A method for each public function of the schema. Made by tools/gen/clients.py from the catalogue: do not edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from ._rows import Call, Shape


@dataclass(frozen=True)
class Appended:
    """A row of outbox.appended."""

    stream: str | None
    first_version: int | None
    last_version: int | None
    message_ids: list[int] | None
    repeated: bool | None


@dataclass(frozen=True)
class ArchiveEntry:
    """A row of outbox.archive_entry."""

    id: int
    webhook_id: str
    tenant: str | None
    topic: str
    key: str | None
    aggregate_type: str | None
    aggregate_id: str | None
    publisher: str | None
    severity: str | None
    headers: Any | None
    metadata: Any | None
    payload: Any | None
    status: str
    integrations_total: int | None
    integrations_matched: int | None
    integrations_succeeded: int
    integrations_failed: int
    send_results: Any
    last_error: str | None
    retry_count: int
    created_at: datetime
    processed_at: datetime | None


@dataclass(frozen=True)
class ArchiveStatsRow:
    """A row of outbox.archive_stats."""

    completed: int
    failed: int
    skipped: int
    total: int


@dataclass(frozen=True)
class Claimed:
    """A row of outbox.claimed."""

    lease: int
    lease_expires_at: datetime
    delivery_id: int
    subscription: str
    message_id: int
    webhook_id: str
    position: int
    attempt: int
    max_attempts: int
    topic: str
    key: str | None
    payload: Any | None
    body: bytes | None
    content_type: str | None
    headers: Any | None
    metadata: Any | None
    tenant: str | None
    publisher: str | None
    aggregate_type: str | None
    aggregate_id: str | None
    priority: int
    enqueued_at: datetime
    occurred_at: datetime | None
    deliver_at: datetime | None
    expires_at: datetime | None
    last_attempt_at: datetime | None
    last_error: str | None
    version: int | None
    event_id: str | None


@dataclass(frozen=True)
class CompareSchemasRow:
    """A row of outbox.compare_schemas."""

    compatibility: Literal["full", "backward", "forward", "breaking"]
    reasons: list[str]


@dataclass(frozen=True)
class CountByStateRow:
    """A row of outbox.count_by_state."""

    state: str
    deliveries: int


@dataclass(frozen=True)
class CreateEndpointRow:
    """A row of outbox.create_endpoint."""

    endpoint_id: int
    signing_secret: str
    message_id: int


@dataclass(frozen=True)
class CursorState:
    """A row of outbox.cursor_state."""

    consumer: str
    stream: str
    subject: str
    position: int
    epoch: int | None
    last_delivery_id: str | None
    last_delivered_at: datetime | None
    last_error: str | None
    error_position: int | None
    error_since: datetime | None
    updated_at: datetime | None
    lag_positions: int | None
    lag_seconds: float | None
    advanced: bool | None


@dataclass(frozen=True)
class DeadLetterStatsRow:
    """A row of outbox.dead_letter_stats."""

    total: int
    unresolved: int
    resolved: int
    oldest_age_seconds: float | None
    newest_age_seconds: float | None
    top_failure_reason: str | None
    per_subscription: Any
    last_updated: datetime | None


@dataclass(frozen=True)
class DeadLetterStatus:
    """A row of outbox.dead_letter_status."""

    dead_letter_id: int
    delivery_id: int | None
    subscription: str | None
    endpoint: str | None
    url: str | None
    message_id: int
    webhook_id: str | None
    position: int
    topic: str | None
    key: str | None
    tenant: str | None
    aggregate_type: str | None
    aggregate_id: str | None
    publisher: str | None
    content_type: str | None
    headers: Any | None
    metadata: Any | None
    payload: Any | None
    body: bytes | None
    enqueued_at: datetime | None
    state: Literal["dead", "expired"]
    reason: str
    attempt: int
    last_status: int | None
    error_class: str | None
    last_error: str | None
    first_attempt_at: datetime | None
    last_attempt_at: datetime | None
    created_at: datetime
    dead_at: datetime
    age: timedelta
    is_old: bool
    resolution: Literal["open", "requeued", "resolved", "ignored"]
    is_resolved: bool
    resolved_at: datetime | None
    resolved_by: str | None
    resolution_note: str | None


@dataclass(frozen=True)
class DescribeScheduleRow:
    """A row of outbox.describe_schedule."""

    attempt: int
    wait: timedelta | None
    planned: timedelta | None
    earliest: timedelta | None
    latest: timedelta | None


@dataclass(frozen=True)
class ExplainRoutingRow:
    """A row of outbox.explain_routing."""

    subscription: str
    matches: bool
    reason: str
    version: int | None


@dataclass(frozen=True)
class ExportedEvent:
    """A row of outbox.exported_event."""

    stream: str | None
    version: int | None
    type: str | None
    data: Any | None
    body: bytes | None
    content_type: str | None
    metadata: Any | None
    tenant: str | None
    position: int | None
    message_id: int | None
    recorded_at: datetime | None
    redacted: bool
    next: Any


@dataclass(frozen=True)
class MessageStatus:
    """A row of outbox.message_status."""

    message_id: int
    webhook_id: str
    state: str
    topic: str
    key: str | None
    tenant: str | None
    aggregate_type: str | None
    aggregate_id: str | None
    publisher: str | None
    priority: int
    enqueued_at: datetime
    occurred_at: datetime | None
    deliver_at: datetime | None
    expires_at: datetime | None
    max_attempts: int | None
    idempotency_key: str | None
    content_type: str | None
    headers: Any | None
    metadata: Any | None
    correlation_id: str | None
    causation_id: str | None
    user_id: str | None
    traceparent: str | None
    tracestate: str | None
    schema_version: str | None
    privacy: Any | None
    severity: str | None
    payload: Any | None
    body: bytes | None


@dataclass(frozen=True)
class EventSchema:
    """A row of outbox.event_schema."""

    type: str
    version: int
    schema: Any
    compatibility: Literal["full", "backward", "forward", "breaking"] | None
    validated: bool
    description: str | None
    registered_by: str
    registered_at: datetime


@dataclass(frozen=True)
class SubjectKey:
    """A row of outbox.subject_key."""

    key_id: str
    subject: str
    wrapped_key: bytes | None
    master_key: str
    created_at: datetime
    rewrapped_at: datetime | None
    revoked_at: datetime | None
    reason: str | None


@dataclass(frozen=True)
class HealthRow:
    """A row of outbox.health."""

    check: str
    state: str
    culprit: str | None
    what_to_do: str | None


@dataclass(frozen=True)
class HistoryRow:
    """A row of outbox.history."""

    at: datetime
    what: str
    subscription: str | None
    endpoint: str | None
    attempt: int | None
    status: int | None
    detail: str | None


@dataclass(frozen=True)
class Event:
    """A row of outbox.event."""

    position: int | None
    epoch: int | None
    message_id: int | None
    event_id: str | None
    webhook_id: str | None
    stream: str | None
    version: int | None
    type: str | None
    data: Any | None
    body: bytes | None
    content_type: str | None
    headers: Any | None
    metadata: Any | None
    tenant: str | None
    occurred_at: datetime | None
    recorded_at: datetime | None


@dataclass(frozen=True)
class LoadSnapshotRow:
    """A row of outbox.load_snapshot."""

    stream: str
    schema_version: int
    version: int
    state: Any | None
    body: bytes | None
    content_type: str | None
    taken_at: datetime


@dataclass(frozen=True)
class MaintainRow:
    """A row of outbox.maintain."""

    job: str
    result: str
    rows: int | None
    bytes: int | None
    held_by: str | None


@dataclass(frozen=True)
class ManualResultRow:
    """A row of outbox.manual_result."""

    state: str
    started_at: datetime | None
    finished_at: datetime | None
    status: int | None
    error: str | None
    response_body: str | None


@dataclass(frozen=True)
class MetricsRow:
    """A row of outbox.metrics."""

    name: str
    labels: Any
    value: float


@dataclass(frozen=True)
class NotificationEntry:
    """A row of outbox.notification_entry."""

    message_id: int | None
    subscription: str | None
    identifier: str | None
    topic_code: str | None
    subscriber: str | None
    subscriber_type: Literal["client", "service"] | None
    delivery_method: str | None
    status: str | None
    skipped_reason: str | None
    attempt: int | None
    error: str | None
    sent_at: datetime | None
    created_at: datetime | None


@dataclass(frozen=True)
class PublicKeysRow:
    """A row of outbox.public_keys."""

    public_key: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True)
class PurgeRow:
    """A row of outbox.purge."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class FeedMessage:
    """A row of outbox.feed_message."""

    position: int
    epoch: int
    message_id: int | None
    webhook_id: str | None
    topic: str | None
    key: str | None
    payload: Any | None
    body: bytes | None
    content_type: str | None
    headers: Any | None
    metadata: Any | None
    tenant: str | None
    aggregate_type: str | None
    aggregate_id: str | None
    publisher: str | None
    idempotency_key: str | None
    occurred_at: datetime | None
    enqueued_at: datetime | None
    version: int | None
    event_id: str | None


@dataclass(frozen=True)
class RotateSecretRow:
    """A row of outbox.rotate_secret."""

    signing_secret: str
    message_id: int


@dataclass(frozen=True)
class SagaState:
    """A row of outbox.saga_state."""

    saga_type: str
    saga_id: str
    correlation_id: str | None
    status: Literal["started", "running", "completed", "failed", "compensating", "compensated", "compensation_failed"]
    step: int
    steps: Any
    state: Any
    failure_reason: str | None
    version: int
    started_at: datetime
    updated_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True)
class SkippedRow:
    """A row of outbox.skipped."""

    position: int
    message_id: int
    message_topic: str
    reason: str | None
    routed_at: datetime


@dataclass(frozen=True)
class StatsRow:
    """A row of outbox.stats."""

    messages: int
    feed_end: int
    routed: int
    waiting: int
    dead_letters: int
    worker: str
    in_flight: int | None
    queued: int | None
    pending: int
    processing: int
    completed: int
    failed: int
    dead: int
    skipped: int
    expired: int
    cancelled: int
    total: int


@dataclass(frozen=True)
class StreamInfoRow:
    """A row of outbox.stream_info."""

    category: str | None
    version: int | None
    events: int | None
    created_at: datetime | None
    updated_at: datetime | None
    closed_at: datetime | None
    truncated_before: int | None


@dataclass(frozen=True)
class StreamsRow:
    """A row of outbox.streams."""

    stream: str | None
    version: int | None


@dataclass(frozen=True)
class VersionRow:
    """A row of outbox.version."""

    extension: str
    library: str | None


@dataclass(frozen=True)
class WorkerStatusRow:
    """A row of outbox.worker_status."""

    state: str
    pid: int | None
    started_at: datetime | None
    launcher_pid: int | None
    in_flight: int | None
    queued: int | None
    unrecorded: int | None
    idle: bool | None
    feed_end: int | None
    routed: int | None
    last_tick_at: datetime | None
    last_checkpoint_at: datetime | None
    last_error: str | None
    last_error_at: datetime | None


@dataclass(frozen=True)
class AuditEntry:
    """A row of outbox.audit."""

    id: int
    at: datetime
    actor: str
    action: str
    object: str
    reason: str | None
    detail: Any | None


@dataclass(frozen=True)
class DeadLetterEntry:
    """A row of outbox.dead_letter."""

    id: int
    delivery_id: int | None
    subscription_id: int
    endpoint_id: int | None
    position: int
    message_id: int
    message_segment: int
    attempt: int
    state: Literal["dead", "expired"]
    reason: str
    key: str | None
    last_status: int | None
    last_error_class: str | None
    last_error: str | None
    url: str | None
    first_attempt_at: datetime | None
    last_attempt_at: datetime | None
    created_at: datetime
    dead_at: datetime
    resolution: Literal["open", "requeued", "resolved", "ignored"]
    resolved_at: datetime | None
    resolved_by: str | None
    resolution_note: str | None
    payload: Any | None


@dataclass(frozen=True)
class DeadLetterStatusEntry:
    """A row of outbox.dead_letter_status."""

    dead_letter_id: int
    delivery_id: int | None
    subscription: str | None
    endpoint: str | None
    url: str | None
    message_id: int
    webhook_id: str | None
    position: int
    topic: str | None
    key: str | None
    tenant: str | None
    aggregate_type: str | None
    aggregate_id: str | None
    publisher: str | None
    content_type: str | None
    headers: Any | None
    metadata: Any | None
    payload: Any | None
    body: bytes | None
    enqueued_at: datetime | None
    state: Literal["dead", "expired"]
    reason: str
    attempt: int
    last_status: int | None
    error_class: str | None
    last_error: str | None
    first_attempt_at: datetime | None
    last_attempt_at: datetime | None
    created_at: datetime
    dead_at: datetime
    age: timedelta
    is_old: bool
    resolution: Literal["open", "requeued", "resolved", "ignored"]
    is_resolved: bool
    resolved_at: datetime | None
    resolved_by: str | None
    resolution_note: str | None


@dataclass(frozen=True)
class DeliveryStatusEntry:
    """A row of outbox.delivery_status."""

    delivery_id: int | None
    subscription: str | None
    endpoint: str | None
    message_id: int
    position: int
    pull: bool
    state: str
    attempt: int
    max_attempts: int | None
    retry_count: int
    can_retry: bool | None
    priority: int
    locked_by: str | None
    locked_at: datetime | None
    lease_expires_at: datetime | None
    next_attempt_at: datetime | None
    retry_in: timedelta | None
    expires_at: datetime | None
    expires_in: timedelta | None
    age: timedelta
    is_due: bool
    is_expired: bool
    is_blocked: bool
    last_status: int | None
    error_class: str | None
    last_error: str | None
    created_at: datetime
    updated_at: datetime | None
    processed_at: datetime | None
    last_attempt_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True)
class EndpointEntry:
    """A row of outbox.endpoint."""

    id: int
    name: str
    url: str
    kind: str
    subscriber_type: Literal["client", "service"]
    tenant: str | None
    headers: Any
    timeout: timedelta
    concurrency: int
    rate: float | None
    burst: float | None
    schedule: Any | None
    policy: Any | None
    breaker: Any | None
    protocol: Literal["auto", "http1", "http2"]
    compress: bool
    response_id: str | None
    keep_headers: list[str]
    disable_after: timedelta
    disable_failures: int
    consent: Literal["none", "pending", "granted", "refused"]
    active: bool
    disabled_mode: Literal["hold", "skip"] | None
    disabled_reason: str | None
    disabled_at: datetime | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    proxy: str | None


@dataclass(frozen=True)
class LeaseStatusEntry:
    """A row of outbox.lease_status."""

    subscription: str | None
    worker: str
    deliveries: int
    claimed_at: datetime
    age: timedelta
    expires_at: datetime
    expires_in: timedelta
    deadline_at: datetime | None
    delivery_ids: list[int]


@dataclass(frozen=True)
class PublisherEntry:
    """A row of outbox.publisher."""

    code: str
    active: bool
    topic_template: str | None
    topic_function: str | None
    topic_function_owner: str | None
    name: str
    description: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class SubscriptionEntry:
    """A row of outbox.subscription."""

    id: int
    name: str
    endpoint_id: int | None
    max_attempts: int
    max_age: timedelta | None
    schedule: Any | None
    policy: Any | None
    format: Literal["raw", "envelope", "cloudevents", "cloudevents_structured", "pubsub"]
    batch_size: int
    batch_wait: timedelta
    ordering: Literal["none", "key", "strict"]
    on_exhausted: Literal["skip", "block"]
    ttl: timedelta | None
    deadline: timedelta | None
    notify: bool
    max_lag: timedelta | None
    external_id: str | None
    labels: Any
    transform: str | None
    transform_owner: str | None
    paused: bool
    created_at: datetime
    deleted_at: datetime | None


@dataclass(frozen=True)
class SubscriptionStatusEntry:
    """A row of outbox.subscription_status."""

    subscription_id: int
    name: str
    endpoint: str | None
    pull: bool
    topics: list[str]
    filter: Any | None
    ordering: Literal["none", "key", "strict"]
    max_attempts: int
    notify: bool
    paused: bool
    external_id: str | None
    labels: Any
    transform: str | None
    created_at: datetime
    position: int
    lag_positions: int
    lag_age: timedelta | None
    waiting: int
    processing: int
    oldest_due_at: datetime | None
    oldest_due_age: timedelta | None
    last_claim_at: datetime | None
    dead_letters: int


@dataclass(frozen=True)
class TopicEntry:
    """A row of outbox.topic."""

    code: str
    active: bool
    name: str
    description: str | None
    created_at: datetime
    updated_at: datetime


class AdminMethods:
    """Blocking calls."""

    def _run(self, call: Call) -> Any:
        raise NotImplementedError

    def adopt(self, *, reason: str | None = None) -> int:
        """Makes data that was restored or copied here this database's own. Gives positions, in a new epoch, to
        the messages that have none, and lets the dispatcher push. Returns the last position. If the outbox is
        this database's own already, nothing is changed. reason (default null) is stored in outbox.audit. Not in
        a transaction block or function. Errors: 25001 in such a transaction or not at isolation level read
        committed, 55000 a subscription of logical replication writes this outbox, 55P03 another session keeps
        the sequencer for 5 s, or a leaf's lock was not available within 30 s.
        """
        return self._run(Call("adopt", {"reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def alter_endpoint(self, name: str, *, url: str | None = None, headers: Any | None = None, timeout: timedelta | None = None, concurrency: int | None = None, tenant: str | None = None, auth: Any | None = None, tls: Any | None = None, rate: float | None = None, burst: float | None = None, schedule: Any | None = None, policy: Any | None = None, breaker: Any | None = None, protocol: Literal["auto", "http1", "http2"] | None = None, compress: bool | None = None, response_id: str | None = None, keep_headers: Sequence[str] | None = None, disable_after: timedelta | None = None, disable_failures: int | None = None, new_name: str | None = None, subscriber_type: Literal["client", "service"] | None = None) -> int:
        """Changes the settings of an endpoint; null leaves a setting as it is. JSON null (auth, tls, schedule,
        policy, breaker), 0 (rate, burst) and an empty text (tenant, response_id) remove a setting. A new URL
        needs a new consent if the endpoint asks for consent. Returns the id of a control message. Errors: OB001
        no such endpoint, 42710 new_name exists already, 22023 a setting is malformed or out of range.
        """
        return self._run(Call("alter_endpoint", {"name": name, "url": url, "headers": headers, "timeout": timeout, "concurrency": concurrency, "tenant": tenant, "auth": auth, "tls": tls, "rate": rate, "burst": burst, "schedule": schedule, "policy": policy, "breaker": breaker, "protocol": protocol, "compress": compress, "response_id": response_id, "keep_headers": keep_headers, "disable_after": disable_after, "disable_failures": disable_failures, "new_name": new_name, "subscriber_type": subscriber_type}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def alter_projection(self, name: str, handler: str, *, version: int | None = None) -> None:
        """Gives a projection another handler; events that were applied are not applied again. version null: the
        live one. Errors: OB001 no such projection, 42883 no such function, 42501 the caller does not have the
        rights of the function's owner, 22004 or 22023 a value is null or malformed, 25006 the transaction is
        read-only.
        """
        self._run(Call("alter_projection", {"name": name, "handler": handler, "version": version}, Shape("void", None, {})))

    def alter_publisher(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None, topic_template: str | None = None, topic_function: str | None = None) -> None:
        """Changes a registered publisher; null leaves a value as it is, and an empty topic_template or
        topic_function removes it. From the commit on, messages of an inactive publisher are refused (OB007).
        Errors: OB001 the publisher is not registered, 22023 a value is malformed, 42883 no such function, 42501
        the caller does not have the rights of the function's owner.
        """
        self._run(Call("alter_publisher", {"code": code, "name": name, "description": description, "active": active, "topic_template": topic_template, "topic_function": topic_function}, Shape("void", None, {})))

    def alter_subscription(self, name: str, *, topics: Sequence[str] | None = None, filter: Any | None = None, endpoint: str | None = None, max_attempts: int | None = None, max_age: timedelta | None = None, schedule: Any | None = None, policy: Any | None = None, format: Literal["raw", "envelope", "cloudevents", "cloudevents_structured", "pubsub"] | None = None, batch_size: int | None = None, batch_wait: timedelta | None = None, ordering: Literal["none", "key", "strict"] | None = None, on_exhausted: Literal["skip", "block"] | None = None, ttl: timedelta | None = None, deadline: timedelta | None = None, notify: bool | None = None, max_lag: timedelta | None = None, external_id: str | None = None, labels: Any | None = None, reset: Sequence[str] | None = None, transform: str | None = None) -> int:
        """Changes the settings of a subscription; null leaves a setting as it is. reset: names of settings that
        go back to their default (filter, max_attempts, max_age, schedule, policy, ttl, deadline, max_lag,
        external_id, labels, transform). Topics and filter hold for the positions after the control message
        whose id is returned; a transform holds for the messages that are routed from then on. Errors: OB001 no
        such subscription or endpoint, OB004 endpoint for a subscription that is pulled by workers, 42883 no
        such function, 42501 the caller does not have the rights of its owner, 22023 a setting is malformed or
        out of range, 54000 a text is too long.
        """
        return self._run(Call("alter_subscription", {"name": name, "topics": topics, "filter": filter, "endpoint": endpoint, "max_attempts": max_attempts, "max_age": max_age, "schedule": schedule, "policy": policy, "format": format, "batch_size": batch_size, "batch_wait": batch_wait, "ordering": ordering, "on_exhausted": on_exhausted, "ttl": ttl, "deadline": deadline, "notify": notify, "max_lag": max_lag, "external_id": external_id, "labels": labels, "reset": reset, "transform": transform}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def alter_topic(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None) -> None:
        """Changes a registered topic; null leaves a value as it is. From the commit on, messages of an inactive
        topic are refused (OB007). Errors: OB001 the topic is not registered, 22023 the name is malformed.
        """
        self._run(Call("alter_topic", {"code": code, "name": name, "description": description, "active": active}, Shape("void", None, {})))

    def append(self, stream: str, type: str, data: Any, *, expected_version: int | None = None, event_id: str | None = None, metadata: Any | None = None, headers: Any | None = None, tenant: str | None = None, publisher: str | None = None, occurred_at: datetime | None = None) -> int:
        """Appends an event to a stream in the current transaction and returns its version: 1, 2, ... without a
        gap. stream: category-id, at most 255 bytes. type: has the form of a topic. data: at most
        pg_outbox.max_payload (256 kB by default). expected_version: -1 any (the default), 0 the stream does not
        exist, -2 it exists, n its last version is n. With n or 0 and an event_id, the same call again is a
        success and writes nothing. The stream is locked until the transaction ends; a transaction that appends
        to more than 64 streams guards the others by the unique index alone. Errors: OB013 the stream is not at
        the expected version (the detail is JSON: stream, expected, actual), OB014 the stream is closed, OB008
        the event id is that of another event, 22004 stream, type, data or expected_version is null, 22023 a
        value is malformed, 54000 a value is too large, and the errors of enqueue().
        """
        return self._run(Call("append", {"stream": stream, "type": type, "data": data, "expected_version": expected_version, "event_id": event_id, "metadata": metadata, "headers": headers, "tenant": tenant, "publisher": publisher, "occurred_at": occurred_at}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def append_bytes(self, stream: str, types: Sequence[str], bodies: Sequence[bytes], *, content_type: str | None = None, expected_version: int | None = None, event_ids: Sequence[str] | None = None, metadata: Sequence[Any] | None = None, headers: Any | None = None, tenant: str | None = None, publisher: str | None = None, occurred_at: datetime | None = None) -> Appended:
        """Like append_many(), for bodies of bytes or text, which are stored and delivered unchanged.
        content_type: their media type (default application/octet-stream). Errors are those of append_many().
        """
        return self._run(Call("append_bytes", {"stream": stream, "types": types, "bodies": bodies, "content_type": content_type, "expected_version": expected_version, "event_ids": event_ids, "metadata": metadata, "headers": headers, "tenant": tenant, "publisher": publisher, "occurred_at": occurred_at}, Shape("row", Appended, {})))  # type: ignore[no-any-return]

    def append_many(self, stream: str, types: Sequence[str], data: Sequence[Any], *, expected_version: int | None = None, event_ids: Sequence[str] | None = None, metadata: Sequence[Any] | None = None, headers: Any | None = None, tenant: str | None = None, publisher: str | None = None, occurred_at: datetime | None = None) -> Appended:
        """Appends 1 to 10000 events to a stream, all or none. types, data and, if they are given, event_ids and
        metadata have one entry per event; headers, tenant, publisher and occurred_at hold for all. Errors are
        those of append(), and 22023 there are no events or the arrays have different lengths.
        """
        return self._run(Call("append_many", {"stream": stream, "types": types, "data": data, "expected_version": expected_version, "event_ids": event_ids, "metadata": metadata, "headers": headers, "tenant": tenant, "publisher": publisher, "occurred_at": occurred_at}, Shape("row", Appended, {})))  # type: ignore[no-any-return]

    def archive_get(self, message_id: int) -> ArchiveEntry:
        """Returns the final status of a message, with the result of each delivery. Errors: OB001 no such
        message, or a delivery of it is still open.
        """
        return self._run(Call("archive_get", {"message_id": message_id}, Shape("row", ArchiveEntry, {"created_at": "timestamp with time zone", "processed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def archive_list(self, *, tenant: str | None = None, status: Literal["completed", "failed", "skipped"] | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, endpoint: str | None = None, max_rows: int | None = None, before: int | None = None) -> list[ArchiveEntry]:
        """Returns entries of the archive, newest first, up to max_rows (default 50; 1 to 1000) in a page. Pass
        the last id of a page as before to get the next one. status: completed, failed or skipped. A page looks
        at up to 1,000 messages of the tenant or aggregate (or of all), and with endpoint at up to 10,000. If it
        ends there, its last row has no status, and only the id to continue with. Errors: 22023 max_rows is out
        of range or status is unknown, OB001 no such endpoint.
        """
        return self._run(Call("archive_list", {"tenant": tenant, "status": status, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "endpoint": endpoint, "max_rows": max_rows, "before": before}, Shape("rows", ArchiveEntry, {"created_at": "timestamp with time zone", "processed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def archive_stats(self, *, tenant: str | None = None) -> ArchiveStatsRow:
        """Returns how many of the last 1,000 messages (of a tenant; null: of all) have completed, failed (dead,
        expired or cancelled) or were skipped. total: the sum.
        """
        return self._run(Call("archive_stats", {"tenant": tenant}, Shape("row", ArchiveStatsRow, {})))  # type: ignore[no-any-return]

    def cancel(self, message_id: int, *, actor: str | None = None, reason: str | None = None) -> int:
        """Cancels a message: ends its deliveries that are still waiting, and returns how many were ended. A
        delivery that a worker has or that is in flight is not tried again if it fails. actor (default:
        session_user) and reason are stored in outbox.audit. Errors: OB001 no such message, OB002 it was
        cancelled already or nothing is left to cancel, OB003 all remaining deliveries are leased.
        """
        return self._run(Call("cancel", {"message_id": message_id, "actor": actor, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def cancel_replay(self, replay_id: int) -> int:
        """Cancels a replay, and returns the number of waiting deliveries that were cancelled. Deliveries that
        are leased or in flight end by themselves. Recorded in outbox.audit. Errors: OB001 no such replay, OB004
        it has ended.
        """
        return self._run(Call("cancel_replay", {"replay_id": replay_id}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def capture(self, relation: str, *, topic: str | None = None, key_columns: Sequence[str] | None = None, operations: Sequence[Literal["insert", "update", "delete", "truncate"]] | None = None, columns: Sequence[str] | None = None, condition: str | None = None, include_old: bool | None = None, style: Literal["change", "row", "debezium"] | None = None, tenant_column: str | None = None, replicated: bool | None = None, oversize: Literal["fail", "skip", "reference"] | None = None) -> None:
        """Turns changes of a table's rows into messages, in the transaction that makes the changes. The caller
        must own the table, and the owner needs the capability publish. A second call replaces the capture; call
        again after partitions were added. topic: may contain {schema}, {table} and {op}. key_columns: columns
        of the message's key (null: the primary key). operations: of insert, update, delete and truncate.
        columns: only these in the images (null: all). condition: an SQL expression over new and old.
        include_old: updates contain the old image too. style: change, row or debezium. tenant_column: column
        with the tenant. replicated: also capture changes that logical replication applies. oversize, for a
        payload that is too large: fail (the statement fails), skip (no message, with a warning) or reference
        (the key without images). Errors: 42501 the caller is not the owner, the owner may not enqueue, or the
        call is within a security-restricted operation; 42809 the relation cannot be captured; 42703 no such
        column; 22023 another argument is malformed; 55000 the table's schema was renamed meanwhile.
        """
        self._run(Call("capture", {"relation": relation, "topic": topic, "key_columns": key_columns, "operations": operations, "columns": columns, "condition": condition, "include_old": include_old, "style": style, "tenant_column": tenant_column, "replicated": replicated, "oversize": oversize}, Shape("void", None, {})))

    def cardinal_id(self, stream: str) -> str:
        """Returns the first part of a compound stream id, which is the id before the first "+". Members of a
        consumer group share a category by it. Null if the stream has no id.
        """
        return self._run(Call("cardinal_id", {"stream": stream}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def category(self, stream: str) -> str:
        """Returns the category of a stream: the part of its name before the first "-". Null for null."""
        return self._run(Call("category", {"stream": stream}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def claim(self, subscription: str, worker: str, *, max_messages: int | None = None, lease: timedelta | None = None) -> list[Claimed]:
        """Leases up to max_messages (default 1; 1 to 10000) due deliveries of a pull subscription to a worker
        (a name of 1 to 255 bytes). The lease lasts for the duration lease (default 60 s, at most 7 days), and
        no longer than the subscription's deadline. The order is: highest priority, then longest due, then
        position. Returns one row of type outbox.claimed for each delivery, and no rows when nothing is due or
        the subscription is paused. No other worker gets these deliveries until the lease ends. Commit before
        the work starts: the commit makes the attempt count. Errors: OB001 no such subscription, OB004 it is
        pushed to an endpoint, 22023 an argument is out of range.
        """
        return self._run(Call("claim", {"subscription": subscription, "worker": worker, "max_messages": max_messages, "lease": lease}, Shape("rows", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def claim_delivery(self, delivery_id: int, worker: str, *, lease: timedelta | None = None) -> Claimed:
        """Leases one delivery to a worker, like claim(), and returns one row of type outbox.claimed. Raises an
        error when the delivery cannot be claimed: OB001 no such delivery, OB002 it has ended, OB003 it is
        leased, OB004 it is pushed to an endpoint, OB007 the subscription has ended or is paused, OB010 it has
        expired, OB011 no attempts left, OB012 it is not due, or it waits for another delivery of its key. Other
        errors: 22004 delivery_id is null, 22023 worker or lease is out of range.
        """
        return self._run(Call("claim_delivery", {"delivery_id": delivery_id, "worker": worker, "lease": lease}, Shape("row", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def close_stream(self, stream: str, *, reason: str | None = None) -> int:
        """Closes a stream for ever: append() refuses it from now on. Its events stay. Returns its last version.
        reason is stored in outbox.audit. Waits for the transactions that are appending to the stream. Errors:
        OB001 there is no such stream, OB004 it is closed already, OB006 the reason is empty, 55P03 another
        transaction keeps the stream for 5 s.
        """
        return self._run(Call("close_stream", {"stream": stream, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def command_begin(self, key: str, command_type: str, *, ttl: timedelta | None = None, content: Any | None = None) -> Any:
        """Begins a command of the application, in the transaction that processes it. null: the command is new;
        process it, and then call command_end(). Otherwise the command was processed before, and the result is
        an object with key, command_type, success, result, error, processed_at and expires_at. A transaction
        that is processing the same key is waited for; if it rolls back, the key is new again. ttl: how long the
        key is remembered (24 hours); null: until command_forget(). content: what the command was called with;
        only its hash is stored, and the key with other content is refused. Errors: OB004 the command has begun
        in this transaction, OB008 the key was used for another command, 22004 or 22023 a value is null or
        malformed, 40001 at REPEATABLE READ when another transaction has processed the command meanwhile, 25006
        the transaction is read-only.
        """
        return self._run(Call("command_begin", {"key": key, "command_type": command_type, "ttl": ttl, "content": content}, Shape("value", None, {})))

    def command_end(self, key: str, *, result: Any | None = None, error: Any | None = None) -> None:
        """Stores the result of a command that has begun in this transaction, so that later calls of
        command_begin() return it. error: the command failed, and that is final; roll back its effects to a
        savepoint first. A failed command that may be tried again rolls back the whole transaction instead. A
        transaction that commits without this call has processed the command, with no result. Errors: OB004 the
        command has not begun in this transaction, 54000 the result or error is above pg_outbox.max_payload.
        """
        self._run(Call("command_end", {"key": key, "result": result, "error": error}, Shape("void", None, {})))

    def command_forget(self, key: str) -> bool:
        """Forgets a command, so that its key is new again. Returns false if the key is not known."""
        return self._run(Call("command_forget", {"key": key}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def compare_schemas(self, type: str, old_version: int, new_version: int) -> CompareSchemasRow:
        """Returns how compatible two versions of the schema of an event type are: full, backward (the new one
        reads the data of the old one), forward (the old one reads the data of the new one) or breaking, and the
        reasons why it is not full. An unproved direction counts as incompatible. Errors: OB001 there is no such
        version.
        """
        return self._run(Call("compare_schemas", {"type": type, "old_version": old_version, "new_version": new_version}, Shape("row", CompareSchemasRow, {})))  # type: ignore[no-any-return]

    def complete(self, lease: int, *, delivery_ids: Sequence[int] | None = None, results: Any | None = None) -> list[int]:
        """Ends deliveries of a lease (delivery_ids null: all that it holds) as completed. Returns their ids, in
        the order of positions. An id that is missing had ended or was lost to another lease; the array is empty
        when the lease is lost. results: a JSON array with one element per element of delivery_ids, which the
        attempt log stores. An element is null, the receiver's id as a string, or an object {total, matched,
        succeeded, failed, send_results}. Errors: 22004 lease is null, 22023 results does not have one element
        per delivery id.
        """
        return self._run(Call("complete", {"lease": lease, "delivery_ids": delivery_ids, "results": results}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def complete_and_claim(self, done: int, subscription: str, worker: str, *, max_messages: int | None = None, lease: timedelta | None = None) -> list[Claimed]:
        """Completes all deliveries that the lease done still holds (null: completes nothing), and claims the
        next deliveries like claim(), in one transaction: both take effect, or neither. Defaults and ranges are
        those of claim(). When no rows are returned, call it once more with done null before waiting, because
        the deliveries that were completed may have held others back. Errors: OB003 the lease is lost (nothing
        was completed or claimed), and those of claim().
        """
        return self._run(Call("complete_and_claim", {"done": done, "subscription": subscription, "worker": worker, "max_messages": max_messages, "lease": lease}, Shape("rows", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def count_by_state(self, *, tenant: str | None = None) -> list[CountByStateRow]:
        """Returns the number of deliveries in each state. For all tenants (null), completed and cancelled are
        counted since the beginning, from counters. For one tenant they are counted among the messages that are
        still stored, which takes longer the more messages that tenant has.
        """
        return self._run(Call("count_by_state", {"tenant": tenant}, Shape("rows", CountByStateRow, {})))  # type: ignore[no-any-return]

    def count_messages(self, *, tenant: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, topic: str | None = None) -> int:
        """Returns the number of messages (of a tenant, an aggregate, a topic; null: of all). 10,000 means at
        least 10,000.
        """
        return self._run(Call("count_messages", {"tenant": tenant, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "topic": topic}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def create_endpoint(self, name: str, url: str, *, secret: str | None = None, headers: Any | None = None, timeout: timedelta | None = None, concurrency: int | None = None, tenant: str | None = None, kind: Literal["webhook"] | None = None, auth: Any | None = None, tls: Any | None = None, signature: Literal["v1", "v1a"] | None = None, rate: float | None = None, burst: float | None = None, schedule: Any | None = None, policy: Any | None = None, breaker: Any | None = None, protocol: Literal["auto", "http1", "http2"] | None = None, compress: bool | None = None, response_id: str | None = None, keep_headers: Sequence[str] | None = None, disable_after: timedelta | None = None, disable_failures: int | None = None, consent: bool | None = None, subscriber_type: Literal["client", "service"] | None = None) -> CreateEndpointRow:
        """Creates an endpoint (an HTTP destination) and returns its id, its signing secret, and the id of a
        control message. The signing secret is shown nowhere else. secret: null makes a new one. signature: v1
        (HMAC-SHA256, the default) or v1a (ed25519). timeout: above 0, at most 60 s (default 15 s). concurrency:
        1 to 1024 requests in flight (default 8). rate: requests per second (null: no limit). headers: a JSON
        object without credentials. auth: {"type": "basic", "bearer", "header" or "oauth2", ...}. tls: {"ca",
        "certificate", "key"} as PEM texts. schedule: waits between attempts, such as [5, 30, "2 min"] or
        {"base": 5, "factor": 2, "cap": "1 h", "jitter": 0.2}. policy: such as {"404": "retry", "4xx": "dead"}.
        consent: true holds deliveries until the receiver agrees. The other settings are described at the
        columns of outbox.endpoint. Errors: 42710 the endpoint exists already, 22004 name or url is null, 22023
        a setting is malformed or out of range.
        """
        return self._run(Call("create_endpoint", {"name": name, "url": url, "secret": secret, "headers": headers, "timeout": timeout, "concurrency": concurrency, "tenant": tenant, "kind": kind, "auth": auth, "tls": tls, "signature": signature, "rate": rate, "burst": burst, "schedule": schedule, "policy": policy, "breaker": breaker, "protocol": protocol, "compress": compress, "response_id": response_id, "keep_headers": keep_headers, "disable_after": disable_after, "disable_failures": disable_failures, "consent": consent, "subscriber_type": subscriber_type}, Shape("row", CreateEndpointRow, {})))  # type: ignore[no-any-return]

    def create_projection(self, name: str, handler: str, *, kind: Literal["inline", "async"] | None = None, categories: Sequence[str] | None = None, types: Sequence[str] | None = None) -> None:
        """Creates a projection. handler: the signature of a function (events outbox.event[]) returns void, such
        as "app.count_orders(outbox.event[])"; it runs as its owner, with a pinned search_path, and can neither
        create temporary tables nor change the role. kind async: from the first event on, whenever
        run_projection() is called; inline: from the next append on, in the transaction that appends.
        categories, types (patterns): only these events; null: all. Errors: 42710 the name is taken, 42883 no
        such function, 42501 the caller does not have the rights of the function's owner, 22004 or 22023 a value
        is null or malformed, 55P03 a transaction appends for longer than 5 s, 25006 the transaction is
        read-only.
        """
        self._run(Call("create_projection", {"name": name, "handler": handler, "kind": kind, "categories": categories, "types": types}, Shape("void", None, {})))

    def create_publisher(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None, topic_template: str | None = None, topic_function: str | None = None) -> None:
        """Registers a publisher. code has no "@" and stands for all publishers "code@version". name: default
        code. topic_template (such as "{tenant}.{topic}") or topic_function (the signature of a function (tenant
        text, topic text) returns text) determines the topic of its messages. Errors: 22004 code is null, 22023
        a value is malformed, 42710 the publisher is registered already, 42883 no such function, 42501 the
        caller does not have the rights of the function's owner.
        """
        self._run(Call("create_publisher", {"code": code, "name": name, "description": description, "active": active, "topic_template": topic_template, "topic_function": topic_function}, Shape("void", None, {})))

    def create_topic(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None) -> None:
        """Registers a topic. Registration is needed only to describe a topic, to switch it off, or with
        pg_outbox.require_topic. name: default code. Errors: 22004 code is null, 22023 a value is malformed,
        42710 the topic is registered already.
        """
        self._run(Call("create_topic", {"code": code, "name": name, "description": description, "active": active}, Shape("void", None, {})))

    def create_upcaster(self, type: str, from_version: int, function: str) -> None:
        """Registers a function (data jsonb) returns jsonb that turns data of an event type from a version into
        data of the next version, or replaces the one there is. It must not be volatile, runs as its owner and
        with a pinned search_path. function: its signature, such as "app.order_placed_2(jsonb)". Errors: OB004
        the chain of versions would have a gap, 42883 no such function, 42501 the caller does not have the
        rights of the function's owner, 22004 or 22023 a value is null or malformed, 25006 the transaction is
        read-only.
        """
        self._run(Call("create_upcaster", {"type": type, "from_version": from_version, "function": function}, Shape("void", None, {})))

    def cursor_advance(self, consumer: str, position: int, *, stream: str | None = None, subject: str | None = None, delivery_id: str | None = None, delivered_at: datetime | None = None, expected_position: int | None = None, epoch: int | None = None) -> CursorState:
        """Confirms that a consumer has read everything up to a position, and creates the cursor if there is
        none. At the position where the cursor stands already, nothing changes, and advanced is false.
        delivery_id identifies the delivery, and delivered_at (default: now) says when it was made.
        expected_position makes the call a compare-and-set. epoch: the epoch in which the position was read.
        Errors: OB005 the position is smaller than the cursor's, the same position has another delivery id, or
        the cursor is not at expected_position; OB009 a name is malformed, the position is below 1, after the
        end of the feed, or in a history that was lost; 25006 the transaction is read-only.
        """
        return self._run(Call("cursor_advance", {"consumer": consumer, "position": position, "stream": stream, "subject": subject, "delivery_id": delivery_id, "delivered_at": delivered_at, "expected_position": expected_position, "epoch": epoch}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "error_since": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def cursor_delete(self, consumer: str, reason: str, *, stream: str | None = None, subject: str | None = None) -> None:
        """Deletes a cursor. The reason is stored in outbox.audit. Errors: OB001 there is no such cursor, OB006
        the reason is empty, OB009 a name is malformed, 25006 the transaction is read-only.
        """
        self._run(Call("cursor_delete", {"consumer": consumer, "reason": reason, "stream": stream, "subject": subject}, Shape("void", None, {})))

    def cursor_get(self, consumer: str, *, stream: str | None = None, subject: str | None = None, if_missing: int | None = None) -> CursorState:
        """Returns a consumer's cursor. stream is "outbox" (the feed) by default, subject is empty by default.
        Errors: OB001 there is no such cursor; with if_missing, the result shows that position instead (nothing
        is stored). OB009 a name is malformed.
        """
        return self._run(Call("cursor_get", {"consumer": consumer, "stream": stream, "subject": subject, "if_missing": if_missing}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "error_since": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def cursor_list(self, *, consumer: str | None = None, stream: str | None = None, subject: str | None = None, max_rows: int | None = None) -> list[CursorState]:
        """Lists cursors in the order of stream, subject and consumer. consumer, stream, subject: only those
        equal to the value; null: all. max_rows: at most so many rows; 0 (the default): no limit.
        """
        return self._run(Call("cursor_list", {"consumer": consumer, "stream": stream, "subject": subject, "max_rows": max_rows}, Shape("rows", CursorState, {"last_delivered_at": "timestamp with time zone", "error_since": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def cursor_record_error(self, consumer: str, error: str, *, stream: str | None = None, subject: str | None = None, error_position: int | None = None, after_position: int | None = None) -> CursorState:
        """Records why a consumer cannot go on: an error text (its first 2000 characters), and as error_position
        the position of the message that cannot be handled (null: not known). Nothing is recorded if the cursor
        has passed error_position: then another instance has handled the message. The cursor does not move. If
        there is none, it is created at after_position, where its reader begins. error_since stays that of the
        first error, health() reports the cursor, and the next advance or reset clears all three. Errors: OB009
        the text is empty, error_position is below 1, after_position is negative or, for a new cursor, after the
        end of the feed, or a name is malformed; 25006 the transaction is read-only.
        """
        return self._run(Call("cursor_record_error", {"consumer": consumer, "error": error, "stream": stream, "subject": subject, "error_position": error_position, "after_position": after_position}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "error_since": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def cursor_reset(self, consumer: str, position: int, reason: str, *, stream: str | None = None, subject: str | None = None, delivery_id: str | None = None, delivered_at: datetime | None = None) -> CursorState:
        """Moves a cursor to any position from 0 on, back as well, and creates the cursor if there is none. The
        reason is stored in outbox.audit. Errors: OB006 the reason is empty, OB009 a name is malformed or the
        position is negative or after the end of the feed, 25006 the transaction is read-only.
        """
        return self._run(Call("cursor_reset", {"consumer": consumer, "position": position, "reason": reason, "stream": stream, "subject": subject, "delivery_id": delivery_id, "delivered_at": delivered_at}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "error_since": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def dead(self, lease: int, delivery_ids: Sequence[int], reason: str) -> list[int]:
        """Ends deliveries of a lease (delivery_ids null: all that it holds) as dead letters at once, because no
        further attempt will help. The dead letter has the reason "rejected", and the argument reason as its
        last_error. Returns the ids that were changed; an empty array when the lease is lost. Errors: 22004
        lease is null.
        """
        return self._run(Call("dead", {"lease": lease, "delivery_ids": delivery_ids, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def dead_letter_stats(self) -> DeadLetterStatsRow:
        """Returns numbers of dead letters. total: all; unresolved: open ones; resolved: all others.
        oldest_age_seconds, newest_age_seconds and top_failure_reason are those of open ones, and null if there
        are none. per_subscription: {name: {"total", "unresolved"}}.
        """
        return self._run(Call("dead_letter_stats", {}, Shape("row", DeadLetterStatsRow, {"last_updated": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def dead_letters_older_than(self, older_than: timedelta) -> list[DeadLetterStatus]:
        """Returns the open dead letters that became dead letters longer ago than age, oldest first."""
        return self._run(Call("dead_letters_older_than", {"older_than": older_than}, Shape("rows", DeadLetterStatus, {"body": "bytea", "enqueued_at": "timestamp with time zone", "first_attempt_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone", "created_at": "timestamp with time zone", "dead_at": "timestamp with time zone", "age": "interval", "resolved_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def delete_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Deletes a dead letter, whatever its resolution. Its row is stored in outbox.audit. Errors: OB001 no
        such dead letter, 22023 actor is empty.
        """
        self._run(Call("delete_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    def delete_snapshots(self, stream: str, *, schema_version: int | None = None) -> int:
        """Deletes the snapshots of a stream, or the one of a schema version, and returns how many. The next
        load starts at the first event.
        """
        return self._run(Call("delete_snapshots", {"stream": stream, "schema_version": schema_version}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def describe_schedule(self, subscription: str) -> list[DescribeScheduleRow]:
        """Returns one row per attempt of a subscription (10000 at most). wait: time after the attempt before.
        planned, earliest and latest: time after the first attempt, without jitter, with the least and with the
        most jitter. The list ends at max_age. Errors: OB001 no such subscription.
        """
        return self._run(Call("describe_schedule", {"subscription": subscription}, Shape("rows", DescribeScheduleRow, {"wait": "interval", "planned": "interval", "earliest": "interval", "latest": "interval"})))  # type: ignore[no-any-return]

    def disable_endpoint(self, name: str, *, reason: str | None = None, mode: Literal["hold", "skip"] | None = None) -> int:
        """Stops sending to an endpoint until enable_endpoint(). mode: hold (the default) keeps deliveries
        waiting, skip records them as skipped. Recorded in outbox.audit. Returns the id of a control message.
        Errors: OB001 no such endpoint, 22023 unknown mode, 54000 the reason is too large.
        """
        return self._run(Call("disable_endpoint", {"name": name, "reason": reason, "mode": mode}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def drop_endpoint(self, name: str) -> int:
        """Drops an endpoint that no subscription uses, and deletes its secrets and credentials. Deliveries that
        wait for a retry are recorded as skipped. Returns the id of a control message. Errors: OB001 no such
        endpoint, OB004 a subscription uses it.
        """
        return self._run(Call("drop_endpoint", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def drop_projection(self, name: str, *, version: int | None = None) -> None:
        """Removes a projection with its cursors, or one version of it. Its tables stay: they are the
        application's. Errors: OB001 no such projection, 25006 the transaction is read-only.
        """
        self._run(Call("drop_projection", {"name": name, "version": version}, Shape("void", None, {})))

    def drop_proxy(self, name: str) -> int:
        """Removes a proxy from the list. Returns the id of a control message. Only for the owner of the
        extension and superusers; it is in no capability. Errors: OB001 no such proxy, OB004 an endpoint uses
        it.
        """
        return self._run(Call("drop_proxy", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def drop_upcaster(self, type: str, from_version: int) -> None:
        """Removes the first or the last upcaster of an event type. Errors: OB001 there is none from this
        version, OB004 the chain would have a gap, 25006 the transaction is read-only.
        """
        self._run(Call("drop_upcaster", {"type": type, "from_version": from_version}, Shape("void", None, {})))

    def enable_endpoint(self, name: str) -> int:
        """Resumes sending to an endpoint. Failed deliveries are due at once. The circuit breaker closes, a
        pause ends, and the count of failures is reset. Recorded in outbox.audit. Returns the id of a control
        message. Errors: OB001 no such endpoint.
        """
        return self._run(Call("enable_endpoint", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def ensure_subscription(self, name: str, topics: Sequence[str], *, endpoint: str | None = None, filter: Any | None = None, max_attempts: int | None = None, max_age: timedelta | None = None, schedule: Any | None = None, policy: Any | None = None, format: Literal["raw", "envelope", "cloudevents", "cloudevents_structured", "pubsub"] | None = None, batch_size: int | None = None, batch_wait: timedelta | None = None, ordering: Literal["none", "key", "strict"] | None = None, on_exhausted: Literal["skip", "block"] | None = None, ttl: timedelta | None = None, deadline: timedelta | None = None, notify: bool | None = None, max_lag: timedelta | None = None, external_id: str | None = None, labels: Any | None = None, start: str | None = None, source: str | None = None, transform: str | None = None) -> str:
        """Creates a subscription, or alters the one that there is, so that it is as described: for migrations,
        and for programs that start. Topics, filter (null: none) and whether it is pushed are always as given;
        any other setting that is null keeps its value, or gets the default of subscribe() if the subscription
        is new. start: where a new subscription begins, as in subscribe(). Its default is earliest for a
        subscription that workers claim from, so that workers that are deployed after their producers miss
        nothing, and latest for a pushed one, so that a new receiver is not sent the history. Returns created,
        altered or unchanged; unchanged writes nothing. Errors: OB001 no such endpoint, OB004 the subscription
        is pulled and endpoint is given, or the other way round, or it has another source; 40001 another session
        created it, and this transaction cannot see it; those of subscribe().
        """
        return self._run(Call("ensure_subscription", {"name": name, "topics": topics, "endpoint": endpoint, "filter": filter, "max_attempts": max_attempts, "max_age": max_age, "schedule": schedule, "policy": policy, "format": format, "batch_size": batch_size, "batch_wait": batch_wait, "ordering": ordering, "on_exhausted": on_exhausted, "ttl": ttl, "deadline": deadline, "notify": notify, "max_lag": max_lag, "external_id": external_id, "labels": labels, "start": start, "source": source, "transform": transform}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def erase(self, message_id: int, *, actor: str | None = None, reason: str | None = None) -> None:
        """Erases the content of a message (payload, body, headers, metadata, and in the attempt log responses,
        results and errors), ends its waiting deliveries, and deletes the snapshots of its stream. Ids, topic,
        key, positions and counts stay. The message cannot be requeued, resent or replayed any more. actor
        (default: session_user) and reason are stored in outbox.audit. Errors: OB001 no such message, OB003 a
        worker has a delivery of it, OB006 the reason is empty, 55P03 a lock was not available within 5 s.
        """
        self._run(Call("erase", {"message_id": message_id, "actor": actor, "reason": reason}, Shape("void", None, {})))

    def explain_routing(self, topic: str, *, payload: Any | None = None, key: str | None = None, headers: Any | None = None, tenant: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, at_position: int | None = None, source: str | None = None) -> list[ExplainRoutingRow]:
        """Returns, for each subscription, whether a message with these properties would match it, and the
        reason. reason: matches (with a note if the subscription is paused), topic, inactive, source (it takes
        events, or it does not), filter with the fields that refuse the message, or filter: payload. source:
        messages (the default) or events. The answer is that of the newest version of each subscription; with
        at_position, that of the version that held at the position, ended subscriptions included. Errors: 22023
        topic is malformed.
        """
        return self._run(Call("explain_routing", {"topic": topic, "payload": payload, "key": key, "headers": headers, "tenant": tenant, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "at_position": at_position, "source": source}, Shape("rows", ExplainRoutingRow, {})))  # type: ignore[no-any-return]

    def export_subject(self, *, streams: Sequence[str] | None = None, types: Sequence[str] | None = None, stream_prefix: str | None = None, tenant: str | None = None, user_id: str | None = None, metadata: Any | None = None, from_time: datetime | None = None, to_time: datetime | None = None, after: Any | None = None, max_events: int | None = None) -> list[ExportedEvent]:
        """Returns the events that concern a person, a page at a time. streams: only these, by stream and
        version; stream_prefix: those whose name begins so, likewise; or everything in the order of the feed,
        for which at least one filter is needed. A page of the last two looks at max_events events. types:
        patterns of the type; user_id: metadata.user_id; metadata: entries that the metadata contain; from_time,
        to_time: when the event was stored, inclusive. All filters hold together. after: "next" of the last row,
        for the next page; there is no row when there are no more. max_events: 1 to 10000 (1000). A row whose
        message_id is null only says how far a scan has come. redacted: the event was erased, or the key that
        metadata.key_id names was revoked. Errors: 22023 neither streams nor a filter, or a value is malformed.
        """
        return self._run(Call("export_subject", {"streams": streams, "types": types, "stream_prefix": stream_prefix, "tenant": tenant, "user_id": user_id, "metadata": metadata, "from_time": from_time, "to_time": to_time, "after": after, "max_events": max_events}, Shape("rows", ExportedEvent, {"body": "bytea", "recorded_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def extend(self, lease: int, *, duration: timedelta | None = None) -> datetime:
        """Extends a lease so that it ends duration (default 60 s, at most 7 days) from now, but not after the
        deadline of its claim. Never shortens the lease. Returns the new end. Errors: OB003 the lease is lost,
        22004 lease is null, 22023 duration is out of range.
        """
        return self._run(Call("extend", {"lease": lease, "duration": duration}, Shape("value", None, {"": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def fail(self, lease: int, delivery_ids: Sequence[int], error: str, *, retry_after: timedelta | None = None) -> list[int]:
        """Records a failed attempt of deliveries of a lease (delivery_ids null: of all that it holds). A
        delivery is tried again after retry_after (null: after the wait that the subscription's schedule says).
        A delivery becomes a dead letter after its last attempt, or when the next attempt would be later than
        max_age or the expiry allow. An error of more than 4096 bytes is cut to its first 1000 characters.
        Returns the ids that were changed; an empty array when the lease is lost. Errors: 22004 lease is null.
        """
        return self._run(Call("fail", {"lease": lease, "delivery_ids": delivery_ids, "error": error, "retry_after": retry_after}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def forget_relay(self, relay: str) -> bool:
        """Removes the row of a relay that will not run again from outbox.relay_status, so that health() no
        longer misses it. Its cursor stays; see cursor_delete(). Returns whether there was a row. Errors: 25006
        the transaction is read-only.
        """
        return self._run(Call("forget_relay", {"relay": relay}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def get_message(self, message_id: int) -> MessageStatus:
        """Returns one message with its state. Errors: OB001 no such message, or retention has removed it."""
        return self._run(Call("get_message", {"message_id": message_id}, Shape("row", MessageStatus, {"enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "body": "bytea"})))  # type: ignore[no-any-return]

    def get_schema(self, type: str, *, version: int | None = None) -> EventSchema:
        """Returns the schema of an event type. version null: the latest one. Errors: OB001 there is none."""
        return self._run(Call("get_schema", {"type": type, "version": version}, Shape("row", EventSchema, {"registered_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def get_subject_key(self, key_id: str) -> SubjectKey:
        """Returns a data key by its id. If it was revoked, wrapped_key is null, and revoked_at and reason are
        set. Errors: OB001 there is no such key, 22004 or 22023 the id is null or malformed.
        """
        return self._run(Call("get_subject_key", {"key_id": key_id}, Shape("row", SubjectKey, {"wrapped_key": "bytea", "created_at": "timestamp with time zone", "rewrapped_at": "timestamp with time zone", "revoked_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def grant_consent(self, endpoint: str, *, rate_per_minute: int | None = None) -> int:
        """Records that the receiver has given its consent by other means than the handshake. rate_per_minute:
        requests per minute that it allows; null: no limit. Returns the id of a control message. Errors: OB001
        no such endpoint, 22023 rate_per_minute is below 1.
        """
        return self._run(Call("grant_consent", {"endpoint": endpoint, "rate_per_minute": rate_per_minute}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def grant_to(self, role: str, capability: Literal["publish", "capture", "consume", "observe", "monitor", "admin"], *, subscriptions: Sequence[str] | None = None, topics: Sequence[str] | None = None, tenants: Sequence[str] | None = None, publishers: Sequence[str] | None = None, consumers: Sequence[str] | None = None) -> None:
        """Grants a role a capability (publish, capture, consume, observe, monitor or admin), or replaces an
        earlier grant of it. publish can be narrowed to topics (patterns), tenants and publishers; monitor to
        tenants. consume can be narrowed to subscriptions, topics (patterns, for read()) and consumers (of
        cursors); if one of these is given, those that are not given allow nothing. null: not narrowed. A list
        has at most 1000 names of 1 to 255 bytes. Errors: 42704 no such role, 22023 the capability is unknown or
        cannot be narrowed like this, or a list is malformed.
        """
        self._run(Call("grant_to", {"role": role, "capability": capability, "subscriptions": subscriptions, "topics": topics, "tenants": tenants, "publishers": publishers, "consumers": consumers}, Shape("void", None, {})))

    def head(self) -> int:
        """Returns the last position of the feed; 0 when the feed is empty."""
        return self._run(Call("head", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def health(self) -> list[HealthRow]:
        """Returns one row per check. state: ok, warning or critical. culprit: the object, session or setting
        that is the cause. what_to_do: what an operator can do. Suited to an alert on state <> 'ok'.
        """
        return self._run(Call("health", {}, Shape("rows", HealthRow, {})))  # type: ignore[no-any-return]

    def history(self, message_id: int) -> list[HistoryRow]:
        """Returns the events of one message in order of time. what: enqueued, numbered (with its position),
        routed, the outcome of an attempt, next attempt, dead letter. Errors: OB001 no such message.
        """
        return self._run(Call("history", {"message_id": message_id}, Shape("rows", HistoryRow, {"at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def ignore_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Marks an open dead letter as ignored, because it is not worth an action. actor and note are stored
        with it and in outbox.audit. Errors: OB001 no such dead letter, OB004 it is not open, 22023 actor is
        empty.
        """
        self._run(Call("ignore_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    def inbox_begin(self, source: str, position: int, *, epoch: int | None = None, stream: str | None = None) -> bool:
        """Called in the transaction that handles a message from a relay: returns true if the message is new,
        and false if it or a later one of its source and stream was handled before. source, position and epoch
        are those of the message's headers; stream is the stream or partition in which the broker keeps the
        order. Waits for another transaction that handles a message of the same stream. Errors: OB009 an
        argument is malformed, 25006 the transaction is read-only.
        """
        return self._run(Call("inbox_begin", {"source": source, "position": position, "epoch": epoch, "stream": stream}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def install_message_store(self) -> None:
        """Creates the schema message_store with the functions, types, views and role of message-db 1.3, over
        the streams of pg_outbox. Called again, for example after an upgrade, it replaces the functions and
        views and leaves grants as they are. The first call creates the role message_store and grants it publish
        and consume; a role of this name that exists gets no capability. Only for the owner of the extension and
        superusers; it is in no capability. Errors: 42501 the schema belongs to another role, 42P06 it is that
        of a message-db, 25006 the transaction is read-only.
        """
        self._run(Call("install_message_store", {}, Shape("void", None, {})))

    def is_terminal(self, state: Literal["pending", "processing", "failed", "completed", "dead", "expired", "cancelled", "skipped"]) -> bool:
        """Returns whether a delivery or message in this state is not tried again by itself: true for completed,
        dead, skipped, expired and cancelled.
        """
        return self._run(Call("is_terminal", {"state": state}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def list_messages(self, *, tenant: str | None = None, state: Literal["pending", "processing", "failed", "completed", "dead", "expired", "cancelled", "skipped"] | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, severity: str | None = None, max_messages: int | None = None, before: int | None = None, skip: int | None = None) -> list[MessageStatus]:
        """Returns messages, newest first, up to max_messages (default 50; 1 to 1000) in a page. Pass the last
        id of a page as before to get the next one; skip (0 to 10000) leaves out the first ones. Tenant and
        aggregate use an index, and status pending, processing, failed, dead or expired uses the deliveries. In
        a page, topic and severity are checked for at most 10,000 messages, and status completed, cancelled or
        skipped for at most 1,000. If a page ends there, its last row has no topic, and only the id to continue
        with. Errors: 22023 max_messages or skip is out of range, or status is unknown.
        """
        return self._run(Call("list_messages", {"tenant": tenant, "state": state, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "severity": severity, "max_messages": max_messages, "before": before, "skip": skip}, Shape("rows", MessageStatus, {"enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "body": "bytea"})))  # type: ignore[no-any-return]

    def load(self, stream: str, *, from_version: int | None = None, max_events: int | None = None, backwards: bool | None = None, positions: bool | None = None, upcast: bool | None = None) -> list[Event]:
        """Returns events of a stream in the order of their versions, from from_version on (inclusive; null, the
        default: the first one), up to max_events (default 1000; 1 to 10000). backwards (default false): from
        from_version down (null: the last one). positions (default false): also looks up the place of each event
        in the feed. upcast (default false): data are turned into the latest schema version by the upcasters,
        and metadata.schema_version says so. A stream that does not exist has no events. Events of the current
        transaction are included. Errors: 22004 stream is null, 22023 max_events is out of range or stream is
        malformed, and with upcast those of upcast().
        """
        return self._run(Call("load", {"stream": stream, "from_version": from_version, "max_events": max_events, "backwards": backwards, "positions": positions, "upcast": upcast}, Shape("rows", Event, {"body": "bytea", "occurred_at": "timestamp with time zone", "recorded_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def load_snapshot(self, stream: str, *, schema_version: int | None = None) -> list[LoadSnapshotRow]:
        """Returns the newest snapshot of a stream and schema version, or no row if there is none."""
        return self._run(Call("load_snapshot", {"stream": stream, "schema_version": schema_version}, Shape("rows", LoadSnapshotRow, {"body": "bytea", "taken_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def maintain(self) -> list[MaintainRow]:
        """Rotates, reclaims and trims now as far as the retention settings allow, and returns what each job
        did. The dispatcher does this by itself, every pg_outbox.retention_interval (1 hour by default). Not in
        a transaction block or function. Errors: 25001 in such a transaction. A job that fails has the result
        "failed" and its error in held_by.
        """
        return self._run(Call("maintain", {}, Shape("rows", MaintainRow, {})))  # type: ignore[no-any-return]

    def manual_result(self, manual_send_id: int) -> list[ManualResultRow]:
        """Returns the result of send_test() or resend(). state: waiting, completed or failed; the other columns
        are null while it waits. Errors: OB001 no such id.
        """
        return self._run(Call("manual_result", {"manual_send_id": manual_send_id}, Shape("rows", ManualResultRow, {"started_at": "timestamp with time zone", "finished_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def metrics(self) -> list[MetricsRow]:
        """Returns metrics for a monitoring system. Names that end in _total, _sum, _count or _bucket only grow;
        all others are current values, in the unit that the name says (seconds, positions, bytes). labels names
        the subscription, endpoint, state, consumer, stream, subject, relay, ring or part; le is the bound of a
        bucket. Histograms start from zero when the server starts. outbox_enqueued_total also counts messages
        that were rolled back.
        """
        return self._run(Call("metrics", {}, Shape("rows", MetricsRow, {})))  # type: ignore[no-any-return]

    def move_to_dead_letters(self, delivery_id: int, reason: str, *, actor: str | None = None) -> int:
        """Moves a waiting delivery to the dead letters, with the reason "moved" and the argument reason as its
        last_error. Returns the id of the dead letter. Errors: OB001 no such delivery, OB002 it has ended, OB003
        a worker has it, 22023 actor is empty.
        """
        return self._run(Call("move_to_dead_letters", {"delivery_id": delivery_id, "reason": reason, "actor": actor}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def notification_log(self, *, message_id: int | None = None, tenant: str | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, max_rows: int | None = None, before: int | None = None, subscription: str | None = None) -> list[NotificationEntry]:
        """Returns which messages were sent to whom: of one message, or of the latest messages of a tenant,
        topic or aggregate, up to max_rows (default 50; 1 to 1000) messages in a page. Pass the last message_id
        of a page as before to get the next one. With subscription, up to max_rows rows of that subscription,
        among 10,000 messages per page. If a page ends there, its last row has no topic_code, and only the id to
        continue with. Errors: 22023 max_rows is out of range, OB001 no such subscription.
        """
        return self._run(Call("notification_log", {"message_id": message_id, "tenant": tenant, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "max_rows": max_rows, "before": before, "subscription": subscription}, Shape("rows", NotificationEntry, {"sent_at": "timestamp with time zone", "created_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def pause_projection(self, name: str, *, version: int | None = None) -> None:
        """Pauses an asynchronous projection: run_projection() is refused until resume_projection(). It waits
        for a page that is being applied. version null: the live one. Errors: OB001 no such projection, OB004 it
        is inline, faulted or stopped, 25006 the transaction is read-only.
        """
        self._run(Call("pause_projection", {"name": name, "version": version}, Shape("void", None, {})))

    def pause_subscription(self, name: str) -> int:
        """Pauses a subscription until resume(): messages are still routed to it and retained, but nothing is
        sent or can be claimed. Recorded in outbox.audit. Returns the id of a control message. Errors: OB001 no
        such subscription.
        """
        return self._run(Call("pause_subscription", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def public_keys(self, endpoint: str) -> list[PublicKeysRow]:
        """Returns the public keys with which receivers verify v1a signatures of an endpoint, the current one
        first; no rows for v1. Errors: OB001 no such endpoint.
        """
        return self._run(Call("public_keys", {"endpoint": endpoint}, Shape("rows", PublicKeysRow, {"created_at": "timestamp with time zone", "expires_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def purge(self, what: str, older_than: timedelta, *, include_unresolved: bool | None = None, dry_run: bool | None = None) -> PurgeRow:
        """Removes rows that are older than older_than, and returns how many rows and bytes. what: completed
        (messages), attempts, archive (messages with their attempts and routing; rows counts messages),
        dead_letters (resolved or ignored ones; include_unresolved: all), idempotency. Rows of logs are removed
        leaf by leaf, and only if the whole leaf is old enough. Rows that are still needed are never removed.
        older_than null, zero or below removes nothing. dry_run: returns the numbers without removing anything.
        Numbers of rows in leaves may be estimates. Not in a transaction block or function. Errors: 22023 what
        is unknown, 25001 in such a transaction, 55P03 a lock was not available within 5 s.
        """
        return self._run(Call("purge", {"what": what, "older_than": older_than, "include_unresolved": include_unresolved, "dry_run": dry_run}, Shape("row", PurgeRow, {})))  # type: ignore[no-any-return]

    def read(self, after_position: int, *, max_messages: int | None = None, topics: Sequence[str] | None = None, filter: Any | None = None, epoch: int | None = None, source: str | None = None) -> list[FeedMessage]:
        """Returns up to max_messages (default 100; 1 to 10000) messages after a position (exclusive; 0: from
        the first one that is stored), in order. topics (patterns) and filter select as in a subscription; null:
        all. Control messages of pg_outbox are not returned. A call looks at no more than 10000 positions, or
        max_messages if that is more. If it looked further than the last message that it returns, a marker is
        the last row: its message_id is null, and no message between the row before it and its position matches.
        Continue after the position of the last row, and confirm the position of a marker as that of a message.
        No rows: the feed ends at after_position. source: messages (the default), events (of streams, from
        position 1 on for ever), or all; the aggregate of an event is its category and the rest of its stream's
        name. epoch: the epoch in which after_position was read, so that a lost history is noticed. Errors:
        OB009 the position is malformed, no longer stored, after the end of the feed, or in a history that was
        lost; 22023 another argument is malformed.
        """
        return self._run(Call("read", {"after_position": after_position, "max_messages": max_messages, "topics": topics, "filter": filter, "epoch": epoch, "source": source}, Shape("rows", FeedMessage, {"body": "bytea", "occurred_at": "timestamp with time zone", "enqueued_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def read_events(self, after_position: int, *, max_events: int | None = None, categories: Sequence[str] | None = None, types: Sequence[str] | None = None, tenant: str | None = None, filter: Any | None = None, member: int | None = None, members: int | None = None, epoch: int | None = None, upcast: bool | None = None) -> list[Event]:
        """Returns up to max_events (default 1000; 1 to 10000) events after a position (exclusive; 0: from the
        first one), in the committed order. Continue after the position of the last row. Events stay readable
        for ever, unless truncate_stream() removes them. categories, types (patterns), tenant and filter (as in
        a subscription) select; null: all. member and members: the part of a consumer group's member, numbered
        from 0; streams with the same cardinal id go to the same member. A call looks at no more than about
        10000 positions, or max_events if that is more, apart from those that the lists of categories pass over.
        If none of them matches, the result is one row whose message_id is null and whose position says where to
        continue. epoch: the epoch in which after_position was read, so that a lost history is noticed. upcast
        (default false): as in load(); an event that cannot be upcast is an error. A standby answers too.
        Errors: OB009 the position is malformed, after the end of the feed, or in a history that was lost; 22023
        another argument is malformed.
        """
        return self._run(Call("read_events", {"after_position": after_position, "max_events": max_events, "categories": categories, "types": types, "tenant": tenant, "filter": filter, "member": member, "members": members, "epoch": epoch, "upcast": upcast}, Shape("rows", Event, {"body": "bytea", "occurred_at": "timestamp with time zone", "recorded_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def rebuild_projection(self, name: str, *, handler: str | None = None) -> int:
        """Makes a new version of an asynchronous projection, which begins at the first event, and returns its
        number. handler: a function that writes to tables of its own; the old version goes on until
        switch_projection(). Null: the same handler; the old version stops at once, and the caller empties the
        tables in the same transaction. Errors: OB001 no such projection, OB004 it is inline or is being
        rebuilt, 42883 no such function, 42501 the caller does not have the rights of the function's owner,
        22023 the function has another signature, 25006 the transaction is read-only.
        """
        return self._run(Call("rebuild_projection", {"name": name, "handler": handler}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def register_schema(self, type: str, schema: Any, *, version: int | None = None, compatibility: Literal["full", "backward", "forward", "breaking"] | None = None, validated: bool | None = None, description: str | None = None) -> int:
        """Registers a version of the JSON Schema of an event type and returns the version. version: the next
        one by default. The same version with an equal schema changes nothing. compatibility: what the change
        from the version before must be: backward (the default; the new version reads the data of the one
        before), forward (the one before reads the data of the new one), full (both) or breaking (anything).
        Data is taken to have the declared properties only, unless the schema combines others. validated:
        append() checks the events of this version. Errors: OB016 the schema is not as compatible as asked for
        (the detail says why), OB004 the version would leave a gap, OB008 the version is registered with another
        schema, 22004 or 22023 a value is null or malformed, 54000 the schema is above 64 kB, 25006 the
        transaction is read-only.
        """
        return self._run(Call("register_schema", {"type": type, "schema": schema, "version": version, "compatibility": compatibility, "validated": validated, "description": description}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def relay_heartbeat(self, relay: str, consumer: str, sink: str, instance: str, state: str, position: int, heartbeat_interval: timedelta, *, epoch: int | None = None, relayed: int | None = None, skipped: int | None = None, rate: float | None = None, error: str | None = None) -> None:
        """Says how a relay is: writes its row in outbox.relay_status. The relay calls it; only its active
        instance does. error: null leaves the last one. Errors: OB009 a name is malformed; 22023 another
        argument is; 25006 the transaction is read-only.
        """
        self._run(Call("relay_heartbeat", {"relay": relay, "consumer": consumer, "sink": sink, "instance": instance, "state": state, "position": position, "heartbeat_interval": heartbeat_interval, "epoch": epoch, "relayed": relayed, "skipped": skipped, "rate": rate, "error": error}, Shape("void", None, {})))

    def relay_record_refusal(self, relay: str, position: int, webhook_id: str, action: str, reason: str) -> None:
        """Records in outbox.audit that a relay went on without a message that its broker refused. action: skip
        or dead-letter. Errors: OB009 the name is malformed, 22023 unknown action, 25006 the transaction is
        read-only.
        """
        self._run(Call("relay_record_refusal", {"relay": relay, "position": position, "webhook_id": webhook_id, "action": action, "reason": reason}, Shape("void", None, {})))

    def release(self, lease: int, *, delivery_ids: Sequence[int] | None = None) -> list[int]:
        """Gives deliveries of a lease (delivery_ids null: all) back unharmed: they are due as before, and the
        attempt does not count. Returns the ids that were given back, in the order of positions; an empty array
        when the lease is lost. Errors: 22004 lease is null.
        """
        return self._run(Call("release", {"lease": lease, "delivery_ids": delivery_ids}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def replay(self, subscription: str, *, from_position: int | None = None, to_position: int | None = None, filter: Any | None = None, new_ids: bool | None = None, rate: int | None = None, from_time: datetime | None = None, to_time: datetime | None = None) -> int:
        """Delivers again the messages that a subscription matched between two positions, both included, and
        returns the id of the replay. Which messages matched is decided by the versions that held at those
        positions. from_position: default tail(); to_position: default head(). from_time and to_time (exclusive)
        are used where a position is null, and refer to the time when a message got its position. filter:
        narrows the messages further. new_ids (default false): webhook ids get the suffix _r and the id of the
        replay. rate (default 200; 1 to 10000): messages per second at most, in addition to live traffic. The
        view outbox.replay_status shows the progress. Recorded in outbox.audit. Errors: OB001 no such
        subscription, OB009 a position is no longer stored or does not exist yet, 22023 rate or filter is
        invalid.
        """
        return self._run(Call("replay", {"subscription": subscription, "from_position": from_position, "to_position": to_position, "filter": filter, "new_ids": new_ids, "rate": rate, "from_time": from_time, "to_time": to_time}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def request_consent(self, endpoint: str) -> int:
        """Asks the receiver of an endpoint for consent with the CloudEvents webhook handshake, whatever its
        earlier answer was. Deliveries wait until it agrees. Returns the id of a control message. Errors: OB001
        no such endpoint.
        """
        return self._run(Call("request_consent", {"endpoint": endpoint}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def requeue(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> int:
        """Makes the delivery of a dead letter due now, with all its attempts again, and returns the id of the
        delivery. The receiver gets the same webhook id. A requeued delivery does not expire, and a cancelled
        message is not cancelled any more. Errors: OB001 no such dead letter, OB004 it was requeued already, its
        subscription has ended, its message is gone or erased, or the transform makes no payload of it, 22023
        actor is empty.
        """
        return self._run(Call("requeue", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def requeue_all(self, *, actor: str | None = None, subscription: str | None = None, reason: str | None = None, topic: str | None = None, dead_after: datetime | None = None, dead_before: datetime | None = None, note: str | None = None, max_rows: int | None = None, dry_run: bool | None = None) -> int:
        """Requeues up to max_rows (default 1000; 1 to 100000) open dead letters, oldest first, and returns how
        many. subscription, reason, topic, dead_after (inclusive) and dead_before (exclusive) select them; null:
        all. dry_run: only counts. Dead letters that cannot be requeued are left out. Errors: OB001 no such
        subscription, 22023 max_rows is out of range, or actor is empty.
        """
        return self._run(Call("requeue_all", {"actor": actor, "subscription": subscription, "reason": reason, "topic": topic, "dead_after": dead_after, "dead_before": dead_before, "note": note, "max_rows": max_rows, "dry_run": dry_run}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def reschedule(self, delivery_id: int, due_at: datetime, *, actor: str | None = None, priority: int | None = None, expires_at: datetime | None = None) -> None:
        """Changes when a waiting delivery is due, and optionally its priority (-100 to 100) and its expiry;
        null leaves these as they are. Errors: OB001 no such delivery, OB002 it has ended, OB003 a worker has
        it, 22004 due_at is null, 22023 a value is out of range, or actor is empty.
        """
        self._run(Call("reschedule", {"delivery_id": delivery_id, "due_at": due_at, "actor": actor, "priority": priority, "expires_at": expires_at}, Shape("void", None, {})))

    def resend(self, message_id: int, subscription: str) -> int:
        """Sends a message once more to a pushed subscription, whatever the state of its delivery: one attempt
        outside the budget, with the same webhook id. The subscription's transform, if it has one, is called
        again. Recorded in outbox.audit. Returns the id for manual_result(). Errors: OB001 no such subscription,
        or the message is not stored or not in the feed yet; OB004 the subscription is pulled by workers, the
        message was erased, or the transform makes no payload of it.
        """
        return self._run(Call("resend", {"message_id": message_id, "subscription": subscription}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def resolve_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Marks an open dead letter as resolved by other means. actor and note are stored with it and in
        outbox.audit. Errors: OB001 no such dead letter, OB004 it is not open, 22023 actor is empty.
        """
        self._run(Call("resolve_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    def resume_projection(self, name: str, *, version: int | None = None) -> None:
        """Goes on with a projection that is paused or faulted; a faulted one tries the same event again.
        version null: the live one. Errors: OB001 no such projection, OB004 it is neither paused nor faulted,
        25006 the transaction is read-only.
        """
        self._run(Call("resume_projection", {"name": name, "version": version}, Shape("void", None, {})))

    def resume_subscription(self, name: str) -> int:
        """Resumes a paused subscription where it stopped. Recorded in outbox.audit. Returns the id of a control
        message. Errors: OB001 no such subscription.
        """
        return self._run(Call("resume_subscription", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def retry(self, message_id: int, subscription: str, *, actor: str | None = None) -> int:
        """Makes a waiting, failed, dead or expired delivery of a message to a subscription due now, with its
        attempts counted from 0 again. Returns the id of the delivery. by: default session_user. Errors: OB001
        no such subscription, or there is no such delivery (not matched, not routed yet, or in its first
        attempt); OB002 it was completed; OB003 a worker has it; OB004 its message was erased or is gone.
        """
        return self._run(Call("retry", {"message_id": message_id, "subscription": subscription, "actor": actor}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def revoke_from(self, role: str, capability: Literal["publish", "capture", "consume", "observe", "monitor", "admin"]) -> bool:
        """Revokes a capability from a role. Privileges that another capability of the role needs stay. Returns
        false if the role did not have the capability by grant_to(). Errors: 42704 no such role, 22023 unknown
        capability.
        """
        return self._run(Call("revoke_from", {"role": role, "capability": capability}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def revoke_subject_keys(self, subject: str, *, actor: str | None = None, reason: str | None = None) -> int:
        """Removes all data keys of a subject for good, so that nothing that was encrypted with them can be read
        any more, and returns the id of the certificate. Keys that the subject gets later are not concerned. If
        all its keys were revoked before, nothing changes, and the last certificate is returned. Errors: OB001
        the subject has no keys, OB006 the reason is empty, 22004 or 22023 a value is null or malformed, 55P03 a
        lock was not available within 5 s, 25006 the transaction is read-only.
        """
        return self._run(Call("revoke_subject_keys", {"subject": subject, "actor": actor, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def rewrap_subject_key(self, key_id: str, wrapped_key: bytes, master_key: str) -> None:
        """Stores a data key again after it was encrypted by another master key. Errors: OB001 there is no such
        key, OB004 it was revoked, 22004 or 22023 a value is null or malformed, 25006 the transaction is
        read-only.
        """
        self._run(Call("rewrap_subject_key", {"key_id": key_id, "wrapped_key": wrapped_key, "master_key": master_key}, Shape("void", None, {})))

    def rotate(self, *, ring: str | None = None) -> str:
        """Makes new rows of a ring (default message) go to the next leaf from now on. Returns rotated, empty
        (nothing was written to the current leaf), full (the next leaf still holds rows), or not yet (the
        sequencer is busy). Not in a transaction block or function. Errors: OB001 no such ring, 25001 in such a
        transaction, 55P03 a lock was not available within 5 s.
        """
        return self._run(Call("rotate", {"ring": ring}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def rotate_secret(self, name: str, *, secret: str | None = None, overlap: timedelta | None = None) -> RotateSecretRow:
        """Gives an endpoint a new secret, and returns it with the id of a control message; it is shown nowhere
        else. secret: null makes a new one. The old secret signs too until overlap has passed (default 24 h, 0
        to 30 days). Recorded in outbox.audit, without the secret. Errors: OB001 no such endpoint, 22023 secret
        or overlap is invalid.
        """
        return self._run(Call("rotate_secret", {"name": name, "secret": secret, "overlap": overlap}, Shape("row", RotateSecretRow, {})))  # type: ignore[no-any-return]

    def run_projection(self, name: str, *, max_events: int | None = None, version: int | None = None) -> int:
        """Applies the next page of events to an asynchronous projection and moves its cursor, both in the
        transaction of the caller, and returns how many events it applied; 0: it is up to date. max_events: 1 to
        10000 (1000). version null: the live one. Two callers do not apply the same page: one waits. If the
        handler fails for an event, the events before it are applied, the projection is faulted, and the call
        returns: commit it. An error that the next try may not meet (deadlock, serialization, lock, resources)
        is raised. Errors: OB015 the projection is faulted, OB001 no such projection, OB004 it is inline, paused
        or stopped, OB009 the feed has lost the position of the cursor, 42883 the handler is gone or has another
        owner, 22023 max_events is out of range, 25006 the transaction is read-only.
        """
        return self._run(Call("run_projection", {"name": name, "max_events": max_events, "version": version}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def saga_delete(self, saga_type: str, saga_id: str) -> bool:
        """Deletes a saga and the list of the events that it has handled. Returns false if there is no such
        saga. The deletion is recorded in outbox.audit. Errors: 25006 the transaction is read-only.
        """
        return self._run(Call("saga_delete", {"saga_type": saga_type, "saga_id": saga_id}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def saga_find(self, saga_type: str, correlation_id: str) -> list[SagaState]:
        """Returns the saga of a type that has this correlation id: the one that has not ended, or else the one
        that started last. No row: there is none.
        """
        return self._run(Call("saga_find", {"saga_type": saga_type, "correlation_id": correlation_id}, Shape("rows", SagaState, {"started_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "completed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def saga_handle(self, saga_type: str, saga_id: str, message_id: int) -> bool:
        """Locks a saga until the transaction ends, and remembers that it handles this event. true: the event is
        new to the saga; false: it was handled before, and nothing is to be done. Call it before saga_load(), in
        the transaction that handles the event. Errors: OB001 there is no such saga, 22004 message_id is null,
        22023 it is no id, 40001 at REPEATABLE READ when another transaction has changed the saga meanwhile,
        25006 the transaction is read-only.
        """
        return self._run(Call("saga_handle", {"saga_type": saga_type, "saga_id": saga_id, "message_id": message_id}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def saga_load(self, saga_type: str, saga_id: str) -> SagaState:
        """Returns a saga with its state and version. Errors: OB001 there is no such saga."""
        return self._run(Call("saga_load", {"saga_type": saga_type, "saga_id": saga_id}, Shape("row", SagaState, {"started_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "completed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def saga_save(self, saga_type: str, saga_id: str, state: Any, expected_version: int, *, status: Literal["started", "running", "completed", "failed", "compensating", "compensated", "compensation_failed"] | None = None, step: int | None = None, steps: Any | None = None, correlation_id: str | None = None, failure_reason: str | None = None) -> int:
        """Stores the state of a saga and returns its new version. expected_version: the version that
        saga_load() returned; 0: the saga starts. status: started, running, completed, failed, compensating,
        compensated or compensation_failed; null: as it is, and running after the first change. A saga that is
        completed or compensated does not change any more; one that has failed, or whose compensation has
        failed, can go to compensating. step: number of the current step, from 0. steps: array of objects with
        name and status (pending, running, completed, failed or compensated). A null step, steps, correlation_id
        or failure_reason leaves the value as it is. Errors: OB013 the saga is not at expected_version, OB001
        there is no such saga, OB004 the status does not allow the change, 42710 another saga of the type that
        has not ended has the correlation id, 22004 or 22023 a value is null or malformed, 54000 the state or
        the steps are above pg_outbox.max_payload, 25006 the transaction is read-only.
        """
        return self._run(Call("saga_save", {"saga_type": saga_type, "saga_id": saga_id, "state": state, "expected_version": expected_version, "status": status, "step": step, "steps": steps, "correlation_id": correlation_id, "failure_reason": failure_reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def save_snapshot(self, stream: str, version: int, *, state: Any | None = None, schema_version: int | None = None, body: bytes | None = None, content_type: str | None = None) -> bool:
        """Stores the state of a stream after the event of that version, in place of the snapshot of an earlier
        version. Returns false, and changes nothing, if a later one is stored. state: as JSON; or body: as
        bytes, with its content_type (application/octet-stream by default). schema_version: the form of the
        state (1); each has its own snapshot. Errors: OB001 the stream has no such version, 22004 or 22023 a
        value is null or malformed, 54000 the state or body is above pg_outbox.max_payload, 25006 the
        transaction is read-only.
        """
        return self._run(Call("save_snapshot", {"stream": stream, "version": version, "state": state, "schema_version": schema_version, "body": body, "content_type": content_type}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def save_subject_key(self, subject: str, key_id: str, wrapped_key: bytes, master_key: str) -> None:
        """Stores a data key of a subject, encrypted by a master key that the server does not have. key_id: the
        name by which encrypted data refers to the key. master_key: the name of the master key. The same key
        again changes nothing. Errors: OB004 the key was revoked, OB008 the id is that of another key, 22004 or
        22023 a value is null or malformed, 25006 the transaction is read-only.
        """
        self._run(Call("save_subject_key", {"subject": subject, "key_id": key_id, "wrapped_key": wrapped_key, "master_key": master_key}, Shape("void", None, {})))

    def send_test(self, endpoint: str, *, payload: Any | None = None) -> int:
        """Sends a test message (topic outbox.test, signed like any other) to an endpoint, once the transaction
        commits. Recorded in outbox.audit. Returns the id for manual_result(). Errors: OB001 no such endpoint,
        22004 payload is null.
        """
        return self._run(Call("send_test", {"endpoint": endpoint, "payload": payload}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def set_endpoint_proxy(self, endpoint: str, proxy: str) -> int:
        """Chooses one of the operator's proxies for an endpoint; null: the default proxy, if there is one.
        Returns the id of a control message. Errors: OB001 no such endpoint or proxy.
        """
        return self._run(Call("set_endpoint_proxy", {"endpoint": endpoint, "proxy": proxy}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def set_proxy(self, name: str, url: str, *, resolves_names: bool | None = None, is_default: bool | None = None) -> int:
        """Adds a proxy to the list, or changes it. url: http://[user:password@]host:port or socks5://...; null:
        no proxy. is_default: there is one default, so the former one loses this property. Returns the id of a
        control message. Only for the owner of the extension and superusers; it is in no capability. Errors:
        22004 name is null, 22023 name or url is malformed.
        """
        return self._run(Call("set_proxy", {"name": name, "url": url, "resolves_names": resolves_names, "is_default": is_default}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def skip_event(self, projection: str, position: int, reason: str, *, version: int | None = None) -> None:
        """Skips the event at which a projection is faulted, and goes on after it. The reason is stored in
        outbox.audit. position: failed_position of the view projections, so that nothing else is skipped.
        Errors: OB001 no such projection, OB004 it is not faulted at this position, OB006 the reason is empty,
        25006 the transaction is read-only.
        """
        self._run(Call("skip_event", {"projection": projection, "position": position, "reason": reason, "version": version}, Shape("void", None, {})))

    def skipped(self, *, topic: str | None = None, max_messages: int | None = None, before: int | None = None) -> list[SkippedRow]:
        """Messages that matched no subscription, newest first, with the reason: no subscription, filtered, or
        inactive (all subscriptions on the topic had ended). topic is a pattern (null: all). At most
        max_messages rows (default 100). before is exclusive; pass the last position of a page to get the next
        page.
        """
        return self._run(Call("skipped", {"topic": topic, "max_messages": max_messages, "before": before}, Shape("rows", SkippedRow, {"routed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def stats(self, *, tenant: str | None = None) -> StatsRow:
        """Returns the state of this database's outbox. messages: the last message id; feed_end and routed:
        positions; waiting: deliveries that have not ended; dead_letters: open ones. worker: not preloaded,
        none, starting, running, push off, copied or failing. From pending on: the number of deliveries in each
        state (of a tenant; null: of all); skipped: messages that matched nothing.
        """
        return self._run(Call("stats", {"tenant": tenant}, Shape("row", StatsRow, {})))  # type: ignore[no-any-return]

    def stream_info(self, stream: str) -> StreamInfoRow:
        """Returns what is known of a stream: its category, last version, number of stored events, when the
        first and the last of them were appended, since when it is closed (null: it is open), and the version
        before which it was truncated (1: it was not). Errors: OB001 there is no such stream, 22004 stream is
        null, 22023 it is malformed.
        """
        return self._run(Call("stream_info", {"stream": stream}, Shape("row", StreamInfoRow, {"created_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "closed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def stream_key(self, stream: str) -> str:
        """Returns the id of a stream within its category: the part of its name after the first "-". Null if
        there is none.
        """
        return self._run(Call("stream_key", {"stream": stream}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def stream_version(self, stream: str) -> int:
        """Returns the last version of a stream; 0: there is no such stream. It is the version as it is now,
        whatever the transaction's snapshot shows. Errors: 22004 stream is null, 22023 it is malformed.
        """
        return self._run(Call("stream_version", {"stream": stream}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def streams(self, *, category: str | None = None, after: str | None = None, max_streams: int | None = None) -> list[StreamsRow]:
        """Returns streams with their last versions, in the order of the bytes of their names: up to max_streams
        (default 100; 1 to 10000) after a name (exclusive; empty, the default: from the first one), of a
        category or of all (null, the default). Streams whose events were all removed by truncate_stream() are
        not listed. Errors: 22023 max_streams is out of range or category is malformed, 22004 after is null.
        """
        return self._run(Call("streams", {"category": category, "after": after, "max_streams": max_streams}, Shape("rows", StreamsRow, {})))  # type: ignore[no-any-return]

    def subject_keys(self, subject: str) -> list[SubjectKey]:
        """Returns all data keys of a subject, the revoked ones too, in the order in which they were made.
        Errors: 22004 or 22023 the subject is null or malformed.
        """
        return self._run(Call("subject_keys", {"subject": subject}, Shape("rows", SubjectKey, {"wrapped_key": "bytea", "created_at": "timestamp with time zone", "rewrapped_at": "timestamp with time zone", "revoked_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def subscribe(self, name: str, topics: Sequence[str], *, endpoint: str | None = None, filter: Any | None = None, max_attempts: int | None = None, max_age: timedelta | None = None, schedule: Any | None = None, policy: Any | None = None, format: Literal["raw", "envelope", "cloudevents", "cloudevents_structured", "pubsub"] | None = None, batch_size: int | None = None, batch_wait: timedelta | None = None, ordering: Literal["none", "key", "strict"] | None = None, on_exhausted: Literal["skip", "block"] | None = None, ttl: timedelta | None = None, deadline: timedelta | None = None, notify: bool | None = None, max_lag: timedelta | None = None, external_id: str | None = None, labels: Any | None = None, start: str | None = None, url: str | None = None, source: str | None = None, transform: str | None = None) -> int:
        """Creates a subscription: the messages of these topics (patterns; * is one word, # any number of words)
        are sent to an endpoint, or claimed by workers if there is neither endpoint nor url. url: creates an
        endpoint with the subscription's name. filter: further conditions on a message. The other settings are
        described at the columns of outbox.subscription; max_attempts null or below 1 means 12. start: latest
        (the default: messages after the control message whose id is returned), earliest, a position (the first
        to be delivered) or a time. source: messages (the default), events (of streams), or all; it stays until
        unsubscribe(). transform: the signature of a function (message outbox.feed_message) returns jsonb,
        immutable or stable, such as "app.public_part(outbox.feed_message)": its result is sent instead of the
        payload, and null skips the delivery. The function runs as its owner. A name that was unsubscribed is
        taken up again, with its old id. Returns the id of the control message. Errors: OB001 no such endpoint,
        OB009 the start position is not stored or does not exist yet, 42710 the subscription exists already,
        42883 no such function, 42501 the caller does not have the rights of its owner, 22004 topics is null or
        empty, 22023 a setting is malformed or out of range, 54000 a text is too long.
        """
        return self._run(Call("subscribe", {"name": name, "topics": topics, "endpoint": endpoint, "filter": filter, "max_attempts": max_attempts, "max_age": max_age, "schedule": schedule, "policy": policy, "format": format, "batch_size": batch_size, "batch_wait": batch_wait, "ordering": ordering, "on_exhausted": on_exhausted, "ttl": ttl, "deadline": deadline, "notify": notify, "max_lag": max_lag, "external_id": external_id, "labels": labels, "start": start, "url": url, "source": source, "transform": transform}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def switch_projection(self, name: str) -> int:
        """Makes the version that is being rebuilt the live one, stops the old one, and returns the new version.
        Swap the view over the tables in the same transaction. The new version is first brought to where the old
        one is, if that is at most ten pages. Errors: OB012 the rebuild has not come far enough, OB001 no such
        projection, OB004 it is not being rebuilt, 25006 the transaction is read-only.
        """
        return self._run(Call("switch_projection", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def tail(self) -> int:
        """Returns the first position whose message is still stored, or head() + 1 when none is. read() starts
        there when after_position is 0.
        """
        return self._run(Call("tail", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def tick(self) -> int:
        """Gives positions to the messages that are committed now (at most 100000 of them), and returns the last
        position. The dispatcher does this by itself; call the function where there is no dispatcher. Not in a
        transaction block or function. Errors: 25001 in such a transaction, 25006 the transaction is read-only,
        55000 the outbox was restored or copied here and is not adopted, 55P03 another session keeps the
        sequencer for 5 s.
        """
        return self._run(Call("tick", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def truncate_stream(self, stream: str, before_version: int, *, reason: str | None = None) -> int:
        """Removes the events of a stream before a version, for good, and returns how many. Their positions stay
        empty, their waiting deliveries are cancelled, and the stream's versions go on. reason is stored in
        outbox.audit. Errors: OB001 there is no such stream, OB003 a worker has one of the events, OB006 the
        reason is empty, 22023 before_version is not between 1 and the version after the last one, 55P03 another
        transaction keeps the stream for 5 s.
        """
        return self._run(Call("truncate_stream", {"stream": stream, "before_version": before_version, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def uncapture(self, relation: str) -> bool:
        """Drops the capture of a table, which the caller must own. Returns false if there was none. Errors:
        42501 the caller is not the owner, or the call is within a security-restricted operation.
        """
        return self._run(Call("uncapture", {"relation": relation}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def unlock_stale(self, older_than: timedelta, *, subscription: str | None = None) -> int:
        """Takes back every lease that was claimed at least older_than ago, even if the lease has not expired;
        subscription null: of all subscriptions. Leases that another session has locked are skipped. The attempt
        counts as failed, and the deliveries are due again at once, or dead letters after their last attempt.
        Returns the number of deliveries. Errors: 22023 older_than is null or negative, OB001 no such
        subscription.
        """
        return self._run(Call("unlock_stale", {"older_than": older_than, "subscription": subscription}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def unsubscribe(self, name: str) -> int:
        """Ends a subscription at the position of the control message whose id is returned. Messages that were
        not delivered by then are logged as skipped, with the reason unsubscribed. The row stays in
        outbox.subscription with deleted_at set. Errors: OB001 no such subscription.
        """
        return self._run(Call("unsubscribe", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def upcast(self, type: str, data: Any, *, from_version: int | None = None, to_version: int | None = None) -> Any:
        """Returns the data of an event type as that of a later version. from_version: the version of the data
        (1). to_version null: as far as the upcasters go; data of a type without upcasters is returned as it is.
        Errors: 22023 to_version is before from_version, OB004 a version has no upcaster, 42883 an upcaster is
        gone or has another owner, 22004 an upcaster returned null, and those that an upcaster raises.
        """
        return self._run(Call("upcast", {"type": type, "data": data, "from_version": from_version, "to_version": to_version}, Shape("value", None, {})))

    def validate_event(self, type: str, data: Any, *, version: int | None = None) -> None:
        """Checks data against the schema of an event type. version null: the latest one. Errors: 22023 the data
        is not valid; the detail names the places that are wrong, at most five, and shows no value; OB001 there
        is no such schema.
        """
        self._run(Call("validate_event", {"type": type, "data": data, "version": version}, Shape("void", None, {})))

    def version(self) -> VersionRow:
        """Returns the version of the installed objects (extension), and that of the library that is loaded."""
        return self._run(Call("version", {}, Shape("row", VersionRow, {})))  # type: ignore[no-any-return]

    def webhook_id(self, message_id: int, enqueued_at: datetime) -> str:
        """Returns the webhook id of a message, by which receivers deduplicate. It is the same for every
        attempt, restart, retry and replay (unless the replay asked for new ids).
        """
        return self._run(Call("webhook_id", {"message_id": message_id, "enqueued_at": enqueued_at}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def worker_status(self) -> list[WorkerStatusRow]:
        """Returns the state of this database's dispatcher, how far it is, and its last error. state: not
        preloaded, none (there is no such process), starting, running, push off, copied or failing. in_flight:
        requests; queued and unrecorded: deliveries. idle: everything that was committed has been routed, sent
        and recorded. feed_end and routed: positions.
        """
        return self._run(Call("worker_status", {}, Shape("rows", WorkerStatusRow, {"started_at": "timestamp with time zone", "last_tick_at": "timestamp with time zone", "last_checkpoint_at": "timestamp with time zone", "last_error_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def audit(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[AuditEntry]:
        """Rows of outbox.audit whose columns equal those of filter."""
        return self._run(Call("audit", dict(filter or {}), Shape("rows", AuditEntry, {"at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    def dead_letter_rows(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[DeadLetterEntry]:
        """Rows of outbox.dead_letter whose columns equal those of filter."""
        return self._run(Call("dead_letter", dict(filter or {}), Shape("rows", DeadLetterEntry, {"first_attempt_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone", "created_at": "timestamp with time zone", "dead_at": "timestamp with time zone", "resolved_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    def dead_letter_status(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[DeadLetterStatusEntry]:
        """Rows of outbox.dead_letter_status whose columns equal those of filter."""
        return self._run(Call("dead_letter_status", dict(filter or {}), Shape("rows", DeadLetterStatusEntry, {"body": "bytea", "enqueued_at": "timestamp with time zone", "first_attempt_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone", "created_at": "timestamp with time zone", "dead_at": "timestamp with time zone", "age": "interval", "resolved_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    def delivery_status(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[DeliveryStatusEntry]:
        """Rows of outbox.delivery_status whose columns equal those of filter."""
        return self._run(Call("delivery_status", dict(filter or {}), Shape("rows", DeliveryStatusEntry, {"locked_at": "timestamp with time zone", "lease_expires_at": "timestamp with time zone", "next_attempt_at": "timestamp with time zone", "retry_in": "interval", "expires_at": "timestamp with time zone", "expires_in": "interval", "age": "interval", "created_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "processed_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone", "completed_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    def endpoints(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[EndpointEntry]:
        """Rows of outbox.endpoint whose columns equal those of filter."""
        return self._run(Call("endpoint", dict(filter or {}), Shape("rows", EndpointEntry, {"timeout": "interval", "disable_after": "interval", "disabled_at": "timestamp with time zone", "created_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "deleted_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    def lease_status(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[LeaseStatusEntry]:
        """Rows of outbox.lease_status whose columns equal those of filter."""
        return self._run(Call("lease_status", dict(filter or {}), Shape("rows", LeaseStatusEntry, {"claimed_at": "timestamp with time zone", "age": "interval", "expires_at": "timestamp with time zone", "expires_in": "interval", "deadline_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    def publishers(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[PublisherEntry]:
        """Rows of outbox.publisher whose columns equal those of filter."""
        return self._run(Call("publisher", dict(filter or {}), Shape("rows", PublisherEntry, {"created_at": "timestamp with time zone", "updated_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    def subscriptions(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[SubscriptionEntry]:
        """Rows of outbox.subscription whose columns equal those of filter."""
        return self._run(Call("subscription", dict(filter or {}), Shape("rows", SubscriptionEntry, {"max_age": "interval", "batch_wait": "interval", "ttl": "interval", "deadline": "interval", "max_lag": "interval", "created_at": "timestamp with time zone", "deleted_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    def subscription_status(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[SubscriptionStatusEntry]:
        """Rows of outbox.subscription_status whose columns equal those of filter."""
        return self._run(Call("subscription_status", dict(filter or {}), Shape("rows", SubscriptionStatusEntry, {"created_at": "timestamp with time zone", "lag_age": "interval", "oldest_due_at": "timestamp with time zone", "oldest_due_age": "interval", "last_claim_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    def topics(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[TopicEntry]:
        """Rows of outbox.topic whose columns equal those of filter."""
        return self._run(Call("topic", dict(filter or {}), Shape("rows", TopicEntry, {"created_at": "timestamp with time zone", "updated_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]


class AsyncAdminMethods:
    """The same, to be awaited."""

    async def _arun(self, call: Call) -> Any:
        raise NotImplementedError

    async def adopt(self, *, reason: str | None = None) -> int:
        """Makes data that was restored or copied here this database's own. Gives positions, in a new epoch, to
        the messages that have none, and lets the dispatcher push. Returns the last position. If the outbox is
        this database's own already, nothing is changed. reason (default null) is stored in outbox.audit. Not in
        a transaction block or function. Errors: 25001 in such a transaction or not at isolation level read
        committed, 55000 a subscription of logical replication writes this outbox, 55P03 another session keeps
        the sequencer for 5 s, or a leaf's lock was not available within 30 s.
        """
        return await self._arun(Call("adopt", {"reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def alter_endpoint(self, name: str, *, url: str | None = None, headers: Any | None = None, timeout: timedelta | None = None, concurrency: int | None = None, tenant: str | None = None, auth: Any | None = None, tls: Any | None = None, rate: float | None = None, burst: float | None = None, schedule: Any | None = None, policy: Any | None = None, breaker: Any | None = None, protocol: Literal["auto", "http1", "http2"] | None = None, compress: bool | None = None, response_id: str | None = None, keep_headers: Sequence[str] | None = None, disable_after: timedelta | None = None, disable_failures: int | None = None, new_name: str | None = None, subscriber_type: Literal["client", "service"] | None = None) -> int:
        """Changes the settings of an endpoint; null leaves a setting as it is. JSON null (auth, tls, schedule,
        policy, breaker), 0 (rate, burst) and an empty text (tenant, response_id) remove a setting. A new URL
        needs a new consent if the endpoint asks for consent. Returns the id of a control message. Errors: OB001
        no such endpoint, 42710 new_name exists already, 22023 a setting is malformed or out of range.
        """
        return await self._arun(Call("alter_endpoint", {"name": name, "url": url, "headers": headers, "timeout": timeout, "concurrency": concurrency, "tenant": tenant, "auth": auth, "tls": tls, "rate": rate, "burst": burst, "schedule": schedule, "policy": policy, "breaker": breaker, "protocol": protocol, "compress": compress, "response_id": response_id, "keep_headers": keep_headers, "disable_after": disable_after, "disable_failures": disable_failures, "new_name": new_name, "subscriber_type": subscriber_type}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def alter_projection(self, name: str, handler: str, *, version: int | None = None) -> None:
        """Gives a projection another handler; events that were applied are not applied again. version null: the
        live one. Errors: OB001 no such projection, 42883 no such function, 42501 the caller does not have the
        rights of the function's owner, 22004 or 22023 a value is null or malformed, 25006 the transaction is
        read-only.
        """
        await self._arun(Call("alter_projection", {"name": name, "handler": handler, "version": version}, Shape("void", None, {})))

    async def alter_publisher(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None, topic_template: str | None = None, topic_function: str | None = None) -> None:
        """Changes a registered publisher; null leaves a value as it is, and an empty topic_template or
        topic_function removes it. From the commit on, messages of an inactive publisher are refused (OB007).
        Errors: OB001 the publisher is not registered, 22023 a value is malformed, 42883 no such function, 42501
        the caller does not have the rights of the function's owner.
        """
        await self._arun(Call("alter_publisher", {"code": code, "name": name, "description": description, "active": active, "topic_template": topic_template, "topic_function": topic_function}, Shape("void", None, {})))

    async def alter_subscription(self, name: str, *, topics: Sequence[str] | None = None, filter: Any | None = None, endpoint: str | None = None, max_attempts: int | None = None, max_age: timedelta | None = None, schedule: Any | None = None, policy: Any | None = None, format: Literal["raw", "envelope", "cloudevents", "cloudevents_structured", "pubsub"] | None = None, batch_size: int | None = None, batch_wait: timedelta | None = None, ordering: Literal["none", "key", "strict"] | None = None, on_exhausted: Literal["skip", "block"] | None = None, ttl: timedelta | None = None, deadline: timedelta | None = None, notify: bool | None = None, max_lag: timedelta | None = None, external_id: str | None = None, labels: Any | None = None, reset: Sequence[str] | None = None, transform: str | None = None) -> int:
        """Changes the settings of a subscription; null leaves a setting as it is. reset: names of settings that
        go back to their default (filter, max_attempts, max_age, schedule, policy, ttl, deadline, max_lag,
        external_id, labels, transform). Topics and filter hold for the positions after the control message
        whose id is returned; a transform holds for the messages that are routed from then on. Errors: OB001 no
        such subscription or endpoint, OB004 endpoint for a subscription that is pulled by workers, 42883 no
        such function, 42501 the caller does not have the rights of its owner, 22023 a setting is malformed or
        out of range, 54000 a text is too long.
        """
        return await self._arun(Call("alter_subscription", {"name": name, "topics": topics, "filter": filter, "endpoint": endpoint, "max_attempts": max_attempts, "max_age": max_age, "schedule": schedule, "policy": policy, "format": format, "batch_size": batch_size, "batch_wait": batch_wait, "ordering": ordering, "on_exhausted": on_exhausted, "ttl": ttl, "deadline": deadline, "notify": notify, "max_lag": max_lag, "external_id": external_id, "labels": labels, "reset": reset, "transform": transform}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def alter_topic(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None) -> None:
        """Changes a registered topic; null leaves a value as it is. From the commit on, messages of an inactive
        topic are refused (OB007). Errors: OB001 the topic is not registered, 22023 the name is malformed.
        """
        await self._arun(Call("alter_topic", {"code": code, "name": name, "description": description, "active": active}, Shape("void", None, {})))

    async def append(self, stream: str, type: str, data: Any, *, expected_version: int | None = None, event_id: str | None = None, metadata: Any | None = None, headers: Any | None = None, tenant: str | None = None, publisher: str | None = None, occurred_at: datetime | None = None) -> int:
        """Appends an event to a stream in the current transaction and returns its version: 1, 2, ... without a
        gap. stream: category-id, at most 255 bytes. type: has the form of a topic. data: at most
        pg_outbox.max_payload (256 kB by default). expected_version: -1 any (the default), 0 the stream does not
        exist, -2 it exists, n its last version is n. With n or 0 and an event_id, the same call again is a
        success and writes nothing. The stream is locked until the transaction ends; a transaction that appends
        to more than 64 streams guards the others by the unique index alone. Errors: OB013 the stream is not at
        the expected version (the detail is JSON: stream, expected, actual), OB014 the stream is closed, OB008
        the event id is that of another event, 22004 stream, type, data or expected_version is null, 22023 a
        value is malformed, 54000 a value is too large, and the errors of enqueue().
        """
        return await self._arun(Call("append", {"stream": stream, "type": type, "data": data, "expected_version": expected_version, "event_id": event_id, "metadata": metadata, "headers": headers, "tenant": tenant, "publisher": publisher, "occurred_at": occurred_at}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def append_bytes(self, stream: str, types: Sequence[str], bodies: Sequence[bytes], *, content_type: str | None = None, expected_version: int | None = None, event_ids: Sequence[str] | None = None, metadata: Sequence[Any] | None = None, headers: Any | None = None, tenant: str | None = None, publisher: str | None = None, occurred_at: datetime | None = None) -> Appended:
        """Like append_many(), for bodies of bytes or text, which are stored and delivered unchanged.
        content_type: their media type (default application/octet-stream). Errors are those of append_many().
        """
        return await self._arun(Call("append_bytes", {"stream": stream, "types": types, "bodies": bodies, "content_type": content_type, "expected_version": expected_version, "event_ids": event_ids, "metadata": metadata, "headers": headers, "tenant": tenant, "publisher": publisher, "occurred_at": occurred_at}, Shape("row", Appended, {})))  # type: ignore[no-any-return]

    async def append_many(self, stream: str, types: Sequence[str], data: Sequence[Any], *, expected_version: int | None = None, event_ids: Sequence[str] | None = None, metadata: Sequence[Any] | None = None, headers: Any | None = None, tenant: str | None = None, publisher: str | None = None, occurred_at: datetime | None = None) -> Appended:
        """Appends 1 to 10000 events to a stream, all or none. types, data and, if they are given, event_ids and
        metadata have one entry per event; headers, tenant, publisher and occurred_at hold for all. Errors are
        those of append(), and 22023 there are no events or the arrays have different lengths.
        """
        return await self._arun(Call("append_many", {"stream": stream, "types": types, "data": data, "expected_version": expected_version, "event_ids": event_ids, "metadata": metadata, "headers": headers, "tenant": tenant, "publisher": publisher, "occurred_at": occurred_at}, Shape("row", Appended, {})))  # type: ignore[no-any-return]

    async def archive_get(self, message_id: int) -> ArchiveEntry:
        """Returns the final status of a message, with the result of each delivery. Errors: OB001 no such
        message, or a delivery of it is still open.
        """
        return await self._arun(Call("archive_get", {"message_id": message_id}, Shape("row", ArchiveEntry, {"created_at": "timestamp with time zone", "processed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def archive_list(self, *, tenant: str | None = None, status: Literal["completed", "failed", "skipped"] | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, endpoint: str | None = None, max_rows: int | None = None, before: int | None = None) -> list[ArchiveEntry]:
        """Returns entries of the archive, newest first, up to max_rows (default 50; 1 to 1000) in a page. Pass
        the last id of a page as before to get the next one. status: completed, failed or skipped. A page looks
        at up to 1,000 messages of the tenant or aggregate (or of all), and with endpoint at up to 10,000. If it
        ends there, its last row has no status, and only the id to continue with. Errors: 22023 max_rows is out
        of range or status is unknown, OB001 no such endpoint.
        """
        return await self._arun(Call("archive_list", {"tenant": tenant, "status": status, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "endpoint": endpoint, "max_rows": max_rows, "before": before}, Shape("rows", ArchiveEntry, {"created_at": "timestamp with time zone", "processed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def archive_stats(self, *, tenant: str | None = None) -> ArchiveStatsRow:
        """Returns how many of the last 1,000 messages (of a tenant; null: of all) have completed, failed (dead,
        expired or cancelled) or were skipped. total: the sum.
        """
        return await self._arun(Call("archive_stats", {"tenant": tenant}, Shape("row", ArchiveStatsRow, {})))  # type: ignore[no-any-return]

    async def cancel(self, message_id: int, *, actor: str | None = None, reason: str | None = None) -> int:
        """Cancels a message: ends its deliveries that are still waiting, and returns how many were ended. A
        delivery that a worker has or that is in flight is not tried again if it fails. actor (default:
        session_user) and reason are stored in outbox.audit. Errors: OB001 no such message, OB002 it was
        cancelled already or nothing is left to cancel, OB003 all remaining deliveries are leased.
        """
        return await self._arun(Call("cancel", {"message_id": message_id, "actor": actor, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def cancel_replay(self, replay_id: int) -> int:
        """Cancels a replay, and returns the number of waiting deliveries that were cancelled. Deliveries that
        are leased or in flight end by themselves. Recorded in outbox.audit. Errors: OB001 no such replay, OB004
        it has ended.
        """
        return await self._arun(Call("cancel_replay", {"replay_id": replay_id}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def capture(self, relation: str, *, topic: str | None = None, key_columns: Sequence[str] | None = None, operations: Sequence[Literal["insert", "update", "delete", "truncate"]] | None = None, columns: Sequence[str] | None = None, condition: str | None = None, include_old: bool | None = None, style: Literal["change", "row", "debezium"] | None = None, tenant_column: str | None = None, replicated: bool | None = None, oversize: Literal["fail", "skip", "reference"] | None = None) -> None:
        """Turns changes of a table's rows into messages, in the transaction that makes the changes. The caller
        must own the table, and the owner needs the capability publish. A second call replaces the capture; call
        again after partitions were added. topic: may contain {schema}, {table} and {op}. key_columns: columns
        of the message's key (null: the primary key). operations: of insert, update, delete and truncate.
        columns: only these in the images (null: all). condition: an SQL expression over new and old.
        include_old: updates contain the old image too. style: change, row or debezium. tenant_column: column
        with the tenant. replicated: also capture changes that logical replication applies. oversize, for a
        payload that is too large: fail (the statement fails), skip (no message, with a warning) or reference
        (the key without images). Errors: 42501 the caller is not the owner, the owner may not enqueue, or the
        call is within a security-restricted operation; 42809 the relation cannot be captured; 42703 no such
        column; 22023 another argument is malformed; 55000 the table's schema was renamed meanwhile.
        """
        await self._arun(Call("capture", {"relation": relation, "topic": topic, "key_columns": key_columns, "operations": operations, "columns": columns, "condition": condition, "include_old": include_old, "style": style, "tenant_column": tenant_column, "replicated": replicated, "oversize": oversize}, Shape("void", None, {})))

    async def cardinal_id(self, stream: str) -> str:
        """Returns the first part of a compound stream id, which is the id before the first "+". Members of a
        consumer group share a category by it. Null if the stream has no id.
        """
        return await self._arun(Call("cardinal_id", {"stream": stream}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def category(self, stream: str) -> str:
        """Returns the category of a stream: the part of its name before the first "-". Null for null."""
        return await self._arun(Call("category", {"stream": stream}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def claim(self, subscription: str, worker: str, *, max_messages: int | None = None, lease: timedelta | None = None) -> list[Claimed]:
        """Leases up to max_messages (default 1; 1 to 10000) due deliveries of a pull subscription to a worker
        (a name of 1 to 255 bytes). The lease lasts for the duration lease (default 60 s, at most 7 days), and
        no longer than the subscription's deadline. The order is: highest priority, then longest due, then
        position. Returns one row of type outbox.claimed for each delivery, and no rows when nothing is due or
        the subscription is paused. No other worker gets these deliveries until the lease ends. Commit before
        the work starts: the commit makes the attempt count. Errors: OB001 no such subscription, OB004 it is
        pushed to an endpoint, 22023 an argument is out of range.
        """
        return await self._arun(Call("claim", {"subscription": subscription, "worker": worker, "max_messages": max_messages, "lease": lease}, Shape("rows", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def claim_delivery(self, delivery_id: int, worker: str, *, lease: timedelta | None = None) -> Claimed:
        """Leases one delivery to a worker, like claim(), and returns one row of type outbox.claimed. Raises an
        error when the delivery cannot be claimed: OB001 no such delivery, OB002 it has ended, OB003 it is
        leased, OB004 it is pushed to an endpoint, OB007 the subscription has ended or is paused, OB010 it has
        expired, OB011 no attempts left, OB012 it is not due, or it waits for another delivery of its key. Other
        errors: 22004 delivery_id is null, 22023 worker or lease is out of range.
        """
        return await self._arun(Call("claim_delivery", {"delivery_id": delivery_id, "worker": worker, "lease": lease}, Shape("row", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def close_stream(self, stream: str, *, reason: str | None = None) -> int:
        """Closes a stream for ever: append() refuses it from now on. Its events stay. Returns its last version.
        reason is stored in outbox.audit. Waits for the transactions that are appending to the stream. Errors:
        OB001 there is no such stream, OB004 it is closed already, OB006 the reason is empty, 55P03 another
        transaction keeps the stream for 5 s.
        """
        return await self._arun(Call("close_stream", {"stream": stream, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def command_begin(self, key: str, command_type: str, *, ttl: timedelta | None = None, content: Any | None = None) -> Any:
        """Begins a command of the application, in the transaction that processes it. null: the command is new;
        process it, and then call command_end(). Otherwise the command was processed before, and the result is
        an object with key, command_type, success, result, error, processed_at and expires_at. A transaction
        that is processing the same key is waited for; if it rolls back, the key is new again. ttl: how long the
        key is remembered (24 hours); null: until command_forget(). content: what the command was called with;
        only its hash is stored, and the key with other content is refused. Errors: OB004 the command has begun
        in this transaction, OB008 the key was used for another command, 22004 or 22023 a value is null or
        malformed, 40001 at REPEATABLE READ when another transaction has processed the command meanwhile, 25006
        the transaction is read-only.
        """
        return await self._arun(Call("command_begin", {"key": key, "command_type": command_type, "ttl": ttl, "content": content}, Shape("value", None, {})))

    async def command_end(self, key: str, *, result: Any | None = None, error: Any | None = None) -> None:
        """Stores the result of a command that has begun in this transaction, so that later calls of
        command_begin() return it. error: the command failed, and that is final; roll back its effects to a
        savepoint first. A failed command that may be tried again rolls back the whole transaction instead. A
        transaction that commits without this call has processed the command, with no result. Errors: OB004 the
        command has not begun in this transaction, 54000 the result or error is above pg_outbox.max_payload.
        """
        await self._arun(Call("command_end", {"key": key, "result": result, "error": error}, Shape("void", None, {})))

    async def command_forget(self, key: str) -> bool:
        """Forgets a command, so that its key is new again. Returns false if the key is not known."""
        return await self._arun(Call("command_forget", {"key": key}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def compare_schemas(self, type: str, old_version: int, new_version: int) -> CompareSchemasRow:
        """Returns how compatible two versions of the schema of an event type are: full, backward (the new one
        reads the data of the old one), forward (the old one reads the data of the new one) or breaking, and the
        reasons why it is not full. An unproved direction counts as incompatible. Errors: OB001 there is no such
        version.
        """
        return await self._arun(Call("compare_schemas", {"type": type, "old_version": old_version, "new_version": new_version}, Shape("row", CompareSchemasRow, {})))  # type: ignore[no-any-return]

    async def complete(self, lease: int, *, delivery_ids: Sequence[int] | None = None, results: Any | None = None) -> list[int]:
        """Ends deliveries of a lease (delivery_ids null: all that it holds) as completed. Returns their ids, in
        the order of positions. An id that is missing had ended or was lost to another lease; the array is empty
        when the lease is lost. results: a JSON array with one element per element of delivery_ids, which the
        attempt log stores. An element is null, the receiver's id as a string, or an object {total, matched,
        succeeded, failed, send_results}. Errors: 22004 lease is null, 22023 results does not have one element
        per delivery id.
        """
        return await self._arun(Call("complete", {"lease": lease, "delivery_ids": delivery_ids, "results": results}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def complete_and_claim(self, done: int, subscription: str, worker: str, *, max_messages: int | None = None, lease: timedelta | None = None) -> list[Claimed]:
        """Completes all deliveries that the lease done still holds (null: completes nothing), and claims the
        next deliveries like claim(), in one transaction: both take effect, or neither. Defaults and ranges are
        those of claim(). When no rows are returned, call it once more with done null before waiting, because
        the deliveries that were completed may have held others back. Errors: OB003 the lease is lost (nothing
        was completed or claimed), and those of claim().
        """
        return await self._arun(Call("complete_and_claim", {"done": done, "subscription": subscription, "worker": worker, "max_messages": max_messages, "lease": lease}, Shape("rows", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def count_by_state(self, *, tenant: str | None = None) -> list[CountByStateRow]:
        """Returns the number of deliveries in each state. For all tenants (null), completed and cancelled are
        counted since the beginning, from counters. For one tenant they are counted among the messages that are
        still stored, which takes longer the more messages that tenant has.
        """
        return await self._arun(Call("count_by_state", {"tenant": tenant}, Shape("rows", CountByStateRow, {})))  # type: ignore[no-any-return]

    async def count_messages(self, *, tenant: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, topic: str | None = None) -> int:
        """Returns the number of messages (of a tenant, an aggregate, a topic; null: of all). 10,000 means at
        least 10,000.
        """
        return await self._arun(Call("count_messages", {"tenant": tenant, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "topic": topic}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def create_endpoint(self, name: str, url: str, *, secret: str | None = None, headers: Any | None = None, timeout: timedelta | None = None, concurrency: int | None = None, tenant: str | None = None, kind: Literal["webhook"] | None = None, auth: Any | None = None, tls: Any | None = None, signature: Literal["v1", "v1a"] | None = None, rate: float | None = None, burst: float | None = None, schedule: Any | None = None, policy: Any | None = None, breaker: Any | None = None, protocol: Literal["auto", "http1", "http2"] | None = None, compress: bool | None = None, response_id: str | None = None, keep_headers: Sequence[str] | None = None, disable_after: timedelta | None = None, disable_failures: int | None = None, consent: bool | None = None, subscriber_type: Literal["client", "service"] | None = None) -> CreateEndpointRow:
        """Creates an endpoint (an HTTP destination) and returns its id, its signing secret, and the id of a
        control message. The signing secret is shown nowhere else. secret: null makes a new one. signature: v1
        (HMAC-SHA256, the default) or v1a (ed25519). timeout: above 0, at most 60 s (default 15 s). concurrency:
        1 to 1024 requests in flight (default 8). rate: requests per second (null: no limit). headers: a JSON
        object without credentials. auth: {"type": "basic", "bearer", "header" or "oauth2", ...}. tls: {"ca",
        "certificate", "key"} as PEM texts. schedule: waits between attempts, such as [5, 30, "2 min"] or
        {"base": 5, "factor": 2, "cap": "1 h", "jitter": 0.2}. policy: such as {"404": "retry", "4xx": "dead"}.
        consent: true holds deliveries until the receiver agrees. The other settings are described at the
        columns of outbox.endpoint. Errors: 42710 the endpoint exists already, 22004 name or url is null, 22023
        a setting is malformed or out of range.
        """
        return await self._arun(Call("create_endpoint", {"name": name, "url": url, "secret": secret, "headers": headers, "timeout": timeout, "concurrency": concurrency, "tenant": tenant, "kind": kind, "auth": auth, "tls": tls, "signature": signature, "rate": rate, "burst": burst, "schedule": schedule, "policy": policy, "breaker": breaker, "protocol": protocol, "compress": compress, "response_id": response_id, "keep_headers": keep_headers, "disable_after": disable_after, "disable_failures": disable_failures, "consent": consent, "subscriber_type": subscriber_type}, Shape("row", CreateEndpointRow, {})))  # type: ignore[no-any-return]

    async def create_projection(self, name: str, handler: str, *, kind: Literal["inline", "async"] | None = None, categories: Sequence[str] | None = None, types: Sequence[str] | None = None) -> None:
        """Creates a projection. handler: the signature of a function (events outbox.event[]) returns void, such
        as "app.count_orders(outbox.event[])"; it runs as its owner, with a pinned search_path, and can neither
        create temporary tables nor change the role. kind async: from the first event on, whenever
        run_projection() is called; inline: from the next append on, in the transaction that appends.
        categories, types (patterns): only these events; null: all. Errors: 42710 the name is taken, 42883 no
        such function, 42501 the caller does not have the rights of the function's owner, 22004 or 22023 a value
        is null or malformed, 55P03 a transaction appends for longer than 5 s, 25006 the transaction is
        read-only.
        """
        await self._arun(Call("create_projection", {"name": name, "handler": handler, "kind": kind, "categories": categories, "types": types}, Shape("void", None, {})))

    async def create_publisher(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None, topic_template: str | None = None, topic_function: str | None = None) -> None:
        """Registers a publisher. code has no "@" and stands for all publishers "code@version". name: default
        code. topic_template (such as "{tenant}.{topic}") or topic_function (the signature of a function (tenant
        text, topic text) returns text) determines the topic of its messages. Errors: 22004 code is null, 22023
        a value is malformed, 42710 the publisher is registered already, 42883 no such function, 42501 the
        caller does not have the rights of the function's owner.
        """
        await self._arun(Call("create_publisher", {"code": code, "name": name, "description": description, "active": active, "topic_template": topic_template, "topic_function": topic_function}, Shape("void", None, {})))

    async def create_topic(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None) -> None:
        """Registers a topic. Registration is needed only to describe a topic, to switch it off, or with
        pg_outbox.require_topic. name: default code. Errors: 22004 code is null, 22023 a value is malformed,
        42710 the topic is registered already.
        """
        await self._arun(Call("create_topic", {"code": code, "name": name, "description": description, "active": active}, Shape("void", None, {})))

    async def create_upcaster(self, type: str, from_version: int, function: str) -> None:
        """Registers a function (data jsonb) returns jsonb that turns data of an event type from a version into
        data of the next version, or replaces the one there is. It must not be volatile, runs as its owner and
        with a pinned search_path. function: its signature, such as "app.order_placed_2(jsonb)". Errors: OB004
        the chain of versions would have a gap, 42883 no such function, 42501 the caller does not have the
        rights of the function's owner, 22004 or 22023 a value is null or malformed, 25006 the transaction is
        read-only.
        """
        await self._arun(Call("create_upcaster", {"type": type, "from_version": from_version, "function": function}, Shape("void", None, {})))

    async def cursor_advance(self, consumer: str, position: int, *, stream: str | None = None, subject: str | None = None, delivery_id: str | None = None, delivered_at: datetime | None = None, expected_position: int | None = None, epoch: int | None = None) -> CursorState:
        """Confirms that a consumer has read everything up to a position, and creates the cursor if there is
        none. At the position where the cursor stands already, nothing changes, and advanced is false.
        delivery_id identifies the delivery, and delivered_at (default: now) says when it was made.
        expected_position makes the call a compare-and-set. epoch: the epoch in which the position was read.
        Errors: OB005 the position is smaller than the cursor's, the same position has another delivery id, or
        the cursor is not at expected_position; OB009 a name is malformed, the position is below 1, after the
        end of the feed, or in a history that was lost; 25006 the transaction is read-only.
        """
        return await self._arun(Call("cursor_advance", {"consumer": consumer, "position": position, "stream": stream, "subject": subject, "delivery_id": delivery_id, "delivered_at": delivered_at, "expected_position": expected_position, "epoch": epoch}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "error_since": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def cursor_delete(self, consumer: str, reason: str, *, stream: str | None = None, subject: str | None = None) -> None:
        """Deletes a cursor. The reason is stored in outbox.audit. Errors: OB001 there is no such cursor, OB006
        the reason is empty, OB009 a name is malformed, 25006 the transaction is read-only.
        """
        await self._arun(Call("cursor_delete", {"consumer": consumer, "reason": reason, "stream": stream, "subject": subject}, Shape("void", None, {})))

    async def cursor_get(self, consumer: str, *, stream: str | None = None, subject: str | None = None, if_missing: int | None = None) -> CursorState:
        """Returns a consumer's cursor. stream is "outbox" (the feed) by default, subject is empty by default.
        Errors: OB001 there is no such cursor; with if_missing, the result shows that position instead (nothing
        is stored). OB009 a name is malformed.
        """
        return await self._arun(Call("cursor_get", {"consumer": consumer, "stream": stream, "subject": subject, "if_missing": if_missing}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "error_since": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def cursor_list(self, *, consumer: str | None = None, stream: str | None = None, subject: str | None = None, max_rows: int | None = None) -> list[CursorState]:
        """Lists cursors in the order of stream, subject and consumer. consumer, stream, subject: only those
        equal to the value; null: all. max_rows: at most so many rows; 0 (the default): no limit.
        """
        return await self._arun(Call("cursor_list", {"consumer": consumer, "stream": stream, "subject": subject, "max_rows": max_rows}, Shape("rows", CursorState, {"last_delivered_at": "timestamp with time zone", "error_since": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def cursor_record_error(self, consumer: str, error: str, *, stream: str | None = None, subject: str | None = None, error_position: int | None = None, after_position: int | None = None) -> CursorState:
        """Records why a consumer cannot go on: an error text (its first 2000 characters), and as error_position
        the position of the message that cannot be handled (null: not known). Nothing is recorded if the cursor
        has passed error_position: then another instance has handled the message. The cursor does not move. If
        there is none, it is created at after_position, where its reader begins. error_since stays that of the
        first error, health() reports the cursor, and the next advance or reset clears all three. Errors: OB009
        the text is empty, error_position is below 1, after_position is negative or, for a new cursor, after the
        end of the feed, or a name is malformed; 25006 the transaction is read-only.
        """
        return await self._arun(Call("cursor_record_error", {"consumer": consumer, "error": error, "stream": stream, "subject": subject, "error_position": error_position, "after_position": after_position}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "error_since": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def cursor_reset(self, consumer: str, position: int, reason: str, *, stream: str | None = None, subject: str | None = None, delivery_id: str | None = None, delivered_at: datetime | None = None) -> CursorState:
        """Moves a cursor to any position from 0 on, back as well, and creates the cursor if there is none. The
        reason is stored in outbox.audit. Errors: OB006 the reason is empty, OB009 a name is malformed or the
        position is negative or after the end of the feed, 25006 the transaction is read-only.
        """
        return await self._arun(Call("cursor_reset", {"consumer": consumer, "position": position, "reason": reason, "stream": stream, "subject": subject, "delivery_id": delivery_id, "delivered_at": delivered_at}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "error_since": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def dead(self, lease: int, delivery_ids: Sequence[int], reason: str) -> list[int]:
        """Ends deliveries of a lease (delivery_ids null: all that it holds) as dead letters at once, because no
        further attempt will help. The dead letter has the reason "rejected", and the argument reason as its
        last_error. Returns the ids that were changed; an empty array when the lease is lost. Errors: 22004
        lease is null.
        """
        return await self._arun(Call("dead", {"lease": lease, "delivery_ids": delivery_ids, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def dead_letter_stats(self) -> DeadLetterStatsRow:
        """Returns numbers of dead letters. total: all; unresolved: open ones; resolved: all others.
        oldest_age_seconds, newest_age_seconds and top_failure_reason are those of open ones, and null if there
        are none. per_subscription: {name: {"total", "unresolved"}}.
        """
        return await self._arun(Call("dead_letter_stats", {}, Shape("row", DeadLetterStatsRow, {"last_updated": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def dead_letters_older_than(self, older_than: timedelta) -> list[DeadLetterStatus]:
        """Returns the open dead letters that became dead letters longer ago than age, oldest first."""
        return await self._arun(Call("dead_letters_older_than", {"older_than": older_than}, Shape("rows", DeadLetterStatus, {"body": "bytea", "enqueued_at": "timestamp with time zone", "first_attempt_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone", "created_at": "timestamp with time zone", "dead_at": "timestamp with time zone", "age": "interval", "resolved_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def delete_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Deletes a dead letter, whatever its resolution. Its row is stored in outbox.audit. Errors: OB001 no
        such dead letter, 22023 actor is empty.
        """
        await self._arun(Call("delete_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    async def delete_snapshots(self, stream: str, *, schema_version: int | None = None) -> int:
        """Deletes the snapshots of a stream, or the one of a schema version, and returns how many. The next
        load starts at the first event.
        """
        return await self._arun(Call("delete_snapshots", {"stream": stream, "schema_version": schema_version}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def describe_schedule(self, subscription: str) -> list[DescribeScheduleRow]:
        """Returns one row per attempt of a subscription (10000 at most). wait: time after the attempt before.
        planned, earliest and latest: time after the first attempt, without jitter, with the least and with the
        most jitter. The list ends at max_age. Errors: OB001 no such subscription.
        """
        return await self._arun(Call("describe_schedule", {"subscription": subscription}, Shape("rows", DescribeScheduleRow, {"wait": "interval", "planned": "interval", "earliest": "interval", "latest": "interval"})))  # type: ignore[no-any-return]

    async def disable_endpoint(self, name: str, *, reason: str | None = None, mode: Literal["hold", "skip"] | None = None) -> int:
        """Stops sending to an endpoint until enable_endpoint(). mode: hold (the default) keeps deliveries
        waiting, skip records them as skipped. Recorded in outbox.audit. Returns the id of a control message.
        Errors: OB001 no such endpoint, 22023 unknown mode, 54000 the reason is too large.
        """
        return await self._arun(Call("disable_endpoint", {"name": name, "reason": reason, "mode": mode}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def drop_endpoint(self, name: str) -> int:
        """Drops an endpoint that no subscription uses, and deletes its secrets and credentials. Deliveries that
        wait for a retry are recorded as skipped. Returns the id of a control message. Errors: OB001 no such
        endpoint, OB004 a subscription uses it.
        """
        return await self._arun(Call("drop_endpoint", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def drop_projection(self, name: str, *, version: int | None = None) -> None:
        """Removes a projection with its cursors, or one version of it. Its tables stay: they are the
        application's. Errors: OB001 no such projection, 25006 the transaction is read-only.
        """
        await self._arun(Call("drop_projection", {"name": name, "version": version}, Shape("void", None, {})))

    async def drop_proxy(self, name: str) -> int:
        """Removes a proxy from the list. Returns the id of a control message. Only for the owner of the
        extension and superusers; it is in no capability. Errors: OB001 no such proxy, OB004 an endpoint uses
        it.
        """
        return await self._arun(Call("drop_proxy", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def drop_upcaster(self, type: str, from_version: int) -> None:
        """Removes the first or the last upcaster of an event type. Errors: OB001 there is none from this
        version, OB004 the chain would have a gap, 25006 the transaction is read-only.
        """
        await self._arun(Call("drop_upcaster", {"type": type, "from_version": from_version}, Shape("void", None, {})))

    async def enable_endpoint(self, name: str) -> int:
        """Resumes sending to an endpoint. Failed deliveries are due at once. The circuit breaker closes, a
        pause ends, and the count of failures is reset. Recorded in outbox.audit. Returns the id of a control
        message. Errors: OB001 no such endpoint.
        """
        return await self._arun(Call("enable_endpoint", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def ensure_subscription(self, name: str, topics: Sequence[str], *, endpoint: str | None = None, filter: Any | None = None, max_attempts: int | None = None, max_age: timedelta | None = None, schedule: Any | None = None, policy: Any | None = None, format: Literal["raw", "envelope", "cloudevents", "cloudevents_structured", "pubsub"] | None = None, batch_size: int | None = None, batch_wait: timedelta | None = None, ordering: Literal["none", "key", "strict"] | None = None, on_exhausted: Literal["skip", "block"] | None = None, ttl: timedelta | None = None, deadline: timedelta | None = None, notify: bool | None = None, max_lag: timedelta | None = None, external_id: str | None = None, labels: Any | None = None, start: str | None = None, source: str | None = None, transform: str | None = None) -> str:
        """Creates a subscription, or alters the one that there is, so that it is as described: for migrations,
        and for programs that start. Topics, filter (null: none) and whether it is pushed are always as given;
        any other setting that is null keeps its value, or gets the default of subscribe() if the subscription
        is new. start: where a new subscription begins, as in subscribe(). Its default is earliest for a
        subscription that workers claim from, so that workers that are deployed after their producers miss
        nothing, and latest for a pushed one, so that a new receiver is not sent the history. Returns created,
        altered or unchanged; unchanged writes nothing. Errors: OB001 no such endpoint, OB004 the subscription
        is pulled and endpoint is given, or the other way round, or it has another source; 40001 another session
        created it, and this transaction cannot see it; those of subscribe().
        """
        return await self._arun(Call("ensure_subscription", {"name": name, "topics": topics, "endpoint": endpoint, "filter": filter, "max_attempts": max_attempts, "max_age": max_age, "schedule": schedule, "policy": policy, "format": format, "batch_size": batch_size, "batch_wait": batch_wait, "ordering": ordering, "on_exhausted": on_exhausted, "ttl": ttl, "deadline": deadline, "notify": notify, "max_lag": max_lag, "external_id": external_id, "labels": labels, "start": start, "source": source, "transform": transform}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def erase(self, message_id: int, *, actor: str | None = None, reason: str | None = None) -> None:
        """Erases the content of a message (payload, body, headers, metadata, and in the attempt log responses,
        results and errors), ends its waiting deliveries, and deletes the snapshots of its stream. Ids, topic,
        key, positions and counts stay. The message cannot be requeued, resent or replayed any more. actor
        (default: session_user) and reason are stored in outbox.audit. Errors: OB001 no such message, OB003 a
        worker has a delivery of it, OB006 the reason is empty, 55P03 a lock was not available within 5 s.
        """
        await self._arun(Call("erase", {"message_id": message_id, "actor": actor, "reason": reason}, Shape("void", None, {})))

    async def explain_routing(self, topic: str, *, payload: Any | None = None, key: str | None = None, headers: Any | None = None, tenant: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, at_position: int | None = None, source: str | None = None) -> list[ExplainRoutingRow]:
        """Returns, for each subscription, whether a message with these properties would match it, and the
        reason. reason: matches (with a note if the subscription is paused), topic, inactive, source (it takes
        events, or it does not), filter with the fields that refuse the message, or filter: payload. source:
        messages (the default) or events. The answer is that of the newest version of each subscription; with
        at_position, that of the version that held at the position, ended subscriptions included. Errors: 22023
        topic is malformed.
        """
        return await self._arun(Call("explain_routing", {"topic": topic, "payload": payload, "key": key, "headers": headers, "tenant": tenant, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "at_position": at_position, "source": source}, Shape("rows", ExplainRoutingRow, {})))  # type: ignore[no-any-return]

    async def export_subject(self, *, streams: Sequence[str] | None = None, types: Sequence[str] | None = None, stream_prefix: str | None = None, tenant: str | None = None, user_id: str | None = None, metadata: Any | None = None, from_time: datetime | None = None, to_time: datetime | None = None, after: Any | None = None, max_events: int | None = None) -> list[ExportedEvent]:
        """Returns the events that concern a person, a page at a time. streams: only these, by stream and
        version; stream_prefix: those whose name begins so, likewise; or everything in the order of the feed,
        for which at least one filter is needed. A page of the last two looks at max_events events. types:
        patterns of the type; user_id: metadata.user_id; metadata: entries that the metadata contain; from_time,
        to_time: when the event was stored, inclusive. All filters hold together. after: "next" of the last row,
        for the next page; there is no row when there are no more. max_events: 1 to 10000 (1000). A row whose
        message_id is null only says how far a scan has come. redacted: the event was erased, or the key that
        metadata.key_id names was revoked. Errors: 22023 neither streams nor a filter, or a value is malformed.
        """
        return await self._arun(Call("export_subject", {"streams": streams, "types": types, "stream_prefix": stream_prefix, "tenant": tenant, "user_id": user_id, "metadata": metadata, "from_time": from_time, "to_time": to_time, "after": after, "max_events": max_events}, Shape("rows", ExportedEvent, {"body": "bytea", "recorded_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def extend(self, lease: int, *, duration: timedelta | None = None) -> datetime:
        """Extends a lease so that it ends duration (default 60 s, at most 7 days) from now, but not after the
        deadline of its claim. Never shortens the lease. Returns the new end. Errors: OB003 the lease is lost,
        22004 lease is null, 22023 duration is out of range.
        """
        return await self._arun(Call("extend", {"lease": lease, "duration": duration}, Shape("value", None, {"": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def fail(self, lease: int, delivery_ids: Sequence[int], error: str, *, retry_after: timedelta | None = None) -> list[int]:
        """Records a failed attempt of deliveries of a lease (delivery_ids null: of all that it holds). A
        delivery is tried again after retry_after (null: after the wait that the subscription's schedule says).
        A delivery becomes a dead letter after its last attempt, or when the next attempt would be later than
        max_age or the expiry allow. An error of more than 4096 bytes is cut to its first 1000 characters.
        Returns the ids that were changed; an empty array when the lease is lost. Errors: 22004 lease is null.
        """
        return await self._arun(Call("fail", {"lease": lease, "delivery_ids": delivery_ids, "error": error, "retry_after": retry_after}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def forget_relay(self, relay: str) -> bool:
        """Removes the row of a relay that will not run again from outbox.relay_status, so that health() no
        longer misses it. Its cursor stays; see cursor_delete(). Returns whether there was a row. Errors: 25006
        the transaction is read-only.
        """
        return await self._arun(Call("forget_relay", {"relay": relay}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def get_message(self, message_id: int) -> MessageStatus:
        """Returns one message with its state. Errors: OB001 no such message, or retention has removed it."""
        return await self._arun(Call("get_message", {"message_id": message_id}, Shape("row", MessageStatus, {"enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "body": "bytea"})))  # type: ignore[no-any-return]

    async def get_schema(self, type: str, *, version: int | None = None) -> EventSchema:
        """Returns the schema of an event type. version null: the latest one. Errors: OB001 there is none."""
        return await self._arun(Call("get_schema", {"type": type, "version": version}, Shape("row", EventSchema, {"registered_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def get_subject_key(self, key_id: str) -> SubjectKey:
        """Returns a data key by its id. If it was revoked, wrapped_key is null, and revoked_at and reason are
        set. Errors: OB001 there is no such key, 22004 or 22023 the id is null or malformed.
        """
        return await self._arun(Call("get_subject_key", {"key_id": key_id}, Shape("row", SubjectKey, {"wrapped_key": "bytea", "created_at": "timestamp with time zone", "rewrapped_at": "timestamp with time zone", "revoked_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def grant_consent(self, endpoint: str, *, rate_per_minute: int | None = None) -> int:
        """Records that the receiver has given its consent by other means than the handshake. rate_per_minute:
        requests per minute that it allows; null: no limit. Returns the id of a control message. Errors: OB001
        no such endpoint, 22023 rate_per_minute is below 1.
        """
        return await self._arun(Call("grant_consent", {"endpoint": endpoint, "rate_per_minute": rate_per_minute}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def grant_to(self, role: str, capability: Literal["publish", "capture", "consume", "observe", "monitor", "admin"], *, subscriptions: Sequence[str] | None = None, topics: Sequence[str] | None = None, tenants: Sequence[str] | None = None, publishers: Sequence[str] | None = None, consumers: Sequence[str] | None = None) -> None:
        """Grants a role a capability (publish, capture, consume, observe, monitor or admin), or replaces an
        earlier grant of it. publish can be narrowed to topics (patterns), tenants and publishers; monitor to
        tenants. consume can be narrowed to subscriptions, topics (patterns, for read()) and consumers (of
        cursors); if one of these is given, those that are not given allow nothing. null: not narrowed. A list
        has at most 1000 names of 1 to 255 bytes. Errors: 42704 no such role, 22023 the capability is unknown or
        cannot be narrowed like this, or a list is malformed.
        """
        await self._arun(Call("grant_to", {"role": role, "capability": capability, "subscriptions": subscriptions, "topics": topics, "tenants": tenants, "publishers": publishers, "consumers": consumers}, Shape("void", None, {})))

    async def head(self) -> int:
        """Returns the last position of the feed; 0 when the feed is empty."""
        return await self._arun(Call("head", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def health(self) -> list[HealthRow]:
        """Returns one row per check. state: ok, warning or critical. culprit: the object, session or setting
        that is the cause. what_to_do: what an operator can do. Suited to an alert on state <> 'ok'.
        """
        return await self._arun(Call("health", {}, Shape("rows", HealthRow, {})))  # type: ignore[no-any-return]

    async def history(self, message_id: int) -> list[HistoryRow]:
        """Returns the events of one message in order of time. what: enqueued, numbered (with its position),
        routed, the outcome of an attempt, next attempt, dead letter. Errors: OB001 no such message.
        """
        return await self._arun(Call("history", {"message_id": message_id}, Shape("rows", HistoryRow, {"at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def ignore_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Marks an open dead letter as ignored, because it is not worth an action. actor and note are stored
        with it and in outbox.audit. Errors: OB001 no such dead letter, OB004 it is not open, 22023 actor is
        empty.
        """
        await self._arun(Call("ignore_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    async def inbox_begin(self, source: str, position: int, *, epoch: int | None = None, stream: str | None = None) -> bool:
        """Called in the transaction that handles a message from a relay: returns true if the message is new,
        and false if it or a later one of its source and stream was handled before. source, position and epoch
        are those of the message's headers; stream is the stream or partition in which the broker keeps the
        order. Waits for another transaction that handles a message of the same stream. Errors: OB009 an
        argument is malformed, 25006 the transaction is read-only.
        """
        return await self._arun(Call("inbox_begin", {"source": source, "position": position, "epoch": epoch, "stream": stream}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def install_message_store(self) -> None:
        """Creates the schema message_store with the functions, types, views and role of message-db 1.3, over
        the streams of pg_outbox. Called again, for example after an upgrade, it replaces the functions and
        views and leaves grants as they are. The first call creates the role message_store and grants it publish
        and consume; a role of this name that exists gets no capability. Only for the owner of the extension and
        superusers; it is in no capability. Errors: 42501 the schema belongs to another role, 42P06 it is that
        of a message-db, 25006 the transaction is read-only.
        """
        await self._arun(Call("install_message_store", {}, Shape("void", None, {})))

    async def is_terminal(self, state: Literal["pending", "processing", "failed", "completed", "dead", "expired", "cancelled", "skipped"]) -> bool:
        """Returns whether a delivery or message in this state is not tried again by itself: true for completed,
        dead, skipped, expired and cancelled.
        """
        return await self._arun(Call("is_terminal", {"state": state}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def list_messages(self, *, tenant: str | None = None, state: Literal["pending", "processing", "failed", "completed", "dead", "expired", "cancelled", "skipped"] | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, severity: str | None = None, max_messages: int | None = None, before: int | None = None, skip: int | None = None) -> list[MessageStatus]:
        """Returns messages, newest first, up to max_messages (default 50; 1 to 1000) in a page. Pass the last
        id of a page as before to get the next one; skip (0 to 10000) leaves out the first ones. Tenant and
        aggregate use an index, and status pending, processing, failed, dead or expired uses the deliveries. In
        a page, topic and severity are checked for at most 10,000 messages, and status completed, cancelled or
        skipped for at most 1,000. If a page ends there, its last row has no topic, and only the id to continue
        with. Errors: 22023 max_messages or skip is out of range, or status is unknown.
        """
        return await self._arun(Call("list_messages", {"tenant": tenant, "state": state, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "severity": severity, "max_messages": max_messages, "before": before, "skip": skip}, Shape("rows", MessageStatus, {"enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "body": "bytea"})))  # type: ignore[no-any-return]

    async def load(self, stream: str, *, from_version: int | None = None, max_events: int | None = None, backwards: bool | None = None, positions: bool | None = None, upcast: bool | None = None) -> list[Event]:
        """Returns events of a stream in the order of their versions, from from_version on (inclusive; null, the
        default: the first one), up to max_events (default 1000; 1 to 10000). backwards (default false): from
        from_version down (null: the last one). positions (default false): also looks up the place of each event
        in the feed. upcast (default false): data are turned into the latest schema version by the upcasters,
        and metadata.schema_version says so. A stream that does not exist has no events. Events of the current
        transaction are included. Errors: 22004 stream is null, 22023 max_events is out of range or stream is
        malformed, and with upcast those of upcast().
        """
        return await self._arun(Call("load", {"stream": stream, "from_version": from_version, "max_events": max_events, "backwards": backwards, "positions": positions, "upcast": upcast}, Shape("rows", Event, {"body": "bytea", "occurred_at": "timestamp with time zone", "recorded_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def load_snapshot(self, stream: str, *, schema_version: int | None = None) -> list[LoadSnapshotRow]:
        """Returns the newest snapshot of a stream and schema version, or no row if there is none."""
        return await self._arun(Call("load_snapshot", {"stream": stream, "schema_version": schema_version}, Shape("rows", LoadSnapshotRow, {"body": "bytea", "taken_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def maintain(self) -> list[MaintainRow]:
        """Rotates, reclaims and trims now as far as the retention settings allow, and returns what each job
        did. The dispatcher does this by itself, every pg_outbox.retention_interval (1 hour by default). Not in
        a transaction block or function. Errors: 25001 in such a transaction. A job that fails has the result
        "failed" and its error in held_by.
        """
        return await self._arun(Call("maintain", {}, Shape("rows", MaintainRow, {})))  # type: ignore[no-any-return]

    async def manual_result(self, manual_send_id: int) -> list[ManualResultRow]:
        """Returns the result of send_test() or resend(). state: waiting, completed or failed; the other columns
        are null while it waits. Errors: OB001 no such id.
        """
        return await self._arun(Call("manual_result", {"manual_send_id": manual_send_id}, Shape("rows", ManualResultRow, {"started_at": "timestamp with time zone", "finished_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def metrics(self) -> list[MetricsRow]:
        """Returns metrics for a monitoring system. Names that end in _total, _sum, _count or _bucket only grow;
        all others are current values, in the unit that the name says (seconds, positions, bytes). labels names
        the subscription, endpoint, state, consumer, stream, subject, relay, ring or part; le is the bound of a
        bucket. Histograms start from zero when the server starts. outbox_enqueued_total also counts messages
        that were rolled back.
        """
        return await self._arun(Call("metrics", {}, Shape("rows", MetricsRow, {})))  # type: ignore[no-any-return]

    async def move_to_dead_letters(self, delivery_id: int, reason: str, *, actor: str | None = None) -> int:
        """Moves a waiting delivery to the dead letters, with the reason "moved" and the argument reason as its
        last_error. Returns the id of the dead letter. Errors: OB001 no such delivery, OB002 it has ended, OB003
        a worker has it, 22023 actor is empty.
        """
        return await self._arun(Call("move_to_dead_letters", {"delivery_id": delivery_id, "reason": reason, "actor": actor}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def notification_log(self, *, message_id: int | None = None, tenant: str | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, max_rows: int | None = None, before: int | None = None, subscription: str | None = None) -> list[NotificationEntry]:
        """Returns which messages were sent to whom: of one message, or of the latest messages of a tenant,
        topic or aggregate, up to max_rows (default 50; 1 to 1000) messages in a page. Pass the last message_id
        of a page as before to get the next one. With subscription, up to max_rows rows of that subscription,
        among 10,000 messages per page. If a page ends there, its last row has no topic_code, and only the id to
        continue with. Errors: 22023 max_rows is out of range, OB001 no such subscription.
        """
        return await self._arun(Call("notification_log", {"message_id": message_id, "tenant": tenant, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "max_rows": max_rows, "before": before, "subscription": subscription}, Shape("rows", NotificationEntry, {"sent_at": "timestamp with time zone", "created_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def pause_projection(self, name: str, *, version: int | None = None) -> None:
        """Pauses an asynchronous projection: run_projection() is refused until resume_projection(). It waits
        for a page that is being applied. version null: the live one. Errors: OB001 no such projection, OB004 it
        is inline, faulted or stopped, 25006 the transaction is read-only.
        """
        await self._arun(Call("pause_projection", {"name": name, "version": version}, Shape("void", None, {})))

    async def pause_subscription(self, name: str) -> int:
        """Pauses a subscription until resume(): messages are still routed to it and retained, but nothing is
        sent or can be claimed. Recorded in outbox.audit. Returns the id of a control message. Errors: OB001 no
        such subscription.
        """
        return await self._arun(Call("pause_subscription", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def public_keys(self, endpoint: str) -> list[PublicKeysRow]:
        """Returns the public keys with which receivers verify v1a signatures of an endpoint, the current one
        first; no rows for v1. Errors: OB001 no such endpoint.
        """
        return await self._arun(Call("public_keys", {"endpoint": endpoint}, Shape("rows", PublicKeysRow, {"created_at": "timestamp with time zone", "expires_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def purge(self, what: str, older_than: timedelta, *, include_unresolved: bool | None = None, dry_run: bool | None = None) -> PurgeRow:
        """Removes rows that are older than older_than, and returns how many rows and bytes. what: completed
        (messages), attempts, archive (messages with their attempts and routing; rows counts messages),
        dead_letters (resolved or ignored ones; include_unresolved: all), idempotency. Rows of logs are removed
        leaf by leaf, and only if the whole leaf is old enough. Rows that are still needed are never removed.
        older_than null, zero or below removes nothing. dry_run: returns the numbers without removing anything.
        Numbers of rows in leaves may be estimates. Not in a transaction block or function. Errors: 22023 what
        is unknown, 25001 in such a transaction, 55P03 a lock was not available within 5 s.
        """
        return await self._arun(Call("purge", {"what": what, "older_than": older_than, "include_unresolved": include_unresolved, "dry_run": dry_run}, Shape("row", PurgeRow, {})))  # type: ignore[no-any-return]

    async def read(self, after_position: int, *, max_messages: int | None = None, topics: Sequence[str] | None = None, filter: Any | None = None, epoch: int | None = None, source: str | None = None) -> list[FeedMessage]:
        """Returns up to max_messages (default 100; 1 to 10000) messages after a position (exclusive; 0: from
        the first one that is stored), in order. topics (patterns) and filter select as in a subscription; null:
        all. Control messages of pg_outbox are not returned. A call looks at no more than 10000 positions, or
        max_messages if that is more. If it looked further than the last message that it returns, a marker is
        the last row: its message_id is null, and no message between the row before it and its position matches.
        Continue after the position of the last row, and confirm the position of a marker as that of a message.
        No rows: the feed ends at after_position. source: messages (the default), events (of streams, from
        position 1 on for ever), or all; the aggregate of an event is its category and the rest of its stream's
        name. epoch: the epoch in which after_position was read, so that a lost history is noticed. Errors:
        OB009 the position is malformed, no longer stored, after the end of the feed, or in a history that was
        lost; 22023 another argument is malformed.
        """
        return await self._arun(Call("read", {"after_position": after_position, "max_messages": max_messages, "topics": topics, "filter": filter, "epoch": epoch, "source": source}, Shape("rows", FeedMessage, {"body": "bytea", "occurred_at": "timestamp with time zone", "enqueued_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def read_events(self, after_position: int, *, max_events: int | None = None, categories: Sequence[str] | None = None, types: Sequence[str] | None = None, tenant: str | None = None, filter: Any | None = None, member: int | None = None, members: int | None = None, epoch: int | None = None, upcast: bool | None = None) -> list[Event]:
        """Returns up to max_events (default 1000; 1 to 10000) events after a position (exclusive; 0: from the
        first one), in the committed order. Continue after the position of the last row. Events stay readable
        for ever, unless truncate_stream() removes them. categories, types (patterns), tenant and filter (as in
        a subscription) select; null: all. member and members: the part of a consumer group's member, numbered
        from 0; streams with the same cardinal id go to the same member. A call looks at no more than about
        10000 positions, or max_events if that is more, apart from those that the lists of categories pass over.
        If none of them matches, the result is one row whose message_id is null and whose position says where to
        continue. epoch: the epoch in which after_position was read, so that a lost history is noticed. upcast
        (default false): as in load(); an event that cannot be upcast is an error. A standby answers too.
        Errors: OB009 the position is malformed, after the end of the feed, or in a history that was lost; 22023
        another argument is malformed.
        """
        return await self._arun(Call("read_events", {"after_position": after_position, "max_events": max_events, "categories": categories, "types": types, "tenant": tenant, "filter": filter, "member": member, "members": members, "epoch": epoch, "upcast": upcast}, Shape("rows", Event, {"body": "bytea", "occurred_at": "timestamp with time zone", "recorded_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def rebuild_projection(self, name: str, *, handler: str | None = None) -> int:
        """Makes a new version of an asynchronous projection, which begins at the first event, and returns its
        number. handler: a function that writes to tables of its own; the old version goes on until
        switch_projection(). Null: the same handler; the old version stops at once, and the caller empties the
        tables in the same transaction. Errors: OB001 no such projection, OB004 it is inline or is being
        rebuilt, 42883 no such function, 42501 the caller does not have the rights of the function's owner,
        22023 the function has another signature, 25006 the transaction is read-only.
        """
        return await self._arun(Call("rebuild_projection", {"name": name, "handler": handler}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def register_schema(self, type: str, schema: Any, *, version: int | None = None, compatibility: Literal["full", "backward", "forward", "breaking"] | None = None, validated: bool | None = None, description: str | None = None) -> int:
        """Registers a version of the JSON Schema of an event type and returns the version. version: the next
        one by default. The same version with an equal schema changes nothing. compatibility: what the change
        from the version before must be: backward (the default; the new version reads the data of the one
        before), forward (the one before reads the data of the new one), full (both) or breaking (anything).
        Data is taken to have the declared properties only, unless the schema combines others. validated:
        append() checks the events of this version. Errors: OB016 the schema is not as compatible as asked for
        (the detail says why), OB004 the version would leave a gap, OB008 the version is registered with another
        schema, 22004 or 22023 a value is null or malformed, 54000 the schema is above 64 kB, 25006 the
        transaction is read-only.
        """
        return await self._arun(Call("register_schema", {"type": type, "schema": schema, "version": version, "compatibility": compatibility, "validated": validated, "description": description}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def relay_heartbeat(self, relay: str, consumer: str, sink: str, instance: str, state: str, position: int, heartbeat_interval: timedelta, *, epoch: int | None = None, relayed: int | None = None, skipped: int | None = None, rate: float | None = None, error: str | None = None) -> None:
        """Says how a relay is: writes its row in outbox.relay_status. The relay calls it; only its active
        instance does. error: null leaves the last one. Errors: OB009 a name is malformed; 22023 another
        argument is; 25006 the transaction is read-only.
        """
        await self._arun(Call("relay_heartbeat", {"relay": relay, "consumer": consumer, "sink": sink, "instance": instance, "state": state, "position": position, "heartbeat_interval": heartbeat_interval, "epoch": epoch, "relayed": relayed, "skipped": skipped, "rate": rate, "error": error}, Shape("void", None, {})))

    async def relay_record_refusal(self, relay: str, position: int, webhook_id: str, action: str, reason: str) -> None:
        """Records in outbox.audit that a relay went on without a message that its broker refused. action: skip
        or dead-letter. Errors: OB009 the name is malformed, 22023 unknown action, 25006 the transaction is
        read-only.
        """
        await self._arun(Call("relay_record_refusal", {"relay": relay, "position": position, "webhook_id": webhook_id, "action": action, "reason": reason}, Shape("void", None, {})))

    async def release(self, lease: int, *, delivery_ids: Sequence[int] | None = None) -> list[int]:
        """Gives deliveries of a lease (delivery_ids null: all) back unharmed: they are due as before, and the
        attempt does not count. Returns the ids that were given back, in the order of positions; an empty array
        when the lease is lost. Errors: 22004 lease is null.
        """
        return await self._arun(Call("release", {"lease": lease, "delivery_ids": delivery_ids}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def replay(self, subscription: str, *, from_position: int | None = None, to_position: int | None = None, filter: Any | None = None, new_ids: bool | None = None, rate: int | None = None, from_time: datetime | None = None, to_time: datetime | None = None) -> int:
        """Delivers again the messages that a subscription matched between two positions, both included, and
        returns the id of the replay. Which messages matched is decided by the versions that held at those
        positions. from_position: default tail(); to_position: default head(). from_time and to_time (exclusive)
        are used where a position is null, and refer to the time when a message got its position. filter:
        narrows the messages further. new_ids (default false): webhook ids get the suffix _r and the id of the
        replay. rate (default 200; 1 to 10000): messages per second at most, in addition to live traffic. The
        view outbox.replay_status shows the progress. Recorded in outbox.audit. Errors: OB001 no such
        subscription, OB009 a position is no longer stored or does not exist yet, 22023 rate or filter is
        invalid.
        """
        return await self._arun(Call("replay", {"subscription": subscription, "from_position": from_position, "to_position": to_position, "filter": filter, "new_ids": new_ids, "rate": rate, "from_time": from_time, "to_time": to_time}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def request_consent(self, endpoint: str) -> int:
        """Asks the receiver of an endpoint for consent with the CloudEvents webhook handshake, whatever its
        earlier answer was. Deliveries wait until it agrees. Returns the id of a control message. Errors: OB001
        no such endpoint.
        """
        return await self._arun(Call("request_consent", {"endpoint": endpoint}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def requeue(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> int:
        """Makes the delivery of a dead letter due now, with all its attempts again, and returns the id of the
        delivery. The receiver gets the same webhook id. A requeued delivery does not expire, and a cancelled
        message is not cancelled any more. Errors: OB001 no such dead letter, OB004 it was requeued already, its
        subscription has ended, its message is gone or erased, or the transform makes no payload of it, 22023
        actor is empty.
        """
        return await self._arun(Call("requeue", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def requeue_all(self, *, actor: str | None = None, subscription: str | None = None, reason: str | None = None, topic: str | None = None, dead_after: datetime | None = None, dead_before: datetime | None = None, note: str | None = None, max_rows: int | None = None, dry_run: bool | None = None) -> int:
        """Requeues up to max_rows (default 1000; 1 to 100000) open dead letters, oldest first, and returns how
        many. subscription, reason, topic, dead_after (inclusive) and dead_before (exclusive) select them; null:
        all. dry_run: only counts. Dead letters that cannot be requeued are left out. Errors: OB001 no such
        subscription, 22023 max_rows is out of range, or actor is empty.
        """
        return await self._arun(Call("requeue_all", {"actor": actor, "subscription": subscription, "reason": reason, "topic": topic, "dead_after": dead_after, "dead_before": dead_before, "note": note, "max_rows": max_rows, "dry_run": dry_run}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def reschedule(self, delivery_id: int, due_at: datetime, *, actor: str | None = None, priority: int | None = None, expires_at: datetime | None = None) -> None:
        """Changes when a waiting delivery is due, and optionally its priority (-100 to 100) and its expiry;
        null leaves these as they are. Errors: OB001 no such delivery, OB002 it has ended, OB003 a worker has
        it, 22004 due_at is null, 22023 a value is out of range, or actor is empty.
        """
        await self._arun(Call("reschedule", {"delivery_id": delivery_id, "due_at": due_at, "actor": actor, "priority": priority, "expires_at": expires_at}, Shape("void", None, {})))

    async def resend(self, message_id: int, subscription: str) -> int:
        """Sends a message once more to a pushed subscription, whatever the state of its delivery: one attempt
        outside the budget, with the same webhook id. The subscription's transform, if it has one, is called
        again. Recorded in outbox.audit. Returns the id for manual_result(). Errors: OB001 no such subscription,
        or the message is not stored or not in the feed yet; OB004 the subscription is pulled by workers, the
        message was erased, or the transform makes no payload of it.
        """
        return await self._arun(Call("resend", {"message_id": message_id, "subscription": subscription}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def resolve_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Marks an open dead letter as resolved by other means. actor and note are stored with it and in
        outbox.audit. Errors: OB001 no such dead letter, OB004 it is not open, 22023 actor is empty.
        """
        await self._arun(Call("resolve_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    async def resume_projection(self, name: str, *, version: int | None = None) -> None:
        """Goes on with a projection that is paused or faulted; a faulted one tries the same event again.
        version null: the live one. Errors: OB001 no such projection, OB004 it is neither paused nor faulted,
        25006 the transaction is read-only.
        """
        await self._arun(Call("resume_projection", {"name": name, "version": version}, Shape("void", None, {})))

    async def resume_subscription(self, name: str) -> int:
        """Resumes a paused subscription where it stopped. Recorded in outbox.audit. Returns the id of a control
        message. Errors: OB001 no such subscription.
        """
        return await self._arun(Call("resume_subscription", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def retry(self, message_id: int, subscription: str, *, actor: str | None = None) -> int:
        """Makes a waiting, failed, dead or expired delivery of a message to a subscription due now, with its
        attempts counted from 0 again. Returns the id of the delivery. by: default session_user. Errors: OB001
        no such subscription, or there is no such delivery (not matched, not routed yet, or in its first
        attempt); OB002 it was completed; OB003 a worker has it; OB004 its message was erased or is gone.
        """
        return await self._arun(Call("retry", {"message_id": message_id, "subscription": subscription, "actor": actor}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def revoke_from(self, role: str, capability: Literal["publish", "capture", "consume", "observe", "monitor", "admin"]) -> bool:
        """Revokes a capability from a role. Privileges that another capability of the role needs stay. Returns
        false if the role did not have the capability by grant_to(). Errors: 42704 no such role, 22023 unknown
        capability.
        """
        return await self._arun(Call("revoke_from", {"role": role, "capability": capability}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def revoke_subject_keys(self, subject: str, *, actor: str | None = None, reason: str | None = None) -> int:
        """Removes all data keys of a subject for good, so that nothing that was encrypted with them can be read
        any more, and returns the id of the certificate. Keys that the subject gets later are not concerned. If
        all its keys were revoked before, nothing changes, and the last certificate is returned. Errors: OB001
        the subject has no keys, OB006 the reason is empty, 22004 or 22023 a value is null or malformed, 55P03 a
        lock was not available within 5 s, 25006 the transaction is read-only.
        """
        return await self._arun(Call("revoke_subject_keys", {"subject": subject, "actor": actor, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def rewrap_subject_key(self, key_id: str, wrapped_key: bytes, master_key: str) -> None:
        """Stores a data key again after it was encrypted by another master key. Errors: OB001 there is no such
        key, OB004 it was revoked, 22004 or 22023 a value is null or malformed, 25006 the transaction is
        read-only.
        """
        await self._arun(Call("rewrap_subject_key", {"key_id": key_id, "wrapped_key": wrapped_key, "master_key": master_key}, Shape("void", None, {})))

    async def rotate(self, *, ring: str | None = None) -> str:
        """Makes new rows of a ring (default message) go to the next leaf from now on. Returns rotated, empty
        (nothing was written to the current leaf), full (the next leaf still holds rows), or not yet (the
        sequencer is busy). Not in a transaction block or function. Errors: OB001 no such ring, 25001 in such a
        transaction, 55P03 a lock was not available within 5 s.
        """
        return await self._arun(Call("rotate", {"ring": ring}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def rotate_secret(self, name: str, *, secret: str | None = None, overlap: timedelta | None = None) -> RotateSecretRow:
        """Gives an endpoint a new secret, and returns it with the id of a control message; it is shown nowhere
        else. secret: null makes a new one. The old secret signs too until overlap has passed (default 24 h, 0
        to 30 days). Recorded in outbox.audit, without the secret. Errors: OB001 no such endpoint, 22023 secret
        or overlap is invalid.
        """
        return await self._arun(Call("rotate_secret", {"name": name, "secret": secret, "overlap": overlap}, Shape("row", RotateSecretRow, {})))  # type: ignore[no-any-return]

    async def run_projection(self, name: str, *, max_events: int | None = None, version: int | None = None) -> int:
        """Applies the next page of events to an asynchronous projection and moves its cursor, both in the
        transaction of the caller, and returns how many events it applied; 0: it is up to date. max_events: 1 to
        10000 (1000). version null: the live one. Two callers do not apply the same page: one waits. If the
        handler fails for an event, the events before it are applied, the projection is faulted, and the call
        returns: commit it. An error that the next try may not meet (deadlock, serialization, lock, resources)
        is raised. Errors: OB015 the projection is faulted, OB001 no such projection, OB004 it is inline, paused
        or stopped, OB009 the feed has lost the position of the cursor, 42883 the handler is gone or has another
        owner, 22023 max_events is out of range, 25006 the transaction is read-only.
        """
        return await self._arun(Call("run_projection", {"name": name, "max_events": max_events, "version": version}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def saga_delete(self, saga_type: str, saga_id: str) -> bool:
        """Deletes a saga and the list of the events that it has handled. Returns false if there is no such
        saga. The deletion is recorded in outbox.audit. Errors: 25006 the transaction is read-only.
        """
        return await self._arun(Call("saga_delete", {"saga_type": saga_type, "saga_id": saga_id}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def saga_find(self, saga_type: str, correlation_id: str) -> list[SagaState]:
        """Returns the saga of a type that has this correlation id: the one that has not ended, or else the one
        that started last. No row: there is none.
        """
        return await self._arun(Call("saga_find", {"saga_type": saga_type, "correlation_id": correlation_id}, Shape("rows", SagaState, {"started_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "completed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def saga_handle(self, saga_type: str, saga_id: str, message_id: int) -> bool:
        """Locks a saga until the transaction ends, and remembers that it handles this event. true: the event is
        new to the saga; false: it was handled before, and nothing is to be done. Call it before saga_load(), in
        the transaction that handles the event. Errors: OB001 there is no such saga, 22004 message_id is null,
        22023 it is no id, 40001 at REPEATABLE READ when another transaction has changed the saga meanwhile,
        25006 the transaction is read-only.
        """
        return await self._arun(Call("saga_handle", {"saga_type": saga_type, "saga_id": saga_id, "message_id": message_id}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def saga_load(self, saga_type: str, saga_id: str) -> SagaState:
        """Returns a saga with its state and version. Errors: OB001 there is no such saga."""
        return await self._arun(Call("saga_load", {"saga_type": saga_type, "saga_id": saga_id}, Shape("row", SagaState, {"started_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "completed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def saga_save(self, saga_type: str, saga_id: str, state: Any, expected_version: int, *, status: Literal["started", "running", "completed", "failed", "compensating", "compensated", "compensation_failed"] | None = None, step: int | None = None, steps: Any | None = None, correlation_id: str | None = None, failure_reason: str | None = None) -> int:
        """Stores the state of a saga and returns its new version. expected_version: the version that
        saga_load() returned; 0: the saga starts. status: started, running, completed, failed, compensating,
        compensated or compensation_failed; null: as it is, and running after the first change. A saga that is
        completed or compensated does not change any more; one that has failed, or whose compensation has
        failed, can go to compensating. step: number of the current step, from 0. steps: array of objects with
        name and status (pending, running, completed, failed or compensated). A null step, steps, correlation_id
        or failure_reason leaves the value as it is. Errors: OB013 the saga is not at expected_version, OB001
        there is no such saga, OB004 the status does not allow the change, 42710 another saga of the type that
        has not ended has the correlation id, 22004 or 22023 a value is null or malformed, 54000 the state or
        the steps are above pg_outbox.max_payload, 25006 the transaction is read-only.
        """
        return await self._arun(Call("saga_save", {"saga_type": saga_type, "saga_id": saga_id, "state": state, "expected_version": expected_version, "status": status, "step": step, "steps": steps, "correlation_id": correlation_id, "failure_reason": failure_reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def save_snapshot(self, stream: str, version: int, *, state: Any | None = None, schema_version: int | None = None, body: bytes | None = None, content_type: str | None = None) -> bool:
        """Stores the state of a stream after the event of that version, in place of the snapshot of an earlier
        version. Returns false, and changes nothing, if a later one is stored. state: as JSON; or body: as
        bytes, with its content_type (application/octet-stream by default). schema_version: the form of the
        state (1); each has its own snapshot. Errors: OB001 the stream has no such version, 22004 or 22023 a
        value is null or malformed, 54000 the state or body is above pg_outbox.max_payload, 25006 the
        transaction is read-only.
        """
        return await self._arun(Call("save_snapshot", {"stream": stream, "version": version, "state": state, "schema_version": schema_version, "body": body, "content_type": content_type}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def save_subject_key(self, subject: str, key_id: str, wrapped_key: bytes, master_key: str) -> None:
        """Stores a data key of a subject, encrypted by a master key that the server does not have. key_id: the
        name by which encrypted data refers to the key. master_key: the name of the master key. The same key
        again changes nothing. Errors: OB004 the key was revoked, OB008 the id is that of another key, 22004 or
        22023 a value is null or malformed, 25006 the transaction is read-only.
        """
        await self._arun(Call("save_subject_key", {"subject": subject, "key_id": key_id, "wrapped_key": wrapped_key, "master_key": master_key}, Shape("void", None, {})))

    async def send_test(self, endpoint: str, *, payload: Any | None = None) -> int:
        """Sends a test message (topic outbox.test, signed like any other) to an endpoint, once the transaction
        commits. Recorded in outbox.audit. Returns the id for manual_result(). Errors: OB001 no such endpoint,
        22004 payload is null.
        """
        return await self._arun(Call("send_test", {"endpoint": endpoint, "payload": payload}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def set_endpoint_proxy(self, endpoint: str, proxy: str) -> int:
        """Chooses one of the operator's proxies for an endpoint; null: the default proxy, if there is one.
        Returns the id of a control message. Errors: OB001 no such endpoint or proxy.
        """
        return await self._arun(Call("set_endpoint_proxy", {"endpoint": endpoint, "proxy": proxy}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def set_proxy(self, name: str, url: str, *, resolves_names: bool | None = None, is_default: bool | None = None) -> int:
        """Adds a proxy to the list, or changes it. url: http://[user:password@]host:port or socks5://...; null:
        no proxy. is_default: there is one default, so the former one loses this property. Returns the id of a
        control message. Only for the owner of the extension and superusers; it is in no capability. Errors:
        22004 name is null, 22023 name or url is malformed.
        """
        return await self._arun(Call("set_proxy", {"name": name, "url": url, "resolves_names": resolves_names, "is_default": is_default}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def skip_event(self, projection: str, position: int, reason: str, *, version: int | None = None) -> None:
        """Skips the event at which a projection is faulted, and goes on after it. The reason is stored in
        outbox.audit. position: failed_position of the view projections, so that nothing else is skipped.
        Errors: OB001 no such projection, OB004 it is not faulted at this position, OB006 the reason is empty,
        25006 the transaction is read-only.
        """
        await self._arun(Call("skip_event", {"projection": projection, "position": position, "reason": reason, "version": version}, Shape("void", None, {})))

    async def skipped(self, *, topic: str | None = None, max_messages: int | None = None, before: int | None = None) -> list[SkippedRow]:
        """Messages that matched no subscription, newest first, with the reason: no subscription, filtered, or
        inactive (all subscriptions on the topic had ended). topic is a pattern (null: all). At most
        max_messages rows (default 100). before is exclusive; pass the last position of a page to get the next
        page.
        """
        return await self._arun(Call("skipped", {"topic": topic, "max_messages": max_messages, "before": before}, Shape("rows", SkippedRow, {"routed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def stats(self, *, tenant: str | None = None) -> StatsRow:
        """Returns the state of this database's outbox. messages: the last message id; feed_end and routed:
        positions; waiting: deliveries that have not ended; dead_letters: open ones. worker: not preloaded,
        none, starting, running, push off, copied or failing. From pending on: the number of deliveries in each
        state (of a tenant; null: of all); skipped: messages that matched nothing.
        """
        return await self._arun(Call("stats", {"tenant": tenant}, Shape("row", StatsRow, {})))  # type: ignore[no-any-return]

    async def stream_info(self, stream: str) -> StreamInfoRow:
        """Returns what is known of a stream: its category, last version, number of stored events, when the
        first and the last of them were appended, since when it is closed (null: it is open), and the version
        before which it was truncated (1: it was not). Errors: OB001 there is no such stream, 22004 stream is
        null, 22023 it is malformed.
        """
        return await self._arun(Call("stream_info", {"stream": stream}, Shape("row", StreamInfoRow, {"created_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "closed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def stream_key(self, stream: str) -> str:
        """Returns the id of a stream within its category: the part of its name after the first "-". Null if
        there is none.
        """
        return await self._arun(Call("stream_key", {"stream": stream}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def stream_version(self, stream: str) -> int:
        """Returns the last version of a stream; 0: there is no such stream. It is the version as it is now,
        whatever the transaction's snapshot shows. Errors: 22004 stream is null, 22023 it is malformed.
        """
        return await self._arun(Call("stream_version", {"stream": stream}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def streams(self, *, category: str | None = None, after: str | None = None, max_streams: int | None = None) -> list[StreamsRow]:
        """Returns streams with their last versions, in the order of the bytes of their names: up to max_streams
        (default 100; 1 to 10000) after a name (exclusive; empty, the default: from the first one), of a
        category or of all (null, the default). Streams whose events were all removed by truncate_stream() are
        not listed. Errors: 22023 max_streams is out of range or category is malformed, 22004 after is null.
        """
        return await self._arun(Call("streams", {"category": category, "after": after, "max_streams": max_streams}, Shape("rows", StreamsRow, {})))  # type: ignore[no-any-return]

    async def subject_keys(self, subject: str) -> list[SubjectKey]:
        """Returns all data keys of a subject, the revoked ones too, in the order in which they were made.
        Errors: 22004 or 22023 the subject is null or malformed.
        """
        return await self._arun(Call("subject_keys", {"subject": subject}, Shape("rows", SubjectKey, {"wrapped_key": "bytea", "created_at": "timestamp with time zone", "rewrapped_at": "timestamp with time zone", "revoked_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def subscribe(self, name: str, topics: Sequence[str], *, endpoint: str | None = None, filter: Any | None = None, max_attempts: int | None = None, max_age: timedelta | None = None, schedule: Any | None = None, policy: Any | None = None, format: Literal["raw", "envelope", "cloudevents", "cloudevents_structured", "pubsub"] | None = None, batch_size: int | None = None, batch_wait: timedelta | None = None, ordering: Literal["none", "key", "strict"] | None = None, on_exhausted: Literal["skip", "block"] | None = None, ttl: timedelta | None = None, deadline: timedelta | None = None, notify: bool | None = None, max_lag: timedelta | None = None, external_id: str | None = None, labels: Any | None = None, start: str | None = None, url: str | None = None, source: str | None = None, transform: str | None = None) -> int:
        """Creates a subscription: the messages of these topics (patterns; * is one word, # any number of words)
        are sent to an endpoint, or claimed by workers if there is neither endpoint nor url. url: creates an
        endpoint with the subscription's name. filter: further conditions on a message. The other settings are
        described at the columns of outbox.subscription; max_attempts null or below 1 means 12. start: latest
        (the default: messages after the control message whose id is returned), earliest, a position (the first
        to be delivered) or a time. source: messages (the default), events (of streams), or all; it stays until
        unsubscribe(). transform: the signature of a function (message outbox.feed_message) returns jsonb,
        immutable or stable, such as "app.public_part(outbox.feed_message)": its result is sent instead of the
        payload, and null skips the delivery. The function runs as its owner. A name that was unsubscribed is
        taken up again, with its old id. Returns the id of the control message. Errors: OB001 no such endpoint,
        OB009 the start position is not stored or does not exist yet, 42710 the subscription exists already,
        42883 no such function, 42501 the caller does not have the rights of its owner, 22004 topics is null or
        empty, 22023 a setting is malformed or out of range, 54000 a text is too long.
        """
        return await self._arun(Call("subscribe", {"name": name, "topics": topics, "endpoint": endpoint, "filter": filter, "max_attempts": max_attempts, "max_age": max_age, "schedule": schedule, "policy": policy, "format": format, "batch_size": batch_size, "batch_wait": batch_wait, "ordering": ordering, "on_exhausted": on_exhausted, "ttl": ttl, "deadline": deadline, "notify": notify, "max_lag": max_lag, "external_id": external_id, "labels": labels, "start": start, "url": url, "source": source, "transform": transform}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def switch_projection(self, name: str) -> int:
        """Makes the version that is being rebuilt the live one, stops the old one, and returns the new version.
        Swap the view over the tables in the same transaction. The new version is first brought to where the old
        one is, if that is at most ten pages. Errors: OB012 the rebuild has not come far enough, OB001 no such
        projection, OB004 it is not being rebuilt, 25006 the transaction is read-only.
        """
        return await self._arun(Call("switch_projection", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def tail(self) -> int:
        """Returns the first position whose message is still stored, or head() + 1 when none is. read() starts
        there when after_position is 0.
        """
        return await self._arun(Call("tail", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def tick(self) -> int:
        """Gives positions to the messages that are committed now (at most 100000 of them), and returns the last
        position. The dispatcher does this by itself; call the function where there is no dispatcher. Not in a
        transaction block or function. Errors: 25001 in such a transaction, 25006 the transaction is read-only,
        55000 the outbox was restored or copied here and is not adopted, 55P03 another session keeps the
        sequencer for 5 s.
        """
        return await self._arun(Call("tick", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def truncate_stream(self, stream: str, before_version: int, *, reason: str | None = None) -> int:
        """Removes the events of a stream before a version, for good, and returns how many. Their positions stay
        empty, their waiting deliveries are cancelled, and the stream's versions go on. reason is stored in
        outbox.audit. Errors: OB001 there is no such stream, OB003 a worker has one of the events, OB006 the
        reason is empty, 22023 before_version is not between 1 and the version after the last one, 55P03 another
        transaction keeps the stream for 5 s.
        """
        return await self._arun(Call("truncate_stream", {"stream": stream, "before_version": before_version, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def uncapture(self, relation: str) -> bool:
        """Drops the capture of a table, which the caller must own. Returns false if there was none. Errors:
        42501 the caller is not the owner, or the call is within a security-restricted operation.
        """
        return await self._arun(Call("uncapture", {"relation": relation}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def unlock_stale(self, older_than: timedelta, *, subscription: str | None = None) -> int:
        """Takes back every lease that was claimed at least older_than ago, even if the lease has not expired;
        subscription null: of all subscriptions. Leases that another session has locked are skipped. The attempt
        counts as failed, and the deliveries are due again at once, or dead letters after their last attempt.
        Returns the number of deliveries. Errors: 22023 older_than is null or negative, OB001 no such
        subscription.
        """
        return await self._arun(Call("unlock_stale", {"older_than": older_than, "subscription": subscription}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def unsubscribe(self, name: str) -> int:
        """Ends a subscription at the position of the control message whose id is returned. Messages that were
        not delivered by then are logged as skipped, with the reason unsubscribed. The row stays in
        outbox.subscription with deleted_at set. Errors: OB001 no such subscription.
        """
        return await self._arun(Call("unsubscribe", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def upcast(self, type: str, data: Any, *, from_version: int | None = None, to_version: int | None = None) -> Any:
        """Returns the data of an event type as that of a later version. from_version: the version of the data
        (1). to_version null: as far as the upcasters go; data of a type without upcasters is returned as it is.
        Errors: 22023 to_version is before from_version, OB004 a version has no upcaster, 42883 an upcaster is
        gone or has another owner, 22004 an upcaster returned null, and those that an upcaster raises.
        """
        return await self._arun(Call("upcast", {"type": type, "data": data, "from_version": from_version, "to_version": to_version}, Shape("value", None, {})))

    async def validate_event(self, type: str, data: Any, *, version: int | None = None) -> None:
        """Checks data against the schema of an event type. version null: the latest one. Errors: 22023 the data
        is not valid; the detail names the places that are wrong, at most five, and shows no value; OB001 there
        is no such schema.
        """
        await self._arun(Call("validate_event", {"type": type, "data": data, "version": version}, Shape("void", None, {})))

    async def version(self) -> VersionRow:
        """Returns the version of the installed objects (extension), and that of the library that is loaded."""
        return await self._arun(Call("version", {}, Shape("row", VersionRow, {})))  # type: ignore[no-any-return]

    async def webhook_id(self, message_id: int, enqueued_at: datetime) -> str:
        """Returns the webhook id of a message, by which receivers deduplicate. It is the same for every
        attempt, restart, retry and replay (unless the replay asked for new ids).
        """
        return await self._arun(Call("webhook_id", {"message_id": message_id, "enqueued_at": enqueued_at}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def worker_status(self) -> list[WorkerStatusRow]:
        """Returns the state of this database's dispatcher, how far it is, and its last error. state: not
        preloaded, none (there is no such process), starting, running, push off, copied or failing. in_flight:
        requests; queued and unrecorded: deliveries. idle: everything that was committed has been routed, sent
        and recorded. feed_end and routed: positions.
        """
        return await self._arun(Call("worker_status", {}, Shape("rows", WorkerStatusRow, {"started_at": "timestamp with time zone", "last_tick_at": "timestamp with time zone", "last_checkpoint_at": "timestamp with time zone", "last_error_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def audit(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[AuditEntry]:
        """Rows of outbox.audit whose columns equal those of filter."""
        return await self._arun(Call("audit", dict(filter or {}), Shape("rows", AuditEntry, {"at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    async def dead_letter_rows(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[DeadLetterEntry]:
        """Rows of outbox.dead_letter whose columns equal those of filter."""
        return await self._arun(Call("dead_letter", dict(filter or {}), Shape("rows", DeadLetterEntry, {"first_attempt_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone", "created_at": "timestamp with time zone", "dead_at": "timestamp with time zone", "resolved_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    async def dead_letter_status(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[DeadLetterStatusEntry]:
        """Rows of outbox.dead_letter_status whose columns equal those of filter."""
        return await self._arun(Call("dead_letter_status", dict(filter or {}), Shape("rows", DeadLetterStatusEntry, {"body": "bytea", "enqueued_at": "timestamp with time zone", "first_attempt_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone", "created_at": "timestamp with time zone", "dead_at": "timestamp with time zone", "age": "interval", "resolved_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    async def delivery_status(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[DeliveryStatusEntry]:
        """Rows of outbox.delivery_status whose columns equal those of filter."""
        return await self._arun(Call("delivery_status", dict(filter or {}), Shape("rows", DeliveryStatusEntry, {"locked_at": "timestamp with time zone", "lease_expires_at": "timestamp with time zone", "next_attempt_at": "timestamp with time zone", "retry_in": "interval", "expires_at": "timestamp with time zone", "expires_in": "interval", "age": "interval", "created_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "processed_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone", "completed_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    async def endpoints(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[EndpointEntry]:
        """Rows of outbox.endpoint whose columns equal those of filter."""
        return await self._arun(Call("endpoint", dict(filter or {}), Shape("rows", EndpointEntry, {"timeout": "interval", "disable_after": "interval", "disabled_at": "timestamp with time zone", "created_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "deleted_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    async def lease_status(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[LeaseStatusEntry]:
        """Rows of outbox.lease_status whose columns equal those of filter."""
        return await self._arun(Call("lease_status", dict(filter or {}), Shape("rows", LeaseStatusEntry, {"claimed_at": "timestamp with time zone", "age": "interval", "expires_at": "timestamp with time zone", "expires_in": "interval", "deadline_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    async def publishers(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[PublisherEntry]:
        """Rows of outbox.publisher whose columns equal those of filter."""
        return await self._arun(Call("publisher", dict(filter or {}), Shape("rows", PublisherEntry, {"created_at": "timestamp with time zone", "updated_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    async def subscriptions(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[SubscriptionEntry]:
        """Rows of outbox.subscription whose columns equal those of filter."""
        return await self._arun(Call("subscription", dict(filter or {}), Shape("rows", SubscriptionEntry, {"max_age": "interval", "batch_wait": "interval", "ttl": "interval", "deadline": "interval", "max_lag": "interval", "created_at": "timestamp with time zone", "deleted_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    async def subscription_status(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[SubscriptionStatusEntry]:
        """Rows of outbox.subscription_status whose columns equal those of filter."""
        return await self._arun(Call("subscription_status", dict(filter or {}), Shape("rows", SubscriptionStatusEntry, {"created_at": "timestamp with time zone", "lag_age": "interval", "oldest_due_at": "timestamp with time zone", "oldest_due_age": "interval", "last_claim_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    async def topics(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[TopicEntry]:
        """Rows of outbox.topic whose columns equal those of filter."""
        return await self._arun(Call("topic", dict(filter or {}), Shape("rows", TopicEntry, {"created_at": "timestamp with time zone", "updated_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]
