-- Maintenance: the jobs that rotate, reclaim and trim, each with a setting of its own; by the dispatcher or by hand.
--
--   * One session at a time, with a lock that is not waited for.
--   * Rings lose whole leaves. Small tables lose bounded batches of rows, by an index.

-- API: private
-- Whoever rotates, reclaims and trims has it, until the transaction ends; does not wait.
create function outbox._maintenance_lock() returns boolean language c volatile
as 'MODULE_PATHNAME', 'outbox_maintenance_lock';

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
-- Removes at most `batch` rows of what a small table has had for longer than `older_than`; null: for ever. bytes: what
-- the rows took; vacuum makes the space free for others.
create function outbox._trim(what text, older_than interval, batch int, out rows bigint, out bytes bigint)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    before timestamptz := clock_timestamp() - older_than;
begin
    rows := 0;
    bytes := 0;
    if older_than is null and what <> 'kept' then
        return;
    end if;
    case what
        when 'dead_letters' then
            with gone as (
                delete from outbox.dead_letter l
                where l.id = any (array(
                    select d.id from outbox.dead_letter d
                    where d.resolution in ('resolved', 'ignored') and d.resolved_at < before
                    order by d.resolved_at limit batch
                ))
                returning pg_column_size(l) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
        when 'unresolved_dead_letters' then
            with gone as (
                delete from outbox.dead_letter l
                where l.id = any (array(
                    select d.id from outbox.dead_letter d
                    where d.resolution in ('open', 'requeued') and d.dead_at < before
                    order by d.dead_at limit batch
                ))
                returning pg_column_size(l) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
        when 'idempotency' then
            with gone as (
                delete from outbox._idempotency i
                where i.key = any (array(
                    select o.key from outbox._idempotency o
                    where o.remembered_at < before
                    order by o.remembered_at limit batch
                    -- a producer may be taking one up again
                    for update skip locked
                ))
                returning pg_column_size(i) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
        when 'audit' then
            with gone as (
                delete from outbox.audit a
                where a.id = any (array(select b.id from outbox.audit b where b.at < before order by b.id limit batch))
                returning pg_column_size(a) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
        when 'cancelled' then
            with gone as (
                delete from outbox.cancelled c
                where c.message_id = any (array(
                    select k.message_id from outbox.cancelled k
                    where k.cancelled_at < before
                        and not exists (select from outbox.message m where m.id = k.message_id)
                    limit batch
                ))
                returning pg_column_size(c) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
        when 'kept' then
            -- what nothing waits with any more
            with gone as (
                delete from outbox._message_kept k
                where k.id = any (array(
                    select m.id from outbox._message_kept m
                    where not exists (select from outbox.delivery d where d.message_id = m.id)
                        and not exists (
                            select from outbox._bundle b where b.messages @> m.id and m.id = any (b.message_ids)
                        )
                        and not exists (
                            select from outbox.dead_letter l
                            where l.message_id = m.id and l.resolution in ('open', 'requeued')
                        )
                    limit batch
                ))
                returning pg_column_size(k) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
    end case;
end
$$;
create index dead_letter_resolved on outbox.dead_letter (resolved_at) where resolution in ('resolved', 'ignored');

-- API: private
-- Runs one job if it is due, or all the same. job null: it was not.
create function outbox._run_job(
    name text, everything boolean,
    out job text, out result text, out rows bigint, out bytes bigint, out held_by text, out more boolean
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    batch constant int := 1000;
    -- outbox.metrics() reads what has not been added up: some 20,000 rows take milliseconds.
    counted_size constant bigint := 2 * 1024 * 1024;
    done record;
    trimmed record;
    due boolean := everything or coalesce(
        (select j.next_run_at from outbox.job j where j.job = name), '-infinity') <= clock_timestamp();
begin
    rows := 0;
    bytes := 0;
    more := false;
    if name in ('message', 'feed', 'attempt', 'routing', 'tick', 'checkpoint') then
        result := outbox._rotate(name, false);
        select * into done from outbox._reclaim(name, false);
        bytes := done.freed;
        held_by := done.held_by;
        more := done.result = 'reclaimed';
        if done.result = 'reclaimed' or done.result = 'held' or result <> 'rotated' then
            result := done.result;
        end if;
        if due or result in ('rotated', 'reclaimed') then
            job := name;
            perform outbox._note_job(job, result, rows, bytes, held_by);
        end if;
    elsif name = 'counters' then
        -- Not often: the totals are rows that are updated, and somebody may hold a snapshot.
        if due or pg_relation_size(outbox._leaf('counter', outbox._current_leaf('counter'))) >= counted_size
            or pg_relation_size(outbox._leaf('tally', outbox._current_leaf('tally'))) >= counted_size then
            job := name;
            rows := outbox._roll_up() + outbox._roll_up_tally();
            result := 'rolled up';
            perform outbox._note_job(job, result, rows, bytes, held_by);
        end if;
    elsif due then
        select * into trimmed from outbox._trimmed() t where t.job = name;
        job := name;
        select * into rows, bytes from outbox._trim(name, outbox._retention(trimmed.setting), batch);
        more := rows = batch;
        result := case
            when rows > 0 then 'removed'
            when trimmed.setting is not null and outbox._retention(trimmed.setting) is null then 'kept for ever'
            else 'nothing to remove'
        end;
        perform outbox._note_job(job, result, rows, bytes, held_by);
        if more then
            update outbox.job j set next_run_at = clock_timestamp() where j.job = name;
        end if;
    end if;
end
$$;

-- API: private
-- The small tables and their settings.
create function outbox._trimmed() returns table (job text, setting text)
language sql immutable
set search_path = pg_catalog, pg_temp
begin atomic
    values ('dead_letters', 'dead_letter_retention'), ('unresolved_dead_letters', 'unresolved_dead_letter_retention'),
        ('idempotency', 'idempotency_window'), ('audit', 'audit_retention'), ('cancelled', 'message_retention'), ('kept', null);
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
    name text;
begin
    -- Data that is not this database's own is left as it is, and so is a database into which a restore may be about to load.
    if not outbox._maintenance_lock() or not outbox._is_own() or not exists (select from outbox.tick) then
        return;
    end if;
    perform outbox._note_segments();
    perform outbox._seal();
    -- Messages before the feed that names them.
    foreach name in array array['message', 'feed', 'attempt', 'routing', 'tick', 'checkpoint', 'counters'] || array(
        select t.job from outbox._trimmed() t
    ) loop
        -- A job that fails says so in outbox.job, and keeps none of the others from running.
        begin
            select * into job, result, rows, bytes, held_by, more from outbox._run_job(name, everything);
        exception when others then
            job := name;
            result := 'failed';
            rows := 0;
            bytes := 0;
            held_by := sqlerrm;
            more := false;
            perform outbox._note_job(job, result, rows, bytes, held_by);
        end;
        if job is not null then
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

insert into outbox._capability values
    ('admin', 'function outbox.maintain');
