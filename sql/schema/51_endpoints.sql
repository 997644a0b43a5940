-- Endpoints: where pushed messages go.
--
-- Each change writes a control message in its transaction: the dispatcher reads the endpoints again when it routes it.

-- API: private
-- Raise 22023 that names the entry; return their argument.
create function outbox._check_schedule(schedule jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_schedule';
-- API: private
create function outbox._check_policy(policy jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_policy';
-- API: private
create function outbox._check_breaker(breaker jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_breaker';
-- API: private
create function outbox._check_auth(auth jsonb) returns jsonb language c stable strict
as 'MODULE_PATHNAME', 'outbox_check_auth';
-- API: private
create function outbox._check_tls(tls jsonb) returns jsonb language c stable strict
as 'MODULE_PATHNAME', 'outbox_check_tls';
-- API: private
create function outbox._check_response_id(rule text) returns text language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_response_id';
-- API: private
create function outbox._new_secret(ed25519 boolean) returns text language c volatile strict
as 'MODULE_PATHNAME', 'outbox_new_secret';
-- API: private
create function outbox._public_key(secret text) returns text language c immutable strict
as 'MODULE_PATHNAME', 'outbox_public_key';
-- API: private
-- The jitter of a schedule, and behind it the first `tries` waits, in seconds.
create function outbox._waits(schedule jsonb, tries int) returns float8[] language c immutable
as 'MODULE_PATHNAME', 'outbox_waits';

-- API: private
-- What is wrong with the settings of an endpoint, if anything, is raised.
create function outbox._check_endpoint(e outbox.endpoint) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    header text;
begin
    if e.url is null then
        raise exception 'url must not be null' using errcode = 'null_value_not_allowed';
    end if;
    perform outbox._check_url(e.url);
    perform outbox._check_headers(e.headers);
    select k into header from jsonb_object_keys(e.headers) k
    where lower(k) in ('authorization', 'proxy-authorization', 'cookie');
    if header is not null then
        raise exception 'invalid headers: "%" holds a credential', header using errcode = 'invalid_parameter_value',
            detail = 'The headers of an endpoint can be read by everyone who may monitor it.',
            hint = 'Give it as auth, which only the owner of the extension reads: {"type": "bearer", "token": "..."}.';
    end if;
    if e.timeout is null or e.timeout <= interval '0' or e.timeout > interval '60 s' then
        raise exception 'invalid timeout' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(e.timeout::text, 'null')),
            hint = 'The timeout of an endpoint is above 0 and at most 60 seconds.';
    end if;
    if e.concurrency is null or e.concurrency not between 1 and 1024 then
        raise exception 'invalid concurrency' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(e.concurrency::text, 'null')),
            hint = 'The concurrency of an endpoint is between 1 and 1024 requests.';
    end if;
    if e.rate <= 0 or e.rate > 1000000 or e.rate = 'NaN' then
        raise exception 'invalid rate' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', e.rate), hint = 'The rate of an endpoint is above 0 and at most 1000000 requests per second.';
    end if;
    if e.burst < 1 or e.burst > 1000000 or e.burst = 'NaN' then
        raise exception 'invalid burst' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', e.burst), hint = 'The burst of an endpoint is between 1 and 1000000 requests.';
    end if;
    if e.kind is distinct from 'webhook' then
        raise exception 'unknown kind of endpoint "%"', e.kind using errcode = 'invalid_parameter_value',
            hint = 'The one kind there is, is webhook.';
    end if;
    if e.protocol is null or e.protocol not in ('auto', 'http1', 'http2') then
        raise exception 'unknown protocol "%"', e.protocol using errcode = 'invalid_parameter_value',
            hint = 'It is auto, http1 or http2.';
    end if;
    if e.subscriber_type is null or e.subscriber_type not in ('client', 'service') then
        raise exception 'invalid subscriber_type' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(e.subscriber_type, 'null')),
            hint = 'It is client or service.';
    end if;
    perform outbox._check_schedule(e.schedule);
    perform outbox._check_policy(e.policy);
    perform outbox._check_breaker(e.breaker);
    perform outbox._check_response_id(e.response_id);
    if cardinality(e.keep_headers) > 20 or exists (
        select from unnest(e.keep_headers) h where h is null or h !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,100}$'
    ) then
        raise exception 'invalid keep_headers' using errcode = 'invalid_parameter_value',
            hint = 'It lists at most 20 names of response headers.';
    end if;
    if outbox._is_duration(e.disable_after) is not true or e.disable_failures is null or e.disable_failures < 1 then
        raise exception 'invalid disable_after or disable_failures' using errcode = 'invalid_parameter_value',
            hint = 'An endpoint is disabled after a time above 0 and at least one failure; 100 years, the longest, means never.';
    end if;
