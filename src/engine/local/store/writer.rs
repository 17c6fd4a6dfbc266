//! [`Writer`]: the one thread of a process that writes. All jobs that wait go into one transaction, and are answered once it
//! is on the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use tracing::{error, warn};

use super::Shared;
use super::file::{BUSY_TIMEOUT, Database, VERSION, explain, is_damage, is_lasting};
use super::job::Job;
use super::turn::Turn;
use super::writing::Writing;

/// Bounds of one transaction.
const MOST_JOBS: usize = 256;
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// Time between two tries to write while writes fail.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// How many pages the write-ahead log has when they are moved into the database, beside what is written: 8 MiB.
const CHECKPOINT_PAGES: i64 = 2048;

/// How many it has when nobody may write until all of them are moved, so that it begins anew: 32 MiB.
pub(super) const BEGIN_ANEW_PAGES: i64 = 8192;

/// How long those who read then are waited for, and when that is tried again where one of them takes longer.
const SHORT_READ: Duration = Duration::from_millis(100);
const LONG_READ_PAUSE: Duration = Duration::from_secs(10);

/// Why the writer left a connection.
enum End {
    /// The store ends.
    Closed,
    /// The file is to be opened anew.
    Lost,
    /// It is, and what was committed last may not be on the disk.
    Unsynced,
}

/// What the writer does next.
enum Next {
    Job(Box<dyn Job>),
    /// Nothing waits, but there is something to do.
    Chore,
    End,
}

/// The one that writes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    turn: Turn,
    jobs: Receiver<Box<dyn Job>>,
}

impl Writer {
    /// Writes what comes as `jobs`.
    pub(super) fn new(shared: Arc<Shared>, turn: Turn, jobs: Receiver<Box<dyn Job>>) -> Self {
        Self { shared, turn, jobs }
    }

    /// Until the store ends.
    pub(super) fn run(self, database: Database) {
        let (mut opened, mut is_synced) = (Some(database), true);
        loop {
            let end = match opened.take() {
                // What a fault left half done is undone with its connection.
                Some(database) => catch_unwind(AssertUnwindSafe(|| self.serve(&database))).unwrap_or_else(|_| {
                    error!("a write met a fault in this program");
                    End::Lost
                }),
                None => self.reopen(&mut opened, &mut is_synced),
            };
            match end {
                End::Closed => return,
                End::Lost => {}
                End::Unsynced => is_synced = false,
            }
        }
    }

    /// Tries to open the file anew, when there is something to write and from time to time. What cannot be written is
    /// answered.
    fn reopen(&self, opened: &mut Option<Database>, is_synced: &mut bool) -> End {
        let open = || {
            let database = Database::open(&self.shared.path, &self.turn)?;
            if !*is_synced {
                self.empty_log(&database)?;
            }
            Ok::<_, anyhow::Error>(database)
        };
        match open() {
            Ok(database) => {
                *is_synced = true;
                *opened = Some(database);
                return End::Lost;
            }
            Err(cause) => self.shared.set_trouble(Some(format!("{cause:#}").into())),
        }
        match self.next(Some(TRY_EVERY)) {
            Next::End => return End::Closed,
            Next::Chore => {}
            Next::Job(first) => {
                for job in self.gather(Some(first)) {
                    job.answer(self.shared.trouble());
                }
            }
        }
        End::Lost
    }

    /// Moves all that was committed into the database, and empties the write-ahead log. Where a sync of it failed, the system
    /// may have let go of what it could not write: to append behind such a gap is to lose what is appended, since nothing
    /// behind a gap is read after a loss of power.
    fn empty_log(&self, database: &Database) -> anyhow::Result<()> {
        let turn = self.turn.take(Instant::now() + TRY_EVERY, &self.shared.is_ending)?;
        let _turn = turn.ok_or_else(|| anyhow!(self.turn.held_by_another()))?;
        let is_busy = checkpoint(database, "TRUNCATE")
            .map_err(|error| explain(database.path(), &error))?
            .is_busy;
        ensure!(
            !is_busy,
            "what was written to {} may not be on the disk, and others still read it",
            database.path().display()
        );
        Ok(())
    }

