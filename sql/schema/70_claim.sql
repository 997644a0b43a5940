-- Claiming: workers lease deliveries that are due, and wait until there are some.
--
-- A claim walks an index from the front of what is due and skips what is locked: it waits for nobody, and its cost is
-- that of the rows it takes. The settings of each function are part of that: with the statistics of a young table the
-- planner would read and sort all of it.

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
-- _lease: leases these deliveries, which the caller has locked, and returns them with their messages. _lease_bundles: the
-- same for whole bundles. Called with the caller's settings.
--
-- Looking up messages in all leaves of outbox.message costs several times as much as the rest of a claim: opening them takes
-- longer than reading them. A claim's messages are nearly always in one leaf, so there is one statement per leaf, and
-- one for all of them: for segment null. Rows come in the order of `ids`, through nested loops; bundles have to be sorted.
do $do$
declare
    rows constant text := $r$
            update outbox.delivery d
            set state = 'processing', attempt = d.attempt + 1, lease = held_as, updated_at = now, last_attempt_at = now,
                first_attempt_at = coalesce(d.first_attempt_at, now)
            from unnest(ids, tried) i(id, tried_at)
            where d.id = i.id
            returning d.id, d.position, d.message_id, d.message_segment, d.run, d.new_id, d.attempt, d.max_attempts,
                d.priority, d.due_at, d.expires_at, d.last_error, i.tried_at$r$;
    bundles constant text := $b$
            select u.id, u.position, u.message_id, h.message_segment, 0::bigint as run, false as new_id, 1 as attempt,
                null::int as max_attempts, 0::smallint as priority, h.due_at, null::timestamptz as expires_at,
                null::text as last_error, null::timestamptz as tried_at
            from held h
            cross join lateral unnest(h.delivery_ids, h.positions, h.message_ids) u(id, position, message_id)$b$;
    held constant text := $h$held as (
            update outbox._bundle b set lease = held_as where b.id = any (bundles) returning b.*
        ), $h$;
    template constant text := $f$
create function outbox.{name}(
    source_id int,
    source_name text,
    budget int,
    deadline interval,
    ids bigint[],
    {argument},
    segment smallint,
    worker text,
    duration interval
) returns setof outbox.claimed
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    token bigint := outbox._new_lease();
    held_as bigint := outbox._lease_id(token);
    now timestamptz := clock_timestamp();
    until timestamptz := now + least(duration, deadline);
begin
    case segment {cases}
    end case;
end
$$;$f$;
    branch constant text := $c$
    {when} return query
        with leased as (
            insert into outbox.lease (id, subscription_id, worker, claimed_at, expires_at, deadline_at, delivery_ids,
                bundled)
            values (held_as, source_id, worker, now, until, now + deadline, ids, {bundled})
        ), {held}taken as ({taken}
        )
        select token, until, t.id, source_name, t.message_id, outbox.webhook_id(m.id, m.enqueued_at)
                || case when t.new_id then '_r' || t.run else '' end, t.position, t.attempt,
            coalesce(t.max_attempts, budget), m.topic, m.key, m.payload, m.body, m.content_type, m.headers,
            m.metadata, m.tenant, m.publisher, m.aggregate_type, m.aggregate_id, t.priority, m.enqueued_at, m.occurred_at,
            m.deliver_at, t.expires_at, t.tried_at, t.last_error
        from taken t
        left join {messages} m on m.segment = t.message_segment and m.id = t.message_id {order};$c$;
    kind record;
    branches text;
    cases text;
begin
    for kind in
        select * from (values
            ('_lease', 'tried timestamptz[]', 'false', '', rows, ''),
            ('_lease_bundles', 'bundles bigint[]', 'true', held, bundles, 'order by t.due_at, t.position'))
            k(name, argument, bundled, held, taken, sorted)
    loop
        branches := replace(replace(replace(branch, '{taken}', kind.taken), '{held}', kind.held), '{bundled}', kind.bundled);
        branches := replace(branches, '{order}', kind.sorted);
        select string_agg(
            replace(replace(branches, '{when}', case when leaf is null then 'else' else format('when %s then', leaf) end),
                '{messages}', 'outbox.' || case when leaf is null then 'message' else '_message_' || lpad(leaf::text, 2, '0') end),
            '' order by leaf nulls last)
        into cases
        from (select generate_series(0, 15) as leaf union all select null) l;
        execute replace(replace(replace(template, '{name}', kind.name), '{argument}', kind.argument), '{cases}', cases);
    end loop;
