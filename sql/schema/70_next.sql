-- A worker's cycle in one call: what it has done ends, what comes next is claimed.
--
-- Completing comes first. A claim waits for nobody, so whoever waits here, for the lease or for a delivery that an operator
-- has locked, has not locked anything new yet; the other way round two sessions could wait for each other. It also means
-- that such a claim never ticks and routes inline, which only a transaction without an xid may: a call without `done` does,
-- and that is what follows when nothing was found.

-- API: public
create function outbox.complete_and_claim(
    done bigint,
    subscription text,
    worker text,
    max_messages int default 1,
    lease interval default '60 s'
) returns setof outbox.claimed
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if done is not null then
        if cardinality(outbox.complete(done)) = 0 then
            raise exception 'lease % is lost', done
                using errcode = 'OB003',
                    detail = 'All its deliveries have ended, or it has expired and was taken back. Nothing was completed or claimed.',
                    hint = 'Another worker may do its work again; go on with outbox.claim().';
        end if;
    end if;
    return query select * from outbox.claim(subscription, worker, max_messages, lease);
end
$$;
comment on function outbox.complete_and_claim is
    'Completes all that a lease still holds (done; null: nothing) and claims what comes next, in one transaction: both or '
    'neither. OB003: the lease is lost. No rows: ask once more without done before you wait, what was completed may have '
    'let others in';

insert into outbox._capability values
    ('consume', 'function outbox.complete_and_claim');
