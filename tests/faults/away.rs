//! What each role answers while an engine is away: 503 in time that names it, and nothing half done.

use serde_json::{Value, json};
use tokio::task::{block_in_place, spawn_blocking};

use crate::members;
use crate::support::engines::{Engines, Options};
use crate::support::fleet::{self, Fleet, ask, eventually, request};
use crate::support::process::Svc;
use crate::support::table::{Row, Table, error, json_holds, json_is, row};

const JSON: &str = "Content-Type: application/json\r\n";

fn get(target: &str) -> String {
    request("GET", target, "", "")
}

fn post(text: &str) -> String {
    request("POST", &format!("/message?text={text}"), "", "")
}

/// `GET /health` while the engine that it shows here is away.
fn healthy_without(engine: &'static str) -> Row {
    let shows = move |body: &Value| {
        let details = &body[engine];
        body["status"] == "ready" && details["reachable"] == false && details["reason"].is_string()
    };
    let name = "GET /health: 200 … also when an engine is away (that shows … in the body)";
    row(name, get("/health"), json_holds(200, shows))
}

async fn until_away(svc: &Svc, engine: &str) {
    eventually("it knows that its engine is away", async || {
        ask(svc, "GET", "/health", "", "").await.json()[engine]["reachable"] == false
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_an_engine_that_is_away_is_503_and_nothing_is_logged_while_mq_is() {
    let _turn = members::TURN.lock().await;
    let options = Options {
        logging: 1,
        mq: 1,
        consul: false,
    };
    let engines = spawn_blocking(move || Engines::start(&options)).await.unwrap();
    let fleet = Fleet::start_on(fleet::members(&engines), 1, 1, 1).await;
    let (facade, logging, messages) = (&fleet.facades[0], &fleet.logging[0], &fleet.messages[0]);
    assert_eq!(ask(facade, "POST", "/message?text=before", "", "").await.status, 201);
    fleet.wait_lists(&["before".to_owned()]).await;
    let mut table = Table::default();

    block_in_place(|| engines.mq.members[0].kill());
    until_away(facade, "mailbox").await;
    until_away(messages, "mailbox").await;
    let mq = || error(503, "Hazelcast cluster \"mq\"");
    let rows = vec![
        row(
            "while mq is known to be away it is refused before anything is logged",
            post("refused"),
            mq(),
        ),
        row(
            "the same under a key",
            request(
                "POST",
                "/message?text=keyed",
                "Idempotency-Key: 01890a5d-ac96-774b-bcce-b302099a8057\r\n",
                "",
            ),
            mq(),
        ),
        row(
            "503 engine away (within 5 s, with Retry-After): GET /messages",
            get("/messages"),
            error(503, "\"mq\""),
        ),
        row(
            "a malformed request is a 400 all the same",
            post("%"),
            error(400, "hex digits"),
        ),
        healthy_without("mailbox"),
    ];
    table.ask("facade, mq away", facade.address(), rows).await;
    let rows = vec![
        row("503 engine away: GET /messages", get("/messages"), mq()),
        row(
            "503 engine away: GET /messages?full=true",
            get("/messages?full=true"),
            mq(),
        ),
        healthy_without("mailbox"),
    ];
    table.ask("messages, mq away", messages.address(), rows).await;
    let rows = vec![row("nothing was logged", get("/logs"), json_is(200, json!(["before"])))];
    table.ask("logging, mq away", logging.address(), rows).await;

    block_in_place(|| engines.logging.members[0].kill());
    until_away(logging, "log_store").await;
    let cluster = || error(503, "Hazelcast cluster \"logging\"");
    let one = json!({ "identifier": "a", "text": "t" });
    let rows = vec![
        row(
            "503 engine away: POST /log",
            request("POST", "/log", JSON, &one.to_string()),
            cluster(),
        ),
        row(
            "503 engine away: POST /log with an array",
            request("POST", "/log", JSON, &json!([one]).to_string()),
            cluster(),
        ),
        row(
            "503 engine away: POST /log with If-None-Match",
            request("POST", "/log", &format!("{JSON}If-None-Match: *\r\n"), &one.to_string()),
            cluster(),
        ),
        row("503 engine away: GET /logs", get("/logs"), cluster()),
        row(
            "503 engine away: DELETE /logs",
            request("DELETE", "/logs", "", ""),
            cluster(),
        ),
        healthy_without("log_store"),
    ];
    table.ask("logging, its cluster away", logging.address(), rows).await;

    block_in_place(|| engines.mq.members[0].start());
    eventually("mq is back", async || {
        ask(facade, "GET", "/health", "", "").await.json()["mailbox"]["reachable"] == true
    })
    .await;
    let rows = vec![
        row(
            "503 engine away: POST /message, which cannot be logged",
            post("unlogged"),
            error(503, "\"logging\""),
        ),
        row(
            "503 engine away: GET /messages, whose logs cannot be read",
            get("/messages"),
            error(503, "\"logging\""),
        ),
    ];
    table.ask("facade, logging away", facade.address(), rows).await;
    table.end();
}
