//! One attempt to connect: by which addresses, and whether one of them leads to whom it is aimed at.

use std::net::SocketAddr;
use std::sync::Arc;

use uuid::Uuid;

use super::attempts::Target;
use super::cluster::View;
use super::codec::client::Accepted;
use super::config::Config;
use super::connection::Established;
use super::error::{Error, Result};
use super::handshake::{Wanted, connect_any};

/// An attempt to be made.
pub(super) struct Dial {
    target: Target,
    /// Where to try first: a member at the address that the cluster lists it under.
    endpoints: Vec<(String, u16)>,
    /// Where a member may be beside that: the configured addresses.
    elsewhere: Vec<(String, u16)>,
    /// Where other members are connected: none of these leads to the one that is wanted.
    taken: Vec<SocketAddr>,
}

/// What became of it.
pub(super) struct Dialed {
    pub(super) target: Target,
    /// Why the member was not reached at its listed address, where it was reached at a configured one instead.
    pub(super) missed: Option<Error>,
    pub(super) outcome: Result<(Established, Accepted)>,
}

impl Dial {
    /// `configured` are the addresses that the client was given.
    pub(super) fn new(target: Target, configured: &[(String, u16)], view: &View) -> Self {
        let listed = view.members.iter().filter(|member| match target {
            Target::Anyone => true,
            Target::Member(uuid) => member.uuid == uuid,
        });
        let listed: Vec<(String, u16)> = listed.map(|member| (member.host.clone(), member.port)).collect();
        let without = |all: &[(String, u16)], some: &[(String, u16)]| {
            all.iter()
                .filter(|endpoint| !some.contains(endpoint))
                .cloned()
                .collect()
        };
        let (endpoints, elsewhere) = match target {
            Target::Anyone => ([configured.to_vec(), without(&listed, configured)].concat(), Vec::new()),
            Target::Member(_) => {
                let elsewhere = without(configured, &listed);
                (listed, elsewhere)
            }
        };
        Self {
            target,
            endpoints,
            elsewhere,
            taken: view.connections.iter().map(|connection| connection.address).collect(),
        }
    }

    /// Makes the attempt. Where a member is found nowhere, the error is that of its listed address.
    pub(super) async fn run(self, client_uuid: Uuid, config: &Arc<Config>) -> Dialed {
        let target = self.target;
        let mut wanted = Wanted {
            member: match target {
                Target::Anyone => None,
                Target::Member(uuid) => Some(uuid),
            },
            not_at: Vec::new(),
        };
        let (mut missed, mut outcome) = (None, connect_any(&self.endpoints, &wanted, client_uuid, config).await);
        if let Err(error) = outcome {
            wanted.not_at = self.taken;
            (missed, outcome) = match connect_any(&self.elsewhere, &wanted, client_uuid, config).await {
                Ok(found) => (Some(error), Ok(found)),
                Err(_) => (None, Err(error)),
            };
        }
        Dialed {
            target,
            missed,
            outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cluster::Member;
    use super::*;

    fn endpoint(host: &str) -> (String, u16) {
        (host.to_owned(), 5701)
    }

    /// Of members that are listed under these names, in the order of their ids.
    fn view(hosts: [&str; 2]) -> View {
        let mut view = View::default();
        let members = hosts.into_iter().zip(1..).map(|(host, id)| Member {
            uuid: Uuid::from_u128(id),
            host: host.to_owned(),
            port: 5701,
        });
        view.members = members.collect();
        view
    }

    #[test]
    fn anyone_is_looked_for_at_the_configured_addresses_and_then_where_members_were_last_listed() {
        let dial = Dial::new(Target::Anyone, &[endpoint("given"), endpoint("b")], &view(["a", "b"]));
        assert_eq!(dial.endpoints, ["given", "b", "a"].map(endpoint));
        assert!(dial.elsewhere.is_empty());
    }

    #[test]
    fn a_member_is_looked_for_where_it_is_listed_and_then_at_the_configured_addresses_that_are_others() {
        let target = Target::Member(Uuid::from_u128(2));
        let dial = Dial::new(target, &[endpoint("given"), endpoint("b")], &view(["a", "b"]));
        assert_eq!(dial.endpoints, [endpoint("b")]);
        assert_eq!(dial.elsewhere, [endpoint("given")]);
    }
}
