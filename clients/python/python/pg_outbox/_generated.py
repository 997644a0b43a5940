"""A method for each public function of the schema. Made by tools/gen/clients.py from the catalogue: do not edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ._rows import Call, Shape


@dataclass(frozen=True)
class ArchiveEntry:
    """A row of outbox.archive_entry."""

    id: int | None
    webhook_id: str | None
    tenant: str | None
    topic: str | None
    key: str | None
    aggregate_type: str | None
    aggregate_id: str | None
    publisher: str | None
    severity: str | None
    headers: Any | None
    metadata: Any | None
    payload: Any | None
    status: str | None
    integrations_total: int | None
    integrations_matched: int | None
    integrations_succeeded: int | None
    integrations_failed: int | None
    send_results: Any | None
    last_error: str | None
    retry_count: int | None
    created_at: datetime | None
    processed_at: datetime | None


@dataclass(frozen=True)
class ArchiveStatsRow:
    """A row of outbox.archive_stats."""

    completed: int | None
    failed: int | None
    skipped: int | None
    total: int | None


@dataclass(frozen=True)
class Claimed:
    """A row of outbox.claimed."""

    lease: int | None
    lease_expires_at: datetime | None
    delivery_id: int | None
    subscription: str | None
    message_id: int | None
    webhook_id: str | None
    position: int | None
    attempt: int | None
    max_attempts: int | None
    topic: str | None
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
    priority: int | None
    enqueued_at: datetime | None
    occurred_at: datetime | None
    deliver_at: datetime | None
    expires_at: datetime | None
    last_attempt_at: datetime | None
    last_error: str | None


@dataclass(frozen=True)
class CountByStateRow:
    """A row of outbox.count_by_state."""

    state: str | None
    deliveries: int | None


@dataclass(frozen=True)
class CreateEndpointRow:
    """A row of outbox.create_endpoint."""

    endpoint_id: int | None
    signing_secret: str | None
    message_id: int | None


@dataclass(frozen=True)
class CursorState:
    """A row of outbox.cursor_state."""

    consumer: str | None
    stream: str | None
    subject: str | None
    position: int | None
    epoch: int | None
    last_delivery_id: str | None
    last_delivered_at: datetime | None
    last_error: str | None
    updated_at: datetime | None
    lag_positions: int | None
    lag_seconds: float | None
    advanced: bool | None


@dataclass(frozen=True)
class DeadLetterStatsRow:
    """A row of outbox.dead_letter_stats."""

    total: int | None
    unresolved: int | None
    resolved: int | None
    oldest_age_seconds: float | None
    newest_age_seconds: float | None
    top_failure_reason: str | None
    per_subscription: Any | None
    last_updated: datetime | None


@dataclass(frozen=True)
class DeadLetterStatus:
    """A row of outbox.dead_letter_status."""

    dead_letter_id: int | None
    delivery_id: int | None
    subscription: str | None
    endpoint: str | None
    url: str | None
    message_id: int | None
    webhook_id: str | None
    position: int | None
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
    state: str | None
    reason: str | None
    attempt: int | None
    last_status: int | None
    error_class: str | None
    last_error: str | None
    first_attempt_at: datetime | None
    last_attempt_at: datetime | None
    created_at: datetime | None
    dead_at: datetime | None
    age: timedelta | None
    is_old: bool | None
    resolution: str | None
    is_resolved: bool | None
    resolved_at: datetime | None
    resolved_by: str | None
    resolution_note: str | None


@dataclass(frozen=True)
class DescribeScheduleRow:
    """A row of outbox.describe_schedule."""

    attempt: int | None
    wait: timedelta | None
    planned: timedelta | None
    earliest: timedelta | None
    latest: timedelta | None


@dataclass(frozen=True)
class ExplainRoutingRow:
    """A row of outbox.explain_routing."""

    subscription: str | None
    matches: bool | None
    reason: str | None
    version: int | None


@dataclass(frozen=True)
class MessageStatus:
    """A row of outbox.message_status."""

    message_id: int | None
    webhook_id: str | None
    state: str | None
    topic: str | None
    key: str | None
    tenant: str | None
    aggregate_type: str | None
    aggregate_id: str | None
    publisher: str | None
    priority: int | None
    enqueued_at: datetime | None
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
class HealthRow:
    """A row of outbox.health."""

    check: str | None
    state: str | None
    culprit: str | None
    what_to_do: str | None


@dataclass(frozen=True)
class HistoryRow:
    """A row of outbox.history."""

    at: datetime | None
    what: str | None
    subscription: str | None
    endpoint: str | None
    attempt: int | None
    status: int | None
    detail: str | None


@dataclass(frozen=True)
class MaintainRow:
    """A row of outbox.maintain."""

    job: str | None
    result: str | None
    rows: int | None
    bytes: int | None
    held_by: str | None


@dataclass(frozen=True)
class ManualResultRow:
    """A row of outbox.manual_result."""

    state: str | None
    started_at: datetime | None
    finished_at: datetime | None
    status: int | None
    error: str | None
    response_body: str | None


@dataclass(frozen=True)
class MetricsRow:
    """A row of outbox.metrics."""

    name: str | None
    labels: Any | None
    value: float | None


@dataclass(frozen=True)
class NotificationEntry:
    """A row of outbox.notification_entry."""

    message_id: int | None
    subscription: str | None
    identifier: str | None
    topic_code: str | None
    subscriber: str | None
    subscriber_type: str | None
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

    public_key: str | None
    created_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True)
class PurgeRow:
    """A row of outbox.purge."""

    rows: int | None
    bytes: int | None


@dataclass(frozen=True)
class FeedMessage:
    """A row of outbox.feed_message."""

    position: int | None
    epoch: int | None
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


@dataclass(frozen=True)
class RotateSecretRow:
    """A row of outbox.rotate_secret."""

    signing_secret: str | None
    message_id: int | None


@dataclass(frozen=True)
class SkippedRow:
    """A row of outbox.skipped."""

    position: int | None
    message_id: int | None
    message_topic: str | None
    reason: str | None
    routed_at: datetime | None


@dataclass(frozen=True)
class StatsRow:
    """A row of outbox.stats."""

    messages: int | None
    feed_end: int | None
    routed: int | None
    waiting: int | None
    dead_letters: int | None
    worker: str | None
    in_flight: int | None
    queued: int | None
    pending: int | None
    processing: int | None
    completed: int | None
    failed: int | None
    dead: int | None
    skipped: int | None
    expired: int | None
    cancelled: int | None
    total: int | None


@dataclass(frozen=True)
class VersionRow:
    """A row of outbox.version."""

    extension: str | None
    library: str | None


@dataclass(frozen=True)
class WorkerStatusRow:
    """A row of outbox.worker_status."""

    state: str | None
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

    id: int | None
    at: datetime | None
    actor: str | None
    action: str | None
    object: str | None
    reason: str | None
    detail: Any | None


@dataclass(frozen=True)
class DeadLetterEntry:
    """A row of outbox.dead_letter."""

    id: int | None
    delivery_id: int | None
    subscription_id: int | None
    endpoint_id: int | None
    position: int | None
    message_id: int | None
    message_segment: int | None
    attempt: int | None
    state: str | None
    reason: str | None
    key: str | None
    last_status: int | None
    last_error_class: str | None
    last_error: str | None
    url: str | None
    first_attempt_at: datetime | None
    last_attempt_at: datetime | None
    created_at: datetime | None
    dead_at: datetime | None
    resolution: str | None
    resolved_at: datetime | None
    resolved_by: str | None
    resolution_note: str | None


@dataclass(frozen=True)
class DeadLetterStatusEntry:
    """A row of outbox.dead_letter_status."""

    dead_letter_id: int | None
    delivery_id: int | None
    subscription: str | None
    endpoint: str | None
    url: str | None
    message_id: int | None
    webhook_id: str | None
    position: int | None
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
    state: str | None
    reason: str | None
    attempt: int | None
    last_status: int | None
    error_class: str | None
    last_error: str | None
    first_attempt_at: datetime | None
    last_attempt_at: datetime | None
    created_at: datetime | None
    dead_at: datetime | None
    age: timedelta | None
    is_old: bool | None
    resolution: str | None
    is_resolved: bool | None
    resolved_at: datetime | None
    resolved_by: str | None
    resolution_note: str | None


@dataclass(frozen=True)
class DeliveryStatusEntry:
    """A row of outbox.delivery_status."""

    delivery_id: int | None
    subscription: str | None
    endpoint: str | None
    message_id: int | None
    position: int | None
    pull: bool | None
    state: str | None
    attempt: int | None
    max_attempts: int | None
    retry_count: int | None
    can_retry: bool | None
    priority: int | None
    locked_by: str | None
    locked_at: datetime | None
    lease_expires_at: datetime | None
    next_attempt_at: datetime | None
    retry_in: timedelta | None
    expires_at: datetime | None
    expires_in: timedelta | None
    age: timedelta | None
    is_due: bool | None
    is_expired: bool | None
    is_blocked: bool | None
    last_status: int | None
    error_class: str | None
    last_error: str | None
    created_at: datetime | None
    updated_at: datetime | None
    processed_at: datetime | None
    last_attempt_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True)
class EndpointEntry:
    """A row of outbox.endpoint."""

    id: int | None
    name: str | None
    url: str | None
    kind: str | None
    subscriber_type: str | None
    tenant: str | None
    headers: Any | None
    timeout: timedelta | None
    concurrency: int | None
    rate: float | None
    burst: float | None
    schedule: Any | None
    policy: Any | None
    breaker: Any | None
    protocol: str | None
    compress: bool | None
    response_id: str | None
    keep_headers: list[str] | None
    disable_after: timedelta | None
    disable_failures: int | None
    consent: str | None
    active: bool | None
    disabled_mode: str | None
    disabled_reason: str | None
    disabled_at: datetime | None
    created_at: datetime | None
    updated_at: datetime | None
    deleted_at: datetime | None
    proxy: str | None


@dataclass(frozen=True)
class PublisherEntry:
    """A row of outbox.publisher."""

    code: str | None
    active: bool | None
    topic_template: str | None
    topic_function: str | None
    topic_function_owner: str | None
    name: str | None
    description: str | None
    created_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True)
class SubscriptionEntry:
    """A row of outbox.subscription."""

    id: int | None
    name: str | None
    endpoint_id: int | None
    max_attempts: int | None
    max_age: timedelta | None
    schedule: Any | None
    policy: Any | None
    format: str | None
    batch_size: int | None
    batch_wait: timedelta | None
    ordering: str | None
    on_exhausted: str | None
    ttl: timedelta | None
    deadline: timedelta | None
    notify: bool | None
    max_lag: timedelta | None
    external_id: str | None
    labels: Any | None
    paused: bool | None
    created_at: datetime | None
    deleted_at: datetime | None


@dataclass(frozen=True)
class TopicEntry:
    """A row of outbox.topic."""

    code: str | None
    active: bool | None
    name: str | None
    description: str | None
    created_at: datetime | None
    updated_at: datetime | None


class AdminMethods:
    """Blocking calls."""

    def _run(self, call: Call) -> Any:
        raise NotImplementedError

    def adopt(self, *, reason: str | None = None) -> int | None:
        """Makes data that was restored or copied here this database's own: numbers what has no position yet, in
        a new epoch, and lets the dispatcher push. Returns the last position.
        """
        return self._run(Call("adopt", {"reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def alter_endpoint(self, name: str, *, url: str | None = None, headers: Any | None = None, timeout: timedelta | None = None, concurrency: int | None = None, tenant: str | None = None, auth: Any | None = None, tls: Any | None = None, rate: float | None = None, burst: float | None = None, schedule: Any | None = None, policy: Any | None = None, breaker: Any | None = None, protocol: str | None = None, compress: bool | None = None, response_id: str | None = None, keep_headers: Sequence[str] | None = None, disable_after: timedelta | None = None, disable_failures: int | None = None, new_name: str | None = None, subscriber_type: str | None = None) -> int | None:
        """Changes what is given and leaves the rest; JSON null, 0 and the empty text take a setting away."""
        return self._run(Call("alter_endpoint", {"name": name, "url": url, "headers": headers, "timeout": timeout, "concurrency": concurrency, "tenant": tenant, "auth": auth, "tls": tls, "rate": rate, "burst": burst, "schedule": schedule, "policy": policy, "breaker": breaker, "protocol": protocol, "compress": compress, "response_id": response_id, "keep_headers": keep_headers, "disable_after": disable_after, "disable_failures": disable_failures, "new_name": new_name, "subscriber_type": subscriber_type}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def alter_publisher(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None, topic_template: str | None = None, topic_function: str | None = None) -> None:
        """Changes a registered publisher; null leaves a value as it is, an empty template or function takes it
        away.
        """
        self._run(Call("alter_publisher", {"code": code, "name": name, "description": description, "active": active, "topic_template": topic_template, "topic_function": topic_function}, Shape("void", None, {})))

    def alter_subscription(self, name: str, *, topics: Sequence[str] | None = None, filter: Any | None = None, endpoint: str | None = None, max_attempts: int | None = None, max_age: timedelta | None = None, schedule: Any | None = None, policy: Any | None = None, format: str | None = None, batch_size: int | None = None, batch_wait: timedelta | None = None, ordering: str | None = None, on_exhausted: str | None = None, ttl: timedelta | None = None, deadline: timedelta | None = None, notify: bool | None = None, max_lag: timedelta | None = None, external_id: str | None = None, labels: Any | None = None, reset: Sequence[str] | None = None) -> int | None:
        """Changes a subscription; null leaves a setting as it is, reset names those that go back to their
        default. Topics and filter hold behind the position of the message whose id is returned, pushed or
        pulled.
        """
        return self._run(Call("alter_subscription", {"name": name, "topics": topics, "filter": filter, "endpoint": endpoint, "max_attempts": max_attempts, "max_age": max_age, "schedule": schedule, "policy": policy, "format": format, "batch_size": batch_size, "batch_wait": batch_wait, "ordering": ordering, "on_exhausted": on_exhausted, "ttl": ttl, "deadline": deadline, "notify": notify, "max_lag": max_lag, "external_id": external_id, "labels": labels, "reset": reset}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def alter_topic(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None) -> None:
        """Changes a registered topic; null leaves a value as it is. An inactive topic refuses messages (OB007)
        from the commit on.
        """
        self._run(Call("alter_topic", {"code": code, "name": name, "description": description, "active": active}, Shape("void", None, {})))

    def archive_get(self, message_id: int) -> ArchiveEntry:
        """What a message came to, with the result of each delivery; OB001: no such message, or it is still
        open.
        """
        return self._run(Call("archive_get", {"message_id": message_id}, Shape("row", ArchiveEntry, {"created_at": "timestamp with time zone", "processed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def archive_list(self, *, tenant: str | None = None, status: str | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, endpoint: str | None = None, max_rows: int | None = None, before: int | None = None) -> list[ArchiveEntry]:
        """What messages came to, newest first, a page at a time: give the last id as before. Each page looks at
        up to 1,000 messages of the tenant, the aggregate or all, for those of an endpoint at 10,000: a last row
        without a status holds no message but the id to go on with.
        """
        return self._run(Call("archive_list", {"tenant": tenant, "status": status, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "endpoint": endpoint, "max_rows": max_rows, "before": before}, Shape("rows", ArchiveEntry, {"created_at": "timestamp with time zone", "processed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def archive_stats(self, *, tenant: str | None = None) -> ArchiveStatsRow:
        """What the last 1,000 messages (of a tenant) came to."""
        return self._run(Call("archive_stats", {"tenant": tenant}, Shape("row", ArchiveStatsRow, {})))  # type: ignore[no-any-return]

    def cancel(self, message_id: int, *, actor: str | None = None, reason: str | None = None) -> int | None:
        """Ends what of a message is not delivered yet; what a worker or a request has is not tried again if it
        fails. Returns how many waiting deliveries that ended. OB001 no such message, OB002 nothing is left to
        cancel, OB003 all that is left is leased.
        """
        return self._run(Call("cancel", {"message_id": message_id, "actor": actor, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def cancel_replay(self, replay_id: int) -> int | None:
        """Ends a replay; returns how many deliveries that were waiting it cancelled. What is in flight ends by
        itself.
        """
        return self._run(Call("cancel_replay", {"replay_id": replay_id}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def capture(self, relation: str, *, topic: str | None = None, key_columns: Sequence[str] | None = None, operations: Sequence[str] | None = None, columns: Sequence[str] | None = None, condition: str | None = None, include_old: bool | None = None, style: str | None = None, tenant_column: str | None = None, replicated: bool | None = None, oversize: str | None = None) -> None:
        """Turns changes of a table's rows into messages, in the transaction that makes them; the caller must
        own it. Called again, it replaces what it did before: do so when partitions were added. Styles: change,
        row, debezium. A payload that is too large fails the statement (oversize => fail), is skipped with a
        warning (skip), or is the key without images (reference).
        """
        self._run(Call("capture", {"relation": relation, "topic": topic, "key_columns": key_columns, "operations": operations, "columns": columns, "condition": condition, "include_old": include_old, "style": style, "tenant_column": tenant_column, "replicated": replicated, "oversize": oversize}, Shape("void", None, {})))

    def claim(self, subscription: str, worker: str, *, max_messages: int | None = None, lease: timedelta | None = None) -> list[Claimed]:
        """Leases up to max_messages deliveries of a pull subscription that are due: highest priority first,
        then longest due, then in order. No other worker gets them until the lease ends. Commit before the work
        starts: that is what counts the try.
        """
        return self._run(Call("claim", {"subscription": subscription, "worker": worker, "max_messages": max_messages, "lease": lease}, Shape("rows", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def claim_delivery(self, delivery_id: int, worker: str, *, lease: timedelta | None = None) -> Claimed:
        """Leases one delivery. Raises what stands in the way: OB001 no such delivery, OB002 ended, OB003
        leased, OB004 pushed, OB007 the subscription has ended, OB010 expired, OB011 no tries left, OB012 not
        due or behind its key.
        """
        return self._run(Call("claim_delivery", {"delivery_id": delivery_id, "worker": worker, "lease": lease}, Shape("row", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def complete(self, lease: int, *, delivery_ids: Sequence[int] | None = None, results: Any | None = None) -> list[int]:
        """Ends deliveries of a lease as done, all of them or those that are named; returns the ids that were:
        what is missing was lost to another lease. results: one element per id, the receiver's id as a string or
        an object {total, matched, succeeded, failed, send_results}.
        """
        return self._run(Call("complete", {"lease": lease, "delivery_ids": delivery_ids, "results": results}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def complete_and_claim(self, done: int, subscription: str, worker: str, *, max_messages: int | None = None, lease: timedelta | None = None) -> list[Claimed]:
        """Completes all that a lease still holds (done; null: nothing) and claims what comes next, in one
        transaction: both or neither. OB003: the lease is lost. No rows: ask once more without done before you
        wait, what was completed may have let others in.
        """
        return self._run(Call("complete_and_claim", {"done": done, "subscription": subscription, "worker": worker, "max_messages": max_messages, "lease": lease}, Shape("rows", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def count_by_state(self, *, tenant: str | None = None) -> list[CountByStateRow]:
        """Deliveries in each state. Over all tenants completed and cancelled are counted since the beginning,
        from counters; for one tenant among what is still stored, through the tenant's index: as long as that
        tenant has messages.
        """
        return self._run(Call("count_by_state", {"tenant": tenant}, Shape("rows", CountByStateRow, {})))  # type: ignore[no-any-return]

    def count_messages(self, *, tenant: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, topic: str | None = None) -> int | None:
        """The total for a list_messages() with limit and offset; 10,000 means at least that many."""
        return self._run(Call("count_messages", {"tenant": tenant, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "topic": topic}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def create_endpoint(self, name: str, url: str, *, secret: str | None = None, headers: Any | None = None, timeout: timedelta | None = None, concurrency: int | None = None, tenant: str | None = None, kind: str | None = None, auth: Any | None = None, tls: Any | None = None, signature: str | None = None, rate: float | None = None, burst: float | None = None, schedule: Any | None = None, policy: Any | None = None, breaker: Any | None = None, protocol: str | None = None, compress: bool | None = None, response_id: str | None = None, keep_headers: Sequence[str] | None = None, disable_after: timedelta | None = None, disable_failures: int | None = None, consent: bool | None = None, subscriber_type: str | None = None) -> CreateEndpointRow:
        """Makes an HTTP target. The row that is returned is the only place where the signing secret is
        shown."""
        return self._run(Call("create_endpoint", {"name": name, "url": url, "secret": secret, "headers": headers, "timeout": timeout, "concurrency": concurrency, "tenant": tenant, "kind": kind, "auth": auth, "tls": tls, "signature": signature, "rate": rate, "burst": burst, "schedule": schedule, "policy": policy, "breaker": breaker, "protocol": protocol, "compress": compress, "response_id": response_id, "keep_headers": keep_headers, "disable_after": disable_after, "disable_failures": disable_failures, "consent": consent, "subscriber_type": subscriber_type}, Shape("row", CreateEndpointRow, {})))  # type: ignore[no-any-return]

    def create_publisher(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None, topic_template: str | None = None, topic_function: str | None = None) -> None:
        """Registers a producer. topic_template ("{tenant}.{topic}") or topic_function decide the topic of its
        messages.
        """
        self._run(Call("create_publisher", {"code": code, "name": name, "description": description, "active": active, "topic_template": topic_template, "topic_function": topic_function}, Shape("void", None, {})))

    def create_topic(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None) -> None:
        """Registers a topic; needed only to describe it, to switch it off, or with pg_outbox.require_topic."""
        self._run(Call("create_topic", {"code": code, "name": name, "description": description, "active": active}, Shape("void", None, {})))

    def cursor_advance(self, consumer: str, position: int, *, stream: str | None = None, subject: str | None = None, delivery_id: str | None = None, delivered_at: datetime | None = None, expected_position: int | None = None, epoch: int | None = None) -> CursorState:
        """Confirms everything up to a position. Equal to where the cursor stands: advanced is false. With
        expected_position it is a compare-and-set (OB005 when another instance was first).
        """
        return self._run(Call("cursor_advance", {"consumer": consumer, "position": position, "stream": stream, "subject": subject, "delivery_id": delivery_id, "delivered_at": delivered_at, "expected_position": expected_position, "epoch": epoch}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def cursor_delete(self, consumer: str, reason: str, *, stream: str | None = None, subject: str | None = None) -> None:
        """Removes a cursor; the reason is required (OB006) and kept in outbox.audit."""
        self._run(Call("cursor_delete", {"consumer": consumer, "reason": reason, "stream": stream, "subject": subject}, Shape("void", None, {})))

    def cursor_get(self, consumer: str, *, stream: str | None = None, subject: str | None = None, if_missing: int | None = None) -> CursorState:
        """A consumer's cursor; OB001 when there is none, unless if_missing says which position to show then."""
        return self._run(Call("cursor_get", {"consumer": consumer, "stream": stream, "subject": subject, "if_missing": if_missing}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def cursor_list(self, *, consumer: str | None = None, stream: str | None = None, subject: str | None = None, max_rows: int | None = None) -> list[CursorState]:
        """Cursors by stream, subject and consumer; null selects all; max_rows 0: no limit."""
        return self._run(Call("cursor_list", {"consumer": consumer, "stream": stream, "subject": subject, "max_rows": max_rows}, Shape("rows", CursorState, {"last_delivered_at": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def cursor_record_error(self, consumer: str, error: str, *, stream: str | None = None, subject: str | None = None) -> CursorState:
        """Notes what went wrong (at most 2000 characters of it) without moving the cursor; makes it at 0 if
        there is none.
        """
        return self._run(Call("cursor_record_error", {"consumer": consumer, "error": error, "stream": stream, "subject": subject}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def cursor_reset(self, consumer: str, position: int, reason: str, *, stream: str | None = None, subject: str | None = None, delivery_id: str | None = None, delivered_at: datetime | None = None) -> CursorState:
        """Moves a cursor anywhere, back as well; makes it if there is none. The reason is required (OB006) and
        kept in outbox.audit.
        """
        return self._run(Call("cursor_reset", {"consumer": consumer, "position": position, "reason": reason, "stream": stream, "subject": subject, "delivery_id": delivery_id, "delivered_at": delivered_at}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def dead(self, lease: int, delivery_ids: Sequence[int], reason: str) -> list[int]:
        """Ends deliveries of a lease (null: all) as dead letters at once: no try will help. Returns the ids
        that were changed.
        """
        return self._run(Call("dead", {"lease": lease, "delivery_ids": delivery_ids, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def dead_letter_stats(self) -> DeadLetterStatsRow:
        """Dead letters in numbers: ages are those of open ones, in seconds; per_subscription: name to total and
        unresolved.
        """
        return self._run(Call("dead_letter_stats", {}, Shape("row", DeadLetterStatsRow, {"last_updated": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def dead_letters_older_than(self, older_than: timedelta) -> list[DeadLetterStatus]:
        """Open dead letters that died longer ago than this."""
        return self._run(Call("dead_letters_older_than", {"older_than": older_than}, Shape("rows", DeadLetterStatus, {"body": "bytea", "enqueued_at": "timestamp with time zone", "first_attempt_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone", "created_at": "timestamp with time zone", "dead_at": "timestamp with time zone", "age": "interval", "resolved_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def delete_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Removes a dead letter, in whatever state; what it was is kept in outbox.audit."""
        self._run(Call("delete_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    def describe_schedule(self, subscription: str) -> list[DescribeScheduleRow]:
        """When the tries of a subscription are made, counted from the first: planned, and with the least and
        the most jitter.
        """
        return self._run(Call("describe_schedule", {"subscription": subscription}, Shape("rows", DescribeScheduleRow, {"wait": "interval", "planned": "interval", "earliest": "interval", "latest": "interval"})))  # type: ignore[no-any-return]

    def disable_endpoint(self, name: str, *, reason: str | None = None, mode: str | None = None) -> int | None:
        """Sends nothing to an endpoint until enable_endpoint(). hold: deliveries wait; skip: they are recorded
        as skipped.
        """
        return self._run(Call("disable_endpoint", {"name": name, "reason": reason, "mode": mode}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def drop_endpoint(self, name: str) -> int | None:
        """Removes an endpoint that no subscription uses, with its secrets; what waits for a retry there is
        recorded as skipped.
        """
        return self._run(Call("drop_endpoint", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def drop_proxy(self, name: str) -> int | None:
        """Takes a proxy that no endpoint has chosen from the list; for the owner alone."""
        return self._run(Call("drop_proxy", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def enable_endpoint(self, name: str) -> int | None:
        """Sends again, first what has waited, failed deliveries at once; breaker, pause and count of failures
        start afresh.
        """
        return self._run(Call("enable_endpoint", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def erase(self, message_id: int, *, actor: str | None = None, reason: str | None = None) -> None:
        """Removes what a message says (payload, body, headers, metadata, responses) and ends what of it is not
        delivered yet; ids, positions and counts stay. The reason is required (OB006). OB003 while a worker has
        it.
        """
        self._run(Call("erase", {"message_id": message_id, "actor": actor, "reason": reason}, Shape("void", None, {})))

    def explain_routing(self, topic: str, *, payload: Any | None = None, key: str | None = None, headers: Any | None = None, tenant: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, at_position: int | None = None) -> list[ExplainRoutingRow]:
        """Which subscriptions a message would match, and why others would not; at_position: which did at that
        place.
        """
        return self._run(Call("explain_routing", {"topic": topic, "payload": payload, "key": key, "headers": headers, "tenant": tenant, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "at_position": at_position}, Shape("rows", ExplainRoutingRow, {})))  # type: ignore[no-any-return]

    def extend(self, lease: int, *, duration: timedelta | None = None) -> datetime | None:
        """Moves the end of a lease to this long from now, but not beyond the subscription's deadline; returns
        it. OB003: the lease is lost.
        """
        return self._run(Call("extend", {"lease": lease, "duration": duration}, Shape("value", None, {"": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def fail(self, lease: int, delivery_ids: Sequence[int], error: str, *, retry_after: timedelta | None = None) -> list[int]:
        """Ends a try of deliveries of a lease (null: of all) as failed: tried again after retry_after, else by
        the subscription's schedule; dead letters after the last try. Returns the ids that were changed.
        """
        return self._run(Call("fail", {"lease": lease, "delivery_ids": delivery_ids, "error": error, "retry_after": retry_after}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def get_message(self, message_id: int) -> MessageStatus:
        """One message with its state; OB001: it does not exist or retention has removed it."""
        return self._run(Call("get_message", {"message_id": message_id}, Shape("row", MessageStatus, {"enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "body": "bytea"})))  # type: ignore[no-any-return]

    def grant_consent(self, endpoint: str, *, rate_per_minute: int | None = None) -> int | None:
        """Takes consent as given, for receivers that gave it by other means than the handshake."""
        return self._run(Call("grant_consent", {"endpoint": endpoint, "rate_per_minute": rate_per_minute}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def grant_to(self, role: str, capability: str, *, subscriptions: Sequence[str] | None = None, topics: Sequence[str] | None = None, tenants: Sequence[str] | None = None, publishers: Sequence[str] | None = None, consumers: Sequence[str] | None = None) -> None:
        """Grants a role one of the capabilities publish, capture, consume, observe, monitor, admin, or changes
        what is left of it. publish can be narrowed to topics (patterns), tenants and publishers; consume to
        subscriptions, topics (for read()) and consumers (of cursors), of which those that are not named are not
        left; monitor to tenants.
        """
        self._run(Call("grant_to", {"role": role, "capability": capability, "subscriptions": subscriptions, "topics": topics, "tenants": tenants, "publishers": publishers, "consumers": consumers}, Shape("void", None, {})))

    def head(self) -> int | None:
        """The last position of the feed; 0 when it is empty."""
        return self._run(Call("head", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def health(self) -> list[HealthRow]:
        """One row per check: ok, warning or critical, who or what it is, and what to do. Fit for an alert on
        state <> 'ok'.
        """
        return self._run(Call("health", {}, Shape("rows", HealthRow, {})))  # type: ignore[no-any-return]

    def history(self, message_id: int) -> list[HistoryRow]:
        """Everything that happened to one message, in order of time."""
        return self._run(Call("history", {"message_id": message_id}, Shape("rows", HistoryRow, {"at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def ignore_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Marks an open dead letter as not worth dealing with; OB004: it is not open."""
        self._run(Call("ignore_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    def is_terminal(self, state: str) -> bool | None:
        """Whether a delivery or message in this state is not tried again by itself."""
        return self._run(Call("is_terminal", {"state": state}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def list_messages(self, *, tenant: str | None = None, state: str | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, severity: str | None = None, max_messages: int | None = None, before: int | None = None, skip: int | None = None) -> list[MessageStatus]:
        """Messages, newest first, a page at a time: give the last id as before. By tenant and by aggregate
        through an index; by state pending, processing, failed, dead or expired through the deliveries; topic
        and severity are looked for in at most 10,000 messages, completed, cancelled and skipped in at most
        1,000, per page: a last row without a topic holds no message but the id to go on with.
        """
        return self._run(Call("list_messages", {"tenant": tenant, "state": state, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "severity": severity, "max_messages": max_messages, "before": before, "skip": skip}, Shape("rows", MessageStatus, {"enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "body": "bytea"})))  # type: ignore[no-any-return]

    def maintain(self) -> list[MaintainRow]:
        """Rotates, reclaims and trims now whatever the settings allow, and says what it did. The dispatcher
        does this by itself.
        """
        return self._run(Call("maintain", {}, Shape("rows", MaintainRow, {})))  # type: ignore[no-any-return]

    def manual_result(self, manual_send_id: int) -> list[ManualResultRow]:
        """What came of send_test() or resend(): waiting, completed or failed."""
        return self._run(Call("manual_result", {"manual_send_id": manual_send_id}, Shape("rows", ManualResultRow, {"started_at": "timestamp with time zone", "finished_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def metrics(self) -> list[MetricsRow]:
        """Figures for a monitoring system. Names ending in _total and _count only grow; labels name
        subscription, endpoint, state, consumer, ring. _enqueued_total counts what was rolled back as well.
        """
        return self._run(Call("metrics", {}, Shape("rows", MetricsRow, {})))  # type: ignore[no-any-return]

    def move_to_dead_letters(self, delivery_id: int, reason: str, *, actor: str | None = None) -> int | None:
        """Makes a waiting delivery a dead letter, and returns that one's id. OB001 no such delivery, OB002 it
        has ended, OB003 a worker has it.
        """
        return self._run(Call("move_to_dead_letters", {"delivery_id": delivery_id, "reason": reason, "actor": actor}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def notification_log(self, *, message_id: int | None = None, tenant: str | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, max_rows: int | None = None, before: int | None = None, subscription: str | None = None) -> list[NotificationEntry]:
        """What was sent to whom: of one message, or of the latest messages of a tenant, topic or aggregate, a
        page at a time (give the last message id as before). With a subscription, up to max_rows rows of it
        among 10,000 messages per page. A last row without a topic code holds nothing but the id to go on with.
        """
        return self._run(Call("notification_log", {"message_id": message_id, "tenant": tenant, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "max_rows": max_rows, "before": before, "subscription": subscription}, Shape("rows", NotificationEntry, {"sent_at": "timestamp with time zone", "created_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def pause_subscription(self, name: str) -> int | None:
        """Holds a subscription: what is routed to it waits, nothing is sent or can be claimed, until resume().
        Its messages are kept.
        """
        return self._run(Call("pause_subscription", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def public_keys(self, endpoint: str) -> list[PublicKeysRow]:
        """What receivers verify v1a signatures of this endpoint with, the current key first; nothing for v1."""
        return self._run(Call("public_keys", {"endpoint": endpoint}, Shape("rows", PublicKeysRow, {"created_at": "timestamp with time zone", "expires_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def purge(self, what: str, older_than: timedelta, *, include_unresolved: bool | None = None, dry_run: bool | None = None) -> PurgeRow:
        """Removes what is older than an interval, by hand: completed (messages), attempts, archive (messages
        with their attempts and routing; rows are messages), dead_letters, idempotency. Logs go in whole
        segments. Never what is still needed; null, zero or below: for ever; dry_run says what it would be.
        """
        return self._run(Call("purge", {"what": what, "older_than": older_than, "include_unresolved": include_unresolved, "dry_run": dry_run}, Shape("row", PurgeRow, {})))  # type: ignore[no-any-return]

    def read(self, after_position: int, *, max_messages: int | None = None, topics: Sequence[str] | None = None, filter: Any | None = None, epoch: int | None = None) -> list[FeedMessage]:
        """Messages behind a position (0: from the first that is stored), in order; go on behind the last row. A
        row whose message_id is null holds no message: nothing matched up to there. With the epoch in which the
        position was read, a lost history is noticed (OB009).
        """
        return self._run(Call("read", {"after_position": after_position, "max_messages": max_messages, "topics": topics, "filter": filter, "epoch": epoch}, Shape("rows", FeedMessage, {"body": "bytea", "occurred_at": "timestamp with time zone", "enqueued_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def release(self, lease: int, *, delivery_ids: Sequence[int] | None = None) -> list[int]:
        """Gives deliveries of a lease (null: all) back unharmed: due as before, the try does not count. Returns
        the ids.
        """
        return self._run(Call("release", {"lease": lease, "delivery_ids": delivery_ids}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def replay(self, subscription: str, *, from_position: int | None = None, to_position: int | None = None, filter: Any | None = None, new_ids: bool | None = None, rate: int | None = None, from_time: datetime | None = None, to_time: datetime | None = None) -> int | None:
        """Delivers again what a subscription matched between two positions (or times), at most rate messages
        per second beside live traffic; returns the replay's id. The webhook ids are the same unless new_ids.
        """
        return self._run(Call("replay", {"subscription": subscription, "from_position": from_position, "to_position": to_position, "filter": filter, "new_ids": new_ids, "rate": rate, "from_time": from_time, "to_time": to_time}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def request_consent(self, endpoint: str) -> int | None:
        """Asks the receiver whether it wants our messages, by the CloudEvents webhook handshake; until it does,
        deliveries wait.
        """
        return self._run(Call("request_consent", {"endpoint": endpoint}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def requeue(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> int | None:
        """Makes the delivery of a dead letter due now, with all its tries; the receiver sees the same webhook
        id. Returns the delivery's id. OB004: requeued already, or the message is gone.
        """
        return self._run(Call("requeue", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def requeue_all(self, *, actor: str | None = None, subscription: str | None = None, reason: str | None = None, topic: str | None = None, dead_after: datetime | None = None, dead_before: datetime | None = None, note: str | None = None, max_rows: int | None = None, dry_run: bool | None = None) -> int | None:
        """Requeues up to max_rows open dead letters, oldest first: of a subscription, reason, topic, time.
        dry_run only counts. Returns how many.
        """
        return self._run(Call("requeue_all", {"actor": actor, "subscription": subscription, "reason": reason, "topic": topic, "dead_after": dead_after, "dead_before": dead_before, "note": note, "max_rows": max_rows, "dry_run": dry_run}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def reschedule(self, delivery_id: int, due_at: datetime, *, actor: str | None = None, priority: int | None = None, expires_at: datetime | None = None) -> None:
        """Changes when a waiting delivery is tried, its priority and its end. OB001 no such delivery, OB002 it
        has ended, OB003 a worker has it.
        """
        self._run(Call("reschedule", {"delivery_id": delivery_id, "due_at": due_at, "actor": actor, "priority": priority, "expires_at": expires_at}, Shape("void", None, {})))

    def resend(self, message_id: int, subscription: str) -> int | None:
        """Sends one message once more to one subscription, whatever became of it: one try outside its budget,
        under the same webhook id; manual_result() shows what came of it.
        """
        return self._run(Call("resend", {"message_id": message_id, "subscription": subscription}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def resolve_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Marks an open dead letter as dealt with in another way; OB004: it is not open."""
        self._run(Call("resolve_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    def resume_subscription(self, name: str) -> int | None:
        """Goes on with a paused subscription from where it stood."""
        return self._run(Call("resume_subscription", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def retry(self, message_id: int, subscription: str, *, actor: str | None = None) -> int | None:
        """Makes a failed, waiting, dead or expired delivery of a message due now, its tries counted anew. OB001
        there is none, OB002 it was completed, OB003 a worker has it, OB004 its message was erased or is gone.
        """
        return self._run(Call("retry", {"message_id": message_id, "subscription": subscription, "actor": actor}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def revoke_from(self, role: str, capability: str) -> bool | None:
        """Takes a capability back from a role; what another capability of the role needs stays. false: the role
        did not have it by grant_to().
        """
        return self._run(Call("revoke_from", {"role": role, "capability": capability}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def rotate(self, *, ring: str | None = None) -> str | None:
        """Has new rows go to the next leaf now: rotated, empty (nothing to leave behind) or full (the next leaf
        still holds rows).
        """
        return self._run(Call("rotate", {"ring": ring}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def rotate_secret(self, name: str, *, secret: str | None = None, overlap: timedelta | None = None) -> RotateSecretRow:
        """Gives an endpoint a new secret, shown here alone; the old one signs beside it until the overlap has
        passed.
        """
        return self._run(Call("rotate_secret", {"name": name, "secret": secret, "overlap": overlap}, Shape("row", RotateSecretRow, {})))  # type: ignore[no-any-return]

    def send_test(self, endpoint: str, *, payload: Any | None = None) -> int | None:
        """Sends a test message (topic outbox.test), signed as any other, to an endpoint when the transaction
        commits; manual_result() shows what came of it.
        """
        return self._run(Call("send_test", {"endpoint": endpoint, "payload": payload}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def set_endpoint_proxy(self, endpoint: str, proxy: str) -> int | None:
        """Chooses one of the operator's proxies for an endpoint; null: the default one, if there is one."""
        return self._run(Call("set_endpoint_proxy", {"endpoint": endpoint, "proxy": proxy}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def set_proxy(self, name: str, url: str, *, resolves_names: bool | None = None, is_default: bool | None = None) -> int | None:
        """Lists or changes a proxy; url null: no proxy. In no capability: for the owner of the extension and
        superusers alone.
        """
        return self._run(Call("set_proxy", {"name": name, "url": url, "resolves_names": resolves_names, "is_default": is_default}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def skipped(self, *, topic: str | None = None, max_messages: int | None = None, before: int | None = None) -> list[SkippedRow]:
        """Messages that matched no subscription, newest first, with the reason: no subscription, filtered,
        inactive. topic is a pattern.
        """
        return self._run(Call("skipped", {"topic": topic, "max_messages": max_messages, "before": before}, Shape("rows", SkippedRow, {"routed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    def stats(self, *, tenant: str | None = None) -> StatsRow:
        """Where the outbox of this database stands, and from pending on how many deliveries (of a tenant) are
        in each state; skipped: messages that matched nothing. worker: not preloaded, none, starting, running,
        push off, copied, failing.
        """
        return self._run(Call("stats", {"tenant": tenant}, Shape("row", StatsRow, {})))  # type: ignore[no-any-return]

    def subscribe(self, name: str, topics: Sequence[str], *, endpoint: str | None = None, filter: Any | None = None, max_attempts: int | None = None, max_age: timedelta | None = None, schedule: Any | None = None, policy: Any | None = None, format: str | None = None, batch_size: int | None = None, batch_wait: timedelta | None = None, ordering: str | None = None, on_exhausted: str | None = None, ttl: timedelta | None = None, deadline: timedelta | None = None, notify: bool | None = None, max_lag: timedelta | None = None, external_id: str | None = None, labels: Any | None = None, start: str | None = None, url: str | None = None) -> int | None:
        """Sends the messages of these topics (* one word, # any number) to an endpoint, or without one lets
        workers claim them; from the position of the message on whose id is returned, or from start: latest,
        earliest, a position or a time. A name that was unsubscribed is taken up again.
        """
        return self._run(Call("subscribe", {"name": name, "topics": topics, "endpoint": endpoint, "filter": filter, "max_attempts": max_attempts, "max_age": max_age, "schedule": schedule, "policy": policy, "format": format, "batch_size": batch_size, "batch_wait": batch_wait, "ordering": ordering, "on_exhausted": on_exhausted, "ttl": ttl, "deadline": deadline, "notify": notify, "max_lag": max_lag, "external_id": external_id, "labels": labels, "start": start, "url": url}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def tail(self) -> int | None:
        """The first position whose message is still stored; above head() when none is. read() starts there when
        it starts at 0.
        """
        return self._run(Call("tail", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def tick(self) -> int | None:
        """Numbers what is committed now, and returns the last position. The dispatcher does this by itself; by
        hand where there is none. Not in a transaction block or function (25001).
        """
        return self._run(Call("tick", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def uncapture(self, relation: str) -> bool | None:
        """Ends a capture; false: there was none."""
        return self._run(Call("uncapture", {"relation": relation}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def unlock_stale(self, older_than: timedelta, *, subscription: str | None = None) -> int | None:
        """Takes leases back that were claimed longer ago than this, whatever their end; returns how many
        deliveries are free again.
        """
        return self._run(Call("unlock_stale", {"older_than": older_than, "subscription": subscription}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def unsubscribe(self, name: str) -> int | None:
        """Ends a subscription at the position of the message whose id is returned; what it has not got by then
        is logged as skipped. It stays in the table, with deleted_at set.
        """
        return self._run(Call("unsubscribe", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def version(self) -> VersionRow:
        """Version of the installed objects, and of the library that is loaded."""
        return self._run(Call("version", {}, Shape("row", VersionRow, {})))  # type: ignore[no-any-return]

    def webhook_id(self, message_id: int, enqueued_at: datetime) -> str | None:
        """What a receiver deduplicates by: the same on every attempt, restart, retry and replay of a
        message."""
        return self._run(Call("webhook_id", {"message_id": message_id, "enqueued_at": enqueued_at}, Shape("value", None, {})))  # type: ignore[no-any-return]

    def worker_status(self) -> list[WorkerStatusRow]:
        """This database's dispatcher: what it does, since when, how far it is, and its last error. States: not
        preloaded, none, starting, running, push off, copied, failing. A process that is gone is none, whatever
        it did last.
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

    def publishers(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[PublisherEntry]:
        """Rows of outbox.publisher whose columns equal those of filter."""
        return self._run(Call("publisher", dict(filter or {}), Shape("rows", PublisherEntry, {"created_at": "timestamp with time zone", "updated_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    def subscriptions(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[SubscriptionEntry]:
        """Rows of outbox.subscription whose columns equal those of filter."""
        return self._run(Call("subscription", dict(filter or {}), Shape("rows", SubscriptionEntry, {"max_age": "interval", "batch_wait": "interval", "ttl": "interval", "deadline": "interval", "max_lag": "interval", "created_at": "timestamp with time zone", "deleted_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    def topics(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[TopicEntry]:
        """Rows of outbox.topic whose columns equal those of filter."""
        return self._run(Call("topic", dict(filter or {}), Shape("rows", TopicEntry, {"created_at": "timestamp with time zone", "updated_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]


class AsyncAdminMethods:
    """The same, to be awaited."""

    async def _arun(self, call: Call) -> Any:
        raise NotImplementedError

    async def adopt(self, *, reason: str | None = None) -> int | None:
        """Makes data that was restored or copied here this database's own: numbers what has no position yet, in
        a new epoch, and lets the dispatcher push. Returns the last position.
        """
        return await self._arun(Call("adopt", {"reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def alter_endpoint(self, name: str, *, url: str | None = None, headers: Any | None = None, timeout: timedelta | None = None, concurrency: int | None = None, tenant: str | None = None, auth: Any | None = None, tls: Any | None = None, rate: float | None = None, burst: float | None = None, schedule: Any | None = None, policy: Any | None = None, breaker: Any | None = None, protocol: str | None = None, compress: bool | None = None, response_id: str | None = None, keep_headers: Sequence[str] | None = None, disable_after: timedelta | None = None, disable_failures: int | None = None, new_name: str | None = None, subscriber_type: str | None = None) -> int | None:
        """Changes what is given and leaves the rest; JSON null, 0 and the empty text take a setting away."""
        return await self._arun(Call("alter_endpoint", {"name": name, "url": url, "headers": headers, "timeout": timeout, "concurrency": concurrency, "tenant": tenant, "auth": auth, "tls": tls, "rate": rate, "burst": burst, "schedule": schedule, "policy": policy, "breaker": breaker, "protocol": protocol, "compress": compress, "response_id": response_id, "keep_headers": keep_headers, "disable_after": disable_after, "disable_failures": disable_failures, "new_name": new_name, "subscriber_type": subscriber_type}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def alter_publisher(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None, topic_template: str | None = None, topic_function: str | None = None) -> None:
        """Changes a registered publisher; null leaves a value as it is, an empty template or function takes it
        away.
        """
        await self._arun(Call("alter_publisher", {"code": code, "name": name, "description": description, "active": active, "topic_template": topic_template, "topic_function": topic_function}, Shape("void", None, {})))

    async def alter_subscription(self, name: str, *, topics: Sequence[str] | None = None, filter: Any | None = None, endpoint: str | None = None, max_attempts: int | None = None, max_age: timedelta | None = None, schedule: Any | None = None, policy: Any | None = None, format: str | None = None, batch_size: int | None = None, batch_wait: timedelta | None = None, ordering: str | None = None, on_exhausted: str | None = None, ttl: timedelta | None = None, deadline: timedelta | None = None, notify: bool | None = None, max_lag: timedelta | None = None, external_id: str | None = None, labels: Any | None = None, reset: Sequence[str] | None = None) -> int | None:
        """Changes a subscription; null leaves a setting as it is, reset names those that go back to their
        default. Topics and filter hold behind the position of the message whose id is returned, pushed or
        pulled.
        """
        return await self._arun(Call("alter_subscription", {"name": name, "topics": topics, "filter": filter, "endpoint": endpoint, "max_attempts": max_attempts, "max_age": max_age, "schedule": schedule, "policy": policy, "format": format, "batch_size": batch_size, "batch_wait": batch_wait, "ordering": ordering, "on_exhausted": on_exhausted, "ttl": ttl, "deadline": deadline, "notify": notify, "max_lag": max_lag, "external_id": external_id, "labels": labels, "reset": reset}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def alter_topic(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None) -> None:
        """Changes a registered topic; null leaves a value as it is. An inactive topic refuses messages (OB007)
        from the commit on.
        """
        await self._arun(Call("alter_topic", {"code": code, "name": name, "description": description, "active": active}, Shape("void", None, {})))

    async def archive_get(self, message_id: int) -> ArchiveEntry:
        """What a message came to, with the result of each delivery; OB001: no such message, or it is still
        open.
        """
        return await self._arun(Call("archive_get", {"message_id": message_id}, Shape("row", ArchiveEntry, {"created_at": "timestamp with time zone", "processed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def archive_list(self, *, tenant: str | None = None, status: str | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, endpoint: str | None = None, max_rows: int | None = None, before: int | None = None) -> list[ArchiveEntry]:
        """What messages came to, newest first, a page at a time: give the last id as before. Each page looks at
        up to 1,000 messages of the tenant, the aggregate or all, for those of an endpoint at 10,000: a last row
        without a status holds no message but the id to go on with.
        """
        return await self._arun(Call("archive_list", {"tenant": tenant, "status": status, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "endpoint": endpoint, "max_rows": max_rows, "before": before}, Shape("rows", ArchiveEntry, {"created_at": "timestamp with time zone", "processed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def archive_stats(self, *, tenant: str | None = None) -> ArchiveStatsRow:
        """What the last 1,000 messages (of a tenant) came to."""
        return await self._arun(Call("archive_stats", {"tenant": tenant}, Shape("row", ArchiveStatsRow, {})))  # type: ignore[no-any-return]

    async def cancel(self, message_id: int, *, actor: str | None = None, reason: str | None = None) -> int | None:
        """Ends what of a message is not delivered yet; what a worker or a request has is not tried again if it
        fails. Returns how many waiting deliveries that ended. OB001 no such message, OB002 nothing is left to
        cancel, OB003 all that is left is leased.
        """
        return await self._arun(Call("cancel", {"message_id": message_id, "actor": actor, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def cancel_replay(self, replay_id: int) -> int | None:
        """Ends a replay; returns how many deliveries that were waiting it cancelled. What is in flight ends by
        itself.
        """
        return await self._arun(Call("cancel_replay", {"replay_id": replay_id}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def capture(self, relation: str, *, topic: str | None = None, key_columns: Sequence[str] | None = None, operations: Sequence[str] | None = None, columns: Sequence[str] | None = None, condition: str | None = None, include_old: bool | None = None, style: str | None = None, tenant_column: str | None = None, replicated: bool | None = None, oversize: str | None = None) -> None:
        """Turns changes of a table's rows into messages, in the transaction that makes them; the caller must
        own it. Called again, it replaces what it did before: do so when partitions were added. Styles: change,
        row, debezium. A payload that is too large fails the statement (oversize => fail), is skipped with a
        warning (skip), or is the key without images (reference).
        """
        await self._arun(Call("capture", {"relation": relation, "topic": topic, "key_columns": key_columns, "operations": operations, "columns": columns, "condition": condition, "include_old": include_old, "style": style, "tenant_column": tenant_column, "replicated": replicated, "oversize": oversize}, Shape("void", None, {})))

    async def claim(self, subscription: str, worker: str, *, max_messages: int | None = None, lease: timedelta | None = None) -> list[Claimed]:
        """Leases up to max_messages deliveries of a pull subscription that are due: highest priority first,
        then longest due, then in order. No other worker gets them until the lease ends. Commit before the work
        starts: that is what counts the try.
        """
        return await self._arun(Call("claim", {"subscription": subscription, "worker": worker, "max_messages": max_messages, "lease": lease}, Shape("rows", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def claim_delivery(self, delivery_id: int, worker: str, *, lease: timedelta | None = None) -> Claimed:
        """Leases one delivery. Raises what stands in the way: OB001 no such delivery, OB002 ended, OB003
        leased, OB004 pushed, OB007 the subscription has ended, OB010 expired, OB011 no tries left, OB012 not
        due or behind its key.
        """
        return await self._arun(Call("claim_delivery", {"delivery_id": delivery_id, "worker": worker, "lease": lease}, Shape("row", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def complete(self, lease: int, *, delivery_ids: Sequence[int] | None = None, results: Any | None = None) -> list[int]:
        """Ends deliveries of a lease as done, all of them or those that are named; returns the ids that were:
        what is missing was lost to another lease. results: one element per id, the receiver's id as a string or
        an object {total, matched, succeeded, failed, send_results}.
        """
        return await self._arun(Call("complete", {"lease": lease, "delivery_ids": delivery_ids, "results": results}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def complete_and_claim(self, done: int, subscription: str, worker: str, *, max_messages: int | None = None, lease: timedelta | None = None) -> list[Claimed]:
        """Completes all that a lease still holds (done; null: nothing) and claims what comes next, in one
        transaction: both or neither. OB003: the lease is lost. No rows: ask once more without done before you
        wait, what was completed may have let others in.
        """
        return await self._arun(Call("complete_and_claim", {"done": done, "subscription": subscription, "worker": worker, "max_messages": max_messages, "lease": lease}, Shape("rows", Claimed, {"lease_expires_at": "timestamp with time zone", "body": "bytea", "enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def count_by_state(self, *, tenant: str | None = None) -> list[CountByStateRow]:
        """Deliveries in each state. Over all tenants completed and cancelled are counted since the beginning,
        from counters; for one tenant among what is still stored, through the tenant's index: as long as that
        tenant has messages.
        """
        return await self._arun(Call("count_by_state", {"tenant": tenant}, Shape("rows", CountByStateRow, {})))  # type: ignore[no-any-return]

    async def count_messages(self, *, tenant: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, topic: str | None = None) -> int | None:
        """The total for a list_messages() with limit and offset; 10,000 means at least that many."""
        return await self._arun(Call("count_messages", {"tenant": tenant, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "topic": topic}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def create_endpoint(self, name: str, url: str, *, secret: str | None = None, headers: Any | None = None, timeout: timedelta | None = None, concurrency: int | None = None, tenant: str | None = None, kind: str | None = None, auth: Any | None = None, tls: Any | None = None, signature: str | None = None, rate: float | None = None, burst: float | None = None, schedule: Any | None = None, policy: Any | None = None, breaker: Any | None = None, protocol: str | None = None, compress: bool | None = None, response_id: str | None = None, keep_headers: Sequence[str] | None = None, disable_after: timedelta | None = None, disable_failures: int | None = None, consent: bool | None = None, subscriber_type: str | None = None) -> CreateEndpointRow:
        """Makes an HTTP target. The row that is returned is the only place where the signing secret is
        shown."""
        return await self._arun(Call("create_endpoint", {"name": name, "url": url, "secret": secret, "headers": headers, "timeout": timeout, "concurrency": concurrency, "tenant": tenant, "kind": kind, "auth": auth, "tls": tls, "signature": signature, "rate": rate, "burst": burst, "schedule": schedule, "policy": policy, "breaker": breaker, "protocol": protocol, "compress": compress, "response_id": response_id, "keep_headers": keep_headers, "disable_after": disable_after, "disable_failures": disable_failures, "consent": consent, "subscriber_type": subscriber_type}, Shape("row", CreateEndpointRow, {})))  # type: ignore[no-any-return]

    async def create_publisher(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None, topic_template: str | None = None, topic_function: str | None = None) -> None:
        """Registers a producer. topic_template ("{tenant}.{topic}") or topic_function decide the topic of its
        messages.
        """
        await self._arun(Call("create_publisher", {"code": code, "name": name, "description": description, "active": active, "topic_template": topic_template, "topic_function": topic_function}, Shape("void", None, {})))

    async def create_topic(self, code: str, *, name: str | None = None, description: str | None = None, active: bool | None = None) -> None:
        """Registers a topic; needed only to describe it, to switch it off, or with pg_outbox.require_topic."""
        await self._arun(Call("create_topic", {"code": code, "name": name, "description": description, "active": active}, Shape("void", None, {})))

    async def cursor_advance(self, consumer: str, position: int, *, stream: str | None = None, subject: str | None = None, delivery_id: str | None = None, delivered_at: datetime | None = None, expected_position: int | None = None, epoch: int | None = None) -> CursorState:
        """Confirms everything up to a position. Equal to where the cursor stands: advanced is false. With
        expected_position it is a compare-and-set (OB005 when another instance was first).
        """
        return await self._arun(Call("cursor_advance", {"consumer": consumer, "position": position, "stream": stream, "subject": subject, "delivery_id": delivery_id, "delivered_at": delivered_at, "expected_position": expected_position, "epoch": epoch}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def cursor_delete(self, consumer: str, reason: str, *, stream: str | None = None, subject: str | None = None) -> None:
        """Removes a cursor; the reason is required (OB006) and kept in outbox.audit."""
        await self._arun(Call("cursor_delete", {"consumer": consumer, "reason": reason, "stream": stream, "subject": subject}, Shape("void", None, {})))

    async def cursor_get(self, consumer: str, *, stream: str | None = None, subject: str | None = None, if_missing: int | None = None) -> CursorState:
        """A consumer's cursor; OB001 when there is none, unless if_missing says which position to show then."""
        return await self._arun(Call("cursor_get", {"consumer": consumer, "stream": stream, "subject": subject, "if_missing": if_missing}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def cursor_list(self, *, consumer: str | None = None, stream: str | None = None, subject: str | None = None, max_rows: int | None = None) -> list[CursorState]:
        """Cursors by stream, subject and consumer; null selects all; max_rows 0: no limit."""
        return await self._arun(Call("cursor_list", {"consumer": consumer, "stream": stream, "subject": subject, "max_rows": max_rows}, Shape("rows", CursorState, {"last_delivered_at": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def cursor_record_error(self, consumer: str, error: str, *, stream: str | None = None, subject: str | None = None) -> CursorState:
        """Notes what went wrong (at most 2000 characters of it) without moving the cursor; makes it at 0 if
        there is none.
        """
        return await self._arun(Call("cursor_record_error", {"consumer": consumer, "error": error, "stream": stream, "subject": subject}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def cursor_reset(self, consumer: str, position: int, reason: str, *, stream: str | None = None, subject: str | None = None, delivery_id: str | None = None, delivered_at: datetime | None = None) -> CursorState:
        """Moves a cursor anywhere, back as well; makes it if there is none. The reason is required (OB006) and
        kept in outbox.audit.
        """
        return await self._arun(Call("cursor_reset", {"consumer": consumer, "position": position, "reason": reason, "stream": stream, "subject": subject, "delivery_id": delivery_id, "delivered_at": delivered_at}, Shape("row", CursorState, {"last_delivered_at": "timestamp with time zone", "updated_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def dead(self, lease: int, delivery_ids: Sequence[int], reason: str) -> list[int]:
        """Ends deliveries of a lease (null: all) as dead letters at once: no try will help. Returns the ids
        that were changed.
        """
        return await self._arun(Call("dead", {"lease": lease, "delivery_ids": delivery_ids, "reason": reason}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def dead_letter_stats(self) -> DeadLetterStatsRow:
        """Dead letters in numbers: ages are those of open ones, in seconds; per_subscription: name to total and
        unresolved.
        """
        return await self._arun(Call("dead_letter_stats", {}, Shape("row", DeadLetterStatsRow, {"last_updated": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def dead_letters_older_than(self, older_than: timedelta) -> list[DeadLetterStatus]:
        """Open dead letters that died longer ago than this."""
        return await self._arun(Call("dead_letters_older_than", {"older_than": older_than}, Shape("rows", DeadLetterStatus, {"body": "bytea", "enqueued_at": "timestamp with time zone", "first_attempt_at": "timestamp with time zone", "last_attempt_at": "timestamp with time zone", "created_at": "timestamp with time zone", "dead_at": "timestamp with time zone", "age": "interval", "resolved_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def delete_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Removes a dead letter, in whatever state; what it was is kept in outbox.audit."""
        await self._arun(Call("delete_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    async def describe_schedule(self, subscription: str) -> list[DescribeScheduleRow]:
        """When the tries of a subscription are made, counted from the first: planned, and with the least and
        the most jitter.
        """
        return await self._arun(Call("describe_schedule", {"subscription": subscription}, Shape("rows", DescribeScheduleRow, {"wait": "interval", "planned": "interval", "earliest": "interval", "latest": "interval"})))  # type: ignore[no-any-return]

    async def disable_endpoint(self, name: str, *, reason: str | None = None, mode: str | None = None) -> int | None:
        """Sends nothing to an endpoint until enable_endpoint(). hold: deliveries wait; skip: they are recorded
        as skipped.
        """
        return await self._arun(Call("disable_endpoint", {"name": name, "reason": reason, "mode": mode}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def drop_endpoint(self, name: str) -> int | None:
        """Removes an endpoint that no subscription uses, with its secrets; what waits for a retry there is
        recorded as skipped.
        """
        return await self._arun(Call("drop_endpoint", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def drop_proxy(self, name: str) -> int | None:
        """Takes a proxy that no endpoint has chosen from the list; for the owner alone."""
        return await self._arun(Call("drop_proxy", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def enable_endpoint(self, name: str) -> int | None:
        """Sends again, first what has waited, failed deliveries at once; breaker, pause and count of failures
        start afresh.
        """
        return await self._arun(Call("enable_endpoint", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def erase(self, message_id: int, *, actor: str | None = None, reason: str | None = None) -> None:
        """Removes what a message says (payload, body, headers, metadata, responses) and ends what of it is not
        delivered yet; ids, positions and counts stay. The reason is required (OB006). OB003 while a worker has
        it.
        """
        await self._arun(Call("erase", {"message_id": message_id, "actor": actor, "reason": reason}, Shape("void", None, {})))

    async def explain_routing(self, topic: str, *, payload: Any | None = None, key: str | None = None, headers: Any | None = None, tenant: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, at_position: int | None = None) -> list[ExplainRoutingRow]:
        """Which subscriptions a message would match, and why others would not; at_position: which did at that
        place.
        """
        return await self._arun(Call("explain_routing", {"topic": topic, "payload": payload, "key": key, "headers": headers, "tenant": tenant, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "at_position": at_position}, Shape("rows", ExplainRoutingRow, {})))  # type: ignore[no-any-return]

    async def extend(self, lease: int, *, duration: timedelta | None = None) -> datetime | None:
        """Moves the end of a lease to this long from now, but not beyond the subscription's deadline; returns
        it. OB003: the lease is lost.
        """
        return await self._arun(Call("extend", {"lease": lease, "duration": duration}, Shape("value", None, {"": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def fail(self, lease: int, delivery_ids: Sequence[int], error: str, *, retry_after: timedelta | None = None) -> list[int]:
        """Ends a try of deliveries of a lease (null: of all) as failed: tried again after retry_after, else by
        the subscription's schedule; dead letters after the last try. Returns the ids that were changed.
        """
        return await self._arun(Call("fail", {"lease": lease, "delivery_ids": delivery_ids, "error": error, "retry_after": retry_after}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def get_message(self, message_id: int) -> MessageStatus:
        """One message with its state; OB001: it does not exist or retention has removed it."""
        return await self._arun(Call("get_message", {"message_id": message_id}, Shape("row", MessageStatus, {"enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "body": "bytea"})))  # type: ignore[no-any-return]

    async def grant_consent(self, endpoint: str, *, rate_per_minute: int | None = None) -> int | None:
        """Takes consent as given, for receivers that gave it by other means than the handshake."""
        return await self._arun(Call("grant_consent", {"endpoint": endpoint, "rate_per_minute": rate_per_minute}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def grant_to(self, role: str, capability: str, *, subscriptions: Sequence[str] | None = None, topics: Sequence[str] | None = None, tenants: Sequence[str] | None = None, publishers: Sequence[str] | None = None, consumers: Sequence[str] | None = None) -> None:
        """Grants a role one of the capabilities publish, capture, consume, observe, monitor, admin, or changes
        what is left of it. publish can be narrowed to topics (patterns), tenants and publishers; consume to
        subscriptions, topics (for read()) and consumers (of cursors), of which those that are not named are not
        left; monitor to tenants.
        """
        await self._arun(Call("grant_to", {"role": role, "capability": capability, "subscriptions": subscriptions, "topics": topics, "tenants": tenants, "publishers": publishers, "consumers": consumers}, Shape("void", None, {})))

    async def head(self) -> int | None:
        """The last position of the feed; 0 when it is empty."""
        return await self._arun(Call("head", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def health(self) -> list[HealthRow]:
        """One row per check: ok, warning or critical, who or what it is, and what to do. Fit for an alert on
        state <> 'ok'.
        """
        return await self._arun(Call("health", {}, Shape("rows", HealthRow, {})))  # type: ignore[no-any-return]

    async def history(self, message_id: int) -> list[HistoryRow]:
        """Everything that happened to one message, in order of time."""
        return await self._arun(Call("history", {"message_id": message_id}, Shape("rows", HistoryRow, {"at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def ignore_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Marks an open dead letter as not worth dealing with; OB004: it is not open."""
        await self._arun(Call("ignore_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    async def is_terminal(self, state: str) -> bool | None:
        """Whether a delivery or message in this state is not tried again by itself."""
        return await self._arun(Call("is_terminal", {"state": state}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def list_messages(self, *, tenant: str | None = None, state: str | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, severity: str | None = None, max_messages: int | None = None, before: int | None = None, skip: int | None = None) -> list[MessageStatus]:
        """Messages, newest first, a page at a time: give the last id as before. By tenant and by aggregate
        through an index; by state pending, processing, failed, dead or expired through the deliveries; topic
        and severity are looked for in at most 10,000 messages, completed, cancelled and skipped in at most
        1,000, per page: a last row without a topic holds no message but the id to go on with.
        """
        return await self._arun(Call("list_messages", {"tenant": tenant, "state": state, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "severity": severity, "max_messages": max_messages, "before": before, "skip": skip}, Shape("rows", MessageStatus, {"enqueued_at": "timestamp with time zone", "occurred_at": "timestamp with time zone", "deliver_at": "timestamp with time zone", "expires_at": "timestamp with time zone", "body": "bytea"})))  # type: ignore[no-any-return]

    async def maintain(self) -> list[MaintainRow]:
        """Rotates, reclaims and trims now whatever the settings allow, and says what it did. The dispatcher
        does this by itself.
        """
        return await self._arun(Call("maintain", {}, Shape("rows", MaintainRow, {})))  # type: ignore[no-any-return]

    async def manual_result(self, manual_send_id: int) -> list[ManualResultRow]:
        """What came of send_test() or resend(): waiting, completed or failed."""
        return await self._arun(Call("manual_result", {"manual_send_id": manual_send_id}, Shape("rows", ManualResultRow, {"started_at": "timestamp with time zone", "finished_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def metrics(self) -> list[MetricsRow]:
        """Figures for a monitoring system. Names ending in _total and _count only grow; labels name
        subscription, endpoint, state, consumer, ring. _enqueued_total counts what was rolled back as well.
        """
        return await self._arun(Call("metrics", {}, Shape("rows", MetricsRow, {})))  # type: ignore[no-any-return]

    async def move_to_dead_letters(self, delivery_id: int, reason: str, *, actor: str | None = None) -> int | None:
        """Makes a waiting delivery a dead letter, and returns that one's id. OB001 no such delivery, OB002 it
        has ended, OB003 a worker has it.
        """
        return await self._arun(Call("move_to_dead_letters", {"delivery_id": delivery_id, "reason": reason, "actor": actor}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def notification_log(self, *, message_id: int | None = None, tenant: str | None = None, topic: str | None = None, aggregate_type: str | None = None, aggregate_id: str | None = None, max_rows: int | None = None, before: int | None = None, subscription: str | None = None) -> list[NotificationEntry]:
        """What was sent to whom: of one message, or of the latest messages of a tenant, topic or aggregate, a
        page at a time (give the last message id as before). With a subscription, up to max_rows rows of it
        among 10,000 messages per page. A last row without a topic code holds nothing but the id to go on with.
        """
        return await self._arun(Call("notification_log", {"message_id": message_id, "tenant": tenant, "topic": topic, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id, "max_rows": max_rows, "before": before, "subscription": subscription}, Shape("rows", NotificationEntry, {"sent_at": "timestamp with time zone", "created_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def pause_subscription(self, name: str) -> int | None:
        """Holds a subscription: what is routed to it waits, nothing is sent or can be claimed, until resume().
        Its messages are kept.
        """
        return await self._arun(Call("pause_subscription", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def public_keys(self, endpoint: str) -> list[PublicKeysRow]:
        """What receivers verify v1a signatures of this endpoint with, the current key first; nothing for v1."""
        return await self._arun(Call("public_keys", {"endpoint": endpoint}, Shape("rows", PublicKeysRow, {"created_at": "timestamp with time zone", "expires_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def purge(self, what: str, older_than: timedelta, *, include_unresolved: bool | None = None, dry_run: bool | None = None) -> PurgeRow:
        """Removes what is older than an interval, by hand: completed (messages), attempts, archive (messages
        with their attempts and routing; rows are messages), dead_letters, idempotency. Logs go in whole
        segments. Never what is still needed; null, zero or below: for ever; dry_run says what it would be.
        """
        return await self._arun(Call("purge", {"what": what, "older_than": older_than, "include_unresolved": include_unresolved, "dry_run": dry_run}, Shape("row", PurgeRow, {})))  # type: ignore[no-any-return]

    async def read(self, after_position: int, *, max_messages: int | None = None, topics: Sequence[str] | None = None, filter: Any | None = None, epoch: int | None = None) -> list[FeedMessage]:
        """Messages behind a position (0: from the first that is stored), in order; go on behind the last row. A
        row whose message_id is null holds no message: nothing matched up to there. With the epoch in which the
        position was read, a lost history is noticed (OB009).
        """
        return await self._arun(Call("read", {"after_position": after_position, "max_messages": max_messages, "topics": topics, "filter": filter, "epoch": epoch}, Shape("rows", FeedMessage, {"body": "bytea", "occurred_at": "timestamp with time zone", "enqueued_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def release(self, lease: int, *, delivery_ids: Sequence[int] | None = None) -> list[int]:
        """Gives deliveries of a lease (null: all) back unharmed: due as before, the try does not count. Returns
        the ids.
        """
        return await self._arun(Call("release", {"lease": lease, "delivery_ids": delivery_ids}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def replay(self, subscription: str, *, from_position: int | None = None, to_position: int | None = None, filter: Any | None = None, new_ids: bool | None = None, rate: int | None = None, from_time: datetime | None = None, to_time: datetime | None = None) -> int | None:
        """Delivers again what a subscription matched between two positions (or times), at most rate messages
        per second beside live traffic; returns the replay's id. The webhook ids are the same unless new_ids.
        """
        return await self._arun(Call("replay", {"subscription": subscription, "from_position": from_position, "to_position": to_position, "filter": filter, "new_ids": new_ids, "rate": rate, "from_time": from_time, "to_time": to_time}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def request_consent(self, endpoint: str) -> int | None:
        """Asks the receiver whether it wants our messages, by the CloudEvents webhook handshake; until it does,
        deliveries wait.
        """
        return await self._arun(Call("request_consent", {"endpoint": endpoint}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def requeue(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> int | None:
        """Makes the delivery of a dead letter due now, with all its tries; the receiver sees the same webhook
        id. Returns the delivery's id. OB004: requeued already, or the message is gone.
        """
        return await self._arun(Call("requeue", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def requeue_all(self, *, actor: str | None = None, subscription: str | None = None, reason: str | None = None, topic: str | None = None, dead_after: datetime | None = None, dead_before: datetime | None = None, note: str | None = None, max_rows: int | None = None, dry_run: bool | None = None) -> int | None:
        """Requeues up to max_rows open dead letters, oldest first: of a subscription, reason, topic, time.
        dry_run only counts. Returns how many.
        """
        return await self._arun(Call("requeue_all", {"actor": actor, "subscription": subscription, "reason": reason, "topic": topic, "dead_after": dead_after, "dead_before": dead_before, "note": note, "max_rows": max_rows, "dry_run": dry_run}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def reschedule(self, delivery_id: int, due_at: datetime, *, actor: str | None = None, priority: int | None = None, expires_at: datetime | None = None) -> None:
        """Changes when a waiting delivery is tried, its priority and its end. OB001 no such delivery, OB002 it
        has ended, OB003 a worker has it.
        """
        await self._arun(Call("reschedule", {"delivery_id": delivery_id, "due_at": due_at, "actor": actor, "priority": priority, "expires_at": expires_at}, Shape("void", None, {})))

    async def resend(self, message_id: int, subscription: str) -> int | None:
        """Sends one message once more to one subscription, whatever became of it: one try outside its budget,
        under the same webhook id; manual_result() shows what came of it.
        """
        return await self._arun(Call("resend", {"message_id": message_id, "subscription": subscription}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def resolve_dead_letter(self, dead_letter_id: int, *, actor: str | None = None, note: str | None = None) -> None:
        """Marks an open dead letter as dealt with in another way; OB004: it is not open."""
        await self._arun(Call("resolve_dead_letter", {"dead_letter_id": dead_letter_id, "actor": actor, "note": note}, Shape("void", None, {})))

    async def resume_subscription(self, name: str) -> int | None:
        """Goes on with a paused subscription from where it stood."""
        return await self._arun(Call("resume_subscription", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def retry(self, message_id: int, subscription: str, *, actor: str | None = None) -> int | None:
        """Makes a failed, waiting, dead or expired delivery of a message due now, its tries counted anew. OB001
        there is none, OB002 it was completed, OB003 a worker has it, OB004 its message was erased or is gone.
        """
        return await self._arun(Call("retry", {"message_id": message_id, "subscription": subscription, "actor": actor}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def revoke_from(self, role: str, capability: str) -> bool | None:
        """Takes a capability back from a role; what another capability of the role needs stays. false: the role
        did not have it by grant_to().
        """
        return await self._arun(Call("revoke_from", {"role": role, "capability": capability}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def rotate(self, *, ring: str | None = None) -> str | None:
        """Has new rows go to the next leaf now: rotated, empty (nothing to leave behind) or full (the next leaf
        still holds rows).
        """
        return await self._arun(Call("rotate", {"ring": ring}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def rotate_secret(self, name: str, *, secret: str | None = None, overlap: timedelta | None = None) -> RotateSecretRow:
        """Gives an endpoint a new secret, shown here alone; the old one signs beside it until the overlap has
        passed.
        """
        return await self._arun(Call("rotate_secret", {"name": name, "secret": secret, "overlap": overlap}, Shape("row", RotateSecretRow, {})))  # type: ignore[no-any-return]

    async def send_test(self, endpoint: str, *, payload: Any | None = None) -> int | None:
        """Sends a test message (topic outbox.test), signed as any other, to an endpoint when the transaction
        commits; manual_result() shows what came of it.
        """
        return await self._arun(Call("send_test", {"endpoint": endpoint, "payload": payload}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def set_endpoint_proxy(self, endpoint: str, proxy: str) -> int | None:
        """Chooses one of the operator's proxies for an endpoint; null: the default one, if there is one."""
        return await self._arun(Call("set_endpoint_proxy", {"endpoint": endpoint, "proxy": proxy}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def set_proxy(self, name: str, url: str, *, resolves_names: bool | None = None, is_default: bool | None = None) -> int | None:
        """Lists or changes a proxy; url null: no proxy. In no capability: for the owner of the extension and
        superusers alone.
        """
        return await self._arun(Call("set_proxy", {"name": name, "url": url, "resolves_names": resolves_names, "is_default": is_default}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def skipped(self, *, topic: str | None = None, max_messages: int | None = None, before: int | None = None) -> list[SkippedRow]:
        """Messages that matched no subscription, newest first, with the reason: no subscription, filtered,
        inactive. topic is a pattern.
        """
        return await self._arun(Call("skipped", {"topic": topic, "max_messages": max_messages, "before": before}, Shape("rows", SkippedRow, {"routed_at": "timestamp with time zone"})))  # type: ignore[no-any-return]

    async def stats(self, *, tenant: str | None = None) -> StatsRow:
        """Where the outbox of this database stands, and from pending on how many deliveries (of a tenant) are
        in each state; skipped: messages that matched nothing. worker: not preloaded, none, starting, running,
        push off, copied, failing.
        """
        return await self._arun(Call("stats", {"tenant": tenant}, Shape("row", StatsRow, {})))  # type: ignore[no-any-return]

    async def subscribe(self, name: str, topics: Sequence[str], *, endpoint: str | None = None, filter: Any | None = None, max_attempts: int | None = None, max_age: timedelta | None = None, schedule: Any | None = None, policy: Any | None = None, format: str | None = None, batch_size: int | None = None, batch_wait: timedelta | None = None, ordering: str | None = None, on_exhausted: str | None = None, ttl: timedelta | None = None, deadline: timedelta | None = None, notify: bool | None = None, max_lag: timedelta | None = None, external_id: str | None = None, labels: Any | None = None, start: str | None = None, url: str | None = None) -> int | None:
        """Sends the messages of these topics (* one word, # any number) to an endpoint, or without one lets
        workers claim them; from the position of the message on whose id is returned, or from start: latest,
        earliest, a position or a time. A name that was unsubscribed is taken up again.
        """
        return await self._arun(Call("subscribe", {"name": name, "topics": topics, "endpoint": endpoint, "filter": filter, "max_attempts": max_attempts, "max_age": max_age, "schedule": schedule, "policy": policy, "format": format, "batch_size": batch_size, "batch_wait": batch_wait, "ordering": ordering, "on_exhausted": on_exhausted, "ttl": ttl, "deadline": deadline, "notify": notify, "max_lag": max_lag, "external_id": external_id, "labels": labels, "start": start, "url": url}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def tail(self) -> int | None:
        """The first position whose message is still stored; above head() when none is. read() starts there when
        it starts at 0.
        """
        return await self._arun(Call("tail", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def tick(self) -> int | None:
        """Numbers what is committed now, and returns the last position. The dispatcher does this by itself; by
        hand where there is none. Not in a transaction block or function (25001).
        """
        return await self._arun(Call("tick", {}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def uncapture(self, relation: str) -> bool | None:
        """Ends a capture; false: there was none."""
        return await self._arun(Call("uncapture", {"relation": relation}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def unlock_stale(self, older_than: timedelta, *, subscription: str | None = None) -> int | None:
        """Takes leases back that were claimed longer ago than this, whatever their end; returns how many
        deliveries are free again.
        """
        return await self._arun(Call("unlock_stale", {"older_than": older_than, "subscription": subscription}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def unsubscribe(self, name: str) -> int | None:
        """Ends a subscription at the position of the message whose id is returned; what it has not got by then
        is logged as skipped. It stays in the table, with deleted_at set.
        """
        return await self._arun(Call("unsubscribe", {"name": name}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def version(self) -> VersionRow:
        """Version of the installed objects, and of the library that is loaded."""
        return await self._arun(Call("version", {}, Shape("row", VersionRow, {})))  # type: ignore[no-any-return]

    async def webhook_id(self, message_id: int, enqueued_at: datetime) -> str | None:
        """What a receiver deduplicates by: the same on every attempt, restart, retry and replay of a
        message."""
        return await self._arun(Call("webhook_id", {"message_id": message_id, "enqueued_at": enqueued_at}, Shape("value", None, {})))  # type: ignore[no-any-return]

    async def worker_status(self) -> list[WorkerStatusRow]:
        """This database's dispatcher: what it does, since when, how far it is, and its last error. States: not
        preloaded, none, starting, running, push off, copied, failing. A process that is gone is none, whatever
        it did last.
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

    async def publishers(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[PublisherEntry]:
        """Rows of outbox.publisher whose columns equal those of filter."""
        return await self._arun(Call("publisher", dict(filter or {}), Shape("rows", PublisherEntry, {"created_at": "timestamp with time zone", "updated_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    async def subscriptions(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[SubscriptionEntry]:
        """Rows of outbox.subscription whose columns equal those of filter."""
        return await self._arun(Call("subscription", dict(filter or {}), Shape("rows", SubscriptionEntry, {"max_age": "interval", "batch_wait": "interval", "ttl": "interval", "deadline": "interval", "max_lag": "interval", "created_at": "timestamp with time zone", "deleted_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]

    async def topics(self, filter: Mapping[str, Any] | None = None, limit: int = 1000) -> list[TopicEntry]:
        """Rows of outbox.topic whose columns equal those of filter."""
        return await self._arun(Call("topic", dict(filter or {}), Shape("rows", TopicEntry, {"created_at": "timestamp with time zone", "updated_at": "timestamp with time zone"}), table=True, limit=limit))  # type: ignore[no-any-return]
