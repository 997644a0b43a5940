-- Export: what is stored about a person, as events, for a request under a data protection law.

-- API: private
-- Whether the content of an event is gone: it was erased, or its key was revoked.
create function outbox_internal.is_redacted(data jsonb, body bytea, metadata jsonb) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select is_redacted.data is null and is_redacted.body is null
        or exists (
            select from outbox._subject_key k
            where k.key_id = is_redacted.metadata ->> 'key_id' and k.revoked_at is not null
        );
end;

-- API: private
-- Whether an event passes the filters of an export.
create function outbox_internal.is_exported(
    stream text, type text, tenant text, metadata jsonb, recorded_at timestamptz,
    types text[], stream_prefix text, of_tenant text, condition jsonb, from_time timestamptz, to_time timestamptz
) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select (is_exported.types is null
            or outbox_internal.matches(is_exported.types, null, is_exported.type, null, null, null, null, null))
        and (is_exported.stream_prefix is null or starts_with(is_exported.stream, is_exported.stream_prefix))
        and (is_exported.of_tenant is null or is_exported.tenant = is_exported.of_tenant)
        and (is_exported.condition is null or coalesce(is_exported.metadata @> is_exported.condition, false))
        and (is_exported.from_time is null or is_exported.recorded_at >= is_exported.from_time)
        and (is_exported.to_time is null or is_exported.recorded_at <= is_exported.to_time);
end;

-- API: public
create type outbox.exported_event as (
    stream text,
    version bigint,
    type text,
    data jsonb,
    body bytea,
    content_type text,
    metadata jsonb,
    tenant text,
    "position" bigint,
    message_id bigint,
    recorded_at timestamptz,
    redacted boolean,
    "next" jsonb
);
comment on type outbox.exported_event is
    'An event of an export. position: null in an export by streams. redacted: its content is gone. next: "after" of the next '
    'page, when this is the last row';

-- API: public
create function outbox.export_subject(
    streams text[] default null,
    types text[] default null,
    stream_prefix text default null,
    tenant text default null,
    user_id text default null,
    metadata jsonb default null,
    from_time timestamptz default null,
    to_time timestamptz default null,
    after jsonb default null,
    max_events int default 1000
) returns setof outbox.exported_event
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
    after_stream text := after ->> 'stream';
    after_version bigint;
    after_position bigint;
    prefix text := nullif(stream_prefix, '');
    condition jsonb := case when user_id is not null
        then coalesce(metadata, '{}') || jsonb_build_object('user_id', user_id) else metadata end;
    chosen record;
    page outbox.event[];
    candidate outbox.event;
    wanted boolean;
    exported outbox.exported_event;
    left_over int := max_events;
    n int;
