//! The mailbox on a real Hazelcast cluster, beside the official Python client.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use svc::engine::{Batch, Mailbox, Offered};
use svc::hazelcast::{Client, Config, Json};
use svc::message::Message;
use uuid::Uuid;

use crate::support::engines::{Cluster, Engines};
use crate::support::{ports, python};

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A mailbox of a test's own, on the cluster that all tests share.
struct Own {
    mailbox: Arc<dyn Mailbox>,
    name: String,
}

fn cluster() -> &'static Cluster {
    &Engines::shared().mq
}

impl Own {
    async fn open() -> Self {
        let name = format!("test-{}", Uuid::new_v4());
        let mailbox = ports::mailbox(cluster(), &name).await;
        let ready = async { while mailbox.ready().await.is_err() {} };
        tokio::time::timeout(SOON, ready).await.unwrap();
        Self { mailbox, name }
    }

    /// The same cluster, for what a mailbox does not do.
    async fn client() -> Client {
        let addresses = cluster().members.iter().map(|member| member.address.to_string());
        let mut config = Config::new(cluster().name, addresses);
        config.redo_operations = true;
        config.invocation_timeout = SOON;
        Client::connect(config, SOON).await.unwrap()
    }

    async fn python_offers(&self, items: &Value) {
        python::run("offer.py", &self.place(), &items.to_string()).await;
    }

    async fn python_reads(&self) -> Value {
        serde_json::from_str(&python::run("read_mailbox.py", &self.place(), "").await).unwrap()
    }

    fn place(&self) -> [&str; 3] {
        static ADDRESSES: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        [
            ADDRESSES.get_or_init(|| cluster().addresses()),
            cluster().name,
            &self.name,
        ]
    }
}

fn message(identifier: impl Into<String>, text: impl Into<String>) -> Message {
    Message {
        identifier: identifier.into(),
        text: text.into(),
    }
}

fn batch(id: &str, texts: &[&str]) -> Batch {
    let messages = texts
        .iter()
        .map(|text| message(format!("{id}-{text}"), *text))
        .collect();
    Batch {
        id: id.to_owned(),
        messages,
    }
}

#[tokio::test]
async fn who_stores_a_batch_first_has_delivered_it() {
    let own = Own::open().await;
    let first = batch("b", &["one", "two"]);
    own.mailbox.store(&first, "me").await.unwrap();
    own.mailbox.store(&first, "me").await.unwrap();
    own.mailbox.store(&first, "another").await.unwrap();
    let read = own.python_reads().await;
    assert_eq!(
        read["delivered"],
        json!({"b": {"by": "me", "messages": first.messages}})
    );
    assert_eq!(read["rejected"], json!({}));
}

#[tokio::test]
async fn another_batch_under_the_id_of_a_delivered_one_is_set_aside_whole() {
    let own = Own::open().await;
    let (first, second) = (batch("b", &["one"]), batch("b", &["two"]));
    own.mailbox.store(&first, "me").await.unwrap();
    own.mailbox.store(&second, "me").await.unwrap();
    own.mailbox.store(&second, "another").await.unwrap();
    let read = own.python_reads().await;
    assert_eq!(read["delivered"]["b"]["messages"], json!(first.messages));
    let rejected: Vec<&Value> = read["rejected"].as_object().unwrap().values().collect();
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!(rejected[0]["reason"], "another entry was delivered under its id before");
    let kept: Value = serde_json::from_str(rejected[0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(kept, json!({"batch": "b", "messages": second.messages}));
}

#[tokio::test]
async fn what_python_puts_in_is_read_or_set_aside_so_that_python_can_read_it() {
    let own = Own::open().await;
    own.python_offers(&json!([
        [
            "json",
            r#"{"batch": "b", "messages": [{"identifier": "1", "text": "one"}]}"#
        ],
        ["json", r#"{"identifier": "2", "text": "two"}"#],
        ["plain", r#"{"identifier": "3", "text": "three"}"#],
        ["plain", 4],
        ["plain", "five"],
        ["pickled", 6],
        ["json", "[7]"],
    ]))
    .await;
    let found = own.mailbox.look().await.unwrap().items;
    let ids: Vec<&str> = found
        .iter()
        .filter_map(|item| Some(item.content.as_ref().ok()?.id.as_str()))
        .collect();
    assert_eq!((found.len(), ids), (7, vec!["b", "2", "3"]));
    for item in &found {
        if let Err(reason) = &item.content {
            own.mailbox.reject(item, reason).await.unwrap();
            own.mailbox.reject(item, reason).await.unwrap();
        }
        own.mailbox.remove(item).await.unwrap();
    }
    let read = own.python_reads().await;
    assert_eq!(read["waiting"], 0);
    let rejected = read["rejected"].as_object().unwrap();
    let reasons: String = rejected
        .values()
        .map(|entry| format!("{}\n", entry["reason"]))
        .collect();
    assert_eq!(rejected.len(), 4, "{reasons}");
    let texts: Vec<&str> = rejected.values().filter_map(|entry| entry["text"].as_str()).collect();
    assert!(texts.contains(&"five") && texts.contains(&"[7]"), "{texts:?}");
    let binary = rejected.values().filter(|entry| entry["base64"].is_string()).count();
    assert_eq!(binary, 2);
    assert!(
        reasons.contains("an Integer, not JSON") && reasons.contains("serialized type"),
        "{reasons}"
    );
}

#[tokio::test]
async fn entries_that_are_no_deliveries_are_left_out_and_counted() {
    let own = Own::open().await;
    own.mailbox.store(&batch("b", &["one"]), "me").await.unwrap();
    let map = Own::client().await.map(format!("{}_delivered", own.name));
    map.set("string", "text").await.unwrap();
    map.set("json", &Json(r#"{"messages":[]}"#)).await.unwrap();
    map.set(&5, &5).await.unwrap();
    let pages: Vec<_> = own.mailbox.all().try_collect().await.unwrap();
    assert_eq!(pages.iter().map(|page| page.skipped).sum::<u64>(), 3);
    assert_eq!(pages.iter().map(|page| page.messages.len()).sum::<usize>(), 1);
}

#[tokio::test]
async fn news_come_at_first_and_with_what_is_put_in() {
    let own = Own::open().await;
    let mut news = own.mailbox.news();
    let mut next = async || tokio::time::timeout(SOON, news.next()).await.unwrap();
    assert_eq!(
        next().await,
        Some(()),
        "once the listener is there, what came before may have gone untold"
    );
    own.mailbox.offer(&batch("b", &["one"])).await.unwrap();
    assert_eq!(next().await, Some(()));
}

#[tokio::test]
async fn a_mailbox_that_is_full_says_so_and_takes_nothing() {
    let own = Own::open().await;
    let queue = Own::client().await.queue(&own.name);
    let fill = async {
        while let left @ 1.. = 10_000 - queue.size().await.unwrap() {
            queue.add_all((0..left.min(500)).map(|n| n.to_string())).await.unwrap();
        }
    };
    tokio::time::timeout(SOON, fill).await.unwrap();
    assert_eq!(own.mailbox.offer(&batch("b", &["one"])).await.unwrap(), Offered::Full);
    assert_eq!(queue.size().await.unwrap(), 10_000);
    queue.clear().await.unwrap();
}
