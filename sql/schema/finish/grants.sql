-- Who may what. Nothing is granted to PUBLIC; roles get capabilities.

-- API: private
-- What grant_to() has granted. A role is known by name and oid: renaming keeps the one, a restore into another cluster the
-- other. Null in an array's place: not narrowed.
create table outbox._grant (
    role text not null,
    role_oid oid not null,
    capability text not null,
    subscriptions text[],
    topics text[],
    tenants text[],
    publishers text[],
    consumers text[],
    granted_by text not null default session_user,
    granted_at timestamptz not null default clock_timestamp(),
    primary key (role_oid, capability)
);
select pg_catalog.pg_extension_config_dump('outbox._grant', '');

-- API: private
-- Has every session look anew when this transaction commits.
create function outbox._grants_changed() returns trigger language c volatile as 'MODULE_PATHNAME', 'outbox_grants_changed';
create trigger grants_changed after insert or update or delete or truncate on outbox._grant
    for each statement execute function outbox._grants_changed();

-- API: public
create view outbox.grants as
select r.rolname::text as role, g.capability, g.subscriptions, g.topics, g.tenants, g.publishers, g.consumers, g.granted_by,
    g.granted_at
from outbox._grant g
join pg_roles r on r.oid = g.role_oid or r.rolname = g.role and not exists (select from pg_roles o where o.oid = g.role_oid);
comment on view outbox.grants is
    'Who may what by grant_to(). Null in subscriptions, topics, tenants, publishers, consumers: not narrowed. Rights that were granted by '
    'hand, and those of superusers and of the extension''s owner, are not in it';

-- API: private
create function outbox._check_grant(role name, capability text) returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found oid := (select r.oid from pg_roles r where r.rolname = role);
begin
    if found is null then
        raise exception 'role "%" does not exist', role using errcode = 'undefined_object';
    end if;
    if not exists (select from outbox._capability c where c.capability = _check_grant.capability) then
        raise exception 'unknown capability "%"', capability
            using errcode = 'invalid_parameter_value',
                hint = format('The capabilities are %s.',
                    (select string_agg(distinct c.capability, ', ' order by c.capability) from outbox._capability c));
    end if;
    return found;
end
$$;

-- API: private
-- Objects of a capability. narrowed: of those only the ones that look at what their caller may.
create function outbox._objects(capability text, narrowed boolean) returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select distinct c.object from outbox._capability c
    -- an admin sees everything
    where (c.capability = _objects.capability or _objects.capability = 'admin' and c.capability = 'monitor')
        and (c.narrows or not narrowed);
end;

