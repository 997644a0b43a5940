//! Filters on the payload, which are SQL/JSON path predicates, and transforms, which are functions of the user. PostgreSQL
//! evaluates both.
//!
//! A path is evaluated only where a subscription has one and all other conditions match, and a transform only where the whole
//! filter accepts the message. Both are programs of a subscriber, so the store runs them under a timer. When the timer or an
//! ERROR ends the evaluation, only that subscription is affected.
//!
//! Invariants:
//! * All slow filters and transforms together take a tenth of the dispatcher's time. After one was evaluated that took long,
//!   only those known to be quick are evaluated for nine times as long as it took; the subscriptions of the others lag
//!   meanwhile.
//! * A message of a subscription with a transform is never delivered with its own payload.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::failure::Failure;
use crate::feed::{Place, Stored, subject};
use crate::store::{Store, Switches, Transformed};
use crate::subscriptions::{Config, Subscription, Transform};

/// Evaluates paths and transforms on messages. A failure concerns the path or transform, or a message.
pub trait Evaluate {
    /// Returns the result of a path on each payload. The evaluation ends after `timer`.
    ///
    /// # Errors
    /// The path failed on a payload, or took too long.
    fn evaluate(&mut self, path: &str, payloads: &[&str], timer: Duration) -> Result<Vec<bool>, Failure>;

    /// Returns the payloads that a transform makes of the first of these messages: see `Store::transform`.
    ///
    /// # Errors
    /// The transform cannot be called, or the transaction failed.
    fn transform(
        &mut self,
        transform: &Transform,
        places: &[Place],
        timer: Duration,
    ) -> Result<Vec<Transformed>, Failure>;

    /// The monotonic time.
    fn instant(&self) -> Instant;
}

impl<S: Store> Evaluate for S {
    fn evaluate(&mut self, path: &str, payloads: &[&str], timer: Duration) -> Result<Vec<bool>, Failure> {
        self.filter(path, payloads, timer)
    }

    fn transform(
        &mut self,
        transform: &Transform,
        places: &[Place],
        timer: Duration,
    ) -> Result<Vec<Transformed>, Failure> {
        Store::transform(self, transform, places, timer)
    }

    fn instant(&self) -> Instant {
        crate::store::Host::instant(self)
    }
}

/// Longest time per message of a quick filter or transform.
const QUICK: Duration = Duration::from_millis(1);
/// After a slow filter or transform, the others rest for this many times as long as it took.
const SHARE: u32 = 9;
/// Messages that a transform is called with in one transaction.
const GROUP: usize = 32;
/// Bytes that transforms make for one part of the feed, not counting the last group.
const MADE_BYTES: usize = 16 << 20;

/// The result of a filter on the payload, and of a transform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterResult {
    /// The filter holds, and there is no transform.
    Holds,
    /// The filter holds, and the transform has made this payload.
    Transformed(Bytes),
    /// It does not hold.
    Fails,
    /// The transform returned null: the delivery is skipped.
    Filtered,
    /// The filter could not be evaluated: the message becomes a dead letter of that subscription.
    Broken(Box<str>),
    /// The transform failed: likewise.
    TransformFailed(Box<str>),
    /// They were not evaluated yet, and will be later.
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

/// Evaluates filters and transforms, the cheapest first.
#[derive(Debug, Default)]
pub struct Predicates {
    /// Whether slow ones rest. They do not where a session routes by itself: its settings bound the time.
    inline: bool,
    /// Until this time only quick ones are evaluated.
    rest_until: Option<Instant>,
}

/// The messages that one filter or transform is evaluated on.
enum Question {
    Filter { path: String, asked: Vec<(i64, String)> },
    Transform { transform: Transform, asked: Vec<Place> },
}

/// The messages that matter for one subscription.
#[derive(Default)]
struct Asked {
    filters: BTreeMap<(i32, String), Vec<(i64, String)>>,
    transforms: BTreeMap<i32, Vec<Place>>,
}

/// Results on the first of the messages, and whether the evaluation has failed in a way that costs time.
struct Answers {
    results: Vec<(i64, FilterResult)>,
    rests: bool,
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

