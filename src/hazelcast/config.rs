//! What a client is told before it connects.

use std::time::Duration;

use super::error::{Error, Kind, Result};

/// Port of an address that names none: the member's default.
const DEFAULT_PORT: u16 = 5701;

/// How requests find their member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// One connection to every member; a request for a key goes to the owner of its partition. The default.
    #[default]
    AllMembers,
    /// One connection to one member, which passes requests on: for networks where the others cannot be reached.
    SingleMember,
}

/// Settings of a [`Client`](super::Client). Start from [`Config::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the cluster; a cluster of another name refuses the client.
    pub cluster_name: String,
    /// Members to ask first, `host:port` (port 5701 where none is given). Host names are resolved at every attempt.
    pub addresses: Vec<String>,
    /// Name that the members show for this client. Default `svc`.
    pub client_name: String,
    /// How requests find their member. Default [`Routing::AllMembers`].
    pub routing: Routing,
    /// Longest time to connect to one member and to be authenticated there. Default 1 s.
    pub connect_timeout: Duration,
    /// A connection that was not written to for so long is pinged. Default 1 s.
    pub heartbeat_interval: Duration,
    /// A connection from which nothing was read for so long is closed. Default 5 s.
    pub heartbeat_timeout: Duration,
    /// First wait between two attempts to connect; it doubles, with jitter. Default 50 ms.
    pub reconnect_min: Duration,
    /// Longest wait between two attempts to connect, before jitter. Default 2 s.
    pub reconnect_max: Duration,
    /// How long a call may take, tries and waits together, where its handle says nothing else. Default 5 s.
    pub invocation_timeout: Duration,
    /// How long the backups' confirmation may come after the answer. Default 500 ms.
    pub backup_ack_timeout: Duration,
    /// Whether a call fails as indeterminate where its backups did not confirm it in time. Default true.
    pub fail_on_indeterminate: bool,
    /// Whether mutations whose outcome is unknown are repeated: right for those that change nothing when applied twice.
    /// Queue operations that hand an item out (`poll`, `drainTo`) are never repeated. Default false.
    pub redo_operations: bool,
    /// Largest message taken from a member, in bytes. A larger one closes the connection. Default 256 MiB.
    pub max_message_bytes: usize,
}

impl Config {
    /// The defaults, for a cluster of this name that can be found at these addresses.
    pub fn new<A: Into<String>>(cluster_name: impl Into<String>, addresses: impl IntoIterator<Item = A>) -> Self {
        Self {
            cluster_name: cluster_name.into(),
            addresses: addresses.into_iter().map(Into::into).collect(),
            client_name: "svc".into(),
            routing: Routing::AllMembers,
            connect_timeout: Duration::from_secs(1),
            heartbeat_interval: Duration::from_secs(1),
            heartbeat_timeout: Duration::from_secs(5),
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(2),
            invocation_timeout: Duration::from_secs(5),
            backup_ack_timeout: Duration::from_millis(500),
            fail_on_indeterminate: true,
            redo_operations: false,
            max_message_bytes: 256 * 1024 * 1024,
        }
    }

    /// No duration on which the client waits may be zero: it would wait in a busy loop, or not at all.
    ///
    /// # Errors
    /// [`Kind::Configuration`] with the setting's name.
    pub(crate) fn check_durations(&self) -> Result<()> {
        let durations = [
            ("connect_timeout", self.connect_timeout),
            ("heartbeat_interval", self.heartbeat_interval),
            ("heartbeat_timeout", self.heartbeat_timeout),
            ("reconnect_min", self.reconnect_min),
            ("reconnect_max", self.reconnect_max),
        ];
        match durations.iter().find(|(_, duration)| duration.is_zero()) {
            Some((name, _)) => Err(Error::new(
                Kind::Configuration,
                format!("{name} of a Hazelcast client must be longer than zero"),
            )),
            None => Ok(()),
        }
    }

    /// The addresses as host and port.
    ///
    /// # Errors
    /// [`Kind::Configuration`] where there is none, or one does not parse.
    pub(crate) fn endpoints(&self) -> Result<Vec<(String, u16)>> {
        if self.addresses.is_empty() {
            return Err(Error::new(
                Kind::Configuration,
                "no address of a Hazelcast member is given",
            ));
        }
        self.addresses.iter().map(|address| parse_address(address)).collect()
    }
}

fn parse_address(address: &str) -> Result<(String, u16)> {
    let invalid = || {
        Error::new(
            Kind::Configuration,
            format!("{address:?} is no address of a Hazelcast member: expected host:port"),
        )
    };
    let address = address.trim();
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(invalid)?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(invalid()),
        }
    } else {
        match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    let port = port.map_or(Ok(DEFAULT_PORT), |port| port.parse().map_err(|_| invalid()))?;
    if host.is_empty() || port == 0 {
        Err(invalid())
    } else {
        Ok((host.to_owned(), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for (address, host, port) in [
            ("127.0.0.1:5711", "127.0.0.1", 5711),
            ("hazelcast", "hazelcast", 5701),
            (" hazelcast:5702 ", "hazelcast", 5702),
            ("[::1]:5703", "::1", 5703),
            ("[::1]", "::1", 5701),
        ] {
            assert_eq!(parse_address(address).unwrap(), (host.to_owned(), port), "{address}");
        }
    }

    #[test]
    fn an_address_that_does_not_parse_is_named() {
        for address in [
            "",
            ":5701",
            "host:",
            "host:0",
            "host:65536",
            "host:x",
            "::1",
            "[::1",
            "[::1]x",
        ] {
            let error = parse_address(address).unwrap_err();
            assert_eq!(error.kind(), Kind::Configuration, "{address}");
            assert!(error.to_string().contains(&format!("{address:?}")), "{error}");
        }
    }

    #[test]
    fn a_duration_of_zero_is_refused_by_name() {
        let mut config = Config::new("dev", ["hazelcast"]);
        assert!(config.check_durations().is_ok());
        config.heartbeat_interval = Duration::ZERO;
        let error = config.check_durations().unwrap_err();
        assert_eq!(error.kind(), Kind::Configuration);
        assert!(error.to_string().contains("heartbeat_interval"), "{error}");
    }

    #[test]
    fn at_least_one_address_is_needed() {
        assert_eq!(
            Config::new("dev", Vec::<String>::new()).endpoints().unwrap_err().kind(),
            Kind::Configuration
        );
    }
}
