//! [`Client`]: calls from one instance to another, on connections that are kept for the next call.
//!
//! It tries nothing twice by itself, but for a call that met a kept connection which its peer had closed before any of
//! the request was written. Whether any other failure is worth another try, here or elsewhere, is up to the caller.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderMap;
use hyper::http::uri::{Authority, Scheme};
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use crate::engine::Instance;

/// How long a connection may take to be made. An instance is near; one that takes longer is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Kept connections per instance. As many calls at once reuse theirs; what goes beyond makes new ones. Few enough for a
/// process that may open 1,024 files.
const KEPT_PER_INSTANCE: usize = 32;

/// How long a connection is kept without a call. Shorter than an instance's own limit of 120 s for one that is idle, so
/// that it is this side which closes. It also takes away what is left of an instance that vanished.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// A request to an instance: method, headers, whole body, and a URI of path and query only.
pub type Call = hyper::Request<Bytes>;

/// Calls other instances over HTTP/1.1. A clone shares the connections.
#[derive(Clone, Debug)]
pub struct Client {
    pool: legacy::Client<HttpConnector, Full<Bytes>>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Any status: it is for the caller to say which it takes.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, to its end.
    pub body: Bytes,
}

/// An answer whose body is still on its way.
#[derive(Debug)]
pub struct Opened {
    /// Any status: it is for the caller to say which it takes.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    /// Id of the instance that answers.
    from: String,
}

impl Client {
    /// A client with no connections yet.
    pub fn new() -> Client {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_LIMIT));
        // Requests are written whole; to wait for more of them only delays them.
        connector.set_nodelay(true);
        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_FOR)
            .pool_max_idle_per_host(KEPT_PER_INSTANCE)
            .build(connector);
        Client { pool }
    }

    /// Calls `instance`, and reads its answer to the end, all within `limit`. The body may have `most_bytes`.
    ///
    /// # Errors
    ///
    /// Where there is no whole answer in time, or its body is longer.
    pub async fn call(
        &self,
        instance: &Instance,
        call: Call,
        limit: Duration,
        most_bytes: usize,
    ) -> Result<Answer, CallError> {
        let answered = async { self.begin(instance, call).await?.collect(most_bytes).await };
        match timeout(limit, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::late(&instance.id, limit)),
        }
    }

    /// Calls `instance`, and waits at most for `limit` until its answer begins.
    ///
    /// # Errors
    ///
    /// Where no answer begins in time.
    pub async fn open(&self, instance: &Instance, call: Call, limit: Duration) -> Result<Opened, CallError> {
        match timeout(limit, self.begin(instance, call)).await {
            Ok(opened) => opened,
            Err(_) => Err(CallError::late(&instance.id, limit)),
        }
    }

    async fn begin(&self, instance: &Instance, mut call: Call) -> Result<Opened, CallError> {
        *call.uri_mut() = absolute(instance, call.uri())?;
        let answer = self
            .pool
            .request(call.map(Full::new))
            .await
            .map_err(|cause| CallError::of_request(&instance.id, &cause))?;
        let (head, body) = answer.into_parts();
        Ok(Opened {
            status: head.status,
            headers: head.headers,
            body,
            from: instance.id.clone(),
        })
    }
}

impl Default for Client {
    fn default() -> Client {
        Client::new()
    }
}

/// The URI of `path` at an instance. Anybody may have registered it, under any host.
fn absolute(instance: &Instance, path: &Uri) -> Result<Uri, CallError> {
    let Instance { id, host, port, .. } = instance;
    let authority = if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let unusable = || {
        CallError::new(
            id,
            Kind::Unreached,
            format!("{authority:?} is no address that can be called"),
        )
    };
    let named: Authority = authority.parse().map_err(|_| unusable())?;
    // User information would be taken for the host by nobody but the parser.
    if named.as_str().contains('@') || named.host().is_empty() {
        return Err(unusable());
    }
    let mut parts = path.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(named);
    Uri::from_parts(parts).map_err(|_| unusable())
}

