-- The refusals of a tick, and the rows that it writes.
create extension pg_outbox;
\pset null '(null)'
select status, first_position, last_position, more from outbox_internal.tick_inline(10);
select outbox.enqueue('a.b', to_jsonb(n)) from generate_series(1, 5) n;
select status, first_position, last_position, more from outbox_internal.tick_inline(10);
select status, first_position, last_position, more from outbox_internal.tick_inline(10);

-- Chunks.
select count(outbox.enqueue('a.b', to_jsonb(n))) from generate_series(6, 12) n;
select status, first_position, last_position, more from outbox_internal.tick_inline(3);
select status, first_position, last_position, more from outbox_internal.tick_inline(3);
select count(outbox.enqueue('a.b', to_jsonb(n))) from generate_series(13, 14) n;
select status, first_position, last_position, more from outbox_internal.tick_inline(3);
select status, first_position, last_position, more from outbox_internal.tick_inline(3);
select f.first_position, f.last_position, f.message_ids from outbox.feed f order by 1;

-- A tick is refused after a write, at another isolation level, and in a prepared transaction.
begin;
select outbox.enqueue('a.b', '{}');
select status from outbox_internal.tick_inline(10);
rollback;
begin isolation level repeatable read;
select status from outbox_internal.tick_inline(10);
rollback;
begin isolation level serializable;
select status from outbox_internal.tick_inline(10);
rollback;
begin;
select status from outbox_internal.tick_inline(10);
select outbox.enqueue('a.b', '"after a tick"');
prepare transaction 'ticked';
rollback;
begin;
select status from outbox_internal.tick_inline(10);
select outbox.enqueue('a.b', '"after a tick"');
commit;
select status, last_position from outbox_internal.tick_inline(10);

-- A row of the feed holds up to 960 positions.
select count(outbox.enqueue('a.b', '{}')) from generate_series(1, 2000);
select status, first_position, last_position, more from outbox_internal.tick_inline(5000);
select f.first_position, f.last_position from outbox.feed f where f.first_position > 14 order by 1;

-- The outbox of another database refuses to tick.
update outbox._identity set database = 1;
select status from outbox_internal.tick_inline(10);
