//! What a client is answered, and the one place that turns errors into HTTP.

use std::fmt::{self, Display};

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use tracing::{error, warn};

use super::body::{self, Body, Broken};
use super::throttle::Throttle;
use crate::engine::{self, Unavailable};

/// An answer.
pub type Reply = Response<Body>;

/// `Retry-After` of every 503, in seconds: engines and instances come back within seconds, and a client that waits
/// longer than it has to is late for nothing.
const RETRY_AFTER_SECONDS: &str = "1";

/// An engine that is away fails every request.
static UNAVAILABLE_LOG: Throttle = Throttle::new();

/// An answer with this JSON as its body.
pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_body(status, body::whole(bytes)),
        Err(cause) => {
            error!(%cause, "an answer could not be written as JSON");
            with_body(StatusCode::INTERNAL_SERVER_ERROR, body::whole(INTERNAL_ERROR))
        }
    }
}

/// An answer whose body is this JSON, which was written before.
pub fn written_json(status: StatusCode, json: Bytes) -> Reply {
    with_body(status, body::whole(json))
}

const INTERNAL_ERROR: &str = r#"{"error":{"code":"internal","message":"the answer could not be written"}}"#;

/// Status 200 and a JSON array of all items of all pages, streamed in bounded memory.
///
/// The first page is awaited before the status line leaves, so that an engine that is away is a clean error.
///
/// # Errors
///
/// 503 where the first page cannot be read. A later one that cannot be read ends the body without its last chunk: the
/// client sees a broken answer, never a shorter whole one. How long a page may take is up to the stream.
pub async fn json_array<T>(
    pages: impl Stream<Item = engine::Result<Vec<T>>> + Send + 'static,
) -> Result<Reply, HttpError>
where
    T: Serialize + Send + 'static,
{
    let mut pages = pages.boxed();
    let first = pages.next().await.transpose()?.unwrap_or_default();
    Ok(with_body(StatusCode::OK, body::json_array(first, pages)))
}

/// Status 200 and JSON that comes in pieces. An error ends the body without its last chunk.
pub fn json_pieces(pieces: impl Stream<Item = Result<Bytes, Broken>> + Send + 'static) -> Reply {
    with_body(StatusCode::OK, body::streamed(pieces))
}

/// The status alone, and the end of the connection: what hyper answers to what is no request.
pub(super) fn bare(status: StatusCode) -> Reply {
    let mut reply = Response::new(body::whole(Bytes::new()));
    *reply.status_mut() = status;
    close_after(&mut reply);
    reply
}

/// Tells the client when to ask again.
pub(super) fn ask_again(reply: &mut Reply) {
    reply
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
}

/// Makes this the last answer of its connection.
pub(super) fn close_after(reply: &mut Reply) {
    reply
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
}

fn with_body(status: StatusCode, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// A request that cannot be served: its status, and a body of `{"error":{"code":…,"message":…}}`.
#[derive(Clone, Debug)]
pub struct HttpError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// The methods that the path knows, for a 405.
    allow: Option<&'static str>,
    /// The connection cannot be used further: what comes next on it is the rest of this request.
    close: bool,
    /// What the people who run the system should see in the log.
    log: bool,
}

impl HttpError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> HttpError {
        HttpError {
            status,
            code,
            message: message.into(),
            allow: None,
            close: false,
            log: false,
        }
    }

    /// 400: what the client sent is malformed.
    pub fn bad_request(message: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::BAD_REQUEST, "malformed", message)
    }

    /// 404: there is no such path.
    pub fn not_found() -> HttpError {
        HttpError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
    }

    /// 405: the path knows other methods. `allow` lists them: `GET, HEAD, DELETE`.
    pub fn method_not_allowed(allow: &'static str) -> HttpError {
        let message = format!("this path takes {allow}");
        HttpError {
            allow: Some(allow),
            ..HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        }
    }

    /// 408: the client took too long to send its request.
    pub fn request_timeout(message: impl Into<String>) -> HttpError {
        HttpError {
            close: true,
            ..HttpError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
        }
    }

    /// 409: what the client sent contradicts what is there.
    pub fn conflict(message: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// 413: more than is taken.
    pub fn too_large(message: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 415: the body is of a type that is not read here.
    pub fn unsupported_media_type(message: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    /// 422: well-formed, but a field is missing or of the wrong type.
    pub fn unprocessable(message: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", message)
    }

    /// 500: a fault of this program. What it was goes to the log, not to the client.
    pub fn internal() -> HttpError {
        let message = "this instance failed on the request; its log says why";
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// 503: it cannot be done now; the reason says which part was missing. Logged when it is answered.
    pub fn unavailable(reason: impl Into<String>) -> HttpError {
        HttpError {
            log: true,
            ..HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason)
        }
    }

    /// 503 of a process that is starting: nothing is wrong, so nothing is logged.
    pub(super) fn starting(reason: &str) -> HttpError {
        HttpError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "starting",
            format!("starting: {reason}"),
        )
    }

    /// The status that this error is answered with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the client is told.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The answer. An error that concerns the people who run the system is logged here, once.
    pub fn into_reply(self) -> Reply {
        if self.log {
            log_unavailable(&self.message);
        }
        let body = json!({ "error": { "code": self.code, "message": self.message } });
        let mut reply = json(self.status, &body);
        if let Some(allow) = self.allow {
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            ask_again(&mut reply);
        }
        if self.close {
            close_after(&mut reply);
        }
        reply
    }
}

impl Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status.as_u16(), self.message)
    }
}

impl std::error::Error for HttpError {}

impl From<Unavailable> for HttpError {
    fn from(error: Unavailable) -> HttpError {
        HttpError::unavailable(format!("engine away: {error}"))
    }
}

/// Says in the log that something could not be served for the lack of an engine, at most once per second.
///
/// [`HttpError::into_reply`] does this by itself; this is for an answer of which only a part failed.
pub fn log_unavailable(reason: &impl Display) {
    if let Some(unlogged) = UNAVAILABLE_LOG.pass() {
        warn!(%reason, unlogged, "could not serve a request");
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;

    async fn body(reply: Reply) -> Value {
        serde_json::from_slice(&reply.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn an_error_is_answered_with_its_code_and_message() {
        let reply = HttpError::conflict("another text stands there").into_reply();
        assert_eq!(reply.status(), StatusCode::CONFLICT);
        assert_eq!(reply.headers()[CONTENT_TYPE], "application/json");
        let expected = json!({ "error": { "code": "conflict", "message": "another text stands there" } });
        assert_eq!(body(reply).await, expected);
    }

    #[tokio::test]
    async fn an_engine_that_is_away_is_a_503_that_names_it_and_says_when_to_ask_again() {
        let away = Unavailable {
            engine: "Consul at http://127.0.0.1:8500".to_owned(),
            cause: anyhow::anyhow!("refused"),
        };
        let reply = HttpError::from(away).into_reply();
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers()[RETRY_AFTER], "1");
        assert_eq!(
            body(reply).await["error"]["message"],
            "engine away: Consul at http://127.0.0.1:8500: refused"
        );
    }

    #[test]
    fn a_method_that_a_path_does_not_know_is_answered_with_those_it_knows() {
        let reply = HttpError::method_not_allowed("GET, HEAD").into_reply();
        assert_eq!(reply.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(reply.headers()[ALLOW], "GET, HEAD");
    }
}
