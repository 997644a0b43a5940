-- Adoption: makes restored or copied data this database's own.

-- API: private
-- The events of a restored or copied outbox that have no positions yet. state: its last tick. A scan of all events would
-- take hours where there are many, so only those are looked at that the last tick can have missed: events with ids above its
-- floor, and events of transactions that it saw running. Their xids are those of the cluster that wrote the state. Events
-- that were appended here have ids above that floor too.
create function outbox_internal.unnumbered_events(state outbox.tick) returns bigint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    -- in the middle of a large difference, the bounds are those that it began with
    seen constant pg_snapshot := case when state.done_id is null then state.snapshot_to else state.snapshot_from end;
    next constant bigint := (case when state.done_id is null then state.next_to else state.next_from end)::text::bigint;
    floor constant bigint := coalesce(case when state.done_id is null then state.floor_to else state.floor_from end, 0);
    -- numbered events among them are in rows that were written since then
    since bigint;
begin
    select min(t.first_position) into since from outbox.tick t where t.snapshot_to::text = state.snapshot_to::text;
    return array(
        select c.id
        from (
            select e.id from outbox._message_event e where e.id > floor
            union
            select e.id
            from (
                select pg_snapshot_xip(seen)
                union
                select g::text::xid8 from generate_series(pg_snapshot_xmax(seen)::text::bigint, next - 1) g
            ) x(xid)
            join outbox._message_event e on e.xid = x.xid
        ) c
        where not exists (
            select from (
                select unnest(f.message_ids) as id from outbox._feed_event f where f.first_position >= coalesce(since, 0)
            ) known
            where known.id = c.id
        )
        order by c.id
    );
end
$$;

