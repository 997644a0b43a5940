-- Deliveries made by the router. Only the router makes deliveries and unblocks the next delivery of a key. The router runs
-- in the dispatcher, or in an inline claim under the sequencer's lock.

-- API: private
-- Inserts delivery rows; the router calls this in the transaction of its checkpoint. The rows are those of pull
-- subscriptions, and those of messages that are not due yet. In a subscription with an order, a row is blocked when its key
-- has another row. With on_exhausted = block, an open dead letter of its key blocks it too.
create function outbox_internal.open_deliveries(
    pull boolean[],
    subscription_ids int[],
    positions bigint[],
    message_ids bigint[],
    segments smallint[],
    priorities smallint[],
    due_us bigint[],
    expires_us bigint[],
    max_attempts int[],
    keys text[],
    payloads text[]
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.delivery (pull, subscription_id, position, message_id, message_segment, state, priority, due_at,
        expires_at, max_attempts, key, payload, blocked)
    select u.pull, u.subscription_id, u.position, u.message_id, u.segment, 'pending', u.priority, outbox_internal.time(u.due_at),
        outbox_internal.time(u.expires_at), u.max_attempts, u.key, u.payload::jsonb,
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
        keys, payloads)
        u(pull, subscription_id, position, message_id, segment, priority, due_at, expires_at, max_attempts, key, payload)
    on conflict (subscription_id, position, run) do nothing;
end;

-- API: private
-- Whether any message between the smallest and the largest of these ids is cancelled. One query for the range, because a
-- query for each id would take longer than the rest of the pass.
create function outbox_internal.cancelled_near(message_ids bigint[]) returns boolean
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select exists (
        select from outbox.cancelled c
        where c.message_id between (select min(u) from unnest(message_ids) u) and (select max(u) from unnest(message_ids) u)
    );
end;

-- API: private
-- Called after rows and bundles of these subscriptions and messages were made. Returns the subscriptions whose workers are
-- to be notified.
create function outbox_internal.subscriptions_with_deliveries(subscription_ids int[], message_ids bigint[]) returns int[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The router may have checked for cancelled messages before these were cancelled.
    if outbox_internal.cancelled_near(message_ids) then
        insert into outbox._cancelled_lately (message_id)
        select c.message_id from outbox.cancelled c where c.message_id = any (message_ids);
    end if;
    insert into outbox._ended_subscription (subscription_id)
    select s.id from outbox.subscription s where s.id = any (subscription_ids) and s.deleted_at is not null;
    return array(
        select s.id from outbox.subscription s
        where s.id = any (subscription_ids) and s.notify and s.endpoint_id is null
    );
end
$$;

-- API: private
-- The wait after attempt number `attempt` of a delivery, with jitter. schedule: as subscribe() takes it; null: the default
-- schedule.
create function outbox_internal.retry_wait(schedule jsonb, attempt int, message_id bigint, subscription_id int)
returns interval
language c volatile as 'MODULE_PATHNAME', 'outbox_retry_wait';

-- API: private
-- Ticks and routes where there is no dispatcher, because the library is not preloaded. Only in a transaction without an xid.
-- Returns the status of the tick (see _ticked), or `dispatched` if the library is preloaded.
create function outbox_internal.route_inline() returns text language c volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as 'MODULE_PATHNAME', 'outbox_route_inline';

-- API: private
-- Notifies workers that listen on the channel outbox_pull that there is something to claim. The payload is the name of the
-- subscription.
create function outbox_internal.notify_workers(subscription_ids int[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select pg_notify('outbox_pull', s.name) from outbox.subscription s where s.id = any (subscription_ids);
end;
