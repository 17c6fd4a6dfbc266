//! Reads an answer of `GET /messages`, `[[text…],[text…]]`, as it comes, and counts the texts of this run in it.

use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, SeqAccess, Visitor};

use crate::record::Ledger;
use crate::texts::Id;

/// How often each text of a run is in a list: a byte for each, whatever the length of the texts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tally(Vec<Vec<u8>>);

impl Tally {
    fn new(ledger: &Ledger) -> Tally {
        Tally(
            ledger
                .records
                .iter()
                .map(|record| vec![0; record.posts.len()])
                .collect(),
        )
    }

    fn count(&mut self, id: Id) {
        if let Some(times) = self.0.get_mut(id.client).and_then(|client| client.get_mut(id.counter)) {
            *times = times.saturating_add(1);
        }
    }

    /// The acknowledged texts that are in the list this often.
    fn acknowledged<'a>(&'a self, ledger: &'a Ledger, times: fn(u8) -> bool) -> impl Iterator<Item = Id> + 'a {
        let clients = self.0.iter().zip(&ledger.records).enumerate();
        clients.flat_map(move |(client, (counts, record))| {
            let posts = counts.iter().zip(&record.posts).enumerate();
            posts
                .filter(move |(_, (count, post))| post.is_some() && times(**count))
                .map(move |(counter, _)| Id { client, counter })
        })
    }

    /// The acknowledged texts that are not in the list.
    pub(crate) fn missing<'a>(&'a self, ledger: &'a Ledger) -> impl Iterator<Item = Id> + 'a {
        self.acknowledged(ledger, |times| times == 0)
    }

    /// The acknowledged texts that are in the list more than once.
    pub(crate) fn twice<'a>(&'a self, ledger: &'a Ledger) -> impl Iterator<Item = Id> + 'a {
        self.acknowledged(ledger, |times| times > 1)
    }
}

/// What both lists show.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) logs: Tally,
    pub(crate) messages: Tally,
}

/// Reads both lists to their end, in memory that does not grow with them.
///
/// # Errors
/// Where the body is anything but two lists of texts, or cannot be read.
pub(crate) fn read(body: impl Read, ledger: &Ledger) -> serde_json::Result<Shown> {
    let mut shown = Shown {
        logs: Tally::new(ledger),
        messages: Tally::new(ledger),
    };
    let mut json = serde_json::Deserializer::from_reader(body);
    let lists = Lists {
        ledger,
        tallies: [&mut shown.logs, &mut shown.messages],
    };
    json.deserialize_seq(lists)?;
    json.end()?;
    Ok(shown)
}

struct Lists<'a> {
    ledger: &'a Ledger,
    tallies: [&'a mut Tally; 2],
}

impl<'de> Visitor<'de> for Lists<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("two lists of texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut lists: A) -> Result<(), A::Error> {
        for (number, tally) in self.tallies.into_iter().enumerate() {
            let list = List {
                ledger: self.ledger,
                tally,
            };
            if lists.next_element_seed(list)?.is_none() {
                return Err(A::Error::invalid_length(number, &"two lists of texts"));
            }
        }
        match lists.next_element::<IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::invalid_length(3, &"two lists of texts")),
        }
    }
}

struct List<'a> {
    ledger: &'a Ledger,
    tally: &'a mut Tally,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, list: D) -> Result<(), D::Error> {
        list.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut texts: A) -> Result<(), A::Error> {
        while texts.next_element_seed(Text(&mut self))?.is_some() {}
        Ok(())
    }
}

struct Text<'a, 'b>(&'a mut List<'b>);

