-- Checks of names, URLs, patterns, filters, secrets and headers.

-- API: private
-- This function and the next four return their argument, or raise 22023 with the reason.
create function outbox_internal.check_url(url text) returns text language c immutable strict as 'MODULE_PATHNAME', 'outbox_check_url';

-- API: private
create function outbox_internal.check_patterns(patterns text[]) returns text[] language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_patterns';

-- API: private
create function outbox_internal.check_filter(filter jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_filter';

-- API: private
create function outbox_internal.check_secret(secret text) returns text language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_secret';

-- API: private
create function outbox_internal.check_headers(headers jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_headers';

-- API: private
-- Enqueues one of pg_outbox's own messages, whose topic begins with the reserved word "outbox".
create function outbox_internal.enqueue_own(topic text, payload jsonb) returns bigint language c volatile strict
as 'MODULE_PATHNAME', 'outbox_enqueue_own';

-- API: private
-- Checks and returns a name of an endpoint, a subscription, a topic or a publisher: 1 to 100 characters, no control
-- characters, no spaces around it. Raises 22004 or 22023.
create function outbox_internal.check_name(kind text, name text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if name is null then
        raise exception 'the name of the % must not be null', kind using errcode = 'null_value_not_allowed';
    end if;
    -- Functions that take cursors remove every kind of space, so none may be around a name.
    if name !~ '^[^[:cntrl:]]{1,100}$' or name ~ '^[[:space:]]|[[:space:]]$' then
        raise exception 'malformed name of the %', kind
            using errcode = 'invalid_parameter_value',
                hint = 'A name has 1 to 100 characters, no control characters, and no spaces around it.';
    end if;
    return name;
end
$$;
