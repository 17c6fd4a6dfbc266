//! The ports, on the engines that tests start.

use std::path::Path;
use std::sync::Arc;

use svc::engine::consul::ConsulOptions;
use svc::engine::{EngineOptions, Engines, LogStore, Mailbox, Registry, Settings};

use super::engines::Cluster;

/// The Consul agent at this address, without a token or a certificate.
pub(crate) fn consul_options(address: &str) -> ConsulOptions {
    ConsulOptions {
        address: address.to_owned(),
        token: None,
        ca_cert: None,
        client_cert: None,
        client_key: None,
    }
}

/// The engines behind that agent.
pub(crate) fn servers(options: ConsulOptions) -> Engines {
    Engines::at(EngineOptions::Servers(options)).unwrap()
}

/// The embedded engines in this folder.
pub(crate) fn folder(path: &Path) -> Engines {
    Engines::at(EngineOptions::Folder(path.to_owned())).unwrap()
}

pub(crate) fn settings(address: &str) -> Arc<dyn Settings> {
    servers(consul_options(address)).settings().unwrap()
}

pub(crate) fn registry(address: &str) -> Arc<dyn Registry> {
    servers(consul_options(address)).registry().unwrap()
}

pub(crate) async fn log(cluster: &Cluster, map: &str) -> Arc<dyn LogStore> {
    // Which Consul it would be does not matter to a log.
    let engines = servers(consul_options("http://127.0.0.1:8500"));
    engines.log(cluster.name, map, &members(cluster)).await.unwrap()
}

pub(crate) async fn mailbox(cluster: &Cluster, queue: &str) -> Arc<dyn Mailbox> {
    let engines = servers(consul_options("http://127.0.0.1:8500"));
    engines
        .mailbox(cluster.name, queue, &members(cluster), "test")
        .await
        .unwrap()
}

fn members(cluster: &Cluster) -> Vec<String> {
    cluster.addresses().split(',').map(str::to_owned).collect()
}
