//! The cases of [`Mailbox`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use svc::engine::{Batch, DeliveredMessage, DeliveredPage, Item, ListPage, Looked, Mailbox, Offered, PageRange};
use svc::message::Message;
use tokio::time::timeout;

use super::{Folder, SOON, cases, engines_in, patiently, ready, unique};
use crate::support::engines::Engines;
use crate::support::{ports, texts};

cases! { hazelcast folder: {
    what_is_offered_waits_in_its_order_until_it_is_removed,
    what_is_offered_comes_back_as_it_was,
    who_removes_is_told_whether_it_was_there,
    what_is_stored_is_delivered_and_waits_no_less,
    who_stores_a_batch_first_has_delivered_it,
    another_content_under_the_id_of_a_delivered_batch_is_not_delivered,
    what_is_rejected_waits_until_it_is_removed_and_is_not_delivered,
    all_shows_each_of_thousands_of_deliveries_once,
    pages_of_deliveries_followed_to_the_end_show_each_once_in_the_order_of_the_bytes,
    a_page_of_deliveries_begins_behind_an_identifier_and_ends_at_its_bounds,
    of_batches_with_the_same_identifier_the_first_by_its_id_is_on_the_page,
    what_is_delivered_behind_the_last_page_is_on_a_later_one,
    a_batch_that_nobody_would_read_is_not_taken,
    another_process_sees_the_same_mailbox_and_no_other,
    news_come_of_what_is_put_in_by_whichever_process,
} }

/// News that have not come by then are not on their way.
const QUIET: Duration = Duration::from_secs(2);

/// What a look at an empty mailbox shows.
const NOTHING: Looked = Looked {
    items: Vec::new(),
    is_all: true,
};

/// A mailbox of a case's own.
struct Own {
    mailbox: Arc<dyn Mailbox>,
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
        let mailbox = open(folder.as_ref(), &name).await;
        Self { mailbox, name, folder }
    }

    /// A mailbox as another process has it.
    async fn another(&self, name: &str) -> Arc<dyn Mailbox> {
        open(self.folder.as_ref(), name).await
    }

    async fn offer(&self, batch: &Batch) {
        offer(&*self.mailbox, batch).await;
    }

    async fn store(&self, batch: &Batch, by: &str) {
        store(&*self.mailbox, batch, by).await;
    }

    async fn look(&self) -> Looked {
        look(&*self.mailbox).await
    }

    /// All items that wait, which is what one look shows.
    async fn items(&self) -> Vec<Item> {
        let Looked { items, is_all } = self.look().await;
        assert!(is_all);
        items
    }

    /// The batches that wait, in their order. An offer whose confirmation was late may be in twice.
    async fn waiting(&self) -> Vec<Batch> {
        let mut batches: Vec<Batch> = Vec::new();
        for item in self.items().await {
            let batch = item.content.unwrap();
            if !batches.contains(&batch) {
                batches.push(batch);
            }
        }
        batches
    }

    /// Takes all items out that hold this batch.
    async fn remove(&self, batch: &Batch) {
        for item in self.items().await {
            if item.content.as_ref() == Ok(batch) {
                remove(&*self.mailbox, &item).await;
            }
        }
    }

    /// All that was delivered, each message once, in the order of the identifiers.
    async fn delivered(&self) -> Vec<DeliveredMessage> {
        let pages = pages(&*self.mailbox).await;
        assert_eq!(pages.iter().map(|page| page.skipped).sum::<u64>(), 0);
        let mut all: Vec<DeliveredMessage> = pages.into_iter().flat_map(|page| page.messages).collect();
        all.sort_by(|a, b| a.message.identifier.cmp(&b.message.identifier));
        all
    }
}

async fn open(folder: Option<&Folder>, name: &str) -> Arc<dyn Mailbox> {
    let mailbox = match folder {
        None => ports::mailbox(&Engines::shared().mq, name).await,
        Some(folder) => engines_in(folder).mailbox("mq", name, &[], "test").await.unwrap(),
    };
    ready(&*mailbox).await;
    mailbox
}

/// A batch of these texts, each under an identifier of its own.
fn batch(id: &str, texts: &[&str]) -> Batch {
    let messages = texts.iter().enumerate().map(|(number, text)| Message {
        identifier: format!("{id}-{number}"),
        text: (*text).to_owned(),
    });
    Batch {
        id: id.to_owned(),
        messages: messages.collect(),
    }
}

fn delivered(batch: &Batch, by: &str) -> Vec<DeliveredMessage> {
    let messages = batch.messages.iter().map(|message| DeliveredMessage {
        message: message.clone(),
        by: by.to_owned(),
    });
    messages.collect()
}

