//! [`EventRegistry`]: the event types that an application knows, and the Rust types of their data.
//!
//! An enum of events needs no registry. The registry is for structs, each of which is one event type, and to refuse types that
//! nobody has registered.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::event::{NewEvent, RecordedEvent};
use crate::error::{Error, Result};

/// Data of a registered type.
type AnyData = Box<dyn Any + Send>;

struct Entry {
    type_id: TypeId,
    decode: fn(&RecordedEvent) -> Result<AnyData>,
}

/// The registered event types.
#[derive(Default)]
pub struct EventRegistry {
    by_name: HashMap<String, Entry>,
    by_type: HashMap<TypeId, String>,
    is_strict: bool,
}

impl fmt::Debug for EventRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventRegistry").field("types", &self.by_name.len()).field("strict", &self.is_strict).finish()
    }
}

impl EventRegistry {
    /// Creates a registry without types, which lets all types pass.
    pub fn new() -> EventRegistry {
        EventRegistry::default()
    }

    /// Refuses to append and to load events whose type is not registered.
    #[must_use]
    pub fn strict(mut self) -> EventRegistry {
        self.is_strict = true;
        self
    }

    /// Registers `T` as the data of an event type.
    ///
    /// # Errors
    /// 22023 if the event type or `T` is registered already.
    pub fn register<T: Serialize + DeserializeOwned + Send + 'static>(
        mut self,
        event_type: &str,
    ) -> Result<EventRegistry> {
        let type_id = TypeId::of::<T>();
        if self.by_name.contains_key(event_type) || self.by_type.contains_key(&type_id) {
            return Err(Error::invalid(format!("event type \"{event_type}\" or its Rust type is registered twice")));
        }
        let decode = |event: &RecordedEvent| Ok(Box::new(event.json::<T>()?) as AnyData);
        self.by_name.insert(event_type.to_owned(), Entry { type_id, decode });
        self.by_type.insert(type_id, event_type.to_owned());
        Ok(self)
    }

    /// Creates an event of a registered Rust type.
    ///
    /// # Errors
    /// 22023 if `T` is not registered.
    pub fn event<T: Serialize + 'static>(&self, data: &T) -> Result<NewEvent> {
        let name = self.by_type.get(&TypeId::of::<T>());
        let name = name.ok_or_else(|| unregistered(std::any::type_name::<T>()))?;
        NewEvent::new(name.clone(), data)
    }

    /// Returns the data of an event as the registered Rust type; `downcast` or `is` tell which one it is.
    ///
    /// # Errors
    /// 22023 if the type is not registered, or the data does not have its form.
    pub fn decode(&self, event: &RecordedEvent) -> Result<AnyData> {
        let entry = self.by_name.get(&event.event_type).ok_or_else(|| unregistered(&event.event_type))?;
        (entry.decode)(event)
    }

    /// Returns whether the data of the event type is a `T`.
    pub fn is<T: 'static>(&self, event_type: &str) -> bool {
        self.by_name.get(event_type).is_some_and(|entry| entry.type_id == TypeId::of::<T>())
    }

    pub(super) fn check(&self, event_type: &str) -> Result<()> {
        if self.is_strict && !self.by_name.contains_key(event_type) {
            return Err(unregistered(event_type));
        }
        Ok(())
    }
}

pub(super) fn unregistered(name: &str) -> Error {
    let shown: String = name.chars().take(255).collect();
    Error::invalid(format!("event type \"{shown}\" is not registered"))
        .hint("EventRegistry::register makes it known.")
        .named("unregistered_event")
}
