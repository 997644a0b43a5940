//! One try: build the request, sign it, send it, read the response within limits.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use outbox_core::policy::{Fault, Outcome};
use outbox_core::retry_after;
use outbox_core::sign::signature_header;

use crate::connect::{Connection, Connector, Failure};
use crate::hub::unix_micros;
use crate::{Endpoint, Job, Settings};

/// Of a response at most this much is read; a longer one costs the connection, not the delivery.
const READ_LIMIT: usize = 64 * 1024;
/// Of a failure's response this much is kept.
const KEEP_LIMIT: usize = 4 * 1024;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What came of a try.
pub(crate) struct Attempt {
    pub(crate) started_at: i64,
    pub(crate) outcome: Outcome,
    pub(crate) error: Option<Box<str>>,
    pub(crate) body: Option<Box<str>>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) remote: Option<SocketAddr>,
}

/// Sends `job` over `connection`, which is opened when there is none and left open when it can be used again.
pub(crate) async fn attempt(
    connection: &mut Option<Connection>,
    connector: &Connector,
    settings: &Settings,
    endpoint: &Endpoint,
    job: &Job,
) -> Attempt {
    let now = SystemTime::now();
    let mut remote = None;
    let exchange = exchange(connection, connector, settings, endpoint, job, now, &mut remote);
    let result = match tokio::time::timeout(endpoint.timeout, exchange).await {
        Ok(result) => result,
        Err(_) => Err((Fault::Timeout, format!("no complete response within {:?}", endpoint.timeout))),
    };
    let mut attempt = Attempt {
        started_at: unix_micros(now),
        outcome: Outcome::Status(0),
        error: None,
        body: None,
        retry_after: None,
        remote,
    };
    match result {
        Ok(reply) => {
            attempt.outcome = Outcome::Status(reply.status);
            attempt.retry_after = reply.retry_after;
            if !(200..300).contains(&reply.status) {
                attempt.error = Some(format!("status {}", reply.status).into());
                attempt.body = reply.body;
            }
        }
        Err((fault, text)) => {
            *connection = None;
            attempt.outcome = Outcome::Fault(fault);
            attempt.error = Some(text.into());
        }
    }
    attempt
}

struct Reply {
    status: u16,
    body: Option<Box<str>>,
    retry_after: Option<Duration>,
}

async fn exchange(
    slot: &mut Option<Connection>,
    connector: &Connector,
    settings: &Settings,
    endpoint: &Endpoint,
    job: &Job,
    now: SystemTime,
    remote: &mut Option<SocketAddr>,
) -> Result<Reply, Failure> {
    let url = endpoint.url.as_ref().map_err(|e| (Fault::Invalid, e.clone()))?;
    if slot.as_ref().is_some_and(|open| open.wire.ended || open.url != *url) {
        *slot = None;
    }
    loop {
        let connection = match slot.as_mut() {
            Some(open) => open,
            None => slot.insert(connector.connect(url, settings).await?),
        };
        *remote = Some(connection.remote);
        let request = build(settings, endpoint, job, now)?;
        // Ready at once but for a connection that is still finishing the last exchange, or has been closed.
        if connection.wire.drive(connection.requests.ready()).await.is_err() && connection.served > 0 {
            *slot = None;
            continue;
        }
        match connection.wire.drive(connection.requests.send_request(request)).await {
            Ok(response) => {
                connection.served += 1;
                let reply = read(connection, response).await?;
                if !reply.1 {
                    *slot = None;
                }
                return Ok(reply.0);
            }
            // The other side had closed a connection that was idle: nothing was received, so once more on a new one.
            Err(error) if connection.served > 0 && (error.is_canceled() || error.is_incomplete_message()) => {
                *slot = None
            }
            Err(error) => return Err(failure(&error)),
        }
    }
}

/// The request. The endpoint's headers come first and the protocol's own last, so that none of them can be overridden.
fn build(
    settings: &Settings,
    endpoint: &Endpoint,
    job: &Job,
    now: SystemTime,
) -> Result<Request<Full<Bytes>>, Failure> {
    let url = endpoint.url.as_ref().map_err(|e| (Fault::Invalid, e.clone()))?;
    let message = &job.message;
    let timestamp = unix_micros(now) / 1_000_000;
    let invalid = |what: &str| (Fault::Invalid, format!("{what} cannot be a header value"));

    let mut request = Request::new(Full::new(message.content.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url.path.parse().map_err(|_| (Fault::Invalid, "the url's path is malformed".to_owned()))?;
    let headers = request.headers_mut();
    headers.reserve(endpoint.headers.len() + 8);
    for (name, value) in &endpoint.headers {
        headers.append(name, value.clone());
    }
    headers.insert(HOST, url.host_header.parse().map_err(|_| invalid("the host"))?);
    headers.insert(USER_AGENT, settings.user_agent.clone());
    headers.insert(
        CONTENT_TYPE,
        match message.content_type.as_deref() {
            None => HeaderValue::from_static("application/json"),
            Some(other) => other.parse().map_err(|_| invalid("the content type"))?,
        },
    );
    headers.insert(WEBHOOK_ID, message.webhook_id.parse().map_err(|_| invalid("the webhook id"))?);
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
    if !endpoint.secrets.is_empty() {
        let signature = signature_header(&endpoint.secrets, &message.webhook_id, timestamp, &message.content);
        headers.insert(WEBHOOK_SIGNATURE, signature.parse().map_err(|_| invalid("the signature"))?);
    }
    Ok(request)
}

/// Reads a response to its end, but not beyond the limit. The second value says whether the connection can be used again.
async fn read(connection: &mut Connection, response: Response<Incoming>) -> Result<(Reply, bool), Failure> {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| retry_after::parse(value, SystemTime::now()));
    let keep = !(200..300).contains(&status);
    let mut kept = Vec::new();
    let mut total = 0;
    let mut body = response.into_body();
    let mut reusable = true;
    while !body.is_end_stream() {
        let frame = match connection.wire.drive(body.frame()).await {
            None => break,
            Some(frame) => frame.map_err(|e| (Fault::Body, format!("reading the response: {}", describe(&e))))?,
        };
        if let Ok(data) = frame.into_data() {
            total += data.len();
            if keep {
                kept.extend_from_slice(&data[..data.len().min(KEEP_LIMIT - kept.len())]);
            }
            if total > READ_LIMIT {
                reusable = false;
                break;
            }
        }
    }
    // What comes from outside is made text that any database takes.
    let text = (!kept.is_empty()).then(|| String::from_utf8_lossy(&kept).replace('\0', "\u{fffd}").into());
    Ok((Reply { status, body: text, retry_after }, reusable && !connection.wire.ended))
}

fn failure(error: &hyper::Error) -> Failure {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return (crate::connect::io_fault(io), describe(error));
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

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
