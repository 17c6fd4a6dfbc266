//! From an address to a connection: connect, authenticate, ask for the backups' confirmations.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use super::codec::client::{self, Accepted, Authentication, AuthenticationResponse, Refusal};
use super::config::{Config, Routing};
use super::connection::Established;
use super::error::{Error, Kind, Result};
use super::message::{Incoming, MessageReader, Request};

/// What a client sends first: the protocol and its version.
const PREAMBLE: &[u8] = b"CP2";

/// How members name the kind of this client in their statistics.
const CLIENT_TYPE: &str = "RST";

/// Connects to the first address that answers as a member of the right cluster. Host names are resolved anew.
///
/// # Errors
/// What each address answered, one after the other; [`Kind::Authentication`] where one of them refused the client.
pub(super) async fn connect_any(
    endpoints: &[(String, u16)],
    client_uuid: Uuid,
    config: &Arc<Config>,
) -> Result<(Established, Accepted)> {
    let mut answers = Vec::new();
    let mut kind = Kind::NotWritten;
    for (host, port) in endpoints {
        match connect(host, *port, client_uuid, config).await {
            Ok(connected) => return Ok(connected),
            Err(error) => {
                if error.kind() == Kind::Authentication {
                    kind = Kind::Authentication;
                }
                answers.push(format!("{host}:{port}: {error:#}"));
            }
        }
    }
    Err(Error::new(kind, answers.join("; ")))
}

async fn connect(host: &str, port: u16, client_uuid: Uuid, config: &Config) -> Result<(Established, Accepted)> {
    let limit = config.connect_timeout;
    let attempt = async {
        let unreachable = |error: std::io::Error| Error::new(Kind::NotWritten, error.to_string());
        let mut answer = Error::new(Kind::NotWritten, "the name has no address");
        for address in tokio::net::lookup_host((host, port)).await.map_err(unreachable)? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Handshake::new(stream, address, config).run(client_uuid, config).await,
                Err(error) => answer = unreachable(error),
            }
        }
        Err(answer)
    };
    timeout(limit, attempt).await.unwrap_or_else(|_| {
        Err(Error::new(
            Kind::NotWritten,
            format!("no answer within {} ms", limit.as_millis()),
        ))
    })
}

/// A stream on which one request is answered before the next is sent.
struct Handshake {
    stream: TcpStream,
    address: SocketAddr,
    reader: MessageReader,
    received: BytesMut,
    last_id: i64,
}

impl Handshake {
    fn new(stream: TcpStream, address: SocketAddr, config: &Config) -> Self {
        let reader = MessageReader::new(config.max_message_bytes);
        Self {
            stream,
            address,
            reader,
            received: BytesMut::new(),
            last_id: 0,
        }
    }

    async fn run(mut self, client_uuid: Uuid, config: &Config) -> Result<(Established, Accepted)> {
        self.stream.set_nodelay(true).map_err(broken)?;
        self.stream.write_all(PREAMBLE).await.map_err(broken)?;
        let accepted = self.authenticate(client_uuid, config).await?;
        // A client that is connected to one member alone cannot hear the others' confirmations.
        let backup_acks = config.routing == Routing::AllMembers;
        if backup_acks {
            self.call(&client::local_backup_listener_request()?).await?;
        }
        let Self {
            stream,
            address,
            reader,
            received,
            ..
        } = self;
        let member = accepted.member_uuid;
        Ok((
            Established {
                stream,
                reader,
                received,
                address,
                member,
                backup_acks,
            },
            accepted,
        ))
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
            while let Some(message) = self.reader.next(&mut self.received)? {
                if !message.is_event() && message.correlation_id() == self.last_id {
                    request.check_answer(&message)?;
                    return Ok(message);
                }
            }
            if self.stream.read_buf(&mut self.received).await.map_err(broken)? == 0 {
                return Err(Error::new(
                    Kind::NotWritten,
                    "the member closed the connection while it was being set up",
                ));
            }
        }
    }
}

fn broken(error: std::io::Error) -> Error {
    Error::new(
        Kind::NotWritten,
        format!("the connection broke while it was being set up: {error}"),
    )
}
