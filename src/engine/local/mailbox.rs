//! Adapter: the mailbox in the store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use futures_util::stream::{BoxStream, StreamExt};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::store::{Kind, Mark, Space, Store, Writing, find};
use crate::engine::batch_json::{self, read_delivered};
use crate::engine::{
    Batch, DeliveredMessage, DeliveredPage, Engine, Item, Looked, MAX_BATCH_BYTES, Mailbox, Offered, Result,
    Unavailable,
};

/// Batches that may wait. With more, a mailbox is full.
const MOST_WAITING: i64 = 10_000;

/// Bytes of items that one look shows, the last of them included or not.
const LOOK_BYTES: usize = 16 * 1024 * 1024;

/// Bounds of one page of what was delivered.
const PAGE_MESSAGES: usize = 1000;
const PAGE_BYTES: usize = 1024 * 1024;

/// Time between two looks at whether anything was written.
const NEWS_EVERY: Duration = Duration::from_millis(50);

/// How long what was found empty is taken to be so while nothing is written.
const EMPTY_FOR: Duration = Duration::from_secs(1);

/// The mailbox as rows: what waits, what was delivered, by batch, and what was set aside, by a hash of its bytes.
#[derive(Debug)]
pub(in crate::engine) struct LocalMailbox {
    store: Arc<Store>,
    space: Space,
    /// When nothing waited, and after which write.
    found_empty: Mutex<Option<(Instant, Mark)>>,
}

impl LocalMailbox {
    /// The mailbox that the names of a cluster and of a queue lead to.
    pub(in crate::engine) fn new(store: Arc<Store>, cluster_name: &str, queue_name: &str) -> Self {
        Self {
            store,
            space: Space::new(Kind::Mailbox, cluster_name, queue_name),
            found_empty: Mutex::new(None),
        }
    }

    async fn put_in(&self, batch: &Batch) -> anyhow::Result<Offered> {
        let item = batch_json::of_batch(batch)?;
        let size = item.len();
        anyhow::ensure!(
            size <= MAX_BATCH_BYTES,
            "a batch of {size} bytes is more than the {MAX_BATCH_BYTES} that are read"
        );
        let space = self.space.clone();
        self.store
            .write(size, move |writing| offer(writing, &space, &item))
            .await
    }

    async fn look_at_items(&self) -> anyhow::Result<Looked> {
        let mark = self.store.mark();
        if self.is_still_empty(mark) {
            return Ok(Looked {
                items: Vec::new(),
                is_all: true,
            });
        }
        let asked_at = Instant::now();
        // A write of the same moment may have the same mark.
        let mark = mark.filter(Mark::is_settled);
        let space = self.space.clone();
        let looked = self.store.read(move |connection| look(connection, &space)).await?;
        let found_empty = mark.filter(|_| looked.items.is_empty()).map(|mark| (asked_at, mark));
        *self.found_empty.lock().unwrap_or_else(PoisonError::into_inner) = found_empty;
        Ok(looked)
    }

    fn is_still_empty(&self, mark: Option<Mark>) -> bool {
        let found_empty = *self.found_empty.lock().unwrap_or_else(PoisonError::into_inner);
        found_empty.is_some_and(|(at, then)| mark == Some(then) && at.elapsed() < EMPTY_FOR)
    }

    async fn deliver(&self, batch: &Batch, by: &str) -> anyhow::Result<()> {
        let entry = batch_json::of_delivered(&batch.messages, by)?;
        let (space, id) = (self.space.clone(), batch.id.clone());
        let stored = self
            .store
            .write(entry.len(), move |writing| store(writing, &space, &id, &entry));
        if stored.await? {
            return Ok(());
        }
        warn!(
            batch = batch.id,
            mailbox = self.space.name(),
            "another entry was delivered under the id of a batch and stays; the batch is set aside"
        );
        let again = batch_json::of_batch(batch)?.into_bytes();
        let bytes = again.len();
        self.set_aside(again, bytes, "another entry was delivered under its id before")
            .await
    }

    /// Sets these bytes of an item that has so many aside.
    async fn set_aside(&self, kept: Vec<u8>, bytes: usize, reason: &str) -> anyhow::Result<()> {
        let (space, reason) = (self.space.clone(), reason.to_owned());
        let reject = move |writing: &mut Writing<'_>| reject(writing, &space, &kept, bytes, &reason);
        self.store.write(bytes.min(MAX_BATCH_BYTES), reject).await
    }

