//! Looks for every acknowledged text in both lists, until nothing is missing or the time is over.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::connection::{Caller, DEADLINE};
use crate::lists::{self, Shown};
use crate::options::{Facade, Options};
use crate::record::Ledger;
use crate::texts::Id;

/// How long it waits before it reads the lists again.
const PAUSE: Duration = Duration::from_millis(200);

/// How many of the texts that are missing or twice are named.
const MOST_NAMED: usize = 5;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) took: Duration,
    /// What the lists lack, or why they were never read to their end.
    pub(crate) outcome: Result<Faults, String>,
    /// Some of the texts that are not as they should be, in words.
    pub(crate) named: Vec<String>,
}

/// How many acknowledged texts are not as they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Faults {
    pub(crate) missing_from_logs: usize,
    pub(crate) missing_from_messages: usize,
    pub(crate) twice_in_logs: usize,
    pub(crate) twice_in_messages: usize,
}

impl Faults {
    fn of(shown: &Shown, ledger: &Ledger) -> Faults {
        Faults {
            missing_from_logs: shown.logs.missing(ledger).count(),
            missing_from_messages: shown.messages.missing(ledger).count(),
            twice_in_logs: shown.logs.twice(ledger).count(),
            twice_in_messages: shown.messages.twice(ledger).count(),
        }
    }

    fn is_complete(&self) -> bool {
        self.missing_from_logs == 0 && self.missing_from_messages == 0
    }
}

/// Reads the lists until they are complete or the time is over, at one facade after the other.
pub(crate) async fn verify(options: &Options, ledger: &Arc<Ledger>) -> Verified {
    let began = Instant::now();
    let deadline = began + options.verify_within;
    let mut last = None;
    let mut failure = None;
    for facade in options.verify_facades().iter().cycle() {
        match timeout_at(deadline, read(facade, ledger)).await {
            Ok(Ok(shown)) => {
                let is_complete = Faults::of(&shown, ledger).is_complete();
                last = Some(shown);
                if is_complete {
                    break;
                }
            }
            Ok(Err(reason)) => failure = Some(format!("{facade}: {reason}")),
            Err(_) => {
                let late = || {
                    format!(
                        "{facade} had not shown both lists when {:?} were over",
                        options.verify_within
                    )
                };
                failure.get_or_insert_with(late);
                break;
            }
        }
        if Instant::now() + PAUSE >= deadline {
            break;
        }
        sleep(PAUSE).await;
    }
    Verified {
        took: began.elapsed(),
        named: last.as_ref().map(|shown| name_some(shown, ledger)).unwrap_or_default(),
        outcome: last
            .map(|shown| Faults::of(&shown, ledger))
            .ok_or(failure.unwrap_or_default()),
    }
}

/// Which texts are missing or twice, a few of each.
fn name_some(shown: &Shown, ledger: &Ledger) -> Vec<String> {
    let name = |what: &'static str, ids: Vec<Id>| {
        let names = ids.into_iter().map(|id| ledger.texts.name(id));
        names.map(move |name| format!("{what}: {name}"))
    };
    let Shown { logs, messages } = shown;
    name("missing from the logs", logs.missing(ledger).take(MOST_NAMED).collect())
        .chain(name(
            "missing from the messages",
            messages.missing(ledger).take(MOST_NAMED).collect(),
        ))
        .chain(name("twice in the logs", logs.twice(ledger).take(MOST_NAMED).collect()))
        .chain(name(
            "twice in the messages",
            messages.twice(ledger).take(MOST_NAMED).collect(),
        ))
        .collect()
}

