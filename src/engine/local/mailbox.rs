//! Adapter: the mailbox in the store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt, pending};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};
use tracing::warn;

use super::by_identifier;
use super::part::Part;
use super::store::{Kind, Mark, Space, Store, Writing, find};
use super::watch::Lookout;
use crate::engine::batch_json::{self, read_delivered};
use crate::engine::{
    Batch, DeliveredMessage, DeliveredPage, Item, ListPage, Looked, MAX_BATCH_BYTES, Mailbox, Offered, PageRange,
    Result,
};

/// Batches that may wait. With more, a mailbox is full.
const MOST_WAITING: i64 = 10_000;

/// Most bytes of items that one look shows, unless it is one alone.
const LOOK_BYTES: usize = 16 * 1024 * 1024;

/// Bounds of one part of all that was delivered.
const PAGE_MESSAGES: usize = 1000;
const PAGE_BYTES: usize = 1024 * 1024;

/// Time between two looks at whether anything was written.
const NEWS_EVERY: Duration = Duration::from_millis(100);

/// How long what was found empty is taken to be so while nothing is written.
const EMPTY_FOR: Duration = Duration::from_secs(1);

/// The mailbox as rows: what waits, what was delivered, by batch, and what was set aside, by a hash of its bytes.
pub(in crate::engine) type LocalMailbox = Part<FoundEmpty>;

/// When nothing waited, and after which write.
#[derive(Debug, Default)]
pub(in crate::engine) struct FoundEmpty(Mutex<Option<(Instant, Mark)>>);

impl FoundEmpty {
    fn get(&self) -> Option<(Instant, Mark)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, found: Option<(Instant, Mark)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

impl LocalMailbox {
    /// The mailbox that the names of a cluster and of a queue lead to.
    pub(in crate::engine) fn new(store: Arc<Store>, cluster_name: &str, queue_name: &str) -> Self {
        Self {
            store,
            space: Space::new(Kind::Mailbox, cluster_name, queue_name),
            memory: FoundEmpty::default(),
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
        let mark = (self.store.marks())();
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
        self.memory.set(found_empty);
        Ok(looked)
    }

    fn is_still_empty(&self, mark: Option<Mark>) -> bool {
        self.memory
            .get()
            .is_some_and(|(at, then)| mark == Some(then) && at.elapsed() < EMPTY_FOR)
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

    /// The page of the list, once the index has all that is delivered now: others may deliver faster than it grows.
    async fn list_page(&self, range: &PageRange) -> anyhow::Result<ListPage<DeliveredMessage>> {
        let last = self.store.read(by_identifier::last_row).await?;
        loop {
            let (space, range) = (self.space.clone(), range.clone());
            let read = self
                .store
                .read(move |connection| by_identifier::page(connection, &space, range, last));
            if let Some(page) = read.await? {
                return Ok(page);
            }
            self.store
                .write(by_identifier::CATCH_UP_BYTES, by_identifier::catch_up)
                .await?;
        }
    }

    /// The part behind the batch `after`, or the first one, and the last batch of it where more may follow.
    async fn part(&self, after: Option<Vec<u8>>) -> Result<(DeliveredPage, Option<Vec<u8>>)> {
        let space = self.space.clone();
        self.outcome(self.store.read(move |connection| part(connection, &space, after)).await)
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
                let (page, last) = self.part(after).await?;
                yield page;
                if last.is_none() {
                    break;
                }
                after = last;
            }
        })
    }

    fn page<'a>(&'a self, range: &'a PageRange) -> BoxFuture<'a, Result<ListPage<DeliveredMessage>>> {
        Box::pin(async { self.outcome(self.list_page(range).await) })
    }

