//! [`Turn`]: the processes of one folder write one after the other.
//!
//! SQLite lets one write at a time, but who waits there waits by chance, for seconds while others write without pause. A lock
//! of the system's ends with its holder, however that ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};

/// First and longest time between two tries.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// How long the place at the head of the queue is tried for: who has it may be stopped.
const HEAD_LIMIT: Duration = Duration::from_millis(20);

/// The lock, and the place at the head of the queue for it.
///
/// Whoever wants the lock takes the head first, and gives it back when it has the lock: so who just gave up the lock does not
/// get it again before the one at the head.
#[derive(Debug)]
pub(super) struct Turn {
    path: PathBuf,
    lock: File,
    head: File,
}

/// The lock is held until this is dropped.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a File);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // It fails for no lock that is held; and closing the file gives it up all the same.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

impl Turn {
    /// Opens or creates the files `messages.lock` and `messages.turn` of `folder`.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let open = |name: &str| {
            let path = folder.join(name);
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            file.with_context(|| format!("{} cannot be opened for writing", path.display()))
        };
        Ok(Self {
            path: folder.join("messages.lock"),
            lock: open("messages.lock")?,
            head: open("messages.turn")?,
        })
    }

    /// Waits for the lock, at most for so long. `None` where another process keeps it.
    pub(super) fn take_at_most(&self, limit: Duration) -> anyhow::Result<Option<Held<'_>>> {
        self.take(Instant::now() + limit, &AtomicBool::new(false))
    }

    /// Waits for the lock until that time, or until `stop` is set. `None` where another process keeps it.
    pub(super) fn take(&self, until: Instant, stop: &AtomicBool) -> anyhow::Result<Option<Held<'_>>> {
        let head_until = until.min(Instant::now() + HEAD_LIMIT);
        let _head = wait_for(&self.head, head_until, stop).with_context(|| self.fault())?;
        wait_for(&self.lock, until, stop).with_context(|| self.fault())
    }

    /// What is said where [`Turn::take`] did not get it.
    pub(super) fn held_by_another(&self) -> String {
        format!(
            "another process holds {}: it may be stopped, or hang on its disk",
            self.path.display()
        )
    }

    fn fault(&self) -> String {
        format!("{} cannot be locked", self.path.display())
    }
}

fn wait_for<'a>(file: &'a File, until: Instant, stop: &AtomicBool) -> io::Result<Option<Held<'a>>> {
    let mut pause = FIRST_PAUSE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(Held(file))),
            Err(error) if error == rustix::io::Errno::WOULDBLOCK || error == rustix::io::Errno::INTR => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= until || stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        thread::park_timeout(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
