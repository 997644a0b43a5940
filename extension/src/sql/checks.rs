//! SQL functions that check and describe the delivery settings of endpoints and subscriptions, with the same code that later
//! uses them.

use outbox_core::auth::Auth;
use outbox_core::policy::Policy;
use outbox_core::proxy::Proxy;
use outbox_core::schedule::Schedule;
use outbox_core::sign::Secret;
use outbox_core::{Code, Error, Result, breaker};
use outbox_sender::ResponseId;
use outbox_sender::tls::{Protocol, Tls, check_dates, client_config};
use pgrx::{IntoDatum, pg_sys};
use serde_json::Value;

use crate::pg::function::{Args, Returned};
use crate::{pg_function, settings};

/// Runs `check` on a jsonb argument, which is the setting `name`, and returns the argument.
fn checked(args: Args, name: &str, check: impl FnOnce(&Value) -> Result<()>) -> Result<Returned> {
    if let Some(json) = args.json(0, name)? {
        check(&json)?;
    }
    Ok(args.datum(0))
}

/// Parses an endpoint's `tls`: PEM texts `ca`, `certificate` and `key`.
pub fn tls(json: &Value) -> Result<Tls> {
    let refuse = |what: &str| {
        Error::invalid(format!("invalid tls: {what}"))
            .hint("A tls looks like {\"ca\": \"-----BEGIN CERTIFICATE-----...\", \"certificate\": \"...\", \"key\": \"...\"}.")
    };
    let Value::Object(entries) = json else { return Err(refuse("it is not a JSON object")) };
    let mut tls = Tls::default();
    for (name, value) in entries {
        let Value::String(text) = value else { return Err(refuse(&format!("\"{name}\" is not a text"))) };
        match name.as_str() {
            "ca" => tls.ca = Some(text.clone()),
            "certificate" => tls.certificate = Some(text.clone()),
            "key" => tls.key = Some(text.clone()),
            _ => return Err(refuse(&format!("\"{name}\" is unknown"))),
        }
    }
    client_config(&tls, Protocol::Auto).map_err(|e| refuse(&e))?;
    check_dates(&tls, std::time::SystemTime::now()).map_err(|e| refuse(&e))?;
    Ok(tls)
}

pg_function! {
    /// outbox_internal.check_schedule(jsonb) returns jsonb
    fn outbox_check_schedule(args) {
        checked(args, "schedule", |json| Schedule::parse(json).map(|_| ()))
    }
}

pg_function! {
    /// outbox_internal.check_policy(jsonb) returns jsonb
    fn outbox_check_policy(args) {
        checked(args, "policy", |json| Policy::parse(json).map(|_| ()))
    }
}

pg_function! {
    /// outbox_internal.check_breaker(jsonb) returns jsonb
    fn outbox_check_breaker(args) {
        checked(args, "breaker", |json| breaker::Settings::parse(json).map(|_| ()))
    }
}

pg_function! {
    /// outbox_internal.check_auth(jsonb) returns jsonb
    fn outbox_check_auth(args) {
        checked(args, "auth", |json| Auth::parse(json, settings::ALLOW_HTTP.get()).map(|_| ()))
    }
}

pg_function! {
    /// outbox_internal.check_tls(jsonb) returns jsonb
    fn outbox_check_tls(args) {
        checked(args, "tls", |json| tls(json).map(|_| ()))
    }
}

pg_function! {
    /// outbox_internal.check_proxy(text) returns text
    fn outbox_check_proxy(args) {
        if Proxy::parse(args.get::<&str>(0).unwrap_or_default())?.is_none() {
            return Err(Error::invalid("malformed proxy").detail("It is empty.").hint("No proxy at all is null."));
        }
        Ok(args.datum(0))
    }
}

pg_function! {
    /// outbox_internal.check_response_id(text) returns text
    fn outbox_check_response_id(args) {
        ResponseId::parse(args.get::<&str>(0).unwrap_or_default())
            .map_err(|e| Error::invalid("invalid response_id").detail(format!("{e}.")))?;
        Ok(args.datum(0))
    }
}

pg_function! {
    /// outbox_internal.new_secret(ed25519 boolean) returns text
    fn outbox_new_secret(args) {
        let mut random = [0u8; 32];
        // SAFETY: fills a buffer of this length.
        if !unsafe { pg_sys::pg_strong_random(random.as_mut_ptr().cast(), random.len()) } {
            return Err(Error::new(Code::Internal, "the system gives no random bytes"));
        }
        Ok(Secret::generate(&random, args.get(0).unwrap_or(false)).into_datum())
    }
}

pg_function! {
    /// outbox_internal.public_key(secret text) returns text
    fn outbox_public_key(args) {
        Ok(Secret::parse(args.get::<&str>(0).unwrap_or_default())?.public_key().into_datum())
    }
}

pg_function! {
    /// outbox_internal.waits(schedule jsonb, tries int) returns float8[]
    fn outbox_waits(args) {
        let schedule = match args.json(0, "schedule")? {
            Some(json) => Schedule::parse(&json)?,
            None => Schedule::default(),
        };
        let tries = args.get::<i32>(1).unwrap_or(0).clamp(0, 10_000).unsigned_abs();
        let waits = (1..=tries).map(|n| schedule.delay(n).as_secs_f64());
        Ok(std::iter::once(schedule.jitter).chain(waits).collect::<Vec<f64>>().into_datum())
    }
}
