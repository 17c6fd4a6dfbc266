//! What others put into the queue and into the map of what was delivered, under load, that no instance can read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::engines::Engines;
use crate::support::fleet::{Fleet, LOADED, Load, ask, clients, end, eventually, eventually_within};
use crate::support::process::Svc;
use crate::support::python;

/// What cannot be read, as `tests/python/poison.py` calls it, and a part of the reason that is kept with it.
const POISON: [(&str, &str); 30] = [
    ("integer", "it is an Integer, not JSON"),
    ("float", "serialized type -10, not JSON"),
    ("truth", "serialized type -4, not JSON"),
    ("byte array", "it is a byte array, not JSON"),
    ("bytes", "serialized type -120, not JSON"),
    ("pickled object", "serialized type -120, not JSON"),
    ("list", "serialized type -29, not JSON"),
    ("date", "serialized type -51, not JSON"),
    ("no JSON", "expected ident"),
    ("empty text", "EOF while parsing a value"),
    ("null byte", "expected value"),
    ("5 MiB of no JSON", "expected value"),
    ("20 MiB", "more than 16777216"),
    ("broken JSON", "key must be a string"),
    ("cut JSON", "EOF while parsing a string"),
    ("half a character", "unexpected end of hex escape"),
    ("JSON null", "invalid type: null, expected an object"),
    ("empty array", "invalid type: sequence, expected an object"),
    ("deep arrays", "invalid type: sequence, expected an object"),
    (
        "deep objects",
        "neither exactly batch and messages nor exactly identifier and text",
    ),
    ("deep and cut", "EOF while parsing a value"),
    (
        "no identifier",
        "neither exactly batch and messages nor exactly identifier and text",
    ),
    ("number for identifier", "invalid type: integer `7`, expected a string"),
    ("object for text", "invalid type: map, expected a string"),
    ("identifier of 0 bytes", "identifier does not have 1 to 256 bytes"),
    ("identifier of 300 bytes", "identifier does not have 1 to 256 bytes"),
    ("text of 5 MiB", "a text has more than 1048576 bytes"),
    ("batch of nothing", "it has no messages"),
    ("batch with one bad message", "missing field `text`"),
    (
        "batch with one long identifier",
        "identifier does not have 1 to 256 bytes",
    ),
];

/// What is read, though Python has put it in, and the text that is delivered.
const READABLE: [(&str, &str); 4] = [
    ("message as JSON", "of Python, as JSON"),
    ("message as text", "of Python, as text: \u{e4}\u{1D11E}"),
    ("message with more", "of Python, with more"),
    ("batch as JSON", "of Python, in a batch"),
];

/// Runs `poison.py` on the fleet's queue. How many it has put in.
async fn put_in(fleet: &Fleet, kind: &str, names: &[&str]) -> u64 {
    let mq = &Engines::shared().mq;
    let place = [&mq.addresses(), mq.name, kind, &fleet.name];
    let printed = python::run("poison.py", &place, &json!(names).to_string()).await;
    printed.trim().parse().unwrap()
}

async fn mailbox(fleet: &Fleet) -> Value {
    let mq = &Engines::shared().mq;
    let read = python::run("read_mailbox.py", &[&mq.addresses(), mq.name, &fleet.name], "").await;
    serde_json::from_str(&read).unwrap()
}

async fn health(svc: &Svc) -> Value {
    let answer = ask(svc, "GET", "/health", "", "").await;
    assert_eq!(answer.status, 200);
    answer.json()
}

/// How many items the messages instances have set aside, together.
async fn rejected(fleet: &Fleet) -> u64 {
    let mut rejected = 0;
    for messages in &fleet.messages {
        rejected += health(messages).await["deliveries"]["rejected_items"].as_u64().unwrap();
    }
    rejected
}

/// How often the removal of an item was asked for again, since its outcome was not known: what the first try took out,
/// nobody counts.
fn repeated_removals(fleet: &Fleet) -> u64 {
    let output: String = fleet.messages.iter().map(Svc::output).collect();
    let repeated = output
        .lines()
        .filter(|line| line.contains("a call is tried again") && line.contains("operation=\"Queue.Remove\""));
    repeated.count() as u64
}

