//! [`Registered`]: an instance that stays in the registry, whatever happens to that, until it leaves.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

use crate::engine::{Registration, Registry, Result};

/// How often the registry is asked whether it still knows the instance, and how soon a failed call is tried again.
const BEAT: Duration = Duration::from_secs(1);

/// How soon a failed deregistration is tried again.
const LEAVE_RETRY: Duration = Duration::from_millis(200);

/// An instance in the registry. A task keeps it there, and ends with this value.
///
/// Registering is a loop, not a call: whenever the registry does not know the instance, however that came about, it is
/// registered again. The loop never gives up, and is over before the instance is taken out.
#[derive(Debug)]
pub struct Registered {
    standing: watch::Receiver<bool>,
    leave: oneshot::Sender<Instant>,
    keeper: JoinSet<()>,
}

impl Registered {
    /// Registers the instance, and keeps it registered. Returns at once; [`Registered::first`] waits for the first time.
    ///
    /// Where this is dropped, nothing is taken out: that is [`Registered::deregister`]'s.
    pub fn keep(registry: Arc<dyn Registry>, registration: Registration) -> Self {
        let (stands, standing) = watch::channel(false);
        let (leave, leaving) = oneshot::channel();
        let keeper = Keeper {
            id: registration.id(),
            registry,
            registration,
            stands,
            in_trouble: false,
        };
        let mut keepers = JoinSet::new();
        keepers.spawn(keeper.run(leaving));
        Self {
            standing,
            leave,
            keeper: keepers,
        }
    }

    /// Waits until the instance is registered, at most for `limit`. Whether it is.
    pub async fn first(&self, limit: Duration) -> bool {
        let mut standing = self.standing.clone();
        let registered = standing.wait_for(|stands| *stands);
        matches!(timeout(limit, registered).await, Ok(Ok(_)))
    }

    /// Takes the instance out: tries until that is done, at most for `deadline`. Where it cannot be done, that is logged;
    /// its check then fails, and the registry takes it out by itself.
    pub async fn deregister(mut self, deadline: Duration) {
        // The task ends by itself only where it panicked, and then there is nobody to tell.
        let _ = self.leave.send(Instant::now() + deadline);
        self.keeper.join_next().await;
    }
}

/// The task.
struct Keeper {
    id: String,
    registry: Arc<dyn Registry>,
    registration: Registration,
    /// Whether the registry knew the instance when it answered last.
    stands: watch::Sender<bool>,
    /// Whether the last call failed.
    in_trouble: bool,
}

impl Keeper {
    async fn run(mut self, mut leaving: oneshot::Receiver<Instant>) {
        let deadline = loop {
            let beat = Box::pin(self.beat());
            let (outcome, deadline) = match futures_util::future::select(beat, &mut leaving).await {
                Either::Left((outcome, _)) => (Some(outcome), None),
                // A call that is under way is let finish: cut, it might reach the registry after the deregistration.
                Either::Right((Ok(deadline), beat)) => (timeout_at(deadline, beat).await.ok(), Some(deadline)),
                Either::Right((Err(_), _)) => return,
            };
            if let Some(outcome) = outcome {
                self.note(outcome);
            }
            if let Some(deadline) = deadline {
                break deadline;
            }
            tokio::select! {
                () = sleep(BEAT) => {}
                deadline = &mut leaving => match deadline {
                    Ok(deadline) => break deadline,
                    Err(_) => return,
                },
            }
        };
        self.leave(deadline).await;
    }

    /// Registers the instance where the registry does not know it.
    async fn beat(&self) -> Result<()> {
        if *self.stands.borrow() {
            if self.registry.is_registered(&self.registration).await? {
                return Ok(());
            }
            self.stands.send_replace(false);
            warn!(
                id = self.id,
                "{} does not know this instance any more as it registered; registering it again",
                self.registry.describe()
            );
        }
        self.registry.register(&self.registration).await?;
        self.stands.send_replace(true);
        info!(id = self.id, "registered in {}", self.registry.describe());
        Ok(())
    }

    /// Says once that calls fail, and once that they do not any more.
    fn note(&mut self, outcome: Result<()>) {
        match outcome {
            Ok(()) if self.in_trouble => {
                self.in_trouble = false;
                info!(id = self.id, "{} answers again", self.registry.describe());
            }
            Err(error) if !self.in_trouble => {
                self.in_trouble = true;
                warn!(id = self.id, %error, "cannot tell that this instance is registered; trying until it is");
            }
            _ => {}
        }
    }

