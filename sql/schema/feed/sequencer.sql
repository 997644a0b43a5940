-- The sequencer: gives positions to committed messages, in order, without gaps, skips or stalls.
--
-- A tick takes the messages that its snapshot S2 sees and that S1, the snapshot of the tick before, did not see. It orders
-- them by message id and numbers them from the last position on. Four rules make this correct:
--
-- - The lock comes first, and S2 in a later statement. A snapshot that is older than the lock would not see what the
--   predecessor has numbered, and the tick would number it again.
-- - Rows are tested against S1 and this S2, because every later statement sees more.
-- - The transaction has no xid yet. A snapshot never lists its own transaction as running. So a tick after a write would
--   count its own unfinished transaction as finished, and the messages that this transaction enqueues later would be
--   skipped.
-- - The transaction is not prepared afterwards; the library refuses PREPARE TRANSACTION. The lock would outlive the session.

-- API: private
-- Takes the sequencer's lock until the end of the transaction, without waiting. False: another session has the lock.
create function outbox_internal.sequencer_lock() returns boolean language c volatile as 'MODULE_PATHNAME', 'outbox_sequencer_lock';

-- API: private
-- The first transaction id that is not assigned yet.
create function outbox_internal.next_xid() returns xid8 language c volatile as 'MODULE_PATHNAME', 'outbox_next_xid';

create type outbox._ticked as (
    status text,
    first_position bigint,
    last_position bigint,
    more boolean,
    message_ids bigint[],
    segments smallint[]
);
comment on type outbox._ticked is
    'status: ticked, idle (nothing new), fresh (there has never been a message), busy (another session ticks), refused '
    '(the transaction has an xid), copied (the identity is not genuine)';

create type outbox._bounds as (
    s1 pg_snapshot,
    s2 pg_snapshot,
    next1 xid8,
    next2 xid8,
    floor1 bigint,
    floor2 bigint,
    finished xid8[],
    running xid8[],
    leaf smallint,
    scan smallint[],
    settled smallint[],
    passed smallint[]
);
comment on type outbox._bounds is
    'The bounds of a tick, which takes the messages that the snapshot s2 sees and s1 did not see. next1, next2: the first '
    'transaction id that was not assigned at s1 and at s2. floor1, floor2: transactions from next1, and from next2 on draw '
    'message ids above this one. finished: transactions that were running in s1 and have ended in s2. running: transactions '
    'that are running in s2. leaf: the current leaf of messages. scan: leaves that this tick reads. settled: leaves of scan '
    'that get no more rows. passed: leaves of scan that became current since the last tick; null: there are none';

