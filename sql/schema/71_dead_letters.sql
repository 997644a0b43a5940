-- Dead letters and the life of a delivery in an operator's hands: requeue, retry, resolve, cancel, reschedule.
--
-- What each of these functions changes is on record in outbox.audit. `by` is who asked for it; the role that was logged in
-- is recorded beside it.

-- API: public
create view outbox.dead_letters as
select l.id,
    l.delivery_id,
    s.name as subscription,
    e.name as endpoint,
    l.url,
    l.message_id,
    outbox.webhook_id(m.id, m.enqueued_at) as webhook_id,
    l.position,
    m.topic,
    m.key,
    m.tenant,
    m.aggregate_type,
    m.aggregate_id,
    m.publisher,
    m.content_type,
    m.headers,
    m.metadata,
    m.payload,
    m.body,
    m.enqueued_at,
    l.state,
    l.reason,
    l.attempt,
    l.last_status,
    l.last_error_class as error_class,
    l.last_error,
    l.first_attempt_at,
    l.last_attempt_at,
    l.created_at,
    l.dead_at,
    clock_timestamp() - l.dead_at as age,
    clock_timestamp() - l.dead_at
        > coalesce(nullif(current_setting('pg_outbox.dead_letter_old_after', true), ''), '1d')::interval as is_old,
    l.resolution,
    l.resolution in ('resolved', 'ignored', 'requeued') as is_resolved,
    l.resolved_at,
    l.resolved_by,
    l.resolution_note
from outbox.dead_letter l
left join outbox.subscription s on s.id = l.subscription_id
left join outbox.endpoint e on e.id = l.endpoint_id
left join outbox.message m on m.segment = l.message_segment and m.id = l.message_id;
comment on view outbox.dead_letters is
    'Deliveries that are not tried again by themselves, with their message; resolution is open until somebody has dealt with it';

-- API: public
create function outbox.dead_letters_older_than(age interval) returns setof outbox.dead_letters
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select * from outbox.dead_letters l
    where l.resolution = 'open' and l.dead_at < clock_timestamp() - dead_letters_older_than.age
    order by l.id;
end;
comment on function outbox.dead_letters_older_than is 'Open dead letters that died longer ago than this';

