//! Adapter: the mailbox in a Hazelcast queue and two maps beside it.

use std::pin::pin;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::future::{BoxFuture, try_join};
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::warn;

use super::holders::Voucher;
use super::scan::Scan;
use super::whole::Whole;
use super::{Cluster, OnCluster, item};
use crate::engine::batch_json;
use crate::engine::page::Lowest;
use crate::engine::{
    Batch, DeliveredMessage, DeliveredPage, Item, ListPage, Looked, MAX_BATCH_BYTES, Mailbox, Offered, PageRange,
    Result,
};
use crate::hazelcast::{self, Data, ItemEvent, Json, Map, Notice, Queue, ToData};

/// How long a look may take, all that it asks of the cluster taken together.
const LOOK_TIMEOUT: Duration = Duration::from_millis(4200);

/// How long the whole of a queue may take to come. One that is larger than the client takes costs a connection with each try.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(3);

/// The mailbox as a queue of JSON values, and beside it the maps `<queue>_delivered` (batch id → JSON value) and
/// `<queue>_rejected` (a hash of the bytes → JSON value), so that other clients read and write the same ones.
#[derive(Debug)]
pub(in crate::engine) struct HazelcastMailbox {
    cluster: Cluster,
    queue: Queue,
    whole: Whole,
    delivered: Map,
    scan: Scan<DeliveredMessage>,
    rejected: Map,
    voucher: Voucher,
}

impl HazelcastMailbox {
    /// The mailbox `queue_name` of the cluster `cluster_name`, found at `members` (`host:port`), used by an instance of
    /// `role`. Begins to connect.
    ///
    /// # Errors
    /// Where `members` is empty or one of them does not parse.
    pub(in crate::engine) fn start(
        cluster_name: &str,
        queue_name: &str,
        members: &[String],
        role: &str,
    ) -> hazelcast::Result<Self> {
        let cluster = Cluster::start(cluster_name, members, format!("svc {role}"))?;
        let client = &cluster.client;
        let delivered = client.map(format!("{queue_name}_delivered"));
        let looked_at = delivered.clone();
        Ok(Self {
            queue: client.queue(queue_name),
            whole: Whole::default(),
            delivered,
            scan: Scan::by(move |pages| look_at_entries(looked_at.clone(), pages)),
            rejected: client.map(format!("{queue_name}_rejected")),
            voucher: Voucher::of(client, &format!("{queue_name}_delivered")),
            cluster,
        })
    }

    async fn put_in(&self, batch: &Batch) -> anyhow::Result<Offered> {
        let item = Json(batch_json::of_batch(batch)?).to_data();
        let size = item.as_bytes().len();
        if size > MAX_BATCH_BYTES {
            return Err(anyhow!(
                "a batch of {size} bytes is more than the {MAX_BATCH_BYTES} that are read"
            ));
        }
        let has_room = self.queue.offer(&item).await?;
        Ok(if has_room { Offered::Accepted } else { Offered::Full })
    }

    /// The whole queue, which comes in one answer; its head alone, where that was or may be too much.
    async fn look_at_queue(&self) -> anyhow::Result<Looked> {
        let end = Instant::now() + LOOK_TIMEOUT;
        let rest = || end.saturating_duration_since(Instant::now());
        if self.whole.is_in_doubt() {
            let queue = self.queue.clone().with_timeout(rest());
            let (size, head) = try_join(queue.size(), queue.peek()).await?;
            if !self.whole.is_asked_for(size) {
                return Ok(Looked {
                    items: head.into_iter().map(found).collect(),
                    is_all: false,
                });
            }
        }
        let queue = self.queue.clone().with_timeout(rest().min(WHOLE_TIMEOUT));
        match queue.iterator().await {
            Ok(items) => {
                self.whole.came();
                Ok(Looked {
                    items: items.into_iter().map(found).collect(),
                    is_all: true,
                })
            }
            Err(error) => {
                if let Some(most) = self.whole.did_not_come() {
                    warn!(
                        queue = self.queue.name(),
                        most,
                        "what waits does not come in one answer: it is delivered from the front, one item at a time, until \
                         no more than `most` are left"
                    );
                }
                Err(error.into())
            }
        }
    }

    async fn deliver(&self, batch: &Batch, by: &str) -> anyhow::Result<()> {
        let key = batch.id.to_data();
        let value = Json(batch_json::of_delivered(&batch.messages, by)?).to_data();
        loop {
            let Some(standing) = self.delivered.put_if_absent(&key, &value).await? else {
                return Ok(());
            };
            // It may be of a try whose backup never confirmed, this one's or that of an instance that died. Writing it
            // again is confirmed.
            if self.delivered.replace_if_same(&key, &standing, &standing).await? {
                return self.settle(batch, &standing).await;
            }
            // It was removed in between.
        }
    }

