//! What the facade answers while there is no live instance of a service that it needs.

use serde_json::json;

use super::{get, post};
use crate::support::fleet::{Fleet, SOON, ask};
use crate::support::place::Kind;
use crate::support::table::{Table, error, json_holds, row};

on_both_engines! {
    without_a_live_logging_instance_a_post_and_a_list_are_503,
    without_a_live_messages_instance_a_list_is_503_and_a_post_is_not,
    while_all_logging_instances_are_dead_and_not_yet_missed_a_request_is_503_in_time,
}

async fn without_a_live_logging_instance_a_post_and_a_list_are_503(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 0, 1).await;
    let facade = fleet.facades[0].address();
    let mut table = Table::default();
    let missing = || error(503, "no live instance of logging-service is known");
    let rows = vec![
        row(
            "503 no live instance: POST needs a live logging instance",
            post("/message?text=a", ""),
            missing(),
        ),
        row(
            "503 no live instance: GET /messages, all logs",
            get("/messages"),
            missing(),
        ),
        row(
            "a malformed request is a 400 all the same",
            post("/message?text=%", ""),
            error(400, "hex digits"),
        ),
        row(
            "200 while the process can take requests",
            get("/health"),
            json_holds(200, |body| body["status"] == "ready"),
        ),
    ];
    table.ask("facade without logging-service", facade, rows).await;
    table.end();
    let listed = ask(&fleet.messages[0], "GET", "/messages", "", "").await;
    assert_eq!(listed.json(), json!([]), "what was refused was delivered");
}

async fn without_a_live_messages_instance_a_list_is_503_and_a_post_is_not(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 1, 0).await;
    let facade = fleet.facades[0].address();
    let mut table = Table::default();
    let rows = vec![
        row(
            "POST needs … not a live messages instance",
            post("/message?text=a", ""),
            json_holds(201, |body| body["text"] == "a"),
        ),
        row(
            "503 no live instance: GET /messages, all delivered messages",
            get("/messages"),
            error(503, "no live instance of messages-service is known"),
        ),
    ];
    table.ask("facade without messages-service", facade, rows).await;
    table.end();
    let logged = ask(&fleet.logging[0], "GET", "/logs", "", "").await;
    assert_eq!(logged.json(), json!(["a"]));
}

async fn while_all_logging_instances_are_dead_and_not_yet_missed_a_request_is_503_in_time(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 1, 1).await;
    let facade = &fleet.facades[0];
    fleet.logging[0].kill();
    let mut table = Table::default();
    let dead = || error(503, "logging-service");
    let rows = vec![
        row(
            "503 no live instance (within 5 s): POST",
            post("/message?text=a", ""),
            dead(),
        ),
        row(
            "503 no live instance (within 5 s): GET /messages",
            get("/messages"),
            dead(),
        ),
    ];
    table
        .ask("facade before a dead logging instance", facade.address(), rows)
        .await;
    table.end();
    facade.wait_for_line("an instance failed, trying on", SOON);
}
