-- The routing decision for a position, and its reason as text.

-- API: private
-- The routing decision for a position. Null: not routed yet, or no longer stored; 1 and above: number of subscriptions that
-- matched; below 0: the reason why none matched, see outbox_internal.routing_reason().
create function outbox_internal.matched(place bigint) returns int
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
begin
    return (
        select case when place <= r.last_position then r.matched[place - r.first_position + 1] end
        from outbox.routing r
        where r.first_position <= place
        order by r.first_position desc limit 1
    );
end
$$;

-- API: private
-- The reason why no subscription matched, for an entry of outbox.routing.matched; null if one did.
create function outbox_internal.routing_reason(matched int) returns text
language sql immutable parallel safe
return case matched
    when -1 then 'no subscription'
    when -2 then 'filtered'
    when -3 then 'control message'
    when -4 then 'no longer stored'
    when -5 then 'inactive'
end;

-- API: private
-- The routing decisions for the positions of a page, see outbox_internal.matched().
create function outbox_internal.matched_at(places bigint[]) returns table ("position" bigint, matched int)
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
    found_places bigint[];
    matches int[];
begin
    select min(p) into low from unnest(places) p;
    select r.first_position into low
    from outbox.routing r where r.first_position <= low order by r.first_position desc limit 1;
    select array_agg(i.place), array_agg(u.matched::int) into found_places, matches
    from (
        select n.first_position, n.matched from outbox.routing n
        where n.first_position >= low
        order by n.first_position
        limit 2 * cardinality(places)
    ) r
    cross join lateral unnest(r.matched) with ordinality u(matched, n)
    join unnest(places) i(place) on i.place = r.first_position + u.n - 1;
    return query
    select * from unnest(found_places, matches)
    union all
    select i.place, outbox_internal.matched(i.place)
    from unnest(places) i(place)
    where not exists (select from unnest(coalesce(found_places, '{}')) f(place) where f.place = i.place);
end
$$;
