//! The circuit breaker of an endpoint.
//!
//! - Closed: all requests are sent.
//! - Open: no request is sent. The breaker stays open for a time that doubles from opening to opening.
//! - Half-open: one request is in flight as a probe. Its success closes the breaker, its failure opens the breaker again.
//!
//! A delivery that the breaker holds back uses up no attempt. Times are microseconds since 1970-01-01 UTC and are passed as
//! arguments.

use serde_json::Value;

use crate::error::{Error, Result};

const SECOND: i64 = 1_000_000;
/// Number of parts of the window. Old results leave the window one part at a time.
const SLICES: usize = 10;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The breaker opens after this many failures in a row. 0 switches the breaker off.
    pub in_row: u32,
    /// The breaker opens when at least this share of the results in the window are failures ...
    pub ratio: f64,
    /// ... and the window has at least this many results.
    pub min_results: u32,
    /// Length of the window, in microseconds.
    pub window: i64,
    /// How long the breaker stays open the first time, in microseconds.
    pub open: i64,
    /// The longest time that the breaker stays open, in microseconds.
    pub open_max: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            in_row: 10,
            ratio: 0.7,
            min_results: 10,
            window: 300 * SECOND,
            open: 30 * SECOND,
            open_max: 600 * SECOND,
        }
    }
}

impl Settings {
    /// Reads the settings of an endpoint that differ from the defaults: `failures` in a row (0 switches the breaker off),
    /// `ratio`, `min_results`, and in seconds `window`, `open` and `open_max`.
    ///
    /// # Errors
    /// 22023 that names the entry.
    pub fn parse(json: &Value) -> Result<Settings> {
        let refuse = |what: String| {
            Error::invalid(format!("invalid breaker: {what}"))
                .hint("A breaker looks like {\"failures\": 10, \"ratio\": 0.7, \"min_results\": 10, \"window\": 300, \"open\": 30, \"open_max\": 600}.")
        };
        let Value::Object(entries) = json else { return Err(refuse("it is not a JSON object".to_owned())) };
        let mut settings = Settings::default();
        for (key, value) in entries {
            let number = value.as_f64().ok_or_else(|| refuse(format!("\"{key}\" is not a number")))?;
            let range = |low: f64, high: f64| {
                if (low..=high).contains(&number) {
                    Ok(number)
                } else {
                    Err(refuse(format!("\"{key}\" is not between {low} and {high}")))
                }
            };
            let seconds = |low| range(low, 86_400.0).map(|n| (n * SECOND as f64) as i64);
            match key.as_str() {
                "failures" => settings.in_row = range(0.0, 1e6)? as u32,
                "ratio" => settings.ratio = range(0.01, 1.0)?,
                "min_results" => settings.min_results = range(1.0, 1e6)? as u32,
                "window" => settings.window = seconds(1.0)?,
                "open" => settings.open = seconds(0.01)?,
                "open_max" => settings.open_max = seconds(0.01)?,
                _ => return Err(refuse(format!("\"{key}\" is unknown"))),
            }
        }
        settings.open_max = settings.open_max.max(settings.open);
        Ok(settings)
    }
}

/// The state that other sessions see and that survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    /// Everything is sent.
    #[default]
    Closed,
    /// Nothing is sent before `until`. The breaker has opened `times` times in a row.
    Open {
        /// The time from which the probe may be sent.
        until: i64,
        /// The number of openings without a success in between, from 1.
        times: u32,
    },
    /// One request is in flight as a probe.
    HalfOpen {
        /// The number of openings without a success in between, from 1.
        times: u32,
    },
}

impl State {
    /// The name in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half_open",
        }
    }
}

/// Whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    Send,
    /// Yes, as the probe.
    Probe,
    /// Not before this time.
    NotBefore(i64),
    /// Not before the probe has a result.
    AfterProbe,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    number: i64,
    failed: u32,
    all: u32,
}

/// A breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    in_row: u32,
    slices: [Slice; SLICES],
}

impl Breaker {
    /// Creates a breaker that continues from a saved state. A probe that was in flight when the state was saved is sent
    /// again.
    pub fn new(settings: Settings, state: State) -> Breaker {
        let state = match state {
            State::HalfOpen { times } => State::Open { until: 0, times },
            other => other,
        };
        Breaker { settings, state, in_row: 0, slices: [Slice::default(); SLICES] }
    }

