-- Counters: outcomes of deliveries, and messages by tenant and by topic. Rows are appended, and maintenance adds them up.

-- API: public
-- One row per recorded batch, subscription and outcome. A leaf is added to counter_total and truncated in one transaction,
-- so every row is counted once.
call outbox_internal.create_ring('counter', $$
    subscription_id int not null,
    endpoint_id int,
    outcome text not null,
    requests bigint not null,
    deliveries bigint not null,
    seconds double precision not null,
    last_at timestamptz not null default clock_timestamp()
$$, 3, array[]::text[]);
comment on table outbox.counter is 'Outcomes that are not in counter_total yet; see outbox.metrics()';

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
comment on table outbox.counter_total is
    'Sums of outcomes, up to the last time they were added up; outbox.metrics() adds the rows of outbox.counter';
comment on column outbox.counter_total.endpoint_id is '0: no endpoint (pull)';
comment on column outbox.counter_total.seconds is 'total duration of the requests, in seconds';
select pg_catalog.pg_extension_config_dump('outbox.counter_total', '');

-- API: private
-- Counts deliveries that end without an attempt: expired, cancelled, skipped, or dead by a decision.
create function outbox_internal.count_ended(subscription_ids int[], outcomes text[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    insert into outbox.counter (segment, subscription_id, endpoint_id, outcome, requests, deliveries, seconds)
    select (select outbox_internal.current_leaf('counter')), u.subscription_id, s.endpoint_id, u.outcome, 0, count(*), 0
    from unnest(subscription_ids, outcomes) u(subscription_id, outcome)
    left join outbox.subscription s on s.id = u.subscription_id
    group by u.subscription_id, s.endpoint_id, u.outcome;
end;

-- API: public
call outbox_internal.create_ring('message_counter', $$
    kind text not null,
    name text not null,
    messages bigint not null,
    matched bigint not null,
    skipped bigint not null,
    last_at timestamptz not null
$$, 3, array[]::text[]);
comment on table outbox.message_counter is
    'Routed messages by tenant and by topic that are not in message_counter_total yet; see the views outbox.tenant_stats and '
    'outbox.topic_stats';

-- API: public
create table outbox.message_counter_total (
    kind text not null,
    name text not null,
    messages bigint not null,
    matched bigint not null,
    skipped bigint not null,
    last_at timestamptz not null,
    primary key (kind, name)
);
comment on table outbox.message_counter_total is
    'Sums of routed messages by tenant and by topic, up to the last time they were added up';
select pg_catalog.pg_extension_config_dump('outbox.message_counter_total', '');

insert into outbox._capability values
    ('monitor', 'table outbox.counter_total'),
    ('monitor', 'table outbox.message_counter_total');
