-- Proxies: the operator's list. An endpoint uses the default proxy, or one from the list that was chosen for it. No other
-- role can name a proxy.
--
-- The list is a table and not a setting. A proxy's URL may contain a password, and when a reload changes a setting,
-- PostgreSQL writes its value to the server's log.

-- API: public
create table outbox.proxy (
    name text primary key,
    url text,
    resolves_names boolean not null default false,
    is_default boolean not null default false,
    updated_at timestamptz not null default clock_timestamp()
);
create unique index proxy_default on outbox.proxy (is_default) where is_default;
comment on table outbox.proxy is
    'The operator''s list of proxies; readable by the owner alone, because a URL may contain a password';
comment on column outbox.proxy.url is
    'http://[user:password@]host:port (CONNECT) or socks5://...; null: no proxy, requests go directly to the receiver';
comment on column outbox.proxy.resolves_names is
    'true: the proxy gets host names, and decides which addresses may be called; false: it gets addresses that were '
    'checked here';
comment on column outbox.proxy.is_default is 'true: used by the endpoints for which no proxy was chosen';
select pg_catalog.pg_extension_config_dump('outbox.proxy', '');

-- There is no foreign key, because a restore fills the tables in any order. An endpoint whose proxy does not exist sends
-- nothing.
alter table outbox.endpoint add column proxy text;
comment on column outbox.endpoint.proxy is
    'name of one of the operator''s proxies; null: the default proxy, if there is one';

-- API: private
-- Returns its argument, or raises 22023 for a URL that is not that of a proxy.
create function outbox_internal.check_proxy(url text) returns text language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_proxy';

-- API: public
create function outbox.set_proxy(name text, url text, resolves_names boolean default false, is_default boolean default false)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox_internal.check_name('proxy', name);
    perform outbox_internal.check_proxy(url);
    if is_default then
        update outbox.proxy p set is_default = false where p.is_default and p.name <> name;
    end if;
    insert into outbox.proxy (name, url, resolves_names, is_default)
    values (name, url, coalesce(resolves_names, false), coalesce(is_default, false))
    on conflict on constraint proxy_pkey do update set url = excluded.url, resolves_names = excluded.resolves_names,
        is_default = excluded.is_default, updated_at = clock_timestamp();
    return outbox_internal.enqueue_own('outbox.control', jsonb_build_object('proxy', name, 'change', 'set'));
end
$$;
comment on function outbox.set_proxy is
    'Adds a proxy to the list, or changes it. url: http://[user:password@]host:port or socks5://...; null: no proxy. '
    'is_default: there is one default, so the former one loses this property. Returns the id of a control message. Only '
    'for the owner of the extension and superusers; it is in no capability. Errors: 22004 name is null, 22023 name or url '
    'is malformed';

-- API: public
create function outbox.drop_proxy(name text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    users text;
begin
    select string_agg(format('"%s"', e.name), ', ' order by e.name) into users
    from outbox.endpoint e where e.proxy = drop_proxy.name and e.deleted_at is null;
    if users is not null then
        raise exception 'proxy "%" is in use', name using errcode = 'OB004',
            detail = format('Endpoints: %s.', users), hint = 'outbox.set_endpoint_proxy() chooses another one for them.';
    end if;
    update outbox.endpoint e set proxy = null where e.proxy = drop_proxy.name;
    delete from outbox.proxy p where p.name = drop_proxy.name;
    if not found then
        raise exception 'proxy "%" does not exist', left(name, 100)
            using errcode = 'OB001', hint = 'The view outbox.proxy_list lists them.';
    end if;
    return outbox_internal.enqueue_own('outbox.control', jsonb_build_object('proxy', name, 'change', 'dropped'));
end
$$;
comment on function outbox.drop_proxy is
    'Removes a proxy from the list. Returns the id of a control message. Only for the owner of the extension and '
    'superusers; it is in no capability. Errors: OB001 no such proxy, OB004 an endpoint uses it';

-- API: public
create function outbox.set_endpoint_proxy(endpoint text, proxy text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known int := outbox_internal.endpoint_id(endpoint);
begin
    if proxy is not null and not exists (select from outbox.proxy p where p.name = set_endpoint_proxy.proxy) then
        raise exception 'proxy "%" does not exist', left(proxy, 100) using errcode = 'OB001',
            detail = 'An endpoint can only use a proxy that the operator has listed.',
            hint = 'The view outbox.proxy_list lists them.';
    end if;
    update outbox.endpoint e set proxy = set_endpoint_proxy.proxy, updated_at = clock_timestamp() where e.id = known;
    return outbox_internal.enqueue_own('outbox.control', jsonb_build_object('endpoint', known, 'name', endpoint, 'change', 'proxy'));
end
$$;
comment on function outbox.set_endpoint_proxy is
    'Chooses one of the operator''s proxies for an endpoint; null: the default proxy, if there is one. Returns the id of a '
    'control message. Errors: OB001 no such endpoint or proxy';

-- API: public
create view outbox.proxy_list as
select p.name, regexp_replace(p.url, '//.*@', '//') as url, p.url like '%@%' as has_credentials, p.resolves_names, p.is_default,
    (select count(*) from outbox.endpoint e where e.proxy = p.name and e.deleted_at is null) as endpoints
from outbox.proxy p;
comment on view outbox.proxy_list is
    'The operator''s proxies, without their credentials; endpoints: how many endpoints have chosen the proxy';

insert into outbox._capability values
    ('monitor', 'table outbox.proxy_list'),
    ('admin', 'function outbox.set_endpoint_proxy');
