-- Space: rotation, reclaim, retention.
--
--   * A ring's pointer moves on when the current leaf has been written for its share of the retention, or is larger than
--     pg_outbox.segment_size, or by rotate(). It moves to an empty leaf only: if there is none, the current one grows.
--   * The pointer never leaves an empty leaf, and a leaf is emptied only after the sequencer has passed it. So between two
--     ticks the pointer cannot come round.
--   * A leaf is emptied by TRUNCATE, whose lock is taken without waiting: nobody queues behind it. It works under any
--     snapshot that somebody holds.
--   * Before a leaf of messages goes, everybody must be behind it: the dispatcher, each subscription, replays. The few
--     messages that a delivery or dead letter waits with are copied to _message_kept.
--   * The feed outlives the messages that it names; routing outlives them as well.

-- API: private
-- A setting of time; null when it is zero or negative: for ever.
create function outbox._retention(setting text) returns interval
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    value interval;
begin
    -- loads the library, which defines the settings
    perform outbox._database_oid();
    value := nullif(current_setting('pg_outbox.' || setting, true), '')::interval;
    return case when value > interval '0' then value end;
end
$$;

-- API: private
create function outbox._ring_retention(ring text) returns interval
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select outbox._retention(case ring
        when 'message' then 'message_retention'
        when 'feed' then 'feed_retention'
        when 'attempt' then 'attempt_retention'
        when 'routing' then 'attempt_retention'
        when 'tick' then 'tick_retention'
        when 'checkpoint' then 'checkpoint_retention'
    end);
end;

-- API: private
create function outbox._leaf(ring text, leaf int) returns regclass
language sql stable
set search_path = pg_catalog, pg_temp
return format('outbox._%s_%s', ring, lpad(leaf::text, 2, '0'))::regclass;

-- API: private
-- Takes ACCESS EXCLUSIVE on a leaf until the transaction ends, without waiting for it.
create function outbox._lock_leaf(leaf regclass) returns boolean language c volatile strict
as 'MODULE_PATHNAME', 'outbox_lock_leaf';

-- API: private
-- Whoever rotates, reclaims and trims has it, until the transaction ends; does not wait.
create function outbox._maintenance_lock() returns boolean language c volatile
as 'MODULE_PATHNAME', 'outbox_maintenance_lock';

-- API: private
-- Tries for a fifth of a second. Never queues: whoever queues for this lock makes everybody else queue behind it.
create function outbox._lock_leaf_patiently(leaf regclass) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    for i in 1 .. 20 loop
        if outbox._lock_leaf(leaf) then
            return true;
        end if;
        perform pg_sleep(0.01);
    end loop;
    return false;
end
$$;

-- API: private
-- Who keeps a leaf from being truncated: for job.held_by and health().
create function outbox._lock_holders(leaf regclass) returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select string_agg(distinct coalesce(
        format('session %s (%s, %s, in a transaction since %s)', a.pid, a.usename,
            coalesce(nullif(a.application_name, ''), '-'), a.xact_start::timestamptz(0)),
        'a prepared transaction'), ', ')
    from pg_locks l
    left join pg_stat_activity a on a.pid = l.pid
    where l.relation = leaf and l.database = outbox._database_oid() and l.granted
        and l.pid is distinct from pg_backend_pid();
end;

-- API: private
-- The leaf that is written now.
create function outbox._current_leaf(ring text) returns smallint
language sql volatile
set search_path = pg_catalog, pg_temp
return coalesce(pg_sequence_last_value(format('outbox._%s_segment', ring)::regclass), 0)::smallint;

-- API: private
-- Makes outbox.segment agree with the pointers, which are not transactional: a transaction that moved one and then failed
-- has moved it all the same.
create function outbox._note_segments() returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.segment as s (ring, leaf)
    select r.name, outbox._current_leaf(r.name) from outbox._ring r
    where not exists (
        select from outbox.segment k
        where k.ring = r.name and k.leaf = outbox._current_leaf(r.name) and k.closed_at is null
    )
    on conflict (ring, leaf) do update
    set opened_at = excluded.opened_at, closed_at = null, last_position = null, reclaimed_at = null, kept = null;

    update outbox.segment s set closed_at = clock_timestamp()
    where s.closed_at is null and s.leaf <> outbox._current_leaf(s.ring);
end;

