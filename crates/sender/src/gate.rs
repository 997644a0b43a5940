//! Decides when an endpoint may be called: it must be active and not paused, its breaker must be closed, and its rate must
//! not be used up.

use outbox_core::breaker::{self, Breaker};
use outbox_core::bucket::Bucket;

use crate::{Endpoint, Mode, Saved};

/// The gate of one endpoint.
#[derive(Debug)]
pub(crate) struct Gate {
    mode: Mode,
    paused_until: i64,
    breaker: Breaker,
    bucket: Option<Bucket>,
}

/// The answer of the gate to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// The request may be sent. With `probe` its outcome decides whether the breaker closes.
    Go { probe: bool },
    /// The request may not be sent before this time.
    NotBefore(i64),
    /// The request may not be sent before the endpoint is active, or the probe has a result.
    Closed,
}

impl Gate {
    pub(crate) fn new(endpoint: &Endpoint, now: i64) -> Gate {
        Gate {
            mode: endpoint.mode,
            paused_until: endpoint.state.paused_until,
            breaker: Breaker::new(endpoint.breaker, endpoint.state.breaker),
            bucket: endpoint.rate.map(|rate| Bucket::new(rate.per_second, rate.burst, now)),
        }
    }

    /// Changes the settings. An endpoint that becomes active again starts with a closed breaker and without a pause.
    pub(crate) fn configure(&mut self, endpoint: &Endpoint, now: i64) {
        self.breaker.configure(endpoint.breaker);
        if self.mode != Mode::Active && endpoint.mode == Mode::Active {
            self.breaker.close();
            self.paused_until = 0;
        }
        self.mode = endpoint.mode;
        match (endpoint.rate, &mut self.bucket) {
            (None, bucket) => *bucket = None,
            (Some(rate), Some(bucket)) => bucket.configure(rate.per_second, rate.burst, now),
            (Some(rate), none) => *none = Some(Bucket::new(rate.per_second, rate.burst, now)),
        }
    }

    /// Returns whether the endpoint's own state allows a request. Takes no token of the rate.
    pub(crate) fn look(&self, now: i64) -> Pass {
        if self.mode != Mode::Active {
            return Pass::Closed;
        }
        if now < self.paused_until {
            return Pass::NotBefore(self.paused_until);
        }
        match self.breaker.gate(now) {
            breaker::Gate::Send => Pass::Go { probe: false },
            breaker::Gate::Probe => Pass::Go { probe: true },
            breaker::Gate::NotBefore(until) => Pass::NotBefore(until),
            breaker::Gate::AfterProbe => Pass::Closed,
        }
    }

    /// Takes a token of the rate.
    pub(crate) fn take(&mut self, now: i64) -> Result<(), i64> {
        self.bucket.as_mut().map_or(Ok(()), |bucket| bucket.take(now))
    }

    /// Records that the next request is the probe.
    pub(crate) fn probe(&mut self) {
        self.breaker.probe();
    }

    /// Sends no request before `until`.
    pub(crate) fn pause(&mut self, until: i64) {
        self.paused_until = self.paused_until.max(until);
    }

    /// Records the result of a request. `None`: the result says nothing about the endpoint.
    pub(crate) fn result(&mut self, ok: Option<bool>, probe: bool, now: i64) {
        match ok {
            Some(ok) => self.breaker.result(ok, probe, now),
            None if probe => self.breaker.probe_again(now),
            None => {}
        }
    }

    /// Returns the state that other sessions see and that survives a restart.
    pub(crate) fn saved(&self) -> Saved {
        Saved { breaker: self.breaker.state(), paused_until: self.paused_until }
    }
}
