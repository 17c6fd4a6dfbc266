//! A mixed fleet: ours beside instances of another origin, which know Consul, the log's map and the single form of
//! `POST /log`, and nothing else of ours. `tests/python/` has the stand-ins for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::json;
use tokio::task::{block_in_place, spawn_blocking};
use uuid::Uuid;

use crate::support::engines::Engines;
use crate::support::fleet::{CHECKED, Fleet, Load, SOON, ask, clients, end, eventually, eventually_within};
use crate::support::process::{Svc, field};
use crate::support::raw::Answer;
use crate::support::{python, texts};

/// Two facades, two messages instances, two logging instances of ours, and one of another origin on the same map.
struct Mixed {
    fleet: Fleet,
    other: Svc,
    /// Its id in Consul.
    id: String,
}

impl Mixed {
    async fn start() -> Self {
        let fleet = Fleet::start(2, 2, 2).await;
        let cluster = &Engines::shared().logging;
        let arguments = [&fleet.agent().address, &cluster.addresses(), cluster.name, &fleet.name].map(str::to_owned);
        let (other, id) = start("foreign_logging.py", arguments.to_vec()).await;
        wait_known(&fleet, "logging-service", &id).await;
        Self { fleet, other, id }
    }

    /// How many messages the other one has logged.
    async fn logged_there(&self) -> u64 {
        counted(&self.other, "POST /log").await
    }
}

/// A stand-in, and its id in Consul.
async fn start(program: &'static str, arguments: Vec<String>) -> (Svc, String) {
    let started = spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let other = python::start(program, &arguments);
        let id = field(&other.wait_for_line("listening", SOON), "id").unwrap().to_owned();
        (other, id)
    });
    started.await.unwrap()
}

/// Waits until each facade knows this instance.
async fn wait_known(fleet: &Fleet, service: &str, id: &str) {
    for facade in &fleet.facades {
        eventually_within(CHECKED, "the facade knows the other instance", async || {
            let health = ask(facade, "GET", "/health", "", "").await.json();
            health[service].as_array().unwrap().contains(&json!(id))
        })
        .await;
    }
}

