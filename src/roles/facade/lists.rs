//! `GET /messages`: all logs from one instance, all delivered messages from another, passed through as they come.

use std::time::Duration;

use async_stream::try_stream;
use bytes::{Bytes, BytesMut};
use futures_util::stream::Stream;
use hyper::StatusCode;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::tries::{MOST_ERROR_BYTES, Service, Tries, Try, describe_answer};
use super::{DEADLINE, Parts};
use crate::discovery::{Outcome, Pick};
use crate::engine::PageRange;
use crate::http::body::Broken;
use crate::http::client::{Call, CallError, Client, Opened};
use crate::http::link;
use crate::http::reply::{self, HttpError, Reply};

/// How long a list may stop in the middle. An instance gives its engine 4.3 s for each part.
const STALL_LIMIT: Duration = Duration::from_secs(6);

/// How old the second list may be when its turn comes. An instance cuts off who takes nothing for 20 s.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// How long the first try for a page may take: an instance begins to answer when it has looked at all identifiers, twice where
/// others asked before.
const FIRST_PAGE_LIMIT: Duration = Duration::from_secs(3);

/// `[[log…],[message…]]`, in bounded memory. Both lists have begun before the status line leaves.
///
/// # Errors
///
/// 503 where one of the two lists cannot be had within [`DEADLINE`]; it says which.
pub(super) async fn all(parts: &Parts) -> Result<Reply, HttpError> {
    let logs = Source::new(&parts.client, &parts.logging, "/logs");
    let messages = Source::new(&parts.client, &parts.messages, "/messages");
    let (opened_logs, opened_messages) = tokio::try_join!(logs.open(), messages.open())?;
    let messages = async move { Ok(messages.fresh(opened_messages).await?.pieces()) };
    Ok(reply::json_pieces(pair(opened_logs.pieces(), messages)))
}

/// The two lists as one array, the second from when the first one is over. A list that breaks off breaks it off.
pub(super) fn pair(
    logs: impl Pieces,
    messages: impl Future<Output = Result<impl Pieces, Broken>> + Send,
) -> impl Pieces {
    try_stream! {
        yield Bytes::from_static(b"[");
        for await piece in logs {
            yield piece.inspect_err(log_broken)?;
        }
        yield Bytes::from_static(b",");
        for await piece in messages.await.inspect_err(log_broken)? {
            yield piece.inspect_err(log_broken)?;
        }
        yield Bytes::from_static(b"]");
    }
}

/// The bytes of an answer, or of a part of one.
pub(super) trait Pieces: Stream<Item = Result<Bytes, Broken>> + Send {}

impl<S: Stream<Item = Result<Bytes, Broken>> + Send> Pieces for S {}

fn log_broken(error: &Broken) {
    warn!(%error, "an answer was broken off: one of its lists could not be read to the end");
}

/// Where a list can be had, or a page of one.
pub(super) struct Source {
    client: Client,
    service: Service,
    /// Path and query.
    target: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    List,
    Page,
}

impl Source {
    fn new(client: &Client, service: &Service, path: &str) -> Source {
        Source {
            client: client.clone(),
            service: service.clone(),
            target: path.to_owned(),
            kind: Kind::List,
        }
    }

    /// Where a page of the list at `path` can be had.
    pub(super) fn page(client: &Client, service: &Service, path: &str, range: &PageRange) -> Source {
        Source {
            target: link::page(path, range.after.as_deref(), range.limit),
            kind: Kind::Page,
            ..Source::new(client, service, path)
        }
    }

