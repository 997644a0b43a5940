//! A method for each public function of the schema. Made by `tools/gen/clients.py` from the catalogue: do not edit.
//!
//! Required arguments are arguments of the method; optional ones are fields of its options. An interval that is returned is in
//! seconds. A column that can be null is an `Option`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call;
use crate::error::Result;
use crate::outbox::Outbox;

/// A row of type `outbox.appended`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Appended {
    /// Column `stream`.
    pub stream: Option<String>,
    /// Column `first_version`.
    pub first_version: Option<i64>,
    /// Column `last_version`.
    pub last_version: Option<i64>,
    /// Column `message_ids`.
    pub message_ids: Option<Vec<i64>>,
    /// Column `repeated`.
    pub repeated: Option<bool>,
}

/// A row of type `outbox.archive_entry`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ArchiveEntry {
    /// Column `id`.
    pub id: i64,
    /// Column `webhook_id`.
    pub webhook_id: String,
    /// Column `tenant`.
    pub tenant: Option<String>,
    /// Column `topic`.
    pub topic: String,
    /// Column `key`.
    pub key: Option<String>,
    /// Column `aggregate_type`.
    pub aggregate_type: Option<String>,
    /// Column `aggregate_id`.
    pub aggregate_id: Option<String>,
    /// Column `publisher`.
    pub publisher: Option<String>,
    /// Column `severity`.
    pub severity: Option<String>,
    /// Column `headers`.
    pub headers: Option<Value>,
    /// Column `metadata`.
    pub metadata: Option<Value>,
    /// Column `payload`.
    pub payload: Option<Value>,
    /// Column `status`.
    pub status: String,
    /// Column `integrations_total`.
    pub integrations_total: Option<i32>,
    /// Column `integrations_matched`.
    pub integrations_matched: Option<i32>,
    /// Column `integrations_succeeded`.
    pub integrations_succeeded: i32,
    /// Column `integrations_failed`.
    pub integrations_failed: i32,
    /// Column `send_results`.
    pub send_results: Value,
    /// Column `last_error`.
    pub last_error: Option<String>,
    /// Column `retry_count`.
    pub retry_count: i32,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `processed_at`.
    pub processed_at: Option<DateTime<Utc>>,
}

/// A row of `outbox.archive_stats()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ArchiveStatsRow {
    /// Column `completed`.
    pub completed: i64,
    /// Column `failed`.
    pub failed: i64,
    /// Column `skipped`.
    pub skipped: i64,
    /// Column `total`.
    pub total: i64,
}

/// A row of type `outbox.claimed`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Claimed {
    /// Column `lease`.
    pub lease: i64,
    /// Column `lease_expires_at`.
    pub lease_expires_at: DateTime<Utc>,
    /// Column `delivery_id`.
    pub delivery_id: i64,
    /// Column `subscription`.
    pub subscription: String,
    /// Column `message_id`.
    pub message_id: i64,
    /// Column `webhook_id`.
    pub webhook_id: String,
    /// Column `position`.
    pub position: i64,
    /// Column `attempt`.
    pub attempt: i32,
    /// Column `max_attempts`.
    pub max_attempts: i32,
    /// Column `topic`.
    pub topic: String,
    /// Column `key`.
    pub key: Option<String>,
    /// Column `payload`.
    pub payload: Option<Value>,
    /// Column `body`.
    pub body: Option<String>,
    /// Column `content_type`.
    pub content_type: Option<String>,
    /// Column `headers`.
    pub headers: Option<Value>,
    /// Column `metadata`.
    pub metadata: Option<Value>,
    /// Column `tenant`.
    pub tenant: Option<String>,
    /// Column `publisher`.
    pub publisher: Option<String>,
    /// Column `aggregate_type`.
    pub aggregate_type: Option<String>,
    /// Column `aggregate_id`.
    pub aggregate_id: Option<String>,
    /// Column `priority`.
    pub priority: i32,
    /// Column `enqueued_at`.
    pub enqueued_at: DateTime<Utc>,
    /// Column `occurred_at`.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Column `deliver_at`.
    pub deliver_at: Option<DateTime<Utc>>,
    /// Column `expires_at`.
    pub expires_at: Option<DateTime<Utc>>,
    /// Column `last_attempt_at`.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// Column `last_error`.
    pub last_error: Option<String>,
    /// Column `version`.
    pub version: Option<i64>,
    /// Column `event_id`.
    pub event_id: Option<String>,
}

/// A row of `outbox.compare_schemas()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CompareSchemasRow {
    /// Column `compatibility`.
    pub compatibility: String,
    /// Column `reasons`.
    pub reasons: Vec<String>,
}

/// A row of `outbox.count_by_state()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CountByStateRow {
    /// Column `state`.
    pub state: String,
    /// Column `deliveries`.
    pub deliveries: i64,
}

/// A row of `outbox.create_endpoint()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CreateEndpointRow {
    /// Column `endpoint_id`.
    pub endpoint_id: i32,
    /// Column `signing_secret`.
    pub signing_secret: String,
    /// Column `message_id`.
    pub message_id: i64,
}

/// A row of type `outbox.cursor_state`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CursorState {
    /// Column `consumer`.
    pub consumer: String,
    /// Column `stream`.
    pub stream: String,
    /// Column `subject`.
    pub subject: String,
    /// Column `position`.
    pub position: i64,
    /// Column `epoch`.
    pub epoch: Option<i32>,
    /// Column `last_delivery_id`.
    pub last_delivery_id: Option<String>,
    /// Column `last_delivered_at`.
    pub last_delivered_at: Option<DateTime<Utc>>,
    /// Column `last_error`.
    pub last_error: Option<String>,
    /// Column `error_position`.
    pub error_position: Option<i64>,
    /// Column `error_since`.
    pub error_since: Option<DateTime<Utc>>,
    /// Column `updated_at`.
    pub updated_at: Option<DateTime<Utc>>,
    /// Column `lag_positions`.
    pub lag_positions: Option<i64>,
    /// Column `lag_seconds`.
    pub lag_seconds: Option<f64>,
    /// Column `advanced`.
    pub advanced: Option<bool>,
}

/// A row of `outbox.dead_letter_stats()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterStatsRow {
    /// Column `total`.
    pub total: i64,
    /// Column `unresolved`.
    pub unresolved: i64,
    /// Column `resolved`.
    pub resolved: i64,
    /// Column `oldest_age_seconds`.
    pub oldest_age_seconds: Option<f64>,
    /// Column `newest_age_seconds`.
    pub newest_age_seconds: Option<f64>,
    /// Column `top_failure_reason`.
    pub top_failure_reason: Option<String>,
    /// Column `per_subscription`.
    pub per_subscription: Value,
    /// Column `last_updated`.
    pub last_updated: Option<DateTime<Utc>>,
}

/// A row of type `outbox.dead_letter_status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterStatus {
    /// Column `dead_letter_id`.
    pub dead_letter_id: i64,
    /// Column `delivery_id`.
    pub delivery_id: Option<i64>,
    /// Column `subscription`.
    pub subscription: Option<String>,
    /// Column `endpoint`.
    pub endpoint: Option<String>,
    /// Column `url`.
    pub url: Option<String>,
    /// Column `message_id`.
    pub message_id: i64,
    /// Column `webhook_id`.
    pub webhook_id: Option<String>,
    /// Column `position`.
    pub position: i64,
    /// Column `topic`.
    pub topic: Option<String>,
    /// Column `key`.
    pub key: Option<String>,
    /// Column `tenant`.
    pub tenant: Option<String>,
    /// Column `aggregate_type`.
    pub aggregate_type: Option<String>,
    /// Column `aggregate_id`.
    pub aggregate_id: Option<String>,
    /// Column `publisher`.
    pub publisher: Option<String>,
    /// Column `content_type`.
    pub content_type: Option<String>,
    /// Column `headers`.
    pub headers: Option<Value>,
    /// Column `metadata`.
    pub metadata: Option<Value>,
    /// Column `payload`.
    pub payload: Option<Value>,
    /// Column `body`.
    pub body: Option<String>,
    /// Column `enqueued_at`.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// Column `state`.
    pub state: String,
    /// Column `reason`.
    pub reason: String,
    /// Column `attempt`.
    pub attempt: i32,
    /// Column `last_status`.
    pub last_status: Option<i32>,
    /// Column `error_class`.
    pub error_class: Option<String>,
    /// Column `last_error`.
    pub last_error: Option<String>,
    /// Column `first_attempt_at`.
    pub first_attempt_at: Option<DateTime<Utc>>,
    /// Column `last_attempt_at`.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `dead_at`.
    pub dead_at: DateTime<Utc>,
    /// Column `age`.
    pub age: f64,
    /// Column `is_old`.
    pub is_old: bool,
    /// Column `resolution`.
    pub resolution: String,
    /// Column `is_resolved`.
    pub is_resolved: bool,
    /// Column `resolved_at`.
    pub resolved_at: Option<DateTime<Utc>>,
    /// Column `resolved_by`.
    pub resolved_by: Option<String>,
    /// Column `resolution_note`.
    pub resolution_note: Option<String>,
}

/// A row of `outbox.describe_schedule()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DescribeScheduleRow {
    /// Column `attempt`.
    pub attempt: i32,
    /// Column `wait`.
    pub wait: Option<f64>,
    /// Column `planned`.
    pub planned: Option<f64>,
    /// Column `earliest`.
    pub earliest: Option<f64>,
    /// Column `latest`.
    pub latest: Option<f64>,
}

/// A row of `outbox.explain_routing()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ExplainRoutingRow {
    /// Column `subscription`.
    pub subscription: String,
    /// Column `matches`.
    pub matches: bool,
    /// Column `reason`.
    pub reason: String,
    /// Column `version`.
    pub version: Option<i32>,
}

/// A row of type `outbox.exported_event`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ExportedEvent {
    /// Column `stream`.
    pub stream: Option<String>,
    /// Column `version`.
    pub version: Option<i64>,
    /// Column `type`.
    pub r#type: Option<String>,
    /// Column `data`.
    pub data: Option<Value>,
    /// Column `body`.
    pub body: Option<String>,
    /// Column `content_type`.
    pub content_type: Option<String>,
    /// Column `metadata`.
    pub metadata: Option<Value>,
    /// Column `tenant`.
    pub tenant: Option<String>,
    /// Column `position`.
    pub position: Option<i64>,
    /// Column `message_id`.
    pub message_id: Option<i64>,
    /// Column `recorded_at`.
    pub recorded_at: Option<DateTime<Utc>>,
    /// Column `redacted`.
    pub redacted: bool,
    /// Column `next`.
    pub next: Value,
}

/// A row of type `outbox.message_status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MessageStatus {
    /// Column `message_id`.
    pub message_id: i64,
    /// Column `webhook_id`.
    pub webhook_id: String,
    /// Column `state`.
    pub state: String,
    /// Column `topic`.
    pub topic: String,
    /// Column `key`.
    pub key: Option<String>,
    /// Column `tenant`.
    pub tenant: Option<String>,
    /// Column `aggregate_type`.
    pub aggregate_type: Option<String>,
    /// Column `aggregate_id`.
    pub aggregate_id: Option<String>,
    /// Column `publisher`.
    pub publisher: Option<String>,
    /// Column `priority`.
    pub priority: i32,
    /// Column `enqueued_at`.
    pub enqueued_at: DateTime<Utc>,
    /// Column `occurred_at`.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Column `deliver_at`.
    pub deliver_at: Option<DateTime<Utc>>,
    /// Column `expires_at`.
    pub expires_at: Option<DateTime<Utc>>,
    /// Column `max_attempts`.
    pub max_attempts: Option<i32>,
    /// Column `idempotency_key`.
    pub idempotency_key: Option<String>,
    /// Column `content_type`.
    pub content_type: Option<String>,
    /// Column `headers`.
    pub headers: Option<Value>,
    /// Column `metadata`.
    pub metadata: Option<Value>,
    /// Column `correlation_id`.
    pub correlation_id: Option<String>,
    /// Column `causation_id`.
    pub causation_id: Option<String>,
    /// Column `user_id`.
    pub user_id: Option<String>,
    /// Column `traceparent`.
    pub traceparent: Option<String>,
    /// Column `tracestate`.
    pub tracestate: Option<String>,
    /// Column `schema_version`.
    pub schema_version: Option<String>,
    /// Column `privacy`.
    pub privacy: Option<Value>,
    /// Column `severity`.
    pub severity: Option<String>,
    /// Column `payload`.
    pub payload: Option<Value>,
    /// Column `body`.
    pub body: Option<String>,
}

/// A row of type `outbox.event_schema`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EventSchema {
    /// Column `type`.
    pub r#type: String,
    /// Column `version`.
    pub version: i32,
    /// Column `schema`.
    pub schema: Value,
    /// Column `compatibility`.
    pub compatibility: Option<String>,
    /// Column `validated`.
    pub validated: bool,
    /// Column `description`.
    pub description: Option<String>,
    /// Column `registered_by`.
    pub registered_by: String,
    /// Column `registered_at`.
    pub registered_at: DateTime<Utc>,
}

/// A row of type `outbox.subject_key`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubjectKey {
    /// Column `key_id`.
    pub key_id: String,
    /// Column `subject`.
    pub subject: String,
    /// Column `wrapped_key`.
    pub wrapped_key: Option<String>,
    /// Column `master_key`.
    pub master_key: String,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `rewrapped_at`.
    pub rewrapped_at: Option<DateTime<Utc>>,
    /// Column `revoked_at`.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Column `reason`.
    pub reason: Option<String>,
}

/// A row of `outbox.health()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HealthRow {
    /// Column `check`.
    pub check: String,
    /// Column `state`.
    pub state: String,
    /// Column `culprit`.
    pub culprit: Option<String>,
    /// Column `what_to_do`.
    pub what_to_do: Option<String>,
}

/// A row of `outbox.history()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HistoryRow {
    /// Column `at`.
    pub at: DateTime<Utc>,
    /// Column `what`.
    pub what: String,
    /// Column `subscription`.
    pub subscription: Option<String>,
    /// Column `endpoint`.
    pub endpoint: Option<String>,
    /// Column `attempt`.
    pub attempt: Option<i32>,
    /// Column `status`.
    pub status: Option<i32>,
    /// Column `detail`.
    pub detail: Option<String>,
}

/// A row of type `outbox.event`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// Column `position`.
    pub position: Option<i64>,
    /// Column `epoch`.
    pub epoch: Option<i32>,
    /// Column `message_id`.
    pub message_id: Option<i64>,
    /// Column `event_id`.
    pub event_id: Option<String>,
    /// Column `webhook_id`.
    pub webhook_id: Option<String>,
    /// Column `stream`.
    pub stream: Option<String>,
    /// Column `version`.
    pub version: Option<i64>,
    /// Column `type`.
    pub r#type: Option<String>,
    /// Column `data`.
    pub data: Option<Value>,
    /// Column `body`.
    pub body: Option<String>,
    /// Column `content_type`.
    pub content_type: Option<String>,
    /// Column `headers`.
    pub headers: Option<Value>,
    /// Column `metadata`.
    pub metadata: Option<Value>,
    /// Column `tenant`.
    pub tenant: Option<String>,
    /// Column `occurred_at`.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Column `recorded_at`.
    pub recorded_at: Option<DateTime<Utc>>,
}

/// A row of `outbox.load_snapshot()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LoadSnapshotRow {
    /// Column `stream`.
    pub stream: String,
    /// Column `schema_version`.
    pub schema_version: i32,
    /// Column `version`.
    pub version: i64,
    /// Column `state`.
    pub state: Option<Value>,
    /// Column `body`.
    pub body: Option<String>,
    /// Column `content_type`.
    pub content_type: Option<String>,
    /// Column `taken_at`.
    pub taken_at: DateTime<Utc>,
}

/// A row of `outbox.maintain()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MaintainRow {
    /// Column `job`.
    pub job: String,
    /// Column `result`.
    pub result: String,
    /// Column `rows`.
    pub rows: Option<i64>,
    /// Column `bytes`.
    pub bytes: Option<i64>,
    /// Column `held_by`.
    pub held_by: Option<String>,
}

/// A row of `outbox.manual_result()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ManualResultRow {
    /// Column `state`.
    pub state: String,
    /// Column `started_at`.
    pub started_at: Option<DateTime<Utc>>,
    /// Column `finished_at`.
    pub finished_at: Option<DateTime<Utc>>,
    /// Column `status`.
    pub status: Option<i32>,
    /// Column `error`.
    pub error: Option<String>,
    /// Column `response_body`.
    pub response_body: Option<String>,
}

/// A row of `outbox.metrics()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MetricsRow {
    /// Column `name`.
    pub name: String,
    /// Column `labels`.
    pub labels: Value,
    /// Column `value`.
    pub value: f64,
}

/// A row of type `outbox.notification_entry`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NotificationEntry {
    /// Column `message_id`.
    pub message_id: Option<i64>,
    /// Column `subscription`.
    pub subscription: Option<String>,
    /// Column `identifier`.
    pub identifier: Option<String>,
    /// Column `topic_code`.
    pub topic_code: Option<String>,
    /// Column `subscriber`.
    pub subscriber: Option<String>,
    /// Column `subscriber_type`.
    pub subscriber_type: Option<String>,
    /// Column `delivery_method`.
    pub delivery_method: Option<String>,
    /// Column `status`.
    pub status: Option<String>,
    /// Column `skipped_reason`.
    pub skipped_reason: Option<String>,
    /// Column `attempt`.
    pub attempt: Option<i32>,
    /// Column `error`.
    pub error: Option<String>,
    /// Column `sent_at`.
    pub sent_at: Option<DateTime<Utc>>,
    /// Column `created_at`.
    pub created_at: Option<DateTime<Utc>>,
}

/// A row of `outbox.public_keys()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PublicKeysRow {
    /// Column `public_key`.
    pub public_key: String,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `expires_at`.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A row of `outbox.purge()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PurgeRow {
    /// Column `rows`.
    pub rows: i64,
    /// Column `bytes`.
    pub bytes: i64,
}

/// A row of type `outbox.feed_message`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FeedMessage {
    /// Column `position`.
    pub position: i64,
    /// Column `epoch`.
    pub epoch: i32,
    /// Column `message_id`.
    pub message_id: Option<i64>,
    /// Column `webhook_id`.
    pub webhook_id: Option<String>,
    /// Column `topic`.
    pub topic: Option<String>,
    /// Column `key`.
    pub key: Option<String>,
    /// Column `payload`.
    pub payload: Option<Value>,
    /// Column `body`.
    pub body: Option<String>,
    /// Column `content_type`.
    pub content_type: Option<String>,
    /// Column `headers`.
    pub headers: Option<Value>,
    /// Column `metadata`.
    pub metadata: Option<Value>,
    /// Column `tenant`.
    pub tenant: Option<String>,
    /// Column `aggregate_type`.
    pub aggregate_type: Option<String>,
    /// Column `aggregate_id`.
    pub aggregate_id: Option<String>,
    /// Column `publisher`.
    pub publisher: Option<String>,
    /// Column `idempotency_key`.
    pub idempotency_key: Option<String>,
    /// Column `occurred_at`.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Column `enqueued_at`.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// Column `version`.
    pub version: Option<i64>,
    /// Column `event_id`.
    pub event_id: Option<String>,
}

/// A row of `outbox.rotate_secret()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RotateSecretRow {
    /// Column `signing_secret`.
    pub signing_secret: String,
    /// Column `message_id`.
    pub message_id: i64,
}