impl Opened {
    /// The next piece of the body, or `None` at its end, within `limit`.
    ///
    /// # Errors
    ///
    /// Where the body breaks off, or nothing comes in time. There is no use in asking further then.
    pub async fn piece(&mut self, limit: Duration) -> Result<Option<Bytes>, CallError> {
        match timeout(limit, self.next_piece()).await {
            Ok(piece) => piece,
            Err(_) => Err(CallError::new(
                &self.from,
                Kind::Late,
                format!("its answer stopped for {limit:?}"),
            )),
        }
    }

    async fn next_piece(&mut self) -> Result<Option<Bytes>, CallError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|cause| {
                let why = format!("its answer broke off: {}", innermost(&cause));
                CallError::new(&self.from, Kind::Broken, why)
            })?;
            // Trailers say nothing here.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The answer as a whole, within `limit`. The body may have `most_bytes`.
    ///
    /// # Errors
    ///
    /// Where the body does not come to its end in time, or is longer.
    pub async fn whole(self, limit: Duration, most_bytes: usize) -> Result<Answer, CallError> {
        let from = self.from.clone();
        match timeout(limit, self.collect(most_bytes)).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::late(&from, limit)),
        }
    }

    async fn collect(mut self, most_bytes: usize) -> Result<Answer, CallError> {
        let announced = usize::try_from(self.body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > most_bytes {
            return Err(self.too_long(most_bytes));
        }
        let mut collected = BytesMut::new();
        while let Some(piece) = self.next_piece().await? {
            if piece.len() > most_bytes.saturating_sub(collected.len()) {
                return Err(self.too_long(most_bytes));
            }
            collected.extend_from_slice(&piece);
        }
        Ok(Answer {
            status: self.status,
            headers: self.headers,
            body: collected.freeze(),
        })
    }

    fn too_long(&self, most_bytes: usize) -> CallError {
        let why = format!("its answer has more than {most_bytes} bytes");
        CallError::new(&self.from, Kind::TooLong, why)
    }
}

/// A call without an answer: `logging-service@127.0.0.1:8101: connection refused`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// Id of the instance that was called.
    to: String,
    kind: Kind,
    why: String,
}

/// How a call came to no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// No connection came about.
    Unreached,
    /// The connection ended before the answer did.
    Broken,
    /// The answer did not come in time.
    Late,
    /// The answer is longer than the caller takes.
    TooLong,
}

impl CallError {
    fn new(to: &str, kind: Kind, why: String) -> CallError {
        CallError {
            to: to.to_owned(),
            kind,
            why,
        }
    }

    fn late(to: &str, limit: Duration) -> CallError {
        CallError::new(to, Kind::Late, format!("no answer within {limit:?}"))
    }

    fn of_request(to: &str, cause: &legacy::Error) -> CallError {
        let kind = if cause.is_connect() {
            Kind::Unreached
        } else {
            Kind::Broken
        };
        CallError::new(to, kind, innermost(cause))
    }

    /// Whether the other side may have got the request, and done what it asks for. False only where that is certain: no
    /// connection came about.
    pub fn may_have_arrived(&self) -> bool {
        self.kind != Kind::Unreached
    }

    /// Whether it was given up because its time was over. Whether that was short is for the caller to say.
    pub fn is_late(&self) -> bool {
        self.kind == Kind::Late
    }

    /// Whether there is an answer, which is only longer than the caller takes.
    pub fn is_too_long(&self) -> bool {
        self.kind == Kind::TooLong
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.to, self.why)
    }
}

impl Error for CallError {}

/// The innermost cause in plain words: the outer ones only name the layers that it came through.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(kind) if SPEAKS_FOR_ITSELF.contains(&kind) => kind.to_string(),
        _ => cause.to_string(),
    }
}

/// What needs no number of the system's error beside it.
const SPEAKS_FOR_ITSELF: [io::ErrorKind; 6] = [
    io::ErrorKind::BrokenPipe,
    io::ErrorKind::ConnectionRefused,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::HostUnreachable,
    io::ErrorKind::NetworkUnreachable,
    io::ErrorKind::TimedOut,
];

#[cfg(test)]
mod tests;
