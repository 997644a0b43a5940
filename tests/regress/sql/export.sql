-- Export of the events that concern a person.
create extension pg_outbox;
select outbox.append('customer-1', 'customer.named', '{"n": 1}', metadata => '{"key_id": "k1", "user_id": "u1"}'),
    outbox.append('customer-2', 'customer.named', '{"n": 2}', metadata => '{"user_id": "u2"}'),
    outbox.append('order-1', 'order.placed', '{"n": 3}', tenant => 'acme', metadata => '{"user_id": "u1", "correlation_id": "c"}'),
    outbox.append('customer-1', 'customer.moved', '{"n": 4}', metadata => '{"user_id": "u1"}');
select outbox.tick();
select outbox.save_subject_key('customer-1', 'k1', '\x000102030405060708090a0b0c0d0e0f', 'master-1');
-- By streams, a page at a time.
select stream, version, type, data, position, redacted, next from outbox.export_subject('{customer-1,order-1}', max_events => 2);
select stream, version, type, next from outbox.export_subject('{customer-1,order-1}', max_events => 2, after => '{"stream": "customer-1", "version": 2}');
select count(*) from outbox.export_subject('{customer-1,order-1}', after => '{"stream": "order-1", "version": 1}');
-- By filters, which hold together.
select stream, version, position from outbox.export_subject(user_id => 'u1') where message_id is not null;
select stream, version from outbox.export_subject(user_id => 'u1', types => '{customer.*}') where message_id is not null;
select stream, version from outbox.export_subject(stream_prefix => 'customer-', metadata => '{"user_id": "u2"}') where message_id is not null;
select stream, version from outbox.export_subject(tenant => 'acme') where message_id is not null;
select stream, version from outbox.export_subject('{customer-1}', types => '{customer.moved}');
select count(*) from outbox.export_subject('{customer-1}', to_time => now() - interval '1 hour');
select count(*) from outbox.export_subject('{customer-1}', from_time => now() - interval '1 hour', to_time => now() + interval '1 hour');
-- A page whose last event does not pass says how far it has come.
select stream, position, message_id is null as marker, next from outbox.export_subject(user_id => 'u1', max_events => 2);
select stream, position from outbox.export_subject(user_id => 'u1', max_events => 2, after => '{"position": 2}');
-- By prefix, in the order of the streams, a page at a time; by time alone.
select stream, version, type, position, next from outbox.export_subject(stream_prefix => 'customer-', max_events => 2);
select stream, version from outbox.export_subject(stream_prefix => 'customer-', max_events => 2,
    after => '{"stream": "customer-1", "version": 2}');
select stream, version, message_id is null as marker, next from outbox.export_subject(stream_prefix => 'customer-', types => '{*.named}', max_events => 2);
select count(*) from outbox.export_subject(stream_prefix => 'customer-', after => '{"stream": "customer-2", "version": 1}');
select count(*) filter (where message_id is not null) from outbox.export_subject(from_time => now() - interval '1 hour');
-- Erased events, and those whose key was revoked. The snapshots of the stream go with an erased event.
select outbox.save_snapshot('order-1', 1, '{"n": 3}'), outbox.save_snapshot('customer-1', 2, '{"n": 4}');
select outbox.erase((select message_id from outbox.load('order-1')), 'dpo', 'request');
select stream from outbox.snapshot;
select outbox.revoke_subject_keys('customer-1', 'dpo', 'request');
select stream, version, data, redacted from outbox.export_subject('{customer-1,order-1}');
select count(*) as events, count(*) filter (where redacted) as redacted, count(distinct stream) as streams
from outbox.export_subject('{customer-1,order-1}');
-- Arguments that are refused.
select outbox.export_subject();
select outbox.export_subject('{}');
select outbox.export_subject('{""}');
select outbox.export_subject('{customer-1}', user_id => 'u1', metadata => '[]');
select outbox.export_subject('{{customer-1,customer-2}}');
select outbox.export_subject(user_id => 'u1', after => '{"position": "seven"}');
select outbox.export_subject(user_id => 'u1', after => '"position"');
select outbox.export_subject('{customer-1}', after => '{"position": 1}');
select outbox.export_subject(user_id => 'u1', after => '{"stream": "a", "version": 1}');
select outbox.export_subject(user_id => 'u1', max_events => 0);
