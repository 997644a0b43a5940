-- Statistics of subscriptions, tenants and topics, from sums that are kept as messages are routed and delivered. No log is
-- counted here.

-- API: private
create view outbox._message_counts as
select u.kind, u.name, sum(u.messages)::bigint as messages, sum(u.matched)::bigint as matched,
    sum(u.skipped)::bigint as skipped, max(u.last_at) as last_at
from (
    select t.kind, t.name, t.messages, t.matched, t.skipped, t.last_at from outbox.message_counter_total t
    union all
    select c.kind, c.name, c.messages, c.matched, c.skipped, c.last_at from outbox.message_counter c
) u
group by 1, 2;

-- API: public
create view outbox.tenant_stats as
select nullif(t.name, '') as tenant, t.messages, t.matched, t.skipped, t.last_at as last_message_at
from outbox._message_counts t where t.kind = 'tenant';
comment on view outbox.tenant_stats is
    'Routed messages of each tenant. matched: how many subscriptions they matched in all; skipped: messages that matched '
    'none. The row with tenant null sums up all tenants that are not among the 10,000 seen last';

-- API: public
create view outbox.topic_stats as
select nullif(t.name, '') as topic, t.messages, t.matched, t.skipped, t.last_at as last_message_at
from outbox._message_counts t where t.kind = 'topic';
comment on view outbox.topic_stats is
    'Routed messages of each topic. matched: how many subscriptions they matched in all; skipped: messages that matched '
    'none. The row with topic null sums up all topics that are not among the 10,000 seen last';

-- API: public
create view outbox.subscription_stats as
select s.id as subscription_id, s.name, s.external_id, e.name as endpoint, s.deleted_at is null as active, s.paused,
    s.created_at, s.deleted_at,
    v.topics, v.filter, s.labels,
    coalesce(c.completed, 0)::bigint as completed, coalesce(c.failed, 0)::bigint as failed,
    coalesce(c.dead, 0)::bigint as dead, c.last_delivery_at, c.last_attempt_at
from outbox.subscription s
left join outbox.endpoint e on e.id = s.endpoint_id
left join lateral (
    select o.topics, o.filter from outbox.subscription_version o
    where o.subscription_id = s.id order by o.version desc limit 1
) v on true
left join (
    select u.subscription_id, sum(u.deliveries) filter (where u.outcome = 'completed') as completed,
        sum(u.deliveries) filter (where u.outcome = 'failed') as failed,
        sum(u.deliveries) filter (where u.outcome = 'dead') as dead,
        max(u.last_at) filter (where u.outcome = 'completed') as last_delivery_at, max(u.last_at) as last_attempt_at
    from (
        select t.subscription_id, t.outcome, t.deliveries, t.last_at from outbox.counter_total t
        union all
        select c.subscription_id, c.outcome, c.deliveries, c.last_at from outbox.counter c
    ) u
    group by 1
) c on c.subscription_id = s.id;
comment on view outbox.subscription_stats is
    'Subscriptions with the outcomes of their deliveries, pushed or pulled: completed, failed attempts, and dead. '
    'last_delivery_at: the last completed one; last_attempt_at: the last outcome of any kind';

-- API: public
-- Subscriptions that have not ended, as their owner wrote them, and where they stand.
create view outbox.subscription_status as
select s.id as subscription_id,
    s.name,
    e.name as endpoint,
    s.endpoint_id is null as pull,
    v.topics,
    v.filter,
    s.ordering,
    s.max_attempts,
    s.notify,
    s.paused,
    s.external_id,
    s.labels,
    s.transform,
    s.created_at,
    g."position",
    g.lag as lag_positions,
    case when g.lag > 0 then clock_timestamp() - g.since end as lag_age,
    coalesce(o.waiting, 0)::bigint as waiting,
    coalesce(o.processing, 0)::bigint as processing,
    d.since as oldest_due_at,
    clock_timestamp() - d.since as oldest_due_age,
    case when s.endpoint_id is null then outbox_internal.last_claim(s.id) end as last_claim_at,
    coalesce(l.dead_letters, 0)::bigint as dead_letters
