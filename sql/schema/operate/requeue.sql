-- Requeues dead letters: makes their deliveries due again.

-- API: private
-- Makes the delivery of a dead letter due now, with a new budget of attempts and its old id. Later deliveries of its key
-- wait for it. Raises OB004 if that is not possible.
create function outbox_internal.requeue(letter outbox.dead_letter, actor text, note text) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    source outbox.subscription;
    own outbox.message;
    made record;
    delivery bigint;
begin
    if letter.resolution = 'requeued' then
        raise exception 'dead letter % was requeued already', letter.id
            using errcode = 'OB004', detail = format('By "%s", at %s.', letter.resolved_by, letter.resolved_at);
    end if;
    -- locked, so that the subscription does not end meanwhile
    select * into source from outbox.subscription s
    where s.id = letter.subscription_id and s.deleted_at is null
    for share;
    select * into own from outbox.message m where m.segment = letter.message_segment and m.id = letter.message_id;
    if source.id is null or own.id is null then
        raise exception 'dead letter % cannot be requeued', letter.id
            using errcode = 'OB004', detail = case when source.id is null
                then 'Its subscription does not exist any more.' else 'Its message is no longer stored.' end;
    end if;
    if own.payload is null and own.body is null then
        raise exception 'dead letter % cannot be requeued', letter.id
            using errcode = 'OB004', detail = 'Its message has been erased.';
    end if;
    -- Without a transform, the content is not read: it may be unreadable.
    if letter.payload is null and source.transform is not null then
        -- The transform failed, or was not called: the delivery must not get the message's own payload.
        select * into made from outbox_internal.transform_one(source, letter."position", own);
        if made.error is not null or made.filtered then
            raise exception 'dead letter % cannot be requeued', letter.id using errcode = 'OB004',
                detail = coalesce('The transform failed: ' || made.error || '.', 'The transform returned null.'),
                hint = case when made.filtered then 'The message is not for the subscription: outbox.ignore_dead_letter() closes it.'
                    else 'Correct the transform.' end;
        end if;
        letter.payload := made.payload;
    end if;
    delete from outbox.cancelled c where c.message_id = letter.message_id;
    insert into outbox.delivery (id, subscription_id, position, message_id, message_segment, pull, state, blocked, priority,
        max_attempts, due_at, expires_at, key, first_attempt_at, last_attempt_at, last_status, last_error_class,
        last_error, created_at, payload)
    values (coalesce(letter.delivery_id, nextval('outbox.delivery_id_seq')), letter.subscription_id, letter.position,
        letter.message_id, letter.message_segment, source.endpoint_id is null, 'pending',
        -- the router unblocks it when no other delivery of its key is under way
        letter.key is not null, own.priority,
        own.max_attempts, clock_timestamp(),
        -- an expired delivery would expire again
        'infinity', letter.key, letter.first_attempt_at, letter.last_attempt_at, letter.last_status,
        letter.last_error_class, letter.last_error, letter.created_at, letter.payload)
    on conflict (subscription_id, position, run) do nothing
    returning id into delivery;
    if delivery is null then
        raise exception 'dead letter % cannot be requeued', letter.id
            using errcode = 'OB004', detail = 'Its delivery waits already.';
    end if;
    perform outbox_internal.lower_claim_hint(letter.subscription_id, own.priority, clock_timestamp() - interval '1 min');
    perform outbox_internal.settle_dead_letter(letter, 'requeued', actor, note);
    perform outbox_internal.deliveries_changed();
    return delivery;
end
$$;

-- API: public
create function outbox.requeue(dead_letter_id bigint, actor text default session_user, note text default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return outbox_internal.requeue(outbox_internal.dead_letter(dead_letter_id), outbox_internal.check_actor(actor), note);
end
$$;
comment on function outbox.requeue is
    'Makes the delivery of a dead letter due now, with all its attempts again, and returns the id of the delivery. The '
    'receiver gets the same webhook id. A requeued delivery does not expire, and a cancelled message is not cancelled any '
    'more. Errors: OB001 no such dead letter, OB004 it was requeued already, its subscription has ended, its message is '
    'gone or erased, or the transform makes no payload of it, 22023 actor is empty';

-- API: public
create function outbox.requeue_all(
    actor text default session_user,
    subscription text default null,
    reason text default null,
    topic text default null,
    dead_after timestamptz default null,
    dead_before timestamptz default null,
    note text default null,
    max_rows int default 1000,
    dry_run boolean default false
) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    who text := outbox_internal.check_actor(actor);
    only_of int := case when subscription is not null then outbox_internal.subscription_id(subscription) end;
    letter outbox.dead_letter;
    requeued bigint := 0;
begin
    if max_rows is null or max_rows not between 1 and 100000 then
        raise exception 'max_rows must be between 1 and 100000' using errcode = 'invalid_parameter_value';
    end if;
    for letter in
        select l.* from outbox.dead_letter l
        join outbox.message m on m.segment = l.message_segment and m.id = l.message_id
            -- not erased
            and (m.payload is not null or m.body is not null)
        join outbox.subscription s on s.id = l.subscription_id and s.deleted_at is null
        where l.resolution = 'open'
            and (only_of is null or l.subscription_id = only_of)
            and (reason is null or l.reason = reason)
            and (topic is null or m.topic = topic)
            and (dead_after is null or l.dead_at >= dead_after)
            and (dead_before is null or l.dead_at < dead_before)
        order by l.id
        limit max_rows
        for update of l skip locked
        -- locked, so that no subscription ends meanwhile
        for share of s
    loop
        if dry_run then
            requeued := requeued + 1;
        elsif letter.payload is not null or not exists (
            select from outbox.subscription s where s.id = letter.subscription_id and s.transform is not null
        ) then
            perform outbox_internal.requeue(letter, who, note);
            requeued := requeued + 1;
        else
            begin
                perform outbox_internal.requeue(letter, who, note);
                requeued := requeued + 1;
            exception when sqlstate 'OB004' or undefined_function then
                -- The transform still makes no payload of this message.
                null;
            end;
        end if;
    end loop;
    return requeued;
end
$$;
comment on function outbox.requeue_all is
    'Requeues up to max_rows (default 1000; 1 to 100000) open dead letters, oldest first, and returns how many. subscription, '
    'reason, topic, dead_after (inclusive) and dead_before (exclusive) select them; null: all. dry_run: only counts. Dead '
    'letters that cannot be requeued are left out. Errors: OB001 no such subscription, 22023 max_rows is out of range, or actor is '
    'empty';

insert into outbox._capability values
    ('admin', 'function outbox.requeue'),
    ('admin', 'function outbox.requeue_all');