    /// Evaluates all filters on payloads and all transforms that matter for these messages, of the subscriptions for which
    /// `wanted` is true.
    pub fn examine<E: Evaluate>(
        &mut self,
        evaluator: &mut E,
        switches: &Switches,
        config: &mut Config,
        messages: &[Stored],
        wanted: impl Fn(i32) -> bool,
    ) -> FilterResults {
        let mut results = FilterResults::default();
        if !config.asks_payload {
            return results;
        }
        let now = evaluator.instant();
        let Asked { filters, transforms } =
            asked(config, messages, &mut results, |id, subscription| wanted(id) && subscription.may_be_asked(now));
        let filters = filters.into_iter().map(|((id, path), asked)| (id, Question::Filter { path, asked }));
        self.ask_all(evaluator, switches.filter_timeout, config, filters.collect(), &mut results);
        let mut questions = Vec::new();
        for (id, mut asked) in transforms {
            let Some(transform) = config.subscriptions.get(&id).and_then(|s| s.transform.clone()) else { continue };
            asked.retain(|place| matches!(results.of(place.position, id), FilterResult::Holds));
            for place in &asked {
                results.0.remove(&(place.position, id));
            }
            questions.push((id, Question::Transform { transform, asked }));
        }
        self.ask_all(evaluator, switches.transform_timeout, config, questions, &mut results);
        results
    }

    /// Calls the transform of a subscription with these messages. Without a transform, each of them is delivered as it is.
    pub fn transform<E: Evaluate>(
        &mut self,
        evaluator: &mut E,
        switches: &Switches,
        config: &mut Config,
        id: i32,
        messages: &[Stored],
    ) -> FilterResults {
        let mut results = FilterResults::default();
        let transform = config.subscriptions.get(&id).and_then(|s| s.transform.clone());
        let Some(transform) = transform else {
            results.0.extend(messages.iter().map(|stored| ((stored.message.position, id), FilterResult::Holds)));
            return results;
        };
        let asked = messages.iter().map(place).collect();
        let question = (id, Question::Transform { transform, asked });
        self.ask_all(evaluator, switches.transform_timeout, config, vec![question], &mut results);
        results
    }

    /// Evaluates these filters or transforms of subscriptions. `timer`: longest time for one message.
    fn ask_all<E: Evaluate>(
        &mut self,
        evaluator: &mut E,
        timer: Duration,
        config: &mut Config,
        mut questions: Vec<(i32, Question)>,
        results: &mut FilterResults,
    ) {
        let mut made = 0;
        // The cheapest come first: those after a slow one have to wait.
        questions.sort_by_key(|(id, question)| question.cost(config, *id).unwrap_or(QUICK));
        for (id, question) in questions.into_iter().filter(|(_, question)| question.len() > 0) {
            let known_quick = question.cost(config, id).is_some_and(|cost| cost <= QUICK);
            let begun = evaluator.instant();
            let rest = self.rest_until.filter(|until| *until > begun);
            if let Some(until) = rest.filter(|_| !known_quick) {
                postpone(config, id, until);
                continue;
            }
            let answers = question.ask(evaluator, timer, rest.is_some(), &mut made);
            let finished = evaluator.instant();
            let took = finished.saturating_duration_since(begun);
            let (answered, asked) = (answers.results.len(), question.len());
            let cost = took / (answered.max(1) as u32);
            if (cost > QUICK || answered < asked && made < MADE_BYTES) && !self.inline {
                self.rest_until = Some(finished + SHARE * took);
            }
            if answers.rests {
                postpone(config, id, finished + 10 * timer);
            } else if let Some(until) = self.rest_until.filter(|_| answered < asked) {
                postpone(config, id, until);
            }
            if let Some(subscription) = config.subscriptions.get_mut(&id) {
                match question {
                    Question::Filter { .. } => subscription.filter_cost = Some(cost),
                    Question::Transform { .. } => subscription.transform_cost = Some(cost),
                }
            }
            results.0.extend(answers.results.into_iter().map(|(position, result)| ((position, id), result)));
        }
    }
}

/// The place of a message.
fn place(stored: &Stored) -> Place {
    let (position, message_id) = (stored.message.position, stored.message.id);
    Place { position, message_id, segment: stored.segment, payload_of: 0 }
}

/// Collects the messages that are to be asked about. Results that need no evaluation are added to `results`; a filter without
/// a path holds.
fn asked(
    config: &mut Config,
    messages: &[Stored],
    results: &mut FilterResults,
    wanted: impl Fn(i32, &Subscription) -> bool,
) -> Asked {
    let mut asked = Asked::default();
    for stored in messages.iter().filter(|stored| stored.unreadable.is_none()) {
        let (position, segment) = (stored.message.position, stored.segment);
        let about = &subject(stored);
        config.undecided((position, segment), &stored.message.topic, about, |id, subscription, path| {
            if !wanted(id, subscription) {
                return;
            }
            match path {
                // A body of bytes is no JSON payload, whatever its content type says.
                Some(_) if stored.message.content_type.is_some() => {
                    results.0.insert((position, id), FilterResult::Fails);
                    return;
                }
                Some(path) => asked
                    .filters
                    .entry((id, path.to_owned()))
                    .or_default()
                    .push((position, String::from_utf8_lossy(&stored.message.content).into_owned())),
                None => {
                    results.0.insert((position, id), FilterResult::Holds);
                }
            }
            if subscription.transform.is_some() {
                asked.transforms.entry(id).or_default().push(place(stored));
            }
        });
    }
    asked
}

