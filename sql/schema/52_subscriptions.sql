-- Subscriptions: who gets what.
--
-- A change to a subscription writes an immutable version and a control message in one transaction, and takes effect at that
-- message's position: whoever routes a message later, live, after a crash or in a replay, finds the same version.

-- API: private
-- Refuses settings that nothing could be done with.
create function outbox._check_subscription(candidate outbox.subscription) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    wrong record;
begin
    perform outbox._check_name('subscription', candidate.name);
    select * into wrong
    from (values
        ('max_attempts', candidate.max_attempts::text, candidate.max_attempts >= 1, 'It counts the first try: at least 1.'),
        ('max_age', candidate.max_age::text, coalesce(outbox._is_duration(candidate.max_age), true), 'It is above 0 and at most 100 years.'),
        ('format', candidate.format,
            candidate.format in ('raw', 'envelope', 'cloudevents', 'cloudevents_structured', 'pubsub'),
            'It is raw, envelope, cloudevents, cloudevents_structured or pubsub.'),
        ('batch_size', candidate.batch_size::text, candidate.batch_size between 1 and 1000, 'It is between 1 and 1000.'),
        ('batch_wait', candidate.batch_wait::text, candidate.batch_wait between interval '0' and interval '60 s',
            'It is between 0 and 60 seconds.'),
        ('ordering', candidate.ordering, candidate.ordering in ('none', 'key', 'strict'), 'It is none, key or strict.'),
        ('on_exhausted', candidate.on_exhausted, candidate.on_exhausted in ('skip', 'block'), 'It is skip or block.'),
        ('ttl', candidate.ttl::text, coalesce(outbox._is_duration(candidate.ttl), true), 'It is above 0 and at most 100 years.'),
        ('deadline', candidate.deadline::text, coalesce(outbox._is_duration(candidate.deadline), true), 'It is above 0 and at most 100 years.'),
        ('notify', candidate.notify::text, candidate.notify is not null, 'It is true or false.'),
        ('max_lag', candidate.max_lag::text, coalesce(outbox._is_duration(candidate.max_lag), true), 'It is above 0 and at most 100 years.'),
        ('labels', candidate.labels::text, jsonb_typeof(candidate.labels) = 'object', 'It is a JSON object.')
    ) c(setting, given, fine, hint)
    where fine is not true
    limit 1;
    if found then
        raise exception 'invalid %', wrong.setting using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(wrong.given, 'null')), hint = wrong.hint;
    end if;
    perform outbox._check_schedule(candidate.schedule);
    perform outbox._check_policy(candidate.policy);
    if octet_length(candidate.external_id) > 255 then
        raise exception 'external_id is too large' using errcode = 'program_limit_exceeded',
            detail = format('It has %s bytes; the limit is 255.', octet_length(candidate.external_id));
    end if;
end
$$;

-- API: private
create function outbox._check_routes(topics text[], filter jsonb) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if topics is null or cardinality(topics) = 0 or array_position(topics, null) is not null then
        raise exception 'topics must not be null or empty' using errcode = 'null_value_not_allowed',
            hint = 'The pattern "#" matches every topic that is published.';
    end if;
    perform outbox._check_patterns(topics);
    perform outbox._check_filter(filter);
    if filter ? 'payload' then
        begin
            perform (filter ->> 'payload')::jsonpath;
        exception when syntax_error or invalid_text_representation or data_exception then
            raise exception 'invalid filter: "payload" is not an SQL/JSON path' using errcode = 'invalid_parameter_value',
                detail = sqlerrm, hint = E'Such as "$.amount > 100" or "$.items[*] ? (@.sku == \\"A1\\")".';
        end;
    end if;
end
$$;

-- API: private
-- Whether a payload passes the SQL/JSON path of a filter: its first item is neither false nor null. So a predicate
-- ("$.amount > 100") and a filter expression ("$.items[*] ? (@.qty > 10)") both say what one expects.
-- Without settings of its own, so that the planner inlines it where many messages are asked about.
create function outbox._path_holds(payload jsonb, path jsonpath) returns boolean
language sql immutable parallel safe
return coalesce(jsonb_path_query_first(payload, path, '{}', true) not in ('false', 'null'), false);

