//! Adapter: the log in the store.

use std::sync::Arc;

use anyhow::anyhow;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::BoxStream;
use rusqlite::Connection;

use super::part::Part;
use super::store::{Kind, Space, Store, Writing, find};
use crate::engine::page::Lowest;
use crate::engine::{Appended, IfPresent, ListPage, LogStore, Page, PageRange, Result};
use crate::message::Message;

/// Bounds of one part of all.
const PAGE_ENTRIES: usize = 1000;
const PAGE_BYTES: usize = 1024 * 1024;

/// The log as rows identifier → text. Nothing of it is remembered.
pub(in crate::engine) type LocalLog = Part<()>;

impl LocalLog {
    /// The log that the names of a cluster and of a map lead to.
    pub(in crate::engine) fn new(store: Arc<Store>, cluster_name: &str, map_name: &str) -> Self {
        Self {
            store,
            space: Space::new(Kind::Log, cluster_name, map_name),
            memory: (),
        }
    }

    /// The part behind the identifier `after`, or the first one, and the last identifier of it where more may follow.
    async fn part(&self, after: Option<Vec<u8>>) -> Result<(Page, Option<Vec<u8>>)> {
        let space = self.space.clone();
        self.outcome(self.store.read(move |connection| part(connection, &space, after)).await)
    }
}

impl LogStore for LocalLog {
    fn append<'a>(&'a self, messages: &'a [Message], if_present: IfPresent) -> BoxFuture<'a, Vec<Result<Appended>>> {
        let append = async move {
            let (space, packed) = (self.space.clone(), Packed::of(messages));
            let appended = self.store.write(packed.text.len(), move |writing| {
                packed.append(writing, &space, if_present)
            });
            match appended.await {
                Ok(appended) => appended.into_iter().map(Ok).collect(),
                Err(cause) => {
                    let cause = format!("{cause:#}");
                    messages
                        .iter()
                        .map(|_| Err(self.unavailable(anyhow!("{cause}"))))
                        .collect()
                }
            }
        };
        append.boxed()
    }

    fn all(&self) -> BoxStream<'_, Result<Page>> {
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

    fn page<'a>(&'a self, range: &'a PageRange) -> BoxFuture<'a, Result<ListPage<Message>>> {
        let page = async {
            let (space, range) = (self.space.clone(), range.clone());
            let read = self.store.read(move |connection| list_page(connection, &space, range));
            self.outcome(read.await)
        };
        page.boxed()
    }

    fn remove<'a>(&'a self, identifiers: &'a [String]) -> BoxFuture<'a, Result<()>> {
        let remove = async {
            let (space, identifiers) = (self.space.clone(), identifiers.to_vec());
            let bytes = identifiers.iter().map(String::len).sum();
            let remove = move |writing: &mut Writing<'_>| remove(writing, &space, &identifiers);
            self.outcome(self.store.write(bytes, remove).await)
        };
        remove.boxed()
    }

    fn clear(&self) -> BoxFuture<'_, Result<()>> {
        let clear = async {
            let space = self.space.clone();
            self.outcome(self.store.write(0, move |writing| writing.clear(&space)).await)
        };
        clear.boxed()
    }
}

/// Messages, one behind the other in one text: to hand them over costs no allocation for each.
struct Packed {
    text: String,
    /// Where the identifier ends, and where the text does.
    ends: Vec<(usize, usize)>,
}

impl Packed {
    fn of(messages: &[Message]) -> Self {
        let length = messages
            .iter()
            .map(|message| message.identifier.len() + message.text.len())
            .sum();
        let mut packed = Self {
            text: String::with_capacity(length),
            ends: Vec::with_capacity(messages.len()),
        };
        for message in messages {
            packed.text.push_str(&message.identifier);
            let identifier_end = packed.text.len();
            packed.text.push_str(&message.text);
            packed.ends.push((identifier_end, packed.text.len()));
        }
        packed
    }

    /// Identifier and text of each message.
    fn messages(&self) -> impl Iterator<Item = (&str, &str)> {
        let begins = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        self.ends.iter().zip(begins).map(|((middle, end), begin)| {
            let part = |from: usize, to: usize| self.text.get(from..to).unwrap_or_default();
            (part(begin, *middle), part(*middle, *end))
        })
    }

    fn append(
        &self,
        writing: &mut Writing<'_>,
        space: &Space,
        if_present: IfPresent,
    ) -> rusqlite::Result<Vec<Appended>> {
        let space = writing.space(space)?;
        let mut appended = Vec::with_capacity(self.ends.len());
        for (identifier, text) in self.messages() {
            appended.push(match if_present {
                IfPresent::Replace => replace(writing, space, identifier, text)?,
                IfPresent::Keep => keep_first(writing, space, identifier, text)?,
            });
        }
        Ok(appended)
    }
}

