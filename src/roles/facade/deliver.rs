//! The delivery of a message: logged first, then handed over, and only then acknowledged.
//!
//! A group commit: messages go both ways together, and what comes meanwhile gathers. The next batch leaves when the one before
//! has been handed over, and not as soon as it is logged: batches are larger then, and what the engines do for each is the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::log::{self, Log, MAX_ARRAY_BYTES, MAX_MESSAGES};
use super::post::Posted;
use super::tries::{Service, Tries};
use super::{DEADLINE, offer};
use crate::batch::{Batcher, Limits, NoOutcome};
use crate::engine::{Batch, Identifiers, MAX_BATCH_BYTES, Mailbox};
use crate::http::client::Client;
use crate::http::reply::HttpError;
use crate::message::Message;
use crate::roles::followed::Named;

/// What becomes of a message.
pub(super) type Outcome = Result<(), HttpError>;

/// What is in the mailbox around the messages of a batch, in bytes, at most: names, its id, and what the engine adds.
const AROUND_BYTES: usize = 256;

/// Batches on their way to be logged and handed over. What has gathered leaves as an array.
const POST_LIMITS: Limits = Limits {
    batch_items: MAX_MESSAGES,
    // A comma is counted for each message, and there is a bracket more than the last one's.
    batch_bytes: MAX_ARRAY_BYTES - 1,
    // More than the server has in work, whose clients may have left.
    items: 4096,
    bytes: 128 * 1024 * 1024,
    // With two, one would be logged while the other is handed over.
    flights: 1,
    // Many times what a batch takes. An instance that hangs is given 1.2 s.
    slow_after: Duration::from_millis(100),
    // More than become slow within the time of a request.
    most_flights: 128,
};

/// Batches of what was logged alone, on their way into the mailbox.
const OFFER_LIMITS: Limits = Limits {
    batch_bytes: MAX_BATCH_BYTES - AROUND_BYTES,
    ..POST_LIMITS
};

/// A message, and the JSON that it is logged and answered as.
pub(super) struct Written {
    pub(super) message: Message,
    pub(super) json: Bytes,
}

impl Written {
    fn new(message: Message) -> Result<Self, HttpError> {
        // Room for what is around the text: most texts have nothing that is to be escaped.
        let mut json = Vec::with_capacity(message.text.len().saturating_add(80));
        serde_json::to_writer(&mut json, &message).map_err(|_| HttpError::internal())?;
        Ok(Self {
            message,
            json: json.into(),
        })
    }

    /// What it takes in an array, here as in the mailbox.
    pub(super) fn bytes(&self) -> usize {
        self.json.len().saturating_add(1)
    }
}

/// What all deliveries share.
pub(super) struct Delivery {
    mailbox: watch::Receiver<Named<dyn Mailbox>>,
    log: Arc<Log>,
    identifiers: Arc<dyn Identifiers>,
    posts: Batcher<Written, Outcome>,
    /// What one of another origin has logged.
    offers: Batcher<Message, Outcome>,
}

impl Delivery {
    pub(super) fn new(
        client: Client,
        service: Service,
        mailbox: watch::Receiver<Named<dyn Mailbox>>,
        identifiers: Arc<dyn Identifiers>,
    ) -> Self {
        let log = Arc::new(Log { client, service });
        let shared = (log.clone(), mailbox.clone(), identifiers.clone());
        let posts = Batcher::start(POST_LIMITS, move |entries| {
            let (log, mailbox, identifiers) = shared.clone();
            identifiers.batch_left();
            async move { many(&log, &mailbox, entries).await }
        });
        let named = mailbox.clone();
        let offers = Batcher::start(OFFER_LIMITS, move |entries| offer::many(now(&named), entries));
        Self {
            mailbox,
            log,
            identifiers,
            posts,
            offers,
        }
    }

