//! Consul, by its HTTP API: adapter over the crate `consulrs`.
//!
//! The requests, their path, version and token come from that crate. The call itself is made here, since the crate's own
//! `exec_with_result` panics on response headers that are no ASCII, and keeps the body of an error to itself.

mod agent;
mod blocking;
mod health;
mod kv;
mod listing;

use std::error::Error;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use consulrs::client::{Client, ConsulClient, ConsulClientSettings};
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Identity, Url};
use rustify::clients::reqwest::Client as RestClient;
use rustify::endpoint::{Endpoint, EndpointResult};
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;

use super::Unavailable;

/// How long one call may take, answer included. A blocking query may take its wait on top.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// How long the connection to the agent may take to stand.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// How much of a foreign answer is shown, in characters.
const EXCERPT_CHARS: usize = 120;

/// Where the Consul agent is, and who we are to it.
#[derive(Clone, Debug)]
pub struct ConsulOptions {
    /// `http://host:port` or `https://host:port`; without a scheme it is `http`. See [`parse_address`].
    pub address: String,
    /// The ACL token of all calls.
    pub token: Option<Token>,
    /// PEM file with the authorities to trust, instead of the public ones.
    pub ca_cert: Option<PathBuf>,
    /// PEM file with the certificate to present; needs [`client_key`](Self::client_key).
    pub client_cert: Option<PathBuf>,
    /// PEM file with that certificate's private key.
    pub client_key: Option<PathBuf>,
}

/// A secret, which no output shows.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Keeps `secret`.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Reads the address of an agent: `[http[s]://]host[:port]`. Returns it as `scheme://host:port`.
///
/// Without a scheme it is `http`, without a port it is 8500 where the scheme is missing too, else that of the scheme.
///
/// # Errors
/// Where it has another scheme, or a path, a query, a user or a password.
pub fn parse_address(text: &str) -> anyhow::Result<String> {
    let text = text.trim();
    // What comes before an @ or behind a question mark may be a secret.
    let shown = if text.contains(['@', '?']) {
        "the address given".to_owned()
    } else {
        format!("{text:?}")
    };
    let expected = || format!("{shown} cannot be used: expected [http[s]://]host[:port], nothing before or behind it");

    let has_scheme = text.contains("://");
    let full = if has_scheme {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&full).with_context(expected)?;
    let host = url.host_str().unwrap_or_default();
    let nothing_before = url.username().is_empty() && url.password().is_none();
    let nothing_behind = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let host_is_good = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b));
    let is_http = matches!(url.scheme(), "http" | "https");
    ensure!(
        is_http && nothing_before && nothing_behind && host_is_good && url.port() != Some(0),
        expected()
    );

    // The parser drops a port that is the scheme's own.
    let default = if has_scheme || text.ends_with(":80") {
        url.port_or_known_default()
    } else {
        Some(8500)
    };
    let port = url.port().or(default).unwrap_or(8500);
    Ok(format!("{}://{host}:{port}", url.scheme()))
}

/// One Consul agent.
pub struct Consul {
    client: ConsulClient,
    address: String,
}

impl Consul {
    /// A client for the agent that `options` name. Nothing is sent yet.
    ///
    /// The system's proxy settings do not apply, and redirects are not followed: the token goes to the agent alone.
    ///
    /// # Errors
    /// Where the address is malformed, the token is no header value, or a certificate or key cannot be read.
    pub fn new(options: &ConsulOptions) -> anyhow::Result<Self> {
        let address = parse_address(&options.address).context("the address of Consul")?;
        if let Some(Token(token)) = &options.token {
            // Not as the source: the cause must not name the value.
            ensure!(
                HeaderValue::from_str(token).is_ok(),
                "the Consul token (CONSUL_HTTP_TOKEN) has characters that no HTTP header can carry"
            );
        }
        let http = http_client(options)?;
        let settings = ConsulClientSettings {
            address: address.clone(),
            ca_certs: Vec::new(),
            client_cert: None,
            client_key: None,
            token: options.token.as_ref().map(|Token(token)| token.clone()),
            verify: true,
            version: 1,
        };
        let client = ConsulClient {
            http: RestClient::new(&address, http),
            settings,
        };
        Ok(Self { client, address })
    }

    /// Which agent, for people.
    fn name(&self) -> String {
        format!("Consul at {}", self.address)
    }

