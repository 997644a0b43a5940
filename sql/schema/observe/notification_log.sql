-- The notification log: one row per message and recipient. It is derived from the routing rows and the attempt log; nothing
-- is written for it.

-- API: public
create type outbox.notification_entry as (
    message_id bigint,
    subscription text,
    identifier text,
    topic_code text,
    subscriber text,
    subscriber_type text,
    delivery_method text,
    status text,
    skipped_reason text,
    attempt int,
    error text,
    sent_at timestamptz,
    created_at timestamptz
);
comment on type outbox.notification_entry is
    'A message and a subscription. identifier: the key. topic_code: the topic. subscriber: the endpoint. delivery_method: '
    'webhook or pull. status: pending, sent, failed, or skipped (with skipped_reason)';

-- API: public
create function outbox.notification_log(
    message_id bigint default null,
    tenant text default null,
    topic text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    max_rows int default 50,
    before bigint default null,
    subscription text default null
) returns setof outbox.notification_entry
language plpgsql stable security definer
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
    only_of int := case when subscription is not null then outbox_internal.subscription_id(subscription) end;
    look constant int := case when subscription is null then 0 else 10000 end;
    chunk constant int := case when subscription is null then max_rows else 200 end;
    looked_at int := 0;
    returned int := 0;
    found_rows int;
    ids bigint[];
    page record;
    entry outbox.notification_entry;
    unfinished bigint := before;
begin
    loop
        if message_id is not null then
            ids := array(
                select m.id from outbox.message m where m.id = message_id and (tenant is null or m.tenant = tenant)
            );
            unfinished := null;
        else
            select * into page from outbox_internal.page(tenant, topic, aggregate_type, aggregate_id, null, unfinished,
                chunk);
            ids := page.ids;
            looked_at := looked_at + chunk;
            unfinished := case when page.more then page.lowest end;
        end if;
        return query
        with known as materialized (
            select o.* from outbox_internal.outcomes(ids) o
            where (o.source <> 'try' or o.outcome in ('completed', 'cancelled'))
                and (only_of is null or o.subscription_id = only_of)
        ), nobody as materialized (
            select p.message_id, outbox_internal.matched(p.position) as matched
            from outbox_internal.positions_of(array(
                select u.id from unnest(ids) u(id)
                where only_of is null and not exists (select from known k where k.message_id = u.id)
            )) p
        )
        select m.id, s.name, m.key, m.topic, e.name, e.subscriber_type,
            case when s.id is not null then case when r.endpoint_id is null then 'pull' else 'webhook' end end,
            case when r.outcome = 'completed' then 'sent' when r.outcome in ('pending', 'processing', 'failed') then 'pending'
                when r.outcome in ('cancelled', 'skipped') then 'skipped' else 'failed' end,
            r.reason, r.attempt, r.error, case when r.outcome = 'completed' then r.finished_at end, m.enqueued_at
        from (
            select k.message_id, k.subscription_id, k.endpoint_id, k.outcome,
                case when k.outcome = 'cancelled' then 'cancelled' end as reason, k.attempt, k.error, k.finished_at
            from known k
            union all
            select n.message_id, null, null, case when n.matched <= 0 then 'skipped' else 'pending' end,
                outbox_internal.routing_reason(n.matched), 0, null, null
            from nobody n
        ) r
        join outbox.message m on m.id = r.message_id
        left join outbox.subscription s on s.id = r.subscription_id
        left join outbox.endpoint e on e.id = r.endpoint_id
        order by m.id desc, s.name
        -- without a subscription, max_rows is the number of messages, with a row for each subscription; with one, it is the
        -- number of rows
        limit case when subscription is not null then max_rows - returned end;
        get diagnostics found_rows = row_count;
        returned := returned + found_rows;
        exit when unfinished is null or looked_at >= look or subscription is not null and returned >= max_rows;
    end loop;
    if unfinished is not null and (case when subscription is null then cardinality(ids) else returned end) < max_rows then
        -- A row without a message says where to continue.
        entry.message_id := unfinished;
        return next entry;
    end if;
end
$$;
comment on function outbox.notification_log is
    'Returns which messages were sent to whom: of one message, or of the latest messages of a tenant, topic or aggregate, '
    'up to max_rows (default 50; 1 to 1000) messages in a page. Pass the last message_id of a page as before to get the next '
    'one. With subscription, up to max_rows rows of that subscription, among 10,000 messages per page. If a page ends there, '
    'its last row has no topic_code, and only the id to continue with. Errors: 22023 max_rows is out of range, OB001 no such '
    'subscription';

insert into outbox._capability values
    ('monitor', 'function outbox.notification_log');
