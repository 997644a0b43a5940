-- Names of streams. One definition, in the core crate, holds for SQL, Rust and the clients.

-- API: public
create function outbox.category(stream text) returns text
language c immutable strict parallel safe
as 'MODULE_PATHNAME', 'outbox_category';
comment on function outbox.category is
    'Returns the category of a stream: the part of its name before the first "-". Null for null';

-- API: public
create function outbox.stream_key(stream text) returns text
language c immutable strict parallel safe
as 'MODULE_PATHNAME', 'outbox_stream_key';
comment on function outbox.stream_key is
    'Returns the id of a stream within its category: the part of its name after the first "-". Null if there is none';

-- API: public
create function outbox.cardinal_id(stream text) returns text
language c immutable strict parallel safe
as 'MODULE_PATHNAME', 'outbox_cardinal_id';
comment on function outbox.cardinal_id is
    'Returns the first part of a compound stream id, which is the id before the first "+". Members of a consumer group '
    'share a category by it. Null if the stream has no id';

-- API: private
-- The number of a stream's member in a consumer group of so many members, from 0 on. Streams with the same cardinal id have
-- the same member. The hash is that of message-db, so that groups of both agree; there a stream without an id, which is its
-- category alone, has no member, and here the member of its name.
create function outbox_internal.member_of(stream text, members int) returns int
language sql immutable strict parallel safe
return abs(('x' || left(md5(coalesce(outbox.cardinal_id(stream), stream)), 16))::bit(64)::bigint::numeric) % members;

insert into outbox._capability values
    ('publish', 'function outbox.category'),
    ('publish', 'function outbox.stream_key'),
    ('publish', 'function outbox.cardinal_id'),
    ('consume', 'function outbox.category'),
    ('consume', 'function outbox.stream_key'),
    ('consume', 'function outbox.cardinal_id'),
    ('monitor', 'function outbox.category'),
    ('monitor', 'function outbox.stream_key'),
    ('monitor', 'function outbox.cardinal_id');
