//! [`Discovery`]: the live instances of a service, and the choice among them.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::engine::{Instance, Registry, Result};

/// The live instances of one service, followed by a task. Cheap to clone; the task ends with the last clone.
///
/// What the registry said last holds until it says something else: an error changes nothing, and neither does an answer
/// without any instance, since a registry that lost its state looks the same as one whose instances are all gone. Who
/// calls an instance that is gone is told so by the instance's host. An answer with some instances is taken as it is: a
/// registry that comes back without its state shows one after the other, within seconds.
#[derive(Clone, Debug)]
pub struct Discovery {
    known: watch::Receiver<Known>,
    _follower: Arc<JoinSet<()>>,
}

/// What is known. Replaced whole.
#[derive(Clone, Debug, Default)]
struct Known {
    instances: Arc<[Instance]>,
    /// The same instances in the same order, each with what it is at.
    endpoints: Arc<[Arc<Endpoint>]>,
    /// When the registry answered last.
    answered_at: Option<Instant>,
}

/// An instance, for as long as it stays the same.
#[derive(Debug)]
struct Endpoint {
    instance: Instance,
    /// Requests from here that it has not answered yet.
    in_flight: AtomicUsize,
}

impl Discovery {
    /// Begins to follow `service`. Nothing is known until the registry has answered: [`Discovery::first`] waits for that.
    pub fn follow(registry: Arc<dyn Registry>, service: &'static str) -> Self {
        let (publish, known) = watch::channel(Known::default());
        let mut follower = JoinSet::new();
        follower.spawn(follow(registry, service, publish));
        Self {
            known,
            _follower: Arc::new(follower),
        }
    }

    /// Waits for the registry's first answer, at most for `limit`. Whether there was one.
    pub async fn first(&self, limit: Duration) -> bool {
        let mut known = self.known.clone();
        let answered = known.wait_for(|known| known.answered_at.is_some());
        matches!(timeout(limit, answered).await, Ok(Ok(_)))
    }

    /// The instances that were known last, in the order of their ids.
    pub fn instances(&self) -> Arc<[Instance]> {
        self.known.borrow().instances.clone()
    }

    /// How long ago the registry answered last; `None` where it never did. Some seconds are usual.
    pub fn age(&self) -> Option<Duration> {
        self.known.borrow().answered_at.map(|at| at.elapsed())
    }

    /// Chooses an instance whose id is not in `tried`; `None` where there is no other.
    ///
    /// Of two taken by chance it is the one with fewer requests in flight, counted by [`Pick`]: nearly as good as the least
    /// busy of all, and not all callers rush to the same one.
    pub fn pick(&self, tried: &[&str]) -> Option<Pick> {
        let endpoints = self.known.borrow().endpoints.clone();
        let untried = endpoints
            .iter()
            .filter(|endpoint| !tried.contains(&endpoint.instance.id.as_str()));
        // Chance decides between equals, or the first would have all the idle time's requests.
        let load = |endpoint: &&Arc<Endpoint>| (endpoint.in_flight.load(Ordering::Relaxed), fastrand::u32(..));
        let chosen = fastrand::choose_multiple(untried, 2).into_iter().min_by_key(load)?;
        Some(Pick::new(chosen.clone()))
    }
}

/// An instance that was chosen. As long as this lives, it counts as one request in flight there.
#[derive(Debug)]
pub struct Pick(Arc<Endpoint>);

