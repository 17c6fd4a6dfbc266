//! Members that go and come back: which are used again, which are refused, and how often they are asked.

use std::net::SocketAddr;
use std::time::Duration;

use svc::hazelcast::{Client, Config, Kind, Notice, Routing};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::support::member::{Identity, Member};
use crate::support::proxy::{Cut, Fault, Proxy};
use crate::support::wire::kind::{AUTHENTICATION, CLUSTER_VIEW_LISTENER, MAP_SET, QUEUE_ITEM_LISTENER};
use crate::{LONG, PATIENCE, client_of, config, connect, eventually, proxy_before};

fn to_all(address: SocketAddr) -> Config {
    let mut config = config(address);
    config.routing = Routing::AllMembers;
    config
}

async fn set(client: &Client) {
    client.map("m").set("k", "v").await.unwrap();
}

async fn start_at(address: SocketAddr, identity: Identity) -> Member {
    let member = Member::start_at(address, identity).await;
    member.on_call(|call| call.answer());
    member
}

#[tokio::test]
async fn a_member_that_comes_back_at_its_address_is_used_again() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let cluster_id = client.cluster_id();
    let (identity, address) = (member.identity().sibling(), member.address);
    member.stop().await;
    eventually("the connection is lost", || !client.is_connected()).await;
    eventually("the problem is told", || {
        client
            .problem()
            .is_some_and(|problem| problem.contains(&address.to_string()))
    })
    .await;
    let back = start_at(address, identity).await;
    set(&client).await;
    assert_eq!(client.cluster_id(), cluster_id);
    assert_eq!(client.problem(), None);
    eventually("the member has its new id", || client.members()[0].uuid == back.uuid).await;
}

#[tokio::test]
async fn another_cluster_id_is_adopted_once_all_connections_are_gone() {
    let members = Member::start_cluster(2).await;
    let client = connect(to_all(members[0].address)).await;
    let [first, second] = <[Member; 2]>::try_from(members).ok().unwrap();
    let (old, address) = (first.identity().cluster_id, first.address);
    assert_eq!(client.cluster_id(), Some(old));
    first.stop().await;
    second.stop().await;
    eventually("both connections are lost", || !client.is_connected()).await;
    let fresh = Identity {
        partition_count: 13,
        ..Identity::new()
    };
    let _member = start_at(address, fresh.clone()).await;
    set(&client).await;
    assert_eq!(client.cluster_id(), Some(fresh.cluster_id));
    assert_eq!(client.partition_count(), 13);
    assert_eq!(client.members().len(), 1);
}

#[tokio::test]
async fn another_cluster_id_is_refused_while_one_connection_stands() {
    let members = Member::start_cluster(2).await;
    let client = connect(to_all(members[0].address)).await;
    let [stays, goes] = <[Member; 2]>::try_from(members).ok().unwrap();
    stays.on_call(|call| call.answer());
    let address = goes.address;
    goes.stop().await;
    let stranger = start_at(address, Identity::new()).await;
    eventually("the stranger is tried", || stranger.received(AUTHENTICATION).len() >= 2).await;
    for _ in 0..20 {
        set(&client).await;
    }
    assert_eq!(client.cluster_id(), Some(stays.identity().cluster_id));
    assert!(stranger.received(MAP_SET).is_empty());
    assert_eq!(stays.received(MAP_SET).len(), 20);
    assert!(stranger.open() <= 1, "each attempt's connection is closed");
}

#[tokio::test]
async fn another_partition_count_of_the_same_cluster_is_refused() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let (identity, address) = (member.identity().sibling(), member.address);
    member.stop().await;
    let odd = start_at(
        address,
        Identity {
            partition_count: 13,
            ..identity.clone()
        },
    )
    .await;
    eventually("it is refused, and why", || {
        client
            .problem()
            .is_some_and(|problem| problem.contains("13") && problem.contains("271"))
    })
    .await;
    assert!(!client.is_connected());
    let error = client
        .map("m")
        .with_timeout(Duration::from_millis(200))
        .set("k", "v")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut { outcome_unknown: false });
    assert!(odd.received(MAP_SET).is_empty());
    odd.stop().await;
    let _right = start_at(address, identity).await;
    set(&client).await;
}

#[tokio::test]
async fn a_wrong_cluster_name_is_named() {
    let member = Member::start(Identity::new()).await;
    let mut settings = config(member.address);
    settings.cluster_name = "prod".into();
    let error = Client::connect(settings, Duration::from_millis(500)).await.unwrap_err();
    assert!(error.is_timeout());
    let text = format!("{error:#}");
    assert!(
        text.contains("\"prod\"") && text.contains(&member.address.to_string()),
        "{text}"
    );
    assert!(text.contains("name"), "{text}");
    assert!(member.received(MAP_SET).is_empty());
}

#[tokio::test]
async fn the_next_address_is_tried_where_one_does_not_answer() {
    let gone = Member::start(Identity::new()).await;
    let dead = gone.address;
    gone.stop().await;
    let foreign = Member::start(Identity {
        cluster_name: "prod".into(),
        ..Identity::new()
    })
    .await;
    let member = Member::start(Identity::new()).await;
    member.on_call(|call| call.answer());
    let mut settings = config(member.address);
    settings.addresses = [dead, foreign.address, member.address]
        .iter()
        .map(ToString::to_string)
        .collect();
    let client = connect(settings).await;
    set(&client).await;
    assert_eq!(member.received(MAP_SET).len(), 1);
}

