-- The checks of health(), one function each. A function returns nulls if all is well. A new check is a function and a row in
-- health().

-- API: private
-- Whether this database has a dispatcher that works.
create function outbox_internal.health_worker(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    worker record;
    shared record;
    silent interval;
    connectable boolean;
    waits_for text;
begin
    select * into worker from outbox_internal.worker_slot();
    select * into shared from outbox_internal.workers();
    select d.datallowconn into connectable from pg_database d where d.datname = current_database();
    silent := clock_timestamp() - shared.seen_at;
    if pg_is_in_recovery() then
        what_to_do := 'a standby has no dispatcher; it starts when the standby is promoted';
        return;
    elsif worker.state = 'copied' or not outbox_internal.is_own() then
        state := 'critical';
        culprit := 'copied';
        what_to_do := 'nothing is numbered or pushed here: see the check "identity"';
        return;
    elsif worker.state = 'push off' and silent < interval '2 min' + current_setting('pg_outbox.poll_interval')::interval then
        state := 'warning';
        culprit := 'pg_outbox.push';
        what_to_do := 'messages are numbered and routed, and wait until it is on';
        return;
    end if;
    state := 'critical';
    if worker.state = 'not preloaded' then
        culprit := 'shared_preload_libraries';
        what_to_do := 'nothing is pushed: add pg_outbox to it and restart the server';
    elsif worker.state = 'starting' and clock_timestamp() < shared.state_at + interval '30 s' then
        state := null;
    elsif worker.state = 'starting' then
        culprit := format('the dispatcher has been starting for %s',
            date_trunc('second', clock_timestamp() - shared.state_at));
        what_to_do := 'it may wait for a lock on pg_database or on this database (pg_locks), or the server for a free process; '
            || 'the server''s log says more';
    elsif worker.pid is null and shared.lacks is not null then
        culprit := shared.lacks;
        what_to_do := case shared.lacks
            when 'max_worker_processes' then 'no process is free for the dispatcher: raise it and restart the server'
            else 'as many databases have a dispatcher as may have one: raise it and restart the server' end;
    elsif worker.pid is null and shared.launcher_pid is null then
        culprit := 'no dispatcher, and no launcher to start one';
        what_to_do := 'the server starts the process "pg_outbox launcher" within seconds; if it does not, its log says why';
    elsif worker.pid is null and not connectable then
        culprit := 'this database allows no connections';
        what_to_do := format('alter database %I allow_connections true', current_database());
    elsif worker.pid is null then
        culprit := coalesce(
            case when shared.last_error_at > shared.state_at - interval '1 min' then shared.last_error end, 'no dispatcher');
        what_to_do := 'it starts within seconds; if it does not, the server''s log says why';
    elsif silent > interval '2 min' + current_setting('pg_outbox.poll_interval')::interval then
        select concat_ws(' ', a.wait_event_type, a.wait_event) into waits_for
        from pg_stat_activity a where a.pid = worker.pid;
        culprit := format('the dispatcher (process %s) has not come round for %s', worker.pid, date_trunc('second', silent))
            || coalesce(' and waits for ' || nullif(waits_for, ''), '');
        what_to_do := format('pg_locks and pg_stat_activity show the session that blocks it; '
            'select pg_terminate_backend(%s) starts another', worker.pid);
    elsif worker.state = 'failing' then
        culprit := coalesce(shared.last_error, 'see the server''s log')
            || case when shared.last_error like '%lock timeout%' then coalesce(': ' || outbox_internal.in_the_way(), '') else '' end;
        what_to_do := 'the dispatcher tries again by itself; its last error is in worker_status()';
    elsif worker.state in ('running', 'copied') then
        state := null;
    else
        culprit := format('the dispatcher (process %s) is in the state "%s"', worker.pid, worker.state);
        what_to_do := 'another one starts within seconds; if it does not, the server''s log says why';
    end if;
end
$$;

-- API: private
-- Whether there is a launcher that would start a dispatcher.
create function outbox_internal.health_launcher(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    worker record;
    shared record;
begin
    select * into worker from outbox_internal.worker_slot();
    select * into shared from outbox_internal.workers();
    if pg_is_in_recovery() or worker.state = 'not preloaded' then
        return;
    elsif shared.launcher_pid is null then
        state := case when worker.pid is null then 'critical' else 'warning' end;
        culprit := 'no process "pg_outbox launcher"';
        what_to_do := 'the server starts it within seconds; if it does not, its log says why, and no dispatcher is started until then';
    elsif shared.launcher_seen_at < clock_timestamp() - interval '3 min' then
        state := case when worker.pid is null then 'critical' else 'warning' end;
        culprit := format('the launcher (process %s) has not come round for %s', shared.launcher_pid,
            date_trunc('second', clock_timestamp() - shared.launcher_seen_at));
        what_to_do := format('no dispatcher is started until it does: see pg_locks, or select pg_terminate_backend(%s)',
            shared.launcher_pid);
    end if;
end
$$;

-- API: private
-- Whether the rows are this database's own.
create function outbox_internal.health_identity(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not outbox_internal.is_own() then
        state := 'critical';
        culprit := coalesce(format('copied: the subscription "%s" writes it', outbox_internal.replicated_by()),
            'copied: this outbox was restored or copied here from another database');
        what_to_do := 'if this database is to push from now on: select outbox.adopt(reason => ...); if it is a copy for tests or '
            || 'readers: leave it, it numbers and pushes nothing';
    end if;
end
$$;

-- API: private
-- Whether the library and the installed objects are of the same version.
create function outbox_internal.health_version(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    select * into found from outbox.version();
    if found.extension is distinct from found.library then
        state := 'warning';
        culprit := format('library %s, objects %s', found.library, found.extension);
        what_to_do := 'alter extension pg_outbox update; and restart the server if the library is the older one';
    end if;
end
$$;

-- API: private
-- Whether a session keeps the sequencer from giving positions.
create function outbox_internal.health_sequencer(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    select a.pid, a.usename, a.application_name, clock_timestamp() - a.xact_start as age into found
    from pg_locks l
    join pg_stat_activity a on a.pid = l.pid
    where l.relation = 'outbox._sequencer'::regclass and l.database = outbox_internal.database_oid() and l.granted
        and l.mode = 'ExclusiveLock' and a.xact_start < clock_timestamp() - interval '5 s'
    limit 1;
    if not outbox_internal.is_own() then
        state := 'critical';
        culprit := 'copied';
        what_to_do := 'nothing is numbered here: see the check "identity"';
    elsif found.pid is not null then
        state := 'critical';
        culprit := format('session %s (%s, %s) has held its lock for %s', found.pid, found.usename,
            coalesce(nullif(found.application_name, ''), '-'), date_trunc('second', found.age));
        what_to_do := format('nothing is numbered: end its transaction, or select pg_terminate_backend(%s)', found.pid);
    end if;
end
$$;

-- API: private
-- Since when the oldest committed message that the last tick has not seen waits for its position. Null: there is none. The
-- result is never earlier than the last tick, because a transaction may have been open for long before it committed.
create function outbox_internal.unnumbered_since() returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    last record;
    seen pg_snapshot;
    oldest timestamptz;
    event_floor constant bigint := coalesce(pg_sequence_last_value('outbox._event_floor'), 0);
begin
    select t.snapshot_to, t.done_id, t.ticked_at into last from outbox.tick t order by t.id desc limit 1;
    if last.done_id is not null then
        return last.ticked_at;
    end if;
    seen := coalesce(last.snapshot_to, (select format('%1$s:%1$s:', min(i.since))::pg_snapshot from outbox._identity i));
    -- The upper bound passes over events that were restored with transaction ids of another cluster.
    select m.enqueued_at into oldest
    from outbox.message m
    where m.xid >= pg_snapshot_xmax(seen) and m.xid < outbox_internal.next_xid()
        and (m.id > event_floor or m.segment >= 0) is true
    order by m.xid limit 1;
    select least(oldest, min(m.enqueued_at)) into oldest
    from pg_snapshot_xip(seen) x, outbox.message m
    where m.xid = x and (m.id > event_floor or m.segment >= 0) is true;
    return greatest(oldest, case when oldest is not null then last.ticked_at end);
end
$$;

-- API: private
-- Whether committed messages get their positions.
create function outbox_internal.health_numbering(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    age interval;
begin
    if pg_is_in_recovery() or not outbox_internal.is_own() then
        return;
    end if;
    age := clock_timestamp() - outbox_internal.unnumbered_since();
    if age > interval '30 s' + current_setting('pg_outbox.poll_interval')::interval then
        state := 'critical';
        culprit := format('a message has been waiting for its position for %s', date_trunc('second', age));
        what_to_do := 'no message after it is delivered or read: see the checks "worker" and "sequencer"; select outbox.tick() does it '
            || 'by hand';
    end if;
end
$$;

-- API: private
-- Whether a subscription lags behind the feed.
create function outbox_internal.health_subscriptions(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    if not pg_is_in_recovery() then
        select l.subscription, l.lag, clock_timestamp() - l.since as age into found
        from outbox_internal.subscription_lag() l
        where l.lag > 0 and l.since < clock_timestamp() - interval '5 min'
        order by l.since limit 1;
        if found.subscription is not null then
            state := 'warning';
            culprit := format('subscription "%s" is %s positions and %s behind', found.subscription, found.lag,
                date_trunc('second', found.age));
            what_to_do := 'its receiver is slow, down or paused; its messages are retained until they are delivered, unless it has a max_lag';
        end if;
    end if;
end
$$;

-- API: private
-- Whether an endpoint is disabled, waits for consent or fails.
create function outbox_internal.health_endpoints(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    select e.name, e.state, coalesce(e.disabled_reason, e.last_error) as why, count(*) over () as n into found
    from outbox.endpoint_status e
    where e.subscriptions > 0 and (
        e.state in ('disabled', 'waits for consent', 'breaker open', 'breaker half_open')
        or e.state = 'failing' and e.failing_since < clock_timestamp() - interval '5 min'
    )
    order by e.state <> 'disabled', e.failing_since nulls last, e.name limit 1;
    if found.n > 0 then
        state := 'warning';
        culprit := format('endpoint "%s": %s', found.name, concat_ws(', ', found.state, found.why));
        if found.n > 1 then
            culprit := format('%s; and %s others', culprit, found.n - 1);
        end if;
        what_to_do := case found.state
            when 'disabled' then 'when its receiver is well: outbox.enable_endpoint(); held deliveries catch up'
            when 'waits for consent' then 'its receiver has to agree, or outbox.grant_consent() says that it has'
            else 'its receiver fails; it is tried again by itself, and outbox.attempt has the answers' end;
    end if;
end
$$;

-- API: private
-- Whether deliveries have been due for a long time.
create function outbox_internal.health_deliveries(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    late record;
    claimed timestamptz;
begin
    if pg_is_in_recovery() then
        return;
    end if;
    select d.*, count(*) over () as n into late from outbox_internal.due() d
    where d.since < clock_timestamp() - interval '5 min'
    order by d.since limit 1;
    if late.since is null then
        return;
    end if;
    state := 'warning';
    culprit := format('a delivery of subscription "%s" has been due for %s', late.subscription,
        date_trunc('second', clock_timestamp() - late.since));
    if not late.pull then
        what_to_do := 'retries are behind: see the check "worker", and the endpoint''s limits';
    else
        claimed := outbox_internal.last_claim(late.subscription_id);
        if late.paused then
            culprit := culprit || ', and is paused';
            what_to_do := 'outbox.resume_subscription() lets workers claim again';
        elsif claimed is null then
            culprit := culprit || ', and no worker has ever claimed one';
            what_to_do := 'no worker runs for it: start one, or outbox.unsubscribe() if nobody needs it';
        elsif claimed < late.since then
            culprit := culprit || format(', and no worker has claimed one since %s', claimed::timestamptz(0));
            what_to_do := 'its workers are gone, or cannot reach the database: start one';
        else
            what_to_do := 'its workers are slower than its producers, or busy with deliveries of a higher priority: run more workers';
        end if;
    end if;
    if late.n > 1 then
        culprit := format('%s; and %s other subscriptions', culprit, late.n - 1);
    end if;
end
$$;

-- API: private
-- Whether a projection cannot go on. While the handler of an inline one cannot be called, appends to its categories fail.
-- The error of a handler may contain data, so it is not shown.
create function outbox_internal.health_projections(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    select p.name, p.version, p.kind, p.state, p.handler, p.owner, p.failed_position, p.changed_at, count(*) over () as n
    into found
    from outbox._projection p
    where p.state = 'faulted'
        or p.state not in ('stopped', 'paused') and not exists (
            select from pg_proc f
            where f.oid = to_regprocedure(p.handler) and pg_get_userbyid(f.proowner) = p.owner
                and f.prorettype = 'void'::regtype and f.prokind = 'f' and not f.proretset
        )
    order by p.kind <> 'inline', p.state = 'faulted', p.changed_at, p.name
    limit 1;
    if found.n is null then
        return;
    end if;
    if found.state = 'faulted' then
        state := 'warning';
        culprit := format('projection "%s" version %s is faulted at position %s since %s', found.name, found.version,
            found.failed_position, found.changed_at::timestamptz(0));
        what_to_do := 'the view outbox.projections has the error: correct the handler, then outbox.resume_projection(); '
            || 'outbox.skip_event() skips the event on purpose';
    else
        state := case found.kind when 'inline' then 'critical' else 'warning' end;
        culprit := format('the handler "%s" of projection "%s" version %s is gone or is another function now; it was that of "%s"',
            found.handler, found.name, found.version, found.owner);
        what_to_do := 'create the function again, or register it again with outbox.alter_projection()';
        if found.kind = 'inline' then
            what_to_do := 'appends to its categories fail: ' || what_to_do;
        end if;
    end if;
    if found.n > 1 then
        culprit := format('%s; and %s others', culprit, found.n - 1);
    end if;
end
$$;

-- API: private
-- Whether a reader cannot go on, or its cursor does not move any more.
create function outbox_internal.health_cursors(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    slow record;
begin
    select k.*, count(*) over () as n into slow from outbox.cursor_list() k
    where k.last_error is not null
        or k.lag_seconds > 3600 and k.updated_at < clock_timestamp() - interval '1 h'
    order by k.error_since, k.lag_seconds desc, k.consumer limit 1;
    if slow.n > 0 then
        state := 'warning';
        if slow.last_error is not null then
            culprit := format('consumer "%s" stands at %s since %s: %s', slow.consumer, slow."position",
                slow.error_since::timestamptz(0), concat_ws(': ', 'message at ' || slow.error_position, left(slow.last_error, 200)));
            what_to_do := 'it tries again and passes nothing over: correct its code or the message; outbox.cursor_reset() skips a '
                || 'message on purpose';
        else
            culprit := format('the cursor of consumer "%s" is %s positions and %s behind, and has not moved since %s', slow.consumer,
                slow.lag_positions, make_interval(secs => round(slow.lag_seconds)), slow.updated_at::timestamptz(0));
            what_to_do := 'its reader is down or cannot go on: messages that it has not read are gone after their retention; '
                || 'outbox.cursor_delete() forgets one that is needed no more';
        end if;
        if slow.n > 1 then
            culprit := format('%s; and %s others', culprit, slow.n - 1);
        end if;
    end if;
end
$$;

-- API: private
-- Whether there are open dead letters.
create function outbox_internal.health_dead_letters(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    select s.name, l.n, l.total into found
    from (
        select l.subscription_id, count(*) as n, sum(count(*)) over () as total
        from outbox.dead_letter l
        where l.resolution = 'open'
        group by l.subscription_id
        order by n desc limit 1
    ) l
    left join outbox.subscription s on s.id = l.subscription_id;
    if found.n > 0 then
        state := 'warning';
        culprit := format('%s open, %s of them of subscription "%s"', found.total, found.n, found.name);
        what_to_do := 'see outbox.dead_letter_status: requeue the dead letters that can be delivered now, resolve or ignore the others';
    end if;
    select l.message_id, l.reason, l.last_error into found
    from outbox.dead_letter l
    where l.resolution = 'open' and l.reason in ('unreadable', 'unrecordable')
    order by l.id desc limit 1;
    if found.message_id is not null then
        culprit := format('%s; message %s is %s: %s', culprit, found.message_id, found.reason, left(found.last_error, 200));
    end if;
end
$$;

-- API: private
-- Whether the dispatcher has recorded faults.
create function outbox_internal.health_faults(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    select f.kind, f.id, f.step, f.error, count(*) over () as n into found
    from outbox.fault f
    -- Settings that cannot be read hold all of their deliveries until they are corrected; any other fault is over.
    where f.step = 'load' or f.last_at > clock_timestamp()
        - case f.kind when 'server' then interval '10 min' else interval '1 day' end
    order by f.step <> 'load', f.last_at desc limit 1;
    if found.n > 0 then
        state := case when found.step = 'load' then 'critical' else 'warning' end;
        culprit := format('%s: %s: %s', concat_ws(' ', found.kind, nullif(found.id, 0)), found.step, left(found.error, 200));
        if found.n > 1 then
            culprit := format('%s; and %s others', culprit, found.n - 1);
        end if;
        what_to_do := case
            when found.step = 'load'
            then 'its settings cannot be read, and what is for it waits: set them again by alter_subscription() or alter_endpoint()'
            when found.kind = 'server'
            then 'requests wait, no receiver is blamed: give the server more (LimitNOFILE of its service), or lower pg_outbox.max_in_flight'
            else 'this was passed over, and everything else went on; the table outbox.fault has all of them' end;
    end if;
end
$$;

-- API: private
-- The sizes of the permanent logs of events, with their indexes: the events, their places in the feed, and those in the
-- lists of categories.
create function outbox_internal.event_sizes() returns table (part text, bytes bigint)
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select t.part, pg_total_relation_size(t.log)
    from (values ('events', 'outbox._message_event'::regclass), ('feed', 'outbox._feed_event'),
        ('categories', 'outbox._event_category')) t(part, log);
end;

-- API: private
-- Whether leaves can be emptied. The size of events, which nothing frees, is told and is no reason for a warning.
create function outbox_internal.health_space(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    select string_agg(format('%s: %s', j.job, j.held_by), '; ') as who into found from outbox.job j where j.held_by is not null;
    if found.who is not null then
        state := 'warning';
        culprit := found.who;
        what_to_do := 'segments that are past their retention cannot be emptied until this is gone; they grow, nothing is lost';
    elsif exists (select from outbox._message_event) then
        what_to_do := format('nothing; events take %s, and are kept for ever',
            (select pg_size_pretty(sum(z.bytes)) from outbox_internal.event_sizes() z));
    end if;
end
$$;

-- API: private
-- Whether the maintenance jobs run.
create function outbox_internal.health_maintenance(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    select min(j.next_run_at) as due into found from outbox.job j;
    if not pg_is_in_recovery() and found.due < clock_timestamp() - interval '10 min'
        - coalesce(outbox_internal.retention('retention_interval'), '1 h') then
        state := 'warning';
        culprit := format('a job has been due since %s', found.due);
        what_to_do := 'the dispatcher runs them; where there is none: select * from outbox.maintain()';
    end if;
end
$$;

-- API: private
-- Which subscriptions may lose messages, because they have a max_lag.
create function outbox_internal.health_max_lag(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    select string_agg(format('"%s" (%s)', s.name, s.max_lag), ', ') as who into found
    from outbox.subscription s where s.max_lag is not null and s.deleted_at is null;
    if found.who is not null then
        state := 'warning';
        culprit := 'subscription ' || found.who;
        what_to_do := 'deliveries that are older are given up when their segment goes, and logged as expired; this is a reminder';
    end if;
end
$$;

-- API: private
-- Whether a transaction has been open for a long time.
create function outbox_internal.health_transactions(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    select format('session %s (%s, %s) has been in a transaction since %s', a.pid, a.usename,
        coalesce(nullif(a.application_name, ''), '-'), a.xact_start::timestamptz(0)) as who into found
    from pg_stat_activity a
    where a.backend_type = 'client backend' and a.datname = current_database()
        and a.xact_start < clock_timestamp() - interval '1 h'
    order by a.xact_start limit 1;
    if found.who is null then
        select format('the prepared transaction "%s" waits since %s', p.gid, p.prepared::timestamptz(0)) as who into found
        from pg_prepared_xacts p
        where p.database = current_database() and p.prepared < clock_timestamp() - interval '10 min'
        order by p.prepared limit 1;
    end if;
    if found.who is not null then
        state := 'warning';
        culprit := found.who;
        what_to_do := 'its own messages arrive when it commits; it holds back no other message, but keeps vacuum from cleaning up';
    end if;
end
$$;
