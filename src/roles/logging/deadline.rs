//! How long the log store may take.

use std::time::Duration;

use anyhow::anyhow;

use crate::engine::{self, LogStore, Unavailable};

/// For all that one request asks of the log store, or for one page of a list. A client is to have its 503 within 5 s.
pub(super) const STORE_DEADLINE: Duration = Duration::from_millis(4500);

/// What the store answers, or that it does not.
pub(super) async fn within_deadline<T>(store: &dyn LogStore, answer: impl Future<Output = T>) -> engine::Result<T> {
    tokio::time::timeout(STORE_DEADLINE, answer)
        .await
        .map_err(|_| no_answer(store))
}

/// That the store did not answer within [`STORE_DEADLINE`].
pub(super) fn no_answer(store: &dyn LogStore) -> Unavailable {
    Unavailable {
        engine: store.describe(),
        cause: anyhow!("no answer within {STORE_DEADLINE:?}"),
    }
}
