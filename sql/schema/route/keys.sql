-- Order within a key: unblocks the next delivery of a key that is free again.

-- API: private
-- Unblocks the next delivery of each of these keys, and returns how many were unblocked.
create function outbox_internal.unblock_named_keys(subscriptions int[], keys text[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    promoted bigint := 0;
    late record;
    others bigint[];
begin
    -- A requeued delivery comes before the later deliveries of its key that went on without it, so these are blocked again,
    -- unless a worker has one of them. Deliveries that a claim has locked are left alone: when that lease ends, the router
    -- checks the key again.
    for late in
        select n.id, u.subscription_id, u.key
        from unnest(subscriptions, keys) u(subscription_id, key)
        cross join lateral (
            select d.id, d.blocked from outbox.delivery d
            where d.subscription_id = u.subscription_id and d.key = u.key
            order by d.position
            limit 1
        ) n
        where n.blocked and exists (
            select from outbox.delivery o
            where o.subscription_id = u.subscription_id and o.key = u.key and not o.blocked
        )
    loop
        others := array(
            select o.id from outbox.delivery o
            where o.subscription_id = late.subscription_id and o.key = late.key and not o.blocked
                and o.state <> 'processing'
            for update skip locked
        );
        update outbox.delivery d set blocked = true, updated_at = clock_timestamp() where d.id = any (others);
    end loop;
    with next as (
        select n.id
        from unnest(subscriptions, keys) f(subscription_id, key)
        join outbox.subscription s on s.id = f.subscription_id
        cross join lateral (
            select d.id, d.blocked from outbox.delivery d
            where d.subscription_id = f.subscription_id and d.key = f.key
            order by d.position
            limit 1
        ) n
        where n.blocked
            -- one delivery per key at a time
            and not exists (
                select from outbox.delivery o
                where o.subscription_id = f.subscription_id and o.key = f.key and not o.blocked
            )
            and not (s.on_exhausted = 'block' and exists (
                select from outbox.dead_letter l
                where l.subscription_id = f.subscription_id and l.key = f.key and l.resolution = 'open'
            ))
    ), unblocked as (
        update outbox.delivery d set blocked = false, updated_at = clock_timestamp() from next n where d.id = n.id
        returning d.pull, d.subscription_id, d.priority, d.due_at
    )
    select count(*), count(case when u.pull then outbox_internal.lower_claim_hint(u.subscription_id, u.priority,
        u.due_at) end)
    into promoted
    from unblocked u;
    return promoted;
end
$$;

-- API: private
-- Unblocks the next delivery of up to `max` keys in outbox._freed_key. Called only by the router. With on_exhausted =
-- block, an open dead letter keeps its key blocked.
create function outbox_internal.unblock_keys(max int) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    places tid[];
    subscriptions int[];
    keys text[];
begin
    -- The table holds only the keys that were freed since the last pass.
    places := array(select f.ctid from outbox._freed_key f limit max);
    if cardinality(places) = 0 then
        return 0;
    end if;
    with freed as (
        delete from outbox._freed_key f where f.ctid = any (places) returning f.subscription_id, f.key
    )
    select array_agg(f.subscription_id), array_agg(f.key) into subscriptions, keys
    from (select distinct f.subscription_id, f.key from freed f) f;
    return outbox_internal.unblock_named_keys(subscriptions, keys);
end
$$;
