-- Replay: delivers history again to one subscription.
--
-- A replayed delivery is a row of outbox.delivery whose run is the replay's id. It is sent or claimed, retried, paused and
-- dead-lettered like any other, independently of the live delivery of the same message. Rows are made at the replay's rate,
-- and at most 1000 wait. They are made in the transaction that moves the replay's position, so a crash neither loses nor
-- duplicates a row.

-- API: private
-- Whether a subscription has never taken anything but events, which are stored from the first position on.
create function outbox_internal.takes_events_only(subscription_id int) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(bool_and(v.source = 'events'), false)
    from outbox.subscription_version v where v.subscription_id = takes_events_only.subscription_id;
end;

-- API: public
create function outbox.replay(
    subscription text,
    from_position bigint default null,
    to_position bigint default null,
    filter jsonb default null,
    new_ids boolean default false,
    rate int default 200,
    from_time timestamptz default null,
    to_time timestamptz default null
) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    known int := outbox_internal.subscription_id(subscription);
    low bigint;
    high bigint;
    lowest bigint;
    new_id bigint;
begin
    perform outbox_internal.pin_history();
    lowest := case when outbox_internal.takes_events_only(known) then 1 else outbox_internal.tail() end;
    high := coalesce(to_position, outbox_internal.position_at(to_time, lowest) - 1, outbox.head());
    low := coalesce(from_position, outbox_internal.position_at(from_time, lowest), lowest);
    if low < lowest then
        raise exception 'position % is no longer stored', low using errcode = 'OB009',
            detail = format('The first one that is stored is %s.', lowest);
    end if;
    if high > outbox.head() then
        raise exception 'position % does not exist yet', high using errcode = 'OB009',
            detail = format('The feed ends at %s.', outbox.head());
    end if;
    if rate is null or rate not between 1 and 10000 then
        raise exception 'invalid rate' using errcode = 'invalid_parameter_value',
            hint = 'The rate of a replay is between 1 and 10000 messages per second.';
    end if;
    perform outbox_internal.check_routes('{#}', filter);
    insert into outbox.replay (subscription_id, from_position, to_position, filter, new_ids, rate, position)
    values (known, low, high, filter, coalesce(new_ids, false), rate, low - 1)
    returning id into new_id;
    perform outbox_internal.deliveries_changed();
    perform outbox_internal.audit('replay', format('replay %s', new_id), null, jsonb_build_object('subscription', subscription,
        'from_position', low, 'to_position', high, 'rate', rate));
    return new_id;
end
$$;
comment on function outbox.replay is
    'Delivers again the messages that a subscription matched between two positions, both included, and returns the id of '
    'the replay. Which messages matched is decided by the versions that held at those positions. from_position: default '
    'tail(); to_position: default head(). from_time and to_time (exclusive) are used where a position is null, and refer '
    'to the time when a message got its position. filter: narrows the messages further. new_ids (default false): webhook '
    'ids get the suffix _r and the id of the replay. rate (default 200; 1 to 10000): messages per second at most, in '
    'addition to live traffic. The view outbox.replay_status shows the progress. Recorded in outbox.audit. Errors: OB001 no '
    'such subscription, OB009 a position is no longer stored or does not exist yet, 22023 rate or filter is invalid';

-- API: private
-- Begins a step of a replay: locks the replay, and ends it if its subscription has ended or all its rows are delivered.
-- state: running: the step goes on; otherwise the step ends with this state. job: the replay. target: its subscription.
-- allowance: lowered so that at most 1000 rows wait. Called with the settings of _replay_step.
create function outbox_internal.replay_begin(
    replay_id bigint,
    inout allowance int,
    out state text,
    out job outbox.replay,
    out target outbox.subscription
)
language plpgsql volatile
as $$
#variable_conflict use_variable
declare
    backlog constant int := 1000;
begin
    select r.* into job from outbox.replay r
    where r.id = replay_id and r.state in ('running', 'draining') for update skip locked;
    if job.id is null then
        state := 'gone';
        return;
    end if;
    state := job.state;
    select s.* into target from outbox.subscription s where s.id = job.subscription_id;
    if target.deleted_at is not null then
        state := 'cancelled';
        update outbox.replay r set state = 'cancelled', error = 'unsubscribed', finished_at = clock_timestamp()
        where r.id = replay_id;
        return;
    end if;
    if job.state = 'draining' then
        if not exists (select from outbox.delivery d where d.run = replay_id and d.run > 0) then
            state := 'completed';
            update outbox.replay r set state = 'completed', finished_at = clock_timestamp() where r.id = replay_id;
        end if;
        return;
    end if;
    allowance := least(allowance, backlog - (
        select count(*) from (select from outbox.delivery d where d.run = replay_id and d.run > 0 limit backlog) w)::int);
    if allowance <= 0 then
        state := 'waiting';
    end if;
