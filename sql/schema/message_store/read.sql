-- Reading messages. A call reads pages, and decides about each message of a page: the number of messages that are asked for
-- counts those that pass the caller's condition, and `load()` and `read_events()` bound what they return.

-- API: private
-- Pages, and the parts that the reading functions have in common.
create function outbox_internal.create_message_store_pages() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $install$
begin
    -- An event that was appended without an id has one made of its webhook id. JSON null stands for a message without data.
    create or replace function message_store._row_of(e outbox.event) returns message_store._row
    language sql immutable
    as $$
        select (e."position", e.version - 1, e.recorded_at at time zone 'utc', e.stream, e.type, nullif(e.data, 'null'),
            e.metadata, coalesce(e.event_id, md5(e.webhook_id)::uuid))::message_store._row
    $$;

    create or replace function message_store._message_of(r message_store._row) returns message_store.message
    language sql immutable
    as $$
        select (r.id, r.stream_name, r.type, r."position", r.global_position, r.data, r.metadata,
            r."time")::message_store.message
    $$;

    create or replace function message_store._stream_page(stream_name text, from_version bigint, size bigint)
    returns setof message_store._row
    language sql volatile
    as $$ select (message_store._row_of(e)).* from outbox.load(stream_name, from_version, size::int, positions => true) e $$;

    -- A row without an id is a marker of read_events(): it says how far the page has looked.
    create or replace function message_store._category_page(
        category text,
        after bigint,
        size bigint,
        member bigint default null,
        members bigint default null
    ) returns setof message_store._row
    language sql volatile
    as $$
        select (message_store._row_of(e)).*
        from outbox.read_events(after, size::int, case when category is not null then array[category] end,
            -- message-db refuses more members than a smallint has.
            member => member::int, members => members::smallint) e
    $$;

    -- Checks the condition of a call, and returns the expression for it. It is evaluated with the caller's rights.
    create or replace function message_store._expression(condition text) returns text
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
    as $$
    begin
        if condition is null then
            return 'true';
        end if;
        if current_setting('message_store.sql_condition', true) is distinct from 'on' then
            raise exception 'Retrieval with SQL condition is not activated';
        end if;
        return '(' || condition || E'\n) is true';
    end
    $$;

    -- The number of messages that a call may return.
    create or replace function message_store._limit(batch_size bigint) returns bigint
    language plpgsql immutable
    set search_path = pg_catalog, pg_temp
    as $$
    begin
        if batch_size < -1 then
            raise exception 'LIMIT must not be negative' using errcode = 'invalid_row_count_in_limit_clause';
        end if;
        return coalesce(nullif(batch_size, -1), case when batch_size = -1 then 9223372036854775807 else 1000 end);
    end
    $$;
end
$install$;

-- API: private
create function outbox_internal.create_message_store_read_stream() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $install$
begin
    create or replace function message_store.get_stream_messages(
        stream_name varchar,
        "position" bigint default 0,
        batch_size bigint default 1000,
        condition varchar default null
    ) returns setof message_store.message
    language plpgsql volatile
    set search_path = pg_catalog, message_store, pg_temp
    as $$
    #variable_conflict use_variable
    declare
        wanted bigint := message_store._limit(batch_size);
        version bigint := least(greatest("position", 0), 9223372036854775806) + 1;
        last_version bigint;
        page text;
        event record;
        any_event boolean := true;
    begin
        if message_store.is_category(stream_name) then
            raise exception 'Must be a stream name: %', stream_name;
        end if;
        page := format('select messages."position" + 2 as next_version, message_store._message_of(messages) as message, '
            '%s as passes from message_store._stream_page($1, $2, $3) messages order by messages."position"',
            message_store._expression(condition));
        perform outbox_internal.await_positions(stream_name);
        last_version := outbox.stream_version(stream_name);
        while any_event and wanted > 0 and version <= last_version loop
            any_event := false;
            for event in execute page
                using stream_name, version, case when condition is null then least(wanted, 1000) else 1000 end
            loop
                any_event := true;
                version := event.next_version;
                if event.passes then
                    return next event.message;
                    wanted := wanted - 1;
                    exit when wanted = 0;
                end if;
            end loop;
        end loop;
    end
    $$;

    create or replace function message_store.get_last_stream_message(stream_name varchar, type varchar default null)
    returns setof message_store.message
    language plpgsql volatile
    set search_path = pg_catalog, message_store, pg_temp
    as $$
    #variable_conflict use_variable
    declare
        version bigint;
        event record;
        any_event boolean := stream_name is not null;
    begin
        perform outbox_internal.await_positions(stream_name);
        while any_event loop
            any_event := false;
            for event in
                select e.version, e.type
                from outbox.load(stream_name, version, case when type is null then 1 else 100 end, backwards => true) e
            loop
                if event.type = coalesce(type, event.type) then
                    return query
                    select (message_store._message_of(r)).* from message_store._stream_page(stream_name, event.version, 1) r;
                    return;
                end if;
                any_event := true;
                version := event.version - 1;
            end loop;
        end loop;
    end
    $$;
