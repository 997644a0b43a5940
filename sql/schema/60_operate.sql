-- Looking at it: history, statistics, health.

-- API: public
create function outbox.webhook_id(message_id bigint, enqueued_at timestamptz) returns text
language c immutable strict parallel safe
as 'MODULE_PATHNAME', 'outbox_webhook_id';
comment on function outbox.webhook_id is
    'What a receiver deduplicates by: the same on every attempt, restart, retry and replay of a message';

-- API: public
create function outbox.history(message_id bigint) returns table (
    at timestamptz,
    what text,
    subscription text,
    endpoint text,
    attempt int,
    status smallint,
    detail text
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
-- Everything has an index, whatever the statistics of a young table say; planning 16 leaves costs more than reading them.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    stored record;
    place bigint;
begin
    select m.id, m.enqueued_at, m.topic into stored from outbox.message m where m.id = history.message_id;
    if stored.id is null then
        raise exception 'message % does not exist', message_id
            using errcode = 'OB001', detail = 'It was never committed, or retention has removed it.';
    end if;
    place := outbox._position_of(message_id);
    return query
    select h.* from (
        select stored.enqueued_at as at, 'enqueued' as what, null::text as subscription, null::text as endpoint,
            null::int as attempt, null::smallint as status, format('topic %s', stored.topic) as detail
        union all
        select f.ticked_at, 'numbered', null, null, null, null, format('position %s', place)
        from (
            select n.ticked_at from outbox.feed n where n.first_position <= place order by n.first_position desc limit 1
        ) f
        union all
        select r.routed_at, 'routed', null, null, null, null,
            coalesce('skipped: ' || outbox._routing_reason(r.matched),
                format('%s of %s subscriptions matched', r.matched, r.active))
        from (
            select n.routed_at, n.active, n.last_position, n.matched[place - n.first_position + 1] as matched
            from outbox.routing n where n.first_position <= place order by n.first_position desc limit 1
        ) r
        where place <= r.last_position
        union all
        select a.finished_at, a.outcome, s.name, e.name, a.attempt, a.status,
            coalesce(a.error, format('%s ms', (extract(epoch from a.finished_at - a.started_at) * 1000)::numeric(12, 3)))
        from outbox._attempts_of(history.message_id) a
        left join outbox.subscription s on s.id = a.subscription_id
        left join outbox.endpoint e on e.id = a.endpoint_id
        union all
        select d.due_at, 'next attempt', s.name, null, d.attempt + 1, null, d.last_error
        from outbox._open_of(history.message_id) d
        left join outbox.subscription s on s.id = d.subscription_id
        union all
        select l.dead_at, 'dead letter', s.name, null, l.attempt, l.last_status, format('%s: %s', l.reason, l.last_error)
        from outbox.dead_letter l
        left join outbox.subscription s on s.id = l.subscription_id
        where l.message_id = history.message_id
    ) h
    order by h.at, h.what <> 'enqueued', h.what <> 'numbered', h.what <> 'routed';
end
$$;
comment on function outbox.history is 'Everything that happened to one message, in order of time';

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

-- API: public
create function outbox.version(out extension text, out library text) language c stable
as 'MODULE_PATHNAME', 'outbox_version';
comment on function outbox.version is 'Version of the installed objects, and of the library that is loaded';

-- API: public
create function outbox.is_terminal(state text) returns boolean
language sql immutable strict parallel safe
return state in ('completed', 'dead', 'skipped', 'expired', 'cancelled');
comment on function outbox.is_terminal is 'Whether a delivery or message in this state is not tried again by itself';

insert into outbox._capability values
    ('monitor', 'function outbox.history'),
    ('monitor', 'function outbox.version'),
    ('monitor', 'function outbox.is_terminal'),
    ('monitor', 'function outbox.webhook_id');
