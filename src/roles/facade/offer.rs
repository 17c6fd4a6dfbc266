//! The offer stage: what is logged is put into the mailbox.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;
use uuid::Uuid;

use super::{DEADLINE, deliver};
use crate::engine::{Batch, Mailbox, Offered};
use crate::http::reply::HttpError;
use crate::message::Message;
use crate::roles::deadline::no_answer;

/// Pause before a batch is offered again.
const OFFER_PAUSE: Duration = Duration::from_millis(100);

/// A message that waits to be handed over.
pub(super) type Entry = crate::batch::Entry<Message, deliver::Outcome>;

/// Hands all of them over as one batch, and answers each.
pub(super) async fn many(mailbox: Arc<dyn Mailbox>, entries: Vec<Entry>) {
    let (messages, tickets): (Vec<_>, Vec<_>) = entries.into_iter().map(|entry| (entry.item, entry.ticket)).unzip();
    let Some(deadline) = tickets.iter().map(|ticket| ticket.deadline).max() else {
        return;
    };
    let batch = Batch {
        id: Uuid::now_v7().to_string(),
        messages,
    };
    let outcome = hand_over(&*mailbox, &batch, deadline).await;
    for ticket in tickets {
        ticket.answer(outcome.clone());
    }
}

/// Puts a batch into the mailbox. Where that fails, or it is not known whether it is in, it is put in again: it is
/// delivered under its id, once.
///
/// # Errors
///
/// 503 where the mailbox is full, or it could not be done by the deadline.
pub(super) async fn hand_over(mailbox: &dyn Mailbox, batch: &Batch, deadline: Instant) -> deliver::Outcome {
    offer(mailbox, batch, deadline).await?;
    for message in &batch.messages {
        debug!(
            identifier = message.identifier,
            batch = batch.id,
            mailbox = mailbox.describe(),
            queue = mailbox.object_name(),
            "handed over"
        );
    }
    Ok(())
}

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
            "engine away: a scripted mailbox: no answer within 4.5s"
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
