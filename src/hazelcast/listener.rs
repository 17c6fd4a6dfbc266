//! Listeners: what the cluster tells without being asked.
//!
//! Events are hints. A member sends them over one connection and keeps no record, so those of the time between a
//! lost connection and the next one are gone; the listener says that it was interrupted, and its user looks for itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::debug;

use super::connection::Connection;
use super::error::Result;
use super::invocation::Shared;
use super::message::{Incoming, Request};

/// Events that may wait for the listener's user. Further ones are dropped.
const EVENTS: usize = 1024;

/// How long a member may take to register a listener.
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
    task: JoinHandle<()>,
}

impl<T: Send + 'static> Listener<T> {
    pub(super) fn spawn(
        shared: Arc<Shared>,
        request: impl Fn() -> Result<Request> + Send + 'static,
        decode: impl Fn(&Incoming) -> Result<T> + Send + 'static,
    ) -> Self {
        let (sink, notices) = mpsc::channel(EVENTS);
        let task = tokio::spawn(async move { keep_registered(&shared, request, decode, sink).await });
        Self { notices, task }
    }

    /// The next notice, or `None` once the client is shut down. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice<T>> {
        self.notices.recv().await
    }
}

impl<T> Drop for Listener<T> {
    fn drop(&mut self) {
        // The member goes on sending until the connection ends; what it sends is dropped unread.
        self.task.abort();
    }
}

async fn keep_registered<T>(
    shared: &Shared,
    request: impl Fn() -> Result<Request>,
    decode: impl Fn(&Incoming) -> Result<T>,
    sink: mpsc::Sender<Notice<T>>,
) {
    let waits = ExponentialBuilder::new()
        .with_min_delay(REGISTER_MIN)
        .with_max_delay(REGISTER_MAX)
        .with_jitter()
        .without_max_times();
    let mut wait = waits.build();
    while let Some(connection) = any_connection(shared).await {
        match register(shared, &request, &connection).await {
            Ok(mut events) => {
                wait = waits.build();
                if sink.send(Notice::Registered).await.is_err() {
                    return;
                }
                while let Some(message) = events.recv().await {
                    match decode(&message) {
                        // Full: the user does not keep up, and has enough to look at.
                        Ok(event) => drop(sink.try_send(Notice::Event(event))),
                        Err(error) => debug!(%error, address = %connection.address, "an event cannot be read"),
                    }
                }
            }
            Err(error) => debug!(%error, address = %connection.address, "cannot register a listener"),
        }
        tokio::time::sleep(wait.next().unwrap_or(REGISTER_MAX)).await;
    }
}

async fn any_connection(shared: &Shared) -> Option<Arc<Connection>> {
    let mut view = shared.view.clone();
    let view = view.wait_for(|view| !view.connections.is_empty()).await.ok()?;
    view.connections.first().cloned()
}

fn register(
    shared: &Shared,
    request: &impl Fn() -> Result<Request>,
    connection: &Connection,
) -> impl Future<Output = Result<mpsc::Receiver<Incoming>>> {
    let (sink, events) = mpsc::channel(EVENTS);
    let request = request();
    async move {
        shared
            .invoke_on_connection(request?, connection, Some(sink), REGISTRATION_TIMEOUT)
            .await?;
        Ok(events)
    }
}
