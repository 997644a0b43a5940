-- Reading streams: events in the order of their versions, through the unique index on stream and version.

-- API: public
create type outbox.event as (
    "position" bigint,
    epoch int,
    message_id bigint,
    event_id uuid,
    webhook_id text,
    stream text,
    version bigint,
    type text,
    data jsonb,
    body bytea,
    content_type text,
    headers jsonb,
    metadata jsonb,
    tenant text,
    occurred_at timestamptz,
    recorded_at timestamptz
);
comment on type outbox.event is
    'An event of a stream. position and epoch: its place in the feed; null if it has none yet, or was not asked for. data '
    'and body are null when the event was erased. occurred_at: recorded_at, unless the application gave another time';

-- API: private
-- Events with the columns of outbox.event that are stored.
create view outbox._event_row as
select m.id as message_id, m.event_id, outbox.webhook_id(m.id, m.enqueued_at) as webhook_id, m.key as stream, m.version,
    m.topic as type, m.payload as data, m.body, m.content_type, m.headers, m.metadata, m.tenant,
    coalesce(m.occurred_at, m.enqueued_at) as occurred_at, m.enqueued_at as recorded_at
from outbox._message_event m;

-- API: private
-- The position of an event; null: it has none yet. Looks at the rows of the feed that begin below its id, nearest first.
-- Nearly always it is in the first of them. Rows of a large transaction, or of one that took long, begin much lower.
create function outbox_internal.event_position(message_id bigint) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_variable
declare
    place bigint;
begin
    select n.first_position + array_position(n.message_ids, message_id) - 1 into place
    from (
        select f.first_position, f.message_ids from outbox._feed_event f
        where f.message_ids[1] <= message_id
        order by f.message_ids[1] desc
        limit 8
    ) n
    where n.message_ids[cardinality(n.message_ids)] >= message_id and message_id = any (n.message_ids)
    limit 1;
    return coalesce(place, outbox_internal.position_of(message_id));
end
$$;

-- API: private
-- Raises 22023 for a number of events that cannot be read at once.
create function outbox_internal.check_max_events(max_events int) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if max_events is null or max_events not between 1 and 10000 then
        raise exception 'invalid max_events' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(max_events::text, 'null')),
            hint = 'Between 1 and 10000 events can be read at once.';
    end if;
end
$$;

-- API: private
-- An event with its data as those of the latest version that the upcasters of its type lead to.
create function outbox_internal.upcast_event(e outbox.event) returns outbox.event
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    stored numeric;
    latest int;
begin
    if e.data is null then
        return e;
    end if;
    select max(u.from_version) + 1 into latest from outbox.upcaster u where u.type = e.type;
    if latest is null then
        return e;
    end if;
    stored := outbox_internal.schema_version_of(e.metadata);
    if coalesce(stored < 1 or stored <> trunc(stored), true) then
        perform outbox_internal.malformed_schema_version(e);
    elsif stored < latest then
        e.data := outbox.upcast(e.type, e.data, stored::int);
        e.metadata := coalesce(e.metadata, '{}') || jsonb_build_object('schema_version', latest);
    end if;
    return e;
end
$$;

-- API: public
create function outbox.load(
    stream text,
    from_version bigint default null,
    max_events int default 1000,
    backwards boolean default false,
    positions boolean default false,
    upcast boolean default false
) returns setof outbox.event
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
-- The index gives the order, whatever the statistics of a young table say.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_variable
begin
    if stream is null then
        raise exception 'stream must not be null' using errcode = 'null_value_not_allowed';
    end if;
    if max_events is null or max_events not between 1 and 10000 then
        perform outbox_internal.check_max_events(max_events);
    end if;
    if upcast then
        return query
        select u.* from outbox.load(stream, from_version, max_events, backwards, positions) e
        cross join lateral outbox_internal.upcast_event(e) u;
        return;
    end if;
    if backwards then
        return query
        select p.place, outbox_internal.epoch_of(p.place), e.*
        from outbox._event_row e
        cross join lateral (select case when positions then outbox_internal.event_position(e.message_id) end as place) p
        where e.stream collate "C" = stream and e.version <= coalesce(from_version, outbox_internal.max_bigint())
        order by e.stream collate "C" desc, e.version desc
        limit max_events;
    elsif positions then
        return query
        select p.place, outbox_internal.epoch_of(p.place), e.*
        from outbox._event_row e
        cross join lateral (select outbox_internal.event_position(e.message_id) as place) p
        where e.stream collate "C" = stream and e.version >= coalesce(from_version, 1)
        order by e.stream collate "C", e.version
        limit max_events;
    else
        return query
        select null::bigint, null::int, e.*
        from outbox._event_row e
        where e.stream collate "C" = stream and e.version >= coalesce(from_version, 1)
        order by e.stream collate "C", e.version
        limit max_events;
    end if;
    if not found then
        -- Raises an error for a malformed name.
        perform outbox.stream_version(stream);
    end if;
