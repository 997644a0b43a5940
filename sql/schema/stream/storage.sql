-- Events: messages of streams, which are kept for ever.
--
-- An event is a message in one more leaf of outbox.message, segment -2. `key` is the stream, `topic` the type, `version` the
-- place in the stream. Delivery, filters, order, cursors, replay and erasure work on events as on other messages. The leaf
-- is no part of the ring, so no rotation or reclaim reaches it. A row of the feed that names an event is in a permanent leaf
-- of the feed, so an event keeps its position for ever.

-- API: private
create table outbox._message_event partition of outbox.message for values in (-2);

-- The same indexes as on the other leaves: without one of them, the planner would add the cost of a sequential scan of this
-- leaf to every query over all leaves.
create index _message_event_xid on outbox._message_event (xid, id);
create unique index _message_event_id on outbox._message_event (id);
create index _message_event_tenant on outbox._message_event (tenant, id) where tenant is not null;
create index _message_event_aggregate on outbox._message_event (aggregate_id, aggregate_type, id)
    where aggregate_id is not null;
-- A stream, in its order, and the second guard of its versions. Its order is that of bytes: the order of a language changes
-- with the operating system's library, and would then hide versions from the guard.
create unique index _message_event_stream on outbox._message_event (key collate "C", version);
-- Rows are only inserted. VACUUM visits them soon and freezes them at once, so that it never has to come back.
alter table outbox._message_event set (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_freeze_min_age = 0);
select pg_catalog.pg_extension_config_dump('outbox._message_event', '');

-- API: private
create table outbox._feed_event partition of outbox.feed for values in (-2);
alter table outbox._feed_event alter column message_ids set storage plain;
create unique index _feed_event_position on outbox._feed_event (first_position);
create index _feed_event_ticked on outbox._feed_event (ticked_at);
-- Finds the position of an event: it is nearly always in the row that begins nearest below its id.
create index _feed_event_first on outbox._feed_event ((message_ids[1]));
alter table outbox._feed_event set (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_freeze_min_age = 0);
select pg_catalog.pg_extension_config_dump('outbox._feed_event', '');

-- API: private
-- The events with ids up to this one have their positions, whatever their transaction ids say. Restored events have
-- transaction ids of another cluster, and this cluster may reach those ids some day.
create sequence outbox._event_floor as bigint minvalue 0 start 0 cache 1;
select pg_catalog.pg_extension_config_dump('outbox._event_floor', '');

-- API: public
create table outbox.stream (
    stream text primary key,
    closed_at timestamptz,
    truncated_before bigint not null default 1,
    last_version bigint not null default 0
);
comment on table outbox.stream is
    'Streams in an exceptional state: closed, or truncated. A stream without a row is open, and has all its events';
comment on column outbox.stream.closed_at is 'since when append() refuses the stream; null: it is open';
comment on column outbox.stream.truncated_before is 'truncate_stream() has removed the events before this version';
comment on column outbox.stream.last_version is 'last version when the stream was truncated; versions never start again';
select pg_catalog.pg_extension_config_dump('outbox.stream', '');

-- API: private
-- Makes every session look for exceptional streams again when this transaction commits.
create function outbox_internal.streams_changed() returns trigger language c volatile as 'MODULE_PATHNAME', 'outbox_streams_changed';
create trigger streams_changed after insert or update or delete or truncate on outbox.stream
    for each statement execute function outbox_internal.streams_changed();
-- A restore without triggers, and the first copy of a logical subscription, fire only such triggers.
alter table outbox.stream enable always trigger streams_changed;

-- API: private
-- Where the events of a category are: lists of at most 600 positions, written behind the feed by the job `categories`. The
-- category '' has one row per step of the job: its last_position is the end of what is listed.
create table outbox._event_category (
    category text collate "C" not null,
    first_position bigint not null,
    last_position bigint not null,
    -- distances from first_position
    positions int[] not null,
    message_ids bigint[] not null,
    primary key (category, first_position)
);
alter table outbox._event_category alter positions set storage plain, alter message_ids set storage plain;
select pg_catalog.pg_extension_config_dump('outbox._event_category', '');

-- API: private
-- The position up to which events are listed by category. It is a row, so that it commits with the lists.
create function outbox_internal.listed() returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce((
        select c.last_position from outbox._event_category c
        where c.category = '' order by c.category desc, c.first_position desc limit 1
    ), 0);
end;

-- API: private
-- Positions between the end of the lists and the last event; positions behind it have nothing to list. A reader of a
-- category reads them one by one.
create function outbox_internal.category_lag() returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select greatest(coalesce((
        select f.last_position from outbox._feed_event f order by f.first_position desc limit 1
    ), 0) - outbox_internal.listed(), 0);
end;

insert into outbox._capability values
    ('monitor', 'table outbox.stream');
