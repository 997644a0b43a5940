-- The schema and what everything else stands on.
--
-- Names: objects that start with `_` are private. Every other object is public, has a `comment on`, and keeps its
-- signature: it grows by defaulted named parameters, never by an overload.

\echo Use "CREATE EXTENSION pg_outbox" to load this file. \quit

-- JSON and HTTP are UTF-8, and so are the library's texts.
do $$
begin
    if current_setting('server_encoding') <> 'UTF8' then
        raise exception 'pg_outbox needs a database with the encoding UTF8, and this one has %', current_setting('server_encoding')
            using errcode = 'feature_not_supported',
                hint = 'create database ... encoding ''UTF8'' template template0';
    end if;
end
$$;

-- Created here and not by the control file: a schema of this name that somebody made before is an error, not a trap.
create schema outbox;
comment on schema outbox is 'pg_outbox: transactional outbox, delivered over HTTP, pulled by workers or read in order';
