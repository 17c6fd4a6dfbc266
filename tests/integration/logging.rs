//! `svc logging` as a process, on a real Consul agent and a real Hazelcast cluster, beside the official Python client.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::agent::{Agent, Ports};
use crate::support::engines::{Cluster, Engines};
use crate::support::process::Svc;
use crate::support::raw::{Answer, RawClient};
use crate::support::{python, texts, wait};

/// Longer than a start or a stop takes.
const SOON: Duration = Duration::from_secs(20);

/// How long a stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// An instance with a map and an agent of its own, on the cluster that all tests share.
struct Instance {
    svc: Svc,
    map: String,
    agent: Agent,
}

impl Instance {
    fn start() -> Self {
        let (agent, map) = (Agent::start(), format!("test-{}", Uuid::new_v4()));
        let members = cluster().addresses();
        let keys = ["--hz-logging-members", &members, "--hz-logging-mapping-name", &map];
        let populate = Svc::start(&[&["populate-kv", "--consul", &agent.address], &keys[..]].concat(), &[]);
        assert!(populate.wait_exit(SOON).success());
        let svc = Self::another(&agent);
        Self { svc, map, agent }
    }

    /// One more instance on the same settings.
    fn another(agent: &Agent) -> Svc {
        let svc = Svc::start(&["logging", "--port", "0", "--consul", &agent.address], &[]);
        svc.wait_healthy(SOON);
        svc
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        ask(&self.svc, method, path, headers, body).await
    }

    async fn post(&self, body: &Value) -> Answer {
        self.ask("POST", "/log", "", &body.to_string()).await
    }

    async fn messages(&self) -> BTreeMap<String, String> {
        let answer = self.ask("GET", "/logs?full=true", "", "").await;
        assert_eq!(answer.status, 200);
        let field = |message: &Value, name: &str| message[name].as_str().unwrap().to_owned();
        let messages = answer.json();
        let messages = messages.as_array().unwrap().iter();
        messages
            .map(|message| (field(message, "identifier"), field(message, "text")))
            .collect()
    }
}

fn cluster() -> &'static Cluster {
    &Engines::shared().logging
}