async fn offer(mailbox: &dyn Mailbox, batch: &Batch) {
    let offered = patiently(async || mailbox.offer(batch).await).await;
    assert_eq!(offered, Offered::Accepted);
}

async fn look(mailbox: &dyn Mailbox) -> Looked {
    patiently(async || mailbox.look().await).await
}

async fn store(mailbox: &dyn Mailbox, batch: &Batch, by: &str) {
    patiently(async || mailbox.store(batch, by).await).await;
}

async fn remove(mailbox: &dyn Mailbox, item: &Item) -> bool {
    patiently(async || mailbox.remove(item).await).await
}

async fn pages(mailbox: &dyn Mailbox) -> Vec<DeliveredPage> {
    patiently(async || mailbox.all().try_collect().await).await
}

async fn what_is_offered_waits_in_its_order_until_it_is_removed(own: Own) {
    assert_eq!(own.look().await, NOTHING);
    // Ids whose own order is another one.
    let batches: Vec<Batch> = ["c", "a", "d", "b"].iter().map(|id| batch(id, &["x"])).collect();
    for batch in &batches {
        own.offer(batch).await;
    }
    assert_eq!(own.waiting().await, batches);
    own.offer(&batches[1]).await;
    assert_eq!(
        own.waiting().await,
        batches,
        "twice is still one batch, and keeps its place"
    );
    own.remove(&batches[1]).await;
    assert_eq!(
        own.waiting().await,
        [&batches[0], &batches[2], &batches[3]].map(Batch::clone)
    );
    own.offer(&batches[1]).await;
    assert_eq!(
        own.waiting().await.last(),
        Some(&batches[1]),
        "who comes anew, waits anew"
    );
    for batch in &batches {
        own.remove(batch).await;
    }
    assert_eq!(own.look().await, NOTHING);
    assert_eq!(own.delivered().await, []);
    assert_eq!(own.mailbox.object_name(), own.name);
    own.mailbox.check().unwrap();
}

async fn what_is_offered_comes_back_as_it_was(own: Own) {
    let texts = texts::difficult();
    assert!(texts.contains(&String::new()) && texts.iter().any(|text| text.len() == 1024 * 1024));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut ids = vec!["x", "\0", "\"\\/\n\u{2028}", " "];
    ids.extend(texts.iter().filter(|text| (1..=256).contains(&text.len())).take(5));
    let mut batches: Vec<Batch> = ids.iter().map(|id| batch(id, &["one", "", "three"])).collect();
    batches.push(batch("all", &texts));
    batches.push(Batch {
        id: "\u{1D11E}".repeat(64),
        ..batch("long", &["one"])
    });
    for batch in &batches {
        own.offer(batch).await;
    }
    assert!(own.waiting().await == batches);
    for batch in &batches {
        own.store(batch, "me").await;
    }
    let mut expected: Vec<_> = batches.iter().flat_map(|batch| delivered(batch, "me")).collect();
    expected.sort_by(|a, b| a.message.identifier.cmp(&b.message.identifier));
    assert!(own.delivered().await == expected);
}

async fn who_removes_is_told_whether_it_was_there(own: Own) {
    let another = own.another(&own.name).await;
    let removed = async {
        loop {
            own.offer(&batch("a", &["x"])).await;
            let items = own.items().await;
            // Where the confirmation was late, it is asked again, and finds it gone.
            if remove(&*another, &items[0]).await {
                break items;
            }
        }
    };
    let items = timeout(SOON, removed).await.unwrap();
    own.remove(&batch("a", &["x"])).await;
    for item in &items {
        assert!(!remove(&*own.mailbox, item).await);
    }
}

async fn what_is_stored_is_delivered_and_waits_no_less(own: Own) {
    let (first, second) = (batch("a", &["one", "two"]), batch("b", &["three"]));
    own.offer(&first).await;
    own.store(&first, "me").await;
    assert_eq!(own.delivered().await, delivered(&first, "me"));
    assert_eq!(own.waiting().await, std::slice::from_ref(&first));
    // One that nobody offered, of another instance.
    own.store(&second, "s@::1:80").await;
    let both = [delivered(&first, "me"), delivered(&second, "s@::1:80")].concat();
    assert_eq!(own.delivered().await, both);
    own.remove(&first).await;
    assert_eq!(own.look().await, NOTHING);
    assert_eq!(own.delivered().await, both);
}

async fn who_stores_a_batch_first_has_delivered_it(own: Own) {
    let batch = batch("a", &["one", "two"]);
    let another = own.another(&own.name).await;
    own.store(&batch, "me").await;
    own.store(&batch, "me").await;
    store(&*another, &batch, "another").await;
    assert_eq!(own.delivered().await, delivered(&batch, "me"));
}

