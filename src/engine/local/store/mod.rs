//! [`Store`]: the messages in one file, which the processes of one machine share.
//!
//! Who writes hands a job to the process's one writer, which puts all jobs that wait into one transaction. It is answered once
//! that is on the disk. Reads run beside it, each in a short transaction of its own.

mod file;
mod job;
mod readers;
mod space;
#[cfg(test)]
pub(super) mod tests;
mod turn;
mod writer;
mod writing;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow, bail};
use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use file::{Database, with_suffix};
use job::{Job, Pending};
use readers::Readers;
use turn::Turn;
use writer::Writer;

pub(super) use space::{Kind, Space, find};
pub(super) use writing::Writing;

/// How long one call may take. Shorter than a request's time, so that the answer says what was wrong instead of not coming.
const LIMIT: Duration = Duration::from_secs(4);

/// A job that did not begin by then is not begun.
const BEGIN_LIMIT: Duration = Duration::from_millis(3500);

/// Jobs that wait for the writer, and how much each counts at least: what they hold in memory stays under 32 MiB.
const MOST_JOBS: usize = 1024;
const JOB_BYTES: usize = 32 * 1024;

/// The store of one folder, in one process.
#[derive(Debug)]
pub(in crate::engine) struct Store {
    /// As it was given.
    folder: PathBuf,
    shared: Arc<Shared>,
    /// `None` once it ends.
    jobs: Option<SyncSender<Box<dyn Job>>>,
    writer: Option<JoinHandle<()>>,
    room: Arc<Semaphore>,
    readers: Arc<Readers>,
}

/// What the store and its writer share.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// The write-ahead log, beside it.
    wal: PathBuf,
    is_ending: AtomicBool,
    /// Why the last write failed, where the next one may, too.
    trouble: Mutex<Option<Arc<str>>>,
    /// Whether the next sync is to fail, which no test can bring about otherwise.
    #[cfg(test)]
    fails_to_sync: AtomicBool,
}

impl Shared {
    fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<Arc<str>>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// What changes with every write, by whichever process: time and length of the write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    modified: SystemTime,
    length: u64,
}

impl Mark {
    /// Whether each later write has another mark: the clock of a file system may stand for some milliseconds.
    pub(super) fn is_settled(&self) -> bool {
        let age = SystemTime::now().duration_since(self.modified);
        age.is_ok_and(|age| age > Duration::from_millis(50))
    }
}

impl Store {
    /// Opens `messages.db` in `folder`, which is there; creates it where there is none. Blocks.
    ///
    /// # Errors
    /// Where the file is not one of ours, of a newer version, or damaged: it is left as it is. Where the folder cannot be
    /// used. The error says what to do.
    pub(in crate::engine) fn open(folder: &Path) -> anyhow::Result<Arc<Self>> {
        let given = folder.to_owned();
        let folder = fs::canonicalize(folder).with_context(|| format!("{} cannot be used", folder.display()))?;
        let path = folder.join("messages.db");
        let turn = Turn::open(&folder)?;
        let database = Database::open_or_create(&path, &turn)?;
        let shared = Arc::new(Shared {
            path: path.clone(),
            wal: with_suffix(&path, "-wal"),
            is_ending: AtomicBool::new(false),
            trouble: Mutex::default(),
            #[cfg(test)]
            fails_to_sync: AtomicBool::new(false),
        });
        let (jobs, waiting) = sync_channel(MOST_JOBS);
        let writer = Writer::new(shared.clone(), turn, waiting);
        let thread = thread::Builder::new().name("store".to_owned());
        let thread = thread.spawn(move || writer.run(database));
        Ok(Arc::new(Self {
            folder: given,
            shared,
            jobs: Some(jobs),
            writer: Some(thread.context("the thread that writes cannot be started")?),
            room: Arc::new(Semaphore::new(MOST_JOBS)),
            readers: Arc::new(Readers::new(path)),
        }))
    }

    /// What a person calls it.
    pub(super) fn describe(&self) -> String {
        format!("the folder {}", self.folder.display())
    }

    /// What a person can do where it does not work.
    pub(super) fn advice(&self) -> String {
        "see that the folder can be written and that its disk has room, or name another folder with --local".to_owned()
    }

    /// What two have in common that lead to the same data, however the folder was given.
    pub(super) fn identity(&self, space: &Space) -> String {
        format!("{space} in {}", self.shared.path.display())
    }

    /// Whether writes go well, as far as is known.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.shared
            .trouble()
            .map_or(Ok(()), |trouble| Err(anyhow!("{trouble}")))
    }

    /// Tells what the mark is, whenever it is asked; `None` where it cannot be told.
    pub(super) fn marks(&self) -> impl Fn() -> Option<Mark> + Send + 'static {
        let shared = self.shared.clone();
        move || {
            let metadata = fs::metadata(&shared.wal).ok()?;
            Some(Mark {
                modified: metadata.modified().ok()?,
                length: metadata.len(),
            })
        }
    }

    /// Does `work`, which holds so many `bytes` in memory, in a transaction, perhaps together with others. What it returns
    /// comes once that is on the disk. What it did before it failed may stand.
    ///
    /// # Errors
    /// Where it was not done; or, as the error says, may not have been.
    pub(super) async fn write<T, F>(&self, bytes: usize, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let begin_by = Instant::now() + BEGIN_LIMIT;
        let written = async {
            let units = bytes.div_ceil(JOB_BYTES).clamp(1, MOST_JOBS);
            let units = u32::try_from(units).unwrap_or(u32::MAX);
            let room = self.room.clone().acquire_many_owned(units).await?;
            let (reply, answer) = oneshot::channel();
            let job = Box::new(Pending::new(work, bytes, begin_by, reply, room));
            let jobs = self.jobs.as_ref().context("the store is closed")?;
            // There is a place for each that has room.
            jobs.try_send(job)
                .map_err(|_| anyhow!("the thread that writes has ended"))?;
            answer
                .await
                .context("the thread that writes met a fault in this program")?
        };
        if let Ok(outcome) = timeout(LIMIT, written).await {
            return outcome;
        }
        let path = self.shared.path.display();
        match self.shared.trouble() {
            Some(trouble) => bail!("not known to be written within {LIMIT:?}: {trouble}"),
            None => bail!(
                "not known to be written to {path} within {LIMIT:?}: the disk is too slow, or too much is to be written"
            ),
        }
    }

    /// Does `work` on a thread where it may block, in one transaction that only reads.
    ///
    /// # Errors
    /// Where it cannot be read, or not in time.
    pub(super) async fn read<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let read = timeout(LIMIT, self.readers.read(work)).await;
        read.unwrap_or_else(|_| bail!("{} could not be read within {LIMIT:?}", self.shared.path.display()))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            writer.thread().unpark();
            // It was told of its faults, where there were any.
            let _ = writer.join();
        }
    }
}