    /// Writes what comes, until the connection cannot be used any more.
    fn serve(&self, database: &Database) -> End {
        let mut writing = Writing::new(&database.connection);
        let mut checkpoints = Checkpoints::default();
        loop {
            let trouble = self.shared.trouble().map(|_| TRY_EVERY);
            let pause = trouble.or(writing.is_to_sweep.then_some(Duration::ZERO));
            let first = match self.next(pause) {
                Next::Job(job) => Some(job),
                Next::Chore => None,
                Next::End => return End::Closed,
            };
            if let Some(end) = self.write(database, &mut writing, first) {
                return end;
            }
            checkpoints.make(database, &self.turn, &self.shared);
        }
    }

    /// Waits for the next job, where there is a `pause` no longer than that.
    fn next(&self, pause: Option<Duration>) -> Next {
        let next = match pause {
            Some(pause) => self.jobs.recv_timeout(pause),
            None => self.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            _ if self.shared.is_ending.load(Ordering::Relaxed) => Next::End,
            Ok(job) => Next::Job(job),
            Err(RecvTimeoutError::Timeout) => Next::Chore,
            Err(RecvTimeoutError::Disconnected) => Next::End,
        }
    }

    /// The jobs that wait, up to the bounds of one transaction. Those that wait too long are answered.
    fn gather(&self, first: Option<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
        let now = Instant::now();
        let (mut gathered, mut bytes) = (Vec::new(), 0_usize);
        let mut next = first;
        while let Some(job) = next {
            if job.begin_by() > now {
                bytes = bytes.saturating_add(job.bytes());
                gathered.push(job);
            } else {
                let held_up = self.shared.trouble();
                job.answer(held_up.or_else(|| Some("not written: too much was to be written before it".into())));
            }
            let has_room = gathered.len() < MOST_JOBS && bytes < MOST_BYTES;
            next = has_room.then(|| self.jobs.try_recv().ok()).flatten();
        }
        gathered
    }

    /// Writes `first` and what waits behind it, and answers. Returns why nothing more can be written, where that is so.
    fn write(&self, database: &Database, writing: &mut Writing<'_>, first: Option<Box<dyn Job>>) -> Option<End> {
        let until = first
            .as_ref()
            .map_or_else(|| Instant::now() + TRY_EVERY, |job| job.begin_by());
        let turn = self.turn.take(until, &self.shared.is_ending);
        let turn = match turn.and_then(|turn| turn.ok_or_else(|| anyhow!(self.turn.held_by_another()))) {
            Ok(turn) => turn,
            Err(cause) => {
                self.refuse(first, &cause);
                return None;
            }
        };
        let mut jobs: Vec<Begun> = self.gather(first).into_iter().map(Begun::new).collect();
        let written = transaction(database, writing, &mut jobs, self.shared.trouble().is_some());
        drop(turn);
        let (cause, end) = match written {
            Ok(()) => match self.sync(database) {
                Ok(()) => (None, None),
                Err(cause) => (Some(cause), Some(End::Unsynced)),
            },
            Err(failed) => (Some(failed.cause), failed.is_lasting.then_some(End::Lost)),
        };
        let failure = cause.map(|cause| Arc::<str>::from(format!("{cause:#}")));
        self.shared.set_trouble(failure.clone());
        for begun in jobs {
            begun.job.answer(failure.clone().or(begun.failure));
        }
        end
    }

    /// Waits until what was committed is on the disk.
    fn sync(&self, database: &Database) -> anyhow::Result<()> {
        #[cfg(test)]
        ensure!(
            !self.shared.fails_to_sync.swap(false, Ordering::Relaxed),
            "a sync that fails, for a test"
        );
        database.sync()
    }

    /// Answers `first`. Those behind it are tried, each while it has time.
    fn refuse(&self, first: Option<Box<dyn Job>>, cause: &anyhow::Error) {
        let cause: Arc<str> = format!("{cause:#}").into();
        self.shared.set_trouble(Some(cause.clone()));
        if let Some(first) = first {
            first.answer(Some(cause));
        }
    }
}

/// A job in a transaction.
struct Begun {
    job: Box<dyn Job>,
    /// Why it failed, where it did so alone.
    failure: Option<Arc<str>>,
}

impl Begun {
    fn new(job: Box<dyn Job>) -> Self {
        Self { job, failure: None }
    }
}

