-- Privileges: nothing is granted to PUBLIC; roles get capabilities.

-- API: private
-- The grants of grant_to(). A role is identified by name or oid: renaming keeps the oid, a restore into another cluster
-- keeps the name. An array that is null does not narrow the capability.
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
-- Makes every session read the grants again when this transaction commits.
create function outbox_internal.grants_changed() returns trigger language c volatile as 'MODULE_PATHNAME', 'outbox_grants_changed';
create trigger grants_changed after insert or update or delete or truncate on outbox._grant
    for each statement execute function outbox_internal.grants_changed();
-- A restore without triggers, and the first copy of a logical subscription, fire only such triggers.
alter table outbox._grant enable always trigger grants_changed;

-- API: public
create view outbox.grants as
select r.rolname::text as role, g.capability, g.subscriptions, g.topics, g.tenants, g.publishers, g.consumers, g.granted_by,
    g.granted_at
from outbox._grant g
join pg_roles r on r.oid = g.role_oid or r.rolname = g.role and not exists (select from pg_roles o where o.oid = g.role_oid);
comment on view outbox.grants is
    'Capabilities that roles have by grant_to(). Null in subscriptions, topics, tenants, publishers or consumers: not '
    'narrowed. Privileges that were granted with GRANT, and those of superusers and of the extension''s owner, are not '
    'listed';

-- API: private
-- Returns the oid of the role. Raises 42704 or 22023 for an unknown role or capability.
create function outbox_internal.check_grant(role name, capability text) returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found oid := (select r.oid from pg_roles r where r.rolname = role);
begin
    if found is null then
        raise exception 'role "%" does not exist', role using errcode = 'undefined_object';
    end if;
    if not exists (select from outbox._capability c where c.capability = check_grant.capability) then
        raise exception 'unknown capability "%"', left(capability, 100)
            using errcode = 'invalid_parameter_value',
                hint = format('The capabilities are %s.',
                    (select string_agg(distinct c.capability, ', ' order by c.capability) from outbox._capability c));
    end if;
    return found;
end
$$;

-- API: private
-- The objects of a capability. narrowed: only those whose functions check what their caller may use.
create function outbox_internal.objects(capability text, narrowed boolean) returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select distinct c.object from outbox._capability c
    -- admin includes monitor
    where (c.capability = objects.capability or objects.capability = 'admin' and c.capability = 'monitor')
        and (c.narrows or not narrowed);
end;

