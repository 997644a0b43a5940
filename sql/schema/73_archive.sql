-- The archive: what each message came to, with the result of every delivery; and the log of notifications, per message and
-- subscription. Both are derived from the routing rows and the log of attempts: nothing is written for them.

-- API: private
-- Last word of each subscription on a message: its ended deliveries with their last try.
create function outbox._send_results(message_id bigint) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(jsonb_agg(jsonb_build_object(
            'integration_id', coalesce(r.endpoint_id, r.subscription_id),
            'integration_name', coalesce(e.name, s.name),
            'subscription', s.name,
            'provider', coalesce(e.kind, 'pull'),
            'status', case r.outcome when 'completed' then 'success' else 'failed' end,
            'outcome', r.outcome,
            'message_id', r.response_id,
            'http_status', r.status,
            'error', r.error,
            'attempt', r.attempt,
            'sent_at', r.finished_at
        ) || coalesce(jsonb_build_object('results', r.results), '{}') order by r.finished_at), '[]')
    from (
        select distinct on (a.subscription_id) a.*
        from outbox._attempts_of(_send_results.message_id) a
        where a.run = 0 and a.outcome <> 'returned'
        -- a decision without a try says less than the try before it, unless it ended the delivery
        order by a.subscription_id, a.outcome = 'completed' desc, a.finished_at desc
    ) r
    left join outbox.subscription s on s.id = r.subscription_id
    left join outbox.endpoint e on e.id = r.endpoint_id;
end;

-- API: public
create type outbox.archive_entry as (
    id bigint,
    webhook_id text,
    tenant text,
    topic text,
    key text,
    aggregate_type text,
    aggregate_id text,
    publisher text,
    severity text,
    headers jsonb,
    metadata jsonb,
    payload jsonb,
    status text,
    integrations_total int,
    integrations_matched int,
    integrations_succeeded int,
    integrations_failed int,
    send_results jsonb,
    last_error text,
    retry_count int,
    created_at timestamptz,
    processed_at timestamptz
);
comment on type outbox.archive_entry is
    'What a message came to. status: completed (at least one delivery), failed (none, and at least one dead or expired), skipped (nothing matched)';

-- API: private
-- The entry of a message; null while something of it is open.
create function outbox._archived(message_id bigint) returns outbox.archive_entry
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    own outbox.message;
    found text := outbox._message_status(message_id);
    place bigint;
    entry outbox.archive_entry;
begin
    if found not in ('completed', 'dead', 'expired', 'skipped', 'cancelled') then
        return null;
    end if;
    select * into own from outbox.message m where m.id = _archived.message_id;
    entry.id := own.id;
    entry.webhook_id := outbox.webhook_id(own.id, own.enqueued_at);
    entry.tenant := own.tenant;
    entry.topic := own.topic;
    entry.key := own.key;
    entry.aggregate_type := own.aggregate_type;
    entry.aggregate_id := own.aggregate_id;
    entry.publisher := own.publisher;
    entry.severity := own.headers ->> 'severity';
    entry.headers := own.headers;
    entry.metadata := own.metadata;
    entry.payload := own.payload;
    entry.status := case found when 'completed' then 'completed' when 'skipped' then 'skipped' else 'failed' end;
    entry.created_at := own.enqueued_at;
    entry.send_results := outbox._send_results(message_id);
    select count(*) filter (where r ->> 'status' = 'success'), count(*) filter (where r ->> 'status' = 'failed'),
        coalesce(sum(greatest((r ->> 'attempt')::int - 1, 0)), 0), max((r ->> 'sent_at')::timestamptz),
        (array_agg(r ->> 'error' order by r ->> 'sent_at' desc) filter (where r ->> 'error' is not null))[1]
    into entry.integrations_succeeded, entry.integrations_failed, entry.retry_count, entry.processed_at, entry.last_error
    from jsonb_array_elements(entry.send_results) r;
    select a.position into place from outbox._attempts_of(_archived.message_id) a limit 1;
    place := coalesce(place, outbox._position_of(message_id));
    select r.active, greatest(r.matched[place - r.first_position + 1], 0), coalesce(entry.processed_at, r.routed_at)
    into entry.integrations_total, entry.integrations_matched, entry.processed_at
    from (
        select * from outbox.routing r where r.first_position <= place order by r.first_position desc limit 1
    ) r;
    return entry;
end
$$;

-- API: public
create function outbox.archive_get(message_id bigint) returns setof outbox.archive_entry
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    entry outbox.archive_entry;
begin
    if not exists (select from outbox.message m where m.id = archive_get.message_id) then
        raise exception 'message % does not exist', message_id
            using errcode = 'OB001', detail = 'It was never committed, or retention has removed it.';
    end if;
    entry := outbox._archived(message_id);
    if entry.id is null then
        raise exception 'message % has not come to its end', message_id
            using errcode = 'OB001', detail = format('It is %s.', outbox._message_status(message_id));
    end if;
    return next entry;
