-- Retry schedules, as a person reads them.

-- API: private
-- The jitter of a schedule, and behind it the first `tries` waits, in seconds.
create function outbox._waits(schedule jsonb, tries int) returns float8[] language c immutable
as 'MODULE_PATHNAME', 'outbox_waits';

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
    ('monitor', 'function outbox.describe_schedule');
