//! The whole story: a fleet under load while parts of it die, stop and come back, and what other clients find afterwards.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::support::agent::Agent;
use crate::support::engines::Engines;
use crate::support::fleet::{Fleet, Load, SOON, ask, clients, end, eventually, request};
use crate::support::place::Kind;
use crate::support::python;
use crate::support::raw::RawClient;

on_both_engines! {
    a_facade_that_is_stopped_leaves_first_and_answers_what_is_in_flight,
}

const SERVICES: [&str; 3] = ["facade-service", "logging-service", "messages-service"];

#[tokio::test(flavor = "multi_thread")]
async fn after_100_posts_python_finds_exactly_those_delivered_and_nothing_waiting() {
    let fleet = Fleet::start(2, 3, 2).await;
    let (mut identifiers, mut texts) = (BTreeSet::new(), Vec::new());
    for number in 0..100 {
        let text = format!("text-{number}");
        let facade = &fleet.facades[number % 2];
        let answer = ask(facade, "POST", &format!("/message?text={text}"), "", "").await;
        assert_eq!(answer.status, 201);
        identifiers.insert(answer.json()["identifier"].as_str().unwrap().to_owned());
        texts.push(text);
    }
    assert_eq!(identifiers.len(), 100);
    fleet.wait_lists(&texts).await;

    texts.sort();
    for messages in &fleet.messages {
        let listed = ask(messages, "GET", "/messages", "", "").await;
        let mut listed: Vec<String> = serde_json::from_slice(&listed.body).unwrap();
        listed.sort();
        assert_eq!(listed, texts);
    }
    let cluster = &Engines::shared().mq;
    let read = python::run(
        "read_mailbox.py",
        &[&cluster.addresses(), cluster.name, &fleet.name],
        "",
    )
    .await;
    let mailbox: Value = serde_json::from_str(&read).unwrap();
    assert_eq!(
        (&mailbox["waiting"], mailbox["rejected"].as_object().unwrap().len()),
        (&Value::from(0), 0)
    );
    let delivered = mailbox["delivered"].as_object().unwrap().values();
    let messages = delivered.flat_map(|entry| entry["messages"].as_array().unwrap());
    let delivered: Vec<String> = messages
        .map(|message| message["identifier"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(delivered.len(), 100, "none twice");
    assert_eq!(delivered.into_iter().collect::<BTreeSet<_>>(), identifiers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consul_that_dies_under_load_and_comes_back_empty_fails_nothing() {
    let mut fleet = Fleet::start(2, 3, 2).await;
    let all = SERVICES.map(|service| fleet.agent().passing(service));
    assert_eq!([all[0].len(), all[1].len(), all[2].len()], [2, 3, 2]);
    let load = Arc::new(Load::default());
    let clients = clients(&load, &fleet.facades[0]);
    load.more(200).await;
    let ports = fleet.take_agent().kill();
    load.more(1000).await;
    let agent = spawn_blocking(move || Agent::start_empty(&ports)).await.unwrap();
    let back = Instant::now();
    eventually("all are registered again", async || {
        SERVICES.map(|service| agent.passing(service)) == all
    })
    .await;
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    load.more(1000).await;
    let posted = end(&load, clients).await;
    fleet.wait_lists(&posted).await;

    assert_eq!(agent.value("mq_name"), None);
    spawn_blocking({
        let address = agent.address.clone();
        move || Fleet::populate(&address, "restored")
    })
    .await
    .unwrap();
    assert_eq!(agent.value("mq_name").as_deref(), Some("restored"));
    assert_eq!(agent.value("essential_keys_populated").as_deref(), Some("TRUE"));
}

async fn a_facade_that_is_stopped_leaves_first_and_answers_what_is_in_flight(kind: Kind) {
    let fleet = Fleet::start_at(kind, 2, 2, 1).await;
    let facade = &fleet.facades[0];
    let body = r#"{"text":"in flight"}"#;
    let whole = request("POST", "/message", "Content-Type: application/json\r\n", body);
    let (early, late) = whole.split_at(whole.len() - 5);
    let mut in_flight = Vec::new();
    for _ in 0..50 {
        let mut client = RawClient::connect(facade.address()).await;
        client.send(early).await;
        in_flight.push(client);
    }
    // An answer on a later connection shows that the server has met the earlier ones.
    assert_eq!(ask(facade, "GET", "/health", "", "").await.status, 200);

    let stopped = Instant::now();
    facade.signal(Signal::TERM);
    facade.wait_for_line("stopping", SOON);
    eventually("health is 503", async || {
        ask(facade, "GET", "/health", "", "").await.status == 503
    })
    .await;
    let id = format!("facade-service@{}", facade.address());
    eventually("it has left the registry", async || {
        let listed = fleet.place().registry().all("facade-service").await.unwrap();
        listed.iter().all(|listed| listed.id != id)
    })
    .await;
    for client in &mut in_flight {
        client.send(late).await;
    }
    for client in &mut in_flight {
        assert_eq!(client.answer().await.status, 201);
    }
    assert!(facade.wait_exit(SOON).success());
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    let listed = ask(&fleet.facades[1], "GET", "/messages", "", "").await;
    let [logs, _]: [Vec<String>; 2] = serde_json::from_slice(&listed.body).unwrap();
    assert_eq!(logs, vec!["in flight"; 50]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_through_holds() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/walkthrough.sh");
    let mut walk = Command::new(script);
    walk.env("SVC_BIN", env!("CARGO_BIN_EXE_svc"));
    let output = spawn_blocking(move || walk.output()).await.unwrap().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("All of it held"), "{out}");
}
