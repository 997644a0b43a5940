-- Metrics for a monitoring system.

-- API: public
create function outbox.metrics() returns table (name text, labels jsonb, value double precision)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    with counted as (
        select u.subscription_id, u.endpoint_id, u.outcome, sum(u.requests) as requests, sum(u.deliveries) as deliveries,
            sum(u.seconds) as seconds
        from (
            select t.subscription_id, t.endpoint_id, t.outcome, t.requests, t.deliveries, t.seconds
            from outbox.counter_total t
            union all
            select c.subscription_id, coalesce(c.endpoint_id, 0), c.outcome, c.requests, c.deliveries, c.seconds
            from outbox.counter c
        ) u
        group by 1, 2, 3
    ), named as (
        select c.*, jsonb_strip_nulls(jsonb_build_object('subscription', s.name, 'endpoint', e.name)) as who
        from counted c
        left join outbox.subscription s on s.id = c.subscription_id
        left join outbox.endpoint e on e.id = c.endpoint_id
    ), per_endpoint as (
        select e.name, sum(c.requests) as requests, sum(c.seconds) as seconds
        from counted c join outbox.endpoint e on e.id = c.endpoint_id
        group by e.id, e.name
    ), worker as materialized (
        select * from outbox.worker_status() s cross join lateral (select seen_at from outbox_internal.workers()) w
    ), cursors as materialized (
        select * from outbox.cursor_list()
    ), histograms as materialized (
        select 'outbox_request_duration_seconds' as name, r.* from outbox_internal.histogram(false) r
        union all
        select 'outbox_delivery_duration_seconds', d.* from outbox_internal.histogram(true) d
    )
    select 'outbox_processed_total', n.who, n.deliveries::double precision from named n where n.outcome = 'completed'
    union all
    select 'outbox_failed_total', n.who, n.deliveries from named n where n.outcome = 'failed'
    union all
    select 'outbox_dead_lettered_total', n.who, n.deliveries from named n where n.outcome = 'dead'
    union all
    select 'outbox_' || n.outcome || '_total', n.who, n.deliveries from named n
    where n.outcome not in ('completed', 'failed', 'dead')
    union all
    select 'outbox_request_seconds_sum', jsonb_build_object('endpoint', p.name), p.seconds from per_endpoint p
    union all
    select 'outbox_request_seconds_count', jsonb_build_object('endpoint', p.name), p.requests from per_endpoint p
    union all
    select h.name || '_bucket', jsonb_build_object('le', coalesce(h.bounds[b.i::int]::text, '+Inf')), b.count
    from histograms h cross join lateral unnest(h.counts) with ordinality b(count, i)
    union all
    select h.name || '_sum', '{}'::jsonb, h.seconds from histograms h where h.seconds is not null
    union all
    select h.name || '_count', '{}'::jsonb, h.counts[cardinality(h.counts)] from histograms h where h.seconds is not null
    union all
    select 'outbox_pending', jsonb_build_object('subscription', s.name, 'state', d.state), count(*)
    from outbox._open d join outbox.subscription s on s.id = d.subscription_id
    group by s.name, d.state
    union all
    select 'outbox_subscription_lag_positions', jsonb_build_object('subscription', l.subscription), l.lag
    from outbox_internal.subscription_lag() l
    union all
    select 'outbox_subscription_lag_seconds', jsonb_build_object('subscription', l.subscription),
        coalesce(extract(epoch from clock_timestamp() - l.since), 0)
    from outbox_internal.subscription_lag() l
    union all
    select 'outbox_oldest_due_seconds', jsonb_build_object('subscription', d.subscription),
        extract(epoch from clock_timestamp() - d.since)
    from outbox_internal.due() d
    union all
    select 'outbox_cursor_lag_positions',
        jsonb_build_object('consumer', k.consumer, 'stream', k.stream, 'subject', k.subject), k.lag_positions
    from cursors k where k.stream = 'outbox'
    union all
    select 'outbox_cursor_lag_seconds',
        jsonb_build_object('consumer', k.consumer, 'stream', k.stream, 'subject', k.subject), k.lag_seconds
    from cursors k where k.stream = 'outbox'
    union all
    select 'outbox_cursor_error_seconds',
        jsonb_build_object('consumer', k.consumer, 'stream', k.stream, 'subject', k.subject),
        coalesce(extract(epoch from clock_timestamp() - k.error_since), 0)
    from cursors k
    union all
    select 'outbox_dead_letters_open', jsonb_build_object('subscription', s.name), sum(l.n)
    from (
        select l.subscription_id, count(*) as n from outbox.dead_letter l where l.resolution = 'open' group by 1
    ) l
    left join outbox.subscription s on s.id = l.subscription_id
    group by s.name
    union all
    select m.name, m.labels, m.value from outbox_internal.relay_metrics() m
    union all
    select 'outbox_ring_bytes', jsonb_build_object('ring', r.name),
        (select sum(pg_total_relation_size(outbox_internal.leaf(r.name, i))) from generate_series(0, r.leaves - 1) i)
    from outbox._ring r
    union all
    select 'outbox_event_bytes', jsonb_build_object('part', z.part), z.bytes from outbox_internal.event_sizes() z
    union all
    select g.name, '{}'::jsonb, g.value
    from worker w
    cross join lateral (
        values ('outbox_enqueued_total', coalesce(pg_sequence_last_value('outbox._message_id'), 0)::double precision),
            ('outbox_feed_position', w.feed_end),
            ('outbox_routed_position', w.routed),
            ('outbox_tail_position', outbox.tail()),
            ('outbox_worker_up', (w.state in ('running', 'push off'))::int),
            ('outbox_launcher_up', (w.launcher_pid is not null)::int),
            ('outbox_worker_silent_seconds', extract(epoch from clock_timestamp() - w.seen_at)),
            ('outbox_unnumbered_seconds', coalesce(extract(epoch from clock_timestamp() - outbox_internal.unnumbered_since()), 0)),
            ('outbox_category_lag_positions', outbox_internal.category_lag()),
            ('outbox_in_flight', coalesce(w.in_flight, 0)),
            ('outbox_queued', coalesce(w.queued, 0))
    ) g(name, value)
    where g.value is not null;
end;
comment on function outbox.metrics is
    'Returns metrics for a monitoring system. Names that end in _total, _sum, _count or _bucket only grow; all others are current '
    'values, in the unit that the name says (seconds, positions, bytes). labels names the subscription, endpoint, state, '
    'consumer, stream, subject, relay, ring or part; le is the bound of a bucket. Histograms start from zero when the server '
    'starts. outbox_enqueued_total also counts messages that were rolled back';

insert into outbox._capability values
    ('monitor', 'function outbox.metrics');
