//! One attempt: builds, signs and sends the request.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Full;
use outbox_core::auth::Auth;
use outbox_core::format::{self, Rendered};
use outbox_core::policy::{Fault, Outcome};
use outbox_core::url::Url;
use outbox_core::{digits, headers, sign};

use crate::connect::{self, Connection, Failure, Reach, Way, is_broken, is_unprocessed, wants_http1};
use crate::hub::unix_micros;
use crate::queue::Load;
use crate::response::{self, Reply, Wish};
use crate::timer::Timer;
use crate::tls::Protocol;
use crate::{Endpoint, Job, Settings, consent, oauth};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const OUTBOX_POSITION: HeaderName = HeaderName::from_static("outbox-position");
const OUTBOX_ATTEMPT: HeaderName = HeaderName::from_static("outbox-attempt");
const OUTBOX_TOPIC: HeaderName = HeaderName::from_static("outbox-topic");
const OUTBOX_KEY: HeaderName = HeaderName::from_static("outbox-key");
const OUTBOX_VERSION: HeaderName = HeaderName::from_static("outbox-version");
const OUTBOX_EVENT_ID: HeaderName = HeaderName::from_static("outbox-event-id");
const OUTBOX_COUNT: HeaderName = HeaderName::from_static("outbox-count");

/// Bodies with fewer bytes are not worth compressing.
const COMPRESS_FROM: usize = 512;

/// How often a request that the server has not processed is sent again within one attempt.
const AGAIN: u32 = 3;

/// The result of an attempt.
pub(crate) struct Attempt {
    pub(crate) started_at: i64,
    pub(crate) outcome: Outcome,
    pub(crate) error: Option<Box<str>>,
    pub(crate) remote: Option<SocketAddr>,
    /// The status of an answer that could not be used.
    pub(crate) status: Option<u16>,
    pub(crate) reply: Option<Box<Reply>>,
}

/// The facts about an attempt that are known while it runs.
#[derive(Default)]
struct Seen {
    remote: Option<SocketAddr>,
    /// Whether the request was passed to a connection.
    sent: bool,
    /// The status of an answer whose required body has not arrived.
    status: Option<u16>,
    /// An answer that decides, regardless of what follows.
    reply: Option<Box<Reply>>,
}

/// Sends `load` over `connection`. A connection is opened if there is none, and stays open if it can be used again.
pub(crate) async fn attempt(
    connection: &mut Option<Connection>,
    timer: &mut Timer,
    reach: &Reach,
    settings: &Settings,
    endpoint: &Endpoint,
    load: &Load,
) -> Attempt {
    let now = SystemTime::now();
    let mut seen = Seen::default();
    let exchange = exchange(connection, reach, settings, endpoint, load, now, &mut seen);
    let result = timer.limit(endpoint.timeout, exchange).await;
    if !matches!(result, Some(Ok(())))
        && let Some(lost) = connection.take()
    {
        seen.status = seen.status.or(lost.status().filter(|_| seen.sent));
        reach.forget(&lost);
    }
    let Seen { remote, mut status, mut reply, .. } = seen;
    let (outcome, error) = match (&reply, result) {
        (Some(reply), _) => {
            let error = (!(200..300).contains(&reply.status)).then(|| format!("status {}", reply.status).into());
            (Outcome::Status(reply.status), error)
        }
        (None, Some(Err((fault, text)))) => (Outcome::Fault(fault), Some(response::clean(text.as_bytes()))),
        (None, Some(Ok(())) | None) => {
            let text = match (remote, status) {
                (None, _) => "no connection",
                (Some(_), None) => "no response",
                (Some(_), Some(_)) => "no complete response",
            };
            let through = if remote.is_none() && endpoint.proxy.is_some() { " through the proxy" } else { "" };
            let text = format!("{text}{through} within {:?}", endpoint.timeout);
            (Outcome::Fault(Fault::Timeout), Some(text.into()))
        }
    };
    if matches!(outcome, Outcome::Fault(Fault::Local)) {
        (status, reply) = (None, None);
    }
    Attempt { started_at: unix_micros(now), outcome, error, remote, status, reply }
}

