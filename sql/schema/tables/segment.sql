-- Segments: when each leaf of a ring was written, and when it was reclaimed. Retained messages, which outlive their leaf.
-- Maintenance jobs.

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
comment on table outbox.segment is
    'The leaves of the rings: one row per leaf, overwritten each time the ring reaches the leaf again';
comment on column outbox.segment.closed_at is
    'when the ring''s pointer moved on to the next leaf; null: this leaf is written now';
comment on column outbox.segment.last_position is 'no row of the leaf has a position after this one; null: not known yet';
comment on column outbox.segment.kept is
    'messages that were copied to the retained ones before the leaf was truncated, because a delivery or a dead letter '
    'needed them';
select pg_catalog.pg_extension_config_dump('outbox.segment', '');

-- API: private
-- Retained messages: a delivery or a dead letter still needed them when their leaf was truncated. They are one more leaf of
-- outbox.message, so every look-up of a message by id finds them. Deliveries that point to a retained message have
-- message_segment -1.
create table outbox._message_retained partition of outbox.message for values in (-1);

-- The same indexes as on the other leaves: without one of them, the planner would add the cost of a sequential scan of this
-- leaf to every query over all leaves.
create index _message_retained_xid on outbox._message_retained (xid, id);
create unique index _message_retained_id on outbox._message_retained (id);
create index _message_retained_tenant on outbox._message_retained (tenant, id) where tenant is not null;
create index _message_retained_aggregate on outbox._message_retained (aggregate_id, aggregate_type, id)
    where aggregate_id is not null;
select pg_catalog.pg_extension_config_dump('outbox._message_retained', '');

-- API: private
-- Never holds a row. The session that rotates, reclaims or trims holds its lock.
create table outbox._maintenance ();

-- API: private
-- Pins the history: messages that are stored now stay until the transaction ends. For a session that needs history, and
-- whose need is not visible to others before it commits. Waits for a session that is reclaiming, which takes milliseconds;
-- reclaiming itself does not wait for this lock.
create function outbox_internal.pin_history() returns void
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
comment on table outbox.job is
    'Maintenance jobs: when each job ran last, its result, when it runs next, and what prevents it from freeing space';
comment on column outbox.job.rows is
    'rows removed by the last run that removed any; rows of a truncated leaf are not counted';
comment on column outbox.job.bytes is 'bytes freed by the last run that freed any';
select pg_catalog.pg_extension_config_dump('outbox.job', '');

insert into outbox._capability values
    ('monitor', 'table outbox.segment'),
    ('monitor', 'table outbox.job');
