-- Projections: read models that follow the events.
--
-- - A handler is a function (events outbox.event[]) returns void, and runs as its owner. It gets the events of its
--   categories and types in the order of the feed (asynchronous) or of the append (inline).
-- - inline: the handler runs in the transaction that appends; an error of it refuses the append.
-- - async: run_projection() reads a page, calls the handler and moves the cursor, all in the caller's transaction. The
--   cursor is that of the consumer "projection NAME" with the version as its subject.
-- - A version follows from the first event on. A rebuild is a new version beside the old one; switch_projection() ends the
--   old one.
-- - An event that the handler cannot apply makes the projection faulted. It is skipped by an operator's decision only.

-- API: private
create table outbox._projection (
    name text not null,
    version int not null,
    kind text not null check (kind in ('inline', 'async')),
    categories text[],
    types text[],
    handler text not null,
    owner text not null,
    state text not null check (state in ('stopped', 'running', 'paused', 'faulted', 'rebuilding', 'catching_up')),
    -- the state to which resume and skip return
    resumed_state text,
    error text,
    failed_position bigint,
    failed_message_id bigint,
    -- the end of the feed when the version began
    rebuild_to bigint not null default 0,
    created_at timestamptz not null default clock_timestamp(),
    changed_at timestamptz not null default clock_timestamp(),
    primary key (name, version)
);
select pg_catalog.pg_extension_config_dump('outbox._projection', '');

-- API: private
-- How fast a version gets on while run_projection works on it. It is apart from outbox._projection, whose changes make every
-- session look again at the work of an append.
create table outbox._projection_rate (
    name text not null,
    version int not null,
    events_per_second double precision not null,
    positions_per_second double precision not null,
    primary key (name, version)
) with (fillfactor = 50);

-- API: private
-- Every backend remembers what an append has to do. This trigger makes all of them look again when the change commits.
create function outbox_internal.append_work_changed() returns trigger language c volatile
as 'MODULE_PATHNAME', 'outbox_append_work_changed';
create trigger append_work_changed after insert or update or delete or truncate on outbox._projection
    for each statement execute function outbox_internal.append_work_changed();
alter table outbox._projection enable always trigger append_work_changed;
create trigger append_work_changed after insert or update or delete or truncate on outbox.event_schema
    for each statement execute function outbox_internal.append_work_changed();
alter table outbox.event_schema enable always trigger append_work_changed;

