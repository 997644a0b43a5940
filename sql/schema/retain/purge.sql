-- Purging by hand: removes rows that are older than an interval, now.
--
-- The archive has no rows of its own: an entry is a message with its attempts and its routing. So purging the archive
-- removes all of these, and the retention of an entry is that of its message.

-- API: private
-- The number of rows of a leaf. This is an estimate once the leaf has been analyzed, which autovacuum does.
create function outbox_internal.leaf_rows(leaf regclass) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    estimated bigint;
begin
    select (k.reltuples / k.relpages * (pg_relation_size(leaf) / current_setting('block_size')::int))::bigint into estimated
    from pg_class k where k.oid = leaf and k.reltuples >= 0 and k.relpages > 0;
    if estimated is null then
        execute format('select count(*) from only %s', leaf) into estimated;
    end if;
    return estimated;
end
$$;

-- API: public
create function outbox.purge(
    what text,
    older_than interval,
    include_unresolved boolean default false,
    dry_run boolean default false,
    out rows bigint,
    out bytes bigint
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
#variable_conflict use_variable
declare
    -- Messages are purged before the rows of the feed that contain their ids.
    rings text[] := case what when 'completed' then '{message}' when 'attempts' then '{attempt}'
        when 'archive' then '{message,attempt,routing,feed}' end;
    tables text[] := case what when 'idempotency' then '{idempotency}'
        when 'dead_letters' then case when include_unresolved then '{dead_letters,unresolved_dead_letters}'
            else '{dead_letters}' end end;
    before timestamptz := clock_timestamp() - older_than;
    part text;
    oldest outbox.segment;
    done record;
    found_rows bigint;
    upto bigint;
begin
    rows := 0;
    bytes := 0;
    if rings is null and tables is null then
        raise exception 'unknown kind of rows "%"', left(what, 100) using errcode = 'invalid_parameter_value',
            hint = 'What can be purged: completed, attempts, archive, dead_letters, idempotency.';
    end if;
    if older_than is null or older_than <= interval '0' then
        -- null, zero or below means for ever, as in the settings
        return;
    end if;
    lock table outbox._maintenance in exclusive mode;
    perform outbox_internal.note_segments();
    perform outbox_internal.seal_leaves();
    upto := outbox_internal.tail() - 1;
    foreach part in array coalesce(rings, '{}') loop
        -- Whole leaves, oldest first.
        for oldest in
            select * from outbox.segment s
            where s.ring = part and s.closed_at <= before and s.reclaimed_at is null
            order by s.closed_at
        loop
            found_rows := outbox_internal.leaf_rows(outbox_internal.leaf(part, oldest.leaf));
            if dry_run then
                exit when part = 'message' and (oldest.last_position is null
                        or oldest.last_position > (
                            select min(n."position") from outbox_internal.needed() n
                            where n.max_lag is null or oldest.closed_at > clock_timestamp() - n.max_lag
                        ))
                    or part in ('routing', 'feed') and oldest.last_position > upto;
                if part = 'message' then
                    upto := oldest.last_position;
                end if;
                bytes := bytes + pg_total_relation_size(outbox_internal.leaf(part, oldest.leaf));
            else
                select * into done from outbox_internal.reclaim(part, true);
                exit when done.result <> 'reclaimed';
                bytes := bytes + done.freed;
            end if;
            -- An entry of the archive is one message, so rows counts messages only.
            if what <> 'archive' or part = 'message' then
                rows := rows + found_rows;
            end if;
        end loop;
    end loop;
    foreach part in array coalesce(tables, '{}') loop
        if dry_run then
            select rows + count(*), bytes + coalesce(sum(o.size), 0) into rows, bytes
            from (
                select pg_column_size(d) as size from outbox.dead_letter d
                where part = 'dead_letters' and d.resolution in ('resolved', 'ignored') and d.resolved_at < before
                    or part = 'unresolved_dead_letters' and d.resolution in ('open', 'requeued') and d.dead_at < before
                union all
                select pg_column_size(i) from outbox._idempotency i
                where part = 'idempotency' and i.remembered_at < before
            ) o;
        else
            loop
                select * into done from outbox_internal.trim(part, older_than, 1000);
                rows := rows + done.rows;
                bytes := bytes + done.bytes;
                exit when done.rows < 1000;
            end loop;
        end if;
    end loop;
end
$$;
comment on function outbox.purge is
    'Removes rows that are older than older_than, and returns how many rows and bytes. what: completed (messages), '
    'attempts, archive (messages with their attempts and routing; rows counts messages), dead_letters (resolved or ignored '
    'ones; include_unresolved: all), idempotency. Rows of logs are removed leaf by leaf, and only if the whole leaf is old '
    'enough. Rows that are still needed are never removed. older_than null, zero or below removes nothing. dry_run: '
    'returns the numbers without removing anything. Numbers of rows in leaves may be estimates. Not in a transaction block '
    'or function. Errors: 22023 what is unknown, 25001 in such a transaction, 55P03 a lock was not available within 5 s';

insert into outbox._capability values
    ('admin', 'function outbox.purge');
