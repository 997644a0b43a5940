-- The inbox: the consuming side, in a database that gets messages from a relay and handles each of them once. Positions grow
-- in each stream, so one row per stream suffices, and nothing has to be removed.

-- API: public
create table outbox.inbox (
    source text not null,
    stream text not null,
    epoch int not null,
    "position" bigint not null,
    handled_at timestamptz not null default clock_timestamp(),
    primary key (source, stream)
);
comment on table outbox.inbox is 'The last message that was handled, for each source and stream; see inbox_begin()';
comment on column outbox.inbox.source is 'the header outbox-source of the messages';
comment on column outbox.inbox.stream is 'stream, partition or queue that the messages came through';
select pg_catalog.pg_extension_config_dump('outbox.inbox', '');

-- API: public
create function outbox.inbox_begin(
    source text,
    "position" bigint,
    epoch int default 1,
    stream text default ''
) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox_internal.check_writable('inbox_begin');
    source := outbox_internal.cursor_part('source', source);
    stream := outbox_internal.cursor_part('subject', stream);
    if "position" is null or "position" < 1 or epoch is null or epoch < 1 then
        raise exception 'invalid position' using errcode = 'OB009',
            detail = format('It is %s in epoch %s.', coalesce("position"::text, 'null'), coalesce(epoch::text, 'null')),
            hint = 'Position and epoch of a message are in its headers outbox-position and outbox-epoch.';
    end if;
    insert into outbox.inbox as i (source, stream, epoch, "position") values (source, stream, epoch, "position")
    on conflict on constraint inbox_pkey do update
    set epoch = excluded.epoch, "position" = excluded."position", handled_at = clock_timestamp()
    where (i.epoch, i."position") < (excluded.epoch, excluded."position");
    return found;
end
$$;
comment on function outbox.inbox_begin is
    'Called in the transaction that handles a message from a relay: returns true if the message is new, and false if it or a '
    'later one of its source and stream was handled before. source, position and epoch are those of the message''s headers; '
    'stream is the stream or partition in which the broker keeps the order. Waits for another transaction that handles a '
    'message of the same stream. Errors: OB009 an argument is malformed, 25006 the transaction is read-only';

insert into outbox._capability values
    ('consume', 'function outbox.inbox_begin'),
    ('monitor', 'table outbox.inbox');
