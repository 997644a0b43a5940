-- Names of streams, their parts, and the hash of consumer groups.
select n as stream_name, category(n), id(n), cardinal_id(n), is_category(n)
from unnest(array['invoice-7', 'invoice', 'invoice-7+eu', 'invoice-7+eu+b2b', 'invoice:command-7', 'invoice-', 'invoice-a-b', 'konto-ä+ö', '',
    '-7', null]::varchar[]) with ordinality as v(n, o)
order by o;
select v as value, hash_64(v) from unnest(array['invoice-7', 'ä', '', null]::varchar[]) with ordinality as u(v, o) order by o;
select message_store_version();
select pg_typeof(hash_64('a')), pg_typeof(category('a-1')), pg_typeof(id('a-1')), pg_typeof(cardinal_id('a-1')),
    pg_typeof(is_category('a-1')), pg_typeof(stream_version('a-1')), pg_typeof(acquire_lock('a-1')),
    pg_typeof(message_store_version());
select a.attname, format_type(a.atttypid, a.atttypmod)
from pg_attribute a where a.attrelid = 'message_store.message'::regclass and a.attnum > 0 order by a.attnum;
select a.attname, format_type(a.atttypid, a.atttypmod)
from pg_attribute a where a.attrelid = 'message_store.messages'::regclass and a.attnum > 0 order by a.attnum;
select p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)
from pg_proc p where p.pronamespace = 'message_store'::regnamespace and p.proname !~ '^_' order by 1;
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
from pg_class c join pg_attribute a on a.attrelid = c.oid
where c.relnamespace = 'message_store'::regnamespace and c.relname ~ '_summary$' and a.attnum > 0 order by 1, a.attnum;
