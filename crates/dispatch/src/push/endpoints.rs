//! Endpoints, as the dispatcher needs them: their configuration, their health, and when they are disabled.
//!
//! Invariants:
//! * A success while nothing is wrong writes nothing. Changes of breaker and pause are written at once, counts of failures
//!   at most once a second per endpoint.
//! * The next incarnation continues from the state that was written.

use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use outbox_core::auth::Auth;
use outbox_core::breaker::{self, State};
use outbox_core::ids::IdMap;
use outbox_core::proxy::Proxy;
use outbox_core::sign::Secret;
use outbox_core::url::Url;
use outbox_sender::tls::{Protocol, Tls};
use outbox_sender::{Done, Endpoint, Event, Mode, Rate, ResponseId, Saved, SigningKey, header_map};
use serde_json::Value;

use crate::failure::Failure;
use crate::feed::UNIX_EPOCH;
use crate::outcome::entry::DeliveryOutcome;

/// An endpoint with its secrets, its state and its proxy, as the store reads it. Times are microseconds of PostgreSQL's
/// epoch.
#[derive(Clone, Default)]
pub struct EndpointRow {
    /// The id.
    pub id: i32,
    /// The URL.
    pub url: Option<String>,
    /// Headers of every request, as a JSON object.
    pub headers: Option<String>,
    /// Time limit of a request, in milliseconds.
    pub timeout_ms: i64,
    /// The largest number of requests in flight.
    pub concurrency: Option<i32>,
    /// Requests per second; 0 or `None`: no limit.
    pub rate: Option<f64>,
    /// Requests that may be sent at once after a pause.
    pub burst: Option<f64>,
    /// Settings of the breaker as JSON.
    pub breaker: Option<String>,
    /// HTTP version.
    pub protocol: Option<String>,
    /// Whether bodies are sent gzipped.
    pub compress: bool,
    /// Place of the receiver's own id of a message.
    pub response_id: Option<String>,
    /// Names of response headers that are stored.
    pub keep_headers: Vec<String>,
    /// The endpoint is disabled after this many microseconds of failures ...
    pub disable_after: i64,
    /// ... if there were this many.
    pub disable_failures: Option<i32>,
    /// Whether it is enabled.
    pub active: bool,
    /// `hold` or `skip`, if it is disabled.
    pub disabled_mode: Option<String>,
    /// The state of the consent, if consent is asked for.
    pub consent: Option<String>,
    /// Authentication as JSON.
    pub auth: Option<String>,
    /// Certificates of authorities, the client's certificate and its key, in PEM.
    pub tls: [Option<String>; 3],
    /// The state that was written last.
    pub state: EndpointState,
    /// Signing secrets, the current one first, and the time at which each expires (microseconds since 1970; 0: never).
    pub secrets: Vec<(String, i64)>,
    /// URL of the proxy.
    pub proxy: Option<String>,
    /// Whether the proxy resolves names.
    pub proxy_resolves: bool,
    /// The proxy's name is not in the operator's list.
    pub proxy_is_gone: bool,
}

/// Without the secrets.
impl std::fmt::Debug for EndpointRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointRow").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The state of an endpoint that is stored. Times are microseconds of PostgreSQL's epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointState {
    /// The endpoint.
    pub endpoint: i32,
    /// Whether the fields up to `last_error` have changed.
    pub is_changed: bool,
    /// `closed`, `open` or `half_open`.
    pub breaker: Option<Box<str>>,
    /// When an open breaker lets a probe through.
    pub breaker_until: Option<i64>,
    /// How often the breaker has opened in a row.
    pub breaker_times: i32,
    /// The end of the pause that the receiver asked for.
    pub paused_until: Option<i64>,
    /// The first failure since the last success.
    pub failing_since: Option<i64>,
    /// Failures since then.
    pub failures: i64,
    /// The last success.
    pub last_success: Option<i64>,
    /// The last failure.
    pub last_failure: Option<i64>,
    /// Its error.
    pub last_error: Option<Box<str>>,
    /// Why the endpoint is to be disabled: reason and detail.
    pub disable: Option<(&'static str, String)>,
}

