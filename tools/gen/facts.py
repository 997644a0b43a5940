"""Facts about the public schema that its catalogue cannot say. All clients use them, so their types agree."""

# Functions that belong in the caller's transaction. The generated methods of Rust and Python run on connections of the client,
# so they leave these functions out; for the usual ones there are functions, written by hand, that take the caller's connection.
# The methods of Node run on a client that the caller gives.
IN_TRANSACTION = {"enqueue", "enqueue_bytes", "enqueue_many", "enqueue_notification", "enqueue_event", "set_context"}

# Functions that return one row although they are declared to return a table.
SINGLE = {
    "create_endpoint", "stats", "dead_letter_stats", "claim_delivery", "version", "rotate_secret", "archive_get", "archive_stats",
    "get_message",
}

# Tables and views of which Rust and Python have a method that returns their rows: name -> method. Node has all public views,
# and these tables.
TABLES = {
    "endpoint": "endpoints", "subscription": "subscriptions", "topic": "topics", "publisher": "publishers",
    "subscription_status": "subscription_status", "lease_status": "lease_status",
    "delivery_status": "delivery_status", "dead_letter_status": "dead_letter_status", "dead_letter": "dead_letter_rows", "audit": "audit",
}

# Columns that are never null, by row: a composite type, a view, or a function with columns of its own. A table declares this
# itself. A column that is not listed can be null. The tests of the clients read such rows, and fail on a null.
NEVER_NULL = {
    "archive_entry": "id webhook_id topic status integrations_succeeded integrations_failed send_results retry_count created_at",
    "archive_stats": "completed failed skipped total",
    "attempt_log": "position message_id subscription_id run attempt outcome started_at finished_at",
    "captures": "relation topic key_columns operations style oversize uncovered_partitions function",
    "compare_schemas": "compatibility reasons",
    "claimed": "lease lease_expires_at delivery_id subscription message_id webhook_id position attempt max_attempts topic priority "
    "enqueued_at",
    "count_by_state": "state deliveries",
    "create_endpoint": "endpoint_id signing_secret message_id",
    "cursor_state": "consumer stream subject position",
    "dead_letter_stats": "total unresolved resolved per_subscription",
    "dead_letter_status": "dead_letter_id message_id position state reason attempt created_at dead_at age is_old resolution "
    "is_resolved",
    "delivery_status": "message_id position pull state attempt retry_count priority age is_due is_expired is_blocked created_at",
    "describe_schedule": "attempt",
    "endpoint_status": "endpoint_id name url kind state timeout concurrency protocol subscriptions",
    "explain_routing": "subscription matches reason",
    # A row of export_subject() without an event says only how far a scan has come.
    "exported_event": "redacted next",
    # A row of read() without a message says only up to which position it has looked.
    "feed_message": "position epoch",
    "grants": "role capability granted_by granted_at",
    "health": "check state",
    "history": "at what",
    "load_snapshot": "stream schema_version version taken_at",
    "maintain": "job result",
    "lease_status": "worker deliveries claimed_at age expires_at expires_in delivery_ids",
    "manual_result": "state",
    "message_status": "message_id webhook_id state topic priority enqueued_at",
    "metrics": "name labels value",
    "projections": "name version kind state handler owner created_at changed_at",
    "proxy_list": "name resolves_names is_default endpoints",
    "public_keys": "public_key created_at",
    "purge": "rows bytes",
    "replay_status": "replay_id subscription state from_position to_position position percent matched waiting new_ids created_at",
    "rotate_secret": "signing_secret message_id",
    "saga_state": "saga_type saga_id status step steps state version started_at updated_at",
    "sagas": "saga_type saga_id status step steps version started_at updated_at",
    "skipped": "position message_id message_topic routed_at",
    "stats": "messages feed_end routed waiting dead_letters worker pending processing completed failed dead skipped expired cancelled total",
    "subject_key": "key_id subject master_key created_at",
    "subscription_stats": "subscription_id name active paused created_at completed failed dead",
    "subscription_status": "subscription_id name pull topics ordering max_attempts notify paused labels created_at position "
    "lag_positions waiting processing dead_letters",
    "tenant_stats": "messages matched skipped",
    "topic_stats": "messages matched skipped",
    "version": "extension",
    "worker_status": "state",
}

# Texts that an argument or column accepts, where a check constraint says them: (function or row, name) -> table.column. None
# stands for all functions and rows.
VALUES_OF_COLUMN = {
    (None, "ordering"): "subscription.ordering",
    (None, "on_exhausted"): "subscription.on_exhausted",
    (None, "format"): "subscription.format",
    (None, "resolution"): "dead_letter.resolution",
    (None, "protocol"): "endpoint.protocol",
    (None, "subscriber_type"): "endpoint.subscriber_type",
    (None, "consent"): "endpoint.consent",
    (None, "disabled_mode"): "endpoint.disabled_mode",
    (None, "capability"): "_capability.capability",
    ("disable_endpoint", "mode"): "endpoint.disabled_mode",
    ("dead_letter_status", "state"): "dead_letter.state",
    ("dead_letter", "state"): "dead_letter.state",
    ("replay_status", "state"): "replay.state",
    ("projections", "state"): "_projection.state",
    ("projections", "kind"): "_projection.kind",
    ("create_projection", "kind"): "_projection.kind",
}

# The same where only code says them.
SAGA_STATUSES = ("started", "running", "completed", "failed", "compensating", "compensated", "compensation_failed")
COMPATIBILITIES = ("full", "backward", "forward", "breaking")
DELIVERY_STATES = ("pending", "processing", "failed", "completed", "dead", "expired", "cancelled", "skipped")
VALUES = {
    ("create_endpoint", "kind"): ("webhook",),
    (None, "signature"): ("v1", "v1a"),
    (None, "style"): ("change", "row", "debezium"),
    (None, "oversize"): ("fail", "skip", "reference"),
    (None, "operations"): ("insert", "update", "delete", "truncate"),
    ("saga_save", "status"): SAGA_STATUSES,
    ("saga_state", "status"): SAGA_STATUSES,
    ("sagas", "status"): SAGA_STATUSES,
    ("register_schema", "compatibility"): COMPATIBILITIES,
    ("compare_schemas", "compatibility"): COMPATIBILITIES,
    ("event_schema", "compatibility"): COMPATIBILITIES,
    ("list_messages", "state"): DELIVERY_STATES,
    ("is_terminal", "state"): DELIVERY_STATES,
    ("archive_list", "status"): ("completed", "failed", "skipped"),
    ("enqueue_notification", "severity"): ("critical", "high", "medium", "low", "info", "none"),
}
