-- The last lines of CREATE EXTENSION: the identity of this outbox, and the announcement to the launcher.

insert into outbox._identity (xid, since, database)
values (outbox._row_xid(), pg_current_xact_id(), outbox._database_oid());

-- API: private
-- Tells the launcher, when this transaction commits, that this database has an outbox.
create function outbox._announce() returns void language c volatile as 'MODULE_PATHNAME', 'outbox_announce';
revoke all on function outbox._announce() from public;
select outbox._announce();