    fn tries(&self) -> Tries<'_> {
        let tries = Tries::new(&self.service, Instant::now() + DEADLINE);
        match self.kind {
            Kind::List => tries,
            Kind::Page => tries.for_page(FIRST_PAGE_LIMIT),
        }
    }

    /// The list from the first instance that begins to send it.
    pub(super) async fn open(&self) -> Result<List, HttpError> {
        let mut tries = self.tries();
        loop {
            let at = tries.next().await?;
            debug!(instance = at.instance.id, target = self.target, "asking for a list");
            match self.open_at(at).await {
                Ok(list) => return Ok(list),
                Err(why) => tries.failed(why),
            }
        }
    }

    /// A list from here whose turn has come: this one, or where its instance may soon cut that off, the same from anew.
    pub(super) async fn fresh(&self, opened: List) -> Result<List, HttpError> {
        if opened.opened_at.elapsed() <= STALE_AFTER {
            return Ok(opened);
        }
        drop(opened);
        self.open().await
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
            Ok(begun) => Ok(List::new(at.instance, begun)),
            Err(NotBegun::Answered(_, why)) => Err(why),
            Err(NotBegun::Call(error)) => Err(error.to_string()),
        }
    }

    /// Reads as far as it takes to see that it is what was asked for.
    async fn begin(&self, at: &Try) -> Result<Begun, NotBegun> {
        let Try { instance, limit, .. } = at;
        let until = Instant::now() + *limit;
        let left = || until.saturating_duration_since(Instant::now());
        let not = |why: &str| NotBegun::Answered(StatusCode::BAD_GATEWAY, format!("{}: {why}", instance.id));
        let mut call = Call::new(Bytes::new());
        let target = self.target.parse().map_err(|_| not("what is asked for is no URI"))?;
        *call.uri_mut() = target;
        let mut body = self.client.open(instance, call, *limit).await?;
        if body.status != StatusCode::OK {
            let answer = body.whole(left(), MOST_ERROR_BYTES).await?;
            return Err(NotBegun::Answered(answer.status, describe_answer(instance, &answer)));
        }
        let next_page = match self.kind {
            Kind::List => None,
            Kind::Page => link::next(&body.headers).map_err(|why| not(&why.to_string()))?,
        };
        let mut first = BytesMut::new();
        loop {
            let piece = body.piece(left()).await?;
            first.extend_from_slice(piece.as_deref().unwrap_or_default());
            match begins_as(self.kind, &first) {
                Some(true) => break,
                None if piece.is_some() && first.len() <= MOST_ERROR_BYTES => {}
                _ => {
                    return Err(not(match self.kind {
                        Kind::List => "its answer is no JSON array",
                        Kind::Page => "its answer is no page of messages",
                    }));
                }
            }
        }
        Ok(Begun {
            body,
            first: first.freeze(),
            next_page,
        })
    }
}

/// Whether what begins so is what was asked for; `None` where that cannot be told yet. An instance that knows no pages answers
/// with the whole list, of texts.
fn begins_as(kind: Kind, first: &[u8]) -> Option<bool> {
    let mut bytes = first.iter().filter(|byte| !byte.is_ascii_whitespace());
    let is_array = *bytes.next()? == b'[';
    Some(match kind {
        Kind::Page if is_array => matches!(bytes.next()?, b'{' | b']'),
        _ => is_array,
    })
}

/// What an instance begins to send.
struct Begun {
    body: Opened,
    first: Bytes,
    next_page: Option<String>,
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

/// A list that has begun, or a page of one.
pub(super) struct List {
    /// Counts as a request in flight there for as long as the list is read.
    instance: Pick,
    body: Opened,
    /// The first piece, until it is handed on.
    first: Option<Bytes>,
    /// The last byte that is no space.
    last_byte: u8,
    opened_at: Instant,
    /// Of a page: after which identifier the next one begins, where there is one.
    pub(super) next_page: Option<String>,
}

impl List {
    fn new(instance: Pick, begun: Begun) -> List {
        List {
            instance,
            body: begun.body,
            first: Some(begun.first),
            last_byte: 0,
            opened_at: Instant::now(),
            next_page: begun.next_page,
        }
    }

    /// Piece by piece, to the end.
    fn pieces(mut self) -> impl Pieces {
        try_stream! {
            while let Some(piece) = self.next().await? {
                yield piece;
            }
        }
    }

    /// The next piece, or `None` where the list is whole.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
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
