-- State of the sequencer, the dispatcher and the router. State that changes with every batch is written as new rows, and the
-- last row is the current state. If it were updated in place, five rows would leave tens of thousands of dead ones while a
-- session holds a snapshot.

-- API: public
call outbox_internal.create_ring('tick', $$
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
comment on table outbox.tick is
    'One row per tick of the sequencer that numbered messages; the last row is the sequencer''s state';
comment on column outbox.tick.xid is 'transaction that inserted the row; in a restored copy the row has another xmin';
comment on column outbox.tick.epoch is 'epoch of the positions; a new one begins on a new timeline';
comment on column outbox.tick.last_position is
    'last position of the feed; first_position - 1 when the tick numbered nothing';
comment on column outbox.tick.snapshot_from is 'snapshot of the tick before';
comment on column outbox.tick.snapshot_to is
    'snapshot of this tick; the next tick numbers the messages that this snapshot does not see';
comment on column outbox.tick.done_id is
    'not null: the messages between the two snapshots were more than a chunk, and are numbered up to this message id';
comment on column outbox.tick.next_to is 'first transaction id that was not assigned when snapshot_to was taken';
comment on column outbox.tick.leaf is 'leaf that messages were written to when snapshot_to was taken';
comment on column outbox.tick.leaves is 'leaves in which the next tick may find new messages';
comment on column outbox.tick.floor_to is 'transactions from next_to on draw message ids above this one';

-- API: public
call outbox_internal.create_ring('checkpoint', $$
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
comment on table outbox.checkpoint is
    'One row per transaction of the dispatcher (or of an inline claim); the last row is the current state';
comment on column outbox.checkpoint.incarnation is 'number of the dispatcher''s run that wrote the row';
comment on column outbox.checkpoint.position is
    'routed up to here; a subscription that is not in lag_subscriptions has been served up to here';
comment on column outbox.checkpoint.lag_subscriptions is
    'subscriptions that have been served only up to their entry in lag_positions';
comment on column outbox.checkpoint.open_subscriptions is
    'with open_positions: deliveries up to those positions that have no outcome yet, one entry each. The first entry of a '
    'subscription in open_positions is a position, and each further one is the distance from the position before';

-- API: public
call outbox_internal.create_ring('routing', $$
    first_position bigint not null,
    last_position bigint not null,
    routed_at timestamptz not null,
    active int not null,
    matched smallint[] not null
$$, 16, array[
    'alter table {table} alter column matched set storage plain',
    'create unique index {leaf}_position on {table} (first_position)'
]);
comment on table outbox.routing is 'One row per routed batch: the number of subscriptions that matched at each position';
comment on column outbox.routing.active is 'number of subscriptions that were active';
comment on column outbox.routing.matched is
    'one entry per position: the number of subscriptions that matched; -1 no subscription (on the topic), -2 filtered, -3 '
    'control message, -4 no longer stored, -5 inactive (all subscriptions on the topic had ended)';

-- API: public
create table outbox.epoch (
    epoch int primary key,
    first_position bigint not null,
    timeline int not null,
    started_at timestamptz not null default clock_timestamp()
);
comment on table outbox.epoch is
    'Epochs of the feed: after a failover that may have lost the end of the feed, positions continue in a new epoch';
select pg_catalog.pg_extension_config_dump('outbox.epoch', '');

-- API: private
-- Shows whether this is the database in which the rows were written. A row holds the id of the transaction that inserted it.
-- A restore or any logical copy gives the row another xmin, and CREATE DATABASE ... TEMPLATE gives the database another OID.
-- A crash, VACUUM, promotion, point-in-time recovery and pg_upgrade keep both.
--
-- CREATE EXTENSION inserts the first row (at the end of the install script), and a restore adds the row of the original. The
-- outbox is this database's own if every row is genuine. So a dump always brings a row along, and while a restore is still
-- running, none of its messages can be taken for messages that were enqueued here.
create table outbox._identity (
    -- id of the (sub)transaction that inserted the row
    xid xid8 not null,
    -- no message was enqueued here by a transaction with a smaller id
    since xid8 not null,
    database oid not null,
    created_at timestamptz not null default clock_timestamp()
);
select pg_catalog.pg_extension_config_dump('outbox._identity', '');

-- API: private
-- Never holds a row. Its lock is the sequencer's lock. Only the owner can take the lock of this table, whereas any role
-- could take an advisory lock.
create table outbox._sequencer ();

insert into outbox._capability values
    ('monitor', 'table outbox.tick'),
    ('monitor', 'table outbox.checkpoint'),
    ('monitor', 'table outbox.routing'),
    ('monitor', 'table outbox.epoch');