end
$$;

-- API: private
-- Makes up to `allowance` rows of a replay. state: the replay's state after the step; gone: it has ended, or another session
-- works on it; waiting: 1000 of its rows are not delivered yet. made: number of rows.
--
-- The loop over the messages is in one piece. A step reads up to 1000 messages, and a function that tests a message, or
-- makes a row of it, would be called with the whole message for each of them.
create function outbox_internal.replay_step(replay_id bigint, allowance int, out state text, out made int)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    scanned constant int := 1000;
    begun record;
    job outbox.replay;
    target outbox.subscription;
    candidate record;
    last_seen bigint;
    seen int := 0;
    stopped boolean := false;
    ordering_key text;
    call_off text;
    own outbox.message;
    transformed record;
    -- Transforms get no more time in a step than one call may take; the next step goes on.
    until timestamptz := clock_timestamp() + current_setting('pg_outbox.transform_timeout')::interval;
begin
    made := 0;
    begun := outbox_internal.replay_begin(replay_id, allowance);
    state := begun.state;
    if state <> 'running' then
        return;
    end if;
    allowance := begun.allowance;
    job := begun.job;
    target := begun.target;

    last_seen := job.position;
    for candidate in
        select f.first_position + i.o - 1 as place, m.*, v.topics, v.filter, v.active, v.source,
            case when m.segment = -2 then outbox.category(m.key) else m.aggregate_type end as its_type,
            case when m.segment = -2 then outbox.stream_key(m.key) else m.aggregate_id end as its_id
        from (
            select * from outbox.feed f
            where f.first_position >= coalesce((
                    select p.first_position from outbox.feed p
                    where p.first_position <= job.position + 1
                    order by p.first_position desc limit 1
                ), 0)
                and f.first_position <= job.to_position
            order by f.first_position
        ) f
        cross join lateral unnest(f.message_ids) with ordinality i(id, o)
        left join outbox.message m
            on m.segment in (f.message_segment, case when f.segment = -2 then -2 else f.message_segment end) and m.id = i.id
        left join lateral (
            select o.topics, o.filter, o.active, o.source from outbox.subscription_version o
            where o.subscription_id = target.id and o.position is not null
                and coalesce(o.starts_after, o.position) < f.first_position + i.o - 1
            order by o.version desc limit 1
        ) v on true
        where f.first_position + i.o - 1 > job.position and f.first_position + i.o - 1 <= job.to_position
        limit scanned
    loop
        last_seen := candidate.place;
        seen := seen + 1;
        -- A cancelled message is not delivered any more. An erased message is not delivered either, but the attempt log has
        -- an entry for it.
        continue when candidate.id is null or candidate.active is not true
            or candidate.source <> 'all' and (candidate.source = 'events') <> (candidate.segment = -2)
            or exists (select from outbox.cancelled c where c.message_id = candidate.id)
                and outbox_internal.erased_because(candidate.id) is null
            or not outbox_internal.matches(candidate.topics, candidate.filter - 'payload', candidate.topic, candidate.tenant,
                candidate.key, candidate.its_type, candidate.its_id, candidate.headers)
            or not outbox_internal.matches(null, job.filter - 'payload', candidate.topic, candidate.tenant, candidate.key,
                candidate.its_type, candidate.its_id, candidate.headers)
            or candidate.filter ? 'payload'
                and not outbox_internal.path_holds(candidate.payload, (candidate.filter ->> 'payload')::jsonpath)
            or job.filter ? 'payload'
                and not outbox_internal.path_holds(candidate.payload, (job.filter ->> 'payload')::jsonpath);
        call_off := outbox_internal.erased_because(candidate.id);
        if call_off is not null then
            insert into outbox.attempt (segment, position, message_id, started_at, finished_at, run, subscription_id,
                attempt, outcome, error)
            values (outbox_internal.current_leaf('attempt'), candidate.place, candidate.id, clock_timestamp(), clock_timestamp(),
                replay_id, target.id, 0, 'skipped', call_off);
            continue;
        end if;
        if target.transform is not null then
            select * into own from outbox.message m where m.segment = candidate.segment and m.id = candidate.id;
        end if;
        select * into transformed from outbox_internal.transform_one(target, candidate.place, own);
        if transformed.error is not null or transformed.filtered then
            perform outbox_internal.record_decisions(array[0::bigint], array[target.id], array[candidate.place],
                array[candidate.id], array[candidate.segment],
                array[case when transformed.filtered then 'skipped' else 'dead' end],
                array[case when transformed.filtered then 'filtered' else 'transform_failed' end], array[transformed.error],
                replay_id);
            stopped := clock_timestamp() > until;
            exit when stopped;
            continue;
        end if;
        ordering_key := case target.ordering when 'key' then candidate.key when 'strict' then '' end;
        insert into outbox.delivery (subscription_id, position, message_id, message_segment, pull, state, priority, due_at,
            max_attempts, key, blocked, run, new_id, payload)
        select target.id, candidate.place, candidate.id, candidate.segment, target.endpoint_id is null, 'pending',
            candidate.priority, clock_timestamp(), candidate.max_attempts, ordering_key,
            ordering_key is not null and exists (
                select from outbox.delivery d where d.subscription_id = target.id and d.key = ordering_key
            ),
            replay_id, job.new_ids, transformed.payload
        on conflict (subscription_id, position, run) do nothing;
        perform outbox_internal.lower_claim_hint(target.id, candidate.priority, clock_timestamp() - interval '1 s');
        made := made + 1;
        stopped := made >= allowance or target.transform is not null and clock_timestamp() > until;
        exit when stopped;
    end loop;
    if not stopped and seen < scanned then
        last_seen := job.to_position;
    end if;
    if last_seen >= job.to_position then
        state := 'draining';
    end if;
    update outbox.replay r set position = last_seen, matched = r.matched + made, state = replay_step.state
    where r.id = replay_id;
    if made > 0 then
        perform outbox_internal.deliveries_changed();
    end if;