impl Pick {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl Clone for Pick {
    /// One more request in flight there.
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Deref for Pick {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.0.instance
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The task: publishes what the registry says.
async fn follow(registry: Arc<dyn Registry>, service: &'static str, publish: watch::Sender<Known>) {
    let mut answers = registry.watch(service);
    let mut is_away = false;
    while let Some(answer) = answers.next().await {
        note(&answer, service, &*registry, &mut is_away, &publish);
        if let Ok(instances) = answer {
            publish.send_modify(|known| known.answered(service, instances));
        }
    }
}

/// Says once that the registry does not answer, and once that it does again.
fn note(
    answer: &Result<Vec<Instance>>,
    service: &str,
    registry: &dyn Registry,
    is_away: &mut bool,
    known: &watch::Sender<Known>,
) {
    let instances = known.borrow().instances.len();
    match answer {
        Ok(_) if *is_away => info!(service, "{} answers again", registry.describe()),
        Err(error) if !*is_away => warn!(
            service, instances, %error,
            "cannot learn which instances are live; going on with those known last"
        ),
        Err(error) => debug!(service, instances, %error, "still cannot learn which instances are live"),
        Ok(_) => {}
    }
    *is_away = answer.is_err();
}

impl Known {
    fn answered(&mut self, service: &str, found: Vec<Instance>) {
        self.answered_at = Some(Instant::now());
        if found.is_empty() {
            if !self.instances.is_empty() {
                debug!(service, "no instance is registered; going on with those known last");
            }
        } else if *found != *self.instances {
            self.replace(service, found);
        }
    }

    fn replace(&mut self, service: &str, found: Vec<Instance>) {
        let gone: Vec<&str> = self
            .instances
            .iter()
            .filter(|old| !found.contains(old))
            .map(|old| old.id.as_str())
            .collect();
        let ids: Vec<&str> = found.iter().map(|instance| instance.id.as_str()).collect();
        info!(
            service,
            instances = ids.join(", "),
            gone = gone.join(", "),
            "live instances"
        );
        self.endpoints = found.iter().map(|instance| self.endpoint(instance)).collect();
        self.instances = found.into();
    }

    /// The one that is at work already, or a new one.
    fn endpoint(&self, instance: &Instance) -> Arc<Endpoint> {
        let known = self.endpoints.iter().find(|endpoint| endpoint.instance == *instance);
        known.cloned().unwrap_or_else(|| {
            Arc::new(Endpoint {
                instance: instance.clone(),
                in_flight: AtomicUsize::new(0),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;

    use anyhow::anyhow;
    use futures_util::future::BoxFuture;
    use futures_util::stream::{self, BoxStream};
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::*;
    use crate::engine::{Listed, Registration, Unavailable};

    const SECOND: Duration = Duration::from_secs(1);

    type Answer = Result<Vec<Instance>>;

    /// A registry that answers what a test hands it.
    struct Scripted(Mutex<Option<mpsc::Receiver<Answer>>>);

    impl Registry for Scripted {
        fn describe(&self) -> String {
            "a registry".to_owned()
        }

        fn advice(&self) -> String {
            "start it".to_owned()
        }

        fn register<'a>(&'a self, _: &'a Registration) -> BoxFuture<'a, Result<()>> {
            unreachable!("discovery registers nobody")
        }

        fn is_registered<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<bool>> {
            unreachable!("discovery asks for nobody")
        }

        fn deregister<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
            unreachable!("discovery takes nobody out")
        }

        fn all<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Listed>>> {
            unreachable!("discovery follows, it does not list")
        }

        fn watch<'a>(&'a self, service: &'a str) -> BoxStream<'a, Answer> {
            assert_eq!(service, "test-service");
            let answers = self.0.lock().unwrap().take().unwrap();
            stream::unfold(answers, async |mut answers| Some((answers.recv().await?, answers))).boxed()
        }
    }

    /// What is followed, and the hand that feeds it.
    struct Followed {
        discovery: Discovery,
        answers: mpsc::Sender<Answer>,
    }

    impl Followed {
        fn new() -> Self {
            let (answers, given) = mpsc::channel(1);
            let registry = Arc::new(Scripted(Mutex::new(Some(given))));
            let discovery = Discovery::follow(registry, "test-service");
            Self { discovery, answers }
        }

        async fn with(ids: &[&str]) -> Self {
            let followed = Self::new();
            followed.answer(Ok(instances(ids))).await;
            followed
        }

        /// Lets the registry give this answer; returns when it has had its effect.
        async fn answer(&self, answer: Answer) {
            self.answers.send(answer).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }

        fn ids(&self) -> Vec<String> {
            let instances = self.discovery.instances();
            instances.iter().map(|instance| instance.id.clone()).collect()
        }
    }

    fn instance(id: &str) -> Instance {
        Instance {
            id: id.to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 1,
            version: None,
            since: None,
        }
    }

    fn instances(ids: &[&str]) -> Vec<Instance> {
        ids.iter().map(|id| instance(id)).collect()
    }

    fn error() -> Answer {
        Err(Unavailable {
            engine: "a registry".to_owned(),
            cause: anyhow!("connection refused"),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_replaces_the_set_as_a_whole() {
        let followed = Followed::with(&["a", "b"]).await;
        followed.answer(Ok(instances(&["b", "c"]))).await;
        assert_eq!(followed.ids(), ["b", "c"]);
        followed.answer(Ok(instances(&["d"]))).await;
        assert_eq!(followed.ids(), ["d"]);
        assert_eq!(followed.discovery.pick(&[]).unwrap().id, "d");
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_and_an_empty_answer_keep_the_instances_that_were_known_last() {
        let followed = Followed::with(&["a"]).await;
        for answer in [error(), Ok(Vec::new()), error(), error()] {
            followed.answer(answer).await;
            assert_eq!(followed.ids(), ["a"]);
        }
        followed.answer(Ok(instances(&["b"]))).await;
        assert_eq!(followed.ids(), ["b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn equal_content_is_not_published_again() {
        let followed = Followed::with(&["a", "b"]).await;
        let before = followed.discovery.instances();
        followed.answer(Ok(instances(&["a", "b"]))).await;
        assert!(Arc::ptr_eq(&before, &followed.discovery.instances()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_is_waited_for_up_to_the_limit_and_may_be_empty() {
        let followed = Followed::new();
        assert!(!followed.discovery.first(SECOND).await);
        followed.answer(error()).await;
        assert!(!followed.discovery.first(SECOND).await, "an error is no answer");
        assert_eq!(followed.discovery.age(), None);
        let answering = async {
            sleep(SECOND).await;
            followed.answer(Ok(Vec::new())).await;
        };
        let (answered, ()) = tokio::join!(followed.discovery.first(10 * SECOND), answering);
        assert!(answered);
        assert!(followed.ids().is_empty());
        assert!(followed.discovery.pick(&[]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_is_that_of_the_last_answer_whether_or_not_it_changed_anything() {
        let followed = Followed::with(&["a"]).await;
        sleep(60 * SECOND).await;
        followed.answer(error()).await;
        assert!(followed.discovery.age().unwrap() >= 60 * SECOND);
        followed.answer(Ok(instances(&["a"]))).await;
        assert!(followed.discovery.age().unwrap() < SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn instances_that_were_tried_are_passed_over() {
        let followed = Followed::with(&["a", "b", "c"]).await;
        for _ in 0..100 {
            assert_eq!(followed.discovery.pick(&["a", "c"]).unwrap().id, "b");
        }
        assert!(followed.discovery.pick(&["a", "b", "c"]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_the_one_with_fewer_requests_in_flight_is_chosen() {
        let followed = Followed::with(&["a", "b"]).await;
        let busy = followed.discovery.pick(&["b"]).unwrap();
        for _ in 0..100 {
            assert_eq!(followed.discovery.pick(&[]).unwrap().id, "b");
        }
        let held: Vec<Pick> = (0..99).map(|_| followed.discovery.pick(&[]).unwrap()).collect();
        assert_eq!(held.iter().filter(|pick| pick.id == "a").count(), 49);
        drop((busy, held));
        let _busy = followed.discovery.pick(&["a"]).unwrap();
        assert_eq!(
            followed.discovery.pick(&[]).unwrap().id,
            "a",
            "what was dropped counts no more"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn among_equals_chance_decides() {
        let followed = Followed::with(&["a", "b", "c"]).await;
        let chosen: HashSet<String> = (0..500)
            .map(|_| followed.discovery.pick(&[]).unwrap().id.clone())
            .collect();
        assert_eq!(chosen.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_flight_counts_on_when_the_set_is_replaced() {
        let followed = Followed::with(&["a", "b"]).await;
        let _busy = followed.discovery.pick(&["b"]).unwrap();
        followed.answer(Ok(instances(&["a", "c"]))).await;
        for _ in 0..100 {
            assert_eq!(followed.discovery.pick(&[]).unwrap().id, "c");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_moved_is_called_at_its_new_place() {
        let followed = Followed::with(&["a"]).await;
        let moved = Instance {
            port: 2,
            ..instance("a")
        };
        followed.answer(Ok(vec![moved.clone()])).await;
        assert_eq!(*followed.discovery.pick(&[]).unwrap(), moved);
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_the_last_clone() {
        let Followed { discovery, answers } = Followed::with(&["a"]).await;
        let clone = discovery.clone();
        drop(discovery);
        answers.send(Ok(instances(&["b"]))).await.unwrap();
        sleep(SECOND).await;
        assert_eq!(clone.pick(&[]).unwrap().id, "b");
        drop(clone);
        sleep(SECOND).await;
        assert!(answers.is_closed());
    }
}
