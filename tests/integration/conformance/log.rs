//! The cases of [`LogStore`].

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use svc::engine::{Appended, IfPresent, ListPage, LogStore, Page, PageRange, Standing};
use svc::message::Message;

use super::{Folder, cases, engines_in, patiently, ready, unique};
use crate::support::engines::Engines;
use crate::support::{ports, texts};

cases! { hazelcast folder: {
    what_is_appended_is_in_the_log,
    texts_and_identifiers_of_all_kinds_come_back_as_they_were,
    the_last_text_replaces_the_others_where_it_may,
    the_first_text_stays_where_it_is_to_be_kept,
    outcomes_are_in_the_order_of_the_messages,
    of_ten_who_append_one_identifier_at_once_one_is_kept,
    all_shows_each_of_thousands_once,
    pages_followed_to_the_end_show_each_once_in_the_order_of_the_bytes,
    a_page_begins_behind_an_identifier_whether_or_not_that_is_there,
    a_page_of_an_empty_log_is_empty_and_the_last,
    a_page_ends_where_its_texts_have_a_mebibyte,
    what_is_appended_behind_the_last_page_is_on_a_later_one_and_what_is_removed_on_none,
    pages_that_are_asked_for_at_once_are_each_what_was_asked_for,
    a_log_that_was_cleared_is_empty_and_takes_messages_again,
    what_is_removed_is_gone_and_nothing_else,
    what_was_never_vouched_for_is_unknown_unless_nothing_can_be_lost,
    nothing_appended_is_nothing_done,
    another_process_sees_the_same_log_and_no_other,
} }

/// A log of a case's own.
struct Own {
    log: Arc<dyn LogStore>,
    name: String,
    /// `None`: on the cluster that all cases share.
    folder: Option<Folder>,
}

impl Own {
    async fn hazelcast() -> Self {
        Self::at(None).await
    }

    async fn folder() -> Self {
        Self::at(Some(Folder::new())).await
    }

    async fn at(folder: Option<Folder>) -> Self {
        let name = unique();
        let log = open(folder.as_ref(), &name).await;
        Self { log, name, folder }
    }

    /// A log as another process has it.
    async fn another(&self, name: &str) -> Arc<dyn LogStore> {
        open(self.folder.as_ref(), name).await
    }

    /// Appends what all has to be stored.
    async fn append(&self, messages: &[Message]) {
        for some in messages.chunks(200) {
            for outcome in append(&*self.log, some, IfPresent::Replace).await {
                assert_eq!(outcome, Appended::Stored);
            }
        }
    }

    async fn append_one(&self, identifier: &str, text: &str, if_present: IfPresent) -> Appended {
        let outcomes = append(&*self.log, &[message(identifier, text)], if_present).await;
        assert_eq!(outcomes.len(), 1);
        outcomes[0]
    }

    async fn clear(&self) {
        patiently(async || self.log.clear().await).await;
    }

    async fn all(&self) -> BTreeMap<String, String> {
        all(&*self.log).await
    }
}

async fn open(folder: Option<&Folder>, name: &str) -> Arc<dyn LogStore> {
    let log = match folder {
        None => ports::log(&Engines::shared().logging, name).await,
        Some(folder) => engines_in(folder).log("logging", name, &[]).await.unwrap(),
    };
    ready(&*log).await;
    log
}

/// What becomes of these messages in the end; to append one again changes nothing.
async fn append(log: &dyn LogStore, messages: &[Message], if_present: IfPresent) -> Vec<Appended> {
    patiently(async || log.append(messages, if_present).await.into_iter().collect()).await
}

fn message(identifier: impl Into<String>, text: impl Into<String>) -> Message {
    Message {
        identifier: identifier.into(),
        text: text.into(),
    }
}

async fn pages(log: &dyn LogStore) -> Vec<Page> {
    patiently(async || log.all().try_collect().await).await
}