/// Longest and shortest waits between attempts in the tests that count these: 100 ms doubled up to 400 ms, plus jitter.
fn counted(mut config: Config) -> Config {
    config.reconnect_min = Duration::from_millis(100);
    config.reconnect_max = Duration::from_millis(400);
    config
}

/// Attempts that fit into two seconds of those waits, generously.
const ATTEMPTS: usize = 20;

#[tokio::test]
async fn a_member_that_refuses_connections_is_asked_at_growing_intervals() {
    let member = Member::start(Identity::new()).await;
    let proxy = Proxy::start(member.address).await;
    proxy.refuse(true);
    let client = Client::start(counted(config(proxy.address()))).unwrap();
    sleep(Duration::from_secs(2)).await;
    let attempts = proxy.connections();
    assert!((3..ATTEMPTS).contains(&attempts), "{attempts} attempts in 2 s");
    drop(client);
}

#[tokio::test]
async fn a_member_that_ends_each_connection_at_once_is_asked_at_growing_intervals() {
    let member = Member::start(Identity::new()).await;
    let proxy = proxy_before(&member).await;
    for _ in 0..10_000 {
        proxy.arm(CLUSTER_VIEW_LISTENER, Fault::BeforeRequest(Cut::Rst));
    }
    let client = Client::start(counted(config(proxy.address()))).unwrap();
    sleep(Duration::from_secs(2)).await;
    let attempts = proxy.connections();
    assert!((3..ATTEMPTS).contains(&attempts), "{attempts} attempts in 2 s");
    drop(client);
}

#[tokio::test]
async fn one_of_two_members_that_ends_each_connection_at_once_is_asked_at_growing_intervals() {
    let member = Member::start(Identity::new()).await;
    let other = Member::start(member.identity().sibling()).await;
    let listed = [(member.uuid, member.address), (other.uuid, other.address)];
    member.publish(&listed);
    other.publish(&listed);
    let client = connect(counted(to_all(member.address))).await;
    let before = other.accepted();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        other.end_all(Cut::Rst);
        sleep(Duration::from_millis(1)).await;
    }
    let attempts = other.accepted() - before;
    assert!((2..ATTEMPTS).contains(&attempts), "{attempts} attempts in 2 s");
    drop(client);
}

#[tokio::test]
async fn a_member_that_does_not_answer_the_handshake_is_left_within_the_connect_timeout() {
    let member = Member::start(Identity::new()).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = config(member.address);
    settings.addresses.insert(0, silent.local_addr().unwrap().to_string());
    settings.connect_timeout = Duration::from_millis(200);
    let began = Instant::now();
    let client = connect(settings).await;
    assert!(client.is_connected());
    assert!(began.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_listener_registers_again_and_says_so() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let mut listener = client.queue("q").item_listener();
    for round in 0..3 {
        let registration = member.next(QUEUE_ITEM_LISTENER).await;
        registration.answer();
        assert_eq!(listener.next().await, Some(Notice::Registered), "round {round}");
        registration.end(Cut::Fin);
    }
}

#[tokio::test]
async fn a_member_that_joins_is_connected_and_one_that_leaves_is_not() {
    let member = Member::start(Identity::new()).await;
    let client = connect(to_all(member.address)).await;
    let joins = Member::start(member.identity().sibling()).await;
    let both = [(member.uuid, member.address), (joins.uuid, joins.address)];
    joins.publish(&both);
    member.publish(&both);
    eventually("it is listed", || client.members().len() == 2).await;
    client.ping(joins.uuid, PATIENCE).await.unwrap();
    member.publish(&both[..1]);
    eventually("the connection is closed", || joins.open() == 0).await;
    assert_eq!(client.members().len(), 1);
    let attempts = joins.accepted();
    client.ping(member.uuid, PATIENCE).await.unwrap();
    assert_eq!(joins.accepted(), attempts);
}

#[tokio::test]
async fn another_member_is_asked_for_the_views_when_the_first_is_lost() {
    let members = Member::start_cluster(2).await;
    let client = connect(to_all(members[0].address)).await;
    let asked = |member: &Member| member.received(CLUSTER_VIEW_LISTENER).len();
    eventually("one is asked", || asked(&members[0]) + asked(&members[1]) == 1).await;
    let [first, second] = <[Member; 2]>::try_from(members).ok().unwrap();
    let (dies, stays) = if asked(&first) == 1 {
        (first, second)
    } else {
        (second, first)
    };
    let gone = dies.uuid;
    dies.stop().await;
    eventually("the other is asked", || asked(&stays) == 1).await;
    // Versions of this sender may be lower than those of the one before.
    stays.publish(&[(stays.uuid, stays.address)]);
    eventually("its list is taken", || client.members().len() == 1).await;
    assert_eq!(client.ping(gone, LONG).await.unwrap_err().kind(), Kind::MemberLeft);
    client.ping(stays.uuid, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_list_that_names_a_member_nobody_can_reach_keeps_nobody_from_the_others() {
    let member = Member::start(Identity::new()).await;
    member.on_call(|call| call.answer());
    let gone = Member::start(member.identity().sibling()).await;
    let listed = [(member.uuid, member.address), (gone.uuid, gone.address)];
    gone.stop().await;
    member.publish(&listed);
    let client = connect(to_all(member.address)).await;
    for _ in 0..20 {
        set(&client).await;
    }
    assert_eq!(member.received(MAP_SET).len(), 20);
    assert_eq!(
        client.ping(Uuid::new_v4(), LONG).await.unwrap_err().kind(),
        Kind::MemberLeft
    );
}