    /// Whether Consul has a leader. <https://developer.hashicorp.com/consul/api-docs/status#get-raft-leader>
    async fn leader(&self) -> Result<(), Failure> {
        match self.call(LeaderRequest).await {
            Ok(leader) if leader.is_empty() => Err(anyhow!("it has no leader yet").into()),
            Ok(_) => Ok(()),
            Err(Failure::Status { code, body }) if code < 500 => Err(anyhow!(
                "it answered HTTP {code} {}: is this the HTTP port of a Consul agent?",
                excerpt(&body)
            )
            .into()),
            Err(other) => Err(other),
        }
    }

    /// Makes one call within [`CALL_DEADLINE`], and reads its answer.
    async fn call<E: Endpoint>(&self, endpoint: E) -> Result<E::Response, Failure> {
        Ok(self.send(endpoint, CALL_DEADLINE).await?.parse()?)
    }

    /// Makes one call within `deadline`. The answer is as it came, its status a success.
    async fn send<E: Endpoint>(&self, endpoint: E, deadline: Duration) -> Result<EndpointResult<E::Response>, Failure> {
        let middleware = self.client.middle(None);
        let endpoint = endpoint.with_middleware(&middleware);
        let answer = tokio::time::timeout(deadline, endpoint.exec(self.client.http()))
            .await
            .map_err(|_| anyhow!("no answer within {deadline:?}"))?;
        Ok(answer?)
    }

    fn unavailable(&self, cause: impl Into<anyhow::Error>) -> Unavailable {
        Unavailable {
            engine: self.name(),
            cause: cause.into(),
        }
    }
}

/// A call that did not succeed.
#[derive(Debug)]
enum Failure {
    /// An HTTP status other than 2xx, and the body, which is where Consul says why.
    Status { code: u16, body: String },
    /// No answer, or one that is not Consul's.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Other(match error {
            ClientError::ServerResponseError { code, content } => {
                return Self::Status {
                    code,
                    body: content.unwrap_or_default(),
                };
            }
            ClientError::RequestError { source, .. } => no_answer(&source),
            ClientError::ResponseError { source } => anyhow!("its answer broke off: {}", source.root_cause()),
            ClientError::ResponseParseError { content, .. } => {
                let content = content.unwrap_or_default();
                anyhow!("it answered {}, which no Consul agent does", excerpt(&content))
            }
            other => other.into(),
        })
    }
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Status { code: 403, body } => {
                anyhow!(
                    "it refused: HTTP 403 {} (the token is that of CONSUL_HTTP_TOKEN)",
                    excerpt(&body)
                )
            }
            Failure::Status { code, body } => anyhow!("it answered HTTP {code} {}", excerpt(&body)),
            Failure::Other(error) => error,
        }
    }
}

/// What kept a request from being answered, without the layers in between that say nothing.
fn no_answer(source: &anyhow::Error) -> anyhow::Error {
    let mut root: &(dyn Error + 'static) = source.root_cause();
    while let Some(deeper) = root.source() {
        root = deeper;
    }
    match source.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_timeout() && error.is_connect() => anyhow!("no connection within {CONNECT_DEADLINE:?}"),
        Some(error) if error.is_connect() => anyhow!("no connection: {root}"),
        _ => anyhow!("no HTTP answer: {root}"),
    }
}

/// The start of a foreign answer, on one line and in quotes.
fn excerpt(body: &str) -> String {
    let line = one_line(body, EXCERPT_CHARS);
    if line.is_empty() {
        "with an empty body".to_owned()
    } else {
        format!("\"{line}\"")
    }
}

/// The first `most` characters of a foreign text, on one line.
fn one_line(text: &str, most: usize) -> String {
    let mut words = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    let mut line = words.next().unwrap_or_default().to_owned();
    for word in words {
        if line.len() > most * 4 {
            break;
        }
        line.push(' ');
        line.push_str(word);
    }
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// The HTTP client under all calls. Each call has a deadline of its own, which is not this client's to know.
fn http_client(options: &ConsulOptions) -> anyhow::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .use_rustls_tls()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_DEADLINE);
    if let Some(path) = &options.ca_cert {
        let what = || {
            format!(
                "cannot use the authorities to trust for Consul: CONSUL_CACERT is {}",
                path.display()
            )
        };
        let authorities = Certificate::from_pem_bundle(&fs::read(path).with_context(what)?).with_context(what)?;
        ensure!(
            !authorities.is_empty(),
            "{}: there is no certificate in PEM form",
            what()
        );
        builder = builder.tls_built_in_root_certs(false);
        for authority in authorities {
            builder = builder.add_root_certificate(authority);
        }
    }
    match (&options.client_cert, &options.client_key) {
        (Some(cert), Some(key)) => {
            let what = || {
                let (cert, key) = (cert.display(), key.display());
                format!(
                    "cannot use our certificate for Consul: CONSUL_CLIENT_CERT is {cert}, CONSUL_CLIENT_KEY is {key}"
                )
            };
            let pem = [fs::read(cert).with_context(what)?, fs::read(key).with_context(what)?].join(&b'\n');
            builder = builder.identity(Identity::from_pem(&pem).with_context(what)?);
        }
        (None, None) => {}
        _ => bail!("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY have to be given together"),
    }
    builder.build().context("the HTTP client for Consul")
}