async fn another_content_under_the_id_of_a_delivered_batch_is_not_delivered(own: Own) {
    let (first, second) = (batch("a", &["one"]), batch("a", &["two"]));
    own.store(&first, "me").await;
    for by in ["me", "another"] {
        own.store(&second, by).await;
        assert_eq!(own.delivered().await, delivered(&first, "me"));
    }
}

async fn what_is_rejected_waits_until_it_is_removed_and_is_not_delivered(own: Own) {
    own.offer(&batch("a", &["one"])).await;
    let items = own.items().await;
    for item in &items {
        patiently(async || own.mailbox.reject(item, "for no reason").await).await;
        patiently(async || own.mailbox.reject(item, "for no reason").await).await;
    }
    assert_eq!(own.items().await, items);
    for item in &items {
        remove(&*own.mailbox, item).await;
    }
    assert_eq!(own.look().await, NOTHING);
    assert_eq!(own.delivered().await, []);
}

async fn all_shows_each_of_thousands_of_deliveries_once(own: Own) {
    let batches: Vec<Batch> = (0..2000)
        .map(|n| batch(&format!("b{n}"), &["x".repeat(n % 300).as_str(), "y", "z"]))
        .collect();
    for some in batches.chunks(100) {
        join_all(some.iter().map(|batch| own.store(batch, "me"))).await;
    }
    assert!(pages(&*own.mailbox).await.len() > 1, "it comes in parts");
    let all = own.delivered().await;
    assert_eq!(all.len(), 6000);
    let identifiers: BTreeSet<String> = all.into_iter().map(|delivered| delivered.message.identifier).collect();
    let expected = batches.iter().flat_map(|batch| &batch.messages);
    assert_eq!(
        identifiers,
        expected.map(|message| message.identifier.clone()).collect()
    );
}

async fn page(mailbox: &dyn Mailbox, after: Option<&str>, limit: usize) -> ListPage<DeliveredMessage> {
    let range = PageRange {
        after: after.map(str::to_owned),
        limit,
    };
    let page = patiently(async || mailbox.page(&range).await).await;
    assert_eq!(page.skipped, 0);
    assert!(page.messages.len() <= limit);
    page
}

/// A batch of these messages.
fn batch_of(id: &str, messages: &[(&str, &str)]) -> Batch {
    let messages = messages.iter().map(|(identifier, text)| Message {
        identifier: (*identifier).to_owned(),
        text: (*text).to_owned(),
    });
    Batch {
        id: id.to_owned(),
        messages: messages.collect(),
    }
}

async fn pages_of_deliveries_followed_to_the_end_show_each_once_in_the_order_of_the_bytes(own: Own) {
    // Each batch has messages from all over the list.
    let mut expected = Vec::new();
    for number in 0..40 {
        let identifiers: Vec<String> = (0..40).map(|place| format!("k{}", place * 40 + number)).collect();
        let messages: Vec<(&str, &str)> = identifiers
            .iter()
            .map(|identifier| (identifier.as_str(), "t \"\\"))
            .collect();
        let batch = batch_of(&format!("batch {}", 99 - number), &messages);
        own.store(&batch, &format!("by-{}", number % 3)).await;
        expected.extend(delivered(&batch, &format!("by-{}", number % 3)));
    }
    let odd =
        ["\0", "a\0", "a", "A", "\u{FF5E}", "\u{1D11E}", "\"", "ä"].map(|identifier| (identifier, "\0 \u{1D11E}"));
    let odd = batch_of("odd", &odd);
    own.store(&odd, "by").await;
    expected.extend(delivered(&odd, "by"));
    expected.sort_by(|a, b| a.message.identifier.as_bytes().cmp(b.message.identifier.as_bytes()));
    for limit in [1000, 333] {
        let (mut followed, mut after) = (Vec::new(), None);
        loop {
            let page = page(&*own.mailbox, after.as_deref(), limit).await;
            followed.extend(page.messages);
            after = page.next;
            if after.is_none() {
                break;
            }
            assert_eq!(followed.len() % limit, 0, "a page is full where another one follows");
        }
        assert!(
            followed == expected,
            "{limit}: {} of {}",
            followed.len(),
            expected.len()
        );
    }
}

