-- Ended subscriptions, and deliveries that end before they were tried.

-- API: private
-- Pull subscriptions that have ended and may still have deliveries. A delivery that another session had locked at that
-- moment, that a worker has, or that the router was just making is ended by a later pass.
create table outbox._ended_subscription (
    subscription_id int not null
);
select pg_catalog.pg_extension_config_dump('outbox._ended_subscription', '');

-- API: private
-- Records deliveries that have no row and end before they were tried: they expired while their subscription lagged, or were
-- cancelled. outcomes: expired or cancelled; an expired delivery becomes a dead letter.
create function outbox_internal.record_ended(
    subscription_ids int[],
    positions bigint[],
    message_ids bigint[],
    segments smallint[],
    outcomes text[]
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.attempt (segment, position, message_id, started_at, finished_at, run, subscription_id, endpoint_id,
        attempt, outcome)
    select (select outbox_internal.current_leaf('attempt')), u.position, u.message_id, clock_timestamp(), clock_timestamp(),
        0, u.subscription_id, s.endpoint_id, 0, u.outcome
    from unnest(subscription_ids, positions, message_ids, outcomes) u(subscription_id, position, message_id, outcome)
    left join outbox.subscription s on s.id = u.subscription_id;

    insert into outbox.dead_letter (subscription_id, endpoint_id, position, message_id, message_segment, attempt, state,
        reason, url, created_at)
    select u.subscription_id, s.endpoint_id, u.position, u.message_id, u.segment, 0, 'expired', 'expired', e.url,
        clock_timestamp()
    from unnest(subscription_ids, positions, message_ids, segments, outcomes)
        u(subscription_id, position, message_id, segment, outcome)
    left join outbox.subscription s on s.id = u.subscription_id
    left join outbox.endpoint e on e.id = s.endpoint_id
    where u.outcome = 'expired';

    select outbox_internal.count_ended(subscription_ids, outcomes);
end;
