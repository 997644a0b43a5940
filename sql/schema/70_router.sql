-- The router's side of pull: it alone makes deliveries and unblocks the next of a key, be it the dispatcher or an inline
-- claim under the sequencer's lock; and what time brings about is done in its pass.

-- API: private
-- Subscriptions that have ended while rows of them may still wait. A row that somebody had locked at that moment, that a
-- worker has, or that the router was just making is ended by a later pass.
create table outbox._ending (
    subscription_id int not null
);
select pg_catalog.pg_extension_config_dump('outbox._ending', '');

-- API: private
-- Rows made by the router in the transaction of its checkpoint: of pull subscriptions, and of messages whose time has not
-- come. In a subscription with an order a row is blocked when its key has another one, or, if the subscription says so, an
-- open dead letter.
create function outbox._open_deliveries(
    pull boolean[],
    subscription_ids int[],
    positions bigint[],
    message_ids bigint[],
    segments smallint[],
    priorities smallint[],
    due_us bigint[],
    expires_us bigint[],
    max_attempts int[],
    keys text[]
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.delivery (pull, subscription_id, position, message_id, message_segment, state, priority, due_at,
        expires_at, max_attempts, key, blocked)
    select u.pull, u.subscription_id, u.position, u.message_id, u.segment, 'pending', u.priority, outbox._time(u.due_at),
        outbox._time(u.expires_at), u.max_attempts, u.key,
        u.key is not null and (
            lag(u.position) over (partition by u.subscription_id, u.key order by u.position) is not null
            or exists (select from outbox.delivery d where d.subscription_id = u.subscription_id and d.key = u.key)
            or exists (
                select from outbox.dead_letter l
                where l.subscription_id = u.subscription_id and l.key = u.key and l.resolution = 'open'
                    and (select s.on_exhausted from outbox.subscription s where s.id = u.subscription_id) = 'block'
            )
        )
    from unnest(pull, subscription_ids, positions, message_ids, segments, priorities, due_us, expires_us, max_attempts,
        keys)
        u(pull, subscription_id, position, message_id, segment, priority, due_at, expires_at, max_attempts, key)
    on conflict (subscription_id, position, run) do nothing;
end;

-- API: private
-- Whether any message between the first and the last of these is cancelled: one look, where looking for each would take
-- longer than all the rest.
create function outbox._cancelled_near(message_ids bigint[]) returns boolean
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select exists (
        select from outbox.cancelled c
        where c.message_id between (select min(u) from unnest(message_ids) u) and (select max(u) from unnest(message_ids) u)
    );
end;

-- API: private
-- After rows and bundles of these subscriptions and messages have been made. Returns whose workers want to be notified.
create function outbox._opened(subscription_ids int[], message_ids bigint[]) returns int[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The router may have looked before they were cancelled.
    if outbox._cancelled_near(message_ids) then
        insert into outbox._called_off (message_id)
        select c.message_id from outbox.cancelled c where c.message_id = any (message_ids);
    end if;
    insert into outbox._ending (subscription_id)
    select s.id from outbox.subscription s where s.id = any (subscription_ids) and s.deleted_at is not null;
    return array(select s.id from outbox.subscription s where s.id = any (subscription_ids) and s.notify);
end
$$;

-- API: private
-- Deliveries without a row that end before they were tried: expired while their subscription lagged, or cancelled.
create function outbox._record_ended(
    subscription_ids int[],
    positions bigint[],
    message_ids bigint[],
    segments smallint[],
    outcomes text[]
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.attempt (segment, position, message_id, started_at, finished_at, run, subscription_id, endpoint_id,
        attempt, outcome)
    select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), u.position, u.message_id, clock_timestamp(),
        clock_timestamp(), 0, u.subscription_id, s.endpoint_id, 0, u.outcome
    from unnest(subscription_ids, positions, message_ids, outcomes) u(subscription_id, position, message_id, outcome)
    left join outbox.subscription s on s.id = u.subscription_id;

    insert into outbox.dead_letter (subscription_id, endpoint_id, position, message_id, message_segment, attempt, state,
        reason, url, created_at)
    select u.subscription_id, s.endpoint_id, u.position, u.message_id, u.segment, 0, 'expired', 'expired', e.url,
        clock_timestamp()
    from unnest(subscription_ids, positions, message_ids, segments, outcomes)
        u(subscription_id, position, message_id, segment, outcome)
    left join outbox.subscription s on s.id = u.subscription_id
    left join outbox.endpoint e on e.id = s.endpoint_id
    where u.outcome = 'expired';

    select outbox._count_ended(subscription_ids, outcomes);
end;

-- API: private
-- The wait after try number `attempt` of a delivery, with jitter, from a schedule as subscribe() takes it; null:
-- the default.
create function outbox._retry_wait(schedule jsonb, attempt int, message_id bigint, subscription_id int) returns interval
language c volatile as 'MODULE_PATHNAME', 'outbox_retry_wait';

-- API: private
-- Ticks and routes where no dispatcher can: the library is not preloaded. In a transaction without an xid.
create function outbox._route_inline() returns text language c volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as 'MODULE_PATHNAME', 'outbox_route_inline';

-- API: private
-- Tells workers that listen on outbox_pull that there is something to claim; the payload is the subscription's name.
create function outbox._notify_workers(subscription_ids int[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select pg_notify('outbox_pull', s.name) from outbox.subscription s where s.id = any (subscription_ids);
end;

-- API: private
-- Deliveries whose time is over become dead letters of state `expired`. in_flight: rows that the dispatcher has sent.
create function outbox._expire(at timestamptz, max int, in_flight bigint[]) returns bigint
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
    return outbox._bury(ids, array_fill('expired'::text, array[cardinality(ids)]), true);
end
$$;

-- API: private
-- Unblocks the next of each of these keys.
create function outbox._promote_keys(subscriptions int[], keys text[]) returns bigint
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
    -- A requeued one comes before those that have gone on without it, unless a worker has one of them. Those that a claim
    -- has locked are left alone: when it ends, the key is looked at again.
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
            -- one at a time
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
    select count(*), count(case when u.pull then outbox._put_back(u.subscription_id, u.priority, u.due_at) end)
    into promoted
    from unblocked u;
    return promoted;
end
$$;

-- API: private
-- Unblocks the next of each key that has become free, by the router alone. With on_exhausted = block an open dead letter
-- keeps its key blocked.
create function outbox._promote(max int) returns bigint
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
    -- The table is as large as what was freed since the last pass.
    places := array(select f.ctid from outbox._freed f limit max);
    if cardinality(places) = 0 then
        return 0;
    end if;
    with freed as (
        delete from outbox._freed f where f.ctid = any (places) returning f.subscription_id, f.key
    )
    select array_agg(f.subscription_id), array_agg(f.key) into subscriptions, keys
    from (select distinct f.subscription_id, f.key from freed f) f;
    return outbox._promote_keys(subscriptions, keys);
end
$$;

-- API: private
-- Ends the rows of a pull subscription that has ended, as many as nobody has locked.
create function outbox._clear_one(ending int) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    cleared bigint := 0;
begin
    if exists (
        select from outbox.subscription s where s.id = ending and s.deleted_at is not null and s.endpoint_id is null
    ) then
        cleared := outbox._skip_deliveries(ending, 'unsubscribed');
        if exists (select from outbox.delivery d where d.subscription_id = ending)
            or exists (select from outbox._bundle b where b.subscription_id = ending) then
            return cleared;
        end if;
    end if;
    delete from outbox._ending e where e.subscription_id = ending;
    return cleared;
end
$$;

-- API: private
-- Ends rows of pull subscriptions that have ended; looks at `max` of those.
create function outbox._clear(max int) returns bigint
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
    for ending in select distinct e.subscription_id from outbox._ending e limit max loop
        cleared := cleared + outbox._clear_one(ending);
    end loop;
    return cleared;
end
$$;

-- API: private
-- What time and workers bring about, by the router: at most `max` of each kind. more: there is more to do; soon: something
-- is leased or about to expire, so the next pass comes soon; free: deliveries that workers can have now.
create function outbox._pass(
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
    called_off bigint[] := array(select c.message_id from outbox._called_off c limit max);
begin
    free := outbox._take_back(at, max);
    if cardinality(called_off) > 0 then
        perform outbox._end_cancelled(called_off, in_flight);
        delete from outbox._called_off c
        where c.message_id = any (called_off)
            and not exists (select from outbox._open_of(c.message_id));
    end if;
    worked := free + outbox._expire(at, max, in_flight) + outbox._clear(max);
    free := free + outbox._promote(max);
    more := worked > 0 and (
        exists (select from outbox.lease l where l.expires_at <= at)
        or exists (
            select from outbox.delivery d
            where d.expires_at <= at and d.state <> 'processing' and d.id <> all (in_flight)
        )
    ) or exists (select from outbox._freed);
    soon := exists (select from outbox.lease)
        or exists (select from outbox._called_off) or exists (select from outbox._ending)
        or exists (
            select from outbox.delivery d
            where d.expires_at is not null and d.expires_at < at + interval '10 s' and d.state <> 'processing'
        );
end
$$;

-- API: private
-- The same as _pass(), each lease, delivery, message, subscription and key in a subtransaction of its own, for when one of
-- them fails. That becomes a fault and is out of the way for a minute; everything else goes on.
create function outbox._pass_apart(max int, in_flight bigint[]) returns void
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
            perform outbox._take_back_one(ended, at);
        exception when others then
            perform outbox._note_faults('{lease}', array[ended.id], '{take back}', array[sqlerrm]);
            update outbox.lease l set expires_at = later where l.id = ended.id;
        end;
    end loop;
    for item in select c.message_id from outbox._called_off c limit max loop
        begin
            perform outbox._end_cancelled(array[item.message_id], in_flight);
            delete from outbox._called_off c
            where c.message_id = item.message_id and not exists (select from outbox._open_of(c.message_id));
        exception when others then
            perform outbox._note_faults('{message}', array[item.message_id], '{cancel}', array[sqlerrm]);
            delete from outbox._called_off c where c.message_id = item.message_id;
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
            perform outbox._bury(array[item.id], '{expired}', true);
        exception when others then
            perform outbox._note_faults('{message}', array[item.message_id], '{expire}', array[sqlerrm]);
            update outbox.delivery d set expires_at = later where d.id = item.id;
        end;
    end loop;
    for item in select distinct e.subscription_id from outbox._ending e limit max loop
        begin
            perform outbox._clear_one(item.subscription_id);
        exception when others then
            perform outbox._note_faults('{subscription}', array[item.subscription_id::bigint], '{unsubscribe}',
                array[sqlerrm]);
            delete from outbox._ending e where e.subscription_id = item.subscription_id;
        end;
    end loop;
    for item in select distinct f.subscription_id, f.key from outbox._freed f limit max loop
        begin
            perform outbox._promote_keys(array[item.subscription_id], array[item.key]);
        exception when others then
            perform outbox._note_faults('{subscription}', array[item.subscription_id::bigint], '{unblock}', array[sqlerrm]);
        end;
        delete from outbox._freed f where f.subscription_id = item.subscription_id and f.key = item.key;
    end loop;
end
$$;
