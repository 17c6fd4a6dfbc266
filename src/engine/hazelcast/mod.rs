//! Adapters: the log and the mailbox, each on a Hazelcast cluster.

mod holders;
mod identifiers;
mod item;
mod log;
mod mailbox;
mod scan;
mod whole;

use std::time::Duration;

use anyhow::anyhow;
use futures_util::future::{BoxFuture, FutureExt, TryFutureExt};

use self::holders::Voucher;
use super::{Engine, Result, Standing, Unavailable};
use crate::hazelcast::{self, Client, Config};

pub(super) use identifiers::OfOnePartition;
pub(super) use log::HazelcastLog;
pub(super) use mailbox::HazelcastMailbox;

/// How long one operation may take, tries and waits together. Shorter than a request's time, so that the answer says
/// what was wrong instead of not coming.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a caller that waits for the cluster waits at a time: longer than the client gives a member to answer, so that
/// the error can say that it did not.
const READY_TIMEOUT: Duration = Duration::from_millis(1500);

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

    fn unavailable(&self, cause: impl Into<anyhow::Error>) -> Unavailable {
        Unavailable {
            engine: self.describe(),
            cause: cause.into(),
        }
    }
}

/// An adapter on a cluster.
trait OnCluster: Send + Sync {
    fn cluster(&self) -> &Cluster;

    /// Name of the map or queue.
    fn object_name(&self) -> &str;

    /// Who vouched for what is there.
    fn voucher(&self) -> &Voucher;
}

impl<T: OnCluster> Engine for T {
    fn describe(&self) -> String {
        self.cluster().describe()
    }

    fn object_name(&self) -> &str {
        OnCluster::object_name(self)
    }

    fn identity(&self) -> Option<String> {
        let cluster_id = self.cluster().client.cluster_id()?;
        Some(format!("{} in {cluster_id}", OnCluster::object_name(self)))
    }

    fn advice(&self) -> String {
        "start it with `scripts/engines.sh up`, or name other members with --hazelcast or HZ_NETWORK_PUBLICADDRESS; \
         a wrong name of the cluster is put right with `svc populate-kv --overwrite`"
            .to_owned()
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        let cluster = self.cluster();
        let ready = cluster.client.ready(READY_TIMEOUT);
        ready.map_err(|error| cluster.unavailable(error)).boxed()
    }

    fn check(&self) -> Result<()> {
        let cluster = self.cluster();
        if cluster.client.is_connected() {
            return Ok(());
        }
        let problem = cluster.client.problem();
        let cause = problem.map_or_else(|| anyhow!("not connected yet"), |problem| anyhow!(problem));
        Err(cluster.unavailable(cause))
    }

    fn warning(&self) -> Option<String> {
        self.cluster().client.warning()
    }

    /// The members keep it in memory.
    fn keeps_all(&self) -> bool {
        false
    }

    fn holders(&self) -> Option<String> {
        holders::now(&self.cluster().client)
    }

    fn standing(&self) -> BoxFuture<'_, Result<Standing>> {
        let standing = async {
            let holders = self.holders().ok_or_else(|| anyhow!("its members are not known"))?;
            Ok(self.voucher().standing(&holders).await?)
        };
        let cluster = self.cluster();
        standing
            .map_err(|error: anyhow::Error| cluster.unavailable(error))
            .boxed()
    }

    fn vouch<'a>(&'a self, holders: &'a str) -> BoxFuture<'a, Result<()>> {
        let cluster = self.cluster();
        let vouch = self.voucher().vouch(holders);
        vouch.map_err(|error| cluster.unavailable(error)).boxed()
    }
}
