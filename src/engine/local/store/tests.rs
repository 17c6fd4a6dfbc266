use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use futures_util::StreamExt;
use futures_util::future::join_all;
use rusqlite::ffi;
use rustix::fs::{FlockOperation, flock};

use super::*;
use crate::engine::local::LocalLog;
use crate::engine::{Appended, Engine, IfPresent, LogStore};
use crate::message::Message;

/// A folder of its own, removed at the end.
pub(in crate::engine::local) struct Folder(pub(in crate::engine::local) PathBuf);

impl Folder {
    pub(in crate::engine::local) fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("svc-store-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    pub(in crate::engine::local) fn store(&self) -> Arc<Store> {
        Store::open(&self.0).unwrap()
    }

    fn database(&self) -> PathBuf {
        self.0.join("messages.db")
    }

    /// A connection of another program.
    pub(in crate::engine::local) fn other_program(&self) -> Connection {
        Connection::open(self.database()).unwrap()
    }

    /// The error of opening it, and that this changed nothing in the file.
    fn refused(&self) -> String {
        let before = fs::read(self.database()).unwrap();
        let error = format!("{:#}", Store::open(&self.0).unwrap_err());
        assert!(
            fs::read(self.database()).unwrap() == before,
            "{error}: the file was changed"
        );
        assert!(error.contains("messages.db"), "{error}");
        error
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A lock that another process holds.
fn locked(folder: &Folder, name: &str) -> fs::File {
    let file = fs::OpenOptions::new().write(true).open(folder.0.join(name)).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}

pub(in crate::engine::local) fn message(identifier: &str, text: &str) -> Message {
    Message {
        identifier: identifier.to_owned(),
        text: text.to_owned(),
    }
}

async fn append(log: &LocalLog, identifier: &str, text: &str) -> Result<Appended, String> {
    let outcome = log
        .append(&[message(identifier, text)], IfPresent::Replace)
        .await
        .pop()
        .unwrap();
    outcome.map_err(|error| error.to_string())
}

async fn texts(log: &LocalLog) -> Vec<String> {
    let mut texts = Vec::new();
    let mut pages = log.all();
    while let Some(page) = pages.next().await {
        texts.extend(page.unwrap().messages.into_iter().map(|message| message.text));
    }
    texts
}

fn log(store: &Arc<Store>) -> LocalLog {
    LocalLog::new(store.clone(), "logging", "messages")
}

/// Asks again until it is so.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn two_on_one_folder_see_what_each_other_writes_and_it_is_there_when_it_is_opened_again() {
    let folder = Folder::new();
    let (one, other) = (folder.store(), folder.store());
    append(&log(&one), "1", "a").await.unwrap();
    append(&log(&other), "2", "b").await.unwrap();
    assert_eq!(texts(&log(&one)).await, ["a", "b"]);
    assert_eq!(texts(&log(&other)).await, ["a", "b"]);
    drop((one, other));
    assert_eq!(texts(&log(&folder.store())).await, ["a", "b"]);
}

#[tokio::test]
async fn another_name_of_the_cluster_or_of_the_map_leads_to_other_data() {
    let folder = Folder::new();
    let store = folder.store();
    append(&log(&store), "1", "a").await.unwrap();
    for (cluster, map) in [("logging", "other"), ("other", "messages")] {
        let log = LocalLog::new(store.clone(), cluster, map);
        assert_eq!(texts(&log).await, Vec::<String>::new());
        append(&log, "1", map).await.unwrap();
        assert_eq!(texts(&log).await, [map]);
    }
    assert_eq!(texts(&log(&store)).await, ["a"]);
}

#[tokio::test]
async fn what_leads_to_the_same_data_has_the_same_identity_however_the_folder_is_given() {
    let folder = Folder::new();
    let (one, other) = (folder.store(), Store::open(&folder.0.join(".")).unwrap());
    assert_eq!(log(&one).identity(), log(&other).identity());
    assert_ne!(
        log(&one).identity(),
        LocalLog::new(other, "logging", "other").identity()
    );
}

#[test]
fn what_is_no_database_is_refused_and_left_as_it_is() {
    for content in [&b"a note of somebody's"[..], &[0; 8192]] {
        let folder = Folder::new();
        fs::write(folder.database(), content).unwrap();
        let error = folder.refused();
        assert!(
            error.contains("is no SQLite database; nothing in it was changed: move it away"),
            "{error}"
        );
        assert!(!folder.0.join("messages.db-wal").exists());
    }
}

#[test]
fn a_database_of_another_program_is_refused_and_left_as_it_is() {
    for mode in ["delete", "wal"] {
        let folder = Folder::new();
        let other = folder.other_program();
        let create = format!("PRAGMA journal_mode = {mode}; CREATE TABLE log (a, b); INSERT INTO log VALUES (1, 2)");
        other.execute_batch(&create).unwrap();
        assert!(folder.refused().contains("is a database of another program"));
        other.close().unwrap();
        assert!(folder.refused().contains("is a database of another program"));
    }
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    drop(folder.store());
    let newer = folder.other_program();
    newer.pragma_update(None, "user_version", VERSION_OF_TOMORROW).unwrap();
    // Also while that is in the write-ahead log alone.
    assert!(
        folder
            .refused()
            .contains("was written by a newer version of this program")
    );
    newer.close().unwrap();
    assert!(
        folder
            .refused()
            .contains("was written by a newer version of this program")
    );
}

const VERSION_OF_TOMORROW: i32 = file::VERSION + 1;

#[test]
fn a_damaged_database_is_refused_and_left_as_it_is() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("the list of the tables", |file| file[100..4000].fill(0xFF)),
        ("the root of a table", |file| file[4096..].fill(0xFF)),
        ("cut short", |file| file.truncate(4096)),
        ("cut within a page", |file| file.truncate(5000)),
    ];
    for (what, damage) in damages {
        let folder = Folder::new();
        drop(folder.store());
        let mut file = fs::read(folder.database()).unwrap();
        damage(&mut file);
        fs::write(folder.database(), file).unwrap();
        let error = folder.refused();
        assert!(error.contains("damaged") || error.contains("tables"), "{what}: {error}");
        assert!(
            error.contains("nothing in it was changed: move it away"),
            "{what}: {error}"
        );
    }
}