/// Reads both lists at one facade.
async fn read(facade: &Facade, ledger: &Arc<Ledger>) -> Result<Shown, String> {
    let late = |_| format!("the answer stood still for {DEADLINE:?}");
    let mut caller = Caller::new(facade.clone()).map_err(|error| error.to_string())?;
    let opened = timeout(DEADLINE, caller.lists()).await.map_err(late)?;
    let (mut body, _connection) = opened.map_err(|failure| failure.reason)?;

    let (pieces, received) = mpsc::channel(16);
    let ledger = ledger.clone();
    // Ends by itself when the pieces do.
    let lists = tokio::task::spawn_blocking(move || {
        let pieces = Pieces {
            received,
            piece: Bytes::new(),
        };
        lists::read(BufReader::new(pieces), &ledger)
    });
    while let Some(frame) = timeout(DEADLINE, body.frame()).await.map_err(late)? {
        let frame = frame.map_err(|error| format!("the answer broke off: {error}"))?;
        if let Ok(piece) = frame.into_data()
            && pieces.send(piece).await.is_err()
        {
            // It cannot be read further, and says why.
            break;
        }
    }
    drop(pieces);
    let lists = lists.await.map_err(|error| error.to_string())?;
    lists.map_err(|error| format!("the answer is not two lists of texts: {error}"))
}

/// A body that comes in pieces, for a thread that reads it as one.
struct Pieces {
    received: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.received.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        (&mut self.piece).reader().read(into)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use serde_json::json;

    use super::*;
    use crate::record::Record;
    use crate::scripted::{self, answer};
    use crate::texts::Texts;

    /// One acknowledged text, and itself.
    fn ledger() -> (Arc<Ledger>, String) {
        let texts = Texts::new(40);
        let text = texts.text(Id { client: 0, counter: 0 });
        let records = vec![Record {
            posts: vec![Some(NonZeroU32::MIN)],
            ..Record::default()
        }];
        (Arc::new(Ledger { texts, records }), text)
    }

    fn options(facade: &Facade, within: &str) -> Options {
        Options::of(["load", "--url", &facade.to_string(), "--verify-within", within]).unwrap()
    }

    #[tokio::test]
    async fn the_lists_are_read_again_until_nothing_is_missing() {
        let (ledger, text) = ledger();
        let complete = answer(200, &json!([[text], [text]]).to_string());
        let (broken_off, _) = complete.split_at(complete.len() - 1);
        let answers = [
            answer(503, "{}"),
            broken_off.to_owned(),
            answer(200, "{}"),
            answer(200, &json!([[text], []]).to_string()),
            complete,
        ];
        let (facade, requests) = scripted::facade(answers).await;
        let verified = verify(&options(&facade, "60s"), &ledger).await;
        assert_eq!(verified.outcome, Ok(Faults::default()));
        let requests = timeout(Duration::from_secs(10), requests).await.unwrap().unwrap();
        assert!(
            requests
                .iter()
                .all(|request| request.starts_with("GET /messages HTTP/1.1\r\n"))
        );
    }

    #[tokio::test]
    async fn the_last_lists_that_were_read_count_where_the_time_is_over() {
        let (ledger, text) = ledger();
        let (facade, _requests) = scripted::facade([answer(200, &json!([[text, text], []]).to_string())]).await;
        let verified = verify(&options(&facade, "1s"), &ledger).await;
        let faults = Faults {
            missing_from_messages: 1,
            twice_in_logs: 1,
            ..Faults::default()
        };
        assert_eq!(verified.outcome, Ok(faults));
        let name = ledger.texts.name(Id { client: 0, counter: 0 });
        let named = ["missing from the messages: ", "twice in the logs: "].map(|what| format!("{what}{name}"));
        assert_eq!(verified.named, named);
        assert!(verified.took < Duration::from_secs(10), "{:?}", verified.took);
    }

    #[tokio::test]
    async fn lists_that_cannot_be_read_are_no_verdict_but_a_reason() {
        let (ledger, _) = ledger();
        let (facade, _requests) = scripted::facade([answer(200, "[[]]")]).await;
        let verified = verify(&options(&facade, "100ms"), &ledger).await;
        let reason = verified.outcome.unwrap_err();
        assert!(
            reason.starts_with(&format!("{facade}: the answer is not two lists")),
            "{reason}"
        );
    }
}
