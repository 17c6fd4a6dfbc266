//! The requests that wait for a connection's writer.
//!
//! A request takes a place first, which bounds their number, and is queued in one step after that. A bounded channel does the same,
//! but there a caller that was given its place and does not go on keeps the other side from knowing that nothing more comes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::error::{Error, Kind};
use super::message::Request;
use super::pending::{EventSink, Reply};

/// A request on its way to the writer.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) request: Arc<Request>,
    /// -1 where the request goes to no partition.
    pub(super) partition_id: i32,
    /// Whether the backups confirm to the client, and not the member to itself before it answers.
    pub(super) backup_aware: bool,
    pub(super) reply: Reply,
    pub(super) events: Option<EventSink>,
}

/// The connection has ended: the request was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended;

/// The callers' side.
#[derive(Debug)]
pub(super) struct Outbox {
    places: Arc<Semaphore>,
    requests: mpsc::UnboundedSender<Queued>,
}

/// The writer's side.
#[derive(Debug)]
pub(super) struct Waiting {
    places: Arc<Semaphore>,
    requests: mpsc::UnboundedReceiver<Queued>,
}

#[derive(Debug)]
struct Queued {
    outgoing: Outgoing,
    /// Given back when the writer takes the request.
    _place: Option<OwnedSemaphorePermit>,
}

/// An outbox for so many requests.
#[expect(clippy::disallowed_methods, reason = "the places bound the channel")]
pub(super) fn outbox(places: usize) -> (Outbox, Waiting) {
    let places = Arc::new(Semaphore::new(places));
    let (sender, requests) = mpsc::unbounded_channel();
    let outbox = Outbox {
        places: Arc::clone(&places),
        requests: sender,
    };
    (outbox, Waiting { places, requests })
}

impl Outbox {
    /// Queues a request; waits for a place.
    pub(super) async fn send(&self, outgoing: Outgoing) -> Result<(), Ended> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| Ended)?;
        self.queue(outgoing, Some(place))
    }

    /// Queues a request beyond the places. For the few that the client itself sends: a connection that is busy must take them too.
    pub(super) fn send_at_once(&self, outgoing: Outgoing) -> Result<(), Ended> {
        self.queue(outgoing, None)
    }

    fn queue(&self, outgoing: Outgoing, place: Option<OwnedSemaphorePermit>) -> Result<(), Ended> {
        let queued = Queued {
            outgoing,
            _place: place,
        };
        self.requests.send(queued).map_err(|_| Ended)
    }
}

impl Waiting {
    /// The next request, or `None` once nobody can send any.
    pub(super) async fn recv(&mut self) -> Option<Outgoing> {
        self.requests.recv().await.map(|queued| queued.outgoing)
    }

    /// The next request, if there is one now.
    pub(super) fn try_recv(&mut self) -> Option<Outgoing> {
        self.requests.try_recv().ok().map(|queued| queued.outgoing)
    }

    /// Takes no more requests, and tells those that wait that they were not written.
    pub(super) async fn end(&mut self, reason: &Error) {
        self.places.close();
        self.requests.close();
        // Until `None`, not until it is empty: another thread may be queueing just now.
        while let Some(outgoing) = self.recv().await {
            let _ = outgoing
                .reply
                .send(Err(Error::new(Kind::NotWritten, format!("{reason:#}"))));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.places.close();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::super::codec::client;
    use super::super::message::Incoming;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    type Answer = oneshot::Receiver<Result<Incoming, Error>>;

    fn request() -> (Outgoing, Answer) {
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing {
            request: Arc::new(client::ping_request().unwrap()),
            partition_id: -1,
            backup_aware: false,
            reply,
            events: None,
        };
        (outgoing, answer)
    }

    fn reason() -> Error {
        Error::new(Kind::OutcomeUnknown, "the member closed the connection")
    }

    #[tokio::test]
    async fn a_request_waits_for_a_place() {
        let (outbox, mut waiting) = outbox(1);
        let (first, _answer) = request();
        outbox.send(first).await.unwrap();
        let (second, _answer) = request();
        let mut sending = Box::pin(outbox.send(second));
        assert!(sending.as_mut().now_or_never().is_none());
        assert!(waiting.try_recv().is_some());
        assert!(waiting.try_recv().is_none());
        sending.await.unwrap();
        assert!(waiting.recv().await.is_some());
    }

    #[tokio::test]
    async fn a_full_outbox_takes_what_the_client_itself_sends() {
        let (outbox, mut waiting) = outbox(1);
        let (first, _answer) = request();
        outbox.send(first).await.unwrap();
        let (own, _answer) = request();
        outbox.send_at_once(own).unwrap();
        assert!(waiting.try_recv().is_some() && waiting.try_recv().is_some());
    }

    #[tokio::test]
    async fn the_end_waits_for_no_caller_that_was_given_a_place_and_does_not_take_it() {
        let (outbox, mut waiting) = outbox(1);
        let (first, first_answer) = request();
        outbox.send(first).await.unwrap();
        let (second, second_answer) = request();
        let mut sending = Box::pin(outbox.send(second));
        assert!(sending.as_mut().now_or_never().is_none());
        drop(waiting.recv().await);
        // The second has its place now, and nobody polls it.
        timeout(PATIENCE, waiting.end(&reason())).await.unwrap();
        assert!(first_answer.await.is_err(), "the writer dropped it");
        assert_eq!(sending.await, Err(Ended));
        drop(second_answer);
    }

    #[tokio::test]
    async fn at_the_end_what_waits_is_told_and_nothing_more_is_taken() {
        let (outbox, mut waiting) = outbox(1);
        let (queued, answer) = request();
        outbox.send(queued).await.unwrap();
        let (without_place, _answer) = request();
        let mut sending = Box::pin(outbox.send(without_place));
        assert!(sending.as_mut().now_or_never().is_none());
        waiting.end(&reason()).await;
        let told = answer.await.unwrap().unwrap_err();
        assert_eq!(told.kind(), Kind::NotWritten);
        assert_eq!(told.to_string(), "the member closed the connection");
        assert_eq!(sending.await, Err(Ended));
        let (late, _answer) = request();
        assert_eq!(outbox.send_at_once(late), Err(Ended));
    }
}
