//! `svc up`: the whole system by one command, its instances killed, stopped and left behind.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::{block_in_place, spawn_blocking};
use uuid::Uuid;

use crate::support::agent::Agent;
use crate::support::command::{Ended, run, svc};
use crate::support::engines::Engines;
use crate::support::fleet::{Fleet, SOON, ask_at, eventually, lists_at, members};
use crate::support::process::Svc;
use crate::support::up::{FREE_PORTS, Instance, Up, is_gone, is_stopped, parent};
use crate::support::wait;

/// Longer than a stop takes that has to kill.
const LONG_STOP: Duration = Duration::from_secs(40);

/// What a pipe holds, in bytes.
const PIPE: usize = 64 * 1024;

const ONE_OF_EACH: [&str; 6] = ["--facades", "1", "--logging", "1", "--messages", "1"];

/// Nobody listens there, and nobody is waited for.
const NO_ENGINES: [&str; 4] = ["--consul", "127.0.0.1:1", "--wait", "0s"];

/// What a system runs on, of the test's own.
enum Ground {
    /// A Consul agent of its own, with a map and a queue of its own on the clusters that all tests share.
    Servers(Agent),
    /// A folder, which is gone after `drop`.
    Folder(PathBuf),
}

impl Ground {
    fn servers() -> Self {
        let agent = Agent::start();
        Fleet::populate(&agent.address, &format!("test-{}", Uuid::new_v4()));
        Self::Servers(agent)
    }

    fn folder() -> Self {
        Self::Folder(std::env::temp_dir().join(format!("svc up {}", Uuid::now_v7())))
    }

    /// The options that name it.
    fn options(&self) -> Vec<String> {
        match self {
            Self::Servers(agent) => {
                let [logging, mq] = members(Engines::shared());
                let options = [
                    "--consul",
                    &agent.address,
                    "--hazelcast-logging",
                    &logging,
                    "--hazelcast-mq",
                    &mq,
                ];
                options.map(str::to_owned).into()
            }
            Self::Folder(path) => vec!["--local".to_owned(), path.to_str().unwrap().to_owned()],
        }
    }

