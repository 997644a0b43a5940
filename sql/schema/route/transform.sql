-- Transforms: functions of the user that make the payload of a subscription's deliveries.
--
-- - A transform is a function (message outbox.feed_message) returns jsonb, declared immutable or stable. The function
--   runs as its owner, for at most pg_outbox.transform_timeout, in a subtransaction that is undone: it has a result, and no
--   other effect. Advisory locks of the session, which no subtransaction undoes, are released by the dispatcher. A function
--   that has ended a dispatcher is not called again before it is replaced.
-- - The router calls it once per delivery. The row of the delivery keeps the result, so all attempts send the same payload.
--   A first attempt over HTTP has no row yet; after a crash, the router calls the transform again.
-- - null: the message is not for the subscription, and the delivery is skipped. An error: the delivery is a dead letter with
--   the reason transform_failed, and the transform is called again when it is requeued.

-- API: private
-- Returns the qualified signature of a transform, and its owner, whose rights the caller must have.
create function outbox_internal.check_transform(caller oid, inout transform text, out owner text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    checked record;
begin
    if transform is null then
        return;
    end if;
    select * into checked
    from outbox_internal.check_function(caller, 'outbox.feed_message', 'jsonb', 'transform', transform);
    if (select p.provolatile from pg_proc p where p.oid = to_regprocedure(checked.signature)) = 'v' then
        raise exception 'function "%" is volatile', left(transform, 255) using errcode = 'invalid_parameter_value',
            hint = 'A transform changes nothing: declare it immutable, or stable if it reads tables.';
    end if;
    transform := checked.signature;
    owner := checked.owner;
end
$$;

-- API: private
-- A message as a transform gets it. Its epoch is null.
create function outbox_internal.transformable(place bigint, m outbox.message) returns outbox.feed_message
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select row(place, null, (m).id, outbox.webhook_id((m).id, (m).enqueued_at), (m).topic, (m).key, (m).payload, (m).body,
        (m).content_type, (m).headers, (m).metadata, (m).tenant,
        case when (m).segment = -2 then outbox.category((m).key) else (m).aggregate_type end,
        case when (m).segment = -2 then outbox.stream_key((m).key) else (m).aggregate_id end,
        (m).publisher, (m).idempotency_key, (m).occurred_at, (m).enqueued_at, (m).version, (m).event_id
    )::outbox.feed_message;
end;

-- API: private
-- Calls a transform as its owner, and undoes everything else that it did. Returns the payload, as JSON, and the error, one
-- of which is null; or two nulls: the transform returned null. Returns null if `until` is over.
create function outbox_internal.call_transform(function oid, message outbox.feed_message, until timestamptz)
returns text[]
language c volatile
as 'MODULE_PATHNAME', 'outbox_call_transform';

-- API: private
-- Calls a transform with messages, one after another, until `until`. Returns one result per message, for the first of them.
create function outbox_internal.transform(
    transform text,
    owner text,
    positions bigint[],
    message_ids bigint[],
    segments smallint[],
    until timestamptz
) returns table (payload text, error text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_variable
declare
    function oid := outbox_internal.registered_function('transform', transform, owner);
    own outbox.message;
    result text[];
begin
    for i in 1 .. cardinality(positions) loop
        select * into own from outbox.message m where m.segment = segments[i] and m.id = message_ids[i];
        if own.id is null or own.payload is null and own.body is null then
            result := array[null, 'the message is gone'];
        else
            result := outbox_internal.call_transform(function, outbox_internal.transformable(positions[i], own), until);
        end if;
        exit when result is null;
        payload := result[1];
        error := result[2];
        return next;
    end loop;
end
$$;

-- API: private
-- Calls the transform of a subscription, if it has one, with one message. Returns the payload; null: that of the message, or
-- `filtered` or `error` says why there is none.
create function outbox_internal.transform_one(
    target outbox.subscription,
    place bigint,
    own outbox.message,
    out payload jsonb,
    out filtered boolean,
    out error text
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    result text[];
begin
    filtered := false;
    if target.transform is null then
        return;
    end if;
    result := outbox_internal.call_transform(
        outbox_internal.registered_function('transform', target.transform, target.transform_owner),
        outbox_internal.transformable(place, own), null);
    payload := result[1]::jsonb;
    error := result[2];
    filtered := payload is null and error is null;
end
$$;
