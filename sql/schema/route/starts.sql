-- Start positions: where in the history a subscription starts.

-- API: private
-- The first position that was given to a message at or after a time. Positions and ticked_at ascend together in the feed, so
-- this is a binary search. Returns head() + 1 if there is none. lowest: the first position that is stored.
create function outbox_internal.position_at(at timestamptz, lowest bigint) returns bigint
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    low bigint := lowest;
    high bigint := outbox.head() + 1;
    middle bigint;
    seen record;
begin
    while low < high loop
        middle := (low + high) / 2;
        select f.ticked_at, f.last_position into seen
        from outbox.feed f where f.first_position <= middle order by f.first_position desc limit 1;
        if seen.ticked_at >= at then
            high := middle;
        else
            low := greatest(middle, coalesce(seen.last_position, middle)) + 1;
        end if;
    end loop;
    return high;
end
$$;

-- API: private
-- The position after which a subscription with this `start` begins; null for latest. Pins the history until the transaction
-- ends. source: that of the subscription; events are stored from the first position on. Raises OB009 for a position that is
-- not stored, and 22023 for a malformed value.
create function outbox_internal.start(start text, source text) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted bigint;
    lowest bigint;
begin
    if start is null or start = 'latest' then
        return null;
    end if;
    perform outbox_internal.pin_history();
    lowest := case when source = 'events' then 1 else outbox_internal.tail() end;
    if start = 'earliest' then
        return lowest - 1;
    elsif start ~ '^[0-9]{1,18}$' then
        wanted := start::bigint;
        if wanted < lowest then
            raise exception 'position % is no longer stored', wanted using errcode = 'OB009',
                detail = format('The first one that is stored is %s.', lowest), hint = 'Start at "earliest".';
        end if;
        if wanted > outbox.head() + 1 then
            raise exception 'position % does not exist yet', wanted using errcode = 'OB009',
                detail = format('The feed ends at %s.', outbox.head()), hint = 'Start at "latest".';
        end if;
        return wanted - 1;
    end if;
    return outbox_internal.position_at(start::timestamptz, lowest) - 1;
exception when invalid_datetime_format or datetime_field_overflow then
    raise exception 'invalid start "%"', left(start, 100) using errcode = 'invalid_parameter_value',
        hint = 'It is latest, earliest, a position (the first to be delivered) or a time.';
end
$$;
