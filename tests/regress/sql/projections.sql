-- Projections: pages, faults, rebuilds, and inline ones.
create extension pg_outbox;
create role outbox_regress_owner;
create role outbox_regress_worker;
select outbox.grant_to('outbox_regress_worker', 'consume'), outbox.grant_to('outbox_regress_owner', 'consume');
create schema app;
grant usage, create on schema app to outbox_regress_owner;
set role outbox_regress_owner;
create table app.seen (handler text, stream text, version bigint, ran_as text, place bigint);
create function app.see(events outbox.event[]) returns void language sql
as $$ insert into app.seen select 'see', e.stream, e.version, current_user, e.position from unnest(events) e $$;
reset role;
-- A page of events in the order of the feed.
select outbox.append('order-1', 'order.placed', '{"n": 1}'), outbox.append('order-2', 'order.placed', '{"n": 2}'),
    outbox.append('customer-1', 'customer.named', '{"n": 3}'), outbox.append('order-1', 'order.paid', '{"n": 4}');
select outbox.tick();
select outbox.create_projection('orders', 'app.see(outbox.event[])', categories => '{order}');
select name, version, kind, state, position, lag_positions, percent from outbox.projections;
set role outbox_regress_worker;
select outbox.run_projection('orders', 2), outbox.run_projection('orders', 2), outbox.run_projection('orders', 2);
reset role;
select state, position, lag_positions, lag_seconds, percent from outbox.projections;
select stream, version, ran_as, place from app.seen;
-- Names, handlers and pages that are refused.
select outbox.create_projection('orders', 'app.see(outbox.event[])');
select outbox.create_projection('', 'app.see(outbox.event[])');
select outbox.create_projection('p', 'app.see(outbox.event[])', 'live');
select outbox.create_projection('p', 'app.missing(outbox.event[])');
select outbox.create_projection('p', 'pg_catalog.upper(text)');
select outbox.create_projection('p', 'app.see(outbox.event[])', categories => '{}');
select outbox.create_projection('p', 'app.see(outbox.event[])', types => '{a..b}');
-- With these lists of types, every append to the categories of an inline projection would fail.
select outbox.create_projection('p', 'app.see(outbox.event[])', 'inline', types => '{}');
select outbox.create_projection('p', 'app.see(outbox.event[])', 'inline', types => '{order.placed,null}');
select name from outbox.projections;
select outbox.run_projection('missing');
select outbox.run_projection('orders', 0);
select outbox.run_projection('orders', version => 7);
begin read only;
select outbox.run_projection('orders');
rollback;
-- An event that fails: those before it are applied, and the projection names it.
set role outbox_regress_owner;
create function app.faulty(events outbox.event[]) returns void language plpgsql as $$
begin
    if exists (select from unnest(events) e where (e.data ->> 'n')::int = 7) then
        raise exception 'cannot apply 7' using errcode = 'AP007';
    end if;
    insert into app.seen select 'faulty', e.stream, (e.data ->> 'n')::int from unnest(events) e;
