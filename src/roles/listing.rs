//! What the roles that list an engine's entries share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

/// The entries that one list left out because they cannot be read. Said once, when the list ends, however it ends.
pub(super) struct LeftOut {
    /// What the list is of, for people: `the log`.
    list: &'static str,
    here: u64,
    /// Those of all lists since the start.
    total: Arc<AtomicU64>,
}

impl LeftOut {
    /// None so far of `list`; `total` counts those of all lists.
    pub(super) fn of(list: &'static str, total: Arc<AtomicU64>) -> Self {
        Self { list, here: 0, total }
    }

    /// So many more.
    pub(super) fn count(&mut self, entries: u64) {
        self.here = self.here.saturating_add(entries);
        self.total.fetch_add(entries, Ordering::Relaxed);
    }
}

impl Drop for LeftOut {
    fn drop(&mut self) {
        if self.here > 0 {
            warn!(
                skipped = self.here,
                "left entries out of a list of {}: other clients wrote them, and they cannot be read here", self.list
            );
        }
    }
}
