-- The status of messages, a page of them at a time. It is derived from the waiting rows, the dead letters, the attempt log
-- and the routing. These functions read only the entries of the log that belong to the messages in question.
--
-- Plan settings are set here, whatever the caller's are. Every query has an index, whatever the statistics of a young table
-- say. The generic plan is kept because planning 16 leaves costs more than reading them. Rows that were read are joined by
-- hash.

-- API: private
-- Returns what is stored about each delivery of some messages. source: row (it waits or is worked on), letter (a dead
-- letter), or try (its final outcome from the attempt log, without replays).
create function outbox_internal.outcomes(ids bigint[])
returns table (
    source text,
    message_id bigint,
    "position" bigint,
    subscription_id int,
    endpoint_id int,
    outcome text,
    attempt int,
    error text,
    finished_at timestamptz
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = on
set enable_sort = on
set jit = off
as $$
#variable_conflict use_column
begin
    return query
    select 'row', d.message_id, d.position, d.subscription_id, s.endpoint_id, d.state, d.attempt, d.last_error,
        null::timestamptz
    from outbox.delivery d
    left join outbox.subscription s on s.id = d.subscription_id
    where d.message_id = any (ids);
    return query
    select 'row', b.message_id, b.position, b.subscription_id, null::int, b.state, b.attempt, null, null::timestamptz
    from outbox._bundled b
    join unnest(ids) i(id) on i.id = b.message_id
    where b.messages && int8range((select min(k) from unnest(ids) k), (select max(k) from unnest(ids) k), '[]');
    return query
    select 'letter', l.message_id, l.position, l.subscription_id, l.endpoint_id, l.state, l.attempt, l.last_error, l.dead_at
    from outbox.dead_letter l
    where l.message_id = any (ids) and l.resolution <> 'requeued';
    return query
    select 'try', a.message_id, a.position, a.subscription_id, a.endpoint_id, a.outcome, a.attempt, a.error, a.finished_at
    from outbox.attempt a
    where a.message_id = any (ids) and a.positions is null and a.run = 0
        and a.outcome in ('completed', 'dead', 'expired', 'cancelled', 'skipped');
    if exists (select from outbox.attempt a where a.positions is not null) then
        -- The positions of a batch are at most 9999 apart (see the sender's queue). Where the ranges of several messages
        -- overlap, the batches are read once.
        return query
        with placed as materialized (
            select p.message_id as id, p.position as place, lag(p.position) over (order by p.position) as before
            from outbox_internal.positions_of(ids) p where p.position is not null
        ), parted as materialized (
            select p.id, p.place,
                count(*) filter (where (p.place - p.before < 10000) is not true) over (order by p.place) as part
            from placed p
        ), parts as materialized (
            select min(p.place) - 9999 as low, max(p.place) as high, count(*) as messages from parted p group by p.part
        )
        select 'try', b.id, b.place, b.subscription_id, b.endpoint_id, b.outcome, b.attempt, b.error, b.finished_at
        from (
            select p.id, p.place, a.subscription_id, a.endpoint_id, a.attempt, a.error, a.finished_at,
                coalesce(a.results -> (u.i::int - 1) ->> 'outcome', a.outcome) as outcome
            from parts r
            join outbox.attempt a on a.positions is not null and a.position between r.low and r.high and a.run = 0
                and (r.messages > 1 or r.high = any (a.positions))
            cross join lateral unnest(a.positions) with ordinality u(place, i)
            join parted p on p.place = u.place
        ) b
        where b.outcome in ('completed', 'dead', 'expired', 'cancelled', 'skipped');
    end if;
end
$$;

-- API: private
-- Returns the status of each of some messages: the first of processing, pending, failed, completed, dead, expired,
-- cancelled, skipped that holds. Also returns its position, its routing (see outbox_internal.matched), and the
-- subscriptions and endpoints
-- of its deliveries.
create function outbox_internal.states(ids bigint[])
returns table (
    message_id bigint,
    "position" bigint,
    matched int,
    status text,
    subscriptions int[],
    endpoints int[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = on
set enable_sort = on
set jit = off
as $$
#variable_conflict use_column
begin
    return query
    with known as materialized (
        -- one row per message and subscription
        select o.message_id, o.subscription_id, max(o.position) as position, max(o.endpoint_id) as endpoint_id,
            min(array_position(array['processing', 'pending', 'failed'], o.outcome)) filter (where o.source = 'row') as waits,
            bool_or(o.source = 'try') as ended,
            bool_or(o.source = 'try' and o.outcome = 'completed') as completed,
            bool_or(o.source = 'letter' and o.outcome = 'dead') as dead,
            bool_or(o.source = 'letter' and o.outcome = 'expired') as expired
        from outbox_internal.outcomes(ids) o
        group by o.message_id, o.subscription_id
    ), own as materialized (
        select k.message_id, max(k.position) as position, min(k.waits) as waits, count(*) filter (where k.ended) as ended,
            bool_or(k.completed) as completed, bool_or(k.dead) as dead, bool_or(k.expired) as expired,
            array_agg(k.subscription_id) as subscriptions, array_agg(k.endpoint_id) as endpoints
        from known k
        group by k.message_id
    ), placed as materialized (
        select i.id, coalesce(o.position, p.position) as place,
            exists (select from outbox.cancelled c where c.message_id = i.id) as cancelled,
            o.waits, coalesce(o.ended, 0) as ended, o.completed, o.dead, o.expired, o.subscriptions, o.endpoints
        from unnest(ids) i(id)
        left join own o on o.message_id = i.id
        left join outbox_internal.positions_of(array(
            select u.id from unnest(ids) u(id) where not exists (select from own k where k.message_id = u.id)
        )) p on p.message_id = i.id
    )
    select r.id, r.place, m.matched,
        case
            when r.waits = 1 then 'processing'
            when r.waits = 2 then 'pending'
            when (r.place is null or m.matched is null) and not r.cancelled then 'pending'
            -- a delivery that has no row and has not ended is being sent, or about to be sent
            when r.waits is null and m.matched > r.ended then 'pending'
            when r.waits = 3 then 'failed'
            when r.completed then 'completed'
            when r.dead then 'dead'
            when r.expired then 'expired'
            when r.cancelled then 'cancelled'
            when r.ended > 0 then 'dead'
            else 'skipped'
        end,
        coalesce(r.subscriptions, '{}'), coalesce(r.endpoints, '{}')
    from placed r
    left join outbox_internal.matched_at(array(select p.place from placed p
        where p.place is not null)) m on m.position = r.place;
end
$$;

-- API: private
-- The status of one message, see outbox_internal.states().
create function outbox_internal.message_state(message_id bigint) returns text
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select s.status from outbox_internal.states(array[message_state.message_id]) s);
end
$$;

insert into outbox._capability values
    ('monitor', 'function outbox_internal.message_state');