/// All that is in the log, each once.
async fn all(log: &dyn LogStore) -> BTreeMap<String, String> {
    let pages = pages(log).await;
    assert_eq!(pages.iter().map(|page| page.skipped).sum::<u64>(), 0);
    let count: usize = pages.iter().map(|page| page.messages.len()).sum();
    let messages = pages.into_iter().flat_map(|page| page.messages);
    let all: BTreeMap<String, String> = messages.map(|message| (message.identifier, message.text)).collect();
    assert_eq!(all.len(), count, "each is there once");
    all
}

fn map<const N: usize>(entries: [(&str, &str); N]) -> BTreeMap<String, String> {
    entries
        .map(|(identifier, text)| (identifier.to_owned(), text.to_owned()))
        .into()
}

async fn what_is_appended_is_in_the_log(own: Own) {
    assert_eq!(own.all().await, map([]));
    own.append(&[message("a", "one"), message("b", "two")]).await;
    own.append(&[message("c", "one")]).await;
    assert_eq!(own.all().await, map([("a", "one"), ("b", "two"), ("c", "one")]));
    assert_eq!(own.log.object_name(), own.name);
    own.log.check().unwrap();
}

async fn texts_and_identifiers_of_all_kinds_come_back_as_they_were(own: Own) {
    let mut expected = BTreeMap::new();
    let texts = texts::difficult();
    assert!(texts.contains(&String::new()) && texts.iter().any(|text| text.len() == 1024 * 1024));
    for (number, text) in texts.into_iter().enumerate() {
        if (1..=256).contains(&text.len()) {
            expected.insert(text.clone(), format!("named {number}"));
        }
        expected.insert(format!("text-{number}"), text);
    }
    let long = [
        "x".repeat(256),
        "\u{1D11E}".repeat(64),
        "\0".repeat(256),
        "%/../'\"; --".to_owned(),
        " ".to_owned(),
    ];
    // Of which one is not another's beginning, nor its other case.
    let alike = ["A", "a", "a ", " a", "aa", "a\0"];
    for identifier in long.iter().map(String::as_str).chain(alike) {
        expected.insert(identifier.to_owned(), format!("of {identifier}"));
    }
    let messages: Vec<Message> = expected
        .iter()
        .map(|(identifier, text)| message(identifier, text))
        .collect();
    own.append(&messages).await;
    assert!(own.all().await == expected);
    for outcome in append(&*own.log, &messages, IfPresent::Keep).await {
        assert_eq!(outcome, Appended::Stored, "the same text is no conflict");
    }
    assert!(own.all().await == expected);
}

async fn the_last_text_replaces_the_others_where_it_may(own: Own) {
    for text in ["one", "two", "", "two", "two"] {
        assert_eq!(own.append_one("a", text, IfPresent::Replace).await, Appended::Stored);
        assert_eq!(own.all().await, map([("a", text)]));
    }
}

async fn the_first_text_stays_where_it_is_to_be_kept(own: Own) {
    for (text, outcome) in [
        ("one", Appended::Stored),
        ("two", Appended::Conflict),
        ("one", Appended::Stored),
        ("", Appended::Conflict),
    ] {
        assert_eq!(own.append_one("a", text, IfPresent::Keep).await, outcome, "{text:?}");
        assert_eq!(own.all().await, map([("a", "one")]));
    }
    assert_eq!(own.append_one("b", "", IfPresent::Keep).await, Appended::Stored);
    assert_eq!(own.append_one("b", "two", IfPresent::Keep).await, Appended::Conflict);
    assert_eq!(own.append_one("a", "two", IfPresent::Replace).await, Appended::Stored);
    assert_eq!(own.append_one("a", "one", IfPresent::Keep).await, Appended::Conflict);
}

