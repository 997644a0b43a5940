-- Capabilities: the objects that a role with a capability may use. Every file adds its own objects to the list.

-- API: private
-- The objects of each capability of grant_to(): 'function outbox.name', 'function outbox_internal.name' or 'table outbox.name'.
create table outbox._capability (
    capability text not null check (capability in ('publish', 'capture', 'consume', 'observe', 'monitor', 'admin')),
    object text not null,
    -- true: also part of the capability when it is narrowed, because the function checks what its caller may use
    narrows boolean not null default false,
    primary key (capability, object)
);

-- The functions that are called through an entry, see outbox_internal.make_entry() below.
create schema outbox_private;
comment on schema outbox_private is
    'pg_outbox: functions that are called only through functions of the same name in the schemas outbox and '
    'outbox_internal, which check their caller first';

-- API: private
-- Puts an entry before a function that has to know its caller. The function moves to a schema that no other role may use.
-- The function that has its name from now on is the library's `entry`, which checks the caller and the arguments before it
-- becomes the owner and calls the moved function. Signature, defaults and comment stay the same. Called only by the install
-- script.
create procedure outbox_internal.make_entry(name text)
language plpgsql
as $$
declare
    entry record;
begin
    select p.oid, p.proname, p.pronamespace::regnamespace as schema, pg_get_function_arguments(p.oid) as arguments,
        pg_get_function_identity_arguments(p.oid) as own, pg_get_function_result(p.oid) as result, p.provolatile,
        obj_description(p.oid, 'pg_proc') as comment
    into strict entry
    from pg_proc p
    where p.oid = name::regproc;
    execute format('alter function %s.%I(%s) security invoker', entry.schema, entry.proname, entry.own);
    execute format('alter function %s.%I(%s) set schema outbox_private', entry.schema, entry.proname, entry.own);
    execute format('create function %s.%I(%s) returns %s language c %s as %L, %L', entry.schema, entry.proname, entry.arguments,
        entry.result, case entry.provolatile when 's' then 'stable' else 'volatile' end, 'MODULE_PATHNAME', 'outbox_enter');
    if entry.comment is not null then
        execute format('comment on function %s.%I(%s) is %L', entry.schema, entry.proname, entry.own, entry.comment);
    end if;
end
$$;
