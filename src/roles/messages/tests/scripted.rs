//! A mailbox in memory that fails and hangs when it is told to.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};

use crate::engine::{
    self, Batch, DeliveredMessage, DeliveredPage, Engine, Item, ListPage, Looked, Mailbox, Offered, PageRange,
    Unavailable,
};
use crate::message::Message;

/// What a step is called in the script: the operation, or the operation and the item's token.
fn steps(operation: &str, token: &[u8]) -> [String; 2] {
    [
        operation.to_owned(),
        format!("{operation} {}", String::from_utf8_lossy(token)),
    ]
}

pub(super) struct Scripted {
    name: String,
    state: Mutex<State>,
    news: Notify,
    /// Each stream of news holds it.
    listening: Arc<()>,
    /// A step in `State::gated` waits for a permit.
    pub(super) gate: Semaphore,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) waiting: Vec<Item>,
    /// How many of them a look shows, where that is not all.
    pub(super) shown: Option<usize>,
    /// By batch: who delivered it, and its messages.
    pub(super) delivered: BTreeMap<String, (String, Vec<Message>)>,
    /// By token: the reason.
    pub(super) rejected: BTreeMap<Vec<u8>, String>,
    /// Steps that fail.
    pub(super) failing: HashSet<String>,
    /// Steps that wait at the gate before they do anything.
    pub(super) gated: HashSet<String>,
    /// Steps that were begun, in their order.
    pub(super) begun: Vec<String>,
    /// How long it takes to store something.
    pub(super) store_takes: Duration,
    /// When each look was.
    pub(super) looks: Vec<Instant>,
    /// Delivered entries that cannot be read.
    pub(super) skipped: u64,
    /// What it has in common with others that lead to the same queue.
    pub(super) identity: Option<String>,
    /// Where else an item may be kept before it is taken out of here.
    pub(super) kept_in: Option<Arc<Scripted>>,
}

impl Scripted {
    pub(super) fn new(items: impl IntoIterator<Item = Item>) -> Arc<Self> {
        Self::named("a queue", items)
    }

