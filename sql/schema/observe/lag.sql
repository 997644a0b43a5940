-- Lag: how far subscriptions are behind the feed, what is due, when workers last claimed, and which session blocks the
-- dispatcher.

-- API: private
-- The position of each subscription, its lag in positions, and since when the first message after its position has been in
-- the feed (null: no lag).
create function outbox_internal.subscription_lag()
returns table (subscription_id int, subscription text, "position" bigint, lag bigint, since timestamptz)
language sql stable security definer
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
-- Since when the oldest due delivery of a subscription, with a row or in a bundle, has been waiting. Only subscriptions that
-- have one are returned.
create function outbox_internal.due()
returns table (subscription_id int, subscription text, pull boolean, paused boolean, since timestamptz)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select s.id, s.name, s.endpoint_id is null, s.paused, w.since
    from outbox.subscription s
    cross join lateral (
        select least(
            (select min(d.due_at) from outbox.delivery d where d.subscription_id = s.id and not d.pull and not d.blocked),
            (select min(d.due_at) from outbox.delivery d
            where d.subscription_id = s.id and d.pull and d.state <> 'processing' and not d.blocked),
            (select min(b.due_at) from outbox._bundle b where b.subscription_id = s.id and b.lease is null)) as since
    ) w
    where w.since <= clock_timestamp();
end;

-- API: private
-- When a worker last claimed from a pull subscription; null: it is not known. No row is written for this: it is the time of
-- the latest lease that has not ended, or of the latest outcome of a worker.
create function outbox_internal.last_claim(subscription_id int) returns timestamptz
language sql stable security definer
set search_path = pg_catalog, pg_temp
return greatest(
    (select max(l.claimed_at) from outbox.lease l where l.subscription_id = last_claim.subscription_id),
    (select max(t.last_at) from outbox.counter_total t
    where t.subscription_id = last_claim.subscription_id and t.outcome in ('completed', 'failed', 'dead', 'returned')),
    (select max(c.last_at) from outbox.counter c
    where c.subscription_id = last_claim.subscription_id and c.outcome in ('completed', 'failed', 'dead', 'returned')));

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

-- Called by the view subscription_status.
insert into outbox._capability values
    ('monitor', 'function outbox_internal.subscription_lag'),
    ('monitor', 'function outbox_internal.due'),
    ('monitor', 'function outbox_internal.last_claim');
