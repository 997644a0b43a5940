//! Endpoints, as the dispatcher needs them: their configuration, their health, and when they are disabled.
//!
//! Invariants:
//! * A success while nothing is wrong writes nothing. Changes of breaker and pause are written at once, counts of failures
//!   at most once a second per endpoint.
//! * The next incarnation continues from the state that was written.

use std::time::{Duration, Instant};

use outbox_core::auth::Auth;
use outbox_core::breaker::{self, State};
use outbox_core::ids::IdMap;
use outbox_core::proxy::Proxy;
use outbox_core::sign::Secret;
use outbox_core::url::Url;
use outbox_sender::tls::{Protocol, Tls};
use outbox_sender::{Done, Endpoint, Event, Mode, Rate, ResponseId, Saved, SigningKey, header_map};
use pgrx::pg_sys::{INT4ARRAYOID, INT4OID, INT8ARRAYOID, TEXTARRAYOID, TEXTOID};
use serde_json::Value;

use crate::dispatch::feed::UNIX_EPOCH;
use crate::dispatch::outcome::record::DeliveryOutcome;
use crate::pg::txn::{Failure, Plan, Row, arg};
use crate::settings;
use crate::worker::fault::apart;
use crate::worker::now;

/// Counts of failures are written at most this often.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Jobs that a subscription may have with the HTTP thread while its endpoint's breaker is not closed, or the endpoint is
/// paused.
pub const LIMITED: usize = 64;

/// The health of one endpoint. Times are microseconds, PostgreSQL's epoch.
#[derive(Default)]
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

/// Endpoints, and the ids of the unreadable ones with the reason.
type Apart = (Vec<Endpoint>, Vec<(i32, Failure)>);

/// All endpoints.
pub struct Endpoints {
    load: Plan,
    ids: Plan,
    write: Plan,
    disable: Plan,
    health: IdMap<i32, Health>,
}

