-- Publications. A table that is published for updates and deletes has to say what identifies its rows, or PostgreSQL refuses
-- both: CREATE PUBLICATION ... FOR ALL TABLES would stop the dispatcher. It costs nothing until wal_level is logical and a
-- row is updated or deleted, so every table has an identity, also those that are only inserted into.

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
        -- Without a unique index the whole row: short or few rows, and the log of attempts, which only erase() changes.
        execute pg_catalog.format('alter table %s replica identity ', bare.name)
            || case when bare.key is null then 'full' else pg_catalog.format('using index %I', bare.key) end;
    end loop;
end
$$;
