-- Dead letters: the operator's view of them, and the ways to close them.
--
-- Every change by these functions is recorded in outbox.audit. `actor` names the person, ticket or program that asked for
-- the change; the role that was logged in is recorded too.

-- API: public
create view outbox.dead_letter_status as
select l.id as dead_letter_id,
    l.delivery_id,
    s.name as subscription,
    e.name as endpoint,
    l.url,
    l.message_id,
    outbox.webhook_id(m.id, m.enqueued_at) as webhook_id,
    l.position,
    m.topic,
    m.key,
    m.tenant,
    case when m.segment = -2 then outbox.category(m.key) else m.aggregate_type end as aggregate_type,
    case when m.segment = -2 then outbox.stream_key(m.key) else m.aggregate_id end as aggregate_id,
    m.publisher,
    m.content_type,
    m.headers,
    m.metadata,
    m.payload,
    m.body,
    m.enqueued_at,
    l.state,
    l.reason,
    l.attempt,
    l.last_status,
    l.last_error_class as error_class,
    l.last_error,
    l.first_attempt_at,
    l.last_attempt_at,
    l.created_at,
    l.dead_at,
    clock_timestamp() - l.dead_at as age,
    clock_timestamp() - l.dead_at
        > coalesce(nullif(current_setting('pg_outbox.dead_letter_old_after', true), ''), '1d')::interval as is_old,
    l.resolution,
    l.resolution in ('resolved', 'ignored', 'requeued') as is_resolved,
    l.resolved_at,
    l.resolved_by,
    l.resolution_note
from outbox.dead_letter l
left join outbox.subscription s on s.id = l.subscription_id
left join outbox.endpoint e on e.id = l.endpoint_id
left join outbox.message m on m.segment = l.message_segment and m.id = l.message_id;
comment on view outbox.dead_letter_status is
    'Deliveries that ended without success and are not tried again by themselves, with their message. resolution: open '
    'until an operator requeues, resolves or ignores the dead letter. is_old: older than pg_outbox.dead_letter_old_after '
    '(1 day by default)';

-- API: public
create function outbox.dead_letters_older_than(older_than interval) returns setof outbox.dead_letter_status
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select * from outbox.dead_letter_status l
    where l.resolution = 'open' and l.dead_at < clock_timestamp() - dead_letters_older_than.older_than
    order by l.dead_letter_id;
end;
comment on function outbox.dead_letters_older_than is
    'Returns the open dead letters that became dead letters longer ago than age, oldest first';

-- API: private
-- Locks and returns a dead letter. Raises OB001 if there is none.
create function outbox_internal.dead_letter(id bigint) returns outbox.dead_letter
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found outbox.dead_letter;
begin
    select * into found from outbox.dead_letter l where l.id = dead_letter.id for update;
    if found.id is null then
        raise exception 'dead letter % does not exist', id
            using errcode = 'OB001', hint = 'The view outbox.dead_letter_status lists them.';
    end if;
    return found;
end
$$;

-- API: private
-- Sets the resolution of a dead letter. If it blocked its key, the key may go on.
create function outbox_internal.settle_dead_letter(letter outbox.dead_letter, resolution text, actor text, note text)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update outbox.dead_letter l
    set resolution = settle_dead_letter.resolution, resolved_at = clock_timestamp(), resolved_by = actor,
        resolution_note = note
    where l.id = letter.id;
    if letter.key is not null then
        insert into outbox._freed_key (subscription_id, key) values (letter.subscription_id, letter.key);
        perform outbox_internal.deliveries_changed();
    end if;
    perform outbox_internal.audit(resolution, format('dead letter %s', letter.id), note,
        jsonb_build_object('actor', actor, 'message_id', letter.message_id, 'subscription_id', letter.subscription_id));
end
$$;

