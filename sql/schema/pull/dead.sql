-- Deliveries that end without success: moved to the dead letters, or dropped.

-- API: private
-- Moves deliveries from outbox.delivery to outbox.dead_letter and returns how many. The caller has locked the deliveries.
--
-- - reasons: one per delivery, dead_letter.reason.
-- - note: true writes an entry to the attempt log and counts the outcome. Pass true where no attempt has just ended.
-- - errors: one per delivery, where the error differs from that of the last attempt.
create function outbox_internal.dead_letter_deliveries(
    ids bigint[],
    reasons text[],
    note boolean,
    errors text[] default null
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    buried bigint;
begin
    if note then
        perform outbox_internal.count_ended(array_agg(d.subscription_id),
            array_agg(case u.reason when 'expired' then 'expired' else 'dead' end))
        from unnest(ids, reasons) u(id, reason) join outbox.delivery d on d.id = u.id;
    end if;
    with gone as (
        delete from outbox.delivery d using unnest(ids, reasons, errors) u(id, reason, error) where d.id = u.id
        returning d.*, u.reason, u.error, case u.reason when 'expired' then 'expired' else 'dead' end as fate
    ), freed as (
        insert into outbox._freed_key (subscription_id, key)
        select g.subscription_id, g.key from gone g where g.key is not null
    ), logged as (
        insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run,
            subscription_id, endpoint_id, attempt, outcome, error_class, error)
        select (select outbox_internal.current_leaf('attempt')), g.position, g.message_id, clock_timestamp(),
            clock_timestamp(), g.id, g.run, g.subscription_id, s.endpoint_id, 0, g.fate, g.reason, g.error
        from gone g
        left join outbox.subscription s on s.id = g.subscription_id
        where note
    )
    insert into outbox.dead_letter (delivery_id, subscription_id, endpoint_id, position, message_id, message_segment,
        attempt, state, reason, key, last_status, last_error_class, last_error, url, first_attempt_at, last_attempt_at,
        created_at, payload)
    select g.id, g.subscription_id, s.endpoint_id, g.position, g.message_id, g.message_segment, g.attempt, g.fate,
        g.reason, g.key, g.last_status,
        case when g.error is null then g.last_error_class else g.reason end, coalesce(g.error, g.last_error), e.url,
        g.first_attempt_at, g.last_attempt_at,
        g.created_at, g.payload
    from gone g
    left join outbox.subscription s on s.id = g.subscription_id
    left join outbox.endpoint e on e.id = s.endpoint_id;
    get diagnostics buried = row_count;
    return buried;
end
$$;

-- API: private
-- Ends deliveries without a dead letter, with an entry in the attempt log for each, and returns how many. The caller has
-- locked the deliveries. outcome: cancelled or skipped.
create function outbox_internal.drop_deliveries(ids bigint[], outcome text, error text default null) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    dropped bigint;
begin
    perform outbox_internal.count_ended(array_agg(d.subscription_id),
        array_fill(drop_deliveries.outcome, array[count(*)::int]))
    from outbox.delivery d where d.id = any (ids);
    with gone as (
        delete from outbox.delivery d where d.id = any (ids) returning *
    ), freed as (
        insert into outbox._freed_key (subscription_id, key)
        select g.subscription_id, g.key from gone g where g.key is not null
    )
    insert into outbox.attempt (segment, position, message_id, started_at, finished_at, delivery_id, run,
        subscription_id, endpoint_id, attempt, outcome, error)
    select (select outbox_internal.current_leaf('attempt')), g.position, g.message_id, clock_timestamp(), clock_timestamp(),
        g.id, g.run, g.subscription_id, s.endpoint_id, 0, drop_deliveries.outcome, drop_deliveries.error
    from gone g
    left join outbox.subscription s on s.id = g.subscription_id;
    get diagnostics dropped = row_count;
    return dropped;
end
$$;

-- API: private
-- Ends the waiting deliveries of those messages that are cancelled. Called by the router, because cancel() could not see the
-- deliveries that the router had not committed. in_flight: ids of the deliveries that the dispatcher has sent, which are
-- left alone. Deliveries that a claim has just locked are skipped too, and ended in a later pass.
create function outbox_internal.end_cancelled(message_ids bigint[], in_flight bigint[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    called_off bigint[];
    ids bigint[];
begin
    if not outbox_internal.cancelled_near(message_ids) then
        return 0;
    end if;
    called_off := array(
        select c.message_id from unnest(message_ids) u(message_id) join outbox.cancelled c on c.message_id = u.message_id
    );
    perform outbox_internal.unbundle_messages(called_off, false);
    ids := array(
        select d.id
        from unnest(called_off) u(message_id)
        join outbox.delivery d on d.message_id = u.message_id
        where d.state <> 'processing' and d.id <> all (in_flight)
        for update of d skip locked
    );
    return case when cardinality(ids) = 0 then 0 else outbox_internal.drop_deliveries(ids, 'cancelled') end;
end
$$;

-- API: private
-- Shortens a text from outside for storage: a text of more than 4096 bytes is cut to its first 1000 characters, which is
-- enough to see what happened.
create function outbox_internal.shorten(message text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
return case when octet_length(message) > 4096 then left(message, 1000) || ' ...' else message end;
