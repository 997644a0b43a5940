-- Purging by hand: what is older than an interval, now.

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
    ring text := case what when 'completed' then 'message' when 'attempts' then 'attempt' end;
    done record;
    removed bigint;
    part text;
begin
    rows := 0;
    bytes := 0;
    if older_than is null or older_than <= interval '0' then
        -- as everywhere: for ever
        return;
    end if;
    lock table outbox._maintenance in exclusive mode;
    perform outbox._note_segments();
    perform outbox._seal();
    if ring is not null then
        -- Whole segments, oldest first.
        if dry_run then
            select coalesce(sum(pg_total_relation_size(outbox._leaf(s.ring, s.leaf))), 0),
                coalesce(sum(greatest(k.reltuples, 0))::bigint, 0)
            into bytes, rows
            from outbox.segment s
            join pg_class k on k.oid = outbox._leaf(s.ring, s.leaf)
            where s.ring = ring and s.closed_at <= clock_timestamp() - older_than and s.reclaimed_at is null
                and (ring <> 'message' or s.last_position <= coalesce((select min(n."position") from outbox._needed() n),
                    s.last_position));
            return;
        end if;
        loop
            exit when not exists (
                select from (
                    select * from outbox.segment s
                    where s.ring = ring and s.closed_at is not null and s.reclaimed_at is null
                    order by s.closed_at limit 1
                ) o
                where o.closed_at <= clock_timestamp() - older_than
            );
            select coalesce(sum(greatest(k.reltuples, 0))::bigint, 0) into removed
            from (
                select s.leaf from outbox.segment s
                where s.ring = ring and s.closed_at is not null and s.reclaimed_at is null
                order by s.closed_at limit 1
            ) o
            join pg_class k on k.oid = outbox._leaf(ring, o.leaf);
            select * into done from outbox._reclaim(ring, true);
            exit when done.result <> 'reclaimed';
            rows := rows + removed;
            bytes := bytes + done.freed;
        end loop;
        return;
    end if;
    if what = 'dead_letters' then
        foreach part in array case when include_unresolved
            then array['dead_letters', 'unresolved_dead_letters'] else array['dead_letters'] end loop
            if dry_run then
                select rows + count(*) into rows from outbox.dead_letter d
                where case part
                    when 'dead_letters'
                        then d.resolution in ('resolved', 'ignored') and d.resolved_at < clock_timestamp() - older_than
                    else d.resolution in ('open', 'requeued') and d.dead_at < clock_timestamp() - older_than
                end;
            else
                loop
                    removed := outbox._trim(part, older_than, 1000);
                    rows := rows + removed;
                    exit when removed < 1000;
                end loop;
            end if;
        end loop;
        return;
    end if;
    raise exception 'unknown kind of rows "%"', what using errcode = 'invalid_parameter_value',
        hint = 'What can be purged: completed, attempts, dead_letters.';
end
$$;
comment on function outbox.purge is
    'Removes what is older than an interval, by hand: completed (messages, in whole segments), attempts (in whole'
    ' segments), dead_letters. Never what is still needed; dry_run says what it would be';

insert into outbox._capability values
    ('admin', 'function outbox.purge');
