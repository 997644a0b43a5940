-- Typed ways to enqueue: notifications and business events. Thin: they build what enqueue() takes.

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
        raise exception 'unknown severity "%"', severity using errcode = 'invalid_parameter_value',
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
    'Enqueues a notification (title, body, severity, url) on the topic event_type; severity is also a header, for filters. '
    'severity: critical, high, medium, low, info, none';

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
    -- order.created.v3 says its version itself
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
    'Enqueues a business event on the topic event_type; version, correlation id and privacy flags go to the reserved metadata keys';

insert into outbox._capability values
    ('publish', 'function outbox.enqueue_notification'),
    ('publish', 'function outbox.enqueue_event');
