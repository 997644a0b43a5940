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
    capability text not null check (capability in ('publish', 'consume', 'monitor', 'admin')),
    object text not null,
    primary key (capability, object)
);
