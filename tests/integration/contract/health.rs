//! `GET /health` of each role from its start to its stop.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::{bare_request, get, methods_not_taken, post, post_json};
use crate::support::agent::{Agent, Ports};
use crate::support::fleet::{Fleet, SOON, ask, eventually};
use crate::support::place::Kind;
use crate::support::process::Svc;
use crate::support::table::{Expected, Row, Table, coded, error, json_holds, row};

on_both_engines! {
    each_role_is_ready_with_200_and_draining_with_503,
}

const ROLES: [&str; 3] = ["facade", "logging", "messages"];

/// What a role tells beside its status.
fn details(role: &str) -> &'static [&'static str] {
    match role {
        "facade" => &["mailbox", "logging-service", "messages-service", "discovery"],
        "logging" => &["log_store", "repair", "skipped_entries"],
        _ => &["mailbox", "deliveries", "discovery", "repair", "skipped_entries"],
    }
}

fn ready(role: &'static str) -> Expected {
    json_holds(200, move |body| {
        body["status"] == "ready"
            && body["role"] == role
            && body["version"] == env!("CARGO_PKG_VERSION")
            && body.get("error").is_none()
            && details(role).iter().all(|detail| body.get(detail).is_some())
    })
}

fn not_ready(role: &'static str, status: &'static str, part: String) -> Expected {
    json_holds(503, move |body| {
        let message = body["error"]["message"].as_str().unwrap_or_default();
        body["status"] == status
            && body["role"] == role
            && body["error"] == json!({ "code": status, "message": message })
            && message.contains(&part)
    })
}

/// Something that a role does when it is ready.
fn work(role: &str) -> Vec<u8> {
    match role {
        "facade" => post("/message?text=late", ""),
        "logging" => post_json("/log", "", "{\"identifier\":\"late\",\"text\":\"late\"}"),
        _ => get("/messages"),
    }
}

async fn each_role_is_ready_with_200_and_draining_with_503(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 1, 1).await;
    let mut table = Table::default();
    let all = [&fleet.facades[0], &fleet.logging[0], &fleet.messages[0]];
    for (role, svc) in ROLES.into_iter().zip(all) {
        let mut rows = vec![
            row(
                "GET /health: 200 while the process can take requests",
                get("/health"),
                ready(role),
            ),
            row("HEAD /health", bare_request("HEAD", "/health"), ready(role).for_head()),
            row(
                "404 path: /health/",
                get("/health/"),
                error(404, "nothing at this path"),
            ),
        ];
        rows.extend(methods_not_taken("/health", "GET, HEAD"));
        table.ask(&format!("{role}: /health"), svc.address(), rows).await;
    }
    for (role, svc) in ROLES.into_iter().zip(all) {
        svc.signal(Signal::TERM);
        eventually("it is draining", async || {
            ask(svc, "GET", "/health", "", "").await.status == 503
        })
        .await;
        let done = if role == "messages" { 200 } else { 201 };
        let rows = vec![
            row(
                "GET /health: 503 with the reason while … draining",
                get("/health"),
                not_ready(role, "draining", "about to stop; ask another".to_owned())
                    .header("connection", "close")
                    .closes(),
            ),
            row(
                "a request meanwhile is answered, as the last of its connection",
                work(role),
                json_holds(done, |_| true).header("connection", "close").closes(),
            ),
        ];
        table.ask(&format!("{role}: after SIGTERM"), svc.address(), rows).await;
        block_in_place(|| assert!(svc.wait_exit(SOON).success()));
    }
    table.end();
}

/// The rows of a role that starts and waits for this.
fn starting(role: &'static str, waits_for: &str) -> Vec<Row> {
    let part = format!("starting: waiting for {waits_for}");
    let health = || not_ready(role, "starting", part.clone());
    let mut rows = vec![
        row(
            "GET /health: 503 with the reason while starting",
            get("/health"),
            health(),
        ),
        row("HEAD /health", bare_request("HEAD", "/health"), health().for_head()),
        row(
            "503: any other request says what it waits for",
            work(role),
            coded(503, "starting", &part),
        ),
    ];
    rows.extend(methods_not_taken("/health", "GET, HEAD"));
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_is_starting_with_503_and_the_reason() {
    let nowhere = format!("127.0.0.1:{}", Ports::free().http);
    // One without settings, and one with those of nothing that runs.
    let [empty, wrong] = block_in_place(|| [Agent::start(), Agent::start()]);
    let members = ["--hz-logging-members", &nowhere, "--hz-mq-members", &nowhere];
    let populate = Svc::start(
        &[&["populate-kv", "--consul", &wrong.address], &members[..]].concat(),
        &[],
    );
    block_in_place(|| assert!(populate.wait_exit(SOON).success()));

    let mut table = Table::default();
    for (without, consul) in [
        ("Consul", &nowhere),
        ("settings", &empty.address),
        ("its cluster", &wrong.address),
    ] {
        for role in ROLES {
            let svc = Svc::start(&[role, "--port", "0", "--consul", consul], &[]);
            let cluster = if role == "logging" { "logging" } else { "mq" };
            let waits_for = match without {
                "its cluster" => format!("Hazelcast cluster {cluster:?} at {nowhere}"),
                "settings" => {
                    format!("the key essential_keys_populated in Consul at http://{consul}: there is no such key")
                }
                _ => format!("Consul at http://{consul}"),
            };
            eventually("it has come to what it waits for", async || {
                let health: Value = ask(&svc, "GET", "/health", "", "").await.json();
                health["error"]["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(&waits_for))
            })
            .await;
            table
                .ask(
                    &format!("{role} without {without}"),
                    svc.address(),
                    starting(role, &waits_for),
                )
                .await;
            svc.signal(Signal::TERM);
            block_in_place(|| svc.wait_exit(Duration::from_secs(10)));
        }
    }
    table.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_how_old_is_what_is_known_of_the_registry() {
    // Longer than Consul keeps a question whose answer does not change.
    const OLD: u64 = 12;
    let mut fleet = Fleet::start(1, 1, 1).await;
    let are = async |fleet: &Fleet, is_so: fn(u64) -> bool| {
        let facade = ask(&fleet.facades[0], "GET", "/health", "", "").await.json();
        let messages = ask(&fleet.messages[0], "GET", "/health", "", "").await.json();
        let known = [
            &facade["discovery"]["logging-service"],
            &facade["discovery"]["messages-service"],
            &messages["discovery"]["messages-service"],
        ];
        known.iter().all(|known| {
            (&known["instances"], &known["ejected"]) == (&json!(1), &json!([]))
                && is_so(known["age_seconds"].as_u64().unwrap())
        })
    };
    eventually("all know of each other", async || are(&fleet, |age| age < OLD).await).await;
    let agent = fleet.take_agent();
    let ports = block_in_place(|| agent.kill());
    eventually("what is known gets old", async || are(&fleet, |age| age >= OLD).await).await;
    let _agent = block_in_place(|| Agent::start_empty(&ports));
    eventually("it is known anew", async || are(&fleet, |age| age < OLD).await).await;
}
