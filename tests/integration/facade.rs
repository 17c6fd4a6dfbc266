//! `svc facade` before real logging and messages instances, all of them processes, on real engines.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use uuid::Uuid;

use crate::support::agent::Agent;
use crate::support::engines::Engines;
use crate::support::process::Svc;
use crate::support::raw::{Answer, RawClient};
use crate::support::texts;

/// Longer than a start, a stop, or a delivery takes.
const SOON: Duration = Duration::from_secs(20);

/// Longer than a thousand posts take on a busy machine.
const LOADED: Duration = Duration::from_secs(120);

/// Instances with a Consul agent, a map and a queue of their own, on the clusters that all tests share.
struct System {
    facades: Vec<Svc>,
    logging: Vec<Svc>,
    messages: Vec<Svc>,
    /// Held for as long as they need it.
    _agent: Agent,
}

impl System {
    /// A system of so many instances of each role, all of them ready and known to the facades.
    async fn start(facades: usize, logging: usize, messages: usize) -> System {
        let system = spawn_blocking(move || {
            let agent = Agent::start();
            let engines = Engines::shared();
            let name = format!("test-{}", Uuid::new_v4());
            let keys = [
                ("--hz-logging-members", engines.logging.addresses()),
                ("--hz-mq-members", engines.mq.addresses()),
                ("--hz-logging-mapping-name", name.clone()),
                ("--hz-mq-queue-name", name),
            ];
            let keys = keys.iter().flat_map(|(option, value)| [*option, value.as_str()]);
            let arguments: Vec<&str> = ["populate-kv", "--consul", &agent.address]
                .into_iter()
                .chain(keys)
                .collect();
            let populated = Svc::start(&arguments, &[]);
            assert!(populated.wait_exit(SOON).success(), "{}", populated.output());
            let start = |role: &str, count: usize| -> Vec<Svc> {
                let arguments = [role, "--port", "0", "--consul", &agent.address, "--log", "svc=debug"];
                (0..count).map(|_| Svc::start(&arguments, &[])).collect()
            };
            let (logging, messages) = (start("logging", logging), start("messages", messages));
            let facades = start("facade", facades);
            for svc in logging.iter().chain(&messages).chain(&facades) {
                svc.wait_healthy(SOON);
            }
            System {
                facades,
                logging,
                messages,
                _agent: agent,
            }
        });
        let system = system.await.unwrap();
        system.wait_known().await;
        system
    }

    /// Waits until each facade knows all instances.
    async fn wait_known(&self) {
        for facade in &self.facades {
            eventually("the facade knows all instances", async || {
                let health = ask(facade, "GET", "/health", "", "").await.json();
                let known = |service: &str| health[service].as_array().map_or(0, Vec::len);
                known("logging-service") == self.logging.len() && known("messages-service") == self.messages.len()
            })
            .await;
        }
    }

    /// Both lists, sorted.
    async fn lists(&self) -> [Vec<String>; 2] {
        let answer = ask(&self.facades[0], "GET", "/messages", "", "").await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        let mut lists: [Vec<String>; 2] = serde_json::from_slice(&answer.body).unwrap();
        lists.iter_mut().for_each(|list| list.sort());
        lists
    }

    /// Waits until both lists hold exactly these texts.
    async fn wait_lists(&self, texts: &[String]) {
        let mut expected = texts.to_vec();
        expected.sort();
        eventually("both lists hold what was posted", async || {
            let [logs, messages] = self.lists().await;
            assert_eq!(logs.len(), expected.len(), "logs are there at once");
            logs == expected && messages == expected
        })
        .await;
    }
}

