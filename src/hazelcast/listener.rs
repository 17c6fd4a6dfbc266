//! Listeners: what the cluster tells without being asked.
//!
//! Events are hints. A member sends them over one connection and keeps no record, so those of the time between a
//! lost connection and the next one are gone; the listener says that it was interrupted, and its user looks for itself.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::mpsc;
use tracing::debug;
use uuid::Uuid;

use super::connection::Connection;
use super::error::Result;
use super::invocation::Shared;
use super::message::{Incoming, Request};

/// Events that may wait for the listener's user. Further ones are dropped.
const EVENTS: usize = 1024;

/// How long a member may take to register a listener, and to remove one.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);

/// First and longest wait between two attempts to register; it doubles, with jitter.
const REGISTER_MIN: Duration = Duration::from_millis(50);
const REGISTER_MAX: Duration = Duration::from_secs(2);

/// What a listener's user gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice<T> {
    /// Something happened.
    Event(T),
    /// The listener is registered, for the first time or again: what happened before may have gone untold.
    Registered,
}

/// A registered listener. It registers again after each lost connection, and ends when dropped.
#[derive(Debug)]
pub struct Listener<T> {
    notices: mpsc::Receiver<Notice<T>>,
}

/// How one kind of listener is registered, read and removed.
pub(super) struct Registration<T> {
    pub(super) add: Box<dyn Fn() -> Result<Request> + Send + Sync>,
    pub(super) decode_id: fn(&Incoming) -> Result<Uuid>,
    pub(super) remove: Box<dyn Fn(Uuid) -> Result<Request> + Send + Sync>,
    pub(super) decode_event: fn(&Incoming) -> Result<T>,
}

impl<T: Send + 'static> Listener<T> {
    /// Begins to listen, in a task that ends when the listener is dropped or the client shut down.
    pub(super) fn spawn(shared: Arc<Shared>, registration: Registration<T>) -> Self {
        let (sink, notices) = mpsc::channel(EVENTS);
        tokio::spawn(async move { keep_registered(&shared, &registration, sink).await });
        Self { notices }
    }

    /// The next notice, or `None` once the client is shut down. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice<T>> {
        self.notices.recv().await
    }
}

async fn keep_registered<T>(shared: &Shared, registration: &Registration<T>, sink: mpsc::Sender<Notice<T>>) {
    let waits = ExponentialBuilder::new()
        .with_min_delay(REGISTER_MIN)
        .with_max_delay(REGISTER_MAX)
        .with_jitter()
        .without_max_times();
    let mut wait = waits.build();
    loop {
        let connection = tokio::select! {
            connection = any_connection(shared) => connection,
            () = sink.closed() => return,
        };
        let Some(connection) = connection else { return };
        match register(shared, registration, &connection).await {
            Ok((id, events)) => {
                wait = waits.build();
                if forward(events, registration, &sink).await.is_break() {
                    return remove(shared, registration, &connection, id).await;
                }
            }
            Err(error) => debug!(%error, address = %connection.address, "cannot register a listener"),
        }
        tokio::select! {
            () = tokio::time::sleep(wait.next().unwrap_or(REGISTER_MAX)) => {}
            () = sink.closed() => return,
        }
    }
}

async fn any_connection(shared: &Shared) -> Option<Arc<Connection>> {
    let mut view = shared.view.clone();
    let view = view.wait_for(|view| !view.connections.is_empty()).await.ok()?;
    view.connections.first().cloned()
}

async fn register<T>(
    shared: &Shared,
    registration: &Registration<T>,
    connection: &Connection,
) -> Result<(Uuid, mpsc::Receiver<Incoming>)> {
    let (sink, events) = mpsc::channel(EVENTS);
    let call = shared.invoke_on_connection((registration.add)()?, connection, Some(sink), REGISTRATION_TIMEOUT);
    let id = (registration.decode_id)(&call.await?)?;
    Ok((id, events))
}

/// Hands events on until the connection ends, or breaks off when the listener is dropped.
async fn forward<T>(
    mut events: mpsc::Receiver<Incoming>,
    registration: &Registration<T>,
    sink: &mpsc::Sender<Notice<T>>,
) -> ControlFlow<()> {
    if sink.send(Notice::Registered).await.is_err() {
        return ControlFlow::Break(());
    }
    loop {
        let message = tokio::select! {
            message = events.recv() => message,
            () = sink.closed() => return ControlFlow::Break(()),
        };
        let Some(message) = message else {
            return ControlFlow::Continue(());
        };
        match (registration.decode_event)(&message) {
            // Full: the user does not keep up, and has enough to look at.
            Ok(event) => drop(sink.try_send(Notice::Event(event))),
            Err(error) => debug!(%error, "an event of a listener cannot be read"),
        }
    }
}

async fn remove<T>(shared: &Shared, registration: &Registration<T>, connection: &Connection, id: Uuid) {
    let removal = match (registration.remove)(id) {
        Ok(request) => {
            shared
                .invoke_on_connection(request, connection, None, REGISTRATION_TIMEOUT)
                .await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = removal {
        // The member forgets it with the connection; until then its events are dropped unread.
        debug!(%error, address = %connection.address, "cannot remove a listener");
    }
}
