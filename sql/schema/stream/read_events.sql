-- Reading events in the committed order: all of them, those of categories, or a consumer group's part.

-- API: private
-- Raises 22023 for a malformed member of a consumer group.
create function outbox_internal.check_member(member int, members int) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if (member is null) <> (members is null) or members not between 1 and 100000 or member not between 0 and members - 1 then
        raise exception 'invalid member' using errcode = 'invalid_parameter_value',
            detail = format('It is %s of %s.', coalesce(member::text, 'null'), coalesce(members::text, 'null')),
            hint = 'Members of a group are numbered from 0 to members - 1; without a group, both are null.';
    end if;
end
$$;

-- API: private
-- Raises 22023 for a list of categories that no stream can have.
create function outbox_internal.check_categories(categories text[]) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if array_ndims(categories) > 1 or cardinality(categories) not between 1 and 1000
        or array_position(categories, null) is not null
        or exists (
            select from unnest(categories) u(category)
            where octet_length(u.category) not between 1 and 255 or strpos(u.category, '-') > 0
        ) then
        raise exception 'malformed categories' using errcode = 'invalid_parameter_value',
            hint = '1 to 1000 names of 1 to 255 bytes without "-"; null: all.';
    end if;
end
$$;

-- API: public
create function outbox.read_events(
    after_position bigint,
    max_events int default 1000,
    categories text[] default null,
    types text[] default null,
    tenant text default null,
    filter jsonb default null,
    member int default null,
    members int default null,
    epoch int default null,
    upcast boolean default false
) returns setof outbox.event
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
-- Every query has an index, whatever the statistics of a young table say.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_variable
declare
    -- Positions looked at in one call: a filter that nothing passes must not read everything.
    budget constant int := greatest(10000, max_events);
    done bigint := after_position;
    path jsonpath;
    -- Conditions that hold for every event are not evaluated.
    narrow constant boolean := coalesce(types, categories) is not null
        or coalesce(filter, to_jsonb(tenant), to_jsonb(member)) is not null;
    -- the end of the feed, from before it is read
    feed_end constant bigint := outbox.head();
    listed bigint;
    row_of_feed record;
    places bigint[];
    ids bigint[];
    -- the first and the last of the ids, and whether they are consecutive
    low bigint;
    high bigint;
    dense boolean;
    one_epoch int;
    looked_at int := 0;
    returned int := 0;
    n int;
    nothing outbox.event;
