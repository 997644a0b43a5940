//! The time limit of a connection's requests.
//!
//! Registering and removing a timer costs about as much as signing, and hardly any request needs its timer. A connection
//! therefore has one timer for all its requests. A request whose deadline is after the timer's deadline leaves the timer
//! unchanged. When the timer fires for a request that has ended long ago, it is set to the deadline of the running request.
//! The timer is therefore registered only once per time limit.

use std::future::Future;
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of a connection, created at its first use.
#[derive(Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The waker that the timer wakes. `None`: the timer is not registered.
    wakes: Option<Waker>,
}

impl Timer {
    /// Runs `work`. `None` if it did not end within `time`.
    pub(crate) async fn limit<T>(&mut self, time: Duration, work: impl Future<Output = T>) -> Option<T> {
        let deadline = Instant::now() + time;
        let Timer { sleep, wakes } = self;
        let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
            *wakes = None;
        }
        let mut work = std::pin::pin!(work);
        let mut polled = false;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            // The clock decides, not the timer, because a busy thread polls its timers late.
            if std::mem::replace(&mut polled, true) && Instant::now() >= deadline {
                return Poll::Ready(None);
            }
            loop {
                if !sleep.is_elapsed() && wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    return Poll::Pending;
                }
                // Unconstrained, so that pending always means registered, even if the task has used up its budget.
                if Pin::new(&mut tokio::task::unconstrained(&mut *sleep)).poll(cx).is_pending() {
                    *wakes = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                if sleep.deadline() >= deadline {
                    return Poll::Ready(None);
                }
                sleep.as_mut().reset(deadline);
                *wakes = None;
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_request_that_hangs_ends_in_time_whatever_the_limit_of_the_one_before() {
        run(async {
            let mut timer = Timer::default();
            assert_eq!(timer.limit(LONG, async { 1 }).await, Some(1));
            for limit in [SHORT, 2 * SHORT, SHORT] {
                let begun = Instant::now();
                assert_eq!(timer.limit(limit, pending::<()>()).await, None);
                assert!(begun.elapsed() >= limit);
            }
            assert_eq!(timer.limit(SHORT, async { 2 }).await, Some(2));
        });
    }

    #[test]
    fn a_timer_that_was_set_for_another_request_ends_none_early() {
        run(async {
            let mut timer = Timer::default();
            // The timer is registered for a request that ends before its limit, and fires while no request runs.
            assert_eq!(timer.limit(SHORT, tokio::time::sleep(SHORT / 4)).await, Some(()));
            assert_eq!(timer.limit(LONG, tokio::time::sleep(2 * SHORT)).await, Some(()));
            tokio::time::sleep(2 * SHORT).await;
            assert_eq!(timer.limit(LONG, tokio::time::sleep(2 * SHORT)).await, Some(()));
        });
    }
}
