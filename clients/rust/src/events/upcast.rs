//! [`Upcasters`]: functions that turn the data of old events into the newest form when they are loaded. Stored events never
//! change.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use outbox_core::upcast::{Chains, FIRST, METADATA};
use serde_json::{Map, Value};

use super::event::RecordedEvent;
use crate::error::{Error, Result};

type Upcast = Arc<dyn Fn(Value) -> Result<Value> + Send + Sync>;

/// Chains of upcasters, one per event type. Each leads from one schema version to the next one. Events without a version have
/// version 1.
#[derive(Clone, Default)]
pub struct Upcasters {
    chains: Chains,
    functions: HashMap<(String, u32), Upcast>,
}

impl fmt::Debug for Upcasters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upcasters").field("chains", &self.chains).finish_non_exhaustive()
    }
}

impl Upcasters {
    /// Creates an empty set.
    pub fn new() -> Upcasters {
        Upcasters::default()
    }

    /// Adds the upcaster of a type from version `from` to `from + 1`.
    ///
    /// ```
    /// use pg_outbox::events::Upcasters;
    /// use serde_json::json;
    /// let upcasters = Upcasters::new()
    ///     .add("order.placed", 1, |data| Ok(json!({"total": data["amount"], "currency": "EUR"})))?
    ///     .checked()?;
    /// assert_eq!(upcasters.latest("order.placed"), 2);
    /// # Ok::<(), pg_outbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// 22023 if `from` is 0, or the type has an upcaster from this version.
    pub fn add(
        mut self,
        event_type: &str,
        from: u32,
        upcast: impl Fn(Value) -> Result<Value> + Send + Sync + 'static,
    ) -> Result<Upcasters> {
        self.chains.add(event_type, from)?;
        self.functions.insert((event_type.to_owned(), from), Arc::new(upcast));
        Ok(self)
    }

    /// Checks that no chain has a gap.
    ///
    /// # Errors
    /// 22023 with the version that has no upcaster.
    pub fn checked(self) -> Result<Upcasters> {
        self.chains.check()?;
        Ok(self)
    }

    /// Returns the newest version of a type. New events are stored with it.
    pub fn latest(&self, event_type: &str) -> u32 {
        self.chains.latest(event_type)
    }

    /// Turns data of a version into the newest form. Returns the data and its version. Data of a newer version stays as it is.
    ///
    /// # Errors
    /// 22023 if an upcaster is missing; the error of an upcaster.
    pub fn upcast(&self, event_type: &str, version: u32, mut data: Value) -> Result<(Value, u32)> {
        let steps = self.chains.steps(event_type, version)?;
        let newest = steps.end;
        for from in steps {
            let function = self.functions.get(&(event_type.to_owned(), from));
            let function = function.ok_or_else(|| Error::invalid("an upcaster is missing"))?;
            data = function(data)?;
        }
        Ok((data, newest))
    }

    pub(super) fn apply(&self, event: &mut RecordedEvent) -> Result<()> {
        if event.is_erased() || event.body.is_some() && event.data.is_null() {
            return Ok(());
        }
        let version = version_of(&event.metadata)?;
        let (data, newest) = self.upcast(&event.event_type, version, std::mem::take(&mut event.data))?;
        event.data = data;
        if newest != version {
            event.metadata.insert(METADATA.to_owned(), newest.into());
        }
        Ok(())
    }

    /// Writes the newest version of a type into the metadata of a new event, whatever version the metadata has. Types without
    /// upcasters stay as they are.
    pub(super) fn stamp(&self, event_type: &str, metadata: &mut Map<String, Value>) {
        let latest = self.latest(event_type);
        if latest > FIRST {
            metadata.insert(METADATA.to_owned(), latest.into());
        }
    }
}

fn version_of(metadata: &Map<String, Value>) -> Result<u32> {
    match metadata.get(METADATA) {
        None | Some(Value::Null) => Ok(FIRST),
        Some(version) => version
            .as_u64()
            .and_then(|version| u32::try_from(version).ok())
            .filter(|version| *version >= FIRST)
            .ok_or_else(|| Error::invalid("malformed schema version").detail("The metadata of an event has it.")),
    }
}
