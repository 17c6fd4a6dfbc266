//! [`Readers`]: a few connections that read beside the writer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::file::{Database, explain, is_lasting};

/// Reads at a time.
const MOST: usize = 2;

/// Connections that read. They are opened when there is something to read, and kept.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Database>>,
    room: Arc<Semaphore>,
}

impl Readers {
    /// Readers of the file at `path`. None is open yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            idle: Mutex::default(),
            room: Arc::new(Semaphore::new(MOST)),
        }
    }

    /// Does `work` on a thread where it may block, in one transaction.
    pub(super) async fn read<T, F>(self: &Arc<Self>, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let room = self.room.clone().acquire_owned().await?;
        let readers = self.clone();
        let read = spawn_blocking(move || {
            let outcome = readers.read_now(work);
            drop(room);
            outcome
        });
        read.await.context("a read met a fault in this program")?
    }

    pub(super) fn read_now<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> anyhow::Result<T> {
        let idle = self.idle().pop();
        let database = match idle {
            Some(database) if database.check_in_place().is_ok() => database,
            _ => Database::open_to_read(&self.path)?,
        };
        let read = || {
            let transaction = Transaction::new_unchecked(&database.connection, TransactionBehavior::Deferred)?;
            let found = work(&transaction)?;
            transaction.commit()?;
            Ok(found)
        };
        let outcome = read();
        if !outcome.as_ref().is_err_and(is_lasting) {
            self.idle().push(database);
        }
        outcome.map_err(|error| explain(&self.path, &error))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Database>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