/// A row of type `outbox.saga_state`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SagaState {
    /// Column `saga_type`.
    pub saga_type: String,
    /// Column `saga_id`.
    pub saga_id: String,
    /// Column `correlation_id`.
    pub correlation_id: Option<String>,
    /// Column `status`.
    pub status: String,
    /// Column `step`.
    pub step: i32,
    /// Column `steps`.
    pub steps: Value,
    /// Column `state`.
    pub state: Value,
    /// Column `failure_reason`.
    pub failure_reason: Option<String>,
    /// Column `version`.
    pub version: i64,
    /// Column `started_at`.
    pub started_at: DateTime<Utc>,
    /// Column `updated_at`.
    pub updated_at: DateTime<Utc>,
    /// Column `completed_at`.
    pub completed_at: Option<DateTime<Utc>>,
}

/// A row of `outbox.skipped()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SkippedRow {
    /// Column `position`.
    pub position: i64,
    /// Column `message_id`.
    pub message_id: i64,
    /// Column `message_topic`.
    pub message_topic: String,
    /// Column `reason`.
    pub reason: Option<String>,
    /// Column `routed_at`.
    pub routed_at: DateTime<Utc>,
}

/// A row of `outbox.stats()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StatsRow {
    /// Column `messages`.
    pub messages: i64,
    /// Column `feed_end`.
    pub feed_end: i64,
    /// Column `routed`.
    pub routed: i64,
    /// Column `waiting`.
    pub waiting: i64,
    /// Column `dead_letters`.
    pub dead_letters: i64,
    /// Column `worker`.
    pub worker: String,
    /// Column `in_flight`.
    pub in_flight: Option<i64>,
    /// Column `queued`.
    pub queued: Option<i64>,
    /// Column `pending`.
    pub pending: i64,
    /// Column `processing`.
    pub processing: i64,
    /// Column `completed`.
    pub completed: i64,
    /// Column `failed`.
    pub failed: i64,
    /// Column `dead`.
    pub dead: i64,
    /// Column `skipped`.
    pub skipped: i64,
    /// Column `expired`.
    pub expired: i64,
    /// Column `cancelled`.
    pub cancelled: i64,
    /// Column `total`.
    pub total: i64,
}

/// A row of `outbox.stream_info()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StreamInfoRow {
    /// Column `category`.
    pub category: Option<String>,
    /// Column `version`.
    pub version: Option<i64>,
    /// Column `events`.
    pub events: Option<i64>,
    /// Column `created_at`.
    pub created_at: Option<DateTime<Utc>>,
    /// Column `updated_at`.
    pub updated_at: Option<DateTime<Utc>>,
    /// Column `closed_at`.
    pub closed_at: Option<DateTime<Utc>>,
    /// Column `truncated_before`.
    pub truncated_before: Option<i64>,
}

/// A row of `outbox.streams()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StreamsRow {
    /// Column `stream`.
    pub stream: Option<String>,
    /// Column `version`.
    pub version: Option<i64>,
}

/// A row of `outbox.version()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct VersionRow {
    /// Column `extension`.
    pub extension: String,
    /// Column `library`.
    pub library: Option<String>,
}

/// A row of `outbox.worker_status()`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerStatusRow {
    /// Column `state`.
    pub state: String,
    /// Column `pid`.
    pub pid: Option<i32>,
    /// Column `started_at`.
    pub started_at: Option<DateTime<Utc>>,
    /// Column `launcher_pid`.
    pub launcher_pid: Option<i32>,
    /// Column `in_flight`.
    pub in_flight: Option<i64>,
    /// Column `queued`.
    pub queued: Option<i64>,
    /// Column `unrecorded`.
    pub unrecorded: Option<i64>,
    /// Column `idle`.
    pub idle: Option<bool>,
    /// Column `feed_end`.
    pub feed_end: Option<i64>,
    /// Column `routed`.
    pub routed: Option<i64>,
    /// Column `last_tick_at`.
    pub last_tick_at: Option<DateTime<Utc>>,
    /// Column `last_checkpoint_at`.
    pub last_checkpoint_at: Option<DateTime<Utc>>,
    /// Column `last_error`.
    pub last_error: Option<String>,
    /// Column `last_error_at`.
    pub last_error_at: Option<DateTime<Utc>>,
}

/// A row of `outbox.audit`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Column `id`.
    pub id: i64,
    /// Column `at`.
    pub at: DateTime<Utc>,
    /// Column `actor`.
    pub actor: String,
    /// Column `action`.
    pub action: String,
    /// Column `object`.
    pub object: String,
    /// Column `reason`.
    pub reason: Option<String>,
    /// Column `detail`.
    pub detail: Option<Value>,
}

/// A row of `outbox.dead_letter`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterEntry {
    /// Column `id`.
    pub id: i64,
    /// Column `delivery_id`.
    pub delivery_id: Option<i64>,
    /// Column `subscription_id`.
    pub subscription_id: i32,
    /// Column `endpoint_id`.
    pub endpoint_id: Option<i32>,
    /// Column `position`.
    pub position: i64,
    /// Column `message_id`.
    pub message_id: i64,
    /// Column `message_segment`.
    pub message_segment: i32,
    /// Column `attempt`.
    pub attempt: i32,
    /// Column `state`.
    pub state: String,
    /// Column `reason`.
    pub reason: String,
    /// Column `key`.
    pub key: Option<String>,
    /// Column `last_status`.
    pub last_status: Option<i32>,
    /// Column `last_error_class`.
    pub last_error_class: Option<String>,
    /// Column `last_error`.
    pub last_error: Option<String>,
    /// Column `url`.
    pub url: Option<String>,
    /// Column `first_attempt_at`.
    pub first_attempt_at: Option<DateTime<Utc>>,
    /// Column `last_attempt_at`.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `dead_at`.
    pub dead_at: DateTime<Utc>,
    /// Column `resolution`.
    pub resolution: String,
    /// Column `resolved_at`.
    pub resolved_at: Option<DateTime<Utc>>,
    /// Column `resolved_by`.
    pub resolved_by: Option<String>,
    /// Column `resolution_note`.
    pub resolution_note: Option<String>,
    /// Column `payload`.
    pub payload: Option<Value>,
}

/// A row of `outbox.dead_letter_status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterStatusEntry {
    /// Column `dead_letter_id`.
    pub dead_letter_id: i64,
    /// Column `delivery_id`.
    pub delivery_id: Option<i64>,
    /// Column `subscription`.
    pub subscription: Option<String>,
    /// Column `endpoint`.
    pub endpoint: Option<String>,
    /// Column `url`.
    pub url: Option<String>,
    /// Column `message_id`.
    pub message_id: i64,
    /// Column `webhook_id`.
    pub webhook_id: Option<String>,
    /// Column `position`.
    pub position: i64,
    /// Column `topic`.
    pub topic: Option<String>,
    /// Column `key`.
    pub key: Option<String>,
    /// Column `tenant`.
    pub tenant: Option<String>,
    /// Column `aggregate_type`.
    pub aggregate_type: Option<String>,
    /// Column `aggregate_id`.
    pub aggregate_id: Option<String>,
    /// Column `publisher`.
    pub publisher: Option<String>,
    /// Column `content_type`.
    pub content_type: Option<String>,
    /// Column `headers`.
    pub headers: Option<Value>,
    /// Column `metadata`.
    pub metadata: Option<Value>,
    /// Column `payload`.
    pub payload: Option<Value>,
    /// Column `body`.
    pub body: Option<String>,
    /// Column `enqueued_at`.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// Column `state`.
    pub state: String,
    /// Column `reason`.
    pub reason: String,
    /// Column `attempt`.
    pub attempt: i32,
    /// Column `last_status`.
    pub last_status: Option<i32>,
    /// Column `error_class`.
    pub error_class: Option<String>,
    /// Column `last_error`.
    pub last_error: Option<String>,
    /// Column `first_attempt_at`.
    pub first_attempt_at: Option<DateTime<Utc>>,
    /// Column `last_attempt_at`.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `dead_at`.
    pub dead_at: DateTime<Utc>,
    /// Column `age`.
    pub age: f64,
    /// Column `is_old`.
    pub is_old: bool,
    /// Column `resolution`.
    pub resolution: String,
    /// Column `is_resolved`.
    pub is_resolved: bool,
    /// Column `resolved_at`.
    pub resolved_at: Option<DateTime<Utc>>,
    /// Column `resolved_by`.
    pub resolved_by: Option<String>,
    /// Column `resolution_note`.
    pub resolution_note: Option<String>,
}

/// A row of `outbox.delivery_status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeliveryStatusEntry {
    /// Column `delivery_id`.
    pub delivery_id: Option<i64>,
    /// Column `subscription`.
    pub subscription: Option<String>,
    /// Column `endpoint`.
    pub endpoint: Option<String>,
    /// Column `message_id`.
    pub message_id: i64,
    /// Column `position`.
    pub position: i64,
    /// Column `pull`.
    pub pull: bool,
    /// Column `state`.
    pub state: String,
    /// Column `attempt`.
    pub attempt: i32,
    /// Column `max_attempts`.
    pub max_attempts: Option<i32>,
    /// Column `retry_count`.
    pub retry_count: i32,
    /// Column `can_retry`.
    pub can_retry: Option<bool>,
    /// Column `priority`.
    pub priority: i32,
    /// Column `locked_by`.
    pub locked_by: Option<String>,
    /// Column `locked_at`.
    pub locked_at: Option<DateTime<Utc>>,
    /// Column `lease_expires_at`.
    pub lease_expires_at: Option<DateTime<Utc>>,
    /// Column `next_attempt_at`.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Column `retry_in`.
    pub retry_in: Option<f64>,
    /// Column `expires_at`.
    pub expires_at: Option<DateTime<Utc>>,
    /// Column `expires_in`.
    pub expires_in: Option<f64>,
    /// Column `age`.
    pub age: f64,
    /// Column `is_due`.
    pub is_due: bool,
    /// Column `is_expired`.
    pub is_expired: bool,
    /// Column `is_blocked`.
    pub is_blocked: bool,
    /// Column `last_status`.
    pub last_status: Option<i32>,
    /// Column `error_class`.
    pub error_class: Option<String>,
    /// Column `last_error`.
    pub last_error: Option<String>,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `updated_at`.
    pub updated_at: Option<DateTime<Utc>>,
    /// Column `processed_at`.
    pub processed_at: Option<DateTime<Utc>>,
    /// Column `last_attempt_at`.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// Column `completed_at`.
    pub completed_at: Option<DateTime<Utc>>,
}

/// A row of `outbox.endpoint`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EndpointEntry {
    /// Column `id`.
    pub id: i32,
    /// Column `name`.
    pub name: String,
    /// Column `url`.
    pub url: String,
    /// Column `kind`.
    pub kind: String,
    /// Column `subscriber_type`.
    pub subscriber_type: String,
    /// Column `tenant`.
    pub tenant: Option<String>,
    /// Column `headers`.
    pub headers: Value,
    /// Column `timeout`.
    pub timeout: f64,
    /// Column `concurrency`.
    pub concurrency: i32,
    /// Column `rate`.
    pub rate: Option<f64>,
    /// Column `burst`.
    pub burst: Option<f64>,
    /// Column `schedule`.
    pub schedule: Option<Value>,
    /// Column `policy`.
    pub policy: Option<Value>,
    /// Column `breaker`.
    pub breaker: Option<Value>,
    /// Column `protocol`.
    pub protocol: String,
    /// Column `compress`.
    pub compress: bool,
    /// Column `response_id`.
    pub response_id: Option<String>,
    /// Column `keep_headers`.
    pub keep_headers: Vec<String>,
    /// Column `disable_after`.
    pub disable_after: f64,
    /// Column `disable_failures`.
    pub disable_failures: i32,
    /// Column `consent`.
    pub consent: String,
    /// Column `active`.
    pub active: bool,
    /// Column `disabled_mode`.
    pub disabled_mode: Option<String>,
    /// Column `disabled_reason`.
    pub disabled_reason: Option<String>,
    /// Column `disabled_at`.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `updated_at`.
    pub updated_at: DateTime<Utc>,
    /// Column `deleted_at`.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Column `proxy`.
    pub proxy: Option<String>,
}

/// A row of `outbox.lease_status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LeaseStatusEntry {
    /// Column `subscription`.
    pub subscription: Option<String>,
    /// Column `worker`.
    pub worker: String,
    /// Column `deliveries`.
    pub deliveries: i64,
    /// Column `claimed_at`.
    pub claimed_at: DateTime<Utc>,
    /// Column `age`.
    pub age: f64,
    /// Column `expires_at`.
    pub expires_at: DateTime<Utc>,
    /// Column `expires_in`.
    pub expires_in: f64,
    /// Column `deadline_at`.
    pub deadline_at: Option<DateTime<Utc>>,
    /// Column `delivery_ids`.
    pub delivery_ids: Vec<i64>,
}

/// A row of `outbox.publisher`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PublisherEntry {
    /// Column `code`.
    pub code: String,
    /// Column `active`.
    pub active: bool,
    /// Column `topic_template`.
    pub topic_template: Option<String>,
    /// Column `topic_function`.
    pub topic_function: Option<String>,
    /// Column `topic_function_owner`.
    pub topic_function_owner: Option<String>,
    /// Column `name`.
    pub name: String,
    /// Column `description`.
    pub description: Option<String>,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `updated_at`.
    pub updated_at: DateTime<Utc>,
}

/// A row of `outbox.subscription`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubscriptionEntry {
    /// Column `id`.
    pub id: i32,
    /// Column `name`.
    pub name: String,
    /// Column `endpoint_id`.
    pub endpoint_id: Option<i32>,
    /// Column `max_attempts`.
    pub max_attempts: i32,
    /// Column `max_age`.
    pub max_age: Option<f64>,
    /// Column `schedule`.
    pub schedule: Option<Value>,
    /// Column `policy`.
    pub policy: Option<Value>,
    /// Column `format`.
    pub format: String,
    /// Column `batch_size`.
    pub batch_size: i32,
    /// Column `batch_wait`.
    pub batch_wait: f64,
    /// Column `ordering`.
    pub ordering: String,
    /// Column `on_exhausted`.
    pub on_exhausted: String,
    /// Column `ttl`.
    pub ttl: Option<f64>,
    /// Column `deadline`.
    pub deadline: Option<f64>,
    /// Column `notify`.
    pub notify: bool,
    /// Column `max_lag`.
    pub max_lag: Option<f64>,
    /// Column `external_id`.
    pub external_id: Option<String>,
    /// Column `labels`.
    pub labels: Value,
    /// Column `transform`.
    pub transform: Option<String>,
    /// Column `transform_owner`.
    pub transform_owner: Option<String>,
    /// Column `paused`.
    pub paused: bool,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `deleted_at`.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// A row of `outbox.subscription_status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubscriptionStatusEntry {
    /// Column `subscription_id`.
    pub subscription_id: i32,
    /// Column `name`.
    pub name: String,
    /// Column `endpoint`.
    pub endpoint: Option<String>,
    /// Column `pull`.
    pub pull: bool,
    /// Column `topics`.
    pub topics: Vec<String>,
    /// Column `filter`.
    pub filter: Option<Value>,
    /// Column `ordering`.
    pub ordering: String,
    /// Column `max_attempts`.
    pub max_attempts: i32,
    /// Column `notify`.
    pub notify: bool,
    /// Column `paused`.
    pub paused: bool,
    /// Column `external_id`.
    pub external_id: Option<String>,
    /// Column `labels`.
    pub labels: Value,
    /// Column `transform`.
    pub transform: Option<String>,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `position`.
    pub position: i64,
    /// Column `lag_positions`.
    pub lag_positions: i64,
    /// Column `lag_age`.
    pub lag_age: Option<f64>,
    /// Column `waiting`.
    pub waiting: i64,
    /// Column `processing`.
    pub processing: i64,
    /// Column `oldest_due_at`.
    pub oldest_due_at: Option<DateTime<Utc>>,
    /// Column `oldest_due_age`.
    pub oldest_due_age: Option<f64>,
    /// Column `last_claim_at`.
    pub last_claim_at: Option<DateTime<Utc>>,
    /// Column `dead_letters`.
    pub dead_letters: i64,
}

/// A row of `outbox.topic`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TopicEntry {
    /// Column `code`.
    pub code: String,
    /// Column `active`.
    pub active: bool,
    /// Column `name`.
    pub name: String,
    /// Column `description`.
    pub description: Option<String>,
    /// Column `created_at`.
    pub created_at: DateTime<Utc>,
    /// Column `updated_at`.
    pub updated_at: DateTime<Utc>,
}

/// Optional arguments of `outbox.adopt()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Adopt {
    /// Argument `reason`.
    pub reason: Option<String>,
}

/// Optional arguments of `outbox.alter_endpoint()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct AlterEndpoint {
    /// Argument `url`.
    pub url: Option<String>,
    /// Argument `headers`.
    pub headers: Option<Value>,
    /// Argument `timeout`.
    pub timeout: Option<Duration>,
    /// Argument `concurrency`.
    pub concurrency: Option<i32>,
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `auth`.
    pub auth: Option<Value>,
    /// Argument `tls`.
    pub tls: Option<Value>,
    /// Argument `rate`.
    pub rate: Option<f64>,
    /// Argument `burst`.
    pub burst: Option<f64>,
    /// Argument `schedule`.
    pub schedule: Option<Value>,
    /// Argument `policy`.
    pub policy: Option<Value>,
    /// Argument `breaker`.
    pub breaker: Option<Value>,
    /// Argument `protocol`.
    pub protocol: Option<String>,
    /// Argument `compress`.
    pub compress: Option<bool>,
    /// Argument `response_id`.
    pub response_id: Option<String>,
    /// Argument `keep_headers`.
    pub keep_headers: Option<Vec<String>>,
    /// Argument `disable_after`.
    pub disable_after: Option<Duration>,
    /// Argument `disable_failures`.
    pub disable_failures: Option<i32>,
    /// Argument `new_name`.
    pub new_name: Option<String>,
    /// Argument `subscriber_type`.
    pub subscriber_type: Option<String>,
}

/// Optional arguments of `outbox.alter_projection()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct AlterProjection {
    /// Argument `version`.
    pub version: Option<i32>,
}

/// Optional arguments of `outbox.alter_publisher()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct AlterPublisher {
    /// Argument `name`.
    pub name: Option<String>,
    /// Argument `description`.
    pub description: Option<String>,
    /// Argument `active`.
    pub active: Option<bool>,
    /// Argument `topic_template`.
    pub topic_template: Option<String>,
    /// Argument `topic_function`.
    pub topic_function: Option<String>,
}

