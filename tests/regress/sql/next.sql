-- The cycle of a worker in one call: complete the last lease, and claim the next deliveries.
create extension pg_outbox;
select outbox.subscribe('jobs', '{job.#}') is not null as subscribed;
select outbox.subscribe('steps', '{step.#}', ordering => 'key') is not null as subscribed;
select count(*) from (select outbox.enqueue('job.do', to_jsonb(n)) from generate_series(1, 7) n) e;
create view counts as
select (select count(*) from outbox.lease) as leases, (select count(*) from outbox.delivery) as deliveries,
    (select count(*) from outbox.attempt where outcome = 'completed') as completed;

-- Without a lease the call only claims. Like a claim, it routes if there is no dispatcher.
select min(lease) as first, jsonb_agg(payload order by position) as got from outbox.complete_and_claim(null, 'jobs', 'w', 2) \gset
\echo :got
table counts;
-- The call completes two deliveries and claims three. Worker, lease and attempt are those of a claim.
select min(lease) as second, jsonb_agg(payload order by position) as got, min(attempt) as attempt
from outbox.complete_and_claim(:first, 'jobs', 'host:1', 3, '5 min') \gset
\echo :got :attempt
table counts;
select worker, expires_at - claimed_at as lasts, cardinality(delivery_ids) from outbox.lease;
-- A lost lease changes nothing.
select count(*) from outbox.complete_and_claim(:first, 'jobs', 'w');
select count(*) from outbox.complete_and_claim(424242, 'jobs', 'w');
table counts;
-- A refused call changes nothing.
select count(*) from outbox.complete_and_claim(:second, 'jobs', '');
select count(*) from outbox.complete_and_claim(:second, 'jobs', 'w', 0);
select count(*) from outbox.complete_and_claim(:second, 'jobs', 'w', null);
select count(*) from outbox.complete_and_claim(:second, 'jobs', 'w', 1, '0 s');
select count(*) from outbox.complete_and_claim(:second, 'nobody', 'w');
select count(*) from outbox.complete_and_claim(:second, null, 'w');
table counts;
-- One of three deliveries of the lease has failed and waits. The call completes the other two.
select cardinality(outbox.fail(:second, (select delivery_ids[1:1] from outbox.lease), 'x', '1 hour')) as failed;
select min(lease) as third, jsonb_agg(payload order by position) as got from outbox.complete_and_claim(:second, 'jobs', 'w', 1) \gset
\echo :got
table counts;
-- With a paused subscription the call completes, and claims nothing.
select outbox.pause_subscription('jobs') is not null as paused;
select count(*) from outbox.complete_and_claim(:third, 'jobs', 'w');
table counts;
select outbox.resume_subscription('jobs') is not null as resumed;
-- A key has one delivery in flight. The next call frees the delivery that waits for it, and need not complete anything.
-- The completed and the claimed subscription may differ.
select count(*) from (select outbox.enqueue('step.do', to_jsonb(n), 'k') from generate_series(1, 2) n) e;
select min(lease) as third, jsonb_agg(payload order by position) as got from outbox.complete_and_claim(null, 'jobs', 'w', 10) \gset
\echo :got
select count(*) from outbox_internal.route_inline();
select min(lease) as step, jsonb_agg(payload) as got from outbox.complete_and_claim(:third, 'steps', 'w', 10) \gset
\echo :got
select payload from outbox.complete_and_claim(:step, 'steps', 'w', 10);
select min(lease) as step, jsonb_agg(payload) as got from outbox.complete_and_claim(null, 'steps', 'w', 10) \gset
\echo :got
select payload from outbox.complete_and_claim(:step, 'steps', 'w', 10);
table counts;

-- The capability consume is required.
create role outbox_regress_next;
set role outbox_regress_next;
select count(*) from outbox.complete_and_claim(null, 'jobs', 'w');
reset role;
select outbox.grant_to('outbox_regress_next', 'consume');
set role outbox_regress_next;
select count(*) from outbox.complete_and_claim(null, 'jobs', 'w');
reset role;
drop owned by outbox_regress_next;
drop role outbox_regress_next;
