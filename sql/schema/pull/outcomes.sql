-- Outcomes of leased deliveries: completed, failed or dead.
--
-- The row of a lease is locked before the rows of its deliveries. So an outcome, an extension and the taking back of a lease
-- exclude one another, and a worker whose lease is gone cannot change anything. A function that ends a delivery only notes
-- the key that is free now (outbox._freed_key), and the router unblocks the next delivery of that key. Looking for the next
-- delivery here would miss a row that the router is just inserting.

-- API: private
-- Locks and returns a lease. Null: the lease has ended or was taken back. Raises 22004 when `lease` is null.
create function outbox_internal.lock_lease(lease bigint) returns outbox.lease
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    held outbox.lease;
begin
    if lease is null then
        raise exception 'the lease must not be null' using errcode = 'null_value_not_allowed';
    end if;
    select * into held from outbox.lease l where l.id = outbox_internal.lease_id(lock_lease.lease) for update;
    if held.id is null then
        perform outbox_internal.note_unknown_lease();
    end if;
    return held;
end
$$;

-- API: private
-- Adds outcomes of pull deliveries to outbox.counter, as the dispatcher does for the deliveries that it sends.
create function outbox_internal.count(subscription_id int, outcome text, deliveries bigint) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.counter (segment, subscription_id, outcome, requests, deliveries, seconds)
    select coalesce(pg_sequence_last_value('outbox._counter_segment'), 0), subscription_id, outcome, deliveries, deliveries, 0
    where deliveries > 0;
end;

-- API: private
-- Called after deliveries of a lease have ended: deletes the lease if no delivery is left, and notes the freed keys. Called
-- with the settings of the caller.
create function outbox_internal.free_keys(held outbox.lease, ordered int[], keys text[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from outbox.lease l
    where l.id = held.id and not exists (
        select from outbox.delivery d where d.id = any (held.delivery_ids) and d.lease = held.id
    );
    if cardinality(keys) > 0 then
        insert into outbox._freed_key (subscription_id, key)
        select * from unnest(ordered, keys) u(s, k) where u.k is not null;
        if found then
            perform outbox_internal.deliveries_changed();
        end if;
    end if;
end
$$;

-- API: private
-- Completes all bundles of a lease and ends the lease, with one row in the attempt log for each bundle. Returns the delivery
-- ids.
create function outbox_internal.complete_bundles(held outbox.lease) returns bigint[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    done bigint[];
begin
    with gone as (
        delete from outbox._bundle b where b.lease = held.id returning b.*
    ), logged as (
        insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run,
            subscription_id, attempt, outcome, worker, positions, message_ids, delivery_ids)
        select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), g.positions[1], g.message_ids[1],
            held.claimed_at, clock_timestamp(), g.delivery_ids[1], 0, g.subscription_id, 1, 'completed', held.worker,
            g.positions, g.message_ids, g.delivery_ids
        from gone g
    ), counted as (
        insert into outbox.counter (segment, subscription_id, outcome, requests, deliveries, seconds)
        select coalesce(pg_sequence_last_value('outbox._counter_segment'), 0), held.subscription_id, 'completed',
            count(*), sum(cardinality(g.positions)), 0
        from gone g
        having count(*) > 0
    ), ended as (
        delete from outbox.lease l where l.id = held.id
    )
    select array_agg(u.id order by g.positions[1], u.n) into done
    from gone g
    cross join lateral unnest(g.delivery_ids) with ordinality u(id, n);
    return coalesce(done, '{}');
end
$$;

-- API: public
create function outbox.complete(
    lease bigint,
    delivery_ids bigint[] default null,
    results jsonb default null
) returns bigint[]
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    token bigint := outbox_internal.lease_id(lease);
    now timestamptz := clock_timestamp();
    held outbox.lease;
    named bigint[];
    done bigint[];
    ordered int[];
    keys text[];
begin
    if results is not null and (
        jsonb_typeof(results) <> 'array' or jsonb_array_length(results) is distinct from cardinality(delivery_ids)
    ) then
        raise exception 'results is not an array with one element per delivery id'
            using errcode = 'invalid_parameter_value',
                hint = 'An element is null, the receiver''s id as a string, or an object such as {"total": 3, "succeeded": 2}.';
    end if;
    select * into held from outbox.lease l where l.id = token for update;
    if held.id is null then
        -- raises the error for null
        perform outbox_internal.lock_lease(lease);
        return '{}';
    end if;
    if held.bundled then
        -- Whole bundles are completed as such; otherwise the bundles are split, and their deliveries are completed one by
        -- one.
        if results is null and (delivery_ids is null or delivery_ids @> held.delivery_ids) then
            return outbox_internal.complete_bundles(held);
        end if;
        perform outbox_internal.unbundle_lease(token);
    end if;
    named := coalesce(delivery_ids, held.delivery_ids);
    -- One statement, because starting a statement is most of the cost of a small one.
    with gone as (
        delete from outbox.delivery d
        where d.id = any (named) and d.lease = token
        returning d.id, d.position, d.message_id, d.last_attempt_at, d.run, d.subscription_id, d.attempt, d.key
    ), logged as (
        insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run,
            subscription_id, attempt, outcome, worker, response_id, results)
        select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), g.position, g.message_id,
            g.last_attempt_at, now, g.id, g.run, g.subscription_id, g.attempt, 'completed', held.worker,
            case jsonb_typeof(r) when 'string' then r #>> '{}' when 'object' then r ->> 'response_id' end,
            case when jsonb_typeof(r) = 'object' then r end
        from gone g, lateral (
            select case when results is not null then results -> (array_position(delivery_ids, g.id) - 1) end
        ) element(r)
    ), counted as (
        insert into outbox.counter (segment, subscription_id, outcome, requests, deliveries, seconds)
        select coalesce(pg_sequence_last_value('outbox._counter_segment'), 0), held.subscription_id, 'completed', count(*),
            count(*), 0
        from gone
        having count(*) > 0
    ), ended as (
        delete from outbox.lease l
        where l.id = token and (select count(*) from gone) = cardinality(held.delivery_ids)
    )
    select array_agg(g.id order by g.position), array_agg(g.subscription_id) filter (where g.key is not null),
        array_agg(g.key) filter (where g.key is not null)
    into done, ordered, keys
    from gone g;
    if keys is not null or cardinality(done) is distinct from cardinality(held.delivery_ids) then
        perform outbox_internal.free_keys(held, ordered, keys);
    end if;
    return coalesce(done, '{}');
