//! [`Endpoint`]: an instance as this process knows it, and [`Pick`], a request to one.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tracing::{debug, info};

use super::ejection::{Ejection, Outcome, Standing};
use crate::engine::Instance;

/// An instance, for as long as it stays the same.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) instance: Instance,
    /// Requests from here that it has not answered yet.
    in_flight: AtomicUsize,
    ejection: Mutex<Ejection>,
}

impl Endpoint {
    pub(super) fn new(instance: Instance) -> Self {
        Self {
            instance,
            in_flight: AtomicUsize::new(0),
            ejection: Mutex::default(),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.ejection().standing(Instant::now())
    }

    fn ejection(&self) -> MutexGuard<'_, Ejection> {
        self.ejection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chance decides between equals, or the first would have all the idle time's requests.
    fn load(&self) -> (usize, u32) {
        (self.in_flight.load(Ordering::Relaxed), fastrand::u32(..))
    }

    fn report(&self, outcome: Outcome, begun: Instant) {
        let mut ejection = self.ejection();
        let failures = ejection.failures();
        let ejected_for = ejection.report(outcome, begun, Instant::now());
        let failures_now = ejection.failures();
        drop(ejection);
        let instance = &self.instance.id;
        match ejected_for {
            Some(length) if failures == 0 && failures_now > 0 => {
                info!(
                    instance,
                    ?length,
                    "an instance does not answer, and is left out for a while"
                );
            }
            Some(length) => debug!(instance, ?outcome, ?length, failures_now, "an instance is ejected"),
            None if failures > 0 && failures_now == 0 => info!(instance, "an instance answers again"),
            None => {}
        }
    }
}

/// Chooses an endpoint whose id is not in `tried`.
///
/// Of two taken by chance it is the one with fewer requests in flight: nearly as good as the least busy of all, and not
/// all callers rush to the same one. Those that are ejected come last, the one first that has failed least: some are
/// always better than none, and where all are ejected it may be the callers' side that is at fault.
pub(super) fn choose(endpoints: &[Arc<Endpoint>], tried: &[&str]) -> Option<Pick> {
    let (mut others_are_good, mut called, mut ejected) = (false, Vec::new(), Vec::new());
    for endpoint in endpoints {
        let standing = endpoint.standing();
        others_are_good |= standing == Standing::Good;
        if tried.contains(&endpoint.instance.id.as_str()) {
            continue;
        }
        match standing {
            Standing::Out => ejected.push(endpoint),
            Standing::Good | Standing::Due => called.push(endpoint),
        }
    }
    let best_of_two = fastrand::choose_multiple(called, 2)
        .into_iter()
        .min_by_key(|endpoint| endpoint.load());
    let least_failed = || {
        ejected
            .into_iter()
            .min_by_key(|endpoint| (endpoint.ejection().failures(), endpoint.load()))
    };
    let chosen = best_of_two.or_else(least_failed)?;
    Some(Pick::chosen(chosen.clone(), others_are_good))
}

/// An instance that was chosen. As long as this lives, it counts as one request in flight there.
#[derive(Debug)]
pub struct Pick {
    endpoint: Arc<Endpoint>,
    begun: Instant,
    /// Where this is the trial of one that was ejected: how often in a row it was.
    trial: Option<u32>,
}

impl Pick {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            endpoint,
            begun: Instant::now(),
            trial: None,
        }
    }

    /// Where nobody else is good, all have what a request needs, and none is on trial.
    fn chosen(endpoint: Arc<Endpoint>, others_are_good: bool) -> Self {
        let mut pick = Self::new(endpoint);
        if others_are_good {
            let mut ejection = pick.endpoint.ejection();
            let failures = ejection.failures();
            let trial = ejection.begin_trial(pick.begun).then_some(failures);
            drop(ejection);
            pick.trial = trial;
        }
        pick
    }

    /// Where this request is to show whether an instance that was ejected answers again: how often in a row it was
    /// ejected, which is once at least. There are others that answer, so it need not be waited for.
    pub fn trial(&self) -> Option<u32> {
        self.trial
    }

    /// Tells what a call came to. It decides who is picked next.
    pub fn report(&self, outcome: Outcome) {
        self.endpoint.report(outcome, self.begun);
    }
}

impl Clone for Pick {
    /// One more request in flight there.
    fn clone(&self) -> Self {
        Self::new(self.endpoint.clone())
    }
}

impl Deref for Pick {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.endpoint.instance
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.trial.is_some() {
            self.endpoint.ejection().end_trial();
        }
    }
}
