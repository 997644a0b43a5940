-- The helpers of message-db's functions that are part of the extension. An event that is committed has a global position there.

-- API: private
-- Waits until the newest event of a stream (null: of all streams) has its position, at most 100 ms, so that a reader sees
-- what another session has just committed. Where the library is not preloaded, this session ticks, as in a claim. A
-- transaction that has written, or whose snapshot is held, sees no new positions, and does not wait.
create function outbox_internal.await_positions(stream text default null) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_variable
declare
    newest bigint;
begin
    if current_setting('transaction_isolation') <> 'read committed' or current_setting('transaction_read_only')::boolean then
        return;
    end if;
    if stream is null then
        select m.id into newest from outbox._message_event m order by m.id desc limit 1;
    else
        select m.id into newest from outbox._message_event m
        where m.key collate "C" = stream order by m.key collate "C" desc, m.version desc limit 1;
    end if;
    for i in 1 .. 50 loop
        exit when newest is null or pg_current_xact_id_if_assigned() is not null
            or outbox_internal.event_position(newest) is not null;
        case outbox_internal.route_inline()
            when 'dispatched', 'busy' then
                perform pg_sleep(0.002);
            when 'ticked' then
                null;
            else
                return;
        end case;
    end loop;
end
$$;

insert into outbox._capability values
    ('publish', 'function outbox_internal.lock_stream', true),
    ('consume', 'function outbox_internal.await_positions', false);
