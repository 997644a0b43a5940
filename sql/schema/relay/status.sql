-- Relays: programs beside the database that hand the feed to a broker. A relay reads with a cursor, and says here how it is.

-- API: public
create table outbox.relay_status (
    relay text primary key,
    consumer text not null,
    sink text not null,
    instance text not null,
    state text not null check (state in ('running', 'retrying', 'stopped', 'ended')),
    "position" bigint not null,
    epoch int,
    relayed bigint not null,
    skipped bigint not null,
    rate double precision not null,
    last_error text,
    last_error_at timestamptz,
    started_at timestamptz not null,
    heartbeat_at timestamptz not null,
    heartbeat_interval interval not null
);
comment on table outbox.relay_status is
    'The relays of this outbox: one row per relay, which its active instance writes every heartbeat_interval';
comment on column outbox.relay_status.consumer is 'consumer of the cursor that the relay reads with';
comment on column outbox.relay_status.sink is 'kind and address of the broker, without credentials';
comment on column outbox.relay_status.instance is 'host and process id of the active instance';
comment on column outbox.relay_status.state is
    'running; retrying: the broker cannot be reached or refuses for now, see last_error; stopped: a message was refused for '
    'good, and the relay waits for an operator; ended: it was shut down';
comment on column outbox.relay_status.position is 'position up to which the broker has acknowledged';
comment on column outbox.relay_status.relayed is 'messages that were acknowledged since started_at';
comment on column outbox.relay_status.skipped is 'messages since started_at that were refused and skipped, or dead-lettered';
comment on column outbox.relay_status.rate is 'messages per second since the heartbeat before';