async fn exchange(
    slot: &mut Option<Connection>,
    reach: &Reach,
    settings: &Settings,
    endpoint: &Endpoint,
    load: &Load,
    now: SystemTime,
    seen: &mut Seen,
) -> Result<(), Failure> {
    let url = endpoint.url.as_ref().map_err(|e| (Fault::Invalid, e.clone()))?;
    let ids: Vec<&str> = match load {
        Load::One(_) | Load::Ask(_) => Vec::new(),
        Load::Batch(jobs) => jobs.iter().map(|job| &*job.message.webhook_id).collect(),
    };
    let handshake = matches!(load, Load::Ask(_));
    let stale = |open: &Connection| open.ended() || open.url != *url || !reach.is_current(open) || open.is_old(now);
    if slot.as_ref().is_some_and(stale) {
        *slot = None;
    }
    let generation = reach.generation();
    let (mut again, mut broken) = (AGAIN, false);
    loop {
        let authorization = match &endpoint.auth {
            None => None,
            Some(Auth::Header(name, value)) => Some((name.clone(), value.clone(), true)),
            Some(Auth::OAuth2(oauth2)) => {
                let (value, new) =
                    Box::pin(oauth::authorization(oauth2, endpoint, reach, settings, generation)).await?;
                Some((AUTHORIZATION, value, new))
            }
        };
        let connection = match slot.as_mut() {
            Some(open) => open,
            // Boxed, here and above. The state for connecting (mostly TLS) would make the future of each request many
            // times as large, and futures are moved.
            None => slot.insert(Box::pin(connect::connect(url, Way::to(endpoint, generation), reach, settings)).await?),
        };
        seen.remote = Some(connection.remote);
        let (uri, host) = match &connection.target {
            Some(target) => target.clone(),
            None => connection.target.insert(target(url, connection.is_http2())?).clone(),
        };
        let mut request = build(settings, endpoint, uri, load, now, connection.headers())?;
        let headers = request.headers_mut();
        if let Some((name, value, _)) = &authorization {
            headers.insert(name, value.clone());
        }
        if !connection.is_http2() {
            headers.insert(HOST, host);
        }
        (seen.sent, seen.status) = (true, None);
        let (used, proven) = (connection.served > 0, connection.has_answered());
        let sent = match connection.ready().await {
            Ok(()) => connection.send(request).await.map_err(|error| {
                // The connection was closed while it was idle, or was just being closed. The server has processed
                // nothing, so the request is sent once more on a new connection. A reset says no more than an end, so
                // only one such failure is taken as proof.
                let closed = used && !broken && connection.is_silent() && is_broken(&error);
                broken |= closed;
                let downgrade = endpoint.protocol == Protocol::Auto && wants_http1(&error);
                let unseen = is_unprocessed(&error) || downgrade || closed;
                (error, unseen)
            }),
            Err(error) => Err((error, used)),
        };
        match sent {
            Ok(response) => {
                let status = response.status().as_u16();
                seen.status = Some(status);
                let wish = Wish { batch: &ids, body: false, head: handshake };
                response::read(connection, response, endpoint, wish, &mut seen.reply).await?;
                if !seen.reply.as_ref().is_some_and(|reply| reply.reusable) || connection.ended() {
                    *slot = None;
                }
                if let (401, Some((_, value, new))) = (status, &authorization) {
                    // The token may have been revoked. A reused token is replaced within the attempt, a new token is not.
                    reach.forget_token(value);
                    if !new && again > 0 {
                        again = 0;
                        seen.reply = None;
                        continue;
                    }
                }
                return Ok(());
            }
            Err((error, true)) if again > 0 => {
                again -= 1;
                reach.forget(connection);
                if endpoint.protocol == Protocol::Auto && wants_http1(&error) {
                    reach.use_http1();
                }
                *slot = None;
            }
            Err((error, _)) => {
                reach.forget(connection);
                // The status counts even if the rest of the head exceeds a limit or cannot be parsed.
                if let Some(status) = connection.status().filter(|_| error.is_parse() || connection.excess().is_some())
                {
                    seen.reply = Some(Box::new(Reply::bare(status)));
                    *slot = None;
                    return Ok(());
                }
                let failure = failure(&error, connection.excess());
                return Err(if proven { failure } else { reach.explain(failure) });
            }
        }
    }
}