/// `GET /v1/status/leader`: the address of the Raft leader as a JSON string, empty where there is none.
struct LeaderRequest;

impl Endpoint for LeaderRequest {
    type Response = String;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        "status/leader".to_owned()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(address: &str) -> ConsulOptions {
        ConsulOptions {
            address: address.to_owned(),
            token: None,
            ca_cert: None,
            client_cert: None,
            client_key: None,
        }
    }

    #[test]
    fn an_address_is_taken_with_and_without_scheme_and_port() {
        for (given, read) in [
            ("http://127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("consul", "http://consul:8500"),
            ("consul:80", "http://consul:80"),
            ("consul:1234", "http://consul:1234"),
            ("http://consul", "http://consul:80"),
            ("https://consul.example", "https://consul.example:443"),
            ("https://consul:8501/", "https://consul:8501"),
            ("[::1]:8500", "http://[::1]:8500"),
            ("http://[::1]", "http://[::1]:80"),
            (" consul_1:8500 ", "http://consul_1:8500"),
        ] {
            assert_eq!(parse_address(given).ok().as_deref(), Some(read), "{given:?}");
        }
    }

    #[test]
    fn an_address_that_would_lead_elsewhere_is_refused() {
        for bad in [
            "",
            "http://",
            "unix:///run/consul.sock",
            "ftp://consul:8500",
            "http://consul:8500/prefix",
            "http://consul:8500/?token=x",
            "http://user:password@consul:8500",
            "consul:0",
            "consul:65536",
            "consul:port",
            "::1:8500",
            "con sul",
            "http://con{sul}:8500",
        ] {
            assert!(parse_address(bad).is_err(), "{bad:?}");
            assert!(Consul::new(&options(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_error_shows_what_may_be_a_secret_in_an_address() {
        for secret in [
            "http://me:s3cret@consul:8500",
            "consul:8500?token=s3cret",
            "s3cret@consul:x",
        ] {
            let error = format!("{:?}", parse_address(secret).unwrap_err());
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error = format!("{:#}", parse_address("unix:///run/consul").unwrap_err());
        assert!(error.contains("unix:///run/consul"), "{error}");
    }

    #[test]
    fn no_output_shows_a_token() {
        let token = Token::new("s3cret\n");
        let with_token = ConsulOptions {
            token: Some(token),
            ..options("127.0.0.1:8500")
        };
        assert!(!format!("{with_token:?}").contains("s3cret"));
        let error = Consul::new(&with_token).err().map(|e| format!("{e:?}")).unwrap();
        assert!(
            error.contains("CONSUL_HTTP_TOKEN") && !error.contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let half = ConsulOptions {
            client_cert: Some("cert.pem".into()),
            ..options("127.0.0.1:8500")
        };
        let error = Consul::new(&half).err().map(|e| e.to_string()).unwrap();
        assert!(error.contains("CONSUL_CLIENT_KEY"), "{error}");
    }

    #[test]
    fn a_file_of_authorities_that_holds_none_is_refused() {
        for path in ["Cargo.toml", "no-such-file.pem"] {
            let wrong = ConsulOptions {
                ca_cert: Some(path.into()),
                ..options("https://127.0.0.1:8501")
            };
            let error = Consul::new(&wrong).err().map(|e| format!("{e:#}")).unwrap();
            assert!(error.contains("CONSUL_CACERT") && error.contains(path), "{error}");
        }
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(""), "with an empty body");
        assert_eq!(
            excerpt("\r\n No cluster\n\tleader\u{1b}[0m "),
            "\"No cluster leader [0m\""
        );
        let long = excerpt(&"ä".repeat(10_000));
        assert_eq!(long.chars().count(), EXCERPT_CHARS + 3);
    }
}