end
$$;
comment on function outbox.load is
    'Returns events of a stream in the order of their versions, from from_version on (inclusive; null, the default: the '
    'first one), up to max_events (default 1000; 1 to 10000). backwards (default false): from from_version down (null: the '
    'last one). positions (default false): also looks up the place of each event in the feed. upcast '
    '(default false): data are turned into the latest schema version by the upcasters, and metadata.schema_version says so. A stream that does not exist '
    'has no events. Events of the current transaction are included. Errors: 22004 stream is null, 22023 max_events is out '
    'of range or stream is malformed, and with upcast those of upcast()';

-- API: public
create function outbox.stream_info(
    stream text,
    out category text,
    out version bigint,
    out events bigint,
    out created_at timestamptz,
    out updated_at timestamptz,
    out closed_at timestamptz,
    out truncated_before bigint
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_variable
begin
    version := outbox.stream_version(stream);
    if version = 0 then
        raise exception 'stream "%" does not exist', stream using errcode = 'OB001',
            hint = 'outbox.append() creates it with its first event.';
    end if;
    category := outbox.category(stream);
    select s.closed_at, s.truncated_before into closed_at, truncated_before
    from outbox.stream s where s.stream = stream_info.stream;
    truncated_before := coalesce(truncated_before, 1);
    select m.enqueued_at, version - m.version + 1 into created_at, events
    from outbox._message_event m where m.key collate "C" = stream order by m.key collate "C", m.version limit 1;
    select m.enqueued_at into updated_at
    from outbox._message_event m where m.key collate "C" = stream order by m.key collate "C" desc, m.version desc limit 1;
    events := coalesce(events, 0);
end
$$;
comment on function outbox.stream_info is
    'Returns what is known of a stream: its category, last version, number of stored events, when the first and the last '
    'of them were appended, since when it is closed (null: it is open), and the version before which it was truncated (1: '
    'it was not). Errors: OB001 there is no such stream, 22004 stream is null, 22023 it is malformed';

-- API: public
create function outbox.streams(category text default null, after text default '', max_streams int default 100)
returns table (stream text, version bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_variable
declare
    -- A name has no control character, so nothing is between a name and the name with this character behind it.
    behind constant text := chr(1);
    low text := after || behind;
    -- "." is the character after "-"
    high constant text := category || '.';
    n int := 0;
begin
    if max_streams is null or max_streams not between 1 and 10000 then
        raise exception 'invalid max_streams' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(max_streams::text, 'null')),
            hint = 'Between 1 and 10000 streams can be listed at once.';
    end if;
    if after is null then
        raise exception 'after must not be null' using errcode = 'null_value_not_allowed', hint = 'Empty is the beginning.';
    end if;
    if category is not null and low collate "C" <= category || '-' then
        version := outbox.stream_version(category);
        -- the stream that has the name of its category
        if low collate "C" <= category and outbox.category(category) = category and version > 0 then
            stream := category;
            n := 1;
            return next;
        end if;
        low := category || '-';
    end if;
    while n < max_streams loop
        if category is null then
            select m.key into stream
            from outbox._message_event m
            where m.key collate "C" >= low
            order by m.key collate "C", m.version limit 1;
        else
            select m.key into stream
            from outbox._message_event m
            where m.key collate "C" >= low and m.key collate "C" < high
            order by m.key collate "C", m.version limit 1;
        end if;
        exit when not found;
        version := outbox.stream_version(stream);
        return next;
        n := n + 1;
        low := stream || behind;
    end loop;
end
$$;
comment on function outbox.streams is
    'Returns streams with their last versions, in the order of the bytes of their names: up to max_streams (default 100; 1 '
    'to 10000) after a name (exclusive; empty, the default: from the first one), of a category or of all (null, the '
    'default). Streams whose events were all removed by truncate_stream() are not listed. Errors: 22023 max_streams is out '
    'of range or category is malformed, 22004 after is null';

insert into outbox._capability values
    ('consume', 'function outbox.load'),
    ('consume', 'function outbox.stream_info'),
    ('consume', 'function outbox.streams'),
    ('monitor', 'function outbox.stream_version'),
    ('monitor', 'function outbox.stream_info'),
    ('monitor', 'function outbox.streams');
