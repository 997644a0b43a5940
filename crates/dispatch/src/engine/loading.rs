//! Loading of the configuration: subscriptions and endpoints.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use outbox_sender::Endpoint;

use super::Engine;
use crate::failure::Failure;
use crate::fault::{Fault, Kind};
use crate::store::Store;
use crate::subscriptions::Config;
use crate::transport::Transport;

/// How often unreadable settings are read again.
const LOAD_AGAIN: Duration = Duration::from_secs(10);

/// State of the loaded configuration, and parts of it that are to be loaded again. Routing adds the changes that control
/// messages announce; the functions of this file do the rest.
#[derive(Debug, Default)]
pub(super) struct Loading {
    /// The configuration includes all control messages up to this position.
    pub config_position: i64,
    /// Subscriptions to read again before the next message is routed.
    pub changed: Vec<i32>,
    /// Endpoints to read again before the next message is routed.
    pub changed_endpoints: Vec<i32>,
    /// Subscriptions whose settings cannot be read. They lag.
    pub unreadable: HashSet<i32>,
    /// When unreadable settings are read again.
    again_at: Option<Instant>,
    /// An unreadable subscription can be read again: the dispatcher has to continue from its checkpoint.
    pub must_restart: bool,
}

impl<S: Store, T: Transport> Engine<S, T> {
    /// Reads unreadable settings again, if it is time. Returns the time until then.
    pub(super) fn load_again(&mut self) -> Result<Duration, Failure> {
        let Some(at) = self.loading.again_at else { return Ok(Duration::MAX) };
        let wait = at.saturating_duration_since(self.store.instant());
        self.wanted.reload |= wait.is_zero();
        self.refresh()?;
        Ok(wait)
    }

    /// Reads the whole configuration.
    pub(super) fn load_config(&mut self) -> Result<(), Failure> {
        // A transaction that begins now sees everything that has been numbered so far.
        let config_position = self.routing.end;
        let begun = if self.incarnation.recovered { 0 } else { self.routing.routed };
        let loaded = self.store.load(false).and_then(|rows| {
            let mut config = Config::default();
            config.add_rows(&rows.subscriptions, begun)?;
            let plain_allowed = self.store.switches().allow_http;
            Ok((config, self.push.endpoints.load(&rows.endpoints, plain_allowed, self.store.now())))
        });
        let (mut new, configured) = match loaded {
            Err(failure) if !failure.is_transient() => self.load_apart(begun)?,
            loaded => {
                let loaded = loaded?;
                // A subscription that was unreadable and can be read again continues from the checkpoint, as after a
                // restart.
                self.loading.must_restart |= !self.loading.unreadable.is_empty();
                self.faults.loaded(&mut self.store, Kind::Subscription, &[])?;
                self.faults.loaded(&mut self.store, Kind::Endpoint, &[])?;
                self.loading.again_at = None;
                loaded
            }
        };
        let Engine { routing, push, loading, wanted, .. } = self;
        new.carry_over(&mut routing.config);
        routing.config = new;
        routing.config.begin(routing.routed);
        push.consents.endpoints_set(configured.iter().map(|endpoint| endpoint.id));
        push.sender.set_endpoints(configured);
        push.set_limits(&mut routing.config);
        wanted.reload = false;
        loading.changed.clear();
        loading.changed_endpoints.clear();
        loading.config_position = config_position;
        Ok(())
    }

    /// Reads the configuration item by item. An unreadable subscription lags and an unreadable endpoint takes nothing; both
    /// are read again after `LOAD_AGAIN`.
    fn load_apart(&mut self, begun: i64) -> Result<(Config, Vec<Endpoint>), Failure> {
        let rows = self.store.load(true)?;
        let mut config = Config::default();
        let mut subscriptions = rows.unreadable_subscriptions;
        subscriptions.extend(config.add_rows_apart(&rows.subscriptions, begun));
        for (id, _) in &subscriptions {
            config.insert_unreadable(*id, begun, self.routing.routed);
        }
        let (plain_allowed, now) = (self.store.switches().allow_http, self.store.now());
        let mut configured = self.push.endpoints.load(&rows.endpoints, plain_allowed, now);
        for (id, failure) in &rows.unreadable_endpoints {
            configured.push(self.push.endpoints.load_unreadable(*id, failure));
        }
        let (store, faults) = (&mut self.store, &mut self.faults);
        for (kind, failed) in [(Kind::Subscription, &subscriptions), (Kind::Endpoint, &rows.unreadable_endpoints)] {
            failed.iter().for_each(|(id, failure)| faults.add(store, Fault::new(kind, *id, "load", failure)));
            faults.loaded(store, kind, &failed.iter().map(|(id, _)| (*id).into()).collect::<Vec<_>>())?;
        }
        faults.write(store);
        let unreadable: HashSet<i32> = subscriptions.iter().map(|(id, _)| *id).collect();
        self.loading.must_restart |= !self.loading.unreadable.is_subset(&unreadable);
        self.loading.unreadable = unreadable;
        self.loading.again_at = Some(self.store.instant() + LOAD_AGAIN);
        Ok((config, configured))
    }

    /// Reads the changed endpoints, and asks for their subscriptions, whose settings depend on them. Asks for the whole
    /// configuration if some of it cannot be read.
    fn load_endpoints(&mut self) -> Result<(), Failure> {
        let Engine { store, routing, push, loading, wanted, .. } = self;
        let ids: HashSet<i32> = std::mem::take(&mut loading.changed_endpoints).into_iter().collect();
        let rows = match store.load_endpoints(&ids.iter().copied().collect::<Vec<_>>()) {
            Err(failure) if failure.is_transient() => {
                loading.changed_endpoints.extend(ids);
                return Err(failure);
            }
            rows => rows.unwrap_or_default(),
        };
        if rows.len() < ids.len() || loading.again_at.is_some() {
            wanted.reload = true;
            return Ok(());
        }
        let configured = push.endpoints.load(&rows, store.switches().allow_http, store.now());
        push.consents.endpoints_changed(ids.iter().copied());
        push.sender.set_endpoints(configured);
        let subscriptions = routing.config.subscriptions.iter().filter(|(_, s)| ids.contains(&s.endpoint));
        loading.changed.extend(subscriptions.map(|(id, _)| *id));
        if loading.changed.is_empty() {
            push.set_limits(&mut routing.config);
        }
        Ok(())
    }

    /// Reads the changed parts of the configuration.
    pub(super) fn refresh(&mut self) -> Result<(), Failure> {
        if !self.loading.changed_endpoints.is_empty() && !self.wanted.reload {
            self.load_endpoints()?;
        }
        if self.wanted.reload {
            return self.load_config();
        }
        if !self.loading.changed.is_empty() {
            let config = &mut self.routing.config;
            let rows = self.store.load_subscriptions(&self.loading.changed);
            match rows.and_then(|rows| config.add_rows(&rows, 0)) {
                Err(failure) if !failure.is_transient() => return self.load_config(),
                loaded => loaded?,
            }
            self.loading.changed.clear();
            config.begin(self.routing.routed);
            self.push.set_limits(config);
        }
        Ok(())
    }
}