-- API: private
-- The consumer name of a projection's cursors.
create function outbox_internal.projection_consumer(name text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
begin atomic
    select 'projection ' || projection_consumer.name;
end;

-- API: private
-- Calls a handler as its owner.
create function outbox_internal.call_handler(function oid, events outbox.event[]) returns void language c volatile
as 'MODULE_PATHNAME', 'outbox_call_as_owner';

-- API: private
create function outbox_internal.projection_missing(name text, version int) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception '%', case when version is null then format('projection "%s" does not exist', left(name, 100))
            else format('projection "%s" has no version %s', left(name, 100), version) end
        using errcode = 'OB001', hint = 'The view outbox.projections lists those there are.';
end
$$;

-- API: private
-- Returns and locks a version of a projection; version null: the live one, or the newest if none is live.
create function outbox_internal.projection_version(name text, version int) returns outbox._projection
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    p outbox._projection;
begin
    if name is null then
        raise exception 'the name of the projection must not be null' using errcode = 'null_value_not_allowed';
    end if;
    select * into p from outbox._projection k
    where k.name = name and (version is null or k.version = version)
    order by k.state <> 'stopped' and coalesce(k.resumed_state, k.state) <> 'rebuilding' desc, k.version desc
    limit 1
    for update;
    if not found then
        perform outbox_internal.projection_missing(name, version);
    end if;
    return p;
end
$$;

-- API: private
-- Does the work of create_projection() as the extension's owner. `caller` is the role that called it.
create function outbox_internal.create_projection(
    caller oid, name text, handler text, kind text, categories text[], types text[]
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
#variable_conflict use_variable
declare
    checked record;
    upto bigint;
begin
    perform outbox_internal.check_writable('create_projection');
    perform outbox_internal.check_name('projection', name);
    if kind is null or kind not in ('async', 'inline') then
        raise exception 'unknown kind of projection "%"', coalesce(left(kind, 100), 'null')
            using errcode = 'invalid_parameter_value', hint = 'async or inline.';
    end if;
    perform outbox_internal.check_categories(categories);
    -- Refuses also an empty list and null, with which every append would fail.
    perform outbox_internal.matches(types, null, 'a', null, null, null, null, null);
    select * into checked from outbox_internal.check_function(caller, 'outbox.event[]', 'void', 'handler', handler);
    if kind = 'inline' then
        -- Waits for transactions that are appending, so that the projection gets every event that is appended after it.
        lock table outbox._message_event in share row exclusive mode;
    else
        upto := outbox.head();
    end if;
    insert into outbox._projection (name, version, kind, categories, types, handler, owner, state, rebuild_to)
    values (name, 1, kind, categories, types, checked.signature, checked.owner,
        case when kind = 'async' and upto > 0 then 'catching_up' else 'running' end, coalesce(upto, 0));
    perform outbox_internal.audit('create_projection', format('projection %s', name), null,
        jsonb_build_object('kind', kind, 'handler', checked.signature));
exception when unique_violation then
    raise exception 'projection "%" exists already', name using errcode = 'duplicate_object',
        hint = 'outbox.rebuild_projection() makes a new version of it.';
end
$$;

-- API: public
create function outbox.create_projection(
    name text,
    handler text,
    kind text default 'async',
    categories text[] default null,
    types text[] default null
) returns void
language c volatile
as 'MODULE_PATHNAME', 'outbox_with_caller';
comment on function outbox.create_projection is
    'Creates a projection. handler: the signature of a function (events outbox.event[]) returns void, such as '
    '"app.count_orders(outbox.event[])"; it runs as its owner, with a pinned search_path, and can neither create temporary '
    'tables nor change the role. kind async: from the first event on, whenever run_projection() is called; inline: from '
    'the next append on, in the transaction that appends. categories, types (patterns): only these events; null: all. Errors: 42710 '
    'the name is taken, 42883 no such function, 42501 the caller does not have the rights of the function''s owner, 22004 '
    'or 22023 a value is null or malformed, 55P03 a transaction appends for longer than 5 s, 25006 the transaction is '
    'read-only';

-- API: private
-- Does the work of alter_projection() as the extension's owner. `caller` is the role that called it.
create function outbox_internal.alter_projection(caller oid, name text, handler text, version int) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    p outbox._projection;
    checked record;
begin
    perform outbox_internal.check_writable('alter_projection');
    p := outbox_internal.projection_version(name, version);
    select * into checked from outbox_internal.check_function(caller, 'outbox.event[]', 'void', 'handler', handler);
    update outbox._projection k set handler = checked.signature, owner = checked.owner, changed_at = clock_timestamp()
    where k.name = p.name and k.version = p.version;
    perform outbox_internal.audit('alter_projection', format('projection %s version %s', name, p.version), null,
        jsonb_build_object('handler', checked.signature));
end
$$;

-- API: public
create function outbox.alter_projection(name text, handler text, version int default null) returns void
language c volatile
as 'MODULE_PATHNAME', 'outbox_with_caller';
comment on function outbox.alter_projection is
    'Gives a projection another handler; events that were applied are not applied again. version null: the live one. '
    'Errors: OB001 no such projection, 42883 no such function, 42501 the caller does not have the rights of the function''s '
    'owner, 22004 or 22023 a value is null or malformed, 25006 the transaction is read-only';

-- API: public
create function outbox.drop_projection(name text, version int default null) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    gone int[];
begin
    perform outbox_internal.check_writable('drop_projection');
    gone := array(select k.version from outbox._projection k
        where k.name = name and (version is null or k.version = version) order by k.version for update);
    if cardinality(gone) = 0 then
        perform outbox_internal.projection_missing(name, version);
    end if;
    delete from outbox._projection k where k.name = name and k.version = any (gone);
    delete from outbox._projection_rate r where r.name = name and r.version = any (gone);
    delete from outbox.cursor c
    where c.stream = 'outbox' and c.consumer = outbox_internal.projection_consumer(name) and c.subject = any (gone::text[]);
    delete from outbox._cursor_key c
    where c.stream = 'outbox' and c.consumer = outbox_internal.projection_consumer(name) and c.subject = any (gone::text[]);
    perform outbox_internal.audit('drop_projection', format('projection %s', name), null, jsonb_build_object('versions', gone));
end
$$;
comment on function outbox.drop_projection is
    'Removes a projection with its cursors, or one version of it. Its tables stay: they are the application''s. Errors: '
    'OB001 no such projection, 25006 the transaction is read-only';

-- API: public
create function outbox.pause_projection(name text, version int default null) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    p outbox._projection;
begin
    perform outbox_internal.check_writable('pause_projection');
    p := outbox_internal.projection_version(name, version);
    if p.kind = 'inline' then
        raise exception 'projection "%" is inline and cannot be paused', name using errcode = 'OB004',
            detail = 'It would miss the events that are appended meanwhile.', hint = 'outbox.drop_projection() ends it.';
    elsif p.state = 'paused' then
        return;
    elsif p.state not in ('running', 'catching_up', 'rebuilding') then
        raise exception 'projection "%" is %', name, p.state using errcode = 'OB004',
            hint = 'A projection that is running, catching_up or rebuilding can be paused.';
    end if;
    update outbox._projection k set state = 'paused', resumed_state = p.state, changed_at = clock_timestamp()
    where k.name = p.name and k.version = p.version;
    perform outbox_internal.audit('pause_projection', format('projection %s version %s', name, p.version), null);
end
$$;
comment on function outbox.pause_projection is
    'Pauses an asynchronous projection: run_projection() is refused until resume_projection(). It waits for a page that is '
    'being applied. version null: the live one. Errors: OB001 no such projection, OB004 it is inline, faulted or stopped, '
    '25006 the transaction is read-only';

-- API: public
create function outbox.resume_projection(name text, version int default null) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    p outbox._projection;
begin
    perform outbox_internal.check_writable('resume_projection');
    p := outbox_internal.projection_version(name, version);
    if p.state not in ('paused', 'faulted') then
        raise exception 'projection "%" is %', name, p.state using errcode = 'OB004',
            hint = 'A projection that is paused or faulted can be resumed.';
    end if;
    update outbox._projection k
    set state = p.resumed_state, resumed_state = null, error = null, failed_position = null, failed_message_id = null,
        changed_at = clock_timestamp()
    where k.name = p.name and k.version = p.version;
    perform outbox_internal.audit('resume_projection', format('projection %s version %s', name, p.version), null,
        jsonb_build_object('from', p.state));
end
$$;
comment on function outbox.resume_projection is
    'Goes on with a projection that is paused or faulted; a faulted one tries the same event again. version null: the live '
    'one. Errors: OB001 no such projection, OB004 it is neither paused nor faulted, 25006 the transaction is read-only';

-- API: public
create function outbox.skip_event(projection text, "position" bigint, reason text, version int default null) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    p outbox._projection;
begin
    perform outbox_internal.check_writable('skip_event');
    if coalesce(btrim(reason), '') = '' then
        raise exception 'a reason is required' using errcode = 'OB006',
            hint = 'The reason is kept in outbox.audit: the read model lacks the event from now on.';
    end if;
    p := outbox_internal.projection_version(projection, version);
    if p.state <> 'faulted' or p.failed_position is distinct from "position" then
        raise exception 'projection "%" is not faulted at position %', projection, "position" using errcode = 'OB004',
            detail = format('It is %s%s.', p.state, ' at position ' || p.failed_position),
            hint = 'The view outbox.projections has the state and failed_position.';
    end if;
    perform outbox.cursor_advance(outbox_internal.projection_consumer(projection), "position", subject => p.version::text);
    update outbox._projection k
    set state = p.resumed_state, resumed_state = null, error = null, failed_position = null, failed_message_id = null,
        changed_at = clock_timestamp()
    where k.name = p.name and k.version = p.version;
    perform outbox_internal.audit('skip_event', format('projection %s version %s', projection, p.version), btrim(reason),
        jsonb_build_object('position', "position", 'message_id', p.failed_message_id, 'error', p.error));
end
$$;
comment on function outbox.skip_event is
    'Skips the event at which a projection is faulted, and goes on after it. The reason is stored in outbox.audit. position: '
    'failed_position of the view projections, so that nothing else is skipped. Errors: OB001 no such projection, OB004 it is '
    'not faulted at this position, OB006 the reason is empty, 25006 the transaction is read-only';
