//! The index of what was delivered, by identifier: what pages of it are read by.
//!
//! Who delivers adds to it in the same transaction. A file in which a program that does not know the index delivered has a gap;
//! then the next one who asks for a page fills it first, a little at a time.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension};

use super::store::{Space, Writing, find};
use crate::engine::batch_json::{Delivered, read_delivered};
use crate::engine::page::Lowest;
use crate::engine::{DeliveredMessage, ListPage, PageRange};
use crate::message::MAX_IDENTIFIER_BYTES;

/// How many bytes of entries are looked at to fill a gap, before others may write.
pub(super) const CATCH_UP_BYTES: usize = 4 * 1024 * 1024;

const ADD: &str =
    "INSERT INTO delivered_identifier (space, identifier, delivered) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";

/// Adds what was delivered as this row, the last one, unless there is a gap before it.
pub(super) fn add(
    writing: &mut Writing<'_>,
    space: i64,
    row: i64,
    delivered: Option<&Delivered<'_>>,
) -> rusqlite::Result<()> {
    let move_on = writing.statement("UPDATE delivered_indexed SET row = ?1 WHERE row = ?1 - 1")?;
    if move_on.execute([row])? == 0 {
        return Ok(());
    }
    for message in delivered.iter().flat_map(|delivered| delivered.messages()) {
        if message.identifier.len() <= MAX_IDENTIFIER_BYTES {
            writing.statement(ADD)?.execute((space, &*message.identifier, row))?;
        }
    }
    Ok(())
}

/// Adds the first rows that are missing.
pub(super) fn catch_up(writing: &mut Writing<'_>) -> rusqlite::Result<()> {
    let select = writing.statement(
        "SELECT id, space, entry FROM delivered WHERE id > (SELECT row FROM delivered_indexed) ORDER BY id",
    )?;
    let mut rows = select.query(())?;
    let (mut missing, mut last, mut bytes) = (Vec::new(), None, 0_usize);
    while bytes < CATCH_UP_BYTES
        && let Some(row) = rows.next()?
    {
        let (id, space, entry) = (row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get_ref(2)?);
        last = Some(id);
        bytes = bytes.saturating_add(entry.as_bytes()?.len());
        let delivered = entry.as_str().ok().and_then(read_delivered);
        for message in delivered.iter().flat_map(Delivered::messages) {
            if message.identifier.len() <= MAX_IDENTIFIER_BYTES {
                missing.push((space, message.identifier.to_string(), id));
            }
        }
    }
    drop(rows);
    for entry in missing {
        writing.statement(ADD)?.execute(entry)?;
    }
    if let Some(last) = last {
        writing
            .statement("UPDATE delivered_indexed SET row = ?1")?
            .execute([last])?;
    }
    Ok(())
}

/// What a page has to show: all rows up to this one were delivered before it was asked for.
pub(super) fn last_row(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(id), 0) FROM delivered", (), |row| row.get(0))
}

/// The page; `None` where the index does not reach as far as the row `last`.
pub(super) fn page(
    connection: &Connection,
    space: &Space,
    range: PageRange,
    last: i64,
) -> rusqlite::Result<Option<ListPage<DeliveredMessage>>> {
    let reaches = "SELECT row >= ?1 FROM delivered_indexed";
    if !connection.query_row(reaches, [last], |row| row.get(0))? {
        return Ok(None);
    }
    let Some(space) = find(connection, space)? else {
        return Ok(Some(ListPage::empty()));
    };
    let (comparison, after) = match &range.after {
        Some(after) => (">", after.clone()),
        None => (">=", String::new()),
    };
    let mut select = connection.prepare(&format!(
        "SELECT identifier, delivered FROM delivered_identifier WHERE space = ?1 AND identifier {comparison} ?2
         ORDER BY identifier, delivered"
    ))?;
    let mut read = connection.prepare("SELECT batch, entry FROM delivered WHERE id = ?1")?;
    let mut rows = select.query((space, after))?;
    let (mut lowest, mut known) = (Lowest::of(range), HashSet::new());
    while let Some(row) = rows.next()? {
        let (identifier, id) = (row.get_ref(0)?.as_str()?, row.get::<_, i64>(1)?);
        if !lowest.takes(identifier) {
            break;
        }
        // All that it has of the page is put there at once.
        if known.insert(id) {
            let put = |row: &rusqlite::Row<'_>| {
                let (batch, entry) = (row.get_ref(0)?.as_str(), row.get_ref(1)?.as_str());
                if let (Ok(batch), Some(delivered)) = (batch, entry.ok().and_then(read_delivered)) {
                    delivered.put_on(&mut lowest, batch);
                }
                Ok(())
            };
            read.query_row([id], put).optional()?;
        }
    }
    Ok(Some(lowest.into_page()))
}

