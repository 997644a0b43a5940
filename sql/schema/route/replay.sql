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
-- allowance: lowered so that at most 1000 rows wait. Called with the settings of replay_step.
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
-- The entries of the feed after one position and up to another one, in order. `segments` has the leaves in which the message
-- may be. The planner puts the function into the statement that calls it, so that the statement reads no more than it needs.
create function outbox_internal.feed_entries(after bigint, upto bigint)
returns table (place bigint, message_id bigint, segments smallint[])
language sql stable
begin atomic
    select f.first_position + i.ord - 1, i.id,
        array[f.message_segment, case when f.segment = -2 then -2 else f.message_segment end]::smallint[]
    from (
        select * from outbox.feed f
        where f.first_position >= coalesce((
                select p.first_position from outbox.feed p
                where p.first_position <= feed_entries.after + 1
                order by p.first_position desc limit 1
            ), 0)
            and f.first_position <= feed_entries.upto
        order by f.first_position
    ) f
    cross join lateral unnest(f.message_ids) with ordinality i(id, ord)
    where f.first_position + i.ord - 1 > feed_entries.after and f.first_position + i.ord - 1 <= feed_entries.upto;
end;

-- API: private
-- Calls the transform of a replay's subscription for messages that are not erased, in order, and records the decisions about
-- those that have no payload then. payloads: of each message, null: there is none; upto: the number of messages that were
-- looked at. Transforms get no more time in a step than one call may take; the next step goes on.
create function outbox_internal.replay_transform(
    replay_id bigint,
    target outbox.subscription,
    places bigint[],
    ids bigint[],
    segments smallint[],
    erased text[],
    out payloads jsonb[],
    out upto int
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    own outbox.message;
    transformed record;
    until timestamptz := clock_timestamp() + current_setting('pg_outbox.transform_timeout')::interval;
begin
    upto := 0;
    payloads := array_fill(null::jsonb, array[cardinality(places)]);
    for i in 1 .. cardinality(places) loop
        upto := i;
        continue when erased[i] is not null;
        select * into own from outbox.message m where m.segment = segments[i] and m.id = ids[i];
        select * into transformed from outbox_internal.transform_one(target, places[i], own);
        payloads[i] := transformed.payload;
        if transformed.error is not null or transformed.filtered then
            perform outbox_internal.record_decisions(array[0::bigint], array[target.id], array[places[i]], array[ids[i]],
                array[segments[i]],
                array[case when transformed.filtered then 'skipped' else 'dead' end],
                array[case when transformed.filtered then 'filtered' else 'transform_failed' end], array[transformed.error],
                replay_id);
        end if;
        exit when clock_timestamp() > until;
    end loop;
end
$$;

-- API: private
-- Makes up to `allowance` rows of a replay. state: the replay's state after the step; gone: it has ended, or another session
-- works on it; waiting: as many of its rows as may wait are not delivered yet. made: number of rows.
--
-- One statement finds the messages. It stops at the last one that is wanted, so that a slow filter is asked for no message
-- in vain. With nested loops, it keeps the order of the feed. A cancelled message is not delivered any more. An erased
-- message is not delivered either, but the attempt log has an entry for it.
create function outbox_internal.replay_step(replay_id bigint, allowance int, out state text, out made int)
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
    scanned constant int := 1000;
    begun record;
    job outbox.replay;
    target outbox.subscription;
    found record;
    payloads jsonb[];
    upto int;
    last_seen bigint;
begin
    made := 0;
    begun := outbox_internal.replay_begin(replay_id, allowance);
    state := begun.state;
    if state <> 'running' then
        return;
    end if;
    job := begun.job;
    target := begun.target;

    select coalesce(array_agg(c.place), '{}') as places, array_agg(c.id) as ids, array_agg(c.segment) as segments,
        array_agg(c.key) as keys, array_agg(c.priority) as priorities, array_agg(c.max_attempts) as budgets,
        array_agg(c.erased) as erased
    into found
    from (
        select c.place, m.id, m.segment, m.key, m.priority, m.max_attempts, e.reason as erased
        from (select * from outbox_internal.feed_entries(job.position, job.to_position) limit scanned) c
        join outbox.message m on m.segment = any (c.segments) and m.id = c.message_id
        join lateral (
            select o.topics, o.filter, o.active, o.source from outbox.subscription_version o
            where o.subscription_id = target.id and o.position is not null
                and coalesce(o.starts_after, o.position) < c.place
            order by o.version desc limit 1
        ) v on v.active and (v.source = 'all' or (v.source = 'events') = (m.segment = -2))
        cross join lateral (
            select case when m.segment = -2 then outbox.category(m.key) else m.aggregate_type end as aggregate_type,
                case when m.segment = -2 then outbox.stream_key(m.key) else m.aggregate_id end as aggregate_id
        ) its
        left join outbox.cancelled e on e.message_id = m.id
        where (e.message_id is null or e.reason like 'erased: %')
            and outbox_internal.matches(v.topics, v.filter - 'payload', m.topic, m.tenant, m.key, its.aggregate_type,
                its.aggregate_id, m.headers)
            and outbox_internal.matches(null, job.filter - 'payload', m.topic, m.tenant, m.key, its.aggregate_type,
                its.aggregate_id, m.headers)
            and case when v.filter ? 'payload'
                then outbox_internal.path_holds(m.payload, (v.filter ->> 'payload')::jsonpath) else true end
            and case when job.filter ? 'payload'
                then outbox_internal.path_holds(m.payload, (job.filter ->> 'payload')::jsonpath) else true end
        limit begun.allowance
    ) c;
    upto := cardinality(found.places);
    if upto = begun.allowance then
        last_seen := found.places[upto];
    else
        last_seen := coalesce((
            select f.place from outbox_internal.feed_entries(job.position, job.to_position) f offset scanned - 1 limit 1
        ), job.to_position);
    end if;
    if target.transform is not null then
        select t.payloads, t.upto into payloads, upto
        from outbox_internal.replay_transform(replay_id, target, found.places, found.ids, found.segments, found.erased) t;
        if upto < cardinality(found.places) then
            last_seen := found.places[upto];
        end if;
    end if;

    insert into outbox.attempt (segment, position, message_id, started_at, finished_at, run, subscription_id, attempt,
        outcome, error)
    select outbox_internal.current_leaf('attempt'), u.place, u.id, clock_timestamp(), clock_timestamp(), replay_id, target.id,
        0, 'skipped', u.erased
    from unnest(found.places[:upto], found.ids[:upto], found.erased[:upto]) u(place, id, erased)
    where u.erased is not null;

    insert into outbox.delivery (subscription_id, position, message_id, message_segment, pull, state, priority, due_at,
        max_attempts, key, blocked, run, new_id, payload)
    select target.id, u.place, u.id, u.segment, target.endpoint_id is null, 'pending', u.priority, clock_timestamp(), u.budget,
        u.ordering_key,
        u.ordering_key is not null and (
            row_number() over (partition by u.ordering_key order by u.place) > 1
            or exists (select from outbox.delivery d where d.subscription_id = target.id and d.key = u.ordering_key)),
        replay_id, job.new_ids, u.payload
    from (
        select u.*, case target.ordering when 'key' then u.key when 'strict' then '' end as ordering_key
        from unnest(found.places[:upto], found.ids[:upto], found.segments[:upto], found.keys[:upto], found.priorities[:upto],
                found.budgets[:upto], found.erased[:upto], payloads[:upto])
            u(place, id, segment, key, priority, budget, erased, payload)
        where u.erased is null and (target.transform is null or u.payload is not null)
    ) u
    on conflict (subscription_id, position, run) do nothing;
    get diagnostics made = row_count;
    perform outbox_internal.lower_claim_hint(target.id, u.priority, clock_timestamp() - interval '1 s')
    from (select distinct priority from unnest(found.priorities[:upto]) u(priority)) u;

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
