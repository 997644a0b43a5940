-- Immutability: the logs are append-only for every role, the owner included.

-- API: private
-- Refuses updates and deletes of rows of the logs, for every role.
create function outbox_internal.refuse_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Exceptions: retained messages that are not needed any more are deleted, outbox.erase() updates rows, and
    -- outbox.truncate_stream() deletes events.
    if tg_table_name = '_message_retained' and tg_op = 'DELETE' then
        return old;
    elsif tg_table_name = '_message_event' and tg_op = 'DELETE'
        and current_setting('pg_outbox.erasing', true) = 'on' then
        return old;
    elsif tg_op = 'UPDATE' and current_setting('pg_outbox.erasing', true) = 'on' then
        return new;
    end if;
    raise exception 'rows of "%.%" cannot be changed', tg_table_schema, tg_table_name
        using errcode = 'insufficient_privilege', detail = 'Messages, feed, attempts and certificates are only appended.';
end
$$;
create trigger immutable before update or delete on outbox.revocation_certificate
    for each row execute function outbox_internal.refuse_change();
create trigger immutable before update or delete on outbox.message for each row
    execute function outbox_internal.refuse_change();
create trigger immutable before update or delete on outbox.feed for each row
    execute function outbox_internal.refuse_change();
create trigger immutable before update or delete on outbox.attempt for each row
    execute function outbox_internal.refuse_change();
