//! Filters on the payload: SQL/JSON path predicates, which PostgreSQL evaluates.
//!
//! Only where a subscription has one and everything else about it matches. A path is a program of a subscriber's, so it runs
//! under a timer; what a timer or an ERROR ends is that subscription's failure and nobody else's.
//!
//! Invariant: a subscription whose filter was too slow is left alone for ten times the timer, so all of them together take a
//! tenth of the dispatcher's time at most; meanwhile it lags.

use std::collections::HashMap;
use std::ffi::c_int;
use std::time::{Duration, Instant};

use pgrx::pg_sys::{self, TEXTARRAYOID, TEXTOID};

use super::config::Config;
use super::route::{Stored, subject};
use super::txn::{self, Plan, arg};
use crate::gucs;

/// What a filter on the payload says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Holds,
    Fails,
    /// It could not be evaluated: the message is a dead letter of that subscription.
    Broken(Box<str>),
    /// It was not asked: later.
    Later,
}

/// Verdicts on a stretch of the feed.
#[derive(Default)]
pub struct Verdicts(HashMap<(i64, i32), Verdict>);

impl Verdicts {
    /// What was said about the message at `position` for a subscription.
    pub fn of(&self, position: i64, subscription: i32) -> &Verdict {
        self.0.get(&(position, subscription)).unwrap_or(&Verdict::Later)
    }
}

/// Evaluates filters.
pub struct Predicates {
    plan: Plan,
    /// In the transaction of a session, whose own settings bound it.
    inline: bool,
}

/// What one subscription asks about.
struct Question {
    path: String,
    asked: Vec<(i64, String)>,
    quick: bool,
}

impl Predicates {
    /// For the dispatcher: in transactions of its own, under a timer.
    pub const fn new() -> Predicates {
        Predicates {
            inline: false,
            plan: Plan::new(
                // As outbox._path_holds says it; the path is parsed once.
                "select array(
                    select coalesce(jsonb_path_query_first(u.t::jsonb, p.path, '{}', true) not in ('false', 'null'), false)
                    from (select $1::jsonpath as path offset 0) p, unnest($2) with ordinality u(t, o)
                    order by u.o
                )",
                &[TEXTOID, TEXTARRAYOID],
            ),
        }
    }

    /// For a session that routes by itself, in its transaction: an ERROR is the session's.
    pub const fn inline() -> Predicates {
        Predicates { inline: true, ..Predicates::new() }
    }

    /// Asks all filters on payloads that matter for these messages and that `wanted` names.
    pub fn examine(&mut self, config: &mut Config, messages: &[Stored], wanted: impl Fn(i32) -> bool) -> Verdicts {
        let mut verdicts = Verdicts::default();
        if !config.asks_payload {
            return verdicts;
        }
        let mut questions: HashMap<(i32, String), Question> = HashMap::new();
        for stored in messages {
            let position = stored.message.position;
            config.undecided(position, &stored.message.topic, &subject(stored), |id, subscription, path| {
                if !wanted(id) {
                    return;
                }
                // Bytes are no JSON payload, whatever their type says.
                if stored.message.content_type.is_some() {
                    verdicts.0.insert((position, id), Verdict::Fails);
                    return;
                }
                questions
                    .entry((id, path.to_owned()))
                    .or_insert_with(|| Question {
                        path: path.to_owned(),
                        asked: Vec::new(),
                        quick: subscription.is_quick(),
                    })
                    .asked
                    .push((position, String::from_utf8_lossy(&stored.message.content).into_owned()));
            });
        }
        for ((id, _), question) in questions {
            if !question.quick {
                continue;
            }
            let timer = Duration::from_millis(gucs::FILTER_TIMEOUT.get().max(1) as u64);
            let texts: Vec<&str> = question.asked.iter().map(|(_, text)| text.as_str()).collect();
            if let Ok(answers) = self.evaluate(&question.path, &texts, timer) {
                for ((position, _), holds) in question.asked.iter().zip(answers) {
                    verdicts.0.insert((*position, id), if holds { Verdict::Holds } else { Verdict::Fails });
                }
                continue;
            }
            // One by one, to find out which.
            for (position, text) in &question.asked {
                match self.evaluate(&question.path, &[text], timer) {
                    Ok(answers) => {
                        let holds = answers.first().copied().unwrap_or(false);
                        verdicts.0.insert((*position, id), if holds { Verdict::Holds } else { Verdict::Fails });
                    }
                    Err(error) => {
                        verdicts.0.insert((*position, id), Verdict::Broken(error.into()));
                        if let Some(subscription) = config.subscriptions.get_mut(&id) {
                            subscription.slow_until = Some(Instant::now() + 10 * timer);
                        }
                        break;
                    }
                }
            }
        }
        verdicts
    }

    fn evaluate(&mut self, path: &str, texts: &[&str], timer: Duration) -> Result<Vec<bool>, String> {
        if self.inline {
            let rows = self.plan.execute(&[arg(path), arg(texts.to_vec())]);
            return Ok(rows.first(|row| row.get::<Vec<bool>>(0).unwrap_or_default()).unwrap_or_default());
        }
        let plan = &mut self.plan;
        let answers = run_timed(timer, || {
            let rows = plan.execute(&[arg(path), arg(texts.to_vec())]);
            Ok(rows.first(|row| row.get::<Vec<bool>>(0).unwrap_or_default()).unwrap_or_default())
        })?;
        if answers.len() == texts.len() { Ok(answers) } else { Err("a filter gave no answer".to_owned()) }
    }
}

/// Runs `work` in a transaction that is cancelled when it takes longer than `timer`.
pub fn run_timed<T>(timer: Duration, work: impl FnOnce() -> outbox_core::Result<T>) -> Result<T, String> {
    let outcome = txn::run(|| {
        let _timer = Timer::start(timer);
        work()
    });
    // It may have fired in the last moment.
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
    /// What can be cancelled is cancelled then, unless the timer is dropped before.
    pub fn start(after: Duration) -> Timer {
        // SAFETY: the handler is registered in every process that has a database; it sets a flag.
        unsafe { enable_timeout_after(STATEMENT_TIMEOUT, c_int::try_from(after.as_millis()).unwrap_or(c_int::MAX)) };
        Timer
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: as above; it cannot fail.
        unsafe { disable_timeout(STATEMENT_TIMEOUT, false) };
    }
}
