-- Explanations: why a message was routed to a subscription, or was not.

-- API: public
create function outbox.explain_routing(
    topic text,
    payload jsonb default null,
    key text default null,
    headers jsonb default null,
    tenant text default null,
    aggregate_type text default null,
    aggregate_id text default null,
    at_position bigint default null,
    source text default 'messages'
) returns table (subscription text, matches boolean, reason text, version int)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox_internal.check_topic(topic);
    perform outbox_internal.check_source(source);
    return query
    select s.name, e.why is null, case
            when e.why is not null then e.why
            when s.paused then 'matches; paused: delivered when it is resumed'
            else 'matches'
        end, v.version
    from outbox.subscription s
    -- The newest version that holds at the position; without a position, the newest version.
    join lateral (
        select o.* from outbox.subscription_version o
        where o.subscription_id = s.id
            and (at_position is null or o.position is not null and coalesce(o.starts_after, o.position) < at_position)
        order by o.version desc limit 1
    ) v on true
    cross join lateral (
        select outbox_internal.refused_by(v.filter, tenant, key, aggregate_type, aggregate_id, headers) as fields
    ) f
    cross join lateral (
        select case
            when not outbox_internal.matches(v.topics, null, topic, null, null, null, null, null) then 'topic'
            when not v.active then 'inactive'
            when v.source not in (source, 'all') then 'source'
            when f.fields is not null then 'filter: ' || f.fields
            when v.filter ? 'payload' and not outbox_internal.path_holds(payload, (v.filter ->> 'payload')::jsonpath)
                then 'filter: payload'
        end as why
    ) e
    where s.deleted_at is null or at_position is not null
    order by s.name, s.id;
end
$$;
comment on function outbox.explain_routing is
    'Returns, for each subscription, whether a message with these properties would match it, and the reason. reason: '
    'matches (with a note if the subscription is paused), topic, inactive, source (it takes events, or it does not), '
    'filter with the fields that refuse the message, or filter: payload. source: messages (the default) or events. The '
    'answer is that of the newest version of each subscription; with at_position, that of the version that held at the '
    'position, ended subscriptions included. Errors: 22023 topic is malformed';

-- API: public
create function outbox.skipped(topic text default null, max_messages int default 100, before bigint default null)
returns table ("position" bigint, message_id bigint, message_topic text, reason text, routed_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    batch record;
    found int := 0;
begin
    for batch in
        select r.* from outbox.routing r
        where r.first_position < coalesce(before, outbox_internal.max_bigint())
        order by r.first_position desc
    loop
        for i in reverse cardinality(batch.matched) .. 1 loop
            continue when batch.matched[i] not in (-1, -2, -5);
            position := batch.first_position + i - 1;
            continue when position >= before;
            select m.id, m.topic into message_id, message_topic
            from (
                select f.message_segment, case when f.segment = -2 then -2 else f.message_segment end as other_segment,
                    f.message_ids[position - f.first_position + 1] as id
                from outbox.feed f where f.first_position <= position order by f.first_position desc limit 1
            ) f
            join outbox.message m on m.segment in (f.message_segment, f.other_segment) and m.id = f.id;
            continue when message_id is null
                or not outbox_internal.matches(array[coalesce(topic, '#')], null, message_topic, null, null, null, null, null);
            reason := outbox_internal.routing_reason(batch.matched[i]);
            routed_at := batch.routed_at;
            return next;
            found := found + 1;
            if found >= max_messages then
                return;
            end if;
        end loop;
    end loop;
end
$$;
comment on function outbox.skipped is
    'Messages that matched no subscription, newest first, with the reason: no subscription, filtered, or inactive (all '
    'subscriptions on the topic had ended). topic is a pattern (null: all). At most max_messages rows (default 100). '
    'before is exclusive; pass the last position of a page to get the next page';

insert into outbox._capability values
    ('monitor', 'function outbox.explain_routing'),
    ('monitor', 'function outbox.skipped');