end
$$;
comment on function outbox.archive_get is 'What a message came to, with the result of each delivery; OB001: no such message, or it is still open';

-- API: public
create function outbox.archive_list(
    tenant text default null,
    status text default null,
    topic text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    endpoint text default null,
    max int default 50,
    before bigint default null
) returns setof outbox.archive_entry
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    only_of int := case when endpoint is not null then outbox._endpoint_id(endpoint) end;
    entry outbox.archive_entry;
    found_id bigint;
    returned int := 0;
begin
    if max is null or max not between 1 and 1000 then
        raise exception 'max must be between 1 and 1000' using errcode = 'invalid_parameter_value';
    end if;
    for found_id in
        select p from outbox._page(tenant, topic, aggregate_type, aggregate_id, null, before, 1000) p
    loop
        exit when returned >= max;
        continue when only_of is not null and not exists (
            select from outbox.attempt a where a.message_id = found_id and a.endpoint_id = only_of
        );
        entry := outbox._archived(found_id);
        continue when entry.id is null or entry.topic like 'outbox.%' or status is not null and entry.status <> status;
        returned := returned + 1;
        return next entry;
    end loop;
end
$$;
comment on function outbox.archive_list is
    'What messages came to, newest first, a page at a time: give the last id as before. Each page looks at up to'
    ' 1,000 messages of the tenant, the aggregate or all';

-- API: public
create function outbox.archive_stats(
    tenant text default null,
    out completed bigint,
    out failed bigint,
    out skipped bigint,
    out total bigint
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select count(*) filter (where s.status = 'completed'), count(*) filter (where s.status in ('dead', 'expired', 'cancelled')),
        count(*) filter (where s.status = 'skipped'),
        count(*) filter (where s.status in ('completed', 'dead', 'expired', 'cancelled', 'skipped'))
    from (
        select outbox._message_status(p) as status
        from outbox._page(archive_stats.tenant, null, null, null, null, null, 1000) p
    ) s;
end;
comment on function outbox.archive_stats is 'What the last 1,000 messages (of a tenant) came to';

-- API: public
create type outbox.notification_entry as (
    message_id bigint,
    subscription text,
    identifier text,
    topic_code text,
    subscriber text,
    subscriber_type text,
    delivery_method text,
    status text,
    skipped_reason text,
    attempt int,
    error text,
    sent_at timestamptz,
    created_at timestamptz
);
comment on type outbox.notification_entry is
    'A message and a subscription. identifier is the key; delivery_method webhook or pull; status pending, sent, failed, skipped (with the reason)';

-- API: public
create function outbox.notification_log(
    message_id bigint default null,
    tenant text default null,
    topic text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    max int default 50,
    before bigint default null
) returns setof outbox.notification_entry
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    found_id bigint;
    matched int;
begin
    for found_id in
        select message_id where message_id is not null
        union all
        select p from outbox._page(tenant, topic, aggregate_type, aggregate_id, null, before, max) p where message_id is null
    loop
        return query
        select m.id, d.subscription, m.key, m.topic, d.endpoint,
            (select e.subscriber_type from outbox.endpoint e where e.name = d.endpoint order by e.id desc limit 1),
            case when d.pull then 'pull' else 'webhook' end,
            case when d.status = 'completed' then 'sent' when d.status in ('pending', 'processing', 'failed') then 'pending'
                when d.status = 'cancelled' then 'skipped' else 'failed' end,
            case when d.status = 'cancelled' then 'cancelled' end,
            d.attempt, d.last_error, d.completed_at, m.enqueued_at
        from outbox.message m
        join outbox.deliveries d on d.message_id = m.id
        where m.id = found_id
        order by d.subscription;
        if not found then
            matched := outbox._matched(outbox._position_of(found_id));
            return query
            select m.id, null::text, m.key, m.topic, null::text, null::text, null::text,
                case when matched <= 0 then 'skipped' else 'pending' end,
                case matched when 0 then 'filtered' when -1 then 'no subscription on the topic' when -2 then 'filtered'
                    when -3 then 'control message' when -4 then 'not stored any more' end,
                0, null::text, null::timestamptz, m.enqueued_at
            from outbox.message m
            where m.id = found_id;
        end if;
    end loop;
end
$$;
comment on function outbox.notification_log is
    'What was sent to whom: of one message, or of the latest messages of a tenant, topic or aggregate, a page at a time (give the last message id as before)';

insert into outbox._capability values
    ('monitor', 'function outbox.archive_get'),
    ('monitor', 'function outbox.archive_list'),
    ('monitor', 'function outbox.archive_stats'),
    ('monitor', 'function outbox.notification_log');
