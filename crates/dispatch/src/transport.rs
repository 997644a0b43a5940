//! The way to receivers: the HTTP thread of `outbox-sender`, or a simulated one.

use std::collections::HashSet;
use std::time::Duration;

use outbox_sender::{ConsentAnswer, Done, Endpoint, Event, Job, Pulse, Sender, Settings, Shortage, Ticket};

/// Sends jobs and returns their outcomes. Each submitted job comes back exactly once while the transport is alive. See
/// `outbox_sender::Sender` for what each method means.
pub trait Transport {
    /// Replaces the settings.
    fn set_settings(&mut self, settings: Settings);
    /// Replaces the configuration of these endpoints.
    fn set_endpoints(&mut self, endpoints: Vec<Endpoint>);
    /// Queues jobs.
    fn submit(&mut self, jobs: Vec<Job>);
    /// Recalls the queued jobs of these messages, which come back as skipped.
    fn call_off(&mut self, message_ids: HashSet<i64>);
    /// Takes the outcomes that have arrived.
    fn take_done(&mut self, into: &mut Vec<Done>);
    /// Takes the changes of endpoints' states that have arrived.
    fn take_events(&mut self) -> Vec<Event>;
    /// Asks an endpoint whether it wants deliveries.
    fn ask_consent(&mut self, endpoint: i32, origin: &str);
    /// Takes the answers to `ask_consent` that have arrived.
    fn take_consents(&mut self, into: &mut Vec<ConsentAnswer>);
    /// Takes note that `n` outcomes that were taken have been recorded durably.
    fn recorded(&mut self, n: usize);
    /// Gives up the job that the transport is stuck on, and returns its outcome.
    fn give_up(&mut self, ticket: Ticket, error: &str) -> Done;
    /// Returns a sign of life.
    fn pulse(&self) -> Pulse;
    /// Takes the shortage that requests have met since the last call.
    fn take_shortage(&mut self) -> Option<Shortage>;
    /// Returns the number of requests in flight.
    fn in_flight(&self) -> usize;
    /// Returns the number of jobs that wait for their turn.
    fn queued(&self) -> usize;
    /// Returns the number of outcomes that are not recorded, taken or not.
    fn unrecorded(&self) -> usize;
    /// Starts no further request and waits at most `grace` for those in flight.
    fn stop(&mut self, grace: Duration);
    /// Returns whether the transport is alive.
    fn is_alive(&self) -> bool;
}

impl Transport for Sender {
    fn set_settings(&mut self, settings: Settings) {
        Sender::set_settings(self, settings);
    }

    fn set_endpoints(&mut self, endpoints: Vec<Endpoint>) {
        Sender::set_endpoints(self, endpoints);
    }

    fn submit(&mut self, jobs: Vec<Job>) {
        Sender::submit(self, jobs);
    }

    fn call_off(&mut self, message_ids: HashSet<i64>) {
        Sender::call_off(self, message_ids);
    }

    fn take_done(&mut self, into: &mut Vec<Done>) {
        Sender::take_done(self, into);
    }

    fn take_events(&mut self) -> Vec<Event> {
        Sender::take_events(self)
    }

    fn ask_consent(&mut self, endpoint: i32, origin: &str) {
        Sender::ask_consent(self, endpoint, origin);
    }

    fn take_consents(&mut self, into: &mut Vec<ConsentAnswer>) {
        Sender::take_consents(self, into);
    }

    fn recorded(&mut self, n: usize) {
        Sender::recorded(self, n);
    }

    fn give_up(&mut self, ticket: Ticket, error: &str) -> Done {
        Sender::give_up(self, ticket, error)
    }

    fn pulse(&self) -> Pulse {
        Sender::pulse(self)
    }

    fn take_shortage(&mut self) -> Option<Shortage> {
        Sender::take_shortage(self)
    }

    fn in_flight(&self) -> usize {
        Sender::in_flight(self)
    }

    fn queued(&self) -> usize {
        Sender::queued(self)
    }

    fn unrecorded(&self) -> usize {
        Sender::unrecorded(self)
    }

    fn stop(&mut self, grace: Duration) {
        Sender::stop(self, grace);
    }

    fn is_alive(&self) -> bool {
        Sender::is_alive(self)
    }
}
