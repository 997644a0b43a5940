-- Cursors: the positions that consumers have confirmed.
--
-- A cursor moves often, and while some session holds a snapshot, no old version of its row can be cleaned up. Therefore each
-- move gets a version number from a sequence, and the version is the last column of the primary key. A look-up reads the
-- index from the newest version and meets no dead entries, however many there are. The table _cursor_key makes sure that a
-- consumer has one cursor.

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
    error_position bigint,
    error_since timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    primary key (stream, subject, consumer, version)
);
comment on table outbox.cursor is 'A consumer''s confirmed position in a stream; see cursor_get()';
comment on column outbox.cursor.stream is
    '"outbox" is the feed; any other name is the consumer''s own, and its positions are stored as they are';
comment on column outbox.cursor.subject is
    'part of the stream that the consumer reads, such as a tenant or a user; empty: all of it';
comment on column outbox.cursor.epoch is 'epoch of the feed when the position was set; null on other streams';
comment on column outbox.cursor.last_error is
    'why the consumer cannot go on, by cursor_record_error(); null since the cursor has moved';
comment on column outbox.cursor.error_position is 'position of the message that cannot be handled; null: not known';
comment on column outbox.cursor.error_since is 'when the first error after the last move of the cursor was recorded';
comment on column outbox.cursor.version is 'number of the last change; higher with each change';
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
