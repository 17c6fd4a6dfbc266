//! `svc messages` as processes, on a real Consul agent and a real Hazelcast cluster, beside the official Python client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use svc::engine::{self, Batch, Mailbox, Offered};
use svc::message::Message;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use uuid::Uuid;

use crate::support::agent::{Agent, Ports};
use crate::support::engines::{Cluster, Engines, Options};
use crate::support::process::Svc;
use crate::support::python;
use crate::support::raw::{Answer, RawClient};

/// Longer than a start or a stop takes.
const SOON: Duration = Duration::from_secs(20);

/// What was on its way is delivered within 3 s; the rest is for a busy machine.
const DELIVERED_WITHIN: Duration = Duration::from_secs(6);

/// A queue and an agent of a test's own, on the cluster that all tests share.
struct System {
    agent: Agent,
    /// Addresses of the cluster's members, with commas between.
    members: String,
    queue: String,
    mailbox: Arc<dyn Mailbox>,
}

impl System {
    async fn start() -> Self {
        spawn_blocking(|| Self::start_on(&Engines::shared().mq)).await.unwrap()
    }

    fn start_on(cluster: &Cluster) -> Self {
        let (agent, queue) = (Agent::start(), format!("test-{}", Uuid::new_v4()));
        let members = cluster.addresses();
        let keys = ["--hz-mq-members", &members, "--hz-mq-queue-name", &queue];
        let populate = Svc::start(&[&["populate-kv", "--consul", &agent.address], &keys[..]].concat(), &[]);
        assert!(populate.wait_exit(SOON).success());
        let addresses: Vec<String> = members.split(',').map(str::to_owned).collect();
        Self {
            mailbox: engine::connect_mailbox(cluster.name, &queue, &addresses, "test").unwrap(),
            agent,
            members,
            queue,
        }
    }

    /// One more instance, which takes requests.
    async fn instance(&self) -> Svc {
        let consul = self.agent.address.clone();
        let start = move || {
            let svc = Svc::start(&["messages", "--port", "0", "--consul", &consul], &[]);
            svc.wait_healthy(SOON);
            svc
        };
        spawn_blocking(start).await.unwrap()
    }

    /// Two instances that know of each other.
    async fn pair(&self) -> [Svc; 2] {
        let pair = [self.instance().await, self.instance().await];
        for (knowing, known) in [(0, 1), (1, 0)] {
            let id = id(&pair[known]);
            tokio::task::block_in_place(|| {
                let line = pair[knowing].wait_for_line(&id, SOON);
                assert!(line.contains("live instances"), "{line}");
            });
        }
        pair
    }

    /// Offers a batch until it is known to be in, as who does not hear of the outcome does.
    async fn offer(&self, batch: &Batch) {
        let offers = async { while !matches!(self.mailbox.offer(batch).await, Ok(Offered::Accepted)) {} };
        tokio::time::timeout(SOON, offers).await.expect("a batch is not taken");
    }

    async fn python_offers(&self, items: &[Value]) {
        python::run("offer.py", &self.place(), &json!(items).to_string()).await;
    }

    async fn python_reads(&self) -> Value {
        serde_json::from_str(&python::run("read_mailbox.py", &self.place(), "").await).unwrap()
    }

    fn place(&self) -> [&str; 3] {
        [&self.members, "mq", &self.queue]
    }
}

/// Its id in the registry.
fn id(svc: &Svc) -> String {
    format!("messages-service@{}", svc.address())
}

async fn get(svc: &Svc, path: &str) -> Answer {
    let mut client = RawClient::connect(svc.address()).await;
    client
        .send(format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        ))
        .await;
    client.answer().await
}

/// What an instance shows: identifier → text and who delivered it. None is shown twice.
async fn shown(svc: &Svc) -> BTreeMap<String, (String, String)> {
    let answer = get(svc, "/messages?full=true").await;
    assert_eq!(answer.status, 200);
    let listed = answer.json();
    let field = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let mut shown = BTreeMap::new();
    for entry in listed.as_array().unwrap() {
        let delivered = (field(entry, "text"), field(entry, "by"));
        assert!(
            shown.insert(field(entry, "identifier"), delivered).is_none(),
            "{entry} is shown twice"
        );
    }
    shown
}

