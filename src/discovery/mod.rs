//! [`Discovery`]: the live instances of a service, and the choice among them.

mod ejection;
mod endpoint;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use self::ejection::Standing;
use self::endpoint::Endpoint;
use crate::engine::{Instance, Registry, Result};

pub use self::ejection::Outcome;
pub use self::endpoint::Pick;

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

    /// How long ago the registry answered last; `None` where it never did. Up to 11 s are usual: so long Consul may keep a
    /// question whose answer has not changed.
    pub fn age(&self) -> Option<Duration> {
        self.known.borrow().answered_at.map(|at| at.elapsed())
    }

    /// What is known and how old that is, as `GET /health` shows it: how many `instances`, which of them are `ejected`, and
    /// `age_seconds`, which is `null` where the registry never answered.
    pub fn details(&self) -> Value {
        json!({
            "instances": self.instances().len(),
            "ejected": self.ejected(),
            "age_seconds": self.age().map(|age| age.as_secs()),
        })
    }

    /// Of those that are known, the ids of the ones that are ejected: they did not answer, and are called only where no other is left.
    pub fn ejected(&self) -> Vec<String> {
        let endpoints = self.known.borrow().endpoints.clone();
        let ejected = endpoints
            .iter()
            .filter(|endpoint| endpoint.standing() != Standing::Good);
        ejected.map(|endpoint| endpoint.instance.id.clone()).collect()
    }

    /// Chooses an instance whose id is not in `tried`; `None` where there is no other.
    ///
    /// One that answers, the less busy one of two taken by chance, as [`Pick`]s and [`Pick::report`] have it. One that is
    /// ejected is chosen where no other is left.
    pub fn pick(&self, tried: &[&str]) -> Option<Pick> {
        let endpoints = self.known.borrow().endpoints.clone();
        endpoint::choose(&endpoints, tried)
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

    /// The one that is at work already, or a new one: another process under the same id has not failed yet.
    fn endpoint(&self, instance: &Instance) -> Arc<Endpoint> {
        let known = self.endpoints.iter().find(|endpoint| endpoint.instance == *instance);
        known
            .cloned()
            .unwrap_or_else(|| Arc::new(Endpoint::new(instance.clone())))
    }
}

#[cfg(test)]
mod tests;
