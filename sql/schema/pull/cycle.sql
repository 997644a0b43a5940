-- A worker's cycle in one call: completes a lease and claims the next deliveries.
--
-- The function completes first and claims afterwards. A claim waits for nothing, but completing may wait, for the lease or
-- for a delivery that an operator has locked. In this order, the session has not locked any new delivery while it waits; in
-- the opposite order two sessions could wait for each other.
--
-- Because the claim follows a write, it never ticks and routes inline: only a transaction without an xid may do that. A call
-- without `done` may, so a worker that found nothing makes such a call next.

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
#variable_conflict use_variable
begin
    if done is null then
        return query select * from outbox.claim(subscription, worker, max_messages, lease);
        return;
    end if;
    if cardinality(outbox.complete(done)) = 0 then
        raise exception 'the lease is lost'
            using errcode = 'OB003',
                detail = 'All its deliveries have ended, or it has expired and was taken back. Nothing was completed or claimed.',
                hint = 'Another worker may do its work again; go on with outbox.claim().';
    end if;
    return query select * from outbox.claim(subscription, worker, max_messages, lease);
end
$$;
comment on function outbox.complete_and_claim is
    'Completes all deliveries that the lease done still holds (null: completes nothing), and claims the next deliveries '
    'like claim(), in one transaction: both take effect, or neither. Defaults and ranges are those of claim(). When no '
    'rows are returned, call it once more with done null before waiting, because the deliveries that were completed may '
    'have held others back. Errors: OB003 the lease is lost (nothing was completed or claimed), and those of claim()';

insert into outbox._capability values
    ('consume', 'function outbox.complete_and_claim');