#[tokio::test]
async fn one_that_was_killed_while_it_moved_what_was_written_into_the_database_is_whole_again() {
    let (folder, killed) = (Folder::new(), Folder::new());
    let wal = |folder: &Folder| folder.0.join("messages.db-wal");
    let store = folder.store();
    let text = "x".repeat(100_000);
    append(&log(&store), "1", &text).await.unwrap();
    let before = fs::read(folder.database()).unwrap();
    fs::copy(wal(&folder), wal(&killed)).unwrap();
    let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
    folder.other_program().query_row(checkpoint, (), |_| Ok(())).unwrap();
    let mut half_way = fs::read(folder.database()).unwrap();
    assert!(half_way.len() > before.len());
    half_way.truncate(before.len());
    half_way[4096..].copy_from_slice(&before[4096..]);
    fs::write(killed.database(), half_way).unwrap();
    assert_eq!(texts(&log(&killed.store())).await, [text]);
}

#[test]
fn a_write_ahead_log_without_its_database_is_not_taken_for_a_part_of_a_new_one() {
    let folder = Folder::new();
    fs::write(folder.0.join("messages.db-wal"), "something").unwrap();
    let error = format!("{:#}", Store::open(&folder.0).unwrap_err());
    assert!(error.contains("messages.db-wal but no"), "{error}");
    assert!(!folder.database().exists());
}

