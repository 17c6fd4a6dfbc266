//! A call from its first try to its answer: where it goes, what is tried again, and when it is over.
//!
//! The rules for another try are those that the official clients share:
//!
//! 1. a call bound to one connection is not repeated;
//! 2. a call bound to one member is not repeated once that is no member any more;
//! 3. a call that was not written, or that the member refused for a reason that passes by itself, is repeated, mutations too;
//! 4. a call whose outcome is unknown is repeated only where that is harmless: the protocol says so, or the user did
//!    ([`Config::redo_operations`](super::Config::redo_operations));
//! 5. anything else is final.
//!
//! Each try has a correlation id of its own: a late answer to the first must not pass for the second's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::{oneshot, watch};
use tracing::debug;
use uuid::Uuid;

use super::cluster::View;
use super::config::Config;
use super::connection::Connection;
use super::deadline::Deadline;
use super::error::{Error, Kind, Result};
use super::message::{Incoming, Request, Retry, Route};
use super::outbox::Outgoing;
use super::partition::partition_id;
use super::pending::EventSink;

/// First and longest wait between two tries of a call; it doubles, with jitter.
const RETRY_MIN: Duration = Duration::from_millis(2);
const RETRY_MAX: Duration = Duration::from_millis(100);

/// What every handle of one client shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) view: watch::Receiver<Arc<View>>,
    stop: Stop,
    turn: AtomicUsize,
}

/// What ends the supervisor's task: that this is sent or dropped. So it ends with the last handle at the latest.
#[derive(Debug)]
pub(super) struct Stop(Mutex<Option<oneshot::Sender<()>>>);

impl Stop {
    pub(super) fn new(stop: oneshot::Sender<()>) -> Self {
        Self(Mutex::new(Some(stop)))
    }
}

/// What one try is: which member it goes to, and what the member is told.
#[derive(Clone, Copy)]
enum Destination {
    /// Whom the request's route leads to at the time of the try.
    Routed,
    Member(Uuid),
}

impl Shared {
    pub(super) fn new(config: Arc<Config>, view: watch::Receiver<Arc<View>>, stop: Stop) -> Self {
        Self {
            config,
            view,
            stop,
            turn: AtomicUsize::new(0),
        }
    }

    /// Ends the supervisor's task, and waits until it has ended, whoever began it.
    pub(super) async fn shutdown(&self) {
        drop(self.stop.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut view = self.view.clone();
        // The views' sender goes with the task.
        while view.changed().await.is_ok() {}
    }

    /// The number of partitions. Waits for the first connection, which brings it.
    pub(super) async fn partition_count(&self, deadline: Deadline) -> Result<i32> {
        let mut view = self.view.clone();
        let known = view.wait_for(|view| view.partition_count > 0);
        match deadline.bound(known).await {
            Ok(Ok(view)) => Ok(view.partition_count),
            Ok(Err(_)) => Err(shut_down()),
            Err(_) => {
                let error = Error::timed_out("finding out the number of partitions", deadline.limit, false);
                Err(with_problem(error, self.view.borrow().problem.as_deref()))
            }
        }
    }

    /// Calls whom the request's route leads to, within `limit`, tries and waits together.
    pub(super) async fn invoke(&self, request: Request, limit: Duration) -> Result<Incoming> {
        self.invoke_until(request, Deadline::after(limit)).await
    }

    /// The same, for one of several requests that make up a call.
    pub(super) async fn invoke_until(&self, request: Request, deadline: Deadline) -> Result<Incoming> {
        self.repeat(request, deadline, Destination::Routed).await
    }

    /// Calls this member, as long as it is one.
    pub(super) async fn invoke_on_member(&self, request: Request, member: Uuid, limit: Duration) -> Result<Incoming> {
        self.repeat(request, Deadline::after(limit), Destination::Member(member))
            .await
    }

    /// Calls over this connection, once; `events` takes what a listener so registered is sent.
    pub(super) async fn invoke_on_connection(
        &self,
        request: Request,
        connection: &Connection,
        events: Option<EventSink>,
        limit: Duration,
    ) -> Result<Incoming> {
        let request = Arc::new(request);
        let call = async { answer(&request, send(connection, &request, -1, false, events).await?).await };
        match Deadline::after(limit).bound(call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::timed_out(request.operation, limit, true)),
        }
    }

    async fn repeat(&self, request: Request, deadline: Deadline, destination: Destination) -> Result<Incoming> {
        let request = Arc::new(request);
        let mut progress = Progress::default();
        let tries = self.tries(&request, destination, &mut progress);
        match deadline.bound(tries).await {
            Ok(outcome) => outcome,
            Err(_) => Err(progress.timed_out(&request, deadline.limit, self.view.borrow().problem.as_deref())),
        }
    }