end
$$;

-- API: private
-- Ends a replay that has not ended as failed, with this error.
create function outbox_internal.replay_failed(replay_id bigint, error text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    update outbox.replay r set state = 'failed', error = replay_failed.error, finished_at = clock_timestamp()
    where r.id = replay_id and r.state in ('running', 'draining');
end;

-- API: private
-- Takes the next step of a pull subscription's replays where there is no dispatcher. Called by a claim that finds nothing. A
-- step makes as many rows as the rate has allowed since the replay began and were not made yet, and at most as many as in
-- one second.
create function outbox_internal.replay_inline(subscription_id int) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_variable
declare
    job outbox.replay;
begin
    for job in
        select r.* from outbox.replay r
        where r.subscription_id = replay_inline.subscription_id and r.state in ('running', 'draining')
        order by r.id
    loop
        begin
            perform outbox_internal.replay_step(job.id, least(job.rate,
                job.rate * extract(epoch from clock_timestamp() - job.created_at) - job.matched)::int);
        exception when data_exception or program_limit_exceeded then
            -- The filter cannot be evaluated. This ends the replay as failed, but not the claim.
            perform outbox_internal.replay_failed(job.id, sqlerrm);
        end;
    end loop;
end
$$;

-- API: public
create function outbox.cancel_replay(replay_id bigint) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    update outbox.replay r set state = 'cancelled', finished_at = clock_timestamp()
    where r.id = replay_id and r.state in ('running', 'draining');
    if not found then
        if exists (select from outbox.replay r where r.id = replay_id) then
            raise exception 'replay % has ended', replay_id using errcode = 'OB004';
        end if;
        raise exception 'replay % does not exist', replay_id
            using errcode = 'OB001', hint = 'The view outbox.replay_status lists them.';
    end if;
    perform outbox_internal.audit('cancel_replay', format('replay %s', replay_id), null);
    return outbox_internal.drop_deliveries(array(
        select d.id from outbox.delivery d where d.run = replay_id and d.run > 0 and d.state <> 'processing' for update
    ), 'cancelled');
end
$$;
comment on function outbox.cancel_replay is
    'Cancels a replay, and returns the number of waiting deliveries that were cancelled. Deliveries that are leased or in '
    'flight end by themselves. Recorded in outbox.audit. Errors: OB001 no such replay, OB004 it has ended';

-- API: public
create view outbox.replay_status as
select r.id as replay_id, s.name as subscription, r.state, r.from_position, r.to_position, r.position,
    round(100.0 * (r.position - r.from_position + 1) / greatest(r.to_position - r.from_position + 1, 1), 1) as percent,
    r.matched,
    (select count(*) from outbox.delivery d where d.run = r.id and d.run > 0) as waiting,
    r.rate, r.new_ids, r.filter, r.error, r.created_at, r.created_by, r.finished_at
from outbox.replay r
join outbox.subscription s on s.id = r.subscription_id;
comment on view outbox.replay_status is
    'Replays and their progress. position: the last position that was read; percent: the part of the positions that was '
    'read; matched: deliveries that were made; waiting: those of them that have not ended';

insert into outbox._capability values
    ('admin', 'function outbox.replay'),
    ('admin', 'function outbox.cancel_replay'),
    ('monitor', 'table outbox.replay_status');
