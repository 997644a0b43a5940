//! Chains of upcasters. An upcaster turns the data of an event type from one schema version into the next one.
//!
//! The functions themselves belong to the clients. This module says which of them run, and in which order.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use crate::error::{Error, Result};

/// The schema version of an event that names none.
pub const FIRST: u32 = 1;

/// The metadata entry that holds the schema version of an event.
pub const METADATA: &str = "schema_version";

/// The upcasters that are registered, by event type and the version that they start from.
#[derive(Clone, Debug, Default)]
pub struct Chains(HashMap<String, BTreeSet<u32>>);

impl Chains {
    /// Adds the upcaster of a type from `from` to `from + 1`.
    ///
    /// # Errors
    /// 22023 if `from` is 0, or an upcaster of this type and version exists.
    pub fn add(&mut self, event_type: &str, from: u32) -> Result<()> {
        if from < FIRST || from == u32::MAX {
            return Err(Error::invalid(format!("malformed schema version {from}")).hint("Versions begin with 1."));
        }
        if !self.0.entry(event_type.to_owned()).or_default().insert(from) {
            return Err(Error::invalid(format!("event type {event_type} has two upcasters from version {from}")));
        }
        Ok(())
    }

    /// Checks that each type has an upcaster from each version between its lowest and its latest one.
    ///
    /// # Errors
    /// 22023 with the first version that has no upcaster.
    pub fn check(&self) -> Result<()> {
        let mut types: Vec<_> = self.0.iter().collect();
        types.sort_unstable_by_key(|(name, _)| *name);
        for (event_type, versions) in types {
            let Some((first, last)) = versions.first().zip(versions.last()) else { continue };
            if let Some(gap) = (*first..*last).find(|version| !versions.contains(version)) {
                return Err(Error::invalid(format!("event type {event_type} has no upcaster from version {gap}"))
                    .hint("Each version up to the latest one needs an upcaster."));
            }
        }
        Ok(())
    }

    /// Returns the version that the upcasters of a type end with; 1 without upcasters. New events are stored with it.
    pub fn latest(&self, event_type: &str) -> u32 {
        self.0.get(event_type).and_then(BTreeSet::last).map_or(FIRST, |last| last + 1)
    }

    /// Returns the versions from which upcasters run, in order, for data of a version. Data of a newer version than the
    /// latest one is left as it is: a newer release of the application has written it.
    ///
    /// # Errors
    /// 22023 if no upcaster starts from this version, or from one behind it.
    pub fn steps(&self, event_type: &str, version: u32) -> Result<Range<u32>> {
        let latest = self.latest(event_type);
        let steps = version..latest.max(version);
        match steps.clone().find(|from| !self.0.get(event_type).is_some_and(|versions| versions.contains(from))) {
            None => Ok(steps),
            Some(gap) => Err(Error::invalid(format!("event type {event_type} has no upcaster from version {gap}"))
                .detail(format!("The event has version {version}, the latest is {latest}."))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains(upcasters: &[(&str, u32)]) -> Result<Chains> {
        let mut chains = Chains::default();
        upcasters.iter().try_for_each(|(event_type, from)| chains.add(event_type, *from))?;
        chains.check()?;
        Ok(chains)
    }

    #[test]
    fn upcasters_run_one_version_after_the_other() {
        let chains = chains(&[("a", 2), ("a", 1), ("b", 3)]).unwrap();
        assert_eq!((chains.latest("a"), chains.latest("b"), chains.latest("c")), (3, 4, 1));
        let steps = |event_type, version| chains.steps(event_type, version).unwrap();
        assert_eq!(steps("a", 1), 1..3);
        assert_eq!(steps("a", 2), 2..3);
        assert_eq!(steps("a", 3), 3..3);
        assert_eq!(steps("a", 9), 9..9);
        assert_eq!(steps("c", 1), 1..1);
        assert_eq!(chains.steps("b", 1).unwrap_err().message, "event type b has no upcaster from version 1");
    }

    #[test]
    fn gaps_and_duplicates_are_refused() {
        assert_eq!(chains(&[("a", 1), ("a", 3)]).unwrap_err().message, "event type a has no upcaster from version 2");
        assert_eq!(chains(&[("a", 1), ("a", 1)]).unwrap_err().message, "event type a has two upcasters from version 1");
        assert!(chains(&[("a", 0)]).is_err());
    }
}