/// Optional arguments of `outbox.alter_subscription()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct AlterSubscription {
    /// Argument `topics`.
    pub topics: Option<Vec<String>>,
    /// Argument `filter`.
    pub filter: Option<Value>,
    /// Argument `endpoint`.
    pub endpoint: Option<String>,
    /// Argument `max_attempts`.
    pub max_attempts: Option<i32>,
    /// Argument `max_age`.
    pub max_age: Option<Duration>,
    /// Argument `schedule`.
    pub schedule: Option<Value>,
    /// Argument `policy`.
    pub policy: Option<Value>,
    /// Argument `format`.
    pub format: Option<String>,
    /// Argument `batch_size`.
    pub batch_size: Option<i32>,
    /// Argument `batch_wait`.
    pub batch_wait: Option<Duration>,
    /// Argument `ordering`.
    pub ordering: Option<String>,
    /// Argument `on_exhausted`.
    pub on_exhausted: Option<String>,
    /// Argument `ttl`.
    pub ttl: Option<Duration>,
    /// Argument `deadline`.
    pub deadline: Option<Duration>,
    /// Argument `notify`.
    pub notify: Option<bool>,
    /// Argument `max_lag`.
    pub max_lag: Option<Duration>,
    /// Argument `external_id`.
    pub external_id: Option<String>,
    /// Argument `labels`.
    pub labels: Option<Value>,
    /// Argument `reset`.
    pub reset: Option<Vec<String>>,
    /// Argument `transform`.
    pub transform: Option<String>,
}

/// Optional arguments of `outbox.alter_topic()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct AlterTopic {
    /// Argument `name`.
    pub name: Option<String>,
    /// Argument `description`.
    pub description: Option<String>,
    /// Argument `active`.
    pub active: Option<bool>,
}

/// Optional arguments of `outbox.append()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// Argument `expected_version`.
    pub expected_version: Option<i64>,
    /// Argument `event_id`.
    pub event_id: Option<String>,
    /// Argument `metadata`.
    pub metadata: Option<Value>,
    /// Argument `headers`.
    pub headers: Option<Value>,
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `publisher`.
    pub publisher: Option<String>,
    /// Argument `occurred_at`.
    pub occurred_at: Option<DateTime<Utc>>,
}

/// Optional arguments of `outbox.append_bytes()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct AppendBytes {
    /// Argument `content_type`.
    pub content_type: Option<String>,
    /// Argument `expected_version`.
    pub expected_version: Option<i64>,
    /// Argument `event_ids`.
    pub event_ids: Option<Vec<String>>,
    /// Argument `metadata`.
    pub metadata: Option<Vec<Value>>,
    /// Argument `headers`.
    pub headers: Option<Value>,
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `publisher`.
    pub publisher: Option<String>,
    /// Argument `occurred_at`.
    pub occurred_at: Option<DateTime<Utc>>,
}

/// Optional arguments of `outbox.append_many()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct AppendMany {
    /// Argument `expected_version`.
    pub expected_version: Option<i64>,
    /// Argument `event_ids`.
    pub event_ids: Option<Vec<String>>,
    /// Argument `metadata`.
    pub metadata: Option<Vec<Value>>,
    /// Argument `headers`.
    pub headers: Option<Value>,
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `publisher`.
    pub publisher: Option<String>,
    /// Argument `occurred_at`.
    pub occurred_at: Option<DateTime<Utc>>,
}

/// Optional arguments of `outbox.archive_list()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct ArchiveList {
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `status`.
    pub status: Option<String>,
    /// Argument `topic`.
    pub topic: Option<String>,
    /// Argument `aggregate_type`.
    pub aggregate_type: Option<String>,
    /// Argument `aggregate_id`.
    pub aggregate_id: Option<String>,
    /// Argument `endpoint`.
    pub endpoint: Option<String>,
    /// Argument `max_rows`.
    pub max_rows: Option<i32>,
    /// Argument `before`.
    pub before: Option<i64>,
}

/// Optional arguments of `outbox.archive_stats()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct ArchiveStats {
    /// Argument `tenant`.
    pub tenant: Option<String>,
}

/// Optional arguments of `outbox.cancel()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    /// Argument `actor`.
    pub actor: Option<String>,
    /// Argument `reason`.
    pub reason: Option<String>,
}

/// Optional arguments of `outbox.capture()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// Argument `topic`.
    pub topic: Option<String>,
    /// Argument `key_columns`.
    pub key_columns: Option<Vec<String>>,
    /// Argument `operations`.
    pub operations: Option<Vec<String>>,
    /// Argument `columns`.
    pub columns: Option<Vec<String>>,
    /// Argument `condition`.
    pub condition: Option<String>,
    /// Argument `include_old`.
    pub include_old: Option<bool>,
    /// Argument `style`.
    pub style: Option<String>,
    /// Argument `tenant_column`.
    pub tenant_column: Option<String>,
    /// Argument `replicated`.
    pub replicated: Option<bool>,
    /// Argument `oversize`.
    pub oversize: Option<String>,
}

/// Optional arguments of `outbox.claim()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// Argument `max_messages`.
    pub max_messages: Option<i32>,
    /// Argument `lease`.
    pub lease: Option<Duration>,
}

/// Optional arguments of `outbox.claim_delivery()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct ClaimDelivery {
    /// Argument `lease`.
    pub lease: Option<Duration>,
}

/// Optional arguments of `outbox.close_stream()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CloseStream {
    /// Argument `reason`.
    pub reason: Option<String>,
}

/// Optional arguments of `outbox.command_begin()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CommandBegin {
    /// Argument `ttl`.
    pub ttl: Option<Duration>,
    /// Argument `content`.
    pub content: Option<Value>,
}

/// Optional arguments of `outbox.command_end()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CommandEnd {
    /// Argument `result`.
    pub result: Option<Value>,
    /// Argument `error`.
    pub error: Option<Value>,
}

/// Optional arguments of `outbox.complete()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Complete {
    /// Argument `delivery_ids`.
    pub delivery_ids: Option<Vec<i64>>,
    /// Argument `results`.
    pub results: Option<Value>,
}

/// Optional arguments of `outbox.complete_and_claim()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CompleteAndClaim {
    /// Argument `max_messages`.
    pub max_messages: Option<i32>,
    /// Argument `lease`.
    pub lease: Option<Duration>,
}

/// Optional arguments of `outbox.count_by_state()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CountByState {
    /// Argument `tenant`.
    pub tenant: Option<String>,
}

/// Optional arguments of `outbox.count_messages()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CountMessages {
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `aggregate_type`.
    pub aggregate_type: Option<String>,
    /// Argument `aggregate_id`.
    pub aggregate_id: Option<String>,
    /// Argument `topic`.
    pub topic: Option<String>,
}

/// Optional arguments of `outbox.create_endpoint()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CreateEndpoint {
    /// Argument `secret`.
    pub secret: Option<String>,
    /// Argument `headers`.
    pub headers: Option<Value>,
    /// Argument `timeout`.
    pub timeout: Option<Duration>,
    /// Argument `concurrency`.
    pub concurrency: Option<i32>,
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `kind`.
    pub kind: Option<String>,
    /// Argument `auth`.
    pub auth: Option<Value>,
    /// Argument `tls`.
    pub tls: Option<Value>,
    /// Argument `signature`.
    pub signature: Option<String>,
    /// Argument `rate`.
    pub rate: Option<f64>,
    /// Argument `burst`.
    pub burst: Option<f64>,
    /// Argument `schedule`.
    pub schedule: Option<Value>,
    /// Argument `policy`.
    pub policy: Option<Value>,
    /// Argument `breaker`.
    pub breaker: Option<Value>,
    /// Argument `protocol`.
    pub protocol: Option<String>,
    /// Argument `compress`.
    pub compress: Option<bool>,
    /// Argument `response_id`.
    pub response_id: Option<String>,
    /// Argument `keep_headers`.
    pub keep_headers: Option<Vec<String>>,
    /// Argument `disable_after`.
    pub disable_after: Option<Duration>,
    /// Argument `disable_failures`.
    pub disable_failures: Option<i32>,
    /// Argument `consent`.
    pub consent: Option<bool>,
    /// Argument `subscriber_type`.
    pub subscriber_type: Option<String>,
}

/// Optional arguments of `outbox.create_projection()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CreateProjection {
    /// Argument `kind`.
    pub kind: Option<String>,
    /// Argument `categories`.
    pub categories: Option<Vec<String>>,
    /// Argument `types`.
    pub types: Option<Vec<String>>,
}

/// Optional arguments of `outbox.create_publisher()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CreatePublisher {
    /// Argument `name`.
    pub name: Option<String>,
    /// Argument `description`.
    pub description: Option<String>,
    /// Argument `active`.
    pub active: Option<bool>,
    /// Argument `topic_template`.
    pub topic_template: Option<String>,
    /// Argument `topic_function`.
    pub topic_function: Option<String>,
}

/// Optional arguments of `outbox.create_topic()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CreateTopic {
    /// Argument `name`.
    pub name: Option<String>,
    /// Argument `description`.
    pub description: Option<String>,
    /// Argument `active`.
    pub active: Option<bool>,
}

/// Optional arguments of `outbox.cursor_advance()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CursorAdvance {
    /// Argument `stream`.
    pub stream: Option<String>,
    /// Argument `subject`.
    pub subject: Option<String>,
    /// Argument `delivery_id`.
    pub delivery_id: Option<String>,
    /// Argument `delivered_at`.
    pub delivered_at: Option<DateTime<Utc>>,
    /// Argument `expected_position`.
    pub expected_position: Option<i64>,
    /// Argument `epoch`.
    pub epoch: Option<i32>,
}

/// Optional arguments of `outbox.cursor_delete()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CursorDelete {
    /// Argument `stream`.
    pub stream: Option<String>,
    /// Argument `subject`.
    pub subject: Option<String>,
}

/// Optional arguments of `outbox.cursor_get()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CursorGet {
    /// Argument `stream`.
    pub stream: Option<String>,
    /// Argument `subject`.
    pub subject: Option<String>,
    /// Argument `if_missing`.
    pub if_missing: Option<i64>,
}

/// Optional arguments of `outbox.cursor_list()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CursorList {
    /// Argument `consumer`.
    pub consumer: Option<String>,
    /// Argument `stream`.
    pub stream: Option<String>,
    /// Argument `subject`.
    pub subject: Option<String>,
    /// Argument `max_rows`.
    pub max_rows: Option<i32>,
}

/// Optional arguments of `outbox.cursor_record_error()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CursorRecordError {
    /// Argument `stream`.
    pub stream: Option<String>,
    /// Argument `subject`.
    pub subject: Option<String>,
    /// Argument `error_position`.
    pub error_position: Option<i64>,
    /// Argument `after_position`.
    pub after_position: Option<i64>,
}

/// Optional arguments of `outbox.cursor_reset()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct CursorReset {
    /// Argument `stream`.
    pub stream: Option<String>,
    /// Argument `subject`.
    pub subject: Option<String>,
    /// Argument `delivery_id`.
    pub delivery_id: Option<String>,
    /// Argument `delivered_at`.
    pub delivered_at: Option<DateTime<Utc>>,
}

/// Optional arguments of `outbox.delete_dead_letter()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct DeleteDeadLetter {
    /// Argument `actor`.
    pub actor: Option<String>,
    /// Argument `note`.
    pub note: Option<String>,
}

/// Optional arguments of `outbox.delete_snapshots()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct DeleteSnapshots {
    /// Argument `schema_version`.
    pub schema_version: Option<i32>,
}

/// Optional arguments of `outbox.disable_endpoint()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct DisableEndpoint {
    /// Argument `reason`.
    pub reason: Option<String>,
    /// Argument `mode`.
    pub mode: Option<String>,
}

/// Optional arguments of `outbox.drop_projection()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct DropProjection {
    /// Argument `version`.
    pub version: Option<i32>,
}

/// Optional arguments of `outbox.ensure_subscription()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct EnsureSubscription {
    /// Argument `endpoint`.
    pub endpoint: Option<String>,
    /// Argument `filter`.
    pub filter: Option<Value>,
    /// Argument `max_attempts`.
    pub max_attempts: Option<i32>,
    /// Argument `max_age`.
    pub max_age: Option<Duration>,
    /// Argument `schedule`.
    pub schedule: Option<Value>,
    /// Argument `policy`.
    pub policy: Option<Value>,
    /// Argument `format`.
    pub format: Option<String>,
    /// Argument `batch_size`.
    pub batch_size: Option<i32>,
    /// Argument `batch_wait`.
    pub batch_wait: Option<Duration>,
    /// Argument `ordering`.
    pub ordering: Option<String>,
    /// Argument `on_exhausted`.
    pub on_exhausted: Option<String>,
    /// Argument `ttl`.
    pub ttl: Option<Duration>,
    /// Argument `deadline`.
    pub deadline: Option<Duration>,
    /// Argument `notify`.
    pub notify: Option<bool>,
    /// Argument `max_lag`.
    pub max_lag: Option<Duration>,
    /// Argument `external_id`.
    pub external_id: Option<String>,
    /// Argument `labels`.
    pub labels: Option<Value>,
    /// Argument `start`.
    pub start: Option<String>,
    /// Argument `source`.
    pub source: Option<String>,
    /// Argument `transform`.
    pub transform: Option<String>,
}

/// Optional arguments of `outbox.erase()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Erase {
    /// Argument `actor`.
    pub actor: Option<String>,
    /// Argument `reason`.
    pub reason: Option<String>,
}

/// Optional arguments of `outbox.explain_routing()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct ExplainRouting {
    /// Argument `payload`.
    pub payload: Option<Value>,
    /// Argument `key`.
    pub key: Option<String>,
    /// Argument `headers`.
    pub headers: Option<Value>,
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `aggregate_type`.
    pub aggregate_type: Option<String>,
    /// Argument `aggregate_id`.
    pub aggregate_id: Option<String>,
    /// Argument `at_position`.
    pub at_position: Option<i64>,
    /// Argument `source`.
    pub source: Option<String>,
}

/// Optional arguments of `outbox.export_subject()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct ExportSubject {
    /// Argument `streams`.
    pub streams: Option<Vec<String>>,
    /// Argument `types`.
    pub types: Option<Vec<String>>,
    /// Argument `stream_prefix`.
    pub stream_prefix: Option<String>,
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `user_id`.
    pub user_id: Option<String>,
    /// Argument `metadata`.
    pub metadata: Option<Value>,
    /// Argument `from_time`.
    pub from_time: Option<DateTime<Utc>>,
    /// Argument `to_time`.
    pub to_time: Option<DateTime<Utc>>,
    /// Argument `after`.
    pub after: Option<Value>,
    /// Argument `max_events`.
    pub max_events: Option<i32>,
}

/// Optional arguments of `outbox.extend()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Extend {
    /// Argument `duration`.
    pub duration: Option<Duration>,
}

/// Optional arguments of `outbox.fail()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Fail {
    /// Argument `retry_after`.
    pub retry_after: Option<Duration>,
}

/// Optional arguments of `outbox.get_schema()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct GetSchema {
    /// Argument `version`.
    pub version: Option<i32>,
}

/// Optional arguments of `outbox.grant_consent()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct GrantConsent {
    /// Argument `rate_per_minute`.
    pub rate_per_minute: Option<i32>,
}

/// Optional arguments of `outbox.grant_to()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct GrantTo {
    /// Argument `subscriptions`.
    pub subscriptions: Option<Vec<String>>,
    /// Argument `topics`.
    pub topics: Option<Vec<String>>,
    /// Argument `tenants`.
    pub tenants: Option<Vec<String>>,
    /// Argument `publishers`.
    pub publishers: Option<Vec<String>>,
    /// Argument `consumers`.
    pub consumers: Option<Vec<String>>,
}

/// Optional arguments of `outbox.ignore_dead_letter()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct IgnoreDeadLetter {
    /// Argument `actor`.
    pub actor: Option<String>,
    /// Argument `note`.
    pub note: Option<String>,
}

/// Optional arguments of `outbox.inbox_begin()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct InboxBegin {
    /// Argument `epoch`.
    pub epoch: Option<i32>,
    /// Argument `stream`.
    pub stream: Option<String>,
}

/// Optional arguments of `outbox.list_messages()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct ListMessages {
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `state`.
    pub state: Option<String>,
    /// Argument `topic`.
    pub topic: Option<String>,
    /// Argument `aggregate_type`.
    pub aggregate_type: Option<String>,
    /// Argument `aggregate_id`.
    pub aggregate_id: Option<String>,
    /// Argument `severity`.
    pub severity: Option<String>,
    /// Argument `max_messages`.
    pub max_messages: Option<i32>,
    /// Argument `before`.
    pub before: Option<i64>,
    /// Argument `skip`.
    pub skip: Option<i32>,
}

/// Optional arguments of `outbox.load()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Argument `from_version`.
    pub from_version: Option<i64>,
    /// Argument `max_events`.
    pub max_events: Option<i32>,
    /// Argument `backwards`.
    pub backwards: Option<bool>,
    /// Argument `positions`.
    pub positions: Option<bool>,
    /// Argument `upcast`.
    pub upcast: Option<bool>,
}

/// Optional arguments of `outbox.load_snapshot()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct LoadSnapshot {
    /// Argument `schema_version`.
    pub schema_version: Option<i32>,
}

/// Optional arguments of `outbox.move_to_dead_letters()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct MoveToDeadLetters {
    /// Argument `actor`.
    pub actor: Option<String>,
}

/// Optional arguments of `outbox.notification_log()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct NotificationLog {
    /// Argument `message_id`.
    pub message_id: Option<i64>,
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `topic`.
    pub topic: Option<String>,
    /// Argument `aggregate_type`.
    pub aggregate_type: Option<String>,
    /// Argument `aggregate_id`.
    pub aggregate_id: Option<String>,
    /// Argument `max_rows`.
    pub max_rows: Option<i32>,
    /// Argument `before`.
    pub before: Option<i64>,
    /// Argument `subscription`.
    pub subscription: Option<String>,
}

/// Optional arguments of `outbox.pause_projection()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct PauseProjection {
    /// Argument `version`.
    pub version: Option<i32>,
}

/// Optional arguments of `outbox.purge()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Purge {
    /// Argument `include_unresolved`.
    pub include_unresolved: Option<bool>,
    /// Argument `dry_run`.
    pub dry_run: Option<bool>,
}

/// Optional arguments of `outbox.read()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Argument `max_messages`.
    pub max_messages: Option<i32>,
    /// Argument `topics`.
    pub topics: Option<Vec<String>>,
    /// Argument `filter`.
    pub filter: Option<Value>,
    /// Argument `epoch`.
    pub epoch: Option<i32>,
    /// Argument `source`.
    pub source: Option<String>,
}

