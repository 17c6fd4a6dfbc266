//! [`Engines`]: the one place that knows which engines there are.

use std::path::PathBuf;
use std::sync::Arc;

use super::identifiers::{Identifiers, Plain};
use super::local::{Local, LocalLog, LocalMailbox};
use super::{LogStore, Mailbox, Registry, Settings, consul, hazelcast};

/// Where the engines are.
#[derive(Clone, Debug)]
pub enum EngineOptions {
    /// Consul at this address, and the Hazelcast clusters that the settings there name.
    Servers(consul::ConsulOptions),
    /// The embedded engines in this folder, which the processes of one machine share.
    Folder(PathBuf),
}

/// The engines that a process uses, behind their ports.
#[derive(Clone, Debug)]
pub struct Engines(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Servers(consul::ConsulOptions),
    Folder(Arc<Local>),
}

impl Engines {
    /// The engines at `options`. Nothing is asked of them yet: whether they are there, each tells by its `ready`.
    ///
    /// # Errors
    /// Where the path of a folder is empty.
    pub fn at(options: EngineOptions) -> anyhow::Result<Self> {
        match options {
            EngineOptions::Servers(options) => Ok(Self(Kind::Servers(options))),
            EngineOptions::Folder(folder) => Ok(Self(Kind::Folder(Arc::new(Local::new(folder)?)))),
        }
    }

    /// The settings.
    ///
    /// # Errors
    /// Where the options cannot work: a malformed address, a certificate that cannot be read, a token that is no header
    /// value.
    pub fn settings(&self) -> anyhow::Result<Arc<dyn Settings>> {
        match &self.0 {
            Kind::Servers(options) => Ok(Arc::new(consul::Consul::new(options)?)),
            Kind::Folder(local) => Ok(local.clone()),
        }
    }

    /// The registry.
    ///
    /// # Errors
    /// Those of [`Engines::settings`].
    pub fn registry(&self) -> anyhow::Result<Arc<dyn Registry>> {
        match &self.0 {
            Kind::Servers(options) => Ok(Arc::new(consul::Consul::new(options)?)),
            Kind::Folder(local) => Ok(local.clone()),
        }
    }

    /// The identifiers of what is to be logged.
    pub fn identifiers(&self) -> Arc<dyn Identifiers> {
        match &self.0 {
            Kind::Servers(_) => Arc::new(hazelcast::OfOnePartition::new()),
            Kind::Folder(_) => Arc::new(Plain),
        }
    }

    /// The log in the map `map_name` of the cluster `cluster_name`, found at `members` (`host:port`), of which a folder has
    /// none.
    ///
    /// It begins to connect, and goes on until it is dropped: [`Engine::ready`](super::Engine::ready) tells whether it is
    /// there.
    ///
    /// # Errors
    /// Where `members` is empty or one of them is malformed; where the folder cannot be used, or what is in it.
    pub async fn log(
        &self,
        cluster_name: &str,
        map_name: &str,
        members: &[String],
    ) -> anyhow::Result<Arc<dyn LogStore>> {
        match &self.0 {
            Kind::Servers(_) => Ok(Arc::new(hazelcast::HazelcastLog::start(
                cluster_name,
                map_name,
                members,
            )?)),
            Kind::Folder(local) => Ok(Arc::new(LocalLog::new(local.store().await?, cluster_name, map_name))),
        }
    }

    /// The mailbox of the queue `queue_name` of the cluster `cluster_name`, found at `members` (`host:port`), of which a folder
    /// has none. The cluster shows `role` as who uses it.
    ///
    /// It begins to connect, and goes on until it is dropped: [`Engine::ready`](super::Engine::ready) tells whether it is
    /// there.
    ///
    /// # Errors
    /// Those of [`Engines::log`].
    pub async fn mailbox(
        &self,
        cluster_name: &str,
        queue_name: &str,
        members: &[String],
        role: &str,
    ) -> anyhow::Result<Arc<dyn Mailbox>> {
        match &self.0 {
            Kind::Servers(_) => Ok(Arc::new(hazelcast::HazelcastMailbox::start(
                cluster_name,
                queue_name,
                members,
                role,
            )?)),
            Kind::Folder(local) => Ok(Arc::new(LocalMailbox::new(
                local.store().await?,
                cluster_name,
                queue_name,
            ))),
        }
    }
}
