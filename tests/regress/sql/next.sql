-- A worker's cycle in one call: what it has done is completed, what comes next is claimed.
create extension pg_outbox;
select outbox.subscribe('jobs', '{job.#}') is not null as subscribed;
select outbox.subscribe('steps', '{step.#}', ordering => 'key') is not null as subscribed;
select count(*) from (select outbox.enqueue('job.do', to_jsonb(n)) from generate_series(1, 7) n) e;
create view counts as
select (select count(*) from outbox.lease) as leases, (select count(*) from outbox.delivery) as deliveries,
    (select count(*) from outbox.attempt where outcome = 'completed') as completed;

-- Without a lease it claims, and like a claim it routes where no dispatcher does.
select min(lease) as first, jsonb_agg(payload order by position) as got from outbox.complete_and_claim(null, 'jobs', 'w', 2) \gset
\echo :got
table counts;
-- Completes two, claims three; a worker's name, a lease and a number of tries like any claim's.
select min(lease) as second, jsonb_agg(payload order by position) as got, min(attempt) as attempt
from outbox.complete_and_claim(:first, 'jobs', 'host:1', 3, '5 min') \gset
\echo :got :attempt
table counts;
select worker, expires_at - claimed_at as lasts, cardinality(delivery_ids) from outbox.lease;
-- A lost lease changes nothing.
select count(*) from outbox.complete_and_claim(:first, 'jobs', 'w');
select count(*) from outbox.complete_and_claim(424242, 'jobs', 'w');
table counts;
-- Nor does anything else that is refused.
select count(*) from outbox.complete_and_claim(:second, 'jobs', '');
select count(*) from outbox.complete_and_claim(:second, 'jobs', 'w', 0);
select count(*) from outbox.complete_and_claim(:second, 'jobs', 'w', null);
select count(*) from outbox.complete_and_claim(:second, 'jobs', 'w', 1, '0 s');
select count(*) from outbox.complete_and_claim(:second, 'nobody', 'w');
select count(*) from outbox.complete_and_claim(:second, null, 'w');
table counts;
-- What the lease still holds: one of its three has failed, and waits.
select cardinality(outbox.fail(:second, (select delivery_ids[1:1] from outbox.lease), 'x', '1 hour')) as failed;
select min(lease) as third, jsonb_agg(payload order by position) as got from outbox.complete_and_claim(:second, 'jobs', 'w', 1) \gset
\echo :got
table counts;
-- A paused subscription: it completes, and there is nothing to claim.
select outbox.pause_subscription('jobs') is not null as paused;
select count(*) from outbox.complete_and_claim(:third, 'jobs', 'w');
table counts;
select outbox.resume_subscription('jobs') is not null as resumed;
-- Of a key one at a time: whom the first keeps back is let in by the next call, which has nothing to complete. The two
-- subscriptions need not be the same.
select count(*) from (select outbox.enqueue('step.do', to_jsonb(n), 'k') from generate_series(1, 2) n) e;
select min(lease) as third, jsonb_agg(payload order by position) as got from outbox.complete_and_claim(null, 'jobs', 'w', 10) \gset
\echo :got
select count(*) from outbox._route_inline();
select min(lease) as step, jsonb_agg(payload) as got from outbox.complete_and_claim(:third, 'steps', 'w', 10) \gset
\echo :got
select payload from outbox.complete_and_claim(:step, 'steps', 'w', 10);
select min(lease) as step, jsonb_agg(payload) as got from outbox.complete_and_claim(null, 'steps', 'w', 10) \gset
\echo :got
select payload from outbox.complete_and_claim(:step, 'steps', 'w', 10);
table counts;

-- For those who may consume.
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