end
$$;
comment on function outbox.complete is
    'Ends deliveries of a lease (delivery_ids null: all that it holds) as completed. Returns their ids, in the order of '
    'positions. An id that is missing had ended or was lost to another lease; the array is empty when the lease is lost. '
    'results: a JSON array with one element per element of delivery_ids, which the attempt log stores. An element is null, '
    'the receiver''s id as a string, or an object {total, matched, succeeded, failed, send_results}. Errors: 22004 lease '
    'is null, 22023 results does not have one element per delivery id';

-- API: private
-- Records a failed attempt of deliveries of a locked lease. delivery_ids null: of all its deliveries. reason: makes them
-- dead letters at once, with this reason. reason null: they are tried again if their budget, max_age and expiry allow.
-- Returns the ids of the changed deliveries.
create function outbox_internal.fail(
    held outbox.lease,
    delivery_ids bigint[],
    class text,
    error text,
    retry_after interval,
    reason text
) returns bigint[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
    now timestamptz := clock_timestamp();
    named bigint[] := coalesce(delivery_ids, held.delivery_ids);
    done bigint[];
    dead bigint[];
    reasons text[];
    called_off bigint[];
    source int;
begin
    if held.bundled then
        perform outbox_internal.unbundle_lease(held.id);
    end if;
    with mine as (
        select d.*, s.max_attempts as budget, s.max_age, s.schedule, m.enqueued_at,
            now + case
                when retry_after is not null then greatest(retry_after, interval '0')
                else outbox_internal.retry_wait(s.schedule, d.attempt, d.message_id, d.subscription_id)
            end as next_at
        from outbox.delivery d
        left join outbox.subscription s on s.id = d.subscription_id
        left join outbox.message m on m.segment = d.message_segment and m.id = d.message_id
        where d.id = any (named) and d.lease = held.id
    ), judged as (
        select m.*, case
                when fail.reason is not null then fail.reason
                when m.attempt >= coalesce(m.max_attempts, m.budget, 1) then 'max_attempts'
                when m.next_at > m.enqueued_at + m.max_age then 'max_age'
                when m.next_at > m.expires_at then 'expired'
            end as verdict,
            exists (select from outbox.cancelled c where c.message_id = m.message_id) as called_off
        from mine m
    ), logged as (
        insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run,
            subscription_id, attempt, outcome, error_class, error, worker)
        select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), j.position, j.message_id,
            j.last_attempt_at, now, j.id, j.run, j.subscription_id, j.attempt,
            case when j.verdict is null then 'failed' when j.verdict = 'expired' then 'expired' else 'dead' end,
            class, error, held.worker
        from judged j
    ), changed as (
        update outbox.delivery d
        set state = 'failed', lease = null, due_at = case when j.verdict is null then j.next_at else d.due_at end,
            last_status = null, last_error_class = class, last_error = error, updated_at = now
        from judged j
        where d.id = j.id
    ), freed as (
        -- an earlier delivery of its key may have been requeued meanwhile
        insert into outbox._freed_key (subscription_id, key)
        select j.subscription_id, j.key from judged j where j.key is not null and j.verdict is null
    )
    select array_agg(j.id order by j.position),
        array_agg(j.id) filter (where j.verdict is not null and not j.called_off),
        array_agg(j.verdict) filter (where j.verdict is not null and not j.called_off),
        array_agg(j.id) filter (where j.called_off), min(j.subscription_id),
        count(outbox_internal.lower_claim_hint(j.subscription_id, j.priority, j.next_at)) filter (where j.verdict is null)
    into done, dead, reasons, called_off, source
    from judged j;
    if done is not null then
        perform outbox_internal.count(source, 'failed', cardinality(done) - coalesce(cardinality(dead), 0));
        perform outbox_internal.count(source, 'dead', cardinality(array_remove(reasons, 'expired')));
        perform outbox_internal.count(source, 'expired', cardinality(array_positions(reasons, 'expired')));
    end if;
    if dead is not null then
        perform outbox_internal.dead_letter_deliveries(dead, reasons, false);
    end if;
    if called_off is not null then
        perform outbox_internal.drop_deliveries(called_off, 'cancelled');
    end if;
    if dead is not null or called_off is not null then
        perform outbox_internal.deliveries_changed();
    end if;
    perform outbox_internal.free_keys(held, null, null);
    return coalesce(done, '{}');
