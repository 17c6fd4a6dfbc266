//! `svc facade` before real logging and messages instances, all of them processes, on real engines.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::support::fleet::{Fleet, Load, SOON, ask, clients, end, many_clients};
use crate::support::place::Kind;
use crate::support::process::Svc;
use crate::support::raw::Answer;
use crate::support::texts;

on_both_engines! {
    what_is_posted_is_read_back_in_both_lists_whatever_its_text,
    the_death_of_an_instance_of_each_role_under_load_fails_and_loses_nothing,
    the_death_of_a_logging_instance_fails_none_of_many_messages_that_travel_alone,
    a_logging_instance_that_hangs_under_load_fails_nothing_and_only_the_first_requests_wait_for_it,
}

async fn post_json(svc: &Svc, body: &Value) -> Answer {
    ask(
        svc,
        "POST",
        "/message",
        "Content-Type: application/json\r\n",
        &body.to_string(),
    )
    .await
}

/// All bytes of a text as escapes of a query.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        let _ = write!(all, "%{byte:02x}");
        all
    })
}

async fn what_is_posted_is_read_back_in_both_lists_whatever_its_text(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 2, 2).await;
    let facade = &fleet.facades[0];
    let mut posted = Vec::new();
    for text in texts::difficult() {
        let answer = post_json(facade, &json!({ "text": text })).await;
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
    fleet.wait_lists(&posted).await;

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

async fn the_death_of_an_instance_of_each_role_under_load_fails_and_loses_nothing(kind: Kind) {
    let mut fleet = Fleet::start_at(kind, 1, 2, 2).await;
    let load = Arc::new(Load::default());
    let clients = clients(&load, &fleet.facades[0]);
    load.more(1000).await;
    fleet.logging.remove(0).kill();
    load.more(1000).await;
    fleet.messages.remove(0).kill();
    load.more(1000).await;
    let posted = end(&load, clients).await;
    fleet.wait_lists(&posted).await;
    fleet.facades[0].wait_for_line("not logged, trying on", SOON);
}

async fn the_death_of_a_logging_instance_fails_none_of_many_messages_that_travel_alone(kind: Kind) {
    let mut fleet = Fleet::start_at(kind, 1, 3, 1).await;
    let load = Load::keyed();
    let clients = many_clients(64, &load, &fleet.facades[0]);
    load.more(200).await;
    let killed = fleet.logging.remove(0);
    let id = format!("logging-service@{}", killed.address());
    killed.kill();
    load.more(1000).await;
    let posted = end(&load, clients).await;
    fleet.wait_lists(&posted).await;
    fleet.facades[0].wait_for_line(&format!("is left out for a while instance={id:?}"), SOON);
}

async fn a_logging_instance_that_hangs_under_load_fails_nothing_and_only_the_first_requests_wait_for_it(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 2, 1).await;
    let load = Arc::new(Load::default());
    let clients = clients(&load, &fleet.facades[0]);
    load.more(200).await;
    fleet.logging[0].signal(Signal::STOP);
    block_in_place(|| fleet.facades[0].wait_for_line("no answer within 1.2s", SOON));
    let known = Instant::now();
    load.more(1000).await;
    let posted = end(&load, clients).await;
    let longest = load.longest_since(known).await;
    assert!(longest < Duration::from_millis(1200), "{longest:?}");
    fleet.wait_lists(&posted).await;
}
