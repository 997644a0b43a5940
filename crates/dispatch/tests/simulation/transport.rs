//! The receivers of the simulation. A request takes a random time, and a receiver refuses some of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use outbox_core::breaker::State;
use outbox_core::policy::{Fault, Outcome};
use outbox_dispatch::Transport;
use outbox_sender::{ConsentAnswer, Done, Endpoint, Event, Job, Mode, Pulse, Saved, Settings, Shortage, Ticket};

use crate::world::{Request, World, plan};

/// Requests in flight plus outcomes that are not recorded: the bound on duplicates after a death.
pub(crate) const MAX_UNRECORDED: usize = 12;

/// The jobs and requests of one incarnation of the dispatcher.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    modes: BTreeMap<i32, Mode>,
    queued: Vec<Job>,
    in_flight: Vec<Done>,
    done: Vec<Done>,
    unrecorded: usize,
    events: Vec<Event>,
    /// Endpoints whose breaker is open, and until when (microseconds since 1970).
    open: BTreeMap<i32, i64>,
}

#[derive(Debug)]
pub(crate) struct SimTransport {
    pub(crate) wire: Rc<RefCell<Wire>>,
    pub(crate) world: Rc<RefCell<World>>,
}

fn done(job: &Job, now: i64, code: u16) -> Done {
    Done {
        ticket: job.ticket,
        message: Some(job.message.clone()),
        batch: 0,
        skipped: false,
        started_at: now,
        finished_at: now,
        outcome: Outcome::Status(code),
        status: Some(code),
        error: (code >= 300).then(|| "status 500".into()),
        retry_after: None,
        remote: None,
        answer: None,
    }
}

impl Wire {
    /// Starts a request, or ends one.
    pub(crate) fn go_on(&mut self, world: &mut World) {
        let now = world.unix();
        let closing: Vec<i32> = self.open.iter().filter(|(_, until)| **until <= now).map(|(id, _)| *id).collect();
        for endpoint in closing {
            self.open.remove(&endpoint);
            self.events.push(Event { endpoint, state: Saved::default() });
        }
        let ends = !self.in_flight.is_empty() && (self.queued.is_empty() || world.random.chance(500));
        if ends {
            let index = world.random.index(self.in_flight.len());
            let mut done = self.in_flight.swap_remove(index);
            done.finished_at = now;
            self.unrecorded += 1;
            self.done.push(done);
        } else if self.in_flight.len() + self.unrecorded < MAX_UNRECORDED {
            let sends = |job: &Job| {
                let endpoint = job.ticket.endpoint;
                self.modes.get(&endpoint) == Some(&Mode::Active) && !self.open.contains_key(&endpoint)
            };
            let ready: Vec<usize> = (0..self.queued.len()).filter(|i| sends(&self.queued[*i])).collect();
            if !ready.is_empty() {
                let job = self.queued.swap_remove(ready[world.random.index(ready.len())]);
                self.start(world, &job, now);
            }
        }
    }

    fn start(&mut self, world: &mut World, job: &Job, now: i64) {
        check_order(world, job, &self.in_flight);
        let accepted = !world.random.chance(world.refusals);
        let Ticket { subscription, position, message_id, .. } = job.ticket;
        world.trace(|| format!("{:?} accepted {accepted}", job.ticket));
        if accepted {
            world.accepted.insert((subscription, position));
        }
        world.ledger.push(Request { subscription, position, message: message_id, accepted });
        self.in_flight.push(done(job, now, if accepted { 200 } else { 500 }));
    }

    /// Opens the breaker of an endpoint for a while.
    pub(crate) fn open_breaker(&mut self, endpoint: i32, until: i64) {
        self.open.insert(endpoint, until);
        let breaker = State::Open { until, times: 1 };
        self.events.push(Event { endpoint, state: Saved { breaker, paused_until: 0 } });
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queued.is_empty() && self.in_flight.is_empty() && self.done.is_empty() && self.unrecorded == 0
    }
}