    fn news(&self) -> BoxStream<'_, ()> {
        let marks = self.store.marks();
        let hints = async_stream::stream! {
            // Where the thread cannot be started there are no hints; it is looked all the same.
            if let Ok(mut lookout) = Lookout::start(NEWS_EVERY, move || Ok(marks())) {
                loop {
                    if lookout.next().await.is_ok() {
                        yield ();
                    }
                }
            }
        };
        hints.chain(pending()).boxed()
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
    let insert = writing.statement(
        "INSERT INTO delivered (space, batch, entry) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING RETURNING id",
    )?;
    let row = insert.query_row((space, id, entry), |row| row.get(0)).optional()?;
    let delivered = read_delivered(entry);
    if let Some(row) = row {
        by_identifier::add(writing, space, row, delivered.as_ref())?;
        return Ok(true);
    }
    let standing = writing.statement("SELECT entry FROM delivered WHERE space = ?1 AND batch = ?2")?;
    standing.query_row((space, id), |row| {
        let standing = text(row.get_ref(0)?).and_then(read_delivered);
        Ok(standing.is_some_and(|standing| delivered.is_some_and(|new| new.is_same(&standing))))
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
        let content = batch_json::check_size(size);
        // What is too large is not even read.
        bytes = bytes.saturating_add(if content.is_ok() { size } else { 0 });
        if bytes > LOOK_BYTES && !looked.items.is_empty() {
            looked.is_all = false;
            break;
        }
        let content = content.and_then(|()| {
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

fn part(
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
            Some(delivered) => page.messages.extend(delivered.all_copied()),
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::result::Result;

    use tokio::time::timeout;

    use tokio::time::sleep;

    use super::*;
    use crate::engine::local::store::tests::{Folder, message};

    fn mailbox(store: &Arc<Store>) -> LocalMailbox {
        LocalMailbox::new(store.clone(), "mq", "messaging_queue")
    }

    fn batch(id: &str) -> Batch {
        Batch {
            id: id.to_owned(),
            messages: vec![message(id, "a text"), message("other", "\0 \u{1D11E}")],
        }
    }

    async fn accepted(mailbox: &LocalMailbox, id: &str) {
        assert_eq!(mailbox.offer(&batch(id)).await.unwrap(), Offered::Accepted);
    }

    /// Ids of the batches that wait, and why others cannot be read.
    async fn waiting(mailbox: &LocalMailbox) -> Vec<Result<String, String>> {
        let looked = mailbox.look().await.unwrap();
        assert!(looked.is_all);
        let ids = looked.items.into_iter().map(|item| item.content.map(|batch| batch.id));
        ids.collect()
    }

    async fn all(mailbox: &LocalMailbox) -> (Vec<DeliveredMessage>, u64) {
        let pages: Vec<DeliveredPage> = mailbox.all().map(Result::unwrap).collect().await;
        let skipped = pages.iter().map(|page| page.skipped).sum();
        (pages.into_iter().flat_map(|page| page.messages).collect(), skipped)
    }

    /// What another program puts in.
    fn put(folder: &Folder, item: &str) {
        let put = format!("INSERT INTO waiting (space, item) SELECT id, {item} FROM space WHERE kind = 'mailbox'");
        assert_eq!(folder.other_program().execute(&put, ()).unwrap(), 1, "{item}");
    }

    fn rejected(folder: &Folder) -> Vec<(String, Vec<u8>)> {
        let other = folder.other_program();
        let mut select = other
            .prepare("SELECT reason, CAST(item AS BLOB) FROM rejected ORDER BY id")
            .unwrap();
        let rows = select.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[tokio::test]
    async fn what_is_offered_waits_in_its_order_until_somebody_takes_it_out_once() {
        let folder = Folder::new();
        let (one, other) = (mailbox(&folder.store()), mailbox(&folder.store()));
        assert_eq!(waiting(&one).await, []);
        for id in ["c", "a", "b"] {
            accepted(&one, id).await;
        }
        let looked = other.look().await.unwrap();
        assert_eq!(waiting(&one).await, ["c", "a", "b"].map(|id| Ok(id.to_owned())));
        assert_eq!(looked.items[0].content, Ok(batch("c")));
        assert!(one.remove(&looked.items[1]).await.unwrap());
        assert!(!other.remove(&looked.items[1]).await.unwrap(), "somebody else did");
        assert_eq!(waiting(&other).await, ["c", "b"].map(|id| Ok(id.to_owned())));
    }

    #[tokio::test]
    async fn who_takes_out_what_is_gone_does_not_meet_what_came_after_it() {
        let folder = Folder::new();
        let mailbox = mailbox(&folder.store());
        accepted(&mailbox, "a").await;
        let looked = mailbox.look().await.unwrap();
        assert!(mailbox.remove(&looked.items[0]).await.unwrap());
        accepted(&mailbox, "b").await;
        assert!(!mailbox.remove(&looked.items[0]).await.unwrap());
        assert_eq!(waiting(&mailbox).await, [Ok("b".to_owned())]);
    }

    #[tokio::test]
    async fn a_batch_is_delivered_once_by_who_stored_it_first() {
        let folder = Folder::new();
        let (one, other) = (mailbox(&folder.store()), mailbox(&folder.store()));
        one.store(&batch("a"), "first").await.unwrap();
        other.store(&batch("a"), "second").await.unwrap();
        let (delivered, skipped) = all(&other).await;
        let expected = batch("a").messages.into_iter().map(|message| DeliveredMessage {
            message,
            by: "first".to_owned(),
        });
        assert_eq!((delivered, skipped), (expected.collect(), 0));
        assert_eq!(rejected(&folder), []);
    }

    #[tokio::test]
    async fn another_batch_under_the_id_of_a_delivered_one_is_set_aside_once() {
        let folder = Folder::new();
        let mailbox = mailbox(&folder.store());
        mailbox.store(&batch("a"), "me").await.unwrap();
        let another = Batch {
            id: "a".to_owned(),
            messages: vec![message("1", "another")],
        };
        mailbox.store(&another, "me").await.unwrap();
        mailbox.store(&another, "me").await.unwrap();
        assert_eq!(all(&mailbox).await.0.len(), 2);
        let kept = batch_json::of_batch(&another).unwrap().into_bytes();
        let reason = "another entry was delivered under its id before".to_owned();
        assert_eq!(rejected(&folder), [(reason, kept)]);
    }

    #[tokio::test]
    async fn what_others_put_in_is_read_where_it_can_be_and_else_set_aside_with_the_reason() {
        let folder = Folder::new();
        let mailbox = mailbox(&folder.store());
        accepted(&mailbox, "a").await;
        put(&folder, r#"'{"identifier":"single","text":"t"}'"#);
        put(&folder, "'no json'");
        put(&folder, "CAST(x'7BFF7D' AS TEXT)");
        put(&folder, "replace(hex(zeroblob(9000000)), '00', '  ')");
        let waiting = waiting(&mailbox).await;
        assert_eq!(waiting[..2], [Ok("a".to_owned()), Ok("single".to_owned())]);
        for (found, reason) in [
            (2, "it is no batch"),
            (3, "it is no UTF-8"),
            (4, "it has 18000000 bytes, more than"),
        ] {
            assert!(waiting[found].as_ref().unwrap_err().starts_with(reason), "{waiting:?}");
        }
        for item in &mailbox.look().await.unwrap().items[2..] {
            let reason = item.content.as_ref().unwrap_err();
            mailbox.reject(item, reason).await.unwrap();
            mailbox.reject(item, reason).await.unwrap();
            assert!(mailbox.remove(item).await.unwrap());
            mailbox.reject(item, reason).await.unwrap();
        }
        let rejected = rejected(&folder);
        assert_eq!(rejected.len(), 3);
        assert_eq!((&*rejected[0].1, &*rejected[1].1), (&b"no json"[..], &b"{\xFF}"[..]));
        assert_eq!(rejected[2].1.len(), MAX_BATCH_BYTES);
    }

    #[tokio::test]
    async fn entries_that_are_no_deliveries_are_left_out_and_counted() {
        let folder = Folder::new();
        let mailbox = mailbox(&folder.store());
        mailbox.store(&batch("a"), "me").await.unwrap();
        for (id, entry) in [
            ("''", "'{}'"),
            ("'b'", "CAST(x'FF' AS TEXT)"),
            ("CAST(x'FF' AS TEXT)", "entry"),
        ] {
            let put = format!(
                "INSERT INTO delivered (space, batch, entry) SELECT space, {id}, {entry} FROM delivered LIMIT 1"
            );
            folder.other_program().execute(&put, ()).unwrap();
        }
        let (delivered, skipped) = all(&mailbox).await;
        assert_eq!((delivered.len(), skipped), (2, 3));
    }

    #[tokio::test]
    async fn a_mailbox_is_full_at_10000_batches_and_takes_one_again_where_one_was_taken_out() {
        let folder = Folder::new();
        let store = folder.store();
        let (full, other) = (mailbox(&store), LocalMailbox::new(store, "mq", "other"));
        accepted(&full, "first").await;
        let fill = "WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < 10000)
                    INSERT INTO waiting (space, item) SELECT space, item FROM n, waiting WHERE id = 1";
        folder.other_program().execute(fill, ()).unwrap();
        assert_eq!(full.offer(&batch("last")).await.unwrap(), Offered::Full);
        accepted(&other, "a").await;
        let looked = full.look().await.unwrap();
        assert_eq!((looked.items.len(), looked.is_all), (10_000, true));
        assert!(full.remove(&looked.items[0]).await.unwrap());
        accepted(&full, "last").await;
        assert_eq!(full.offer(&batch("later")).await.unwrap(), Offered::Full);
    }

    #[tokio::test]
    async fn what_is_more_than_one_look_shows_is_seen_once_the_first_were_taken_out() {
        let folder = Folder::new();
        let mailbox = mailbox(&folder.store());
        let text = "x".repeat(1024 * 1024);
        for id in 0..20 {
            let id = id.to_string();
            let messages = vec![message(&id, &text)];
            mailbox.offer(&Batch { id, messages }).await.unwrap();
        }
        let mut seen = HashSet::new();
        let mut is_all = false;
        while !is_all {
            let looked = mailbox.look().await.unwrap();
            is_all = looked.is_all;
            assert!(looked.items.len() <= 16);
            for item in &looked.items {
                seen.insert(item.content.clone().unwrap().id);
                assert!(mailbox.remove(item).await.unwrap());
            }
        }
        assert_eq!(seen.len(), 20);
    }

    #[tokio::test]
    async fn a_batch_that_is_too_large_is_refused() {
        let folder = Folder::new();
        let mailbox = mailbox(&folder.store());
        let text = "\u{1}".repeat(1024 * 1024);
        let messages = (0..3).map(|id| message(&id.to_string(), &text)).collect();
        let id = "a".to_owned();
        let error = mailbox.offer(&Batch { id, messages }).await.unwrap_err().to_string();
        assert!(error.contains("more than the 16777216 that are read"), "{error}");
    }

    #[tokio::test]
    async fn what_another_process_puts_in_is_news_and_is_seen_by_the_next_look() {
        let folder = Folder::new();
        let (one, other) = (mailbox(&folder.store()), mailbox(&folder.store()));
        let mut news = one.news();
        for id in 0..20 {
            // Found empty, and remembered.
            let end = Instant::now() + Duration::from_secs(10);
            while one.memory.get().is_none() {
                assert_eq!(waiting(&one).await, []);
                assert!(Instant::now() < end);
                sleep(Duration::from_millis(5)).await;
            }
            while timeout(Duration::from_millis(60), news.next()).await.is_ok() {}
            accepted(&other, &id.to_string()).await;
            timeout(Duration::from_secs(5), news.next()).await.expect("news");
            let looked = one.look().await.unwrap();
            assert_eq!(looked.items.len(), 1);
            assert!(one.remove(&looked.items[0]).await.unwrap());
        }
    }
}
