-- State that changes with every batch is written as new rows and read as "the last one": updated in place, five rows
-- would leave tens of thousands of dead ones behind them under a held snapshot.

-- API: public
call outbox._create_ring('tick', $$
    id bigint not null,
    xid xid8 not null,
    epoch int not null,
    timeline int not null,
    first_position bigint not null,
    last_position bigint not null,
    done_id bigint,
    ticked_at timestamptz not null,
    next_from xid8 not null,
    next_to xid8 not null,
    floor_from bigint not null,
    floor_to bigint not null,
    leaf smallint not null,
    leaves smallint[] not null,
    snapshot_from pg_snapshot not null,
    snapshot_to pg_snapshot not null
$$, 3, array[
    'create unique index {leaf}_id on {table} (id)'
]);
comment on table outbox.tick is 'One row per tick of the sequencer that numbered messages; the last one is the state';
comment on column outbox.tick.xid is 'of the transaction that inserted the row; another one in a restored copy';
comment on column outbox.tick.epoch is 'history the positions belong to; a new one begins on a new timeline';
comment on column outbox.tick.last_position is 'the feed ends here; below first_position when the tick found nothing';
comment on column outbox.tick.snapshot_from is 'what the tick before had seen';
comment on column outbox.tick.snapshot_to is 'what this one has seen; the next one takes the difference';
comment on column outbox.tick.done_id is 'not null: the difference was larger than a chunk, and is numbered up to this message id';
comment on column outbox.tick.next_to is 'first transaction id that was not assigned when snapshot_to was taken';
comment on column outbox.tick.leaf is 'leaf that messages were written to when snapshot_to was taken';
comment on column outbox.tick.leaves is 'leaves in which the next tick may find messages that this one did not';
comment on column outbox.tick.floor_to is 'transactions from next_to on draw message ids above this';

-- API: public
call outbox._create_ring('checkpoint', $$
    id bigint not null,
    incarnation bigint not null,
    position bigint not null,
    written_at timestamptz not null,
    lag_subscriptions int[] not null,
    lag_positions bigint[] not null,
    open_subscriptions int[] not null,
    open_positions bigint[] not null
$$, 3, array[
    'create unique index {leaf}_id on {table} (id)'
]);
comment on table outbox.checkpoint is 'One row per transaction of the dispatcher; the last one says where it stands';
comment on column outbox.checkpoint.incarnation is 'run of the dispatcher that wrote it';
comment on column outbox.checkpoint.position is 'routed up to here: every subscription that is not listed has been dealt with up to here';
comment on column outbox.checkpoint.lag_subscriptions is 'subscriptions that are dealt with up to lag_positions only';
comment on column outbox.checkpoint.open_subscriptions is
    'with open_positions: deliveries before those places that have no outcome yet; of each subscription the '
    'first place, then distances';

-- API: public
call outbox._create_ring('routing', $$
    first_position bigint not null,
    last_position bigint not null,
    routed_at timestamptz not null,
    active int not null,
    matched smallint[] not null
$$, 16, array[
    'alter table {table} alter column matched set storage plain',
    'create unique index {leaf}_position on {table} (first_position)'
]);
comment on table outbox.routing is 'One row per routed batch: how many subscriptions matched each position';
comment on column outbox.routing.active is 'subscriptions that were active';
comment on column outbox.routing.matched is
    'one entry per position: subscriptions that matched; -1 no subscription (on the topic), -2 filtered, -3 control message, '
    '-4 no longer stored, -5 inactive (only subscriptions that had ended)';

-- API: public
create table outbox.epoch (
    epoch int primary key,
    first_position bigint not null,
    timeline int not null,
    started_at timestamptz not null default clock_timestamp()
);
comment on table outbox.epoch is 'Histories: after a failover that lost the end of the feed, positions go on in a new epoch';
select pg_catalog.pg_extension_config_dump('outbox.epoch', '');

-- API: private
-- Whether this is the database that the rows were written in. A row holds the id of the transaction that inserted it: a
-- restore or a copy by any logical means gives it another xmin, CREATE DATABASE ... TEMPLATE another database. A crash,
-- VACUUM, promotion, point-in-time recovery and pg_upgrade keep both.
--
-- CREATE EXTENSION inserts the first row (at the end of the install script), and a restore adds the original's to it: the outbox
-- is this database's own if every row is genuine. So a dump always brings a row along, and while a restore is still running
-- nothing of it can be taken for messages that were enqueued here.
create table outbox._identity (
    -- of the (sub)transaction that inserted the row
    xid xid8 not null,
    -- no message was enqueued here by an older one
    since xid8 not null,
    database oid not null,
    created_at timestamptz not null default clock_timestamp()
);
select pg_catalog.pg_extension_config_dump('outbox._identity', '');

-- API: private
-- Never holds a row. Its lock is the sequencer's: nobody but the owner can take it, an advisory key anybody could.
create table outbox._sequencer ();

insert into outbox._capability values
    ('monitor', 'table outbox.tick'),
    ('monitor', 'table outbox.checkpoint'),
    ('monitor', 'table outbox.routing'),
    ('monitor', 'table outbox.epoch');
