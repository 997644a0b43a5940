-- Subscriptions: who gets what.
--
-- A change to a subscription writes an immutable version and a control message in one transaction, and takes effect at that
-- message's position: whoever routes a message later, live, after a crash or in a replay, finds the same version.

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
    new_id int;
    control bigint;
begin
    perform outbox._check_name('subscription', name);
    if topics is null or cardinality(topics) = 0 or array_position(topics, null) is not null then
        raise exception 'topics must not be null or empty' using errcode = 'null_value_not_allowed',
            hint = 'The pattern "#" matches every topic that is published.';
    end if;
    perform outbox._check_pattern(t) from unnest(topics) t;
    perform outbox._check_filter(filter);
    perform outbox._check_schedule(schedule);
    perform outbox._check_policy(policy);
    if start is distinct from 'latest' then
        raise exception 'start is not supported yet' using errcode = 'feature_not_supported';
    end if;
    if url is not null then
        raise exception 'url is not supported yet' using errcode = 'feature_not_supported';
    end if;
    if max_attempts is null or max_attempts <= 0 then
        max_attempts := 12;
    end if;
    begin
        insert into outbox.subscription (name, endpoint_id, max_attempts, max_age, schedule, policy, format, batch_size,
            batch_wait, ordering, on_exhausted, ttl, deadline, notify, max_lag, external_id, labels)
        values (name, case when endpoint is not null then outbox._endpoint_id(endpoint) end, max_attempts, max_age,
            schedule, policy, format, batch_size, batch_wait, ordering, on_exhausted, ttl, deadline, notify, max_lag,
            external_id, labels)
        returning id into new_id;
    exception when unique_violation then
        raise exception 'subscription "%" exists already', name using errcode = 'duplicate_object',
            hint = 'outbox.unsubscribe() ends it.';
    end;
    control := outbox._enqueue_own('outbox.control', jsonb_build_object('subscription', new_id, 'name', name, 'version', 1));
    insert into outbox.subscription_version (subscription_id, version, control_message_id, active, topics, filter)
    values (new_id, 1, control, true, topics, filter);
    return control;
end
$$;
comment on function outbox.subscribe is
    'Sends the messages of these topics (* one word, # any number) to an endpoint, or without one lets workers claim '
    'them; from the position of the message on whose id is returned';

-- API: public
create function outbox.unsubscribe(name text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known int := outbox._subscription_id(name);
    control bigint;
begin
    -- One change of a subscription at a time.
    perform from outbox.subscription s where s.id = known for update;
    control := outbox._enqueue_own('outbox.control', jsonb_build_object('subscription', known, 'name', name));
    insert into outbox.subscription_version (subscription_id, version, control_message_id, active, topics, filter)
    select v.subscription_id, v.version + 1, control, false, v.topics, v.filter
    from outbox.subscription_version v
    where v.subscription_id = known
    order by v.version desc
    limit 1;
    update outbox.subscription s set deleted_at = clock_timestamp() where s.id = known;
    return control;
end
$$;
comment on function outbox.unsubscribe is
    'Ends a subscription at the position of the message whose id is returned; it stays in the table, with deleted_at set';

insert into outbox._capability values
    ('admin', 'function outbox.subscribe'),
    ('admin', 'function outbox.unsubscribe');
