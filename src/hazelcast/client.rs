//! The handle to a cluster.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::cluster::{Member, View};
use super::codec::client;
use super::config::{Config, Routing};
use super::data::ToData;
use super::deadline::Deadline;
use super::error::{Error, Kind, Result};
use super::invocation::{Shared, Stop, shut_down};
use super::listener::{Listener, Registration};
use super::map::Map;
use super::partition::partition_id;
use super::pending::PendingCalls;
use super::queue::Queue;
use super::supervisor::Supervisor;

/// A client of one Hazelcast cluster. Clones, maps, queues and listeners are handles to the same client.
///
/// The client connects and reconnects by itself, for as long as a handle to it lives. Calls wait for a connection
/// until their deadline; no call waits longer.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

/// A partition that lost copies at once: what had no more backups than that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionLost {
    /// The partition's id.
    pub partition_id: i32,
    /// 0: the owner's copy was lost; 1: that of the first backup too; and so on.
    pub lost_backup_count: i32,
}

impl Client {
    /// Begins to connect and returns at once. See [`Client::ready`] for the outcome.
    ///
    /// # Errors
    /// [`Kind::Configuration`] where no member's address is given, one does not parse, or a duration is zero.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(config: Config) -> Result<Self> {
        config.check_durations()?;
        let endpoints = config.endpoints()?;
        let config = Arc::new(config);
        let calls = Arc::new(PendingCalls::new(
            config.backup_ack_timeout,
            config.fail_on_indeterminate,
        ));
        let (published, view) = watch::channel(Arc::new(View::default()));
        let (stop, stopped) = oneshot::channel();
        let supervisor = Supervisor::new(Arc::clone(&config), endpoints, calls, published);
        tokio::spawn(supervisor.run(stopped));
        Ok(Self {
            shared: Arc::new(Shared::new(config, view, Stop::new(stop))),
        })
    }

    /// Connects, and waits until the client is ready, at most `limit`.
    ///
    /// # Errors
    /// Those of [`Client::start`] and [`Client::ready`].
    pub async fn connect(config: Config, limit: Duration) -> Result<Self> {
        let client = Self::start(config)?;
        client.ready(limit).await?;
        Ok(client)
    }

    /// Waits until the cluster can be used: one member is connected, and the others too unless they take longer than
    /// the time to connect to one.
    ///
    /// # Errors
    /// [`Kind::TimedOut`] past `limit`, with what each address answered as its source; [`Kind::ShutDown`].
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        let mut view = self.shared.view.clone();
        let deadline = Deadline::after(limit);
        let is_connected = |view: &Arc<View>| !view.connections.is_empty();
        match deadline.bound(view.wait_for(is_connected)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(shut_down()),
            Err(_) => return Err(self.not_ready(limit)),
        }
        if self.shared.config.routing == Routing::AllMembers {
            let soon = Deadline::after(self.shared.config.connect_timeout);
            // One member out of reach keeps nobody from using the others.
            let all = deadline.bound(soon.bound(view.wait_for(|view| view.is_complete())));
            let _ = all.await;
        }
        Ok(())
    }

    fn not_ready(&self, limit: Duration) -> Error {
        let cluster = &self.shared.config.cluster_name;
        let message = format!(
            "no member of the Hazelcast cluster {cluster:?} within {} ms",
            limit.as_millis()
        );
        let error = Error::new(Kind::TimedOut { outcome_unknown: false }, message);
        match self.problem() {
            Some(problem) => error.caused_by(problem),
            None => error,
        }
    }

    /// Whether a member is connected now.
    pub fn is_connected(&self) -> bool {
        !self.shared.view.borrow().connections.is_empty()
    }

    /// Why no member is connected, where none is.
    pub fn problem(&self) -> Option<String> {
        self.shared.view.borrow().problem.as_deref().map(str::to_owned)
    }

    /// Which members this client has never reached at the addresses that the cluster lists them under, where there are any: why,
    /// and what to do. The others are used, and these too where a configured address leads to them.
    pub fn warning(&self) -> Option<String> {
        self.shared.view.borrow().warning.as_deref().map(str::to_owned)
    }

    /// The cluster's id, once connected. Another one later means that every member died and came back without its data.
    pub fn cluster_id(&self) -> Option<Uuid> {
        self.shared.view.borrow().cluster_id
    }

    /// The members, as the cluster last listed them.
    pub fn members(&self) -> Vec<Member> {
        self.shared.view.borrow().members.clone()
    }

    /// Number of partitions, once connected; 0 before. 271 unless the cluster is configured otherwise.
    pub fn partition_count(&self) -> i32 {
        self.shared.view.borrow().partition_count
    }

    /// The partition that a key belongs to, once connected.
    pub fn partition_id(&self, key: &(impl ToData + ?Sized)) -> Option<i32> {
        let count = self.partition_count();
        (count > 0).then(|| partition_id(key.to_data().partition_hash(), count))
    }

    /// Asks one member for a sign of life, and waits for it at most `limit`.
    ///
    /// # Errors
    /// [`Kind::MemberLeft`] where the cluster does not list it, [`Kind::TimedOut`] where it does not answer.
    pub async fn ping(&self, member: Uuid, limit: Duration) -> Result<()> {
        self.shared
            .invoke_on_member(client::ping_request()?, member, limit)
            .await
            .map(|_| ())
    }

    /// The distributed map of this name. Nothing is sent before its first operation.
    pub fn map(&self, name: impl Into<String>) -> Map {
        Map::new(Arc::clone(&self.shared), name.into())
    }

    /// The distributed queue of this name. Nothing is sent before its first operation.
    pub fn queue(&self, name: impl Into<String>) -> Queue {
        Queue::new(Arc::clone(&self.shared), name.into())
    }

    /// Tells of partitions that lost copies, whatever was stored in them.
    pub fn partition_lost_listener(&self) -> Listener<PartitionLost> {
        let registration = Registration {
            add: Box::new(|| client::add_partition_lost_listener_request(false)),
            decode_id: client::decode_add_partition_lost_listener,
            remove: Box::new(client::remove_partition_lost_listener_request),
            decode_event: |message| {
                let event = client::decode_partition_lost_event(message)?;
                Ok(PartitionLost {
                    partition_id: event.partition_id,
                    lost_backup_count: event.lost_backup_count,
                })
            },
        };
        Listener::spawn(Arc::clone(&self.shared), registration)
    }

    /// Closes the connections and returns when they are closed, after a second at most. Calls on their way and later ones fail
    /// with [`Kind::ShutDown`] or their outcome unknown.
    pub async fn shutdown(&self) {
        self.shared.shutdown().await;
    }
}