/// Waits until `condition` holds, for as long as [`SOON`].
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !condition().await {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ask(svc: &Svc, method: &str, target: &str, headers: &str, body: &str) -> Answer {
    let mut client = RawClient::connect(svc.address()).await;
    client
        .send(request(
            method,
            target,
            &format!("{headers}Connection: close\r\n"),
            body,
        ))
        .await;
    client.answer().await
}

fn request(method: &str, target: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

async fn post_json(svc: &Svc, headers: &str, body: &Value) -> Answer {
    let headers = format!("Content-Type: application/json\r\n{headers}");
    ask(svc, "POST", "/message", &headers, &body.to_string()).await
}

async fn post_keyed(svc: &Svc, key: Uuid, text: &str) -> u16 {
    let answer = post_json(svc, &format!("Idempotency-Key: {key}\r\n"), &json!({ "text": text })).await;
    if answer.status == 201 {
        assert_eq!(answer.json(), json!({ "identifier": key.to_string(), "text": text }));
    }
    answer.status
}

/// All bytes of a text as escapes of a query.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        let _ = write!(all, "%{byte:02x}");
        all
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_posted_is_read_back_in_both_lists_whatever_its_text() {
    let system = System::start(1, 2, 2).await;
    let facade = &system.facades[0];
    let mut posted = Vec::new();
    for text in texts::difficult() {
        let answer = post_json(facade, "", &json!({ "text": text })).await;
        assert_eq!((answer.status, &answer.json()["text"]), (201, &json!(text)));
        posted.push(text.clone());
        // A target has at most 65,534 bytes.
        if text.len() < 20_000 {
            let target = format!("/message?text={}", escaped(&text));
            let answer = ask(facade, "POST", &target, "", "").await;
            assert_eq!((answer.status, &answer.json()["text"]), (201, &json!(text)));
            posted.push(text);
        }
    }
    system.wait_lists(&posted).await;

    let answer = ask(facade, "POST", "/message?text=to+follow", "", "").await;
    let identifier = answer.json()["identifier"].as_str().unwrap().to_owned();
    let output = facade.output();
    for step in ["sending to be logged", "logged", "handed over"] {
        let is_step = |line: &&str| line.contains(step) && line.contains(&identifier);
        assert!(
            output.lines().any(|line| is_step(&line)),
            "no line says {step:?} of {identifier}:\n{output}"
        );
    }
    let health = ask(facade, "GET", "/health", "", "").await.json();
    assert_eq!(
        (&health["role"], &health["mailbox"]["reachable"]),
        (&json!("facade"), &json!(true))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_at_two_facades_at_once_is_one_message() {
    let system = System::start(2, 2, 2).await;
    let [first, second] = &system.facades[..] else {
        panic!("two facades")
    };
    let mut expected = Vec::new();
    for round in 0..10 {
        let (key, text) = (Uuid::new_v4(), format!("same {round}"));
        let statuses = tokio::join!(post_keyed(first, key, &text), post_keyed(second, key, &text));
        assert_eq!(statuses, (201, 201));
        for facade in &system.facades {
            assert_eq!(post_keyed(facade, key, "another text").await, 409);
        }
        assert_eq!(post_keyed(second, key, &text).await, 201);
        expected.push(text);

        let (key, texts) = (Uuid::new_v4(), [format!("left {round}"), format!("right {round}")]);
        let statuses = tokio::join!(post_keyed(first, key, &texts[0]), post_keyed(second, key, &texts[1]));
        assert!([(201, 409), (409, 201)].contains(&statuses), "{statuses:?}");
        expected.push(texts[usize::from(statuses.0 == 409)].clone());
    }
    system.wait_lists(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_needs_a_logging_instance_and_a_list_one_of_each() {
    let mut system = System::start(1, 1, 0).await;
    let missing = async |system: &System, method: &str, target: &str, service: &str| {
        let answer = ask(&system.facades[0], method, target, "", "").await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(service), "{message}");
    };
    assert_eq!(
        ask(&system.facades[0], "POST", "/message?text=a", "", "").await.status,
        201
    );
    missing(&system, "GET", "/messages", "messages-service").await;
    system.logging.clear();
    missing(&system, "POST", "/message?text=b", "logging-service").await;
    missing(&system, "GET", "/messages", "-service").await;
    assert_eq!(ask(&system.facades[0], "GET", "/health", "", "").await.status, 200);
}

/// What clients that post without pause have seen.
#[derive(Default)]
struct Load {
    acknowledged: Mutex<Vec<String>>,
    failed: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Load {
    /// Posts on one connection until it is time to stop.
    async fn post(self: Arc<Self>, facade: std::net::SocketAddr, client: usize) {
        let mut connection = RawClient::connect(facade).await;
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let text = format!("{client}-{number}");
            connection
                .send(request("POST", &format!("/message?text={text}"), "", ""))
                .await;
            let answer = connection.answer().await;
            if answer.status == 201 {
                self.acknowledged.lock().await.push(text);
            } else {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                self.failed
                    .lock()
                    .await
                    .push(format!("{text}: {} {body}", answer.status));
            }
        }
    }

    /// Waits until so many more are acknowledged.
    async fn more(&self, count: usize) {
        let (end, goal) = (Instant::now() + LOADED, self.acknowledged.lock().await.len() + count);
        while self.acknowledged.lock().await.len() < goal {
            assert!(
                Instant::now() < end,
                "not {count} more within {LOADED:?}: {:?}",
                self.failed.lock().await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Eight clients that post without pause.
fn clients(load: &Arc<Load>, facade: &Svc) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for client in 0..8 {
        clients.spawn(load.clone().post(facade.address(), client));
    }
    clients
}

/// Lets the clients end; what was acknowledged, and nothing has failed.
async fn end(load: &Load, mut clients: JoinSet<()>) -> Vec<String> {
    load.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    assert_eq!(*load.failed.lock().await, Vec::<String>::new());
    load.acknowledged.lock().await.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_an_instance_of_each_role_under_load_fails_and_loses_nothing() {
    let mut system = System::start(1, 2, 2).await;
    let load = Arc::new(Load::default());
    let clients = clients(&load, &system.facades[0]);
    load.more(1000).await;
    system.logging.remove(0).kill();
    load.more(1000).await;
    system.messages.remove(0).kill();
    load.more(1000).await;
    let posted = end(&load, clients).await;
    system.wait_lists(&posted).await;
    system.facades[0].wait_for_line("not logged, trying on", SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logging_instance_that_hangs_under_load_fails_nothing() {
    let system = System::start(1, 2, 1).await;
    let load = Arc::new(Load::default());
    let clients = clients(&load, &system.facades[0]);
    load.more(200).await;
    system.logging[0].signal(Signal::STOP);
    load.more(1000).await;
    let posted = end(&load, clients).await;
    system.wait_lists(&posted).await;
    system.facades[0].wait_for_line("no answer within 1.2s", SOON);
}
