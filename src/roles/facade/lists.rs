//! `GET /messages`: all logs from one instance, all delivered messages from another, passed through as they come.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::Stream;
use hyper::{StatusCode, Uri};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::tries::{MOST_ERROR_BYTES, Service, Tries, Try, describe_answer};
use super::{DEADLINE, Parts};
use crate::discovery::{Outcome, Pick};
use crate::http::body::Broken;
use crate::http::client::{Call, CallError, Client, Opened};
use crate::http::reply::{self, HttpError, Reply};

/// How long a list may stop in the middle. An instance gives its engine 4.3 s for each part.
const STALL_LIMIT: Duration = Duration::from_secs(6);

/// How old the second list may be when its turn comes. An instance cuts off who takes nothing for 20 s.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// `[[log…],[message…]]`, in bounded memory. Both lists have begun before the status line leaves.
///
/// # Errors
///
/// 503 where one of the two lists cannot be had within [`DEADLINE`]; it says which.
pub(super) async fn all(parts: &Parts) -> Result<Reply, HttpError> {
    let logs = Source::new(&parts.client, &parts.logging, "/logs");
    let messages = Source::new(&parts.client, &parts.messages, "/messages");
    let (opened_logs, opened_messages) = tokio::try_join!(logs.open(), messages.open())?;
    Ok(reply::json_pieces(pair(opened_logs, messages, opened_messages)))
}

/// The two lists as one array. A list that breaks off breaks it off.
fn pair(mut logs: List, source: Source, mut messages: List) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
    async_stream::try_stream! {
        yield Bytes::from_static(b"[");
        while let Some(piece) = logs.next().await.inspect_err(log_broken)? {
            yield piece;
        }
        drop(logs);
        if messages.opened_at.elapsed() > STALE_AFTER {
            drop(messages);
            messages = source.open().await.inspect_err(log_broken)?;
        }
        yield Bytes::from_static(b",");
        while let Some(piece) = messages.next().await.inspect_err(log_broken)? {
            yield piece;
        }
        yield Bytes::from_static(b"]");
    }
}

fn log_broken(error: &impl std::fmt::Display) {
    warn!(%error, "an answer was broken off: one of its lists could not be read to the end");
}

/// Where a list can be had.
struct Source {
    client: Client,
    service: Service,
    path: &'static str,
}

impl Source {
    fn new(client: &Client, service: &Service, path: &'static str) -> Source {
        let (client, service) = (client.clone(), service.clone());
        Source { client, service, path }
    }

    /// The list from the first instance that begins to send it.
    async fn open(&self) -> Result<List, HttpError> {
        let mut tries = Tries::new(&self.service, Instant::now() + DEADLINE);
        loop {
            let at = tries.next().await?;
            debug!(instance = at.instance.id, path = self.path, "asking for a list");
            match self.open_at(at).await {
                Ok(list) => return Ok(list),
                Err(why) => tries.failed(why),
            }
        }
    }

    /// The list from this instance, or why it is not to be had from it.
    async fn open_at(&self, at: Try) -> Result<List, String> {
        let begun = self.begin(&at).await;
        at.ended(match &begun {
            Ok(_) => Ok(StatusCode::OK),
            Err(NotBegun::Answered(status, _)) => Ok(*status),
            Err(NotBegun::Call(error)) => Err(error),
        });
        match begun {
            Ok((body, first)) => Ok(List::new(at.instance, body, first)),
            Err(NotBegun::Answered(_, why)) => Err(why),
            Err(NotBegun::Call(error)) => Err(error.to_string()),
        }
    }

    /// Reads up to the first byte of the list.
    async fn begin(&self, at: &Try) -> Result<(Opened, Option<Bytes>), NotBegun> {
        let Try { instance, limit, .. } = at;
        let until = Instant::now() + *limit;
        let left = || until.saturating_duration_since(Instant::now());
        let mut call = Call::new(Bytes::new());
        *call.uri_mut() = Uri::from_static(self.path);
        let mut body = self.client.open(instance, call, *limit).await?;
        if body.status != StatusCode::OK {
            let answer = body.whole(left(), MOST_ERROR_BYTES).await?;
            return Err(NotBegun::Answered(answer.status, describe_answer(instance, &answer)));
        }
        loop {
            let piece = body.piece(left()).await?;
            match piece.as_deref().map(|piece| piece.trim_ascii_start().first()) {
                Some(Some(b'[')) => return Ok((body, piece)),
                // Nothing but space so far.
                Some(None) => {}
                _ => {
                    let why = format!("{}: its answer is no JSON array", instance.id);
                    return Err(NotBegun::Answered(StatusCode::BAD_GATEWAY, why));
                }
            }
        }
    }
}

/// Why an instance did not begin to send its list.
enum NotBegun {
    /// It answered with this status, or as if with it.
    Answered(StatusCode, String),
    Call(CallError),
}

impl From<CallError> for NotBegun {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// A list that has begun.
struct List {
    /// Counts as a request in flight there for as long as the list is read.
    instance: Pick,
    body: Opened,
    /// The first piece, until it is handed on.
    first: Option<Bytes>,
    /// The last byte that is no space.
    last_byte: u8,
    opened_at: Instant,
}

impl List {
    fn new(instance: Pick, body: Opened, first: Option<Bytes>) -> List {
        List {
            instance,
            body,
            first,
            last_byte: 0,
            opened_at: Instant::now(),
        }
    }

    /// The next piece, or `None` where the list is whole.
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let piece = match self.first.take() {
            Some(first) => Some(first),
            None => {
                let piece = self.body.piece(STALL_LIMIT).await;
                piece.inspect_err(|_| self.instance.report(Outcome::Failed))?
            }
        };
        match &piece {
            Some(piece) => self.last_byte = *piece.trim_ascii_end().last().unwrap_or(&self.last_byte),
            // Where a body ends with its connection, nothing else tells a whole one from a broken one.
            None if self.last_byte != b']' => {
                return Err(format!("{}: its list ends before its end", self.instance.id).into());
            }
            None => {}
        }
        Ok(piece)
    }
}
