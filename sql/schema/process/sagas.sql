-- Sagas: state of long-running processes that react to events over several transactions.
--
-- - One transaction handles one event: saga_handle() locks the saga and remembers the event, the application decides and
--   enqueues or appends its commands, and saga_save() stores the new state. An event is handled once.
-- - The state is stored by compare-and-set on its version.
-- - At most one saga of a type that has not ended has a given correlation id.
-- - A time-out is a message with deliver_at; see docs/event_sourcing.md.

-- API: private
create table outbox._saga (
    saga_type text not null,
    saga_id text not null,
    correlation_id text,
    status text not null,
    step int not null default 0,
    steps jsonb not null default '[]',
    state jsonb not null,
    failure_reason text,
    version bigint not null default 1,
    started_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    completed_at timestamptz,
    primary key (saga_type, saga_id)
);
create unique index _saga_open on outbox._saga (saga_type, correlation_id)
    where correlation_id is not null and completed_at is null;
create index _saga_correlation on outbox._saga (saga_type, correlation_id, started_at) where correlation_id is not null;
select pg_catalog.pg_extension_config_dump('outbox._saga', '');

-- API: private
-- The events that each saga has handled.
create table outbox._saga_event (
    saga_type text not null,
    saga_id text not null,
    message_id bigint not null,
    primary key (saga_type, saga_id, message_id)
);
select pg_catalog.pg_extension_config_dump('outbox._saga_event', '');

-- API: public
create view outbox.sagas as
select s.saga_type, s.saga_id, s.correlation_id, s.status, s.step, jsonb_array_length(s.steps) as steps,
    s.steps -> s.step ->> 'name' as step_name, s.failure_reason, s.version, s.started_at, s.updated_at, s.completed_at
from outbox._saga s;
comment on view outbox.sagas is
    'Sagas, without their state. status: started, running, completed, failed, compensating, compensated or '
    'compensation_failed. step: number of the current step, from 0; steps: how many there are';

-- API: public
create type outbox.saga_state as (
    saga_type text,
    saga_id text,
    correlation_id text,
    status text,
    step int,
    steps jsonb,
    state jsonb,
    failure_reason text,
    version bigint,
    started_at timestamptz,
    updated_at timestamptz,
    completed_at timestamptz
);
comment on type outbox.saga_state is
    'A saga. version: the expected_version of the next saga_save(). completed_at: when it reached a status that ends it '
    '(completed, failed, compensated, compensation_failed)';

