//! Adapter: the log in a Hazelcast map.

use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all, try_join_all};
use futures_util::stream::{BoxStream, StreamExt};

use super::holders::Voucher;
use super::{Cluster, OnCluster};
use crate::engine::{Appended, IfPresent, LogStore, Page, Result};
use crate::hazelcast::{self, Data, Map, Stored, ToData};
use crate::message::Message;

/// The log as entries identifier → text, both plain strings, so that other clients read and write the same ones.
#[derive(Debug)]
pub(in crate::engine) struct HazelcastLog {
    cluster: Cluster,
    map: Map,
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
        Ok(Self { cluster, map, voucher })
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

    fn remove<'a>(&'a self, identifiers: &'a [String]) -> BoxFuture<'a, Result<()>> {
        let removed = try_join_all(identifiers.iter().map(|identifier| self.map.remove(identifier)));
        Box::pin(async { removed.await.map(drop).map_err(|error| self.cluster.unavailable(error)) })
    }

    fn clear(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { self.map.clear().await.map_err(|error| self.cluster.unavailable(error)) })
    }
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