fn replace(writing: &mut Writing<'_>, space: i64, identifier: &str, text: &str) -> rusqlite::Result<Appended> {
    let upsert = writing.statement(
        "INSERT INTO log (space, identifier, text) VALUES (?1, ?2, ?3)
         ON CONFLICT (space, identifier) DO UPDATE SET text = excluded.text WHERE text <> excluded.text",
    )?;
    upsert.execute((space, identifier, text))?;
    Ok(Appended::Stored)
}

fn keep_first(writing: &mut Writing<'_>, space: i64, identifier: &str, text: &str) -> rusqlite::Result<Appended> {
    let insert =
        writing.statement("INSERT INTO log (space, identifier, text) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?;
    if insert.execute((space, identifier, text))? > 0 {
        return Ok(Appended::Stored);
    }
    let is_same = writing.statement("SELECT text = ?3 FROM log WHERE space = ?1 AND identifier = ?2")?;
    let is_same: bool = is_same.query_row((space, identifier, text), |row| row.get(0))?;
    Ok(if is_same { Appended::Stored } else { Appended::Conflict })
}

fn remove(writing: &mut Writing<'_>, space: &Space, identifiers: &[String]) -> rusqlite::Result<()> {
    let space = writing.space(space)?;
    for identifier in identifiers {
        let delete = writing.statement("DELETE FROM log WHERE space = ?1 AND identifier = ?2")?;
        delete.execute((space, identifier))?;
    }
    Ok(())
}

fn part(connection: &Connection, space: &Space, after: Option<Vec<u8>>) -> rusqlite::Result<(Page, Option<Vec<u8>>)> {
    let mut page = Page::default();
    let Some(space) = find(connection, space)? else {
        return Ok((page, None));
    };
    let comparison = if after.is_none() { ">=" } else { ">" };
    // Bytes that are no UTF-8, which another program may have put there, are a text to SQLite all the same.
    let mut select = connection.prepare(&format!(
        "SELECT identifier, text FROM log WHERE space = ?1 AND identifier {comparison} CAST(?2 AS TEXT) ORDER BY identifier"
    ))?;
    let mut rows = select.query((space, after.unwrap_or_default()))?;
    let (mut bytes, mut entries) = (0, 0);
    while let Some(row) = rows.next()? {
        let (identifier, text) = (row.get_ref(0)?.as_bytes()?, row.get_ref(1)?.as_bytes()?);
        bytes += identifier.len() + text.len();
        entries += 1;
        match (str::from_utf8(identifier), str::from_utf8(text)) {
            (Ok(identifier), Ok(text)) => page.messages.push(Message {
                identifier: identifier.to_owned(),
                text: text.to_owned(),
            }),
            _ => page.skipped += 1,
        }
        if entries >= PAGE_ENTRIES || bytes >= PAGE_BYTES {
            return Ok((page, Some(identifier.to_owned())));
        }
    }
    Ok((page, None))
}

/// The table is clustered by identifier, bytewise: only what is on the page is read, and one entry more.
fn list_page(connection: &Connection, space: &Space, range: PageRange) -> rusqlite::Result<ListPage<Message>> {
    let Some(space) = find(connection, space)? else {
        return Ok(ListPage::empty());
    };
    let (comparison, after) = match &range.after {
        Some(after) => (">", after.clone()),
        None => (">=", String::new()),
    };
    let mut select = connection.prepare(&format!(
        "SELECT identifier, text FROM log WHERE space = ?1 AND identifier {comparison} ?2 ORDER BY identifier"
    ))?;
    let mut rows = select.query((space, after))?;
    let (mut lowest, mut skipped) = (Lowest::of(range), 0_u64);
    while !lowest.is_full()
        && let Some(row) = rows.next()?
    {
        let (identifier, text) = (row.get_ref(0)?.as_bytes()?, row.get_ref(1)?.as_bytes()?);
        match (str::from_utf8(identifier), str::from_utf8(text)) {
            (Ok(identifier), Ok(text)) => {
                let message = Message {
                    identifier: identifier.to_owned(),
                    text: text.to_owned(),
                };
                lowest.put(identifier, text.len(), "", message);
            }
            _ => skipped = skipped.saturating_add(1),
        }
    }
    Ok(ListPage {
        skipped,
        ..lowest.into_page()
    })
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::engine::local::store::tests::{Folder, message};

    fn log(folder: &Folder) -> LocalLog {
        LocalLog::new(folder.store(), "logging", "messages")
    }

    async fn append(log: &LocalLog, messages: &[Message], if_present: IfPresent) -> Vec<Appended> {
        let outcomes = log.append(messages, if_present).await;
        outcomes.into_iter().map(Result::unwrap).collect()
    }

    async fn all(log: &LocalLog) -> (Vec<Message>, u64) {
        let pages: Vec<Page> = log.all().map(Result::unwrap).collect().await;
        let skipped = pages.iter().map(|page| page.skipped).sum();
        (pages.into_iter().flat_map(|page| page.messages).collect(), skipped)
    }

    #[tokio::test]
    async fn a_later_text_replaces_the_first_or_is_a_conflict_and_each_message_has_its_outcome() {
        use Appended::{Conflict, Stored};
        let folder = Folder::new();
        let log = log(&folder);
        let first = [message("1", "a"), message("2", "")];
        assert_eq!(append(&log, &first, IfPresent::Keep).await, [Stored, Stored]);
        let again = [message("2", "b"), message("1", "a"), message("3", "c\0\u{1D11E}")];
        assert_eq!(append(&log, &again, IfPresent::Keep).await, [Conflict, Stored, Stored]);
        let replaced = [message("2", "b"), message("1", "a")];
        assert_eq!(append(&log, &replaced, IfPresent::Replace).await, [Stored, Stored]);
        let expected = vec![message("1", "a"), message("2", "b"), message("3", "c\0\u{1D11E}")];
        assert_eq!(all(&log).await, (expected, 0));
        assert_eq!(append(&log, &[], IfPresent::Keep).await, []);
    }

    #[tokio::test]
    async fn a_text_of_the_longest_kind_is_kept_whole() {
        let folder = Folder::new();
        let log = log(&folder);
        let longest = message(&"i".repeat(256), &"ä".repeat(512 * 1024));
        append(&log, std::slice::from_ref(&longest), IfPresent::Replace).await;
        assert_eq!(all(&log).await, (vec![longest], 0));
    }

    #[tokio::test]
    async fn a_list_comes_in_pages_and_has_all_that_was_there_while_others_write() {
        let folder = Folder::new();
        let (log, other) = (log(&folder), log(&folder));
        let messages: Vec<Message> = (0..5500).map(|number| message(&format!("{number:05}"), "x")).collect();
        append(&log, &messages, IfPresent::Replace).await;
        let mut listed = Vec::new();
        let mut pages = log.all();
        while let Some(page) = pages.next().await {
            let page = page.unwrap().messages;
            assert!(page.len() <= PAGE_ENTRIES);
            let between = ["-", "02500x", "9"].map(|place| message(&format!("{place}{}", listed.len()), "new"));
            append(&other, &between, IfPresent::Replace).await;
            listed.extend(page);
        }
        let listed: Vec<Message> = listed.into_iter().filter(|message| message.text == "x").collect();
        assert!(listed == messages, "{} of {}", listed.len(), messages.len());
    }

    #[tokio::test]
    async fn a_page_has_about_a_mebibyte() {
        let folder = Folder::new();
        let log = log(&folder);
        let text = "x".repeat(300 * 1024);
        let messages: Vec<Message> = (0..10).map(|number| message(&number.to_string(), &text)).collect();
        append(&log, &messages, IfPresent::Replace).await;
        let sizes: Vec<usize> = log.all().map(|page| page.unwrap().messages.len()).collect().await;
        assert_eq!(sizes, [4, 4, 2]);
    }

    #[tokio::test]
    async fn entries_that_are_no_text_are_left_out_and_counted() {
        let folder = Folder::new();
        let log = log(&folder);
        append(&log, &[message("1", "a")], IfPresent::Replace).await;
        for entry in [
            "'2', CAST(x'FF' AS TEXT)",
            "CAST(x'FF' AS TEXT), 'b'",
            "'', 'without an identifier'",
        ] {
            let put = format!("INSERT INTO log (space, identifier, text) SELECT space, {entry} FROM log LIMIT 1");
            folder.other_program().execute(&put, ()).unwrap();
        }
        let (messages, skipped) = all(&log).await;
        assert_eq!(messages, [message("", "without an identifier"), message("1", "a")]);
        assert_eq!(skipped, 2);
    }

    #[tokio::test]
    async fn entries_that_are_no_text_are_left_out_of_a_page_and_do_not_end_it() {
        let folder = Folder::new();
        let log = log(&folder);
        append(&log, &[message("1", "a"), message("3", "c")], IfPresent::Replace).await;
        let longer = format!("'2{}', 'too long'", "x".repeat(256));
        for entry in ["'2', CAST(x'FF' AS TEXT)", "CAST(x'FF' AS TEXT), 'b'", &longer] {
            let put = format!("INSERT INTO log (space, identifier, text) SELECT space, {entry} FROM log LIMIT 1");
            folder.other_program().execute(&put, ()).unwrap();
        }
        let range = PageRange { after: None, limit: 2 };
        let page = log.page(&range).await.unwrap();
        assert_eq!(page.messages, [message("1", "a"), message("3", "c")]);
        assert_eq!((page.skipped, page.next), (2, None));
    }
}