-- API: public
create function outbox.relay_heartbeat(
    relay text,
    consumer text,
    sink text,
    instance text,
    state text,
    "position" bigint,
    heartbeat_interval interval,
    epoch int default null,
    relayed bigint default 0,
    skipped bigint default 0,
    rate double precision default 0,
    error text default null
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox_internal.check_writable('relay_heartbeat');
    relay := outbox_internal.cursor_part('relay', relay);
    consumer := outbox_internal.cursor_part('consumer', consumer);
    if state is null or state not in ('running', 'retrying', 'stopped', 'ended') then
        raise exception 'unknown state "%"', coalesce(left(state, 100), 'null') using errcode = 'invalid_parameter_value',
            hint = 'The states are running, retrying, stopped and ended.';
    end if;
    if heartbeat_interval is null or heartbeat_interval not between interval '1 s' and interval '1 h' then
        raise exception 'invalid heartbeat_interval' using errcode = 'invalid_parameter_value',
            hint = 'It is between 1 second and 1 hour.';
    end if;
    -- A violated constraint of the table would show the whole row.
    if num_nulls(sink, instance, "position", relayed, skipped, rate) > 0 or least("position", relayed, skipped) < 0
        or rate not between 0 and 1e15 then
        raise exception 'malformed figures of the relay' using errcode = 'invalid_parameter_value',
            hint = 'sink and instance are not null; position, relayed, skipped and rate are 0 or more.';
    end if;
    insert into outbox.relay_status as r (relay, consumer, sink, instance, state, "position", epoch, relayed, skipped, rate,
        last_error, last_error_at, started_at, heartbeat_at, heartbeat_interval)
    values (relay, consumer, left(sink, 500), left(instance, 255), state, "position", epoch, relayed, skipped, rate,
        left(error, 2000), case when error is not null then clock_timestamp() end, clock_timestamp(), clock_timestamp(),
        heartbeat_interval)
    on conflict on constraint relay_status_pkey do update
    set consumer = excluded.consumer, sink = excluded.sink, instance = excluded.instance, state = excluded.state,
        "position" = excluded."position", epoch = excluded.epoch, relayed = excluded.relayed, skipped = excluded.skipped,
        rate = excluded.rate, last_error = coalesce(excluded.last_error, r.last_error),
        last_error_at = coalesce(excluded.last_error_at, r.last_error_at),
        -- In a container an instance keeps its name when it starts again, and its counts begin at 0.
        started_at = case when r.instance = excluded.instance and r.state <> 'ended' and r.relayed <= excluded.relayed
            then r.started_at else excluded.started_at end,
        heartbeat_at = excluded.heartbeat_at, heartbeat_interval = excluded.heartbeat_interval;
end
$$;
comment on function outbox.relay_heartbeat is
    'Says how a relay is: writes its row in outbox.relay_status. The relay calls it; only its active instance does. error: '
    'null leaves the last one. Errors: OB009 a name is malformed; 22023 another argument is; 25006 the transaction is '
    'read-only';

-- API: public
create function outbox.relay_record_refusal(
    relay text,
    "position" bigint,
    webhook_id text,
    action text,
    reason text
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox_internal.check_writable('relay_record_refusal');
    relay := outbox_internal.cursor_part('relay', relay);
    if action is null or action not in ('skip', 'dead-letter') then
        raise exception 'unknown action "%"', coalesce(left(action, 100), 'null') using errcode = 'invalid_parameter_value',
            hint = 'The actions are skip and dead-letter.';
    end if;
    perform outbox_internal.audit('relay_' || replace(action, '-', '_'), format('relay %s', relay), left(reason, 1000),
        jsonb_build_object('position', "position", 'webhook_id', left(webhook_id, 255)));
end
$$;
comment on function outbox.relay_record_refusal is
    'Records in outbox.audit that a relay went on without a message that its broker refused. action: skip or dead-letter. '
    'Errors: OB009 the name is malformed, 22023 unknown action, 25006 the transaction is read-only';

-- API: public
create function outbox.forget_relay(relay text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform outbox_internal.check_writable('forget_relay');
    delete from outbox.relay_status r where r.relay = relay;
    if found then
        perform outbox_internal.audit('forget_relay', format('relay %s', relay), null);
    end if;
    return found;
end
$$;
comment on function outbox.forget_relay is
    'Removes the row of a relay that will not run again from outbox.relay_status, so that health() no longer misses it. Its '
    'cursor stays; see cursor_delete(). Returns whether there was a row. Errors: 25006 the transaction is read-only';

-- API: private
-- Whether a relay has not written its row for long.
create function outbox_internal.relay_is_silent(r outbox.relay_status) returns boolean
language sql volatile
set search_path = pg_catalog, pg_temp
return clock_timestamp() - r.heartbeat_at > greatest(interval '30 s', 6 * r.heartbeat_interval);

-- API: private
-- The check of health(): whether a relay is silent, retries, or is stopped.
create function outbox_internal.health_relays(out state text, out culprit text, out what_to_do text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    if pg_is_in_recovery() then
        return;
    end if;
    select r.*, count(*) over () as n
    into found
    from (
        select s.*, outbox_internal.relay_is_silent(s) as silent from outbox.relay_status s
    ) r
    where r.state in ('stopped', 'retrying') or r.state <> 'ended' and r.silent
    order by r.state <> 'stopped', r.heartbeat_at, r.relay
    limit 1;
    if found.n is null then
        return;
    end if;
    state := 'warning';
    if found.state = 'stopped' then
        culprit := format('relay "%s" is stopped after position %s: %s', found.relay, found."position", found.last_error);
        what_to_do := 'its broker will not take the message after that position: change the limit there and restart the relay, '
            || 'or go on without the message: outbox.cursor_advance()';
    elsif found.silent then
        culprit := format('relay "%s" has been silent for %s', found.relay,
            date_trunc('second', clock_timestamp() - found.heartbeat_at));
        what_to_do := 'start it again; outbox.forget_relay() forgets one that is needed no more';
    else
        culprit := format('relay "%s" cannot deliver: %s', found.relay, found.last_error);
        what_to_do := 'it tries again by itself; its log says more';
    end if;
    if found.n > 1 then
        culprit := format('%s; and %s others', culprit, found.n - 1);
    end if;
end
$$;

-- API: private
-- The part of metrics() about relays.
create function outbox_internal.relay_metrics() returns table (name text, labels jsonb, value double precision)
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select m.name, jsonb_build_object('relay', r.relay), m.value
    from outbox.relay_status r
    cross join lateral (
        values ('outbox_relay_up', (r.state = 'running' and not outbox_internal.relay_is_silent(r))::int),
            ('outbox_relay_position', r."position"),
            ('outbox_relay_lag_positions', greatest(outbox.head() - r."position", 0)),
            ('outbox_relay_relayed', r.relayed),
            ('outbox_relay_skipped', r.skipped)
    ) m(name, value);
end;

insert into outbox._capability values
    ('monitor', 'table outbox.relay_status'),
    ('consume', 'function outbox.relay_heartbeat'),
    ('consume', 'function outbox.relay_record_refusal'),
    ('admin', 'function outbox.forget_relay');
