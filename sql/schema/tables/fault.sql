-- Faults: steps of the dispatcher that failed because of one row. A delivery that fails becomes a dead letter; a fault that
-- has no delivery is recorded here, so that health() can report it. All other work goes on.

-- API: public
create table outbox.fault (
    kind text not null check (kind in ('message', 'subscription', 'endpoint', 'lease', 'server')),
    id bigint not null,
    step text not null,
    error text not null,
    first_at timestamptz not null default clock_timestamp(),
    last_at timestamptz not null default clock_timestamp(),
    times bigint not null default 1,
    primary key (kind, id, step)
);
comment on table outbox.fault is
    'Steps of the dispatcher that failed because of one message, subscription, endpoint or lease, or because this server '
    'lacks a resource; all other work goes on';
comment on column outbox.fault.id is 'id of the message, subscription, endpoint or lease; 0: this server';
comment on column outbox.fault.step is
    'load (its settings cannot be read; the row is deleted when they can be read again), record, consent, take back, '
    'cancel, expire, unsubscribe, unblock, send (the endpoint''s answer kept the HTTP thread busy without end), connect '
    '(requests wait for descriptors, ports or memory)';
comment on column outbox.fault.error is 'error message, its first 1000 characters';
select pg_catalog.pg_extension_config_dump('outbox.fault', '');

-- API: private
-- Records faults: one row per kind, id and step, which counts how often the fault has occurred.
create function outbox_internal.note_faults(kinds text[], ids bigint[], steps text[], errors text[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.fault as f (kind, id, step, error)
    select distinct on (u.kind, u.id, u.step) u.kind, u.id, u.step, left(u.error, 1000)
    from unnest(kinds, ids, steps, errors) u(kind, id, step, error)
    on conflict (kind, id, step) do update
    set error = excluded.error, last_at = excluded.last_at, times = f.times + 1;
end;

-- API: private
-- Deletes the `load` faults of a kind (subscription or endpoint), except those of these ids: all other settings could be
-- read.
create function outbox_internal.loaded(kind text, faulted bigint[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    delete from outbox.fault f where f.kind = loaded.kind and f.step = 'load' and f.id <> all (faulted);
end;

insert into outbox._capability values
    ('monitor', 'table outbox.fault');
