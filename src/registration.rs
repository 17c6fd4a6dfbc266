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

/// For how long a registration that failed may still arrive: the registry, or what is between, may have stood still.
const LATE: Duration = Duration::from_secs(60);

/// For how long after the deregistration it is then looked whether one has arrived.
const LATE_WATCH: Duration = Duration::from_secs(2);

/// An instance in the registry. A task keeps it there, and ends with this value.
///
/// Registering is a loop, not a call: whenever the registry does not know the instance, however that came about, it is
/// registered again. So it is where another entry stands under its id, or the entry lacks its check. The loop never gives
/// up, and is over before the instance is taken out.
#[derive(Debug)]
pub struct Registered {
    standing: watch::Receiver<bool>,
    leave: oneshot::Sender<Patience>,
    keeper: JoinSet<()>,
}

/// How long an instance may take to leave, from the moment on that it is told to.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long new tries begin, where they fail. There is one at least.
    pub tries: Duration,
    /// How long all of it may take: the registry may be slow with a call that it got in time.
    pub limit: Duration,
}

/// An instance that leaves the registry. A task takes it out, and ends with this value.
#[derive(Debug)]
pub struct Leaving {
    keeper: JoinSet<()>,
}

impl Registered {
    /// Registers the instance, and keeps it registered. Returns at once; [`Registered::first`] waits for the first time.
    ///
    /// Where this is dropped, nothing is taken out: that is [`Registered::leave`]'s.
    pub fn keep(registry: Arc<dyn Registry>, registration: Registration) -> Self {
        let (stands, standing) = watch::channel(false);
        let (leave, leaving) = oneshot::channel();
        let keeper = Keeper {
            id: registration.id(),
            registry,
            registration,
            stands,
            in_trouble: false,
            late_until: None,
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

    /// Begins to take the instance out. Where it cannot be done within `patience`, that is logged; its check then fails, and
    /// the registry takes it out by itself.
    pub fn leave(self, patience: Patience) -> Leaving {
        // The task ends by itself only where it panicked, and then there is nobody to tell.
        let _ = self.leave.send(patience);
        Leaving { keeper: self.keeper }
    }
}

impl Leaving {
    /// Waits until the instance is out or that was given up, at most for `limit`. It goes on after that.
    pub async fn wait(&mut self, limit: Duration) {
        let _ = timeout(limit, self.keeper.join_next()).await;
    }

    /// Waits until the instance is out or that was given up.
    pub async fn over(mut self) {
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
    /// Until when a registration that failed may still arrive.
    late_until: Option<Instant>,
}

impl Keeper {
    async fn run(mut self, mut leaving: oneshot::Receiver<Patience>) {
        if let Some((tries, limit)) = self.stay(&mut leaving).await {
            self.leave(tries, limit).await;
        }
    }

    /// Keeps the instance registered until it is to leave. Until when new tries begin then, and until when all of it has to
    /// be over; `None` where the owner is gone.
    async fn stay(&mut self, leaving: &mut oneshot::Receiver<Patience>) -> Option<(Instant, Instant)> {
        let until = |patience: Patience| (Instant::now() + patience.tries, Instant::now() + patience.limit);
        loop {
            let known = tokio::select! {
                known = self.is_known() => known,
                // A question changes nothing, so it may be cut.
                patience = &mut *leaving => return patience.ok().map(until),
            };
            let mut leave = None;
            let outcome = match known {
                Ok(true) => Some(Ok(())),
                Err(error) => Some(Err(error)),
                Ok(false) => {
                    let registering = Box::pin(self.register());
                    let outcome = match futures_util::future::select(registering, &mut *leaving).await {
                        Either::Left((outcome, _)) => Some(outcome),
                        // It is let finish: cut, it might reach the registry after the deregistration.
                        Either::Right((Ok(patience), registering)) => {
                            let (tries, limit) = until(patience);
                            leave = Some((tries, limit));
                            timeout_at(limit, registering).await.ok()
                        }
                        Either::Right((Err(_), _)) => return None,
                    };
                    if !matches!(outcome, Some(Ok(()))) {
                        self.late_until = Some(Instant::now() + LATE);
                    }
                    outcome
                }
            };
            if let Some(outcome) = outcome {
                self.note(outcome);
            }
            if leave.is_some() {
                return leave;
            }
            tokio::select! {
                () = sleep(BEAT) => {}
                patience = &mut *leaving => return patience.ok().map(until),
            }
        }
    }

    /// Whether the instance was registered and still is.
    async fn is_known(&self) -> Result<bool> {
        if !*self.stands.borrow() {
            return Ok(false);
        }
        let known = self.registry.is_registered(&self.registration).await?;
        if !known {
            self.stands.send_replace(false);
            warn!(
                id = self.id,
                "{} does not know this instance any more as it registered; registering it again",
                self.registry.describe()
            );
        }
        Ok(known)
    }

    async fn register(&self) -> Result<()> {
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

    async fn leave(&self, tries: Instant, limit: Instant) {
        let mut last = None;
        let is_out = timeout_at(limit, self.take_out(tries, &mut last)).await;
        if is_out != Ok(true) {
            warn!(
                id = self.id,
                error = last.as_deref().unwrap_or("no answer in time"),
                "could not deregister from {}; its health check will",
                self.registry.describe()
            );
            return;
        }
        info!(id = self.id, "deregistered from {}", self.registry.describe());
        if self.late_until.is_some_and(|until| Instant::now() < until) {
            let end = limit.min(Instant::now() + LATE_WATCH);
            let _ = timeout_at(end, self.keep_out()).await;
        }
    }

    /// Whether the instance was taken out, in tries that begin until `tries`.
    async fn take_out(&self, tries: Instant, last: &mut Option<String>) -> bool {
        while let Err(error) = self.registry.deregister(&self.id).await {
            *last = Some(error.to_string());
            sleep(LEAVE_RETRY).await;
            if Instant::now() >= tries {
                return false;
            }
        }
        true
    }

    /// Takes the instance out whenever it is back: what was registered and not answered may arrive after the deregistration.
    async fn keep_out(&self) {
        loop {
            // An error is no reason to say anything: it has left, as far as is known.
            if matches!(self.registry.is_registered(&self.registration).await, Ok(true)) {
                info!(
                    id = self.id,
                    "{} got a registration late, after this instance had left; taking it out again",
                    self.registry.describe()
                );
                let _ = self.registry.deregister(&self.id).await;
            }
            sleep(LEAVE_RETRY).await;
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
        state: Arc<Mutex<State>>,
    }

    #[derive(Default)]
    struct State {
        knows: bool,
        is_away: bool,
        /// How many of the next deregistrations fail.
        refuses: usize,
        /// How long a call takes.
        delay: Duration,
        /// The next registration fails, and arrives after this time all the same.
        arrives_late: Option<Duration>,
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
            let shared = self.state.clone();
            self.call(["register", "registered"], move |state| {
                if let Some(after) = state.arrives_late.take() {
                    tokio::spawn(async move {
                        sleep(after).await;
                        shared.lock().unwrap().knows = true;
                    });
                    return Err(away());
                }
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

    /// Leaves: tries for 2 s, and is over after 8 s.
    async fn leave(registered: Registered) {
        let patience = Patience {
            tries: 2 * SECOND,
            limit: 8 * SECOND,
        };
        registered.leave(patience).over().await;
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
        leave(registered).await;
        sleep(60 * SECOND).await;
        let expected = ["register", "registered", "deregister", "deregistered"];
        registry.change(|state| assert_eq!(state.calls, expected));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deregistration_that_fails_is_tried_again() {
        let registry = Scripted::new(|state| state.refuses = 3);
        let registered = keep(&registry);
        assert!(registered.first(SECOND).await);
        leave(registered).await;
        assert!(!registry.change(|state| state.knows));
        assert_eq!(registry.count("deregister"), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_is_away_holds_up_the_stop_for_the_tries_and_one_that_hangs_for_the_limit() {
        for (is_away, delay, held_up) in [(true, Duration::ZERO, 2), (false, 3600 * SECOND, 8)] {
            let registry = Scripted::new(|_| {});
            let registered = keep(&registry);
            assert!(registered.first(SECOND).await);
            registry.change(|state| (state.is_away, state.delay) = (is_away, delay));
            sleep(2 * SECOND).await;
            let began = Instant::now();
            leave(registered).await;
            let took = began.elapsed();
            assert!(took >= held_up * SECOND && took < (held_up + 1) * SECOND, "{took:?}");
            assert_eq!(Arc::strong_count(&registry), 1, "the task is over");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_registry_is_told_of_the_stop_at_once_and_its_answer_is_waited_for() {
        for into_the_question in [1, 1000, 2900] {
            let registry = Scripted::new(|_| {});
            let registered = keep(&registry);
            assert!(registered.first(SECOND).await);
            registry.change(|state| state.delay = 3 * SECOND);
            while registry.count("ask") == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            sleep(Duration::from_millis(into_the_question)).await;
            let began = Instant::now();
            leave(registered).await;
            assert!(!registry.change(|state| state.knows), "{into_the_question} ms");
            assert!(began.elapsed() < 4 * SECOND, "{:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_registration_that_failed_and_arrives_after_the_deregistration_is_taken_out_again() {
        for after in [100, 1500] {
            let registry = Scripted::new(|state| state.arrives_late = Some(Duration::from_millis(after)));
            let registered = keep(&registry);
            sleep(Duration::from_millis(10)).await;
            assert_eq!(registry.count("registered"), 1);
            leave(registered).await;
            sleep(60 * SECOND).await;
            assert!(!registry.change(|state| state.knows), "{after} ms");
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
