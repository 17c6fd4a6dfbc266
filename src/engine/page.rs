//! Pages of a list: keyset pagination, in the order of the identifiers.
//!
//! A page is told by the identifier that it comes after, not by a number: what is added or removed meanwhile moves nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

#[cfg(test)]
use futures_util::stream::{BoxStream, StreamExt};

#[cfg(test)]
use super::Result;
use crate::message::MAX_IDENTIFIER_BYTES;
#[cfg(test)]
use crate::message::Message;

/// Most messages on a page.
pub const MAX_PAGE_MESSAGES: usize = 1000;

/// A page that has so many bytes of texts ends, whatever was asked for: 1 MiB.
pub const PAGE_TEXT_BYTES: usize = 1024 * 1024;

/// Which part of a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRange {
    /// Only messages whose identifiers come after this one, bytewise. `None`: from the first one on.
    pub after: Option<String>,
    /// Most messages, from 1 to [`MAX_PAGE_MESSAGES`].
    pub limit: usize,
}

/// A part of a list, in the order of the identifiers, bytewise; each identifier is there once.
///
/// It ends at the limit that was asked for, at [`PAGE_TEXT_BYTES`] of texts, or with the list. What has an identifier of more
/// than [`MAX_IDENTIFIER_BYTES`], or anything else longer than it is here, is on no page: only other programs can have put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage<T> {
    /// The messages. Fewer than the limit say nothing of whether there are more: see `next`.
    pub messages: Vec<T>,
    /// Entries of this part that are no message and were left out.
    pub skipped: u64,
    /// After which identifier the next page begins; `None` where nothing follows.
    pub next: Option<String>,
}

impl<T> ListPage<T> {
    /// A page of a list that has nothing there.
    pub(super) fn empty() -> Self {
        Self {
            messages: Vec::new(),
            skipped: 0,
            next: None,
        }
    }
}

/// A page of what comes part by part, for doubles: each part is its messages, and how many entries of it were left out.
#[cfg(test)]
pub(crate) async fn of_parts<T>(
    range: &PageRange,
    mut parts: BoxStream<'_, Result<(Vec<T>, u64)>>,
    message: fn(&T) -> &Message,
) -> Result<ListPage<T>> {
    let mut lowest = Lowest::of(range.clone());
    let mut skipped = 0_u64;
    while let Some((items, left_out)) = parts.next().await.transpose()? {
        skipped = skipped.saturating_add(left_out);
        for item in items {
            let Message { identifier, text } = message(&item);
            let (identifier, bytes) = (identifier.clone(), text.len());
            lowest.put(&identifier, bytes, "", item);
        }
    }
    Ok(ListPage {
        skipped,
        ..lowest.into_page()
    })
}

/// Makes a page of messages that come in any order, and keeps no more of them than are on it.
#[derive(Debug)]
pub(super) struct Lowest<T> {
    range: PageRange,
    /// By identifier.
    kept: BTreeMap<String, Kept<T>>,
    /// Of the texts of what is kept.
    bytes: usize,
    /// The lowest identifier that had no place: what comes from there on has none either.
    ceiling: Option<String>,
}

#[derive(Debug)]
struct Kept<T> {
    bytes: usize,
    /// Of several under one identifier, the one of the lowest rank is kept.
    rank: String,
    item: T,
}

impl<T> Lowest<T> {
    /// Nothing so far.
    pub(super) fn of(range: PageRange) -> Self {
        Self {
            range,
            kept: BTreeMap::new(),
            bytes: 0,
            ceiling: None,
        }
    }

    /// Whether what has this identifier may be on the page.
    pub(super) fn takes(&self, identifier: &str) -> bool {
        let is_after = self.range.after.as_deref().is_none_or(|after| identifier > after);
        let is_below = self.ceiling.as_deref().is_none_or(|ceiling| identifier < ceiling);
        is_after && is_below && identifier.len() <= MAX_IDENTIFIER_BYTES
    }

    /// Whether something had no place, so that of what comes in the order of identifiers nothing more has.
    pub(super) fn is_full(&self) -> bool {
        self.ceiling.is_some()
    }

