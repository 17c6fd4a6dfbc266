//! [`Job`]: something to write.

use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::writing::Writing;

/// Something to write, with somebody who waits for it.
pub(super) trait Job: Send {
    /// What it holds in memory.
    fn bytes(&self) -> usize;

    /// When it is too late to begin.
    fn begin_by(&self) -> Instant;

    /// Does it, once.
    fn run(&mut self, writing: &mut Writing<'_>) -> rusqlite::Result<()>;

    /// Tells who waits: what it returned, or why it was not done.
    fn answer(self: Box<Self>, failure: Option<Arc<str>>);
}

/// A [`Job`] from a closure.
pub(super) struct Pending<T, F> {
    work: Option<F>,
    returned: Option<T>,
    bytes: usize,
    begin_by: Instant,
    reply: oneshot::Sender<anyhow::Result<T>>,
    _room: OwnedSemaphorePermit,
}

impl<T, F> Pending<T, F> {
    pub(super) fn new(
        work: F,
        bytes: usize,
        begin_by: Instant,
        reply: oneshot::Sender<anyhow::Result<T>>,
        room: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            work: Some(work),
            returned: None,
            bytes,
            begin_by,
            reply,
            _room: room,
        }
    }
}

impl<T, F> Job for Pending<T, F>
where
    T: Send,
    F: FnOnce(&mut Writing<'_>) -> rusqlite::Result<T> + Send,
{
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn begin_by(&self) -> Instant {
        self.begin_by
    }

    fn run(&mut self, writing: &mut Writing<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.returned = Some(work(writing)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, failure: Option<Arc<str>>) {
        let outcome = match (failure, self.returned) {
            (None, Some(returned)) => Ok(returned),
            (Some(failure), _) => Err(anyhow!("{failure}")),
            (None, None) => Err(anyhow!("it was not done")),
        };
        // Who does not wait any more does not hear it.
        let _ = self.reply.send(outcome);
    }
}
