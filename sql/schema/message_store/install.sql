-- The functions of message-db over pg_outbox's streams. They are not part of the extension: an application that needs them
-- has them created once. They are made by a function and not by a script beside the library, so that nobody needs the
-- server's files, and so that they are those of the installed version. pg_dump dumps them as other objects.

-- API: public
create function outbox.install_message_store() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    schema_owner oid := (select n.nspowner from pg_namespace n where n.nspname = 'message_store');
begin
    perform outbox_internal.check_writable('install_message_store');
    if schema_owner <> (select r.oid from pg_roles r where r.rolname = current_user) then
        -- Its owner could replace a function that every caller trusts.
        raise exception 'schema "message_store" belongs to another role' using errcode = 'insufficient_privilege',
            detail = format('It belongs to %s.', schema_owner::regrole),
            hint = 'Drop the schema, or call the function as its owner.';
    elsif exists (
        select from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'message_store' and c.relname = 'messages' and c.relkind <> 'v'
    ) then
        raise exception 'schema "message_store" is that of a message-db' using errcode = 'duplicate_schema',
            hint = 'Rename that schema, and write its messages to the new one in their order.';
    end if;
    if schema_owner is null then
        create schema message_store;
        if exists (select from pg_roles r where r.rolname = 'message_store') then
            -- Another role may have created it, and would then get rights that nobody meant to give.
            raise notice 'role "message_store" exists already, and gets no capability'
                using hint = 'outbox.grant_to() grants it publish and consume.';
        else
            create role message_store login;
            perform outbox.grant_to('message_store', 'publish');
            perform outbox.grant_to('message_store', 'consume');
        end if;
    end if;
    perform outbox_internal.create_message_store_names();
    perform outbox_internal.create_message_store_write();
    perform outbox_internal.create_message_store_pages();
    perform outbox_internal.create_message_store_read_stream();
    perform outbox_internal.create_message_store_read_category();
    perform outbox_internal.create_message_store_views();
    revoke all on all routines in schema message_store from public;
    grant usage on schema message_store to message_store;
    grant execute on all functions in schema message_store to message_store;
    grant select, insert on message_store._message_id to message_store;
    grant select on message_store.messages, message_store.stream_summary, message_store.type_summary,
        message_store.stream_type_summary, message_store.type_stream_summary, message_store.category_type_summary,
        message_store.type_category_summary to message_store;
end
$$;
comment on function outbox.install_message_store is
    'Creates the schema message_store with the functions, types, views and role of message-db 1.3, over the streams of '
    'pg_outbox. Called again, for example after an upgrade, it replaces the functions and views and leaves grants as they '
    'are. The first call creates the role message_store and grants it publish and consume; a role of this name that exists '
    'gets no capability. Only for the owner of the extension and superusers; it is in no capability. Errors: 42501 the schema '
    'belongs to another role, 42P06 it is that of a message-db, 25006 the transaction is read-only';