#[test]
fn what_a_creation_that_was_killed_left_behind_does_not_matter() {
    let folder = Folder::new();
    fs::write(folder.0.join("messages.db.new"), "half of it").unwrap();
    fs::write(folder.0.join("messages.db.new-journal"), "half of it").unwrap();
    fs::write(folder.database(), "").unwrap();
    drop(folder.store());
    assert!(!folder.0.join("messages.db.new").exists());
}

#[test]
fn many_that_begin_at_once_create_one_database() {
    let folder = Folder::new();
    let openings: Vec<_> = (0..6)
        .map(|_| {
            let folder = folder.0.clone();
            thread::spawn(move || Store::open(&folder).map(drop))
        })
        .collect();
    for opening in openings {
        opening.join().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let folder = Folder::new();
    let missing = folder.0.join("missing");
    let error = format!("{:#}", Store::open(&missing).unwrap_err());
    assert!(error.contains("missing cannot be used"), "{error}");
}

#[tokio::test]
async fn of_those_that_are_written_together_one_that_fails_fails_alone() {
    let folder = Folder::new();
    let store = folder.store();
    // They wait together.
    let held = locked(&folder, "messages.lock");
    let log = log(&store);
    let good = async { append(&log, "1", "a").await };
    let bad = store.write(0, |_| Err::<(), _>(rusqlite::Error::InvalidQuery));
    let conflict = async {
        append(&log, "2", "b").await.unwrap();
        log.append(&[message("2", "c"), message("3", "d")], IfPresent::Keep)
            .await
    };
    let release = async {
        tokio::task::yield_now().await;
        drop(held);
    };
    let (good, bad, conflict, ()) = tokio::join!(good, bad, conflict, release);
    good.unwrap();
    assert!(bad.is_err());
    let conflict: Vec<Appended> = conflict.into_iter().map(Result::unwrap).collect();
    assert_eq!(conflict, [Appended::Conflict, Appended::Stored]);
    assert_eq!(texts(&log).await, ["a", "b", "d"]);
    store.check().unwrap();
}

#[tokio::test]
async fn one_that_meets_damage_ends_all_that_is_written_with_it() {
    let folder = Folder::new();
    let store = folder.store();
    let held = locked(&folder, "messages.lock");
    let log = log(&store);
    let damage = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), None);
    let good = async { append(&log, "1", "a").await };
    let bad = store.write(0, |_| Err::<(), _>(damage));
    let release = async {
        tokio::task::yield_now().await;
        drop(held);
    };
    let (good, bad, ()) = tokio::join!(good, bad, release);
    for error in [good.unwrap_err(), bad.unwrap_err().to_string()] {
        assert!(error.contains("is damaged"), "{error}");
    }
    assert_eq!(texts(&log).await, Vec::<String>::new());
    // It was no damage of the file.
    eventually("it goes on", async || append(&log, "2", "b").await.is_ok()).await;
}

#[tokio::test]
async fn after_a_sync_that_failed_nothing_is_answered_before_the_write_ahead_log_was_emptied() {
    let folder = Folder::new();
    let store = folder.store();
    let log = log(&store);
    // The last one to leave a file would empty its log in any case.
    let other = folder.store();
    let wal = || fs::metadata(folder.0.join("messages.db-wal")).unwrap().len();
    append(&log, "1", &"x".repeat(1024 * 1024)).await.unwrap();
    assert!(wal() > 1024 * 1024);
    store.shared.fails_to_sync.store(true, Ordering::Relaxed);
    let error = append(&log, "2", "b").await.unwrap_err();
    assert!(error.contains("a sync that fails"), "{error}");
    eventually("it goes on", async || append(&log, "3", "c").await.is_ok()).await;
    assert!(wal() < 512 * 1024, "{} bytes: it was written on behind the gap", wal());
    assert_eq!(texts(&log).await.len(), 3);
    drop(other);
}