-- API: private
-- Writes rows of the feed for messages in their order, with the positions after `after`. A row holds up to 960 messages of
-- one leaf of the ring, and any events between them. A row with an event goes to the permanent leaf of the feed. A row per
-- kind would take a row for every position where messages and events alternate.
create function outbox_internal.append_to_feed(after bigint, ids bigint[], segments smallint[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    target smallint := coalesce(pg_sequence_last_value('outbox._feed_segment'), 0);
    total int := cardinality(ids);
    with_events constant boolean := (-2)::smallint = any (segments);
    -- where a row has to begin: the leaf of the ring changes
    runs int[];
    first int := 1;
    last int;
    stop int;
    leaf smallint;
    row_with_events boolean := false;
begin
    if with_events then
        runs := array(
            select r.o from (
                select s.o, s.leaf, lag(s.leaf) over (order by s.o) as before
                from unnest(segments) with ordinality s(leaf, o) where s.leaf <> -2
            ) r
            where r.leaf <> r.before
            order by r.o
        ) || (total + 1);
    else
        runs := array(
            select o from generate_series(2, total) o where segments[o] <> segments[o - 1]
        ) || (total + 1);
    end if;
    foreach stop in array runs loop
        while first < stop loop
            last := least(first + 959, stop - 1);
            leaf := segments[first];
            if with_events then
                -- -2 if all are events, because every other leaf has a higher number
                select max(s), bool_or(s = -2) into leaf, row_with_events from unnest(segments[first:last]) s;
            end if;
            insert into outbox.feed (segment, first_position, last_position, ticked_at, message_segment, message_ids)
            values (case when row_with_events then -2 else target end, after + first, after + last, clock_timestamp(), leaf,
                ids[first:last]);
            first := last + 1;
        end loop;
    end loop;
end
$$;

-- API: private
-- Whether no more rows can be written to a leaf that is no longer the current one: no session has its lock. A session that
-- takes the lock later reads the pointer again and goes to the current leaf. So every row in a settled leaf is of a
-- transaction that has ended.
create function outbox_internal.leaf_is_settled(leaf smallint) returns boolean language c volatile
as 'MODULE_PATHNAME', 'outbox_leaf_is_settled';

-- API: private
-- The first step of a tick: takes the sequencer's lock. Returns null if this transaction may tick, otherwise the status of
-- the tick: refused, busy or copied.
create function outbox_internal.tick_begin() returns text
language plpgsql volatile
as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'the sequencer runs at isolation level read committed only'
            using errcode = 'invalid_transaction_state',
                detail = format('This transaction is %s: its snapshot may be older than a lock it waited for.',
                    current_setting('transaction_isolation'));
    end if;
    if pg_current_xact_id_if_assigned() is not null then
        return 'refused';
    end if;
    if not outbox_internal.sequencer_lock() then
        return 'busy';
    end if;
    if current_setting('synchronous_commit') = 'off' then
        -- not a SET clause of the function, because that would be undone before the commit
        perform set_config('synchronous_commit', 'on', true);
    end if;
    if not outbox_internal.identity_is_genuine() then
        return 'copied';
    end if;
    return null;
end
$$;

-- API: private
-- The second step of a tick: returns its bounds. state: the last row of outbox.tick; null: there has never been a tick.
-- Between two ticks of a large difference the bounds stay the same.
create function outbox_internal.tick_bounds(state outbox.tick) returns outbox._bounds
language plpgsql volatile
as $$
declare
    since xid8;
    s1 pg_snapshot;
    s2 pg_snapshot;
    next1 xid8;
    next2 xid8;
    floor1 bigint;
    floor2 bigint;
    leaf smallint;
    scan smallint[];
    settled smallint[] := '{}';
    passed smallint[];
    finished xid8[];
    running xid8[];
begin
    if state.done_id is null then
        if state.id is null then
            select min(i.since) into since from outbox._identity i;
        end if;
        s1 := coalesce(state.snapshot_to, format('%1$s:%1$s:', since)::pg_snapshot);
        next1 := coalesce(state.next_to, since);
        floor1 := coalesce(state.floor_to, 0);
        scan := coalesce(state.leaves, '{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}');
        -- At the first tick the leaf that was current before is not known, so no leaf counts as settled.
        if cardinality(scan) > 1 and state.leaf is not null then
            -- Before S2: this tick sees all rows of a leaf that is settled now.
            settled := array(
                select l from unnest(scan) l where l is distinct from state.leaf and outbox_internal.leaf_is_settled(l)
            );
        end if;
        -- In this order: a transaction from next2 on draws its message ids after floor2 was read.
        floor2 := coalesce(pg_sequence_last_value('outbox._message_id'), 0);
        next2 := outbox_internal.next_xid();
        select pg_current_snapshot() into s2;
        -- After S2: every message that S2 sees was written to a leaf that has become current by now.
        leaf := coalesce(pg_sequence_last_value('outbox._message_segment'), 0);
        -- the leaves that became current since the last tick
        passed := case
            when state.leaf is null then array[leaf]
            when leaf <> state.leaf then array(
                select (state.leaf + i) % outbox_internal.message_leaves()
                from generate_series(1, outbox_internal.leaf_distance(state.leaf, leaf)) i
            )
        end;
        scan := scan || passed;
    else
        -- in the middle of a large difference: between the same snapshots
        s1 := state.snapshot_from;
        s2 := state.snapshot_to;
        next1 := state.next_from;
        next2 := state.next_to;
        floor1 := state.floor_from;
        floor2 := state.floor_to;
        scan := state.leaves;
        leaf := state.leaf;
    end if;
    running := array(select pg_snapshot_xip(s2));
    finished := array(select x from pg_snapshot_xip(s1) x where pg_visible_in_snapshot(x, s2));
    return row(s1, s2, next1, next2, floor1, floor2, finished, running, leaf, scan, settled, passed)::outbox._bounds;
end
$$;

-- API: private
-- Returns the next chunk of a difference that is larger than a chunk: its messages after `after` in id order (null: from the
-- beginning). They come from two sources, and each has an index for its order. Messages of transactions that had begun at S1
-- are read transaction by transaction. All other messages have ids above floor1 and are read by id.
--
-- The ids are read in windows, each twice as wide as the one before, and neither source is read beyond the window. So the
-- cost of the whole difference is the number of its messages. If each source were read until it gives a chunk, every chunk
-- would read all remaining messages of the other source. The first window of a tick is as wide as a chunk.
create function outbox_internal.tick_chunk(
    chunk int,
    after bigint,
    s1 pg_snapshot,
    s2 pg_snapshot,
    next1 xid8,
    floor1 bigint,
    finished xid8[],
    running xid8[],
    scan smallint[],
    out ids bigint[],
    out segments smallint[],
    out control boolean
)
language plpgsql volatile
as $$
declare
    -- Events may be found at every tick, because their leaf is never passed or settled.
    leaves constant smallint[] := scan || (-2)::smallint;
    event_floor constant bigint := coalesce(pg_sequence_last_value('outbox._event_floor'), 0);
    -- Read now, because a message that S2 sees may have drawn its id after floor2 was read.
    last_id constant bigint := coalesce(pg_sequence_last_value('outbox._message_id'), 0);
    -- Those of the transactions that S1 did not know have messages. They are found one after the other in the index: a
    -- transaction with many savepoints has as many transaction ids, and none of them has a message.
    known constant xid8[] := finished || array(
        with recursive k (x) as (
            select (
                select m.xid from outbox.message m
                where m.segment = any (leaves) and m.xid >= pg_snapshot_xmax(s1) and m.xid < next1 order by m.xid limit 1
            )
            union all
            select (
                select m.xid from outbox.message m
                where m.segment = any (leaves) and m.xid > k.x and m.xid < next1 order by m.xid limit 1
            )
            from k where k.x is not null
        )
        select k.x from k where k.x is not null and pg_visible_in_snapshot(k.x, s2)
    );
    -- the window: above low, up to high
    low bigint := after;
    high bigint;
    width bigint := chunk;
    wanted int := chunk;
    part record;
begin
    ids := '{}';
    segments := '{}';
    control := false;
    if low is null then
        select least(floor1, min(l.id) - 1) into low
        from unnest(known) k(x),
        lateral (
            select m.id from outbox.message m
            where m.segment = any (leaves) and (m.xid, m.id) > (k.x, 0) and m.xid <= k.x
                and (m.id > event_floor or m.segment >= 0) is true
            order by m.xid, m.id limit 1
        ) l;
    end if;
    loop
        high := low + width;
        -- Each query has one index that can be used, whatever the statistics say. The pairs keep the first query off the
        -- index on id, which has nearly all other messages before the first one of a transaction. `is true` keeps the second
        -- query off the index on xid, and off a sort of the whole rest of the difference for every chunk.
        select array_agg(c.id order by c.id) as ids, array_agg(c.segment order by c.id) as segments, count(*) as n,
            bool_or(c.topic = 'outbox.control') as control
        into part
        from (
            select u.id, u.segment, u.topic
            from (
                (select l.id, l.segment, l.topic
                from unnest(known) k(x),
                lateral (
                    select m.id, m.segment, m.topic from outbox.message m
                    where m.segment = any (leaves) and (m.xid, m.id) > (k.x, low) and (m.xid, m.id) <= (k.x, high)
                        and (m.id > event_floor or m.segment >= 0) is true
                    order by m.xid, m.id limit wanted
                ) l)
                union all
                (select m.id, m.segment, m.topic from outbox.message m
                where m.segment = any (leaves) and m.id > greatest(low, floor1) and m.id <= high
                    and (m.id > event_floor or m.segment >= 0) is true
                    and (m.xid >= greatest(next1, pg_snapshot_xmax(s1)) and m.xid < pg_snapshot_xmax(s2)
                        and m.xid <> all (running)) is true
                order by m.id limit wanted)
            ) u
            order by u.id limit wanted
        ) c;
        if part.n > 0 then
            ids := ids || part.ids;
            segments := segments || part.segments;
            control := control or part.control;
            wanted := wanted - part.n;
        end if;
        exit when wanted = 0 or high >= last_id;
        low := high;
        width := 2 * width;
    end loop;
end
$$;

-- API: private
-- The third step of a tick: returns up to a chunk of the messages within the bounds, in the order of their ids (null or
-- empty: there are none). after: the last tick was in the middle of a large difference, and has numbered it up to this
-- message id. control: one of the messages is a control message. done: this tick ends in the middle of a large difference,
-- at this message id. more: another tick has to follow at once.
create function outbox_internal.tick_pick(
    chunk int,
    after bigint,
    s1 pg_snapshot,
    s2 pg_snapshot,
    next1 xid8,
    floor1 bigint,
    finished xid8[],
    running xid8[],
    scan smallint[],
    out ids bigint[],
    out segments smallint[],
    out control boolean,
    out done bigint,
    out more boolean
)
language plpgsql volatile
as $$
declare
    -- Events may be found at every tick, because their leaf is never passed or settled.
    leaves constant smallint[] := scan || (-2)::smallint;
    event_floor constant bigint := coalesce(pg_sequence_last_value('outbox._event_floor'), 0);
    above xid8[];           -- with below, open intervals of transactions that S1 did not know and that have ended in S2
    below xid8[];
    n int;
begin
    more := false;
    if after is null then
        select array_agg(b.x), array_agg(b.next) into above, below
        from (
            select e.x, lead(e.x, 1, pg_snapshot_xmax(s2)) over (order by e.x) as next
            from (
                select (pg_snapshot_xmax(s1)::text::bigint - 1)::text::xid8 as x
                union all
                select r from unnest(running) r where r >= pg_snapshot_xmax(s1)
            ) e
        ) b;
        -- Unsorted, because an `order by id limit` would read the whole table. One row more than a chunk shows that there is
        -- more. `offset 0` keeps the look-up in the index: with the statistics of a leaf that one transaction has filled, a
        -- join reads the leaf.
        select array_agg(c.id order by c.id), array_agg(c.segment order by c.id), count(*),
            bool_or(c.topic = 'outbox.control')
        into ids, segments, n, control
        from (
            (select l.id, l.segment, l.topic
            from unnest(finished) f,
            lateral (
                select m.id, m.segment, m.topic from outbox.message m
                where m.segment = any (leaves) and m.xid = f and (m.id > event_floor or m.segment >= 0) is true
                offset 0
            ) l)
            union all
            (select l.id, l.segment, l.topic
            from unnest(above, below) b(above, below),
            lateral (
                select m.id, m.segment, m.topic from outbox.message m
                where m.segment = any (leaves) and m.xid > b.above and m.xid < b.below
                    and (m.id > event_floor or m.segment >= 0) is true
                offset 0
            ) l)
            limit chunk + 1
        ) c;
    end if;
    if after is not null or n > chunk then
        select c.ids, c.segments, c.control into ids, segments, control
        from outbox_internal.tick_chunk(chunk, after, s1, s2, next1, floor1, finished, running, scan) c;
        n := cardinality(ids);
        done := case when n = chunk then ids[n] end;
        -- After the last chunk of a large difference there may be newer messages, because its S2 is as old as the first
        -- chunk.
        more := n = chunk or after is not null;
    end if;
end
$$;

-- API: private
-- The last step of a tick: writes the picked messages to the feed, gives the positions of control messages to their
-- versions of subscriptions, and writes the new state. Returns the last position of the feed. state and bounds: those of
-- the steps before. ids, segments, control, done: as returned by _tick_pick.
create function outbox_internal.tick_write(
    state outbox.tick,
    bounds outbox._bounds,
    this_timeline int,
    ids bigint[],
    segments smallint[],
    control boolean,
    done bigint
) returns bigint
language plpgsql volatile
as $$
declare
    n int := coalesce(cardinality(ids), 0);
    last_position bigint := coalesce(state.last_position, 0);
    this_epoch int := coalesce(state.epoch, 1);
begin
    if state.id is null or this_timeline <> state.timeline then
        this_epoch := coalesce(state.epoch + 1, 1);
        insert into outbox.epoch (epoch, first_position, timeline) values (this_epoch, last_position + 1, this_timeline);
    end if;
    if n > 0 then
        perform outbox_internal.append_to_feed(last_position, ids, segments);
    end if;
    if control then
        -- The ids ascend, so this is the place of an id among them.
        update outbox.subscription_version v
        set position = last_position + width_bucket(v.control_message_id, ids)
        where v.control_message_id = any (ids) and v.position is null;
    end if;
    insert into outbox.tick (segment, id, xid, epoch, timeline, first_position, last_position, done_id, ticked_at,
        next_from, next_to, floor_from, floor_to, leaf, leaves, snapshot_from, snapshot_to)
    values (coalesce(pg_sequence_last_value('outbox._tick_segment'), 0), coalesce(state.id, 0) + 1, outbox_internal.row_xid(),
        this_epoch, this_timeline, last_position + 1, last_position + n, done, clock_timestamp(),
        bounds.next1, bounds.next2, bounds.floor1, bounds.floor2, bounds.leaf,
        -- A leaf that is settled and has become current again has to be read.
        array(
            select distinct l from unnest(bounds.scan) l
            where done is not null or l <> all (bounds.settled) or l = any (bounds.passed)
        ),
        bounds.s1, bounds.s2);
    return last_position + n;
end
$$;

-- API: private
-- Makes one tick of at most `chunk` messages. Called by the dispatcher, which sets its plan settings for the session, and by
-- outbox_internal.tick_inline, which sets those that matter: generic plans without sequential scans. With the statistics of
-- a young table,
-- the planner would read everything that is retained. A custom plan would plan 16 leaves at every tick.
--
-- The steps are functions of their own: outbox_internal.tick_begin, outbox_internal.tick_bounds, outbox_internal.tick_pick,
-- _tick_write. The settings of the caller hold
-- in them. They have no SET clauses, because each would cost several microseconds at every tick.
create function outbox_internal.tick(chunk int) returns outbox._ticked
language plpgsql volatile
as $$
declare
    last record;
    state outbox.tick;
    bounds outbox._bounds;
    picked record;
    n int;
    this_timeline int := outbox_internal.timeline();
    result outbox._ticked;
begin
    result.status := outbox_internal.tick_begin();
    if result.status is not null then
        return result;
    end if;
    -- The last row has to be genuine too: a restore may load it before it loads the identity.
    select t as state, t.xmin::text = (t.xid::text::bigint & 4294967295)::text as own into last
    from outbox.tick t order by t.id desc limit 1;
    if not last.own then
        result.status := 'copied';
        return result;
    end if;
    state := last.state;
    result.last_position := coalesce(state.last_position, 0);
    result.first_position := result.last_position + 1;

    bounds := outbox_internal.tick_bounds(state);
    picked := outbox_internal.tick_pick(chunk, state.done_id, bounds.s1, bounds.s2, bounds.next1, bounds.floor1,
        bounds.finished,
        bounds.running, bounds.scan);
    result.more := picked.more;
    n := coalesce(cardinality(picked.ids), 0);

    if state.id is null then
        if n = 0 then
            -- A restore may be about to load the rows of the original, and no row may conflict with them.
            result.status := 'fresh';
            return result;
        elsif picked.ids[n] > pg_sequence_last_value('outbox._message_id') then
            -- These ids were never drawn here: a restore is loading the messages.
            result.status := 'copied';
            return result;
        end if;
    end if;

    -- Nothing new. The state is still written now and then, so that transactions that were rolled back are not read again
    -- for ever. But it is not written for the xid of this tick alone, or an idle database would tick because of its own
    -- ticks. It is written at once when leaves have changed, because a leaf that need not be read any more can be reclaimed.
    if n = 0 and state.done_id is null and this_timeline = state.timeline
        and bounds.passed is null and cardinality(bounds.settled) = 0
        and (cardinality(bounds.finished) = 0
                and pg_snapshot_xmax(bounds.s2)::text::bigint - pg_snapshot_xmax(bounds.s1)::text::bigint <= 1
            or clock_timestamp() < state.ticked_at + interval '1 s') then
        result.status := 'idle';
        return result;
    end if;

    result.last_position := outbox_internal.tick_write(state, bounds, this_timeline, picked.ids, picked.segments,
        picked.control,
        picked.done);
    result.status := case when n > 0 then 'ticked' else 'idle' end;
    result.message_ids := picked.ids;
    result.segments := picked.segments;
    return result;
end
$$;

-- API: private
-- Makes a tick in any session. The settings are needed for the right plans, see _tick.
create function outbox_internal.tick_inline(chunk int) returns outbox._ticked
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set max_parallel_workers_per_gather = 0
as $$
begin
    return outbox_internal.tick(chunk);
end
$$;

-- API: public
create function outbox.tick() returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    ticked outbox._ticked;
begin
    perform outbox_internal.check_writable('tick');
    -- A tick of another session takes milliseconds.
    for i in 1 .. 500 loop
        ticked := outbox_internal.tick_inline(100000);
        exit when ticked.status <> 'busy';
        perform pg_sleep(0.01);
    end loop;
    case ticked.status
        when 'refused' then
            raise exception 'this transaction has written something' using errcode = 'active_sql_transaction',
                hint = 'Call outbox.tick() in a transaction of its own.';
        when 'busy' then
            raise exception 'another session has the sequencer' using errcode = 'lock_not_available',
                hint = 'outbox.health() names it.';
        when 'copied' then
            raise exception 'this outbox was restored or copied here' using errcode = 'object_not_in_prerequisite_state',
                hint = 'outbox.adopt() makes it this database''s own.';
        else
            return ticked.last_position;
    end case;
end
$$;
comment on function outbox.tick is
    'Gives positions to the messages that are committed now (at most 100000 of them), and returns the last position. The '
    'dispatcher does this by itself; call the function where there is no dispatcher. Not in a transaction block or '
    'function. Errors: 25001 in such a transaction, 25006 the transaction is read-only, 55000 the outbox was restored or '
    'copied here and is not adopted, 55P03 another session keeps the sequencer for 5 s';

-- API: private
-- Returns the sessions of ordinary roles that keep the dispatcher waiting although their call has returned. The call took a
-- lock, and the transaction goes on (`select outbox.tick(), pg_sleep(3600)`, a function around the call, a client that does
-- not finish its protocol message). During a call the session also holds the table _sequencer in mode ACCESS SHARE, see the
-- library's module `entry`.
create function outbox_internal.overstaying() returns setof int
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select distinct l.pid
    from pg_locks l
    join pg_stat_activity a on a.pid = l.pid
    join pg_class k on k.oid = l.relation
    where l.database = outbox_internal.database_oid() and l.granted and l.pid <> pg_backend_pid()
        and k.relnamespace = (select s.relnamespace from pg_class s where s.oid = 'outbox._sequencer'::regclass)
        and (l.mode = 'ExclusiveLock' and k.relname in ('_sequencer', '_maintenance') or l.mode = 'AccessExclusiveLock')
        and not exists (
            select from pg_locks c
            where c.pid = l.pid and c.relation = 'outbox._sequencer'::regclass and c.mode = 'AccessShareLock'
                and c.database = outbox_internal.database_oid()
        )
        -- The session has committed, and waits for a standby.
        and a.wait_event is distinct from 'SyncRep'
        -- Sessions of superusers and of the owner are left to them, and health() names them. A null is no session of a role.
        and not pg_has_role(a.usesysid, (select k.relowner from pg_class k where k.oid = 'outbox._sequencer'::regclass), 'usage');
end;

insert into outbox._capability values
    ('admin', 'function outbox.tick');
