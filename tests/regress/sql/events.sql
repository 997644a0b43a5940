-- Streams of events: appending, loading, reading in the committed order, and every refusal.
create extension pg_outbox;
select outbox.append('order-1', 'order.placed', '{"total": 42}', 0) as version;
select outbox.append('order-1', 'order.paid', '{}', 1, event_id => '00000000-0000-0000-0000-000000000001',
    metadata => '{"user_id": "u-1"}', headers => '{"severity": "low"}', tenant => 'acme') as version;
select stream, first_version, last_version, cardinality(message_ids) as events, repeated
from outbox.append_many('order-2', '{order.placed,order.paid}', array['1', '2']::jsonb[], 0);
select stream, first_version, last_version, repeated
from outbox.append_bytes('file-1', '{file.added}', array['\x0102']::bytea[], 'application/x-thing');
select outbox.append('order-1', 'order.sent', '{}', -2) as version, outbox.stream_version('order-1'), outbox.stream_version('no-1');

-- what is read
select version, type, data, body, content_type, event_id, headers, metadata, tenant, position is null as unplaced
from outbox.load('order-1');
select version, type from outbox.load('order-1', backwards => true, max_events => 2);
select version, type from outbox.load('order-1', 2, 1);
select outbox.tick() > 0 as ticked;
select position > 0 as placed, epoch, version from outbox.load('order-1', positions => true);
select stream, version, type from outbox.read_events(0);
select stream, version from outbox.read_events(0, types => '{order.*}', tenant => 'acme');
select stream, version from outbox.read_events(0, categories => '{file}');
select stream, version from outbox.read_events(0, filter => '{"aggregate_id": "2", "payload": "$ > 1"}');
select member, array_agg(distinct e.stream order by e.stream) as streams
from generate_series(0, 2) member cross join lateral outbox.read_events(0, member => member, members => 3) e
group by member order by member;
select job, result, rows from outbox.maintain() where job = 'categories';
select stream, version from outbox.read_events(0, categories => '{file,order}');
select stream, version from outbox.read_events(0, 2, categories => '{order,order}');
select stream, version from outbox.streams();
select stream, version from outbox.streams('order', 'order-1');
select category, version, events, closed_at is null as open, truncated_before from outbox.stream_info('order-2');
select outbox.category(s), outbox.stream_key(s), outbox.cardinal_id(s)
from unnest('{order-1,order,order-a+b,order-a-b,order:command-1}'::text[]) s;
select count(*) from outbox.list_messages();

-- the ends of streams
select outbox.close_stream('order-2', 'done');
select outbox.truncate_stream('order-1', 3, 'old');
select category, version, events, truncated_before from outbox.stream_info('order-1');
select stream, closed_at is null as open, truncated_before, last_version from outbox.stream order by stream;
select action, object, reason from outbox.audit where action in ('close_stream', 'truncate_stream') order by id;