/// Returns the request target (the path, or in HTTP/2 the whole URL) and the host.
fn target(url: &Url, http2: bool) -> Result<(Uri, HeaderValue), Failure> {
    let invalid = |what: &str| (Fault::Invalid, format!("the url's {what} is malformed"));
    let host = url.host_header.parse().map_err(|_| invalid("host"))?;
    let path: Uri = url.path.parse().map_err(|_| invalid("path"))?;
    if !http2 {
        return Ok((path, host));
    }
    let uri = Uri::builder()
        .scheme(if url.tls { "https" } else { "http" })
        .authority(url.host_header.as_str())
        .path_and_query(url.path.as_str());
    Ok((uri.build().map_err(|_| invalid("host"))?, host))
}

/// Builds the request. The users' headers are set first and the protocol's headers last, so that users cannot override them.
fn build(
    settings: &Settings,
    endpoint: &Endpoint,
    uri: Uri,
    load: &Load,
    now: SystemTime,
    mut map: HeaderMap,
) -> Result<Request<Full<Bytes>>, Failure> {
    if let Load::Ask(origin) = load {
        return consent::request(settings, endpoint, uri, origin);
    }
    let jobs = load.jobs();
    let (Some(first), Some(last)) = (jobs.first(), jobs.last()) else {
        return Err((Fault::Invalid, "an empty batch".to_owned()));
    };
    map.reserve(endpoint.headers.len() + 12);
    for (name, value) in &endpoint.headers {
        map.append(name, value.clone());
    }
    let format = first.shape.format;
    let batch_id;
    let (rendered, id): (Rendered, &str) = match load {
        Load::One(job) => {
            user_headers(job, &mut map);
            let rendered = format::single(format, &job.message, &settings.source, &mut map);
            (rendered.map_err(|e| (Fault::Invalid, e))?, &job.message.webhook_id)
        }
        Load::Batch(jobs) => {
            batch_id = format::batch_id(&first.message, &last.message, jobs.len());
            (format::batch(format, jobs.iter().map(|job| &*job.message), &settings.source), &batch_id)
        }
        Load::Ask(_) => return Err((Fault::Invalid, "a question has no body".to_owned())),
    };
    let now = unix_micros(now);
    let timestamp = now / 1_000_000;
    map.insert(USER_AGENT, settings.user_agent.clone());
    map.insert(CONTENT_TYPE, rendered.content_type);
    let mut values = Values::new();
    values.add(WEBHOOK_ID, |to| to.push_str(id));
    values.add(WEBHOOK_TIMESTAMP, |to| digits::push(timestamp, to));
    let mut secrets = endpoint.secrets.iter().filter(|key| key.expires_at.is_none_or(|at| now < at)).peekable();
    if secrets.peek().is_some() {
        values.add(WEBHOOK_SIGNATURE, |to| {
            sign::sign_all(secrets.map(|key| &key.secret), id, timestamp, &rendered.body, to);
        });
    }
    values.add(OUTBOX_POSITION, |to| digits::push(first.ticket.position, to));
    values.add(OUTBOX_ATTEMPT, |to| digits::push(first.ticket.attempt.into(), to));
    let one_topic = jobs.iter().all(|job| job.message.topic == first.message.topic);
    let topic = if one_topic { format::encode(&first.message.topic) } else { "*".into() };
    values.add(OUTBOX_TOPIC, |to| to.push_str(&topic));
    match load {
        Load::Batch(jobs) => values.add(OUTBOX_COUNT, |to| digits::push(jobs.len() as i64, to)),
        Load::One(job) => {
            let (message, extra) = (&job.message, job.message.extra());
            if let Some(key) = &message.key {
                values.add(OUTBOX_KEY, |to| to.push_str(&format::encode(key)));
            }
            if let Some(version) = extra.version {
                values.add(OUTBOX_VERSION, |to| digits::push(version, to));
            }
            if let Some(id) = &extra.event_id {
                values.add(OUTBOX_EVENT_ID, |to| to.push_str(id));
            }
        }
        Load::Ask(_) => {}
    }
    values.insert_into(&mut map)?;
    let mut body = rendered.body;
    if endpoint.compress && body.len() >= COMPRESS_FROM {
        body = gzip(&body).map_err(|e| (Fault::Invalid, format!("compressing the body: {e}")))?;
        map.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = map;
    Ok(request)
}

/// Header values that differ from request to request. They are written one after the other and share their memory.
struct Values {
    text: String,
    /// The names of the headers, and the ends of their values in `text`.
    ends: [Option<(HeaderName, usize)>; 9],
    count: usize,
}

impl Values {
    fn new() -> Values {
        Values { text: String::with_capacity(160), ends: Default::default(), count: 0 }
    }

    /// Adds a header, whose value `write` appends.
    fn add(&mut self, name: HeaderName, write: impl FnOnce(&mut String)) {
        write(&mut self.text);
        if let Some(place) = self.ends.get_mut(self.count) {
            *place = Some((name, self.text.len()));
            self.count += 1;
        }
    }

    /// Sets the headers.
    fn insert_into(self, map: &mut HeaderMap) -> Result<(), Failure> {
        let text = Bytes::from(self.text);
        let mut from = 0;
        for (name, end) in self.ends.into_iter().flatten() {
            let value = HeaderValue::from_maybe_shared(text.slice(from..end));
            let value = value.map_err(|_| (Fault::Invalid, format!("the value of {name} cannot be a header value")))?;
            map.insert(name, value);
            from = end;
        }
        Ok(())
    }
}

/// Adds the message's own headers. `enqueue` has checked them. Headers that have become unusable since then are left out.
fn user_headers(job: &Job, map: &mut HeaderMap) {
    for (name, value) in job.message.extra().headers.iter().flat_map(|headers| headers.iter()) {
        let name = name.parse::<HeaderName>().ok().filter(|name| !headers::is_protocol(name.as_str()));
        if let (Some(name), Some(Ok(value))) =
            (name, value.as_str().map(|value| HeaderValue::from_str(&format::ascii(value))))
        {
            map.insert(name, value);
        }
    }
}

fn gzip(body: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 2), flate2::Compression::fast());
    encoder.write_all(body)?;
    encoder.finish().map(Bytes::from)
}

/// Returns the failure of a request that got no response.
pub(crate) fn failure(error: &hyper::Error, excess: Option<&str>) -> Failure {
    if let Some(excess) = excess {
        return (Fault::Protocol, format!("the answer has {excess}"));
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return (connect::io_fault(io), describe(error));
        }
        source = inner.source();
    }
    let fault = if error.is_timeout() {
        Fault::Timeout
    } else if error.is_parse() {
        Fault::Protocol
    } else {
        Fault::Reset
    };
    (fault, describe(error))
}

/// Describes an error with its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

impl Attempt {
    pub(crate) fn failed(fault: Fault, error: &str) -> Attempt {
        Attempt {
            started_at: unix_micros(SystemTime::now()),
            outcome: Outcome::Fault(fault),
            error: Some(error.into()),
            remote: None,
            status: None,
            reply: None,
        }
    }

    /// Returns the pause that the receiver asked for, if any.
    pub(crate) fn asked(&self) -> Option<Duration> {
        self.reply.as_ref().and_then(|reply| reply.retry_after)
    }
}
