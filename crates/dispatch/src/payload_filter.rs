//! Filters on the payload: SQL/JSON path predicates, which PostgreSQL evaluates.
//!
//! A path is evaluated only where a subscription has one and all other conditions match. It is a program written by a
//! subscriber, so the store runs it under a timer. When the timer or an ERROR ends the evaluation, only that subscription is
//! affected.
//!
//! Invariant: all slow filters together take a tenth of the dispatcher's time. After a filter was evaluated that took long,
//! only filters known to be quick are evaluated for nine times as long as it took; the subscriptions of the other filters
//! lag meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::feed::{Stored, subject};
use crate::store::Store;
use crate::subscriptions::Config;

/// Evaluates a path on payloads. A failure concerns the path or a payload.
pub trait Evaluate {
    /// Returns the result on each payload. The evaluation ends after `timer`.
    ///
    /// # Errors
    /// The path failed on a payload, or took too long.
    fn evaluate(&mut self, path: &str, payloads: &[&str], timer: Duration) -> Result<Vec<bool>, Failure>;

    /// The monotonic time.
    fn instant(&self) -> Instant;
}

impl<S: Store> Evaluate for S {
    fn evaluate(&mut self, path: &str, payloads: &[&str], timer: Duration) -> Result<Vec<bool>, Failure> {
        self.filter(path, payloads, timer)
    }

    fn instant(&self) -> Instant {
        crate::store::Host::instant(self)
    }
}

/// Longest time per payload of a quick filter.
const QUICK: Duration = Duration::from_millis(1);
/// After a slow filter, the other filters rest for this many times as long as it took.
const SHARE: u32 = 9;

/// The result of a filter on the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterResult {
    /// It holds.
    Holds,
    /// It does not hold.
    Fails,
    /// The filter could not be evaluated: the message becomes a dead letter of that subscription.
    Broken(Box<str>),
    /// The filter was not evaluated yet, and will be later.
    Later,
}

/// FilterResults on consecutive messages of the feed.
#[derive(Default, Debug)]
pub struct FilterResults(HashMap<(i64, i32), FilterResult>);

impl FilterResults {
    /// The result on the message at `position` for a subscription.
    pub fn of(&self, position: i64, subscription: i32) -> &FilterResult {
        self.0.get(&(position, subscription)).unwrap_or(&FilterResult::Later)
    }
}

/// Evaluates filters, the cheapest first.
#[derive(Debug, Default)]
pub struct Predicates {
    /// Whether slow filters rest. They do not where a session routes by itself: its settings bound the time.
    inline: bool,
    /// Until this time only quick filters are evaluated.
    rest_until: Option<Instant>,
}

/// The payloads that one filter is evaluated on.
struct Question {
    asked: Vec<(i64, String)>,
    may_be_asked: bool,
    /// Time per payload of the last evaluation.
    cost: Option<Duration>,
}

impl Predicates {
    /// For the dispatcher.
    pub const fn new() -> Predicates {
        Predicates { inline: false, rest_until: None }
    }

    /// For a session that routes by itself.
    pub const fn inline() -> Predicates {
        Predicates { inline: true, rest_until: None }
    }

