-- Rotation, reclaiming, and the causes that retain messages. There is no dispatcher, so the script takes every step.
create extension pg_outbox;
set pg_outbox.retention_interval = '1s';
create function pg_temp.segments() returns table (leaf smallint, open boolean, last_position bigint, reclaimed boolean, kept bigint)
language sql as $$
    select s.leaf, s.closed_at is null, s.last_position, s.reclaimed_at is not null, s.kept
    from outbox.segment s where s.ring = 'message' order by s.leaf
$$;
-- Writes a checkpoint as a dispatcher would: everything is routed, and subscription 1 stands at `lag`.
create procedure pg_temp.routed(lag bigint default null) language sql as $$
    insert into outbox.checkpoint (segment, id, incarnation, position, written_at, lag_subscriptions, lag_positions,
        open_subscriptions, open_positions)
    select outbox_internal.current_leaf('checkpoint'), coalesce(max(c.id), 0) + 1, 1, outbox.head(), clock_timestamp(),
        array_remove(array[case when lag is not null then 1 end], null), array_remove(array[lag], null), '{}', '{}'
    from outbox.checkpoint c
$$;
create procedure pg_temp.produce(first int, last int) language sql as $$
    select count(outbox.enqueue('order.created', jsonb_build_object('n', n))) from generate_series(first, last) n
$$;
-- Makes the closed segments older.
create procedure pg_temp.age() language sql as $$
    update outbox.segment set closed_at = closed_at - interval '2 d' where closed_at > now() - interval '1 d'
$$;
create view pg_temp.messages as
    select job, result, regexp_replace(held_by, '\d+$', 'N') as held_by from outbox.maintain() where job = 'message';

-- Rotation never leaves an empty leaf.
select outbox.rotate();
select outbox.rotate('nothing');
call pg_temp.produce(1, 5);
select outbox.tick();
select outbox.rotate();
call pg_temp.produce(6, 6);
select distinct tableoid::regclass from outbox.message order by 1;
-- A segment is not reclaimed before the sequencer has passed it ...
set pg_outbox.message_retention = '1d';
call pg_temp.age();
select job, result, held_by from outbox_internal.maintain(true) where job = 'message';
-- ... nor before its retention has passed. Zero and negative values retain it for ever.
select outbox.tick();
select outbox.tick();
set pg_outbox.message_retention = '7d';
select * from pg_temp.messages;
set pg_outbox.message_retention = 0;
select * from pg_temp.messages;
set pg_outbox.message_retention = -1;
select * from pg_temp.messages;
select * from pg_temp.segments();
select outbox.tail(), array_agg(position) from outbox.read(0);
set pg_outbox.message_retention = '1d';
select * from pg_temp.messages;
select * from pg_temp.segments();
select outbox.tail(), outbox.head();
select array_agg(position) from outbox.read(0);
select outbox.read(2);
select array_agg(position) from outbox.read(5);
-- The feed still has the ids of the reclaimed positions.
select first_position, last_position, message_ids from outbox.feed order by 1;

-- A subscription retains messages that it has not received, whether or not a dispatcher ever ran.
set pg_outbox.message_retention = '7d';
select outbox.create_endpoint('e', 'https://example.com') is not null;
select outbox.subscribe('s', '{#}', 'e') is not null;
call pg_temp.produce(10, 14);
select outbox.rotate();
select outbox.tick();
select outbox.tick();
call pg_temp.age();
set pg_outbox.message_retention = '1d';
select * from pg_temp.messages;
-- Everything is routed. One delivery waits, and one is dead.
call pg_temp.routed();
insert into outbox.delivery (subscription_id, position, message_id, message_segment, state, due_at)
select 1, r.position, r.message_id, m.segment, 'failed', 'infinity'
from outbox.read(outbox.tail() - 1) r join outbox.message m on m.id = r.message_id where r.payload->>'n' = '10';
insert into outbox.dead_letter (subscription_id, position, message_id, message_segment, attempt, reason, created_at)
select 1, r.position, r.message_id, m.segment, 1, 'status', clock_timestamp()
from outbox.read(outbox.tail() - 1) r join outbox.message m on m.id = r.message_id where r.payload->>'n' = '11';
select * from pg_temp.messages;
select * from pg_temp.segments();
select tableoid::regclass, segment, payload from outbox.message order by id;
select d.message_segment, m.payload
from (select message_segment, message_id from outbox.delivery union all select message_segment, message_id from outbox.dead_letter) d
join outbox.message m on m.segment = d.message_segment and m.id = d.message_id;
select h.what from outbox.message m, outbox.history(m.id) h where m.payload->>'n' = '10' and h.what in ('enqueued', 'numbered');
-- Messages that were set aside are removed when no delivery refers to them. No other statement removes rows.
delete from outbox.message where segment >= 0;
update outbox.message set payload = '{}';
delete from outbox.delivery;
update outbox.dead_letter set resolution = 'resolved', resolved_at = clock_timestamp() - interval '91 d';
select job, result, rows from outbox.maintain() where rows > 0;
select count(*) from outbox.message;

