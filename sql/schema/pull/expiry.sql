-- Leases that have expired: their deliveries are taken back.

-- API: private
-- Takes back a lease that has ended; returns how many deliveries that were. The try counts: a worker that crashes over a
-- message does not get it for ever.
create function outbox._take_back_one(ended outbox.lease, at timestamptz) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    deliveries bigint;
begin
    deliveries := cardinality(outbox._fail(ended, null,
        case when ended.deadline_at <= at then 'deadline' else 'lease_expired' end,
        format('worker "%s" did not say what became of it', ended.worker), interval '0', null));
    -- Also when all its deliveries are gone in some other way.
    delete from outbox.lease l where l.id = ended.id;
    return deliveries;
end
$$;

-- API: private
-- Takes back leases that ended before `at`, at most `max`; returns how many deliveries that were.
create function outbox._take_back(at timestamptz, max int) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    ended outbox.lease;
    deliveries bigint := 0;
begin
    for ended in
        select * from outbox.lease l where l.expires_at <= at order by l.expires_at limit max for update skip locked
    loop
        deliveries := deliveries + outbox._take_back_one(ended, at);
    end loop;
    return deliveries;
end
$$;

-- API: public
create function outbox.unlock_stale(older_than interval, subscription text default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    only_of int := case when subscription is not null then outbox._subscription_id(subscription) end;
    ended outbox.lease;
    deliveries bigint := 0;
begin
    if older_than is null or older_than < interval '0' then
        raise exception 'older_than must not be null or negative' using errcode = 'invalid_parameter_value';
    end if;
    for ended in
        select * from outbox.lease l
        where l.claimed_at <= clock_timestamp() - older_than and (only_of is null or l.subscription_id = only_of)
        for update skip locked
    loop
        deliveries := deliveries + cardinality(outbox._fail(ended, null, 'unlocked',
            format('taken back from worker "%s" by hand', ended.worker), interval '0', null));
        delete from outbox.lease l where l.id = ended.id;
    end loop;
    return deliveries;
end
$$;
comment on function outbox.unlock_stale is
    'Takes leases back that were claimed longer ago than this, whatever their end; returns how many deliveries are '
    'free again';

insert into outbox._capability values
    ('admin', 'function outbox.unlock_stale');
