-- Writing messages: events whose versions begin at 0.

-- API: private
create function outbox_internal.create_message_store_write() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $install$
begin
    -- Where message-db locks the category, this locks the stream: the feed has the order of the commits in any case.
    create or replace function message_store.acquire_lock(stream_name varchar) returns bigint
    language plpgsql volatile
    set search_path = pg_catalog, message_store, pg_temp
    as $$
    begin
        perform outbox_internal.lock_stream(stream_name, false);
        return message_store.hash_64(message_store.category(stream_name));
    end
    $$;

    -- append() compares versions as well. It is not left to append() alone, because turning its error into the one of
    -- message-db would need a subtransaction for every message.
    create or replace function message_store.write_message(
        id varchar,
        stream_name varchar,
        type varchar,
        data jsonb,
        metadata jsonb default null,
        expected_version bigint default null
    ) returns bigint
    language plpgsql volatile
    set search_path = pg_catalog, message_store, pg_temp
    as $$
    #variable_conflict use_variable
    declare
        actual bigint;
    begin
        if expected_version is not null then
            perform message_store.acquire_lock(stream_name);
            actual := coalesce(message_store.stream_version(stream_name), -1);
            if expected_version <> actual then
                raise exception 'Wrong expected version: % (Stream: %, Stream Version: %)', expected_version, stream_name, actual;
            end if;
        end if;
        insert into message_store._message_id (id) values (id::uuid);
        -- JSON null stands for a message without data, which an event has to have.
        return outbox.append(stream_name, type, coalesce(data, 'null'), coalesce(expected_version + 1, -1), id::uuid,
            nullif(metadata, 'null')) - 1;
    end
    $$;
end
$install$;
