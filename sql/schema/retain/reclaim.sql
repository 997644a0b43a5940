-- Reclaim: empties the oldest leaf of a ring, or returns what keeps it.
--
-- - A leaf is emptied with TRUNCATE, and the lock is taken without waiting, so no session queues after it. TRUNCATE frees
--   the space whichever snapshots are held.
-- - Before a leaf of messages is emptied, all of its consumers must have passed it: the dispatcher, each subscription, and
--   replays. The few messages that a delivery or a dead letter still needs are copied to _message_retained.
-- - The rows of the feed and of routing outlive the messages that they refer to.

-- API: private
-- Takes ACCESS EXCLUSIVE on a leaf until the transaction ends, without waiting. False: the lock is not available.
create function outbox_internal.lock_leaf(leaf regclass) returns boolean language c volatile strict
as 'MODULE_PATHNAME', 'outbox_lock_leaf';

-- API: private
-- Tries to take that lock for a fifth of a second, without queueing: a session that queues for this lock makes all other
-- sessions queue after it.
create function outbox_internal.lock_leaf_patiently(leaf regclass) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    for i in 1 .. 20 loop
        if outbox_internal.lock_leaf(leaf) then
            return true;
        end if;
        perform pg_sleep(0.01);
    end loop;
    return false;
end
$$;

