//! Reads the configuration: subscriptions with their versions, and endpoints.

use std::ffi::CStr;

use outbox_dispatch::push::endpoints::{EndpointRow, EndpointState};
use outbox_dispatch::store::Configuration;
use outbox_dispatch::subscriptions::{Transform, VersionRow};
use pgrx::pg_sys::INT4ARRAYOID;

use crate::pg::txn::{Failure, Plan, Row, Rows, arg};
use crate::store::apart::apart;

/// One row per version that has a position.
macro_rules! versions {
    () => {
        "select s.id, s.endpoint_id, s.max_attempts, v.position,
            lead(v.position) over (partition by s.id order by v.version) as until,
            v.active, v.topics, v.filter::text as filter, s.ordering,
            outbox_internal.duration_us(s.ttl) as ttl, outbox_internal.duration_us(s.max_age) as max_age,
            coalesce(s.schedule, e.schedule)::text as schedule, s.policy::text as policy,
            e.policy::text as endpoint_policy, s.format, s.batch_size,
            outbox_internal.duration_us(s.batch_wait) as batch_wait, s.paused, v.version, v.starts_after, s.on_exhausted,
            v.source, s.transform, s.transform_owner
        from outbox.subscription s
        join outbox.subscription_version v on v.subscription_id = s.id
        left join outbox.endpoint e on e.id = s.endpoint_id
        where v.position is not null"
    };
}

/// One row per endpoint.
macro_rules! endpoints {
    () => {
        "select e.id, e.url, e.headers::text as headers, outbox_internal.duration_us(e.timeout) / 1000 as timeout_ms,
            e.concurrency,
            case when e.consent = 'granted' then least(e.rate, k.allowed_rate / 60.0::float8) else e.rate end as rate,
            case when e.consent = 'granted' then least(e.burst, greatest(k.allowed_rate / 60.0::float8, 1))
                else e.burst end as burst,
            e.breaker::text as breaker_rule, e.protocol, e.compress, e.response_id, e.keep_headers,
            outbox_internal.duration_us(e.disable_after) as disable_after, e.disable_failures,
            e.active, e.disabled_mode, e.consent,
            c.auth::text as auth, c.ca, c.certificate, c.key,
            s.breaker as breaker_state, s.breaker_until, s.breaker_times, s.paused_until, s.failing_since, s.failures,
            s.last_success_at, s.last_failure_at, s.last_error,
            array(
                select k.secret from outbox.endpoint_secret k
                where k.endpoint_id = e.id and (k.expires_at is null or k.expires_at > now())
                order by k.created_at desc
            ) as secrets,
            array(
                select coalesce(outbox_internal.us(k.expires_at) + 946684800000000, 0)
                from outbox.endpoint_secret k
                where k.endpoint_id = e.id and (k.expires_at is null or k.expires_at > now())
                order by k.created_at desc
            ) as secrets_until,
            p.url as proxy, p.resolves_names, e.proxy is not null and p.name is null as proxy_is_gone
        from outbox.endpoint e
        left join outbox.endpoint_credential c on c.endpoint_id = e.id
        left join outbox.endpoint_state s on s.endpoint_id = e.id
        left join outbox.endpoint_consent k on k.endpoint_id = e.id
        left join outbox.proxy p on p.name = e.proxy or e.proxy is null and p.is_default"
    };
}

/// Statements that read the configuration.
pub struct Loader {
    subscriptions: Plan,
    changed: Plan,
    subscription_ids: Plan,
    endpoints: Plan,
    changed_endpoints: Plan,
    endpoint_ids: Plan,
}

impl Loader {
    pub const fn new() -> Loader {
        Loader {
            subscriptions: Plan::new(concat!(versions!(), " order by s.id, v.version"), &[]),
            changed: Plan::new(concat!(versions!(), " and s.id = any ($1) order by s.id, v.version"), &[INT4ARRAYOID]),
            subscription_ids: Plan::new("select s.id from outbox.subscription s order by s.id", &[]),
            endpoint_ids: Plan::new("select e.id from outbox.endpoint e order by e.id", &[]),
            endpoints: Plan::new(endpoints!(), &[]),
            changed_endpoints: Plan::new(concat!(endpoints!(), " where e.id = any ($1)"), &[INT4ARRAYOID]),
        }
    }

    /// Reads everything. Inside a transaction.
    pub fn all(&mut self) -> Configuration {
        let subscriptions = self.subscriptions();
        Configuration { subscriptions, endpoints: self.endpoints(None), ..Configuration::default() }
    }

    /// Reads all subscriptions. Inside a transaction.
    pub fn subscriptions(&mut self) -> Vec<VersionRow> {
        versions(&self.subscriptions.execute(&[]))
    }

    /// Reads these subscriptions. Inside a transaction.
    pub fn these(&mut self, ids: &[i32]) -> Vec<VersionRow> {
        versions(&self.changed.execute(&[arg(ids.to_vec())]))
    }

