//! The delivery of a message: logged first, then handed over, and only then acknowledged.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, IF_NONE_MATCH};
use hyper::{Method, StatusCode, Uri};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;
use uuid::Uuid;

use super::post::Posted;
use super::tries::{Tries, Try, describe_answer};
use super::{DEADLINE, Parts};
use crate::engine::{Batch, Mailbox, Offered};
use crate::http::client::{Call, Client};
use crate::http::reply::HttpError;
use crate::message::Message;
use crate::roles::deadline::no_answer;

/// Longest answer of a logging instance that is read, in bytes: one of another origin may answer with the message.
const MOST_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Pause before a batch is offered again.
const OFFER_PAUSE: Duration = Duration::from_millis(100);

/// Logs a message, then hands it over, within [`DEADLINE`]. Returns it once both are done.
///
/// A failed request can be sent again under the same key: each step does nothing where it was done before.
///
/// # Errors
///
/// 409 where another text is logged under the client's key. 503 where the mailbox is known to be away (nothing is logged
/// then), or one of the two could not be done in time.
pub(super) async fn deliver(parts: &Parts, posted: Posted) -> Result<Message, HttpError> {
    let Posted { message, key } = posted;
    // The one in use now: a batch whose outcome is unknown is offered again to the same one.
    let mailbox = parts.mailbox.now();
    mailbox.check()?;
    let deadline = Instant::now() + DEADLINE;
    log(parts, &message, key.is_some(), deadline).await?;
    // A retry is the same batch, and another text another one: the mailbox remembers what the log may have forgotten.
    let id = key.map_or_else(Uuid::now_v7, |key| Uuid::new_v5(&key, message.text.as_bytes()));
    let batch = Batch {
        id: id.to_string(),
        messages: vec![message.clone()],
    };
    offer(&*mailbox, &batch, deadline).await?;
    debug!(
        identifier = message.identifier,
        batch = batch.id,
        mailbox = mailbox.describe(),
        queue = mailbox.object_name(),
        "handed over"
    );
    Ok(message)
}

async fn log(parts: &Parts, message: &Message, keyed: bool, deadline: Instant) -> Result<(), HttpError> {
    let mut tries = Tries::new(&parts.logging, deadline);
    if keyed {
        // Others do not know that the first text of an identifier is to stay.
        tries = tries.ours_first();
    }
    let body = serde_json::to_vec(message).map_err(|_| HttpError::internal())?;
    let body = Bytes::from(body);
    loop {
        let at = tries.next().await?;
        let identifier = &message.identifier;
        debug!(identifier, instance = at.instance.id, "sending to be logged");
        match log_at(&parts.client, &at, body.clone(), keyed).await {
            Outcome::Logged => {
                debug!(identifier, instance = at.instance.id, "logged");
                return Ok(());
            }
            Outcome::Refused(error) => return Err(error),
            Outcome::Failed(why) => {
                debug!(
                    identifier,
                    instance = at.instance.id,
                    reason = why,
                    "not logged, trying on"
                );
                tries.failed(why);
            }
        }
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

async fn log_at(client: &Client, at: &Try, body: Bytes, keyed: bool) -> Outcome {
    let mut call = Call::new(body);
    *call.method_mut() = Method::POST;
    *call.uri_mut() = Uri::from_static("/log");
    let headers = call.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if keyed && at.instance.version.is_some() {
        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
    }
    match client.call(&at.instance, call, at.limit, MOST_ANSWER_BYTES).await {
        Ok(answer) if answer.status.is_success() => Outcome::Logged,
        Ok(answer) => {
            let why = describe_answer(&at.instance, &answer);
            match answer.status {
                // What one of another origin does not take, ours may.
                _ if at.instance.version.is_none() => Outcome::Failed(why),
                StatusCode::CONFLICT => Outcome::Refused(HttpError::conflict(
                    "another text was posted under this Idempotency-Key, and stays",
                )),
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Outcome::Failed(why),
                status if status.is_client_error() => {
                    Outcome::Refused(HttpError::unavailable(format!("the message was not logged: {why}")))
                }
                _ => Outcome::Failed(why),
            }
        }
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// Puts a batch into the mailbox. Where that fails, or it is not known whether it is in, it is put in again: it is
/// delivered under its id, once.
async fn offer(mailbox: &dyn Mailbox, batch: &Batch, deadline: Instant) -> Result<(), HttpError> {
    let mut last = None;
    while Instant::now() < deadline {
        match timeout_at(deadline, mailbox.offer(batch)).await {
            Ok(Ok(Offered::Accepted)) => return Ok(()),
            Ok(Ok(Offered::Full)) => {
                let mailbox = mailbox.describe();
                return Err(HttpError::unavailable(format!(
                    "{mailbox} is full: messages come faster than they are delivered"
                )));
            }
            Ok(Err(away)) => {
                debug!(batch = batch.id, error = %away, "not handed over, trying on");
                last = Some(away);
            }
            Err(_) => break,
        }
        sleep(OFFER_PAUSE.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
    let late = || no_answer(mailbox, DEADLINE);
    Err(last.unwrap_or_else(late).into())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::tests::{Outcome as Offer, Scripted};
    use super::*;

    /// How an offer ends, after how long, and how often it was made.
    async fn offered(outcomes: Vec<Offer>) -> (Result<(), HttpError>, Duration, usize) {
        let mailbox = Scripted {
            outcomes: Mutex::new(outcomes),
            ..Scripted::default()
        };
        let batch = Batch {
            id: "b".to_owned(),
            messages: Vec::new(),
        };
        let start = Instant::now();
        let ended = offer(&mailbox, &batch, start + DEADLINE).await;
        let offers = mailbox.offered.lock().unwrap().len();
        (ended, start.elapsed(), offers)
    }

    #[tokio::test(start_paused = true)]
    async fn an_offer_that_hangs_or_fails_is_given_up_in_time() {
        let (hung, after, offers) = offered(vec![Offer::Hang]).await;
        assert_eq!(
            hung.unwrap_err().message(),
            "engine away: a scripted mailbox: no answer within 4.7s"
        );
        assert!(after < Duration::from_secs(5) && offers == 1, "{after:?}");

        let (failed, after, offers) = offered(vec![Offer::Fail; 1000]).await;
        assert_eq!(
            failed.unwrap_err().message(),
            "engine away: a scripted mailbox: connection refused"
        );
        assert!(after < Duration::from_secs(5) && offers > 10, "{after:?}");

        let (failed_then_hung, after, offers) = offered(vec![Offer::Hang, Offer::Fail]).await;
        assert_eq!(
            failed_then_hung.unwrap_err().message(),
            "engine away: a scripted mailbox: connection refused"
        );
        assert!(after < Duration::from_secs(5) && offers == 2, "{after:?}");
    }
}