/// Optional arguments of `outbox.read_events()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct ReadEvents {
    /// Argument `max_events`.
    pub max_events: Option<i32>,
    /// Argument `categories`.
    pub categories: Option<Vec<String>>,
    /// Argument `types`.
    pub types: Option<Vec<String>>,
    /// Argument `tenant`.
    pub tenant: Option<String>,
    /// Argument `filter`.
    pub filter: Option<Value>,
    /// Argument `member`.
    pub member: Option<i32>,
    /// Argument `members`.
    pub members: Option<i32>,
    /// Argument `epoch`.
    pub epoch: Option<i32>,
    /// Argument `upcast`.
    pub upcast: Option<bool>,
}

/// Optional arguments of `outbox.rebuild_projection()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct RebuildProjection {
    /// Argument `handler`.
    pub handler: Option<String>,
}

/// Optional arguments of `outbox.register_schema()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct RegisterSchema {
    /// Argument `version`.
    pub version: Option<i32>,
    /// Argument `compatibility`.
    pub compatibility: Option<String>,
    /// Argument `validated`.
    pub validated: Option<bool>,
    /// Argument `description`.
    pub description: Option<String>,
}

/// Optional arguments of `outbox.relay_heartbeat()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct RelayHeartbeat {
    /// Argument `epoch`.
    pub epoch: Option<i32>,
    /// Argument `relayed`.
    pub relayed: Option<i64>,
    /// Argument `skipped`.
    pub skipped: Option<i64>,
    /// Argument `rate`.
    pub rate: Option<f64>,
    /// Argument `error`.
    pub error: Option<String>,
}

/// Optional arguments of `outbox.release()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Release {
    /// Argument `delivery_ids`.
    pub delivery_ids: Option<Vec<i64>>,
}

/// Optional arguments of `outbox.replay()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Argument `from_position`.
    pub from_position: Option<i64>,
    /// Argument `to_position`.
    pub to_position: Option<i64>,
    /// Argument `filter`.
    pub filter: Option<Value>,
    /// Argument `new_ids`.
    pub new_ids: Option<bool>,
    /// Argument `rate`.
    pub rate: Option<i32>,
    /// Argument `from_time`.
    pub from_time: Option<DateTime<Utc>>,
    /// Argument `to_time`.
    pub to_time: Option<DateTime<Utc>>,
}

/// Optional arguments of `outbox.requeue()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Requeue {
    /// Argument `actor`.
    pub actor: Option<String>,
    /// Argument `note`.
    pub note: Option<String>,
}

/// Optional arguments of `outbox.requeue_all()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct RequeueAll {
    /// Argument `actor`.
    pub actor: Option<String>,
    /// Argument `subscription`.
    pub subscription: Option<String>,
    /// Argument `reason`.
    pub reason: Option<String>,
    /// Argument `topic`.
    pub topic: Option<String>,
    /// Argument `dead_after`.
    pub dead_after: Option<DateTime<Utc>>,
    /// Argument `dead_before`.
    pub dead_before: Option<DateTime<Utc>>,
    /// Argument `note`.
    pub note: Option<String>,
    /// Argument `max_rows`.
    pub max_rows: Option<i32>,
    /// Argument `dry_run`.
    pub dry_run: Option<bool>,
}

/// Optional arguments of `outbox.reschedule()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Reschedule {
    /// Argument `actor`.
    pub actor: Option<String>,
    /// Argument `priority`.
    pub priority: Option<i32>,
    /// Argument `expires_at`.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Optional arguments of `outbox.resolve_dead_letter()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct ResolveDeadLetter {
    /// Argument `actor`.
    pub actor: Option<String>,
    /// Argument `note`.
    pub note: Option<String>,
}

/// Optional arguments of `outbox.resume_projection()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct ResumeProjection {
    /// Argument `version`.
    pub version: Option<i32>,
}

/// Optional arguments of `outbox.retry()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Retry {
    /// Argument `actor`.
    pub actor: Option<String>,
}

/// Optional arguments of `outbox.revoke_subject_keys()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct RevokeSubjectKeys {
    /// Argument `actor`.
    pub actor: Option<String>,
    /// Argument `reason`.
    pub reason: Option<String>,
}

/// Optional arguments of `outbox.rotate()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Rotate {
    /// Argument `ring`.
    pub ring: Option<String>,
}

/// Optional arguments of `outbox.rotate_secret()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct RotateSecret {
    /// Argument `secret`.
    pub secret: Option<String>,
    /// Argument `overlap`.
    pub overlap: Option<Duration>,
}

/// Optional arguments of `outbox.run_projection()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct RunProjection {
    /// Argument `max_events`.
    pub max_events: Option<i32>,
    /// Argument `version`.
    pub version: Option<i32>,
}

/// Optional arguments of `outbox.saga_save()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct SagaSave {
    /// Argument `status`.
    pub status: Option<String>,
    /// Argument `step`.
    pub step: Option<i32>,
    /// Argument `steps`.
    pub steps: Option<Value>,
    /// Argument `correlation_id`.
    pub correlation_id: Option<String>,
    /// Argument `failure_reason`.
    pub failure_reason: Option<String>,
}

/// Optional arguments of `outbox.save_snapshot()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct SaveSnapshot {
    /// Argument `state`.
    pub state: Option<Value>,
    /// Argument `schema_version`.
    pub schema_version: Option<i32>,
    /// Argument `body`.
    pub body: Option<String>,
    /// Argument `content_type`.
    pub content_type: Option<String>,
}

/// Optional arguments of `outbox.send_test()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct SendTest {
    /// Argument `payload`.
    pub payload: Option<Value>,
}

/// Optional arguments of `outbox.set_proxy()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct SetProxy {
    /// Argument `resolves_names`.
    pub resolves_names: Option<bool>,
    /// Argument `is_default`.
    pub is_default: Option<bool>,
}

/// Optional arguments of `outbox.skip_event()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct SkipEvent {
    /// Argument `version`.
    pub version: Option<i32>,
}

/// Optional arguments of `outbox.skipped()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Skipped {
    /// Argument `topic`.
    pub topic: Option<String>,
    /// Argument `max_messages`.
    pub max_messages: Option<i32>,
    /// Argument `before`.
    pub before: Option<i64>,
}

/// Optional arguments of `outbox.stats()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Argument `tenant`.
    pub tenant: Option<String>,
}

/// Optional arguments of `outbox.streams()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// Argument `category`.
    pub category: Option<String>,
    /// Argument `after`.
    pub after: Option<String>,
    /// Argument `max_streams`.
    pub max_streams: Option<i32>,
}

/// Optional arguments of `outbox.subscribe()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    /// Argument `endpoint`.
    pub endpoint: Option<String>,
    /// Argument `filter`.
    pub filter: Option<Value>,
    /// Argument `max_attempts`.
    pub max_attempts: Option<i32>,
    /// Argument `max_age`.
    pub max_age: Option<Duration>,
    /// Argument `schedule`.
    pub schedule: Option<Value>,
    /// Argument `policy`.
    pub policy: Option<Value>,
    /// Argument `format`.
    pub format: Option<String>,
    /// Argument `batch_size`.
    pub batch_size: Option<i32>,
    /// Argument `batch_wait`.
    pub batch_wait: Option<Duration>,
    /// Argument `ordering`.
    pub ordering: Option<String>,
    /// Argument `on_exhausted`.
    pub on_exhausted: Option<String>,
    /// Argument `ttl`.
    pub ttl: Option<Duration>,
    /// Argument `deadline`.
    pub deadline: Option<Duration>,
    /// Argument `notify`.
    pub notify: Option<bool>,
    /// Argument `max_lag`.
    pub max_lag: Option<Duration>,
    /// Argument `external_id`.
    pub external_id: Option<String>,
    /// Argument `labels`.
    pub labels: Option<Value>,
    /// Argument `start`.
    pub start: Option<String>,
    /// Argument `url`.
    pub url: Option<String>,
    /// Argument `source`.
    pub source: Option<String>,
    /// Argument `transform`.
    pub transform: Option<String>,
}

/// Optional arguments of `outbox.truncate_stream()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct TruncateStream {
    /// Argument `reason`.
    pub reason: Option<String>,
}

/// Optional arguments of `outbox.unlock_stale()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct UnlockStale {
    /// Argument `subscription`.
    pub subscription: Option<String>,
}

/// Optional arguments of `outbox.upcast()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct Upcast {
    /// Argument `from_version`.
    pub from_version: Option<i32>,
    /// Argument `to_version`.
    pub to_version: Option<i32>,
}

/// Optional arguments of `outbox.validate_event()`; `None` stands for the default.
#[derive(Clone, Debug, Default)]
pub struct ValidateEvent {
    /// Argument `version`.
    pub version: Option<i32>,
}

