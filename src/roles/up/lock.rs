//! [`Lock`]: one `svc up` per folder.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

/// Name of the file that is locked. It stays; its lock ends with the process, however that ends.
const FILE: &str = "up.lock";

/// How long a lock that is held is waited for, and the time between two tries.
const PATIENCE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(20);

/// Longest pid that is read.
const MOST_DIGITS: u64 = 20;

/// A folder that is ours.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the folder. Waits for it no longer than a process takes to end that was killed.
    ///
    /// # Errors
    /// Where another process has it, which is named, or the file cannot be used.
    pub(super) async fn take(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let unusable = || format!("{} cannot be used", path.display());
        let mut options = OpenOptions::new();
        // What is in it is the holder's, until the lock is ours.
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(unusable)?;
        let end = Instant::now() + PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < end => sleep(INTERVAL).await,
                Err(Errno::WOULDBLOCK) => return Err(refused(folder, &mut file)),
                Err(cause) => return Err(cause).with_context(unusable),
            }
        }
        // For whoever comes later, and only to be shown: where it cannot be written, the lock holds all the same.
        let _ = file
            .set_len(0)
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        Ok(Self { _file: file })
    }
}

fn refused(folder: &Path, file: &mut File) -> anyhow::Error {
    let mut holder = String::new();
    let read = file.take(MOST_DIGITS).read_to_string(&mut holder);
    let pid: Option<u32> = read.ok().and_then(|_| holder.trim().parse().ok());
    let (who, how) = match pid {
        Some(pid) => (format!(" (pid {pid})"), format!("Ctrl-C there or `kill {pid}`")),
        None => (String::new(), "Ctrl-C there".to_owned()),
    };
    anyhow!("what to do: use that one, stop it first ({how}), or name another folder with --local")
        .context(format!("another `svc up`{who} runs on {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_whose_holder_is_about_to_end_is_taken() {
        let folder = std::env::temp_dir().join(format!("svc-lock-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let first = Lock::take(&folder).await.unwrap();
        let ending = async {
            sleep(INTERVAL * 3).await;
            drop(first);
        };
        let (next, ()) = tokio::join!(Lock::take(&folder), ending);
        next.unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn a_folder_is_taken_once_and_whoever_comes_later_is_told_by_whom() {
        let folder = std::env::temp_dir().join(format!("svc-lock-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let first = Lock::take(&folder).await.unwrap();
        let error = format!("{:#}", Lock::take(&folder).await.unwrap_err());
        let said = format!(
            "another `svc up` (pid {}) runs on {}",
            std::process::id(),
            folder.display()
        );
        assert!(error.starts_with(&said), "{error}");
        assert!(error.contains("--local"), "{error}");
        drop(first);
        Lock::take(&folder).await.unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
