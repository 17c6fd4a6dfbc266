//! Members that the cluster lists under an address that does not lead to them: told of as such, told from members that
//! died, and used where another address leads to them.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use svc::hazelcast::{Client, Config, Routing};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::sleep;

use crate::support::agent::{Agent, Ports};
use crate::support::engines::{Engines, Options};
use crate::support::fleet::{self, Fleet, SOON, ask};
use crate::support::member::{Identity, Member};
use crate::support::process::Svc;
use crate::support::proxy::Proxy;
use crate::support::wire::kind::MAP_SET;
use crate::{PATIENCE, config, connect, eventually, members};

fn to_all(addresses: &[SocketAddr]) -> Config {
    let mut config = config(addresses[0]);
    config.addresses = addresses.iter().map(ToString::to_string).collect();
    config.routing = Routing::AllMembers;
    // So that `ready` does not wait for a member that cannot be reached.
    config.connect_timeout = Duration::from_millis(200);
    config
}

/// Two members of a cluster that answer, the second one listed by both at `listed`.
async fn two_members(listed: impl FnOnce(&Member) -> SocketAddr) -> [Member; 2] {
    let first = Member::start(Identity::new()).await;
    let second = Member::start(first.identity().sibling()).await;
    let list = [(first.uuid, first.address), (second.uuid, listed(&first))];
    for member in [&first, &second] {
        member.on_call(|call| call.answer());
        member.publish(&list);
    }
    [first, second]
}

/// An address where everybody is refused.
async fn refusing() -> Proxy {
    let proxy = Proxy::start("127.0.0.1:1".parse().unwrap()).await;
    proxy.refuse(true);
    proxy
}

async fn set_20(client: &Client) {
    for number in 0..20 {
        client.map("m").set(number.to_string().as_str(), "v").await.unwrap();
    }
}

fn warns(client: &Client, parts: &[&str]) -> bool {
    let warning = client.warning().unwrap_or_default();
    parts.iter().all(|part| warning.contains(part))
}

#[tokio::test]
async fn a_wrong_address_costs_one_connection_and_is_tried_at_growing_intervals() {
    let nowhere = refusing().await;
    let address = nowhere.address();
    let [first, second] = two_members(|_| address).await;
    let mut settings = to_all(&[first.address]);
    settings.reconnect_min = Duration::from_millis(100);
    settings.reconnect_max = Duration::from_millis(400);
    let client = connect(settings).await;
    let told = [
        &*second.uuid.to_string(),
        &address.to_string(),
        "public address",
        "if it runs",
    ];
    eventually("it is told of", || warns(&client, &told)).await;
    set_20(&client).await;
    let before = nowhere.connections();
    sleep(Duration::from_secs(2)).await;
    let attempts = nowhere.connections() - before;
    assert!((2..20).contains(&attempts), "{attempts} attempts in 2 s");
    assert_eq!(
        first.accepted(),
        1,
        "where another member is connected nobody looks for it"
    );
    assert_eq!(first.received(MAP_SET).len(), 20);
    assert_eq!(client.problem(), None);
}

#[tokio::test]
async fn with_no_listed_address_right_the_configured_one_is_enough() {
    let nowhere = refusing().await;
    let [first, second] = two_members(|_| nowhere.address()).await;
    first.publish(&[(first.uuid, nowhere.address()), (second.uuid, nowhere.address())]);
    let client = connect(to_all(&[first.address])).await;
    eventually("it is told of", || warns(&client, &[&second.uuid.to_string()])).await;
    set_20(&client).await;
    assert_eq!((first.accepted(), first.received(MAP_SET).len()), (1, 20));
}

