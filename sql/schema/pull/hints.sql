-- Claim hints: where the index scan of a claim starts, per subscription and priority. They are in shared memory, and the
-- library's module `shared::claim_hints` describes them.

-- API: private
-- Returns the claim hints of a subscription, or of its bundles when subscription_id is negative, see outbox_internal.pick().
-- levels: priorities, highest first; 99999 at the end: there are lower ones, which were not scanned. since: for each
-- priority, the due time where the scan starts, in microseconds as in outbox_internal.time(). Null: there are no hints, or
-- this session shall scan from the start. Called in a statement before the one that claims, so that the hints are older than
-- the snapshot of the claim.
create function outbox_internal.claim_hints(subscription_id int, out levels int[], out since bigint[])
language c volatile strict
as 'MODULE_PATHNAME', 'outbox_claim_hints';

-- API: private
-- Sets the hints after a slow scan from the start. walked: CPU time of the scan; the hints hold for 50 times as long,
-- between 1 and 60 seconds, without shared memory for 1 second.
create function outbox_internal.set_claim_hints(subscription_id int, levels int[], since bigint[], walked interval)
returns void
language c volatile strict as 'MODULE_PATHNAME', 'outbox_set_claim_hints';

-- API: private
-- Advances the hints to where a claim has ended, unless a delivery became claimable since the claim began.
create function outbox_internal.advance_claim_hints(subscription_id int, levels int[], since bigint[]) returns void
language c volatile strict as 'MODULE_PATHNAME', 'outbox_advance_claim_hints';

-- API: private
-- CPU time since the hints were read, if that is much for the number of deliveries found (more than 2 ms, and 50 µs for each
-- delivery): the scan has read many entries of deliveries that have ended. Null: the scan was fast. CPU time and not elapsed
-- time, because a claim that waits for its turn is not slow.
create function outbox_internal.slow_walk(found int) returns interval
language c volatile strict as 'MODULE_PATHNAME', 'outbox_slow_walk';

-- API: private
-- For tests: every scan of this session counts as slow, so each claim sets hints, which hold for a minute.
create function outbox_internal.remember_every_scan() returns void
language c volatile as 'MODULE_PATHNAME', 'outbox_remember_every_scan';

-- API: private
-- The due time at which a scan for bundles starts.
create function outbox_internal.bundles_since(subscription_id int) returns timestamptz
language sql volatile
return coalesce(outbox_internal.time(nullif(((outbox_internal.claim_hints(-subscription_id)).since)[1], 0)), '-infinity');

-- API: private
-- Tells this session the id of the subscription that has this name.
create function outbox_internal.note_name(name text, subscription_id int) returns void
language c volatile strict as 'MODULE_PATHNAME', 'outbox_note_name';
