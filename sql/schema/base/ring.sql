-- Rings: fixed sets of partitions (leaves) that are filled one after another, and emptied as a whole.

-- API: private
-- One row per ring (outbox.message, outbox.feed, outbox.attempt, ...): its number of leaves, and the sequence whose value is
-- the number of the leaf that is written now. It is a sequence and not a table, because a sequence is read in a microsecond,
-- its change is visible to all sessions at once, and it leaves no dead rows while a session holds a snapshot.
create table outbox._ring (
    name text primary key,
    leaves smallint not null,
    current_leaf regclass not null
);

-- API: private
-- Creates one ring: a parent that is partitioned by `segment`, all its leaves, and its pointer. Called only by the install
-- script. There is no DDL at run time, because ATTACH and DROP lock the parent, and would queue every producer after one
-- open transaction.
create procedure outbox_internal.create_ring(ring text, columns text, leaves int, indexes text[])
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
-- The number of the leaf that is written now. A call takes four microseconds, because it puts the name of the sequence
-- together and looks it up. So the statements on hot paths (ticks, claims, outcomes of workers) contain the expression, with
-- the name as a constant, which takes half a microsecond. Other statements call the function; those that write several rows
-- call it in a subquery, so that it runs once.
create function outbox_internal.current_leaf(ring text) returns smallint
language sql volatile
set search_path = pg_catalog, pg_temp
return coalesce(pg_sequence_last_value(format('outbox._%s_segment', ring)::regclass), 0)::smallint;

-- API: private
-- The number of leaves of the ring of messages. LEAVES in the library is the same number.
create function outbox_internal.message_leaves() returns int
language sql immutable parallel safe
return 16;

-- API: private
-- How many leaves the pointer of the ring of messages moves on from one leaf until it reaches another.
create function outbox_internal.leaf_distance(from_leaf int, to_leaf int) returns int
language sql immutable parallel safe
return (to_leaf - from_leaf + outbox_internal.message_leaves()) % outbox_internal.message_leaves();
