//! A whole cluster dies and comes back empty: its list is rebuilt from the other one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::sleep;

use crate::members;
use crate::support::engines::{Cluster, Engines, Options};
use crate::support::fleet::{self, Fleet, Load, ask};
use crate::support::process::Svc;

/// How long a list may take to be whole again. What was posted just before the death has to be 30 s old.
const REBUILT: Duration = Duration::from_secs(120);

/// Real engines, of which a test kills what it likes, and a fleet on them.
async fn fleet_on(logging: usize, mq: usize) -> (Engines, Fleet) {
    let options = Options {
        logging,
        mq,
        consul: false,
    };
    let engines = spawn_blocking(move || Engines::start(&options)).await.unwrap();
    let fleet = Fleet::start_on(fleet::members(&engines), 1, 2, 2).await;
    (engines, fleet)
}

/// Posts some hundred texts that begin with `prefix`.
async fn post(fleet: &Fleet, prefix: &'static str) -> Vec<String> {
    let load = Load::named(prefix);
    let clients = fleet::clients(&load, &fleet.facades[0]);
    load.more(300).await;
    fleet::end(&load, clients).await
}

/// Kills all members, and starts them again.
fn kill_whole(cluster: &Cluster) {
    block_in_place(|| {
        for member in &cluster.members {
            member.kill();
        }
        for member in &cluster.members {
            member.start();
        }
    });
}

/// Waits until reads and posts succeed: who delivers may reach a cluster before the facade does, which posts need.
async fn until_it_serves_again(facade: &Svc) {
    fleet::eventually("it serves again", async || {
        let health = ask(facade, "GET", "/health", "", "").await.json();
        health["mailbox"]["reachable"] == true && ask(facade, "GET", "/messages", "", "").await.status == 200
    })
    .await;
}

/// The list at `path`: identifier → text. `None` while it cannot be had. No identifier is there twice.
async fn list(svc: &Svc, path: &str) -> Option<BTreeMap<String, String>> {
    let answer = ask(svc, "GET", path, "", "").await;
    if answer.status != 200 {
        return None;
    }
    let mut list = BTreeMap::new();
    for entry in answer.json().as_array().unwrap() {
        let field = |name: &str| entry[name].as_str().unwrap().to_owned();
        let before = list.insert(field("identifier"), field("text"));
        assert_eq!(before, None, "an identifier is there twice: {entry}");
    }
    Some(list)
}

/// Waits until the list holds exactly these texts.
async fn until_holds(svc: &Svc, path: &str, texts: &[String]) {
    let (mut expected, begun) = (texts.to_vec(), Instant::now());
    expected.sort();
    loop {
        let held = list(svc, path).await.unwrap_or_default();
        let mut held: Vec<String> = held.into_values().collect();
        held.sort();
        if held == expected {
            println!("{path}: whole after {:?}", begun.elapsed());
            return;
        }
        assert!(
            begun.elapsed() < REBUILT,
            "{path} of {}: {} instead of {}",
            svc.address(),
            held.len(),
            expected.len()
        );
        sleep(Duration::from_millis(250)).await;
    }
}

/// Waits until each of these instances knows that nothing is missing any more. How many they have put back.
async fn until_complete(instances: &[Svc]) -> u64 {
    let (mut put_back, begun) = (0, Instant::now());
    for svc in instances {
        loop {
            let health: Value = ask(svc, "GET", "/health", "", "").await.json();
            let repair = &health["repair"];
            if repair["state"] == "complete" {
                put_back += repair["put_back"].as_u64().unwrap();
                break;
            }
            assert!(begun.elapsed() < REBUILT, "{repair}");
            sleep(Duration::from_millis(250)).await;
        }
    }
    put_back
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_mq_member_dies_the_delivered_messages_are_rebuilt_from_the_log() {
    let _turn = members::TURN.lock().await;
    let (engines, fleet) = fleet_on(1, 2).await;
    let mut texts = post(&fleet, "before-").await;
    until_holds(&fleet.messages[0], "/messages?full=true", &texts).await;
    until_complete(&fleet.messages).await;

    kill_whole(&engines.mq);
    until_it_serves_again(&fleet.facades[0]).await;
    let lost = texts.len() as u64;
    // While it is rebuilt.
    texts.extend(post(&fleet, "after-").await);
    until_holds(&fleet.messages[1], "/messages?full=true", &texts).await;
    let put_back = until_complete(&fleet.messages).await;
    assert_eq!(put_back, lost, "what was lost, once, and nothing else");
    until_holds(&fleet.messages[0], "/messages?full=true", &texts).await;
    until_holds(&fleet.logging[0], "/logs?full=true", &texts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_more_members_die_than_there_are_backups_what_they_alone_had_is_put_back() {
    let _turn = members::TURN.lock().await;
    let (engines, fleet) = fleet_on(1, 3).await;
    let mut texts = post(&fleet, "before-").await;
    until_holds(&fleet.messages[0], "/messages?full=true", &texts).await;
    until_complete(&fleet.messages).await;
    block_in_place(|| {
        engines.mq.wait_safe(REBUILT);
        let [first, second] = [0, 1].map(|n| &engines.mq.members[n]);
        // Nothing is moved from one to the other in between.
        first.pause();
        second.kill();
        first.kill();
    });
    until_it_serves_again(&fleet.facades[0]).await;
    let lost_most = texts.len() as u64;
    texts.extend(post(&fleet, "after-").await);
    until_holds(&fleet.messages[1], "/messages?full=true", &texts).await;
    // About a third of them: what each partition has is on two of three members.
    let put_back = until_complete(&fleet.messages).await;
    assert!((1..=lost_most).contains(&put_back), "{put_back}");
    until_holds(&fleet.messages[0], "/messages?full=true", &texts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_logging_member_dies_the_log_is_rebuilt_without_what_was_cleared() {
    let _turn = members::TURN.lock().await;
    let (engines, fleet) = fleet_on(2, 1).await;
    let mut texts = post(&fleet, "cleared-").await;
    until_complete(&fleet.logging).await;
    let cleared = ask(&fleet.logging[0], "DELETE", "/logs", "", "").await;
    assert_eq!(cleared.status, 200);
    let kept = post(&fleet, "kept-").await;
    texts.extend(kept.iter().cloned());
    until_holds(&fleet.messages[0], "/messages?full=true", &texts).await;

    kill_whole(&engines.logging);
    until_holds(&fleet.logging[1], "/logs?full=true", &kept).await;
    let put_back = until_complete(&fleet.logging).await;
    assert_eq!(put_back, kept.len() as u64, "what was lost, once, and nothing else");
    until_holds(&fleet.logging[0], "/logs?full=true", &kept).await;
    until_holds(&fleet.messages[0], "/messages?full=true", &texts).await;
}