-- API: private
-- Sets the resolution of an open dead letter. Raises OB004 if it is not open.
create function outbox_internal.settle_open(id bigint, resolution text, actor text, note text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    letter outbox.dead_letter := outbox_internal.dead_letter(id);
    who text := outbox_internal.check_actor(actor);
begin
    if letter.resolution <> 'open' then
        raise exception 'dead letter % is not open', id
            using errcode = 'OB004',
                detail = format('It was %s by "%s", at %s.', letter.resolution, letter.resolved_by, letter.resolved_at);
    end if;
    perform outbox_internal.settle_dead_letter(letter, resolution, who, note);
end
$$;

-- API: public
create function outbox.resolve_dead_letter(
    dead_letter_id bigint,
    actor text default session_user,
    note text default null
) returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select outbox_internal.settle_open(dead_letter_id, 'resolved', actor, note);
end;
comment on function outbox.resolve_dead_letter is
    'Marks an open dead letter as resolved by other means. actor and note are stored with it and in outbox.audit. Errors: '
    'OB001 no such dead letter, OB004 it is not open, 22023 actor is empty';

-- API: public
create function outbox.ignore_dead_letter(
    dead_letter_id bigint,
    actor text default session_user,
    note text default null
) returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select outbox_internal.settle_open(dead_letter_id, 'ignored', actor, note);
end;
comment on function outbox.ignore_dead_letter is
    'Marks an open dead letter as ignored, because it is not worth an action. actor and note are stored with it and in '
    'outbox.audit. Errors: OB001 no such dead letter, OB004 it is not open, 22023 actor is empty';

-- API: public
create function outbox.delete_dead_letter(
    dead_letter_id bigint,
    actor text default session_user,
    note text default null
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    letter outbox.dead_letter := outbox_internal.dead_letter(dead_letter_id);
    who text := outbox_internal.check_actor(actor);
begin
    perform outbox_internal.settle_dead_letter(letter, 'ignored', who, note);
    delete from outbox.dead_letter l where l.id = dead_letter_id;
    perform outbox_internal.audit('delete_dead_letter', format('dead letter %s', dead_letter_id), note, jsonb_build_object('actor', who) || to_jsonb(letter));
end
$$;
comment on function outbox.delete_dead_letter is
    'Deletes a dead letter, whatever its resolution. Its row is stored in outbox.audit. Errors: OB001 no such dead letter, '
    '22023 actor is empty';

-- API: public
create function outbox.dead_letter_stats(
    out total bigint,
    out unresolved bigint,
    out resolved bigint,
    out oldest_age_seconds double precision,
    out newest_age_seconds double precision,
    out top_failure_reason text,
    out per_subscription jsonb,
    out last_updated timestamptz
)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    with by_reason as materialized (
        select l.subscription_id, l.reason, count(*) as n, count(*) filter (where l.resolution = 'open') as open,
            min(l.dead_at) filter (where l.resolution = 'open') as oldest,
            max(l.dead_at) filter (where l.resolution = 'open') as newest
        from outbox.dead_letter l
        group by l.subscription_id, l.reason
    )
    select coalesce(sum(r.n), 0)::bigint, coalesce(sum(r.open), 0)::bigint, coalesce(sum(r.n - r.open), 0)::bigint,
        extract(epoch from clock_timestamp() - min(r.oldest))::double precision,
        extract(epoch from clock_timestamp() - max(r.newest))::double precision,
        (select t.reason from by_reason t where t.open > 0 group by t.reason order by sum(t.open) desc, t.reason limit 1),
        coalesce((
            select jsonb_object_agg(coalesce(s.name || case when s.deleted_at is null then '' else ' (ended ' || s.id || ')' end,
                p.subscription_id::text), jsonb_build_object('total', p.n, 'unresolved', p.open))
            from (
                select b.subscription_id, sum(b.n) as n, sum(b.open) as open from by_reason b group by b.subscription_id
            ) p
            left join outbox.subscription s on s.id = p.subscription_id
        ), '{}'),
        clock_timestamp()
    from by_reason r;
end;
comment on function outbox.dead_letter_stats is
    'Returns numbers of dead letters. total: all; unresolved: open ones; resolved: all others. oldest_age_seconds, '
    'newest_age_seconds and top_failure_reason are those of open ones, and null if there are none. per_subscription: '
    '{name: {"total", "unresolved"}}';

insert into outbox._capability values
    ('monitor', 'table outbox.dead_letter_status'),
    ('monitor', 'function outbox.dead_letters_older_than'),
    ('monitor', 'function outbox.dead_letter_stats'),
    ('admin', 'function outbox.resolve_dead_letter'),
    ('admin', 'function outbox.ignore_dead_letter'),
    ('admin', 'function outbox.delete_dead_letter');
