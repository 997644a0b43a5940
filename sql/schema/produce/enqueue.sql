-- Producing: everything here writes rows in the caller's own transaction and does nothing else.

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
    'Adds a message to the outbox in the current transaction and returns its id; it is delivered if and only if the transaction commits';

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
    'Like enqueue, for bytes or text that are stored, signed and sent unchanged';

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
    'Like enqueue, for many payloads at once; keys has one entry per payload, everything else holds for all; returns the ids in order';

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
    'Sets tenant, publisher and metadata of the messages that this transaction enqueues from now on; arguments of enqueue win';

-- API: public
create function outbox.webhook_id(message_id bigint, enqueued_at timestamptz) returns text
language c immutable strict parallel safe
as 'MODULE_PATHNAME', 'outbox_webhook_id';
comment on function outbox.webhook_id is
    'What a receiver deduplicates by: the same on every attempt, restart, retry and replay of a message';

insert into outbox._capability values
    ('publish', 'function outbox.enqueue'),
    ('publish', 'function outbox.enqueue_bytes'),
    ('publish', 'function outbox.enqueue_many'),
    ('publish', 'function outbox.set_context'),
    ('monitor', 'function outbox.webhook_id'),
    ('consume', 'function outbox.webhook_id');
