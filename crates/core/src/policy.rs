//! The rules that map the outcome of a request to an action, and the decision on the delivery.

use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::schedule::Schedule;

/// Why a request got no response, or no usable response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The name did not resolve.
    Dns,
    /// The connection was refused: no process listens on the port.
    Refused,
    /// The connection broke.
    Reset,
    /// No route to the host.
    Unreachable,
    /// Connecting, sending or receiving took too long.
    Timeout,
    /// The TLS handshake failed, or the certificate is not trusted.
    Tls,
    /// The response's body is malformed.
    Body,
    /// The response is not HTTP.
    Protocol,
    /// The operator does not allow the address.
    Forbidden,
    /// The endpoint's URL, headers or secrets cannot be used, or the message cannot be rendered.
    Invalid,
    /// The authorisation server gave no token.
    Auth,
    /// This machine is short of descriptors, ports or memory. The fault says nothing about the receiver and is never an
    /// attempt of a delivery: the delivery waits.
    Local,
}

impl Fault {
    /// Every fault that can be the outcome of an attempt.
    pub const ALL: [Fault; 11] = [
        Fault::Dns,
        Fault::Refused,
        Fault::Reset,
        Fault::Unreachable,
        Fault::Timeout,
        Fault::Tls,
        Fault::Body,
        Fault::Protocol,
        Fault::Forbidden,
        Fault::Invalid,
        Fault::Auth,
    ];

    /// Returns the name in the attempt log and in a policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fault::Dns => "dns",
            Fault::Refused => "refused",
            Fault::Reset => "reset",
            Fault::Unreachable => "unreachable",
            Fault::Timeout => "timeout",
            Fault::Tls => "tls",
            Fault::Body => "body",
            Fault::Protocol => "protocol",
            Fault::Forbidden => "forbidden",
            Fault::Invalid => "invalid",
            Fault::Auth => "auth",
            Fault::Local => "local",
        }
    }
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status.
    Status(u16),
    /// No usable response.
    Fault(Fault),
}

impl Outcome {
    /// Returns the class in the attempt log: `status` (the code is in another column), `redirect`, or the name of the fault.
    /// `None` for 2xx.
    pub fn class(self) -> Option<&'static str> {
        match self {
            Outcome::Status(200..=299) => None,
            Outcome::Status(300..=399) => Some("redirect"),
            Outcome::Status(_) => Some("status"),
            Outcome::Fault(fault) => Some(fault.as_str()),
        }
    }
}

/// The action of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The delivery is completed.
    Success,
    /// The delivery is retried on its schedule.
    Retry,
    /// The delivery is retried a few times, enough for a deployment that is under way. Then it is dead-lettered.
    RetryBriefly,
    /// The delivery is retried, and the endpoint gets no requests for as long as it asks for.
    Throttle,
    /// The delivery is dead-lettered at once.
    Dead,
    /// The delivery is dead-lettered at once, and the endpoint is disabled.
    Disable,
}

impl Action {
    const NAMES: [(&'static str, Action); 6] = [
        ("success", Action::Success),
        ("retry", Action::Retry),
        ("retry_briefly", Action::RetryBriefly),
        ("throttle", Action::Throttle),
        ("dead", Action::Dead),
        ("disable", Action::Disable),
    ];

    fn parse(text: &str) -> Option<Action> {
        Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, action)| *action)
    }
}

/// The number of attempts, including the first, that `RetryBriefly` allows.
pub const BRIEF_ATTEMPTS: u32 = 5;

/// The rules of an endpoint or subscription that differ from the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    codes: Vec<(u16, Action)>,
    classes: Vec<(u16, Action)>,
    faults: Vec<(Fault, Action)>,
}

