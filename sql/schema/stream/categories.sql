-- Categories: where the events of each category are, listed behind the feed by a job of maintenance. Appending and ticking
-- write nothing for it. A reader of a category takes the lists up to their end, and the feed itself from there on.

-- API: private
-- Lists the events of up to `step` positions behind those that are listed. Returns how many events; null: there is nothing
-- to list. The caller has the lock of maintenance. A list has at most 600 entries, so that a row fits a page.
create function outbox_internal.list_categories(step int) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    after bigint := outbox_internal.listed();
    upto bigint := outbox.head();
    listed bigint;
begin
    -- Positions of messages alone are passed over.
    select greatest(after, f.first_position - 1) into after
    from outbox._feed_event f
    where f.first_position >= coalesce((
            select p.first_position from outbox._feed_event p
            where p.first_position <= after + 1
            order by p.first_position desc limit 1
        ), 0)
        and f.last_position > after and f.first_position <= upto
    order by f.first_position limit 1;
    if not found then
        return null;
    end if;
    upto := least(after + step, upto);
    insert into outbox._event_category (category, first_position, last_position, positions, message_ids)
    select l.category, min(l.place), max(l.place), array_agg((l.place - l.first)::int order by l.place),
        array_agg(l.id order by l.place)
    from (
        select r.*, first_value(r.place) over (partition by r.category, r.list order by r.place) as first
        from (
            select c.*, (row_number() over (partition by c.category order by c.place) - 1) / 600 as list
            from (
                select outbox.category(m.key) as category, f.first_position + u.ord - 1 as place, m.id
                from (
                    select * from outbox._feed_event f
                    where f.first_position >= coalesce((
                            select p.first_position from outbox._feed_event p
                            where p.first_position <= after + 1
                            order by p.first_position desc limit 1
                        ), 0)
                        and f.first_position <= upto
                    order by f.first_position
                ) f
                cross join lateral unnest(f.message_ids) with ordinality u(id, ord)
                join outbox._message_event m on m.id = u.id
                where f.first_position + u.ord - 1 > after and f.first_position + u.ord - 1 <= upto
            ) c
        ) r
    ) l
    group by l.category, l.list;
    select coalesce(sum(cardinality(c.positions)), 0) into listed
    from outbox._event_category c where c.first_position > after and c.first_position <= upto and c.category <> '';
    insert into outbox._event_category (category, first_position, last_position, positions, message_ids)
    values ('', after, upto, '{}', '{}');
    return listed;
end
$$;

-- API: private
-- The places of a category in the lists, after one position up to another: the first ones, at most 600 more than asked for.
create function outbox_internal.places_of_category(category text, after bigint, upto bigint, at_most int)
returns table (place bigint, id bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    list record;
    found_so_far int := 0;
    n int;
begin
    for list in
        select c.first_position, c.positions, c.message_ids from outbox._event_category c
        where c.category = category and c.first_position >= coalesce((
                select p.first_position from outbox._event_category p
                where p.category = category and p.first_position <= after + 1
                order by p.category desc, p.first_position desc limit 1
            ), 0)
            and c.first_position <= upto
        order by c.category, c.first_position
    loop
        return query
        select list.first_position + u.distance, u.id
        from unnest(list.positions, list.message_ids) u(distance, id)
        where list.first_position + u.distance > after and list.first_position + u.distance <= upto;
        get diagnostics n = row_count;
        found_so_far := found_so_far + n;
        exit when found_so_far >= at_most;
    end loop;
end
$$;
