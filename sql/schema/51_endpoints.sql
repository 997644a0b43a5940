-- Endpoints: where pushed messages go.

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

insert into outbox._capability values
    ('admin', 'function outbox.create_endpoint');