/// Seconds since midnight of each warning of an item that was set aside.
fn said_at(svc: &Svc) -> Vec<f64> {
    let output = svc.output();
    let warnings = output
        .lines()
        .filter(|line| line.contains(" WARN ") && line.contains("set aside an item that cannot be read"));
    let seconds = |line: &str| {
        let time = line.split_once('T').unwrap().1.split_once('Z').unwrap().0;
        time.split(':')
            .fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
    };
    warnings.map(seconds).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_set_aside_with_its_reason_and_counted_once_while_all_that_is_posted_is_delivered() {
    let fleet = Fleet::start(1, 2, 2).await;
    let load = Arc::new(Load::default());
    let clients = clients(&load, &fleet.facades[0]);
    load.more(200).await;

    let names = POISON.iter().chain(&READABLE).map(|(name, _)| *name);
    // The same bytes again are one entry, and count again.
    let again = POISON
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !name.contains("MiB"));
    let names: Vec<&str> = names.chain(again).collect();
    let bad = put_in(&fleet, "queue", &names).await - READABLE.len() as u64;
    load.more(300).await;
    let posted = end(&load, clients).await;

    let mut expected: Vec<String> = READABLE.iter().map(|(_, text)| (*text).to_owned()).collect();
    expected.extend(posted.clone());
    expected.sort();
    eventually("all that can be read is delivered", async || {
        let [logs, messages] = fleet.lists().await;
        assert_eq!(logs.len(), posted.len());
        messages == expected
    })
    .await;
    let mut mailbox = Value::Null;
    // A look at megabytes may take a busy cluster longer than it is waited for, and is made again.
    eventually_within(LOADED, "nothing waits any more", async || {
        mailbox = self::mailbox(&fleet).await;
        mailbox["waiting"] == 0
    })
    .await;
    eventually("each is counted", async || {
        let counted = rejected(&fleet).await;
        assert!(counted <= bad, "{counted} are counted of {bad}");
        counted + repeated_removals(&fleet) >= bad
    })
    .await;
    let kept: Vec<&Value> = mailbox["rejected"].as_object().unwrap().values().collect();
    assert_eq!(kept.len(), POISON.len());
    let mut reasons = BTreeMap::<&str, usize>::new();
    for (_, reason) in POISON {
        *reasons.entry(reason).or_default() += 1;
    }
    for (reason, number) in reasons {
        let with_reason = kept
            .iter()
            .filter(|entry| entry["reason"].as_str().unwrap().contains(reason));
        assert_eq!(with_reason.count(), number, "{reason:?}: {}", reasons_of(&kept));
    }
    for messages in &fleet.messages {
        let said = said_at(messages);
        let gaps = said.windows(2).map(|pair| (pair[1] - pair[0]).rem_euclid(86_400.0));
        assert!(
            !said.is_empty() && gaps.clone().all(|gap| gap > 0.99),
            "said at {said:?}"
        );
    }
}

fn reasons_of(kept: &[&Value]) -> String {
    kept.iter().map(|entry| format!("{}\n", entry["reason"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_others_put_among_the_delivered_are_left_out_and_counted_and_the_rest_is_whole() {
    let fleet = Fleet::start(1, 1, 1).await;
    let load = Arc::new(Load::default());
    let clients = clients(&load, &fleet.facades[0]);
    load.more(100).await;
    let foreign = put_in(&fleet, "deliveries", &[]).await;
    load.more(100).await;
    let posted = end(&load, clients).await;
    fleet.wait_lists(&posted).await;

    let svc = &fleet.messages[0];
    let skipped = async || health(svc).await["skipped_entries"].as_u64().unwrap();
    let before = skipped().await;
    assert!(before >= foreign, "{before}");
    let posted: BTreeSet<String> = posted.into_iter().collect();
    for path in ["/messages", "/messages?full=true"] {
        let listed = ask(svc, "GET", path, "", "").await;
        assert_eq!(listed.status, 200);
        let listed = listed.json();
        let text = |entry: &Value| entry.get("text").unwrap_or(entry).as_str().unwrap().to_owned();
        let listed: Vec<String> = listed.as_array().unwrap().iter().map(text).collect();
        assert_eq!(listed.len(), posted.len());
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), posted);
    }
    assert_eq!(skipped().await, before + 2 * foreign);
    assert!(svc.output().contains(&format!("skipped={foreign}")), "{}", svc.output());
}
