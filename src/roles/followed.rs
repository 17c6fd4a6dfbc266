//! [`Followed`]: the engine that a role uses, which is the one that the settings name now.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::cli::InstanceOptions;
use crate::config::{self, EngineKeys, EngineSettings, Follower, Report};
use crate::engine::{Engine, Engines, LogStore, Mailbox, Unavailable};
use crate::http::health::Health;
use crate::wait::{NotYet, Wait};

/// The log store, as a role has it by the settings.
pub(super) const LOG_STORE: Part<dyn LogStore> = Part {
    what: "log store",
    keys: config::LOG,
    connect: |engines, at, _| engines.log(&at.cluster_name, &at.object_name, &at.members).boxed(),
};

/// The mailbox, as a role has it by the settings.
pub(super) const MAILBOX: Part<dyn Mailbox> = Part {
    what: "mailbox",
    keys: config::MAILBOX,
    connect: |engines, at, role| {
        engines
            .mailbox(&at.cluster_name, &at.object_name, &at.members, role)
            .boxed()
    },
};

/// Begins to connect.
type Connect<T> = for<'a> fn(&'a Engines, &'a EngineSettings, &'a str) -> BoxFuture<'a, anyhow::Result<Arc<T>>>;

/// What a role uses of an engine.
pub(super) struct Part<T: ?Sized> {
    /// What it is to the role, for the log.
    what: &'static str,
    /// Which settings name it.
    keys: EngineKeys,
    /// Begins to connect to the one that these name, for the role of this name.
    connect: Connect<T>,
}

/// An engine that was opened, and is replaced when the settings name another. Who is at work with one works on with it.
///
/// The next one is connected first, and takes over once it can be reached: until then the last one stays in use.
pub(super) struct Followed<T: ?Sized> {
    named: watch::Receiver<Named<T>>,
    report: Arc<Report>,
    _follower: JoinSet<()>,
}

/// What the settings name.
pub(super) struct Named<T: ?Sized> {
    /// The one to use.
    pub(super) current: Arc<T>,
    /// The one that is to take over, while it cannot be reached yet.
    pub(super) next: Option<Arc<T>>,
}

impl<T: ?Sized> Named<T> {
    pub(super) fn new(current: Arc<T>) -> Self {
        Self { current, next: None }
    }
}

impl<T: Engine + ?Sized + 'static> Part<T> {
    /// Waits for the settings, and for the engine that they name, at the members that `options` give, if any. Where they
    /// are changed meanwhile, it waits for the other one. `health` tells what it waits for.
    ///
    /// # Errors
    /// When the time is up, or where what the settings name cannot be an engine.
    pub(super) async fn open(
        self,
        role: &'static str,
        engines: Engines,
        options: &InstanceOptions,
        health: &Health,
    ) -> anyhow::Result<Followed<T>> {
        let settings = engines.settings()?;
        let wait = wait(options.start.wait, health);
        health.waiting(format!("waiting for {}", settings.describe()));
        let given = options.members();
        let ready_key = &options.start.ready_key;
        let found = self.keys.wait_for(&*settings, ready_key, &wait, given).await?;
        let mut follower = Follower::new(settings, &self.keys, given.is_none(), found.clone());
        let (in_use, engine) = self.reach(role, &engines, found, &mut follower, &wait, health).await?;
        self.say(role, "opened", &*engine);
        let (publish, named) = watch::channel(Named::new(engine));
        let report = follower.report();
        let mover = Mover {
            part: self,
            role,
            engines,
            follower,
            in_use,
            publish,
        };
        let mut task = JoinSet::new();
        task.spawn(mover.run());
        Ok(Followed {
            named,
            report,
            _follower: task,
        })
    }

    /// Waits for the engine that `named` names, or for the one that the settings name meanwhile.
    async fn reach(
        &self,
        role: &str,
        engines: &Engines,
        mut named: EngineSettings,
        follower: &mut Follower,
        wait: &Wait<'_>,
        health: &Health,
    ) -> anyhow::Result<(EngineSettings, Arc<T>)> {
        loop {
            let engine = (self.connect)(engines, &named, role).await?;
            health.waiting(format!("waiting for {}", engine.describe()));
            tokio::select! {
                reached = reach(&*engine, wait) => {
                    reached?;
                    return Ok((named, engine));
                }
                newer = follower.changed() => named = newer,
            }
        }
    }

    fn say(&self, role: &str, done: &str, engine: &T) {
        let (what, name) = (self.what, engine.object_name());
        info!(role, engine = engine.describe(), name, "{done} the {what}");
    }
}