async fn outcomes_are_in_the_order_of_the_messages(own: Own) {
    let known: Vec<Message> = (0..500).map(|n| message(n.to_string(), "known")).collect();
    own.append(&known).await;
    let mut expected: BTreeMap<String, String> = known
        .into_iter()
        .map(|message| (message.identifier, message.text))
        .collect();
    // Every third is known with another text, every third with the same one, and the rest not at all.
    let messages: Vec<Message> = (0..900)
        .map(|n| match n % 3 {
            0 => message((n / 3).to_string(), "another"),
            1 => message((n / 3).to_string(), "known"),
            _ => message(format!("new-{n}"), "new"),
        })
        .collect();
    let outcomes = append(&*own.log, &messages, IfPresent::Keep).await;
    assert_eq!(outcomes.len(), messages.len());
    for (message, outcome) in messages.iter().zip(outcomes) {
        let is_conflict = message.text == "another";
        assert_eq!(outcome == Appended::Conflict, is_conflict, "{message:?}: {outcome:?}");
    }
    let new = messages.into_iter().filter(|message| message.text == "new");
    expected.extend(new.map(|message| (message.identifier, message.text)));
    assert!(own.all().await == expected);
}

async fn of_ten_who_append_one_identifier_at_once_one_is_kept(own: Own) {
    let mut logs = Vec::new();
    for _ in 0..10 {
        logs.push(own.another(&own.name).await);
    }
    for round in 0..5 {
        let appends = logs.iter().enumerate().map(async |(number, log)| {
            let message = message(round.to_string(), number.to_string());
            let outcomes = append(&**log, slice::from_ref(&message), IfPresent::Keep).await;
            (message.text, outcomes[0])
        });
        let outcomes = join_all(appends).await;
        let stored: Vec<&String> = outcomes
            .iter()
            .filter(|(_, outcome)| *outcome == Appended::Stored)
            .map(|(text, _)| text)
            .collect();
        let all = own.all().await;
        assert_eq!(stored, [&all[&round.to_string()]], "{outcomes:?}");
    }
}

async fn all_shows_each_of_thousands_once(own: Own) {
    let messages: Vec<Message> = (0..6000)
        .map(|n| message(format!("k{n}"), format!("{n} {}", "x".repeat(n % 700))))
        .collect();
    own.append(&messages).await;
    let expected: BTreeMap<String, String> = messages
        .into_iter()
        .map(|message| (message.identifier, message.text))
        .collect();
    assert!(own.all().await == expected);
    assert!(pages(&*own.log).await.len() > 1, "it comes in parts");
}

fn range(after: Option<&str>, limit: usize) -> PageRange {
    PageRange {
        after: after.map(str::to_owned),
        limit,
    }
}

async fn page(log: &dyn LogStore, after: Option<&str>, limit: usize) -> ListPage<Message> {
    let range = range(after, limit);
    let page = patiently(async || log.page(&range).await).await;
    assert_eq!(page.skipped, 0);
    assert!(page.messages.len() <= limit);
    page
}

/// Identifiers on the page, and where the next one begins.
async fn identifiers(log: &dyn LogStore, after: Option<&str>, limit: usize) -> (Vec<String>, Option<String>) {
    let page = page(log, after, limit).await;
    let identifiers = page.messages.into_iter().map(|message| message.identifier);
    (identifiers.collect(), page.next)
}

async fn pages_followed_to_the_end_show_each_once_in_the_order_of_the_bytes(own: Own) {
    let alike = [
        "A",
        "a",
        "a ",
        " a",
        "aa",
        "a\0",
        "\0",
        "\u{FF5E}",
        "\u{1D11E}",
        "%2B",
        "+",
        "ä",
        "z",
    ];
    let mut messages: Vec<Message> = (0..1500)
        .map(|n| message(format!("k{n}"), format!("text {n}")))
        .collect();
    messages.extend(alike.map(|identifier| message(identifier, format!("of {identifier}"))));
    messages.push(message("\u{1D11E}".repeat(64), "the longest"));
    own.append(&messages).await;
    messages.sort_by(|a, b| a.identifier.as_bytes().cmp(b.identifier.as_bytes()));
    for limit in [1000, 757, 250] {
        let (mut followed, mut after) = (Vec::new(), None);
        loop {
            let page = page(&*own.log, after.as_deref(), limit).await;
            followed.extend(page.messages);
            after = page.next;
            if after.is_none() {
                break;
            }
            assert_eq!(followed.len() % limit, 0, "a page is full where another one follows");
        }
        assert!(
            followed == messages,
            "{limit}: {} of {}",
            followed.len(),
            messages.len()
        );
    }
}

