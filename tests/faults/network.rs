//! The network's faults before a real member: what became of the operation, beside what the client says of it.

use std::time::Duration;

use svc::hazelcast::{Client, Config, Data, Kind, Map, Queue, Routing, in_partition};
use tokio::time::Instant;
use uuid::Uuid;

use crate::members::single_member;
use crate::support::proxy::{Cut, Fault, Flow, Proxy};
use crate::support::wire::kind::{MAP_GET, MAP_PUT_ALL, MAP_SET, QUEUE_OFFER, QUEUE_POLL};
use crate::{PATIENCE, connect, eventually};

/// After these the member has not got the whole request.
const NOT_APPLIED: [Fault; 3] = [
    Fault::BeforeRequest(Cut::Rst),
    Fault::BeforeRequest(Cut::Fin),
    Fault::InRequest(25, Cut::Rst),
];

/// After these it has done what was asked.
const APPLIED: [Fault; 4] = [
    Fault::BeforeAnswer(Cut::Rst),
    Fault::BeforeAnswer(Cut::Fin),
    Fault::InAnswer(7, Cut::Rst),
    Fault::InAnswer(7, Cut::Fin),
];

/// A client that reaches a real member through a proxy alone.
async fn through_proxy(redo: bool) -> (Proxy, Client) {
    let (name, address) = single_member().await;
    let proxy = Proxy::start(address).await;
    let mut config = Config::new(name, [proxy.address().to_string()]);
    config.routing = Routing::SingleMember;
    config.redo_operations = redo;
    config.invocation_timeout = PATIENCE;
    config.reconnect_max = Duration::from_millis(100);
    let client = connect(config).await;
    (proxy, client)
}

fn map(client: &Client) -> Map {
    client.map(format!("faults-{}", Uuid::new_v4()))
}

fn queue(client: &Client) -> Queue {
    client.queue(format!("faults-{}", Uuid::new_v4()))
}

fn text(value: Option<Data>) -> Option<String> {
    value.map(|value| value.as_str().unwrap().to_owned())
}

#[tokio::test]
async fn rule_4_a_set_whose_outcome_is_unknown_was_applied_or_not() {
    let (proxy, client) = through_proxy(false).await;
    let map = map(&client);
    for fault in NOT_APPLIED {
        proxy.arm(MAP_SET, fault);
        assert_eq!(
            map.set("k", "v").await.unwrap_err().kind(),
            Kind::OutcomeUnknown,
            "{fault:?}"
        );
        assert_eq!(map.get("k").await.unwrap(), None, "{fault:?}");
    }
    for fault in APPLIED {
        proxy.arm(MAP_SET, fault);
        let value = format!("{fault:?}");
        assert_eq!(
            map.set("k", value.as_str()).await.unwrap_err().kind(),
            Kind::OutcomeUnknown,
            "{fault:?}"
        );
        assert_eq!(text(map.get("k").await.unwrap()), Some(value));
    }
    assert_eq!(proxy.requests(MAP_SET), 7);
}

#[tokio::test]
async fn rule_4_a_set_with_redo_succeeds_wherever_the_connection_is_cut() {
    let (proxy, client) = through_proxy(true).await;
    let map = map(&client);
    for fault in NOT_APPLIED.into_iter().chain(APPLIED) {
        proxy.arm(MAP_SET, fault);
        let value = format!("{fault:?}");
        map.set("k", value.as_str())
            .await
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        proxy.arm(MAP_GET, fault);
        assert_eq!(text(map.get("k").await.unwrap()), Some(value));
    }
    assert_eq!(proxy.requests(MAP_SET), 14);
    assert_eq!(proxy.requests(MAP_GET), 14);
}

#[tokio::test]
async fn entries_of_one_partition_travel_in_one_request_and_have_one_outcome() {
    let (proxy, client) = through_proxy(false).await;
    let map = map(&client);
    // As many as there are unless a cluster says otherwise.
    let count = 271;
    let [a, b] = [1, 2].map(|partition| {
        let keys = ["x-0000", "y-0000", "z-0000"];
        keys.map(|key| in_partition(key, partition, count))
    });
    let entries = [(&a[0], "0"), (&b[0], "1"), (&a[1], "2"), (&a[2], "3")];
    let stored = map.put_each(entries).await.unwrap();
    let places: Vec<_> = stored.iter().map(|stored| stored.places.clone()).collect();
    assert_eq!(places, [vec![0, 2, 3], vec![1]]);
    assert!(stored.iter().all(|stored| stored.outcome.is_ok()));
    assert_eq!((proxy.requests(MAP_PUT_ALL), proxy.requests(MAP_SET)), (1, 1));
    for (key, value) in entries {
        assert_eq!(text(map.get(key).await.unwrap()).as_deref(), Some(value));
    }

    proxy.arm(MAP_PUT_ALL, Fault::BeforeAnswer(Cut::Rst));
    let stored = map.put_each(entries.map(|(key, _)| (key, "again"))).await.unwrap();
    assert_eq!(stored[0].places, [0, 2, 3]);
    assert_eq!(stored[0].outcome.as_ref().unwrap_err().kind(), Kind::OutcomeUnknown);
    assert_eq!(text(map.get(&a[0]).await.unwrap()).as_deref(), Some("again"));
}

