-- The background processes of this database, as shared memory shows them.

-- API: private
-- Makes the dispatcher read outbox.delivery when this transaction commits.
create function outbox_internal.deliveries_changed() returns void language c volatile as 'MODULE_PATHNAME', 'outbox_deliveries_changed';

-- API: private
-- The state of the dispatcher. idle: everything that was committed with a wake-up has been ticked, routed, sent and
-- recorded.
create function outbox_internal.worker_slot(
    out state text,
    out pid int,
    out in_flight bigint,
    out queued bigint,
    out unrecorded bigint,
    out idle boolean
)
language c volatile as 'MODULE_PATHNAME', 'outbox_worker_slot';

-- API: private
-- Data of the dispatcher and the launcher in shared memory; nulls where the library is not preloaded.
create function outbox_internal.workers(
    out launcher_pid int,
    out started_at timestamptz,
    out last_error text,
    out last_error_at timestamptz,
    -- the setting that is too low for a dispatcher
    out lacks text,
    out state_at timestamptz,
    -- when dispatcher and launcher last went through their loops
    out seen_at timestamptz,
    out launcher_seen_at timestamptz
)
language c volatile as 'MODULE_PATHNAME', 'outbox_workers';

-- API: private
-- A histogram of the dispatcher since the server started. bounds: in seconds; counts: of durations that are not longer,
-- and at the end of all; seconds: their sum. Nulls where no dispatcher has run.
create function outbox_internal.histogram(
    deliveries boolean,
    out bounds double precision[],
    out counts bigint[],
    out seconds double precision
)
language c volatile as 'MODULE_PATHNAME', 'outbox_histogram';

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
    from outbox_internal.worker_slot() s
    cross join outbox_internal.workers() w
    left join (select * from outbox.tick t order by t.id desc limit 1) t on true
    left join (select * from outbox.checkpoint c order by c.id desc limit 1) c on true;
end;
comment on function outbox.worker_status is
    'Returns the state of this database''s dispatcher, how far it is, and its last error. state: not preloaded, none '
    '(there is no such process), starting, running, push off, copied or failing. in_flight: requests; queued and '
    'unrecorded: deliveries. idle: everything that was committed has been routed, sent and recorded. feed_end and routed: '
    'positions';

insert into outbox._capability values
    ('monitor', 'function outbox.worker_status');
