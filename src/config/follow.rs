//! [`Follower`]: the settings of an engine as they change, while a role runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt, select_all};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::{EngineKeys, EngineSettings, Key, Kind, parse_members, parse_name};
use crate::engine::{Held, Result, Settings};

/// A change counts once nothing else has changed for so long: who changes several keys means them together.
const SETTLE: Duration = Duration::from_millis(300);

/// A change counts after so long, whatever else changes.
const SETTLE_LIMIT: Duration = Duration::from_millis(1500);

/// Follows the keys of one engine.
///
/// A value that cannot be used is refused, and that of before stays in force; so it does where a key is deleted, and where
/// the settings cannot be read. Each of that is said once, and is in the [`Report`].
pub struct Follower {
    keys: Vec<KeyState>,
    seen: BoxStream<'static, (usize, Result<Held>)>,
    /// Where the settings are, for people.
    place: String,
    /// What the keys say.
    wanted: EngineSettings,
    /// What [`Follower::changed`] has told.
    told: EngineSettings,
    unsettled: Option<Unsettled>,
    report: Arc<Report>,
}

/// One key, and how it stands.
struct KeyState {
    key: Key,
    part: Part,
    /// `None` before the first answer.
    last: Option<Held>,
    is_away: bool,
}

/// Which part of the settings a key has.
#[derive(Clone, Copy)]
enum Part {
    ClusterName,
    ObjectName,
    Members,
}

/// A change that does not count yet.
struct Unsettled {
    since: Instant,
    settles_at: Instant,
}

impl Follower {
    /// Begins to follow `keys`, whose values were `current` a moment ago. Where the members are given on the command line,
    /// `follow_members` is false.
    pub fn new(settings: Arc<dyn Settings>, keys: &EngineKeys, follow_members: bool, current: EngineSettings) -> Self {
        let state = |key, part| KeyState {
            key,
            part,
            last: None,
            is_away: false,
        };
        let members = follow_members.then(|| state(keys.members, Part::Members));
        let names = [
            state(keys.cluster_name, Part::ClusterName),
            state(keys.object_name, Part::ObjectName),
        ];
        let keys: Vec<KeyState> = names.into_iter().chain(members).collect();
        let watches = keys.iter().enumerate().map(|(index, state)| {
            let key = state.key.name;
            watch(settings.clone(), key).map(move |seen| (index, seen)).boxed()
        });
        Self {
            seen: select_all(watches).boxed(),
            keys,
            place: settings.describe(),
            wanted: current.clone(),
            told: current,
            unsettled: None,
            report: Arc::default(),
        }
    }

    /// What became of the values that were seen, for `GET /health`.
    pub fn report(&self) -> Arc<Report> {
        self.report.clone()
    }

    /// Waits until the settings are others than it told last. Loses nothing when it is cancelled.
    pub async fn changed(&mut self) -> EngineSettings {
        loop {
            let settles_at = self.unsettled.as_ref().map(|unsettled| unsettled.settles_at);
            let settled = async {
                match settles_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((index, seen)) = self.seen.next() => self.note(index, seen),
                () = settled => {
                    self.unsettled = None;
                    if self.wanted != self.told {
                        self.told = self.wanted.clone();
                        return self.told.clone();
                    }
                }
            }
        }
    }

    fn note(&mut self, index: usize, seen: Result<Held>) {
        self.note_presence(index, seen.as_ref().err());
        let Some(state) = self.keys.get_mut(index) else {
            return;
        };
        let Ok(seen) = seen else {
            return;
        };
        if state.last.as_ref() == Some(&seen) {
            return;
        }
        let is_first = state.last.is_none();
        let (key, part) = (state.key, state.part);
        state.last = Some(seen.clone());
        match seen {
            Held::Value(value) => self.take(&key, part, &value),
            Held::Unreadable(why) => self.refuse(&key, &format!("its value is {why}")),
            // Members that nobody ever named are those of the default.
            Held::Missing if is_first && key.kind == Kind::Members => {}
            Held::Missing => {
                warn!(
                    key = key.name,
                    "a setting was deleted in {}; going on with its last value", self.place
                );
                self.report.set(&key, "the key was deleted; its last value is in force");
            }
        }
    }

    /// Says once that the settings cannot be read, and once that they can again.
    fn note_presence(&mut self, index: usize, error: Option<&crate::engine::Unavailable>) {
        let was_away = self.is_away();
        if let Some(state) = self.keys.get_mut(index) {
            state.is_away = error.is_some();
        }
        match error {
            Some(error) if !was_away => {
                warn!(%error, "cannot follow the settings; going on with those known last");
            }
            Some(error) => debug!(%error, "still cannot follow the settings"),
            None if was_away && !self.is_away() => info!("the settings can be followed again in {}", self.place),
            None => {}
        }
    }

    fn is_away(&self) -> bool {
        self.keys.iter().any(|state| state.is_away)
    }

    /// Takes a value over, or refuses it.
    fn take(&mut self, key: &Key, part: Part, value: &str) {
        let mut wanted = self.wanted.clone();
        let taken = match part {
            Part::ClusterName => parse_name(value).map(|name| wanted.cluster_name = name),
            Part::ObjectName => parse_name(value).map(|name| wanted.object_name = name),
            Part::Members => parse_members(value).map(|members| wanted.members = members),
        };
        if let Err(why) = taken {
            return self.refuse(key, &format!("{value:?} cannot be used: {why:#}"));
        }
        self.report.clear(key);
        if wanted == self.wanted {
            return;
        }
        info!(key = key.name, value, "a setting was changed in {}", self.place);
        self.wanted = wanted;
        let now = Instant::now();
        let since = self.unsettled.as_ref().map_or(now, |unsettled| unsettled.since);
        self.unsettled = Some(Unsettled {
            since,
            settles_at: (now + SETTLE).min(since + SETTLE_LIMIT),
        });
    }

    fn refuse(&self, key: &Key, why: &str) {
        warn!(
            key = key.name,
            why, "refused a setting in {}; going on with its last value", self.place
        );
        self.report.refused.fetch_add(1, Ordering::Relaxed);
        self.report
            .set(key, &format!("refused: {why}; its last value is in force"));
    }
}

/// The watch of one key, which owns what it asks.
fn watch(settings: Arc<dyn Settings>, key: &'static str) -> BoxStream<'static, Result<Held>> {
    let watch = async_stream::stream! {
        let mut seen = settings.watch(key);
        while let Some(seen) = seen.next().await {
            yield seen;
        }
    };
    watch.boxed()
}

/// What became of the values that a [`Follower`] has seen.
#[derive(Debug, Default)]
pub struct Report {
    refused: AtomicU64,
    problems: Mutex<Vec<(&'static str, String)>>,
}

impl Report {
    /// Values that were refused since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The keys whose value is not the one in force, and why.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        self.locked().clone()
    }

    fn set(&self, key: &Key, problem: &str) {
        let mut problems = self.locked();
        problems.retain(|(name, _)| *name != key.name);
        problems.push((key.name, problem.to_owned()));
    }

    fn clear(&self, key: &Key) {
        self.locked().retain(|(name, _)| *name != key.name);
    }

    fn locked(&self) -> MutexGuard<'_, Vec<(&'static str, String)>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
