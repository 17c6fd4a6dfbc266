//! [`Registry`]: a file for each instance, locked by its process and kept fresh by heartbeats.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::BoxStream;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tracing::{info, warn};

use super::instance_file::{self, Claim, Life, NotOpened, Opened, Record, SUFFIX, Version};
use super::{Folder, Local};
use crate::engine::{Instance, Listed, Registration, Registry, Result};

/// How often an instance shows that it lives.
const BEAT: Duration = Duration::from_secs(1);

/// How often a watch looks: a few calls of the system for each file.
const POLL: Duration = Duration::from_millis(400);

impl Registry for Local {
    fn describe(&self) -> String {
        self.name()
    }

    fn advice(&self) -> String {
        self.what_to_do()
    }

    fn register<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<()>> {
        let id = registration.id();
        let (folder, registration) = (self.folder.clone(), registration.clone());
        async move {
            let what = format!("registering the instance {id}");
            let claim = self.on_disk(move || Claim::make(&folder, &registration).context(what));
            let heartbeat = Heartbeat::start(id.clone(), claim.await?);
            self.heartbeats().insert(id, heartbeat);
            Ok(())
        }
        .boxed()
    }

    fn is_registered<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<bool>> {
        let id = registration.id();
        let what = format!("asking for the instance {id}");
        let path = instance_file::path(&self.folder, &id);
        let ours = self.heartbeats().get(&id).map(|heartbeat| heartbeat.claim.clone());
        let ask = || -> anyhow::Result<bool> {
            let path = path?;
            Ok(match ours {
                Some(ours) => ours.stands_at(&path)?,
                None => fs::exists(&path)?,
            })
        };
        // In place, since it is asked every second: the system has the name in memory, and does not wait for the disk.
        let asked = ask().context(what).map_err(|cause| self.unavailable(cause));
        ready(asked).boxed()
    }

    fn deregister<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        let what = format!("deregistering the instance {id}");
        let path = instance_file::path(&self.folder, id);
        async move {
            // The last heartbeat, before the file goes.
            let ours = self.heartbeats().remove(id).map(|heartbeat| heartbeat.claim.clone());
            let remove = move || -> anyhow::Result<()> {
                let path = path?;
                match ours {
                    Some(ours) => ours.remove_from(&path)?,
                    None => instance_file::remove(&path)?,
                }
                Ok(())
            };
            self.on_disk(move || remove().context(what)).await
        }
        .boxed()
    }

    fn all<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Listed>>> {
        let (mut scan, service) = (self.scan(), service.to_owned());
        let list = move || {
            let found = scan.instances(&service)?;
            Ok(found.iter().map(|(record, life)| record.listed(*life)).collect())
        };
        self.on_disk(list).boxed()
    }

    fn watch<'a>(&'a self, service: &'a str) -> BoxStream<'a, Result<Vec<Instance>>> {
        let (mut scan, service) = (self.scan(), service.to_owned());
        self.watch_by(POLL, move || {
            let found = scan.instances(&service)?;
            let lives = found.iter().filter(|(_, life)| *life == Life::Lives);
            Ok(lives.map(|(record, _)| record.instance()).collect())
        })
    }
}

impl Local {
    fn heartbeats(&self) -> MutexGuard<'_, BTreeMap<String, Heartbeat>> {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scan(&self) -> Scan {
        Scan {
            folder: self.folder.clone(),
            odd: self.odd.clone(),
            read: HashMap::new(),
        }
    }
}

/// An instance of this process that shows that it lives, until this is dropped.
#[derive(Debug)]
pub(super) struct Heartbeat {
    claim: Arc<Claim>,
    _task: JoinSet<()>,
}

impl Heartbeat {
    fn start(id: String, claim: Claim) -> Self {
        let claim = Arc::new(claim);
        let mut task = JoinSet::new();
        task.spawn(beat(id, claim.clone()));
        Self { claim, _task: task }
    }
}

/// The task. It runs among those that do the work, so that an instance whose work stands still is not shown as live; but a
/// disk that is slow with the heartbeat holds none of them up.
async fn beat(id: String, claim: Arc<Claim>) {
    let mut in_trouble = false;
    loop {
        sleep(BEAT).await;
        let claim = claim.clone();
        let Ok(outcome) = spawn_blocking(move || claim.beat()).await else {
            // The runtime ends.
            return;
        };
        match &outcome {
            Ok(()) if in_trouble => info!(id, "heartbeats can be written again"),
            Err(error) if !in_trouble => {
                warn!(id, %error, "cannot write a heartbeat: others will not call this instance until that is possible again");
            }
            _ => {}
        }
        in_trouble = outcome.is_err();
    }
}

