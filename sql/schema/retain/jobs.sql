-- Maintenance: the jobs that rotate, reclaim and trim. Each has a setting of its own. The dispatcher runs them, or
-- maintain().
--
-- - One session runs them at a time; it holds a lock that no session waits for.
-- - From rings whole leaves are removed. From small tables bounded batches of rows are removed, by an index.

-- API: private
-- Takes the lock of the session that rotates, reclaims and trims, until the transaction ends; does not wait. False: another
-- session has it.
create function outbox_internal.maintenance_lock() returns boolean language c volatile
as 'MODULE_PATHNAME', 'outbox_maintenance_lock';

-- API: private
-- Records a run of a job.
create function outbox_internal.note_job(job text, result text, rows bigint, bytes bigint, held_by text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.job as j (job, last_run_at, next_run_at, result, rows, bytes, held_by)
    values (note_job.job, clock_timestamp(), clock_timestamp() + coalesce(outbox_internal.retention('retention_interval'), '1 h'),
        note_job.result, note_job.rows, note_job.bytes, note_job.held_by)
    on conflict (job) do update
    set last_run_at = excluded.last_run_at, next_run_at = excluded.next_run_at, result = excluded.result,
        rows = case when excluded.rows > 0 then excluded.rows else j.rows end,
        bytes = case when excluded.bytes > 0 then excluded.bytes else j.bytes end,
        held_by = excluded.held_by;
end;

-- API: private
-- Runs one job if it is due; with `everything`, also if it is not. job null: it was not due.
create function outbox_internal.run_job(
    name text, everything boolean,
    out job text, out result text, out rows bigint, out bytes bigint, out held_by text, out more boolean
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    batch constant int := 1000;
    -- outbox.metrics() reads the rows that have not been added up: about 20,000 rows take milliseconds.
    counted_size constant bigint := 2 * 1024 * 1024;
    -- Events behind the lists are filtered by their category one by one: so many take 30 ms.
    unlisted constant bigint := 10000;
    done record;
    trimmed record;
    due boolean := everything or coalesce(
        (select j.next_run_at from outbox.job j where j.job = name), '-infinity') <= clock_timestamp();
begin
    rows := 0;
    bytes := 0;
    more := false;
    if name in ('message', 'feed', 'attempt', 'routing', 'tick', 'checkpoint') then
        result := outbox_internal.rotate(name, false);
        select * into done from outbox_internal.reclaim(name, false);
        bytes := done.freed;
        held_by := done.held_by;
        more := done.result = 'reclaimed';
        if done.result = 'reclaimed' or done.result = 'held' or result <> 'rotated' then
            result := done.result;
        end if;
        if due or result in ('rotated', 'reclaimed') then
            job := name;
            perform outbox_internal.note_job(job, result, rows, bytes, held_by);
        end if;
    elsif name = 'counters' then
        -- Not often: the totals are rows that are updated, and a session may hold a snapshot.
        if due or pg_relation_size(outbox_internal.leaf('counter', outbox_internal.current_leaf('counter'))) >= counted_size
            or pg_relation_size(outbox_internal.leaf('message_counter', outbox_internal.current_leaf('message_counter'))) >= counted_size then
            job := name;
            rows := outbox_internal.roll_up() + outbox_internal.roll_up_message_counters();
            result := 'rolled up';
            perform outbox_internal.note_job(job, result, rows, bytes, held_by);
        end if;
    elsif name = 'categories' then
        if due or outbox_internal.category_lag() >= unlisted then
            job := name;
            rows := outbox_internal.list_categories(100000);
            more := rows is not null;
            result := case when more then 'listed' else 'nothing to list' end;
            rows := coalesce(rows, 0);
            perform outbox_internal.note_job(job, result, rows, bytes, held_by);
        end if;
    elsif due then
        select * into trimmed from outbox_internal.trimmed() t where t.job = name;
        job := name;
        select * into rows, bytes from outbox_internal.trim(name, outbox_internal.retention(trimmed.setting), batch);
        more := rows = batch;
        result := case
            when rows > 0 then 'removed'
            when trimmed.setting is not null and outbox_internal.retention(trimmed.setting) is null then 'kept for ever'
            else 'nothing to remove'
        end;
        perform outbox_internal.note_job(job, result, rows, bytes, held_by);
        if more then
            update outbox.job j set next_run_at = clock_timestamp() where j.job = name;
        end if;
    end if;
end
$$;

-- API: private
-- The jobs that trim small tables, and their settings. A job without a setting removes rows by their own state.
create function outbox_internal.trimmed() returns table (job text, setting text)
language sql immutable
set search_path = pg_catalog, pg_temp
begin atomic
    values ('dead_letters', 'dead_letter_retention'), ('unresolved_dead_letters', 'unresolved_dead_letter_retention'),
        ('idempotency', 'idempotency_window'), ('audit', 'audit_retention'), ('cancelled', 'message_retention'), ('kept', null),
        ('commands', null);
end;

-- API: private
-- One round of maintenance. `everything`: runs all jobs, whether they are due or not. Returns a row per job that ran; more:
-- the job has more to do than one round does. No rows: another session maintains, or this outbox is not this database's own,
-- or it has never ticked.
create function outbox_internal.maintain(everything boolean)
returns table (job text, result text, rows bigint, bytes bigint, held_by text, more boolean)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    name text;
begin
    -- Data that is not this database's own is left alone, and so is a database into which a restore may be about to load.
    if not outbox_internal.maintenance_lock() or not outbox_internal.is_own() or not exists (select from outbox.tick) then
        return;
    end if;
    perform outbox_internal.note_segments();
    perform outbox_internal.seal_leaves();
    -- Messages are reclaimed before the rows of the feed that contain their ids.
    foreach name in array array['message', 'feed', 'attempt', 'routing', 'tick', 'checkpoint', 'counters',
        'categories'] || array(
        select t.job from outbox_internal.trimmed() t
    ) loop
        -- A job that fails is recorded in outbox.job, and the other jobs still run.
        begin
            select * into job, result, rows, bytes, held_by, more from outbox_internal.run_job(name, everything);
        exception when others then
            job := name;
            result := 'failed';
            rows := 0;
            bytes := 0;
            held_by := sqlerrm;
            more := false;
            perform outbox_internal.note_job(job, result, rows, bytes, held_by);
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
        -- so that a leaf that the sequencer has not passed yet does not hold space
        perform outbox_internal.tick_inline(100000);
    end if;
    for i in 1 .. 10000 loop
        again := false;
        for done in select * from outbox_internal.maintain(true) loop
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
    'Rotates, reclaims and trims now as far as the retention settings allow, and returns what each job did. The dispatcher '
    'does this by itself, every pg_outbox.retention_interval (1 hour by default). Not in a transaction block or function. '
    'Errors: 25001 in such a transaction. A job that fails has the result "failed" and its error in held_by';

insert into outbox._capability values
    ('admin', 'function outbox.maintain');
