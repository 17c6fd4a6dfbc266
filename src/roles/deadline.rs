//! An engine's answer, or that it did not come in time.

use std::time::Duration;

use anyhow::anyhow;

use crate::engine::{self, Engine, Unavailable};

/// How long an engine may take for all that one request asks of it, for one page of a list, or for one step of a
/// delivery. A client is to have its 503 within 5 s.
pub(super) const ENGINE_DEADLINE: Duration = Duration::from_millis(4300);

/// What the engine answers, or that it does not within [`ENGINE_DEADLINE`].
pub(super) async fn within<E: Engine + ?Sized, T>(engine: &E, answer: impl Future<Output = T>) -> engine::Result<T> {
    let answer = tokio::time::timeout(ENGINE_DEADLINE, answer).await;
    answer.map_err(|_| no_answer(engine, ENGINE_DEADLINE))
}

/// That the engine did not answer within `limit`.
pub(super) fn no_answer<E: Engine + ?Sized>(engine: &E, limit: Duration) -> Unavailable {
    Unavailable {
        engine: engine.describe(),
        cause: anyhow!("no answer within {limit:?}"),
    }
}
