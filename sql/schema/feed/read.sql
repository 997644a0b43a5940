-- Reading the feed in order. The message at a position never changes, and once a position has been read, no message gets a
-- smaller one.

-- API: public
create type outbox.feed_message as (
    "position" bigint,
    epoch int,
    message_id bigint,
    webhook_id text,
    topic text,
    key text,
    payload jsonb,
    body bytea,
    content_type text,
    headers jsonb,
    metadata jsonb,
    tenant text,
    aggregate_type text,
    aggregate_id text,
    publisher text,
    idempotency_key text,
    occurred_at timestamptz,
    enqueued_at timestamptz,
    version bigint,
    event_id uuid
);
comment on type outbox.feed_message is
    'A message at its position in the feed. version and event_id are those of an event, whose topic is its type and whose key '
    'is its stream';

-- API: private
-- Raises OB009 for a position without a message. start: where the read began, exclusive. Retention moves tail() before it
-- removes messages. A message that is missing for any other reason is missing because this is a copy: the original has
-- removed it, or replication has not brought it yet. may_be_truncated: the row of the feed names events, and
-- outbox.truncate_stream() may have removed this one. Then the position is passed over, unless a copy is still being filled.
create function outbox_internal.missing("position" bigint, start bigint, may_be_truncated boolean default false)
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    stored bigint := outbox_internal.tail();
    copied boolean := start >= stored - 1;
begin
    if may_be_truncated and not outbox_internal.is_filling() then
        return false;
    end if;
    if copied then
        stored := outbox_internal.first_stored(stored);
        if start >= stored - 1 then
            raise exception 'position % is missing here', "position" using errcode = 'OB009',
                detail = 'This outbox is a copy that is not complete: messages after that position were not read.',
                hint = 'Try again when its replication has caught up, or read the original.';
        end if;
    end if;
    raise exception 'position % is no longer stored', start + 1
        using errcode = 'OB009',
            detail = case when copied then format('This outbox is a copy: the first message in it is at position %s.', stored)
                else format('Retention has removed the messages before position %s.', stored) end,
            hint = format('Go on from there, without the messages that are gone: outbox.cursor_reset(..., %s, reason => ...).', stored - 1);
end
$$;

-- API: public
create function outbox.read(
    after_position bigint,
    max_messages int default 100,
    topics text[] default null,
    filter jsonb default null,
    epoch int default null,
    source text default 'messages'
) returns setof outbox.feed_message
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
    -- Positions looked at in one call: a filter that nothing passes must not read everything that is retained.
    budget constant int := greatest(10000, max_messages);
    done bigint;
    start bigint;
    path jsonpath;
    stretches refcursor;
    stretch record;
    -- with stretch.message_segment, the leaves that hold the messages of the stretch
    other_segment smallint;
    events_only constant boolean := source = 'events';
    -- the end of the feed, from before it is read
    feed_end constant bigint := case when source = 'events' then outbox.head() end;
    everything constant boolean := topics is null and filter is null;
    ids bigint[];
    -- the first and the last of the ids, and whether they are consecutive
    low bigint;
    high bigint;
    dense boolean;
    this_epoch int;
    epoch_end bigint := 0;
    looked_at int := 0;
    returned int := 0;
    n int;
    upto bigint;
    passed boolean := true;
    marker outbox.feed_message;
