-- Idempotent enqueue: one row per key, remembered for pg_outbox.idempotency_window.
--
-- A producer without a key never gets here. A producer with a key pays for one insert, and deletes up to two expired keys.
-- So the table is as large as the number of keys in the window, and a job deletes the rest when no more keys come. If two
-- transactions use the same key, the second waits for the first.

-- API: private
create table outbox._idempotency (
    key bytea primary key,
    content bytea not null,
    message_ids bigint[] not null,
    remembered_at timestamptz not null default clock_timestamp()
);
create index _idempotency_remembered on outbox._idempotency (remembered_at);
comment on column outbox._idempotency.key is 'fingerprint of tenant, topic and idempotency key';
comment on column outbox._idempotency.content is 'fingerprint of payload or body, content type and ordering key';
select pg_catalog.pg_extension_config_dump('outbox._idempotency', '');

-- API: private
-- Remembers a key. known null: the key is new. Otherwise known has the ids of the messages that were enqueued with it, and
-- same says whether they had the same content. The library raises the error, because it knows the SQLSTATEs. Called only by
-- enqueue, as the owner.
create function outbox_internal.remember(
    key bytea,
    content bytea,
    ids bigint[],
    window_seconds int,
    out known bigint[],
    out same boolean
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    -- zero or below: remembered for ever
    limit_at timestamptz := case when window_seconds > 0 then clock_timestamp() - make_interval(secs => window_seconds)
        else '-infinity' end;
    before outbox._idempotency;
begin
    delete from outbox._idempotency i
    where i.key = any (array(
        select o.key from outbox._idempotency o
        where o.remembered_at < limit_at
        order by o.remembered_at
        limit 2
        for update skip locked
    ));
    loop
        insert into outbox._idempotency (key, content, message_ids)
        values (remember.key, remember.content, ids)
        on conflict do nothing;
        if found then
            return;
        end if;
        select * into before from outbox._idempotency i where i.key = remember.key;
        -- another session may have deleted the key meanwhile
        continue when before.key is null;
        if before.remembered_at < limit_at then
            update outbox._idempotency i
            set content = remember.content, message_ids = ids, remembered_at = clock_timestamp()
            where i.key = remember.key and i.remembered_at = before.remembered_at;
            if found then
                return;
            end if;
            continue;
        end if;
        known := before.message_ids;
        same := before.content = remember.content;
        return;
    end loop;
end
$$;
