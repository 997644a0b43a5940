-- The reports of relays. An error shows nothing of what the relay reported.
create extension pg_outbox;
select outbox.relay_heartbeat('kafka', 'relay', 'kafka broker:9092', 'host 1', 'running', 0, '10 s');
select relay, state, position, relayed, skipped, rate from outbox.relay_status;
select outbox.relay_heartbeat('kafka', 'relay', 'kafka broker:9092', 'host 1', 'running', null, '10 s', error => 'a secret');
select outbox.relay_heartbeat('kafka', 'relay', null, 'host 1', 'running', 1, '10 s', error => 'a secret');
select outbox.relay_heartbeat('kafka', 'relay', 'kafka broker:9092', 'host 1', 'running', -1, '10 s');
select outbox.relay_heartbeat('kafka', 'relay', 'kafka broker:9092', 'host 1', 'running', 1, '10 s', rate => 'NaN');
select outbox.relay_heartbeat('kafka', 'relay', 'kafka broker:9092', 'host 1', 'running', 1, '10 s', relayed => null);
select outbox.relay_heartbeat('kafka', 'relay', 'kafka broker:9092', 'host 1', null, 1, '10 s');
select outbox.relay_heartbeat('kafka', 'relay', 'kafka broker:9092', 'host 1', repeat('x', 200), 1, '10 s');
select outbox.relay_heartbeat('kafka', 'relay', 'kafka broker:9092', 'host 1', 'running', 1, '1 day');
select outbox.relay_record_refusal('kafka', 1, 'msg_1', null, 'too large');
