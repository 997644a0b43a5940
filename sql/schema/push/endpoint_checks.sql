-- Checks of an endpoint's settings. Each function raises 22023 and names the setting that is invalid.

-- API: private
-- This function and the next five return their argument, or raise 22023 that names the invalid entry.
create function outbox_internal.check_schedule(schedule jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_schedule';

-- API: private
create function outbox_internal.check_policy(policy jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_policy';

-- API: private
create function outbox_internal.check_breaker(breaker jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_breaker';

-- API: private
create function outbox_internal.check_auth(auth jsonb) returns jsonb language c stable strict
as 'MODULE_PATHNAME', 'outbox_check_auth';

-- API: private
create function outbox_internal.check_tls(tls jsonb) returns jsonb language c stable strict
as 'MODULE_PATHNAME', 'outbox_check_tls';

-- API: private
create function outbox_internal.check_response_id(rule text) returns text language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_response_id';

-- API: private
-- Raises 22004 or 22023 for the first invalid setting of an endpoint.
create function outbox_internal.check_endpoint(e outbox.endpoint) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    header text;
begin
    if e.url is null then
        raise exception 'url must not be null' using errcode = 'null_value_not_allowed';
    end if;
    perform outbox_internal.check_url(e.url);
    perform outbox_internal.check_headers(e.headers);
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
        raise exception 'unknown kind of endpoint "%"', left(e.kind, 100) using errcode = 'invalid_parameter_value',
            hint = 'The one kind there is, is webhook.';
    end if;
    if e.protocol is null or e.protocol not in ('auto', 'http1', 'http2') then
        raise exception 'unknown protocol "%"', left(e.protocol, 100) using errcode = 'invalid_parameter_value',
            hint = 'It is auto, http1 or http2.';
    end if;
    if e.subscriber_type is null or e.subscriber_type not in ('client', 'service') then
        raise exception 'invalid subscriber_type' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(e.subscriber_type, 'null')),
            hint = 'It is client or service.';
    end if;
    perform outbox_internal.check_schedule(e.schedule);
    perform outbox_internal.check_policy(e.policy);
    perform outbox_internal.check_breaker(e.breaker);
    perform outbox_internal.check_response_id(e.response_id);
    if cardinality(e.keep_headers) > 20 or exists (
        select from unnest(e.keep_headers) h where h is null or h !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,100}$'
    ) then
        raise exception 'invalid keep_headers' using errcode = 'invalid_parameter_value',
            hint = 'It lists at most 20 names of response headers.';
    end if;
    if outbox_internal.is_duration(e.disable_after) is not true or e.disable_failures is null or e.disable_failures < 1 then
        raise exception 'invalid disable_after or disable_failures' using errcode = 'invalid_parameter_value',
            hint = 'An endpoint is disabled after a time above 0 and at least one failure; 100 years, the longest, means never.';
    end if;
end
$$;