-- API: public
create function outbox.adopt(reason text default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '30s'
as $$
declare
    chunk constant int := 100000;
    state outbox.tick;
    s2 pg_snapshot;
    next2 xid8;
    floor2 bigint;
    left_leaf smallint := outbox_internal.current_leaf('message');
    next_leaf constant smallint := (left_leaf + 1) % outbox_internal.message_leaves();
    this_leaf smallint;
    ids bigint[];
    segments smallint[];
    after bigint;
    first bigint;
    this_epoch int;
    part int := 1;
    events bigint[];
begin
    if outbox_internal.replicated_by() is not null then
        raise exception 'the subscription "%" writes this outbox', outbox_internal.replicated_by()
            using errcode = 'object_not_in_prerequisite_state',
                detail = 'A position given here would collide with a position that the original still sends.',
                hint = 'Drop the subscription first.';
    end if;
    if outbox_internal.is_own() then
        raise notice 'this outbox is this database''s own already';
        return outbox.head();
    end if;
    if current_setting('transaction_isolation') <> 'read committed' or pg_current_xact_id_if_assigned() is not null then
        raise exception 'adopt() takes a transaction of its own' using errcode = 'active_sql_transaction',
            detail = 'adopt() numbers the messages that its snapshot sees: call it at isolation level read committed, before anything is written.';
    end if;
    -- The sequencer's lock is taken before the snapshot, and the last message id is read before the snapshot too.
    for i in 1 .. 500 loop
        exit when outbox_internal.sequencer_lock();
        if i = 500 then
            raise exception 'another session has the sequencer' using errcode = 'lock_not_available';
        end if;
        perform pg_sleep(0.01);
    end loop;
    -- Restored messages have transaction ids of another cluster, and this cluster may reach those ids some day. So they must
    -- be in a leaf that no tick reads any more. New messages go to the next leaf, if that leaf is empty.
    if pg_relation_size(outbox_internal.leaf('message', left_leaf)) > 0
        and pg_relation_size(outbox_internal.leaf('message', next_leaf)) = 0 then
        perform setval('outbox._message_segment', next_leaf);
    end if;
    this_leaf := outbox_internal.current_leaf('message');
    -- Waits for the transactions that have written to the old leaf. A transaction that begins to write later reads the
    -- pointer again.
    execute format('lock table %s in share mode', outbox_internal.leaf('message', left_leaf));
    -- and for those that have appended events, because every event up to the last one is numbered here
    lock table outbox._message_event in share mode;
    floor2 := coalesce(pg_sequence_last_value('outbox._message_id'), 0);
    next2 := outbox_internal.next_xid();
    select pg_current_snapshot() into s2;

    select * into state from outbox.tick t order by t.id desc limit 1;
    after := coalesce(state.last_position, 0);
    first := after + 1;
    select array_agg(m.id order by m.id), array_agg(m.segment order by m.id) into ids, segments
    from outbox.message m
    where m.segment >= 0
        -- rows that a local transaction is writing now are left to the next tick
        and (m.segment <> this_leaf or this_leaf = left_leaf or pg_visible_in_snapshot(m.xid, s2))
        and not exists (
            -- rows of events alone are left out: there may be very many
            select from (select unnest(f.message_ids) as id from outbox.feed f where f.message_segment >= 0) known
            where known.id = m.id
        );
    events := outbox_internal.unnumbered_events(state);
    if cardinality(events) > 0 then
        select array_agg(u.id order by u.id), array_agg(u.segment order by u.id) into ids, segments
        from (
            select i.id, i.segment from unnest(ids, segments) i(id, segment)
            union all
            select e.id, -2 from unnest(events) e(id)
        ) u;
    end if;
    perform setval('outbox._event_floor', (select coalesce(max(e.id), 0) from outbox._message_event e));
    -- A dump, for example one made by hand, may hold an older value of the sequence than the messages need.
    perform setval('outbox._message_id', greatest(floor2, (select max(m.id) from outbox.message m), 1));
    floor2 := greatest(floor2, coalesce((select max(m.id) from outbox.message m), 0));
    -- Logical replication does not copy sequences. Messages that the original had removed are missing here too.
    perform setval('outbox._reclaimed', outbox_internal.first_stored(outbox_internal.tail()) - 1);
    -- A new epoch, because the original goes on to use the same positions.
    this_epoch := coalesce((select max(e.epoch) from outbox.epoch e), 0) + 1;
    insert into outbox.epoch (epoch, first_position, timeline) values (this_epoch, first, outbox_internal.timeline());
    while part <= coalesce(cardinality(ids), 0) loop
        perform outbox_internal.append_to_feed(after, ids[part:part + chunk - 1], segments[part:part + chunk - 1]);
        after := after + least(chunk, cardinality(ids) - part + 1);
        part := part + chunk;
    end loop;
    update outbox.subscription_version v
    set position = first + u.ord - 1
    from unnest(ids) with ordinality u(id, ord)
    where v.control_message_id = u.id and v.position is null;
    if this_leaf = left_leaf and exists (select from outbox.message m where m.segment = left_leaf) then
        -- There was no empty leaf, so the foreign transaction ids in this one have to be overwritten.
        perform set_config('pg_outbox.erasing', 'on', true);
        update outbox.message m set xid = '3' where m.segment = left_leaf and m.xid >= pg_snapshot_xmin(s2);
        perform set_config('pg_outbox.erasing', 'off', true);
    end if;
    insert into outbox.tick (segment, id, xid, epoch, timeline, first_position, last_position, done_id, ticked_at,
        next_from, next_to, floor_from, floor_to, leaf, leaves, snapshot_from, snapshot_to)
    values (outbox_internal.current_leaf('tick'), coalesce(state.id, 0) + 1, outbox_internal.row_xid(), this_epoch,
        outbox_internal.timeline(), first, after, null,
        clock_timestamp(), next2, next2, floor2, floor2, this_leaf, array[this_leaf], s2, s2);
    delete from outbox._identity;
    insert into outbox._identity (xid, since, database)
    values (outbox_internal.row_xid(), pg_current_xact_id(), outbox_internal.database_oid());
    perform outbox_internal.note_segments();
    perform outbox_internal.audit('adopt', format('database %s', current_database()), reason,
        jsonb_build_object('epoch', this_epoch, 'numbered', after - first + 1, 'last_position', after));
    -- wakes the dispatcher
    perform outbox_internal.deliveries_changed();
    return after;
end
$$;
comment on function outbox.adopt is
    'Makes data that was restored or copied here this database''s own. Gives positions, in a new epoch, to the messages '
    'that have none, and lets the dispatcher push. Returns the last position. If the outbox is this database''s own '
    'already, nothing is changed. reason (default null) is stored in outbox.audit. Not in a transaction block or function. '
    'Errors: 25001 in such a transaction or not at isolation level read committed, 55000 a subscription of logical '
    'replication writes this outbox, 55P03 another session keeps the sequencer for 5 s, or a leaf''s lock was not '
    'available within 30 s';

insert into outbox._capability values
    ('admin', 'function outbox.adopt');
