-- Picking: which deliveries are next, in the order of priority and time.

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
