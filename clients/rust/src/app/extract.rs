//! The arguments of handlers.

use serde::de::DeserializeOwned;

use crate::worker::{Delivery, Failure};

/// An argument of a handler.
pub trait FromDelivery<S>: Sized {
    /// Makes the argument.
    ///
    /// # Errors
    /// The failure of the delivery. The handler does not run.
    fn from_delivery(delivery: &Delivery, state: &S) -> Result<Self, Failure>;
}

/// The payload. A payload that has not the form of `T` dead-letters the delivery at once, because no further attempt would
/// help.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S> FromDelivery<S> for Json<T> {
    fn from_delivery(delivery: &Delivery, _: &S) -> Result<Self, Failure> {
        let refuse = |error: crate::Error| {
            let details = error.details();
            let why = details.detail.as_deref().unwrap_or(&details.message);
            Failure::dead(format!("the payload is no {}: {why}", std::any::type_name::<T>()))
        };
        delivery.json().map(Json).map_err(refuse)
    }
}

/// The state of the application, or a part of it.
#[derive(Clone, Copy, Debug)]
pub struct State<T>(pub T);

impl<T: FromRef<S>, S> FromDelivery<S> for State<T> {
    fn from_delivery(_: &Delivery, state: &S) -> Result<Self, Failure> {
        Ok(State(T::from_ref(state)))
    }
}

/// A part of the state `S`.
pub trait FromRef<S> {
    /// Returns the part.
    fn from_ref(state: &S) -> Self;
}

impl<T: Clone> FromRef<T> for T {
    fn from_ref(state: &T) -> T {
        state.clone()
    }
}

impl<S> FromDelivery<S> for Delivery {
    fn from_delivery(delivery: &Delivery, _: &S) -> Result<Self, Failure> {
        Ok(delivery.clone())
    }
}
