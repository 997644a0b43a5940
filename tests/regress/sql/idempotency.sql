-- Idempotent enqueue: one key, one message.
create extension pg_outbox;
create role outbox_regress_once;
select outbox.grant_to('outbox_regress_once', 'publish');
set role outbox_regress_once;
select outbox.enqueue('a.b', '{"n": 1}', idempotency_key => 'k') as first;
-- the same again, in another order of keys of the JSON
select outbox.enqueue('a.b', '{"n":   1}', idempotency_key => 'k') as again;
-- another content, ordering key, kind
select outbox.enqueue('a.b', '{"n": 2}', idempotency_key => 'k');
select outbox.enqueue('a.b', '{"n": 1}', 'key', idempotency_key => 'k');
select outbox.enqueue_bytes('a.b', '{"n": 1}', 'application/json', idempotency_key => 'k');
-- another tenant, topic, key
select count(distinct id) from (
    values (outbox.enqueue('a.b', '{"n": 2}', idempotency_key => 'k', tenant => 't')),
        (outbox.enqueue('a.c', '{"n": 2}', idempotency_key => 'k')),
        (outbox.enqueue('a.b', '{"n": 2}', idempotency_key => 'k2'))
) v(id);
-- a batch is one
select outbox.enqueue_many('a.b', array['{"n": 1}', '{"n": 2}']::jsonb[], idempotency_key => 'many')
    = outbox.enqueue_many('a.b', array['{"n": 1}', '{"n": 2}']::jsonb[], idempotency_key => 'many') as same;
select outbox.enqueue_many('a.b', array['{"n": 1}']::jsonb[], idempotency_key => 'many');
-- what is rolled back is not remembered
begin;
savepoint s;
select outbox.enqueue('a.b', '{"n": 3}', idempotency_key => 'rolled back') is not null as enqueued;
rollback to s;
select outbox.enqueue('a.b', '{"n": 4}', idempotency_key => 'rolled back') is not null as enqueued;
commit;
select count(*) from outbox._idempotency;
select outbox._remember('', '', '{}', 1);
reset role;
select count(*) as messages, count(idempotency_key) as with_key from outbox.message where topic like 'a.%';
-- remembered for a set time; what is forgotten goes by the way
set pg_outbox.idempotency_window = '1s';
update outbox._idempotency set remembered_at = now() - interval '1 hour';
select count(*) from outbox._idempotency;
select outbox.enqueue('a.b', '{"n": 5}', idempotency_key => 'k') is not null as enqueued_anew;
select outbox.enqueue('a.b', '{"n": 6}', idempotency_key => 'other') is not null as enqueued;
select count(*) < 6 as fewer from outbox._idempotency;
drop owned by outbox_regress_once;
drop role outbox_regress_once;
