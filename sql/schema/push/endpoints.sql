-- Endpoints: the destinations of pushed messages.
--
-- Each change writes a control message in its transaction. The dispatcher reads the endpoints again when it routes that
-- message.

-- API: private
-- Writes the control message of a change, and returns its id.
create function outbox_internal.endpoint_changed(e outbox.endpoint, what text) returns bigint
language sql volatile
set search_path = pg_catalog, pg_temp
return outbox_internal.enqueue_own('outbox.control', jsonb_build_object('endpoint', e.id, 'name', e.name, 'change', what));

-- API: public
create function outbox.create_endpoint(
    name text,
    url text,
    secret text default null,
    headers jsonb default '{}',
    timeout interval default '15 s',
    concurrency int default 8,
    tenant text default null,
    kind text default 'webhook',
    auth jsonb default null,
    tls jsonb default null,
    signature text default 'v1',
    rate float8 default null,
    burst float8 default null,
    schedule jsonb default null,
    policy jsonb default null,
    breaker jsonb default null,
    protocol text default 'auto',
    compress boolean default false,
    response_id text default null,
    keep_headers text[] default '{x-request-id,retry-after,location,webhook-delivery}',
    disable_after interval default '5 days',
    disable_failures int default 20,
    consent boolean default false,
    subscriber_type text default 'client'
) returns table (endpoint_id int, signing_secret text, message_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    e outbox.endpoint;
begin
    perform outbox_internal.check_name('endpoint', name);
    if signature is null or signature not in ('v1', 'v1a') then
        raise exception 'unknown signature "%"', left(signature, 100) using errcode = 'invalid_parameter_value',
            hint = 'It is v1 (HMAC-SHA256) or v1a (ed25519).';
    end if;
    signing_secret := coalesce(outbox_internal.check_secret(secret), outbox_internal.new_secret(signature = 'v1a'));
    e.name := name;
    e.url := url;
    e.headers := coalesce(headers, '{}');
    e.timeout := timeout;
    e.concurrency := concurrency;
    e.tenant := tenant;
    e.kind := kind;
    e.rate := rate;
    e.burst := burst;
    e.schedule := schedule;
    e.policy := policy;
    e.breaker := breaker;
    e.protocol := protocol;
    e.compress := coalesce(compress, false);
    e.response_id := response_id;
    e.keep_headers := coalesce(keep_headers, '{}');
    e.disable_after := disable_after;
    e.disable_failures := disable_failures;
    e.consent := case when consent then 'pending' else 'none' end;
    e.subscriber_type := subscriber_type;
    perform outbox_internal.check_endpoint(e);
    perform outbox_internal.check_auth(auth);
    perform outbox_internal.check_tls(tls);
    begin
        insert into outbox.endpoint (name, url, headers, timeout, concurrency, tenant, kind, rate, burst, schedule, policy,
            breaker, protocol, compress, response_id, keep_headers, disable_after, disable_failures, consent,
            subscriber_type)
        values (e.name, e.url, e.headers, e.timeout, e.concurrency, e.tenant, e.kind, e.rate, e.burst, e.schedule, e.policy,
            e.breaker, e.protocol, e.compress, e.response_id, e.keep_headers, e.disable_after, e.disable_failures, e.consent,
            e.subscriber_type)
        returning * into e;
    exception when unique_violation then
        raise exception 'endpoint "%" exists already', name using errcode = 'duplicate_object';
    end;
    insert into outbox.endpoint_secret (endpoint_id, secret) values (e.id, signing_secret);
    if auth is not null or tls is not null then
        insert into outbox.endpoint_credential (endpoint_id, auth, ca, certificate, key)
        values (e.id, auth, tls ->> 'ca', tls ->> 'certificate', tls ->> 'key');
    end if;
    insert into outbox.endpoint_state (endpoint_id) values (e.id);
    if e.consent = 'pending' then
        perform outbox_internal.start_consent(e.id);
    end if;
    endpoint_id := e.id;
    message_id := outbox_internal.endpoint_changed(e, 'created');
    return next;
end
$$;
comment on function outbox.create_endpoint is
    'Creates an endpoint (an HTTP destination) and returns its id, its signing secret, and the id of a control message. '
    'The signing secret is shown nowhere else. secret: null makes a new one. signature: v1 (HMAC-SHA256, the default) or '
    'v1a (ed25519). timeout: above 0, at most 60 s (default 15 s). concurrency: 1 to 1024 requests in flight (default 8). '
    'rate: requests per second (null: no limit). headers: a JSON object without credentials. auth: {"type": "basic", '
    '"bearer", "header" or "oauth2", ...}. tls: {"ca", "certificate", "key"} as PEM texts. schedule: waits between '
    'attempts, such as [5, 30, "2 min"] or {"base": 5, "factor": 2, "cap": "1 h", "jitter": 0.2}. policy: such as {"404": '
    '"retry", "4xx": "dead"}. consent: true holds deliveries until the receiver agrees. The other settings are described '
    'at the columns of outbox.endpoint. Errors: 42710 the endpoint exists already, 22004 name or url is null, 22023 a '
    'setting is malformed or out of range';

-- API: public
create function outbox.alter_endpoint(
    name text,
    url text default null,
    headers jsonb default null,
    timeout interval default null,
    concurrency int default null,
    tenant text default null,
    auth jsonb default null,
    tls jsonb default null,
    rate float8 default null,
    burst float8 default null,
    schedule jsonb default null,
    policy jsonb default null,
    breaker jsonb default null,
    protocol text default null,
    compress boolean default null,
    response_id text default null,
    keep_headers text[] default null,
    disable_after interval default null,
    disable_failures int default null,
    new_name text default null,
    subscriber_type text default null
) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    known int := outbox_internal.endpoint_id(name);
    e outbox.endpoint;
begin
    select * into e from outbox.endpoint p where p.id = known for update;
    e.name := coalesce(new_name, e.name);
    -- Another URL is another receiver, which has not given its consent.
    if e.consent <> 'none' and url <> e.url then
        e.consent := 'pending';
        perform outbox_internal.start_consent(known);
    end if;
    e.url := coalesce(url, e.url);
    e.headers := coalesce(headers, e.headers);
    e.timeout := coalesce(timeout, e.timeout);
    e.concurrency := coalesce(concurrency, e.concurrency);
    e.tenant := nullif(coalesce(tenant, e.tenant), '');
    e.rate := nullif(coalesce(rate, e.rate), 0);
    e.burst := nullif(coalesce(burst, e.burst), 0);
    e.schedule := nullif(coalesce(schedule, e.schedule), 'null');
    e.policy := nullif(coalesce(policy, e.policy), 'null');
    e.breaker := nullif(coalesce(breaker, e.breaker), 'null');
    e.protocol := coalesce(protocol, e.protocol);
    e.compress := coalesce(compress, e.compress);
    e.response_id := nullif(coalesce(response_id, e.response_id), '');
    e.keep_headers := coalesce(keep_headers, e.keep_headers);
    e.disable_after := coalesce(disable_after, e.disable_after);
    e.disable_failures := coalesce(disable_failures, e.disable_failures);
    e.subscriber_type := coalesce(subscriber_type, e.subscriber_type);
    perform outbox_internal.check_name('endpoint', e.name);
    perform outbox_internal.check_endpoint(e);
    perform outbox_internal.check_auth(nullif(auth, 'null'));
    perform outbox_internal.check_tls(nullif(tls, 'null'));
    begin
        update outbox.endpoint p
        set name = e.name, url = e.url, headers = e.headers, timeout = e.timeout, concurrency = e.concurrency,
            tenant = e.tenant, rate = e.rate, burst = e.burst, schedule = e.schedule, policy = e.policy,
            breaker = e.breaker, protocol = e.protocol, compress = e.compress, response_id = e.response_id,
            keep_headers = e.keep_headers, disable_after = e.disable_after, disable_failures = e.disable_failures,
            consent = e.consent, subscriber_type = e.subscriber_type, updated_at = clock_timestamp()
        where p.id = known;
    exception when unique_violation then
        raise exception 'endpoint "%" exists already', e.name using errcode = 'duplicate_object';
    end;
    if auth is not null or tls is not null then
        insert into outbox.endpoint_credential (endpoint_id) values (known) on conflict do nothing;
        update outbox.endpoint_credential c
        set auth = case when auth is null then c.auth else nullif(auth, 'null') end,
            ca = case when tls is null then c.ca else tls ->> 'ca' end,
            certificate = case when tls is null then c.certificate else tls ->> 'certificate' end,
            key = case when tls is null then c.key else tls ->> 'key' end
        where c.endpoint_id = known;
    end if;
    return outbox_internal.endpoint_changed(e, 'altered');
end
$$;
comment on function outbox.alter_endpoint is
    'Changes the settings of an endpoint; null leaves a setting as it is. JSON null (auth, tls, schedule, policy, '
    'breaker), 0 (rate, burst) and an empty text (tenant, response_id) remove a setting. A new URL needs a new consent if '
    'the endpoint asks for consent. Returns the id of a control message. Errors: OB001 no such endpoint, 42710 new_name '
    'exists already, 22023 a setting is malformed or out of range';

-- API: public
create function outbox.drop_endpoint(name text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known int := outbox_internal.endpoint_id(name);
    users text;
    e outbox.endpoint;
begin
    select * into e from outbox.endpoint p where p.id = known for update;
    select string_agg(format('"%s"', s.name), ', ' order by s.name) into users
    from outbox.subscription s where s.endpoint_id = known and s.deleted_at is null;
    if users is not null then
        raise exception 'endpoint "%" is in use', name using errcode = 'OB004',
            detail = format('Subscriptions: %s.', users), hint = 'outbox.unsubscribe() ends them.';
    end if;
    update outbox.endpoint p set active = false, disabled_mode = 'skip', disabled_reason = 'dropped',
        disabled_at = clock_timestamp(), deleted_at = clock_timestamp(), updated_at = clock_timestamp()
    where p.id = known;
    delete from outbox.endpoint_secret k where k.endpoint_id = known;
    delete from outbox.endpoint_credential c where c.endpoint_id = known;
    return outbox_internal.endpoint_changed(e, 'dropped');
end
$$;
comment on function outbox.drop_endpoint is
    'Drops an endpoint that no subscription uses, and deletes its secrets and credentials. Deliveries that wait for a '
    'retry are recorded as skipped. Returns the id of a control message. Errors: OB001 no such endpoint, OB004 a '
    'subscription uses it';

-- API: public
create function outbox.disable_endpoint(name text, reason text default null, mode text default 'hold') returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known int := outbox_internal.endpoint_id(name);
    e outbox.endpoint;
begin
    if mode is null or mode not in ('hold', 'skip') then
        raise exception 'unknown mode "%"', left(mode, 100) using errcode = 'invalid_parameter_value',
            hint = 'hold: deliveries wait; skip: they are recorded as skipped.';
    end if;
    perform outbox_internal.check_note(reason);
    update outbox.endpoint p set active = false, disabled_mode = mode, disabled_reason = coalesce(reason, 'by hand'),
        disabled_at = clock_timestamp(), updated_at = clock_timestamp()
    where p.id = known
    returning * into e;
    perform outbox_internal.audit('disable_endpoint', format('endpoint %s', name), reason, jsonb_build_object('mode', mode));
    return outbox_internal.endpoint_changed(e, 'disabled');
end
$$;
comment on function outbox.disable_endpoint is
    'Stops sending to an endpoint until enable_endpoint(). mode: hold (the default) keeps deliveries waiting, skip records '
    'them as skipped. Recorded in outbox.audit. Returns the id of a control message. Errors: OB001 no such endpoint, 22023 '
    'unknown mode, 54000 the reason is too large';

-- API: public
create function outbox.enable_endpoint(name text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known int := outbox_internal.endpoint_id(name);
    e outbox.endpoint;
begin
    update outbox.endpoint p set active = true, disabled_mode = null, disabled_reason = null, disabled_at = null,
        updated_at = clock_timestamp()
    where p.id = known
    returning * into e;
    update outbox.endpoint_state s set breaker = 'closed', breaker_until = null, breaker_times = 0, paused_until = null,
        failing_since = null, failures = 0, updated_at = clock_timestamp()
    where s.endpoint_id = known;
    -- Failed deliveries do not wait for their next attempt any longer. Deliveries without an attempt keep their due time.
    update outbox.delivery d set due_at = clock_timestamp(), updated_at = clock_timestamp()
    from outbox.subscription s
    where s.endpoint_id = known and d.subscription_id = s.id and not d.pull and not d.blocked and d.state = 'failed'
        and d.due_at > clock_timestamp();
    perform outbox_internal.deliveries_changed();
    perform outbox_internal.audit('enable_endpoint', format('endpoint %s', name), null);
    return outbox_internal.endpoint_changed(e, 'enabled');
end
$$;
comment on function outbox.enable_endpoint is
    'Resumes sending to an endpoint. Failed deliveries are due at once. The circuit breaker closes, a pause ends, and the '
    'count of failures is reset. Recorded in outbox.audit. Returns the id of a control message. Errors: OB001 no such '
    'endpoint';

-- API: public
create view outbox.endpoint_status as
select e.id as endpoint_id, e.name, e.url, e.kind, e.tenant,
    case when e.deleted_at is not null then 'dropped'
        when not e.active then 'disabled'
        when e.consent in ('pending', 'refused') then 'waits for consent'
        when s.paused_until > clock_timestamp() then 'paused'
        when s.breaker <> 'closed' then 'breaker ' || s.breaker
        when s.failing_since is not null then 'failing'
        else 'active' end as state,
    e.disabled_mode, e.disabled_reason, e.disabled_at, s.breaker, s.breaker_until, s.paused_until, s.failing_since,
    s.failures, s.last_failure_at, s.last_success_at, s.last_error, e.timeout, e.concurrency, e.rate, e.burst, e.protocol,
    (select count(*) from outbox.subscription u where u.endpoint_id = e.id and u.deleted_at is null) as subscriptions
from outbox.endpoint e
left join outbox.endpoint_state s on s.endpoint_id = e.id;
comment on view outbox.endpoint_status is
    'Endpoints and their state: active, failing, breaker open or half_open, paused, waits for consent, disabled or dropped';

insert into outbox._capability values
    ('admin', 'function outbox.create_endpoint'),
    ('admin', 'function outbox.alter_endpoint'),
    ('admin', 'function outbox.drop_endpoint'),
    ('admin', 'function outbox.disable_endpoint'),
    ('admin', 'function outbox.enable_endpoint'),
    ('monitor', 'table outbox.endpoint_status');
