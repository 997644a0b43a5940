-- Leases: which worker has which deliveries, and until when. The token that a worker gets is in no table.

-- API: private
-- Returns a new token for a worker that claims: a random number of 53 bits. Without the token, nobody can end or extend the
-- lease.
create function outbox_internal.new_lease() returns bigint language c volatile as 'MODULE_PATHNAME', 'outbox_new_lease';

-- API: private
-- Returns the id of the lease of a token, a keyed hash. Only the id is stored, so a role that can read the tables cannot end
-- a lease.
create function outbox_internal.lease_id(lease bigint) returns bigint language c stable strict
as 'MODULE_PATHNAME', 'outbox_lease_id';

-- API: private
-- The key of that hash, which only the owner can read. It is not dumped, because leases from another database are of no use;
-- they expire and are taken back.
create table outbox._lease_key (
    key bytea not null
);
insert into outbox._lease_key values (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- API: private
-- Notes that this session has named a lease that does not exist. After 100 of these, each further one sleeps for 1 ms, so
-- that guessing is slow.
create function outbox_internal.note_unknown_lease() returns void language c volatile as 'MODULE_PATHNAME', 'outbox_note_unknown_lease';

-- API: public
-- One row per claim that still holds deliveries. A session that ends, extends or takes back a lease locks this row before
-- the rows of the deliveries.
create table outbox.lease (
    id bigint primary key,
    subscription_id int not null,
    worker text not null,
    claimed_at timestamptz not null,
    expires_at timestamptz not null,
    deadline_at timestamptz,
    delivery_ids bigint[] not null,
    bundled boolean not null default false
);
create index lease_expiry on outbox.lease (expires_at);
comment on table outbox.lease is
    'Claimed deliveries, one row per claim. The id is a hash of the fencing token, which only the worker has';
comment on column outbox.lease.worker is 'name that the worker gave; for information only, the token decides';
comment on column outbox.lease.delivery_ids is
    'deliveries that were claimed; outbox.delivery.lease says which of them the lease still holds';
comment on column outbox.lease.bundled is
    'true: the deliveries were claimed as whole bundles, and have no rows in outbox.delivery';
comment on column outbox.lease.deadline_at is 'latest end of the lease, however often it is extended; null: none';
select pg_catalog.pg_extension_config_dump('outbox.lease', '');

insert into outbox._capability values
    ('monitor', 'table outbox.lease');