    /// Evaluates all filters on payloads that matter for these messages, of the subscriptions for which `wanted` is true.
    /// `timer`: longest time for one payload.
    pub fn examine<E: Evaluate>(
        &mut self,
        evaluator: &mut E,
        timer: Duration,
        config: &mut Config,
        messages: &[Stored],
        wanted: impl Fn(i32) -> bool,
    ) -> FilterResults {
        let mut results = FilterResults::default();
        if !config.asks_payload {
            return results;
        }
        let mut questions: BTreeMap<(i32, String), Question> = BTreeMap::new();
        let asked_at = evaluator.instant();
        for stored in messages.iter().filter(|stored| stored.unreadable.is_none()) {
            let position = stored.message.position;
            config.undecided(
                (position, stored.segment),
                &stored.message.topic,
                &subject(stored),
                |id, subscription, path| {
                    if !wanted(id) {
                        return;
                    }
                    // A body of bytes is no JSON payload, whatever its content type says.
                    if stored.message.content_type.is_some() {
                        results.0.insert((position, id), FilterResult::Fails);
                        return;
                    }
                    questions
                        .entry((id, path.to_owned()))
                        .or_insert_with(|| Question {
                            asked: Vec::new(),
                            may_be_asked: subscription.may_be_asked(asked_at),
                            cost: subscription.filter_cost,
                        })
                        .asked
                        .push((position, String::from_utf8_lossy(&stored.message.content).into_owned()));
                },
            );
        }
        // The cheapest filters come first: filters after a slow one have to wait.
        let mut questions: Vec<((i32, String), Question)> =
            questions.into_iter().filter(|(_, question)| question.may_be_asked).collect();
        questions.sort_by_key(|(_, question)| question.cost.unwrap_or(QUICK));
        for ((id, path), question) in questions {
            let known_quick = question.cost.is_some_and(|cost| cost <= QUICK);
            let begun = evaluator.instant();
            let rest = self.rest_until.filter(|until| *until > begun);
            if let Some(until) = rest.filter(|_| !known_quick) {
                postpone(config, id, until);
                continue;
            }
            let answered = ask(evaluator, &path, &question, timer, rest.is_some());
            let finished = evaluator.instant();
            let took = finished.saturating_duration_since(begun);
            let cost = took / (answered.len().max(1) as u32);
            if (cost > QUICK || answered.len() < question.asked.len()) && !self.inline {
                self.rest_until = Some(finished + SHARE * took);
            }
            let broken = answered.last().is_some_and(|(_, result)| matches!(result, FilterResult::Broken(_)));
            if broken {
                postpone(config, id, finished + 10 * timer);
            } else if let Some(until) = self.rest_until.filter(|_| answered.len() < question.asked.len()) {
                postpone(config, id, until);
            }
            if let Some(subscription) = config.subscriptions.get_mut(&id) {
                subscription.filter_cost = Some(cost);
            }
            results.0.extend(answered.into_iter().map(|(position, result)| ((position, id), result)));
        }
        results
    }
}

/// Returns results on all payloads, or on the first of them. While slow filters rest, a filter that was quick until now
/// gets a quarter of the timer.
fn ask<E: Evaluate>(
    evaluator: &mut E,
    path: &str,
    question: &Question,
    timer: Duration,
    in_haste: bool,
) -> Vec<(i64, FilterResult)> {
    let texts: Vec<&str> = question.asked.iter().map(|(_, text)| text.as_str()).collect();
    let result = |holds| if holds { FilterResult::Holds } else { FilterResult::Fails };
    let all = if in_haste { timer / 4 } else { timer };
    if let Ok(answers) = evaluate(evaluator, path, &texts, all) {
        return question.asked.iter().zip(answers).map(|((position, _), holds)| (*position, result(holds))).collect();
    }
    let mut answered = Vec::new();
    let begun = evaluator.instant();
    // One by one, to find the payload that fails, and in total not longer than one payload may take.
    for (position, text) in question.asked.iter().take(if in_haste { 0 } else { usize::MAX }) {
        match evaluate(evaluator, path, &[text], timer) {
            Ok(answers) => answered.push((*position, result(answers.first().copied().unwrap_or(false)))),
            Err(failure) => {
                answered.push((*position, FilterResult::Broken(failure.message.into())));
                break;
            }
        }
        if evaluator.instant().saturating_duration_since(begun) >= timer {
            break;
        }
    }
    answered
}

fn evaluate<E: Evaluate>(
    evaluator: &mut E,
    path: &str,
    payloads: &[&str],
    timer: Duration,
) -> Result<Vec<bool>, Failure> {
    let answers = evaluator.evaluate(path, payloads, timer)?;
    if answers.len() == payloads.len() { Ok(answers) } else { Err(Failure::new("a filter gave no answer")) }
}

/// Postpones the evaluation of a subscription's filter until `until`.
fn postpone(config: &mut Config, id: i32, until: Instant) {
    if let Some(subscription) = config.subscriptions.get_mut(&id) {
        subscription.slow_until = Some(until);
    }
}
