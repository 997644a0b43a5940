-- Change capture: changes of a table's rows become messages, in the transaction that makes the changes.
--
-- A capture is a trigger function and its triggers; there is no table of captures. The settings of the capture are in the
-- function's comment. So a dump, a restore and DROP TABLE need no special handling.
--
-- - All rights stay with the table's owner: the owner owns the function, the function runs as its owner, and the owner's
--   condition is part of it. None of the owner's code is parsed, analysed or executed with another identity: the function is
--   created without being checked, given to the owner, and then checked as the owner. Triggers are created with the rights
--   of the caller.
-- - The triggers are statement-level triggers with transition tables, and one statement enqueues a message for each row. OLD
--   and NEW rows are paired by their order, because PostgreSQL appends both for each row. So a change of the key does not
--   break a pair.
-- - The function contains neither the table's name nor its type, so a name that moves to another table changes nothing.
-- - A statement fires the triggers of the table that it names, and of no other. So every existing partition gets the
--   triggers too.
-- - The apply worker of logical replication fires no statement triggers. With `replicated`, row-level triggers that fire
--   only there do the same work.

-- API: private
-- Runs parse analysis of a statement that contains a role's code, as that role.
create function outbox_internal.analyse(owner oid, query text) returns void language c volatile as 'MODULE_PATHNAME', 'outbox_analyse';

-- API: private
-- Executes a statement of pg_outbox with the rights of a role. code_of_role: as if the role executed its own code, in a
-- security-restricted operation.
create function outbox_internal.execute_as(role oid, statement text, code_of_role boolean) returns void
language c volatile
as 'MODULE_PATHNAME', 'outbox_execute_as';

-- API: private
-- Locks a table and returns its owner. Null: there is no such table, or the caller does not have the rights of its owner.
create function outbox_internal.lock_owned(caller oid, relation oid) returns oid language c volatile
as 'MODULE_PATHNAME', 'outbox_lock_owned';

-- API: private
-- Whether a payload is not too large for enqueue().
create function outbox_internal.fits(payload jsonb) returns boolean language c stable strict as 'MODULE_PATHNAME', 'outbox_fits';

-- API: private
-- The settings of a capture, from the function's comment. The comment belongs to the table's owner, who may have replaced
-- it; then the result is null.
create function outbox_internal.capture_settings(function oid) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    settings jsonb := obj_description(function, 'pg_proc')::jsonb;
begin
    if jsonb_typeof(settings -> 'key_columns') = 'array' and jsonb_typeof(settings -> 'operations') = 'array'
        and jsonb_typeof(settings -> 'include_old') in ('boolean', 'null')
        and jsonb_typeof(settings -> 'replicated') in ('boolean', 'null') then
        return settings;
    end if;
    return null;
exception when data_exception or program_limit_exceeded then
    return null;
end
$$;

-- API: private
-- The trigger functions of captures, with their settings.
create view outbox._capture_function as
select p.oid as function, p.proname as name, outbox_internal.capture_settings(p.oid) as settings
from pg_catalog.pg_proc p
where p.pronamespace = (select n.oid from pg_catalog.pg_namespace n where n.nspname = 'outbox_internal')
    and p.proname ~ '^capture_[0-9]+$' and p.prorettype = 'trigger'::regtype;

-- API: private
-- Locks a table of the caller and returns its owner. Raises 22004, 42P01 or 42501.
create function outbox_internal.own_table(caller oid, relation regclass) returns oid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    owner oid;
begin
    if relation is null then
        raise exception 'relation must not be null' using errcode = 'null_value_not_allowed';
    end if;
    owner := outbox_internal.lock_owned(caller, relation);
    if owner is null then
        if not exists (select from pg_class c where c.oid = relation) then
            raise exception 'table with OID % does not exist', relation::oid using errcode = 'undefined_table';
        end if;
        raise exception 'must be owner of table %', relation using errcode = 'insufficient_privilege';
    end if;
    return owner;
end
$$;

-- API: private
-- Drops the triggers and the function of a table's capture, and functions whose tables have been dropped. Triggers are
-- dropped with the rights of the caller, and a function is dropped after its triggers. Returns whether the table had a
-- capture.
create function outbox_internal.drop_capture(caller oid, relation regclass) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
    gone boolean := false;
