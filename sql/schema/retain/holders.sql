-- Holders: sessions and consumers that keep a leaf from being emptied.

-- API: private
-- The sessions whose locks keep a leaf from being truncated, as text for job.held_by and health().
create function outbox_internal.lock_holders(leaf regclass) returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select string_agg(distinct coalesce(
        format('session %s (%s, %s, in a transaction since %s)', a.pid, a.usename,
            coalesce(nullif(a.application_name, ''), '-'), a.xact_start::timestamptz(0)),
        'a prepared transaction'), ', ')
    from pg_locks l
    left join pg_stat_activity a on a.pid = l.pid
    where l.relation = leaf and l.database = outbox_internal.database_oid() and l.granted
        and l.pid is distinct from pg_backend_pid();
end;

-- API: private
-- The holders that still need messages after a position: the dispatcher, subscriptions, replays and cursors. Deliveries that
-- have a row are not among them, because their messages are retained one by one. Subscriptions that take only events are not
-- among them either, because events are kept for ever.
create function outbox_internal.needed() returns table (holder text, "position" bigint, max_lag interval,
    subscription_id int)
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    with last as materialized (
        select * from outbox.checkpoint c order by c.id desc limit 1
    )
    -- Messages that are not routed yet are needed while there is a subscription.
    select 'the dispatcher', coalesce((select c."position" from last c), 0), null::interval, null::int
    where exists (select from outbox.subscription s where s.deleted_at is null)
    union all
    select format('subscription "%s"', s.name), least(l."position", o."position"), s.max_lag, s.id
    from last c
    cross join lateral unnest(c.lag_subscriptions, c.lag_positions) l(id, "position")
    join outbox.subscription s on s.id = l.id and s.deleted_at is null and not outbox_internal.takes_events_only(s.id)
    left join lateral (
        -- the first entry of a subscription is a position, the following ones are distances
        select c.open_positions[array_position(c.open_subscriptions, l.id)] - 1 as "position"
    ) o on true
    union all
    -- The subscription begins in the past, and the dispatcher has not routed its control message yet.
    select format('subscription "%s"', s.name), v.starts_after, s.max_lag, s.id
    from outbox.subscription_version v
    join outbox.subscription s on s.id = v.subscription_id and s.deleted_at is null
    where v.starts_after is not null and not outbox_internal.takes_events_only(s.id)
        and (v."position" is null or v."position" > (select c."position" from last c))
    union all
    select format('replay %s', r.id), r."position", null, null
    from outbox.replay r
    where r.state = 'running' and not outbox_internal.takes_events_only(r.subscription_id)
    union all
    select format('cursor of consumer "%s"', k.consumer), c."position", null, null
    from outbox._cursor_key k
    cross join lateral outbox_internal.cursor_row(k.consumer, k.stream, k.subject) c
    where k.stream = 'outbox' and coalesce(current_setting('pg_outbox.retain_for_cursors', true), 'off')::boolean
        -- Projections read events, which are kept in any case.
        and not starts_with(k.consumer, 'projection ');
end;
