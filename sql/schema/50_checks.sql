-- What endpoints, subscriptions and the like have in common: names, lookups, checks.

-- API: private
-- Raise 22023 that says what is wrong; return their argument.
create function outbox._check_url(url text) returns text language c immutable strict as 'MODULE_PATHNAME', 'outbox_check_url';
-- API: private
create function outbox._check_patterns(patterns text[]) returns text[] language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_patterns';
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
-- Whether something can wait for so long: above 0, and at most a hundred years, so that a time and a duration can be added.
create function outbox._is_duration(duration interval) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
return duration > interval '0' and duration <= interval '100 years';

-- API: private
-- Raises 22023 unless the time is one that every format can write and to which a duration can be added.
create function outbox._check_time(what text, at timestamptz) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if at < timestamptz '0001-01-01 00:00:00+00' or at >= timestamptz '10000-01-01 00:00:00+00' then
        raise exception '% is out of range', what using errcode = 'invalid_parameter_value',
            hint = 'It is a time between the years 1 and 9999.';
    end if;
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

-- API: private
-- Whether a message is on one of the topics and passes the filter, its SQL/JSON path apart. Topics null: all.
create function outbox._matches(
    topics text[],
    filter jsonb,
    topic text,
    tenant text,
    key text,
    aggregate_type text,
    aggregate_id text,
    headers jsonb
) returns boolean
language c immutable parallel safe
as 'MODULE_PATHNAME', 'outbox_matches';
