//! A queue in which tenants take turns. A tenant with thousands of waiting entries does not hold up a tenant with a few.
//!
//! The algorithm is start-time fair queueing. Each tenant has a mark, the sum of the costs of its served entries. The tenant
//! with the lowest mark is next. A tenant that enters the queue starts at the lowest mark of the waiting tenants, so having
//! been idle earns nothing. Unlike deficit round robin, the algorithm needs no quantum, and a large message costs no rounds
//! in which nothing is served.
//!
//! Invariants:
//! * The entries of one tenant leave the queue in the order in which they entered.
//! * While two tenants both have entries waiting, the costs served to them differ by at most one message of each.
//! * If no entry has a tenant, the queue is a plain queue. The state of a tenant is dropped with its last entry.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// The minimum cost of an entry, in bytes. A request costs something regardless of its size.
pub const REQUEST: usize = 4096;

/// An entry of the queue.
pub trait Entry {
    /// Returns the tenant of the entry.
    fn tenant(&self) -> Option<&str>;
    /// Returns the size of the entry in bytes.
    fn bytes(&self) -> usize;
}

fn cost(entry: &impl Entry) -> u64 {
    entry.bytes().max(REQUEST) as u64
}

/// The order of the turns: the mark of a tenant, and a number that decides between equal marks (the tenant that got its mark
/// first is first).
type Mark = (u64, u64);

/// A queue of `T` by tenant.
#[derive(Debug)]
pub struct Fair<T> {
    /// Entries without a tenant. Together they count as one tenant.
    plain: VecDeque<T>,
    plain_mark: Mark,
    /// Tenants that have entries, by mark.
    turn: BTreeMap<Mark, (Box<str>, VecDeque<T>)>,
    marks: HashMap<Box<str>, Mark>,
    marked: u64,
    len: usize,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Fair {
            plain: VecDeque::new(),
            plain_mark: (0, 0),
            turn: BTreeMap::new(),
            marks: HashMap::new(),
            marked: 0,
            len: 0,
        }
    }
}

