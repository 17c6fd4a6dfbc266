//! Calls on their way: which answer belongs to whom, and which backups have confirmed it.
//!
//! Correlation ids are unique in the client, not only in a connection, since a backup confirms a call on a
//! connection of its own, naming the call by its id alone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::error::{Error, Kind, Result};
use super::message::Incoming;

/// Where a call's answer goes.
pub(super) type Reply = oneshot::Sender<Result<Incoming>>;

/// Where the events of a listener go.
pub(super) type EventSink = mpsc::Sender<Incoming>;

/// Names a connection within its client. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConnectionId(pub(super) u64);

/// The calls of one client that were handed to a connection's writer, by correlation id.
///
/// The lock is held for a look-up at a time, by the connections' tasks and by nobody over an await.
pub(super) struct PendingCalls {
    next_id: AtomicI64,
    backup_ack_timeout: Duration,
    fail_on_indeterminate: bool,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    calls: HashMap<i64, Call>,
    listeners: HashMap<i64, Listener>,
}

struct Call {
    connection: ConnectionId,
    reply: Reply,
    /// Backups that have confirmed; they may do so before the answer comes.
    backup_acks: u8,
    answer: Option<Answer>,
}

/// An answer that waits for the backups that it names.
struct Answer {
    message: Incoming,
    arrived: Instant,
}

struct Listener {
    connection: ConnectionId,
    events: EventSink,
}

impl PendingCalls {
    pub(super) fn new(backup_ack_timeout: Duration, fail_on_indeterminate: bool) -> Self {
        Self {
            next_id: AtomicI64::new(1),
            backup_ack_timeout,
            fail_on_indeterminate,
            table: Mutex::default(),
        }
    }

    /// Takes a call in and gives it a correlation id that no other try ever had. The ids of one connection rise in
    /// the order of the calls. `events`: the call registers a listener, whose events go there until the connection ends.
    pub(super) fn register(&self, connection: ConnectionId, reply: Reply, events: Option<EventSink>) -> i64 {
        let mut table = self.table();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Some(events) = events {
            table.listeners.insert(id, Listener { connection, events });
        }
        table.calls.insert(
            id,
            Call {
                connection,
                reply,
                backup_acks: 0,
                answer: None,
            },
        );
        id
    }

    /// A correlation id for a request whose answer nobody waits for.
    pub(super) fn unanswered_id(&self) -> i64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// An answer has come: the call is done, or waits for its backups.
    pub(super) fn answer(&self, message: Incoming) {
        let mut table = self.table();
        let id = message.correlation_id();
        let Some(call) = table.calls.get_mut(&id) else { return };
        if message.backup_acks() > call.backup_acks {
            call.answer = Some(Answer {
                message,
                arrived: Instant::now(),
            });
        } else if let Some(call) = table.calls.remove(&id) {
            drop(table);
            let _ = call.reply.send(Ok(message));
        }
    }

    /// A backup has confirmed the call of this id.
    pub(super) fn backup_ack(&self, id: i64) {
        let mut table = self.table();
        let Some(call) = table.calls.get_mut(&id) else { return };
        call.backup_acks = call.backup_acks.saturating_add(1);
        if call
            .answer
            .as_ref()
            .is_none_or(|answer| answer.message.backup_acks() > call.backup_acks)
        {
            return;
        }
        let confirmed = table.calls.remove(&id);
        drop(table);
        if let Some(Call {
            reply,
            answer: Some(answer),
            ..
        }) = confirmed
        {
            let _ = reply.send(Ok(answer.message));
        }
    }

    /// An event has come for a listener. Where its queue is full the event is dropped: events are hints.
    pub(super) fn event(&self, message: Incoming) {
        let events = {
            let table = self.table();
            table
                .listeners
                .get(&message.correlation_id())
                .map(|listener| listener.events.clone())
        };
        if let Some(events) = events {
            // Full or closed: a listener that does not keep up or is gone.
            let _ = events.try_send(message);
        }
    }

    /// The connection has ended. Its calls fail: as not written where their id is past `begun`, the last one of
    /// which a byte was written, as unknown otherwise. Answers that wait for backups do not wait longer, whoever
    /// owes them: the member that died may be the one.
    pub(super) fn connection_ended(&self, connection: ConnectionId, begun: i64, reason: &Error) {
        let ended: Vec<(i64, Call)> = {
            let mut table = self.table();
            table.listeners.retain(|_, listener| listener.connection != connection);
            table
                .calls
                .extract_if(|_, call| call.connection == connection || call.answer.is_some())
                .collect()
        };
        for (id, call) in ended {
            if call.answer.is_some() {
                self.settle_unconfirmed(call);
            } else {
                let kind = if id <= begun {
                    Kind::OutcomeUnknown
                } else {
                    Kind::NotWritten
                };
                let _ = call.reply.send(Err(Error::new(kind, format!("{reason:#}"))));
            }
        }
    }

    /// A member has left the cluster. Answers that wait for backups do not wait longer: it may be the one that owes, to
    /// tries too that were made after its connection ended.
    pub(super) fn member_left(&self) {
        let unconfirmed: Vec<(i64, Call)> = {
            let mut table = self.table();
            table.calls.extract_if(|_, call| call.answer.is_some()).collect()
        };
        for (_, call) in unconfirmed {
            self.settle_unconfirmed(call);
        }
    }

    /// Ends the wait of answers whose backups are overdue, and forgets calls whose callers have gone.
    pub(super) fn sweep(&self) {
        let overdue: Vec<(i64, Call)> = {
            let mut table = self.table();
            table.calls.retain(|_, call| !call.reply.is_closed());
            table.listeners.retain(|_, listener| !listener.events.is_closed());
            let overdue = |answer: &Answer| answer.arrived.elapsed() >= self.backup_ack_timeout;
            table
                .calls
                .extract_if(|_, call| call.answer.as_ref().is_some_and(overdue))
                .collect()
        };
        for (_, call) in overdue {
            self.settle_unconfirmed(call);
        }
    }

    fn settle_unconfirmed(&self, call: Call) {
        if self.fail_on_indeterminate {
            let message = "the member applied the operation, but its backups did not confirm it in time";
            let _ = call.reply.send(Err(Error::new(Kind::Indeterminate, message)));
        } else if let Some(answer) = call.answer {
            let _ = call.reply.send(Ok(answer.message));
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic while the lock was held leaves whole entries: every change is one insertion or removal.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
