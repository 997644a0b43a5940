-- Snapshots: the state of a stream at a version, so that a load begins there and not at the first event.
--
-- A snapshot is a cache: it can be deleted at any time. One snapshot is kept per stream and schema version, the newest.
-- Two versions of an application that disagree about the form of the state use different schema versions.

-- API: public
create table outbox.snapshot (
    stream text not null,
    schema_version int not null,
    version bigint not null,
    state jsonb,
    body bytea,
    content_type text,
    taken_at timestamptz not null default clock_timestamp(),
    primary key (stream, schema_version)
);
comment on table outbox.snapshot is 'The newest snapshot of each stream and schema version; see save_snapshot()';
comment on column outbox.snapshot.schema_version is 'form of the state, numbered by the application';
comment on column outbox.snapshot.version is 'the state is that after the event of this version';
comment on column outbox.snapshot.body is 'the state as bytes, when it is not JSON';
select pg_catalog.pg_extension_config_dump('outbox.snapshot', '');

-- API: private
create function outbox_internal.check_schema_version(schema_version int) returns int
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if schema_version is null or schema_version < 1 then
        raise exception 'invalid schema_version' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(schema_version::text, 'null')), hint = 'Versions begin at 1.';
    end if;
    return schema_version;
end
$$;

-- API: public
create function outbox.save_snapshot(
    stream text,
    version bigint,
    state jsonb default null,
    schema_version int default 1,
    body bytea default null,
    content_type text default null
) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox_internal.check_writable('save_snapshot');
    perform outbox_internal.check_identifier('stream name', stream);
    perform outbox_internal.check_schema_version(schema_version);
    if version is null or version < 1 then
        raise exception 'invalid version' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(version::text, 'null')),
            hint = 'A snapshot has the version of the last event that is in its state.';
    end if;
    -- Refuses a malformed name, too.
    if version > outbox.stream_version(stream) then
        raise exception 'stream "%" has no version %', stream, version using errcode = 'OB001',
            detail = format('Its last version is %s.', outbox.stream_version(stream)),
            hint = 'A snapshot has the version of the last event that is in its state.';
    end if;
    if (state is null) = (body is null) then
        raise exception 'a snapshot has either a state or a body' using errcode = 'invalid_parameter_value';
    end if;
    if content_type is not null and (body is null or content_type !~ '^[^[:cntrl:]]{1,255}$') then
        raise exception 'malformed content_type' using errcode = 'invalid_parameter_value',
            hint = 'It describes the body, in 1 to 255 characters without control characters.';
    end if;
    perform outbox_internal.check_document('state', state);
    perform outbox_internal.check_size('body', octet_length(body));
    insert into outbox.snapshot as s (stream, schema_version, version, state, body, content_type)
    values (stream, schema_version, version, state, body,
        case when body is not null then coalesce(content_type, 'application/octet-stream') end)
    on conflict on constraint snapshot_pkey do update
    set version = excluded.version, state = excluded.state, body = excluded.body, content_type = excluded.content_type,
        taken_at = excluded.taken_at
    where s.version <= excluded.version;
    return found;
end
$$;
comment on function outbox.save_snapshot is
    'Stores the state of a stream after the event of that version, in place of the snapshot of an earlier version. Returns '
    'false, and changes nothing, if a later one is stored. state: as JSON; or body: as bytes, with its content_type '
    '(application/octet-stream by default). schema_version: the form of the state (1); each has its own snapshot. Errors: '
    'OB001 the stream has no such version, 22004 or 22023 a value is null or malformed, 54000 the state or body is above pg_outbox.max_payload, 25006 the '
    'transaction is read-only';

-- API: public
create function outbox.load_snapshot(stream text, schema_version int default 1)
returns table (
    stream text,
    schema_version int,
    version bigint,
    state jsonb,
    body bytea,
    content_type text,
    taken_at timestamptz
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select s.stream, s.schema_version, s.version, s.state, s.body, s.content_type, s.taken_at
    from outbox.snapshot s
    where s.stream = load_snapshot.stream and s.schema_version = load_snapshot.schema_version;
end;
comment on function outbox.load_snapshot is
    'Returns the newest snapshot of a stream and schema version, or no row if there is none';

-- API: public
create function outbox.delete_snapshots(stream text, schema_version int default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    gone bigint;
begin
    delete from outbox.snapshot s
    where s.stream = stream and (schema_version is null or s.schema_version = schema_version);
    get diagnostics gone = row_count;
    return gone;
end
$$;
comment on function outbox.delete_snapshots is
    'Deletes the snapshots of a stream, or the one of a schema version, and returns how many. The next load starts at the '
    'first event';

insert into outbox._capability values
    ('publish', 'function outbox.save_snapshot'),
    ('publish', 'function outbox.load_snapshot'),
    ('publish', 'function outbox.delete_snapshots'),
    ('consume', 'function outbox.load_snapshot');
