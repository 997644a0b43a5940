-- Consent: the CloudEvents validation handshake of HTTP webhooks (OPTIONS, WebHook-Request-Origin, WebHook-Allowed-Origin,
-- WebHook-Allowed-Rate).
--
-- An endpoint that needs consent holds its deliveries until the receiver has agreed to get them. The dispatcher sends the
-- request. If there is no answer, it repeats the request after 1 minute, doubling up to 1 hour, for a day. An answer that
-- does not allow our origin is final, until request_consent() or grant_consent().

-- API: public
create table outbox.endpoint_consent (
    endpoint_id int primary key,
    requested_at timestamptz not null default clock_timestamp(),
    next_at timestamptz default clock_timestamp(),
    asked int not null default 0,
    asked_at timestamptz,
    status smallint,
    allowed_origin text,
    allowed_rate int,
    granted_by text,
    detail text
);
comment on table outbox.endpoint_consent is 'Consent handshakes: when receivers were asked, and their answers';
comment on column outbox.endpoint_consent.next_at is 'when the receiver is asked next; null: it is not asked again';
comment on column outbox.endpoint_consent.asked is 'number of requests since consent was requested';
comment on column outbox.endpoint_consent.allowed_rate is
    'requests per minute that the receiver allows; null: no limit was named';
comment on column outbox.endpoint_consent.granted_by is
    'role that called grant_consent(); null: the receiver''s own answer, or none yet';
select pg_catalog.pg_extension_config_dump('outbox.endpoint_consent', '');

-- API: private
-- Starts the handshake of an endpoint from the beginning.
create function outbox_internal.start_consent(endpoint int) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.endpoint_consent (endpoint_id) values (endpoint)
    on conflict (endpoint_id) do update set requested_at = excluded.requested_at, next_at = excluded.next_at, asked = 0,
        asked_at = null, status = null, allowed_origin = null, allowed_rate = null, granted_by = null, detail = null;
end;

-- API: public
create function outbox.request_consent(endpoint text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known int := outbox_internal.endpoint_id(endpoint);
    e outbox.endpoint;
begin
    update outbox.endpoint p set consent = 'pending', updated_at = clock_timestamp() where p.id = known returning * into e;
    perform outbox_internal.start_consent(known);
    return outbox_internal.endpoint_changed(e, 'consent requested');
end
$$;
comment on function outbox.request_consent is
    'Asks the receiver of an endpoint for consent with the CloudEvents webhook handshake, whatever its earlier answer was. '
    'Deliveries wait until it agrees. Returns the id of a control message. Errors: OB001 no such endpoint';

-- API: public
create function outbox.grant_consent(endpoint text, rate_per_minute int default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    known int := outbox_internal.endpoint_id(endpoint);
    e outbox.endpoint;
begin
    if rate_per_minute < 1 then
        raise exception 'invalid rate_per_minute' using errcode = 'invalid_parameter_value',
            hint = 'It is a number of requests above 0, or null for no limit.';
    end if;
    update outbox.endpoint p set consent = 'granted', updated_at = clock_timestamp() where p.id = known returning * into e;
    insert into outbox.endpoint_consent (endpoint_id) values (known) on conflict do nothing;
    update outbox.endpoint_consent c
    set next_at = null, allowed_rate = rate_per_minute, granted_by = session_user, detail = null
    where c.endpoint_id = known;
    return outbox_internal.endpoint_changed(e, 'consent granted');
end
$$;
comment on function outbox.grant_consent is
    'Records that the receiver has given its consent by other means than the handshake. rate_per_minute: requests per '
    'minute that it allows; null: no limit. Returns the id of a control message. Errors: OB001 no such endpoint, 22023 '
    'rate_per_minute is below 1';

-- API: private
-- Records the result of a handshake request; called by the dispatcher. `failed`: there was no answer, or one that does not
-- decide (5xx, 429).
create function outbox_internal.record_consent(
    endpoint int, origin text, failed boolean, status int, allowed_origin text, allowed_rate text, detail text
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    e outbox.endpoint;
    c outbox.endpoint_consent;
    answer text;
begin
    select * into e from outbox.endpoint p where p.id = endpoint and p.consent = 'pending' and p.deleted_at is null for update;
    -- Consent was granted, or the endpoint dropped, meanwhile.
    if e.id is null then
        return;
    end if;
    insert into outbox.endpoint_consent (endpoint_id) values (endpoint) on conflict do nothing;
    select * into c from outbox.endpoint_consent k where k.endpoint_id = endpoint for update;
    answer := case
        when failed and clock_timestamp() - c.requested_at < interval '1 day' then 'pending'
        when failed then 'refused'
        when lower(btrim(allowed_origin)) in ('*', lower(origin)) then 'granted'
        else 'refused'
    end;
    update outbox.endpoint_consent k
    set asked = c.asked + 1, asked_at = clock_timestamp(), status = record_consent.status,
        allowed_origin = left(allowed_origin, 200),
        allowed_rate = case
            when answer = 'granted' and btrim(allowed_rate) ~ '^[1-9][0-9]{0,8}$' then btrim(allowed_rate)::int end,
        next_at = case
            when answer = 'pending' then
                clock_timestamp() + least(interval '1 minute' * 2 ^ least(c.asked, 10), interval '1 hour') end,
        detail = case
            when answer = 'granted' then null
            when failed then record_consent.detail
            when allowed_origin is null then format('status %s without WebHook-Allowed-Origin', status)
            else format('WebHook-Allowed-Origin does not name "%s"', origin) end
    where k.endpoint_id = endpoint;
    if answer <> 'pending' then
        update outbox.endpoint p set consent = answer, updated_at = clock_timestamp() where p.id = endpoint;
        perform outbox_internal.endpoint_changed(e, 'consent ' || answer);
    end if;
end
$$;

insert into outbox._capability values
    ('monitor', 'table outbox.endpoint_consent'),
    ('admin', 'function outbox.request_consent'),
    ('admin', 'function outbox.grant_consent');
