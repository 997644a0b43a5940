-- Messages that are not to be delivered any more.

-- API: public
-- What is looked up: by the router for messages that have no delivery yet, by claims, by whatever would try again.
create table outbox.cancelled (
    message_id bigint primary key,
    cancelled_at timestamptz not null default clock_timestamp(),
    cancelled_by text not null,
    reason text
);
comment on table outbox.cancelled is 'Messages that were cancelled before all their deliveries had ended';
select pg_catalog.pg_extension_config_dump('outbox.cancelled', '');

-- API: private
-- Why a message was erased; null if it was not. Sending it again would send nothing.
create function outbox._erased_because(message_id bigint) returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select c.reason from outbox.cancelled c
    where c.message_id = _erased_because.message_id and c.reason like 'erased: %';
end;

-- API: private
-- Cancelled lately. A delivery that the router is just making, that is in flight or leased cannot be ended by whoever
-- cancels: the router ends it as soon as it can, and then forgets the entry; see _pass.
create table outbox._called_off (
    message_id bigint not null
);
select pg_catalog.pg_extension_config_dump('outbox._called_off', '');

-- API: private
-- Keys that have become free in subscriptions with an order; the router unblocks the next of each.
create table outbox._freed (
    subscription_id int not null,
    key text not null
);
select pg_catalog.pg_extension_config_dump('outbox._freed', '');

insert into outbox._capability values
    ('monitor', 'table outbox.cancelled');
