//! Filters on the payload: SQL/JSON path predicates, which PostgreSQL evaluates.
//!
//! A path is evaluated only where a subscription has one and all other conditions match. It is a program written by a
//! subscriber, so it runs under a timer. When the timer or an ERROR ends the evaluation, only that subscription is affected.
//!
//! Invariant: all slow filters together take a tenth of the dispatcher's time. After a filter was evaluated that took long,
//! only filters known to be quick are evaluated for nine times as long as it took; the subscriptions of the other filters
//! lag meanwhile.

use std::collections::HashMap;
use std::ffi::c_int;
use std::time::{Duration, Instant};

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::{self, TEXTARRAYOID, TEXTOID};

use crate::dispatch::feed::{Stored, subject};
use crate::dispatch::subscriptions::Config;
use crate::pg::txn::{self, Failure, Plan, arg};
use crate::settings;

/// Longest time per payload of a quick filter.
const QUICK: Duration = Duration::from_millis(1);
/// After a slow filter, the other filters rest for this many times as long as it took.
const SHARE: u32 = 9;

/// The result of a filter on the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterResult {
    Holds,
    Fails,
    /// The filter could not be evaluated: the message becomes a dead letter of that subscription.
    Broken(Box<str>),
    /// The filter was not evaluated yet, and will be later.
    Later,
}

/// FilterResults on consecutive messages of the feed.
#[derive(Default)]
pub struct FilterResults(HashMap<(i64, i32), FilterResult>);

impl FilterResults {
    /// The result on the message at `position` for a subscription.
    pub fn of(&self, position: i64, subscription: i32) -> &FilterResult {
        self.0.get(&(position, subscription)).unwrap_or(&FilterResult::Later)
    }
}

/// Evaluates filters.
pub struct Predicates {
    plan: Plan,
    /// Whether it runs in a session's own transaction, where the session's settings bound the time.
    inline: bool,
    /// Until this time only quick filters are evaluated.
    rest_until: Option<Instant>,
}

/// The payloads that one filter is evaluated on.
struct Question {
    path: String,
    asked: Vec<(i64, String)>,
    may_be_asked: bool,
    /// Time per payload of the last evaluation.
    cost: Option<Duration>,
}