/// A look at all instances, again and again.
struct Scan {
    folder: Folder,
    /// See [`Local`].
    odd: Arc<Mutex<BTreeSet<OsString>>>,
    /// What was read of the files that are there, by their names.
    read: HashMap<OsString, Read>,
}

/// A file that was read.
#[derive(Clone)]
struct Read {
    version: Version,
    modified: SystemTime,
    /// What it says, or why it is no registration.
    says: std::result::Result<Arc<Record>, String>,
}

impl Scan {
    /// The instances of a service and how they do, in the order of their ids. Takes out those whose time is over, of
    /// whatever service.
    fn instances(&mut self, service: &str) -> anyhow::Result<Vec<(Arc<Record>, Life)>> {
        let folder = self.folder.instances();
        let mut found = Vec::new();
        let mut odd = BTreeMap::new();
        let mut read = HashMap::new();
        for name in self.names(&folder)? {
            let path = folder.join(&name);
            let opened = match Opened::open(&path) {
                Ok(Some(opened)) => opened,
                Ok(None) => continue,
                Err(NotOpened::Odd(why)) => {
                    odd.insert(name, why);
                    continue;
                }
                Err(NotOpened::Fails(error)) => {
                    return Err(error).with_context(|| format!("reading {}", path.display()));
                }
            };
            let file = self
                .read(&name, &opened)
                .with_context(|| format!("reading {}", path.display()))?;
            match &file.says {
                Ok(record) => {
                    let life = opened.life(record)?;
                    if life.is_over() {
                        forget(&path, record, &opened.version);
                        continue;
                    }
                    if record.service == service {
                        found.push((record.clone(), life));
                    }
                }
                Err(why) => {
                    odd.insert(name.clone(), why.clone());
                }
            }
            read.insert(name, file);
        }
        self.read = read;
        self.tell(&folder, odd);
        found.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        Ok(found)
    }

    /// The files that may be those of instances: what is hidden is temporary, or not ours.
    fn names(&self, folder: &Path) -> anyhow::Result<Vec<OsString>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.folder.check_is_there()?;
                return Ok(Vec::new());
            }
            Err(error) => {
                self.folder.check_is_there()?;
                return Err(error).with_context(|| format!("reading {}", folder.display()));
            }
        };
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        let is_hidden = |name: &OsStr| {
            let name = name.as_encoded_bytes();
            name.starts_with(b".") && !name.ends_with(SUFFIX.as_bytes())
        };
        let names = names.filter(|name| !name.as_ref().is_ok_and(|name| is_hidden(name)));
        let names: io::Result<Vec<OsString>> = names.collect();
        names.with_context(|| format!("reading {}", folder.display()))
    }

    /// What a file says, from memory where it is the one that was read before: whoever reads a file changes it, and waits
    /// for the disk.
    fn read(&self, name: &OsStr, opened: &Opened) -> anyhow::Result<Read> {
        if let Some(read) = self.read.get(name) {
            // That of a registration changes with each heartbeat.
            let is_same = read.version == opened.version && (read.says.is_ok() || read.modified == opened.modified);
            if is_same {
                return Ok(read.clone());
            }
        }
        let says = opened.read(&name.to_string_lossy())?.map(Arc::new);
        Ok(Read {
            version: opened.version.clone(),
            modified: opened.modified,
            says,
        })
    }

    /// Says of each file that is no registration that it is there, once for all who look.
    fn tell(&self, folder: &Path, odd: BTreeMap<OsString, String>) {
        let mut told = self.odd.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, why) in odd.iter().filter(|(name, _)| !told.contains(*name)) {
            let file = folder.join(name);
            warn!(file = %file.display(), why, "passed over a file that registers no instance: move it elsewhere, or delete it");
        }
        *told = odd.into_keys().collect();
    }
}

/// Takes an instance out that was silent for too long. It may have come back in this moment: then it stays, or finds out
/// and registers again.
fn forget(path: &Path, record: &Record, version: &Version) {
    let is_same = matches!(Opened::open(path), Ok(Some(opened)) if opened.version == *version);
    if !is_same {
        return;
    }
    match instance_file::remove(path) {
        Ok(()) => info!(id = record.id, "took out an instance that was silent for a minute"),
        Err(error) => warn!(id = record.id, %error, "cannot take out an instance that was silent for a minute"),
    }
}
