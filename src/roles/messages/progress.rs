//! [`Progress`]: what a deliverer has done and how it does, for the log and for `GET /health`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Items that cannot be read are worth one line in the log per this interval.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// Shared by the deliverer, which counts, and by the handler, which tells.
#[derive(Debug, Default)]
pub(super) struct Progress {
    delivered: AtomicU64,
    rejected: AtomicU64,
    rejection_said: Mutex<Option<Instant>>,
    trouble: Mutex<Option<Trouble>>,
}

/// Why rounds fail, and since when.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    reason: String,
}

impl Progress {
    /// So many messages more were delivered, and taken out of the mailbox.
    pub(super) fn delivered(&self, messages: usize) {
        let messages = u64::try_from(messages).unwrap_or(u64::MAX);
        self.delivered.fetch_add(messages, Ordering::Relaxed);
    }

    /// One more item was set aside, for this reason, and taken out of the mailbox. Said at most once per [`SAY_EVERY`].
    pub(super) fn rejected(&self, reason: &str) {
        let rejected = self.rejected.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut said = self.rejection_said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|at| at.elapsed() < SAY_EVERY) {
            debug!(reason, rejected, "set aside an item that cannot be read");
        } else {
            warn!(reason, rejected, "set aside an item that cannot be read");
            *said = Some(Instant::now());
        }
    }

    /// A round has failed. Said when it is the first after one that went well.
    pub(super) fn failed(&self, reason: String) {
        let mut trouble = self.trouble();
        match trouble.as_mut() {
            Some(trouble) => trouble.reason = reason,
            None => {
                warn!(reason, "cannot deliver; trying again until it works");
                let since = Instant::now();
                *trouble = Some(Trouble { since, reason });
            }
        }
    }

    /// A round went well. Said when it is the first after one that failed.
    pub(super) fn went_well(&self) {
        if let Some(trouble) = self.trouble().take() {
            let after = format!("{:.1}s", trouble.since.elapsed().as_secs_f64());
            info!(after, "delivering again");
        }
    }

    /// The state, for `GET /health`. Counts are since the start, of this instance alone.
    pub(super) fn details(&self) -> Value {
        let trouble = self.trouble();
        json!({
            "delivered_messages": self.delivered.load(Ordering::Relaxed),
            "rejected_items": self.rejected.load(Ordering::Relaxed),
            "failing_for_seconds": trouble.as_ref().map(|trouble| trouble.since.elapsed().as_secs()),
            "reason": trouble.as_ref().map(|trouble| &trouble.reason),
        })
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
