-- Registers topics and publishers.

-- API: private
-- This function and the next one return their argument, or raise 22023 with the reason.
create function outbox_internal.check_topic(topic text) returns text language c immutable strict as 'MODULE_PATHNAME', 'outbox_check_topic';

-- API: private
create function outbox_internal.check_topic_template(template text) returns text language c immutable strict
as 'MODULE_PATHNAME', 'outbox_check_topic_template';

-- API: private
-- Returns the qualified signature of a topic function, and its owner. The function runs as its owner, so the caller must
-- have the owner's rights.
create function outbox_internal.check_topic_function(caller oid, inout signature text, out owner text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found pg_proc;
begin
    if signature is null or signature = '' then
        return;
    end if;
    select p.* into found from pg_proc p where p.oid = outbox_internal.function_oid(signature);
    if found.oid is null then
        raise exception 'function "%" does not exist', left(signature, 200)
            using errcode = 'undefined_function', hint = 'Write schema and types: "app.topic_of(text, text)".';
    end if;
    if found.prorettype <> 'text'::regtype or found.proargtypes <> format('%s %1$s', 'text'::regtype::oid)::oidvector
        or found.prokind <> 'f' or found.proretset then
        raise exception 'function "%" is not (tenant text, topic text) returns text', left(signature, 200)
            using errcode = 'invalid_parameter_value';
    end if;
    if not pg_has_role(caller, found.proowner, 'usage') then
        raise exception 'must be owner of function %', signature
            using errcode = 'insufficient_privilege', detail = 'A topic function runs with the rights of its owner.';
    end if;
    signature := found.oid::regprocedure;
    owner := pg_get_userbyid(found.proowner);
end
$$;

-- API: public
create function outbox.create_topic(
    code text,
    name text default null,
    description text default null,
    active boolean default true
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if code is null then
        raise exception 'the code of the topic must not be null' using errcode = 'null_value_not_allowed';
    end if;
    perform outbox_internal.check_topic(code);
    insert into outbox.topic (code, name, description, active)
    values (code, outbox_internal.check_name('topic', coalesce(name, code)), description, coalesce(active, true));
exception when unique_violation then
    raise exception 'topic "%" exists already', code
        using errcode = 'duplicate_object', hint = 'outbox.alter_topic() changes it.';
end
$$;
comment on function outbox.create_topic is
    'Registers a topic. Registration is needed only to describe a topic, to switch it off, or with '
    'pg_outbox.require_topic. name: default code. Errors: 22004 code is null, 22023 a value is malformed, 42710 the topic '
    'is registered already';

-- API: public
create function outbox.alter_topic(
    code text,
    name text default null,
    description text default null,
    active boolean default null
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update outbox.topic t
    set name = coalesce(outbox_internal.check_name('topic', coalesce(alter_topic.name, t.name)), t.name),
        description = coalesce(alter_topic.description, t.description),
        active = coalesce(alter_topic.active, t.active),
        updated_at = clock_timestamp()
    where t.code = alter_topic.code;
    if not found then
        raise exception 'topic "%" is not registered', left(code, 100)
            using errcode = 'OB001', hint = 'outbox.create_topic() registers it; the table outbox.topic lists them.';
    end if;
end
$$;
comment on function outbox.alter_topic is
    'Changes a registered topic; null leaves a value as it is. From the commit on, messages of an inactive topic are '
    'refused (OB007). Errors: OB001 the topic is not registered, 22023 the name is malformed';

-- API: private
-- Does the work of create_publisher() as the extension's owner. `caller` is the role that called it.
create function outbox_internal.create_publisher(
    caller oid,
    code text,
    name text,
    description text,
    active boolean,
    topic_template text,
    topic_function text
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform outbox_internal.check_name('publisher', code);
    if strpos(code, '@') > 0 then
        raise exception 'the code of a publisher has no "@"' using errcode = 'invalid_parameter_value',
            hint = 'Register "billing" for messages of "billing@1.2.3".';
    end if;
    insert into outbox.publisher (code, name, description, active, topic_template, topic_function, topic_function_owner)
    select code, outbox_internal.check_name('publisher', coalesce(name, code)), description, coalesce(active, true),
        outbox_internal.check_topic_template(nullif(topic_template, '')), nullif(f.signature, ''), f.owner
    from outbox_internal.check_topic_function(caller, topic_function) f;
exception when unique_violation then
    raise exception 'publisher "%" exists already', code
        using errcode = 'duplicate_object', hint = 'outbox.alter_publisher() changes it.';
end
$$;

-- API: public
create function outbox.create_publisher(
    code text,
    name text default null,
    description text default null,
    active boolean default true,
    topic_template text default null,
    topic_function text default null
) returns void
language c volatile
as 'MODULE_PATHNAME', 'outbox_with_caller';
comment on function outbox.create_publisher is
    'Registers a publisher. code has no "@" and stands for all publishers "code@version". name: default code. '
    'topic_template (such as "{tenant}.{topic}") or topic_function (the signature of a function (tenant text, topic text) '
    'returns text) determines the topic of its messages. Errors: 22004 code is null, 22023 a value is malformed, 42710 the '
    'publisher is registered already, 42883 no such function, 42501 the caller does not have the rights of the function''s '
    'owner';

-- API: private
-- Does the work of alter_publisher() as the extension's owner. `caller` is the role that called it.
create function outbox_internal.alter_publisher(
    caller oid,
    code text,
    name text,
    description text,
    active boolean,
    topic_template text,
    topic_function text
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    checked record;
begin
    select f.signature, f.owner into checked from outbox_internal.check_topic_function(caller, topic_function) f;
    update outbox.publisher p
    set name = coalesce(outbox_internal.check_name('publisher', coalesce(alter_publisher.name, p.name)), p.name),
        description = coalesce(alter_publisher.description, p.description),
        active = coalesce(alter_publisher.active, p.active),
        topic_template = nullif(coalesce(
            outbox_internal.check_topic_template(nullif(alter_publisher.topic_template, '')),
            alter_publisher.topic_template, p.topic_template), ''),
        topic_function = nullif(coalesce(checked.signature, p.topic_function), ''),
        topic_function_owner = case when checked.signature is null then p.topic_function_owner else checked.owner end,
        updated_at = clock_timestamp()
    where p.code = alter_publisher.code;
    if not found then
        raise exception 'publisher "%" is not registered', left(code, 100)
            using errcode = 'OB001',
                hint = 'outbox.create_publisher() registers it; the table outbox.publisher lists them.';
    end if;
end
$$;

-- API: public
create function outbox.alter_publisher(
    code text,
    name text default null,
    description text default null,
    active boolean default null,
    topic_template text default null,
    topic_function text default null
) returns void
language c volatile
as 'MODULE_PATHNAME', 'outbox_with_caller';
comment on function outbox.alter_publisher is
    'Changes a registered publisher; null leaves a value as it is, and an empty topic_template or topic_function removes '
    'it. From the commit on, messages of an inactive publisher are refused (OB007). Errors: OB001 the publisher is not '
    'registered, 22023 a value is malformed, 42883 no such function, 42501 the caller does not have the rights of the '
    'function''s owner';

insert into outbox._capability values
    ('admin', 'function outbox.create_topic'),
    ('admin', 'function outbox.alter_topic'),
    ('admin', 'function outbox.create_publisher'),
    ('admin', 'function outbox.alter_publisher');
