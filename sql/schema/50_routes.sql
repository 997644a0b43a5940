-- Endpoints and subscriptions: who gets what.
--
-- A change to a subscription writes an immutable version and a control message in one transaction, and takes effect at that
-- message's position: whoever routes a message later, live, after a crash or in a replay, finds the same version.

-- API: private
-- Raise 22023 that says what is wrong; return their argument.
create function outbox._check_url(url text) returns text language c immutable strict as 'MODULE_PATHNAME', 'outbox_check_url';
-- API: private
create function outbox._check_pattern(pattern text) returns text language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_pattern';
-- API: private
create function outbox._check_filter(filter jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_filter';
-- API: private
create function outbox._check_secret(secret text) returns text language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_secret';
-- API: private
create function outbox._check_headers(headers jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_headers';

-- API: private
-- Enqueues one of pg_outbox's own messages, below the reserved word of the topics.
create function outbox._enqueue_own(topic text, payload jsonb) returns bigint language c volatile strict
as 'MODULE_PATHNAME', 'outbox_enqueue_own';

-- API: private
-- Names of endpoints, subscriptions and the like: 1 to 100 characters, none of them a control character.
create function outbox._check_name(kind text, name text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if name is null then
        raise exception 'the name of the % must not be null', kind using errcode = 'null_value_not_allowed';
    end if;
    if name !~ '^[^[:cntrl:]]{1,100}$' or name <> btrim(name) then
        raise exception 'malformed name of the %', kind
            using errcode = 'invalid_parameter_value',
                hint = 'A name has 1 to 100 characters, no control characters, and no spaces around it.';
    end if;
    return name;
end
$$;

-- API: private
create function outbox._endpoint_id(name text) returns int
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id int;
begin
    select e.id into found_id from outbox.endpoint e where e.name = _endpoint_id.name and e.deleted_at is null;
    if found_id is null then
        raise exception 'endpoint "%" does not exist', name
            using errcode = 'OB001', hint = 'outbox.create_endpoint() makes one; the table outbox.endpoint lists them.';
    end if;
    return found_id;
end
$$;

-- API: private
create function outbox._subscription_id(name text) returns int
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id int;
begin
    select s.id into found_id from outbox.subscription s where s.name = _subscription_id.name and s.deleted_at is null;
    if found_id is null then
        raise exception 'subscription "%" does not exist', name
            using errcode = 'OB001', hint = 'outbox.subscribe() makes one; the table outbox.subscription lists them.';
    end if;
    return found_id;
end
$$;

-- API: public
create function outbox.create_endpoint(
    name text,
    url text,
    secret text default null,
    headers jsonb default '{}',
    timeout interval default '15 s',
    concurrency int default 8,
    tenant text default null,
    kind text default 'webhook'
) returns table (endpoint_id int, signing_secret text, message_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    new_id int;
    new_secret text := coalesce(
        outbox._check_secret(secret),
        -- 32 bytes from two 122-bit random uuids
        'whsec_' || encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64')
    );
begin
    perform outbox._check_name('endpoint', name);
    if url is null then
        raise exception 'url must not be null' using errcode = 'null_value_not_allowed';
    end if;
    perform outbox._check_url(url);
    perform outbox._check_headers(headers);
    if timeout is null or timeout <= interval '0' or timeout > interval '60 s' then
        raise exception 'invalid timeout' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(timeout::text, 'null')),
            hint = 'The timeout of an endpoint is above 0 and at most 60 seconds.';
    end if;
    if concurrency is null or concurrency not between 1 and 1024 then
        raise exception 'invalid concurrency' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(concurrency::text, 'null')),
            hint = 'The concurrency of an endpoint is between 1 and 1024 requests.';
    end if;
    if kind is distinct from 'webhook' then
        raise exception 'unknown kind of endpoint "%"', kind using errcode = 'invalid_parameter_value',
            hint = 'The one kind there is, is webhook.';
    end if;
    begin
        insert into outbox.endpoint (name, url, headers, timeout, concurrency, tenant, kind)
        values (name, url, coalesce(headers, '{}'), timeout, concurrency, tenant, kind)
        returning id into new_id;
    exception when unique_violation then
        raise exception 'endpoint "%" exists already', name using errcode = 'duplicate_object';
    end;
    insert into outbox.endpoint_secret (endpoint_id, secret) values (new_id, new_secret);
    endpoint_id := new_id;
    signing_secret := new_secret;
    message_id := outbox._enqueue_own('outbox.control', jsonb_build_object('endpoint', new_id, 'name', name));
    return next;
end
$$;
comment on function outbox.create_endpoint is
    'Makes an HTTP target. The row that is returned is the only place where the signing secret is shown.';

-- API: public
create function outbox.subscribe(
    name text,
    topics text[],
    endpoint text default null,
    filter jsonb default null,
    max_attempts int default 12
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
            hint = 'The pattern "#" matches every topic.';
    end if;
    perform outbox._check_pattern(t) from unnest(topics) t;
    perform outbox._check_filter(filter);
    if endpoint is null then
        raise exception 'a subscription without an endpoint is not supported yet' using errcode = 'feature_not_supported';
    end if;
    if max_attempts is null or max_attempts <= 0 then
        max_attempts := 12;
    end if;
    begin
        insert into outbox.subscription (name, endpoint_id, max_attempts)
        values (name, outbox._endpoint_id(endpoint), max_attempts)
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
    'Sends the messages of these topics (* one word, # any number) to an endpoint, from the position of the message on whose id is returned';

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