-- API: private
-- Which glob, name or value of a filter refuses a message; null: it passes all but the payload's path.
create function outbox._refused_by(
    filter jsonb,
    tenant text,
    key text,
    aggregate_type text,
    aggregate_id text,
    headers jsonb
) returns text
language sql stable
set search_path = pg_catalog, pg_temp
return (
    select string_agg(f.key, ', ' order by f.key)
    from jsonb_each(coalesce(filter, '{}')) f
    where f.key <> 'payload'
        and not outbox._matches(null, jsonb_build_object(f.key, f.value), 'any', tenant, _refused_by.key, aggregate_type,
            aggregate_id, headers)
);

-- API: private
-- The first position that was numbered at or after a time. The feed's rows ascend in both.
create function outbox._position_at(at timestamptz) returns bigint
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    low bigint := outbox._tail();
    high bigint := outbox.head() + 1;
    middle bigint;
    seen record;
begin
    while low < high loop
        middle := (low + high) / 2;
        select f.ticked_at, f.last_position into seen
        from outbox.feed f where f.first_position <= middle order by f.first_position desc limit 1;
        if seen.ticked_at >= at then
            high := middle;
        else
            low := greatest(middle, coalesce(seen.last_position, middle)) + 1;
        end if;
    end loop;
    return high;
end
$$;

-- API: private
-- What `start` means: null for latest, else the position behind which a subscription begins.
create function outbox._start(start text) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted bigint;
begin
    if start is null or start = 'latest' then
        return null;
    end if;
    perform outbox._hold_history();
    if start = 'earliest' then
        return outbox._tail() - 1;
    elsif start ~ '^[0-9]{1,18}$' then
        wanted := start::bigint;
        if wanted < outbox._tail() then
            raise exception 'position % is no longer stored', wanted using errcode = 'OB009',
                detail = format('The first one that is stored is %s.', outbox._tail()), hint = 'Start at "earliest".';
        end if;
        if wanted > outbox.head() + 1 then
            raise exception 'position % does not exist yet', wanted using errcode = 'OB009',
                detail = format('The feed ends at %s.', outbox.head()), hint = 'Start at "latest".';
        end if;
        return wanted - 1;
    end if;
    return outbox._position_at(start::timestamptz) - 1;
exception when invalid_datetime_format or datetime_field_overflow then
    raise exception 'invalid start "%"', start using errcode = 'invalid_parameter_value',
        hint = 'It is latest, earliest, a position (the first to be delivered) or a time.';
end
$$;

