//! Adapter: the log in a Hazelcast map.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all, try_join_all};
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::holders::Voucher;
use super::scan::Scan;
use super::{Cluster, OnCluster};
use crate::engine::page::Lowest;
use crate::engine::{Appended, IfPresent, ListPage, LogStore, PAGE_TEXT_BYTES, Page, PageRange, Result};
use crate::hazelcast::{self, Data, Map, Stored, ToData};
use crate::message::Message;

/// Texts of a page that are on their way at a time, and pages whose texts are: few enough for each text to have the largest size.
const TEXTS_AT_A_TIME: usize = 16;
const TEXTS_OF_PAGES: usize = 2;

/// The log as entries identifier → text, both plain strings, so that other clients read and write the same ones.
#[derive(Debug)]
pub(in crate::engine) struct HazelcastLog {
    cluster: Cluster,
    map: Map,
    scan: Scan<()>,
    texts: Semaphore,
    voucher: Voucher,
}

impl HazelcastLog {
    /// The log in the map `map_name` of the cluster `cluster_name`, found at `members` (`host:port`). Begins to connect.
    ///
    /// # Errors
    /// Where `members` is empty or one of them does not parse.
    pub(in crate::engine) fn start(cluster_name: &str, map_name: &str, members: &[String]) -> hazelcast::Result<Self> {
        let cluster = Cluster::start(cluster_name, members, "svc logging".to_owned())?;
        let map = cluster.client.map(map_name);
        let voucher = Voucher::of(&cluster.client, map_name);
        let looked_at = map.clone();
        Ok(Self {
            scan: Scan::by(move |pages| look_at_keys(looked_at.clone(), pages)),
            texts: Semaphore::new(TEXTS_OF_PAGES),
            cluster,
            map,
            voucher,
        })
    }

    /// Those of one partition by one request.
    async fn replace(&self, messages: &[Message]) -> Vec<Result<Appended>> {
        let mut entries: Vec<(&str, &str)> = Vec::with_capacity(messages.len());
        entries.extend(messages.iter().map(|message| (&*message.identifier, &*message.text)));
        let stored = self.map.put_each(entries).await;
        let stored = stored.unwrap_or_else(|error| {
            let (places, outcome) = ((0..messages.len()).collect(), Err(error));
            vec![Stored { places, outcome }]
        });
        let mut failed: Vec<Option<Arc<hazelcast::Error>>> = vec![None; messages.len()];
        for Stored { places, outcome } in stored {
            let Err(error) = outcome else { continue };
            let error = Arc::new(error);
            for place in places {
                if let Some(failed) = failed.get_mut(place) {
                    *failed = Some(error.clone());
                }
            }
        }
        let outcome = |failed: Option<_>| match failed {
            None => Ok(Appended::Stored),
            Some(error) => Err(self.cluster.unavailable(error)),
        };
        failed.into_iter().map(outcome).collect()
    }

    async fn keep_first(&self, message: &Message) -> Result<Appended> {
        let (key, text) = (message.identifier.to_data(), message.text.to_data());
        let kept = self.keep(&key, &text).await;
        kept.map_err(|error| self.cluster.unavailable(error))
    }

    async fn keep(&self, key: &Data, text: &Data) -> hazelcast::Result<Appended> {
        loop {
            match self.map.put_if_absent(key, text).await? {
                None => return Ok(Appended::Stored),
                Some(standing) if standing != *text => return Ok(Appended::Conflict),
                // The same text stands, perhaps of a try whose backup never confirmed. Writing it again is confirmed.
                Some(_) if self.map.replace_if_same(key, text, text).await? => return Ok(Appended::Stored),
                // It was removed in between.
                Some(_) => {}
            }
        }
    }

