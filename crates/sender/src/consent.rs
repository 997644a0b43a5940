//! The validation handshake of CloudEvents webhooks, which asks whether an endpoint wants deliveries.
//!
//! The request bypasses the endpoint's queue and gate, which are closed until there is consent. It uses a connection of its
//! own.

use std::rc::Rc;
use std::sync::PoisonError;

use bytes::Bytes;
use http::header::{HeaderName, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::Full;
use outbox_core::policy::Fault;

use crate::connect::Failure;
use crate::hub::{Hub, Target, catch_panic};
use crate::queue::Load;
use crate::request::{self, Attempt};
use crate::response::clean;
use crate::timer::Timer;
use crate::{ConsentAnswer, Endpoint, Settings};

const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// Asks an endpoint and leaves the answer for the main thread.
pub(crate) async fn ask(hub: Rc<Hub>, target: Rc<Target>, origin: Box<str>) {
    let (settings, endpoint) = (hub.settings(), target.config());
    let load = Load::Ask(origin.clone());
    let (mut connection, mut timer) = (None, Timer::default());
    let attempt = request::attempt(&mut connection, &mut timer, target.reach(), &settings, &endpoint, &load);
    let attempt = catch_panic(attempt).await.unwrap_or_else(|| Attempt::failed(Fault::Invalid, "internal error"));
    let header = |name: &HeaderName| {
        let value = attempt.reply.as_ref()?.head.get(name)?;
        Some(clean(&value.as_bytes()[..value.len().min(200)]))
    };
    let answer = ConsentAnswer {
        endpoint: endpoint.id,
        origin,
        outcome: attempt.outcome,
        allowed_origin: header(&ALLOWED_ORIGIN),
        allowed_rate: header(&ALLOWED_RATE),
        error: attempt.error,
    };
    hub.shared().consents.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
    hub.wake();
}

/// Builds the request.
pub(crate) fn request(
    settings: &Settings,
    endpoint: &Endpoint,
    path: Uri,
    origin: &str,
) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::new(Full::default());
    *request.method_mut() = Method::OPTIONS;
    *request.uri_mut() = path;
    let headers = request.headers_mut();
    for (name, value) in &endpoint.headers {
        headers.append(name, value.clone());
    }
    headers.insert(USER_AGENT, settings.user_agent.clone());
    let origin = origin.parse().map_err(|_| (Fault::Invalid, "the origin cannot be a header value".to_owned()))?;
    headers.insert(REQUEST_ORIGIN, origin);
    Ok(request)
}