#[cfg(test)]
mod tests {
    use crate::engine::local::LocalMailbox;
    use crate::engine::local::store::tests::{Folder, message};
    use crate::engine::{Batch, ListPage, Mailbox, PageRange};

    fn mailbox(folder: &Folder) -> LocalMailbox {
        LocalMailbox::new(folder.store(), "mq", "messaging_queue")
    }

    async fn store(mailbox: &LocalMailbox, id: &str, identifiers: &[&str]) {
        let messages = identifiers
            .iter()
            .map(|identifier| message(identifier, "a text"))
            .collect();
        let id = id.to_owned();
        mailbox.store(&Batch { id, messages }, "me").await.unwrap();
    }

    async fn identifiers(mailbox: &LocalMailbox) -> String {
        let range = PageRange {
            after: None,
            limit: 1000,
        };
        let ListPage { messages, next, .. } = mailbox.page(&range).await.unwrap();
        assert_eq!(next, None);
        messages
            .into_iter()
            .map(|delivered| delivered.message.identifier)
            .collect()
    }

    fn count(folder: &Folder, from: &str) -> i64 {
        let count = format!("SELECT count(*) FROM {from}");
        folder.other_program().query_row(&count, (), |row| row.get(0)).unwrap()
    }

    #[tokio::test]
    async fn who_delivers_adds_to_the_index_and_a_page_writes_nothing() {
        let folder = Folder::new();
        let mailbox = mailbox(&folder);
        store(&mailbox, "1", &["c", "a"]).await;
        store(&mailbox, "2", &["b"]).await;
        store(&mailbox, "2", &["b"]).await;
        assert_eq!(count(&folder, "delivered_identifier"), 3);
        folder
            .other_program()
            .execute("DELETE FROM delivered_identifier WHERE identifier = 'b'", ())
            .unwrap();
        assert_eq!(identifiers(&mailbox).await, "ac", "the index is what pages are read by");
    }

    #[tokio::test]
    async fn what_a_program_delivered_that_knows_no_index_is_added_by_the_next_page() {
        let folder = Folder::new();
        let earlier = mailbox(&folder);
        store(&earlier, "1", &["c", "a"]).await;
        drop(earlier);
        // As an earlier program made the file.
        let drop_index = "DROP TABLE delivered_identifier; DROP TABLE delivered_indexed";
        folder.other_program().execute_batch(drop_index).unwrap();
        let mailbox = mailbox(&folder);
        store(&mailbox, "2", &["b"]).await;
        assert_eq!(count(&folder, "delivered_identifier"), 0, "there is a gap before it");
        assert_eq!(identifiers(&mailbox).await, "abc");
        // As one delivers that still runs.
        let deliver = "INSERT INTO delivered (space, batch, entry)
                       SELECT space, '3', replace(entry, '\"b\"', '\"d\"') FROM delivered WHERE batch = '2'";
        assert_eq!(folder.other_program().execute(deliver, ()).unwrap(), 1);
        store(&mailbox, "4", &["e"]).await;
        assert_eq!(identifiers(&mailbox).await, "abcde");
        store(&mailbox, "5", &["f"]).await;
        assert_eq!(
            count(&folder, "delivered_identifier"),
            6,
            "without a gap it is added at once"
        );
        assert_eq!(identifiers(&mailbox).await, "abcdef");
    }

    #[tokio::test]
    async fn a_gap_of_more_than_is_looked_at_at_once_is_filled_in_steps() {
        let folder = Folder::new();
        let mailbox = mailbox(&folder);
        let text = "x".repeat(1024 * 1024);
        for identifier in ["a", "b", "c", "d", "e", "f"] {
            let messages = vec![message(identifier, &text)];
            let id = identifier.to_owned();
            mailbox.store(&Batch { id, messages }, "me").await.unwrap();
        }
        folder
            .other_program()
            .execute_batch("DELETE FROM delivered_identifier; UPDATE delivered_indexed SET row = 0")
            .unwrap();
        let range = PageRange {
            after: Some("e".to_owned()),
            limit: 1,
        };
        let page = mailbox.page(&range).await.unwrap();
        assert_eq!(page.messages[0].message.identifier, "f");
        assert_eq!(count(&folder, "delivered_identifier"), 6);
    }

    #[tokio::test]
    async fn entries_that_are_no_deliveries_and_identifiers_that_are_too_long_are_on_no_page() {
        let folder = Folder::new();
        let mailbox = mailbox(&folder);
        store(&mailbox, "1", &["a", &"b".repeat(257)]).await;
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
        assert_eq!(identifiers(&mailbox).await, "a");
        store(&mailbox, "2", &["b"]).await;
        assert_eq!(identifiers(&mailbox).await, "ab");
    }
}
