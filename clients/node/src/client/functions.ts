// Made by tools/gen/clients.py from the schema of the extension: do not edit.

import type { Interval, Signature } from './sql.js';

export const FUNCTIONS = {
    adopt: {
        name: 'adopt',
        args: [['reason', 'text', true]],
        returns: 'value',
        columns: [['adopt', 'bigint']],
    },
    alter_endpoint: {
        name: 'alter_endpoint',
        args: [['name', 'text', false], ['url', 'text', true], ['headers', 'jsonb', true], ['timeout', 'interval', true], ['concurrency', 'int', true], ['tenant', 'text', true], ['auth', 'jsonb', true], ['tls', 'jsonb', true], ['rate', 'float8', true], ['burst', 'float8', true], ['schedule', 'jsonb', true], ['policy', 'jsonb', true], ['breaker', 'jsonb', true], ['protocol', 'text', true], ['compress', 'boolean', true], ['response_id', 'text', true], ['keep_headers', 'text[]', true], ['disable_after', 'interval', true], ['disable_failures', 'int', true], ['new_name', 'text', true], ['subscriber_type', 'text', true]],
        returns: 'value',
        columns: [['alter_endpoint', 'bigint']],
    },
    alter_projection: {
        name: 'alter_projection',
        args: [['name', 'text', false], ['handler', 'text', false], ['version', 'int', true]],
        returns: 'nothing',
        columns: [],
    },
    alter_publisher: {
        name: 'alter_publisher',
        args: [['code', 'text', false], ['name', 'text', true], ['description', 'text', true], ['active', 'boolean', true], ['topic_template', 'text', true], ['topic_function', 'text', true]],
        returns: 'nothing',
        columns: [],
    },
    alter_subscription: {
        name: 'alter_subscription',
        args: [['name', 'text', false], ['topics', 'text[]', true], ['filter', 'jsonb', true], ['endpoint', 'text', true], ['max_attempts', 'int', true], ['max_age', 'interval', true], ['schedule', 'jsonb', true], ['policy', 'jsonb', true], ['format', 'text', true], ['batch_size', 'int', true], ['batch_wait', 'interval', true], ['ordering', 'text', true], ['on_exhausted', 'text', true], ['ttl', 'interval', true], ['deadline', 'interval', true], ['notify', 'boolean', true], ['max_lag', 'interval', true], ['external_id', 'text', true], ['labels', 'jsonb', true], ['reset', 'text[]', true], ['transform', 'text', true]],
        returns: 'value',
        columns: [['alter_subscription', 'bigint']],
    },
    alter_topic: {
        name: 'alter_topic',
        args: [['code', 'text', false], ['name', 'text', true], ['description', 'text', true], ['active', 'boolean', true]],
        returns: 'nothing',
        columns: [],
    },
    append: {
        name: 'append',
        args: [['stream', 'text', false], ['type', 'text', false], ['data', 'jsonb', false], ['expected_version', 'bigint', true], ['event_id', 'uuid', true], ['metadata', 'jsonb', true], ['headers', 'jsonb', true], ['tenant', 'text', true], ['publisher', 'text', true], ['occurred_at', 'timestamptz', true]],
        returns: 'value',
        columns: [['append', 'bigint']],
    },
    append_bytes: {
        name: 'append_bytes',
        args: [['stream', 'text', false], ['types', 'text[]', false], ['bodies', 'bytea[]', false], ['content_type', 'text', true], ['expected_version', 'bigint', true], ['event_ids', 'uuid[]', true], ['metadata', 'jsonb[]', true], ['headers', 'jsonb', true], ['tenant', 'text', true], ['publisher', 'text', true], ['occurred_at', 'timestamptz', true]],
        returns: 'row',
        columns: [['stream', 'text'], ['first_version', 'bigint'], ['last_version', 'bigint'], ['message_ids', 'bigint[]'], ['repeated', 'boolean']],
    },
    append_many: {
        name: 'append_many',
        args: [['stream', 'text', false], ['types', 'text[]', false], ['data', 'jsonb[]', false], ['expected_version', 'bigint', true], ['event_ids', 'uuid[]', true], ['metadata', 'jsonb[]', true], ['headers', 'jsonb', true], ['tenant', 'text', true], ['publisher', 'text', true], ['occurred_at', 'timestamptz', true]],
        returns: 'row',
        columns: [['stream', 'text'], ['first_version', 'bigint'], ['last_version', 'bigint'], ['message_ids', 'bigint[]'], ['repeated', 'boolean']],
    },
    archive_get: {
        name: 'archive_get',
        args: [['message_id', 'bigint', false]],
        returns: 'row',
        columns: [['id', 'bigint'], ['webhook_id', 'text'], ['tenant', 'text'], ['topic', 'text'], ['key', 'text'], ['aggregate_type', 'text'], ['aggregate_id', 'text'], ['publisher', 'text'], ['severity', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['payload', 'jsonb'], ['status', 'text'], ['integrations_total', 'int'], ['integrations_matched', 'int'], ['integrations_succeeded', 'int'], ['integrations_failed', 'int'], ['send_results', 'jsonb'], ['last_error', 'text'], ['retry_count', 'int'], ['created_at', 'timestamptz'], ['processed_at', 'timestamptz']],
    },
    archive_list: {
        name: 'archive_list',
        args: [['tenant', 'text', true], ['status', 'text', true], ['topic', 'text', true], ['aggregate_type', 'text', true], ['aggregate_id', 'text', true], ['endpoint', 'text', true], ['max_rows', 'int', true], ['before', 'bigint', true]],
        returns: 'rows',
        columns: [['id', 'bigint'], ['webhook_id', 'text'], ['tenant', 'text'], ['topic', 'text'], ['key', 'text'], ['aggregate_type', 'text'], ['aggregate_id', 'text'], ['publisher', 'text'], ['severity', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['payload', 'jsonb'], ['status', 'text'], ['integrations_total', 'int'], ['integrations_matched', 'int'], ['integrations_succeeded', 'int'], ['integrations_failed', 'int'], ['send_results', 'jsonb'], ['last_error', 'text'], ['retry_count', 'int'], ['created_at', 'timestamptz'], ['processed_at', 'timestamptz']],
    },
    archive_stats: {
        name: 'archive_stats',
        args: [['tenant', 'text', true]],
        returns: 'row',
        columns: [['completed', 'bigint'], ['failed', 'bigint'], ['skipped', 'bigint'], ['total', 'bigint']],
    },
    cancel: {
        name: 'cancel',
        args: [['message_id', 'bigint', false], ['actor', 'text', true], ['reason', 'text', true]],
        returns: 'value',
        columns: [['cancel', 'bigint']],
    },
    cancel_replay: {
        name: 'cancel_replay',
        args: [['replay_id', 'bigint', false]],
        returns: 'value',
        columns: [['cancel_replay', 'bigint']],
    },
    capture: {
        name: 'capture',
        args: [['relation', 'regclass', false], ['topic', 'text', true], ['key_columns', 'text[]', true], ['operations', 'text[]', true], ['columns', 'text[]', true], ['condition', 'text', true], ['include_old', 'boolean', true], ['style', 'text', true], ['tenant_column', 'text', true], ['replicated', 'boolean', true], ['oversize', 'text', true]],
        returns: 'nothing',
        columns: [],
    },
    cardinal_id: {
        name: 'cardinal_id',
        args: [['stream', 'text', false]],
        returns: 'value',
        columns: [['cardinal_id', 'text']],
    },
    category: {
        name: 'category',
        args: [['stream', 'text', false]],
        returns: 'value',
        columns: [['category', 'text']],
    },
    claim: {
        name: 'claim',
        args: [['subscription', 'text', false], ['worker', 'text', false], ['max_messages', 'int', true], ['lease', 'interval', true]],
        returns: 'rows',
        columns: [['lease', 'bigint'], ['lease_expires_at', 'timestamptz'], ['delivery_id', 'bigint'], ['subscription', 'text'], ['message_id', 'bigint'], ['webhook_id', 'text'], ['position', 'bigint'], ['attempt', 'int'], ['max_attempts', 'int'], ['topic', 'text'], ['key', 'text'], ['payload', 'jsonb'], ['body', 'bytea'], ['content_type', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['tenant', 'text'], ['publisher', 'text'], ['aggregate_type', 'text'], ['aggregate_id', 'text'], ['priority', 'smallint'], ['enqueued_at', 'timestamptz'], ['occurred_at', 'timestamptz'], ['deliver_at', 'timestamptz'], ['expires_at', 'timestamptz'], ['last_attempt_at', 'timestamptz'], ['last_error', 'text'], ['version', 'bigint'], ['event_id', 'uuid']],
    },
    claim_delivery: {
        name: 'claim_delivery',
        args: [['delivery_id', 'bigint', false], ['worker', 'text', false], ['lease', 'interval', true]],
        returns: 'row',
        columns: [['lease', 'bigint'], ['lease_expires_at', 'timestamptz'], ['delivery_id', 'bigint'], ['subscription', 'text'], ['message_id', 'bigint'], ['webhook_id', 'text'], ['position', 'bigint'], ['attempt', 'int'], ['max_attempts', 'int'], ['topic', 'text'], ['key', 'text'], ['payload', 'jsonb'], ['body', 'bytea'], ['content_type', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['tenant', 'text'], ['publisher', 'text'], ['aggregate_type', 'text'], ['aggregate_id', 'text'], ['priority', 'smallint'], ['enqueued_at', 'timestamptz'], ['occurred_at', 'timestamptz'], ['deliver_at', 'timestamptz'], ['expires_at', 'timestamptz'], ['last_attempt_at', 'timestamptz'], ['last_error', 'text'], ['version', 'bigint'], ['event_id', 'uuid']],
    },
    close_stream: {
        name: 'close_stream',
        args: [['stream', 'text', false], ['reason', 'text', true]],
        returns: 'value',
        columns: [['close_stream', 'bigint']],
    },
    command_begin: {
        name: 'command_begin',
        args: [['key', 'text', false], ['command_type', 'text', false], ['ttl', 'interval', true], ['content', 'jsonb', true]],
        returns: 'value',
        columns: [['command_begin', 'jsonb']],
    },
    command_end: {
        name: 'command_end',
        args: [['key', 'text', false], ['result', 'jsonb', true], ['error', 'jsonb', true]],
        returns: 'nothing',
        columns: [],
    },
    command_forget: {
        name: 'command_forget',
        args: [['key', 'text', false]],
        returns: 'value',
        columns: [['command_forget', 'boolean']],
    },
    compare_schemas: {
        name: 'compare_schemas',
        args: [['type', 'text', false], ['old_version', 'int', false], ['new_version', 'int', false]],
        returns: 'row',
        columns: [['compatibility', 'text'], ['reasons', 'text[]']],
    },
    complete: {
        name: 'complete',
        args: [['lease', 'bigint', false], ['delivery_ids', 'bigint[]', true], ['results', 'jsonb', true]],
        returns: 'value',
        columns: [['complete', 'bigint[]']],
    },
    complete_and_claim: {
        name: 'complete_and_claim',
        args: [['done', 'bigint', false], ['subscription', 'text', false], ['worker', 'text', false], ['max_messages', 'int', true], ['lease', 'interval', true]],
        returns: 'rows',
        columns: [['lease', 'bigint'], ['lease_expires_at', 'timestamptz'], ['delivery_id', 'bigint'], ['subscription', 'text'], ['message_id', 'bigint'], ['webhook_id', 'text'], ['position', 'bigint'], ['attempt', 'int'], ['max_attempts', 'int'], ['topic', 'text'], ['key', 'text'], ['payload', 'jsonb'], ['body', 'bytea'], ['content_type', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['tenant', 'text'], ['publisher', 'text'], ['aggregate_type', 'text'], ['aggregate_id', 'text'], ['priority', 'smallint'], ['enqueued_at', 'timestamptz'], ['occurred_at', 'timestamptz'], ['deliver_at', 'timestamptz'], ['expires_at', 'timestamptz'], ['last_attempt_at', 'timestamptz'], ['last_error', 'text'], ['version', 'bigint'], ['event_id', 'uuid']],
    },
    count_by_state: {
        name: 'count_by_state',
        args: [['tenant', 'text', true]],
        returns: 'rows',
        columns: [['state', 'text'], ['deliveries', 'bigint']],
    },
    count_messages: {
        name: 'count_messages',
        args: [['tenant', 'text', true], ['aggregate_type', 'text', true], ['aggregate_id', 'text', true], ['topic', 'text', true]],
        returns: 'value',
        columns: [['count_messages', 'bigint']],
    },
    create_endpoint: {
        name: 'create_endpoint',
        args: [['name', 'text', false], ['url', 'text', false], ['secret', 'text', true], ['headers', 'jsonb', true], ['timeout', 'interval', true], ['concurrency', 'int', true], ['tenant', 'text', true], ['kind', 'text', true], ['auth', 'jsonb', true], ['tls', 'jsonb', true], ['signature', 'text', true], ['rate', 'float8', true], ['burst', 'float8', true], ['schedule', 'jsonb', true], ['policy', 'jsonb', true], ['breaker', 'jsonb', true], ['protocol', 'text', true], ['compress', 'boolean', true], ['response_id', 'text', true], ['keep_headers', 'text[]', true], ['disable_after', 'interval', true], ['disable_failures', 'int', true], ['consent', 'boolean', true], ['subscriber_type', 'text', true]],
        returns: 'row',
        columns: [['endpoint_id', 'int'], ['signing_secret', 'text'], ['message_id', 'bigint']],
    },
    create_projection: {
        name: 'create_projection',
        args: [['name', 'text', false], ['handler', 'text', false], ['kind', 'text', true], ['categories', 'text[]', true], ['types', 'text[]', true]],
        returns: 'nothing',
        columns: [],
    },
    create_publisher: {
        name: 'create_publisher',
        args: [['code', 'text', false], ['name', 'text', true], ['description', 'text', true], ['active', 'boolean', true], ['topic_template', 'text', true], ['topic_function', 'text', true]],
        returns: 'nothing',
        columns: [],
    },
    create_topic: {
        name: 'create_topic',
        args: [['code', 'text', false], ['name', 'text', true], ['description', 'text', true], ['active', 'boolean', true]],
        returns: 'nothing',
        columns: [],
    },
    create_upcaster: {
        name: 'create_upcaster',
        args: [['type', 'text', false], ['from_version', 'int', false], ['function', 'text', false]],
        returns: 'nothing',
        columns: [],
    },
    cursor_advance: {
        name: 'cursor_advance',
        args: [['consumer', 'text', false], ['position', 'bigint', false], ['stream', 'text', true], ['subject', 'text', true], ['delivery_id', 'text', true], ['delivered_at', 'timestamptz', true], ['expected_position', 'bigint', true], ['epoch', 'int', true]],
        returns: 'row',
        columns: [['consumer', 'text'], ['stream', 'text'], ['subject', 'text'], ['position', 'bigint'], ['epoch', 'int'], ['last_delivery_id', 'text'], ['last_delivered_at', 'timestamptz'], ['last_error', 'text'], ['error_position', 'bigint'], ['error_since', 'timestamptz'], ['updated_at', 'timestamptz'], ['lag_positions', 'bigint'], ['lag_seconds', 'float8'], ['advanced', 'boolean']],
    },
    cursor_delete: {
        name: 'cursor_delete',
        args: [['consumer', 'text', false], ['reason', 'text', false], ['stream', 'text', true], ['subject', 'text', true]],
        returns: 'nothing',
        columns: [],
    },
    cursor_get: {
        name: 'cursor_get',
        args: [['consumer', 'text', false], ['stream', 'text', true], ['subject', 'text', true], ['if_missing', 'bigint', true]],
        returns: 'row',
        columns: [['consumer', 'text'], ['stream', 'text'], ['subject', 'text'], ['position', 'bigint'], ['epoch', 'int'], ['last_delivery_id', 'text'], ['last_delivered_at', 'timestamptz'], ['last_error', 'text'], ['error_position', 'bigint'], ['error_since', 'timestamptz'], ['updated_at', 'timestamptz'], ['lag_positions', 'bigint'], ['lag_seconds', 'float8'], ['advanced', 'boolean']],
    },
    cursor_list: {
        name: 'cursor_list',
        args: [['consumer', 'text', true], ['stream', 'text', true], ['subject', 'text', true], ['max_rows', 'int', true]],
        returns: 'rows',
        columns: [['consumer', 'text'], ['stream', 'text'], ['subject', 'text'], ['position', 'bigint'], ['epoch', 'int'], ['last_delivery_id', 'text'], ['last_delivered_at', 'timestamptz'], ['last_error', 'text'], ['error_position', 'bigint'], ['error_since', 'timestamptz'], ['updated_at', 'timestamptz'], ['lag_positions', 'bigint'], ['lag_seconds', 'float8'], ['advanced', 'boolean']],
    },
    cursor_record_error: {
        name: 'cursor_record_error',
        args: [['consumer', 'text', false], ['error', 'text', false], ['stream', 'text', true], ['subject', 'text', true], ['error_position', 'bigint', true], ['after_position', 'bigint', true]],
        returns: 'row',
        columns: [['consumer', 'text'], ['stream', 'text'], ['subject', 'text'], ['position', 'bigint'], ['epoch', 'int'], ['last_delivery_id', 'text'], ['last_delivered_at', 'timestamptz'], ['last_error', 'text'], ['error_position', 'bigint'], ['error_since', 'timestamptz'], ['updated_at', 'timestamptz'], ['lag_positions', 'bigint'], ['lag_seconds', 'float8'], ['advanced', 'boolean']],
    },
    cursor_reset: {
        name: 'cursor_reset',
        args: [['consumer', 'text', false], ['position', 'bigint', false], ['reason', 'text', false], ['stream', 'text', true], ['subject', 'text', true], ['delivery_id', 'text', true], ['delivered_at', 'timestamptz', true]],
        returns: 'row',
        columns: [['consumer', 'text'], ['stream', 'text'], ['subject', 'text'], ['position', 'bigint'], ['epoch', 'int'], ['last_delivery_id', 'text'], ['last_delivered_at', 'timestamptz'], ['last_error', 'text'], ['error_position', 'bigint'], ['error_since', 'timestamptz'], ['updated_at', 'timestamptz'], ['lag_positions', 'bigint'], ['lag_seconds', 'float8'], ['advanced', 'boolean']],
    },
    dead: {
        name: 'dead',
        args: [['lease', 'bigint', false], ['delivery_ids', 'bigint[]', false], ['reason', 'text', false]],
        returns: 'value',
        columns: [['dead', 'bigint[]']],
    },
    dead_letter_stats: {
        name: 'dead_letter_stats',
        args: [],
        returns: 'row',
        columns: [['total', 'bigint'], ['unresolved', 'bigint'], ['resolved', 'bigint'], ['oldest_age_seconds', 'float8'], ['newest_age_seconds', 'float8'], ['top_failure_reason', 'text'], ['per_subscription', 'jsonb'], ['last_updated', 'timestamptz']],
    },
    dead_letters_older_than: {
        name: 'dead_letters_older_than',
        args: [['older_than', 'interval', false]],
        returns: 'rows',
        columns: [['dead_letter_id', 'bigint'], ['delivery_id', 'bigint'], ['subscription', 'text'], ['endpoint', 'text'], ['url', 'text'], ['message_id', 'bigint'], ['webhook_id', 'text'], ['position', 'bigint'], ['topic', 'text'], ['key', 'text'], ['tenant', 'text'], ['aggregate_type', 'text'], ['aggregate_id', 'text'], ['publisher', 'text'], ['content_type', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['payload', 'jsonb'], ['body', 'bytea'], ['enqueued_at', 'timestamptz'], ['state', 'text'], ['reason', 'text'], ['attempt', 'int'], ['last_status', 'smallint'], ['error_class', 'text'], ['last_error', 'text'], ['first_attempt_at', 'timestamptz'], ['last_attempt_at', 'timestamptz'], ['created_at', 'timestamptz'], ['dead_at', 'timestamptz'], ['age', 'interval'], ['is_old', 'boolean'], ['resolution', 'text'], ['is_resolved', 'boolean'], ['resolved_at', 'timestamptz'], ['resolved_by', 'text'], ['resolution_note', 'text']],
    },
    delete_dead_letter: {
        name: 'delete_dead_letter',
        args: [['dead_letter_id', 'bigint', false], ['actor', 'text', true], ['note', 'text', true]],
        returns: 'nothing',
        columns: [],
    },
    delete_snapshots: {
        name: 'delete_snapshots',
        args: [['stream', 'text', false], ['schema_version', 'int', true]],
        returns: 'value',
        columns: [['delete_snapshots', 'bigint']],
    },
    describe_schedule: {
        name: 'describe_schedule',
        args: [['subscription', 'text', false]],
        returns: 'rows',
        columns: [['attempt', 'int'], ['wait', 'interval'], ['planned', 'interval'], ['earliest', 'interval'], ['latest', 'interval']],
    },
    disable_endpoint: {
        name: 'disable_endpoint',
        args: [['name', 'text', false], ['reason', 'text', true], ['mode', 'text', true]],
        returns: 'value',
        columns: [['disable_endpoint', 'bigint']],
    },
    drop_endpoint: {
        name: 'drop_endpoint',
        args: [['name', 'text', false]],
        returns: 'value',
        columns: [['drop_endpoint', 'bigint']],
    },
    drop_projection: {
        name: 'drop_projection',
        args: [['name', 'text', false], ['version', 'int', true]],
        returns: 'nothing',
        columns: [],
    },
    drop_proxy: {
        name: 'drop_proxy',
        args: [['name', 'text', false]],
        returns: 'value',
        columns: [['drop_proxy', 'bigint']],
    },
    drop_upcaster: {
        name: 'drop_upcaster',
        args: [['type', 'text', false], ['from_version', 'int', false]],
        returns: 'nothing',
        columns: [],
    },
    enable_endpoint: {
        name: 'enable_endpoint',
        args: [['name', 'text', false]],
        returns: 'value',
        columns: [['enable_endpoint', 'bigint']],
    },
    enqueue: {
        name: 'enqueue',
        args: [['topic', 'text', false], ['payload', 'jsonb', false], ['key', 'text', true], ['headers', 'jsonb', true], ['metadata', 'jsonb', true], ['tenant', 'text', true], ['aggregate_type', 'text', true], ['aggregate_id', 'text', true], ['idempotency_key', 'text', true], ['deliver_at', 'timestamptz', true], ['expires_at', 'timestamptz', true], ['priority', 'int', true], ['publisher', 'text', true], ['max_attempts', 'int', true], ['occurred_at', 'timestamptz', true]],
        returns: 'value',
        columns: [['enqueue', 'bigint']],
    },
    enqueue_bytes: {
        name: 'enqueue_bytes',
        args: [['topic', 'text', false], ['body', 'bytea', false], ['content_type', 'text', true], ['key', 'text', true], ['headers', 'jsonb', true], ['metadata', 'jsonb', true], ['tenant', 'text', true], ['aggregate_type', 'text', true], ['aggregate_id', 'text', true], ['idempotency_key', 'text', true], ['deliver_at', 'timestamptz', true], ['expires_at', 'timestamptz', true], ['priority', 'int', true], ['publisher', 'text', true], ['max_attempts', 'int', true], ['occurred_at', 'timestamptz', true]],
        returns: 'value',
        columns: [['enqueue_bytes', 'bigint']],
    },
    enqueue_event: {
        name: 'enqueue_event',
        args: [['tenant', 'text', false], ['event_type', 'text', false], ['payload', 'jsonb', false], ['aggregate_type', 'text', true], ['aggregate_id', 'text', true], ['event_version', 'int', true], ['metadata', 'jsonb', true], ['idempotency_key', 'text', true], ['correlation_id', 'text', true], ['pii', 'boolean', true], ['pii_fields', 'text[]', true], ['consent', 'jsonb', true], ['producer', 'text', true], ['scheduled_for', 'timestamptz', true], ['occurred_at', 'timestamptz', true], ['key', 'text', true], ['headers', 'jsonb', true]],
        returns: 'value',
        columns: [['enqueue_event', 'bigint']],
    },
    enqueue_many: {
        name: 'enqueue_many',
        args: [['topic', 'text', false], ['payloads', 'jsonb[]', false], ['keys', 'text[]', true], ['headers', 'jsonb', true], ['metadata', 'jsonb', true], ['tenant', 'text', true], ['aggregate_type', 'text', true], ['aggregate_id', 'text', true], ['idempotency_key', 'text', true], ['deliver_at', 'timestamptz', true], ['expires_at', 'timestamptz', true], ['priority', 'int', true], ['publisher', 'text', true], ['max_attempts', 'int', true], ['occurred_at', 'timestamptz', true]],
        returns: 'value',
        columns: [['enqueue_many', 'bigint[]']],
    },
    enqueue_notification: {
        name: 'enqueue_notification',
        args: [['tenant', 'text', false], ['event_type', 'text', false], ['title', 'text', false], ['body', 'text', true], ['severity', 'text', true], ['url', 'text', true], ['aggregate_type', 'text', true], ['aggregate_id', 'text', true], ['metadata', 'jsonb', true], ['max_attempts', 'int', true], ['scheduled_at', 'timestamptz', true], ['key', 'text', true], ['idempotency_key', 'text', true], ['publisher', 'text', true]],
        returns: 'value',
        columns: [['enqueue_notification', 'bigint']],
    },
    ensure_subscription: {
        name: 'ensure_subscription',
        args: [['name', 'text', false], ['topics', 'text[]', false], ['endpoint', 'text', true], ['filter', 'jsonb', true], ['max_attempts', 'int', true], ['max_age', 'interval', true], ['schedule', 'jsonb', true], ['policy', 'jsonb', true], ['format', 'text', true], ['batch_size', 'int', true], ['batch_wait', 'interval', true], ['ordering', 'text', true], ['on_exhausted', 'text', true], ['ttl', 'interval', true], ['deadline', 'interval', true], ['notify', 'boolean', true], ['max_lag', 'interval', true], ['external_id', 'text', true], ['labels', 'jsonb', true], ['start', 'text', true], ['source', 'text', true], ['transform', 'text', true]],
        returns: 'value',
        columns: [['ensure_subscription', 'text']],
    },
    erase: {
        name: 'erase',
        args: [['message_id', 'bigint', false], ['actor', 'text', true], ['reason', 'text', true]],
        returns: 'nothing',
        columns: [],
    },
    explain_routing: {
        name: 'explain_routing',
        args: [['topic', 'text', false], ['payload', 'jsonb', true], ['key', 'text', true], ['headers', 'jsonb', true], ['tenant', 'text', true], ['aggregate_type', 'text', true], ['aggregate_id', 'text', true], ['at_position', 'bigint', true], ['source', 'text', true]],
        returns: 'rows',
        columns: [['subscription', 'text'], ['matches', 'boolean'], ['reason', 'text'], ['version', 'int']],
    },
    export_subject: {
        name: 'export_subject',
        args: [['streams', 'text[]', true], ['types', 'text[]', true], ['stream_prefix', 'text', true], ['tenant', 'text', true], ['user_id', 'text', true], ['metadata', 'jsonb', true], ['from_time', 'timestamptz', true], ['to_time', 'timestamptz', true], ['after', 'jsonb', true], ['max_events', 'int', true]],
        returns: 'rows',
        columns: [['stream', 'text'], ['version', 'bigint'], ['type', 'text'], ['data', 'jsonb'], ['body', 'bytea'], ['content_type', 'text'], ['metadata', 'jsonb'], ['tenant', 'text'], ['position', 'bigint'], ['message_id', 'bigint'], ['recorded_at', 'timestamptz'], ['redacted', 'boolean'], ['next', 'jsonb']],
    },
    extend: {
        name: 'extend',
        args: [['lease', 'bigint', false], ['duration', 'interval', true]],
        returns: 'value',
        columns: [['extend', 'timestamptz']],
    },
    fail: {
        name: 'fail',
        args: [['lease', 'bigint', false], ['delivery_ids', 'bigint[]', false], ['error', 'text', false], ['retry_after', 'interval', true]],
        returns: 'value',
        columns: [['fail', 'bigint[]']],
    },
    forget_relay: {
        name: 'forget_relay',
        args: [['relay', 'text', false]],
        returns: 'value',
        columns: [['forget_relay', 'boolean']],
    },
    get_message: {
        name: 'get_message',
        args: [['message_id', 'bigint', false]],
        returns: 'row',
        columns: [['message_id', 'bigint'], ['webhook_id', 'text'], ['state', 'text'], ['topic', 'text'], ['key', 'text'], ['tenant', 'text'], ['aggregate_type', 'text'], ['aggregate_id', 'text'], ['publisher', 'text'], ['priority', 'smallint'], ['enqueued_at', 'timestamptz'], ['occurred_at', 'timestamptz'], ['deliver_at', 'timestamptz'], ['expires_at', 'timestamptz'], ['max_attempts', 'int'], ['idempotency_key', 'text'], ['content_type', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['correlation_id', 'text'], ['causation_id', 'text'], ['user_id', 'text'], ['traceparent', 'text'], ['tracestate', 'text'], ['schema_version', 'text'], ['privacy', 'jsonb'], ['severity', 'text'], ['payload', 'jsonb'], ['body', 'bytea']],
    },
    get_schema: {
        name: 'get_schema',
        args: [['type', 'text', false], ['version', 'int', true]],
        returns: 'row',
        columns: [['type', 'text'], ['version', 'int'], ['schema', 'jsonb'], ['compatibility', 'text'], ['validated', 'boolean'], ['description', 'text'], ['registered_by', 'text'], ['registered_at', 'timestamptz']],
    },
    get_subject_key: {
        name: 'get_subject_key',
        args: [['key_id', 'text', false]],
        returns: 'row',
        columns: [['key_id', 'text'], ['subject', 'text'], ['wrapped_key', 'bytea'], ['master_key', 'text'], ['created_at', 'timestamptz'], ['rewrapped_at', 'timestamptz'], ['revoked_at', 'timestamptz'], ['reason', 'text']],
    },
    grant_consent: {
        name: 'grant_consent',
        args: [['endpoint', 'text', false], ['rate_per_minute', 'int', true]],
        returns: 'value',
        columns: [['grant_consent', 'bigint']],
    },
    grant_to: {
        name: 'grant_to',
        args: [['role', 'name', false], ['capability', 'text', false], ['subscriptions', 'text[]', true], ['topics', 'text[]', true], ['tenants', 'text[]', true], ['publishers', 'text[]', true], ['consumers', 'text[]', true]],
        returns: 'nothing',
        columns: [],
    },
    head: {
        name: 'head',
        args: [],
        returns: 'value',
        columns: [['head', 'bigint']],
    },
    health: {
        name: 'health',
        args: [],
        returns: 'rows',
        columns: [['check', 'text'], ['state', 'text'], ['culprit', 'text'], ['what_to_do', 'text']],
    },
    history: {
        name: 'history',
        args: [['message_id', 'bigint', false]],
        returns: 'rows',
        columns: [['at', 'timestamptz'], ['what', 'text'], ['subscription', 'text'], ['endpoint', 'text'], ['attempt', 'int'], ['status', 'smallint'], ['detail', 'text']],
    },
    ignore_dead_letter: {
        name: 'ignore_dead_letter',
        args: [['dead_letter_id', 'bigint', false], ['actor', 'text', true], ['note', 'text', true]],
        returns: 'nothing',
        columns: [],
    },
    inbox_begin: {
        name: 'inbox_begin',
        args: [['source', 'text', false], ['position', 'bigint', false], ['epoch', 'int', true], ['stream', 'text', true]],
        returns: 'value',
        columns: [['inbox_begin', 'boolean']],
    },
    install_message_store: {
        name: 'install_message_store',
        args: [],
        returns: 'nothing',
        columns: [],
    },
    is_terminal: {
        name: 'is_terminal',
        args: [['state', 'text', false]],
        returns: 'value',
        columns: [['is_terminal', 'boolean']],
    },
    list_messages: {
        name: 'list_messages',
        args: [['tenant', 'text', true], ['state', 'text', true], ['topic', 'text', true], ['aggregate_type', 'text', true], ['aggregate_id', 'text', true], ['severity', 'text', true], ['max_messages', 'int', true], ['before', 'bigint', true], ['skip', 'int', true]],
        returns: 'rows',
        columns: [['message_id', 'bigint'], ['webhook_id', 'text'], ['state', 'text'], ['topic', 'text'], ['key', 'text'], ['tenant', 'text'], ['aggregate_type', 'text'], ['aggregate_id', 'text'], ['publisher', 'text'], ['priority', 'smallint'], ['enqueued_at', 'timestamptz'], ['occurred_at', 'timestamptz'], ['deliver_at', 'timestamptz'], ['expires_at', 'timestamptz'], ['max_attempts', 'int'], ['idempotency_key', 'text'], ['content_type', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['correlation_id', 'text'], ['causation_id', 'text'], ['user_id', 'text'], ['traceparent', 'text'], ['tracestate', 'text'], ['schema_version', 'text'], ['privacy', 'jsonb'], ['severity', 'text'], ['payload', 'jsonb'], ['body', 'bytea']],
    },
    load: {
        name: 'load',
        args: [['stream', 'text', false], ['from_version', 'bigint', true], ['max_events', 'int', true], ['backwards', 'boolean', true], ['positions', 'boolean', true], ['upcast', 'boolean', true]],
        returns: 'rows',
        columns: [['position', 'bigint'], ['epoch', 'int'], ['message_id', 'bigint'], ['event_id', 'uuid'], ['webhook_id', 'text'], ['stream', 'text'], ['version', 'bigint'], ['type', 'text'], ['data', 'jsonb'], ['body', 'bytea'], ['content_type', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['tenant', 'text'], ['occurred_at', 'timestamptz'], ['recorded_at', 'timestamptz']],
    },
    load_snapshot: {
        name: 'load_snapshot',
        args: [['stream', 'text', false], ['schema_version', 'int', true]],
        returns: 'rows',
        columns: [['stream', 'text'], ['schema_version', 'int'], ['version', 'bigint'], ['state', 'jsonb'], ['body', 'bytea'], ['content_type', 'text'], ['taken_at', 'timestamptz']],
    },
    maintain: {
        name: 'maintain',
        args: [],
        returns: 'rows',
        columns: [['job', 'text'], ['result', 'text'], ['rows', 'bigint'], ['bytes', 'bigint'], ['held_by', 'text']],
    },
    manual_result: {
        name: 'manual_result',
        args: [['manual_send_id', 'bigint', false]],
        returns: 'rows',
        columns: [['state', 'text'], ['started_at', 'timestamptz'], ['finished_at', 'timestamptz'], ['status', 'smallint'], ['error', 'text'], ['response_body', 'text']],
    },
    metrics: {
        name: 'metrics',
        args: [],
        returns: 'rows',
        columns: [['name', 'text'], ['labels', 'jsonb'], ['value', 'float8']],
    },
    move_to_dead_letters: {
        name: 'move_to_dead_letters',
        args: [['delivery_id', 'bigint', false], ['reason', 'text', false], ['actor', 'text', true]],
        returns: 'value',
        columns: [['move_to_dead_letters', 'bigint']],
    },
    notification_log: {
        name: 'notification_log',
        args: [['message_id', 'bigint', true], ['tenant', 'text', true], ['topic', 'text', true], ['aggregate_type', 'text', true], ['aggregate_id', 'text', true], ['max_rows', 'int', true], ['before', 'bigint', true], ['subscription', 'text', true]],
        returns: 'rows',
        columns: [['message_id', 'bigint'], ['subscription', 'text'], ['identifier', 'text'], ['topic_code', 'text'], ['subscriber', 'text'], ['subscriber_type', 'text'], ['delivery_method', 'text'], ['status', 'text'], ['skipped_reason', 'text'], ['attempt', 'int'], ['error', 'text'], ['sent_at', 'timestamptz'], ['created_at', 'timestamptz']],
    },
    pause_projection: {
        name: 'pause_projection',
        args: [['name', 'text', false], ['version', 'int', true]],
        returns: 'nothing',
        columns: [],
    },
    pause_subscription: {
        name: 'pause_subscription',
        args: [['name', 'text', false]],
        returns: 'value',
        columns: [['pause_subscription', 'bigint']],
    },
    public_keys: {
        name: 'public_keys',
        args: [['endpoint', 'text', false]],
        returns: 'rows',
        columns: [['public_key', 'text'], ['created_at', 'timestamptz'], ['expires_at', 'timestamptz']],
    },
    purge: {
        name: 'purge',
        args: [['what', 'text', false], ['older_than', 'interval', false], ['include_unresolved', 'boolean', true], ['dry_run', 'boolean', true]],
        returns: 'row',
        columns: [['rows', 'bigint'], ['bytes', 'bigint']],
    },
    read: {
        name: 'read',
        args: [['after_position', 'bigint', false], ['max_messages', 'int', true], ['topics', 'text[]', true], ['filter', 'jsonb', true], ['epoch', 'int', true], ['source', 'text', true]],
        returns: 'rows',
        columns: [['position', 'bigint'], ['epoch', 'int'], ['message_id', 'bigint'], ['webhook_id', 'text'], ['topic', 'text'], ['key', 'text'], ['payload', 'jsonb'], ['body', 'bytea'], ['content_type', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['tenant', 'text'], ['aggregate_type', 'text'], ['aggregate_id', 'text'], ['publisher', 'text'], ['idempotency_key', 'text'], ['occurred_at', 'timestamptz'], ['enqueued_at', 'timestamptz'], ['version', 'bigint'], ['event_id', 'uuid']],
    },
    read_events: {
        name: 'read_events',
        args: [['after_position', 'bigint', false], ['max_events', 'int', true], ['categories', 'text[]', true], ['types', 'text[]', true], ['tenant', 'text', true], ['filter', 'jsonb', true], ['member', 'int', true], ['members', 'int', true], ['epoch', 'int', true], ['upcast', 'boolean', true]],
        returns: 'rows',
        columns: [['position', 'bigint'], ['epoch', 'int'], ['message_id', 'bigint'], ['event_id', 'uuid'], ['webhook_id', 'text'], ['stream', 'text'], ['version', 'bigint'], ['type', 'text'], ['data', 'jsonb'], ['body', 'bytea'], ['content_type', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['tenant', 'text'], ['occurred_at', 'timestamptz'], ['recorded_at', 'timestamptz']],
    },
    rebuild_projection: {
        name: 'rebuild_projection',
        args: [['name', 'text', false], ['handler', 'text', true]],
        returns: 'value',
        columns: [['rebuild_projection', 'int']],
    },
    register_schema: {
        name: 'register_schema',
        args: [['type', 'text', false], ['schema', 'jsonb', false], ['version', 'int', true], ['compatibility', 'text', true], ['validated', 'boolean', true], ['description', 'text', true]],
        returns: 'value',
        columns: [['register_schema', 'int']],
    },
    relay_heartbeat: {
        name: 'relay_heartbeat',
        args: [['relay', 'text', false], ['consumer', 'text', false], ['sink', 'text', false], ['instance', 'text', false], ['state', 'text', false], ['position', 'bigint', false], ['heartbeat_interval', 'interval', false], ['epoch', 'int', true], ['relayed', 'bigint', true], ['skipped', 'bigint', true], ['rate', 'float8', true], ['error', 'text', true]],
        returns: 'nothing',
        columns: [],
    },
    relay_record_refusal: {
        name: 'relay_record_refusal',
        args: [['relay', 'text', false], ['position', 'bigint', false], ['webhook_id', 'text', false], ['action', 'text', false], ['reason', 'text', false]],
        returns: 'nothing',
        columns: [],
    },
    release: {
        name: 'release',
        args: [['lease', 'bigint', false], ['delivery_ids', 'bigint[]', true]],
        returns: 'value',
        columns: [['release', 'bigint[]']],
    },
    replay: {
        name: 'replay',
        args: [['subscription', 'text', false], ['from_position', 'bigint', true], ['to_position', 'bigint', true], ['filter', 'jsonb', true], ['new_ids', 'boolean', true], ['rate', 'int', true], ['from_time', 'timestamptz', true], ['to_time', 'timestamptz', true]],
        returns: 'value',
        columns: [['replay', 'bigint']],
    },
    request_consent: {
        name: 'request_consent',
        args: [['endpoint', 'text', false]],
        returns: 'value',
        columns: [['request_consent', 'bigint']],
    },
    requeue: {
        name: 'requeue',
        args: [['dead_letter_id', 'bigint', false], ['actor', 'text', true], ['note', 'text', true]],
        returns: 'value',
        columns: [['requeue', 'bigint']],
    },
    requeue_all: {
        name: 'requeue_all',
        args: [['actor', 'text', true], ['subscription', 'text', true], ['reason', 'text', true], ['topic', 'text', true], ['dead_after', 'timestamptz', true], ['dead_before', 'timestamptz', true], ['note', 'text', true], ['max_rows', 'int', true], ['dry_run', 'boolean', true]],
        returns: 'value',
        columns: [['requeue_all', 'bigint']],
    },
    reschedule: {
        name: 'reschedule',
        args: [['delivery_id', 'bigint', false], ['due_at', 'timestamptz', false], ['actor', 'text', true], ['priority', 'int', true], ['expires_at', 'timestamptz', true]],
        returns: 'nothing',
        columns: [],
    },
    resend: {
        name: 'resend',
        args: [['message_id', 'bigint', false], ['subscription', 'text', false]],
        returns: 'value',
        columns: [['resend', 'bigint']],
    },
    resolve_dead_letter: {
        name: 'resolve_dead_letter',
        args: [['dead_letter_id', 'bigint', false], ['actor', 'text', true], ['note', 'text', true]],
        returns: 'nothing',
        columns: [],
    },
    resume_projection: {
        name: 'resume_projection',
        args: [['name', 'text', false], ['version', 'int', true]],
        returns: 'nothing',
        columns: [],
    },
    resume_subscription: {
        name: 'resume_subscription',
        args: [['name', 'text', false]],
        returns: 'value',
        columns: [['resume_subscription', 'bigint']],
    },
    retry: {
        name: 'retry',
        args: [['message_id', 'bigint', false], ['subscription', 'text', false], ['actor', 'text', true]],
        returns: 'value',
        columns: [['retry', 'bigint']],
    },
    revoke_from: {
        name: 'revoke_from',
        args: [['role', 'name', false], ['capability', 'text', false]],
        returns: 'value',
        columns: [['revoke_from', 'boolean']],
    },
    revoke_subject_keys: {
        name: 'revoke_subject_keys',
        args: [['subject', 'text', false], ['actor', 'text', true], ['reason', 'text', true]],
        returns: 'value',
        columns: [['revoke_subject_keys', 'bigint']],
    },
    rewrap_subject_key: {
        name: 'rewrap_subject_key',
        args: [['key_id', 'text', false], ['wrapped_key', 'bytea', false], ['master_key', 'text', false]],
        returns: 'nothing',
        columns: [],
    },
    rotate: {
        name: 'rotate',
        args: [['ring', 'text', true]],
        returns: 'value',
        columns: [['rotate', 'text']],
    },
    rotate_secret: {
        name: 'rotate_secret',
        args: [['name', 'text', false], ['secret', 'text', true], ['overlap', 'interval', true]],
        returns: 'row',
        columns: [['signing_secret', 'text'], ['message_id', 'bigint']],
    },
    run_projection: {
        name: 'run_projection',
        args: [['name', 'text', false], ['max_events', 'int', true], ['version', 'int', true]],
        returns: 'value',
        columns: [['run_projection', 'bigint']],
    },
    saga_delete: {
        name: 'saga_delete',
        args: [['saga_type', 'text', false], ['saga_id', 'text', false]],
        returns: 'value',
        columns: [['saga_delete', 'boolean']],
    },
    saga_find: {
        name: 'saga_find',
        args: [['saga_type', 'text', false], ['correlation_id', 'text', false]],
        returns: 'rows',
        columns: [['saga_type', 'text'], ['saga_id', 'text'], ['correlation_id', 'text'], ['status', 'text'], ['step', 'int'], ['steps', 'jsonb'], ['state', 'jsonb'], ['failure_reason', 'text'], ['version', 'bigint'], ['started_at', 'timestamptz'], ['updated_at', 'timestamptz'], ['completed_at', 'timestamptz']],
    },
    saga_handle: {
        name: 'saga_handle',
        args: [['saga_type', 'text', false], ['saga_id', 'text', false], ['message_id', 'bigint', false]],
        returns: 'value',
        columns: [['saga_handle', 'boolean']],
    },
    saga_load: {
        name: 'saga_load',
        args: [['saga_type', 'text', false], ['saga_id', 'text', false]],
        returns: 'row',
        columns: [['saga_type', 'text'], ['saga_id', 'text'], ['correlation_id', 'text'], ['status', 'text'], ['step', 'int'], ['steps', 'jsonb'], ['state', 'jsonb'], ['failure_reason', 'text'], ['version', 'bigint'], ['started_at', 'timestamptz'], ['updated_at', 'timestamptz'], ['completed_at', 'timestamptz']],
    },
    saga_save: {
        name: 'saga_save',
        args: [['saga_type', 'text', false], ['saga_id', 'text', false], ['state', 'jsonb', false], ['expected_version', 'bigint', false], ['status', 'text', true], ['step', 'int', true], ['steps', 'jsonb', true], ['correlation_id', 'text', true], ['failure_reason', 'text', true]],
        returns: 'value',
        columns: [['saga_save', 'bigint']],
    },
    save_snapshot: {
        name: 'save_snapshot',
        args: [['stream', 'text', false], ['version', 'bigint', false], ['state', 'jsonb', true], ['schema_version', 'int', true], ['body', 'bytea', true], ['content_type', 'text', true]],
        returns: 'value',
        columns: [['save_snapshot', 'boolean']],
    },
    save_subject_key: {
        name: 'save_subject_key',
        args: [['subject', 'text', false], ['key_id', 'text', false], ['wrapped_key', 'bytea', false], ['master_key', 'text', false]],
        returns: 'nothing',
        columns: [],
    },
    send_test: {
        name: 'send_test',
        args: [['endpoint', 'text', false], ['payload', 'jsonb', true]],
        returns: 'value',
        columns: [['send_test', 'bigint']],
    },
    set_context: {
        name: 'set_context',
        args: [['correlation_id', 'text', true], ['causation_id', 'text', true], ['user_id', 'text', true], ['traceparent', 'text', true], ['tracestate', 'text', true], ['tenant', 'text', true], ['publisher', 'text', true], ['metadata', 'jsonb', true]],
        returns: 'nothing',
        columns: [],
    },
    set_endpoint_proxy: {
        name: 'set_endpoint_proxy',
        args: [['endpoint', 'text', false], ['proxy', 'text', false]],
        returns: 'value',
        columns: [['set_endpoint_proxy', 'bigint']],
    },
    set_proxy: {
        name: 'set_proxy',
        args: [['name', 'text', false], ['url', 'text', false], ['resolves_names', 'boolean', true], ['is_default', 'boolean', true]],
        returns: 'value',
        columns: [['set_proxy', 'bigint']],
    },
    skip_event: {
        name: 'skip_event',
        args: [['projection', 'text', false], ['position', 'bigint', false], ['reason', 'text', false], ['version', 'int', true]],
        returns: 'nothing',
        columns: [],
    },
    skipped: {
        name: 'skipped',
        args: [['topic', 'text', true], ['max_messages', 'int', true], ['before', 'bigint', true]],
        returns: 'rows',
        columns: [['position', 'bigint'], ['message_id', 'bigint'], ['message_topic', 'text'], ['reason', 'text'], ['routed_at', 'timestamptz']],
    },
    stats: {
        name: 'stats',
        args: [['tenant', 'text', true]],
        returns: 'row',
        columns: [['messages', 'bigint'], ['feed_end', 'bigint'], ['routed', 'bigint'], ['waiting', 'bigint'], ['dead_letters', 'bigint'], ['worker', 'text'], ['in_flight', 'bigint'], ['queued', 'bigint'], ['pending', 'bigint'], ['processing', 'bigint'], ['completed', 'bigint'], ['failed', 'bigint'], ['dead', 'bigint'], ['skipped', 'bigint'], ['expired', 'bigint'], ['cancelled', 'bigint'], ['total', 'bigint']],
    },
    stream_info: {
        name: 'stream_info',
        args: [['stream', 'text', false]],
        returns: 'row',
        columns: [['category', 'text'], ['version', 'bigint'], ['events', 'bigint'], ['created_at', 'timestamptz'], ['updated_at', 'timestamptz'], ['closed_at', 'timestamptz'], ['truncated_before', 'bigint']],
    },
    stream_key: {
        name: 'stream_key',
        args: [['stream', 'text', false]],
        returns: 'value',
        columns: [['stream_key', 'text']],
    },
    stream_version: {
        name: 'stream_version',
        args: [['stream', 'text', false]],
        returns: 'value',
        columns: [['stream_version', 'bigint']],
    },
    streams: {
        name: 'streams',
        args: [['category', 'text', true], ['after', 'text', true], ['max_streams', 'int', true]],
        returns: 'rows',
        columns: [['stream', 'text'], ['version', 'bigint']],
    },
    subject_keys: {
        name: 'subject_keys',
        args: [['subject', 'text', false]],
        returns: 'rows',
        columns: [['key_id', 'text'], ['subject', 'text'], ['wrapped_key', 'bytea'], ['master_key', 'text'], ['created_at', 'timestamptz'], ['rewrapped_at', 'timestamptz'], ['revoked_at', 'timestamptz'], ['reason', 'text']],
    },
    subscribe: {
        name: 'subscribe',
        args: [['name', 'text', false], ['topics', 'text[]', false], ['endpoint', 'text', true], ['filter', 'jsonb', true], ['max_attempts', 'int', true], ['max_age', 'interval', true], ['schedule', 'jsonb', true], ['policy', 'jsonb', true], ['format', 'text', true], ['batch_size', 'int', true], ['batch_wait', 'interval', true], ['ordering', 'text', true], ['on_exhausted', 'text', true], ['ttl', 'interval', true], ['deadline', 'interval', true], ['notify', 'boolean', true], ['max_lag', 'interval', true], ['external_id', 'text', true], ['labels', 'jsonb', true], ['start', 'text', true], ['url', 'text', true], ['source', 'text', true], ['transform', 'text', true]],
        returns: 'value',
        columns: [['subscribe', 'bigint']],
    },
    switch_projection: {
        name: 'switch_projection',
        args: [['name', 'text', false]],
        returns: 'value',
        columns: [['switch_projection', 'int']],
    },
    tail: {
        name: 'tail',
        args: [],
        returns: 'value',
        columns: [['tail', 'bigint']],
    },
    tick: {
        name: 'tick',
        args: [],
        returns: 'value',
        columns: [['tick', 'bigint']],
    },
    truncate_stream: {
        name: 'truncate_stream',
        args: [['stream', 'text', false], ['before_version', 'bigint', false], ['reason', 'text', true]],
        returns: 'value',
        columns: [['truncate_stream', 'bigint']],
    },
    uncapture: {
        name: 'uncapture',
        args: [['relation', 'regclass', false]],
        returns: 'value',
        columns: [['uncapture', 'boolean']],
    },
    unlock_stale: {
        name: 'unlock_stale',
        args: [['older_than', 'interval', false], ['subscription', 'text', true]],
        returns: 'value',
        columns: [['unlock_stale', 'bigint']],
    },
    unsubscribe: {
        name: 'unsubscribe',
        args: [['name', 'text', false]],
        returns: 'value',
        columns: [['unsubscribe', 'bigint']],
    },
    upcast: {
        name: 'upcast',
        args: [['type', 'text', false], ['data', 'jsonb', false], ['from_version', 'int', true], ['to_version', 'int', true]],
        returns: 'value',
        columns: [['upcast', 'jsonb']],
    },
    validate_event: {
        name: 'validate_event',
        args: [['type', 'text', false], ['data', 'jsonb', false], ['version', 'int', true]],
        returns: 'nothing',
        columns: [],
    },
    version: {
        name: 'version',
        args: [],
        returns: 'row',
        columns: [['extension', 'text'], ['library', 'text']],
    },
    webhook_id: {
        name: 'webhook_id',
        args: [['message_id', 'bigint', false], ['enqueued_at', 'timestamptz', false]],
        returns: 'value',
        columns: [['webhook_id', 'text']],
    },
    worker_status: {
        name: 'worker_status',
        args: [],
        returns: 'rows',
        columns: [['state', 'text'], ['pid', 'int'], ['started_at', 'timestamptz'], ['launcher_pid', 'int'], ['in_flight', 'bigint'], ['queued', 'bigint'], ['unrecorded', 'bigint'], ['idle', 'boolean'], ['feed_end', 'bigint'], ['routed', 'bigint'], ['last_tick_at', 'timestamptz'], ['last_checkpoint_at', 'timestamptz'], ['last_error', 'text'], ['last_error_at', 'timestamptz']],
    },
} as const satisfies Record<string, Signature>;

export const VIEWS = {
    attempt_log: [['position', 'bigint'], ['message_id', 'bigint'], ['delivery_id', 'bigint'], ['subscription_id', 'int'], ['endpoint_id', 'int'], ['run', 'bigint'], ['attempt', 'int'], ['outcome', 'text'], ['status', 'smallint'], ['error_class', 'text'], ['error', 'text'], ['worker', 'text'], ['started_at', 'timestamptz'], ['finished_at', 'timestamptz'], ['remote_address', 'text'], ['response_id', 'text'], ['response_headers', 'jsonb'], ['response_body', 'text'], ['results', 'jsonb']],
    audit: [['id', 'bigint'], ['at', 'timestamptz'], ['actor', 'text'], ['action', 'text'], ['object', 'text'], ['reason', 'text'], ['detail', 'jsonb']],
    captures: [['relation', 'regclass'], ['topic', 'text'], ['key_columns', 'text[]'], ['operations', 'text[]'], ['columns', 'text[]'], ['condition', 'text'], ['include_old', 'boolean'], ['style', 'text'], ['tenant_column', 'text'], ['replicated', 'boolean'], ['oversize', 'text'], ['uncovered_partitions', 'regclass[]'], ['function', 'regprocedure']],
    dead_letter_status: [['dead_letter_id', 'bigint'], ['delivery_id', 'bigint'], ['subscription', 'text'], ['endpoint', 'text'], ['url', 'text'], ['message_id', 'bigint'], ['webhook_id', 'text'], ['position', 'bigint'], ['topic', 'text'], ['key', 'text'], ['tenant', 'text'], ['aggregate_type', 'text'], ['aggregate_id', 'text'], ['publisher', 'text'], ['content_type', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['payload', 'jsonb'], ['body', 'bytea'], ['enqueued_at', 'timestamptz'], ['state', 'text'], ['reason', 'text'], ['attempt', 'int'], ['last_status', 'smallint'], ['error_class', 'text'], ['last_error', 'text'], ['first_attempt_at', 'timestamptz'], ['last_attempt_at', 'timestamptz'], ['created_at', 'timestamptz'], ['dead_at', 'timestamptz'], ['age', 'interval'], ['is_old', 'boolean'], ['resolution', 'text'], ['is_resolved', 'boolean'], ['resolved_at', 'timestamptz'], ['resolved_by', 'text'], ['resolution_note', 'text']],
    delivery_status: [['delivery_id', 'bigint'], ['subscription', 'text'], ['endpoint', 'text'], ['message_id', 'bigint'], ['position', 'bigint'], ['pull', 'boolean'], ['state', 'text'], ['attempt', 'int'], ['max_attempts', 'int'], ['retry_count', 'int'], ['can_retry', 'boolean'], ['priority', 'smallint'], ['locked_by', 'text'], ['locked_at', 'timestamptz'], ['lease_expires_at', 'timestamptz'], ['next_attempt_at', 'timestamptz'], ['retry_in', 'interval'], ['expires_at', 'timestamptz'], ['expires_in', 'interval'], ['age', 'interval'], ['is_due', 'boolean'], ['is_expired', 'boolean'], ['is_blocked', 'boolean'], ['last_status', 'smallint'], ['error_class', 'text'], ['last_error', 'text'], ['created_at', 'timestamptz'], ['updated_at', 'timestamptz'], ['processed_at', 'timestamptz'], ['last_attempt_at', 'timestamptz'], ['completed_at', 'timestamptz']],
    endpoint: [['id', 'int'], ['name', 'text'], ['url', 'text'], ['kind', 'text'], ['subscriber_type', 'text'], ['tenant', 'text'], ['headers', 'jsonb'], ['timeout', 'interval'], ['concurrency', 'int'], ['rate', 'float8'], ['burst', 'float8'], ['schedule', 'jsonb'], ['policy', 'jsonb'], ['breaker', 'jsonb'], ['protocol', 'text'], ['compress', 'boolean'], ['response_id', 'text'], ['keep_headers', 'text[]'], ['disable_after', 'interval'], ['disable_failures', 'int'], ['consent', 'text'], ['active', 'boolean'], ['disabled_mode', 'text'], ['disabled_reason', 'text'], ['disabled_at', 'timestamptz'], ['created_at', 'timestamptz'], ['updated_at', 'timestamptz'], ['deleted_at', 'timestamptz'], ['proxy', 'text']],
    endpoint_status: [['endpoint_id', 'int'], ['name', 'text'], ['url', 'text'], ['kind', 'text'], ['tenant', 'text'], ['state', 'text'], ['disabled_mode', 'text'], ['disabled_reason', 'text'], ['disabled_at', 'timestamptz'], ['breaker', 'text'], ['breaker_until', 'timestamptz'], ['paused_until', 'timestamptz'], ['failing_since', 'timestamptz'], ['failures', 'bigint'], ['last_failure_at', 'timestamptz'], ['last_success_at', 'timestamptz'], ['last_error', 'text'], ['timeout', 'interval'], ['concurrency', 'int'], ['rate', 'float8'], ['burst', 'float8'], ['protocol', 'text'], ['subscriptions', 'bigint']],
    grants: [['role', 'text'], ['capability', 'text'], ['subscriptions', 'text[]'], ['topics', 'text[]'], ['tenants', 'text[]'], ['publishers', 'text[]'], ['consumers', 'text[]'], ['granted_by', 'text'], ['granted_at', 'timestamptz']],
    lease_status: [['subscription', 'text'], ['worker', 'text'], ['deliveries', 'bigint'], ['claimed_at', 'timestamptz'], ['age', 'interval'], ['expires_at', 'timestamptz'], ['expires_in', 'interval'], ['deadline_at', 'timestamptz'], ['delivery_ids', 'bigint[]']],
    message_status: [['message_id', 'bigint'], ['webhook_id', 'text'], ['state', 'text'], ['topic', 'text'], ['key', 'text'], ['tenant', 'text'], ['aggregate_type', 'text'], ['aggregate_id', 'text'], ['publisher', 'text'], ['priority', 'smallint'], ['enqueued_at', 'timestamptz'], ['occurred_at', 'timestamptz'], ['deliver_at', 'timestamptz'], ['expires_at', 'timestamptz'], ['max_attempts', 'int'], ['idempotency_key', 'text'], ['content_type', 'text'], ['headers', 'jsonb'], ['metadata', 'jsonb'], ['correlation_id', 'text'], ['causation_id', 'text'], ['user_id', 'text'], ['traceparent', 'text'], ['tracestate', 'text'], ['schema_version', 'text'], ['privacy', 'jsonb'], ['severity', 'text'], ['payload', 'jsonb'], ['body', 'bytea']],
    projections: [['name', 'text'], ['version', 'int'], ['kind', 'text'], ['state', 'text'], ['categories', 'text[]'], ['types', 'text[]'], ['handler', 'text'], ['owner', 'text'], ['position', 'bigint'], ['lag_positions', 'bigint'], ['lag_seconds', 'float8'], ['percent', 'numeric'], ['rate', 'float8'], ['remaining_seconds', 'float8'], ['error', 'text'], ['failed_position', 'bigint'], ['failed_message_id', 'bigint'], ['applied_at', 'timestamptz'], ['created_at', 'timestamptz'], ['changed_at', 'timestamptz']],
    proxy_list: [['name', 'text'], ['url', 'text'], ['has_credentials', 'boolean'], ['resolves_names', 'boolean'], ['is_default', 'boolean'], ['endpoints', 'bigint']],
    publisher: [['code', 'text'], ['active', 'boolean'], ['topic_template', 'text'], ['topic_function', 'text'], ['topic_function_owner', 'text'], ['name', 'text'], ['description', 'text'], ['created_at', 'timestamptz'], ['updated_at', 'timestamptz']],
    replay_status: [['replay_id', 'bigint'], ['subscription', 'text'], ['state', 'text'], ['from_position', 'bigint'], ['to_position', 'bigint'], ['position', 'bigint'], ['percent', 'numeric'], ['matched', 'bigint'], ['waiting', 'bigint'], ['rate', 'int'], ['new_ids', 'boolean'], ['filter', 'jsonb'], ['error', 'text'], ['created_at', 'timestamptz'], ['created_by', 'text'], ['finished_at', 'timestamptz']],
    sagas: [['saga_type', 'text'], ['saga_id', 'text'], ['correlation_id', 'text'], ['status', 'text'], ['step', 'int'], ['steps', 'int'], ['step_name', 'text'], ['failure_reason', 'text'], ['version', 'bigint'], ['started_at', 'timestamptz'], ['updated_at', 'timestamptz'], ['completed_at', 'timestamptz']],
    subscription: [['id', 'int'], ['name', 'text'], ['endpoint_id', 'int'], ['max_attempts', 'int'], ['max_age', 'interval'], ['schedule', 'jsonb'], ['policy', 'jsonb'], ['format', 'text'], ['batch_size', 'int'], ['batch_wait', 'interval'], ['ordering', 'text'], ['on_exhausted', 'text'], ['ttl', 'interval'], ['deadline', 'interval'], ['notify', 'boolean'], ['max_lag', 'interval'], ['external_id', 'text'], ['labels', 'jsonb'], ['transform', 'text'], ['transform_owner', 'text'], ['paused', 'boolean'], ['created_at', 'timestamptz'], ['deleted_at', 'timestamptz']],
    subscription_stats: [['subscription_id', 'int'], ['name', 'text'], ['external_id', 'text'], ['endpoint', 'text'], ['active', 'boolean'], ['paused', 'boolean'], ['created_at', 'timestamptz'], ['deleted_at', 'timestamptz'], ['topics', 'text[]'], ['filter', 'jsonb'], ['labels', 'jsonb'], ['completed', 'bigint'], ['failed', 'bigint'], ['dead', 'bigint'], ['last_delivery_at', 'timestamptz'], ['last_attempt_at', 'timestamptz']],
    subscription_status: [['subscription_id', 'int'], ['name', 'text'], ['endpoint', 'text'], ['pull', 'boolean'], ['topics', 'text[]'], ['filter', 'jsonb'], ['ordering', 'text'], ['max_attempts', 'int'], ['notify', 'boolean'], ['paused', 'boolean'], ['external_id', 'text'], ['labels', 'jsonb'], ['transform', 'text'], ['created_at', 'timestamptz'], ['position', 'bigint'], ['lag_positions', 'bigint'], ['lag_age', 'interval'], ['waiting', 'bigint'], ['processing', 'bigint'], ['oldest_due_at', 'timestamptz'], ['oldest_due_age', 'interval'], ['last_claim_at', 'timestamptz'], ['dead_letters', 'bigint']],
    tenant_stats: [['tenant', 'text'], ['messages', 'bigint'], ['matched', 'bigint'], ['skipped', 'bigint'], ['last_message_at', 'timestamptz']],
    topic: [['code', 'text'], ['active', 'boolean'], ['name', 'text'], ['description', 'text'], ['created_at', 'timestamptz'], ['updated_at', 'timestamptz']],
    topic_stats: [['topic', 'text'], ['messages', 'bigint'], ['matched', 'bigint'], ['skipped', 'bigint'], ['last_message_at', 'timestamptz']],
} as const satisfies Record<string, Signature['columns']>;

export type FunctionName = keyof typeof FUNCTIONS;
export type ViewName = keyof typeof VIEWS;

export interface AppendedRow {
    stream: string | null;
    firstVersion: number | null;
    lastVersion: number | null;
    messageIds: number[] | null;
    repeated: boolean | null;
}

export interface ArchiveEntryRow {
    id: number;
    webhookId: string;
    tenant: string | null;
    topic: string;
    key: string | null;
    aggregateType: string | null;
    aggregateId: string | null;
    publisher: string | null;
    severity: string | null;
    headers: Record<string, string> | null;
    metadata: Record<string, unknown> | null;
    payload: any;
    status: string;
    integrationsTotal: number | null;
    integrationsMatched: number | null;
    integrationsSucceeded: number;
    integrationsFailed: number;
    sendResults: any;
    lastError: string | null;
    retryCount: number;
    createdAt: Date;
    processedAt: Date | null;
}

export interface ArchiveStatsRow {
    completed: number;
    failed: number;
    skipped: number;
    total: number;
}

export interface ClaimedRow {
    lease: number;
    leaseExpiresAt: Date;
    deliveryId: number;
    subscription: string;
    messageId: number;
    webhookId: string;
    position: number;
    attempt: number;
    maxAttempts: number;
    topic: string;
    key: string | null;
    payload: any;
    body: Buffer | null;
    contentType: string | null;
    headers: Record<string, string> | null;
    metadata: Record<string, unknown> | null;
    tenant: string | null;
    publisher: string | null;
    aggregateType: string | null;
    aggregateId: string | null;
    priority: number;
    enqueuedAt: Date;
    occurredAt: Date | null;
    deliverAt: Date | null;
    expiresAt: Date | null;
    lastAttemptAt: Date | null;
    lastError: string | null;
    version: number | null;
    eventId: string | null;
}

export interface CompareSchemasRow {
    compatibility: 'full' | 'backward' | 'forward' | 'breaking';
    reasons: string[];
}

export interface CountByStateRow {
    state: string;
    deliveries: number;
}

export interface CreateEndpointRow {
    endpointId: number;
    signingSecret: string;
    messageId: number;
}

export interface CursorStateRow {
    consumer: string;
    stream: string;
    subject: string;
    position: number;
    epoch: number | null;
    lastDeliveryId: string | null;
    lastDeliveredAt: Date | null;
    lastError: string | null;
    errorPosition: number | null;
    errorSince: Date | null;
    updatedAt: Date | null;
    lagPositions: number | null;
    lagSeconds: number | null;
    advanced: boolean | null;
}

export interface DeadLetterStatsRow {
    total: number;
    unresolved: number;
    resolved: number;
    oldestAgeSeconds: number | null;
    newestAgeSeconds: number | null;
    topFailureReason: string | null;
    perSubscription: any;
    lastUpdated: Date | null;
}

export interface DeadLetterStatusRow {
    deadLetterId: number;
    deliveryId: number | null;
    subscription: string | null;
    endpoint: string | null;
    url: string | null;
    messageId: number;
    webhookId: string | null;
    position: number;
    topic: string | null;
    key: string | null;
    tenant: string | null;
    aggregateType: string | null;
    aggregateId: string | null;
    publisher: string | null;
    contentType: string | null;
    headers: Record<string, string> | null;
    metadata: Record<string, unknown> | null;
    payload: any;
    body: Buffer | null;
    enqueuedAt: Date | null;
    state: 'dead' | 'expired';
    reason: string;
    attempt: number;
    lastStatus: number | null;
    errorClass: string | null;
    lastError: string | null;
    firstAttemptAt: Date | null;
    lastAttemptAt: Date | null;
    createdAt: Date;
    deadAt: Date;
    age: number;
    isOld: boolean;
    resolution: 'open' | 'requeued' | 'resolved' | 'ignored';
    isResolved: boolean;
    resolvedAt: Date | null;
    resolvedBy: string | null;
    resolutionNote: string | null;
}

export interface DescribeScheduleRow {
    attempt: number;
    wait: number | null;
    planned: number | null;
    earliest: number | null;
    latest: number | null;
}

export interface ExplainRoutingRow {
    subscription: string;
    matches: boolean;
    reason: string;
    version: number | null;
}

export interface ExportedEventRow {
    stream: string | null;
    version: number | null;
    type: string | null;
    data: any;
    body: Buffer | null;
    contentType: string | null;
    metadata: Record<string, unknown> | null;
    tenant: string | null;
    position: number | null;
    messageId: number | null;
    recordedAt: Date | null;
    redacted: boolean;
    next: any;
}

export interface MessageStatusRow {
    messageId: number;
    webhookId: string;
    state: string;
    topic: string;
    key: string | null;
    tenant: string | null;
    aggregateType: string | null;
    aggregateId: string | null;
    publisher: string | null;
    priority: number;
    enqueuedAt: Date;
    occurredAt: Date | null;
    deliverAt: Date | null;
    expiresAt: Date | null;
    maxAttempts: number | null;
    idempotencyKey: string | null;
    contentType: string | null;
    headers: Record<string, string> | null;
    metadata: Record<string, unknown> | null;
    correlationId: string | null;
    causationId: string | null;
    userId: string | null;
    traceparent: string | null;
    tracestate: string | null;
    schemaVersion: string | null;
    privacy: any;
    severity: string | null;
    payload: any;
    body: Buffer | null;
}

export interface EventSchemaRow {
    type: string;
    version: number;
    schema: any;
    compatibility: 'full' | 'backward' | 'forward' | 'breaking' | null;
    validated: boolean;
    description: string | null;
    registeredBy: string;
    registeredAt: Date;
}

export interface SubjectKeyRow {
    keyId: string;
    subject: string;
    wrappedKey: Buffer | null;
    masterKey: string;
    createdAt: Date;
    rewrappedAt: Date | null;
    revokedAt: Date | null;
    reason: string | null;
}

export interface HealthRow {
    check: string;
    state: string;
    culprit: string | null;
    whatToDo: string | null;
}

export interface HistoryRow {
    at: Date;
    what: string;
    subscription: string | null;
    endpoint: string | null;
    attempt: number | null;
    status: number | null;
    detail: string | null;
}

export interface EventRow {
    position: number | null;
    epoch: number | null;
    messageId: number | null;
    eventId: string | null;
    webhookId: string | null;
    stream: string | null;
    version: number | null;
    type: string | null;
    data: any;
    body: Buffer | null;
    contentType: string | null;
    headers: Record<string, string> | null;
    metadata: Record<string, unknown> | null;
    tenant: string | null;
    occurredAt: Date | null;
    recordedAt: Date | null;
}

export interface LoadSnapshotRow {
    stream: string;
    schemaVersion: number;
    version: number;
    state: any;
    body: Buffer | null;
    contentType: string | null;
    takenAt: Date;
}

export interface MaintainRow {
    job: string;
    result: string;
    rows: number | null;
    bytes: number | null;
    heldBy: string | null;
}

export interface ManualResultRow {
    state: string;
    startedAt: Date | null;
    finishedAt: Date | null;
    status: number | null;
    error: string | null;
    responseBody: string | null;
}

export interface MetricsRow {
    name: string;
    labels: any;
    value: number;
}

export interface NotificationEntryRow {
    messageId: number | null;
    subscription: string | null;
    identifier: string | null;
    topicCode: string | null;
    subscriber: string | null;
    subscriberType: 'client' | 'service' | null;
    deliveryMethod: string | null;
    status: string | null;
    skippedReason: string | null;
    attempt: number | null;
    error: string | null;
    sentAt: Date | null;
    createdAt: Date | null;
}

export interface PublicKeysRow {
    publicKey: string;
    createdAt: Date;
    expiresAt: Date | null;
}

export interface PurgeRow {
    rows: number;
    bytes: number;
}

export interface FeedMessageRow {
    position: number;
    epoch: number;
    messageId: number | null;
    webhookId: string | null;
    topic: string | null;
    key: string | null;
    payload: any;
    body: Buffer | null;
    contentType: string | null;
    headers: Record<string, string> | null;
    metadata: Record<string, unknown> | null;
    tenant: string | null;
    aggregateType: string | null;
    aggregateId: string | null;
    publisher: string | null;
    idempotencyKey: string | null;
    occurredAt: Date | null;
    enqueuedAt: Date | null;
    version: number | null;
    eventId: string | null;
}

export interface RotateSecretRow {
    signingSecret: string;
    messageId: number;
}

export interface SagaStateRow {
    sagaType: string;
    sagaId: string;
    correlationId: string | null;
    status: 'started' | 'running' | 'completed' | 'failed' | 'compensating' | 'compensated' | 'compensation_failed';
    step: number;
    steps: any;
    state: any;
    failureReason: string | null;
    version: number;
    startedAt: Date;
    updatedAt: Date;
    completedAt: Date | null;
}

export interface SkippedRow {
    position: number;
    messageId: number;
    messageTopic: string;
    reason: string | null;
    routedAt: Date;
}

export interface StatsRow {
    messages: number;
    feedEnd: number;
    routed: number;
    waiting: number;
    deadLetters: number;
    worker: string;
    inFlight: number | null;
    queued: number | null;
    pending: number;
    processing: number;
    completed: number;
    failed: number;
    dead: number;
    skipped: number;
    expired: number;
    cancelled: number;
    total: number;
}

export interface StreamInfoRow {
    category: string | null;
    version: number | null;
    events: number | null;
    createdAt: Date | null;
    updatedAt: Date | null;
    closedAt: Date | null;
    truncatedBefore: number | null;
}

export interface StreamsRow {
    stream: string | null;
    version: number | null;
}

export interface VersionRow {
    extension: string;
    library: string | null;
}

export interface WorkerStatusRow {
    state: string;
    pid: number | null;
    startedAt: Date | null;
    launcherPid: number | null;
    inFlight: number | null;
    queued: number | null;
    unrecorded: number | null;
    idle: boolean | null;
    feedEnd: number | null;
    routed: number | null;
    lastTickAt: Date | null;
    lastCheckpointAt: Date | null;
    lastError: string | null;
    lastErrorAt: Date | null;
}

export interface AttemptLogView {
    position: number;
    messageId: number;
    deliveryId: number | null;
    subscriptionId: number;
    endpointId: number | null;
    run: number;
    attempt: number;
    outcome: string;
    status: number | null;
    errorClass: string | null;
    error: string | null;
    worker: string | null;
    startedAt: Date;
    finishedAt: Date;
    remoteAddress: string | null;
    responseId: string | null;
    responseHeaders: any;
    responseBody: string | null;
    results: any;
}

export interface AuditView {
    id: number;
    at: Date;
    actor: string;
    action: string;
    object: string;
    reason: string | null;
    detail: any;
}

export interface CapturesView {
    relation: string;
    topic: string;
    keyColumns: string[];
    operations: ('insert' | 'update' | 'delete' | 'truncate')[];
    columns: string[] | null;
    condition: string | null;
    includeOld: boolean | null;
    style: 'change' | 'row' | 'debezium';
    tenantColumn: string | null;
    replicated: boolean | null;
    oversize: 'fail' | 'skip' | 'reference';
    uncoveredPartitions: string[];
    function: string;
}

export interface DeadLetterStatusView {
    deadLetterId: number;
    deliveryId: number | null;
    subscription: string | null;
    endpoint: string | null;
    url: string | null;
    messageId: number;
    webhookId: string | null;
    position: number;
    topic: string | null;
    key: string | null;
    tenant: string | null;
    aggregateType: string | null;
    aggregateId: string | null;
    publisher: string | null;
    contentType: string | null;
    headers: Record<string, string> | null;
    metadata: Record<string, unknown> | null;
    payload: any;
    body: Buffer | null;
    enqueuedAt: Date | null;
    state: 'dead' | 'expired';
    reason: string;
    attempt: number;
    lastStatus: number | null;
    errorClass: string | null;
    lastError: string | null;
    firstAttemptAt: Date | null;
    lastAttemptAt: Date | null;
    createdAt: Date;
    deadAt: Date;
    age: number;
    isOld: boolean;
    resolution: 'open' | 'requeued' | 'resolved' | 'ignored';
    isResolved: boolean;
    resolvedAt: Date | null;
    resolvedBy: string | null;
    resolutionNote: string | null;
}

export interface DeliveryStatusView {
    deliveryId: number | null;
    subscription: string | null;
    endpoint: string | null;
    messageId: number;
    position: number;
    pull: boolean;
    state: string;
    attempt: number;
    maxAttempts: number | null;
    retryCount: number;
    canRetry: boolean | null;
    priority: number;
    lockedBy: string | null;
    lockedAt: Date | null;
    leaseExpiresAt: Date | null;
    nextAttemptAt: Date | null;
    retryIn: number | null;
    expiresAt: Date | null;
    expiresIn: number | null;
    age: number;
    isDue: boolean;
    isExpired: boolean;
    isBlocked: boolean;
    lastStatus: number | null;
    errorClass: string | null;
    lastError: string | null;
    createdAt: Date;
    updatedAt: Date | null;
    processedAt: Date | null;
    lastAttemptAt: Date | null;
    completedAt: Date | null;
}

export interface EndpointView {
    id: number;
    name: string;
    url: string;
    kind: string;
    subscriberType: 'client' | 'service';
    tenant: string | null;
    headers: Record<string, string>;
    timeout: number;
    concurrency: number;
    rate: number | null;
    burst: number | null;
    schedule: any;
    policy: any;
    breaker: any;
    protocol: 'auto' | 'http1' | 'http2';
    compress: boolean;
    responseId: string | null;
    keepHeaders: string[];
    disableAfter: number;
    disableFailures: number;
    consent: 'none' | 'pending' | 'granted' | 'refused';
    active: boolean;
    disabledMode: 'hold' | 'skip' | null;
    disabledReason: string | null;
    disabledAt: Date | null;
    createdAt: Date;
    updatedAt: Date;
    deletedAt: Date | null;
    proxy: string | null;
}

export interface EndpointStatusView {
    endpointId: number;
    name: string;
    url: string;
    kind: string;
    tenant: string | null;
    state: string;
    disabledMode: 'hold' | 'skip' | null;
    disabledReason: string | null;
    disabledAt: Date | null;
    breaker: string | null;
    breakerUntil: Date | null;
    pausedUntil: Date | null;
    failingSince: Date | null;
    failures: number | null;
    lastFailureAt: Date | null;
    lastSuccessAt: Date | null;
    lastError: string | null;
    timeout: number;
    concurrency: number;
    rate: number | null;
    burst: number | null;
    protocol: 'auto' | 'http1' | 'http2';
    subscriptions: number;
}

export interface GrantsView {
    role: string;
    capability: 'publish' | 'capture' | 'consume' | 'observe' | 'monitor' | 'admin';
    subscriptions: string[] | null;
    topics: string[] | null;
    tenants: string[] | null;
    publishers: string[] | null;
    consumers: string[] | null;
    grantedBy: string;
    grantedAt: Date;
}

export interface LeaseStatusView {
    subscription: string | null;
    worker: string;
    deliveries: number;
    claimedAt: Date;
    age: number;
    expiresAt: Date;
    expiresIn: number;
    deadlineAt: Date | null;
    deliveryIds: number[];
}

export interface MessageStatusView {
    messageId: number;
    webhookId: string;
    state: string;
    topic: string;
    key: string | null;
    tenant: string | null;
    aggregateType: string | null;
    aggregateId: string | null;
    publisher: string | null;
    priority: number;
    enqueuedAt: Date;
    occurredAt: Date | null;
    deliverAt: Date | null;
    expiresAt: Date | null;
    maxAttempts: number | null;
    idempotencyKey: string | null;
    contentType: string | null;
    headers: Record<string, string> | null;
    metadata: Record<string, unknown> | null;
    correlationId: string | null;
    causationId: string | null;
    userId: string | null;
    traceparent: string | null;
    tracestate: string | null;
    schemaVersion: string | null;
    privacy: any;
    severity: string | null;
    payload: any;
    body: Buffer | null;
}

export interface ProjectionsView {
    name: string;
    version: number;
    kind: 'inline' | 'async';
    state: 'stopped' | 'running' | 'paused' | 'faulted' | 'rebuilding' | 'catching_up';
    categories: string[] | null;
    types: string[] | null;
    handler: string;
    owner: string;
    position: number | null;
    lagPositions: number | null;
    lagSeconds: number | null;
    percent: number | null;
    rate: number | null;
    remainingSeconds: number | null;
    error: string | null;
    failedPosition: number | null;
    failedMessageId: number | null;
    appliedAt: Date | null;
    createdAt: Date;
    changedAt: Date;
}

export interface ProxyListView {
    name: string;
    url: string | null;
    hasCredentials: boolean | null;
    resolvesNames: boolean;
    isDefault: boolean;
    endpoints: number;
}

export interface PublisherView {
    code: string;
    active: boolean;
    topicTemplate: string | null;
    topicFunction: string | null;
    topicFunctionOwner: string | null;
    name: string;
    description: string | null;
    createdAt: Date;
    updatedAt: Date;
}

export interface ReplayStatusView {
    replayId: number;
    subscription: string;
    state: 'running' | 'draining' | 'completed' | 'cancelled' | 'failed';
    fromPosition: number;
    toPosition: number;
    position: number;
    percent: number;
    matched: number;
    waiting: number;
    rate: number | null;
    newIds: boolean;
    filter: any;
    error: string | null;
    createdAt: Date;
    createdBy: string | null;
    finishedAt: Date | null;
}

export interface SagasView {
    sagaType: string;
    sagaId: string;
    correlationId: string | null;
    status: 'started' | 'running' | 'completed' | 'failed' | 'compensating' | 'compensated' | 'compensation_failed';
    step: number;
    steps: number;
    stepName: string | null;
    failureReason: string | null;
    version: number;
    startedAt: Date;
    updatedAt: Date;
    completedAt: Date | null;
}

export interface SubscriptionView {
    id: number;
    name: string;
    endpointId: number | null;
    maxAttempts: number;
    maxAge: number | null;
    schedule: any;
    policy: any;
    format: 'raw' | 'envelope' | 'cloudevents' | 'cloudevents_structured' | 'pubsub';
    batchSize: number;
    batchWait: number;
    ordering: 'none' | 'key' | 'strict';
    onExhausted: 'skip' | 'block';
    ttl: number | null;
    deadline: number | null;
    notify: boolean;
    maxLag: number | null;
    externalId: string | null;
    labels: any;
    transform: string | null;
    transformOwner: string | null;
    paused: boolean;
    createdAt: Date;
    deletedAt: Date | null;
}

export interface SubscriptionStatsView {
    subscriptionId: number;
    name: string;
    externalId: string | null;
    endpoint: string | null;
    active: boolean;
    paused: boolean;
    createdAt: Date;
    deletedAt: Date | null;
    topics: string[] | null;
    filter: any;
    labels: any;
    completed: number;
    failed: number;
    dead: number;
    lastDeliveryAt: Date | null;
    lastAttemptAt: Date | null;
}

export interface SubscriptionStatusView {
    subscriptionId: number;
    name: string;
    endpoint: string | null;
    pull: boolean;
    topics: string[];
    filter: any;
    ordering: 'none' | 'key' | 'strict';
    maxAttempts: number;
    notify: boolean;
    paused: boolean;
    externalId: string | null;
    labels: any;
    transform: string | null;
    createdAt: Date;
    position: number;
    lagPositions: number;
    lagAge: number | null;
    waiting: number;
    processing: number;
    oldestDueAt: Date | null;
    oldestDueAge: number | null;
    lastClaimAt: Date | null;
    deadLetters: number;
}

export interface TenantStatsView {
    tenant: string | null;
    messages: number;
    matched: number;
    skipped: number;
    lastMessageAt: Date | null;
}

export interface TopicView {
    code: string;
    active: boolean;
    name: string;
    description: string | null;
    createdAt: Date;
    updatedAt: Date;
}

export interface TopicStatsView {
    topic: string | null;
    messages: number;
    matched: number;
    skipped: number;
    lastMessageAt: Date | null;
}

/** The views and tables, by name. */
export interface Views {
    /** The attempt log with one row per message and attempt: requests and bundles with several messages are split into rows. For counting and joining; use history() for one message */
    attempt_log: AttemptLogView;
    /** Actions of operators that are not part of a message's own history: resets, deletions, grants, adoption */
    audit: AuditView;
    /** Tables whose changes become messages, with the settings of capture(). uncovered_partitions: partitions that were added since; statements that name them directly are not captured */
    captures: CapturesView;
    /** Deliveries that ended without success and are not tried again by themselves, with their message. resolution: open until an operator requeues, resolves or ignores the dead letter. is_old: older than pg_outbox.dead_letter_old_after (1 day by default) */
    dead_letter_status: DeadLetterStatusView;
    /** Deliveries: one message for one subscription. state: pending, processing, failed (waits for a retry), dead, expired, completed, cancelled. next_attempt_at null: no attempt is planned */
    delivery_status: DeliveryStatusView;
    /** An HTTP destination: URL, headers, limits */
    endpoint: EndpointView;
    /** Endpoints and their state: active, failing, breaker open or half_open, paused, waits for consent, disabled or dropped */
    endpoint_status: EndpointStatusView;
    /** Capabilities that roles have by grant_to(). Null in subscriptions, topics, tenants, publishers or consumers: not narrowed. Privileges that were granted with GRANT, and those of superusers and of the extension's owner, are not listed */
    grants: GrantsView;
    /** Which worker has which deliveries, one row per lease: deliveries that it still holds, for how long it has had them (age), and when the lease ends unless it is extended (expires_at, expires_in). A worker that holds nothing is not listed */
    lease_status: LeaseStatusView;
    /** Messages, with the reserved keys of their metadata as columns, and their state: the first of processing, pending, failed, completed (at least one delivery), dead, expired, cancelled, skipped that holds. The status is looked up row by row: select by id, or use list_messages() */
    message_status: MessageStatusView;
    /** Projections and their versions. state: stopped (an old version), running, paused, faulted, rebuilding, catching_up. position and lag are null for inline ones. rate: events per second while it is run, over the last pages. percent, remaining_seconds: of the way to the end of the feed as it was when the version began; the time is an estimate. failed_position, error: of the event at which it is faulted */
    projections: ProjectionsView;
    /** The operator's proxies, without their credentials; endpoints: how many endpoints have chosen the proxy */
    proxy_list: ProxyListView;
    /** Registered publishers; an inactive one may not enqueue */
    publisher: PublisherView;
    /** Replays and their progress. position: the last position that was read; percent: the part of the positions that was read; matched: deliveries that were made; waiting: those of them that have not ended */
    replay_status: ReplayStatusView;
    /** Sagas, without their state. status: started, running, completed, failed, compensating, compensated or compensation_failed. step: number of the current step, from 0; steps: how many there are */
    sagas: SagasView;
    /** Topics and a filter; their messages are pushed to an endpoint, or pulled by workers if endpoint_id is null */
    subscription: SubscriptionView;
    /** Subscriptions with the outcomes of their deliveries, pushed or pulled: completed, failed attempts, and dead. last_delivery_at: the last completed one; last_attempt_at: the last outcome of any kind */
    subscription_stats: SubscriptionStatsView;
    /** Subscriptions that have not ended: what they get (topics, filter), who gets it (endpoint, or workers if pull), and where they stand. lag_positions, lag_age: how far and for how long the subscription is behind the feed. waiting, processing: rows of deliveries; a pushed delivery has one only if it waits for a retry, a due time or its key. oldest_due_at, oldest_due_age: since when the oldest due delivery waits to be sent or claimed; null: none is due. last_claim_at: when a worker last claimed, as far as a lease or an outcome tells. dead_letters: open ones */
    subscription_status: SubscriptionStatusView;
    /** Routed messages of each tenant. matched: how many subscriptions they matched in all; skipped: messages that matched none. The row with tenant null sums up all tenants that are not among the 10,000 seen last */
    tenant_stats: TenantStatsView;
    /** Registered topics; messages of an inactive one are refused */
    topic: TopicView;
    /** Routed messages of each topic. matched: how many subscriptions they matched in all; skipped: messages that matched none. The row with topic null sums up all topics that are not among the 10,000 seen last */
    topic_stats: TopicStatsView;
}

/** The functions of the schema `outbox`, with named arguments. */
export interface Functions {
    /** Makes data that was restored or copied here this database's own. Gives positions, in a new epoch, to the messages that have none, and lets the dispatcher push. Returns the last position. If the outbox is this database's own already, nothing is changed. reason (default null) is stored in outbox.audit. Not in a transaction block or function. Errors: 25001 in such a transaction or not at isolation level read committed, 55000 a subscription of logical replication writes this outbox, 55P03 another session keeps the sequencer for 5 s, or a leaf's lock was not available within 30 s */
    adopt(args?: { reason?: string | null }): Promise<number>;
    /** Changes the settings of an endpoint; null leaves a setting as it is. JSON null (auth, tls, schedule, policy, breaker), 0 (rate, burst) and an empty text (tenant, response_id) remove a setting. A new URL needs a new consent if the endpoint asks for consent. Returns the id of a control message. Errors: OB001 no such endpoint, 42710 new_name exists already, 22023 a setting is malformed or out of range */
    alterEndpoint(args: { name: string; url?: string | null; headers?: any; timeout?: Interval | null; concurrency?: number | null; tenant?: string | null; auth?: any; tls?: any; rate?: number | null; burst?: number | null; schedule?: any; policy?: any; breaker?: any; protocol?: 'auto' | 'http1' | 'http2' | null; compress?: boolean | null; responseId?: string | null; keepHeaders?: readonly string[] | null; disableAfter?: Interval | null; disableFailures?: number | null; newName?: string | null; subscriberType?: 'client' | 'service' | null }): Promise<number>;
    /** Gives a projection another handler; events that were applied are not applied again. version null: the live one. Errors: OB001 no such projection, 42883 no such function, 42501 the caller does not have the rights of the function's owner, 22004 or 22023 a value is null or malformed, 25006 the transaction is read-only */
    alterProjection(args: { name: string; handler: string; version?: number | null }): Promise<void>;
    /** Changes a registered publisher; null leaves a value as it is, and an empty topic_template or topic_function removes it. From the commit on, messages of an inactive publisher are refused (OB007). Errors: OB001 the publisher is not registered, 22023 a value is malformed, 42883 no such function, 42501 the caller does not have the rights of the function's owner */
    alterPublisher(args: { code: string; name?: string | null; description?: string | null; active?: boolean | null; topicTemplate?: string | null; topicFunction?: string | null }): Promise<void>;
    /** Changes the settings of a subscription; null leaves a setting as it is. reset: names of settings that go back to their default (filter, max_attempts, max_age, schedule, policy, ttl, deadline, max_lag, external_id, labels, transform). Topics and filter hold for the positions after the control message whose id is returned; a transform holds for the messages that are routed from then on. Errors: OB001 no such subscription or endpoint, OB004 endpoint for a subscription that is pulled by workers, 42883 no such function, 42501 the caller does not have the rights of its owner, 22023 a setting is malformed or out of range, 54000 a text is too long */
    alterSubscription(args: { name: string; topics?: readonly string[] | null; filter?: any; endpoint?: string | null; maxAttempts?: number | null; maxAge?: Interval | null; schedule?: any; policy?: any; format?: 'raw' | 'envelope' | 'cloudevents' | 'cloudevents_structured' | 'pubsub' | null; batchSize?: number | null; batchWait?: Interval | null; ordering?: 'none' | 'key' | 'strict' | null; onExhausted?: 'skip' | 'block' | null; ttl?: Interval | null; deadline?: Interval | null; notify?: boolean | null; maxLag?: Interval | null; externalId?: string | null; labels?: any; reset?: readonly string[] | null; transform?: string | null }): Promise<number>;
    /** Changes a registered topic; null leaves a value as it is. From the commit on, messages of an inactive topic are refused (OB007). Errors: OB001 the topic is not registered, 22023 the name is malformed */
    alterTopic(args: { code: string; name?: string | null; description?: string | null; active?: boolean | null }): Promise<void>;
    /** Appends an event to a stream in the current transaction and returns its version: 1, 2, ... without a gap. stream: category-id, at most 255 bytes. type: has the form of a topic. data: at most pg_outbox.max_payload (256 kB by default). expected_version: -1 any (the default), 0 the stream does not exist, -2 it exists, n its last version is n. With n or 0 and an event_id, the same call again is a success and writes nothing. The stream is locked until the transaction ends; a transaction that appends to more than 64 streams guards the others by the unique index alone. Errors: OB013 the stream is not at the expected version (the detail is JSON: stream, expected, actual), OB014 the stream is closed, OB008 the event id is that of another event, 22004 stream, type, data or expected_version is null, 22023 a value is malformed, 54000 a value is too large, and the errors of enqueue() */
    append(args: { stream: string; type: string; data: any; expectedVersion?: number | bigint | null; eventId?: string | null; metadata?: any; headers?: any; tenant?: string | null; publisher?: string | null; occurredAt?: Date | string | null }): Promise<number>;
    /** Like append_many(), for bodies of bytes or text, which are stored and delivered unchanged. content_type: their media type (default application/octet-stream). Errors are those of append_many() */
    appendBytes(args: { stream: string; types: readonly string[]; bodies: readonly Uint8Array[]; contentType?: string | null; expectedVersion?: number | bigint | null; eventIds?: readonly string[] | null; metadata?: readonly any[] | null; headers?: any; tenant?: string | null; publisher?: string | null; occurredAt?: Date | string | null }): Promise<AppendedRow>;
    /** Appends 1 to 10000 events to a stream, all or none. types, data and, if they are given, event_ids and metadata have one entry per event; headers, tenant, publisher and occurred_at hold for all. Errors are those of append(), and 22023 there are no events or the arrays have different lengths */
    appendMany(args: { stream: string; types: readonly string[]; data: readonly any[]; expectedVersion?: number | bigint | null; eventIds?: readonly string[] | null; metadata?: readonly any[] | null; headers?: any; tenant?: string | null; publisher?: string | null; occurredAt?: Date | string | null }): Promise<AppendedRow>;
    /** Returns the final status of a message, with the result of each delivery. Errors: OB001 no such message, or a delivery of it is still open */
    archiveGet(args: { messageId: number | bigint }): Promise<ArchiveEntryRow>;
    /** Returns entries of the archive, newest first, up to max_rows (default 50; 1 to 1000) in a page. Pass the last id of a page as before to get the next one. status: completed, failed or skipped. A page looks at up to 1,000 messages of the tenant or aggregate (or of all), and with endpoint at up to 10,000. If it ends there, its last row has no status, and only the id to continue with. Errors: 22023 max_rows is out of range or status is unknown, OB001 no such endpoint */
    archiveList(args?: { tenant?: string | null; status?: 'completed' | 'failed' | 'skipped' | null; topic?: string | null; aggregateType?: string | null; aggregateId?: string | null; endpoint?: string | null; maxRows?: number | null; before?: number | bigint | null }): Promise<ArchiveEntryRow[]>;
    /** Returns how many of the last 1,000 messages (of a tenant; null: of all) have completed, failed (dead, expired or cancelled) or were skipped. total: the sum */
    archiveStats(args?: { tenant?: string | null }): Promise<ArchiveStatsRow>;
    /** Cancels a message: ends its deliveries that are still waiting, and returns how many were ended. A delivery that a worker has or that is in flight is not tried again if it fails. actor (default: session_user) and reason are stored in outbox.audit. Errors: OB001 no such message, OB002 it was cancelled already or nothing is left to cancel, OB003 all remaining deliveries are leased */
    cancel(args: { messageId: number | bigint; actor?: string | null; reason?: string | null }): Promise<number>;
    /** Cancels a replay, and returns the number of waiting deliveries that were cancelled. Deliveries that are leased or in flight end by themselves. Recorded in outbox.audit. Errors: OB001 no such replay, OB004 it has ended */
    cancelReplay(args: { replayId: number | bigint }): Promise<number>;
    /** Turns changes of a table's rows into messages, in the transaction that makes the changes. The caller must own the table, and the owner needs the capability publish. A second call replaces the capture; call again after partitions were added. topic: may contain {schema}, {table} and {op}. key_columns: columns of the message's key (null: the primary key). operations: of insert, update, delete and truncate. columns: only these in the images (null: all). condition: an SQL expression over new and old. include_old: updates contain the old image too. style: change, row or debezium. tenant_column: column with the tenant. replicated: also capture changes that logical replication applies. oversize, for a payload that is too large: fail (the statement fails), skip (no message, with a warning) or reference (the key without images). Errors: 42501 the caller is not the owner, the owner may not enqueue, or the call is within a security-restricted operation; 42809 the relation cannot be captured; 42703 no such column; 22023 another argument is malformed; 55000 the table's schema was renamed meanwhile */
    capture(args: { relation: string; topic?: string | null; keyColumns?: readonly string[] | null; operations?: readonly ('insert' | 'update' | 'delete' | 'truncate')[] | null; columns?: readonly string[] | null; condition?: string | null; includeOld?: boolean | null; style?: 'change' | 'row' | 'debezium' | null; tenantColumn?: string | null; replicated?: boolean | null; oversize?: 'fail' | 'skip' | 'reference' | null }): Promise<void>;
    /** Returns the first part of a compound stream id, which is the id before the first "+". Members of a consumer group share a category by it. Null if the stream has no id */
    cardinalId(args: { stream: string }): Promise<string>;
    /** Returns the category of a stream: the part of its name before the first "-". Null for null */
    category(args: { stream: string }): Promise<string>;
    /** Leases up to max_messages (default 1; 1 to 10000) due deliveries of a pull subscription to a worker (a name of 1 to 255 bytes). The lease lasts for the duration lease (default 60 s, at most 7 days), and no longer than the subscription's deadline. The order is: highest priority, then longest due, then position. Returns one row of type outbox.claimed for each delivery, and no rows when nothing is due or the subscription is paused. No other worker gets these deliveries until the lease ends. Commit before the work starts: the commit makes the attempt count. Errors: OB001 no such subscription, OB004 it is pushed to an endpoint, 22023 an argument is out of range */
    claim(args: { subscription: string; worker: string; maxMessages?: number | null; lease?: Interval | null }): Promise<ClaimedRow[]>;
    /** Leases one delivery to a worker, like claim(), and returns one row of type outbox.claimed. Raises an error when the delivery cannot be claimed: OB001 no such delivery, OB002 it has ended, OB003 it is leased, OB004 it is pushed to an endpoint, OB007 the subscription has ended or is paused, OB010 it has expired, OB011 no attempts left, OB012 it is not due, or it waits for another delivery of its key. Other errors: 22004 delivery_id is null, 22023 worker or lease is out of range */
    claimDelivery(args: { deliveryId: number | bigint; worker: string; lease?: Interval | null }): Promise<ClaimedRow>;
    /** Closes a stream for ever: append() refuses it from now on. Its events stay. Returns its last version. reason is stored in outbox.audit. Waits for the transactions that are appending to the stream. Errors: OB001 there is no such stream, OB004 it is closed already, OB006 the reason is empty, 55P03 another transaction keeps the stream for 5 s */
    closeStream(args: { stream: string; reason?: string | null }): Promise<number>;
    /** Begins a command of the application, in the transaction that processes it. null: the command is new; process it, and then call command_end(). Otherwise the command was processed before, and the result is an object with key, command_type, success, result, error, processed_at and expires_at. A transaction that is processing the same key is waited for; if it rolls back, the key is new again. ttl: how long the key is remembered (24 hours); null: until command_forget(). content: what the command was called with; only its hash is stored, and the key with other content is refused. Errors: OB004 the command has begun in this transaction, OB008 the key was used for another command, 22004 or 22023 a value is null or malformed, 40001 at REPEATABLE READ when another transaction has processed the command meanwhile, 25006 the transaction is read-only */
    commandBegin(args: { key: string; commandType: string; ttl?: Interval | null; content?: any }): Promise<any>;
    /** Stores the result of a command that has begun in this transaction, so that later calls of command_begin() return it. error: the command failed, and that is final; roll back its effects to a savepoint first. A failed command that may be tried again rolls back the whole transaction instead. A transaction that commits without this call has processed the command, with no result. Errors: OB004 the command has not begun in this transaction, 54000 the result or error is above pg_outbox.max_payload */
    commandEnd(args: { key: string; result?: any; error?: any }): Promise<void>;
    /** Forgets a command, so that its key is new again. Returns false if the key is not known */
    commandForget(args: { key: string }): Promise<boolean>;
    /** Returns how compatible two versions of the schema of an event type are: full, backward (the new one reads the data of the old one), forward (the old one reads the data of the new one) or breaking, and the reasons why it is not full. An unproved direction counts as incompatible. Errors: OB001 there is no such version */
    compareSchemas(args: { type: string; oldVersion: number; newVersion: number }): Promise<CompareSchemasRow>;
    /** Ends deliveries of a lease (delivery_ids null: all that it holds) as completed. Returns their ids, in the order of positions. An id that is missing had ended or was lost to another lease; the array is empty when the lease is lost. results: a JSON array with one element per element of delivery_ids, which the attempt log stores. An element is null, the receiver's id as a string, or an object {total, matched, succeeded, failed, send_results}. Errors: 22004 lease is null, 22023 results does not have one element per delivery id */
    complete(args: { lease: number | bigint; deliveryIds?: readonly (number | bigint)[] | null; results?: any }): Promise<number[]>;
    /** Completes all deliveries that the lease done still holds (null: completes nothing), and claims the next deliveries like claim(), in one transaction: both take effect, or neither. Defaults and ranges are those of claim(). When no rows are returned, call it once more with done null before waiting, because the deliveries that were completed may have held others back. Errors: OB003 the lease is lost (nothing was completed or claimed), and those of claim() */
    completeAndClaim(args: { done: number | bigint; subscription: string; worker: string; maxMessages?: number | null; lease?: Interval | null }): Promise<ClaimedRow[]>;
    /** Returns the number of deliveries in each state. For all tenants (null), completed and cancelled are counted since the beginning, from counters. For one tenant they are counted among the messages that are still stored, which takes longer the more messages that tenant has */
    countByState(args?: { tenant?: string | null }): Promise<CountByStateRow[]>;
    /** Returns the number of messages (of a tenant, an aggregate, a topic; null: of all). 10,000 means at least 10,000 */
    countMessages(args?: { tenant?: string | null; aggregateType?: string | null; aggregateId?: string | null; topic?: string | null }): Promise<number>;
    /** Creates an endpoint (an HTTP destination) and returns its id, its signing secret, and the id of a control message. The signing secret is shown nowhere else. secret: null makes a new one. signature: v1 (HMAC-SHA256, the default) or v1a (ed25519). timeout: above 0, at most 60 s (default 15 s). concurrency: 1 to 1024 requests in flight (default 8). rate: requests per second (null: no limit). headers: a JSON object without credentials. auth: {"type": "basic", "bearer", "header" or "oauth2", ...}. tls: {"ca", "certificate", "key"} as PEM texts. schedule: waits between attempts, such as [5, 30, "2 min"] or {"base": 5, "factor": 2, "cap": "1 h", "jitter": 0.2}. policy: such as {"404": "retry", "4xx": "dead"}. consent: true holds deliveries until the receiver agrees. The other settings are described at the columns of outbox.endpoint. Errors: 42710 the endpoint exists already, 22004 name or url is null, 22023 a setting is malformed or out of range */
    createEndpoint(args: { name: string; url: string; secret?: string | null; headers?: any; timeout?: Interval | null; concurrency?: number | null; tenant?: string | null; kind?: 'webhook' | null; auth?: any; tls?: any; signature?: 'v1' | 'v1a' | null; rate?: number | null; burst?: number | null; schedule?: any; policy?: any; breaker?: any; protocol?: 'auto' | 'http1' | 'http2' | null; compress?: boolean | null; responseId?: string | null; keepHeaders?: readonly string[] | null; disableAfter?: Interval | null; disableFailures?: number | null; consent?: boolean | null; subscriberType?: 'client' | 'service' | null }): Promise<CreateEndpointRow>;
    /** Creates a projection. handler: the signature of a function (events outbox.event[]) returns void, such as "app.count_orders(outbox.event[])"; it runs as its owner, with a pinned search_path, and can neither create temporary tables nor change the role. kind async: from the first event on, whenever run_projection() is called; inline: from the next append on, in the transaction that appends. categories, types (patterns): only these events; null: all. Errors: 42710 the name is taken, 42883 no such function, 42501 the caller does not have the rights of the function's owner, 22004 or 22023 a value is null or malformed, 55P03 a transaction appends for longer than 5 s, 25006 the transaction is read-only */
    createProjection(args: { name: string; handler: string; kind?: 'inline' | 'async' | null; categories?: readonly string[] | null; types?: readonly string[] | null }): Promise<void>;
    /** Registers a publisher. code has no "@" and stands for all publishers "code@version". name: default code. topic_template (such as "{tenant}.{topic}") or topic_function (the signature of a function (tenant text, topic text) returns text) determines the topic of its messages. Errors: 22004 code is null, 22023 a value is malformed, 42710 the publisher is registered already, 42883 no such function, 42501 the caller does not have the rights of the function's owner */
    createPublisher(args: { code: string; name?: string | null; description?: string | null; active?: boolean | null; topicTemplate?: string | null; topicFunction?: string | null }): Promise<void>;
    /** Registers a topic. Registration is needed only to describe a topic, to switch it off, or with pg_outbox.require_topic. name: default code. Errors: 22004 code is null, 22023 a value is malformed, 42710 the topic is registered already */
    createTopic(args: { code: string; name?: string | null; description?: string | null; active?: boolean | null }): Promise<void>;
    /** Registers a function (data jsonb) returns jsonb that turns data of an event type from a version into data of the next version, or replaces the one there is. It must not be volatile, runs as its owner and with a pinned search_path. function: its signature, such as "app.order_placed_2(jsonb)". Errors: OB004 the chain of versions would have a gap, 42883 no such function, 42501 the caller does not have the rights of the function's owner, 22004 or 22023 a value is null or malformed, 25006 the transaction is read-only */
    createUpcaster(args: { type: string; fromVersion: number; function: string }): Promise<void>;
    /** Confirms that a consumer has read everything up to a position, and creates the cursor if there is none. At the position where the cursor stands already, nothing changes, and advanced is false. delivery_id identifies the delivery, and delivered_at (default: now) says when it was made. expected_position makes the call a compare-and-set. epoch: the epoch in which the position was read. Errors: OB005 the position is smaller than the cursor's, the same position has another delivery id, or the cursor is not at expected_position; OB009 a name is malformed, the position is below 1, after the end of the feed, or in a history that was lost; 25006 the transaction is read-only */
    cursorAdvance(args: { consumer: string; position: number | bigint; stream?: string | null; subject?: string | null; deliveryId?: string | null; deliveredAt?: Date | string | null; expectedPosition?: number | bigint | null; epoch?: number | null }): Promise<CursorStateRow>;
    /** Deletes a cursor. The reason is stored in outbox.audit. Errors: OB001 there is no such cursor, OB006 the reason is empty, OB009 a name is malformed, 25006 the transaction is read-only */
    cursorDelete(args: { consumer: string; reason: string; stream?: string | null; subject?: string | null }): Promise<void>;
    /** Returns a consumer's cursor. stream is "outbox" (the feed) by default, subject is empty by default. Errors: OB001 there is no such cursor; with if_missing, the result shows that position instead (nothing is stored). OB009 a name is malformed */
    cursorGet(args: { consumer: string; stream?: string | null; subject?: string | null; ifMissing?: number | bigint | null }): Promise<CursorStateRow>;
    /** Lists cursors in the order of stream, subject and consumer. consumer, stream, subject: only those equal to the value; null: all. max_rows: at most so many rows; 0 (the default): no limit */
    cursorList(args?: { consumer?: string | null; stream?: string | null; subject?: string | null; maxRows?: number | null }): Promise<CursorStateRow[]>;
    /** Records why a consumer cannot go on: an error text (its first 2000 characters), and as error_position the position of the message that cannot be handled (null: not known). Nothing is recorded if the cursor has passed error_position: then another instance has handled the message. The cursor does not move. If there is none, it is created at after_position, where its reader begins. error_since stays that of the first error, health() reports the cursor, and the next advance or reset clears all three. Errors: OB009 the text is empty, error_position is below 1, after_position is negative or, for a new cursor, after the end of the feed, or a name is malformed; 25006 the transaction is read-only */
    cursorRecordError(args: { consumer: string; error: string; stream?: string | null; subject?: string | null; errorPosition?: number | bigint | null; afterPosition?: number | bigint | null }): Promise<CursorStateRow>;
    /** Moves a cursor to any position from 0 on, back as well, and creates the cursor if there is none. The reason is stored in outbox.audit. Errors: OB006 the reason is empty, OB009 a name is malformed or the position is negative or after the end of the feed, 25006 the transaction is read-only */
    cursorReset(args: { consumer: string; position: number | bigint; reason: string; stream?: string | null; subject?: string | null; deliveryId?: string | null; deliveredAt?: Date | string | null }): Promise<CursorStateRow>;
    /** Ends deliveries of a lease (delivery_ids null: all that it holds) as dead letters at once, because no further attempt will help. The dead letter has the reason "rejected", and the argument reason as its last_error. Returns the ids that were changed; an empty array when the lease is lost. Errors: 22004 lease is null */
    dead(args: { lease: number | bigint; deliveryIds: readonly (number | bigint)[] | null; reason: string }): Promise<number[]>;
    /** Returns numbers of dead letters. total: all; unresolved: open ones; resolved: all others. oldest_age_seconds, newest_age_seconds and top_failure_reason are those of open ones, and null if there are none. per_subscription: {name: {"total", "unresolved"}} */
    deadLetterStats(): Promise<DeadLetterStatsRow>;
    /** Returns the open dead letters that became dead letters longer ago than age, oldest first */
    deadLettersOlderThan(args: { olderThan: Interval }): Promise<DeadLetterStatusRow[]>;
    /** Deletes a dead letter, whatever its resolution. Its row is stored in outbox.audit. Errors: OB001 no such dead letter, 22023 actor is empty */
    deleteDeadLetter(args: { deadLetterId: number | bigint; actor?: string | null; note?: string | null }): Promise<void>;
    /** Deletes the snapshots of a stream, or the one of a schema version, and returns how many. The next load starts at the first event */
    deleteSnapshots(args: { stream: string; schemaVersion?: number | null }): Promise<number>;
    /** Returns one row per attempt of a subscription (10000 at most). wait: time after the attempt before. planned, earliest and latest: time after the first attempt, without jitter, with the least and with the most jitter. The list ends at max_age. Errors: OB001 no such subscription */
    describeSchedule(args: { subscription: string }): Promise<DescribeScheduleRow[]>;
    /** Stops sending to an endpoint until enable_endpoint(). mode: hold (the default) keeps deliveries waiting, skip records them as skipped. Recorded in outbox.audit. Returns the id of a control message. Errors: OB001 no such endpoint, 22023 unknown mode, 54000 the reason is too large */
    disableEndpoint(args: { name: string; reason?: string | null; mode?: 'hold' | 'skip' | null }): Promise<number>;
    /** Drops an endpoint that no subscription uses, and deletes its secrets and credentials. Deliveries that wait for a retry are recorded as skipped. Returns the id of a control message. Errors: OB001 no such endpoint, OB004 a subscription uses it */
    dropEndpoint(args: { name: string }): Promise<number>;
    /** Removes a projection with its cursors, or one version of it. Its tables stay: they are the application's. Errors: OB001 no such projection, 25006 the transaction is read-only */
    dropProjection(args: { name: string; version?: number | null }): Promise<void>;
    /** Removes a proxy from the list. Returns the id of a control message. Only for the owner of the extension and superusers; it is in no capability. Errors: OB001 no such proxy, OB004 an endpoint uses it */
    dropProxy(args: { name: string }): Promise<number>;
    /** Removes the first or the last upcaster of an event type. Errors: OB001 there is none from this version, OB004 the chain would have a gap, 25006 the transaction is read-only */
    dropUpcaster(args: { type: string; fromVersion: number }): Promise<void>;
    /** Resumes sending to an endpoint. Failed deliveries are due at once. The circuit breaker closes, a pause ends, and the count of failures is reset. Recorded in outbox.audit. Returns the id of a control message. Errors: OB001 no such endpoint */
    enableEndpoint(args: { name: string }): Promise<number>;
    /** Adds a message to the outbox in the current transaction and returns its id. The message is delivered if and only if the transaction commits. topic: dot-separated words, at most 255 bytes. payload: at most pg_outbox.max_payload (256 kB by default). key: ordering key. headers and metadata: JSON objects. deliver_at: not delivered before (null: at once); expires_at: not delivered after (null: never). priority: -100 to 100, higher goes first. max_attempts: null leaves it to the subscription. occurred_at: null means now. idempotency_key: a second call with the same key, tenant, topic and content returns the id of the first. Errors: 22004 topic or payload is null, 22023 a value is malformed, 54000 a value is too large, OB001 the topic or publisher has to be registered and is not, OB007 it is inactive, OB008 the idempotency key was used with another content, 42501 the caller's capability does not allow it, 55000 this outbox is a copy that logical replication writes, 25006 the transaction is read-only */
    enqueue(args: { topic: string; payload: any; key?: string | null; headers?: any; metadata?: any; tenant?: string | null; aggregateType?: string | null; aggregateId?: string | null; idempotencyKey?: string | null; deliverAt?: Date | string | null; expiresAt?: Date | string | null; priority?: number | null; publisher?: string | null; maxAttempts?: number | null; occurredAt?: Date | string | null }): Promise<number>;
    /** Like enqueue(), for a body of bytes or text, which is stored, signed and sent unchanged. content_type: its media type (default application/octet-stream). Errors are those of enqueue() */
    enqueueBytes(args: { topic: string; body: Uint8Array; contentType?: string | null; key?: string | null; headers?: any; metadata?: any; tenant?: string | null; aggregateType?: string | null; aggregateId?: string | null; idempotencyKey?: string | null; deliverAt?: Date | string | null; expiresAt?: Date | string | null; priority?: number | null; publisher?: string | null; maxAttempts?: number | null; occurredAt?: Date | string | null }): Promise<number>;
    /** Enqueues a business event on the topic event_type and returns the message id. key: default aggregate_id. event_version (default: the number of a topic that ends like order.created.v3), correlation_id, and the privacy flags (pii, pii_fields, consent) are stored in the reserved metadata keys schema_version, correlation_id and privacy. producer: the publisher. scheduled_for: not delivered before. Errors: 22004 event_type is null, 22023 event_version is below 1 or metadata is not a JSON object, and those of enqueue() */
    enqueueEvent(args: { tenant: string; eventType: string; payload: any; aggregateType?: string | null; aggregateId?: string | null; eventVersion?: number | null; metadata?: any; idempotencyKey?: string | null; correlationId?: string | null; pii?: boolean | null; piiFields?: readonly string[] | null; consent?: any; producer?: string | null; scheduledFor?: Date | string | null; occurredAt?: Date | string | null; key?: string | null; headers?: any }): Promise<number>;
    /** Like enqueue(), for many payloads at once. keys has one entry per payload (null: no keys); all other arguments hold for every message. Returns the ids in the order of the payloads. An idempotency_key names the whole call. Errors are those of enqueue(), and 22023 when payloads and keys have different lengths */
    enqueueMany(args: { topic: string; payloads: readonly any[]; keys?: readonly string[] | null; headers?: any; metadata?: any; tenant?: string | null; aggregateType?: string | null; aggregateId?: string | null; idempotencyKey?: string | null; deliverAt?: Date | string | null; expiresAt?: Date | string | null; priority?: number | null; publisher?: string | null; maxAttempts?: number | null; occurredAt?: Date | string | null }): Promise<number[]>;
    /** Enqueues a notification on the topic event_type and returns the message id. The payload is a JSON object {event_type, title, body, severity, metadata, tenant, url, aggregate_type, aggregate_id}. severity (critical, high, medium, low, info, none; default info) is also a header, by which subscriptions can filter. key: default aggregate_id. scheduled_at: not delivered before. Errors: 22004 event_type is null, 22023 title is empty, the severity is unknown or metadata is not a JSON object, and those of enqueue() */
    enqueueNotification(args: { tenant: string; eventType: string; title: string; body?: string | null; severity?: 'critical' | 'high' | 'medium' | 'low' | 'info' | 'none' | null; url?: string | null; aggregateType?: string | null; aggregateId?: string | null; metadata?: any; maxAttempts?: number | null; scheduledAt?: Date | string | null; key?: string | null; idempotencyKey?: string | null; publisher?: string | null }): Promise<number>;
    /** Creates a subscription, or alters the one that there is, so that it is as described: for migrations, and for programs that start. Topics, filter (null: none) and whether it is pushed are always as given; any other setting that is null keeps its value, or gets the default of subscribe() if the subscription is new. start: where a new subscription begins, as in subscribe(). Its default is earliest for a subscription that workers claim from, so that workers that are deployed after their producers miss nothing, and latest for a pushed one, so that a new receiver is not sent the history. Returns created, altered or unchanged; unchanged writes nothing. Errors: OB001 no such endpoint, OB004 the subscription is pulled and endpoint is given, or the other way round, or it has another source; 40001 another session created it, and this transaction cannot see it; those of subscribe() */
    ensureSubscription(args: { name: string; topics: readonly string[]; endpoint?: string | null; filter?: any; maxAttempts?: number | null; maxAge?: Interval | null; schedule?: any; policy?: any; format?: 'raw' | 'envelope' | 'cloudevents' | 'cloudevents_structured' | 'pubsub' | null; batchSize?: number | null; batchWait?: Interval | null; ordering?: 'none' | 'key' | 'strict' | null; onExhausted?: 'skip' | 'block' | null; ttl?: Interval | null; deadline?: Interval | null; notify?: boolean | null; maxLag?: Interval | null; externalId?: string | null; labels?: any; start?: string | null; source?: string | null; transform?: string | null }): Promise<string>;
    /** Erases the content of a message (payload, body, headers, metadata, and in the attempt log responses, results and errors), ends its waiting deliveries, and deletes the snapshots of its stream. Ids, topic, key, positions and counts stay. The message cannot be requeued, resent or replayed any more. actor (default: session_user) and reason are stored in outbox.audit. Errors: OB001 no such message, OB003 a worker has a delivery of it, OB006 the reason is empty, 55P03 a lock was not available within 5 s */
    erase(args: { messageId: number | bigint; actor?: string | null; reason?: string | null }): Promise<void>;
    /** Returns, for each subscription, whether a message with these properties would match it, and the reason. reason: matches (with a note if the subscription is paused), topic, inactive, source (it takes events, or it does not), filter with the fields that refuse the message, or filter: payload. source: messages (the default) or events. The answer is that of the newest version of each subscription; with at_position, that of the version that held at the position, ended subscriptions included. Errors: 22023 topic is malformed */
    explainRouting(args: { topic: string; payload?: any; key?: string | null; headers?: any; tenant?: string | null; aggregateType?: string | null; aggregateId?: string | null; atPosition?: number | bigint | null; source?: string | null }): Promise<ExplainRoutingRow[]>;
    /** Returns the events that concern a person, a page at a time. streams: only these, by stream and version; stream_prefix: those whose name begins so, likewise; or everything in the order of the feed, for which at least one filter is needed. A page of the last two looks at max_events events. types: patterns of the type; user_id: metadata.user_id; metadata: entries that the metadata contain; from_time, to_time: when the event was stored, inclusive. All filters hold together. after: "next" of the last row, for the next page; there is no row when there are no more. max_events: 1 to 10000 (1000). A row whose message_id is null only says how far a scan has come. redacted: the event was erased, or the key that metadata.key_id names was revoked. Errors: 22023 neither streams nor a filter, or a value is malformed */
    exportSubject(args?: { streams?: readonly string[] | null; types?: readonly string[] | null; streamPrefix?: string | null; tenant?: string | null; userId?: string | null; metadata?: any; fromTime?: Date | string | null; toTime?: Date | string | null; after?: any; maxEvents?: number | null }): Promise<ExportedEventRow[]>;
    /** Extends a lease so that it ends duration (default 60 s, at most 7 days) from now, but not after the deadline of its claim. Never shortens the lease. Returns the new end. Errors: OB003 the lease is lost, 22004 lease is null, 22023 duration is out of range */
    extend(args: { lease: number | bigint; duration?: Interval | null }): Promise<Date>;
    /** Records a failed attempt of deliveries of a lease (delivery_ids null: of all that it holds). A delivery is tried again after retry_after (null: after the wait that the subscription's schedule says). A delivery becomes a dead letter after its last attempt, or when the next attempt would be later than max_age or the expiry allow. An error of more than 4096 bytes is cut to its first 1000 characters. Returns the ids that were changed; an empty array when the lease is lost. Errors: 22004 lease is null */
    fail(args: { lease: number | bigint; deliveryIds: readonly (number | bigint)[] | null; error: string; retryAfter?: Interval | null }): Promise<number[]>;
    /** Removes the row of a relay that will not run again from outbox.relay_status, so that health() no longer misses it. Its cursor stays; see cursor_delete(). Returns whether there was a row. Errors: 25006 the transaction is read-only */
    forgetRelay(args: { relay: string }): Promise<boolean>;
    /** Returns one message with its state. Errors: OB001 no such message, or retention has removed it */
    getMessage(args: { messageId: number | bigint }): Promise<MessageStatusRow>;
    /** Returns the schema of an event type. version null: the latest one. Errors: OB001 there is none */
    getSchema(args: { type: string; version?: number | null }): Promise<EventSchemaRow>;
    /** Returns a data key by its id. If it was revoked, wrapped_key is null, and revoked_at and reason are set. Errors: OB001 there is no such key, 22004 or 22023 the id is null or malformed */
    getSubjectKey(args: { keyId: string }): Promise<SubjectKeyRow>;
    /** Records that the receiver has given its consent by other means than the handshake. rate_per_minute: requests per minute that it allows; null: no limit. Returns the id of a control message. Errors: OB001 no such endpoint, 22023 rate_per_minute is below 1 */
    grantConsent(args: { endpoint: string; ratePerMinute?: number | null }): Promise<number>;
    /** Grants a role a capability (publish, capture, consume, observe, monitor or admin), or replaces an earlier grant of it. publish can be narrowed to topics (patterns), tenants and publishers; monitor to tenants. consume can be narrowed to subscriptions, topics (patterns, for read()) and consumers (of cursors); if one of these is given, those that are not given allow nothing. null: not narrowed. A list has at most 1000 names of 1 to 255 bytes. Errors: 42704 no such role, 22023 the capability is unknown or cannot be narrowed like this, or a list is malformed */
    grantTo(args: { role: string; capability: 'publish' | 'capture' | 'consume' | 'observe' | 'monitor' | 'admin'; subscriptions?: readonly string[] | null; topics?: readonly string[] | null; tenants?: readonly string[] | null; publishers?: readonly string[] | null; consumers?: readonly string[] | null }): Promise<void>;
    /** Returns the last position of the feed; 0 when the feed is empty */
    head(): Promise<number>;
    /** Returns one row per check. state: ok, warning or critical. culprit: the object, session or setting that is the cause. what_to_do: what an operator can do. Suited to an alert on state <> 'ok' */
    health(): Promise<HealthRow[]>;
    /** Returns the events of one message in order of time. what: enqueued, numbered (with its position), routed, the outcome of an attempt, next attempt, dead letter. Errors: OB001 no such message */
    history(args: { messageId: number | bigint }): Promise<HistoryRow[]>;
    /** Marks an open dead letter as ignored, because it is not worth an action. actor and note are stored with it and in outbox.audit. Errors: OB001 no such dead letter, OB004 it is not open, 22023 actor is empty */
    ignoreDeadLetter(args: { deadLetterId: number | bigint; actor?: string | null; note?: string | null }): Promise<void>;
    /** Called in the transaction that handles a message from a relay: returns true if the message is new, and false if it or a later one of its source and stream was handled before. source, position and epoch are those of the message's headers; stream is the stream or partition in which the broker keeps the order. Waits for another transaction that handles a message of the same stream. Errors: OB009 an argument is malformed, 25006 the transaction is read-only */
    inboxBegin(args: { source: string; position: number | bigint; epoch?: number | null; stream?: string | null }): Promise<boolean>;
    /** Creates the schema message_store with the functions, types, views and role of message-db 1.3, over the streams of pg_outbox. Called again, for example after an upgrade, it replaces the functions and views and leaves grants as they are. The first call creates the role message_store and grants it publish and consume; a role of this name that exists gets no capability. Only for the owner of the extension and superusers; it is in no capability. Errors: 42501 the schema belongs to another role, 42P06 it is that of a message-db, 25006 the transaction is read-only */
    installMessageStore(): Promise<void>;
    /** Returns whether a delivery or message in this state is not tried again by itself: true for completed, dead, skipped, expired and cancelled */
    isTerminal(args: { state: 'pending' | 'processing' | 'failed' | 'completed' | 'dead' | 'expired' | 'cancelled' | 'skipped' }): Promise<boolean>;
    /** Returns messages, newest first, up to max_messages (default 50; 1 to 1000) in a page. Pass the last id of a page as before to get the next one; skip (0 to 10000) leaves out the first ones. Tenant and aggregate use an index, and status pending, processing, failed, dead or expired uses the deliveries. In a page, topic and severity are checked for at most 10,000 messages, and status completed, cancelled or skipped for at most 1,000. If a page ends there, its last row has no topic, and only the id to continue with. Errors: 22023 max_messages or skip is out of range, or status is unknown */
    listMessages(args?: { tenant?: string | null; state?: 'pending' | 'processing' | 'failed' | 'completed' | 'dead' | 'expired' | 'cancelled' | 'skipped' | null; topic?: string | null; aggregateType?: string | null; aggregateId?: string | null; severity?: string | null; maxMessages?: number | null; before?: number | bigint | null; skip?: number | null }): Promise<MessageStatusRow[]>;
    /** Returns events of a stream in the order of their versions, from from_version on (inclusive; null, the default: the first one), up to max_events (default 1000; 1 to 10000). backwards (default false): from from_version down (null: the last one). positions (default false): also looks up the place of each event in the feed. upcast (default false): data are turned into the latest schema version by the upcasters, and metadata.schema_version says so. A stream that does not exist has no events. Events of the current transaction are included. Errors: 22004 stream is null, 22023 max_events is out of range or stream is malformed, and with upcast those of upcast() */
    load(args: { stream: string; fromVersion?: number | bigint | null; maxEvents?: number | null; backwards?: boolean | null; positions?: boolean | null; upcast?: boolean | null }): Promise<EventRow[]>;
    /** Returns the newest snapshot of a stream and schema version, or no row if there is none */
    loadSnapshot(args: { stream: string; schemaVersion?: number | null }): Promise<LoadSnapshotRow[]>;
    /** Rotates, reclaims and trims now as far as the retention settings allow, and returns what each job did. The dispatcher does this by itself, every pg_outbox.retention_interval (1 hour by default). Not in a transaction block or function. Errors: 25001 in such a transaction. A job that fails has the result "failed" and its error in held_by */
    maintain(): Promise<MaintainRow[]>;
    /** Returns the result of send_test() or resend(). state: waiting, completed or failed; the other columns are null while it waits. Errors: OB001 no such id */
    manualResult(args: { manualSendId: number | bigint }): Promise<ManualResultRow[]>;
    /** Returns metrics for a monitoring system. Names that end in _total, _sum, _count or _bucket only grow; all others are current values, in the unit that the name says (seconds, positions, bytes). labels names the subscription, endpoint, state, consumer, stream, subject, relay, ring or part; le is the bound of a bucket. Histograms start from zero when the server starts. outbox_enqueued_total also counts messages that were rolled back */
    metrics(): Promise<MetricsRow[]>;
    /** Moves a waiting delivery to the dead letters, with the reason "moved" and the argument reason as its last_error. Returns the id of the dead letter. Errors: OB001 no such delivery, OB002 it has ended, OB003 a worker has it, 22023 actor is empty */
    moveToDeadLetters(args: { deliveryId: number | bigint; reason: string; actor?: string | null }): Promise<number>;
    /** Returns which messages were sent to whom: of one message, or of the latest messages of a tenant, topic or aggregate, up to max_rows (default 50; 1 to 1000) messages in a page. Pass the last message_id of a page as before to get the next one. With subscription, up to max_rows rows of that subscription, among 10,000 messages per page. If a page ends there, its last row has no topic_code, and only the id to continue with. Errors: 22023 max_rows is out of range, OB001 no such subscription */
    notificationLog(args?: { messageId?: number | bigint | null; tenant?: string | null; topic?: string | null; aggregateType?: string | null; aggregateId?: string | null; maxRows?: number | null; before?: number | bigint | null; subscription?: string | null }): Promise<NotificationEntryRow[]>;
    /** Pauses an asynchronous projection: run_projection() is refused until resume_projection(). It waits for a page that is being applied. version null: the live one. Errors: OB001 no such projection, OB004 it is inline, faulted or stopped, 25006 the transaction is read-only */
    pauseProjection(args: { name: string; version?: number | null }): Promise<void>;
    /** Pauses a subscription until resume(): messages are still routed to it and retained, but nothing is sent or can be claimed. Recorded in outbox.audit. Returns the id of a control message. Errors: OB001 no such subscription */
    pauseSubscription(args: { name: string }): Promise<number>;
    /** Returns the public keys with which receivers verify v1a signatures of an endpoint, the current one first; no rows for v1. Errors: OB001 no such endpoint */
    publicKeys(args: { endpoint: string }): Promise<PublicKeysRow[]>;
    /** Removes rows that are older than older_than, and returns how many rows and bytes. what: completed (messages), attempts, archive (messages with their attempts and routing; rows counts messages), dead_letters (resolved or ignored ones; include_unresolved: all), idempotency. Rows of logs are removed leaf by leaf, and only if the whole leaf is old enough. Rows that are still needed are never removed. older_than null, zero or below removes nothing. dry_run: returns the numbers without removing anything. Numbers of rows in leaves may be estimates. Not in a transaction block or function. Errors: 22023 what is unknown, 25001 in such a transaction, 55P03 a lock was not available within 5 s */
    purge(args: { what: string; olderThan: Interval; includeUnresolved?: boolean | null; dryRun?: boolean | null }): Promise<PurgeRow>;
    /** Returns up to max_messages (default 100; 1 to 10000) messages after a position (exclusive; 0: from the first one that is stored), in order. topics (patterns) and filter select as in a subscription; null: all. Control messages of pg_outbox are not returned. A call looks at no more than 10000 positions, or max_messages if that is more. If it looked further than the last message that it returns, a marker is the last row: its message_id is null, and no message between the row before it and its position matches. Continue after the position of the last row, and confirm the position of a marker as that of a message. No rows: the feed ends at after_position. source: messages (the default), events (of streams, from position 1 on for ever), or all; the aggregate of an event is its category and the rest of its stream's name. epoch: the epoch in which after_position was read, so that a lost history is noticed. Errors: OB009 the position is malformed, no longer stored, after the end of the feed, or in a history that was lost; 22023 another argument is malformed */
    read(args: { afterPosition: number | bigint; maxMessages?: number | null; topics?: readonly string[] | null; filter?: any; epoch?: number | null; source?: string | null }): Promise<FeedMessageRow[]>;
    /** Returns up to max_events (default 1000; 1 to 10000) events after a position (exclusive; 0: from the first one), in the committed order. Continue after the position of the last row. Events stay readable for ever, unless truncate_stream() removes them. categories, types (patterns), tenant and filter (as in a subscription) select; null: all. member and members: the part of a consumer group's member, numbered from 0; streams with the same cardinal id go to the same member. A call looks at no more than about 10000 positions, or max_events if that is more, apart from those that the lists of categories pass over. If none of them matches, the result is one row whose message_id is null and whose position says where to continue. epoch: the epoch in which after_position was read, so that a lost history is noticed. upcast (default false): as in load(); an event that cannot be upcast is an error. A standby answers too. Errors: OB009 the position is malformed, after the end of the feed, or in a history that was lost; 22023 another argument is malformed */
    readEvents(args: { afterPosition: number | bigint; maxEvents?: number | null; categories?: readonly string[] | null; types?: readonly string[] | null; tenant?: string | null; filter?: any; member?: number | null; members?: number | null; epoch?: number | null; upcast?: boolean | null }): Promise<EventRow[]>;
    /** Makes a new version of an asynchronous projection, which begins at the first event, and returns its number. handler: a function that writes to tables of its own; the old version goes on until switch_projection(). Null: the same handler; the old version stops at once, and the caller empties the tables in the same transaction. Errors: OB001 no such projection, OB004 it is inline or is being rebuilt, 42883 no such function, 42501 the caller does not have the rights of the function's owner, 22023 the function has another signature, 25006 the transaction is read-only */
    rebuildProjection(args: { name: string; handler?: string | null }): Promise<number>;
    /** Registers a version of the JSON Schema of an event type and returns the version. version: the next one by default. The same version with an equal schema changes nothing. compatibility: what the change from the version before must be: backward (the default; the new version reads the data of the one before), forward (the one before reads the data of the new one), full (both) or breaking (anything). Data is taken to have the declared properties only, unless the schema combines others. validated: append() checks the events of this version. Errors: OB016 the schema is not as compatible as asked for (the detail says why), OB004 the version would leave a gap, OB008 the version is registered with another schema, 22004 or 22023 a value is null or malformed, 54000 the schema is above 64 kB, 25006 the transaction is read-only */
    registerSchema(args: { type: string; schema: any; version?: number | null; compatibility?: 'full' | 'backward' | 'forward' | 'breaking' | null; validated?: boolean | null; description?: string | null }): Promise<number>;
    /** Says how a relay is: writes its row in outbox.relay_status. The relay calls it; only its active instance does. error: null leaves the last one. Errors: OB009 a name is malformed; 22023 another argument is; 25006 the transaction is read-only */
    relayHeartbeat(args: { relay: string; consumer: string; sink: string; instance: string; state: string; position: number | bigint; heartbeatInterval: Interval; epoch?: number | null; relayed?: number | bigint | null; skipped?: number | bigint | null; rate?: number | null; error?: string | null }): Promise<void>;
    /** Records in outbox.audit that a relay went on without a message that its broker refused. action: skip or dead-letter. Errors: OB009 the name is malformed, 22023 unknown action, 25006 the transaction is read-only */
    relayRecordRefusal(args: { relay: string; position: number | bigint; webhookId: string; action: string; reason: string }): Promise<void>;
    /** Gives deliveries of a lease (delivery_ids null: all) back unharmed: they are due as before, and the attempt does not count. Returns the ids that were given back, in the order of positions; an empty array when the lease is lost. Errors: 22004 lease is null */
    release(args: { lease: number | bigint; deliveryIds?: readonly (number | bigint)[] | null }): Promise<number[]>;
    /** Delivers again the messages that a subscription matched between two positions, both included, and returns the id of the replay. Which messages matched is decided by the versions that held at those positions. from_position: default tail(); to_position: default head(). from_time and to_time (exclusive) are used where a position is null, and refer to the time when a message got its position. filter: narrows the messages further. new_ids (default false): webhook ids get the suffix _r and the id of the replay. rate (default 200; 1 to 10000): messages per second at most, in addition to live traffic. The view outbox.replay_status shows the progress. Recorded in outbox.audit. Errors: OB001 no such subscription, OB009 a position is no longer stored or does not exist yet, 22023 rate or filter is invalid */
    replay(args: { subscription: string; fromPosition?: number | bigint | null; toPosition?: number | bigint | null; filter?: any; newIds?: boolean | null; rate?: number | null; fromTime?: Date | string | null; toTime?: Date | string | null }): Promise<number>;
    /** Asks the receiver of an endpoint for consent with the CloudEvents webhook handshake, whatever its earlier answer was. Deliveries wait until it agrees. Returns the id of a control message. Errors: OB001 no such endpoint */
    requestConsent(args: { endpoint: string }): Promise<number>;
    /** Makes the delivery of a dead letter due now, with all its attempts again, and returns the id of the delivery. The receiver gets the same webhook id. A requeued delivery does not expire, and a cancelled message is not cancelled any more. Errors: OB001 no such dead letter, OB004 it was requeued already, its subscription has ended, its message is gone or erased, or the transform makes no payload of it, 22023 actor is empty */
    requeue(args: { deadLetterId: number | bigint; actor?: string | null; note?: string | null }): Promise<number>;
    /** Requeues up to max_rows (default 1000; 1 to 100000) open dead letters, oldest first, and returns how many. subscription, reason, topic, dead_after (inclusive) and dead_before (exclusive) select them; null: all. dry_run: only counts. Dead letters that cannot be requeued are left out. Errors: OB001 no such subscription, 22023 max_rows is out of range, or actor is empty */
    requeueAll(args?: { actor?: string | null; subscription?: string | null; reason?: string | null; topic?: string | null; deadAfter?: Date | string | null; deadBefore?: Date | string | null; note?: string | null; maxRows?: number | null; dryRun?: boolean | null }): Promise<number>;
    /** Changes when a waiting delivery is due, and optionally its priority (-100 to 100) and its expiry; null leaves these as they are. Errors: OB001 no such delivery, OB002 it has ended, OB003 a worker has it, 22004 due_at is null, 22023 a value is out of range, or actor is empty */
    reschedule(args: { deliveryId: number | bigint; dueAt: Date | string; actor?: string | null; priority?: number | null; expiresAt?: Date | string | null }): Promise<void>;
    /** Sends a message once more to a pushed subscription, whatever the state of its delivery: one attempt outside the budget, with the same webhook id. The subscription's transform, if it has one, is called again. Recorded in outbox.audit. Returns the id for manual_result(). Errors: OB001 no such subscription, or the message is not stored or not in the feed yet; OB004 the subscription is pulled by workers, the message was erased, or the transform makes no payload of it */
    resend(args: { messageId: number | bigint; subscription: string }): Promise<number>;
    /** Marks an open dead letter as resolved by other means. actor and note are stored with it and in outbox.audit. Errors: OB001 no such dead letter, OB004 it is not open, 22023 actor is empty */
    resolveDeadLetter(args: { deadLetterId: number | bigint; actor?: string | null; note?: string | null }): Promise<void>;
    /** Goes on with a projection that is paused or faulted; a faulted one tries the same event again. version null: the live one. Errors: OB001 no such projection, OB004 it is neither paused nor faulted, 25006 the transaction is read-only */
    resumeProjection(args: { name: string; version?: number | null }): Promise<void>;
    /** Resumes a paused subscription where it stopped. Recorded in outbox.audit. Returns the id of a control message. Errors: OB001 no such subscription */
    resumeSubscription(args: { name: string }): Promise<number>;
    /** Makes a waiting, failed, dead or expired delivery of a message to a subscription due now, with its attempts counted from 0 again. Returns the id of the delivery. by: default session_user. Errors: OB001 no such subscription, or there is no such delivery (not matched, not routed yet, or in its first attempt); OB002 it was completed; OB003 a worker has it; OB004 its message was erased or is gone */
    retry(args: { messageId: number | bigint; subscription: string; actor?: string | null }): Promise<number>;
    /** Revokes a capability from a role. Privileges that another capability of the role needs stay. Returns false if the role did not have the capability by grant_to(). Errors: 42704 no such role, 22023 unknown capability */
    revokeFrom(args: { role: string; capability: 'publish' | 'capture' | 'consume' | 'observe' | 'monitor' | 'admin' }): Promise<boolean>;
    /** Removes all data keys of a subject for good, so that nothing that was encrypted with them can be read any more, and returns the id of the certificate. Keys that the subject gets later are not concerned. If all its keys were revoked before, nothing changes, and the last certificate is returned. Errors: OB001 the subject has no keys, OB006 the reason is empty, 22004 or 22023 a value is null or malformed, 55P03 a lock was not available within 5 s, 25006 the transaction is read-only */
    revokeSubjectKeys(args: { subject: string; actor?: string | null; reason?: string | null }): Promise<number>;
    /** Stores a data key again after it was encrypted by another master key. Errors: OB001 there is no such key, OB004 it was revoked, 22004 or 22023 a value is null or malformed, 25006 the transaction is read-only */
    rewrapSubjectKey(args: { keyId: string; wrappedKey: Uint8Array; masterKey: string }): Promise<void>;
    /** Makes new rows of a ring (default message) go to the next leaf from now on. Returns rotated, empty (nothing was written to the current leaf), full (the next leaf still holds rows), or not yet (the sequencer is busy). Not in a transaction block or function. Errors: OB001 no such ring, 25001 in such a transaction, 55P03 a lock was not available within 5 s */
    rotate(args?: { ring?: string | null }): Promise<string>;
    /** Gives an endpoint a new secret, and returns it with the id of a control message; it is shown nowhere else. secret: null makes a new one. The old secret signs too until overlap has passed (default 24 h, 0 to 30 days). Recorded in outbox.audit, without the secret. Errors: OB001 no such endpoint, 22023 secret or overlap is invalid */
    rotateSecret(args: { name: string; secret?: string | null; overlap?: Interval | null }): Promise<RotateSecretRow>;
    /** Applies the next page of events to an asynchronous projection and moves its cursor, both in the transaction of the caller, and returns how many events it applied; 0: it is up to date. max_events: 1 to 10000 (1000). version null: the live one. Two callers do not apply the same page: one waits. If the handler fails for an event, the events before it are applied, the projection is faulted, and the call returns: commit it. An error that the next try may not meet (deadlock, serialization, lock, resources) is raised. Errors: OB015 the projection is faulted, OB001 no such projection, OB004 it is inline, paused or stopped, OB009 the feed has lost the position of the cursor, 42883 the handler is gone or has another owner, 22023 max_events is out of range, 25006 the transaction is read-only */
    runProjection(args: { name: string; maxEvents?: number | null; version?: number | null }): Promise<number>;
    /** Deletes a saga and the list of the events that it has handled. Returns false if there is no such saga. The deletion is recorded in outbox.audit. Errors: 25006 the transaction is read-only */
    sagaDelete(args: { sagaType: string; sagaId: string }): Promise<boolean>;
    /** Returns the saga of a type that has this correlation id: the one that has not ended, or else the one that started last. No row: there is none */
    sagaFind(args: { sagaType: string; correlationId: string }): Promise<SagaStateRow[]>;
    /** Locks a saga until the transaction ends, and remembers that it handles this event. true: the event is new to the saga; false: it was handled before, and nothing is to be done. Call it before saga_load(), in the transaction that handles the event. Errors: OB001 there is no such saga, 22004 message_id is null, 22023 it is no id, 40001 at REPEATABLE READ when another transaction has changed the saga meanwhile, 25006 the transaction is read-only */
    sagaHandle(args: { sagaType: string; sagaId: string; messageId: number | bigint }): Promise<boolean>;
    /** Returns a saga with its state and version. Errors: OB001 there is no such saga */
    sagaLoad(args: { sagaType: string; sagaId: string }): Promise<SagaStateRow>;
    /** Stores the state of a saga and returns its new version. expected_version: the version that saga_load() returned; 0: the saga starts. status: started, running, completed, failed, compensating, compensated or compensation_failed; null: as it is, and running after the first change. A saga that is completed or compensated does not change any more; one that has failed, or whose compensation has failed, can go to compensating. step: number of the current step, from 0. steps: array of objects with name and status (pending, running, completed, failed or compensated). A null step, steps, correlation_id or failure_reason leaves the value as it is. Errors: OB013 the saga is not at expected_version, OB001 there is no such saga, OB004 the status does not allow the change, 42710 another saga of the type that has not ended has the correlation id, 22004 or 22023 a value is null or malformed, 54000 the state or the steps are above pg_outbox.max_payload, 25006 the transaction is read-only */
    sagaSave(args: { sagaType: string; sagaId: string; state: any; expectedVersion: number | bigint; status?: 'started' | 'running' | 'completed' | 'failed' | 'compensating' | 'compensated' | 'compensation_failed' | null; step?: number | null; steps?: any; correlationId?: string | null; failureReason?: string | null }): Promise<number>;
    /** Stores the state of a stream after the event of that version, in place of the snapshot of an earlier version. Returns false, and changes nothing, if a later one is stored. state: as JSON; or body: as bytes, with its content_type (application/octet-stream by default). schema_version: the form of the state (1); each has its own snapshot. Errors: OB001 the stream has no such version, 22004 or 22023 a value is null or malformed, 54000 the state or body is above pg_outbox.max_payload, 25006 the transaction is read-only */
    saveSnapshot(args: { stream: string; version: number | bigint; state?: any; schemaVersion?: number | null; body?: Uint8Array | null; contentType?: string | null }): Promise<boolean>;
    /** Stores a data key of a subject, encrypted by a master key that the server does not have. key_id: the name by which encrypted data refers to the key. master_key: the name of the master key. The same key again changes nothing. Errors: OB004 the key was revoked, OB008 the id is that of another key, 22004 or 22023 a value is null or malformed, 25006 the transaction is read-only */
    saveSubjectKey(args: { subject: string; keyId: string; wrappedKey: Uint8Array; masterKey: string }): Promise<void>;
    /** Sends a test message (topic outbox.test, signed like any other) to an endpoint, once the transaction commits. Recorded in outbox.audit. Returns the id for manual_result(). Errors: OB001 no such endpoint, 22004 payload is null */
    sendTest(args: { endpoint: string; payload?: any }): Promise<number>;
    /** Sets tenant, publisher and metadata for the messages that this transaction enqueues after the call; it replaces an earlier context. Arguments of enqueue() take precedence. correlation_id, causation_id, user_id, traceparent and tracestate become keys of the metadata. Actions of operators in the transaction are recorded in outbox.audit with user_id as the person. Errors: 22023 metadata is not a JSON object */
    setContext(args?: { correlationId?: string | null; causationId?: string | null; userId?: string | null; traceparent?: string | null; tracestate?: string | null; tenant?: string | null; publisher?: string | null; metadata?: any }): Promise<void>;
    /** Chooses one of the operator's proxies for an endpoint; null: the default proxy, if there is one. Returns the id of a control message. Errors: OB001 no such endpoint or proxy */
    setEndpointProxy(args: { endpoint: string; proxy: string }): Promise<number>;
    /** Adds a proxy to the list, or changes it. url: http://[user:password@]host:port or socks5://...; null: no proxy. is_default: there is one default, so the former one loses this property. Returns the id of a control message. Only for the owner of the extension and superusers; it is in no capability. Errors: 22004 name is null, 22023 name or url is malformed */
    setProxy(args: { name: string; url: string; resolvesNames?: boolean | null; isDefault?: boolean | null }): Promise<number>;
    /** Skips the event at which a projection is faulted, and goes on after it. The reason is stored in outbox.audit. position: failed_position of the view projections, so that nothing else is skipped. Errors: OB001 no such projection, OB004 it is not faulted at this position, OB006 the reason is empty, 25006 the transaction is read-only */
    skipEvent(args: { projection: string; position: number | bigint; reason: string; version?: number | null }): Promise<void>;
    /** Messages that matched no subscription, newest first, with the reason: no subscription, filtered, or inactive (all subscriptions on the topic had ended). topic is a pattern (null: all). At most max_messages rows (default 100). before is exclusive; pass the last position of a page to get the next page */
    skipped(args?: { topic?: string | null; maxMessages?: number | null; before?: number | bigint | null }): Promise<SkippedRow[]>;
    /** Returns the state of this database's outbox. messages: the last message id; feed_end and routed: positions; waiting: deliveries that have not ended; dead_letters: open ones. worker: not preloaded, none, starting, running, push off, copied or failing. From pending on: the number of deliveries in each state (of a tenant; null: of all); skipped: messages that matched nothing */
    stats(args?: { tenant?: string | null }): Promise<StatsRow>;
    /** Returns what is known of a stream: its category, last version, number of stored events, when the first and the last of them were appended, since when it is closed (null: it is open), and the version before which it was truncated (1: it was not). Errors: OB001 there is no such stream, 22004 stream is null, 22023 it is malformed */
    streamInfo(args: { stream: string }): Promise<StreamInfoRow>;
    /** Returns the id of a stream within its category: the part of its name after the first "-". Null if there is none */
    streamKey(args: { stream: string }): Promise<string>;
    /** Returns the last version of a stream; 0: there is no such stream. It is the version as it is now, whatever the transaction's snapshot shows. Errors: 22004 stream is null, 22023 it is malformed */
    streamVersion(args: { stream: string }): Promise<number>;
    /** Returns streams with their last versions, in the order of the bytes of their names: up to max_streams (default 100; 1 to 10000) after a name (exclusive; empty, the default: from the first one), of a category or of all (null, the default). Streams whose events were all removed by truncate_stream() are not listed. Errors: 22023 max_streams is out of range or category is malformed, 22004 after is null */
    streams(args?: { category?: string | null; after?: string | null; maxStreams?: number | null }): Promise<StreamsRow[]>;
    /** Returns all data keys of a subject, the revoked ones too, in the order in which they were made. Errors: 22004 or 22023 the subject is null or malformed */
    subjectKeys(args: { subject: string }): Promise<SubjectKeyRow[]>;
    /** Creates a subscription: the messages of these topics (patterns; * is one word, # any number of words) are sent to an endpoint, or claimed by workers if there is neither endpoint nor url. url: creates an endpoint with the subscription's name. filter: further conditions on a message. The other settings are described at the columns of outbox.subscription; max_attempts null or below 1 means 12. start: latest (the default: messages after the control message whose id is returned), earliest, a position (the first to be delivered) or a time. source: messages (the default), events (of streams), or all; it stays until unsubscribe(). transform: the signature of a function (message outbox.feed_message) returns jsonb, immutable or stable, such as "app.public_part(outbox.feed_message)": its result is sent instead of the payload, and null skips the delivery. The function runs as its owner. A name that was unsubscribed is taken up again, with its old id. Returns the id of the control message. Errors: OB001 no such endpoint, OB009 the start position is not stored or does not exist yet, 42710 the subscription exists already, 42883 no such function, 42501 the caller does not have the rights of its owner, 22004 topics is null or empty, 22023 a setting is malformed or out of range, 54000 a text is too long */
    subscribe(args: { name: string; topics: readonly string[]; endpoint?: string | null; filter?: any; maxAttempts?: number | null; maxAge?: Interval | null; schedule?: any; policy?: any; format?: 'raw' | 'envelope' | 'cloudevents' | 'cloudevents_structured' | 'pubsub' | null; batchSize?: number | null; batchWait?: Interval | null; ordering?: 'none' | 'key' | 'strict' | null; onExhausted?: 'skip' | 'block' | null; ttl?: Interval | null; deadline?: Interval | null; notify?: boolean | null; maxLag?: Interval | null; externalId?: string | null; labels?: any; start?: string | null; url?: string | null; source?: string | null; transform?: string | null }): Promise<number>;
    /** Makes the version that is being rebuilt the live one, stops the old one, and returns the new version. Swap the view over the tables in the same transaction. The new version is first brought to where the old one is, if that is at most ten pages. Errors: OB012 the rebuild has not come far enough, OB001 no such projection, OB004 it is not being rebuilt, 25006 the transaction is read-only */
    switchProjection(args: { name: string }): Promise<number>;
    /** Returns the first position whose message is still stored, or head() + 1 when none is. read() starts there when after_position is 0 */
    tail(): Promise<number>;
    /** Gives positions to the messages that are committed now (at most 100000 of them), and returns the last position. The dispatcher does this by itself; call the function where there is no dispatcher. Not in a transaction block or function. Errors: 25001 in such a transaction, 25006 the transaction is read-only, 55000 the outbox was restored or copied here and is not adopted, 55P03 another session keeps the sequencer for 5 s */
    tick(): Promise<number>;
    /** Removes the events of a stream before a version, for good, and returns how many. Their positions stay empty, their waiting deliveries are cancelled, and the stream's versions go on. reason is stored in outbox.audit. Errors: OB001 there is no such stream, OB003 a worker has one of the events, OB006 the reason is empty, 22023 before_version is not between 1 and the version after the last one, 55P03 another transaction keeps the stream for 5 s */
    truncateStream(args: { stream: string; beforeVersion: number | bigint; reason?: string | null }): Promise<number>;
    /** Drops the capture of a table, which the caller must own. Returns false if there was none. Errors: 42501 the caller is not the owner, or the call is within a security-restricted operation */
    uncapture(args: { relation: string }): Promise<boolean>;
    /** Takes back every lease that was claimed at least older_than ago, even if the lease has not expired; subscription null: of all subscriptions. Leases that another session has locked are skipped. The attempt counts as failed, and the deliveries are due again at once, or dead letters after their last attempt. Returns the number of deliveries. Errors: 22023 older_than is null or negative, OB001 no such subscription */
    unlockStale(args: { olderThan: Interval; subscription?: string | null }): Promise<number>;
    /** Ends a subscription at the position of the control message whose id is returned. Messages that were not delivered by then are logged as skipped, with the reason unsubscribed. The row stays in outbox.subscription with deleted_at set. Errors: OB001 no such subscription */
    unsubscribe(args: { name: string }): Promise<number>;
    /** Returns the data of an event type as that of a later version. from_version: the version of the data (1). to_version null: as far as the upcasters go; data of a type without upcasters is returned as it is. Errors: 22023 to_version is before from_version, OB004 a version has no upcaster, 42883 an upcaster is gone or has another owner, 22004 an upcaster returned null, and those that an upcaster raises */
    upcast(args: { type: string; data: any; fromVersion?: number | null; toVersion?: number | null }): Promise<any>;
    /** Checks data against the schema of an event type. version null: the latest one. Errors: 22023 the data is not valid; the detail names the places that are wrong, at most five, and shows no value; OB001 there is no such schema */
    validateEvent(args: { type: string; data: any; version?: number | null }): Promise<void>;
    /** Returns the version of the installed objects (extension), and that of the library that is loaded */
    version(): Promise<VersionRow>;
    /** Returns the webhook id of a message, by which receivers deduplicate. It is the same for every attempt, restart, retry and replay (unless the replay asked for new ids) */
    webhookId(args: { messageId: number | bigint; enqueuedAt: Date | string }): Promise<string>;
    /** Returns the state of this database's dispatcher, how far it is, and its last error. state: not preloaded, none (there is no such process), starting, running, push off, copied or failing. in_flight: requests; queued and unrecorded: deliveries. idle: everything that was committed has been routed, sent and recorded. feed_end and routed: positions */
    workerStatus(): Promise<WorkerStatusRow[]>;
}
