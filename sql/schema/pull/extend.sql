-- Extending a lease, and giving deliveries back unused.

-- API: public
create function outbox.extend(lease bigint, duration interval default '60 s') returns timestamptz
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    until timestamptz;
    held outbox.lease;
begin
    perform outbox_internal.check_claim('worker', 1, duration);
    held := outbox_internal.lock_lease(lease);
    if held.id is not null then
        update outbox.lease l
        set expires_at = least(greatest(l.expires_at, clock_timestamp() + duration), l.deadline_at)
        where l.id = held.id
        returning l.expires_at into until;
    else
        raise exception 'the lease is lost'
            using errcode = 'OB003',
                detail = 'All its deliveries have ended, or it has expired and was taken back.',
                hint = 'Stop the work: another worker may have it.';
    end if;
    return until;
end
$$;
comment on function outbox.extend is
    'Extends a lease so that it ends duration (default 60 s, at most 7 days) from now, but not after the deadline of its '
    'claim. Never shortens the lease. Returns the new end. Errors: OB003 the lease is lost, 22004 lease is null, 22023 '
    'duration is out of range';

-- API: public
create function outbox.release(lease bigint, delivery_ids bigint[] default null) returns bigint[]
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    held outbox.lease := outbox_internal.lock_lease(lease);
    named bigint[] := coalesce(delivery_ids, held.delivery_ids);
    done bigint[];
begin
    if held.id is null then
        return '{}';
    end if;
    if held.bundled then
        perform outbox_internal.unbundle_lease(held.id);
    end if;
    with returned as (
        update outbox.delivery d
        set state = case when d.attempt <= 1 and d.last_error is null then 'pending' else 'failed' end,
            attempt = greatest(d.attempt - 1, 0), lease = null, updated_at = clock_timestamp()
        where d.id = any (named) and d.lease = held.id
        returning *
    ), logged as (
        insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run,
            subscription_id, attempt, outcome, worker)
        select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), r.position, r.message_id,
            r.last_attempt_at, clock_timestamp(), r.id, 0, r.subscription_id, 0, 'returned', held.worker
        from returned r
    ), freed as (
        insert into outbox._freed_key (subscription_id, key)
        select r.subscription_id, r.key from returned r where r.key is not null
    )
    select array_agg(r.id order by r.position),
        count(outbox_internal.lower_claim_hint(r.subscription_id, r.priority, r.due_at))
    into done
    from returned r;
    perform outbox_internal.free_keys(held, null, null);
    return coalesce(done, '{}');
end
$$;
comment on function outbox.release is
    'Gives deliveries of a lease (delivery_ids null: all) back unharmed: they are due as before, and the attempt does not '
    'count. Returns the ids that were given back, in the order of positions; an empty array when the lease is lost. '
    'Errors: 22004 lease is null';

insert into outbox._capability values
    ('consume', 'function outbox.extend'),
    ('consume', 'function outbox.release');
