//! Settings that change while a fleet is under load: they take effect within 5 s, without a restart or a failed request.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::{Value, json};
use svc::engine::{LogStore, Mailbox};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::support::engines::Engines;
use crate::support::fleet::{Fleet, Load, SOON, ask, clients, end, eventually};
use crate::support::hold::Hold;
use crate::support::place::Kind;
use crate::support::ports::{log, mailbox};
use crate::support::process::Svc;

on_both_engines! {
    another_map_takes_effect_within_5_s_and_the_former_one_stays_as_it_is,
}

/// A change of a key takes effect within this.
const EFFECT: Duration = Duration::from_secs(5);

/// How long one facade hears nothing of Consul.
const HELD: Duration = Duration::from_secs(20);

/// The texts that were delivered there.
async fn delivered(mailbox: &dyn Mailbox) -> BTreeSet<String> {
    let pages: Vec<_> = mailbox.all().collect().await;
    let messages = pages.into_iter().flat_map(|page| page.unwrap().messages);
    messages.map(|delivered| delivered.message.text).collect()
}

/// The texts that are logged there.
async fn logged(log: &dyn LogStore) -> BTreeSet<String> {
    let pages: Vec<_> = log.all().collect().await;
    let messages = pages.into_iter().flat_map(|page| page.unwrap().messages);
    messages.map(|message| message.text).collect()
}

/// What `/health` says of the engine that this instance uses.
async fn engine_of(svc: &Svc) -> Value {
    let health = ask(svc, "GET", "/health", "", "").await;
    assert_eq!(health.status, 200);
    let health = health.json();
    let part = ["mailbox", "log_store"]
        .into_iter()
        .find(|part| health.get(part).is_some());
    health[part.expect("it has an engine")].clone()
}