end
$$;

-- API: private
create function outbox._endpoint_changed(e outbox.endpoint, what text) returns bigint
language sql volatile
set search_path = pg_catalog, pg_temp
return outbox._enqueue_own('outbox.control', jsonb_build_object('endpoint', e.id, 'name', e.name, 'change', what));

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
    perform outbox._check_name('endpoint', name);
    if signature is null or signature not in ('v1', 'v1a') then
        raise exception 'unknown signature "%"', signature using errcode = 'invalid_parameter_value',
            hint = 'It is v1 (HMAC-SHA256) or v1a (ed25519).';
    end if;
    signing_secret := coalesce(outbox._check_secret(secret), outbox._new_secret(signature = 'v1a'));
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
    perform outbox._check_endpoint(e);
    perform outbox._check_auth(auth);
    perform outbox._check_tls(tls);
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
        perform outbox._start_consent(e.id);
    end if;
    endpoint_id := e.id;
    message_id := outbox._endpoint_changed(e, 'created');
    return next;
end
$$;
comment on function outbox.create_endpoint is
    'Makes an HTTP target. The row that is returned is the only place where the signing secret is shown.';

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
    known int := outbox._endpoint_id(name);
    e outbox.endpoint;
begin
    select * into e from outbox.endpoint p where p.id = known for update;
    e.name := coalesce(new_name, e.name);
    -- Another URL is another receiver, whose consent nobody has yet.
    if e.consent <> 'none' and url <> e.url then
        e.consent := 'pending';
        perform outbox._start_consent(known);
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
    perform outbox._check_name('endpoint', e.name);
    perform outbox._check_endpoint(e);
    perform outbox._check_auth(nullif(auth, 'null'));
    perform outbox._check_tls(nullif(tls, 'null'));
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
    return outbox._endpoint_changed(e, 'altered');
end
$$;
comment on function outbox.alter_endpoint is
    'Changes what is given and leaves the rest; JSON null, 0 and the empty text take a setting away';

