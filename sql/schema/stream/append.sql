-- Appending events to streams. The functions of this file write rows in the caller's own transaction, as enqueue() does.
--
-- A stream's versions are 1, 2, ... without a gap or a double. Two things guard them. A lock on the stream, held until the
-- transaction ends, makes a second appender wait and then see the first one's events. The unique index on stream and version
-- guards the streams beyond the 64 that a transaction locks. No row of a stream is updated, so a held snapshot does not make
-- appending slower.

-- API: public
create type outbox.appended as (
    stream text,
    first_version bigint,
    last_version bigint,
    message_ids bigint[],
    repeated boolean
);
comment on type outbox.appended is
    'Appended events: their versions and message ids. repeated: the same events had been appended before, and nothing was '
    'written';

-- API: public
create function outbox.append(
    stream text,
    type text,
    data jsonb,
    expected_version bigint default -1,
    event_id uuid default null,
    metadata jsonb default null,
    headers jsonb default null,
    tenant text default null,
    publisher text default null,
    occurred_at timestamptz default null
) returns bigint
language c volatile
as 'MODULE_PATHNAME', 'outbox_append';
comment on function outbox.append is
    'Appends an event to a stream in the current transaction and returns its version: 1, 2, ... without a gap. stream: '
    'category-id, at most 255 bytes. type: has the form of a topic. data: at most pg_outbox.max_payload (256 kB by '
    'default). expected_version: -1 any (the default), 0 the stream does not exist, -2 it exists, n its last version is n. '
    'With n or 0 and an event_id, the same call again is a success and writes nothing. The stream is locked until the '
    'transaction ends; a transaction that appends to more than 64 streams guards the others by the unique index alone. '
    'Errors: OB013 the stream is not at the expected version (the detail is JSON: stream, expected, actual), OB014 the '
    'stream is closed, OB008 the event id is that of another event, 22004 stream, type, data or expected_version is null, '
    '22023 a value is malformed, 54000 a value is too large, and the errors of enqueue()';

-- API: public
create function outbox.append_many(
    stream text,
    types text[],
    data jsonb[],
    expected_version bigint default -1,
    event_ids uuid[] default null,
    metadata jsonb[] default null,
    headers jsonb default null,
    tenant text default null,
    publisher text default null,
    occurred_at timestamptz default null
) returns outbox.appended
language c volatile
as 'MODULE_PATHNAME', 'outbox_append_many';
comment on function outbox.append_many is
    'Appends 1 to 10000 events to a stream, all or none. types, data and, if they are given, event_ids and metadata have '
    'one entry per event; headers, tenant, publisher and occurred_at hold for all. Errors are those of append(), and 22023 '
    'there are no events or the arrays have different lengths';

-- API: public
create function outbox.append_bytes(
    stream text,
    types text[],
    bodies bytea[],
    content_type text default 'application/octet-stream',
    expected_version bigint default -1,
    event_ids uuid[] default null,
    metadata jsonb[] default null,
    headers jsonb default null,
    tenant text default null,
    publisher text default null,
    occurred_at timestamptz default null
) returns outbox.appended
language c volatile
as 'MODULE_PATHNAME', 'outbox_append_bytes';
comment on function outbox.append_bytes is
    'Like append_many(), for bodies of bytes or text, which are stored and delivered unchanged. content_type: their media '
    'type (default application/octet-stream). Errors are those of append_many()';

-- API: public
create function outbox.stream_version(stream text) returns bigint
language c volatile
as 'MODULE_PATHNAME', 'outbox_stream_version';
comment on function outbox.stream_version is
    'Returns the last version of a stream; 0: there is no such stream. It is the version as it is now, whatever the '
    'transaction''s snapshot shows. Errors: 22004 stream is null, 22023 it is malformed';

-- API: private
-- Takes the lock of a stream until the transaction ends, as append() does: not if the transaction has 64 of them. `always`:
-- in any case, for a change that has to wait for appends, because no index guards it.
create function outbox_internal.lock_stream(stream text, always boolean) returns void
language c volatile strict
as 'MODULE_PATHNAME', 'outbox_lock_stream';

insert into outbox._capability (capability, object, narrows) values
    ('publish', 'function outbox.append', true),
    ('publish', 'function outbox.append_many', true),
    ('publish', 'function outbox.append_bytes', true),
    ('publish', 'function outbox.stream_version', true),
    ('consume', 'function outbox.stream_version', false);
