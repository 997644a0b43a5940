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
    priority smallint default 0,
    publisher text default null,
    max_attempts int default null,
    occurred_at timestamptz default null
) returns bigint
language c volatile
as 'MODULE_PATHNAME', 'outbox_enqueue';
