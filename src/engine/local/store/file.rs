//! [`Database`]: a connection to the file, which is created whole, or recognised before it is touched.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::turn::Turn;

/// Marks a file as one of ours: `svcm`, in the header's field for that.
pub(super) const APPLICATION_ID: i32 = 0x7376_636D;

/// Version of the tables below. A program that knows only older ones leaves the file alone.
pub(super) const VERSION: i32 = 1;

/// The tables.
///
/// - `space`: what a name of the settings leads to. Its ids are never used again, nor are those of `waiting`: who removes an
///   item that is gone must not meet another one.
/// - `log`: clustered by identifier, so that a list reads it in one pass.
/// - `cleared`: spaces that no name leads to any more, whose entries of the log are still to be deleted.
/// - `waiting`: items, the longest waiting first, as JSON: `{"batch":…,"messages":[…]}`.
/// - `delivered`: by batch, as JSON: `{"by":…,"messages":[…]}`.
/// - `rejected`: what could not be read, or not be delivered under its id, by a hash of its bytes.
const SCHEMA: &str = "
    CREATE TABLE space (
        id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, cluster TEXT NOT NULL, name TEXT NOT NULL,
        UNIQUE (kind, cluster, name)
    ) STRICT;
    CREATE TABLE log (
        space INTEGER NOT NULL, identifier TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (space, identifier)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE cleared (space INTEGER PRIMARY KEY) STRICT;
    CREATE TABLE waiting (id INTEGER PRIMARY KEY AUTOINCREMENT, space INTEGER NOT NULL, item TEXT NOT NULL) STRICT;
    CREATE INDEX waiting_by_space ON waiting (space);
    CREATE TABLE delivered (
        id INTEGER PRIMARY KEY, space INTEGER NOT NULL, batch TEXT NOT NULL, entry TEXT NOT NULL, UNIQUE (space, batch)
    ) STRICT;
    CREATE TABLE rejected (
        id INTEGER PRIMARY KEY, space INTEGER NOT NULL, key TEXT NOT NULL, reason TEXT NOT NULL, bytes INTEGER NOT NULL,
        item TEXT NOT NULL, UNIQUE (space, key)
    ) STRICT;
";

/// The index of `delivered` by identifier, and the last row of it that is in the index. A file that an earlier program made has
/// neither until one that knows them opens it; a program that does not leaves them alone.
const INDEX_SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS delivered_identifier (
        space INTEGER NOT NULL, identifier TEXT NOT NULL, delivered INTEGER NOT NULL,
        PRIMARY KEY (space, identifier, delivered)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS delivered_indexed (row INTEGER NOT NULL) STRICT;
    INSERT INTO delivered_indexed (row) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM delivered_indexed);
";

/// Reads a little of every table, and so the root of each.
const READ_ALL_TABLES: &str = "
    SELECT * FROM (SELECT id, kind || cluster || name FROM space LIMIT 1)
    UNION ALL SELECT * FROM (SELECT space, identifier || text FROM log LIMIT 1)
    UNION ALL SELECT * FROM (SELECT space, NULL FROM cleared LIMIT 1)
    UNION ALL SELECT * FROM (SELECT id, space || item FROM waiting LIMIT 1)
    UNION ALL SELECT * FROM (SELECT id, NULL FROM waiting WHERE space = 1 LIMIT 1)
    UNION ALL SELECT * FROM (SELECT id, space || batch || entry FROM delivered LIMIT 1)
    UNION ALL SELECT * FROM (SELECT id, NULL FROM delivered WHERE space = 1 AND batch = '' LIMIT 1)
    UNION ALL SELECT * FROM (SELECT id, space || key || reason || bytes || item FROM rejected LIMIT 1)
    UNION ALL SELECT * FROM (SELECT id, NULL FROM rejected WHERE space = 1 AND key = '' LIMIT 1)
";

/// How long another process that has its turn is waited for, where tables are to be made.
const CREATE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long another program that locks the file is waited for. Our own processes take turns and do not meet there.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// What a page cache may take: KiB of one connection. What it does not hold, the system's own cache does.
const CACHE_KIB: u32 = 1024;

/// The log's length to which it is cut when it begins anew.
const WAL_LIMIT: u32 = 16 * 1024 * 1024;

/// A connection to the file, and which file that is.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: Connection,
    path: PathBuf,
    file: FileId,
    wal_path: PathBuf,
    wal: File,
    wal_id: FileId,
}

