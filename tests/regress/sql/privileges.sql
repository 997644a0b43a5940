-- Privileges: nothing is granted to PUBLIC, and roles get capabilities.
create extension pg_outbox;
create role outbox_regress_nobody;
create role outbox_regress_publisher;
create role outbox_regress_monitor;
create role outbox_regress_admin;
select outbox.grant_to('outbox_regress_publisher', 'publish');
select outbox.grant_to('outbox_regress_monitor', 'monitor');
select outbox.grant_to('outbox_regress_admin', 'admin');
select outbox.grant_to('outbox_regress_nobody', 'everything');
select outbox.grant_to('outbox_regress_missing', 'publish');
select outbox.create_endpoint('e', 'https://example.com') is not null;

-- PUBLIC has no privilege on any object of the extension.
select p.oid::regprocedure from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
where p.pronamespace in ('outbox'::regnamespace, 'outbox_internal'::regnamespace, 'outbox_private'::regnamespace) and a.grantee = 0;
select c.oid::regclass from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
where c.relnamespace = 'outbox'::regnamespace and a.grantee = 0 and c.relkind not in ('i', 'I', 'c');
-- Definer functions have a fixed search path.
select p.oid::regprocedure from pg_proc p
where p.pronamespace in ('outbox'::regnamespace, 'outbox_internal'::regnamespace, 'outbox_private'::regnamespace) and p.prosecdef
    and not coalesce(p.proconfig, '{}') @> '{"search_path=pg_catalog, pg_temp"}';
-- Every public object has a comment.
select p.oid::regprocedure from pg_proc p
where p.pronamespace = 'outbox'::regnamespace and obj_description(p.oid, 'pg_proc') is null;
select c.oid::regclass from pg_class c
where c.relnamespace = 'outbox'::regnamespace and c.relname !~ '^_' and c.relkind in ('r', 'p', 'v')
    and obj_description(c.oid, 'pg_class') is null;

set role outbox_regress_nobody;
select outbox.enqueue('a.b', '{}');
set role outbox_regress_publisher;
select outbox.enqueue('a.b', '{}') is not null as enqueued;
select count(*) from outbox.message;
select outbox.stats();
select outbox.subscribe('x', '{#}', 'e');
select nextval('outbox._message_id');
select status from outbox_internal.tick_inline(1);
lock table outbox._sequencer in exclusive mode;
set role outbox_regress_monitor;
select messages > 0 as sees from outbox.stats();
select count(*) > 0 as sees from outbox.message;
select secret from outbox.endpoint_secret;
select outbox.enqueue('a.b', '{}');
set role outbox_regress_admin;
select outbox.subscribe('x', '{#}', 'e') is not null as subscribed;
select secret from outbox.endpoint_secret;
update outbox.endpoint set url = 'https://evil.example';
reset role;
drop owned by outbox_regress_nobody, outbox_regress_publisher, outbox_regress_monitor, outbox_regress_admin;
drop role outbox_regress_nobody, outbox_regress_publisher, outbox_regress_monitor, outbox_regress_admin;