/// Counts of failures are written at most this often.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Jobs that a subscription may have with the HTTP thread while its endpoint's breaker is not closed, or the endpoint is
/// paused.
pub(crate) const LIMITED: usize = 64;

/// The health of one endpoint. Times are microseconds, PostgreSQL's epoch.
#[derive(Debug, Default)]
struct Health {
    mode: Mode,
    saved: Saved,
    failing_since: Option<i64>,
    failures: i64,
    last_success: Option<i64>,
    last_failure: Option<i64>,
    last_error: Option<Box<str>>,
    disable_after: i64,
    disable_failures: i64,
    /// Why the endpoint is to be disabled: reason and detail.
    disable: Option<(&'static str, String)>,
    dirty: bool,
    urgent: bool,
    written: Option<Instant>,
}

/// All endpoints.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    health: IdMap<i32, Health>,
}

impl Endpoints {
    /// Takes over rows, and returns the endpoints for the HTTP thread.
    pub(crate) fn load(&mut self, rows: &[EndpointRow], plain_allowed: bool, now: i64) -> Vec<Endpoint> {
        rows.iter().map(|row| self.load_one(row, plain_allowed, now)).collect()
    }

    /// Takes over that an endpoint cannot be read, and returns a stand-in for the HTTP thread.
    pub(crate) fn load_unreadable(&mut self, id: i32, failure: &Failure) -> Endpoint {
        self.health.entry(id).or_default().mode = Mode::Hold;
        unreadable(id, failure)
    }

    fn load_one(&mut self, row: &EndpointRow, plain_allowed: bool, now: i64) -> Endpoint {
        let mut endpoint = endpoint(row, plain_allowed, now);
        let known = match self.health.entry(endpoint.id) {
            Entry::Vacant(new) => new.insert(Health {
                saved: endpoint.state,
                failing_since: row.state.failing_since,
                failures: row.state.failures,
                last_success: row.state.last_success,
                last_failure: row.state.last_failure,
                last_error: row.state.last_error.clone(),
                ..Health::default()
            }),
            Entry::Occupied(known) => {
                let known = known.into_mut();
                endpoint.state = known.saved;
                if known.mode != Mode::Active && endpoint.mode == Mode::Active {
                    // The endpoint was enabled: the count starts again. The HTTP thread closes the breaker.
                    (known.failing_since, known.failures, known.disable) = (None, 0, None);
                    known.dirty = true;
                }
                known
            }
        };
        known.mode = endpoint.mode;
        known.disable_after = row.disable_after;
        known.disable_failures = row.disable_failures.unwrap_or(1).into();
        endpoint
    }

    /// Jobs that a subscription of this endpoint may have with the HTTP thread, and the time until which this limit holds
    /// (`i64::MAX`: until the endpoint changes; 0: no limit).
    pub(crate) fn limit(&self, endpoint: i32) -> (usize, i64) {
        match self.health.get(&endpoint) {
            Some(health) if health.mode == Mode::Hold => (0, i64::MAX),
            Some(health) if health.saved.breaker != State::Closed => (LIMITED, i64::MAX),
            Some(health) if health.saved.paused_until > 0 => (LIMITED, health.saved.paused_until - UNIX_EPOCH),
            _ => (usize::MAX, 0),
        }
    }

    /// Whether a retry that is due may be sent to this endpoint.
    pub(crate) fn accepts(&self, endpoint: i32, now: i64) -> bool {
        self.health.get(&endpoint).is_none_or(|health| {
            let open = matches!(health.saved.breaker, State::Open { until, .. } if until - UNIX_EPOCH > now);
            health.mode != Mode::Hold && !open && health.saved.paused_until - UNIX_EPOCH <= now
        })
    }

    /// When the next open breaker ends its wait, or the next pause ends; `None` if there is neither.
    pub(crate) fn opens_at(&self, now: i64) -> Option<i64> {
        let times = self.health.values().filter(|health| health.mode == Mode::Active).flat_map(|health| {
            let open = match health.saved.breaker {
                State::Open { until, .. } => Some(until),
                _ => None,
            };
            [open, Some(health.saved.paused_until)]
        });
        times.flatten().map(|at| at - UNIX_EPOCH).filter(|at| *at > now).min()
    }

