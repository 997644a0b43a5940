-- Subscriptions: which messages are delivered to which endpoint or workers.
--
-- A change to a subscription writes an immutable version and a control message in one transaction. It takes effect at the
-- position of that message. So routing finds the same version for a position whenever it runs: live, after a crash, or in a
-- replay.

-- API: private
-- Raises 22023 or 54000 for settings that are out of range or malformed.
create function outbox_internal.check_subscription(candidate outbox.subscription) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    wrong record;
begin
    perform outbox_internal.check_name('subscription', candidate.name);
    select * into wrong
    from (values
        ('max_attempts', candidate.max_attempts::text, candidate.max_attempts >= 1, 'It counts the first try: at least 1.'),
        ('max_age', candidate.max_age::text, coalesce(outbox_internal.is_duration(candidate.max_age), true), 'It is above 0 and at most 100 years.'),
        ('format', candidate.format,
            candidate.format in ('raw', 'envelope', 'cloudevents', 'cloudevents_structured', 'pubsub'),
            'It is raw, envelope, cloudevents, cloudevents_structured or pubsub.'),
        ('batch_size', candidate.batch_size::text, candidate.batch_size between 1 and 1000, 'It is between 1 and 1000.'),
        ('batch_wait', candidate.batch_wait::text, candidate.batch_wait between interval '0' and interval '60 s',
            'It is between 0 and 60 seconds.'),
        ('ordering', candidate.ordering, candidate.ordering in ('none', 'key', 'strict'), 'It is none, key or strict.'),
        ('on_exhausted', candidate.on_exhausted, candidate.on_exhausted in ('skip', 'block'), 'It is skip or block.'),
        ('ttl', candidate.ttl::text, coalesce(outbox_internal.is_duration(candidate.ttl), true), 'It is above 0 and at most 100 years.'),
        ('deadline', candidate.deadline::text, coalesce(outbox_internal.is_duration(candidate.deadline), true), 'It is above 0 and at most 100 years.'),
        ('notify', candidate.notify::text, candidate.notify is not null, 'It is true or false.'),
        ('max_lag', candidate.max_lag::text, coalesce(outbox_internal.is_duration(candidate.max_lag), true), 'It is above 0 and at most 100 years.'),
        ('labels', candidate.labels::text, jsonb_typeof(candidate.labels) = 'object', 'It is a JSON object.')
    ) c(setting, given, fine, hint)
    where fine is not true
    limit 1;
    if found then
        raise exception 'invalid %', wrong.setting using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(left(wrong.given, 100), 'null')), hint = wrong.hint;
    end if;
    perform outbox_internal.check_schedule(candidate.schedule);
    perform outbox_internal.check_policy(candidate.policy);
    if octet_length(candidate.external_id) > 255 then
        raise exception 'external_id is too large' using errcode = 'program_limit_exceeded',
            detail = format('It has %s bytes; the limit is 255.', octet_length(candidate.external_id));
    end if;
    if octet_length(candidate.labels::text) > 16384 then
        raise exception 'labels is too large' using errcode = 'program_limit_exceeded',
            detail = format('It has %s bytes; the limit is 16384.', octet_length(candidate.labels::text));
    end if;
end
$$;

-- API: private
-- Raises 22023 for an unknown source.
create function outbox_internal.check_source(source text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if source is null or source not in ('messages', 'events', 'all') then
        raise exception 'invalid source' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(format('"%s"', left(source, 100)), 'null')),
            hint = 'It is messages, events or all.';
    end if;
end
$$;

