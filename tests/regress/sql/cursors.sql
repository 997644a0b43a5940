-- Cursors move forward only, are reset with a reason, and know their lag behind the feed.
create extension pg_outbox;
select count(outbox.enqueue('order.created', '{}')) from generate_series(1, 10);
select status from outbox_internal.tick_inline(1000);
select outbox.cursor_get('billing');
select position, epoch, lag_positions, advanced from outbox.cursor_get('billing', if_missing => 0);
select count(*) from outbox.cursor;
-- Advancing creates the cursor.
select consumer, stream, subject, position, epoch, last_delivery_id, last_delivered_at is not null as at, lag_positions,
    lag_seconds > 0 as behind, advanced
from outbox.cursor_advance('  billing ', 3, delivery_id => 'd3');
select position, advanced from outbox.cursor_advance('billing', 3, delivery_id => 'd3');
select position, advanced from outbox.cursor_advance('billing', 3);
select outbox.cursor_advance('billing', 3, delivery_id => 'other');
select outbox.cursor_advance('billing', 2);
-- Compare and set.
select outbox.cursor_advance('billing', 5, expected_position => 2);
select position, advanced from outbox.cursor_advance('billing', 5, expected_position => 3, delivered_at => '2026-01-02 03:04:05+00');
select outbox.cursor_advance('billing', 5, expected_position => 3);
select last_delivered_at at time zone 'UTC' as at from outbox.cursor_get('billing');
select position, advanced from outbox.cursor_advance('new one', 1, expected_position => 0);
-- A cursor cannot pass the end of the feed. Other streams belong to the consumer, and have no end.
select outbox.cursor_advance('billing', 11);
select position, epoch, lag_positions, lag_seconds from outbox.cursor_advance('billing', 1000000, 'elsewhere');
select position, lag_positions, lag_seconds from outbox.cursor_advance('billing', 10);
-- Malformed arguments.
select outbox.cursor_get(' ');
select outbox.cursor_get('billing', '');
select outbox.cursor_get(repeat('x', 256));
select outbox.cursor_get(E'a\tb');
select outbox.cursor_advance('billing', 0);
select outbox.cursor_advance('billing', null);
select outbox.cursor_reset('billing', -1, 'why');
select outbox.cursor_reset('billing', 1, '  ');
select outbox.cursor_delete('billing', null);
select outbox.cursor_record_error('billing', ' ');
select outbox.cursor_record_error('billing', 'e', error_position => 0);
select outbox.cursor_record_error('billing', 'e', after_position => -1);
select outbox.cursor_record_error('nobody', 'e', after_position => 1000);
-- Recorded errors do not move a cursor. An advance clears them.
select position, length(last_error) from outbox.cursor_record_error('billing', '  ' || repeat('e', 3000));
select last_error, error_position, error_since < clock_timestamp() as since
from outbox.cursor_record_error('billing', 'no such customer', error_position => 11);
-- A message that another instance has handled is no reason to report the consumer.
select last_error, error_position from outbox.cursor_record_error('billing', 'already billed', error_position => 10);
select error_since = (select error_since from outbox.cursor_get('billing')) as of_the_first, last_error
from outbox.cursor_record_error('billing', 'no such customer, again');
select state, regexp_replace(culprit, ' since \S+ \S+:', ' since ...:') as culprit from outbox.health() where "check" = 'cursors';
select value >= 0 as stands from outbox.metrics() where name = 'outbox_cursor_error_seconds' and labels ->> 'consumer' = 'billing';
select position, last_error from outbox.cursor_record_error('failing', 'never got anywhere', subject => ' part-1 ');
-- A new cursor is created where its reader begins. One that there is stays where it is.
select position, error_position from outbox.cursor_record_error('late', 'e', error_position => 6, after_position => 5);
select position, error_position from outbox.cursor_record_error('late', 'e', error_position => 7, after_position => 6);
select outbox.cursor_delete('late', 'not needed below');
select position from outbox.cursor_reset('billing', 4, 'redo the invoices');
select position, last_error, error_position, error_since, advanced from outbox.cursor_advance('billing', 5);
select position from outbox.cursor_reset('billing', 0, 'from the start');
select outbox.cursor_reset('billing', 11, 'too far');
-- The context of a transaction names the person. A malformed one keeps no operator from an action.
begin;
select outbox.set_context(user_id => 'ann');
select position from outbox.cursor_reset('billing', 1, 'by ann');
commit;
set pg_outbox.context = '{"metadata": ';
select position from outbox.cursor_reset('billing', 0, 'by nobody');
reset pg_outbox.context;
select stream, subject, consumer, position, lag_positions from outbox.cursor_list();
select consumer from outbox.cursor_list(stream => 'outbox', max_rows => 2);
select stream from outbox.cursor_list('billing');
select outbox.cursor_delete('billing', 'moved away', 'elsewhere');
select outbox.cursor_delete('billing', 'moved away', 'elsewhere');
select actor = session_user as mine, action, object, reason, detail from outbox.audit order by id;
-- A reader of a rare topic confirms the marker, and has no lag.
select position, lag_positions from outbox.cursor_advance('rare', (select max(position) from outbox.read(0, topics => '{rare}')));
-- A cursor in a lost history.
insert into outbox.epoch (epoch, first_position, timeline) values (2, 8, 2);
select epoch, position from outbox.cursor_advance('billing', 9);
select epoch, position from outbox.cursor_advance('new one', 9, epoch => 1);
select epoch, position from outbox.cursor_advance('new one', 9, epoch => 2);
-- The capability consume is enough.
create role outbox_regress_consumer;
select outbox.grant_to('outbox_regress_consumer', 'consume');
set role outbox_regress_consumer;
select position, advanced from outbox.cursor_advance('mine', 1);
select array_agg(position) from outbox.read(8);
select count(*) from outbox.cursor;
reset role;
drop owned by outbox_regress_consumer;
drop role outbox_regress_consumer;