#[tokio::test]
async fn an_address_that_leads_to_another_member_is_told_of_until_it_is_put_right() {
    let [first, second] = two_members(|first| first.address).await;
    let client = connect(to_all(&[first.address])).await;
    let answers = format!("another member, {}, answers there", first.uuid);
    eventually("it is told who answers", || {
        warns(&client, &[&second.uuid.to_string(), &answers])
    })
    .await;
    set_20(&client).await;
    assert_eq!(first.open(), 1, "each attempt's connection is closed");
    first.publish(&[(first.uuid, first.address), (second.uuid, second.address)]);
    eventually("nothing is told of any more", || client.warning().is_none()).await;
    client.ping(second.uuid, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_member_with_a_wrong_address_is_used_where_a_configured_one_leads_to_it() {
    let nowhere = refusing().await;
    let [first, second] = two_members(|_| nowhere.address()).await;
    let client = connect(to_all(&[first.address, second.address])).await;
    client.ping(second.uuid, PATIENCE).await.unwrap();
    let (listed, used) = (nowhere.address().to_string(), second.address.to_string());
    let used = format!("it is used through {used}");
    assert!(
        warns(&client, &[&listed, &used, "public address"]),
        "{:?}",
        client.warning()
    );
    let attempts = nowhere.connections();
    set_20(&client).await;
    assert!(!second.received(MAP_SET).is_empty());
    assert_eq!(
        nowhere.connections(),
        attempts,
        "a member that is used is not looked for"
    );
    assert_eq!((first.accepted(), second.accepted()), (1, 1));
}

#[tokio::test]
async fn a_member_that_was_reached_and_died_is_not_blamed_on_its_address() {
    let first = Member::start(Identity::new()).await;
    let second = Member::start(first.identity().sibling()).await;
    let listed = [(first.uuid, first.address), (second.uuid, second.address)];
    first.publish(&listed);
    second.publish(&listed);
    let client = connect(to_all(&[first.address])).await;
    client.ping(second.uuid, PATIENCE).await.unwrap();
    let address = second.address;
    second.stop().await;
    // Whoever listens there now refuses it, so that it is known when it was tried.
    let refuses = Member::start_at(address, Identity::new()).await;
    eventually("it is tried again", || refuses.accepted() >= 3).await;
    assert_eq!(client.warning(), None);
}

/// A role on these members of its cluster, and no others.
fn start(role: &str, agent: &Agent, members: &str) -> Svc {
    let svc = Svc::start(
        &[role, "--port", "0", "--consul", &agent.address, "--hazelcast", members],
        &[],
    );
    svc.wait_healthy(SOON);
    svc
}

async fn engine(svc: &Svc, name: &str) -> Value {
    let answer = ask(svc, "GET", "/health", "", "").await;
    assert_eq!(answer.status, 200);
    answer.json()[name].clone()
}

async fn shows_warning(svc: &Svc, parts: &[&str]) {
    fleet::eventually("its health has the warning", async || {
        let mailbox = engine(svc, "mailbox").await;
        let warning = mailbox["warning"].as_str().unwrap_or_default();
        mailbox["reachable"] == true && parts.iter().all(|part| warning.contains(part))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_wrong_public_address_is_named_with_what_to_do_and_one_that_is_killed_is_not() {
    let _turn = members::TURN.lock().await;
    let options = Options {
        logging: 2,
        mq: 2,
        consul: false,
    };
    let wrong = format!("127.0.0.1:{}", Ports::free().http);
    let public = wrong.clone();
    let engines = spawn_blocking(move || Engines::start_with_public_address(&options, "mq-2", &public));
    let engines = engines.await.unwrap();
    let agent = block_in_place(|| {
        let agent = Agent::start();
        let populated = Fleet::start_populating(&agent.address, &engines, "addresses");
        assert!(populated.wait_exit(SOON).success(), "{}", populated.output());
        agent
    });

    let first = engines.mq.members[0].address;
    let client = connect(Config::new(engines.mq.name, [first.to_string()])).await;
    let map = client.map("addresses");
    map.set("k", "v").await.unwrap();
    assert_eq!(map.get("k").await.unwrap().unwrap().as_str().unwrap(), "v");
    let told = [&*wrong, "public address", "HZ_NETWORK_PUBLICADDRESS"];
    eventually("the client tells", || warns(&client, &told)).await;

    // One that knows a way to each member, and one that does not.
    let [one, all] = block_in_place(|| {
        [first.to_string(), engines.mq.addresses()].map(|members| start("messages", &agent, &members))
    });
    shows_warning(&one, &[&told[..], &["if it runs"]].concat()).await;
    let used = format!("it is used through {}", engines.mq.members[1].address);
    shows_warning(&all, &[&told[..], &[&used]].concat()).await;
    for svc in [&one, &all] {
        let line = block_in_place(|| svc.wait_for_line("public address", SOON));
        let is_whole =
            line.contains("WARN") && line.contains("cluster=mq") && line.contains(&format!("address={wrong:?}"));
        assert!(is_whole, "{line}");
        assert_eq!(svc.output().matches("public address").count(), 1, "said once");
    }

    let logging = block_in_place(|| start("logging", &agent, &engines.logging.addresses()));
    let survivor = Config::new(engines.logging.name, [engines.logging.members[0].address.to_string()]);
    let client = connect(survivor).await;
    assert_eq!(client.members().len(), 2);
    for member in client.members() {
        client.ping(member.uuid, PATIENCE).await.unwrap();
    }
    let connected = format!("address={}", engines.logging.members[1].address);
    block_in_place(|| logging.wait_for_line(&connected, SOON));
    block_in_place(|| engines.logging.members[1].kill());
    block_in_place(|| logging.wait_for_line("lost the connection to a Hazelcast member", SOON));
    fleet::eventually("the cluster lists it no more", async || {
        assert_eq!(client.warning(), None);
        assert_eq!(engine(&logging, "log_store").await["warning"], Value::Null);
        client.members().len() == 1
    })
    .await;
    let output = logging.output();
    assert!(!output.contains("public address"), "{output}");
}
