-- Who may what. Nothing is granted to PUBLIC; roles get capabilities.

-- API: private
-- Logs are immutable for everybody, the owner included.
create function outbox._refuse_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- What nothing waits with any more; what outbox.erase() empties.
    if tg_table_name = '_message_kept' and tg_op = 'DELETE' then
        return old;
    elsif tg_op = 'UPDATE' and current_setting('pg_outbox.erasing', true) = 'on' then
        return new;
    end if;
    raise exception 'rows of "%.%" cannot be changed', tg_table_schema, tg_table_name
        using errcode = 'insufficient_privilege', detail = 'Messages, feed and attempts are append-only logs.';
end
$$;
create trigger immutable before update or delete on outbox.message for each row execute function outbox._refuse_change();
create trigger immutable before update or delete on outbox.feed for each row execute function outbox._refuse_change();
create trigger immutable before update or delete on outbox.attempt for each row execute function outbox._refuse_change();

-- API: public
create function outbox.grant_to(role name, capability text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    entry text;
begin
    if not exists (select from pg_roles r where r.rolname = role) then
        raise exception 'role "%" does not exist', role using errcode = 'undefined_object';
    end if;
    if not exists (select from outbox._capability c where c.capability = grant_to.capability) then
        raise exception 'unknown capability "%"', capability
            using errcode = 'invalid_parameter_value',
                hint = format('The capabilities are %s.',
                    (select string_agg(distinct c.capability, ', ' order by c.capability) from outbox._capability c));
    end if;
    execute format('grant usage on schema outbox to %I', role);
    for entry in
        select c.object from outbox._capability c
        where c.capability = grant_to.capability
            -- an admin sees everything
            or grant_to.capability = 'admin' and c.capability = 'monitor'
    loop
        if entry like 'table %' then
            execute format('grant select on %s to %I', substr(entry, 7), role);
        else
            execute format('grant execute on %s to %I', entry, role);
        end if;
    end loop;
end
$$;
comment on function outbox.grant_to is 'Grants a role one of the capabilities publish, consume, monitor, admin';
insert into outbox._capability values ('admin', 'function outbox.grant_to');

revoke all on schema outbox from public;
revoke all on all functions in schema outbox from public;
revoke all on all procedures in schema outbox from public;
revoke all on all tables in schema outbox from public;
revoke all on all sequences in schema outbox from public;

insert into outbox._identity (xid, since, database)
values (outbox._row_xid(), pg_current_xact_id(), outbox._database_oid());

-- API: private
-- Tells the launcher, when this transaction commits, that there is an outbox here now.
create function outbox._announce() returns void language c volatile as 'MODULE_PATHNAME', 'outbox_announce';
revoke all on function outbox._announce() from public;
select outbox._announce();