impl<T: Entry> Fair<T> {
    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the queue has no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: T) {
        self.len += 1;
        self.lane(&entry).push_back(entry);
    }

    /// Puts back the entry that was popped last. Its tenant is not charged for the entry.
    pub fn push_front(&mut self, entry: T) {
        self.len += 1;
        let cost = cost(&entry);
        let refund = |mark: Mark| (mark.0.saturating_sub(cost), 0);
        self.lane(&entry);
        let Some(tenant) = entry.tenant() else {
            self.plain_mark = refund(self.plain_mark);
            self.plain.push_front(entry);
            return;
        };
        if let Some(mark) = self.marks.get_mut(tenant)
            && let Some(mut lane) = self.turn.remove(mark)
        {
            // The number 0 makes this tenant the first of equal marks, unless another tenant was put back to the same mark.
            let mut new = refund(*mark);
            while self.turn.contains_key(&new) {
                new.1 += 1;
            }
            *mark = new;
            lane.1.push_front(entry);
            self.turn.insert(new, lane);
        }
    }

    /// Returns the next entry.
    pub fn front(&self) -> Option<&T> {
        let lane = match self.turn.first_key_value() {
            Some((mark, (_, lane))) if self.plain.is_empty() || *mark < self.plain_mark => lane,
            _ => &self.plain,
        };
        lane.front()
    }

    /// Returns the first entry of each tenant.
    pub fn fronts(&self) -> impl Iterator<Item = &T> {
        let lanes = self.turn.values().map(|(_, lane)| lane).chain([&self.plain]);
        lanes.filter_map(VecDeque::front)
    }

    /// Takes the next entry.
    pub fn pop(&mut self) -> Option<T> {
        let mut taken = None;
        self.serve(|_, n| n == 0, |value| taken = Some(value));
        taken
    }

    /// Takes entries while `wanted` returns true: first the entries of the tenant whose turn it is, then those of the next
    /// tenant.
    pub fn pop_while(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        self.serve(|value, _| wanted(value), |value| taken.push(value));
        taken
    }

    /// Takes entries while `wanted` returns true. `wanted` gets the entry and the number of entries taken so far.
    fn serve(&mut self, mut wanted: impl FnMut(&T, usize) -> bool, mut taken: impl FnMut(T)) {
        let mut n = 0;
        // Takes the wanted entries of one lane and returns their cost. `Err`: an entry was not wanted, so taking ends here.
        let mut take = |lane: &mut VecDeque<T>| {
            let mut sum = 0;
            while let Some(entry) = lane.front() {
                if !wanted(entry, n) {
                    return Err(sum);
                }
                sum += cost(entry);
                n += 1;
                lane.pop_front().into_iter().for_each(&mut taken);
            }
            Ok(sum)
        };
        let mut more = true;
        let mut served = 0;
        while more && !(self.plain.is_empty() && self.turn.is_empty()) {
            let cost = match self.turn.first_entry() {
                Some(first) if self.plain.is_empty() || *first.key() < self.plain_mark => {
                    let (mark, (tenant, mut lane)) = first.remove_entry();
                    let before = lane.len();
                    let cost = take(&mut lane);
                    served += before - lane.len();
                    if lane.is_empty() {
                        self.marks.remove(&tenant);
                    } else {
                        let charge = cost.unwrap_or_else(|cost| cost);
                        let mark = if charge > 0 { self.mark(mark.0 + charge) } else { mark };
                        if let Some(known) = self.marks.get_mut(&tenant) {
                            *known = mark;
                        }
                        self.turn.insert(mark, (tenant, lane));
                    }
                    cost
                }
                _ => {
                    let before = self.plain.len();
                    let cost = take(&mut self.plain);
                    served += before - self.plain.len();
                    let charge = cost.unwrap_or_else(|cost| cost);
                    if charge > 0 {
                        self.plain_mark = self.mark(self.plain_mark.0 + charge);
                    }
                    cost
                }
            };
            more = cost.is_ok();
        }
        self.len -= served;
    }

    /// Takes out the entries for which `wanted` returns true. The other entries and the turns stay unchanged.
    pub fn extract(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        let mut sift = |lane: &mut VecDeque<T>| {
            if lane.iter().any(&mut wanted) {
                let (gone, stays): (VecDeque<T>, VecDeque<T>) =
                    std::mem::take(lane).into_iter().partition(|entry| wanted(entry));
                *lane = stays;
                out.extend(gone);
            }
            !lane.is_empty()
        };
        sift(&mut self.plain);
        let marks = &mut self.marks;
        self.turn.retain(|_, (tenant, lane)| {
            let stays = sift(lane);
            if !stays {
                marks.remove(tenant);
            }
            stays
        });
        self.len -= out.len();
        out
    }

    /// Takes out all entries, in no particular order.
    pub fn drain(&mut self) -> Vec<T> {
        let Fair { plain, turn, .. } = std::mem::take(self);
        plain.into_iter().chain(turn.into_values().flat_map(|(_, lane)| lane)).collect()
    }

    fn mark(&mut self, at: u64) -> Mark {
        self.marked += 1;
        (at, self.marked)
    }

    /// Returns the lowest mark of the waiting tenants. If no tenant waits, the value does not matter: all tenants that enter
    /// start equal.
    fn lowest(&self) -> u64 {
        let tenants = self.turn.first_key_value().map(|(mark, _)| mark.0);
        let plain = (!self.plain.is_empty()).then_some(self.plain_mark.0);
        tenants.into_iter().chain(plain).min().unwrap_or(self.plain_mark.0)
    }

    fn lane(&mut self, entry: &T) -> &mut VecDeque<T> {
        let Some(tenant) = entry.tenant() else {
            if self.plain.is_empty() && !self.turn.is_empty() {
                self.plain_mark = self.mark(self.lowest());
            }
            return &mut self.plain;
        };
        let mark = match self.marks.get(tenant) {
            Some(mark) => *mark,
            None => {
                let mark = self.mark(self.lowest());
                self.marks.insert(tenant.into(), mark);
                mark
            }
        };
        &mut self.turn.entry(mark).or_insert_with(|| (tenant.into(), VecDeque::new())).1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Named = Option<&'static str>;

    /// An entry with tenant, number and size.
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct One(Named, usize, usize);

    impl Entry for One {
        fn tenant(&self) -> Option<&str> {
            self.0
        }

        fn bytes(&self) -> usize {
            self.2
        }
    }

    fn queue(entries: &[(Named, usize)]) -> Fair<One> {
        let mut queue = Fair::default();
        entries.iter().for_each(|(tenant, n)| queue.push(One(*tenant, *n, 0)));
        queue
    }

    fn next(queue: &mut Fair<One>) -> usize {
        queue.pop().unwrap().1
    }

    fn all(queue: &mut Fair<One>) -> Vec<usize> {
        std::iter::from_fn(|| queue.pop()).map(|one| one.1).collect()
    }

    #[test]
    fn tenants_take_turns_and_those_without_one_are_one() {
        let (a, b, none) = (Some("a"), Some("b"), None);
        let mut q = queue(&[(a, 1), (a, 2), (a, 3), (none, 20), (none, 21), (b, 10)]);
        assert_eq!(q.fronts().count(), 3);
        assert_eq!(all(&mut q), [1, 20, 10, 2, 21, 3]);
        assert!(q.is_empty() && q.front().is_none() && q.marks.is_empty() && q.turn.is_empty());
        assert_eq!(all(&mut queue(&[(none, 1), (none, 2), (none, 3)])), [1, 2, 3]);
    }

    #[test]
    fn a_late_tenant_is_next_and_comes_back_behind_the_others() {
        let mut q = queue(&[(Some("a"), 1), (Some("a"), 2), (Some("a"), 3), (Some("a"), 4)]);
        assert_eq!([next(&mut q), next(&mut q)], [1, 2]);
        q.push(One(Some("b"), 10, 0));
        assert_eq!([next(&mut q), next(&mut q)], [3, 10]);
        // Leaving and entering again does not give a tenant two turns in a row.
        q.push(One(Some("b"), 11, 0));
        assert_eq!([next(&mut q), next(&mut q)], [4, 11]);
    }

    #[test]
    fn what_is_put_back_is_next_again_and_costs_nothing() {
        let mut q = queue(&[(Some("a"), 1), (Some("a"), 2), (Some("b"), 10), (None, 20)]);
        for _ in 0..5 {
            let one = q.pop().unwrap();
            assert_eq!(one.1, 1);
            q.push_front(one);
            assert_eq!(q.front(), Some(&one));
        }
        assert_eq!(all(&mut q), [1, 10, 20, 2]);
    }

    #[test]
    fn what_is_taken_out_of_the_middle_leaves_the_turns_as_they_are() {
        let mut q = queue(&[(Some("a"), 1), (Some("a"), 2), (Some("b"), 10), (Some("a"), 3), (None, 20), (None, 21)]);
        let mut out: Vec<usize> = q.extract(|one| [2, 10, 20].contains(&one.1)).iter().map(|one| one.1).collect();
        out.sort_unstable();
        assert_eq!(out, [2, 10, 20]);
        assert_eq!(q.len(), 3);
        assert_eq!(all(&mut q), [1, 21, 3]);
        assert!(q.marks.is_empty() && q.turn.is_empty());
    }

    #[test]
    fn a_batch_is_one_tenants_before_it_is_filled_up() {
        let mut q = queue(&[(Some("a"), 1), (Some("a"), 2), (Some("a"), 3), (Some("b"), 10), (Some("b"), 11)]);
        let mut batch = |size: usize| {
            let mut n = 0;
            let taken = q.pop_while(|_| {
                n += 1;
                n <= size
            });
            taken.iter().map(|one| one.1).collect::<Vec<_>>()
        };
        assert_eq!(batch(2), [1, 2]);
        assert_eq!(batch(3), [10, 11, 3]);
    }

    /// A step pushes an entry of a tenant (a, b, c or none) with a size, or (`None`) pops an entry.
    fn steps() -> impl Strategy<Value = Vec<Option<(usize, usize)>>> {
        prop::collection::vec(
            prop::option::weighted(0.6, (0usize..4, prop_oneof![Just(0usize), 0usize..50_000])),
            1..400,
        )
    }

    proptest! {
        /// No entry is lost or duplicated, and the entries of each tenant come in order. While two tenants wait without a
        /// break, neither gets ahead of the other by more than one entry of each.
        #[test]
        fn nobody_is_starved(steps in steps()) {
            const NAMES: [Named; 4] = [Some("a"), Some("b"), Some("c"), None];
            let mut queue = Fair::default();
            let mut waiting: [VecDeque<(usize, u64)>; 4] = Default::default();
            // `served[a][b]`: the cost served to tenant a since both a and b have been waiting.
            let mut served = [[0u64; 4]; 4];
            let mut largest = 0u64;
            let rest = steps.len();
            for (n, step) in steps.into_iter().chain(std::iter::repeat_n(None, rest)).enumerate() {
                if let Some((tenant, bytes)) = step {
                    let cost = bytes.max(REQUEST) as u64;
                    largest = largest.max(cost);
                    queue.push(One(NAMES[tenant], n, bytes));
                    if waiting[tenant].is_empty() {
                        served[tenant] = [0; 4];
                        served.iter_mut().for_each(|of| of[tenant] = 0);
                    }
                    waiting[tenant].push_back((n, cost));
                    continue;
                }
                let Some(one) = queue.pop() else {
                    prop_assert!(waiting.iter().all(VecDeque::is_empty));
                    continue;
                };
                let tenant = NAMES.iter().position(|name| *name == one.0).unwrap();
                let (expected, cost) = waiting[tenant][0];
                prop_assert_eq!(expected, one.1);
                // An entry that is put back is the next entry again.
                if n % 3 == 0 {
                    queue.push_front(one);
                    prop_assert_eq!(queue.pop(), Some(one));
                }
                waiting[tenant].pop_front();
                for other in (0..4).filter(|other| !waiting[*other].is_empty()) {
                    served[tenant][other] += cost;
                    let ahead = served[tenant][other].saturating_sub(served[other][tenant]);
                    prop_assert!(ahead <= 2 * largest, "{tenant} is {ahead} ahead of {other}");
                }
                prop_assert_eq!(queue.len(), waiting.iter().map(VecDeque::len).sum::<usize>());
            }
            prop_assert!(queue.is_empty());
        }
    }
}
