-- The schema message_store, its types, and the functions of message-db that are about names.
--
-- Each part of message_store is created by a function of this folder, and outbox.install_message_store() calls them in
-- order. All functions of message_store run with their caller's rights, so a role needs the capabilities publish and consume
-- as well. Names in them are qualified, and their search_path is pinned.

-- API: private
create function outbox_internal.create_message_store_names() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $install$
begin
    if to_regtype('message_store.message') is null then
        create type message_store.message as (
            id varchar,
            stream_name varchar,
            type varchar,
            "position" bigint,
            global_position bigint,
            data varchar,
            metadata varchar,
            "time" timestamp
        );
        -- A row of the view messages. In message-db that is a table.
        create type message_store._row as (
            global_position bigint,
            "position" bigint,
            "time" timestamp,
            stream_name text,
            type text,
            data jsonb,
            metadata jsonb,
            id uuid
        );
        -- The ids that write_message() has stored. An id is written once.
        create table message_store._message_id (id uuid constraint messages_id primary key);
    end if;

    create or replace function message_store.message_store_version() returns varchar
    language sql immutable parallel safe
    as $$ select '1.3.0'::varchar $$;

    create or replace function message_store.hash_64(value varchar) returns bigint
    language sql immutable parallel safe
    as $$ select ('x' || left(md5(value), 16))::bit(64)::bigint $$;

    create or replace function message_store.category(stream_name varchar) returns varchar
    language sql immutable parallel safe
    as $$ select split_part(stream_name, '-', 1)::varchar $$;

    create or replace function message_store.is_category(stream_name varchar) returns boolean
    language sql immutable parallel safe
    as $$ select coalesce(strpos(stream_name, '-') = 0, true) $$;

    create or replace function message_store.id(stream_name varchar) returns varchar
    language sql immutable parallel safe
    as $$ select substr(stream_name, nullif(strpos(stream_name, '-'), 0) + 1)::varchar $$;

    create or replace function message_store.cardinal_id(stream_name varchar) returns varchar
    language sql immutable parallel safe
    as $$ select split_part(message_store.id(stream_name), '+', 1)::varchar $$;

    create or replace function message_store.stream_version(stream_name varchar) returns bigint
    language sql volatile
    as $$ select case when stream_name is not null then nullif(outbox.stream_version(stream_name), 0) - 1 end $$;
end
$install$;
