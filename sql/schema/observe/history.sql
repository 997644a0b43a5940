-- The history of one message: its events in order.

-- API: private
-- The attempts of one message. A request with a batch of messages is one row of the attempt log. Here it is a row of this
-- message, with the outcome of this message. The positions of a batch are at most 9999 apart (see the sender's queue).
create function outbox_internal.attempts_of(message_id bigint) returns setof outbox.attempt
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    place bigint;
begin
    return query select a.* from outbox.attempt a where a.message_id = attempts_of.message_id and a.positions is null;
    if exists (select from outbox.attempt a where a.positions is not null) then
        place := outbox_internal.position_of(message_id);
        return query
        select a.segment, place, attempts_of.message_id, a.started_at, a.finished_at,
            coalesce(a.delivery_ids[array_position(a.positions, place)], a.delivery_id), a.run,
            a.subscription_id, a.endpoint_id, a.attempt,
            coalesce((r.result ->> 'status')::smallint, a.status), coalesce(r.result ->> 'outcome', a.outcome),
            a.error_class, a.error, a.worker, a.remote_address, a.response_id, a.response_headers, a.response_body,
            a.positions, a.message_ids, a.results, a.delivery_ids
        from outbox.attempt a
        cross join lateral (select a.results -> (array_position(a.positions, place) - 1) as result) r
        where a.positions is not null and a.position between place - 9999 and place and place = any (a.positions);
    end if;
end
$$;

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
-- Every query has an index, whatever the statistics of a young table say. The generic plan is kept because planning 16
-- leaves costs more than reading them.
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
    place := outbox_internal.position_of(message_id);
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
            coalesce('skipped: ' || outbox_internal.routing_reason(r.matched),
                format('%s of %s subscriptions matched', r.matched, r.active))
        from (
            select n.routed_at, n.active, n.last_position, n.matched[place - n.first_position + 1] as matched
            from outbox.routing n where n.first_position <= place order by n.first_position desc limit 1
        ) r
        where place <= r.last_position
        union all
        select a.finished_at, a.outcome, s.name, e.name, a.attempt, a.status,
            coalesce(a.error, format('%s ms', (extract(epoch from a.finished_at - a.started_at) * 1000)::numeric(12, 3)))
        from outbox_internal.attempts_of(history.message_id) a
        left join outbox.subscription s on s.id = a.subscription_id
        left join outbox.endpoint e on e.id = a.endpoint_id
        union all
        select d.due_at, 'next attempt', s.name, null, d.attempt + 1, null, d.last_error
        from outbox_internal.open_of(history.message_id) d
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
comment on function outbox.history is
    'Returns the events of one message in order of time. what: enqueued, numbered (with its position), routed, the outcome '
    'of an attempt, next attempt, dead letter. Errors: OB001 no such message';

insert into outbox._capability values
    ('monitor', 'function outbox.history');
