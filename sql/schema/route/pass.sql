-- The router's pass: takes back expired leases, expires deliveries, unblocks keys, and finishes the work that other sessions
-- left to the router.

-- API: private
-- Moves up to `max` deliveries that expired at or before `at` to the dead letters, with the state `expired`. in_flight: ids
-- of the deliveries that the dispatcher has sent, which are left alone. Returns how many were moved.
create function outbox_internal.expire(at timestamptz, max int, in_flight bigint[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    ids bigint[] := array(
        select d.id from outbox.delivery d
        where d.expires_at <= at and d.state <> 'processing' and d.id <> all (in_flight)
        order by d.expires_at
        limit max
        for update skip locked
    );
begin
    if cardinality(ids) = 0 then
        return 0;
    end if;
    return outbox_internal.dead_letter_deliveries(ids, array_fill('expired'::text, array[cardinality(ids)]), true);
end
$$;

-- API: private
-- Ends the deliveries of an ended pull subscription, except those that a worker has or another session has locked. When none
-- is left, the subscription is removed from outbox._ended_subscription. Returns how many deliveries were ended.
create function outbox_internal.end_one_subscription(ending int) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    cleared bigint := 0;
begin
    if exists (
        select from outbox.subscription s where s.id = ending and s.deleted_at is not null and s.endpoint_id is null
    ) then
        cleared := outbox_internal.skip_deliveries(ending, 'unsubscribed');
        if exists (select from outbox.delivery d where d.subscription_id = ending)
            or exists (select from outbox._bundle b where b.subscription_id = ending) then
            return cleared;
        end if;
    end if;
    delete from outbox._ended_subscription e where e.subscription_id = ending;
    return cleared;
end
$$;

-- API: private
-- Ends deliveries of up to `max` ended pull subscriptions, and returns how many.
create function outbox_internal.end_subscriptions(max int) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    ending int;
    cleared bigint := 0;
begin
    for ending in select distinct e.subscription_id from outbox._ended_subscription e limit max loop
        cleared := cleared + outbox_internal.end_one_subscription(ending);
    end loop;
    return cleared;
end
$$;

-- API: private
-- One pass of the router, with at most `max` items of each kind.
--
-- - more: there is more to do now.
-- - soon: something is leased, about to expire within 10 s, cancelled or ending, so the next pass should come soon.
-- - free: number of deliveries that workers can claim again.
create function outbox_internal.router_pass(
    max int,
    in_flight bigint[],
    out more boolean,
    out soon boolean,
    out free bigint
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    at timestamptz := clock_timestamp();
    worked bigint;
    called_off bigint[] := array(select c.message_id from outbox._cancelled_lately c limit max);
begin
    free := outbox_internal.take_back(at, max);
    if cardinality(called_off) > 0 then
        perform outbox_internal.end_cancelled(called_off, in_flight);
        delete from outbox._cancelled_lately c
        where c.message_id = any (called_off)
            and not exists (select from outbox_internal.open_of(c.message_id));
    end if;
    worked := free + outbox_internal.expire(at, max, in_flight) + outbox_internal.end_subscriptions(max);
    free := free + outbox_internal.unblock_keys(max);
    more := worked > 0 and (
        exists (select from outbox.lease l where l.expires_at <= at)
        or exists (
            select from outbox.delivery d
            where d.expires_at <= at and d.state <> 'processing' and d.id <> all (in_flight)
        )
    ) or exists (select from outbox._freed_key);
    soon := exists (select from outbox.lease)
        or exists (select from outbox._cancelled_lately) or exists (select from outbox._ended_subscription)
        or exists (
            select from outbox.delivery d
            where d.expires_at is not null and d.expires_at < at + interval '10 s' and d.state <> 'processing'
        );
end
$$;

-- API: private
-- Does the work of outbox_internal.router_pass() with each lease, delivery, message, subscription and key in a
-- subtransaction of its
-- own. Called after outbox_internal.router_pass() has failed. An item that fails is recorded in outbox.fault, and
-- everything else goes
-- on. A lease or an expiry that failed is tried again after a minute. A cancellation, the end of a subscription or the
-- unblocking of a key that failed is not tried again by itself.
create function outbox_internal.router_pass_apart(max int, in_flight bigint[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    at timestamptz := clock_timestamp();
    later timestamptz := at + interval '1 minute';
    ended outbox.lease;
    item record;
begin
    for ended in
        select * from outbox.lease l where l.expires_at <= at order by l.expires_at limit max for update skip locked
    loop
        begin
            perform outbox_internal.take_back_one(ended, at);
        exception when others then
            perform outbox_internal.note_faults('{lease}', array[ended.id], '{take back}', array[sqlerrm]);
            update outbox.lease l set expires_at = later where l.id = ended.id;
        end;
    end loop;
    for item in select c.message_id from outbox._cancelled_lately c limit max loop
        begin
            perform outbox_internal.end_cancelled(array[item.message_id], in_flight);
            delete from outbox._cancelled_lately c
            where c.message_id = item.message_id and not exists (select from outbox_internal.open_of(c.message_id));
        exception when others then
            perform outbox_internal.note_faults('{message}', array[item.message_id], '{cancel}', array[sqlerrm]);
            delete from outbox._cancelled_lately c where c.message_id = item.message_id;
        end;
    end loop;
    for item in
        select d.id, d.message_id from outbox.delivery d
        where d.expires_at <= at and d.state <> 'processing' and d.id <> all (in_flight)
        order by d.expires_at
        limit max
        for update skip locked
    loop
        begin
            perform outbox_internal.dead_letter_deliveries(array[item.id], '{expired}', true);
        exception when others then
            perform outbox_internal.note_faults('{message}', array[item.message_id], '{expire}', array[sqlerrm]);
            update outbox.delivery d set expires_at = later where d.id = item.id;
        end;
    end loop;
    for item in select distinct e.subscription_id from outbox._ended_subscription e limit max loop
        begin
            perform outbox_internal.end_one_subscription(item.subscription_id);
        exception when others then
            perform outbox_internal.note_faults('{subscription}', array[item.subscription_id::bigint], '{unsubscribe}',
                array[sqlerrm]);
            delete from outbox._ended_subscription e where e.subscription_id = item.subscription_id;
        end;
    end loop;
    for item in select distinct f.subscription_id, f.key from outbox._freed_key f limit max loop
        begin
            perform outbox_internal.unblock_named_keys(array[item.subscription_id], array[item.key]);
        exception when others then
            perform outbox_internal.note_faults('{subscription}', array[item.subscription_id::bigint], '{unblock}', array[sqlerrm]);
        end;
        delete from outbox._freed_key f where f.subscription_id = item.subscription_id and f.key = item.key;
    end loop;
end
$$;