-- API: private
-- Writes the next version of a subscription and its control message; the caller has locked the subscription's row.
create function outbox._next_version(
    subscription_id int,
    name text,
    active boolean,
    topics text[],
    filter jsonb,
    starts_after bigint
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    next int;
    control bigint;
begin
    select coalesce(max(v.version), 0) + 1 into next
    from outbox.subscription_version v where v.subscription_id = _next_version.subscription_id;
    control := outbox._enqueue_own('outbox.control',
        jsonb_build_object('subscription', subscription_id, 'name', name, 'version', next));
    insert into outbox.subscription_version (subscription_id, version, control_message_id, active, topics, filter,
        starts_after)
    values (subscription_id, next, control, active, topics, filter, starts_after);
    return control;
end
$$;

-- API: public
create function outbox.subscribe(
    name text,
    topics text[],
    endpoint text default null,
    filter jsonb default null,
    max_attempts int default 12,
    max_age interval default null,
    schedule jsonb default null,
    policy jsonb default null,
    format text default 'raw',
    batch_size int default 1,
    batch_wait interval default '0',
    ordering text default 'none',
    on_exhausted text default 'skip',
    ttl interval default null,
    deadline interval default null,
    notify boolean default false,
    max_lag interval default null,
    external_id text default null,
    labels jsonb default '{}',
    start text default 'latest',
    url text default null
) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    candidate outbox.subscription;
    target int;
    starts_after bigint := outbox._start(start);
begin
    perform outbox._check_name('subscription', name);
    perform outbox._check_routes(topics, filter);
    if url is not null then
        if endpoint is not null then
            raise exception 'endpoint and url exclude each other' using errcode = 'invalid_parameter_value',
                hint = 'With url, an endpoint of the subscription''s name is created.';
        end if;
        perform outbox.create_endpoint(name, url);
        endpoint := name;
    end if;
    if endpoint is not null then
        target := outbox._endpoint_id(endpoint);
    end if;
    -- A name that was used before gets its old row, and so its history; the row's settings are all new.
    select s.* into candidate from outbox.subscription s
    where s.name = subscribe.name order by s.deleted_at is null desc, s.id desc limit 1 for update;
    if candidate.id is not null and candidate.deleted_at is null then
        raise exception 'subscription "%" exists already', name using errcode = 'duplicate_object',
            hint = 'outbox.alter_subscription() changes it, outbox.unsubscribe() ends it.';
    end if;
    candidate.name := name;
    candidate.endpoint_id := target;
    candidate.max_attempts := case when max_attempts > 0 then max_attempts else 12 end;
    candidate.max_age := max_age;
    candidate.schedule := schedule;
    candidate.policy := policy;
    candidate.format := format;
    candidate.batch_size := batch_size;
    candidate.batch_wait := batch_wait;
    candidate.ordering := ordering;
    candidate.on_exhausted := on_exhausted;
    candidate.ttl := ttl;
    candidate.deadline := deadline;
    candidate.notify := notify;
    candidate.max_lag := max_lag;
    candidate.external_id := external_id;
    candidate.labels := coalesce(labels, '{}');
    perform outbox._check_subscription(candidate);
    if candidate.id is null then
        begin
            insert into outbox.subscription (name, endpoint_id, max_attempts, max_age, schedule, policy, format, batch_size,
                batch_wait, ordering, on_exhausted, ttl, deadline, notify, max_lag, external_id, labels)
            values (name, candidate.endpoint_id, candidate.max_attempts, max_age, schedule, policy, format, batch_size,
                batch_wait, ordering, on_exhausted, ttl, deadline, notify, max_lag, external_id, candidate.labels)
            returning id into candidate.id;
        exception when unique_violation then
            raise exception 'subscription "%" exists already', name using errcode = 'duplicate_object',
                hint = 'outbox.alter_subscription() changes it, outbox.unsubscribe() ends it.';
        end;
    else
        perform outbox._store_subscription(candidate);
        update outbox.subscription s set deleted_at = null, paused = false where s.id = candidate.id;
    end if;
    return outbox._next_version(candidate.id, name, true, topics, filter, starts_after);
end
$$;
comment on function outbox.subscribe is
    'Sends the messages of these topics (* one word, # any number) to an endpoint, or without one lets workers claim '
    'them; from the position of the message on whose id is returned, or from start: latest, earliest, a position or a time. A '
    'name that was unsubscribed is taken up again';

-- API: private
-- Writes a subscription's settings.
create function outbox._store_subscription(candidate outbox.subscription) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    update outbox.subscription s
    set endpoint_id = candidate.endpoint_id, max_attempts = candidate.max_attempts, max_age = candidate.max_age,
        schedule = candidate.schedule, policy = candidate.policy, format = candidate.format,
        batch_size = candidate.batch_size, batch_wait = candidate.batch_wait, ordering = candidate.ordering,
        on_exhausted = candidate.on_exhausted, ttl = candidate.ttl, deadline = candidate.deadline,
        notify = candidate.notify, max_lag = candidate.max_lag, external_id = candidate.external_id,
        labels = candidate.labels
    where s.id = candidate.id;
end;

-- API: private
-- The row of a subscription that is not deleted, locked: one change at a time.
create function outbox._lock_subscription(name text) returns outbox.subscription
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id int := outbox._subscription_id(name);
    locked outbox.subscription;
begin
    select * into locked from outbox.subscription s where s.id = found_id for update;
    if locked.deleted_at is not null then
        perform outbox._subscription_id(name);
    end if;
    return locked;
end
$$;

-- API: public
create function outbox.alter_subscription(
    name text,
    topics text[] default null,
    filter jsonb default null,
    endpoint text default null,
    max_attempts int default null,
    max_age interval default null,
    schedule jsonb default null,
    policy jsonb default null,
    format text default null,
    batch_size int default null,
    batch_wait interval default null,
    ordering text default null,
    on_exhausted text default null,
    ttl interval default null,
    deadline interval default null,
    notify boolean default null,
    max_lag interval default null,
    external_id text default null,
    labels jsonb default null,
    reset text[] default '{}'
) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    changed outbox.subscription := outbox._lock_subscription(name);
    fresh outbox.subscription;
    version outbox.subscription_version;
    field text;
begin
    select v.* into version from outbox.subscription_version v
    where v.subscription_id = changed.id order by v.version desc limit 1;
    foreach field in array coalesce(reset, '{}') loop
        case field
            when 'filter' then version.filter := null;
            when 'max_attempts' then changed.max_attempts := 12;
            when 'max_age' then changed.max_age := null;
            when 'schedule' then changed.schedule := null;
            when 'policy' then changed.policy := null;
            when 'ttl' then changed.ttl := null;
            when 'deadline' then changed.deadline := null;
            when 'max_lag' then changed.max_lag := null;
            when 'external_id' then changed.external_id := null;
            when 'labels' then changed.labels := '{}';
            else
                raise exception 'setting "%" cannot be reset', field using errcode = 'invalid_parameter_value',
                    hint = 'These can: filter, max_attempts, max_age, schedule, policy, ttl, deadline, max_lag, external_id, labels.';
        end case;
    end loop;
    if endpoint is not null then
        if changed.endpoint_id is null then
            raise exception 'subscription "%" is pulled by workers', name using errcode = 'OB004',
                hint = 'Unsubscribe it, and subscribe again with an endpoint.';
        end if;
        changed.endpoint_id := outbox._endpoint_id(endpoint);
    end if;
    version.topics := coalesce(topics, version.topics);
    version.filter := coalesce(filter, version.filter);
    perform outbox._check_routes(version.topics, version.filter);
    changed.max_attempts := case when max_attempts <= 0 then 12 else coalesce(max_attempts, changed.max_attempts) end;
    changed.max_age := coalesce(max_age, changed.max_age);
    changed.schedule := coalesce(schedule, changed.schedule);
    changed.policy := coalesce(policy, changed.policy);
    changed.format := coalesce(format, changed.format);
    changed.batch_size := coalesce(batch_size, changed.batch_size);
    changed.batch_wait := coalesce(batch_wait, changed.batch_wait);
    changed.ordering := coalesce(ordering, changed.ordering);
    changed.on_exhausted := coalesce(on_exhausted, changed.on_exhausted);
    changed.ttl := coalesce(ttl, changed.ttl);
    changed.deadline := coalesce(deadline, changed.deadline);
    changed.notify := coalesce(notify, changed.notify);
    changed.max_lag := coalesce(max_lag, changed.max_lag);
    changed.external_id := coalesce(external_id, changed.external_id);
    changed.labels := coalesce(labels, changed.labels);
    perform outbox._check_subscription(changed);
    perform outbox._store_subscription(changed);
    return outbox._next_version(changed.id, name, version.active, version.topics, version.filter, null);
end
$$;
comment on function outbox.alter_subscription is
    'Changes a subscription; null leaves a setting as it is, reset names those that go back to their default. Topics and filter '
    'hold behind the position of the message whose id is returned, pushed or pulled';

-- API: public
create function outbox.unsubscribe(name text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    known outbox.subscription := outbox._lock_subscription(name);
    version outbox.subscription_version;
    control bigint;
begin
    select v.* into version from outbox.subscription_version v
    where v.subscription_id = known.id order by v.version desc limit 1;
    control := outbox._next_version(known.id, name, false, version.topics, version.filter, null);
    update outbox.subscription s set deleted_at = clock_timestamp(), paused = false where s.id = known.id;
    -- What waits is the dispatcher's to log as skipped; rows that workers claim from are ended here, those they have or that
    -- are locked a little later.
    if known.endpoint_id is null then
        perform outbox._skip_deliveries(known.id, 'unsubscribed');
        insert into outbox._ending (subscription_id) values (known.id);
        perform outbox._look_at_deliveries();
    else
        update outbox.delivery d set due_at = clock_timestamp(), updated_at = clock_timestamp()
        where d.subscription_id = known.id and not d.pull and d.state <> 'processing';
        perform outbox._look_at_deliveries();
    end if;
    return control;
end
$$;
comment on function outbox.unsubscribe is
    'Ends a subscription at the position of the message whose id is returned; what it has not got by then is logged as skipped. '
    'It stays in the table, with deleted_at set';

-- API: private
-- Ends the deliveries of a subscription that no worker has, with an entry in the log for each.
create function outbox._skip_deliveries(subscription_id int, reason text) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    skipped bigint;
begin
    perform outbox._unbundle(array(
        select b.id from outbox._bundle b
        where b.subscription_id = _skip_deliveries.subscription_id and b.lease is null
        for update skip locked
    ));
    with waiting as materialized (
        select d.id from outbox.delivery d
        where d.subscription_id = _skip_deliveries.subscription_id and d.state <> 'processing'
        for update skip locked
    ), gone as (
        delete from outbox.delivery d using waiting w where d.id = w.id returning d.*
    )
    insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run, subscription_id,
        attempt, outcome, error)
    select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), g.position, g.message_id, clock_timestamp(),
        clock_timestamp(), g.id, g.run, g.subscription_id, 0, 'skipped', reason
    from gone g;
    get diagnostics skipped = row_count;
    perform outbox._count_ended(array_fill(subscription_id, array[skipped::int]),
        array_fill('skipped'::text, array[skipped::int]));
    return skipped;