    /// The members know no order of keys, and an index of theirs would not outlive a value of another kind. So all keys are
    /// looked at, and texts are asked for only of those on the page.
    async fn read_page(&self, range: &PageRange) -> anyhow::Result<ListPage<Message>> {
        let (identifiers, next) = self.scan.page(range).await?.into_identifiers();
        let _room = self.texts.acquire().await?;
        Ok(self.with_texts(identifiers, next).await?)
    }

    /// The page that has at most these identifiers. It ends before where their texts are too many bytes.
    async fn with_texts(&self, identifiers: Vec<String>, next: Option<String>) -> hazelcast::Result<ListPage<Message>> {
        let mut left = identifiers.len();
        let texts = stream::iter(identifiers).map(|identifier| async move {
            let text = self.map.get(&identifier).await?;
            Ok::<_, hazelcast::Error>((identifier, text))
        });
        let mut texts = texts.buffered(TEXTS_AT_A_TIME);
        let mut page = ListPage {
            next,
            ..ListPage::empty()
        };
        let mut bytes = 0_usize;
        while let Some((identifier, text)) = texts.try_next().await? {
            left = left.saturating_sub(1);
            // One that was removed meanwhile is not there any more.
            let Some(text) = text else { continue };
            let Some(text) = text.as_str() else {
                page.skipped = page.skipped.saturating_add(1);
                continue;
            };
            bytes = bytes.saturating_add(text.len());
            page.messages.push(Message {
                identifier,
                text: text.to_owned(),
            });
            if bytes >= PAGE_TEXT_BYTES && left > 0 {
                page.next = page.messages.last().map(|message| message.identifier.clone());
                break;
            }
        }
        Ok(page)
    }
}

impl OnCluster for HazelcastLog {
    fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn object_name(&self) -> &str {
        self.map.name()
    }

    fn voucher(&self) -> &Voucher {
        &self.voucher
    }
}

impl LogStore for HazelcastLog {
    fn append<'a>(&'a self, messages: &'a [Message], if_present: IfPresent) -> BoxFuture<'a, Vec<Result<Appended>>> {
        match if_present {
            IfPresent::Replace => Box::pin(self.replace(messages)),
            IfPresent::Keep => Box::pin(join_all(messages.iter().map(|message| self.keep_first(message)))),
        }
    }

    fn all(&self) -> BoxStream<'_, Result<Page>> {
        let pages = self
            .map
            .entries()
            .map(|entries| entries.map(page).map_err(|error| self.cluster.unavailable(error)));
        Box::pin(pages)
    }

    fn page<'a>(&'a self, range: &'a PageRange) -> BoxFuture<'a, Result<ListPage<Message>>> {
        let page = self.read_page(range);
        Box::pin(async { page.await.map_err(|error| self.cluster.unavailable(error)) })
    }

    fn remove<'a>(&'a self, identifiers: &'a [String]) -> BoxFuture<'a, Result<()>> {
        let removed = try_join_all(identifiers.iter().map(|identifier| self.map.remove(identifier)));
        Box::pin(async { removed.await.map(drop).map_err(|error| self.cluster.unavailable(error)) })
    }

    fn clear(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { self.map.clear().await.map_err(|error| self.cluster.unavailable(error)) })
    }
}

/// Puts all keys on the pages.
async fn look_at_keys(map: Map, mut pages: Vec<Lowest<()>>) -> hazelcast::Result<Vec<Lowest<()>>> {
    let mut keys = pin!(map.keys());
    while let Some(keys) = keys.try_next().await? {
        for identifier in keys.iter().filter_map(Data::as_str) {
            for page in &mut pages {
                page.put(identifier, 0, "", ());
            }
        }
    }
    Ok(pages)
}

fn page(entries: Vec<(Data, Data)>) -> Page {
    let mut page = Page::default();
    for (key, value) in entries {
        match (key.as_str(), value.as_str()) {
            (Some(identifier), Some(text)) => {
                page.messages.push(Message {
                    identifier: identifier.to_owned(),
                    text: text.to_owned(),
                });
            }
            _ => page.skipped += 1,
        }
    }
    page
}