    /// Returns the state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Changes the settings. The state stays, unless the new settings switch the breaker off.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
        if settings.in_row == 0 {
            self.close();
        }
    }

    /// Closes the breaker and forgets all results.
    pub fn close(&mut self) {
        *self = Breaker::new(self.settings, State::Closed);
    }

    /// Returns whether a request may be sent now. Does not change the state.
    pub fn gate(&self, now: i64) -> Gate {
        match self.state {
            State::Closed => Gate::Send,
            State::Open { until, .. } if now < until => Gate::NotBefore(until),
            State::Open { .. } => Gate::Probe,
            State::HalfOpen { .. } => Gate::AfterProbe,
        }
    }

    /// Records that the probe is sent.
    pub fn probe(&mut self) {
        if let State::Open { times, .. } = self.state {
            self.state = State::HalfOpen { times };
        }
    }

    /// Records that the probe's result says nothing about the endpoint. Another probe may be sent at once.
    pub fn probe_again(&mut self, now: i64) {
        if let State::HalfOpen { times } = self.state {
            self.state = State::Open { until: now, times };
        }
    }

    /// Records the result of a request; `probe` says whether the request was the probe. Results of requests that were sent
    /// before the breaker opened change nothing.
    pub fn result(&mut self, ok: bool, probe: bool, now: i64) {
        match (self.state, ok) {
            (State::HalfOpen { .. }, true) if probe => self.close(),
            (State::HalfOpen { times }, false) if probe => self.open(times + 1, now),
            (State::Closed, ok) if self.settings.in_row > 0 => {
                self.in_row = if ok { 0 } else { self.in_row + 1 };
                let number = now / (self.settings.window / SLICES as i64).max(1);
                let slice = &mut self.slices[number.rem_euclid(SLICES as i64) as usize];
                if slice.number != number {
                    *slice = Slice { number, ..Slice::default() };
                }
                slice.all += 1;
                slice.failed += u32::from(!ok);
                if !ok && (self.in_row >= self.settings.in_row || self.too_many(number)) {
                    self.open(1, now);
                }
            }
            _ => {}
        }
    }

    fn too_many(&self, number: i64) -> bool {
        let recent = self.slices.iter().filter(|slice| slice.number > number - SLICES as i64);
        let (failed, all) = recent.fold((0, 0), |(failed, all), slice| (failed + slice.failed, all + slice.all));
        all >= self.settings.min_results && f64::from(failed) >= self.settings.ratio * f64::from(all)
    }

    fn open(&mut self, times: u32, now: i64) {
        let Settings { open, open_max, .. } = self.settings;
        let wait = open.checked_shl((times - 1).min(20)).filter(|w| *w > 0).map_or(open_max, |w| w.min(open_max));
        *self = Breaker::new(self.settings, State::Open { until: now + wait, times });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(Settings::default(), State::Closed)
    }

    #[test]
    fn ten_failures_in_a_row_open_it_and_one_probe_decides() {
        let mut b = breaker();
        for n in 0..9 {
            b.result(false, false, n);
            assert_eq!(b.gate(n), Gate::Send);
        }
        b.result(false, false, 9);
        let until = 9 + 30 * SECOND;
        assert_eq!(b.gate(10), Gate::NotBefore(until));
        // The results of requests that were in flight when the breaker opened change nothing.
        b.result(true, false, 11);
        b.result(false, false, 11);
        assert_eq!(b.gate(until - 1), Gate::NotBefore(until));
        assert_eq!(b.gate(until), Gate::Probe);
        b.probe();
        assert_eq!(b.gate(until), Gate::AfterProbe);
        b.result(false, true, until);
        assert_eq!(b.state(), State::Open { until: until + 60 * SECOND, times: 2 });
        let until = until + 60 * SECOND;
        assert_eq!(b.gate(until), Gate::Probe);
        b.probe();
        b.result(true, true, until);
        assert_eq!((b.state(), b.gate(until)), (State::Closed, Gate::Send));
        // One success starts the count again.
        for n in 0..9 {
            b.result(false, false, until + n);
        }
        assert_eq!(b.state(), State::Closed);
    }

    #[test]
    fn seven_of_ten_open_it_and_old_results_are_forgotten() {
        let mut b = breaker();
        for n in 0..9 {
            b.result(n % 3 == 0, false, n);
        }
        assert_eq!(b.state(), State::Closed);
        let mut later = b.clone();
        b.result(false, false, 9);
        assert!(matches!(b.state(), State::Open { times: 1, .. }));
        later.result(false, false, 301 * SECOND);
        assert_eq!(later.state(), State::Closed);
    }

    #[test]
    fn the_wait_doubles_to_its_maximum_and_survives_a_restart() {
        let mut b = breaker();
        let mut now = 0;
        for _ in 0..10 {
            b.result(false, false, now);
        }
        let mut waits = Vec::new();
        for _ in 0..8 {
            let State::Open { until, .. } = b.state() else { panic!("{b:?}") };
            waits.push((until - now) / SECOND);
            b = Breaker::new(Settings::default(), b.state());
            now = until;
            assert_eq!(b.gate(now), Gate::Probe);
            b.probe();
            b.result(false, true, now);
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600, 600]);
        b = Breaker::new(Settings::default(), State::HalfOpen { times: 3 });
        assert_eq!(b.gate(now), Gate::Probe);
    }

    #[test]
    fn settings() {
        let off = Settings::parse(&json!({"failures": 0})).unwrap();
        let mut b = Breaker::new(off, State::Closed);
        for n in 0..1000 {
            b.result(false, false, n);
        }
        assert_eq!(b.state(), State::Closed);
        let s = Settings::parse(&json!({"open": 0.5, "open_max": 0.1})).unwrap();
        assert_eq!((s.open, s.open_max), (500_000, 500_000));
        for wrong in [json!(1), json!({"opens": 1}), json!({"ratio": 0}), json!({"open": "1 s"}), json!({"window": 0})]
        {
            assert!(Settings::parse(&wrong).unwrap_err().message.starts_with("invalid breaker: "), "{wrong}");
        }
    }

    proptest! {
        /// The breaker never waits for a probe that is not in flight, and is never open for longer than its limit.
        #[test]
        fn never_stuck(results in prop::collection::vec((any::<bool>(), 0i64..40 * SECOND), 1..300)) {
            let mut b = breaker();
            let mut now = 0;
            for (ok, pause) in results {
                now += pause;
                match b.gate(now) {
                    Gate::Send => b.result(ok, false, now),
                    Gate::Probe => {
                        b.probe();
                        prop_assert_eq!(b.gate(now), Gate::AfterProbe);
                        b.result(ok, true, now);
                        prop_assert_eq!(b.state() == State::Closed, ok);
                    }
                    Gate::NotBefore(until) => prop_assert!(until > now && until <= now + 600 * SECOND),
                    Gate::AfterProbe => prop_assert!(false, "no probe is out"),
                }
            }
        }
    }
}