end
$$;

-- API: private
create function outbox._set_paused(name text, paused boolean) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    known outbox.subscription := outbox._lock_subscription(name);
begin
    update outbox.subscription s set paused = _set_paused.paused where s.id = known.id;
    perform outbox._look_at_deliveries();
    return outbox._enqueue_own('outbox.control',
        jsonb_build_object('subscription', known.id, 'name', name, 'paused', paused));
end
$$;

-- API: public
create function outbox.pause(name text) returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
return outbox._set_paused(name, true);
comment on function outbox.pause is
    'Holds a subscription: what is routed to it waits, nothing is sent or can be claimed, until resume(). Its messages are kept';

-- API: public
create function outbox.resume(name text) returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
return outbox._set_paused(name, false);
comment on function outbox.resume is 'Goes on with a paused subscription from where it stood';

-- API: public
create function outbox.explain_routing(
    topic text,
    payload jsonb default null,
    key text default null,
    headers jsonb default null,
    tenant text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    at_position bigint default null
) returns table (subscription text, matches boolean, reason text, version int)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox._check_topic(topic);
    return query
    select s.name, e.why is null, case
            when e.why is not null then e.why
            when s.paused then 'matches; paused: delivered when it is resumed'
            else 'matches'
        end, v.version
    from outbox.subscription s
    -- The newest version that holds at the position; without one, the newest there is.
    join lateral (
        select o.* from outbox.subscription_version o
        where o.subscription_id = s.id
            and (at_position is null or o.position is not null and coalesce(o.starts_after, o.position) < at_position)
        order by o.version desc limit 1
    ) v on true
    cross join lateral (
        select outbox._refused_by(v.filter, tenant, key, aggregate_type, aggregate_id, headers) as fields
    ) f
    cross join lateral (
        select case
            when not outbox._matches(v.topics, null, topic, null, null, null, null, null) then 'topic'
            when not v.active then 'inactive'
            when f.fields is not null then 'filter: ' || f.fields
            when v.filter ? 'payload' and not outbox._path_holds(payload, (v.filter ->> 'payload')::jsonpath)
                then 'filter: payload'
        end as why
    ) e
    where s.deleted_at is null or at_position is not null
    order by s.name, s.id;
