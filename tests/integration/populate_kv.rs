//! `svc populate-kv` against a real Consul.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::agent::{Agent, Ports};
use crate::support::fake::Fake;
use crate::support::process::Svc;

/// For what takes no time but that of a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// The keys and their defaults, by the contract; the ready key is the last.
const KEYS: [(&str, &str); 7] = [
    ("hz_logging_cluster_name", "logging"),
    ("logging_mapping_name", "messages"),
    ("hz_mq_cluster_name", "mq"),
    ("mq_name", "messaging_queue"),
    ("hz_logging_members", "127.0.0.1:5701"),
    ("hz_mq_members", "127.0.0.1:5711"),
    ("essential_keys_populated", "TRUE"),
];

/// The command, with nothing of the test's own environment.
fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_svc"));
    command
        .env_clear()
        .arg("populate-kv")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn svc(consul: &str, arguments: &[&str]) -> Command {
    let mut command = bare();
    command.args(["--consul", consul]).args(arguments);
    command
}

/// What it printed, and its exit code.
fn told(output: &Output) -> (String, Option<i32>) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

fn run(command: &mut Command) -> (String, Option<i32>) {
    told(&command.output().unwrap())
}

fn succeed(command: &mut Command) -> String {
    let (text, code) = run(command);
    assert_eq!(code, Some(0), "{text}");
    text
}

fn modify_index(agent: &Agent, key: &str) -> u64 {
    let entry = agent.entry(key).unwrap_or_else(|| panic!("no key {key}"));
    entry["ModifyIndex"].as_u64().unwrap()
}

/// The line of `text` that is about `key`.
fn line<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines()
        .find(|line| line.contains(&format!("key=\"{key}\"")))
        .unwrap_or_else(|| panic!("no line: {text}"))
}

#[test]
fn the_first_run_writes_the_keys_and_the_ready_key_last_and_the_second_changes_nothing() {
    let agent = Agent::start();
    let first = succeed(&mut svc(&agent.address, &[]));
    for (key, default) in KEYS {
        assert_eq!(agent.value(key).as_deref(), Some(default), "{key}");
        assert!(line(&first, key).contains("written"), "{first}");
    }
    assert!(
        !first.contains("ERROR") && !first.contains("consulrs") && !first.contains("rustify"),
        "{first}"
    );
    let indexes = KEYS.map(|(key, _)| modify_index(&agent, key));
    assert!(
        indexes.is_sorted_by(|before, after| before < after),
        "in the order of the table: {indexes:?}"
    );

    let second = succeed(&mut svc(&agent.address, &[]));
    assert_eq!(KEYS.map(|(key, _)| modify_index(&agent, key)), indexes);
    assert!(
        second.contains("written=0") && second.contains("kept=7") && !second.contains("WARN"),
        "{second}"
    );
}

#[test]
fn what_stands_is_kept_and_named_and_replaced_only_where_asked() {
    let agent = Agent::start();
    agent.put("mq_name", b"by-hand");
    agent.put("hz_mq_members", b"");
    let kept = succeed(&mut svc(&agent.address, &["--hz-mq-members", "hz-1:1,hz-2:2"]));
    assert_eq!(agent.value("mq_name").as_deref(), Some("by-hand"));
    assert_eq!(agent.value("hz_mq_members").as_deref(), Some(""));
    for (key, asked) in [("mq_name", "messaging_queue"), ("hz_mq_members", "hz-1:1,hz-2:2")] {
        let line = line(&kept, key);
        assert!(
            line.contains("WARN") && line.contains(asked) && line.contains("--overwrite"),
            "{line}"
        );
    }
    assert!(line(&kept, "mq_name").contains("by-hand"), "{kept}");
    assert!(
        kept.contains("written=5") && kept.contains("kept=2") && kept.contains("differing=2"),
        "{kept}"
    );

    // What is not text cannot be shown, but it can be replaced.
    agent.put("hz_mq_cluster_name", b"\xff\xfe");
    let before = modify_index(&agent, "essential_keys_populated");
    let arguments = ["--overwrite", "--hz-mq-members", "hz-1:1,hz-2:2"];
    let replaced = succeed(&mut svc(&agent.address, &arguments));
    assert_eq!(agent.value("mq_name").as_deref(), Some("messaging_queue"));
    assert_eq!(agent.value("hz_mq_members").as_deref(), Some("hz-1:1,hz-2:2"));
    assert_eq!(agent.value("hz_mq_cluster_name").as_deref(), Some("mq"));
    assert!(
        line(&replaced, "mq_name").contains("by-hand"),
        "the old value is named: {replaced}"
    );
    assert!(
        replaced.contains("replaced=3") && replaced.contains("kept=4"),
        "{replaced}"
    );
    assert_eq!(
        modify_index(&agent, "essential_keys_populated"),
        before,
        "what is right already is not written again"
    );
}

