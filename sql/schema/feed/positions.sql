-- Positions of messages. The feed has no index on message ids. But the row of the feed that holds a message was written
-- after the message was enqueued, and nearly always it is the first row written since then.

-- API: private
-- Above every position and every message id. The planner puts the number in place of the call.
create function outbox_internal.max_bigint() returns bigint
language sql immutable parallel safe
return 9223372036854775807;

-- API: private
-- The position of a message; null: it has none yet, or is no longer stored. Reads the rows of the feed from the call of
-- enqueue() to the tick that followed the commit.
create function outbox_internal.position_of(message_id bigint) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- Every query has an index, whatever the statistics of a young table say. The generic plan is kept because planning 16
-- leaves costs more than reading them.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_variable
declare
    own record;
    place bigint;
begin
    select m.enqueued_at, m.xid into own from outbox.message m where m.id = message_id;
    select r.first_position + array_position(r.message_ids, message_id) - 1 into place
    from (
        -- row by row, and no further than the row that has the message
        select f.first_position, f.last_position, f.message_ids from outbox.feed f
        where f.ticked_at >= own.enqueued_at
        order by f.ticked_at
        offset 0
    ) r
    where r.message_ids[1] <= message_id and r.message_ids[r.last_position - r.first_position + 1] >= message_id
        and message_id = any (r.message_ids)
    limit 1;
    if place is null and (
        select pg_visible_in_snapshot(own.xid, t.snapshot_to) and t.done_id is null
        from outbox.tick t order by t.id desc limit 1
    ) then
        -- It has a position, but in a row whose ticked_at is earlier than enqueued_at: the clock was set back.
        select f.first_position + array_position(f.message_ids, message_id) - 1 into place
        from outbox.feed f
        where f.message_ids[1] <= message_id and f.message_ids[f.last_position - f.first_position + 1] >= message_id
            and message_id = any (f.message_ids)
        limit 1;
    end if;
    return place;
end
$$;

-- API: private
-- The positions of those messages that have one. The messages of a page are close to one another, so one scan finds most of
-- them.
create function outbox_internal.positions_of(ids bigint[]) returns table (message_id bigint, "position" bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = on
set enable_sort = off
set jit = off
as $$
#variable_conflict use_column
declare
    low bigint;
    high bigint;
    since timestamptz;
    found_ids bigint[];
    places bigint[];
begin
    select min(i), max(i) into low, high from unnest(ids) i;
    select m.enqueued_at into since from outbox.message m where m.id = low;
    select array_agg(u.id), array_agg(r.first_position + u.n - 1) into found_ids, places
    from (
        select f.first_position, f.last_position, f.message_ids from outbox.feed f
        where f.ticked_at >= since
        order by f.ticked_at
        limit 2 * cardinality(ids)
    ) r
    cross join lateral unnest(r.message_ids) with ordinality u(id, n)
    join unnest(ids) i(id) on i.id = u.id
    where r.message_ids[1] <= high and r.message_ids[r.last_position - r.first_position + 1] >= low;
    return query
    select * from unnest(found_ids, places)
    union all
    select i.id, outbox_internal.position_of(i.id)
    from unnest(ids) i(id)
    where not exists (select from unnest(coalesce(found_ids, '{}')) f(id) where f.id = i.id);
end
$$;
