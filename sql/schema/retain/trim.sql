-- Trimming: removes bounded batches of old rows from small tables, and adds leaves of counters to totals before they are
-- emptied.

-- API: private
-- Rotates a ring of counters, and locks its closed leaves that have rows. Returns the leaves that could be locked.
create function outbox_internal.lock_closed_leaves(ring text) returns smallint[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform outbox_internal.rotate(ring, true);
    return array(
        select s.leaf from outbox.segment s
        where s.ring = lock_closed_leaves.ring and s.closed_at is not null and s.reclaimed_at is null
            and outbox_internal.lock_leaf_patiently(outbox_internal.leaf(s.ring, s.leaf))
    );
end
$$;

-- API: private
-- Empties locked leaves. Returns how many.
create function outbox_internal.empty_leaves(ring text, leaves smallint[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    leaf smallint;
begin
    foreach leaf in array leaves loop
        execute format('truncate only %s', outbox_internal.leaf(ring, leaf));
    end loop;
    update outbox.segment s set reclaimed_at = clock_timestamp()
    where s.ring = empty_leaves.ring and s.leaf = any (leaves);
    return cardinality(leaves);
end
$$;

-- API: private
-- Adds the closed leaves of outbox.counter to the totals and empties them. Returns how many leaves.
create function outbox_internal.roll_up() returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    closed smallint[] := outbox_internal.lock_closed_leaves('counter');
begin
    insert into outbox.counter_total as t
    select c.subscription_id, coalesce(c.endpoint_id, 0), c.outcome, sum(c.requests), sum(c.deliveries), sum(c.seconds),
        max(c.last_at)
    from outbox.counter c where c.segment = any (closed)
    group by 1, 2, 3
    on conflict (subscription_id, endpoint_id, outcome) do update
    set requests = t.requests + excluded.requests, deliveries = t.deliveries + excluded.deliveries,
        seconds = t.seconds + excluded.seconds, last_at = greatest(t.last_at, excluded.last_at);
    return outbox_internal.empty_leaves('counter', closed);
end
$$;

-- API: private
-- Removes at most `batch` rows that a small table has had for longer than `older_than`; null: they are retained for ever.
-- rows: how many were removed. bytes: the size of the rows; vacuum makes their space available again.
create function outbox_internal.trim(what text, older_than interval, batch int, out rows bigint, out bytes bigint)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    before timestamptz := clock_timestamp() - older_than;
begin
    rows := 0;
    bytes := 0;
    if older_than is null and what not in ('kept', 'commands') then
        return;
    end if;
    case what
        when 'dead_letters' then
            with gone as (
                delete from outbox.dead_letter l
                where l.id = any (array(
                    select d.id from outbox.dead_letter d
                    where d.resolution in ('resolved', 'ignored') and d.resolved_at < before
                    order by d.resolved_at limit batch
                ))
                returning pg_column_size(l) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
        when 'unresolved_dead_letters' then
            with gone as (
                delete from outbox.dead_letter l
                where l.id = any (array(
                    select d.id from outbox.dead_letter d
                    where d.resolution in ('open', 'requeued') and d.dead_at < before
                    order by d.dead_at limit batch
                ))
                returning pg_column_size(l) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
        when 'idempotency' then
            with gone as (
                delete from outbox._idempotency i
                where i.key = any (array(
                    select o.key from outbox._idempotency o
                    where o.remembered_at < before
                    order by o.remembered_at limit batch
                    -- a producer may be using one of them again
                    for update skip locked
                ))
                returning pg_column_size(i) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
        when 'audit' then
            with gone as (
                delete from outbox.audit a
                where a.id = any (array(select b.id from outbox.audit b where b.at < before order by b.id limit batch))
                returning pg_column_size(a) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
        when 'cancelled' then
            with gone as (
                delete from outbox.cancelled c
                where c.message_id = any (array(
                    select k.message_id from outbox.cancelled k
                    where k.cancelled_at < before
                        and not exists (select from outbox.message m where m.id = k.message_id)
                    limit batch
                ))
                returning pg_column_size(c) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
        when 'commands' then
            -- These have an expiry of their own.
            with gone as (
                delete from outbox.command c
                where c.key = any (array(
                    select k.key from outbox.command k
                    where k.expires_at <= clock_timestamp()
                    order by k.expires_at limit batch
                    -- a session may be processing the command again
                    for update skip locked
                ))
                returning pg_column_size(c) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
        when 'kept' then
            -- retained messages that no delivery or dead letter needs any more
            with gone as (
                delete from outbox._message_retained k
                where k.id = any (array(
                    select m.id from outbox._message_retained m
                    where not exists (select from outbox.delivery d where d.message_id = m.id)
                        and not exists (
                            select from outbox._bundle b where b.messages @> m.id and m.id = any (b.message_ids)
                        )
                        and not exists (
                            select from outbox.dead_letter l
                            where l.message_id = m.id and l.resolution in ('open', 'requeued')
                        )
                    limit batch
                ))
                returning pg_column_size(k) as size
            )
            select count(*), coalesce(sum(g.size), 0) into rows, bytes from gone g;
    end case;
end
$$;

-- API: private
-- Adds the closed leaves of outbox.message_counter to the totals and empties them. Returns how many leaves.
create function outbox_internal.roll_up_message_counters() returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Names of each kind that are kept. The others, which were seen longest ago, are added up in one row with an empty name.
    most constant int := 10000;
    closed smallint[] := outbox_internal.lock_closed_leaves('message_counter');
begin
    insert into outbox.message_counter_total as t (kind, name, messages, matched, skipped, last_at)
    select c.kind, c.name, sum(c.messages), sum(c.matched), sum(c.skipped), max(c.last_at)
    from outbox.message_counter c where c.segment = any (closed)
    group by 1, 2
    on conflict (kind, name) do update
    set messages = t.messages + excluded.messages, matched = t.matched + excluded.matched,
        skipped = t.skipped + excluded.skipped, last_at = greatest(t.last_at, excluded.last_at);
    with old as (
        select n.kind, n.name from (
            select t.kind, t.name, row_number() over (partition by t.kind order by t.last_at desc, t.name) as place
            from outbox.message_counter_total t where t.name <> ''
        ) n
        where n.place > most
    ), gone as (
        delete from outbox.message_counter_total t using old o where t.kind = o.kind and t.name = o.name returning t.*
    )
    insert into outbox.message_counter_total as t (kind, name, messages, matched, skipped, last_at)
    select g.kind, '', sum(g.messages), sum(g.matched), sum(g.skipped), max(g.last_at) from gone g group by g.kind
    on conflict (kind, name) do update
    set messages = t.messages + excluded.messages, matched = t.matched + excluded.matched,
        skipped = t.skipped + excluded.skipped, last_at = greatest(t.last_at, excluded.last_at);
    return outbox_internal.empty_leaves('message_counter', closed);
end
$$;