/// Checks what holds when a request starts: its message has a position, and nothing of its key is in flight or waits.
fn check_order(world: &mut World, job: &Job, in_flight: &[Done]) {
    let ticket = job.ticket;
    let plan = plan(ticket.subscription);
    let at = world.tables.feed.get(ticket.position as usize - 1).copied();
    if at != Some(ticket.message_id) {
        world.breach(format!("message {} was sent as position {} before its tick", ticket.message_id, ticket.position));
        return;
    }
    if !world.matches(ticket.position, plan) {
        world.breach(format!("message {} went to subscription {}", ticket.message_id, plan.id));
    }
    if World::content(plan, ticket.message_id) != Ok(Some(job.message.content.clone())) {
        world.breach(format!(
            "message {} went to subscription {} as {:?}",
            ticket.message_id, plan.id, job.message.content
        ));
    }
    if plan.ordering == "none" {
        return;
    }
    let message = |position: i64| &world.tables.messages[&world.tables.feed[position as usize - 1]];
    let same = |position: i64| plan.ordering == "strict" || message(position).key == message(ticket.position).key;
    let of = |other: &Ticket| other.subscription == ticket.subscription && same(other.position);
    if let Some(other) = in_flight.iter().find(|other| of(&other.ticket)) {
        let text = format!("positions {} and {} are in flight together", other.ticket.position, ticket.position);
        world.breach(text);
        return;
    }
    // A message with a time of its own comes when it is due, not in its turn.
    let in_turn = |position: i64| message(position).deliver_at.is_none();
    let is_over = |position: i64| {
        let of = (plan.id, position);
        world.accepted.contains(&of)
            || world.tables.ended.contains_key(&of)
            || !matches!(World::content(plan, world.tables.feed[position as usize - 1]), Ok(Some(_)))
            || world.tables.cancelled.contains(&world.tables.feed[position as usize - 1])
    };
    let mut earlier = (1..ticket.position).filter(|position| in_turn(*position) && same(*position));
    let overtaken = earlier.find(|position| !is_over(*position) && world.matches(*position, plan));
    if let Some(overtaken) = overtaken.filter(|_| in_turn(ticket.position)) {
        let text = format!("subscription {}: position {} before {overtaken}", plan.id, ticket.position);
        world.breach(text);
    }
}

impl Transport for SimTransport {
    fn set_settings(&mut self, _settings: Settings) {}

    fn set_endpoints(&mut self, endpoints: Vec<Endpoint>) {
        let mut wire = self.wire.borrow_mut();
        endpoints.iter().for_each(|endpoint| {
            wire.modes.insert(endpoint.id, endpoint.mode);
        });
    }

    fn submit(&mut self, jobs: Vec<Job>) {
        self.wire.borrow_mut().queued.extend(jobs);
    }

    fn call_off(&mut self, message_ids: HashSet<i64>) {
        let now = self.world.borrow().unix();
        let wire = &mut *self.wire.borrow_mut();
        let (off, rest) = std::mem::take(&mut wire.queued)
            .into_iter()
            .partition::<Vec<Job>, _>(|job| message_ids.contains(&job.ticket.message_id));
        wire.queued = rest;
        wire.unrecorded += off.len();
        wire.done.extend(off.iter().map(|job| Done { skipped: true, ..done(job, now, 0) }));
    }

    fn take_done(&mut self, into: &mut Vec<Done>) {
        into.append(&mut self.wire.borrow_mut().done);
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.wire.borrow_mut().events)
    }

    fn ask_consent(&mut self, _endpoint: i32, _origin: &str) {}

    fn take_consents(&mut self, _into: &mut Vec<ConsentAnswer>) {}

    fn recorded(&mut self, n: usize) {
        let wire = &mut *self.wire.borrow_mut();
        match wire.unrecorded.checked_sub(n) {
            Some(left) => wire.unrecorded = left,
            None => self.world.borrow_mut().breach(format!("{n} outcomes recorded of {}", wire.unrecorded)),
        }
    }

    fn give_up(&mut self, ticket: Ticket, error: &str) -> Done {
        let now = self.world.borrow().unix();
        let outcome = Outcome::Fault(Fault::Protocol);
        let job = Job { ticket, message: Default::default(), shape: Default::default() };
        Done { outcome, status: None, error: Some(error.into()), message: None, ..done(&job, now, 500) }
    }

    fn pulse(&self) -> Pulse {
        Pulse { beats: self.world.borrow().now.unsigned_abs(), at: None }
    }

    fn take_shortage(&mut self) -> Option<Shortage> {
        None
    }

    fn in_flight(&self) -> usize {
        self.wire.borrow().in_flight.len()
    }

    fn queued(&self) -> usize {
        self.wire.borrow().queued.len()
    }

    fn unrecorded(&self) -> usize {
        self.wire.borrow().unrecorded
    }

    fn stop(&mut self, _grace: Duration) {
        let wire = &mut *self.wire.borrow_mut();
        wire.queued.clear();
        wire.unrecorded += wire.in_flight.len();
        wire.done.append(&mut wire.in_flight);
    }

    fn is_alive(&self) -> bool {
        true
    }
}