    /// Logs a message, then hands it over, within [`DEADLINE`]. Returns it as JSON once both are done.
    ///
    /// A failed request can be sent again under the same key: each step does nothing where it was done before.
    ///
    /// # Errors
    ///
    /// 409 where another text is logged under the client's key. 503 where the mailbox is known to be away (nothing is
    /// logged then), too much is in work, or one of the two could not be done in time.
    pub(super) async fn deliver(&self, posted: Posted) -> Result<Bytes, HttpError> {
        let mailbox = now(&self.mailbox);
        mailbox.check()?;
        let deadline = Instant::now() + DEADLINE;
        let identifier = posted
            .key
            .map_or_else(|| self.identifiers.make(), |key| key.to_string());
        let text = posted.text;
        let written = Written::new(Message { identifier, text })?;
        let json = written.json.clone();
        match posted.key {
            Some(key) => self.keyed(written, key, &*mailbox, deadline).await?,
            None => self.unkeyed(written, deadline).await?,
        }
        Ok(json)
    }

    /// One under a key travels alone: nobody else's outcome is to depend on what stands under it.
    async fn keyed(&self, written: Written, key: Uuid, mailbox: &dyn Mailbox, deadline: Instant) -> Outcome {
        // Others do not know that the first text of an identifier is to stay.
        let mut tries = Tries::new(&self.log.service, deadline).ours_only();
        let first = tries.next().await?;
        self.log.one(&written, true, tries, first).await?;
        // A retry is the same batch, and another text another one: the mailbox remembers what the log may have forgotten.
        let id = Uuid::new_v5(&key, written.message.text.as_bytes());
        let batch = Batch {
            id: id.to_string(),
            messages: vec![written.message],
        };
        offer::hand_over(mailbox, &batch, deadline).await
    }

    async fn unkeyed(&self, written: Written, deadline: Instant) -> Outcome {
        // Those of another origin get their share as single messages.
        if self.log.service.has_others() {
            let mut tries = Tries::new(&self.log.service, deadline);
            let first = tries.next().await?;
            if first.is_of_another_origin() {
                self.log.one(&written, false, tries, first).await?;
                let bytes = written.bytes();
                let handed_over = self.offers.submit(written.message, bytes, deadline);
                return self.outcome(handed_over.await);
            }
        }
        let bytes = written.bytes();
        self.outcome(self.posts.submit(written, bytes, deadline).await)
    }

    fn outcome(&self, outcome: Result<Outcome, NoOutcome>) -> Outcome {
        outcome.unwrap_or_else(|none| {
            Err(match none {
                NoOutcome::Full => overloaded(),
                NoOutcome::Late => {
                    let (service, mailbox) = (self.log.service.name, now(&self.mailbox).describe());
                    HttpError::unavailable(format!(
                        "{service} and {mailbox} did not take the message within {DEADLINE:?}"
                    ))
                }
                NoOutcome::Lost => HttpError::internal(),
            })
        })
    }
}

/// The mailbox that is in use now.
fn now(mailbox: &watch::Receiver<Named<dyn Mailbox>>) -> Arc<dyn Mailbox> {
    mailbox.borrow().current.clone()
}

fn overloaded() -> HttpError {
    HttpError::unavailable("overloaded: this instance has as many messages in work as it takes")
}

/// Logs a batch and hands it over. What is logged before the rest, which is tried again elsewhere, does not wait for it.
async fn many(log: &Log, mailbox: &watch::Receiver<Named<dyn Mailbox>>, entries: Vec<log::Entry>) {
    let (logged, mut to_offer) = mpsc::channel(entries.len().max(1));
    let log_all = async move {
        // There is room for all of them. One that is dropped is told that it has no outcome.
        log.many(entries, &|entry| drop(logged.try_send(entry))).await;
    };
    let offer_all = async {
        let mut entries = Vec::new();
        while to_offer.recv_many(&mut entries, MAX_MESSAGES).await > 0 {
            // A batch stays with the mailbox that is in use when it leaves: where its outcome is unknown it is offered again
            // to the same one.
            offer::many(now(mailbox), entries.drain(..).map(logged_entry).collect()).await;
        }
    };
    tokio::join!(log_all, offer_all);
}

fn logged_entry(log::Entry { item, ticket }: log::Entry) -> offer::Entry {
    offer::Entry {
        item: item.message,
        ticket,
    }
}
