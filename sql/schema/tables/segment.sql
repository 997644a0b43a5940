-- Segments: when each leaf of a ring was written, and what became of it. The few messages that outlive their leaf. Jobs.

-- API: public
create table outbox.segment (
    ring text not null references outbox._ring,
    leaf smallint not null,
    opened_at timestamptz not null default clock_timestamp(),
    closed_at timestamptz,
    last_position bigint,
    reclaimed_at timestamptz,
    kept bigint,
    primary key (ring, leaf)
);
comment on table outbox.segment is 'The leaves of the rings: one row per leaf, written anew each time round';
comment on column outbox.segment.closed_at is 'when the ring''s pointer moved on; null: it is written now';
comment on column outbox.segment.last_position is 'nothing in it lies behind this position; null: not known yet';
comment on column outbox.segment.kept is 'messages that were copied before it was truncated, because a delivery or dead letter waits with them';
select pg_catalog.pg_extension_config_dump('outbox.segment', '');

-- API: private
-- Messages whose leaf was truncated while a delivery or a dead letter still needed them. One more leaf of outbox.message:
-- found wherever a message is looked for by id. Deliveries that point to it have message_segment -1.
create table outbox._message_kept partition of outbox.message for values in (-1);

-- The indexes of the other leaves: one without them would make the planner pay for a sequential scan wherever it looks into
-- all of them.
create index _message_kept_xid on outbox._message_kept (xid, id);
create unique index _message_kept_id on outbox._message_kept (id);
create index _message_kept_tenant on outbox._message_kept (tenant, id) where tenant is not null;
create index _message_kept_aggregate on outbox._message_kept (aggregate_id, aggregate_type, id)
    where aggregate_id is not null;
select pg_catalog.pg_extension_config_dump('outbox._message_kept', '');

-- API: private
-- Never holds a row. Its lock belongs to whoever rotates, reclaims and trims.
create table outbox._maintenance ();

-- API: private
-- What is stored now stays until the transaction ends: for whoever is about to need it, and is not seen to need it before it
-- commits. Waits while somebody reclaims, which is milliseconds; reclaiming itself waits for nobody.
create function outbox._hold_history() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    lock table outbox._maintenance in row share mode;
end
$$;

-- API: public
create table outbox.job (
    job text primary key,
    last_run_at timestamptz,
    next_run_at timestamptz,
    result text,
    rows bigint not null default 0,
    bytes bigint not null default 0,
    held_by text
);
comment on table outbox.job is 'Maintenance: when each job ran last, what it did, when it runs next, and what keeps it from freeing space';
comment on column outbox.job.rows is 'removed by the last run that removed something; of a truncated leaf they are not counted';
comment on column outbox.job.bytes is 'freed by the last run that freed something';
select pg_catalog.pg_extension_config_dump('outbox.job', '');

insert into outbox._capability values
    ('monitor', 'table outbox.segment'),
    ('monitor', 'table outbox.job');
