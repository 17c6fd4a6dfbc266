//! Proxies on all ways between the roles of a fleet, and to its Consul agent.

use std::net::{Ipv4Addr, SocketAddr};

use super::agent::{Agent, Ports};
use super::proxy::Proxy;

/// What instances are called by: an address of this machine where the proxy before each listens, on the same port.
const ADVERTISED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// They end with this value.
pub(crate) struct Ways {
    /// Before the agent.
    pub(crate) consul: Proxy,
    /// Before each instance.
    pub(crate) logging: Vec<Proxy>,
    pub(crate) messages: Vec<Proxy>,
}

impl Ways {
    /// Ways to that agent, and to so many instances that are still to be started.
    pub(crate) async fn open(agent: &Agent, logging: usize, messages: usize) -> Self {
        Self {
            consul: Proxy::start_http((Ipv4Addr::LOCALHOST, 0).into(), agent.address.parse().unwrap()).await,
            logging: before(logging).await,
            messages: before(messages).await,
        }
    }

    /// The arguments of an instance, by its role and its number, with which others reach it through its proxy.
    pub(crate) fn arguments(&self) -> impl Fn(&str, usize) -> Vec<String> + Send + 'static + use<> {
        let ports = |proxies: &[Proxy]| proxies.iter().map(|proxy| proxy.address().port()).collect::<Vec<_>>();
        let (logging, messages) = (ports(&self.logging), ports(&self.messages));
        let consul = self.consul.address().to_string();
        move |role, number| {
            let port = match role {
                "logging" => logging[number],
                "messages" => messages[number],
                _ => 0,
            };
            let port = port.to_string();
            let mut arguments = vec!["--port", &port, "--log", "svc=debug", "--consul", &consul];
            let advertised = ADVERTISED.to_string();
            if port != "0" {
                arguments.extend(["--advertise", &advertised]);
            }
            arguments.into_iter().map(str::to_owned).collect()
        }
    }
}

async fn before(instances: usize) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for _ in 0..instances {
        let port = Ports::free().http;
        let instance = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        proxies.push(Proxy::start_http((ADVERTISED, port).into(), instance).await);
    }
    proxies
}
