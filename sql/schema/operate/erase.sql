-- Erases the content of a message, for example on a request under a data protection law.

-- API: public
create function outbox.erase(message_id bigint, actor text default session_user, reason text default null) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
#variable_conflict use_variable
declare
    who text := outbox_internal.check_actor(actor);
    stored outbox.message;
    leased record;
    waiting bigint[];
begin
    if coalesce(btrim(reason), '') = '' then
        raise exception 'a reason is required' using errcode = 'OB006',
            hint = 'The reason is kept in outbox.audit and outbox.cancelled, with the actor.';
    end if;
    select * into stored from outbox.message m where m.id = message_id;
    if stored.id is null then
        raise exception 'message % does not exist', message_id
            using errcode = 'OB001', detail = 'It was never committed, or retention has removed it.';
    end if;
    -- Waits for a session that requeues one of the dead letters: its delivery then exists.
    perform from outbox.dead_letter l where l.message_id = message_id order by l.id for update;
    perform outbox_internal.unbundle_messages(array[message_id], true);
    perform from outbox.delivery d where d.message_id = message_id order by d.id for update;
    select l.worker, l.expires_at into leased
    from outbox_internal.open_of(message_id) d left join outbox.lease l on l.id = d.lease
    where d.state = 'processing'
    limit 1;
    if found then
        raise exception 'message % is being delivered', message_id
            using errcode = 'OB003', detail = format('Worker "%s" has it until %s.', leased.worker, leased.expires_at),
                hint = 'Erase it when the worker is done, or take the lease back with outbox.unlock_stale().';
    end if;
    -- The message is not delivered any more: not by waiting deliveries, not to a subscription that lags, and not by a
    -- replay.
    insert into outbox.cancelled (message_id, cancelled_by, reason) values (message_id, who, 'erased: ' || btrim(reason))
    on conflict on constraint cancelled_pkey do update set reason = excluded.reason;
    insert into outbox._cancelled_lately values (message_id);
    delete from outbox._manual_send e where e.message_id = message_id;
    waiting := array(select d.id from outbox.delivery d where d.message_id = message_id);
    perform outbox_internal.drop_deliveries(waiting, 'cancelled');
    -- The only change that rows of the logs may undergo. Ids, positions, times and counts stay.
    perform set_config('pg_outbox.erasing', 'on', true);
    update outbox.message m set payload = null, body = null, headers = null, metadata = null
    where m.segment = stored.segment and m.id = message_id;
    -- A snapshot of the stream may contain what the event said. It is made again from the events that are left.
    delete from outbox.snapshot s where stored.segment = -2 and s.stream = stored.key;
    update outbox.attempt a set response_body = null, response_headers = null, results = null, error = null
    where a.message_id = message_id;
    -- The row of a request with several messages has only the first of them as its message_id.
    update outbox.attempt a set response_body = null, response_headers = null, results = null, error = null
    where a.message_ids is not null and message_id = any (a.message_ids);
    perform set_config('pg_outbox.erasing', 'off', true);
    update outbox.dead_letter l set last_error = null, payload = null where l.message_id = message_id;
    perform outbox_internal.deliveries_changed();
    perform outbox_internal.audit('erase', format('message %s', message_id), btrim(reason),
        jsonb_build_object('actor', who, 'deliveries', cardinality(waiting)));
end
$$;
comment on function outbox.erase is
    'Erases the content of a message (payload, body, headers, metadata, and in the attempt log responses, results and '
    'errors), ends its waiting deliveries, and deletes the snapshots of its stream. Ids, topic, key, positions and counts '
    'stay. The message cannot be requeued, resent or replayed any more. actor (default: session_user) and reason are stored '
    'in outbox.audit. Errors: OB001 no such message, OB003 a worker has a delivery of it, OB006 the reason is empty, 55P03 '
    'a lock was not available within 5 s';

insert into outbox._capability values
    ('admin', 'function outbox.erase');
