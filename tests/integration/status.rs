//! `svc status` with a real Consul and real instances.

use std::fs::File;
use std::io::pipe;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::support::agent::{Agent, Ports};
use crate::support::command::{Ended, run, svc};
use crate::support::fake::Fake;
use crate::support::fleet::{CHECKED, Fleet, SOON, eventually, eventually_within};
use crate::support::place::Kind;
use crate::support::process::Svc;
use crate::support::wait;

on_both_engines! {
    all_instances_are_shown_with_how_they_are_and_since_when,
}

/// The options that lead to a registry.
type Options<'a> = [&'a str; 2];

fn status(consul: &str, arguments: &[&str]) -> Ended {
    status_at(["--consul", consul], arguments)
}

fn status_at(options: Options<'_>, arguments: &[&str]) -> Ended {
    run(&mut svc(&[&["status"], &options[..], arguments].concat()))
}

/// What it prints where all is well.
fn shown(options: Options<'_>, arguments: &[&str]) -> String {
    let Ended { code, out, err } = status_at(options, arguments);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    out
}

fn json(options: Options<'_>) -> Vec<Value> {
    serde_json::from_str(&shown(options, &["--json"])).unwrap()
}

fn at(agent: &Agent) -> Options<'_> {
    ["--consul", &agent.address]
}

fn id(service: &str, svc: &Svc) -> String {
    format!("{service}@{}", svc.address())
}

/// The entry of this id.
fn entry(options: Options<'_>, id: &str) -> Option<Value> {
    json(options).into_iter().find(|entry| entry["instance"] == id)
}

/// The row of this id, its cells as they stand below the head's.
fn row(table: &str, id: &str) -> [String; 6] {
    let head = table.lines().next().unwrap();
    let line = table
        .lines()
        .find(|line| line.split("  ").any(|cell| cell.trim() == id));
    let line = line.unwrap_or_else(|| panic!("no row of {id}: {table}"));
    let starts = ["SERVICE", "INSTANCE", "ADDRESS", "HEALTH", "SINCE", "VERSION"].map(|name| head.find(name).unwrap());
    let mut ends = starts.iter().skip(1).copied();
    starts.map(|start| {
        let end = ends.next().unwrap_or(line.len());
        line[start..end].trim().to_owned()
    })
}

