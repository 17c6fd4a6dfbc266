//! The log stage: through one of the logging instances, one message or many by one request.
//!
//! Ours take arrays. Those of another origin know one message at a time.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use hyper::header::{CONTENT_TYPE, HeaderValue, IF_NONE_MATCH};
use hyper::{Method, StatusCode, Uri};
use serde::Deserialize;
use tracing::debug;

use super::deliver::{self, Written};
use super::tries::{Service, Tries, Try, describe, describe_answer};
use crate::discovery::{self, Pick};
use crate::http::client::{Answer, Call, CallError, Client};
use crate::http::reply::HttpError;

/// Most messages that an instance takes by one request.
pub(super) const MAX_MESSAGES: usize = 1024;

/// Longest body that an instance takes with an array, in bytes.
pub(super) const MAX_ARRAY_BYTES: usize = 8 * 1024 * 1024;

/// Longest answer of a logging instance that is read, in bytes: one of another origin may answer with the message.
const MOST_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Messages of one batch that are sent one by one at the same time, at most: each may take a connection.
const MOST_AT_ONCE: usize = 256;

/// A message that waits to be logged.
pub(super) type Entry = crate::batch::Entry<Written, deliver::Outcome>;

/// The logging instances.
pub(super) struct Log {
    pub(super) client: Client,
    pub(super) service: Service,
}

impl Log {
    /// Logs one message: by this try, and where that fails by the next ones. `keyed` lets the first text of its
    /// identifier stay.
    ///
    /// # Errors
    ///
    /// 409 where that is another one; 503 where no instance did it in time, or one will not.
    pub(super) async fn one(
        &self,
        written: &Written,
        keyed: bool,
        mut tries: Tries<'_>,
        first: Try,
    ) -> Result<(), HttpError> {
        let identifier = &written.message.identifier;
        let mut at = first;
        loop {
            debug!(identifier, instance = at.instance.id, "sending to be logged");
            match self.one_at(&at, written.json.clone(), keyed).await {
                Outcome::Logged => {
                    debug!(identifier, instance = at.instance.id, "logged");
                    return Ok(());
                }
                Outcome::Refused(error) => return Err(error),
                Outcome::Failed(why) => {
                    say_failed(identifier, &at.instance, &why);
                    tries.failed(why);
                }
            }
            at = tries.next().await?;
        }
    }

    /// Logs a batch, and hands each message that is logged to `logged`, the earliest at once. Each other one is answered
    /// alone: what fails is tried on elsewhere, without those that did not.
    pub(super) async fn many(&self, mut entries: Vec<Entry>, logged: &(impl Fn(Entry) + Sync)) {
        let Some(deadline) = entries.iter().map(|entry| entry.ticket.deadline).max() else {
            return;
        };
        let mut tries = Tries::new(&self.service, deadline).ours_first();
        let mut singly = entries.len() == 1;
        while !entries.is_empty() {
            let at = match tries.next().await {
                Ok(at) => at,
                Err(error) => return answer_all(entries, &error),
            };
            if singly || at.is_of_another_origin() {
                return self.each(entries, &tries, &at, logged).await;
            }
            for entry in &entries {
                let identifier = &entry.item.message.identifier;
                debug!(identifier, instance = at.instance.id, "sending to be logged");
            }
            match self.array_at(&at, &entries).await {
                Ok(statuses) => {
                    let (failed, why) = settle(entries, &statuses, &at.instance, logged);
                    entries = failed;
                    if let Some(why) = why {
                        at.instance.report(discovery::Outcome::Unable);
                        tries.failed(why);
                    }
                }
                Err(ArrayFailed { why, by_a_message }) => {
                    for entry in &entries {
                        say_failed(&entry.item.message.identifier, &at.instance, &why);
                    }
                    singly = by_a_message;
                    tries.failed(why);
                }
            }
        }
    }

    /// Logs each message by a request of its own, all at once, from this try on.
    async fn each(&self, entries: Vec<Entry>, tries: &Tries<'_>, at: &Try, logged: &(impl Fn(Entry) + Sync)) {
        let each = stream::iter(entries).for_each_concurrent(MOST_AT_ONCE, |entry| async move {
            match self.one(&entry.item, false, tries.clone(), at.clone()).await {
                Ok(()) => logged(entry),
                Err(error) => entry.ticket.answer(Err(error)),
            }
        });
        each.await;
    }