begin
    for found in
        select f.function, f.name,
            array_agg(format('drop trigger %I on %s', t.tgname, t.tgrelid::regclass)) filter (where t.oid is not null) as drops,
            coalesce(bool_or(t.tgrelid = relation and starts_with(t.tgname, 'outbox_capture')), false) as ours
        from outbox._capture_function f
        left join pg_trigger t on t.tgfoid = f.function and t.tgparentid = 0
        group by f.function, f.name
        having coalesce(bool_or(t.tgrelid = relation and starts_with(t.tgname, 'outbox_capture')), false) or count(t.oid) = 0
    loop
        for i in 1 .. coalesce(cardinality(found.drops), 0) loop
            perform outbox_internal.execute_as(caller, found.drops[i], false);
        end loop;
        execute format('drop function outbox_internal.%I()', found.name);
        gone := gone or found.ours;
    end loop;
    return gone;
end
$$;

-- API: private
-- Raises 42809 if a relation cannot be captured, and 42501 if its owner may not enqueue.
create function outbox_internal.check_captured(relation regclass, owner oid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        where c.oid = relation and c.relkind in ('r', 'p') and c.relpersistence <> 't'
            and n.nspname not in ('pg_catalog', 'outbox', 'outbox_internal')
    ) then
        raise exception '% cannot be captured', relation using errcode = 'wrong_object_type',
            hint = 'Ordinary and partitioned tables can, if they are neither temporary nor PostgreSQL''s or pg_outbox''s own.';
    end if;
    if exists (
        select from pg_proc p
        where p.pronamespace = 'outbox'::regnamespace and p.proname in ('enqueue', 'enqueue_many')
            and not has_function_privilege(owner, p.oid, 'execute')
    ) or not has_schema_privilege(owner, 'outbox', 'usage') then
        raise exception 'role "%" may not enqueue', owner::regrole using errcode = 'insufficient_privilege',
            detail = 'A capture enqueues with the rights of the table''s owner.',
            hint = format('select outbox.grant_to(%L, ''publish'')', owner::regrole);
    end if;
end
$$;

-- API: private
-- Raises 22023 if the operations, the style or oversize are none of those that capture() knows, and 42703 if a column does
-- not exist.
create function outbox_internal.check_capture_options(relation regclass, options outbox._capture_options) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    unknown text;
begin
    if options.operations is null or options.operations = '{}' or exists (
        select from unnest(options.operations) o where o is null or o not in ('insert', 'update', 'delete', 'truncate')
    ) then
        raise exception 'invalid operations' using errcode = 'invalid_parameter_value',
            hint = 'The operations are insert, update, delete and truncate.';
    end if;
    if options.style is null or options.style not in ('change', 'row', 'debezium') then
        raise exception 'unknown style "%"', left(options.style, 100) using errcode = 'invalid_parameter_value',
            hint = 'The styles are change, row and debezium.';
    end if;
    if options.oversize is null or options.oversize not in ('fail', 'skip', 'reference') then
        raise exception 'unknown oversize "%"', left(options.oversize, 100) using errcode = 'invalid_parameter_value',
            hint = 'A change whose payload is too large can fail, be skipped (skip) or be told without its images (reference).';
    end if;
    select c into unknown
    from unnest(options.key_columns || options.columns || options.tenant_column) c
    where c is not null and not exists (
        select from pg_attribute a where a.attrelid = relation and a.attname = c and a.attnum > 0 and not a.attisdropped
    );
    if unknown is not null then
        raise exception 'column "%" of table % does not exist', unknown, relation using errcode = 'undefined_column';
    end if;
end
$$;

-- API: private
-- Creates the trigger function of a capture with this body, and gives it to the owner of the table. The options become the
-- function's comment. Called with check_function_bodies = on, because the function is created without a check.
create function outbox_internal.create_capture_function(
    relation regclass,
    owner oid,
    body text,
    options outbox._capture_options
) returns regprocedure
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    number int;
    function_name text;
begin
    select coalesce(max(substr(f.name, 9)::int), 0) + 1 into number from outbox._capture_function f;
    function_name := format('outbox_internal.capture_%s', number);
    -- The body is not checked here; from here on the function belongs to the table's owner.
    perform set_config('check_function_bodies', 'off', true);
    execute format('create function %s() returns trigger language plpgsql volatile security definer '
        'set search_path = pg_catalog, pg_temp set standard_conforming_strings = on set extra_float_digits = 1 '
        'set intervalstyle = postgres set datestyle = iso, ymd set bytea_output = hex set timezone = utc as %L', function_name,
        body);
    perform set_config('check_function_bodies', 'on', true);
    execute format('comment on function %s() is %L', function_name,
        jsonb_build_object('table', relation::text) || to_jsonb(options) - '{schema_name,table_name}'::text[]);
    execute format('revoke all on function %s() from public', function_name);
    execute format('alter function %s() depends on extension pg_outbox', function_name);
    execute format('alter function %s() owner to %s', function_name, owner::regrole);
    return to_regprocedure(function_name || '()');