-- API: private
-- Writes the next version of a subscription and its control message, and returns the id of that message. The caller has
-- locked the subscription's row.
create function outbox_internal.next_version(
    subscription_id int,
    name text,
    active boolean,
    topics text[],
    filter jsonb,
    starts_after bigint,
    source text
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
    from outbox.subscription_version v where v.subscription_id = next_version.subscription_id;
    control := outbox_internal.enqueue_own('outbox.control',
        jsonb_build_object('subscription', subscription_id, 'name', name, 'version', next));
    insert into outbox.subscription_version (subscription_id, version, control_message_id, active, topics, filter,
        starts_after, source)
    values (subscription_id, next, control, active, topics, filter, starts_after, source);
    return control;
end
$$;

-- API: private
-- Does the work of outbox.subscribe() as the extension's owner. `caller` is the role that called it.
create function outbox_internal.subscribe(
    caller oid,
    name text,
    topics text[],
    endpoint text,
    filter jsonb,
    max_attempts int,
    max_age interval,
    schedule jsonb,
    policy jsonb,
    format text,
    batch_size int,
    batch_wait interval,
    ordering text,
    on_exhausted text,
    ttl interval,
    deadline interval,
    notify boolean,
    max_lag interval,
    external_id text,
    labels jsonb,
    start text,
    url text,
    source text,
    transform text
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    candidate outbox.subscription;
    target int;
    starts_after bigint := outbox_internal.start(start, source);
begin
    perform outbox_internal.check_name('subscription', name);
    perform outbox_internal.check_routes(topics, filter);
    perform outbox_internal.check_source(source);
    if url is not null then
        if endpoint is not null then
            raise exception 'endpoint and url exclude each other' using errcode = 'invalid_parameter_value',
                hint = 'With url, an endpoint of the subscription''s name is created.';
        end if;
        perform outbox.create_endpoint(name, url);
        endpoint := name;
    end if;
    if endpoint is not null then
        target := outbox_internal.endpoint_id(endpoint);
    end if;
    if exists (select from outbox.subscription s where s.name = subscribe.name and s.deleted_at is null) then
        raise exception 'subscription "%" exists already', name using errcode = 'duplicate_object',
            hint = 'outbox.alter_subscription() changes it, outbox.unsubscribe() ends it.';
    end if;
    -- A name that was used before gets its old row, and with it its history. All settings of the row are overwritten.
    select s.* into candidate from outbox.subscription s
    where s.name = subscribe.name and s.deleted_at is not null order by s.id desc limit 1 for update;
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
    select c.transform, c.owner into candidate.transform, candidate.transform_owner
    from outbox_internal.check_transform(caller, transform) c;
    perform outbox_internal.check_subscription(candidate);
    if candidate.id is null then
        begin
            insert into outbox.subscription (name, endpoint_id, max_attempts, max_age, schedule, policy, format, batch_size,
                batch_wait, ordering, on_exhausted, ttl, deadline, notify, max_lag, external_id, labels, transform,
                transform_owner)
            values (name, candidate.endpoint_id, candidate.max_attempts, max_age, schedule, policy, format, batch_size,
                batch_wait, ordering, on_exhausted, ttl, deadline, notify, max_lag, external_id, candidate.labels,
                candidate.transform, candidate.transform_owner)
            returning id into candidate.id;
        exception when unique_violation then
            raise exception 'subscription "%" exists already', name using errcode = 'duplicate_object',
                hint = 'outbox.alter_subscription() changes it, outbox.unsubscribe() ends it.';
        end;
    else
        perform outbox_internal.store_subscription(candidate);
        update outbox.subscription s set deleted_at = null, paused = false where s.id = candidate.id;
    end if;
    return outbox_internal.next_version(candidate.id, name, true, topics, filter, starts_after, source);
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
    notify boolean default true,
    max_lag interval default null,
    external_id text default null,
    labels jsonb default '{}',
    start text default 'latest',
    url text default null,
    source text default 'messages',
    transform text default null
) returns bigint
language c volatile
as 'MODULE_PATHNAME', 'outbox_with_caller';
comment on function outbox.subscribe is
    'Creates a subscription: the messages of these topics (patterns; * is one word, # any number of words) are sent to '
    'an endpoint, or claimed by workers if there is neither endpoint nor url. url: creates an endpoint with the '
    'subscription''s name. filter: further conditions on a message. The other settings are described at the columns of '
    'outbox.subscription; max_attempts null or below 1 means 12. start: latest (the default: messages after the control '
    'message whose id is returned), earliest, a position (the first to be delivered) or a time. source: messages (the '
    'default), events (of streams), or all; it stays until unsubscribe(). transform: the signature of a function (message '
    'outbox.feed_message) returns jsonb, immutable or stable, such as "app.public_part(outbox.feed_message)": its result is '
    'sent instead of the payload, and null skips the delivery. The function runs as its owner. A name that was '
    'unsubscribed is taken up again, with its old id. Returns the id of the control message. Errors: OB001 no such '
    'endpoint, OB009 the start position is not stored or does not exist yet, 42710 the subscription exists already, 42883 '
    'no such function, 42501 the caller does not have the rights of its owner, 22004 topics is null or empty, 22023 a '
    'setting is malformed or out of range, 54000 a text is too long';

-- API: private
-- Overwrites a subscription's settings.
create function outbox_internal.store_subscription(candidate outbox.subscription) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    update outbox.subscription s
    set endpoint_id = candidate.endpoint_id, max_attempts = candidate.max_attempts, max_age = candidate.max_age,
        schedule = candidate.schedule, policy = candidate.policy, format = candidate.format,
        batch_size = candidate.batch_size, batch_wait = candidate.batch_wait, ordering = candidate.ordering,
        on_exhausted = candidate.on_exhausted, ttl = candidate.ttl, deadline = candidate.deadline,
        notify = candidate.notify, max_lag = candidate.max_lag, external_id = candidate.external_id,
        labels = candidate.labels, transform = candidate.transform, transform_owner = candidate.transform_owner
    where s.id = candidate.id;
end;

-- API: private
-- Returns the row of a subscription that has not ended, and locks it, so that there is one change at a time. Raises OB001.
create function outbox_internal.lock_subscription(name text) returns outbox.subscription
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id int := outbox_internal.subscription_id(name);
    locked outbox.subscription;
begin
    select * into locked from outbox.subscription s where s.id = found_id for update;
    if locked.deleted_at is not null then
        perform outbox_internal.subscription_id(name);
    end if;
    return locked;
end
$$;

-- API: private
-- Does the work of outbox.alter_subscription() as the extension's owner. `caller` is the role that called it.
create function outbox_internal.alter_subscription(
    caller oid,
    name text,
    topics text[],
    filter jsonb,
    endpoint text,
    max_attempts int,
    max_age interval,
    schedule jsonb,
    policy jsonb,
    format text,
    batch_size int,
    batch_wait interval,
    ordering text,
    on_exhausted text,
    ttl interval,
    deadline interval,
    notify boolean,
    max_lag interval,
    external_id text,
    labels jsonb,
    reset text[],
    transform text
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    changed outbox.subscription := outbox_internal.lock_subscription(name);
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
            when 'transform' then
                changed.transform := null;
                changed.transform_owner := null;
            else
                raise exception 'setting "%" cannot be reset', left(field, 100) using errcode = 'invalid_parameter_value',
                    hint = 'These can: filter, max_attempts, max_age, schedule, policy, ttl, deadline, max_lag, external_id, labels, '
                        'transform.';
        end case;
    end loop;
    if endpoint is not null then
        if changed.endpoint_id is null then
            raise exception 'subscription "%" is pulled by workers', name using errcode = 'OB004',
                hint = 'Unsubscribe it, and subscribe again with an endpoint.';
        end if;
        changed.endpoint_id := outbox_internal.endpoint_id(endpoint);
    end if;
    version.topics := coalesce(topics, version.topics);
    version.filter := coalesce(filter, version.filter);
    perform outbox_internal.check_routes(version.topics, version.filter);
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
    if transform is not null then
        select c.transform, c.owner into changed.transform, changed.transform_owner
        from outbox_internal.check_transform(caller, transform) c;
    end if;
    perform outbox_internal.check_subscription(changed);
    perform outbox_internal.store_subscription(changed);
    return outbox_internal.next_version(changed.id, name, version.active, version.topics, version.filter, null,
        version.source);
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
    reset text[] default '{}',
    transform text default null
) returns bigint
language c volatile
as 'MODULE_PATHNAME', 'outbox_with_caller';
comment on function outbox.alter_subscription is
    'Changes the settings of a subscription; null leaves a setting as it is. reset: names of settings that go back to '
    'their default (filter, max_attempts, max_age, schedule, policy, ttl, deadline, max_lag, external_id, labels, '
    'transform). Topics and filter hold for the positions after the control message whose id is returned; a transform holds for '
    'the messages that are routed from then on. Errors: OB001 no such subscription '
    'or endpoint, OB004 endpoint for a subscription that is pulled by workers, 42883 no such function, 42501 the caller does '
    'not have the rights of its owner, 22023 a setting is malformed or out of '
    'range, 54000 a text is too long';

-- API: private
-- Does the work of outbox.ensure_subscription() as the extension's owner. `caller` is the role that called it.
create function outbox_internal.ensure_subscription(
    caller oid,
    name text,
    topics text[],
    endpoint text,
    filter jsonb,
    max_attempts int,
    max_age interval,
    schedule jsonb,
    policy jsonb,
    format text,
    batch_size int,
    batch_wait interval,
    ordering text,
    on_exhausted text,
    ttl interval,
    deadline interval,
    notify boolean,
    max_lag interval,
    external_id text,
    labels jsonb,
    start text,
    source text,
    transform text
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    known jsonb;
    pulled boolean;
    its_source text;
    -- The settings that are given, by the names of alter_subscription()'s arguments.
    wanted jsonb := (
        select coalesce(jsonb_object_agg(g.key, g.value), '{}')
        from jsonb_each(jsonb_build_object('endpoint', endpoint, 'max_attempts', case when max_attempts <= 0 then 12 else max_attempts end,
            'max_age', max_age, 'schedule', schedule, 'policy', policy, 'format', format, 'batch_size', batch_size,
            'batch_wait', batch_wait, 'ordering', ordering, 'on_exhausted', on_exhausted, 'ttl', ttl, 'deadline', deadline,
            'notify', notify, 'max_lag', max_lag, 'external_id', external_id, 'labels', labels,
            'transform', coalesce(outbox_internal.function_oid(transform)::regprocedure::text, transform),
            'transform_owner', (
                select pg_get_userbyid(p.proowner) from pg_proc p where p.oid = outbox_internal.function_oid(transform)))) g
        where g.value <> 'null'
    ) || jsonb_build_object('topics', topics, 'filter', filter);
begin
    perform outbox_internal.check_name('subscription', name);
    perform outbox_internal.check_routes(topics, filter);
    -- The first look takes no lock: nearly every call is that of a worker that starts, and changes nothing.
    for attempt in 1 .. 3 loop
        select to_jsonb(s) || jsonb_build_object('endpoint', e.name, 'topics', v.topics, 'filter', v.filter),
            s.endpoint_id is null, v.source
        into known, pulled, its_source
        from outbox.subscription s
        left join outbox.endpoint e on e.id = s.endpoint_id
        cross join lateral (
            select o.topics, o.filter, o.source from outbox.subscription_version o
            where o.subscription_id = s.id order by o.version desc limit 1
        ) v
        where s.name = ensure_subscription.name and s.deleted_at is null;
        if known is not null then
            exit;
        end if;
        begin
            perform outbox_internal.subscribe(caller, name, topics, endpoint, filter, max_attempts, max_age, schedule,
                policy, coalesce(format, 'raw'), coalesce(batch_size, 1), coalesce(batch_wait, '0'), coalesce(ordering, 'none'),
                coalesce(on_exhausted, 'skip'), ttl, deadline, coalesce(notify, true), max_lag, external_id, labels,
                coalesce(start, case when endpoint is null then 'earliest' else 'latest' end),
                null, coalesce(source, 'messages'), transform);
            return 'created';
        exception when duplicate_object then
            -- Another session has created it meanwhile.
            null;
        end;
    end loop;
    if known is null then
        raise exception 'subscription "%" was created by another session meanwhile', name
            using errcode = 'serialization_failure', hint = 'Repeat the transaction.';
    end if;
    if endpoint is null and not pulled then
        raise exception 'subscription "%" is pushed to an endpoint', name using errcode = 'OB004',
            hint = 'Name its endpoint, or unsubscribe it and create it without one.';
    end if;
    if its_source <> source then
        raise exception 'subscription "%" takes the source %', name, its_source using errcode = 'OB004',
            hint = 'A source stays until unsubscribe(): name the same one, or leave it out.';
    end if;
    if known || wanted = known then
        return 'unchanged';
    end if;
    perform outbox_internal.alter_subscription(caller, name, topics, filter, endpoint, max_attempts, max_age, schedule,
        policy, format, batch_size, batch_wait, ordering, on_exhausted, ttl, deadline, notify, max_lag, external_id, labels,
        case when filter is null then '{filter}' else '{}' end::text[], transform);
    return 'altered';
end
$$;

-- API: public
create function outbox.ensure_subscription(
    name text,
    topics text[],
    endpoint text default null,
    filter jsonb default null,
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
    start text default null,
    source text default null,
    transform text default null
) returns text
language c volatile
as 'MODULE_PATHNAME', 'outbox_with_caller';
comment on function outbox.ensure_subscription is
    'Creates a subscription, or alters the one that there is, so that it is as described: for migrations, and for '
    'programs that start. Topics, filter (null: none) and whether it is pushed are always as given; any other setting '
    'that is null keeps its value, or gets the default of subscribe() if the subscription is new. start: where a new '
    'subscription begins, as in subscribe(). Its default is earliest for a subscription that workers claim from, so that'
    ' workers that are deployed after their producers miss nothing, and latest for a pushed one, so that a new receiver '
    'is not sent the history. Returns created, altered or unchanged; unchanged writes nothing. Errors: OB001 no such '
    'endpoint, OB004 the subscription is pulled and endpoint is given, or the other way round, or it has another source;'
    ' 40001 another session created it, and this transaction cannot see it; those of subscribe()';

-- API: public
create function outbox.unsubscribe(name text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    known outbox.subscription := outbox_internal.lock_subscription(name);
    version outbox.subscription_version;
    control bigint;
begin
    select v.* into version from outbox.subscription_version v
    where v.subscription_id = known.id order by v.version desc limit 1;
    control := outbox_internal.next_version(known.id, name, false, version.topics, version.filter, null, version.source);
    update outbox.subscription s set deleted_at = clock_timestamp(), paused = false where s.id = known.id;
    -- The dispatcher logs the waiting deliveries of a pushed subscription as skipped. Those of a pull subscription are ended
    -- here; those that a worker has or another session has locked are ended by a later pass of the router.
    if known.endpoint_id is null then
        perform outbox_internal.skip_deliveries(known.id, 'unsubscribed');
        insert into outbox._ended_subscription (subscription_id) values (known.id);
        perform outbox_internal.deliveries_changed();
    else
        update outbox.delivery d set due_at = clock_timestamp(), updated_at = clock_timestamp()
        where d.subscription_id = known.id and not d.pull and d.state <> 'processing';
        perform outbox_internal.deliveries_changed();
    end if;
    return control;
end
$$;
comment on function outbox.unsubscribe is
    'Ends a subscription at the position of the control message whose id is returned. Messages that were not delivered by '
    'then are logged as skipped, with the reason unsubscribed. The row stays in outbox.subscription with deleted_at set. '
    'Errors: OB001 no such subscription';

-- API: private
-- Ends the deliveries of a subscription that no worker has, with an entry in the attempt log for each. Deliveries that
-- another session has locked are left alone. Returns how many were ended.
create function outbox_internal.skip_deliveries(subscription_id int, reason text) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox_internal.unbundle(array(
        select b.id from outbox._bundle b
        where b.subscription_id = skip_deliveries.subscription_id and b.lease is null
        for update skip locked
    ));
    return outbox_internal.drop_deliveries(array(
        select d.id from outbox.delivery d
        where d.subscription_id = skip_deliveries.subscription_id and d.state <> 'processing'
        for update skip locked
    ), 'skipped', reason);
end
$$;

-- API: private
-- Pauses or resumes a subscription, and returns the id of a control message.
create function outbox_internal.set_paused(name text, paused boolean) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    known outbox.subscription := outbox_internal.lock_subscription(name);
begin
    update outbox.subscription s set paused = set_paused.paused where s.id = known.id;
    perform outbox_internal.deliveries_changed();
    perform outbox_internal.audit(case when paused then 'pause_subscription' else 'resume_subscription' end,
        format('subscription %s', name), null);
    return outbox_internal.enqueue_own('outbox.control',
        jsonb_build_object('subscription', known.id, 'name', name, 'paused', paused));
end
$$;

-- API: public
create function outbox.pause_subscription(name text) returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
return outbox_internal.set_paused(name, true);
comment on function outbox.pause_subscription is
    'Pauses a subscription until resume(): messages are still routed to it and retained, but nothing is sent or can be '
    'claimed. Recorded in outbox.audit. Returns the id of a control message. Errors: OB001 no such subscription';

-- API: public
create function outbox.resume_subscription(name text) returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
return outbox_internal.set_paused(name, false);
comment on function outbox.resume_subscription is
    'Resumes a paused subscription where it stopped. Recorded in outbox.audit. Returns the id of a control message. Errors: '
    'OB001 no such subscription';

insert into outbox._capability values
    ('admin', 'function outbox.subscribe'),
    ('admin', 'function outbox.alter_subscription'),
    ('admin', 'function outbox.ensure_subscription'),
    ('admin', 'function outbox.unsubscribe'),
    ('admin', 'function outbox.pause_subscription'),
    ('admin', 'function outbox.resume_subscription');
