//! From an address to a connection: connect, authenticate, ask for the backups' confirmations.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use uuid::Uuid;

use super::codec::client::{self, Accepted, Authentication, AuthenticationResponse, Refusal};
use super::config::{Config, Routing};
use super::connection::Established;
use super::error::{Error, Kind, Result};
use super::inbox::Inbox;
use super::message::{Incoming, Request};

/// What a client sends first: the protocol and its version.
const PREAMBLE: &[u8] = b"CP2";

/// How members name the kind of this client in their statistics.
const CLIENT_TYPE: &str = "RST";

/// Whom a connection is to lead to.
#[derive(Default)]
pub(super) struct Wanted {
    /// This member; `None` for whichever answers.
    pub(super) member: Option<Uuid>,
    /// Addresses that are left out.
    pub(super) not_at: Vec<SocketAddr>,
}

impl Wanted {
    /// An address may lead to another member, which has taken the place of the one that is wanted or stands before it.
    fn check(&self, found: Uuid) -> Result<()> {
        match self.member {
            Some(wanted) if wanted != found => Err(Error::new(
                Kind::NotWritten,
                format!("another member, {found}, answers there"),
            )),
            _ => Ok(()),
        }
    }
}

/// Connects to the first address that answers as the member that is wanted. Host names are resolved anew; each address that a
/// name has is tried, and has the whole time to connect.
///
/// # Errors
/// What each address answered, one after the other; [`Kind::Authentication`] where one of them refused the client.
pub(super) async fn connect_any(
    endpoints: &[(String, u16)],
    wanted: &Wanted,
    client_uuid: Uuid,
    config: &Arc<Config>,
) -> Result<(Established, Accepted)> {
    let mut refusals = Refusals::default();
    for (host, port) in endpoints {
        let addresses = match resolve(host, *port, config.connect_timeout).await {
            Ok(addresses) => addresses,
            Err(error) => {
                refusals.add(format_args!("{host}:{port}"), &error);
                continue;
            }
        };
        for address in addresses.into_iter().filter(|address| !wanted.not_at.contains(address)) {
            match connect(address, wanted, client_uuid, config).await {
                Ok(connected) => return Ok(connected),
                Err(error) if host.parse() == Ok(address.ip()) => refusals.add(format_args!("{address}"), &error),
                Err(error) => refusals.add(format_args!("{host}:{port} ({})", address.ip()), &error),
            }
        }
    }
    Err(refusals.into_error())
}

/// What the addresses answered that did not let the client in.
#[derive(Default)]
struct Refusals {
    answers: Vec<String>,
    of_client: bool,
}

impl Refusals {
    fn add(&mut self, address: fmt::Arguments<'_>, error: &Error) {
        self.of_client |= error.kind() == Kind::Authentication;
        self.answers.push(format!("{address}: {error:#}"));
    }

    fn into_error(self) -> Error {
        let kind = if self.of_client {
            Kind::Authentication
        } else {
            Kind::NotWritten
        };
        Error::new(kind, self.answers.join("; "))
    }
}

