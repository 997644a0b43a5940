-- Checks of the values that commands, snapshots and sagas store.

-- API: private
-- Checks and returns an identifier of the application: 1 to 255 characters, no control characters. Raises 22004 or 22023.
create function outbox_internal.check_identifier(kind text, value text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if value is null then
        raise exception 'the % must not be null', kind using errcode = 'null_value_not_allowed';
    end if;
    if value = '' or length(value) > 255 or value ~ '[[:cntrl:]]' then
        raise exception 'malformed %', kind using errcode = 'invalid_parameter_value',
            detail = format('It has %s characters.', length(value)),
            hint = '1 to 255 characters, and no control characters.';
    end if;
    return value;
end
$$;

-- API: private
-- Checks and returns a document that the application stores: as text, at most pg_outbox.max_payload. Raises 54000.
create function outbox_internal.check_document(kind text, document jsonb) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform outbox_internal.check_size(kind, octet_length(document::text));
    return document;
end
$$;

-- API: private
-- Raises 54000 for a size in bytes above pg_outbox.max_payload.
create function outbox_internal.check_size(kind text, size bigint) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    most bigint;
begin
    -- loads the library, which defines the setting
    perform outbox_internal.database_oid();
    most := pg_size_bytes(current_setting('pg_outbox.max_payload'));
    if size > most then
        raise exception 'the % is too large', kind using errcode = 'program_limit_exceeded',
            detail = format('It has %s bytes.', size),
            hint = format('At most pg_outbox.max_payload, which is %s bytes.', most);
    end if;
end
$$;
