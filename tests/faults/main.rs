//! What the Hazelcast client does when the network or the members fail: the promises of `hazelcast::invocation` and
//! `hazelcast::supervisor`, each broken on purpose at exactly the moment that it is about.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "what only tests call may end the test"
)]

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod away;
mod backlog;
mod backups;
mod deliveries;
mod engines_network;
mod heartbeat;
mod hostile;
mod limits;
mod members;
mod network;
mod reconnect;
mod repair;
mod retry;
mod roles_network;
mod start;

use std::net::SocketAddr;
use std::time::Duration;

use support::member::Member;
use support::proxy::Proxy;
use svc::hazelcast::{Client, Config, Routing};
use tokio::time::{Instant, sleep};

/// How long what must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

/// For calls that a test expects to end for another reason than this.
const LONG: Duration = Duration::from_secs(60);

/// Settings for a scripted cluster: one connection, no heartbeat that would get in the way, quick to come back.
fn config(address: SocketAddr) -> Config {
    let mut config = Config::new("dev", [address.to_string()]);
    config.routing = Routing::SingleMember;
    config.heartbeat_interval = LONG;
    config.heartbeat_timeout = 2 * LONG;
    config.reconnect_min = Duration::from_millis(10);
    config.reconnect_max = Duration::from_millis(100);
    config.invocation_timeout = PATIENCE;
    config
}

async fn connect(config: Config) -> Client {
    Client::connect(config, PATIENCE).await.unwrap()
}

/// A client of one scripted member.
async fn client_of(member: &Member) -> Client {
    connect(config(member.address)).await
}

/// A proxy before a member, which names it as its own address: clients know no way around.
async fn proxy_before(member: &Member) -> Proxy {
    let proxy = Proxy::start(member.address).await;
    member.publish(&[(member.uuid, proxy.address())]);
    proxy
}

/// Waits until the condition holds.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it did not come about that {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A String as it is stored: hash, type id, length, text.
fn string_data(text: &str) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 0];
    data.extend((-11_i32).to_be_bytes());
    data.extend(i32::try_from(text.len()).unwrap().to_be_bytes());
    data.extend(text.as_bytes());
    data
}