-- API: public
create function outbox.drop_endpoint(name text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known int := outbox._endpoint_id(name);
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
    return outbox._endpoint_changed(e, 'dropped');
end
$$;
comment on function outbox.drop_endpoint is
    'Removes an endpoint that no subscription uses, with its secrets; what waits for a retry there is recorded as skipped';

-- API: public
create function outbox.disable_endpoint(name text, reason text default null, mode text default 'hold') returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known int := outbox._endpoint_id(name);
    e outbox.endpoint;
begin
    if mode is null or mode not in ('hold', 'skip') then
        raise exception 'unknown mode "%"', mode using errcode = 'invalid_parameter_value',
            hint = 'hold: deliveries wait; skip: they are recorded as skipped.';
    end if;
    update outbox.endpoint p set active = false, disabled_mode = mode, disabled_reason = coalesce(reason, 'by hand'),
        disabled_at = clock_timestamp(), updated_at = clock_timestamp()
    where p.id = known
    returning * into e;
    return outbox._endpoint_changed(e, 'disabled');
end
$$;
comment on function outbox.disable_endpoint is
    'Sends nothing to an endpoint until enable_endpoint(). hold: deliveries wait; skip: they are recorded as skipped';

-- API: public
create function outbox.enable_endpoint(name text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known int := outbox._endpoint_id(name);
    e outbox.endpoint;
begin
    update outbox.endpoint p set active = true, disabled_mode = null, disabled_reason = null, disabled_at = null,
        updated_at = clock_timestamp()
    where p.id = known
    returning * into e;
    update outbox.endpoint_state s set breaker = 'closed', breaker_until = null, breaker_times = 0, paused_until = null,
        failing_since = null, failures = 0, updated_at = clock_timestamp()
    where s.endpoint_id = known;
    -- What has failed does not wait for its next try any longer; what has never been tried waits as it was asked to.
    update outbox.delivery d set due_at = clock_timestamp(), updated_at = clock_timestamp()
    from outbox.subscription s
    where s.endpoint_id = known and d.subscription_id = s.id and not d.pull and not d.blocked and d.state = 'failed'
        and d.due_at > clock_timestamp();
    perform outbox._look_at_deliveries();
    return outbox._endpoint_changed(e, 'enabled');
end
$$;
comment on function outbox.enable_endpoint is
    'Sends again, first what has waited, failed deliveries at once; breaker, pause and count of failures start afresh';

-- API: public
create function outbox.rotate_secret(name text, secret text default null, overlap interval default '24 h')
returns table (signing_secret text, message_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    known int := outbox._endpoint_id(name);
    e outbox.endpoint;
    moment timestamptz := clock_timestamp();
    ed25519 boolean;
begin
    if overlap is null or overlap < interval '0' or overlap > interval '30 days' then
        raise exception 'invalid overlap' using errcode = 'invalid_parameter_value',
            hint = 'The old secret signs beside the new one for at least 0 and at most 30 days.';
    end if;
    select * into e from outbox.endpoint p where p.id = known for update;
    -- The new one is of the kind of the one in force.
    select starts_with(k.secret, 'whsk_') into ed25519
    from outbox.endpoint_secret k where k.endpoint_id = known order by k.created_at desc limit 1;
    signing_secret := coalesce(outbox._check_secret(secret), outbox._new_secret(coalesce(ed25519, false)));
    update outbox.endpoint_secret k set expires_at = least(k.expires_at, moment + overlap) where k.endpoint_id = known;
    insert into outbox.endpoint_secret (endpoint_id, created_at, secret) values (known, moment, signing_secret);
    -- At most five old ones.
    delete from outbox.endpoint_secret k
    where k.endpoint_id = known and (
        k.expires_at <= moment
        or k.created_at < (
            select min(l.created_at) from (
                select o.created_at from outbox.endpoint_secret o
                where o.endpoint_id = known order by o.created_at desc limit 6
            ) l
        )
    );
    message_id := outbox._endpoint_changed(e, 'secret rotated');
    return next;
end
$$;
comment on function outbox.rotate_secret is
    'Gives an endpoint a new secret, shown here alone; the old one signs beside it until the overlap has passed';

-- API: public
create function outbox.public_keys(endpoint text)
returns table (public_key text, created_at timestamptz, expires_at timestamptz)
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select outbox._public_key(k.secret), k.created_at, k.expires_at
    from outbox.endpoint_secret k
    where k.endpoint_id = outbox._endpoint_id(endpoint) and outbox._public_key(k.secret) is not null
    order by k.created_at desc;
end;
comment on function outbox.public_keys is
    'What receivers verify v1a signatures of this endpoint with, the current key first; nothing for v1';

-- API: public
create view outbox.endpoints as
select e.id, e.name, e.url, e.kind, e.tenant,
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
comment on view outbox.endpoints is 'Endpoints and how they are doing: state, breaker, pause, failures';

-- API: public
create function outbox.describe_schedule(subscription text)
returns table (attempt int, wait interval, planned interval, earliest interval, latest interval)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    s outbox.subscription;
    waits float8[];
begin
    select * into s from outbox.subscription u where u.id = outbox._subscription_id(subscription);
    waits := outbox._waits(
        coalesce(s.schedule, (select e.schedule from outbox.endpoint e where e.id = s.endpoint_id)), s.max_attempts - 1);
    attempt := 1;
    wait := interval '0';
    planned := interval '0';
    earliest := interval '0';
    latest := interval '0';
    return next;
    -- a schedule that goes on for longer than that says nothing more
    for i in 2..least(s.max_attempts, 10000) loop
        attempt := i;
        wait := make_interval(secs => waits[i]);
        planned := planned + wait;
        earliest := earliest + wait * (1 - waits[1]);
        latest := latest + wait * (1 + waits[1]);
        exit when planned > s.max_age;
        return next;
    end loop;
end
$$;
comment on function outbox.describe_schedule is
    'When the tries of a subscription are made, counted from the first: planned, and with the least and the most jitter';

insert into outbox._capability values
    ('admin', 'function outbox.create_endpoint'),
    ('admin', 'function outbox.alter_endpoint'),
    ('admin', 'function outbox.drop_endpoint'),
    ('admin', 'function outbox.disable_endpoint'),
    ('admin', 'function outbox.enable_endpoint'),
    ('admin', 'function outbox.rotate_secret'),
    ('monitor', 'table outbox.endpoints'),
    ('monitor', 'function outbox.public_keys'),
    ('monitor', 'function outbox.describe_schedule');