async fn resolve(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>> {
    let addresses = within(limit, async { lookup_host((host, port)).await.map_err(unreachable) }).await?;
    let mut distinct = Vec::new();
    for address in addresses {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    if distinct.is_empty() {
        return Err(Error::new(Kind::NotWritten, "the name has no address"));
    }
    Ok(distinct)
}

async fn connect(
    address: SocketAddr,
    wanted: &Wanted,
    client_uuid: Uuid,
    config: &Config,
) -> Result<(Established, Accepted)> {
    within(config.connect_timeout, async {
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        let handshake = Handshake::new(stream, address, config);
        handshake.run(wanted, client_uuid, config).await
    })
    .await
}

async fn within<T>(limit: Duration, attempt: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, attempt).await.unwrap_or_else(|_| {
        let message = format!("no answer within {} ms", limit.as_millis());
        Err(Error::new(Kind::NotWritten, message))
    })
}

fn unreachable(error: io::Error) -> Error {
    Error::new(Kind::NotWritten, error.to_string())
}

/// A stream on which one request is answered before the next is sent.
struct Handshake {
    stream: TcpStream,
    address: SocketAddr,
    inbox: Inbox,
    last_id: i64,
}

impl Handshake {
    fn new(stream: TcpStream, address: SocketAddr, config: &Config) -> Self {
        Self {
            stream,
            address,
            inbox: Inbox::new(config.max_message_bytes),
            last_id: 0,
        }
    }

    async fn run(mut self, wanted: &Wanted, client_uuid: Uuid, config: &Config) -> Result<(Established, Accepted)> {
        self.stream.set_nodelay(true).map_err(broken)?;
        self.stream.write_all(PREAMBLE).await.map_err(broken)?;
        let accepted = self.authenticate(client_uuid, config).await?;
        wanted.check(accepted.member_uuid)?;
        // A client that is connected to one member alone cannot hear the others' confirmations.
        let backup_acks = config.routing == Routing::AllMembers;
        if backup_acks {
            self.call(&client::local_backup_listener_request()?).await?;
        }
        let established = Established {
            stream: self.stream,
            inbox: self.inbox,
            address: self.address,
            member: accepted.member_uuid,
            backup_acks,
        };
        Ok((established, accepted))
    }

    async fn authenticate(&mut self, client_uuid: Uuid, config: &Config) -> Result<Accepted> {
        let request = client::authentication_request(&Authentication {
            cluster_name: &config.cluster_name,
            credentials: None,
            client_uuid,
            client_type: CLIENT_TYPE,
            client_version: env!("CARGO_PKG_VERSION"),
            client_name: &config.client_name,
            labels: &[],
        })?;
        let refusal = match client::decode_authentication(&self.call(&request).await?)? {
            AuthenticationResponse::Accepted(accepted) => return Ok(accepted),
            AuthenticationResponse::Refused(refusal) => refusal,
        };
        let reason = match refusal {
            Refusal::CredentialsFailed => "its cluster has another name, or asks for credentials",
            Refusal::SerializationVersionMismatch => "it speaks another serialization version",
            Refusal::NotAllowedInCluster => "it does not admit this client to its cluster",
            _ => "for a reason that this client does not know",
        };
        let message = format!(
            "the member refused a client of the cluster {:?}: {reason}",
            config.cluster_name
        );
        Err(Error::new(Kind::Authentication, message))
    }

    async fn call(&mut self, request: &Request) -> Result<Incoming> {
        self.last_id += 1;
        let mut out = BytesMut::with_capacity(request.len());
        request.write_first(self.last_id, -1, false, &mut out);
        out.extend_from_slice(request.rest());
        self.stream.write_all(&out).await.map_err(broken)?;
        loop {
            while let Some(message) = self.inbox.next().map_err(foreign)? {
                if !message.is_event() && message.correlation_id() == self.last_id {
                    request.check_answer(&message)?;
                    return Ok(message);
                }
            }
            if self.inbox.read_from(&mut self.stream).await.map_err(broken)? == 0 {
                return Err(Error::new(
                    Kind::NotWritten,
                    "the member closed the connection while it was being set up",
                ));
            }
        }
    }
}

/// Bytes that are no messages come from whatever else listens there: the address is wrong, more often than the member.
fn foreign(error: Error) -> Error {
    Error::protocol(format!(
        "what it answers is not the protocol of a Hazelcast member: {error}"
    ))
}

fn broken(error: io::Error) -> Error {
    Error::new(
        Kind::NotWritten,
        format!("the connection broke while it was being set up: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    async fn silent() -> (TcpListener, (String, u16)) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, ("localhost".into(), port))
    }

    #[tokio::test]
    async fn each_address_is_tried_and_told_of_with_the_name_that_led_to_it() {
        let (_first, first) = silent().await;
        let (second, second_endpoint) = silent().await;
        let mut config = Config::new("dev", ["localhost"]);
        config.connect_timeout = Duration::from_millis(300);
        let port = second_endpoint.1;
        let endpoints = [first, second_endpoint];
        let error = connect_any(&endpoints, &Wanted::default(), Uuid::from_u128(1), &Arc::new(config))
            .await
            .err()
            .unwrap();
        second.accept().await.unwrap();
        let message = error.to_string();
        let told = format!("localhost:{port} (127.0.0.1): no answer within 300 ms");
        assert!(message.contains(&told), "{message}");
    }

    #[tokio::test]
    async fn a_name_without_address_is_told_of() {
        let config = Arc::new(Config::new("dev", ["localhost"]));
        let endpoint = ("no-such-host.invalid".to_owned(), 5701);
        let error = connect_any(&[endpoint], &Wanted::default(), Uuid::from_u128(1), &config)
            .await
            .err()
            .unwrap();
        assert!(error.to_string().starts_with("no-such-host.invalid:5701: "), "{error}");
    }
}