begin
    perform outbox_internal.check_max_events(max_events);
    if streams is null and coalesce(types, '{}') = '{}' and prefix is null and tenant is null and condition is null
        and from_time is null and to_time is null then
        raise exception 'an export needs streams or a filter' using errcode = 'invalid_parameter_value',
            hint = 'Pass streams, types, stream_prefix, tenant, user_id, metadata, from_time or to_time.';
    end if;
    if jsonb_typeof(metadata) <> 'object' then
        raise exception 'malformed metadata' using errcode = 'invalid_parameter_value',
            hint = 'It is an object: the entries that the metadata of an event contain.';
    end if;
    if after is not null and (streams is null and prefix is null and after ->> 'position' ~ '^[0-9]{1,18}$'
        or coalesce(streams[1], prefix) is not null and after ->> 'version' ~ '^[0-9]{1,18}$'
            and after ->> 'stream' is not null) is not true then
        raise exception 'malformed after' using errcode = 'invalid_parameter_value',
            hint = 'It is "next" of the last row of the page before, with the same arguments.';
    end if;
    after_version := coalesce((after ->> 'version')::bigint, 0);
    after_position := coalesce((after ->> 'position')::bigint, 0);
    if array_ndims(streams) > 1 or cardinality(streams) not between 1 and 10000
        or array_position(streams, null) is not null then
        raise exception 'malformed streams' using errcode = 'invalid_parameter_value', hint = '1 to 10000 names.';
    end if;
    if after is null then
        -- Refuses malformed names.
        perform outbox.stream_version(s) from unnest(streams) s;
    end if;
    if streams is not null then
        for chosen in
            select k.k as name, case when k.k = after_stream then after_version else 0 end as after_version
            from (select distinct s as k from unnest(streams) s) k
            where after_stream is null or k.k collate "C" >= after_stream
            order by k.k collate "C"
        loop
            exit when left_over = 0;
            return query
            select e.stream, e.version, e.type, e.data, e.body, e.content_type, e.metadata, e.tenant, null::bigint,
                e.message_id, e.recorded_at, outbox_internal.is_redacted(e.data, e.body, e.metadata),
                jsonb_build_object('stream', e.stream, 'version', e.version)
            from outbox._event_row e
            where e.stream collate "C" = chosen.name and e.version > chosen.after_version
                and outbox_internal.is_exported(e.stream, e.type, e.tenant, e.metadata, e.recorded_at, types,
                    stream_prefix, tenant, condition, from_time, to_time)
            order by e.stream collate "C", e.version
            limit left_over;
            get diagnostics n = row_count;
            left_over := left_over - n;
        end loop;
        return;
    end if;
    if prefix is not null then
        -- The index on stream and version has all streams that begin so in one stretch. A name has at most 255 bytes, so at
        -- most 63 of the last characters that there are.
        page := array(
            select row(null, null, r.message_id, r.event_id, r.webhook_id, r.stream, r.version, r.type, r.data, r.body,
                r.content_type, r.headers, r.metadata, r.tenant, r.occurred_at, r.recorded_at)::outbox.event
            from outbox._event_row r
            where r.stream collate "C" >= greatest(prefix, after_stream collate "C")
                and (r.stream collate "C", r.version) > (coalesce(after_stream, ''), after_version)
                and r.stream collate "C" < prefix || repeat(chr(1114111), 64)
            order by r.stream collate "C", r.version
            limit max_events
        );
    else
        page := array(
            select r from outbox.read_events(after_position, max_events, types => types, tenant => tenant) r
            order by r."position"
        );
    end if;
    -- The last row is returned in any case, without its event if that is not to be exported: it says where to continue.
    for i in 1 .. cardinality(page) loop
        candidate := page[i];
        exported := null;
        exported."position" := candidate."position";
        exported.redacted := false;
        exported."next" := case when prefix is null then jsonb_build_object('position', candidate."position")
            else jsonb_build_object('stream', candidate.stream, 'version', candidate.version) end;
        -- read_events() has looked at types and tenant.
        wanted := candidate.message_id is not null and outbox_internal.is_exported(candidate.stream, candidate.type,
            candidate.tenant, candidate.metadata, candidate.recorded_at, case when prefix is not null then types end, prefix,
            case when prefix is not null then tenant end, condition, from_time, to_time);
        if wanted then
            exported.stream := candidate.stream;
            exported.version := candidate.version;
            exported.type := candidate.type;
            exported.data := candidate.data;
            exported.body := candidate.body;
            exported.content_type := candidate.content_type;
            exported.metadata := candidate.metadata;
            exported.tenant := candidate.tenant;
            exported.message_id := candidate.message_id;
            exported.recorded_at := candidate.recorded_at;
            exported.redacted := outbox_internal.is_redacted(candidate.data, candidate.body, candidate.metadata);
        end if;
        if wanted or i = cardinality(page) then
            return next exported;
        end if;
    end loop;
end
$$;
comment on function outbox.export_subject is
    'Returns the events that concern a person, a page at a time. streams: only these, by stream and version; stream_prefix: '
    'those whose name begins so, likewise; or everything in the order of the feed, for which at least one filter is '
    'needed. A page of the last two looks at max_events events. types: patterns of the type; user_id: metadata.user_id; metadata: entries that the metadata '
    'contain; from_time, to_time: when the event was stored, inclusive. All filters hold together. after: "next" of the '
    'last row, for the next page; there is no row when there are no more. max_events: 1 to 10000 (1000). A row whose '
    'message_id is null only says how far a scan has come. redacted: the event was erased, or the key that metadata.key_id '
    'names was revoked. Errors: 22023 neither streams nor a filter, or a value is malformed';

insert into outbox._capability values
    ('consume', 'function outbox.export_subject');
