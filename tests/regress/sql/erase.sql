-- Erasing the content of a message.
create extension pg_outbox;
select outbox.create_endpoint('e', 'https://example.com') is not null;
select outbox.subscribe('s', '{#}', 'e') is not null;
select outbox.enqueue('person.moved', '{"name": "Ada"}', 'person-1', '{"trace": "Ada"}', '{"user_id": "Ada"}') as id \gset
select outbox.tick() as head \gset
insert into outbox.attempt (segment, position, message_id, started_at, finished_at, run, subscription_id, attempt, outcome,
    error, response_body, response_headers)
values (0, :head, :id, now(), now(), 0, 1, 1, 'failed', 'Ada?', 'Ada unknown', '{"x": "Ada"}');
insert into outbox.delivery (subscription_id, position, message_id, message_segment, state, due_at, last_error)
values (1, :head, :id, 0, 'failed', 'infinity', 'Ada?');
insert into outbox.dead_letter (subscription_id, position, message_id, message_segment, attempt, reason, created_at, last_error)
values (1, :head, :id, 0, 1, 'status', now(), 'Ada unknown');
select outbox.erase(:id);
select outbox.erase(:id, reason => ' ');
select outbox.erase(100000, reason => 'why');
-- A message cannot be erased while a worker holds its delivery.
insert into outbox.lease (id, subscription_id, worker, claimed_at, expires_at, delivery_ids)
values (1, 1, 'w1', now(), '2100-01-01', '{}');
update outbox.delivery set state = 'processing', lease = 1;
set timezone = 'UTC';
select outbox.erase(:id, reason => 'asked for');
update outbox.delivery set state = 'failed', lease = null;
select outbox.erase(:id, 'the DPO', 'asked for');
select id, topic, key, payload, body, headers, metadata from outbox.message where id = :id;
select position = :head as placed, topic, payload from outbox.read(0) where message_id = :id;
select outcome, error, response_body, response_headers from outbox.attempt where message_id = :id order by started_at;
select count(*) from outbox.delivery;
select last_error from outbox.dead_letter;
select message_id = :id as this, cancelled_by, reason from outbox.cancelled;
select action, reason, detail from outbox.audit;
-- No row contains the name any more.
select count(*) from outbox.message m where m::text like '%Ada%';
select count(*) from outbox.attempt a where a::text like '%Ada%';
update outbox.message set payload = '{}' where id = :id;
-- The message is not sent again. A replay passes it over and logs the reason.
select outbox.enqueue('person.moved', '{"name": "Bob"}') > :id as more;
select outbox.tick() > :head as more;
select outbox.replay('s') as replay;
select state, made from outbox_internal.replay_step(1, 100);
select message_id = :id as this, outcome, attempt, error from outbox.attempt where run = 1;
select m.payload from outbox.delivery d join outbox.message m on m.id = d.message_id where d.run = 1;
select outbox.resend(:id, 's');
-- Of the messages of a step, each has what its transform has made of it.
create schema app;
create function app.shout(message outbox.feed_message) returns jsonb language sql immutable
return jsonb_build_object('name', upper(message.payload ->> 'name'));
select outbox.subscribe('loud', '{person.#}', 'e', transform => 'app.shout(outbox.feed_message)', start => 'earliest') is not null;
select outbox.tick() > :head as more;
select outbox.replay('loud') as replay \gset
select state, made from outbox_internal.replay_step(:replay, 100);
select d.payload, m.payload from outbox.delivery d join outbox.message m on m.id = d.message_id where d.run = :replay;
