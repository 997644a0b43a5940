-- Running projections: pages of asynchronous ones, and the inline ones within append.

-- API: private
-- Whether an error is that of the moment and not of an event. Memory that is out is not: the event may need as much the next
-- time, as for the dispatcher (crates/dispatch/src/failure.rs).
create function outbox_internal.is_transient(state text) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
begin atomic
    select is_transient.state <> '53200'
        and (left(is_transient.state, 2) in ('08', '40', '53', '57', '58') or is_transient.state in ('55P03', '25006'));
end;

-- API: private
-- Applies events in their order. A page that fails is halved, down to the event that fails. Returns that event, or null.
-- `applied`: how many come before it.
create function outbox_internal.apply_events(
    handler oid, events outbox.event[], out applied int, out failed outbox.event, out error text
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    total int := cardinality(events);
    size int := total;
begin
    applied := 0;
    while applied < total loop
        size := least(size, total - applied);
        begin
            perform outbox_internal.call_handler(handler, events[applied + 1:applied + size]);
            applied := applied + size;
        exception when others or assert_failure then
            if outbox_internal.is_transient(sqlstate) then
                raise;
            end if;
            if size = 1 then
                failed := events[applied + 1];
                error := format('%s (%s)', sqlerrm, sqlstate);
                return;
            end if;
            size := (size + 1) / 2;
        end;
    end loop;
end
$$;

-- API: private
-- Applies the next page of a version, whose row the caller has locked.
create function outbox_internal.run_page(
    p outbox._projection, max_events int, out applied int, out moved boolean, out faulted boolean, out "position" bigint
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    consumer text := outbox_internal.projection_consumer(p.name);
    c outbox.cursor;
    page outbox.event[];
    upto bigint;
    done record;
    begun timestamptz := clock_timestamp();
    seconds double precision;
begin
    c := outbox_internal.cursor_lock(consumer, 'outbox', p.version::text, true);
    applied := 0;
    faulted := false;
    "position" := c."position";
    page := array(select e from outbox.read_events(c."position", max_events, p.categories, p.types,
        epoch => c.epoch) e order by e."position");
    moved := cardinality(page) > 0;
    upto := page[cardinality(page)]."position";
    -- A row without an event says how far the call has looked, and is the only row of its page.
    if moved and (page[1]).message_id is not null then
        select * into done
        from outbox_internal.apply_events(outbox_internal.registered_function('handler', p.handler, p.owner), page);
        applied := done.applied;
        if done.error is not null then
            faulted := true;
            upto := case when applied > 0 then page[applied]."position" end;
            update outbox._projection k
            set state = 'faulted', resumed_state = p.state, error = left(done.error, 2000),
                failed_position = (done.failed)."position", failed_message_id = (done.failed).message_id,
                changed_at = clock_timestamp()
            where k.name = p.name and k.version = p.version;
        end if;
    end if;
    if upto > c."position" then
        perform outbox.cursor_advance(consumer, upto, subject => p.version::text, expected_position => c."position");
        "position" := upto;
        -- A moving average over the last pages.
        seconds := greatest(extract(epoch from clock_timestamp() - begun), 0.000001);
        insert into outbox._projection_rate as r (name, version, events_per_second, positions_per_second)
        values (p.name, p.version, applied / seconds, (upto - c."position") / seconds)
        on conflict on constraint _projection_rate_pkey do update
        set events_per_second = r.events_per_second * 0.8 + excluded.events_per_second * 0.2,
            positions_per_second = r.positions_per_second * 0.8 + excluded.positions_per_second * 0.2;
    end if;
end
$$;

-- API: public
create function outbox.run_projection(name text, max_events int default 1000, version int default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    p outbox._projection;
    done record;
begin
    perform outbox_internal.check_writable('run_projection');
    perform outbox_internal.check_max_events(max_events);
    p := outbox_internal.projection_version(name, version);
    if p.kind = 'inline' then
        raise exception 'projection "%" is inline', name using errcode = 'OB004',
            detail = 'append() applies its events.';
    elsif p.state = 'faulted' then
        raise exception 'projection "%" is faulted at position %', name, p.failed_position using errcode = 'OB015',
            detail = p.error,
            hint = 'Correct the handler, then outbox.resume_projection(); or decide to skip the event: outbox.skip_event().';
    elsif p.state not in ('running', 'catching_up', 'rebuilding') then
        raise exception 'projection "%" is %', name, p.state using errcode = 'OB004',
            hint = case p.state when 'paused' then 'outbox.resume_projection() goes on.'
                else 'It is an old version; the view outbox.projections shows the live one.' end;
    end if;
    -- A stretch of the feed without an event for this projection is passed over, at most 1,000,000 positions at a time.
    for i in 1 .. 100 loop
        done := outbox_internal.run_page(p, max_events);
        exit when done.applied > 0 or not done.moved or done.faulted;
    end loop;
    if p.state = 'catching_up' and done."position" >= p.rebuild_to then
        update outbox._projection k set state = 'running', changed_at = clock_timestamp()
        where k.name = p.name and k.version = p.version and k.state = 'catching_up';
    end if;
    return done.applied;
end
$$;
comment on function outbox.run_projection is
    'Applies the next page of events to an asynchronous projection and moves its cursor, both in the transaction of the '
    'caller, and returns how many events it applied; 0: it is up to date. max_events: 1 to 10000 (1000). version null: the '
    'live one. Two callers do not apply the same page: one waits. If the handler fails for an event, the events before it '
    'are applied, the projection is faulted, and the call returns: commit it. An error that the next try may not meet '
    '(deadlock, serialization, lock, resources) is raised. Errors: OB015 the projection is faulted, OB001 no such '
    'projection, OB004 it is inline, paused or stopped, OB009 the feed has lost the position of the cursor, 42883 the '
    'handler is gone or has another owner, 22023 max_events is out of range, 25006 the transaction is read-only';

-- API: private
-- The inline projections, in the order of their names. Null: an append has nothing to do after it has written.
create function outbox_internal.append_work() returns outbox._projection[]
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select w.projections
    from (
        select array(
            select p from outbox._projection p where p.kind = 'inline' and p.state = 'running' order by p.name
        ) as projections
    ) w
    where cardinality(w.projections) > 0 or exists (select from outbox.event_schema s where s.validated);
end;

-- API: private
-- Called by append for events that it has just written: validates them, and gives them to the inline projections.
create function outbox_internal.after_append(
    stream text, first_version bigint, last_version bigint, projections outbox._projection[]
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
#variable_conflict use_variable
declare
    events outbox.event[] := array(
        select row(null, null, r.message_id, r.event_id, r.webhook_id, r.stream, r.version, r.type, r.data, r.body,
            r.content_type, r.headers, r.metadata, r.tenant, r.occurred_at, r.recorded_at)::outbox.event
        from outbox._event_row r
        where r.stream collate "C" = after_append.stream and r.version between first_version and last_version
        order by r.version
    );
    its_category text := outbox.category(stream);
    p outbox._projection;
    chosen outbox.event[];
    e outbox.event;
begin
    for e in
        select x.* from unnest(events) x
        where x.type in (select s.type from outbox.event_schema s where s.validated)
        order by x.version
    loop
        perform outbox_internal.validate_appended(e);
    end loop;
    foreach p in array projections loop
        continue when its_category <> all (p.categories);
        chosen := case when p.types is null then events
            else array(select x from unnest(events) x
                where outbox_internal.matches(p.types, null, x.type, null, null, null, null, null) order by x.version) end;
        if cardinality(chosen) > 0 then
            perform outbox_internal.call_handler(outbox_internal.registered_function('handler', p.handler, p.owner), chosen);
        end if;
    end loop;
end
$$;

-- API: private
-- The version that metadata.schema_version names, as a number or as its text; 1 without it. Null: it is malformed.
create function outbox_internal.schema_version_of(metadata jsonb) returns numeric
language sql immutable
set search_path = pg_catalog, pg_temp
begin atomic
    select case
        when v.text is null then 1
        when jsonb_typeof(schema_version_of.metadata -> 'schema_version') = 'number' or v.text ~ '^[1-9][0-9]{0,8}$'
            then v.text::numeric
    end
    from (select schema_version_of.metadata ->> 'schema_version' as text) v;
end;

-- API: private
create function outbox_internal.malformed_schema_version(e outbox.event) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'malformed metadata.schema_version' using errcode = 'invalid_parameter_value',
        detail = format('Event %s of stream "%s".', e.version, e.stream),
        hint = 'It is a whole number from 1 on; without it, the version is 1.';
end
$$;

-- API: private
-- Refuses an event that is not valid by its schema. Called for types that have a schema that asks for it.
create function outbox_internal.validate_appended(e outbox.event) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    its_version numeric;
    found_schema outbox.event_schema;
    wrong text;
begin
    its_version := outbox_internal.schema_version_of(e.metadata);
    if its_version is null then
        perform outbox_internal.malformed_schema_version(e);
    end if;
    select * into found_schema from outbox.event_schema s where s.type = e.type and s.version = its_version;
    if not found then
        raise exception 'type "%" has no schema of version %', e.type,
            case when length(its_version::text) > 20 then left(its_version::text, 17) || '...' else its_version::text end
            using errcode = 'OB001',
            detail = 'The version is that of metadata.schema_version, and 1 without it.',
            hint = 'outbox.register_schema() registers it.';
    end if;
    if not found_schema.validated then
        return;
    end if;
    wrong := case when e.data is null then 'It is not JSON.' else outbox_internal.validate(found_schema.schema, e.data) || '.' end;
    if wrong is not null then
        raise exception 'the data of type "%" is not valid', e.type using errcode = 'invalid_parameter_value',
            detail = wrong, hint = format('select outbox.get_schema(%L, %s) shows the schema.', e.type, its_version);
    end if;
end
$$;

insert into outbox._capability values
    ('consume', 'function outbox.run_projection'),
    ('admin', 'function outbox.create_projection'),
    ('admin', 'function outbox.alter_projection'),
    ('admin', 'function outbox.drop_projection'),
    ('admin', 'function outbox.pause_projection'),
    ('admin', 'function outbox.resume_projection'),
    ('admin', 'function outbox.skip_event');
