-- Retry schedules in readable form.

-- API: private
-- The jitter of a schedule (first element), followed by the first `tries` waits in seconds.
create function outbox_internal.waits(schedule jsonb, tries int) returns float8[] language c immutable
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
    select * into s from outbox.subscription u where u.id = outbox_internal.subscription_id(subscription);
    waits := outbox_internal.waits(
        coalesce(s.schedule, (select e.schedule from outbox.endpoint e where e.id = s.endpoint_id)), s.max_attempts - 1);
    attempt := 1;
    wait := interval '0';
    planned := interval '0';
    earliest := interval '0';
    latest := interval '0';
    return next;
    -- a longer list would tell nothing more
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
    'Returns one row per attempt of a subscription (10000 at most). wait: time after the attempt before. planned, earliest '
    'and latest: time after the first attempt, without jitter, with the least and with the most jitter. The list ends at '
    'max_age. Errors: OB001 no such subscription';

insert into outbox._capability values
    ('monitor', 'function outbox.describe_schedule');
