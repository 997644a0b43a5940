-- Reads of messages: one by id, lists page by page, counts.

-- API: public
create function outbox.get_message(message_id bigint) returns setof outbox.message_status
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query select * from outbox.message_status m where m.message_id = get_message.message_id;
    if not found then
        raise exception 'message % does not exist', message_id
            using errcode = 'OB001', detail = 'It was never committed, or retention has removed it.';
    end if;
end
$$;
comment on function outbox.get_message is
    'Returns one message with its state. Errors: OB001 no such message, or retention has removed it';

-- API: private
-- Returns a page of messages, newest first. An aggregate or a tenant is found by its index; otherwise messages are read by
-- id. Events are not among them, see streams() and read_events(). Conditions without an index (topic, severity) are checked
-- for at most 10,000 messages. lowest: the last message that
-- was looked at. more: there may be more messages below it.
create function outbox_internal.page(
    tenant text,
    topic text,
    aggregate_type text,
    aggregate_id text,
    severity text,
    before bigint,
    max int,
    out ids bigint[],
    out lowest bigint,
    out more boolean
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- Each query has an index that gives the order. The generic plan is kept because planning 16 leaves costs more than reading
-- them.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_variable
declare
    filtered boolean := topic is not null or severity is not null or aggregate_id is null and aggregate_type is not null
        or aggregate_id is not null and tenant is not null;
    look int := case when filtered then 10000 else max end;
    looked_at int := 0;
    messages refcursor;
    candidate record;
begin
    if max is null or max not between 1 and 1000 then
        raise exception 'max must be between 1 and 1000' using errcode = 'invalid_parameter_value';
    end if;
    before := coalesce(before, outbox_internal.max_bigint());
    if aggregate_id is not null and aggregate_type is not null then
        open messages no scroll for
            select m.id, m.topic, m.tenant, m.headers, m.aggregate_type from outbox.message m
            where m.aggregate_id = aggregate_id and m.aggregate_type = aggregate_type and m.id < before and m.segment >= -1
            order by m.id desc limit look;
    elsif aggregate_id is not null then
        open messages no scroll for
            select m.id, m.topic, m.tenant, m.headers, m.aggregate_type from outbox.message m
            where m.aggregate_id = aggregate_id and m.aggregate_type is null and m.id < before and m.segment >= -1
            order by m.id desc limit look;
    elsif tenant is not null then
        open messages no scroll for
            select m.id, m.topic, m.tenant, m.headers, m.aggregate_type from outbox.message m
            where m.tenant = tenant and m.id < before and m.segment >= -1
            order by m.id desc limit look;
    else
        open messages no scroll for
            select m.id, m.topic, m.tenant, m.headers, m.aggregate_type from outbox.message m
            where m.id < before and m.segment >= -1
            order by m.id desc limit look;
    end if;
    ids := '{}';
    loop
        fetch messages into candidate;
        exit when not found;
        looked_at := looked_at + 1;
        lowest := candidate.id;
        if (topic is null or candidate.topic = topic) and (severity is null or candidate.headers ->> 'severity' = severity)
            and (tenant is null or candidate.tenant = tenant)
            and (aggregate_type is null or candidate.aggregate_type = aggregate_type) then
            ids := ids || candidate.id;
            exit when cardinality(ids) = max;
        end if;
    end loop;
    close messages;
    more := cardinality(ids) = max or looked_at = look;
end
$$;

-- API: public
create function outbox.list_messages(
    tenant text default null,
    state text default null,
    topic text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    severity text default null,
    max_messages int default 50,
    before bigint default null,
    skip int default 0
) returns setof outbox.message_status
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_variable
declare
    look constant int := 10000;
    wanted int := max_messages + coalesce(skip, 0);
    at bigint := coalesce(before, outbox_internal.max_bigint());
    found_ids bigint[] := '{}';
    page record;
    looked_at int := 0;
    unfinished bigint;
    nothing outbox.message_status;
begin
    if max_messages is null or max_messages not between 1 and 1000 then
        raise exception 'max_messages must be between 1 and 1000' using errcode = 'invalid_parameter_value';
    end if;
    if skip not between 0 and 10000 then
        raise exception 'skip must be between 0 and 10000' using errcode = 'invalid_parameter_value',
            hint = 'For pages further on, pass the last id of a page as before.';
    end if;
    if state not in ('pending', 'processing', 'failed', 'completed', 'dead', 'expired', 'cancelled', 'skipped') then
        raise exception 'unknown state "%"', left(state, 100) using errcode = 'invalid_parameter_value',
            hint = 'pending, processing, failed, completed, dead, expired, cancelled or skipped.';
    end if;
    if state is null then
        select * into page
        from outbox_internal.page(tenant, topic, aggregate_type, aggregate_id, severity, before, least(wanted, 1000));
        found_ids := page.ids;
        unfinished := case when page.more then page.lowest end;
    elsif state in ('pending', 'processing', 'failed', 'dead', 'expired') then
        -- A delivery in such a state has a row, unless it is being sent right now.
        found_ids := array(
            select distinct w.message_id
            from (
                (select d.message_id, d.message_segment from outbox._open d
                where d.state = state and d.message_id < at
                order by d.message_id desc limit look)
                union all
                (select l.message_id, l.message_segment from outbox.dead_letter l
                where l.state = state and l.resolution <> 'requeued' and l.message_id < at
                order by l.message_id desc limit look)
            ) w
            join outbox.message m on m.segment = w.message_segment and m.id = w.message_id
            where (tenant is null or m.tenant = tenant) and (topic is null or m.topic = topic)
                and (aggregate_type is null or m.aggregate_type = aggregate_type)
                and (aggregate_id is null or m.aggregate_id = aggregate_id)
                and (severity is null or m.headers ->> 'severity' = severity)
            order by w.message_id desc
            limit wanted
        );
        if cardinality(found_ids) < wanted then
            select max(w.message_id) into unfinished
            from (
                (select d.message_id from outbox._open d
                where d.state = state and d.message_id < at
                order by d.message_id desc limit 1 offset look - 1)
                union all
                (select l.message_id from outbox.dead_letter l
                where l.state = state and l.resolution <> 'requeued' and l.message_id < at
                order by l.message_id desc limit 1 offset look - 1)
            ) w;
        end if;
    else
        -- The final status is known from the attempt log.
        while cardinality(found_ids) < wanted and looked_at < 1000 loop
            select * into page
            from outbox_internal.page(tenant, topic, aggregate_type, aggregate_id, severity, coalesce(unfinished, before),
                200);
            looked_at := looked_at + 200;
            found_ids := found_ids || array(
                select s.message_id from outbox_internal.states(page.ids) s where s.status = state order by s.message_id desc
            );
            unfinished := case when page.more then page.lowest end;
            exit when unfinished is null;
        end loop;
    end if;
    return query
    select v.message_id, v.webhook_id, s.status, v.topic, v.key, v.tenant, v.aggregate_type, v.aggregate_id, v.publisher,
        v.priority, v.enqueued_at, v.occurred_at, v.deliver_at, v.expires_at, v.max_attempts, v.idempotency_key,
        v.content_type, v.headers, v.metadata, v.correlation_id, v.causation_id, v.user_id, v.traceparent, v.tracestate,
        v.schema_version, v.privacy, v.severity, v.payload, v.body
    from outbox_internal.states(found_ids[coalesce(skip, 0) + 1 : wanted]) s
    join outbox.message_status v on v.message_id = s.message_id
    order by s.message_id desc;
    if unfinished is not null and cardinality(found_ids) < wanted then
        -- A row without a message says where to continue.
        nothing.message_id := unfinished;
        return next nothing;
    end if;
end
$$;
comment on function outbox.list_messages is
    'Returns messages, newest first, up to max_messages (default 50; 1 to 1000) in a page. Pass the last id of a page as before to '
    'get the next one; skip (0 to 10000) leaves out the first ones. Tenant and aggregate use an index, and status pending, '
    'processing, failed, dead or expired uses the deliveries. In a page, topic and severity are checked for at most 10,000 '
    'messages, and status completed, cancelled or skipped for at most 1,000. If a page ends there, its last row has no '
    'topic, and only the id to continue with. Errors: 22023 max_messages or skip is out of range, or status is unknown';

-- API: public
create function outbox.count_messages(
    tenant text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    topic text default null
) returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select count(*) from (
        select m.topic from outbox.message m
        where m.segment >= -1 and (count_messages.tenant is null or m.tenant = count_messages.tenant)
            and (count_messages.aggregate_type is null or m.aggregate_type = count_messages.aggregate_type)
            and (count_messages.aggregate_id is null or m.aggregate_id = count_messages.aggregate_id)
            and (count_messages.topic is null or m.topic = count_messages.topic)
        limit 10000
    ) m;
end;
comment on function outbox.count_messages is
    'Returns the number of messages (of a tenant, an aggregate, a topic; null: of all). 10,000 means at least 10,000';

-- API: public
create function outbox.count_by_state(tenant text default null) returns table (state text, deliveries bigint)
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select c.state, sum(c.n)::bigint
    from (
        select d.state, count(*) as n
        from outbox._open d
        where count_by_state.tenant is null or exists (
            select from outbox.message m
            where m.segment = d.message_segment and m.id = d.message_id and m.tenant = count_by_state.tenant
        )
        group by d.state
        union all
        select l.state, count(*)
        from outbox.dead_letter l
        where l.resolution <> 'requeued' and count_by_state.tenant is null
        group by l.state
        union all
        select l.state, count(*)
        from outbox.dead_letter l
        where l.resolution <> 'requeued' and count_by_state.tenant is not null and exists (
            select from outbox.message m
            where m.segment = l.message_segment and m.id = l.message_id and m.tenant = count_by_state.tenant
        )
        group by l.state
        union all
        select t.outcome, sum(t.deliveries)
        from (
            select c.outcome, c.deliveries from outbox.counter_total c
            union all
            select c.outcome, c.deliveries from outbox.counter c
        ) t
        where count_by_state.tenant is null and t.outcome in ('completed', 'cancelled')
        group by t.outcome
        union all
        select a.outcome, count(*)
        from outbox.message m
        join outbox.attempt_log a on a.message_id = m.id and a.run = 0 and a.outcome in ('completed', 'cancelled')
        where count_by_state.tenant is not null and m.tenant = count_by_state.tenant
        group by a.outcome
    ) c
    group by c.state
    order by c.state;
end;
comment on function outbox.count_by_state is
    'Returns the number of deliveries in each state. For all tenants (null), completed and cancelled are counted since the '
    'beginning, from counters. For one tenant they are counted among the messages that are still stored, which takes '
    'longer the more messages that tenant has';

-- The entry is made here, before other objects depend on the function.
call outbox_internal.make_entry('outbox.count_by_state');

insert into outbox._capability values
    ('monitor', 'function outbox.get_message'),
    ('monitor', 'function outbox.list_messages'),
    ('monitor', 'function outbox.count_messages'),
    ('monitor', 'function outbox.count_by_state');
