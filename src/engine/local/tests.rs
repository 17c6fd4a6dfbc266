use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::watch::CONFIRM;
use super::*;
use crate::engine::{Condition, Held, Instance, Listed, Registration, Registry, Settings};

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A folder of a test's own, and the engines in it.
struct Own {
    local: Local,
    path: PathBuf,
}

impl Own {
    /// The folder is not there yet.
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("svc-local-{}", uuid::Uuid::new_v4()));
        Self {
            local: Local::new(path.join("data")).unwrap(),
            path,
        }
    }

    fn folder(&self) -> PathBuf {
        self.path.join("data")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Another process, as far as files can tell.
    fn another(&self) -> Local {
        Local::new(self.folder()).unwrap()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.file(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Sets the last heartbeat of an instance back.
    fn silence(&self, id: &str, silence: Duration) {
        let file = File::open(self.file(&format!("instances/{id}.json"))).unwrap();
        let beat = file.metadata().unwrap().modified().unwrap();
        file.set_modified(beat - silence).unwrap();
    }

    async fn listed(&self) -> Vec<Listed> {
        self.local.all("s").await.unwrap()
    }

    /// Waits until a watch shows instances of exactly these ids.
    async fn shows(&self, ids: &[&str]) {
        let mut watch = Registry::watch(&self.local, "s");
        let shown = async {
            while let Some(seen) = watch.next().await {
                let seen = seen.unwrap();
                let seen: Vec<&str> = seen.iter().map(|instance| instance.id.as_str()).collect();
                if seen == ids {
                    break;
                }
            }
        };
        timeout(SOON, shown)
            .await
            .unwrap_or_else(|_| panic!("not seen: {ids:?}"));
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn registration(port: u16) -> Registration {
    Registration {
        service: "s".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        version: "1.2.3".to_owned(),
        since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_570_917),
    }
}

/// The id of that registration.
fn id(port: u16) -> String {
    registration(port).id()
}

/// Waits until `condition` holds. What another test's child holds between its fork and its exec is let go late.
async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let holds = async {
        while !condition().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, holds)
        .await
        .unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"));
}

fn told<T: std::fmt::Debug>(outcome: Result<T>) -> String {
    outcome.unwrap_err().to_string()
}

// === The folder ===

#[tokio::test]
async fn who_only_asks_makes_no_folder_and_is_told_that_there_is_none() {
    let own = Own::new();
    own.local.ready().await.unwrap();
    assert_eq!(own.local.get("a").await.unwrap(), Held::Missing);
    assert_eq!(
        Settings::watch(&own.local, "a").next().await.unwrap().unwrap(),
        Held::Missing
    );
    assert!(!own.local.is_registered(&registration(1)).await.unwrap());
    own.local.deregister("a").await.unwrap();
    for error in [
        told(own.local.all("s").await),
        told(Registry::watch(&own.local, "s").next().await.unwrap()),
    ] {
        let folder = own.folder();
        assert_eq!(
            error,
            format!("the folder {}: there is no such folder", folder.display())
        );
    }
    assert!(!own.path.exists());
    assert!(Registry::advice(&own.local).contains("svc up --local /"));
}

#[tokio::test]
async fn the_folder_and_what_is_in_it_are_their_owners_alone() {
    let own = Own::new();
    own.local.put("a", "x").await.unwrap();
    own.local.register(&registration(1)).await.unwrap();
    let mode = |name: &str| fs::metadata(own.file(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(""), mode("settings"), mode("instances")], [0o700; 3]);
    assert_eq!([mode("settings/a"), mode("instances/s@127.0.0.1:1.json")], [0o600; 2]);
    assert_eq!(own.listed().await.len(), 1);
}

#[tokio::test]
async fn a_file_in_the_place_of_the_folder_is_named_and_left_alone() {
    let own = Own::new();
    fs::create_dir_all(&own.path).unwrap();
    fs::write(own.folder(), "mine").unwrap();
    let below = Local::new(own.file("below")).unwrap();
    for local in [&own.local, &below] {
        let error = told(local.ready().await);
        assert!(
            error.contains("is no folder") || error.contains("Not a directory"),
            "{error}"
        );
        told(local.get("a").await);
        told(local.put("a", "x").await);
        told(local.put_if_absent("a", "x").await);
        told(local.all("s").await);
        told(local.register(&registration(1)).await);
    }
    assert!(told(own.local.all("s").await).ends_with("it is no folder"));
    assert_eq!(fs::read(own.folder()).unwrap(), b"mine");
}

#[tokio::test]
async fn an_empty_path_names_no_folder() {
    let error = Local::new(PathBuf::new()).unwrap_err().to_string();
    assert!(error.contains("--local"), "{error}");
}

// === Settings ===

#[tokio::test]
async fn a_setting_is_a_file_of_its_key_with_the_value_as_it_is() {
    let own = Own::new();
    for (key, name) in [
        ("mq_name", "mq_name"),
        ("svc/logging/map", "svc:logging:map"),
        ("...", "..."),
    ] {
        own.local.put(key, "first").await.unwrap();
        own.local.put(key, "ä\n").await.unwrap();
        assert_eq!(own.local.put_if_absent(key, "x").await.unwrap().as_deref(), Some("ä\n"));
        assert_eq!(fs::read_to_string(own.file("settings").join(name)).unwrap(), "ä\n");
    }
    assert_eq!(
        own.names("settings"),
        ["...", "mq_name", "svc:logging:map"],
        "nothing else is left"
    );
}

#[tokio::test]
async fn what_is_no_value_is_unreadable_and_stays() {
    let own = Own::new();
    own.write("settings/bytes", b"\xff\x00");
    own.write("settings/long", &vec![b'a'; 512 * 1024 + 1]);
    own.write("settings/folder/file", b"");
    let pipe = own.file("settings/pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (key, why) in [
        ("bytes", "no text in UTF-8"),
        ("long", "more than 524288 bytes long"),
        ("folder", "no file"),
        ("pipe", "no file"),
    ] {
        assert_eq!(own.local.get(key).await.unwrap(), Held::Unreadable(why.to_owned()));
        let error = told(own.local.put_if_absent(key, "x").await);
        assert!(
            error.ends_with(&format!("the value of the key {key} is {why}")),
            "{error}"
        );
    }
    own.local.put("bytes", "x").await.unwrap();
    assert_eq!(own.local.get("bytes").await.unwrap(), Held::Value("x".to_owned()));
    assert!(told(own.local.put("folder", "x").await).contains("writing the key folder"));
}

#[tokio::test]
async fn a_key_or_a_value_that_no_file_could_have_is_refused() {
    let own = Own::new();
    for key in ["../a", "a b", ".", "", &"a".repeat(256)] {
        assert!(told(own.local.get(key).await).contains("cannot be a key"), "{key:?}");
        assert!(
            told(own.local.put(key, "x").await).contains("cannot be a key"),
            "{key:?}"
        );
        assert!(told(Settings::watch(&own.local, key).next().await.unwrap()).contains("cannot be a key"));
    }
    let long = "a".repeat(512 * 1024 + 1);
    assert!(told(own.local.put("a", &long).await).contains("more than 524288 bytes"));
    assert!(own.local.put("a", &long[1..]).await.is_ok());
}

#[tokio::test]
async fn what_somebody_writes_into_the_file_is_seen() {
    let own = Own::new();
    own.local.put("a", "one").await.unwrap();
    let mut watch = Settings::watch(&own.local, "a");
    let mut shows = async |text: &str| {
        let shown = async { while watch.next().await.unwrap().unwrap() != Held::Value(text.to_owned()) {} };
        timeout(SOON, shown).await.unwrap();
    };
    shows("one").await;
    // In place, and of the same length.
    own.write("settings/a", b"two");
    shows("two").await;
    own.write("settings/a", b"");
    shows("").await;
}

// === Registry ===

#[tokio::test]
async fn an_instance_is_a_file_that_says_all_of_it() {
    let own = Own::new();
    let instance = Registration {
        host: "::1".to_owned(),
        ..registration(8100)
    };
    own.local.register(&instance).await.unwrap();
    let text = fs::read_to_string(own.file("instances/s@::1:8100.json")).unwrap();
    let mut says: Value = serde_json::from_str(&text).unwrap();
    assert!(says["clock_zero_ms"].take().is_u64());
    let expected = json!({
        "id": "s@::1:8100", "service": "s", "host": "::1", "port": 8100, "version": "1.2.3",
        "since": "2026-11-25T01:41:57Z", "clock_zero_ms": null,
    });
    assert_eq!(says, expected);
    assert_eq!(own.listed().await[0].address.as_deref(), Some("[::1]:8100"));
}

#[tokio::test]
async fn a_live_instance_stays_one_for_longer_than_a_silence_may_last() {
    let own = Own::new();
    own.local.register(&registration(1)).await.unwrap();
    let another = own.another();
    let mut watch = Registry::watch(&another, "s");
    let began = Instant::now();
    while began.elapsed() < 2 * instance_file::SILENCE_LIMIT {
        let seen = watch.next().await.unwrap().unwrap();
        assert_eq!(seen.len(), 1, "after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn an_instance_whose_process_ended_is_critical_at_once_and_gone_after_a_minute() {
    let own = Own::new();
    let other = own.another();
    other.register(&registration(1)).await.unwrap();
    own.shows(&[&id(1)]).await;
    drop(other);
    own.shows(&[]).await;
    let [listed] = &own.listed().await[..] else {
        panic!("it is still listed")
    };
    assert_eq!(listed.condition, Condition::Critical);
    assert!(
        listed.reason.as_ref().unwrap().starts_with("its process has ended"),
        "{listed:?}"
    );
    assert!(own.local.is_registered(&registration(1)).await.unwrap());

    own.silence(&id(1), Duration::from_secs(50));
    let [listed] = &own.listed().await[..] else {
        panic!("it is still listed")
    };
    assert!(
        listed.reason.as_ref().unwrap().contains("no heartbeat for 5"),
        "{listed:?}"
    );
    own.silence(&id(1), Duration::from_secs(10));
    // Two at once do no harm.
    let (one, two) = tokio::join!(own.local.all("s"), own.local.all("another service"));
    assert!(one.unwrap().is_empty() && two.unwrap().is_empty());
    assert!(own.names("instances").is_empty());
}

#[tokio::test]
async fn what_was_left_before_the_machine_started_is_taken_out() {
    let own = Own::new();
    let other = own.another();
    other.register(&registration(1)).await.unwrap();
    drop(other);
    // By a clock that has begun anew, the last heartbeat is still to come.
    let file = File::open(own.file(&format!("instances/{}.json", id(1)))).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(3600))
        .unwrap();
    eventually("it is out", async || own.listed().await.is_empty()).await;
    assert!(own.names("instances").is_empty());
}

#[tokio::test]
async fn what_is_no_registration_hides_no_other_and_is_left_alone() {
    let own = Own::new();
    own.local.register(&registration(1)).await.unwrap();
    let whole = fs::read(own.file(&format!("instances/{}.json", id(1)))).unwrap();
    let long = [&whole[..], &[b' '; 20_000]].concat();
    let odd = [
        ("README", &b"my notes"[..]),
        ("s@127.0.0.1:2.json", b""),
        ("s@127.0.0.1:3.json", &whole[..whole.len() / 2]),
        ("s@127.0.0.1:4.json", &whole),
        ("s@127.0.0.1:5.json", b"\xff\xff"),
        ("s@127.0.0.1:6.json", &long),
        ("s@127.0.0.1:7.json", b"[]"),
    ];
    for (name, content) in odd {
        own.write(&format!("instances/{name}"), content);
    }
    own.write("instances/.hidden", b"x");
    own.write("instances/folder.json/x", b"x");
    assert!(
        Command::new("mkfifo")
            .arg(own.file("instances/pipe.json"))
            .status()
            .unwrap()
            .success()
    );
    let before = own.names("instances");

    for _ in 0..2 {
        let ids: Vec<String> = own.listed().await.into_iter().map(|listed| listed.id).collect();
        assert_eq!(ids, [id(1)]);
    }
    own.shows(&[&id(1)]).await;
    assert_eq!(own.names("instances"), before);
    for (name, content) in odd {
        assert_eq!(fs::read(own.file(&format!("instances/{name}"))).unwrap(), content);
    }
    let told: Vec<String> = own
        .local
        .odd
        .lock()
        .unwrap()
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let mut expected: Vec<&str> = odd.iter().map(|(name, _)| *name).collect();
    expected.extend(["folder.json", "pipe.json"]);
    expected.sort_unstable();
    assert_eq!(told, expected, "hidden ones are not worth a word");

    own.local.register(&registration(3)).await.unwrap();
    own.shows(&[&id(1), &id(3)]).await;
}

#[tokio::test]
async fn one_that_was_damaged_is_an_instance_again_once_it_is_mended() {
    let own = Own::new();
    own.local.register(&registration(1)).await.unwrap();
    let name = format!("instances/{}.json", id(1));
    let whole = fs::read(own.file(&name)).unwrap();
    let mut watch = Registry::watch(&own.local, "s");
    let mut shows = async |count: usize| {
        let shown = async { while watch.next().await.unwrap().unwrap().len() != count {} };
        timeout(SOON, shown).await.unwrap();
    };
    shows(1).await;
    own.write(&name, &whole[1..]);
    shows(0).await;
    own.write(&name, &whole);
    shows(1).await;
}

#[tokio::test]
async fn of_two_that_claim_one_id_the_later_stands_and_the_earlier_takes_it_not_away() {
    let own = Own::new();
    let (earlier, later) = (own.another(), own.another());
    earlier.register(&registration(1)).await.unwrap();
    later.register(&registration(1)).await.unwrap();
    for local in [&earlier, &later] {
        assert!(local.is_registered(&registration(1)).await.unwrap());
    }
    earlier.deregister(&id(1)).await.unwrap();
    own.shows(&[&id(1)]).await;

    earlier.register(&registration(1)).await.unwrap();
    later.register(&registration(1)).await.unwrap();
    drop(later);
    eventually("what is left of the other is not its own", async || {
        !earlier.is_registered(&registration(1)).await.unwrap()
    })
    .await;
    earlier.register(&registration(1)).await.unwrap();
    own.shows(&[&id(1)]).await;
    earlier.deregister(&id(1)).await.unwrap();
    assert!(own.names("instances").is_empty());
}

#[tokio::test]
async fn an_instance_whose_folder_was_deleted_is_not_registered_and_can_be_again() {
    let own = Own::new();
    own.local.register(&registration(1)).await.unwrap();
    fs::remove_dir_all(&own.path).unwrap();
    assert!(!own.local.is_registered(&registration(1)).await.unwrap());
    own.local.register(&registration(1)).await.unwrap();
    own.shows(&[&id(1)]).await;
}

/// What a watch shows: at once, and no more often than every few seconds while nothing changes.
#[tokio::test]
async fn a_watch_confirms_what_has_not_changed_every_few_seconds() {
    let own = Own::new();
    own.local.put("a", "x").await.unwrap();
    own.local.register(&registration(1)).await.unwrap();
    let began = Instant::now();
    let mut settings = Settings::watch(&own.local, "a");
    let mut registry = Registry::watch(&own.local, "s");
    for _ in 0..2 {
        let next = async { tokio::join!(settings.next(), registry.next()) };
        let (held, instances): (_, Option<Result<Vec<Instance>>>) = timeout(SOON, next).await.unwrap();
        assert_eq!(held.unwrap().unwrap(), Held::Value("x".to_owned()));
        assert_eq!(instances.unwrap().unwrap().len(), 1);
    }
    assert!(began.elapsed() >= CONFIRM, "{:?}", began.elapsed());
}

// === Processes ===

/// Names the folder for [`a_process_that_registers`].
const FOLDER_ENV: &str = "SVC_TEST_FOLDER";

#[tokio::test]
#[ignore = "the process of the test below, which starts this one by itself"]
async fn a_process_that_registers() {
    let folder = std::env::var_os(FOLDER_ENV).expect("the folder to register in");
    let local = Local::new(folder.into()).unwrap();
    local.register(&registration(1)).await.unwrap();
    // Until the other end is closed, however that comes about.
    let ended = spawn_blocking(|| io::read_to_string(io::stdin()));
    ended.await.unwrap().unwrap();
}

/// Killed when dropped.
struct Process(Child);

impl Process {
    fn start(own: &Own) -> Self {
        let name = "engine::local::tests::a_process_that_registers";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", name])
            .env(FOLDER_ENV, own.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_process_that_hangs_is_out_until_it_goes_on_and_one_that_is_killed_for_good() {
    let own = Own::new();
    own.local.put("a", "x").await.unwrap();
    let process = Process::start(&own);
    own.shows(&[&id(1)]).await;

    process.signal(Signal::STOP);
    own.shows(&[]).await;
    let [listed] = &own.listed().await[..] else {
        panic!("it is still listed")
    };
    assert!(
        listed.reason.as_ref().unwrap().starts_with("no heartbeat for "),
        "{listed:?}"
    );
    process.signal(Signal::CONT);
    own.shows(&[&id(1)]).await;

    let killed = Instant::now();
    process.signal(Signal::KILL);
    own.shows(&[]).await;
    assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
    // The next one of the same id takes its place.
    let _next = Process::start(&own);
    own.shows(&[&id(1)]).await;
}
