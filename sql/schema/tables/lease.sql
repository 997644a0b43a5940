-- Leases: which worker has which deliveries, and until when. The number that a worker is given is in no table.

-- API: private
-- What a worker is given when it claims: random. Whoever does not have it cannot do anything with what is leased.
create function outbox._new_lease() returns bigint language c volatile as 'MODULE_PATHNAME', 'outbox_new_lease';

-- API: private
-- What is stored of it: tables that a monitor reads hold nothing that ends a lease.
create function outbox._lease_id(lease bigint) returns bigint language c stable strict
as 'MODULE_PATHNAME', 'outbox_lease_id';

-- API: private
-- The key that it is made with, which the owner alone can read. Not dumped: what was leased in another database is taken
-- back in time.
create table outbox._lease_key (
    key bytea not null
);
insert into outbox._lease_key values (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- API: private
-- Tells the library that somebody has named a lease that is not there: who guesses is slowed down.
create function outbox._missed() returns void language c volatile as 'MODULE_PATHNAME', 'outbox_missed';

-- API: public
-- One row per claim that still holds deliveries. Its row lock comes before those of its deliveries: whoever ends a lease,
-- extends it or takes it back has it first.
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
comment on table outbox.lease is 'Claimed batches. The id is made of the fencing token, which only the worker has';
comment on column outbox.lease.worker is 'who claimed; information only, the token is what counts';
comment on column outbox.lease.delivery_ids is 'what was claimed; those it still has say so themselves (outbox.delivery.lease)';
comment on column outbox.lease.bundled is 'they have no rows in outbox.delivery (yet): they were claimed as whole bundles';
comment on column outbox.lease.deadline_at is 'end of the lease, however often it is extended; null: none';
select pg_catalog.pg_extension_config_dump('outbox.lease', '');

insert into outbox._capability values
    ('monitor', 'table outbox.lease');
