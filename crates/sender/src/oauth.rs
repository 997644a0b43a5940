//! Tokens of the client credentials grant. A token is fetched when a request needs it and is reused until shortly before it
//! expires.

use std::time::{Duration, SystemTime};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::Full;
use outbox_core::auth::{self, OAuth2};
use outbox_core::policy::Fault;

use crate::connect::{self, Failure, Reach, Way};
use crate::hub::unix_micros;
use crate::request::failure;
use crate::response::{self, Wish};
use crate::tls::{Protocol, Tls};
use crate::{Endpoint, Settings};

/// A token that expires within this time is not used.
const MARGIN: Duration = Duration::from_secs(15);

/// A server that gave no token is not asked again within this time, so that not every waiting request asks it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns the `authorization` header with a valid token, and whether the token was fetched just now.
pub(crate) async fn authorization(
    oauth2: &OAuth2,
    endpoint: &Endpoint,
    reach: &Reach,
    settings: &Settings,
    generation: u64,
) -> Result<(HeaderValue, bool), Failure> {
    let kept = || {
        let now = unix_micros(SystemTime::now());
        reach.token.borrow().as_ref().filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    };
    if let Some(value) = kept() {
        return Ok((value, false));
    }
    // One request fetches the token for all requests that wait.
    let _turn = reach.turn().await;
    if let Some(value) = kept() {
        return Ok((value, false));
    }
    let now = unix_micros(SystemTime::now());
    if let Some((failure, _)) = reach.no_token.borrow().as_ref().filter(|(_, until)| now < *until) {
        return Err(failure.clone());
    }
    let (value, seconds) = fetch(oauth2, endpoint, settings).await.map_err(|(fault, text)| {
        let failure = match fault {
            Fault::Forbidden | Fault::Local => (fault, text),
            _ => (Fault::Auth, format!("no token from \"{}\": {text}", oauth2.token_url.host)),
        };
        let until = unix_micros(SystemTime::now() + PATIENCE);
        *reach.no_token.borrow_mut() = Some((failure.clone(), until));
        failure
    })?;
    let good_for = Duration::from_secs(seconds.min(86_400)).saturating_sub(MARGIN).max(Duration::from_secs(1));
    let until = unix_micros(SystemTime::now() + good_for);
    // The endpoint may have other credentials by now.
    if generation == reach.generation() {
        *reach.token.borrow_mut() = Some((value.clone(), until));
    }
    Ok((value, true))
}

async fn fetch(oauth2: &OAuth2, endpoint: &Endpoint, settings: &Settings) -> Result<(HeaderValue, u64), Failure> {
    let url = &oauth2.token_url;
    // The endpoint's private certificate authority is also trusted for its authorisation server.
    let tls = Tls { ca: endpoint.tls.ca.clone(), ..Tls::default() };
    let way = Way { protocol: Protocol::Http1, tls: &tls, ..Way::to(endpoint, 0) };
    let mut connection = connect::connect(url, way, &Reach::default(), settings).await?;
    let mut request = Request::new(Full::new(oauth2.body().into()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() =
        url.path.parse().map_err(|_| (Fault::Invalid, "the token url's path is malformed".to_owned()))?;
    let headers = request.headers_mut();
    headers.insert(HOST, url.host_header.parse().map_err(|_| (Fault::Invalid, "the host is malformed".to_owned()))?);
    headers.insert(USER_AGENT, settings.user_agent.clone());
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    if let Some(value) = oauth2.authorization() {
        headers.insert(AUTHORIZATION, value);
    }
    let response = connection.send(request).await.map_err(|e| failure(&e, connection.excess()))?;
    let wish = Wish { batch: &[], body: true, head: false };
    let mut reply = None;
    response::read(&mut connection, response, endpoint, wish, &mut reply).await?;
    let reply = reply.ok_or((Fault::Body, "no answer".to_owned()))?;
    if reply.status != 200 {
        // The error does not contain the body, because the body may repeat the credentials.
        return Err((Fault::Auth, format!("status {}", reply.status)));
    }
    auth::token(&reply.body).map_err(|text| (Fault::Auth, text.to_owned()))
}