impl<T: Engine + ?Sized + 'static> Followed<T> {
    /// One that stays.
    pub(super) fn fixed(engine: Arc<T>) -> Self {
        Self {
            named: watch::channel(Named::new(engine)).1,
            report: Arc::default(),
            _follower: JoinSet::new(),
        }
    }

    /// The one to use now.
    pub(super) fn now(&self) -> Arc<T> {
        self.named.borrow().current.clone()
    }

    /// What the settings name, and what they will.
    pub(super) fn named(&self) -> watch::Receiver<Named<T>> {
        self.named.clone()
    }

    /// The engine, and how its settings stand, as `GET /health` shows them.
    pub(super) fn details(&self) -> Value {
        let problems = self.report.problems().into_iter();
        let problems: Map<String, Value> = problems.map(|(key, why)| (key.to_owned(), why.into())).collect();
        let named = self.named.borrow();
        let mut details = details(&*named.current);
        details.insert("next".to_owned(), named.next.as_deref().map(self::details).into());
        details.insert(
            "settings".to_owned(),
            json!({ "refused": self.report.refused(), "not_in_force": problems }),
        );
        details.into()
    }
}

/// What a role's handler has of an engine: nothing before it is opened and after it is closed.
pub(super) struct Slot<T: ?Sized>(RwLock<Option<Followed<T>>>);

impl<T: ?Sized> Default for Slot<T> {
    fn default() -> Self {
        Self(RwLock::new(None))
    }
}

impl<T: Engine + ?Sized + 'static> Slot<T> {
    pub(super) fn open(&self, followed: Followed<T>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(followed);
    }

    /// Nothing holds the engine any more but who is at work with it.
    pub(super) fn close(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// [`Followed::now`]
    pub(super) fn now(&self) -> Option<Arc<T>> {
        self.read().as_ref().map(Followed::now)
    }

    /// [`Followed::details`]
    pub(super) fn details(&self) -> Option<Value> {
        self.read().as_ref().map(Followed::details)
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Followed<T>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that moves from one engine to the next.
struct Mover<T: ?Sized> {
    part: Part<T>,
    role: &'static str,
    engines: Engines,
    follower: Follower,
    in_use: EngineSettings,
    publish: watch::Sender<Named<T>>,
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
        let engine = match (self.part.connect)(&self.engines, &wanted, self.role).await {
            Ok(engine) => engine,
            Err(error) => {
                let (role, what) = (self.role, self.part.what);
                let error = format!("{error:#}");
                warn!(role, error, settings = ?wanted, "cannot use the {what} that the settings name; going on with the last one");
                return None;
            }
        };
        self.publish.send_modify(|named| named.next = Some(engine.clone()));
        let wait = Wait::without_limit();
        tokio::select! {
            newer = self.follower.changed() => {
                self.publish.send_modify(|named| named.next = None);
                Some(newer)
            }
            reached = reach(&*engine, &wait) => {
                if reached.is_ok() {
                    self.part.say(self.role, "moved to", &*engine);
                    self.in_use = wanted;
                    self.publish.send_replace(Named::new(engine));
                }
                None
            }
        }
    }
}

/// The wait of a start that may take `limit`. `health` tells what is waited for, and what answered last.
fn wait(limit: Duration, health: &Health) -> Wait<'_> {
    Wait::up_to(limit).telling(|not_yet| health.waiting(format!("waiting for {}: {}", not_yet.subject, not_yet.answer)))
}

/// Waits until the engine can be reached.
///
/// # Errors
/// When the time is up: what was waited for, what answered, what to do.
async fn reach<T: Engine + ?Sized>(engine: &T, wait: &Wait<'_>) -> anyhow::Result<()> {
    let not_yet = |error: Unavailable| NotYet {
        subject: engine.describe(),
        answer: format!("{:#}", error.cause),
        advice: engine.advice(),
    };
    wait.until(async || engine.ready().await.map_err(not_yet)).await
}

/// The engine as `GET /health` shows it.
fn details<T: Engine + ?Sized>(engine: &T) -> Map<String, Value> {
    let away = engine.check().err().map(|error| format!("{:#}", error.cause));
    let entries = [
        ("engine", engine.describe().into()),
        ("name", engine.object_name().into()),
        ("reachable", away.is_none().into()),
        ("reason", away.into()),
        ("warning", engine.warning().into()),
    ];
    let entries = entries.map(|(name, value)| (name.to_owned(), value));
    entries.into_iter().collect()
}
