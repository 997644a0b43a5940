-- The two ends of the feed, its epochs, and the check that a position is within them.

-- API: private
-- Messages up to this position may have been reclaimed. This is a sequence, because a sequence is read as it is now and not
-- as of the reader's snapshot. So a reader notices that a leaf was truncated while it read.
create sequence outbox._reclaimed as bigint minvalue 0 start 0 cache 1;
select pg_catalog.pg_extension_config_dump('outbox._reclaimed', '');

-- API: public
create function outbox.head() returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce((select t.last_position from outbox.tick t order by t.id desc limit 1), 0);
end;
comment on function outbox.head is 'Returns the last position of the feed; 0 when the feed is empty';

-- API: private
-- The first position after those that retention has removed here.
create function outbox_internal.tail() returns bigint
language sql volatile
begin atomic
    select coalesce(pg_sequence_last_value('outbox._reclaimed'), 0) + 1;
end;

-- API: private
-- Whether tables of a copy are still filled one after another, so that a missing message may be still to come.
create function outbox_internal.is_filling() returns boolean
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select exists (
        select from pg_subscription_rel r join pg_class t on t.oid = r.srrelid
        where t.relnamespace = 'outbox'::regnamespace and r.srsubstate <> 'r'
    );
end;

-- API: private
-- The first position from `lowest` on whose message is stored. In a copy that logical replication writes, sequences are not
-- updated, and messages that the original has removed are missing without notice. There the function has to go through the
-- feed, row by row. Everywhere else the first position is `lowest` itself.
create function outbox_internal.first_stored(lowest bigint) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    stretch record;
    place bigint := lowest;
    -- where the rows with events alone begin that precede this row
    events bigint;
    filling boolean;
begin
    if outbox_internal.is_own() then
        return lowest;
    end if;
    -- Looked at first, because the last table may be filled while this function looks for messages.
    filling := outbox_internal.is_filling();
    for stretch in
        select f.first_position, f.last_position, f.message_segment, f.message_ids
        from outbox.feed f
        where f.first_position >= coalesce((
            select p.first_position from outbox.feed p
            where p.first_position <= lowest
            order by p.first_position desc limit 1
        ), 0)
        order by f.first_position
    loop
        continue when stretch.last_position < lowest;
        place := greatest(place, stretch.first_position);
        if stretch.message_segment = -2 then
            events := coalesce(events, place);
            place := stretch.last_position + 1;
            continue;
        end if;
        -- All messages of a row of the feed that are no events are in one leaf, and are removed together.
        if exists (
            select from unnest(stretch.message_ids[(place - stretch.first_position + 1)::int :]) u(id)
            join outbox.message m on m.segment = stretch.message_segment and m.id = u.id
        ) then
            return coalesce(events, place);
        end if;
        events := null;
        if filling then
            return lowest;
        end if;
        place := stretch.last_position + 1;
    end loop;
    -- The original may have removed the rows of the feed as well.
    if not filling then
        place := greatest(place, outbox.head() + 1);
    end if;
    return coalesce(events, place);
end
$$;

-- API: public
create function outbox.tail() returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select outbox_internal.first_stored(outbox_internal.tail());
end;
comment on function outbox.tail is
    'Returns the first position whose message is still stored, or head() + 1 when none is. read() starts there when '
    'after_position is 0';

-- API: private
-- The epoch that a position belongs to.
create function outbox_internal.epoch_of("position" bigint) returns int
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select e.epoch from outbox.epoch e where e.first_position <= epoch_of."position" order by e.epoch desc limit 1;
end;

-- API: private
-- Raises OB009 if a position that a reader remembers is not in this history: it is after the end of the feed, or after the
-- end of the epoch in which it was read. The end of the feed is checked only at READ COMMITTED and outside recovery, because
-- an older snapshot or a standby may not see the end yet.
create function outbox_internal.check_history("position" bigint, epoch int) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    history_end bigint;
begin
    select min(e.first_position) - 1 into history_end from outbox.epoch e where e.epoch > check_history.epoch;
    if history_end is null and current_setting('transaction_isolation') = 'read committed' and not pg_is_in_recovery() then
        history_end := outbox.head();
        if check_history."position" > history_end and not outbox_internal.is_own() then
            -- A copy that logical replication writes may not have received the position yet.
            return;
        end if;
    end if;
    if check_history."position" > history_end then
        raise exception '%', case
                when check_history.epoch is null
                    then format('position %s is after the end of the feed', check_history."position")
                else format('history diverged: position %s was never reached in epoch %s', check_history."position",
                    check_history.epoch)
            end
            using errcode = 'OB009',
                detail = format('The end is position %s. Messages that a reader saw after it were lost, as in a failover to a'
                    ' standby that had not received it.', history_end),
                hint = format('Decide about the effects of messages after %1$s, then go on from there:'
                    ' outbox.cursor_reset(..., %1$s, reason => ...).', history_end);
    end if;
end
$$;

insert into outbox._capability values
    ('consume', 'function outbox.head'),
    ('consume', 'function outbox.tail'),
    ('monitor', 'function outbox.head'),
    ('monitor', 'function outbox.tail');