end
$$;
comment on function outbox.explain_routing is
    'Which subscriptions a message would match, and why others would not; at_position: which did at that place';

-- API: public
create function outbox.skipped(topic text default null, max_messages int default 100, before_position bigint default null)
returns table ("position" bigint, message_id bigint, message_topic text, reason text, routed_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    batch record;
    found int := 0;
begin
    for batch in
        select r.* from outbox.routing r
        where r.first_position < coalesce(before_position, 9223372036854775807)
        order by r.first_position desc
    loop
        for i in reverse cardinality(batch.matched) .. 1 loop
            continue when batch.matched[i] not in (-1, -2, -5);
            position := batch.first_position + i - 1;
            continue when position >= before_position;
            select m.id, m.topic into message_id, message_topic
            from (
                select f.message_segment, f.message_ids[position - f.first_position + 1] as id
                from outbox.feed f where f.first_position <= position order by f.first_position desc limit 1
            ) f
            join outbox.message m on m.segment = f.message_segment and m.id = f.id;
            continue when message_id is null
                or not outbox._matches(array[coalesce(topic, '#')], null, message_topic, null, null, null, null, null);
            reason := outbox._routing_reason(batch.matched[i]);
            routed_at := batch.routed_at;
            return next;
            found := found + 1;
            if found >= max_messages then
                return;
            end if;
        end loop;
    end loop;
end
$$;
comment on function outbox.skipped is
    'Messages that matched no subscription, newest first, with the reason: no subscription, filtered, inactive. topic is a pattern';

insert into outbox._capability values
    ('admin', 'function outbox.subscribe'),
    ('admin', 'function outbox.alter_subscription'),
    ('admin', 'function outbox.unsubscribe'),
    ('admin', 'function outbox.pause'),
    ('admin', 'function outbox.resume'),
    ('monitor', 'function outbox.explain_routing'),
    ('monitor', 'function outbox.skipped');
