//! The routes, and what holds for every request: known hosts, no foreign forms, and the headers that keep browsers
//! strict.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, Form, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use maud::Markup;

use crate::app::{Answer, App};
use crate::page;
use crate::session::{LONGEST, is_same, name, random_text};

/// The fields of a query or a form; or why they are refused.
pub(crate) type Fields = Result<BTreeMap<String, String>, String>;

/// The address that a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The longest body of a form, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// The longest field, in bytes.
const MAX_FIELD: usize = 2048;

/// The longest time for a request, including its body.
const LIMIT: Duration = Duration::from_secs(40);

/// A wrong token is answered after this time.
const WRONG_TOKEN_WAIT: Duration = Duration::from_millis(300);

/// The cookie that goes with the form of the login, before there is a session.
const LOGIN_COOKIE: &str = "outbox_login";

const STYLE: &str = include_str!("../assets/style.css");
const SCRIPT: &str = include_str!("../assets/script.js");

/// Nothing but the files of this server is loaded, nothing inline runs, and no other site frames a page.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(&str, &str); 7] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    // Without a referrer to itself, a browser would send forms with the origin "null".
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/login", get(login).post(log_in))
        .route("/logout", post(log_out))
        .route("/do/{action}", post(act))
        .route("/db/{name}/do/{action}", post(act))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/style.css", get(async || ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE)))
        .route("/script.js", get(async || ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT)))
        .fallback(get(show))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Refuses requests for hosts that are not ours and forms of other sites, and sets the headers of every answer.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&app, request.method(), request.headers()) {
        Some((status, why)) => (status, format!("{why}\n")).into_response(),
        // A task of its own goes on when the browser leaves. Otherwise its session would be given up while the server still
        // works for it, and reloading would open any number of them.
        None => match tokio::time::timeout(LIMIT, tokio::spawn(next.run(request))).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response(),
        },
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

fn refusal(app: &App, method: &Method, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => "",
    };
    if !app.options.knows_host(host) {
        return Some((StatusCode::MISDIRECTED_REQUEST, "this host is not known here: see --host"));
    }
    if method == Method::GET || method == Method::HEAD {
        return None;
    }
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let foreign_site = text(HeaderName::from_static("sec-fetch-site")).is_some_and(|site| site != "same-origin");
    let foreign_origin = text(header::ORIGIN).is_some_and(|origin| {
        origin.split_once("://").is_none_or(|(_, authority)| !authority.eq_ignore_ascii_case(host))
    });
    (foreign_site || foreign_origin).then_some((StatusCode::FORBIDDEN, "the form is of another site"))
}

async fn show(
    State(app): State<Arc<App>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let Some(person) = app.person(&headers, peer) else { return unknown(&app) };
    let fields = Query::<BTreeMap<String, String>>::try_from_uri(&uri).map(|Query(fields)| fields);
    answer(app.show(&person, uri.path(), &bounded(fields.map_err(|error| error.body_text()))).await)
}

async fn act(
    State(app): State<Arc<App>>,
    Extension(Peer(peer)): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
    Form(fields): Form<BTreeMap<String, String>>,
) -> Response {
    let Some(person) = app.person(&headers, peer) else {
        return (StatusCode::FORBIDDEN, "nobody is logged in\n").into_response();
    };
    if !app.sessions.is_form_token(&person, fields.get("form_token").map_or("", String::as_str)) {
        return (StatusCode::FORBIDDEN, "the form is not from this session: load its page again\n").into_response();
    }
    answer(app.act(&person, uri.path(), &bounded(Ok(fields))).await)
}

/// Refuses fields that are too long.
fn bounded(fields: Fields) -> Fields {
    let fields = fields?;
    match fields.values().any(|value| value.len() > MAX_FIELD) {
        true => Err(format!("a field is longer than {MAX_FIELD} bytes")),
        false => Ok(fields),
    }
}