/// Waits until all of these instances use what is called so.
async fn until_moved<'a>(instances: impl IntoIterator<Item = &'a Svc>, name: &str) {
    let end = Instant::now() + EFFECT;
    for svc in instances {
        loop {
            let engine = engine_of(svc).await;
            if engine["name"] == name && engine["next"].is_null() {
                break;
            }
            assert!(Instant::now() < end, "not within {EFFECT:?}: {engine}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What is not in `found`.
fn missing<'a>(texts: &'a [String], found: &BTreeSet<String>) -> Vec<&'a String> {
    texts.iter().filter(|text| !found.contains(*text)).collect()
}

/// What was posted after so many were acknowledged: of each client's later ones the first may have been under way before.
fn begun_after(posted: &[String], acknowledged: usize) -> Vec<String> {
    let mut clients = BTreeSet::new();
    let begun = posted[acknowledged..].iter().filter(|text| {
        let (client, _) = text.rsplit_once('-').unwrap();
        !clients.insert(client)
    });
    begun.cloned().collect()
}

async fn another_map_takes_effect_within_5_s_and_the_former_one_stays_as_it_is(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 2, 1).await;
    let load = Load::named("");
    let clients = clients(&load, &fleet.facades[0]);
    load.more(200).await;
    let before = load.acknowledged().await;
    let other = format!("{}-other", fleet.name);
    let settings = fleet.place().settings();
    settings.put("logging_mapping_name", &other).await.unwrap();
    until_moved(&fleet.logging, &other).await;
    let settled = load.acknowledged().await.len();
    load.more(500).await;
    let posted = end(&load, clients).await;

    let place = fleet.place();
    let (former, named) = (place.log(&fleet.name).await, place.log(&other).await);
    let (former, named) = (logged(&*former).await, logged(&*named).await);
    assert_eq!(missing(&before, &former), Vec::<&String>::new());
    assert_eq!(missing(&begun_after(&posted, settled), &named), Vec::<&String>::new());
    assert_eq!(
        missing(&posted, &former.union(&named).cloned().collect()),
        Vec::<&String>::new()
    );
    let [logs, _] = fleet.lists().await;
    assert_eq!(
        logs.into_iter().collect::<BTreeSet<_>>(),
        named,
        "the lists are those of the map that is named"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_queue_under_load_with_a_facade_that_does_not_hear_of_it_and_a_messages_instance_killed_loses_nothing()
{
    let fleet = Fleet::start(1, 2, 2).await;
    let late = late_facade(&fleet).await;
    let (loads, proxy) = ([Load::named("prompt-"), Load::named("late-")], late.proxy);
    let posting = [clients(&loads[0], &fleet.facades[0]), clients(&loads[1], &late.facade)];
    for load in &loads {
        load.more(200).await;
    }
    let other = format!("{}-other", fleet.name);
    proxy.hold();
    let held = Instant::now();
    fleet.agent().put("mq_name", other.as_bytes());
    until_moved(fleet.facades.iter().chain(&fleet.messages), &other).await;
    let settled = [loads[0].acknowledged().await.len(), loads[1].acknowledged().await.len()];
    loads[1].more(200).await;
    fleet.messages[0].signal(Signal::KILL);
    loads[1].more(200).await;
    tokio::time::sleep_until(held + HELD).await;
    assert_eq!(
        engine_of(&late.facade).await["name"],
        fleet.name.as_str(),
        "it has not heard of the change"
    );
    proxy.release();
    until_moved([&late.facade], &other).await;
    for load in &loads {
        load.more(200).await;
    }
    let [prompt, late] = posting;
    let posted = [end(&loads[0], prompt).await, end(&loads[1], late).await];

    let cluster = &Engines::shared().mq;
    let (former, named) = (mailbox(cluster, &fleet.name).await, mailbox(cluster, &other).await);
    eventually("nothing waits in either queue", async || {
        former.look().await.unwrap().items.is_empty() && named.look().await.unwrap().items.is_empty()
    })
    .await;
    let (in_former, in_named) = (delivered(&*former).await, delivered(&*named).await);
    let all: BTreeSet<String> = in_former.union(&in_named).cloned().collect();
    for (posted, settled) in posted.iter().zip(settled) {
        assert_eq!(missing(posted, &all), Vec::<&String>::new());
        // What was offered to the former queue after the change is delivered with the rest.
        assert_eq!(missing(&begun_after(posted, settled), &in_named), Vec::<&String>::new());
    }
    let [logs, shown] = fleet.lists().await;
    assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), in_named);
    assert_eq!(
        logs.into_iter().collect::<BTreeSet<_>>(),
        all,
        "each is logged once, and nothing else"
    );
}

/// A facade of this fleet whose way to Consul can be held up.
struct LateFacade {
    facade: Svc,
    proxy: Hold,
}

async fn late_facade(fleet: &Fleet) -> LateFacade {
    let proxy = Hold::start(fleet.agent().address.parse().unwrap()).await;
    let consul = proxy.address().to_string();
    let start = move || {
        let facade = Svc::start(&["facade", "--port", "0", "--consul", &consul], &[]);
        facade.wait_healthy(SOON);
        facade
    };
    LateFacade {
        facade: spawn_blocking(start).await.unwrap(),
        proxy,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_and_its_members_take_effect_together() {
    let fleet = Fleet::start(1, 2, 2).await;
    let load = Load::named("");
    let clients = clients(&load, &fleet.facades[0]);
    load.more(200).await;
    // Each moves to the other's cluster.
    let (queue, map) = (&Engines::shared().logging, &Engines::shared().mq);
    for (key, value) in [
        ("hz_mq_cluster_name", queue.name.to_owned()),
        ("hz_logging_cluster_name", map.name.to_owned()),
        ("hz_mq_members", queue.addresses()),
        ("hz_logging_members", map.addresses()),
    ] {
        fleet.agent().put(key, value.as_bytes());
    }
    let end_of_effect = Instant::now() + EFFECT;
    for (instances, cluster) in [(&fleet.facades, queue), (&fleet.messages, queue), (&fleet.logging, map)] {
        for svc in instances {
            while !engine_of(svc).await["engine"]
                .as_str()
                .unwrap()
                .contains(&format!("{:?}", cluster.name))
            {
                assert!(
                    Instant::now() < end_of_effect,
                    "not within {EFFECT:?}: {}",
                    engine_of(svc).await
                );
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    let settled = load.acknowledged().await.len();
    load.more(500).await;
    let posted = end(&load, clients).await;
    let (named, former) = (mailbox(queue, &fleet.name).await, mailbox(map, &fleet.name).await);
    eventually("nothing waits in either queue", async || {
        former.look().await.unwrap().items.is_empty() && named.look().await.unwrap().items.is_empty()
    })
    .await;
    let (in_former, in_named) = (delivered(&*former).await, delivered(&*named).await);
    assert_eq!(
        missing(&posted, &in_former.union(&in_named).cloned().collect()),
        Vec::<&String>::new()
    );
    assert_eq!(
        missing(&begun_after(&posted, settled), &in_named),
        Vec::<&String>::new()
    );
    let logs = logged(&*log(map, &fleet.name).await).await;
    assert_eq!(missing(&begun_after(&posted, settled), &logs), Vec::<&String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_value_is_refused_logged_and_counted_and_the_old_one_stays() {
    let fleet = Fleet::start(1, 1, 1).await;
    let load = Load::named("");
    let clients = clients(&load, &fleet.facades[0]);
    let bad: [(&str, &[u8]); 3] = [
        ("mq_name", b" "),
        ("hz_mq_members", b"nowhere"),
        ("hz_mq_cluster_name", b"\xff\xfe"),
    ];
    for (key, value) in bad {
        fleet.agent().put(key, value);
    }
    for svc in fleet.facades.iter().chain(&fleet.messages) {
        let end = Instant::now() + EFFECT;
        let settings = loop {
            let settings = engine_of(svc).await["settings"].clone();
            if settings["refused"] == 3 {
                break settings;
            }
            assert!(Instant::now() < end, "not within {EFFECT:?}: {settings}");
            sleep(Duration::from_millis(20)).await;
        };
        for (key, why) in [
            ("mq_name", "\" \" cannot be used: a name is needed, but it is empty"),
            ("hz_mq_members", "\"nowhere\" is no member: expected host:port"),
            ("hz_mq_cluster_name", "no text in UTF-8"),
        ] {
            let told = settings["not_in_force"][key].as_str().unwrap_or_default();
            assert!(told.contains(why), "{key}: {settings}");
            let line = svc.wait_for_line(&format!("key=\"{key}\""), SOON);
            assert!(line.contains("WARN") && line.contains("refused a setting"), "{line}");
        }
        assert_eq!(engine_of(svc).await["name"], fleet.name.as_str());
    }
    load.more(200).await;
    let posted = end(&load, clients).await;
    fleet.wait_lists(&posted).await;

    // A good one is taken after a bad one.
    let other = format!("{}-other", fleet.name);
    for (key, value) in [
        ("mq_name", other.clone()),
        ("hz_mq_members", Engines::shared().mq.addresses()),
        ("hz_mq_cluster_name", "mq".to_owned()),
    ] {
        fleet.agent().put(key, value.as_bytes());
    }
    until_moved(fleet.facades.iter().chain(&fleet.messages), &other).await;
    for svc in fleet.facades.iter().chain(&fleet.messages) {
        let settings = json!({ "refused": 3, "not_in_force": {} });
        assert_eq!(engine_of(svc).await["settings"], settings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_keeps_its_last_value_and_says_so() {
    let fleet = Fleet::start(1, 1, 1).await;
    let load = Load::named("");
    let clients = clients(&load, &fleet.facades[0]);
    for key in ["mq_name", "logging_mapping_name"] {
        fleet.agent().delete(key);
    }
    for (svc, key) in [
        (&fleet.facades[0], "mq_name"),
        (&fleet.messages[0], "mq_name"),
        (&fleet.logging[0], "logging_mapping_name"),
    ] {
        let line = svc.wait_for_line(&format!("key=\"{key}\""), SOON);
        assert!(
            line.contains("WARN") && line.contains("a setting was deleted"),
            "{line}"
        );
        eventually("it says so", async || {
            let engine = engine_of(svc).await;
            engine["settings"]["not_in_force"] == json!({ key: "the key was deleted; its last value is in force" })
        })
        .await;
        assert_eq!(engine_of(svc).await["name"], fleet.name.as_str());
    }
    load.more(200).await;
    let posted = end(&load, clients).await;
    fleet.wait_lists(&posted).await;

    // `populate-kv` brings it back, and a change of it counts.
    let (address, other) = (fleet.agent().address.clone(), format!("{}-other", fleet.name));
    let name = other.clone();
    spawn_blocking(move || Fleet::populate(&address, &name)).await.unwrap();
    until_moved(
        fleet.facades.iter().chain(&fleet.messages).chain(&fleet.logging),
        &other,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_cluster_that_is_named_cannot_be_reached_the_last_one_stays_in_use_and_health_says_why() {
    let fleet = Fleet::start(1, 1, 1).await;
    let load = Load::named("");
    let clients = clients(&load, &fleet.facades[0]);
    fleet.agent().put("hz_mq_cluster_name", b"elsewhere");
    fleet.agent().put("hz_logging_cluster_name", b"elsewhere");
    let all = || fleet.facades.iter().chain(&fleet.messages).chain(&fleet.logging);
    for svc in all() {
        let mut next = Value::Null;
        eventually("it says what it waits for", async || {
            next = engine_of(svc).await["next"].clone();
            next["reason"].is_string()
        })
        .await;
        assert!(next["engine"].as_str().unwrap().contains("\"elsewhere\""), "{next}");
        let line = svc.wait_for_line("waiting for Hazelcast cluster \"elsewhere\"", SOON);
        assert!(line.contains("WARN"), "{line}");
    }
    load.more(200).await;
    fleet.agent().put("hz_mq_cluster_name", b"mq");
    fleet.agent().put("hz_logging_cluster_name", b"logging");
    for svc in all() {
        eventually("it waits no longer", async || engine_of(svc).await["next"].is_null()).await;
    }
    load.more(200).await;
    let posted = end(&load, clients).await;
    fleet.wait_lists(&posted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_a_cluster_goes_on_when_the_settings_are_put_right() {
    let fleet = Fleet::start(1, 0, 0).await;
    fleet.agent().put("hz_mq_cluster_name", b"elsewhere");
    let consul = fleet.agent().address.clone();
    let starting = spawn_blocking(move || {
        let svc = Svc::start(&["messages", "--port", "0", "--consul", &consul], &[]);
        svc.wait_for_line("waiting for Hazelcast cluster \"elsewhere\"", SOON);
        svc
    });
    let starting = starting.await.unwrap();
    fleet.agent().put("hz_mq_cluster_name", b"mq");
    eventually("it has started", async || {
        ask(&starting, "GET", "/health", "", "").await.status == 200
    })
    .await;
    assert_eq!(engine_of(&starting).await["reachable"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_on_the_command_line_win_over_those_that_are_named_later() {
    let fleet = Fleet::start(0, 0, 1).await;
    let (consul, members) = (fleet.agent().address.clone(), Engines::shared().mq.addresses());
    let start = move || {
        let svc = Svc::start(
            &["messages", "--port", "0", "--consul", &consul, "--hazelcast", &members],
            &[],
        );
        svc.wait_healthy(SOON);
        svc
    };
    let given = spawn_blocking(start).await.unwrap();
    // Nobody listens there.
    fleet.agent().put("hz_mq_members", b"127.0.0.1:1");
    eventually("the other one waits for it", async || {
        engine_of(&fleet.messages[0]).await["next"].is_object()
    })
    .await;
    let other = format!("{}-other", fleet.name);
    fleet.agent().put("mq_name", other.as_bytes());
    until_moved([&given], &other).await;
    let engine = engine_of(&given).await;
    assert!(engine["engine"].as_str().unwrap().contains(&members_text()), "{engine}");
    assert_eq!(engine_of(&fleet.messages[0]).await["name"], fleet.name.as_str());
}

fn members_text() -> String {
    Engines::shared().mq.addresses().replace(',', ", ")
}
