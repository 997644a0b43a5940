-- The processes and pull workers of this database, as shared memory and the leases show them.

-- API: private
-- Has the dispatcher look at outbox.delivery when this transaction commits.
create function outbox._look_at_deliveries() returns void language c volatile as 'MODULE_PATHNAME', 'outbox_look_at_deliveries';

-- API: private
-- idle: everything that was committed with a wake-up has been ticked, routed, sent and recorded
create function outbox._worker_slot(
    out state text,
    out pid int,
    out in_flight bigint,
    out queued bigint,
    out unrecorded bigint,
    out idle boolean
)
language c volatile as 'MODULE_PATHNAME', 'outbox_worker_slot';

-- API: private
-- What shared memory knows of the workers; nulls where the library is not preloaded.
create function outbox._workers(
    out launcher_pid int,
    out started_at timestamptz,
    out last_error text,
    out last_error_at timestamptz,
    -- the setting because of which there is no dispatcher
    out lacks text,
    out state_at timestamptz,
    -- when dispatcher and launcher last came round their loops
    out seen_at timestamptz,
    out launcher_seen_at timestamptz
)
language c volatile as 'MODULE_PATHNAME', 'outbox_workers';

-- API: public
create function outbox.worker_status() returns table (
    state text,
    pid int,
    started_at timestamptz,
    launcher_pid int,
    in_flight bigint,
    queued bigint,
    unrecorded bigint,
    idle boolean,
    feed_end bigint,
    routed bigint,
    last_tick_at timestamptz,
    last_checkpoint_at timestamptz,
    last_error text,
    last_error_at timestamptz
)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select s.state, s.pid, w.started_at, w.launcher_pid, s.in_flight, s.queued, s.unrecorded, s.idle,
        coalesce(t.last_position, 0), coalesce(c."position", 0), t.ticked_at, c.written_at, w.last_error, w.last_error_at
    from outbox._worker_slot() s
    cross join outbox._workers() w
    left join (select * from outbox.tick t order by t.id desc limit 1) t on true
    left join (select * from outbox.checkpoint c order by c.id desc limit 1) c on true;
end;
comment on function outbox.worker_status is
    'This database''s dispatcher: what it does, since when, how far it is, and its last error. States: not preloaded, none,'
    ' starting, running, push off, copied, failing. A process that is gone is none, whatever it did last';

insert into outbox._capability values
    ('monitor', 'function outbox.worker_status');
