//! The queue of an endpoint. It has one lane per subscription. The lanes take turns, and so do the tenants within a lane. A
//! lane can gather its jobs into batches. A batch takes the jobs of the tenant whose turn it is, and is filled up with the
//! jobs of the next tenants.
//!
//! At most one job per ordering key is in the queue at any time, so taking turns cannot change the order of a key.

use std::collections::{HashSet, VecDeque};

use outbox_core::fair::{self, Fair};
use outbox_core::ids::IdMap;

use crate::Job;

/// The positions of a batch are within this distance, so that the log of requests can be searched by position.
const SPAN: i64 = 10_000;
/// The largest size of the contents of a batch, in bytes.
const BATCH_BYTES: usize = 4 << 20;

/// The content of one request.
#[derive(Debug)]
pub(crate) enum Load {
    One(Job),
    /// At least one job, in the order of positions.
    Batch(Vec<Job>),
    /// A validation handshake, in which this origin asks whether the endpoint wants deliveries.
    Ask(Box<str>),
}

impl Load {
    pub(crate) fn jobs(&self) -> &[Job] {
        match self {
            Load::One(job) => std::slice::from_ref(job),
            Load::Batch(jobs) => jobs,
            Load::Ask(_) => &[],
        }
    }

    pub(crate) fn into_jobs(self) -> Vec<Job> {
        match self {
            Load::One(job) => vec![job],
            Load::Batch(jobs) => jobs,
            Load::Ask(_) => Vec::new(),
        }
    }
}

/// Why no request can be taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Nothing {
    /// The queue is empty.
    Empty,
    /// A batch is being gathered until this time.
    NotBefore(i64),
}

#[derive(Debug)]
struct Queued {
    job: Job,
    /// The time from which a batch waits for more jobs.
    since: i64,
}

impl fair::Entry for Queued {
    fn tenant(&self) -> Option<&str> {
        self.job.message.extra().tenant.as_deref()
    }

    fn bytes(&self) -> usize {
        self.job.message.content.len()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    lanes: IdMap<i32, Fair<Queued>>,
    /// Subscriptions whose lane is not empty, in turn.
    turn: VecDeque<i32>,
    len: usize,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a job. A batch waits from `now` on.
    pub(crate) fn push(&mut self, job: Job, now: i64) {
        let subscription = job.ticket.subscription;
        let lane = self.lanes.entry(subscription).or_default();
        if lane.is_empty() {
            self.turn.push_back(subscription);
        }
        lane.push(Queued { job, since: now });
        self.len += 1;
    }

    /// Puts a request that was taken back at the front.
    pub(crate) fn give_back(&mut self, load: Load) {
        let jobs = load.into_jobs();
        let Some(subscription) = jobs.first().map(|job| job.ticket.subscription) else { return };
        self.len += jobs.len();
        let lane = self.lanes.entry(subscription).or_default();
        // It is still the turn of this subscription. Otherwise the next subscription could always be the one that is put
        // back.
        if !lane.is_empty() {
            self.turn.retain(|other| *other != subscription);
        }
        self.turn.push_front(subscription);
        for job in jobs.into_iter().rev() {
            // The job has already waited long enough to be taken.
            lane.push_front(Queued { job, since: i64::MIN });
        }
    }

    /// Takes out all jobs, in no particular order.
    pub(crate) fn drain(&mut self) -> Vec<Job> {
        self.turn.clear();
        self.len = 0;
        self.lanes.drain().flat_map(|(_, mut lane)| lane.drain()).map(|queued| queued.job).collect()
    }

    /// Takes out the jobs of these messages.
    pub(crate) fn call_off(&mut self, messages: &HashSet<i64>) -> Vec<Job> {
        let mut out = Vec::new();
        for lane in self.lanes.values_mut() {
            let gone = lane.extract(|queued| messages.contains(&queued.job.ticket.message_id));
            out.extend(gone.into_iter().map(|queued| queued.job));
        }
        self.lanes.retain(|_, lane| !lane.is_empty());
        let Queue { lanes, turn, .. } = self;
        turn.retain(|subscription| lanes.contains_key(subscription));
        self.len -= out.len();
        out
    }

    /// Takes the next request, with at most `limit` jobs.
    pub(crate) fn take(&mut self, limit: usize, now: i64) -> Result<Load, Nothing> {
        let mut earliest = i64::MAX;
        for _ in 0..self.turn.len() {
            let Some(subscription) = self.turn.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&subscription) else { continue };
            let Some(Queued { job: first, .. }) = lane.front() else { continue };
            let (batch, wait) = (first.shape.batch_size, first.shape.batch_wait.max(0));
            let size = batch.min(limit).max(1);
            let load = if batch <= 1 {
                lane.pop().map(|queued| Load::One(queued.job))
            } else if lane.len() >= size {
                Some(Load::Batch(gather(lane, size)))
            } else {
                // The job of any tenant that has waited longest decides.
                let since = lane.fronts().map(|queued| queued.since).min().unwrap_or(now);
                let ready_at = since.saturating_add(wait);
                if now >= ready_at {
                    Some(Load::Batch(gather(lane, size)))
                } else {
                    earliest = earliest.min(ready_at);
                    None
                }
            };
            if lane.is_empty() {
                self.lanes.remove(&subscription);
            } else {
                self.turn.push_back(subscription);
            }
            if let Some(load) = load {
                self.len -= load.jobs().len();
                return Ok(load);
            }
        }
        Err(if self.is_empty() { Nothing::Empty } else { Nothing::NotBefore(earliest) })
    }
}