end
$install$;

-- API: private
create function outbox_internal.create_message_store_read_category() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $install$
begin
    -- Raises the errors of message-db for a malformed correlation or consumer group.
    create or replace function message_store._check_reader(correlation text, member bigint, size bigint) returns void
    language plpgsql immutable
    set search_path = pg_catalog, message_store, pg_temp
    as $$
    declare
        given constant text := format('(Consumer Group Member: %s, Consumer Group Size: %s)', coalesce(member::text, '<NULL>'),
            coalesce(size::text, '<NULL>'));
    begin
        if not message_store.is_category(correlation) then
            raise exception 'Correlation must be a category (Correlation: %)', correlation;
        elsif (member is null) <> (size is null) then
            raise exception 'Consumer group member and size must be specified %', given;
        elsif size < 1 then
            raise exception 'Consumer group size must not be less than 1 %', given;
        elsif member < 0 then
            raise exception 'Consumer group member must not be less than 0 %', given;
        elsif member >= size then
            raise exception 'Consumer group member must be less than the group size %', given;
        end if;
    end
    $$;

    create or replace function message_store.get_category_messages(
        category varchar,
        "position" bigint default 1,
        batch_size bigint default 1000,
        correlation varchar default null,
        consumer_group_member bigint default null,
        consumer_group_size bigint default null,
        condition varchar default null
    ) returns setof message_store.message
    language plpgsql volatile
    set search_path = pg_catalog, message_store, pg_temp
    as $$
    #variable_conflict use_variable
    declare
        wanted bigint := message_store._limit(batch_size);
        after bigint := greatest(coalesce("position", 1), 1) - 1;
        feed_end bigint;
        narrow constant boolean := coalesce(correlation, condition) is not null;
        page text;
        event record;
        any_event boolean := true;
    begin
        if not message_store.is_category(category) then
            raise exception 'Must be a category: %', category;
        end if;
        perform message_store._check_reader(correlation, consumer_group_member, consumer_group_size);
        -- In message-db, a stream without an id belongs to no member.
        page := format('select messages.global_position, message_store._message_of(messages) as message, '
            'messages.id is not null and ($6 is null or message_store.category(messages.metadata ->> ''correlationStreamName'') = $6) '
            'and ($4 is null or message_store.cardinal_id(messages.stream_name) is not null) '
            'and %s as passes from message_store._category_page($1, $2, $3, $4, $5) messages order by messages.global_position',
            message_store._expression(condition));
        perform outbox_internal.await_positions();
        feed_end := outbox.head();
        -- No stream is in the category with the empty name.
        while any_event and wanted > 0 and after < feed_end and category <> '' loop
            any_event := false;
            for event in execute page
                using category, after, case when narrow then 1000 else least(wanted, 1000) end, consumer_group_member,
                    consumer_group_size, correlation
            loop
                any_event := true;
                after := event.global_position;
                if event.passes then
                    return next event.message;
                    wanted := wanted - 1;
                    exit when wanted = 0;
                end if;
            end loop;
        end loop;
    end
    $$;
end
$install$;
