-- Commands on waiting deliveries: retry now, reschedule, or move to the dead letters.

-- API: private
-- Locks and returns a waiting delivery. Raises OB001 if there is none, OB002 if it has ended, OB003 if a worker has it.
create function outbox_internal.waiting_delivery(delivery_id bigint) returns outbox.delivery
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found outbox.delivery;
    holder outbox.lease;
begin
    perform outbox_internal.unbundle_delivery(delivery_id);
    select * into found from outbox.delivery d where d.id = waiting_delivery.delivery_id for update;
    perform outbox_internal.lower_claim_hint(found.subscription_id, found.priority, found.due_at) where found.pull;
    holder := case when found.id is null then outbox_internal.bundle_holder(delivery_id) end;
    if found.id is null and holder.id is null then
        perform outbox_internal.raise_ended(delivery_id);
    end if;
    if found.state = 'processing' then
        select * into holder from outbox.lease l where l.id = found.lease;
    end if;
    if holder.id is not null or found.state = 'processing' then
        raise exception 'delivery % is leased', delivery_id
            using errcode = 'OB003', detail = format('Worker "%s" has it until %s.', holder.worker, holder.expires_at);
    end if;
    return found;
end
$$;

-- API: public
create function outbox.move_to_dead_letters(delivery_id bigint, reason text, actor text default session_user) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    who text := outbox_internal.check_actor(actor);
    waiting outbox.delivery := outbox_internal.waiting_delivery(delivery_id);
    letter bigint;
begin
    update outbox.delivery d
    set last_error_class = 'moved', last_error = outbox_internal.shorten(coalesce(move_to_dead_letters.reason, 'moved by ' || who))
    where d.id = waiting.id;
    perform outbox_internal.dead_letter_deliveries(array[waiting.id], array['moved'], true);
    perform outbox_internal.deliveries_changed();
    select max(l.id) into letter from outbox.dead_letter l where l.delivery_id = waiting.id;
    perform outbox_internal.audit('move_to_dead_letters', format('delivery %s', waiting.id), reason,
        jsonb_build_object('actor', who, 'message_id', waiting.message_id, 'dead_letter', letter));
    return letter;
end
$$;
comment on function outbox.move_to_dead_letters is
    'Moves a waiting delivery to the dead letters, with the reason "moved" and the argument reason as its last_error. '
    'Returns the id of the dead letter. Errors: OB001 no such delivery, OB002 it has ended, OB003 a worker has it, 22023 '
    'actor is empty';

-- API: public
create function outbox.reschedule(
    delivery_id bigint,
    due_at timestamptz,
    actor text default session_user,
    priority int default null,
    expires_at timestamptz default null
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    who text := outbox_internal.check_actor(actor);
    waiting outbox.delivery := outbox_internal.waiting_delivery(delivery_id);
begin
    if due_at is null then
        raise exception 'due_at must not be null' using errcode = 'null_value_not_allowed';
    end if;
    if priority not between -100 and 100 then
        raise exception 'priority must be between -100 and 100' using errcode = 'invalid_parameter_value';
    end if;
    perform outbox_internal.check_time('due_at', due_at);
    perform outbox_internal.check_time('expires_at', expires_at);
    if expires_at <= due_at then
        raise exception 'expires_at must be later than due_at' using errcode = 'invalid_parameter_value';
    end if;
    update outbox.delivery d
    set due_at = reschedule.due_at, priority = coalesce(reschedule.priority, d.priority),
        expires_at = coalesce(reschedule.expires_at, d.expires_at), updated_at = clock_timestamp()
    where d.id = waiting.id;
    perform outbox_internal.lower_claim_hint(waiting.subscription_id, coalesce(reschedule.priority, waiting.priority),
        reschedule.due_at);
    perform outbox_internal.deliveries_changed();
    perform outbox_internal.audit('reschedule', format('delivery %s', waiting.id), null,
        jsonb_build_object('actor', who, 'message_id', waiting.message_id, 'from', waiting.due_at, 'to', due_at,
            'priority', priority, 'expires_at', expires_at));
end
$$;
comment on function outbox.reschedule is
    'Changes when a waiting delivery is due, and optionally its priority (-100 to 100) and its expiry; null leaves these '
    'as they are. Errors: OB001 no such delivery, OB002 it has ended, OB003 a worker has it, 22004 due_at is null, 22023 a '
    'value is out of range, or actor is empty';

-- API: public
create function outbox.retry(message_id bigint, subscription text, actor text default session_user) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    source int := outbox_internal.subscription_id(subscription);
    who text := outbox_internal.check_actor(actor);
    waiting outbox.delivery;
    letter outbox.dead_letter;
begin
    -- The lock keeps the subscription from ending meanwhile.
    perform from outbox.subscription s where s.id = source for share;
    source := outbox_internal.subscription_id(subscription);
    -- Two rounds: the delivery may become a dead letter, or the dead letter a delivery, while this waits for the lock.
    for look in 1..2 loop
        perform outbox_internal.unbundle_messages(array[message_id], true);
        select * into waiting from outbox.delivery d
        where d.message_id = message_id and d.subscription_id = source
        order by d.position desc
        limit 1
        for update;
        if waiting.id is not null then
            waiting := outbox_internal.waiting_delivery(waiting.id);
            update outbox.delivery d
            set attempt = 0, due_at = clock_timestamp(), updated_at = clock_timestamp()
            where d.id = waiting.id;
            perform outbox_internal.lower_claim_hint(source, waiting.priority, clock_timestamp() - interval '1 min');
            perform outbox_internal.deliveries_changed();
            perform outbox_internal.audit('retry', format('delivery %s', waiting.id), null,
                jsonb_build_object('actor', who, 'message_id', message_id));
            return waiting.id;
        end if;
        select * into letter from outbox.dead_letter l
        where l.message_id = message_id and l.subscription_id = source and l.resolution <> 'requeued'
        order by l.id desc
        limit 1
        for update;
        if letter.id is not null then
            return outbox_internal.requeue(letter, who, null);
        end if;
    end loop;
    if exists (
        select from outbox_internal.attempts_of(message_id) a
        where a.subscription_id = source and a.outcome = 'completed'
    ) then
        raise exception 'message % was delivered to subscription "%"', message_id, subscription using errcode = 'OB002',
            hint = 'resend() delivers it once more.';
    end if;
    raise exception 'message % has no delivery for subscription "%" that could be retried', message_id, subscription
        using errcode = 'OB001', detail = 'It did not match, it is not routed yet, or its first attempt is in flight.';
end
$$;
comment on function outbox.retry is
    'Makes a waiting, failed, dead or expired delivery of a message to a subscription due now, with its attempts counted '
    'from 0 again. Returns the id of the delivery. by: default session_user. Errors: OB001 no such subscription, or there '
    'is no such delivery (not matched, not routed yet, or in its first attempt); OB002 it was completed; OB003 a worker '
    'has it; OB004 its message was erased or is gone';

insert into outbox._capability values
    ('admin', 'function outbox.move_to_dead_letters'),
    ('admin', 'function outbox.reschedule'),
    ('admin', 'function outbox.retry');
