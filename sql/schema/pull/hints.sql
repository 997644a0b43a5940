-- Claim hints: where the scan for the next delivery starts, per subscription and priority. Kept in shared memory.

-- API: private
-- What is known about the front of a subscription's index, and under its negative number of that of its bundles; see _pick
-- and the library's `marks`. since: microseconds, see _time. In a statement before the one that claims.
create function outbox._marks(subscription_id int, out levels int[], out since bigint[]) language c volatile strict
as 'MODULE_PATHNAME', 'outbox_marks';

-- API: private
create function outbox._set_marks(subscription_id int, levels int[], since bigint[], walked interval) returns void
language c volatile strict as 'MODULE_PATHNAME', 'outbox_set_marks';

-- API: private
create function outbox._advance_marks(subscription_id int, levels int[], since bigint[]) returns void
language c volatile strict as 'MODULE_PATHNAME', 'outbox_advance_marks';

-- API: private
-- CPU time since the marks were read, if that is much for so many deliveries: a walk over what was worked off. Not the time
-- of the clock: a claim that waits for its turn is not slow.
create function outbox._slow_walk(found int) returns interval
language c volatile strict as 'MODULE_PATHNAME', 'outbox_slow_walk';

-- API: private
-- From where on to look for bundles.
create function outbox._bundles_since(subscription_id int) returns timestamptz
language sql volatile
return coalesce(outbox._time(nullif(((outbox._marks(-subscription_id)).since)[1], 0)), '-infinity');

-- API: private
-- What _pick_one() needs to know of the subscription of this name beforehand; null: this session has not claimed from it
-- yet. level, since, bundles_since: its marks, if there are any.
create function outbox._marks_of(
    name text,
    out subscription_id int,
    out level int,
    out since bigint,
    out bundles_since bigint
) language c volatile as 'MODULE_PATHNAME', 'outbox_marks_of';

-- API: private
-- Tells the session which subscription has that name.
create function outbox._note_name(name text, subscription_id int) returns void
language c volatile strict as 'MODULE_PATHNAME', 'outbox_note_name';

-- API: private
-- After one delivery was found that is due since then: moves the mark on, or makes one if that took so much CPU time.
create function outbox._note_one(subscription_id int, level int, due_at timestamptz, marked boolean, slow_us int)
returns void language c volatile strict as 'MODULE_PATHNAME', 'outbox_note_one';