begin
    if after_position is null or after_position < 0 then
        raise exception 'invalid position' using errcode = 'OB009',
            detail = format('It is %s.', coalesce(after_position::text, 'null')),
            hint = 'A position is 0 (before the first message) or the position of a message that was read.';
    end if;
    if max_messages is null or max_messages not between 1 and 10000 then
        raise exception 'invalid max_messages' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(max_messages::text, 'null')),
            hint = 'Between 1 and 10000 messages can be read at once.';
    end if;
    -- Raises errors for malformed arguments, even if there is nothing to read.
    perform outbox_internal.matches(topics, filter, 'a', null, null, null, null, null);
    perform outbox_internal.check_routes('{#}', filter);
    perform outbox_internal.check_source(source);
    path := (filter ->> 'payload')::jsonpath;
    perform outbox_internal.check_history(after_position, epoch);
    start := case when after_position = 0 and not events_only then outbox_internal.first_stored(outbox_internal.tail()) - 1
        else after_position end;
    done := start;
    if events_only then
        open stretches no scroll for
            select f.segment, f.first_position, f.last_position, f.message_segment, f.message_ids
            from outbox._feed_event f
            where f.first_position >= coalesce((
                select p.first_position from outbox._feed_event p
                where p.first_position <= done + 1
                order by p.first_position desc limit 1
            ), 0)
            order by f.first_position;
    else
        open stretches no scroll for
            select f.segment, f.first_position, f.last_position, f.message_segment, f.message_ids
            from outbox.feed f
            where f.first_position >= coalesce((
                select p.first_position from outbox.feed p
                where p.first_position <= done + 1
                order by p.first_position desc limit 1
            ), 0)
            order by f.first_position;
    end if;
    <<feed>>
    loop
        fetch stretches into stretch;
        exit when not found;
        if stretch.last_position > done and (events_only or source = 'messages' and stretch.message_segment = -2) then
            -- Positions of the other kind are passed over. A row of the feed counts as one position that was looked at.
            exit feed when returned >= max_messages or looked_at >= budget;
            upto := case when events_only then stretch.first_position - 1 else stretch.last_position end;
            passed := passed and upto <= done;
            done := greatest(done, upto);
            looked_at := looked_at + 1;
        end if;
        other_segment := case when stretch.segment = -2 then -2 else stretch.message_segment end;
        while done < stretch.last_position loop
            exit feed when returned >= max_messages or looked_at >= budget;
            if done < stretch.first_position - 1 then
                perform outbox_internal.missing(done + 1, start);
            end if;
            ids := stretch.message_ids[(done - stretch.first_position + 2)::int
                : (done - stretch.first_position + 1)::int + least(max_messages - returned, budget - looked_at)];
            if done + 1 > epoch_end then
                this_epoch := outbox_internal.epoch_of(done + 1);
                select coalesce(min(e.first_position) - 1, outbox_internal.max_bigint()) into epoch_end
                from outbox.epoch e where e.epoch > this_epoch;
            end if;
            ids := ids[:least(epoch_end - done, cardinality(ids))::int];
            low := ids[1];
            high := ids[cardinality(ids)];
            dense := high - low = cardinality(ids) - 1;
            if everything and (stretch.segment <> -2 or stretch.message_segment = -2)
                and high - low < 8 * cardinality(ids) then
                -- All of them are in one leaf, close together: a walk over a range of its index finds them in order.
                return query
                select done + case when dense then m.id - low + 1 else width_bucket(m.id, ids) end, this_epoch, m.id,
                    outbox.webhook_id(m.id, m.enqueued_at), m.topic, m.key, m.payload, m.body, m.content_type, m.headers,
                    m.metadata, m.tenant, a.type, a.id, m.publisher, m.idempotency_key, m.occurred_at, m.enqueued_at,
                    m.version, m.event_id
                from outbox.message m
                cross join lateral (
                    select case when m.segment = -2 then outbox.category(m.key) else m.aggregate_type end as type,
                        case when m.segment = -2 then outbox.stream_key(m.key) else m.aggregate_id end as id
                ) a
                where m.segment = stretch.message_segment and m.id between low and high and m.topic <> 'outbox.control'
                    and (dense or ids[width_bucket(m.id, ids)] = m.id)
                order by m.id;
                get diagnostics n = row_count;
                if n < cardinality(ids) then
                    perform outbox_internal.missing(done + u.ord, start, stretch.segment = -2)
                    from unnest(ids) with ordinality u(id, ord)
                    where not exists (select from outbox.message m where m.segment = stretch.message_segment and m.id = u.id)
                    order by u.ord;
                end if;
            else
                return query
                select done + u.ord, this_epoch, m.id, outbox.webhook_id(m.id, m.enqueued_at), m.topic, m.key, m.payload,
                    m.body, m.content_type, m.headers, m.metadata, m.tenant, a.type, a.id, m.publisher, m.idempotency_key,
                    m.occurred_at, m.enqueued_at, m.version, m.event_id
                from unnest(ids) with ordinality u(id, ord)
                left join outbox.message m on m.id = u.id and m.segment in (stretch.message_segment, other_segment)
                cross join lateral (
                    select case when m.segment = -2 then outbox.category(m.key) else m.aggregate_type end as type,
                        case when m.segment = -2 then outbox.stream_key(m.key) else m.aggregate_id end as id
                ) a
                -- A missing message raises an error.
                where case when m.id is null then outbox_internal.missing(done + u.ord, start, stretch.segment = -2)
                    else m.topic <> 'outbox.control' and (source = 'all' or events_only = (m.segment = -2))
                        and (topics is null and filter is null
                            or outbox_internal.matches(topics, filter, m.topic, m.tenant, m.key, a.type, a.id, m.headers))
                        and (path is null or outbox_internal.path_holds(m.payload, path))
                    end
                order by u.ord;
                get diagnostics n = row_count;
            end if;
            returned := returned + n;
            looked_at := looked_at + cardinality(ids);
            done := done + cardinality(ids);
            -- Whether the last row that was returned is the message at the last position that was looked at.
            passed := n = cardinality(ids);
            if n > 0 and not passed then
                passed := exists (
                    select from outbox.message m
                    cross join lateral (
                        select case when m.segment = -2 then outbox.category(m.key) else m.aggregate_type end as type,
                            case when m.segment = -2 then outbox.stream_key(m.key) else m.aggregate_id end as id
                    ) a
                    where m.segment in (stretch.message_segment, other_segment) and m.id = ids[cardinality(ids)]
                        and m.topic <> 'outbox.control' and (source = 'all' or events_only = (m.segment = -2))
                        and (topics is null and filter is null
                            or outbox_internal.matches(topics, filter, m.topic, m.tenant, m.key, a.type, a.id, m.headers))
                        and (path is null or outbox_internal.path_holds(m.payload, path))
                );
            end if;
        end loop;
    end loop;
    if events_only and returned < max_messages and looked_at < budget and feed_end > done and outbox_internal.is_own() then
        -- No event is between the last one and the end. In a logical copy that is being filled, the end may arrive first.
        done := feed_end;
        passed := false;
    end if;
    -- Checked after the messages were read, to notice a leaf that was reclaimed meanwhile.
    if not events_only and start < outbox_internal.tail() - 1 then
        perform outbox_internal.missing(start + 1, start);
    end if;
    if not passed then
        -- The positions after the last message do not match. The marker lets a cursor pass them, so that a reader of rare
        -- topics keeps no history and has no lag.
        marker."position" := done;
        marker.epoch := outbox_internal.epoch_of(done);
        return next marker;
    end if;
end
$$;
comment on function outbox.read is
    'Returns up to max_messages (default 100; 1 to 10000) messages after a position (exclusive; 0: from the first one that '
    'is stored), in order. topics (patterns) and filter select as in a subscription; null: all. Control messages of '
    'pg_outbox are not returned. A call looks at no more than 10000 positions, or max_messages if that is more. If it '
    'looked further than the last message that it returns, a marker is the last row: its message_id is null, and no '
    'message between the row before it and its position matches. Continue after the position of the last row, and confirm '
    'the position of a marker as that of a message. No rows: the feed ends at after_position. source: messages (the '
    'default), events (of streams, from position 1 on for ever), or all; the aggregate of an event is its category and the '
    'rest of its stream''s name. epoch: the epoch in which '
    'after_position was read, so that a lost history is noticed. Errors: OB009 the position is malformed, no longer '
    'stored, after the end of the feed, or in a history that was lost; 22023 another argument is malformed';

insert into outbox._capability values
    ('consume', 'function outbox.read'),
    ('admin', 'function outbox.read');