impl<'de> DeserializeSeed<'de> for Text<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<(), D::Error> {
        text.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if let Some(id) = self.0.ledger.texts.id(text) {
            self.0.tally.count(id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use serde_json::json;

    use super::*;
    use crate::record::Record;
    use crate::texts::Texts;

    const ACKNOWLEDGED: Option<NonZeroU32> = Some(NonZeroU32::MIN);

    /// Client 0 has two acknowledged texts; client 1 a failed one, and an acknowledged one.
    fn ledger() -> Ledger {
        let record = |posts: [Option<NonZeroU32>; 2]| Record {
            posts: posts.to_vec(),
            ..Record::default()
        };
        Ledger {
            texts: Texts::new(40),
            records: vec![record([ACKNOWLEDGED; 2]), record([None, ACKNOWLEDGED])],
        }
    }

    fn text(ledger: &Ledger, client: usize, counter: usize) -> String {
        ledger.texts.text(Id { client, counter })
    }

    /// The ids as (client, counter).
    fn ids(ids: impl Iterator<Item = Id>) -> Vec<(usize, usize)> {
        ids.map(|id| (id.client, id.counter)).collect()
    }

    #[test]
    fn an_acknowledged_text_is_missing_from_each_list_by_itself() {
        let ledger = ledger();
        let [first, second, last] = [(0, 0), (0, 1), (1, 1)].map(|(client, counter)| text(&ledger, client, counter));
        let body = json!([["never", last, first], [second]]).to_string();
        let shown = read(body.as_bytes(), &ledger).unwrap();
        assert_eq!(ids(shown.logs.missing(&ledger)), [(0, 1)]);
        assert_eq!(ids(shown.messages.missing(&ledger)), [(0, 0), (1, 1)]);
        assert_eq!(ids(shown.logs.twice(&ledger).chain(shown.messages.twice(&ledger))), []);
    }

    #[test]
    fn an_acknowledged_text_counts_once_as_twice_however_often_it_is_there() {
        let ledger = ledger();
        let all = [(0, 0), (0, 1), (1, 1)].map(|(client, counter)| text(&ledger, client, counter));
        let again = [&all[..], &vec![text(&ledger, 1, 1); 300]].concat();
        let body = json!([all, again]).to_string();
        let shown = read(body.as_bytes(), &ledger).unwrap();
        assert_eq!(
            ids(shown.logs.missing(&ledger).chain(shown.messages.missing(&ledger))),
            []
        );
        assert_eq!(ids(shown.logs.twice(&ledger)), []);
        assert_eq!(ids(shown.messages.twice(&ledger)), [(1, 1)]);
    }

    #[test]
    fn a_text_whose_post_failed_is_neither_missing_nor_twice() {
        let ledger = ledger();
        let all = [(0, 0), (0, 1), (1, 1), (1, 0), (1, 0)].map(|(client, counter)| text(&ledger, client, counter));
        let shown = read(json!([all, &all[..3]]).to_string().as_bytes(), &ledger).unwrap();
        let of_logs = shown.logs.missing(&ledger).chain(shown.logs.twice(&ledger));
        let of_messages = shown.messages.missing(&ledger).chain(shown.messages.twice(&ledger));
        assert_eq!(ids(of_logs.chain(of_messages)), []);
    }

    #[test]
    fn what_was_changed_or_never_posted_stands_for_nothing() {
        let ledger = ledger();
        let changed = text(&ledger, 0, 0).replace("xx", "xé");
        let never = [text(&ledger, 0, 2), text(&ledger, 2, 0)];
        let body = json!([[changed, "\u{1}\"\\", ""], never]).to_string();
        let shown = read(body.as_bytes(), &ledger).unwrap();
        assert_eq!(ids(shown.logs.missing(&ledger)).len(), 3);
        assert_eq!(ids(shown.messages.missing(&ledger)).len(), 3);
    }

    #[test]
    fn only_two_whole_lists_of_texts_can_be_read() {
        let ledger = ledger();
        assert!(read(&b" [ [\"a\"] , [] ]\n"[..], &ledger).is_ok());
        for bad in [
            "",
            "[",
            "[[],[]",
            "[[],[\"a\"",
            "[[]]",
            "[[],[],[]]",
            "[[],[]] x",
            "[[1],[]]",
            "[[[]],[]]",
            "[\"a\",[]]",
            "{}",
            "null",
            "{\"error\":{}}",
        ] {
            assert!(read(bad.as_bytes(), &ledger).is_err(), "{bad:?}");
        }
    }
}
