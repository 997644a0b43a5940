//! Reads the configuration: subscriptions with their versions, and endpoints.

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
            lead(v.position) over (partition by s.id order by v.version),
            v.active, v.topics, v.filter::text, s.ordering,
            outbox_internal.duration_us(s.ttl), outbox_internal.duration_us(s.max_age),
            coalesce(s.schedule, e.schedule)::text, s.policy::text, e.policy::text, s.format, s.batch_size,
            outbox_internal.duration_us(s.batch_wait), s.paused, v.version, v.starts_after, s.on_exhausted,
            v.source, s.transform, s.transform_owner
        from outbox.subscription s
        join outbox.subscription_version v on v.subscription_id = s.id
        left join outbox.endpoint e on e.id = s.endpoint_id
        where v.position is not null"
    };
}

/// Statements that read the configuration.
pub struct Loader {
    subscriptions: Plan,
    changed: Plan,
    subscription_ids: Plan,
    endpoints: Plan,
    endpoint_ids: Plan,
}

impl Loader {
    pub const fn new() -> Loader {
        Loader {
            subscriptions: Plan::new(concat!(versions!(), " order by s.id, v.version"), &[]),
            changed: Plan::new(concat!(versions!(), " and s.id = any ($1) order by s.id, v.version"), &[INT4ARRAYOID]),
            subscription_ids: Plan::new("select s.id from outbox.subscription s order by s.id", &[]),
            endpoint_ids: Plan::new("select e.id from outbox.endpoint e order by e.id", &[]),
            endpoints: Plan::new(
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

    fn endpoints(&mut self, ids: Option<&[i32]>) -> Vec<EndpointRow> {
        let mut endpoints = Vec::new();
        let rows = self.endpoints.execute(&[ids.map(<[i32]>::to_vec).and_then(arg)]);
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

fn texts(row: &Row, column: usize) -> Vec<String> {
    row.get::<Vec<Option<String>>>(column).unwrap_or_default().into_iter().flatten().collect()
}

fn version(row: &Row) -> VersionRow {
    VersionRow {
        subscription: row.get(0).unwrap_or_default(),
        endpoint: row.get(1),
        max_attempts: row.get(2),
        position: row.int(3),
        until: row.get(4),
        active: row.get(5).unwrap_or(false),
        topics: texts(row, 6),
        filter: row.get(7),
        ordering: row.get(8),
        ttl: row.get(9),
        max_age: row.get(10),
        schedule: row.get(11),
        policy: row.get(12),
        endpoint_policy: row.get(13),
        format: row.get(14),
        batch_size: row.get(15),
        batch_wait: row.int(16),
        paused: row.get(17).unwrap_or(false),
        source: row.get(21),
        transform: row
            .get::<&str>(22)
            .zip(row.get::<&str>(23))
            .map(|(function, owner)| Transform { function: function.into(), owner: owner.into() }),
        version: row.get(18).unwrap_or_default(),
        starts_after: row.get(19),
        block: row.get(20) == Some("block"),
    }
}

fn endpoint(row: &Row) -> EndpointRow {
    let id = row.get(0).unwrap_or_default();
    let times: Vec<i64> = row.get(31).unwrap_or_default();
    let secrets = row.get::<Vec<Option<String>>>(30).unwrap_or_default();
    EndpointRow {
        id,
        url: row.get(1),
        headers: row.get(2),
        timeout_ms: row.int(3),
        concurrency: row.get(4),
        rate: row.get(5),
        burst: row.get(6),
        breaker: row.get(7),
        protocol: row.get(8),
        compress: row.get(9).unwrap_or(false),
        response_id: row.get(10),
        keep_headers: texts(row, 11),
        disable_after: row.int(12),
        disable_failures: row.get(13),
        active: row.get(14).unwrap_or(false),
        disabled_mode: row.get(15),
        consent: row.get(16),
        auth: row.get(17),
        tls: [row.get(18), row.get(19), row.get(20)],
        state: EndpointState {
            endpoint: id,
            breaker: row.text(21),
            breaker_until: row.get(22),
            breaker_times: row.get(23).unwrap_or_default(),
            paused_until: row.get(24),
            failing_since: row.get(25),
            failures: row.int(26),
            last_success: row.get(27),
            last_failure: row.get(28),
            last_error: row.text(29),
            ..EndpointState::default()
        },
        secrets: secrets.into_iter().flatten().zip(times).collect(),
        proxy: row.get(32),
        proxy_resolves: row.get(33).unwrap_or(false),
        proxy_is_gone: row.get(34).unwrap_or(false),
    }
}
