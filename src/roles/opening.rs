//! What the roles share of how they reach an engine, and of what they tell of it.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::engine::{Engine, Unavailable};
use crate::http::health::Health;
use crate::wait::{NotYet, Wait};

/// The wait of a start that may take `limit`. `health` tells what is waited for, and what answered last.
pub(super) fn wait(limit: Duration, health: &Health) -> Wait<'_> {
    Wait::up_to(limit).telling(|not_yet| health.waiting(format!("waiting for {}: {}", not_yet.subject, not_yet.answer)))
}

/// Waits until the engine can be reached.
///
/// # Errors
/// When the time is up: what was waited for, what answered, what to do.
pub(super) async fn reach<T: Engine + ?Sized>(engine: &T, wait: &Wait<'_>) -> anyhow::Result<()> {
    let not_yet = |error: Unavailable| NotYet {
        subject: engine.describe(),
        answer: format!("{:#}", error.cause),
        advice: engine.advice(),
    };
    wait.until(async || engine.ready().await.map_err(not_yet)).await
}

/// The engine as `GET /health` shows it.
pub(super) fn details<T: Engine + ?Sized>(engine: &T) -> Map<String, Value> {
    let away = engine.check().err().map(|error| format!("{:#}", error.cause));
    let entries = [
        ("engine", engine.describe().into()),
        ("name", engine.object_name().into()),
        ("reachable", away.is_none().into()),
        ("reason", away.into()),
    ];
    entries
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}
