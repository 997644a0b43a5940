-- Idempotent enqueue: one message for each key.
create extension pg_outbox;
create role outbox_regress_once;
select outbox.grant_to('outbox_regress_once', 'publish');
set role outbox_regress_once;
select outbox.enqueue('a.b', '{"n": 1}', idempotency_key => 'k') as first;
-- The same content with other spaces.
select outbox.enqueue('a.b', '{"n":   1}', idempotency_key => 'k') as again;
-- Another content, another ordering key, another kind of content.
select outbox.enqueue('a.b', '{"n": 2}', idempotency_key => 'k');
select outbox.enqueue('a.b', '{"n": 1}', 'key', idempotency_key => 'k');
select outbox.enqueue_bytes('a.b', '{"n": 1}', 'application/json', idempotency_key => 'k');
-- Another tenant, another topic, another idempotency key.
select count(distinct id) from (
    values (outbox.enqueue('a.b', '{"n": 2}', idempotency_key => 'k', tenant => 't')),
        (outbox.enqueue('a.c', '{"n": 2}', idempotency_key => 'k')),
        (outbox.enqueue('a.b', '{"n": 2}', idempotency_key => 'k2'))
) v(id);
-- A batch counts as one message.
select outbox.enqueue_many('a.b', array['{"n": 1}', '{"n": 2}']::jsonb[], idempotency_key => 'many')
    = outbox.enqueue_many('a.b', array['{"n": 1}', '{"n": 2}']::jsonb[], idempotency_key => 'many') as same;
select outbox.enqueue_many('a.b', array['{"n": 1}']::jsonb[], idempotency_key => 'many');
-- A key that was rolled back is not remembered.
begin;
savepoint s;
select outbox.enqueue('a.b', '{"n": 3}', idempotency_key => 'rolled back') is not null as enqueued;
rollback to s;
select outbox.enqueue('a.b', '{"n": 4}', idempotency_key => 'rolled back') is not null as enqueued;
commit;
select count(*) from outbox._idempotency;
select outbox_internal.remember('', '', '{}', 1);
reset role;
select count(*) as messages, count(idempotency_key) as with_key from outbox.message where topic like 'a.%';
-- Keys are remembered for a set time. Later calls remove expired keys.
set pg_outbox.idempotency_window = '1s';
update outbox._idempotency set remembered_at = now() - interval '1 hour';
select count(*) from outbox._idempotency;
select outbox.enqueue('a.b', '{"n": 5}', idempotency_key => 'k') is not null as enqueued_anew;
select outbox.enqueue('a.b', '{"n": 6}', idempotency_key => 'other') is not null as enqueued;
select count(*) < 6 as fewer from outbox._idempotency;
drop owned by outbox_regress_once;
drop role outbox_regress_once;
