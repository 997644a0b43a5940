-- Waiting for deliveries without polling.

-- API: private
-- Returns whether there is a delivery to claim: ready or empty; missing: there is no such subscription; pushed: the
-- subscription is pushed to an endpoint.
create function outbox_internal.is_ready(subscription text) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    source outbox.subscription;
    level int := 32768;
    now timestamptz := clock_timestamp();
begin
    select * into source from outbox.subscription s where s.name = is_ready.subscription and s.deleted_at is null;
    if source.id is null then
        return 'missing';
    end if;
    if source.endpoint_id is not null then
        return 'pushed';
    end if;
    if pg_current_xact_id_if_assigned() is null and outbox_internal.route_inline() in ('ticked', 'idle') then
        perform outbox_internal.router_pass(1000, '{}');
    end if;
    if exists (select from outbox._bundle b where b.subscription_id = source.id and b.lease is null) then
        return 'ready';
    end if;
    loop
        select d.priority into level
        from outbox.delivery d
        where d.subscription_id = source.id and d.pull and d.state <> 'processing' and not d.blocked
            and d.priority < level
        order by d.priority desc
        limit 1;
        if not found then
            return 'empty';
        end if;
        perform from outbox.delivery d
        where d.subscription_id = source.id and d.pull and d.state <> 'processing' and not d.blocked
            and d.priority = level and d.due_at <= now and (d.expires_at is null or d.expires_at > now)
        order by d.due_at, d.position
        limit 1;
        if found then
            return 'ready';
        end if;
    end loop;
end
$$;

-- API: public
create procedure outbox.claim_wait(
    subscription text,
    timeout interval default '30 s',
    inout ready boolean default null
)
language c
as 'MODULE_PATHNAME', 'outbox_claim_wait';
comment on procedure outbox.claim_wait is
    'Waits until there is a delivery to claim, or until the timeout (default 30 s, at most 24 hours). ready: true when '
    'there is one, so that claim() is worth calling; false after the timeout. Holds no snapshot while it waits. Errors: '
    '25001 in a transaction block or function, OB001 no such subscription, OB004 it is pushed to an endpoint, 22004 '
    'subscription is null';

insert into outbox._capability values
    ('consume', 'procedure outbox.claim_wait'),
    ('consume', 'function outbox_internal.is_ready');
