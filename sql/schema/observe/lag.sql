-- Lag: how far subscriptions are behind the feed, and which session blocks the dispatcher.

-- API: private
-- The position of each subscription, its lag in positions, and since when the first message after its position has been in
-- the feed (null: no lag).
create function outbox_internal.subscription_lag()
returns table (subscription_id int, subscription text, "position" bigint, lag bigint, since timestamptz)
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    with last as materialized (
        select * from outbox.checkpoint c order by c.id desc limit 1
    ), place as (
        select s.id, s.name,
            coalesce(
                (select l."position" from last c, unnest(c.lag_subscriptions, c.lag_positions) l(id, "position")
                where l.id = s.id),
                (select c."position" from last c),
                0) as "position"
        from outbox.subscription s
        where s.deleted_at is null
    )
    select p.id, p.name, p."position", outbox.head() - p."position",
        case when p."position" < outbox.head() then (
            select f.ticked_at from outbox.feed f where f.first_position <= p."position" + 1
            order by f.first_position desc limit 1
        ) end
    from place p;
end;

-- API: private
-- The session that has held locks on the tables of the dispatcher for longest. If the dispatcher waits for a lock in vain,
-- it most likely waits for that session. Usually this is an open transaction of an administrator, because the dispatcher
-- skips rows that workers have locked.
create function outbox_internal.in_the_way() returns text
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select format('session %s (%s, %s) has been in a transaction since %s', a.pid, a.usename,
        coalesce(nullif(a.application_name, ''), '-'), a.xact_start::timestamptz(0))
    from pg_locks l
    join pg_stat_activity a on a.pid = l.pid
    join pg_class k on k.oid = l.relation
    where l.database = outbox_internal.database_oid() and l.granted and l.mode <> 'AccessShareLock' and l.pid <> pg_backend_pid()
        and k.relnamespace = (select s.relnamespace from pg_class s where s.oid = 'outbox._sequencer'::regclass)
        and k.relkind in ('r', 'p') and a.xact_start < clock_timestamp() - interval '1 s'
        and a.pid is distinct from (select s.pid from outbox_internal.worker_slot() s)
    order by starts_with(k.relname, '_message'), a.xact_start
    limit 1;
end;