begin
    if after_position is null or after_position < 0 then
        raise exception 'invalid position' using errcode = 'OB009',
            detail = format('It is %s.', coalesce(after_position::text, 'null')),
            hint = 'A position is 0 (before the first event) or the position of an event that was read.';
    end if;
    perform outbox_internal.check_max_events(max_events);
    perform outbox_internal.check_member(member, members);
    perform outbox_internal.check_categories(categories);
    if upcast then
        return query
        select u.*
        from outbox.read_events(after_position, max_events, categories, types, tenant, filter, member, members, epoch) e
        cross join lateral outbox_internal.upcast_event(e) u;
        return;
    end if;
    -- Raises errors for malformed arguments, even if there is nothing to read.
    perform outbox_internal.matches(types, filter, 'a', null, null, null, null, null);
    perform outbox_internal.check_routes('{#}', filter);
    path := (filter ->> 'payload')::jsonpath;
    perform outbox_internal.check_history(after_position, epoch);
    -- Nearly all reads are in the last epoch; otherwise the epoch is looked up row by row.
    select e.epoch into one_epoch
    from (select e.epoch, e.first_position from outbox.epoch e order by e.epoch desc limit 1) e
    where e.first_position <= after_position + 1;

    listed := case when categories is not null then outbox_internal.listed() else 0 end;
    while done < listed and returned < max_events and looked_at < budget loop
        select array_agg(c.place order by c.place), array_agg(c.id order by c.place) into places, ids
        from (
            select p.place, p.id
            from (select distinct k from unnest(categories) k) k
            cross join lateral outbox_internal.places_of_category(k.k, done, listed, max_events) p
            order by p.place
            limit max_events
        ) c;
        if places is null then
            done := listed;
            exit;
        end if;
        return query
        select u.place, coalesce(one_epoch, outbox_internal.epoch_of(u.place)), e.*
        from unnest(places, ids) with ordinality u(place, id, ord)
        join outbox._event_row e on e.message_id = u.id
        where (tenant is null or e.tenant = tenant)
            and (types is null and filter is null or outbox_internal.matches(types, filter, e.type, e.tenant, e.stream,
                outbox.category(e.stream), outbox.stream_key(e.stream), e.headers))
            and (path is null or outbox_internal.path_holds(e.data, path))
            and (member is null or outbox_internal.member_of(e.stream, members) = member)
        order by u.ord
        limit max_events - returned;
        get diagnostics n = row_count;
        returned := returned + n;
        looked_at := looked_at + cardinality(places);
        done := places[cardinality(places)];
    end loop;

    if returned < max_events and looked_at < budget then
        for row_of_feed in
            select f.first_position, f.last_position, f.message_ids
            from outbox._feed_event f
            where f.first_position >= coalesce((
                select p.first_position from outbox._feed_event p
                where p.first_position <= done + 1
                order by p.first_position desc limit 1
            ), 0)
            order by f.first_position
        loop
            continue when row_of_feed.last_position <= done;
            exit when returned >= max_events or looked_at >= budget;
            done := greatest(done, row_of_feed.first_position - 1);
            ids := row_of_feed.message_ids[(done - row_of_feed.first_position + 2)::int :];
            low := ids[1];
            high := ids[cardinality(ids)];
            dense := high - low = cardinality(ids) - 1;
            if narrow then
                return query
                select done + u.ord, coalesce(one_epoch, outbox_internal.epoch_of(done + u.ord)), e.*
                from unnest(ids) with ordinality u(id, ord)
                join outbox._event_row e on e.message_id = u.id
                where (categories is null or outbox.category(e.stream) = any (categories))
                    and (tenant is null or e.tenant = tenant)
                    and (types is null and filter is null
                        or outbox_internal.matches(types, filter, e.type, e.tenant, e.stream, outbox.category(e.stream),
                            outbox.stream_key(e.stream), e.headers))
                    and (path is null or outbox_internal.path_holds(e.data, path))
                    and (member is null or outbox_internal.member_of(e.stream, members) = member)
                order by u.ord
                limit max_events - returned;
            elsif high - low < 8 * cardinality(ids) then
                -- They are close together: a walk over a range of the index finds them in order.
                return query
                select p.place, coalesce(one_epoch, outbox_internal.epoch_of(p.place)), e.*
                from outbox._event_row e
                cross join lateral (
                    select done + case when dense then e.message_id - low + 1
                        else width_bucket(e.message_id, ids) end as place
                ) p
                where e.message_id between low and high and (dense or ids[width_bucket(e.message_id, ids)] = e.message_id)
                order by e.message_id
                limit max_events - returned;
            else
                return query
                select done + u.ord, coalesce(one_epoch, outbox_internal.epoch_of(done + u.ord)), e.*
                from unnest(ids) with ordinality u(id, ord)
                join outbox._event_row e on e.message_id = u.id
                order by u.ord
                limit max_events - returned;
            end if;
            get diagnostics n = row_count;
            returned := returned + n;
            looked_at := looked_at + cardinality(ids);
            done := row_of_feed.last_position;
        end loop;
    end if;
    if returned = 0 and looked_at < budget and feed_end > done and outbox_internal.is_own() then
        -- No event is between the last one and the end. In a logical copy that is being filled, the end may arrive first.
        done := feed_end;
    end if;
    if returned = 0 and done > after_position then
        -- None of these positions has such an event: a row without an event says where to continue.
        nothing."position" := done;
        nothing.epoch := outbox_internal.epoch_of(done);
        return next nothing;
    end if;
end
$$;
comment on function outbox.read_events is
    'Returns up to max_events (default 1000; 1 to 10000) events after a position (exclusive; 0: from the first one), in the '
    'committed order. Continue after the position of the last row. Events stay readable for ever, unless truncate_stream() '
    'removes them. categories, types (patterns), tenant and filter (as in a subscription) select; null: all. member and '
    'members: the part of a consumer group''s member, numbered from 0; streams with the same cardinal id go to the same '
    'member. A call looks at no more than about 10000 positions, or max_events if that is more, apart from those that the '
    'lists of categories pass over. If none of them matches, the result is one row whose message_id is null and whose '
    'position says where to continue. epoch: the epoch in which after_position was read, so that a lost history is '
    'noticed. upcast (default false): as in load(); an event that cannot be upcast is an error. A standby '
    'answers too. Errors: OB009 the position is malformed, after the end of the feed, or in a history '
    'that was lost; 22023 another argument is malformed';

insert into outbox._capability values
    ('consume', 'function outbox.read_events');
