-- Messages, deliveries and attempts as views: one row each, with names instead of ids.

-- API: public
create view outbox.attempt_log as
select a.position, a.message_id, a.delivery_id, a.subscription_id, a.endpoint_id, a.run, a.attempt, a.outcome, a.status,
    a.error_class, a.error, a.worker, a.started_at, a.finished_at, a.remote_address, a.response_id, a.response_headers,
    a.response_body, a.results
from outbox.attempt a
where a.positions is null
union all
select m.position, m.message_id, m.delivery_id, a.subscription_id, a.endpoint_id, a.run, a.attempt,
    coalesce(r.result ->> 'outcome', a.outcome), coalesce((r.result ->> 'status')::smallint, a.status), a.error_class, a.error,
    a.worker, a.started_at, a.finished_at, a.remote_address, a.response_id, a.response_headers, a.response_body, null
from outbox.attempt a
cross join lateral unnest(a.message_ids, a.positions, a.delivery_ids) with ordinality m(message_id, position, delivery_id, i)
cross join lateral (select a.results -> (m.i::int - 1) as result) r
where a.positions is not null;
comment on view outbox.attempt_log is
    'The attempt log with one row per message and attempt: requests and bundles with several messages are split into rows. '
    'For counting and joining; use history() for one message';

-- API: public
-- Deliveries that wait or are worked on, dead letters, and completed or cancelled ones as long as they are in the attempt
-- log.
create view outbox.delivery_status as
select d.id as delivery_id,
    s.name as subscription,
    e.name as endpoint,
    d.message_id,
    d.position,
    d.pull,
    d.state,
    d.attempt,
    coalesce(d.max_attempts, s.max_attempts) as max_attempts,
    greatest(d.attempt - case d.state when 'processing' then 1 else 0 end, 0) as retry_count,
    d.attempt < coalesce(d.max_attempts, s.max_attempts) as can_retry,
    d.priority,
    l.worker as locked_by,
    l.claimed_at as locked_at,
    l.expires_at as lease_expires_at,
    case when d.state <> 'processing' then d.due_at end as next_attempt_at,
    case when d.state <> 'processing' then greatest(d.due_at - clock_timestamp(), interval '0') end as retry_in,
    nullif(d.expires_at, 'infinity') as expires_at,
    nullif(d.expires_at, 'infinity') - clock_timestamp() as expires_in,
    clock_timestamp() - d.created_at as age,
    d.state <> 'processing' and not d.blocked and d.due_at <= clock_timestamp() as is_due,
    coalesce(d.expires_at <= clock_timestamp(), false) as is_expired,
    d.blocked as is_blocked,
    d.last_status,
    d.last_error_class as error_class,
    d.last_error,
    d.created_at,
    d.updated_at,
    d.first_attempt_at as processed_at,
    d.last_attempt_at,
    null::timestamptz as completed_at
from outbox.delivery d
left join outbox.subscription s on s.id = d.subscription_id
left join outbox.endpoint e on e.id = s.endpoint_id
left join outbox.lease l on l.id = d.lease
union all
select b.id, s.name, null, b.message_id, b.position, true, b.state, b.attempt, s.max_attempts, 0,
    s.max_attempts > b.attempt, 0::smallint, l.worker, l.claimed_at, l.expires_at,
    case when b.lease is null then b.due_at end,
    case when b.lease is null then greatest(b.due_at - clock_timestamp(), interval '0') end, null, null,
    clock_timestamp() - b.due_at, b.lease is null and b.due_at <= clock_timestamp(), false, false, null, null, null,
    b.due_at, coalesce(l.claimed_at, b.due_at), l.claimed_at, l.claimed_at, null
from outbox._bundled b
left join outbox.subscription s on s.id = b.subscription_id
left join outbox.lease l on l.id = b.lease
union all
select l.delivery_id, s.name, e.name, l.message_id, l.position, l.endpoint_id is null, l.state, l.attempt, s.max_attempts,
    l.attempt, false, 0::smallint, null, null, null, null, null, null, null, clock_timestamp() - l.created_at, false,
    l.state = 'expired', false, l.last_status, l.last_error_class, l.last_error, l.created_at, coalesce(l.resolved_at, l.dead_at),
    l.first_attempt_at, l.last_attempt_at, null
from outbox.dead_letter l
left join outbox.subscription s on s.id = l.subscription_id
left join outbox.endpoint e on e.id = l.endpoint_id
where l.resolution <> 'requeued'
union all
select a.delivery_id, s.name, e.name, a.message_id, a.position, a.endpoint_id is null, a.outcome, a.attempt, s.max_attempts,
    greatest(a.attempt - 1, 0), false, 0::smallint, a.worker, null, null, null, null, null, null,
    clock_timestamp() - a.finished_at, false, false, false, a.status, a.error_class, a.error, a.started_at, a.finished_at,
    a.started_at, a.started_at, case a.outcome when 'completed' then a.finished_at end
from outbox.attempt_log a
left join outbox.subscription s on s.id = a.subscription_id
left join outbox.endpoint e on e.id = a.endpoint_id
where a.run = 0 and a.outcome in ('completed', 'cancelled');
comment on view outbox.delivery_status is
    'Deliveries: one message for one subscription. state: pending, processing, failed (waits for a retry), dead, expired, '
    'completed, cancelled. next_attempt_at null: no attempt is planned';

-- API: public
create view outbox.message_status as
select m.id as message_id,
    outbox.webhook_id(m.id, m.enqueued_at) as webhook_id,
    outbox_internal.message_state(m.id) as state,
    m.topic,
    m.key,
    m.tenant,
    case when m.segment = -2 then outbox.category(m.key) else m.aggregate_type end as aggregate_type,
    case when m.segment = -2 then outbox.stream_key(m.key) else m.aggregate_id end as aggregate_id,
    m.publisher,
    m.priority,
    m.enqueued_at,
    m.occurred_at,
    m.deliver_at,
    m.expires_at,
    m.max_attempts,
    m.idempotency_key,
    m.content_type,
    m.headers,
    m.metadata,
    m.metadata ->> 'correlation_id' as correlation_id,
    m.metadata ->> 'causation_id' as causation_id,
    m.metadata ->> 'user_id' as user_id,
    m.metadata ->> 'traceparent' as traceparent,
    m.metadata ->> 'tracestate' as tracestate,
    m.metadata ->> 'schema_version' as schema_version,
    m.metadata -> 'privacy' as privacy,
    m.headers ->> 'severity' as severity,
    m.payload,
    m.body
from outbox.message m;
comment on view outbox.message_status is
    'Messages, with the reserved keys of their metadata as columns, and their state: the first of processing, pending, '
    'failed, completed (at least one delivery), dead, expired, cancelled, skipped that holds. The status is looked up row '
    'by row: select by id, or use list_messages()';

insert into outbox._capability values
    ('monitor', 'table outbox.attempt_log'),
    ('monitor', 'table outbox.delivery_status'),
    ('monitor', 'table outbox.message_status');
