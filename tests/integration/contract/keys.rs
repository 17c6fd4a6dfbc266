//! `Idempotency-Key` makes a retry the same message: at once, later, through another facade, after a cut connection.

use std::net::SocketAddr;

use futures_util::future::join_all;
use serde_json::json;
use tokio::task::block_in_place;
use uuid::Uuid;

use crate::support::fleet::{Fleet, SOON, ask, eventually, request};
use crate::support::place::Kind;
use crate::support::raw::{Answer, RawClient};

on_both_engines! {
    one_text_under_one_key_is_one_message_however_often_it_is_posted,
    of_two_texts_under_one_key_at_once_one_is_taken_and_the_other_is_in_no_list,
    a_retry_after_the_connection_was_cut_before_the_answer_is_the_same_message,
    what_is_acknowledged_under_a_key_is_delivered_also_after_the_logs_were_deleted,
}

/// Posts at once, by turns to each facade.
const AT_ONCE: usize = 24;
const ROUNDS: usize = 5;

fn post(key: Uuid, text: &str) -> String {
    let headers = format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n");
    request("POST", "/message", &headers, &json!({ "text": text }).to_string())
}

async fn answer_to(facade: SocketAddr, key: Uuid, text: &str) -> Answer {
    let mut client = RawClient::connect(facade).await;
    client.send(post(key, text)).await;
    client.answer().await
}

/// Whether the text is the one of the key now: 201 with both, or 409.
async fn is_taken(facade: SocketAddr, key: Uuid, text: &str) -> bool {
    let answer = answer_to(facade, key, text).await;
    if answer.status == 201 {
        assert_eq!(answer.json(), json!({ "identifier": key.to_string(), "text": text }));
        return true;
    }
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (409, &json!("conflict"))
    );
    false
}

/// Posts these texts under one key at once, by turns to each facade; which of the posts were taken.
async fn at_once(facades: &[SocketAddr], key: Uuid, texts: &[&str]) -> Vec<bool> {
    let posts = (0..AT_ONCE).map(|n| {
        // Each facade gets each text.
        let (facade, text) = (
            facades[n % facades.len()],
            texts[n / facades.len() % texts.len()].to_owned(),
        );
        tokio::spawn(async move { is_taken(facade, key, &text).await })
    });
    join_all(posts).await.into_iter().map(|taken| taken.unwrap()).collect()
}

fn addresses(fleet: &Fleet) -> Vec<SocketAddr> {
    fleet.facades.iter().map(|facade| facade.address()).collect()
}

async fn one_text_under_one_key_is_one_message_however_often_it_is_posted(kind: Kind) {
    let fleet = Fleet::start_at(kind, 2, 2, 2).await;
    let facades = addresses(&fleet);
    let mut expected = Vec::new();
    let mut keys = Vec::new();
    for round in 0..ROUNDS {
        let (key, text) = (Uuid::new_v4(), format!("same {round}"));
        assert_eq!(at_once(&facades, key, &[&text]).await, [true; AT_ONCE]);
        keys.push((key, text.clone()));
        expected.push(text);
    }
    fleet.wait_lists(&expected).await;
    // Long after all of it was delivered, a retry is still the same message, and another text another one.
    for (key, text) in &keys {
        for facade in &facades {
            assert!(is_taken(*facade, *key, text).await);
            assert!(!is_taken(*facade, *key, "another text").await);
        }
    }
    // What is offered now is delivered after whatever those retries have offered.
    expected.push("last".to_owned());
    assert!(is_taken(facades[0], Uuid::new_v4(), "last").await);
    fleet.wait_lists(&expected).await;
}

async fn of_two_texts_under_one_key_at_once_one_is_taken_and_the_other_is_in_no_list(kind: Kind) {
    let fleet = Fleet::start_at(kind, 2, 2, 2).await;
    let facades = addresses(&fleet);
    let mut expected = Vec::new();
    for round in 0..ROUNDS * 2 {
        let key = Uuid::now_v7();
        let texts = [format!("left {round}"), format!("right {round}")];
        let taken = at_once(&facades, key, &[&texts[0], &texts[1]]).await;
        let of = |text: usize| -> Vec<bool> {
            let posts = taken.iter().enumerate().filter(|(n, _)| n / facades.len() % 2 == text);
            posts.map(|(_, taken)| *taken).collect()
        };
        let all = [true; AT_ONCE / 2];
        let none = [false; AT_ONCE / 2];
        let winner = usize::from(of(1)[0]);
        assert_eq!((of(winner), of(1 - winner)), (all.to_vec(), none.to_vec()));
        for facade in &facades {
            assert!(is_taken(*facade, key, &texts[winner]).await);
            assert!(!is_taken(*facade, key, &texts[1 - winner]).await);
        }
        expected.push(texts[winner].clone());
    }
    expected.push("last".to_owned());
    assert!(is_taken(facades[1], Uuid::new_v4(), "last").await);
    fleet.wait_lists(&expected).await;
}

async fn a_retry_after_the_connection_was_cut_before_the_answer_is_the_same_message(kind: Kind) {
    let fleet = Fleet::start_at(kind, 2, 2, 2).await;
    let facades = addresses(&fleet);
    let mut expected = Vec::new();
    for round in 0..ROUNDS * 4 {
        let (key, text) = (Uuid::now_v7(), format!("cut {round}"));
        let mut client = RawClient::connect(facades[round % 2]).await;
        client.send(post(key, &text)).await;
        // On its way to the log, to the mailbox, or to the client.
        if let Some(step) = [None, Some("sending to be logged"), Some(" logged"), Some("handed over")][round % 4] {
            let line = format!("{step} identifier=\"{key}\"");
            block_in_place(|| fleet.facades[round % 2].wait_for_line(&line, SOON));
        }
        drop(client);
        // As a client does: again, through whichever facade.
        assert!(is_taken(facades[(round / 2) % 2], key, &text).await);
        assert!(is_taken(facades[round % 2], key, &text).await);
        assert!(!is_taken(facades[(round + 1) % 2], key, "another text").await);
        expected.push(text);
    }
    fleet.wait_lists(&expected).await;
    assert!(is_taken(facades[0], Uuid::now_v7(), "last").await);
    expected.push("last".to_owned());
    fleet.wait_lists(&expected).await;
}

async fn what_is_acknowledged_under_a_key_is_delivered_also_after_the_logs_were_deleted(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 1, 1).await;
    let facade = fleet.facades[0].address();
    let key = Uuid::now_v7();
    assert!(is_taken(facade, key, "first").await);
    fleet.wait_lists(&["first".to_owned()]).await;
    assert_eq!(ask(&fleet.logging[0], "DELETE", "/logs", "", "").await.status, 200);
    // The log knows the key no more, and the list of messages keeps what was delivered under it.
    assert!(is_taken(facade, key, "second").await);
    assert!(is_taken(facade, key, "second").await);
    let [logs, _] = fleet.lists().await;
    assert_eq!(logs, ["second"]);
    eventually("both are delivered", async || {
        let [_, messages] = fleet.lists().await;
        messages == ["first", "second"]
    })
    .await;
}
