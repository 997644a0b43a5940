//! An endpoint's queue: one lane per subscription, which take turns; a lane can gather its jobs into batches.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::Job;

/// The positions of a batch lie within this distance, so that the log of requests can be searched by position.
const SPAN: i64 = 10_000;
/// Contents of a batch, in bytes.
const BATCH_BYTES: usize = 4 << 20;

/// What goes out in one request.
#[derive(Debug)]
pub(crate) enum Load {
    One(Job),
    /// In position order, at least one.
    Batch(Vec<Job>),
    /// Not a delivery but the question, asked by this origin, whether any are welcome.
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

/// Why there is nothing to be taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Nothing {
    /// The queue is empty.
    Empty,
    /// A batch is being gathered until this time.
    NotBefore(i64),
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    lanes: HashMap<i32, VecDeque<(Job, i64)>>,
    /// Subscriptions whose lane is not empty, in turn.
    turn: VecDeque<i32>,
    len: usize,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `now` counts from here for a batch.
    pub(crate) fn push(&mut self, job: Job, now: i64) {
        let subscription = job.ticket.subscription;
        let lane = self.lanes.entry(subscription).or_default();
        if lane.is_empty() {
            self.turn.push_back(subscription);
        }
        lane.push_back((job, now));
        self.len += 1;
    }

    /// Puts a request that was taken back to the front.
    pub(crate) fn give_back(&mut self, load: Load) {
        let jobs = load.into_jobs();
        let Some(subscription) = jobs.first().map(|job| job.ticket.subscription) else { return };
        self.len += jobs.len();
        let lane = self.lanes.entry(subscription).or_default();
        if lane.is_empty() {
            self.turn.push_front(subscription);
        }
        for job in jobs.into_iter().rev() {
            // It has waited long enough to be taken once.
            lane.push_front((job, i64::MIN));
        }
    }

    /// Everything, in no particular order.
    pub(crate) fn drain(&mut self) -> Vec<Job> {
        self.turn.clear();
        self.len = 0;
        self.lanes.drain().flat_map(|(_, lane)| lane).map(|(job, _)| job).collect()
    }

    /// Takes out what is of these messages.
    pub(crate) fn call_off(&mut self, messages: &HashSet<i64>) -> Vec<Job> {
        let mut out = Vec::new();
        for lane in self.lanes.values_mut() {
            if lane.iter().any(|(job, _)| messages.contains(&job.ticket.message_id)) {
                let (gone, stays) =
                    std::mem::take(lane).into_iter().partition(|(job, _)| messages.contains(&job.ticket.message_id));
                *lane = stays;
                out.extend(VecDeque::into_iter(gone).map(|(job, _)| job));
            }
        }
        self.lanes.retain(|_, lane| !lane.is_empty());
        let Queue { lanes, turn, .. } = self;
        turn.retain(|subscription| lanes.contains_key(subscription));
        self.len -= out.len();
        out
    }

    /// The next request, of at most `limit` jobs.
    pub(crate) fn take(&mut self, limit: usize, now: i64) -> Result<Load, Nothing> {
        let mut earliest = i64::MAX;
        for _ in 0..self.turn.len() {
            let Some(subscription) = self.turn.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&subscription) else { continue };
            let Some((first, since)) = lane.front() else { continue };
            let (size, ready_at) =
                (first.shape.batch_size.min(limit).max(1), since.saturating_add(first.shape.batch_wait.max(0)));
            let load = if first.shape.batch_size <= 1 {
                lane.pop_front().map(|(job, _)| Load::One(job))
            } else if lane.len() >= size || now >= ready_at {
                Some(Load::Batch(gather(lane, size)))
            } else {
                earliest = earliest.min(ready_at);
                None
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

/// The jobs at the front that fit into one request.
fn gather(lane: &mut VecDeque<(Job, i64)>, size: usize) -> Vec<Job> {
    let mut batch: Vec<Job> = Vec::with_capacity(size.min(lane.len()));
    let (mut low, mut high, mut bytes) = (i64::MAX, i64::MIN, 0);
    while let Some((job, _)) = lane.front().filter(|_| batch.len() < size) {
        let position = job.ticket.position;
        let (l, h) = (low.min(position), high.max(position));
        bytes += job.message.content.len();
        let fits = h - l < SPAN && bytes <= BATCH_BYTES && batch.first().is_none_or(|b| b.ticket.run == job.ticket.run);
        if !fits && !batch.is_empty() {
            break;
        }
        (low, high) = (l, h);
        batch.extend(lane.pop_front().map(|(job, _)| job));
    }
    batch.sort_by_key(|job| job.ticket.position);
    batch
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outbox_core::message::Message;

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
        // A lane that gathers holds up no other.
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
