//! Who is live. <https://developer.hashicorp.com/consul/api-docs/health#list-service-instances-for-service>

use std::collections::HashMap;

use anyhow::Context;
use futures_util::stream::BoxStream;
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use serde::Deserialize;
use tracing::debug;

use super::agent::{SINCE_META, VERSION_META};
use super::blocking::{self, Answer};
use super::{Consul, Failure};
use crate::engine::registry::parse_rfc3339;
use crate::engine::{Instance, Result};

impl Consul {
    /// The passing instances of a service: see [`Registry::watch`](crate::engine::Registry::watch).
    pub(super) fn watch_passing<'a>(&'a self, service: &'a str) -> BoxStream<'a, Result<Vec<Instance>>> {
        self.watch_by(move |index| self.passing(service, index))
    }

    async fn passing(&self, service: &str, index: u64) -> anyhow::Result<Answer<Vec<Instance>>> {
        let what = || format!("the live instances of {service}");
        let sent = self
            .send(ServiceHealth::passing(service, index), blocking::deadline(index))
            .await;
        let answer = sent.map_err(anyhow::Error::from).with_context(what)?;
        let index = blocking::index_of(&answer).with_context(what)?;
        let entries = answer.parse().map_err(Failure::from).map_err(anyhow::Error::from);
        Ok(Answer {
            index: Some(index),
            content: instances(service, entries.with_context(what)?),
        })
    }
}

/// The instances that can be called, in the order of their ids.
fn instances(service: &str, entries: Vec<Entry>) -> Vec<Instance> {
    let mut instances: Vec<Instance> = entries
        .into_iter()
        .filter_map(|entry| entry.instance(service))
        .collect();
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances.dedup_by(|a, b| a.id == b.id);
    instances
}

/// `GET /v1/health/service/<name>`, which `consulrs` does not have.
pub(super) struct ServiceHealth<'a> {
    service: &'a str,
    passing: bool,
    index: u64,
}

impl<'a> ServiceHealth<'a> {
    /// The passing instances; see [`blocking`] for the index.
    fn passing(service: &'a str, index: u64) -> Self {
        Self {
            service,
            passing: true,
            index,
        }
    }

    /// All instances, at once.
    pub(super) fn all(service: &'a str) -> Self {
        Self {
            service,
            passing: false,
            index: 0,
        }
    }
}

impl Endpoint for ServiceHealth<'_> {
    type Response = Vec<Entry>;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        format!("health/service/{}", self.service)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }

    fn query(&self) -> std::result::Result<Option<String>, ClientError> {
        Ok(blocking::query(self.passing.then_some("passing=true"), self.index))
    }
}

/// One instance in Consul's answer, as far as it is of use here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    pub(super) node: Node,
    pub(super) service: Service,
    /// Those of its node among them.
    pub(super) checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Check {
    /// `passing`, `warning` or `critical`.
    pub(super) status: String,
    pub(super) name: String,
    pub(super) output: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Node {
    pub(super) address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Service {
    #[serde(rename = "ID")]
    pub(super) id: String,
    /// Empty where it is that of the node.
    pub(super) address: String,
    /// Left out where it is 0: whoever registers without a port.
    #[serde(default)]
    pub(super) port: i64,
    pub(super) meta: Option<HashMap<String, String>>,
}

impl Service {
    /// Host and port to call, or `None` where there are none that could be called.
    pub(super) fn place(&self, node: &Node) -> Option<(String, u16)> {
        let host = if self.address.is_empty() {
            &node.address
        } else {
            &self.address
        };
        let port = u16::try_from(self.port).ok().filter(|port| *port > 0)?;
        (!host.is_empty()).then(|| (host.clone(), port))
    }
}

impl Entry {
    /// `None` where it has no address or port that could be called.
    fn instance(self, service: &str) -> Option<Instance> {
        let Self {
            node, service: found, ..
        } = self;
        let Some((host, port)) = found.place(&node) else {
            let (id, host, port) = (found.id, found.address, found.port);
            debug!(
                service,
                id, host, port, "passed over an instance that has no address to call"
            );
            return None;
        };
        let mut meta = found.meta.unwrap_or_default();
        Some(Instance {
            id: found.id,
            host,
            port,
            version: meta.remove(VERSION_META),
            since: meta.get(SINCE_META).and_then(|since| parse_rfc3339(since)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_in_order_and_those_that_cannot_be_called_are_left_out() {
        let entry = |id: &str, address: &str, port: i64, meta: Option<&str>| Entry {
            node: Node {
                address: "10.0.0.9".to_owned(),
            },
            service: Service {
                id: id.to_owned(),
                address: address.to_owned(),
                port,
                meta: meta.map(|version| HashMap::from([("svc".to_owned(), version.to_owned())])),
            },
            checks: Vec::new(),
        };
        let found = instances(
            "s",
            vec![
                entry("c", "", 1, None),
                entry("b", "::1", 65535, Some("1.2.3")),
                entry("a", "host", 2, None),
                entry("a", "other", 2, None),
                entry("no port", "host", 0, None),
                entry("bad port", "host", 65536, None),
                entry("negative", "host", -1, None),
            ],
        );
        let instance = |id: &str, host: &str, port, version: Option<&str>| Instance {
            id: id.to_owned(),
            host: host.to_owned(),
            port,
            version: version.map(str::to_owned),
            since: None,
        };
        let expected = [
            instance("a", "host", 2, None),
            instance("b", "::1", 65535, Some("1.2.3")),
            instance("c", "10.0.0.9", 1, None),
        ];
        assert_eq!(found, expected);
    }
}