impl Policy {
    /// Parses overrides: an object from a status (`"404"`), a class (`"4xx"`) or a fault (`"timeout"`) to an action
    /// (`success`, `retry`, `retry_briefly`, `throttle`, `dead`, `disable`).
    ///
    /// # Errors
    /// 22023 that names the entry.
    pub fn parse(json: &Value) -> Result<Policy> {
        let refuse = |what: String| {
            Error::invalid(format!("invalid status policy: {what}")).hint(
                "A policy maps statuses (\"404\"), classes (\"4xx\") and faults (\"timeout\") to success, retry, retry_briefly, throttle, dead or disable.",
            )
        };
        let Value::Object(entries) = json else {
            return Err(refuse("it is not a JSON object".to_owned()));
        };
        let mut policy = Policy::default();
        for (key, value) in entries {
            let action = value
                .as_str()
                .and_then(Action::parse)
                .ok_or_else(|| refuse(format!("\"{key}\" is mapped to {value}, which is no action")))?;
            if let Some(fault) = Fault::ALL.into_iter().find(|fault| fault.as_str() == key) {
                if action == Action::Success {
                    return Err(refuse(format!("\"{key}\" cannot be a success")));
                }
                policy.faults.push((fault, action));
            } else if let Some(class) =
                key.strip_suffix("xx").and_then(|c| c.parse::<u16>().ok()).filter(|c| (1..=5).contains(c))
            {
                policy.classes.push((class, action));
            } else if let Some(code) = key.parse::<u16>().ok().filter(|c| (100..=599).contains(c)) {
                policy.codes.push((code, action));
            } else {
                return Err(refuse(format!("\"{key}\" is no status, class or fault")));
            }
        }
        Ok(policy)
    }

    /// Returns this policy, completed with the entries of `below` that this policy does not have.
    #[must_use]
    pub fn over(mut self, below: &Policy) -> Policy {
        fn add<K: Copy + PartialEq>(to: &mut Vec<(K, Action)>, from: &[(K, Action)]) {
            let own = to.len();
            for (key, action) in from {
                if !to[..own].iter().any(|(known, _)| known == key) {
                    to.push((*key, *action));
                }
            }
        }
        add(&mut self.codes, &below.codes);
        add(&mut self.classes, &below.classes);
        add(&mut self.faults, &below.faults);
        self
    }

    /// Returns the action for an outcome. A rule for the code comes first, then a rule for its class, then the defaults.
    pub fn action(&self, outcome: Outcome) -> Action {
        match outcome {
            Outcome::Status(code) => find(&self.codes, code)
                .or_else(|| find(&self.classes, code / 100))
                .unwrap_or_else(|| default_for_status(code)),
            Outcome::Fault(fault) => {
                self.faults.iter().find(|(f, _)| *f == fault).map_or_else(|| default_for_fault(fault), |(_, a)| *a)
            }
        }
    }
}

fn find(table: &[(u16, Action)], key: u16) -> Option<Action> {
    table.iter().find(|(known, _)| *known == key).map(|(_, action)| *action)
}

/// Returns the default action for a status (Standard Webhooks, CloudEvents HTTP webhooks). Only 2xx is a success. Redirects
/// are never followed. A delivery that the receiver refuses permanently is dead-lettered at once.
fn default_for_status(code: u16) -> Action {
    match code {
        200..=299 => Action::Success,
        429 | 503 => Action::Throttle,
        408 | 425 => Action::Retry,
        410 => Action::Disable,
        400 | 413 | 415 | 422 => Action::Dead,
        300..=499 => Action::RetryBriefly,
        _ => Action::Retry,
    }
}

fn default_for_fault(fault: Fault) -> Action {
    match fault {
        Fault::Forbidden | Fault::Invalid => Action::Dead,
        _ => Action::Retry,
    }
}

/// A request of the receiver in the response header `webhook-delivery`. It counts with every status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The receiver wants no further attempt of this message.
    AbortMessage,
    /// The receiver wants no further attempt of this message and no other messages: the endpoint is disabled.
    Disable,
}

impl Control {
    /// Reads the header's value. Unknown values are ignored.
    pub fn parse(value: &str) -> Option<Control> {
        match value.trim().to_ascii_lowercase().as_str() {
            "abort-message" => Some(Control::AbortMessage),
            "disable" => Some(Control::Disable),
            _ => None,
        }
    }

    /// Combines the header with the `action` of the rule for this attempt. A delivery that succeeded stays delivered.
    pub fn apply(this: Option<Control>, action: Action) -> Action {
        match (this, action) {
            (_, Action::Success) | (None, _) => action,
            (Some(_), Action::Disable) => Action::Disable,
            (Some(Control::AbortMessage), _) => Action::Dead,
            (Some(Control::Disable), _) => Action::Disable,
        }
    }
}