/// Sends a person without a session to the login.
fn unknown(app: &App) -> Response {
    if app.has_token() {
        return see("/login");
    }
    (StatusCode::UNAUTHORIZED, "the proxy named no person\n").into_response()
}

async fn login(State(app): State<Arc<App>>) -> Response {
    if !app.has_token() {
        return unknown(&app);
    }
    login_page(&app, StatusCode::OK, None)
}

/// The form of the login has a token of its own, which a cookie repeats, because there is no session yet.
fn login_page(app: &App, status: StatusCode, wrong: Option<&str>) -> Response {
    let Ok(token) = random_text() else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let page = page::login(&token, wrong);
    with_cookie(html(status.as_u16(), page), app, LOGIN_COOKIE, &token, 3600)
}

async fn log_in(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Form(fields): Form<BTreeMap<String, String>>,
) -> Response {
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let form =
        cookie(&headers, LOGIN_COOKIE).is_some_and(|token| !token.is_empty() && is_same(field("form_token"), token));
    if !form {
        return login_page(&app, StatusCode::FORBIDDEN, Some("The form was too old. Please try again."));
    }
    if !app.is_token(field("token")) {
        tokio::time::sleep(WRONG_TOKEN_WAIT).await;
        return login_page(&app, StatusCode::FORBIDDEN, Some("This is not the token."));
    }
    let actor = match (field("name").trim(), name(field("name"))) {
        ("", _) => "dashboard".to_owned(),
        (_, Some(name)) => format!("dashboard: {name}"),
        _ => {
            return login_page(
                &app,
                StatusCode::BAD_REQUEST,
                Some("The name is too long, or has characters that do not show."),
            );
        }
    };
    // A session that the browser came with may be one that somebody else gave it.
    if let Some(old) = cookie(&headers, app.cookie_name()) {
        app.sessions.finish(old);
    }
    let Ok(id) = app.sessions.begin(actor, Instant::now()) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let response = with_cookie(see("/"), &app, app.cookie_name(), &id, LONGEST.as_secs());
    with_cookie(response, &app, LOGIN_COOKIE, "", 0)
}

async fn log_out(
    State(app): State<Arc<App>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    Form(fields): Form<BTreeMap<String, String>>,
) -> Response {
    let Some(person) = app.person(&headers, peer) else { return unknown(&app) };
    if !app.sessions.is_form_token(&person, fields.get("form_token").map_or("", String::as_str)) {
        return (StatusCode::FORBIDDEN, "the form is not from this session: load its page again\n").into_response();
    }
    app.sessions.finish(&person.key);
    with_cookie(see("/login"), &app, app.cookie_name(), "", 0)
}

async fn metrics(State(app): State<Arc<App>>, Extension(Peer(peer)): Extension<Peer>, headers: HeaderMap) -> Response {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if !bearer.is_some_and(|token| app.is_metrics_token(token)) && app.person(&headers, peer).is_none() {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], "a token is needed\n")
            .into_response();
    }
    match app.metrics().await {
        Ok(rows) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], crate::metrics::exposition(&rows))
                .into_response()
        }
        Err(error) => {
            let status = page::failure(&error, "/", false).0;
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            (status, format!("{} ({})\n", page::clean(&error.details().message, 300), error.code())).into_response()
        }
    }
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.is_ready().await {
        true => "ok\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer, or has no outbox\n").into_response(),
    }
}

fn answer(answer: Answer) -> Response {
    match answer {
        Answer::Page(status, page) => html(status, page),
        Answer::See(to) => see(&to),
    }
}

fn html(status: u16, page: Markup) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.into_string()).into_response()
}

fn see(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(to) => (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn with_cookie(mut response: Response, app: &App, name: &str, value: &str, seconds: u64) -> Response {
    let secure = if app.options.tls_proxy { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Returns the value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).find_map(|pair| {
        let (known, value) = pair.trim().split_once('=')?;
        (known == name).then_some(value)
    })
}
