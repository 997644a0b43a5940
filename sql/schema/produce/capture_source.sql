-- Generates the source of the trigger function that captures a table. capture() installs and checks it.

create type outbox._capture_options as (
    schema_name text,
    table_name text,
    topic text,
    key_columns text[],
    operations text[],
    columns text[],
    condition text,
    include_old boolean,
    style text,
    tenant_column text,
    replicated boolean,
    oversize text
);
comment on type outbox._capture_options is
    'A table, and the arguments with which capture() was called for it. key_columns: not null; the primary key was put in';

-- API: private
-- The SQL text that reads the rows of one event. `source` is a table, or the text of a query. numbered: with numbers that
-- join the two images of a row.
create function outbox_internal.capture_rows(source text, all_columns boolean, numbered boolean) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
-- offset 0: the JSON is made once, and not at every use
return format('(select %sto_jsonb(t.*) as outbox_j%s from %s t%s)', case when numbered then 'row_number() over () as outbox_i, ' else '' end,
    case when all_columns then ', t.*' else '' end, source, case when numbered then '' else ' offset 0' end);

-- API: private
-- The SQL text of the query that returns the messages of one event: one row per message, or, if oversized ones are skipped,
-- arrays of up to 1000 with the number of skipped ones. Most statements change one row, so the query is as short as the
-- options allow: numbers, joins and groups cost a change of one row more than the message itself.
create function outbox_internal.capture_query(
    op text,
    new_source text,
    old_source text,
    options outbox._capture_options
) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    pick constant text := case when options.columns is null then '%s.outbox_j' else format(
        '(select coalesce(jsonb_object_agg(e.key, e.value), ''{}'') from jsonb_each(%%s.outbox_j) e where e.key = any (%s))',
        replace(quote_literal(options.columns), '%', '%%')) end;
    -- the two images of a row, as they are sent
    new_json constant text := case when options.columns is null then 'new.outbox_j' else 'n.j' end;
    old_json constant text := case when options.columns is null then 'old.outbox_j' else 'o.j' end;
    -- A condition may name both images, also where there is only one.
    paired constant boolean := op = 'update' or options.condition is not null;
    grouped constant boolean := options.oversize = 'skip';
    main constant text := case op when 'delete' then 'old' else 'new' end;
    query text;
    key_text text := case cardinality(options.key_columns)
        when 0 then 'null::text'
        when 1 then format('%s ->> %s', '%1$s', replace(quote_literal(options.key_columns[1]), '%', '%%'))
        else 'concat_ws(''/'', ' || (select string_agg(format('%s ->> %s', '%1$s', replace(quote_literal(c), '%', '%%')), ', ' order by o)
            from unnest(options.key_columns) with ordinality k(c, o)) || ')'
    end;
    key_json text := case when cardinality(options.key_columns) = 0 then 'null::jsonb' else 'jsonb_build_object(' || (
        select string_agg(format('%2$s, %1$s -> %2$s', '%1$s', replace(quote_literal(c), '%', '%%')), ', ' order by o)
        from unnest(options.key_columns) with ordinality k(c, o)) || ')' end;
    full_side constant text := main || '.outbox_j';
    payload text;
    reference text;
    filters text[] := '{}';