/// How often a stand-in did something.
async fn counted(other: &Svc, what: &str) -> u64 {
    let counts = ask(other, "GET", "/counts", "", "").await.json();
    counts[what].as_u64().unwrap_or(0)
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

/// The list that an instance answers, sorted.
async fn list(svc: &Svc, path: &str) -> Vec<String> {
    let answer = ask(svc, "GET", path, "", "").await;
    assert_eq!(answer.status, 200);
    sorted(serde_json::from_slice(&answer.body).unwrap())
}

async fn post_json(svc: &Svc, path: &str, headers: &str, body: &serde_json::Value) -> Answer {
    let headers = format!("Content-Type: application/json\r\n{headers}");
    ask(svc, "POST", path, &headers, &body.to_string()).await
}

/// Asks each facade for both lists until every logging instance has answered it. They are these whoever answers.
async fn whole_whoever_answers(mixed: &Mixed, expected: &[String]) {
    let ours = |svc: &Svc| format!("logging-service@{}", svc.address());
    let mut ids: BTreeSet<String> = mixed.fleet.logging.iter().map(ours).collect();
    ids.insert(mixed.id.clone());
    for facade in &mixed.fleet.facades {
        let before = facade.output().lines().count();
        let there = counted(&mixed.other, "GET /logs").await;
        eventually("each logging instance has answered", async || {
            let answer = ask(facade, "GET", "/messages", "", "").await;
            let [logs, messages]: [Vec<String>; 2] = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!((answer.status, sorted(logs)), (200, expected.to_vec()));
            assert_eq!(sorted(messages), expected);
            let output = facade.output();
            let asked = output
                .lines()
                .skip(before)
                .filter(|line| line.contains("target=\"/logs\""));
            let asked: BTreeSet<String> = asked.map(|line| field(line, "instance").unwrap().to_owned()).collect();
            asked == ids && counted(&mixed.other, "GET /logs").await > there
        })
        .await;
        let output = facade.output();
        assert!(!output.contains("an instance failed"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_another_origin_gets_its_share_and_every_list_is_whole_whoever_answers() {
    let mixed = Mixed::start().await;
    let load = Arc::new(Load::default());
    let clients = clients(&load, &mixed.fleet.facades[0]);
    load.more(600).await;
    let posted = sorted(end(&load, clients).await);
    let (there, all) = (mixed.logged_there().await, posted.len() as u64);
    assert!(there * 20 > all, "it has logged {there} of {all}");
    assert!(there < all, "ours have a share too");

    mixed.fleet.wait_lists(&posted).await;
    for logging in mixed.fleet.logging.iter().chain([&mixed.other]) {
        assert_eq!(list(logging, "/logs").await, posted);
    }
    whole_whoever_answers(&mixed, &posted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_of_another_origin_logged_is_in_ours_and_what_ours_logged_in_its_list_whatever_the_text() {
    let mixed = Mixed::start().await;
    let mut expected = Vec::new();
    for (number, text) in texts::difficult().into_iter().enumerate() {
        let answer = post_json(&mixed.fleet.facades[0], "/message", "", &json!({ "text": text })).await;
        assert_eq!((answer.status, &answer.json()["text"]), (201, &json!(text)));
        expected.push(text.clone());
        // It takes no longer ones.
        if text.len() < 100_000 {
            let message = json!({"identifier": format!("theirs-{number}"), "text": text});
            assert_eq!(post_json(&mixed.other, "/log", "", &message).await.status, 200);
            expected.push(text);
        }
    }
    let expected = sorted(expected);
    for logging in mixed.fleet.logging.iter().chain([&mixed.other]) {
        assert_eq!(list(logging, "/logs").await, expected);
    }
    eventually("the other one has answered the facade, as whole as ours", async || {
        let [logs, _] = mixed.fleet.lists().await;
        assert_eq!(logs, expected);
        counted(&mixed.other, "GET /logs").await > 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_of_another_origin_refuses_ours_are_asked_for() {
    let mixed = Mixed::start().await;
    let long = "x".repeat(500_000);
    let refused = post_json(&mixed.other, "/log", "", &json!({"identifier": "k", "text": long})).await;
    assert_eq!(refused.status, 413);
    let several = post_json(&mixed.other, "/log", "", &json!([])).await;
    assert_eq!(several.status, 422);
    let mut expected = Vec::new();
    // Which of the three is asked first is up to chance.
    while !mixed.fleet.facades[0].output().contains("answered 413") || expected.len() < 10 {
        let answer = post_json(&mixed.fleet.facades[0], "/message", "", &json!({ "text": long })).await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        expected.push(long.clone());
    }
    mixed.fleet.wait_lists(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_under_a_key_goes_to_ours_and_to_the_other_one_where_there_are_none() {
    let mut mixed = Mixed::start().await;
    let post = async |mixed: &Mixed, key: Uuid, text: &str| {
        let headers = format!("Idempotency-Key: {key}\r\n");
        let answer = post_json(&mixed.fleet.facades[0], "/message", &headers, &json!({ "text": text })).await;
        answer.status
    };
    let mut expected = Vec::new();
    for number in 0..50 {
        let (key, text) = (Uuid::new_v4(), format!("keyed {number}"));
        assert_eq!(post(&mixed, key, &text).await, 201);
        assert_eq!(post(&mixed, key, "another text").await, 409);
        assert_eq!(post(&mixed, key, &text).await, 201);
        expected.push(text);
    }
    assert_eq!(mixed.logged_there().await, 0);

    mixed.fleet.logging.clear();
    let (key, text) = (Uuid::new_v4(), "nobody else is there");
    eventually("the other one takes it", async || post(&mixed, key, text).await == 201).await;
    assert!(mixed.logged_there().await > 0);
    expected.push(text.to_owned());
    mixed.fleet.wait_lists(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_another_origin_that_is_killed_under_load_fails_and_loses_nothing() {
    let mixed = Mixed::start().await;
    let load = Arc::new(Load::default());
    let clients = clients(&load, &mixed.fleet.facades[0]);
    load.more(300).await;
    let there = mixed.logged_there().await;
    assert!(there > 0);
    block_in_place(|| mixed.other.kill());
    load.more(600).await;
    let posted = end(&load, clients).await;
    mixed.fleet.wait_lists(&posted).await;
    mixed.fleet.facades[0].wait_for_line("not logged, trying on", SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_another_origin_that_hangs_under_load_fails_nothing_and_is_used_again_when_it_goes_on() {
    let mixed = Mixed::start().await;
    let load = Arc::new(Load::default());
    let clients = clients(&load, &mixed.fleet.facades[0]);
    load.more(200).await;
    mixed.other.signal(Signal::STOP);
    block_in_place(|| mixed.fleet.facades[0].wait_for_line("no answer within 1.2s", SOON));
    load.more(600).await;
    mixed.other.signal(Signal::CONT);
    wait_known(&mixed.fleet, "logging-service", &mixed.id).await;
    let there = mixed.logged_there().await;
    eventually("it is used again", async || {
        load.more(50).await;
        mixed.logged_there().await > there
    })
    .await;
    let posted = end(&load, clients).await;
    mixed.fleet.wait_lists(&posted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_list_of_a_messages_instance_of_another_origin_is_taken_and_nothing_is_left_for_it_to_deliver() {
    let fleet = Fleet::start(1, 1, 1).await;
    let theirs = ["theirs", "of \u{e4}\u{1D11E}, with \"quotes\"", ""];
    let arguments = [&[fleet.agent().address.as_str()], &theirs[..]].concat();
    let (_other, id) = start(
        "foreign_messages.py",
        arguments.into_iter().map(str::to_owned).collect(),
    )
    .await;
    wait_known(&fleet, "messages-service", &id).await;
    block_in_place(|| fleet.messages[0].wait_for_line(&id, SOON));

    // What belongs to another instance waits for 2 s until this one takes it: for half of these that would be too long.
    let mut posted = Vec::new();
    let all = async {
        for number in 0..40 {
            posted.push(format!("text-{number:02}"));
            let target = format!("/message?text=text-{number:02}");
            assert_eq!(ask(&fleet.facades[0], "POST", &target, "", "").await.status, 201);
            while list(&fleet.messages[0], "/messages").await != posted {}
        }
    };
    tokio::time::timeout(SOON, all)
        .await
        .expect("something was left for the other one");

    let theirs = sorted(theirs.map(str::to_owned).to_vec());
    let mut seen = BTreeSet::new();
    eventually("both messages instances have answered", async || {
        let [logs, messages] = fleet.lists().await;
        assert_eq!(logs, posted);
        assert!([&theirs, &posted].contains(&&messages), "{messages:?}");
        seen.insert(messages);
        seen.len() == 2
    })
    .await;
}
