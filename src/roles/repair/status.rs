//! [`Status`]: how a repair stands, for the log and for `GET /health`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tracing::{debug, info, warn};

/// Shared by the task, which sets it, and by the handler, which tells.
#[derive(Debug)]
pub(in crate::roles) struct Status {
    /// The list that is rebuilt, for people.
    list: &'static str,
    state: Mutex<State>,
    put_back: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was asked yet.
    Starting,
    /// The engine loses nothing.
    NotNeeded,
    /// It may have lost something; what has to come first.
    Waiting(String),
    Comparing,
    /// The last try to compare failed: why.
    Failing(String),
    /// Nothing is missing, as far as can be known.
    Complete,
}

impl Status {
    pub(in crate::roles) fn of(list: &'static str) -> Self {
        Self {
            list,
            state: Mutex::new(State::Starting),
            put_back: AtomicU64::new(0),
        }
    }

    pub(super) fn put_back(&self, messages: u64) {
        self.put_back.fetch_add(messages, Ordering::Relaxed);
    }

    /// How many were put back since the start, by this instance.
    pub(super) fn all_put_back(&self) -> u64 {
        self.put_back.load(Ordering::Relaxed)
    }

    pub(super) fn not_needed(&self) {
        *self.state() = State::NotNeeded;
    }

    /// It waits for this.
    pub(super) fn waiting(&self, reason: String) {
        let mut state = self.state();
        if !matches!(*state, State::Failing(_)) {
            *state = State::Waiting(reason);
        }
    }

    /// A comparison begins, for this reason; said where it is not one that is `again` tried.
    pub(super) fn comparing(&self, reason: &str, again: bool) {
        if again {
            debug!(list = self.list, reason, "comparing the two lists again");
        } else {
            info!(
                list = self.list,
                reason, "comparing the two lists, to put back what is missing"
            );
        }
        let mut state = self.state();
        // A failure stays to be seen until it works.
        if !matches!(*state, State::Failing(_)) {
            *state = State::Comparing;
        }
    }

    /// A try failed. Said when it is the first after one that did not.
    pub(super) fn failed(&self, reason: String) {
        let mut state = self.state();
        if matches!(*state, State::Failing(_)) {
            debug!(list = self.list, reason, "still cannot compare the lists");
        } else {
            warn!(
                list = self.list,
                reason, "cannot compare the two lists; trying again until it works"
            );
        }
        *state = State::Failing(reason);
    }

    /// Nothing is missing any more.
    pub(super) fn complete(&self) {
        *self.state() = State::Complete;
    }

    /// The state, for `GET /health`. The count is since the start, of this instance alone.
    pub(in crate::roles) fn details(&self) -> Value {
        let state = self.state();
        let (word, reason) = match &*state {
            State::Starting => ("starting", None),
            State::NotNeeded => ("not_needed", None),
            State::Waiting(reason) => ("waiting", Some(reason)),
            State::Comparing => ("comparing", None),
            State::Failing(reason) => ("failing", Some(reason)),
            State::Complete => ("complete", None),
        };
        json!({ "state": word, "reason": reason, "put_back": self.all_put_back() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
