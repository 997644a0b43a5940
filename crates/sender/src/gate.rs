//! When an endpoint may be called: switched on, not paused, its breaker closed, its rate not used up.

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

/// What the gate says to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Go; `probe`: its outcome decides about the breaker.
    Go { probe: bool },
    /// Ask again at this time.
    NotBefore(i64),
    /// Something else has to happen first.
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

    /// Other settings. An endpoint that is switched on again starts afresh.
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

    /// Whether anything may go out, as far as the endpoint's own state says; takes nothing.
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

    /// The request that is about to go out is the probe.
    pub(crate) fn probe(&mut self) {
        self.breaker.probe();
    }

    /// Nothing goes out before `until`.
    pub(crate) fn pause(&mut self, until: i64) {
        self.paused_until = self.paused_until.max(until);
    }

    /// A request came back; `None`: it says nothing about the endpoint.
    pub(crate) fn result(&mut self, ok: Option<bool>, probe: bool, now: i64) {
        match ok {
            Some(ok) => self.breaker.result(ok, probe, now),
            None if probe => self.breaker.probe_again(now),
            None => {}
        }
    }

    /// What other sessions see and a restart keeps.
    pub(crate) fn saved(&self) -> Saved {
        Saved { breaker: self.breaker.state(), paused_until: self.paused_until }
    }
}
