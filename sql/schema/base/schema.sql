-- The schema outbox, and the conditions for installing it.
--
-- Names: functions and procedures of the schema outbox_internal are private, and so are other objects that start with `_`.
-- Every other object is public, has a `comment on`, and keeps its signature: it gets new named parameters with defaults, but
-- never an overload.

\echo Use "CREATE EXTENSION pg_outbox" to load this file. \quit

-- JSON and HTTP use UTF-8, and the library's texts are UTF-8 too.
do $$
begin
    if current_setting('server_encoding') <> 'UTF8' then
        raise exception 'pg_outbox needs a database with the encoding UTF8, and this one has %', current_setting('server_encoding')
            using errcode = 'feature_not_supported',
                hint = 'create database ... encoding ''UTF8'' template template0';
    end if;
end
$$;

-- The schema is created here and not by the control file, so that a schema of this name that somebody created before causes
-- an error and cannot be a trap.
create schema outbox;
comment on schema outbox is 'pg_outbox: transactional outbox, delivered over HTTP, pulled by workers or read in order';
create schema outbox_internal;
comment on schema outbox_internal is 'pg_outbox: private functions; a new version may change or remove each of them';
