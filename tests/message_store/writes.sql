-- Writing: positions from 0, expected versions, ids that are written once, transactions.
select stream_version('invoice-1');
select write_message('10000000-0000-4000-8000-000000000001', 'invoice-1', 'Opened', '{"total": 1.50, "lines": []}', '{"by": "ann"}');
select write_message('10000000-0000-4000-8000-000000000002'::varchar, 'invoice-1'::varchar, 'Paid'::varchar, '{}'::jsonb);
select stream_version('invoice-1');

-- expected versions
select write_message('10000000-0000-4000-8000-000000000003', 'invoice-1', 'Sent', '{}', null, 1);
select write_message('10000000-0000-4000-8000-000000000004', 'invoice-1', 'Sent', '{}', null, 1);
select write_message('10000000-0000-4000-8000-000000000004', 'invoice-1', 'Sent', '{}', null, 9);
select write_message('10000000-0000-4000-8000-000000000004', 'invoice-1', 'Sent', '{}', null, -1);
select write_message('10000000-0000-4000-8000-000000000004', 'invoice-1', 'Sent', '{}', null, -7);
select write_message('10000000-0000-4000-8000-000000000005', 'invoice-2', 'Opened', '{}', expected_version => 0);
select write_message('10000000-0000-4000-8000-000000000005', 'invoice-2', 'Opened', '{}', expected_version => -1);
-- The same message again is not a success.
select write_message('10000000-0000-4000-8000-000000000005', 'invoice-2', 'Opened', '{}', expected_version => -1);

-- An id is written once, whatever the stream.
select write_message('10000000-0000-4000-8000-000000000005', 'invoice-2', 'Opened', '{}');
select write_message('10000000-0000-4000-8000-000000000005', 'invoice-3', 'Opened', '{}');
select stream_version('invoice-3');
select write_message('no uuid', 'invoice-3', 'Opened', '{}');
select write_message('10000000-0000-4000-8000-000000000006', 'invoice-3', 'Opened', 'no json');

-- no data, no metadata, a category as the stream
select write_message('10000000-0000-4000-8000-000000000007', 'invoice-4', 'Opened', null, null);
select write_message('10000000-0000-4000-8000-000000000008', 'invoice', 'Counted', '[1, "two", null]', '{}');
select id, stream_name, type, position, data, metadata from get_stream_messages('invoice-4');
select id, stream_name, type, position, data, metadata from get_last_stream_message('invoice');

-- transactions
begin;
select write_message('10000000-0000-4000-8000-000000000011', 'invoice-5', 'Opened', '{}');
select write_message('10000000-0000-4000-8000-000000000012', 'invoice-5', 'Paid', '{}', null, 0);
select stream_version('invoice-5');
select type, position from get_stream_messages('invoice-5');
savepoint a;
select write_message('10000000-0000-4000-8000-000000000013', 'invoice-5', 'Sent', '{}');
rollback to a;
select write_message('10000000-0000-4000-8000-000000000013', 'invoice-5', 'Voided', '{}', null, 1);
select acquire_lock('invoice-5') = hash_64('invoice'), acquire_lock(null) is null;
commit;
select type, position from get_stream_messages('invoice-5');
begin;
select write_message('10000000-0000-4000-8000-000000000014', 'invoice-5', 'Sent', '{}');
rollback;
select stream_version('invoice-5');
select stream_name, type, position, data, metadata, id from messages order by stream_name, position;
select count(*) from messages where time between (now() at time zone 'utc') - interval '1 hour' and (now() at time zone 'utc') + interval '1 s';