impl Question {
    fn len(&self) -> usize {
        match self {
            Question::Filter { asked, .. } => asked.len(),
            Question::Transform { asked, .. } => asked.len(),
        }
    }

    /// Time per message of the last evaluation.
    fn cost(&self, config: &Config, id: i32) -> Option<Duration> {
        let subscription = config.subscriptions.get(&id)?;
        match self {
            Question::Filter { .. } => subscription.filter_cost,
            Question::Transform { .. } => subscription.transform_cost,
        }
    }

    /// Returns results on all messages, or on the first of them. `in_haste`: slow ones rest, and a quick one gets a quarter of
    /// the timer. `made`: the bytes that transforms have made so far.
    fn ask<E: Evaluate>(&self, evaluator: &mut E, timer: Duration, in_haste: bool, made: &mut usize) -> Answers {
        match self {
            Question::Filter { path, asked } => filter(evaluator, path, asked, timer, in_haste),
            Question::Transform { transform, asked } => {
                let all = if in_haste { timer / 4 } else { timer };
                transform_all(evaluator, transform, asked, (timer, all), made)
            }
        }
    }
}

/// Calls a transform with all messages, or the first of them: in total not longer than one message may take.
fn transform_all<E: Evaluate>(
    evaluator: &mut E,
    transform: &Transform,
    places: &[Place],
    (timer, all): (Duration, Duration),
    made: &mut usize,
) -> Answers {
    let mut results = Vec::new();
    let begun = evaluator.instant();
    while results.len() < places.len() && *made < MADE_BYTES {
        let rest = &places[results.len()..];
        let group = &rest[..rest.len().min(GROUP)];
        let started = evaluator.instant();
        let found = match evaluator.transform(transform, group, timer) {
            Ok(found) => found,
            // A lock or a lack of memory passes; the messages are asked about again.
            Err(failure) if failure.is_transient() => return Answers { results, rests: true },
            Err(failure) => vec![Err(failure.message.into())],
        };
        if found.is_empty() {
            return Answers { results, rests: true };
        }
        let failed = found.iter().any(Result::is_err);
        for (place, result) in group.iter().zip(found) {
            let result = match result {
                Ok(Some(payload)) => {
                    *made += payload.len();
                    FilterResult::Transformed(payload)
                }
                Ok(None) => FilterResult::Filtered,
                Err(error) => FilterResult::TransformFailed(error),
            };
            results.push((place.position, result));
        }
        let now = evaluator.instant();
        if failed && now.saturating_duration_since(started) >= timer {
            return Answers { results, rests: true };
        }
        if now.saturating_duration_since(begun) >= all {
            break;
        }
    }
    Answers { results, rests: false }
}

/// Returns results on all payloads, or on the first of them. While slow filters rest, a filter that was quick until now
/// gets a quarter of the timer.
fn filter<E: Evaluate>(
    evaluator: &mut E,
    path: &str,
    asked: &[(i64, String)],
    timer: Duration,
    in_haste: bool,
) -> Answers {
    let texts: Vec<&str> = asked.iter().map(|(_, text)| text.as_str()).collect();
    let result = |holds| if holds { FilterResult::Holds } else { FilterResult::Fails };
    let all = if in_haste { timer / 4 } else { timer };
    if let Ok(answers) = evaluate(evaluator, path, &texts, all) {
        let results = asked.iter().zip(answers).map(|((position, _), holds)| (*position, result(holds))).collect();
        return Answers { results, rests: false };
    }
    let mut answered = Vec::new();
    let mut broken = false;
    let begun = evaluator.instant();
    // One by one, to find the payload that fails, and in total not longer than one payload may take.
    for (position, text) in asked.iter().take(if in_haste { 0 } else { usize::MAX }) {
        match evaluate(evaluator, path, &[text], timer) {
            Ok(answers) => answered.push((*position, result(answers.first().copied().unwrap_or(false)))),
            Err(failure) => {
                answered.push((*position, FilterResult::Broken(failure.message.into())));
                broken = true;
                break;
            }
        }
        if evaluator.instant().saturating_duration_since(begun) >= timer {
            break;
        }
    }
    Answers { results: answered, rests: broken }
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

/// Postpones the evaluation of a subscription's filter and transform until `until`.
fn postpone(config: &mut Config, id: i32, until: Instant) {
    if let Some(subscription) = config.subscriptions.get_mut(&id) {
        subscription.slow_until = Some(until);
    }
}
