//! [`Deliverer`]: the task that delivers, from the mailbox that the settings name and from those that they named before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, BoxFuture, FutureExt, Shared};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::warn;

use super::progress::Progress;
use super::worker::Worker;
use crate::engine::Mailbox;

/// How long a round may take to its end once it is asked for. One that does not end by then is cut, which loses nothing.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// Mailboxes that are looked at. Past it, the one that was named first is let go.
const MOST_MAILBOXES: usize = 16;

/// Tells the ids of the live instances, as far as is known.
pub(super) type Live = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// A running deliverer. It ends when this is dropped.
pub(super) struct Deliverer {
    task: JoinHandle<()>,
    /// Dropped to stop it.
    _stop: oneshot::Sender<()>,
}

impl Deliverer {
    /// Begins to deliver what waits in the mailbox that `mailboxes` shows, in the name of the instance `own`, until `stop`
    /// is done. When it shows another one, what waits there is delivered too, and what still comes into the former ones is
    /// delivered into the new one.
    pub(super) fn start(
        mut mailboxes: watch::Receiver<Arc<dyn Mailbox>>,
        own: String,
        live: Live,
        progress: Arc<Progress>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let (_stop, dropped) = oneshot::channel::<()>();
        let stop = async move {
            future::select(std::pin::pin!(stop), dropped).await;
        };
        // Now, and not when the task begins: it may be another one by then.
        let first = mailboxes.borrow_and_update().clone();
        let workers = Workers {
            mailboxes,
            own,
            live,
            progress,
            stop: stop.boxed().shared(),
            running: JoinSet::new(),
            order: VecDeque::new(),
        };
        let task = tokio::spawn(workers.run(first));
        Self { task, _stop }
    }

    /// Stops it, and waits for the end of its rounds.
    pub(super) async fn finish(self) {
        let Self { mut task, _stop } = self;
        drop(_stop);
        if timeout(STOP_LIMIT, &mut task).await.is_err() {
            warn!("the last round of deliveries is cut off; what it left waiting is delivered by the next instance");
            task.abort();
        }
    }
}

/// One worker for each mailbox that was named since the start.
struct Workers {
    mailboxes: watch::Receiver<Arc<dyn Mailbox>>,
    own: String,
    live: Live,
    progress: Arc<Progress>,
    stop: Shared<BoxFuture<'static, ()>>,
    running: JoinSet<()>,
    /// The longest named first.
    order: VecDeque<AbortHandle>,
}

impl Workers {
    async fn run(mut self, first: Arc<dyn Mailbox>) {
        self.add(first);
        loop {
            let changed = async {
                if self.mailboxes.changed().await.is_err() {
                    // There will be no other.
                    future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                () = self.stop.clone() => break,
                () = changed => {}
            }
            let mailbox = self.mailboxes.borrow_and_update().clone();
            self.add(mailbox);
        }
        while self.running.join_next().await.is_some() {}
    }

    fn add(&mut self, mailbox: Arc<dyn Mailbox>) {
        if self.order.len() >= MOST_MAILBOXES
            && let Some(first) = self.order.pop_front()
        {
            warn!("the mailbox was changed {MOST_MAILBOXES} times: the first one is not looked at any more");
            first.abort();
        }
        let rounds = self.progress.rounds(&*mailbox);
        let worker = Worker::new(
            mailbox,
            self.mailboxes.clone(),
            self.own.clone(),
            self.live.clone(),
            self.progress.clone(),
            rounds,
        );
        let stop = self.stop.clone();
        self.order
            .push_back(self.running.spawn(async move { worker.run(stop).await }));
    }
}
