-- Outcomes that the dispatcher writes in addition to its bulk appends: the exceptions. Each function takes parallel arrays
-- with one entry per delivery. It is called in the transaction that also appends the attempts and the checkpoint.

-- API: private
-- Lowers the claim hints: a delivery of a pull subscription can be claimed from due_at on, for the first time or again. With
-- a negative subscription_id it is a bundle of that subscription. Without this call, claims would start their scan after the
-- delivery. Not called for deliveries that the router has made.
create function outbox_internal.lower_claim_hint(subscription_id int, priority int, due_at timestamptz) returns void
language c volatile strict as 'MODULE_PATHNAME', 'outbox_lower_claim_hint';

-- API: private
-- Records deliveries that failed and are tried again at due_at. delivery_id 0: the delivery has no row yet.
-- payloads: what transforms have made, of deliveries without a row.
create function outbox_internal.record_failed(
    delivery_ids bigint[],
    subscription_ids int[],
    positions bigint[],
    message_ids bigint[],
    segments smallint[],
    attempts int[],
    due_us bigint[],
    started_us bigint[],
    statuses smallint[],
    classes text[],
    errors text[],
    payloads text[]
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.delivery as d (subscription_id, position, message_id, message_segment, state, attempt, due_at,
        first_attempt_at, last_attempt_at, last_status, last_error_class, last_error, payload)
    select u.subscription_id, u.position, u.message_id, u.segment, 'failed', u.attempt, outbox_internal.time(u.due_at),
        outbox_internal.time(u.started_at), outbox_internal.time(u.started_at), u.status, u.class, u.error,
        u.payload::jsonb
    from unnest(delivery_ids, subscription_ids, positions, message_ids, segments, attempts, due_us, started_us, statuses,
        classes, errors, payloads)
        u(delivery_id, subscription_id, position, message_id, segment, attempt, due_at, started_at, status, class, error,
            payload)
    where u.delivery_id = 0
    on conflict (subscription_id, position, run) do update
    set state = 'failed', attempt = excluded.attempt, due_at = excluded.due_at, last_attempt_at = excluded.last_attempt_at,
        last_status = excluded.last_status, last_error_class = excluded.last_error_class,
        last_error = excluded.last_error, updated_at = clock_timestamp();

    update outbox.delivery d
    set state = 'failed', attempt = u.attempt, due_at = outbox_internal.time(u.due_at),
        first_attempt_at = coalesce(d.first_attempt_at, outbox_internal.time(u.started_at)),
        last_attempt_at = outbox_internal.time(u.started_at), last_status = u.status, last_error_class = u.class,
        last_error = u.error, updated_at = clock_timestamp()
    from unnest(delivery_ids, attempts, due_us, started_us, statuses, classes, errors)
        u(delivery_id, attempt, due_at, started_at, status, class, error)
    where d.id = u.delivery_id;
end;

-- API: private
-- Records deliveries that become dead letters. delivery_id 0: the delivery has no row.
create function outbox_internal.record_dead(
    delivery_ids bigint[],
    subscription_ids int[],
    endpoint_ids int[],
    positions bigint[],
    message_ids bigint[],
    segments smallint[],
    attempts int[],
    started_us bigint[],
    reasons text[],
    statuses smallint[],
    classes text[],
    errors text[],
    payloads text[]
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.dead_letter (delivery_id, subscription_id, endpoint_id, position, message_id, message_segment,
        attempt, state, reason, last_status, last_error_class, last_error, url, first_attempt_at, last_attempt_at,
        created_at, payload)
    select nullif(u.delivery_id, 0), u.subscription_id, u.endpoint_id, u.position, u.message_id,
        -- the message may have been retained, and its leaf truncated, while it was in flight
        coalesce(d.message_segment, u.segment), u.attempt,
        case u.reason when 'expired' then 'expired' else 'dead' end, u.reason, u.status, u.class, u.error, e.url,
        coalesce(d.first_attempt_at, outbox_internal.time(u.started_at)), outbox_internal.time(u.started_at),
        coalesce(d.created_at, clock_timestamp()),
        -- the message may have been erased while the first attempt was in flight
        coalesce(d.payload, case when u.payload is not null and outbox_internal.erased_because(u.message_id) is null
            then u.payload::jsonb end)
    from unnest(delivery_ids, subscription_ids, endpoint_ids, positions, message_ids, segments, attempts, started_us,
        reasons, statuses, classes, errors, payloads)
        u(delivery_id, subscription_id, endpoint_id, position, message_id, segment, attempt, started_at, reason, status,
            class, error, payload)
    left join outbox.delivery d on d.id = u.delivery_id
    left join outbox.endpoint e on e.id = u.endpoint_id
    -- an operator may have moved it to the dead letters, or cancelled it, while it was in flight
    where u.delivery_id = 0 or d.id is not null;

    delete from outbox.delivery d where d.id = any (delivery_ids);
end;

-- API: private
-- Deletes the rows of deliveries that have ended. A dead letter that an operator made of one while it was in flight is
-- resolved.
create function outbox_internal.record_completed(delivery_ids bigint[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    delete from outbox.delivery d where d.id = any (delivery_ids);

    update outbox.dead_letter l
    set resolution = 'resolved', resolved_at = clock_timestamp(), resolved_by = 'pg_outbox',
        resolution_note = 'delivered by a try that was in flight'
    where l.delivery_id = any (delivery_ids) and l.resolution = 'open';
end;

-- API: private
-- Records the state of endpoints. Times are in microseconds, as outbox_internal.time() takes them.
create function outbox_internal.record_endpoint_states(
    endpoint_ids int[],
    breakers text[],
    until_us bigint[],
    times int[],
    paused_us bigint[],
    failing_us bigint[],
    failures bigint[],
    success_us bigint[],
    failure_us bigint[],
    errors text[]
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.endpoint_state as s (endpoint_id, breaker, breaker_until, breaker_times, paused_until, failing_since,
        failures, last_success_at, last_failure_at, last_error)
    select u.endpoint_id, u.breaker, outbox_internal.time(u.until), u.times, outbox_internal.time(u.paused),
        outbox_internal.time(u.failing),
        u.failures, outbox_internal.time(u.success), outbox_internal.time(u.failure), u.error
    from unnest(endpoint_ids, breakers, until_us, times, paused_us, failing_us, failures, success_us, failure_us, errors)
        u(endpoint_id, breaker, until, times, paused, failing, failures, success, failure, error)
    on conflict (endpoint_id) do update
    set breaker = excluded.breaker, breaker_until = excluded.breaker_until, breaker_times = excluded.breaker_times,
        paused_until = excluded.paused_until, failing_since = excluded.failing_since, failures = excluded.failures,
        last_success_at = excluded.last_success_at, last_failure_at = excluded.last_failure_at,
        last_error = excluded.last_error, updated_at = clock_timestamp();
end;

-- API: private
-- Disables an endpoint that has failed for too long, or whose receiver asked for it, and enqueues a message about it on the
-- topic outbox.endpoint.disabled.
create function outbox_internal.give_up_endpoint(endpoint_id int, reason text, detail text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    e outbox.endpoint;
    s outbox.endpoint_state;
begin
    update outbox.endpoint p set active = false, disabled_mode = 'hold', disabled_reason = format('%s: %s', reason, detail),
        disabled_at = clock_timestamp(), updated_at = clock_timestamp()
    where p.id = give_up_endpoint.endpoint_id and p.active and p.deleted_at is null
    returning * into e;
    if e.id is null then
        return;
    end if;
    select * into s from outbox.endpoint_state t where t.endpoint_id = e.id;
    perform outbox_internal.enqueue_own('outbox.endpoint.disabled', jsonb_build_object(
        'endpoint', e.name, 'endpoint_id', e.id, 'tenant', e.tenant, 'url', e.url, 'reason', reason, 'detail', detail,
        'failures', s.failures, 'failing_since', s.failing_since, 'disabled_at', e.disabled_at));
    perform outbox_internal.enqueue_own('outbox.control',
        jsonb_build_object('endpoint', e.id, 'name', e.name, 'change', 'disabled'));
end
$$;

-- API: private
-- Records deliveries that the dispatcher ended without an attempt: skipped, or dead. delivery_id 0: the delivery has no row.
-- run: 0, or the replay to which the deliveries belong.
create function outbox_internal.record_decisions(
    delivery_ids bigint[],
    subscription_ids int[],
    positions bigint[],
    message_ids bigint[],
    segments smallint[],
    outcomes text[],
    reasons text[],
    errors text[],
    run bigint default 0
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run, subscription_id,
        endpoint_id, attempt, outcome, error_class, error)
    select (select outbox_internal.current_leaf('attempt')), u.position, u.message_id, clock_timestamp(), clock_timestamp(),
        nullif(u.delivery_id, 0), run, u.subscription_id, s.endpoint_id, 0, u.outcome, u.reason,
        coalesce(u.error, u.reason)
    from unnest(delivery_ids, subscription_ids, positions, message_ids, outcomes, reasons, errors)
        u(delivery_id, subscription_id, position, message_id, outcome, reason, error)
    left join outbox.subscription s on s.id = u.subscription_id;

    insert into outbox.dead_letter (delivery_id, subscription_id, endpoint_id, position, message_id, message_segment,
        attempt, reason, last_error_class, last_error, url, created_at)
    select nullif(u.delivery_id, 0), u.subscription_id, s.endpoint_id, u.position, u.message_id, u.segment, 0, u.reason,
        u.reason, u.error, e.url, clock_timestamp()
    from unnest(delivery_ids, subscription_ids, positions, message_ids, segments, outcomes, reasons, errors)
        u(delivery_id, subscription_id, position, message_id, segment, outcome, reason, error)
    left join outbox.subscription s on s.id = u.subscription_id
    left join outbox.endpoint e on e.id = s.endpoint_id
    where u.outcome = 'dead';

    -- later deliveries of their keys may go on
    with gone as (
        delete from outbox.delivery d where d.id = any (delivery_ids) returning d.subscription_id, d.key
    )
    insert into outbox._freed_key (subscription_id, key)
    select g.subscription_id, g.key from gone g where g.key is not null;

    select outbox_internal.count_ended(subscription_ids, outcomes);
end;
