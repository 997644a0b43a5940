-- Commands, snapshots and sagas: results, errors and rights.
create extension pg_outbox;
create role outbox_regress_app;
select outbox.grant_to('outbox_regress_app', 'publish');
select outbox.grant_to('outbox_regress_app', 'consume');
set role outbox_regress_app;

-- A command is processed once, and its result is stored with it.
begin;
select outbox.command_begin('pay-1', 'Pay') is null as new;
select outbox.command_begin('pay-1', 'Pay');
rollback;
begin;
select outbox.command_begin('pay-1', 'Pay', content => '{"amount": 7}') is null as new_after_rollback;
select outbox.command_end('pay-1', '{"payment": 12}');
commit;
select c ->> 'success' as success, c -> 'result' as result, c -> 'error' as error,
    (c ->> 'expires_at')::timestamptz - (c ->> 'processed_at')::timestamptz < '24 h' as for_a_day
from outbox.command_begin('pay-1', 'Pay') c;
-- Other spaces in the content do not matter; other content does, and so does another type.
select outbox.command_begin('pay-1', 'Pay', content => '{"amount":7}') -> 'result' as result;
select outbox.command_begin('pay-1', 'Pay', content => '{"amount": 8}');
select outbox.command_begin('pay-1', 'Refund');
-- A final failure is stored too.
begin;
select outbox.command_begin('pay-2', 'Pay') is null as new;
savepoint work;
rollback to work;
select outbox.command_end('pay-2', error => '{"code": "card_declined"}');
commit;
select c ->> 'success' as success, c -> 'error' as error from outbox.command_begin('pay-2', 'Pay') c;
-- A transaction without command_end() has processed the command.
select outbox.command_begin('pay-3', 'Pay', ttl => null) is null as new;
select c ->> 'success' as success, c -> 'result' as result, c -> 'expires_at' as expires_at
from outbox.command_begin('pay-3', 'Pay') c;
select outbox.command_end('pay-3', '1');
select outbox.command_end('unknown', '1');
select outbox.command_forget('pay-3'), outbox.command_forget('pay-3');
select outbox.command_begin(null, 'Pay');
select outbox.command_begin('', 'Pay');
select outbox.command_begin('k', ' Pay');
select outbox.command_begin('k', 'Pay', ttl => '0 s');
begin;
select outbox.command_begin('k', 'Pay') is null as new;
select outbox.command_end('k', to_jsonb(repeat('x', 300000)));
rollback;
begin read only;
select outbox.command_begin('k', 'Pay');
rollback;
-- An expired key is new, and maintenance removes it.
select outbox.command_begin('pay-4', 'Pay', ttl => '1 microsecond') is null as new;
select outbox.command_begin('pay-4', 'Refund', ttl => '1 microsecond') is null as new_after_expiry;
reset role;
select outbox.enqueue('a.b', '{}') > 0 as enqueued;
select outbox.tick() > 0 as ticked;
select job, result, rows from outbox.maintain() where job = 'commands';
select key, command_type from outbox.command order by key;
select outbox.append_many('Order-1', array_fill('order.changed'::text, '{6}'), array_fill('{}'::jsonb, '{6}')) is not null as appended;
set role outbox_regress_app;

-- The newest snapshot of a stream and schema version is kept.
select outbox.save_snapshot('Order-1', 5, '{"total": 5}'), outbox.save_snapshot('Order-1', 4, '{"total": 4}'),
    outbox.save_snapshot('Order-1', 6, '{"total": 6}'), outbox.save_snapshot('Order-1', 3, body => '\x00ff', schema_version => 2);
select stream, schema_version, version, state, body, content_type from outbox.load_snapshot('Order-1');
select schema_version, version, body, content_type from outbox.load_snapshot('Order-1', 2);
select count(*) from outbox.load_snapshot('Order-1', 3);
select outbox.delete_snapshots('Order-1', 2), outbox.delete_snapshots('Order-1'), outbox.delete_snapshots('Order-1');
select outbox.save_snapshot('Order-1', 0, '{}');
select outbox.save_snapshot('Order-1', 7, '{}');
select outbox.save_snapshot('-x', 1, '{}');
select outbox.save_snapshot('Order-1', 1);
select outbox.save_snapshot('Order-1', 1, '{}', body => 'x');
select outbox.save_snapshot('Order-1', 1, '{}', content_type => 'text/plain');
select outbox.save_snapshot('Order-1', 1, '{}', schema_version => 0);
select outbox.save_snapshot(null, 1, '{}');
select outbox.save_snapshot('Order-1', 1, to_jsonb(repeat('x', 300000)));

