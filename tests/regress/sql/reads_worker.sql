-- Reading messages, deliveries, the archive, and the notification log.
create extension pg_outbox;
select outbox.subscribe('jobs', '{job.#}', max_attempts => 1) is not null as subscribed;
select outbox.enqueue('job.a', '{"n": 1}', 'k1', tenant => 't1', aggregate_type => 'order', aggregate_id => '7',
    metadata => '{"correlation_id": "c", "schema_version": "2"}', headers => '{"severity": "high"}') is not null as enqueued;
select outbox.enqueue('job.b', '{"n": 2}', 'k2', tenant => 't1') is not null as enqueued;
select outbox.enqueue('job.c', '{"n": 3}', tenant => 't2', deliver_at => now() + interval '1 day') is not null as enqueued;
select outbox.enqueue('other.d', '{"n": 4}', tenant => 't2') is not null as enqueued;
do $$
begin
    for i in 1 .. 3000 loop
        exit when (select w.idle from outbox_internal.worker_slot() w);
        perform pg_sleep(0.01);
    end loop;
end
$$;
select topic, state from outbox.list_messages(tenant => 't1');
select outbox.complete(lease, array[delivery_id], '["their-1"]') is not null as done
from outbox.claim('jobs', 'w', 1) where topic = 'job.a';
select outbox.fail(lease, null, 'broken') is not null as failed from outbox.claim('jobs', 'w', 1) where topic = 'job.b';
select topic, state, correlation_id, schema_version, severity from outbox.list_messages() where topic not like 'outbox.%';
select topic from outbox.list_messages(max_messages => 2);
select topic from outbox.list_messages(max_messages => 1, skip => 1);
select topic from outbox.list_messages(before => (select max(id) from outbox.message));
select topic from outbox.list_messages(state => 'dead');
select topic from outbox.list_messages(state => 'pending');
select topic from outbox.list_messages(state => 'completed');
select topic from outbox.list_messages(state => 'skipped') where topic not like 'outbox.%';
select topic from outbox.list_messages(aggregate_type => 'order', aggregate_id => '7');
select topic from outbox.list_messages(severity => 'high', topic => 'job.a');
select outbox.count_messages(tenant => 't1');
select topic, state from outbox.get_message((select min(id) from outbox.message where topic = 'job.a'));
select outbox.get_message(999999);
select * from outbox.list_messages(max_messages => 0);
select subscription, state, attempt, retry_count, can_retry, next_attempt_at is not null as planned, is_due,
    completed_at is not null as completed, last_error
from outbox.delivery_status order by position;
select * from outbox.count_by_state();
select * from outbox.count_by_state('t1');
select topic, status, integrations_total, integrations_matched, integrations_succeeded, integrations_failed, retry_count,
    last_error, processed_at is not null as processed,
    (select jsonb_agg(jsonb_build_object('name', r -> 'integration_name', 'status', r -> 'status', 'id', r -> 'message_id'))
        from jsonb_array_elements(send_results) r) as results
from outbox.archive_list();
select topic from outbox.archive_list(status => 'failed');
select topic from outbox.archive_list(tenant => 't1');
select * from outbox.archive_stats('t1');
select * from outbox.archive_stats('t2');
select outbox.archive_get(999999);
select outbox.archive_get((select id from outbox.message where topic = 'job.c'));
select status from outbox.archive_get((select id from outbox.message where topic = 'job.a'));
select topic_code, subscription, identifier, delivery_method, status, skipped_reason, error
from outbox.notification_log() where topic_code not like 'outbox.%';