    async fn reject_item(&self, item: &Item, reason: &str) -> anyhow::Result<()> {
        let id = row_id(item)?;
        let found = self.store.read(move |connection| waiting(connection, id)).await?;
        // Where it is gone, somebody else has set it aside before.
        let Some((kept, bytes)) = found else {
            return Ok(());
        };
        self.set_aside(kept, bytes, reason).await
    }

    async fn take_out(&self, item: &Item) -> anyhow::Result<bool> {
        let id = row_id(item)?;
        let remove = move |writing: &mut Writing<'_>| {
            let removed = writing.statement("DELETE FROM waiting WHERE id = ?1")?.execute([id])?;
            Ok(removed > 0)
        };
        self.store.write(0, remove).await
    }

    /// The page behind the batch `after`, or the first one, and the last batch on it where more may follow.
    async fn page(&self, after: Option<Vec<u8>>) -> Result<(DeliveredPage, Option<Vec<u8>>)> {
        let space = self.space.clone();
        self.outcome(self.store.read(move |connection| page(connection, &space, after)).await)
    }

    fn outcome<T>(&self, outcome: anyhow::Result<T>) -> Result<T> {
        outcome.map_err(|cause| Unavailable {
            engine: self.describe(),
            cause,
        })
    }
}

impl Engine for LocalMailbox {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn object_name(&self) -> &str {
        self.space.name()
    }

    fn identity(&self) -> Option<String> {
        Some(self.store.identity(&self.space))
    }

    fn advice(&self) -> String {
        self.store.advice()
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        ready(self.check()).boxed()
    }

    fn check(&self) -> Result<()> {
        self.outcome(self.store.check())
    }
}

impl Mailbox for LocalMailbox {
    fn offer<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Offered>> {
        Box::pin(async { self.outcome(self.put_in(batch).await) })
    }

    fn look(&self) -> BoxFuture<'_, Result<Looked>> {
        Box::pin(async { self.outcome(self.look_at_items().await) })
    }

    fn store<'a>(&'a self, batch: &'a Batch, by: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { self.outcome(self.deliver(batch, by).await) })
    }

    fn reject<'a>(&'a self, item: &'a Item, reason: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { self.outcome(self.reject_item(item, reason).await) })
    }

    fn remove<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async { self.outcome(self.take_out(item).await) })
    }

    fn all(&self) -> BoxStream<'_, Result<DeliveredPage>> {
        Box::pin(async_stream::try_stream! {
            let mut after = None;
            loop {
                let (page, last) = self.page(after).await?;
                yield page;
                if last.is_none() {
                    break;
                }
                after = last;
            }
        })
    }

    fn news(&self) -> BoxStream<'_, ()> {
        let hints = async_stream::stream! {
            let mut ticks = interval(NEWS_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut known = self.store.mark();
            loop {
                ticks.tick().await;
                let now = self.store.mark();
                if now != known {
                    known = now;
                    yield ();
                }
            }
        };
        hints.boxed()
    }
}

/// The row that the item is; no other one ever has its id.
fn row_id(item: &Item) -> anyhow::Result<i64> {
    let bytes = <[u8; 8]>::try_from(&*item.token).map_err(|_| anyhow!("the item is of another engine"))?;
    Ok(i64::from_be_bytes(bytes))
}

fn offer(writing: &mut Writing<'_>, space: &Space, item: &str) -> rusqlite::Result<Offered> {
    let space = writing.space(space)?;
    let is_full = writing.statement("SELECT 1 FROM waiting WHERE space = ?1 LIMIT 1 OFFSET ?2")?;
    if is_full.exists((space, MOST_WAITING - 1))? {
        return Ok(Offered::Full);
    }
    let insert = writing.statement("INSERT INTO waiting (space, item) VALUES (?1, ?2)")?;
    insert.execute((space, item))?;
    Ok(Offered::Accepted)
}

