//! [`ClearedAt`]: when the log was cleared last, so that what was cleared does not come back.
//!
//! The delivered messages outlive a `DELETE /logs`, and a log that is rebuilt from them must not have those that it cleared.
//! So the time of the last one is kept in the settings, which no log store takes with it, and noted there before anything
//! is cleared. Settings may lose what they have, too: then whoever knew the time writes it back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::engine::{self, Held, Settings, Unavailable};
use crate::roles::repair::posted_at;

/// The key in the settings. Its value is a time in RFC 3339, UTC, with milliseconds.
pub(super) const KEY: &str = "logs_cleared_at";

/// How long the settings may take: there has to be time left to clear the log within that of a request.
const LIMIT: Duration = Duration::from_millis(2000);

/// The time of the last `DELETE /logs`, in the settings that all instances share.
#[derive(Clone)]
pub(super) struct ClearedAt {
    settings: Arc<dyn Settings>,
    /// What they held last, as far as this process knows.
    known: Arc<Mutex<Option<SystemTime>>>,
}

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
        Self {
            settings,
            known: Arc::default(),
        }
    }

    /// Follows the time, and writes it back where the settings have none any more, until what this returns is dropped.
    pub(super) fn keep(&self) -> JoinSet<()> {
        let mut keeper = JoinSet::new();
        keeper.spawn(self.clone().follow());
        keeper
    }

    async fn follow(self) {
        let mut seen = self.settings.watch(KEY);
        while let Some(held) = seen.next().await {
            match held {
                Ok(Held::Value(value)) => self.learn(time(&value)),
                Ok(Held::Missing) => self.write_back().await,
                // Who needs the time says what is wrong with it.
                Ok(Held::Unreadable(_)) | Err(_) => {}
            }
        }
    }

    /// Writes the time that is known where there is none. What another one wrote meanwhile stays.
    async fn write_back(&self) {
        let known = *self.known();
        let Some(value) = known.map(text) else {
            return;
        };
        match self.in_time(self.settings.put_if_absent(KEY, &value)).await {
            Ok(None) => warn!(
                key = KEY,
                value,
                "{} does not know any more when the log was cleared; wrote it back",
                self.settings.describe()
            ),
            Ok(Some(_)) => {}
            Err(error) => debug!(key = KEY, value, %error, "cannot write back when the log was cleared; trying again"),
        }
    }

    /// What is held last is what counts, also where somebody put an earlier time right.
    fn learn(&self, held: Option<SystemTime>) {
        let mut known = self.known();
        if held.is_some() && *known != held {
            debug!(key = KEY, value = held.map(text), "learned when the log was cleared");
            *known = held;
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<SystemTime>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that all that was posted until now is cleared.
    ///
    /// # Errors
    /// Where the settings are away: then nothing may be cleared, since it could come back.
    pub(super) async fn note(&self) -> engine::Result<()> {
        let settings = &*self.settings;
        let note = async {
            let now = SystemTime::now();
            let noted = match settings.get(KEY).await? {
                Held::Value(value) => time(&value),
                Held::Missing => *self.known(),
                Held::Unreadable(_) => None,
            };
            // Another host's clock may be ahead.
            let value = text(noted.map_or(now, |noted| noted.max(now)));
            settings.put(KEY, &value).await?;
            self.learn(time(&value));
            Ok(())
        };
        self.in_time(note).await
    }

    /// What was cleared so far; what was known last, where the settings have lost it.
    ///
    /// # Errors
    /// Where the settings are away, or what they hold is no time.
    pub(super) async fn read(&self) -> anyhow::Result<Cleared> {
        let cleared = match self.in_time(self.settings.get(KEY)).await? {
            Held::Missing => *self.known(),
            Held::Value(value) => {
                let at = time(&value).with_context(|| {
                    format!("the value {value:?} of the key {KEY} is no time in RFC 3339: correct it, or DELETE /logs")
                })?;
                self.learn(Some(at));
                Some(at)
            }
            Held::Unreadable(why) => return Err(anyhow!("the value of the key {KEY} is {why}")),
        };
        let since_1970 = cleared.map(|at| at.duration_since(SystemTime::UNIX_EPOCH));
        Ok(Cleared(since_1970.transpose()?))
    }

    async fn in_time<T>(&self, call: impl Future<Output = engine::Result<T>>) -> engine::Result<T> {
        let late = |_| Unavailable {
            engine: self.settings.describe(),
            cause: anyhow!("no answer within {LIMIT:?}"),
        };
        timeout(LIMIT, call).await.map_err(late)?
    }
}

fn time(value: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(value.trim()).ok()
}

fn text(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