#[test]
fn a_value_that_is_no_text_is_named_and_ends_the_job_where_it_is_not_to_be_replaced() {
    let agent = Agent::start();
    agent.put("mq_name", b"\xff\xfe");
    let (text, code) = run(&mut svc(&agent.address, &["--wait", "1s"]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("mq_name") && text.contains("UTF-8"), "{text}");
    assert_eq!(
        agent.value("essential_keys_populated"),
        None,
        "not ready, since not all is written"
    );
}

#[test]
fn values_come_from_the_environment_where_it_is_not_empty() {
    let agent = Agent::start();
    let mut command = bare();
    command.env("CONSUL_HTTP_ADDR", format!("http://{}", agent.address));
    command
        .env("HZ_LOGGING_CLUSTER_NAME", "logs")
        .env("CONSUL_ESSENTIAL_KEY", "all/there");
    for empty in [
        "HZ_MQ_MEMBERS",
        "HZ_MQ_QUEUE_NAME",
        "SVC_WAIT",
        "RUST_LOG",
        "CONSUL_HTTP_TOKEN",
        "CONSUL_CACERT",
    ] {
        command.env(empty, "");
    }
    succeed(&mut command);
    assert_eq!(agent.value("hz_logging_cluster_name").as_deref(), Some("logs"));
    assert_eq!(agent.value("hz_mq_members").as_deref(), Some("127.0.0.1:5711"));
    assert_eq!(agent.value("mq_name").as_deref(), Some("messaging_queue"));
    assert_eq!(agent.value("all/there").as_deref(), Some("TRUE"));
    assert_eq!(agent.value("essential_keys_populated"), None);
}

#[test]
fn host_and_port_lead_to_consul_where_no_address_is_given() {
    let agent = Agent::start();
    let (host, port) = agent.address.split_once(':').unwrap();
    let mut command = bare();
    command
        .env("CONSUL_HTTP_ADDR", "")
        .env("CONSUL_HOST", host)
        .env("CONSUL_PORT", port)
        .env("SVC_WAIT", "5s");
    succeed(&mut command);
    assert_eq!(agent.value("essential_keys_populated").as_deref(), Some("TRUE"));
}

#[test]
fn two_at_once_both_succeed_and_each_key_is_written_once() {
    let agent = Agent::start();
    let started: Vec<Child> = (0..4).map(|_| svc(&agent.address, &[]).spawn().unwrap()).collect();
    for child in started {
        let (text, code) = told(&child.wait_with_output().unwrap());
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("differing=0"), "{text}");
    }
    for (key, default) in KEYS {
        let entry = agent.entry(key).unwrap();
        assert_eq!(entry["CreateIndex"], entry["ModifyIndex"], "{key} was written twice");
        assert_eq!(agent.value(key).as_deref(), Some(default));
    }
}

#[test]
fn started_before_consul_it_waits_and_then_succeeds() {
    let ports = Ports::free();
    let consul = format!("127.0.0.1:{}", ports.http);
    let job = Svc::start(&["populate-kv", "--consul", &consul, "--wait", "60s"], &[]);
    job.wait_for_line("Connection refused", SOON);
    let agent = Agent::spawn(&ports, &json!({}));
    job.wait_for_line("the wait for Consul", Duration::from_secs(60));
    job.wait_for_line("written=7", SOON);
    assert_eq!(job.wait_exit(SOON).code(), Some(0), "{}", job.output());
    assert_eq!(agent.value("essential_keys_populated").as_deref(), Some("TRUE"));
}

#[test]
fn without_consul_it_gives_up_and_says_what_was_tried_what_answered_and_what_to_do() {
    let consul = format!("127.0.0.1:{}", Ports::free().http);
    let started = Instant::now();
    let (text, code) = run(&mut svc(&consul, &["--wait", "3s"]));
    assert!(
        started.elapsed() >= Duration::from_secs(3),
        "it waited: {:?}",
        started.elapsed()
    );
    assert_eq!(code, Some(1), "{text}");
    let at_once = text.lines().next().unwrap();
    assert!(
        at_once.contains("WARN") && at_once.contains("waiting for Consul"),
        "{text}"
    );
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    assert!(
        last[2].contains(&format!("http://{consul}")) && last[2].contains("tries"),
        "{text}"
    );
    assert!(last[1].contains("Connection refused"), "{text}");
    assert!(
        last[0].contains("scripts/engines.sh up") && last[0].contains("--consul"),
        "{text}"
    );
    assert!(text.lines().count() <= 3 + 2, "said at growing intervals only: {text}");
}