/// Why a transaction was not made.
struct Failed {
    cause: anyhow::Error,
    /// Whether the file is to be opened anew.
    is_lasting: bool,
}

/// Does the jobs in one transaction. One that fails by its own fault fails alone, and what that was is noted beside it.
fn transaction(database: &Database, writing: &mut Writing<'_>, jobs: &mut [Begun], is_try: bool) -> Result<(), Failed> {
    let failed = |cause| Failed {
        cause,
        is_lasting: true,
    };
    database.check_in_place().map_err(failed)?;
    writing.begin();
    let mut make = || {
        writing.connection().execute_batch("BEGIN IMMEDIATE")?;
        for begun in jobs.iter_mut() {
            if let Err(error) = begun.job.run(writing) {
                if writing.connection().is_autocommit() || is_damage(&error) {
                    return Err(error);
                }
                begun.failure = Some(format!("{:#}", explain(database.path(), &error)).into());
            }
        }
        if writing.is_to_sweep
            && let Err(error) = writing.sweep()
        {
            if writing.connection().is_autocommit() || is_damage(&error) {
                return Err(error);
            }
            writing.is_to_sweep = false;
            warn!(
                "what was cleared is not deleted: {:#}",
                explain(database.path(), &error)
            );
        }
        if is_try {
            // Writes a page, and changes nothing.
            writing.connection().pragma_update(None, "user_version", VERSION)?;
        }
        writing.connection().execute_batch("COMMIT")
    };
    make().map_err(|error| {
        if !writing.connection().is_autocommit() {
            // Where this fails too, the connection is given up.
            let _ = writing.connection().execute_batch("ROLLBACK");
        }
        Failed {
            cause: explain(database.path(), &error),
            is_lasting: is_lasting(&error) || !writing.connection().is_autocommit(),
        }
    })
}

/// What a checkpoint came to.
struct Checkpoint {
    /// Whether others were in its way.
    is_busy: bool,
    /// How many pages the log has, and how many of them are moved. Negative where another one is under way.
    all: i64,
    moved: i64,
}

fn checkpoint(database: &Database, mode: &str) -> rusqlite::Result<Checkpoint> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    database.connection.query_row(&sql, (), |row| {
        Ok(Checkpoint {
            is_busy: row.get(0)?,
            all: row.get(1)?,
            moved: row.get(2)?,
        })
    })
}

/// Lets the log begin anew. It waits also for those who read from it, since with one of them there at any time it never
/// would; but not for long, since nobody writes meanwhile, and who reads may be stopped.
fn begin_anew(database: &Database) -> rusqlite::Result<Checkpoint> {
    database.connection.busy_timeout(SHORT_READ)?;
    let outcome = checkpoint(database, "RESTART");
    database.connection.busy_timeout(BUSY_TIMEOUT)?;
    outcome
}

/// Moves what was committed from the write-ahead log into the database.
#[derive(Default)]
struct Checkpoints {
    /// Whether the last one failed, which was told.
    has_failed: bool,
    /// When the log may be made to begin anew again: somebody reads from it for long.
    not_before: Option<Instant>,
}

impl Checkpoints {
    /// Moves it where there is much. Others write meanwhile, and only where they do so without pause are they held up for a
    /// moment, so that the log can begin anew.
    fn make(&mut self, database: &Database, turn: &Turn, shared: &Shared) {
        let mut make = || {
            let log = checkpoint(database, "NOOP")?;
            if log.all - log.moved < CHECKPOINT_PAGES {
                return Ok(());
            }
            let log = checkpoint(database, "PASSIVE")?;
            let is_over = self.not_before.is_none_or(|time| time <= Instant::now());
            if log.all > BEGIN_ANEW_PAGES && is_over {
                let turn = turn.take(Instant::now() + TRY_EVERY, &shared.is_ending);
                if let Ok(Some(_turn)) = turn {
                    self.not_before = begin_anew(database)?.is_busy.then(|| Instant::now() + LONG_READ_PAUSE);
                }
            }
            Ok(())
        };
        let outcome: rusqlite::Result<()> = make();
        if let Err(error) = &outcome
            && !self.has_failed
        {
            warn!(
                "what was written stays in the write-ahead log, which grows: {:#}",
                explain(database.path(), error)
            );
        }
        self.has_failed = outcome.is_err();
    }
}
