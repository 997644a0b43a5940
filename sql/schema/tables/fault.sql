-- What the dispatcher could not do because of one row. A delivery becomes a dead letter; what has none is here, so that
-- health() can name it. Everything else goes on.

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
    'What the dispatcher could not do because of one message, subscription, endpoint or lease, or of what this server is short of; everything else goes on';
comment on column outbox.fault.id is 'of the message, subscription, endpoint or lease; 0: this server';
comment on column outbox.fault.step is
    'load (its settings cannot be read; gone when they can be again), record, consent, take back, expire, unblock,'
    ' send (the endpoint''s answer kept the HTTP thread busy without end), connect (requests wait for descriptors, ports or memory)';
comment on column outbox.fault.error is 'what PostgreSQL said';
select pg_catalog.pg_extension_config_dump('outbox.fault', '');

-- API: private
-- Notes faults: one row per kind, id and step, however often they come.
create function outbox._note_faults(kinds text[], ids bigint[], steps text[], errors text[]) returns void
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
-- The settings of all subscriptions and endpoints but these can be read.
create function outbox._loaded(kind text, faulted bigint[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    delete from outbox.fault f where f.kind = _loaded.kind and f.step = 'load' and f.id <> all (faulted);
end;

insert into outbox._capability values
    ('monitor', 'table outbox.fault');
