-- The last lines of CREATE EXTENSION: the identity of this outbox, and the announcement to the launcher.

insert into outbox._identity (xid, since, database)
values (outbox_internal.row_xid(), pg_current_xact_id(), outbox_internal.database_oid());

-- API: private
-- Tells the launcher, when this transaction commits, that this database has an outbox.
create function outbox_internal.announce() returns void language c volatile as 'MODULE_PATHNAME', 'outbox_announce';
revoke all on function outbox_internal.announce() from public;
select outbox_internal.announce();