/// What tells a file from another one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl Database {
    /// Opens the file at `path`; creates it where there is none.
    ///
    /// # Errors
    /// Where it is not a database of ours, of a newer version, or damaged: it is left as it is. Where the folder cannot be
    /// read or written.
    pub(super) fn open_or_create(path: &Path, turn: &Turn) -> anyhow::Result<Self> {
        if is_missing(path)? {
            let Some(_turn) = turn.take_at_most(CREATE_TIMEOUT)? else {
                bail!("{}", turn.held_by_another());
            };
            // Another process may have been faster.
            if is_missing(path)? {
                create(path)?;
            }
        }
        Self::open(path, turn)
    }

    /// Opens the file at `path`, which is there.
    ///
    /// # Errors
    /// Those of [`Database::open_or_create`], and where there is no file.
    pub(super) fn open(path: &Path, turn: &Turn) -> anyhow::Result<Self> {
        if is_missing(path)? {
            bail!(
                "{} was moved away or deleted while it is in use: put it back, or restart to begin with a new one",
                path.display()
            );
        }
        check_header(path)?;
        let database = Self::connect(path)?;
        database.check_tables()?;
        database.add_index(turn)?;
        // The write-ahead log may be new, and what is in it is on the disk only where its name is, too.
        let synced = path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all());
        synced.with_context(|| format!("the folder of {} cannot be written to the disk", path.display()))?;
        Ok(database)
    }

    /// Opens the file at `path`, which was checked when the store was opened, for reading.
    pub(super) fn open_to_read(path: &Path) -> anyhow::Result<Self> {
        let database = Self::connect(path)?;
        let pragma = database.connection.execute_batch("PRAGMA query_only = ON");
        pragma.map_err(|error| explain(path, &error))?;
        database.allow_checkpoint()?;
        Ok(database)
    }

    fn connect(path: &Path) -> anyhow::Result<Self> {
        let sqlite = |error| explain(path, &error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
        set_up(&connection).map_err(sqlite)?;
        check_marks(path, header(&connection).map_err(sqlite)?)?;
        let mode = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
        let mode = mode.map_err(sqlite)?;
        ensure!(
            mode == "wal",
            "{} cannot be used in the journal mode {mode}",
            path.display()
        );
        let wal_path = with_suffix(path, "-wal");
        let reach = |path: &Path| format!("{} cannot be reached", path.display());
        let wal = File::open(&wal_path).with_context(|| reach(&wal_path))?;
        let wal_id = FileId::of(&wal.metadata().with_context(|| reach(&wal_path))?);
        let file = FileId::of(&fs::metadata(path).with_context(|| reach(path))?);
        Ok(Self {
            connection,
            path: path.to_owned(),
            file,
            wal_path,
            wal,
            wal_id,
        })
    }

    /// Reads a little of each table. A whole check would take seconds where there is much.
    fn check_tables(&self) -> anyhow::Result<()> {
        let read = || {
            let mut statement = self.connection.prepare(READ_ALL_TABLES)?;
            let mut rows = statement.query(())?;
            while rows.next()?.is_some() {}
            Ok(())
        };
        read().map_err(|error: rusqlite::Error| match error.sqlite_error_code() {
            Some(ErrorCode::Unknown) => unusable(
                &self.path,
                &format!("does not have the tables that it should ({error})"),
            ),
            _ => explain(&self.path, &error),
        })?;
        self.allow_checkpoint()
    }

    /// Makes the tables of the index where an earlier program made the file, and reads a little of each.
    fn add_index(&self, turn: &Turn) -> anyhow::Result<()> {
        let sqlite = |error| explain(&self.path, &error);
        let find = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'delivered_indexed')";
        let is_there: bool = self.connection.query_row(find, (), |row| row.get(0)).map_err(sqlite)?;
        if !is_there {
            let Some(_turn) = turn.take_at_most(CREATE_TIMEOUT)? else {
                bail!("{}", turn.held_by_another());
            };
            let add = format!("BEGIN IMMEDIATE; {INDEX_SCHEMA} COMMIT");
            self.connection.execute_batch(&add).map_err(sqlite)?;
        }
        let read = "SELECT (SELECT count(*) FROM delivered_indexed), (SELECT min(space) FROM delivered_identifier)";
        self.connection.query_row(read, (), |_| Ok(())).map_err(sqlite)
    }

    /// The file is one of ours and to be put in order when it is closed.
    fn allow_checkpoint(&self) -> anyhow::Result<()> {
        let config = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        let allowed = self.connection.set_db_config(config, false);
        allowed.map(drop).map_err(|error| explain(&self.path, &error))
    }

    /// That the file is still the one that has its name.
    pub(super) fn check_in_place(&self) -> anyhow::Result<()> {
        for (path, id) in [(&self.path, self.file), (&self.wal_path, self.wal_id)] {
            let is_in_place = match fs::metadata(path) {
                Ok(metadata) => FileId::of(&metadata) == id,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error).with_context(|| format!("{} cannot be reached", path.display())),
            };
            ensure!(
                is_in_place,
                "{} was moved, deleted or replaced while it is in use",
                path.display()
            );
        }
        Ok(())
    }

    /// Waits until all that was committed, by whichever process, is on the disk.
    ///
    /// SQLite does that in each commit where `synchronous` is `FULL`, but then nobody else can commit meanwhile. All
    /// commits are in one file, the write-ahead log, so one call is for all before it; and who moves them from there into
    /// the database waits for the disk first.
    pub(super) fn sync(&self) -> anyhow::Result<()> {
        let synced = self.wal.sync_data();
        synced.with_context(|| format!("what was written to {} may not be on the disk", self.path.display()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether a file is to be created at `path`.
///
/// # Errors
/// Where it cannot be told, or where what a database left behind would be read as a part of the new one.
fn is_missing(path: &Path) -> anyhow::Result<bool> {
    let length = |path: &Path| match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("{} cannot be reached", path.display())),
    };
    if length(path)? > 0 {
        return Ok(false);
    }
    let wal = with_suffix(path, "-wal");
    ensure!(
        length(&wal)? == 0,
        "there is {} but no {}, to which it belongs: put that back, or move both away",
        wal.display(),
        path.display()
    );
    Ok(true)
}

/// Creates the file under another name and gives it its own when it is whole. Nobody else does so meanwhile.
fn create(path: &Path) -> anyhow::Result<()> {
    let new = with_suffix(path, ".new");
    for leftover in [
        new.clone(),
        with_suffix(&new, "-wal"),
        with_suffix(&new, "-shm"),
        with_suffix(&new, "-journal"),
    ] {
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{} cannot be removed", leftover.display()));
            }
            _ => {}
        }
    }
    let write = || {
        let connection = Connection::open(&new)?;
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; BEGIN; {SCHEMA} {INDEX_SCHEMA}
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT"
        ))?;
        connection.close().map_err(|(_, error)| error)
    };
    write().map_err(|error| explain(path, &error))?;
    let put_in_place = || {
        File::open(&new)?.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    put_in_place().with_context(|| format!("{} cannot be created", path.display()))
}

