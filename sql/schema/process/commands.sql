-- Commands: a command of the application is processed once, however often it is sent.
--
-- - command_begin() inserts the command's key in the transaction that processes the command. A second call with the key
--   waits for that transaction. If it commits, the call returns the stored result; if it rolls back, the call goes on as the
--   first one. No reservation is left behind, so none has to expire.
-- - command_end() stores the result in the same transaction.
-- - A key is remembered until its expiry. Maintenance removes expired keys.

-- API: public
create table outbox.command (
    key text primary key,
    command_type text not null,
    -- the transaction that processes the command
    xid xid8 not null default pg_current_xact_id(),
    -- of the content that command_begin() was given
    content_hash bytea,
    result jsonb,
    error jsonb,
    begun_at timestamptz not null default clock_timestamp(),
    processed_at timestamptz,
    expires_at timestamptz
);
comment on table outbox.command is 'Commands that were processed, by their key; see command_begin()';
comment on column outbox.command.content_hash is 'SHA-256 of the content, when command_begin() was given one';
comment on column outbox.command.error is 'the error with which the command ended; null: it succeeded';
comment on column outbox.command.processed_at is 'when command_end() was called; null: it was not called';
comment on column outbox.command.expires_at is 'from then on the key counts as new; null: never';
create index command_expiry on outbox.command (expires_at) where expires_at is not null;
select pg_catalog.pg_extension_config_dump('outbox.command', '');

-- API: public
create function outbox.command_begin(
    key text,
    command_type text,
    ttl interval default '24 h',
    content jsonb default null
) returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    c outbox.command;
    hash bytea := case when content is not null then sha256(convert_to(content::text, 'UTF8')) end;
begin
    perform outbox_internal.check_writable('command_begin');
    perform outbox_internal.check_identifier('command key', key);
    perform outbox_internal.check_name('command type', command_type);
    if ttl <= interval '0' or ttl > interval '100 years' then
        raise exception 'invalid ttl' using errcode = 'invalid_parameter_value', detail = format('It is %s.', ttl),
            hint = 'Above 0 and at most 100 years; null: the key is kept until outbox.command_forget().';
    end if;
    -- A command that was processed is found without a write.
    select * into c from outbox.command k where k.key = key;
    if c.key is null or c.expires_at <= clock_timestamp() then
        -- Waits for a transaction that has inserted the key or replaces an expired one.
        insert into outbox.command as k (key, command_type, content_hash, expires_at)
        values (key, command_type, hash, clock_timestamp() + ttl)
        on conflict on constraint command_pkey do update
        set command_type = excluded.command_type, xid = excluded.xid, content_hash = excluded.content_hash,
            result = null, error = null, begun_at = excluded.begun_at, processed_at = null,
            expires_at = excluded.expires_at
        where k.expires_at <= clock_timestamp();
        if found then
            return null;
        end if;
        select * into strict c from outbox.command k where k.key = key;
    end if;
    if c.command_type <> command_type or c.content_hash <> hash then
        raise exception 'command key "%" was used for another command', key using errcode = 'OB008',
            detail = format('It was a command of type "%s"%s.', c.command_type,
                case when c.command_type = command_type then ' with other content' else '' end),
            hint = 'A key stands for one command with one content. Give the other command a key of its own.';
    end if;
    if c.processed_at is null and c.xid = pg_current_xact_id_if_assigned() then
        raise exception 'command "%" has begun in this transaction', key using errcode = 'OB004',
            hint = 'outbox.command_end() ends it; until then the key stands for the call that is under way.';
    end if;
    return jsonb_build_object('key', c.key, 'command_type', c.command_type, 'success', c.error is null, 'result', c.result,
        'error', c.error, 'processed_at', coalesce(c.processed_at, c.begun_at), 'expires_at', c.expires_at);
end
$$;
comment on function outbox.command_begin is
    'Begins a command of the application, in the transaction that processes it. null: the command is new; process it, and '
    'then call command_end(). Otherwise the command was processed before, and the result is an object with key, '
    'command_type, success, result, error, processed_at and expires_at. A transaction that is processing the same key is '
    'waited for; if it rolls back, the key is new again. ttl: how long the key is remembered (24 hours); null: until '
    'command_forget(). content: what the command was called with; only its hash is stored, and the key with other content '
    'is refused. Errors: OB004 the command has begun in this transaction, OB008 the key was used for another command, '
    '22004 or 22023 a value is null or malformed, 40001 at REPEATABLE READ when another transaction has processed the '
    'command meanwhile, 25006 the transaction is read-only';

-- API: public
create function outbox.command_end(key text, result jsonb default null, error jsonb default null) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox_internal.check_document('result', result);
    perform outbox_internal.check_document('error', error);
    if error = 'null' then
        error := null;
    end if;
    update outbox.command c set result = result, error = error, processed_at = clock_timestamp()
    where c.key = key and c.processed_at is null and c.xid = pg_current_xact_id_if_assigned();
    if not found then
        raise exception 'command "%" has not begun in this transaction', left(key, 255) using errcode = 'OB004',
            hint = 'outbox.command_begin() begins it, in the same transaction.';
    end if;
end
$$;
comment on function outbox.command_end is
    'Stores the result of a command that has begun in this transaction, so that later calls of command_begin() return it. '
    'error: the command failed, and that is final; roll back its effects to a savepoint first. A failed command that may be '
    'tried again rolls back the whole transaction instead. A transaction that commits without this call has processed the '
    'command, with no result. Errors: OB004 the command has not begun in this transaction, 54000 the result or error is '
    'above pg_outbox.max_payload';

-- API: public
create function outbox.command_forget(key text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    delete from outbox.command c where c.key = key;
    return found;
end
$$;
comment on function outbox.command_forget is
    'Forgets a command, so that its key is new again. Returns false if the key is not known';

insert into outbox._capability values
    ('publish', 'function outbox.command_begin'),
    ('publish', 'function outbox.command_end'),
    ('publish', 'function outbox.command_forget'),
    ('monitor', 'table outbox.command');
