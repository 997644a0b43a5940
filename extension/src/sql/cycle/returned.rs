//! The rows that a claim returns.

use outbox_core::webhook_id::WebhookId;
use outbox_core::{Code, Error, Result, stream};
use outbox_dispatch::feed::UNIX_EPOCH;
use pgrx::IntoDatum;
use pgrx::pg_sys::{self, Datum};

use super::pick::Taken;
use super::take::Source;
use crate::pg::function::Args;
use crate::pg::scan::{Indexed, any_of};
use crate::pg::shape;
use crate::pg::txn::Row;
use crate::sql::enqueue::column as message;

/// Returns the deliveries with their messages, as rows of type outbox.claimed. `lease`: token, end, and subscription.
pub(super) fn return_rows(
    args: Args,
    lease: [Option<Datum>; 3],
    source: &Source,
    taken: &[Taken],
    snapshot: pg_sys::Snapshot,
) -> Result<()> {
    let mut rows = args.begin_rows();
    let mut leaf: Option<(i16, Indexed)> = None;
    let mut rest = taken;
    // One scan finds the messages of deliveries that follow one another by message id and are in one leaf, as nearly all of a
    // claim do.
    while let Some(first) = rest.first() {
        let follows = |pair: &&[Taken]| pair[0].segment == pair[1].segment && pair[0].message < pair[1].message;
        let (run, others) = rest.split_at(1 + rest.windows(2).take_while(follows).count());
        rest = others;
        if leaf.as_ref().is_none_or(|(segment, _)| *segment != first.segment)
            && let Some((_, leaf)) = leaf.replace((first.segment, leaf_of(first.segment)?))
        {
            leaf.close();
        }
        let Some((_, messages)) = &leaf else { break };
        let (mut pending, mut added) = (run.iter().peekable(), Ok(()));
        let by_id = any_of(message::ID, run.iter().map(|taken| taken.message).collect());
        messages.rows(snapshot, &mut [by_id], &mut |row| {
            let id = row.int(message::ID);
            while let Some(delivery) = pending.next_if(|delivery| added.is_ok() && delivery.message <= id) {
                let stored = (delivery.message == id).then_some(row);
                added = rows.add(claimed(lease, source, delivery, stored));
            }
            added.is_ok()
        });
        added?;
        for delivery in pending {
            rows.add(claimed(lease, source, delivery, None))?;
        }
    }
    if let Some((_, leaf)) = leaf {
        leaf.close();
    }
    Ok(())
}

/// The leaf with the messages of a segment.
fn leaf_of(segment: i16) -> Result<Indexed> {
    let name = match segment {
        -2 => "_message_event".to_owned(),
        -1 => "_message_retained".to_owned(),
        n => format!("_message_{n:02}"),
    };
    Indexed::open(&name, shape::MESSAGE, &format!("{name}_id"), &[message::ID], &[])?.ok_or_else(|| {
        Error::new(Code::NotInThisState, format!("table \"outbox.{name}\" or its index on the id has been altered"))
    })
}

/// A row of type outbox.claimed. The columns of a message that is stored no longer are null.
fn claimed(
    [token, until, name]: [Option<Datum>; 3],
    source: &Source,
    delivery: &Taken,
    stored: Option<&Row>,
) -> [Option<Datum>; 29] {
    let of_message = |column: usize| stored.and_then(|row| row.datum(column));
    let webhook_id = stored.and_then(|row| {
        let enqueued_at = row.int(message::ENQUEUED_AT).wrapping_add(UNIX_EPOCH);
        let id = WebhookId { message_id: delivery.message, enqueued_at }.text();
        if delivery.new_id { format!("{id}_r{}", delivery.run).into_datum() } else { (&*id).into_datum() }
    });
    // An event has the parts of its stream's name.
    let event =
        stored.filter(|row| row.get(message::SEGMENT) == Some(-2i16)).and_then(|row| row.get::<&str>(message::KEY));
    let (aggregate_type, aggregate_id) = match event {
        Some(key) => (stream::category(key).into_datum(), stream::key(key).and_then(IntoDatum::into_datum)),
        None => (of_message(message::AGGREGATE_TYPE), of_message(message::AGGREGATE_ID)),
    };
    let own = delivery.payload.is_some();
    let unless_own = |column: usize| of_message(column).filter(|_| !own);
    [
        token,
        until,
        delivery.id.into_datum(),
        name,
        delivery.message.into_datum(),
        webhook_id,
        delivery.position.into_datum(),
        delivery.attempt.into_datum(),
        delivery.max_attempts.or(source.max_attempts),
        of_message(message::TOPIC),
        of_message(message::KEY),
        delivery.payload.or_else(|| of_message(message::PAYLOAD)),
        unless_own(message::BODY),
        unless_own(message::CONTENT_TYPE),
        of_message(message::HEADERS),
        of_message(message::METADATA),
        of_message(message::TENANT),
        of_message(message::PUBLISHER),
        aggregate_type,
        aggregate_id,
        delivery.priority,
        of_message(message::ENQUEUED_AT),
        of_message(message::OCCURRED_AT),
        of_message(message::DELIVER_AT),
        delivery.expires_at,
        delivery.last_attempt_at,
        delivery.last_error,
        of_message(message::VERSION),
        of_message(message::EVENT_ID),
    ]
}