/// Takes the next jobs that fit into one request.
fn gather(lane: &mut Fair<Queued>, size: usize) -> Vec<Job> {
    let (mut count, mut low, mut high, mut bytes, mut run) = (0, i64::MAX, i64::MIN, 0, None);
    let taken = lane.pop_while(|Queued { job, .. }| {
        let position = job.ticket.position;
        let (l, h) = (low.min(position), high.max(position));
        bytes += job.message.content.len();
        let fits = count < size && h - l < SPAN && bytes <= BATCH_BYTES && run.is_none_or(|run| run == job.ticket.run);
        if !fits && count > 0 {
            return false;
        }
        (count, low, high, run) = (count + 1, l, h, Some(job.ticket.run));
        true
    });
    let mut batch: Vec<Job> = taken.into_iter().map(|queued| queued.job).collect();
    batch.sort_by_key(|job| job.ticket.position);
    batch
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outbox_core::message::{Extra, Message};

    use super::*;
    use crate::{Shape, Ticket};

    fn job(subscription: i32, position: i64, batch_size: usize) -> Job {
        Job {
            ticket: Ticket {
                subscription,
                endpoint: 1,
                position,
                message_id: position,
                delivery_id: 0,
                attempt: 1,
                run: 0,
            },
            message: Arc::new(Message::default()),
            shape: Arc::new(Shape { batch_size, batch_wait: 100, ..Shape::default() }),
        }
    }

    fn of(tenant: &str, job: Job) -> Job {
        let extra = Some(Box::new(Extra { tenant: Some(tenant.into()), ..Extra::default() }));
        Job { message: Arc::new(Message { extra, ..Message::default() }), ..job }
    }

    fn positions(load: Result<Load, Nothing>) -> Vec<i64> {
        load.unwrap().jobs().iter().map(|job| job.ticket.position).collect()
    }

    #[test]
    fn lanes_take_turns() {
        let mut queue = Queue::default();
        for position in 1..=3 {
            queue.push(job(1, position, 1), 0);
        }
        queue.push(job(2, 10, 1), 0);
        let order: Vec<i64> = (0..4).flat_map(|_| positions(queue.take(9, 0))).collect();
        assert_eq!(order, [1, 10, 2, 3]);
        assert_eq!(queue.take(9, 0).unwrap_err(), Nothing::Empty);
    }

    #[test]
    fn a_batch_goes_when_it_is_full_or_has_waited() {
        let mut queue = Queue::default();
        queue.push(job(1, 1, 3), 0);
        queue.push(job(1, 2, 3), 50);
        assert_eq!(queue.take(9, 99).unwrap_err(), Nothing::NotBefore(100));
        // A lane that gathers a batch does not hold up other lanes.
        queue.push(job(2, 7, 1), 0);
        assert_eq!(positions(queue.take(9, 99)), [7]);
        assert_eq!(positions(queue.take(9, 100)), [1, 2]);
        for position in [9, 8, 7, 6] {
            queue.push(job(1, position, 3), 0);
        }
        assert_eq!(positions(queue.take(9, 0)), [7, 8, 9]);
        assert_eq!(positions(queue.take(9, 100)), [6]);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_is_called_off_comes_out_and_the_rest_stays_in_order() {
        let mut queue = Queue::default();
        for position in 1..=4 {
            queue.push(job(1, position, 1), 0);
        }
        queue.push(job(2, 2, 1), 0);
        let mut out: Vec<i64> =
            queue.call_off(&HashSet::from([2, 3, 9])).iter().map(|job| job.ticket.position).collect();
        out.sort_unstable();
        assert_eq!(out, [2, 2, 3]);
        assert_eq!(positions(queue.take(9, 0)), [1]);
        assert_eq!(positions(queue.take(9, 0)), [4]);
        assert!(queue.is_empty());
        assert_eq!(queue.take(9, 0).unwrap_err(), Nothing::Empty);
    }

    #[test]
    fn what_is_given_back_keeps_its_turn() {
        let mut queue = Queue::default();
        for position in 1..=6 {
            queue.push(job(1 + (position % 2) as i32, position, 1), 0);
        }
        // As under a rate limit: one job is sent, and the next finds no token.
        let mut order = Vec::new();
        while !queue.is_empty() {
            order.extend(positions(queue.take(9, 0)));
            if let Ok(load) = queue.take(9, 0) {
                queue.give_back(load);
            }
        }
        assert_eq!(order, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn tenants_take_turns_within_a_subscription() {
        let mut queue = Queue::default();
        for position in 1..=4 {
            queue.push(of("noisy", job(1, position, 1)), 0);
        }
        queue.push(of("quiet", job(1, 5, 1)), 0);
        let order: Vec<i64> = (0..5).flat_map(|_| positions(queue.take(9, 0))).collect();
        assert_eq!(order, [1, 5, 2, 3, 4]);
        for position in 1..=4 {
            queue.push(of("noisy", job(1, position, 3)), 0);
        }
        queue.push(of("quiet", job(1, 5, 3)), 50);
        assert_eq!(positions(queue.take(9, 0)), [1, 2, 3]);
        // The job that has waited longest decides when a partial batch is sent, not the job that is next.
        assert_eq!(queue.take(9, 99).unwrap_err(), Nothing::NotBefore(100));
        assert_eq!(positions(queue.take(9, 100)), [4, 5]);
    }

    #[test]
    fn a_batch_keeps_to_its_limits() {
        let mut queue = Queue::default();
        for position in [1, 2, SPAN + 1, SPAN + 2] {
            queue.push(job(1, position, 9), 0);
        }
        assert_eq!(positions(queue.take(1, 100)), [1]);
        assert_eq!(positions(queue.take(9, 100)), [2, SPAN + 1]);
        assert_eq!(queue.drain().len(), 1);
        assert!(queue.is_empty());
    }
}
