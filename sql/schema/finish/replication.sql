-- Publications: replica identities. A table that is published for updates and deletes needs a replica identity, or
-- PostgreSQL refuses both. Then CREATE PUBLICATION ... FOR ALL TABLES would stop the dispatcher. A replica identity costs
-- nothing until wal_level is logical and a row is updated or deleted. So every table has one, even if rows are only inserted
-- into it.

do $$
declare
    bare record;
begin
    for bare in
        select c.oid::regclass as name, (
            select min(x.relname) from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid
            where i.indrelid = c.oid and i.indisunique and i.indimmediate and i.indpred is null and i.indexprs is null
        ) as key
        from pg_catalog.pg_class c
        where c.relnamespace = 'outbox'::pg_catalog.regnamespace and c.relkind = 'r' and not exists (
            select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisprimary
        )
    loop
        -- Without a unique index the identity is the whole row. These tables have short or few rows, except for the attempt
        -- log, which only erase() updates.
        execute pg_catalog.format('alter table %s replica identity ', bare.name)
            || case when bare.key is null then 'full' else pg_catalog.format('using index %I', bare.key) end;
    end loop;
end
$$;
