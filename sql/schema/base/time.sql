-- Times and durations: conversions, and the range that is accepted.

-- API: private
-- Converts microseconds since 2000-01-01 UTC, the unit that the dispatcher uses, to a timestamptz.
create function outbox_internal.time(us bigint) returns timestamptz
language sql immutable parallel safe
return case
    when us >= 9223371331200000000 then 'infinity'::timestamptz
    when us < -211813488000000000 then '-infinity'::timestamptz
    else timestamptz '2000-01-01 00:00:00+00' + us * interval '1 microsecond'
end;

-- API: private
-- Converts a timestamptz to microseconds since 2000-01-01 UTC.
create function outbox_internal.us(at timestamptz) returns bigint
language sql immutable parallel safe
return case
    when isfinite(at) then ((extract(epoch from at) - 946684800) * 1000000)::bigint
    when at > timestamptz '2000-01-01 00:00:00+00' then 9223372036854775807
    when at is not null then -9223372036854775808
end;

-- API: private
-- The microseconds of a duration, limited to 100 years. This is longer than anything waits, and short enough to be added to
-- a time.
create function outbox_internal.duration_us(duration interval) returns bigint
language sql immutable strict parallel safe
return (extract(epoch from least(greatest(duration, interval '-100 years'), interval '100 years')) * 1000000)::bigint;

-- API: private
-- Whether a duration is valid as a wait: above 0, and at most 100 years, so that it can be added to a time.
create function outbox_internal.is_duration(duration interval) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
return duration > interval '0' and duration <= interval '100 years';

-- API: private
-- Raises 22023 for a time outside the years 1 to 9999. Every format can write a time in this range, and a duration can be
-- added to it.
create function outbox_internal.check_time(what text, at timestamptz) returns void
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
