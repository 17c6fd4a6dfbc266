//! [`Batcher`]: group commit. Items that many callers hand in one by one travel together, and each caller is answered alone.
//!
//! Nobody waits for company: an item that comes while there is room for another batch leaves at once. What comes while
//! the batches before it travel gathers, and leaves together when one of them is back. So batches grow with the load,
//! and few of them at a time make large ones.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::error;

/// How long a caller waits past its item's deadline. Who flushes knows better than the caller why there is no outcome
/// in time, and gives up at the deadline of the last item of a batch.
const GRACE: Duration = Duration::from_millis(100);

/// How much a [`Batcher`] takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items of one batch, at most.
    pub batch_items: usize,
    /// Bytes of one batch, at most, but for a larger item, which is a batch of its own.
    pub batch_bytes: usize,
    /// Items that were handed in and have no outcome yet, at most. Further ones are refused.
    pub items: usize,
    /// Their bytes, at most. What goes over it is refused.
    pub bytes: usize,
    /// Batches that travel at a time, but for slow ones.
    pub flights: usize,
    /// After so long a batch is slow: it no longer counts among [`Limits::flights`], so that one that hangs does not hold
    /// up those behind it.
    pub slow_after: Duration,
    /// Batches that travel at a time, slow ones too.
    pub most_flights: usize,
}

/// Gathers items into batches, and sends these on their way. What travels is cut off when this is dropped.
#[derive(Debug)]
pub struct Batcher<I, O> {
    inbox: mpsc::Sender<Entry<I, O>>,
    in_work: Arc<InWork>,
    limits: Limits,
    _dispatcher: JoinSet<()>,
}

/// An item of a batch.
#[derive(Debug)]
pub struct Entry<I, O> {
    /// What was handed in.
    pub item: I,
    /// Who waits for what becomes of it.
    pub ticket: Ticket<O>,
}

/// A caller that waits for an outcome. Dropped, it is told that there is none.
#[derive(Debug)]
pub struct Ticket<O> {
    /// Until when it waits.
    pub deadline: Instant,
    reply: oneshot::Sender<O>,
    place: Place,
}

/// An item has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoOutcome {
    /// It was not taken: too much is in work.
    Full,
    /// There was none by its deadline. It did not leave, or what was begun may go on.
    Late,
    /// What flushed it failed.
    Lost,
}

impl<O> Ticket<O> {
    /// Tells the caller, if it still waits.
    pub fn answer(self, outcome: O) {
        // A caller that went away asks for nothing more.
        let _ = self.reply.send(outcome);
    }

    fn is_in_time(&self) -> bool {
        Instant::now() < self.deadline
    }
}

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// A batcher that calls `flush` with each batch, in a task of its own. It answers each entry, in any order, and none
    /// of them later than at the deadline of the last one.
    pub fn start<F>(limits: Limits, flush: impl Fn(Vec<Entry<I, O>>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // An item has its place before it is sent, so there is always room.
        let (inbox, arrivals) = mpsc::channel(limits.items.max(1));
        let mut dispatcher = JoinSet::new();
        dispatcher.spawn(dispatch(arrivals, limits, flush));
        Self {
            inbox,
            in_work: Arc::default(),
            limits,
            _dispatcher: dispatcher,
        }
    }

    /// Hands in an item of so many bytes, and waits for its outcome until `deadline`. Who stops waiting earlier takes
    /// nothing back.
    ///
    /// # Errors
    /// Where there is no outcome; see [`NoOutcome`].
    pub async fn submit(&self, item: I, bytes: usize, deadline: Instant) -> Result<O, NoOutcome> {
        let (reply, outcome) = oneshot::channel();
        let place = self.place(bytes).ok_or(NoOutcome::Full)?;
        let ticket = Ticket { deadline, reply, place };
        self.inbox
            .try_send(Entry { item, ticket })
            .map_err(|_| NoOutcome::Full)?;
        match timeout_at(deadline + GRACE, outcome).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) if Instant::now() < deadline => Err(NoOutcome::Lost),
            Ok(Err(_)) | Err(_) => Err(NoOutcome::Late),
        }
    }

    fn place(&self, bytes: usize) -> Option<Place> {
        let place = Place::new(&self.in_work, bytes);
        let is_free = self.in_work.items.load(Ordering::Relaxed) <= self.limits.items
            && self.in_work.bytes.load(Ordering::Relaxed) <= self.limits.bytes;
        is_free.then_some(place)
    }
}

