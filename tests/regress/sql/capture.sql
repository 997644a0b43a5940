-- Change capture: the message for each kind of change.
create extension pg_outbox;
create table orders (
    id int primary key,
    total numeric not null,
    note text,
    double_total numeric generated always as (total * 2) stored
);
create view sent as
select m.topic, m.key, m.tenant, m.headers ->> 'operation' as operation, m.payload
from outbox.message m order by m.id;
select outbox.capture('orders', include_old => true);
select * from outbox.captures;

-- Statements with many rows, generated columns, and updates that change the key.
insert into orders values (1, 10, null), (2, 20, 'b');
update orders set id = id + 10, note = 'x' where id = 2;
update orders set total = total;
delete from orders where id = 12;
insert into orders values (1, 11), (3, 30) on conflict (id) do update set total = excluded.total;
merge into orders o using (values (1, 12), (4, 40)) v(id, total) on o.id = v.id
    when matched then update set total = v.total
    when not matched then insert values (v.id, v.total);
copy orders (id, total) from stdin;
5	50
\.
begin;
insert into orders values (6, 60);
rollback;
update orders set total = 0 where false;
select * from sent;

-- Columns are added and dropped after the beginning of the capture.
alter table orders add column extra text default 'e';
alter table orders drop column note;
update orders set total = 13 where id = 1;
select payload from sent where operation = 'update' and payload -> 'new' ? 'extra';

-- Columns, a condition, a tenant, the style row, another topic, and truncate.
create table "Order Items" (item int, part int, tenant text, secret text, "100%" int, primary key (item, part));
select outbox.capture('"Order Items"', 'shop.items.{op}', operations => '{insert,update,delete,truncate}',
    columns => '{item,part,"100%"}', condition => 'coalesce(new.item, old.item) < 100', style => 'row', tenant_column => 'tenant');
insert into "Order Items" values (1, 1, 'acme', 's', 7), (1, 2, 'other', 's', 8), (100, 1, 'acme', 's', 9);
update "Order Items" set secret = 't';
update "Order Items" set "100%" = 1 where part = 2;
delete from "Order Items" where part = 2;
truncate "Order Items";
select * from sent where topic like 'shop.%';

-- Foreign-key cascades and partitions, also partitions that a statement names itself.
create table parent (id int primary key);
create table child (id int, parent int references parent on delete cascade on update cascade, primary key (id, parent))
    partition by list (parent);
create table child_1 partition of child for values in (1, 10);
create table child_2 partition of child for values in (2, 20);
select outbox.capture('child', 'child', style => 'debezium', include_old => true, operations => '{insert,update,delete,truncate}');
insert into parent values (1), (2);
insert into child values (1, 1), (2, 2);
insert into child_1 values (3, 1);
update child set parent = 2 where id = 3;
update parent set id = 20 where id = 2;
delete from parent where id = 1;
truncate child;
select key, payload - 'ts_ms' as payload from sent where topic = 'child';
create table child_3 partition of child for values in (3);
select relation, uncovered_partitions from outbox.captures order by 1;
select outbox.capture('child', 'child', style => 'debezium');
select relation, uncovered_partitions from outbox.captures order by 1;

-- Virtual generated columns (PostgreSQL 18) are null in triggers. Older versions use an empty column instead.
select case when current_setting('server_version_num')::int >= 180000 then 'generated always as (n * 2) virtual' else '' end as virtual
\gset
create table computed (id int primary key, n int, twice int :virtual);
select outbox.capture('computed', include_old => true);
insert into computed (id, n) values (1, 2);
update computed set n = 3;
delete from computed;
select topic, payload - 'schema' as payload from sent where topic like 'computed.%';
drop table computed;

-- A foreign comment on the function of a capture breaks neither the view nor other captures.
create table spoilt (id int primary key);
select outbox.capture('spoilt');
select format('comment on function %s is %L', t.tgfoid::regprocedure, text)
from pg_trigger t, unnest('{mine,"{}","{\"key_columns\": 1}"}'::text[]) text
where t.tgrelid = 'spoilt'::regclass and t.tgname = 'outbox_capture_insert'
\gexec
select relation, topic, operations from outbox.captures order by 1;
insert into spoilt values (1);
select topic from sent where topic like 'spoilt.%';
select outbox.uncapture('spoilt');
drop table spoilt;

-- Only the owner of a table may capture it, and only with the capabilities capture and publish.
create role outbox_regress_owner;
create role outbox_regress_user;
create schema app;
grant usage, create on schema app to outbox_regress_owner;
grant usage on schema app to outbox_regress_user;
set role outbox_regress_owner;
create table app.t (id int primary key, n int);
grant insert on app.t to outbox_regress_user;
select outbox.capture('app.t');
reset role;
select outbox.capture('app.t');
select outbox.grant_to('outbox_regress_owner', c) from unnest('{publish,capture}'::text[]) c;
select outbox.grant_to('outbox_regress_user', 'publish');
set role outbox_regress_user;
select outbox.capture('app.t');
select outbox.uncapture('app.t');
set role outbox_regress_owner;
select outbox.capture('app.t', condition => '1); drop table app.t; select (true');
select outbox.capture('app.t', condition => 'new.missing > 1');
select outbox.capture('app.t', condition => 'new.n > 1 -- a comment');
set role outbox_regress_user;
insert into app.t values (1, 1), (2, 2);
reset role;
select topic, key, payload from sent order by topic = 't.insert' desc limit 1;
select proowner::regrole, prosecdef, proacl from pg_proc where proname ~ '^capture_[0-9]' order by oid desc limit 1;

-- The captures end.
select outbox.uncapture('orders');
select outbox.uncapture('orders');
insert into orders values (77, 1);
select count(*) from sent where key = '77';
drop table "Order Items";
select outbox.uncapture('child');
select count(*) from pg_proc where proname ~ '^capture_[0-9]';

-- Bad input.
select outbox.capture(null);
select outbox.capture('sent');
select outbox.capture('outbox.topic');
select outbox.capture('orders', operations => '{upsert}');
select outbox.capture('orders', style => 'xml');
select outbox.capture('orders', key_columns => '{nothing}');
select outbox.capture('orders', topic => 'a b');

-- DROP EXTENSION removes the captures and leaves the tables.
drop view sent;
drop extension pg_outbox;
insert into app.t values (9, 9);
drop table app.t;
drop schema app;
drop role outbox_regress_owner, outbox_regress_user;
