-- The schema and what everything else stands on.
--
-- Names: objects that start with `_` are private. Every other object is public, has a `comment on`, and keeps its
-- signature: it grows by defaulted named parameters, never by an overload.

\echo Use "CREATE EXTENSION pg_outbox" to load this file. \quit

-- JSON and HTTP are UTF-8, and so are the library's texts.
do $$
begin
    if current_setting('server_encoding') <> 'UTF8' then
        raise exception 'pg_outbox needs a database with the encoding UTF8, and this one has %', current_setting('server_encoding')
            using errcode = 'feature_not_supported',
                hint = 'create database ... encoding ''UTF8'' template template0';
    end if;
end
$$;

-- Created here and not by the control file: a schema of this name that somebody made before is an error, not a trap.
create schema outbox;
comment on schema outbox is 'pg_outbox: transactional outbox, delivered over HTTP, pulled by workers or read in order';

-- API: private
-- One row per ring (outbox.message, outbox.feed, outbox.attempt, ...): its number of leaves, and the sequence that names
-- the leaf that is written now. A sequence and not a table: it is read in a microsecond, it changes at once for
-- everybody, and a held snapshot leaves no dead rows behind it.
create table outbox._ring (
    name text primary key,
    leaves smallint not null,
    current_leaf regclass not null
);

-- API: private
-- Makes one ring: a parent partitioned by `segment`, its leaves for ever, and its pointer. Called only by the install
-- script: there is no DDL at run time, because ATTACH and DROP lock the parent and queue every producer behind one open
-- transaction.
create procedure outbox._create_ring(ring text, columns text, leaves int, indexes text[])
language plpgsql
as $$
declare
    leaf text;
    ddl text;
begin
    execute format('create table outbox.%I (segment smallint not null, %s) partition by list (segment)', ring, columns);
    execute format('create sequence outbox.%I as smallint minvalue 0 start 0 cache 1', '_' || ring || '_segment');
    for i in 0 .. leaves - 1 loop
        leaf := format('_%s_%s', ring, lpad(i::text, 2, '0'));
        execute format('create table outbox.%I partition of outbox.%I for values in (%s)', leaf, ring, i);
        foreach ddl in array indexes loop
            execute replace(replace(ddl, '{leaf}', leaf), '{table}', format('outbox.%I', leaf));
        end loop;
        perform pg_catalog.pg_extension_config_dump(format('outbox.%I', leaf)::regclass, '');
    end loop;
    perform pg_catalog.pg_extension_config_dump(format('outbox.%I', '_' || ring || '_segment')::regclass, '');
    insert into outbox._ring values (ring, leaves, format('outbox.%I', '_' || ring || '_segment')::regclass);
end
$$;

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
