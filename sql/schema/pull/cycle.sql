-- A worker's cycle in one call: completes a lease and claims the next deliveries.
--
-- The function completes first and claims afterwards. A claim waits for nothing, but completing may wait, for the lease or
-- for a delivery that an operator has locked. In this order, the session has not locked any new delivery while it waits; in
-- the opposite order two sessions could wait for each other.
--
-- Because the claim follows a write, it never ticks and routes inline: only a transaction without an xid may do that. A call
-- without `done` may, so a worker that found nothing makes such a call next.

-- API: public
create function outbox.complete_and_claim(
    done bigint,
    subscription text,
    worker text,
    max_messages int default 1,
    lease interval default '60 s'
) returns setof outbox.claimed
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_variable
declare
    now timestamptz := clock_timestamp();
    held_as bigint := outbox_internal.lease_id(done);
    source outbox.subscription;
    picked record;
    ended bigint;
    ordered int[];
    keys text[];
begin
    if done is null then
        return query select * from outbox.claim(subscription, worker, max_messages, lease);
        return;
    end if;
    -- The common case is done here in as few statements as possible, because calling complete() and claim() would cost a
    -- quarter more. Those two functions handle all other cases.
    with held as (
        delete from outbox.lease l where l.id = held_as and not l.bundled returning l.worker, l.delivery_ids
    ), gone as (
        delete from outbox.delivery d using held h
        where d.id = any (h.delivery_ids) and d.lease = held_as
        returning d.id, d.position, d.message_id, d.last_attempt_at, d.run, d.subscription_id, d.attempt, d.key, h.worker
    ), logged as (
        insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run,
            subscription_id, attempt, outcome, worker)
        select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), g.position, g.message_id,
            g.last_attempt_at, now, g.id, g.run, g.subscription_id, g.attempt, 'completed', g.worker
        from gone g
    ), counted as (
        insert into outbox.counter (segment, subscription_id, outcome, requests, deliveries, seconds)
        select coalesce(pg_sequence_last_value('outbox._counter_segment'), 0), min(g.subscription_id), 'completed',
            count(*), count(*), 0
        from gone g
        having count(*) > 0
    )
    select count(*), array_agg(g.subscription_id) filter (where g.key is not null),
        array_agg(g.key) filter (where g.key is not null)
    into ended, ordered, keys
    from gone g;
    if ended = 0 and cardinality(outbox.complete(done)) = 0 then
        raise exception 'the lease is lost'
            using errcode = 'OB003',
                detail = 'All its deliveries have ended, or it has expired and was taken back. Nothing was completed or claimed.',
                hint = 'Another worker may do its work again; go on with outbox.claim().';
    end if;
    if keys is not null then
        insert into outbox._freed_key (subscription_id, key) select * from unnest(ordered, keys) u(s, k);
        perform outbox_internal.deliveries_changed();
    end if;
    -- These lines are copied from claim(), which says why.
    if max_messages = 1 and octet_length(worker) between 1 and 255 and lease between interval '1 us' and interval '7 days' then
        picked := outbox_internal.pick_one(subscription);
        if picked.ids is not null then
            return query select *
            from outbox_internal.lease(picked.source_id, subscription, picked.budget, picked.deadline, picked.ids,
                picked.tried, picked.segment, worker, lease);
            return;
        end if;
    end if;
    select * into source from outbox.subscription s where s.name = subscription and s.deleted_at is null;
    if source.id is null or source.endpoint_id is not null then
        source := outbox_internal.pull_subscription(subscription);
    end if;
    if (octet_length(worker) between 1 and 255 and max_messages between 1 and 10000 and lease > interval '0'
        and lease <= interval '7 days') is not true then
        perform outbox_internal.check_claim(worker, max_messages, lease);
    end if;
    if source.paused then
        return;
    end if;
    picked := outbox_internal.pick(source.id, max_messages, true);
    if cardinality(picked.ids) > 0 then
        return query select *
        from outbox_internal.lease(source.id, source.name, source.max_attempts, source.deadline, picked.ids, picked.tried,
            picked.segment, worker, lease);
    elsif picked.before < 'infinity' then
        return query select * from outbox.claim(subscription, worker, max_messages, lease);
    end if;
end
$$;
comment on function outbox.complete_and_claim is
    'Completes all deliveries that the lease done still holds (null: completes nothing), and claims the next deliveries '
    'like claim(), in one transaction: both take effect, or neither. Defaults and ranges are those of claim(). When no '
    'rows are returned, call it once more with done null before waiting, because the deliveries that were completed may '
    'have held others back. Errors: OB003 the lease is lost (nothing was completed or claimed), and those of claim()';

insert into outbox._capability values
    ('consume', 'function outbox.complete_and_claim');