/// What was handed in and has no outcome yet.
#[derive(Debug, Default)]
struct InWork {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

/// One item among them, for as long as it lives.
#[derive(Debug)]
struct Place {
    in_work: Arc<InWork>,
    bytes: usize,
}

impl Place {
    fn new(in_work: &Arc<InWork>, bytes: usize) -> Self {
        in_work.items.fetch_add(1, Ordering::Relaxed);
        in_work.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self {
            in_work: in_work.clone(),
            bytes,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_work.items.fetch_sub(1, Ordering::Relaxed);
        self.in_work.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The task: sends off what has gathered whenever there is room for another batch.
async fn dispatch<I, O, F>(inbox: mpsc::Receiver<Entry<I, O>>, limits: Limits, flush: impl Fn(Vec<Entry<I, O>>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut arrivals = Arrivals { inbox, held: None };
    let mut flights = Flights::new(&limits);
    loop {
        flights.room().await;
        let Some(batch) = arrivals.batch(&limits).await else {
            return;
        };
        flights.begin(flush(batch));
    }
}

/// What was handed in and waits.
struct Arrivals<I, O> {
    inbox: mpsc::Receiver<Entry<I, O>>,
    /// One that did not fit into the batch before.
    held: Option<Entry<I, O>>,
}

impl<I, O> Arrivals<I, O> {
    /// What has arrived, as far as a batch takes it. Waits until there is something; `None` where nothing can come.
    async fn batch(&mut self, limits: &Limits) -> Option<Vec<Entry<I, O>>> {
        let first = loop {
            let entry = match self.held.take() {
                Some(entry) => entry,
                None => self.inbox.recv().await?,
            };
            if entry.ticket.is_in_time() {
                break entry;
            }
        };
        let arrived = self.inbox.len().saturating_add(1);
        let mut batch = Vec::with_capacity(arrived.min(limits.batch_items));
        let mut bytes = first.ticket.place.bytes;
        batch.push(first);
        while batch.len() < limits.batch_items {
            let Ok(entry) = self.inbox.try_recv() else {
                break;
            };
            if !entry.ticket.is_in_time() {
                continue;
            }
            bytes = bytes.saturating_add(entry.ticket.place.bytes);
            if bytes > limits.batch_bytes {
                self.held = Some(entry);
                break;
            }
            batch.push(entry);
        }
        Some(batch)
    }
}

/// The batches that travel.
struct Flights<'a> {
    limits: &'a Limits,
    tasks: JoinSet<()>,
    /// Those that are not slow yet, since when, the oldest first.
    quick: VecDeque<(Id, Instant)>,
}

impl<'a> Flights<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            tasks: JoinSet::new(),
            quick: VecDeque::new(),
        }
    }

    fn begin(&mut self, flight: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(flight).id();
        self.quick.push_back((id, Instant::now()));
    }

    /// Waits until another batch may leave.
    async fn room(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.ended(ended);
        }
        loop {
            let slow_at = self.quick.front().map(|(_, since)| *since + self.limits.slow_after);
            if slow_at.is_some_and(|at| at <= Instant::now()) {
                self.quick.pop_front();
                continue;
            }
            if self.tasks.is_empty() {
                return;
            }
            let all = self.tasks.len() >= self.limits.most_flights;
            if !all && self.quick.len() < self.limits.flights {
                return;
            }
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                () = until(slow_at), if !all => {}
            }
        }
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(cause) => {
                if cause.is_panic() {
                    error!(%cause, "a batch was lost to a fault in this program");
                }
                cause.id()
            }
        };
        self.quick.retain(|(quick, _)| *quick != id);
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl fmt::Display for NoOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoOutcome::Full => "too much is in work",
            NoOutcome::Late => "no outcome in time",
            NoOutcome::Lost => "what was to be done with it failed",
        })
    }
}

impl std::error::Error for NoOutcome {}

#[cfg(test)]
mod tests;
