-- Pull: workers claim deliveries and say what became of them.
--
-- What has to hold:
--   * only the router makes deliveries and unblocks the next of a key: the dispatcher, or an inline claim under the
--     sequencer's lock. What ends a delivery only says which keys it has freed; looking for the next one here would miss
--     a row that the router is just inserting behind it;
--   * a lease's row is locked before its deliveries: an outcome, an extension and the taking back of a lease exclude one
--     another, so a worker whose lease is gone changes nothing;
--   * a claim walks an index from the front of what is due and skips what is locked: it waits for nobody, and its cost is
--     that of the rows it takes. The settings of each function are part of that: with the statistics of a young table the
--     planner would read and sort all of it.

-- API: public
create type outbox.claimed as (
    lease bigint,
    lease_expires_at timestamptz,
    delivery_id bigint,
    subscription text,
    message_id bigint,
    webhook_id text,
    position bigint,
    attempt int,
    max_attempts int,
    topic text,
    key text,
    payload jsonb,
    body bytea,
    content_type text,
    headers jsonb,
    metadata jsonb,
    tenant text,
    publisher text,
    aggregate_type text,
    aggregate_id text,
    priority smallint,
    enqueued_at timestamptz,
    occurred_at timestamptz,
    deliver_at timestamptz,
    expires_at timestamptz,
    last_attempt_at timestamptz,
    last_error text
);
comment on type outbox.claimed is
    'A delivery that a worker has leased, with its message; last_attempt_at and last_error are those of the try '
    'before';

-- API: private
-- Keys that have become free in subscriptions with an order; the router unblocks the next of each.
create table outbox._freed (
    subscription_id int not null,
    key text not null
);
select pg_catalog.pg_extension_config_dump('outbox._freed', '');

-- API: private
-- Rows made by the router in the transaction of its checkpoint: of pull subscriptions, and of messages whose time has not
-- come. In a subscription with an order a row is blocked when its key has another one, or, if the subscription says so, an
-- open dead letter.
create function outbox._open_deliveries(
    pull boolean[],
    subscription_ids int[],
    positions bigint[],
    message_ids bigint[],
    segments smallint[],
    priorities smallint[],
    due_us bigint[],
    expires_us bigint[],
    max_attempts int[],
    keys text[]
) returns int[]
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.delivery (pull, subscription_id, position, message_id, message_segment, state, priority, due_at,
        expires_at, max_attempts, key, blocked)
    select u.pull, u.subscription_id, u.position, u.message_id, u.segment, 'pending', u.priority, outbox._time(u.due_at),
        outbox._time(u.expires_at), u.max_attempts, u.key,
        u.key is not null and (
            lag(u.position) over (partition by u.subscription_id, u.key order by u.position) is not null
            or exists (select from outbox.delivery d where d.subscription_id = u.subscription_id and d.key = u.key)
            or exists (
                select from outbox.dead_letter l
                where l.subscription_id = u.subscription_id and l.key = u.key and l.resolution = 'open'
                    and (select s.on_exhausted from outbox.subscription s where s.id = u.subscription_id) = 'block'
            )
        )
    from unnest(pull, subscription_ids, positions, message_ids, segments, priorities, due_us, expires_us, max_attempts,
        keys)
        u(pull, subscription_id, position, message_id, segment, priority, due_at, expires_at, max_attempts, key)
    on conflict (subscription_id, position, run) do nothing;

    -- whose workers want to be notified
    select array_agg(s.id) from outbox.subscription s where s.id = any (subscription_ids) and s.notify;
end;

-- API: private
-- Deliveries without a row that end before they were tried: expired while their subscription lagged, or cancelled.
create function outbox._record_ended(
    subscription_ids int[],
    positions bigint[],
    message_ids bigint[],
    segments smallint[],
    outcomes text[]
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.attempt (segment, position, message_id, started_at, finished_at, run, subscription_id, endpoint_id,
        attempt, outcome)
    select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), u.position, u.message_id, clock_timestamp(),
        clock_timestamp(), 0, u.subscription_id, s.endpoint_id, 0, u.outcome
    from unnest(subscription_ids, positions, message_ids, outcomes) u(subscription_id, position, message_id, outcome)
    left join outbox.subscription s on s.id = u.subscription_id;

    insert into outbox.dead_letter (subscription_id, endpoint_id, position, message_id, message_segment, attempt, state,
        reason, url, created_at)
    select u.subscription_id, s.endpoint_id, u.position, u.message_id, u.segment, 0, 'expired', 'expired', e.url,
        clock_timestamp()
    from unnest(subscription_ids, positions, message_ids, segments, outcomes)
        u(subscription_id, position, message_id, segment, outcome)
    left join outbox.subscription s on s.id = u.subscription_id
    left join outbox.endpoint e on e.id = s.endpoint_id
    where u.outcome = 'expired';