-- API: private
-- Empties the oldest closed leaf of a ring if that is allowed. Returns what was done (result, freed bytes) or what keeps the
-- leaf (held_by). ignore_age: regardless of the retention.
create function outbox_internal.reclaim(ring text, ignore_age boolean, out result text, out freed bigint, out held_by text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    -- If more messages than this are needed, the leaf stays: copying them would be too much.
    keep_limit constant int := 100000;
    oldest outbox.segment;
    leaf regclass;
    retention interval := outbox_internal.ring_retention(ring);
    holders text;
    copied bigint;
    needed record;
begin
    freed := 0;
    select * into oldest from outbox.segment s
    where s.ring = ring and s.closed_at is not null and s.reclaimed_at is null
    order by s.closed_at limit 1;
    if oldest.ring is null then
        result := 'nothing to reclaim';
        return;
    end if;
    leaf := outbox_internal.leaf(ring, oldest.leaf);
    if not ignore_age and (retention is null or clock_timestamp() < oldest.closed_at + retention) then
        result := case when retention is null then 'kept for ever' else 'not yet' end;
        return;
    end if;
    if ring = 'message' then
        if oldest.last_position is null then
            result := 'held';
            held_by := coalesce('the sequencer has not passed it: ' || outbox_internal.lock_holders(leaf),
                'the sequencer has not passed it');
            return;
        end if;
        select string_agg(n.holder || ' at position ' || n."position", ', ' order by n."position") into holders
        from outbox_internal.needed() n
        where n."position" < oldest.last_position
            and (n.max_lag is null or oldest.closed_at > clock_timestamp() - n.max_lag);
        if holders is not null then
            result := 'held';
            held_by := left(holders, 1000);
            return;
        end if;
    elsif ring in ('feed', 'routing') and coalesce(oldest.last_position, outbox_internal.max_bigint()) >= outbox_internal.tail() then
        result := 'held';
        held_by := 'messages that it names are still stored';
        return;
    elsif ring = 'tick' and (select t.segment from outbox.tick t order by t.id desc limit 1) = oldest.leaf
        or ring = 'checkpoint' and (select c.segment from outbox.checkpoint c order by c.id desc limit 1) = oldest.leaf then
        result := 'not yet';
        return;
    end if;
    -- Taken before the leaf's own lock, because no session may wait for anything while it holds that lock.
    if ring in ('tick', 'feed') and not outbox_internal.sequencer_lock() then
        result := 'not yet';
        return;
    end if;
    if ring = 'message' then
        -- Also before the leaf's lock, because this may wait for a worker that is claiming.
        copied := outbox_internal.retain_messages(oldest.leaf, keep_limit);
        if copied is null then
            result := 'held';
            held_by := format('more than %s deliveries and dead letters that wait', keep_limit);
            return;
        end if;
    end if;
    if not outbox_internal.lock_leaf_patiently(leaf) then
        result := 'held';
        held_by := coalesce(outbox_internal.lock_holders(leaf), 'a session that reads it');
        return;
    end if;
    -- Nothing is written to the leaf any more. With the lock, it is checked again whether the last row is in it.
    if ring = 'tick' and (select t.segment from outbox.tick t order by t.id desc limit 1) = oldest.leaf
        or ring = 'checkpoint' and (select c.segment from outbox.checkpoint c order by c.id desc limit 1) = oldest.leaf then
        result := 'not yet';
        return;
    end if;
    if ring = 'message' then
        -- A replay may have made new deliveries meanwhile.
        if outbox_internal.retain_messages(oldest.leaf, 0) is null then
            result := 'not yet';
            return;
        end if;
        for needed in
            select * from outbox_internal.needed() n
                where n."position" < oldest.last_position and n.subscription_id is not null
        loop
            perform outbox_internal.record_lag_expired(needed.subscription_id, needed."position" + 1, oldest.last_position,
                needed.max_lag);
        end loop;
        -- Before TRUNCATE, so that a reader whose messages disappear while it reads notices it.
        perform setval('outbox._reclaimed', greatest(oldest.last_position, outbox_internal.tail() - 1));
    end if;
    freed := pg_total_relation_size(leaf);
    execute format('truncate only %s', leaf);
    update outbox.segment s set reclaimed_at = clock_timestamp(), kept = copied
    where s.ring = ring and s.leaf = oldest.leaf;
    result := 'reclaimed';
end
$$;

-- API: private
-- Copies the messages of a leaf that deliveries and dead letters still need to _message_retained, and returns how many.
-- Null: there are more than `at_most`, and nothing was copied.
create function outbox_internal.retain_messages(leaf smallint, at_most int) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    ids bigint[];
begin
    ids := array(
        select u.message_id from (
            select d.message_id from outbox._open d where d.message_segment = leaf
            union
            select l.message_id from outbox.dead_letter l
            where l.message_segment = leaf and l.resolution in ('open', 'requeued')
        ) u
        limit at_most + 1
    );
    if cardinality(ids) > at_most then
        return null;
    end if;
    perform outbox_internal.unbundle(array(
        select b.id from outbox._bundle b where b.message_segment = leaf and b.lease is null for update
    ));
    -- A leaf's number is used again each time the ring reaches it. So older deliveries with this number may wait, but their
    -- messages are retained already.
    insert into outbox._message_retained
    select (-1)::smallint, m.id, m.xid, m.enqueued_at, m.deliver_at, m.expires_at, m.occurred_at, m.max_attempts, m.priority,
        m.topic, m.key, m.tenant, m.aggregate_type, m.aggregate_id, m.publisher, m.idempotency_key, m.content_type,
        m.headers, m.metadata, m.payload, m.body
    from outbox.message m
    where m.segment = leaf and m.id = any (ids)
    on conflict (id) do nothing;
    update outbox.delivery d set message_segment = -1 where d.message_segment = leaf and d.message_id = any (ids);
    update outbox._bundle b set message_segment = -1 where b.message_segment = leaf;
    update outbox.dead_letter l set message_segment = -1 where l.message_segment = leaf and l.message_id = any (ids);
    return cardinality(ids);
end
$$;

-- API: private
-- Writes one row to the attempt log for the positions that a subscription with a max_lag has missed.
create function outbox_internal.record_lag_expired(subscription_id int, from_position bigint, to_position bigint,
    max_lag interval)
returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.attempt (segment, "position", message_id, started_at, finished_at, run, subscription_id, attempt,
        outcome, error_class, error, results)
    values (outbox_internal.current_leaf('attempt'), from_position, 0, clock_timestamp(), clock_timestamp(), 0, subscription_id, 0,
        'expired', 'max_lag', format('positions %s to %s: older than the subscription''s max_lag of %s', from_position,
            to_position, max_lag),
        jsonb_build_object('from', from_position, 'to', to_position));
end;
