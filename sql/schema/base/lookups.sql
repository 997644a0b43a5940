-- Looks up ids by name, and raises OB001 for an unknown name.

-- API: private
-- The function with a signature such as "app.topic_of(text, text)"; null if there is none. Before PostgreSQL 16,
-- to_regprocedure() raises errors for malformed signatures.
create function outbox_internal.function_oid(signature text) returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return to_regprocedure(signature);
exception when invalid_text_representation or invalid_name or syntax_error or undefined_object or too_many_arguments
    or feature_not_supported then
    return null;
end
$$;

-- API: private
create function outbox_internal.endpoint_id(name text) returns int
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id int;
begin
    select e.id into found_id from outbox.endpoint e where e.name = endpoint_id.name and e.deleted_at is null;
    if found_id is null then
        raise exception 'endpoint "%" does not exist', left(name, 100)
            using errcode = 'OB001', hint = 'outbox.create_endpoint() makes one; the table outbox.endpoint lists them.';
    end if;
    return found_id;
end
$$;

-- API: private
create function outbox_internal.subscription_id(name text) returns int
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id int;
begin
    select s.id into found_id from outbox.subscription s where s.name = subscription_id.name and s.deleted_at is null;
    if found_id is null then
        raise exception 'subscription "%" does not exist', left(name, 100)
            using errcode = 'OB001', hint = 'outbox.subscribe() makes one; the table outbox.subscription lists them.';
    end if;
    return found_id;
end
$$;