/// Returns what an attempt says about the endpoint, for the breaker. `Some(true)`: the endpoint works. `Some(false)`: it
/// does not work. `None`: nothing, because the endpoint was not called or asked for a pause.
pub fn health(outcome: Outcome) -> Option<bool> {
    match outcome {
        Outcome::Status(429) => None,
        Outcome::Status(408 | 500..) => Some(false),
        Outcome::Status(_) => Some(true),
        Outcome::Fault(Fault::Forbidden | Fault::Invalid | Fault::Local) => None,
        Outcome::Fault(_) => Some(false),
    }
}

/// The decision on a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// The delivery is completed.
    Completed,
    /// Another attempt follows after this wait.
    Retry(Duration),
    /// No further attempt follows.
    Dead(DeadReason),
}

/// Why a delivery is dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadReason {
    /// All attempts are used up.
    MaxAttempts,
    /// The message is too old for another attempt.
    MaxAge,
    /// The receiver refused it, or the policy says so.
    Refused,
    /// The endpoint must not be called.
    Forbidden,
    /// The message cannot be sent at all.
    Invalid,
}

impl DeadReason {
    /// Returns the reason in the dead letter.
    pub const fn as_str(self) -> &'static str {
        match self {
            DeadReason::MaxAttempts => "max_attempts",
            DeadReason::MaxAge => "max_age",
            DeadReason::Refused => "refused",
            DeadReason::Forbidden => "forbidden",
            DeadReason::Invalid => "invalid",
        }
    }
}

/// The budget of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// The number of the attempt that has just ended, from 1.
    pub attempt: u32,
    /// The largest number of attempts, including the first.
    pub max_attempts: u32,
    /// Time since the message was enqueued.
    pub age: Duration,
    /// The largest age of the message at which another attempt may start.
    pub max_age: Option<Duration>,
}

