//! The engines that all other tests stand on: `scripts/engines.sh` and its harness.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::engines::{Engines, Options, script};
use crate::support::process::processes_of;
use crate::support::{http, wait};

const SAFE_DEADLINE: Duration = Duration::from_secs(60);
const GONE_DEADLINE: Duration = Duration::from_secs(60);

/// A folder for engines whose processes end with the test, whatever it found.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("svc-engines-{}", uuid::Uuid::now_v7())))
    }

    /// Runs a command of the script on this folder, which must succeed.
    fn script(&self, command: &str, options: &[&str]) {
        let output = script(command, &self.0)
            .args(options)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "engines.sh {command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn pid(&self, name: &str) -> String {
        fs::read_to_string(self.0.join("pids").join(format!("{name}.pid"))).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = script("down", &self.0).arg("--purge").stdin(Stdio::null()).output();
    }
}

#[test]
fn a_second_up_keeps_what_runs_and_starts_what_is_missing() {
    let folder = Folder::new();
    let options = ["--free-ports", "--logging", "1", "--mq", "1"];
    folder.script("up", &options);
    let environment = fs::read_to_string(folder.0.join("engines.env")).unwrap();
    let (consul, logging, mq) = (folder.pid("consul"), folder.pid("logging-1"), folder.pid("mq-1"));
    folder.script("status", &[]);

    let killed = Command::new("kill").args(["-KILL", mq.trim()]).status().unwrap();
    assert!(killed.success());
    let noticed = wait::until_true(GONE_DEADLINE, || {
        !script("status", &folder.0).output().unwrap().status.success()
    });
    assert!(noticed, "status does not fail although mq-1 was killed");
    folder.script("up", &options);

    assert_eq!(environment, fs::read_to_string(folder.0.join("engines.env")).unwrap());
    assert_eq!((consul, logging), (folder.pid("consul"), folder.pid("logging-1")));
    assert_ne!(mq, folder.pid("mq-1"));
    folder.script("status", &[]);
}

#[test]
fn a_killed_member_rejoins_its_cluster_once_it_is_started_again() {
    let engines = Engines::start(&Options {
        logging: 2,
        mq: 1,
        consul: false,
    });
    let [first, second] = &engines.logging.members[..] else {
        panic!("two members were asked for")
    };
    let before = second.pid().expect("it runs");

    second.kill();
    let alone = wait::until_true(SAFE_DEADLINE, || {
        first.health().is_some_and(|health| health["clusterSize"] == 1)
    });
    assert!(alone, "the other member still counts it: {:?}", first.health());

    second.start();
    engines.logging.wait_safe(SAFE_DEADLINE);
    assert_ne!(Some(before), second.pid());
}

#[test]
fn consul_keeps_its_data_over_a_kill_unless_told_otherwise() {
    let engines = Engines::start(&Options {
        logging: 1,
        mq: 1,
        consul: true,
    });
    let consul = engines.consul();
    let stored = || http::get(consul.address, "/v1/kv/key", SAFE_DEADLINE).unwrap().status;
    let put = Command::new("curl")
        .args([
            "--silent",
            "--fail",
            "--noproxy",
            "*",
            "--request",
            "PUT",
            "--data",
            "value",
        ])
        .arg(format!("{}/v1/kv/key", consul.url()))
        .output()
        .unwrap();
    assert!(put.status.success(), "{put:?}");

    consul.kill();
    consul.start();
    assert_eq!(200, stored());

    consul.kill();
    consul.start_empty();
    assert_eq!(404, stored());
}

#[test]
fn run_leaves_no_process_and_no_folder_when_its_parent_is_killed() {
    let folder = Folder::new();
    // The parent holds the other end of the script's standard input, as a test process does.
    let parent = r#"coproc "$@"; read -r line <&"${COPROC[0]}"; echo "$line"; wait"#;
    let run = script("run", &folder.0);
    let mut parent = Command::new("bash")
        .args(["-c", parent, "parent"])
        .arg(run.get_program())
        .args(run.get_args())
        .args(["--free-ports", "--no-consul", "--logging", "1", "--mq", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!("ready\n", line);
    // One that another process brought back must not outlive it either.
    folder.script("stop", &["mq-1"]);
    folder.script("start", &["mq-1"]);
    assert!(
        processes_of(folder.0.to_str().unwrap()).len() >= 2,
        "{:?}",
        processes_of(folder.0.to_str().unwrap())
    );

    parent.kill().unwrap();
    parent.wait().unwrap();

    let gone = wait::until_true(GONE_DEADLINE, || {
        processes_of(folder.0.to_str().unwrap()).is_empty() && !folder.0.exists()
    });
    assert!(gone, "left behind: {:?}", processes_of(folder.0.to_str().unwrap()));
}