async fn a_page_of_deliveries_begins_behind_an_identifier_and_ends_at_its_bounds(own: Own) {
    for after in [None, Some("a")] {
        let page = page(&*own.mailbox, after, 1000).await;
        assert_eq!((page.messages, page.next), (vec![], None), "nothing was delivered");
    }
    let large = "x".repeat(1024 * 1024);
    own.store(&batch_of("2", &[("e", "5"), ("a", "1"), ("f", "")]), "me")
        .await;
    own.store(&batch_of("1", &[("b", &large), ("d", &large)]), "me").await;
    for (after, limit, expected, next) in [
        (None, 1, "a", Some("a")),
        (None, 1000, "ab", Some("b")),
        (Some("b"), 1000, "d", Some("d")),
        (Some("c"), 1000, "d", Some("d")),
        (Some("d"), 1000, "ef", None),
        (Some("d"), 2, "ef", None),
        (Some("f"), 1, "", None),
    ] {
        let page = page(&*own.mailbox, after, limit).await;
        let found: String = page.messages.iter().map(|found| &*found.message.identifier).collect();
        assert_eq!(
            (found.as_str(), page.next.as_deref()),
            (expected, next),
            "{after:?} {limit}"
        );
    }
}

async fn of_batches_with_the_same_identifier_the_first_by_its_id_is_on_the_page(own: Own) {
    own.store(&batch_of("2", &[("a", "of 2"), ("c", "of 2")]), "me").await;
    own.store(&batch_of("1", &[("a", "of 1"), ("a", "of 1 again")]), "me")
        .await;
    own.store(&batch_of("3", &[("a", "of 3"), ("b", "of 3")]), "me").await;
    for limit in [1, 2, 3] {
        let page = page(&*own.mailbox, None, limit).await;
        let texts: Vec<&str> = page.messages.iter().map(|found| &*found.message.text).collect();
        assert_eq!(texts, ["of 1", "of 3", "of 2"][..limit]);
        assert_eq!(page.next.as_deref(), [Some("a"), Some("b"), None][limit - 1]);
    }
}

async fn what_is_delivered_behind_the_last_page_is_on_a_later_one(own: Own) {
    own.store(&batch_of("1", &[("b", "t"), ("d", "t"), ("f", "t")]), "me")
        .await;
    let first = page(&*own.mailbox, None, 2).await;
    assert_eq!(first.next.as_deref(), Some("d"));
    let another = own.another(&own.name).await;
    store(
        &*another,
        &batch_of("2", &[("a", "t"), ("c", "t"), ("e", "t")]),
        "other",
    )
    .await;
    let second = page(&*own.mailbox, Some("d"), 2).await;
    let found: Vec<(&str, &str)> = second
        .messages
        .iter()
        .map(|found| (&*found.message.identifier, &*found.by))
        .collect();
    assert_eq!((found, second.next), (vec![("e", "other"), ("f", "me")], None));
}

async fn a_batch_that_nobody_would_read_is_not_taken(own: Own) {
    // Six bytes each, where it is written as JSON.
    let text = "\u{1}".repeat(1024 * 1024);
    let large = batch("a", &[&text, &text, &text]);
    let refused = own.mailbox.offer(&large).await.unwrap_err();
    assert!(refused.to_string().contains("more than the 16777216"), "{refused}");
    assert_eq!(own.look().await, NOTHING);
    own.offer(&batch("a", &[&text, &text])).await;
    assert_eq!(own.waiting().await.len(), 1);
}

async fn another_process_sees_the_same_mailbox_and_no_other(own: Own) {
    let (same, other) = (own.another(&own.name).await, own.another(&unique()).await);
    let batch = batch("a", &["one"]);
    own.offer(&batch).await;
    let looked = look(&*same).await;
    assert_eq!(looked.items, own.items().await);
    store(&*same, &batch, "another").await;
    for item in &looked.items {
        remove(&*same, item).await;
    }
    assert_eq!(own.look().await, NOTHING);
    assert_eq!(own.delivered().await, delivered(&batch, "another"));
    assert_eq!(look(&*other).await, NOTHING);
    assert!(pages(&*other).await.iter().all(|page| page.messages.is_empty()));
    assert!(own.mailbox.identity().is_some());
    assert_eq!(own.mailbox.identity(), same.identity());
    assert_ne!(own.mailbox.identity(), other.identity());
}

async fn news_come_of_what_is_put_in_by_whichever_process(own: Own) {
    let another = own.another(&own.name).await;
    let mut news = own.mailbox.news();
    for (mailbox, id) in [(&own.mailbox, "a"), (&another, "b")] {
        // What it tells at first, or again.
        while timeout(QUIET, news.next()).await.is_ok() {}
        offer(&**mailbox, &batch(id, &["x"])).await;
        let told = timeout(SOON, news.next()).await.expect("there are news");
        told.expect("news never end");
    }
    assert_eq!(own.waiting().await.len(), 2);
}