end
$do$;

-- API: private
-- What is known about the front of a subscription's index, and under its negative number of that of its bundles; see _pick
-- and the library's `marks`. since: microseconds, see _time. In a statement before the one that claims.
create function outbox._marks(subscription_id int, out levels int[], out since bigint[]) language c volatile strict
as 'MODULE_PATHNAME', 'outbox_marks';
-- API: private
create function outbox._set_marks(subscription_id int, levels int[], since bigint[], walked interval) returns void
language c volatile strict as 'MODULE_PATHNAME', 'outbox_set_marks';
-- API: private
create function outbox._advance_marks(subscription_id int, levels int[], since bigint[]) returns void
language c volatile strict as 'MODULE_PATHNAME', 'outbox_advance_marks';
-- API: private
-- CPU time since the marks were read, if that is much for so many deliveries: a walk over what was worked off. Not the time
-- of the clock: a claim that waits for its turn is not slow.
create function outbox._slow_walk(found int) returns interval
language c volatile strict as 'MODULE_PATHNAME', 'outbox_slow_walk';
-- API: private
-- From where on to look for bundles.
create function outbox._bundles_since(subscription_id int) returns timestamptz
language sql volatile
return coalesce(outbox._time(nullif(((outbox._marks(-subscription_id)).since)[1], 0)), '-infinity');

-- API: private
-- When the first bundle became due; null: there is none. Called with the settings of claim().
create function outbox._first_bundle(subscription_id int) returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    since timestamptz := outbox._bundles_since(subscription_id);
begin
    return (
        select b.due_at from outbox._bundle b
        where b.subscription_id = _first_bundle.subscription_id and b.lease is null and b.due_at >= since
        order by b.due_at, b.id
        limit 1
    );
end
$$;