    async fn tries(
        &self,
        request: &Arc<Request>,
        destination: Destination,
        progress: &mut Progress,
    ) -> Result<Incoming> {
        let mut waits = ExponentialBuilder::new()
            .with_min_delay(RETRY_MIN)
            .with_max_delay(RETRY_MAX)
            .with_jitter()
            .without_max_times()
            .build();
        loop {
            let error = match self.try_once(request, destination, progress).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            progress.outcome_unknown |= error.outcome_unknown();
            if !self.is_repeated(request.retry, &error) {
                return Err(progress.last_word(error));
            }
            debug!(operation = request.operation, %error, "a call is tried again");
            progress.last = Some(error);
            tokio::time::sleep(waits.next().unwrap_or(RETRY_MAX)).await;
        }
    }

    /// Rules 3 to 5. Rule 2 is [`Shared::destination`]'s, rule 1 [`Shared::invoke_on_connection`]'s.
    fn is_repeated(&self, retry: Retry, error: &Error) -> bool {
        match error.kind() {
            Kind::NotWritten => true,
            Kind::OutcomeUnknown | Kind::Indeterminate => match retry {
                Retry::Always => true,
                Retry::IfRedo => self.config.redo_operations,
                Retry::Never => false,
            },
            _ => error.is_retryable_at_server(),
        }
    }

    async fn try_once(
        &self,
        request: &Arc<Request>,
        destination: Destination,
        progress: &mut Progress,
    ) -> Result<Incoming> {
        let (connection, partition_id, backup_aware) = self.destination(request.route, destination).await?;
        let reply = send(&connection, request, partition_id, backup_aware, None).await?;
        progress.in_flight = true;
        let outcome = answer(request, reply).await;
        progress.in_flight = false;
        outcome
    }

    /// The connection to use now, the partition to name and whether backups confirm. Waits for a connection.
    async fn destination(&self, route: Route, destination: Destination) -> Result<(Arc<Connection>, i32, bool)> {
        let mut view = self.view.clone();
        loop {
            let current = Arc::clone(&view.borrow_and_update());
            let partition = partition_of(route, current.partition_count);
            let connection = match destination {
                Destination::Routed => {
                    let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                    current.connection_for(partition, turn)
                }
                Destination::Member(member) => {
                    if !current.connections.is_empty() && !current.is_member(member) {
                        return Err(Error::new(
                            Kind::MemberLeft,
                            format!("{member} is no member of the cluster"),
                        ));
                    }
                    current.connection_to(member)
                }
            };
            if let Some(connection) = connection {
                return Ok((
                    Arc::clone(connection),
                    partition,
                    current.expects_backup_acks(connection),
                ));
            }
            if view.changed().await.is_err() {
                return Err(shut_down());
            }
        }
    }
}

/// What a call knows of its tries, for the error that its deadline makes.
#[derive(Default)]
struct Progress {
    in_flight: bool,
    outcome_unknown: bool,
    last: Option<Error>,
}

impl Progress {
    /// A final error does not hide that an earlier try may have been applied.
    fn last_word(&self, error: Error) -> Error {
        if self.outcome_unknown && !error.outcome_unknown() {
            Error::new(
                Kind::OutcomeUnknown,
                "an earlier try may have been applied; the last one failed",
            )
            .caused_by(error)
        } else {
            error
        }
    }

    fn timed_out(self, request: &Request, limit: Duration, problem: Option<&str>) -> Error {
        let error = Error::timed_out(request.operation, limit, self.outcome_unknown || self.in_flight);
        match self.last {
            Some(last) => error.caused_by(last),
            None => with_problem(error, problem),
        }
    }
}

fn with_problem(error: Error, problem: Option<&str>) -> Error {
    match problem {
        Some(problem) => error.caused_by(format!("no member can be reached: {problem}")),
        None => error,
    }
}

pub(super) fn shut_down() -> Error {
    Error::new(Kind::ShutDown, "the client is shut down")
}

fn partition_of(route: Route, partition_count: i32) -> i32 {
    match route {
        Route::Any => -1,
        Route::Key(hash) => partition_id(hash, partition_count),
        Route::Partition(id) => id,
    }
}

async fn send(
    connection: &Connection,
    request: &Arc<Request>,
    partition_id: i32,
    backup_aware: bool,
    events: Option<EventSink>,
) -> Result<oneshot::Receiver<Result<Incoming>>> {
    let (reply, answer) = oneshot::channel();
    let request = Arc::clone(request);
    connection
        .send(Outgoing {
            request,
            partition_id,
            backup_aware,
            reply,
            events,
        })
        .await?;
    Ok(answer)
}

/// Waits for the answer; an error that the member sent is this call's error.
async fn answer(request: &Request, reply: oneshot::Receiver<Result<Incoming>>) -> Result<Incoming> {
    match reply.await {
        Ok(outcome) => {
            let incoming = outcome?;
            request.check_answer(&incoming)?;
            Ok(incoming)
        }
        // The connection's task was ended in the middle of something.
        Err(_) => Err(Error::new(Kind::OutcomeUnknown, "the connection's task has ended")),
    }
}
