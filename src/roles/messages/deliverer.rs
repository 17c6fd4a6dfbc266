//! [`Deliverer`]: the task that delivers, from the mailbox that the settings name and from those that they named before.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, BoxFuture, FutureExt, Shared};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{error, warn};

use super::progress::{Progress, Rounds};
use super::worker::Worker;
use crate::engine::Mailbox;
use crate::roles::followed::Named;

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
    /// Begins to deliver what waits in the mailbox that is named, in the name of the instance `own`, until `stop` is done.
    /// When another one is named, what waits there is delivered too, and what still comes into the former ones is delivered
    /// into the new one.
    pub(super) fn start(
        mut named: watch::Receiver<Named<dyn Mailbox>>,
        own: String,
        live: Live,
        progress: Arc<Progress>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let (_stop, dropped) = oneshot::channel::<()>();
        let stop = async move {
            future::select(pin!(stop), dropped).await;
        };
        // Now, and not when the task begins: it may be another one by then.
        let first = named.borrow_and_update().current.clone();
        let mut workers = Workers {
            named,
            own,
            live,
            progress,
            stop: stop.boxed().shared(),
            running: JoinSet::new(),
            looked_at: VecDeque::new(),
        };
        workers.look_at(first);
        Self {
            task: tokio::spawn(workers.run()),
            _stop,
        }
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
    named: watch::Receiver<Named<dyn Mailbox>>,
    own: String,
    live: Live,
    progress: Arc<Progress>,
    stop: Shared<BoxFuture<'static, ()>>,
    running: JoinSet<()>,
    /// The longest named first.
    looked_at: VecDeque<LookedAt>,
}

struct LookedAt {
    mailbox: Arc<dyn Mailbox>,
    rounds: Arc<Rounds>,
    worker: AbortHandle,
}

impl Workers {
    async fn run(mut self) {
        let mut next = self.named.borrow().next.clone();
        loop {
            tokio::select! {
                biased;
                () = self.stop.clone() => break,
                changed = self.named.changed() => {
                    if changed.is_err() {
                        // There will be no other.
                        self.stop.clone().await;
                        break;
                    }
                    next = self.follow(next);
                }
                Some(Err(fault)) = self.running.join_next() => {
                    if fault.is_panic() {
                        error!(%fault, "a worker met a fault in this program: its mailbox is looked at again after a restart");
                    }
                }
            }
        }
        while self.running.join_next().await.is_some() {}
    }

    /// Looks at what is named now, and at what was to be the `next` one and is not: others may have used it meanwhile.
    /// Returns the one that is to be the next now.
    fn follow(&mut self, next: Option<Arc<dyn Mailbox>>) -> Option<Arc<dyn Mailbox>> {
        let (current, to_be_next) = {
            let named = self.named.borrow_and_update();
            (named.current.clone(), named.next.clone())
        };
        if let Some(given_up) = next
            && !is_same(&given_up, &current)
            && !to_be_next.as_ref().is_some_and(|next| is_same(&given_up, next))
        {
            self.look_at(given_up);
        }
        if !self.looked_at.iter().any(|known| is_same(&known.mailbox, &current)) {
            self.let_go_of_the_same(&current);
            self.look_at(current);
        }
        to_be_next
    }

    /// One that leads to the same data as `mailbox` is looked at once: the members were changed, or one is named again.
    fn let_go_of_the_same(&mut self, mailbox: &Arc<dyn Mailbox>) {
        let Some(identity) = mailbox.identity() else {
            return;
        };
        self.looked_at.retain(|known| {
            let is_other = known.mailbox.identity().as_deref() != Some(identity.as_str());
            if !is_other {
                known.worker.abort();
            }
            is_other
        });
    }

    fn look_at(&mut self, mailbox: Arc<dyn Mailbox>) {
        if self.looked_at.len() >= MOST_MAILBOXES
            && let Some(first) = self.looked_at.pop_front()
        {
            first.rounds.let_go();
            first.worker.abort();
        }
        let rounds = self.progress.rounds(&*mailbox);
        let worker = Worker {
            source: mailbox.clone(),
            named: self.named.clone(),
            own: self.own.clone(),
            live: self.live.clone(),
            progress: self.progress.clone(),
            rounds: rounds.clone(),
        };
        let stop = self.stop.clone();
        self.looked_at.push_back(LookedAt {
            mailbox,
            rounds,
            worker: self.running.spawn(async move { worker.run(stop).await }),
        });
    }
}

fn is_same(one: &Arc<dyn Mailbox>, other: &Arc<dyn Mailbox>) -> bool {
    Arc::ptr_eq(one, other)
}