async fn a_page_begins_behind_an_identifier_whether_or_not_that_is_there(own: Own) {
    own.append(&["a", "b", "d", "e"].map(|identifier| message(identifier, "t")))
        .await;
    for (after, limit, expected, next) in [
        (None, 2, "ab", Some("b")),
        (Some(""), 1, "a", Some("a")),
        (Some("b"), 1, "d", Some("d")),
        (Some("c"), 1, "d", Some("d")),
        (Some("c"), 2, "de", None),
        (Some("c"), 1000, "de", None),
        (Some("d\0"), 1, "e", None),
        (Some("e"), 1, "", None),
        (Some("\u{10FFFF}"), 1, "", None),
    ] {
        let (found, found_next) = identifiers(&*own.log, after, limit).await;
        assert_eq!(
            (found.concat().as_str(), found_next.as_deref()),
            (expected, next),
            "{after:?} {limit}"
        );
    }
}

async fn a_page_of_an_empty_log_is_empty_and_the_last(own: Own) {
    for after in [None, Some("a")] {
        assert_eq!(identifiers(&*own.log, after, 1000).await, (vec![], None));
    }
    own.append(&[message("a", "t")]).await;
    own.clear().await;
    assert_eq!(identifiers(&*own.log, None, 1).await, (vec![], None));
}

async fn a_page_ends_where_its_texts_have_a_mebibyte(own: Own) {
    let sizes = [("a", 300), ("b", 1024), ("c", 1024), ("d", 1023), ("e", 1), ("f", 0)];
    let messages = sizes.map(|(identifier, kib)| message(identifier, "x".repeat(kib * 1024)));
    own.append(&messages).await;
    for (after, expected, next) in [
        (None, "ab", Some("b")),
        (Some("a"), "b", Some("b")),
        (Some("b"), "c", Some("c")),
        (Some("c"), "de", Some("e")),
        (Some("d"), "ef", None),
    ] {
        let (found, found_next) = identifiers(&*own.log, after, 1000).await;
        assert_eq!(
            (found.concat().as_str(), found_next.as_deref()),
            (expected, next),
            "{after:?}"
        );
    }
}

async fn what_is_appended_behind_the_last_page_is_on_a_later_one_and_what_is_removed_on_none(own: Own) {
    own.append(&["b", "d", "f"].map(|identifier| message(identifier, "t")))
        .await;
    let (first, next) = identifiers(&*own.log, None, 2).await;
    assert_eq!(
        (first, next.as_deref()),
        (vec!["b".to_owned(), "d".to_owned()], Some("d"))
    );
    let another = own.another(&own.name).await;
    append(
        &*another,
        &["a", "c", "e", "g"].map(|identifier| message(identifier, "t")),
        IfPresent::Keep,
    )
    .await;
    let gone = ["f".to_owned()];
    patiently(async || another.remove(&gone).await).await;
    let (second, next) = identifiers(&*own.log, next.as_deref(), 2).await;
    assert_eq!((second, next), (vec!["e".to_owned(), "g".to_owned()], None));
    own.append(&[message("e", "new")]).await;
    assert_eq!(page(&*own.log, Some("d"), 1).await.messages, [message("e", "new")]);
}