end
$$;

-- API: private
-- Checks the condition of a capture, and the function that contains it, as the owner of the table, because the condition is
-- the owner's code. Raises 22023 if the condition is malformed.
create function outbox_internal.check_condition(
    relation regclass,
    owner oid,
    function regprocedure,
    options outbox._capture_options
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    op text;
    source text := relation::text;
begin
    -- Literals of the owner's types run the owner's code.
    foreach op in array options.operations loop
        continue when op = 'truncate';
        perform outbox_internal.analyse(owner, outbox_internal.capture_query(op, source, source, options));
    end loop;
    perform outbox_internal.execute_as(owner, format('select pg_catalog.plpgsql_validator(%s)', function::oid), true);
exception when syntax_error_or_access_rule_violation or invalid_parameter_value then
    raise exception 'invalid condition: %', sqlerrm using errcode = 'invalid_parameter_value',
        hint = 'It is one SQL expression over new and old; names outside pg_catalog are qualified.';
end
$$;

-- API: private
-- Creates the triggers of a capture, on the table and on all its partitions, with the rights of the caller. Raises 42501 if
-- the caller does not own a partition.
create function outbox_internal.create_capture_triggers(
    caller oid,
    relation regclass,
    function regprocedure,
    operations text[],
    replicated boolean
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    member record;
    members oid[] := '{}';
    made int := 0;
    op text;
    trigger_name text;
begin
    for member in
        select p.relid, p.isleaf from pg_partition_tree(relation) p
        union all
        select c.oid::regclass, true from pg_class c where c.oid = relation and c.relkind = 'r' and not c.relispartition
    loop
        perform outbox_internal.own_table(caller, member.relid);
        members := members || member.relid::oid;
        foreach op in array operations loop
            trigger_name := 'outbox_capture_' || op;
            perform outbox_internal.execute_as(caller, statement, false)
            from unnest(array[
                format('create trigger %I after %s on %s%s for each statement execute function %s',
                    trigger_name, op, member.relid,
                    case op
                        when 'insert' then ' referencing new table as outbox_new'
                        when 'update' then ' referencing old table as outbox_old new table as outbox_new'
                        when 'delete' then ' referencing old table as outbox_old'
                        else ''
                    end, function),
                format('alter trigger %I on %s depends on extension pg_outbox', trigger_name, member.relid)
            ]) with ordinality s(statement, o);
            made := made + 1;
            if replicated and op <> 'truncate' and member.isleaf then
                trigger_name := 'outbox_capture_replicated_' || op;
                perform outbox_internal.execute_as(caller, statement, false)
                from unnest(array[
                    format('create trigger %I after %s on %s for each row execute function %s',
                        trigger_name, op, member.relid, function),
                    format('alter table %s enable replica trigger %I', member.relid, trigger_name),
                    format('alter trigger %I on %s depends on extension pg_outbox', trigger_name, member.relid)
                ]) with ordinality s(statement, o);
                made := made + 1;
            end if;
        end loop;
    end loop;
    -- The statements above used names. If a schema was renamed meanwhile, they may have reached another table.
    if made <> (
        select count(*) from pg_trigger t where t.tgfoid = function and t.tgparentid = 0 and t.tgrelid = any (members)
    ) then
        raise exception '% was renamed meanwhile', relation using errcode = 'object_not_in_prerequisite_state',
            hint = 'Try again.';
    end if;
end
$$;

-- API: private
-- Does the work of capture() as the extension's owner. `caller` is the role that called it.
create function outbox_internal.capture(
    caller oid,
    relation regclass,
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
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set check_function_bodies = on
set standard_conforming_strings = on
as $$
#variable_conflict use_variable
declare
    -- locked before anything of the table is read
    owner oid := outbox_internal.own_table(caller, relation);
    options outbox._capture_options;
    body text;
    function regprocedure;
begin
    perform outbox_internal.check_captured(relation, owner);
    select n.nspname, c.relname into options.schema_name, options.table_name
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation;
    options.topic := topic;
    options.key_columns := coalesce(key_columns, array(
        select a.attname::text
        from pg_index i, unnest(i.indkey::int[]) with ordinality k(attnum, o)
        join pg_attribute a on a.attrelid = relation and a.attnum = k.attnum
        where i.indrelid = relation and i.indisprimary
        order by k.o
    ));
    options.operations := operations;
    options.columns := columns;
    options.condition := condition;
    options.include_old := include_old;
    options.style := style;
    options.tenant_column := tenant_column;
    options.replicated := replicated;
    options.oversize := oversize;
    perform outbox_internal.check_capture_options(relation, options);
    body := outbox_internal.capture_body(options);

    perform outbox_internal.drop_capture(caller, relation);
    function := outbox_internal.create_capture_function(relation, owner, body, options);
    if condition is not null then
        perform outbox_internal.check_condition(relation, owner, function, options);
    end if;
    perform outbox_internal.create_capture_triggers(caller, relation, function, operations, replicated);
end
$$;

-- API: public
create function outbox.capture(
    relation regclass,
    topic text default '{table}.{op}',
    key_columns text[] default null,
    operations text[] default '{insert,update,delete}',
    columns text[] default null,
    condition text default null,
    include_old boolean default false,
    style text default 'change',
    tenant_column text default null,
    replicated boolean default false,
    oversize text default 'fail'
) returns void
language c volatile
as 'MODULE_PATHNAME', 'outbox_with_caller';
comment on function outbox.capture is
    'Turns changes of a table''s rows into messages, in the transaction that makes the changes. The caller must own the '
    'table, and the owner needs the capability publish. A second call replaces the capture; call again after partitions '
    'were added. topic: may contain {schema}, {table} and {op}. key_columns: columns of the message''s key (null: the '
    'primary key). operations: of insert, update, delete and truncate. columns: only these in the images (null: all). '
    'condition: an SQL expression over new and old. include_old: updates contain the old image too. style: change, row or '
    'debezium. tenant_column: column with the tenant. replicated: also capture changes that logical replication applies. '
    'oversize, for a payload that is too large: fail (the statement fails), skip (no message, with a warning) or reference '
    '(the key without images). Errors: 42501 the caller is not the owner, the owner may not enqueue, or the call is within '
    'a security-restricted operation; 42809 the relation cannot be captured; 42703 no such column; 22023 another argument '
    'is malformed; 55000 the table''s schema was renamed meanwhile';

-- API: private
-- Does the work of uncapture() as the extension's owner. `caller` is the role that called it.
create function outbox_internal.uncapture(caller oid, relation regclass) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform outbox_internal.own_table(caller, relation);
    return outbox_internal.drop_capture(caller, relation);
end
$$;

-- API: public
create function outbox.uncapture(relation regclass) returns boolean
language c volatile
as 'MODULE_PATHNAME', 'outbox_with_caller';
comment on function outbox.uncapture is
    'Drops the capture of a table, which the caller must own. Returns false if there was none. Errors: 42501 the caller is '
    'not the owner, or the call is within a security-restricted operation';

-- API: public
create view outbox.captures as
select t.tgrelid::regclass as relation,
    f.settings ->> 'topic' as topic,
    array(select jsonb_array_elements_text(f.settings -> 'key_columns')) as key_columns,
    array(select jsonb_array_elements_text(f.settings -> 'operations')) as operations,
    case when jsonb_typeof(f.settings -> 'columns') = 'array'
        then array(select jsonb_array_elements_text(f.settings -> 'columns')) end as columns,
    f.settings ->> 'condition' as condition,
    (f.settings ->> 'include_old')::boolean as include_old,
    f.settings ->> 'style' as style,
    f.settings ->> 'tenant_column' as tenant_column,
    (f.settings ->> 'replicated')::boolean as replicated,
    coalesce(f.settings ->> 'oversize', 'fail') as oversize,
    array(
        select p.relid from pg_catalog.pg_partition_tree(t.tgrelid) p
        where not exists (select from pg_catalog.pg_trigger o where o.tgrelid = p.relid and o.tgfoid = f.function)
    ) as uncovered_partitions,
    f.function::regprocedure as function
from outbox._capture_function f
join lateral (
    select g.tgrelid
    from pg_catalog.pg_trigger g
    where g.tgfoid = f.function
        -- the table that capture() was called for: no parent of it has these triggers
        and not exists (
            select from pg_catalog.pg_inherits i
            join pg_catalog.pg_trigger o on o.tgrelid = i.inhparent and o.tgfoid = f.function
            where i.inhrelid = g.tgrelid
        )
    limit 1
) t on true;
comment on view outbox.captures is
    'Tables whose changes become messages, with the settings of capture(). uncovered_partitions: partitions that were '
    'added since; statements that name them directly are not captured';

insert into outbox._capability values
    ('publish', 'function outbox_internal.fits'),
    ('capture', 'function outbox.capture'),
    ('capture', 'function outbox.uncapture'),
    ('monitor', 'function outbox_internal.capture_settings'),
    ('monitor', 'table outbox.captures');
