//! Silence: who is pinged, who is given up, and when the calls on a dead connection end.

use std::time::Duration;

use svc::hazelcast::{Config, Kind};
use tokio::time::{Instant, sleep};

use crate::support::member::{Identity, Member};
use crate::support::proxy::Flow;
use crate::support::wire::kind::{MAP_GET, MAP_SET, PING};
use crate::{LONG, PATIENCE, config, connect, eventually, proxy_before};

const INTERVAL: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_millis(600);

fn beating(mut config: Config) -> Config {
    config.heartbeat_interval = INTERVAL;
    config.heartbeat_timeout = TIMEOUT;
    config
}

#[tokio::test]
async fn a_silent_connection_is_pinged_and_closed_and_its_calls_fail_then() {
    let member = Member::start(Identity::new()).await;
    member.answer_pings(false);
    let client = connect(beating(config(member.address))).await;
    let began = Instant::now();
    let error = client.map("m").with_timeout(LONG).set("k", "v").await.unwrap_err();
    assert_eq!(error.kind(), Kind::OutcomeUnknown, "{error}");
    assert!(error.to_string().contains("silent for 600 ms"), "{error}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert!(!member.received(PING).is_empty());
}

#[tokio::test]
async fn a_read_on_a_connection_that_fell_silent_is_answered_over_the_next() {
    let member = Member::start(Identity::new()).await;
    member.answer_pings(false);
    let client = connect(beating(config(member.address))).await;
    let map = client.map("m").with_timeout(LONG);
    let get = tokio::spawn(async move { map.get("k").await });
    let first = member.next(MAP_GET).await;
    let second = member.next(MAP_GET).await;
    assert_ne!(first.connection.number, second.connection.number);
    second.answer();
    get.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_member_that_answers_pings_stays_however_long_a_call_takes() {
    let member = Member::start(Identity::new()).await;
    let client = connect(beating(config(member.address))).await;
    let map = client.map("m").with_timeout(LONG);
    let set = tokio::spawn(async move { map.set("k", "v").await });
    let call = member.next(MAP_SET).await;
    let began = Instant::now();
    eventually("some time-outs pass", || began.elapsed() > 3 * TIMEOUT).await;
    assert!(
        member.received(PING).len() >= 3,
        "{} pings",
        member.received(PING).len()
    );
    assert!(!set.is_finished());
    call.answer();
    set.await.unwrap().unwrap();
    assert_eq!(member.accepted(), 1);
}

#[tokio::test]
async fn a_connection_in_use_is_not_pinged() {
    let member = Member::start(Identity::new()).await;
    member.on_call(|call| call.answer());
    let mut settings = config(member.address);
    settings.heartbeat_interval = Duration::from_secs(1);
    let client = connect(settings).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        client.map("m").set("k", "v").await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    assert!(
        member.received(PING).is_empty(),
        "{} pings",
        member.received(PING).len()
    );
}

#[tokio::test]
async fn a_pulled_cable_is_noticed_and_a_mended_one_used_again() {
    let member = Member::start(Identity::new()).await;
    member.on_call(|call| call.answer());
    let proxy = proxy_before(&member).await;
    let client = connect(beating(config(proxy.address()))).await;
    client.map("m").set("k", "v").await.unwrap();
    proxy.set_flow(Flow::Swallow);
    eventually("the connection is given up", || !client.is_connected()).await;
    proxy.set_flow(Flow::Pass);
    client.map("m").set("k", "v").await.unwrap();
    assert_eq!(proxy.requests(MAP_SET), 2);
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_given_up_too() {
    let member = Member::start(Identity::new()).await;
    let proxy = proxy_before(&member).await;
    let client = connect(beating(config(proxy.address()))).await;
    proxy.set_flow(Flow::Stall);
    let large = "x".repeat(32 << 20);
    let began = Instant::now();
    let error = client
        .map("m")
        .with_timeout(LONG)
        .set("k", large.as_str())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::OutcomeUnknown, "{error}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}
