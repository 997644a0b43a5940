-- Cancels a message: its deliveries that are still waiting are ended.

-- API: public
create function outbox.cancel(message_id bigint, actor text default session_user, reason text default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    who text := outbox_internal.check_actor(actor);
    waiting bigint[];
    leased int;
    ended int;
    matches int;
    dropped bigint := 0;
begin
    if not exists (select from outbox.message m where m.id = message_id) then
        raise exception 'message % does not exist', message_id
            using errcode = 'OB001', detail = 'It was never committed, or retention has removed it.';
    end if;
    if exists (select from outbox.cancelled c where c.message_id = message_id) then
        raise exception 'message % was cancelled already', message_id using errcode = 'OB002';
    end if;
    perform outbox_internal.unbundle_messages(array[message_id], true);
    perform from outbox.delivery d where d.message_id = message_id order by d.id for update;
    select array_agg(d.id) filter (where d.state <> 'processing'), count(*) filter (where d.state = 'processing')
    into waiting, leased
    from outbox_internal.open_of(message_id) d;
    if waiting is null then
        matches := outbox_internal.matched(outbox_internal.position_of(message_id));
        select count(distinct a.subscription_id) into ended
        from outbox_internal.attempts_of(message_id) a
        where a.outcome in ('completed', 'dead', 'expired', 'cancelled', 'skipped');
        if leased > 0 and ended + leased >= matches then
            raise exception 'message % is being delivered', message_id
                using errcode = 'OB003', detail = format('Workers have %s of its deliveries.', leased);
        end if;
        if ended + leased >= matches or matches < 0 then
            raise exception 'message % has no delivery left to cancel', message_id
                using errcode = 'OB002', detail = case when matches <= 0 then 'No subscription matched it.'
                    else format('All %s deliveries have ended.', matches) end;
        end if;
    end if;
    insert into outbox.cancelled (message_id, cancelled_by, reason) values (message_id, who, reason);
    insert into outbox._cancelled_lately values (message_id);
    if waiting is not null then
        dropped := outbox_internal.drop_deliveries(waiting, 'cancelled');
    end if;
    perform outbox_internal.deliveries_changed();
    perform outbox_internal.audit('cancel', format('message %s', message_id), reason,
        jsonb_build_object('actor', who, 'deliveries', dropped));
    return dropped;
end
$$;
comment on function outbox.cancel is
    'Cancels a message: ends its deliveries that are still waiting, and returns how many were ended. A delivery that a '
    'worker has or that is in flight is not tried again if it fails. actor (default: session_user) and reason are stored in '
    'outbox.audit. Errors: OB001 no such message, OB002 it was cancelled already or nothing is left to cancel, OB003 all '
    'remaining deliveries are leased';

insert into outbox._capability values
    ('admin', 'function outbox.cancel');
