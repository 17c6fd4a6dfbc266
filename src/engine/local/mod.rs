//! The embedded engines: a folder of this machine, which all processes that name it share. No server, no port.
//!
//! | in the folder | what |
//! |---|---|
//! | `settings/<key>` | a setting, its value as text; a `/` of the key is a `:` of the name |
//! | `instances/<id>.json` | an instance that is registered; its time of change is that of the last heartbeat |
//! | `messages.db`, and files beside it of that name | the log and the mailbox, in one SQLite file |
//!
//! The first two are plain files, which cost nothing while nobody writes, and can be read and written by anybody.

mod by_identifier;
mod files;
mod instance_file;
mod log;
mod mailbox;
mod part;
mod registry;
mod settings;
mod store;
mod watch;

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
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Result, Unavailable};
use registry::Heartbeat;
use store::Store;
use watch::Lookout;

pub(super) use log::LocalLog;
pub(super) use mailbox::LocalMailbox;

/// How long one call may take: disks hang, too.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// The embedded engines in one folder.
#[derive(Debug)]
pub(super) struct Local {
    folder: Folder,
    /// By their ids, the instances that this process has registered.
    heartbeats: Mutex<BTreeMap<String, Heartbeat>>,
    /// The names among `instances/` that are no registrations, as far as that was said.
    odd: Arc<Mutex<BTreeSet<OsString>>>,
    /// Opened once, when a log or a mailbox is asked for.
    store: OnceCell<Arc<Store>>,
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
            store: OnceCell::new(),
        })
    }

    /// The messages. Makes the folder and the file in it where there are none.
    ///
    /// # Errors
    /// Where the folder or the file cannot be used, with what to do.
    pub(super) async fn store(&self) -> anyhow::Result<Arc<Store>> {
        let open = || async {
            let folder = self.folder.clone();
            let opening = spawn_blocking(move || {
                files::create_folder(&folder.0)?;
                Store::open(&folder.0)
            });
            match timeout(CALL_DEADLINE, opening).await {
                Ok(opened) => opened.context("the process ends")?,
                Err(_) => Err(no_answer()),
            }
        };
        self.store.get_or_try_init(open).await.cloned()
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

    /// What `look` sees, which looks as often as `every`: at once, whenever it is something else, and every few seconds as
    /// it is.
    fn watch_by<T>(
        &self,
        every: Duration,
        look: impl FnMut() -> anyhow::Result<T> + Send + 'static,
    ) -> BoxStream<'_, Result<T>>
    where
        T: Clone + PartialEq + Send + Sync + 'static,
    {
        let watch = async_stream::stream! {
            match Lookout::start(every, look) {
                Ok(mut lookout) => loop {
                    yield lookout.next().await.map_err(|cause| self.unavailable(cause));
                },
                Err(cause) => yield Err(self.unavailable(cause)),
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
