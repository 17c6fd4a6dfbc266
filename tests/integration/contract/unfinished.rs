//! An answer that was begun and cannot be finished ends without its last chunk, never as a shorter whole one.

use serde_json::{Value, json};
use tokio::task::{block_in_place, spawn_blocking};

use super::MIB;
use crate::support::fleet::{Fleet, SOON, ask, eventually};
use crate::support::place::Kind;
use crate::support::process::Svc;
use crate::support::raw::{LAST_CHUNK, RawClient};

on_both_engines! {
    a_list_whose_logging_instance_is_killed_half_way_ends_without_its_last_chunk,
}

/// More than the kernel and both processes hold for a client that does not read, several times over.
const TEXTS: usize = 48;

async fn a_list_whose_logging_instance_is_killed_half_way_ends_without_its_last_chunk(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 1, 1).await;
    let text = "x".repeat(MIB);
    for batch in 0..TEXTS / 6 {
        let items: Vec<Value> = (0..6)
            .map(|n| json!({ "identifier": format!("{batch}-{n}"), "text": text }))
            .collect();
        let answer = ask(
            &fleet.logging[0],
            "POST",
            "/log",
            super::JSON,
            &json!(items).to_string(),
        )
        .await;
        assert_eq!(answer.status, 201);
    }

    let mut client = RawClient::connect(fleet.facades[0].address()).await;
    client.send("GET /messages HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
    block_in_place(|| fleet.logging[0].kill());
    let rest = client.rest().await;
    assert!(
        !rest.is_empty() && rest.len() < TEXTS * MIB,
        "{} bytes came: nothing was broken off",
        rest.len()
    );
    assert!(!rest.ends_with(LAST_CHUNK), "it ends as a whole answer does");
    assert!(!rest.contains(&b']'), "a list in it is closed");
    block_in_place(|| fleet.facades[0].wait_for_line("an answer was broken off", SOON));

    // The next one comes from an instance that lives, and is whole.
    let options = fleet.place().options().map(str::to_owned);
    let another = move || {
        let [option, place] = &options;
        let svc = Svc::start(&["logging", "--port", "0", option, place], &[]);
        svc.wait_healthy(SOON);
        svc
    };
    let another = spawn_blocking(another).await.unwrap();
    eventually("the list is whole again", async || {
        let answer = ask(&fleet.facades[0], "GET", "/messages", "", "").await;
        answer.status == 200 && answer.json()[0].as_array().is_some_and(|logs| logs.len() == TEXTS)
    })
    .await;
    // The engines are shared.
    assert_eq!(ask(&another, "DELETE", "/logs", "", "").await.status, 200);
}