-- API: private
-- Makes a role's privileges on the objects of a capability what its rows in outbox._grant say.
create function outbox._set_privileges(role name, capability text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    its_oid oid := (select r.oid from pg_roles r where r.rolname = role);
    left_over text[] := array(
        select o from outbox._grant g, outbox._objects(g.capability,
            (g.subscriptions, g.topics, g.tenants, g.publishers, g.consumers) is distinct from (null::text[], null::text[],
                null::text[], null::text[], null::text[])) o
        where g.role_oid = its_oid
    );
    object text;
begin
    if exists (select from outbox._grant g where g.role_oid = its_oid) then
        execute format('grant usage on schema outbox to %I', role);
    else
        execute format('revoke usage on schema outbox from %I', role);
    end if;
    for object in select o from outbox._objects(capability, false) o loop
        execute format('%s %s on %s %s %I',
            case when object = any (left_over) then 'grant' else 'revoke' end,
            case when object like 'table %' then 'select' else 'execute' end,
            regexp_replace(object, '^table ', ''),
            case when object = any (left_over) then 'to' else 'from' end,
            role);
    end loop;
end
$$;

-- API: public
create function outbox.grant_to(
    role name,
    capability text,
    subscriptions text[] default null,
    topics text[] default null,
    tenants text[] default null,
    publishers text[] default null,
    consumers text[] default null
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    its_oid oid := outbox._check_grant(role, capability);
    allowed text[] := case capability when 'publish' then '{topics,tenants,publishers}'
        when 'consume' then '{subscriptions,topics,consumers}' when 'monitor' then '{tenants}' else '{}' end::text[];
    what text;
    list text[];
begin
    for what, list in
        select * from (values ('subscriptions', subscriptions), ('topics', topics), ('tenants', tenants),
            ('publishers', publishers), ('consumers', consumers)) v(what, list)
        where v.list is not null
    loop
        if what <> all (allowed) then
            raise exception 'capability "%" cannot be narrowed to %', capability, what using errcode = 'invalid_parameter_value',
                hint = case when allowed = '{}' then 'It is granted as a whole.'
                    else format('It can be narrowed to %s.', array_to_string(allowed, ', ')) end;
        end if;
        if array_ndims(list) > 1 or cardinality(list) > 1000 or array_position(list, null) is not null
            or exists (select from unnest(list) u(name) where octet_length(u.name) not between 1 and 255) then
            raise exception 'malformed %', what using errcode = 'invalid_parameter_value',
                hint = 'At most 1000 names of 1 to 255 bytes; null does not narrow.';
        end if;
        if what = 'topics' then
            perform outbox._check_patterns(list);
        end if;
    end loop;
    if capability = 'consume' and coalesce(subscriptions, topics, consumers) is not null then
        -- What is not named is not left.
        subscriptions := coalesce(subscriptions, '{}');
        topics := coalesce(topics, '{}');
        consumers := coalesce(consumers, '{}');
    end if;
    delete from outbox._grant g
    where g.capability = capability and (g.role_oid = its_oid
        or g.role = role and not exists (select from pg_roles r where r.oid = g.role_oid));
    insert into outbox._grant (role, role_oid, capability, subscriptions, topics, tenants, publishers, consumers)
    values (role, its_oid, capability, subscriptions, topics, tenants, publishers, consumers);
    perform outbox._set_privileges(role, capability);
    perform outbox._audit('grant', format('role %s', role), null, jsonb_strip_nulls(jsonb_build_object('capability',
        capability, 'subscriptions', subscriptions, 'topics', topics, 'tenants', tenants, 'publishers', publishers,
        'consumers', consumers)));
end
$$;
comment on function outbox.grant_to is
    'Grants a role one of the capabilities publish, capture, consume, observe, monitor, admin, or changes what is left of it. publish can be narrowed '
    'to topics (patterns), tenants and publishers; consume to subscriptions, topics (for read()) and consumers (of cursors), of '
    'which those that are not named are not left; monitor to tenants';

-- API: public
create function outbox.revoke_from(role name, capability text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    its_oid oid := outbox._check_grant(role, capability);
    had boolean;
begin
    delete from outbox._grant g where g.capability = capability and (g.role_oid = its_oid
        or g.role = role and not exists (select from pg_roles r where r.oid = g.role_oid));
    had := found;
    perform outbox._set_privileges(role, capability);
    if had then
        perform outbox._audit('revoke', format('role %s', role), null, jsonb_build_object('capability', capability));
    end if;
    return had;
end
$$;
comment on function outbox.revoke_from is
    'Takes a capability back from a role; what another capability of the role needs stays. false: the role did not have it by grant_to()';

insert into outbox._capability values
    ('admin', 'function outbox.grant_to'),
    ('admin', 'function outbox.revoke_from'),
    ('monitor', 'table outbox.grants'),
    -- Figures and states: no payload, header, metadata, key, error text or URL.
    ('observe', 'function outbox.health'),
    ('observe', 'function outbox.metrics'),
    ('observe', 'function outbox.worker_status'),
    ('observe', 'function outbox.stats'),
    ('observe', 'function outbox.count_by_state'),
    ('observe', 'function outbox.dead_letter_stats'),
    ('observe', 'function outbox.head'),
    ('observe', 'function outbox.tail'),
    ('observe', 'function outbox.version'),
    ('observe', 'function outbox.is_terminal'),
    ('observe', 'table outbox.job'),
    ('observe', 'table outbox.tick'),
    ('observe', 'table outbox.checkpoint'),
    ('observe', 'table outbox.epoch'),
    ('observe', 'table outbox.segment');

update outbox._capability c set narrows = true
where (c.capability, substr(c.object, strpos(c.object, '.') + 1)) in (
    ('publish', 'enqueue'), ('publish', 'enqueue_bytes'), ('publish', 'enqueue_many'), ('publish', 'set_context'),
    ('publish', 'enqueue_notification'), ('publish', 'enqueue_event'), ('publish', '_fits'),
    ('consume', 'claim'), ('consume', 'claim_wait'), ('consume', '_is_ready'), ('consume', 'claim_delivery'),
    ('consume', 'complete_and_claim'), ('consume', 'read'), ('consume', 'head'), ('consume', 'tail'),
    ('consume', 'webhook_id'), ('consume', 'cursor_get'), ('consume', 'cursor_list'), ('consume', 'cursor_advance'),
    ('consume', 'cursor_reset'), ('consume', 'cursor_record_error'), ('consume', 'cursor_delete'),
    -- They take a lease, which only that worker has who claimed.
    ('consume', 'complete'), ('consume', 'fail'), ('consume', 'dead'), ('consume', 'extend'), ('consume', 'release'),
    ('monitor', 'get_message'), ('monitor', 'history'), ('monitor', 'archive_get'), ('monitor', 'list_messages'),
    ('monitor', 'count_messages'), ('monitor', 'count_by_state'), ('monitor', 'archive_list'),
    ('monitor', 'archive_stats'), ('monitor', 'notification_log'), ('monitor', 'webhook_id'), ('monitor', 'version'),
    ('monitor', 'is_terminal'));

-- What takes locks that end with the transaction, or secrets, has a door as well. Functions that other objects depend on got
-- theirs in their files.
do $$
declare
    name text;
begin
    foreach name in array array['claim', 'complete_and_claim', '_is_ready', 'claim_delivery', 'read', 'cursor_get',
        'cursor_advance', 'cursor_reset', 'cursor_record_error', 'cursor_delete', 'get_message', 'history', 'archive_get',
        'list_messages', 'count_messages', 'archive_list', 'archive_stats', 'notification_log', 'create_endpoint',
        'alter_endpoint', 'rotate_secret', 'set_proxy', 'tick', 'maintain', 'rotate', 'purge', 'adopt'] loop
        call outbox._make_door(name);
    end loop;
end
$$;

revoke all on schema outbox from public;
revoke all on all functions in schema outbox from public;
revoke all on schema outbox_private from public;
revoke all on all functions in schema outbox_private from public;
revoke all on all procedures in schema outbox from public;
revoke all on all tables in schema outbox from public;
revoke all on all sequences in schema outbox from public;