#[tokio::test]
async fn rule_4_a_poll_is_never_repeated_so_that_no_second_item_is_taken() {
    let (proxy, client) = through_proxy(true).await;
    let queue = queue(&client);
    assert!(queue.add_all(["first", "second", "third"]).await.unwrap());
    proxy.arm(QUEUE_POLL, Fault::BeforeRequest(Cut::Rst));
    assert_eq!(
        queue.poll(Duration::ZERO).await.unwrap_err().kind(),
        Kind::OutcomeUnknown
    );
    assert_eq!(queue.size().await.unwrap(), 3);
    proxy.arm(QUEUE_POLL, Fault::BeforeAnswer(Cut::Rst));
    assert_eq!(
        queue.poll(Duration::ZERO).await.unwrap_err().kind(),
        Kind::OutcomeUnknown
    );
    // Gone with its answer: one, not two.
    assert_eq!(queue.size().await.unwrap(), 2);
    assert_eq!(
        text(queue.poll(Duration::ZERO).await.unwrap()).as_deref(),
        Some("second")
    );
}

#[tokio::test]
async fn rule_4_an_offer_with_redo_is_there_once_or_twice() {
    let (proxy, client) = through_proxy(true).await;
    let queue = queue(&client);
    proxy.arm(QUEUE_OFFER, Fault::BeforeRequest(Cut::Rst));
    assert!(queue.offer("once").await.unwrap());
    proxy.arm(QUEUE_OFFER, Fault::BeforeAnswer(Cut::Rst));
    assert!(queue.offer("twice").await.unwrap());
    let items: Vec<_> = queue
        .iterator()
        .await
        .unwrap()
        .into_iter()
        .map(|item| text(Some(item)).unwrap())
        .collect();
    assert_eq!(items, ["once", "twice", "twice"]);
}

#[tokio::test]
async fn rule_3_calls_while_no_connection_can_be_had_are_made_once_it_can() {
    let (proxy, client) = through_proxy(false).await;
    let map = map(&client);
    proxy.cut_all(Cut::Rst);
    eventually("the connection is lost", || !client.is_connected()).await;
    let sets = (0..200).map(|number| {
        let map = map.clone();
        tokio::spawn(async move { map.set(number.to_string().as_str(), "v").await })
    });
    for set in sets.collect::<Vec<_>>() {
        set.await.unwrap().unwrap();
    }
    assert_eq!(map.size().await.unwrap(), 200);
}

#[tokio::test]
async fn everything_works_byte_by_byte() {
    let (proxy, client) = through_proxy(false).await;
    proxy.set_flow(Flow::Dribble);
    // The handshake too.
    proxy.cut_all(Cut::Fin);
    let (map, queue) = (map(&client), queue(&client));
    let large = "ß".repeat(10_000);
    eventually("another connection stands", || {
        proxy.connections() >= 2 && client.is_connected()
    })
    .await;
    map.set("large", large.as_str()).await.unwrap();
    assert_eq!(text(map.get("large").await.unwrap()).as_deref(), Some(large.as_str()));
    assert!(queue.offer("item").await.unwrap());
    assert_eq!(queue.iterator().await.unwrap().len(), 1);
    assert_eq!(map.entry_set().await.unwrap().len(), 1);
}

#[tokio::test]
async fn calls_do_not_wait_for_each_other_on_a_slow_way() {
    let (proxy, client) = through_proxy(false).await;
    let map = map(&client);
    map.set("k", "v").await.unwrap();
    proxy.set_flow(Flow::Delay(Duration::from_millis(5)));
    let began = Instant::now();
    let gets = (0..20).map(|_| {
        let map = map.clone();
        tokio::spawn(async move { map.get("k").await })
    });
    for get in gets.collect::<Vec<_>>() {
        assert_eq!(text(get.await.unwrap().unwrap()).as_deref(), Some("v"));
    }
    assert!(began.elapsed() < PATIENCE);
}

/// Cuts at any moment, again and again, under load with redo: nothing fails and all is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_network_costs_no_call_and_no_entry() {
    const WRITERS: usize = 16;
    const CUTS: usize = 25;
    let (proxy, client) = through_proxy(true).await;
    let map = map(&client);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (map, stopped) = (map.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut written = 0_usize;
                while !*stopped.borrow() {
                    map.set(format!("{writer}-{written}").as_str(), "v").await.unwrap();
                    written += 1;
                }
                written
            })
        })
        .collect();
    for cut in 0..CUTS {
        let connections = proxy.connections();
        proxy.cut_all(if cut % 2 == 0 { Cut::Rst } else { Cut::Fin });
        eventually("it connects again", || proxy.connections() > connections).await;
        let before = proxy.requests(MAP_SET);
        eventually("it writes again", || proxy.requests(MAP_SET) > before + 50).await;
    }
    stop.send_replace(true);
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    assert_eq!(usize::try_from(map.size().await.unwrap()).unwrap(), written);
    println!("{CUTS} cuts, {written} sets, {} requests", proxy.requests(MAP_SET));
}
