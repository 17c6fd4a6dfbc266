//! The embedded engines below a whole system: everything killed at once, files that are not ours, a disk that is full.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::sleep;

use crate::support::agent::Folder;
use crate::support::fleet::{LOADED, SOON, ask_at, eventually, lists_at, request};
use crate::support::process::Svc;
use crate::support::up::{FREE_PORTS, Up};

/// Rounds of load, each ended by killing everything.
const ROUNDS: usize = 10;

/// Clients in a round, and what they have acknowledged before everything is killed.
const CLIENTS: usize = 8;
const ACKNOWLEDGED: usize = 300;

fn path(folder: &Folder) -> &str {
    folder.path.to_str().expect("a path in UTF-8")
}

/// Texts that were acknowledged.
type Acknowledged = Arc<Mutex<Vec<String>>>;

/// Posts on one connection until that ends, and notes what was acknowledged.
async fn post_until_the_end(facade: SocketAddr, name: String, acknowledged: Acknowledged) -> std::io::Result<()> {
    let mut connection = BufReader::new(TcpStream::connect(facade).await?);
    for number in 0.. {
        let text = format!("{name}-{number}");
        let post = request("POST", &format!("/message?text={text}"), "", "");
        connection.write_all(post.as_bytes()).await?;
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            if connection.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        for line in head.lines() {
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
        }
        connection.read_exact(&mut vec![0; length]).await?;
        assert!(head.starts_with("HTTP/1.1 201 "), "{text}: {head}");
        acknowledged.lock().unwrap().push(text);
    }
    Ok(())
}

/// Waits until both lists have all of these texts, none of them twice.
async fn wait_all(facade: SocketAddr, texts: &BTreeSet<String>) {
    eventually("both lists hold all that was acknowledged", async || {
        let lists = lists_at(facade).await;
        let found = lists
            .each_ref()
            .map(|list| list.iter().cloned().collect::<BTreeSet<_>>());
        for (list, found) in lists.iter().zip(&found) {
            assert_eq!(list.len(), found.len(), "a text is there twice");
        }
        assert!(texts.is_subset(&found[0]), "what is acknowledged is logged at once");
        texts.is_subset(&found[1])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_everything_is_killed_at_once_under_load_and_nothing_acknowledged_is_missing() {
    let folder = Folder::new();
    let acknowledged = Acknowledged::default();
    let texts = || acknowledged.lock().unwrap().iter().cloned().collect::<BTreeSet<_>>();
    let start = || block_in_place(|| Up::start(&[&["--local", path(&folder)][..], &FREE_PORTS].concat()));
    for round in 0..ROUNDS {
        let up = start();
        let facades = ["facade-1", "facade-2"].map(|name| up.instance(name).address);
        wait_all(facades[1], &texts()).await;
        let (end, goal) = (Instant::now() + LOADED, texts().len() + ACKNOWLEDGED);
        let mut clients = JoinSet::new();
        for (client, facade) in (0..CLIENTS).zip(facades.iter().cycle()) {
            let name = format!("{round}-{client}");
            clients.spawn(post_until_the_end(*facade, name, acknowledged.clone()));
        }
        while acknowledged.lock().unwrap().len() < goal {
            assert!(Instant::now() < end, "not {ACKNOWLEDGED} in time: {}", up.svc.output());
            sleep(Duration::from_millis(5)).await;
        }
        up.svc.signal(Signal::KILL);
        up.instances.iter().for_each(|instance| instance.signal(Signal::KILL));
        // Each met the end of its connection.
        while let Some(ended) = clients.join_next().await {
            let _ = ended.unwrap();
        }
        block_in_place(|| up.wait_gone(SOON));
    }
    let up = start();
    let texts = texts();
    assert!(texts.len() >= ROUNDS * ACKNOWLEDGED);
    wait_all(up.instance("facade-1").address, &texts).await;
}

/// A start with this file in the folder is refused with these words, and the file stays as it is.
fn is_refused(file: &str, content: &[u8], said: &[&str]) {
    let folder = Folder::new();
    let at = folder.path.join(file);
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(&at, content).unwrap();
    let ended = Svc::start(&[&["up", "--local", path(&folder)][..], &FREE_PORTS].concat(), &[]);
    let status = ended.wait_exit(SOON);
    let output = ended.output();
    assert_eq!(status.code(), Some(1), "{output}");
    for part in said.iter().chain(&[at.to_str().unwrap()]) {
        assert!(output.contains(part), "{part:?} is not in\n{output}");
    }
    assert_eq!(std::fs::read(&at).unwrap(), content, "{file} was changed");
    assert!(!Path::exists(&at.with_extension("db-wal")), "{output}");
}

#[test]
fn a_file_that_is_not_ours_is_named_and_left_as_it_is() {
    is_refused(
        "messages.db",
        b"a letter to somebody, and no database at all",
        &["is no SQLite database", "move it away"],
    );
}

/// A disk of so many MiB, and what lies there to be removed.
const DISK: usize = 64;
const FILLER: usize = 24;

/// A system on a disk of its own, in a name space of its own: `/proc/<pid>/root` leads there.
fn on_small_disk(folder: &Folder) -> Up {
    let script = format!(
        "set -e; mount -t tmpfs -o size={DISK}m tmpfs \"$1\"; head -c {FILLER}M /dev/zero > \"$1/filler\"; folder=$1; shift; \
         exec \"$@\" --local \"$folder\""
    );
    let arguments = [
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        &script,
        "sh",
        path(folder),
    ];
    let arguments = [&arguments[..], &[env!("CARGO_BIN_EXE_svc"), "up"], &FREE_PORTS].concat();
    Up::ready(Svc::start_program(
        "svc up on a small disk".to_owned(),
        Path::new("unshare"),
        &arguments,
        &[],
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_is_full_a_post_is_503_with_the_reason_and_nothing_acknowledged_is_missing() {
    let folder = Folder::new();
    let up = block_in_place(|| on_small_disk(&folder));
    let facade = up.instance("facade-1").address;
    // Each text once: one that was refused may be there all the same.
    let mut number = 0;
    let mut post = async || {
        number += 1;
        let text = format!("{number:04}{}", "x".repeat(500_000));
        let body = format!("{{\"text\":\"{text}\"}}");
        let answer = ask_at(facade, "POST", "/message", "Content-Type: application/json\r\n", &body).await;
        (text, answer)
    };
    let mut acknowledged = BTreeSet::new();
    let refused = loop {
        assert!(acknowledged.len() < 2 * DISK, "it is never full");
        let (text, answer) = post().await;
        if answer.status != 201 {
            break answer;
        }
        acknowledged.insert(text);
    };
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    let said = refused.json()["error"]["message"].to_string();
    assert!(said.contains("the disk is full"), "{said}");
    let [logs, _] = lists_at(facade).await;
    assert!(
        acknowledged.is_subset(&logs.into_iter().collect()),
        "also while it is full"
    );

    std::fs::remove_file(format!("/proc/{}/root{}/filler", up.svc.pid(), path(&folder))).unwrap();
    eventually("there is room again", async || post().await.1.status == 201).await;
    wait_all(facade, &acknowledged).await;
}
