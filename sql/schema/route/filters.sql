-- Filters: which messages of its topics a subscription receives.

-- API: private
-- Whether the topic of a message matches one of the patterns, and the message passes the filter. The filter's SQL/JSON path
-- (payload) is not evaluated. topics null: every topic matches.
create function outbox_internal.matches(
    topics text[],
    filter jsonb,
    topic text,
    tenant text,
    key text,
    aggregate_type text,
    aggregate_id text,
    headers jsonb
) returns boolean
language c immutable parallel safe
as 'MODULE_PATHNAME', 'outbox_matches';

-- API: private
-- Raises 22004 or 22023 for topics or a filter that a subscription cannot have.
create function outbox_internal.check_routes(topics text[], filter jsonb) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if array_ndims(topics) > 1 then
        raise exception 'malformed topics' using errcode = 'invalid_parameter_value', hint = 'It is a list of patterns.';
    end if;
    if topics is null or cardinality(topics) = 0 or array_position(topics, null) is not null then
        raise exception 'topics must not be null or empty' using errcode = 'null_value_not_allowed',
            hint = 'The pattern "#" matches every topic that is published.';
    end if;
    perform outbox_internal.check_patterns(topics);
    perform outbox_internal.check_filter(filter);
    if filter ? 'payload' then
        begin
            perform (filter ->> 'payload')::jsonpath;
        exception when syntax_error or invalid_text_representation or data_exception then
            raise exception 'invalid filter: "payload" is not an SQL/JSON path' using errcode = 'invalid_parameter_value',
                detail = sqlerrm, hint = E'Such as "$.amount > 100" or "$.items[*] ? (@.sku == \\"A1\\")".';
        end;
    end if;
end
$$;

-- API: private
-- Whether a payload passes the SQL/JSON path of a filter: the first item that the path returns is neither false nor null. So
-- both a predicate ("$.amount > 100") and a filter expression ("$.items[*] ? (@.qty > 10)") work as expected. The function
-- has no settings of its own, so that the planner inlines it in queries over many messages.
create function outbox_internal.path_holds(payload jsonb, path jsonpath) returns boolean
language sql immutable parallel safe
return coalesce(jsonb_path_query_first(payload, path, '{}', true) not in ('false', 'null'), false);

-- API: private
-- The fields of a filter that refuse a message, as a list; null: all fields except payload, which is not evaluated, accept
-- it.
create function outbox_internal.refused_by(
    filter jsonb,
    tenant text,
    key text,
    aggregate_type text,
    aggregate_id text,
    headers jsonb
) returns text
language sql stable
set search_path = pg_catalog, pg_temp
return (
    select string_agg(f.key, ', ' order by f.key)
    from jsonb_each(coalesce(filter, '{}')) f
    where f.key <> 'payload'
        and not outbox_internal.matches(null, jsonb_build_object(f.key, f.value), 'any', tenant, refused_by.key, aggregate_type,
            aggregate_id, headers)
);
