-- ensure_subscription: a subscription is as described afterwards, whether there was one or not.
create extension pg_outbox;
select count(outbox.enqueue('job.a', '{}')) from generate_series(1, 3);
select status from outbox_internal.tick_inline(1000);
-- A new subscription of workers begins at the first stored message.
select outbox.ensure_subscription('work', '{job.#}');
select outbox.ensure_subscription('work', '{job.#}');
select count(*) as control_messages from outbox.message where topic = 'outbox.control';
select name, endpoint, pull, topics, filter, max_attempts, notify from outbox.subscription_status;
select starts_after from outbox.subscription_version;
-- Settings that are given are changed, others stay as they are.
select outbox.ensure_subscription('work', '{job.#}', max_attempts => 5, ttl => '90 s', labels => '{"team": null}');
select outbox.ensure_subscription('work', '{job.#}', max_attempts => 5, ttl => '00:01:30', labels => '{"team": null}');
select outbox.ensure_subscription('work', '{job.#}', notify => true, start => 'latest');
select max_attempts, ttl, labels, notify from outbox.subscription;
-- Topics and filter are always as given.
select outbox.ensure_subscription('work', '{job.#, task.*}', filter => '{"tenant": "acme"}');
select topics, filter from outbox.subscription_status;
select outbox.ensure_subscription('work', '{job.#}', max_attempts => 0);
select topics, filter, max_attempts from outbox.subscription_status;
-- One that has ended is taken up again.
select outbox.unsubscribe('work') is not null;
select outbox.ensure_subscription('work', '{job.#}');
select id, max_attempts, deleted_at from outbox.subscription;
-- A pushed subscription begins at the end of the feed, and stays pushed.
select outbox.create_endpoint('e', 'https://example.com') is not null;
select outbox.ensure_subscription('hooks', '{order.#}', 'e');
select outbox.ensure_subscription('hooks', '{order.#}', 'e');
select endpoint, pull, waiting, processing, oldest_due_at, last_claim_at, dead_letters from outbox.subscription_status where name = 'hooks';
select v.starts_after from outbox.subscription_version v join outbox.subscription s on s.id = v.subscription_id where s.name = 'hooks';
select outbox.ensure_subscription('hooks', '{order.#}');
select outbox.ensure_subscription('work', '{job.#}', 'e');
-- Refused arguments.
select outbox.ensure_subscription(null, '{a}');
select outbox.ensure_subscription('new', '{}');
select outbox.ensure_subscription('new', '{{a,b},{c,d}}');
select outbox.ensure_subscription('new', '{a}', labels => jsonb_build_object('team', repeat('x', 20000)));
select outbox.ensure_subscription('new', '{a}', ordering => repeat('x', 20000));
select outbox.ensure_subscription('new', '{a}', 'missing');
select outbox.ensure_subscription('new', '{a}', start => 'nonsense');
select outbox.ensure_subscription('work', '{job.#}', ordering => 'sometimes');
-- Texts of operators are bounded, and errors do not repeat long arguments.
select outbox.cancel(1, reason => repeat('r', 4097));
select outbox.disable_endpoint('e', repeat('r', 4097));
select outbox.requeue_all(actor => repeat('a', 256));
select outbox.requeue_all(actor => E'a\nb');
select outbox.requeue_all(subscription => repeat('s', 10000));
select outbox.list_messages(state => repeat('s', 10000));
-- Leases, with the names of their workers and subscriptions.
select count(*) from outbox.claim('work', 'w1', 2);
select subscription, worker, deliveries, age > '0' as held, expires_in > '0' as goes_on, cardinality(delivery_ids) from outbox.lease_status;
select waiting, processing, oldest_due_age > '0' as due, last_claim_at > created_at as claimed from outbox.subscription_status where name = 'work';
