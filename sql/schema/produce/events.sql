-- Notifications and business events: functions with typed parameters that build the arguments of enqueue().

-- API: public
create function outbox.enqueue_notification(
    tenant text,
    event_type text,
    title text,
    body text default '',
    severity text default 'info',
    url text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    metadata jsonb default null,
    max_attempts int default null,
    scheduled_at timestamptz default null,
    key text default null,
    idempotency_key text default null,
    publisher text default null
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    level text := lower(coalesce(severity, 'info'));
begin
    if event_type is null then
        raise exception 'event_type must not be null' using errcode = 'null_value_not_allowed';
    end if;
    if title is null or title = '' then
        raise exception 'title must not be null or empty' using errcode = 'invalid_parameter_value';
    end if;
    if level not in ('critical', 'high', 'medium', 'low', 'info', 'none') then
        raise exception 'unknown severity "%"', left(severity, 100) using errcode = 'invalid_parameter_value',
            hint = 'The severities are critical, high, medium, low, info and none.';
    end if;
    if metadata is not null and jsonb_typeof(metadata) <> 'object' then
        raise exception 'metadata is not a JSON object' using errcode = 'invalid_parameter_value';
    end if;
    return outbox.enqueue(
        topic => event_type,
        payload => jsonb_build_object('event_type', event_type, 'title', title, 'body', coalesce(body, ''),
            'severity', level, 'metadata', coalesce(metadata, '{}'))
            || jsonb_strip_nulls(jsonb_build_object('tenant', tenant, 'url', url, 'aggregate_type', aggregate_type,
                'aggregate_id', aggregate_id)),
        key => coalesce(key, aggregate_id),
        headers => jsonb_build_object('severity', level),
        metadata => metadata,
        tenant => tenant,
        aggregate_type => aggregate_type,
        aggregate_id => aggregate_id,
        idempotency_key => idempotency_key,
        deliver_at => scheduled_at,
        publisher => publisher,
        max_attempts => max_attempts
    );
end
$$;
comment on function outbox.enqueue_notification is
    'Enqueues a notification on the topic event_type and returns the message id. The payload is a JSON object {event_type, '
    'title, body, severity, metadata, tenant, url, aggregate_type, aggregate_id}. severity (critical, high, medium, low, '
    'info, none; default info) is also a header, by which subscriptions can filter. key: default aggregate_id. '
    'scheduled_at: not delivered before. Errors: 22004 event_type is null, 22023 title is empty, the severity is unknown '
    'or metadata is not a JSON object, and those of enqueue()';

-- API: public
create function outbox.enqueue_event(
    tenant text,
    event_type text,
    payload jsonb,
    aggregate_type text default null,
    aggregate_id text default null,
    event_version int default null,
    metadata jsonb default null,
    idempotency_key text default null,
    correlation_id text default null,
    pii boolean default false,
    pii_fields text[] default null,
    consent jsonb default null,
    producer text default null,
    scheduled_for timestamptz default null,
    occurred_at timestamptz default null,
    key text default null,
    headers jsonb default null
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- a topic such as order.created.v3 contains the version
    version int := coalesce(event_version, substring(event_type from '[.]v([0-9]{1,6})$')::int);
begin
    if event_type is null then
        raise exception 'event_type must not be null' using errcode = 'null_value_not_allowed';
    end if;
    if version <= 0 then
        raise exception 'event_version must be above 0' using errcode = 'invalid_parameter_value';
    end if;
    if metadata is not null and jsonb_typeof(metadata) <> 'object' then
        raise exception 'metadata is not a JSON object' using errcode = 'invalid_parameter_value';
    end if;
    return outbox.enqueue(
        topic => event_type,
        payload => payload,
        key => coalesce(key, aggregate_id),
        headers => headers,
        metadata => coalesce(metadata, '{}')
            || jsonb_strip_nulls(jsonb_build_object('schema_version', version, 'correlation_id', correlation_id))
            || case
                when pii or pii_fields is not null or consent is not null then
                    jsonb_build_object('privacy', jsonb_build_object('pii', coalesce(pii, false) or pii_fields is not null)
                        || case when pii_fields is null then '{}' else jsonb_build_object('fields', to_jsonb(pii_fields)) end
                        || case when consent is null then '{}' else jsonb_build_object('consent', consent) end)
                else '{}'
            end,
        tenant => tenant,
        aggregate_type => aggregate_type,
        aggregate_id => aggregate_id,
        idempotency_key => idempotency_key,
        deliver_at => scheduled_for,
        publisher => producer,
        occurred_at => occurred_at
    );
end
$$;
comment on function outbox.enqueue_event is
    'Enqueues a business event on the topic event_type and returns the message id. key: default aggregate_id. '
    'event_version (default: the number of a topic that ends like order.created.v3), correlation_id, and the privacy flags '
    '(pii, pii_fields, consent) are stored in the reserved metadata keys schema_version, correlation_id and privacy. '
    'producer: the publisher. scheduled_for: not delivered before. Errors: 22004 event_type is null, 22023 event_version '
    'is below 1 or metadata is not a JSON object, and those of enqueue()';

insert into outbox._capability values
    ('publish', 'function outbox.enqueue_notification'),
    ('publish', 'function outbox.enqueue_event');
