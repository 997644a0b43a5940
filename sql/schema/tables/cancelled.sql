-- Cancelled messages, and notes that other sessions leave for the router.

-- API: public
-- Looked up by the router for messages that have no delivery yet, by claims, and wherever a delivery would be tried again.
create table outbox.cancelled (
    message_id bigint primary key,
    cancelled_at timestamptz not null default clock_timestamp(),
    cancelled_by text not null,
    reason text
);
comment on table outbox.cancelled is 'Messages that were cancelled or erased before all their deliveries had ended';
select pg_catalog.pg_extension_config_dump('outbox.cancelled', '');

-- API: private
-- Why a message was erased, as `erased: reason`; null if it was not erased. An erased message must not be sent again: it has
-- no content.
create function outbox_internal.erased_because(message_id bigint) returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select c.reason from outbox.cancelled c
    where c.message_id = erased_because.message_id and c.reason like 'erased: %';
end;

-- API: private
-- Messages that were cancelled lately. A delivery that the router is just making, that is in flight or leased cannot be
-- ended by the session that cancels. The router ends it as soon as it can, and then deletes the entry; see _pass.
create table outbox._cancelled_lately (
    message_id bigint not null
);
select pg_catalog.pg_extension_config_dump('outbox._cancelled_lately', '');

-- API: private
-- Keys that have become free in subscriptions with an order. The router unblocks the next delivery of each key.
create table outbox._freed_key (
    subscription_id int not null,
    key text not null
);
select pg_catalog.pg_extension_config_dump('outbox._freed_key', '');

insert into outbox._capability values
    ('monitor', 'table outbox.cancelled');
