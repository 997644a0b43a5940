-- The archive: the final status of each message, with the result of every delivery. It is derived from the routing rows and
-- the attempt log; nothing is written for it.

-- API: private
-- The final result of each subscription for a message: its ended deliveries, with their last attempt.
create function outbox_internal.send_results(message_id bigint) returns jsonb
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
        from outbox_internal.attempts_of(send_results.message_id) a
        where a.run = 0 and a.outcome <> 'returned'
        -- a completed attempt takes precedence; otherwise the last entry
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
    'The final status of a message. status: completed (at least one delivery completed), failed (none, and at least one is '
    'dead, expired or cancelled), skipped (nothing matched). integrations_total: subscriptions that were active; '
    'integrations_matched: those that matched; integrations_succeeded and integrations_failed: results. send_results: a '
    'JSON array with one object per subscription. retry_count: attempts after the first ones';

-- API: private
-- The archive's status for the status of a message; null while a delivery of the message is open.
create function outbox_internal.archive_status(status text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
return case when status in ('completed', 'skipped') then status
    when status in ('dead', 'expired', 'cancelled') then 'failed' end;

-- API: private
-- The entry of a message without open deliveries. status: the archive's status; place: the position of the message.
create function outbox_internal.archived(message_id bigint, status text, place bigint) returns outbox.archive_entry
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    own outbox.message;
    entry outbox.archive_entry;
begin
    select * into own from outbox.message m where m.id = archived.message_id;
    entry.id := own.id;
    entry.webhook_id := outbox.webhook_id(own.id, own.enqueued_at);
    entry.tenant := own.tenant;
    entry.topic := own.topic;
    entry.key := own.key;
    entry.aggregate_type := case when own.segment = -2 then outbox.category(own.key) else own.aggregate_type end;
    entry.aggregate_id := case when own.segment = -2 then outbox.stream_key(own.key) else own.aggregate_id end;
    entry.publisher := own.publisher;
    entry.severity := own.headers ->> 'severity';
    entry.headers := own.headers;
    entry.metadata := own.metadata;
    entry.payload := own.payload;
    entry.status := archived.status;
    entry.created_at := own.enqueued_at;
    entry.send_results := outbox_internal.send_results(message_id);
    select count(*) filter (where r ->> 'status' = 'success'), count(*) filter (where r ->> 'status' = 'failed'),
        coalesce(sum(greatest((r ->> 'attempt')::int - 1, 0)), 0), max((r ->> 'sent_at')::timestamptz),
        (array_agg(r ->> 'error' order by r ->> 'sent_at' desc) filter (where r ->> 'error' is not null))[1]
    into entry.integrations_succeeded, entry.integrations_failed, entry.retry_count, entry.processed_at, entry.last_error
    from jsonb_array_elements(entry.send_results) r;
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
    state record;
begin
    if not exists (select from outbox.message m where m.id = archive_get.message_id) then
        raise exception 'message % does not exist', message_id
            using errcode = 'OB001', detail = 'It was never committed, or retention has removed it.';
    end if;
    select * into state from outbox_internal.states(array[message_id]);
    if outbox_internal.archive_status(state.status) is null then
        raise exception 'message % still has deliveries that have not ended', message_id
            using errcode = 'OB001', detail = format('It is %s.', state.status);
    end if;
    return next outbox_internal.archived(message_id, outbox_internal.archive_status(state.status), state.position);
end
$$;
comment on function outbox.archive_get is
    'Returns the final status of a message, with the result of each delivery. Errors: OB001 no such message, or a delivery '
    'of it is still open';

-- API: public
create function outbox.archive_list(
    tenant text default null,
    status text default null,
    topic text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    endpoint text default null,
    max_rows int default 50,
    before bigint default null
) returns setof outbox.archive_entry
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    only_of int := case when endpoint is not null then outbox_internal.endpoint_id(endpoint) end;
    look constant int := case when endpoint is null then 1000 else 10000 end;
    chunk constant int := case when status is null and endpoint is null then max_rows else 200 end;
    looked_at int := 0;
    returned int := 0;
    page record;
    state record;
    entry outbox.archive_entry;
    unfinished bigint := before;
begin
    if max_rows is null or max_rows not between 1 and 1000 then
        raise exception 'max_rows must be between 1 and 1000' using errcode = 'invalid_parameter_value';
    end if;
    if status not in ('completed', 'failed', 'skipped') then
        raise exception 'unknown status "%"', left(status, 100) using errcode = 'invalid_parameter_value',
            hint = 'completed, failed or skipped.';
    end if;
    loop
        select * into page from outbox_internal.page(tenant, topic, aggregate_type, aggregate_id, null, unfinished, chunk);
        looked_at := looked_at + chunk;
        unfinished := case when page.more then page.lowest end;
        for state in
            select s.message_id, outbox_internal.archive_status(s.status) as status, s.position
            from outbox_internal.states(page.ids) s
            where outbox_internal.archive_status(s.status) is not null
                and (status is null or outbox_internal.archive_status(s.status) = status)
                and (only_of is null or only_of = any (s.endpoints))
            order by s.message_id desc
        loop
            entry := outbox_internal.archived(state.message_id, state.status, state.position);
            continue when entry.id is null or entry.topic like 'outbox.%';
            return next entry;
            returned := returned + 1;
            if returned = max_rows then
                return;
            end if;
        end loop;
        exit when unfinished is null or looked_at >= look;
    end loop;
    if unfinished is not null then
        -- A row without a message says where to continue.
        entry := null;
        entry.id := unfinished;
        return next entry;
    end if;
end
$$;
comment on function outbox.archive_list is
    'Returns entries of the archive, newest first, up to max_rows (default 50; 1 to 1000) in a page. Pass the last id of a page '
    'as before to get the next one. status: completed, failed or skipped. A page looks at up to 1,000 messages of the '
    'tenant or aggregate (or of all), and with endpoint at up to 10,000. If it ends there, its last row has no status, and '
    'only the id to continue with. Errors: 22023 max_rows is out of range or status is unknown, OB001 no such endpoint';

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
    from outbox_internal.page(archive_stats.tenant, null, null, null, null, null, 1000) p
    cross join lateral outbox_internal.states(p.ids) s;
end;
comment on function outbox.archive_stats is
    'Returns how many of the last 1,000 messages (of a tenant; null: of all) have completed, failed (dead, expired or '
    'cancelled) or were skipped. total: the sum';

insert into outbox._capability values
    ('monitor', 'function outbox.archive_get'),
    ('monitor', 'function outbox.archive_list'),
    ('monitor', 'function outbox.archive_stats');
