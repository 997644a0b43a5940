-- Event schemas: a JSON Schema per event type and version.
--
-- - The versions of a type are 1, 2, ... without a gap, and never change.
-- - A new version is compared with the one before. It is refused if it is less compatible than asked for.
-- - An event has the version that its metadata name in schema_version; without it, version 1.
-- - Validation at append is a choice per version.

-- API: public
create table outbox.event_schema (
    type text not null,
    version int not null check (version > 0),
    schema jsonb not null,
    compatibility text,
    validated boolean not null default false,
    description text,
    registered_by text not null default session_user,
    registered_at timestamptz not null default clock_timestamp(),
    primary key (type, version)
);
comment on table outbox.event_schema is 'The registered schemas of event types; see register_schema()';
comment on column outbox.event_schema.compatibility is
    'with the version before: full, backward (it reads the data of the version before), forward (the version before reads '
    'its data) or breaking; null: the first version';
comment on column outbox.event_schema.validated is 'append() refuses events of this version that are not valid';
select pg_catalog.pg_extension_config_dump('outbox.event_schema', '');

-- API: private
-- Returns its argument, or raises 22023 or 54000 with the reason.
create function outbox_internal.check_schema(schema jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_schema';

-- API: private
-- An object with compatibility and reasons, an array of texts.
create function outbox_internal.compare_schemas(old jsonb, new jsonb) returns jsonb language c immutable strict
as 'MODULE_PATHNAME', 'outbox_compare_schemas';

-- API: private
-- Whether a level of compatibility is at least the required one. Null: a level is unknown.
create function outbox_internal.satisfies(compatibility text, required text) returns boolean language c immutable
as 'MODULE_PATHNAME', 'outbox_satisfies';

-- API: private
-- Null for valid data; otherwise the places that are wrong.
create function outbox_internal.validate(schema jsonb, data jsonb) returns text language c immutable strict
as 'MODULE_PATHNAME', 'outbox_validate';

-- API: private
create function outbox_internal.latest_schema_version(type text) returns int
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(max(s.version), 0) from outbox.event_schema s where s.type = latest_schema_version.type;
end;

-- API: public
create function outbox.register_schema(
    type text,
    schema jsonb,
    version int default null,
    compatibility text default 'backward',
    validated boolean default false,
    description text default null
) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    latest int;
    had outbox.event_schema;
    compared jsonb;
    next_version int;
begin
    perform outbox_internal.check_writable('register_schema');
    if type is null or schema is null then
        raise exception 'the % must not be null', case when type is null then 'type' else 'schema' end
            using errcode = 'null_value_not_allowed';
    end if;
    perform outbox_internal.check_topic(type);
    perform outbox_internal.check_schema(schema);
    if outbox_internal.satisfies('full', compatibility) is null then
        raise exception 'unknown compatibility "%"', coalesce(left(compatibility, 100), 'null') using errcode = 'invalid_parameter_value',
            hint = 'full, backward, forward or breaking; breaking allows any change.';
    end if;
    if length(description) > 10000 then
        raise exception 'the description is too long' using errcode = 'program_limit_exceeded',
            hint = 'At most 10000 characters.';
    end if;
    -- One registration at a time, so that the versions have no gap.
    lock table outbox.event_schema in share row exclusive mode;
    latest := outbox_internal.latest_schema_version(type);
    next_version := coalesce(version, latest + 1);
    select * into had from outbox.event_schema s where s.type = type and s.version = next_version;
    if had.type is not null then
        if had.schema = schema then
            return had.version;
        end if;
        raise exception 'version % of the schema of type "%" is registered already', next_version, type
            using errcode = 'OB008', detail = 'Its schema is another one.',
                hint = format('A registered version does not change. The next version is %s.', latest + 1);
    end if;
    if next_version <> latest + 1 then
        raise exception 'version % of the schema of type "%" would leave a gap', next_version, type
            using errcode = 'OB004', detail = format('The latest version is %s.', latest),
                hint = format('The next version is %s.', latest + 1);
    end if;
    if latest > 0 then
        compared := outbox_internal.compare_schemas(
            (select s.schema from outbox.event_schema s where s.type = type and s.version = latest), schema);
        if not outbox_internal.satisfies(compared ->> 'compatibility', compatibility) then
            raise exception 'version % of the schema of type "%" is not % compatible', next_version, type, compatibility
                using errcode = 'OB016',
                    detail = format('It is %s. %s', compared ->> 'compatibility',
                        (select string_agg(upper(left(r, 1)) || substr(r, 2) || '.', ' ')
                        from jsonb_array_elements_text(compared -> 'reasons') r)),
                    hint = 'Change the schema, or register it with a lower compatibility and give the type an upcaster.';
        end if;
    end if;
    insert into outbox.event_schema (type, version, schema, compatibility, validated, description)
    values (type, next_version, schema, compared ->> 'compatibility', coalesce(validated, false), description);
    perform outbox_internal.audit('register_schema', format('type %s version %s', type, next_version), null,
        jsonb_build_object('compatibility', compared ->> 'compatibility', 'validated', coalesce(validated, false)));
    return next_version;
end
$$;
comment on function outbox.register_schema is
    'Registers a version of the JSON Schema of an event type and returns the version. version: the next one by default. The '
    'same version with an equal schema changes nothing. compatibility: what the change from the version before must be: '
    'backward (the default; the new version reads the data of the one before), forward (the one before reads the data of '
    'the new one), full (both) or breaking (anything). Data is taken to have the declared properties only, unless the '
    'schema combines others. validated: append() checks the events of this version. Errors: OB016 the schema is not as '
    'compatible as asked for (the detail says why), OB004 the version would leave a gap, OB008 the version is registered '
    'with another schema, 22004 or 22023 a value is null or malformed, 54000 the schema is above 64 kB, 25006 the '
    'transaction is read-only';

-- API: public
create function outbox.get_schema(type text, version int default null) returns outbox.event_schema
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    found_schema outbox.event_schema;
begin
    select * into found_schema from outbox.event_schema s
    where s.type = type and (version is null or s.version = version)
    order by s.version desc
    limit 1;
    if not found then
        raise exception '%', case when version is null then format('type "%s" has no schema', left(type, 255))
                else format('type "%s" has no schema of version %s', left(type, 255), version) end
            using errcode = 'OB001',
                hint = 'outbox.register_schema() registers one; the table outbox.event_schema lists those there are.';
    end if;
    return found_schema;
end
$$;
comment on function outbox.get_schema is
    'Returns the schema of an event type. version null: the latest one. Errors: OB001 there is none';

-- API: public
create function outbox.compare_schemas(
    type text,
    old_version int,
    new_version int,
    out compatibility text,
    out reasons text[]
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    compared jsonb := outbox_internal.compare_schemas((outbox.get_schema(type, old_version)).schema,
        (outbox.get_schema(type, new_version)).schema);
begin
    compatibility := compared ->> 'compatibility';
    reasons := array(select r from jsonb_array_elements_text(compared -> 'reasons') r);
end
$$;
comment on function outbox.compare_schemas is
    'Returns how compatible two versions of the schema of an event type are: full, backward (the new one reads the data of '
    'the old one), forward (the old one reads the data of the new one) or breaking, and the reasons why it is not full. '
    'An unproved direction counts as incompatible. Errors: OB001 there is no such version';

-- API: public
create function outbox.validate_event(type text, data jsonb, version int default null) returns void
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    s outbox.event_schema := outbox.get_schema(type, version);
    wrong text := outbox_internal.validate(s.schema, data);
begin
    if data is null or wrong is not null then
        raise exception 'the data of type "%" is not valid', type using errcode = 'invalid_parameter_value',
            detail = coalesce(wrong || '.', 'It is null.'),
            hint = format('select outbox.get_schema(%L, %s) shows the schema.', type, s.version);
    end if;
end
$$;
comment on function outbox.validate_event is
    'Checks data against the schema of an event type. version null: the latest one. Errors: 22023 the data is not valid; '
    'the detail names the places that are wrong, at most five, and shows no value; OB001 there is no such schema';

insert into outbox._capability values
    ('admin', 'function outbox.register_schema'),
    ('publish', 'function outbox.get_schema'),
    ('publish', 'function outbox.validate_event'),
    ('consume', 'function outbox.get_schema'),
    ('consume', 'function outbox.compare_schemas'),
    ('monitor', 'function outbox.get_schema'),
    ('monitor', 'function outbox.compare_schemas'),
    ('monitor', 'table outbox.event_schema');
