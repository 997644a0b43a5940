-- The ends of streams: closing one, and removing its old events.

-- API: private
-- Takes the lock of a stream that exists, and returns its last version. Raises OB001, and OB006 for an empty reason.
create function outbox_internal.lock_stream_to_change(what text, stream text, reason text) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    version bigint;
begin
    perform outbox_internal.check_writable(what);
    if coalesce(btrim(reason), '') = '' then
        raise exception 'a reason is required' using errcode = 'OB006', hint = 'The reason is kept in outbox.audit.';
    end if;
    -- checks the name
    perform outbox.stream_version(stream);
    perform outbox_internal.lock_stream(stream, true);
    version := outbox.stream_version(stream);
    if version = 0 then
        raise exception 'stream "%" does not exist', stream using errcode = 'OB001',
            hint = 'outbox.append() creates it with its first event.';
    end if;
    return version;
end
$$;

-- API: public
create function outbox.close_stream(stream text, reason text default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
#variable_conflict use_variable
declare
    version bigint := outbox_internal.lock_stream_to_change('close_stream', stream, reason);
begin
    insert into outbox.stream as s (stream, closed_at) values (stream, clock_timestamp())
    on conflict on constraint stream_pkey do update set closed_at = excluded.closed_at where s.closed_at is null;
    if not found then
        raise exception 'stream "%" is closed already', stream using errcode = 'OB004',
            hint = 'outbox.stream_info() says since when.';
    end if;
    perform outbox_internal.audit('close_stream', format('stream %s', stream), btrim(reason), jsonb_build_object('version', version));
    return version;
end
$$;
comment on function outbox.close_stream is
    'Closes a stream for ever: append() refuses it from now on. Its events stay. Returns its last version. reason is stored '
    'in outbox.audit. Waits for the transactions that are appending to the stream. Errors: OB001 there is no such stream, '
    'OB004 it is closed already, OB006 the reason is empty, 55P03 another transaction keeps the stream for 5 s';

-- API: public
create function outbox.truncate_stream(stream text, before_version bigint, reason text default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
#variable_conflict use_variable
declare
    version bigint := outbox_internal.lock_stream_to_change('truncate_stream', stream, reason);
    ids bigint[];
    leased record;
begin
    if before_version is null or before_version not between 1 and version + 1 then
        raise exception 'invalid before_version' using errcode = 'invalid_parameter_value',
            detail = format('It is %s; the last version is %s.', coalesce(before_version::text, 'null'), version),
            hint = 'Events before this version are removed. The version after the last one removes all.';
    end if;
    ids := array(
        select m.id from outbox._message_event m
        where m.key collate "C" = stream and m.version < before_version
        order by m.key collate "C", m.version
    );
    -- As when a message is erased: what waits for its delivery is called off.
    perform from outbox.dead_letter l where l.message_id = any (ids) order by l.id for update;
    perform outbox_internal.unbundle_messages(ids, true);
    perform from outbox.delivery d where d.message_id = any (ids) order by d.id for update;
    select d.message_id, l.worker into leased
    from outbox._open d
    left join outbox.delivery o on o.message_id = d.message_id and o.state = 'processing'
    left join outbox.lease l on l.id = o.lease
    where d.message_id = any (ids) and d.state = 'processing'
    limit 1;
    if found then
        raise exception 'event % is being delivered', leased.message_id using errcode = 'OB003',
            hint = 'Truncate the stream when the worker is done, or take the lease back with outbox.unlock_stale().';
    end if;
    insert into outbox.cancelled (message_id, cancelled_by, reason)
    select i, session_user, 'truncated: ' || btrim(reason) from unnest(ids) i
    on conflict on constraint cancelled_pkey do nothing;
    insert into outbox._cancelled_lately select i from unnest(ids) i;
    delete from outbox._manual_send e where e.message_id = any (ids);
    perform outbox_internal.drop_deliveries(
        array(select d.id from outbox.delivery d where d.message_id = any (ids)), 'cancelled');
    perform set_config('pg_outbox.erasing', 'on', true);
    delete from outbox._message_event m where m.key collate "C" = stream and m.version < before_version;
    perform set_config('pg_outbox.erasing', 'off', true);
    insert into outbox.stream as s (stream, truncated_before, last_version) values (stream, before_version, version)
    on conflict on constraint stream_pkey do update
    set truncated_before = greatest(s.truncated_before, excluded.truncated_before), last_version = excluded.last_version;
    perform outbox_internal.deliveries_changed();
    perform outbox_internal.audit('truncate_stream', format('stream %s', stream), btrim(reason),
        jsonb_build_object('before_version', before_version, 'events', cardinality(ids)));
    return cardinality(ids);
end
$$;
comment on function outbox.truncate_stream is
    'Removes the events of a stream before a version, for good, and returns how many. Their positions stay empty, their '
    'waiting deliveries are cancelled, and the stream''s versions go on. reason is stored in outbox.audit. Errors: OB001 '
    'there is no such stream, OB003 a worker has one of the events, OB006 the reason is empty, 22023 before_version is not '
    'between 1 and the version after the last one, 55P03 another transaction keeps the stream for 5 s';

insert into outbox._capability values
    ('admin', 'function outbox.close_stream'),
    ('admin', 'function outbox.truncate_stream');
