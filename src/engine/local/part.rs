//! [`Part`]: what the log and a mailbox have in common: a space of the store, as an engine.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt, ready};

use super::store::{Space, Store};
use crate::engine::{Engine, Result, Unavailable};

/// A space of the store. `Memory` is what this process remembers of it.
#[derive(Debug)]
pub(in crate::engine) struct Part<Memory> {
    pub(super) store: Arc<Store>,
    pub(super) space: Space,
    pub(super) memory: Memory,
}

impl<Memory: Send + Sync> Part<Memory> {
    pub(super) fn outcome<T>(&self, outcome: anyhow::Result<T>) -> Result<T> {
        outcome.map_err(|cause| self.unavailable(cause))
    }

    pub(super) fn unavailable(&self, cause: anyhow::Error) -> Unavailable {
        Unavailable {
            engine: self.describe(),
            cause,
        }
    }
}

impl<Memory: Send + Sync> Engine for Part<Memory> {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn object_name(&self) -> &str {
        self.space.name()
    }

    fn identity(&self) -> Option<String> {
        Some(self.store.identity(&self.space))
    }

    fn advice(&self) -> String {
        self.store.advice()
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        ready(self.check()).boxed()
    }

    fn check(&self) -> Result<()> {
        self.outcome(self.store.check())
    }

    fn check_readable(&self) -> Result<()> {
        // What fails are writes: a read tells by itself where it fails, too.
        Ok(())
    }
}
