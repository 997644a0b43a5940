-- Upcasters: functions that turn the data of an old version of an event type into the data of the next version.
--
-- The upcasters of a type form a chain without a gap. An upcaster runs as its owner, with a pinned search_path.

-- API: public
create table outbox.upcaster (
    type text not null,
    from_version int not null check (from_version > 0),
    function text not null,
    owner text not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (type, from_version)
);
comment on table outbox.upcaster is 'Functions that turn data of an event type into that of the next version; see create_upcaster()';
comment on column outbox.upcaster.function is 'signature of a function (data jsonb) returns jsonb';
comment on column outbox.upcaster.owner is
    'owner of the function when it was set here; if the owner is another one now, the function is not called';
select pg_catalog.pg_extension_config_dump('outbox.upcaster', '');

-- API: private
-- Returns the qualified signature of a function of the user, and its owner, whose rights the caller must have.
create function outbox_internal.check_function(
    caller oid, argument regtype, result regtype, kind text, inout signature text, out owner text
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_function pg_proc;
begin
    if signature is null then
        raise exception 'the % must not be null', kind using errcode = 'null_value_not_allowed';
    end if;
    select p.* into found_function from pg_proc p where p.oid = outbox_internal.function_oid(signature);
    if found_function.oid is null then
        raise exception 'function "%" does not exist', left(signature, 255) using errcode = 'undefined_function',
            hint = format('Write schema and type: "app.%s(%s)".', kind, argument);
    end if;
    if found_function.prorettype <> result or found_function.proargtypes <> argument::oid::text::oidvector
        or found_function.prokind <> 'f' or found_function.proretset then
        raise exception 'function "%" is not (%) returns %', left(signature, 255), argument, result
            using errcode = 'invalid_parameter_value',
                hint = format('It takes one argument of type %s and returns %s.', argument, result);
    end if;
    if not pg_has_role(caller, found_function.proowner, 'usage') then
        raise exception 'must be owner of function %', left(signature, 255) using errcode = 'insufficient_privilege',
            detail = format('The %s runs with the rights of its owner.', kind);
    end if;
    signature := found_function.oid::regprocedure;
    owner := pg_get_userbyid(found_function.proowner);
end
$$;

-- API: private
-- Returns the oid of a function that was registered. Raises 42883 if it is gone or has another owner.
create function outbox_internal.registered_function(kind text, signature text, owner text) returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_oid oid;
begin
    select p.oid into found_oid from pg_proc p
    where p.oid = to_regprocedure(signature) and pg_get_userbyid(p.proowner) = owner;
    if found_oid is null then
        raise exception 'the % "%" is gone, or has another owner', kind, signature using errcode = 'undefined_function',
            detail = format('Its owner was "%s".', owner), hint = 'Create the function again, or register another one.';
    end if;
    return found_oid;
end
$$;

-- API: private
-- Calls an upcaster as its owner.
create function outbox_internal.call_upcaster(function oid, data jsonb) returns jsonb language c stable
as 'MODULE_PATHNAME', 'outbox_call_as_owner';

-- API: private
-- Does the work of create_upcaster() as the extension's owner. `caller` is the role that called it.
create function outbox_internal.create_upcaster(caller oid, type text, from_version int, function text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    checked record;
    -- wide enough for the version after the last one
    first_version bigint;
    last_version bigint;
begin
    perform outbox_internal.check_writable('create_upcaster');
    if type is null then
        raise exception 'the type must not be null' using errcode = 'null_value_not_allowed';
    end if;
    perform outbox_internal.check_topic(type);
    perform outbox_internal.check_schema_version(from_version);
    select * into checked from outbox_internal.check_function(caller, 'jsonb', 'jsonb', 'upcaster', function);
    if (select p.provolatile from pg_proc p where p.oid = to_regprocedure(checked.signature)) = 'v' then
        raise exception 'function "%" is volatile', left(function, 255) using errcode = 'invalid_parameter_value',
            hint = 'An upcaster returns the same for the same data: declare it as immutable or stable.';
    end if;
    lock table outbox.upcaster in share row exclusive mode;
    select min(u.from_version), max(u.from_version) into first_version, last_version
    from outbox.upcaster u where u.type = type;
    if from_version not between first_version - 1 and last_version + 1 then
        raise exception 'the upcaster from version % of type "%" would leave a gap', from_version, type
            using errcode = 'OB004', detail = format('There are upcasters from %s to %s.', first_version, last_version + 1),
                hint = 'An upcaster goes from one version to the next.';
    end if;
    insert into outbox.upcaster as u (type, from_version, function, owner)
    values (type, from_version, checked.signature, checked.owner)
    on conflict on constraint upcaster_pkey do update set function = excluded.function, owner = excluded.owner;
    perform outbox_internal.audit('create_upcaster', format('type %s from version %s', type, from_version), null,
        jsonb_build_object('function', checked.signature));
end
$$;

-- API: public
create function outbox.create_upcaster(type text, from_version int, function text) returns void
language c volatile
as 'MODULE_PATHNAME', 'outbox_with_caller';
comment on function outbox.create_upcaster is
    'Registers a function (data jsonb) returns jsonb that turns data of an event type from a version into data of the next '
    'version, or replaces the one there is. It must not be volatile, runs as its owner and with a pinned search_path. '
    'function: its signature, such as "app.order_placed_2(jsonb)". Errors: OB004 the chain of versions would have a gap, '
    '42883 no such function, 42501 the caller does not have the rights of the function''s owner, 22004 or 22023 a value is '
    'null or malformed, 25006 the transaction is read-only';

-- API: public
create function outbox.drop_upcaster(type text, from_version int) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox_internal.check_writable('drop_upcaster');
    lock table outbox.upcaster in share row exclusive mode;
    if exists (select from outbox.upcaster u where u.type = type and u.from_version < from_version)
        and exists (select from outbox.upcaster u where u.type = type and u.from_version > from_version) then
        raise exception 'without the upcaster from version % of type "%" there would be a gap', from_version, type
            using errcode = 'OB004', hint = 'Drop the first or the last one of the chain.';
    end if;
    delete from outbox.upcaster u where u.type = type and u.from_version = from_version;
    if not found then
        raise exception 'type "%" has no upcaster from version %', left(type, 255), from_version using errcode = 'OB001',
            hint = 'The table outbox.upcaster lists those there are.';
    end if;
    perform outbox_internal.audit('drop_upcaster', format('type %s from version %s', type, from_version), null);
end
$$;
comment on function outbox.drop_upcaster is
    'Removes the first or the last upcaster of an event type. Errors: OB001 there is none from this version, OB004 the chain '
    'would have a gap, 25006 the transaction is read-only';

-- API: public
create function outbox.upcast(type text, data jsonb, from_version int default 1, to_version int default null) returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    u outbox.upcaster;
    reached bigint := coalesce(from_version, 1);
begin
    if to_version < reached then
        raise exception 'an upcaster does not go back' using errcode = 'invalid_parameter_value',
            detail = format('It was asked to go from version %s to %s.', reached, to_version);
    end if;
    for u in
        select * from outbox.upcaster k
        where k.type = type and k.from_version >= reached and (to_version is null or k.from_version < to_version)
        order by k.from_version
    loop
        if u.from_version <> reached then
            raise exception 'there is no upcaster from version % of type "%"', reached, left(type, 255) using errcode = 'OB004',
                detail = format('The first one is from version %s.', u.from_version),
                hint = 'outbox.create_upcaster() adds it.';
        end if;
        data := outbox_internal.call_upcaster(outbox_internal.registered_function('upcaster', u.function, u.owner), data);
        if data is null then
            raise exception 'the upcaster "%" returned null', u.function using errcode = 'null_value_not_allowed',
                hint = 'An upcaster returns the data of the next version.';
        end if;
        reached := reached + 1;
    end loop;
    if to_version > reached then
        raise exception 'type "%" has no upcaster from version %', left(type, 255), reached using errcode = 'OB004',
            detail = format('Version %s was asked for.', to_version), hint = 'outbox.create_upcaster() adds it.';
    end if;
    return data;
end
$$;
comment on function outbox.upcast is
    'Returns the data of an event type as that of a later version. from_version: the version of the data (1). to_version '
    'null: as far as the upcasters go; data of a type without upcasters is returned as it is. Errors: 22023 to_version is '
    'before from_version, OB004 a version has '
    'no upcaster, 42883 an upcaster is gone or has another owner, 22004 an upcaster returned null, and those that an '
    'upcaster raises';

insert into outbox._capability values
    ('admin', 'function outbox.create_upcaster'),
    ('admin', 'function outbox.drop_upcaster'),
    ('consume', 'function outbox.upcast'),
    ('publish', 'function outbox.upcast'),
    ('monitor', 'table outbox.upcaster');
