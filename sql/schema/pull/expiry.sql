-- Expired leases: their deliveries are taken back.

-- API: private
-- Takes back one expired lease, which the caller has locked, and returns the number of its deliveries. The attempt counts,
-- so a message that crashes its workers is not claimed for ever.
create function outbox_internal.take_back_one(ended outbox.lease, at timestamptz) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    deliveries bigint;
begin
    deliveries := cardinality(outbox_internal.fail(ended, null,
        case when ended.deadline_at <= at then 'deadline' else 'lease_expired' end,
        format('worker "%s" did not say what became of it', ended.worker), interval '0', null));
    -- The lease ends even if all its deliveries have ended in some other way.
    delete from outbox.lease l where l.id = ended.id;
    return deliveries;
end
$$;

-- API: private
-- Takes back at most `max` leases that expired at or before `at`, and returns the number of their deliveries.
create function outbox_internal.take_back(at timestamptz, max int) returns bigint
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
        deliveries := deliveries + outbox_internal.take_back_one(ended, at);
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
    only_of int := case when subscription is not null then outbox_internal.subscription_id(subscription) end;
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
        deliveries := deliveries + cardinality(outbox_internal.fail(ended, null, 'unlocked',
            format('taken back from worker "%s" by hand', ended.worker), interval '0', null));
        delete from outbox.lease l where l.id = ended.id;
    end loop;
    return deliveries;
end
$$;
comment on function outbox.unlock_stale is
    'Takes back every lease that was claimed at least older_than ago, even if the lease has not expired; subscription '
    'null: of all subscriptions. Leases that another session has locked are skipped. The attempt counts as failed, and the '
    'deliveries are due again at once, or dead letters after their last attempt. Returns the number of deliveries. Errors: '
    '22023 older_than is null or negative, OB001 no such subscription';

insert into outbox._capability values
    ('admin', 'function outbox.unlock_stale');
