//! [`Deliverer`]: the task that delivers. Look, store, then remove: see [`Mailbox`].

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::future::{self, BoxFuture, FutureExt};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, warn};

use super::progress::Progress;
use super::turns::Turns;
use crate::engine::{self, Batch, Item, Mailbox};
use crate::roles::deadline::within;

/// Longest time between two looks: hints that something was put in may be lost.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Shortest time between two looks: each costs the cluster as much as all that waits there.
const LOOK_GAP: Duration = Duration::from_millis(5);

/// First and longest pause after a round that failed; it doubles, with jitter.
const FAILED_MIN: Duration = Duration::from_millis(50);
const FAILED_MAX: Duration = Duration::from_secs(1);

/// Items that are delivered at a time.
const PIPELINE: usize = 128;

/// A round begins no further item after so many failures: the mailbox is away, and not one item at fault.
const FAILURES: usize = 16;

/// How long a round may take to its end once it is asked for. One that does not end by then is cut, which loses nothing.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// Tells the ids of the live instances, as far as is known.
pub(super) type Live = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// A running deliverer. It ends when this is dropped.
pub(super) struct Deliverer {
    task: JoinHandle<()>,
    /// Dropped to stop it.
    _stop: oneshot::Sender<()>,
}

impl Deliverer {
    /// Begins to deliver what waits in `mailbox`, in the name of the instance `own`, until `stop` is done.
    pub(super) fn start(
        mailbox: Arc<dyn Mailbox>,
        own: String,
        live: Live,
        progress: Arc<Progress>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let (_stop, dropped) = oneshot::channel::<()>();
        let worker = Worker {
            mailbox,
            own,
            live,
            progress,
        };
        let task = tokio::spawn(async move {
            let stop = pin!(stop);
            worker.run(future::select(stop, dropped).map(drop)).await;
        });
        Self { task, _stop }
    }

    /// Stops it, and waits for the end of its round.
    pub(super) async fn finish(self) {
        let Self { mut task, _stop } = self;
        drop(_stop);
        if timeout(STOP_LIMIT, &mut task).await.is_err() {
            warn!("the last round of deliveries is cut off; what it left waiting is delivered by the next instance");
            task.abort();
        }
    }
}

struct Worker {
    mailbox: Arc<dyn Mailbox>,
    own: String,
    live: Live,
    progress: Arc<Progress>,
}

impl Worker {
    /// Round after round, none of which is cancelled half-way.
    async fn run(&self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut turns = Turns::new(self.own.clone());
        let mut news = self.mailbox.news();
        let mut pauses = pauses();
        loop {
            let begun = Instant::now();
            let outcome = self.guarded_round(&mut turns).await;
            let wait = async {
                match outcome {
                    Ok(()) => {
                        self.progress.went_well();
                        pauses = self::pauses();
                        next_look(begun, &mut news).await;
                    }
                    Err(reason) => {
                        self.progress.failed(reason);
                        tokio::time::sleep(pauses.next().unwrap_or(FAILED_MAX)).await;
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

    /// A round; a fault of this program in it must not end the deliveries.
    async fn guarded_round(&self, turns: &mut Turns) -> Result<(), String> {
        match AssertUnwindSafe(self.round(turns)).catch_unwind().await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => {
                error!("a round of deliveries met a fault in this program");
                Err("a fault in this program; its log says more".to_owned())
            }
        }
    }

    /// Looks, and delivers what is this instance's to deliver.
    ///
    /// # Errors
    /// The first thing that failed. All else was done, unless too much failed.
    async fn round(&self, turns: &mut Turns) -> engine::Result<()> {
        let items = self.within(self.mailbox.look()).await??;
        let due = turns.due(&items, (self.live)(), Instant::now());
        let failures = AtomicUsize::new(0);
        let handled = due.into_iter().map(|item| self.unless_away(&failures, item).boxed());
        // Nothing is begun yet.
        let handled: Vec<BoxFuture<'_, engine::Result<()>>> = handled.collect();
        let first_failure = |first: engine::Result<()>, next| future::ready(first.and(next));
        stream::iter(handled)
            .buffer_unordered(PIPELINE)
            .fold(Ok(()), first_failure)
            .await
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
        match &item.content {
            Ok(batch) => {
                self.within(self.mailbox.store(batch, &self.own)).await??;
                self.tell(batch);
                if self.within(self.mailbox.remove(item)).await?? {
                    self.progress.delivered(batch.messages.len());
                }
            }
            Err(reason) => {
                self.within(self.mailbox.reject(item, reason)).await??;
                if self.within(self.mailbox.remove(item)).await?? {
                    self.progress.rejected(reason);
                }
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

    async fn within<T>(&self, answer: impl Future<Output = T>) -> engine::Result<T> {
        within(&*self.mailbox, answer).await
    }
}

/// Waits for the time of the next look: when something is put in, but not at once after the last look, nor long after it.
async fn next_look(last: Instant, news: &mut BoxStream<'_, ()>) {
    tokio::select! {
        Some(()) = news.next() => sleep_until(last + LOOK_GAP).await,
        () = sleep_until(last + LOOK_EVERY) => {}
    }
    // One look is the answer to all of them.
    while let Some(Some(())) = news.next().now_or_never() {}
}

fn pauses() -> ExponentialBackoff {
    let growing = ExponentialBuilder::new()
        .with_min_delay(FAILED_MIN)
        .with_max_delay(FAILED_MAX);
    growing.with_jitter().without_max_times().build()
}
