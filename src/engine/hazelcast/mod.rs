//! Adapters: the log and the mailbox, each on a Hazelcast cluster.

mod item;
mod log;
mod mailbox;

use std::time::Duration;

use anyhow::anyhow;

use super::{Result, Unavailable};
use crate::hazelcast::{self, Client, Config};

pub(super) use log::HazelcastLog;
pub(super) use mailbox::HazelcastMailbox;

/// How long one operation may take, tries and waits together. Shorter than a request's time, so that the answer says
/// what was wrong instead of not coming.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a caller that waits for the cluster waits at a time.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// The cluster behind an adapter.
///
/// A write counts once its backups have confirmed it. What the adapters write changes nothing when repeated, so a write
/// whose outcome is unknown is repeated until its deadline.
#[derive(Debug)]
struct Cluster {
    client: Client,
    name: String,
    addresses: String,
}

impl Cluster {
    /// The cluster `name`, found at `members` (`host:port`); it shows this client as `client_name`. Begins to connect.
    ///
    /// # Errors
    /// Where `members` is empty or one of them does not parse.
    fn start(name: &str, members: &[String], client_name: String) -> hazelcast::Result<Self> {
        let mut config = Config::new(name, members);
        config.client_name = client_name;
        config.redo_operations = true;
        config.invocation_timeout = OPERATION_TIMEOUT;
        Ok(Self {
            client: Client::start(config)?,
            name: name.into(),
            addresses: members.join(", "),
        })
    }

    fn describe(&self) -> String {
        format!("Hazelcast cluster {:?} at {}", self.name, self.addresses)
    }

    fn advice() -> String {
        "start it with `scripts/engines.sh up`, or name other members with --hazelcast or HZ_NETWORK_PUBLICADDRESS"
            .to_owned()
    }

    async fn ready(&self) -> Result<()> {
        let ready = self.client.ready(READY_TIMEOUT).await;
        ready.map_err(|error| self.unavailable(error))
    }

    fn check(&self) -> Result<()> {
        if self.client.is_connected() {
            return Ok(());
        }
        let problem = self.client.problem();
        let cause = problem.map_or_else(|| anyhow!("not connected yet"), |problem| anyhow!(problem));
        Err(self.unavailable(cause))
    }

    fn unavailable(&self, cause: impl Into<anyhow::Error>) -> Unavailable {
        Unavailable {
            engine: self.describe(),
            cause: cause.into(),
        }
    }
}
