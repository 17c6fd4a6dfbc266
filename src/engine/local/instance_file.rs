//! The file of one instance: what it says of itself, and whether it lives.
//!
//! Two things show that. Its process holds a lock on the file, which the kernel takes away with the process: at once,
//! however it ends. And it sets the file's time of change again and again, which tells one that works from one that hangs.
//!
//! That time is told by the machine's monotonic clock, which is the same for all processes, is set by nobody, and stands
//! still while the machine sleeps. So that `ls -l` shows a date that makes sense, it is counted from where that clock's
//! zero was on the wall clock when the instance registered. A clock that begins anew with the machine makes no dead
//! instance live: its lock is gone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::Folder;
use super::files::{self, Temporary};
use crate::engine::registry::{check_id, parse_rfc3339, url_host};
use crate::engine::{Condition, Instance, Listed, Registration, rfc3339};

/// What the names of all such files end with.
pub(super) const SUFFIX: &str = ".json";

/// Longest id, in bytes, whose file has a name that any file system takes.
const MAX_ID_BYTES: usize = 250;

/// Longest file that is read, in bytes.
const MAX_FILE_BYTES: usize = 16 * 1024;

/// An instance whose process lives, but has not set the time for so long, hangs: six heartbeats. Long, since a busy
/// machine is late with heartbeats; one that was killed is not waited for.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// After so long a silence an instance is taken out for good, as Consul does.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) service: String,
    host: String,
    port: u16,
    version: Option<String>,
    /// RFC 3339, UTC, whole seconds.
    since: Option<String>,
    /// The monotonic clock's zero as a time of the wall clock, in milliseconds since 1970: what the file's time is
    /// counted from.
    clock_zero_ms: u64,
}

/// The file of the instance `id`.
///
/// # Errors
/// Where this cannot be an id.
pub(super) fn path(folder: &Folder, id: &str) -> anyhow::Result<PathBuf> {
    check_id(id)?;
    ensure!(
        id.len() <= MAX_ID_BYTES,
        "{id:?} cannot be the id of an instance: it has more than {MAX_ID_BYTES} bytes"
    );
    Ok(folder.instances().join(format!("{id}{SUFFIX}")))
}

/// An instance that this process has registered. As long as this lives, its file is locked.
#[derive(Debug)]
pub(super) struct Claim {
    file: File,
    clock_zero_ms: u64,
}

impl Claim {
    /// Writes the file of an instance, in the place of whatever stood under its id.
    pub(super) fn make(folder: &Folder, registration: &Registration) -> anyhow::Result<Self> {
        let path = path(folder, &registration.id())?;
        let clock_zero_ms = clock_zero_ms();
        let record = Record {
            id: registration.id(),
            service: registration.service.clone(),
            host: registration.host.clone(),
            port: registration.port,
            version: Some(registration.version.clone()),
            since: rfc3339(registration.since),
            clock_zero_ms,
        };
        let mut text = serde_json::to_string_pretty(&record)?;
        text.push('\n');

        let folder = folder.instances();
        files::create_folder(&folder)?;
        let temporary = Temporary::create(&folder)?;
        let claim = Self {
            file: temporary.file().try_clone()?,
            clock_zero_ms,
        };
        // Before it has its name: nobody else has seen it, and nobody will see it without the lock.
        flock(&claim.file, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("no file can be locked in {}", folder.display()))?;
        (&claim.file).write_all(text.as_bytes())?;
        claim.beat()?;
        // Or a loss of power may leave an empty file of that name, which nobody would dare to take away.
        claim.file.sync_all()?;
        temporary
            .replace(&path)
            .with_context(|| format!("{} cannot be replaced", path.display()))?;
        Ok(claim)
    }

    /// Shows that the instance lives now.
    pub(super) fn beat(&self) -> io::Result<()> {
        let zero = SystemTime::UNIX_EPOCH + Duration::from_millis(self.clock_zero_ms);
        self.file.set_modified(zero + clock())
    }

