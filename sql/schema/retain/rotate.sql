-- Rotation: which leaf of a ring is written, and when the pointer moves on.
--
-- - A ring's pointer moves on when the current leaf has been written for its share of the retention, or is larger than
--   pg_outbox.segment_size, or by rotate(). The pointer moves only to an empty leaf. If the next leaf is not empty, the
--   current one keeps growing.
-- - The pointer never leaves an empty leaf, and a leaf is emptied only after the sequencer has passed it. So between two
--   ticks the pointer cannot go round the ring.

-- API: private
-- The value of a retention setting; null when it is zero or negative, which means for ever.
create function outbox_internal.retention(setting text) returns interval
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    value interval;
begin
    -- loads the library, which defines the settings
    perform outbox_internal.database_oid();
    value := nullif(current_setting('pg_outbox.' || setting, true), '')::interval;
    return case when value > interval '0' then value end;
end
$$;

-- API: private
-- The retention of a ring; null: for ever.
create function outbox_internal.ring_retention(ring text) returns interval
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select outbox_internal.retention(case ring
        when 'message' then 'message_retention'
        when 'feed' then 'feed_retention'
        when 'attempt' then 'attempt_retention'
        when 'routing' then 'attempt_retention'
        when 'tick' then 'tick_retention'
        when 'checkpoint' then 'checkpoint_retention'
    end);
end;

-- API: private
-- The table of a leaf.
create function outbox_internal.leaf(ring text, leaf int) returns regclass
language sql stable
set search_path = pg_catalog, pg_temp
return format('outbox._%s_%s', ring, lpad(leaf::text, 2, '0'))::regclass;

-- API: private
-- Makes outbox.segment agree with the pointers. Pointers are not transactional: if a transaction moves a pointer and then
-- fails, the pointer stays moved.
create function outbox_internal.note_segments() returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.segment as s (ring, leaf)
    select r.name, outbox_internal.current_leaf(r.name) from outbox._ring r
    where not exists (
        select from outbox.segment k
        where k.ring = r.name and k.leaf = outbox_internal.current_leaf(r.name) and k.closed_at is null
    )
    on conflict (ring, leaf) do update
    set opened_at = excluded.opened_at, closed_at = null, last_position = null, reclaimed_at = null, kept = null;

    update outbox.segment s set closed_at = clock_timestamp()
    where s.closed_at is null and s.leaf <> outbox_internal.current_leaf(s.ring);
end;

-- API: private
-- Moves a ring's pointer to the next leaf if it is time, or if `now_` is true. Returns rotated, not yet, empty (nothing was
-- written to the current leaf) or full (the next leaf still holds rows).
create function outbox_internal.rotate(ring text, now_ boolean) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    leaves int;
    current smallint := outbox_internal.current_leaf(ring);
    next int;
    since timestamptz;
    share interval;
    size_limit bigint;
begin
    select r.leaves into leaves from outbox._ring r where r.name = ring;
    next := (current + 1) % leaves;
    if pg_relation_size(outbox_internal.leaf(ring, current)) = 0 then
        return 'empty';
    end if;
    select s.opened_at into since from outbox.segment s where s.ring = ring and s.leaf = current;
    -- Two leaves of the ring do not count for the retention: the one that is written, and the next one.
    share := outbox_internal.ring_retention(ring) / (leaves - 2);
    size_limit := coalesce(pg_size_bytes(current_setting('pg_outbox.segment_size', true)), 0);
    if not (
        now_
        or coalesce(clock_timestamp() >= since + share, false)
        or size_limit > 0 and pg_total_relation_size(outbox_internal.leaf(ring, current)) >= size_limit
    ) then
        return 'not yet';
    end if;
    if pg_relation_size(outbox_internal.leaf(ring, next)) > 0 then
        return 'full';
    end if;
    if ring = 'feed' and not outbox_internal.sequencer_lock() then
        -- A tick that has already read the pointer would write rows with positions after the one noted below.
        return 'not yet';
    end if;
    perform setval(format('outbox._%s_segment', ring)::regclass, next);
    perform outbox_internal.note_segments();
    if ring in ('feed', 'routing') then
        update outbox.segment s set last_position = outbox.head() where s.ring = ring and s.leaf = current;
    end if;
    return 'rotated';
end
$$;

-- API: private
-- Sets last_position of closed leaves of messages, once the sequencer has passed them. It is the last position of the last
-- row of the feed that refers to the leaf. That row is near the end of the feed at this time; if it is not among the last
-- 10000 rows, the end of the feed is used.
create function outbox_internal.seal_leaves() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    state outbox.tick;
    current smallint := outbox_internal.current_leaf('message');
begin
    select * into state from outbox.tick t order by t.id desc limit 1;
    if state.id is null or state.done_id is not null then
        return;
    end if;
    update outbox.segment s
    set last_position = coalesce(
        (
            select n.last_position
            from (
                select f.last_position, f.message_segment from outbox.feed f
                where f.first_position <= state.last_position
                order by f.first_position desc limit 10000
            ) n
            where n.message_segment = s.leaf
            limit 1
        ),
        state.last_position)
    where s.ring = 'message' and s.closed_at is not null and s.last_position is null
        and s.leaf <> all (state.leaves)
        -- and the leaf was not written to since that tick
        and outbox_internal.leaf_distance(state.leaf, s.leaf) > outbox_internal.leaf_distance(state.leaf, current);
end
$$;

-- API: public
create function outbox.rotate(ring text default 'message') returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
    if not exists (select from outbox._ring r where r.name = ring) then
        raise exception 'ring "%" does not exist', left(ring, 100) using errcode = 'OB001',
            hint = format('The rings are %s.', (select string_agg(r.name, ', ' order by r.name) from outbox._ring r));
    end if;
    lock table outbox._maintenance in exclusive mode;
    perform outbox_internal.note_segments();
    return outbox_internal.rotate(ring, true);
end
$$;
comment on function outbox.rotate is
    'Makes new rows of a ring (default message) go to the next leaf from now on. Returns rotated, empty (nothing was '
    'written to the current leaf), full (the next leaf still holds rows), or not yet (the sequencer is busy). Not in a '
    'transaction block or function. Errors: OB001 no such ring, 25001 in such a transaction, 55P03 a lock was not '
    'available within 5 s';

insert into outbox._capability values
    ('admin', 'function outbox.rotate');
