-- Reading the feed: order, bounds, topics, filters, ends.
create extension pg_outbox;
select outbox.head(), outbox.tail();
select count(*) from outbox.read(0);
select outbox.enqueue('order.created', jsonb_build_object('n', n), 'k' || n % 3, tenant => 'acme')
from generate_series(1, 5) n;
select outbox.enqueue('order.paid', '{"n": 6}', 'k1', headers => '{"severity": "high"}', metadata => '{"user_id": "u"}',
    aggregate_type => 'order', aggregate_id => '42', publisher => 'shop@1.2');
select outbox.enqueue_bytes('invoice.raw', 'abc', 'text/plain');
-- The messages are not in the feed yet.
select count(*) from outbox.read(0);
select status from outbox_internal.tick_inline(1000);
select outbox.head(), outbox.tail();
select position, epoch, message_id, topic, key, payload, body, content_type, tenant from outbox.read(0);
select headers, metadata, aggregate_type, aggregate_id, publisher, webhook_id = outbox.webhook_id(message_id, enqueued_at) as same
from outbox.read(5, 1);
-- The start position is exclusive, and the number of messages is bounded.
select array_agg(position) from outbox.read(3);
select array_agg(position) from outbox.read(2, 2);
select array_agg(position) from outbox.read(7);
-- Topics and filters.
select array_agg(position) from outbox.read(0, topics => '{order.*}');
select array_agg(position) from outbox.read(0, topics => '{invoice.#, order.paid}');
select array_agg(position) from outbox.read(0, filter => '{"key": "k1"}');
select array_agg(position) from outbox.read(0, topics => '{order.*}', filter => '{"headers": {"severity": "high"}}');
select array_agg(position) from outbox.read(0, filter => '{"payload": "$.n > 4"}');
select array_agg(position) from outbox.read(0, 2, filter => '{"tenant": "acme"}');
-- Control messages of pg_outbox have positions and are not returned.
select outbox.create_endpoint('e', 'https://example.com') is not null;
select outbox.enqueue('order.created', '{"n": 9}');
select status from outbox_internal.tick_inline(1000);
select outbox.head();
select array_agg(position) from outbox.read(6);
-- A call that looked further than its last row ends with a marker: a row without a message, from which to continue.
select position, message_id is null as marker from outbox.read(4, topics => '{order.paid}');
select position, epoch, message_id is null as marker from outbox.read(0, topics => '{no.such}');
select position, message_id is null as marker from outbox.read(0, 1, topics => '{invoice.#}');
select count(*) from outbox.read(outbox.head(), topics => '{no.such}');
-- A long stretch without a match is passed in pieces.
select count(outbox.enqueue('bulk.item', '{}')) from generate_series(1, 10500);
select outbox_internal.tick_inline(20000) is not null;
select position, message_id from outbox.read(9, topics => '{order.*}');
select position, message_id from outbox.read(10009, topics => '{order.*}');
select count(*), min(position), max(position) from outbox.read(900, 1000);
-- Refused arguments.
select outbox.read(null);
select outbox.read(-1);
select outbox.read(100000);
select outbox.read(0, 0);
select outbox.read(0, 10001);
select outbox.read(0, topics => '{}');
select outbox.read(0, topics => '{"a..b"}');
select outbox.read(0, filter => '{"colour": "red"}');
select outbox.read(0, filter => '{"payload": "$.n >"}');
-- In a lost history, the positions after the end of the reader's epoch do not exist.
insert into outbox.epoch (epoch, first_position, timeline) values (2, 10000, 2);
select position, epoch from outbox.read(9998, 2);
select outbox.read(9999, 1, epoch => 1) is not null;
select outbox.read(10000, 1, epoch => 1);
select outbox.read(10000, 1, epoch => 2) is not null;
-- Positions that are no longer stored.
select setval('outbox._reclaimed', 100);
select outbox.tail();
select position from outbox.read(0, 1);
select position from outbox.read(100, 1);
select position from outbox.read(99, 1);