-- A subscription that lags retains its messages, unless it has a max_lag.
set pg_outbox.message_retention = '7d';
call pg_temp.produce(20, 24);
select outbox.rotate();
select outbox.tick();
select outbox.tick();
call pg_temp.routed(outbox.head() - 4);
call pg_temp.age();
set pg_outbox.message_retention = '1d';
select * from pg_temp.messages;
update outbox.subscription set max_lag = '1 d';
select * from pg_temp.messages;
select outcome, error_class, error, results from outbox.attempt;
-- A cursor retains messages if pg_outbox.retain_for_cursors is on.
set pg_outbox.message_retention = '7d';
call pg_temp.produce(30, 30);
select outbox.rotate();
select outbox.tick();
select outbox.tick();
call pg_temp.routed();
select advanced from outbox.cursor_advance('slow', outbox.head() - 1);
call pg_temp.age();
set pg_outbox.message_retention = '1d';
set pg_outbox.retain_for_cursors = on;
select * from pg_temp.messages;
reset pg_outbox.retain_for_cursors;
-- purge() removes whole segments.
set pg_outbox.message_retention = '7d';
select rows, bytes > 0 as bytes from outbox.purge('completed', '30 d', dry_run => true);
select bytes > 0 as bytes from outbox.purge('completed', '1 d', dry_run => true);
select bytes > 0 as bytes from outbox.purge('completed', '1 d');
select rows, bytes from outbox.purge('completed', null);
select rows, bytes from outbox.purge('completed', '-1 s');
insert into outbox.dead_letter (subscription_id, position, message_id, message_segment, attempt, reason, created_at, dead_at)
values (1, 1, 1, 0, 1, 'status', now(), now() - interval '1 d');
select rows from outbox.purge('dead_letters', '1 h');
select rows from outbox.purge('dead_letters', '1 h', include_unresolved => true, dry_run => true);
select rows from outbox.purge('dead_letters', '1 h', include_unresolved => true);
-- A job of its own, or purge(), removes idempotency keys.
select count(outbox.enqueue('idem.a', '{}', idempotency_key => n::text)) from generate_series(1, 3) n;
update outbox._idempotency set remembered_at = remembered_at - interval '8 d' where content is not null and ctid <> '(0,1)';
select rows, bytes > 0 as bytes from outbox.purge('idempotency', '1 d', dry_run => true);
select rows, bytes from outbox.purge('idempotency', '0 s');
set pg_outbox.idempotency_window = 0;
select job, result, rows from outbox.maintain() where job = 'idempotency';
reset pg_outbox.idempotency_window;
select job, result, rows from outbox.maintain() where job = 'idempotency';
update outbox._idempotency set remembered_at = remembered_at - interval '2 d';
select rows, bytes > 0 as bytes from outbox.purge('idempotency', '1 d');
select count(*) from outbox._idempotency;
-- The archive consists of messages, attempts and routing.
select outbox.rotate();
select outbox.rotate('attempt');
select outbox.rotate('routing');
select outbox.rotate('feed');
select outbox.tick();
select outbox.tick();
call pg_temp.routed();
update outbox.segment set closed_at = closed_at - interval '2 d' where reclaimed_at is null;
select rows, bytes > 0 as bytes from outbox.purge('archive', '30 d', dry_run => true);
select p.rows = m.rows as as_said, p.rows > 0 as some, p.bytes = m.bytes as as_many_bytes
from (select * from outbox.purge('archive', '1 d', dry_run => true)) m, lateral (select * from outbox.purge('archive', '1 d') where m.rows >= 0) p;
select count(*) from outbox.message where segment >= 0;
select count(*) from outbox.attempt;
select outbox.purge('everything', '1 h');
-- Every job shows its next run and its last result.
select job, last_run_at is not null as ran, next_run_at > last_run_at as next, result is not null as said from outbox.job order by job;

-- In small rings the last row always stays.
set pg_outbox.tick_retention = '1s';
set pg_outbox.checkpoint_retention = '1s';
select pg_sleep(1.1);
select job, result from outbox.maintain() where job in ('tick', 'checkpoint');
call pg_temp.produce(40, 40);
select outbox.tick() > 0;
call pg_temp.routed();
select pg_sleep(1.1);
select job, result from outbox.maintain() where job in ('tick', 'checkpoint');
select count(*) > 0 from outbox.tick;
select position = outbox.head() from outbox.checkpoint;
-- Rotating with a message in each leaf stops where the next leaf still has rows.
set pg_outbox.message_retention = '7d';
do $$
begin
    for i in 1 .. 40 loop
        perform outbox.enqueue('ring.round', jsonb_build_object('i', i));
        -- the function itself refuses to be called in one
        perform outbox_private.rotate();
    end loop;
end
$$;
select count(distinct tableoid) from outbox.message where topic = 'ring.round';
select outbox.rotate();
select outbox.tick() > 0;
select array_agg((payload->>'i')::int) = array(select generate_series(1, 40)) as in_order
from outbox.read(outbox.tail() - 1, topics => '{ring.round}');
