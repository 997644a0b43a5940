-- enqueue and its siblings: stored values, and refused arguments.
create extension pg_outbox;
\pset null '(null)'

select outbox.enqueue('order.created', '{"order": 1}');
select outbox.enqueue(
    'order.created', '{"order": 2}', 'order-2',
    headers => '{"x-priority": "high"}', metadata => '{"correlation_id": "c-1"}', tenant => 'acme',
    aggregate_type => 'order', aggregate_id => '2', publisher => 'shop@1.2', max_attempts => 3,
    occurred_at => '2026-01-02 03:04:05+00'
);
select outbox.enqueue_bytes('log.line', '\x00ff', 'application/octet-stream', 'k');
select outbox.enqueue_bytes('log.line', convert_to('häh', 'UTF8'), 'text/plain; charset=utf-8');
select outbox.enqueue_many('order.created', array['{"n": 1}', '{"n": 2}', '"three"']::jsonb[], array['a', null, 'c']);
select outbox.enqueue_many('order.created', '{}'::jsonb[]);
select id, topic, key, payload, body, content_type, tenant, aggregate_type, aggregate_id, publisher, max_attempts,
    headers, metadata, occurred_at at time zone 'UTC' as occurred_at
from outbox.message order by id;

-- Messages share the fate of their transaction: rollback, savepoints, procedures, triggers, prepared transactions.
create table business (id int primary key);
begin;
insert into business values (1);
select outbox.enqueue('t.rolled_back', '1');
rollback;
begin;
select outbox.enqueue('t.outer', '1');
savepoint a;
select outbox.enqueue('t.inner_rolled_back', '1');
rollback to a;
select outbox.enqueue('t.inner_kept', '1');
release a;
commit;
create function announce() returns trigger language plpgsql as $$
begin
    perform outbox.enqueue('business.' || lower(tg_op), to_jsonb(new), new.id::text);
    return null;
end
$$;
create trigger announce after insert or update on business for each row execute function announce();
insert into business values (7), (8);
do $$ begin perform outbox.enqueue('t.do', '1'); end $$;
begin;
select outbox.enqueue('t.prepared', '1');
prepare transaction 'p1';
begin;
select outbox.enqueue('t.prepared_and_rolled_back', '1');
prepare transaction 'p2';
commit prepared 'p1';
rollback prepared 'p2';
prepare call(text) as select outbox.enqueue($1, '1') is not null;
execute call('t.statement');
select topic, key from outbox.message where id > 7 order by id;

-- The context of a transaction.
begin;
select outbox.set_context(correlation_id => 'c-9', user_id => 'u-1', tenant => 'acme', metadata => '{"shop": "eu"}');
select outbox.enqueue('ctx.shared', '1');
select outbox.enqueue('ctx.own', '1', metadata => '{"correlation_id": "mine"}', tenant => 'other');
commit;
select outbox.enqueue('ctx.none', '1');
set pg_outbox.publisher = 'billing@2';
select outbox.enqueue('ctx.publisher', '1');
reset pg_outbox.publisher;
select topic, tenant, publisher, metadata from outbox.message where topic like 'ctx.%' order by id;

-- Bad input.
select outbox.enqueue(null, '{}');
select outbox.enqueue('', '{}');
select outbox.enqueue('a..b', '{}');
select outbox.enqueue('a b', '{}');
select outbox.enqueue('outbox.mine', '{}');
select outbox.enqueue(repeat('x', 256), '{}');
select outbox.enqueue('a.b', null);
select outbox.enqueue('a.b', to_jsonb(repeat('x', 300000)));
select outbox.enqueue('a.b', '{}', repeat('k', 1025));
select outbox.enqueue('a.b', '{}', tenant => repeat('t', 256));
select outbox.enqueue('a.b', '{}', headers => '{"webhook-id": "x"}');
select outbox.enqueue('a.b', '{}', headers => '{"a b": "x"}');
select outbox.enqueue('a.b', '{}', headers => '{"a": "x\r\ny"}');
select outbox.enqueue('a.b', '{}', headers => '{"a": 1}');
select outbox.enqueue('a.b', '{}', metadata => '[]');
select outbox.enqueue('a.b', '{}', metadata => jsonb_build_object('x', repeat('y', 20000)));
select outbox.enqueue_bytes('a.b', null);
select outbox.enqueue_bytes('a.b', 'x', null);
select outbox.enqueue_bytes('a.b', 'x', 'plain');
select outbox.enqueue_many('a.b', null);
select outbox.enqueue_many('a.b', array['1', null]::jsonb[]);
select outbox.enqueue_many('a.b', array['1', '2']::jsonb[], array['a']);
select outbox.set_context(metadata => '[]');
set pg_outbox.context = 'nonsense';
select outbox.enqueue('a.b', '{}');
reset pg_outbox.context;
set pg_outbox.max_payload = '1kB';
select outbox.enqueue('a.b', to_jsonb(repeat('x', 1100)));
reset pg_outbox.max_payload;
begin read only;
select outbox.enqueue('a.b', '{}');
rollback;

-- Messages, feed and attempts are immutable, also for their owner.
update outbox.message set topic = 'x';
delete from outbox.message;
select status from outbox_internal.tick_inline(10);
update outbox.feed set first_position = 0;
delete from outbox.feed;

-- Meaningless values are refused, and not interpreted as something else.
select outbox.enqueue('a.b', '{}', max_attempts => 0);
select outbox.enqueue_many('a.b', '{1}', max_attempts => -1);
select count(*) from outbox.list_messages(state => 'nosuch');
select count(*) from outbox.list_messages(skip => -1);
select count(*) from outbox.archive_list(status => 'dead');