/// Checks what the file says of itself, without changing it, nor making files beside it.
fn check_header(path: &Path) -> anyhow::Result<()> {
    let name = percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let read = || {
        let connection = Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)?;
        // Without its write-ahead log it may be shorter than it says: of one that grows just now, or was killed then.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
        header(&connection)
    };
    check_marks(path, read().map_err(|error| explain(path, &error))?)
}

/// Application and version of the file.
fn header(connection: &Connection) -> rusqlite::Result<(i32, i32)> {
    let field = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    Ok((field("application_id")?, field("user_version")?))
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    // What turns out not to be ours is not to be changed by closing it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch(&format!(
        "PRAGMA synchronous = NORMAL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;
         PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = {WAL_LIMIT};
         PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY"
    ))
}

/// Checks that the file is one of ours.
fn check_marks(path: &Path, (application, version): (i32, i32)) -> anyhow::Result<()> {
    if application != APPLICATION_ID {
        return Err(unusable(path, "is a database of another program"));
    }
    if version > VERSION {
        let newer =
            format!("was written by a newer version of this program (format {version}, this one knows {VERSION})");
        return Err(unusable(path, &newer));
    }
    if version < VERSION {
        let unknown = format!("has the format {version}, which no version of this program writes");
        return Err(unusable(path, &unknown));
    }
    Ok(())
}

/// An error that names the file and says what to do.
fn unusable(path: &Path, what: &str) -> anyhow::Error {
    anyhow!(
        "{} {what}; nothing in it was changed: move it away, or name another folder with --local",
        path.display()
    )
}

/// What a person is told of an error of SQLite.
pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> anyhow::Error {
    let file = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => unusable(path, "is no SQLite database"),
        Some(ErrorCode::DatabaseCorrupt) => unusable(path, &format!("is damaged ({error})")),
        Some(ErrorCode::DiskFull) => {
            anyhow!("the disk is full: {file} cannot grow; it goes on by itself once there is room")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            anyhow!("{file} cannot be opened for writing ({error}): see to whom it and its folder belong")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            anyhow!("another program keeps {file} locked")
        }
        Some(ErrorCode::SystemIoFailure) => anyhow!("{file} cannot be read or written ({error}): see to its disk"),
        _ => anyhow!("{file}: {error}"),
    }
}

/// Whether it may help to open the file anew.
pub(super) fn is_lasting(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::ConstraintViolation
        )
    )
}

/// Whether the file is damaged: nothing more is to be written into it.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// The path of a file beside `path`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
