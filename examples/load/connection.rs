//! The HTTP of one client: one connection to one facade, kept from one request to the next.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::options::Facade;

/// How long an answer may take. The system promises one within 5 s.
pub(crate) const DEADLINE: Duration = Duration::from_secs(6);

/// How long an answer to a post may be, beside its text.
const ANSWER_BYTES: usize = 64 * 1024;

/// Why there is no answer 201.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// In words that are the same for the same cause.
    pub(crate) reason: String,
    /// Whether another status was answered, wholly.
    pub(crate) answered: bool,
}

impl Failure {
    pub(crate) fn late() -> Failure {
        Failure::unanswered(format!("no answer within {DEADLINE:?}"))
    }

    fn unanswered(reason: impl Into<String>) -> Failure {
        Failure {
            reason: reason.into(),
            answered: false,
        }
    }

    /// An error of the operating system, where there is one, says most.
    fn of(what: &str, error: &(dyn Error + 'static)) -> Failure {
        let causes = std::iter::successors(Some(error), |&error| error.source());
        let system = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).last();
        Failure::unanswered(match system {
            Some(cause) => format!("{what}: {cause}"),
            None => format!("{what}: {error}"),
        })
    }

    fn status(status: StatusCode, body: &[u8]) -> Failure {
        let message = serde_json::from_slice::<Value>(body).unwrap_or_default();
        let message = message.pointer("/error/message").and_then(Value::as_str).unwrap_or("");
        Failure {
            reason: format!("status {} {message}", status.as_u16()).trim_end().to_owned(),
            answered: true,
        }
    }
}

/// What a facade is asked by, and the connection that is left from the last time.
#[derive(Debug)]
pub(crate) struct Caller {
    facade: Facade,
    host: HeaderValue,
    kept: Option<Connection>,
}

impl Caller {
    /// Connects with the first request.
    pub(crate) fn new(facade: Facade) -> anyhow::Result<Caller> {
        Ok(Caller {
            host: HeaderValue::try_from(facade.authority())?,
            facade,
            kept: None,
        })
    }

    /// Posts a text that needs no escapes in JSON. Dropped before its end, it closes the connection. Sets no deadline.
    pub(crate) async fn post(&mut self, text: &str) -> Result<(), Failure> {
        let mut request = self.request(Method::POST, "/message", format!("{{\"text\":\"{text}\"}}"));
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        let (answer, connection) = self.call(request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, text.len() + ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| Failure::of("the answer broke off", &*error))?;
        self.kept = Some(connection);
        match head.status {
            StatusCode::CREATED => Ok(()),
            other => Err(Failure::status(other, &body.to_bytes())),
        }
    }

    /// Asks for the lists: the body of an answer 200, and the connection that it comes on.
    pub(crate) async fn lists(&mut self) -> Result<(Incoming, Connection), Failure> {
        let request = self.request(Method::GET, "/messages", String::new());
        let (answer, connection) = self.call(request).await?;
        match answer.status() {
            StatusCode::OK => Ok((answer.into_body(), connection)),
            other => {
                let body = Limited::new(answer, ANSWER_BYTES).collect().await;
                let body = body.map_err(|error| Failure::of("the answer broke off", &*error))?;
                Err(Failure::status(other, &body.to_bytes()))
            }
        }
    }

    fn request(&self, method: Method, path: &'static str, body: String) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = hyper::Uri::from_static(path);
        request.headers_mut().insert(HOST, self.host.clone());
        request
    }

    /// Sends a request on the connection that was kept. Where it is closed already, and nothing was written, on a new one.
    async fn call(&mut self, request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Connection), Failure> {
        let request = match self.kept.take() {
            Some(mut kept) => match kept.send(request).await {
                Ok(answer) => return Ok((answer, kept)),
                Err((_, Some(unsent))) => unsent,
                Err((failure, None)) => return Err(failure),
            },
            None => request,
        };
        let mut connection = Connection::open(&self.facade).await?;
        match connection.send(request).await {
            Ok(answer) => Ok((answer, connection)),
            Err((failure, _)) => Err(failure),
        }
    }
}