async fn ask(svc: &Svc, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut client = RawClient::connect(svc.address()).await;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{headers}");
    client
        .send(format!(
            "{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ))
        .await;
    client.answer().await
}

async fn instance() -> Instance {
    tokio::task::spawn_blocking(Instance::start).await.unwrap()
}

#[tokio::test]
async fn python_reads_what_was_posted_and_the_log_shows_what_python_wrote() {
    let instance = instance().await;
    let ours: BTreeMap<String, String> = texts::difficult()
        .into_iter()
        .enumerate()
        .map(|(n, text)| (format!("ours-{n}"), text))
        .collect();
    for (identifier, text) in &ours {
        let answer = instance.post(&json!({"identifier": identifier, "text": text})).await;
        assert_eq!(answer.status, 201, "{identifier}");
    }
    let place = [&cluster().addresses(), cluster().name, &instance.map];
    let read = python::run("read_map.py", &place, "").await;
    assert_eq!(serde_json::from_str::<BTreeMap<String, String>>(&read).unwrap(), ours);

    let theirs: BTreeMap<String, String> = ours
        .iter()
        .map(|(key, text)| (key.replace("ours", "theirs"), text.clone()))
        .collect();
    let mut written = json!(theirs);
    for (key, foreign) in [("integer", json!(1)), ("list", json!(["text"])), ("truth", json!(true))] {
        written[key] = foreign;
    }
    python::run("write_map.py", &place, &written.to_string()).await;
    let all: BTreeMap<String, String> = ours.into_iter().chain(theirs).collect();
    assert_eq!(instance.messages().await, all);

    let plain = instance.ask("GET", "/logs", "", "").await;
    let mut plain: Vec<String> = serde_json::from_slice(&plain.body).unwrap();
    plain.sort();
    let mut expected: Vec<String> = all.into_values().collect();
    expected.sort();
    assert_eq!(plain, expected);

    let health = instance.ask("GET", "/health", "", "").await;
    assert_eq!(health.status, 200);
    assert_eq!(
        health.json()["skipped_entries"],
        6,
        "three foreign entries, left out of two lists"
    );
    instance.svc.wait_for_line("skipped=3", SOON);
}

#[tokio::test]
async fn members_on_the_command_line_win_over_those_of_the_settings() {
    let instance = instance().await;
    let populate = ["populate-kv", "--consul", &instance.agent.address, "--overwrite"];
    let wrong = [
        "--hz-logging-members",
        "127.0.0.1:1",
        "--hz-logging-mapping-name",
        &instance.map,
    ];
    assert!(
        Svc::start(&[&populate[..], &wrong[..]].concat(), &[])
            .wait_exit(SOON)
            .success()
    );
    let members = cluster().addresses();
    let arguments = [
        "logging",
        "--port",
        "0",
        "--consul",
        &instance.agent.address,
        "--hazelcast",
        &members,
    ];
    Svc::start(&arguments, &[]).wait_healthy(SOON);
}

#[tokio::test]
async fn without_settings_the_role_says_what_it_waits_for_and_gives_up() {
    let consul = format!("127.0.0.1:{}", Ports::free().http);
    let svc = Svc::start(&["logging", "--port", "0", "--consul", &consul, "--wait", "2s"], &[]);
    let health = ask(&svc, "GET", "/health", "", "").await;
    assert_eq!(health.status, 503);
    assert!(String::from_utf8_lossy(&health.body).contains(&consul), "{health:?}");
    let refused = ask(&svc, "POST", "/log", "", r#"{"identifier":"k","text":"t"}"#).await;
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    assert_eq!(svc.wait_exit(SOON).code(), Some(1));
    let output = svc.output();
    for part in [
        &format!("gave up waiting for Consul at http://{consul}")[..],
        "last answer: ",
        "Connection refused",
        "what to do: start one with `scripts/engines.sh up`, or point elsewhere with --consul",
    ] {
        assert!(output.contains(part), "{part:?} is not in\n{output}");
    }
}

#[tokio::test]
async fn without_the_cluster_the_role_says_what_it_waits_for_and_gives_up() {
    let instance = instance().await;
    let nowhere = format!("127.0.0.1:{}", Ports::free().http);
    let arguments = [
        "logging",
        "--port",
        "0",
        "--wait",
        "2s",
        "--consul",
        &instance.agent.address,
    ];
    let svc = Svc::start(&[&arguments[..], &["--hazelcast", &nowhere]].concat(), &[]);
    assert_eq!(svc.wait_exit(SOON).code(), Some(1));
    let output = svc.output();
    for part in [
        &format!("gave up waiting for Hazelcast cluster \"logging\" at {nowhere}")[..],
        "Connection refused",
        "what to do: start it with `scripts/engines.sh up`, or name other members with --hazelcast",
    ] {
        assert!(output.contains(part), "{part:?} is not in\n{output}");
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_named_and_what_to_do() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (host, port, advice) in [
        ("127.0.0.1", &port[..], "name another port with --port"),
        // An address for documentation, which no machine has.
        ("192.0.2.1", "0", "with --host"),
    ] {
        let svc = Svc::start(&["logging", "--host", host, "--port", port], &[]);
        assert_eq!(svc.wait_exit(SOON).code(), Some(1));
        let output = svc.output();
        let said = format!("cannot listen on {host}:{port}");
        assert!(output.contains(&said) && output.contains(advice), "{output}");
    }
}

#[tokio::test]
async fn at_a_signal_the_role_leaves_consul_then_ends_after_the_requests_in_flight() {
    let instance = instance().await;
    let address = instance.svc.address();
    let id = format!("logging-service@{address}");
    instance.svc.wait_for_line("registered in", SOON);
    assert!(wait::until_true(SOON, || instance.agent.passing("logging-service") == [id.clone()]));
    let body = json!({"identifier": "late", "text": "x".repeat(1000)}).to_string();
    let (early, late) = body.split_at(500);
    let mut client = RawClient::connect(address).await;
    let head = "POST /log HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n";
    client
        .send(format!("{head}Content-Length: {}\r\n\r\n{early}", body.len()))
        .await;
    // An answer on another connection shows that the server has had time to read the first one's head.
    assert_eq!(instance.ask("GET", "/health", "", "").await.status, 200);

    let signalled = Instant::now();
    instance.svc.signal(Signal::TERM);
    instance.svc.wait_for_line("deregistered from", SOON);
    assert_eq!(instance.agent.get("agent/services"), json!({}));
    client.send(late).await;
    assert_eq!(client.answer().await.status, 201);
    assert!(instance.svc.wait_exit(SOON).success());
    assert!(signalled.elapsed() < STOP_WITHIN, "{:?}", signalled.elapsed());
    let another = Instance::another(&instance.agent);
    let listed = ask(&another, "GET", "/logs", "", "").await;
    assert_eq!(listed.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_role_whose_consul_comes_back_empty_serves_meanwhile_and_registers_again() {
    let Instance { svc, agent, .. } = instance().await;
    let id = format!("logging-service@{}", svc.address());
    svc.wait_for_line("registered in", SOON);
    let ports = agent.kill();
    let post = async || {
        ask(&svc, "POST", "/log", "", r#"{"identifier":"k","text":"t"}"#)
            .await
            .status
    };
    let away = async {
        svc.wait_for_line("cannot tell that this instance is registered", SOON);
        post().await
    };
    assert_eq!(away.await, 201);
    let agent = Agent::start_empty(&ports);
    let back = Instant::now();
    assert!(wait::until_true(SOON, || agent.passing("logging-service") == [id.clone()]));
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    svc.wait_for_line("answers again", SOON);
    assert_eq!(post().await, 201);
    let output = svc.output();
    for once in ["cannot tell that this instance is registered", "answers again"] {
        assert_eq!(output.matches(once).count(), 1, "{once}: {output}");
    }
}

#[tokio::test]
async fn a_consul_that_comes_back_empty_is_told_again_when_the_log_was_cleared() {
    const KEY: &str = "logs_cleared_at";
    let instance = instance().await;
    assert_eq!(instance.ask("DELETE", "/logs", "", "").await.status, 200);
    let noted = instance.agent.value(KEY).unwrap();
    let consul = &instance.agent.address;
    let options = ["logging", "--port", "0", "--consul", consul, "--log", "svc=debug"];
    let another = Svc::start(&options, &[]);
    another.wait_for_line("learned when the log was cleared", SOON);
    let Instance { svc, agent, .. } = instance;
    // Who deleted is gone, too: any that saw it is enough.
    svc.kill();
    let ports = agent.kill();
    let agent = Agent::start_empty(&ports);
    assert_eq!(agent.value("essential_keys_populated"), None);
    assert!(wait::until_true(SOON, || agent.value(KEY).as_ref() == Some(&noted)));
    another.wait_for_line("wrote it back", SOON);
}

#[tokio::test]
async fn a_stop_is_not_held_up_by_a_consul_that_is_gone() {
    let Instance { svc, agent, .. } = instance().await;
    svc.wait_for_line("registered in", SOON);
    agent.kill();
    let signalled = Instant::now();
    svc.signal(Signal::TERM);
    assert!(svc.wait_exit(SOON).success());
    assert!(signalled.elapsed() < STOP_WITHIN, "{:?}", signalled.elapsed());
    assert!(svc.output().contains("could not deregister from"), "{}", svc.output());
}

#[tokio::test]
async fn an_instance_is_called_by_what_it_advertises() {
    let instance = instance().await;
    let consul = &instance.agent.address;
    let arguments = ["logging", "--port", "0", "--consul", consul, "--advertise", "localhost"];
    let svc = Svc::start(&arguments, &[]);
    let id = format!("logging-service@localhost:{}", svc.address().port());
    svc.wait_for_line(&format!("id=\"{id}\""), SOON);
    assert!(wait::until_true(SOON, || instance
        .agent
        .passing("logging-service")
        .contains(&id)));
    assert_eq!(
        instance.agent.get(&format!("agent/service/{id}"))["Address"],
        "localhost"
    );
}
