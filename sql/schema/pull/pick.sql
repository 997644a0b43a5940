-- Picking: which deliveries are next, in the order of priority and due time.

-- API: private
-- When the first bundle became due; null: there is no bundle. Called with the settings of claim().
create function outbox_internal.first_bundle(subscription_id int) returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    since timestamptz := outbox_internal.bundles_since(subscription_id);
begin
    return (
        select b.due_at from outbox._bundle b
        where b.subscription_id = first_bundle.subscription_id and b.lease is null and b.due_at >= since
        order by b.due_at, b.id
        limit 1
    );
end
$$;

-- API: private
-- Picks and locks up to `wanted` due deliveries. Returns their ids, when each was tried last, and the leaf of their messages
-- (null: they are in several leaves). Called with the settings of claim().
--
-- The function scans the priorities one by one, highest first. Within a priority, the start of the index holds the
-- deliveries that are due, and the first delivery that is not yet due ends the scan. While some session holds a snapshot,
-- the index keeps the entries of deliveries that have ended, and they are at the start too. When scanning past them has
-- become slow, the function stores claim hints: which priorities there are, and the due time where the scan of each starts.
-- Therefore outbox_internal.lower_claim_hint() has to be called for every delivery that becomes claimable again, or becomes
-- claimable
-- for the first time by other means than the router.
--
-- bundles: whether bundles are considered. before: when the first bundle became due; infinity: there is no bundle, or
-- bundles are not considered. Bundles have priority 0. So of the deliveries with priority 0, only those that became due no
-- later than the first bundle are picked, and deliveries with a lower priority are not picked.
--
-- The function is long because it is not split. Every part of it reads or writes the priorities and hints, so a part would
-- take eight arguments. And a call takes about two microseconds, which is 13 % of a pick that finds nothing, and 4 % of a
-- pick of ten deliveries.
create function outbox_internal.pick(
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
    hints record;
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
    hints := outbox_internal.claim_hints(subscription_id);
    loop
        if before is null and hints.levels is not null then
            before := coalesce(outbox_internal.first_bundle(subscription_id), 'infinity');
        end if;
        if hints.levels is not null then
            known := known + 1;
            exit when known > cardinality(hints.levels);
            level := hints.levels[known];
            if level = 99999 then
                -- There are lower priorities, and now they are needed: the scan goes on from here as if there were no hints.
                hints.levels := null;
                level := coalesce(levels[cardinality(levels)], 32768);
                since_then := '-infinity';
            else
                since_then := case when hints.since[known] > 0 then outbox_internal.time(hints.since[known]) else '-infinity' end;
            end if;
        end if;
        if hints.levels is null and before is null then
            -- One statement for both queries, because starting a statement costs more than either of them.
            bundles_since := outbox_internal.bundles_since(subscription_id);
            select (
                select d.priority from outbox.delivery d
                where d.subscription_id = pick.subscription_id and d.pull and d.state <> 'processing' and not d.blocked
                order by d.priority desc
                limit 1
            ), (
                select b.due_at from outbox._bundle b
                where b.subscription_id = pick.subscription_id and b.lease is null and b.due_at >= bundles_since
                order by b.due_at, b.id
                limit 1
            ) into level, before;
            before := coalesce(before, 'infinity');
            complete := level is null;
            exit when complete;
        elsif hints.levels is null then
            select d.priority into level
            from outbox.delivery d
            where d.subscription_id = pick.subscription_id and d.pull and d.state <> 'processing' and not d.blocked
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
            where d.subscription_id = pick.subscription_id and d.pull and d.state <> 'processing' and not d.blocked
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
        -- A row becomes visible a little after it became due. Rows that became due after the first bundle were not scanned.
        since := since || outbox_internal.us(least(before, greatest(since_then, coalesce(last_due, now - interval '1 s'))));
        exit when cardinality(ids) >= wanted;
    end loop;
    if hints.levels is not null then
        perform outbox_internal.advance_claim_hints(subscription_id, levels, since);
    elsif outbox_internal.slow_walk(cardinality(ids)) is not null then
        if cardinality(levels) = 0 then
            -- The index holds only entries of deliveries that have ended. New deliveries usually have priority 0.
            levels := '{0}';
            since := array[outbox_internal.us(least(before, now - interval '1 s'))];
        end if;
        perform outbox_internal.set_claim_hints(subscription_id, case when complete then levels else levels || 99999 end,
            case when complete then since else since || 0::bigint end, outbox_internal.slow_walk(cardinality(ids)));
    end if;
    if mixed then
        segment := null;
    end if;
end
$$;

-- API: private
-- Picks and locks whole bundles with up to `wanted` deliveries together. Returns the bundles, their deliveries, and the leaf
-- of their messages. If the first bundle has more deliveries than wanted, the wanted ones are split off as a bundle of their
-- own; if fewer than 10 are wanted, the bundle is split into rows instead, and nothing is returned for it. A bundle that may
-- contain a cancelled message is split into rows too. first_due: when the first bundle became due. Called with the settings
-- of claim().
create function outbox_internal.pick_bundles(
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
    since timestamptz := outbox_internal.bundles_since(subscription_id);
begin
    bundles := '{}';
    ids := '{}';
    -- Rows that became due after the first bundle are claimed after it, but before later bundles.
    select d.due_at into rows_due
    from outbox.delivery d
    where d.subscription_id = pick_bundles.subscription_id and d.pull and d.state <> 'processing' and not d.blocked
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
        where b.subscription_id = pick_bundles.subscription_id and b.lease is null and b.due_at >= since
        order by b.due_at, b.id
        limit greatest(wanted / 100, 1)
        for update of b skip locked
    loop
        if not remembered and outbox_internal.slow_walk(0) is not null then
            perform outbox_internal.set_claim_hints(-subscription_id, array[0], array[outbox_internal.us(next.due_at)],
                outbox_internal.slow_walk(0));
        end if;
        remembered := true;
        if cardinality(ids) = 0 and cardinality(next.delivery_ids) > wanted and wanted >= 10 and not next.cancelled then
            insert into outbox._bundle (subscription_id, due_at, message_segment, deliveries, messages, delivery_ids,
                positions, message_ids)
            select b.subscription_id, b.due_at, b.message_segment, b.deliveries, b.messages, b.delivery_ids[:wanted],
                b.positions[:wanted], b.message_ids[:wanted]
            from outbox._bundle b where b.id = next.id
            returning id into part;
            -- No indexed column changes, so the new version stays on its page (HOT).
            update outbox._bundle b
            set delivery_ids = b.delivery_ids[wanted + 1 :], positions = b.positions[wanted + 1 :],
                message_ids = b.message_ids[wanted + 1 :]
            where b.id = next.id;
            perform outbox_internal.lower_claim_hint(-subscription_id, 0, next.due_at);
            bundles := array[part];
            ids := next.delivery_ids[:wanted];
            segment := next.message_segment;
            return;
        end if;
        if next.cancelled or cardinality(ids) = 0 and cardinality(next.delivery_ids) > wanted then
            perform outbox_internal.unbundle(array[next.id]);
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
