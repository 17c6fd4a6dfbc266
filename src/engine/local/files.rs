//! Small files that are written whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{Mode, OFlags};

/// What names of temporary files begin with. Neither a key nor an id has a `~`.
const TEMPORARY: &str = ".new~";

/// Makes the folder `path`, and what is missing above it, for its owner alone: it holds what people wrote. One that is
/// there stays as it is.
pub(super) fn create_folder(path: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("the folder {} cannot be made", path.display()))
}

/// A file that gets its name once it is whole. Where it does not come to that, it is gone.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// An empty file in `folder`.
    pub(super) fn create(folder: &Path) -> anyhow::Result<Self> {
        // By chance, not by the process's id: two containers have the same ones.
        let path = folder.join(format!("{TEMPORARY}{:016x}", fastrand::u64(..)));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("no file can be made in {}", folder.display()))?;
        Ok(Self { path, file })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives it the name `path`, whatever had that before.
    pub(super) fn replace(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)
    }

    /// Gives it the name `path` where nothing has that. Whether it has it now.
    pub(super) fn take_free(self, path: &Path) -> io::Result<bool> {
        // A rename would replace what came meanwhile; a second name fails.
        match fs::hard_link(&self.path, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing of that name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes sure that the names in `folder` outlast a loss of power.
pub(super) fn sync_names(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Opens a file to read, without waiting: what is there may be a pipe that nobody writes to.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// All that `file` holds, or `None` where that is more than `most` bytes.
pub(super) fn read(file: &File, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= most).then_some(bytes))
}