    /// Takes over a change of an endpoint's state from the HTTP thread.
    pub(crate) fn event(&mut self, event: Event) {
        if let Some(health) = self.health.get_mut(&event.endpoint) {
            health.saved = event.state;
            health.dirty = true;
            health.urgent = true;
        }
    }

    /// Updates an endpoint's health from the outcome of an attempt.
    pub(crate) fn note(&mut self, done: &Done, outcome: &DeliveryOutcome, disable: bool) {
        let Some(health) = self.health.get_mut(&done.ticket.endpoint) else { return };
        let at = done.finished_at - UNIX_EPOCH;
        match outcome {
            DeliveryOutcome::Completed => {
                health.last_success = Some(at);
                if health.failing_since.take().is_some() {
                    health.failures = 0;
                    health.dirty = true;
                }
            }
            DeliveryOutcome::Failed(_) | DeliveryOutcome::Dead(_) | DeliveryOutcome::Cancelled => {
                let since = *health.failing_since.get_or_insert(at);
                health.failures += 1;
                health.last_failure = Some(at);
                health.last_error.clone_from(&done.error);
                health.dirty = true;
                if health.mode == Mode::Active
                    && at - since >= health.disable_after
                    && health.failures >= health.disable_failures
                    && health.disable.is_none()
                {
                    let days = (at - since) as f64 / 86_400e6;
                    let text = format!("{} failures and no success in {days:.1} days", health.failures);
                    health.disable = Some(("failing", text));
                }
            }
            DeliveryOutcome::Skipped | DeliveryOutcome::Manual(_) => {}
        }
        if disable && health.mode == Mode::Active {
            let said = done.error.as_deref().unwrap_or("the receiver asked for it");
            health.disable = Some(("refused", said.to_owned()));
        }
    }

    /// The time until the next write; zero if it is due, `None` if there is nothing to write.
    pub(crate) fn write_in(&self, now: Instant) -> Option<Duration> {
        let wait = |health: &Health| match health.written {
            _ if health.urgent || health.disable.is_some() => Duration::ZERO,
            Some(at) => WRITE_INTERVAL.saturating_sub(now.saturating_duration_since(at)),
            None => Duration::ZERO,
        };
        self.health.values().filter(|health| health.is_to_be_written()).map(wait).min()
    }

    /// The states that are to be written. `written` is called when they have been recorded.
    pub(crate) fn changed(&self) -> Vec<EndpointState> {
        let changed = self.health.iter().filter(|(_, health)| health.is_to_be_written());
        changed.map(|(id, health)| health.state(*id)).collect()
    }

    /// Notes that the changes have been recorded.
    pub(crate) fn written(&mut self, now: Instant) {
        for health in self.health.values_mut().filter(|health| health.is_to_be_written()) {
            (health.dirty, health.urgent, health.disable) = (false, false, None);
            health.written = Some(now);
        }
    }
}

impl Health {
    fn is_to_be_written(&self) -> bool {
        self.dirty || self.disable.is_some()
    }

    fn state(&self, endpoint: i32) -> EndpointState {
        let (breaker_until, times) = match self.saved.breaker {
            State::Closed => (None, 0),
            State::Open { until, times } => (Some(until - UNIX_EPOCH), times),
            State::HalfOpen { times } => (None, times),
        };
        EndpointState {
            endpoint,
            is_changed: self.dirty,
            breaker: Some(self.saved.breaker.as_str().into()),
            breaker_until,
            breaker_times: i32::try_from(times).unwrap_or(i32::MAX),
            paused_until: Some(self.saved.paused_until).filter(|at| *at > 0).map(|at| at - UNIX_EPOCH),
            failing_since: self.failing_since,
            failures: self.failures,
            last_success: self.last_success,
            last_failure: self.last_failure,
            last_error: self.last_error.clone(),
            disable: self.disable.clone(),
        }
    }
}

/// A stand-in for an unreadable endpoint. Its deliveries wait.
fn unreadable(id: i32, failure: &Failure) -> Endpoint {
    Endpoint {
        id,
        url: Err(format!("its settings cannot be read: {failure}")),
        mode: Mode::Hold,
        headers: Default::default(),
        secrets: Vec::new(),
        timeout: Duration::from_secs(15),
        concurrency: 1,
        rate: None,
        breaker: breaker::Settings::default(),
        state: Saved::default(),
        auth: None,
        tls: Tls::default(),
        protocol: Protocol::default(),
        proxy: None,
        compress: false,
        response_id: None,
        keep_headers: Vec::new(),
    }
}