#[tokio::test]
async fn a_fault_in_a_job_is_an_error_and_the_next_one_is_done() {
    let folder = Folder::new();
    let store = folder.store();
    let fault = store.write(0, |_| -> rusqlite::Result<()> { panic!("a fault, for a test") });
    let error = fault.await.unwrap_err().to_string();
    assert!(error.contains("a fault in this program"), "{error}");
    append(&log(&store), "1", "a").await.unwrap();
    assert_eq!(texts(&log(&store)).await, ["a"]);
}

#[tokio::test]
async fn a_full_disk_is_told_loses_nothing_that_was_answered_and_is_over_by_itself() {
    let folder = Folder::new();
    let store = folder.store();
    let log = log(&store);
    let text = "x".repeat(3000);
    append(&log, "before", &text).await.unwrap();
    let limit = |pages: u32| {
        store.write(0, move |writing| {
            let limit = format!("PRAGMA max_page_count = {pages}");
            writing.connection().query_row(&limit, (), |_| Ok(()))
        })
    };
    limit(1).await.unwrap();
    let mut stored = vec!["before".to_owned()];
    let error = loop {
        let identifier = format!("{:04}", stored.len());
        match append(&log, &identifier, &text).await {
            Ok(_) => stored.push(identifier),
            Err(error) => break error,
        }
        assert!(stored.len() < 1000, "the disk is never full");
    };
    assert!(
        error.contains("the disk is full") && error.contains("messages.db"),
        "{error}"
    );
    assert!(log.check().is_err());
    assert_eq!(texts(&log).await.len(), stored.len());
    limit(1_000_000).await.unwrap();
    append(&log, "after", &text).await.unwrap();
    log.check().unwrap();
    assert_eq!(texts(&log).await.len(), stored.len() + 1);
}

#[tokio::test]
async fn where_writes_fail_it_is_tried_from_time_to_time_whether_they_do_still() {
    let folder = Folder::new();
    let store = folder.store();
    store.shared.set_trouble(Some("the disk is full".into()));
    eventually("it is over", async || store.check().is_ok()).await;
}

#[tokio::test]
async fn a_process_that_holds_the_lock_and_stands_still_is_an_error_in_time_and_nothing_is_left_of_it() {
    let folder = Folder::new();
    let store = folder.store();
    let log = log(&store);
    let held = locked(&folder, "messages.lock");
    let begun = Instant::now();
    let (first, second) = tokio::join!(append(&log, "1", "a"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        append(&log, "2", "b").await
    });
    assert!(begun.elapsed() < Duration::from_millis(4400), "{:?}", begun.elapsed());
    let error = first.unwrap_err();
    assert!(
        error.contains("another process holds") && error.contains("messages.lock"),
        "{error}"
    );
    assert!(second.unwrap_err().contains("messages.lock"));
    assert!(log.check().is_err());
    assert_eq!(texts(&log).await, Vec::<String>::new(), "it can be read");
    drop(held);
    append(&log, "3", "c").await.unwrap();
    log.check().unwrap();
}

#[tokio::test]
async fn a_process_that_stands_still_at_the_head_of_the_queue_holds_up_nobody() {
    let folder = Folder::new();
    let store = folder.store();
    let _held = locked(&folder, "messages.turn");
    append(&log(&store), "1", "a").await.unwrap();
}