end $$;
reset role;
select outbox.append_many('order-3', array_fill('order.placed'::text, '{5}'), array(select jsonb_build_object('n', n) from generate_series(5, 9) n)) is not null as appended;
select outbox.tick();
select outbox.create_projection('faulty', 'app.faulty(outbox.event[])');
select outbox.run_projection('faulty') as applied;
select state, position, failed_position, failed_message_id is not null as named, error from outbox.projections where name = 'faulty';
select array_agg(version) from app.seen where handler = 'faulty';
select outbox.run_projection('faulty');
select state, regexp_replace(culprit, ' since .*', ' since ...') as culprit from outbox.health() where "check" = 'projections';
select outbox.pause_projection('faulty');
select outbox.resume_projection('faulty');
select outbox.run_projection('faulty') as applied;
select outbox.skip_event('faulty', 1, 'x');
select outbox.skip_event(null, 1, 'x');
select outbox.skip_event('faulty', 7, ' ');
select outbox.skip_event('faulty', 7, 'a test event');
select outbox.run_projection('faulty') as applied;
select state, position, failed_position, error from outbox.projections where name = 'faulty';
select array_agg(version) from app.seen where handler = 'faulty';
select action, object, reason, detail - 'message_id' as detail from outbox.audit where action = 'skip_event';
select state, culprit from outbox.health() where "check" = 'projections';
-- A failed assertion is an error of the event, too.
set role outbox_regress_owner;
create function app.assert_nothing(events outbox.event[]) returns void language plpgsql as $$ begin assert cardinality(events) = 0; end $$;
reset role;
select outbox.create_projection('asserting', 'app.assert_nothing(outbox.event[])');
select outbox.run_projection('asserting') as applied;
select state, failed_position, error from outbox.projections where name = 'asserting';
select outbox.drop_projection('asserting');
-- Pause and resume.
select outbox.pause_projection('orders'), outbox.pause_projection('orders');
select outbox.run_projection('orders');
select outbox.resume_projection('orders');
select outbox.resume_projection('orders');
-- An error of the moment is raised, and faults nothing.
set role outbox_regress_owner;
create function app.busy(events outbox.event[]) returns void language plpgsql
as $$ begin raise exception 'busy' using errcode = 'lock_not_available'; end $$;
reset role;
select outbox.create_projection('busy', 'app.busy(outbox.event[])');
select outbox.run_projection('busy');
select state, position from outbox.projections where name = 'busy';
select outbox.alter_projection('busy', 'app.see(outbox.event[])');
select outbox.run_projection('busy');
-- A rebuild beside the live version, and the switch.
select outbox.run_projection('orders') as applied;
set role outbox_regress_owner;
create function app.see_2(events outbox.event[]) returns void language sql
as $$ insert into app.seen select 'see_2', e.stream, e.version from unnest(events) e $$;
reset role;
select outbox.rebuild_projection('orders', 'app.see_2(outbox.event[])');
select outbox.rebuild_projection('orders', 'app.see_2(outbox.event[])');
select outbox.run_projection('orders', 3, version => 2) as applied;
select name, version, state, position, percent, rate > 0 as measured, remaining_seconds >= 0 as estimated from outbox.projections where name = 'orders' order by version;
begin;
update outbox._projection set rebuild_to = 1000000 where name = 'orders' and version = 2;
select outbox.switch_projection('orders');
rollback;
-- The switch brings the new version to where the old one is.
select outbox.switch_projection('orders');
select name, version, state, position, lag_positions from outbox.projections where name = 'orders' order by version;
select count(*) from app.seen where handler = 'see_2';
select outbox.switch_projection('orders');
select outbox.switch_projection('missing');
select outbox.run_projection('orders', version => 1);
-- A rebuild with the same handler stops the old version at once.
begin;
delete from app.seen where handler = 'see_2';
select outbox.rebuild_projection('orders');
commit;
select outbox.run_projection('orders', version => 3) as applied;
select outbox.switch_projection('orders');
select version, state from outbox.projections where name = 'orders' order by version;
select count(*) from app.seen where handler = 'see_2';
-- The handler is gone, or has another owner.
alter function app.see_2(outbox.event[]) owner to outbox_regress_worker;
select outbox.append('order-1', 'order.shipped', '{"n": 10}');
select outbox.tick();
select outbox.run_projection('orders');
-- Inline: in the transaction that appends.
select outbox.create_projection('inline', 'app.see(outbox.event[])', 'inline', categories => '{invoice}', types => '{invoice.*}');
truncate app.seen;
begin;
select outbox.append('invoice-1', 'invoice.sent', '{}'), outbox.append('order-1', 'order.closed', '{}'), outbox.append('invoice-1', 'other', '{}');
select handler, stream, version, ran_as from app.seen;
rollback;
select count(*) from app.seen;
select outbox.append('invoice-1', 'invoice.sent', '{}');
select handler, stream, version from app.seen;
select outbox.run_projection('inline');
select outbox.pause_projection('inline');
select outbox.rebuild_projection('inline');
select name, kind, state, position from outbox.projections where kind = 'inline';
-- Without its handler, nothing is appended to its categories.
alter function app.see(outbox.event[]) rename to see_elsewhere;
select outbox.append('invoice-1', 'invoice.sent', '{}');
select state, culprit from outbox.health() where "check" = 'projections';
create function app.see(events outbox.event[]) returns int language sql return 1;
alter function app.see(outbox.event[]) owner to outbox_regress_owner;
select outbox.append('invoice-1', 'invoice.sent', '{}');
select state from outbox.health() where "check" = 'projections';
drop function app.see(outbox.event[]);
alter function app.see_elsewhere(outbox.event[]) rename to see;
select state from outbox.health() where "check" = 'projections';
-- An error of an inline projection refuses the append.
set role outbox_regress_owner;
create function app.refuse(events outbox.event[]) returns void language plpgsql
as $$ begin raise exception 'refused' using errcode = 'AP001'; end $$;
reset role;
select outbox.create_projection('refusing', 'app.refuse(outbox.event[])', 'inline');
select outbox.append('invoice-1', 'invoice.sent', '{}');
select outbox.stream_version('invoice-1');
select outbox.drop_projection('refusing');
select outbox.append('invoice-1', 'invoice.sent', '{}');
-- Validation at append.
select outbox.register_schema('typed.event', '{"type": "object", "required": ["a"]}', validated => true);
select outbox.append('typed-1', 'typed.event', '{"a": 1}');
select outbox.append('typed-1', 'typed.event', '{"b": 1}');
select outbox.append('typed-1', 'typed.event', '{"b": 1}', metadata => '{"schema_version": 2}');
select outbox.append('typed-1', 'typed.event', '{"b": 1}', metadata => '{"schema_version": "2"}');
select outbox.append('typed-1', 'typed.event', '{"a": 1}', metadata => '{"schema_version": "2"}');
select outbox.append('typed-1', 'typed.event', '{"a": 1}', metadata => '{"schema_version": "x"}');
select outbox.append('typed-1', 'typed.event', '{"a": 1}', metadata => '{"schema_version": 1.4}');
select outbox.append('typed-1', 'typed.event', '{"a": 1}', metadata => '{"schema_version": 1e300}');
select outbox.append_bytes('typed-1', '{typed.event}', '{x}');
select outbox.stream_version('typed-1');
-- The switch passes the messages behind the last event, too.
select outbox.alter_projection('orders', 'app.see(outbox.event[])');
select outbox.rebuild_projection('orders') as version \gset
select outbox.run_projection('orders', version => :version) > 0 as applied;
select count(outbox.enqueue('plain', '{}')) from generate_series(1, 5);
select outbox.tick() > 0 as ticked;
select outbox.run_projection('orders') as applied;
select outbox.switch_projection('orders') = :version as switched;
-- Dropping.
select outbox.drop_projection('orders', 9);
select outbox.drop_projection('orders'), outbox.drop_projection('faulty'), outbox.drop_projection('busy'), outbox.drop_projection('inline');
select count(*) from outbox.projections;
select count(*) from outbox.cursor_list();
drop schema app cascade;
drop owned by outbox_regress_owner, outbox_regress_worker;
drop role outbox_regress_owner, outbox_regress_worker;