/// Decides on a delivery after an attempt. `asked` is the wait that the receiver asked for (Retry-After); this wait is never
/// shortened. `seed` determines the jitter.
pub fn decide(
    action: Action,
    outcome: Outcome,
    budget: Budget,
    schedule: &Schedule,
    asked: Option<Duration>,
    seed: u64,
) -> Decision {
    let limit = match action {
        Action::Success => return Decision::Completed,
        Action::Dead | Action::Disable => {
            return Decision::Dead(match outcome {
                Outcome::Fault(Fault::Forbidden) => DeadReason::Forbidden,
                Outcome::Fault(Fault::Invalid) => DeadReason::Invalid,
                _ => DeadReason::Refused,
            });
        }
        Action::RetryBriefly => budget.max_attempts.min(BRIEF_ATTEMPTS),
        Action::Retry | Action::Throttle => budget.max_attempts,
    };
    if budget.attempt >= limit {
        return Decision::Dead(DeadReason::MaxAttempts);
    }
    let wait = schedule.jittered(budget.attempt, seed).max(asked.unwrap_or_default());
    if budget.max_age.is_some_and(|max| budget.age + wait > max) {
        return Decision::Dead(DeadReason::MaxAge);
    }
    Decision::Retry(wait)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults() {
        let policy = Policy::default();
        for (codes, action) in [
            (vec![200, 201, 202, 204, 299], Action::Success),
            (vec![408, 425, 500, 502, 504, 599], Action::Retry),
            (vec![429, 503], Action::Throttle),
            (vec![301, 302, 304, 307, 308, 401, 403, 404, 405, 409], Action::RetryBriefly),
            (vec![400, 413, 415, 422], Action::Dead),
            (vec![410], Action::Disable),
        ] {
            for code in codes {
                assert_eq!(policy.action(Outcome::Status(code)), action, "{code}");
            }
        }
        for fault in Fault::ALL {
            let dead = matches!(fault, Fault::Forbidden | Fault::Invalid);
            let expected = if dead { Action::Dead } else { Action::Retry };
            assert_eq!(policy.action(Outcome::Fault(fault)), expected, "{fault:?}");
        }
    }

    #[test]
    fn a_code_wins_over_its_class_and_both_over_the_defaults() {
        let policy =
            Policy::parse(&json!({"4xx": "dead", "404": "retry", "timeout": "dead", "302": "success"})).unwrap();
        assert_eq!(policy.action(Outcome::Status(404)), Action::Retry);
        assert_eq!(policy.action(Outcome::Status(429)), Action::Dead);
        assert_eq!(policy.action(Outcome::Status(302)), Action::Success);
        assert_eq!(policy.action(Outcome::Status(500)), Action::Retry);
        assert_eq!(policy.action(Outcome::Fault(Fault::Timeout)), Action::Dead);
    }

    #[test]
    fn a_subscription_s_policy_lies_over_its_endpoint_s() {
        let parse = |json| Policy::parse(&json).unwrap();
        let policy = parse(json!({"404": "dead", "5xx": "dead"}))
            .over(&parse(json!({"404": "retry", "409": "retry", "4xx": "disable"})));
        for (code, action) in [
            (404, Action::Dead),
            (409, Action::Retry),
            (418, Action::Disable),
            (500, Action::Dead),
            (200, Action::Success),
        ] {
            assert_eq!(policy.action(Outcome::Status(code)), action, "{code}");
        }
    }

    #[test]
    fn a_receiver_can_end_a_delivery_but_not_undo_it() {
        let apply = |value, action| Control::apply(Control::parse(value), action);
        assert_eq!(apply("abort-message", Action::Retry), Action::Dead);
        assert_eq!(apply(" Abort-Message ", Action::Disable), Action::Disable);
        assert_eq!(apply("disable", Action::Throttle), Action::Disable);
        assert_eq!(apply("disable", Action::Success), Action::Success);
        assert_eq!(apply("please", Action::Retry), Action::Retry);
    }

    #[test]
    fn names_the_entry_that_is_wrong() {
        for json in [
            json!(1),
            json!({"404": "ignore"}),
            json!({"999": "dead"}),
            json!({"9xx": "dead"}),
            json!({"later": "dead"}),
            json!({"timeout": "success"}),
            json!({"404": 1}),
        ] {
            assert!(Policy::parse(&json).unwrap_err().message.starts_with("invalid status policy: "));
        }
    }

    fn budget(attempt: u32, max_attempts: u32) -> Budget {
        Budget { attempt, max_attempts, age: Duration::ZERO, max_age: None }
    }

    #[test]
    fn the_last_try_is_the_max_attempts_th() {
        let (schedule, outcome) = (Schedule::default(), Outcome::Status(500));
        let decide = |b| decide(Action::Retry, outcome, b, &schedule, None, 1);
        assert!(matches!(decide(budget(1, 2)), Decision::Retry(_)));
        assert_eq!(decide(budget(2, 2)), Decision::Dead(DeadReason::MaxAttempts));
        assert_eq!(decide(budget(1, 1)), Decision::Dead(DeadReason::MaxAttempts));
        let brief = |b| super::decide(Action::RetryBriefly, Outcome::Status(404), b, &schedule, None, 1);
        assert!(matches!(brief(budget(4, 12)), Decision::Retry(_)));
        assert_eq!(brief(budget(5, 12)), Decision::Dead(DeadReason::MaxAttempts));
    }

    #[test]
    fn retry_after_lengthens_and_max_age_ends() {
        let schedule = Schedule::ladder(vec![Duration::from_secs(5)], 0.0).unwrap();
        let outcome = Outcome::Status(429);
        let asked = Some(Duration::from_secs(100));
        assert_eq!(
            decide(Action::Throttle, outcome, budget(1, 9), &schedule, asked, 0),
            Decision::Retry(Duration::from_secs(100))
        );
        let old = Budget { age: Duration::from_secs(50), max_age: Some(Duration::from_secs(60)), ..budget(1, 9) };
        assert_eq!(decide(Action::Throttle, outcome, old, &schedule, asked, 0), Decision::Dead(DeadReason::MaxAge));
        assert_eq!(decide(Action::Retry, outcome, old, &schedule, None, 0), Decision::Retry(Duration::from_secs(5)));
    }
}
