//! The Hazelcast client against real clusters, and beside the official Python client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use svc::hazelcast::{Client, Config, Data, ItemEvent, Json, Kind, Map, Notice, Queue, Routing, ToData, Value};
use uuid::Uuid;

use crate::support::engines::{Cluster, Engine, Engines, Options};
use crate::support::{python, texts};

const READY: Duration = Duration::from_secs(10);

fn config(cluster: &Cluster) -> Config {
    Config::new(
        cluster.name,
        cluster.members.iter().map(|member| member.address.to_string()),
    )
}

/// A client that gives slow backups time: a busy machine is no reason to fail, nor to do anything twice.
async fn connect(cluster: &Cluster) -> Client {
    let mut config = config(cluster);
    config.backup_ack_timeout = Duration::from_secs(30);
    config.invocation_timeout = Duration::from_secs(30);
    Client::connect(config, READY).await.unwrap()
}

/// A map of its own for each test: they share the cluster.
async fn map() -> Map {
    connect(&Engines::shared().logging)
        .await
        .map(format!("test-{}", Uuid::new_v4()))
}

async fn queue() -> Queue {
    connect(&Engines::shared().mq)
        .await
        .queue(format!("test-{}", Uuid::new_v4()))
}

fn text(data: Option<Data>) -> Option<String> {
    data.map(|data| data.as_str().unwrap().to_owned())
}

// === Map ===

#[tokio::test]
async fn what_is_stored_in_a_map_is_read_again() {
    let map = map().await;
    for (n, stored) in texts::difficult().into_iter().enumerate() {
        let key = format!("key-{n}");
        map.set(&key, &stored).await.unwrap();
        assert_eq!(text(map.get(&key).await.unwrap()), Some(stored));
    }
    assert_eq!(map.get("absent").await.unwrap(), None);
}

