-- Producing: the functions of this file write rows in the caller's own transaction, and do nothing else.

-- API: public
create function outbox.enqueue(
    topic text,
    payload jsonb,
    key text default null,
    headers jsonb default null,
    metadata jsonb default null,
    tenant text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    idempotency_key text default null,
    deliver_at timestamptz default null,
    expires_at timestamptz default null,
    priority int default 0,
    publisher text default null,
    max_attempts int default null,
    occurred_at timestamptz default null
) returns bigint
language c volatile
as 'MODULE_PATHNAME', 'outbox_enqueue';
comment on function outbox.enqueue is
    'Adds a message to the outbox in the current transaction and returns its id. The message is delivered if and only if '
    'the transaction commits. topic: dot-separated words, at most 255 bytes. payload: at most pg_outbox.max_payload (256 '
    'kB by default). key: ordering key. headers and metadata: JSON objects. deliver_at: not delivered before (null: at '
    'once); expires_at: not delivered after (null: never). priority: -100 to 100, higher goes first. max_attempts: null '
    'leaves it to the subscription. occurred_at: null means now. idempotency_key: a second call with the same key, tenant, '
    'topic and content returns the id of the first. Errors: 22004 topic or payload is null, 22023 a value is malformed, '
    '54000 a value is too large, OB001 the topic or publisher has to be registered and is not, OB007 it is inactive, OB008 '
    'the idempotency key was used with another content, 42501 the caller''s capability does not allow it, 55000 this '
    'outbox is a copy that logical replication writes, 25006 the transaction is read-only';

-- API: public
create function outbox.enqueue_bytes(
    topic text,
    body bytea,
    content_type text default 'application/octet-stream',
    key text default null,
    headers jsonb default null,
    metadata jsonb default null,
    tenant text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    idempotency_key text default null,
    deliver_at timestamptz default null,
    expires_at timestamptz default null,
    priority int default 0,
    publisher text default null,
    max_attempts int default null,
    occurred_at timestamptz default null
) returns bigint
language c volatile
as 'MODULE_PATHNAME', 'outbox_enqueue_bytes';
comment on function outbox.enqueue_bytes is
    'Like enqueue(), for a body of bytes or text, which is stored, signed and sent unchanged. content_type: its media type '
    '(default application/octet-stream). Errors are those of enqueue()';

-- API: public
create function outbox.enqueue_many(
    topic text,
    payloads jsonb[],
    keys text[] default null,
    headers jsonb default null,
    metadata jsonb default null,
    tenant text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    idempotency_key text default null,
    deliver_at timestamptz default null,
    expires_at timestamptz default null,
    priority int default 0,
    publisher text default null,
    max_attempts int default null,
    occurred_at timestamptz default null
) returns bigint[]
language c volatile
as 'MODULE_PATHNAME', 'outbox_enqueue_many';
comment on function outbox.enqueue_many is
    'Like enqueue(), for many payloads at once. keys has one entry per payload (null: no keys); all other arguments hold '
    'for every message. Returns the ids in the order of the payloads. An idempotency_key names the whole call. Errors are '
    'those of enqueue(), and 22023 when payloads and keys have different lengths';

-- API: public
create function outbox.set_context(
    correlation_id text default null,
    causation_id text default null,
    user_id text default null,
    traceparent text default null,
    tracestate text default null,
    tenant text default null,
    publisher text default null,
    metadata jsonb default null
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if metadata is not null and jsonb_typeof(metadata) <> 'object' then
        raise exception 'metadata is not a JSON object' using errcode = 'invalid_parameter_value';
    end if;
    perform set_config('pg_outbox.context', jsonb_strip_nulls(jsonb_build_object(
        'tenant', tenant,
        'publisher', publisher,
        'metadata', coalesce(metadata, '{}') || jsonb_strip_nulls(jsonb_build_object(
            'correlation_id', correlation_id,
            'causation_id', causation_id,
            'user_id', user_id,
            'traceparent', traceparent,
            'tracestate', tracestate
        ))
    ))::text, true);
end
$$;
comment on function outbox.set_context is
    'Sets tenant, publisher and metadata for the messages that this transaction enqueues after the call; it replaces an '
    'earlier context. Arguments of enqueue() take precedence. correlation_id, causation_id, user_id, traceparent and '
    'tracestate become keys of the metadata. Actions of operators in the transaction are recorded in outbox.audit with user_id '
    'as the person. Errors: 22023 metadata is not a JSON object';

-- API: public
create function outbox.webhook_id(message_id bigint, enqueued_at timestamptz) returns text
language c immutable strict parallel safe
as 'MODULE_PATHNAME', 'outbox_webhook_id';
comment on function outbox.webhook_id is
    'Returns the webhook id of a message, by which receivers deduplicate. It is the same for every attempt, restart, retry '
    'and replay (unless the replay asked for new ids)';

insert into outbox._capability values
    ('publish', 'function outbox.enqueue'),
    ('publish', 'function outbox.enqueue_bytes'),
    ('publish', 'function outbox.enqueue_many'),
    ('publish', 'function outbox.set_context'),
    ('admin', 'function outbox.set_context'),
    ('monitor', 'function outbox.webhook_id'),
    ('consume', 'function outbox.webhook_id');
