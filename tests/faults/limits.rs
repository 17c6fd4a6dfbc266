//! How long what a user waits for may take, and that it is over then.

use std::time::Duration;

use svc::hazelcast::Client;
use tokio::time::{Instant, sleep};

use crate::support::member::{Identity, Member};
use crate::{client_of, config};

#[tokio::test]
async fn the_deadline_of_a_call_of_many_requests_holds_for_them_all() {
    let member = Member::start(Identity::new()).await;
    let (identity, address) = (member.identity().clone(), member.address);
    member.stop().await;
    let client = Client::start(config(address)).unwrap();
    let limit = Duration::from_secs(3);
    let map = client.map("m").with_timeout(limit);
    let began = Instant::now();
    let storing = map.put_all([("k", "v"), ("l", "w")]);
    let back = async {
        sleep(limit - Duration::from_millis(500)).await;
        let member = Member::start_at(address, identity).await;
        member.on_call(drop);
        member
    };
    let (stored, _member) = tokio::join!(storing, back);
    assert!(stored.unwrap_err().is_timeout());
    assert!(
        began.elapsed() < 2 * limit - Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_wait_without_end_is_no_error() {
    let member = Member::start(Identity::new()).await;
    member.on_call(|call| call.answer());
    let client = client_of(&member).await;
    client.ready(Duration::MAX).await.unwrap();
    client.ping(member.uuid, Duration::MAX).await.unwrap();
    client.map("m").with_timeout(Duration::MAX).set("k", "v").await.unwrap();
    assert_eq!(client.queue("q").poll(Duration::MAX).await.unwrap(), None);
}

#[tokio::test]
async fn whoever_shuts_a_client_down_finds_it_shut_down() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let shut_down = async || {
        client.shutdown().await;
        assert!(!client.is_connected());
    };
    tokio::join!(shut_down(), shut_down());
    shut_down().await;
}
