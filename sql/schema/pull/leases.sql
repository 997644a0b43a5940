-- Leasing deliveries that were picked: one branch per leaf of outbox.message, each with a plan of its own.

-- API: public
create type outbox.claimed as (
    lease bigint,
    lease_expires_at timestamptz,
    delivery_id bigint,
    subscription text,
    message_id bigint,
    webhook_id text,
    position bigint,
    attempt int,
    max_attempts int,
    topic text,
    key text,
    payload jsonb,
    body bytea,
    content_type text,
    headers jsonb,
    metadata jsonb,
    tenant text,
    publisher text,
    aggregate_type text,
    aggregate_id text,
    priority smallint,
    enqueued_at timestamptz,
    occurred_at timestamptz,
    deliver_at timestamptz,
    expires_at timestamptz,
    last_attempt_at timestamptz,
    last_error text,
    version bigint,
    event_id uuid
);
comment on type outbox.claimed is
    'A delivery that a worker has leased, with its message. lease is the token that complete(), fail(), dead(), extend() '
    'and release() take. payload is what the subscription''s transform has made of the message, if there is one. '
    'last_attempt_at and last_error are those of the attempt before this one. version and event_id are those of an event, '
    'whose topic is its type and whose key is its stream';

-- API: private
-- lease() leases deliveries that the caller has locked, and returns them with their messages. lease_bundles() does the
-- same for whole bundles. Both are called with the settings of the caller.
--
-- To look up messages in all leaves of outbox.message costs several times as much as the rest of a claim, because opening
-- the leaves takes longer than reading them. The messages of a claim are nearly always in one leaf. So each function has one
-- statement per leaf, one for events, and one for all leaves, which is used when segment is null or -1. Rows are returned
-- in the order of `ids`,
-- through nested loops; those of bundles have to be sorted.
do $do$
declare
    rows constant text := $r$
            update outbox.delivery d
            set state = 'processing', attempt = d.attempt + 1, lease = held_as, updated_at = now, last_attempt_at = now,
                first_attempt_at = coalesce(d.first_attempt_at, now)
            from unnest(ids, tried) i(id, tried_at)
            where d.id = i.id
            returning d.id, d.position, d.message_id, d.message_segment, d.run, d.new_id, d.attempt, d.max_attempts,
                d.priority, d.due_at, d.expires_at, d.last_error, i.tried_at, d.payload$r$;
    bundles constant text := $b$
            select u.id, u.position, u.message_id, h.message_segment, 0::bigint as run, false as new_id, 1 as attempt,
                null::int as max_attempts, 0::smallint as priority, h.due_at, null::timestamptz as expires_at,
                null::text as last_error, null::timestamptz as tried_at
            from held h
            cross join lateral unnest(h.delivery_ids, h.positions, h.message_ids) u(id, position, message_id)$b$;
    held constant text := $h$held as (
            update outbox._bundle b set lease = held_as where b.id = any (bundles) returning b.*
        ), $h$;
    template constant text := $f$
create function outbox_internal.{name}(
    source_id int,
    source_name text,
    budget int,
    deadline interval,
    ids bigint[],
    {argument},
    segment smallint,
    worker text,
    duration interval
) returns setof outbox.claimed
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    token bigint := outbox_internal.new_lease();
    held_as bigint := outbox_internal.lease_id(token);
    now timestamptz := clock_timestamp();
    until timestamptz := now + least(duration, deadline);
begin
    case segment {cases}
    end case;
end
$$;$f$;
    branch constant text := $c$
    {when} return query
        with leased as (
            insert into outbox.lease (id, subscription_id, worker, claimed_at, expires_at, deadline_at, delivery_ids,
                bundled)
            values (held_as, source_id, worker, now, until, now + deadline, ids, {bundled})
        ), {held}taken as ({taken}
        )
        select token, until, t.id, source_name, t.message_id, outbox.webhook_id(m.id, m.enqueued_at)
                || case when t.new_id then '_r' || t.run else '' end, t.position, t.attempt,
            coalesce(t.max_attempts, budget), m.topic, m.key, {content}, m.headers,
            m.metadata, m.tenant, m.publisher, {aggregate}, t.priority, m.enqueued_at, m.occurred_at,
            m.deliver_at, t.expires_at, t.tried_at, t.last_error, m.version, m.event_id
        from taken t
        left join {messages} m on m.segment = t.message_segment and m.id = t.message_id {order};$c$;
    -- of an event: the parts of its stream's name
    aggregate constant text := 'case when m.segment = -2 then outbox.category(m.key) else m.aggregate_type end, '
        'case when m.segment = -2 then outbox.stream_key(m.key) else m.aggregate_id end';
    -- A bundle has no payloads.
    own constant text := 'm.payload, m.body, m.content_type';
    transformed constant text := 'coalesce(t.payload, m.payload), case when t.payload is null then m.body end, '
        'case when t.payload is null then m.content_type end';
    kind record;
    branches text;
    cases text;
begin
    for kind in
        select * from (values
            ('lease', 'tried timestamptz[]', 'false', '', rows, '', transformed),
            ('lease_bundles', 'bundles bigint[]', 'true', held, bundles, 'order by t.due_at, t.position', own))
            k(name, argument, bundled, held, taken, sorted, content)
    loop
        branches := replace(replace(replace(branch, '{taken}', kind.taken), '{held}', kind.held), '{bundled}', kind.bundled);
        branches := replace(replace(branches, '{order}', kind.sorted), '{content}', kind.content);
        select string_agg(
            replace(replace(replace(branches, '{when}', case when leaf is null then 'else' else format('when %s then', leaf) end),
                '{messages}', 'outbox.' || case leaf when -2 then '_message_event' else coalesce('_message_' || lpad(leaf::text, 2, '0'), 'message') end),
                '{aggregate}', case when leaf >= 0 then 'm.aggregate_type, m.aggregate_id' else aggregate end),
            '' order by leaf nulls last)
        into cases
        from (select generate_series(0, 15) as leaf union all values (-2), (null)) l;
        execute replace(replace(replace(template, '{name}', kind.name), '{argument}', kind.argument), '{cases}', cases);
    end loop;
end
$do$;
