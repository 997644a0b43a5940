-- The three append-only logs: message, feed, attempt. Rows are never updated or deleted (outbox.erase() empties some
-- columns). Space is reclaimed one leaf at a time, with TRUNCATE.

-- API: private
create sequence outbox._message_id as bigint cache 1;
select pg_catalog.pg_extension_config_dump('outbox._message_id', '');

-- API: public
call outbox_internal.create_ring('message', $$
    id bigint not null,
    xid xid8 not null,
    enqueued_at timestamptz not null,
    deliver_at timestamptz,
    expires_at timestamptz,
    occurred_at timestamptz,
    max_attempts int,
    priority smallint not null,
    topic text not null,
    key text,
    tenant text,
    aggregate_type text,
    aggregate_id text,
    publisher text,
    idempotency_key text,
    content_type text,
    headers jsonb,
    metadata jsonb,
    payload jsonb,
    body bytea,
    version bigint,
    event_id uuid
$$, outbox_internal.message_leaves(), array[
    -- the sequencer's candidates
    'create index {leaf}_xid on {table} (xid, id)',
    -- look-up of one message, and of the messages of a row of the feed
    'create unique index {leaf}_id on {table} (id)',
    -- lists by tenant and by aggregate; messages without these have no entry
    'create index {leaf}_tenant on {table} (tenant, id) where tenant is not null',
    'create index {leaf}_aggregate on {table} (aggregate_id, aggregate_type, id) where aggregate_id is not null'
]);
comment on table outbox.message is
    'One immutable row per message: enqueued ones in a ring of 16 leaves, events in a permanent leaf';
comment on column outbox.message.segment is
    'leaf of the ring that holds the row; -1: retained after its leaf was truncated; -2: an event, which is kept for ever';
comment on column outbox.message.id is
    'number of the message; the order of messages is that of their positions in the feed, not of this number';
comment on column outbox.message.xid is 'transaction that enqueued it; without meaning in a restored copy';
comment on column outbox.message.enqueued_at is 'when enqueue() was called';
comment on column outbox.message.deliver_at is 'not delivered before this time; null: delivered at once';
comment on column outbox.message.expires_at is 'not delivered after this time; null: never expires';
comment on column outbox.message.occurred_at is 'when the business event happened; null: enqueued_at';
comment on column outbox.message.max_attempts is 'number of attempts, including the first; null: that of the subscription';
comment on column outbox.message.priority is 'among due deliveries, higher goes first; -100 to 100, 0 by default';
comment on column outbox.message.topic is 'dot-separated name that the message is published to';
comment on column outbox.message.key is 'ordering key and identifier; of an event: its stream';
comment on column outbox.message.payload is 'JSON payload; null when body is set or the message was erased';
comment on column outbox.message.body is 'bytes that are delivered unchanged; content_type says what they are';
comment on column outbox.message.version is 'place of an event in its stream, from 1 on without a gap; null: not an event';
comment on column outbox.message.event_id is 'the id that the appending application gave the event; null: none';

-- API: public
-- A row holds up to 960 consecutive positions: message_ids[1] is at first_position, message_ids[2] at first_position + 1,
-- and so on. Within a row the ids ascend. All messages of a row are in one leaf, except that a row of the permanent leaf of
-- the feed may name events beside them (see stream/storage.sql). This takes 8 bytes per message instead of a row and two
-- index entries. The array stays inline (storage plain), and a row fits a page.
call outbox_internal.create_ring('feed', $$
    first_position bigint not null,
    last_position bigint not null,
    ticked_at timestamptz not null,
    message_segment smallint not null,
    message_ids bigint[] not null
$$, 16, array[
    'alter table {table} alter column message_ids set storage plain',
    'create unique index {leaf}_position on {table} (first_position)',
    -- finds a message: it is in the first row written after it was enqueued, or in a later one
    'create index {leaf}_ticked on {table} (ticked_at)'
]);
comment on table outbox.feed is 'The committed order: gap-free positions, up to 960 consecutive ones in a row';
comment on column outbox.feed.message_segment is
    'leaf of outbox.message that holds the messages of this row; -2: all are events. A row with segment -2 names events, '
    'beside messages of that leaf';

-- API: public
call outbox_internal.create_ring('attempt', $$
    position bigint not null,
    message_id bigint not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    delivery_id bigint,
    run bigint not null,
    subscription_id int not null,
    endpoint_id int,
    attempt int not null,
    status smallint,
    outcome text not null,
    error_class text,
    error text,
    worker text,
    remote_address text,
    response_id text,
    response_headers jsonb,
    response_body text,
    positions bigint[],
    message_ids bigint[],
    results jsonb,
    delivery_ids bigint[]
$$, 16, array[
    -- The positions of a batch stay inline, and are not compressed while a session waits for the commit.
    'alter table {table} set (toast_tuple_target = 8160)',
    'create index {leaf}_message on {table} (message_id)',
    -- batches that may contain a position
    'create index {leaf}_batch on {table} (position) where positions is not null',
    -- attempts of deliveries that have a row
    'create index {leaf}_delivery on {table} (delivery_id) where delivery_id is not null'
]);
comment on table outbox.attempt is
    'Append-only log: one row per HTTP request, per attempt of a worker (or bundle of them), or per decision about a '
    'delivery';
comment on column outbox.attempt.run is
    '0: live; above 0: id of the replay; -1: test message; -2: resend (both are manual sends)';
comment on column outbox.attempt.attempt is 'number of the attempt within its budget; 0: a decision without an attempt';
comment on column outbox.attempt.status is 'HTTP status; null: no response';
comment on column outbox.attempt.outcome is
    'completed, failed (is tried again), dead, expired, cancelled, skipped, returned; partial: the messages of a batch had '
    'different outcomes';
comment on column outbox.attempt.positions is
    'all positions of a batch (a request, or a bundle that a worker completed); the column position is the first of them, '
    'and the last is less than 10000 after it';
comment on column outbox.attempt.delivery_ids is
    'all deliveries of a completed bundle, in the order of positions; delivery_id is the first of them, and the last is '
    'less than 10000 after it';
comment on column outbox.attempt.results is
    'with outcome partial: status and outcome of each message, in the order of positions; for a worker''s delivery: the '
    'result object that it passed to complete(); with error_class max_lag: the first and the last position';

insert into outbox._capability values
    ('monitor', 'table outbox.message'),
    ('monitor', 'table outbox.feed'),
    ('monitor', 'table outbox.attempt');