-- API: private
-- Moves a ring's pointer if it is time, or `now_` says so. What happened: rotated, not yet, empty (nothing was written to the
-- current leaf), full (the next leaf still holds rows).
create function outbox._rotate(ring text, now_ boolean) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    leaves int;
    current smallint := outbox._current_leaf(ring);
    next int;
    since timestamptz;
    share interval;
    size_limit bigint;
begin
    select r.leaves into leaves from outbox._ring r where r.name = ring;
    next := (current + 1) % leaves;
    if pg_relation_size(outbox._leaf(ring, current)) = 0 then
        return 'empty';
    end if;
    select s.opened_at into since from outbox.segment s where s.ring = ring and s.leaf = current;
    -- Two leaves of the ring are not part of the retention: the one that is written and the one that is next.
    share := outbox._ring_retention(ring) / (leaves - 2);
    size_limit := coalesce(pg_size_bytes(current_setting('pg_outbox.segment_size', true)), 0);
    if not (
        now_
        or coalesce(clock_timestamp() >= since + share, false)
        or size_limit > 0 and pg_total_relation_size(outbox._leaf(ring, current)) >= size_limit
    ) then
        return 'not yet';
    end if;
    if pg_relation_size(outbox._leaf(ring, next)) > 0 then
        return 'full';
    end if;
    if ring = 'feed' and not outbox._sequencer_lock() then
        -- A tick that has read the pointer would write behind the position that is noted below.
        return 'not yet';
    end if;
    perform setval(format('outbox._%s_segment', ring)::regclass, next);
    perform outbox._note_segments();
    if ring in ('feed', 'routing') then
        update outbox.segment s set last_position = outbox.head() where s.ring = ring and s.leaf = current;
    end if;
    return 'rotated';
end
$$;

-- API: private
-- Closed leaves of messages get the position behind which nothing of theirs lies, once the sequencer has passed them: of the
-- last row of the feed that names them, which is near the end of the feed now. If it is not, the end will do.
create function outbox._seal() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    state outbox.tick;
    current smallint := outbox._current_leaf('message');
begin
    select * into state from outbox.tick t order by t.id desc limit 1;
    if state.id is null or state.done_id is not null then
        return;
    end if;
    update outbox.segment s
    set last_position = coalesce(
        (
            select n.last_position
            from (
                select f.last_position, f.message_segment from outbox.feed f
                where f.first_position <= state.last_position
                order by f.first_position desc limit 10000
            ) n
            where n.message_segment = s.leaf
            limit 1
        ),
        state.last_position)
    where s.ring = 'message' and s.closed_at is not null and s.last_position is null
        and s.leaf <> all (state.leaves)
        -- nor one that was written since that tick
        and (s.leaf - state.leaf + 16) % 16 > (current - state.leaf + 16) % 16;
end
$$;

-- API: private
-- Who still needs messages behind a position, deliveries that have a row apart: those are kept one by one.
create function outbox._needed() returns table (holder text, "position" bigint, max_lag interval, subscription_id int)
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    with last as materialized (
        select * from outbox.checkpoint c order by c.id desc limit 1
    )
    -- Not routed yet, while there is anybody to be routed to.
    select 'the dispatcher', coalesce((select c."position" from last c), 0), null::interval, null::int
    where exists (select from outbox.subscription s where s.deleted_at is null)
    union all
    select format('subscription "%s"', s.name), least(l."position", o."position"), s.max_lag, s.id
    from last c
    cross join lateral unnest(c.lag_subscriptions, c.lag_positions) l(id, "position")
    join outbox.subscription s on s.id = l.id and s.deleted_at is null
    left join lateral (
        select min(u."position") - 1 as "position"
        from unnest(c.open_subscriptions, c.open_positions) u(id, "position") where u.id = l.id
    ) o on true
    union all
    select format('replay %s', r.id), r."position", null, null
    from outbox.replay r
    where r.state = 'running'
    union all
    select format('cursor of consumer "%s"', k.consumer), k."position", null, null
    from outbox.cursor k
    where k.stream = 'outbox' and coalesce(current_setting('pg_outbox.retain_for_cursors', true), 'off')::boolean;
end;

