//! [`ClearedAt`]: when the log was cleared last, so that what was cleared does not come back.
//!
//! The delivered messages outlive a `DELETE /logs`, and a log that is rebuilt from them must not have those that it cleared.
//! So the time of the last one is kept in the settings, which no log store takes with it, and noted there before anything
//! is cleared.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use tokio::time::timeout;

use crate::engine::{self, Held, Settings, Unavailable};
use crate::roles::repair::posted_at;

/// The key in the settings. Its value is a time in RFC 3339, UTC, with milliseconds.
pub(super) const KEY: &str = "logs_cleared_at";

/// How long the settings may take: there has to be time left to clear the log within that of a request.
const LIMIT: Duration = Duration::from_millis(2000);

/// The time of the last `DELETE /logs`, in the settings that all instances share.
#[derive(Clone)]
pub(super) struct ClearedAt(Arc<dyn Settings>);

/// What was cleared, up to a time since 1970; `None` where nothing ever was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cleared(Option<Duration>);

impl Cleared {
    /// Whether the message of this identifier is not to come back. One that does not say when it was posted may have been
    /// cleared.
    pub(super) fn has(self, identifier: &str) -> bool {
        self.0
            .is_some_and(|cleared| posted_at(identifier).is_none_or(|posted| posted <= cleared))
    }
}

impl ClearedAt {
    pub(super) fn new(settings: Arc<dyn Settings>) -> Self {
        Self(settings)
    }

    /// Notes that all that was posted until now is cleared.
    ///
    /// # Errors
    /// Where the settings are away: then nothing may be cleared, since it could come back.
    pub(super) async fn note(&self) -> engine::Result<()> {
        let settings = &*self.0;
        let note = async {
            let now = SystemTime::now();
            // Another host's clock may be ahead.
            let latest = match settings.get(KEY).await? {
                Held::Value(value) => time(&value).map_or(now, |noted| noted.max(now)),
                Held::Missing | Held::Unreadable(_) => now,
            };
            settings
                .put(KEY, &humantime::format_rfc3339_millis(latest).to_string())
                .await
        };
        self.in_time(note).await
    }

    /// What was cleared so far.
    ///
    /// # Errors
    /// Where the settings are away, or what they hold is no time.
    pub(super) async fn read(&self) -> anyhow::Result<Cleared> {
        let since_1970 = |value: String| {
            let at = time(&value).with_context(|| {
                format!("the value {value:?} of the key {KEY} is no time in RFC 3339: correct it, or DELETE /logs")
            })?;
            Ok(at.duration_since(SystemTime::UNIX_EPOCH)?)
        };
        match self.in_time(self.0.get(KEY)).await? {
            Held::Missing => Ok(Cleared(None)),
            Held::Value(value) => since_1970(value).map(Some).map(Cleared),
            Held::Unreadable(why) => Err(anyhow!("the value of the key {KEY} is {why}")),
        }
    }

    async fn in_time<T>(&self, call: impl Future<Output = engine::Result<T>>) -> engine::Result<T> {
        let late = |_| Unavailable {
            engine: self.0.describe(),
            cause: anyhow!("no answer within {LIMIT:?}"),
        };
        timeout(LIMIT, call).await.map_err(late)?
    }
}

fn time(value: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(value.trim()).ok()
}
