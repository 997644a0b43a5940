//! The verdict on a schedule that has ended: what was committed against what receivers got and what was recorded.

use std::collections::BTreeMap;

use outbox_dispatch::engine::matched_as;

use crate::transport::MAX_UNRECORDED;
use crate::world::{BLOCKING, HASTY, MORTAL, World, plan};

/// Notes a breach of each guarantee that did not hold.
pub(crate) fn judge(world: &mut World) {
    if !world.breaches.is_empty() {
        return;
    }
    routing(world);
    ends(world);
    duplicates(world);
    ghosts(world);
}

/// Each position was routed once, to the subscriptions that match.
fn routing(world: &mut World) {
    for position in 1..=world.tables.feed.len() as i64 {
        let is_control = world.tables.messages[&world.tables.feed[position as usize - 1]].control.is_some();
        let wanted = match world.matching(position).count() {
            _ if is_control => matched_as::CONTROL,
            0 => matched_as::NO_SUBSCRIPTION,
            n => n as i16,
        };
        let found = world.tables.routing.get(position as usize - 1).copied();
        if found != Some(wanted) {
            world.breach(format!("position {position} is routed as {found:?}, and should be {wanted}"));
        }
    }
}

/// Nothing is lost: each delivery ended once, and a completed one was accepted.
fn ends(world: &mut World) {
    let mut accepted: BTreeMap<(i32, i64), usize> = BTreeMap::new();
    for request in world.ledger.iter().filter(|request| request.accepted) {
        *accepted.entry((request.subscription, request.position)).or_default() += 1;
    }
    for position in 1..=world.tables.feed.len() as i64 {
        let message = world.tables.feed[position as usize - 1];
        let is_cancelled = world.tables.cancelled.contains(&message);
        for plan in world.matching(position).collect::<Vec<_>>() {
            let of = (plan.id, position);
            let ended = world.tables.ended.get(&of).cloned().unwrap_or_default();
            let letter = world.tables.dead_letters.iter().find(|l| (l.subscription, l.position) == of);
            let reason = letter.map(|l| l.reason);
            let content = World::content(plan, message);
            let is_fine = match ended.as_slice() {
                // A message that was cancelled while a request was in flight may have ended twice.
                [_, ..] if is_cancelled => true,
                ["completed"] => matches!(content, Ok(Some(_))) && (!plan.push || accepted.contains_key(&of)),
                ["skipped"] => content == Ok(None),
                ["dead"] if content.is_err() => reason == Some("transform_failed"),
                ["dead"] => reason == Some("unrecordable") || [MORTAL, BLOCKING].contains(&plan.id),
                ["expired"] => plan.id == HASTY,
                _ => false,
            };
            if !is_fine {
                let text = format!(
                    "message {message}, position {position}, subscription {}: it ended as {ended:?} ({reason:?}), accepted {:?}",
                    plan.id,
                    accepted.get(&of)
                );
                world.breach(text);
            }
        }
    }
}

/// A delivery is accepted again only if the dispatcher died before its outcome was recorded.
fn duplicates(world: &mut World) {
    let mut accepted: BTreeMap<(i32, i64), usize> = BTreeMap::new();
    let requests = world.ledger.iter().filter(|request| request.accepted);
    requests.for_each(|request| *accepted.entry((request.subscription, request.position)).or_default() += 1);
    let again: usize = accepted.values().map(|n| n - 1).sum();
    if again > world.deaths as usize * MAX_UNRECORDED {
        world.breach(format!("{again} duplicates after {} deaths", world.deaths));
    }
}

/// Nothing was sent, and nothing has ended, that did not match.
fn ghosts(world: &mut World) {
    let ended: Vec<(i32, i64)> = world.tables.ended.keys().copied().collect();
    let sent: Vec<(i32, i64)> = world.ledger.iter().map(|r| (r.subscription, r.position)).collect();
    for (subscription, position) in ended.into_iter().chain(sent) {
        if !world.matches(position, plan(subscription)) {
            world.breach(format!("position {position} was delivered to subscription {subscription}"));
        }
    }
    for request in world.ledger.clone() {
        if world.tables.feed[request.position as usize - 1] != request.message {
            world.breach(format!("position {} was sent with message {}", request.position, request.message));
        }
    }
}
