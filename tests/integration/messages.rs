//! `svc messages` as processes, on a real Consul agent and a real Hazelcast cluster, beside the official Python client.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use svc::engine::Batch;
use svc::message::Message;

use crate::support::agent::Ports;
use crate::support::messages::{SOON, System, batch, get, id, message, texts, until_empty, until_shown};
use crate::support::place::Kind;
use crate::support::process::Svc;

on_both_engines! {
    one_of_two_is_killed_while_batches_flow_and_all_are_delivered,
    a_restart_shows_everything_again_and_delivers_what_was_put_in_meanwhile,
}

/// What was on its way is delivered within 3 s; the rest is for a busy machine.
const DELIVERED_WITHIN: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_python_and_of_ours_are_delivered_once_and_every_instance_shows_all() {
    let system = System::start().await;
    let pair = system.pair().await;
    let batches: Vec<Batch> = (0..70).map(|n| batch(&format!("b{n}"), 1 + n % 3)).collect();
    let (ours, theirs) = batches.split_at(35);
    let singles: Vec<Message> = (0..30).map(|n| message(&format!("s{n}"))).collect();

    let as_json = |batch: &Batch| {
        json!([
            "json",
            json!({"batch": batch.id, "messages": batch.messages}).to_string()
        ])
    };
    let mut items: Vec<Value> = theirs.iter().map(as_json).collect();
    let kinds = ["json", "plain"].iter().cycle();
    items.extend(
        singles
            .iter()
            .zip(kinds)
            .map(|(single, kind)| json!([kind, json!(single).to_string()])),
    );
    // Whoever offers and does not hear of the outcome offers again.
    let again = items.iter().step_by(7).cloned().collect::<Vec<_>>();
    items.extend(again);
    let offers = join_all(ours.iter().chain(ours).map(|batch| system.offer(batch)));
    tokio::join!(offers, system.python_offers(&items));

    let expected = texts(batches.iter().flat_map(|batch| &batch.messages).chain(&singles));
    for svc in &pair {
        let by = until_shown(svc, &expected, SOON).await;
        assert_eq!(by, pair.iter().map(id).collect(), "both have a share");
        let plain = get(svc, "/messages").await;
        let plain: BTreeSet<String> = serde_json::from_slice(&plain.body).unwrap();
        assert_eq!(plain, expected.values().cloned().collect());
    }
    until_empty(&system).await;
    let read = system.python_reads().await;
    let keys: BTreeSet<&String> = read["delivered"].as_object().unwrap().keys().collect();
    let ids = batches.iter().map(|batch| &batch.id);
    assert_eq!(
        keys,
        ids.chain(singles.iter().map(|single| &single.identifier)).collect()
    );
    assert_eq!(read["rejected"], json!({}));
}

async fn one_of_two_is_killed_while_batches_flow_and_all_are_delivered(kind: Kind) {
    let system = System::start_at(kind).await;
    let [killed, other] = system.pair().await;
    let mut offered = Vec::new();
    for n in 0..300 {
        let batch = batch(&format!("b{n}"), 2);
        system.offer(&batch).await;
        offered.extend(batch.messages);
        if n == 150 {
            killed.signal(Signal::KILL);
        }
    }
    let by = until_shown(&other, &texts(&offered), DELIVERED_WITHIN).await;
    assert_eq!(by, BTreeSet::from([id(&killed), id(&other)]), "both have a share");
    until_empty(&system).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_set_aside_with_the_reason_and_the_rest_flows() {
    let system = System::start().await;
    let svc = system.instance().await;
    let good: Vec<Message> = (0..10).map(|n| message(&format!("m{n}"))).collect();
    let poison = [
        json!(["plain", 5]),
        json!(["plain", "no JSON"]),
        json!(["pickled", 1]),
        json!(["json", r#"{"text":"of nobody"}"#]),
        json!(["json", r#"{"batch":"b","messages":[]}"#]),
    ];
    let good_items = good.iter().map(|message| json!(["json", json!(message).to_string()]));
    let items: Vec<Value> = poison
        .iter()
        .cloned()
        .chain(good_items)
        .chain(poison.iter().cloned())
        .collect();
    system.python_offers(&items).await;

    until_shown(&svc, &texts(&good), SOON).await;
    until_empty(&system).await;
    let read = system.python_reads().await;
    let rejected = read["rejected"].as_object().unwrap();
    let reasons: BTreeSet<&str> = rejected
        .values()
        .map(|entry| entry["reason"].as_str().unwrap())
        .collect();
    assert_eq!((rejected.len(), reasons.len()), (5, 5), "{rejected:?}");
    assert!(
        rejected.values().any(|entry| entry["text"] == "no JSON"),
        "{rejected:?}"
    );
    let health = get(&svc, "/health").await;
    assert_eq!(health.status, 200);
    let deliveries = &health.json()["deliveries"];
    assert!(deliveries["rejected_items"].as_u64() >= Some(5), "{deliveries}");
    svc.wait_for_line("set aside an item that cannot be read", SOON);
}

async fn a_restart_shows_everything_again_and_delivers_what_was_put_in_meanwhile(kind: Kind) {
    let system = System::start_at(kind).await;
    let (first, second) = (batch("first", 3), batch("second", 3));
    let svc = system.instance().await;
    system.offer(&first).await;
    until_shown(&svc, &texts(&first.messages), SOON).await;
    svc.signal(Signal::TERM);
    tokio::task::block_in_place(|| assert!(svc.wait_exit(SOON).success()));

    system.offer(&second).await;
    let svc = system.instance().await;
    let by = until_shown(&svc, &texts(first.messages.iter().chain(&second.messages)), SOON).await;
    assert!(by.contains(&id(&svc)), "{by:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_cluster_the_role_says_what_it_waits_for_and_gives_up() {
    let system = System::start().await;
    let nowhere = format!("127.0.0.1:{}", Ports::free().http);
    let arguments = ["messages", "--port", "0", "--wait", "2s", "--hazelcast", &nowhere];
    let svc = Svc::start(
        &[&arguments[..], &["--consul", &system.place.agent().address]].concat(),
        &[],
    );
    assert_eq!(get(&svc, "/messages").await.status, 503);
    tokio::task::block_in_place(|| assert_eq!(svc.wait_exit(SOON).code(), Some(1)));
    let output = svc.output();
    for part in [
        &format!("gave up waiting for Hazelcast cluster \"mq\" at {nowhere}")[..],
        "what to do: start it with `scripts/engines.sh up`, or name other members with --hazelcast",
    ] {
        assert!(output.contains(part), "{part:?} is not in\n{output}");
    }
}