-- refusals
select outbox.append(null, 'a', '1');
select outbox.append('', 'a', '1');
select outbox.append('-1', 'a', '1');
select outbox.append(E'a\nb', 'a', '1');
select outbox.append(repeat('x', 256), 'a', '1');
select outbox.append('a-1', null, '1');
select outbox.append('a-1', 'a b', '1');
select outbox.append('a-1', 'outbox.control', '1');
select outbox.append('a-1', 'a', null);
select outbox.append('a-1', 'a', '1', -3);
select outbox.append('a-1', 'a', '1', null);
select outbox.append('a-1', 'a', '1', metadata => '[]');
select outbox.append('a-1', 'a', to_jsonb(repeat('x', 300000)));
select outbox.append('a-1', 'a', '1', 1);
select outbox.append('a-1', 'a', '1', -2);
select outbox.append('order-1', 'a', '1', 0);
select outbox.append('order-1', 'a', '1', 2);
select outbox.append('order-2', 'a', '1');
select outbox.append_many('a-1', '{}', '{}');
select outbox.append_many('a-1', '{a,b}', array['1']::jsonb[]);
select outbox.append_many('a-1', '{a}', array['1']::jsonb[], event_ids => '{}');
select outbox.append_many('a-1', '{{a},{b}}', array['1', '2']::jsonb[]);
select outbox.enqueue_many('a.b', array[['1'], ['2']]::jsonb[]);
select outbox.append_many('a-1', array['a', null], array['1', '2']::jsonb[]);
select outbox.append_many('a-1', array_fill('a'::text, array[10001]), array_fill('1'::jsonb, array[10001]));
select outbox.append_bytes('a-1', '{a}', array['x']::bytea[], 'nonsense');
begin read only;
select outbox.append('a-1', 'a', '1');
rollback;
select outbox.stream_version('a-1') as nothing_was_written;
select outbox.load(null);
select outbox.load('a-1', max_events => 0);
select outbox.load('');
select outbox.load('nobody-1');
select outbox.streams(max_streams => 0);
select outbox.stream_info('a-1');
select outbox.read_events(-1);
select outbox.read_events(4711);
select outbox.read_events(0, 10001);
select outbox.read_events(0, member => 1);
select outbox.read_events(0, member => 3, members => 3);
select outbox.read_events(0, categories => '{}');
select outbox.read_events(0, categories => '{{file,order}}');
select outbox.read_events(0, categories => '{""}');
select outbox.read_events(0, categories => '{order-1}');
select outbox.read(0, source => 'everything');
select outbox.close_stream('order-2', 'again');
select outbox.close_stream('order-1');
select outbox.close_stream('no-1', 'x');
select outbox.truncate_stream('order-1', 9, 'x');
delete from outbox._message_event;

-- capabilities
create role events_writer;
create role events_reader;
select outbox.grant_to('events_writer', 'publish', topics => '{order.#}');
select outbox.grant_to('events_reader', 'consume');
set role events_writer;
select outbox.append('order-3', 'order.placed', '1') as version;
select outbox.append('order-3', 'user.added', '1') as version;
select outbox.load('order-3');
set role events_reader;
select stream, version from outbox.load('order-3');
select count(*) from outbox.read_events(0);
select outbox.append('order-3', 'order.placed', '1') as version;
reset role;
select outbox.revoke_from('events_writer', 'publish'), outbox.revoke_from('events_reader', 'consume');
drop role events_writer;
drop role events_reader;
-- Closed by a session that fires no ordinary triggers, as a restore is.
select outbox.append('replica-1', 'order.placed', '{}');
set session_replication_role = replica;
insert into outbox.stream (stream, closed_at) values ('replica-1', now());
reset session_replication_role;
select outbox.append('replica-1', 'order.placed', '{}');
-- Backends forget their copies for every kind of session.
select tgrelid::regclass as of_table from pg_trigger where tgname ~ '_changed$' and not tgisinternal and tgenabled <> 'A';
-- A row without an event passes the messages behind the last event, so that a reader of events has no lag.
select outbox.tick() > 0 as ticked;
select max("position") as last from outbox.read_events(0, 10000) where message_id is not null \gset
select count(outbox.enqueue('plain', '{}')) from generate_series(1, 3);
select outbox.tick() > 0 as ticked;
select "position" = outbox.head() as at_the_end, message_id, stream from outbox.read_events(:last);
select "position" = outbox.head() as at_the_end, message_id, topic from outbox.read(:last, source => 'events');
select count(*) from outbox.read_events(outbox.head());
select count(*) from outbox.read(outbox.head(), source => 'events');
-- Neither events nor messages can be written in a parallel query.
create function app_append(i int) returns bigint language sql volatile parallel safe as $$ select outbox.append('p-' || i, 'a.b', '{}') $$;
create function app_enqueue(i int) returns bigint language sql volatile parallel safe as $$ select outbox.enqueue('a.b', '{}') $$;
create table many as select i from generate_series(1, 1000) i;
alter table many set (parallel_workers = 2);
set parallel_setup_cost = 0;
set parallel_tuple_cost = 0;
set min_parallel_table_scan_size = 0;
select count(app_append(i)) from many;
select count(app_enqueue(i)) from many;
reset all;
