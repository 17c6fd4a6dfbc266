//! `svc facade` before real logging and messages instances, all of them processes, on real engines.

use std::fmt::Write as _;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::fleet::{Fleet, Load, SOON, ask, clients, end};
use crate::support::process::Svc;
use crate::support::raw::Answer;
use crate::support::texts;

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
    let fleet = Fleet::start(1, 2, 2).await;
    let facade = &fleet.facades[0];
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

#[tokio::test(flavor = "multi_thread")]
async fn one_key_at_two_facades_at_once_is_one_message() {
    let fleet = Fleet::start(2, 2, 2).await;
    let [first, second] = &fleet.facades[..] else {
        panic!("two facades")
    };
    let mut expected = Vec::new();
    for round in 0..10 {
        let (key, text) = (Uuid::new_v4(), format!("same {round}"));
        let statuses = tokio::join!(post_keyed(first, key, &text), post_keyed(second, key, &text));
        assert_eq!(statuses, (201, 201));
        for facade in &fleet.facades {
            assert_eq!(post_keyed(facade, key, "another text").await, 409);
        }
        assert_eq!(post_keyed(second, key, &text).await, 201);
        expected.push(text);

        let (key, texts) = (Uuid::new_v4(), [format!("left {round}"), format!("right {round}")]);
        let statuses = tokio::join!(post_keyed(first, key, &texts[0]), post_keyed(second, key, &texts[1]));
        assert!([(201, 409), (409, 201)].contains(&statuses), "{statuses:?}");
        expected.push(texts[usize::from(statuses.0 == 409)].clone());
    }
    fleet.wait_lists(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_needs_a_logging_instance_and_a_list_one_of_each() {
    let mut fleet = Fleet::start(1, 1, 0).await;
    let missing = async |fleet: &Fleet, method: &str, target: &str, service: &str| {
        let answer = ask(&fleet.facades[0], method, target, "", "").await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(service), "{message}");
    };
    assert_eq!(
        ask(&fleet.facades[0], "POST", "/message?text=a", "", "").await.status,
        201
    );
    missing(&fleet, "GET", "/messages", "messages-service").await;
    fleet.logging.clear();
    missing(&fleet, "POST", "/message?text=b", "logging-service").await;
    missing(&fleet, "GET", "/messages", "-service").await;
    assert_eq!(ask(&fleet.facades[0], "GET", "/health", "", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_an_instance_of_each_role_under_load_fails_and_loses_nothing() {
    let mut fleet = Fleet::start(1, 2, 2).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_logging_instance_that_hangs_under_load_fails_nothing() {
    let fleet = Fleet::start(1, 2, 1).await;
    let load = Arc::new(Load::default());
    let clients = clients(&load, &fleet.facades[0]);
    load.more(200).await;
    fleet.logging[0].signal(Signal::STOP);
    load.more(1000).await;
    let posted = end(&load, clients).await;
    fleet.wait_lists(&posted).await;
    fleet.facades[0].wait_for_line("no answer within 1.2s", SOON);
}
