//! Adapter: the log in a Hazelcast map.

use std::time::Duration;

use anyhow::anyhow;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{BoxStream, StreamExt};

use super::{Appended, IfPresent, LogStore, Page, Result, Unavailable};
use crate::hazelcast::{self, Client, Data, Map, ToData};
use crate::message::Message;

/// How long one operation on the map may take, tries and waits together. Shorter than a request's time, so that the
/// answer says what was wrong instead of not coming.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a caller that waits for the cluster waits at a time.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// The log as entries identifier → text, both plain strings, so that other clients read and write the same ones.
///
/// A write counts once its backups have confirmed it. Writes here change nothing when repeated, so one whose outcome is
/// unknown is repeated until its deadline.
#[derive(Debug)]
pub(super) struct HazelcastLog {
    client: Client,
    map: Map,
    cluster_name: String,
    addresses: String,
}

impl HazelcastLog {
    /// The log in the map `map_name` of the cluster `cluster_name`, found at `members` (`host:port`). Begins to connect.
    ///
    /// # Errors
    /// Where `members` is empty or one of them does not parse.
    pub(super) fn start(cluster_name: &str, map_name: &str, members: &[String]) -> hazelcast::Result<Self> {
        let mut config = hazelcast::Config::new(cluster_name, members);
        config.client_name = "svc logging".into();
        config.redo_operations = true;
        let client = Client::start(config)?;
        let map = client.map(map_name).with_timeout(OPERATION_TIMEOUT);
        Ok(Self {
            client,
            map,
            cluster_name: cluster_name.into(),
            addresses: members.join(", "),
        })
    }

    async fn append_one(&self, message: &Message, if_present: IfPresent) -> Result<Appended> {
        let (key, text) = (message.identifier.to_data(), message.text.to_data());
        match if_present {
            IfPresent::Replace => self.map.set(&key, &text).await.map(|()| Appended::Stored),
            IfPresent::Keep => self.keep_first(&key, &text).await,
        }
        .map_err(|error| self.unavailable(error))
    }

    async fn keep_first(&self, key: &Data, text: &Data) -> hazelcast::Result<Appended> {
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

    fn unavailable(&self, error: hazelcast::Error) -> Unavailable {
        Unavailable {
            engine: self.describe(),
            cause: error.into(),
        }
    }
}

impl LogStore for HazelcastLog {
    fn describe(&self) -> String {
        format!("Hazelcast cluster {:?} at {}", self.cluster_name, self.addresses)
    }

    fn advice(&self) -> String {
        "start it with `scripts/engines.sh up`, or name other members with --hazelcast or HZ_NETWORK_PUBLICADDRESS"
            .to_owned()
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.client
                .ready(READY_TIMEOUT)
                .await
                .map_err(|error| self.unavailable(error))
        })
    }

    fn check(&self) -> Result<()> {
        if self.client.is_connected() {
            return Ok(());
        }
        let cause = self
            .client
            .problem()
            .map_or_else(|| anyhow!("not connected yet"), |problem| anyhow!(problem));
        Err(Unavailable {
            engine: self.describe(),
            cause,
        })
    }

    fn append<'a>(&'a self, messages: &'a [Message], if_present: IfPresent) -> BoxFuture<'a, Vec<Result<Appended>>> {
        Box::pin(join_all(
            messages.iter().map(move |message| self.append_one(message, if_present)),
        ))
    }

    fn all(&self) -> BoxStream<'_, Result<Page>> {
        let pages = self
            .map
            .entries()
            .map(|entries| entries.map(page).map_err(|error| self.unavailable(error)));
        Box::pin(pages)
    }

    fn clear(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { self.map.clear().await.map_err(|error| self.unavailable(error)) })
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