-- API: private
-- Up to `wanted` deliveries that are due, locked; when each was tried last; the leaf of their messages, null: of several.
-- Called with the settings of claim().
--
-- Priorities one by one, highest first: within one, the front of the index is what is due, and what is not yet due ends the
-- walk. A snapshot that somebody holds keeps the entries of what was worked off, and they are at the front, too. Where
-- walking over them has become slow, it is remembered which priorities there are and from where on to look in each. Whatever
-- can be claimed again, or for the first time by another way than the router's, has to be told to _put_back().
--
-- before: when the first bundle became due: of what became due later nothing is picked; infinity: there is none, or it is
-- not looked for.
create function outbox._pick(
    subscription_id int,
    wanted int,
    bundles boolean,
    out ids bigint[],
    out tried timestamptz[],
    out segment smallint,
    out before timestamptz
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    level int := 32768;
    found_ids bigint[];
    found_tried timestamptz[];
    first_segment smallint;
    last_segment smallint;
    mixed boolean := false;
    last_due timestamptz;
    now timestamptz := clock_timestamp();
    marks record;
    known int := 0;
    bundles_since timestamptz;
    levels int[] := '{}';
    since bigint[] := '{}';
    complete boolean := false;
    since_then timestamptz := '-infinity';
begin
    ids := '{}';
    tried := '{}';
    before := case when not bundles then 'infinity'::timestamptz end;
    marks := outbox._marks(subscription_id);
    loop
        if before is null and marks.levels is not null then
            before := coalesce(outbox._first_bundle(subscription_id), 'infinity');
        end if;
        if marks.levels is not null then
            known := known + 1;
            exit when known > cardinality(marks.levels);
            level := marks.levels[known];
            if level = 99999 then
                -- There are more, and now they are needed: on from here as if nothing were known.
                marks.levels := null;
                level := coalesce(levels[cardinality(levels)], 32768);
                since_then := '-infinity';
            else
                since_then := case when marks.since[known] > 0 then outbox._time(marks.since[known]) else '-infinity' end;
            end if;
        end if;
        if marks.levels is null and before is null then
            -- Two looks in one statement: beginning one costs more than the look.
            bundles_since := outbox._bundles_since(subscription_id);
            select (
                select d.priority from outbox.delivery d
                where d.subscription_id = _pick.subscription_id and d.pull and d.state <> 'processing' and not d.blocked
                order by d.priority desc
                limit 1
            ), (
                select b.due_at from outbox._bundle b
                where b.subscription_id = _pick.subscription_id and b.lease is null and b.due_at >= bundles_since
                order by b.due_at, b.id
                limit 1
            ) into level, before;
            before := coalesce(before, 'infinity');
            complete := level is null;
            exit when complete;
        elsif marks.levels is null then
            select d.priority into level
            from outbox.delivery d
            where d.subscription_id = _pick.subscription_id and d.pull and d.state <> 'processing' and not d.blocked
                and d.priority < level
            order by d.priority desc
            limit 1;
            complete := not found;
            exit when complete;
        end if;
        -- bundles have priority 0
        exit when level < 0 and before < 'infinity';
        select array_agg(p.id), array_agg(p.last_attempt_at), min(p.message_segment), max(p.message_segment), max(p.due_at)
        into found_ids, found_tried, first_segment, last_segment, last_due
        from (
            select d.id, d.due_at, d.last_attempt_at, d.message_segment from outbox.delivery d
            where d.subscription_id = _pick.subscription_id and d.pull and d.state <> 'processing' and not d.blocked
                and d.priority = level and d.due_at <= case level when 0 then least(now, before) else now end
                and d.due_at >= since_then
                and (d.expires_at is null or d.expires_at > now)
                and not exists (select from outbox.cancelled c where c.message_id = d.message_id)
            order by d.due_at, d.position
            limit wanted - cardinality(ids)
            for update of d skip locked
        ) p;
        if found_ids is not null then
            ids := ids || found_ids;
            tried := tried || found_tried;
            mixed := mixed or first_segment <> last_segment or segment <> first_segment;
            segment := first_segment;
        end if;
        levels := levels || level;
        -- rows become visible a little after they became due; those behind the bundle were not looked at
        since := since || outbox._us(least(before, greatest(since_then, coalesce(last_due, now - interval '1 s'))));
        exit when cardinality(ids) >= wanted;
    end loop;
    if marks.levels is not null then
        perform outbox._advance_marks(subscription_id, levels, since);
    elsif outbox._slow_walk(cardinality(ids)) is not null then
        if cardinality(levels) = 0 then
            -- Nothing but entries of what was worked off: what comes now has priority 0, as a rule.
            levels := '{0}';
            since := array[outbox._us(least(before, now - interval '1 s'))];
        end if;
        perform outbox._set_marks(subscription_id, case when complete then levels else levels || 99999 end,
            case when complete then since else since || 0::bigint end, outbox._slow_walk(cardinality(ids)));
    end if;
    if mixed then
        segment := null;
    end if;
end
$$;

-- API: private
-- What _pick_one() needs to know of the subscription of this name beforehand; null: this session has not claimed from it
-- yet. level, since, bundles_since: its marks, if there are any.
create function outbox._marks_of(
    name text,
    out subscription_id int,
    out level int,
    out since bigint,
    out bundles_since bigint
) language c volatile as 'MODULE_PATHNAME', 'outbox_marks_of';
-- API: private
-- Tells the session which subscription has that name.
create function outbox._note_name(name text, subscription_id int) returns void
language c volatile strict as 'MODULE_PATHNAME', 'outbox_note_name';
-- API: private
-- After one delivery was found that is due since then: moves the mark on, or makes one if that took so much CPU time.
create function outbox._note_one(subscription_id int, level int, due_at timestamptz, marked boolean, slow_us int)
returns void language c volatile strict as 'MODULE_PATHNAME', 'outbox_note_one';

-- API: private
-- What claiming one message mostly is, in one statement: the subscription, and the delivery that _pick() would pick. No id:
-- _pick() has to look. Called with the settings of claim().
create function outbox._pick_one(
    name text,
    out source_id int,
    out budget int,
    out deadline interval,
    out ids bigint[],
    out tried timestamptz[],
    out segment smallint
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    now timestamptz := clock_timestamp();
    marks record := outbox._marks_of(name);
    since timestamptz := coalesce(outbox._time(nullif(marks.since, 0)), '-infinity');
    bundles_since timestamptz := coalesce(outbox._time(nullif(marks.bundles_since, 0)), '-infinity');
    picked record;
begin
    select s.max_attempts, s.deadline, f.level, f.bundle_due_at, p.* into picked
    from outbox.subscription s
    cross join lateral (
        select coalesce(marks.level, (
            select d.priority from outbox.delivery d
            where d.subscription_id = s.id and d.pull and d.state <> 'processing' and not d.blocked
            order by d.priority desc
            limit 1
        )) as level, (
            select b.due_at from outbox._bundle b
            where b.subscription_id = s.id and b.lease is null and b.due_at >= bundles_since
            order by b.due_at, b.id
            limit 1
        ) as bundle_due_at
    ) f
    cross join lateral (
        select d.id, d.last_attempt_at, d.message_segment, d.due_at from outbox.delivery d
        where d.subscription_id = s.id and d.pull and d.state <> 'processing' and not d.blocked
            and d.priority = f.level and (f.level >= 0 or f.bundle_due_at is null)
            and d.due_at <= case f.level when 0 then least(now, f.bundle_due_at) else now end
            and d.due_at >= since
            and (d.expires_at is null or d.expires_at > now)
            and not exists (select from outbox.cancelled c where c.message_id = d.message_id)
        order by d.due_at, d.position
        limit 1
        for update of d skip locked
    ) p
    where s.id = marks.subscription_id and s.name = _pick_one.name and s.deleted_at is null and s.endpoint_id is null
        and not s.paused;
    if picked.id is not null then
        source_id := marks.subscription_id;
        budget := picked.max_attempts;
        deadline := picked.deadline;
        ids := array[picked.id];
        tried := array[picked.last_attempt_at];
        segment := picked.message_segment;
        perform outbox._note_one(source_id, picked.level, least(picked.due_at, picked.bundle_due_at),
            marks.level is not null, 150);
    end if;
end
$$;

-- API: private
-- Whole bundles with `wanted` deliveries or fewer, locked; the deliveries in them, and the leaf of their messages. Where the
-- first has more, what is wanted is split off, or it is taken apart if that is a few. first_due: when the first became due.
-- Called with the settings of claim().
create function outbox._pick_bundles(
    subscription_id int,
    wanted int,
    first_due timestamptz,
    out bundles bigint[],
    out ids bigint[],
    out segment smallint
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    next record;
    part bigint;
    now timestamptz := clock_timestamp();
    rows_due timestamptz;
    remembered boolean := false;
    since timestamptz := outbox._bundles_since(subscription_id);
begin
    bundles := '{}';
    ids := '{}';
    -- Rows that are due later come after the first bundle, but before others.
    select d.due_at into rows_due
    from outbox.delivery d
    where d.subscription_id = _pick_bundles.subscription_id and d.pull and d.state <> 'processing' and not d.blocked
        and d.priority = 0 and d.due_at >= first_due and d.due_at <= now
    order by d.due_at, d.position
    limit 1;
    for next in
        -- a bundle has at most 100 deliveries
        select b.id, b.due_at, b.delivery_ids, b.message_segment,
            exists (
                select from outbox.cancelled c where c.message_id between lower(b.messages) and upper(b.messages)
            ) as cancelled
        from outbox._bundle b
        where b.subscription_id = _pick_bundles.subscription_id and b.lease is null and b.due_at >= since
        order by b.due_at, b.id
        limit greatest(wanted / 100, 1)
        for update of b skip locked
    loop
        if not remembered and outbox._slow_walk(0) is not null then
            perform outbox._set_marks(-subscription_id, array[0], array[outbox._us(next.due_at)], outbox._slow_walk(0));
        end if;
        remembered := true;
        if cardinality(ids) = 0 and cardinality(next.delivery_ids) > wanted and wanted >= 10 and not next.cancelled then
            insert into outbox._bundle (subscription_id, due_at, message_segment, deliveries, messages, delivery_ids,
                positions, message_ids)
            select b.subscription_id, b.due_at, b.message_segment, b.deliveries, b.messages, b.delivery_ids[:wanted],
                b.positions[:wanted], b.message_ids[:wanted]
            from outbox._bundle b where b.id = next.id
            returning id into part;
            -- What has not changed are the columns that indexes are on: the new version stays in its page.
            update outbox._bundle b
            set delivery_ids = b.delivery_ids[wanted + 1 :], positions = b.positions[wanted + 1 :],
                message_ids = b.message_ids[wanted + 1 :]
            where b.id = next.id;
            perform outbox._put_back(-subscription_id, 0, next.due_at);
            bundles := array[part];
            ids := next.delivery_ids[:wanted];
            segment := next.message_segment;
            return;
        end if;
        if next.cancelled or cardinality(ids) = 0 and cardinality(next.delivery_ids) > wanted then
            perform outbox._unbundle(array[next.id]);
            continue;
        end if;
        exit when cardinality(ids) + cardinality(next.delivery_ids) > wanted or next.message_segment <> segment
            or cardinality(ids) > 0 and next.due_at > rows_due;
        segment := next.message_segment;
        bundles := bundles || next.id;
        ids := ids || next.delivery_ids;
    end loop;
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
    source outbox.subscription;
    picked record;
    bundles record;
begin
    -- Functions are called for what is wrong only: in a claim of one message each would be a good part of its price.
    if max_messages = 1 and octet_length(worker) between 1 and 255 and lease between interval '1 us' and interval '7 days' then
        picked := outbox._pick_one(subscription);
        if picked.ids is not null then
            return query select *
            from outbox._lease(picked.source_id, subscription, picked.budget, picked.deadline, picked.ids, picked.tried,
                picked.segment, worker, lease);
            return;
        end if;
    end if;
    select * into source from outbox.subscription s where s.name = subscription and s.deleted_at is null;
    if source.id is null or source.endpoint_id is not null then
        source := outbox._pull_subscription(subscription);
    end if;
    if (octet_length(worker) between 1 and 255 and max_messages between 1 and 10000 and lease > interval '0'
        and lease <= interval '7 days') is not true then
        perform outbox._check_claim(worker, max_messages, lease);
    end if;
    if source.paused then
        return;
    end if;
    if max_messages = 1 then
        perform outbox._note_name(subscription, source.id);
    end if;
    picked := outbox._pick(source.id, max_messages, true);
    -- Where no dispatcher can do it, whoever finds nothing looks for more: only in a transaction without an xid, see _tick.
    if cardinality(picked.ids) = 0 and picked.before = 'infinity' and pg_current_xact_id_if_assigned() is null
        and outbox._route_inline() in ('ticked', 'idle') then
        perform outbox._pass(1000, '{}');
        perform outbox._replay_inline(source.id);
        picked := outbox._pick(source.id, max_messages, true);
    end if;
    if cardinality(picked.ids) = 0 and picked.before < 'infinity' then
        bundles := outbox._pick_bundles(source.id, max_messages, picked.before);
        if cardinality(bundles.ids) > 0 then
            return query select *
            from outbox._lease_bundles(source.id, source.name, source.max_attempts, source.deadline, bundles.ids,
                bundles.bundles, bundles.segment, worker, lease);
            return;
        end if;
        -- It was taken apart, or somebody else has it.
        picked := outbox._pick(source.id, max_messages, false);
    end if;
    if cardinality(picked.ids) > 0 then
        return query select *
        from outbox._lease(source.id, source.name, source.max_attempts, source.deadline, picked.ids, picked.tried,
            picked.segment, worker, lease);
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
    if exists (select from outbox._bundle b where b.subscription_id = source.id and b.lease is null) then
        return 'ready';
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
        -- a bundle's deliveries lie within 10,000
        where a.delivery_id between _raise_ended.delivery_id - 9999 and _raise_ended.delivery_id
            and (a.delivery_id = _raise_ended.delivery_id or _raise_ended.delivery_id = any (a.delivery_ids))
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
    perform outbox._check_claim(worker, 1, lease);
    if delivery_id is null then
        raise exception 'delivery_id must not be null' using errcode = 'null_value_not_allowed';
    end if;
    perform outbox._unbundle_delivery(delivery_id);
    select * into wanted from outbox.delivery d where d.id = delivery_id for update;
    perform outbox._put_back(wanted.subscription_id, wanted.priority, wanted.due_at) where wanted.pull;
    if wanted.id is null then
        holder := outbox._bundle_holder(delivery_id);
        if holder.id is null then
            perform outbox._raise_ended(delivery_id);
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
    return query select *
    from outbox._lease(source.id, source.name, source.max_attempts, source.deadline, array[delivery_id],
        array[wanted.last_attempt_at],
        wanted.message_segment, worker, lease);
end
$$;
comment on function outbox.claim_delivery is
    'Leases one delivery. Raises what stands in the way: OB001 no such delivery, OB002 ended, OB003 leased, OB004 '
    'pushed, OB007 the subscription has ended, OB010 expired, OB011 no tries left, OB012 not due or behind its key';

insert into outbox._capability values
    ('consume', 'function outbox.claim'),
    ('consume', 'procedure outbox.claim_wait'),
    ('consume', 'function outbox._is_ready'),
    ('consume', 'function outbox.claim_delivery');