-- API: private
-- Empties the oldest leaf of a ring, if it may go. Returns what it did or what keeps it.
create function outbox._reclaim(ring text, ignore_age boolean, out result text, out freed bigint, out held_by text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    -- Above this the leaf stays: copying would no longer be "a few".
    keep_limit constant int := 100000;
    oldest outbox.segment;
    leaf regclass;
    retention interval := outbox._ring_retention(ring);
    holders text;
    copied bigint;
    needed record;
begin
    freed := 0;
    select * into oldest from outbox.segment s
    where s.ring = ring and s.closed_at is not null and s.reclaimed_at is null
    order by s.closed_at limit 1;
    if oldest.ring is null then
        result := 'nothing to reclaim';
        return;
    end if;
    leaf := outbox._leaf(ring, oldest.leaf);
    if not ignore_age and (retention is null or clock_timestamp() < oldest.closed_at + retention) then
        result := case when retention is null then 'kept for ever' else 'not yet' end;
        return;
    end if;
    if ring = 'message' then
        if oldest.last_position is null then
            result := 'held';
            held_by := coalesce('the sequencer has not passed it: ' || outbox._lock_holders(leaf),
                'the sequencer has not passed it');
            return;
        end if;
        select string_agg(n.holder || ' at position ' || n."position", ', ' order by n."position") into holders
        from outbox._needed() n
        where n."position" < oldest.last_position
            and (n.max_lag is null or oldest.closed_at > clock_timestamp() - n.max_lag);
        if holders is not null then
            result := 'held';
            held_by := left(holders, 1000);
            return;
        end if;
    elsif ring in ('feed', 'routing') and coalesce(oldest.last_position, 9223372036854775807) >= outbox.tail() then
        result := 'held';
        held_by := 'messages that it names are still stored';
        return;
    elsif ring = 'tick' and (select t.segment from outbox.tick t order by t.id desc limit 1) = oldest.leaf
        or ring = 'checkpoint' and (select c.segment from outbox.checkpoint c order by c.id desc limit 1) = oldest.leaf then
        result := 'not yet';
        return;
    end if;
    -- Before the leaf's own lock, which must not be held while waiting for anything.
    if ring in ('tick', 'feed') and not outbox._sequencer_lock() then
        result := 'not yet';
        return;
    end if;
    if ring = 'message' then
        -- Also before: it may wait for a worker that is claiming.
        copied := outbox._keep_messages(oldest.leaf, keep_limit);
        if copied is null then
            result := 'held';
            held_by := format('more than %s deliveries and dead letters that wait', keep_limit);
            return;
        end if;
    end if;
    if not outbox._lock_leaf_patiently(leaf) then
        result := 'held';
        held_by := coalesce(outbox._lock_holders(leaf), 'a session that reads it');
        return;
    end if;
    -- Nothing is written to it any more; what the last row is, is looked at again with the lock.
    if ring = 'tick' and (select t.segment from outbox.tick t order by t.id desc limit 1) = oldest.leaf
        or ring = 'checkpoint' and (select c.segment from outbox.checkpoint c order by c.id desc limit 1) = oldest.leaf then
        result := 'not yet';
        return;
    end if;
    if ring = 'message' then
        -- A replay may have made new ones meanwhile.
        if outbox._keep_messages(oldest.leaf, 0) is null then
            result := 'not yet';
            return;
        end if;
        for needed in
            select * from outbox._needed() n where n."position" < oldest.last_position and n.subscription_id is not null
        loop
            perform outbox._record_lag_expired(needed.subscription_id, needed."position" + 1, oldest.last_position,
                needed.max_lag);
        end loop;
        -- First, so that a reader whose messages vanish under it sees why.
        perform setval('outbox._reclaimed', greatest(oldest.last_position, outbox.tail() - 1));
    end if;
    freed := pg_total_relation_size(leaf);
    execute format('truncate only %s', leaf);
    update outbox.segment s set reclaimed_at = clock_timestamp(), kept = copied
    where s.ring = ring and s.leaf = oldest.leaf;
    result := 'reclaimed';
end
$$;

-- API: private
-- Copies what deliveries and dead letters wait with; null when it is more than `at_most`.
create function outbox._keep_messages(leaf smallint, at_most int) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    ids bigint[];
begin
    ids := array(
        select u.message_id from (
            select d.message_id from outbox.delivery d where d.message_segment = leaf
            union
            select l.message_id from outbox.dead_letter l
            where l.message_segment = leaf and l.resolution in ('open', 'requeued')
        ) u
        limit at_most + 1
    );
    if cardinality(ids) > at_most then
        return null;
    end if;
    -- A number that a leaf has is used again every time round: older rows with it wait for messages that are kept already.
    insert into outbox._message_kept
    select (-1)::smallint, m.id, m.xid, m.enqueued_at, m.deliver_at, m.expires_at, m.occurred_at, m.max_attempts, m.priority,
        m.topic, m.key, m.tenant, m.aggregate_type, m.aggregate_id, m.publisher, m.idempotency_key, m.content_type,
        m.headers, m.metadata, m.payload, m.body
    from outbox.message m
    where m.segment = leaf and m.id = any (ids)
    on conflict (id) do nothing;
    update outbox.delivery d set message_segment = -1 where d.message_segment = leaf and d.message_id = any (ids);
    update outbox.dead_letter l set message_segment = -1 where l.message_segment = leaf and l.message_id = any (ids);
    return cardinality(ids);
end
$$;

-- API: private
-- One row in the log for a stretch of the feed that a subscription with a max_lag has missed.
create function outbox._record_lag_expired(subscription_id int, from_position bigint, to_position bigint, max_lag interval)
returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.attempt (segment, "position", message_id, started_at, finished_at, run, subscription_id, attempt,
        outcome, error_class, error, results)
    values (outbox._current_leaf('attempt'), from_position, 0, clock_timestamp(), clock_timestamp(), 0, subscription_id, 0,
        'expired', 'max_lag', format('positions %s to %s: older than the subscription''s max_lag of %s', from_position,
            to_position, max_lag),
        jsonb_build_object('from', from_position, 'to', to_position));
end;

-- API: private
-- Adds a leaf of counters to the totals and empties it.
create function outbox._roll_up() returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    closed record;
    rolled bigint := 0;
begin
    perform outbox._rotate('counter', true);
    for closed in
        select s.leaf from outbox.segment s where s.ring = 'counter' and s.closed_at is not null and s.reclaimed_at is null
    loop
        if outbox._lock_leaf_patiently(outbox._leaf('counter', closed.leaf)) then
            with sums as (
                select c.subscription_id, coalesce(c.endpoint_id, 0) as endpoint_id, c.outcome,
                    sum(c.requests)::bigint as requests, sum(c.deliveries)::bigint as deliveries, sum(c.seconds) as seconds,
                    max(c.last_at) as last_at
                from outbox.counter c where c.segment = closed.leaf
                group by 1, 2, 3
            )
            insert into outbox.counter_total as t
            select * from sums
            on conflict (subscription_id, endpoint_id, outcome) do update
            set requests = t.requests + excluded.requests, deliveries = t.deliveries + excluded.deliveries,
                seconds = t.seconds + excluded.seconds, last_at = greatest(t.last_at, excluded.last_at);
            execute format('truncate only %s', outbox._leaf('counter', closed.leaf));
            update outbox.segment s set reclaimed_at = clock_timestamp() where s.ring = 'counter' and s.leaf = closed.leaf;
            rolled := rolled + 1;
        end if;
    end loop;
    return rolled;
end
$$;

-- API: private
-- Notes a job's run.
create function outbox._note_job(job text, result text, rows bigint, bytes bigint, held_by text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.job as j (job, last_run_at, next_run_at, result, rows, bytes, held_by)
    values (_note_job.job, clock_timestamp(), clock_timestamp() + coalesce(outbox._retention('retention_interval'), '1 h'),
        _note_job.result, _note_job.rows, _note_job.bytes, _note_job.held_by)
    on conflict (job) do update
    set last_run_at = excluded.last_run_at, next_run_at = excluded.next_run_at, result = excluded.result,
        rows = case when excluded.rows > 0 then excluded.rows else j.rows end,
        bytes = case when excluded.bytes > 0 then excluded.bytes else j.bytes end,
        held_by = excluded.held_by;
end;

-- API: private
-- Removes at most `batch` rows of what a small table has had for longer than `older_than`; null: for ever.
create function outbox._trim(what text, older_than interval, batch int) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    removed bigint := 0;
    before timestamptz := clock_timestamp() - older_than;
begin
    if older_than is null and what <> 'kept' then
        return 0;
    end if;
    case what
        when 'dead_letters' then
            delete from outbox.dead_letter l
            where l.id = any (array(
                select d.id from outbox.dead_letter d
                where d.resolution in ('resolved', 'ignored') and d.resolved_at < before
                order by d.resolved_at limit batch
            ));
        when 'unresolved_dead_letters' then
            delete from outbox.dead_letter l
            where l.id = any (array(
                select d.id from outbox.dead_letter d
                where d.resolution in ('open', 'requeued') and d.dead_at < before
                order by d.dead_at limit batch
            ));
        when 'audit' then
            delete from outbox.audit a
            where a.id = any (array(select b.id from outbox.audit b where b.at < before order by b.id limit batch));
        when 'cancelled' then
            delete from outbox.cancelled c
            where c.message_id = any (array(
                select k.message_id from outbox.cancelled k
                where k.cancelled_at < before and not exists (select from outbox.message m where m.id = k.message_id)
                limit batch
            ));
        when 'kept' then
            -- what nothing waits with any more
            delete from outbox._message_kept k
            where k.id = any (array(
                select m.id from outbox._message_kept m
                where not exists (select from outbox.delivery d where d.message_id = m.id)
                    and not exists (
                        select from outbox.dead_letter l
                        where l.message_id = m.id and l.resolution in ('open', 'requeued')
                    )
                limit batch
            ));
    end case;
    get diagnostics removed = row_count;
    return removed;
end
$$;
create index dead_letter_resolved on outbox.dead_letter (resolved_at) where resolution in ('resolved', 'ignored');

-- API: private
-- The small tables and their settings.
create function outbox._trimmed() returns table (job text, setting text)
language sql immutable
set search_path = pg_catalog, pg_temp
begin atomic
    values ('dead_letters', 'dead_letter_retention'), ('unresolved_dead_letters', 'unresolved_dead_letter_retention'),
        ('audit', 'audit_retention'), ('cancelled', 'message_retention'), ('kept', null);
end;

-- API: private
-- One round of maintenance. `everything`: without regard to when a job is due next. Returns what it did; `more` where a job
-- has more to do than one round does. No rows: another session maintains.
create function outbox._maintain(everything boolean)
returns table (job text, result text, rows bigint, bytes bigint, held_by text, more boolean)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    batch constant int := 1000;
    ring text;
    done record;
    trimmed record;
    due timestamptz;
begin
    -- Data that is not this database's own is left as it is, and so is a database into which a restore may be about to load.
    if not outbox._maintenance_lock() or not outbox._identity_is_genuine() or not exists (select from outbox.tick) then
        return;
    end if;
    perform outbox._note_segments();
    perform outbox._seal();
    -- Messages before the feed that names them.
    foreach ring in array array['message', 'feed', 'attempt', 'routing', 'tick', 'checkpoint'] loop
        job := ring;
        rows := 0;
        result := outbox._rotate(ring, false);
        select * into done from outbox._reclaim(ring, false);
        bytes := done.freed;
        held_by := done.held_by;
        more := done.result = 'reclaimed';
        if done.result = 'reclaimed' or done.result = 'held' then
            result := done.result;
        elsif result <> 'rotated' then
            result := done.result;
        end if;
        select j.next_run_at into due from outbox.job j where j.job = ring;
        if everything or result in ('rotated', 'reclaimed') or coalesce(due, '-infinity') <= clock_timestamp() then
            perform outbox._note_job(job, result, rows, bytes, held_by);
            return next;
        end if;
    end loop;
    bytes := 0;
    held_by := null;
    job := 'counters';
    select j.next_run_at into due from outbox.job j where j.job = 'counters';
    rows := outbox._roll_up() + outbox._roll_up_tally();
    if rows > 0 or everything then
        result := 'rolled up';
        more := false;
        return next;
    end if;
    for trimmed in select * from outbox._trimmed() loop
        select j.next_run_at into due from outbox.job j where j.job = trimmed.job;
        if everything or coalesce(due, '-infinity') <= clock_timestamp() then
            job := trimmed.job;
            rows := outbox._trim(trimmed.job, outbox._retention(trimmed.setting), batch);
            more := rows = batch;
            result := case
                when rows > 0 then 'removed'
                when trimmed.setting is not null and outbox._retention(trimmed.setting) is null then 'kept for ever'
                else 'nothing to remove'
            end;
            perform outbox._note_job(job, result, rows, 0, null);
            if more then
                update outbox.job j set next_run_at = clock_timestamp() where j.job = trimmed.job;
            end if;
            return next;
        end if;
    end loop;
end
$$;

-- API: public
create function outbox.maintain() returns table (job text, result text, rows bigint, bytes bigint, held_by text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    done record;
    again boolean;
begin
    if pg_current_xact_id_if_assigned() is null then
        -- so that what the sequencer has yet to pass does not hold space
        perform outbox._tick_inline(100000);
    end if;
    for i in 1 .. 10000 loop
        again := false;
        for done in select * from outbox._maintain(true) loop
            again := again or done.more;
            if i = 1 or done.more or done.rows > 0 then
                job := done.job;
                result := done.result;
                rows := done.rows;
                bytes := done.bytes;
                held_by := done.held_by;
                return next;
            end if;
        end loop;
        exit when not again;
    end loop;
end
$$;
comment on function outbox.maintain is
    'Rotates, reclaims and trims now whatever the settings allow, and says what it did. The dispatcher does this by itself';

-- API: public
create function outbox.rotate(ring text default 'message') returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
    if not exists (select from outbox._ring r where r.name = ring) then
        raise exception 'ring "%" does not exist', ring using errcode = 'OB001',
            hint = format('The rings are %s.', (select string_agg(r.name, ', ' order by r.name) from outbox._ring r));
    end if;
    lock table outbox._maintenance in exclusive mode;
    perform outbox._note_segments();
    return outbox._rotate(ring, true);
end
$$;
comment on function outbox.rotate is
    'Has new rows go to the next leaf now: rotated, empty (nothing to leave behind) or full (the next leaf still holds rows)';

-- API: public
create function outbox.purge(
    what text,
    older_than interval,
    include_unresolved boolean default false,
    dry_run boolean default false,
    out rows bigint,
    out bytes bigint
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
#variable_conflict use_variable
declare
    ring text := case what when 'completed' then 'message' when 'attempts' then 'attempt' end;
    done record;
    removed bigint;
    part text;
begin
    rows := 0;
    bytes := 0;
    if older_than is null or older_than <= interval '0' then
        -- as everywhere: for ever
        return;
    end if;
    lock table outbox._maintenance in exclusive mode;
    perform outbox._note_segments();
    perform outbox._seal();
    if ring is not null then
        -- Whole segments, oldest first.
        if dry_run then
            select coalesce(sum(pg_total_relation_size(outbox._leaf(s.ring, s.leaf))), 0),
                coalesce(sum(greatest(k.reltuples, 0))::bigint, 0)
            into bytes, rows
            from outbox.segment s
            join pg_class k on k.oid = outbox._leaf(s.ring, s.leaf)
            where s.ring = ring and s.closed_at <= clock_timestamp() - older_than and s.reclaimed_at is null
                and (ring <> 'message' or s.last_position <= coalesce((select min(n."position") from outbox._needed() n),
                    s.last_position));
            return;
        end if;
        loop
            exit when not exists (
                select from (
                    select * from outbox.segment s
                    where s.ring = ring and s.closed_at is not null and s.reclaimed_at is null
                    order by s.closed_at limit 1
                ) o
                where o.closed_at <= clock_timestamp() - older_than
            );
            select coalesce(sum(greatest(k.reltuples, 0))::bigint, 0) into removed
            from (
                select s.leaf from outbox.segment s
                where s.ring = ring and s.closed_at is not null and s.reclaimed_at is null
                order by s.closed_at limit 1
            ) o
            join pg_class k on k.oid = outbox._leaf(ring, o.leaf);
            select * into done from outbox._reclaim(ring, true);
            exit when done.result <> 'reclaimed';
            rows := rows + removed;
            bytes := bytes + done.freed;
        end loop;
        return;
    end if;
    if what = 'dead_letters' then
        foreach part in array case when include_unresolved
            then array['dead_letters', 'unresolved_dead_letters'] else array['dead_letters'] end loop
            if dry_run then
                select rows + count(*) into rows from outbox.dead_letter d
                where case part
                    when 'dead_letters'
                        then d.resolution in ('resolved', 'ignored') and d.resolved_at < clock_timestamp() - older_than
                    else d.resolution in ('open', 'requeued') and d.dead_at < clock_timestamp() - older_than
                end;
            else
                loop
                    removed := outbox._trim(part, older_than, 1000);
                    rows := rows + removed;
                    exit when removed < 1000;
                end loop;
            end if;
        end loop;
        return;
    end if;
    raise exception 'unknown kind of rows "%"', what using errcode = 'invalid_parameter_value',
        hint = 'What can be purged: completed, attempts, dead_letters.';
end
$$;
comment on function outbox.purge is
    'Removes what is older than an interval, by hand: completed (messages, in whole segments), attempts (in whole'
    ' segments), dead_letters. Never what is still needed; dry_run says what it would be';

insert into outbox._capability values
    ('admin', 'function outbox.maintain'),
    ('admin', 'function outbox.rotate'),
    ('admin', 'function outbox.purge');
