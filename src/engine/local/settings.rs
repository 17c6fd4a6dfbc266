//! [`Settings`]: a file for each key.

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::files::{self, Temporary};
use super::{CONFIRM, Folder, Local};
use crate::engine::{Held, Result, Settings, check_key};

/// How often a watch looks at its file: two or three calls of the system each time.
const POLL: Duration = Duration::from_secs(1);

/// Longest value, in bytes: 512 KiB, as Consul has it.
const MAX_VALUE_BYTES: usize = 512 * 1024;

/// Longest name of a file, in bytes, on the file systems of today.
const MAX_NAME_BYTES: usize = 255;

/// How often a key may be deleted between our write, which found it, and our read, which did not.
const VANISHED_TRIES: usize = 3;

impl Settings for Local {
    fn describe(&self) -> String {
        self.name()
    }

    fn advice(&self) -> String {
        self.what_to_do()
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        let folder = self.folder.clone();
        self.on_disk(move || folder.check()).boxed()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Held>> {
        let setting = Setting::of(&self.folder, key);
        self.on_disk(move || setting?.read()).boxed()
    }

    fn put_if_absent<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        let (setting, value) = (Setting::of(&self.folder, key), value.to_owned());
        self.on_disk(move || setting?.write_if_absent(&value)).boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, Result<()>> {
        let (setting, value) = (Setting::of(&self.folder, key), value.to_owned());
        self.on_disk(move || setting?.write(&value)).boxed()
    }

    fn watch<'a>(&'a self, key: &'a str) -> BoxStream<'a, Result<Held>> {
        match Setting::of(&self.folder, key) {
            Ok(setting) => {
                let mut watched = Watched::new(setting);
                self.watch_by(POLL, move || watched.look())
            }
            Err(error) => stream::iter([Err(self.unavailable(error))])
                .chain(stream::pending())
                .boxed(),
        }
    }
}

/// One key and its file.
#[derive(Debug)]
struct Setting {
    key: String,
    folder: PathBuf,
    path: PathBuf,
}

impl Setting {
    fn of(folder: &Folder, key: &str) -> anyhow::Result<Self> {
        check_key(key)?;
        ensure!(
            key.len() <= MAX_NAME_BYTES,
            "{key:?} cannot be a key: it has more than {MAX_NAME_BYTES} bytes"
        );
        let folder = folder.settings();
        Ok(Self {
            key: key.to_owned(),
            path: folder.join(file_name(key)),
            folder,
        })
    }

    fn read(&self) -> anyhow::Result<Held> {
        let what = || format!("reading the key {}", self.key);
        read(&self.path).with_context(what)
    }

    fn write(&self, value: &str) -> anyhow::Result<()> {
        let write = || -> anyhow::Result<()> {
            self.prepare(value)?.replace(&self.path)?;
            Ok(files::sync_names(&self.folder)?)
        };
        write().with_context(|| self.writing())
    }

    fn write_if_absent(&self, value: &str) -> anyhow::Result<Option<String>> {
        for _ in 0..VANISHED_TRIES {
            match self.read()? {
                Held::Value(standing) => return Ok(Some(standing)),
                Held::Unreadable(why) => return Err(anyhow!("the value of the key {} is {why}", self.key)),
                Held::Missing => {}
            }
            let write = || -> anyhow::Result<bool> {
                let is_ours = self.prepare(value)?.take_free(&self.path)?;
                files::sync_names(&self.folder)?;
                Ok(is_ours)
            };
            if write().with_context(|| self.writing())? {
                return Ok(None);
            }
        }
        Err(anyhow!(
            "the key {} comes and goes: {VANISHED_TRIES} tries to write it met one that was gone right after",
            self.key
        ))
    }

    /// The value in a file that has no name yet, and outlasts a loss of power.
    fn prepare(&self, value: &str) -> anyhow::Result<Temporary> {
        ensure!(
            value.len() <= MAX_VALUE_BYTES,
            "the value has more than {MAX_VALUE_BYTES} bytes"
        );
        files::create_folder(&self.folder)?;
        let temporary = Temporary::create(&self.folder)?;
        temporary.file().write_all(value.as_bytes())?;
        temporary.file().sync_all()?;
        Ok(temporary)
    }

    fn writing(&self) -> String {
        format!("writing the key {}", self.key)
    }
}

/// The name of a key's file. No key has a `:`, so no two keys have one name.
fn file_name(key: &str) -> String {
    key.replace('/', ":")
}

fn read(path: &Path) -> anyhow::Result<Held> {
    let file = match files::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Held::Missing),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(Held::Unreadable("no file".to_owned()));
    }
    Ok(match files::read(&file, MAX_VALUE_BYTES)?.map(String::from_utf8) {
        Some(Ok(text)) => Held::Value(text),
        Some(Err(_)) => Held::Unreadable("no text in UTF-8".to_owned()),
        None => Held::Unreadable(format!("more than {MAX_VALUE_BYTES} bytes long")),
    })
}

/// A key that is watched.
struct Watched {
    setting: Setting,
    /// What was read last.
    last: Option<Read>,
}

struct Read {
    held: Held,
    /// What the file was like before; `None` where there was none.
    stamp: Option<Stamp>,
    at: Instant,
}

impl Watched {
    fn new(setting: Setting) -> Self {
        Self { setting, last: None }
    }

    /// What the key holds. Read only where the file is another than last time, and from time to time all the same: of two
    /// changes within one tick of the clock the second shows in nothing else.
    fn look(&mut self) -> anyhow::Result<Held> {
        let stamp = stamp(&self.setting.path).with_context(|| format!("reading the key {}", self.setting.key))?;
        match &self.last {
            Some(last) if last.stamp == stamp && last.at.elapsed() < CONFIRM => Ok(last.held.clone()),
            _ => {
                let held = self.setting.read()?;
                self.last = Some(Read {
                    held: held.clone(),
                    stamp,
                    at: Instant::now(),
                });
                Ok(held)
            }
        }
    }
}

/// What tells a file from what it was before: its number, its size and its times.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    number: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(file: Metadata) -> Self {
        Self {
            number: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    match fs::metadata(path) {
        Ok(file) => Ok(Some(file.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
