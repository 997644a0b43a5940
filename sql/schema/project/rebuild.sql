-- Rebuilds of projections: a new version beside the old one, and the switch between them.

-- API: private
-- Does the work of rebuild_projection() as the extension's owner. `caller` is the role that called it.
create function outbox_internal.rebuild_projection(caller oid, name text, handler text) returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    p outbox._projection;
    signature text;
    role text;
    next_version int;
begin
    perform outbox_internal.check_writable('rebuild_projection');
    p := outbox_internal.projection_version(name, null);
    if p.kind = 'inline' then
        raise exception 'projection "%" is inline and cannot be rebuilt', name using errcode = 'OB004',
            hint = 'Create an asynchronous projection of the same events.';
    end if;
    if exists (select from outbox._projection k
        where k.name = name and 'rebuilding' in (k.state, k.resumed_state) and k.state <> 'stopped') then
        raise exception 'projection "%" is being rebuilt', name using errcode = 'OB004',
            hint = 'outbox.switch_projection() ends the rebuild, outbox.drop_projection() with its version gives it up.';
    end if;
    if handler is not null then
        select f.signature, f.owner into signature, role
        from outbox_internal.check_function(caller, 'outbox.event[]', 'void', 'handler', handler) f;
    else
        -- The same handler writes to the same tables: the old version ends now.
        signature := p.handler;
        role := p.owner;
        update outbox._projection k set state = 'stopped', resumed_state = null, changed_at = clock_timestamp()
        where k.name = name and k.state <> 'stopped';
    end if;
    insert into outbox._projection (name, version, kind, categories, types, handler, owner, state, rebuild_to)
    select name, max(k.version) + 1, 'async', p.categories, p.types, signature, role, 'rebuilding', outbox.head()
    from outbox._projection k where k.name = name
    returning version into next_version;
    perform outbox_internal.audit('rebuild_projection', format('projection %s version %s', name, next_version), null,
        jsonb_build_object('handler', signature));
    return next_version;
end
$$;

-- API: public
create function outbox.rebuild_projection(name text, handler text default null) returns int
language c volatile
as 'MODULE_PATHNAME', 'outbox_with_caller';
comment on function outbox.rebuild_projection is
    'Makes a new version of an asynchronous projection, which begins at the first event, and returns its number. handler: a '
    'function that writes to tables of its own; the old version goes on until switch_projection(). Null: the same handler; '
    'the old version stops at once, and the caller empties the tables in the same transaction. Errors: OB001 no such '
    'projection, OB004 it is inline or is being rebuilt, 42883 no such function, 42501 the caller does not have the rights '
    'of the function''s owner, 22023 the function has another signature, 25006 the transaction is read-only';

-- API: public
create function outbox.switch_projection(name text) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    p outbox._projection;
    consumer text := outbox_internal.projection_consumer(name);
    old_position bigint := 0;
    new_position bigint;
    old_version int;
    done record;
begin
    perform outbox_internal.check_writable('switch_projection');
    if not exists (select from outbox._projection k where k.name = name) then
        perform outbox_internal.projection_missing(name, null);
    end if;
    select * into p from outbox._projection k where k.name = name and k.state = 'rebuilding' for update;
    if not found then
        raise exception 'projection "%" is not being rebuilt', name using errcode = 'OB004',
            hint = 'outbox.rebuild_projection() begins a rebuild; a paused or faulted one is resumed first.';
    end if;
    -- The old version stands still from here on, so the new one can reach it.
    for old_version in
        select k.version from outbox._projection k
        where k.name = name and k.version <> p.version and k.state <> 'stopped' order by k.version for update
    loop
        old_position := greatest(old_position, (outbox_internal.cursor_lock(consumer, 'outbox', old_version::text, true))."position");
    end loop;
    new_position := (outbox_internal.cursor_lock(consumer, 'outbox', p.version::text, true))."position";
    for i in 1 .. 10 loop
        exit when new_position >= greatest(old_position, p.rebuild_to);
        done := outbox_internal.run_page(p, 1000);
        new_position := done."position";
        exit when not done.moved or done.faulted;
    end loop;
    if new_position < greatest(old_position, p.rebuild_to) then
        raise exception 'the rebuild of projection "%" has not come far enough', name using errcode = 'OB012',
            detail = format('It is at position %s of %s%s.', new_position, greatest(old_position, p.rebuild_to), (
                select ', where it fails: ' || k.error from outbox._projection k
                where k.name = name and k.version = p.version and k.state = 'faulted')),
            hint = format('Run it further: select outbox.run_projection(%L, version => %s).', name, p.version);
    end if;
    update outbox._projection k set state = 'stopped', resumed_state = null, changed_at = clock_timestamp()
    where k.name = name and k.version <> p.version and k.state <> 'stopped';
    update outbox._projection k set state = 'running', changed_at = clock_timestamp()
    where k.name = name and k.version = p.version and k.state = 'rebuilding';
    perform outbox_internal.audit('switch_projection', format('projection %s version %s', name, p.version), null,
        jsonb_build_object('position', new_position));
    return p.version;
end
$$;
comment on function outbox.switch_projection is
    'Makes the version that is being rebuilt the live one, stops the old one, and returns the new version. Swap the view '
    'over the tables in the same transaction. The new version is first brought to where the old one is, if that is at most '
    'ten pages. Errors: OB012 the rebuild has not come far enough, OB001 no such projection, OB004 it is not being rebuilt, '
    '25006 the transaction is read-only';

-- API: public
create view outbox.projections as
select p.name, p.version, p.kind, p.state, p.categories, p.types, p.handler, p.owner, c."position",
    case when c.follows then greatest(c.feed_end - c."position", 0) end as lag_positions,
    case when c.follows and c.feed_end <= c."position" then 0
        when c.follows then greatest(extract(epoch from clock_timestamp() - (
            select f.ticked_at from outbox.feed f where f.first_position <= c."position" + 1
            order by f.first_position desc limit 1
        )), 0) end::double precision as lag_seconds,
    case when p.state in ('rebuilding', 'catching_up')
        then least(100, round(100.0 * c."position" / greatest(p.rebuild_to, 1), 1)) end as percent,
    r.events_per_second as rate,
    case when p.state in ('rebuilding', 'catching_up')
        then greatest(p.rebuild_to - c."position", 0) / nullif(r.positions_per_second, 0)
    end as remaining_seconds,
    p.error, p.failed_position, p.failed_message_id, c.applied_at, p.created_at, p.changed_at
from outbox._projection p
left join outbox._projection_rate r using (name, version)
left join lateral (
    select coalesce(k."position", 0) as "position", k.updated_at as applied_at, p.state <> 'stopped' as follows,
        coalesce((select t.last_position from outbox.tick t order by t.id desc limit 1), 0) as feed_end
    from (select) one
    left join lateral (
        select * from outbox.cursor k
        where k.consumer = 'projection ' || p.name and k.stream = 'outbox' and k.subject = p.version::text
        order by k.version desc
        limit 1
    ) k on true
) c on p.kind = 'async';
comment on view outbox.projections is
    'Projections and their versions. state: stopped (an old version), running, paused, faulted, rebuilding, catching_up. '
    'position and lag are null for inline ones. rate: events per second while it is run, over the last pages. percent, '
    'remaining_seconds: of the way to the end of the feed as it was when the version began; the time is an estimate. '
    'failed_position, error: of the event at which it is faulted';

insert into outbox._capability values
    ('admin', 'function outbox.rebuild_projection'),
    ('admin', 'function outbox.switch_projection'),
    ('monitor', 'table outbox.projections');