    /// An entry stands under the batch's id: the batch itself, or another one, which must not push this one out unseen.
    async fn settle(&self, batch: &Batch, standing: &Data) -> anyhow::Result<()> {
        let is_same = item::read_delivered(standing).is_some_and(|entry| entry.has_just(&batch.messages));
        if is_same {
            return Ok(());
        }
        warn!(
            batch = batch.id,
            map = self.rejected.name(),
            "another entry was delivered under the id of a batch and stays; the batch is set aside"
        );
        let again = Json(batch_json::of_batch(batch)?).to_data();
        self.set_aside(again, "another entry was delivered under its id before")
            .await
    }

    async fn set_aside(&self, item: Data, reason: &str) -> anyhow::Result<()> {
        let reason = reason.to_owned();
        // To hash and to encode megabytes takes long, and nothing else is to wait for it.
        let entry = spawn_blocking(move || item::of_rejected(&item, &reason)).await?;
        let (key, value) = entry?;
        Ok(self.rejected.set(&key, &Json(value)).await?)
    }

    fn outcome<T>(&self, outcome: anyhow::Result<T>) -> Result<T> {
        outcome.map_err(|error| self.cluster.unavailable(error))
    }
}

impl OnCluster for HazelcastMailbox {
    fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn object_name(&self) -> &str {
        self.queue.name()
    }

    fn voucher(&self) -> &Voucher {
        &self.voucher
    }
}

impl Mailbox for HazelcastMailbox {
    fn offer<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Offered>> {
        Box::pin(async { self.outcome(self.put_in(batch).await) })
    }

    fn look(&self) -> BoxFuture<'_, Result<Looked>> {
        Box::pin(async { self.outcome(self.look_at_queue().await) })
    }

    fn store<'a>(&'a self, batch: &'a Batch, by: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { self.outcome(self.deliver(batch, by).await) })
    }

    fn reject<'a>(&'a self, item: &'a Item, reason: &'a str) -> BoxFuture<'a, Result<()>> {
        let set_aside = async { self.set_aside(Data::from_bytes(item.token.clone())?, reason).await };
        Box::pin(async { self.outcome(set_aside.await) })
    }

    fn remove<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<bool>> {
        let remove = async { Ok(self.queue.remove(&Data::from_bytes(item.token.clone())?).await?) };
        Box::pin(async { self.outcome(remove.await) })
    }

    fn all(&self) -> BoxStream<'_, Result<DeliveredPage>> {
        let pages = self.delivered.entries();
        let pages = pages.map(|entries| entries.map(page).map_err(|error| self.cluster.unavailable(error)));
        pages.boxed()
    }

    fn page<'a>(&'a self, range: &'a PageRange) -> BoxFuture<'a, Result<ListPage<DeliveredMessage>>> {
        Box::pin(async { self.outcome(self.scan.page(range).await.map(Lowest::into_page)) })
    }

    fn news(&self) -> BoxStream<'_, ()> {
        let hints = stream::unfold(self.queue.item_listener(), |mut listener| async {
            loop {
                match listener.next().await? {
                    Notice::Event(ItemEvent::Removed) => {}
                    Notice::Event(ItemEvent::Added) | Notice::Registered => return Some(((), listener)),
                }
            }
        });
        hints.chain(stream::pending()).boxed()
    }
}

fn found(data: Data) -> Item {
    Item {
        content: item::read(&data),
        token: data.into_bytes(),
    }
}

/// Puts all messages on the pages. The keys are ids of batches, and say nothing of the identifiers in them.
async fn look_at_entries(
    delivered: Map,
    mut pages: Vec<Lowest<DeliveredMessage>>,
) -> hazelcast::Result<Vec<Lowest<DeliveredMessage>>> {
    let mut entries = pin!(delivered.entries());
    while let Some(entries) = entries.try_next().await? {
        for (key, value) in &entries {
            let Some((batch, entry)) = key.as_str().zip(item::read_delivered(value)) else {
                continue;
            };
            for page in &mut pages {
                entry.put_on(page, batch);
            }
        }
    }
    Ok(pages)
}

fn page(entries: Vec<(Data, Data)>) -> DeliveredPage {
    let mut page = DeliveredPage::default();
    for (key, value) in entries {
        let Some(entry) = key.as_str().and_then(|_| item::read_delivered(&value)) else {
            page.skipped = page.skipped.saturating_add(1);
            continue;
        };
        page.messages.extend(entry.all_copied());
    }
    page
}