-- API: private
-- Grants and revokes a role's privileges on the objects of a capability so that they agree with its rows in outbox._grant.
create function outbox_internal.set_privileges(role name, capability text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    its_oid oid := (select r.oid from pg_roles r where r.rolname = role);
    left_over text[] := array(
        select o from outbox._grant g, outbox_internal.objects(g.capability,
            (g.subscriptions, g.topics, g.tenants, g.publishers, g.consumers) is distinct from (null::text[], null::text[],
                null::text[], null::text[], null::text[])) o
        where g.role_oid = its_oid
    );
    object text;
begin
    if exists (select from outbox._grant g where g.role_oid = its_oid) then
        execute format('grant usage on schema outbox, outbox_internal to %I', role);
    else
        execute format('revoke usage on schema outbox, outbox_internal from %I', role);
    end if;
    for object in select o from outbox_internal.objects(capability, false) o loop
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
    its_oid oid := outbox_internal.check_grant(role, capability);
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
            perform outbox_internal.check_patterns(list);
        end if;
    end loop;
    if capability = 'consume' and coalesce(subscriptions, topics, consumers) is not null then
        -- Kinds that are not named are not allowed.
        subscriptions := coalesce(subscriptions, '{}');
        topics := coalesce(topics, '{}');
        consumers := coalesce(consumers, '{}');
    end if;
    delete from outbox._grant g
    where g.capability = capability and (g.role_oid = its_oid
        or g.role = role and not exists (select from pg_roles r where r.oid = g.role_oid));
    insert into outbox._grant (role, role_oid, capability, subscriptions, topics, tenants, publishers, consumers)
    values (role, its_oid, capability, subscriptions, topics, tenants, publishers, consumers);
    perform outbox_internal.set_privileges(role, capability);
    perform outbox_internal.audit('grant', format('role %s', role), null, jsonb_strip_nulls(jsonb_build_object('capability',
        capability, 'subscriptions', subscriptions, 'topics', topics, 'tenants', tenants, 'publishers', publishers,
        'consumers', consumers)));
end
$$;
comment on function outbox.grant_to is
    'Grants a role a capability (publish, capture, consume, observe, monitor or admin), or replaces an earlier grant of '
    'it. publish can be narrowed to topics (patterns), tenants and publishers; monitor to tenants. consume can be narrowed '
    'to subscriptions, topics (patterns, for read()) and consumers (of cursors); if one of these is given, those that are '
    'not given allow nothing. null: not narrowed. A list has at most 1000 names of 1 to 255 bytes. Errors: 42704 no such '
    'role, 22023 the capability is unknown or cannot be narrowed like this, or a list is malformed';

-- API: public
create function outbox.revoke_from(role name, capability text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    its_oid oid := outbox_internal.check_grant(role, capability);
    had boolean;
begin
    delete from outbox._grant g where g.capability = capability and (g.role_oid = its_oid
        or g.role = role and not exists (select from pg_roles r where r.oid = g.role_oid));
    had := found;
    perform outbox_internal.set_privileges(role, capability);
    if had then
        perform outbox_internal.audit('revoke', format('role %s', role), null, jsonb_build_object('capability', capability));
    end if;
    return had;
end
$$;
comment on function outbox.revoke_from is
    'Revokes a capability from a role. Privileges that another capability of the role needs stay. Returns false if the '
    'role did not have the capability by grant_to(). Errors: 42704 no such role, 22023 unknown capability';

insert into outbox._capability values
    ('admin', 'function outbox.grant_to'),
    ('admin', 'function outbox.revoke_from'),
    ('monitor', 'table outbox.grants'),
    -- Numbers and states: no payload, header, metadata, key or URL, and no error text other than those in health().
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
    ('publish', 'enqueue_notification'), ('publish', 'enqueue_event'), ('publish', 'fits'),
    ('consume', 'claim'), ('consume', 'claim_wait'), ('consume', 'is_ready'), ('consume', 'claim_delivery'),
    ('consume', 'complete_and_claim'), ('consume', 'read'), ('consume', 'head'), ('consume', 'tail'),
    ('consume', 'webhook_id'), ('consume', 'cursor_get'), ('consume', 'cursor_list'), ('consume', 'cursor_advance'),
    ('consume', 'cursor_reset'), ('consume', 'cursor_record_error'), ('consume', 'cursor_delete'),
    -- These take a lease, which only the worker that claimed has.
    ('consume', 'complete'), ('consume', 'fail'), ('consume', 'dead'), ('consume', 'extend'), ('consume', 'release'),
    ('monitor', 'get_message'), ('monitor', 'history'), ('monitor', 'archive_get'), ('monitor', 'list_messages'),
    ('monitor', 'count_messages'), ('monitor', 'count_by_state'), ('monitor', 'archive_list'),
    ('monitor', 'archive_stats'), ('monitor', 'notification_log'), ('monitor', 'webhook_id'), ('monitor', 'version'),
    ('monitor', 'is_terminal'));

-- Functions that take locks that end with the transaction, or that take secrets, get an entry as well. Functions that other
-- objects depend on got theirs in their files.
do $$
declare
    name text;
begin
    foreach name in array array['claim', 'complete', 'complete_and_claim', 'claim_delivery', 'read', 'cursor_get',
        'cursor_advance', 'cursor_reset', 'cursor_record_error', 'cursor_delete', 'get_message', 'history', 'archive_get',
        'list_messages', 'count_messages', 'archive_list', 'archive_stats', 'notification_log', 'create_endpoint',
        'alter_endpoint', 'rotate_secret', 'set_proxy', 'tick', 'maintain', 'rotate', 'purge', 'adopt'] loop
        call outbox_internal.make_entry('outbox.' || name);
    end loop;
    call outbox_internal.make_entry('outbox_internal.is_ready');
end
$$;

revoke all on schema outbox, outbox_internal, outbox_private from public;
revoke all on all routines in schema outbox, outbox_internal, outbox_private from public;
revoke all on all tables in schema outbox from public;
revoke all on all sequences in schema outbox from public;