impl Outbox {
    /// Makes data that was restored or copied here this database's own. Gives positions, in a new epoch, to the
    /// messages that have none, and lets the dispatcher push. Returns the last position. If the outbox is this
    /// database's own already, nothing is changed. reason (default null) is stored in outbox.audit. Not in a
    /// transaction block or function. Errors: 25001 in such a transaction or not at isolation level read committed,
    /// 55000 a subscription of logical replication writes this outbox, 55P03 another session keeps the sequencer for
    /// 5 s, or a leaf's lock was not available within 30 s.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn adopt(&self, options: Adopt) -> Result<Option<i64>> {
        call::single(self.call("adopt", json!({"reason": options.reason}), &[]).await?)
    }

    /// Changes the settings of an endpoint; null leaves a setting as it is. JSON null (auth, tls, schedule, policy,
    /// breaker), 0 (rate, burst) and an empty text (tenant, response_id) remove a setting. A new URL needs a new
    /// consent if the endpoint asks for consent. Returns the id of a control message. Errors: OB001 no such endpoint,
    /// 42710 new_name exists already, 22023 a setting is malformed or out of range.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn alter_endpoint(&self, name: &str, options: AlterEndpoint) -> Result<Option<i64>> {
        call::single(self.call("alter_endpoint", json!({"name": name, "url": options.url, "headers": options.headers, "timeout": options.timeout.map(|d| d.as_secs_f64()), "concurrency": options.concurrency, "tenant": options.tenant, "auth": options.auth, "tls": options.tls, "rate": options.rate, "burst": options.burst, "schedule": options.schedule, "policy": options.policy, "breaker": options.breaker, "protocol": options.protocol, "compress": options.compress, "response_id": options.response_id, "keep_headers": options.keep_headers, "disable_after": options.disable_after.map(|d| d.as_secs_f64()), "disable_failures": options.disable_failures, "new_name": options.new_name, "subscriber_type": options.subscriber_type}), &[]).await?)
    }

    /// Gives a projection another handler; events that were applied are not applied again. version null: the live
    /// one. Errors: OB001 no such projection, 42883 no such function, 42501 the caller does not have the rights of
    /// the function's owner, 22004 or 22023 a value is null or malformed, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn alter_projection(&self, name: &str, handler: &str, options: AlterProjection) -> Result<()> {
        self.call_void("alter_projection", json!({"name": name, "handler": handler, "version": options.version})).await
    }

    /// Changes a registered publisher; null leaves a value as it is, and an empty topic_template or topic_function
    /// removes it. From the commit on, messages of an inactive publisher are refused (OB007). Errors: OB001 the
    /// publisher is not registered, 22023 a value is malformed, 42883 no such function, 42501 the caller does not
    /// have the rights of the function's owner.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn alter_publisher(&self, code: &str, options: AlterPublisher) -> Result<()> {
        self.call_void("alter_publisher", json!({"code": code, "name": options.name, "description": options.description, "active": options.active, "topic_template": options.topic_template, "topic_function": options.topic_function})).await
    }

    /// Changes the settings of a subscription; null leaves a setting as it is. reset: names of settings that go back
    /// to their default (filter, max_attempts, max_age, schedule, policy, ttl, deadline, max_lag, external_id,
    /// labels, transform). Topics and filter hold for the positions after the control message whose id is returned; a
    /// transform holds for the messages that are routed from then on. Errors: OB001 no such subscription or endpoint,
    /// OB004 endpoint for a subscription that is pulled by workers, 42883 no such function, 42501 the caller does not
    /// have the rights of its owner, 22023 a setting is malformed or out of range, 54000 a text is too long.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn alter_subscription(&self, name: &str, options: AlterSubscription) -> Result<Option<i64>> {
        call::single(self.call("alter_subscription", json!({"name": name, "topics": options.topics, "filter": options.filter, "endpoint": options.endpoint, "max_attempts": options.max_attempts, "max_age": options.max_age.map(|d| d.as_secs_f64()), "schedule": options.schedule, "policy": options.policy, "format": options.format, "batch_size": options.batch_size, "batch_wait": options.batch_wait.map(|d| d.as_secs_f64()), "ordering": options.ordering, "on_exhausted": options.on_exhausted, "ttl": options.ttl.map(|d| d.as_secs_f64()), "deadline": options.deadline.map(|d| d.as_secs_f64()), "notify": options.notify, "max_lag": options.max_lag.map(|d| d.as_secs_f64()), "external_id": options.external_id, "labels": options.labels, "reset": options.reset, "transform": options.transform}), &[]).await?)
    }

    /// Changes a registered topic; null leaves a value as it is. From the commit on, messages of an inactive topic
    /// are refused (OB007). Errors: OB001 the topic is not registered, 22023 the name is malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn alter_topic(&self, code: &str, options: AlterTopic) -> Result<()> {
        self.call_void(
            "alter_topic",
            json!({"code": code, "name": options.name, "description": options.description, "active": options.active}),
        )
        .await
    }

    /// Appends an event to a stream in the current transaction and returns its version: 1, 2, ... without a gap.
    /// stream: category-id, at most 255 bytes. type: has the form of a topic. data: at most pg_outbox.max_payload
    /// (256 kB by default). expected_version: -1 any (the default), 0 the stream does not exist, -2 it exists, n its
    /// last version is n. With n or 0 and an event_id, the same call again is a success and writes nothing. The
    /// stream is locked until the transaction ends; a transaction that appends to more than 64 streams guards the
    /// others by the unique index alone. Errors: OB013 the stream is not at the expected version (the detail is JSON:
    /// stream, expected, actual), OB014 the stream is closed, OB008 the event id is that of another event, 22004
    /// stream, type, data or expected_version is null, 22023 a value is malformed, 54000 a value is too large, and
    /// the errors of enqueue().
    ///
    /// # Errors
    /// Those of the function.
    pub async fn append(&self, stream: &str, r#type: &str, data: &Value, options: Append) -> Result<Option<i64>> {
        call::single(self.call("append", json!({"stream": stream, "type": r#type, "data": data, "expected_version": options.expected_version, "event_id": options.event_id, "metadata": options.metadata, "headers": options.headers, "tenant": options.tenant, "publisher": options.publisher, "occurred_at": options.occurred_at}), &[]).await?)
    }

    /// Like append_many(), for bodies of bytes or text, which are stored and delivered unchanged. content_type: their
    /// media type (default application/octet-stream). Errors are those of append_many().
    ///
    /// # Errors
    /// Those of the function.
    pub async fn append_bytes(
        &self,
        stream: &str,
        types: &[&str],
        bodies: Vec<String>,
        options: AppendBytes,
    ) -> Result<Appended> {
        call::single(self.call("append_bytes", json!({"stream": stream, "types": types, "bodies": bodies, "content_type": options.content_type, "expected_version": options.expected_version, "event_ids": options.event_ids, "metadata": options.metadata, "headers": options.headers, "tenant": options.tenant, "publisher": options.publisher, "occurred_at": options.occurred_at}), &[]).await?)
    }

    /// Appends 1 to 10000 events to a stream, all or none. types, data and, if they are given, event_ids and metadata
    /// have one entry per event; headers, tenant, publisher and occurred_at hold for all. Errors are those of
    /// append(), and 22023 there are no events or the arrays have different lengths.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn append_many(
        &self,
        stream: &str,
        types: &[&str],
        data: Vec<Value>,
        options: AppendMany,
    ) -> Result<Appended> {
        call::single(self.call("append_many", json!({"stream": stream, "types": types, "data": data, "expected_version": options.expected_version, "event_ids": options.event_ids, "metadata": options.metadata, "headers": options.headers, "tenant": options.tenant, "publisher": options.publisher, "occurred_at": options.occurred_at}), &[]).await?)
    }

    /// Returns the final status of a message, with the result of each delivery. Errors: OB001 no such message, or a
    /// delivery of it is still open.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn archive_get(&self, message_id: i64) -> Result<ArchiveEntry> {
        call::single(self.call("archive_get", json!({"message_id": message_id}), &[]).await?)
    }

    /// Returns entries of the archive, newest first, up to max_rows (default 50; 1 to 1000) in a page. Pass the last
    /// id of a page as before to get the next one. status: completed, failed or skipped. A page looks at up to 1,000
    /// messages of the tenant or aggregate (or of all), and with endpoint at up to 10,000. If it ends there, its last
    /// row has no status, and only the id to continue with. Errors: 22023 max_rows is out of range or status is
    /// unknown, OB001 no such endpoint.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn archive_list(&self, options: ArchiveList) -> Result<Vec<ArchiveEntry>> {
        call::typed(self.call("archive_list", json!({"tenant": options.tenant, "status": options.status, "topic": options.topic, "aggregate_type": options.aggregate_type, "aggregate_id": options.aggregate_id, "endpoint": options.endpoint, "max_rows": options.max_rows, "before": options.before}), &[]).await?)
    }

    /// Returns how many of the last 1,000 messages (of a tenant; null: of all) have completed, failed (dead, expired
    /// or cancelled) or were skipped. total: the sum.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn archive_stats(&self, options: ArchiveStats) -> Result<ArchiveStatsRow> {
        call::single(self.call("archive_stats", json!({"tenant": options.tenant}), &[]).await?)
    }

    /// Cancels a message: ends its deliveries that are still waiting, and returns how many were ended. A delivery
    /// that a worker has or that is in flight is not tried again if it fails. actor (default: session_user) and
    /// reason are stored in outbox.audit. Errors: OB001 no such message, OB002 it was cancelled already or nothing is
    /// left to cancel, OB003 all remaining deliveries are leased.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn cancel(&self, message_id: i64, options: Cancel) -> Result<Option<i64>> {
        call::single(
            self.call(
                "cancel",
                json!({"message_id": message_id, "actor": options.actor, "reason": options.reason}),
                &[],
            )
            .await?,
        )
    }

    /// Cancels a replay, and returns the number of waiting deliveries that were cancelled. Deliveries that are leased
    /// or in flight end by themselves. Recorded in outbox.audit. Errors: OB001 no such replay, OB004 it has ended.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn cancel_replay(&self, replay_id: i64) -> Result<Option<i64>> {
        call::single(self.call("cancel_replay", json!({"replay_id": replay_id}), &[]).await?)
    }

    /// Turns changes of a table's rows into messages, in the transaction that makes the changes. The caller must own
    /// the table, and the owner needs the capability publish. A second call replaces the capture; call again after
    /// partitions were added. topic: may contain {schema}, {table} and {op}. key_columns: columns of the message's
    /// key (null: the primary key). operations: of insert, update, delete and truncate. columns: only these in the
    /// images (null: all). condition: an SQL expression over new and old. include_old: updates contain the old image
    /// too. style: change, row or debezium. tenant_column: column with the tenant. replicated: also capture changes
    /// that logical replication applies. oversize, for a payload that is too large: fail (the statement fails), skip
    /// (no message, with a warning) or reference (the key without images). Errors: 42501 the caller is not the owner,
    /// the owner may not enqueue, or the call is within a security-restricted operation; 42809 the relation cannot be
    /// captured; 42703 no such column; 22023 another argument is malformed; 55000 the table's schema was renamed
    /// meanwhile.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn capture(&self, relation: String, options: Capture) -> Result<()> {
        self.call_void("capture", json!({"relation": relation, "topic": options.topic, "key_columns": options.key_columns, "operations": options.operations, "columns": options.columns, "condition": options.condition, "include_old": options.include_old, "style": options.style, "tenant_column": options.tenant_column, "replicated": options.replicated, "oversize": options.oversize})).await
    }

    /// Returns the first part of a compound stream id, which is the id before the first "+". Members of a consumer
    /// group share a category by it. Null if the stream has no id.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn cardinal_id(&self, stream: &str) -> Result<Option<String>> {
        call::single(self.call("cardinal_id", json!({"stream": stream}), &[]).await?)
    }

    /// Returns the category of a stream: the part of its name before the first "-". Null for null.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn category(&self, stream: &str) -> Result<Option<String>> {
        call::single(self.call("category", json!({"stream": stream}), &[]).await?)
    }

    /// Leases up to max_messages (default 1; 1 to 10000) due deliveries of a pull subscription to a worker (a name of
    /// 1 to 255 bytes). The lease lasts for the duration lease (default 60 s, at most 7 days), and no longer than the
    /// subscription's deadline. The order is: highest priority, then longest due, then position. Returns one row of
    /// type outbox.claimed for each delivery, and no rows when nothing is due or the subscription is paused. No other
    /// worker gets these deliveries until the lease ends. Commit before the work starts: the commit makes the attempt
    /// count. Errors: OB001 no such subscription, OB004 it is pushed to an endpoint, 22023 an argument is out of
    /// range.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn claim(&self, subscription: &str, worker: &str, options: Claim) -> Result<Vec<Claimed>> {
        call::typed(self.call("claim", json!({"subscription": subscription, "worker": worker, "max_messages": options.max_messages, "lease": options.lease.map(|d| d.as_secs_f64())}), &[]).await?)
    }

    /// Leases one delivery to a worker, like claim(), and returns one row of type outbox.claimed. Raises an error
    /// when the delivery cannot be claimed: OB001 no such delivery, OB002 it has ended, OB003 it is leased, OB004 it
    /// is pushed to an endpoint, OB007 the subscription has ended or is paused, OB010 it has expired, OB011 no
    /// attempts left, OB012 it is not due, or it waits for another delivery of its key. Other errors: 22004
    /// delivery_id is null, 22023 worker or lease is out of range.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn claim_delivery(&self, delivery_id: i64, worker: &str, options: ClaimDelivery) -> Result<Claimed> {
        call::single(
            self.call(
                "claim_delivery",
                json!({"delivery_id": delivery_id, "worker": worker, "lease": options.lease.map(|d| d.as_secs_f64())}),
                &[],
            )
            .await?,
        )
    }

    /// Closes a stream for ever: append() refuses it from now on. Its events stay. Returns its last version. reason
    /// is stored in outbox.audit. Waits for the transactions that are appending to the stream. Errors: OB001 there is
    /// no such stream, OB004 it is closed already, OB006 the reason is empty, 55P03 another transaction keeps the
    /// stream for 5 s.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn close_stream(&self, stream: &str, options: CloseStream) -> Result<Option<i64>> {
        call::single(self.call("close_stream", json!({"stream": stream, "reason": options.reason}), &[]).await?)
    }

    /// Begins a command of the application, in the transaction that processes it. null: the command is new; process
    /// it, and then call command_end(). Otherwise the command was processed before, and the result is an object with
    /// key, command_type, success, result, error, processed_at and expires_at. A transaction that is processing the
    /// same key is waited for; if it rolls back, the key is new again. ttl: how long the key is remembered (24
    /// hours); null: until command_forget(). content: what the command was called with; only its hash is stored, and
    /// the key with other content is refused. Errors: OB004 the command has begun in this transaction, OB008 the key
    /// was used for another command, 22004 or 22023 a value is null or malformed, 40001 at REPEATABLE READ when
    /// another transaction has processed the command meanwhile, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn command_begin(&self, key: &str, command_type: &str, options: CommandBegin) -> Result<Option<Value>> {
        call::single(self.call("command_begin", json!({"key": key, "command_type": command_type, "ttl": options.ttl.map(|d| d.as_secs_f64()), "content": options.content}), &[]).await?)
    }

    /// Stores the result of a command that has begun in this transaction, so that later calls of command_begin()
    /// return it. error: the command failed, and that is final; roll back its effects to a savepoint first. A failed
    /// command that may be tried again rolls back the whole transaction instead. A transaction that commits without
    /// this call has processed the command, with no result. Errors: OB004 the command has not begun in this
    /// transaction, 54000 the result or error is above pg_outbox.max_payload.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn command_end(&self, key: &str, options: CommandEnd) -> Result<()> {
        self.call_void("command_end", json!({"key": key, "result": options.result, "error": options.error})).await
    }

    /// Forgets a command, so that its key is new again. Returns false if the key is not known.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn command_forget(&self, key: &str) -> Result<Option<bool>> {
        call::single(self.call("command_forget", json!({"key": key}), &[]).await?)
    }

    /// Returns how compatible two versions of the schema of an event type are: full, backward (the new one reads the
    /// data of the old one), forward (the old one reads the data of the new one) or breaking, and the reasons why it
    /// is not full. An unproved direction counts as incompatible. Errors: OB001 there is no such version.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn compare_schemas(&self, r#type: &str, old_version: i32, new_version: i32) -> Result<CompareSchemasRow> {
        call::single(
            self.call(
                "compare_schemas",
                json!({"type": r#type, "old_version": old_version, "new_version": new_version}),
                &[],
            )
            .await?,
        )
    }

    /// Ends deliveries of a lease (delivery_ids null: all that it holds) as completed. Returns their ids, in the
    /// order of positions. An id that is missing had ended or was lost to another lease; the array is empty when the
    /// lease is lost. results: a JSON array with one element per element of delivery_ids, which the attempt log
    /// stores. An element is null, the receiver's id as a string, or an object {total, matched, succeeded, failed,
    /// send_results}. Errors: 22004 lease is null, 22023 results does not have one element per delivery id.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn complete(&self, lease: i64, options: Complete) -> Result<Vec<i64>> {
        call::single(
            self.call(
                "complete",
                json!({"lease": lease, "delivery_ids": options.delivery_ids, "results": options.results}),
                &[],
            )
            .await?,
        )
    }

    /// Completes all deliveries that the lease done still holds (null: completes nothing), and claims the next
    /// deliveries like claim(), in one transaction: both take effect, or neither. Defaults and ranges are those of
    /// claim(). When no rows are returned, call it once more with done null before waiting, because the deliveries
    /// that were completed may have held others back. Errors: OB003 the lease is lost (nothing was completed or
    /// claimed), and those of claim().
    ///
    /// # Errors
    /// Those of the function.
    pub async fn complete_and_claim(
        &self,
        done: i64,
        subscription: &str,
        worker: &str,
        options: CompleteAndClaim,
    ) -> Result<Vec<Claimed>> {
        call::typed(self.call("complete_and_claim", json!({"done": done, "subscription": subscription, "worker": worker, "max_messages": options.max_messages, "lease": options.lease.map(|d| d.as_secs_f64())}), &[]).await?)
    }

    /// Returns the number of deliveries in each state. For all tenants (null), completed and cancelled are counted
    /// since the beginning, from counters. For one tenant they are counted among the messages that are still stored,
    /// which takes longer the more messages that tenant has.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn count_by_state(&self, options: CountByState) -> Result<Vec<CountByStateRow>> {
        call::typed(self.call("count_by_state", json!({"tenant": options.tenant}), &[]).await?)
    }

    /// Returns the number of messages (of a tenant, an aggregate, a topic; null: of all). 10,000 means at least
    /// 10,000.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn count_messages(&self, options: CountMessages) -> Result<Option<i64>> {
        call::single(self.call("count_messages", json!({"tenant": options.tenant, "aggregate_type": options.aggregate_type, "aggregate_id": options.aggregate_id, "topic": options.topic}), &[]).await?)
    }

    /// Creates an endpoint (an HTTP destination) and returns its id, its signing secret, and the id of a control
    /// message. The signing secret is shown nowhere else. secret: null makes a new one. signature: v1 (HMAC-SHA256,
    /// the default) or v1a (ed25519). timeout: above 0, at most 60 s (default 15 s). concurrency: 1 to 1024 requests
    /// in flight (default 8). rate: requests per second (null: no limit). headers: a JSON object without credentials.
    /// auth: {"type": "basic", "bearer", "header" or "oauth2", ...}. tls: {"ca", "certificate", "key"} as PEM texts.
    /// schedule: waits between attempts, such as \[5, 30, "2 min"] or {"base": 5, "factor": 2, "cap": "1 h", "jitter":
    /// 0.2}. policy: such as {"404": "retry", "4xx": "dead"}. consent: true holds deliveries until the receiver
    /// agrees. The other settings are described at the columns of outbox.endpoint. Errors: 42710 the endpoint exists
    /// already, 22004 name or url is null, 22023 a setting is malformed or out of range.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn create_endpoint(&self, name: &str, url: &str, options: CreateEndpoint) -> Result<CreateEndpointRow> {
        call::single(self.call("create_endpoint", json!({"name": name, "url": url, "secret": options.secret, "headers": options.headers, "timeout": options.timeout.map(|d| d.as_secs_f64()), "concurrency": options.concurrency, "tenant": options.tenant, "kind": options.kind, "auth": options.auth, "tls": options.tls, "signature": options.signature, "rate": options.rate, "burst": options.burst, "schedule": options.schedule, "policy": options.policy, "breaker": options.breaker, "protocol": options.protocol, "compress": options.compress, "response_id": options.response_id, "keep_headers": options.keep_headers, "disable_after": options.disable_after.map(|d| d.as_secs_f64()), "disable_failures": options.disable_failures, "consent": options.consent, "subscriber_type": options.subscriber_type}), &[]).await?)
    }

    /// Creates a projection. handler: the signature of a function (events outbox.event\[]) returns void, such as
    /// "app.count_orders(outbox.event\[])"; it runs as its owner, with a pinned search_path, and can neither create
    /// temporary tables nor change the role. kind async: from the first event on, whenever run_projection() is
    /// called; inline: from the next append on, in the transaction that appends. categories, types (patterns): only
    /// these events; null: all. Errors: 42710 the name is taken, 42883 no such function, 42501 the caller does not
    /// have the rights of the function's owner, 22004 or 22023 a value is null or malformed, 55P03 a transaction
    /// appends for longer than 5 s, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn create_projection(&self, name: &str, handler: &str, options: CreateProjection) -> Result<()> {
        self.call_void("create_projection", json!({"name": name, "handler": handler, "kind": options.kind, "categories": options.categories, "types": options.types})).await
    }

    /// Registers a publisher. code has no "@" and stands for all publishers "code@version". name: default code.
    /// topic_template (such as "{tenant}.{topic}") or topic_function (the signature of a function (tenant text, topic
    /// text) returns text) determines the topic of its messages. Errors: 22004 code is null, 22023 a value is
    /// malformed, 42710 the publisher is registered already, 42883 no such function, 42501 the caller does not have
    /// the rights of the function's owner.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn create_publisher(&self, code: &str, options: CreatePublisher) -> Result<()> {
        self.call_void("create_publisher", json!({"code": code, "name": options.name, "description": options.description, "active": options.active, "topic_template": options.topic_template, "topic_function": options.topic_function})).await
    }

    /// Registers a topic. Registration is needed only to describe a topic, to switch it off, or with
    /// pg_outbox.require_topic. name: default code. Errors: 22004 code is null, 22023 a value is malformed, 42710 the
    /// topic is registered already.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn create_topic(&self, code: &str, options: CreateTopic) -> Result<()> {
        self.call_void(
            "create_topic",
            json!({"code": code, "name": options.name, "description": options.description, "active": options.active}),
        )
        .await
    }

    /// Registers a function (data jsonb) returns jsonb that turns data of an event type from a version into data of
    /// the next version, or replaces the one there is. It must not be volatile, runs as its owner and with a pinned
    /// search_path. function: its signature, such as "app.order_placed_2(jsonb)". Errors: OB004 the chain of versions
    /// would have a gap, 42883 no such function, 42501 the caller does not have the rights of the function's owner,
    /// 22004 or 22023 a value is null or malformed, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn create_upcaster(&self, r#type: &str, from_version: i32, function: &str) -> Result<()> {
        self.call_void("create_upcaster", json!({"type": r#type, "from_version": from_version, "function": function}))
            .await
    }

    /// Confirms that a consumer has read everything up to a position, and creates the cursor if there is none. At the
    /// position where the cursor stands already, nothing changes, and advanced is false. delivery_id identifies the
    /// delivery, and delivered_at (default: now) says when it was made. expected_position makes the call a
    /// compare-and-set. epoch: the epoch in which the position was read. Errors: OB005 the position is smaller than
    /// the cursor's, the same position has another delivery id, or the cursor is not at expected_position; OB009 a
    /// name is malformed, the position is below 1, after the end of the feed, or in a history that was lost; 25006
    /// the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn cursor_advance(&self, consumer: &str, position: i64, options: CursorAdvance) -> Result<CursorState> {
        call::single(self.call("cursor_advance", json!({"consumer": consumer, "position": position, "stream": options.stream, "subject": options.subject, "delivery_id": options.delivery_id, "delivered_at": options.delivered_at, "expected_position": options.expected_position, "epoch": options.epoch}), &[]).await?)
    }

    /// Deletes a cursor. The reason is stored in outbox.audit. Errors: OB001 there is no such cursor, OB006 the
    /// reason is empty, OB009 a name is malformed, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn cursor_delete(&self, consumer: &str, reason: &str, options: CursorDelete) -> Result<()> {
        self.call_void(
            "cursor_delete",
            json!({"consumer": consumer, "reason": reason, "stream": options.stream, "subject": options.subject}),
        )
        .await
    }

    /// Returns a consumer's cursor. stream is "outbox" (the feed) by default, subject is empty by default. Errors:
    /// OB001 there is no such cursor; with if_missing, the result shows that position instead (nothing is stored).
    /// OB009 a name is malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn cursor_get(&self, consumer: &str, options: CursorGet) -> Result<CursorState> {
        call::single(self.call("cursor_get", json!({"consumer": consumer, "stream": options.stream, "subject": options.subject, "if_missing": options.if_missing}), &[]).await?)
    }

    /// Lists cursors in the order of stream, subject and consumer. consumer, stream, subject: only those equal to the
    /// value; null: all. max_rows: at most so many rows; 0 (the default): no limit.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn cursor_list(&self, options: CursorList) -> Result<Vec<CursorState>> {
        call::typed(self.call("cursor_list", json!({"consumer": options.consumer, "stream": options.stream, "subject": options.subject, "max_rows": options.max_rows}), &[]).await?)
    }

    /// Records why a consumer cannot go on: an error text (its first 2000 characters), and as error_position the
    /// position of the message that cannot be handled (null: not known). Nothing is recorded if the cursor has passed
    /// error_position: then another instance has handled the message. The cursor does not move. If there is none, it
    /// is created at after_position, where its reader begins. error_since stays that of the first error, health()
    /// reports the cursor, and the next advance or reset clears all three. Errors: OB009 the text is empty,
    /// error_position is below 1, after_position is negative or, for a new cursor, after the end of the feed, or a
    /// name is malformed; 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn cursor_record_error(
        &self,
        consumer: &str,
        error: &str,
        options: CursorRecordError,
    ) -> Result<CursorState> {
        call::single(self.call("cursor_record_error", json!({"consumer": consumer, "error": error, "stream": options.stream, "subject": options.subject, "error_position": options.error_position, "after_position": options.after_position}), &[]).await?)
    }

    /// Moves a cursor to any position from 0 on, back as well, and creates the cursor if there is none. The reason is
    /// stored in outbox.audit. Errors: OB006 the reason is empty, OB009 a name is malformed or the position is
    /// negative or after the end of the feed, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn cursor_reset(
        &self,
        consumer: &str,
        position: i64,
        reason: &str,
        options: CursorReset,
    ) -> Result<CursorState> {
        call::single(self.call("cursor_reset", json!({"consumer": consumer, "position": position, "reason": reason, "stream": options.stream, "subject": options.subject, "delivery_id": options.delivery_id, "delivered_at": options.delivered_at}), &[]).await?)
    }

    /// Ends deliveries of a lease (delivery_ids null: all that it holds) as dead letters at once, because no further
    /// attempt will help. The dead letter has the reason "rejected", and the argument reason as its last_error.
    /// Returns the ids that were changed; an empty array when the lease is lost. Errors: 22004 lease is null.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn dead(&self, lease: i64, delivery_ids: &[i64], reason: &str) -> Result<Vec<i64>> {
        call::single(
            self.call("dead", json!({"lease": lease, "delivery_ids": delivery_ids, "reason": reason}), &[]).await?,
        )
    }

    /// Returns numbers of dead letters. total: all; unresolved: open ones; resolved: all others. oldest_age_seconds,
    /// newest_age_seconds and top_failure_reason are those of open ones, and null if there are none.
    /// per_subscription: {name: {"total", "unresolved"}}.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn dead_letter_stats(&self) -> Result<DeadLetterStatsRow> {
        call::single(self.call("dead_letter_stats", json!({}), &[]).await?)
    }

    /// Returns the open dead letters that became dead letters longer ago than age, oldest first.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn dead_letters_older_than(&self, older_than: Duration) -> Result<Vec<DeadLetterStatus>> {
        call::typed(
            self.call("dead_letters_older_than", json!({"older_than": older_than.as_secs_f64()}), &["age"]).await?,
        )
    }

    /// Deletes a dead letter, whatever its resolution. Its row is stored in outbox.audit. Errors: OB001 no such dead
    /// letter, 22023 actor is empty.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn delete_dead_letter(&self, dead_letter_id: i64, options: DeleteDeadLetter) -> Result<()> {
        self.call_void(
            "delete_dead_letter",
            json!({"dead_letter_id": dead_letter_id, "actor": options.actor, "note": options.note}),
        )
        .await
    }

    /// Deletes the snapshots of a stream, or the one of a schema version, and returns how many. The next load starts
    /// at the first event.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn delete_snapshots(&self, stream: &str, options: DeleteSnapshots) -> Result<Option<i64>> {
        call::single(
            self.call("delete_snapshots", json!({"stream": stream, "schema_version": options.schema_version}), &[])
                .await?,
        )
    }

    /// Returns one row per attempt of a subscription (10000 at most). wait: time after the attempt before. planned,
    /// earliest and latest: time after the first attempt, without jitter, with the least and with the most jitter.
    /// The list ends at max_age. Errors: OB001 no such subscription.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn describe_schedule(&self, subscription: &str) -> Result<Vec<DescribeScheduleRow>> {
        call::typed(
            self.call(
                "describe_schedule",
                json!({"subscription": subscription}),
                &["wait", "planned", "earliest", "latest"],
            )
            .await?,
        )
    }

    /// Stops sending to an endpoint until enable_endpoint(). mode: hold (the default) keeps deliveries waiting, skip
    /// records them as skipped. Recorded in outbox.audit. Returns the id of a control message. Errors: OB001 no such
    /// endpoint, 22023 unknown mode, 54000 the reason is too large.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn disable_endpoint(&self, name: &str, options: DisableEndpoint) -> Result<Option<i64>> {
        call::single(
            self.call("disable_endpoint", json!({"name": name, "reason": options.reason, "mode": options.mode}), &[])
                .await?,
        )
    }

    /// Drops an endpoint that no subscription uses, and deletes its secrets and credentials. Deliveries that wait for
    /// a retry are recorded as skipped. Returns the id of a control message. Errors: OB001 no such endpoint, OB004 a
    /// subscription uses it.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn drop_endpoint(&self, name: &str) -> Result<Option<i64>> {
        call::single(self.call("drop_endpoint", json!({"name": name}), &[]).await?)
    }

    /// Removes a projection with its cursors, or one version of it. Its tables stay: they are the application's.
    /// Errors: OB001 no such projection, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn drop_projection(&self, name: &str, options: DropProjection) -> Result<()> {
        self.call_void("drop_projection", json!({"name": name, "version": options.version})).await
    }

    /// Removes a proxy from the list. Returns the id of a control message. Only for the owner of the extension and
    /// superusers; it is in no capability. Errors: OB001 no such proxy, OB004 an endpoint uses it.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn drop_proxy(&self, name: &str) -> Result<Option<i64>> {
        call::single(self.call("drop_proxy", json!({"name": name}), &[]).await?)
    }

    /// Removes the first or the last upcaster of an event type. Errors: OB001 there is none from this version, OB004
    /// the chain would have a gap, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn drop_upcaster(&self, r#type: &str, from_version: i32) -> Result<()> {
        self.call_void("drop_upcaster", json!({"type": r#type, "from_version": from_version})).await
    }

    /// Resumes sending to an endpoint. Failed deliveries are due at once. The circuit breaker closes, a pause ends,
    /// and the count of failures is reset. Recorded in outbox.audit. Returns the id of a control message. Errors:
    /// OB001 no such endpoint.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn enable_endpoint(&self, name: &str) -> Result<Option<i64>> {
        call::single(self.call("enable_endpoint", json!({"name": name}), &[]).await?)
    }

    /// Creates a subscription, or alters the one that there is, so that it is as described: for migrations, and for
    /// programs that start. Topics, filter (null: none) and whether it is pushed are always as given; any other
    /// setting that is null keeps its value, or gets the default of subscribe() if the subscription is new. start:
    /// where a new subscription begins, as in subscribe(). Its default is earliest for a subscription that workers
    /// claim from, so that workers that are deployed after their producers miss nothing, and latest for a pushed one,
    /// so that a new receiver is not sent the history. Returns created, altered or unchanged; unchanged writes
    /// nothing. Errors: OB001 no such endpoint, OB004 the subscription is pulled and endpoint is given, or the other
    /// way round, or it has another source; 40001 another session created it, and this transaction cannot see it;
    /// those of subscribe().
    ///
    /// # Errors
    /// Those of the function.
    pub async fn ensure_subscription(
        &self,
        name: &str,
        topics: &[&str],
        options: EnsureSubscription,
    ) -> Result<Option<String>> {
        call::single(self.call("ensure_subscription", json!({"name": name, "topics": topics, "endpoint": options.endpoint, "filter": options.filter, "max_attempts": options.max_attempts, "max_age": options.max_age.map(|d| d.as_secs_f64()), "schedule": options.schedule, "policy": options.policy, "format": options.format, "batch_size": options.batch_size, "batch_wait": options.batch_wait.map(|d| d.as_secs_f64()), "ordering": options.ordering, "on_exhausted": options.on_exhausted, "ttl": options.ttl.map(|d| d.as_secs_f64()), "deadline": options.deadline.map(|d| d.as_secs_f64()), "notify": options.notify, "max_lag": options.max_lag.map(|d| d.as_secs_f64()), "external_id": options.external_id, "labels": options.labels, "start": options.start, "source": options.source, "transform": options.transform}), &[]).await?)
    }

    /// Erases the content of a message (payload, body, headers, metadata, and in the attempt log responses, results
    /// and errors), ends its waiting deliveries, and deletes the snapshots of its stream. Ids, topic, key, positions
    /// and counts stay. The message cannot be requeued, resent or replayed any more. actor (default: session_user)
    /// and reason are stored in outbox.audit. Errors: OB001 no such message, OB003 a worker has a delivery of it,
    /// OB006 the reason is empty, 55P03 a lock was not available within 5 s.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn erase(&self, message_id: i64, options: Erase) -> Result<()> {
        self.call_void("erase", json!({"message_id": message_id, "actor": options.actor, "reason": options.reason}))
            .await
    }

    /// Returns, for each subscription, whether a message with these properties would match it, and the reason.
    /// reason: matches (with a note if the subscription is paused), topic, inactive, source (it takes events, or it
    /// does not), filter with the fields that refuse the message, or filter: payload. source: messages (the default)
    /// or events. The answer is that of the newest version of each subscription; with at_position, that of the
    /// version that held at the position, ended subscriptions included. Errors: 22023 topic is malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn explain_routing(&self, topic: &str, options: ExplainRouting) -> Result<Vec<ExplainRoutingRow>> {
        call::typed(self.call("explain_routing", json!({"topic": topic, "payload": options.payload, "key": options.key, "headers": options.headers, "tenant": options.tenant, "aggregate_type": options.aggregate_type, "aggregate_id": options.aggregate_id, "at_position": options.at_position, "source": options.source}), &[]).await?)
    }

    /// Returns the events that concern a person, a page at a time. streams: only these, by stream and version;
    /// stream_prefix: those whose name begins so, likewise; or everything in the order of the feed, for which at
    /// least one filter is needed. A page of the last two looks at max_events events. types: patterns of the type;
    /// user_id: metadata.user_id; metadata: entries that the metadata contain; from_time, to_time: when the event was
    /// stored, inclusive. All filters hold together. after: "next" of the last row, for the next page; there is no
    /// row when there are no more. max_events: 1 to 10000 (1000). A row whose message_id is null only says how far a
    /// scan has come. redacted: the event was erased, or the key that metadata.key_id names was revoked. Errors:
    /// 22023 neither streams nor a filter, or a value is malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn export_subject(&self, options: ExportSubject) -> Result<Vec<ExportedEvent>> {
        call::typed(self.call("export_subject", json!({"streams": options.streams, "types": options.types, "stream_prefix": options.stream_prefix, "tenant": options.tenant, "user_id": options.user_id, "metadata": options.metadata, "from_time": options.from_time, "to_time": options.to_time, "after": options.after, "max_events": options.max_events}), &[]).await?)
    }

    /// Extends a lease so that it ends duration (default 60 s, at most 7 days) from now, but not after the deadline
    /// of its claim. Never shortens the lease. Returns the new end. Errors: OB003 the lease is lost, 22004 lease is
    /// null, 22023 duration is out of range.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn extend(&self, lease: i64, options: Extend) -> Result<Option<DateTime<Utc>>> {
        call::single(
            self.call("extend", json!({"lease": lease, "duration": options.duration.map(|d| d.as_secs_f64())}), &[])
                .await?,
        )
    }

    /// Records a failed attempt of deliveries of a lease (delivery_ids null: of all that it holds). A delivery is
    /// tried again after retry_after (null: after the wait that the subscription's schedule says). A delivery becomes
    /// a dead letter after its last attempt, or when the next attempt would be later than max_age or the expiry
    /// allow. An error of more than 4096 bytes is cut to its first 1000 characters. Returns the ids that were
    /// changed; an empty array when the lease is lost. Errors: 22004 lease is null.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn fail(&self, lease: i64, delivery_ids: &[i64], error: &str, options: Fail) -> Result<Vec<i64>> {
        call::single(self.call("fail", json!({"lease": lease, "delivery_ids": delivery_ids, "error": error, "retry_after": options.retry_after.map(|d| d.as_secs_f64())}), &[]).await?)
    }

    /// Removes the row of a relay that will not run again from outbox.relay_status, so that health() no longer misses
    /// it. Its cursor stays; see cursor_delete(). Returns whether there was a row. Errors: 25006 the transaction is
    /// read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn forget_relay(&self, relay: &str) -> Result<Option<bool>> {
        call::single(self.call("forget_relay", json!({"relay": relay}), &[]).await?)
    }

    /// Returns one message with its state. Errors: OB001 no such message, or retention has removed it.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn get_message(&self, message_id: i64) -> Result<MessageStatus> {
        call::single(self.call("get_message", json!({"message_id": message_id}), &[]).await?)
    }

    /// Returns the schema of an event type. version null: the latest one. Errors: OB001 there is none.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn get_schema(&self, r#type: &str, options: GetSchema) -> Result<EventSchema> {
        call::single(self.call("get_schema", json!({"type": r#type, "version": options.version}), &[]).await?)
    }

    /// Returns a data key by its id. If it was revoked, wrapped_key is null, and revoked_at and reason are set.
    /// Errors: OB001 there is no such key, 22004 or 22023 the id is null or malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn get_subject_key(&self, key_id: &str) -> Result<SubjectKey> {
        call::single(self.call("get_subject_key", json!({"key_id": key_id}), &[]).await?)
    }

    /// Records that the receiver has given its consent by other means than the handshake. rate_per_minute: requests
    /// per minute that it allows; null: no limit. Returns the id of a control message. Errors: OB001 no such
    /// endpoint, 22023 rate_per_minute is below 1.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn grant_consent(&self, endpoint: &str, options: GrantConsent) -> Result<Option<i64>> {
        call::single(
            self.call("grant_consent", json!({"endpoint": endpoint, "rate_per_minute": options.rate_per_minute}), &[])
                .await?,
        )
    }

    /// Grants a role a capability (publish, capture, consume, observe, monitor or admin), or replaces an earlier
    /// grant of it. publish can be narrowed to topics (patterns), tenants and publishers; monitor to tenants. consume
    /// can be narrowed to subscriptions, topics (patterns, for read()) and consumers (of cursors); if one of these is
    /// given, those that are not given allow nothing. null: not narrowed. A list has at most 1000 names of 1 to 255
    /// bytes. Errors: 42704 no such role, 22023 the capability is unknown or cannot be narrowed like this, or a list
    /// is malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn grant_to(&self, role: &str, capability: &str, options: GrantTo) -> Result<()> {
        self.call_void("grant_to", json!({"role": role, "capability": capability, "subscriptions": options.subscriptions, "topics": options.topics, "tenants": options.tenants, "publishers": options.publishers, "consumers": options.consumers})).await
    }

    /// Returns the last position of the feed; 0 when the feed is empty.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn head(&self) -> Result<Option<i64>> {
        call::single(self.call("head", json!({}), &[]).await?)
    }

    /// Returns one row per check. state: ok, warning or critical. culprit: the object, session or setting that is the
    /// cause. what_to_do: what an operator can do. Suited to an alert on state \<> 'ok'.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn health(&self) -> Result<Vec<HealthRow>> {
        call::typed(self.call("health", json!({}), &[]).await?)
    }

    /// Returns the events of one message in order of time. what: enqueued, numbered (with its position), routed, the
    /// outcome of an attempt, next attempt, dead letter. Errors: OB001 no such message.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn history(&self, message_id: i64) -> Result<Vec<HistoryRow>> {
        call::typed(self.call("history", json!({"message_id": message_id}), &[]).await?)
    }

    /// Marks an open dead letter as ignored, because it is not worth an action. actor and note are stored with it and
    /// in outbox.audit. Errors: OB001 no such dead letter, OB004 it is not open, 22023 actor is empty.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn ignore_dead_letter(&self, dead_letter_id: i64, options: IgnoreDeadLetter) -> Result<()> {
        self.call_void(
            "ignore_dead_letter",
            json!({"dead_letter_id": dead_letter_id, "actor": options.actor, "note": options.note}),
        )
        .await
    }

    /// Called in the transaction that handles a message from a relay: returns true if the message is new, and false
    /// if it or a later one of its source and stream was handled before. source, position and epoch are those of the
    /// message's headers; stream is the stream or partition in which the broker keeps the order. Waits for another
    /// transaction that handles a message of the same stream. Errors: OB009 an argument is malformed, 25006 the
    /// transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn inbox_begin(&self, source: &str, position: i64, options: InboxBegin) -> Result<Option<bool>> {
        call::single(
            self.call(
                "inbox_begin",
                json!({"source": source, "position": position, "epoch": options.epoch, "stream": options.stream}),
                &[],
            )
            .await?,
        )
    }

    /// Creates the schema message_store with the functions, types, views and role of message-db 1.3, over the streams
    /// of pg_outbox. Called again, for example after an upgrade, it replaces the functions and views and leaves
    /// grants as they are. The first call creates the role message_store and grants it publish and consume; a role of
    /// this name that exists gets no capability. Only for the owner of the extension and superusers; it is in no
    /// capability. Errors: 42501 the schema belongs to another role, 42P06 it is that of a message-db, 25006 the
    /// transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn install_message_store(&self) -> Result<()> {
        self.call_void("install_message_store", json!({})).await
    }

    /// Returns whether a delivery or message in this state is not tried again by itself: true for completed, dead,
    /// skipped, expired and cancelled.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn is_terminal(&self, state: &str) -> Result<Option<bool>> {
        call::single(self.call("is_terminal", json!({"state": state}), &[]).await?)
    }

    /// Returns messages, newest first, up to max_messages (default 50; 1 to 1000) in a page. Pass the last id of a
    /// page as before to get the next one; skip (0 to 10000) leaves out the first ones. Tenant and aggregate use an
    /// index, and status pending, processing, failed, dead or expired uses the deliveries. In a page, topic and
    /// severity are checked for at most 10,000 messages, and status completed, cancelled or skipped for at most
    /// 1,000. If a page ends there, its last row has no topic, and only the id to continue with. Errors: 22023
    /// max_messages or skip is out of range, or status is unknown.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn list_messages(&self, options: ListMessages) -> Result<Vec<MessageStatus>> {
        call::typed(self.call("list_messages", json!({"tenant": options.tenant, "state": options.state, "topic": options.topic, "aggregate_type": options.aggregate_type, "aggregate_id": options.aggregate_id, "severity": options.severity, "max_messages": options.max_messages, "before": options.before, "skip": options.skip}), &[]).await?)
    }

    /// Returns events of a stream in the order of their versions, from from_version on (inclusive; null, the default:
    /// the first one), up to max_events (default 1000; 1 to 10000). backwards (default false): from from_version down
    /// (null: the last one). positions (default false): also looks up the place of each event in the feed. upcast
    /// (default false): data are turned into the latest schema version by the upcasters, and metadata.schema_version
    /// says so. A stream that does not exist has no events. Events of the current transaction are included. Errors:
    /// 22004 stream is null, 22023 max_events is out of range or stream is malformed, and with upcast those of
    /// upcast().
    ///
    /// # Errors
    /// Those of the function.
    pub async fn load(&self, stream: &str, options: Load) -> Result<Vec<Event>> {
        call::typed(self.call("load", json!({"stream": stream, "from_version": options.from_version, "max_events": options.max_events, "backwards": options.backwards, "positions": options.positions, "upcast": options.upcast}), &[]).await?)
    }

    /// Returns the newest snapshot of a stream and schema version, or no row if there is none.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn load_snapshot(&self, stream: &str, options: LoadSnapshot) -> Result<Vec<LoadSnapshotRow>> {
        call::typed(
            self.call("load_snapshot", json!({"stream": stream, "schema_version": options.schema_version}), &[])
                .await?,
        )
    }

    /// Rotates, reclaims and trims now as far as the retention settings allow, and returns what each job did. The
    /// dispatcher does this by itself, every pg_outbox.retention_interval (1 hour by default). Not in a transaction
    /// block or function. Errors: 25001 in such a transaction. A job that fails has the result "failed" and its error
    /// in held_by.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn maintain(&self) -> Result<Vec<MaintainRow>> {
        call::typed(self.call("maintain", json!({}), &[]).await?)
    }

    /// Returns the result of send_test() or resend(). state: waiting, completed or failed; the other columns are null
    /// while it waits. Errors: OB001 no such id.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn manual_result(&self, manual_send_id: i64) -> Result<Vec<ManualResultRow>> {
        call::typed(self.call("manual_result", json!({"manual_send_id": manual_send_id}), &[]).await?)
    }

    /// Returns metrics for a monitoring system. Names that end in _total, _sum, _count or _bucket only grow; all
    /// others are current values, in the unit that the name says (seconds, positions, bytes). labels names the
    /// subscription, endpoint, state, consumer, stream, subject, relay, ring or part; le is the bound of a bucket.
    /// Histograms start from zero when the server starts. outbox_enqueued_total also counts messages that were rolled
    /// back.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn metrics(&self) -> Result<Vec<MetricsRow>> {
        call::typed(self.call("metrics", json!({}), &[]).await?)
    }

    /// Moves a waiting delivery to the dead letters, with the reason "moved" and the argument reason as its
    /// last_error. Returns the id of the dead letter. Errors: OB001 no such delivery, OB002 it has ended, OB003 a
    /// worker has it, 22023 actor is empty.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn move_to_dead_letters(
        &self,
        delivery_id: i64,
        reason: &str,
        options: MoveToDeadLetters,
    ) -> Result<Option<i64>> {
        call::single(
            self.call(
                "move_to_dead_letters",
                json!({"delivery_id": delivery_id, "reason": reason, "actor": options.actor}),
                &[],
            )
            .await?,
        )
    }

    /// Returns which messages were sent to whom: of one message, or of the latest messages of a tenant, topic or
    /// aggregate, up to max_rows (default 50; 1 to 1000) messages in a page. Pass the last message_id of a page as
    /// before to get the next one. With subscription, up to max_rows rows of that subscription, among 10,000 messages
    /// per page. If a page ends there, its last row has no topic_code, and only the id to continue with. Errors:
    /// 22023 max_rows is out of range, OB001 no such subscription.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn notification_log(&self, options: NotificationLog) -> Result<Vec<NotificationEntry>> {
        call::typed(self.call("notification_log", json!({"message_id": options.message_id, "tenant": options.tenant, "topic": options.topic, "aggregate_type": options.aggregate_type, "aggregate_id": options.aggregate_id, "max_rows": options.max_rows, "before": options.before, "subscription": options.subscription}), &[]).await?)
    }

    /// Pauses an asynchronous projection: run_projection() is refused until resume_projection(). It waits for a page
    /// that is being applied. version null: the live one. Errors: OB001 no such projection, OB004 it is inline,
    /// faulted or stopped, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn pause_projection(&self, name: &str, options: PauseProjection) -> Result<()> {
        self.call_void("pause_projection", json!({"name": name, "version": options.version})).await
    }

    /// Pauses a subscription until resume(): messages are still routed to it and retained, but nothing is sent or can
    /// be claimed. Recorded in outbox.audit. Returns the id of a control message. Errors: OB001 no such subscription.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn pause_subscription(&self, name: &str) -> Result<Option<i64>> {
        call::single(self.call("pause_subscription", json!({"name": name}), &[]).await?)
    }

    /// Returns the public keys with which receivers verify v1a signatures of an endpoint, the current one first; no
    /// rows for v1. Errors: OB001 no such endpoint.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn public_keys(&self, endpoint: &str) -> Result<Vec<PublicKeysRow>> {
        call::typed(self.call("public_keys", json!({"endpoint": endpoint}), &[]).await?)
    }

    /// Removes rows that are older than older_than, and returns how many rows and bytes. what: completed (messages),
    /// attempts, archive (messages with their attempts and routing; rows counts messages), dead_letters (resolved or
    /// ignored ones; include_unresolved: all), idempotency. Rows of logs are removed leaf by leaf, and only if the
    /// whole leaf is old enough. Rows that are still needed are never removed. older_than null, zero or below removes
    /// nothing. dry_run: returns the numbers without removing anything. Numbers of rows in leaves may be estimates.
    /// Not in a transaction block or function. Errors: 22023 what is unknown, 25001 in such a transaction, 55P03 a
    /// lock was not available within 5 s.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn purge(&self, what: &str, older_than: Duration, options: Purge) -> Result<PurgeRow> {
        call::single(self.call("purge", json!({"what": what, "older_than": older_than.as_secs_f64(), "include_unresolved": options.include_unresolved, "dry_run": options.dry_run}), &[]).await?)
    }

    /// Returns up to max_messages (default 100; 1 to 10000) messages after a position (exclusive; 0: from the first
    /// one that is stored), in order. topics (patterns) and filter select as in a subscription; null: all. Control
    /// messages of pg_outbox are not returned. A call looks at no more than 10000 positions, or max_messages if that
    /// is more. If it looked further than the last message that it returns, a marker is the last row: its message_id
    /// is null, and no message between the row before it and its position matches. Continue after the position of the
    /// last row, and confirm the position of a marker as that of a message. No rows: the feed ends at after_position.
    /// source: messages (the default), events (of streams, from position 1 on for ever), or all; the aggregate of an
    /// event is its category and the rest of its stream's name. epoch: the epoch in which after_position was read, so
    /// that a lost history is noticed. Errors: OB009 the position is malformed, no longer stored, after the end of
    /// the feed, or in a history that was lost; 22023 another argument is malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn read(&self, after_position: i64, options: Read) -> Result<Vec<FeedMessage>> {
        call::typed(self.call("read", json!({"after_position": after_position, "max_messages": options.max_messages, "topics": options.topics, "filter": options.filter, "epoch": options.epoch, "source": options.source}), &[]).await?)
    }

    /// Returns up to max_events (default 1000; 1 to 10000) events after a position (exclusive; 0: from the first
    /// one), in the committed order. Continue after the position of the last row. Events stay readable for ever,
    /// unless truncate_stream() removes them. categories, types (patterns), tenant and filter (as in a subscription)
    /// select; null: all. member and members: the part of a consumer group's member, numbered from 0; streams with
    /// the same cardinal id go to the same member. A call looks at no more than about 10000 positions, or max_events
    /// if that is more, apart from those that the lists of categories pass over. If none of them matches, the result
    /// is one row whose message_id is null and whose position says where to continue. epoch: the epoch in which
    /// after_position was read, so that a lost history is noticed. upcast (default false): as in load(); an event
    /// that cannot be upcast is an error. A standby answers too. Errors: OB009 the position is malformed, after the
    /// end of the feed, or in a history that was lost; 22023 another argument is malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn read_events(&self, after_position: i64, options: ReadEvents) -> Result<Vec<Event>> {
        call::typed(self.call("read_events", json!({"after_position": after_position, "max_events": options.max_events, "categories": options.categories, "types": options.types, "tenant": options.tenant, "filter": options.filter, "member": options.member, "members": options.members, "epoch": options.epoch, "upcast": options.upcast}), &[]).await?)
    }

    /// Makes a new version of an asynchronous projection, which begins at the first event, and returns its number.
    /// handler: a function that writes to tables of its own; the old version goes on until switch_projection(). Null:
    /// the same handler; the old version stops at once, and the caller empties the tables in the same transaction.
    /// Errors: OB001 no such projection, OB004 it is inline or is being rebuilt, 42883 no such function, 42501 the
    /// caller does not have the rights of the function's owner, 22023 the function has another signature, 25006 the
    /// transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn rebuild_projection(&self, name: &str, options: RebuildProjection) -> Result<Option<i32>> {
        call::single(self.call("rebuild_projection", json!({"name": name, "handler": options.handler}), &[]).await?)
    }

    /// Registers a version of the JSON Schema of an event type and returns the version. version: the next one by
    /// default. The same version with an equal schema changes nothing. compatibility: what the change from the
    /// version before must be: backward (the default; the new version reads the data of the one before), forward (the
    /// one before reads the data of the new one), full (both) or breaking (anything). Data is taken to have the
    /// declared properties only, unless the schema combines others. validated: append() checks the events of this
    /// version. Errors: OB016 the schema is not as compatible as asked for (the detail says why), OB004 the version
    /// would leave a gap, OB008 the version is registered with another schema, 22004 or 22023 a value is null or
    /// malformed, 54000 the schema is above 64 kB, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn register_schema(&self, r#type: &str, schema: &Value, options: RegisterSchema) -> Result<Option<i32>> {
        call::single(self.call("register_schema", json!({"type": r#type, "schema": schema, "version": options.version, "compatibility": options.compatibility, "validated": options.validated, "description": options.description}), &[]).await?)
    }

    /// Says how a relay is: writes its row in outbox.relay_status. The relay calls it; only its active instance does.
    /// error: null leaves the last one. Errors: OB009 a name is malformed; 22023 another argument is; 25006 the
    /// transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    #[expect(clippy::too_many_arguments, reason = "the SQL function has as many arguments without a default")]
    pub async fn relay_heartbeat(
        &self,
        relay: &str,
        consumer: &str,
        sink: &str,
        instance: &str,
        state: &str,
        position: i64,
        heartbeat_interval: Duration,
        options: RelayHeartbeat,
    ) -> Result<()> {
        self.call_void("relay_heartbeat", json!({"relay": relay, "consumer": consumer, "sink": sink, "instance": instance, "state": state, "position": position, "heartbeat_interval": heartbeat_interval.as_secs_f64(), "epoch": options.epoch, "relayed": options.relayed, "skipped": options.skipped, "rate": options.rate, "error": options.error})).await
    }

    /// Records in outbox.audit that a relay went on without a message that its broker refused. action: skip or
    /// dead-letter. Errors: OB009 the name is malformed, 22023 unknown action, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn relay_record_refusal(
        &self,
        relay: &str,
        position: i64,
        webhook_id: &str,
        action: &str,
        reason: &str,
    ) -> Result<()> {
        self.call_void(
            "relay_record_refusal",
            json!({"relay": relay, "position": position, "webhook_id": webhook_id, "action": action, "reason": reason}),
        )
        .await
    }

    /// Gives deliveries of a lease (delivery_ids null: all) back unharmed: they are due as before, and the attempt
    /// does not count. Returns the ids that were given back, in the order of positions; an empty array when the lease
    /// is lost. Errors: 22004 lease is null.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn release(&self, lease: i64, options: Release) -> Result<Vec<i64>> {
        call::single(self.call("release", json!({"lease": lease, "delivery_ids": options.delivery_ids}), &[]).await?)
    }

    /// Delivers again the messages that a subscription matched between two positions, both included, and returns the
    /// id of the replay. Which messages matched is decided by the versions that held at those positions.
    /// from_position: default tail(); to_position: default head(). from_time and to_time (exclusive) are used where a
    /// position is null, and refer to the time when a message got its position. filter: narrows the messages further.
    /// new_ids (default false): webhook ids get the suffix _r and the id of the replay. rate (default 200; 1 to
    /// 10000): messages per second at most, in addition to live traffic. The view outbox.replay_status shows the
    /// progress. Recorded in outbox.audit. Errors: OB001 no such subscription, OB009 a position is no longer stored
    /// or does not exist yet, 22023 rate or filter is invalid.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn replay(&self, subscription: &str, options: Replay) -> Result<Option<i64>> {
        call::single(self.call("replay", json!({"subscription": subscription, "from_position": options.from_position, "to_position": options.to_position, "filter": options.filter, "new_ids": options.new_ids, "rate": options.rate, "from_time": options.from_time, "to_time": options.to_time}), &[]).await?)
    }

    /// Asks the receiver of an endpoint for consent with the CloudEvents webhook handshake, whatever its earlier
    /// answer was. Deliveries wait until it agrees. Returns the id of a control message. Errors: OB001 no such
    /// endpoint.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn request_consent(&self, endpoint: &str) -> Result<Option<i64>> {
        call::single(self.call("request_consent", json!({"endpoint": endpoint}), &[]).await?)
    }

    /// Makes the delivery of a dead letter due now, with all its attempts again, and returns the id of the delivery.
    /// The receiver gets the same webhook id. A requeued delivery does not expire, and a cancelled message is not
    /// cancelled any more. Errors: OB001 no such dead letter, OB004 it was requeued already, its subscription has
    /// ended, its message is gone or erased, or the transform makes no payload of it, 22023 actor is empty.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn requeue(&self, dead_letter_id: i64, options: Requeue) -> Result<Option<i64>> {
        call::single(
            self.call(
                "requeue",
                json!({"dead_letter_id": dead_letter_id, "actor": options.actor, "note": options.note}),
                &[],
            )
            .await?,
        )
    }

    /// Requeues up to max_rows (default 1000; 1 to 100000) open dead letters, oldest first, and returns how many.
    /// subscription, reason, topic, dead_after (inclusive) and dead_before (exclusive) select them; null: all.
    /// dry_run: only counts. Dead letters that cannot be requeued are left out. Errors: OB001 no such subscription,
    /// 22023 max_rows is out of range, or actor is empty.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn requeue_all(&self, options: RequeueAll) -> Result<Option<i64>> {
        call::single(self.call("requeue_all", json!({"actor": options.actor, "subscription": options.subscription, "reason": options.reason, "topic": options.topic, "dead_after": options.dead_after, "dead_before": options.dead_before, "note": options.note, "max_rows": options.max_rows, "dry_run": options.dry_run}), &[]).await?)
    }

    /// Changes when a waiting delivery is due, and optionally its priority (-100 to 100) and its expiry; null leaves
    /// these as they are. Errors: OB001 no such delivery, OB002 it has ended, OB003 a worker has it, 22004 due_at is
    /// null, 22023 a value is out of range, or actor is empty.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn reschedule(&self, delivery_id: i64, due_at: DateTime<Utc>, options: Reschedule) -> Result<()> {
        self.call_void("reschedule", json!({"delivery_id": delivery_id, "due_at": due_at, "actor": options.actor, "priority": options.priority, "expires_at": options.expires_at})).await
    }

    /// Sends a message once more to a pushed subscription, whatever the state of its delivery: one attempt outside
    /// the budget, with the same webhook id. The subscription's transform, if it has one, is called again. Recorded
    /// in outbox.audit. Returns the id for manual_result(). Errors: OB001 no such subscription, or the message is not
    /// stored or not in the feed yet; OB004 the subscription is pulled by workers, the message was erased, or the
    /// transform makes no payload of it.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn resend(&self, message_id: i64, subscription: &str) -> Result<Option<i64>> {
        call::single(self.call("resend", json!({"message_id": message_id, "subscription": subscription}), &[]).await?)
    }

    /// Marks an open dead letter as resolved by other means. actor and note are stored with it and in outbox.audit.
    /// Errors: OB001 no such dead letter, OB004 it is not open, 22023 actor is empty.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn resolve_dead_letter(&self, dead_letter_id: i64, options: ResolveDeadLetter) -> Result<()> {
        self.call_void(
            "resolve_dead_letter",
            json!({"dead_letter_id": dead_letter_id, "actor": options.actor, "note": options.note}),
        )
        .await
    }

    /// Goes on with a projection that is paused or faulted; a faulted one tries the same event again. version null:
    /// the live one. Errors: OB001 no such projection, OB004 it is neither paused nor faulted, 25006 the transaction
    /// is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn resume_projection(&self, name: &str, options: ResumeProjection) -> Result<()> {
        self.call_void("resume_projection", json!({"name": name, "version": options.version})).await
    }

    /// Resumes a paused subscription where it stopped. Recorded in outbox.audit. Returns the id of a control message.
    /// Errors: OB001 no such subscription.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn resume_subscription(&self, name: &str) -> Result<Option<i64>> {
        call::single(self.call("resume_subscription", json!({"name": name}), &[]).await?)
    }

    /// Makes a waiting, failed, dead or expired delivery of a message to a subscription due now, with its attempts
    /// counted from 0 again. Returns the id of the delivery. by: default session_user. Errors: OB001 no such
    /// subscription, or there is no such delivery (not matched, not routed yet, or in its first attempt); OB002 it
    /// was completed; OB003 a worker has it; OB004 its message was erased or is gone.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn retry(&self, message_id: i64, subscription: &str, options: Retry) -> Result<Option<i64>> {
        call::single(
            self.call(
                "retry",
                json!({"message_id": message_id, "subscription": subscription, "actor": options.actor}),
                &[],
            )
            .await?,
        )
    }

    /// Revokes a capability from a role. Privileges that another capability of the role needs stay. Returns false if
    /// the role did not have the capability by grant_to(). Errors: 42704 no such role, 22023 unknown capability.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn revoke_from(&self, role: &str, capability: &str) -> Result<Option<bool>> {
        call::single(self.call("revoke_from", json!({"role": role, "capability": capability}), &[]).await?)
    }

    /// Removes all data keys of a subject for good, so that nothing that was encrypted with them can be read any
    /// more, and returns the id of the certificate. Keys that the subject gets later are not concerned. If all its
    /// keys were revoked before, nothing changes, and the last certificate is returned. Errors: OB001 the subject has
    /// no keys, OB006 the reason is empty, 22004 or 22023 a value is null or malformed, 55P03 a lock was not
    /// available within 5 s, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn revoke_subject_keys(&self, subject: &str, options: RevokeSubjectKeys) -> Result<Option<i64>> {
        call::single(
            self.call(
                "revoke_subject_keys",
                json!({"subject": subject, "actor": options.actor, "reason": options.reason}),
                &[],
            )
            .await?,
        )
    }

    /// Stores a data key again after it was encrypted by another master key. Errors: OB001 there is no such key,
    /// OB004 it was revoked, 22004 or 22023 a value is null or malformed, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn rewrap_subject_key(&self, key_id: &str, wrapped_key: String, master_key: &str) -> Result<()> {
        self.call_void(
            "rewrap_subject_key",
            json!({"key_id": key_id, "wrapped_key": wrapped_key, "master_key": master_key}),
        )
        .await
    }

    /// Makes new rows of a ring (default message) go to the next leaf from now on. Returns rotated, empty (nothing
    /// was written to the current leaf), full (the next leaf still holds rows), or not yet (the sequencer is busy).
    /// Not in a transaction block or function. Errors: OB001 no such ring, 25001 in such a transaction, 55P03 a lock
    /// was not available within 5 s.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn rotate(&self, options: Rotate) -> Result<Option<String>> {
        call::single(self.call("rotate", json!({"ring": options.ring}), &[]).await?)
    }

    /// Gives an endpoint a new secret, and returns it with the id of a control message; it is shown nowhere else.
    /// secret: null makes a new one. The old secret signs too until overlap has passed (default 24 h, 0 to 30 days).
    /// Recorded in outbox.audit, without the secret. Errors: OB001 no such endpoint, 22023 secret or overlap is
    /// invalid.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn rotate_secret(&self, name: &str, options: RotateSecret) -> Result<RotateSecretRow> {
        call::single(
            self.call(
                "rotate_secret",
                json!({"name": name, "secret": options.secret, "overlap": options.overlap.map(|d| d.as_secs_f64())}),
                &[],
            )
            .await?,
        )
    }

    /// Applies the next page of events to an asynchronous projection and moves its cursor, both in the transaction of
    /// the caller, and returns how many events it applied; 0: it is up to date. max_events: 1 to 10000 (1000).
    /// version null: the live one. Two callers do not apply the same page: one waits. If the handler fails for an
    /// event, the events before it are applied, the projection is faulted, and the call returns: commit it. An error
    /// that the next try may not meet (deadlock, serialization, lock, resources) is raised. Errors: OB015 the
    /// projection is faulted, OB001 no such projection, OB004 it is inline, paused or stopped, OB009 the feed has
    /// lost the position of the cursor, 42883 the handler is gone or has another owner, 22023 max_events is out of
    /// range, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn run_projection(&self, name: &str, options: RunProjection) -> Result<Option<i64>> {
        call::single(
            self.call(
                "run_projection",
                json!({"name": name, "max_events": options.max_events, "version": options.version}),
                &[],
            )
            .await?,
        )
    }

    /// Deletes a saga and the list of the events that it has handled. Returns false if there is no such saga. The
    /// deletion is recorded in outbox.audit. Errors: 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn saga_delete(&self, saga_type: &str, saga_id: &str) -> Result<Option<bool>> {
        call::single(self.call("saga_delete", json!({"saga_type": saga_type, "saga_id": saga_id}), &[]).await?)
    }

    /// Returns the saga of a type that has this correlation id: the one that has not ended, or else the one that
    /// started last. No row: there is none.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn saga_find(&self, saga_type: &str, correlation_id: &str) -> Result<Vec<SagaState>> {
        call::typed(
            self.call("saga_find", json!({"saga_type": saga_type, "correlation_id": correlation_id}), &[]).await?,
        )
    }

    /// Locks a saga until the transaction ends, and remembers that it handles this event. true: the event is new to
    /// the saga; false: it was handled before, and nothing is to be done. Call it before saga_load(), in the
    /// transaction that handles the event. Errors: OB001 there is no such saga, 22004 message_id is null, 22023 it is
    /// no id, 40001 at REPEATABLE READ when another transaction has changed the saga meanwhile, 25006 the transaction
    /// is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn saga_handle(&self, saga_type: &str, saga_id: &str, message_id: i64) -> Result<Option<bool>> {
        call::single(
            self.call(
                "saga_handle",
                json!({"saga_type": saga_type, "saga_id": saga_id, "message_id": message_id}),
                &[],
            )
            .await?,
        )
    }

    /// Returns a saga with its state and version. Errors: OB001 there is no such saga.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn saga_load(&self, saga_type: &str, saga_id: &str) -> Result<SagaState> {
        call::single(self.call("saga_load", json!({"saga_type": saga_type, "saga_id": saga_id}), &[]).await?)
    }

    /// Stores the state of a saga and returns its new version. expected_version: the version that saga_load()
    /// returned; 0: the saga starts. status: started, running, completed, failed, compensating, compensated or
    /// compensation_failed; null: as it is, and running after the first change. A saga that is completed or
    /// compensated does not change any more; one that has failed, or whose compensation has failed, can go to
    /// compensating. step: number of the current step, from 0. steps: array of objects with name and status (pending,
    /// running, completed, failed or compensated). A null step, steps, correlation_id or failure_reason leaves the
    /// value as it is. Errors: OB013 the saga is not at expected_version, OB001 there is no such saga, OB004 the
    /// status does not allow the change, 42710 another saga of the type that has not ended has the correlation id,
    /// 22004 or 22023 a value is null or malformed, 54000 the state or the steps are above pg_outbox.max_payload,
    /// 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn saga_save(
        &self,
        saga_type: &str,
        saga_id: &str,
        state: &Value,
        expected_version: i64,
        options: SagaSave,
    ) -> Result<Option<i64>> {
        call::single(self.call("saga_save", json!({"saga_type": saga_type, "saga_id": saga_id, "state": state, "expected_version": expected_version, "status": options.status, "step": options.step, "steps": options.steps, "correlation_id": options.correlation_id, "failure_reason": options.failure_reason}), &[]).await?)
    }

    /// Stores the state of a stream after the event of that version, in place of the snapshot of an earlier version.
    /// Returns false, and changes nothing, if a later one is stored. state: as JSON; or body: as bytes, with its
    /// content_type (application/octet-stream by default). schema_version: the form of the state (1); each has its
    /// own snapshot. Errors: OB001 the stream has no such version, 22004 or 22023 a value is null or malformed, 54000
    /// the state or body is above pg_outbox.max_payload, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn save_snapshot(&self, stream: &str, version: i64, options: SaveSnapshot) -> Result<Option<bool>> {
        call::single(self.call("save_snapshot", json!({"stream": stream, "version": version, "state": options.state, "schema_version": options.schema_version, "body": options.body, "content_type": options.content_type}), &[]).await?)
    }

    /// Stores a data key of a subject, encrypted by a master key that the server does not have. key_id: the name by
    /// which encrypted data refers to the key. master_key: the name of the master key. The same key again changes
    /// nothing. Errors: OB004 the key was revoked, OB008 the id is that of another key, 22004 or 22023 a value is
    /// null or malformed, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn save_subject_key(
        &self,
        subject: &str,
        key_id: &str,
        wrapped_key: String,
        master_key: &str,
    ) -> Result<()> {
        self.call_void(
            "save_subject_key",
            json!({"subject": subject, "key_id": key_id, "wrapped_key": wrapped_key, "master_key": master_key}),
        )
        .await
    }

    /// Sends a test message (topic outbox.test, signed like any other) to an endpoint, once the transaction commits.
    /// Recorded in outbox.audit. Returns the id for manual_result(). Errors: OB001 no such endpoint, 22004 payload is
    /// null.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn send_test(&self, endpoint: &str, options: SendTest) -> Result<Option<i64>> {
        call::single(self.call("send_test", json!({"endpoint": endpoint, "payload": options.payload}), &[]).await?)
    }

    /// Chooses one of the operator's proxies for an endpoint; null: the default proxy, if there is one. Returns the
    /// id of a control message. Errors: OB001 no such endpoint or proxy.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn set_endpoint_proxy(&self, endpoint: &str, proxy: &str) -> Result<Option<i64>> {
        call::single(self.call("set_endpoint_proxy", json!({"endpoint": endpoint, "proxy": proxy}), &[]).await?)
    }

    /// Adds a proxy to the list, or changes it. url: http://\[user:password@]host:port or socks5://...; null: no
    /// proxy. is_default: there is one default, so the former one loses this property. Returns the id of a control
    /// message. Only for the owner of the extension and superusers; it is in no capability. Errors: 22004 name is
    /// null, 22023 name or url is malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn set_proxy(&self, name: &str, url: &str, options: SetProxy) -> Result<Option<i64>> {
        call::single(self.call("set_proxy", json!({"name": name, "url": url, "resolves_names": options.resolves_names, "is_default": options.is_default}), &[]).await?)
    }

    /// Skips the event at which a projection is faulted, and goes on after it. The reason is stored in outbox.audit.
    /// position: failed_position of the view projections, so that nothing else is skipped. Errors: OB001 no such
    /// projection, OB004 it is not faulted at this position, OB006 the reason is empty, 25006 the transaction is
    /// read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn skip_event(&self, projection: &str, position: i64, reason: &str, options: SkipEvent) -> Result<()> {
        self.call_void(
            "skip_event",
            json!({"projection": projection, "position": position, "reason": reason, "version": options.version}),
        )
        .await
    }

    /// Messages that matched no subscription, newest first, with the reason: no subscription, filtered, or inactive
    /// (all subscriptions on the topic had ended). topic is a pattern (null: all). At most max_messages rows (default
    /// 100). before is exclusive; pass the last position of a page to get the next page.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn skipped(&self, options: Skipped) -> Result<Vec<SkippedRow>> {
        call::typed(
            self.call(
                "skipped",
                json!({"topic": options.topic, "max_messages": options.max_messages, "before": options.before}),
                &[],
            )
            .await?,
        )
    }

    /// Returns the state of this database's outbox. messages: the last message id; feed_end and routed: positions;
    /// waiting: deliveries that have not ended; dead_letters: open ones. worker: not preloaded, none, starting,
    /// running, push off, copied or failing. From pending on: the number of deliveries in each state (of a tenant;
    /// null: of all); skipped: messages that matched nothing.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn stats(&self, options: Stats) -> Result<StatsRow> {
        call::single(self.call("stats", json!({"tenant": options.tenant}), &[]).await?)
    }

    /// Returns what is known of a stream: its category, last version, number of stored events, when the first and the
    /// last of them were appended, since when it is closed (null: it is open), and the version before which it was
    /// truncated (1: it was not). Errors: OB001 there is no such stream, 22004 stream is null, 22023 it is malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfoRow> {
        call::single(self.call("stream_info", json!({"stream": stream}), &[]).await?)
    }

    /// Returns the id of a stream within its category: the part of its name after the first "-". Null if there is
    /// none.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn stream_key(&self, stream: &str) -> Result<Option<String>> {
        call::single(self.call("stream_key", json!({"stream": stream}), &[]).await?)
    }

    /// Returns the last version of a stream; 0: there is no such stream. It is the version as it is now, whatever the
    /// transaction's snapshot shows. Errors: 22004 stream is null, 22023 it is malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn stream_version(&self, stream: &str) -> Result<Option<i64>> {
        call::single(self.call("stream_version", json!({"stream": stream}), &[]).await?)
    }

    /// Returns streams with their last versions, in the order of the bytes of their names: up to max_streams (default
    /// 100; 1 to 10000) after a name (exclusive; empty, the default: from the first one), of a category or of all
    /// (null, the default). Streams whose events were all removed by truncate_stream() are not listed. Errors: 22023
    /// max_streams is out of range or category is malformed, 22004 after is null.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn streams(&self, options: Streams) -> Result<Vec<StreamsRow>> {
        call::typed(
            self.call(
                "streams",
                json!({"category": options.category, "after": options.after, "max_streams": options.max_streams}),
                &[],
            )
            .await?,
        )
    }

    /// Returns all data keys of a subject, the revoked ones too, in the order in which they were made. Errors: 22004
    /// or 22023 the subject is null or malformed.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn subject_keys(&self, subject: &str) -> Result<Vec<SubjectKey>> {
        call::typed(self.call("subject_keys", json!({"subject": subject}), &[]).await?)
    }

    /// Creates a subscription: the messages of these topics (patterns; * is one word, # any number of words) are sent
    /// to an endpoint, or claimed by workers if there is neither endpoint nor url. url: creates an endpoint with the
    /// subscription's name. filter: further conditions on a message. The other settings are described at the columns
    /// of outbox.subscription; max_attempts null or below 1 means 12. start: latest (the default: messages after the
    /// control message whose id is returned), earliest, a position (the first to be delivered) or a time. source:
    /// messages (the default), events (of streams), or all; it stays until unsubscribe(). transform: the signature of
    /// a function (message outbox.feed_message) returns jsonb, immutable or stable, such as
    /// "app.public_part(outbox.feed_message)": its result is sent instead of the payload, and null skips the
    /// delivery. The function runs as its owner. A name that was unsubscribed is taken up again, with its old id.
    /// Returns the id of the control message. Errors: OB001 no such endpoint, OB009 the start position is not stored
    /// or does not exist yet, 42710 the subscription exists already, 42883 no such function, 42501 the caller does
    /// not have the rights of its owner, 22004 topics is null or empty, 22023 a setting is malformed or out of range,
    /// 54000 a text is too long.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn subscribe(&self, name: &str, topics: &[&str], options: Subscribe) -> Result<Option<i64>> {
        call::single(self.call("subscribe", json!({"name": name, "topics": topics, "endpoint": options.endpoint, "filter": options.filter, "max_attempts": options.max_attempts, "max_age": options.max_age.map(|d| d.as_secs_f64()), "schedule": options.schedule, "policy": options.policy, "format": options.format, "batch_size": options.batch_size, "batch_wait": options.batch_wait.map(|d| d.as_secs_f64()), "ordering": options.ordering, "on_exhausted": options.on_exhausted, "ttl": options.ttl.map(|d| d.as_secs_f64()), "deadline": options.deadline.map(|d| d.as_secs_f64()), "notify": options.notify, "max_lag": options.max_lag.map(|d| d.as_secs_f64()), "external_id": options.external_id, "labels": options.labels, "start": options.start, "url": options.url, "source": options.source, "transform": options.transform}), &[]).await?)
    }

    /// Makes the version that is being rebuilt the live one, stops the old one, and returns the new version. Swap the
    /// view over the tables in the same transaction. The new version is first brought to where the old one is, if
    /// that is at most ten pages. Errors: OB012 the rebuild has not come far enough, OB001 no such projection, OB004
    /// it is not being rebuilt, 25006 the transaction is read-only.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn switch_projection(&self, name: &str) -> Result<Option<i32>> {
        call::single(self.call("switch_projection", json!({"name": name}), &[]).await?)
    }

    /// Returns the first position whose message is still stored, or head() + 1 when none is. read() starts there when
    /// after_position is 0.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn tail(&self) -> Result<Option<i64>> {
        call::single(self.call("tail", json!({}), &[]).await?)
    }

    /// Gives positions to the messages that are committed now (at most 100000 of them), and returns the last
    /// position. The dispatcher does this by itself; call the function where there is no dispatcher. Not in a
    /// transaction block or function. Errors: 25001 in such a transaction, 25006 the transaction is read-only, 55000
    /// the outbox was restored or copied here and is not adopted, 55P03 another session keeps the sequencer for 5 s.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn tick(&self) -> Result<Option<i64>> {
        call::single(self.call("tick", json!({}), &[]).await?)
    }

    /// Removes the events of a stream before a version, for good, and returns how many. Their positions stay empty,
    /// their waiting deliveries are cancelled, and the stream's versions go on. reason is stored in outbox.audit.
    /// Errors: OB001 there is no such stream, OB003 a worker has one of the events, OB006 the reason is empty, 22023
    /// before_version is not between 1 and the version after the last one, 55P03 another transaction keeps the stream
    /// for 5 s.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn truncate_stream(
        &self,
        stream: &str,
        before_version: i64,
        options: TruncateStream,
    ) -> Result<Option<i64>> {
        call::single(
            self.call(
                "truncate_stream",
                json!({"stream": stream, "before_version": before_version, "reason": options.reason}),
                &[],
            )
            .await?,
        )
    }

    /// Drops the capture of a table, which the caller must own. Returns false if there was none. Errors: 42501 the
    /// caller is not the owner, or the call is within a security-restricted operation.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn uncapture(&self, relation: String) -> Result<Option<bool>> {
        call::single(self.call("uncapture", json!({"relation": relation}), &[]).await?)
    }

    /// Takes back every lease that was claimed at least older_than ago, even if the lease has not expired;
    /// subscription null: of all subscriptions. Leases that another session has locked are skipped. The attempt
    /// counts as failed, and the deliveries are due again at once, or dead letters after their last attempt. Returns
    /// the number of deliveries. Errors: 22023 older_than is null or negative, OB001 no such subscription.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn unlock_stale(&self, older_than: Duration, options: UnlockStale) -> Result<Option<i64>> {
        call::single(
            self.call(
                "unlock_stale",
                json!({"older_than": older_than.as_secs_f64(), "subscription": options.subscription}),
                &[],
            )
            .await?,
        )
    }

    /// Ends a subscription at the position of the control message whose id is returned. Messages that were not
    /// delivered by then are logged as skipped, with the reason unsubscribed. The row stays in outbox.subscription
    /// with deleted_at set. Errors: OB001 no such subscription.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn unsubscribe(&self, name: &str) -> Result<Option<i64>> {
        call::single(self.call("unsubscribe", json!({"name": name}), &[]).await?)
    }

    /// Returns the data of an event type as that of a later version. from_version: the version of the data (1).
    /// to_version null: as far as the upcasters go; data of a type without upcasters is returned as it is. Errors:
    /// 22023 to_version is before from_version, OB004 a version has no upcaster, 42883 an upcaster is gone or has
    /// another owner, 22004 an upcaster returned null, and those that an upcaster raises.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn upcast(&self, r#type: &str, data: &Value, options: Upcast) -> Result<Option<Value>> {
        call::single(self.call("upcast", json!({"type": r#type, "data": data, "from_version": options.from_version, "to_version": options.to_version}), &[]).await?)
    }

    /// Checks data against the schema of an event type. version null: the latest one. Errors: 22023 the data is not
    /// valid; the detail names the places that are wrong, at most five, and shows no value; OB001 there is no such
    /// schema.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn validate_event(&self, r#type: &str, data: &Value, options: ValidateEvent) -> Result<()> {
        self.call_void("validate_event", json!({"type": r#type, "data": data, "version": options.version})).await
    }

    /// Returns the version of the installed objects (extension), and that of the library that is loaded.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn version(&self) -> Result<VersionRow> {
        call::single(self.call("version", json!({}), &[]).await?)
    }

    /// Returns the webhook id of a message, by which receivers deduplicate. It is the same for every attempt,
    /// restart, retry and replay (unless the replay asked for new ids).
    ///
    /// # Errors
    /// Those of the function.
    pub async fn webhook_id(&self, message_id: i64, enqueued_at: DateTime<Utc>) -> Result<Option<String>> {
        call::single(self.call("webhook_id", json!({"message_id": message_id, "enqueued_at": enqueued_at}), &[]).await?)
    }

    /// Returns the state of this database's dispatcher, how far it is, and its last error. state: not preloaded, none
    /// (there is no such process), starting, running, push off, copied or failing. in_flight: requests; queued and
    /// unrecorded: deliveries. idle: everything that was committed has been routed, sent and recorded. feed_end and
    /// routed: positions.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn worker_status(&self) -> Result<Vec<WorkerStatusRow>> {
        call::typed(self.call("worker_status", json!({}), &[]).await?)
    }

    /// Rows of `outbox.audit` whose columns equal those of `filter` (an object; null: all), at most `limit`.
    ///
    /// # Errors
    /// 22023 for an unknown column.
    pub async fn audit(&self, filter: &Value, limit: i64) -> Result<Vec<AuditEntry>> {
        call::typed(self.table("audit", filter, limit, &[]).await?)
    }

    /// Rows of `outbox.dead_letter` whose columns equal those of `filter` (an object; null: all), at most `limit`.
    ///
    /// # Errors
    /// 22023 for an unknown column.
    pub async fn dead_letter_rows(&self, filter: &Value, limit: i64) -> Result<Vec<DeadLetterEntry>> {
        call::typed(self.table("dead_letter", filter, limit, &[]).await?)
    }

    /// Rows of `outbox.dead_letter_status` whose columns equal those of `filter` (an object; null: all), at most `limit`.
    ///
    /// # Errors
    /// 22023 for an unknown column.
    pub async fn dead_letter_status(&self, filter: &Value, limit: i64) -> Result<Vec<DeadLetterStatusEntry>> {
        call::typed(self.table("dead_letter_status", filter, limit, &["age"]).await?)
    }

    /// Rows of `outbox.delivery_status` whose columns equal those of `filter` (an object; null: all), at most `limit`.
    ///
    /// # Errors
    /// 22023 for an unknown column.
    pub async fn delivery_status(&self, filter: &Value, limit: i64) -> Result<Vec<DeliveryStatusEntry>> {
        call::typed(self.table("delivery_status", filter, limit, &["retry_in", "expires_in", "age"]).await?)
    }

    /// Rows of `outbox.endpoint` whose columns equal those of `filter` (an object; null: all), at most `limit`.
    ///
    /// # Errors
    /// 22023 for an unknown column.
    pub async fn endpoints(&self, filter: &Value, limit: i64) -> Result<Vec<EndpointEntry>> {
        call::typed(self.table("endpoint", filter, limit, &["timeout", "disable_after"]).await?)
    }

    /// Rows of `outbox.lease_status` whose columns equal those of `filter` (an object; null: all), at most `limit`.
    ///
    /// # Errors
    /// 22023 for an unknown column.
    pub async fn lease_status(&self, filter: &Value, limit: i64) -> Result<Vec<LeaseStatusEntry>> {
        call::typed(self.table("lease_status", filter, limit, &["age", "expires_in"]).await?)
    }

    /// Rows of `outbox.publisher` whose columns equal those of `filter` (an object; null: all), at most `limit`.
    ///
    /// # Errors
    /// 22023 for an unknown column.
    pub async fn publishers(&self, filter: &Value, limit: i64) -> Result<Vec<PublisherEntry>> {
        call::typed(self.table("publisher", filter, limit, &[]).await?)
    }

    /// Rows of `outbox.subscription` whose columns equal those of `filter` (an object; null: all), at most `limit`.
    ///
    /// # Errors
    /// 22023 for an unknown column.
    pub async fn subscriptions(&self, filter: &Value, limit: i64) -> Result<Vec<SubscriptionEntry>> {
        call::typed(
            self.table("subscription", filter, limit, &["max_age", "batch_wait", "ttl", "deadline", "max_lag"]).await?,
        )
    }

    /// Rows of `outbox.subscription_status` whose columns equal those of `filter` (an object; null: all), at most `limit`.
    ///
    /// # Errors
    /// 22023 for an unknown column.
    pub async fn subscription_status(&self, filter: &Value, limit: i64) -> Result<Vec<SubscriptionStatusEntry>> {
        call::typed(self.table("subscription_status", filter, limit, &["lag_age", "oldest_due_age"]).await?)
    }

    /// Rows of `outbox.topic` whose columns equal those of `filter` (an object; null: all), at most `limit`.
    ///
    /// # Errors
    /// 22023 for an unknown column.
    pub async fn topics(&self, filter: &Value, limit: i64) -> Result<Vec<TopicEntry>> {
        call::typed(self.table("topic", filter, limit, &[]).await?)
    }
}
