//! Metadata of events, and the metadata of the current task, which all events that the task appends get.

use std::future::Future;

use serde_json::{Map, Value};

tokio::task_local! {
    static CURRENT: Metadata;
}

/// The metadata of events. The entries of an event take precedence over those of the append, and these over the entries of the
/// current task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Map<String, Value>,
    tenant: Option<String>,
}

impl Metadata {
    /// Creates metadata without entries.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// Sets the id that all events of one request have in common.
    #[must_use]
    pub fn correlation_id(self, id: impl Into<String>) -> Metadata {
        self.set("correlation_id", id.into())
    }

    /// Sets the id of the command or event that has caused the events.
    #[must_use]
    pub fn causation_id(self, id: impl Into<String>) -> Metadata {
        self.set("causation_id", id.into())
    }

    /// Sets the user who acts.
    #[must_use]
    pub fn user_id(self, id: impl Into<String>) -> Metadata {
        self.set("user_id", id.into())
    }

    /// Sets the tenant. It is a column of its own, and no entry. All events of one append have the same tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Metadata {
        self.tenant = Some(tenant.into());
        self
    }

    /// Sets an entry.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<Value>) -> Metadata {
        self.entries.insert(name.into(), value.into());
        self
    }

    /// Returns an entry.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.entries.get(name)
    }

    /// Returns an entry that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.entries.get(name)?.as_str()
    }

    /// Returns the tenant.
    pub fn get_tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// Returns these entries, and of `below` those that are not set here.
    #[must_use]
    pub fn over(mut self, below: &Metadata) -> Metadata {
        for (name, value) in &below.entries {
            if !self.entries.contains_key(name) {
                self.entries.insert(name.clone(), value.clone());
            }
        }
        self.tenant = self.tenant.or_else(|| below.tenant.clone());
        self
    }

    /// Returns the metadata of the current task; empty outside of [`Metadata::scope`].
    pub fn current() -> Metadata {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// Runs a future with this metadata, and beneath it that of the task. Tasks that the future spawns do not inherit it.
    ///
    /// ```
    /// # async fn example() {
    /// use pg_outbox::events::Metadata;
    /// let of_request = Metadata::new().correlation_id("request-7").user_id("ann");
    /// of_request.scope(async { assert_eq!(Metadata::current().text("user_id"), Some("ann")) }).await;
    /// # }
    /// ```
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        let below = Metadata::current();
        CURRENT.scope(self.over(&below), future)
    }

    pub(crate) fn into_parts(self) -> (Map<String, Value>, Option<String>) {
        (self.entries, self.tenant)
    }
}