impl Endpoints {
    pub fn new() -> Endpoints {
        Endpoints {
            ids: Plan::new("select e.id from outbox.endpoint e order by e.id", &[]),
            load: Plan::new(
                "select e.id, e.url, e.headers::text, outbox_internal.duration_us(e.timeout) / 1000, e.concurrency,
                    case when e.consent = 'granted' then least(e.rate, k.allowed_rate / 60.0::float8) else e.rate end,
                    case when e.consent = 'granted' then least(e.burst, greatest(k.allowed_rate / 60.0::float8, 1))
                        else e.burst end,
                    e.breaker::text, e.protocol, e.compress, e.response_id, e.keep_headers,
                    outbox_internal.duration_us(e.disable_after), e.disable_failures,
                    e.active, e.disabled_mode, e.consent,
                    c.auth::text, c.ca, c.certificate, c.key,
                    s.breaker, s.breaker_until, s.breaker_times, s.paused_until, s.failing_since, s.failures,
                    s.last_success_at, s.last_failure_at, s.last_error,
                    array(
                        select k.secret from outbox.endpoint_secret k
                        where k.endpoint_id = e.id and (k.expires_at is null or k.expires_at > now())
                        order by k.created_at desc
                    ),
                    array(
                        select coalesce(outbox_internal.us(k.expires_at) + 946684800000000, 0)
                        from outbox.endpoint_secret k
                        where k.endpoint_id = e.id and (k.expires_at is null or k.expires_at > now())
                        order by k.created_at desc
                    ),
                    p.url, p.resolves_names, e.proxy is not null and p.name is null
                from outbox.endpoint e
                left join outbox.endpoint_credential c on c.endpoint_id = e.id
                left join outbox.endpoint_state s on s.endpoint_id = e.id
                left join outbox.endpoint_consent k on k.endpoint_id = e.id
                left join outbox.proxy p on p.name = e.proxy or e.proxy is null and p.is_default
                where $1 is null or e.id = any ($1)",
                &[INT4ARRAYOID],
            ),
            write: Plan::new(
                "select outbox_internal.record_endpoint_states($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                &[
                    INT4ARRAYOID,
                    TEXTARRAYOID,
                    INT8ARRAYOID,
                    INT4ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    TEXTARRAYOID,
                ],
            ),
            disable: Plan::new("select outbox_internal.give_up_endpoint($1, $2, $3)", &[INT4OID, TEXTOID, TEXTOID]),
            health: IdMap::default(),
        }
    }

    /// Reads all endpoints. Inside a transaction.
    pub fn load(&mut self) -> Vec<Endpoint> {
        self.load_these(None)
    }

    /// Reads all endpoints, each by itself. Unreadable endpoints take nothing until they can be read, and are returned with
    /// the reason. Inside a transaction.
    pub fn load_apart(&mut self) -> outbox_core::Result<Apart> {
        let mut ids = Vec::new();
        self.ids.execute(&[]).for_each(|row| ids.extend(row.get::<i32>(0)));
        let failed = apart(&ids, &mut |ids| {
            self.load_these(Some(ids));
            Ok(())
        })?;
        let failed: Vec<(i32, Failure)> = failed.into_iter().map(|(place, failure)| (ids[place], failure)).collect();
        ids.retain(|id| failed.iter().all(|(other, _)| other != id));
        let mut endpoints = self.load_these(Some(&ids));
        for (id, failure) in &failed {
            self.health.entry(*id).or_default().mode = Mode::Hold;
            endpoints.push(unreadable(*id, failure));
        }
        Ok((endpoints, failed))
    }

    fn load_these(&mut self, ids: Option<&[i32]>) -> Vec<Endpoint> {
        let Endpoints { load, health, .. } = self;
        let plain_allowed = settings::ALLOW_HTTP.get();
        let mut endpoints = Vec::new();
        load.execute(&[ids.map(<[i32]>::to_vec).and_then(arg)]).for_each(|row| {
            let mut endpoint = endpoint(row, plain_allowed);
            match health.get_mut(&endpoint.id) {
                None => {
                    let known = Health {
                        saved: endpoint.state,
                        failing_since: row.get(25),
                        failures: row.int(26),
                        last_success: row.get(27),
                        last_failure: row.get(28),
                        last_error: row.text(29),
                        ..Health::default()
                    };
                    health.insert(endpoint.id, known);
                }
                Some(known) => {
                    endpoint.state = known.saved;
                    if known.mode != Mode::Active && endpoint.mode == Mode::Active {
                        // The endpoint was enabled: the count starts again. The HTTP thread closes the breaker.
                        (known.failing_since, known.failures, known.disable) = (None, 0, None);
                        known.dirty = true;
                    }
                }
            }
            if let Some(known) = health.get_mut(&endpoint.id) {
                known.mode = endpoint.mode;
                known.disable_after = row.int(12);
                known.disable_failures = row.get::<i32>(13).unwrap_or(1).into();
            }
            endpoints.push(endpoint);
        });
        endpoints
    }

    /// Jobs that a subscription of this endpoint may have with the HTTP thread, and the time until which this limit holds
    /// (`i64::MAX`: until the endpoint changes; 0: no limit).
    pub fn limit(&self, endpoint: i32) -> (usize, i64) {
        match self.health.get(&endpoint) {
            Some(health) if health.mode == Mode::Hold => (0, i64::MAX),
            Some(health) if health.saved.breaker != State::Closed => (LIMITED, i64::MAX),
            Some(health) if health.saved.paused_until > 0 => (LIMITED, health.saved.paused_until - UNIX_EPOCH),
            _ => (usize::MAX, 0),
        }
    }

    /// Whether a retry that is due may be sent to this endpoint.
    pub fn accepts(&self, endpoint: i32, now: i64) -> bool {
        self.health.get(&endpoint).is_none_or(|health| {
            let open = matches!(health.saved.breaker, State::Open { until, .. } if until - UNIX_EPOCH > now);
            health.mode != Mode::Hold && !open && health.saved.paused_until - UNIX_EPOCH <= now
        })
    }

    /// When the next open breaker ends its wait, or the next pause ends; `None` if there is neither.
    pub fn opens_at(&self, now: i64) -> Option<i64> {
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
    pub fn event(&mut self, event: Event) {
        if let Some(health) = self.health.get_mut(&event.endpoint) {
            health.saved = event.state;
            health.dirty = true;
            health.urgent = true;
        }
    }

    /// Updates an endpoint's health from the outcome of an attempt.
    pub fn note(&mut self, done: &Done, outcome: &DeliveryOutcome, disable: bool) {
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
    pub fn write_in(&self) -> Option<Duration> {
        let wait = |health: &Health| match health.written {
            _ if health.urgent || health.disable.is_some() => Duration::ZERO,
            Some(at) => WRITE_INTERVAL.saturating_sub(at.elapsed()),
            None => Duration::ZERO,
        };
        self.health.values().filter(|health| health.dirty || health.disable.is_some()).map(wait).min()
    }

    /// The endpoints that have changes to write.
    pub fn changed(&self) -> Vec<i32> {
        self.health.iter().filter(|(_, health)| health.dirty || health.disable.is_some()).map(|(id, _)| *id).collect()
    }

    /// Writes the changes of these endpoints. Inside a transaction; `written` is called when it has committed.
    pub fn write(&mut self, ids: &[i32]) {
        let Endpoints { write, disable, health, .. } = self;
        let these: Vec<(&i32, &Health)> = ids.iter().filter_map(|id| Some((id, health.get(id)?))).collect();
        let changed: Vec<(&i32, &Health)> = these.iter().copied().filter(|(_, health)| health.dirty).collect();
        if !changed.is_empty() {
            let times = |f: fn(&Health) -> Option<i64>| arg(changed.iter().map(|(_, h)| f(h)).collect::<Vec<_>>());
            let breaker = |h: &Health| h.saved.breaker;
            write.execute(&[
                arg(changed.iter().map(|(id, _)| **id).collect::<Vec<i32>>()),
                arg(changed.iter().map(|(_, h)| breaker(h).as_str()).collect::<Vec<_>>()),
                times(|h| match h.saved.breaker {
                    State::Open { until, .. } => Some(until - UNIX_EPOCH),
                    _ => None,
                }),
                arg(changed
                    .iter()
                    .map(|(_, h)| match breaker(h) {
                        State::Closed => 0,
                        State::Open { times, .. } | State::HalfOpen { times } => {
                            i32::try_from(times).unwrap_or(i32::MAX)
                        }
                    })
                    .collect::<Vec<_>>()),
                times(|h| Some(h.saved.paused_until).filter(|at| *at > 0).map(|at| at - UNIX_EPOCH)),
                times(|h| h.failing_since),
                times(|h| Some(h.failures)),
                times(|h| h.last_success),
                times(|h| h.last_failure),
                arg(changed.iter().map(|(_, h)| h.last_error.as_deref()).collect::<Vec<_>>()),
            ]);
        }
        for (id, health) in these {
            if let Some((reason, detail)) = &health.disable {
                disable.execute(&[arg(*id), arg(*reason), arg(detail.as_str())]);
            }
        }
    }

    /// Notes that the changes have been committed.
    pub fn written(&mut self) {
        for health in self.health.values_mut().filter(|health| health.dirty || health.disable.is_some()) {
            (health.dirty, health.urgent, health.disable) = (false, false, None);
            health.written = Some(Instant::now());
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
fn endpoint(row: &Row, plain_allowed: bool) -> Endpoint {
    let json = |i: usize| row.get::<&str>(i).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let mut wrong = None;
    let headers = json(2).unwrap_or_default();
    let pairs = headers.as_object().into_iter().flatten().filter_map(|(name, v)| Some((name.as_str(), v.as_str()?)));
    let headers = header_map(pairs).unwrap_or_else(|error| {
        wrong = Some(error);
        Default::default()
    });
    let times: Vec<i64> = row.get(31).unwrap_or_default();
    let mut secrets = Vec::new();
    for (secret, expires) in row.get::<Vec<Option<String>>>(30).unwrap_or_default().iter().flatten().zip(times) {
        match Secret::parse(secret) {
            Ok(secret) => secrets.push(SigningKey { secret, expires_at: Some(expires).filter(|at| *at != 0) }),
            Err(error) => wrong = Some(error.to_string()),
        }
    }
    let auth = json(17).map(|json| Auth::parse(&json, plain_allowed)).transpose().unwrap_or_else(|error| {
        wrong = Some(error.to_string());
        None
    });
    let breaker = json(7).map(|json| breaker::Settings::parse(&json)).transpose().unwrap_or_else(|error| {
        wrong = Some(error.to_string());
        None
    });
    let proxy = Proxy::parse(row.get(32).unwrap_or_default()).unwrap_or_else(|error| {
        wrong = Some(error.to_string());
        None
    });
    if row.get(34).unwrap_or(false) {
        wrong = Some("its proxy is not in the operator's list any more".to_owned());
    }
    let response_id = row.get::<&str>(10).map(ResponseId::parse).transpose().unwrap_or_else(|error| {
        wrong = Some(error);
        None
    });
    let url = row.get::<&str>(1).ok_or_else(|| "no url".to_owned()).and_then(|url| {
        Url::parse(url, plain_allowed).map_err(|e| format!("{e}: {}", e.detail.as_deref().unwrap_or("")))
    });
    let mode = match (row.get(14).unwrap_or(false), row.get::<&str>(15), row.get::<&str>(16)) {
        (true, _, Some("pending" | "refused")) => Mode::Hold,
        (true, ..) => Mode::Active,
        (false, Some("skip"), _) => Mode::Skip,
        (false, ..) => Mode::Hold,
    };
    let rate = row.get::<f64>(5).filter(|rate| *rate > 0.0);
    let times = row.get::<i32>(23).and_then(|n| u32::try_from(n).ok()).unwrap_or(0).max(1);
    let since_1970 = |i: usize| row.get::<i64>(i).map_or(0, |at| at + UNIX_EPOCH);
    let keep = row.get::<Vec<Option<String>>>(11).unwrap_or_default();
    Endpoint {
        id: row.get(0).unwrap_or_default(),
        url: wrong.map_or(url, Err),
        mode,
        headers,
        secrets,
        timeout: Duration::from_millis(row.int(3).clamp(1, 60_000).unsigned_abs()),
        concurrency: row.get::<i32>(4).and_then(|n| n.try_into().ok()).unwrap_or(1),
        rate: rate.map(|per_second| Rate { per_second, burst: row.get(6).unwrap_or(per_second.max(1.0)) }),
        breaker: breaker.unwrap_or_default(),
        state: Saved {
            breaker: match row.get::<&str>(21) {
                Some("open") => State::Open { until: since_1970(22), times },
                Some("half_open") => State::HalfOpen { times },
                _ => State::Closed,
            },
            paused_until: Some(since_1970(24)).filter(|at| at - UNIX_EPOCH > now()).unwrap_or(0),
        },
        auth,
        tls: Tls { ca: row.get(18), certificate: row.get(19), key: row.get(20) },
        proxy: proxy.map(|proxy| Proxy { resolves: row.get(33).unwrap_or(false), ..proxy }),
        protocol: row.get::<&str>(8).and_then(Protocol::parse).unwrap_or_default(),
        compress: row.get(9).unwrap_or(false),
        response_id,
        keep_headers: keep.iter().flatten().filter_map(|name| name.parse().ok()).collect(),
    }
}
