-- The identity of an outbox: whether this database is the one that it was created in. An outbox that was restored or copied
-- to another database writes and pushes nothing until it is adopted.

-- API: private
create function outbox_internal.timeline() returns int language c volatile as 'MODULE_PATHNAME', 'outbox_timeline';

-- API: private
create function outbox_internal.database_oid() returns oid language c stable as 'MODULE_PATHNAME', 'outbox_database_oid';

-- API: private
-- The id of the current transaction, or of the current subtransaction. An id is assigned if there is none. It is the xmin of
-- the rows that are inserted now.
create function outbox_internal.row_xid() returns xid8 language c volatile as 'MODULE_PATHNAME', 'outbox_row_xid';

-- API: private
-- False: the rows of _identity were restored or copied here from another database, or a restore is still running.
create function outbox_internal.identity_is_genuine() returns boolean
language sql volatile
begin atomic
    select coalesce(
        bool_and((i.xid::text::bigint & 4294967295)::text = i.xmin::text
            and i.database = outbox_internal.database_oid()), false)
    from outbox._identity i;
end;

-- API: private
-- Raises 25006 in a read-only transaction, with a hint where to write.
create function outbox_internal.check_writable(what text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_read_only')::boolean then
        raise exception 'cannot execute outbox.%() in a read-only transaction', what
            using errcode = 'read_only_sql_transaction',
                hint = case when pg_is_in_recovery()
                    then 'This is a standby: read here, and write to the primary, cursors too.'
                    else 'Begin the transaction as READ WRITE.' end;
    end if;
end
$$;

-- API: private
-- Whether the outbox is this database's own: both its identity and the sequencer's last row were written here. A logical
-- copy may bring the sequencer's rows without the identity.
create function outbox_internal.is_own() returns boolean
language sql volatile
begin atomic
    select outbox_internal.identity_is_genuine() and coalesce((
        select (t.xid::text::bigint & 4294967295)::text = t.xmin::text from outbox.tick t order by t.id desc limit 1
    ), true);
end;

-- API: private
-- The subscription of logical replication that writes messages here; null: none does.
create function outbox_internal.replicated_by() returns name
language sql stable
begin atomic
    select min(s.subname) from pg_subscription_rel r join pg_subscription s on s.oid = r.srsubid
    where r.srrelid = 'outbox.message'::regclass
        or r.srrelid in (select i.inhrelid from pg_inherits i where i.inhparent = 'outbox.message'::regclass);
end;