    /// Whether somebody who lives is registered at `path`: this instance, or one of another process under the same id,
    /// which has replaced it and is to stay.
    pub(super) fn stands_at(&self, path: &Path) -> io::Result<bool> {
        match files::open(path) {
            Ok(found) => Ok(self.is(&found)? || is_locked(&found)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the file at `path` away, unless it is that of another process that lives.
    pub(super) fn remove_from(&self, path: &Path) -> io::Result<()> {
        match files::open(path) {
            Ok(found) if self.is(&found)? || !is_locked(&found)? => remove(path),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn is(&self, other: &File) -> io::Result<bool> {
        let (ours, other) = (self.file.metadata()?, other.metadata()?);
        Ok((ours.dev(), ours.ino()) == (other.dev(), other.ino()))
    }
}

/// Takes a file away. It is no error if there is none.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// How an instance does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It can be called.
    Lives,
    /// Its process is there, and has been silent for so long.
    Hangs(Duration),
    /// Its process has ended, and was heard of last so long ago; `None` where that was before the machine started.
    Ended(Option<Duration>),
}

impl Life {
    fn of(is_locked: bool, silence: Option<Duration>) -> Self {
        match (is_locked, silence) {
            (true, Some(silence)) if silence >= SILENCE_LIMIT => Self::Hangs(silence),
            (true, _) => Self::Lives,
            (false, silence) => Self::Ended(silence),
        }
    }

    /// Whether it is time to take the instance out for good.
    pub(super) fn is_over(self) -> bool {
        match self {
            Self::Lives => false,
            Self::Hangs(silence) | Self::Ended(Some(silence)) => silence >= FORGET_AFTER,
            Self::Ended(None) => true,
        }
    }

    fn reason(self) -> Option<String> {
        match self {
            Self::Lives => None,
            Self::Hangs(silence) => Some(format!(
                "no heartbeat for {} s: its process hangs, or is stopped",
                silence.as_secs()
            )),
            Self::Ended(Some(silence)) => Some(format!(
                "its process has ended; no heartbeat for {} s",
                silence.as_secs()
            )),
            Self::Ended(None) => Some("its process has ended".to_owned()),
        }
    }
}

/// What tells a file from one that had its name before. Its time of change does not: that is the heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    device: u64,
    number: u64,
    size: u64,
    created: Option<SystemTime>,
}

/// A file that was opened to be looked at.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    /// Which file it is.
    pub(super) version: Version,
    /// When it was changed last; of an instance the last heartbeat.
    pub(super) modified: SystemTime,
}

impl Opened {
    /// Opens a file; `None` where there is none any more.
    ///
    /// # Errors
    /// Why it can be no registration, or why nothing can be told of it now.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, NotOpened> {
        let file = match files::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let is_ours = matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO)
                );
                return Err(if is_ours {
                    NotOpened::Fails(error)
                } else {
                    NotOpened::Odd(format!("it cannot be opened: {error}"))
                });
            }
        };
        let about = file.metadata().map_err(NotOpened::Fails)?;
        if !about.is_file() {
            return Err(NotOpened::Odd("it is no file".to_owned()));
        }
        Ok(Some(Self {
            version: Version {
                device: about.dev(),
                number: about.ino(),
                size: about.size(),
                created: about.created().ok(),
            },
            modified: about.modified().map_err(NotOpened::Fails)?,
            file,
        }))
    }

    /// What it says; `Err` says why that is no registration.
    pub(super) fn read(&self, name: &str) -> io::Result<Result<Record, String>> {
        let Some(bytes) = files::read(&self.file, MAX_FILE_BYTES)? else {
            return Ok(Err(format!("it has more than {MAX_FILE_BYTES} bytes")));
        };
        let record = match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) => record,
            Err(error) => return Ok(Err(format!("it is damaged, or something else: {error}"))),
        };
        let says = format!("{}@{}:{}", record.service, record.host, record.port);
        let is_its_own = record.id == says && name.strip_suffix(SUFFIX) == Some(&record.id) && record.port > 0;
        Ok(if is_its_own {
            Ok(record)
        } else {
            Err("it says that it is of another instance".to_owned())
        })
    }

    /// How the instance does that says `record`.
    pub(super) fn life(&self, record: &Record) -> io::Result<Life> {
        Ok(Life::of(is_locked(&self.file)?, self.silence(record)))
    }

    /// How long ago the last heartbeat was; `None` where that is still to come by the clock that the machine has now.
    fn silence(&self, record: &Record) -> Option<Duration> {
        let since_1970 = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let beat = since_1970.saturating_sub(Duration::from_millis(record.clock_zero_ms));
        clock().checked_sub(beat)
    }
}

/// Why a file could not be looked at.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// It is no registration, for this reason.
    Odd(String),
    /// It may well be one, and cannot be opened now.
    Fails(io::Error),
}

impl Record {
    pub(super) fn instance(&self) -> Instance {
        Instance {
            id: self.id.clone(),
            host: self.host.clone(),
            port: self.port,
            version: self.version.clone(),
            since: self.since(),
        }
    }

    fn since(&self) -> Option<SystemTime> {
        self.since.as_deref().and_then(parse_rfc3339)
    }

    pub(super) fn listed(&self, life: Life) -> Listed {
        let condition = match life {
            Life::Lives => Condition::Passing,
            Life::Hangs(_) | Life::Ended(_) => Condition::Critical,
        };
        Listed {
            id: self.id.clone(),
            address: Some(format!("{}:{}", url_host(&self.host), self.port)),
            version: self.version.clone(),
            condition,
            reason: life.reason(),
            since: self.since(),
        }
    }
}

/// Whether a process holds the lock of the file.
fn is_locked(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockShared) {
        // It is given back with the file, in a moment. Nobody wants it meanwhile: a file is locked before it has its name.
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The machine's monotonic clock.
fn clock() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

/// Where its zero is on the wall clock now.
fn clock_zero_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.saturating_sub(clock()).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