    /// A system on it.
    fn up(&self, arguments: &[&[&str]]) -> Up {
        Up::start(&self.with(arguments).iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn with(&self, arguments: &[&[&str]]) -> Vec<String> {
        let mut all = self.options();
        all.extend(arguments.concat().into_iter().map(str::to_owned));
        all
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Self::Folder(path) = self {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

async fn on_servers() -> Ground {
    spawn_blocking(Ground::servers).await.unwrap()
}

async fn post(facade: SocketAddr, text: &str) {
    let answer = ask_at(facade, "POST", &format!("/message?text={text}"), "", "").await;
    assert_eq!(answer.status, 201, "{text}: {}", String::from_utf8_lossy(&answer.body));
}

/// Waits until both lists of this facade hold exactly these texts.
async fn wait_lists(facade: SocketAddr, texts: &[&str]) {
    eventually("both lists hold what was posted", async || {
        lists_at(facade).await.iter().all(|list| list == texts)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_on_servers_and_nothing_is_missing_when_one_of_each_is_killed() {
    one_command_and_nothing_is_missing(on_servers().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_on_a_folder_and_nothing_is_missing_when_one_of_each_is_killed() {
    one_command_and_nothing_is_missing(Ground::folder()).await;
}

async fn one_command_and_nothing_is_missing(ground: Ground) {
    let up = block_in_place(|| ground.up(&[&FREE_PORTS]));
    let names: Vec<&str> = up.instances.iter().map(|instance| instance.name.as_str()).collect();
    let expected = [
        "facade-1",
        "facade-2",
        "logging-1",
        "logging-2",
        "logging-3",
        "messages-1",
        "messages-2",
    ];
    assert_eq!(names, expected, "{}", up.svc.output());
    assert!(up.instances.iter().all(|instance| parent(instance.pid) == up.svc.pid()));
    let facades = ["facade-1", "facade-2"].map(|name| up.instance(name).address);
    // At once: whoever reads that all is healthy may post.
    post(facades[0], "never").await;
    post(facades[1], "gonna").await;

    let (logging, messages) = (up.instance("logging-1"), up.instance("messages-1"));
    logging.signal(Signal::KILL);
    messages.signal(Signal::KILL);
    post(facades[0], "give").await;
    for facade in facades {
        wait_lists(facade, &["give", "gonna", "never"]).await;
    }
    for Instance { name, address, pid } in [logging, messages] {
        let line = up
            .svc
            .wait_for_line(&format!("{name} (pid {pid}) was killed by signal 9 (SIGKILL)"), SOON);
        let role = name.split('-').next().unwrap();
        assert!(
            line.contains("stays dead") && line.contains(&format!(" {role} ")),
            "{line}"
        );
        assert!(line.ends_with(&format!("--port {}", address.port())), "{line}");
    }

    up.svc.signal(Signal::INT);
    assert_eq!(up.svc.wait_exit(SOON).code(), Some(0), "{}", up.svc.output());
    assert!(
        up.instances.iter().all(|instance| is_gone(instance.pid)),
        "{}",
        up.svc.output()
    );
    assert_streams(&up.svc.output());
}

/// Standard output has the table and what to try, standard error all else, each line behind a name; there is no colour.
fn assert_streams(output: &str) {
    assert!(!output.contains('\x1b'), "{output}");
    let of = |stream: &str| {
        output
            .lines()
            .filter_map(|line| line.strip_prefix(stream))
            .collect::<Vec<_>>()
    };
    let (out, err) = (of("out: "), of("err: "));
    let parts = [
        "All 7 instances are healthy",
        "INSTANCE ",
        "curl -X POST ",
        "kill -9 ",
        " logging --",
        " status --",
    ];
    for part in parts {
        assert!(out.iter().any(|line| line.contains(part)), "{part}: {out:#?}");
    }
    let is_named = |line: &&str| {
        line.split_once(" | ")
            .is_some_and(|(name, text)| name.len() == 10 && !text.is_empty())
    };
    assert!(err.iter().all(is_named), "{err:#?}");
    assert!(
        err.iter()
            .any(|line| line.starts_with("messages-2 | ") && line.contains("ready")),
        "{err:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instances_on_servers_end_with_it_however_it_ends_and_the_next_one_starts_at_once() {
    instances_end_with_it(on_servers().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instances_on_a_folder_end_with_it_however_it_ends_and_the_next_one_starts_at_once() {
    instances_end_with_it(Ground::folder()).await;
}

async fn instances_end_with_it(ground: Ground) {
    let first = block_in_place(|| ground.up(&[&FREE_PORTS, &ONE_OF_EACH]));
    post(first.instance("facade-1").address, "kept").await;
    // One that cannot see anything end.
    let stopped = first.instance("logging-1");
    stopped.signal(Signal::STOP);
    eventually("it stands still", async || is_stopped(stopped.pid)).await;
    first.svc.kill();
    let ports: Vec<String> = first
        .instances
        .iter()
        .map(|instance| instance.address.port().to_string())
        .collect();
    let same = [
        "--facade-port",
        &ports[0],
        "--logging-port",
        &ports[1],
        "--messages-port",
        &ports[2],
    ];
    let second = block_in_place(|| ground.up(&[&same, &ONE_OF_EACH]));
    block_in_place(|| first.wait_gone(SOON));
    let addresses = |up: &Up| up.instances.iter().map(|instance| instance.address).collect::<Vec<_>>();
    assert_eq!(addresses(&first), addresses(&second));
    wait_lists(second.instance("facade-1").address, &["kept"]).await;
}

#[test]
fn a_second_one_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let ground = Ground::folder();
    let first = ground.up(&[&FREE_PORTS, &ONE_OF_EACH]);
    let options = ground.with(&[&FREE_PORTS]);
    let arguments: Vec<&str> = ["up"].into_iter().chain(options.iter().map(String::as_str)).collect();
    let Ended { code, out, err } = run(&mut svc(&arguments));
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(
        err.starts_with(&format!("svc: another `svc up` (pid {}) runs on /", first.svc.pid())),
        "{err}"
    );
    assert!(err.contains("what to do: ") && err.contains("--local"), "{err}");
    assert!(first.svc.is_running() && !first.instances.iter().any(|instance| is_gone(instance.pid)));
}

#[test]
fn a_port_that_is_taken_is_named_with_who_has_it_and_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let arguments = [&["up", "--logging-port", &port, "--logging", "1"], &NO_ENGINES[..]].concat();
    let free = ["--facade-port", "0", "--messages-port", "0"];
    let Ended { code, out, err } = run(&mut svc(&[&arguments[..], &free].concat()));
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    let said = format!("port {port}, which logging-1 is to have, is taken by ");
    assert!(err.contains(&format!("\nsvc: {said}")), "{err}");
    assert!(err.contains(&format!("(pid {})", std::process::id())), "{err}");
    assert!(err.contains("what to do: ") && err.contains("--logging-port"), "{err}");
    assert!(!err.contains("settings"), "nothing was started: {err}");
}

#[test]
fn a_port_that_becomes_free_is_taken_and_a_start_that_fails_says_the_last_words_of_who_failed() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let free = ["--facade-port", "0", "--messages-port", "0"];
    let up = Svc::start(
        &[
            &["up", "--logging-port", &port, "--logging", "1"],
            &free[..],
            &NO_ENGINES,
        ]
        .concat(),
        &[],
    );
    up.wait_for_line(&format!("port {port}, which logging-1 is to have, is taken by "), SOON);
    drop(taken);
    assert_eq!(up.wait_exit(SOON).code(), Some(1));
    let output = up.output();
    let report = output
        .split("err: svc: ")
        .nth(1)
        .unwrap_or_else(|| up.fail("no report"));
    let mut report = report.lines();
    assert_eq!(
        report.next(),
        Some("the settings cannot be written: populate-kv ended with exit code 1")
    );
    assert!(
        report
            .next()
            .is_some_and(|line| line.contains("gave up waiting for Consul")),
        "{output}"
    );
    assert!(report.any(|line| line.starts_with("err:   what to do: ")), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_start_ends_all_of_them_and_is_named_with_its_last_words() {
    let ground = on_servers().await;
    block_in_place(|| {
        // Nobody is there, and that is found out by the logging instance only.
        let mut arguments = ground.with(&[&FREE_PORTS, &["--wait", "1s"]]);
        let members = arguments
            .iter()
            .position(|argument| argument == "--hazelcast-logging")
            .unwrap();
        "127.0.0.1:1".clone_into(&mut arguments[members + 1]);
        let arguments: Vec<&str> = std::iter::once("up")
            .chain(arguments.iter().map(String::as_str))
            .collect();
        let up = Svc::start(&arguments, &[]);
        assert_eq!(up.wait_exit(SOON).code(), Some(1));
        let output = up.output();
        assert!(
            output.contains(" ended with exit code 1 before it was healthy\n"),
            "{output}"
        );
        assert!(output.contains("err: svc: logging-"), "{output}");
        assert!(output.contains("\nerr:   gave up waiting for Hazelcast"), "{output}");
        assert!(
            output.contains("\nerr: facade-2   | ") && output.contains("stopped role=\"facade\""),
            "{output}"
        );
        assert!(!output.contains("out: "), "{output}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn with_restart_an_instance_that_is_killed_is_back_where_it_was() {
    let ground = on_servers().await;
    let up = block_in_place(|| ground.up(&[&FREE_PORTS, &ONE_OF_EACH, &["--restart"]]));
    for Instance { name, address, pid } in &up.instances {
        up.instance(name).signal(Signal::KILL);
        let ended = up
            .svc
            .wait_for_line(&format!("{name} (pid {pid}) was killed by signal 9"), SOON);
        assert!(ended.contains("is started again in 250ms"), "{ended}");
        let back = up
            .svc
            .wait_for_line(&format!("{name} is back: http://{address}, pid "), SOON);
        assert!(!back.ends_with(&format!(" {pid}")), "{back}");
    }
    let facade = up.instance("facade-1").address;
    eventually("the new ones know each other", async || {
        ask_at(
            facade,
            "POST",
            "/message?text=again",
            "Idempotency-Key: 0190a0a0-0000-7000-8000-000000000001\r\n",
            "",
        )
        .await
        .status
            == 201
    })
    .await;
    wait_lists(facade, &["again"]).await;
    up.svc.signal(Signal::TERM);
    assert_eq!(up.svc.wait_exit(SOON).code(), Some(0), "{}", up.svc.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_instances_have_ended_it_ends_and_says_so() {
    let ground = on_servers().await;
    block_in_place(|| {
        let up = ground.up(&[&FREE_PORTS, &ONE_OF_EACH]);
        for instance in &up.instances {
            instance.signal(Signal::TERM);
        }
        assert_eq!(up.svc.wait_exit(SOON).code(), Some(1));
        let output = up.svc.output();
        assert!(
            output.contains("logging-1 (pid ") && output.contains(" ended with exit code 0; "),
            "{output}"
        );
        assert!(
            output.contains("err: svc: all instances have ended\nerr:   what to do: "),
            "{output}"
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_stop_is_killed_and_named() {
    let ground = on_servers().await;
    block_in_place(|| {
        let up = ground.up(&[&FREE_PORTS, &ONE_OF_EACH]);
        let hung = up.instance("messages-1");
        hung.signal(Signal::STOP);
        up.svc.signal(Signal::INT);
        assert_eq!(up.svc.wait_exit(LONG_STOP).code(), Some(1));
        let said = format!(
            "err: svc: not stopped cleanly: messages-1 (pid {}) did not stop in time",
            hung.pid
        );
        assert!(up.svc.output().contains(&said), "{}", up.svc.output());
        assert!(up.instances.iter().all(|instance| is_gone(instance.pid)));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_kills_all_instances_at_once() {
    let ground = on_servers().await;
    block_in_place(|| {
        let up = ground.up(&[&FREE_PORTS, &ONE_OF_EACH]);
        up.instance("messages-1").signal(Signal::STOP);
        up.svc.signal(Signal::INT);
        up.svc.wait_for_line("stopping 3 instances", SOON);
        up.svc.signal(Signal::INT);
        assert_eq!(up.svc.wait_exit(SOON).code(), Some(130));
        up.wait_gone(SOON);
    });
}

/// A system whose standard error nobody reads, though it has much to say, and its facade.
async fn unread(ground: &Ground) -> (Child, SocketAddr) {
    let arguments = ground.with(&[&FREE_PORTS, &ONE_OF_EACH, &["--log", "trace", "--with-parent"]]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_svc"));
    command.arg("up").args(arguments).env_clear();
    // Its end of this pipe is all that keeps it alive.
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let facade = block_in_place(|| first_url(&mut out));
    for number in 0..500 {
        post(facade, &format!("text-{number}")).await;
    }
    (child, facade)
}

/// How it ended, where it does so in time.
fn end_of(child: &mut Child) -> Option<i32> {
    let status = block_in_place(|| wait::until(SOON, || child.try_wait().unwrap()));
    drop(child.stdin.take());
    status.and_then(|status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stands_still_stops_nothing() {
    let ground = on_servers().await;
    let (mut child, _) = unread(&ground).await;
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(end_of(&mut child), Some(0));
    let mut unread = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut unread).unwrap();
    assert!(
        unread.len() > PIPE / 2,
        "there was room for all of it: {} bytes",
        unread.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_also_where_nobody_reads_what_it_says() {
    let ground = Ground::folder();
    let (mut child, facade) = unread(&ground).await;
    // A clean stop takes a second at least, in which the facade still answers.
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    eventually("it has begun to stop", async || {
        ask_at(facade, "GET", "/health", "", "").await.status == 503
    })
    .await;
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(end_of(&mut child), Some(130));
}

#[test]
fn a_role_with_a_parent_stops_cleanly_when_standard_input_ends_and_wants_a_pipe_there() {
    let arguments = ["logging", "--port", "0", "--with-parent", "--consul", "127.0.0.1:1"];
    let mut child = svc(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut line_with = |text: &str| log.by_ref().map(Result::unwrap).find(|line| line.contains(text));
    assert!(line_with("waiting for Consul").is_some());
    drop(child.stdin.take());
    assert!(line_with("stopping, asked by the end of standard input").is_some());
    assert!(line_with("stopped role=\"logging\"").is_some());
    let status = wait::until(SOON, || child.try_wait().unwrap());
    assert_eq!(status.and_then(|status| status.code()), Some(0));

    let Ended { code, err, .. } = run(&mut svc(&arguments));
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.starts_with("svc: --with-parent needs a pipe as standard input"),
        "{err}"
    );
}

/// The URL of the first row of the table.
fn first_url(out: &mut impl BufRead) -> SocketAddr {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "there is no table");
        let url = line
            .split_whitespace()
            .nth(1)
            .and_then(|url| url.strip_prefix("http://"));
        if let (true, Some(address)) = (line.starts_with("facade-1"), url) {
            return address.parse().unwrap();
        }
    }
}

#[test]
fn colours_are_for_terminals_and_for_who_asks_for_them_and_never_where_no_color_is_set() {
    let arguments = [
        &["up"],
        &FREE_PORTS[..],
        &["--consul", "127.0.0.1:1", "--wait", "300ms"],
    ]
    .concat();
    let plain = |output: &str| !output.contains('\x1b') && output.contains("settings   | ");
    // The name in its colour, and behind it a line with colours of its own.
    let coloured = |output: &str| {
        let of_child = output
            .lines()
            .find(|line| line.contains("waiting for Consul"))
            .unwrap_or_default();
        of_child.matches('\x1b').count() > 2
    };
    for (envs, expected) in [
        (&[][..], false),
        (&[("CLICOLOR_FORCE", "1")], true),
        (&[("CLICOLOR_FORCE", "0")], false),
        (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
        (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "")], true),
    ] {
        let up = Svc::start(&arguments, envs);
        up.wait_exit(SOON);
        let output = up.output();
        assert!(
            if expected { coloured(&output) } else { plain(&output) },
            "{envs:?}: {output}"
        );
    }
    let command = format!("{} {}", env!("CARGO_BIN_EXE_svc"), arguments.join(" "));
    for (envs, expected) in [(&[][..], true), (&[("NO_COLOR", "1")], false)] {
        let terminal = ["-q", "-e", "-c", &command, "/dev/null"];
        let up = Svc::start_program("svc up on a terminal".to_owned(), Path::new("script"), &terminal, envs);
        assert_eq!(up.wait_exit(SOON).code(), Some(1));
        let output = up.output();
        assert!(
            if expected { coloured(&output) } else { plain(&output) },
            "{envs:?}: {output}"
        );
    }
}