impl Predicates {
    /// For the dispatcher: evaluates in transactions of its own, under a timer.
    pub const fn new() -> Predicates {
        Predicates {
            inline: false,
            rest_until: None,
            plan: Plan::new(
                // The path is parsed once for all payloads.
                "select array(
                    select outbox_internal.path_holds(u.t::jsonb, p.path)
                    from (select $1::jsonpath as path offset 0) p, unnest($2) with ordinality u(t, o)
                    order by u.o
                )",
                &[TEXTOID, TEXTARRAYOID],
            ),
        }
    }

    /// For a session that routes by itself: evaluates in subtransactions; the session's settings bound the time.
    pub const fn inline() -> Predicates {
        Predicates { inline: true, ..Predicates::new() }
    }

    /// Evaluates all filters on payloads that matter for these messages, of the subscriptions for which `wanted` is true.
    pub fn examine(&mut self, config: &mut Config, messages: &[Stored], wanted: impl Fn(i32) -> bool) -> FilterResults {
        let mut results = FilterResults::default();
        if !config.asks_payload {
            return results;
        }
        let mut questions: HashMap<(i32, String), Question> = HashMap::new();
        for stored in messages.iter().filter(|stored| stored.unreadable.is_none()) {
            let position = stored.message.position;
            config.undecided(position, &stored.message.topic, &subject(stored), |id, subscription, path| {
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
                        path: path.to_owned(),
                        asked: Vec::new(),
                        may_be_asked: subscription.may_be_asked(),
                        cost: subscription.filter_cost,
                    })
                    .asked
                    .push((position, String::from_utf8_lossy(&stored.message.content).into_owned()));
            });
        }
        // The cheapest filters come first: filters after a slow one have to wait.
        let mut questions: Vec<((i32, String), Question)> =
            questions.into_iter().filter(|(_, question)| question.may_be_asked).collect();
        questions.sort_by_key(|(_, question)| question.cost.unwrap_or(QUICK));
        for ((id, _), question) in questions {
            let known_quick = question.cost.is_some_and(|cost| cost <= QUICK);
            let timer = Duration::from_millis(settings::FILTER_TIMEOUT.get().max(1) as u64);
            let begun = Instant::now();
            let rest = self.rest_until.filter(|until| *until > begun);
            if let Some(until) = rest.filter(|_| !known_quick) {
                postpone(config, id, until);
                continue;
            }
            let answered = self.ask(&question, timer, rest.is_some());
            let took = begun.elapsed();
            let cost = took / (answered.len().max(1) as u32);
            if (cost > QUICK || answered.len() < question.asked.len()) && !self.inline {
                self.rest_until = Some(Instant::now() + SHARE * took);
            }
            let broken = answered.last().is_some_and(|(_, result)| matches!(result, FilterResult::Broken(_)));
            if broken {
                postpone(config, id, Instant::now() + 10 * timer);
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

    /// Returns results on all payloads, or on the first of them. While slow filters rest, a filter that was quick until now
    /// gets a quarter of the timer.
    fn ask(&mut self, question: &Question, timer: Duration, in_haste: bool) -> Vec<(i64, FilterResult)> {
        let texts: Vec<&str> = question.asked.iter().map(|(_, text)| text.as_str()).collect();
        let result = |holds| if holds { FilterResult::Holds } else { FilterResult::Fails };
        let all = if in_haste { timer / 4 } else { timer };
        if let Ok(answers) = self.evaluate(&question.path, &texts, all) {
            return question
                .asked
                .iter()
                .zip(answers)
                .map(|((position, _), holds)| (*position, result(holds)))
                .collect();
        }
        let mut answered = Vec::new();
        let begun = Instant::now();
        // One by one, to find the payload that fails, and in total not longer than one payload may take.
        for (position, text) in question.asked.iter().take(if in_haste { 0 } else { usize::MAX }) {
            match self.evaluate(&question.path, &[text], timer) {
                Ok(answers) => answered.push((*position, result(answers.first().copied().unwrap_or(false)))),
                Err(failure) => {
                    answered.push((*position, FilterResult::Broken(failure.message.into())));
                    break;
                }
            }
            if begun.elapsed() >= timer {
                break;
            }
        }
        answered
    }

    fn evaluate(&mut self, path: &str, texts: &[&str], timer: Duration) -> Result<Vec<bool>, Failure> {
        let Predicates { plan, inline, .. } = self;
        let ask = || {
            let rows = plan.execute(&[arg(path), arg(texts.to_vec())]);
            Ok(rows.first(|row| row.get::<Vec<bool>>(0).unwrap_or_default()).unwrap_or_default())
        };
        let answers = if *inline { txn::attempt(ask) } else { run_timed(timer, ask) };
        if let Some(cancelled) = answers.as_ref().err().filter(|failure| *inline && failure.is_transient()) {
            // The session was cancelled; the filter did not fail.
            pgrx::ereport!(ERROR, PgSqlErrorCode::ERRCODE_QUERY_CANCELED, cancelled.message.clone());
        }
        let answers = answers?;
        if answers.len() == texts.len() { Ok(answers) } else { Err(Failure::new("a filter gave no answer")) }
    }
}

/// Postpones the evaluation of a subscription's filter until `until`.
fn postpone(config: &mut Config, id: i32, until: Instant) {
    if let Some(subscription) = config.subscriptions.get_mut(&id) {
        subscription.slow_until = Some(until);
    }
}

/// Runs `work` in a transaction that is cancelled when it takes longer than `timer`.
pub fn run_timed<T>(timer: Duration, work: impl FnOnce() -> outbox_core::Result<T>) -> Result<T, Failure> {
    let outcome = txn::run(|| {
        let _timer = Timer::start(timer);
        work()
    });
    // The timer may have fired at the last moment.
    // SAFETY: a flag of this process; outside a transaction nothing is there to be cancelled.
    unsafe { pg_sys::QueryCancelPending = 0 };
    outcome
}

/// PostgreSQL's own statement timer, which background workers have to start themselves.
pub struct Timer;

/// TimeoutId of utils/timeout.h.
const STATEMENT_TIMEOUT: c_int = 3;

unsafe extern "C-unwind" {
    fn enable_timeout_after(id: c_int, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

impl Timer {
    /// Starts the timer. It cancels the current statement after `after`, unless it is dropped before.
    #[expect(ffi_unwind_calls, reason = "the function raises no ERROR")]
    pub fn start(after: Duration) -> Timer {
        // SAFETY: the handler is registered in every process that has a database; it sets a flag.
        unsafe { enable_timeout_after(STATEMENT_TIMEOUT, c_int::try_from(after.as_millis()).unwrap_or(c_int::MAX)) };
        Timer
    }
}

impl Drop for Timer {
    #[expect(ffi_unwind_calls, reason = "the function raises no ERROR")]
    fn drop(&mut self) {
        // SAFETY: as above; it cannot fail.
        unsafe { disable_timeout(STATEMENT_TIMEOUT, false) };
    }
}