    /// Takes what has so many `bytes` of text, where it [has a place](Self::takes).
    pub(super) fn put(&mut self, identifier: &str, bytes: usize, rank: &str, item: T) {
        if !self.takes(identifier) {
            return;
        }
        let kept = Kept {
            bytes,
            rank: rank.to_owned(),
            item,
        };
        match self.kept.entry(identifier.to_owned()) {
            Entry::Vacant(vacant) => {
                vacant.insert(kept);
            }
            Entry::Occupied(mut standing) if kept.rank < standing.get().rank => {
                self.bytes = self.bytes.saturating_sub(standing.get().bytes);
                standing.insert(kept);
            }
            Entry::Occupied(_) => return,
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.shrink();
    }

    /// Drops the last ones that have no place: one has where there are fewer before it than the limit, with fewer bytes of texts
    /// than [`PAGE_TEXT_BYTES`].
    fn shrink(&mut self) {
        while let Some(last) = self.kept.last_entry() {
            let before = self.bytes.saturating_sub(last.get().bytes);
            let has_place = self.kept.len() <= self.range.limit && before < PAGE_TEXT_BYTES;
            if has_place || self.kept.len() == 1 {
                break;
            }
            if let Some((identifier, _)) = self.kept.pop_last() {
                self.bytes = before;
                self.ceiling = Some(identifier);
            }
        }
    }

    /// The identifiers on the page, once all were put in, and after which one the next page begins.
    pub(super) fn into_identifiers(self) -> (Vec<String>, Option<String>) {
        let identifiers: Vec<String> = self.kept.into_keys().collect();
        let next = self.ceiling.and(identifiers.last().cloned());
        (identifiers, next)
    }

    /// The page, once all were put in.
    pub(super) fn into_page(self) -> ListPage<T> {
        let last = self.kept.last_key_value().map(|(identifier, _)| identifier.clone());
        ListPage {
            messages: self.kept.into_values().map(|kept| kept.item).collect(),
            skipped: 0,
            next: self.ceiling.and(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(after: Option<&str>, limit: usize) -> PageRange {
        PageRange {
            after: after.map(str::to_owned),
            limit,
        }
    }

    /// The page of these identifiers, each with so many bytes, put in in this order.
    fn page<'a>(range: PageRange, items: impl IntoIterator<Item = (&'a str, usize)>) -> (Vec<String>, Option<String>) {
        let mut lowest = Lowest::of(range);
        for (identifier, bytes) in items {
            lowest.put(identifier, bytes, "", identifier.to_owned());
            assert!(lowest.kept.len() <= lowest.range.limit);
        }
        let page = lowest.into_page();
        (page.messages, page.next)
    }

    /// All orders of five things.
    fn orders() -> Vec<[usize; 5]> {
        let all = (0..5_usize.pow(5)).map(|number| [1, 5, 25, 125, 625].map(|place| number / place % 5));
        let orders = all.filter(|order| (0..5).all(|thing| order.contains(&thing)));
        orders.collect()
    }

    #[test]
    fn whatever_the_order_the_page_has_the_lowest_after_the_one_named_in_their_order() {
        let all = ["", "A", "a", "a\0", "\u{1D11E}"];
        assert_eq!(orders().len(), 120);
        for order in orders() {
            let items = order.map(|place| (all[place], 1));
            for begin in 0..=5_usize {
                let after = begin.checked_sub(1).map(|place| all[place]);
                for limit in 1..=6 {
                    let end = 5.min(begin + limit);
                    let next = (end < 5).then(|| all[end - 1].to_owned());
                    let expected = (all[begin..end].iter().map(|&item| item.to_owned()).collect(), next);
                    assert_eq!(
                        page(range(after, limit), items),
                        expected,
                        "{order:?} {after:?} {limit}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_order_is_that_of_the_bytes() {
        // UTF-16, by which Java compares, has them the other way round.
        let (messages, _) = page(range(None, 9), [("\u{1D11E}", 1), ("\u{FF5E}", 1)]);
        assert_eq!(messages, ["\u{FF5E}", "\u{1D11E}"]);
    }

    #[test]
    fn whatever_the_order_the_page_ends_where_its_texts_have_a_mebibyte() {
        let sizes = [
            ("a", PAGE_TEXT_BYTES / 2),
            ("b", PAGE_TEXT_BYTES / 2 - 1),
            ("c", PAGE_TEXT_BYTES),
            ("d", 0),
            ("e", 1),
        ];
        for order in orders() {
            let items = order.map(|place| sizes[place]);
            let (messages, next) = page(range(None, 9), items);
            assert_eq!(
                (messages.concat().as_str(), next.as_deref()),
                ("abc", Some("c")),
                "{order:?}"
            );
            let (messages, next) = page(range(Some("b"), 9), items);
            assert_eq!(
                (messages.concat().as_str(), next.as_deref()),
                ("c", Some("c")),
                "{order:?}"
            );
            let (messages, next) = page(range(Some("c"), 9), items);
            assert_eq!((messages.concat().as_str(), next), ("de", None), "{order:?}");
        }
    }

    #[test]
    fn of_several_under_one_identifier_the_one_of_the_lowest_rank_stays_and_nothing_is_passed_over() {
        let large = PAGE_TEXT_BYTES;
        let items = [
            ("b", large, "2"),
            ("a", large, "2"),
            ("a", 1, "1"),
            ("c", 1, "1"),
            ("a", 1, "3"),
        ];
        let mut lowest = Lowest::of(range(None, 9));
        for (identifier, bytes, rank) in items {
            lowest.put(identifier, bytes, rank, (identifier, rank));
        }
        // That "b" would have a place now is seen too late; it is the first on the next page.
        let page = lowest.into_page();
        assert_eq!((page.messages, page.next.as_deref()), (vec![("a", "1")], Some("a")));
    }

    #[test]
    fn what_is_too_long_for_an_identifier_is_on_no_page() {
        let longest = "a".repeat(MAX_IDENTIFIER_BYTES);
        let longer = "a".repeat(MAX_IDENTIFIER_BYTES + 1);
        let (messages, next) = page(range(None, 9), [(longer.as_str(), 1), (longest.as_str(), 1)]);
        assert_eq!((messages, next), (vec![longest], None));
    }
}