    async fn one_at(&self, at: &Try, body: Bytes, keyed: bool) -> Outcome {
        match self.call(at, body, keyed).await {
            Ok(answer) => outcome(&at.instance, answer.status, || describe_answer(&at.instance, &answer)),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    /// Sends all messages as one array. Returns what became of each, in their order.
    async fn array_at(&self, at: &Try, entries: &[Entry]) -> Result<Vec<StatusCode>, ArrayFailed> {
        let answer = self
            .call(at, array(entries), false)
            .await
            .map_err(|error| ArrayFailed {
                by_a_message: error.may_have_arrived(),
                why: error.to_string(),
            })?;
        match answer.status {
            StatusCode::MULTI_STATUS => statuses(&answer, entries.len()).ok_or_else(|| ArrayFailed {
                why: format!("{} did not say what became of each message", at.instance.id),
                by_a_message: true,
            }),
            status if status.is_success() => Ok(vec![status; entries.len()]),
            status => Err(ArrayFailed {
                why: describe_answer(&at.instance, &answer),
                by_a_message: !is_passing(status) && status != StatusCode::SERVICE_UNAVAILABLE,
            }),
        }
    }

    async fn call(&self, at: &Try, body: Bytes, keyed: bool) -> Result<Answer, CallError> {
        let mut call = Call::new(body);
        *call.method_mut() = Method::POST;
        *call.uri_mut() = Uri::from_static("/log");
        let headers = call.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if keyed && !at.is_of_another_origin() {
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let answer = self.client.call(&at.instance, call, at.limit, MOST_ANSWER_BYTES).await;
        at.ended(answer.as_ref().map(|answer| answer.status));
        answer
    }
}

/// What one instance did with a message.
enum Outcome {
    Logged,
    /// Another instance may do it, or this one at another time.
    Failed(String),
    /// No instance will do it.
    Refused(HttpError),
}

/// An array of which it is not known that any message is logged.
struct ArrayFailed {
    why: String,
    /// Whether one of the messages may be the cause, so that the others do better without it.
    by_a_message: bool,
}

/// What a status means for a message. `why` describes the answer.
fn outcome(instance: &Pick, status: StatusCode, why: impl FnOnce() -> String) -> Outcome {
    match status {
        status if status.is_success() => Outcome::Logged,
        // What one of another origin does not take, ours may.
        _ if instance.version.is_none() => Outcome::Failed(why()),
        StatusCode::CONFLICT => Outcome::Refused(HttpError::conflict(
            "another text was posted under this Idempotency-Key, and stays",
        )),
        status if status.is_client_error() && !is_passing(status) => {
            let why = why();
            Outcome::Refused(HttpError::unavailable(format!("the message was not logged: {why}")))
        }
        _ => Outcome::Failed(why()),
    }
}

/// Whether a client's error says nothing of what was sent.
fn is_passing(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// The array of all messages.
fn array(entries: &[Entry]) -> Bytes {
    let bytes: usize = entries.iter().map(|entry| entry.item.bytes()).sum();
    let mut array = Vec::with_capacity(bytes.saturating_add(2));
    for entry in entries {
        array.push(if array.is_empty() { b'[' } else { b',' });
        array.extend_from_slice(&entry.item.json);
    }
    array.push(b']');
    array.into()
}

/// The statuses of a 207, if there is one for each message.
fn statuses(answer: &Answer, messages: usize) -> Option<Vec<StatusCode>> {
    #[derive(Deserialize)]
    struct Item {
        status: u16,
    }
    let items: Vec<Item> = serde_json::from_slice(&answer.body).ok()?;
    let statuses: Vec<_> = items
        .iter()
        .map_while(|item| StatusCode::from_u16(item.status).ok())
        .collect();
    (statuses.len() == messages && items.len() == messages).then_some(statuses)
}

/// Does with each message what its status says. Returns those that are to be tried elsewhere, and why.
fn settle(
    entries: Vec<Entry>,
    statuses: &[StatusCode],
    instance: &Pick,
    logged: &impl Fn(Entry),
) -> (Vec<Entry>, Option<String>) {
    let mut failed = Vec::new();
    let mut last = None;
    for (entry, status) in entries.into_iter().zip(statuses) {
        let identifier = &entry.item.message.identifier;
        match outcome(instance, *status, || describe(instance, *status, &[])) {
            Outcome::Logged => {
                debug!(identifier, instance = instance.id, "logged");
                logged(entry);
            }
            Outcome::Refused(error) => entry.ticket.answer(Err(error)),
            Outcome::Failed(why) => {
                say_failed(identifier, instance, &why);
                last = Some(why);
                failed.push(entry);
            }
        }
    }
    (failed, last)
}

fn say_failed(identifier: &str, instance: &Pick, why: &str) {
    debug!(
        identifier,
        instance = instance.id,
        reason = why,
        "not logged, trying on"
    );
}

fn answer_all(entries: Vec<Entry>, error: &HttpError) {
    for entry in entries {
        entry.ticket.answer(Err(error.clone()));
    }
}
