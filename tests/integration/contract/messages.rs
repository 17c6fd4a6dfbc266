//! The rows of the contract's table about a messages instance.

use serde_json::{Value, json};

use super::{JSON, bare_request, get, methods_not_taken};
use crate::support::fleet::{Fleet, ask, request};
use crate::support::messages::id;
use crate::support::place::Kind;
use crate::support::table::{Row, Table, error, json_holds, json_is, row};

on_both_engines! {
    each_row_and_sentence_about_a_messages_instance_holds,
}

fn sorted(list: &Value) -> Vec<String> {
    let mut items: Vec<String> = list.as_array().into_iter().flatten().map(Value::to_string).collect();
    items.sort();
    items
}

/// What was delivered: identifier, text, and by whom one of these.
fn is_full(list: &Value, delivered: &[(String, String)], by: &[String]) -> bool {
    let mut list = list.clone();
    for entry in list.as_array_mut().into_iter().flatten() {
        let Some(entry) = entry.as_object_mut() else {
            return false;
        };
        let named = entry.remove("by");
        if !named.is_some_and(|named| by.iter().any(|by| named == by.as_str())) {
            return false;
        }
    }
    let expected: Vec<Value> = delivered
        .iter()
        .map(|(identifier, text)| json!({ "identifier": identifier, "text": text }))
        .collect();
    sorted(&list) == sorted(&json!(expected))
}

fn lists(delivered: &[(String, String)], by: &[String]) -> Vec<Row> {
    let texts: Vec<&str> = delivered.iter().map(|(_, text)| text.as_str()).collect();
    let texts = sorted(&json!(texts));
    let (again, delivered, by) = (texts.clone(), delivered.to_vec(), by.to_vec());
    vec![
        row(
            "GET /messages: 200 [text…]: all that was delivered, by whichever instance",
            get("/messages"),
            json_holds(200, move |body| sorted(body) == texts),
        ),
        row(
            "?full=false",
            get("/messages?full=false&other=1"),
            json_holds(200, move |body| sorted(body) == again),
        ),
        row(
            "?full=true: messages adds \"by\": which instance delivered it",
            get("/messages?full=true"),
            json_holds(200, move |body| is_full(body, &delivered, &by)),
        ),
        row(
            "HEAD where GET is taken",
            bare_request("HEAD", "/messages"),
            json_is(200, json!([])).for_head(),
        ),
    ]
}

fn refused() -> Vec<Row> {
    let mut rows = vec![
        row(
            "400 malformed: percent-encoding",
            get("/messages?full=%"),
            error(400, "hex digits"),
        ),
        row(
            "400 malformed: UTF-8",
            get("/messages?full=%FF"),
            error(400, "no UTF-8"),
        ),
        row(
            "400 malformed: full that is neither true nor false",
            get("/messages?full=yes"),
            error(400, "neither true nor false"),
        ),
        row(
            "400 malformed: full given twice",
            get("/messages?full=true&full=true"),
            error(400, "more than once"),
        ),
        row(
            "a body is ignored",
            request("GET", "/messages?full=true", JSON, "{"),
            json_holds(200, Value::is_array),
        ),
    ];
    for path in ["/", "/messages/", "/Messages", "/message", "/logs"] {
        rows.push(row(
            format!("404 path: {path}"),
            get(path),
            error(404, "nothing at this path"),
        ));
    }
    rows.extend(methods_not_taken("/messages", "GET, HEAD"));
    rows
}

async fn each_row_and_sentence_about_a_messages_instance_holds(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 1, 2).await;
    let by: Vec<String> = fleet.messages.iter().map(id).collect();
    let mut table = Table::default();
    for svc in &fleet.messages {
        let title = format!("messages: nothing yet, at {}", svc.address());
        table.ask(&title, svc.address(), lists(&[], &by)).await;
    }
    table
        .ask("messages: errors", fleet.messages[0].address(), refused())
        .await;

    let mut delivered = Vec::new();
    for n in 0..20 {
        let text = format!("text \"{n}\"");
        let target = format!("/message?text=text+%22{n}%22");
        let answer = ask(&fleet.facades[0], "POST", &target, "", "").await;
        assert_eq!(answer.status, 201);
        delivered.push((answer.json()["identifier"].as_str().unwrap().to_owned(), text));
    }
    let texts: Vec<String> = delivered.iter().map(|(_, text)| text.clone()).collect();
    fleet.wait_lists(&texts).await;
    for svc in &fleet.messages {
        let title = format!("messages: after 20 posts, at {}", svc.address());
        table.ask(&title, svc.address(), lists(&delivered, &by)).await;
    }
    table.end();
}
