//! One request: admitted, handled within its deadline, answered whatever happens.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::{HeaderMap, Method, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::error;

use super::body::{Body, Broken};
use super::connection::Working;
use super::health::{Health, State};
use super::panic_text;
use super::reply::{self, HttpError, Reply};
use super::request::{BodyRoom, Request};
use super::server::{Handler, Limits};

/// Where every role tells whether it can take requests.
const HEALTH_PATH: &str = "/health";

/// Most bytes in the headers of a request, written as usual: `name: value` and the end of the line.
///
/// hyper's own limit is that of its buffer, and holds for a head that has not arrived whole when the buffer is full: a
/// larger one that comes fast enough is let through. This one is lower, and holds however a head comes.
const MAX_HEADER_BYTES: usize = 256 * 1024;

/// What all connections of a server share.
pub(super) struct Service<H> {
    handler: Arc<H>,
    health: Arc<Health>,
    limits: Limits,
    places: Arc<Semaphore>,
    room: BodyRoom,
}

impl<H: Handler> Service<H> {
    pub(super) fn new(handler: Arc<H>, health: Arc<Health>, limits: Limits) -> Service<H> {
        let places = Arc::new(Semaphore::new(limits.requests.min(Semaphore::MAX_PERMITS)));
        let room = BodyRoom::new(limits.body_bytes);
        Service {
            handler,
            health,
            limits,
            places,
            room,
        }
    }

    /// Answers one request. `working` is let go when the answer's last byte is handed over.
    pub(super) async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        working: Working,
    ) -> Result<Response<Held>, Infallible> {
        let has_too_much = header_bytes(request.headers()) > MAX_HEADER_BYTES;
        let request = Request::new(request, self.limits.body_read, self.room.clone());
        let (reply, place) = if has_too_much {
            (reply::bare(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), None)
        } else if request.path() == HEALTH_PATH {
            (self.health(request.method()), None)
        } else {
            match self.admit() {
                Ok(place) => (
                    self.handle(request).await.unwrap_or_else(HttpError::into_reply),
                    Some(place),
                ),
                Err(refused) => (refused.into_reply(), None),
            }
        };
        Ok(self.finish(reply).map(|body| Held {
            body,
            _working: working,
            _place: place,
        }))
    }

    fn health(&self, method: &Method) -> Reply {
        if method == Method::GET {
            self.health.reply(self.handler.details())
        } else {
            HttpError::method_not_allowed("GET, HEAD").into_reply()
        }
    }

    /// A place among the requests in work.
    fn admit(&self) -> Result<OwnedSemaphorePermit, HttpError> {
        if let State::Starting(reason) = self.health.state() {
            return Err(HttpError::starting(&reason));
        }
        self.places.clone().try_acquire_owned().map_err(|_| {
            let requests = self.limits.requests;
            HttpError::unavailable(format!("overloaded: this instance has {requests} requests in work"))
        })
    }

    /// The handler's answer, or an error where it does not come in time or the handler fails.
    async fn handle(&self, request: Request) -> Result<Reply, HttpError> {
        let (method, path) = (request.method().clone(), request.path().to_owned());
        let handled = AssertUnwindSafe(self.handler.handle(request)).catch_unwind();
        match timeout(self.limits.handler, handled).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => {
                error!(%method, path, fault = panic_text(&*panic), "a request met a fault in this program");
                Err(HttpError::internal())
            }
            Err(_) => {
                let waited = self.limits.handler;
                Err(HttpError::unavailable(format!(
                    "the request was not done within {waited:?}"
                )))
            }
        }
    }

    /// A process that drains asks every client to come back on another connection, which will be to another instance.
    fn finish(&self, mut reply: Reply) -> Reply {
        if self.health.state() == State::Draining {
            reply::close_after(&mut reply);
        }
        reply
    }
}

/// See [`MAX_HEADER_BYTES`].
fn header_bytes(headers: &HeaderMap) -> usize {
    let lines = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    lines.sum()
}

/// A body that keeps its request counted until it is handed over or given up.
pub(super) struct Held {
    body: Body,
    _working: Working,
    _place: Option<OwnedSemaphorePermit>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