#[tokio::test]
async fn a_store_that_ends_while_another_process_holds_the_lock_does_not_wait_for_it() {
    let folder = Folder::new();
    let store = folder.store();
    let _held = locked(&folder, "messages.lock");
    let waiting = log(&store);
    let _ = timeout(Duration::from_millis(50), append(&waiting, "1", "a")).await;
    drop(waiting);
    let begun = Instant::now();
    drop(store);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_file_that_is_moved_away_while_it_is_in_use_is_told_and_used_again_when_it_is_back() {
    let folder = Folder::new();
    let store = folder.store();
    let log = log(&store);
    append(&log, "1", "a").await.unwrap();
    let elsewhere = folder.0.join("elsewhere");
    fs::rename(folder.database(), &elsewhere).unwrap();
    let error = append(&log, "2", "b").await.unwrap_err();
    assert!(
        error.contains("was moved, deleted or replaced while it is in use"),
        "{error}"
    );
    assert!(log.all().next().await.unwrap().is_err(), "it is not read either");
    assert!(log.check().is_err());
    fs::rename(&elsewhere, folder.database()).unwrap();
    eventually("it is used again", async || log.check().is_ok()).await;
    append(&log, "3", "c").await.unwrap();
    assert_eq!(texts(&log).await, ["a", "c"]);
}

#[tokio::test]
async fn what_is_cleared_is_gone_at_once_and_deleted_by_and_by() {
    let folder = Folder::new();
    let store = folder.store();
    let log = log(&store);
    let messages: Vec<Message> = (0..2000).map(|number| message(&format!("{number:04}"), "x")).collect();
    log.append(&messages, IfPresent::Replace).await;
    log.clear().await.unwrap();
    append(&log, "0001", "new").await.unwrap();
    assert_eq!(texts(&log).await, ["new"]);
    let left = async || {
        let count = store.read(|connection| {
            let count = "SELECT (SELECT count(*) FROM log) + (SELECT count(*) FROM cleared)";
            connection.query_row(count, (), |row| row.get::<_, i64>(0))
        });
        count.await.unwrap()
    };
    eventually("the rest is deleted", async || left().await == 1).await;
    assert_eq!(texts(&log).await, ["new"]);
}

#[tokio::test]
async fn what_a_killed_process_left_of_what_was_cleared_is_deleted_at_the_next_start() {
    let folder = Folder::new();
    drop(folder.store());
    let killed = folder.other_program();
    let left = "INSERT INTO log VALUES (77, 'i', 't'); INSERT INTO cleared VALUES (77)";
    killed.execute_batch(left).unwrap();
    let _store = folder.store();
    let is_deleted = async || {
        let count = "SELECT (SELECT count(*) FROM log) + (SELECT count(*) FROM cleared)";
        killed.query_row(count, (), |row| row.get::<_, i64>(0)).unwrap() == 0
    };
    eventually("it is deleted", is_deleted).await;
}

#[tokio::test]
async fn the_write_ahead_log_does_not_grow_without_end() {
    let folder = Folder::new();
    let store = folder.store();
    let log = log(&store);
    let text = "x".repeat(1024 * 1024);
    for number in 0..100 {
        append(&log, &number.to_string(), &text).await.unwrap();
    }
    let length = fs::metadata(folder.0.join("messages.db-wal")).unwrap().len();
    assert!(length < 50 * 1024 * 1024, "{length}");
}

/// Names the folder to the process that is started to be killed.
const CHILD: &str = "SVC_TEST_STORE_FOLDER";

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes without pause, and tells what was answered as stored.
fn append_until_killed(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let store = Store::open(folder).unwrap();
    let log = log(&store);
    let one_after_another = async || {
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            let identifier = uuid::Uuid::now_v7().to_string();
            append(&log, &identifier, &identifier).await.unwrap();
            let mut out = io::stdout().lock();
            writeln!(out, "stored {identifier}").unwrap();
            out.flush().unwrap();
        }
    };
    runtime.block_on(join_all(std::iter::repeat_with(one_after_another).take(8)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_before_a_process_was_killed_is_there_and_nobody_is_held_up() {
    if let Some(folder) = std::env::var_os(CHILD) {
        tokio::task::spawn_blocking(move || append_until_killed(Path::new(&folder)))
            .await
            .unwrap();
        return;
    }
    let folder = Folder::new();
    let store = folder.store();
    let log = log(&store);
    let mut answered = Vec::new();
    for round in 0..3 {
        let (tell, told) = mpsc::channel();
        let mut children: Vec<Killed> = (0..3).map(|_| Killed(appending(&folder))).collect();
        for child in &mut children {
            let (out, tell) = (child.0.stdout.take().unwrap(), tell.clone());
            thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if let Some(identifier) = line.strip_prefix("stored ") {
                        let _ = tell.send(identifier.to_owned());
                    }
                }
            });
        }
        drop(tell);
        let enough = answered.len() + 100;
        while answered.len() < enough {
            answered.push(told.recv_timeout(Duration::from_secs(20)).unwrap());
        }
        drop(children);
        answered.extend(told.iter());
        append(&log, &format!("own {round}"), "own").await.unwrap();
        let stored = texts(&log).await;
        let stored: std::collections::HashSet<&String> = stored.iter().collect();
        let missing = answered
            .iter()
            .filter(|identifier| !stored.contains(identifier))
            .count();
        assert_eq!(missing, 0, "of {}", answered.len());
    }
}

