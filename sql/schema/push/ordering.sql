-- Push subscriptions with an order: the records that the dispatcher writes about their keys.

-- API: private
-- Records the keys of deliveries that have an outcome. whats: `failed` has a row that is tried again, `dead` is a dead
-- letter, `ended` is neither. If a delivery is not tried again, and its key has rows, the next row may go on.
create function outbox_internal.record_lanes(
    subscription_ids int[],
    positions bigint[],
    message_ids bigint[],
    keys text[],
    whats text[]
) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    update outbox.delivery d
    set key = u.key
    from unnest(subscription_ids, positions, keys, whats) u(subscription_id, position, key, what)
    where u.what = 'failed' and d.subscription_id = u.subscription_id and d.position = u.position
        and d.key is distinct from u.key;

    update outbox.dead_letter l
    set key = u.key
    from unnest(subscription_ids, positions, message_ids, keys, whats) u(subscription_id, position, message_id, key, what)
    where u.what = 'dead' and l.message_id = u.message_id and l.subscription_id = u.subscription_id
        and l.position = u.position and l.resolution = 'open';

    insert into outbox._freed_key (subscription_id, key)
    select distinct u.subscription_id, u.key
    from unnest(subscription_ids, keys, whats) u(subscription_id, key, what)
    where u.what <> 'failed'
        and exists (select from outbox.delivery d where d.subscription_id = u.subscription_id and d.key = u.key);
end;

-- API: private
-- Returns those of these keys that have rows, or a dead letter that blocks the key.
create function outbox_internal.keys_with_rows(subscription_ids int[], keys text[])
returns table (subscription_id int, key text)
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select distinct u.subscription_id, u.key
    from unnest(subscription_ids, keys) u(subscription_id, key)
    where exists (select from outbox.delivery d where d.subscription_id = u.subscription_id and d.key = u.key)
        or exists (
            select from outbox.dead_letter l
            where l.subscription_id = u.subscription_id and l.key = u.key and l.resolution = 'open'
                and (select s.on_exhausted from outbox.subscription s where s.id = u.subscription_id) = 'block'
        );
end;

-- API: private
-- Returns the keys of all push subscriptions that have rows, or a dead letter that blocks the key.
create function outbox_internal.all_keys_with_rows() returns table (subscription_id int, key text)
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select d.subscription_id, d.key from outbox.delivery d where d.key is not null and not d.pull
    union
    select l.subscription_id, l.key
    from outbox.dead_letter l
    join outbox.subscription s on s.id = l.subscription_id
    where l.key is not null and l.resolution = 'open' and s.on_exhausted = 'block' and s.endpoint_id is not null;
end;