async fn all_instances_are_shown_with_how_they_are_and_since_when(kind: Kind) {
    let before = SystemTime::now() - Duration::from_secs(1);
    let fleet = Fleet::start_at(kind, 1, 2, 1).await;
    let (options, version) = (fleet.place().options(), env!("CARGO_PKG_VERSION"));
    let mut expected: Vec<[String; 2]> = Vec::new();
    for (service, instances) in [
        ("facade-service", &fleet.facades),
        ("logging-service", &fleet.logging),
        ("messages-service", &fleet.messages),
    ] {
        let mut ids: Vec<String> = instances.iter().map(|instance| id(service, instance)).collect();
        ids.sort();
        expected.extend(ids.into_iter().map(|id| [service.to_owned(), id]));
    }
    block_in_place(|| {
        let entries = json(options);
        let table = shown(options, &[]);
        assert_eq!(
            table.lines().count(),
            1 + expected.len(),
            "no more than a table: {table}"
        );
        for ([service, id], entry) in expected.iter().zip(&entries) {
            let since = entry["since"].as_str().unwrap();
            let address = id.split('@').nth(1).unwrap();
            let whole = json!({
                "service": service, "instance": id, "address": address, "health": "passing", "reason": null,
                "since": since, "version": version,
            });
            assert_eq!(entry, &whole);
            let started = humantime::parse_rfc3339(since).unwrap();
            assert!(before <= started && started <= SystemTime::now(), "{since}");
            let [
                shown_service,
                shown_id,
                shown_address,
                health,
                shown_since,
                shown_version,
            ] = row(&table, id);
            assert_eq!([&shown_service, &shown_id, &shown_address], [service, id, address]);
            assert_eq!([health.as_str(), &shown_version], ["passing", version]);
            let start = format!("{} (", since.replace('T', " "));
            assert!(
                shown_since.starts_with(&start) && shown_since.ends_with(')'),
                "{shown_since}"
            );
        }
        assert_eq!(entries.len(), expected.len());
    });

    let killed = id("logging-service", &fleet.logging[0]);
    block_in_place(|| fleet.logging[0].kill());
    eventually_within(CHECKED, "who was killed is critical", async || {
        block_in_place(|| entry(options, &killed)).is_some_and(|entry| entry["health"] == "critical")
    })
    .await;
    block_in_place(|| {
        let entry = entry(options, &killed).unwrap();
        let reason = entry["reason"].as_str().unwrap();
        let expected = match kind {
            Kind::Servers => "connection refused",
            Kind::Folder => "its process has ended",
        };
        assert!(reason.contains(expected) && entry["since"].is_string(), "{entry}");
        let table = shown(options, &[]);
        assert_eq!(row(&table, &killed)[3], "critical");
        let said = format!("\n\n{killed} is critical: {reason}\n");
        match kind {
            Kind::Servers => assert!(table.ends_with(&said), "{table}"),
            // The time since its last heartbeat grows.
            Kind::Folder => {
                let (said, _) = said.split_once(" for ").unwrap();
                assert!(table.contains(said), "{table}");
            }
        }
        assert_eq!(row(&table, &id("logging-service", &fleet.logging[1]))[3], "passing");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_registered_again_keeps_its_start() {
    let fleet = Fleet::start(0, 1, 0).await;
    let (agent, id) = (fleet.agent(), id("logging-service", &fleet.logging[0]));
    let options = fleet.place().options();
    let first = block_in_place(|| entry(options, &id)).unwrap();
    // The start has whole seconds: what is registered later would have another one.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    block_in_place(|| agent.send(&format!("agent/service/deregister/{id}"), &Value::Null));
    fleet.logging[0].wait_for_line("registering it again", SOON);
    eventually("it is back, with its own start", async || {
        block_in_place(|| entry(options, &id)).is_some_and(|again| again == first)
    })
    .await;
}

#[test]
fn of_those_of_another_origin_is_shown_what_is_known() {
    let agent = Agent::start();
    let register = |body: Value| agent.send("agent/service/register", &body);
    for (id, address) in [("python 1", "10.0.0.1"), ("python 2", "::1")] {
        let check = json!({ "TTL": "1h", "Status": "passing" });
        register(json!({ "ID": id, "Name": "logging-service", "Address": address, "Port": 9000, "Check": check }));
    }
    register(json!({ "ID": "no port", "Name": "messages-service", "Meta": { "since": "last week" } }));
    register(json!({ "ID": "else", "Name": "another-service", "Port": 1 }));
    agent.send("agent/check/warn/service:python%202?note=getting%20slow", &Value::Null);
    let warns = || entry(at(&agent), "python 2").is_some_and(|entry| entry["health"] == "warning");
    assert!(wait::until_true(SOON, warns), "{}", shown(at(&agent), &[]));

    let table = shown(at(&agent), &[]);
    assert_eq!(
        row(&table, "python 1"),
        ["logging-service", "python 1", "10.0.0.1:9000", "passing", "-", "-"]
    );
    assert_eq!(
        row(&table, "python 2"),
        ["logging-service", "python 2", "[::1]:9000", "warning", "-", "-"]
    );
    assert_eq!(
        row(&table, "no port"),
        ["messages-service", "no port", "-", "passing", "-", "-"]
    );
    let notes = "\n\npython 2 is warning: getting slow\nfacade-service has no instance\n";
    assert!(table.ends_with(notes), "{table}");
    assert!(!table.contains("another-service"), "{table}");

    let expected = json!({
        "service": "messages-service", "instance": "no port", "address": null, "health": "passing", "reason": null,
        "since": null, "version": null,
    });
    assert_eq!(entry(at(&agent), "no port"), Some(expected));
}

#[test]
fn an_empty_registry_is_no_failure_and_says_what_to_do() {
    let agent = Agent::start();
    let said = shown(at(&agent), &[]);
    let place = format!("Nobody is registered in Consul at http://{}", agent.address);
    assert!(said.starts_with(&place) && said.contains("svc logging"), "{said}");
    assert_eq!(shown(at(&agent), &["--json"]), "[]\n");
}

#[test]
fn a_reader_who_has_read_enough_is_no_failure_and_a_full_disk_is_one() {
    let agent = Agent::start();
    for arguments in [&[][..], &["--json"]] {
        let mut command = svc(&[&["status", "--consul", &agent.address], arguments].concat());
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let Ended { code, err, .. } = run(command.stdout(writer));
        assert_eq!((code, err.as_str()), (Some(0), ""));

        let full = File::options().write(true).open("/dev/full").unwrap();
        let Ended { code, err, .. } = run(command.stdout(full));
        assert_eq!(code, Some(1), "{err}");
        assert!(err.starts_with("svc: cannot write to standard output\n"), "{err}");
    }
}

#[test]
fn without_consul_it_says_at_once_what_was_tried_what_answered_and_what_to_do() {
    let nowhere = format!("127.0.0.1:{}", Ports::free().http);
    let began = Instant::now();
    let Ended { code, out, err } = status(&nowhere, &["--json"]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    let lines: Vec<&str> = err.lines().collect();
    let [tried, answered, advice] = lines.as_slice() else {
        panic!("three lines: {err}");
    };
    assert!(
        tried.contains(&format!("Consul at http://{nowhere}")) && tried.contains("1 try"),
        "{err}"
    );
    assert!(answered.contains("Connection refused"), "{err}");
    assert!(
        advice.contains("scripts/engines.sh up") && advice.contains("--consul"),
        "{err}"
    );

    let began = Instant::now();
    let Ended { code, err, .. } = status(&nowhere, &["--wait", "2s"]);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(code == Some(1) && err.contains("tries"), "{err}");
}

#[test]
fn what_is_not_consul_or_says_nothing_is_named_within_its_deadline() {
    for (server, hint) in [
        (
            Fake::with_body("200 OK", "", "<html>hello</html>"),
            "which no Consul agent does",
        ),
        (
            Fake::with_body("200 OK", "", r#"[{"Node":{}}]"#),
            "which no Consul agent does",
        ),
        (
            Fake::with_body("403 Forbidden", "", "Permission denied"),
            "CONSUL_HTTP_TOKEN",
        ),
        (
            Fake::with_body("500 Internal Server Error", "", "No cluster leader"),
            "No cluster leader",
        ),
        (Fake::answering(""), "no answer within 5s"),
    ] {
        let Ended { code, out, err } = status(&server.address, &[]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains(hint) && err.contains(&server.address), "{hint}: {err}");
        assert_eq!(err.lines().count(), 3, "{err}");
    }
}
