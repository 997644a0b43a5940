-- The tables that a dump must contain. A restore must be able to load them in any order.
create extension pg_outbox;
-- Tables and sequences that are not dumped: CREATE EXTENSION fills them, or they only serve as locks.
select c.oid::regclass from pg_class c
where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'S')
    and not exists (select from pg_extension e where e.extname = 'pg_outbox' and c.oid = any (e.extconfig))
order by c.relname;
-- Dumped tables have no foreign keys to each other, so a parallel restore can load them in any order.
select k.conrelid::regclass, k.conname from pg_constraint k, pg_extension e
where k.contype = 'f' and e.extname = 'pg_outbox' and k.confrelid = any (e.extconfig);
-- CREATE EXTENSION leaves rows only in tables that are not dumped, and in _identity, which accepts a second row.
do $$
declare
    dumped regclass;
    found boolean;
begin
    for dumped in
        select c.oid from pg_class c, pg_extension e
        where e.extname = 'pg_outbox' and c.oid = any (e.extconfig) and c.relkind = 'r' and c.relname <> '_identity'
        order by c.relname
    loop
        execute format('select exists (select from %s)', dumped) into found;
        if found then
            raise warning '% has rows', dumped;
        end if;
    end loop;
end
$$;