fn appending(folder: &Folder) -> Child {
    let test = "what_was_answered_before_a_process_was_killed_is_there_and_nobody_is_held_up";
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("engine::local::store::tests::{test}"),
            "--nocapture",
        ])
        .env(CHILD, &folder.0)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A text that has no page in common with the one before it: SQLite does not write a page that stays as it is.
fn another_text(number: usize, bytes: usize) -> String {
    let letters = ["a", "b", "c"];
    letters[number % letters.len()].repeat(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_begins_anew_also_while_others_write_and_read_without_pause() {
    const WRITERS: usize = 16;
    const WRITES: usize = 250;
    let folder = Folder::new();
    let stores = [(); 6].map(|()| folder.store());
    let is_over = Arc::new(AtomicBool::new(false));
    // At any time one of them reads from the log.
    let readers = [(); 3].map(|()| {
        let (store, is_over) = (folder.store(), is_over.clone());
        thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let read = store.readers.read_now(|connection| {
                    let spaces = connection.query_row("SELECT count(*) FROM space", (), |row| row.get::<_, i64>(0));
                    thread::park_timeout(Duration::from_millis(5));
                    spaces
                });
                read.unwrap();
            }
        })
    });
    let writers = (0..WRITERS).map(async |writer| {
        let (log, wal, mut longest) = (log(&stores[writer % 6]), folder.0.join("messages.db-wal"), 0);
        for write in 0..WRITES {
            // The same entries again and again: what grows is the write-ahead log.
            let text = another_text(write, 32 * 1024);
            append(&log, &format!("{writer}-{}", write % 8), &text).await.unwrap();
            longest = longest.max(fs::metadata(&wal).unwrap().len());
        }
        longest
    });
    let longest = join_all(writers).await.into_iter().max().unwrap();
    is_over.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let begins_anew = u64::try_from(writer::BEGIN_ANEW_PAGES).unwrap() * 4096;
    // Some more comes while a slow disk takes what is moved; without a new beginning it would be all of it, 128 MiB and more.
    assert!(longest < 3 * begins_anew, "{longest} bytes: it does not begin anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_and_stands_still_holds_up_no_write() {
    let folder = Folder::new();
    let (stores, reading) = ([(); 6].map(|()| folder.store()), folder.store());
    let (began, has_begun) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let reader = thread::spawn(move || {
        reading.readers.read_now(|connection| {
            let spaces = connection.query_row("SELECT count(*) FROM space", (), |row| row.get::<_, i64>(0));
            began.send(()).unwrap();
            // Until the other end is dropped.
            let _ = goes_on.recv();
            spaces
        })
    });
    has_begun.recv().unwrap();
    // More than makes the write-ahead log begin anew, which it cannot now; and each write is answered.
    let writers = stores.iter().enumerate().map(async |(writer, store)| {
        for number in 0..12 {
            let text = another_text(number, 1024 * 1024);
            append(&log(store), &writer.to_string(), &text).await.unwrap();
        }
    });
    join_all(writers).await;
    drop(go_on);
    reader.join().unwrap().unwrap();
}