from outbox.subscription s
left join outbox.endpoint e on e.id = s.endpoint_id
left join lateral (
    select u.topics, u.filter from outbox.subscription_version u
    where u.subscription_id = s.id order by u.version desc limit 1
) v on true
left join outbox_internal.subscription_lag() g on g.subscription_id = s.id
left join outbox_internal.due() d on d.subscription_id = s.id
left join (
    select w.subscription_id, count(*) filter (where w.state <> 'processing') as waiting,
        count(*) filter (where w.state = 'processing') as processing
    from outbox._open w group by w.subscription_id
) o on o.subscription_id = s.id
left join (
    select k.subscription_id, count(*) as dead_letters from outbox.dead_letter k
    where k.resolution = 'open' group by k.subscription_id
) l on l.subscription_id = s.id
where s.deleted_at is null;
comment on view outbox.subscription_status is
    'Subscriptions that have not ended: what they get (topics, filter), who gets it (endpoint, or workers if pull), and '
    'where they stand. lag_positions, lag_age: how far and for how long the subscription is behind the feed. waiting, '
    'processing: rows of deliveries; a pushed delivery has one only if it waits for a retry, a due time or its key. '
    'oldest_due_at, oldest_due_age: since when the oldest due delivery waits to be sent or claimed; null: none is due. '
    'last_claim_at: when a worker last claimed, as far as a lease or an outcome tells. dead_letters: open ones';

-- API: public
create view outbox.lease_status as
select s.name as subscription,
    l.worker,
    case when l.bundled then cardinality(l.delivery_ids)::bigint else h.held end as deliveries,
    l.claimed_at,
    clock_timestamp() - l.claimed_at as age,
    l.expires_at,
    l.expires_at - clock_timestamp() as expires_in,
    l.deadline_at,
    case when l.bundled then l.delivery_ids else h.ids end as delivery_ids
from outbox.lease l
left join outbox.subscription s on s.id = l.subscription_id
cross join lateral (
    select count(*) as held, coalesce(array_agg(d.id order by d.id), '{}') as ids from outbox.delivery d
    where not l.bundled and d.id = any (l.delivery_ids) and d.lease = l.id
) h;
comment on view outbox.lease_status is
    'Which worker has which deliveries, one row per lease: deliveries that it still holds, for how long it has had them '
    '(age), and when the lease ends unless it is extended (expires_at, expires_in). A worker that holds nothing is not '
    'listed';

-- API: public
create function outbox.stats(tenant text default null) returns table (
    messages bigint,
    feed_end bigint,
    routed bigint,
    waiting bigint,
    dead_letters bigint,
    worker text,
    in_flight bigint,
    queued bigint,
    pending bigint,
    processing bigint,
    completed bigint,
    failed bigint,
    dead bigint,
    skipped bigint,
    expired bigint,
    cancelled bigint,
    total bigint
)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    with by_status as materialized (
        select c.state, c.deliveries from outbox.count_by_state(stats.tenant) c
        union all
        select 'skipped', sum(t.skipped)::bigint from outbox._message_counts t
        where case when stats.tenant is null then t.kind = 'topic' else t.kind = 'tenant' and t.name = stats.tenant end
    ), sums as (
        select coalesce(sum(s.deliveries) filter (where s.state = 'pending'), 0)::bigint as pending,
            coalesce(sum(s.deliveries) filter (where s.state = 'processing'), 0)::bigint as processing,
            coalesce(sum(s.deliveries) filter (where s.state = 'completed'), 0)::bigint as completed,
            coalesce(sum(s.deliveries) filter (where s.state = 'failed'), 0)::bigint as failed,
            coalesce(sum(s.deliveries) filter (where s.state = 'dead'), 0)::bigint as dead,
            coalesce(sum(s.deliveries) filter (where s.state = 'skipped'), 0)::bigint as skipped,
            coalesce(sum(s.deliveries) filter (where s.state = 'expired'), 0)::bigint as expired,
            coalesce(sum(s.deliveries) filter (where s.state = 'cancelled'), 0)::bigint as cancelled,
            coalesce(sum(s.deliveries), 0)::bigint as total
        from by_status s
    )
    select coalesce(pg_sequence_last_value('outbox._message_id'), 0),
        coalesce((select t.last_position from outbox.tick t order by t.id desc limit 1), 0),
        coalesce((select c.position from outbox.checkpoint c order by c.id desc limit 1), 0),
        (select count(*) from outbox._open),
        (select count(*) from outbox.dead_letter l where l.resolution = 'open'),
        w.state, w.in_flight, w.queued, s.*
    from outbox_internal.worker_slot() w cross join sums s;
end;
comment on function outbox.stats is
    'Returns the state of this database''s outbox. messages: the last message id; feed_end and routed: positions; waiting: '
    'deliveries that have not ended; dead_letters: open ones. worker: not preloaded, none, starting, running, push off, '
    'copied or failing. From pending on: the number of deliveries in each state (of a tenant; null: of all); skipped: '
    'messages that matched nothing';

insert into outbox._capability values
    ('monitor', 'function outbox.stats'),
    ('monitor', 'table outbox.tenant_stats'),
    ('monitor', 'table outbox.topic_stats'),
    ('monitor', 'table outbox.subscription_stats'),
    ('monitor', 'table outbox.subscription_status'),
    ('monitor', 'table outbox.lease_status');
