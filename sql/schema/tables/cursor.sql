-- Cursors: how far consumers have confirmed. And the log of what operators did.
--
-- A cursor moves often, and while somebody holds a snapshot nothing that it was before can be cleaned up. Each move has a
-- version, drawn from a sequence, which is the end of the primary key: whoever looks for a cursor comes from the newest and
-- meets none of the dead ones, however many there are. That a consumer has one cursor is what _cursor_key is for.

-- API: private
create sequence outbox._cursor_version as bigint cache 1;
select pg_catalog.pg_extension_config_dump('outbox._cursor_version', '');

-- API: public
create table outbox.cursor (
    consumer text not null,
    stream text not null,
    subject text not null,
    version bigint not null default nextval('outbox._cursor_version'),
    position bigint not null check (position >= 0),
    epoch int,
    last_delivery_id text,
    last_delivered_at timestamptz,
    last_error text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    primary key (stream, subject, consumer, version)
);
comment on table outbox.cursor is 'A consumer''s confirmed position in a stream; see cursor_get()';
comment on column outbox.cursor.stream is '"outbox" is the feed; any other name is the consumer''s own, its positions are stored as they are';
comment on column outbox.cursor.subject is 'what of the stream: a part, a tenant, a user; empty: all of it';
comment on column outbox.cursor.epoch is 'of the feed when the position was set; null on other streams';
comment on column outbox.cursor.version is 'another one with every change';
select pg_catalog.pg_extension_config_dump('outbox.cursor', '');

-- API: private
create table outbox._cursor_key (
    stream text not null,
    subject text not null,
    consumer text not null,
    primary key (stream, subject, consumer)
);
select pg_catalog.pg_extension_config_dump('outbox._cursor_key', '');

insert into outbox._capability values
    ('monitor', 'table outbox.cursor');