    pub(super) fn named(name: &str, items: impl IntoIterator<Item = Item>) -> Arc<Self> {
        let state = State {
            waiting: items.into_iter().collect(),
            ..State::default()
        };
        Arc::new(Self {
            name: name.to_owned(),
            state: Mutex::new(state),
            news: Notify::new(),
            listening: Arc::default(),
            gate: Semaphore::new(0),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn fail(&self, step: &str) {
        self.state().failing.insert(step.to_owned());
    }

    pub(super) fn heal(&self) {
        self.state().failing.clear();
    }

    pub(super) fn hold(&self, step: &str) {
        self.state().gated.insert(step.to_owned());
    }

    pub(super) fn put(&self, item: Item) {
        self.state().waiting.push(item);
        self.news.notify_one();
    }

    /// How many wait for news.
    pub(super) fn listeners(&self) -> usize {
        Arc::strong_count(&self.listening) - 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().waiting.is_empty()
    }

    /// Who delivered each batch.
    pub(super) fn delivered_by(&self) -> BTreeMap<String, String> {
        let state = self.state();
        let delivered = state.delivered.iter();
        delivered.map(|(id, (by, _))| (id.clone(), by.clone())).collect()
    }

    fn keeps(&self, item: &Item) -> bool {
        let state = self.state();
        match &item.content {
            Ok(batch) => state.delivered.contains_key(&batch.id),
            Err(_) => state.rejected.contains_key(item.token.as_ref()),
        }
    }

    fn away(&self, cause: &str) -> Unavailable {
        Unavailable {
            engine: self.describe(),
            cause: anyhow!(cause.to_owned()),
        }
    }

    async fn step(&self, operation: &str, token: &[u8]) -> engine::Result<()> {
        let names = steps(operation, token);
        let is_gated = {
            let mut state = self.state();
            state.begun.push(names[1].trim().to_owned());
            names.iter().any(|name| state.gated.contains(name))
        };
        if is_gated {
            self.gate.acquire().await.unwrap().forget();
        }
        if names.iter().any(|name| self.state().failing.contains(name)) {
            return Err(self.away(&format!("{} refused", names[1].trim())));
        }
        Ok(())
    }
}

impl Engine for Scripted {
    fn describe(&self) -> String {
        "a mailbox in memory".to_owned()
    }

    fn object_name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Option<String> {
        self.state().identity.clone()
    }

    fn advice(&self) -> String {
        "let it succeed".to_owned()
    }

    fn ready(&self) -> BoxFuture<'_, engine::Result<()>> {
        std::future::ready(self.check()).boxed()
    }

    fn check(&self) -> engine::Result<()> {
        if self.state().failing.contains("look") {
            return Err(self.away("connection refused"));
        }
        Ok(())
    }
}

impl Mailbox for Scripted {
    fn offer<'a>(&'a self, _: &'a Batch) -> BoxFuture<'a, engine::Result<Offered>> {
        unreachable!("a messages instance offers nothing")
    }

    fn look(&self) -> BoxFuture<'_, engine::Result<Looked>> {
        async {
            self.state().looks.push(Instant::now());
            self.step("look", b"").await?;
            let state = self.state();
            let shown = state.shown.unwrap_or(usize::MAX).min(state.waiting.len());
            Ok(Looked {
                items: state.waiting.iter().take(shown).cloned().collect(),
                is_all: shown == state.waiting.len(),
            })
        }
        .boxed()
    }

    fn store<'a>(&'a self, batch: &'a Batch, by: &'a str) -> BoxFuture<'a, engine::Result<()>> {
        async {
            self.step("store", batch.id.as_bytes()).await?;
            let takes = self.state().store_takes;
            if takes > Duration::ZERO {
                sleep(takes).await;
            }
            let entry = (by.to_owned(), batch.messages.clone());
            self.state().delivered.entry(batch.id.clone()).or_insert(entry);
            Ok(())
        }
        .boxed()
    }

    fn reject<'a>(&'a self, item: &'a Item, reason: &'a str) -> BoxFuture<'a, engine::Result<()>> {
        async {
            self.step("reject", &item.token).await?;
            self.state().rejected.insert(item.token.to_vec(), reason.to_owned());
            Ok(())
        }
        .boxed()
    }

    fn remove<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, engine::Result<bool>> {
        async move {
            self.step("remove", &item.token).await?;
            let elsewhere = self.state().kept_in.clone();
            let is_kept = self.keeps(item) || elsewhere.is_some_and(|other| other.keeps(item));
            assert!(is_kept, "an item is taken out before it is kept elsewhere: {item:?}");
            let mut state = self.state();
            let at = state.waiting.iter().position(|waiting| waiting.token == item.token);
            Ok(at.map(|at| state.waiting.remove(at)).is_some())
        }
        .boxed()
    }

    fn all(&self) -> BoxStream<'_, engine::Result<DeliveredPage>> {
        let state = self.state();
        if state.failing.contains("all") {
            return stream::iter([Err(self.away("connection refused"))]).boxed();
        }
        let page = |(by, messages): &(String, Vec<Message>)| DeliveredPage {
            messages: messages
                .iter()
                .map(|message| DeliveredMessage {
                    message: message.clone(),
                    by: by.clone(),
                })
                .collect(),
            skipped: 0,
        };
        let mut pages: Vec<_> = state.delivered.values().map(page).collect();
        pages.push(DeliveredPage {
            messages: Vec::new(),
            skipped: state.skipped,
        });
        stream::iter(pages.into_iter().map(Ok)).boxed()
    }

    fn page<'a>(&'a self, range: &'a PageRange) -> BoxFuture<'a, engine::Result<ListPage<DeliveredMessage>>> {
        let parts = self.all().map_ok(|part| (part.messages, part.skipped)).boxed();
        engine::of_parts(range, parts, |delivered| &delivered.message).boxed()
    }

    fn news(&self) -> BoxStream<'_, ()> {
        stream::unfold(self.listening.clone(), |listening| async {
            self.news.notified().await;
            Some(((), listening))
        })
        .boxed()
    }
}