end;

-- API: private
-- The wait after try number `attempt` of a delivery, with jitter, from a schedule as subscribe() takes it; null:
-- the default.
create function outbox._retry_wait(schedule jsonb, attempt int, message_id bigint, subscription_id int) returns interval
language c volatile as 'MODULE_PATHNAME', 'outbox_retry_wait';

-- API: private
-- Ticks and routes where no dispatcher can: the library is not preloaded. In a transaction without an xid.
create function outbox._route_inline() returns text language c volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as 'MODULE_PATHNAME', 'outbox_route_inline';

-- API: private
-- Tells workers that listen on outbox_pull that there is something to claim; the payload is the subscription's name.
create function outbox._notify_workers(subscription_ids int[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select pg_notify('outbox_pull', s.name) from outbox.subscription s where s.id = any (subscription_ids);
end;

-- API: private
-- The subscription that workers may claim from.
create function outbox._pull_subscription(name text) returns outbox.subscription
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found outbox.subscription;
begin
    select * into found from outbox.subscription s where s.name = _pull_subscription.name and s.deleted_at is null;
    if found.id is null then
        raise exception 'subscription "%" does not exist', name
            using errcode = 'OB001', hint = 'outbox.subscribe() makes one; the table outbox.subscription lists them.';
    end if;
    if found.endpoint_id is not null then
        raise exception 'subscription "%" is pushed to an endpoint', name
            using errcode = 'OB004', hint = 'Workers claim from subscriptions that were made without an endpoint.';
    end if;
    return found;
end
$$;

-- API: private
create function outbox._check_claim(worker text, max_messages int, lease interval) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if worker is null or worker = '' or octet_length(worker) > 255 then
        raise exception 'malformed name of the worker'
            using errcode = 'invalid_parameter_value', hint = 'It has 1 to 255 bytes; a host name and a process id are good.';
    end if;
    if max_messages is null or max_messages not between 1 and 10000 then
        raise exception 'max_messages must be between 1 and 10000' using errcode = 'invalid_parameter_value';
    end if;
    if lease is null or lease <= interval '0' or lease > interval '7 days' then
        raise exception 'the lease must be longer than nothing and at most 7 days' using errcode = 'invalid_parameter_value';
    end if;
end
$$;

-- API: private
-- Leases these deliveries, which the caller has locked, and returns them with their messages.
create function outbox._lease(
    source outbox.subscription,
    ids bigint[],
    worker text,
    duration interval
) returns setof outbox.claimed
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    token bigint := nextval('outbox._lease_id');
    now timestamptz := clock_timestamp();
    deadline timestamptz := now + source.deadline;
    until timestamptz := least(now + duration, deadline);
begin
    insert into outbox.lease (id, subscription_id, worker, claimed_at, expires_at, deadline_at)
    values (token, source.id, worker, now, until, deadline);
    return query
    with taken as (
        update outbox.delivery d
        set state = 'processing', attempt = d.attempt + 1, lease = token, updated_at = now, last_attempt_at = now,
            first_attempt_at = coalesce(d.first_attempt_at, now)
        from (
            select o.id, o.last_attempt_at from unnest(ids) i(id) join outbox.delivery o on o.id = i.id
        ) o
        where d.id = o.id
        returning d.*, o.last_attempt_at as tried_at
    )
    select token, until, t.id, source.name, t.message_id, outbox.webhook_id(m.id, m.enqueued_at)
            || case when t.new_id then '_r' || t.run else '' end, t.position, t.attempt,
        coalesce(t.max_attempts, source.max_attempts), m.topic, m.key, m.payload, m.body, m.content_type, m.headers,
        m.metadata, m.tenant, m.publisher, m.aggregate_type, m.aggregate_id, t.priority, m.enqueued_at, m.occurred_at,
        m.deliver_at, t.expires_at, t.tried_at, t.last_error
    from taken t
    left join outbox.message m on m.segment = t.message_segment and m.id = t.message_id
    order by t.priority desc, t.due_at, t.position;
end
$$;

-- API: private
-- What this session knows about the front of a subscription's index; see _pick.
create function outbox._marks(subscription_id int, out levels int[], out since bigint[]) language c volatile strict
as 'MODULE_PATHNAME', 'outbox_marks';
-- API: private
-- since: microseconds, see _time. seconds: for how long; 0 forgets, below 0 changes nothing of that.
create function outbox._set_marks(subscription_id int, levels int[], since bigint[], seconds double precision)
returns void language c volatile strict
as 'MODULE_PATHNAME', 'outbox_set_marks';

-- API: private
-- Up to `wanted` deliveries that are due, locked.
--
-- Priorities one by one, highest first: within one, the front of the index is what is due, and what is not yet due ends the
-- walk. A snapshot that somebody holds keeps the entries of what was worked off, and they are at the front, too. Where
-- walking over them has become slow, the session remembers for a second which priorities there are and from where on to
-- look in each; what has been given back or gets a new priority is then found a second later.
create function outbox._pick(subscription_id int, wanted int) returns bigint[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
as $$
declare
    level int := 32768;
    ids bigint[] := '{}';
    found_ids bigint[];
    last_due timestamptz;
    now timestamptz := clock_timestamp();
    marks record;
    known int := 0;
    levels int[] := '{}';
    since bigint[] := '{}';
    complete boolean := false;
    since_then timestamptz := '-infinity';
begin
    marks := outbox._marks(subscription_id);
    loop
        if marks.levels is not null then
            known := known + 1;
            exit when known > cardinality(marks.levels);
            level := marks.levels[known];
            if level = 99999 then
                -- there are more, and now they are needed
                perform outbox._set_marks(subscription_id, marks.levels, marks.since, 0);
                return ids;
            end if;
            since_then := outbox._time(marks.since[known]);
        else
            select d.priority into level
            from outbox.delivery d
            where d.subscription_id = _pick.subscription_id and d.pull and d.state <> 'processing' and not d.blocked
                and d.priority < level
            order by d.priority desc
            limit 1;
            complete := not found;
            exit when complete;
        end if;
        select array_agg(p.id), max(p.due_at) into found_ids, last_due
        from (
            select d.id, d.due_at from outbox.delivery d
            where d.subscription_id = _pick.subscription_id and d.pull and d.state <> 'processing' and not d.blocked
                and d.priority = level and d.due_at <= now and d.due_at >= since_then
                and (d.expires_at is null or d.expires_at > now)
                and not exists (select from outbox.cancelled c where c.message_id = d.message_id)
            order by d.due_at, d.position
            limit wanted - cardinality(ids)
            for update of d skip locked
        ) p;
        ids := ids || coalesce(found_ids, '{}');
        levels := levels || level;
        -- rows become visible a little after they became due
        since := since || (extract(epoch from greatest(since_then, coalesce(last_due, now - interval '1 s'))
            - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint;
        exit when cardinality(ids) >= wanted;
    end loop;
    if marks.levels is not null then
        -- those that were not looked at stay
        perform outbox._set_marks(subscription_id, marks.levels,
            since || marks.since[cardinality(since) + 1 : cardinality(marks.since)], -1);
    elsif cardinality(levels) > 0
        and clock_timestamp() - now > interval '2 ms' + cardinality(ids) * interval '0.05 ms' then
        perform outbox._set_marks(subscription_id, case when complete then levels else levels || 99999 end,
            case when complete then since else since || 0::bigint end, 1);
    end if;
    return ids;
end
$$;

-- API: public
create function outbox.claim(
    subscription text,
    worker text,
    max_messages int default 1,
    lease interval default '60 s'
) returns setof outbox.claimed
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    source outbox.subscription := outbox._pull_subscription(subscription);
    ids bigint[];
begin
    perform outbox._check_claim(worker, max_messages, lease);
    if source.paused then
        return;
    end if;
    ids := outbox._pick(source.id, max_messages);
    -- Where no dispatcher can do it, whoever finds nothing looks for more: only in a transaction without an xid, see _tick.
    if cardinality(ids) = 0 and pg_current_xact_id_if_assigned() is null and outbox._route_inline() in ('ticked', 'idle') then
        perform outbox._pass(1000, '{}');
        ids := outbox._pick(source.id, max_messages);
    end if;
    if cardinality(ids) > 0 then
        return query select * from outbox._lease(source, ids, worker, lease);
    end if;
end
$$;
comment on function outbox.claim is
    'Leases up to max_messages deliveries of a pull subscription that are due: highest priority first, then longest '
    'due, then in order. No other worker gets them until the lease ends. Commit before the work starts: that is what '
    'counts the try';

-- API: private
-- Whether there is something to claim: ready, empty; missing, pushed: that is no subscription to claim from.
create function outbox._is_ready(subscription text) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    source outbox.subscription;
    level int := 32768;
    now timestamptz := clock_timestamp();
begin
    select * into source from outbox.subscription s where s.name = _is_ready.subscription and s.deleted_at is null;
    if source.id is null then
        return 'missing';
    end if;
    if source.endpoint_id is not null then
        return 'pushed';
    end if;
    if pg_current_xact_id_if_assigned() is null and outbox._route_inline() in ('ticked', 'idle') then
        perform outbox._pass(1000, '{}');
    end if;
    loop
        select d.priority into level
        from outbox.delivery d
        where d.subscription_id = source.id and d.pull and d.state <> 'processing' and not d.blocked
            and d.priority < level
        order by d.priority desc
        limit 1;
        if not found then
            return 'empty';
        end if;
        perform from outbox.delivery d
        where d.subscription_id = source.id and d.pull and d.state <> 'processing' and not d.blocked
            and d.priority = level and d.due_at <= now and (d.expires_at is null or d.expires_at > now)
        order by d.due_at, d.position
        limit 1;
        if found then
            return 'ready';
        end if;
    end loop;
end
$$;

-- API: public
create procedure outbox.claim_wait(
    subscription text,
    timeout interval default '30 s',
    inout ready boolean default null
)
language c
as 'MODULE_PATHNAME', 'outbox_claim_wait';
comment on procedure outbox.claim_wait is
    'Returns when there is something to claim, or after the timeout: then claim(). Holds no snapshot while it waits; not in a transaction block';

-- API: private
-- Locks a lease; false: it has ended or was taken back.
create function outbox._hold(lease bigint) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if lease is null then
        raise exception 'the lease must not be null' using errcode = 'null_value_not_allowed';
    end if;
    perform from outbox.lease l where l.id = _hold.lease for update;
    return found;
end
$$;

-- API: private
-- Counts outcomes of pulled deliveries, as the dispatcher counts those it sends; see outbox.counter.
create function outbox._count(subscription_id int, outcome text, deliveries bigint) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.counter (segment, subscription_id, outcome, requests, deliveries, seconds)
    select coalesce(pg_sequence_last_value('outbox._counter_segment'), 0), subscription_id, outcome, deliveries, deliveries, 0
    where deliveries > 0;
end;

-- API: private
-- After deliveries of a lease have ended: the lease ends with its last delivery, and freed keys are made known.
create function outbox._after(lease bigint, ordered int[], keys text[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
begin
    delete from outbox.lease l
    where l.id = _after.lease and not exists (select from outbox.delivery d where d.lease = _after.lease);
    if cardinality(keys) > 0 then
        insert into outbox._freed (subscription_id, key) select * from unnest(ordered, keys) u(s, k) where u.k is not null;
        if found then
            perform outbox._look_at_deliveries();
        end if;
    end if;
end
$$;

-- API: private
-- The element of `results` for a delivery: parallel to delivery_ids.
create function outbox._result_of(results jsonb, delivery_ids bigint[], delivery_id bigint) returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
return case when results is not null then results -> (array_position(delivery_ids, delivery_id) - 1) end;

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
    token bigint := lease;
    now timestamptz := clock_timestamp();
    done bigint[];
    source int;
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
    if not outbox._hold(token) then
        return '{}';
    end if;
    with gone as (
        delete from outbox.delivery d
        where d.lease = token and (delivery_ids is null or d.id = any (delivery_ids))
        returning *
    ), logged as (
        insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run,
            subscription_id, attempt, outcome, worker, response_id, results)
        select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), g.position, g.message_id,
            g.last_attempt_at, now, g.id, g.run, g.subscription_id, g.attempt, 'completed',
            (select l.worker from outbox.lease l where l.id = token),
            case jsonb_typeof(r) when 'string' then r #>> '{}' when 'object' then r ->> 'response_id' end,
            case when jsonb_typeof(r) = 'object' then r end
        from gone g, lateral outbox._result_of(results, delivery_ids, g.id) r
    )
    select array_agg(g.id order by g.position), array_agg(g.subscription_id) filter (where g.key is not null),
        array_agg(g.key) filter (where g.key is not null), min(g.subscription_id)
    into done, ordered, keys, source
    from gone g;
    if done is not null then
        perform outbox._count(source, 'completed', cardinality(done));
    end if;
    perform outbox._after(token, ordered, keys);
    return coalesce(done, '{}');
end
$$;
comment on function outbox.complete is
    'Ends deliveries of a lease as done, all of them or those that are named; returns the ids that were: what is '
    'missing was lost to another lease. results: one element per id, the receiver''s id as a string or an object '
    '{total, matched, succeeded, failed, send_results}';

-- API: private
-- Deliveries that are not tried again by themselves: from outbox.delivery to outbox.dead_letter. The caller has locked them;
-- note: has the log say so, where no try has just ended.
create function outbox._bury(ids bigint[], reasons text[], note boolean) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    buried bigint;
begin
    with gone as (
        delete from outbox.delivery d using unnest(ids, reasons) u(id, reason) where d.id = u.id
        returning d.*, u.reason, case u.reason when 'expired' then 'expired' else 'dead' end as fate
    ), freed as (
        insert into outbox._freed (subscription_id, key)
        select g.subscription_id, g.key from gone g where g.key is not null
    ), logged as (
        insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run,
            subscription_id, endpoint_id, attempt, outcome, error_class)
        select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), g.position, g.message_id,
            clock_timestamp(), clock_timestamp(), g.id, g.run, g.subscription_id, s.endpoint_id, 0, g.fate, g.reason
        from gone g
        left join outbox.subscription s on s.id = g.subscription_id
        where note
    )
    insert into outbox.dead_letter (delivery_id, subscription_id, endpoint_id, position, message_id, message_segment,
        attempt, state, reason, key, last_status, last_error_class, last_error, url, first_attempt_at, last_attempt_at,
        created_at)
    select g.id, g.subscription_id, s.endpoint_id, g.position, g.message_id, g.message_segment, g.attempt, g.fate,
        g.reason, g.key, g.last_status, g.last_error_class, g.last_error, e.url, g.first_attempt_at, g.last_attempt_at,
        g.created_at
    from gone g
    left join outbox.subscription s on s.id = g.subscription_id
    left join outbox.endpoint e on e.id = s.endpoint_id;
    get diagnostics buried = row_count;
    return buried;
end
$$;

-- API: private
-- Ends deliveries of cancelled messages. The caller has locked them.
create function outbox._drop_cancelled(ids bigint[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    dropped bigint;
begin
    with gone as (
        delete from outbox.delivery d where d.id = any (ids) returning *
    ), freed as (
        insert into outbox._freed (subscription_id, key)
        select g.subscription_id, g.key from gone g where g.key is not null
    )
    insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run,
        subscription_id, endpoint_id, attempt, outcome)
    select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), g.position, g.message_id,
        clock_timestamp(), clock_timestamp(), g.id, g.run, g.subscription_id, s.endpoint_id, 0, 'cancelled'
    from gone g
    left join outbox.subscription s on s.id = g.subscription_id;
    get diagnostics dropped = row_count;
    return dropped;
end
$$;

-- API: private
-- What becomes of deliveries of a held lease whose try has failed. reason: dead at once, of this; null: tried again if
-- the budget allows.
create function outbox._fail(
    token bigint,
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
    done bigint[];
    dead bigint[];
    reasons text[];
    called_off bigint[];
    source int;
begin
    with mine as (
        select d.*, s.max_attempts as budget, s.max_age, s.schedule, m.enqueued_at,
            now + case
                when retry_after is not null then greatest(retry_after, interval '0')
                else outbox._retry_wait(s.schedule, d.attempt, d.message_id, d.subscription_id)
            end as next_at
        from outbox.delivery d
        left join outbox.subscription s on s.id = d.subscription_id
        left join outbox.message m on m.segment = d.message_segment and m.id = d.message_id
        where d.lease = token and (delivery_ids is null or d.id = any (delivery_ids))
    ), judged as (
        select m.*, case
                when _fail.reason is not null then _fail.reason
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
            case j.verdict when 'expired' then 'expired' else case when j.verdict is null then 'failed' else 'dead' end end,
            class, error,
            (select l.worker from outbox.lease l where l.id = token)
        from judged j
    ), changed as (
        update outbox.delivery d
        set state = 'failed', lease = null, due_at = case when j.verdict is null then j.next_at else d.due_at end,
            last_status = null, last_error_class = class, last_error = error, updated_at = now
        from judged j
        where d.id = j.id
    ), freed as (
        -- an earlier one of its key may have been requeued meanwhile
        insert into outbox._freed (subscription_id, key)
        select j.subscription_id, j.key from judged j where j.key is not null and j.verdict is null
    )
    select array_agg(j.id order by j.position),
        array_agg(j.id) filter (where j.verdict is not null and not j.called_off),
        array_agg(j.verdict) filter (where j.verdict is not null and not j.called_off),
        array_agg(j.id) filter (where j.called_off), min(j.subscription_id)
    into done, dead, reasons, called_off, source
    from judged j;
    if done is not null then
        perform outbox._count(source, 'failed', cardinality(done) - coalesce(cardinality(dead), 0));
        perform outbox._count(source, 'dead', coalesce(cardinality(dead), 0));
    end if;
    if dead is not null then
        perform outbox._bury(dead, reasons, false);
    end if;
    if called_off is not null then
        perform outbox._drop_cancelled(called_off);
    end if;
    if dead is not null or called_off is not null then
        perform outbox._look_at_deliveries();
    end if;
    perform outbox._after(token, null, null);
    return coalesce(done, '{}');
end
$$;

-- API: private
-- Text from outside, as it is kept: 4 kB are enough to see what happened.
create function outbox._short(message text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
return case when octet_length(message) > 4096 then left(message, 1000) || ' ...' else message end;

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
begin
    if not outbox._hold(lease) then
        return '{}';
    end if;
    return outbox._fail(lease, delivery_ids, 'worker', outbox._short(error), retry_after, null);
end
$$;
comment on function outbox.fail is
    'Ends a try of deliveries of a lease (null: of all) as failed: tried again after retry_after, else by the '
    'subscription''s schedule; dead letters after the last try. Returns the ids that were changed';

-- API: public
create function outbox.dead(
    lease bigint,
    delivery_ids bigint[],
    reason text
) returns bigint[]
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not outbox._hold(lease) then
        return '{}';
    end if;
    return outbox._fail(lease, delivery_ids, 'worker', outbox._short(reason), null, 'rejected');
end
$$;
comment on function outbox.dead is
    'Ends deliveries of a lease (null: all) as dead letters at once: no try will help. Returns the ids that were changed';

-- API: public
create function outbox.extend(lease bigint, duration interval default '60 s') returns timestamptz
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    until timestamptz;
begin
    perform outbox._check_claim('worker', 1, duration);
    if outbox._hold(lease) then
        update outbox.lease l
        set expires_at = least(greatest(l.expires_at, clock_timestamp() + duration), l.deadline_at)
        where l.id = lease
        returning l.expires_at into until;
    else
        raise exception 'lease % is lost', lease
            using errcode = 'OB003',
                detail = 'All its deliveries have ended, or it has expired and was taken back.',
                hint = 'Stop the work: another worker may have it.';
    end if;
    return until;
end
$$;
comment on function outbox.extend is
    'Moves the end of a lease to this long from now, but not beyond the subscription''s deadline; returns it. OB003: '
    'the lease is lost';

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
    token bigint := lease;
    done bigint[];
begin
    if not outbox._hold(token) then
        return '{}';
    end if;
    with returned as (
        update outbox.delivery d
        set state = case when d.attempt <= 1 and d.last_error is null then 'pending' else 'failed' end,
            attempt = greatest(d.attempt - 1, 0), lease = null, updated_at = clock_timestamp()
        where d.lease = token and (delivery_ids is null or d.id = any (delivery_ids))
        returning *
    ), logged as (
        insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run,
            subscription_id, attempt, outcome, worker)
        select coalesce(pg_sequence_last_value('outbox._attempt_segment'), 0), r.position, r.message_id,
            r.last_attempt_at, clock_timestamp(), r.id, 0, r.subscription_id, 0, 'returned',
            (select l.worker from outbox.lease l where l.id = token)
        from returned r
    ), freed as (
        insert into outbox._freed (subscription_id, key)
        select r.subscription_id, r.key from returned r where r.key is not null
    )
    select array_agg(r.id order by r.position) into done from returned r;
    perform outbox._after(token, null, null);
    return coalesce(done, '{}');
end
$$;
comment on function outbox.release is
    'Gives deliveries of a lease (null: all) back unharmed: due as before, the try does not count. Returns the ids';

-- API: private
-- Takes back leases that ended before `at`, at most `max`; returns how many deliveries that were. The try counts: a worker
-- that crashes over a message does not get it for ever.
create function outbox._take_back(at timestamptz, max int) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    ended outbox.lease;
    deliveries bigint := 0;
begin
    for ended in
        select * from outbox.lease l where l.expires_at <= at order by l.expires_at limit max for update skip locked
    loop
        deliveries := deliveries + cardinality(outbox._fail(ended.id, null,
            case when ended.deadline_at <= at then 'deadline' else 'lease_expired' end,
            format('worker "%s" did not say what became of it', ended.worker), interval '0', null));
        -- Also when all its deliveries are gone in some other way.
        delete from outbox.lease l where l.id = ended.id;
    end loop;
    return deliveries;
end
$$;

-- API: public
create function outbox.unlock_stale(older_than interval, subscription text default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    only_of int := case when subscription is not null then outbox._subscription_id(subscription) end;
    ended outbox.lease;
    deliveries bigint := 0;
begin
    if older_than is null or older_than < interval '0' then
        raise exception 'older_than must not be null or negative' using errcode = 'invalid_parameter_value';
    end if;
    for ended in
        select * from outbox.lease l
        where l.claimed_at <= clock_timestamp() - older_than and (only_of is null or l.subscription_id = only_of)
        for update skip locked
    loop
        deliveries := deliveries + cardinality(outbox._fail(ended.id, null, 'unlocked',
            format('taken back from worker "%s" by hand', ended.worker), interval '0', null));
        delete from outbox.lease l where l.id = ended.id;
    end loop;
    return deliveries;
end
$$;
comment on function outbox.unlock_stale is
    'Takes leases back that were claimed longer ago than this, whatever their end; returns how many deliveries are '
    'free again';

-- API: private
-- Deliveries whose time is over become dead letters of state `expired`. in_flight: rows that the dispatcher has sent.
create function outbox._expire(at timestamptz, max int, in_flight bigint[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    ids bigint[] := array(
        select d.id from outbox.delivery d
        where d.expires_at <= at and d.state <> 'processing' and d.id <> all (in_flight)
        order by d.expires_at
        limit max
        for update skip locked
    );
begin
    if cardinality(ids) = 0 then
        return 0;
    end if;
    return outbox._bury(ids, array_fill('expired'::text, array[cardinality(ids)]), true);
end
$$;

-- API: private
-- Unblocks the next of each key that has become free, by the router alone. With on_exhausted = block an open dead letter
-- keeps its key blocked.
create function outbox._promote(max int) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    promoted bigint := 0;
    places tid[];
    subscriptions int[];
    keys text[];
    late record;
    others bigint[];
begin
    -- The table is as large as what was freed since the last pass.
    places := array(select f.ctid from outbox._freed f limit max);
    if cardinality(places) = 0 then
        return 0;
    end if;
    with freed as (
        delete from outbox._freed f where f.ctid = any (places) returning f.subscription_id, f.key
    )
    select array_agg(f.subscription_id), array_agg(f.key) into subscriptions, keys
    from (select distinct f.subscription_id, f.key from freed f) f;
    -- A requeued one comes before those that have gone on without it, unless a worker has one of them. Those that a claim
    -- has locked are left alone: when it ends, the key is looked at again.
    for late in
        select n.id, u.subscription_id, u.key
        from unnest(subscriptions, keys) u(subscription_id, key)
        cross join lateral (
            select d.id, d.blocked from outbox.delivery d
            where d.subscription_id = u.subscription_id and d.key = u.key
            order by d.position
            limit 1
        ) n
        where n.blocked and exists (
            select from outbox.delivery o
            where o.subscription_id = u.subscription_id and o.key = u.key and not o.blocked
        )
    loop
        others := array(
            select o.id from outbox.delivery o
            where o.subscription_id = late.subscription_id and o.key = late.key and not o.blocked
                and o.state <> 'processing'
            for update skip locked
        );
        update outbox.delivery d set blocked = true, updated_at = clock_timestamp() where d.id = any (others);
    end loop;
    with next as (
        select n.id
        from unnest(subscriptions, keys) f(subscription_id, key)
        join outbox.subscription s on s.id = f.subscription_id
        cross join lateral (
            select d.id, d.blocked from outbox.delivery d
            where d.subscription_id = f.subscription_id and d.key = f.key
            order by d.position
            limit 1
        ) n
        where n.blocked
            -- one at a time
            and not exists (
                select from outbox.delivery o
                where o.subscription_id = f.subscription_id and o.key = f.key and not o.blocked
            )
            and not (s.on_exhausted = 'block' and exists (
                select from outbox.dead_letter l
                where l.subscription_id = f.subscription_id and l.key = f.key and l.resolution = 'open'
            ))
    )
    update outbox.delivery d set blocked = false, updated_at = clock_timestamp() from next n where d.id = n.id;
    get diagnostics promoted = row_count;
    return promoted;
end
$$;

-- API: private
-- What time and workers bring about, by the router: at most `max` of each kind. more: there is more to do; soon: something
-- is leased or about to expire, so the next pass comes soon; free: deliveries that workers can have now.
create function outbox._pass(
    max int,
    in_flight bigint[],
    out more boolean,
    out soon boolean,
    out free bigint
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    at timestamptz := clock_timestamp();
    worked bigint;
begin
    free := outbox._take_back(at, max);
    worked := free + outbox._expire(at, max, in_flight);
    free := free + outbox._promote(max);
    more := worked > 0 and (
        exists (select from outbox.lease l where l.expires_at <= at)
        or exists (
            select from outbox.delivery d
            where d.expires_at <= at and d.state <> 'processing' and d.id <> all (in_flight)
        )
    ) or exists (select from outbox._freed);
    soon := exists (select from outbox.lease)
        or exists (
            select from outbox.delivery d
            where d.expires_at is not null and d.expires_at < at + interval '10 s' and d.state <> 'processing'
        );
end
$$;

-- API: private
-- Raises why a delivery is not there: OB002 it has ended, OB001 it never was or is forgotten.
create function outbox._raise_ended(delivery_id bigint) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    ended text;
begin
    select 'dead letter ' || l.id || ', ' || l.resolution || ': ' || l.reason into ended
    from outbox.dead_letter l
    where l.delivery_id = _raise_ended.delivery_id
    order by l.id desc
    limit 1;
    if ended is null then
        select a.outcome into ended
        from outbox.attempt a
        where a.delivery_id = _raise_ended.delivery_id
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
as $$
#variable_conflict use_variable
declare
    now timestamptz := clock_timestamp();
    wanted outbox.delivery;
    source outbox.subscription;
    holder outbox.lease;
begin
    perform outbox._check_claim(worker, 1, lease);
    if delivery_id is null then
        raise exception 'delivery_id must not be null' using errcode = 'null_value_not_allowed';
    end if;
    select * into wanted from outbox.delivery d where d.id = delivery_id for update;
    if wanted.id is null then
        perform outbox._raise_ended(delivery_id);
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
            using errcode = 'OB007', hint = 'outbox.resume() lets workers claim from it again.';
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
        raise exception 'delivery % has no tries left', delivery_id
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
    return query select * from outbox._lease(source, array[delivery_id], worker, lease);
end
$$;
comment on function outbox.claim_delivery is
    'Leases one delivery. Raises what stands in the way: OB001 no such delivery, OB002 ended, OB003 leased, OB004 '
    'pushed, OB007 the subscription has ended, OB010 expired, OB011 no tries left, OB012 not due or behind its key';

insert into outbox._capability values
    ('consume', 'function outbox.claim'),
    ('consume', 'procedure outbox.claim_wait'),
    ('consume', 'function outbox._is_ready'),
    ('consume', 'function outbox.claim_delivery'),
    ('consume', 'function outbox.complete'),
    ('consume', 'function outbox.fail'),
    ('consume', 'function outbox.dead'),
    ('consume', 'function outbox.extend'),
    ('consume', 'function outbox.release'),
    ('admin', 'function outbox.unlock_stale');