/// Whether the batch is delivered; `false` where another one stands under its id.
fn store(writing: &mut Writing<'_>, space: &Space, id: &str, entry: &str) -> rusqlite::Result<bool> {
    let space = writing.space(space)?;
    let insert =
        writing.statement("INSERT INTO delivered (space, batch, entry) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?;
    if insert.execute((space, id, entry))? > 0 {
        return Ok(true);
    }
    let standing = writing.statement("SELECT entry FROM delivered WHERE space = ?1 AND batch = ?2")?;
    standing.query_row((space, id), |row| {
        let standing = text(row.get_ref(0)?).and_then(read_delivered);
        Ok(standing.is_some_and(|standing| read_delivered(entry).is_some_and(|new| new.messages == standing.messages)))
    })
}

fn reject(writing: &mut Writing<'_>, space: &Space, kept: &[u8], bytes: usize, reason: &str) -> rusqlite::Result<()> {
    let space = writing.space(space)?;
    let insert = writing.statement(
        "INSERT INTO rejected (space, key, reason, bytes, item) VALUES (?1, ?2, ?3, ?4, CAST(?5 AS TEXT))
         ON CONFLICT DO NOTHING",
    )?;
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    insert.execute((space, batch_json::rejected_key(kept), reason, bytes, kept))?;
    Ok(())
}

/// What waits, the longest waiting first: all of it, or a part from the front.
fn look(connection: &Connection, space: &Space) -> rusqlite::Result<Looked> {
    let mut looked = Looked {
        items: Vec::new(),
        is_all: true,
    };
    let Some(space) = find(connection, space)? else {
        return Ok(looked);
    };
    let mut select = connection.prepare(
        "SELECT id, octet_length(item), CASE WHEN octet_length(item) <= ?2 THEN item END
         FROM waiting WHERE space = ?1 ORDER BY id LIMIT ?3",
    )?;
    let most = i64::try_from(MAX_BATCH_BYTES).unwrap_or(i64::MAX);
    let mut rows = select.query((space, most, MOST_WAITING))?;
    let mut bytes = 0_usize;
    while let Some(row) = rows.next()? {
        let size = usize::try_from(row.get::<_, i64>(1)?).unwrap_or(usize::MAX);
        let shown = size.min(MAX_BATCH_BYTES);
        bytes = bytes.saturating_add(shown);
        if bytes > LOOK_BYTES && !looked.items.is_empty() {
            looked.is_all = false;
            break;
        }
        let content = batch_json::check_size(size).and_then(|()| {
            let item = text(row.get_ref_unwrap(2)).ok_or("it is no UTF-8")?;
            batch_json::read(item)
        });
        looked.items.push(Item {
            token: Bytes::copy_from_slice(&row.get::<_, i64>(0)?.to_be_bytes()),
            content,
        });
    }
    Ok(looked)
}

/// The first bytes of an item that waits, and how many it has.
fn waiting(connection: &Connection, id: i64) -> rusqlite::Result<Option<(Vec<u8>, usize)>> {
    let select = "SELECT substr(CAST(item AS BLOB), 1, ?2), octet_length(item) FROM waiting WHERE id = ?1";
    let most = i64::try_from(MAX_BATCH_BYTES).unwrap_or(i64::MAX);
    let found = connection.query_row(select, (id, most), |row| {
        let bytes = usize::try_from(row.get::<_, i64>(1)?).unwrap_or(usize::MAX);
        Ok((row.get(0)?, bytes))
    });
    found.optional()
}

fn page(
    connection: &Connection,
    space: &Space,
    after: Option<Vec<u8>>,
) -> rusqlite::Result<(DeliveredPage, Option<Vec<u8>>)> {
    let mut page = DeliveredPage::default();
    let Some(space) = find(connection, space)? else {
        return Ok((page, None));
    };
    let comparison = if after.is_none() { ">=" } else { ">" };
    // Bytes that are no UTF-8, which another program may have put there, are a text to SQLite all the same.
    let mut select = connection.prepare(&format!(
        "SELECT batch, entry FROM delivered WHERE space = ?1 AND batch {comparison} CAST(?2 AS TEXT) ORDER BY batch"
    ))?;
    let mut rows = select.query((space, after.unwrap_or_default()))?;
    let (mut bytes, mut entries) = (0_usize, 0_usize);
    while let Some(row) = rows.next()? {
        let (batch, entry) = (row.get_ref(0)?, row.get_ref(1)?);
        bytes = bytes.saturating_add(entry.as_bytes()?.len());
        entries = entries.saturating_add(1);
        match text(batch).and(text(entry)).and_then(read_delivered) {
            Some(delivered) => {
                let by = delivered.by;
                let messages = delivered.messages.into_iter().map(|message| DeliveredMessage {
                    message,
                    by: by.clone(),
                });
                page.messages.extend(messages);
            }
            None => page.skipped = page.skipped.saturating_add(1),
        }
        if entries >= PAGE_MESSAGES || page.messages.len() >= PAGE_MESSAGES || bytes >= PAGE_BYTES {
            return Ok((page, Some(batch.as_bytes()?.to_owned())));
        }
    }
    Ok((page, None))
}

/// What a value is as text; `None` where it is no text, or no UTF-8.
fn text(value: ValueRef<'_>) -> Option<&str> {
    value.as_str().ok()
}