begin
    payload := case options.style
        when 'row' then case op when 'delete' then old_json else new_json end
        when 'debezium' then format(
            'jsonb_build_object(''before'', %s, ''after'', %s, ''source'', jsonb_build_object(''db'', current_database(), '
            '''schema'', %L, ''table'', %L), ''op'', %L, ''ts_ms'', floor(extract(epoch from clock_timestamp()) * 1000)::bigint)',
            case when op <> 'insert' and (options.include_old or op = 'delete') then old_json else 'null::jsonb' end,
            case when op <> 'delete' then new_json else 'null::jsonb' end,
            options.schema_name, options.table_name, case op when 'insert' then 'c' when 'update' then 'u' else 'd' end)
        else format('jsonb_build_object(''op'', %L, ''schema'', %L, ''table'', %L, ''key'', %s%s%s%s)%s',
            op, options.schema_name, options.table_name, format(key_json, full_side),
            case when op <> 'delete' then ', ''new'', ' || new_json else '' end,
            case when op = 'delete' or op = 'update' and options.include_old then ', ''old'', ' || old_json else '' end,
            case when op = 'update' then format(', ''changed'', to_jsonb(array(select e.key from jsonb_each(%s) e '
                'where %s -> e.key is distinct from e.value order by e.key))', new_json, old_json) else '' end,
            case when op = 'update' and cardinality(options.key_columns) > 0 then format(
                ' || case when %s is distinct from %s then jsonb_build_object(''old_key'', %s) else ''{}'' end',
                format(key_text, 'old.outbox_j'), format(key_text, 'new.outbox_j'), format(key_json, 'old.outbox_j'))
            else '' end)
    end;
    -- Replaces a payload that is too large: identifies the row.
    reference := format(key_json, full_side);
    reference := case options.style
        when 'row' then format('coalesce(%s, ''{}'')', reference)
        when 'debezium' then format('%s || jsonb_build_object(''before'', null, ''after'', null, ''key'', %s)', payload, reference)
        else format('jsonb_build_object(''op'', %L, ''schema'', %L, ''table'', %L, ''key'', %s)',
            op, options.schema_name, options.table_name, reference)
    end || ' || ''{"oversize": true}''';
    if options.condition is not null then
        filters := filters || format(E'(%s\n)', options.condition);
    end if;
    if op = 'update' and options.columns is not null then
        filters := filters || text 'n.j is distinct from o.j';
    end if;
    query := format('select %s%s as payload, %s as key, %s as tenant%s from %s%s%s%s',
        case when grouped then main || '.outbox_i as i, ' else '' end,
        payload,
        format(key_text, full_side),
        case when options.tenant_column is null then 'null::text' else format('%s ->> %L', full_side, options.tenant_column) end,
        case options.oversize when 'reference' then format(', %s as reference', reference) else '' end,
        case
            when not paired and op = 'delete' then outbox_internal.capture_rows(old_source, false, grouped) || ' old'
            when not paired then outbox_internal.capture_rows(new_source, false, grouped) || ' new'
            -- a row of nulls stands in where there is no row
            else (
                select case op
                    when 'insert' then format('%1$s new left join %1$s old on false', r.new)
                    when 'delete' then format('%1$s old left join %1$s new on false', r.old)
                    else format('%s new join %s old on old.outbox_i = new.outbox_i', r.new, r.old)
                end
                from (values (outbox_internal.capture_rows(new_source, options.condition is not null, true),
                    outbox_internal.capture_rows(old_source, options.condition is not null, true))) r(new, old))
        end,
        -- offset 0: computed once, and not at every use
        case when options.columns is null then '' else coalesce((
            select string_agg(format(' cross join lateral (select %s as j offset 0) %s', format(pick, i.image), i.name), '')
            from (values ('new', 'n'), ('old', 'o')) i(image, name) where paired or i.image = main), '') end,
        case when filters = '{}' then '' else ' where ' || array_to_string(filters, ' and ') end,
        case when paired and not grouped then format(' order by %s.outbox_i', main) else '' end);
    if grouped then
        return format('select c.tenant, array_agg(c.payload order by c.i) filter (where c.payload is not null) as payloads, '
            'array_agg(c.key order by c.i) filter (where c.payload is not null) as keys, '
            'count(*) filter (where c.payload is null) as skipped from (select r.i, case when outbox_internal.fits(r.payload) then '
            'r.payload end as payload, r.key, r.tenant from (%s offset 0) r) c group by (c.i - 1) / 1000, c.tenant order by min(c.i)',
            query);
    end if;
    -- The condition is inside of parentheses, so a semicolon in it is an error.
    return format(case options.oversize when 'reference'
        then 'select case when outbox_internal.fits(r.payload) then r.payload else r.reference end as payload, r.key, r.tenant '
            'from (%s offset 0) r'
        else 'select r.payload, r.key, r.tenant from (%s) r' end, query);
end
$$;

-- API: private
-- The branch of the trigger function for the messages of one event. `level` is STATEMENT or ROW.
create function outbox_internal.capture_branch(op text, level text, query text, topic text, relation_name text,
    oversize text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
-- count(): a statement may change millions of rows, and PERFORM keeps all rows of a result in memory
return format($body$
    if tg_op = %L and tg_level = %L then
%s    end if;
$body$, upper(op), level, case oversize when 'skip' then format(
$grouped$        for part in %s loop
            if part.skipped > 0 then
                raise warning '%% changed rows of %%.%% make no message: they are too large', part.skipped, tg_table_schema, tg_table_name;
            end if;
            continue when part.payloads is null;
            perform outbox.enqueue_many(%L, part.payloads, part.keys, headers => %L, tenant => part.tenant,
                aggregate_type => %L);
        end loop;
$grouped$, query, topic, jsonb_build_object('operation', op), relation_name) else format(
$single$        perform count(outbox.enqueue(%L, m.payload, m.key, headers => %L, tenant => m.tenant, aggregate_type => %L))
        from (%s) m;
$single$, topic, jsonb_build_object('operation', op), relation_name, query) end);

-- API: private
-- The body of the trigger function of a capture. Raises 22023 if a topic is malformed.
create function outbox_internal.capture_body(options outbox._capture_options) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    op text;
    topic text;
    branches text := '';
begin
    foreach op in array options.operations loop
        topic := outbox_internal.check_topic(replace(replace(replace(
            options.topic, '{schema}', options.schema_name), '{table}', options.table_name), '{op}', op));
        if op = 'truncate' then
            branches := branches || format($body$
    if tg_op = 'TRUNCATE' then
        perform outbox.enqueue(%L, jsonb_build_object('op', %L, 'schema', %L, 'table', %L) || case
            when tg_table_schema = %L and tg_table_name = %L then '{}'
            else jsonb_build_object('partition', format('%%I.%%I', tg_table_schema, tg_table_name)) end,
            headers => %L, aggregate_type => %L);
    end if;
$body$, topic, case options.style when 'debezium' then 't' else op end, options.schema_name, options.table_name,
                options.schema_name, options.table_name, jsonb_build_object('operation', op), options.table_name);
            continue;
        end if;
        branches := branches || outbox_internal.capture_branch(op, 'STATEMENT',
            outbox_internal.capture_query(op, 'outbox_new', 'outbox_old', options), topic, options.table_name, options.oversize);
        if options.replicated then
            branches := branches || outbox_internal.capture_branch(op, 'ROW',
                outbox_internal.capture_query(op, '(select (new).*)', '(select (old).*)', options), topic, options.table_name,
                options.oversize);
        end if;
    end loop;
    return format(E'#variable_conflict use_column\ndeclare\n    part record;\nbegin%s    return null;\nend', branches);
end
$$;