-- API: private
create function outbox._check_by(by text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if by is null or btrim(by) = '' then
        raise exception 'who asks for it must be given' using errcode = 'invalid_parameter_value',
            hint = 'The parameter "by" is kept in outbox.audit: a person, a ticket, a program.';
    end if;
    return btrim(by);
end
$$;

-- API: private
-- Locks a dead letter. OB001: there is none.
create function outbox._dead_letter(id bigint) returns outbox.dead_letter
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found outbox.dead_letter;
begin
    select * into found from outbox.dead_letter l where l.id = _dead_letter.id for update;
    if found.id is null then
        raise exception 'dead letter % does not exist', id
            using errcode = 'OB001', hint = 'The view outbox.dead_letters lists them.';
    end if;
    return found;
end
$$;

-- API: private
-- Marks a dead letter. Its key may go on, where it was blocked.
create function outbox._settle_dead_letter(letter outbox.dead_letter, resolution text, by text, note text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update outbox.dead_letter l
    set resolution = _settle_dead_letter.resolution, resolved_at = clock_timestamp(), resolved_by = by,
        resolution_note = note
    where l.id = letter.id;
    if letter.key is not null then
        insert into outbox._freed (subscription_id, key) values (letter.subscription_id, letter.key);
        perform outbox._look_at_deliveries();
    end if;
    perform outbox._audit(resolution, format('dead letter %s', letter.id), note,
        jsonb_build_object('by', by, 'message_id', letter.message_id, 'subscription_id', letter.subscription_id));
end
$$;

-- API: private
-- The delivery of a dead letter is due now, its budget anew, under its old id. What else of its key waits, waits for it.
create function outbox._requeue(letter outbox.dead_letter, by text, note text) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    source outbox.subscription;
    own outbox.message;
    delivery bigint;
begin
    if letter.resolution = 'requeued' then
        raise exception 'dead letter % was requeued already', letter.id
            using errcode = 'OB004', detail = format('By "%s", at %s.', letter.resolved_by, letter.resolved_at);
    end if;
    -- so that it does not end meanwhile
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
    delete from outbox.cancelled c where c.message_id = letter.message_id;
    insert into outbox.delivery (id, subscription_id, position, message_id, message_segment, pull, state, blocked, priority,
        max_attempts, due_at, expires_at, key, first_attempt_at, last_attempt_at, last_status, last_error_class,
        last_error, created_at)
    values (coalesce(letter.delivery_id, nextval('outbox.delivery_id_seq')), letter.subscription_id, letter.position,
        letter.message_id, letter.message_segment, source.endpoint_id is null, 'pending',
        -- the router unblocks it when nothing else of its key is under way
        letter.key is not null, own.priority,
        own.max_attempts, clock_timestamp(),
        -- what has expired once would expire again
        'infinity', letter.key, letter.first_attempt_at, letter.last_attempt_at, letter.last_status,
        letter.last_error_class, letter.last_error, letter.created_at)
    on conflict (subscription_id, position, run) do nothing
    returning id into delivery;
    if delivery is null then
        raise exception 'dead letter % cannot be requeued', letter.id
            using errcode = 'OB004', detail = 'Its delivery waits already.';
    end if;
    perform outbox._put_back(letter.subscription_id, own.priority, clock_timestamp() - interval '1 min');
    perform outbox._settle_dead_letter(letter, 'requeued', by, note);
    perform outbox._look_at_deliveries();
    return delivery;
end
$$;

-- API: public
create function outbox.requeue(id bigint, by text, note text default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return outbox._requeue(outbox._dead_letter(id), outbox._check_by(by), note);
end
$$;
comment on function outbox.requeue is
    'Makes the delivery of a dead letter due now, with all its tries; the receiver sees the same webhook id. Returns'
    ' the delivery''s id. OB004: requeued already, or the message is gone';

-- API: public
create function outbox.requeue_all(
    by text,
    subscription text default null,
    reason text default null,
    topic text default null,
    dead_after timestamptz default null,
    dead_before timestamptz default null,
    note text default null,
    max int default 1000,
    dry_run boolean default false
) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    who text := outbox._check_by(by);
    only_of int := case when subscription is not null then outbox._subscription_id(subscription) end;
    letter outbox.dead_letter;
    requeued bigint := 0;
begin
    if max is null or max not between 1 and 100000 then
        raise exception 'max must be between 1 and 100000' using errcode = 'invalid_parameter_value';
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
        limit max
        for update of l skip locked
        -- so that none ends meanwhile
        for share of s
    loop
        requeued := requeued + 1;
        if not dry_run then
            perform outbox._requeue(letter, who, note);
        end if;
    end loop;
    return requeued;
end
$$;
comment on function outbox.requeue_all is
    'Requeues up to max open dead letters, oldest first: of a subscription, reason, topic, time. dry_run only counts. Returns how many';

-- API: private
create function outbox._close(id bigint, resolution text, by text, note text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    letter outbox.dead_letter := outbox._dead_letter(id);
    who text := outbox._check_by(by);
begin
    if letter.resolution <> 'open' then
        raise exception 'dead letter % is not open', id
            using errcode = 'OB004',
                detail = format('It was %s by "%s", at %s.', letter.resolution, letter.resolved_by, letter.resolved_at);
    end if;
    perform outbox._settle_dead_letter(letter, resolution, who, note);
end
$$;

-- API: public
create function outbox.resolve(id bigint, by text, note text default null) returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select outbox._close(id, 'resolved', by, note);
end;
comment on function outbox.resolve is 'Marks an open dead letter as dealt with in another way; OB004: it is not open';

-- API: public
create function outbox.ignore(id bigint, by text, note text default null) returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select outbox._close(id, 'ignored', by, note);
end;
comment on function outbox.ignore is 'Marks an open dead letter as not worth dealing with; OB004: it is not open';

-- API: public
create function outbox.delete_dead_letter(id bigint, by text, note text default null) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    letter outbox.dead_letter := outbox._dead_letter(id);
begin
    perform outbox._settle_dead_letter(letter, 'ignored', outbox._check_by(by), note);
    delete from outbox.dead_letter l where l.id = delete_dead_letter.id;
    perform outbox._audit('delete_dead_letter', format('dead letter %s', id), note, jsonb_build_object('by', by) || to_jsonb(letter));
end
$$;
comment on function outbox.delete_dead_letter is 'Removes a dead letter, in whatever state; what it was is kept in outbox.audit';

-- API: public
create function outbox.dlq_stats(
    out total bigint,
    out unresolved bigint,
    out resolved bigint,
    out oldest_age_seconds double precision,
    out newest_age_seconds double precision,
    out top_failure_reason text,
    out per_subscription jsonb,
    out last_updated timestamptz
)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    with by_reason as materialized (
        select l.subscription_id, l.reason, count(*) as n, count(*) filter (where l.resolution = 'open') as open,
            min(l.dead_at) filter (where l.resolution = 'open') as oldest,
            max(l.dead_at) filter (where l.resolution = 'open') as newest
        from outbox.dead_letter l
        group by l.subscription_id, l.reason
    )
    select coalesce(sum(r.n), 0)::bigint, coalesce(sum(r.open), 0)::bigint, coalesce(sum(r.n - r.open), 0)::bigint,
        extract(epoch from clock_timestamp() - min(r.oldest))::double precision,
        extract(epoch from clock_timestamp() - max(r.newest))::double precision,
        (select t.reason from by_reason t where t.open > 0 group by t.reason order by sum(t.open) desc, t.reason limit 1),
        coalesce((
            select jsonb_object_agg(coalesce(s.name || case when s.deleted_at is null then '' else ' (ended ' || s.id || ')' end,
                p.subscription_id::text), jsonb_build_object('total', p.n, 'unresolved', p.open))
            from (
                select b.subscription_id, sum(b.n) as n, sum(b.open) as open from by_reason b group by b.subscription_id
            ) p
            left join outbox.subscription s on s.id = p.subscription_id
        ), '{}'),
        clock_timestamp()
    from by_reason r;
end;
comment on function outbox.dlq_stats is
    'Dead letters in numbers: ages are those of open ones, in seconds; per_subscription: name to total and unresolved';

-- API: private
-- Locks a delivery that waits, for an operator. OB001: there is none; OB002: it has ended; OB003: a worker has it.
create function outbox._waiting_delivery(delivery_id bigint) returns outbox.delivery
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    found outbox.delivery;
    holder outbox.lease;
begin
    perform outbox._unbundle_delivery(delivery_id);
    select * into found from outbox.delivery d where d.id = _waiting_delivery.delivery_id for update;
    perform outbox._put_back(found.subscription_id, found.priority, found.due_at) where found.pull;
    holder := case when found.id is null then outbox._bundle_holder(delivery_id) end;
    if found.id is null and holder.id is null then
        perform outbox._raise_ended(delivery_id);
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
create function outbox.move_to_dlq(delivery_id bigint, by text, reason text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    who text := outbox._check_by(by);
    waiting outbox.delivery := outbox._waiting_delivery(delivery_id);
    letter bigint;
begin
    update outbox.delivery d
    set last_error_class = 'moved', last_error = outbox._short(coalesce(move_to_dlq.reason, 'moved by ' || who))
    where d.id = waiting.id;
    perform outbox._bury(array[waiting.id], array['moved'], true);
    perform outbox._look_at_deliveries();
    select max(l.id) into letter from outbox.dead_letter l where l.delivery_id = waiting.id;
    perform outbox._audit('move_to_dlq', format('delivery %s', waiting.id), reason,
        jsonb_build_object('by', who, 'message_id', waiting.message_id, 'dead_letter', letter));
    return letter;
end
$$;
comment on function outbox.move_to_dlq is
    'Makes a waiting delivery a dead letter, and returns that one''s id. OB001 no such delivery, OB002 it has ended, OB003 a worker has it';

-- API: public
create function outbox.reschedule(
    delivery_id bigint,
    due_at timestamptz,
    by text,
    priority int default null,
    expires_at timestamptz default null
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    who text := outbox._check_by(by);
    waiting outbox.delivery := outbox._waiting_delivery(delivery_id);
begin
    if due_at is null then
        raise exception 'due_at must not be null' using errcode = 'null_value_not_allowed';
    end if;
    if priority not between -100 and 100 then
        raise exception 'priority must be between -100 and 100' using errcode = 'invalid_parameter_value';
    end if;
    perform outbox._check_time('due_at', due_at);
    perform outbox._check_time('expires_at', expires_at);
    if expires_at <= due_at then
        raise exception 'expires_at must be later than due_at' using errcode = 'invalid_parameter_value';
    end if;
    update outbox.delivery d
    set due_at = reschedule.due_at, priority = coalesce(reschedule.priority, d.priority),
        expires_at = coalesce(reschedule.expires_at, d.expires_at), updated_at = clock_timestamp()
    where d.id = waiting.id;
    perform outbox._put_back(waiting.subscription_id, coalesce(reschedule.priority, waiting.priority), reschedule.due_at);
    perform outbox._look_at_deliveries();
    perform outbox._audit('reschedule', format('delivery %s', waiting.id), null,
        jsonb_build_object('by', who, 'message_id', waiting.message_id, 'from', waiting.due_at, 'to', due_at,
            'priority', priority, 'expires_at', expires_at));
end
$$;
comment on function outbox.reschedule is
    'Changes when a waiting delivery is tried, its priority and its end. OB001 no such delivery, OB002 it has ended, OB003 a worker has it';

-- API: public
create function outbox.retry(message_id bigint, subscription text, by text default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    source int := outbox._subscription_id(subscription);
    who text := coalesce(by, session_user);
    waiting outbox.delivery;
    letter outbox.dead_letter;
begin
    -- It shall not end meanwhile.
    perform from outbox.subscription s where s.id = source for share;
    source := outbox._subscription_id(subscription);
    -- Twice: it may become a dead letter, or a delivery again, while this waits for the lock.
    for look in 1..2 loop
        perform outbox._unbundle_messages(array[message_id], true);
        select * into waiting from outbox.delivery d
        where d.message_id = message_id and d.subscription_id = source
        order by d.position desc
        limit 1
        for update;
        if waiting.id is not null then
            waiting := outbox._waiting_delivery(waiting.id);
            update outbox.delivery d
            set attempt = 0, due_at = clock_timestamp(), updated_at = clock_timestamp()
            where d.id = waiting.id;
            perform outbox._put_back(source, waiting.priority, clock_timestamp() - interval '1 min');
            perform outbox._look_at_deliveries();
            perform outbox._audit('retry', format('delivery %s', waiting.id), null,
                jsonb_build_object('by', who, 'message_id', message_id));
            return waiting.id;
        end if;
        select * into letter from outbox.dead_letter l
        where l.message_id = message_id and l.subscription_id = source and l.resolution <> 'requeued'
        order by l.id desc
        limit 1
        for update;
        if letter.id is not null then
            return outbox._requeue(letter, who, null);
        end if;
    end loop;
    if exists (
        select from outbox._attempts_of(message_id) a
        where a.subscription_id = source and a.outcome = 'completed'
    ) then
        raise exception 'message % was delivered to subscription "%"', message_id, subscription using errcode = 'OB002',
            hint = 'resend() delivers it once more.';
    end if;
    raise exception 'message % has no delivery for subscription "%" that could be retried', message_id, subscription
        using errcode = 'OB001', detail = 'It did not match, it is not routed yet, or its first try is under way.';
end
$$;
comment on function outbox.retry is
    'Makes a failed, waiting, dead or expired delivery of a message due now, its tries counted anew. OB001 there is'
    ' none, OB002 it was completed, OB003 a worker has it, OB004 its message was erased or is gone';

-- API: public
create function outbox.cancel(message_id bigint, by text default null, reason text default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    who text := coalesce(nullif(btrim(by), ''), session_user);
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
    perform outbox._unbundle_messages(array[message_id], true);
    perform from outbox.delivery d where d.message_id = message_id order by d.id for update;
    select array_agg(d.id) filter (where d.state <> 'processing'), count(*) filter (where d.state = 'processing')
    into waiting, leased
    from outbox._open_of(message_id) d;
    if waiting is null then
        matches := outbox._matched(outbox._position_of(message_id));
        select count(distinct a.subscription_id) into ended
        from outbox._attempts_of(message_id) a
        where a.outcome in ('completed', 'dead', 'expired', 'cancelled', 'skipped');
        if leased > 0 and ended + leased >= matches then
            raise exception 'message % is being delivered', message_id
                using errcode = 'OB003', detail = format('Workers have %s of its deliveries.', leased);
        end if;
        if ended + leased >= matches or matches < 0 then
            raise exception 'message % has been dealt with', message_id
                using errcode = 'OB002', detail = case when matches <= 0 then 'No subscription matched it.'
                    else format('All %s deliveries have ended.', matches) end;
        end if;
    end if;
    insert into outbox.cancelled (message_id, cancelled_by, reason) values (message_id, who, reason);
    insert into outbox._called_off values (message_id);
    if waiting is not null then
        dropped := outbox._drop_cancelled(waiting);
    end if;
    perform outbox._look_at_deliveries();
    perform outbox._audit('cancel', format('message %s', message_id), reason,
        jsonb_build_object('by', who, 'deliveries', dropped));
    return dropped;
end
$$;
comment on function outbox.cancel is
    'Ends what of a message is not delivered yet; what a worker or a request has is not tried again if it fails.'
    ' Returns how many waiting deliveries that ended. OB001 no such message, OB002 nothing is left to cancel, OB003 all that is left is leased';

insert into outbox._capability values
    ('monitor', 'table outbox.dead_letters'),
    ('monitor', 'function outbox.dead_letters_older_than'),
    ('monitor', 'function outbox.dlq_stats'),
    ('admin', 'function outbox.requeue'),
    ('admin', 'function outbox.requeue_all'),
    ('admin', 'function outbox.resolve'),
    ('admin', 'function outbox.ignore'),
    ('admin', 'function outbox.delete_dead_letter'),
    ('admin', 'function outbox.move_to_dlq'),
    ('admin', 'function outbox.reschedule'),
    ('admin', 'function outbox.retry'),
    ('admin', 'function outbox.cancel');
