//! An engine's answer, or that it did not come in time.

use std::time::Duration;

use anyhow::anyhow;

use crate::engine::{self, Unavailable};

/// What an engine answers, or that it does not within `limit`. `describe` names the engine.
pub(super) async fn within<T>(
    limit: Duration,
    describe: impl FnOnce() -> String,
    answer: impl Future<Output = T>,
) -> engine::Result<T> {
    let answer = tokio::time::timeout(limit, answer).await;
    answer.map_err(|_| no_answer(limit, describe()))
}

/// That this engine did not answer within `limit`.
pub(super) fn no_answer(limit: Duration, engine: String) -> Unavailable {
    Unavailable {
        engine,
        cause: anyhow!("no answer within {limit:?}"),
    }
}
