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
            if self.registry.is_registered(&self.id).await? {
                return Ok(());
            }
            self.stands.send_replace(false);
            warn!(
                id = self.id,
                "{} does not know this instance any more; registering it again",
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
