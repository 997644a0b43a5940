-- What the dispatcher counts of messages, by tenant and by topic: kept as the counters of deliveries are, see 18_kept.sql.

-- API: public
call outbox._create_ring('tally', $$
    kind text not null,
    name text not null,
    messages bigint not null,
    matched bigint not null,
    skipped bigint not null,
    last_at timestamptz not null
$$, 3, array[]::text[]);
comment on table outbox.tally is 'What was routed and is not in tally_total yet, by tenant and by topic; see outbox.tenant_stats and topic_stats';

-- API: public
create table outbox.tally_total (
    kind text not null,
    name text not null,
    messages bigint not null,
    matched bigint not null,
    skipped bigint not null,
    last_at timestamptz not null,
    primary key (kind, name)
);
comment on table outbox.tally_total is 'Sums of what was routed, up to the last time it was added up';
select pg_catalog.pg_extension_config_dump('outbox.tally_total', '');
