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

-- API: public
-- What is counted: one row per recorded batch, subscription and outcome. A leaf is added to counter_total and
-- truncated in one transaction, so every row is counted once.
call outbox._create_ring('counter', $$
    subscription_id int not null,
    endpoint_id int,
    outcome text not null,
    requests bigint not null,
    deliveries bigint not null,
    seconds double precision not null,
    last_at timestamptz not null default clock_timestamp()
$$, 3, array[]::text[]);
comment on table outbox.counter is 'What was counted and is not in counter_total yet; see outbox.metrics()';

-- API: public
create table outbox.counter_total (
    subscription_id int not null,
    endpoint_id int not null,
    outcome text not null,
    requests bigint not null,
    deliveries bigint not null,
    seconds double precision not null,
    last_at timestamptz not null,
    primary key (subscription_id, endpoint_id, outcome)
);
comment on table outbox.counter_total is 'Sums of outcomes, up to the last time they were added up; outbox.metrics() adds the rest';
comment on column outbox.counter_total.endpoint_id is '0: none';
comment on column outbox.counter_total.seconds is 'time that the requests took, added up';
select pg_catalog.pg_extension_config_dump('outbox.counter_total', '');

-- API: private
-- Counts deliveries that end without a try: expired, cancelled, skipped, dead by decision.
create function outbox._count_ended(subscription_ids int[], outcomes text[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.counter (segment, subscription_id, endpoint_id, outcome, requests, deliveries, seconds)
    select coalesce(pg_sequence_last_value('outbox._counter_segment'), 0), u.subscription_id, s.endpoint_id, u.outcome, 0,
        count(*), 0
    from unnest(subscription_ids, outcomes) u(subscription_id, outcome)
    left join outbox.subscription s on s.id = u.subscription_id
    group by u.subscription_id, s.endpoint_id, u.outcome;
end;

insert into outbox._capability values
    ('monitor', 'table outbox.segment'),
    ('monitor', 'table outbox.job'),
    ('monitor', 'table outbox.counter_total');