/// One connection, which closes when it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Reads and writes.
    work: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// What became of a request without an answer, and the request itself where none of it was written.
type Unanswered = (Failure, Option<Request<Full<Bytes>>>);

impl Connection {
    async fn open(facade: &Facade) -> Result<Connection, Failure> {
        let stream = TcpStream::connect((facade.host.as_str(), facade.port)).await;
        let stream = stream.map_err(|error| Failure::of("connecting", &error))?;
        // Requests are written whole; to wait for more of them only delays them.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::of("connecting", &error))?;
        // What goes wrong here is said to the request that is under way.
        let work = tokio::spawn(async { drop(connection.await) });
        Ok(Connection { sender, work })
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Unanswered> {
        if let Err(error) = self.sender.ready().await {
            return Err((Failure::of("the connection was closed", &error), Some(request)));
        }
        self.sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message();
            (Failure::of("no whole answer", error.error()), unsent)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{self, answer};

    fn caller(facade: &Facade) -> Caller {
        Caller::new(facade.clone()).unwrap()
    }

    #[tokio::test]
    async fn a_kept_connection_that_was_closed_before_a_post_is_made_again() {
        let (facade, requests) = scripted::facade([answer(201, "{}"), answer(201, "{}")]).await;
        let mut caller = caller(&facade);
        assert_eq!(caller.post("first").await, Ok(()));
        // Nothing is written to it from here on: its end has to be seen first.
        let kept = caller.kept.as_mut().unwrap();
        while !kept.sender.is_closed() {
            tokio::task::yield_now().await;
        }
        assert_eq!(caller.post("second").await, Ok(()));
        let requests = requests.await.unwrap();
        assert!(requests[0].starts_with("POST /message HTTP/1.1\r\n"), "{requests:?}");
        assert!(requests[1].ends_with(r#"{"text":"second"}"#), "{requests:?}");
    }

    #[tokio::test]
    async fn a_post_that_was_written_is_not_made_again() {
        let (facade, requests) = scripted::facade([String::new(), answer(201, "{}")]).await;
        let mut caller = caller(&facade);
        let failure = caller.post("lost").await.unwrap_err();
        assert!(!failure.answered, "{failure:?}");
        assert_eq!(caller.post("next").await, Ok(()));
        let requests = requests.await.unwrap();
        assert!(requests[1].ends_with(r#"{"text":"next"}"#), "{requests:?}");
    }

    #[tokio::test]
    async fn only_a_whole_answer_counts() {
        let half = answer(201, "{}  ").trim_end().to_owned();
        let (facade, _requests) = scripted::facade([half]).await;
        let failure = caller(&facade).post("text").await.unwrap_err();
        assert!(!failure.answered, "{failure:?}");
        assert!(failure.reason.starts_with("the answer broke off"), "{failure:?}");
    }

    #[tokio::test]
    async fn another_status_is_a_failure_that_says_what_the_facade_said() {
        let away = answer(503, r#"{"error":{"code":"unavailable","message":"away"}}"#);
        let (facade, _requests) = scripted::facade([away, answer(200, "")]).await;
        let failure = |reason: &str| Failure {
            reason: reason.to_owned(),
            answered: true,
        };
        assert_eq!(caller(&facade).post("text").await, Err(failure("status 503 away")));
        assert_eq!(caller(&facade).post("text").await, Err(failure("status 200")));
    }

    #[tokio::test]
    async fn a_facade_that_is_not_there_is_a_failure_that_says_so() {
        let (facade, gone) = scripted::facade([]).await;
        gone.await.unwrap();
        let failure = caller(&facade).post("text").await.unwrap_err();
        assert!(failure.reason.contains("refused"), "{failure:?}");
        assert!(!failure.answered);
    }
}
