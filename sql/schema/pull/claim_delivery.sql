-- Claiming one delivery by its id.

-- API: private
-- Raises the reason why a delivery does not exist: OB002 if it has ended; OB001 if it never existed or its history is no
-- longer stored.
create function outbox_internal.raise_ended(delivery_id bigint) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    ended text;
begin
    select 'dead letter ' || l.id || ', ' || l.resolution || ': ' || l.reason into ended
    from outbox.dead_letter l
    where l.delivery_id = raise_ended.delivery_id
    order by l.id desc
    limit 1;
    if ended is null then
        select a.outcome into ended
        from outbox.attempt a
        -- the delivery ids of a bundle are at most 9999 apart
        where a.delivery_id between raise_ended.delivery_id - 9999 and raise_ended.delivery_id
            and (a.delivery_id = raise_ended.delivery_id or raise_ended.delivery_id = any (a.delivery_ids))
        order by a.finished_at desc
        limit 1;
    end if;
    if ended is null then
        raise exception 'delivery % does not exist', delivery_id using errcode = 'OB001';
    end if;
    raise exception 'delivery % has ended', delivery_id using errcode = 'OB002', detail = format('It is %s.', ended);
end
$$;

-- API: public
create function outbox.claim_delivery(
    delivery_id bigint,
    worker text,
    lease interval default '60 s'
) returns setof outbox.claimed
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_variable
declare
    now timestamptz := clock_timestamp();
    wanted outbox.delivery;
    source outbox.subscription;
    holder outbox.lease;
begin
    perform outbox_internal.check_claim(worker, 1, lease);
    if delivery_id is null then
        raise exception 'delivery_id must not be null' using errcode = 'null_value_not_allowed';
    end if;
    perform outbox_internal.unbundle_delivery(delivery_id);
    select * into wanted from outbox.delivery d where d.id = delivery_id for update;
    perform outbox_internal.lower_claim_hint(wanted.subscription_id, wanted.priority, wanted.due_at) where wanted.pull;
    if wanted.id is null then
        holder := outbox_internal.bundle_holder(delivery_id);
        if holder.id is null then
            perform outbox_internal.raise_ended(delivery_id);
        end if;
        wanted.subscription_id := holder.subscription_id;
        wanted.pull := true;
        wanted.state := 'processing';
        wanted.lease := holder.id;
    end if;
    select * into source from outbox.subscription s where s.id = wanted.subscription_id;
    if not wanted.pull or source.id is null then
        raise exception 'delivery % is not for workers', delivery_id
            using errcode = 'OB004', detail = 'Its subscription is pushed to an endpoint.';
    end if;
    if source.deleted_at is not null then
        raise exception 'subscription "%" has ended', source.name using errcode = 'OB007';
    end if;
    if source.paused then
        raise exception 'subscription "%" is paused', source.name
            using errcode = 'OB007', hint = 'outbox.resume_subscription() lets workers claim from it again.';
    end if;
    if wanted.state = 'processing' then
        select * into holder from outbox.lease l where l.id = wanted.lease;
        raise exception 'delivery % is leased', delivery_id
            using errcode = 'OB003', detail = format('Worker "%s" has it until %s.', holder.worker, holder.expires_at);
    end if;
    if wanted.expires_at <= now then
        raise exception 'delivery % has expired', delivery_id
            using errcode = 'OB010', detail = format('It expired at %s.', wanted.expires_at);
    end if;
    if wanted.attempt >= coalesce(wanted.max_attempts, source.max_attempts) then
        raise exception 'delivery % has no attempts left', delivery_id
            using errcode = 'OB011', detail = format('It was tried %s times.', wanted.attempt);
    end if;
    if wanted.blocked then
        raise exception 'delivery % is not ready', delivery_id
            using errcode = 'OB012', detail = 'It waits for another delivery of its key.';
    end if;
    if wanted.due_at > now then
        raise exception 'delivery % is not ready', delivery_id
            using errcode = 'OB012', detail = format('It is due at %s.', wanted.due_at);
    end if;
    return query select *
    from outbox_internal.lease(source.id, source.name, source.max_attempts, source.deadline, array[delivery_id],
        array[wanted.last_attempt_at],
        wanted.message_segment, worker, lease);
end
$$;
comment on function outbox.claim_delivery is
    'Leases one delivery to a worker, like claim(), and returns one row of type outbox.claimed. Raises an error when the '
    'delivery cannot be claimed: OB001 no such delivery, OB002 it has ended, OB003 it is leased, OB004 it is pushed to an '
    'endpoint, OB007 the subscription has ended or is paused, OB010 it has expired, OB011 no attempts left, OB012 it is '
    'not due, or it waits for another delivery of its key. Other errors: 22004 delivery_id is null, 22023 worker or lease '
    'is out of range';

insert into outbox._capability values
    ('consume', 'function outbox.claim_delivery');