/// Waits until an instance shows exactly these, and returns who delivered them.
async fn until_shown(svc: &Svc, expected: &BTreeMap<String, String>, within: Duration) -> BTreeSet<String> {
    let end = Instant::now() + within;
    loop {
        let shown = shown(svc).await;
        let texts: BTreeMap<String, String> = shown.iter().map(|(id, (text, _))| (id.clone(), text.clone())).collect();
        if texts == *expected {
            return shown.into_values().map(|(_, by)| by).collect();
        }
        let missing: Vec<_> = expected.keys().filter(|id| !texts.contains_key(*id)).collect();
        assert!(
            Instant::now() < end,
            "after {within:?} it shows {}, without {missing:?}",
            texts.len()
        );
        sleep(Duration::from_millis(20)).await;
    }
}

fn message(identifier: &str) -> Message {
    Message {
        identifier: identifier.to_owned(),
        text: format!("text of {identifier}"),
    }
}

fn batch(id: &str, size: usize) -> Batch {
    let messages = (0..size).map(|n| message(&format!("{id}-{n}"))).collect();
    Batch {
        id: id.to_owned(),
        messages,
    }
}

fn texts<'a>(messages: impl IntoIterator<Item = &'a Message>) -> BTreeMap<String, String> {
    let pairs = messages.into_iter();
    pairs
        .map(|message| (message.identifier.clone(), message.text.clone()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_python_and_of_ours_are_delivered_once_and_every_instance_shows_all() {
    let system = System::start().await;
    let pair = system.pair().await;
    let batches: Vec<Batch> = (0..70).map(|n| batch(&format!("b{n}"), 1 + n % 3)).collect();
    let (ours, theirs) = batches.split_at(35);
    let singles: Vec<Message> = (0..30).map(|n| message(&format!("s{n}"))).collect();

    let as_json = |batch: &Batch| {
        json!([
            "json",
            json!({"batch": batch.id, "messages": batch.messages}).to_string()
        ])
    };
    let mut items: Vec<Value> = theirs.iter().map(as_json).collect();
    let kinds = ["json", "plain"].iter().cycle();
    items.extend(
        singles
            .iter()
            .zip(kinds)
            .map(|(single, kind)| json!([kind, json!(single).to_string()])),
    );
    // Whoever offers and does not hear of the outcome offers again.
    let again = items.iter().step_by(7).cloned().collect::<Vec<_>>();
    items.extend(again);
    let offers = join_all(ours.iter().chain(ours).map(|batch| system.offer(batch)));
    tokio::join!(offers, system.python_offers(&items));

    let expected = texts(batches.iter().flat_map(|batch| &batch.messages).chain(&singles));
    for svc in &pair {
        let by = until_shown(svc, &expected, SOON).await;
        assert_eq!(by, pair.iter().map(id).collect(), "both have a share");
        let plain = get(svc, "/messages").await;
        let plain: BTreeSet<String> = serde_json::from_slice(&plain.body).unwrap();
        assert_eq!(plain, expected.values().cloned().collect());
    }
    until_empty(&system).await;
    let read = system.python_reads().await;
    let keys: BTreeSet<&String> = read["delivered"].as_object().unwrap().keys().collect();
    let ids = batches.iter().map(|batch| &batch.id);
    assert_eq!(
        keys,
        ids.chain(singles.iter().map(|single| &single.identifier)).collect()
    );
    assert_eq!(read["rejected"], json!({}));
}

/// Waits until nothing waits: what was delivered is removed a moment later.
async fn until_empty(system: &System) {
    let empty = async { while !system.mailbox.look().await.unwrap().is_empty() {} };
    tokio::time::timeout(SOON, empty)
        .await
        .expect("the queue does not get empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_is_killed_while_batches_flow_and_all_are_delivered() {
    let system = System::start().await;
    let [killed, other] = system.pair().await;
    let mut offered = Vec::new();
    for n in 0..300 {
        let batch = batch(&format!("b{n}"), 2);
        system.offer(&batch).await;
        offered.extend(batch.messages);
        if n == 150 {
            killed.signal(Signal::KILL);
        }
    }
    let by = until_shown(&other, &texts(&offered), DELIVERED_WITHIN).await;
    assert_eq!(by, BTreeSet::from([id(&killed), id(&other)]), "both have a share");
    until_empty(&system).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hazelcast_member_is_killed_while_batches_flow_and_all_are_delivered_once() {
    let options = Options {
        logging: 1,
        mq: 2,
        consul: false,
    };
    let engines = spawn_blocking(move || Engines::start(&options)).await.unwrap();
    let system = tokio::task::block_in_place(|| System::start_on(&engines.mq));
    let pair = system.pair().await;
    let mut offered = Vec::new();
    for n in 0..300 {
        let batch = batch(&format!("b{n}"), 2);
        system.offer(&batch).await;
        offered.extend(batch.messages);
        if n == 150 {
            tokio::task::block_in_place(|| engines.mq.members[0].kill());
        }
    }
    for svc in &pair {
        until_shown(svc, &texts(&offered), SOON).await;
    }
    until_empty(&system).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_set_aside_with_the_reason_and_the_rest_flows() {
    let system = System::start().await;
    let svc = system.instance().await;
    let good: Vec<Message> = (0..10).map(|n| message(&format!("m{n}"))).collect();
    let poison = [
        json!(["plain", 5]),
        json!(["plain", "no JSON"]),
        json!(["pickled", 1]),
        json!(["json", r#"{"text":"of nobody"}"#]),
        json!(["json", r#"{"batch":"b","messages":[]}"#]),
    ];
    let good_items = good.iter().map(|message| json!(["json", json!(message).to_string()]));
    let items: Vec<Value> = poison
        .iter()
        .cloned()
        .chain(good_items)
        .chain(poison.iter().cloned())
        .collect();
    system.python_offers(&items).await;

    until_shown(&svc, &texts(&good), SOON).await;
    until_empty(&system).await;
    let read = system.python_reads().await;
    let rejected = read["rejected"].as_object().unwrap();
    let reasons: BTreeSet<&str> = rejected
        .values()
        .map(|entry| entry["reason"].as_str().unwrap())
        .collect();
    assert_eq!((rejected.len(), reasons.len()), (5, 5), "{rejected:?}");
    assert!(
        rejected.values().any(|entry| entry["text"] == "no JSON"),
        "{rejected:?}"
    );
    let health = get(&svc, "/health").await;
    assert_eq!(health.status, 200);
    let deliveries = &health.json()["deliveries"];
    assert!(deliveries["rejected_items"].as_u64() >= Some(5), "{deliveries}");
    svc.wait_for_line("set aside an item that cannot be read", SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_shows_everything_again_and_delivers_what_was_put_in_meanwhile() {
    let system = System::start().await;
    let (first, second) = (batch("first", 3), batch("second", 3));
    let svc = system.instance().await;
    system.offer(&first).await;
    until_shown(&svc, &texts(&first.messages), SOON).await;
    svc.signal(Signal::TERM);
    tokio::task::block_in_place(|| assert!(svc.wait_exit(SOON).success()));

    system.offer(&second).await;
    let svc = system.instance().await;
    let by = until_shown(&svc, &texts(first.messages.iter().chain(&second.messages)), SOON).await;
    assert!(by.contains(&id(&svc)), "{by:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_cluster_the_role_says_what_it_waits_for_and_gives_up() {
    let system = System::start().await;
    let nowhere = format!("127.0.0.1:{}", Ports::free().http);
    let arguments = ["messages", "--port", "0", "--wait", "2s", "--hazelcast", &nowhere];
    let svc = Svc::start(&[&arguments[..], &["--consul", &system.agent.address]].concat(), &[]);
    assert_eq!(get(&svc, "/messages").await.status, 503);
    tokio::task::block_in_place(|| assert_eq!(svc.wait_exit(SOON).code(), Some(1)));
    let output = svc.output();
    for part in [
        &format!("gave up waiting for Hazelcast cluster \"mq\" at {nowhere}")[..],
        "what to do: start it with `scripts/engines.sh up`, or name other members with --hazelcast",
    ] {
        assert!(output.contains(part), "{part:?} is not in\n{output}");
    }
}