    async fn leave(&self, deadline: Instant) {
        let mut last = None;
        let tries = async {
            while let Err(error) = self.registry.deregister(&self.id).await {
                last = Some(error.to_string());
                sleep(LEAVE_RETRY).await;
            }
        };
        match timeout_at(deadline, tries).await {
            Ok(()) => info!(id = self.id, "deregistered from {}", self.registry.describe()),
            Err(_) => warn!(
                id = self.id,
                error = last.as_deref().unwrap_or("no answer in time"),
                "could not deregister from {}; its health check will",
                self.registry.describe()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::SystemTime;

    use anyhow::anyhow;
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use futures_util::stream::BoxStream;

    use super::*;
    use crate::engine::{Instance, Listed, Unavailable};

    const SECOND: Duration = Duration::from_secs(1);

    /// A registry that does what a test tells it to.
    #[derive(Default)]
    struct Scripted {
        state: Mutex<State>,
    }

    #[derive(Default)]
    struct State {
        knows: bool,
        is_away: bool,
        /// How many of the next deregistrations fail.
        refuses: usize,
        /// How long a call takes.
        delay: Duration,
        /// The beginnings and ends of calls, in their order.
        calls: Vec<&'static str>,
    }

    impl Scripted {
        fn new(change: impl FnOnce(&mut State)) -> Arc<Self> {
            let registry = Arc::new(Self::default());
            registry.change(change);
            registry
        }

        fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
            change(&mut self.state.lock().unwrap())
        }

        fn count(&self, call: &str) -> usize {
            self.change(|state| state.calls.iter().filter(|made| **made == call).count())
        }

        async fn knows(&self) {
            while !self.change(|state| state.knows) {
                sleep(Duration::from_millis(10)).await;
            }
        }

        async fn call<T>(&self, names: [&'static str; 2], answer: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
            let delay = self.change(|state| {
                state.calls.push(names[0]);
                state.delay
            });
            sleep(delay).await;
            self.change(|state| {
                state.calls.push(names[1]);
                if state.is_away { Err(away()) } else { answer(state) }
            })
        }
    }

    fn away() -> Unavailable {
        Unavailable {
            engine: "a registry".to_owned(),
            cause: anyhow!("connection refused"),
        }
    }

    impl Registry for Scripted {
        fn describe(&self) -> String {
            "a registry".to_owned()
        }

        fn advice(&self) -> String {
            "start it".to_owned()
        }

        fn register<'a>(&'a self, _: &'a Registration) -> BoxFuture<'a, Result<()>> {
            self.call(["register", "registered"], |state| {
                state.knows = true;
                Ok(())
            })
            .boxed()
        }

        fn is_registered<'a>(&'a self, _: &'a Registration) -> BoxFuture<'a, Result<bool>> {
            self.call(["ask", "asked"], |state| Ok(state.knows)).boxed()
        }

        fn deregister<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
            self.call(["deregister", "deregistered"], |state| {
                if state.refuses > 0 {
                    state.refuses -= 1;
                    return Err(away());
                }
                state.knows = false;
                Ok(())
            })
            .boxed()
        }

        fn all<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Listed>>> {
            unreachable!("registering lists nobody")
        }

        fn watch<'a>(&'a self, _: &'a str) -> BoxStream<'a, Result<Vec<Instance>>> {
            unreachable!("registering watches nobody")
        }
    }

    fn keep(registry: &Arc<Scripted>) -> Registered {
        let registration = Registration {
            service: "test-service".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 1,
            version: "1".to_owned(),
            since: SystemTime::UNIX_EPOCH,
        };
        Registered::keep(registry.clone(), registration)
    }

    #[tokio::test(start_paused = true)]
    async fn what_stood_under_the_id_is_replaced_at_the_start() {
        let registry = Scripted::new(|state| state.knows = true);
        let registered = keep(&registry);
        assert!(registered.first(SECOND).await);
        assert_eq!(registry.count("registered"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_instance_is_registered_again_within_seconds() {
        let registry = Scripted::new(|_| {});
        let registered = keep(&registry);
        assert!(registered.first(SECOND).await);
        sleep(100 * SECOND).await;
        assert_eq!(
            registry.count("registered"),
            1,
            "while it is known, it is not registered again"
        );
        for _ in 0..3 {
            registry.change(|state| state.knows = false);
            timeout(3 * SECOND, registry.knows()).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn registering_never_gives_up() {
        let registry = Scripted::new(|state| state.is_away = true);
        let registered = keep(&registry);
        assert!(!registered.first(3600 * SECOND).await);
        assert!(registry.count("register") > 1000);
        registry.change(|state| state.is_away = false);
        assert!(registered.first(3 * SECOND).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_does_not_say_that_the_instance_is_forgotten() {
        let registry = Scripted::new(|_| {});
        let registered = keep(&registry);
        assert!(registered.first(SECOND).await);
        registry.change(|state| state.is_away = true);
        sleep(60 * SECOND).await;
        registry.change(|state| state.is_away = false);
        sleep(60 * SECOND).await;
        assert_eq!(registry.count("register"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registration_under_way_is_over_before_the_deregistration_and_nothing_comes_after_it() {
        let registry = Scripted::new(|state| state.delay = SECOND);
        let registered = keep(&registry);
        sleep(SECOND / 2).await;
        registered.deregister(5 * SECOND).await;
        sleep(60 * SECOND).await;
        let expected = ["register", "registered", "deregister", "deregistered"];
        registry.change(|state| assert_eq!(state.calls, expected));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deregistration_that_fails_is_tried_again() {
        let registry = Scripted::new(|state| state.refuses = 3);
        let registered = keep(&registry);
        assert!(registered.first(SECOND).await);
        registered.deregister(2 * SECOND).await;
        assert!(!registry.change(|state| state.knows));
        assert_eq!(registry.count("deregister"), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_is_away_or_hangs_holds_up_the_stop_for_the_deadline_only() {
        for (is_away, delay) in [(true, Duration::ZERO), (false, 3600 * SECOND)] {
            let registry = Scripted::new(|_| {});
            let registered = keep(&registry);
            assert!(registered.first(SECOND).await);
            registry.change(|state| (state.is_away, state.delay) = (is_away, delay));
            sleep(2 * SECOND).await;
            let began = Instant::now();
            registered.deregister(2 * SECOND).await;
            let took = began.elapsed();
            assert!(took >= 2 * SECOND && took < 3 * SECOND, "{took:?}");
            assert_eq!(Arc::strong_count(&registry), 1, "the task is over");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_its_owner_and_takes_nothing_out() {
        let registry = Scripted::new(|_| {});
        let registered = keep(&registry);
        assert!(registered.first(SECOND).await);
        drop(registered);
        sleep(SECOND).await;
        assert_eq!(Arc::strong_count(&registry), 1);
        assert!(registry.change(|state| state.knows));
    }
}