    /// Reads everything, each subscription and each endpoint by itself. Inside a transaction.
    pub fn all_apart(&mut self) -> Result<Configuration, Failure> {
        let (ids, unreadable_subscriptions) = readable(&self.subscription_ids.execute(&[]), &mut |ids| {
            self.these(ids);
        })?;
        let subscriptions = self.these(&ids);
        let (ids, unreadable_endpoints) = readable(&self.endpoint_ids.execute(&[]), &mut |ids| {
            self.endpoints(Some(ids));
        })?;
        let endpoints = self.endpoints(Some(&ids));
        Ok(Configuration { subscriptions, endpoints, unreadable_subscriptions, unreadable_endpoints })
    }

    /// Reads these endpoints; `None`: all. Inside a transaction.
    pub fn endpoints(&mut self, ids: Option<&[i32]>) -> Vec<EndpointRow> {
        let mut endpoints = Vec::new();
        let rows = match ids {
            None => self.endpoints.execute(&[]),
            Some(ids) => self.changed_endpoints.execute(&[arg(ids.to_vec())]),
        };
        rows.for_each(|row| endpoints.push(endpoint(row)));
        endpoints
    }
}

/// Ids that can be read, and ids that cannot be read with the reason.
type Readable = (Vec<i32>, Vec<(i32, Failure)>);

/// Finds the ids that `read` can read.
fn readable(rows: &Rows, read: &mut dyn FnMut(&[i32])) -> Result<Readable, Failure> {
    let mut ids = Vec::new();
    rows.for_each(|row| ids.extend(row.get::<i32>(0)));
    let failed = apart(&ids, &mut |ids| {
        read(ids);
        Ok(())
    })?;
    let failed: Vec<(i32, Failure)> = failed.into_iter().map(|(place, failure)| (ids[place], failure)).collect();
    ids.retain(|id| failed.iter().all(|(other, _)| other != id));
    Ok((ids, failed))
}

fn versions(rows: &Rows) -> Vec<VersionRow> {
    let mut versions = Vec::new();
    rows.for_each(|row| versions.push(version(row)));
    versions
}

fn texts(row: &Row, column: &CStr) -> Vec<String> {
    row.get::<Vec<Option<String>>>(column).unwrap_or_default().into_iter().flatten().collect()
}

fn version(row: &Row) -> VersionRow {
    VersionRow {
        subscription: row.get(c"id").unwrap_or_default(),
        endpoint: row.get(c"endpoint_id"),
        max_attempts: row.get(c"max_attempts"),
        position: row.int(c"position"),
        until: row.get(c"until"),
        active: row.get(c"active").unwrap_or(false),
        topics: texts(row, c"topics"),
        filter: row.get(c"filter"),
        ordering: row.get(c"ordering"),
        ttl: row.get(c"ttl"),
        max_age: row.get(c"max_age"),
        schedule: row.get(c"schedule"),
        policy: row.get(c"policy"),
        endpoint_policy: row.get(c"endpoint_policy"),
        format: row.get(c"format"),
        batch_size: row.get(c"batch_size"),
        batch_wait: row.int(c"batch_wait"),
        paused: row.get(c"paused").unwrap_or(false),
        source: row.get(c"source"),
        transform: row
            .get::<&str>(c"transform")
            .zip(row.get::<&str>(c"transform_owner"))
            .map(|(function, owner)| Transform { function: function.into(), owner: owner.into() }),
        version: row.get(c"version").unwrap_or_default(),
        starts_after: row.get(c"starts_after"),
        block: row.get(c"on_exhausted") == Some("block"),
    }
}

fn endpoint(row: &Row) -> EndpointRow {
    let id = row.get(c"id").unwrap_or_default();
    let times: Vec<i64> = row.get(c"secrets_until").unwrap_or_default();
    let secrets = row.get::<Vec<Option<String>>>(c"secrets").unwrap_or_default();
    EndpointRow {
        id,
        url: row.get(c"url"),
        headers: row.get(c"headers"),
        timeout_ms: row.int(c"timeout_ms"),
        concurrency: row.get(c"concurrency"),
        rate: row.get(c"rate"),
        burst: row.get(c"burst"),
        breaker: row.get(c"breaker_rule"),
        protocol: row.get(c"protocol"),
        compress: row.get(c"compress").unwrap_or(false),
        response_id: row.get(c"response_id"),
        keep_headers: texts(row, c"keep_headers"),
        disable_after: row.int(c"disable_after"),
        disable_failures: row.get(c"disable_failures"),
        active: row.get(c"active").unwrap_or(false),
        disabled_mode: row.get(c"disabled_mode"),
        consent: row.get(c"consent"),
        auth: row.get(c"auth"),
        tls: [row.get(c"ca"), row.get(c"certificate"), row.get(c"key")],
        state: EndpointState {
            endpoint: id,
            breaker: row.text(c"breaker_state"),
            breaker_until: row.get(c"breaker_until"),
            breaker_times: row.get(c"breaker_times").unwrap_or_default(),
            paused_until: row.get(c"paused_until"),
            failing_since: row.get(c"failing_since"),
            failures: row.int(c"failures"),
            last_success: row.get(c"last_success_at"),
            last_failure: row.get(c"last_failure_at"),
            last_error: row.text(c"last_error"),
            ..EndpointState::default()
        },
        secrets: secrets.into_iter().flatten().zip(times).collect(),
        proxy: row.get(c"proxy"),
        proxy_resolves: row.get(c"resolves_names").unwrap_or(false),
        proxy_is_gone: row.get(c"proxy_is_gone").unwrap_or(false),
    }
}
