//! The transaction that records a batch: outcomes and everything else that the checkpoint contains.
//!
//! Invariant: nothing of a batch is written without its checkpoint, and the checkpoint not without the rest.

use std::ops::Range;

use outbox_dispatch::fault::{Fault, Kind};
use outbox_dispatch::outcome::decisions::{Decision, UNRECORDABLE};
use outbox_dispatch::outcome::entry::{DeliveryOutcome, Entry, requests};
use outbox_dispatch::store::{Batch, Recorded};

use crate::pg::txn::{self, Failure};
use crate::store::apart::apart;
use crate::store::counters;
use crate::store::record::Recorder;
use crate::store::rows::RowMaker;

/// The result of a batch, and the subscriptions whose workers are to be notified.
pub type Written = (Recorded, Vec<i32>);

/// Writes everything together. Inside a transaction.
pub fn write(recorder: &mut Recorder, maker: &mut RowMaker, batch: &Batch<'_>) -> outbox_core::Result<Written> {
    recorder.outcomes(batch.entries)?;
    recorder.endpoints(batch.endpoints);
    recorder.routing(batch.routing);
    recorder.notes(batch.notes);
    maker.open_rows(batch.rows, batch.now);
    let tell = maker.opened(batch.rows);
    maker.end(batch.ended);
    let ended = maker.end_cancelled(made_or_changed(batch));
    let keys = recorder.keys_with_rows(batch.notes);
    recorder.manual_sends(batch.manual_sends);
    recorder.decisions(batch.decisions);
    counters::append_messages(batch.message_counters)?;
    recorder.checkpoint(batch.checkpoint);
    Ok((Recorded { ended, keys }, tell))
}

/// Writes everything, and item by item where something fails. An item that cannot be written in any form becomes a fault.
/// Inside a transaction.
pub fn write_apart(
    recorder: &mut Recorder,
    maker: &mut RowMaker,
    batch: &mut Batch<'_>,
    faults: &mut Vec<Fault>,
) -> outbox_core::Result<Written> {
    write_entries_apart(recorder, batch.entries, faults)?;
    each(batch.endpoints, &mut |states| recorder.endpoints(states), |state, failure| {
        faults.push(Fault::new(Kind::Endpoint, state.endpoint, "record", failure));
    })?;
    recorder.routing(batch.routing);
    each(batch.notes, &mut |notes| recorder.notes(notes), |note, failure| {
        faults.push(Fault::new(Kind::Message, note.message_id, "record", failure));
    })?;
    let without_row = apart(batch.rows, &mut |rows| {
        maker.open_rows(rows, batch.now);
        Ok(())
    })?;
    // From the last to the first, so that removing a row does not move the ones that are still to be removed.
    for (place, failure) in without_row.into_iter().rev() {
        let row = batch.rows.remove(place);
        let of = (row.position, row.message_id);
        batch.decisions.push(Decision::unrecordable(row.subscription, of, row.segment, &failure));
    }
    each(batch.ended, &mut |ended| maker.end(ended), |ended, failure| {
        faults.push(Fault::new(Kind::Message, ended.message_id, "record", failure));
    })?;
    let tell = maker.opened(batch.rows);
    let ended = maker.end_cancelled(made_or_changed(batch));
    let keys = recorder.keys_with_rows(batch.notes);
    recorder.manual_sends(batch.manual_sends);
    each(batch.decisions, &mut |made| recorder.decisions(made), |decision, failure| {
        faults.push(Fault::new(Kind::Message, decision.message_id, "record", failure));
    })?;
    if let Err(failure) = txn::attempt(|| counters::append_messages(batch.message_counters)) {
        pgrx::log!("pg_outbox dispatcher: some messages are not counted in the statistics: {failure}");
    }
    recorder.checkpoint(batch.checkpoint);
    Ok((Recorded { ended, keys }, tell))
}

/// Messages whose rows this transaction has made or changed.
fn made_or_changed(batch: &Batch<'_>) -> Vec<i64> {
    batch.rows.iter().map(|row| row.message_id).chain(batch.failed()).collect()
}

/// Writes the items, and calls `failed` with each one that fails by itself.
fn each<T>(items: &[T], write: &mut dyn FnMut(&[T]), mut failed: impl FnMut(&T, &Failure)) -> Result<(), Failure> {
    for (place, failure) in apart(items, &mut |items| {
        write(items);
        Ok(())
    })? {
        failed(&items[place], &failure);
    }
    Ok(())
}

/// Writes the outcomes of each request by itself, if they cannot be written together.
fn write_entries_apart(recorder: &mut Recorder, entries: &mut [Entry], faults: &mut Vec<Fault>) -> Result<(), Failure> {
    let requests = requests(entries);
    let write = &mut |part: &[Range<usize>]| match part {
        [first, .., last] => recorder.outcomes(&entries[first.start..last.end]),
        [only] => recorder.outcomes(&entries[only.clone()]),
        [] => Ok(()),
    };
    for (place, failure) in apart(&requests, write)? {
        for entry in &mut entries[requests[place].clone()] {
            entry.make_plain(&failure);
            let plainly = txn::attempt(|| recorder.outcomes(std::slice::from_ref(entry)));
            let Err(failure) = plainly else { continue };
            if matches!(entry.outcome, DeliveryOutcome::Failed(_) | DeliveryOutcome::Dead(_)) {
                entry.outcome = DeliveryOutcome::Dead(UNRECORDABLE);
                if txn::attempt(|| recorder.outcomes(std::slice::from_ref(entry))).is_ok() {
                    continue;
                }
            }
            faults.push(Fault::new(Kind::Message, entry.done.ticket.message_id, "record", &failure));
        }
    }
    Ok(())
}