end
$$;

-- API: public
create function outbox.fail(
    lease bigint,
    delivery_ids bigint[],
    error text,
    retry_after interval default null
) returns bigint[]
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held outbox.lease := outbox_internal.lock_lease(lease);
begin
    if held.id is null then
        return '{}';
    end if;
    return outbox_internal.fail(held, delivery_ids, 'worker', outbox_internal.shorten(error), retry_after, null);
end
$$;
comment on function outbox.fail is
    'Records a failed attempt of deliveries of a lease (delivery_ids null: of all that it holds). A delivery is tried '
    'again after retry_after (null: after the wait that the subscription''s schedule says). A delivery becomes a dead '
    'letter after its last attempt, or when the next attempt would be later than max_age or the expiry allow. An error of '
    'more than 4096 bytes is cut to its first 1000 characters. Returns the ids that were changed; an empty array when the '
    'lease is lost. Errors: 22004 lease is null';

-- API: public
create function outbox.dead(
    lease bigint,
    delivery_ids bigint[],
    reason text
) returns bigint[]
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held outbox.lease := outbox_internal.lock_lease(lease);
begin
    if held.id is null then
        return '{}';
    end if;
    return outbox_internal.fail(held, delivery_ids, 'worker', outbox_internal.shorten(reason), null, 'rejected');
end
$$;
comment on function outbox.dead is
    'Ends deliveries of a lease (delivery_ids null: all that it holds) as dead letters at once, because no further attempt '
    'will help. The dead letter has the reason "rejected", and the argument reason as its last_error. Returns the ids that '
    'were changed; an empty array when the lease is lost. Errors: 22004 lease is null';

insert into outbox._capability values
    ('consume', 'function outbox.complete'),
    ('consume', 'function outbox.fail'),
    ('consume', 'function outbox.dead');
