-- Cursors: how consumers store the position up to which they have read.
--
-- A cursor only moves forward: an advance to a smaller position, or to the same position with another delivery id, is
-- refused. With expected_position, an advance is a compare-and-set. Moving a cursor back is a reset, which requires a
-- reason.

-- API: public
create type outbox.cursor_state as (
    consumer text,
    stream text,
    subject text,
    "position" bigint,
    epoch int,
    last_delivery_id text,
    last_delivered_at timestamptz,
    last_error text,
    error_position bigint,
    error_since timestamptz,
    updated_at timestamptz,
    lag_positions bigint,
    lag_seconds double precision,
    advanced boolean
);
comment on type outbox.cursor_state is
    'A cursor. last_error: why its consumer cannot go on, error_since when, and error_position at which message; null '
    'once the cursor has moved. lag_positions: how many positions of the feed come after the cursor. lag_seconds: for how many seconds the '
    'first of them has been in the feed; 0 when there is none. Both are null on streams other than "outbox". advanced: '
    'whether cursor_advance() moved the cursor; null in the results of other functions';

-- API: private
-- Checks and returns a part of a cursor's key: spaces around it are removed, and it has 1 to 255 characters, none of them a
-- control character. The subject may be empty. Raises OB009.
create function outbox_internal.cursor_part(what text, value text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    part text := regexp_replace(coalesce(value, ''), '^[[:space:]]+|[[:space:]]+$', '', 'g');
begin
    if part = '' and what <> 'subject' then
        raise exception 'invalid cursor: the % is empty', what using errcode = 'OB009',
            hint = 'A cursor is named by its consumer, its stream ("outbox" is the feed) and its subject, which may be empty.';
    end if;
    if length(part) > 255 or part ~ '[[:cntrl:]]' then
        raise exception 'invalid cursor: malformed %', what using errcode = 'OB009',
            detail = format('It has %s characters.', length(part)),
            hint = 'At most 255 characters, and no control characters.';
    end if;
    return part;
end
$$;

-- API: private
-- Returns a cursor with its lag. Reads the sequencer's last row, and the row of the feed that holds the next position.
create function outbox_internal.cursor_state(c outbox.cursor) returns outbox.cursor_state
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    result outbox.cursor_state;
    feed_end bigint;
begin
    result.consumer := c.consumer;
    result.stream := c.stream;
    result.subject := c.subject;
    result."position" := c."position";
    result.epoch := c.epoch;
    result.last_delivery_id := c.last_delivery_id;
    result.last_delivered_at := c.last_delivered_at;
    result.last_error := c.last_error;
    result.error_position := c.error_position;
    result.error_since := c.error_since;
    result.updated_at := c.updated_at;
    if c.stream = 'outbox' then
        feed_end := outbox.head();
        result.lag_positions := greatest(feed_end - c."position", 0);
        result.lag_seconds := 0;
        if result.lag_positions > 0 then
            result.lag_seconds := greatest(extract(epoch from clock_timestamp() - coalesce(
                (select f.ticked_at from outbox.feed f where f.first_position <= c."position" + 1
                order by f.first_position desc limit 1),
                -- the next position is no longer stored
                (select f.ticked_at from outbox.feed f order by f.first_position limit 1)
            )), 0);
        end if;
    end if;
    return result;
end
$$;

-- API: private
create function outbox_internal.cursor_missing(consumer text, stream text, subject text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'cursor of consumer "%" on stream "%" does not exist', consumer, stream
        using errcode = 'OB001',
            detail = format('The subject is "%s".', subject),
            hint = 'The first outbox.cursor_advance() makes it; outbox.cursor_list() shows those there are.';
end
$$;

-- API: private
-- Returns the cursor; all columns are null if there is none. Reads the index backwards from the newest version.
create function outbox_internal.cursor_row(consumer text, stream text, subject text) returns outbox.cursor
language sql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
begin atomic
    select * from outbox.cursor k
    where k.consumer = cursor_row.consumer and k.stream = cursor_row.stream and k.subject = cursor_row.subject
    order by k.version desc
    limit 1;
end;

-- API: private
-- Returns the cursor and locks its row. If there is none and `make` is true, creates it at `made_at`; its epoch is the
-- newest one on the stream "outbox" and null on others.
create function outbox_internal.cursor_lock(
    consumer text,
    stream text,
    subject text,
    make boolean,
    made_at bigint default 0
) returns outbox.cursor
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
    c outbox.cursor;
begin
    loop
        select * into c from outbox.cursor k
        where k.consumer = cursor_lock.consumer and k.stream = cursor_lock.stream and k.subject = cursor_lock.subject
        order by k.version desc
        limit 1
        for update;
        exit when c.consumer is not null or not make;
        -- Waits for a session that is creating or deleting this cursor.
        insert into outbox._cursor_key (stream, subject, consumer) values (stream, subject, consumer)
        on conflict do nothing;
        if found then
            insert into outbox.cursor (consumer, stream, subject, "position", epoch)
            values (consumer, stream, subject, made_at,
                case when stream = 'outbox' then (select max(e.epoch) from outbox.epoch e) end);
        end if;
    end loop;
    return c;
end
$$;

-- API: public
create function outbox.cursor_get(
    consumer text,
    stream text default 'outbox',
    subject text default '',
    if_missing bigint default null
) returns outbox.cursor_state
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    c outbox.cursor;
begin
    consumer := outbox_internal.cursor_part('consumer', consumer);
    stream := outbox_internal.cursor_part('stream', stream);
    subject := outbox_internal.cursor_part('subject', subject);
    c := outbox_internal.cursor_row(consumer, stream, subject);
    if c.consumer is null then
        if if_missing is null then
            perform outbox_internal.cursor_missing(consumer, stream, subject);
        end if;
        c.consumer := consumer;
        c.stream := stream;
        c.subject := subject;
        c."position" := if_missing;
    end if;
    return outbox_internal.cursor_state(c);
end
$$;
comment on function outbox.cursor_get is
    'Returns a consumer''s cursor. stream is "outbox" (the feed) by default, subject is empty by default. Errors: OB001 '
    'there is no such cursor; with if_missing, the result shows that position instead (nothing is stored). OB009 a name is '
    'malformed';

-- API: public
create function outbox.cursor_list(
    consumer text default null,
    stream text default null,
    subject text default null,
    max_rows int default 0
) returns setof outbox.cursor_state
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select s.*
    from (
        select * from outbox._cursor_key k
        where (cursor_list.consumer is null or k.consumer = btrim(cursor_list.consumer))
            and (cursor_list.stream is null or k.stream = btrim(cursor_list.stream))
            and (cursor_list.subject is null or k.subject = btrim(cursor_list.subject))
        order by k.stream, k.subject, k.consumer
        limit nullif(greatest(cursor_list.max_rows, 0), 0)
    ) k
    cross join lateral outbox_internal.cursor_row(k.consumer, k.stream, k.subject) c
    cross join lateral outbox_internal.cursor_state(c) s
    order by k.stream, k.subject, k.consumer;
end;
comment on function outbox.cursor_list is
    'Lists cursors in the order of stream, subject and consumer. consumer, stream, subject: only those equal to the value; '
    'null: all. max_rows: at most so many rows; 0 (the default): no limit';

-- API: public
create function outbox.cursor_advance(
    consumer text,
    "position" bigint,
    stream text default 'outbox',
    subject text default '',
    delivery_id text default null,
    delivered_at timestamptz default null,
    expected_position bigint default null,
    epoch int default null
) returns outbox.cursor_state
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_variable
declare
    c outbox.cursor;
    advanced boolean;
    result outbox.cursor_state;
begin
    perform outbox_internal.check_writable('cursor_advance');
    consumer := outbox_internal.cursor_part('consumer', consumer);
    stream := outbox_internal.cursor_part('stream', stream);
    subject := outbox_internal.cursor_part('subject', subject);
    if "position" is null or "position" <= 0 then
        raise exception 'invalid position' using errcode = 'OB009',
            detail = format('It is %s.', coalesce("position"::text, 'null')),
            hint = 'A cursor is advanced to the position of a message, which is above 0.';
    end if;
    c := outbox_internal.cursor_lock(consumer, stream, subject, true);
    if stream = 'outbox' then
        perform outbox_internal.check_history("position", epoch);
        perform outbox_internal.check_history(c."position", c.epoch);
    end if;
    if expected_position is not null and c."position" <> expected_position then
        raise exception 'cursor of consumer "%" stands at %, not at %', consumer, c."position", expected_position
            using errcode = 'OB005',
                detail = format('{"expected": %s, "actual": %s}', expected_position, c."position"),
                hint = 'Another instance was there first: roll back, and go on from the cursor.';
    end if;
    if "position" < c."position" then
        raise exception 'cursor of consumer "%" stands at % and cannot go back to %', consumer, c."position", "position"
            using errcode = 'OB005',
                detail = format('{"requested": %s, "actual": %s}', "position", c."position"),
                hint = 'outbox.cursor_reset() moves a cursor back.';
    end if;
    advanced := "position" > c."position";
    if not advanced and delivery_id is not null and c.last_delivery_id is not null
        and delivery_id <> c.last_delivery_id then
        raise exception 'cursor of consumer "%" has position % with another delivery id', consumer, "position"
            using errcode = 'OB005',
                detail = format('It was "%s" and is "%s" now.', c.last_delivery_id, delivery_id),
                hint = 'Two histories claim the same position. outbox.cursor_reset() decides for one.';
    end if;
    if advanced then
        update outbox.cursor k
        set version = nextval('outbox._cursor_version'), "position" = cursor_advance."position",
            epoch = case when stream = 'outbox' then (select max(e.epoch) from outbox.epoch e) end,
            last_delivery_id = delivery_id,
            last_delivered_at = coalesce(delivered_at, clock_timestamp()),
            last_error = null,
            error_position = null,
            error_since = null,
            updated_at = clock_timestamp()
        where k.consumer = c.consumer and k.stream = c.stream and k.subject = c.subject and k.version = c.version
        returning * into c;
    end if;
    result := outbox_internal.cursor_state(c);
    result.advanced := advanced;
    return result;
end
$$;
comment on function outbox.cursor_advance is
    'Confirms that a consumer has read everything up to a position, and creates the cursor if there is none. At the '
    'position where the cursor stands already, nothing changes, and advanced is false. delivery_id identifies the '
    'delivery, and delivered_at (default: now) says when it was made. expected_position makes the call a compare-and-set. '
    'epoch: the epoch in which the position was read. Errors: OB005 the position is smaller than the cursor''s, the same '
    'position has another delivery id, or the cursor is not at expected_position; OB009 a name is malformed, the position '
    'is below 1, after the end of the feed, or in a history that was lost; 25006 the transaction is read-only';

-- API: public
create function outbox.cursor_reset(
    consumer text,
    "position" bigint,
    reason text,
    stream text default 'outbox',
    subject text default '',
    delivery_id text default null,
    delivered_at timestamptz default null
) returns outbox.cursor_state
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_variable
declare
    c outbox.cursor;
    previous bigint;
begin
    perform outbox_internal.check_writable('cursor_reset');
    consumer := outbox_internal.cursor_part('consumer', consumer);
    stream := outbox_internal.cursor_part('stream', stream);
    subject := outbox_internal.cursor_part('subject', subject);
    if "position" is null or "position" < 0 then
        raise exception 'invalid position' using errcode = 'OB009',
            detail = format('It is %s.', coalesce("position"::text, 'null')),
            hint = 'A cursor is reset to 0 (before the first message) or to a position.';
    end if;
    if coalesce(btrim(reason), '') = '' then
        raise exception 'a reason is required' using errcode = 'OB006',
            hint = 'The reason is kept in outbox.audit, with the role that reset the cursor and both positions.';
    end if;
    if stream = 'outbox' then
        perform outbox_internal.check_history("position", null);
    end if;
    c := outbox_internal.cursor_lock(consumer, stream, subject, true);
    previous := c."position";
    update outbox.cursor k
    set version = nextval('outbox._cursor_version'), "position" = cursor_reset."position",
        epoch = case when stream = 'outbox' then (select max(e.epoch) from outbox.epoch e) end,
        last_delivery_id = delivery_id,
        last_delivered_at = delivered_at,
        last_error = null,
        error_position = null,
        error_since = null,
        updated_at = clock_timestamp()
    where k.consumer = c.consumer and k.stream = c.stream and k.subject = c.subject and k.version = c.version
    returning * into c;
    perform outbox_internal.audit('cursor_reset', format('cursor %s/%s/%s', stream, subject, consumer), btrim(reason),
        jsonb_build_object('from', previous, 'to', "position"));
    return outbox_internal.cursor_state(c);
end
$$;
comment on function outbox.cursor_reset is
    'Moves a cursor to any position from 0 on, back as well, and creates the cursor if there is none. The reason is stored '
    'in outbox.audit. Errors: OB006 the reason is empty, OB009 a name is malformed or the position is negative or after '
    'the end of the feed, 25006 the transaction is read-only';

-- API: public
create function outbox.cursor_record_error(
    consumer text,
    error text,
    stream text default 'outbox',
    subject text default '',
    error_position bigint default null,
    after_position bigint default 0
) returns outbox.cursor_state
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_variable
declare
    c outbox.cursor;
begin
    perform outbox_internal.check_writable('cursor_record_error');
    consumer := outbox_internal.cursor_part('consumer', consumer);
    stream := outbox_internal.cursor_part('stream', stream);
    subject := outbox_internal.cursor_part('subject', subject);
    error := left(regexp_replace(coalesce(error, ''), '^[[:space:]]+|[[:space:]]+$', '', 'g'), 2000);
    if error = '' then
        raise exception 'an error text is required' using errcode = 'OB009';
    end if;
    if error_position <= 0 then
        raise exception 'invalid error_position' using errcode = 'OB009', detail = format('It is %s.', error_position),
            hint = 'It is the position of the message that cannot be handled, which is above 0, or null.';
    end if;
    if after_position is null or after_position < 0 then
        raise exception 'invalid after_position' using errcode = 'OB009',
            detail = format('It is %s.', coalesce(after_position::text, 'null')),
            hint = 'It is the position at which a new cursor is created: 0 (before the first message) or a position.';
    end if;
    if stream = 'outbox' and (outbox_internal.cursor_row(consumer, stream, subject)).consumer is null then
        perform outbox_internal.check_history(after_position, null);
    end if;
    c := outbox_internal.cursor_lock(consumer, stream, subject, true, after_position);
    if error_position <= c."position" then
        -- Of two instances that handle a message, the one that is refused fails with any error.
        return outbox_internal.cursor_state(c);
    end if;
    update outbox.cursor k
    set version = nextval('outbox._cursor_version'), last_error = error,
        error_position = cursor_record_error.error_position, error_since = coalesce(c.error_since, clock_timestamp())
    where k.consumer = c.consumer and k.stream = c.stream and k.subject = c.subject and k.version = c.version
    returning * into c;
    return outbox_internal.cursor_state(c);
end
$$;
comment on function outbox.cursor_record_error is
    'Records why a consumer cannot go on: an error text (its first 2000 characters), and as error_position the position of '
    'the message that cannot be handled (null: not known). Nothing is recorded if the cursor has passed error_position: then '
    'another instance has handled the message. The cursor does not move. If there is none, it is created at after_position, '
    'where its reader begins. error_since stays that of the first error, health() reports the cursor, and the next advance '
    'or reset clears all three. Errors: OB009 the text is empty, error_position is below 1, after_position is negative or, '
    'for a new cursor, after the end of the feed, or a name is malformed; 25006 the transaction is read-only';

-- API: public
create function outbox.cursor_delete(
    consumer text,
    reason text,
    stream text default 'outbox',
    subject text default ''
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_variable
declare
    c outbox.cursor;
begin
    perform outbox_internal.check_writable('cursor_delete');
    consumer := outbox_internal.cursor_part('consumer', consumer);
    stream := outbox_internal.cursor_part('stream', stream);
    subject := outbox_internal.cursor_part('subject', subject);
    if coalesce(btrim(reason), '') = '' then
        raise exception 'a reason is required' using errcode = 'OB006',
            hint = 'The reason is kept in outbox.audit, with the role that deleted the cursor and its position.';
    end if;
    c := outbox_internal.cursor_lock(consumer, stream, subject, false);
    if c.consumer is null then
        perform outbox_internal.cursor_missing(consumer, stream, subject);
    end if;
    delete from outbox.cursor k
    where k.consumer = c.consumer and k.stream = c.stream and k.subject = c.subject and k.version = c.version;
    delete from outbox._cursor_key k where k.consumer = c.consumer and k.stream = c.stream and k.subject = c.subject;
    perform outbox_internal.audit('cursor_delete', format('cursor %s/%s/%s', stream, subject, consumer), btrim(reason),
        jsonb_build_object('from', c."position"));
end
$$;
comment on function outbox.cursor_delete is
    'Deletes a cursor. The reason is stored in outbox.audit. Errors: OB001 there is no such cursor, OB006 the reason is '
    'empty, OB009 a name is malformed, 25006 the transaction is read-only';

-- The entry is made here, before other objects depend on the function.
call outbox_internal.make_entry('outbox.cursor_list');

insert into outbox._capability values
    ('consume', 'function outbox.cursor_get'),
    ('consume', 'function outbox.cursor_list'),
    ('consume', 'function outbox.cursor_advance'),
    ('consume', 'function outbox.cursor_reset'),
    ('consume', 'function outbox.cursor_record_error'),
    ('consume', 'function outbox.cursor_delete'),
    ('monitor', 'function outbox.cursor_get'),
    ('monitor', 'function outbox.cursor_list'),
    ('admin', 'function outbox.cursor_advance'),
    ('admin', 'function outbox.cursor_reset'),
    ('admin', 'function outbox.cursor_record_error'),
    ('admin', 'function outbox.cursor_delete');
