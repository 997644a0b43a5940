-- Bundles: up to a hundred deliveries of a pull subscription in one row.
--
-- A row per delivery costs several times as much as the message: the row has entries in four indexes, all of them are
-- written again when the row is claimed, and each delivery adds a row to the attempt log. Where the router makes many
-- deliveries at once, it puts those that differ only in their message (no order, priority, time or budget of their own) into
-- one row. A worker that asks for that many deliveries claims, completes and logs a bundle as one row. A session that needs
-- a single delivery of a bundle first splits the bundle into rows of outbox.delivery.
--
-- Only the session that has locked the lease may split a leased bundle. All other sessions treat every delivery of the
-- bundle as leased.

-- API: private
-- Stores one bundle. The router calls this in the transaction of its checkpoint. A bundle has at most 100 positions, and the
-- last position is less than 10000 after the first.
create function outbox_internal.open_bundle(
    subscription_id int,
    segment smallint,
    due_us bigint,
    positions bigint[],
    message_ids bigint[]
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox._bundle (subscription_id, due_at, message_segment, deliveries, messages, delivery_ids, positions,
        message_ids)
    select subscription_id, outbox_internal.time(due_us), segment, int8range(d.lowest, d.highest, '[]'),
        int8range(m.lowest, m.highest, '[]'), d.ids, positions, message_ids
    from (
        select array_agg(n.id) as ids, min(n.id) as lowest, max(n.id) as highest
        from (select nextval('outbox.delivery_id_seq') as id from generate_series(1, cardinality(positions))) n
    ) d
    cross join (select min(u) as lowest, max(u) as highest from unnest(message_ids) u) m;
end;

-- API: private
-- The deliveries in bundles, one row each. messages: the range of message ids of the bundle, with which the index finds the
-- bundle of a message.
create view outbox._bundled as
select u.id, b.subscription_id, u."position", u.message_id, b.message_segment,
    case when b.lease is null then 'pending' else 'processing' end as state, case when b.lease is null then 0 else 1 end as attempt,
    b.due_at, b.lease, b.messages
from outbox._bundle b
cross join lateral unnest(b.delivery_ids, b.positions, b.message_ids) u(id, "position", message_id);

-- API: private
-- Splits bundles into rows of outbox.delivery. The caller has locked the bundles.
create function outbox_internal.unbundle(ids bigint[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
begin
    if cardinality(ids) = 0 then
        return;
    end if;
    perform outbox_internal.lower_claim_hint(b.subscription_id, 0, b.due_at)
    from outbox._bundle b where b.id = any (ids) and b.lease is null;
    with gone as (
        delete from outbox._bundle b where b.id = any (ids) returning b.*
    )
    insert into outbox.delivery (id, subscription_id, position, message_id, message_segment, pull, state, attempt, due_at,
        lease, first_attempt_at, last_attempt_at, created_at, updated_at)
    select u.id, g.subscription_id, u.position, u.message_id, g.message_segment, true,
        case when g.lease is null then 'pending' else 'processing' end, case when g.lease is null then 0 else 1 end, g.due_at,
        g.lease, l.claimed_at, l.claimed_at, g.due_at, coalesce(l.claimed_at, g.due_at)
    from gone g
    left join outbox.lease l on l.id = g.lease
    cross join lateral unnest(g.delivery_ids, g.positions, g.message_ids) u(id, position, message_id);
end
$$;

-- API: private
-- Splits the bundles of a lease that the caller has locked.
create function outbox_internal.unbundle_lease(token bigint) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
begin
    perform outbox_internal.unbundle(array(select b.id from outbox._bundle b where b.lease = token for update));
    update outbox.lease l set bundled = false where l.id = token;
end
$$;

-- API: private
-- Splits the waiting (not leased) bundles that contain one of these messages. wait: true waits for a bundle that another
-- session has locked, false skips that bundle.
create function outbox_internal.unbundle_messages(ids bigint[], wait boolean) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
    if wait then
        perform outbox_internal.unbundle(array(
            select b.id
            from unnest(ids) u(id) join outbox._bundle b on b.messages @> u.id and u.id = any (b.message_ids)
            where b.lease is null
            for update of b
        ));
    else
        perform outbox_internal.unbundle(array(
            select b.id
            from unnest(ids) u(id) join outbox._bundle b on b.messages @> u.id and u.id = any (b.message_ids)
            where b.lease is null
            for update of b skip locked
        ));
    end if;
end
$$;

-- API: private
-- Splits the waiting (not leased) bundle that contains this delivery.
create function outbox_internal.unbundle_delivery(delivery_id bigint) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    perform outbox_internal.unbundle(array(
        select b.id from outbox._bundle b
        where b.deliveries @> delivery_id and delivery_id = any (b.delivery_ids) and b.lease is null
        for update
    ));
end
$$;

-- API: private
-- The lease of the bundle that contains this delivery. Null: the delivery is in no bundle, or its bundle is not leased.
create function outbox_internal.bundle_holder(delivery_id bigint) returns outbox.lease
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select l
    from outbox._bundle b
    join outbox.lease l on l.id = b.lease
    where b.deliveries @> delivery_id and delivery_id = any (b.delivery_ids);
end;

-- API: private
-- The deliveries of one message that have not ended, both those with a row of their own and those in bundles.
create function outbox_internal.open_of(message_id bigint) returns table (
    id bigint,
    subscription_id int,
    place bigint,
    state text,
    attempt int,
    due_at timestamptz,
    lease bigint,
    last_error text
)
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select d.id, d.subscription_id, d."position", d.state, d.attempt, d.due_at, d.lease, d.last_error
    from outbox.delivery d
    where d.message_id = open_of.message_id
    union all
    select b.id, b.subscription_id, b."position", b.state, b.attempt, b.due_at, b.lease, null
    from outbox._bundled b
    where b.messages @> open_of.message_id and b.message_id = open_of.message_id;
end;

-- API: private
-- All deliveries that have not ended, both those with a row of their own and those in bundles. For counts and lists.
create view outbox._open as
select d.subscription_id, d.message_id, d.message_segment, d.state from outbox.delivery d
union all
select b.subscription_id, b.message_id, b.message_segment, b.state from outbox._bundled b;