#[tokio::test]
async fn values_of_each_type_keep_it() {
    let map = map().await;
    map.set("string", "text").await.unwrap();
    map.set("json", &Json(r#"{"a":1}"#)).await.unwrap();
    map.set("bytes", &b"\x00\xFF"[..]).await.unwrap();
    map.set("integer", &-1_i32).await.unwrap();
    map.set("long", &i64::MIN).await.unwrap();
    for (key, value) in [
        ("string", Value::String("text")),
        ("json", Value::Json(r#"{"a":1}"#)),
        ("bytes", Value::Bytes(b"\x00\xFF")),
        ("integer", Value::Integer(-1)),
        ("long", Value::Long(i64::MIN)),
    ] {
        assert_eq!(map.get(key).await.unwrap().unwrap().value(), value);
    }
}

#[tokio::test]
async fn a_map_answers_what_stood_before() {
    let map = map().await;
    assert_eq!(map.put("k", "first").await.unwrap(), None);
    assert_eq!(text(map.put("k", "second").await.unwrap()).as_deref(), Some("first"));
    assert_eq!(
        text(map.put_if_absent("k", "third").await.unwrap()).as_deref(),
        Some("second")
    );
    assert_eq!(map.put_if_absent("other", "first").await.unwrap(), None);
    assert!(!map.replace_if_same("k", "first", "third").await.unwrap());
    assert!(map.replace_if_same("k", "second", "third").await.unwrap());
    assert!(map.contains_key("k").await.unwrap());
    assert_eq!(text(map.remove("k").await.unwrap()).as_deref(), Some("third"));
    assert_eq!(map.remove("k").await.unwrap(), None);
    assert!(!map.contains_key("k").await.unwrap());
    assert_eq!(map.size().await.unwrap(), 1);
}

#[tokio::test]
async fn a_map_is_written_and_read_many_entries_at_a_time() {
    let map = map().await;
    let entries: BTreeMap<String, String> = (0..1000).map(|n| (format!("k{n}"), format!("v{n}"))).collect();
    map.put_all(entries.iter()).await.unwrap();
    assert_eq!(map.size().await.unwrap(), 1000);

    let owned = |(key, value): (Data, Data)| (text(Some(key)).unwrap(), text(Some(value)).unwrap());
    let wanted = ["k1", "k500", "absent"];
    let found: BTreeMap<_, _> = map.get_all(wanted).await.unwrap().into_iter().map(owned).collect();
    assert_eq!(
        found,
        BTreeMap::from([("k1".into(), "v1".into()), ("k500".into(), "v500".into())])
    );

    let all: BTreeMap<_, _> = map.entry_set().await.unwrap().into_iter().map(owned).collect();
    assert_eq!(all, entries);
    let keys: BTreeSet<_> = map
        .key_set()
        .await
        .unwrap()
        .into_iter()
        .map(|key| text(Some(key)).unwrap())
        .collect();
    assert_eq!(keys, entries.keys().cloned().collect());
    let values: BTreeSet<_> = map
        .values()
        .await
        .unwrap()
        .into_iter()
        .map(|v| text(Some(v)).unwrap())
        .collect();
    assert_eq!(values, entries.values().cloned().collect());

    map.clear().await.unwrap();
    assert_eq!(map.size().await.unwrap(), 0);
    assert!(map.entries().try_collect::<Vec<_>>().await.unwrap().is_empty());
}

#[tokio::test]
async fn entries_are_streamed_whole_and_once_in_small_batches() {
    let map = map().await;
    // Enough for several batches in each partition, and one partition with large values.
    let small = (0..30_000).map(|n| (format!("k{n}"), "v".to_owned()));
    let large = (0..20).map(|n| (format!("large{n}"), "x".repeat(200_000)));
    let entries: BTreeMap<String, String> = small.chain(large).collect();
    map.put_all(entries.iter()).await.unwrap();

    let batches: Vec<Vec<(Data, Data)>> = map.entries().try_collect().await.unwrap();
    let sizes = batches
        .iter()
        .map(|batch| batch.iter().map(|(_, value)| value.as_bytes().len()).sum::<usize>());
    assert!(sizes.max().unwrap() < 16 * 200_100, "a batch is bounded");
    let read: Vec<_> = batches
        .into_iter()
        .flatten()
        .map(|(k, v)| (text(Some(k)).unwrap(), text(Some(v)).unwrap()))
        .collect();
    assert_eq!(read.len(), entries.len());
    assert_eq!(read.into_iter().collect::<BTreeMap<_, _>>(), entries);
}

#[tokio::test]
async fn keys_are_streamed_once_in_bounded_batches() {
    let map = map().await;
    assert!(map.keys().try_collect::<Vec<_>>().await.unwrap().is_empty());
    // More than a first batch in each partition, and a key that is no text.
    let keys: BTreeSet<String> = (0..350_000).map(|n| format!("{n:_>30}")).collect();
    for some in keys.iter().collect::<Vec<_>>().chunks(50_000) {
        map.put_all(some.iter().map(|&key| (key, ""))).await.unwrap();
    }
    map.set(&7_i32, "").await.unwrap();

    let batches: Vec<Vec<Data>> = map.keys().try_collect().await.unwrap();
    let sizes = batches
        .iter()
        .map(|batch| batch.iter().map(|key| key.as_bytes().len()).sum::<usize>());
    assert!(sizes.max().unwrap() < 512 * 1024, "a batch is bounded");
    assert!(batches.len() > 271, "a partition comes in batches");
    let (texts, others): (Vec<_>, Vec<_>) = batches.iter().flatten().partition(|key| key.as_str().is_some());
    assert_eq!((texts.len(), others), (keys.len(), vec![&7_i32.to_data()]));
    let texts: BTreeSet<String> = texts.into_iter().map(|key| text(Some(key.clone())).unwrap()).collect();
    assert!(texts == keys);
    map.clear().await.unwrap();
}

/// Backups make up for one member at a time, so that nothing is lost meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn entries_that_stay_are_streamed_once_while_a_member_dies_and_another_joins() {
    let engines = tokio::task::spawn_blocking(|| {
        Engines::start(&Options {
            logging: 3,
            mq: 1,
            consul: false,
        })
    });
    let engines = Arc::new(engines.await.unwrap());
    let map = connect(&engines.logging)
        .await
        .map("entries")
        .with_timeout(Duration::from_secs(60));
    // Some hundred in each partition: several batches, so that partitions are half read when their owner changes.
    let value = "x".repeat(2000);
    let keys: BTreeSet<String> = (0..40_000).map(|n| format!("k{n}")).collect();
    map.put_all(keys.iter().map(|key| (key, &value))).await.unwrap();

    let on_member = |act: fn(&Engine)| {
        let engines = Arc::clone(&engines);
        tokio::task::spawn_blocking(move || act(&engines.logging.members[0]))
    };
    let mut joining = None;
    let mut read = Vec::new();
    let mut batches = std::pin::pin!(map.entries());
    while let Some(batch) = batches.try_next().await.unwrap() {
        let before = read.len();
        read.extend(batch.into_iter().map(|(key, _)| text(Some(key)).unwrap()));
        if before < 10_000 && read.len() >= 10_000 {
            on_member(Engine::kill).await.unwrap();
        }
        if before < 20_000 && read.len() >= 20_000 {
            joining = Some(on_member(Engine::start));
        }
        // Slow enough to be half way through when the member joins and takes partitions over.
        if joining.as_ref().is_some_and(|joining| !joining.is_finished()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    joining.unwrap().await.unwrap();
    assert_eq!(read.len(), keys.len());
    assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), keys);
    tokio::task::spawn_blocking(|| drop(engines)).await.unwrap();
}

#[tokio::test]
async fn a_single_member_passes_everything_on() {
    let mut config = config(&Engines::shared().logging);
    config.routing = Routing::SingleMember;
    let map = Client::connect(config, READY)
        .await
        .unwrap()
        .map(format!("test-{}", Uuid::new_v4()));
    let entries: Vec<(String, String)> = (0..300).map(|n| (format!("k{n}"), format!("v{n}"))).collect();
    map.put_all(entries.iter().map(|(key, value)| (key, value)))
        .await
        .unwrap();
    for (key, value) in &entries {
        assert_eq!(text(map.get(key).await.unwrap()).as_ref(), Some(value));
    }
    assert_eq!(map.entries().try_concat().await.unwrap().len(), 300);
}

// === Queue ===

#[tokio::test]
async fn a_queue_hands_items_out_in_their_order() {
    let queue = queue().await;
    assert!(queue.offer("one").await.unwrap());
    assert!(queue.add_all(["two", "three"]).await.unwrap());
    assert_eq!(queue.size().await.unwrap(), 3);
    assert_eq!(text(queue.peek().await.unwrap()).as_deref(), Some("one"));
    assert_eq!(text(queue.poll(Duration::ZERO).await.unwrap()).as_deref(), Some("one"));
    let drained: Vec<_> = queue
        .drain_to(10)
        .await
        .unwrap()
        .into_iter()
        .map(|item| text(Some(item)))
        .collect();
    assert_eq!(drained, [Some("two".into()), Some("three".into())]);
    assert_eq!(queue.poll(Duration::from_millis(50)).await.unwrap(), None);
    assert_eq!(queue.peek().await.unwrap(), None);
}

#[tokio::test]
async fn items_are_looked_at_and_then_removed_by_their_bytes() {
    let queue = queue().await;
    for n in 0..3 {
        queue.offer(&Json(format!(r#"{{"batch":{n}}}"#))).await.unwrap();
    }
    let items = queue.iterator().await.unwrap();
    assert_eq!(items.len(), 3);
    assert_eq!(items[1].as_json(), Some(r#"{"batch":1}"#));
    assert!(queue.remove(&items[1]).await.unwrap());
    assert!(!queue.remove(&items[1]).await.unwrap());
    assert_eq!(queue.iterator().await.unwrap(), [items[0].clone(), items[2].clone()]);
    queue.clear().await.unwrap();
    assert_eq!(queue.size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_poll_waits_for_an_item() {
    let queue = queue().await;
    let waiting = queue.poll(Duration::from_secs(10));
    let offering = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        queue.offer("late").await.unwrap();
    };
    let (item, ()) = tokio::join!(waiting, offering);
    assert_eq!(text(item.unwrap()).as_deref(), Some("late"));
}

#[tokio::test]
async fn a_listener_hears_of_items() {
    let queue = queue().await;
    let mut listener = queue.item_listener();
    let mut next = async || tokio::time::timeout(READY, listener.next()).await.unwrap();
    assert_eq!(next().await, Some(Notice::Registered));
    queue.offer("item").await.unwrap();
    assert_eq!(next().await, Some(Notice::Event(ItemEvent::Added)));
    queue.poll(Duration::ZERO).await.unwrap();
    assert_eq!(next().await, Some(Notice::Event(ItemEvent::Removed)));
}

// === Client ===

#[tokio::test]
async fn every_member_is_listed_and_answers() {
    let cluster = &Engines::shared().logging;
    let client = connect(cluster).await;
    let listed: BTreeSet<u16> = client.members().iter().map(|member| member.port).collect();
    assert_eq!(
        listed,
        cluster.members.iter().map(|member| member.address.port()).collect()
    );
    for member in client.members() {
        client.ping(member.uuid, READY).await.unwrap();
    }
    assert_eq!(client.partition_count(), 271);
    assert!(client.cluster_id().is_some());
    let stranger = client.ping(Uuid::new_v4(), READY).await.unwrap_err();
    assert_eq!(stranger.kind(), Kind::MemberLeft);
}

#[tokio::test]
async fn a_cluster_of_another_name_refuses_and_the_error_says_so() {
    let mut config = config(&Engines::shared().logging);
    config.cluster_name = "no-such-cluster".into();
    let error = Client::connect(config, Duration::from_secs(2)).await.unwrap_err();
    assert!(error.is_timeout());
    let chain = format!("{:#}", anyhow::Error::from(error));
    assert!(chain.contains("\"no-such-cluster\""), "{chain}");
    assert!(chain.contains("another name"), "{chain}");
}

#[tokio::test]
async fn calls_after_the_shutdown_say_so() {
    let client = connect(&Engines::shared().logging).await;
    let map = client.map("test-shutdown");
    map.set("k", "v").await.unwrap();
    client.shutdown().await;
    assert_eq!(map.get("k").await.unwrap_err().kind(), Kind::ShutDown);
}

// === Beside the official Python client ===

#[tokio::test]
async fn python_reads_what_was_written_here_and_writes_what_is_read_here() {
    let cluster = &Engines::shared().logging;
    let client = connect(cluster).await;
    let (ours, theirs) = (format!("test-{}", Uuid::new_v4()), format!("test-{}", Uuid::new_v4()));
    let texts = texts::difficult();
    for (n, stored) in texts.iter().enumerate() {
        client.map(&ours).set(&format!("k{n}"), stored).await.unwrap();
    }
    let output = python::run("copy_map.py", &[&cluster.addresses(), cluster.name, &ours, &theirs], "").await;
    assert_eq!(output.trim(), format!("copied {} strings", texts.len()));
    for (n, stored) in texts.iter().enumerate() {
        assert_eq!(
            text(client.map(&theirs).get(&format!("k{n}")).await.unwrap()).as_ref(),
            Some(stored),
            "{n}"
        );
    }
}

#[tokio::test]
async fn partition_ids_agree_with_pythons() {
    let cluster = &Engines::shared().logging;
    let keys: Vec<String> = (0..10_000).map(random_key).collect();
    let input = serde_json::to_string(&keys).unwrap();
    let output = python::run("partition_ids.py", &[&cluster.addresses(), cluster.name], &input).await;
    let theirs: Vec<i32> = serde_json::from_str(&output).unwrap();
    let client = connect(cluster).await;
    let ours: Vec<i32> = keys.iter().map(|key| client.partition_id(key).unwrap()).collect();
    assert_eq!(ours, theirs);
}

/// Keys of 0 to 60 characters from all of Unicode, another one for each `seed`, the same ones in each run.
fn random_key(seed: u32) -> String {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let length = next() % 61;
    (0..length).filter_map(|_| char::from_u32(next() % 0x11_0000)).collect()
}