async fn pages_that_are_asked_for_at_once_are_each_what_was_asked_for(own: Own) {
    let messages: Vec<Message> = (0..300).map(|n| message(format!("{n:03}"), "t")).collect();
    own.append(&messages).await;
    let asked = (0..60).map(async |n| {
        let (begin, limit) = (n * 5, n % 7 + 1);
        let after = format!("{begin:03}");
        let page = page(&*own.log, Some(&after), limit).await;
        let end = 300.min(begin + 1 + limit);
        assert_eq!(page.messages, messages[begin + 1..end], "{after} {limit}");
        assert_eq!(page.next.is_some(), end < 300);
    });
    join_all(asked).await;
}

async fn a_log_that_was_cleared_is_empty_and_takes_messages_again(own: Own) {
    own.clear().await;
    own.append(&(0..1000).map(|n| message(n.to_string(), "x")).collect::<Vec<_>>())
        .await;
    own.clear().await;
    assert_eq!(own.all().await, map([]));
    assert_eq!(own.append_one("1", "y", IfPresent::Keep).await, Appended::Stored);
    assert_eq!(own.all().await, map([("1", "y")]));
}

async fn what_is_removed_is_gone_and_nothing_else(own: Own) {
    own.append(&[message("a", "one"), message("A", "two"), message("b", "three")])
        .await;
    let remove = async |identifiers: &[&str]| {
        let identifiers: Vec<String> = identifiers.iter().map(|&identifier| identifier.to_owned()).collect();
        patiently(async || own.log.remove(&identifiers).await).await;
    };
    remove(&["a", "c"]).await;
    remove(&[]).await;
    assert_eq!(own.all().await, map([("A", "two"), ("b", "three")]));
    assert_eq!(own.append_one("a", "four", IfPresent::Keep).await, Appended::Stored);
    assert_eq!(own.all().await, map([("a", "four"), ("A", "two"), ("b", "three")]));
}

async fn what_was_never_vouched_for_is_unknown_unless_nothing_can_be_lost(own: Own) {
    let (log, another) = (own.log.clone(), own.another(&own.name).await);
    let standing = async |log: &Arc<dyn LogStore>| patiently(async || log.standing().await).await;
    if log.keeps_all() {
        assert_eq!((log.holders(), standing(&log).await), (None, Standing::Whole));
        return;
    }
    assert_eq!(standing(&log).await, Standing::Unknown);
    let holders = log.holders().unwrap();
    patiently(async || log.vouch(&holders).await).await;
    assert_eq!(standing(&log).await, Standing::Whole);
    assert_eq!(standing(&another).await, Standing::Whole, "whoever asks");
    patiently(async || log.vouch("somebody who is gone").await).await;
    assert_eq!(standing(&another).await, Standing::InDoubt);
    let other = own.another(&unique()).await;
    assert_eq!(standing(&other).await, Standing::Unknown, "each is vouched for alone");
}

async fn nothing_appended_is_nothing_done(own: Own) {
    assert!(own.log.append(&[], IfPresent::Keep).await.is_empty());
    assert_eq!(own.all().await, map([]));
}

async fn another_process_sees_the_same_log_and_no_other(own: Own) {
    let (same, other) = (own.another(&own.name).await, own.another(&unique()).await);
    own.append(&[message("a", "one")]).await;
    assert_eq!(all(&*same).await, map([("a", "one")]));
    assert_eq!(all(&*other).await, map([]));
    let outcomes = append(&*same, &[message("a", "two")], IfPresent::Keep).await;
    assert_eq!(outcomes, [Appended::Conflict]);
    patiently(async || other.clear().await).await;
    assert_eq!(own.all().await, map([("a", "one")]));
    patiently(async || same.clear().await).await;
    assert_eq!(own.all().await, map([]));
    assert!(own.log.identity().is_some());
    assert_eq!(own.log.identity(), same.identity());
    assert_ne!(own.log.identity(), other.identity());
}
