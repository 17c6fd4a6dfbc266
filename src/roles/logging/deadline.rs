//! How long the log store may take.

use std::time::Duration;

use crate::engine::{self, LogStore, Unavailable};
use crate::roles::deadline;

/// For all that one request asks of the log store, or for one page of a list. A client is to have its 503 within 5 s.
pub(super) const STORE_DEADLINE: Duration = Duration::from_millis(4500);

/// What the store answers, or that it does not.
pub(super) async fn within_deadline<T>(store: &dyn LogStore, answer: impl Future<Output = T>) -> engine::Result<T> {
    deadline::within(STORE_DEADLINE, || store.describe(), answer).await
}

/// That the store did not answer within [`STORE_DEADLINE`].
pub(super) fn no_answer(store: &dyn LogStore) -> Unavailable {
    deadline::no_answer(STORE_DEADLINE, store.describe())
}
