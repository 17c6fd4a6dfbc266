//! [`Worker`]: delivers what waits in one mailbox. Look, store, then remove: see [`Mailbox`].

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::future::{self, BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, error};

use super::deliverer::Live;
use super::looks::{LOOK_EVERY, Looks};
use super::progress::{Progress, Rounds};
use super::turns::Turns;
use crate::engine::{self, Batch, Item, Looked, Mailbox};
use crate::roles::deadline::within;
use crate::roles::followed::Named;

/// Time to the next look where the last one did not show all that waits.
const LOOK_ON_GAP: Duration = Duration::from_millis(5);

/// How long a mailbox that is no longer named is looked at as often as before: others may not know of the change yet.
const FORMER_FOR: Duration = Duration::from_secs(60);

/// Longest time between two looks after that, unless something waits there: somebody may still use it.
const FORMER_LOOK_EVERY: Duration = Duration::from_secs(60);

/// First and longest pause after a round that failed; it doubles, with jitter.
const FAILED_MIN: Duration = Duration::from_millis(50);
const FAILED_MAX: Duration = Duration::from_secs(1);

/// Items that are delivered at a time.
const PIPELINE: usize = 128;

/// A round begins no further item after so many failures: the mailbox is away, and not one item at fault.
const FAILURES: usize = 16;

/// What a look showed.
#[derive(Clone, Copy)]
struct Shown {
    /// Items that were this instance's to deliver.
    due: usize,
    /// Items that were left to others.
    left: usize,
    /// Whether that is all that waits.
    is_all: bool,
}

/// Delivers from one mailbox, into the one that is named now: itself, until another one is.
pub(super) struct Worker {
    /// Where items wait.
    pub(super) source: Arc<dyn Mailbox>,
    /// Where they are delivered: its current one.
    pub(super) named: watch::Receiver<Named<dyn Mailbox>>,
    /// Id of the instance in whose name it delivers.
    pub(super) own: String,
    pub(super) live: Live,
    pub(super) progress: Arc<Progress>,
    pub(super) rounds: Arc<Rounds>,
}

impl Worker {
    /// Round after round, none of which is cancelled half-way.
    pub(super) async fn run(&self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut turns = Turns::new(self.own.clone());
        let mut looks = Looks::into(&*self.source);
        let mut pauses = Pauses::usual();
        loop {
            if !Arc::ptr_eq(&self.source, &self.target()) {
                self.rounds.is_former();
            }
            let begun = Instant::now();
            let outcome = self.guarded_round(&mut turns).await;
            let wait = async {
                match outcome {
                    Ok(shown) => {
                        self.rounds.went_well();
                        pauses = Pauses::usual();
                        looks.next(begun, shown.due > 0, self.look_within(shown)).await;
                    }
                    Err(reason) => {
                        self.rounds.failed(reason);
                        tokio::time::sleep(pauses.next(self.is_long_former())).await;
                    }
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = wait => {}
            }
        }
    }

    /// Where to deliver now.
    fn target(&self) -> Arc<dyn Mailbox> {
        self.named.borrow().current.clone()
    }

    fn is_long_former(&self) -> bool {
        self.rounds.former_for().is_some_and(|time| time >= FORMER_FOR)
    }

    /// The longest time to the next look, where the last one showed this.
    fn look_within(&self, shown: Shown) -> Duration {
        if !shown.is_all {
            LOOK_ON_GAP
        } else if shown.left == 0 && self.is_long_former() {
            FORMER_LOOK_EVERY
        } else {
            LOOK_EVERY
        }
    }

    /// A round; a fault of this program in it must not end the deliveries.
    async fn guarded_round(&self, turns: &mut Turns) -> Result<Shown, String> {
        match AssertUnwindSafe(self.round(turns)).catch_unwind().await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => {
                error!("a round of deliveries met a fault in this program");
                Err("a fault in this program; its log says more".to_owned())
            }
        }
    }

    /// Looks, and delivers what is this instance's to deliver. Of a part of what waits that is all of it: as long as one of
    /// these waits, nobody sees what is behind, so it is left to nobody, at the cost of a double effort.
    ///
    /// # Errors
    /// The first thing that failed. All else was done, unless too much failed.
    async fn round(&self, turns: &mut Turns) -> engine::Result<Shown> {
        let Looked { items, is_all } = within(&*self.source, self.source.look()).await??;
        let due = if is_all {
            turns.due(&items, (self.live)(), Instant::now())
        } else {
            items.iter().collect()
        };
        let shown = Shown {
            due: due.len(),
            left: items.len().saturating_sub(due.len()),
            is_all,
        };
        let failures = AtomicUsize::new(0);
        let handled = due.into_iter().map(|item| self.unless_away(&failures, item).boxed());
        // Nothing is begun yet.
        let handled: Vec<BoxFuture<'_, engine::Result<()>>> = handled.collect();
        let first_failure = |first: engine::Result<()>, next| future::ready(first.and(next));
        stream::iter(handled)
            .buffer_unordered(PIPELINE)
            .fold(Ok(()), first_failure)
            .await?;
        Ok(shown)
    }

    /// Handles one item, unless so much has failed already that it would, too.
    async fn unless_away(&self, failures: &AtomicUsize, item: &Item) -> engine::Result<()> {
        if failures.load(Ordering::Relaxed) >= FAILURES {
            return Ok(());
        }
        let outcome = self.handle(item).await;
        failures.fetch_add(usize::from(outcome.is_err()), Ordering::Relaxed);
        outcome
    }

    /// Delivers one item or sets it aside, and only then takes it out. Who takes it out counts it: two may handle it.
    async fn handle(&self, item: &Item) -> engine::Result<()> {
        let target = self.target();
        let kept = async {
            match &item.content {
                Ok(batch) => target.store(batch, &self.own).await,
                Err(reason) => target.reject(item, reason).await,
            }
        };
        within(&*target, kept).await??;
        if let Ok(batch) = &item.content {
            self.tell(batch);
        }
        if within(&*self.source, self.source.remove(item)).await?? {
            match &item.content {
                Ok(batch) => self.progress.delivered(batch.messages.len()),
                Err(reason) => self.progress.rejected(reason),
            }
        }
        Ok(())
    }

    fn tell(&self, batch: &Batch) {
        for message in &batch.messages {
            debug!(
                identifier = message.identifier,
                batch = batch.id,
                by = self.own,
                "delivered"
            );
        }
    }
}

/// The pauses between rounds that fail, one after the other.
struct Pauses {
    growing: ExponentialBackoff,
    /// Where they stop to grow.
    most: Duration,
}

impl Pauses {
    fn usual() -> Self {
        Self::up_to(FAILED_MAX)
    }

    fn up_to(most: Duration) -> Self {
        let growing = ExponentialBuilder::new()
            .with_min_delay(FAILED_MIN)
            .with_max_delay(most);
        Self {
            growing: growing.with_jitter().without_max_times().build(),
            most,
        }
    }

    /// The next one. Those of a mailbox that `is_long_former` grow further.
    fn next(&mut self, is_long_former: bool) -> Duration {
        if is_long_former && self.most < FORMER_LOOK_EVERY {
            *self = Self::up_to(FORMER_LOOK_EVERY);
        }
        self.growing.next().unwrap_or(self.most)
    }
}
