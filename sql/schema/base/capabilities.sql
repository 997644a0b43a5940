-- Capabilities: which objects a role may use that has one. Every file adds its own objects to the list.

-- API: private
-- What each capability of grant_to() may use: 'function outbox.name' or 'table outbox.name'. Every file adds its own.
create table outbox._capability (
    capability text not null check (capability in ('publish', 'capture', 'consume', 'observe', 'monitor', 'admin')),
    object text not null,
    -- part of the capability when it is narrowed, too: the function looks at what its caller may
    narrows boolean not null default false,
    primary key (capability, object)
);

-- What is behind doors, see below.
create schema outbox_private;
comment on schema outbox_private is 'pg_outbox: what is behind functions of the schema outbox that look at their caller first';

-- API: private
-- Gives a function a door: for those that have to know who calls. It moves into a schema that nobody else may use, and what
-- has its name from now on is the library's `entry`, which looks at the caller and the arguments before it becomes the owner.
-- Signature, defaults and comment stay. Called only by the install script.
create procedure outbox._make_door(name text)
language plpgsql
as $$
declare
    door record;
begin
    select p.oid, p.proname, pg_get_function_arguments(p.oid) as arguments,
        pg_get_function_identity_arguments(p.oid) as own, pg_get_function_result(p.oid) as result, p.provolatile,
        obj_description(p.oid, 'pg_proc') as comment
    into strict door
    from pg_proc p
    where p.pronamespace = 'outbox'::regnamespace and p.proname = name;
    execute format('alter function outbox.%I(%s) security invoker', door.proname, door.own);
    execute format('alter function outbox.%I(%s) set schema outbox_private', door.proname, door.own);
    execute format('create function outbox.%I(%s) returns %s language c %s as %L, %L', door.proname, door.arguments,
        door.result, case door.provolatile when 's' then 'stable' else 'volatile' end, 'MODULE_PATHNAME', 'outbox_enter');
    if door.comment is not null then
        execute format('comment on function outbox.%I(%s) is %L', door.proname, door.own, door.comment);
    end if;
end
$$;
