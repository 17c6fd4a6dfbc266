//! The embedded engines: a folder of this machine, which all processes that name it share. No server, no port.
//!
//! | in the folder | what |
//! |---|---|
//! | `settings/<key>` | a setting, its value as text; a `/` of the key is a `:` of the name |
//! | `instances/<id>.json` | an instance that is registered; its time of change is that of the last heartbeat |
//!
//! Both are plain files, which cost nothing while nobody writes, and can be read and written by anybody.

mod files;
mod instance_file;
mod registry;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rustix::fs::Access;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::{Result, Unavailable};
use registry::Heartbeat;

/// How long one call may take: disks hang, too.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// How often a watch tells what stands as it is: that it is known.
const CONFIRM: Duration = Duration::from_secs(3);

/// How long a watch pauses after a look that failed.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// The embedded engines in one folder.
#[derive(Debug)]
pub(super) struct Local {
    folder: Folder,
    /// By their ids, the instances that this process has registered.
    heartbeats: Mutex<BTreeMap<String, Heartbeat>>,
    /// The names among `instances/` that are no registrations, as far as that was said.
    odd: Arc<Mutex<BTreeSet<OsString>>>,
}

impl Local {
    /// The engines in `folder`. Nothing is read or made yet: the folder comes with the first write.
    ///
    /// # Errors
    /// Where the path is empty.
    pub(super) fn new(folder: PathBuf) -> anyhow::Result<Self> {
        ensure!(
            !folder.as_os_str().is_empty(),
            "the folder of the embedded engines has no name: give one with --local or SVC_LOCAL"
        );
        Ok(Self {
            folder: Folder(folder.into()),
            heartbeats: Mutex::default(),
            odd: Arc::default(),
        })
    }

    /// Which folder, for people.
    fn name(&self) -> String {
        format!("the folder {}", self.folder.0.display())
    }

    fn what_to_do(&self) -> String {
        format!(
            "start a system there with `svc up --local {}`, or name another folder with --local or SVC_LOCAL",
            self.folder.0.display()
        )
    }

    /// Does `work` where it may wait for the disk, for at most [`CALL_DEADLINE`]. After that it goes on unheard.
    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Result<T> {
        let done = match timeout(CALL_DEADLINE, spawn_blocking(work)).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(anyhow!("the process ends")),
            Err(_) => Err(no_answer()),
        };
        done.map_err(|cause| self.unavailable(cause))
    }

    /// What `look` sees: at once, whenever it is something else, and every few seconds as it is. It looks as often as
    /// `every`, and never begins to look while an earlier look still waits for the disk.
    fn watch_by<'a, T>(
        &'a self,
        every: Duration,
        look: impl FnMut() -> anyhow::Result<T> + Send + 'static,
    ) -> BoxStream<'a, Result<T>>
    where
        T: Clone + PartialEq + Send + 'static,
    {
        let watch = async_stream::stream! {
            let mut look = look;
            let mut told: Option<(T, Instant)> = None;
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let mut looking = spawn_blocking(move || {
                    let seen = look();
                    (look, seen)
                });
                let looked = loop {
                    match timeout(CALL_DEADLINE, &mut looking).await {
                        Ok(looked) => break looked,
                        Err(_) => yield Err(self.unavailable(no_answer())),
                    }
                };
                let Ok((again, seen)) = looked else {
                    // The runtime ends, and takes no more such work.
                    yield Err(self.unavailable(anyhow!("the process ends")));
                    break;
                };
                look = again;
                match seen {
                    Ok(seen) => {
                        let is_told = told
                            .as_ref()
                            .is_some_and(|(last, at)| *last == seen && at.elapsed() < CONFIRM);
                        if !is_told {
                            told = Some((seen.clone(), Instant::now()));
                            yield Ok(seen);
                        }
                    }
                    Err(error) => {
                        told = None;
                        yield Err(self.unavailable(error));
                        sleep(ERROR_PAUSE).await;
                    }
                }
            }
        };
        watch.chain(futures_util::stream::pending()).boxed()
    }

    fn unavailable(&self, cause: anyhow::Error) -> Unavailable {
        Unavailable {
            engine: self.name(),
            cause,
        }
    }
}

fn no_answer() -> anyhow::Error {
    anyhow!("the disk did not answer within {CALL_DEADLINE:?}")
}

/// The folder, and where what is in it.
#[derive(Clone, Debug)]
struct Folder(Arc<Path>);

impl Folder {
    fn settings(&self) -> PathBuf {
        self.0.join("settings")
    }

    fn instances(&self) -> PathBuf {
        self.0.join("instances")
    }

    /// Checks that the folder can be used: it is there, or could be made, and can be written to. Makes nothing.
    ///
    /// # Errors
    /// Says what is in the way.
    fn check(&self) -> anyhow::Result<()> {
        let mut above = self.0.ancestors();
        let nearest = above
            .find_map(|path| {
                // Of a relative path the last one is empty, and stands for the current folder.
                let path = if path.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    path
                };
                match fs::metadata(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    found => Some((path, found)),
                }
            })
            .ok_or_else(|| anyhow!("there is no such folder, and none above it"))?;
        let (path, found) = nearest;
        let shown = path.display();
        match found {
            Ok(found) if !found.is_dir() => bail!("{shown} is no folder"),
            Ok(_) => {}
            // What is above it is a file, or closed to us.
            Err(error) => return Err(error).with_context(|| format!("{shown} cannot be used")),
        }
        rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
            .with_context(|| format!("{shown} cannot be written to"))
    }

    /// Checks that the folder is there.
    ///
    /// # Errors
    /// Where it is not, or is none.
    fn check_is_there(&self) -> anyhow::Result<()> {
        match fs::metadata(&self.0) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(anyhow!("it is no folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(anyhow!("there is no such folder")),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