-- A saga goes through its steps, and handles an event once.
select outbox.saga_handle('shipping', 's1', -5);
select outbox.saga_save('shipping', 's1', '{"order": 1}', 0, steps =>
    '[{"name": "reserve", "status": "pending"}, {"name": "ship", "status": "pending", "command": "Ship"}]', correlation_id => 'order-1');
select outbox.saga_handle('shipping', 's1', 101), outbox.saga_handle('shipping', 's1', 101), outbox.saga_handle('shipping', 's1', 102);
select outbox.saga_save('shipping', 's1', '{"order": 1, "reserved": true}', 1, step => 1);
select saga_id, correlation_id, status, step, steps -> 1 ->> 'name' as step_name, state, version, completed_at is null as open
from outbox.saga_load('shipping', 's1');
select saga_id, status from outbox.saga_find('shipping', 'order-1');
select count(*) from outbox.saga_find('shipping', 'order-2');
-- Compare and set.
select outbox.saga_save('shipping', 's1', '{}', 1);
select outbox.saga_save('shipping', 's1', '{}', 0);
select outbox.saga_save('shipping', 's9', '{}', 3);
select outbox.saga_load('shipping', 's9');
select outbox.saga_handle('shipping', 's9', 1);
-- One saga that has not ended per correlation id.
select outbox.saga_save('shipping', 's2', '{}', 0, correlation_id => 'order-1');
select outbox.saga_save('shipping', 's2', '{}', 0);
select outbox.saga_save('shipping', 's2', '{}', 1, correlation_id => 'order-1');
-- Failure and compensation.
select outbox.saga_save('shipping', 's1', '{}', 2, 'failed', failure_reason => 'no carrier');
select outbox.saga_save('shipping', 's1', '{}', 3, 'completed');
select outbox.saga_save('shipping', 's1', '{}', 3, 'compensating', step => 0);
select outbox.saga_save('shipping', 's1', '{}', 4, 'compensated',
    steps => '[{"name": "reserve", "status": "compensated"}, {"name": "ship", "status": "failed", "error": "no carrier"}]');
select outbox.saga_save('shipping', 's1', '{}', 5);
-- The correlation id of a saga that has ended is free.
select outbox.saga_save('shipping', 's2', '{}', 1, correlation_id => 'order-1');
select saga_id from outbox.saga_find('shipping', 'order-1');
reset role;
select saga_id, correlation_id, status, step, steps, step_name, failure_reason, version, completed_at is not null as ended
from outbox.sagas order by saga_id;
set role outbox_regress_app;
select outbox.saga_save('shipping', 's3', '{}', 0, 'compensated');
select outbox.saga_save('shipping', 's3', '{}', 0, 'done');
select outbox.saga_save('shipping', 's3', null, 0);
select outbox.saga_save('shipping', 's3', '{}', -1);
select outbox.saga_save('shipping', 's3', '{}', 0, step => -1);
select outbox.saga_save('shipping', 's3', '{}', 0, steps => '{}');
select outbox.saga_save('shipping', 's3', '{}', 0, steps => '[{"name": "a", "status": "done"}]');
select outbox.saga_save('shipping', '', '{}', 0);
select outbox.saga_save('shipping', 's3', '{}', 0, correlation_id => '');
select outbox.saga_handle('shipping', 's2', null);
select outbox.saga_delete('shipping', 's1'), outbox.saga_delete('shipping', 's1');
reset role;
select saga_id, message_id from outbox._saga_event;
select action, object, detail from outbox.audit where action = 'saga_delete';
-- Rights: none of these without the capability.
create role outbox_regress_none;
set role outbox_regress_none;
select outbox.command_begin('k', 'Pay');
reset role;
drop owned by outbox_regress_app;
drop role outbox_regress_app, outbox_regress_none;
