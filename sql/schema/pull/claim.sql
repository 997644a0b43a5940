-- Claiming: workers lease deliveries that are due.
--
-- A claim scans an index from the first delivery that is due and skips locked rows. So a claim waits for no other session,
-- and its cost is that of the rows that it takes. The plan settings of each function are part of that: with the statistics
-- of a young table, the planner would read and sort every delivery that is due.
--
-- The library's module `sql::cycle` does the same without the executor for claims that find something. So these functions see
-- the other cases: a session's first claim from a subscription, nothing is due, a bundle has to be split into rows, the
-- isolation level is a stricter one, or a table has been altered.

-- API: private
-- Returns the pull subscription of this name. Raises OB001 if there is none, and OB004 if it is pushed to an endpoint.
create function outbox_internal.pull_subscription(name text) returns outbox.subscription
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found outbox.subscription;
begin
    select * into found from outbox.subscription s where s.name = pull_subscription.name and s.deleted_at is null;
    if found.id is null then
        raise exception 'subscription "%" does not exist', left(name, 100)
            using errcode = 'OB001', hint = 'outbox.subscribe() makes one; the table outbox.subscription lists them.';
    end if;
    if found.endpoint_id is not null then
        raise exception 'subscription "%" is pushed to an endpoint', name
            using errcode = 'OB004', hint = 'Workers claim from subscriptions that were made without an endpoint.';
    end if;
    return found;
end
$$;

-- API: private
create function outbox_internal.check_claim(worker text, max_messages int, lease interval) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if worker is null or worker = '' or octet_length(worker) > 255 then
        raise exception 'malformed name of the worker'
            using errcode = 'invalid_parameter_value', hint = 'It has 1 to 255 bytes; a host name and a process id are good.';
    end if;
    if max_messages is null or max_messages not between 1 and 10000 then
        raise exception 'max_messages must be between 1 and 10000' using errcode = 'invalid_parameter_value';
    end if;
    if lease is null or lease <= interval '0' or lease > interval '7 days' then
        raise exception 'the lease must be longer than nothing and at most 7 days' using errcode = 'invalid_parameter_value';
    end if;
end
$$;

-- API: public
create function outbox.claim(
    subscription text,
    worker text,
    max_messages int default 1,
    lease interval default '60 s'
) returns setof outbox.claimed
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_variable
declare
    source outbox.subscription;
    picked record;
    bundles record;
begin
    source := outbox_internal.pull_subscription(subscription);
    perform outbox_internal.check_claim(worker, max_messages, lease);
    if source.paused then
        return;
    end if;
    perform outbox_internal.note_name(subscription, source.id);
    picked := outbox_internal.pick(source.id, max_messages, true);
    -- Without a dispatcher, a claim that finds nothing ticks and routes by itself. Only a transaction without an xid may do
    -- that, see _tick.
    if cardinality(picked.ids) = 0 and picked.before = 'infinity' and pg_current_xact_id_if_assigned() is null
        and outbox_internal.route_inline() in ('ticked', 'idle') then
        perform outbox_internal.router_pass(1000, '{}');
        perform outbox_internal.replay_inline(source.id);
        picked := outbox_internal.pick(source.id, max_messages, true);
    end if;
    if cardinality(picked.ids) = 0 and picked.before < 'infinity' then
        bundles := outbox_internal.pick_bundles(source.id, max_messages, picked.before);
        if cardinality(bundles.ids) > 0 then
            return query select *
            from outbox_internal.lease_bundles(source.id, source.name, source.max_attempts, source.deadline, bundles.ids,
                bundles.bundles, bundles.segment, worker, lease);
            return;
        end if;
        -- The bundle was split, or another session has it.
        picked := outbox_internal.pick(source.id, max_messages, false);
    end if;
    if cardinality(picked.ids) > 0 then
        return query select *
        from outbox_internal.lease(source.id, source.name, source.max_attempts, source.deadline, picked.ids, picked.tried,
            picked.segment, worker, lease);
    end if;
end
$$;
comment on function outbox.claim is
    'Leases up to max_messages (default 1; 1 to 10000) due deliveries of a pull subscription to a worker (a name of 1 to '
    '255 bytes). The lease lasts for the duration lease (default 60 s, at most 7 days), and no longer than the '
    'subscription''s deadline. The order is: highest priority, then longest due, then position. Returns one row of type '
    'outbox.claimed for each delivery, and no rows when nothing is due or the subscription is paused. No other worker gets '
    'these deliveries until the lease ends. Commit before the work starts: the commit makes the attempt count. Errors: '
    'OB001 no such subscription, OB004 it is pushed to an endpoint, 22023 an argument is out of range';

insert into outbox._capability values
    ('consume', 'function outbox.claim');
