//! [`Followed`]: the engine that a role uses, which is the one that the settings name now.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::opening;
use crate::cli::InstanceOptions;
use crate::config::{EngineKeys, EngineSettings, Follower, Report};
use crate::engine::{Engine, Settings};
use crate::http::health::Health;
use crate::wait::Wait;

/// How an engine is had.
pub(super) struct Opening<T: ?Sized> {
    /// The role's name, for the log.
    pub(super) role: &'static str,
    /// What the engine is to the role, for the log: `log store`.
    pub(super) what: &'static str,
    /// Which settings name it.
    pub(super) keys: EngineKeys,
    /// Begins to connect to the one that these name.
    pub(super) connect: fn(&EngineSettings) -> anyhow::Result<Arc<T>>,
}

/// An engine that was opened, and is replaced when the settings name another. Who is at work with one works on with it.
///
/// The next one is connected first, and takes over once it can be reached: until then the last one stays in use.
pub(super) struct Followed<T: ?Sized> {
    current: watch::Receiver<Arc<T>>,
    /// The one that is to take over.
    next: Arc<Mutex<Option<Arc<T>>>>,
    report: Arc<Report>,
    _follower: JoinSet<()>,
}

impl<T: Engine + ?Sized + 'static> Opening<T> {
    /// Waits for the settings, and for the engine that they name, at the members that `options` give, if any. Where they
    /// are changed meanwhile, it waits for the other one. `health` tells what it waits for.
    ///
    /// # Errors
    /// When the time is up, or where what the settings name cannot be an engine.
    pub(super) async fn open(
        self,
        settings: Arc<dyn Settings>,
        options: &InstanceOptions,
        health: &Health,
    ) -> anyhow::Result<Followed<T>> {
        let wait = opening::wait(options.start.wait, health);
        health.waiting(format!("waiting for {}", settings.describe()));
        let given = options.hazelcast.as_deref();
        let found = self
            .keys
            .wait_for(&*settings, &options.start.ready_key, &wait, given)
            .await?;
        let mut follower = Follower::new(settings, &self.keys, given.is_none(), found.clone());
        let (settings, engine) = self.reach(found, &mut follower, &wait, health).await?;
        self.say("opened", &*engine);
        Ok(Followed::start(self, follower, settings, engine))
    }

    /// Waits for the engine that `named` names, or for the one that the settings name meanwhile.
    async fn reach(
        &self,
        mut named: EngineSettings,
        follower: &mut Follower,
        wait: &Wait<'_>,
        health: &Health,
    ) -> anyhow::Result<(EngineSettings, Arc<T>)> {
        loop {
            let engine = (self.connect)(&named)?;
            health.waiting(format!("waiting for {}", engine.describe()));
            tokio::select! {
                reached = opening::reach(&*engine, wait) => {
                    reached?;
                    return Ok((named, engine));
                }
                newer = follower.changed() => named = newer,
            }
        }
    }

    fn say(&self, done: &str, engine: &T) {
        let (role, what, name) = (self.role, self.what, engine.object_name());
        info!(role, engine = engine.describe(), name, "{done} the {what}");
    }
}

impl<T: Engine + ?Sized + 'static> Followed<T> {
    /// One that stays.
    pub(super) fn fixed(engine: Arc<T>) -> Self {
        let (_, current) = watch::channel(engine);
        Self {
            current,
            next: Arc::default(),
            report: Arc::default(),
            _follower: JoinSet::new(),
        }
    }

    fn start(opening: Opening<T>, follower: Follower, settings: EngineSettings, engine: Arc<T>) -> Self {
        let (publish, current) = watch::channel(engine);
        let (next, report) = (Arc::default(), follower.report());
        let mut task = JoinSet::new();
        let mover = Mover {
            opening,
            follower,
            in_use: settings,
            publish,
            next: Arc::clone(&next),
        };
        task.spawn(mover.run());
        Self {
            current,
            next,
            report,
            _follower: task,
        }
    }

    /// The one to use now.
    pub(super) fn now(&self) -> Arc<T> {
        self.current.borrow().clone()
    }

    /// The one to use, and those that come after it.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<T>> {
        self.current.clone()
    }

    /// The engine, and how its settings stand, as `GET /health` shows them.
    pub(super) fn details(&self) -> Value {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let problems = self.report.problems().into_iter();
        let problems: Map<String, Value> = problems.map(|(key, why)| (key.to_owned(), why.into())).collect();
        let mut details = opening::details(&*self.now());
        details.insert("next".to_owned(), next.map(|next| opening::details(&*next)).into());
        details.insert(
            "settings".to_owned(),
            json!({ "refused": self.report.refused(), "not_in_force": problems }),
        );
        details.into()
    }
}

/// The task that moves from one engine to the next.
struct Mover<T: ?Sized> {
    opening: Opening<T>,
    follower: Follower,
    in_use: EngineSettings,
    publish: watch::Sender<Arc<T>>,
    next: Arc<Mutex<Option<Arc<T>>>>,
}

impl<T: Engine + ?Sized + 'static> Mover<T> {
    async fn run(mut self) {
        loop {
            let mut wanted = self.follower.changed().await;
            // Changed again before the engine is there: the newer ones count.
            while let Some(newer) = self.move_to(wanted).await {
                wanted = newer;
            }
        }
    }

    /// Moves to the engine that `wanted` names, or returns the settings that came in between.
    async fn move_to(&mut self, wanted: EngineSettings) -> Option<EngineSettings> {
        if wanted == self.in_use {
            return None;
        }
        let engine = match (self.opening.connect)(&wanted) {
            Ok(engine) => engine,
            Err(error) => {
                let what = self.opening.what;
                warn!(error = format!("{error:#}"), settings = ?wanted, "cannot use the {what} that the settings name; going on with the last one");
                return None;
            }
        };
        self.set_next(Some(engine.clone()));
        let wait = Wait::without_limit();
        let newer = tokio::select! {
            newer = self.follower.changed() => Some(newer),
            reached = opening::reach(&*engine, &wait) => {
                if reached.is_ok() {
                    self.opening.say("moved to", &*engine);
                    self.publish.send_replace(engine);
                    self.in_use = wanted;
                }
                None
            }
        };
        self.set_next(None);
        newer
    }

    fn set_next(&self, next: Option<Arc<T>>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }
}