-- API: private
create function outbox_internal.saga_missing(saga_type text, saga_id text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'saga "%" of type "%" does not exist', left(saga_id, 255), left(saga_type, 100) using errcode = 'OB001',
        hint = 'outbox.saga_save() with expected_version 0 starts it; the view outbox.sagas lists those there are.';
end
$$;

-- API: private
-- Whether a saga may go from one status to another.
create function outbox_internal.saga_may_become(before text, after text) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
begin atomic
    select case before
        when 'started' then after in ('started', 'running', 'completed', 'failed', 'compensating')
        when 'running' then after in ('running', 'completed', 'failed', 'compensating')
        when 'failed' then after in ('failed', 'compensating')
        when 'compensating' then after in ('compensating', 'compensated', 'compensation_failed')
        when 'compensation_failed' then after in ('compensation_failed', 'compensating')
        else false
    end;
end;

-- API: private
-- Checks and returns the steps of a saga. Raises 22023.
create function outbox_internal.check_saga_steps(steps jsonb) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    one jsonb;
begin
    if jsonb_typeof(steps) <> 'array' or jsonb_array_length(steps) > 1000 then
        raise exception 'malformed steps' using errcode = 'invalid_parameter_value',
            hint = 'An array of at most 1000 objects with name, status and what else the application needs.';
    end if;
    for one in select e from jsonb_array_elements(steps) e loop
        if jsonb_typeof(one) <> 'object' or jsonb_typeof(one -> 'name') is distinct from 'string'
            or (one ->> 'status' in ('pending', 'running', 'completed', 'failed', 'compensated')) is not true then
            raise exception 'malformed step' using errcode = 'invalid_parameter_value',
                hint = 'A step has a name, and a status: pending, running, completed, failed or compensated.';
        end if;
    end loop;
    return steps;
end
$$;

-- API: public
create function outbox.saga_load(saga_type text, saga_id text) returns outbox.saga_state
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    s outbox.saga_state;
begin
    select k.saga_type, k.saga_id, k.correlation_id, k.status, k.step, k.steps, k.state, k.failure_reason, k.version,
        k.started_at, k.updated_at, k.completed_at
    into s
    from outbox._saga k where k.saga_type = saga_type and k.saga_id = saga_id;
    if not found then
        perform outbox_internal.saga_missing(saga_type, saga_id);
    end if;
    return s;
end
$$;
comment on function outbox.saga_load is
    'Returns a saga with its state and version. Errors: OB001 there is no such saga';

-- API: public
create function outbox.saga_find(saga_type text, correlation_id text) returns setof outbox.saga_state
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select s.saga_type, s.saga_id, s.correlation_id, s.status, s.step, s.steps, s.state, s.failure_reason, s.version,
        s.started_at, s.updated_at, s.completed_at
    from outbox._saga s
    where s.saga_type = saga_find.saga_type and s.correlation_id = saga_find.correlation_id
    order by (s.completed_at is null) desc, s.started_at desc, s.saga_id
    limit 1;
end;
comment on function outbox.saga_find is
    'Returns the saga of a type that has this correlation id: the one that has not ended, or else the one that started '
    'last. No row: there is none';

-- API: public
create function outbox.saga_handle(saga_type text, saga_id text, message_id bigint) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox_internal.check_writable('saga_handle');
    if message_id is null then
        raise exception 'the message id must not be null' using errcode = 'null_value_not_allowed';
    elsif message_id < 1 then
        raise exception 'invalid message id' using errcode = 'invalid_parameter_value', detail = format('It is %s.', message_id),
            hint = 'It is the message_id of the event.';
    end if;
    perform from outbox._saga s where s.saga_type = saga_type and s.saga_id = saga_id for update;
    if not found then
        perform outbox_internal.saga_missing(saga_type, saga_id);
    end if;
    insert into outbox._saga_event (saga_type, saga_id, message_id) values (saga_type, saga_id, message_id)
    on conflict do nothing;
    return found;
end
$$;
comment on function outbox.saga_handle is
    'Locks a saga until the transaction ends, and remembers that it handles this event. true: the event is new to the saga; '
    'false: it was handled before, and nothing is to be done. Call it before saga_load(), in the transaction that handles '
    'the event. Errors: OB001 there is no such saga, 22004 message_id is null, 22023 it is no id, 40001 at REPEATABLE READ when another '
    'transaction has changed the saga meanwhile, 25006 the transaction is read-only';

-- API: private
-- Raises OB013 for a saga that is not at the expected version.
create function outbox_internal.saga_conflict(saga_type text, saga_id text, expected bigint, actual bigint) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception '%', case
            when expected = 0 then format('saga "%s" of type "%s" exists already, at version %s', saga_id, saga_type, actual)
            else format('saga "%s" of type "%s" is at version %s, not at %s', saga_id, saga_type, actual, expected) end
        using errcode = 'OB013',
            detail = jsonb_build_object('saga_type', saga_type, 'saga_id', saga_id, 'expected', expected, 'actual', actual)::text,
            hint = 'Load the saga again in a new transaction, decide again, and save again.';
end
$$;

-- API: public
create function outbox.saga_save(
    saga_type text,
    saga_id text,
    state jsonb,
    expected_version bigint,
    status text default null,
    step int default null,
    steps jsonb default null,
    correlation_id text default null,
    failure_reason text default null
) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    s outbox._saga;
    ends boolean;
    next_version bigint;
begin
    perform outbox_internal.check_writable('saga_save');
    perform outbox_internal.check_name('saga type', saga_type);
    perform outbox_internal.check_identifier('saga id', saga_id);
    perform outbox_internal.check_identifier('correlation id', coalesce(correlation_id, '-'));
    if expected_version is null or expected_version < 0 then
        raise exception 'invalid expected_version' using errcode = 'invalid_parameter_value',
            detail = format('It is %s.', coalesce(expected_version::text, 'null')),
            hint = '0: the saga starts; otherwise the version that saga_load() returned.';
    end if;
    if state is null then
        raise exception 'the state must not be null' using errcode = 'null_value_not_allowed';
    end if;
    if status not in ('started', 'running', 'completed', 'failed', 'compensating', 'compensated', 'compensation_failed') then
        raise exception 'unknown status "%"', left(status, 100) using errcode = 'invalid_parameter_value',
            hint = 'started, running, completed, failed, compensating, compensated or compensation_failed.';
    end if;
    if step < 0 or length(failure_reason) > 10000 then
        raise exception 'invalid %', case when step < 0 then 'step' else 'failure_reason' end
            using errcode = 'invalid_parameter_value', hint = 'step: from 0; failure_reason: at most 10000 characters.';
    end if;
    perform outbox_internal.check_document('state', state);
    perform outbox_internal.check_document('steps', outbox_internal.check_saga_steps(steps));
    if expected_version = 0 then
        status := coalesce(status, 'started');
        if status in ('compensated', 'compensation_failed') then
            raise exception 'a saga does not start as %', status using errcode = 'OB004';
        end if;
        ends := status in ('completed', 'failed');
        -- Waits for a session that starts the same saga, or one with the same correlation id.
        insert into outbox._saga as k (saga_type, saga_id, correlation_id, status, step, steps, state, failure_reason,
            completed_at)
        values (saga_type, saga_id, correlation_id, status, coalesce(step, 0), coalesce(steps, '[]'), state, failure_reason,
            case when ends then clock_timestamp() end)
        on conflict do nothing
        returning k.version into next_version;
        if next_version is not null then
            return next_version;
        end if;
    end if;
    select * into s from outbox._saga k where k.saga_type = saga_type and k.saga_id = saga_id for update;
    if s.saga_id is null and expected_version = 0 then
        perform outbox_internal.saga_correlated(saga_type, correlation_id);
    elsif s.saga_id is null then
        perform outbox_internal.saga_missing(saga_type, saga_id);
    elsif s.version <> expected_version then
        perform outbox_internal.saga_conflict(saga_type, saga_id, expected_version, s.version);
    end if;
    status := coalesce(status, case s.status when 'started' then 'running' else s.status end);
    if not outbox_internal.saga_may_become(s.status, status) then
        raise exception 'saga "%" of type "%" is %', saga_id, saga_type, s.status using errcode = 'OB004',
            detail = case when s.status in ('completed', 'compensated') then 'It has ended, and does not change any more.'
                else format('It cannot become %s.', status) end;
    end if;
    ends := status in ('completed', 'failed', 'compensated', 'compensation_failed');
    begin
        update outbox._saga k
        set state = state, status = status, step = coalesce(step, k.step), steps = coalesce(steps, k.steps),
            correlation_id = coalesce(correlation_id, k.correlation_id),
            failure_reason = coalesce(failure_reason, k.failure_reason),
            version = k.version + 1, updated_at = clock_timestamp(),
            completed_at = case when ends then coalesce(k.completed_at, clock_timestamp()) end
        where k.saga_type = saga_type and k.saga_id = saga_id
        returning k.version into next_version;
    exception when unique_violation then
        perform outbox_internal.saga_correlated(saga_type, coalesce(correlation_id, s.correlation_id));
    end;
    return next_version;
end
$$;
comment on function outbox.saga_save is
    'Stores the state of a saga and returns its new version. expected_version: the version that saga_load() returned; 0: '
    'the saga starts. status: started, running, completed, failed, compensating, compensated or compensation_failed; null: '
    'as it is, and running after the first change. A saga that is completed or compensated does not change any more; one '
    'that has failed, or whose compensation has failed, can go to compensating. step: number of the current step, from 0. '
    'steps: array of objects with name and status (pending, running, completed, failed or compensated). A null step, steps, '
    'correlation_id or failure_reason leaves the value as it is. Errors: OB013 the saga is not at expected_version, OB001 '
    'there is no such saga, OB004 the status does not allow the change, 42710 another saga of the type that has not ended '
    'has the correlation id, 22004 or 22023 a value is null or malformed, 54000 the state or the steps are above '
    'pg_outbox.max_payload, 25006 the transaction is read-only';

-- API: private
create function outbox_internal.saga_correlated(saga_type text, correlation_id text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'a saga of type "%" with correlation id "%" is under way', saga_type, correlation_id
        using errcode = 'duplicate_object',
            hint = 'outbox.saga_find() returns it; in a new transaction, if it has just started.';
end
$$;

-- API: public
create function outbox.saga_delete(saga_type text, saga_id text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    had text;
begin
    perform outbox_internal.check_writable('saga_delete');
    delete from outbox._saga s where s.saga_type = saga_type and s.saga_id = saga_id returning s.status into had;
    if had is null then
        return false;
    end if;
    delete from outbox._saga_event e where e.saga_type = saga_type and e.saga_id = saga_id;
    perform outbox_internal.audit('saga_delete', format('saga %s/%s', saga_type, saga_id), null,
        jsonb_build_object('status', had));
    return true;
end
$$;
comment on function outbox.saga_delete is
    'Deletes a saga and the list of the events that it has handled. Returns false if there is no such saga. The deletion is '
    'recorded in outbox.audit. Errors: 25006 the transaction is read-only';

insert into outbox._capability values
    ('consume', 'function outbox.saga_load'),
    ('consume', 'function outbox.saga_find'),
    ('consume', 'function outbox.saga_handle'),
    ('consume', 'function outbox.saga_save'),
    ('consume', 'function outbox.saga_delete'),
    ('monitor', 'table outbox.sagas');