#[test]
fn a_log_that_cannot_be_written_changes_nothing_else() {
    let agent = Agent::start();
    let nowhere = format!("127.0.0.1:{}", Ports::free().http);
    for (consul, code) in [(&agent.address, 0), (&nowhere, 1)] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = svc(consul, &["--wait", "1s"]);
        let status = command.stderr(full).status().unwrap();
        assert_eq!(status.code(), Some(code), "{status}");
    }
    assert_eq!(agent.value("essential_keys_populated").as_deref(), Some("TRUE"));
}

#[test]
fn a_server_that_is_not_consul_is_named_as_such() {
    let page = "<!DOCTYPE html><html><body>Welcome to nginx!</body></html>";
    for (server, hint) in [
        (
            Fake::with_body("200 OK", "Content-Type: text/html\r\n", page),
            "which no Consul agent does",
        ),
        (
            Fake::with_body("404 Not Found", "Content-Type: text/html\r\n", page),
            "is this the HTTP port of a Consul",
        ),
        (
            Fake::with_body("302 Found", "Location: https://login.example/\r\n", page),
            "is this the HTTP port of a Consul",
        ),
        (Fake::with_body("502 Bad Gateway", "", page), "HTTP 502"),
        (Fake::answering("SSH-2.0-OpenSSH_9.2\r\n"), "no HTTP answer"),
    ] {
        let (text, code) = run(&mut svc(&server.address, &["--wait", "0s"]));
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(hint) && !text.contains("panicked"), "{hint}: {text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}

#[test]
fn the_token_goes_to_consul_and_nowhere_else() {
    let server = Fake::with_body("200 OK", "", "\"127.0.0.1:8300\"");
    let everything = "trace,consulrs=trace,rustify=trace,reqwest=trace,hyper=trace";
    let mut command = svc(&server.address, &["--wait", "0s", "--log", everything]);
    let (text, code) = run(command.env("CONSUL_HTTP_TOKEN", "t0ken-of-a-test"));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("TRACE") && text.contains("rustify"), "{text}");
    assert!(!text.contains("t0ken-of-a-test"), "{text}");
    let requests = server.requests();
    assert!(requests.len() >= 2, "{requests:?}");
    for request in requests {
        assert!(
            request.to_lowercase().contains("x-consul-token: t0ken-of-a-test"),
            "{request}"
        );
    }
    for arguments in [["--help"], ["--nonsense"]] {
        let (text, _) = run(svc("a", &arguments).env("CONSUL_HTTP_TOKEN", "t0ken-of-a-test"));
        assert!(text.contains("populate-kv") && !text.contains("t0ken"), "{text}");
    }
}

#[test]
fn values_that_cannot_be_used_are_refused_before_anything_is_sent() {
    let server = Fake::with_body("200 OK", "", "\"127.0.0.1:8300\"");
    for (arguments, code, hint) in [
        (["--hz-mq-members", "hz-1"], 2, "host:port"),
        (["--hz-mq-queue-name", ""], 2, "empty"),
        (["--ready-key", "with space"], 2, "--ready-key"),
        (["--ready-key", "mq_name"], 2, "--ready-key"),
        (["--wait", "60"], 2, "unit"),
    ] {
        let (text, exit) = run(&mut svc(&server.address, &arguments));
        assert_eq!(exit, Some(code), "{text}");
        assert!(text.contains(hint), "{hint}: {text}");
    }
    assert_eq!(server.requests(), Vec::<String>::new());
}

#[test]
fn a_signal_ends_the_wait() {
    let silent = Fake::answering("");
    let refusing = format!("127.0.0.1:{}", Ports::free().http);
    for (consul, signal) in [
        (&refusing, Signal::TERM),
        (&refusing, Signal::INT),
        (&silent.address, Signal::TERM),
    ] {
        let arguments = [
            "populate-kv",
            "--consul",
            consul,
            "--wait",
            "10m",
            "--log",
            "debug,hyper=debug",
        ];
        let job = Svc::start(&arguments, &[]);
        job.wait_for_line("connecting to 127.0.0.1", SOON);
        let asked = Instant::now();
        job.signal(signal);
        assert_eq!(job.wait_exit(SOON).code(), Some(1), "{}", job.output());
        assert!(
            asked.elapsed() < Duration::from_secs(4),
            "it did not wait for the call that was under way"
        );
        job.wait_for_line("stopped before all keys were written", SOON);
    }
}
