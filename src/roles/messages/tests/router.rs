//! What is asked over HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::header::{ALLOW, LINK, RETRY_AFTER};
use serde_json::{Value, json};

use super::super::*;
use super::scripted::Scripted;
use crate::http::request::BodyRoom;
use crate::message::Message;
use crate::roles::followed::Followed;

async fn ask(messages: &Messages, method: Method, target: &str) -> Reply {
    let request = hyper::Request::builder().method(method).uri(target);
    let request = Request::new(
        request.body(Full::<Bytes>::default()).unwrap(),
        Duration::from_secs(5),
        BodyRoom::new(0),
    );
    messages.handle(request).await.unwrap_or_else(HttpError::into_reply)
}

async fn body(reply: Reply) -> Value {
    serde_json::from_slice(&reply.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

fn opened(mailbox: &Arc<Scripted>) -> Messages {
    let messages = Messages::default();
    messages.mailbox.open(Followed::fixed(mailbox.clone()));
    messages
}

/// A mailbox in which two instances have delivered three messages, beside two entries that cannot be read.
fn filled() -> Arc<Scripted> {
    let mailbox = Scripted::new([]);
    let message = |identifier: &str| Message {
        identifier: identifier.to_owned(),
        text: format!("text {identifier}"),
    };
    let mut state = mailbox.state();
    let by_a = ("a".to_owned(), vec![message("1"), message("2")]);
    state.delivered.insert("x".to_owned(), by_a);
    state
        .delivered
        .insert("y".to_owned(), ("b".to_owned(), vec![message("3")]));
    state.skipped = 2;
    drop(state);
    mailbox
}

#[tokio::test]
async fn the_list_has_what_all_instances_delivered() {
    let messages = opened(&filled());
    for target in ["/messages", "/messages?full=false"] {
        let reply = ask(&messages, Method::GET, target).await;
        assert_eq!(reply.status(), StatusCode::OK);
        assert_eq!(body(reply).await, json!(["text 1", "text 2", "text 3"]));
    }
    let full = body(ask(&messages, Method::GET, "/messages?full=true").await).await;
    let expected = json!([
        {"identifier": "1", "text": "text 1", "by": "a"},
        {"identifier": "2", "text": "text 2", "by": "a"},
        {"identifier": "3", "text": "text 3", "by": "b"},
    ]);
    assert_eq!(full, expected);
    assert_eq!(
        messages.details()["skipped_entries"],
        6,
        "two entries, left out of three lists"
    );
}

#[tokio::test]
async fn a_page_has_whole_messages_and_a_link_to_the_next_one() {
    let messages = opened(&filled());
    for (target, identifiers, link) in [
        (
            "/messages?limit=2",
            vec!["1", "2"],
            Some("</messages?after=2&limit=2>; rel=\"next\""),
        ),
        ("/messages?limit=2&after=2", vec!["3"], None),
        ("/messages?after=1&full=false", vec!["2", "3"], None),
        ("/messages?after=9", vec![], None),
    ] {
        let reply = ask(&messages, Method::GET, target).await;
        let given = reply.headers().get(LINK).map(|link| link.to_str().unwrap().to_owned());
        assert_eq!((reply.status(), given.as_deref()), (StatusCode::OK, link), "{target}");
        let all = json!([
            {"identifier": "1", "text": "text 1", "by": "a"},
            {"identifier": "2", "text": "text 2", "by": "a"},
            {"identifier": "3", "text": "text 3", "by": "b"},
        ]);
        let expected = all.as_array().unwrap().iter();
        let expected: Vec<_> = expected
            .filter(|listed| identifiers.iter().any(|id| listed["identifier"] == *id))
            .collect();
        assert_eq!(body(reply).await, json!(expected), "{target}");
    }
    for bad in ["limit=0", "limit=1001", "after=a&after=b"] {
        let reply = ask(&messages, Method::GET, &format!("/messages?{bad}")).await;
        assert_eq!(reply.status(), StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn an_empty_list_is_an_array() {
    let messages = opened(&Scripted::new([]));
    assert_eq!(body(ask(&messages, Method::GET, "/messages").await).await, json!([]));
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_taken_are_told_apart() {
    let messages = opened(&Scripted::new([]));
    assert_eq!(
        ask(&messages, Method::GET, "/message").await.status(),
        StatusCode::NOT_FOUND
    );
    for method in [Method::POST, Method::DELETE, Method::PUT] {
        let reply = ask(&messages, method, "/messages").await;
        assert_eq!(reply.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(reply.headers()[ALLOW], "GET, HEAD");
    }
    let malformed = ask(&messages, Method::GET, "/messages?full=1").await;
    assert_eq!(malformed.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_mailbox_that_is_away_is_a_503_and_shows_in_the_health() {
    let mailbox = filled();
    mailbox.fail("all");
    mailbox.fail("look");
    let messages = opened(&mailbox);
    let reply = ask(&messages, Method::GET, "/messages").await;
    assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.headers()[RETRY_AFTER], "1");
    let details = messages.details();
    assert_eq!(details["mailbox"]["reachable"], false);
    let deliveries = json!({
        "delivered_messages": 0,
        "rejected_items": 0,
        "failing_for_seconds": null,
        "reason": null,
        "former_mailboxes": [],
    });
    assert_eq!(details["deliveries"], deliveries);
    let closed = ask(&Messages::default(), Method::GET, "/messages").await;
    assert_eq!(closed.status(), StatusCode::SERVICE_UNAVAILABLE);
}