/// Builds an endpoint from its row. If a setting is unusable, the endpoint's deliveries become dead letters with that
/// reason.
fn endpoint(row: &EndpointRow, plain_allowed: bool, now: i64) -> Endpoint {
    let json = |text: &Option<String>| text.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let mut wrong = None;
    let headers = json(&row.headers).unwrap_or_default();
    let pairs = headers.as_object().into_iter().flatten().filter_map(|(name, v)| Some((name.as_str(), v.as_str()?)));
    let headers = header_map(pairs).unwrap_or_else(|error| {
        wrong = Some(error);
        Default::default()
    });
    let mut secrets = Vec::new();
    for (secret, expires) in &row.secrets {
        match Secret::parse(secret) {
            Ok(secret) => secrets.push(SigningKey { secret, expires_at: Some(*expires).filter(|at| *at != 0) }),
            Err(error) => wrong = Some(error.to_string()),
        }
    }
    let auth = json(&row.auth).map(|json| Auth::parse(&json, plain_allowed)).transpose().unwrap_or_else(|error| {
        wrong = Some(error.to_string());
        None
    });
    let breaker = json(&row.breaker).map(|json| breaker::Settings::parse(&json)).transpose().unwrap_or_else(|error| {
        wrong = Some(error.to_string());
        None
    });
    let proxy = Proxy::parse(row.proxy.as_deref().unwrap_or_default()).unwrap_or_else(|error| {
        wrong = Some(error.to_string());
        None
    });
    if row.proxy_is_gone {
        wrong = Some("its proxy is not in the operator's list any more".to_owned());
    }
    let response_id = row.response_id.as_deref().map(ResponseId::parse).transpose().unwrap_or_else(|error| {
        wrong = Some(error);
        None
    });
    let url = row.url.as_deref().ok_or_else(|| "no url".to_owned()).and_then(|url| {
        Url::parse(url, plain_allowed).map_err(|e| format!("{e}: {}", e.detail.as_deref().unwrap_or("")))
    });
    let mode = match (row.active, row.disabled_mode.as_deref(), row.consent.as_deref()) {
        (true, _, Some("pending" | "refused")) => Mode::Hold,
        (true, ..) => Mode::Active,
        (false, Some("skip"), _) => Mode::Skip,
        (false, ..) => Mode::Hold,
    };
    let rate = row.rate.filter(|rate| *rate > 0.0);
    let times = u32::try_from(row.state.breaker_times).unwrap_or(0).max(1);
    let since_1970 = |at: Option<i64>| at.map_or(0, |at| at + UNIX_EPOCH);
    let [ca, certificate, key] = row.tls.clone();
    Endpoint {
        id: row.id,
        url: wrong.map_or(url, Err),
        mode,
        headers,
        secrets,
        timeout: Duration::from_millis(row.timeout_ms.clamp(1, 60_000).unsigned_abs()),
        concurrency: row.concurrency.and_then(|n| n.try_into().ok()).unwrap_or(1),
        rate: rate.map(|per_second| Rate { per_second, burst: row.burst.unwrap_or(per_second.max(1.0)) }),
        breaker: breaker.unwrap_or_default(),
        state: Saved {
            breaker: match row.state.breaker.as_deref() {
                Some("open") => State::Open { until: since_1970(row.state.breaker_until), times },
                Some("half_open") => State::HalfOpen { times },
                _ => State::Closed,
            },
            paused_until: since_1970(row.state.paused_until.filter(|at| *at > now)),
        },
        auth,
        tls: Tls { ca, certificate, key },
        proxy: proxy.map(|proxy| Proxy { resolves: row.proxy_resolves, ..proxy }),
        protocol: row.protocol.as_deref().and_then(Protocol::parse).unwrap_or_default(),
        compress: row.compress,
        response_id,
        keep_headers: row.keep_headers.iter().filter_map(|name| name.parse().ok()).collect(),
    }
}
